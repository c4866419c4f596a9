//! Sleeping on words of a mapping, and waking who sleeps there.

use std::time::Duration;

use rustix::io::Errno;
use rustix::thread::futex::{Wait, WaitvFlags, waitv};
use rustix::time::{ClockId, Timespec, clock_gettime};

use crate::sync::AtomicU32;

/// Sleeps while the word is `expected`, at most `timeout`. May return early for no reason.
pub(crate) fn wait(word: &AtomicU32, expected: u32, timeout: Duration) {
    let spec = libc::timespec {
        tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: libc::c_long::from(timeout.subsec_nanos().cast_signed()),
    };
    // SAFETY:
    // - the reference proves the word mapped and aligned for the duration of the call; FUTEX_WAIT
    //   only reads it, so a read-only mapping serves;
    // - `spec` is a valid timespec for the duration of the call.
    // The result is ignored on purpose: woken, changed, interrupted and timed out all mean
    // "look again", and the caller does.
    let _ = unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, expected, &raw const spec)
    };
}

/// Wakes everybody who sleeps on the word.
pub(crate) fn wake(word: &AtomicU32) {
    // SAFETY: FUTEX_WAKE uses the address as a key and touches no memory; the reference proves
    // it mapped. Waking all, because any holder of a read-only mapping may sleep on the same word
    // and would steal a wake of one. A failure leaves nobody asleep that was not before.
    let _ = unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX) };
}

/// How a sleep on several words ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Woken {
    /// A word was rung or had changed, or a signal came.
    Early,
    /// Nothing happened in time.
    InTime,
    /// The kernel has no such sleep, or forbids it: nobody slept.
    Refused,
}

/// Sleeps while every one of the words is what was expected, at most `timeout`.
///
/// The kernel only reads the words, and refuses what is not mapped any more.
pub(crate) fn wait_any(words: &[Wait], timeout: Duration) -> Woken {
    let clock = ClockId::Monotonic;
    let now = clock_gettime(clock);
    let until = Timespec::try_from(timeout).ok().and_then(|timeout| now.checked_add(timeout));
    if words.is_empty() {
        return Woken::Refused;
    }
    match waitv(words, WaitvFlags::empty(), until.as_ref(), clock) {
        Ok(_) | Err(Errno::AGAIN | Errno::INTR) => Woken::Early,
        Err(Errno::TIMEDOUT) => Woken::InTime,
        Err(_) => Woken::Refused,
    }
}
