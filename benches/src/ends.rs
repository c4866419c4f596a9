//! A worker's lane ends of one message size, and the measurements that they take part in.

use std::time::Duration;

use laneway_shm::{Attach, Consumer, Producer};

use crate::error::BenchError;
use crate::latency;
use crate::message::{Copied, Header, Large, Packed, Small};
use crate::ports::Crowd;
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

/// The ends of one message size. Lanes of each kind stand beside their slots, of crowds also
/// beside their readers.
#[derive(Debug)]
pub(crate) enum Ends {
    /// Starts round trips, produces streams.
    Initiator {
        echoes: Vec<(u32, Echo<Producer, Option<Consumer>>)>,
        streams: Vec<(u32, Producer)>,
        packed: Option<Producer>,
        crowds: Vec<((u32, u32), Producer)>,
    },
    /// Answers round trips, consumes streams.
    Responder {
        echoes: Vec<(u32, Echo<Option<Consumer>, Producer>)>,
        streams: Vec<(u32, Option<Consumer>)>,
        packed: Option<Consumer>,
        crowds: Vec<((u32, u32), Crowd<Consumer>)>,
    },
}

/// The lane there and the lane back.
#[derive(Debug)]
pub(crate) struct Echo<T, B> {
    ping: T,
    pong: B,
}

impl Ends {
    /// Attaches the ends that this side has of one message size.
    pub(crate) fn attach(setup: &Setup, tickets: &Tickets) -> Result<Self, BenchError> {
        // The worker is pinned already, to the cpu that the caller of the benchmark chose.
        let attach = |ticket: &str| -> Result<Attach, BenchError> {
            Ok(Attach::with_ticket(&setup.socket, ticket)?.pin(setup.pin))
        };
        let producer = |ticket: &str| Ok::<_, BenchError>(attach(ticket)?.producer()?);
        let consumer = |ticket: &str| Ok::<_, BenchError>(attach(ticket)?.consumer()?);
        let packed = tickets.packed.as_deref();
        Ok(match setup.side {
            Side::Initiator => {
                let (mut echoes, mut streams, mut crowds) = (Vec::new(), Vec::new(), Vec::new());
                for (slots, ping, pong) in &tickets.echoes {
                    let (ping, pong) = (producer(ping)?, Some(consumer(pong)?));
                    echoes.push((*slots, Echo { ping, pong }));
                }
                for (slots, ticket) in &tickets.streams {
                    streams.push((*slots, producer(ticket)?));
                }
                for crowd in &tickets.crowds {
                    crowds.push(((crowd.readers, crowd.slots), producer(&crowd.producer)?));
                }
                Self::Initiator {
                    echoes,
                    streams,
                    packed: packed.map(producer).transpose()?,
                    crowds,
                }
            }
            Side::Responder => {
                let (mut echoes, mut streams, mut crowds) = (Vec::new(), Vec::new(), Vec::new());
                for (slots, ping, pong) in &tickets.echoes {
                    let (ping, pong) = (Some(consumer(ping)?), producer(pong)?);
                    echoes.push((*slots, Echo { ping, pong }));
                }
                for (slots, ticket) in &tickets.streams {
                    streams.push((*slots, Some(consumer(ticket)?)));
                }
                for crowd in &tickets.crowds {
                    let attach = Attach::by_name(&setup.socket, &crowd.name).pin(setup.pin);
                    let readers = (0..crowd.readers).map(|_| Ok(attach.consumer()?));
                    let readers = readers.collect::<Result<_, BenchError>>()?;
                    crowds.push(((crowd.readers, crowd.slots), Crowd(readers)));
                }
                Self::Responder {
                    echoes,
                    streams,
                    packed: packed.map(consumer).transpose()?,
                    crowds,
                }
            }
        })
    }

    /// One message over each lane: whatever the ends must learn of each other, they learn now.
    pub(crate) fn greet(&mut self) -> Result<(), BenchError> {
        let patience = crate::message::PATIENCE;
        match self {
            Self::Initiator { echoes, streams, packed, crowds } => {
                let streams = streams.iter_mut().map(|(_, lane)| lane).chain(packed);
                let crowds = crowds.iter_mut().map(|(_, lane)| lane);
                let pings = echoes.iter_mut().map(|(_, echo)| &mut echo.ping);
                for lane in pings.chain(streams).chain(crowds) {
                    lane.maintain()?;
                    lane.send(b"hello", patience)?;
                    lane.maintain()?;
                }
                for lane in echoes.iter_mut().filter_map(|(_, echo)| echo.pong.as_mut()) {
                    lane.recv(patience)?.release();
                }
            }
            Self::Responder { echoes, streams, packed, crowds } => {
                let streams = streams.iter_mut().map(|(_, lane)| lane);
                let pings = echoes.iter_mut().map(|(_, echo)| &mut echo.ping);
                let crowds = crowds.iter_mut().flat_map(|(_, crowd)| &mut crowd.0);
                for lane in pings.chain(streams).flatten().chain(packed).chain(crowds) {
                    lane.recv(patience)?.release();
                }
                for (_, echo) in echoes {
                    echo.pong.send(b"hello", patience)?;
                    echo.pong.maintain()?;
                }
            }
        }
        Ok(())
    }

    /// Takes this side's part in a measurement.
    pub(crate) fn run(&mut self, task: &Task) -> Result<Answer, BenchError> {
        let crowd = (task.readers, task.depth);
        match (self, task.work) {
            (Self::Initiator { echoes, .. }, Work::Latency) => {
                let Echo { ping, pong } = found(echoes, task.depth)?;
                initiate(task, ping, pong)
            }
            (Self::Responder { echoes, .. }, Work::Latency) => {
                let Echo { ping, pong } = found(echoes, task.depth)?;
                respond(task, ping, pong)
            }
            (Self::Initiator { packed, .. }, _) if task.packed => produce_packed(task, packed),
            (Self::Responder { packed, .. }, _) if task.packed => consume_packed(task, packed),
            (Self::Initiator { crowds, .. }, _) if task.readers > 1 => {
                produce(task, found(crowds, crowd)?)
            }
            (Self::Responder { crowds, .. }, _) if task.readers > 1 => {
                consume_together(task, found(crowds, crowd)?)
            }
            (Self::Initiator { streams, .. }, _) => produce(task, found(streams, task.depth)?),
            (Self::Responder { streams, .. }, Work::Batch) => {
                consume_batches(task, found(streams, task.depth)?)
            }
            (Self::Responder { streams, .. }, _) => consume(task, found(streams, task.depth)?),
        }
    }
}

/// The end that is known by `key`.
fn found<K: PartialEq, L>(lanes: &mut [(K, L)], key: K) -> Result<&mut L, BenchError> {
    let found = lanes.iter_mut().find(|(known, _)| *known == key);
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

fn consume_together(task: &Task, crowd: &mut Crowd<Consumer>) -> Result<Answer, BenchError> {
    let (time, bytes) = (Duration::from_millis(task.millis), task.bytes);
    let throughput = shaped!(task, shape => stream::consume(shape, crowd, time, bytes));
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
