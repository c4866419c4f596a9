//! Several lanes in one hand: which there are, and what was told of each.
//!
//! Whatever is wrong with a lane is told once, with its key, and ends that lane alone. What reads a
//! lane is a consumer for applications, and a bare ring for the models.

use std::time::Duration;

use thiserror::Error;

use crate::error::RecvError;

/// Names a lane of a [`FanIn`](crate::FanIn) or [`Merge`](crate::Merge): keys are in the order in
/// which lanes were added, and never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneKey(u64);

/// Why no message came from any of several lanes.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FanInError {
    /// Something happened to one lane; the others go on. After `Closed` and `Segment` the lane is
    /// still looked at, for a successor of its producer; after anything else it is not, and waits
    /// to be removed.
    #[error("lane {lane:?}: {source}")]
    Lane {
        /// Which.
        lane: LaneKey,
        /// What.
        source: RecvError,
    },
    /// Nothing came in time.
    #[error("no message of {lanes} lanes within {waited:?}")]
    TimedOut {
        /// How long the call waited.
        waited: Duration,
        /// Lanes that were looked at.
        lanes: usize,
    },
    /// There is no lane from which a message could come; adding one is the remedy.
    #[error("there is no lane to wait for: all {lanes} failed or none was added")]
    NoLanes {
        /// Lanes that failed and were not removed.
        lanes: usize,
    },
}

impl FanInError {
    /// Whether it is about this lane.
    pub(crate) fn is_of(&self, of: LaneKey) -> bool {
        matches!(self, Self::Lane { lane, .. } if *lane == of)
    }
}

/// What is known of a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// Its producer ended the stream, and that was told.
    Ended,
    /// Never looked at again.
    Failed,
}

/// One lane, and what reads it.
#[derive(Debug)]
pub(crate) struct Lane<C> {
    pub(crate) key: LaneKey,
    pub(crate) consumer: C,
    state: State,
}

impl<C> Lane<C> {
    pub(crate) fn is_usable(&self) -> bool {
        self.state != State::Failed
    }

    /// Whether a producer is, or may be, about to send.
    pub(crate) fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// Takes what there is: `Err` is what there is to tell. Never looks at a lane that failed.
    #[inline(always)]
    pub(crate) fn look<R>(
        &mut self,
        take: impl FnOnce(LaneKey, &mut C) -> Result<Option<R>, RecvError>,
    ) -> Result<Option<R>, FanInError> {
        if !self.is_usable() {
            return Ok(None);
        }
        match take(self.key, &mut self.consumer) {
            Ok(Some(found)) => {
                self.reopen();
                Ok(Some(found))
            }
            Ok(None) => Ok(None),
            Err(error) => self.judge(error).map_or(Ok(None), Err),
        }
    }

    /// A message came: whoever had ended has a successor.
    pub(crate) fn reopen(&mut self) {
        self.state = State::Open;
    }

    /// What there is to tell about an error of this lane, if it was not told before.
    pub(crate) fn judge(&mut self, source: RecvError) -> Option<FanInError> {
        let before = self.state;
        self.state = match source {
            RecvError::Closed { .. } => State::Ended,
            RecvError::Segment(_) => before,
            _ => State::Failed,
        };
        let told = before == State::Ended && self.state == State::Ended;
        (!told).then_some(FanInError::Lane { lane: self.key, source })
    }
}

/// The lanes, in the order of their keys.
#[derive(Debug)]
pub(crate) struct LaneSet<C> {
    pub(crate) lanes: Vec<Lane<C>>,
    keys: u64,
}

impl<C> Default for LaneSet<C> {
    fn default() -> Self {
        Self { lanes: Vec::new(), keys: 0 }
    }
}

impl<C> LaneSet<C> {
    pub(crate) fn add(&mut self, consumer: C) -> LaneKey {
        let key = LaneKey(self.keys);
        self.keys += 1;
        self.lanes.push(Lane { key, consumer, state: State::Open });
        key
    }

    pub(crate) fn index(&self, key: LaneKey) -> Option<usize> {
        self.lanes.binary_search_by_key(&key, |lane| lane.key).ok()
    }

    pub(crate) fn remove(&mut self, key: LaneKey) -> Option<(usize, C)> {
        let index = self.index(key)?;
        Some((index, self.lanes.remove(index).consumer))
    }
}
