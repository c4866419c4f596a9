//! `laneway attach …`: standard input or generated messages through a lane, and out again.

use std::error::Error;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use laneway_shm::{Attach, Reason, Receiver, RecvError, Start};
use serde_json::json;

use super::{CliResult, Output};
use crate::config::{ATTACH_SOCKET, Config};
use crate::workload::{Tally, fill};

#[derive(Debug, Subcommand)]
pub(super) enum AttachCommand {
    /// Send standard input, or generated messages, through a lane
    Send(SendArgs),
    /// Receive from a lane to standard output, or check generated messages
    Recv(RecvArgs),
}

/// Where to attach and by what right.
#[derive(Debug, Args)]
struct Where {
    /// Attach socket of the agent; default the one beside its control socket
    #[arg(long, env = "LANEWAY_ATTACH_SOCKET", value_name = "PATH")]
    attach_socket: Option<PathBuf>,
    /// One-time ticket (visible in the process list; a file or the variable is not)
    #[arg(long, env = "LANEWAY_TICKET", hide_env_values = true, group = "claim")]
    ticket: Option<String>,
    /// File that holds the ticket
    #[arg(long, value_name = "FILE", group = "claim")]
    ticket_file: Option<PathBuf>,
    /// Attach by the lane's name: its uid and gid rules decide
    #[arg(long, value_name = "NAME", group = "claim")]
    lane: Option<String>,
    /// Do not pin this thread to the granted core
    #[arg(long)]
    no_pin: bool,
    /// Give up when the other end is silent for this long
    #[arg(long, default_value_t = 60_000)]
    timeout_ms: u64,
}

impl Where {
    fn attach(&self, control: Option<&str>) -> Result<Attach, Box<dyn Error>> {
        // An agent of its own directory is named once, by its control socket.
        let beside = control.filter(|control| !control.contains("://"));
        let beside = beside.and_then(|path| Some(Path::new(path).parent()?.join(ATTACH_SOCKET)));
        let socket = self.attach_socket.clone().or(beside);
        let socket = socket.unwrap_or_else(|| Config::default().attach_socket());
        let attach = match (&self.ticket, &self.ticket_file, &self.lane) {
            (Some(ticket), _, _) => Attach::with_ticket(socket, ticket)?,
            (_, Some(file), _) => {
                let text = std::fs::read_to_string(file)
                    .map_err(|error| format!("cannot read {}: {error}", file.display()))?;
                Attach::with_ticket(socket, text.trim())?
            }
            (_, _, Some(lane)) => Attach::by_name(socket, lane),
            _ => return Err("one of --ticket, --ticket-file and --lane is needed".into()),
        };
        Ok(attach.pin(!self.no_pin))
    }

    fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }
}

/// Send standard input, or generated messages, through a lane.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  echo hello | laneway attach send --lane logs
  laneway attach send --ticket-file ticket --count 1000000 --size 56")]
pub(super) struct SendArgs {
    #[command(flatten)]
    at: Where,
    /// Generate this many checkable messages instead of reading standard input
    #[arg(long)]
    count: Option<u64>,
    /// Bytes of a generated message, or of one piece of standard input
    #[arg(long, default_value_t = 56, value_parser = clap::value_parser!(u32).range(1..))]
    size: u32,
}

/// Receive from a lane to standard output, or check generated messages.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  laneway attach recv --lane logs > received
  laneway attach recv --ticket-file ticket --count 1000000 --verify --output json")]
pub(super) struct RecvArgs {
    #[command(flatten)]
    at: Where,
    /// Stop after this many messages instead of at the end of the stream
    #[arg(long)]
    count: Option<u64>,
    /// Check generated messages instead of writing them out
    #[arg(long)]
    verify: bool,
    /// Start a broadcast lane with the oldest message that it retains, not with the next one
    #[arg(long)]
    oldest: bool,
}

pub(super) fn run(command: AttachCommand, control: Option<&str>, form: Output) -> CliResult {
    match command {
        AttachCommand::Send(args) => send(&args, control),
        AttachCommand::Recv(args) => receive(&args, control, form),
    }
}

fn send(args: &SendArgs, control: Option<&str>) -> CliResult {
    let mut producer = args.at.attach(control)?.producer()?;
    let timeout = args.at.timeout();
    let mut message = vec![0; (args.size as usize).min(producer.message_max())];
    if let Some(count) = args.count {
        for sequence in 0..count {
            fill(sequence, &mut message);
            producer.send(&message, timeout)?;
        }
    } else {
        let mut input = std::io::stdin().lock();
        loop {
            let len = input.read(&mut message)?;
            if len == 0 {
                break;
            }
            producer.send(&message[..len], timeout)?;
        }
    }
    producer.close(timeout)?;
    Ok(())
}

/// The next message into `message`, whatever the lane is; `None` at the end of the stream. What a
/// broadcast lane lost is said on standard error and shows in the tally.
fn next(
    receiver: &mut Receiver,
    timeout: Duration,
    message: &mut Vec<u8>,
) -> Result<Option<usize>, RecvError> {
    loop {
        let received = match receiver {
            Receiver::Consumer(consumer) => consumer.recv(timeout).map(|slot| {
                message.resize(slot.len().max(message.len()), 0);
                slot.copy_to(message)
            }),
            Receiver::Subscriber(subscriber) => subscriber.recv(timeout).map(|received| {
                let len = received.bytes.len();
                message.resize(len.max(message.len()), 0);
                message[..len].copy_from_slice(received.bytes);
                len
            }),
        };
        match received {
            Ok(len) => return Ok(Some(len)),
            Err(RecvError::Closed { .. }) => return Ok(None),
            Err(
                lost @ (RecvError::Lost { .. } | RecvError::GivenUp { reason: Reason::Behind, .. }),
            ) => eprintln!("{lost}"),
            Err(error) => return Err(error),
        }
    }
}

fn receive(args: &RecvArgs, control: Option<&str>, form: Output) -> CliResult {
    let start = if args.oldest { Start::Oldest } else { Start::Newest };
    let mut receiver = args.at.attach(control)?.start(start).receiver()?;
    let mut output = std::io::stdout().lock();
    let mut message = Vec::new();
    let mut tally = Tally::default();
    let mut start = None;
    while args.count.is_none_or(|count| tally.received < count) {
        let Some(len) = next(&mut receiver, args.at.timeout(), &mut message)? else { break };
        start.get_or_insert_with(Instant::now);
        if args.verify {
            tally.count(&message[..len]);
        } else {
            tally.received += 1;
            output.write_all(&message[..len])?;
            output.flush()?;
        }
    }
    if args.verify {
        let missing = args.count.unwrap_or(tally.next).saturating_sub(tally.next);
        tally.lost += missing;
        let seconds = start.map_or(0.0, |start| start.elapsed().as_secs_f64());
        report(&tally, seconds, form, &mut output)?;
    }
    Ok(())
}

fn report(tally: &Tally, seconds: f64, form: Output, output: &mut impl Write) -> CliResult {
    let Tally { received, lost, torn, out_of_order, duplicates, .. } = *tally;
    match form {
        Output::Json => {
            let report = json!({
                "received": received, "lost": lost, "torn": torn,
                "out_of_order": out_of_order, "duplicates": duplicates, "seconds": seconds,
            });
            writeln!(output, "{report}")?;
        }
        Output::Table => writeln!(
            output,
            "received {received} in {seconds:.3} s: lost {lost}, torn {torn}, out of order \
             {out_of_order}, duplicates {duplicates}"
        )?,
    }
    if tally.is_clean() { Ok(()) } else { Err("messages were lost, torn or out of order".into()) }
}
