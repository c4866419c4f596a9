//! What the multi-process tests share: a real agent in its own directory, clients, pools.
//!
//! Everything here cleans up after itself, also when a test panics.

use std::sync::{Mutex, MutexGuard, PoisonError};

pub mod agent;
pub mod bindings;
pub mod cpusets;
pub mod documents;
pub mod fuzz;
pub mod hugepages;
pub mod process;

/// A test that truly cannot run here says so. In CI nothing may be skipped.
///
/// # Panics
/// When the environment variable `CI` is set.
pub fn skipped(test: &str, why: &str) {
    println!("SKIPPED {test}: {why}");
    assert!(std::env::var_os("CI").is_none(), "{test} may not be skipped in CI: {why}");
}

/// One test of a binary at a time: ends that spin need the cores for themselves.
///
/// Cargo runs test binaries one after the other, so that a turn holds for the whole machine.
pub fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    // A test that failed in its turn leaves nothing that the next one could trip over.
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether this process may do what only root may.
#[must_use]
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}
