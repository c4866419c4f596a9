//! What processes cost, as the kernel counts it.

use std::fs;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::BenchError;
use crate::interrupt::Interrupt;

/// What one process has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Usage {
    /// Resident memory.
    pub(crate) rss_kib: u64,
    /// The same, with shared pages divided among those who map them.
    pub(crate) pss_kib: u64,
    /// Of the resident memory, what others map, too.
    pub(crate) shared_kib: u64,
    /// Open descriptors.
    pub(crate) fds: u64,
    /// Mappings.
    pub(crate) maps: u64,
}

/// The same for each lane.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Share {
    pub(crate) rss_bytes: f64,
    pub(crate) pss_bytes: f64,
    pub(crate) shared_bytes: f64,
    pub(crate) fds: f64,
    pub(crate) maps: f64,
}

impl Usage {
    /// Of a running process.
    pub(crate) fn of(pid: u32) -> Result<Self, BenchError> {
        let memory = read(&format!("/proc/{pid}/smaps_rollup"))?;
        let maps = read(&format!("/proc/{pid}/maps"))?.lines().count() as u64;
        let fds = format!("/proc/{pid}/fd");
        let fds = fs::read_dir(&fds).map_err(BenchError::io(fds))?.count() as u64;
        Ok(Self {
            rss_kib: field(&memory, "Rss:"),
            pss_kib: field(&memory, "Pss:"),
            shared_kib: field(&memory, "Shared_Clean:") + field(&memory, "Shared_Dirty:"),
            fds,
            maps,
        })
    }

    /// What each of `lanes` lanes costs, if without them it was `before`.
    pub(crate) fn share(&self, before: &Self, lanes: u32) -> Share {
        let each = |now: u64, before: u64| (now as f64 - before as f64) / f64::from(lanes);
        Share {
            rss_bytes: each(self.rss_kib, before.rss_kib) * 1024.0,
            pss_bytes: each(self.pss_kib, before.pss_kib) * 1024.0,
            shared_bytes: each(self.shared_kib, before.shared_kib) * 1024.0,
            fds: each(self.fds, before.fds),
            maps: each(self.maps, before.maps),
        }
    }
}

/// A process with attached lanes and nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Idle {
    pub(crate) lanes: u32,
    pub(crate) seconds: f64,
    /// Time on a cpu, of all its threads.
    pub(crate) cpu_us: f64,
    /// Times that a thread of it went to sleep: as many as it was woken.
    pub(crate) sleeps: u64,
}

/// Looks at an idle process for `time`.
pub(crate) fn idle(
    pid: u32,
    lanes: u32,
    time: Duration,
    interrupt: &Interrupt,
) -> Result<Idle, BenchError> {
    // What was asked of it last may not be finished.
    interrupt.sleep(time / 4)?;
    let start = Instant::now();
    let before = scheduled(pid)?;
    interrupt.sleep(time)?;
    let after = scheduled(pid)?;
    let cpu_us = after.0.saturating_sub(before.0) as f64 / 1e3;
    let sleeps = after.1.saturating_sub(before.1);
    Ok(Idle { lanes, seconds: start.elapsed().as_secs_f64(), cpu_us, sleeps })
}

/// Nanoseconds on a cpu and voluntary context switches of all threads.
fn scheduled(pid: u32) -> Result<(u64, u64), BenchError> {
    let tasks = format!("/proc/{pid}/task");
    let (mut nanos, mut sleeps) = (0, 0);
    for task in fs::read_dir(&tasks).map_err(BenchError::io(tasks))? {
        let task = task.map_err(BenchError::io("cannot list threads"))?.path();
        let times = read(&task.join("schedstat").display().to_string())?;
        let on_cpu = times.split(' ').next().and_then(|nanos| nanos.parse::<u64>().ok());
        nanos += on_cpu.unwrap_or(0);
        let status = read(&task.join("status").display().to_string())?;
        sleeps += field(&status, "voluntary_ctxt_switches:");
    }
    Ok((nanos, sleeps))
}

fn read(path: &str) -> Result<String, BenchError> {
    fs::read_to_string(path).map_err(BenchError::io(format!("cannot read {path}")))
}

/// A number in one of the kernel's lists of names and numbers; 0 where there is none.
fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|rest| rest.split_whitespace().next());
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_lists_are_read_as_it_writes_them() {
        let text = "Rss:      120 kB\nPss:\t  7 kB\nnonvoluntary_ctxt_switches:\t9\n";
        assert_eq!(field(text, "Rss:"), 120);
        assert_eq!(field(text, "Pss:"), 7);
        assert_eq!(field(text, "voluntary_ctxt_switches:"), 0);
    }

    #[test]
    fn this_process_has_memory_descriptors_and_mappings_and_a_further_file_is_one_more() {
        let before = Usage::of(std::process::id()).unwrap();
        assert!(before.rss_kib > 0 && before.fds > 2 && before.maps > 2, "{before:?}");
        let after = Usage { fds: before.fds + 12, maps: before.maps + 4, ..before };
        let share = after.share(&before, 2);
        assert_eq!((share.fds, share.maps, share.rss_bytes), (6.0, 2.0, 0.0));
    }
}
