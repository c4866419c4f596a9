//! A reader of a broadcast lane that does not wait for it: what is handed out is a private copy,
//! what was lost is counted.

use std::time::{Duration, Instant};

use crate::control::Link;
use crate::error::{Corruption, PeerState, RecvError, SegmentError};
use crate::generations::{Generations, WayIn};
use crate::producer::SLEEP_MAX;
use crate::region::{Foreign, Owned, Region};
use crate::ring::{Follower, Heard, Policy, WaitMode};
use crate::roster::Reason;
use crate::sync::spin_hint;
use crate::wire::Grant;

/// Spins before a sleep, about 50 µs.
const SPINS_BEFORE_PARK: u32 = 2048;
/// Looks at the next slot between two looks at the clock.
const SPINS_PER_LOOK: u32 = 64;

/// The reader. `Send`, not `Sync`, not `Clone`.
///
/// A message is checked after it was copied: it is whole and of one moment, however fast the
/// producer is. Messages that the producer took back before they were read are reported as
/// [`RecvError::Lost`], once and with their exact number of slots.
#[derive(Debug)]
pub struct Subscriber {
    pub(crate) ring: Follower<Region<Foreign>, Region<Owned>>,
    pub(crate) link: Link,
    wait: WaitMode,
    grant: Grant,
    pub(crate) line: Generations,
    attend_at: u64,
    /// The message that was received last.
    buffer: Vec<u8>,
    /// The reader was told that it is behind its budget.
    told: bool,
    /// Lost, and not yet told.
    untold: u64,
    /// Found behind messages that were handed out together: for the next call.
    deferred: Option<RecvError>,
    /// A message in the buffer that whoever read it refused: position and length.
    kept: Option<(u64, usize)>,
    /// The message in the buffer, if the last call handed it out by itself.
    handed: Option<(u64, usize)>,
    /// Not `Sync`: two threads must not share one end.
    not_sync: std::marker::PhantomData<std::cell::Cell<()>>,
}

/// A received message: the reader's own copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// Position of its first slot.
    pub position: u64,
    /// Its bytes.
    pub bytes: &'a [u8],
}

impl Subscriber {
    pub(crate) fn new(
        region: Region<Owned>,
        grant: Grant,
        link: Link,
    ) -> Result<Self, SegmentError> {
        let geometry = grant.geometry()?;
        let wait = if grant.park { WaitMode::Park } else { WaitMode::Spin };
        let mut ring = Follower::new(region, geometry, wait, grant.base, grant.generation);
        if let Some(Policy::Evicting { budget }) = grant.broadcast {
            // A quarter of the budget is spent on not telling, at most.
            ring.publish_every((budget / 4).min(geometry.count() / 4));
        }
        Ok(Self {
            ring,
            link,
            wait,
            grant,
            line: Generations::new(),
            attend_at: 0,
            buffer: Vec::new(),
            told: false,
            untold: 0,
            deferred: None,
            kept: None,
            handed: None,
            not_sync: std::marker::PhantomData,
        })
    }

    /// What the agent granted: identity, geometry, policy, core.
    #[must_use]
    pub fn grant(&self) -> &Grant {
        &self.grant
    }

    /// What is known of the producer.
    #[must_use]
    pub fn peer(&self) -> PeerState {
        self.link.peer
    }

    /// Generation that is being read; 0 before the producer let this reader in.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.line.current
    }

    /// Largest message, in bytes.
    #[must_use]
    pub fn message_max(&self) -> usize {
        self.ring.geometry().message_max()
    }

    /// Position of the next message.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.kept.map_or_else(|| self.ring.position(), |(position, _)| position)
    }

    /// Slots lost since the attach.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.ring.lost()
    }

    /// The next message, if there is one now.
    ///
    /// # Errors
    /// `Lost` once for each loss, `GivenUp` once when the producer stopped counting with this
    /// reader: the next call goes on. `Closed` after the producer ended the stream, until a
    /// successor attaches; `Corrupt`, for ever; `Revoked`; `Segment` if the next generation's
    /// segment was refused.
    pub fn poll(&mut self) -> Result<Option<Message<'_>>, RecvError> {
        match self.advance_to_message()? {
            Some(found) => Ok(Some(self.hand_out(found))),
            None => Ok(None),
        }
    }

    /// The next message, waiting at most `timeout` for it; for ever with [`Duration::MAX`].
    ///
    /// # Errors
    /// `TimedOut` says what is known of the producer; otherwise as [`Subscriber::poll`].
    pub fn recv(&mut self, timeout: Duration) -> Result<Message<'_>, RecvError> {
        let found = self.wait_for_message(timeout)?;
        Ok(self.hand_out(found))
    }

    /// A message by itself: it can be kept.
    pub(crate) fn hand_out(&mut self, found: (u64, usize)) -> Message<'_> {
        self.handed = Some(found);
        self.message(found.0, found.1)
    }

    /// Keeps the message that [`Subscriber::poll`] or [`Subscriber::recv`] (or the latter's awaited
    /// twin) has just handed out: it is the next call's, whatever the producer writes over
    /// meanwhile. For a receiver that has no room for it. Does nothing behind any other call.
    ///
    /// ```no_run
    /// # fn follow(quotes: &mut laneway_shm::Subscriber) -> Result<(), laneway_shm::RecvError> {
    /// # let mut room = [0; 64];
    /// # use std::time::Duration;
    /// let message = quotes.recv(Duration::MAX)?;
    /// match room.get_mut(..message.bytes.len()) {
    ///     Some(room) => room.copy_from_slice(message.bytes),
    ///     None => quotes.keep(),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn keep(&mut self) {
        if let Some(handed) = self.handed.take() {
            self.keep_found(handed);
        }
    }

    /// The messages that are there, at most `limit`, waiting at most `timeout` for the first one;
    /// returns how many there were. Each is copied and checked before `read` sees it.
    ///
    /// A loss ends what is handed out: the messages before it are in this call, it is told by the
    /// next one, and those behind it are in the one after that. Between two messages of one call
    /// nothing is missing.
    ///
    /// ```no_run
    /// # fn follow(quotes: &mut laneway_shm::Subscriber) -> Result<(), laneway_shm::RecvError> {
    /// # use std::time::Duration;
    /// use laneway_shm::RecvError;
    ///
    /// loop {
    ///     let read = |message: laneway_shm::Message<'_>| println!("{:?}", message.bytes);
    ///     match quotes.recv_many(64, Duration::MAX, read) {
    ///         Ok(_) => {}
    ///         Err(RecvError::Lost { slots, .. }) => eprintln!("{slots} slots are gone"),
    ///         Err(other) => return Err(other),
    ///     }
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Subscriber::recv`], before the first message only: what is found behind one is told by
    /// the next call.
    pub fn recv_many(
        &mut self,
        limit: usize,
        timeout: Duration,
        mut read: impl FnMut(Message<'_>),
    ) -> Result<usize, RecvError> {
        self.many(limit, Some(timeout), |message| {
            read(message);
            Ok(1)
        })
    }

    /// As [`Subscriber::recv_many`], without waiting: 0 if there is none.
    ///
    /// # Errors
    /// As [`Subscriber::poll`], before the first message only.
    pub fn poll_many(
        &mut self,
        limit: usize,
        mut read: impl FnMut(Message<'_>),
    ) -> Result<usize, RecvError> {
        self.many(limit, None, |message| {
            read(message);
            Ok(1)
        })
    }

    /// As [`Subscriber::take_many`], for the next message; waits for it where there is a timeout.
    pub(crate) fn many(
        &mut self,
        limit: usize,
        timeout: Option<Duration>,
        read: impl FnMut(Message<'_>) -> Result<usize, RecvError>,
    ) -> Result<usize, RecvError> {
        if limit == 0 {
            return Ok(0);
        }
        let first = match timeout {
            Some(timeout) => Some(self.wait_for_message(timeout)?),
            None => self.advance_to_message()?,
        };
        first.map_or(Ok(0), |first| self.take_many(first, limit, read))
    }

    /// Hands out the message that was found and those behind it until `read` has counted `limit`
    /// items in them.
    #[inline]
    pub(crate) fn take_many(
        &mut self,
        first: (u64, usize),
        limit: usize,
        mut read: impl FnMut(Message<'_>) -> Result<usize, RecvError>,
    ) -> Result<usize, RecvError> {
        let mut count = self.take(first, &mut read)?;
        while count < limit {
            let Some(found) = self.further_message() else { break };
            match self.take(found, &mut read) {
                Ok(more) => count += more,
                // It was kept.
                Err(_) => break,
            }
        }
        Ok(count)
    }

    /// A message behind those that a call has handed out, which must not be lost to an error: what
    /// is wrong is for the next call.
    #[inline]
    pub(crate) fn further_message(&mut self) -> Option<(u64, usize)> {
        match self.advance_to_message() {
            Ok(found) => found,
            // A lie is told for ever: the next call says so by itself.
            Err(RecvError::Corrupt(_)) => None,
            Err(error) => {
                self.deferred = Some(error);
                // The next call looks there first.
                self.attend_at = 0;
                None
            }
        }
    }

    /// What `read` makes of a message that was found. One that it refuses stays: the copy is kept,
    /// and is the next call's.
    #[inline]
    pub(crate) fn take<R>(
        &mut self,
        found: (u64, usize),
        read: impl FnOnce(Message<'_>) -> Result<R, RecvError>,
    ) -> Result<R, RecvError> {
        let taken = read(self.message(found.0, found.1));
        if taken.is_err() {
            self.keep_found(found);
        }
        taken
    }

    /// Leaves a message that was found, and is in the buffer, to the next look.
    pub(crate) fn keep_found(&mut self, found: (u64, usize)) {
        self.kept = Some(found);
        // The next call looks there first.
        self.attend_at = 0;
    }

    pub(crate) fn wait_for_message(
        &mut self,
        timeout: Duration,
    ) -> Result<(u64, usize), RecvError> {
        let mut start = None;
        let mut spins = 0u32;
        loop {
            if let Some(found) = self.advance_to_message()? {
                return Ok(found);
            }
            spins = spins.saturating_add(1);
            if !spins.is_multiple_of(SPINS_PER_LOOK) {
                self.ring.pause();
                continue;
            }
            let start = *start.get_or_insert_with(Instant::now);
            if start.elapsed() >= timeout {
                self.maintain()?;
                let error = RecvError::TimedOut { waited: timeout, state: self.link.peer };
                return self.advance_to_message()?.ok_or(error);
            }
            if self.wait == WaitMode::Park && spins > SPINS_BEFORE_PARK {
                let left = timeout.saturating_sub(start.elapsed());
                self.ring.park(left.min(SLEEP_MAX));
                self.maintain()?;
                spins = SPINS_BEFORE_PARK;
            } else {
                spin_hint();
            }
        }
    }

    pub(crate) fn message(&self, position: u64, len: usize) -> Message<'_> {
        Message { position, bytes: self.buffer.get(..len).unwrap_or_default() }
    }

    /// The next message into the buffer: its position and length.
    #[inline]
    pub(crate) fn advance_to_message(&mut self) -> Result<Option<(u64, usize)>, RecvError> {
        self.handed = None;
        if self.ring.position() >= self.attend_at {
            if let Some(kept) = self.kept.take() {
                return Ok(Some(kept));
            }
            self.attend()?;
        }
        if self.untold > 0 {
            return Err(self.tell_lost(0));
        }
        match self.ring.poll(&mut self.buffer, self.line.end)? {
            Some(Heard::Message { position, len }) => Ok(Some((position, len))),
            Some(Heard::Lost { slots }) => Err(self.tell_lost(slots)),
            Some(Heard::End) => Err(self.line.close(self.ring.position())),
            None => self.found_nothing(),
        }
    }

    /// First that the producer no longer counts with this reader, then what it lost.
    #[cold]
    fn tell_lost(&mut self, slots: u64) -> RecvError {
        self.untold += slots;
        if let Some(error) = self.verdict() {
            return error;
        }
        let slots = std::mem::take(&mut self.untold);
        RecvError::Lost { slots, position: self.ring.position() }
    }

    /// What the producer says of this reader, if that is news.
    fn verdict(&mut self) -> Option<RecvError> {
        let (reason, at) = self.ring.given_up().filter(|_| !self.told)?;
        // One that lied stays where it is.
        self.told = reason == Reason::Behind;
        Some(RecvError::GivenUp { reason, position: self.ring.position(), at })
    }

    /// Looks at the agent's events and the producer's verdict once in a while, as messages flow.
    #[cold]
    fn attend(&mut self) -> Result<(), RecvError> {
        if let Some(error) = self.deferred.take() {
            return Err(error);
        }
        let due = self.link.pulse.beat();
        self.attend_at = self.ring.position().saturating_add(self.link.pulse.slots());
        if due {
            self.maintain()?;
        }
        self.verdict().map_or(Ok(()), Err)
    }

    fn found_nothing(&mut self) -> Result<Option<(u64, usize)>, RecvError> {
        let alone = self.ring.peer().is_none();
        if self.link.pulse.idle_due(self.ring.position(), alone) {
            self.maintain()?;
            if let Some(error) = self.verdict() {
                return Err(error);
            }
        }
        if self.ring.peer().is_none() || self.line.is_over() {
            return self.at_the_end();
        }
        Ok(None)
    }

    #[cold]
    fn at_the_end(&mut self) -> Result<Option<(u64, usize)>, RecvError> {
        let (position, end) = (self.ring.position(), self.line.end);
        if self.ring.peer().is_some() && end != u64::MAX {
            if position < end {
                return self.last_look(position, end);
            }
            if position > end {
                // It was received and then taken back: the next generation starts before it.
                let taken_back = Corruption::Truncated { position: end, end: position };
                return Err(self.ring.fail(taken_back).into());
            }
        }
        let drained = self.ring.peer().is_none() || end != u64::MAX;
        if drained && self.next_generation()? {
            return Ok(None);
        }
        self.line.last_word(self.ring.position()).map(|()| None)
    }

    /// The end may have arrived after the last look at the slot.
    fn last_look(&mut self, position: u64, end: u64) -> Result<Option<(u64, usize)>, RecvError> {
        match self.ring.poll(&mut self.buffer, end)? {
            Some(Heard::Message { position, len }) => Ok(Some((position, len))),
            Some(Heard::Lost { slots }) => Err(self.tell_lost(slots)),
            Some(Heard::End) => Err(self.line.close(self.ring.position())),
            // The producer committed it, the agent counted it, and now it is not there.
            None => Err(self.ring.fail(Corruption::Truncated { position, end }).into()),
        }
    }

    /// Moves on to the next generation, if its producer has let this reader in or is gone.
    fn next_generation(&mut self) -> Result<bool, RecvError> {
        let Some(way_in) = self.line.way_in(&self.grant, self.ring.geometry()) else {
            return Ok(false);
        };
        let Some(region) = self.line.advance(&mut self.link) else {
            return Ok(false);
        };
        self.told = false;
        self.attend_at = 0;
        self.untold += match way_in {
            WayIn::Entry(entry) => self.ring.join_at(region, &entry)?,
            WayIn::Frozen(start) => self.ring.join_frozen(region, start),
        };
        Ok(true)
    }

    /// Looks at the agent's events. Called by itself when there is nothing to read and ten times a
    /// second while messages flow.
    ///
    /// # Errors
    /// `Revoked`.
    pub fn maintain(&mut self) -> Result<(), RecvError> {
        let geometry = *self.ring.geometry();
        let peer = self.ring.peer_mut();
        self.line.hear(&mut self.link, &self.grant, &geometry, peer)
    }
}

impl Drop for Subscriber {
    /// Shows the whole cursor, and that nobody follows.
    fn drop(&mut self) {
        self.ring.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{KIND_CONSUMER, KIND_PRODUCER, P_READERS};
    use crate::pair::handed_over;
    use crate::pair::tests::{commit, numbered};
    use crate::ring::{Policy, Start};
    use crate::roster::Entry;

    /// A reader, and its producer's memory with so many numbers in it.
    fn lane(numbers: u64) -> (Region<Owned>, Subscriber) {
        let (producer, _) = numbered(0);
        let (broadcast, start) = (Some(Policy::Overwrite), Start::Newest);
        let grant = Grant { broadcast, start, ..producer.grant().clone() };
        let geometry = grant.geometry().unwrap();
        let (memory, seen) = handed_over(&grant, geometry, KIND_PRODUCER).unwrap();
        let (own, _) = handed_over(&grant, geometry, KIND_CONSUMER).unwrap();
        let mut reader =
            Subscriber::new(own, grant, Link::new(None, None, PeerState::Live)).unwrap();
        reader.ring.join_at(seen, &Entry { offset: P_READERS, joined_at: 0 }).unwrap();
        reader.line.current = 1;
        (0..numbers).for_each(|number| commit(&memory, &geometry, number, number));
        (memory, reader)
    }

    fn end(reader: &mut Subscriber, at: u64) {
        reader.line.ended(1, at, &mut reader.link);
    }

    fn take(reader: &mut Subscriber, numbers: u64) {
        for number in 0..numbers {
            assert_eq!(reader.poll().unwrap().unwrap().bytes, number.to_le_bytes());
        }
    }

    fn is_corrupt(reader: &mut Subscriber, corruption: Corruption) {
        let found = reader.poll().map(drop);
        assert!(matches!(found, Err(RecvError::Corrupt(c)) if c == corruption), "{found:?}");
    }

    #[test]
    fn a_message_that_was_counted_and_is_not_there_is_not_taken_when_it_comes_after_all() {
        let (memory, mut reader) = lane(1);
        take(&mut reader, 1);
        end(&mut reader, 2);
        let missing = Corruption::Truncated { position: 1, end: 2 };
        is_corrupt(&mut reader, missing);
        commit(&memory, reader.ring.geometry(), 1, 1);
        is_corrupt(&mut reader, missing);
        assert_eq!(reader.position(), 1);
    }

    #[test]
    fn a_message_that_is_missing_behind_others_is_told_by_the_next_call_and_for_ever() {
        let (memory, mut reader) = lane(1);
        end(&mut reader, 2);
        assert_eq!(reader.poll_many(9, |_| ()).unwrap(), 1);
        commit(&memory, reader.ring.geometry(), 1, 1);
        is_corrupt(&mut reader, Corruption::Truncated { position: 1, end: 2 });
    }

    #[test]
    fn a_message_that_was_received_and_taken_back_is_no_silent_gap_in_the_next_generation() {
        let (_memory, mut reader) = lane(3);
        take(&mut reader, 3);
        end(&mut reader, 2);
        for _ in 0..2 {
            is_corrupt(&mut reader, Corruption::Truncated { position: 2, end: 3 });
        }
    }
}
