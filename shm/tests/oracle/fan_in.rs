//! The calls on a fan-in that applications have, in one thread.

use std::time::Duration;

use laneway_shm::{FanIn, FanInError, LaneKey, PairOptions};

use super::ends::Ends;
use super::group::{Heard, LANES};
use super::in_turn::Circle;
use super::operation::{Group as Call, Operation, Take};
use super::queue::Next;

const NOW: Duration = Duration::ZERO;
const BUDGET: usize = 16;

/// Lanes in the hand of one reader, and what they must behave like.
pub(crate) struct Handles {
    fan_in: FanIn,
    circle: Circle,
    lanes: [(Ends, Option<LaneKey>); LANES],
    /// Lanes that have told of their end since they were added.
    ended: Vec<LaneKey>,
    /// An end that was found behind messages: the next call tells it.
    untold: Option<LaneKey>,
    calls: u64,
}

impl Handles {
    pub(crate) fn new(options: PairOptions) -> Self {
        let lanes = std::array::from_fn(|n| (Ends::numbered(n as u64, options), None));
        let (fan_in, circle) = (FanIn::new(), Circle::default());
        let (ended, untold) = (Vec::new(), None);
        let mut handles = Self { fan_in, circle, lanes, ended, untold, calls: 0 };
        (0..LANES).for_each(|lane| handles.add(lane));
        handles
    }

    /// Makes the calls and takes what is left.
    pub(crate) fn make_all(&mut self, calls: impl IntoIterator<Item = Call>) {
        calls.into_iter().for_each(|call| self.make(call));
        let out: Vec<_> = (0..LANES).filter(|&lane| self.lanes[lane].1.is_none()).collect();
        out.into_iter().for_each(|lane| self.add(lane));
        while !self.certain().is_empty() || self.untold.is_some() {
            self.make(Call::Poll);
        }
        self.make(Call::Poll);
    }

    fn make(&mut self, call: Call) {
        self.calls += 1;
        match call {
            Call::Of(lane, operation) => self.lanes[lane].0.make(operation),
            Call::Poll => self.poll(),
            Call::Many(limit) => self.many(limit),
            Call::Budget(lane, messages) => {
                if let Some(lane) = self.lanes[lane].1 {
                    assert!(self.fan_in.set_budget(lane, messages), "oracle: a lane of the group");
                    self.circle.set_budget(lane, messages);
                }
            }
            Call::OutOrIn(lane) => match self.lanes[lane].1.take() {
                Some(key) => {
                    self.circle.remove(key);
                    self.untold.take_if(|untold| *untold == key);
                    let consumer = self.fan_in.remove(key).expect("oracle: a lane of the group");
                    assert!(self.fan_in.remove(key).is_none(), "oracle: taken out twice");
                    self.lanes[lane].0.have_back(consumer);
                    self.lanes[lane].0.make(Operation::Receive(Take::Poll));
                }
                None => self.add(lane),
            },
            Call::Elapse(_) => assert_eq!(self.fan_in.lanes().count(), self.circle.count()),
        }
    }

    fn add(&mut self, lane: usize) {
        let key = self.fan_in.add(self.lanes[lane].0.lend());
        self.circle.add(key, BUDGET);
        self.lanes[lane].1 = Some(key);
    }

    fn certain(&self) -> Vec<LaneKey> {
        let keys = self.lanes.iter().filter_map(|(ends, key)| Some((ends, (*key)?)));
        let has_news = |(ends, key): &(&Ends, LaneKey)| match ends.queue.after(0) {
            Next::Nothing => ends.queue.has_ended() && !self.ended.contains(key),
            _ => true,
        };
        keys.filter(has_news).map(|(_, key)| key).collect()
    }

    fn ends(&mut self, lane: LaneKey) -> &mut Ends {
        let found = self.lanes.iter_mut().find(|(_, key)| *key == Some(lane));
        &mut found.expect("oracle: a lane that was taken out is heard").0
    }

    /// Judges what was heard of a lane, and takes it.
    fn heard(&mut self, lane: LaneKey, bytes: Vec<u8>) {
        let certain = self.certain();
        self.circle.judge(Heard::Message(lane), &certain);
        let ends = self.ends(lane);
        assert_eq!(Next::Message(bytes), ends.queue.after(0), "oracle: message");
        ends.taken(1);
    }

    /// Judges that nothing is heard any more, or that an end is.
    fn refused(&mut self, error: &FanInError) {
        let certain = self.certain();
        match error {
            FanInError::TimedOut { lanes, .. } => {
                assert_eq!(*lanes, self.circle.count(), "oracle: lanes");
                self.circle.judge(Heard::Nothing, &certain);
            }
            FanInError::NoLanes { .. } => assert_eq!(self.circle.count(), 0, "oracle: no lanes"),
            FanInError::Lane { lane, source } => {
                match self.untold.take() {
                    Some(untold) => assert_eq!(*lane, untold, "oracle: an end is not told"),
                    None => self.circle.judge(Heard::Ended(*lane), &certain),
                }
                self.ends(*lane).refused(source);
                self.ended.push(*lane);
            }
            other => panic!("oracle: {other}"),
        }
    }

    fn poll(&mut self) {
        let found = match self.calls.is_multiple_of(2) {
            true => self.fan_in.poll(),
            false => self.fan_in.recv(NOW).map(Some),
        };
        match found.map(|found| found.map(|(lane, slot)| (lane, slot.to_vec()))) {
            Ok(Some((lane, bytes))) => {
                assert!(self.untold.is_none(), "oracle: an end is not told");
                self.heard(lane, bytes);
            }
            Ok(None) => {
                let certain = self.certain();
                self.circle.judge(Heard::Nothing, &certain);
            }
            Err(error) => self.refused(&error),
        }
    }

    fn many(&mut self, limit: usize) {
        let mut found = Vec::new();
        let read = |lane, view: laneway_shm::View<'_>| found.push((lane, view.to_vec()));
        let result = match self.calls.is_multiple_of(2) {
            true => self.fan_in.poll_many(limit, read),
            false => self.fan_in.recv_many(limit, NOW, read),
        };
        let came = found.len();
        found.into_iter().for_each(|(lane, bytes)| self.heard(lane, bytes));
        match result {
            Ok(taken) => {
                assert!(taken == came && came <= limit, "oracle: {came} of {limit} messages");
                self.find_end(came, limit);
            }
            Err(error) => {
                assert_eq!(came, 0, "oracle: an error after a message");
                self.refused(&error);
            }
        }
    }

    /// What ended a call for many before its limit: nothing, or an end, which is the first of them.
    fn find_end(&mut self, came: usize, limit: usize) {
        if came == limit {
            return;
        }
        let certain = self.certain();
        let ended = self.circle.order().into_iter().find(|lane| certain.contains(lane));
        let is_end = |next| matches!(next, Next::End | Next::Nothing);
        match ended.filter(|lane| is_end(self.ends(*lane).queue.after(0)) && came > 0) {
            None => self.circle.judge(Heard::Nothing, &certain),
            Some(lane) => {
                self.circle.judge(Heard::Ended(lane), &certain);
                self.ends(lane).pass_end();
                self.untold = Some(lane);
            }
        }
    }
}
