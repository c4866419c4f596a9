//! The calls on the ring itself, over any memory: both ends, generations, incarnations, sleep.
//!
//! What the agent does between two processes is a mailbox here.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use laneway_shm::WaitMode;
use laneway_shm::geometry::Geometry;
use laneway_shm::layout::C_RELEASED;
use laneway_shm::memory::{Memory, OwnedMemory};
use laneway_shm::ring::{Found, Reader, Span, Writer};

use super::operation::{Form, Operation, Take};
use super::queue::{Next, Queue, Room};

/// No bound: such a sleep ends with a ring of the bell or a nudge, and with nothing else.
pub(crate) const FOR_EVER: Duration = Duration::MAX;

/// Memory that both ends map.
pub(crate) trait Ground: OwnedMemory + Clone {
    /// Ends the sleep on this memory that is or comes, as a time-out would: the agent has news.
    fn nudge(&self);
}

/// Where a lane is: makes its memory, and knows how time passes.
pub(crate) trait World: Clone {
    type Memory: Ground;

    /// A producer's segment.
    fn producer(&self) -> Self::Memory;

    /// A consumer's segment.
    fn consumer(&self) -> Self::Memory;

    /// Lets others run.
    fn pause(&self);

    /// Runs `f` as the agent would: what came before it here comes before what follows the next
    /// such call elsewhere.
    fn serialised<R>(&self, f: impl FnOnce() -> R) -> R {
        f()
    }

    /// Whether a call that returned has happened for everybody: then nothing is found late.
    fn is_strict(&self) -> bool {
        true
    }
}

/// How long a call waits for room or for a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    None,
    ForEver,
}

/// What is at the front of a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Front {
    Message(Span),
    End,
    Nothing,
}

/// News that an end has not heard yet.
struct Agent<M> {
    generations: VecDeque<(u64, M)>,
    incarnations: VecDeque<(u64, M)>,
}

/// What both ends share beside their memory.
#[derive(Clone)]
struct Common<W: World> {
    world: W,
    geometry: Geometry,
    wait: WaitMode,
    queue: Arc<Mutex<Queue>>,
    agent: Arc<Mutex<Agent<W::Memory>>>,
}

impl<W: World> Common<W> {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("never held by a thread that fails")
    }

    fn with_agent<R>(&self, f: impl FnOnce(&mut Agent<W::Memory>) -> R) -> R {
        self.world.serialised(|| f(&mut self.agent.lock().expect("as the queue")))
    }
}

/// The producer's end, and its successors'.
pub(crate) struct Sender<W: World> {
    common: Common<W>,
    writer: Writer<W::Memory, W::Memory>,
    own: W::Memory,
    peer: W::Memory,
    incarnation: u64,
    closed: bool,
}

/// The consumer's end, and its successors'.
pub(crate) struct Receiver<W: World> {
    common: Common<W>,
    reader: Reader<W::Memory, W::Memory>,
    own: W::Memory,
    peer: W::Memory,
    incarnation: u64,
}

/// Both ends of a new lane.
pub(crate) fn open<W: World>(
    world: W,
    geometry: Geometry,
    wait: WaitMode,
) -> (Sender<W>, Receiver<W>) {
    open_numbered(0, world, geometry, wait)
}

/// Both ends of one of several new lanes.
pub(crate) fn open_numbered<W: World>(
    number: usize,
    world: W,
    geometry: Geometry,
    wait: WaitMode,
) -> (Sender<W>, Receiver<W>) {
    let (producer, consumer) = (world.producer(), world.consumer());
    let queue = Queue::numbered(number as u64, geometry.payload(), geometry.count());
    let agent = Agent { generations: VecDeque::new(), incarnations: VecDeque::new() };
    let (queue, agent) = (Arc::new(Mutex::new(queue)), Arc::new(Mutex::new(agent)));
    let common = Common { world, geometry, wait, queue, agent };
    let mut writer = Writer::new(producer.clone(), geometry, wait, 0, 0);
    let mut reader = Reader::new(consumer.clone(), geometry, wait, 0, 1);
    writer.join(consumer.clone(), 1);
    reader.join(producer.clone());
    let sender = Sender {
        common: common.clone(),
        writer,
        own: producer.clone(),
        peer: consumer.clone(),
        incarnation: 1,
        closed: false,
    };
    (sender, Receiver { common, reader, own: consumer, peer: producer, incarnation: 1 })
}

impl<W: World> Sender<W> {
    /// Position after the last message.
    pub(crate) fn position(&self) -> u64 {
        self.writer.committed()
    }

    /// Makes a producer's call. False if it was refused for want of room.
    pub(crate) fn make(&mut self, operation: Operation, patience: Patience) -> bool {
        if self.closed {
            self.succeed();
        }
        match operation {
            Operation::Send(form, len) => self.send(form, len, patience),
            Operation::Abort(len) => self.abort(len),
            Operation::Batch { count, len, commit } => {
                let slots: u64 = (len..).take(count).map(|l| self.common.queue().slots(l)).sum();
                let fits = slots <= self.common.geometry.count();
                let patience = if fits { patience } else { Patience::None };
                self.batch(count, len, commit, patience) == count
            }
            Operation::SendMany { count, len } => self.send_many(count, len, patience),
            Operation::Close => self.close(patience),
            Operation::Succeed => {
                self.succeed();
                true
            }
            _ => panic!("{operation:?} is the consumer's"),
        }
    }

    fn send_many(&mut self, count: usize, len: usize, patience: Patience) -> bool {
        let mut sent = 0;
        while sent < count {
            sent += self.batch(count - sent, len + sent, true, Patience::None);
            if sent < count {
                if !self.send(Form::Whole, len + sent, patience) {
                    return false;
                }
                sent += 1;
            }
        }
        true
    }

    /// Finds room as the producer's handle does.
    fn reserve(&mut self, ahead: u64, len: usize) -> Option<Span> {
        self.listen();
        let room = self.common.queue().room(ahead, len);
        let ready = if ahead == 0 { self.writer.ready(len) } else { None };
        let span = match ready {
            Some(span) => Some(span),
            None => self.writer.try_reserve(len).expect("oracle: an honest consumer is blamed"),
        };
        let queue = self.common.queue();
        match span {
            None => {
                let wrong = room == Room::Certain && self.common.world.is_strict();
                assert!(!wrong, "oracle: no room for {len} bytes where there is some");
            }
            Some(span) => {
                let room = queue.room(ahead, len);
                assert!(room != Room::None, "oracle: room for {len} bytes that nobody released");
                assert_eq!(span.position(), queue.end() + ahead, "oracle: position");
            }
        }
        span
    }

    fn send(&mut self, form: Form, len: usize, patience: Patience) -> bool {
        let message = self.common.queue().message(0, len);
        let max = self.common.geometry.message_max();
        let reserved = if form == Form::Shortened { max.min(len + 3).max(len) } else { len };
        loop {
            if let Some(mut span) = self.reserve(0, reserved) {
                let half = if form == Form::Pieces { len / 2 } else { len };
                self.writer.write(&span, 0, &message[..half]);
                self.writer.write(&span, half, &message[half..]);
                (span.len, span.slots) = (len, self.common.geometry.slots_for(len));
                self.common.queue().offer(&[len], false);
                self.writer.commit(&span);
                self.common.queue().commit();
                return true;
            }
            if patience == Patience::None || reserved > max {
                return false;
            }
            self.wait(reserved);
        }
    }

    fn abort(&mut self, len: usize) -> bool {
        let Some(span) = self.reserve(0, len) else { return false };
        self.writer.write(&span, 0, &vec![0xee; len]);
        true
    }

    /// Returns how many messages there was room for.
    fn batch(&mut self, count: usize, len: usize, commit: bool, patience: Patience) -> usize {
        let (mut lens, mut ahead) = (Vec::new(), 0);
        while lens.len() < count {
            let len = len + lens.len();
            let Some(span) = self.reserve(ahead, len) else {
                if patience == Patience::None {
                    break;
                }
                self.wait(len);
                continue;
            };
            let message = self.common.queue().message(ahead, len);
            self.writer.write(&span, 0, &message);
            self.writer.stage(&span);
            lens.push(len);
            ahead += span.slots;
        }
        if commit {
            self.common.queue().offer(&lens, true);
            let shown = self.writer.commit_batch();
            assert_eq!(shown, lens.len() as u64, "oracle: messages of a batch");
            self.common.queue().commit();
        } else {
            self.writer.abort_batch();
        }
        lens.len()
    }

    fn close(&mut self, patience: Patience) -> bool {
        loop {
            self.listen();
            let (room, end) = {
                let mut queue = self.common.queue();
                let before = (queue.room(0, 0), queue.end());
                queue.offer_end();
                before
            };
            if self.writer.try_end().expect("oracle: an honest consumer is blamed") {
                self.common.queue().commit();
                self.closed = true;
                return true;
            }
            self.common.queue().withdraw(end);
            let wrong = room == Room::Certain && self.common.world.is_strict();
            assert!(!wrong, "oracle: no room for the end where there is some");
            if patience == Patience::None {
                return false;
            }
            self.wait(0);
        }
    }

    /// The producer is gone: its memory freezes, and a successor goes on in new memory.
    fn succeed(&mut self) {
        self.listen();
        let (end, released) = (self.writer.committed(), self.writer.released());
        assert_eq!(end, self.common.queue().end(), "oracle: where the generation ended");
        let (geometry, wait) = (self.common.geometry, self.common.wait);
        let own = self.common.world.producer();
        self.writer = Writer::new(own.clone(), geometry, wait, end, released);
        self.writer.join(self.peer.clone(), self.incarnation);
        self.common.with_agent(|agent| agent.generations.push_back((end, own.clone())));
        std::mem::replace(&mut self.own, own).nudge();
        self.closed = false;
    }

    /// The producer is gone, and nobody follows: the agent wakes who sleeps on its bell.
    pub(crate) fn die(self) {
        self.own.nudge();
    }

    /// Hears of new consumers.
    fn listen(&mut self) {
        while let Some((incarnation, peer)) =
            self.common.with_agent(|agent| agent.incarnations.pop_front())
        {
            self.writer.join(peer.clone(), incarnation);
            (self.incarnation, self.peer) = (incarnation, peer);
        }
    }

    fn wait(&mut self, len: usize) {
        match self.common.wait {
            WaitMode::Spin => self.common.world.pause(),
            WaitMode::Park => {
                let slots = self.common.geometry.slots_for(len);
                self.writer.park(slots, FOR_EVER).expect("oracle: an honest consumer is blamed");
            }
        }
    }
}

impl<W: World> Receiver<W> {
    /// Position of the next message.
    pub(crate) fn position(&self) -> u64 {
        self.reader.position()
    }

    /// Makes a consumer's call; returns what it found, an end at most once.
    pub(crate) fn make(&mut self, operation: Operation, patience: Patience) -> Next {
        match operation {
            Operation::Receive(take) => self.receive(take, patience),
            Operation::ReceiveMany(_, limit) => self.receive_many(limit),
            Operation::Restart => {
                self.restart();
                Next::Nothing
            }
            _ => panic!("{operation:?} is the producer's"),
        }
    }

    fn poll(&mut self) -> Option<Found> {
        self.reader.poll().expect("oracle: an honest producer is blamed")
    }

    /// What is next, judged and not taken.
    pub(crate) fn front(&mut self) -> Front {
        loop {
            let certain = self.is_certain();
            match self.poll() {
                Some(Found::Message(span)) => {
                    self.judge(0, &span);
                    return Front::Message(span);
                }
                Some(Found::Frozen { .. }) => panic!("oracle: a frozen payload that was not sent"),
                Some(Found::End) => {
                    let next = self.common.queue().after(0);
                    assert_eq!(next, Next::End, "oracle: an end that was not sent");
                    return Front::End;
                }
                None if self.advance() => {}
                None => {
                    assert!(!certain, "oracle: nothing found where something was committed");
                    self.common.queue().show();
                    return Front::Nothing;
                }
            }
        }
    }

    /// Whether something must be found now.
    pub(crate) fn is_certain(&self) -> bool {
        self.common.queue().is_committed(0) && self.common.world.is_strict()
    }

    /// Whether what is next is a message.
    pub(crate) fn is_message(&self) -> bool {
        matches!(self.common.queue().after(0), Next::Message(_))
    }

    /// Whether nothing can be found now.
    pub(crate) fn is_empty(&self) -> bool {
        self.common.queue().after(0) == Next::Nothing
    }

    /// Takes the message that is at the front, and judges it once more.
    pub(crate) fn take(&mut self, span: Span) -> Next {
        let found = self.judge(0, &span);
        self.release(&[span]);
        found
    }

    /// Takes the end that is at the front.
    pub(crate) fn take_end(&mut self) {
        self.common.queue().take(1);
        self.reader.release_end();
        self.common.queue().show();
    }

    /// The ring, for a sleep over several.
    pub(crate) fn ring(&mut self) -> &mut Reader<W::Memory, W::Memory> {
        &mut self.reader
    }

    fn receive(&mut self, take: Take, patience: Patience) -> Next {
        loop {
            match self.front() {
                Front::Message(span) if take == Take::Keep => return self.judge(0, &span),
                Front::Message(span) => return self.take(span),
                Front::End => {
                    self.take_end();
                    return Next::End;
                }
                Front::Nothing if patience == Patience::None => return Next::Nothing,
                Front::Nothing => self.wait(),
            }
        }
    }

    /// What is there, released together.
    fn receive_many(&mut self, limit: usize) -> Next {
        let mut held: Vec<Span> = Vec::new();
        while held.len() < limit {
            let skip = held.len();
            let found = match held.last() {
                None => match self.poll() {
                    Some(Found::Message(span)) => Some(span),
                    _ => break,
                },
                Some(last) => {
                    let after = last.end(&self.common.geometry);
                    let joined = self.common.queue().is_joined(skip);
                    let found = self.reader.poll_at(after);
                    let found = found.expect("oracle: an honest producer is blamed");
                    assert!(found.is_some() || !joined, "oracle: a part of a batch");
                    found
                }
            };
            let Some(span) = found else { break };
            self.judge(skip, &span);
            held.push(span);
        }
        self.release(&held);
        Next::Nothing
    }

    /// Compares a message with what was sent.
    fn judge(&self, skip: usize, span: &Span) -> Next {
        let mut bytes = vec![0; span.len];
        let copied = self.reader.copy_out(span, 0, &mut bytes);
        assert_eq!(copied, span.len, "oracle: length");
        let found = Next::Message(bytes);
        let queue = self.common.queue();
        assert_eq!(found, queue.after(skip), "oracle: another message than was sent");
        if skip == 0 {
            assert_eq!(span.position(), queue.position(), "oracle: position");
        }
        found
    }

    fn release(&mut self, spans: &[Span]) {
        self.common.queue().take(spans.len());
        for span in spans {
            self.reader.release(span);
        }
        self.common.queue().released();
    }

    /// Goes on with the next generation if this one is drained.
    fn advance(&mut self) -> bool {
        let position = self.reader.position();
        let next = self.common.with_agent(|agent| {
            let drained = agent.generations.front().is_some_and(|(end, _)| *end == position);
            if drained { agent.generations.pop_front() } else { None }
        });
        let Some((_, peer)) = next else { return false };
        self.reader.join(peer.clone());
        self.peer = peer;
        true
    }

    /// The consumer is killed, and a successor starts where its cursor stands.
    fn restart(&mut self) {
        let position = self.own.load_acquire(C_RELEASED);
        self.common.queue().restart(position);
        self.incarnation += 1;
        let (geometry, wait, incarnation) =
            (self.common.geometry, self.common.wait, self.incarnation);
        let own = self.common.world.consumer();
        own.store_release(C_RELEASED, position);
        self.reader = Reader::new(own.clone(), geometry, wait, position, incarnation);
        self.reader.join(self.peer.clone());
        self.common.with_agent(|agent| agent.incarnations.push_back((incarnation, own.clone())));
        std::mem::replace(&mut self.own, own).nudge();
    }

    fn wait(&mut self) {
        match self.common.wait {
            WaitMode::Spin => self.common.world.pause(),
            WaitMode::Park => self.reader.park(FOR_EVER),
        }
    }
}
