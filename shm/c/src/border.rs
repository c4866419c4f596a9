//! Where numbers from a C program become references: pointers, texts, and the table of handles.
//!
//! Everything that can be known about an argument is checked here, before anything is done with
//! it. What cannot be known (that so many bytes are there, that no other thread uses them) is the
//! caller's promise, and stands in the `# Safety` section of each function of the header.

use std::cell::UnsafeCell;
use std::ffi::{CStr, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::status::{Failure, LanewayStatus};

/// Longest text that is accepted, with its end: longer than any path of a socket.
const TEXT_MAX: usize = 4096;

/// `LANEWAY_ABI_VERSION` of the library that was loaded: compare it with the header's.
#[unsafe(no_mangle)]
pub extern "C" fn laneway_abi_version() -> u32 {
    crate::LANEWAY_ABI_VERSION
}

/// The text of this thread's last call that answered neither `LANEWAY_STATUS_OK` nor
/// `LANEWAY_STATUS_EMPTY`; empty before the first. Valid until the next such call of the thread.
#[unsafe(no_mangle)]
pub extern "C" fn laneway_error_message() -> *const c_char {
    crate::status::message()
}

/// What a call does, as far as it goes.
pub(crate) type Answer = Result<LanewayStatus, Failure>;

/// Runs the inside of an exported function: no panic and no error text crosses the border.
pub(crate) fn guarded(work: impl FnOnce() -> Answer) -> LanewayStatus {
    let answer = catch_unwind(AssertUnwindSafe(work));
    answer.unwrap_or_else(|_| Err(Failure::panicked())).unwrap_or_else(Failure::tell)
}

/// A place for an answer, known to be there before the work starts.
pub(crate) struct Out<T>(NonNull<T>);

impl<T> Out<T> {
    /// # Safety
    /// If `place` is aligned and not null, it may be written until the exported function returns.
    pub(crate) unsafe fn new(place: *mut T, name: &str) -> Result<Self, Failure> {
        match NonNull::new(place) {
            Some(place) if place.is_aligned() => Ok(Self(place)),
            Some(_) => Err(Failure::argument(name, "is misaligned")),
            None => Err(Failure::argument(name, "is null")),
        }
    }

    pub(crate) fn set(&self, value: T) {
        // SAFETY: aligned and not null, as `new` checked; writable and, by the same promise, not
        // part of a buffer that is referred to while this runs. `T` needs no drop: what was there
        // is the caller's and may be nothing yet.
        unsafe { self.0.write(value) }
    }
}

/// Whether so many bytes can be one object at all.
fn sized(address: usize, count: usize, size: usize, name: &str) -> Result<(), Failure> {
    let bytes = count.checked_mul(size).filter(|bytes| isize::try_from(*bytes).is_ok());
    let end = bytes.and_then(|bytes| address.checked_add(bytes));
    end.map(drop).ok_or_else(|| Failure::argument(name, "is larger than the address space"))
}

/// An array to read.
///
/// # Safety
/// If `start` is aligned and not null, `count` values are there, and nobody writes them for as long
/// as the slice is used.
pub(crate) unsafe fn items<'a, T>(
    start: *const T,
    count: usize,
    name: &str,
) -> Result<&'a [T], Failure> {
    let place = match NonNull::new(start.cast_mut()) {
        None if count == 0 => return Ok(&[]),
        None => return Err(Failure::argument(name, "is null")),
        Some(place) if !place.is_aligned() => return Err(Failure::argument(name, "is misaligned")),
        Some(place) => place,
    };
    sized(start.addr(), count, size_of::<T>(), name)?;
    // SAFETY: aligned, not null, and no larger than an object may be, as checked above; the values
    // are there and constant by the promise to this function.
    Ok(unsafe { NonNull::slice_from_raw_parts(place, count).as_ref() })
}

/// An array to fill.
///
/// # Safety
/// If `start` is aligned and not null, `count` values are there, and nobody else reads or writes
/// them for as long as the slice is used.
pub(crate) unsafe fn items_mut<'a, T>(
    start: *mut T,
    count: usize,
    name: &str,
) -> Result<&'a mut [T], Failure> {
    let place = match NonNull::new(start) {
        None if count == 0 => return Ok(&mut []),
        None => return Err(Failure::argument(name, "is null")),
        Some(place) if !place.is_aligned() => return Err(Failure::argument(name, "is misaligned")),
        Some(place) => place,
    };
    sized(start.addr(), count, size_of::<T>(), name)?;
    // SAFETY: as in `items`; nobody else has them, by the promise to this function.
    Ok(unsafe { NonNull::slice_from_raw_parts(place, count).as_mut() })
}

/// Bytes to read.
///
/// # Safety
/// As [`items`].
pub(crate) unsafe fn bytes<'a>(
    start: *const c_void,
    len: usize,
    name: &str,
) -> Result<&'a [u8], Failure> {
    // SAFETY: the same promise; a byte needs no alignment.
    unsafe { items(start.cast(), len, name) }
}

/// Bytes to fill.
///
/// # Safety
/// As [`items_mut`].
pub(crate) unsafe fn bytes_mut<'a>(
    start: *mut c_void,
    len: usize,
    name: &str,
) -> Result<&'a mut [u8], Failure> {
    // SAFETY: the same promise; a byte needs no alignment.
    unsafe { items_mut(start.cast(), len, name) }
}

/// A text of at most [`TEXT_MAX`] bytes with its end.
///
/// # Safety
/// If `start` is not null, a byte 0 ends the text or at least [`TEXT_MAX`] bytes may be read.
pub(crate) unsafe fn text<'a>(start: *const c_char, name: &str) -> Result<&'a CStr, Failure> {
    if start.is_null() {
        return Err(Failure::argument(name, "is null"));
    }
    // SAFETY: every byte up to the first 0 may be read by the promise to this function, and the
    // iterator stops there.
    let ended = (0..TEXT_MAX).any(|at| unsafe { start.add(at).read() } == 0);
    if !ended {
        return Err(Failure::argument(name, "is longer than 4095 bytes"));
    }
    // SAFETY: not null, and a byte 0 was found above; the caller does not change it meanwhile.
    Ok(unsafe { CStr::from_ptr(start) })
}

/// Handles in one chunk of a table, and chunks of a table.
const CHUNK: usize = 64;
const CHUNKS: usize = 256;

/// The open handles of one kind.
///
/// A handle is a number in the clothes of a pointer: the place in the table and how often it was
/// used. It is never followed, so that a handle that was closed, made up, or is of the other kind
/// is found out and not obeyed.
pub(crate) struct Table<T> {
    kind: usize,
    chunks: [OnceLock<Box<[Place<T>; CHUNK]>>; CHUNKS],
    unused: Mutex<Unused>,
}

/// Places that nobody has: those given back, and all from `fresh` on.
struct Unused {
    returned: Vec<usize>,
    fresh: usize,
}

struct Place<T> {
    /// Odd while the handle is open. Counts every open and every close.
    turn: AtomicU32,
    end: UnsafeCell<Option<End<T>>>,
}

struct End<T> {
    value: T,
    panicked: bool,
}

// SAFETY: `end` is touched by `insert` and `remove`, which hold the table's lock and touch only
// places whose turn no caller of `with` can know or may use, and by `with`, whose caller promises
// that one thread at a time uses a handle. Ends move between threads, hence `Send`.
unsafe impl<T: Send> Sync for Place<T> {}

impl<T: Send> Table<T> {
    /// A table whose handles carry `kind`, which is not 0 and below 16.
    pub(crate) const fn new(kind: usize) -> Self {
        let unused = Mutex::new(Unused { returned: Vec::new(), fresh: 0 });
        Self { kind, chunks: [const { OnceLock::new() }; CHUNKS], unused }
    }

    /// Opens a handle.
    pub(crate) fn insert<H>(&self, value: T) -> Result<*mut H, Failure> {
        let mut unused = self.unused.lock().unwrap_or_else(PoisonError::into_inner);
        let index = match unused.returned.pop() {
            Some(index) => index,
            None if unused.fresh < CHUNK * CHUNKS => {
                unused.fresh += 1;
                unused.fresh - 1
            }
            None => return Err(Failure::new(LanewayStatus::System, "16384 ends are open")),
        };
        let new = || Box::new(std::array::from_fn(|_| Place::new()));
        let place = &self.chunks[index / CHUNK].get_or_init(new)[index % CHUNK];
        // SAFETY: the place is unused and its turn even, so that no handle leads here; the lock
        // keeps other openings and closings out.
        unsafe { *place.end.get() = Some(End { value, panicked: false }) };
        let turn = place.turn.load(Ordering::Relaxed).wrapping_add(1);
        place.turn.store(turn, Ordering::Release);
        Ok(std::ptr::without_provenance_mut((turn as usize) << 32 | index << 4 | self.kind))
    }

    /// The place that a handle names, if the handle is open.
    fn find<H>(&self, handle: *const H) -> Result<&Place<T>, Failure> {
        let (turn, index) = (handle.addr() >> 32, handle.addr() >> 4 & (CHUNK * CHUNKS - 1));
        let chunk = self.chunks[index / CHUNK].get().ok_or_else(Failure::handle)?;
        let place = &chunk[index % CHUNK];
        let open = place.turn.load(Ordering::Acquire) as usize == turn && turn % 2 == 1;
        let same = handle.addr() & !(usize::MAX << 32) == index << 4 | self.kind;
        if open && same { Ok(place) } else { Err(Failure::handle()) }
    }

    /// Works with the end of a handle. An end that panicked is not used again.
    ///
    /// # Safety
    /// No other thread uses or closes the handle meanwhile.
    pub(crate) unsafe fn with<H>(
        &self,
        handle: *const H,
        work: impl FnOnce(&mut T) -> Answer,
    ) -> Answer {
        let place = self.find(handle)?;
        // SAFETY: the handle is open, so that `insert` and `remove` leave the place alone, and no
        // other thread is here by the promise to this function. `work` cannot come here again: it
        // is the library's own code and calls nothing of the caller's.
        let end = unsafe { &mut *place.end.get() }.as_mut().ok_or_else(Failure::handle)?;
        if end.panicked {
            return Err(Failure::panicked());
        }
        let value = &mut end.value;
        let answer = catch_unwind(AssertUnwindSafe(move || work(value)));
        end.panicked = answer.is_err();
        answer.unwrap_or_else(|_| Err(Failure::panicked()))
    }

    /// Closes a handle. Two closings at once are one closing and one refusal.
    ///
    /// # Safety
    /// No other thread uses the handle meanwhile.
    pub(crate) unsafe fn remove<H>(&self, handle: *const H) -> Result<T, Failure> {
        let mut unused = self.unused.lock().unwrap_or_else(PoisonError::into_inner);
        let place = self.find(handle)?;
        // SAFETY: open, hence not touched by `insert`; the lock keeps another `remove` out, and no
        // other thread is in `with` by the promise to this function.
        let end = unsafe { (*place.end.get()).take() }.ok_or_else(Failure::handle)?;
        place.turn.fetch_add(1, Ordering::Release);
        unused.returned.push(handle.addr() >> 4 & (CHUNK * CHUNKS - 1));
        Ok(end.value)
    }
}

impl<T> Place<T> {
    fn new() -> Self {
        Self { turn: AtomicU32::new(0), end: UnsafeCell::new(None) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(table: &Table<u32>, handle: *const u8) -> Result<u32, LanewayStatus> {
        let mut found = 0;
        // SAFETY: the test has one thread.
        let answer = unsafe {
            table.with(handle, |value| {
                found = *value;
                Ok(LanewayStatus::Ok)
            })
        };
        answer.map(|_| found).map_err(|failure| failure.status)
    }

    #[test]
    fn a_handle_opens_its_own_end_until_it_is_closed_and_never_another() {
        static TABLE: Table<u32> = Table::new(5);
        static OTHER: Table<u32> = Table::new(10);
        let handles: Vec<*mut u8> = (0..200).map(|n| TABLE.insert(n).unwrap()).collect();
        OTHER.insert::<u8>(7).unwrap();
        for (number, handle) in (0..).zip(&handles) {
            assert_eq!(value(&TABLE, *handle), Ok(number));
            assert_eq!(value(&OTHER, *handle), Err(LanewayStatus::InvalidHandle));
            for bit in 0..usize::BITS {
                let forged = handle.map_addr(|addr| addr ^ 1 << bit);
                let other = value(&TABLE, forged);
                assert!(handles.contains(&forged) || other == Err(LanewayStatus::InvalidHandle));
            }
            // SAFETY: the test has one thread.
            assert_eq!(unsafe { TABLE.remove(*handle) }.unwrap(), number);
            // SAFETY: as above.
            assert!(unsafe { TABLE.remove(*handle) }.is_err());
            assert_ne!(TABLE.insert::<u8>(1000).unwrap(), *handle);
            assert_eq!(value(&TABLE, *handle), Err(LanewayStatus::InvalidHandle));
        }
    }

    #[test]
    fn a_full_table_says_so_and_has_a_place_again_after_a_close() {
        static TABLE: Table<u32> = Table::new(5);
        let all: Vec<*mut u8> = (0..16384).map(|n| TABLE.insert(n).unwrap()).collect();
        assert_eq!(TABLE.insert::<u8>(0).unwrap_err().status, LanewayStatus::System);
        // SAFETY: the test has one thread.
        assert_eq!(unsafe { TABLE.remove(all[9]) }.unwrap(), 9);
        assert!(TABLE.insert::<u8>(0).is_ok());
    }

    #[test]
    fn a_panic_becomes_a_status_for_ever_and_the_end_can_still_be_closed() {
        static TABLE: Table<u32> = Table::new(5);
        let handle = TABLE.insert::<u8>(1).unwrap();
        let boom = |value: &mut u32| {
            assert_eq!(*value, 2, "planted");
            Ok(LanewayStatus::Ok)
        };
        // SAFETY: the test has one thread.
        let status = guarded(|| unsafe { TABLE.with(handle, boom) });
        assert_eq!(status, LanewayStatus::Panicked);
        assert_eq!(value(&TABLE, handle), Err(LanewayStatus::Panicked));
        // SAFETY: as above.
        assert_eq!(unsafe { TABLE.remove(handle) }.unwrap(), 1);
        assert_eq!(guarded(|| panic!("planted")), LanewayStatus::Panicked);
        // SAFETY: the text of this thread is valid until its next failure.
        let text = unsafe { CStr::from_ptr(laneway_error_message()) };
        assert!(text.to_string_lossy().contains("bug"), "{text:?}");
    }
}
