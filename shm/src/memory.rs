//! What the ring needs from memory: words, bytes, a fence and a futex, all by offset.
//!
//! The ring is generic over these two traits so that the same code runs on a mapped segment, on
//! plain heap under loom, and against an adversary that answers every load afresh. There is no
//! way to get a reference to the bytes through them.

use std::time::Duration;

use crate::geometry::{LINE, WORD_BYTES};

/// The little-endian words of a line.
pub(crate) fn words(line: [u8; LINE]) -> [u64; 8] {
    let mut words = [0; 8];
    for (word, bytes) in words.iter_mut().zip(line.as_chunks().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    words
}

/// Memory that a foreign process may be writing.
pub trait Memory {
    /// Loads the word at `offset`; later reads see everything its writer released before.
    fn load_acquire(&self, offset: usize) -> u64;

    /// Starts to fetch the line at `offset`; reads nothing.
    fn prefetch(&self, offset: usize) {
        let _ = offset;
    }

    /// Loads the 32-bit word at `offset` with acquire order.
    fn load_u32(&self, offset: usize) -> u32;

    /// Copies bytes out. They may be changing: the copy is whatever was there, never undefined.
    fn copy_out(&self, offset: usize, target: &mut [u8]);

    /// Copies `N` bytes out, by value: what is small can stay in registers.
    #[inline(always)]
    fn copy_array<const N: usize>(&self, offset: usize) -> [u8; N] {
        let mut bytes = [0; N];
        self.copy_out(offset, &mut bytes);
        bytes
    }

    /// As [`Memory::copy_array`], for `count` arrays one after the other.
    #[inline(always)]
    fn copy_arrays<const N: usize>(
        &self,
        offset: usize,
        count: usize,
        mut read: impl FnMut([u8; N]),
    ) {
        for index in 0..count {
            read(self.copy_array(offset + index * N));
        }
    }

    /// Hands `count` lines of eight little-endian words out, each word by value.
    #[inline(always)]
    fn copy_lines(&self, offset: usize, count: usize, mut read: impl FnMut([u64; 8])) {
        for index in 0..count {
            let mut line = [0; LINE];
            self.copy_out(offset + index * LINE, &mut line);
            read(words(line));
        }
    }

    /// The `N` bytes after the word at `offset`, if that word, loaded with acquire order, is
    /// `expected`: a slot that holds the message that is next.
    #[inline(always)]
    fn slot_array<const N: usize>(&self, offset: usize, expected: u64) -> Option<[u8; N]> {
        let there = self.load_acquire(offset) == expected;
        there.then(|| self.copy_array(offset + WORD_BYTES))
    }

    /// Orders all earlier stores of this thread before all its later loads.
    fn full_fence(&self);

    /// Orders all earlier loads of this thread before all its later loads.
    fn acquire_fence(&self) {
        self.full_fence();
    }

    /// As [`Memory::full_fence`], for a thread that is about to sleep: also makes every
    /// [`OwnedMemory::light_fence`] of other processes count as a full one, but for those on a cpu
    /// that the kernel misses (`barrier`): the sleep has to look again.
    fn heavy_fence(&self) {
        self.full_fence();
    }

    /// Whether [`Memory::heavy_fence`] really does that here: the kernel may refuse.
    fn heavy_works(&self) -> bool {
        false
    }

    /// Rings for whoever writes this memory, where it waits in epoll and not on a futex word.
    fn doorbell(&self) {}

    /// Sleeps while the 32-bit word at `offset` is `expected`, at most `timeout`.
    /// May return early for no reason.
    fn wait(&self, offset: usize, expected: u32, timeout: Duration);
}

/// Memory whose only writer is this process.
pub trait OwnedMemory: Memory {
    /// Stores a word that nobody orders anything by.
    fn store_relaxed(&self, offset: usize, value: u64);

    /// Starts to take the line at `offset` from whoever read it; changes nothing. May lie outside.
    #[inline(always)]
    fn prefetch_for_store(&self, offset: usize) {
        let _ = offset;
    }

    /// Stores the word at `offset`; who loads it with acquire sees all earlier writes.
    fn store_release(&self, offset: usize, value: u64);

    /// Stores `bytes` at `offset`, by value: what is small can come from registers. Up to the next
    /// multiple of eight, zeros may follow.
    #[inline(always)]
    fn store_array<const N: usize>(&self, offset: usize, bytes: [u8; N]) {
        self.copy_in(offset, &bytes);
    }

    /// Stores a slot: `bytes` after the word at `offset`, then `word` with release order.
    #[inline(always)]
    fn store_slot<const N: usize>(&self, offset: usize, word: u64, bytes: [u8; N]) {
        self.store_array(offset + WORD_BYTES, bytes);
        self.store_release(offset, word);
    }

    /// Stores the 32-bit word at `offset` with release order.
    fn store_u32(&self, offset: usize, value: u32);

    /// Orders earlier stores before later loads as long as whoever looks at both uses
    /// [`Memory::heavy_fence`]. Costs nothing, where [`OwnedMemory::allow_light`] said yes.
    fn light_fence(&self) {
        self.full_fence();
    }

    /// Makes this process ready for light fences. False if the kernel refuses.
    fn allow_light(&self) -> bool {
        false
    }

    /// Orders all earlier stores of this thread before all its later stores.
    fn release_fence(&self) {
        self.full_fence();
    }

    /// Copies bytes in.
    fn copy_in(&self, offset: usize, source: &[u8]);

    /// As [`OwnedMemory::copy_in`], past the caches, for a reader that shares none of them. What is
    /// stored so is in no order with other stores but by [`OwnedMemory::drain`].
    fn copy_past(&self, offset: usize, source: &[u8]) {
        self.copy_in(offset, source);
    }

    /// Orders all earlier stores before all later ones, [`OwnedMemory::copy_past`] included.
    fn drain(&self) {}

    /// Wakes every sleeper on the 32-bit word at `offset`.
    fn wake(&self, offset: usize);
}
