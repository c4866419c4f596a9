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
use crate::group::{FanInError, LaneKey};
use crate::lanes::Waiting;
use crate::message::{Message, from_bytes};
use crate::received::{ReadSlot, View};
use crate::ring::Span;
use crate::turns::Turns;
use crate::typed::TypedConsumer;

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
    turns: Turns<Consumer>,
}

impl FanIn {
    /// Without lanes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a lane. Its turn comes within one round.
    pub fn add(&mut self, consumer: Consumer) -> LaneKey {
        self.turns.add(consumer)
    }

    /// Lets a lane hand out up to `messages` (at least one, 16 by default) before it is the next
    /// one's turn. False if there is no such lane.
    pub fn set_budget(&mut self, lane: LaneKey, messages: usize) -> bool {
        self.turns.set_budget(lane, messages)
    }

    /// Takes a lane out, with whatever it has not handed out.
    pub fn remove(&mut self, lane: LaneKey) -> Option<Consumer> {
        self.turns.remove(lane)
    }

    /// The lanes there are, in the order in which they were added.
    pub fn lanes(&self) -> impl Iterator<Item = (LaneKey, &Consumer)> {
        self.turns.lanes()
    }

    /// The next message of the lane whose turn it is, or of the next one that has any.
    ///
    /// # Errors
    /// `Lane`, once for each thing that happens to a lane.
    #[inline]
    pub fn poll(&mut self) -> Result<Option<(LaneKey, ReadSlot<'_>)>, FanInError> {
        let found = self.turns.next(|_, consumer, _| Ok(next_span(consumer)?.map(one)))?;
        Ok(found.and_then(|span| self.slot(span)))
    }

    /// The next message of any lane, waiting at most `timeout` for it. The wait spins; if every
    /// lane was made to park, it soon sleeps until one of them rings.
    ///
    /// # Errors
    /// `TimedOut`, `NoLanes`, and as [`FanIn::poll`].
    #[inline]
    pub fn recv(&mut self, timeout: Duration) -> Result<(LaneKey, ReadSlot<'_>), FanInError> {
        let span = self.wait_with(timeout, |_, consumer| Ok(next_span(consumer)?.map(one)))?;
        let lanes = self.turns.set.lanes.len();
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
        self.turns.many(limit, |lane, consumer, most| {
            let mut batch = consumer.poll_many(most);
            let mut taken = 0;
            loop {
                match batch.next() {
                    Ok(Some(view)) => read(lane, view),
                    Err(error) if taken == 0 => return Err(error),
                    Ok(None) | Err(_) => return Ok(taken),
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
            self.turns.set.idle(&mut wait, timeout, |_| true)?;
        }
    }

    /// The slot of the message that was just found in the lane whose turn it is.
    #[inline(always)]
    fn slot(&mut self, span: Span) -> Option<(LaneKey, ReadSlot<'_>)> {
        let (lane, consumer) = self.turns.current()?;
        Some((lane, ReadSlot::new(consumer, span)))
    }

    #[inline(always)]
    fn wait_with<R>(
        &mut self,
        timeout: Duration,
        mut take: impl FnMut(LaneKey, &mut Consumer) -> Result<Option<(R, usize)>, RecvError>,
    ) -> Result<R, FanInError> {
        let mut wait = Waiting::new(timeout);
        loop {
            if let Some(found) = self.turns.next(|lane, consumer, _| take(lane, consumer))? {
                return Ok(found);
            }
            self.turns.set.idle(&mut wait, timeout, |_| true)?;
        }
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
        self.fan_in.turns.next(|lane, consumer, _| take_one(lane, consumer))
    }

    /// As [`FanIn::recv`].
    ///
    /// # Errors
    /// As [`FanIn::recv`].
    #[inline]
    pub fn recv(&mut self, timeout: Duration) -> Result<(LaneKey, T), FanInError> {
        self.fan_in.wait_with(timeout, take_one)
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
        self.fan_in.turns.many(limit, |lane, consumer, most| {
            T::Bytes::try_recv_many(consumer, most, |bytes| read(lane, from_bytes(bytes)))
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
            self.fan_in.turns.set.idle(&mut wait, timeout, |_| true)?;
        }
    }
}

type Taken<T> = Option<((LaneKey, T), usize)>;

#[inline(always)]
fn take_one<T: Message>(lane: LaneKey, consumer: &mut Consumer) -> Result<Taken<T>, RecvError> {
    T::Bytes::try_recv(consumer, |bytes| one((lane, from_bytes(bytes))))
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
