//! The single-producer single-consumer slot ring, over any [`Memory`](crate::memory::Memory).
//!
//! Each slot carries its own commit word beside the payload (the FastForward lineage: Giacomoni,
//! Moseley, Vachharajani, PPoPP 2008), so a small message moves one cache line and no index line.
//! The producer publishes with one release store; the consumer's cursor is published lazily and
//! accepted only between its last accepted value and what was committed. Nothing here allocates,
//! panics on a peer's number, reads geometry from shared memory, or knows of agents and files.
//!
//! What both halves share; [`Writer`] and [`Reader`] are the halves.

use std::time::Duration;

use crate::geometry::{Geometry, Place};

pub use crate::reader::{Found, Reader};
pub use crate::writer::Writer;

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
