//! Trials: several ways to do one thing, in turns, each held against another of the same round.
//!
//! What moves no message over a lane in the usual way has its figures here: waking, publishing to
//! who may sleep, copying, pausing. Everything is nanoseconds, ratios and differences are taken
//! within a round and a class, and a way that cannot be tried is a row that says why.

mod show;

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::class::{Class, keep_commonest};
use crate::document::VERSION;
use crate::error::BenchError;
use crate::interrupt::Interrupt;
use crate::machine::Machine;
use crate::output;
use crate::recorder::median;
use crate::rounds::{probe, progress};
use crate::targets::{self, Target};

pub(crate) use show::{charts, grids, heading, text};

/// What a way says that was given too little time.
const TOO_SHORT: &str = "nothing was finished in the time: give it more --seconds";

/// How trials are made, whichever they are.
#[derive(Debug, Args)]
pub(crate) struct TrialArgs {
    /// Print one JSON object with every sample instead of tables
    #[arg(long)]
    pub(crate) json: bool,
    /// One short round
    #[arg(long)]
    pub(crate) quick: bool,
    /// Rounds; in each, everything is measured once [default: 9; quick: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) rounds: Option<u32>,
    /// Seconds of one measurement [default: 0.2; quick: 0.05]
    #[arg(long, value_name = "S", value_parser = crate::cli::seconds)]
    pub(crate) seconds: Option<f64>,
    /// The two cpus [default: the first two of this process that are no siblings]
    #[arg(long, value_name = "A,B", value_parser = crate::cli::two_cpus)]
    pub(crate) cpus: Option<(u32, u32)>,
}

/// Which command made a sheet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// Waking who sleeps, publishing to who may.
    Wake,
    /// Ways to copy.
    Copies,
    /// Spinning with a pause and without.
    Pause,
}

/// The thing that is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum What {
    /// From before a message is sent to after it is received by a reader that slept.
    WakeUp,
    /// A message of a stream, one publish each.
    Publish,
    /// A message out of memory that a foreign process may write, on one core.
    CopyOut,
    /// The words of a message added up, on one core.
    LookedAt,
    /// A large payload from private memory to a reader, half a round trip.
    HandOver,
    /// One cache line, half a round trip.
    Line,
    /// A message over a lane, half a round trip.
    Message,
    /// A message of a lane's stream.
    Stream,
}

/// The way in which it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Way {
    /// A bare futex.
    Futex,
    /// Lanes whose ends only spin.
    Spin,
    /// Lanes whose ends may sleep.
    Park,
    /// The standard library's copy.
    Memcpy,
    /// A lane's own.
    Lane,
    /// One instruction of microcode.
    RepMovsb,
    /// Stores that go past the caches.
    NonTemporal,
    /// Written where the reader reads it; looked at where it lies.
    InPlace,
    /// Written in place, and each line written back to memory before the hand-over.
    WrittenBack,
    /// Copied whole, then looked at.
    Copied,
    /// Copied piece by piece, each looked at before the next.
    Pieces,
    /// Loaded line by line into registers.
    Lines,
    /// Looking again at once.
    NoPause,
    /// A `pause` between two looks.
    Pause,
}

/// One way to do one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Trial {
    pub(crate) what: What,
    pub(crate) bytes: u32,
    /// Time between two messages, in µs; 0 where they follow each other at once.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub(crate) gap_us: u32,
    pub(crate) way: Way,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(value: &u32) -> bool {
    *value == 0
}

impl Trial {
    pub(crate) fn new(what: What, bytes: u32, way: Way) -> Self {
        Self { what, bytes, gap_us: 0, way }
    }

    /// The class that held before and after; of one core always the same.
    fn class(self, before_ns: f64, after_ns: f64) -> Option<Class> {
        let alone = matches!(self.what, What::CopyOut | What::LookedAt);
        if alone { Some(Class::Core) } else { Class::agreed(before_ns, after_ns) }
    }

    /// What it is held against; none for what others are held against.
    pub(crate) fn base(self) -> Option<Self> {
        let way = match (self.what, self.way) {
            (_, Way::WrittenBack) => Way::InPlace,
            (What::WakeUp, _) => Way::Futex,
            (What::Publish, _) => Way::Spin,
            (What::CopyOut | What::HandOver, _) => Way::Memcpy,
            (What::LookedAt, _) => Way::InPlace,
            (What::Line | What::Message | What::Stream, _) => Way::NoPause,
        };
        (way != self.way).then_some(Self { way, ..self })
    }
}

/// What one measurement found: the typical cost, and the rare one where there is any.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Cost {
    pub(crate) nanos: f64,
    pub(crate) p99_ns: Option<f64>,
}

/// What came of one measurement.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Tried {
    Cost(Cost),
    /// The time was too short.
    TooShort,
    /// There is no figure and will be none, for this reason.
    Absent(String),
}

impl From<Option<Cost>> for Tried {
    fn from(cost: Option<Cost>) -> Self {
        cost.map_or(Self::TooShort, Self::Cost)
    }
}

/// One measurement with what held around it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sample {
    pub(crate) round: u32,
    #[serde(flatten)]
    pub(crate) trial: Trial,
    /// None if the two hand-overs disagree, with each other or with most: the sample does not
    /// count.
    pub(crate) class: Option<Class>,
    /// The hand-overs before and after it, in ns; zeros in reports from before they were kept.
    #[serde(default)]
    pub(crate) hand_overs_ns: [f64; 2],
    pub(crate) nanos: f64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) p99_ns: Option<f64>,
}

/// All rounds of one trial in one class.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Row {
    #[serde(flatten)]
    pub(crate) trial: Trial,
    pub(crate) class: Class,
    /// Rounds that count.
    pub(crate) rounds: usize,
    /// Median of the rounds' costs.
    pub(crate) nanos: f64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) p99_ns: Option<f64>,
    /// Median of the rounds' costs over that of what it is held against.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) times: Option<f64>,
    /// Median of the rounds' costs less that of what it is held against.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) more_ns: Option<f64>,
}

/// A trial that could not be made, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Absent {
    #[serde(flatten)]
    pub(crate) trial: Trial,
    pub(crate) why: String,
}

/// Everything that was found out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sheet {
    pub(crate) version: u32,
    pub(crate) kind: Kind,
    pub(crate) machine: Machine,
    pub(crate) rounds: u32,
    pub(crate) seconds: f64,
    pub(crate) targets: Vec<Target>,
    pub(crate) rows: Vec<Row>,
    pub(crate) absent: Vec<Absent>,
    pub(crate) samples: Vec<Sample>,
}

impl Sheet {
    /// Makes every trial once in each round. Odd rounds go backwards, so that nobody always
    /// follows the same one.
    pub(crate) fn measure(
        kind: Kind,
        machine: Machine,
        args: &TrialArgs,
        trials: &[Trial],
        interrupt: &Interrupt,
        mut tried: impl FnMut(Trial, Duration) -> Result<Tried, BenchError>,
    ) -> Result<Self, BenchError> {
        let rounds = args.rounds.unwrap_or(if args.quick { 1 } else { 9 });
        let seconds = args.seconds.unwrap_or(if args.quick { 0.05 } else { 0.2 });
        let time = Duration::from_secs_f64(seconds);
        let progress = progress(trials.len() as u64 * u64::from(rounds));
        let (mut samples, mut absent) = (Vec::<Sample>::new(), Vec::<Absent>::new());
        let mut before = probe(machine.cpus)?.typical_ns;
        for round in 0..rounds {
            let mut turn: Vec<&Trial> = trials.iter().collect();
            if round % 2 == 1 {
                turn.reverse();
            }
            for &trial in turn {
                progress.set_message(format!("{} {}", show::what(trial.what), show::way(&trial)));
                progress.inc(1);
                if absent.iter().any(|known| known.trial == trial) {
                    continue;
                }
                interrupt.check()?;
                let found = tried(trial, time)?;
                let after = probe(machine.cpus)?.typical_ns;
                match found {
                    Tried::Cost(Cost { nanos, p99_ns }) => {
                        let class = trial.class(before, after);
                        let hand_overs_ns = [before, after];
                        samples.push(Sample { round, trial, class, hand_overs_ns, nanos, p99_ns });
                    }
                    Tried::TooShort => {}
                    Tried::Absent(why) => absent.push(Absent { trial, why }),
                }
                before = after;
            }
        }
        progress.finish_and_clear();
        keep_commonest(&mut samples, |sample| (&mut sample.class, sample.hand_overs_ns));
        for &trial in trials {
            let known = absent.iter().any(|known| known.trial == trial);
            if !known && !samples.iter().any(|sample| sample.trial == trial) {
                absent.push(Absent { trial, why: TOO_SHORT.to_owned() });
            }
        }
        Ok(Self::of(kind, machine, (rounds, seconds), samples, absent))
    }

    /// Draws the conclusions.
    pub(crate) fn of(
        kind: Kind,
        machine: Machine,
        (rounds, seconds): (u32, f64),
        samples: Vec<Sample>,
        absent: Vec<Absent>,
    ) -> Self {
        let rows = rows(&samples);
        let targets = targets::of_trials(&rows);
        Self { version: VERSION, kind, machine, rounds, seconds, targets, rows, absent, samples }
    }

    /// Prints it as asked.
    pub(crate) fn print(&self, args: &TrialArgs) -> Result<(), BenchError> {
        let text = if args.json {
            serde_json::to_string_pretty(self).map_err(BenchError::json("the report"))?
        } else {
            text(self)
        };
        output::print(&text)
    }
}

/// The rows of all samples that count, ordered by trial and class.
fn rows(samples: &[Sample]) -> Vec<Row> {
    let mut groups: BTreeMap<(Class, Trial), Vec<&Sample>> = BTreeMap::new();
    for sample in samples {
        if let Some(class) = sample.class {
            groups.entry((class, sample.trial)).or_default().push(sample);
        }
    }
    let rows = groups.into_iter().filter_map(|((class, trial), group)| {
        let beside = |sample: &Sample| {
            let base = trial.base()?;
            let same = (base, sample.round, sample.class);
            let found = samples.iter().find(|base| (base.trial, base.round, base.class) == same);
            found.map(|base| base.nanos)
        };
        let middle = |of: &dyn Fn(&Sample) -> Option<f64>| {
            median(&mut group.iter().filter_map(|sample| of(sample)).collect::<Vec<_>>())
        };
        Some(Row {
            trial,
            class,
            rounds: group.len(),
            nanos: middle(&|sample| Some(sample.nanos))?,
            p99_ns: middle(&|sample| sample.p99_ns),
            times: middle(&|sample| Some(sample.nanos / beside(sample)?)),
            more_ns: middle(&|sample| Some(sample.nanos - beside(sample)?)),
        })
    });
    rows.collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn sample(round: u32, way: Way, class: Option<Class>, nanos: f64) -> Sample {
        let trial = Trial { gap_us: 200, ..Trial::new(What::WakeUp, 8, way) };
        let hand_overs_ns = [45.0; 2];
        Sample { round, trial, class, hand_overs_ns, nanos, p99_ns: Some(nanos * 2.0) }
    }

    /// Two classes, a round that moved, and a way that is absent.
    pub(crate) fn example() -> Sheet {
        let near = Some(Class::Near);
        let samples = vec![
            sample(0, Way::Futex, near, 10_000.0),
            sample(0, Way::Lane, near, 11_000.0),
            sample(1, Way::Futex, near, 20_000.0),
            sample(1, Way::Lane, near, 24_000.0),
            // Nobody of the same class to be held against, and one that moved.
            sample(2, Way::Futex, Some(Class::Far), 1.0),
            sample(2, Way::Lane, near, 20_000.0),
            sample(3, Way::Lane, None, 1.0),
        ];
        let absent = Trial::new(What::HandOver, 65536, Way::WrittenBack);
        let absent = vec![Absent { trial: absent, why: "no <such> instruction".to_owned() }];
        let machine = crate::example::example().machine;
        Sheet::of(Kind::Wake, machine, (4, 0.1), samples, absent)
    }

    #[test]
    fn costs_are_held_against_those_of_the_same_round_and_class() {
        let sheet = example();
        let lane = sheet.rows.iter().find(|row| row.trial.way == Way::Lane).unwrap();
        assert_eq!((lane.class, lane.rounds, lane.nanos), (Class::Near, 3, 20_000.0));
        assert!((lane.times.unwrap() - 1.15).abs() < 1e-9, "{lane:?}");
        assert_eq!((lane.more_ns, lane.p99_ns), (Some(2500.0), Some(40_000.0)));
        let futex = sheet.rows.iter().find(|row| row.trial.way == Way::Futex).unwrap();
        assert_eq!((futex.times, futex.more_ns), (None, None));
    }

    #[test]
    fn one_core_has_no_distance_that_could_change() {
        let of = |what| Trial::new(what, 64, Way::Lane).class(30.0, 300.0);
        assert_eq!((of(What::CopyOut), of(What::WakeUp)), (Some(Class::Core), None));
    }

    #[test]
    fn the_json_form_has_version_and_kind_and_reads_back() {
        let sheet = example();
        let value = serde_json::to_value(&sheet).unwrap();
        assert_eq!((&value["version"], &value["kind"]), (&1.into(), &"wake".into()));
        assert_eq!(value["rows"][0]["what"], "wake-up");
        assert_eq!(value["rows"][0]["gap_us"], 200);
        assert_eq!(serde_json::from_value::<Sheet>(value).unwrap(), sheet);
    }
}
