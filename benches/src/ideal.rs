//! What a whole payload takes from one cpu to another and back at best: written in place, read in
//! place, one turn word beside it, nothing checked and nobody protected.
//!
//! Two threads of one process share two desks. The yardstick of lanes that carry as many bytes.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::error::BenchError;
use crate::message::{Idle, STOP, Seen, fill, judge};
use crate::probe::{joined, pin};
use crate::queue::by_value;
use crate::recorder::{Figures, Latency, Recorder};

/// Sizes that are built, in bytes.
pub(crate) const SIZES: [usize; 5] = [64, 256, 1024, 4096, 65536];

/// Measures payloads of `bytes` bytes; nothing for a size that is not built.
pub(crate) fn measure(
    bytes: usize,
    cpus: (u32, u32),
    time: Duration,
) -> Result<Figures, BenchError> {
    let latency = by_value!(bytes, [64, 256, 1024, 4096, 65536],
        N => play::<N>(cpus, time), else Ok(None))?;
    Ok(Figures { latency, throughput: None })
}

/// A payload with the word that says whose turn it is, which shares its first line.
#[repr(C, align(128))]
struct Desk<const N: usize> {
    turn: AtomicU64,
    bytes: UnsafeCell<[u8; N]>,
}

/// The desk of each direction.
struct Desks<const N: usize> {
    there: Desk<N>,
    back: Desk<N>,
}

// SAFETY: the bytes of a desk are only touched in `initiate` and `respond`, whose comments say
// why never by both threads at a time.
unsafe impl<const N: usize> Sync for Desks<N> {}

impl<const N: usize> Desk<N> {
    fn new() -> Self {
        Self { turn: AtomicU64::new(0), bytes: UnsafeCell::new([0; N]) }
    }

    /// Waits until the desk is written for the `turn`th time; false at the end.
    fn wait(&self, turn: u64) -> Result<bool, BenchError> {
        let mut idle = Idle::default();
        loop {
            // Pairs with the Release in Desk::give [turn]: the bytes come before it.
            match self.turn.load(Ordering::Acquire) {
                found if found == turn => return Ok(true),
                STOP => return Ok(false),
                _ => idle.spin()?,
            }
        }
    }

    fn give(&self, turn: u64) {
        // Pairs with the Acquire in Desk::wait [turn].
        self.turn.store(turn, Ordering::Release);
    }
}

fn play<const N: usize>(cpus: (u32, u32), time: Duration) -> Result<Option<Latency>, BenchError> {
    let desks = Box::new(Desks::<N> { there: Desk::new(), back: Desk::new() });
    std::thread::scope(|scope| {
        let responding = scope.spawn(|| respond(&desks, cpus.1));
        let initiating = scope.spawn(|| initiate(&desks, cpus.0, time));
        let latency = joined(initiating.join());
        // Whatever happened to the initiator, the responder must not wait for it.
        desks.there.give(STOP);
        joined(responding.join())?;
        latency
    })
}

#[inline(never)]
fn initiate<const N: usize>(
    desks: &Desks<N>,
    cpu: u32,
    time: Duration,
) -> Result<Option<Latency>, BenchError> {
    let _pinned = pin(cpu)?;
    let mut recorder = Recorder::new(time);
    let mut turn = 0;
    loop {
        turn += 1;
        // SAFETY: the responder touches this desk only from the moment that it sees `turn` there
        // until it has given the other desk for that turn, which was seen below.
        fill(unsafe { &mut *desks.there.bytes.get() }, turn);
        desks.there.give(turn);
        let go_on = recorder.stamp();
        if !desks.back.wait(turn)? || !go_on {
            return Ok(recorder.finish());
        }
        // SAFETY: given for this turn, and not written again before the next one is given.
        judge(unsafe { &*desks.back.bytes.get() }, N, turn)?;
    }
}

#[inline(never)]
fn respond<const N: usize>(desks: &Desks<N>, cpu: u32) -> Result<(), BenchError> {
    let pinned = pin(cpu);
    if pinned.is_err() {
        desks.back.give(STOP);
    }
    let _pinned = pinned?;
    let mut turn = 0;
    loop {
        turn += 1;
        if !desks.there.wait(turn)? {
            return Ok(());
        }
        // SAFETY: given for this turn; the initiator writes it again only after it has seen the
        // other desk given below.
        if judge(unsafe { &*desks.there.bytes.get() }, N, turn)? == Seen::Stop {
            return Ok(());
        }
        // SAFETY: the initiator touches this desk only from the moment that it sees `turn` there
        // until it has given the first one for the next turn, which was seen above.
        fill(unsafe { &mut *desks.back.bytes.get() }, turn);
        desks.back.give(turn);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_that_is_named_is_built() {
        for bytes in SIZES {
            // On a busy machine a short time may pass without a single turn.
            let mut times = (0..6).map(|doubled| Duration::from_millis(20 << doubled));
            let mut measured = |time| match measure(bytes, (0, 1), time) {
                Ok(figures) => figures.latency.is_some(),
                Err(error) => {
                    println!("SKIPPED: cpus 0 and 1 are not to be had: {error}");
                    true
                }
            };
            assert!(times.any(&mut measured), "{bytes}");
        }
    }
}
