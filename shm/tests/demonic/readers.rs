//! The adversary against broadcast lanes: readers that a hostile producer overruns, and a producer
//! among hostile readers.

use std::cell::RefCell;
use std::collections::BTreeMap;

use laneway_shm::layout::{C_LEFT, P_READERS, P_RESUME, P_SLOTS};
use laneway_shm::memory::{Memory, OwnedMemory};
use laneway_shm::ring::{Follower, Heard, Policy, Start};

use super::*;

/// A demon that mostly repeats itself, so that what is looked at twice is believed sometimes.
#[derive(Clone)]
struct Sticky(Demon, Rc<RefCell<BTreeMap<usize, u64>>>);

impl Sticky {
    fn new(world: &Rc<World>) -> Self {
        Self(Demon(Rc::clone(world)), Rc::default())
    }

    fn answer(&self, offset: usize) -> u64 {
        let world = &self.0.0;
        let near = world.near.get();
        if offset == P_RESUME {
            let plausible = near.saturating_add(1 + world.dice.below(world.geometry.count()));
            let evil = world.dice.below(100) < world.malice.get();
            return if evil { world.edge() } else { plausible };
        }
        let word = world.answer(world.slot_of(offset));
        // Now and then the slot was taken for the next lap.
        if world.dice.below(4) == 0 { word.wrapping_add(1 << 32) } else { word }
    }
}

impl Memory for Sticky {
    fn load_acquire(&self, offset: usize) -> u64 {
        if offset < P_RESUME {
            return self.0.load_acquire(offset);
        }
        self.0.0.loaded();
        if (P_READERS..P_SLOTS).contains(&offset) {
            return self.0.0.edge();
        }
        let known = self.1.borrow().get(&offset).copied();
        let word = match known {
            Some(word) if self.0.0.dice.below(16) > 0 => word,
            _ => self.answer(offset),
        };
        self.1.borrow_mut().insert(offset, word);
        word
    }
    fn load_u32(&self, offset: usize) -> u32 {
        self.0.load_u32(offset)
    }
    fn copy_out(&self, offset: usize, target: &mut [u8]) {
        self.0.copy_out(offset, target);
    }
    fn full_fence(&self) {}
    fn wait(&self, offset: usize, expected: u32, timeout: Duration) {
        self.0.wait(offset, expected, timeout);
    }
}

/// One reader that may be overrun, and what must be true of it.
struct FollowCase<'w> {
    world: &'w Rc<World>,
    end: Follower<Sticky, Own>,
    demon: Sticky,
    buffer: Vec<u8>,
    broken: Option<Corruption>,
    found: u64,
}

impl FollowCase<'_> {
    fn step(&mut self) {
        self.demon.1.borrow_mut().clear();
        self.world.begin(self.end.position(), (0, 0));
        match self.world.dice.below(9) {
            0 => self.end.publish(),
            2 => {
                self.end.listen();
                self.end.stop_listening();
                let _ = self.end.given_up();
            }
            1 => self.end.park(Duration::MAX),
            _ => self.poll(),
        }
    }

    fn poll(&mut self) {
        let (before, lost) = (self.end.position(), self.end.lost());
        let dice = &self.world.dice;
        let end = dice.pick(&[u64::MAX, u64::MAX, before, before.saturating_add(dice.below(9))]);
        let result = self.end.poll(&mut self.buffer, end);
        let (after, geometry) = (self.end.position(), &self.world.geometry);
        assert!(self.buffer.len() <= geometry.message_max(), "oracle: buffer grows");
        if let Some(first) = self.broken {
            assert_eq!(result, Err(first), "oracle: goes on after corruption");
            return;
        }
        match result {
            Ok(None) => assert_eq!(after, before, "oracle: moves on without a message"),
            Ok(Some(Heard::End)) => assert_eq!(after, before + 1, "oracle: position"),
            Ok(Some(Heard::Lost { slots })) => {
                assert!(slots > 0 && after == before + slots && after <= end, "oracle: lost");
                assert_eq!(self.end.lost(), lost.saturating_add(slots), "oracle: lost in all");
                self.found += 1;
            }
            Ok(Some(Heard::Message { position, len })) => {
                let slots = after - before;
                assert!(position == before && (1..=geometry.count()).contains(&slots));
                let room = slots * u64::from(geometry.payload());
                assert!(len as u64 <= room, "oracle: length {len} in {room}");
                assert!(self.buffer[..len].iter().all(|&byte| byte == DEMONIC), "oracle: bytes");
                self.found += 1;
            }
            Err(corruption) => {
                assert_eq!(after, before, "oracle: moves on by a lie");
                self.broken = Some(corruption);
            }
        }
    }
}

#[test]
fn a_reader_survives_a_producer_that_overruns_it_and_lies() {
    let found = Cell::new(0);
    besiege("follower", |world| {
        world.malice.set(world.dice.pick(&[0, 2, 20, 100]));
        world.allowed.set(2 * world.geometry.count() + LOADS_BESIDES);
        let (own, position) = (Own(Rc::clone(world)), start(world));
        let demon = Sticky::new(world);
        let mut end = Follower::new(own, world.geometry, wait_mode(world), position, 1);
        end.pay_for_fences();
        let entry = laneway_shm::roster::Entry { offset: P_READERS, joined_at: position };
        world.begin(position, (0, 0));
        end.join_at(demon.clone(), &entry).expect("its own position");
        let buffer = Vec::new();
        let mut case = FollowCase { world, end, demon, buffer, broken: None, found: 0 };
        for _ in 0..=world.dice.below(64) {
            case.step();
        }
        world.begin(case.end.position(), (0, 0));
        case.end.leave();
        let after = case.end.poll(&mut case.buffer, u64::MAX);
        assert_eq!(after, case.broken.map_or(Ok(None), Err), "oracle: reads on after it left");
        found.set(found.get() + case.found);
        case.broken.is_some()
    });
    assert!(found.get() > 1000, "the demon lets nothing through: {}", found.get());
}

/// The producer's own segment, which remembers: it reads its own words back.
struct Stored(Own, RefCell<BTreeMap<usize, u64>>);

impl Memory for Stored {
    fn load_acquire(&self, offset: usize) -> u64 {
        self.0.0.slot_of(offset);
        self.1.borrow().get(&offset).copied().unwrap_or(0)
    }
    fn load_u32(&self, offset: usize) -> u32 {
        self.0.load_u32(offset)
    }
    fn copy_out(&self, offset: usize, target: &mut [u8]) {
        self.0.copy_out(offset, target);
    }
    fn full_fence(&self) {}
    fn wait(&self, offset: usize, expected: u32, timeout: Duration) {
        self.0.wait(offset, expected, timeout);
    }
}

impl OwnedMemory for Stored {
    fn store_relaxed(&self, offset: usize, value: u64) {
        self.0.store_relaxed(offset, value);
        self.1.borrow_mut().insert(offset, value);
    }
    fn store_release(&self, offset: usize, value: u64) {
        self.store_relaxed(offset, value);
    }
    fn store_u32(&self, offset: usize, value: u32) {
        self.0.store_u32(offset, value);
    }
    fn copy_in(&self, offset: usize, source: &[u8]) {
        self.0.copy_in(offset, source);
    }
    fn wake(&self, offset: usize) {
        self.0.wake(offset);
    }
}

/// A hostile reader's segment, and whether it said that its reader has left: now and then it does.
#[derive(Clone)]
struct Guest(Demon, Rc<Cell<bool>>);

impl Memory for Guest {
    fn load_acquire(&self, offset: usize) -> u64 {
        if offset != C_LEFT {
            return self.0.load_acquire(offset);
        }
        let world = &self.0.0;
        world.loaded();
        let word = match world.dice.below(64) {
            0 => 1,
            1 => world.edge(),
            _ => 0,
        };
        self.1.set(self.1.get() || word == 1);
        word
    }
    fn load_u32(&self, offset: usize) -> u32 {
        self.0.load_u32(offset)
    }
    fn copy_out(&self, offset: usize, target: &mut [u8]) {
        self.0.copy_out(offset, target);
    }
    fn full_fence(&self) {}
    fn wait(&self, offset: usize, expected: u32, timeout: Duration) {
        self.0.wait(offset, expected, timeout);
    }
}

/// One producer among hostile readers, and what must be true of it.
struct CastCase<'w> {
    world: &'w Rc<World>,
    end: Writer<Stored, Guest>,
    policy: Policy,
    readers: Vec<(u64, Rc<Cell<bool>>)>,
    last: u64,
    staged: u64,
    lied: u64,
}

impl CastCase<'_> {
    /// Opens the books: plausible cursors lie where the slowest reader was seen.
    fn begin(&self) {
        let (committed, count) = (self.end.committed(), self.world.geometry.count());
        let lag = self.end.slowest().map_or(0, |slowest| slowest.slots);
        assert!(lag <= count, "oracle: a reader that gates is {lag} slots behind");
        assert!(lag + self.staged + self.end.free() <= count, "oracle: free is what was read");
        let end = if self.policy.loses() { committed } else { committed - lag } + count;
        self.world.begin(committed, (committed, end));
    }

    fn step(&mut self) {
        self.begin();
        match self.world.dice.below(12) {
            0..6 => self.send(),
            6 => self.close_batch(true),
            7 => self.close_batch(false),
            8 => self.admit(),
            9 => self.dismiss(),
            10 => drop(self.end.lags().count()),
            _ => self.end.park(1, Duration::ZERO).expect("oracle: a lie ends the lane"),
        }
        for given_up in self.end.take_given_up() {
            let known = self.readers.iter().any(|(number, _)| *number == given_up.reader);
            assert!(known, "oracle: who is given up");
            let lied = given_up.reason == laneway_shm::Reason::Lied;
            assert!(lied || matches!(self.policy, Policy::Evicting { .. }), "oracle: why");
            self.lied += u64::from(lied);
        }
        let end = &self.end;
        self.readers.retain(|(number, left)| {
            assert_eq!(end.knows(*number), !left.get(), "oracle: who is forgotten");
            !left.get()
        });
    }

    fn send(&mut self) {
        let dice = &self.world.dice;
        let max = self.world.geometry.message_max();
        let any = usize::try_from(dice.below(max as u64 + 1)).expect("small");
        let len = dice.pick(&[0, 1, any, any, max, max + 1, usize::MAX]);
        let position = self.end.committed() + self.staged;
        let found = self.end.try_reserve(len).expect("oracle: a lie ends the lane");
        let Some(span) = found else { return };
        assert!(span.position() == position && span.len == len && len <= max, "oracle: span");
        self.begin();
        self.end.write(&span, 0, &vec![CANARY; len]);
        self.begin();
        match self.world.dice.below(4) {
            0 => {}
            1 if self.staged == 0 => self.end.commit(&span),
            _ => {
                self.end.stage(&span);
                self.staged += span.slots;
            }
        }
    }

    fn close_batch(&mut self, commit: bool) {
        if commit {
            self.end.commit_batch();
        } else {
            self.end.abort_batch();
        }
        self.staged = 0;
    }

    fn admit(&mut self) {
        if self.readers.len() >= 3 {
            return;
        }
        self.last += 1;
        let wish = self.world.dice.pick(&[Start::Newest, Start::Oldest]);
        let left = Rc::default();
        let guest = Guest(Demon(Rc::clone(self.world)), Rc::clone(&left));
        let at = self.end.admit(guest, self.last, wish).expect("there is a place");
        let (committed, count) = (self.end.committed(), self.world.geometry.count());
        assert!(at <= committed && committed - at <= count, "oracle: let in at {at}");
        self.readers.push((self.last, left));
    }

    fn dismiss(&mut self) {
        if let Some((number, _)) = self.readers.pop() {
            assert!(self.end.dismiss(number), "oracle: it was known");
            assert!(!self.end.knows(number), "oracle: it is forgotten");
        }
    }
}

#[test]
fn a_producer_survives_readers_that_answer_every_load_afresh_and_gives_up_who_lies() {
    besiege("broadcast producer", |world| {
        world.malice.set(world.dice.pick(&[0, 2, 20, 100]));
        world.allowed.set(world.geometry.count() + 32);
        let base = start(world);
        let budget = 1 + world.dice.below(world.geometry.count());
        let policies = [Policy::Gated, Policy::Evicting { budget }, Policy::Overwrite];
        let policy = world.dice.pick(&policies);
        world.begin(base, (base, base + world.geometry.count()));
        let own = Stored(Own(Rc::clone(world)), RefCell::default());
        let end = Writer::broadcast(own, world.geometry, wait_mode(world), base, policy);
        let readers = Vec::new();
        let mut case = CastCase { world, end, policy, readers, last: 0, staged: 0, lied: 0 };
        for _ in 0..=world.dice.below(64) {
            case.step();
        }
        case.lied > 0
    });
}
