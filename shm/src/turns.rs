//! Whose turn it is among several lanes, and how much of its budget is left.
//!
//! Lanes are looked at in a circle, and each may hand out its budget of messages before it is the
//! next one's turn. What is found wrong behind messages is kept for the next call. Never waits.

use std::cmp::Ordering;

use crate::error::RecvError;
use crate::group::{FanInError, LaneKey, LaneSet};

/// Messages that a lane hands out before it is the next one's turn, unless it is told otherwise.
const BUDGET: usize = 16;

/// Takes turns among whatever reads each lane: a [`FanIn`](crate::FanIn) without its waits.
#[derive(Debug)]
pub struct Turns<C> {
    pub(crate) set: LaneSet<C>,
    /// Each lane's budget, in messages, at least one.
    budgets: Vec<usize>,
    /// Index of the lane whose turn it is, and how much of its budget it has used.
    turn: usize,
    used: usize,
    /// Found while messages were handed out: for the next call.
    untold: Option<FanInError>,
}

impl<C> Default for Turns<C> {
    fn default() -> Self {
        Self { set: LaneSet::default(), budgets: Vec::new(), turn: 0, used: 0, untold: None }
    }
}

impl<C> Turns<C> {
    /// Adds a lane. Its turn comes within one round.
    pub fn add(&mut self, consumer: C) -> LaneKey {
        self.budgets.push(BUDGET);
        self.set.add(consumer)
    }

    /// Lets a lane hand out up to `messages`, at least one, before it is the next one's turn.
    /// False if there is no such lane.
    pub fn set_budget(&mut self, lane: LaneKey, messages: usize) -> bool {
        let budget = self.set.index(lane).and_then(|index| self.budgets.get_mut(index));
        budget.map(|budget| *budget = messages.max(1)).is_some()
    }

    /// Takes a lane out, with what was found wrong with it and not yet told.
    pub fn remove(&mut self, lane: LaneKey) -> Option<C> {
        let (index, consumer) = self.set.remove(lane)?;
        self.budgets.remove(index);
        self.untold.take_if(|error| error.is_of(lane));
        match index.cmp(&self.turn) {
            Ordering::Less => self.turn -= 1,
            Ordering::Equal => self.used = 0,
            Ordering::Greater => {}
        }
        // The circle closes here and not at the next look: who is added in between comes last.
        if self.turn >= self.set.lanes.len() {
            self.turn = 0;
        }
        Some(consumer)
    }

    /// The lane whose turn it is: the one that handed something out last, as long as nothing else
    /// was called.
    #[inline(always)]
    pub fn current(&mut self) -> Option<(LaneKey, &mut C)> {
        let lane = self.set.lanes.get_mut(self.turn)?;
        Some((lane.key, &mut lane.consumer))
    }

    /// The lanes there are, in the order in which they were added.
    pub fn lanes(&self) -> impl Iterator<Item = (LaneKey, &C)> {
        self.set.lanes.iter().map(|lane| (lane.key, &lane.consumer))
    }

    /// The lanes that have not failed.
    pub fn usable(&mut self) -> impl Iterator<Item = (LaneKey, &mut C)> {
        let lanes = self.set.lanes.iter_mut().filter(|lane| lane.is_usable());
        lanes.map(|lane| (lane.key, &mut lane.consumer))
    }

    /// Goes once around. `take` is given a lane and what is left of its budget, and says what it
    /// found and how many messages that was.
    ///
    /// # Errors
    /// `Lane`, once for each thing that happens to a lane.
    #[inline(always)]
    pub fn next<R>(
        &mut self,
        mut take: impl FnMut(LaneKey, &mut C, usize) -> Result<Option<(R, usize)>, RecvError>,
    ) -> Result<Option<R>, FanInError> {
        if let Some(untold) = self.untold.take() {
            return Err(untold);
        }
        // Once more than there are lanes: the first one may have used its budget up.
        for _ in 0..=self.set.lanes.len() {
            let lane = self.set.lanes.get_mut(self.turn);
            let budget = self.budgets.get(self.turn).copied().unwrap_or(0);
            let left = budget.saturating_sub(self.used);
            if let Some(lane) = lane.filter(|_| left > 0) {
                match lane.look(|key, consumer| take(key, consumer, left)) {
                    Ok(Some((found, count))) => {
                        self.used += count;
                        return Ok(Some(found));
                    }
                    Ok(None) => {}
                    Err(error) => {
                        self.turn_over();
                        return Err(error);
                    }
                }
            }
            self.turn_over();
        }
        Ok(None)
    }

    /// Goes around until `limit` messages were taken or a whole round found none; `take` returns
    /// how many it took, at most as many as it is given. Returns how many there were.
    ///
    /// # Errors
    /// As [`Turns::next`] if there was none; what is found after a message is told by the next
    /// call.
    #[inline(always)]
    pub fn many(
        &mut self,
        limit: usize,
        mut take: impl FnMut(LaneKey, &mut C, usize) -> Result<usize, RecvError>,
    ) -> Result<usize, FanInError> {
        let mut taken = 0;
        while taken < limit {
            let found = self.next(|key, consumer, left| {
                let count = take(key, consumer, left.min(limit - taken))?;
                Ok((count > 0).then_some((count, count)))
            });
            match found {
                Ok(Some(count)) => taken += count,
                Ok(None) => break,
                Err(error) if taken == 0 => return Err(error),
                Err(error) => {
                    self.untold = Some(error);
                    break;
                }
            }
        }
        Ok(taken)
    }

    #[inline(always)]
    fn turn_over(&mut self) {
        self.used = 0;
        self.turn += 1;
        if self.turn >= self.set.lanes.len() {
            self.turn = 0;
        }
    }
}
