//! The same dialogue over a pair of lanes, which choose the copy themselves; the reader trusts its
//! writer and reads in place, as the others do.

use std::time::Duration;

use laneway_shm::{Consumer, PairOptions, Producer, pair};

use crate::error::BenchError;
use crate::message::{PATIENCE, STOP, Seen, fill, judge};
use crate::probe::{joined, pin};
use crate::recorder::Recorder;
use crate::trial::Cost;
use crate::trusted::trust;

/// Slots of each lane: a producer looks at its reader's cursor once in so many messages.
const SLOTS: u32 = 4;

/// Half a round trip of a payload that is sent and read in place.
pub(super) fn hand_over(
    bytes: u32,
    cpus: (u32, u32),
    time: Duration,
) -> Result<Option<Cost>, BenchError> {
    let options =
        || PairOptions { slot_payload_bytes: bytes, slot_count: SLOTS, ..PairOptions::default() };
    let (ping, pinged) = pair(options())?;
    let (pong, ponged) = pair(options())?;
    let bytes = bytes as usize;
    std::thread::scope(|scope| {
        let responding = scope.spawn(move || respond(bytes, cpus.1, pinged, pong));
        let initiating = scope.spawn(move || initiate(bytes, (cpus.0, time), ping, ponged));
        let cost = joined(initiating.join());
        joined(responding.join())?;
        cost
    })
}

#[inline(never)]
fn initiate(
    bytes: usize,
    (cpu, time): (u32, Duration),
    mut ping: Producer,
    pong: Consumer,
) -> Result<Option<Cost>, BenchError> {
    let _pinned = pin(cpu)?;
    let (mut private, mut pong) = (vec![0; bytes], trust(pong));
    let mut recorder = Recorder::new(time);
    let mut number = 0;
    loop {
        number += 1;
        fill(&mut private, number);
        ping.send(&private, PATIENCE)?;
        let go_on = recorder.stamp();
        let slot = pong.recv(PATIENCE)?;
        judge(slot.as_bytes().unwrap_or_default(), bytes, number)?;
        drop(slot);
        if !go_on {
            fill(&mut private, STOP);
            ping.send(&private, PATIENCE)?;
            return Ok(recorder
                .finish()
                .map(|latency| Cost { nanos: latency.typical_ns, p99_ns: Some(latency.p99_ns) }));
        }
    }
}

#[inline(never)]
fn respond(bytes: usize, cpu: u32, pinged: Consumer, mut pong: Producer) -> Result<(), BenchError> {
    let _pinned = pin(cpu)?;
    let (mut private, mut pinged) = (vec![0; bytes], trust(pinged));
    let mut number = 0;
    loop {
        number += 1;
        let slot = pinged.recv(PATIENCE)?;
        if judge(slot.as_bytes().unwrap_or_default(), bytes, number)? == Seen::Stop {
            return Ok(());
        }
        drop(slot);
        fill(&mut private, number);
        pong.send(&private, PATIENCE)?;
    }
}
