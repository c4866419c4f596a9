//! Which message of several lanes is the next one by its stamp, and who is waited for.
//!
//! The first message of each lane that has one is a *head*. The earliest head is handed out once no
//! lane without a head holds it back any longer: see [`crate::Merge`]. Reads no clock and no stamp
//! by itself, and never waits.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use crate::error::RecvError;
use crate::group::{FanInError, LaneKey, LaneSet};
use crate::ring::Span;

/// Orders the messages of whatever reads each lane: a [`Merge`](crate::Merge) without its waits.
#[derive(Debug)]
pub struct Order<C> {
    pub(crate) set: LaneSet<C>,
    patience: Duration,
    /// The first message of each lane that has one.
    heads: BinaryHeap<Reverse<Head>>,
    /// The others.
    pub(crate) empty: Vec<Empty>,
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
pub(crate) struct Empty {
    pub(crate) lane: LaneKey,
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

/// What is known of the next message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// No lane has one.
    Nothing,
    /// There is one, and an empty lane holds it back for so long at most.
    Held(Duration),
    /// It is there.
    Earliest,
}

/// The earliest message, and what read it.
#[derive(Debug)]
pub struct Earliest<'c, C> {
    /// Which lane it came from.
    pub lane: LaneKey,
    /// Its stamp.
    pub stamp: u64,
    /// Whether a message with a later stamp was handed out before.
    pub late: bool,
    /// Where it is.
    pub span: Span,
    /// What reads that lane.
    pub consumer: &'c mut C,
}

impl<C> Order<C> {
    /// Without lanes; an empty lane is waited for `patience` long.
    #[must_use]
    pub fn new(patience: Duration) -> Self {
        Self {
            set: LaneSet::default(),
            patience,
            heads: BinaryHeap::new(),
            empty: Vec::new(),
            newest: 0,
            late: 0,
            untold: None,
        }
    }

    /// Adds a lane.
    pub fn add(&mut self, consumer: C) -> LaneKey {
        let lane = self.set.add(consumer);
        self.empty.push(Empty::new(lane, self.set.lanes.len() - 1));
        lane
    }

    /// Takes a lane out, with its head and what was found wrong with it and not yet told.
    pub fn remove(&mut self, lane: LaneKey) -> Option<C> {
        let (removed, consumer) = self.set.remove(lane)?;
        self.untold.take_if(|error| error.is_of(lane));
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
    pub fn lanes(&self) -> impl Iterator<Item = (LaneKey, &C)> {
        self.set.lanes.iter().map(|lane| (lane.key, &lane.consumer))
    }

    /// Messages that came late so far.
    #[must_use]
    pub fn late(&self) -> u64 {
        self.late
    }

    /// Lanes that have not failed and have no message at their front.
    pub fn awaited(&mut self) -> impl Iterator<Item = (LaneKey, &mut C)> {
        let Self { set, empty, .. } = self;
        let lanes = set.lanes.iter_mut().filter(|lane| lane.is_usable());
        let lanes = lanes.filter(|lane| empty.iter().any(|empty| empty.lane == lane.key));
        lanes.map(|lane| (lane.key, &mut lane.consumer))
    }

    /// An error that cannot be told now, because messages were handed out: for the next look.
    pub fn put_off(&mut self, error: FanInError) {
        self.untold = Some(error);
    }

    /// Looks at every lane without a message at its front. `next` finds a lane's next message and
    /// reads its stamp; the message stays where it is.
    ///
    /// # Errors
    /// `Lane`, once for each thing that happens to a lane.
    pub fn look(
        &mut self,
        mut next: impl FnMut(&mut C) -> Result<Option<(Span, u64)>, RecvError>,
    ) -> Result<(), FanInError> {
        if let Some(untold) = self.untold.take() {
            return Err(untold);
        }
        let mut at = 0;
        while let Some(empty) = self.empty.get(at) {
            let (index, lane) = (empty.index, empty.lane);
            let found = match self.set.lanes.get_mut(index) {
                Some(lane) => lane.look(|_, consumer| next(consumer))?,
                None => None,
            };
            match found {
                Some((span, stamp)) => {
                    self.heads.push(Reverse(Head { stamp, lane, index, span }));
                    self.empty.swap_remove(at);
                }
                None => at += 1,
            }
        }
        Ok(())
    }

    /// What is known after that look. `comes` says whether a lane's producer may still send; `now`
    /// is asked once, if somebody is waited for.
    pub fn known(&mut self, comes: impl Fn(&C) -> bool, now: impl FnOnce() -> Instant) -> Known {
        if self.heads.is_empty() {
            return Known::Nothing;
        }
        let (mut longest, mut now, mut clock) = (None, Some(now), None);
        for empty in self.empty.iter_mut().filter(|empty| !empty.excused) {
            let lane = self.set.lanes.get(empty.index);
            if lane.is_some_and(|lane| lane.is_open() && comes(&lane.consumer)) {
                clock = clock.or_else(|| now.take().map(|now| now()));
                let Some(now) = clock else { continue };
                let waited = now.duration_since(*empty.since.get_or_insert(now));
                let left = self.patience.checked_sub(waited).filter(|left| !left.is_zero());
                empty.excused = left.is_none();
                longest = longest.max(left);
            }
        }
        longest.map_or(Known::Earliest, Known::Held)
    }

    /// Takes the earliest head, whoever is waited for.
    pub fn take(&mut self) -> Option<Earliest<'_, C>> {
        let Reverse(Head { stamp, lane, index, span }) = self.heads.pop()?;
        self.empty.push(Empty::new(lane, index));
        let late = stamp < self.newest;
        self.late += u64::from(late);
        self.newest = self.newest.max(stamp);
        let consumer = &mut self.set.lanes.get_mut(index)?.consumer;
        Some(Earliest { lane, stamp, late, span, consumer })
    }
}
