//! The calls on a broadcast lane, over any memory: a producer and its successors, readers that
//! come, read, leave and die. What the agent does between them is a list of news here.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use laneway_shm::geometry::Geometry;
use laneway_shm::layout::{C_LOST, READERS_MAX};
use laneway_shm::memory::Memory;
use laneway_shm::ring::{Follower, Found, Heard, Policy, Reader, Span, Start, Writer};
use laneway_shm::roster::{self, Entry};
use laneway_shm::{Reason, WaitMode};

use super::history::History;
use super::mutant::Mistake;
use super::operation::{Crowd as Call, Form, Operation};
use super::queue::{Room, bytes_of};
use super::ring::{FOR_EVER, Ground, Patience, World};

/// Readers at a time.
pub(crate) const READERS: usize = 3;
const UNKNOWN: u64 = u64::MAX;

/// What one thread notices, and in which lanes.
pub(crate) const OF_CROWDS: [(Mistake, Policy); 8] = [
    (Mistake::OneSlotMore, Policy::Gated),
    (Mistake::AllHaveLeft, Policy::Gated),
    (Mistake::SecretLeave, Policy::Gated),
    (Mistake::LateStart, Policy::Gated),
    (Mistake::LateStart, Policy::Overwrite),
    (Mistake::SecretLoss, Policy::Overwrite),
    (Mistake::SecretVerdict, Policy::Evicting { budget: 2 }),
    (Mistake::NoMarks, Policy::Overwrite),
];

/// What the producer has not heard yet.
enum News<M> {
    Joins { number: u64, own: M, start: Start },
    Gone { number: u64 },
}

struct Shared<W: World> {
    world: W,
    geometry: Geometry,
    policy: Policy,
    wait: WaitMode,
    history: Mutex<History>,
    /// The producers' segments, one after the other, and where each ends once its producer is dead.
    generations: Mutex<Vec<(W::Memory, Option<u64>)>>,
    news: Mutex<VecDeque<News<W::Memory>>>,
    numbers: AtomicU64,
    /// Position after the last end of all, once it is known.
    end: AtomicU64,
}

/// Where a broadcast lane is.
pub(crate) struct Hall<W: World>(Arc<Shared<W>>);

impl<W: World> Clone for Hall<W> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<W: World> Hall<W> {
    pub(crate) fn new(world: W, geometry: Geometry, policy: Policy, wait: WaitMode) -> Self {
        let generations = Mutex::new(vec![(world.producer(), None)]);
        let history = History::new(geometry.payload(), geometry.count(), policy);
        Self(Arc::new(Shared {
            world,
            geometry,
            policy,
            wait,
            history: Mutex::new(history),
            generations,
            news: Mutex::default(),
            numbers: AtomicU64::new(1),
            end: AtomicU64::new(UNKNOWN),
        }))
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.0.history.lock().expect("never held by a thread that fails elsewhere")
    }

    fn tell(&self, news: News<W::Memory>) {
        self.0.news.lock().expect("as the history").push_back(news);
    }

    /// A producer's segment, and where it ends, if it is known.
    fn generation(&self, number: usize) -> Option<(W::Memory, u64)> {
        let generations = self.0.generations.lock().expect("as the history");
        let found = generations.get(number).cloned();
        found.map(|(memory, end)| (memory, end.unwrap_or(UNKNOWN)))
    }

    /// Its first producer.
    pub(crate) fn speaker(&self) -> Speaker<W> {
        let Shared { geometry, policy, wait, .. } = *self.0;
        let (own, _) = self.generation(0).expect("the first one");
        let writer = Writer::broadcast(own, geometry, wait, 0, policy);
        Speaker { hall: self.clone(), writer, members: Vec::new(), closed: false }
    }

    /// Asks for a reader to be let in. None if so many came that the list may be full.
    pub(crate) fn join(&self, start: Start) -> Option<Listener<W>> {
        let number = self.0.numbers.fetch_add(1, Ordering::SeqCst);
        if number > READERS_MAX as u64 {
            return None;
        }
        let Shared { geometry, wait, .. } = self.0.as_ref();
        let own = self.0.world.consumer();
        let eyes = match self.0.policy.loses() {
            false => Eyes::Gate(Reader::new(own.clone(), *geometry, *wait, 0, number)),
            true => Eyes::Follow(Follower::new(own.clone(), *geometry, *wait, 0, number)),
        };
        self.tell(News::Joins { number, own: own.clone(), start });
        let (hall, buffer) = (self.clone(), Vec::new());
        let entered = None;
        Some(Listener { hall, eyes, own, number, entered, by_message: false, lost: 0, buffer })
    }
}

/// The producer, and its successors.
pub(crate) struct Speaker<W: World> {
    hall: Hall<W>,
    writer: Writer<W::Memory, W::Memory>,
    /// Readers that were let in and are not known to be gone.
    members: Vec<(u64, W::Memory)>,
    closed: bool,
}

impl<W: World> Speaker<W> {
    /// Position after everything that was sent.
    pub(crate) fn position(&self) -> u64 {
        self.writer.committed()
    }

    /// Makes a producer's call. False if it was refused for want of room.
    pub(crate) fn make(&mut self, operation: Operation, patience: Patience) -> bool {
        if self.closed {
            self.succeed();
        }
        match operation {
            Operation::Send(_, len) => self.send(len, patience),
            Operation::Abort(len) => self.reserve(0, len).is_some(),
            Operation::Batch { count, len, commit } => self.batch(count, len, commit, patience),
            Operation::SendMany { count, len } => {
                (len..).take(count).all(|len| self.send(len, patience))
            }
            Operation::Close => self.close(patience),
            Operation::Succeed => {
                self.succeed();
                true
            }
            _ => panic!("{operation:?} is a reader's"),
        }
    }

    /// Closes for the last time, and waits until there is room for that.
    pub(crate) fn conclude(&mut self) {
        if self.closed {
            self.succeed();
        }
        // Before a reader can find it and wait for more.
        self.hall.0.end.store(self.position() + 1, Ordering::SeqCst);
        self.close(Patience::ForEver);
    }

    /// Lets readers in and out, while a batch of `ahead` slots is open.
    pub(crate) fn attend(&mut self, ahead: u64) {
        loop {
            let news = self.hall.0.news.lock().expect("as the history").pop_front();
            match news {
                None => return,
                Some(News::Joins { number, own, start }) => {
                    self.members.push((number, own.clone()));
                    let at = self.writer.admit(own, number, start).expect("there is a place");
                    self.hall.history().admit(number, start, at, ahead);
                }
                Some(News::Gone { number }) => {
                    assert!(self.writer.dismiss(number), "oracle: {number} was let in");
                    self.members.retain(|(member, _)| *member != number);
                    self.hall.history().dismiss(number);
                }
            }
        }
    }

    fn reserve(&mut self, ahead: u64, len: usize) -> Option<Span> {
        self.attend(ahead);
        let room = self.hall.history().claim(ahead, len);
        let ready = if ahead == 0 { self.writer.ready(len) } else { None };
        let span = match ready {
            Some(span) => Some(span),
            None => self.writer.try_reserve(len).expect("oracle: a reader ends the lane"),
        };
        let refused = span.is_none() && room == Room::Certain;
        assert!(!refused, "oracle: no room for {len} bytes that nobody holds");
        let (granted, given_up) = (span.map(|span| span.position()), self.writer.take_given_up());
        self.hall.history().answer(ahead, len, granted, &given_up);
        if let Some(span) = &span {
            // What is dropped without a commit is seen by nobody.
            self.writer.write(span, 0, &vec![0xee; len]);
        }
        span
    }

    fn may_wait(&self, len: usize, patience: Patience) -> bool {
        patience == Patience::ForEver && len <= self.hall.0.geometry.message_max()
    }

    fn send(&mut self, len: usize, patience: Patience) -> bool {
        loop {
            if let Some(span) = self.reserve(0, len) {
                self.writer.write(&span, 0, &bytes_of(span.position(), len));
                self.hall.history().offer(&[len]);
                self.writer.commit(&span);
                self.hall.history().commit();
                return true;
            }
            if !self.may_wait(len, patience) {
                return false;
            }
            self.wait(len);
        }
    }

    fn batch(&mut self, count: usize, len: usize, commit: bool, patience: Patience) -> bool {
        let slots: u64 = (len..).take(count).map(|len| self.hall.history().slots(len)).sum();
        let fits = slots <= self.hall.0.geometry.count();
        let patience = if fits { patience } else { Patience::None };
        let (mut lens, mut ahead) = (Vec::new(), 0);
        while lens.len() < count {
            let len = len + lens.len();
            let Some(span) = self.reserve(ahead, len) else {
                if !self.may_wait(len, patience) {
                    break;
                }
                self.wait(len);
                continue;
            };
            self.writer.write(&span, 0, &bytes_of(span.position(), len));
            self.writer.stage(&span);
            lens.push(len);
            ahead += span.slots;
        }
        if commit {
            self.hall.history().offer(&lens);
            assert_eq!(self.writer.commit_batch(), lens.len() as u64, "oracle: a batch");
            self.hall.history().commit();
        } else {
            self.writer.abort_batch();
        }
        lens.len() == count
    }

    fn close(&mut self, patience: Patience) -> bool {
        loop {
            self.attend(0);
            let room = {
                let mut history = self.hall.history();
                let room = history.claim(0, 0);
                history.offer_end();
                room
            };
            let position = self.writer.committed();
            let ended = self.writer.try_end().expect("oracle: a reader ends the lane");
            let given_up = self.writer.take_given_up();
            let mut history = self.hall.history();
            history.withdraw_end();
            history.answer(0, 0, ended.then_some(position), &given_up);
            if ended {
                history.offer_end();
                history.commit();
                self.closed = true;
                return true;
            }
            drop(history);
            assert!(room != Room::Certain, "oracle: no room for the end that nobody holds");
            if patience == Patience::None {
                return false;
            }
            self.wait(0);
        }
    }

    /// Dies with a message in its hands, and is followed by one that is told of every reader before
    /// its first message.
    fn succeed(&mut self) {
        if !self.closed {
            self.reserve(0, 8);
        }
        let (base, shared) = (self.writer.committed(), Arc::clone(&self.hall.0));
        assert_eq!(base, self.hall.history().end(), "oracle: where the generation ended");
        let memory = shared.world.producer();
        let Shared { geometry, policy, wait, .. } = *shared;
        self.writer = Writer::broadcast(memory.clone(), geometry, wait, base, policy);
        self.hall.history().succeed();
        for (number, peer) in &self.members {
            let at = self.writer.admit(peer.clone(), *number, Start::Newest);
            assert_eq!(at, Some(base), "oracle: where a successor lets a reader in");
        }
        let mut generations = shared.generations.lock().expect("as the history");
        let (dead, end) = generations.last_mut().expect("the first one");
        *end = Some(base);
        let dead = dead.clone();
        generations.push((memory, None));
        drop(generations);
        // The agent wakes whoever sleeps on the dead one's bell.
        dead.nudge();
        self.closed = false;
    }

    fn wait(&mut self, len: usize) {
        match self.hall.0.wait {
            WaitMode::Spin => self.hall.0.world.pause(),
            WaitMode::Park => {
                let slots = self.hall.0.geometry.slots_for(len);
                self.writer.park(slots, FOR_EVER).expect("oracle: a reader ends the lane");
            }
        }
    }
}

enum Eyes<M: Ground> {
    Gate(Reader<M, M>),
    Follow(Follower<M, M>),
}

/// One stay of a reader.
pub(crate) struct Listener<W: World> {
    hall: Hall<W>,
    eyes: Eyes<W::Memory>,
    own: W::Memory,
    number: u64,
    /// The generation that it reads, once it was let in.
    entered: Option<usize>,
    /// What it found last was a message.
    by_message: bool,
    /// Slots that it was told of as lost.
    lost: u64,
    buffer: Vec<u8>,
}

impl<W: World> Listener<W> {
    /// Position of the next message.
    pub(crate) fn position(&self) -> u64 {
        match &self.eyes {
            Eyes::Gate(reader) => reader.position(),
            Eyes::Follow(follower) => follower.position(),
        }
    }

    /// Receives up to `most` messages, ends and losses; returns how many.
    pub(crate) fn receive(&mut self, most: usize, patience: Patience) -> usize {
        while !self.enter() {
            if patience == Patience::None {
                return 0;
            }
            self.hall.0.world.pause();
        }
        for found in 0..most {
            while !self.hears() {
                let over = self.hall.0.end.load(Ordering::SeqCst) == self.position();
                if patience == Patience::None || over {
                    return found;
                }
                self.wait();
            }
        }
        most
    }

    /// Looks for itself in the lists of all producers; true once it was let in.
    fn enter(&mut self) -> bool {
        if self.entered.is_some() {
            return true;
        }
        // Those that are there now: a list that is followed by another one changes no more.
        let known = self.hall.0.generations.lock().expect("as the history").clone();
        let found = known.into_iter().enumerate().find_map(|(at, (memory, _))| {
            let entry = roster::find(&memory, self.number)?;
            Some((at, memory, entry))
        });
        let Some((at, memory, entry)) = found else { return false };
        self.hall.history().enter(self.number, entry.joined_at);
        self.join(memory, &entry);
        self.hall.history().take(self.number, entry.joined_at);
        self.hall.history().show(self.number);
        self.entered = Some(at);
        true
    }

    fn join(&mut self, memory: W::Memory, entry: &Entry) {
        let lost = match &mut self.eyes {
            Eyes::Gate(reader) => reader.join_at(memory, entry).map(|()| 0),
            Eyes::Follow(follower) => follower.join_at(memory, entry),
        };
        assert_eq!(lost, Ok(0), "oracle: lost between two generations");
        assert_eq!(self.position(), entry.joined_at, "oracle: where it was let in");
    }

    /// Goes on with the next generation if this one is drained.
    fn advance(&mut self) -> bool {
        let (at, position) = (self.entered.expect("let in"), self.position());
        let Some((drained, end)) = self.hall.generation(at) else { return false };
        let next = self.hall.generation(at + 1).filter(|_| end == position);
        let Some((memory, _)) = next else { return false };
        // The news is for every sleeper, and one nudge ends one sleep.
        drained.nudge();
        let entry = roster::find(&memory, self.number).expect("oracle: a reader was forgotten");
        assert_eq!(entry.joined_at, position, "oracle: where the next generation lets it in");
        self.join(memory, &entry);
        self.entered = Some(at + 1);
        true
    }

    /// Takes what is next. False if nothing is there.
    fn hears(&mut self) -> bool {
        loop {
            let (at, position) = (self.entered.expect("let in"), self.position());
            let (_, end) = self.hall.generation(at).expect("it was there");
            let outlook = self.hall.history().outlook(at, position, self.by_message);
            let heard = match self.eyes {
                Eyes::Gate(_) => self.gated(),
                Eyes::Follow(_) => self.losing(at, end),
            };
            if let Some(Heard::Message { .. }) = heard {
                assert!(!outlook.gone, "oracle: {position} was written over, and is handed out");
            }
            if heard.is_some() {
                self.by_message = matches!(heard, Some(Heard::Message { .. }));
                return true;
            }
            assert!(!outlook.certain, "oracle: nothing found where something was committed");
            self.hall.history().show(self.number);
            if !self.advance() {
                return false;
            }
        }
    }

    fn gated(&mut self) -> Option<Heard> {
        let Eyes::Gate(reader) = &mut self.eyes else { return None };
        let (history, position) = (|| self.hall.history(), reader.position());
        match reader.poll().expect("oracle: an honest producer is blamed")? {
            Found::Message(span) => {
                let mut bytes = vec![0; span.len];
                reader.copy_out(&span, 0, &mut bytes);
                let after = history().judge(span.position(), &bytes);
                assert_eq!(span.position(), position, "oracle: position");
                history().take(self.number, after);
                reader.release(&span);
                history().released(self.number);
                assert_eq!(reader.position(), after, "oracle: position");
                Some(Heard::Message { position, len: span.len })
            }
            Found::End => {
                let after = history().judge_end(position);
                history().take(self.number, after);
                reader.release_end();
                history().show(self.number);
                Some(Heard::End)
            }
            Found::Frozen { .. } => panic!("oracle: a frozen payload that was not sent"),
        }
    }

    fn losing(&mut self, at: usize, end: u64) -> Option<Heard> {
        let Eyes::Follow(follower) = &mut self.eyes else { return None };
        let position = follower.position();
        self.hall.history().look(self.number);
        let heard = follower.poll(&mut self.buffer, end);
        let heard = heard.expect("oracle: an honest producer is blamed");
        let after = follower.position();
        let mut history = self.hall.history();
        history.take(self.number, after);
        let heard = heard?;
        let expected = match heard {
            Heard::Message { position: found, len } => {
                assert_eq!(found, position, "oracle: position");
                history.judge(position, &self.buffer[..len])
            }
            Heard::End => history.judge_end(position),
            Heard::Lost { slots } => {
                history.judge_lost(at, position, position + slots);
                self.lost += slots;
                position + slots
            }
        };
        assert_eq!(after, expected, "oracle: what is lost is counted to the slot");
        match heard {
            Heard::Message { .. } => history.released(self.number),
            _ => history.show(self.number),
        }
        drop(history);
        if let Heard::Lost { .. } = heard {
            self.is_told(at);
        }
        Some(heard)
    }

    /// Whoever lost something can see how much, and why.
    fn is_told(&self, at: usize) {
        let Eyes::Follow(follower) = &self.eyes else { return };
        let shown = self.own.load_acquire(C_LOST);
        assert_eq!((follower.lost(), shown), (self.lost, self.lost), "oracle: slots lost so far");
        match (follower.given_up(), self.hall.0.policy) {
            (Some((Reason::Behind, when)), Policy::Evicting { .. }) => {
                self.hall.history().judge_given_up(at, self.number, when);
            }
            (None, Policy::Overwrite) => {}
            (verdict, policy) => panic!("oracle: a loss by {verdict:?} where {policy:?}"),
        }
    }

    /// Leaves in order; nobody else tells the producer.
    pub(crate) fn leave(mut self) {
        self.hall.history().leave(self.number);
        match &mut self.eyes {
            Eyes::Gate(reader) => reader.leave(),
            Eyes::Follow(follower) => follower.leave(),
        }
        self.hall.history().left(self.number);
    }

    /// Is killed: the agent tells the producer, and wakes it.
    pub(crate) fn die(self) {
        self.hall.tell(News::Gone { number: self.number });
        self.own.nudge();
        // It may have been woken by news that are for others, too.
        let (memory, _) = self.hall.generation(self.entered.unwrap_or(0)).expect("it was there");
        memory.nudge();
    }

    fn wait(&mut self) {
        match (self.hall.0.wait, &mut self.eyes) {
            (WaitMode::Spin, _) => self.hall.0.world.pause(),
            (WaitMode::Park, Eyes::Gate(reader)) => reader.park(FOR_EVER),
            (WaitMode::Park, Eyes::Follow(follower)) => follower.park(FOR_EVER),
        }
    }
}

/// Makes calls in one thread, and takes what is left.
pub(crate) fn run<W: World>(
    world: W,
    geometry: Geometry,
    policy: Policy,
    calls: impl IntoIterator<Item = Call>,
) {
    let hall = Hall::new(world, geometry, policy, WaitMode::Spin);
    let mut speaker = hall.speaker();
    let mut seats: [Option<Listener<W>>; READERS] = [const { None }; READERS];
    for call in calls {
        match call {
            Call::Of(operation) => _ = speaker.make(operation, Patience::None),
            Call::Attend => speaker.attend(0),
            Call::Join(seat, start) if seats[seat].is_none() => seats[seat] = hall.join(start),
            Call::Receive(seat, most) => {
                if let Some(listener) = &mut seats[seat] {
                    listener.receive(most, Patience::None);
                }
            }
            Call::Join(..) => {}
            Call::Leave(seat) => seats[seat].take().into_iter().for_each(Listener::leave),
            Call::Die(seat) => seats[seat].take().into_iter().for_each(Listener::die),
        }
    }
    speaker.attend(0);
    speaker.make(Operation::Send(Form::Whole, 1), Patience::None);
    for mut listener in seats.into_iter().flatten() {
        while listener.receive(usize::MAX, Patience::None) > 0 {}
        assert_eq!(listener.position(), speaker.position(), "oracle: what was sent does not come");
        listener.leave();
    }
}
