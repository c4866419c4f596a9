//! `laneway demo`: everything for real on this machine, in about a minute, with deaths on stage.
//!
//! Own directories, an agent as its own process, lanes through its gRPC API, producers and
//! consumers as processes of their own. The report says what was measured and how; a message
//! lost, torn or out of order makes the exit code non-zero.

mod acts;
mod report;
mod stage;
pub mod syscalls;
mod worker;

use std::time::Instant;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::CliResult;

pub(crate) use worker::{WorkerArgs, work};

use report::Report;
use stage::Stage;

/// Run everything for real: agent, lanes, processes, kills, a report.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  laneway demo
  laneway demo --json > report.json
  laneway demo --messages 20000000 --size 24")]
pub(crate) struct DemoArgs {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Messages of the streaming act
    #[arg(long, default_value_t = 10_000_000, value_parser = at_least_a_thousand)]
    messages: u64,
    /// Bytes of a message; 56 fills a cache line together with its commit word
    #[arg(long, default_value_t = 56, value_parser = clap::value_parser!(u32).range(8..=65_536))]
    size: u32,
    /// Keep the directory with the agent's log and journal
    #[arg(long)]
    keep: bool,
}

fn at_least_a_thousand(text: &str) -> Result<u64, String> {
    let count: u64 = text.parse().map_err(|error| format!("{error}"))?;
    if count >= 1000 { Ok(count) } else { Err("at least 1000 messages".to_owned()) }
}

/// Shows what happens, on a terminal.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    fn new(quiet: bool) -> Self {
        let bar = ProgressBar::new(100);
        let target =
            if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        bar.set_draw_target(target);
        if let Ok(style) = ProgressStyle::with_template("{msg:<58} [{bar:30}] {percent:>3}%") {
            bar.set_style(style.progress_chars("=> "));
        }
        Self { bar }
    }

    /// Starts an act.
    pub(crate) fn act(&self, title: &'static str) {
        self.bar.set_message(title);
        self.bar.set_position(0);
    }

    /// How far the act is.
    pub(crate) fn set(&self, done: u64, of: u64) {
        self.bar.set_position(done.saturating_mul(100) / of.max(1));
    }

    /// A line that stays.
    pub(crate) fn line(&self, text: &str) {
        // On a terminal the bar moves down; without one the line is printed all the same.
        if self.bar.is_hidden() { eprintln!("{text}") } else { self.bar.println(text) }
    }
}

/// Runs all acts and reports.
pub(crate) fn run(args: DemoArgs, json: bool) -> CliResult {
    let json = json || args.json;
    let start = Instant::now();
    let progress = Progress::new(json);
    let mut stage = Stage::open(args.keep)?;
    let played = play(&args, &mut stage, &progress);
    progress.bar.finish_and_clear();
    let mut report = played.map_err(|error| format!("{error}\n{}", stage.last_words()))?;
    report.seconds = start.elapsed().as_secs_f64();
    stage.close();
    if json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("{report}");
    }
    if report.is_clean() {
        Ok(())
    } else {
        Err("messages were lost, torn or out of order: see the report".into())
    }
}

fn play(
    args: &DemoArgs,
    stage: &mut Stage,
    progress: &Progress,
) -> Result<Report, Box<dyn std::error::Error>> {
    let mut report = Report { message_bytes: args.size, ..Report::default() };
    stage.start_agent()?;
    acts::stream(stage, args, &mut report, progress)?;
    acts::ping_pong(stage, &mut report, progress)?;
    // Of a stream that is about as long as the first one, but for long ones.
    let share = (args.messages.min(3_000_000) / 5).max(acts::SHARE_MIN);
    acts::kill_producer(stage, args.size, share, &mut report, progress)?;
    acts::kill_consumer(stage, args.size, share, &mut report, progress)?;
    acts::kill_agent(stage, args.size, share, &mut report, progress)?;
    report.misses = stage.misses();
    Ok(report)
}
