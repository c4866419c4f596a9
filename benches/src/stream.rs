//! Streaming throughput: as many messages as go through, timed where they arrive.

use std::time::{Duration, Instant};

use laneway_shm::{Consumer, Producer, ReserveError};
use serde::{Deserialize, Serialize};

use crate::error::BenchError;
use crate::message::{Idle, Inlet, STOP, Seen, Shape};

/// Messages of a batch.
pub(crate) const BATCH: u64 = 32;

/// What arrived in which time, the first tenth left out.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Throughput {
    pub(crate) messages: u64,
    pub(crate) seconds: f64,
}

impl Throughput {
    /// Messages per second.
    pub(crate) fn rate(&self) -> f64 {
        self.messages as f64 / self.seconds
    }
}

/// Looks at the clock once in a while, so that small messages do not pay for it.
#[derive(Debug)]
pub(crate) struct Meter {
    time: Duration,
    /// Messages between two looks, less one: a power of two, so that a mask tells.
    mask: u64,
    start: Instant,
    /// When the first tenth was over, and how many messages had come.
    mark: Option<(Instant, u64)>,
}

impl Meter {
    /// Starts now; messages have `bytes` bytes.
    pub(crate) fn new(time: Duration, bytes: usize) -> Self {
        Self {
            time,
            mask: (65536 / bytes.max(1) as u64).clamp(1, 1024).next_power_of_two() - 1,
            start: Instant::now(),
            mark: None,
        }
    }

    /// Whether the time is up, as seen every few messages.
    #[inline(always)]
    pub(crate) fn over(&self, count: u64) -> bool {
        count & self.mask == 0 && self.start.elapsed() >= self.time
    }

    /// Called with the number of messages that have arrived.
    #[inline(always)]
    pub(crate) fn arrived(&mut self, count: u64) {
        if count & self.mask == 0 && self.mark.is_none() {
            self.mark_if_warm(count);
        }
    }

    #[cold]
    fn mark_if_warm(&mut self, count: u64) {
        let now = Instant::now();
        if now.duration_since(self.start) * 10 >= self.time {
            self.mark = Some((now, count));
        }
    }

    /// Called right after the last of `count` messages; `None` if the time was too short.
    pub(crate) fn finish(self, count: u64) -> Option<Throughput> {
        let (warm, before) = self.mark?;
        let (messages, seconds) = (count - before, warm.elapsed().as_secs_f64());
        (messages > 0 && seconds > 0.0).then_some(Throughput { messages, seconds })
    }
}

/// Sends for `time`, one publish for each message.
#[inline(never)]
pub(crate) fn produce(
    shape: &mut impl Shape,
    lane: &mut Producer,
    time: Duration,
    bytes: usize,
) -> Result<(), BenchError> {
    let meter = Meter::new(time, bytes);
    let mut number = 0;
    while !meter.over(number) {
        number += 1;
        shape.send(lane, number)?;
    }
    shape.send(lane, STOP)
}

/// Receives until the stream stops.
#[inline(never)]
pub(crate) fn consume(
    shape: &mut impl Shape,
    lane: &mut impl Inlet,
    time: Duration,
    bytes: usize,
) -> Result<Option<Throughput>, BenchError> {
    if shape.receive(lane, 1)? == Seen::Stop {
        return Ok(None);
    }
    let mut meter = Meter::new(time, bytes);
    let mut count = 1;
    while shape.receive(lane, count + 1)? == Seen::Message {
        count += 1;
        meter.arrived(count);
    }
    Ok(meter.finish(count))
}

/// Sends for `time`, one publish for 32 messages.
#[inline(never)]
pub(crate) fn produce_batches(
    shape: &mut impl Shape,
    lane: &mut Producer,
    time: Duration,
    bytes: usize,
) -> Result<(), BenchError> {
    let meter = Meter::new(time, bytes);
    let mut number = 0;
    while meter.start.elapsed() < time {
        // Several batches for one look at the clock.
        for _ in 0..8 {
            let mut batch = lane.batch();
            for _ in 0..BATCH {
                number += 1;
                push(shape, &mut batch, number)?;
            }
            batch.commit();
        }
    }
    shape.send(lane, STOP)
}

/// Adds to a batch, spinning while the ring is full.
#[inline(always)]
fn push(
    shape: &mut impl Shape,
    batch: &mut laneway_shm::WriteBatch<'_>,
    number: u64,
) -> Result<(), BenchError> {
    let mut idle = Idle::default();
    loop {
        match shape.push(batch, number) {
            Err(ReserveError::Full { .. }) => idle.spin()?,
            result => return Ok(result?),
        }
    }
}

/// Receives many at once until the stream stops.
#[inline(never)]
pub(crate) fn consume_batches(
    shape: &mut impl Shape,
    lane: &mut Consumer,
    time: Duration,
    bytes: usize,
) -> Result<Option<Throughput>, BenchError> {
    let mut meter = None;
    let (mut count, mut idle) = (0, Idle::default());
    let limit = usize::try_from(BATCH).unwrap_or(1);
    loop {
        let before = count;
        let mut batch = lane.poll_many(limit);
        while let Some(view) = batch.next()? {
            if shape.judge(&view, count + 1)? == Seen::Stop {
                drop(batch);
                return Ok(meter.and_then(|meter: Meter| meter.finish(count)));
            }
            count += 1;
            meter.get_or_insert_with(|| Meter::new(time, bytes)).arrived(count);
        }
        drop(batch);
        if count == before {
            idle.spin()?;
        } else {
            idle = Idle::default();
        }
    }
}
