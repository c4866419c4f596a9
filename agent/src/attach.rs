//! The workload's door: a SEQPACKET socket on which claims become segments.
//!
//! Knows sockets, deadlines and who is at the other end; decides nothing about lanes, which is
//! the controller's business. A hostile client can waste one connection until a deadline.

/// Says that a step of an attach is done. Nobody hears it but `laneway-bench control --steps`.
macro_rules! step {
    ($name:literal) => {
        tracing::trace!(name: $name, target: $crate::attach::STEPS, $name)
    };
}
pub(crate) use step;

pub mod listener;
mod pace;
pub mod peer;
mod session;

pub use listener::Listener;

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// What the steps of an attach are traced as.
pub const STEPS: &str = "laneway::attach";

/// A descriptor that the runtime watches.
#[expect(deprecated, reason = "its successor is an unsafe fn, for the sake of types that lie")]
fn registered(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, interest)
}
