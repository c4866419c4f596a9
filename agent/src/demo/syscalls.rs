//! Counting a worker's system calls between two marks, by tracing it.
//!
//! The kernel stops the traced process at every system call and nowhere else, so that a data path
//! without system calls runs at full speed. A mark is a SIGURG that the worker sends itself:
//! ignored by default, seen by the tracer.

use std::process::{Child, Command};
use std::thread::JoinHandle;

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpid};

use super::stage::Failure;

/// `op` of a stop at the entry of a system call (`PTRACE_SYSCALL_INFO_ENTRY`).
const ENTRY: u8 = 1;

/// Marks the start or the end of what is counted. Costs one system call, which is not counted.
pub(super) fn mark() {
    // A worker that nobody traces ignores the signal.
    let _ = kill(getpid(), Signal::SIGURG);
}

/// A traced worker's standard output and its system calls between the marks.
#[derive(Debug)]
pub struct Traced {
    /// What it printed.
    pub output: String,
    /// System calls, or why they could not be counted.
    pub calls: Result<u64, String>,
}

/// Runs a worker under the tracer, on a thread of its own: a tracer is a thread.
///
/// # Errors
/// In the thread: it was not started, or what it printed is no text.
pub fn run(mut command: Command) -> JoinHandle<Result<Traced, String>> {
    std::thread::spawn(move || {
        let mut child = command.spawn().map_err(|error| error.to_string())?;
        let calls = trace(&child);
        if calls.is_err() {
            // It was not stopped, or is let go: it runs on untraced.
            let _ = ptrace::detach(pid_of(&child), None);
        }
        let mut output = String::new();
        if let Some(mut pipe) = child.stdout.take() {
            std::io::Read::read_to_string(&mut pipe, &mut output).map_err(|e| e.to_string())?;
        }
        // The tracer may have reaped it already; what it printed tells how it went.
        let _ = child.wait();
        Ok(Traced { output, calls: calls.map_err(|errno| errno.to_string()) })
    })
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(child.id().cast_signed())
}

/// Follows the worker to its end, counting between the marks.
fn trace(child: &Child) -> Result<u64, Errno> {
    let pid = pid_of(child);
    ptrace::seize(pid, Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_EXITKILL)?;
    ptrace::interrupt(pid)?;
    let (mut marks, mut calls) = (0u32, 0u64);
    loop {
        let deliver = match waitpid(pid, Some(WaitPidFlag::__WALL))? {
            WaitStatus::PtraceSyscall(_) => {
                if marks == 1 && ptrace::syscall_info(pid)?.op == ENTRY {
                    calls += 1;
                }
                None
            }
            WaitStatus::Stopped(_, Signal::SIGURG) => {
                marks += 1;
                None
            }
            WaitStatus::Stopped(_, signal) => Some(signal),
            WaitStatus::Exited(..) | WaitStatus::Signaled(..) => break,
            _ => None,
        };
        ptrace::syscall(pid, deliver)?;
    }
    // The second mark's own call was entered while counting.
    if marks >= 2 { Ok(calls.saturating_sub(1)) } else { Err(Errno::ENODATA) }
}

/// A finished trace, with its output read as `T`.
pub(super) fn finish<T: serde::de::DeserializeOwned>(
    thread: JoinHandle<Result<Traced, String>>,
) -> Result<(T, Result<u64, String>), Failure> {
    let traced = thread.join().map_err(|_| "the tracer panicked")??;
    let parsed = serde_json::from_str(&traced.output)
        .map_err(|error| format!("a worker failed: {error}: {:?}", traced.output))?;
    Ok((parsed, traced.calls))
}
