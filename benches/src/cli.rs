//! The command line: one visible command, two hidden roles of the same program.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::error::BenchError;
use crate::{experiment, laneway, worker};

/// Measures lanes between two pinned processes, beside what this machine can do at all.
#[derive(Debug, Parser)]
#[command(name = "laneway-bench", version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure latency and throughput on real lanes from a real agent
    Run(RunArgs),
    /// One side of every lane, pinned; reads orders from standard input
    #[command(hide = true)]
    Worker {
        #[arg(long)]
        parent: Option<i32>,
    },
    /// The product's own command line, for the agent and its client
    #[command(hide = true)]
    Laneway {
        #[arg(long)]
        parent: Option<i32>,
        #[arg(last = true)]
        arguments: Vec<OsString>,
    },
}

const EXAMPLES: &str = "\
Examples:
  laneway-bench run                                 everything, about two minutes
  laneway-bench run --quick                         a first look, some seconds
  laneway-bench run --sizes 56,64 --rounds 30       two sizes, more rounds
  laneway-bench run --cpus 2,6 --plot lanes.svg     two chosen cpus, curves as a picture
  laneway-bench run --json > result.json            one object with every sample";

const METHOD: &str = "\
Method:
  The program starts a real agent in a temporary directory, creates three lanes for each size
  (ping and pong with at most 64 slots, a stream of about 4 MiB) and attaches two pinned processes
  by ticket. Latency is half a round trip with one message in flight; throughput counts what
  arrives, one publish for each message, and in a further row one for 32. Mode `all` writes and
  reads every byte and checks their sum, mode `header` eight bytes. Before and after each
  measurement one cache line travels between the same two cpus: the hand-over, which no ring can
  beat. Only measurements count whose two hand-overs fall into one class (smt <= 25 ns,
  near <= 110 ns, far above). Ratios are taken within a round and reported as their median. rtrb
  0.4, between two threads of one process, and a single core's memcpy run in the same rounds.
  How to read it: benches/METHOD.md.";

/// Measure latency and throughput on real lanes from a real agent.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{METHOD}"))]
pub(crate) struct RunArgs {
    /// Print one JSON object with every sample instead of tables
    #[arg(long)]
    pub(crate) json: bool,
    /// Two short rounds of three sizes
    #[arg(long)]
    pub(crate) quick: bool,
    /// Rounds; in each, everything is measured once [default: 9; quick: 2]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) rounds: Option<u32>,
    /// Message sizes in bytes, at least 8 [default: 8 to 1 MiB; quick: 56,64,4096]
    #[arg(long, value_name = "BYTES,...", value_delimiter = ',',
        value_parser = clap::value_parser!(u32).range(8..=16_777_152))]
    pub(crate) sizes: Vec<u32>,
    /// The two cpus [default: the first two of this process that are no siblings]
    #[arg(long, value_name = "A,B", value_parser = two_cpus)]
    pub(crate) cpus: Option<(u32, u32)>,
    /// Pages of the lanes
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) page_size: PageSize,
    /// Seconds of one measurement, of which there are some fifty in a round [default: 0.2;
    /// quick: 0.05]
    #[arg(long, value_name = "S", value_parser = seconds)]
    pub(crate) seconds: Option<f64>,
    /// Also measure the trusting reader, which reads in place
    #[arg(long)]
    pub(crate) trusted: bool,
    /// Write the percentile curves as a picture
    #[arg(long, value_name = "FILE.svg")]
    pub(crate) plot: Option<PathBuf>,
}

/// Pages of the lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub(crate) enum PageSize {
    /// The best that the agent can get
    #[value(name = "auto")]
    #[serde(rename = "auto")]
    Auto,
    /// Ordinary pages
    #[value(name = "4KiB")]
    #[serde(rename = "4KiB")]
    Base4K,
    /// 2 MiB huge pages
    #[value(name = "2MiB")]
    #[serde(rename = "2MiB")]
    Huge2M,
    /// 1 GiB huge pages, one for each lane at least
    #[value(name = "1GiB")]
    #[serde(rename = "1GiB")]
    Huge1G,
}

impl PageSize {
    /// As `laneway lane create --page-size` wants it; `None` leaves the choice to the agent.
    pub(crate) fn as_flag(self) -> Option<&'static str> {
        match self {
            Self::Auto => None,
            Self::Base4K => Some("4KiB"),
            Self::Huge2M => Some("2MiB"),
            Self::Huge1G => Some("1GiB"),
        }
    }
}

fn two_cpus(text: &str) -> Result<(u32, u32), String> {
    let wrong = || format!("`{text}` is not two different cpus such as 0,1");
    let (first, second) = text.split_once(',').ok_or_else(wrong)?;
    match (first.trim().parse(), second.trim().parse()) {
        (Ok(first), Ok(second)) if first != second => Ok((first, second)),
        _ => Err(wrong()),
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(value) if (0.01..=60.0).contains(&value) => Ok(value),
        _ => Err(format!("`{text}` is not a number from 0.01 to 60")),
    }
}

/// Runs the program.
pub(crate) fn main() -> ExitCode {
    match dispatch(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            // A closed standard error is no reason for a panic.
            let _ = writeln!(std::io::stderr(), "laneway-bench: {error}");
            match error {
                BenchError::Interrupted => ExitCode::from(130),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

fn dispatch(command: Command) -> Result<ExitCode, BenchError> {
    match command {
        Command::Run(args) => experiment::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Worker { parent } => worker::run(parent),
        Command::Laneway { parent, arguments } => laneway::run(parent, arguments),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn two_cpus_are_two_different_numbers() {
        assert_eq!(two_cpus("0, 3"), Ok((0, 3)));
        for wrong in ["0", "1,1", "a,b", "0,1,2", ""] {
            assert!(two_cpus(wrong).is_err(), "{wrong}");
        }
    }
}
