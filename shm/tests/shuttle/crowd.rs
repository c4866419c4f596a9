//! Broadcast lanes under random schedules: readers come, read for a while, leave or die, and come
//! again. Nobody but they tells the producer that they left.
//!
//! A message's bytes say at which position it was sent, so that the readers need no common queue:
//! each must find every position from the one on at which it was let in, or be told that it lost
//! exactly those that it does not find.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex as Plain;
use std::sync::atomic::AtomicUsize;

use laneway_shm::ring::{Follower, Found, Heard, Policy, Reader, Start, Writer};
use laneway_shm::roster::{self, Entry};

use super::oracle::queue::bytes_of;
use super::*;

/// Readers at a time; each comes back once.
const READERS: usize = 2;
const ROUNDS: usize = 2;
/// Messages that a reader takes before it leaves, at most.
const STAY_MAX: u64 = 40;
/// Positions that the producer fills: enough to overrun a reader several times.
const CROWD_POSITIONS: u64 = 40;

/// What the agent would carry between the ends.
struct News<M> {
    joins: VecDeque<(u64, M, Start)>,
    gone: VecDeque<u64>,
}

/// What all threads know.
struct Hall<W: World> {
    world: W,
    policy: Policy,
    wait: WaitMode,
    /// The producers' segments, one after the other, and where each ends once its producer is dead.
    generations: Plain<Vec<(W::Memory, Option<u64>)>>,
    /// Length of the message at each position.
    lens: Plain<BTreeMap<u64, usize>>,
    news: Plain<News<W::Memory>>,
    numbers: Long,
    /// Position after the end, once it was sent.
    end: Long,
    /// Readers that will not come again.
    left: AtomicUsize,
}

impl<W: World> Hall<W> {
    fn new(world: W, policy: Policy, wait: WaitMode) -> Self {
        let generations = Plain::new(vec![(world.producer(), None)]);
        let news = News { joins: VecDeque::new(), gone: VecDeque::new() };
        Self {
            world,
            policy,
            wait,
            generations,
            lens: Plain::default(),
            news: Plain::new(news),
            numbers: Long::new(1),
            end: Long::new(UNKNOWN),
            left: AtomicUsize::new(0),
        }
    }

    fn is_over(&self, position: u64) -> bool {
        self.end.load(Ordering::SeqCst) == position
    }

    /// A producer's segment, and where it ends, if it is known.
    fn generation(&self, number: usize) -> Option<(W::Memory, u64)> {
        let generations = self.generations.lock().expect("never poisoned");
        let found = generations.get(number).cloned();
        found.map(|(memory, end)| (memory, end.unwrap_or(UNKNOWN)))
    }

    fn judge(&self, position: u64, bytes: &[u8]) {
        let len = self.lens.lock().expect("never poisoned").get(&position).copied();
        assert_eq!(len, Some(bytes.len()), "oracle: length of the message at {position}");
        assert_eq!(bytes, bytes_of(position, bytes.len()), "oracle: torn, or another message");
    }
}

/// The producer's end.
struct Speaker<'h, W: World> {
    hall: &'h Hall<W>,
    writer: Writer<W::Memory, W::Memory>,
    /// Readers that were let in and are not gone.
    members: Vec<(u64, W::Memory)>,
}

impl<W: World> Speaker<'_, W> {
    /// Lets readers in and out.
    fn listen(&mut self) {
        loop {
            let mut news = self.hall.news.lock().expect("never poisoned");
            let (join, gone) = (news.joins.pop_front(), news.gone.pop_front());
            drop(news);
            if join.is_none() && gone.is_none() {
                break;
            }
            if let Some((number, peer, start)) = join {
                self.members.push((number, peer.clone()));
                let at = self.writer.admit(peer, number, start).expect("there is a place");
                let committed = self.writer.committed();
                assert!(at <= committed && committed - at <= u64::from(SLOTS), "oracle: at {at}");
            }
            if let Some(number) = gone {
                assert!(self.writer.dismiss(number), "oracle: {number} was let in");
                self.members.retain(|(member, _)| *member != number);
            }
        }
        for given_up in self.writer.take_given_up() {
            assert_eq!(given_up.reason, laneway_shm::Reason::Behind, "oracle: nobody lies");
        }
    }

    fn send(&mut self, len: usize, staged: bool) {
        loop {
            self.listen();
            if let Some(span) = self.writer.try_reserve(len).expect("oracle: nobody lies") {
                let position = span.position();
                self.writer.write(&span, 0, &bytes_of(position, len));
                self.hall.lens.lock().expect("never poisoned").insert(position, len);
                match staged {
                    true => self.writer.stage(&span),
                    false => self.writer.commit(&span),
                }
                return;
            }
            self.wait(len);
        }
    }

    /// Dies, and is followed by one that is told of every reader before its first message.
    fn succeed(&mut self) {
        let _ = self.writer.try_reserve(8);
        let (base, hall) = (self.writer.committed(), self.hall);
        let memory = hall.world.producer();
        let geometry = *self.writer.geometry();
        self.writer = Writer::broadcast(memory.clone(), geometry, hall.wait, base, hall.policy);
        for (number, peer) in &self.members {
            let at = self.writer.admit(peer.clone(), *number, Start::Newest);
            assert_eq!(at, Some(base), "oracle: where a successor lets a reader in");
        }
        let mut generations = hall.generations.lock().expect("never poisoned");
        let (dead, end) = generations.last_mut().expect("there was one");
        *end = Some(base);
        let dead = dead.clone();
        generations.push((memory, None));
        drop(generations);
        // The agent wakes whoever sleeps on the dead one's bell.
        dead.nudge();
    }

    fn wait(&mut self, len: usize) {
        match self.hall.wait {
            WaitMode::Spin => thread::yield_now(),
            WaitMode::Park => {
                let slots = self.writer.geometry().slots_for(len);
                self.writer.park(slots, FOR_EVER).expect("oracle: nobody lies");
            }
        }
    }

    fn speak(&mut self) {
        let mut dice = shuttle::rand::thread_rng();
        while self.writer.committed() < CROWD_POSITIONS {
            let len = dice.gen_range(0..20);
            match dice.gen_range(0..12) {
                2 => self.succeed(),
                0 => drop(self.writer.try_reserve(len)),
                1 => {
                    self.send(len, true);
                    self.send(3, true);
                    self.writer.commit_batch();
                }
                _ => self.send(len, false),
            }
        }
        while !self.writer.try_end().expect("oracle: nobody lies") {
            self.listen();
            self.wait(0);
        }
        self.hall.end.store(self.writer.committed(), Ordering::SeqCst);
        while self.hall.left.load(Ordering::SeqCst) < READERS {
            self.listen();
            thread::yield_now();
        }
    }
}

/// One stay of a reader.
struct Stay<'h, W: World> {
    hall: &'h Hall<W>,
    own: W::Memory,
    number: u64,
    /// The generation that let it in first, and where.
    generation: usize,
    entry: Entry,
    /// Messages that are left to take.
    left: u64,
    /// Whether it ends in order.
    leaves: bool,
}

impl<'h, W: World> Stay<'h, W> {
    /// Asks to be let in, and waits until the producer has done so.
    fn begin(hall: &'h Hall<W>) -> Self {
        let mut dice = shuttle::rand::thread_rng();
        let number = hall.numbers.fetch_add(1, Ordering::SeqCst);
        let start = if dice.r#gen() { Start::Newest } else { Start::Oldest };
        let own = hall.world.consumer();
        let join = (number, own.clone(), start);
        hall.news.lock().expect("never poisoned").joins.push_back(join);
        let (generation, entry) = loop {
            let mut known = (0..).map_while(|number| Some((number, hall.generation(number)?.0)));
            let entered = known.find_map(|(at, memory)| Some((at, roster::find(&memory, number)?)));
            match entered {
                Some(entered) => break entered,
                None => thread::yield_now(),
            }
        };
        let (left, leaves) = (dice.gen_range(0..STAY_MAX), dice.r#gen());
        Self { hall, own, number, generation, entry, left, leaves }
    }

    /// The next generation's segment and the place in it, if the one before ends at `position`.
    fn next(&mut self, position: u64) -> Option<(W::Memory, Entry)> {
        let (drained, end) = self.hall.generation(self.generation)?;
        let (memory, _) = self.hall.generation(self.generation + 1).filter(|_| end == position)?;
        self.generation += 1;
        // The news is for every sleeper, and one nudge ends one sleep.
        drained.nudge();
        let entry = roster::find(&memory, self.number).expect("oracle: a reader was forgotten");
        assert_eq!(entry.joined_at, position, "oracle: where the next generation lets it in");
        Some((memory, entry))
    }

    /// Whether to go on after nothing was found at `position`.
    fn goes_on(&self, position: u64) -> bool {
        self.left > 0 && !self.hall.is_over(position)
    }

    fn gated(&mut self) {
        let (geometry, hall) = (geometry(), self.hall);
        let mut reader = Reader::new(self.own.clone(), geometry, hall.wait, 0, self.number);
        let (memory, _) = hall.generation(self.generation).expect("it was there");
        reader.join_at(memory, &self.entry).expect("oracle: an honest producer");
        assert_eq!(reader.position(), self.entry.joined_at, "oracle: where it was let in");
        while self.goes_on(reader.position()) {
            match reader.poll().expect("oracle: an honest producer") {
                Some(Found::Message(span)) => {
                    let mut bytes = vec![0; span.len];
                    reader.copy_out(&span, 0, &mut bytes);
                    self.hall.judge(span.position(), &bytes);
                    reader.release(&span);
                    self.left -= 1;
                }
                Some(Found::Frozen { .. }) => panic!("oracle: a frozen payload that was not sent"),
                Some(Found::End) => {
                    reader.release_end();
                    break;
                }
                None if let Some((memory, entry)) = self.next(reader.position()) => {
                    reader.join_at(memory, &entry).expect("oracle: an honest producer");
                }
                None if hall.wait == WaitMode::Park => reader.park(FOR_EVER),
                None => thread::yield_now(),
            }
        }
        if self.leaves {
            reader.leave();
        }
    }

    fn losing(&mut self) {
        let (geometry, hall) = (geometry(), self.hall);
        let mut reader = Follower::new(self.own.clone(), geometry, hall.wait, 0, self.number);
        let (memory, _) = hall.generation(self.generation).expect("it was there");
        reader.join_at(memory, &self.entry).expect("oracle: an honest producer");
        let (mut expected, mut buffer) = (self.entry.joined_at, Vec::new());
        while self.goes_on(reader.position()) {
            assert_eq!(reader.position(), expected, "oracle: position");
            let (_, end) = hall.generation(self.generation).expect("it was there");
            match reader.poll(&mut buffer, end).expect("oracle: an honest producer") {
                Some(Heard::Message { position, len }) => {
                    assert_eq!(position, expected, "oracle: a message that was not lost");
                    self.hall.judge(position, &buffer[..len]);
                    expected += geometry.slots_for(len);
                    self.left -= 1;
                }
                Some(Heard::Lost { slots }) => expected += slots,
                Some(Heard::End) => break,
                None if let Some((memory, entry)) = self.next(reader.position()) => {
                    let lost = reader.join_at(memory, &entry);
                    assert_eq!(lost, Ok(0), "oracle: lost between two generations");
                }
                None if hall.wait == WaitMode::Park => reader.park(FOR_EVER),
                None => thread::yield_now(),
            }
        }
        if self.leaves {
            reader.leave();
        }
    }

    /// Who dies is told of by the agent.
    fn end(self) {
        if self.leaves {
            return;
        }
        self.hall.news.lock().expect("never poisoned").gone.push_back(self.number);
        self.own.nudge();
        // It may have been woken by news that are for others, too.
        let (memory, _) = self.hall.generation(self.generation).expect("it was there");
        memory.nudge();
    }
}

fn listen<W: World>(hall: &Hall<W>) {
    for _ in 0..ROUNDS {
        let mut stay = Stay::begin(hall);
        if hall.policy.loses() {
            stay.losing()
        } else {
            stay.gated()
        }
        stay.end();
    }
    hall.left.fetch_add(1, Ordering::SeqCst);
}

/// One execution: one producer, and readers that come and go.
fn crowd<W>(world: W, policy: Policy, wait: WaitMode) -> impl Fn() + Send + Sync + 'static
where
    W: World + Send + Sync + 'static,
    W::Memory: Send + Sync,
{
    move || {
        let hall = Arc::new(Hall::new(world.clone(), policy, wait));
        let listeners: Vec<_> = (0..READERS)
            .map(|_| {
                let hall = Arc::clone(&hall);
                thread::spawn(move || listen(&hall))
            })
            .collect();
        let (own, _) = hall.generation(0).expect("the first one");
        let writer = Writer::broadcast(own, geometry(), wait, 0, policy);
        Speaker { hall: &hall, writer, members: Vec::new() }.speak();
        listeners.into_iter().for_each(|listener| listener.join().expect("no panic"));
    }
}

/// Executions for each policy.
fn crowds_wanted() -> usize {
    if is_full_run() { 15_000 } else { 1_500 }
}

fn explore(policy: Policy) {
    for wait in [WaitMode::Spin, WaitMode::Park] {
        let model = || crowd(Scheduled(geometry()), policy, wait);
        if let Ok(schedule) = std::env::var("LANEWAY_SCHEDULE") {
            shuttle::replay(model(), &schedule);
            continue;
        }
        let random = run(RandomScheduler::new_from_seed(seed(), crowds_wanted()), model());
        let deep = run(PctScheduler::new_from_seed(seed(), 3, crowds_wanted()), model());
        println!("{policy:?}, {wait:?}: {random} random executions, {deep} of PCT");
    }
}

#[test]
fn readers_that_gate_lose_nothing_while_others_come_and_go() {
    explore(Policy::Gated);
}

#[test]
fn readers_that_are_given_up_count_every_slot_that_they_lost() {
    explore(Policy::Evicting { budget: 3 });
}

#[test]
fn readers_that_are_overrun_hand_out_nothing_torn_and_count_what_they_lost() {
    explore(Policy::Overwrite);
}

#[test]
fn planted_mistakes_of_a_broadcast_lane_are_noticed() {
    for (mistake, policy) in [
        (Mistake::NoMarks, Policy::Overwrite),
        (Mistake::LateBytes, Policy::Gated),
        (Mistake::SilentProducer, Policy::Gated),
        (Mistake::SilentConsumer, Policy::Gated),
        (Mistake::SecretLeave, Policy::Gated),
    ] {
        let world = Mutant::new(Scheduled(geometry()), mistake);
        notice(mistake, crowd(world, policy, WaitMode::Park));
    }
}
