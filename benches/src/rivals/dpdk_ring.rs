//! DPDK's ring in memory that two children share: all calls of it.
//!
//! Only for messages between two children of this program: one has the producer of a ring, the
//! other its consumer, and nobody else has the memory. It lies on 2 MiB pages if some are free,
//! as DPDK's own memory does.

use std::ffi::{c_int, c_uint, c_void};
use std::fs::File;
use std::mem::MaybeUninit;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::sys::stat::fstat;
use nix::unistd::ftruncate;

use crate::error::BenchError;

/// Bytes of a huge page.
const HUGE_BYTES: usize = 2 << 20;

/// Elements in place: DPDK's `struct rte_ring_zc_data`.
#[repr(C, align(64))]
struct Span {
    first: *mut c_void,
    /// The ring's start, where the elements go on behind its end.
    second: *mut c_void,
    /// Elements at `first`.
    in_first: c_uint,
}

// SAFETY: the first two are as `rte_ring_elem.h` declares them, the others as `dpdk.c` defines
// them, which checks the layout of `Span`, too. A C `unsigned int` is a `c_uint`, and `ssize_t`
// an `isize`.
#[expect(clippy::unnecessary_safety_comment, reason = "signatures are promises, too")]
unsafe extern "C" {
    fn rte_ring_get_memsize_elem(element_bytes: c_uint, count: c_uint) -> isize;
    fn laneway_dpdk_init(ring: *mut c_void, count: c_uint) -> c_int;
    fn laneway_dpdk_start_enqueue(
        ring: *mut c_void,
        element_bytes: c_uint,
        n: c_uint,
        span: *mut Span,
    ) -> c_uint;
    fn laneway_dpdk_finish_enqueue(ring: *mut c_void, n: c_uint);
    fn laneway_dpdk_start_dequeue(
        ring: *mut c_void,
        element_bytes: c_uint,
        n: c_uint,
        span: *mut Span,
    ) -> c_uint;
    fn laneway_dpdk_finish_dequeue(ring: *mut c_void, n: c_uint);
}

/// Copies one element in.
///
/// # Safety
/// The ring was initialised for elements of this size, of which one can be read; nobody else puts
/// elements in.
type Enqueue = unsafe extern "C" fn(*mut c_void, *const c_void) -> c_uint;

/// Copies one element out.
///
/// # Safety
/// The ring was initialised for elements of this size, for which there is room; nobody else takes
/// elements out.
type Dequeue = unsafe extern "C" fn(*mut c_void, *mut c_void) -> c_uint;

/// Copies many elements in.
///
/// # Safety
/// As [`Enqueue`], for as many elements as the last argument says.
type EnqueueBurst = unsafe extern "C" fn(*mut c_void, *const c_void, c_uint) -> c_uint;

/// Copies many elements out.
///
/// # Safety
/// As [`Dequeue`], for as many elements as the last argument says.
type DequeueBurst = unsafe extern "C" fn(*mut c_void, *mut c_void, c_uint) -> c_uint;

/// The calls for elements of one size, which the C compiler knows.
#[derive(Debug)]
pub(crate) struct Calls {
    enqueue: Enqueue,
    dequeue: Dequeue,
    enqueue_burst: EnqueueBurst,
    dequeue_burst: DequeueBurst,
}

/// A message that is an element of a ring and is copied in and out.
pub(crate) trait Element: Copy {
    const CALLS: Calls;
}

macro_rules! elements {
    ($($bytes:literal),*) => {$(
        impl Element for [u8; $bytes] {
            const CALLS: Calls = {
                // SAFETY: as `dpdk.c` defines them for this size.
                #[expect(clippy::unnecessary_safety_comment, reason = "as above")]
                unsafe extern "C" {
                    #[link_name = concat!("laneway_dpdk_enqueue_", $bytes)]
                    fn enqueue(ring: *mut c_void, element: *const c_void) -> c_uint;
                    #[link_name = concat!("laneway_dpdk_dequeue_", $bytes)]
                    fn dequeue(ring: *mut c_void, element: *mut c_void) -> c_uint;
                    #[link_name = concat!("laneway_dpdk_enqueue_burst_", $bytes)]
                    fn enqueue_burst(
                        ring: *mut c_void,
                        elements: *const c_void,
                        n: c_uint,
                    ) -> c_uint;
                    #[link_name = concat!("laneway_dpdk_dequeue_burst_", $bytes)]
                    fn dequeue_burst(
                        ring: *mut c_void,
                        elements: *mut c_void,
                        n: c_uint,
                    ) -> c_uint;
                }
                Calls { enqueue, dequeue, enqueue_burst, dequeue_burst }
            };
        }
    )*};
}

elements!(8, 56, 64, 256, 1024, 4096);

/// A ring, as this process maps it.
#[derive(Debug)]
pub(crate) struct Ring {
    at: NonNull<c_void>,
    mapped_bytes: NonZeroUsize,
    element_bytes: c_uint,
}

/// The end that sends.
#[derive(Debug)]
pub(crate) struct Producer(Ring);

/// The end that receives.
#[derive(Debug)]
pub(crate) struct Consumer(Ring);

impl Ring {
    /// A new ring of `count` elements, a power of two of which one stays empty, and its memory.
    pub(crate) fn create(element_bytes: u32, count: u32) -> Result<(Self, File), BenchError> {
        let needed = needed_bytes(element_bytes, count)?;
        let huge = needed.next_multiple_of(HUGE_BYTES);
        let flags = MFdFlags::MFD_CLOEXEC;
        let on_huge = flags | MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB;
        let made = Self::map_new(on_huge, huge, element_bytes)
            .or_else(|_| Self::map_new(flags, needed, element_bytes));
        let (ring, memory) = made.map_err(BenchError::io("cannot make memory for DPDK's ring"))?;
        // SAFETY: `ring.at` is the start of a mapping, and so aligned to more than a cache line,
        // with at least the bytes that DPDK asked for; nobody else has the memory yet.
        match unsafe { laneway_dpdk_init(ring.at.as_ptr(), count) } {
            0 => Ok((ring, memory)),
            error => Err(refused(error.into())),
        }
    }

    /// The other child's ring, made with the same numbers.
    pub(crate) fn open(memory: &File, element_bytes: u32, count: u32) -> Result<Self, BenchError> {
        let needed = needed_bytes(element_bytes, count)?;
        let status = fstat(memory).map_err(BenchError::io("cannot look at DPDK's memory"))?;
        match usize::try_from(status.st_size) {
            Ok(bytes) if bytes >= needed => Self::map(memory, bytes, element_bytes)
                .map_err(BenchError::io("cannot map DPDK's memory")),
            _ => Err(BenchError::Rival {
                what: "DPDK's memory",
                why: format!("it has {} bytes and not {needed}", status.st_size),
            }),
        }
    }

    fn map_new(flags: MFdFlags, bytes: usize, element_bytes: u32) -> nix::Result<(Self, File)> {
        let memory = File::from(memfd_create("laneway-dpdk", flags)?);
        ftruncate(&memory, i64::try_from(bytes).map_err(|_| nix::Error::EFBIG)?)?;
        Ok((Self::map(&memory, bytes, element_bytes)?, memory))
    }

    /// Maps all of `memory`, with its pages, so that no measurement pays for them.
    fn map(memory: impl AsFd, bytes: usize, element_bytes: u32) -> nix::Result<Self> {
        let mapped_bytes = NonZeroUsize::new(bytes).ok_or(nix::Error::EINVAL)?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_SHARED | MapFlags::MAP_POPULATE;
        // SAFETY: a new mapping at an address that the kernel chooses replaces none. It is as
        // long as the file, which neither child makes shorter.
        let at = unsafe { mmap(None, mapped_bytes, access, flags, memory, 0) }?;
        Ok(Self { at, mapped_bytes, element_bytes })
    }

    /// As its sending end; the other child has the receiving one.
    pub(crate) fn producer(self) -> Producer {
        Producer(self)
    }

    /// As its receiving end; the other child has the sending one.
    pub(crate) fn consumer(self) -> Consumer {
        Consumer(self)
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: this is the whole mapping that `map` made, it ends with its only owner, and
        // what points into it borrows that owner.
        let _ = unsafe { munmap(self.at, self.mapped_bytes.get()) };
    }
}

/// What DPDK wants for a ring.
fn needed_bytes(element_bytes: u32, count: u32) -> Result<usize, BenchError> {
    // SAFETY: it only computes with two numbers, and refuses those that it does not like.
    let needed = unsafe { rte_ring_get_memsize_elem(element_bytes, count) };
    usize::try_from(needed).map_err(|_| refused(needed as i64))
}

fn refused(error: i64) -> BenchError {
    BenchError::Rival { what: "DPDK's ring", why: format!("it was refused with error {error}") }
}

impl Producer {
    /// Copies one message in, if there is room.
    #[inline(always)]
    pub(crate) fn enqueue<E: Element>(&mut self, message: &E) -> bool {
        let message = std::ptr::from_ref(message).cast();
        debug_assert_eq!(size_of::<E>(), self.0.element_bytes as usize);
        // SAFETY: the ring is one that `create` initialised, for elements of this size, of which
        // `message` is one; this is its only producer.
        unsafe { (E::CALLS.enqueue)(self.0.at.as_ptr(), message) != 0 }
    }

    /// Copies as many of `messages` in as there is room for; how many.
    #[inline(always)]
    pub(crate) fn enqueue_burst<E: Element>(&mut self, messages: &[E]) -> usize {
        debug_assert_eq!(size_of::<E>(), self.0.element_bytes as usize);
        let n = few(messages.len());
        // SAFETY: the ring is one that `create` initialised, for elements of this size, of which
        // there are `n` at least in `messages`; this is its only producer.
        let sent =
            unsafe { (E::CALLS.enqueue_burst)(self.0.at.as_ptr(), messages.as_ptr().cast(), n) };
        sent as usize
    }

    /// Has `write` make as many messages as there is room for, at most `most`, in place; how
    /// many. It is told which of them it makes.
    #[inline(always)]
    pub(crate) fn enqueue_in_place(
        &mut self,
        most: usize,
        mut write: impl FnMut(usize, &mut [u8]),
    ) -> usize {
        let mut span = Span::new();
        let (ring, bytes) = (self.0.at.as_ptr(), self.0.element_bytes);
        // SAFETY: the ring is one that `create` initialised, for elements of `bytes` bytes; this
        // is its only producer, and what it started before it has finished.
        let n = unsafe { laneway_dpdk_start_enqueue(ring, bytes, few(most), &mut span) };
        for index in 0..n {
            // SAFETY: element `index` of the `n` that were reserved: they lie in the mapping,
            // which the kernel zeroed, and are this producer's until it finishes: the consumer,
            // in another child of this program, reads only what was finished. Each slice ends
            // before the next one begins.
            let element = unsafe {
                let at = span.element(index, bytes as usize).cast();
                std::slice::from_raw_parts_mut(at, bytes as usize)
            };
            write(index as usize, element);
        }
        if n > 0 {
            // SAFETY: these `n` were reserved above, and not yet finished.
            unsafe { laneway_dpdk_finish_enqueue(ring, n) };
        }
        n as usize
    }
}

impl Consumer {
    /// Copies one message out, if there is one.
    #[inline(always)]
    pub(crate) fn dequeue<E: Element>(&mut self) -> Option<E> {
        debug_assert_eq!(size_of::<E>(), self.0.element_bytes as usize);
        let mut message = MaybeUninit::<E>::uninit();
        // SAFETY: the ring is one that `create` initialised, for elements of this size, for which
        // there is room in `message`; this is its only consumer.
        let there = unsafe { (E::CALLS.dequeue)(self.0.at.as_ptr(), message.as_mut_ptr().cast()) };
        // SAFETY: an `Element` is an array of bytes, all of which DPDK has just written.
        (there != 0).then(|| unsafe { message.assume_init() })
    }

    /// Copies as many messages out as are there and have room in `messages`; these.
    #[inline(always)]
    pub(crate) fn dequeue_burst<'a, E: Element>(&mut self, messages: &'a mut [E]) -> &'a [E] {
        debug_assert_eq!(size_of::<E>(), self.0.element_bytes as usize);
        let n = few(messages.len());
        // SAFETY: the ring is one that `create` initialised, for elements of this size, for `n` of
        // which there is room in `messages`; this is its only consumer.
        let there = unsafe {
            (E::CALLS.dequeue_burst)(self.0.at.as_ptr(), messages.as_mut_ptr().cast(), n)
        };
        messages.get(..there as usize).unwrap_or_default()
    }

    /// Has `read` look at as many messages as are there, at most `most`, in place; how many.
    #[inline(always)]
    pub(crate) fn dequeue_in_place(&mut self, most: usize, mut read: impl FnMut(&[u8])) -> usize {
        let mut span = Span::new();
        let (ring, bytes) = (self.0.at.as_ptr(), self.0.element_bytes);
        // SAFETY: the ring is one that `create` initialised, for elements of `bytes` bytes; this
        // is its only consumer, and what it started before it has finished.
        let n = unsafe { laneway_dpdk_start_dequeue(ring, bytes, few(most), &mut span) };
        for index in 0..n {
            // SAFETY: element `index` of the `n` that are there: they lie in the mapping, and the
            // producer, in another child of this program, has written them and leaves them alone
            // until this consumer finishes, which is after the reference has ended.
            let element = unsafe {
                let at = span.element(index, bytes as usize).cast();
                std::slice::from_raw_parts(at, bytes as usize)
            };
            read(element);
        }
        if n > 0 {
            // SAFETY: these `n` were taken above, and not yet finished.
            unsafe { laneway_dpdk_finish_dequeue(ring, n) };
        }
        n as usize
    }
}

impl Span {
    fn new() -> Self {
        Self { first: std::ptr::null_mut(), second: std::ptr::null_mut(), in_first: 0 }
    }

    /// Where element `index` lies, of as many as DPDK said that there are.
    #[inline(always)]
    fn element(&self, index: c_uint, bytes: usize) -> *mut c_void {
        match index.checked_sub(self.in_first) {
            None => self.first.wrapping_byte_add(index as usize * bytes),
            Some(index) => self.second.wrapping_byte_add(index as usize * bytes),
        }
    }
}

/// A number of elements as DPDK counts them.
#[inline(always)]
fn few(count: usize) -> c_uint {
    c_uint::try_from(count).unwrap_or(c_uint::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(count: u32) -> (Producer, Consumer) {
        let (ring, memory) = Ring::create(64, count).unwrap();
        (ring.producer(), Ring::open(&memory, 64, count).unwrap().consumer())
    }

    #[test]
    fn messages_that_are_copied_keep_their_order_around_the_ring() {
        let (mut producer, mut consumer) = ends(8);
        for start in (0..200).step_by(5) {
            let messages = [0, 1, 2, 3, 4].map(|at| [start + at; 64]);
            assert_eq!(producer.enqueue_burst(&messages), 5);
            let mut copies = [[0; 64]; 32];
            assert_eq!(consumer.dequeue_burst(&mut copies), messages);
        }
        assert!(producer.enqueue(&[7; 64]));
        assert_eq!(consumer.dequeue(), Some([7; 64]));
        assert_eq!(consumer.dequeue::<[u8; 64]>(), None);
    }

    #[test]
    fn messages_in_place_keep_their_order_around_the_ring_and_stop_where_it_is_full() {
        let (mut producer, mut consumer) = ends(8);
        for _ in 0..50 {
            // One element of the eight stays empty.
            assert_eq!(
                producer.enqueue_in_place(6, |at, bytes| bytes.fill([0, 1, 2, 3, 4, 5][at])),
                6
            );
            assert_eq!(producer.enqueue_in_place(6, |_, bytes| bytes.fill(6)), 1);
            assert_eq!(producer.enqueue_in_place(6, |_, _| unreachable!()), 0);
            let mut seen = Vec::new();
            assert_eq!(consumer.dequeue_in_place(32, |bytes| seen.push(bytes.to_vec())), 7);
            let expected: Vec<_> = (0..7).map(|at| vec![at; 64]).collect();
            assert_eq!(seen, expected);
        }
    }

    #[test]
    fn numbers_that_dpdk_does_not_take_are_refused_by_it() {
        for (element_bytes, count) in [(6, 8), (64, 7)] {
            let error = Ring::create(element_bytes, count).unwrap_err().to_string();
            assert!(error.contains("-22"), "{error}");
        }
    }
}
