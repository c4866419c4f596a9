//! Ctrl-C and SIGTERM as something to look at, so that every guard is dropped on the way out.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::error::BenchError;

/// The signals that end a benchmark, blocked and readable. Made before any thread is.
#[derive(Debug)]
pub(crate) struct Interrupt {
    signals: SignalFd,
}

impl Interrupt {
    /// Blocks the signals for this thread and all that it starts.
    pub(crate) fn new() -> Result<Self, BenchError> {
        let mut set = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            set.add(signal);
        }
        set.thread_block().map_err(BenchError::io("pthread_sigmask"))?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&set, flags).map_err(BenchError::io("signalfd"))?;
        Ok(Self { signals })
    }

    /// `Interrupted` if one of the signals came.
    pub(crate) fn check(&self) -> Result<(), BenchError> {
        match self.signals.read_signal() {
            Ok(None) => Ok(()),
            Ok(Some(_)) => Err(BenchError::Interrupted),
            Err(error) => Err(BenchError::io("signalfd")(error)),
        }
    }

    /// Waits until `other` can be read: false after `timeout`.
    pub(crate) fn readable(
        &self,
        other: BorrowedFd<'_>,
        timeout: Duration,
    ) -> Result<bool, BenchError> {
        let start = Instant::now();
        loop {
            let left = timeout.saturating_sub(start.elapsed());
            let millis = u16::try_from(left.as_millis()).unwrap_or(u16::MAX);
            let mut fds = [
                PollFd::new(other, PollFlags::POLLIN),
                PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            ];
            poll(&mut fds, PollTimeout::from(millis)).map_err(BenchError::io("poll"))?;
            self.check()?;
            if fds[0].any() == Some(true) {
                return Ok(true);
            }
            if start.elapsed() >= timeout {
                return Ok(false);
            }
        }
    }

    /// Sleeps, unless interrupted.
    pub(crate) fn sleep(&self, time: Duration) -> Result<(), BenchError> {
        let start = Instant::now();
        while start.elapsed() < time {
            self.check()?;
            std::thread::sleep(Duration::from_millis(10).min(time));
        }
        self.check()
    }
}
