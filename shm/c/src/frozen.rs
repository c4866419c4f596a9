//! The exported functions of frozen payloads: written here, or received.

use std::ffi::c_void;

use laneway_shm::{FrozenBuilder, FrozenFile, FrozenSegment};

use crate::border::{Answer, Out, Table, guarded};
use crate::status::{Failure, LanewayStatus};

/// A frozen payload that is being written: memory of this process alone.
#[derive(Debug)]
pub struct LanewayFrozenBuilder {
    _never_made: std::convert::Infallible,
}

/// A frozen payload: a file of its own that nobody can change any more, the sender included. Costs
/// a descriptor, and a mapping once its bytes are looked at, until it is released.
#[derive(Debug)]
pub struct LanewayFrozen {
    _never_made: std::convert::Infallible,
}

static BUILDERS: Table<FrozenBuilder> = Table::new(3);
static PAYLOADS: Table<Payload> = Table::new(12);

struct Payload {
    file: FrozenFile,
    /// Its mapping: one that was written here has none before its bytes are asked for.
    segment: Option<FrozenSegment>,
}

/// Opens a handle of a payload that was received.
pub(crate) fn received(segment: &FrozenSegment) -> Result<*mut LanewayFrozen, Failure> {
    let (file, segment) = (segment.file().clone(), Some(segment.clone()));
    PAYLOADS.insert(Payload { file, segment })
}

/// The file of a payload, for as long as one likes.
///
/// # Safety
/// No other thread uses or releases the handle meanwhile.
pub(crate) unsafe fn file(frozen: *mut LanewayFrozen) -> Result<FrozenFile, Failure> {
    let mut file = None;
    let answer = |payload: &mut Payload| {
        file = Some(payload.file.clone());
        Ok(LanewayStatus::Ok)
    };
    // SAFETY: that one thread uses the handle is promised to this function.
    unsafe { PAYLOADS.with(frozen, answer) }?;
    file.ok_or_else(Failure::handle)
}

/// Makes memory for a payload of `len` bytes, 1 to 1 GiB, from 1 MiB on in 2 MiB pages if there are
/// any. It starts at `*bytes`, is all zeros, and is written there.
///
/// # Safety
/// `builder` and `bytes` may be written. `*bytes` is used until the freeze or the discard, and no
/// longer, for `len` bytes and no more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laneway_frozen_builder_new(
    len: usize,
    builder: *mut *mut LanewayFrozenBuilder,
    bytes: *mut *mut c_void,
) -> LanewayStatus {
    guarded(|| {
        // SAFETY: the places for `builder` and `bytes` are promised to this function.
        let (out, place) = unsafe { (Out::new(builder, "builder")?, Out::new(bytes, "bytes")?) };
        let mut made = FrozenBuilder::new(len)?;
        // The mapping stays where it is when its owner moves, and nothing here looks at it again.
        let start = made.bytes_mut().as_mut_ptr();
        out.set(BUILDERS.insert(made)?);
        place.set(start.cast());
        Ok(LanewayStatus::Ok)
    })
}

/// Takes the memory away from this process and seals it: nobody can write it any more. The builder
/// is closed, also where something in this process still writes the memory, and the answer is
/// `LANEWAY_STATUS_SYSTEM`.
///
/// # Safety
/// One thread at a time uses the handle. `frozen` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laneway_frozen_builder_freeze(
    builder: *mut LanewayFrozenBuilder,
    frozen: *mut *mut LanewayFrozen,
) -> LanewayStatus {
    guarded(|| {
        // SAFETY: the place for `frozen` is promised to this function, and that one thread uses the
        // handle.
        let (out, made) = unsafe { (Out::new(frozen, "frozen")?, BUILDERS.remove(builder)?) };
        out.set(PAYLOADS.insert(Payload { file: made.freeze()?, segment: None })?);
        Ok(LanewayStatus::Ok)
    })
}

/// Gives a builder up, and its memory back.
///
/// # Safety
/// One thread at a time uses the handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laneway_frozen_builder_discard(
    builder: *mut LanewayFrozenBuilder,
) -> LanewayStatus {
    guarded(|| {
        // SAFETY: that one thread uses the handle is promised to this function.
        unsafe { BUILDERS.remove(builder) }.map(drop)?;
        Ok(LanewayStatus::Ok)
    })
}

/// Tells where the payload's bytes are, and how many. Nobody changes them, whoever sent them; they
/// stay there until the release, and any thread may read them.
///
/// # Safety
/// One thread at a time uses the handle. `bytes` and `len` may be written. `*bytes` is read until
/// the release, and no longer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laneway_frozen_bytes(
    frozen: *mut LanewayFrozen,
    bytes: *mut *const c_void,
    len: *mut usize,
) -> LanewayStatus {
    guarded(|| {
        // SAFETY: the places for `bytes` and `len` are promised to this function, and that one
        // thread uses the handle.
        unsafe {
            let (place, len) = (Out::new(bytes, "bytes")?, Out::new(len, "len")?);
            PAYLOADS.with(frozen, |payload| payload.show(&place, &len))
        }
    })
}

/// Tells the size of the pages that the payload lies on, in bytes.
///
/// # Safety
/// One thread at a time uses the handle. `page_bytes` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laneway_frozen_page_bytes(
    frozen: *mut LanewayFrozen,
    page_bytes: *mut u64,
) -> LanewayStatus {
    guarded(|| {
        // SAFETY: the place for `page_bytes` is promised to this function, and that one thread uses
        // the handle.
        unsafe {
            let out = Out::new(page_bytes, "page_bytes")?;
            PAYLOADS.with(frozen, |payload| {
                out.set(payload.file.page_bytes());
                Ok(LanewayStatus::Ok)
            })
        }
    })
}

/// Closes the handle, and takes the payload's bytes away. The memory is free when every process has
/// done so; what was sent and not yet received stays for its receiver.
///
/// # Safety
/// One thread at a time uses the handle, and nobody reads the payload's bytes any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laneway_frozen_release(frozen: *mut LanewayFrozen) -> LanewayStatus {
    guarded(|| {
        // SAFETY: that one thread uses the handle is promised to this function.
        unsafe { PAYLOADS.remove(frozen) }.map(drop)?;
        Ok(LanewayStatus::Ok)
    })
}

impl Payload {
    fn show(&mut self, place: &Out<*const c_void>, len: &Out<usize>) -> Answer {
        let segment = match self.segment.take() {
            Some(segment) => segment,
            None => self.file.map()?,
        };
        let bytes = self.segment.insert(segment).as_bytes();
        place.set(bytes.as_ptr().cast());
        len.set(bytes.len());
        Ok(LanewayStatus::Ok)
    }
}
