//! `laneway-bench noise`: what a granted core is worth, for each way to pin, beside antagonists.
//!
//! Every round measures every way beside every noise, with fresh ends: who pins is decided at the
//! attach. The antagonists start after the ends, so that nobody has the cores to himself by chance.

mod corner;
pub(crate) mod maker;
mod show;

#[cfg(test)]
pub(crate) use show::tests::example;
pub(crate) use show::{chart, grid, heading, json, notes};

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::agent::Agent;
use crate::error::BenchError;
use crate::interrupt::Interrupt;
use crate::machine::Machine;
use crate::output;
use crate::plan::Depths;
use crate::recorder::Latency;
use crate::rounds;
use crate::stream::Throughput;
use crate::task::{Mode, Task, Work};
use crate::workers::Workers;
use corner::Quarters;
use maker::{Makers, Noise};

/// Antagonists end by themselves this long after their measurement should have.
const GRACE: Duration = Duration::from_secs(40);

const EXAMPLES: &str = "\
Examples:
  laneway-bench noise                                    every way to pin beside every noise
  laneway-bench noise --quick                            idle and full, some seconds
  laneway-bench noise --pinning self,cpuset --noises idle,full --rounds 9
  laneway-bench noise --json > noise.json; laneway-bench noise --plot noise.svg";

/// Measure what a granted core is worth beside others' work.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct NoiseArgs {
    /// Print one JSON object with every sample instead of a table
    #[arg(long)]
    pub(crate) json: bool,
    /// One short round beside nothing and beside everything
    #[arg(long)]
    pub(crate) quick: bool,
    /// Rounds; in each, everything is measured once [default: 5; quick: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: Option<u32>,
    /// Seconds of one measurement, of which each way beside each noise has two [default: 1;
    /// quick: 0.1]
    #[arg(long, value_name = "S", value_parser = crate::cli::seconds)]
    pub(crate) seconds: Option<f64>,
    /// Who pins [default: all]
    #[arg(long, value_enum, value_name = "WAY,...", value_delimiter = ',')]
    pub(crate) pinning: Vec<Way>,
    /// What runs beside the lane [default: all; quick: idle,full]
    #[arg(long, value_enum, value_name = "NOISE,...", value_delimiter = ',')]
    pub(crate) noises: Vec<Noise>,
    /// Message size in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 64,
        value_parser = clap::value_parser!(u32).range(8..=65536))]
    pub(crate) size: u32,
    /// The two cpus [default: the first two of this process that are no siblings]
    #[arg(long, value_name = "A,B", value_parser = crate::cli::two_cpus)]
    pub(crate) cpus: Option<(u32, u32)>,
    /// Write the percentile curves beside the loudest noise as a picture
    #[arg(long, value_name = "FILE.svg")]
    pub(crate) plot: Option<PathBuf>,
}

/// Who sets the affinity of a lane's ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Way {
    /// Nobody
    None,
    /// The library
    #[value(name = "self")]
    #[serde(rename = "self")]
    Own,
    /// The agent
    Enforce,
    /// The agent, which keeps everything else off
    Cpuset,
}

impl Way {
    const ALL: [Self; 4] = [Self::None, Self::Own, Self::Enforce, Self::Cpuset];

    fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Own => "self",
            Self::Enforce => "enforce",
            Self::Cpuset => "cpuset",
        }
    }
}

/// One measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Sample {
    round: u32,
    noise: Noise,
    pinning: Way,
    /// Whether every antagonist still ran at the end.
    loud: bool,
    latency: Option<Latency>,
    throughput: Option<Throughput>,
}

/// A way that could not be measured, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Missing {
    pinning: Way,
    why: String,
}

/// How it was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Method {
    rounds: u32,
    seconds: f64,
    bytes: u32,
    /// Cpus of everything else while cores are held; empty where they cannot be.
    others: String,
    /// Whether the second end shares its cpu with everything else, which has next to no weight.
    shared: bool,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Findings {
    machine: Machine,
    method: Method,
    samples: Vec<Sample>,
    missing: Vec<Missing>,
}

/// Measures and prints.
pub(crate) fn run(args: &NoiseArgs) -> Result<(), BenchError> {
    let interrupt = Interrupt::new()?;
    let findings = measure(args, &interrupt)?;
    if let Some(path) = &args.plot {
        output::write(path, &show::chart(&findings).picture())?;
    }
    let text = if args.json {
        serde_json::to_string_pretty(&json(&findings)).map_err(BenchError::json("the report"))?
    } else {
        show::text(&findings)
    };
    output::print(&text)
}

fn measure(args: &NoiseArgs, interrupt: &Interrupt) -> Result<Findings, BenchError> {
    let machine = Machine::read(args.cpus)?;
    let ways = if args.pinning.is_empty() { Way::ALL.to_vec() } else { args.pinning.clone() };
    let noises = match (&args.noises[..], args.quick) {
        ([], true) => vec![Noise::Idle, Noise::Full],
        ([], false) => Noise::ALL.to_vec(),
        (asked, _) => asked.to_vec(),
    };
    let count = args.rounds.unwrap_or(if args.quick { 1 } else { 5 });
    let seconds = args.seconds.unwrap_or(if args.quick { 0.1 } else { 1.0 });
    let quarters = Quarters::prepare(machine.cpus, &machine.cpus_allowed);
    let (config, others, shared) = match &quarters {
        Ok(ready) => (ready.config.as_str(), ready.others.clone(), ready.shared),
        Err(_) => ("version = 1\n", String::new(), false),
    };
    let method = Method { rounds: count, seconds, bytes: args.size, others, shared };
    // Dropped before the quarters: an agent that ends gives cores back.
    let mut stage = Stage {
        agent: Agent::configured(config, interrupt)?,
        cpus: machine.cpus,
        cpus_allowed: machine.cpus_allowed.len(),
        bytes: args.size as usize,
        time: Duration::from_secs_f64(seconds),
        interrupt,
    };
    let (mut samples, mut missing) = (Vec::new(), Vec::<Missing>::new());
    if let (Err(why), true) = (&quarters, ways.contains(&Way::Cpuset)) {
        missing.push(Missing { pinning: Way::Cpuset, why: why.clone() });
    }
    let progress = rounds::progress(u64::from(count) * (noises.len() * ways.len()) as u64);
    for round in 0..count {
        for (noise, pinning) in noises.iter().flat_map(|n| ways.iter().map(move |w| (*n, *w))) {
            progress.set_message(format!("{} beside {}", pinning.as_str(), noise.as_str()));
            progress.inc(1);
            if missing.iter().any(|way| way.pinning == pinning) {
                continue;
            }
            match stage.measure(pinning, noise) {
                Ok((loud, latency, throughput)) => {
                    let sample = Sample { round, noise, pinning, loud, latency, throughput };
                    samples.push(sample);
                }
                Err(BenchError::Refused { message, .. }) => {
                    missing.push(Missing { pinning, why: message });
                }
                Err(error) => return Err(error),
            }
        }
    }
    progress.finish_and_clear();
    Ok(Findings { machine, method, samples, missing })
}

/// What stays from one measurement to the next.
#[derive(Debug)]
struct Stage<'a> {
    agent: Agent,
    cpus: (u32, u32),
    /// As counted at start: while cores are held, this process has fewer.
    cpus_allowed: usize,
    bytes: usize,
    time: Duration,
    interrupt: &'a Interrupt,
}

impl Stage<'_> {
    /// Fresh lanes, fresh ends, then the noise, then the two measurements.
    fn measure(
        &mut self,
        way: Way,
        noise: Noise,
    ) -> Result<(bool, Option<Latency>, Option<Throughput>), BenchError> {
        self.interrupt.check()?;
        let measured = self.measure_attached(way, noise);
        self.agent.forget_lanes();
        measured
    }

    fn measure_attached(
        &mut self,
        way: Way,
        noise: Noise,
    ) -> Result<(bool, Option<Latency>, Option<Throughput>), BenchError> {
        let lanes = self.agent.pinned_lanes(self.bytes, way.as_str(), self.cpus)?;
        let socket = self.agent.attach_socket();
        let mut workers = Workers::left_alone(way == Way::Own, &socket, &lanes, self.interrupt)?;
        let longest = 2 * self.time + GRACE;
        let mut makers = Makers::start(noise, self.cpus_allowed, longest, self.interrupt)?;
        let millis = u64::try_from(self.time.as_millis()).unwrap_or(u64::MAX);
        let depths = Depths::of(self.bytes)?;
        let mut task = Task {
            work: Work::Latency,
            mode: Mode::All,
            bytes: self.bytes,
            readers: 1,
            depth: depths.latency,
            trusted: false,
            sent: false,
            packed: false,
            millis,
        };
        let latency = rounds::figures(workers.run(task, self.interrupt)?).latency;
        (task.work, task.depth) = (Work::Stream, depths.stream);
        let throughput = rounds::figures(workers.run(task, self.interrupt)?).throughput;
        Ok((makers.all_run(), latency, throughput))
    }
}
