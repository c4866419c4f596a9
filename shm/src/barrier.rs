//! The asymmetric fence between processes: whoever goes to sleep pays for both sides.
//!
//! An end that publishes must order its store before its look at the peer's parked word, which is
//! a full fence for each message (about 12 ns: `docs/measurements.md`). Linux can run that fence
//! on every cpu of the registered processes from outside (`membarrier(2)`, since 4.16); the
//! sleeper, which is about to lose microseconds anyway, asks for it. Each function answers whether
//! the kernel allows it, so that an end falls back to fences of its own where it does not.
//!
//! A cpu can be missed. Linux keeps for each of them whether the memory map that it runs is
//! registered, and a cpu that idles over ours while we register keeps saying no until it has run
//! another process (seen on 6.18: docs/measurements.md, "Waiting"). So a sleep that relies on this
//! is bounded, and begins with looks for as long as a store may be on its way: `Reader::stays`.

use std::sync::OnceLock;

use rustix::thread::{MembarrierCommand, membarrier};

/// Lets sleepers of other processes run fences on the cpus of this one. False if refused.
///
/// The price: any local process can then interrupt those cpus for about a microsecond.
pub(crate) fn register() -> bool {
    static REGISTERED: OnceLock<bool> = OnceLock::new();
    *REGISTERED.get_or_init(|| membarrier(MembarrierCommand::RegisterGlobalExpedited).is_ok())
}

/// Whether [`run`] works here.
pub(crate) fn works() -> bool {
    static WORKS: OnceLock<bool> = OnceLock::new();
    *WORKS.get_or_init(run)
}

/// A full fence here and on every cpu that runs a registered process. False if refused.
pub(crate) fn run() -> bool {
    membarrier(MembarrierCommand::GlobalExpedited).is_ok()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::pin::Pinned;
    use crate::pin::tests::allowed;
    use crate::sync::{AtomicU64, Ordering, compiler_fence, fence};

    const ROUNDS: u64 = 20_000;

    /// Has every cpu run another process since [`register`]: none is missed from then on.
    fn leave_every_cpu() {
        for cpu in allowed() {
            let _pinned = Pinned::new(cpu).unwrap();
            // The child is where its parent is.
            assert!(std::process::Command::new("true").status().unwrap().success());
        }
    }

    /// Two threads store their own word and then look at the other's, at the same moment.
    /// Returns how often neither saw the other's store.
    fn both_missed(light: fn(), heavy: fn()) -> usize {
        let words = [AtomicU64::new(0), AtomicU64::new(0)];
        let start = AtomicU64::new(0);
        let cpus = allowed();
        let side = |mine: usize, between: fn()| {
            // Apart, so that both run at once.
            let _pinned = Pinned::new(cpus[mine % cpus.len()]).unwrap();
            let mut seen = Vec::new();
            for round in 1..=ROUNDS {
                // Both arrive before either goes on.
                start.fetch_add(1, Ordering::SeqCst);
                while start.load(Ordering::SeqCst) < 2 * round {
                    std::hint::spin_loop();
                }
                words[mine].store(round, Ordering::Relaxed);
                between();
                seen.push(words[1 - mine].load(Ordering::Relaxed) == round);
            }
            seen
        };
        let (first, second) = std::thread::scope(|scope| {
            let first = scope.spawn(|| side(0, light));
            (side(1, heavy), first.join().unwrap())
        });
        first.iter().zip(second).filter(|&(first, second)| !first && !second).count()
    }

    #[test]
    fn a_sleeper_that_pays_for_both_never_misses_what_a_light_fence_let_pass() {
        if !register() || !works() {
            eprintln!("SKIPPED: the kernel refuses membarrier(2) here");
            return;
        }
        if allowed().len() == 1 {
            eprintln!("SKIPPED: on one cpu nobody misses anything");
            return;
        }
        leave_every_cpu();
        let light = || compiler_fence(Ordering::SeqCst);
        assert_eq!(both_missed(light, || assert!(run(), "membarrier worked before")), 0);
        assert_eq!(both_missed(|| fence(Ordering::SeqCst), || fence(Ordering::SeqCst)), 0);
        // Only where both threads run at once, which a busy machine may not let them for a while.
        let (start, patience) = (Instant::now(), Duration::from_secs(60));
        let mut found = false;
        while !found && start.elapsed() < patience {
            found = both_missed(light, light) > 0;
        }
        assert!(found, "two light fences miss each other: this test would notice");
    }
}
