//! Several consumers in one hand: which there are, what is wrong with one of them, and waiting for
//! all of them.
//!
//! Whatever is wrong with a lane is told once, with its key,
//! and ends that lane alone. The order in which lanes are looked at is for [`crate::FanIn`] and
//! [`crate::Merge`].

use std::time::{Duration, Instant};

use thiserror::Error;

use crate::consumer::Consumer;
use crate::error::RecvError;
use crate::futex::{Woken, wait_any};
use crate::layout::P_BELL;
use crate::producer::SLEEP_MAX;
use crate::ring::{UNJOINED_SLEEP, sleep_on_all};
use crate::sync::spin_hint;

/// Looks at lanes between two readings of the clock.
const LOOKS_PER_CLOCK: usize = 64;
/// Rounds of that many looks before a sleep: as long as one consumer spins.
const ROUNDS_BEFORE_PARK: u32 = 32;
/// Idle this long, every lane's agent is heard.
const IDLE_LOOK: Duration = Duration::from_millis(20);

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

/// What is known of a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// Its producer ended the stream, and that was told.
    Ended,
    /// Never looked at again.
    Failed,
}

/// One lane.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) key: LaneKey,
    pub(crate) consumer: Consumer,
    state: State,
}

impl Lane {
    pub(crate) fn is_usable(&self) -> bool {
        self.state != State::Failed
    }

    /// Whether a producer is, or may be, about to send.
    pub(crate) fn is_open(&self) -> bool {
        self.state == State::Open
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
#[derive(Debug, Default)]
pub(crate) struct LaneSet {
    pub(crate) lanes: Vec<Lane>,
    keys: u64,
}

/// How long a call has waited.
#[derive(Debug)]
pub(crate) struct Waiting {
    timeout: Duration,
    start: Option<Instant>,
    looks: usize,
    rounds: u32,
    /// Woken, and nothing was there: the agent may have rung.
    woken: bool,
    heard_at: Option<Instant>,
    over: bool,
}

impl Waiting {
    pub(crate) fn new(timeout: Duration) -> Self {
        let (start, heard_at) = (None, None);
        Self { timeout, start, looks: 0, rounds: 0, woken: false, heard_at, over: false }
    }
}

impl LaneSet {
    pub(crate) fn add(&mut self, consumer: Consumer) -> LaneKey {
        let key = LaneKey(self.keys);
        self.keys += 1;
        self.lanes.push(Lane { key, consumer, state: State::Open });
        key
    }

    pub(crate) fn index(&self, key: LaneKey) -> Option<usize> {
        self.lanes.binary_search_by_key(&key, |lane| lane.key).ok()
    }

    pub(crate) fn remove(&mut self, key: LaneKey) -> Option<(usize, Consumer)> {
        let index = self.index(key)?;
        Some((index, self.lanes.remove(index).consumer))
    }

    /// What a wait does between two rounds of looks: lets time pass, by spinning or, if every lane
    /// may sleep, by sleeping until one of those that `awaited` names rings, `limit` at most.
    ///
    /// # Errors
    /// `TimedOut`, `NoLanes`, or what the agent said of a lane.
    pub(crate) fn idle(
        &mut self,
        wait: &mut Waiting,
        limit: Duration,
        awaited: impl Fn(LaneKey) -> bool,
    ) -> Result<(), FanInError> {
        let usable = self.lanes.iter().filter(|lane| lane.is_usable()).count();
        if usable == 0 {
            return Err(FanInError::NoLanes { lanes: self.lanes.len() });
        }
        wait.looks += usable;
        if wait.looks < LOOKS_PER_CLOCK {
            spin_hint();
            return Ok(());
        }
        (wait.looks, wait.rounds) = (0, wait.rounds.saturating_add(1));
        let now = Instant::now();
        let waited = now.duration_since(*wait.start.get_or_insert(now));
        if waited >= wait.timeout {
            if std::mem::replace(&mut wait.over, true) {
                return Err(FanInError::TimedOut { waited: wait.timeout, lanes: usable });
            }
            // And one more look, at what the agent brought.
            return self.maintain();
        }
        let parks = |lane: &Lane| lane.consumer.grant().park || !lane.is_usable();
        if wait.rounds <= ROUNDS_BEFORE_PARK || !self.lanes.iter().all(parks) {
            spin_hint();
            return Ok(());
        }
        if wait.woken || now.duration_since(*wait.heard_at.get_or_insert(now)) >= IDLE_LOOK {
            (wait.woken, wait.heard_at) = (false, Some(now));
            self.maintain()?;
        }
        let left = wait.timeout.saturating_sub(waited);
        wait.woken = self.park(left.min(limit).min(SLEEP_MAX), awaited);
        Ok(())
    }

    /// Looks at the agent's events of every lane.
    ///
    /// # Errors
    /// The first thing to tell; what other lanes have to tell is told by the next call.
    pub(crate) fn maintain(&mut self) -> Result<(), FanInError> {
        for lane in self.lanes.iter_mut().filter(|lane| lane.is_usable()) {
            if let Err(error) = lane.consumer.maintain()
                && let Some(error) = lane.judge(error)
            {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Sleeps until a lane rings. True if it ended before its time.
    fn park(&mut self, limit: Duration, awaited: impl Fn(LaneKey) -> bool) -> bool {
        let counts = |lane: &&mut Lane| lane.is_usable() && awaited(lane.key);
        let lanes = self.lanes.iter_mut().filter(counts);
        let mut rings: Vec<_> = lanes.map(|lane| &mut lane.consumer.ring).collect();
        sleep_on_all(&mut rings, limit, |peers, limit| {
            let bells: Vec<_> = peers.iter().map(|(peer, rung)| peer.bell(P_BELL, *rung)).collect();
            match wait_any(&bells, limit) {
                Woken::Early => true,
                Woken::InTime => false,
                Woken::Refused => {
                    std::thread::sleep(limit.min(UNJOINED_SLEEP));
                    false
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sleep::BELLS_MAX;
    use crate::{PairOptions, WaitMode, pair};

    /// No wake-up takes as long on any machine that is not stuck.
    const LONG: Duration = Duration::from_secs(60);

    fn parked(set: &mut LaneSet) -> crate::Producer {
        let options = PairOptions { wait: WaitMode::Park, ..PairOptions::default() };
        let (producer, consumer) = pair(options).unwrap();
        set.add(consumer);
        producer
    }

    #[test]
    fn a_message_in_any_lane_ends_the_sleep_for_all_of_them() {
        let mut set = LaneSet::default();
        let mut producers: Vec<_> = (0..3).map(|_| parked(&mut set)).collect();
        for (index, mut producer) in producers.drain(..).enumerate() {
            let sender = std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(20));
                producer.send(b"wake", Duration::ZERO).map(|()| producer)
            });
            assert!(set.park(LONG, |_| true), "lane {index} rang in vain");
            let found = set.lanes[index].consumer.poll().unwrap().map(|slot| slot.to_vec());
            assert_eq!(found.as_deref(), Some(&b"wake"[..]));
            let _lives_on = sender.join().unwrap().unwrap();
        }
    }

    #[test]
    fn nobody_sleeps_over_a_message_that_is_there_or_beyond_the_limit() {
        let mut set = LaneSet::default();
        let mut first = parked(&mut set);
        let _second = parked(&mut set);
        assert!(!set.park(Duration::from_millis(5), |_| true), "nothing rang");
        first.send(b"here", Duration::ZERO).unwrap();
        assert!(set.park(LONG, |_| true));
        // A lane that is not awaited neither keeps the sleep off nor ends it.
        let others = |key| key != set.lanes[0].key;
        let others: Vec<_> =
            set.lanes.iter().map(|lane| lane.key).filter(|key| others(*key)).collect();
        assert!(!set.park(Duration::from_millis(5), |key| others.contains(&key)));
    }

    #[test]
    fn more_lanes_than_the_kernel_sleeps_on_at_once_are_all_heard() {
        let mut set = LaneSet::default();
        let mut producers: Vec<_> = (0..BELLS_MAX + 2).map(|_| parked(&mut set)).collect();
        assert!(!set.park(LONG, |_| true), "a bounded sleep, for those without a bell");
        let mut last = producers.pop().unwrap();
        last.send(b"heard", Duration::ZERO).unwrap();
        assert!(set.park(LONG, |_| true));
    }
}
