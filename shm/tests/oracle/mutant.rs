//! Mistakes that a ring could make, planted below it: its memory does something else than it is
//! told. A driver that lets one of them live has no teeth.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use laneway_shm::cursor::{CommitWord, Kind};
use laneway_shm::layout::{
    C_BELL, C_LEFT, C_LOST, C_PARKED, C_RELEASED, P_BELL, P_PARKED, P_READERS, P_SLOTS,
    R_JOINED_AT, R_REASON, READER_BYTES,
};
use laneway_shm::memory::{Memory, OwnedMemory};

use super::ring::{Ground, World};

/// A planted mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mistake {
    /// The payload is written after the commit word.
    LateBytes,
    /// The producer takes the ring for one slot larger than it is.
    OneSlotMore,
    /// A message is a byte longer than was sent.
    OneByteMore,
    /// The words of a batch's later slots are not cleared when it is dropped.
    GhostWords,
    /// The words of a batch's later slots are not written.
    LostWords,
    /// What is written next in a lane that loses is not marked.
    NoMarks,
    /// The producer does not ring.
    SilentProducer,
    /// The consumer does not ring.
    SilentConsumer,
    /// The consumer does not say that it sleeps.
    SecretSleep,
    /// The producer does not say that it waits for room.
    SecretWait,
    /// A reader does not say that it has left.
    SecretLeave,
    /// Every reader is taken for one that has left.
    AllHaveLeft,
    /// A reader is told that it was let in a slot later.
    LateStart,
    /// A reader does not show what it lost.
    SecretLoss,
    /// A reader is not told that it was given up.
    SecretVerdict,
}

/// What one thread notices.
pub(crate) const OF_THE_DATA: [Mistake; 4] =
    [Mistake::OneSlotMore, Mistake::OneByteMore, Mistake::GhostWords, Mistake::LostWords];

/// What only ends that sleep notice.
pub(crate) const OF_THE_SLEEP: [Mistake; 4] =
    [Mistake::SilentProducer, Mistake::SilentConsumer, Mistake::SecretSleep, Mistake::SecretWait];

/// Bytes that are still to be written, with their offset.
type Late = Arc<Mutex<Vec<(usize, Vec<u8>)>>>;

/// A world with a mistake in it.
#[derive(Clone)]
pub(crate) struct Mutant<T> {
    inner: T,
    mistake: Mistake,
    late: Late,
}

impl<T> Mutant<T> {
    pub(crate) fn new(inner: T, mistake: Mistake) -> Self {
        Self { inner, mistake, late: Arc::default() }
    }

    fn makes(&self, mistake: Mistake) -> bool {
        self.mistake == mistake
    }

    /// Whether a futex word is not written.
    fn is_secret(&self, offset: usize) -> bool {
        match offset {
            C_PARKED => self.makes(Mistake::SecretSleep),
            P_PARKED => self.makes(Mistake::SecretWait),
            C_BELL => self.makes(Mistake::SilentConsumer),
            P_BELL => self.makes(Mistake::SilentProducer),
            _ => false,
        }
    }

    /// Whether that is this field of a reader's entry.
    fn is_of_reader(offset: usize, field: usize) -> bool {
        (P_READERS..P_SLOTS).contains(&offset) && (offset - P_READERS) % READER_BYTES == field
    }
}

impl<M: Memory> Memory for Mutant<M> {
    fn load_acquire(&self, offset: usize) -> u64 {
        if offset == C_LEFT && self.makes(Mistake::AllHaveLeft) {
            return 1;
        }
        let more = u64::from(offset == C_RELEASED && self.makes(Mistake::OneSlotMore));
        self.inner.load_acquire(offset) + more
    }
    fn load_u32(&self, offset: usize) -> u32 {
        self.inner.load_u32(offset)
    }
    fn copy_out(&self, offset: usize, target: &mut [u8]) {
        self.inner.copy_out(offset, target);
    }
    fn full_fence(&self) {
        self.inner.full_fence();
    }
    fn wait(&self, offset: usize, expected: u32, timeout: Duration) {
        self.inner.wait(offset, expected, timeout);
    }
}

impl<M: OwnedMemory> OwnedMemory for Mutant<M> {
    fn store_relaxed(&self, offset: usize, value: u64) {
        let lost = match value {
            0 if offset >= P_SLOTS => self.makes(Mistake::GhostWords),
            _ if offset >= P_SLOTS => self.makes(Mistake::LostWords),
            _ => offset == C_LOST && self.makes(Mistake::SecretLoss),
        };
        let is_late = Self::is_of_reader(offset, R_JOINED_AT) && self.makes(Mistake::LateStart);
        if !lost {
            self.inner.store_relaxed(offset, value + u64::from(is_late));
        }
    }
    fn store_release(&self, offset: usize, value: u64) {
        let is_mark = offset >= P_SLOTS && CommitWord(value).kind_byte() == Kind::Busy as u8;
        let is_left_out = (is_mark && self.makes(Mistake::NoMarks))
            || (offset == C_LEFT && self.makes(Mistake::SecretLeave))
            || (Self::is_of_reader(offset, R_REASON) && self.makes(Mistake::SecretVerdict));
        if is_left_out {
            return;
        }
        let more = u64::from(offset >= P_SLOTS && self.makes(Mistake::OneByteMore));
        self.inner.store_release(offset, value + more);
        if offset >= P_SLOTS {
            let late = std::mem::take(&mut *self.late.lock().expect("never held for long"));
            late.iter().for_each(|(offset, bytes)| self.inner.copy_in(*offset, bytes));
        }
    }
    fn store_u32(&self, offset: usize, value: u32) {
        if !self.is_secret(offset) {
            self.inner.store_u32(offset, value);
        }
    }
    fn copy_in(&self, offset: usize, source: &[u8]) {
        if self.makes(Mistake::LateBytes) {
            self.late.lock().expect("never held for long").push((offset, source.to_vec()));
        } else {
            self.inner.copy_in(offset, source);
        }
    }
    fn wake(&self, offset: usize) {
        if !self.is_secret(offset) {
            self.inner.wake(offset);
        }
    }
}

impl<M: Ground> Ground for Mutant<M> {
    fn nudge(&self) {
        self.inner.nudge();
    }
}

impl<W: World> World for Mutant<W> {
    type Memory = Mutant<W::Memory>;

    fn producer(&self) -> Self::Memory {
        Mutant::new(self.inner.producer(), self.mistake)
    }
    fn consumer(&self) -> Self::Memory {
        Mutant::new(self.inner.consumer(), self.mistake)
    }
    fn pause(&self) {
        self.inner.pause();
    }
    fn serialised<R>(&self, f: impl FnOnce() -> R) -> R {
        self.inner.serialised(f)
    }
    fn is_strict(&self) -> bool {
        self.inner.is_strict()
    }
}

/// Whether a driver notices, as it must.
pub(crate) fn assert_noticed(mistake: impl std::fmt::Debug, driver: impl FnOnce()) {
    let noticed = catch_unwind(AssertUnwindSafe(driver)).is_err();
    assert!(noticed, "{mistake:?} survived");
}
