//! Many lanes, one order: the messages of several lanes by their time stamps.
//!
//! Each lane's own stamps must not go down; then the merged ones do not, as long as no lane is
//! waited for in vain. An empty lane holds the others back, because its next message might be the
//! earliest: for as long as the patience of this merge lasts, counted from when the lane was found
//! empty, and not at all once its producer ended the stream or is gone. A message of a lane that
//! was not waited for any longer may then come *late*, behind ones with later stamps; it is handed
//! out, and marked. Equal stamps come in the order in which their lanes were added.
//!
//! The stamp is read once, when the message gets to the front of its lane, and kept: a hostile
//! producer can disorder its own messages, never another lane's.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::time::{Duration, Instant};

use crate::consumer::Consumer;
use crate::error::PeerState;
use crate::fan_in::next_span;
use crate::lanes::{FanInError, Lane, LaneKey, LaneSet, Waiting};
use crate::received::{ReadSlot, View};
use crate::ring::Span;

/// Receives from many lanes in the order of a time stamp.
///
/// ```
/// use std::time::Duration;
/// use laneway_shm::{Merge, PairOptions, pair};
///
/// // The first eight bytes of each message are its stamp.
/// let mut merge = Merge::new(Duration::from_millis(10), |view| view.u64_at(0).unwrap_or(0));
/// let (mut first, consumer) = pair(PairOptions::default())?;
/// merge.add(consumer);
/// let (mut second, consumer) = pair(PairOptions::default())?;
/// merge.add(consumer);
/// for stamp in [1u64, 4] {
///     first.send(&stamp.to_le_bytes(), Duration::ZERO)?;
/// }
/// for stamp in [2u64, 3] {
///     second.send(&stamp.to_le_bytes(), Duration::ZERO)?;
/// }
/// for expected in 1..=4 {
///     assert_eq!(merge.recv(Duration::from_secs(1))?.stamp, expected);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Merge<F> {
    set: LaneSet,
    stamp: F,
    patience: Duration,
    /// The first message of each lane that has one.
    heads: BinaryHeap<Reverse<Head>>,
    /// The others.
    empty: Vec<Empty>,
    /// Highest stamp handed out.
    newest: u64,
    late: u64,
    /// Found behind messages that were handed out together: for the next call.
    untold: Option<FanInError>,
}

/// A message at the front of its lane: not taken yet, and its stamp.
#[derive(Debug)]
struct Head {
    stamp: u64,
    lane: LaneKey,
    index: usize,
    span: Span,
}

impl Head {
    fn rank(&self) -> (u64, LaneKey) {
        (self.stamp, self.lane)
    }
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.rank() == other.rank()
    }
}

impl Eq for Head {}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Head {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.rank().cmp(&other.rank())
    }
}

/// A lane without a message at its front.
#[derive(Debug)]
struct Empty {
    lane: LaneKey,
    index: usize,
    since: Option<Instant>,
    /// Was waited for long enough.
    excused: bool,
}

impl Empty {
    fn new(lane: LaneKey, index: usize) -> Self {
        Self { lane, index, since: None, excused: false }
    }
}

/// A message, and where in the order it is.
#[derive(Debug)]
pub struct Merged<'m> {
    /// Which lane it came from.
    pub lane: LaneKey,
    /// Its stamp.
    pub stamp: u64,
    /// Whether a message with a later stamp was handed out before.
    pub late: bool,
    /// The message itself. Dropping it releases its slots.
    pub slot: ReadSlot<'m>,
}

impl<F> fmt::Debug for Merge<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Merge").field("set", &self.set).field("late", &self.late).finish()
    }
}

impl<F: FnMut(View<'_>) -> u64> Merge<F> {
    /// Without lanes. `stamp` reads a message's stamp; an empty lane is waited for `patience` long.
    pub fn new(patience: Duration, stamp: F) -> Self {
        let (heads, empty) = (BinaryHeap::new(), Vec::new());
        Self {
            set: LaneSet::default(),
            stamp,
            patience,
            heads,
            empty,
            newest: 0,
            late: 0,
            untold: None,
        }
    }

    /// Adds a lane.
    pub fn add(&mut self, consumer: Consumer) -> LaneKey {
        let lane = self.set.add(consumer);
        self.empty.push(Empty::new(lane, self.set.lanes.len() - 1));
        lane
    }

    /// Takes a lane out, with whatever it has not handed out.
    pub fn remove(&mut self, lane: LaneKey) -> Option<Consumer> {
        let (removed, consumer) = self.set.remove(lane)?;
        self.untold
            .take_if(|error| matches!(error, FanInError::Lane { lane: of, .. } if *of == lane));
        let moved = |index: usize| index - usize::from(index > removed);
        let heads = std::mem::take(&mut self.heads).into_iter();
        let heads = heads.filter(|Reverse(head)| head.lane != lane);
        let heads = heads.map(|Reverse(head)| Reverse(Head { index: moved(head.index), ..head }));
        self.heads = heads.collect();
        self.empty.retain(|empty| empty.lane != lane);
        self.empty.iter_mut().for_each(|empty| empty.index = moved(empty.index));
        Some(consumer)
    }

    /// The lanes there are, in the order in which they were added.
    pub fn lanes(&self) -> impl Iterator<Item = (LaneKey, &Consumer)> {
        self.set.lanes.iter().map(|lane| (lane.key, &lane.consumer))
    }

    /// Messages that came late so far.
    #[must_use]
    pub fn late(&self) -> u64 {
        self.late
    }

    /// The earliest message, if it is known to be the earliest or an empty lane was waited for long
    /// enough.
    ///
    /// # Errors
    /// `Lane`, once for each thing that happens to a lane.
    pub fn poll(&mut self) -> Result<Option<Merged<'_>>, FanInError> {
        Ok(if self.is_ready()? { self.take() } else { None })
    }

    /// The earliest message, waiting at most `timeout` until it is known, as in [`Merge::poll`].
    ///
    /// # Errors
    /// `TimedOut`, `NoLanes`, and as [`Merge::poll`].
    pub fn recv(&mut self, timeout: Duration) -> Result<Merged<'_>, FanInError> {
        let mut wait = Waiting::new(timeout);
        loop {
            self.look()?;
            let mut limit = timeout;
            if !self.heads.is_empty() {
                match self.held_for() {
                    None => break,
                    Some(left) => limit = left,
                }
            }
            let empty = &self.empty;
            self.set.idle(&mut wait, limit, |lane| empty.iter().any(|e| e.lane == lane))?;
        }
        let lanes = self.set.lanes.len();
        self.take().ok_or(FanInError::NoLanes { lanes })
    }

    /// Hands out what [`Merge::poll`] would, one message after the other, at most `limit`; returns
    /// how many there were. Each is released when `read` drops it.
    ///
    /// # Errors
    /// As [`Merge::poll`] if there was none; what is found after a message is told by the next
    /// call.
    pub fn poll_many(
        &mut self,
        limit: usize,
        mut read: impl FnMut(Merged<'_>),
    ) -> Result<usize, FanInError> {
        for taken in 0..limit {
            match self.is_ready() {
                Ok(true) => {}
                Ok(false) => return Ok(taken),
                Err(error) if taken == 0 => return Err(error),
                Err(error) => {
                    self.untold = Some(error);
                    return Ok(taken);
                }
            }
            if let Some(merged) = self.take() {
                read(merged);
            }
        }
        Ok(limit)
    }

    /// As [`Merge::poll_many`], waiting at most `timeout` for the first message.
    ///
    /// # Errors
    /// As [`Merge::recv`], before the first message only.
    pub fn recv_many(
        &mut self,
        limit: usize,
        timeout: Duration,
        mut read: impl FnMut(Merged<'_>),
    ) -> Result<usize, FanInError> {
        if limit == 0 {
            return Ok(0);
        }
        read(self.recv(timeout)?);
        self.poll_many(limit - 1, read).map_or_else(
            |error| {
                self.untold = Some(error);
                Ok(1)
            },
            |more| Ok(1 + more),
        )
    }

    /// Whether the earliest message is known.
    fn is_ready(&mut self) -> Result<bool, FanInError> {
        self.look()?;
        Ok(!self.heads.is_empty() && self.held_for().is_none())
    }

    /// Looks at every lane without a message at its front.
    fn look(&mut self) -> Result<(), FanInError> {
        if let Some(untold) = self.untold.take() {
            return Err(untold);
        }
        let mut at = 0;
        while let Some(empty) = self.empty.get(at) {
            let index = empty.index;
            let lane = self.set.lanes.get_mut(index);
            let Some(lane) = lane.filter(|lane| lane.is_usable()) else {
                at += 1;
                continue;
            };
            match next_span(&mut lane.consumer) {
                Ok(Some(span)) => {
                    lane.reopen();
                    let stamp = (self.stamp)(View::new(&lane.consumer, span));
                    self.heads.push(Reverse(Head { stamp, lane: lane.key, index, span }));
                    self.empty.swap_remove(at);
                }
                Ok(None) => at += 1,
                Err(error) => {
                    if let Some(error) = lane.judge(error) {
                        return Err(error);
                    }
                    at += 1;
                }
            }
        }
        Ok(())
    }

    /// How much longer an empty lane holds the others back; `None` if none does.
    fn held_for(&mut self) -> Option<Duration> {
        let mut longest = None;
        let mut clock = None;
        let comes = |lane: &Lane| lane.is_open() && lane.consumer.peer() != PeerState::Gone;
        for empty in self.empty.iter_mut().filter(|empty| !empty.excused) {
            if self.set.lanes.get(empty.index).is_some_and(comes) {
                let now = *clock.get_or_insert_with(Instant::now);
                let waited = now.duration_since(*empty.since.get_or_insert(now));
                let left = self.patience.checked_sub(waited).filter(|left| !left.is_zero());
                empty.excused = left.is_none();
                longest = longest.max(left);
            }
        }
        longest
    }

    /// Takes the first of the heads.
    fn take(&mut self) -> Option<Merged<'_>> {
        let Reverse(Head { stamp, lane, index, span }) = self.heads.pop()?;
        self.empty.push(Empty::new(lane, index));
        let late = stamp < self.newest;
        self.late += u64::from(late);
        self.newest = self.newest.max(stamp);
        let slot = ReadSlot::new(&mut self.set.lanes.get_mut(index)?.consumer, span);
        Some(Merged { lane, stamp, late, slot })
    }
}
