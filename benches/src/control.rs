//! `laneway-bench control` from the first process to the last line: what the agent does beside
//! the data path, and what it costs.
//!
//! A real agent, called over its control socket and attached to over its attach socket; beside
//! it, in the same rounds, a plain tonic service in a process of its own. Files of this folder:
//! [`calls`] and [`echo`] are the callers, [`attach`], [`first`] and [`hold`] the ends, [`steps`]
//! an attach from within, [`usage`] the kernel's word, [`what`] the names, [`timings`] and
//! [`summary`] the figures.

pub(crate) mod attach;
pub(crate) mod calls;
pub(crate) mod echo;
pub(crate) mod first;
pub(crate) mod hold;
#[cfg(feature = "rivals")]
mod iceoryx;
pub(crate) mod steps;
pub(crate) mod summary;
mod timings;
mod usage;
mod what;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use laneway_proto::v1;
use laneway_proto::v1::lane_service_client::LaneServiceClient;
use serde::Serialize;
use tokio::runtime::Runtime;
use tonic::transport::Channel;

use crate::agent::Agent;
use crate::cli::{PageSize, seconds};
use crate::document::Marked;
use crate::error::BenchError;
use crate::interrupt::Interrupt;
use crate::machine::Machine;
use crate::output;
use crate::task::Wait;
use attach::Attaching;
use calls::{
    Asker, BASE_PAGE, Errand, Kind, ORDINARY, Until, connect, create, lanes, load, runtime, ticket,
};
use echo::{Echoes, STREAMS_MAX};
use hold::Holders;
use steps::Steps;
use summary::{Cell, Footprint, Method, Process, Report, Sample, rows, text};
use usage::{Idle, Usage, idle};
use what::What;

/// Lanes that are there from the start.
const FEW: u32 = 16;
/// Callers at the same time. Only reading and echoing is done by the most of them.
const CALLERS: [u32; 2] = [1, 16];
const CALLERS_MOST: u32 = 128;
/// Descriptors that each lane costs the process that has the most, and what that has besides.
const FDS: (u64, u64) = (8, 512);
/// Pages of 2 MiB that a pass over attaching lanes may need for each: two generations, and one
/// that is on its way back.
const GENERATIONS: u32 = 3;

/// Measure the agent: calls, attaching, and what lanes cost it.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ControlArgs {
    /// Print one JSON object with every sample instead of tables
    #[arg(long)]
    json: bool,
    /// Where the time of an attach goes, step by step on both sides, and nothing else
    #[arg(long)]
    steps: bool,
    /// One short round, with 100 lanes
    #[arg(long)]
    quick: bool,
    /// Rounds; in each, everything is measured once among few lanes and once among many
    /// [default: 5; quick: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,
    /// Seconds of each load of calls [default: 0.3; quick: 0.05]
    #[arg(long, value_name = "S", value_parser = seconds)]
    seconds: Option<f64>,
    /// How many lanes are many, 16 to 1000; as many as descriptors allow [default: 1000;
    /// quick: 100]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(16..=1000))]
    lanes: Option<u32>,
    /// Fresh lanes that are attached to in a round [default: 32; quick: 8]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    attaches: Option<u32>,
    /// Pages of the lanes that are attached to, 4KiB or 2MiB; the many lie on 4 KiB pages
    #[arg(long, value_enum, default_value = "4KiB")]
    page_size: PageSize,
    /// What the ends of these lanes do while they wait
    #[arg(long, value_enum, default_value = "spin")]
    wait: Wait,
}

const EXAMPLES: &str = "\
Examples:
  laneway-bench control                       everything, about a minute
  laneway-bench control --quick               a first look, some seconds
  laneway-bench control --page-size 2MiB      attaching to lanes on hugepages
  laneway-bench control --wait park           ends that sleep
  laneway-bench control --steps               where the time of an attach goes
  laneway-bench control --json > control.json one object with every sample

Built with the feature `rivals`, it also measures how iceoryx2 opens a service and makes a port.
How to read it: benches/METHOD.md.";

/// Measures and prints.
pub(crate) fn run(args: &ControlArgs) -> Result<(), BenchError> {
    let interrupt = Interrupt::new()?;
    if args.steps {
        let found = listen(args, &interrupt)?;
        return show(args.json, "control-steps", &found, steps::text);
    }
    show(args.json, "control", &measure(args, &interrupt)?, text)
}

fn show<T: Serialize>(
    json: bool,
    kind: &'static str,
    found: &T,
    text: fn(&T) -> String,
) -> Result<(), BenchError> {
    let shown = if json {
        serde_json::to_string_pretty(&Marked::new(kind, found))
            .map_err(BenchError::json("the report"))?
    } else {
        text(found)
    };
    output::print(&shown)
}

/// Attaches to an agent that says when it is done with a step.
fn listen(args: &ControlArgs, interrupt: &Interrupt) -> Result<Steps, BenchError> {
    let machine = Machine::read(None)?;
    let plan = Plan::new(args)?;
    let directory = tempfile::Builder::new().prefix("laneway-control-").tempdir();
    let directory = directory.map_err(BenchError::io("cannot make a temporary directory"))?;
    let file = directory.path().join("steps.json");
    let agent = Agent::watched(&plan.config(), &file, interrupt)?;
    let runtime = runtime()?;
    let mut attaching = Attaching {
        client: runtime.block_on(connect(&agent.control_socket())).map(lanes)?,
        runtime: &runtime,
        socket: agent.attach_socket(),
        kind: plan.kind,
        lanes: plan.attaches,
    };
    let mut heard = Vec::new();
    for _ in 0..plan.rounds {
        interrupt.check()?;
        heard.extend(steps::pass(&mut attaching)?);
    }
    drop(agent);
    let courses = steps::courses(&heard, &file)?;
    Ok(Steps { machine, method: plan.method(), courses })
}

/// What holds for all measurements.
#[derive(Clone, Copy, Debug)]
struct Plan {
    rounds: u32,
    time: Duration,
    many: u32,
    attaches: u32,
    kind: Kind,
    quick: bool,
}

impl Plan {
    fn new(args: &ControlArgs) -> Result<Self, BenchError> {
        let files = hold::raise_open_files()?;
        let possible = u32::try_from(files.saturating_sub(FDS.1) / FDS.0).unwrap_or(u32::MAX);
        let (rounds, many, attaches) = if args.quick { (1, 100, 8) } else { (5, 1000, 32) };
        let seconds = args.seconds.unwrap_or(if args.quick { 0.05 } else { 0.3 });
        Ok(Self {
            rounds: args.rounds.unwrap_or(rounds),
            time: Duration::from_secs_f64(seconds),
            many: args.lanes.unwrap_or(many).min(possible).max(FEW),
            attaches: args.attaches.unwrap_or(attaches),
            kind: Kind {
                page_bytes: match args.page_size {
                    PageSize::Auto | PageSize::Base4K => BASE_PAGE,
                    PageSize::Huge2M => 2 << 20,
                    PageSize::Huge1G => 1 << 30,
                },
                wait: args.wait,
            },
            quick: args.quick,
        })
    }

    fn method(&self) -> Method {
        Method {
            rounds: self.rounds,
            seconds: self.time.as_secs_f64(),
            page_bytes: self.kind.page_bytes,
            wait: self.kind.wait,
        }
    }

    /// Room for the many, and for those that come and go beside them.
    fn config(&self) -> String {
        let lanes = self.many + 1024;
        let ends = 2 * lanes + 1024;
        let mut text = format!(
            "version = 1\n[limits]\nlanes = {lanes}\nattach_connections = {ends}\n\
             attach_connections_per_uid = {ends}\n"
        );
        if self.kind.page_bytes > BASE_PAGE {
            let size = if self.kind.page_bytes == 2 << 20 { "2MiB" } else { "1GiB" };
            let count = self.attaches * GENERATIONS;
            text += &format!("[hugepages.reserve]\n\"{size}\" = {count}\n");
        }
        text
    }

    /// How many lanes there are when footprints are taken.
    fn levels(&self) -> Vec<u32> {
        let mut levels = vec![1, 100.min(self.many), self.many];
        levels.dedup();
        levels
    }
}

/// Everything that runs. Dropped in this order.
#[derive(Debug)]
struct Stage<'a> {
    interrupt: &'a Interrupt,
    plan: Plan,
    runtime: Runtime,
    progress: ProgressBar,
    names: Vec<String>,
    samples: Vec<Sample>,
    #[cfg(feature = "rivals")]
    live: iceoryx::Live,
    _echo: echo::Running,
    agent: Agent,
    directory: tempfile::TempDir,
}

fn measure(args: &ControlArgs, interrupt: &Interrupt) -> Result<Report, BenchError> {
    let machine = Machine::read(None)?;
    let plan = Plan::new(args)?;
    let mut stage = Stage::set(plan, interrupt)?;
    for round in 0..plan.rounds {
        stage.round(round, FEW)?;
        stage.processes(round)?;
    }
    let (footprints, idle, _holders) = stage.fill()?;
    for round in 0..plan.rounds {
        stage.round(round, plan.many)?;
    }
    stage.progress.finish_and_clear();
    Ok(Report {
        machine,
        method: plan.method(),
        rows: rows(&stage.samples),
        footprints,
        idle,
        samples: std::mem::take(&mut stage.samples),
    })
}

impl<'a> Stage<'a> {
    /// Starts the agent, the echo server, and makes the first lanes.
    fn set(plan: Plan, interrupt: &'a Interrupt) -> Result<Self, BenchError> {
        let directory = tempfile::Builder::new().prefix("laneway-control-").tempdir();
        let directory = directory.map_err(BenchError::io("cannot make a temporary directory"))?;
        let agent = Agent::configured(&plan.config(), interrupt)?;
        let echo = echo::Running::start(&directory.path().join("echo.sock"), interrupt)?;
        let mut stage = Self {
            interrupt,
            plan,
            runtime: runtime()?,
            progress: progress(u64::from(plan.rounds) * 3 + 4),
            names: Vec::new(),
            samples: Vec::new(),
            #[cfg(feature = "rivals")]
            live: iceoryx::Live::new()?,
            _echo: echo,
            agent,
            directory,
        };
        stage.make(FEW)?;
        Ok(stage)
    }

    fn control(&self) -> Result<LaneServiceClient<Channel>, BenchError> {
        self.runtime.block_on(connect(&self.agent.control_socket())).map(lanes)
    }

    fn echo_socket(&self) -> PathBuf {
        self.directory.path().join("echo.sock")
    }

    /// Makes lanes until there are `lanes`.
    fn make(&mut self, lanes: u32) -> Result<(), BenchError> {
        let mut client = self.control()?;
        for number in self.names.len()..lanes as usize {
            self.interrupt.check()?;
            let name = format!("held-{number}");
            self.runtime.block_on(create(&mut client, &name, ORDINARY))?;
            self.names.push(name);
        }
        Ok(())
    }

    /// Calls, list and attaches, once each, among `present` lanes.
    fn round(&mut self, round: u32, present: u32) -> Result<(), BenchError> {
        self.progress.set_message(format!("calls, {present} lanes"));
        self.progress.inc(1);
        let time = Until::Time(self.plan.time);
        let all: Arc<[String]> = self.names.as_slice().into();
        for callers in CALLERS {
            let cell = |what| Cell { lanes: present, what, callers };
            self.echo(round, cell(What::Echo))?;
            self.ask(round, cell(What::Get), Errand::Get, &all, time)?;
            self.born_and_buried(round, present, callers)?;
        }
        let one = |what| Cell { lanes: present, what, callers: 1 };
        let list = Errand::List(self.names.len());
        self.ask(round, one(What::List), list, &all, time)?;
        let most = |what| Cell { callers: CALLERS_MOST, ..one(what) };
        self.echo(round, most(What::Echo))?;
        self.ask(round, most(What::Get), Errand::Get, &all, time)?;
        self.attaches(round, present)
    }

    fn echo(&mut self, round: u32, cell: Cell) -> Result<(), BenchError> {
        self.interrupt.check()?;
        let socket = self.echo_socket();
        let timings = self.runtime.block_on(async {
            let mut callers = Vec::new();
            for channel in channels(&socket, cell.callers).await? {
                callers.push(Echoes::new(channel));
            }
            load(callers, Until::Time(self.plan.time)).await
        })?;
        self.note(round, cell, timings);
        Ok(())
    }

    /// The same errand by all callers; each has its part of `names`, where these are enough.
    fn ask(
        &mut self,
        round: u32,
        cell: Cell,
        errand: Errand,
        names: &Arc<[String]>,
        until: Until,
    ) -> Result<(), BenchError> {
        self.interrupt.check()?;
        let socket = self.agent.control_socket();
        let timings = self.runtime.block_on(async {
            let mut callers = Vec::new();
            let part = names.len() / cell.callers as usize;
            let channels = channels(&socket, cell.callers).await?;
            for (number, channel) in channels.into_iter().enumerate() {
                let own = names.get(number * part..(number + 1) * part);
                let own = own.filter(|own| !own.is_empty());
                let names = own.map_or_else(|| Arc::clone(names), Into::into);
                callers.push(Asker { client: lanes(channel), errand, names });
            }
            load(callers, until).await
        })?;
        self.note(round, cell, timings);
        Ok(())
    }

    /// Creates lanes, issues tickets for them and deletes them.
    fn born_and_buried(
        &mut self,
        round: u32,
        present: u32,
        callers: u32,
    ) -> Result<(), BenchError> {
        let each = if self.plan.quick { 8 } else { 64 / callers.min(8) };
        let names = (0..callers * each).map(|number| format!("brief-{number}")).collect();
        let cell = |what| Cell { lanes: present, what, callers };
        let calls = Until::Calls(each);
        self.ask(round, cell(What::Create), Errand::Create, &names, calls)?;
        self.ask(round, cell(What::Ticket), Errand::Ticket, &names, calls)?;
        self.ask(round, cell(What::Delete), Errand::Delete, &names, calls)
    }

    fn attaching(&self) -> Result<Attaching<'_>, BenchError> {
        Ok(Attaching {
            runtime: &self.runtime,
            client: self.control()?,
            socket: self.agent.attach_socket(),
            kind: self.plan.kind,
            lanes: self.plan.attaches,
        })
    }

    fn attaches(&mut self, round: u32, present: u32) -> Result<(), BenchError> {
        self.progress.set_message(format!("attaching, {present} lanes"));
        self.interrupt.check()?;
        let mut found = self.attaching()?.pass()?;
        #[cfg(feature = "rivals")]
        found.extend(self.live.pass(self.plan.attaches)?);
        for (what, timings) in found.drain(..) {
            self.note(round, Cell { lanes: present, what, callers: 1 }, Some(timings));
        }
        Ok(())
    }

    fn processes(&mut self, round: u32) -> Result<(), BenchError> {
        self.progress.set_message("fresh processes");
        self.progress.inc(1);
        self.interrupt.check()?;
        let found = first::pass(&mut self.attaching()?)?;
        for (what, timings) in found {
            self.note(round, Cell { lanes: FEW, what, callers: 1 }, Some(timings));
        }
        Ok(())
    }

    /// Makes and attaches the many lanes; takes footprints on the way, and looks at them idle.
    fn fill(&mut self) -> Result<(Vec<Footprint>, Idle, Holders), BenchError> {
        let mut holders = Holders::start(&self.agent.attach_socket(), self.interrupt)?;
        let mut client = self.control()?;
        let before = self.usages(&holders)?;
        let mut found = footprints(0, &before, None);
        let mut attached = 0;
        for level in self.plan.levels() {
            self.progress.set_message(format!("attaching {level} lanes"));
            self.progress.inc(1);
            self.interrupt.check()?;
            self.make(level)?;
            let (mut producers, mut consumers) = (Vec::new(), Vec::new());
            for name in &self.names[attached..level as usize] {
                let mut issue = |role| self.runtime.block_on(ticket(&mut client, name, role));
                producers.push(issue(v1::Role::Producer)?);
                consumers.push(issue(v1::Role::Consumer)?);
            }
            holders.attach(&producers, &consumers, self.interrupt)?;
            attached = level as usize;
            found.extend(footprints(level, &self.usages(&holders)?, Some(&before)));
        }
        self.progress.set_message("idle");
        self.progress.inc(1);
        let time = Duration::from_secs_f64(if self.plan.quick { 0.3 } else { 1.0 });
        let idle = idle(self.agent.pid(), self.plan.many, time, self.interrupt)?;
        Ok((found, idle, holders))
    }

    fn usages(&self, holders: &Holders) -> Result<[(Process, Usage); 3], BenchError> {
        Ok([
            (Process::Agent, Usage::of(self.agent.pid())?),
            (Process::Producers, Usage::of(holders.producers.pid())?),
            (Process::Consumers, Usage::of(holders.consumers.pid())?),
        ])
    }

    fn note(&mut self, round: u32, cell: Cell, timings: Option<timings::Timings>) {
        self.samples.extend(timings.map(|timings| Sample { round, cell, timings }));
    }
}

fn footprints(
    lanes: u32,
    now: &[(Process, Usage); 3],
    before: Option<&[(Process, Usage); 3]>,
) -> Vec<Footprint> {
    let each = now.iter().enumerate().map(|(index, (process, total))| {
        let per_lane = before.map(|before| total.share(&before[index].1, lanes));
        Footprint { lanes, process: *process, total: *total, per_lane }
    });
    each.collect()
}

/// A way to `socket` for each caller; a connection is shared by as many as the agent lets call
/// at once on one.
async fn channels(socket: &std::path::Path, callers: u32) -> Result<Vec<Channel>, BenchError> {
    let mut channels = Vec::new();
    let mut shared = None;
    for caller in 0..callers {
        if caller % STREAMS_MAX == 0 {
            shared = Some(connect(socket).await?);
        }
        channels.extend(shared.clone());
    }
    Ok(channels)
}

/// On standard error, if that is a terminal. Drawn between measurements only, never by a thread.
fn progress(steps: u64) -> ProgressBar {
    let bar = ProgressBar::new(steps);
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len}  {msg}");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
