//! A ring beside a peer that writes what the input says.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use laneway_shm::cursor::{CommitWord, Kind};
use laneway_shm::geometry::{Geometry, WORD_BYTES};
use laneway_shm::layout::{
    C_BELL, C_PARKED, C_RELEASED, CONSUMER_SEGMENT_BYTES, P_BELL, P_COMMITTED, P_JOINED, P_PARKED,
    P_READERS, P_RESUME, P_SLOTS,
};
use laneway_shm::memory::{Memory, OwnedMemory};
use laneway_shm::ring::{Follower, Found, Heard, Policy, Reader, Span, Start, Writer};
use laneway_shm::roster::Entry;
use laneway_shm::{Corruption, PairOptions, Profile, WaitMode};
use laneway_tests::fuzz::{Input, fuzz, saved};

use crate::oracle::by_stamp::ByStamp;
use crate::oracle::crowd::{self, OF_CROWDS, READERS};
use crate::oracle::ends::Ends;
use crate::oracle::group::{self, LANES, OF_ORDER, OF_TURNS, Wrong};
use crate::oracle::heap::{Heap, InOneThread};
use crate::oracle::in_turn::InTurn;
use crate::oracle::mutant::{self, Mutant};
use crate::oracle::operation::{Crowd as CrowdCall, Group as GroupCall, Operation, Take};
use crate::oracle::queue::Next;
use crate::oracle::ring::{self, Patience, World};

/// Loads that a call may make beyond two for each slot of the ring.
const LOADS_BESIDES: u64 = 16;
/// Positions at which a lane may stand: young, where turns wrap, and old.
const BASES: [u64; 4] = [0, 5, 4 * (u32::MAX as u64) - 3, 1 << 63];

fn shape(input: &mut Input<'_>) -> Geometry {
    let (payload, count) = [(1, 2), (8, 4), (56, 8), (10, 4)][usize::from(input.byte() % 4)];
    let profile =
        if input.byte().is_multiple_of(2) { Profile::Latency } else { Profile::Throughput };
    Geometry::for_profile(payload, count, profile).expect("legal")
}

fn wait_mode(input: &mut Input<'_>) -> WaitMode {
    if input.byte().is_multiple_of(2) { WaitMode::Spin } else { WaitMode::Park }
}

/// The peer's segment: counts what a call does, and refuses what leaves a slot.
#[derive(Clone)]
struct Peer {
    heap: Heap,
    geometry: Geometry,
    loads: Rc<Cell<u64>>,
}

impl Peer {
    fn new(heap: &Heap, geometry: Geometry) -> Self {
        Self { heap: heap.clone(), geometry, loads: Rc::default() }
    }

    fn loaded(&self) {
        self.loads.set(self.loads.get() + 1);
        let allowed = 2 * self.geometry.count() + LOADS_BESIDES;
        assert!(self.loads.get() <= allowed, "oracle: {allowed} loads do for a call");
    }
}

impl Memory for Peer {
    fn load_acquire(&self, offset: usize) -> u64 {
        // A reader looks for itself among all readers, which is no work for each message.
        if !(P_READERS..P_SLOTS).contains(&offset) {
            self.loaded();
        }
        self.heap.load_acquire(offset)
    }
    fn load_u32(&self, offset: usize) -> u32 {
        self.loaded();
        self.heap.load_u32(offset)
    }
    fn copy_out(&self, offset: usize, target: &mut [u8]) {
        let within = (offset - P_SLOTS) % self.geometry.stride();
        let end = WORD_BYTES + self.geometry.payload() as usize;
        let inside = within >= WORD_BYTES && within + target.len() <= end;
        assert!(inside, "oracle: {} bytes at {offset} leave a slot", target.len());
        self.heap.copy_out(offset, target);
    }
    fn full_fence(&self) {}
    fn wait(&self, _offset: usize, _expected: u32, _timeout: Duration) {}
}

/// Writes into the producer's segment as only its owner could.
fn write_as_producer(input: &mut Input<'_>, heap: &Heap, geometry: &Geometry, near: u64) {
    let position = near.wrapping_add(u64::from(input.byte() % 8));
    let laps = [0, 0, 0, 1, u32::MAX][usize::from(input.byte() % 5)];
    let turn = geometry.turn(position).wrapping_add(laps);
    let len = u32::from(input.byte()) % (geometry.payload() + 2);
    let slot = geometry.slot_offset(position);
    match input.byte() {
        0..100 => heap.store_relaxed(slot, CommitWord::new(turn, Kind::Data, len).0),
        100..150 => {
            let word = CommitWord::new(turn, Kind::More, geometry.payload());
            heap.store_relaxed(slot, word.0);
        }
        150..170 => heap.store_relaxed(slot, CommitWord::new(turn, Kind::End, len).0),
        170..190 => heap.store_relaxed(slot, CommitWord::new(turn, Kind::Busy, len).0),
        190..220 => heap.store_relaxed(slot, input.word()),
        220..240 => heap.copy_in(slot + WORD_BYTES, &vec![0xd5; geometry.payload() as usize]),
        240..250 => heap.store_relaxed(P_RESUME, near.wrapping_add(input.number())),
        word => {
            let words = [P_COMMITTED, P_JOINED, P_BELL, P_PARKED, P_READERS + 24, P_READERS + 16];
            let offset = words[usize::from(word) % words.len()];
            heap.store_u32(offset, u32::from(input.byte()));
        }
    }
}

/// Fail-stop: after the first corruption nothing but it.
fn judge<T>(broken: &mut Option<Corruption>, result: Result<T, Corruption>) -> Option<T> {
    match (&broken, result) {
        (None, Ok(found)) => Some(found),
        (None, Err(corruption)) => {
            *broken = Some(corruption);
            None
        }
        (Some(first), Err(again)) => {
            assert_eq!(*first, again, "oracle: another corruption than the first");
            None
        }
        (Some(_), Ok(_)) => panic!("oracle: goes on after corruption"),
    }
}

fn read(input: &mut Input<'_>) {
    let (geometry, wait) = (shape(input), wait_mode(input));
    let base = BASES[usize::from(input.byte() % 4)];
    let heap = InOneThread(geometry).producer();
    let peer = Peer::new(&heap, geometry);
    let loads = Rc::clone(&peer.loads);
    let own = Heap::new(CONSUMER_SEGMENT_BYTES);
    let mut reader = Reader::new(own, geometry, wait, base, 1);
    reader.join(peer.clone());
    let (mut held, mut broken): (Vec<Span>, _) = (Vec::new(), None);
    while !input.is_empty() {
        loads.set(0);
        match input.byte() % 16 {
            0..8 => write_as_producer(input, &heap, &geometry, reader.position()),
            8..11 => {
                held.clear();
                let found = judge(&mut broken, reader.poll()).flatten();
                match found {
                    Some(Found::Message(span)) => held.push(span),
                    Some(Found::Frozen { span, .. }) => reader.release(&span),
                    Some(Found::End) => reader.release_end(),
                    None => {}
                }
            }
            11 => {
                let Some(last) = held.last() else { continue };
                let after = last.end(&geometry);
                held.extend(judge(&mut broken, reader.poll_at(after)).flatten());
            }
            12 => {
                held.iter().for_each(|span| reader.release(span));
                held.clear();
            }
            13 => reader.park(Duration::MAX),
            14 => reader.publish(),
            _ => reader.join(peer.clone()),
        }
        for span in &held {
            let room = span.slots * u64::from(geometry.payload());
            let legal = span.slots <= geometry.count() && span.len as u64 <= room;
            assert!(legal, "oracle: {} bytes in {} slots", span.len, span.slots);
            assert_eq!(reader.copy_out(span, 0, &mut vec![0; span.len + 1]), span.len);
        }
    }
}

fn follow(input: &mut Input<'_>) {
    let (geometry, wait) = (shape(input), wait_mode(input));
    let base = BASES[usize::from(input.byte() % 4)];
    let heap = InOneThread(geometry).producer();
    let peer = Peer::new(&heap, geometry);
    let loads = Rc::clone(&peer.loads);
    let own = Heap::new(CONSUMER_SEGMENT_BYTES);
    let mut follower = Follower::new(own, geometry, wait, base, 1);
    let joined_at = base.wrapping_add(input.number());
    if follower.join_at(peer, &Entry { offset: P_READERS, joined_at }).is_err() {
        return;
    }
    let (mut buffer, mut broken) = (Vec::new(), None);
    while !input.is_empty() {
        loads.set(0);
        let (before, lost) = (follower.position(), follower.lost());
        match input.byte() % 8 {
            0..4 => write_as_producer(input, &heap, &geometry, before),
            4..6 => {
                let end = before.saturating_add(input.number());
                let found = judge(&mut broken, follower.poll(&mut buffer, end)).flatten();
                let after = follower.position();
                match found {
                    Some(Heard::Message { position, len }) => {
                        let slots = after - before;
                        assert!(position == before && (1..=geometry.count()).contains(&slots));
                        assert!(len as u64 <= slots * u64::from(geometry.payload()), "oracle: len");
                    }
                    Some(Heard::Lost { slots }) => {
                        assert!(slots > 0 && after == before + slots && after <= end);
                        assert_eq!(follower.lost(), lost.saturating_add(slots), "oracle: lost");
                    }
                    Some(Heard::End) => assert_eq!(after, before + 1, "oracle: end"),
                    None => assert_eq!(after, before, "oracle: moves without a message"),
                }
            }
            6 => follower.park(Duration::MAX),
            _ => follower.publish(),
        }
        assert!(buffer.len() <= geometry.message_max(), "oracle: the buffer grows");
    }
}

#[test]
fn consumer_bytes() {
    // The first byte says which reader; long, dense and empty messages.
    let data = |which: u8| {
        let mut seed = vec![which, 1, 0, 0, 0, 0];
        for slot in 0..4u8 {
            seed.extend([0, slot, 1, 8, 120 * (slot % 2), 8, 8, 12]);
        }
        seed
    };
    fuzz("consumer_bytes", vec![data(0), data(1)], &mut |bytes| {
        let mut input = Input(bytes);
        if input.byte().is_multiple_of(2) { read(&mut input) } else { follow(&mut input) }
    });
}

/// Writes into a consumer's segment as only its owner could.
fn write_as_consumer(input: &mut Input<'_>, heap: &Heap, committed: u64) {
    match input.byte() % 8 {
        0..4 => heap.store_relaxed(C_RELEASED, committed.wrapping_sub(u64::from(input.byte() % 9))),
        4 => heap.store_relaxed(C_RELEASED, input.word()),
        5 => heap.store_relaxed(C_RELEASED, committed.wrapping_add(u64::from(input.byte()))),
        6 => heap.store_u32(C_PARKED, u32::from(input.byte())),
        _ => heap.store_u32(C_BELL, u32::from(input.byte())),
    }
}

/// A producer, and what must be true of it whatever its consumers write.
struct WriteCase {
    writer: Writer<Heap, Peer>,
    geometry: Geometry,
    policy: Option<Policy>,
    peers: Vec<Peer>,
    broken: Option<Corruption>,
    staged: u64,
}

impl WriteCase {
    fn new(input: &mut Input<'_>) -> Self {
        let (geometry, wait) = (shape(input), wait_mode(input));
        let base = BASES[usize::from(input.byte() % 4)];
        let budget = 1 + u64::from(input.byte()) % geometry.count();
        let policies =
            [None, Some(Policy::Gated), Some(Policy::Evicting { budget }), Some(Policy::Overwrite)];
        let policy = policies[usize::from(input.byte() % 4)];
        let own = InOneThread(geometry).producer();
        let writer = match policy {
            None => Writer::new(own, geometry, wait, base, base),
            Some(policy) => Writer::broadcast(own, geometry, wait, base, policy),
        };
        let mut case =
            Self { writer, geometry, policy, peers: Vec::new(), broken: None, staged: 0 };
        case.join(input);
        case
    }

    /// One more consumer, or the next one.
    fn join(&mut self, input: &mut Input<'_>) {
        let heap = Heap::new(CONSUMER_SEGMENT_BYTES);
        heap.store_relaxed(C_RELEASED, self.writer.released());
        let (peer, number) = (Peer::new(&heap, self.geometry), self.peers.len() as u64 + 1);
        self.peers.push(peer.clone());
        if self.policy.is_none() {
            return self.writer.join(peer, number);
        }
        let start = if input.byte().is_multiple_of(2) { Start::Newest } else { Start::Oldest };
        if let Some(at) = self.writer.admit(peer, number, start) {
            let (committed, count) = (self.writer.committed(), self.geometry.count());
            assert!(at <= committed && committed - at <= count, "oracle: let in at {at}");
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        self.peers.iter().for_each(|peer| peer.loads.set(0));
        let peer = &self.peers[usize::from(input.byte()) % self.peers.len()];
        match input.byte() % 16 {
            0..5 => write_as_consumer(input, &peer.heap, self.writer.committed()),
            5..10 => self.send(input),
            10 => {
                self.writer.commit_batch();
                self.staged = 0;
            }
            11 => {
                self.writer.abort_batch();
                self.staged = 0;
            }
            12 => {
                let parked = self.writer.park(1, Duration::ZERO);
                self.judge(parked);
            }
            13 => {
                let ended = self.writer.try_end();
                self.staged = 0;
                self.judge(ended);
            }
            14 if self.peers.len() < 4 => self.join(input),
            _ => {
                self.writer.dismiss(u64::from(input.byte() % 4));
            }
        }
        let (committed, released) = (self.writer.committed(), self.writer.released());
        let sane = released <= committed && self.staged <= self.geometry.count();
        assert!(sane, "oracle: released {released}, committed {committed}");
    }

    fn judge<T>(&mut self, result: Result<T, Corruption>) -> Option<T> {
        assert!(self.policy.is_none() || result.is_ok(), "oracle: a lie ends a broadcast lane");
        match result {
            // What it knows to be free it may still give away.
            Ok(found) => Some(found),
            Err(again) => {
                let first = *self.broken.get_or_insert(again);
                assert_eq!(first, again, "oracle: another corruption than the first");
                None
            }
        }
    }

    fn send(&mut self, input: &mut Input<'_>) {
        let len = usize::from(input.byte()) % (self.geometry.message_max() + 2);
        let position = self.writer.committed() + self.staged;
        let result = self.writer.try_reserve(len);
        let Some(span) = self.judge(result).flatten() else { return };
        assert!(span.position() == position && span.len == len, "oracle: span");
        assert!(self.broken.is_none(), "oracle: goes on after corruption");
        if !self.policy.is_some_and(Policy::loses) {
            let end = self.writer.released().saturating_add(self.geometry.count());
            assert!(position + span.slots <= end, "oracle: a slot that nobody released");
        }
        self.writer.write(&span, 0, &vec![1; len]);
        match input.byte() % 4 {
            0 => {}
            1 if self.staged == 0 => self.writer.commit(&span),
            _ => {
                self.writer.stage(&span);
                self.staged += span.slots;
            }
        }
    }
}

#[test]
fn producer_bytes() {
    // Sends, is released, sends on; one for each policy.
    let seed = |policy: u8| {
        let mut seed = vec![1, 0, 1, 0, 2, policy, 0];
        for _ in 0..6 {
            seed.extend([0, 5, 8, 1, 0, 5, 20, 1, 0, 0, 0, 1, 0, 6, 3, 2, 0, 10]);
        }
        seed
    };
    fuzz("producer_bytes", (0..4).map(seed).collect(), &mut |bytes| {
        let mut input = Input(bytes);
        let mut case = WriteCase::new(&mut input);
        while !input.is_empty() {
            case.step(&mut input);
        }
    });
}

/// Makes the oracle's calls on the ring in a world, or on the handles above it.
fn make_calls<W: World>(bytes: &[u8], world: impl Fn(Geometry) -> W, handles: bool) {
    let mut input = Input(bytes);
    let (geometry, wait) = (shape(&mut input), wait_mode(&mut input));
    let (payload, count) = (geometry.payload(), u32::try_from(geometry.count()).expect("few"));
    let streams = geometry != Geometry::try_new(payload, count).expect("legal");
    let on_handles = input.byte().is_multiple_of(8) && handles;
    let mut calls = Vec::new();
    while !input.is_empty() {
        let (choice, size) = (input.byte(), input.byte());
        calls.push(Operation::decode(choice, size, geometry.message_max()));
    }
    if on_handles {
        let profile = if streams { Profile::Throughput } else { Profile::Latency };
        let (slot_payload_bytes, slot_count, page_bytes) = (payload, count, 4096);
        let lane = PairOptions { slot_payload_bytes, slot_count, ..PairOptions::default() };
        let options = PairOptions { page_bytes, wait, profile, ..lane };
        return Ends::new(options).make_all(calls);
    }
    let (mut sender, mut receiver) = ring::open(world(geometry), geometry, wait);
    for call in calls {
        if call.is_sending() {
            sender.make(call, Patience::None);
        } else {
            receiver.make(call, Patience::None);
        }
    }
    while receiver.make(Operation::Receive(Take::Poll), Patience::None) != Next::Nothing {}
}

#[test]
fn lane_calls() {
    let call = |first: u8, at: u8| [first.wrapping_add(at.wrapping_mul(7)), at.wrapping_mul(37)];
    let seed = |first: u8| (0..64u8).flat_map(|at| call(first, at)).collect();
    fuzz("lane_calls", (0..8).map(seed).collect(), &mut |bytes| {
        make_calls(bytes, InOneThread, true);
    });
}

/// Makes calls on several lanes that one reads, in turn or by their stamps.
fn make_group_calls(bytes: &[u8], wrong: Wrong) {
    let mut input = Input(bytes);
    let (geometry, by_stamp) = (shape(&mut input), input.byte().is_multiple_of(2));
    let (world, max) = (InOneThread(geometry), geometry.message_max());
    let mut calls = Vec::new();
    while !input.is_empty() {
        let (kind, choice, size) = (input.byte(), input.byte(), input.byte());
        calls.push(GroupCall::decode(kind, choice, size, LANES, max));
    }
    match by_stamp {
        false => group::run(&world, geometry, &mut InTurn::new(wrong), calls),
        true => group::run(&world, geometry, &mut ByStamp::new(wrong), calls),
    }
}

/// Calls in every order, on each kind of group and on rings of several sizes.
fn group_seeds() -> Vec<Vec<u8>> {
    let seed = |first: u8| {
        let mut word = u64::from(first);
        let calls = std::iter::repeat_with(move || {
            word = word.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            word.to_be_bytes()[0]
        });
        [first, 0, first / 4].into_iter().chain(calls.take(900)).collect()
    };
    (0..16).map(seed).collect()
}

#[test]
fn group_calls() {
    fuzz("group_calls", group_seeds(), &mut |bytes| make_group_calls(bytes, Wrong::Nothing));
}

#[test]
fn the_seeds_of_calls_on_several_lanes_notice_every_planted_mistake() {
    for wrong in OF_TURNS.into_iter().chain(OF_ORDER) {
        let notices = |input: &Vec<u8>| {
            catch_unwind(AssertUnwindSafe(|| make_group_calls(input, wrong))).is_err()
        };
        assert!(group_seeds().iter().any(notices), "{wrong:?} survived");
    }
}

/// Makes calls on a broadcast lane whose readers come and go.
fn make_crowd_calls<W: World>(bytes: &[u8], world: impl Fn(Geometry) -> W, policy: Option<Policy>) {
    let mut input = Input(bytes);
    let (geometry, number, budget) = (shape(&mut input), input.byte(), input.byte());
    let budget = u64::from(budget % 9);
    let policies = [Policy::Gated, Policy::Evicting { budget }, Policy::Overwrite];
    let policy = policy.unwrap_or_else(|| policies[usize::from(number) % policies.len()]);
    let mut calls = Vec::new();
    while !input.is_empty() {
        let (kind, choice, size) = (input.byte(), input.byte(), input.byte());
        calls.push(CrowdCall::decode(kind, choice, size, READERS, geometry.message_max()));
    }
    crowd::run(world(geometry), geometry, policy, calls);
}

#[test]
fn crowd_calls() {
    fuzz("crowd_calls", group_seeds(), &mut |bytes| make_crowd_calls(bytes, InOneThread, None));
}

#[test]
fn the_seeds_of_calls_on_a_broadcast_lane_notice_every_planted_mistake() {
    for (mistake, policy) in OF_CROWDS {
        let notices = |input: &Vec<u8>| {
            let world = |geometry| Mutant::new(InOneThread(geometry), mistake);
            let make = || make_crowd_calls(input, world, Some(policy));
            catch_unwind(AssertUnwindSafe(make)).is_err()
        };
        assert!(group_seeds().iter().any(notices), "{mistake:?} survived, {policy:?}");
    }
}

#[test]
fn the_saved_calls_notice_every_planted_mistake() {
    for mistake in mutant::OF_THE_DATA {
        let notices = |input: &Vec<u8>| {
            let world = |geometry| Mutant::new(InOneThread(geometry), mistake);
            catch_unwind(AssertUnwindSafe(|| make_calls(input, world, false))).is_err()
        };
        assert!(saved("lane_calls").iter().any(notices), "{mistake:?} survived");
    }
}
