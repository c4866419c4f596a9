//! Streaming throughput: as many messages as go through, timed where they arrive.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::BenchError;
use crate::message::{Receives, STOP, Seen, Sends};

/// Messages of a batch.
pub(crate) const BATCH: usize = 32;

/// First messages between two looks at the clock, less one: few enough for the slowest.
const MASK_MIN: u64 = 15;

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
    /// The same for messages that are quick.
    mask_max: u64,
    start: Instant,
    /// When the first tenth was over, and how many messages had come.
    mark: Option<(Instant, u64)>,
}

impl Meter {
    /// Starts now; messages have `bytes` bytes.
    pub(crate) fn new(time: Duration, bytes: usize) -> Self {
        let mask_max = (65536 / bytes.max(1) as u64).clamp(1, 1024).next_power_of_two() - 1;
        Self { time, mask: mask_max.min(MASK_MIN), mask_max, start: Instant::now(), mark: None }
    }

    /// Whether the time is up, as seen every few messages.
    #[inline(always)]
    pub(crate) fn over(&mut self, count: u64) -> bool {
        count & self.mask == 0 && self.is_over()
    }

    #[inline]
    fn is_over(&mut self) -> bool {
        let elapsed = self.start.elapsed();
        self.widen(elapsed);
        elapsed >= self.time
    }

    /// Looks half as often from now on, while the looks come faster than they are needed.
    #[inline]
    fn widen(&mut self, elapsed: Duration) {
        if self.mask < self.mask_max && elapsed < self.time / 64 {
            self.mask = self.mask * 2 + 1;
        }
    }

    /// Called with the number of messages that have arrived.
    #[inline(always)]
    pub(crate) fn arrived(&mut self, count: u64) {
        if count & self.mask == 0 && self.mark.is_none() {
            self.mark_if_warm(count);
        }
    }

    /// Called with the numbers of messages that had arrived before and after a batch.
    #[inline(always)]
    pub(crate) fn arrived_many(&mut self, before: u64, count: u64) {
        if (before ^ count) & !self.mask != 0 && self.mark.is_none() {
            self.mark_if_warm(count);
        }
    }

    #[cold]
    fn mark_if_warm(&mut self, count: u64) {
        let now = Instant::now();
        let elapsed = now.duration_since(self.start);
        self.widen(elapsed);
        if elapsed * 10 >= self.time {
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
pub(crate) fn produce<O>(
    shape: &mut impl Sends<O>,
    lane: &mut O,
    time: Duration,
    bytes: usize,
) -> Result<(), BenchError> {
    let mut meter = Meter::new(time, bytes);
    let mut number = 0;
    while !meter.over(number) {
        number += 1;
        shape.send(lane, number)?;
    }
    shape.send(lane, STOP)
}

/// Receives until the stream stops.
#[inline(never)]
pub(crate) fn consume<I>(
    shape: &mut impl Receives<I>,
    lane: &mut I,
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
pub(crate) fn produce_batches<O>(
    shape: &mut impl Sends<O>,
    lane: &mut O,
    time: Duration,
    bytes: usize,
) -> Result<(), BenchError> {
    let meter = Meter::new(time, bytes);
    let mut number = 0;
    while meter.start.elapsed() < time {
        // Several batches for one look at the clock.
        for _ in 0..8 {
            shape.send_batch(lane, number + 1)?;
            number += BATCH as u64;
        }
    }
    shape.send(lane, STOP)
}

/// Receives many at once until the stream stops.
#[inline(never)]
pub(crate) fn consume_batches<I>(
    shape: &mut impl Receives<I>,
    lane: &mut I,
    time: Duration,
    bytes: usize,
) -> Result<Option<Throughput>, BenchError> {
    let mut count = 0;
    if shape.receive_batch(lane, &mut count)? == Seen::Stop {
        return Ok(None);
    }
    let mut meter = Meter::new(time, bytes);
    loop {
        let before = count;
        if shape.receive_batch(lane, &mut count)? == Seen::Stop {
            return Ok(meter.finish(count));
        }
        meter.arrived_many(before, count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_messages_are_looked_at_often_and_quick_ones_seldom() {
        let mut slow = Meter::new(Duration::from_millis(1), 8);
        std::thread::sleep(Duration::from_millis(1));
        assert!(slow.over(16));
        assert_eq!(slow.mask, MASK_MIN);
        let mut quick = Meter::new(Duration::from_secs(3600), 8);
        assert!((0..1 << 16).all(|count| !quick.over(count)));
        assert_eq!(quick.mask, 1023);
        assert_eq!(Meter::new(Duration::ZERO, 1 << 20).mask, 0);
    }
}
