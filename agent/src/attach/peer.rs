//! Who is at the other end of a socket, by the kernel's word alone.
//!
//! Never a bare pid: a pidfd tells the death, and pid with start time is what the journal keeps.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::socket::{getsockopt, sockopt};
use tokio::io::Interest;

use super::registered;
use crate::model::lane::PeerRecord;
use crate::provision::cpu::start_time;

/// A process at the other end.
#[derive(Debug)]
pub struct Peer {
    /// What the journal keeps.
    pub record: PeerRecord,
    /// Readable when the process has ended. `None` before Linux 6.5: then only a hang-up tells.
    pub pidfd: Option<OwnedFd>,
}

/// Identifies the process that connected.
///
/// # Errors
/// The kernel does not tell, for instance because the client is gone already.
pub fn identify(socket: impl AsFd) -> io::Result<Peer> {
    let credentials = getsockopt(&socket, sockopt::PeerCredentials)?;
    let pidfd = getsockopt(&socket, sockopt::PeerPidfd).ok();
    // Pid 0 is a process in a pid namespace that this agent cannot see.
    let process = Some(credentials.pid())
        .filter(|pid| *pid > 0)
        .and_then(|pid| Some((pid, start_time(pid)?)));
    let record = PeerRecord { uid: credentials.uid(), gid: credentials.gid(), process };
    Ok(Peer { record, pidfd })
}

/// Waits until the process behind a pidfd has ended.
///
/// # Errors
/// The descriptor cannot be watched.
pub async fn ended(pidfd: OwnedFd) -> io::Result<()> {
    let watched = registered(pidfd, Interest::READABLE)?;
    watched.readable().await.map(|_| ())
}

/// A pidfd for a process that the journal names, if it is still that process.
///
/// # Errors
/// The process is gone, or its pid belongs to another one now.
pub fn reopen(pid: i32, started: u64) -> io::Result<OwnedFd> {
    let not_found = || io::Error::from(io::ErrorKind::NotFound);
    let pid_checked = rustix::process::Pid::from_raw(pid).ok_or_else(not_found)?;
    let pidfd = rustix::process::pidfd_open(pid_checked, rustix::process::PidfdFlags::empty())?;
    // The pidfd first, the start time second: the pid cannot change its process in between.
    if start_time(pid) == Some(started) { Ok(pidfd) } else { Err(not_found()) }
}
