//! Many lanes, one reader: a handle that takes turns.
//!
//! Each producer has a lane of its own, so that one which dies, stalls or lies takes nothing from
//! the others. Lanes are looked at in a circle; each may hand out its budget of messages before it
//! is the next one's turn. The order *between* lanes is not promised: see [`crate::Merge`] for an
//! order by time stamps.
//!
//! What a lane can cost the others: a look (some nanoseconds), a look at its agent's events every
//! 20 ms that it is idle, and, when its producer has a successor, the mapping of the new segment.

use std::time::Duration;

use crate::by_value::ByValue;
use crate::consumer::Consumer;
use crate::error::RecvError;
use crate::lanes::{FanInError, Lane, LaneKey, LaneSet, Waiting};
use crate::message::{Message, from_bytes};
use crate::received::{ReadSlot, View};
use crate::ring::Span;
use crate::typed::TypedConsumer;

/// Messages that a lane hands out before it is the next one's turn, unless it is told otherwise.
const BUDGET: usize = 16;

/// Receives from many lanes in turn.
///
/// ```
/// use std::time::Duration;
/// use laneway_shm::{FanIn, PairOptions, pair};
///
/// let mut fan_in = FanIn::new();
/// let (mut first, consumer) = pair(PairOptions::default())?;
/// let of_first = fan_in.add(consumer);
/// let (mut second, consumer) = pair(PairOptions::default())?;
/// let of_second = fan_in.add(consumer);
///
/// second.send(b"two", Duration::ZERO)?;
/// first.send(b"one", Duration::ZERO)?;
/// let (lane, message) = fan_in.recv(Duration::from_secs(1))?;
/// assert_eq!((lane, message.to_vec()), (of_first, b"one".to_vec()));
/// drop(message);
/// assert_eq!(fan_in.recv(Duration::from_secs(1))?.0, of_second);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Default)]
pub struct FanIn {
    set: LaneSet,
    /// Each lane's budget, in messages.
    budgets: Vec<usize>,
    /// Whose turn it is, and how much of its budget it has used.
    turn: usize,
    used: usize,
    /// Found while messages were handed out: for the next call.
    untold: Option<FanInError>,
}

impl FanIn {
    /// Without lanes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a lane. Its turn comes within one round.
    pub fn add(&mut self, consumer: Consumer) -> LaneKey {
        self.budgets.push(BUDGET);
        self.set.add(consumer)
    }

    /// Lets a lane hand out up to `messages` (at least one, 16 by default) before it is the next
    /// one's turn. False if there is no such lane.
    pub fn set_budget(&mut self, lane: LaneKey, messages: usize) -> bool {
        let budget = self.set.index(lane).and_then(|index| self.budgets.get_mut(index));
        budget.map(|budget| *budget = messages.max(1)).is_some()
    }

    /// Takes a lane out, with whatever it has not handed out.
    pub fn remove(&mut self, lane: LaneKey) -> Option<Consumer> {
        let (index, consumer) = self.set.remove(lane)?;
        self.budgets.remove(index);
        self.untold
            .take_if(|error| matches!(error, FanInError::Lane { lane: of, .. } if *of == lane));
        match index.cmp(&self.turn) {
            std::cmp::Ordering::Less => self.turn -= 1,
            std::cmp::Ordering::Equal => self.used = 0,
            std::cmp::Ordering::Greater => {}
        }
        Some(consumer)
    }

    /// The lanes there are, in the order in which they were added.
    pub fn lanes(&self) -> impl Iterator<Item = (LaneKey, &Consumer)> {
        self.set.lanes.iter().map(|lane| (lane.key, &lane.consumer))
    }

    /// The next message of the lane whose turn it is, or of the next one that has any.
    ///
    /// # Errors
    /// `Lane`, once for each thing that happens to a lane.
    #[inline]
    pub fn poll(&mut self) -> Result<Option<(LaneKey, ReadSlot<'_>)>, FanInError> {
        let found = self.next_with(|lane, _| Ok(next_span(&mut lane.consumer)?.map(one)))?;
        Ok(found.and_then(|span| self.slot(span)))
    }

    /// The next message of any lane, waiting at most `timeout` for it. The wait spins; if every
    /// lane was made to park, it soon sleeps until one of them rings.
    ///
    /// # Errors
    /// `TimedOut`, `NoLanes`, and as [`FanIn::poll`].
    #[inline]
    pub fn recv(&mut self, timeout: Duration) -> Result<(LaneKey, ReadSlot<'_>), FanInError> {
        let span =
            self.wait_with(timeout, |lane, _| Ok(next_span(&mut lane.consumer)?.map(one)))?;
        let lanes = self.set.lanes.len();
        self.slot(span).ok_or(FanInError::NoLanes { lanes })
    }

    /// Hands out the messages that are there, at most `limit`, lane by lane within each one's
    /// budget; each lane's are released together. Returns how many there were.
    ///
    /// # Errors
    /// As [`FanIn::poll`] if there was none; what is found after a message is told by the next
    /// call.
    pub fn poll_many(
        &mut self,
        limit: usize,
        mut read: impl FnMut(LaneKey, View<'_>),
    ) -> Result<usize, FanInError> {
        self.many(limit, |lane, most| {
            let mut batch = lane.consumer.poll_many(most);
            let mut taken = 0;
            loop {
                match batch.next() {
                    Ok(Some(view)) => read(lane.key, view),
                    Err(error) if taken == 0 => return Err(error),
                    Ok(None) | Err(_) => return Ok((taken > 0).then_some(((), taken))),
                }
                taken += 1;
            }
        })
    }

    /// As [`FanIn::poll_many`], waiting at most `timeout` for the first message.
    ///
    /// # Errors
    /// As [`FanIn::recv`].
    pub fn recv_many(
        &mut self,
        limit: usize,
        timeout: Duration,
        mut read: impl FnMut(LaneKey, View<'_>),
    ) -> Result<usize, FanInError> {
        let mut wait = Waiting::new(timeout);
        loop {
            let taken = self.poll_many(limit, &mut read)?;
            if taken > 0 || limit == 0 {
                return Ok(taken);
            }
            self.set.idle(&mut wait, timeout, |_| true)?;
        }
    }

    /// The slot of the message that was just found in the lane whose turn it is.
    fn slot(&mut self, span: Span) -> Option<(LaneKey, ReadSlot<'_>)> {
        let lane = self.set.lanes.get_mut(self.turn)?;
        Some((lane.key, ReadSlot::new(&mut lane.consumer, span)))
    }

    /// Goes once around. `take` is given a lane and what is left of its budget, and says what it
    /// found and how many messages that was.
    #[inline(always)]
    fn next_with<R>(
        &mut self,
        mut take: impl FnMut(&mut Lane, usize) -> Result<Option<(R, usize)>, RecvError>,
    ) -> Result<Option<R>, FanInError> {
        if let Some(untold) = self.untold.take() {
            return Err(untold);
        }
        // Once more than there are lanes: the first one may have used its budget up.
        for _ in 0..=self.set.lanes.len() {
            let lane = self.set.lanes.get_mut(self.turn);
            let budget = self.budgets.get(self.turn).copied().unwrap_or(0);
            let left = budget.saturating_sub(self.used);
            if let Some(lane) = lane.filter(|lane| left > 0 && lane.is_usable()) {
                match take(lane, left) {
                    Ok(Some((found, count))) => {
                        lane.reopen();
                        self.used += count;
                        return Ok(Some(found));
                    }
                    Ok(None) => {}
                    Err(error) => {
                        if let Some(error) = lane.judge(error) {
                            self.turn_over();
                            return Err(error);
                        }
                    }
                }
            }
            self.turn_over();
        }
        Ok(None)
    }

    #[inline(always)]
    fn turn_over(&mut self) {
        self.used = 0;
        self.turn += 1;
        if self.turn >= self.set.lanes.len() {
            self.turn = 0;
        }
    }

    #[inline(always)]
    fn wait_with<R>(
        &mut self,
        timeout: Duration,
        mut take: impl FnMut(&mut Lane, usize) -> Result<Option<(R, usize)>, RecvError>,
    ) -> Result<R, FanInError> {
        let mut wait = Waiting::new(timeout);
        loop {
            if let Some(found) = self.next_with(&mut take)? {
                return Ok(found);
            }
            self.set.idle(&mut wait, timeout, |_| true)?;
        }
    }

    /// Goes around until `limit` messages were taken or a whole round found none.
    #[inline(always)]
    fn many(
        &mut self,
        limit: usize,
        mut take: impl FnMut(&mut Lane, usize) -> Result<Option<((), usize)>, RecvError>,
    ) -> Result<usize, FanInError> {
        let mut taken = 0;
        while taken < limit {
            let mut now = 0;
            let found = self.next_with(|lane, left| {
                let found = take(lane, left.min(limit - taken))?;
                now = found.map_or(0, |((), count)| count);
                Ok(found)
            });
            taken += now;
            match found {
                Ok(Some(())) => {}
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
}

fn one<R>(found: R) -> (R, usize) {
    (found, 1)
}

#[inline(always)]
pub(crate) fn next_span(consumer: &mut Consumer) -> Result<Option<Span>, RecvError> {
    match consumer.ring.ready() {
        Some(span) => Ok(Some(span)),
        None => consumer.next_span(),
    }
}

/// As [`FanIn`], for lanes that all carry messages of type `T`, taken by value.
///
/// A message of another length is told as that lane's fault.
#[derive(Debug)]
pub struct TypedFanIn<T> {
    fan_in: FanIn,
    messages: std::marker::PhantomData<fn() -> T>,
}

impl<T: Message> Default for TypedFanIn<T> {
    fn default() -> Self {
        Self { fan_in: FanIn::new(), messages: std::marker::PhantomData }
    }
}

impl<T: Message> TypedFanIn<T> {
    /// Without lanes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a lane.
    pub fn add(&mut self, consumer: TypedConsumer<T>) -> LaneKey {
        self.fan_in.add(consumer.into_consumer())
    }

    /// As [`FanIn::remove`].
    pub fn remove(&mut self, lane: LaneKey) -> Option<TypedConsumer<T>> {
        self.fan_in.remove(lane).map(TypedConsumer::new)
    }

    /// As [`FanIn::set_budget`].
    pub fn set_budget(&mut self, lane: LaneKey, messages: usize) -> bool {
        self.fan_in.set_budget(lane, messages)
    }

    /// As [`FanIn::lanes`].
    pub fn lanes(&self) -> impl Iterator<Item = (LaneKey, &Consumer)> {
        self.fan_in.lanes()
    }

    /// As [`FanIn::poll`].
    ///
    /// # Errors
    /// As [`FanIn::poll`].
    #[inline]
    pub fn try_recv(&mut self) -> Result<Option<(LaneKey, T)>, FanInError> {
        self.fan_in.next_with(|lane, _| take_one(lane))
    }

    /// As [`FanIn::recv`].
    ///
    /// # Errors
    /// As [`FanIn::recv`].
    #[inline]
    pub fn recv(&mut self, timeout: Duration) -> Result<(LaneKey, T), FanInError> {
        self.fan_in.wait_with(timeout, |lane, _| take_one(lane))
    }

    /// As [`FanIn::poll_many`].
    ///
    /// # Errors
    /// As [`FanIn::poll_many`].
    #[inline]
    pub fn try_recv_many(
        &mut self,
        limit: usize,
        mut read: impl FnMut(LaneKey, T),
    ) -> Result<usize, FanInError> {
        self.fan_in.many(limit, |lane, most| {
            let read = |bytes| read(lane.key, from_bytes(bytes));
            let taken = T::Bytes::try_recv_many(&mut lane.consumer, most, read)?;
            Ok((taken > 0).then_some(((), taken)))
        })
    }

    /// As [`FanIn::recv_many`].
    ///
    /// # Errors
    /// As [`FanIn::recv`].
    pub fn recv_many(
        &mut self,
        limit: usize,
        timeout: Duration,
        mut read: impl FnMut(LaneKey, T),
    ) -> Result<usize, FanInError> {
        let mut wait = Waiting::new(timeout);
        loop {
            let taken = self.try_recv_many(limit, &mut read)?;
            if taken > 0 || limit == 0 {
                return Ok(taken);
            }
            self.fan_in.set.idle(&mut wait, timeout, |_| true)?;
        }
    }
}

type Taken<T> = Option<((LaneKey, T), usize)>;

#[inline(always)]
fn take_one<T: Message>(lane: &mut Lane) -> Result<Taken<T>, RecvError> {
    let key = lane.key;
    T::Bytes::try_recv(&mut lane.consumer, |bytes| one((key, from_bytes(bytes))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::P_SLOTS;
    use crate::memory::OwnedMemory;
    use crate::{Merge, PairOptions, Producer, WaitMode, pair};

    const NOW: Duration = Duration::ZERO;

    /// A producer that scribbles over its own memory, as only a hostile one can.
    fn scribbled() -> (Producer, Consumer) {
        let options = PairOptions { wait: WaitMode::Park, ..PairOptions::default() };
        let (mut producer, consumer) = pair(options).unwrap();
        producer.ring.own_mut().store_release(P_SLOTS, u64::MAX);
        (producer, consumer)
    }

    #[test]
    fn a_lying_producer_costs_its_own_lane_and_no_other() {
        let options = PairOptions { wait: WaitMode::Park, ..PairOptions::default() };
        let mut fan_in = FanIn::new();
        let (_liar, consumer) = scribbled();
        let of_liar = fan_in.add(consumer);
        let (mut honest, consumer) = pair(options).unwrap();
        let of_honest = fan_in.add(consumer);
        honest.send(b"1", NOW).unwrap();
        let found = fan_in.poll().map(drop);
        let Err(FanInError::Lane { lane, source: RecvError::Corrupt(_) }) = found else {
            panic!("{found:?}");
        };
        assert_eq!(lane, of_liar);
        assert_eq!(fan_in.poll().unwrap().map(|(lane, _)| lane), Some(of_honest));
        // Neither told again, nor waited for: the sleep is for the honest one alone.
        let (short, limit) = (Duration::from_millis(30), Duration::from_secs(10));
        assert!(matches!(fan_in.recv(short), Err(FanInError::TimedOut { lanes: 1, .. })));
        let sender = std::thread::spawn(move || {
            std::thread::sleep(short);
            honest.send(b"2", limit).map(|()| honest)
        });
        assert_eq!(fan_in.recv(limit).unwrap().0, of_honest);
        let _honest = sender.join().unwrap().unwrap();
        assert!(fan_in.remove(of_liar).is_some());
    }

    #[test]
    fn what_was_wrong_with_a_lane_is_not_told_after_its_removal() {
        let mut fan_in = FanIn::new();
        let (mut honest, consumer) = pair(PairOptions::default()).unwrap();
        fan_in.add(consumer);
        honest.send(b"1", NOW).unwrap();
        let (_liar, consumer) = scribbled();
        let of_liar = fan_in.add(consumer);
        // Found behind a message, and kept for the next call.
        assert_eq!(fan_in.poll_many(8, |_, _| ()).unwrap(), 1);
        assert!(fan_in.remove(of_liar).is_some());
        assert!(fan_in.poll().unwrap().is_none());
    }

    #[test]
    fn a_lying_producer_does_not_hold_a_merge() {
        let mut merge = Merge::new(Duration::from_secs(10), |view| view.u64_at(0).unwrap_or(0));
        let (_liar, consumer) = scribbled();
        let of_liar = merge.add(consumer);
        let (mut honest, consumer) = pair(PairOptions::default()).unwrap();
        merge.add(consumer);
        honest.send(&7u64.to_le_bytes(), NOW).unwrap();
        let found = merge.poll().map(drop);
        assert!(matches!(found, Err(FanInError::Lane { lane, .. }) if lane == of_liar));
        assert_eq!(merge.poll().unwrap().map(|found| found.stamp), Some(7));
    }
}
