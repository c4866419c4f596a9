//! The seam: the one file that names atomics. Everyone else imports from here.
//!
//! Mapped memory always uses the real ones; the heap memory of the tests uses loom's under
//! `--cfg loom`, so that the same ring is explored exhaustively.

pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// A pause for a spinning thread: halves the latency of neighbouring hardware threads.
#[inline]
pub(crate) fn spin_hint() {
    std::hint::spin_loop();
}
