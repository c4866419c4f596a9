//! Pinning the calling thread, and giving its old affinity back.
//!
//! Cooperative: the thread pins itself inside its own cpuset and needs no privilege. Knows
//! nothing of who granted the core.

use std::io;
use std::thread::{self, ThreadId};

use nix::sched::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;

/// A pinned thread. Dropping it on that thread restores the affinity from before.
#[derive(Debug)]
pub struct Pinned {
    /// Known without a system call, unlike the kernel's number.
    thread: ThreadId,
    cpu: u32,
    original: CpuSet,
    drifts: u64,
}

impl Pinned {
    /// Pins the calling thread to `cpu`.
    ///
    /// # Errors
    /// `EINVAL` if the cpu does not exist or lies outside the thread's cpuset.
    pub fn new(cpu: u32) -> io::Result<Self> {
        let original = sched_getaffinity(current())?;
        set(cpu)?;
        Ok(Self { thread: thread::current().id(), cpu, original, drifts: 0 })
    }

    /// The granted cpu.
    #[must_use]
    pub fn cpu(&self) -> u32 {
        self.cpu
    }

    /// Goes back to the granted cpu if the thread runs elsewhere; counts how often it did.
    ///
    /// A cpuset that shrank under the thread moves it silently; nothing else tells us.
    pub fn check(&mut self) -> Option<u64> {
        if thread::current().id() != self.thread || running_on() == Some(self.cpu) {
            return None;
        }
        self.drifts += 1;
        // Outside the cpuset there is nothing to do but count and tell.
        let _ = set(self.cpu);
        Some(self.drifts)
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if thread::current().id() == self.thread {
            // The old mask may have left the cpuset meanwhile; the kernel then keeps ours.
            let _ = sched_setaffinity(current(), &self.original);
        }
    }
}

/// The cpu that the calling thread runs on, if the kernel tells.
#[must_use]
pub fn running_on() -> Option<u32> {
    sched_getcpu().ok().and_then(|cpu| u32::try_from(cpu).ok())
}

fn set(cpu: u32) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu as usize)?;
    Ok(sched_setaffinity(current(), &set)?)
}

/// Pid 0 means the calling thread to the scheduler's calls.
fn current() -> Pid {
    Pid::from_raw(0)
}
