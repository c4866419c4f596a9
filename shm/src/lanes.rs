//! Waiting for several consumers at once, and hearing their agents meanwhile.
//!
//! Which lanes there are and what was told of each is for [`crate::group`], the order in which they
//! are looked at for [`crate::turns`] and [`crate::order`].

use std::time::{Duration, Instant};

use crate::consumer::Consumer;
use crate::futex::{Woken, wait_any};
use crate::group::{FanInError, Lane, LaneKey, LaneSet};
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

impl LaneSet<Consumer> {
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
        let parks = |lane: &Lane<Consumer>| lane.consumer.grant().park || !lane.is_usable();
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
        let counts = |lane: &&mut Lane<Consumer>| lane.is_usable() && awaited(lane.key);
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

    fn parked(set: &mut LaneSet<Consumer>) -> crate::Producer {
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
