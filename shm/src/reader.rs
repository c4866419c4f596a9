//! The consumer's half of the ring: what is committed, its bytes, its release, and sleep.

mod leave;
mod payload;

use std::time::{Duration, Instant};

use crate::bell::{Bell, Parked};
use crate::cursor::{CommitWord, Kind, POSITION_MAX, SlotState, read_slot};
use crate::distance;
use crate::error::Corruption;
use crate::geometry::{Geometry, LINE, Place, WORD_BYTES};
use crate::layout::{
    BY_DOORBELL, C_BELL, C_BYTES, C_EMPTY, C_HEAVY, C_MESSAGES, C_PARKED, C_RELEASED, P_BELL,
    P_COMMITTED, P_JOINED, P_PARKED,
};
use crate::memory::{Memory, OwnedMemory};
use crate::ring::{Found, Span, UNJOINED_SLEEP, WaitMode};
use crate::roster::{self, Entry, Reason};
use crate::sync::spin_hint;

/// Stride of a slot of two lines: only there does a prefetch of the second one pay.
const TWO_LINES: usize = 128;

/// How long after a sleep was announced no processor holds a store from before. A store buffer
/// needs far less than a microsecond. The time is spent spinning: a timer that is due soon would
/// cost each wake-up 1.3 us (docs/measurements.md, "Waiting").
const SETTLED_AFTER: Duration = Duration::from_micros(10);

/// The consumer's half. `own` is its segment, `peer` the producer's.
#[derive(Debug)]
pub struct Reader<P, C> {
    peer: Option<P>,
    own: C,
    geometry: Geometry,
    wait: WaitMode,
    incarnation: u64,
    /// Where in the producer's segment our number stands once it knows of us.
    joined_word: usize,
    /// The next slot to look at; all below were released by the caller.
    next: Place,
    /// Below this position, a plain message needs no look at anything else: the reader is sound,
    /// and its handle wants no attention.
    free_run: u64,
    /// Cursor that the producer can see.
    published: u64,
    /// Position from which on it gets to see a newer one.
    publish_at: u64,
    publish_every: u64,
    /// Position at which this reader started.
    base: u64,
    /// Slots since then that did not start a message.
    spare: u64,
    bytes: u64,
    empties: u64,
    parked: Parked,
    /// Going to sleep pays for the producer's fences, too, and the producer knows.
    heavy: bool,
    bell: Bell,
    poison: Option<Corruption>,
}

/// Says in a reader's segment whether it can pay for its producers' fences, and returns that. A
/// producer looks there once, when it joins.
pub(crate) fn offer_to_pay(own: &impl OwnedMemory) -> bool {
    let heavy = own.heavy_works();
    own.store_u32(C_HEAVY, u32::from(heavy));
    heavy
}

impl<P: Memory, C: OwnedMemory> Reader<P, C> {
    /// A reader whose next message has position `start`, of the consumer's `incarnation`.
    pub fn new(own: C, geometry: Geometry, wait: WaitMode, start: u64, incarnation: u64) -> Self {
        let publish_every = distance::publish_every(&geometry);
        Self {
            peer: None,
            own,
            geometry,
            wait,
            incarnation,
            joined_word: P_JOINED,
            next: geometry.place(start),
            free_run: u64::MAX,
            published: start,
            publish_at: start.saturating_add(publish_every),
            publish_every,
            base: start,
            spare: 0,
            bytes: 0,
            empties: 0,
            parked: Parked::default(),
            heavy: false,
            bell: Bell::default(),
            poison: None,
        }
    }

    /// Pays for the producer's fences from now on when it goes to sleep, where the kernel allows
    /// it; before a producer joins. Not for an end that waits in epoll: nothing bounds that sleep,
    /// and a heavy fence may miss a cpu (`barrier`).
    pub fn pay_for_fences(&mut self) {
        self.heavy = self.wait == WaitMode::Park && offer_to_pay(&self.own);
    }

    /// Position of the next message.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.next.position
    }

    /// Place of the next message.
    pub(crate) fn place(&self) -> Place {
        self.next
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

    /// As [`Reader::peer`], to change what is known of it.
    pub(crate) fn peer_mut(&mut self) -> Option<&mut P> {
        self.peer.as_mut()
    }

    /// Reads from the memory of the first or the next generation. The one before was drained.
    pub fn join(&mut self, peer: P) {
        self.bell = self.bell.for_new_peer();
        self.peer = Some(peer);
        // It may be asleep for room that was shown while the one before it was being read.
        self.wake_parked_producer();
    }

    /// Reads a broadcast lane from the memory of `peer`, which let this reader in at `entry`.
    ///
    /// # Errors
    /// A position before this reader's, at which it would see messages twice.
    pub fn join_at(&mut self, peer: P, entry: &Entry) -> Result<(), Corruption> {
        let (found, lowest) = (entry.joined_at, self.next.position);
        if found < lowest || found > POSITION_MAX {
            return Err(self.fail(Corruption::JoinedAt { found, lowest }));
        }
        self.joined_word = entry.offset;
        self.bell = self.bell.for_new_peer();
        self.peer = Some(peer);
        self.skip_to(found);
        Ok(())
    }

    /// Reads a gone broadcaster's memory from `position` on; what lies between is left out.
    pub(crate) fn join_frozen(&mut self, peer: P, position: u64) {
        self.joined_word = P_JOINED;
        self.bell = self.bell.for_new_peer();
        self.peer = Some(peer);
        self.skip_to(position.max(self.next.position));
    }

    /// Goes on at `position` without the messages before it.
    pub(crate) fn skip_to(&mut self, position: u64) {
        self.spare += position - self.next.position;
        self.next = self.geometry.place(position);
        self.publish();
    }

    /// Shows the cursor every so many slots at least.
    pub(crate) fn publish_every(&mut self, slots: u64) {
        self.publish_every = slots.max(1);
        self.publish_at = self.published.saturating_add(self.publish_every);
    }

    /// Why the producer gave this reader up, if it did, and what was committed then.
    pub(crate) fn given_up(&self) -> Option<(Reason, u64)> {
        let peer = self.peer.as_ref().filter(|_| self.joined_word != P_JOINED)?;
        roster::given_up(peer, self.joined_word)
    }

    /// This reader's own memory.
    pub(crate) fn own(&self) -> &C {
        &self.own
    }

    /// The first corruption, which stays.
    pub(crate) fn poison(&self) -> Option<Corruption> {
        self.poison
    }

    /// From this position on, [`Reader::ready`] finds nothing until it is called again.
    pub(crate) fn attend_at(&mut self, position: u64) {
        self.free_run = if self.poison.is_some() { 0 } else { position };
    }

    /// Whether the position of the last [`Reader::attend_at`] is reached.
    pub(crate) fn attention_due(&self) -> bool {
        self.next.position >= self.free_run
    }

    /// The next message if it is a plain one: in one slot, legal, and the reader not poisoned.
    #[inline(always)]
    pub fn ready(&self) -> Option<Span> {
        self.ready_at(self.next)
    }

    /// The message at `place`, likewise: one that a batch has not released yet may come before.
    ///
    /// One comparison judges turn, kind and length together; whatever fails it is judged in
    /// detail by [`Reader::poll`].
    #[inline(always)]
    pub(crate) fn ready_at(&self, place: Place) -> Option<Span> {
        let peer = self.peer.as_ref()?;
        let run = self.free_run;
        // Pairs with the Release in Writer::publish [commit].
        let word = peer.load_acquire(place.offset);
        let len = word ^ CommitWord::of(&place, Kind::Data, 0).0;
        if len > u64::from(self.geometry.payload()) || place.position >= run {
            return None;
        }
        #[expect(clippy::cast_possible_truncation, reason = "at most a slot's payload")]
        Some(Span { place, slots: 1, len: len as usize })
    }

    /// The next message by value, released, if it is a plain one of exactly `N` bytes.
    /// One comparison with the only word that such a message can have.
    #[inline(always)]
    pub(crate) fn take_array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let peer = self.peer.as_ref()?;
        let (mut place, run) = (self.next, self.free_run);
        let payload = self.geometry.payload() as usize;
        #[expect(clippy::cast_possible_truncation, reason = "at most a slot's payload")]
        let expected = CommitWord::of(&place, Kind::Data, N as u32).0;
        if place.position >= run || N > payload {
            return None;
        }
        // As in Reader::ready_at.
        let bytes = peer.slot_array(place.offset, expected)?;
        place.advance(&self.geometry);
        self.release_to(place, 0, N as u64);
        Some(bytes)
    }

    /// As [`Reader::take_array`] for up to `limit` messages, released together; returns how many.
    ///
    /// The place stays in registers from one message to the next.
    #[inline(always)]
    pub(crate) fn take_arrays<const N: usize>(
        &mut self,
        limit: u64,
        mut read: impl FnMut([u8; N]),
    ) -> u64 {
        let Some(peer) = &self.peer else { return 0 };
        let start = self.next.position;
        let mut place = self.next;
        // A ring holds no more, and must not be read twice before it is released.
        let limit = limit.min(self.geometry.count());
        let run = self.free_run.min(start.saturating_add(limit));
        while place.position < run && N <= self.geometry.payload() as usize {
            // As in Reader::ready_at.
            let word = peer.load_acquire(place.offset);
            #[expect(clippy::cast_possible_truncation, reason = "at most a slot's payload")]
            if word != CommitWord::of(&place, Kind::Data, N as u32).0 {
                break;
            }
            read(peer.copy_array(place.offset + WORD_BYTES));
            place.advance(&self.geometry);
        }
        let taken = place.position - start;
        if taken > 0 {
            self.release_to(place, 0, taken * N as u64);
        }
        taken
    }

    /// Spins until the next message is there, if it is a plain one, at most `spins` times.
    #[inline]
    pub fn spin(&self, spins: u32) -> Option<Span> {
        for _ in 0..spins {
            if let Some(span) = self.ready() {
                return Some(span);
            }
            self.pause();
        }
        None
    }

    /// Between two looks at the next slot.
    #[inline(always)]
    pub(crate) fn pause(&self) {
        if self.geometry.stride() == TWO_LINES
            && let Some(peer) = &self.peer
        {
            // The second line travels with the first instead of after it.
            peer.prefetch(self.next.offset + LINE);
        }
        spin_hint();
    }

    /// Looks at the next slot; `None` if nothing is committed there.
    ///
    /// # Errors
    /// The producer broke the protocol; the reader is poisoned and says so at every later call.
    #[inline]
    pub fn poll(&mut self) -> Result<Option<Found>, Corruption> {
        match self.look(&self.next) {
            Ok(SlotState::Committed(Kind::Data, len)) if self.poison.is_none() => {
                let span = Span { place: self.next, slots: 1, len: len as usize };
                Ok(Some(Found::Message(span)))
            }
            Ok(SlotState::Empty) => self.found_empty(),
            Ok(SlotState::Committed(kind, len)) => self.found_rare(kind, len).map(Some),
            Err(corruption) => Err(self.fail(corruption)),
        }
    }

    /// Whatever is neither empty nor a message of one slot.
    #[cold]
    fn found_rare(&mut self, kind: Kind, len: u32) -> Result<Found, Corruption> {
        match (self.poison, kind) {
            (Some(poison), _) => Err(poison),
            (None, Kind::End) => Ok(Found::End),
            (None, Kind::Frozen) => {
                let span = Span { place: self.next, slots: 1, len: 0 };
                Ok(Found::Frozen { span, pages: len })
            }
            (None, _) => self.long_message(),
        }
    }

    /// The message at `place`, if it is committed: for receiving many before the first is
    /// released. `None` as well where the ring comes round to that first one.
    ///
    /// # Errors
    /// As [`Reader::poll`].
    pub fn poll_at(&mut self, place: Place) -> Result<Option<Span>, Corruption> {
        if let Some(poison) = self.poison {
            return Err(poison);
        }
        if place.position - self.next.position >= self.geometry.count() {
            return Ok(None);
        }
        let here = std::mem::replace(&mut self.next, place);
        let found = self.peek();
        self.next = here;
        found
    }

    fn peek(&mut self) -> Result<Option<Span>, Corruption> {
        match self.look(&self.next) {
            Ok(SlotState::Committed(Kind::Data, len)) => {
                Ok(Some(Span { place: self.next, slots: 1, len: len as usize }))
            }
            Ok(SlotState::Committed(Kind::More, _)) => match self.long_message()? {
                Found::Message(span) => Ok(Some(span)),
                Found::End | Found::Frozen { .. } => Ok(None),
            },
            Ok(_) => Ok(None),
            Err(corruption) => Err(self.fail(corruption)),
        }
    }

    #[inline]
    fn look(&self, place: &Place) -> Result<SlotState, Corruption> {
        let Some(peer) = &self.peer else {
            return Ok(SlotState::Empty);
        };
        // As in Reader::ready_at: this is the same look, judged in detail.
        let word = peer.load_acquire(place.offset);
        read_slot(&self.geometry, place.position, CommitWord(word))
    }

    #[cold]
    pub(crate) fn fail(&mut self, corruption: Corruption) -> Corruption {
        self.free_run = 0;
        *self.poison.get_or_insert(corruption)
    }

    /// Empty: the producer gets to see the whole cursor, so that it never waits for a quarter.
    #[inline]
    pub(crate) fn found_empty(&mut self) -> Result<Option<Found>, Corruption> {
        if let Some(poison) = self.poison {
            return Err(poison);
        }
        if self.published != self.next.position {
            self.empties += 1;
            self.publish();
        }
        Ok(None)
    }

    /// Walks the slots of a long message. At most one ring's worth, whatever the words say.
    #[cold]
    fn long_message(&mut self) -> Result<Found, Corruption> {
        let (first, position) = (self.next, self.next.position);
        let mut place = first;
        let mut len = self.geometry.payload() as usize;
        for slots in 1..self.geometry.count() {
            place.advance(&self.geometry);
            match self.look(&place) {
                Ok(SlotState::Committed(Kind::More, more)) => len += more as usize,
                Ok(SlotState::Committed(Kind::Data, last)) => {
                    len += last as usize;
                    return Ok(Found::Message(Span { place: first, slots: slots + 1, len }));
                }
                Ok(SlotState::Empty | SlotState::Committed(..)) => {
                    return Err(self.fail(Corruption::Unfinished { position, slots }));
                }
                Err(corruption) => return Err(self.fail(corruption)),
            }
        }
        let slots = self.geometry.count();
        Err(self.fail(Corruption::Unfinished { position, slots }))
    }

    /// Gives a message's slots back. The producer sees it at the latest after a quarter ring.
    #[inline(always)]
    pub fn release(&mut self, span: &Span) {
        self.next = span.end(&self.geometry);
        self.account(span.slots - 1, span.len as u64);
    }

    /// Gives back every slot below `place`: of them `spare` did not start a message, and the
    /// messages had `bytes` bytes in all.
    #[inline(always)]
    pub(crate) fn release_to(&mut self, place: Place, spare: u64, bytes: u64) {
        self.next = place;
        self.account(spare, bytes);
    }

    #[inline(always)]
    fn account(&mut self, spare: u64, bytes: u64) {
        self.spare += spare;
        self.bytes += bytes;
        if self.next.position >= self.publish_at {
            self.publish();
        }
    }

    /// Gives back the slot that said the stream ended.
    pub fn release_end(&mut self) {
        self.next.advance(&self.geometry);
        self.spare += 1;
        self.publish();
    }

    /// Shows the cursor to the producer now.
    #[cold]
    pub fn publish(&mut self) {
        let position = self.next.position;
        self.published = position;
        self.publish_at = position.saturating_add(self.publish_every);
        self.own.store_relaxed(C_MESSAGES, position - self.base - self.spare);
        self.own.store_relaxed(C_BYTES, self.bytes);
        self.own.store_relaxed(C_EMPTY, self.empties);
        // Pairs with the Acquire in Writer::refresh [released].
        self.own.store_release(C_RELEASED, position);
        self.wake_parked_producer();
    }

    fn wake_parked_producer(&mut self) {
        let Some(peer) = self.peer.as_ref().filter(|_| self.wait == WaitMode::Park) else { return };
        // Pairs with the fence in Writer::announce_sleep [room]: either we see it parked, or it
        // sees our cursor when it looks again.
        self.own.full_fence();
        let parked = peer.load_u32(P_PARKED);
        if let Some(rung) = self.bell.ring(parked, peer.load_acquire(P_COMMITTED)) {
            self.own.store_u32(C_BELL, rung);
            if parked & BY_DOORBELL == 0 {
                self.own.wake(C_BELL);
            } else {
                peer.doorbell();
            }
        }
    }

    /// Sleeps until something is committed, at most `timeout`. May return early.
    pub fn park(&mut self, timeout: Duration) {
        self.park_while(timeout, Self::finds_nothing);
    }

    /// As [`Reader::park`], while `empty` finds nothing.
    pub(crate) fn park_while(&mut self, timeout: Duration, empty: impl Fn(&Self) -> bool) {
        let rung = self.announce_sleep(0);
        self.fence_sleep();
        match &self.peer {
            // Nobody could wake us: the caller looks at its control socket in between.
            None => std::thread::sleep(timeout.min(UNJOINED_SLEEP)),
            Some(peer) => {
                let limit = if self.is_noticed() { timeout } else { timeout.min(UNJOINED_SLEEP) };
                if self.stays(|| empty(self)) {
                    peer.wait(P_BELL, rung, limit);
                }
            }
        }
        self.end_sleep();
    }

    /// Asks the producer for a doorbell at its next commit, for an end that waits in epoll. True if
    /// there is still nothing to read, and the doorbell will come; false ends the asking at once.
    ///
    /// No wake-up is lost, but for one that [`Reader::is_heavy`] tells of: this is the sleep of
    /// [`Reader::park`] but for where it ends. Between the same two fences either the producer sees
    /// the word, and rings, or we see its commit here; and a ring stays in the lifeline until it is
    /// read, so that it cannot come too early.
    pub fn listen(&mut self) -> bool {
        self.listen_while(Self::finds_nothing)
    }

    /// As [`Reader::listen`], while `empty` finds nothing.
    pub(crate) fn listen_while(&mut self, empty: impl Fn(&Self) -> bool) -> bool {
        self.announce_sleep(BY_DOORBELL);
        self.fence_sleep();
        let nothing = empty(self);
        if !nothing {
            self.end_sleep();
        }
        nothing
    }

    /// Wants no doorbell any more. One may be on its way.
    #[inline]
    pub fn stop_listening(&mut self) {
        if self.parked.is_asleep() {
            self.end_sleep();
        }
    }

    /// First step to a sleep, of this ring alone or of several: says so to the producer, and
    /// whether it is `BY_DOORBELL`. Returns the bell's value to sleep on.
    pub(crate) fn announce_sleep(&mut self, how: u32) -> u32 {
        if self.published != self.next.position {
            self.publish();
        }
        // Before the number of this sleep can be seen: a ring for it then changes the word that
        // we wait on, even if the commit that it was for was seen long before.
        let rung = self.peer.as_ref().map_or(0, |peer| peer.load_u32(P_BELL));
        self.own.store_u32(C_PARKED, self.parked.asleep(how));
        rung
    }

    /// Second step: whatever the producer did not ring for is seen from here on. Where a
    /// [`Reader::is_heavy`] ring does it, it does it for every ring of the process.
    pub(crate) fn fence_sleep(&self) {
        // Pairs with the fence in Writer::wake_parked_consumer [sleep]: either it sees us parked,
        // or we see its commit now; or, where a heavy fence missed its cpu, while it `stays`.
        if self.heavy {
            self.own.heavy_fence();
        } else {
            self.own.full_fence();
        }
    }

    /// Third step: whether there is `nothing`, and it stays so while stores are on their way.
    ///
    /// A heavy fence may not have reached the producer's cpu (`barrier`). What was committed there
    /// without a look at our word is visible after [`SETTLED_AFTER`], and whoever commits later
    /// sees our word, which has been there all the time. That a store leaves its processor's buffer
    /// in bounded time is what Morrison and Afek's "Temporally Bounding TSO for Fence-Free
    /// Asymmetric Synchronization" (ASPLOS 2015) builds upon.
    pub(crate) fn stays(&self, nothing: impl Fn() -> bool) -> bool {
        if !nothing() {
            return false;
        }
        let since = Instant::now();
        let mut is_over = !self.heavy;
        while !is_over {
            // The last look comes after the time.
            is_over = since.elapsed() >= SETTLED_AFTER;
            if !nothing() {
                return false;
            }
            spin_hint();
        }
        true
    }

    /// Whether there is still a reason to sleep.
    pub(crate) fn finds_nothing(&self) -> bool {
        matches!(self.look(&self.next), Ok(SlotState::Empty))
    }

    /// Whether the producer reads this incarnation's parked word: before, it cannot wake us.
    pub(crate) fn is_noticed(&self) -> bool {
        self.peer.as_ref().is_some_and(|p| p.load_acquire(self.joined_word) == self.incarnation)
    }

    /// Whether [`Reader::fence_sleep`] pays for the producer's fences, too. A commit can then miss
    /// the sleep that it falls into, and a sleep without a bound must look by the clock.
    pub(crate) fn is_heavy(&self) -> bool {
        self.heavy
    }

    /// Last step: awake.
    pub(crate) fn end_sleep(&mut self) {
        self.own.store_u32(C_PARKED, self.parked.awake());
    }
}
