//! Waiting without the interpreter's lock, in slices, so that Ctrl-C and other threads get their
//! turn; and an end that one thread at a time uses.

use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::error;

/// Longest time without a look at signals.
const SLICE: Duration = Duration::from_millis(100);

/// A time in seconds; `None` waits for ever.
pub(crate) fn timeout(seconds: Option<f64>) -> PyResult<Duration> {
    match seconds {
        None => Ok(Duration::MAX),
        Some(seconds) if seconds == f64::INFINITY => Ok(Duration::MAX),
        Some(seconds) => Duration::try_from_secs_f64(seconds)
            .map_err(|_| PyValueError::new_err("a timeout is a number of seconds from 0 on")),
    }
}

/// Tries again, slice by slice, until an attempt says something else than that time ran out.
///
/// An attempt runs without the interpreter's lock; `Ok(None)` means that its slice is over.
pub(crate) fn in_slices<T: Send, E: Send>(
    py: Python<'_>,
    timeout: Duration,
    mut attempt: impl FnMut(Duration) -> Result<Option<T>, E> + Send,
) -> PyResult<Option<Result<T, E>>> {
    let start = Instant::now();
    loop {
        let left = timeout.saturating_sub(start.elapsed());
        match py.detach(|| attempt(left.min(SLICE))) {
            Ok(Some(done)) => return Ok(Some(Ok(done))),
            Ok(None) => {}
            Err(error) => return Ok(Some(Err(error))),
        }
        py.check_signals()?;
        if start.elapsed() >= timeout {
            return Ok(None);
        }
    }
}

/// How many forks lie between this process and the first that loaded the module.
static FORKS: AtomicU64 = AtomicU64::new(0);

/// Called by the interpreter in a child that was forked.
#[pyfunction]
pub(crate) fn forked() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

/// An end until it is closed, in the process that attached it: a forked child has none of the
/// lane's memory, and must not touch it even to let go.
pub(crate) struct Held<T> {
    end: Mutex<Option<T>>,
    forks: u64,
}

impl<T> Held<T> {
    pub(crate) fn new(end: T) -> Self {
        Self { end: Mutex::new(Some(end)), forks: FORKS.load(Ordering::Relaxed) }
    }

    fn is_ours(&self) -> bool {
        self.forks == FORKS.load(Ordering::Relaxed)
    }

    /// The end, for the calling thread alone.
    pub(crate) fn lock(&self, py: Python<'_>) -> PyResult<MutexGuard<'_, Option<T>>> {
        if !self.is_ours() {
            let text = "this end belongs to the parent process: attach anew after a fork";
            return Err(error::other(py, text));
        }
        match self.end.try_lock() {
            Ok(end) => Ok(end),
            Err(TryLockError::WouldBlock) => {
                Err(error::other(py, "another thread uses this end: one at a time may"))
            }
            Err(TryLockError::Poisoned(_)) => {
                Err(error::other(py, "the library panicked, which is a bug; this end is lost"))
            }
        }
    }
}

impl<T> Drop for Held<T> {
    fn drop(&mut self) {
        if !self.is_ours() {
            let end = self.end.get_mut().unwrap_or_else(PoisonError::into_inner);
            let _untouched = ManuallyDrop::new(end.take());
        }
    }
}

/// The end, if it is still open.
pub(crate) fn open<'a, T>(
    py: Python<'_>,
    end: &'a mut MutexGuard<'_, Option<T>>,
) -> PyResult<&'a mut T> {
    end.as_mut().ok_or_else(|| error::other(py, "this end is closed"))
}
