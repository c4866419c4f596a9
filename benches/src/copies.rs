//! `laneway-bench copies`: what a copy out of a lane costs beside `memcpy`, and which way a large
//! payload goes best from one core to another.
//!
//! The hand-over is between two threads that pass two buffers to and fro, one for each way, by
//! value over a queue: whose turn it is owns both. So a method is measured without a ring's rules;
//! a lane stands beside them, to see whether it chose well.

mod lane;

use std::hint::black_box;
use std::ops::Range;
use std::time::{Duration, Instant};

use clap::Args;
use laneway_shm::{PairOptions, pair};
use rtrb::{Consumer, Producer, RingBuffer};

use crate::error::BenchError;
use crate::interrupt::Interrupt;
use crate::machine::Machine;
use crate::message::{Idle, PATIENCE, STOP, Seen, fill, judge};
use crate::probe::{joined, pin};
use crate::recorder::{Recorder, median};
use crate::stores;
use crate::trial::{Cost, Kind, Sheet, Trial, TrialArgs, Tried, Way, What};

/// Sizes that are copied out, in bytes.
const OUT: [u32; 9] = [64, 128, 256, 512, 1024, 2048, 4096, 16_384, 65_536];
/// Sizes that are handed over, in bytes.
const OVER: [u32; 4] = [4096, 16_384, 65_536, 1 << 20];
/// Ways to hand over, but for a lane.
const WAYS: [Way; 5] =
    [Way::Memcpy, Way::RepMovsb, Way::NonTemporal, Way::InPlace, Way::WrittenBack];
/// Bytes copied between two looks at the clock.
const CHUNK: usize = 1 << 20;
/// Where a message lies in its first line: behind its commit word, in bytes.
const OFFSET: usize = 8;

const EXAMPLES: &str = "\
Examples:
  laneway-bench copies                      out of a lane, and 4 KiB to 1 MiB by each method
  laneway-bench copies --quick              a first look
  laneway-bench copies --json > copies.json; laneway-bench report --input copies.json";

/// Measure copies.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct CopiesArgs {
    #[command(flatten)]
    pub(crate) trial: TrialArgs,
}

/// Measures and prints.
pub(crate) fn run(args: &CopiesArgs) -> Result<(), BenchError> {
    let interrupt = Interrupt::new()?;
    let machine = Machine::read(args.trial.cpus)?;
    let cpus = machine.cpus;
    let trials = trials();
    let sheet =
        Sheet::measure(Kind::Copies, machine, &args.trial, &trials, &interrupt, |trial, time| {
            if trial.what == What::CopyOut {
                return copied_out(trial, cpus.0, time).map(Tried::from);
            }
            if trial.way == Way::Lane {
                return lane::hand_over(trial.bytes, cpus, time).map(Tried::from);
            }
            match Writing::by(trial.way) {
                Some(writing) => {
                    hand_over(writing, trial.bytes as usize, cpus, time).map(Tried::from)
                }
                None => Ok(Tried::Absent("this processor has no such instruction".to_owned())),
            }
        })?;
    sheet.print(&args.trial)
}

fn trials() -> Vec<Trial> {
    let out = OUT.into_iter().flat_map(|bytes| {
        [Way::Memcpy, Way::Lane].map(|way| Trial::new(What::CopyOut, bytes, way))
    });
    let over = OVER.into_iter().flat_map(|bytes| {
        let ways = WAYS.into_iter().chain([Way::Lane]);
        ways.map(move |way| Trial::new(What::HandOver, bytes, way))
    });
    out.chain(over).collect()
}

/// `bytes` bytes that start `offset` bytes into a line, and where.
fn placed(bytes: usize, offset: usize) -> (Vec<u8>, Range<usize>) {
    let memory = vec![7; bytes + 128];
    let start = memory.as_ptr().align_offset(64) + offset;
    (memory, start..start + bytes)
}

/// One core copies a message that stays where it is, again and again.
fn copied_out(trial: Trial, cpu: u32, time: Duration) -> Result<Option<Cost>, BenchError> {
    let bytes = trial.bytes as usize;
    let copying = || {
        let _pinned = pin(cpu)?;
        let (mut memory, target) = placed(bytes, 0);
        let target = memory.get_mut(target).unwrap_or_default();
        if trial.way == Way::Memcpy {
            let (source, place) = placed(bytes, OFFSET);
            let source = source.get(place).unwrap_or_default();
            let copy = || black_box(&mut *target).copy_from_slice(black_box(source));
            return Ok(repeated(bytes, time, copy));
        }
        let options =
            PairOptions { slot_payload_bytes: trial.bytes, slot_count: 2, ..Default::default() };
        let (mut producer, mut consumer) = pair(options)?;
        producer.send(target, PATIENCE)?;
        let slot = consumer.recv(PATIENCE)?;
        Ok(repeated(bytes, time, || {
            black_box(slot.copy_to(black_box(&mut *target)));
        }))
    };
    joined(std::thread::scope(|scope| scope.spawn(copying).join()))
}

/// What one of many calls takes: the median of the means of as many as copy a chunk.
fn repeated(bytes: usize, time: Duration, mut copy: impl FnMut()) -> Option<Cost> {
    let calls = u32::try_from(CHUNK / bytes.max(1)).unwrap_or(u32::MAX).clamp(8, 4096);
    let mut costs = Vec::new();
    let start = Instant::now();
    loop {
        let before = Instant::now();
        for _ in 0..calls {
            copy();
        }
        costs.push(before.elapsed().as_secs_f64() * 1e9 / f64::from(calls));
        if start.elapsed() >= time {
            return median(&mut costs).map(|nanos| Cost { nanos, p99_ns: None });
        }
    }
}

/// How a payload comes into the buffer that is handed over.
#[derive(Clone, Copy)]
enum Writing {
    /// Made in private memory, then copied.
    Copied(stores::Copy),
    /// Made there.
    InPlace,
    /// Made there, then written back.
    WrittenBack(fn(&[u8])),
}

impl Writing {
    /// None where the processor cannot.
    fn by(way: Way) -> Option<Self> {
        match way {
            Way::RepMovsb => stores::rep_movsb().map(Self::Copied),
            Way::NonTemporal => stores::non_temporal().map(Self::Copied),
            Way::InPlace => Some(Self::InPlace),
            Way::WrittenBack => stores::write_back().map(Self::WrittenBack),
            _ => Some(Self::Copied(|target, source| target.copy_from_slice(source))),
        }
    }

    fn write(self, private: &mut [u8], target: &mut [u8], number: u64) {
        match self {
            Self::Copied(copy) => {
                fill(private, number);
                copy(target, private);
            }
            Self::InPlace => fill(target, number),
            Self::WrittenBack(write_back) => {
                fill(target, number);
                write_back(target);
            }
        }
    }
}

/// Both buffers, which travel together.
struct Parcel {
    there: Vec<u8>,
    back: Vec<u8>,
}

/// Half a round trip of a payload that is written by one side and read by the other.
fn hand_over(
    writing: Writing,
    bytes: usize,
    cpus: (u32, u32),
    time: Duration,
) -> Result<Option<Cost>, BenchError> {
    let (ping, pinged) = RingBuffer::new(1);
    let (pong, ponged) = RingBuffer::new(1);
    let latency = std::thread::scope(|scope| {
        let responding = scope.spawn(move || respond(writing, bytes, cpus.1, pinged, pong));
        let initiating =
            scope.spawn(move || initiate(writing, bytes, (cpus.0, time), ping, ponged));
        let latency = joined(initiating.join());
        joined(responding.join())?;
        latency
    })?;
    Ok(latency.map(|(typical, p99)| Cost { nanos: typical, p99_ns: Some(p99) }))
}

#[inline(never)]
fn initiate(
    writing: Writing,
    bytes: usize,
    (cpu, time): (u32, Duration),
    mut ping: Producer<Parcel>,
    mut pong: Consumer<Parcel>,
) -> Result<Option<(f64, f64)>, BenchError> {
    let _pinned = pin(cpu)?;
    let mut private = vec![0; bytes];
    let mut parcel = Parcel { there: vec![0; bytes], back: vec![0; bytes] };
    let mut recorder = Recorder::new(time);
    let mut number = 0;
    loop {
        number += 1;
        writing.write(&mut private, &mut parcel.there, number);
        give(&mut ping, parcel)?;
        let go_on = recorder.stamp();
        parcel = take(&mut pong)?;
        judge(&parcel.back, bytes, number)?;
        if !go_on {
            fill(&mut parcel.there, STOP);
            give(&mut ping, parcel)?;
            return Ok(recorder.finish().map(|latency| (latency.typical_ns, latency.p99_ns)));
        }
    }
}

#[inline(never)]
fn respond(
    writing: Writing,
    bytes: usize,
    cpu: u32,
    mut ping: Consumer<Parcel>,
    mut pong: Producer<Parcel>,
) -> Result<(), BenchError> {
    let _pinned = pin(cpu)?;
    let mut private = vec![0; bytes];
    let mut number = 0;
    loop {
        number += 1;
        let mut parcel = take(&mut ping)?;
        if judge(&parcel.there, bytes, number)? == Seen::Stop {
            return Ok(());
        }
        writing.write(&mut private, &mut parcel.back, number);
        give(&mut pong, parcel)?;
    }
}

/// There is room: one parcel travels.
fn give(queue: &mut Producer<Parcel>, parcel: Parcel) -> Result<(), BenchError> {
    queue.push(parcel).map_err(|_| BenchError::Peer(Duration::ZERO))
}

fn take(queue: &mut Consumer<Parcel>) -> Result<Parcel, BenchError> {
    let mut idle = Idle::default();
    loop {
        match queue.pop() {
            Ok(parcel) => return Ok(parcel),
            // The other side has ended: its last parcel is there by now, or it has failed.
            Err(_) if queue.is_abandoned() => {
                return queue.pop().map_err(|_| BenchError::Peer(Duration::ZERO));
            }
            Err(_) => idle.spin()?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_whole_whichever_way_it_is_written() {
        for way in WAYS {
            let Some(writing) = Writing::by(way) else {
                println!("SKIPPED: this processor cannot: {way:?}");
                continue;
            };
            let (mut private, mut target) = (vec![0; 1000], vec![0; 1000]);
            for number in [1, 300] {
                writing.write(&mut private, &mut target, number);
                assert_eq!(judge(&target, 1000, number).unwrap(), Seen::Message, "{way:?}");
            }
        }
    }

    #[test]
    fn every_way_is_held_against_another_that_is_there() {
        let trials = trials();
        for trial in &trials {
            assert!(trial.base().is_none_or(|base| trials.contains(&base)), "{trial:?}");
        }
    }

    #[test]
    fn memory_starts_where_a_message_would() {
        let (memory, place) = placed(100, OFFSET);
        assert_eq!(memory[place.clone()].as_ptr().align_offset(64), 64 - OFFSET);
        assert_eq!(place.len(), 100);
    }
}
