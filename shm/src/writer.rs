//! The producer's half of the ring: room, payload, commit words, and sleep for want of room.

mod crowd;
mod frozen;
mod payload;
mod sleep;

use std::mem::ManuallyDrop;

use crate::bell::{Bell, Parked};
use crate::cursor::{CommitWord, Kind, accept_released};
use crate::distance::Gauge;
use crate::error::Corruption;
use crate::geometry::{Geometry, Place, WORD_BYTES};
use crate::layout::{
    BY_DOORBELL, C_HEAVY, C_PARKED, C_RELEASED, P_BELL, P_BYTES, P_COMMITTED, P_JOINED, P_MESSAGES,
    P_STALLS,
};
use crate::memory::{Memory, OwnedMemory};
use crate::ring::{Span, WaitMode};

use crowd::Crowd;
pub use crowd::{GivenUp, Lag};

/// Slots between two updates of the producer's counters for observers.
const COUNTERS_EVERY: usize = 64;

/// The producer's half. `own` is its segment, `peer` the consumer's.
#[derive(Debug)]
pub struct Writer<P, C> {
    own: P,
    peer: Option<C>,
    /// The consumer's incarnation.
    joined: u64,
    geometry: Geometry,
    wait: WaitMode,
    /// The next slot to write: all below are committed, or belong to the open batch.
    next: Place,
    /// Below this position, a message of one slot needs no look at anything but its length: there
    /// is room, no batch is open, and neither the counters nor the handle want attention.
    free_run: u64,
    /// First position that is not free: last accepted cursor of the consumer, plus the ring.
    gate: u64,
    /// Last cursor that was accepted from the consumer; never read back from shared memory.
    released: u64,
    batch: Option<Batch>,
    /// Position from which on the counters are due.
    counters_at: u64,
    /// Position from which on the handle wants to look at its agent.
    attend_at: u64,
    /// Position at which this writer started.
    base: u64,
    /// Slots since then that did not start a message.
    spare: u64,
    bytes: u64,
    stalls: u64,
    parked: Parked,
    /// This process lets sleepers run its fences.
    may_be_light: bool,
    /// The consumer does so: a commit needs no fence of its own.
    light: bool,
    bell: Bell,
    poison: Option<Corruption>,
    /// The lane was taken away: there is no room any more.
    closed: bool,
    /// The readers of a broadcast lane, which then has no `peer`.
    crowd: Option<Box<Crowd<C>>>,
    /// No slot at or beyond this position was handed out for writing, but for the next one.
    touched: u64,
    /// It asks for lines before it writes them, if the consumer is far.
    may_ask: bool,
    /// Judged where messages are long, or small and many.
    gauge: Gauge,
}

/// Messages written but not yet visible: the state to return to, and the word that shows them.
#[derive(Clone, Copy, Debug)]
struct Batch {
    start: Place,
    spare: u64,
    bytes: u64,
    /// Commit word of the first slot, held back until the batch commits.
    word: CommitWord,
}

/// Messages that are being written, up to `place`. Dropped where the caller's code panics while it
/// makes the next one: none of them is to be seen, then or later.
struct Unfinished<'w, P: OwnedMemory, C: Memory> {
    writer: &'w mut Writer<P, C>,
    place: Place,
}

impl<P: OwnedMemory, C: Memory> Unfinished<'_, P, C> {
    #[inline(always)]
    fn put<const N: usize>(&mut self, bytes: [u8; N]) {
        self.writer.own.store_array(self.place.offset + WORD_BYTES, bytes);
    }

    #[inline(always)]
    fn advance(&mut self) {
        self.place.advance(&self.writer.geometry);
    }
}

impl<P: OwnedMemory, C: Memory> Drop for Unfinished<'_, P, C> {
    #[inline(always)]
    fn drop(&mut self) {
        self.writer.clear_words(self.place.position);
    }
}

impl<P: OwnedMemory, C: Memory> Writer<P, C> {
    /// A writer whose next message has position `base`, when the consumer has released
    /// `released` (at most `base`).
    pub fn new(own: P, geometry: Geometry, wait: WaitMode, base: u64, released: u64) -> Self {
        let mut writer = Self {
            own,
            peer: None,
            joined: 0,
            geometry,
            wait,
            next: geometry.place(base),
            free_run: 0,
            gate: released.saturating_add(geometry.count()),
            released,
            batch: None,
            counters_at: base,
            attend_at: u64::MAX,
            base,
            spare: 0,
            bytes: 0,
            stalls: 0,
            parked: Parked::default(),
            may_be_light: false,
            light: false,
            bell: Bell::default(),
            poison: None,
            closed: false,
            crowd: None,
            touched: base,
            may_ask: payload::may_ask(&geometry),
            gauge: Gauge::granted(None),
        };
        writer.measure_run();
        writer
    }

    /// Never finds room again.
    pub fn shut(&mut self) {
        self.closed = true;
        self.gate = 0;
        self.measure_run();
    }

    /// Leaves the fence of each commit to consumers that go to sleep, where they can pay for it.
    pub fn allow_light(&mut self) {
        self.may_be_light = self.own.allow_light();
    }

    /// Starts to obey the cursor of the consumer's segment `peer`, its `incarnation`-th.
    pub fn join(&mut self, peer: C, incarnation: u64) {
        self.light = self.may_be_light && peer.load_u32(C_HEAVY) == 1;
        self.peer = Some(peer);
        self.joined = incarnation;
        self.gauge = self.gauge.for_new_peer();
        self.bell = self.bell.for_new_peer();
        // Until the consumer reads its own number here, it does not rely on being woken.
        self.own.store_release(P_JOINED, incarnation);
        self.own.full_fence();
        self.measure_run();
    }

    /// Incarnation of the consumer that was joined last; 0 before, and of a broadcast lane.
    #[cfg(feature = "tokio")]
    pub(crate) fn joined(&self) -> u64 {
        self.joined
    }

    /// The segment of every consumer or reader.
    #[cfg(feature = "tokio")]
    pub(crate) fn peers(&self) -> impl Iterator<Item = &C> + Clone {
        let readers = self.crowd.as_ref().into_iter().flat_map(|crowd| crowd.peers());
        self.peer.iter().chain(readers)
    }

    /// The consumer's segment, once there is one.
    pub(crate) fn peer(&self) -> Option<&C> {
        self.peer.as_ref()
    }

    /// The segment of the consumer or reader with this number, if it was joined.
    pub(crate) fn peer_mut(&mut self, number: u64) -> Option<&mut C> {
        match &mut self.crowd {
            Some(crowd) => crowd.peer_mut(number),
            None => self.peer.as_mut().filter(|_| self.joined == number),
        }
    }

    /// From this many slots on, [`Writer::ready`] finds nothing until it is called again.
    pub(crate) fn attend_in(&mut self, slots: u64) {
        self.attend_at = self.next.position.saturating_add(slots);
        self.measure_run();
    }

    /// Whether the slots of the last [`Writer::attend_in`] are used up.
    pub(crate) fn attention_due(&self) -> bool {
        self.next.position >= self.attend_at
    }

    /// Slots that are free for certain.
    #[must_use]
    pub fn free(&self) -> u64 {
        self.gate.saturating_sub(self.next.position)
    }

    /// Position after the last committed slot.
    #[must_use]
    pub fn committed(&self) -> u64 {
        self.batch.map_or(self.next.position, |batch| batch.start.position)
    }

    /// Last accepted cursor of the consumer.
    #[must_use]
    pub fn released(&self) -> u64 {
        self.released
    }

    /// The ring's arithmetic.
    #[must_use]
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The producer's own memory, for writing in place.
    pub(crate) fn own_mut(&mut self) -> &mut P {
        &mut self.own
    }

    /// Room for a message of one slot, now, without a look at the consumer: the usual case.
    #[inline(always)]
    pub fn ready(&self, len: usize) -> Option<Span> {
        let fits = len <= self.geometry.payload() as usize && self.next.position < self.free_run;
        fits.then_some(Span { place: self.next, slots: 1, len })
    }

    /// Room for a message of one slot in the open or the next batch, likewise.
    #[inline(always)]
    pub(crate) fn ready_in_batch(&self, len: usize) -> Option<Span> {
        let fits = len <= self.geometry.payload() as usize && self.next.position < self.gate;
        fits.then_some(Span { place: self.next, slots: 1, len })
    }

    /// Finds room for a message of `len` bytes; `None` if the ring is too full now.
    ///
    /// # Errors
    /// The consumer's cursor is a lie; the writer is poisoned.
    pub fn try_reserve(&mut self, len: usize) -> Result<Option<Span>, Corruption> {
        if self.next.position >= self.counters_at && self.batch.is_none() {
            self.store_counters();
            self.ask_for_lines();
        }
        let slots = self.geometry.slots_for(len);
        // A subtraction, because a sum could overflow for a length that never fits.
        if slots > self.free() || self.is_calibrating(slots) {
            self.refresh(slots)?;
            if slots > self.free() {
                return Ok(None);
            }
        }
        let end = self.next.position + slots;
        self.touched = self.touched.max(end);
        if self.crowd.is_some() {
            self.note_reach(end);
        }
        Ok(Some(Span { place: self.next, slots, len }))
    }

    /// Works out anew how far [`Writer::ready`] may go.
    fn measure_run(&mut self) {
        let blocked = self.batch.is_some() || self.poison.is_some();
        let mut run = self.gate.min(self.counters_at).min(self.attend_at).min(self.reach());
        if self.is_calibrating(1) {
            run = run.min(self.next.position.saturating_add(1));
        }
        self.free_run = if blocked { 0 } else { run };
    }

    /// Reads the consumer's cursor once and judges it; `slots` are wanted.
    #[cold]
    fn refresh(&mut self, slots: u64) -> Result<(), Corruption> {
        if let Some(poison) = self.poison {
            return Err(poison);
        }
        if self.closed {
            return Ok(());
        }
        let Some(peer) = &self.peer else {
            self.refresh_crowd(slots);
            return Ok(());
        };
        // Pairs with the Release in Reader::publish [released]: what the consumer read from the
        // slots happened before we write them again.
        let found = match self.does_distance_matter(slots) {
            true => self.gauge.watch(peer, self.released),
            false => peer.load_acquire(C_RELEASED),
        };
        let accepted = accept_released(self.released, self.committed(), found);
        match accepted {
            Ok(released) => {
                self.released = released;
                self.gate = released.saturating_add(self.geometry.count());
            }
            Err(poison) => {
                self.gate = 0;
                self.poison = Some(poison);
            }
        }
        self.measure_run();
        accepted.map(drop)
    }

    /// Makes a message visible: one release store.
    #[inline(always)]
    pub fn commit(&mut self, span: &Span) {
        if span.place.position >= self.free_run && self.batch.is_some() {
            // A batch handle that was leaked: its messages go out before this one.
            self.stage(span);
            self.commit_batch();
            return;
        }
        let word = self.write_words(span, Kind::Data);
        self.publish(span.place, word);
        self.move_on(span, 1);
        if self.wait == WaitMode::Park {
            self.wake_parked_consumer();
        }
    }

    /// Sends a message of one slot if there is room without a look at the consumer, the usual
    /// case; false if not.
    #[inline(always)]
    pub(crate) fn send_array<const N: usize>(&mut self, message: [u8; N]) -> bool {
        if N > self.geometry.payload() as usize || self.next.position >= self.free_run {
            return false;
        }
        #[expect(clippy::cast_possible_truncation, reason = "one slot holds at most u24")]
        let word = CommitWord::of(&self.next, Kind::Data, N as u32);
        // As in Writer::publish [commit].
        self.own.store_slot(self.next.offset, word.0, message);
        self.next.advance(&self.geometry);
        self.bytes += N as u64;
        if self.wait == WaitMode::Park {
            self.wake_parked_consumer();
        }
        true
    }

    /// Writes up to `count` messages of `N` bytes, one slot each, and makes them visible together;
    /// returns how many there was room for without a look at the consumer.
    ///
    /// The place stays in registers from one message to the next.
    #[inline(always)]
    pub(crate) fn commit_arrays<const N: usize>(
        &mut self,
        count: usize,
        mut make: impl FnMut() -> [u8; N],
    ) -> usize {
        let start = self.next;
        let room = self.free_run.saturating_sub(start.position);
        let fits = N <= self.geometry.payload() as usize;
        let end = start.position + room.min(count as u64);
        if !fits || end == start.position {
            return 0;
        }
        #[expect(clippy::cast_possible_truncation, reason = "one slot holds at most u24")]
        let len = N as u32;
        let mut run = Unfinished { writer: self, place: start };
        run.put(make());
        run.advance();
        while run.place.position < end {
            run.put(make());
            // As in Writer::stage: unseen until the first one's word is there.
            let word = CommitWord::of(&run.place, Kind::Data, len);
            run.writer.own.store_relaxed(run.place.offset, word.0);
            run.advance();
        }
        let place = ManuallyDrop::new(run).place;
        self.publish(start, CommitWord::of(&start, Kind::Data, len));
        let sent = end - start.position;
        self.next = place;
        self.bytes += sent * N as u64;
        if self.wait == WaitMode::Park {
            self.wake_parked_consumer();
        }
        #[expect(clippy::cast_possible_truncation, reason = "at most `count`")]
        return sent as usize;
    }

    /// Adds a message to the open batch: written, not yet visible.
    #[inline(always)]
    pub fn stage(&mut self, span: &Span) {
        let word = self.write_words(span, Kind::Data);
        if self.batch.is_some() {
            // Not the first slot of the batch: its word may be visible at once, because the
            // consumer stops at the batch's first slot until that one commits.
            self.own.store_relaxed(span.place.offset, word.0);
        } else {
            let (start, spare, bytes) = (span.place, self.spare, self.bytes);
            self.batch = Some(Batch { start, spare, bytes, word });
            self.gate = self.gate.min(self.reach());
            self.measure_run();
        }
        self.move_on(span, 1);
    }

    /// Makes the whole open batch visible with one release store; returns its messages.
    pub fn commit_batch(&mut self) -> u64 {
        let Some(batch) = self.batch.take() else {
            return 0;
        };
        self.publish(batch.start, batch.word);
        if self.wait == WaitMode::Park {
            self.wake_parked_consumer();
        }
        if self.next.position >= self.counters_at {
            self.store_counters();
        }
        self.measure_run();
        self.next.position - batch.start.position - (self.spare - batch.spare)
    }

    /// Forgets the open batch.
    ///
    /// Words of its later slots may stand committed beyond the hole; they are overwritten or
    /// stay unseen, because the consumer never looks past the first uncommitted slot. Each is
    /// cleared so that a shorter message at the same place cannot make it look committed.
    pub fn abort_batch(&mut self) {
        let Some(batch) = self.batch.take() else {
            return;
        };
        let end = self.next.position;
        (self.next, self.spare, self.bytes) = (batch.start, batch.spare, batch.bytes);
        self.clear_words(end);
    }

    /// Takes the words back that stand between the next message's slot and `end`.
    #[cold]
    fn clear_words(&mut self, end: u64) {
        // What these slots held in the lap before may be needed to find out where a producer that
        // is killed committed last, unless the counters say so before the words are gone.
        self.store_counters();
        self.own.release_fence();
        self.touched = self.touched.max(end);
        // A reader that was overrun must not take a slot for one that was never written.
        let loses = self.crowd.as_ref().is_some_and(|crowd| crowd.loses());
        for position in self.next.position + 1..end {
            let place = self.geometry.place(position);
            let word = if loses { CommitWord::of(&place, Kind::Busy, 0).0 } else { 0 };
            self.own.store_relaxed(place.offset, word);
        }
    }

    /// Ends the stream: a last slot that says so. False if the ring is too full now.
    ///
    /// # Errors
    /// As [`Writer::try_reserve`].
    pub fn try_end(&mut self) -> Result<bool, Corruption> {
        self.commit_batch();
        let Some(span) = self.try_reserve(0)? else {
            return Ok(false);
        };
        let word = self.write_words(&span, Kind::End);
        self.publish(span.place, word);
        self.move_on(&span, 0);
        if self.wait == WaitMode::Park {
            self.wake_parked_consumer();
        }
        self.store_counters();
        Ok(true)
    }

    /// Writes the words of all slots but the first, and returns the first slot's.
    #[inline(always)]
    fn write_words(&self, span: &Span, last: Kind) -> CommitWord {
        if span.slots == 1 {
            #[expect(clippy::cast_possible_truncation, reason = "one slot holds at most u24")]
            return CommitWord::of(&span.place, last, span.len as u32);
        }
        self.write_long_words(*span, last)
    }

    fn write_long_words(&self, span: Span, last: Kind) -> CommitWord {
        let payload = self.geometry.payload();
        for index in (1..span.slots).rev() {
            let place = self.geometry.place(span.position() + index);
            let word = if index + 1 == span.slots {
                let before = index * u64::from(payload);
                #[expect(clippy::cast_possible_truncation, reason = "below one slot's payload")]
                let rest = (span.len as u64 - before) as u32;
                CommitWord::of(&place, last, rest)
            } else {
                CommitWord::of(&place, Kind::More, payload)
            };
            self.own.store_relaxed(place.offset, word.0);
        }
        CommitWord::of(&span.place, Kind::More, payload)
    }

    #[inline(always)]
    fn publish(&self, place: Place, word: CommitWord) {
        // Pairs with the Acquire in Reader::ready_at [commit]: payload and later words come first.
        self.own.store_release(place.offset, word.0);
    }

    #[inline(always)]
    fn move_on(&mut self, span: &Span, messages: u64) {
        self.next = span.end(&self.geometry);
        self.spare += span.slots - messages;
        self.bytes += span.len as u64;
    }

    /// Shows the counters of a writer that is about to go.
    pub fn finish(&mut self) {
        self.store_counters();
    }

    /// Shows the counters to observers. Lazy: nobody orders anything by them.
    #[cold]
    fn store_counters(&mut self) {
        let (committed, spare, bytes) = match self.batch {
            Some(batch) => (batch.start.position, batch.spare, batch.bytes),
            None => (self.next.position, self.spare, self.bytes),
        };
        // A position near the end of all positions is an agent's lie, and no reason to panic.
        self.counters_at = committed.saturating_add(COUNTERS_EVERY as u64);
        self.measure_run();
        self.own.store_relaxed(P_MESSAGES, committed - self.base - spare);
        self.own.store_relaxed(P_BYTES, bytes);
        self.own.store_relaxed(P_STALLS, self.stalls);
        self.own.store_release(P_COMMITTED, committed);
    }

    #[inline]
    fn wake_parked_consumer(&mut self) {
        let Some(peer) = &self.peer else { return self.wake_crowd() };
        // Pairs with the fence in Reader::fence_sleep [sleep]: either we see its parked word, or it
        // sees our commit when it looks again.
        if self.light {
            self.own.light_fence();
        } else {
            self.own.full_fence();
        }
        let parked = peer.load_u32(C_PARKED);
        if parked.is_multiple_of(2) {
            return;
        }
        if let Some(rung) = self.bell.ring(parked, peer.load_acquire(C_RELEASED)) {
            self.own.store_u32(P_BELL, rung);
            if parked & BY_DOORBELL == 0 {
                self.own.wake(P_BELL);
            } else {
                peer.doorbell();
            }
        }
    }
}
