//! The antagonists: processes that want the cores, the memory or the scheduler for themselves.
//!
//! Bounded in number and time. Each ends by itself, with its parent, and by its pid; none touches
//! anything outside of its own memory.

use std::process::{Child, ExitCode, Stdio};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::child;
use crate::error::BenchError;
use crate::interrupt::Interrupt;

/// Bytes that one antagonist of the memory copies to and fro: more than any cache holds.
const MEMORY_BYTES: usize = 64 << 20;
/// What one short task works.
const TASK: Duration = Duration::from_micros(50);
/// Short tasks that are born at once.
const TASKS: usize = 4;
/// How long antagonists run before anything is measured.
const WARM_UP: Duration = Duration::from_millis(50);

/// What runs beside a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Noise {
    /// Nothing
    Idle,
    /// A process for each cpu that computes without a pause
    Hogs,
    /// A process for each cpu that copies memory without a pause
    Memory,
    /// A process for each cpu that makes short threads without a pause
    Tasks,
    /// All of these at once
    Full,
}

impl Noise {
    pub(crate) const ALL: [Self; 5] =
        [Self::Idle, Self::Hogs, Self::Memory, Self::Tasks, Self::Full];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Hogs => "hogs",
            Self::Memory => "memory",
            Self::Tasks => "tasks",
            Self::Full => "full",
        }
    }

    fn kinds(self) -> &'static [Self] {
        match self {
            Self::Idle => &[],
            Self::Hogs => &[Self::Hogs],
            Self::Memory => &[Self::Memory],
            Self::Tasks => &[Self::Tasks],
            Self::Full => &[Self::Hogs, Self::Memory, Self::Tasks],
        }
    }
}

/// Running antagonists. They end when this is dropped.
#[derive(Debug)]
pub(crate) struct Makers {
    children: Vec<Child>,
}

impl Makers {
    /// Starts one of each kind for each of `cpus` cpus, which end after `longest` in any case.
    pub(crate) fn start(
        noise: Noise,
        cpus: usize,
        longest: Duration,
        interrupt: &Interrupt,
    ) -> Result<Self, BenchError> {
        let mut makers = Self { children: Vec::new() };
        for kind in noise.kinds() {
            for _ in 0..cpus {
                let mut command = child::command("noise-maker")?;
                command.args(["--kind", kind.as_str()]);
                command.args(["--millis", &longest.as_millis().to_string()]);
                let spawned = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
                makers.children.push(spawned.map_err(BenchError::io("cannot start a noise"))?);
            }
        }
        if !makers.children.is_empty() {
            interrupt.sleep(WARM_UP)?;
        }
        Ok(makers)
    }

    /// Whether all of them still ran at the end: otherwise it was not as loud as it is said.
    pub(crate) fn all_run(&mut self) -> bool {
        self.children.iter_mut().all(|child| matches!(child.try_wait(), Ok(None)))
    }
}

impl Drop for Makers {
    fn drop(&mut self) {
        for child in &mut self.children {
            // They have nothing to put away, and on a full machine politeness takes long.
            let _ = child.kill();
        }
        for child in &mut self.children {
            let _ = child.wait();
        }
    }
}

/// The hidden role `laneway-bench noise-maker`.
pub(crate) fn run(parent: Option<i32>, kind: Noise, millis: u64) -> Result<ExitCode, BenchError> {
    child::adopt(parent)?;
    let end = Instant::now() + Duration::from_millis(millis);
    match kind {
        Noise::Idle | Noise::Full => {}
        Noise::Hogs => compute(end),
        Noise::Memory => copy(end),
        Noise::Tasks => bear(end),
    }
    Ok(ExitCode::SUCCESS)
}

fn compute(end: Instant) {
    let mut number = 1u64;
    while Instant::now() < end {
        for _ in 0..4096 {
            number = std::hint::black_box(number.wrapping_mul(6_364_136_223_846_793_005) + 1);
        }
    }
}

fn copy(end: Instant) {
    let (mut from, mut to) = (vec![1u8; MEMORY_BYTES], vec![0u8; MEMORY_BYTES]);
    while Instant::now() < end {
        to.copy_from_slice(&from);
        std::mem::swap(std::hint::black_box(&mut from), &mut to);
    }
}

fn bear(end: Instant) {
    while Instant::now() < end {
        let tasks: Vec<_> = (0..TASKS)
            .filter_map(|_| {
                let work = || compute(Instant::now() + TASK);
                std::thread::Builder::new().spawn(work).ok()
            })
            .collect();
        for task in tasks {
            // It computes and cannot fail.
            let _ = task.join();
        }
    }
}
