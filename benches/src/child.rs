//! This program as a child of itself: how it is started, and how it ends with its parent.
//!
//! Children get a process group of their own, so that Ctrl-C reaches the parent alone and it can
//! put them away in order; if the parent is killed, the kernel tells them (`PR_SET_PDEATHSIG`).

use std::process::{Child, Command};
use std::time::{Duration, Instant};

use std::os::unix::process::CommandExt;

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::{Pid, getpid, getppid};

use crate::error::BenchError;

/// How long a child gets to end by itself.
const GRACE: Duration = Duration::from_secs(10);

/// A command that runs this program in the hidden role `role`.
pub(crate) fn command(role: &str) -> Result<Command, BenchError> {
    let program = std::env::current_exe().map_err(BenchError::io("cannot find this program"))?;
    let mut command = Command::new(program);
    command.args([role, "--parent", &getpid().to_string()]);
    command.process_group(0);
    Ok(command)
}

/// What a hidden role does first: end when the parent does, and hear signals again.
pub(crate) fn adopt(parent: Option<i32>) -> Result<(), BenchError> {
    // The parent blocks signals to read them from a descriptor; children inherit the mask.
    SigSet::empty().thread_set_mask().map_err(BenchError::io("pthread_sigmask"))?;
    let Some(parent) = parent else { return Ok(()) };
    set_pdeathsig(Signal::SIGTERM).map_err(BenchError::io("prctl(PR_SET_PDEATHSIG)"))?;
    // It may have died before the call above; then nobody sends the signal any more.
    if getppid() == Pid::from_raw(parent) { Ok(()) } else { Err(BenchError::Orphan) }
}

/// Asks a child to end, waits, and insists after a while.
pub(crate) fn end(child: &mut Child) {
    let Ok(pid) = i32::try_from(child.id()) else {
        return;
    };
    let start = Instant::now();
    // A child that is gone already is what we want; it was not reaped, so the id is still its.
    if !matches!(child.try_wait(), Ok(None)) {
        return;
    }
    let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    while matches!(child.try_wait(), Ok(None)) {
        if start.elapsed() > GRACE {
            let _ = child.kill();
            let _ = child.wait();
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
