//! The seam: the one file that names atomics. Everyone else imports from here.
//!
//! Only mapped memory uses them. The ring itself is generic over memory, so that its tests run it
//! on modelled atomics without touching this file.

pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, compiler_fence, fence};

/// A pause for a spinning thread: halves the latency of neighbouring hardware threads.
#[inline]
pub(crate) fn spin_hint() {
    std::hint::spin_loop();
}
