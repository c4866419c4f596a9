//! The command line: the visible commands, and the hidden roles of the same program.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::control::{self, ControlArgs};
use crate::copies::{self, CopiesArgs};
use crate::error::BenchError;
use crate::noise::NoiseArgs;
use crate::noise::maker::Noise;
use crate::pause::{self, PauseArgs};
#[cfg(feature = "rivals")]
use crate::plan::Who;
#[cfg(feature = "rivals")]
use crate::task::{Wait, Work};
use crate::wake::{self, WakeArgs};
use crate::{broadcast, crowd, experiment, laneway, noise, publish, worker};

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
    /// Measure lanes beside their rivals: iceoryx2, rings, pipes, sockets, gRPC
    #[cfg(feature = "rivals")]
    Compare(CompareArgs),
    /// Measure lanes beside their rivals; this build has none, and says how to get them
    #[cfg(not(feature = "rivals"))]
    Compare {
        #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Measure what a broadcast costs its producer, from one reader to 64
    Broadcast(BroadcastArgs),
    /// Measure what a granted core is worth beside antagonists, for each way to pin
    Noise(NoiseArgs),
    /// Measure what sleeping costs: a wake-up beside a bare futex, and who publishes to a peer
    /// that may sleep
    ///
    /// A wake-up is timed from before a message is sent to after it is received; only messages
    /// whose reader slept count. In the same rounds a bare futex does the same, and streams go
    /// through lanes whose ends spin and through lanes whose ends may sleep.
    Wake(WakeArgs),
    /// Measure copies: out of a lane beside memcpy, and large payloads by each method
    ///
    /// A copy out is one core's, of a message that stays where it is. A large payload is made in
    /// private memory and copied over by memcpy, rep movsb or non-temporal stores, or made in
    /// place, with or without a write-back of its lines; its reader reads every byte in place.
    Copies(CopiesArgs),
    /// Measure what a `pause` in the spin does to a line, to messages and to streams
    Pause(PauseArgs),
    /// Measure the agent: calls, attaching, and what lanes cost it
    Control(ControlArgs),
    /// Make a page with pictures and tables: of results in files, or of what is measured now
    Report(ReportArgs),
    /// A plain tonic service, as a yardstick
    #[command(hide = true)]
    ControlEcho {
        #[arg(long)]
        parent: Option<i32>,
        #[arg(long)]
        socket: PathBuf,
    },
    /// A fresh process: one message to a lane, or one byte to standard output
    #[command(hide = true)]
    ControlFirst {
        #[arg(long)]
        parent: Option<i32>,
        #[arg(long)]
        socket: Option<PathBuf>,
    },
    /// The same end of many lanes; reads tickets from standard input
    #[command(hide = true)]
    ControlHold {
        #[arg(long)]
        parent: Option<i32>,
    },
    /// One side of every lane, pinned; reads orders from standard input
    #[command(hide = true)]
    Worker {
        #[arg(long)]
        parent: Option<i32>,
    },
    /// All readers of broadcast lanes; reads orders from standard input
    #[command(hide = true)]
    Crowd {
        #[arg(long)]
        parent: Option<i32>,
    },
    /// One antagonist
    #[command(hide = true)]
    NoiseMaker {
        #[arg(long)]
        parent: Option<i32>,
        #[arg(long, value_enum)]
        kind: Noise,
        #[arg(long)]
        millis: u64,
    },
    /// One side of a rival; reads its errand from standard input
    #[cfg(feature = "rivals")]
    #[command(hide = true)]
    Rival {
        #[arg(long)]
        parent: Option<i32>,
    },
    /// Aeron's media driver; reads where from standard input
    #[cfg(feature = "rivals-aeron")]
    #[command(hide = true)]
    AeronDriver {
        #[arg(long)]
        parent: Option<i32>,
    },
    /// The product's own command line, for the agent and its client
    #[command(hide = true)]
    Laneway {
        #[arg(long)]
        parent: Option<i32>,
        #[arg(long)]
        steps: Option<PathBuf>,
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
  The program starts a real agent in a temporary directory, creates some lanes for each size
  (ping and pong with at most 256 slots, streams of about 4 MiB) and attaches two pinned processes
  by ticket. Latency is half a round trip with one message in flight; throughput counts what
  arrives, one publish for each message, and in a further row one for 32. Mode `all` writes and
  reads every byte and checks their sum, mode `header` eight bytes. Before and after each
  measurement one cache line travels between the same two cpus: the hand-over, which no ring can
  beat. Only measurements count whose two hand-overs fall into one class (smt <= 25 ns,
  near <= 150 ns, far <= 1 us; above, others had the cpus: busy, and held to no promise). Ratios
  are taken within a round and reported as their median. rtrb 0.4, between two threads of one
  process, and a single core's memcpy run in the same rounds.
  How to read it: benches/METHOD.md.";

/// Measure latency and throughput on real lanes from a real agent.
#[derive(Debug, Default, Args)]
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

/// Measure lanes beside their rivals.
#[cfg(feature = "rivals")]
#[derive(Debug, Args)]
#[command(after_help = COMPARE_EXAMPLES)]
pub(crate) struct CompareArgs {
    /// Print one JSON object with every sample instead of tables
    #[arg(long)]
    pub(crate) json: bool,
    /// One short round of two sizes
    #[arg(long)]
    pub(crate) quick: bool,
    /// Who is measured beside lanes [default: everybody]
    #[arg(long, value_enum, value_name = "NAME,...", value_delimiter = ',')]
    pub(crate) rivals: Vec<Who>,
    /// Rounds; in each, everything is measured once [default: 5; quick: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) rounds: Option<u32>,
    /// Seconds of one measurement, of which there are some forty for each size in a round
    /// [default: 0.1; quick: 0.02]
    #[arg(long, value_name = "S", value_parser = seconds)]
    pub(crate) seconds: Option<f64>,
    /// Message sizes in bytes, at least 8 [default: 8,64,1024,4096,65536,1048576; quick: 64,4096]
    #[arg(long, value_name = "BYTES,...", value_delimiter = ',',
        value_parser = clap::value_parser!(u32).range(8..=16_777_152))]
    pub(crate) sizes: Vec<u32>,
    /// Slots of every ring that streams, lanes included: powers of two [default: each one's own
    /// best, of a shallow and a deep one]
    #[arg(long, value_name = "SLOTS,...", value_delimiter = ',', value_parser = slots)]
    pub(crate) depths: Vec<u32>,
    /// Slots of every ring between whose ends one message travels [default: 256 of a lane, of
    /// others the better of 64 and 256; fewer large ones]
    #[arg(long, value_name = "SLOTS,...", value_delimiter = ',', value_parser = slots)]
    pub(crate) latency_depths: Vec<u32>,
    /// What is measured: one message in flight, one publish each, or one for 32 [default: all]
    #[arg(long, value_enum, value_name = "WORK,...", value_delimiter = ',')]
    pub(crate) work: Vec<Work>,
    /// How a lane is read: trusting nobody, or in place and trusting its writer [default: strict,
    /// and trusted above 256 bytes]
    #[arg(long, value_enum, value_name = "COPY,...", value_delimiter = ',')]
    pub(crate) copy: Vec<CopyArg>,
    /// Numbers of readers, each of which reads every message; several of them stream only, beside
    /// iceoryx2, and take turns on the second cpu
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_values_t = [1],
        value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) readers: Vec<u32>,
    /// What ends do while they wait
    #[arg(long, value_enum, default_value = "spin")]
    pub(crate) wait: Wait,
    /// Pages of the lanes
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) page_size: PageSize,
    /// The two cpus [default: the first two of this process that are no siblings]
    #[arg(long, value_name = "A,B", value_parser = two_cpus)]
    pub(crate) cpus: Option<(u32, u32)>,
    /// Pin each end to its cpu: the default
    #[arg(long, overrides_with = "no_pin")]
    pub(crate) pin: bool,
    /// Leave the ends where the kernel puts them
    #[arg(long)]
    pub(crate) no_pin: bool,
}

#[cfg(feature = "rivals")]
impl Default for CompareArgs {
    fn default() -> Self {
        Self {
            json: false,
            quick: false,
            rivals: Vec::new(),
            rounds: None,
            seconds: None,
            sizes: Vec::new(),
            depths: Vec::new(),
            latency_depths: Vec::new(),
            work: Vec::new(),
            copy: Vec::new(),
            readers: vec![1],
            wait: Wait::Spin,
            page_size: PageSize::Auto,
            cpus: None,
            pin: true,
            no_pin: false,
        }
    }
}

#[cfg(feature = "rivals")]
const COMPARE_EXAMPLES: &str = "\
Examples:
  laneway-bench compare                                     everybody, some minutes
  laneway-bench compare --quick                             a first look
  laneway-bench compare --rivals iceoryx2,rtrb --sizes 64   two rivals, one size
  laneway-bench compare --wait park                         ends that sleep
  laneway-bench compare --depths 128,65536 --no-pin         two depths, ends that wander
  laneway-bench compare --work latency --latency-depths 2,64,256   how deep a dialogue wants it
  laneway-bench compare --work stream,batch --copy strict   without the trusting reader
  laneway-bench compare --copy strict,trusted --sizes 64    both readers, also of small messages
  laneway-bench compare --readers 1,8,64 --work stream --rivals iceoryx2";

/// How a lane is read.
#[cfg(feature = "rivals")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CopyArg {
    /// By value, whatever the writer does
    Strict,
    /// In place
    Trusted,
}

/// Measure what a broadcast costs its producer, from one reader to 64.
///
/// One process plays all readers, on the second cpu: they take turns, each checks every byte of
/// every message. The producer sends bursts and waits until everybody has read them; only the
/// bursts are timed, because what 64 readers need on one core says nothing about 64 cores.
#[derive(Debug, Args)]
#[command(after_help = BROADCAST_EXAMPLES)]
pub(crate) struct BroadcastArgs {
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub(crate) json: bool,
    /// One short round
    #[arg(long)]
    pub(crate) quick: bool,
    /// What the producer does about slow readers
    #[arg(long, value_enum, default_value = "gated")]
    pub(crate) policy: PolicyArg,
    /// Numbers of readers
    #[arg(long, value_name = "N,...", value_delimiter = ',',
        default_values_t = [1, 2, 4, 8, 16, 32, 64],
        value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) readers: Vec<u32>,
    /// Rounds; in each, everything is measured once [default: 9; quick: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) rounds: Option<u32>,
    /// Seconds of one measurement [default: 0.1; quick: 0.02]
    #[arg(long, value_name = "S", value_parser = seconds)]
    pub(crate) seconds: Option<f64>,
    /// The two cpus [default: the first two of this process that are no siblings]
    #[arg(long, value_name = "A,B", value_parser = two_cpus)]
    pub(crate) cpus: Option<(u32, u32)>,
}

const BROADCAST_EXAMPLES: &str = "\
Examples:
  laneway-bench broadcast                       gated, 1 to 64 readers
  laneway-bench broadcast --policy overwrite    a producer that waits for nobody
  laneway-bench broadcast --readers 1,64 --json";

/// Policies of a broadcast lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PolicyArg {
    /// It waits for the slowest
    Gated,
    /// It gives up who is too far behind
    Evicting,
    /// It waits for nobody
    Overwrite,
}

impl PolicyArg {
    /// As `laneway lane create --policy` wants it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Gated => "gated",
            Self::Evicting => "evicting",
            Self::Overwrite => "overwrite",
        }
    }
}

/// Make a page of results.
#[derive(Debug, Args)]
#[command(after_help = REPORT_EXAMPLES)]
pub(crate) struct ReportArgs {
    /// Results that a command wrote with --json, or that this one did [default: measure now]
    #[arg(long, value_name = "FILE.json", num_args = 1..)]
    pub(crate) input: Vec<PathBuf>,
    /// The page: one HTML file that needs nothing else
    #[arg(long, value_name = "FILE.html", default_value = "report.html")]
    pub(crate) output: PathBuf,
    /// Also write the tables as Markdown
    #[arg(long, value_name = "FILE.md")]
    pub(crate) markdown: Option<PathBuf>,
    /// Also write each picture as a file of its own
    #[arg(long, value_name = "FOLDER")]
    pub(crate) pictures: Option<PathBuf>,
    /// Also write everything as JSON, to be read again
    #[arg(long, value_name = "FILE.json")]
    pub(crate) json: Option<PathBuf>,
    /// Without input: measure for some seconds only
    #[arg(long, conflicts_with = "input")]
    pub(crate) quick: bool,
    /// Without input: rounds [default: as `run` and `compare` have them]
    #[arg(long, value_name = "N", conflicts_with = "input",
        value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) rounds: Option<u32>,
    /// Without input: seconds of one measurement [default: as `run` and `compare` have them]
    #[arg(long, value_name = "S", conflicts_with = "input", value_parser = seconds)]
    pub(crate) seconds: Option<f64>,
}

const REPORT_EXAMPLES: &str = "\
Examples:
  laneway-bench report                                      measures, then writes report.html
  laneway-bench run --json > run.json
  laneway-bench report --input run.json --markdown run.md   shows what was measured before
  laneway-bench report --input compare.json wake.json noise.json broadcast.json   one page of all";

/// Pages of the lanes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub(crate) enum PageSize {
    /// The best that the agent can get
    #[default]
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

pub(crate) fn two_cpus(text: &str) -> Result<(u32, u32), String> {
    let wrong = || format!("`{text}` is not two different cpus such as 0,1");
    let (first, second) = text.split_once(',').ok_or_else(wrong)?;
    match (first.trim().parse(), second.trim().parse()) {
        (Ok(first), Ok(second)) if first != second => Ok((first, second)),
        _ => Err(wrong()),
    }
}

#[cfg(feature = "rivals")]
fn slots(text: &str) -> Result<u32, String> {
    match text.parse::<u32>() {
        Ok(slots) if slots.is_power_of_two() && (2..=1 << 24).contains(&slots) => Ok(slots),
        _ => Err(format!("`{text}` is not a power of two from 2 to 16777216")),
    }
}

pub(crate) fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(value) if (0.01..=60.0).contains(&value) => Ok(value),
        _ => Err(format!("`{text}` is not a number from 0.01 to 60")),
    }
}

/// The sizes asked for, or the usual ones; each once and in order.
pub(crate) fn sizes(asked: &[u32], usual: &[usize]) -> Vec<usize> {
    let asked: BTreeSet<usize> = asked.iter().map(|&bytes| bytes as usize).collect();
    if asked.is_empty() { usual.to_vec() } else { asked.into_iter().collect() }
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
        #[cfg(feature = "rivals")]
        Command::Compare(args) => crate::compare::run(&args).map(|()| ExitCode::SUCCESS),
        #[cfg(not(feature = "rivals"))]
        Command::Compare { arguments: _ } => Err(BenchError::NoRivals),
        Command::Broadcast(args) => broadcast::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Crowd { parent } => crowd::run(parent),
        Command::Noise(args) => noise::run(&args).map(|()| ExitCode::SUCCESS),
        Command::NoiseMaker { parent, kind, millis } => noise::maker::run(parent, kind, millis),
        Command::Copies(args) => copies::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Pause(args) => pause::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Wake(args) => wake::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Control(args) => control::run(&args).map(|()| ExitCode::SUCCESS),
        Command::ControlEcho { parent, socket } => control::echo::serve(parent, &socket),
        Command::ControlFirst { parent, socket } => control::first::run(parent, socket.as_deref()),
        Command::ControlHold { parent } => control::hold::run(parent),
        Command::Report(args) => publish::run(&args).map(|()| ExitCode::SUCCESS),
        #[cfg(feature = "rivals")]
        Command::Rival { parent } => crate::rivals::run(parent),
        #[cfg(feature = "rivals-aeron")]
        Command::AeronDriver { parent } => crate::rivals::aeron::drive(parent),
        Command::Worker { parent } => worker::run(parent),
        Command::Laneway { parent, steps, arguments } => {
            laneway::run(parent, steps.as_deref(), arguments)
        }
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
