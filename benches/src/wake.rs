//! `laneway-bench wake`: what it costs that an end sleeps, and what it costs that it might.
//!
//! Two pinned threads: one sends at long intervals and never sleeps itself, the other one spins
//! for a while, as lanes do, and then sleeps. Lanes and a bare futex take turns. A message counts
//! only if its reader really slept: the kernel counts that. The futex is of the kind that works
//! between processes, as that of lanes is.

use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use hdrhistogram::Histogram;
use laneway_shm::{Attach, Consumer, Producer};
use nix::sys::resource::{UsageWho, getrusage};
use rustix::io::Errno;
use rustix::thread::futex;
use rustix::time::Timespec;

use crate::agent::{Agent, Lane};
use crate::error::BenchError;
use crate::interrupt::Interrupt;
use crate::machine::Machine;
use crate::message::{PATIENCE, STOP, Small};
use crate::plan::Depths;
use crate::probe::{joined, pin};
use crate::queue::by_value;
use crate::stream;
use crate::trial::{Cost, Kind, Sheet, Trial, TrialArgs, Tried, Way, What};

/// Sizes of the messages that are published, in bytes.
const SIZES: [u32; 2] = [8, 64];
/// Looks of the futex's reader before it sleeps: as many as a lane's.
const LOOKS: u32 = 2048;
/// Huge pages of 2 MiB that the four streams want.
const PAGES: &str = "2MiB=14";
/// Longest wake-up that is told apart from longer ones, in ns.
const LONGEST_NS: u64 = 1_000_000_000;

const EXAMPLES: &str = "\
Examples:
  laneway-bench wake                        readers asleep for 0.2 and 2 ms, and streams
  laneway-bench wake --gaps 500 --quick     one interval, a first look
  laneway-bench wake --json > wake.json; laneway-bench report --input wake.json";

/// Measure what sleeping costs.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct WakeArgs {
    #[command(flatten)]
    pub(crate) trial: TrialArgs,
    /// Time between two messages, in us: a reader spins for some 50 of them first
    #[arg(long, value_name = "US,...", value_delimiter = ',', default_values_t = [200, 2000],
        value_parser = clap::value_parser!(u32).range(150..=1_000_000))]
    pub(crate) gaps: Vec<u32>,
}

/// Measures and prints.
pub(crate) fn run(args: &WakeArgs) -> Result<(), BenchError> {
    let interrupt = Interrupt::new()?;
    let machine = Machine::read(args.trial.cpus)?;
    let cpus = machine.cpus;
    let mut agent = Agent::with_pages(Some(PAGES), &interrupt)?;
    let mut stage = Stage::set(&mut agent)?;
    let trials = trials(&args.gaps);
    let sheet =
        Sheet::measure(Kind::Wake, machine, &args.trial, &trials, &interrupt, |trial, time| {
            stage.measure(trial, cpus, time).map(Tried::from)
        })?;
    sheet.print(&args.trial)
}

fn trials(gaps: &[u32]) -> Vec<Trial> {
    let mut trials = Vec::new();
    for &gap_us in gaps {
        for way in [Way::Futex, Way::Lane] {
            trials.push(Trial { gap_us, ..Trial::new(What::WakeUp, 8, way) });
        }
    }
    for bytes in SIZES {
        trials.extend([Way::Spin, Way::Park].map(|way| Trial::new(What::Publish, bytes, way)));
    }
    trials.sort();
    trials.dedup();
    trials
}

/// Both ends of a lane, for two threads of this process.
#[derive(Debug)]
struct Ends {
    producer: Producer,
    consumer: Consumer,
}

impl Ends {
    fn attach(socket: &Path, lane: &Lane) -> Result<Self, BenchError> {
        let with = |ticket: &str| Attach::with_ticket(socket, ticket).map(|end| end.pin(false));
        let mut producer = with(&lane.producer)?.producer()?;
        let mut consumer = with(&lane.consumer)?.consumer()?;
        // Whatever the ends must learn of each other, they learn now.
        producer.send(b"hello", PATIENCE)?;
        consumer.recv(PATIENCE)?.release();
        producer.maintain()?;
        Ok(Self { producer, consumer })
    }
}

/// The lanes: one whose reader sleeps, and the streams by their way to wait and their size.
#[derive(Debug)]
struct Stage {
    sleeping: Ends,
    streams: Vec<(Way, u32, Ends)>,
}

impl Stage {
    fn set(agent: &mut Agent) -> Result<Self, BenchError> {
        let socket = agent.attach_socket();
        let slept = agent.make(64, &["--slot-size", "56", "--slots", "64", "--wait", "park"])?;
        let sleeping = Ends::attach(&socket, &slept)?;
        let mut streams = Vec::new();
        for bytes in SIZES {
            let depth = Depths::of(bytes as usize)?.stream;
            let (size, slots) = (bytes.to_string(), depth.to_string());
            for (way, wait) in [(Way::Spin, "spin"), (Way::Park, "park")] {
                let flags = ["--slot-size", &size, "--slots", &slots, "--wait", wait];
                let flags = [&flags[..], &["--profile", "throughput"]].concat();
                let lane = agent.make(depth, &flags)?;
                streams.push((way, bytes, Ends::attach(&socket, &lane)?));
            }
        }
        Ok(Self { sleeping, streams })
    }

    fn measure(
        &mut self,
        trial: Trial,
        cpus: (u32, u32),
        time: Duration,
    ) -> Result<Option<Cost>, BenchError> {
        let gap = Duration::from_micros(u64::from(trial.gap_us));
        if trial.what == What::WakeUp {
            return if trial.way == Way::Lane {
                let Ends { producer, consumer } = &mut self.sleeping;
                wake_ups(producer, consumer, cpus, gap, time)
            } else {
                let word = Word::default();
                wake_ups(&mut Ringing(&word), &mut Sleeping::at(&word), cpus, gap, time)
            };
        }
        let mut streams = self.streams.iter_mut();
        let found = streams.find(|(way, bytes, _)| (*way, *bytes) == (trial.way, trial.bytes));
        let Some((_, _, ends)) = found else { return Ok(None) };
        by_value!(trial.bytes, [8, 64],
            N => publish::<N>(ends, cpus, time),
            else Ok(None))
    }
}

/// The end that sends a number.
trait Rings: Send {
    fn ring(&mut self, number: u64) -> Result<(), BenchError>;
}

/// The end that waits for it, asleep.
trait Sleeps: Send {
    fn sleep(&mut self) -> Result<u64, BenchError>;
}

impl Rings for Producer {
    fn ring(&mut self, number: u64) -> Result<(), BenchError> {
        Ok(self.send_array(number.to_le_bytes(), PATIENCE)?)
    }
}

impl Sleeps for Consumer {
    fn sleep(&mut self) -> Result<u64, BenchError> {
        Ok(self.recv_array(PATIENCE, u64::from_le_bytes)?)
    }
}

/// A number, and the futex that tells of it.
#[derive(Debug, Default)]
struct Word {
    count: AtomicU32,
    number: AtomicU64,
}

struct Ringing<'a>(&'a Word);

impl Rings for Ringing<'_> {
    fn ring(&mut self, number: u64) -> Result<(), BenchError> {
        self.0.number.store(number, Ordering::Relaxed);
        self.0.count.fetch_add(1, Ordering::Release);
        let woken = futex::wake(&self.0.count, futex::Flags::empty(), 1);
        woken.map(|_| ()).map_err(BenchError::io("FUTEX_WAKE"))
    }
}

struct Sleeping<'a> {
    word: &'a Word,
    seen: u32,
}

impl<'a> Sleeping<'a> {
    fn at(word: &'a Word) -> Self {
        Self { word, seen: 0 }
    }
}

impl Sleeps for Sleeping<'_> {
    fn sleep(&mut self) -> Result<u64, BenchError> {
        let Word { count, number } = self.word;
        let patience = Timespec { tv_sec: PATIENCE.as_secs().cast_signed(), tv_nsec: 0 };
        let mut looks = 0;
        while count.load(Ordering::Acquire) == self.seen {
            looks += 1;
            if looks < LOOKS {
                std::hint::spin_loop();
                continue;
            }
            match futex::wait(count, futex::Flags::empty(), self.seen, Some(&patience)) {
                Ok(()) | Err(Errno::AGAIN | Errno::INTR) => {}
                Err(Errno::TIMEDOUT) => return Err(BenchError::Peer(PATIENCE)),
                Err(error) => return Err(BenchError::io("FUTEX_WAIT")(error)),
            }
        }
        self.seen = self.seen.wrapping_add(1);
        Ok(number.load(Ordering::Relaxed))
    }
}

/// Wakes the reader again and again, after it was left alone for `gap`.
fn wake_ups(
    rings: &mut impl Rings,
    sleeps: &mut impl Sleeps,
    cpus: (u32, u32),
    gap: Duration,
    time: Duration,
) -> Result<Option<Cost>, BenchError> {
    let start = Instant::now();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let _pinned = pin(cpus.1)?;
            read(sleeps, start, time)
        });
        let sender = scope.spawn(|| {
            let rung = pin(cpus.0).and_then(|_pinned| ring_on(rings, start, gap, time));
            // Whatever happened, the reader must not wait for ever.
            let stopped = rings.ring(STOP);
            rung.and(stopped)
        });
        let rung = joined(sender.join());
        let found = joined(reader.join());
        rung.and(found)
    })
}

fn ring_on(
    rings: &mut impl Rings,
    start: Instant,
    gap: Duration,
    time: Duration,
) -> Result<(), BenchError> {
    loop {
        let last = Instant::now();
        while last.elapsed() < gap {
            std::hint::spin_loop();
        }
        let sent = start.elapsed();
        if sent >= time {
            return Ok(());
        }
        rings.ring(nanos(sent))?;
    }
}

fn read(
    sleeps: &mut impl Sleeps,
    start: Instant,
    time: Duration,
) -> Result<Option<Cost>, BenchError> {
    let Ok(mut found) = Histogram::<u64>::new_with_bounds(1, LONGEST_NS, 3) else {
        unreachable!("constants: 1 < LONGEST_NS / 2, and 3 digits of at most 5");
    };
    loop {
        let before = sleeps_so_far()?;
        let sent = sleeps.sleep()?;
        let received = nanos(start.elapsed());
        if sent == STOP {
            break;
        }
        let warm = sent >= nanos(time) / 10;
        if warm && sleeps_so_far()? > before {
            found.saturating_record(received.saturating_sub(sent));
        }
    }
    let at = |quantile| found.value_at_quantile(quantile) as f64;
    Ok((!found.is_empty()).then(|| Cost { nanos: at(0.5), p99_ns: Some(at(0.99)) }))
}

/// How often the calling thread has slept.
fn sleeps_so_far() -> Result<i64, BenchError> {
    let usage = getrusage(UsageWho::RUSAGE_THREAD).map_err(BenchError::io("getrusage"))?;
    Ok(usage.voluntary_context_switches())
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(STOP - 1)
}

/// A stream between two threads: what a message took.
fn publish<const N: usize>(
    ends: &mut Ends,
    cpus: (u32, u32),
    time: Duration,
) -> Result<Option<Cost>, BenchError> {
    let Ends { producer, consumer } = ends;
    let throughput = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let _pinned = pin(cpus.1)?;
            stream::consume(&mut Small::<N>, consumer, time, N)
        });
        let sender = scope.spawn(|| {
            let _pinned = pin(cpus.0)?;
            stream::produce(&mut Small::<N>, producer, time, N)
        });
        let sent = joined(sender.join());
        let found = joined(reader.join());
        sent.and(found)
    })?;
    Ok(throughput.map(|found| Cost { nanos: 1e9 / found.rate(), p99_ns: None }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_futex_hands_every_number_to_a_reader_that_sleeps() {
        let word = Word::default();
        let mut sleeping = Sleeping::at(&word);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| [sleeping.sleep().unwrap(), sleeping.sleep().unwrap()]);
            let mut ringing = Ringing(&word);
            std::thread::sleep(Duration::from_millis(20));
            ringing.ring(7).unwrap();
            std::thread::sleep(Duration::from_millis(20));
            ringing.ring(8).unwrap();
            // On a busy machine the reader may see the second number only.
            assert!(matches!(reader.join().unwrap(), [7 | 8, 8]));
        });
    }

    #[test]
    fn every_way_is_held_against_another_that_is_there() {
        let trials = trials(&[200, 200, 500]);
        assert_eq!(trials.len(), 8);
        for trial in &trials {
            assert!(trial.base().is_none_or(|base| trials.contains(&base)), "{trial:?}");
        }
    }
}
