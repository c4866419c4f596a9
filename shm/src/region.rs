//! A mapping of a segment, and the only place where mapped addresses are touched.
//!
//! Four sentences carry every SAFETY comment here. A peer may write a read-only region at any
//! time, so no reference to its bytes is ever formed. A region that this process owns has no
//! other writer, by seal, so a `&mut` to a slot that was not yet committed is exclusive. A segment
//! is allocated and sealed before it is mapped for reading, so no access can trap. A frozen region
//! has no writer at all, by seal, so a reference to its bytes is a promise that the kernel keeps.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::Duration;

use memmap2::{Advice, MmapOptions, MmapRaw};
use rustix::thread::futex::{Wait, WaitFlags, WaitPtr};

use crate::barrier;
use crate::copy::{self, copy_from_shared, copy_past_caches, copy_to_shared, line_from_shared};
use crate::error::SegmentError;
use crate::frozen::FrozenFile;
use crate::futex;
use crate::geometry::{LINE, WORD_BYTES};
use crate::layout::P_TAIL_PAD;
use crate::lifeline::Lifeline;
use crate::memory::{Memory, OwnedMemory};
use crate::sync::{AtomicU32, AtomicU64, Ordering, compiler_fence, fence};

/// Largest array that is copied out as words, in bytes.
///
/// Words that the caller looks at need not pass through memory at all, where a copy by wide
/// pieces makes every look at a differently wide piece wait for its store.
const WORDS_MAX: usize = 256;
/// Largest array that is copied in as words, in bytes: it need not pass through memory either.
const STORED_WORDS_MAX: usize = 64;
/// What is at most as large as this, and does not start in the last as many bytes of a mapping,
/// lies inside it: one comparison. A small slot with its word fits.
const SHORT: usize = WORDS_MAX + P_TAIL_PAD;

/// Marks a region whose only writer is this process.
#[derive(Debug)]
pub enum Owned {}

/// Marks a region that a foreign process may be writing.
#[derive(Debug)]
pub enum Foreign {}

/// Marks a region that no process can write any more.
#[derive(Debug)]
pub enum Frozen {}

/// An owned mapping of a whole segment. No `Deref`, no slices: see the module's four sentences.
#[derive(Debug)]
pub struct Region<Access> {
    map: MmapRaw,
    /// Offset of the last line: whatever starts up to here has a line behind it.
    last_short: NonZeroUsize,
    /// To the process that writes it, if there is one.
    lifeline: Option<Arc<Lifeline>>,
    access: PhantomData<Access>,
    /// Of a test: who is told before every access.
    #[cfg(test)]
    pub(crate) watched_by: crate::demonic::WatchedBy,
}

impl Region<Owned> {
    /// Maps a whole segment for writing and touches every page.
    ///
    /// # Errors
    /// The kernel's refusal to map, for instance because the segment was already sealed.
    pub(crate) fn map_owned(fd: impl AsFd, size: usize) -> Result<Self, SegmentError> {
        let region = Self::map_bare(fd, size)?;
        region.populate(Advice::PopulateWrite)?;
        Ok(region)
    }

    /// Maps a whole segment for writing and touches nothing.
    ///
    /// # Errors
    /// The kernel's refusal to map, which for hugepages includes a short pool.
    pub(crate) fn map_bare(fd: impl AsFd, size: usize) -> Result<Self, SegmentError> {
        let fd = fd.as_fd().as_raw_fd();
        let map = MmapOptions::new().len(size).map_raw(fd).map_err(SegmentError::io("mmap"))?;
        Self::private(map)
    }

    /// Bytes of a slot that was reserved and not yet committed.
    ///
    /// A foreign process may *read* them early, which changes nothing here; nobody else can write.
    #[inline(always)]
    pub(crate) fn bytes_mut(&mut self, offset: usize, len: usize) -> &mut [MaybeUninit<u8>] {
        let start = self.at(offset, len);
        // SAFETY:
        // - `at` proved that `offset..offset + len` lies inside the mapping, which `self` owns;
        // - no other reference exists: `&mut self` excludes this process's, the seal excludes
        //   other writers, and foreign readers hold no reference in this program;
        // - `MaybeUninit<u8>` is valid for any bytes and needs no alignment.
        unsafe { std::slice::from_raw_parts_mut(start.cast(), len) }
    }

    /// As [`Region::bytes_mut`], with what an earlier message or the kernel's zeros left there.
    #[inline(always)]
    pub(crate) fn written_mut(&mut self, offset: usize, len: usize) -> &mut [u8] {
        let start = self.at(offset, len);
        // SAFETY: as in `bytes_mut`, and every byte of a file's mapping has a value: the kernel
        // hands out zeros, and whatever stands there since was stored by this process.
        unsafe { std::slice::from_raw_parts_mut(start, len) }
    }

    /// Binds the pages that are allocated from now on to one NUMA node.
    ///
    /// # Errors
    /// `EPERM` under a seccomp profile that forbids `mbind`, `EINVAL` for a node without memory.
    pub(crate) fn bind_to_node(&self, node: u32) -> std::io::Result<()> {
        const MPOL_BIND: libc::c_int = 2;
        let mut mask = [0 as libc::c_ulong; 16];
        let bits = libc::c_ulong::BITS;
        let Some(word) = mask.get_mut((node / bits) as usize) else {
            return Err(std::io::Error::from_raw_os_error(libc::EINVAL));
        };
        *word |= 1 << (node % bits);
        let max_node = 16 * u64::from(bits);
        // SAFETY:
        // - address and length are exactly this mapping's, which `self` keeps alive;
        // - the mask is readable for `max_node` bits; the kernel only reads it.
        let result = unsafe {
            libc::syscall(
                libc::SYS_mbind,
                self.map.as_mut_ptr(),
                self.map.len(),
                MPOL_BIND,
                mask.as_ptr(),
                max_node,
                0,
            )
        };
        if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    }
}

impl Region<Foreign> {
    /// Maps a whole segment for reading and touches every page.
    ///
    /// # Errors
    /// The kernel's refusal to map.
    pub(crate) fn map_foreign(fd: impl AsFd, size: usize) -> Result<Self, SegmentError> {
        let map = MmapOptions::new()
            .len(size)
            .map_raw_read_only(fd.as_fd().as_raw_fd())
            .map_err(SegmentError::io("mmap"))?;
        let region = Self::private(map)?;
        region.populate(Advice::PopulateRead)?;
        Ok(region)
    }

    /// Takes the lifeline to this segment's writer.
    pub(crate) fn take_lifeline(&mut self, lifeline: Option<Arc<Lifeline>>) {
        self.lifeline = lifeline;
    }

    /// The lifeline to this segment's writer.
    pub(crate) fn lifeline(&self) -> Option<&Arc<Lifeline>> {
        self.lifeline.as_ref()
    }

    /// Bytes as a slice, for a peer that is trusted not to write after commit.
    ///
    /// # Safety
    /// The segment's writer does not store to `offset..offset + len` while the slice lives.
    #[inline(always)]
    pub(crate) unsafe fn bytes(&self, offset: usize, len: usize) -> &[u8] {
        let start = self.at(offset, len);
        // SAFETY:
        // - `at` proved that the range lies inside the mapping, which `self` keeps alive;
        // - nobody writes the bytes while the slice lives: the caller's promise.
        unsafe { std::slice::from_raw_parts(start, len) }
    }

    /// Wakes every sleeper on a futex word of this segment, though only its writer may store it.
    ///
    /// A futex is keyed by the page, not by the right to write: the agent uses this to end a
    /// sleep whose peer died.
    pub(crate) fn wake_foreign(&self, offset: usize) {
        futex::wake(self.at_u32(offset));
    }

    /// The futex word at `offset` while it is `expected`, for [`futex::wait_any`].
    pub(crate) fn bell(&self, offset: usize, expected: u32) -> Wait {
        let mut bell = Wait::new();
        bell.val = expected.into();
        bell.uaddr = WaitPtr::new(self.at_u32(offset).as_ptr().cast());
        bell.flags = WaitFlags::SIZE_U32;
        bell
    }

    /// NUMA node of the page at `offset`, which must have been touched.
    pub(crate) fn node_of(&self, offset: usize) -> Option<u32> {
        const MPOL_F_NODE: u64 = 1;
        const MPOL_F_ADDR: u64 = 2;
        let mut node: libc::c_int = -1;
        // SAFETY:
        // - `node` is valid for one write of an int; no mask is asked for (null, 0 bits);
        // - the address lies inside this mapping.
        let result = unsafe {
            libc::syscall(
                libc::SYS_get_mempolicy,
                &raw mut node,
                std::ptr::null_mut::<libc::c_ulong>(),
                0,
                self.at(offset, 1),
                MPOL_F_NODE | MPOL_F_ADDR,
            )
        };
        if result == 0 { u32::try_from(node).ok() } else { None }
    }
}

impl Region<Frozen> {
    /// Maps a frozen payload for reading and touches every page.
    ///
    /// # Errors
    /// The kernel's refusal to map, or to find a page.
    pub(crate) fn map_frozen(file: &FrozenFile) -> Result<Self, SegmentError> {
        let map = MmapOptions::new()
            .len(file.size_bytes())
            .map_raw_read_only(file.as_fd().as_raw_fd())
            .map_err(SegmentError::io("mmap"))?;
        let region = Self::private(map)?;
        region.populate(Advice::PopulateRead)?;
        Ok(region)
    }

    /// The first `len` bytes.
    pub(crate) fn as_bytes(&self, len: usize) -> &[u8] {
        let start = self.at(0, len);
        // SAFETY:
        // - `at` proved that the range lies inside the mapping, which `self` keeps alive;
        // - nobody writes the bytes, in any process, for as long as the file exists: a
        //   `FrozenFile` was found to carry F_SEAL_WRITE, which the kernel adds only while nobody
        //   holds a writable mapping or a pin, and F_SEAL_SEAL, and a seal is never taken off;
        // - no access traps: the file was found to be no shorter than the mapping after the seals
        //   against shrinking and punching were found, and `map_frozen` touched every page;
        // - every byte of a file's mapping has a value, and `u8` needs no alignment.
        unsafe { std::slice::from_raw_parts(start, len) }
    }
}

impl<Access> Region<Access> {
    fn private(map: MmapRaw) -> Result<Self, SegmentError> {
        // A forked child would inherit a second writer or reader that no seal forbids.
        map.advise(Advice::DontFork).map_err(SegmentError::io("madvise(MADV_DONTFORK)"))?;
        map.advise(Advice::DontDump).map_err(SegmentError::io("madvise(MADV_DONTDUMP)"))?;
        let last_short = map.len().checked_sub(SHORT).and_then(NonZeroUsize::new);
        let Some(last_short) = last_short else {
            return Err(SegmentError::Size { found: map.len() as u64, expected: 2 * SHORT as u64 });
        };
        Ok(Self {
            map,
            last_short,
            lifeline: None,
            access: PhantomData,
            #[cfg(test)]
            watched_by: None,
        })
    }

    /// Takes every page fault now, so that the first message pays none.
    fn populate(&self, advice: Advice) -> Result<(), SegmentError> {
        self.map.advise(advice).map_err(SegmentError::io("madvise(MADV_POPULATE)"))
    }

    /// Size of the mapping, in bytes.
    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }

    /// Address of `offset`, proven to have `size` bytes behind it. What is short
    /// takes a single comparison nearly everywhere.
    ///
    /// # Panics
    /// Never for offsets from a [`crate::geometry::Geometry`] whose segment size was checked
    /// against this mapping; the check keeps the functions above sound whatever calls them.
    #[inline(always)]
    fn at(&self, offset: usize, size: usize) -> *mut u8 {
        let is_short = size <= SHORT && offset <= self.last_short.get();
        if !is_short && !self.holds(offset, size) {
            outside(offset, size, self.map.len());
        }
        #[cfg(test)]
        crate::demonic::tell(&self.watched_by, offset, size);
        self.map.as_mut_ptr().wrapping_add(offset)
    }

    fn holds(&self, offset: usize, size: usize) -> bool {
        offset.checked_add(size).is_some_and(|end| end <= self.map.len())
    }

    #[inline(always)]
    fn at_u64(&self, offset: usize) -> &AtomicU64 {
        if !offset.is_multiple_of(8) {
            misaligned(offset);
        }
        // SAFETY:
        // - `at` proved eight bytes inside the mapping, which outlives the reference;
        // - mappings start at page boundaries, so the address is aligned as the offset is;
        // - every access to this location, in every process, is an atomic of this width.
        unsafe { AtomicU64::from_ptr(self.at(offset, 8).cast()) }
    }

    /// `count` words from `offset` on.
    #[inline(always)]
    fn words(&self, offset: usize, count: usize) -> &[AtomicU64] {
        if !offset.is_multiple_of(8) {
            misaligned(offset);
        }
        let start = self.at(offset, count * 8);
        // SAFETY: as in `at_u64`, for `count` words one after the other; a slice of atomics
        // promises nothing about their values.
        unsafe { std::slice::from_raw_parts(start.cast(), count) }
    }

    #[inline(always)]
    fn at_u32(&self, offset: usize) -> &AtomicU32 {
        if !offset.is_multiple_of(4) {
            misaligned(offset);
        }
        // SAFETY: as in `at_u64`, for four bytes.
        unsafe { AtomicU32::from_ptr(self.at(offset, 4).cast()) }
    }
}

/// The `N` bytes in `words`, of which there are as many as that takes.
#[inline(always)]
fn load_words<const N: usize>(words: &[AtomicU64]) -> [u8; N] {
    let mut bytes = [0; N];
    for (bytes, word) in bytes.chunks_mut(8).zip(words) {
        let word = word.load(Ordering::Relaxed).to_le_bytes();
        bytes.copy_from_slice(word.get(..bytes.len()).unwrap_or_default());
    }
    bytes
}

/// Stores `bytes` to `words`, of which there are as many as that takes.
#[inline(always)]
fn store_words<const N: usize>(words: &[AtomicU64], bytes: [u8; N]) {
    for (bytes, target) in bytes.chunks(8).zip(words) {
        let mut word = [0; 8];
        for (byte, target) in bytes.iter().zip(&mut word) {
            *target = *byte;
        }
        target.store(u64::from_le_bytes(word), Ordering::Relaxed);
    }
}

#[cold]
#[inline(never)]
fn outside(offset: usize, size: usize, len: usize) -> ! {
    panic!("offset {offset} + {size} exceeds the mapping of {len}")
}

#[cold]
#[inline(never)]
fn misaligned(offset: usize) -> ! {
    panic!("offset {offset} is not aligned")
}

impl<Access> Memory for Region<Access> {
    #[inline(always)]
    fn prefetch(&self, offset: usize) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a prefetch neither traps nor reads, whatever the address, by the architecture.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(self.map.as_mut_ptr().wrapping_add(offset).cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = offset;
    }

    #[inline(always)]
    fn load_acquire(&self, offset: usize) -> u64 {
        self.at_u64(offset).load(Ordering::Acquire)
    }

    #[inline(always)]
    fn load_u32(&self, offset: usize) -> u32 {
        self.at_u32(offset).load(Ordering::Acquire)
    }

    #[inline(always)]
    fn copy_out(&self, offset: usize, target: &mut [u8]) {
        let source = self.at(offset, target.len());
        // SAFETY:
        // - `at` proved the source range inside the mapping; it cannot trap, because the segment
        //   was allocated, sealed against shrinking and punching, and verified before mapping;
        // - the target is a live exclusive slice of the same length; it cannot overlap a mapping
        //   to which no slice exists.
        unsafe { copy_from_shared(source, target.as_mut_ptr(), target.len()) }
    }

    #[inline(always)]
    fn copy_array<const N: usize>(&self, offset: usize) -> [u8; N] {
        if N > WORDS_MAX {
            let mut bytes = [0; N];
            self.copy_out(offset, &mut bytes);
            return bytes;
        }
        load_words(self.words(offset, N.div_ceil(8)))
    }

    #[inline(always)]
    fn slot_array<const N: usize>(&self, offset: usize, expected: u64) -> Option<[u8; N]> {
        if N > WORDS_MAX {
            let there = self.load_acquire(offset) == expected;
            return there.then(|| self.copy_array(offset + WORD_BYTES));
        }
        // One look at the limits for word and bytes together.
        let (word, words) = self.words(offset, 1 + N.div_ceil(8)).split_first()?;
        if word.load(Ordering::Acquire) != expected {
            return None;
        }
        Some(load_words(words))
    }

    #[inline(always)]
    fn copy_arrays<const N: usize>(
        &self,
        offset: usize,
        count: usize,
        mut read: impl FnMut([u8; N]),
    ) {
        if N == 0 || N > WORDS_MAX || !N.is_multiple_of(8) {
            (0..count).for_each(|index| read(self.copy_array(offset + index * N)));
            return;
        }
        // One look at the limits for all of them.
        for words in self.words(offset, count * (N / 8)).chunks_exact(N / 8) {
            let mut bytes = [0; N];
            for (bytes, word) in bytes.chunks_exact_mut(8).zip(words) {
                bytes.copy_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
            }
            read(bytes);
        }
    }

    #[inline(always)]
    fn copy_lines(&self, offset: usize, count: usize, mut read: impl FnMut([u64; 8])) {
        // One look at the limits for all of them.
        let source = self.at(offset, count.saturating_mul(LINE));
        for index in 0..count {
            #[cfg(test)]
            crate::demonic::tell(&self.watched_by, offset + index * LINE, LINE);
            // SAFETY: `at` proved all lines inside the mapping, which cannot trap: see `copy_out`.
            read(unsafe { line_from_shared(source.add(index * LINE)) });
        }
    }

    #[inline(always)]
    fn full_fence(&self) {
        fence(Ordering::SeqCst);
    }

    #[inline(always)]
    fn acquire_fence(&self) {
        fence(Ordering::Acquire);
    }

    fn heavy_fence(&self) {
        // A refusal after `heavy_works` said yes is a fence that missed a cpu.
        if !barrier::run() {
            fence(Ordering::SeqCst);
        }
    }

    fn heavy_works(&self) -> bool {
        barrier::works()
    }

    #[cold]
    fn doorbell(&self) {
        if let Some(lifeline) = &self.lifeline {
            // A peer that is gone needs no ring; that it is, whoever waits for it learns.
            lifeline.ring();
        }
    }

    fn wait(&self, offset: usize, expected: u32, timeout: Duration) {
        futex::wait(self.at_u32(offset), expected, timeout);
    }
}

impl OwnedMemory for Region<Owned> {
    #[inline(always)]
    fn prefetch_for_store(&self, offset: usize) {
        let line = self.map.as_mut_ptr().wrapping_add(offset);
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a prefetch neither traps nor writes, whatever the address, by the architecture;
        // processors that do not know this one take it for a NOP.
        unsafe {
            std::arch::asm!("prefetchw [{line}]", line = in(reg) line,
                options(nostack, preserves_flags, readonly));
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = line;
    }

    #[inline(always)]
    fn store_relaxed(&self, offset: usize, value: u64) {
        self.at_u64(offset).store(value, Ordering::Relaxed);
    }

    #[inline(always)]
    fn store_release(&self, offset: usize, value: u64) {
        self.at_u64(offset).store(value, Ordering::Release);
    }

    #[inline(always)]
    fn store_array<const N: usize>(&self, offset: usize, bytes: [u8; N]) {
        if N > STORED_WORDS_MAX {
            self.copy_in(offset, &bytes);
        } else {
            store_words(self.words(offset, N.div_ceil(8)), bytes);
        }
    }

    #[inline(always)]
    fn store_slot<const N: usize>(&self, offset: usize, word: u64, bytes: [u8; N]) {
        if N > STORED_WORDS_MAX {
            self.copy_in(offset + WORD_BYTES, &bytes);
            self.store_release(offset, word);
        } else if let Some((first, rest)) = self.words(offset, 1 + N.div_ceil(8)).split_first() {
            // One look at the limits for word and bytes together.
            store_words(rest, bytes);
            first.store(word, Ordering::Release);
        }
    }

    #[inline(always)]
    fn store_u32(&self, offset: usize, value: u32) {
        self.at_u32(offset).store(value, Ordering::Release);
    }

    #[inline(always)]
    fn light_fence(&self) {
        compiler_fence(Ordering::SeqCst);
    }

    fn allow_light(&self) -> bool {
        barrier::register()
    }

    #[inline(always)]
    fn release_fence(&self) {
        fence(Ordering::Release);
    }

    #[inline(always)]
    fn copy_in(&self, offset: usize, source: &[u8]) {
        let target = self.at(offset, source.len());
        // SAFETY:
        // - `at` proved the target range inside this process's own writable mapping;
        // - no reference to the target exists: `bytes_mut` borrows the region exclusively;
        // - the source is a live slice of private memory, so the ranges do not overlap.
        unsafe { copy_to_shared(source.as_ptr(), target, source.len()) }
    }

    fn copy_past(&self, offset: usize, source: &[u8]) {
        let target = self.at(offset, source.len());
        // SAFETY: as in `copy_in`.
        unsafe { copy_past_caches(source.as_ptr(), target, source.len()) }
    }

    fn drain(&self) {
        copy::drain();
    }

    fn wake(&self, offset: usize) {
        futex::wake(self.at_u32(offset));
    }
}
