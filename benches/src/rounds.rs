//! The rounds: every measurement once, with the hand-over between any two of them.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};

use crate::class::Class;
use crate::copying;
use crate::error::BenchError;
use crate::interrupt::Interrupt;
use crate::plan::{Cell, Who};
use crate::probe::hand_over;
use crate::queue;
use crate::recorder::Latency;
use crate::stream::Throughput;
use crate::task::{Answer, Task, Work};
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
    /// None if the probes disagree: the sample does not count.
    pub(crate) class: Option<Class>,
    pub(crate) before: Probe,
    pub(crate) after: Probe,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) latency: Option<Latency>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) throughput: Option<Throughput>,
}

/// What the rounds run with.
#[derive(Debug)]
pub(crate) struct Bench<'a> {
    pub(crate) workers: &'a mut Workers,
    pub(crate) cpus: (u32, u32),
    pub(crate) time: Duration,
    pub(crate) interrupt: &'a Interrupt,
}

impl Bench<'_> {
    /// Measures every cell once in each round.
    pub(crate) fn rounds(
        &mut self,
        cells: &[Cell],
        rounds: u32,
    ) -> Result<Vec<Sample>, BenchError> {
        let progress = progress(cells.len() as u64 * u64::from(rounds));
        let mut samples = Vec::new();
        let mut before = self.probe()?;
        for round in 0..rounds {
            for cell in cells {
                progress.set_message(format!("{} {} B", cell.who.as_str(), cell.bytes));
                let (latency, throughput) = self.measure(cell)?;
                let after = self.probe()?;
                samples.push(Sample {
                    round,
                    cell: *cell,
                    class: Class::agreed(before.typical_ns, after.typical_ns),
                    before,
                    after,
                    latency,
                    throughput,
                });
                before = after;
                progress.inc(1);
            }
        }
        progress.finish_and_clear();
        Ok(samples)
    }

    fn probe(&self) -> Result<Probe, BenchError> {
        hand_over(self.cpus, PROBE).map(Probe::from)
    }

    fn measure(
        &mut self,
        cell: &Cell,
    ) -> Result<(Option<Latency>, Option<Throughput>), BenchError> {
        self.interrupt.check()?;
        match cell.who {
            Who::Laneway | Who::Trusted => self.lane(cell),
            Who::Rtrb => self.rtrb(cell),
            Who::Memcpy => {
                let copied = copying::measure(self.cpus.0, cell.bytes, self.time / 4)?;
                Ok((None, Some(copied)))
            }
        }
    }

    fn lane(&mut self, cell: &Cell) -> Result<(Option<Latency>, Option<Throughput>), BenchError> {
        let task = Task {
            work: cell.work,
            mode: cell.mode,
            bytes: cell.bytes,
            trusted: cell.who == Who::Trusted,
            millis: u64::try_from(self.time.as_millis()).unwrap_or(u64::MAX),
        };
        Ok(match self.workers.run(task, self.interrupt)? {
            Answer::Latency(latency) => (latency, None),
            Answer::Throughput(throughput) => (None, throughput),
            Answer::Done | Answer::Failed(_) => (None, None),
        })
    }

    fn rtrb(&self, cell: &Cell) -> Result<(Option<Latency>, Option<Throughput>), BenchError> {
        macro_rules! sized {
            ($run:ident, $($size:literal),*) => {
                match cell.bytes {
                    $($size => queue::$run::<$size>(self.cpus, cell.depth as usize, self.time)?,)*
                    _ => None,
                }
            };
        }
        Ok(if cell.work == Work::Latency {
            (sized!(latency, 8, 56, 64, 256, 1024), None)
        } else {
            (None, sized!(stream, 8, 56, 64, 256, 1024))
        })
    }
}

/// On standard error, if that is a terminal. Drawn between measurements only, never by a thread.
fn progress(steps: u64) -> ProgressBar {
    let bar = ProgressBar::new(steps);
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {eta} left  {msg}");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
