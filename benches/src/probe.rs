//! The machine's own limit: one cache line from one cpu to another and back.
//!
//! Two pinned threads of one process; no ring moves data between two cores faster than this, so
//! it is both the yardstick of the latencies and the proof of where the cpus were.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use laneway_shm::pin::Pinned;

use crate::error::BenchError;
use crate::recorder::{Latency, Recorder};

/// Tells the other thread to end.
const STOP: u64 = u64::MAX;

/// A line that shares neither itself nor its prefetched neighbour with another one.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Line(AtomicU64);

/// One-way hand-over between the two cpus, measured for `time`.
pub(crate) fn hand_over(cpus: (u32, u32), time: Duration) -> Result<Latency, BenchError> {
    // A machine too busy for one round trip is of the class that says so.
    Ok(hand_over_by::<true>(cpus, time)?.unwrap_or_else(nothing))
}

/// The same by ends that pause between two looks, or do not; none if the time was too short.
pub(crate) fn hand_over_by<const PAUSE: bool>(
    cpus: (u32, u32),
    time: Duration,
) -> Result<Option<Latency>, BenchError> {
    let (ping, pong) = (Line::default(), Line::default());
    std::thread::scope(|scope| {
        let echo = scope.spawn(|| echo::<PAUSE>(cpus.1, &ping, &pong));
        let measured = scope.spawn(|| measure::<PAUSE>(cpus.0, time, &ping, &pong));
        let measured = joined(measured.join());
        // Whatever happened to the other one, this one must not spin for ever.
        ping.0.store(STOP, Ordering::Release);
        joined(echo.join())?;
        measured
    })
}

/// What happens between two looks.
#[inline(always)]
fn rest<const PAUSE: bool>() {
    if PAUSE {
        std::hint::spin_loop();
    }
}

fn measure<const PAUSE: bool>(
    cpu: u32,
    time: Duration,
    ping: &Line,
    pong: &Line,
) -> Result<Option<Latency>, BenchError> {
    let _pinned = pin(cpu)?;
    let mut recorder = Recorder::new(time);
    let mut turn = 0;
    loop {
        turn += 1;
        ping.0.store(turn, Ordering::Release);
        if !recorder.stamp() {
            return Ok(recorder.finish());
        }
        while pong.0.load(Ordering::Acquire) != turn {
            if pong.0.load(Ordering::Relaxed) == STOP {
                return Ok(None);
            }
            rest::<PAUSE>();
        }
    }
}

fn echo<const PAUSE: bool>(cpu: u32, ping: &Line, pong: &Line) -> Result<(), BenchError> {
    let pinned = pin(cpu);
    if pinned.is_err() {
        pong.0.store(STOP, Ordering::Release);
    }
    let _pinned = pinned?;
    let mut seen = 0;
    loop {
        let turn = ping.0.load(Ordering::Acquire);
        if turn == STOP {
            return Ok(());
        }
        if turn == seen {
            rest::<PAUSE>();
        } else {
            seen = turn;
            pong.0.store(turn, Ordering::Release);
        }
    }
}

/// Pins the calling thread.
pub(crate) fn pin(cpu: u32) -> Result<Pinned, BenchError> {
    Pinned::new(cpu).map_err(|source| BenchError::Pin { cpu, source })
}

/// A thread's result; its panic goes on in this thread.
pub(crate) fn joined<T>(result: std::thread::Result<T>) -> T {
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn nothing() -> Latency {
    let never = f64::from(u32::MAX);
    Latency {
        trips: 0,
        typical_ns: never,
        p50_ns: never,
        p90_ns: never,
        p99_ns: never,
        p999_ns: never,
        max_ns: never,
        wait_p99_ns: 0.0,
        curve: Vec::new(),
    }
}
