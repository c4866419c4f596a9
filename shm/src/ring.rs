//! The single-producer single-consumer slot ring, over any [`Memory`].
//!
//! Each slot carries its own commit word beside the payload (the FastForward lineage: Giacomoni,
//! Moseley, Vachharajani, PPoPP 2008), so a small message moves one cache line and no index line.
//! The producer publishes with one release store; the consumer's cursor is published lazily and
//! accepted only between its last accepted value and what was committed. Nothing here allocates,
//! panics on a peer's number, reads geometry from shared memory, or knows of agents and files.
//!
//! What both halves share; [`Writer`] and [`Reader`] are the halves.

use std::time::Duration;

use crate::cursor::{CommitWord, Kind, SlotState, read_slot};
use crate::geometry::{Geometry, Place};
use crate::layout::P_RESUME;
use crate::memory::Memory;

pub use crate::follower::{Follower, Heard};
pub use crate::order::{Earliest, Known, Order};
pub use crate::reader::Reader;
pub use crate::sleep::sleep_on_all;
pub use crate::turns::Turns;
pub use crate::writer::{GivenUp, Lag, Writer};

/// Longest sleep of an end whose peer has not noticed it yet.
pub(crate) const UNJOINED_SLEEP: Duration = Duration::from_millis(1);

/// How the two ends wait for each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WaitMode {
    /// Both ends spin: no fence and no look at the peer's parked word.
    #[default]
    Spin,
    /// Both ends spin for a while, then sleep on a futex.
    Park,
}

/// What a lane is tuned for where one cannot have both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// A waiting consumer takes a message the moment it is committed.
    #[default]
    Latency,
    /// A consumer that has caught up with a stream lets the producer get ahead, for some
    /// microseconds, so that the two do not fight for each line.
    Throughput,
}

/// What the producer of a broadcast lane does about readers that are slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// It waits for the slowest reader: nobody loses anything.
    Gated,
    /// It gives up a reader that is `budget` slots behind, and waits for nobody.
    Evicting {
        /// Slots that a reader may be behind.
        budget: u64,
    },
    /// It waits for nobody and overwrites the oldest.
    Overwrite,
}

impl Policy {
    /// Whether a reader may find that messages are gone before it read them.
    #[must_use]
    pub fn loses(self) -> bool {
        self != Self::Gated
    }
}

/// Where a reader of a broadcast lane starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// With the next message that is committed.
    #[default]
    Newest,
    /// With the oldest message that the ring retains.
    Oldest,
}

/// Which slots a message takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Place of the first slot.
    pub(crate) place: Place,
    /// Number of slots.
    pub slots: u64,
    /// Length of the message, in bytes.
    pub len: usize,
}

/// A committed message as the consumer found it: a private copy of its words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// A message.
    Message(Span),
    /// The end of the stream.
    End,
    /// A frozen payload, which is not in the ring.
    Frozen {
        /// Its slot, with no bytes.
        span: Span,
        /// Length of its file, in base pages.
        pages: u32,
    },
}

impl Span {
    /// A message of `len` bytes in `slots` slots from `position` on.
    #[must_use]
    pub fn new(geometry: &Geometry, position: u64, slots: u64, len: usize) -> Self {
        Self { place: geometry.place(position), slots, len }
    }

    /// Position of the first slot.
    #[must_use]
    #[inline]
    pub fn position(&self) -> u64 {
        self.place.position
    }

    /// Place after the last slot.
    #[inline(always)]
    pub fn end(&self, geometry: &Geometry) -> Place {
        if self.slots == 1 {
            let mut place = self.place;
            place.advance(geometry);
            return place;
        }
        geometry.place(self.place.position + self.slots)
    }
}

/// The first position from `from` on at which a message starts, in memory whose generation began
/// at `base` and committed up to `committed`; at most one ring below that.
pub(crate) fn message_start(
    memory: &impl Memory,
    geometry: &Geometry,
    base: u64,
    from: u64,
    committed: u64,
) -> u64 {
    let ends = |position: u64| {
        let word = CommitWord(memory.load_acquire(geometry.slot_offset(position)));
        let state = read_slot(geometry, position, word);
        matches!(state, Ok(SlotState::Committed(Kind::Data | Kind::End | Kind::Frozen, _)))
    };
    if from <= base || from >= committed || ends(from - 1) {
        return from.max(base).min(committed.max(base));
    }
    // In the middle of a message, or unknown: the next message starts after the end of one.
    let mut within = from..committed.min(from.saturating_add(geometry.count()));
    within.find(|&position| ends(position)).map_or(committed, |end| end + 1)
}

/// The oldest whole message of a producer that is gone, within three quarters of the ring: what
/// is older may have been written over by what was never committed. Where that was more than a
/// quarter, the producer of a lane that does not lose has said so.
pub(crate) fn oldest_message(
    memory: &impl Memory,
    geometry: &Geometry,
    base: u64,
    end: u64,
    loses: bool,
) -> u64 {
    let kept = geometry.count() - (geometry.count() / 4).max(1);
    let whole = if loses { 0 } else { memory.load_acquire(P_RESUME).min(end) };
    let from = end.saturating_sub(kept).max(base).max(whole);
    message_start(memory, geometry, base, from, end)
}
