//! A worker's lane ends of one message size, and the measurements that they take part in.

use std::time::Duration;

use laneway_shm::{Attach, Consumer, Producer};

use crate::error::BenchError;
use crate::latency;
use crate::message::{Copied, Header, Large, Packed, Small};
use crate::queue::by_value;
use crate::stream;
use crate::task::{Answer, Mode, Setup, Side, Task, Tickets, Work};
use crate::trusted::trust;

/// Runs `$body` with the `$shape` for the task: the sizes that people look at are compiled in.
macro_rules! shaped {
    ($task:expr, $shape:ident => $body:expr) => {
        shaped!($task, $shape => $body, 8, 56, 64, 256)
    };
    ($task:expr, $shape:ident => $body:expr, $($size:literal),*) => {
        match ($task.mode, $task.bytes) {
            (Mode::Header, len) => {
                let $shape = &mut Header { len };
                $body
            }
            $((Mode::All, $size) => {
                let $shape = &mut Small::<$size>;
                $body
            })*
            (Mode::All, len) if $task.sent => {
                let $shape = &mut Copied::new(len);
                $body
            }
            (Mode::All, len) => {
                let $shape = &mut Large::new(len);
                $body
            }
        }
    };
}

/// Runs `$body` with the strict consumer or the trusting one as `$inlet`, and puts it back.
macro_rules! reading {
    ($task:expr, $place:expr, $inlet:ident => $body:expr) => {
        match ($place.take(), $task.trusted) {
            (None, _) => Err(BenchError::Peer(Duration::ZERO)),
            (Some(mut strict), false) => {
                let $inlet = &mut strict;
                let answer = $body;
                *$place = Some(strict);
                answer
            }
            (Some(strict), true) => {
                let mut trusting = trust(strict);
                let $inlet = &mut trusting;
                let answer = $body;
                *$place = Some(trusting.into_strict());
                answer
            }
        }
    };
}

/// The ends of one message size.
#[derive(Debug)]
pub(crate) enum Ends {
    /// Starts round trips, produces streams.
    Initiator {
        ping: Producer,
        pong: Option<Consumer>,
        streams: Vec<(u32, Producer)>,
        packed: Option<Producer>,
    },
    /// Answers round trips, consumes streams.
    Responder {
        ping: Option<Consumer>,
        pong: Producer,
        streams: Vec<(u32, Option<Consumer>)>,
        packed: Option<Consumer>,
    },
}

impl Ends {
    /// Attaches the ends that this side has of one message size.
    pub(crate) fn attach(setup: &Setup, tickets: &Tickets) -> Result<Self, BenchError> {
        // The worker is pinned already, to the cpu that the caller of the benchmark chose.
        let attach = |ticket: &str| -> Result<Attach, BenchError> {
            Ok(Attach::with_ticket(&setup.socket, ticket)?.pin(setup.pin))
        };
        Ok(match setup.side {
            Side::Initiator => {
                let ping = attach(&tickets.ping)?.producer()?;
                let pong = Some(attach(&tickets.pong)?.consumer()?);
                let mut streams = Vec::new();
                for (slots, ticket) in &tickets.streams {
                    streams.push((*slots, attach(ticket)?.producer()?));
                }
                let packed = tickets.packed.as_deref();
                let packed = packed.map(|ticket| Ok::<_, BenchError>(attach(ticket)?.producer()?));
                Self::Initiator { ping, pong, streams, packed: packed.transpose()? }
            }
            Side::Responder => {
                let ping = Some(attach(&tickets.ping)?.consumer()?);
                let pong = attach(&tickets.pong)?.producer()?;
                let mut streams = Vec::new();
                for (slots, ticket) in &tickets.streams {
                    streams.push((*slots, Some(attach(ticket)?.consumer()?)));
                }
                let packed = tickets.packed.as_deref();
                let packed = packed.map(|ticket| Ok::<_, BenchError>(attach(ticket)?.consumer()?));
                Self::Responder { ping, pong, streams, packed: packed.transpose()? }
            }
        })
    }

    /// One message over each lane: whatever the ends must learn of each other, they learn now.
    pub(crate) fn greet(&mut self) -> Result<(), BenchError> {
        let patience = crate::message::PATIENCE;
        match self {
            Self::Initiator { ping, pong, streams, packed } => {
                let streams = streams.iter_mut().map(|(_, lane)| lane).chain(packed);
                for lane in std::iter::once(ping).chain(streams) {
                    lane.send(b"hello", patience)?;
                    lane.maintain()?;
                }
                if let Some(lane) = pong {
                    lane.recv(patience)?.release();
                }
            }
            Self::Responder { ping, pong, streams, packed } => {
                let streams = streams.iter_mut().map(|(_, lane)| lane);
                for lane in std::iter::once(ping).chain(streams).flatten().chain(packed) {
                    lane.recv(patience)?.release();
                }
                pong.send(b"hello", patience)?;
                pong.maintain()?;
            }
        }
        Ok(())
    }

    /// Takes this side's part in a measurement.
    pub(crate) fn run(&mut self, task: &Task) -> Result<Answer, BenchError> {
        match (self, task.work) {
            (Self::Initiator { ping, pong, .. }, Work::Latency) => initiate(task, ping, pong),
            (Self::Responder { ping, pong, .. }, Work::Latency) => respond(task, ping, pong),
            (Self::Initiator { packed, .. }, _) if task.packed => produce_packed(task, packed),
            (Self::Responder { packed, .. }, _) if task.packed => consume_packed(task, packed),
            (Self::Initiator { streams, .. }, _) => produce(task, deep(streams, task.depth)?),
            (Self::Responder { streams, .. }, Work::Batch) => {
                consume_batches(task, deep(streams, task.depth)?)
            }
            (Self::Responder { streams, .. }, _) => consume(task, deep(streams, task.depth)?),
        }
    }
}

/// The stream's end with `slots` slots.
fn deep<L>(streams: &mut [(u32, L)], slots: u32) -> Result<&mut L, BenchError> {
    let found = streams.iter_mut().find(|(depth, _)| *depth == slots);
    found.map(|(_, lane)| lane).ok_or(BenchError::Peer(Duration::ZERO))
}

fn initiate(
    task: &Task,
    ping: &mut Producer,
    pong: &mut Option<Consumer>,
) -> Result<Answer, BenchError> {
    let time = Duration::from_millis(task.millis);
    let latency = reading!(task, pong, inlet => shaped!(
        task, shape => latency::initiate(shape, ping, inlet, time)));
    latency.map(Answer::Latency)
}

fn respond(
    task: &Task,
    ping: &mut Option<Consumer>,
    pong: &mut Producer,
) -> Result<Answer, BenchError> {
    let answered = reading!(task, ping, inlet => shaped!(
        task, shape => latency::respond(shape, inlet, pong)));
    answered.map(|()| Answer::Done)
}

fn produce(task: &Task, lane: &mut Producer) -> Result<Answer, BenchError> {
    let (time, bytes) = (Duration::from_millis(task.millis), task.bytes);
    if task.work == Work::Batch {
        shaped!(task, shape => stream::produce_batches(shape, lane, time, bytes))?;
    } else {
        shaped!(task, shape => stream::produce(shape, lane, time, bytes))?;
    }
    Ok(Answer::Done)
}

fn consume(task: &Task, lane: &mut Option<Consumer>) -> Result<Answer, BenchError> {
    let (time, bytes) = (Duration::from_millis(task.millis), task.bytes);
    let throughput = reading!(task, lane, inlet => shaped!(
        task, shape => stream::consume(shape, inlet, time, bytes)));
    throughput.map(Answer::Throughput)
}

/// Batches are received by the strict consumer only.
fn consume_batches(task: &Task, lane: &mut Option<Consumer>) -> Result<Answer, BenchError> {
    let (time, bytes) = (Duration::from_millis(task.millis), task.bytes);
    let Some(lane) = lane else {
        return Err(BenchError::Peer(Duration::ZERO));
    };
    let throughput = shaped!(task, shape => stream::consume_batches(shape, lane, time, bytes));
    throughput.map(Answer::Throughput)
}

fn produce_packed(task: &Task, lane: &mut Option<Producer>) -> Result<Answer, BenchError> {
    let time = Duration::from_millis(task.millis);
    let lane = lane.as_mut().ok_or(BenchError::Peer(Duration::ZERO))?;
    by_value!(task.bytes, [8, 56, 64, 256],
        N => stream::produce_batches(&mut Packed::<N>, lane, time, N),
        else Err(BenchError::Peer(Duration::ZERO)))?;
    Ok(Answer::Done)
}

fn consume_packed(task: &Task, lane: &mut Option<Consumer>) -> Result<Answer, BenchError> {
    let time = Duration::from_millis(task.millis);
    let lane = lane.as_mut().ok_or(BenchError::Peer(Duration::ZERO))?;
    let throughput = by_value!(task.bytes, [8, 56, 64, 256],
        N => stream::consume_batches(&mut Packed::<N>, lane, time, N),
        else Err(BenchError::Peer(Duration::ZERO)));
    throughput.map(Answer::Throughput)
}
