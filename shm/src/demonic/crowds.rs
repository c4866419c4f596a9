//! Many lanes in one hand, all but one of them with hostile producers: in turn, by stamps, typed.

use std::collections::BTreeMap;

use super::consumer::Pair;
use super::*;
use crate::fan_in::{FanIn, TypedFanIn, next_span};
use crate::group::{FanInError, LaneKey, LaneSet};
use crate::merge::{Merge, Merged};
use crate::received::View;
use crate::typed::TypedConsumer;

/// Hostile lanes beside the honest one.
const HOSTILE: usize = 3;
/// Takes at most this many at once, and no lane hands out more in its turn.
const MANY: usize = 8;

/// A group of lanes, as the oracles use it.
trait Group {
    fn add(&mut self, consumer: Consumer) -> LaneKey;
    fn remove(&mut self, lane: LaneKey) -> bool;
    fn position(&self, lane: LaneKey) -> Option<u64>;
    /// Receives in one of its ways: up to `limit` messages, now or after a `timeout`.
    fn receive(
        &mut self,
        dice: &Dice,
        limit: usize,
        timeout: Duration,
        found: &mut dyn FnMut(LaneKey, Vec<u8>),
    ) -> Result<usize, FanInError>;
}

impl Group for FanIn {
    fn add(&mut self, consumer: Consumer) -> LaneKey {
        let lane = FanIn::add(self, consumer);
        assert!(self.set_budget(lane, MANY), "oracle: a lane that was added");
        lane
    }
    fn remove(&mut self, lane: LaneKey) -> bool {
        FanIn::remove(self, lane).is_some()
    }
    fn position(&self, lane: LaneKey) -> Option<u64> {
        self.lanes().find(|(key, _)| *key == lane).map(|(_, consumer)| consumer.position())
    }
    fn receive(
        &mut self,
        dice: &Dice,
        limit: usize,
        timeout: Duration,
        found: &mut dyn FnMut(LaneKey, Vec<u8>),
    ) -> Result<usize, FanInError> {
        let mut taken = |lane, view: View<'_>| found(lane, view.to_vec());
        let one = match dice.below(4) {
            0 => self.poll()?,
            1 => Some(self.recv(timeout)?),
            2 => return self.poll_many(limit, taken),
            _ => return self.recv_many(limit, timeout, taken),
        };
        Ok(one.map_or(0, |(lane, slot)| {
            taken(lane, slot.view());
            1
        }))
    }
}

impl Group for TypedFanIn<Pair> {
    fn add(&mut self, consumer: Consumer) -> LaneKey {
        let lane = TypedFanIn::add(self, TypedConsumer::new(consumer));
        assert!(self.set_budget(lane, MANY), "oracle: a lane that was added");
        lane
    }
    fn remove(&mut self, lane: LaneKey) -> bool {
        TypedFanIn::remove(self, lane).is_some()
    }
    fn position(&self, lane: LaneKey) -> Option<u64> {
        self.lanes().find(|(key, _)| *key == lane).map(|(_, consumer)| consumer.position())
    }
    fn receive(
        &mut self,
        dice: &Dice,
        limit: usize,
        timeout: Duration,
        found: &mut dyn FnMut(LaneKey, Vec<u8>),
    ) -> Result<usize, FanInError> {
        let mut taken = |lane, pair: Pair| found(lane, pair.as_bytes().to_vec());
        let one = match dice.below(4) {
            0 => self.try_recv()?,
            1 => Some(self.recv(timeout)?),
            2 => return self.try_recv_many(limit, taken),
            _ => return self.recv_many(limit, timeout, taken),
        };
        Ok(one.map_or(0, |(lane, pair)| {
            taken(lane, pair);
            1
        }))
    }
}

/// By stamps, which must not go down but where it says that one came late.
struct ByStamp<F> {
    merge: Merge<F>,
    newest: u64,
    late: u64,
}

fn stamp(view: View<'_>) -> u64 {
    view.u64_at(0).unwrap_or(0)
}

impl<F: FnMut(View<'_>) -> u64> Group for ByStamp<F> {
    fn add(&mut self, consumer: Consumer) -> LaneKey {
        self.merge.add(consumer)
    }
    fn remove(&mut self, lane: LaneKey) -> bool {
        self.merge.remove(lane).is_some()
    }
    fn position(&self, lane: LaneKey) -> Option<u64> {
        self.merge.lanes().find(|(key, _)| *key == lane).map(|(_, consumer)| consumer.position())
    }
    fn receive(
        &mut self,
        dice: &Dice,
        limit: usize,
        timeout: Duration,
        found: &mut dyn FnMut(LaneKey, Vec<u8>),
    ) -> Result<usize, FanInError> {
        let (newest, late) = (&mut self.newest, &mut self.late);
        let mut taken = |merged: Merged<'_>| {
            found(merged.lane, merged.slot.to_vec());
            assert_eq!(merged.late, merged.stamp < *newest, "oracle: late or not");
            *newest = (*newest).max(merged.stamp);
            *late += u64::from(merged.late);
        };
        let count = match dice.below(4) {
            0 => self.merge.poll()?.map_or(0, |merged| {
                taken(merged);
                1
            }),
            1 => {
                taken(self.merge.recv(timeout)?);
                1
            }
            2 => self.merge.poll_many(limit, taken)?,
            _ => self.merge.recv_many(limit, timeout, taken)?,
        };
        assert_eq!(self.merge.late(), self.late, "oracle: late ones counted");
        Ok(count)
    }
}

/// What is known of a hostile lane.
struct Hostile {
    siege: Arc<Siege>,
    /// It ended, and that was told.
    ended: bool,
    /// It failed, and had been looked at so often.
    failed: Option<u64>,
}

/// One group and what must be true of it.
struct Case<'c, G> {
    group: G,
    lane: &'c Lane,
    dice: &'c Dice,
    hostile: BTreeMap<LaneKey, Hostile>,
    honest: (LaneKey, Producer),
    /// Messages that the honest producer sent, and that came.
    sent: u64,
    came: u64,
    /// Messages of others since the honest lane has had something to hand out.
    waited: usize,
    /// Whether others may come first for as long as they like.
    by_stamps: bool,
    failed: bool,
    looks: u64,
}

impl<'c, G: Group> Case<'c, G> {
    fn new(mut group: G, lane: &'c Lane, dice: &'c Dice, by_stamps: bool) -> Self {
        let wait = if lane.grants[0].park { WaitMode::Park } else { WaitMode::Spin };
        let (slot_payload_bytes, slot_count) = (16, 64);
        let options =
            PairOptions { slot_payload_bytes, slot_count, wait, ..PairOptions::default() };
        let (producer, consumer) = pair(options).unwrap();
        let honest = (group.add(consumer), producer);
        let hostile = BTreeMap::new();
        let (sent, came, waited, failed, looks) = (0, 0, 0, false, 0);
        let mut case = Self {
            group,
            lane,
            dice,
            hostile,
            honest,
            sent,
            came,
            waited,
            by_stamps,
            failed,
            looks,
        };
        (0..HOSTILE).for_each(|_| case.add());
        case
    }

    fn add(&mut self) {
        let base = start(self.dice, &self.lane.geometry);
        let (consumer, siege) = self.lane.consumer(base, self.dice.next());
        siege.set_malice(self.dice);
        let lane = self.group.add(consumer);
        self.hostile.insert(lane, Hostile { siege, ended: false, failed: None });
    }

    fn run(mut self) -> (u64, bool) {
        for _ in 0..=self.dice.below(96) {
            match self.dice.below(8) {
                0..2 => self.send(),
                2 => self.replace(),
                _ => self.receive(),
            }
        }
        let looks: u64 = self.hostile.values().map(|lane| lane.siege.total()).sum();
        (looks + self.looks + 1, self.failed)
    }

    fn message(number: u64) -> [u8; 16] {
        // The stamp of the honest lane is lower than any that is made of marks.
        let mut bytes = [1; 16];
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        bytes
    }

    fn send(&mut self) {
        if self.sent - self.came < 64 {
            self.honest.1.send_array(Self::message(self.sent), NOW).unwrap();
            self.sent += 1;
        }
    }

    /// Takes a lane out, most often one that failed, and adds another.
    fn replace(&mut self) {
        let failed = self.hostile.iter().find(|(_, lane)| lane.failed.is_some());
        let chosen = failed.or_else(|| self.hostile.iter().next()).map(|(lane, _)| *lane);
        let Some(lane) = chosen.filter(|_| self.dice.below(2) == 0) else { return };
        assert!(self.group.remove(lane) && !self.group.remove(lane), "oracle: a known lane");
        self.looks += self.hostile.remove(&lane).map_or(0, |lane| lane.siege.total());
        self.add();
        // The new one's turn comes before the honest one's.
        self.waited = 0;
    }

    fn receive(&mut self) {
        let limit = usize::try_from(self.dice.below(MANY as u64) + 1).unwrap();
        let waits = self.dice.below(256) == 0;
        for (key, lane) in &self.hostile {
            lane.siege.begin(self.group.position(*key).unwrap(), limit + 1);
            if waits {
                lane.siege.be_quiet();
            }
        }
        let pending = self.sent > self.came;
        let mut found = Vec::new();
        let timeout = if waits { SHORT } else { NOW };
        let result = self
            .group
            .receive(self.dice, limit, timeout, &mut |lane, bytes| found.push((lane, bytes)));
        match result {
            Ok(taken) => {
                assert_eq!(taken, found.len(), "oracle: messages handed out");
                assert!(taken <= limit, "oracle: {taken} of {limit}");
                assert!(taken > 0 || !pending, "oracle: an honest message is passed over");
            }
            Err(FanInError::Lane { lane, source }) => self.told(lane, &source, found.is_empty()),
            Err(FanInError::TimedOut { .. }) => {
                assert!(!pending && found.is_empty(), "oracle: an honest message is passed over");
            }
            Err(error) => panic!("oracle: {error}"),
        }
        found.into_iter().for_each(|(lane, bytes)| self.came(lane, &bytes));
        for lane in self.hostile.values() {
            let looks = lane.failed.unwrap_or_else(|| lane.siege.total());
            assert_eq!(lane.siege.total(), looks, "oracle: a lane that failed is looked at");
        }
    }

    fn came(&mut self, lane: LaneKey, bytes: &[u8]) {
        if lane == self.honest.0 {
            assert_eq!(bytes, Self::message(self.came), "oracle: an honest message");
            (self.came, self.waited) = (self.came + 1, 0);
            return;
        }
        let hostile = self.hostile.get_mut(&lane).expect("oracle: a lane that there is");
        assert!(bytes.iter().all(|byte| *byte == DEMONIC), "oracle: bytes");
        hostile.ended = false;
        if self.sent > self.came && !self.by_stamps {
            self.waited += 1;
            let most = HOSTILE * MANY;
            assert!(self.waited <= most, "oracle: an honest lane is delayed beyond the budgets");
        }
    }

    /// Each thing is told once, of a lane that can have it.
    fn told(&mut self, lane: LaneKey, source: &RecvError, alone: bool) {
        assert!(alone, "oracle: an error after a message");
        let hostile = self.hostile.get_mut(&lane);
        let hostile = hostile.unwrap_or_else(|| panic!("oracle: {lane:?} fails: {source}"));
        assert!(hostile.failed.is_none(), "oracle: told of a lane that failed");
        if matches!(source, RecvError::Closed { .. }) {
            assert!(!std::mem::replace(&mut hostile.ended, true), "oracle: an end is told twice");
        } else {
            hostile.failed = Some(hostile.siege.total());
            self.failed = true;
        }
    }
}

#[test]
fn a_fan_ins_every_call_survives_hostile_producers_and_serves_the_honest_one() {
    besiege("fan-in", looks_wanted(), |lane, dice| {
        Case::new(FanIn::new(), lane, dice, false).run()
    });
    besiege("typed fan-in", looks_wanted(), |lane, dice| {
        Case::new(TypedFanIn::new(), lane, dice, false).run()
    });
}

#[test]
fn a_merges_every_call_survives_hostile_producers_and_hands_out_the_honest_ones() {
    besiege("merge", looks_wanted(), |lane, dice| {
        let merge = Merge::new(NOW, stamp);
        Case::new(ByStamp { merge, newest: 0, late: 0 }, lane, dice, true).run()
    });
}

/// What somebody could have got wrong about many lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    /// Looks at a lane again that has failed.
    Forgets,
    /// Begins every round with the same lane.
    HasNoTurns,
    /// Waits for the lane whose turn it is.
    WaitsForItsTurn,
    /// Tells an end as often as it looks.
    Repeats,
}

/// A fan-in with one of them.
struct Faulty {
    set: LaneSet<Consumer>,
    bug: Bug,
    turn: usize,
}

impl Group for Faulty {
    fn add(&mut self, consumer: Consumer) -> LaneKey {
        self.set.add(consumer)
    }
    fn remove(&mut self, lane: LaneKey) -> bool {
        self.set.remove(lane).is_some()
    }
    fn position(&self, lane: LaneKey) -> Option<u64> {
        let index = self.set.index(lane)?;
        Some(self.set.lanes[index].consumer.position())
    }
    fn receive(
        &mut self,
        _dice: &Dice,
        _limit: usize,
        _timeout: Duration,
        found: &mut dyn FnMut(LaneKey, Vec<u8>),
    ) -> Result<usize, FanInError> {
        let (count, first) = (self.set.lanes.len(), self.turn);
        for index in (0..count).map(|index| (first + index) % count) {
            let lane = &mut self.set.lanes[index];
            if !lane.is_usable() && self.bug != Bug::Forgets {
                continue;
            }
            self.turn = if self.bug == Bug::HasNoTurns { 1 } else { index + 1 };
            match next_span(&mut lane.consumer) {
                Ok(Some(span)) => {
                    lane.reopen();
                    found(lane.key, View::new(&lane.consumer, span).to_vec());
                    lane.consumer.ring.release(&span);
                    return Ok(1);
                }
                Ok(None) if self.bug == Bug::WaitsForItsTurn => return Ok(0),
                Ok(None) => {}
                Err(source) if self.bug == Bug::Repeats => {
                    if !matches!(source, RecvError::Closed { .. }) {
                        let _ = lane.judge(RecvError::Revoked);
                    }
                    return Err(FanInError::Lane { lane: lane.key, source });
                }
                Err(source) => {
                    if let Some(error) = lane.judge(source) {
                        return Err(error);
                    }
                }
            }
        }
        Ok(0)
    }
}

#[test]
fn the_oracles_catch_every_planted_bug_of_a_fan_in() {
    for bug in [Bug::Forgets, Bug::HasNoTurns, Bug::WaitsForItsTurn, Bug::Repeats] {
        faulty::assert_caught(&format!("{bug:?}"), |lane, dice| {
            let faulty = Faulty { set: LaneSet::default(), bug, turn: 0 };
            Case::new(faulty, lane, dice, false).run()
        });
    }
}

/// A merge that reads the stamp of a message again when it hands it out.
struct StampsTwice(LaneSet<Consumer>, Vec<(u64, LaneKey)>);

impl Group for StampsTwice {
    fn add(&mut self, consumer: Consumer) -> LaneKey {
        self.0.add(consumer)
    }
    fn remove(&mut self, lane: LaneKey) -> bool {
        self.1.retain(|(_, key)| *key != lane);
        self.0.remove(lane).is_some()
    }
    fn position(&self, lane: LaneKey) -> Option<u64> {
        let index = self.0.index(lane)?;
        Some(self.0.lanes[index].consumer.position())
    }
    fn receive(
        &mut self,
        _dice: &Dice,
        _limit: usize,
        _timeout: Duration,
        found: &mut dyn FnMut(LaneKey, Vec<u8>),
    ) -> Result<usize, FanInError> {
        for lane in self.0.lanes.iter_mut().filter(|lane| lane.is_usable()) {
            let key = lane.key;
            if self.1.iter().all(|(_, head)| *head != key) {
                match next_span(&mut lane.consumer) {
                    Ok(Some(span)) => self.1.push((stamp(View::new(&lane.consumer, span)), key)),
                    Ok(None) => {}
                    Err(source) => {
                        if let Some(error) = lane.judge(source) {
                            return Err(error);
                        }
                    }
                }
            }
        }
        let Some(first) = self.1.iter().copied().min() else { return Ok(0) };
        self.1.retain(|head| *head != first);
        let index = self.0.index(first.1).unwrap();
        let lane = &mut self.0.lanes[index];
        // The slot is looked at anew: another message may lie there by now, or none.
        match next_span(&mut lane.consumer) {
            Ok(Some(span)) => {
                let view = View::new(&lane.consumer, span);
                assert_eq!(
                    stamp(view),
                    first.0,
                    "oracle: another stamp than the one it was ranked by"
                );
                found(lane.key, view.to_vec());
                lane.consumer.ring.release(&span);
                Ok(1)
            }
            Ok(None) => Ok(0),
            Err(source) => Err(lane.judge(source).expect("oracle: an end is told twice")),
        }
    }
}

#[test]
fn the_oracles_catch_a_merge_that_looks_at_a_message_twice() {
    faulty::assert_caught("StampsTwice", |lane, dice| {
        Case::new(StampsTwice(LaneSet::default(), Vec::new()), lane, dice, true).run()
    });
}
