//! The consumer's end: poll, copy out or look in place, release.
//!
//! Owns the waiting and the change of generations: the old segment is drained to its end before the
//! new one is read. What comes out is in [`crate::received`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::control::Link;
use crate::error::{Corruption, PeerState, RecvError, SegmentError};
use crate::frozen::Arrivals;
use crate::generations::{Generations, WayIn};
use crate::lifeline::Lifeline;
use crate::producer::SLEEP_MAX;
use crate::received::{ReadBatch, ReadSlot};
use crate::region::{Foreign, Owned, Region};
use crate::ring::{Found, Profile, Reader, Span, WaitMode};
use crate::sync::spin_hint;
use crate::wire::Grant;

/// Spins before a sleep, about 50 µs.
const SPINS_BEFORE_PARK: u32 = 2048;
/// Looks at a slot between two looks at everything else.
const SPINS_PER_LOOK: u32 = 64;
/// Messages between two waits that make a stream.
const STREAM_BURST: u64 = 8;
/// Pause of a consumer that has caught up with a stream, in spins (about 6 µs): on the machine of
/// the measurements more does not help, and a sixteenth of a small ring is enough.
const TRAIL_SPINS_MAX: u64 = 256;
/// The consumer's end of a lane. `Send`, not `Sync`, not `Clone`.
#[derive(Debug)]
// The ring comes first: the hot path addresses it without a register of its own.
#[repr(C)]
pub struct Consumer {
    pub(crate) ring: Reader<Region<Foreign>, Region<Owned>>,
    pub(crate) link: Link,
    wait: WaitMode,
    grant: Grant,
    pub(crate) line: Generations,
    /// Frozen payloads that came and were not asked for yet.
    pub(crate) arrivals: Arrivals,
    /// Position from which on the agent is looked at.
    attend_at: u64,
    /// Position at the last wait.
    waited_at: u64,
    /// Not `Sync`: two threads must not share one end.
    not_sync: std::marker::PhantomData<std::cell::Cell<()>>,
}

impl Consumer {
    pub(crate) fn new(
        region: Region<Owned>,
        grant: Grant,
        link: Link,
    ) -> Result<Self, SegmentError> {
        let geometry = grant.geometry()?;
        let wait = if grant.park { WaitMode::Park } else { WaitMode::Spin };
        let ring = Reader::new(region, geometry, wait, grant.base, grant.generation);
        let mut consumer = Self {
            ring,
            link,
            wait,
            grant,
            line: Generations::new(),
            arrivals: Arrivals::default(),
            attend_at: 0,
            waited_at: 0,
            not_sync: std::marker::PhantomData,
        };
        consumer.measure_run();
        Ok(consumer)
    }

    /// What the agent granted: identity, geometry, core, pages.
    #[must_use]
    pub fn grant(&self) -> &Grant {
        &self.grant
    }

    /// What is known of the producer.
    #[must_use]
    pub fn peer(&self) -> PeerState {
        self.link.peer
    }

    /// Generation that is being read; 0 before the first producer attached.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.line.current
    }

    /// Position of the next message.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.ring.position()
    }

    /// The lifeline to the producer that is read, if there is one: either end asked for it, and
    /// the agent's news of it was heard.
    #[must_use]
    pub fn lifeline(&self) -> Option<&Arc<Lifeline>> {
        self.ring.peer()?.lifeline()
    }

    /// Largest message, in bytes.
    #[must_use]
    pub fn message_max(&self) -> usize {
        self.ring.geometry().message_max()
    }

    /// The next message, if there is one now.
    ///
    /// # Errors
    /// `Closed` after the producer ended the stream, until a successor attaches; `Corrupt`, for
    /// ever; `Revoked`; `Segment` if the next generation's segment was refused; `Frozen` before a
    /// frozen payload, which [`Consumer::recv_any`] takes.
    #[inline(always)]
    pub fn poll(&mut self) -> Result<Option<ReadSlot<'_>>, RecvError> {
        let span = match self.ring.ready() {
            Some(span) => span,
            None => match self.next_span()? {
                Some(span) => span,
                None => return Ok(None),
            },
        };
        Ok(Some(ReadSlot::new(self, span)))
    }

    /// The next message, waiting at most `timeout` for it; for ever with [`Duration::MAX`].
    ///
    /// # Errors
    /// `TimedOut` says what is known of the producer; otherwise as [`Consumer::poll`].
    #[inline(always)]
    pub fn recv(&mut self, timeout: Duration) -> Result<ReadSlot<'_>, RecvError> {
        let span = match self.ring.ready() {
            Some(span) => span,
            None => self.wait_for_span(timeout)?,
        };
        Ok(ReadSlot::new(self, span))
    }

    /// The next message by value, if it has exactly `N` bytes: the fastest way for small messages
    /// of one size, which go from the lane to `read` in registers.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use laneway_shm::{PairOptions, pair};
    /// # let (mut producer, mut consumer) = pair(PairOptions::default())?;
    /// producer.send_array(7u64.to_le_bytes(), Duration::ZERO)?;
    /// assert_eq!(consumer.recv_array(Duration::ZERO, u64::from_le_bytes)?, 7);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// What `read` returns should be small: a large error type on its way through the result is
    /// copied for every message, and a check after the call costs nothing.
    ///
    /// # Errors
    /// `Length` if the next message has another length; it stays in the lane. Otherwise as
    /// [`Consumer::recv`].
    #[inline(always)]
    pub fn recv_array<const N: usize, R>(
        &mut self,
        timeout: Duration,
        read: impl FnOnce([u8; N]) -> R,
    ) -> Result<R, RecvError> {
        if let Some(bytes) = self.ring.take_array() {
            return Ok(read(bytes));
        }
        let mut wait = Wait::new(timeout);
        loop {
            if let Some(span) = self.look_around(&mut wait)? {
                return self.take_exactly(span).map(read);
            }
            // Here and not behind a call: what arrives is in registers a moment later.
            for _ in 0..SPINS_PER_LOOK {
                if let Some(bytes) = self.ring.take_array() {
                    return Ok(read(bytes));
                }
                self.ring.pause();
            }
        }
    }

    /// As [`Consumer::recv_array`] for the messages that are there, at most `limit`, waiting for
    /// the first one. They are released together; returns how many there were.
    ///
    /// # Errors
    /// As [`Consumer::recv_array`], for the first message only: what cannot be taken after it is
    /// told by the next call.
    ///
    /// # Panics
    /// If `read` does: the messages of this call are then handed out again by the next one.
    #[inline(always)]
    pub fn recv_arrays<const N: usize>(
        &mut self,
        limit: usize,
        timeout: Duration,
        mut read: impl FnMut([u8; N]),
    ) -> Result<usize, RecvError> {
        let limit = limit as u64;
        let mut taken = 0;
        loop {
            taken += self.ring.take_arrays(limit - taken, &mut read);
            if taken == limit || (taken > 0 && !self.may_go_on()) {
                break;
            }
            if taken == 0 {
                read(self.wait_for_array(timeout)?);
                taken = 1;
            }
        }
        #[expect(clippy::cast_possible_truncation, reason = "at most `limit`")]
        Ok(taken as usize)
    }

    /// Whether the ring stopped for a look at the agent and not for want of messages. What is
    /// wrong there is told by the next call: these messages were taken.
    #[inline(always)]
    fn may_go_on(&mut self) -> bool {
        self.ring.attention_due() && self.attend().is_ok() && !self.ring.attention_due()
    }

    #[cold]
    #[inline(never)]
    fn wait_for_array<const N: usize>(&mut self, timeout: Duration) -> Result<[u8; N], RecvError> {
        let span = self.wait_for_span(timeout)?;
        self.take_exactly(span)
    }

    /// Waits for a message and takes it with those that have come with it, at most `limit`.
    ///
    /// # Errors
    /// As [`Consumer::recv`].
    pub fn recv_many(
        &mut self,
        limit: usize,
        timeout: Duration,
    ) -> Result<ReadBatch<'_>, RecvError> {
        if self.ring.ready().is_none() {
            self.wait_for_span(timeout)?;
        }
        Ok(self.poll_many(limit))
    }

    /// What [`Consumer::recv_array`] does with a message that is not plain, or not of its length.
    #[cold]
    #[inline(never)]
    pub(crate) fn take_exactly<const N: usize>(
        &mut self,
        span: Span,
    ) -> Result<[u8; N], RecvError> {
        if span.len != N {
            return Err(RecvError::Length { found: span.len, expected: N });
        }
        let mut bytes = [0; N];
        self.ring.copy_out(&span, 0, &mut bytes);
        self.ring.release(&span);
        Ok(bytes)
    }

    /// The messages that are there now, at most `limit`, released together.
    pub fn poll_many(&mut self, limit: usize) -> ReadBatch<'_> {
        ReadBatch::new(self, limit)
    }

    #[inline(never)]
    pub(crate) fn next_span(&mut self) -> Result<Option<Span>, RecvError> {
        match self.ring.poll() {
            // What a producer that was given up writes after its end is nobody's message.
            Ok(Some(Found::Message(span))) if span.position() < self.line.end => {
                self.within_end(&span)?;
                self.attend()?;
                Ok(Some(span))
            }
            Ok(Some(Found::End)) if self.ring.position() < self.line.end => {
                self.ring.release_end();
                Err(self.line.close(self.ring.position()))
            }
            Ok(Some(Found::Frozen { span, pages })) if span.position() < self.line.end => {
                self.attend()?;
                Err(self.frozen_is_next(pages))
            }
            Ok(_) => self.found_nothing(),
            Err(corruption) => Err(self.blamed(corruption)),
        }
    }

    /// A message behind those that a call has taken already. An end or a refused segment is told
    /// once, which only a call that takes nothing can do: whatever is no message stays where it is.
    pub(crate) fn further_span(&mut self) -> Option<Span> {
        match self.ring.poll() {
            Ok(Some(Found::Message(span))) if span.position() + span.slots <= self.line.end => {
                self.attend().ok().map(|()| span)
            }
            _ => None,
        }
    }

    /// A message that was whole when its generation ended does not go beyond that end: the slots
    /// there are the next generation's.
    fn within_end(&mut self, span: &Span) -> Result<(), RecvError> {
        let (position, end) = (span.position(), self.line.end);
        if position + span.slots > end {
            let slots = end.saturating_sub(position);
            return Err(self.ring.fail(Corruption::Unfinished { position, slots }).into());
        }
        Ok(())
    }

    /// Where the producer gave this reader up, what it overwrote since is no corruption.
    #[cold]
    fn blamed(&self, corruption: Corruption) -> RecvError {
        let position = self.ring.position();
        match self.ring.given_up() {
            Some((reason, at)) => RecvError::GivenUp { reason, position, at },
            None => corruption.into(),
        }
    }

    /// Looks at the agent's events once in a while, as messages flow.
    fn attend(&mut self) -> Result<(), RecvError> {
        let position = self.ring.position();
        if position >= self.attend_at {
            let due = self.link.pulse.beat();
            self.attend_at = position + self.link.pulse.slots();
            self.measure_run();
            if due {
                self.maintain()?;
            }
        }
        Ok(())
    }

    /// Tells the ring how far it may go on its own: what lies beyond an announced end is nobody's.
    fn measure_run(&mut self) {
        self.ring.attend_at(self.attend_at.min(self.line.end));
    }

    /// Empty: maybe the generation ended, maybe the agent has news.
    #[inline]
    fn found_nothing(&mut self) -> Result<Option<Span>, RecvError> {
        let alone = self.ring.peer().is_none();
        if self.link.pulse.idle_due(self.ring.position(), alone) {
            self.maintain()?;
        }
        if self.ring.peer().is_none() || self.line.is_over() {
            return self.at_the_end();
        }
        Ok(None)
    }

    #[cold]
    fn at_the_end(&mut self) -> Result<Option<Span>, RecvError> {
        if self.advance()? {
            return match self.ring.poll() {
                Ok(Some(Found::Message(span))) if span.position() < self.line.end => {
                    self.within_end(&span).map(|()| Some(span))
                }
                // An end or nothing: the next call finds it again.
                Ok(_) => Ok(None),
                Err(corruption) => Err(corruption.into()),
            };
        }
        self.line.last_word(self.ring.position()).map(|()| None)
    }

    /// Moves on to the next generation if this one is drained. True if it moved.
    fn advance(&mut self) -> Result<bool, RecvError> {
        let position = self.ring.position();
        if self.ring.peer().is_some() {
            let end = self.line.end;
            if end == u64::MAX {
                return Ok(false);
            }
            if position < end {
                // The end may have arrived after the last look at the slot.
                if self.ring.poll()?.is_some() {
                    return Ok(true);
                }
                // The producer committed it, the agent counted it, and now it is not there.
                return Err(self.ring.fail(Corruption::Truncated { position, end }).into());
            }
            if position > end {
                // It was received and then taken back: the next generation starts before it.
                let taken_back = Corruption::Truncated { position: end, end: position };
                return Err(self.ring.fail(taken_back).into());
            }
        }
        let Some(next) = self.line.pending.front() else {
            return Ok(false);
        };
        if next.base > position {
            let gap = Corruption::Truncated { position, end: next.base };
            return Err(self.ring.fail(gap).into());
        }
        let way_in = match self.grant.broadcast {
            None => None,
            Some(_) => match self.line.way_in(&self.grant, self.ring.geometry()) {
                None => return Ok(false),
                way_in => way_in,
            },
        };
        let Some(region) = self.line.advance(&mut self.link) else {
            return Ok(false);
        };
        self.arrivals = Arrivals::default();
        match way_in {
            None => self.ring.join(region),
            Some(WayIn::Entry(entry)) => self.ring.join_at(region, &entry)?,
            Some(WayIn::Frozen(start)) => self.ring.join_frozen(region, start),
        }
        self.measure_run();
        Ok(true)
    }

    /// Looks at the agent's events. Called by itself when the ring is empty and once a second
    /// while messages flow.
    ///
    /// # Errors
    /// `Revoked`.
    pub fn maintain(&mut self) -> Result<(), RecvError> {
        let geometry = *self.ring.geometry();
        let peer = self.ring.peer_mut();
        let heard = self.line.hear(&mut self.link, &self.grant, &geometry, peer);
        self.measure_run();
        heard
    }

    pub(crate) fn join(&mut self, region: Region<Foreign>, generation: u64) {
        self.line.current = generation;
        self.ring.join(region);
        self.link.peer = PeerState::Live;
    }

    #[cold]
    pub(crate) fn wait_for_span(&mut self, timeout: Duration) -> Result<Span, RecvError> {
        let mut wait = Wait::new(timeout);
        loop {
            if let Some(span) = self.look_around(&mut wait)? {
                return Ok(span);
            }
            if let Some(span) = self.ring.spin(SPINS_PER_LOOK) {
                return Ok(span);
            }
        }
    }

    /// Everything that a wait does between two rounds of spinning. Finds what is not a plain
    /// message: long ones, ends, generations, lies.
    ///
    /// The first look, before any spin, leaves out all that can wait: in a dialogue the answer is
    /// on its way.
    #[cold]
    #[inline(never)]
    fn look_around(&mut self, wait: &mut Wait) -> Result<Option<Span>, RecvError> {
        let first = wait.spins == 0;
        wait.spins = wait.spins.saturating_add(SPINS_PER_LOOK);
        if first && !self.ring.attention_due() {
            if self.grant.profile == Profile::Throughput {
                self.trail();
            }
            return Ok(None);
        }
        if let Some(span) = self.next_span()? {
            return Ok(Some(span));
        }
        let start = *wait.start.get_or_insert_with(Instant::now);
        if start.elapsed() >= wait.timeout {
            self.maintain()?;
            let error = RecvError::TimedOut { waited: wait.timeout, state: self.link.peer };
            return self.next_span()?.ok_or(error).map(Some);
        }
        if self.wait == WaitMode::Park && wait.spins > SPINS_BEFORE_PARK {
            let left = wait.timeout.saturating_sub(start.elapsed());
            self.ring.park(left.min(SLEEP_MAX));
            wait.spins = SPINS_BEFORE_PARK;
            // What it was woken for comes before what the agent may have to say.
            if let Some(span) = self.ring.ready() {
                return Ok(Some(span));
            }
            self.maintain()?;
        }
        Ok(None)
    }
}

/// How long a receive has waited.
#[derive(Debug)]
struct Wait {
    timeout: Duration,
    /// When the clock was first read: not before the first spins.
    start: Option<Instant>,
    spins: u32,
}

impl Wait {
    fn new(timeout: Duration) -> Self {
        Self { timeout, start: None, spins: 0 }
    }
}

/// What only lanes of [`Profile::Throughput`] do.
impl Consumer {
    /// Lets the producer of a stream get ahead.
    ///
    /// A consumer that has caught up takes every line from the producer in the middle of its
    /// work. A few messages since the last wait, as in a dialogue, cost no pause.
    fn trail(&mut self) {
        let burst = self.ring.position() - self.waited_at;
        self.waited_at = self.ring.position();
        if burst >= STREAM_BURST {
            for _ in 0..TRAIL_SPINS_MAX.min(self.ring.geometry().count() / 16) {
                spin_hint();
            }
        }
    }
}

impl Drop for Consumer {
    /// Shows the whole cursor, so that a successor repeats nothing after an orderly end. A reader
    /// of a broadcast lane has no successor: its producer is told not to wait for it.
    fn drop(&mut self) {
        match self.grant.broadcast {
            None => self.ring.publish(),
            Some(_) => self.ring.leave(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::generations::Pending;
    use crate::layout::KIND_PRODUCER;
    use crate::pair::handed_over;
    use crate::pair::tests::{commit, numbered};

    fn end(consumer: &mut Consumer, at: u64) {
        consumer.line.ended(1, at, &mut consumer.link);
        consumer.measure_run();
    }

    fn take(consumer: &mut Consumer, numbers: u64) {
        for number in 0..numbers {
            assert_eq!(consumer.poll().unwrap().unwrap().view().u64_at(0), Some(number));
        }
    }

    #[test]
    fn what_a_producer_writes_after_its_announced_end_is_not_read() {
        let (_producer, mut consumer) = numbered(5);
        end(&mut consumer, 2);
        take(&mut consumer, 1);
        let mut rest = consumer.poll_many(10);
        assert_eq!(rest.next().unwrap().unwrap().u64_at(0), Some(1));
        assert!(rest.next().unwrap().is_none());
        drop(rest);
        assert!(consumer.poll().unwrap().is_none());
    }

    #[test]
    fn a_message_that_goes_beyond_its_generations_end_is_no_message() {
        let (mut producer, mut consumer) = numbered(1);
        producer.send(&[1; 100], Duration::ZERO).unwrap();
        end(&mut consumer, 2);
        let mut batch = consumer.poll_many(2);
        assert!(batch.next().unwrap().is_some() && batch.next().unwrap().is_none());
        drop(batch);
        for _ in 0..2 {
            let found = consumer.poll().map(drop);
            let corruption = Corruption::Unfinished { position: 1, slots: 1 };
            assert!(matches!(found, Err(RecvError::Corrupt(c)) if c == corruption), "{found:?}");
        }
        assert_eq!(consumer.position(), 1);
    }

    #[test]
    fn a_message_that_was_received_and_taken_back_is_no_silent_gap_in_the_next_generation() {
        let (_producer, mut consumer) = numbered(3);
        take(&mut consumer, 3);
        end(&mut consumer, 2);
        for _ in 0..2 {
            let found = consumer.poll().map(drop);
            assert!(matches!(found, Err(RecvError::Corrupt(Corruption::Truncated { .. }))));
        }
    }

    #[test]
    fn a_message_that_was_counted_and_is_not_there_is_not_taken_when_it_comes_after_all() {
        let (mut producer, mut consumer) = numbered(1);
        take(&mut consumer, 1);
        end(&mut consumer, 2);
        let missing = Corruption::Truncated { position: 1, end: 2 };
        let found = consumer.poll().map(drop);
        assert!(matches!(found, Err(RecvError::Corrupt(c)) if c == missing), "{found:?}");
        producer.send(b"late", Duration::ZERO).unwrap();
        let found = consumer.poll().map(drop);
        assert!(matches!(found, Err(RecvError::Corrupt(c)) if c == missing), "{found:?}");
        assert_eq!(consumer.position(), 1);
    }

    #[test]
    fn a_generation_that_ended_empty_is_read_as_empty_whatever_was_written_since() {
        let (producer, mut consumer) = numbered(2);
        let geometry = *consumer.ring.geometry();
        let (own, region) = handed_over(producer.grant(), geometry, KIND_PRODUCER).unwrap();
        commit(&own, &geometry, 2, 7);
        end(&mut consumer, 2);
        consumer.line.pending.push_back(Pending { generation: 2, base: 2, end: Some(2), region });
        take(&mut consumer, 2);
        for _ in 0..3 {
            assert!(consumer.poll().unwrap().is_none());
        }
        assert_eq!((consumer.generation(), consumer.position()), (2, 2));
    }
}
