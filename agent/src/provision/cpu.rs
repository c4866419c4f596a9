//! Affinity of other processes' threads, for lanes whose pinning the agent enforces.
//!
//! Needs CAP_SYS_NICE for threads of other users, and a pid namespace in which the peer is
//! visible. A thread is known by the number it has in its own namespace, so that a container's
//! thread 1 is found whatever number it has here.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::io::Read;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::plan::SegmentKey;

/// Threads that were pinned, with their affinity from before.
#[derive(Debug, Default)]
pub struct Threads {
    pinned: HashMap<SegmentKey, PinnedThread>,
}

#[derive(Clone, Copy, Debug)]
struct PinnedThread {
    tid: Pid,
    original: CpuSet,
    only: CpuSet,
}

impl Threads {
    /// Pins a thread of `pid` that calls itself `thread`.
    ///
    /// # Errors
    /// `ESRCH` if there is no such thread, `EPERM` without the privilege, `EINVAL` if the cpu
    /// lies outside its cpuset.
    pub fn pin(&mut self, key: SegmentKey, pid: i32, thread: u32, cpu: u32) -> io::Result<()> {
        let tid = host_thread(pid, thread)?;
        let original = sched_getaffinity(tid)?;
        let mut only = CpuSet::new();
        only.set(cpu as usize)?;
        sched_setaffinity(tid, &only)?;
        self.pinned.insert(key, PinnedThread { tid, original, only });
        Ok(())
    }

    /// Gives a thread its old affinity back. A thread that is gone needs nothing.
    pub fn unpin(&mut self, key: SegmentKey) {
        if let Some(PinnedThread { tid, original, .. }) = self.pinned.remove(&key) {
            let _ = sched_setaffinity(tid, &original);
        }
    }

    /// Puts threads back that somebody moved, and names them. A thread that is gone is not moved.
    pub fn repair(&mut self) -> Vec<SegmentKey> {
        let moved = self.pinned.iter().filter(|(_, thread)| {
            sched_getaffinity(thread.tid).is_ok_and(|found| found != thread.only)
        });
        let moved: Vec<SegmentKey> = moved.map(|(key, _)| *key).collect();
        for thread in moved.iter().filter_map(|key| self.pinned.get(key)) {
            // A cpuset without the core leaves the thread where it is: it is counted all the same.
            let _ = sched_setaffinity(thread.tid, &thread.only);
        }
        moved
    }
}

/// The number that a thread has here, from the one that it has in its own pid namespace.
pub(super) fn host_thread(pid: i32, thread: u32) -> io::Result<Pid> {
    let wanted = thread.to_string();
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        let entry = entry?;
        let Ok(status) = fs::read_to_string(entry.path().join("status")) else {
            continue;
        };
        let innermost = status
            .lines()
            .find_map(|line| line.strip_prefix("NSpid:"))
            .and_then(|numbers| numbers.split_whitespace().last());
        let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if let (true, Some(number)) = (innermost == Some(wanted.as_str()), number) {
            return Ok(Pid::from_raw(number));
        }
    }
    Err(nix::Error::ESRCH.into())
}

/// When a process started, in clock ticks since boot: with the pid, its identity in this boot.
#[must_use]
pub fn start_time(pid: i32) -> Option<u64> {
    // One read: the kernel makes the whole line for each, and what is wanted is at its beginning.
    let mut line = [0; 1024];
    let read = File::open(format!("/proc/{pid}/stat")).ok()?.read(&mut line).ok()?;
    // The command name may contain anything; the last ')' ends it.
    let end = line[..read].iter().rposition(|byte| *byte == b')')?;
    let after = std::str::from_utf8(&line[end + 1..read]).ok()?;
    after.split_whitespace().nth(19)?.parse().ok()
}
