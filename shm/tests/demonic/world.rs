//! The adversary's memory and the victim's, and the books in which the oracles write.

use std::cell::Cell;
use std::ops::Deref;
use std::rc::Rc;
use std::time::Duration;

use laneway_shm::geometry::{Geometry, WORD_BYTES};
use laneway_shm::layout::{
    C_BELL, C_HEAVY, C_PARKED, C_RELEASED, P_BELL, P_COMMITTED, P_JOINED, P_PARKED, P_READERS,
    P_SLOTS,
};
use laneway_shm::memory::{Memory, OwnedMemory};

use super::liar::Liar;

/// Loads that a call may make beyond one for each slot of the ring.
pub(crate) const LOADS_BESIDES: u64 = 4;
/// What the demon's payload bytes look like.
pub(crate) const DEMONIC: u8 = 0xd5;

/// What the demon and its victim's own memory share: the answers, and the oracles' books.
pub(crate) struct World {
    liar: Liar,
    /// Positions that the victim may write: from the first to before the second.
    window: Cell<(u64, u64)>,
    call: Cell<Work>,
    pub(crate) loads: Cell<u64>,
    /// Loads that a call may make.
    pub(crate) allowed: Cell<u64>,
}

impl Deref for World {
    type Target = Liar;

    fn deref(&self) -> &Liar {
        &self.liar
    }
}

/// What one call has done.
#[derive(Clone, Copy, Default)]
pub(crate) struct Work {
    pub(crate) loads: u64,
    copies: u64,
    sleeps: u64,
    wakes: u64,
}

impl World {
    pub(crate) fn new(geometry: Geometry, seed: u64) -> Rc<Self> {
        Rc::new(Self {
            liar: Liar::new(geometry, seed),
            window: Cell::new((0, 0)),
            call: Cell::default(),
            loads: Cell::new(0),
            allowed: Cell::new(geometry.count() + LOADS_BESIDES),
        })
    }

    /// Opens the books for the next call.
    pub(crate) fn begin(&self, near: u64, window: (u64, u64)) {
        self.near.set(near);
        self.window.set(window);
        self.call.set(Work::default());
    }

    pub(crate) fn count(&self, change: impl FnOnce(&mut Work)) {
        let mut work = self.call.get();
        change(&mut work);
        self.call.set(work);
        let slots = self.geometry.count();
        assert!(work.loads <= self.allowed.get(), "oracle: work per call");
        assert!(work.copies <= slots, "oracle: copies per call");
        assert!(work.sleeps <= 1 && work.wakes <= 1, "oracle: system calls per call");
    }

    pub(crate) fn loaded(&self) {
        self.loads.set(self.loads.get() + 1);
        self.count(|work| work.loads += 1);
    }

    /// Slot index of a word's offset.
    pub(crate) fn slot_of(&self, offset: usize) -> u64 {
        let inside = offset >= P_SLOTS && (offset as u64) < self.geometry.segment_bytes();
        assert!(inside, "oracle: word at {offset} is outside the slots");
        let (slot, rest) = divide(offset - P_SLOTS, self.geometry.stride());
        assert!(rest == 0, "oracle: {offset} is no commit word");
        assert!(slot < self.geometry.count(), "oracle: slot {slot} is outside the ring");
        slot
    }

    /// Checks that bytes lie in the payload of one slot; returns the slot.
    pub(crate) fn payload_of(&self, offset: usize, len: usize) -> u64 {
        let (slot, within) = divide(offset - P_SLOTS, self.geometry.stride());
        let end = within + len;
        let inside = within >= WORD_BYTES && end <= WORD_BYTES + self.geometry.payload() as usize;
        assert!(inside, "oracle: {len} bytes at {offset} leave the slot");
        assert!(slot < self.geometry.count(), "oracle: slot {slot} is outside the ring");
        slot
    }

    /// Checks that a slot to be written is free.
    pub(crate) fn may_write(&self, slot: u64) {
        let (first, end) = self.window.get();
        let ahead = slot.wrapping_sub(first) & (self.geometry.count() - 1);
        let free = ahead < end.saturating_sub(first);
        assert!(free, "oracle: slot {slot} is written while the consumer may read it");
    }

    /// An answer for a commit word.
    pub(crate) fn answer(&self, slot: u64) -> u64 {
        let laps = (self.call.get().loads - 1) / self.geometry.count();
        self.word(slot, laps)
    }

    /// An answer for a cursor that should lie between the window's ends.
    pub(crate) fn released(&self) -> u64 {
        let (first, end) = self.window.get();
        let lowest = end.saturating_sub(self.geometry.count());
        let found = self.cursor(lowest, first);
        if (lowest..=first).contains(&found) {
            self.window.set((first, found + self.geometry.count()));
        }
        found
    }
}

pub(crate) fn divide(value: usize, by: usize) -> (u64, usize) {
    ((value / by) as u64, value % by)
}

/// The peer's segment, as the victim sees it.
#[derive(Clone)]
pub(crate) struct Demon(pub(crate) Rc<World>);

impl Memory for Demon {
    fn load_acquire(&self, offset: usize) -> u64 {
        self.0.loaded();
        match offset {
            C_RELEASED => self.0.released(),
            // 0: a page is touched before a look at the cursor is timed.
            0 | P_COMMITTED | P_JOINED | P_READERS..P_SLOTS => self.0.edge(),
            _ => self.0.answer(self.0.slot_of(offset)),
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "any half will do")]
    fn load_u32(&self, offset: usize) -> u32 {
        self.0.loaded();
        let known = [P_BELL, P_PARKED, C_BELL, C_PARKED, C_HEAVY].contains(&offset);
        assert!(known, "oracle: {offset} is no word of a sleep");
        self.0.edge() as u32
    }

    fn copy_out(&self, offset: usize, target: &mut [u8]) {
        self.0.count(|work| work.copies += 1);
        self.0.payload_of(offset, target.len());
        target.fill(DEMONIC);
    }

    fn full_fence(&self) {}

    fn wait(&self, offset: usize, _expected: u32, _timeout: Duration) {
        self.0.count(|work| work.sleeps += 1);
        assert!([P_BELL, C_BELL].contains(&offset), "oracle: sleeping on {offset}");
    }
}

/// The victim's own segment: nothing is ever read back from it.
pub(crate) struct Own(pub(crate) Rc<World>);

impl Memory for Own {
    fn load_acquire(&self, offset: usize) -> u64 {
        panic!("oracle: own word at {offset} is read back");
    }

    fn load_u32(&self, offset: usize) -> u32 {
        panic!("oracle: own word at {offset} is read back");
    }

    fn copy_out(&self, offset: usize, _target: &mut [u8]) {
        panic!("oracle: own bytes at {offset} are read back");
    }

    fn full_fence(&self) {}

    fn wait(&self, offset: usize, _expected: u32, _timeout: Duration) {
        panic!("oracle: nobody rings at {offset}");
    }
}

impl OwnedMemory for Own {
    fn allow_light(&self) -> bool {
        true
    }

    fn store_relaxed(&self, offset: usize, _value: u64) {
        if offset >= P_SLOTS {
            self.0.may_write(self.0.slot_of(offset));
        } else {
            assert!(offset.is_multiple_of(8) && offset >= 512, "oracle: header is written");
        }
    }

    fn store_release(&self, offset: usize, value: u64) {
        self.store_relaxed(offset, value);
    }

    fn store_u32(&self, offset: usize, _value: u32) {
        let known = [P_BELL, P_PARKED, C_BELL, C_PARKED, C_HEAVY].contains(&offset);
        assert!(known && offset.is_multiple_of(4), "oracle: {offset} is no word of a sleep");
    }

    fn copy_in(&self, offset: usize, source: &[u8]) {
        self.0.count(|work| work.copies += 1);
        self.0.may_write(self.0.payload_of(offset, source.len()));
    }

    fn wake(&self, _offset: usize) {
        self.0.count(|work| work.wakes += 1);
    }
}
