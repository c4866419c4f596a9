//! `laneway-bench copies`: what a copy out of a lane costs beside `memcpy`, what a message costs
//! that is looked at and not copied, and which way a large payload goes best from one core to
//! another.
//!
//! The hand-over is between two threads that pass two buffers to and fro, one for each way, by
//! value over a queue: whose turn it is owns both. So a method is measured without a ring's rules;
//! a lane stands beside them, to see whether it chose well.

mod alone;
mod lane;

use std::time::Duration;

use clap::Args;
use rtrb::{Consumer, Producer, RingBuffer};

use crate::error::BenchError;
use crate::interrupt::Interrupt;
use crate::machine::Machine;
use crate::message::{Idle, STOP, Seen, fill, judge};
use crate::probe::{joined, pin};
use crate::recorder::Recorder;
use crate::stores;
use crate::trial::{Cost, Kind, Sheet, Trial, TrialArgs, Tried, Way, What};

/// Sizes that are copied out, in bytes.
const OUT: [u32; 9] = [64, 128, 256, 512, 1024, 2048, 4096, 16_384, 65_536];
/// Sizes that are looked at, in bytes.
const LOOKED_AT: [u32; 4] = [1024, 4096, 16_384, 65_536];
/// Ways to look at a message; the first is the reader in place.
const LOOKS: [Way; 4] = [Way::InPlace, Way::Copied, Way::Pieces, Way::Lines];
/// Sizes that are handed over, in bytes.
const OVER: [u32; 4] = [4096, 16_384, 65_536, 1 << 20];
/// Ways to hand over, but for a lane.
const WAYS: [Way; 5] =
    [Way::Memcpy, Way::RepMovsb, Way::NonTemporal, Way::InPlace, Way::WrittenBack];

const EXAMPLES: &str = "\
Examples:
  laneway-bench copies                      copied out, looked at, and handed over by each method
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
            let cost = match (trial.what, trial.way) {
                (What::CopyOut, _) => alone::copied_out(trial, cpus.0, time)?,
                (What::LookedAt, _) => alone::looked_at(trial, cpus.0, time)?,
                (_, Way::Lane) => lane::hand_over(trial.bytes, cpus, time)?,
                (_, way) => {
                    let Some(writing) = Writing::by(way) else {
                        let why = "this processor has no such instruction".to_owned();
                        return Ok(Tried::Absent(why));
                    };
                    hand_over(writing, trial.bytes as usize, cpus, time)?
                }
            };
            Ok(cost.into())
        })?;
    sheet.print(&args.trial)
}

fn trials() -> Vec<Trial> {
    let out = OUT.into_iter().flat_map(|bytes| {
        [Way::Memcpy, Way::Lane].map(|way| Trial::new(What::CopyOut, bytes, way))
    });
    let looked = LOOKED_AT
        .into_iter()
        .flat_map(|bytes| LOOKS.map(|way| Trial::new(What::LookedAt, bytes, way)));
    let over = OVER.into_iter().flat_map(|bytes| {
        let ways = WAYS.into_iter().chain([Way::Lane]);
        ways.map(move |way| Trial::new(What::HandOver, bytes, way))
    });
    out.chain(looked).chain(over).collect()
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
}
