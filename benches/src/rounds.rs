//! The rounds: every measurement once, with the hand-over between any two of them.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};

use crate::class::{Class, keep_commonest};
use crate::copying;
use crate::error::BenchError;
use crate::ideal;
use crate::interrupt::Interrupt;
use crate::plan::{Cell, Who};
use crate::probe::hand_over;
use crate::queue::{self, Rtrb, by_value};
use crate::recorder::{Figures, Latency};
use crate::stream::Throughput;
use crate::task::{Answer, Task};
use crate::workers::Workers;

/// Time of one hand-over probe.
const PROBE: Duration = Duration::from_millis(4);

/// The hand-over beside a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Probe {
    pub(crate) typical_ns: f64,
    pub(crate) p50_ns: f64,
    pub(crate) p99_ns: f64,
}

impl From<Latency> for Probe {
    fn from(latency: Latency) -> Self {
        Self { typical_ns: latency.typical_ns, p50_ns: latency.p50_ns, p99_ns: latency.p99_ns }
    }
}

/// One measurement with what held before and after it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sample {
    pub(crate) round: u32,
    #[serde(flatten)]
    pub(crate) cell: Cell,
    /// None if the probes disagree, with each other or with most: the sample does not count.
    pub(crate) class: Option<Class>,
    pub(crate) before: Probe,
    pub(crate) after: Probe,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) latency: Option<Latency>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) throughput: Option<Throughput>,
}

impl Sample {
    fn has_figures(&self) -> bool {
        self.latency.is_some() || self.throughput.is_some()
    }
}

/// A measurement that could not be made, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Absent {
    #[serde(flatten)]
    pub(crate) cell: Cell,
    pub(crate) why: String,
}

/// What came of one measurement.
#[derive(Clone, Debug)]
pub(crate) enum Measured {
    /// Figures, or none if the time was too short.
    Figures(Figures),
    /// There are none and will be none, for this reason.
    Absent(String),
}

/// What all rounds found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) samples: Vec<Sample>,
    pub(crate) absent: Vec<Absent>,
}

/// Measures every cell once in each round; what is absent once is not tried again.
pub(crate) fn rounds(
    cells: &[Cell],
    rounds: u32,
    cpus: (u32, u32),
    interrupt: &Interrupt,
    mut measure: impl FnMut(&Cell) -> Result<Measured, BenchError>,
) -> Result<Found, BenchError> {
    let progress = progress(cells.len() as u64 * u64::from(rounds));
    let mut found = Found::default();
    let mut before = probe(cpus)?;
    for round in 0..rounds {
        for cell in cells {
            progress.set_message(format!("{} {} B", cell.who.as_str(), cell.bytes));
            progress.inc(1);
            if found.absent.iter().any(|absent| absent.cell == *cell) {
                continue;
            }
            interrupt.check()?;
            let measured = measure(cell)?;
            let after = probe(cpus)?;
            match measured {
                Measured::Figures(Figures { latency, throughput }) => found.samples.push(Sample {
                    round,
                    cell: *cell,
                    class: Class::agreed(before.typical_ns, after.typical_ns),
                    before,
                    after,
                    latency,
                    throughput,
                }),
                Measured::Absent(why) => found.absent.push(Absent { cell: *cell, why }),
            }
            before = after;
        }
    }
    progress.finish_and_clear();
    keep_commonest(&mut found.samples, |sample| {
        (&mut sample.class, [sample.before.typical_ns, sample.after.typical_ns])
    });
    for cell in cells {
        let of_it = |sample: &Sample| sample.cell == *cell && sample.has_figures();
        let known = found.absent.iter().any(|absent| absent.cell == *cell);
        if !known && !found.samples.iter().any(of_it) {
            let why = "too few messages passed in the time: give it more --seconds";
            found.absent.push(Absent { cell: *cell, why: why.to_owned() });
        }
    }
    Ok(found)
}

/// The hand-over between the two cpus, now.
pub(crate) fn probe(cpus: (u32, u32)) -> Result<Probe, BenchError> {
    hand_over(cpus, PROBE).map(Probe::from)
}

/// Measures a cell of a lane.
fn lane(
    workers: &mut Workers,
    cell: &Cell,
    time: Duration,
    interrupt: &Interrupt,
) -> Result<Figures, BenchError> {
    let task = Task {
        work: cell.work,
        mode: cell.mode,
        bytes: cell.bytes,
        readers: cell.readers,
        depth: cell.depth,
        trusted: cell.who == Who::Trusted,
        sent: cell.who == Who::Sent,
        packed: cell.who == Who::Packed,
        millis: u64::try_from(time.as_millis()).unwrap_or(u64::MAX),
    };
    Ok(figures(workers.run(task, interrupt)?))
}

/// The figures of an answer.
pub(crate) fn figures(answer: Answer) -> Figures {
    match answer {
        Answer::Latency(latency) => Figures { latency, throughput: None },
        Answer::Throughput(throughput) => Figures { latency: None, throughput },
        Answer::Done | Answer::Failed(_) => Figures::default(),
    }
}

/// Measures a cell of a lane or of its yardsticks.
pub(crate) fn run_cell(
    workers: &mut Workers,
    cell: &Cell,
    cpus: (u32, u32),
    time: Duration,
    interrupt: &Interrupt,
) -> Result<Measured, BenchError> {
    let figures = if cell.who.is_lane() {
        lane(workers, cell, time, interrupt)?
    } else if cell.who == Who::Ideal {
        ideal::measure(cell.bytes, cpus, time)?
    } else if cell.who == Who::Memcpy {
        let copied = copying::measure(cpus.0, cell.bytes, time / 4)?;
        Figures { latency: None, throughput: Some(copied) }
    } else {
        by_value!(cell.bytes, [8, 56, 64, 256, 1024],
            N => queue::measure::<Rtrb, N>(cell, Some(cpus), time)?,
            else return Ok(Measured::Absent("no size that rtrb moves by value".to_owned())))
    };
    Ok(Measured::Figures(figures))
}

/// On standard error, if that is a terminal. Drawn between measurements only, never by a thread.
pub(crate) fn progress(steps: u64) -> ProgressBar {
    let bar = ProgressBar::new(steps);
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {eta} left  {msg}");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
