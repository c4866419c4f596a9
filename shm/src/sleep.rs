//! One sleep of one reader over several rings.
//!
//! As a sleep over one (see `Reader::park`), with each step taken for all rings before the next
//! one: announced in each, one fence for all, one more look at each (or looks for a while, where a
//! ring's fence may have missed a cpu), and then on all bells at once.

use std::time::Duration;

use crate::memory::{Memory, OwnedMemory};
use crate::reader::Reader;
use crate::ring::UNJOINED_SLEEP;

/// Longest sleep while a lane has no producer: its first one rings no bell.
const ABSENT_SLEEP: Duration = Duration::from_millis(10);
/// Words that the kernel sleeps on at once (`FUTEX_WAITV_MAX`).
pub(crate) const BELLS_MAX: usize = 128;

/// Sleeps until something is committed in one of the rings, at most `limit`; true if it ended
/// before its time. May return early.
///
/// `wait` sleeps while every producer's bell has the value beside it, at most as long as it is
/// told, and says whether that ended before its time. There may be rings without a bell: they
/// shorten the sleep.
pub fn sleep_on_all<P: Memory, C: OwnedMemory>(
    rings: &mut [&mut Reader<P, C>],
    limit: Duration,
    wait: impl FnOnce(&[(&P, u32)], Duration) -> bool,
) -> bool {
    let rungs: Vec<u32> = rings.iter_mut().map(|ring| ring.announce_sleep(0)).collect();
    // One fence stands for all; a heavy one also does what the light ones need.
    let first = rings.iter().find(|ring| ring.is_heavy()).or_else(|| rings.first());
    if let Some(ring) = first {
        ring.fence_sleep();
    }
    // Before the looks: what was committed before a producer noticed us is found by the look, and
    // what it commits from then on it rings for.
    let limit = rings.iter().fold(limit, |limit, ring| limit.min(longest(ring)));
    let nothing = || rings.iter().all(|ring| ring.finds_nothing());
    let woken = !first.map_or_else(nothing, |ring| ring.stays(nothing)) || {
        let (bells, limit) = bells(rings, &rungs, limit);
        wait(&bells, limit)
    };
    rings.iter_mut().for_each(|ring| ring.end_sleep());
    woken
}

/// How long a sleep may be for what this ring's producer could not ring for.
fn longest<P: Memory, C: OwnedMemory>(ring: &Reader<P, C>) -> Duration {
    match ring.peer() {
        None => ABSENT_SLEEP,
        Some(_) if ring.is_noticed() => Duration::MAX,
        Some(_) => UNJOINED_SLEEP,
    }
}

/// The bells to sleep on, and for how long at most.
fn bells<'r, P: Memory, C: OwnedMemory>(
    rings: &'r [&mut Reader<P, C>],
    rungs: &[u32],
    mut limit: Duration,
) -> (Vec<(&'r P, u32)>, Duration) {
    let mut bells = Vec::with_capacity(rungs.len());
    for (ring, rung) in rings.iter().zip(rungs) {
        match ring.peer() {
            Some(peer) if bells.len() < BELLS_MAX => bells.push((peer, *rung)),
            Some(_) => limit = limit.min(UNJOINED_SLEEP),
            None => {}
        }
    }
    (bells, limit)
}
