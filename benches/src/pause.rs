//! `laneway-bench pause`: what a `pause` between two looks does to those who spin.
//!
//! One cache line, messages one at a time and streams over lanes of this process, each by ends
//! that look again at once and by ends that pause. The ends look by themselves (`try_…`), so that
//! the library's own way to spin is not part of it.

use std::time::Duration;

use clap::Args;
use laneway_shm::{Consumer, PairOptions, Producer, Profile, ReserveError, pair};

use crate::error::BenchError;
use crate::interrupt::Interrupt;
use crate::machine::Machine;
use crate::message::{Idle, Read, Seen};
use crate::plan::Depths;
use crate::ports::{Inlet, Outlet};
use crate::probe::hand_over_by;
use crate::queue::{one_way, round_trips};
use crate::recorder::Latency;
use crate::trial::{Cost, Kind, Sheet, Trial, TrialArgs, Tried, Way, What};

/// Bytes of a message, also as a slot has them.
const BYTES: usize = 8;
const PAYLOAD: u32 = 8;

const EXAMPLES: &str = "\
Examples:
  laneway-bench pause                       a line, messages and streams, with it and without
  laneway-bench pause --cpus 0,1 --rounds 30
  laneway-bench pause --json > pause.json; laneway-bench report --input pause.json";

/// Measure what a `pause` does.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct PauseArgs {
    #[command(flatten)]
    pub(crate) trial: TrialArgs,
}

/// Measures and prints.
pub(crate) fn run(args: &PauseArgs) -> Result<(), BenchError> {
    let interrupt = Interrupt::new()?;
    let machine = Machine::read(args.trial.cpus)?;
    let cpus = machine.cpus;
    let trials = trials();
    let sheet =
        Sheet::measure(Kind::Pause, machine, &args.trial, &trials, &interrupt, |trial, time| {
            let cost = match trial.way {
                Way::Pause => measure::<true>(trial.what, cpus, time),
                _ => measure::<false>(trial.what, cpus, time),
            };
            cost.map(Tried::from)
        })?;
    sheet.print(&args.trial)
}

fn trials() -> Vec<Trial> {
    let things = [What::Line, What::Message, What::Stream];
    let ways = |what| [Way::NoPause, Way::Pause].map(|way| Trial::new(what, PAYLOAD, way));
    things.into_iter().flat_map(ways).collect()
}

fn measure<const PAUSE: bool>(
    what: What,
    cpus: (u32, u32),
    time: Duration,
) -> Result<Option<Cost>, BenchError> {
    let depths = Depths::of(BYTES)?;
    let cost = |latency: Latency| Cost { nanos: latency.typical_ns, p99_ns: Some(latency.p99_ns) };
    match what {
        What::Line => Ok(hand_over_by::<PAUSE>(cpus, time)?.map(cost)),
        What::Stream => {
            let ends = ends::<PAUSE>(depths.stream, Profile::Throughput)?;
            let found = one_way::<_, _, BYTES>(ends, Some(cpus), time, false)?.throughput;
            Ok(found.map(|found| Cost { nanos: 1e9 / found.rate(), p99_ns: None }))
        }
        _ => {
            let there = ends::<PAUSE>(depths.latency, Profile::Latency)?;
            let back = ends::<PAUSE>(depths.latency, Profile::Latency)?;
            let found = round_trips::<_, _, BYTES>(there, back, Some(cpus), time)?.latency;
            Ok(found.map(cost))
        }
    }
}

/// An end that looks by itself.
struct Looking<const PAUSE: bool, E>(E);

type Ends<const PAUSE: bool> = (Looking<PAUSE, Producer>, Looking<PAUSE, Consumer>);

fn ends<const PAUSE: bool>(slots: u32, profile: Profile) -> Result<Ends<PAUSE>, BenchError> {
    let options = PairOptions {
        slot_payload_bytes: PAYLOAD,
        slot_count: slots,
        profile,
        ..PairOptions::default()
    };
    let (producer, consumer) = pair(options)?;
    Ok((Looking(producer), Looking(consumer)))
}

/// What happens between two looks.
#[inline(always)]
fn rest<const PAUSE: bool>(idle: &mut Idle) -> Result<(), BenchError> {
    if PAUSE { idle.spin() } else { idle.turn() }
}

impl<const PAUSE: bool> Outlet<BYTES> for Looking<PAUSE, Producer> {
    #[inline(always)]
    fn put(&mut self, message: [u8; BYTES]) -> Result<(), BenchError> {
        let mut idle = Idle::default();
        loop {
            match self.0.try_send_array(message) {
                Err(ReserveError::Full { .. }) => rest::<PAUSE>(&mut idle)?,
                sent => return Ok(sent?),
            }
        }
    }
}

impl<const PAUSE: bool> Inlet<BYTES> for Looking<PAUSE, Consumer> {
    #[inline(always)]
    fn take(&mut self, expected: u64) -> Result<Seen, BenchError> {
        let mut idle = Idle::default();
        loop {
            if let Some(read) = self.0.try_recv_array(|bytes: [u8; BYTES]| Read::of(&bytes))? {
                return read.judge(BYTES, expected);
            }
            rest::<PAUSE>(&mut idle)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_that_pause_and_ends_that_do_not_pass_messages_in_order() {
        fn pass<const PAUSE: bool>() {
            let (mut outlet, mut inlet) = ends::<PAUSE>(4, Profile::Latency).unwrap();
            std::thread::scope(|scope| {
                scope.spawn(move || {
                    for number in 1..=20u64 {
                        outlet.put(crate::message::Small::<BYTES>::make(number)).unwrap();
                    }
                    outlet
                });
                for number in 1..=20 {
                    assert_eq!(inlet.take(number).unwrap(), Seen::Message);
                }
            });
        }
        pass::<true>();
        pass::<false>();
    }
}
