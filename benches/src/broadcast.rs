//! `laneway-bench broadcast`: what one message costs its producer, whatever the number of readers.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget};
use laneway_shm::{Attach, Consumer, Producer};
use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};

use crate::agent::{Agent, Lane};
use crate::class::{Class, keep_commonest};
use crate::cli::{BroadcastArgs, PolicyArg};
use crate::crowd::{BYTES, CrowdOrder, CrowdSetup};
use crate::document::Marked;
use crate::error::BenchError;
use crate::grid::Grid;
use crate::interrupt::Interrupt;
use crate::machine::Machine;
use crate::message::{PATIENCE, STOP, Small};
use crate::output;
use crate::plot::{Axis, Chart, Series};
use crate::probe::{hand_over, pin};
use crate::recorder::median;
use crate::task::Side;
use crate::workers::Worker;

/// Slots of each lane.
const SLOTS: u32 = 16384;
/// Messages of a burst: readers that are a burst behind hold nobody.
const BURST: u64 = 2048;
/// Time of a hand-over probe.
const PROBE: Duration = Duration::from_millis(10);
/// Most that a message to 64 readers may cost more than one to a single reader.
const FLAT_WITHIN: f64 = 1.15;

/// Everything that was found out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    machine: Machine,
    pub(crate) policy: PolicyArg,
    rounds: u32,
    seconds: f64,
    burst_messages: u64,
    slots: u32,
    page_bytes: u64,
    rows: Vec<Row>,
}

/// One number of readers in one class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Row {
    class: Class,
    readers: u32,
    rounds: usize,
    /// Cost of a message while the readers are reading, in ns.
    reading_ns: Option<f64>,
    /// The same over that of the fewest readers in the same round.
    reading_times: Option<f64>,
    /// Cost of a message while they leave the lane alone, in ns.
    quiet_ns: Option<f64>,
    quiet_times: Option<f64>,
    /// Messages that readers took in a second, all together, waits included.
    delivered_per_s: Option<f64>,
}

/// One measurement.
#[derive(Clone, Copy, Debug)]
struct Sample {
    round: u32,
    class: Class,
    readers: u32,
    quiet: bool,
    cost_ns: f64,
    delivered_per_s: f64,
}

/// Measures and prints.
pub(crate) fn run(args: &BroadcastArgs) -> Result<(), BenchError> {
    let interrupt = Interrupt::new()?;
    let report = measure(args, &interrupt)?;
    if args.json {
        let text = serde_json::to_string_pretty(&Marked::new("broadcast", &report))
            .map_err(BenchError::json("the report"))?;
        output::print(&text)
    } else {
        output::print(&text(&report))
    }
}

fn measure(args: &BroadcastArgs, interrupt: &Interrupt) -> Result<Report, BenchError> {
    let machine = Machine::read(args.cpus)?;
    let rounds = args.rounds.unwrap_or(if args.quick { 1 } else { 9 });
    let seconds = args.seconds.unwrap_or(if args.quick { 0.02 } else { 0.1 });
    let mut readers = args.readers.clone();
    readers.sort_unstable();
    readers.dedup();
    let pages = format!("2MiB={}", readers.len() + 2);
    let mut agent = Agent::with_pages(Some(&pages), interrupt)?;
    let mut lanes = Vec::new();
    for &readers in &readers {
        lanes.push(lane(&mut agent, args.policy, readers)?);
    }
    let bursts = agent.make(256, &["--slots", "256"])?;
    let done = agent.make(256, &["--slots", "256"])?;
    let page_bytes = lanes.first().map_or(0, |lane| lane.page_bytes);
    let names = lanes.iter().map(|lane| lane.name.clone()).zip(readers.iter().copied());
    let socket = agent.attach_socket();
    let setup = CrowdSetup {
        cpu: machine.cpus.1,
        socket: socket.clone(),
        lanes: names.collect(),
        bursts: bursts.consumer.clone(),
        done: done.producer.clone(),
    };
    let mut crowd = Worker::start("crowd", Side::Responder, &setup)?;
    crowd.answer(Duration::ZERO, interrupt)?;
    let mut teller = Teller::attach(&socket, &lanes, &bursts, &done)?;
    let progress = ProgressBar::new(u64::from(rounds) * readers.len() as u64 * 2);
    progress.set_draw_target(ProgressDrawTarget::stderr());
    let mut samples = Vec::new();
    for round in 0..rounds {
        for (at, &readers) in readers.iter().enumerate() {
            for quiet in [false, true] {
                interrupt.check()?;
                progress.inc(1);
                let before = hand_over(machine.cpus, PROBE)?.typical_ns;
                crowd.tell(&CrowdOrder { lane: at, burst: BURST, quiet })?;
                let time = Duration::from_secs_f64(seconds);
                let (cost_ns, sent_per_s) = teller.tell(at, machine.cpus.0, quiet, time)?;
                crowd.answer(time, interrupt)?;
                let after = hand_over(machine.cpus, PROBE)?.typical_ns;
                if let Some(class) = Class::agreed(before, after) {
                    let delivered_per_s = sent_per_s * f64::from(readers);
                    let sample = Sample { round, class, readers, quiet, cost_ns, delivered_per_s };
                    samples.push((Some(class), [before, after], sample));
                }
            }
        }
    }
    progress.finish_and_clear();
    keep_commonest(&mut samples, |sample| (&mut sample.0, sample.1));
    let samples: Vec<Sample> =
        samples.into_iter().filter(|sample| sample.0.is_some()).map(|sample| sample.2).collect();
    let rows = rows(&samples);
    let (policy, burst_messages, slots) = (args.policy, BURST, SLOTS);
    Ok(Report { machine, policy, rounds, seconds, burst_messages, slots, page_bytes, rows })
}

fn lane(agent: &mut Agent, policy: PolicyArg, readers: u32) -> Result<Lane, BenchError> {
    let (slots, bytes) = (SLOTS.to_string(), BYTES.to_string());
    let (readers, uid) = (readers.to_string(), geteuid().as_raw().to_string());
    agent.make(
        SLOTS,
        &[
            "--shape",
            "broadcast",
            "--policy",
            policy.as_str(),
            "--readers",
            &readers,
            "--slot-size",
            &bytes,
            "--slots",
            &slots,
            "--consumer-uid",
            &uid,
        ],
    )
}

/// The producer of every lane.
#[derive(Debug)]
struct Teller {
    lanes: Vec<Producer>,
    bursts: Producer,
    done: Consumer,
}

impl Teller {
    fn attach(
        socket: &Path,
        lanes: &[Lane],
        bursts: &Lane,
        done: &Lane,
    ) -> Result<Self, BenchError> {
        let with = |ticket| Attach::with_ticket(socket, ticket).map(|attach| attach.pin(false));
        let producers = lanes.iter().map(|lane| Ok(with(&lane.producer)?.producer()?));
        Ok(Self {
            lanes: producers.collect::<Result<_, BenchError>>()?,
            bursts: with(&bursts.producer)?.producer()?,
            done: with(&done.consumer)?.consumer()?,
        })
    }

    /// Sends bursts for `time`: what a message cost, in ns, and messages per second in all.
    fn tell(
        &mut self,
        lane: usize,
        cpu: u32,
        quiet: bool,
        time: Duration,
    ) -> Result<(f64, f64), BenchError> {
        let Self { lanes, bursts, done } = self;
        let lane = lanes.get_mut(lane).ok_or(BenchError::Peer(Duration::ZERO))?;
        let _pinned = pin(cpu)?;
        // Whoever has joined since is let in now.
        lane.maintain()?;
        let start = Instant::now();
        let (mut spent, mut number) = (Duration::ZERO, 0);
        while start.elapsed() < time {
            let begin = Instant::now();
            for _ in 0..BURST {
                number += 1;
                lane.send_array(Small::<BYTES>::make(number), PATIENCE)?;
            }
            spent += begin.elapsed();
            if quiet {
                bursts.send_array([0; 8], PATIENCE)?;
            }
            done.recv_array(PATIENCE, |_: [u8; 8]| ())?;
        }
        let sent_per_s = number as f64 / start.elapsed().as_secs_f64();
        lane.send_array(Small::<BYTES>::make(STOP), PATIENCE)?;
        if quiet {
            bursts.send_array([0; 8], PATIENCE)?;
        }
        // The mean, because the look at every reader falls into one burst of several.
        Ok((spent.as_secs_f64() * 1e9 / number as f64, sent_per_s))
    }
}

fn rows(samples: &[Sample]) -> Vec<Row> {
    let mut keys: Vec<(Class, u32)> =
        samples.iter().map(|sample| (sample.class, sample.readers)).collect();
    keys.sort_unstable();
    keys.dedup();
    keys.into_iter().map(|(class, readers)| row(samples, class, readers)).collect()
}

fn row(samples: &[Sample], class: Class, readers: u32) -> Row {
    let fewest = samples.iter().map(|sample| sample.readers).min().unwrap_or(readers);
    let of = |quiet: bool| {
        let mine = samples.iter().filter(move |sample| {
            (sample.class, sample.readers, sample.quiet) == (class, readers, quiet)
        });
        let mut costs: Vec<f64> = mine.clone().map(|sample| sample.cost_ns).collect();
        let ratio = |sample: &Sample| {
            let base = samples.iter().find(|base| {
                (base.class, base.readers, base.quiet, base.round)
                    == (class, fewest, quiet, sample.round)
            })?;
            Some(sample.cost_ns / base.cost_ns)
        };
        let mut ratios: Vec<f64> = mine.clone().filter_map(ratio).collect();
        let mut delivered: Vec<f64> = mine.map(|sample| sample.delivered_per_s).collect();
        (costs.len(), median(&mut costs), median(&mut ratios), median(&mut delivered))
    };
    let (rounds, reading_ns, reading_times, delivered_per_s) = of(false);
    let (_, quiet_ns, quiet_times, _) = of(true);
    Row {
        class,
        readers,
        rounds,
        reading_ns,
        reading_times,
        quiet_ns,
        quiet_times,
        delivered_per_s,
    }
}

fn text(report: &Report) -> String {
    format!("{}\n{}\n{}", heading(report), grid(report).text(), verdicts(report))
}

/// What each number of readers costs.
pub(crate) fn grid(report: &Report) -> Grid {
    let mut grid = Grid::new(
        "Cost of a message by the number of readers",
        &[
            "class",
            "readers",
            "rounds",
            "while they read, ns",
            "times",
            "while they do not, ns",
            "times",
            "M delivered/s",
        ],
    );
    let number = |value: Option<f64>, digits: usize| {
        value.map_or_else(String::new, |value| format!("{value:.digits$}"))
    };
    for row in &report.rows {
        grid.rows.push(vec![
            row.class.to_string(),
            row.readers.to_string(),
            row.rounds.to_string(),
            number(row.reading_ns, 2),
            number(row.reading_times, 2),
            number(row.quiet_ns, 2),
            number(row.quiet_times, 2),
            number(row.delivered_per_s.map(|rate| rate / 1e6), 1),
        ]);
    }
    grid
}

/// What ran where, and how.
pub(crate) fn heading(report: &Report) -> String {
    let Report { machine, policy, .. } = report;
    format!(
        "machine  {}, Linux {}; load {} at start\n\
         lane     {BYTES}-byte messages, {SLOTS} slots, pages of {} bytes, {}\n\
         method   {} rounds of {} s; bursts of {BURST} messages are timed; \
         all readers are one process on cpu {}\n",
        machine.cpu,
        machine.kernel,
        machine.load,
        report.page_bytes,
        policy.as_str(),
        report.rounds,
        report.seconds,
        machine.cpus.1,
    )
}

/// The cost of a message by the number of readers, for each class.
pub(crate) fn charts(report: &Report) -> Vec<Chart> {
    let classes: BTreeSet<Class> = report.rows.iter().map(|row| row.class).collect();
    let chart = |class| {
        let curve = |name: &str, value: fn(&Row) -> Option<f64>| {
            let rows = report.rows.iter().filter(|row| row.class == class);
            let points = rows.filter_map(|row| Some((f64::from(row.readers), value(row)?)));
            Series { name: name.to_owned(), points: points.collect(), first: false }
        };
        let series = vec![
            curve("while they read", |row| row.reading_ns),
            curve("while they do not", |row| row.quiet_ns),
        ];
        Chart {
            title: format!("Cost of a message for its producer, by readers, class {class}"),
            x: Axis::Count,
            y: Axis::Nanos,
            series,
            limit: None,
        }
    };
    classes.into_iter().map(chart).collect()
}

/// Whether the cost is flat, for each class in which the most readers were seen.
pub(crate) fn verdicts(report: &Report) -> String {
    let most = report.rows.iter().map(|row| row.readers).max().unwrap_or(0);
    let mut text = String::new();
    let judged = |row: &&Row| row.readers == most && row.class.is_judged();
    for row in report.rows.iter().filter(judged) {
        for (what, times) in
            [("while they read", row.reading_times), ("while they do not", row.quiet_times)]
        {
            let Some(times) = times else { continue };
            let met = if times <= FLAT_WITHIN { "met   " } else { "MISSED" };
            text += &format!(
                "{met}  a message to {most} readers {what}, over one to the fewest: {times:.2}, \
                 wanted at most {FLAT_WITHIN} ({}, {} rounds)\n",
                row.class, row.rounds
            );
        }
    }
    text
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A small result with figures of two numbers of readers.
    pub(crate) fn example() -> Report {
        let row = |readers, reading_ns| Row {
            class: Class::Near,
            readers,
            rounds: 3,
            reading_ns: Some(reading_ns),
            reading_times: Some(reading_ns / 4.0),
            quiet_ns: None,
            quiet_times: None,
            delivered_per_s: Some(1e6),
        };
        Report {
            machine: crate::example::example().machine,
            policy: PolicyArg::Gated,
            rounds: 3,
            seconds: 0.1,
            burst_messages: BURST,
            slots: SLOTS,
            page_bytes: 4096,
            rows: vec![row(1, 4.0), row(64, 5.0)],
        }
    }

    #[test]
    fn costs_are_compared_within_a_round_and_a_class() {
        let sample = |round, class, readers, cost_ns| Sample {
            round,
            class,
            readers,
            quiet: false,
            cost_ns,
            delivered_per_s: 1e6,
        };
        let samples = [
            sample(0, Class::Near, 1, 2.0),
            sample(0, Class::Near, 64, 3.0),
            sample(1, Class::Near, 1, 4.0),
            sample(1, Class::Near, 64, 4.0),
            sample(1, Class::Far, 64, 100.0),
        ];
        let rows = rows(&samples);
        let near = &rows[1];
        assert_eq!((near.class, near.readers, near.rounds), (Class::Near, 64, 2));
        assert_eq!(near.reading_times, Some(1.25));
        assert_eq!(near.quiet_times, None);
        let far = &rows[2];
        assert_eq!((far.class, far.reading_times), (Class::Far, None));
    }
}
