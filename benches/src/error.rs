//! What can go wrong, and what to do about it.

use std::io;
use std::time::Duration;

use thiserror::Error;

/// Why a benchmark ended without figures.
#[derive(Debug, Error)]
pub(crate) enum BenchError {
    /// Fewer than two cpus.
    #[error(
        "this process may run on cpu {allowed:?} only; two are needed: widen its affinity, \
         for instance with `taskset -c 0,1`"
    )]
    Cpus {
        /// What the affinity mask holds.
        allowed: Vec<u32>,
    },
    /// A cpu outside the mask.
    #[error("cpu {cpu} is not in this process's affinity mask {allowed:?}; choose two of these")]
    Cpu {
        /// The cpu that was asked for.
        cpu: u32,
        /// What the mask holds.
        allowed: Vec<u32>,
    },
    /// Pinning failed.
    #[error("cannot pin to cpu {cpu}: {source}; choose another with --cpus")]
    Pin {
        /// The cpu.
        cpu: u32,
        /// The kernel's word.
        source: io::Error,
    },
    /// A size that no lane has.
    #[error("{0}; choose other --sizes")]
    Size(#[from] laneway_shm::SegmentError),
    /// The agent ended or never listened.
    #[error("the agent {what}; its last lines were:\n{log}")]
    Agent {
        /// What it did.
        what: String,
        /// Tail of its log.
        log: String,
    },
    /// The agent refused.
    #[error(
        "`laneway {command}` was refused: {message}; `laneway doctor` tells what works here, \
         and `--page-size 4KiB` needs no hugepages"
    )]
    Refused {
        /// The command line.
        command: String,
        /// What it printed.
        message: String,
    },
    /// A worker failed.
    #[error("the {side} worker failed: {message}")]
    Worker {
        /// Which one.
        side: &'static str,
        /// What it said.
        message: String,
    },
    /// A worker said nothing.
    #[error("the {side} worker gave no answer for {waited:?}; is the machine overloaded?")]
    Silent {
        /// Which one.
        side: &'static str,
        /// For how long.
        waited: Duration,
    },
    /// A message that is not the one that was sent.
    #[error("message {expected} arrived as {found}, {len} bytes: the data is wrong, not slow")]
    Message {
        /// Its number.
        expected: u64,
        /// The number found in it.
        found: u64,
        /// Its length.
        len: usize,
    },
    /// The peer of a measurement is gone.
    #[error("the other end is gone, or fell silent for {0:?}")]
    Peer(Duration),
    /// Attach.
    #[error("attach failed: {0}")]
    Attach(#[from] laneway_shm::AttachError),
    /// The lane, as a producer.
    #[error("sending failed: {0}")]
    Send(#[from] laneway_shm::ReserveError),
    /// The lane, as a consumer.
    #[error("receiving failed: {0}")]
    Receive(#[from] laneway_shm::RecvError),
    /// A call of the control API, or of its yardstick.
    #[error("{what}: {why}")]
    Call {
        /// What was called.
        what: &'static str,
        /// What came of it.
        why: String,
    },
    /// Something between the processes of this benchmark.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// The kernel's word.
        source: io::Error,
    },
    /// Text between the processes that is not what it should be.
    #[error("{what} is not understood: {source}; are these two builds of the program?")]
    Json {
        /// Which text.
        what: &'static str,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A file that is no report.
    #[error(
        "{} is no report that can be shown: {why}; make one with `run --json`",
        path.display()
    )]
    Input {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A command of another build.
    #[cfg(not(feature = "rivals"))]
    #[error(
        "this build has no rivals to compare with; \
         `cargo run --release -p laneway-benches --features rivals -- compare` builds them"
    )]
    NoRivals,
    /// A rival could not do its work.
    #[cfg(feature = "rivals")]
    #[error("{what}: {why}")]
    Rival {
        /// What was tried.
        what: &'static str,
        /// What the rival said.
        why: String,
    },
    /// The process that started this one is gone.
    #[error("the process that started this one is gone")]
    Orphan,
    /// Ctrl-C or SIGTERM.
    #[error("interrupted; everything was put away")]
    Interrupted,
}

impl BenchError {
    /// For `map_err`: the kernel's error with what was tried.
    pub(crate) fn io<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source: source.into() }
    }

    /// For `map_err`: a rival's own error.
    #[cfg(feature = "rivals")]
    pub(crate) fn rival<E: std::fmt::Debug>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self::Rival { what, why: format!("{error:?}") }
    }

    /// For `map_err`: a text that is no such value.
    pub(crate) fn json(what: &'static str) -> impl FnOnce(serde_json::Error) -> Self {
        move |source| Self::Json { what, source }
    }
}
