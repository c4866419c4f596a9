//! The hidden role `laneway-bench crowd`: one pinned process with all readers of broadcast lanes.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use laneway_shm::{Attach, Consumer, Producer, Receiver, Subscriber};
use serde::{Deserialize, Serialize};

use crate::child;
use crate::error::BenchError;
use crate::message::{Idle, PATIENCE, Read, Seen, judge};
use crate::probe::pin;
use crate::task::Answer;
use crate::worker::{next, say};

/// Bytes of a message: one cache line with its commit word.
pub(crate) const BYTES: usize = 56;
/// Messages that a reader takes before it is the next one's turn.
const TURN: usize = 32;

/// First line: who reads what.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CrowdSetup {
    pub(crate) cpu: u32,
    pub(crate) socket: PathBuf,
    /// Names and numbers of readers.
    pub(crate) lanes: Vec<(String, u32)>,
    /// Ticket of the lane that tells when a burst is over.
    pub(crate) bursts: String,
    /// Ticket of the lane that tells when everybody has read it.
    pub(crate) done: String,
}

/// Later lines: read one lane until the stream stops.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct CrowdOrder {
    /// Index of the lane.
    pub(crate) lane: usize,
    /// Messages of a burst.
    pub(crate) burst: u64,
    /// Whether readers leave the lane alone while a burst is being written.
    pub(crate) quiet: bool,
}

/// Reads until standard input ends.
pub(crate) fn run(parent: Option<i32>) -> Result<ExitCode, BenchError> {
    child::adopt(parent)?;
    let mut lines = io::stdin().lines();
    let setup = next(&mut lines, "the setup")?;
    let read = setup.map_or(Ok(()), |setup| read_all(&setup, &mut lines));
    match read {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            say(&Answer::Failed(error.to_string()))?;
            Ok(ExitCode::FAILURE)
        }
    }
}

fn read_all(setup: &CrowdSetup, lines: &mut impl crate::worker::Lines) -> Result<(), BenchError> {
    let _pinned = pin(setup.cpu)?;
    let with = |ticket| Attach::with_ticket(&setup.socket, ticket).map(|attach| attach.pin(false));
    let mut bursts = with(&setup.bursts)?.consumer()?;
    let mut done = with(&setup.done)?.producer()?;
    let mut lanes = Vec::new();
    for (name, readers) in &setup.lanes {
        let attach = Attach::by_name(&setup.socket, name).pin(false);
        let readers = (0..*readers).map(|_| Ok(Reader::new(attach.receiver()?)));
        lanes.push(readers.collect::<Result<Vec<Reader>, BenchError>>()?);
    }
    say(&Answer::Done)?;
    while let Some(order) = next::<CrowdOrder>(lines, "an order")? {
        let answer = match lanes.get_mut(order.lane) {
            Some(readers) => {
                listen(readers, order, &mut bursts, &mut done)?;
                Answer::Done
            }
            None => Answer::Failed(format!("no lane {}", order.lane)),
        };
        say(&answer)?;
    }
    Ok(())
}

/// One reader of a lane.
#[derive(Debug)]
struct Reader {
    end: Receiver,
    count: u64,
    stopped: bool,
}

impl Reader {
    fn new(end: Receiver) -> Self {
        Self { end, count: 0, stopped: false }
    }

    /// Takes a few messages.
    fn turn(&mut self) -> Result<(), BenchError> {
        for _ in 0..TURN {
            let seen = match &mut self.end {
                Receiver::Consumer(consumer) => take(consumer, self.count + 1)?,
                Receiver::Subscriber(subscriber) => hear(subscriber, self.count + 1)?,
            };
            match seen {
                None => return Ok(()),
                Some(Seen::Message) => self.count += 1,
                Some(Seen::Stop) => {
                    self.stopped = true;
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

#[inline(always)]
fn take(consumer: &mut Consumer, expected: u64) -> Result<Option<Seen>, BenchError> {
    let read = consumer.try_recv_array(|bytes: [u8; BYTES]| Read::of(&bytes))?;
    read.map(|read| read.judge(BYTES, expected)).transpose()
}

#[inline(always)]
fn hear(subscriber: &mut Subscriber, expected: u64) -> Result<Option<Seen>, BenchError> {
    match subscriber.poll() {
        Ok(Some(message)) => judge(message.bytes, BYTES, expected).map(Some),
        Ok(None) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Every reader reads every message; the producer hears when a burst was read by all.
fn listen(
    readers: &mut [Reader],
    order: CrowdOrder,
    bursts: &mut Consumer,
    done: &mut Producer,
) -> Result<(), BenchError> {
    for reader in readers.iter_mut() {
        (reader.count, reader.stopped) = (0, false);
    }
    let mut told = 0;
    let mut idle = Idle::default();
    loop {
        if order.quiet {
            bursts.recv_array(PATIENCE, |_: [u8; 8]| ())?;
        }
        loop {
            for reader in readers.iter_mut().filter(|reader| !reader.stopped) {
                reader.turn()?;
            }
            if readers.iter().all(|reader| reader.stopped) {
                return Ok(());
            }
            let slowest = readers.iter().map(|reader| reader.count).min().unwrap_or(0);
            if slowest >= told + order.burst {
                told += order.burst;
                done.send_array(told.to_le_bytes(), PATIENCE)?;
                idle = Idle::default();
                break;
            }
            idle.spin()?;
        }
    }
}
