//! The producer's end: reserve, write in place, commit.
//!
//! The hot path is one comparison, the payload and one store. Everything else (room, sleep, the
//! agent's events) sits behind `#[cold]` functions.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::control::Link;
use crate::distance::Distance;
use crate::error::{PeerState, ReserveError, SegmentError};
use crate::geometry::WORD_BYTES;
use crate::layout::{CONSUMER_SEGMENT_BYTES, Header, KIND_CONSUMER};
use crate::lifeline::Lifeline;
use crate::memfd::Segment;
use crate::region::{Foreign, Owned, Region};
use crate::ring::{Span, WaitMode, Writer};
use crate::sync::spin_hint;
use crate::wire::{Frame, Grant, PeerSegment, Role};

mod batch;
pub(crate) mod readers;

pub use batch::{ChunkSlot, WriteBatch, WriteChunk};
use readers::Hold;

/// Spins before a sleep, about 50 µs: two wake-ups' worth on the machine of the measurements.
const SPINS_BEFORE_PARK: u32 = 2048;
/// Grade of a core that the scheduler leaves alone.
const ISOLATED: u8 = b'A';
/// A producer that leaves gives a restarted agent this long to take its segments back.
const SETTLE_WITHIN: Duration = Duration::from_secs(1);
/// Longest single sleep: bounds how late a change of the agent's is noticed.
pub(crate) const SLEEP_MAX: Duration = Duration::from_millis(100);

/// The producer's end of a lane. `Send`, not `Sync`, not `Clone`: one writer by construction.
#[derive(Debug)]
// The ring comes first: the hot path addresses it without a register of its own.
#[repr(C)]
pub struct Producer {
    pub(crate) ring: Writer<Region<Owned>, Region<Foreign>>,
    pub(crate) link: Link,
    wait: WaitMode,
    grant: Grant,
    joined: u64,
    /// Of a broadcast lane: the reader that holds it now.
    hold: Option<Hold>,
    /// Of a broadcast lane: every reader that was there at the attach is known.
    gathered: bool,
    pub(crate) frozen: crate::frozen::Flight,
    /// Not `Sync`: two threads must not share one end.
    not_sync: std::marker::PhantomData<std::cell::Cell<()>>,
}

impl Producer {
    pub(crate) fn new(
        region: Region<Owned>,
        grant: Grant,
        link: Link,
    ) -> Result<Self, SegmentError> {
        let geometry = grant.geometry()?;
        let wait = if grant.park { WaitMode::Park } else { WaitMode::Spin };
        let mut ring = match grant.broadcast {
            None => Writer::new(region, geometry, wait, grant.base, grant.released),
            Some(policy) => Writer::broadcast(region, geometry, wait, grant.base, policy),
        };
        ring.attend_in(link.pulse.slots());
        ring.believe(grant.relation);
        // Nobody may interrupt a cpu that was isolated on purpose.
        if wait == WaitMode::Park && grant.grade != ISOLATED {
            ring.allow_light();
        }
        Ok(Self {
            ring,
            link,
            wait,
            grant,
            joined: 0,
            hold: None,
            gathered: false,
            frozen: crate::frozen::Flight::default(),
            not_sync: std::marker::PhantomData,
        })
    }

    /// What the agent granted: identity, geometry, core, pages.
    #[must_use]
    pub fn grant(&self) -> &Grant {
        &self.grant
    }

    /// What is known of the consumer.
    #[must_use]
    pub fn peer(&self) -> PeerState {
        self.link.peer
    }

    /// The lifeline to the consumer, if there is one: either end asked for it, and the agent's
    /// news of it was heard. In a broadcast lane every reader has its own, and this is none.
    #[must_use]
    pub fn lifeline(&self) -> Option<&Arc<Lifeline>> {
        self.ring.peer()?.lifeline()
    }

    /// How far the consumer is: what the agent granted, and then what the time says in which the
    /// consumer's cursor comes here, looked at where messages take slots of 16 KiB or more, and in
    /// rings from 256 KiB on of slots up to 256 bytes.
    ///
    /// What is written at once and has 16 KiB goes past the caches to a far consumer, which has
    /// it sooner so; for what is small, lines are asked for in time. A lane that overwrites looks
    /// at no cursor: there the agent's word stands.
    #[must_use]
    pub fn distance(&self) -> Distance {
        self.ring.distance()
    }

    /// Largest message, in bytes: as many slots as the ring has, each with its payload.
    #[must_use]
    pub fn message_max(&self) -> usize {
        self.ring.geometry().message_max()
    }

    /// Position after the last committed slot.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.ring.committed()
    }

    /// Slots that were committed and that the consumer has not released, as last seen.
    #[must_use]
    pub fn lag(&self) -> u64 {
        self.ring.committed().saturating_sub(self.ring.released())
    }

    /// Room for a message of `len` bytes, now.
    ///
    /// # Errors
    /// `Full` if there is no room now; `TooLarge` if there never is; `Revoked`; `Corrupt`.
    #[inline(always)]
    pub fn try_reserve(&mut self, len: usize) -> Result<WriteSlot<'_>, ReserveError> {
        let span = match self.ring.ready(len) {
            Some(span) => span,
            None => self.find_room(len)?,
        };
        Ok(WriteSlot { producer: self, span })
    }

    /// Everything that [`Writer::ready`] leaves out.
    #[cold]
    #[inline(never)]
    pub(crate) fn find_room(&mut self, len: usize) -> Result<Span, ReserveError> {
        self.attend()?;
        match self.ring.try_reserve(len)? {
            Some(span) => {
                self.let_go();
                Ok(span)
            }
            None => Err(self.no_room(len)),
        }
    }

    /// Looks at the agent's events once in a while, as messages flow.
    fn attend(&mut self) -> Result<(), ReserveError> {
        if self.ring.attention_due() {
            let due = self.link.pulse.beat();
            self.ring.attend_in(self.link.pulse.slots());
            if due {
                self.maintain()?;
            }
        }
        Ok(())
    }

    /// Room for a message of `len` bytes, waiting at most `timeout` for it; for ever with
    /// [`Duration::MAX`].
    ///
    /// # Errors
    /// `TimedOut` says what is known of the consumer; otherwise as [`Producer::try_reserve`].
    #[inline(always)]
    pub fn reserve(
        &mut self,
        len: usize,
        timeout: Duration,
    ) -> Result<WriteSlot<'_>, ReserveError> {
        let span = match self.ring.ready(len) {
            Some(span) => span,
            None => self.wait_for_room(len, timeout)?,
        };
        Ok(WriteSlot { producer: self, span })
    }

    /// Copies one message into the lane and commits it.
    ///
    /// # Errors
    /// As [`Producer::reserve`].
    #[inline(always)]
    pub fn send(&mut self, message: &[u8], timeout: Duration) -> Result<(), ReserveError> {
        let mut slot = self.reserve(message.len(), timeout)?;
        slot.write(0, message);
        slot.commit();
        Ok(())
    }

    /// As [`Producer::send`], for a length that is known when the program is compiled: a small
    /// message goes from registers into the lane.
    ///
    /// # Errors
    /// As [`Producer::reserve`].
    #[inline(always)]
    pub fn send_array<const N: usize>(
        &mut self,
        message: [u8; N],
        timeout: Duration,
    ) -> Result<(), ReserveError> {
        if self.ring.send_array(message) {
            return Ok(());
        }
        self.send_waiting(message, timeout)
    }

    /// Takes the message by value: only here, where it waits, does it need an address.
    #[cold]
    #[inline(never)]
    fn send_waiting<const N: usize>(
        &mut self,
        message: [u8; N],
        timeout: Duration,
    ) -> Result<(), ReserveError> {
        self.send(&message, timeout)
    }

    /// Sends `count` messages of one length, waiting for room where there is none. What there is
    /// room for becomes visible at once: one store publishes many messages.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use laneway_shm::{PairOptions, pair};
    /// # let (mut producer, mut consumer) = pair(PairOptions::default())?;
    /// let mut prices = [101u64, 99, 100].into_iter();
    /// producer.send_arrays(3, Duration::ZERO, || prices.next().unwrap_or(0).to_le_bytes())?;
    /// let mut sum = 0;
    /// consumer.recv_arrays(8, Duration::ZERO, |price| sum += u64::from_le_bytes(price))?;
    /// assert_eq!(sum, 300);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Producer::reserve`]. Then some of the messages may have been sent:
    /// [`Producer::position`] tells.
    #[inline(always)]
    pub fn send_arrays<const N: usize>(
        &mut self,
        count: usize,
        timeout: Duration,
        mut make: impl FnMut() -> [u8; N],
    ) -> Result<(), ReserveError> {
        let mut left = count;
        loop {
            left -= self.ring.commit_arrays(left, &mut make);
            if left == 0 {
                return Ok(());
            }
            // A long message, or no room: this one waits, the others may then find some.
            self.send_waiting(make(), timeout)?;
            left -= 1;
        }
    }

    /// Ends the stream: the consumer sees the end after the last message.
    ///
    /// Dropping the producer without this call leaves the lane open for a successor. Takes up to a
    /// second more where an agent is away or a frozen payload waits for news of its consumer.
    ///
    /// # Errors
    /// As [`Producer::reserve`]: the end takes one slot.
    pub fn close(mut self, timeout: Duration) -> Result<(), ReserveError> {
        while !self.ring.try_end()? {
            self.wait_for_room(0, timeout)?;
        }
        self.settle();
        self.link.tell(&Frame::Bye);
        Ok(())
    }

    /// Whether the agent, or a consumer that is about to be heard of, would still take something.
    pub(crate) fn is_unsettled(&mut self) -> bool {
        !self.link.is_settled() || self.frozen.is_waiting()
    }

    /// Before leaving: lets an agent that was restarted take the segments back, so that what was
    /// committed can still be read when this process is gone; and sends the frozen payloads of a
    /// lane whose consumer was not heard of yet.
    fn settle(&mut self) {
        let start = Instant::now();
        // A revoked lane has nobody to settle with.
        while self.maintain().is_ok() && self.is_unsettled() && start.elapsed() < SETTLE_WITHIN {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Looks at the agent's events. Called by itself when the ring is full and once a second
    /// while messages flow; a producer that sends rarely may call it as it likes.
    ///
    /// # Errors
    /// `Revoked`.
    pub fn maintain(&mut self) -> Result<(), ReserveError> {
        while let Some((frame, descriptor)) = self.link.next_event() {
            match (frame, descriptor) {
                (Frame::Join(segment), Some(fd)) if segment.generation > self.joined => {
                    // A segment that does not stand up to the check is not joined: the ring then
                    // fills up and says so, and the agent's next offer is looked at again.
                    if let Ok((region, fd)) = self.prove(segment, fd) {
                        self.link.forget_below(segment.generation);
                        self.link.hold(Role::Consumer, segment.generation, fd);
                        self.join(region, segment.generation);
                    }
                }
                (Frame::PeerGone, _) => self.link.peer = PeerState::Gone,
                (Frame::Reader { segment, start }, Some(fd)) => self.let_in(segment, start, fd),
                (Frame::ReaderGone { number }, _) => self.reader_gone(number),
                (Frame::Gathered, _) => self.gathered = true,
                (Frame::Lifeline { number, .. }, Some(fd)) => self.take_lifeline(number, fd),
                _ => {}
            }
        }
        self.report_given_up();
        self.tend_frozen();
        if self.link.revoked {
            self.ring.shut();
            return Err(ReserveError::Revoked);
        }
        Ok(())
    }

    pub(crate) fn join(&mut self, mut region: Region<Foreign>, incarnation: u64) {
        self.joined = incarnation;
        region.take_lifeline(self.link.lifeline(incarnation));
        self.ring.join(region, incarnation);
        self.greet(incarnation);
        self.link.peer = PeerState::Live;
    }

    fn prove(
        &self,
        segment: PeerSegment,
        fd: OwnedFd,
    ) -> Result<(Region<Foreign>, OwnedFd), SegmentError> {
        let header = Header {
            kind: KIND_CONSUMER,
            lane: self.grant.lane,
            generation: segment.generation,
            nonce: segment.nonce,
            slot_stride: self.ring.geometry().stride() as u64,
            slot_payload: u64::from(self.grant.slot_payload),
            slot_count: u64::from(self.grant.slot_count),
            base_position: segment.base,
            size_bytes: CONSUMER_SEGMENT_BYTES as u64,
        };
        let segment = Segment::verify(fd, header)?;
        Ok((segment.map()?, segment.into_fd()))
    }

    #[cold]
    fn no_room(&mut self, len: usize) -> ReserveError {
        let limit_bytes = self.message_max();
        if len > limit_bytes {
            return ReserveError::TooLarge { asked_bytes: len, limit_bytes };
        }
        let (released, readers) = (self.ring.released(), self.grant.broadcast.is_some());
        let due = self.link.revoked || self.link.pulse.idle_due(released, readers);
        if due {
            self.note_hold();
            if let Err(revoked) = self.maintain() {
                return revoked;
            }
        }
        let geometry = self.ring.geometry();
        let (asked, slots) = (geometry.slots_for(len), geometry.count());
        ReserveError::Full { asked, free: self.ring.free(), slots }
    }

    #[cold]
    pub(crate) fn wait_for_room(
        &mut self,
        len: usize,
        timeout: Duration,
    ) -> Result<Span, ReserveError> {
        let slots = self.ring.geometry().slots_for(len);
        let (mut start, mut spins, mut woken) = (None, 0u32, Duration::ZERO);
        self.attend()?;
        loop {
            if let Some(span) = self.ring.try_reserve(len)? {
                self.let_go();
                return Ok(span);
            }
            if let error @ (ReserveError::TooLarge { .. } | ReserveError::Revoked) =
                self.no_room(len)
            {
                return Err(error);
            }
            // Not before there is something to wait for: the counters' turn comes here, too.
            let start: Instant = *start.get_or_insert_with(Instant::now);
            spins = spins.wrapping_add(1);
            if spins.is_multiple_of(64) {
                self.note_hold();
                if start.elapsed() >= timeout {
                    self.maintain()?;
                    return Err(self.timed_out(timeout));
                }
            }
            if self.wait == WaitMode::Park && spins > SPINS_BEFORE_PARK {
                self.sleep_for_room(slots, start, timeout, &mut woken)?;
                spins = SPINS_BEFORE_PARK - 64;
            } else {
                spin_hint();
            }
        }
    }
}

impl Drop for Producer {
    /// Leaves the counters exact; the lane stays open for a successor.
    fn drop(&mut self) {
        self.ring.finish();
    }
}

/// A reserved message. Dropping it without commit publishes nothing and gives the slots back.
#[derive(Debug)]
pub struct WriteSlot<'p> {
    producer: &'p mut Producer,
    span: Span,
}

impl<'p> WriteSlot<'p> {
    pub(crate) fn new(producer: &'p mut Producer, span: Span) -> Self {
        Self { producer, span }
    }
}

impl WriteSlot<'_> {
    /// Length that was reserved, in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.span.len
    }

    /// Whether the message is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.span.len == 0
    }

    /// Copies `bytes` to `offset` of the message, across slots where the message is long.
    ///
    /// # Panics
    /// If `offset + bytes.len()` exceeds the reserved length, as a slice would.
    #[inline(always)]
    pub fn write(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset.checked_add(bytes.len());
        if end.is_none_or(|end| end > self.span.len) {
            too_long(offset, bytes.len(), self.span.len);
        }
        self.producer.ring.write(&self.span, offset, bytes);
    }

    /// The message's bytes in the lane itself, for writing in place.
    ///
    /// `None` if the message takes several slots; [`WriteSlot::write`] serves those. Bytes that
    /// are not written keep what an earlier message left there.
    #[inline]
    pub fn as_mut(&mut self) -> Option<&mut [MaybeUninit<u8>]> {
        if self.span.slots != 1 {
            return None;
        }
        let at = self.span.place.offset + WORD_BYTES;
        Some(self.producer.ring.own_mut().bytes_mut(at, self.span.len))
    }

    /// As [`WriteSlot::as_mut`], with the bytes that an earlier message left there as they are.
    #[inline]
    pub fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        if self.span.slots != 1 {
            return None;
        }
        let at = self.span.place.offset + WORD_BYTES;
        Some(self.producer.ring.own_mut().written_mut(at, self.span.len))
    }

    /// Makes the message visible.
    #[inline(always)]
    pub fn commit(self) {
        self.producer.ring.commit(&self.span);
    }

    /// Makes the first `len` bytes visible as the message.
    ///
    /// # Panics
    /// If `len` exceeds the reserved length.
    pub fn commit_len(mut self, len: usize) {
        assert!(len <= self.span.len, "committing {len} bytes of {}", self.span.len);
        self.span.len = len;
        self.span.slots = self.producer.ring.geometry().slots_for(len);
        self.commit();
    }
}

#[cold]
#[inline(never)]
fn too_long(offset: usize, len: usize, limit: usize) -> ! {
    panic!("writing {len} bytes at {offset} into a message of {limit}")
}
