//! The command line: one binary for the agent, its clients, the workload's pipes and the demo.

mod attach;
pub(crate) mod client;
mod lane;
mod node;
pub(crate) mod output;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand, ValueEnum};

use crate::config::{Config, LogFormat, ReserveSize};

/// Hugepage lanes between programs of one node.
#[derive(Debug, Parser)]
#[command(name = "laneway", version, about, long_about = None, max_term_width = 100)]
#[command(after_help = "Examples:
  laneway demo                                        the whole thing on this machine, in a minute
  laneway doctor                                      what works here, and how to get the rest
  laneway agent                                       run the agent in the foreground
  laneway lane create orders --slot-size 56 --slots 1024
  laneway lane list --output json")]
pub(crate) struct Cli {
    /// Control socket of the agent, or http://127.0.0.1:PORT
    #[arg(long, global = true, env = "LANEWAY_SOCKET", value_name = "PATH")]
    socket: Option<String>,
    /// How answers are printed
    #[arg(long, global = true, value_enum, default_value = "table")]
    output: Output,
    #[command(subcommand)]
    command: Command,
}

/// How answers are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent until SIGTERM
    Agent(AgentArgs),
    /// Make, show and end lanes
    #[command(subcommand)]
    Lane(lane::LaneCommand),
    /// Show cores, pools and what this node can do
    #[command(subcommand)]
    Node(node::NodeCommand),
    /// Send or receive through a lane from the shell
    #[command(subcommand)]
    Attach(attach::AttachCommand),
    /// Try what works on this node, and say how to get the rest
    Doctor,
    /// Ask a running agent whether it serves; exit 0 if so
    Health,
    /// Run everything for real: agent, lanes, processes, kills, a report
    Demo(crate::demo::DemoArgs),
    /// Print a completion script
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    #[command(hide = true)]
    DemoWorker(crate::demo::WorkerArgs),
}

/// Run the agent until SIGTERM.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  laneway agent                                  defaults: /run/laneway and /var/lib/laneway as
                                                 root, XDG directories for everybody else
  laneway agent --reserve 2MiB=64                grow the hugepage pool at start
  laneway agent --config laneway.toml --print-config")]
struct AgentArgs {
    /// Configuration file (TOML, `version = 1`)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory of the sockets
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// Directory of the journal
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Grow the pool until so many pages are available, such as 2MiB=64; may be repeated
    #[arg(long, value_name = "SIZE=COUNT", value_parser = reserve)]
    reserve: Vec<(ReserveSize, u32)>,
    /// Also listen for gRPC on this loopback address
    #[arg(long, value_name = "ADDRESS")]
    listen_tcp: Option<SocketAddr>,
    /// How log lines look
    #[arg(long, value_enum)]
    log_format: Option<LogFormat>,
    /// Which log lines appear, such as info or laneway_agent=debug
    #[arg(long, value_name = "FILTER")]
    log_level: Option<String>,
    /// Print the effective configuration and exit
    #[arg(long)]
    print_config: bool,
}

fn reserve(text: &str) -> Result<(ReserveSize, u32), String> {
    let expected = "expected SIZE=COUNT, such as 2MiB=64 or 1GiB=1";
    let (size, count) = text.split_once('=').ok_or(expected)?;
    let size = match size {
        "2MiB" => ReserveSize::Huge2M,
        "1GiB" => ReserveSize::Huge1G,
        _ => return Err(expected.to_owned()),
    };
    Ok((size, count.parse().map_err(|_| expected)?))
}

/// A failure with its text for the person at the terminal.
pub(crate) type CliResult = Result<(), Box<dyn std::error::Error>>;

/// Runs a command line; `args` starts with the program's name.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to standard output and are no failure.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    match dispatch(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("laneway: {error}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(cli: Cli) -> CliResult {
    let socket = || cli.socket.clone().unwrap_or_else(default_socket);
    match cli.command {
        Command::Agent(args) => agent(args),
        Command::Lane(command) => lane::run(command, &socket(), cli.output),
        Command::Node(command) => node::run(command, &socket(), cli.output),
        Command::Attach(command) => attach::run(command, cli.socket.as_deref(), cli.output),
        Command::Doctor => doctor(cli.output),
        Command::Health => client::health(&socket()),
        Command::Demo(args) => crate::demo::run(args, cli.output == Output::Json),
        Command::DemoWorker(args) => crate::demo::work(args),
        Command::Completions { shell } => {
            let mut command = Cli::command();
            clap_complete::generate(shell, &mut command, "laneway", &mut std::io::stdout());
            Ok(())
        }
    }
}

fn default_socket() -> String {
    Config::default().control_socket().display().to_string()
}

fn agent(args: AgentArgs) -> CliResult {
    let mut config = Config::load(args.config.as_deref())?;
    if let Some(dir) = args.run_dir {
        config.agent.run_dir = dir;
    }
    if let Some(dir) = args.state_dir {
        config.agent.state_dir = dir;
    }
    if let Some(address) = args.listen_tcp {
        config.agent.listen_tcp = Some(address);
    }
    if let Some(format) = args.log_format {
        config.log.format = format;
    }
    if let Some(level) = args.log_level {
        config.log.level = level;
    }
    config.hugepages.reserve.extend(args.reserve);
    let config = config.checked()?;
    if args.print_config {
        print!("{}", toml::to_string(&config)?);
        return Ok(());
    }
    crate::telemetry::start(&config.log)?;
    Ok(crate::agent::run(&config)?)
}

fn doctor(output: Output) -> CliResult {
    let findings = crate::doctor::examine(std::path::Path::new("/"));
    output::doctor(&findings, output)?;
    let missing = findings.iter().filter(|finding| finding.required && !finding.works).count();
    if missing > 0 {
        return Err(format!("{missing} required features are missing on this node").into());
    }
    Ok(())
}
