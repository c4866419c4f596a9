//! Lanes that are read in turn, and whose turn it has to be.

use std::collections::BTreeMap;
use std::time::Duration;

use laneway_shm::ring::{Turns, sleep_on_all};
use laneway_shm::{FanInError, LaneKey, RecvError};

use super::group::{Closed, Ear, Heard, Reads, Wrong, heard};
use super::operation::Group as Call;
use super::ring::{FOR_EVER, World};

/// Who has to be heard: lanes in a circle, each with a budget.
#[derive(Clone, Debug, Default)]
pub(crate) struct Circle {
    lanes: Vec<(LaneKey, usize)>,
    holder: Option<Holder>,
}

/// Whose turn it is, and how much of its budget it has used, at least and at most: a turn may have
/// gone around between two messages, unseen because nobody had any.
#[derive(Clone, Copy, Debug)]
struct Holder {
    index: usize,
    used: (usize, usize),
}

impl Circle {
    fn index(&self, lane: LaneKey) -> Option<usize> {
        self.lanes.iter().position(|(key, _)| *key == lane)
    }

    pub(crate) fn add(&mut self, lane: LaneKey, budget: usize) {
        self.lanes.push((lane, budget));
    }

    pub(crate) fn set_budget(&mut self, lane: LaneKey, budget: usize) {
        let index = self.index(lane).expect("a lane of the group");
        self.lanes[index].1 = budget.max(1);
    }

    pub(crate) fn remove(&mut self, lane: LaneKey) {
        let index = self.index(lane).expect("a lane of the group");
        self.lanes.remove(index);
        let Some(holder) = &mut self.holder else { return };
        if index < holder.index {
            holder.index -= 1;
        } else if index == holder.index {
            // Its turn is the next one's.
            *holder = Holder { index: index % self.lanes.len().max(1), used: (0, 0) };
        }
        self.holder = self.holder.filter(|_| !self.lanes.is_empty());
    }

    pub(crate) fn count(&self) -> usize {
        self.lanes.len()
    }

    /// The lanes, from the one on that may hand something out now.
    pub(crate) fn order(&self) -> Vec<LaneKey> {
        let first = self.holder.map_or(0, |holder| {
            let is_over = holder.used.0 >= self.lanes[holder.index].1;
            (holder.index + usize::from(is_over)) % self.lanes.len()
        });
        let (before, rest) = self.lanes.split_at(first);
        rest.iter().chain(before).map(|(lane, _)| *lane).collect()
    }

    /// Judges one thing that a call handed out, or that it found nothing; `certain` are the lanes
    /// that have had something since before.
    pub(crate) fn judge(&mut self, heard: Heard, certain: &[LaneKey]) {
        let (Heard::Message(lane) | Heard::Ended(lane)) = heard else {
            assert_eq!(certain, [], "oracle: nothing was found, and there was something");
            self.holder = None;
            return;
        };
        let found = self.index(lane).expect("oracle: a lane that was taken out is heard");
        let used = match self.holder {
            Some(holder) => self.turned(holder, found, certain),
            None => (1, 1),
        };
        self.holder = Some(match heard {
            // Who has ended has had its turn.
            Heard::Ended(_) => Holder { index: (found + 1) % self.lanes.len(), used: (0, 0) },
            _ => Holder { index: found, used },
        });
    }

    /// Lets the turn go on to `found`; returns what that one has used of its budget then.
    fn turned(&self, holder: Holder, found: usize, certain: &[LaneKey]) -> (usize, usize) {
        let (count, (key, budget)) = (self.lanes.len(), self.lanes[holder.index]);
        let (least, most) = holder.used;
        let is_certain = |index: usize| certain.contains(&self.lanes[index].0);
        let others = (1..count).map(|step| (holder.index + step) % count);
        let must_keep = most < budget && certain.contains(&key);
        if found == holder.index {
            let passed = others.into_iter().find(|&index| is_certain(index));
            let goes_on = least < budget;
            assert!(goes_on || passed.is_none(), "oracle: {passed:?} of {self:?} was passed over");
            let is_fresh = passed.is_none() && !must_keep;
            let least = if is_fresh { 1 } else { least + 1 };
            return (least, if goes_on { (most + 1).min(budget) } else { 1 });
        }
        let passed = others.take_while(|&index| index != found).find(|&index| is_certain(index));
        let passed = passed.or_else(|| must_keep.then_some(holder.index));
        assert!(passed.is_none(), "oracle: {passed:?} of {self:?} was passed over for {found}");
        (1, 1)
    }
}

/// Lanes that are read in turn.
pub(crate) struct InTurn<W: World> {
    turns: Turns<Ear<W>>,
    circle: Circle,
    /// Lanes of the group, and which numbers they have.
    keys: BTreeMap<LaneKey, usize>,
    out: Vec<Ear<W>>,
    /// An end that was found behind messages: the next call tells it.
    untold: Option<LaneKey>,
    wrong: Wrong,
}

const BUDGET: usize = 16;

impl<W: World> InTurn<W> {
    pub(crate) fn new(wrong: Wrong) -> Self {
        let (turns, circle) = (Turns::default(), Circle::default());
        Self { turns, circle, keys: BTreeMap::new(), out: Vec::new(), untold: None, wrong }
    }

    fn key(&self, number: usize) -> Option<LaneKey> {
        self.keys.iter().find(|(_, of)| **of == number).map(|(key, _)| *key)
    }

    /// Takes a lane out, or puts it back; one that is out is read alone, and may be restarted.
    fn out_or_in(&mut self, number: usize) {
        if let Some(at) = self.out.iter().position(|ear| ear.number == number) {
            let mut ear = self.out.swap_remove(at);
            ear.restart();
            self.add(ear);
            return;
        }
        let Some(lane) = self.key(number) else { return };
        self.keys.remove(&lane);
        let before = self.circle.index(lane) < self.circle.holder.map(|holder| holder.index);
        self.circle.remove(lane);
        if self.wrong == Wrong::StaysIn {
            return;
        }
        let ear = self.turns.remove(lane).expect("oracle: a lane of the group");
        assert!(self.turns.remove(lane).is_none(), "oracle: taken out twice");
        self.out.push(ear);
        self.untold.take_if(|untold| *untold == lane);
        if before && self.untold.is_none() && self.wrong == Wrong::IndexStays {
            // A round that finds nothing ends where it began, and one further.
            let nothing = self.turns.next(|_, _, _| Ok(None::<((), usize)>));
            assert!(nothing.is_ok(), "nobody was asked");
        }
    }

    /// Lanes in which something must be found.
    fn certain(&self) -> Vec<LaneKey> {
        let ears = self.turns.lanes().filter(|(_, ear)| ear.has_news());
        ears.map(|(lane, _)| lane).filter(|lane| self.keys.contains_key(lane)).collect()
    }

    fn poll(&mut self) -> usize {
        let certain = self.certain();
        let first = certain.first().copied().filter(|_| self.wrong == Wrong::FirstComes);
        let wrong = self.wrong;
        let found = self.turns.next(|lane, ear, left| {
            assert!(left > 0, "oracle: a lane without a budget is asked");
            if first.is_some_and(|first| first != lane) {
                return Ok(None);
            }
            let span = ear.next()?;
            Ok(span.map(|span| ((lane, span), usize::from(wrong != Wrong::NeverUsed))))
        });
        let heard = match found {
            Ok(Some((lane, span))) => {
                let (current, ear) = self.turns.current().expect("it was just there");
                assert_eq!(current, lane, "oracle: another lane has the turn");
                ear.receiver.take(span);
                Heard::Message(lane)
            }
            Ok(None) => Heard::Nothing,
            Err(error) => heard(&error),
        };
        if let Some(untold) = self.untold.take() {
            assert_eq!(heard, Heard::Ended(untold), "oracle: an end that was found is not told");
            return 1;
        }
        self.circle.judge(heard, &certain);
        usize::from(heard != Heard::Nothing)
    }

    fn many(&mut self, limit: usize) -> usize {
        let mut certain = self.certain();
        let (mut events, mut rest) = (Vec::new(), limit);
        let result = self.turns.many(limit, |lane, ear, most| {
            assert!(most > 0 && most <= rest, "oracle: a lane may hand out {most}");
            let (taken, ended) = ear.take_many(most);
            rest -= taken;
            let more = ear.has_news();
            let messages = (1..=taken).map(|nth| (Heard::Message(lane), more || nth < taken));
            events.extend(messages);
            match ended {
                None => Ok(taken),
                Some(closed) => {
                    let is_new = closed == Closed::Now;
                    events.extend(is_new.then_some((Heard::Ended(lane), true)));
                    Err(RecvError::Closed { position: ear.receiver.position() })
                }
            }
        });
        if limit == 0 {
            assert!(matches!(result, Ok(0)), "oracle: what was not asked for");
            return 0;
        }
        if let Some(untold) = self.untold.take() {
            let told = result.as_ref().err().map(heard);
            assert_eq!(told, Some(Heard::Ended(untold)), "oracle: an end is not told");
            return 1;
        }
        for &(heard, more) in &events {
            self.circle.judge(heard, &certain);
            let (Heard::Message(lane) | Heard::Ended(lane)) = heard else { continue };
            certain.retain(|other| *other != lane || more);
        }
        self.judge_result(&result, &events, limit, &certain)
    }

    /// Whether a call for many returned what it handed out.
    fn judge_result(
        &mut self,
        result: &Result<usize, FanInError>,
        events: &[(Heard, bool)],
        limit: usize,
        certain: &[LaneKey],
    ) -> usize {
        let is_message = |heard: &Heard| matches!(heard, Heard::Message(_));
        let came = events.iter().filter(|(heard, _)| is_message(heard)).count();
        let ended = events.last().map(|(heard, _)| *heard).filter(|heard| !is_message(heard));
        match result {
            Ok(taken) => {
                assert_eq!(*taken, came, "oracle: messages");
                assert!(came <= limit, "oracle: {came} of {limit} messages");
                match ended {
                    Some(Heard::Ended(lane)) => self.untold = Some(lane),
                    _ if came < limit => self.circle.judge(Heard::Nothing, certain),
                    _ => {}
                }
            }
            Err(error) => {
                assert_eq!((came, ended), (0, Some(heard(error))), "oracle: an error");
            }
        }
        events.len()
    }
}

impl<W: World> Reads<W> for InTurn<W> {
    fn add(&mut self, ear: Ear<W>) {
        let number = ear.number;
        let lane = self.turns.add(ear);
        self.circle.add(lane, BUDGET);
        self.keys.insert(lane, number);
        if self.wrong == Wrong::NoBudget {
            self.turns.set_budget(lane, usize::MAX);
        }
    }

    fn make(&mut self, call: Call) -> usize {
        match call {
            Call::Poll => self.poll(),
            Call::Many(limit) => self.many(limit),
            Call::Budget(number, messages) => {
                let Some(lane) = self.key(number) else { return 0 };
                self.circle.set_budget(lane, messages);
                let messages = if self.wrong == Wrong::NoBudget { usize::MAX } else { messages };
                assert!(self.turns.set_budget(lane, messages), "oracle: a lane of the group");
                0
            }
            Call::OutOrIn(number) => {
                self.out_or_in(number);
                0
            }
            Call::Elapse(_) => 0,
            Call::Of(..) => panic!("{call:?} is a producer's"),
        }
    }

    fn ears<'a>(&'a self) -> impl Iterator<Item = &'a Ear<W>>
    where
        W: 'a,
    {
        self.turns.lanes().map(|(_, ear)| ear)
    }

    fn out(&self) -> &[Ear<W>] {
        &self.out
    }

    fn sleep(&mut self, wait: impl FnOnce(&[(&W::Memory, u32)], Duration) -> bool) {
        let is_deaf = self.wrong == Wrong::Deaf;
        let mut rings: Vec<_> = self.turns.usable().map(|(_, ear)| ear.receiver.ring()).collect();
        sleep_on_all(&mut rings, FOR_EVER, |bells, limit| {
            let unheard = if is_deaf { bells.len().saturating_sub(1) } else { 0 };
            wait(&bells[unheard..], limit)
        });
    }
}
