//! The calls on a broadcast lane, over any memory: a producer and its successors, readers that
//! come, read, leave and die. What the agent does between them is a list of news here.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use laneway_shm::WaitMode;
use laneway_shm::geometry::Geometry;
use laneway_shm::layout::READERS_MAX;
use laneway_shm::ring::{Policy, Span, Start, Writer};

use super::history::History;
use super::listener::Listener;
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
pub(super) enum News<M> {
    Joins { number: u64, own: M, start: Start },
    Gone { number: u64 },
}

pub(super) struct Shared<W: World> {
    pub(super) world: W,
    pub(super) geometry: Geometry,
    pub(super) policy: Policy,
    pub(super) wait: WaitMode,
    history: Mutex<History>,
    /// The producers' segments, one after the other, and where each ends once its producer is dead.
    generations: Mutex<Vec<(W::Memory, Option<u64>)>>,
    news: Mutex<VecDeque<News<W::Memory>>>,
    numbers: AtomicU64,
    /// Position after the last end of all, once it is known.
    pub(super) end: AtomicU64,
}

/// Where a broadcast lane is.
pub(crate) struct Hall<W: World>(pub(super) Arc<Shared<W>>);

impl<W: World> Clone for Hall<W> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<W: World> Hall<W> {
    pub(crate) fn new(world: W, geometry: Geometry, policy: Policy, wait: WaitMode) -> Self {
        let generations = Mutex::new(vec![(world.producer(), None)]);
        let strict = world.is_strict();
        let history = History::new(geometry.payload(), geometry.count(), policy, strict);
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

    pub(super) fn history(&self) -> MutexGuard<'_, History> {
        self.0.history.lock().expect("never held by a thread that fails elsewhere")
    }

    pub(super) fn is_strict(&self) -> bool {
        self.0.world.is_strict()
    }

    /// Readers wait no longer than until position `end`.
    pub(crate) fn ends_at(&self, end: u64) {
        self.0.end.store(end, Ordering::SeqCst);
    }

    pub(super) fn tell(&self, news: News<W::Memory>) {
        self.0.news.lock().expect("as the history").push_back(news);
    }

    /// What the agent knows of all producers, one thread at a time.
    pub(super) fn generations<R>(
        &self,
        f: impl FnOnce(&mut Vec<(W::Memory, Option<u64>)>) -> R,
    ) -> R {
        self.0.world.serialised(|| f(&mut self.0.generations.lock().expect("as the history")))
    }

    /// A producer's segment, and where it ends, if it is known.
    pub(super) fn generation(&self, number: usize) -> Option<(W::Memory, u64)> {
        let found = self.generations(|generations| generations.get(number).cloned());
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
        let own = self.0.world.consumer();
        self.tell(News::Joins { number, own: own.clone(), start });
        Some(Listener::new(self, own, number))
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
            Operation::Abort(len) => self.abort(len),
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
        self.hall.ends_at(self.position() + 1);
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
        let refused = span.is_none() && room == Room::Certain && self.hall.is_strict();
        assert!(!refused, "oracle: no room for {len} bytes that nobody holds");
        let (granted, given_up) = (span.map(|span| span.position()), self.writer.take_given_up());
        self.hall.history().answer(ahead, len, granted, &given_up);
        span
    }

    /// Writes what nobody will see, and drops it.
    fn abort(&mut self, len: usize) -> bool {
        let span = self.reserve(0, len);
        if let Some(span) = &span {
            self.writer.write(span, 0, &vec![0xee; len]);
        }
        span.is_some()
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
            let wrong = room == Room::Certain && self.hall.is_strict();
            assert!(!wrong, "oracle: no room for the end that nobody holds");
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
            self.abort(8);
        }
        let (base, shared) = (self.writer.committed(), Arc::clone(&self.hall.0));
        assert_eq!(base, self.hall.history().end(), "oracle: where the generation ended");
        let memory = shared.world.producer();
        let Shared { geometry, policy, wait, .. } = *shared;
        self.writer = Writer::broadcast(memory.clone(), geometry, wait, base, policy);
        self.hall.history().succeed();
        let dead = self.hall.generations(|generations| {
            let (dead, end) = generations.last_mut().expect("the first one");
            *end = Some(base);
            let dead = dead.clone();
            generations.push((memory, None));
            dead
        });
        for (number, peer) in &self.members {
            let at = self.writer.admit(peer.clone(), *number, Start::Newest);
            assert_eq!(at, Some(base), "oracle: where a successor lets a reader in");
        }
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

/// The producer and readers in one thread.
pub(crate) struct Stage<W: World> {
    hall: Hall<W>,
    speaker: Speaker<W>,
    seats: [Option<Listener<W>>; READERS],
}

impl<W: World> Stage<W> {
    pub(crate) fn new(hall: &Hall<W>) -> Self {
        Self { hall: hall.clone(), speaker: hall.speaker(), seats: [const { None }; READERS] }
    }

    /// Position after everything that was sent.
    pub(crate) fn position(&self) -> u64 {
        self.speaker.position()
    }

    /// Whether the producer knows of no reader any more.
    pub(crate) fn is_deserted(&self) -> bool {
        let Speaker { writer, members, .. } = &self.speaker;
        members.iter().all(|(number, _)| !writer.knows(*number))
    }

    /// Makes a call. False if it is a producer's and was refused for want of room.
    pub(crate) fn make(&mut self, call: Call, patience: Patience) -> bool {
        match call {
            Call::Of(operation) => return self.speaker.make(operation, patience),
            Call::Attend => self.speaker.attend(0),
            Call::Join(seat, start) if self.seats[seat].is_none() => {
                self.seats[seat] = self.hall.join(start);
            }
            Call::Join(..) => {}
            Call::Receive(seat, most) => {
                if let Some(listener) = &mut self.seats[seat] {
                    listener.receive(most, patience);
                }
            }
            Call::Leave(seat) => {
                let leaves = self.seats[seat].take();
                leaves.into_iter().for_each(|listener| listener.leave(patience));
            }
            Call::Die(seat) => self.seats[seat].take().into_iter().for_each(Listener::die),
        }
        true
    }

    /// Sends one message more, and lets everybody take what is left and leave.
    fn conclude(mut self) {
        self.speaker.attend(0);
        self.speaker.make(Operation::Send(Form::Whole, 1), Patience::None);
        for mut listener in self.seats.into_iter().flatten() {
            while listener.receive(usize::MAX, Patience::None) > 0 {}
            let (came, sent) = (listener.position(), self.speaker.position());
            assert_eq!(came, sent, "oracle: what was sent does not come");
            listener.leave(Patience::None);
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
    let mut stage = Stage::new(&Hall::new(world, geometry, policy, WaitMode::Spin));
    for call in calls {
        stage.make(call, Patience::None);
    }
    stage.conclude();
}
