//! The list of a broadcast lane's readers in the producer's control page, and the word of each
//! reader that it has left.
//!
//! The producer writes the list, rarely; a reader looks for its own number there, and finds the
//! exact position from which on the producer counts with it. Like everything in shared memory, an
//! entry is what its writer says and no more.

use crate::layout::{
    C_LEFT, P_READERS, R_GIVEN_UP_AT, R_JOINED_AT, R_REASON, READER_BYTES, READERS_MAX,
};
use crate::memory::{Memory, OwnedMemory};

/// Why a producer gave a reader up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It was further behind than the lane allows.
    Behind,
    /// Its cursor was a lie.
    Lied,
}

/// A reader's entry, as a private copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Offset of the entry, where its reader's number stands.
    pub offset: usize,
    /// Position from which on the producer counts with the reader.
    pub joined_at: u64,
}

/// Offset of the entry number `index`.
fn offset_of(index: usize) -> usize {
    P_READERS + index * READER_BYTES
}

/// Looks for a reader's entry in the producer's segment `peer`. Numbers start at 1.
pub fn find(peer: &impl Memory, number: u64) -> Option<Entry> {
    (0..READERS_MAX).map(offset_of).find_map(|offset| {
        // Pairs with the Release in roster::enter [join]: the position comes before the number.
        (peer.load_acquire(offset) == number)
            .then(|| Entry { offset, joined_at: peer.load_acquire(offset + R_JOINED_AT) })
    })
}

/// Whether the producer gave up the reader whose entry is at `offset`: why, and what was
/// committed then.
pub fn given_up(peer: &impl Memory, offset: usize) -> Option<(Reason, u64)> {
    // Pairs with the Release in roster::give_up [gone].
    let reason = match peer.load_acquire(offset + R_REASON) {
        0 => return None,
        1 => Reason::Behind,
        _ => Reason::Lied,
    };
    Some((reason, peer.load_acquire(offset + R_GIVEN_UP_AT)))
}

/// Enters a reader at a free `index`.
pub(crate) fn enter(own: &impl OwnedMemory, index: usize, number: u64, joined_at: u64) {
    let offset = offset_of(index);
    own.store_relaxed(offset + R_JOINED_AT, joined_at);
    own.store_relaxed(offset + R_GIVEN_UP_AT, 0);
    own.store_relaxed(offset + R_REASON, 0);
    // Pairs with the Acquire in roster::find [join].
    own.store_release(offset, number);
}

/// Writes down that a reader was given up when `at` was committed.
pub(crate) fn give_up(own: &impl OwnedMemory, index: usize, reason: Reason, at: u64) {
    let offset = offset_of(index);
    own.store_relaxed(offset + R_GIVEN_UP_AT, at);
    let word = match reason {
        Reason::Behind => 1,
        Reason::Lied => 2,
    };
    // Pairs with the Acquire in roster::given_up [gone]: before any slot of it is written again.
    own.store_release(offset + R_REASON, word);
}

/// Says that the reader of the segment `own` has left: the producer may write over whatever it
/// could read.
pub(crate) fn leave(own: &impl OwnedMemory) {
    // Pairs with the Acquire in roster::has_left [left]: what was read was read before.
    own.store_release(C_LEFT, 1);
}

/// Whether the reader of the segment `peer` says that it has left.
pub(crate) fn has_left(peer: &impl Memory) -> bool {
    // Pairs with the Release in roster::leave [left].
    peer.load_acquire(C_LEFT) == 1
}

/// Frees the entry of a reader that is gone.
pub(crate) fn remove(own: &impl OwnedMemory, index: usize) {
    own.store_release(offset_of(index), 0);
}
