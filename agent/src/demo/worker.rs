//! What the demo's processes do: an ordinary workload's code, with the library alone.

use std::error::Error;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use hdrhistogram::Histogram;
use laneway_shm::{Attach, Consumer, Producer, RecvError};
use serde::{Deserialize, Serialize};

use super::syscalls::mark;
use crate::workload::{Tally, fill};

/// The other end of a demo's lane answers within this time, or the demo has failed.
const PATIENCE: Duration = Duration::from_secs(40);

#[derive(Debug, Args)]
pub(crate) struct WorkerArgs {
    #[command(subcommand)]
    kind: Kind,
}

#[derive(Debug, Subcommand)]
enum Kind {
    Produce(EndArgs),
    Consume(EndArgs),
    Ping(PongArgs),
    Pong(PongArgs),
}

#[derive(Debug, Args)]
struct EndArgs {
    #[arg(long)]
    attach_socket: PathBuf,
    #[arg(long, env = "LANEWAY_TICKET", hide_env_values = true)]
    ticket: String,
    /// Sequence number at which the stream ends [default: a producer's, when standard input does]
    #[arg(long)]
    until: Option<u64>,
    #[arg(long)]
    size: usize,
    /// File for the last sequence number that was committed or processed.
    #[arg(long)]
    witness: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct PongArgs {
    #[arg(long)]
    attach_socket: PathBuf,
    #[arg(long, env = "LANEWAY_TICKET", hide_env_values = true)]
    ticket: String,
    /// Ticket of the way back.
    #[arg(long, env = "LANEWAY_TICKET_BACK", hide_env_values = true)]
    back: String,
    #[arg(long)]
    rounds: u64,
    #[arg(long)]
    size: usize,
}

/// What a producer says at its end.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Produced {
    /// First sequence number that it sent.
    pub(super) first: u64,
    /// Sequence number at which it ended the stream.
    pub(super) end: u64,
}

/// What a consumer says at its end.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Consumed {
    /// First sequence number that it was given.
    pub(super) first: u64,
    /// What arrived.
    pub(super) tally: Tally,
    /// From the first message to the last.
    pub(super) nanoseconds: u64,
}

/// What the pinging end measured.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Pinged {
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) p999: f64,
}

/// Runs one worker and prints its report.
pub(crate) fn work(args: WorkerArgs) -> Result<(), Box<dyn Error>> {
    match args.kind {
        Kind::Produce(args) => print(&produce(&args)?),
        Kind::Consume(args) => print(&consume(&args)?),
        Kind::Ping(args) => print(&ping(&args)?),
        Kind::Pong(args) => pong(&args),
    }
}

fn print<T: Serialize>(report: &T) -> Result<(), Box<dyn Error>> {
    println!("{}", serde_json::to_string(report)?);
    Ok(())
}

/// Writes a number beside the lane, so that it survives this process.
struct Witness(Option<File>);

impl Witness {
    fn open(path: Option<&PathBuf>) -> std::io::Result<Self> {
        Ok(Self(path.map(File::create).transpose()?))
    }

    fn note(&self, sequence: u64) -> std::io::Result<()> {
        match &self.0 {
            Some(file) => file.write_all_at(&sequence.to_le_bytes(), 0),
            None => Ok(()),
        }
    }
}

/// When a producer ends its stream.
enum End {
    At(u64),
    /// Also when whoever started this process is gone.
    WithInput(Arc<AtomicBool>),
}

impl End {
    fn new(until: Option<u64>) -> Self {
        if let Some(until) = until {
            return Self::At(until);
        }
        let ended = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&ended);
        std::thread::spawn(move || {
            // Whatever comes instead of an end is nothing to this process; an error is the end.
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            told.store(true, Ordering::Relaxed);
        });
        Self::WithInput(ended)
    }

    fn is_at(&self, sequence: u64) -> bool {
        match self {
            Self::At(until) => sequence >= *until,
            // A flag and nothing behind it: no order with anything else is wanted.
            Self::WithInput(ended) => ended.load(Ordering::Relaxed),
        }
    }
}

/// Sends messages until the end. Every message takes one slot, so a successor's first position is
/// the number of messages that were committed before it: its sequence goes on from there.
fn produce(args: &EndArgs) -> Result<Produced, Box<dyn Error>> {
    let mut producer = Attach::with_ticket(&args.attach_socket, &args.ticket)?.producer()?;
    let witness = Witness::open(args.witness.as_ref())?;
    let first = producer.position();
    let mut message = vec![0; args.size];
    let mut send = |producer: &mut Producer, sequence| -> Result<(), Box<dyn Error>> {
        fill(sequence, &mut message);
        producer.send(&message, PATIENCE)?;
        // After the commit has returned: what stands here must arrive, whatever happens next.
        Ok(witness.note(sequence)?)
    };
    let (end, mut sequence) = (End::new(args.until), first);
    while !end.is_at(sequence) {
        send(&mut producer, sequence)?;
        // A ring full and one more: the consumer is there by now, and has given room back.
        if sequence == first + u64::from(producer.grant().slot_count) {
            mark();
        }
        sequence += 1;
    }
    mark();
    producer.close(PATIENCE)?;
    Ok(Produced { first, end: sequence })
}

fn consume(args: &EndArgs) -> Result<Consumed, Box<dyn Error>> {
    let mut consumer = Attach::with_ticket(&args.attach_socket, &args.ticket)?.consumer()?;
    let witness = Witness::open(args.witness.as_ref())?;
    let first = consumer.position();
    let mut tally = Tally::starting_at(first);
    let mut message = vec![0; args.size];
    let mut start = None;
    while args.until.is_none_or(|until| tally.next < until) {
        let slot = match consumer.recv(PATIENCE) {
            Ok(slot) => slot,
            Err(RecvError::Closed { .. }) => break,
            Err(error) => return Err(error.into()),
        };
        if start.is_none() {
            mark();
            start = Some(Instant::now());
        }
        let len = slot.copy_to(&mut message);
        tally.count(&message[..len]);
        // Before the release: a message that was given back was processed, never the reverse.
        witness.note(tally.next.wrapping_sub(1))?;
    }
    let elapsed = start.map(|start| start.elapsed()).unwrap_or_default();
    mark();
    let nanoseconds = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
    Ok(Consumed { first, tally, nanoseconds })
}

fn both_ways(args: &PongArgs, pings: bool) -> Result<(Producer, Consumer), Box<dyn Error>> {
    let out = Attach::with_ticket(&args.attach_socket, &args.ticket)?;
    let back = Attach::with_ticket(&args.attach_socket, &args.back)?;
    // One thread runs both ends of this process; it is pinned to the core of the lane that it
    // writes, which is the one that the other process does not use.
    if pings {
        Ok((out.producer()?, back.pin(false).consumer()?))
    } else {
        let consumer = out.consumer()?;
        Ok((back.pin(false).producer()?, consumer))
    }
}

fn ping(args: &PongArgs) -> Result<Pinged, Box<dyn Error>> {
    let (mut producer, mut consumer) = both_ways(args, true)?;
    let mut histogram = Histogram::<u64>::new_with_max(60_000_000_000, 3)?;
    let mut message = vec![0; args.size];
    for round in 0..args.rounds {
        fill(round, &mut message);
        let start = Instant::now();
        producer.send(&message, PATIENCE)?;
        consumer.recv(PATIENCE)?.copy_to(&mut message);
        let round_trip = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        // The first tenth warms caches and predictors.
        if round >= args.rounds / 10 {
            histogram.record(round_trip)?;
        }
        if crate::workload::sequence_of(&message) != Some(round) {
            return Err(format!("round {round} came back changed").into());
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "nanoseconds of a round trip")]
    let half = |quantile| histogram.value_at_quantile(quantile) as f64 / 2.0;
    Ok(Pinged { p50: half(0.5), p99: half(0.99), p999: half(0.999) })
}

fn pong(args: &PongArgs) -> Result<(), Box<dyn Error>> {
    let (mut producer, mut consumer) = both_ways(args, false)?;
    let mut message = vec![0; args.size];
    for _ in 0..args.rounds {
        consumer.recv(PATIENCE)?.copy_to(&mut message);
        producer.send(&message, PATIENCE)?;
    }
    println!("{{}}");
    Ok(())
}
