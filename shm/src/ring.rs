//! The single-producer single-consumer slot ring, over any [`Memory`].
//!
//! Each slot carries its own commit word beside the payload (the FastForward lineage: Giacomoni,
//! Moseley, Vachharajani, PPoPP 2008), so a small message moves one cache line and no index line.
//! The producer publishes with one release store; the consumer's cursor is published lazily and
//! accepted only between its last accepted value and what was committed. Nothing here allocates,
//! panics on a peer's number, reads geometry from shared memory, or knows of agents and files.

use std::time::Duration;

use crate::cursor::{CommitWord, Kind, SlotState, accept_released, read_slot};
use crate::error::Corruption;
use crate::geometry::{Geometry, WORD_BYTES};
use crate::layout::{
    C_BELL, C_BYTES, C_EMPTY, C_MESSAGES, C_PARKED, C_RELEASED, P_BELL, P_BYTES, P_COMMITTED,
    P_JOINED, P_MESSAGES, P_PARKED, P_STALLS,
};
use crate::memory::{Memory, OwnedMemory};

/// Slots between two updates of the producer's counters for observers.
const COUNTERS_EVERY: u64 = 64;
/// Wakes without progress after which a peer's parked word is ignored: a hostile consumer that
/// pretends to sleep would otherwise cost the producer a system call for each message.
const IDLE_WAKES_MAX: u32 = 64;

/// A cache line, in bytes.
const LINE: usize = 64;
/// Stride of a slot of two lines: only there does a prefetch of the second one pay.
const TWO_LINES: usize = 128;

/// How the two ends wait for each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WaitMode {
    /// Both ends spin: no fence and no look at the peer's parked word.
    #[default]
    Spin,
    /// Both ends spin for a while, then sleep on a futex.
    Park,
}

/// Which slots a message takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Position of the first slot.
    pub position: u64,
    /// Number of slots.
    pub slots: u64,
    /// Length of the message, in bytes.
    pub len: usize,
}

/// Decides whether a parked peer gets a wake-up.
#[derive(Debug, Default)]
struct Bell {
    value: u32,
    rung_for: u32,
    idle_wakes: u32,
    progress_at: u64,
}

impl Bell {
    /// Forgets the peer but not the word in memory: a ring must change it, or it rings nobody.
    fn for_new_peer(&self) -> Self {
        Self { value: self.value, ..Self::default() }
    }

    /// Whether to ring, given the peer's parked word and its cursor.
    ///
    /// One wake for each sleep: `parked` is odd while the peer sleeps and has a new value each
    /// time, so that a burst of commits during one wake-up costs one system call.
    fn must_ring(&mut self, parked: u32, progress: u64) -> bool {
        if parked.is_multiple_of(2) || parked == self.rung_for {
            return false;
        }
        if progress != self.progress_at {
            self.progress_at = progress;
            self.idle_wakes = 0;
        }
        self.rung_for = parked;
        self.idle_wakes = self.idle_wakes.saturating_add(1);
        self.idle_wakes <= IDLE_WAKES_MAX
    }
}

/// The producer's half. `own` is its segment, `peer` the consumer's.
#[derive(Debug)]
pub struct Writer<P, C> {
    own: P,
    peer: Option<C>,
    geometry: Geometry,
    wait: WaitMode,
    /// Position of the next slot to commit; all below are committed.
    committed: u64,
    /// Last cursor that was accepted from the consumer; never read back from shared memory.
    released: u64,
    /// First position that is not free: `released + count`.
    gate: u64,
    /// Commit word of the first slot of an open batch, held back until the batch commits.
    batch: Option<Batch>,
    counters_at: u64,
    messages: u64,
    bytes: u64,
    stalls: u64,
    parked: u32,
    bell: Bell,
    poison: Option<Corruption>,
    /// The lane was taken away: there is no room any more.
    closed: bool,
}

/// Messages written but not yet visible.
#[derive(Clone, Copy, Debug)]
struct Batch {
    word: CommitWord,
    end: u64,
    messages: u64,
    bytes: u64,
}

impl<P: OwnedMemory, C: Memory> Writer<P, C> {
    /// A writer whose next message has position `base`, when the consumer has released
    /// `released` (at most `base`).
    pub fn new(own: P, geometry: Geometry, wait: WaitMode, base: u64, released: u64) -> Self {
        Self {
            own,
            peer: None,
            geometry,
            wait,
            committed: base,
            released,
            gate: released.saturating_add(geometry.count()),
            batch: None,
            counters_at: base,
            messages: 0,
            bytes: 0,
            stalls: 0,
            parked: 0,
            bell: Bell::default(),
            poison: None,
            closed: false,
        }
    }

    /// Never finds room again.
    pub fn shut(&mut self) {
        self.closed = true;
        self.gate = 0;
    }

    /// Starts to obey the cursor of the consumer's segment `peer`, its `incarnation`-th.
    pub fn join(&mut self, peer: C, incarnation: u64) {
        self.peer = Some(peer);
        self.bell = self.bell.for_new_peer();
        // Until the consumer reads its own number here, it does not rely on being woken.
        self.own.store_release(P_JOINED, incarnation);
        self.own.full_fence();
    }

    /// Slots that are free for certain.
    #[must_use]
    pub fn free(&self) -> u64 {
        self.gate.saturating_sub(self.next())
    }

    /// Position of the next slot to write: after an open batch.
    fn next(&self) -> u64 {
        self.batch.map_or(self.committed, |batch| batch.end)
    }

    /// Position after the last committed slot.
    #[must_use]
    pub fn committed(&self) -> u64 {
        self.committed
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
        let fits = len <= self.geometry.payload() as usize && self.committed < self.gate;
        (fits && self.batch.is_none()).then_some(Span { position: self.committed, slots: 1, len })
    }

    /// Finds room for a message of `len` bytes; `None` if the ring is too full now.
    ///
    /// # Errors
    /// The consumer's cursor is a lie; the writer is poisoned.
    #[inline]
    pub fn try_reserve(&mut self, len: usize) -> Result<Option<Span>, Corruption> {
        let slots = self.geometry.slots_for(len);
        let position = self.next();
        // A subtraction, because a sum could overflow for a length that never fits.
        if slots > self.gate.saturating_sub(position) {
            self.refresh()?;
            if slots > self.gate.saturating_sub(position) {
                return Ok(None);
            }
        }
        Ok(Some(Span { position, slots, len }))
    }

    /// Reads the consumer's cursor once and judges it.
    #[cold]
    fn refresh(&mut self) -> Result<(), Corruption> {
        if let Some(poison) = self.poison {
            return Err(poison);
        }
        let Some(peer) = self.peer.as_ref().filter(|_| !self.closed) else { return Ok(()) };
        // Pairs with the Release in Reader::publish [released]: what the consumer read from the
        // slots happened before we write them again.
        let found = peer.load_acquire(C_RELEASED);
        match accept_released(self.released, self.committed, found) {
            Ok(released) => {
                self.released = released;
                self.gate = released.saturating_add(self.geometry.count());
                Ok(())
            }
            Err(poison) => {
                self.gate = 0;
                self.poison = Some(poison);
                Err(poison)
            }
        }
    }

    /// Copies `bytes` to `offset` of a reserved message, over slot borders where needed.
    ///
    /// Bytes beyond the span's length are not written; the caller has checked the range.
    #[inline(always)]
    pub fn write(&self, span: &Span, offset: usize, bytes: &[u8]) {
        let payload = self.geometry.payload() as usize;
        if span.slots == 1 {
            let at = self.geometry.slot_offset(span.position) + WORD_BYTES;
            return self.own.copy_in(at + offset, bytes);
        }
        let (mut offset, mut rest) = (offset, bytes);
        while !rest.is_empty() {
            let slot = span.position + (offset / payload) as u64;
            let within = offset % payload;
            let (now, later) = rest.split_at(rest.len().min(payload - within));
            self.own.copy_in(self.geometry.slot_offset(slot) + WORD_BYTES + within, now);
            offset += now.len();
            rest = later;
        }
    }

    /// Makes a message visible: one release store.
    #[inline(always)]
    pub fn commit(&mut self, span: &Span) {
        if self.batch.is_some() {
            // A batch handle that was leaked: its messages go out before this one.
            self.stage(span);
            self.commit_batch();
            return;
        }
        let first = self.write_words(span, Kind::Data);
        self.publish(span.position, first);
        self.account(span.position + span.slots, 1, span.len as u64);
    }

    /// Adds a message to the open batch: written, not yet visible.
    pub fn stage(&mut self, span: &Span) {
        let word = self.write_words(span, Kind::Data);
        let (end, len) = (span.position + span.slots, span.len as u64);
        match &mut self.batch {
            Some(batch) => {
                // Not the first slot of the batch: its word may be visible at once, because the
                // consumer stops at the batch's first slot until that one commits.
                self.own.store_relaxed(self.geometry.slot_offset(span.position), word.0);
                (batch.end, batch.messages, batch.bytes) =
                    (end, batch.messages + 1, batch.bytes + len);
            }
            None => self.batch = Some(Batch { word, end, messages: 1, bytes: len }),
        }
    }

    /// Makes the whole open batch visible with one release store.
    pub fn commit_batch(&mut self) -> u64 {
        let Some(batch) = self.batch.take() else {
            return 0;
        };
        self.publish(self.committed, batch.word);
        self.account(batch.end, batch.messages, batch.bytes);
        batch.messages
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
        for position in self.committed + 1..batch.end {
            self.own.store_relaxed(self.geometry.slot_offset(position), 0);
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
        self.publish(span.position, word);
        self.account(span.position + 1, 0, 0);
        self.store_counters();
        Ok(true)
    }

    /// Writes the words of all slots but the first, and returns the first slot's.
    #[inline(always)]
    fn write_words(&mut self, span: &Span, last: Kind) -> CommitWord {
        let payload = self.geometry.payload();
        if span.slots == 1 {
            #[expect(clippy::cast_possible_truncation, reason = "one slot holds at most u24")]
            return CommitWord::new(self.geometry.turn(span.position), last, span.len as u32);
        }
        for index in (1..span.slots).rev() {
            let position = span.position + index;
            let turn = self.geometry.turn(position);
            let word = if index + 1 == span.slots {
                let before = index * u64::from(payload);
                #[expect(clippy::cast_possible_truncation, reason = "below one slot's payload")]
                let rest = (span.len as u64 - before) as u32;
                CommitWord::new(turn, last, rest)
            } else {
                CommitWord::new(turn, Kind::More, payload)
            };
            self.own.store_relaxed(self.geometry.slot_offset(position), word.0);
        }
        CommitWord::new(self.geometry.turn(span.position), Kind::More, payload)
    }

    #[inline(always)]
    fn publish(&mut self, position: u64, word: CommitWord) {
        // Pairs with the Acquire in Reader::ready [commit]: payload and later words come first.
        self.own.store_release(self.geometry.slot_offset(position), word.0);
    }

    #[inline(always)]
    fn account(&mut self, committed: u64, messages: u64, bytes: u64) {
        self.committed = committed;
        self.messages += messages;
        self.bytes += bytes;
        if self.wait == WaitMode::Park {
            self.wake_parked_consumer();
        }
        if committed >= self.counters_at {
            self.store_counters();
        }
    }

    /// Shows the counters of a writer that is about to go.
    pub fn finish(&mut self) {
        self.store_counters();
    }

    /// Shows the counters to observers. Lazy: nobody orders anything by them.
    #[cold]
    fn store_counters(&mut self) {
        self.counters_at = self.committed + COUNTERS_EVERY;
        self.own.store_relaxed(P_MESSAGES, self.messages);
        self.own.store_relaxed(P_BYTES, self.bytes);
        self.own.store_relaxed(P_STALLS, self.stalls);
        self.own.store_release(P_COMMITTED, self.committed);
    }

    #[inline]
    fn wake_parked_consumer(&mut self) {
        let Some(peer) = &self.peer else { return };
        // Pairs with the fence in Reader::park [sleep]: either we see its parked word, or it sees
        // our commit when it looks again.
        self.own.full_fence();
        let parked = peer.load_u32(C_PARKED);
        if !parked.is_multiple_of(2) && self.bell.must_ring(parked, peer.load_acquire(C_RELEASED)) {
            self.bell.value = self.bell.value.wrapping_add(1);
            self.own.store_u32(P_BELL, self.bell.value);
            self.own.wake(P_BELL);
        }
    }

    /// Sleeps until the consumer releases, at most `timeout`. May return early.
    ///
    /// # Errors
    /// As [`Writer::try_reserve`].
    pub fn park(&mut self, slots: u64, timeout: Duration) -> Result<(), Corruption> {
        self.stalls += 1;
        self.store_counters();
        // Before the number of this sleep can be seen: see Reader::park.
        let rung = self.peer.as_ref().map(|peer| peer.load_u32(C_BELL));
        self.parked = self.parked.wrapping_add(1) | 1;
        self.own.store_u32(P_PARKED, self.parked);
        // Pairs with the fence in Reader::wake_parked_producer [room]: either it sees us parked,
        // or we see its cursor now.
        self.own.full_fence();
        let result = self.park_on_bell(rung, slots, timeout);
        self.parked = self.parked.wrapping_add(1);
        self.own.store_u32(P_PARKED, self.parked);
        result
    }

    fn park_on_bell(
        &mut self,
        rung: Option<u32>,
        slots: u64,
        timeout: Duration,
    ) -> Result<(), Corruption> {
        let Some(rung) = rung else {
            // Nobody could wake us: the caller looks at its control socket in between.
            std::thread::sleep(timeout.min(UNJOINED_SLEEP));
            return Ok(());
        };
        self.refresh()?;
        if let Some(peer) = &self.peer
            && self.next() + slots > self.gate
        {
            peer.wait(C_BELL, rung, timeout);
        }
        Ok(())
    }
}

/// A committed message as the consumer found it: a private copy of its words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// A message.
    Message(Span),
    /// The end of the stream.
    End,
}

/// The consumer's half. `own` is its segment, `peer` the producer's.
#[derive(Debug)]
pub struct Reader<P, C> {
    peer: Option<P>,
    own: C,
    geometry: Geometry,
    wait: WaitMode,
    incarnation: u64,
    /// Position of the next slot to look at; all below were released by the caller.
    position: u64,
    /// Cursor that the producer can see.
    published: u64,
    publish_every: u64,
    messages: u64,
    bytes: u64,
    empties: u64,
    parked: u32,
    bell: Bell,
    poison: Option<Corruption>,
}

impl<P: Memory, C: OwnedMemory> Reader<P, C> {
    /// A reader whose next message has position `start`, of the consumer's `incarnation`.
    pub fn new(own: C, geometry: Geometry, wait: WaitMode, start: u64, incarnation: u64) -> Self {
        Self {
            peer: None,
            own,
            geometry,
            wait,
            incarnation,
            position: start,
            published: start,
            publish_every: (geometry.count() / 4).max(1),
            messages: 0,
            bytes: 0,
            empties: 0,
            parked: 0,
            bell: Bell::default(),
            poison: None,
        }
    }

    /// Position of the next message.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The ring's arithmetic.
    #[must_use]
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The producer's memory, once there is one.
    pub(crate) fn peer(&self) -> Option<&P> {
        self.peer.as_ref()
    }

    /// Reads from the memory of the first or the next generation. The one before was drained.
    pub fn join(&mut self, peer: P) {
        self.bell = self.bell.for_new_peer();
        self.peer = Some(peer);
    }

    /// The next message if it is a plain one: in one slot, legal, and the reader not poisoned.
    ///
    /// One comparison judges turn, kind and length together; whatever fails it is judged in
    /// detail by [`Reader::poll`].
    #[inline(always)]
    pub fn ready(&self) -> Option<Span> {
        let peer = self.peer.as_ref()?;
        let at = self.geometry.slot_offset(self.position);
        if self.geometry.stride() == TWO_LINES {
            // The second line travels with the first instead of after it.
            peer.prefetch(at + LINE);
        }
        // Pairs with the Release in Writer::publish [commit].
        let word = peer.load_acquire(at);
        let len = word ^ CommitWord::new(self.geometry.turn(self.position), Kind::Data, 0).0;
        if len > u64::from(self.geometry.payload()) || self.poison.is_some() {
            return None;
        }
        #[expect(clippy::cast_possible_truncation, reason = "at most a slot's payload")]
        Some(Span { position: self.position, slots: 1, len: len as usize })
    }

    /// Spins until the next slot may be committed, at most `spins` times.
    #[inline]
    pub fn spin(&self, spins: u32) {
        for _ in 0..spins {
            if self.ready().is_some() {
                return;
            }
            crate::sync::spin_hint();
        }
    }

    /// Looks at the next slot; `None` if nothing is committed there.
    ///
    /// # Errors
    /// The producer broke the protocol; the reader is poisoned and says so at every later call.
    #[inline]
    pub fn poll(&mut self) -> Result<Option<Found>, Corruption> {
        match self.look(self.position) {
            Ok(SlotState::Committed(Kind::Data, len)) if self.poison.is_none() => {
                let span = Span { position: self.position, slots: 1, len: len as usize };
                Ok(Some(Found::Message(span)))
            }
            Ok(SlotState::Empty) => self.found_empty(),
            Ok(SlotState::Committed(kind, _)) => self.found_rare(kind).map(Some),
            Err(corruption) => Err(self.fail(corruption)),
        }
    }

    /// Whatever is neither empty nor a message of one slot.
    #[cold]
    fn found_rare(&mut self, kind: Kind) -> Result<Found, Corruption> {
        match (self.poison, kind) {
            (Some(poison), _) => Err(poison),
            (None, Kind::End) => Ok(Found::End),
            (None, _) => self.long_message(),
        }
    }

    /// The message after `span`, if it is committed: for receiving many at once.
    ///
    /// # Errors
    /// As [`Reader::poll`].
    pub fn poll_after(&mut self, span: &Span) -> Result<Option<Span>, Corruption> {
        if let Some(poison) = self.poison {
            return Err(poison);
        }
        let here = std::mem::replace(&mut self.position, span.position + span.slots);
        // A consumer that holds a whole ring would meet its own first slot again.
        let wrapped = self.position - here >= self.geometry.count();
        let found = if wrapped { Ok(None) } else { self.peek() };
        self.position = here;
        found
    }

    fn peek(&mut self) -> Result<Option<Span>, Corruption> {
        match self.look(self.position) {
            Ok(SlotState::Committed(Kind::Data, len)) => {
                Ok(Some(Span { position: self.position, slots: 1, len: len as usize }))
            }
            Ok(SlotState::Committed(Kind::More, _)) => match self.long_message()? {
                Found::Message(span) => Ok(Some(span)),
                Found::End => Ok(None),
            },
            Ok(_) => Ok(None),
            Err(corruption) => Err(self.fail(corruption)),
        }
    }

    #[inline]
    fn look(&self, position: u64) -> Result<SlotState, Corruption> {
        let Some(peer) = &self.peer else {
            return Ok(SlotState::Empty);
        };
        // As in Reader::ready: this is the same look, judged in detail.
        let word = peer.load_acquire(self.geometry.slot_offset(position));
        read_slot(&self.geometry, position, CommitWord(word))
    }

    #[cold]
    fn fail(&mut self, corruption: Corruption) -> Corruption {
        *self.poison.get_or_insert(corruption)
    }

    /// Empty: the producer gets to see the whole cursor, so that it never waits for a quarter.
    #[inline]
    fn found_empty(&mut self) -> Result<Option<Found>, Corruption> {
        if let Some(poison) = self.poison {
            return Err(poison);
        }
        if self.published != self.position {
            self.empties += 1;
            self.publish();
        }
        Ok(None)
    }

    /// Walks the slots of a long message. At most one ring's worth, whatever the words say.
    #[cold]
    fn long_message(&mut self) -> Result<Found, Corruption> {
        let position = self.position;
        let mut len = self.geometry.payload() as usize;
        for slots in 1..self.geometry.count() {
            match self.look(position + slots) {
                Ok(SlotState::Committed(Kind::More, more)) => len += more as usize,
                Ok(SlotState::Committed(Kind::Data, last)) => {
                    len += last as usize;
                    return Ok(Found::Message(Span { position, slots: slots + 1, len }));
                }
                Ok(SlotState::Empty | SlotState::Committed(Kind::End, _)) => {
                    return Err(self.fail(Corruption::Unfinished { position, slots }));
                }
                Err(corruption) => return Err(self.fail(corruption)),
            }
        }
        let slots = self.geometry.count();
        Err(self.fail(Corruption::Unfinished { position, slots }))
    }

    /// Copies bytes of a message out, from `offset`; returns how many there were.
    #[inline(always)]
    pub fn copy_out(&self, span: &Span, offset: usize, target: &mut [u8]) -> usize {
        let Some(peer) = &self.peer else { return 0 };
        let wanted = target.len().min(span.len.saturating_sub(offset));
        let payload = self.geometry.payload() as usize;
        if wanted == 0 {
            return 0;
        }
        if span.slots == 1 {
            let at = self.geometry.slot_offset(span.position) + WORD_BYTES + offset;
            if let Some(target) = target.get_mut(..wanted) {
                peer.copy_out(at, target);
            }
            return wanted;
        }
        let mut done = 0;
        while done < wanted {
            let (slot, within) = ((offset + done) / payload, (offset + done) % payload);
            let now = (wanted - done).min(payload - within);
            let at = self.geometry.slot_offset(span.position + slot as u64) + WORD_BYTES + within;
            if let Some(target) = target.get_mut(done..done + now) {
                peer.copy_out(at, target);
            }
            done += now;
        }
        wanted
    }

    /// Gives a message's slots back. The producer sees it at the latest after a quarter ring.
    #[inline(always)]
    pub fn release(&mut self, span: &Span) {
        self.release_through(span.position + span.slots, 1, span.len as u64);
    }

    /// Gives back every slot below `position`: `messages` messages of `bytes` in all.
    #[inline(always)]
    pub fn release_through(&mut self, position: u64, messages: u64, bytes: u64) {
        self.position = position;
        self.messages += messages;
        self.bytes += bytes;
        if self.position - self.published >= self.publish_every {
            self.publish();
        }
    }

    /// Gives back the slot that said the stream ended.
    pub fn release_end(&mut self) {
        self.position += 1;
        self.publish();
    }

    /// Shows the cursor to the producer now.
    pub fn publish(&mut self) {
        self.published = self.position;
        self.own.store_relaxed(C_MESSAGES, self.messages);
        self.own.store_relaxed(C_BYTES, self.bytes);
        self.own.store_relaxed(C_EMPTY, self.empties);
        // Pairs with the Acquire in Writer::refresh [released].
        self.own.store_release(C_RELEASED, self.position);
        if self.wait == WaitMode::Park {
            self.wake_parked_producer();
        }
    }

    fn wake_parked_producer(&mut self) {
        let Some(peer) = &self.peer else { return };
        // Pairs with the fence in Writer::park [room]: either we see it parked, or it sees our
        // cursor when it looks again.
        self.own.full_fence();
        let parked = peer.load_u32(P_PARKED);
        if self.bell.must_ring(parked, peer.load_acquire(P_COMMITTED)) {
            self.bell.value = self.bell.value.wrapping_add(1);
            self.own.store_u32(C_BELL, self.bell.value);
            self.own.wake(C_BELL);
        }
    }

    /// Sleeps until something is committed, at most `timeout`. May return early.
    pub fn park(&mut self, timeout: Duration) {
        if self.published != self.position {
            self.publish();
        }
        // Before the number of this sleep can be seen: a ring for it then changes the word that
        // we wait on, even if the commit that it was for was seen long before.
        let rung = self.peer.as_ref().map_or(0, |peer| peer.load_u32(P_BELL));
        self.parked = self.parked.wrapping_add(1) | 1;
        self.own.store_u32(C_PARKED, self.parked);
        // Pairs with the fence in Writer::wake_parked_consumer [sleep]: either it sees us parked,
        // or we see its commit now.
        self.own.full_fence();
        match &self.peer {
            // Nobody could wake us: the caller looks at its control socket in between.
            None => std::thread::sleep(timeout.min(UNJOINED_SLEEP)),
            Some(peer) => {
                // Until the producer reads this incarnation's parked word it cannot wake us.
                let joined = peer.load_acquire(P_JOINED) == self.incarnation;
                let limit = if joined { timeout } else { timeout.min(UNJOINED_SLEEP) };
                if matches!(self.look(self.position), Ok(SlotState::Empty)) {
                    peer.wait(P_BELL, rung, limit);
                }
            }
        }
        self.parked = self.parked.wrapping_add(1);
        self.own.store_u32(C_PARKED, self.parked);
    }
}

/// Longest sleep of an end whose peer has not noticed it yet.
const UNJOINED_SLEEP: Duration = Duration::from_millis(1);
