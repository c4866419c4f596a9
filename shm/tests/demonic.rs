//! An adversary instead of a race: memory that answers every load afresh, biased to the plausible.
//!
//! What survives a peer that changes each word between any two loads survives every real peer.
//! The oracles: accesses inside the segment, lengths within the geometry, bounded work per call,
//! no panic, and fail-stop after the first `Corruption`. Ends with planted bugs prove that the
//! demon has teeth. `LANEWAY_FULL=1` raises two million loads to 10^9 (build with `--release`).

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use laneway_shm::cursor::{CommitWord, FROZEN_PAGES_MAX, Kind, SlotState, read_slot};
use laneway_shm::geometry::{Geometry, WORD_BYTES};
use laneway_shm::layout::{
    C_BELL, C_PARKED, C_RELEASED, P_BELL, P_COMMITTED, P_JOINED, P_PARKED, P_SLOTS,
};
use laneway_shm::memory::{Memory, OwnedMemory};
use laneway_shm::ring::{Found, Reader, Span, Writer};
use laneway_shm::{Corruption, WaitMode};

#[path = "demonic/readers.rs"]
mod readers;

/// Loads that a call may make beyond one for each slot of the ring.
const LOADS_BESIDES: u64 = 4;
/// What the demon's payload bytes look like.
const DEMONIC: u8 = 0xd5;
/// Size of the messages that are also copied out by value, in bytes.
const ARRAY: usize = 8;
/// What the caller's buffers look like before a copy.
const CANARY: u8 = 0x2a;

/// A seeded generator (splitmix64): the same run everywhere.
struct Dice(Cell<u64>);

impl Dice {
    fn next(&self) -> u64 {
        self.0.set(self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
        let mut word = self.0.get();
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number below `limit`.
    fn below(&self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn pick<T: Copy>(&self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).expect("a small index")]
    }
}

/// What the demon and its victim's own memory share: geometry, dice, and the oracles' books.
struct World {
    geometry: Geometry,
    dice: Dice,
    /// Share of the answers that are not plausible, in per cent.
    malice: Cell<u64>,
    /// The victim's position, so that plausible answers are near it.
    near: Cell<u64>,
    /// Positions that the victim may write: from the first to before the second.
    window: Cell<(u64, u64)>,
    call: Cell<Work>,
    loads: Cell<u64>,
    /// Loads that a call may make.
    allowed: Cell<u64>,
}

/// What one call has done.
#[derive(Clone, Copy, Default)]
struct Work {
    loads: u64,
    copies: u64,
    sleeps: u64,
    wakes: u64,
}

impl World {
    fn new(geometry: Geometry, seed: u64) -> Rc<Self> {
        Rc::new(Self {
            geometry,
            dice: Dice(Cell::new(seed)),
            malice: Cell::new(40),
            near: Cell::new(0),
            window: Cell::new((0, 0)),
            call: Cell::default(),
            loads: Cell::new(0),
            allowed: Cell::new(geometry.count() + LOADS_BESIDES),
        })
    }

    /// Opens the books for the next call.
    fn begin(&self, near: u64, window: (u64, u64)) {
        self.near.set(near);
        self.window.set(window);
        self.call.set(Work::default());
    }

    fn count(&self, change: impl FnOnce(&mut Work)) {
        let mut work = self.call.get();
        change(&mut work);
        self.call.set(work);
        let slots = self.geometry.count();
        assert!(work.loads <= self.allowed.get(), "oracle: work per call");
        assert!(work.copies <= slots, "oracle: copies per call");
        assert!(work.sleeps <= 1 && work.wakes <= 1, "oracle: system calls per call");
    }

    fn loaded(&self) {
        self.loads.set(self.loads.get() + 1);
        self.count(|work| work.loads += 1);
    }

    /// Slot index of a word's offset.
    fn slot_of(&self, offset: usize) -> u64 {
        let inside = offset >= P_SLOTS && (offset as u64) < self.geometry.segment_bytes();
        assert!(inside, "oracle: word at {offset} is outside the slots");
        let (slot, rest) = divide(offset - P_SLOTS, self.geometry.stride());
        assert!(rest == 0, "oracle: {offset} is no commit word");
        assert!(slot < self.geometry.count(), "oracle: slot {slot} is outside the ring");
        slot
    }

    /// Checks that bytes lie in the payload of one slot; returns the slot.
    fn payload_of(&self, offset: usize, len: usize) -> u64 {
        let (slot, within) = divide(offset - P_SLOTS, self.geometry.stride());
        let end = within + len;
        let inside = within >= WORD_BYTES && end <= WORD_BYTES + self.geometry.payload() as usize;
        assert!(inside, "oracle: {len} bytes at {offset} leave the slot");
        assert!(slot < self.geometry.count(), "oracle: slot {slot} is outside the ring");
        slot
    }

    /// Checks that a slot to be written is free.
    fn may_write(&self, slot: u64) {
        let (first, end) = self.window.get();
        let ahead = slot.wrapping_sub(first) & (self.geometry.count() - 1);
        let free = ahead < end.saturating_sub(first);
        assert!(free, "oracle: slot {slot} is written while the consumer may read it");
    }

    fn edge(&self) -> u64 {
        let (count, dice) = (self.geometry.count(), &self.dice);
        let edges = [
            0,
            1,
            count - 1,
            count,
            count + 1,
            1 << 31,
            1 << 32,
            1 << 63,
            u64::MAX - 1,
            u64::MAX,
            self.near.get().wrapping_sub(1),
            dice.next(),
            dice.next() >> dice.below(64),
        ];
        dice.pick(&edges)
    }

    /// An answer for a commit word.
    fn word(&self, slot: u64) -> u64 {
        let (geometry, dice, near) = (&self.geometry, &self.dice, self.near.get());
        let ahead = slot.wrapping_sub(near) & (geometry.count() - 1);
        // A victim that walks on and on gets plausible words of the next laps, too.
        let laps = (self.call.get().loads - 1) / geometry.count() * geometry.count();
        let turn = geometry.turn(near.wrapping_add(ahead + laps));
        let payload = geometry.payload();
        let evil = dice.below(100) < self.malice.get();
        let short = u32::try_from(dice.below(u64::from(payload) + 1)).expect("a length");
        match (evil, dice.below(16)) {
            (false, 0..8) => CommitWord::new(turn, Kind::Data, short).0,
            (false, 8..13) => CommitWord::new(turn, Kind::More, payload).0,
            (false, 13) => CommitWord::new(turn, Kind::End, short).0,
            (false, 14) => CommitWord::new(turn, Kind::Frozen, 1 + short).0,
            (false, _) => CommitWord::new(turn.wrapping_sub(1), Kind::Data, short).0,
            (true, 0..4) => CommitWord::new(turn, Kind::Data, payload + 1).0,
            (true, 4..6) => CommitWord::new(turn, Kind::More, short).0,
            (true, 6..8) => u64::from(turn) << 32 | dice.next() >> 32,
            (true, 8) => CommitWord::new(turn.wrapping_add(1), Kind::Data, short).0,
            (true, _) => self.edge(),
        }
    }

    /// An answer for a cursor that should lie between the window's ends.
    fn cursor(&self) -> u64 {
        let (first, end) = self.window.get();
        let released = end.saturating_sub(self.geometry.count());
        let found = match self.dice.below(100) < self.malice.get() {
            false => released + self.dice.below(first.saturating_sub(released) + 1),
            true => self.dice.pick(&[first + 1, released.wrapping_sub(1), self.edge()]),
        };
        if (released..=first).contains(&found) {
            self.window.set((first, found + self.geometry.count()));
        }
        found
    }
}

fn divide(value: usize, by: usize) -> (u64, usize) {
    ((value / by) as u64, value % by)
}

/// The peer's segment, as the victim sees it.
#[derive(Clone)]
struct Demon(Rc<World>);

impl Memory for Demon {
    fn load_acquire(&self, offset: usize) -> u64 {
        self.0.loaded();
        match offset {
            C_RELEASED => self.0.cursor(),
            P_COMMITTED | P_JOINED => self.0.edge(),
            _ => self.0.word(self.0.slot_of(offset)),
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "any half will do")]
    fn load_u32(&self, offset: usize) -> u32 {
        self.0.loaded();
        let known = [P_BELL, P_PARKED, C_BELL, C_PARKED].contains(&offset);
        assert!(known, "oracle: {offset} is no futex word");
        self.0.edge() as u32
    }

    fn copy_out(&self, offset: usize, target: &mut [u8]) {
        self.0.count(|work| work.copies += 1);
        self.0.payload_of(offset, target.len());
        target.fill(DEMONIC);
    }

    fn full_fence(&self) {}

    fn wait(&self, offset: usize, _expected: u32, _timeout: Duration) {
        self.0.count(|work| work.sleeps += 1);
        assert!([P_BELL, C_BELL].contains(&offset), "oracle: sleeping on {offset}");
    }
}

/// The victim's own segment: nothing is ever read back from it.
struct Own(Rc<World>);

impl Memory for Own {
    fn load_acquire(&self, offset: usize) -> u64 {
        panic!("oracle: own word at {offset} is read back");
    }

    fn load_u32(&self, offset: usize) -> u32 {
        panic!("oracle: own word at {offset} is read back");
    }

    fn copy_out(&self, offset: usize, _target: &mut [u8]) {
        panic!("oracle: own bytes at {offset} are read back");
    }

    fn full_fence(&self) {}

    fn wait(&self, offset: usize, _expected: u32, _timeout: Duration) {
        panic!("oracle: nobody rings at {offset}");
    }
}

impl OwnedMemory for Own {
    fn store_relaxed(&self, offset: usize, _value: u64) {
        if offset >= P_SLOTS {
            self.0.may_write(self.0.slot_of(offset));
        } else {
            assert!(offset.is_multiple_of(8) && offset >= 512, "oracle: header is written");
        }
    }

    fn store_release(&self, offset: usize, value: u64) {
        self.store_relaxed(offset, value);
    }

    fn store_u32(&self, offset: usize, _value: u32) {
        let known = [P_BELL, P_PARKED, C_BELL, C_PARKED].contains(&offset);
        assert!(known && offset.is_multiple_of(4), "oracle: {offset} is no futex word");
    }

    fn copy_in(&self, offset: usize, source: &[u8]) {
        self.0.count(|work| work.copies += 1);
        self.0.may_write(self.0.payload_of(offset, source.len()));
    }

    fn wake(&self, _offset: usize) {
        self.0.count(|work| work.wakes += 1);
    }
}

/// What the oracles need of a consumer's end, the ring's or a faulty one.
trait ReadEnd {
    fn poll(&mut self) -> Result<Option<Found>, Corruption>;
    fn copy_out(&self, span: &Span, offset: usize, target: &mut [u8]) -> usize;
    fn position(&self) -> u64;
    fn release(&mut self, span: &Span);

    fn poll_after(&mut self, _span: &Span) -> Option<Result<Option<Span>, Corruption>> {
        None
    }
    fn other(&mut self, _choice: u64, _demon: Demon) {}
    fn release_end(&mut self) {}
}

impl ReadEnd for Reader<Demon, Own> {
    fn poll(&mut self) -> Result<Option<Found>, Corruption> {
        match self.ready() {
            Some(span) => Ok(Some(Found::Message(span))),
            None => self.poll(),
        }
    }
    fn copy_out(&self, span: &Span, offset: usize, target: &mut [u8]) -> usize {
        let array = self.copy_array::<ARRAY>(span);
        assert!(array.is_none_or(|bytes| span.len == ARRAY && bytes == [DEMONIC; ARRAY]));
        self.copy_out(span, offset, target)
    }
    fn position(&self) -> u64 {
        self.position()
    }
    fn release(&mut self, span: &Span) {
        self.release(span);
    }
    fn poll_after(&mut self, span: &Span) -> Option<Result<Option<Span>, Corruption>> {
        Some(self.poll_at(span.end(self.geometry())))
    }
    fn other(&mut self, choice: u64, demon: Demon) {
        match choice {
            0 => self.publish(),
            1 => self.park(Duration::MAX),
            _ => self.join(demon),
        }
    }
    fn release_end(&mut self) {
        self.release_end();
    }
}

/// One consumer, the messages it holds, and what must be true of it.
struct ReadCase<'w, E> {
    world: &'w Rc<World>,
    end: E,
    held: Vec<Span>,
    broken: Option<Corruption>,
}

impl<E: ReadEnd> ReadCase<'_, E> {
    fn step(&mut self) {
        self.world.begin(self.end.position(), (0, 0));
        match self.world.dice.below(10) {
            0..4 => self.poll(),
            4 => self.poll_after(),
            5..8 => self.copy(),
            8 => self.release(),
            _ => self.end.other(self.world.dice.below(3), Demon(Rc::clone(self.world))),
        }
    }

    fn poll(&mut self) {
        let result = self.end.poll();
        self.held.clear();
        match self.judge(result) {
            Some(Found::Message(span)) => {
                assert_eq!(span.position(), self.end.position(), "oracle: position");
                self.hold(span);
            }
            Some(Found::End) => {
                self.world.begin(self.end.position(), (0, 0));
                self.end.release_end();
            }
            Some(Found::Frozen { span, pages }) => {
                assert_eq!((span.position(), span.slots), (self.end.position(), 1), "oracle: slot");
                assert!((1..=FROZEN_PAGES_MAX).contains(&pages), "oracle: {pages} pages");
                self.world.begin(self.end.position(), (0, 0));
                self.end.release(&span);
            }
            None => {}
        }
    }

    fn poll_after(&mut self) {
        let Some(last) = self.held.last().copied() else { return };
        self.world.near.set(last.position() + last.slots);
        let Some(result) = self.end.poll_after(&last) else { return };
        if let Some(span) = self.judge(result) {
            assert_eq!(span.position(), last.position() + last.slots, "oracle: position");
            self.hold(span);
        }
    }

    /// Fail-stop: nothing but the first corruption once there was one.
    fn judge<T>(&mut self, result: Result<Option<T>, Corruption>) -> Option<T> {
        match (self.broken, result) {
            (None, Ok(found)) => found,
            (None, Err(corruption)) => {
                self.broken = Some(corruption);
                None
            }
            (Some(first), Err(again)) => {
                assert_eq!(first, again, "oracle: another corruption than the first");
                None
            }
            (Some(_), Ok(_)) => panic!("oracle: goes on after corruption"),
        }
    }

    fn hold(&mut self, span: Span) {
        let geometry = &self.world.geometry;
        let slots = 1..=geometry.count();
        assert!(slots.contains(&span.slots), "oracle: {} slots", span.slots);
        assert!(span.len <= geometry.message_max(), "oracle: length {}", span.len);
        let room = span.slots * u64::from(geometry.payload());
        assert!(span.len as u64 <= room, "oracle: length {} in {room}", span.len);
        self.held.push(span);
    }

    fn copy(&mut self) {
        let Some(span) = self.held.last().copied() else { return };
        let dice = &self.world.dice;
        let small = |limit: usize| usize::try_from(dice.below(limit as u64)).expect("small");
        let offset = dice.pick(&[0, 0, span.len, usize::MAX, small(span.len + 2)]);
        let mut target = vec![CANARY; dice.pick(&[0, 1, span.len, small(300)])];
        let copied = self.end.copy_out(&span, offset, &mut target);
        let expected = target.len().min(span.len.saturating_sub(offset));
        assert_eq!(copied, expected, "oracle: bytes copied");
        assert!(target[..copied].iter().all(|&byte| byte == DEMONIC), "oracle: all copied");
        assert!(target[copied..].iter().all(|&byte| byte == CANARY), "oracle: no more copied");
    }

    fn release(&mut self) {
        if let Some(first) = self.held.first().copied() {
            self.end.release(&first);
            self.held.clear();
        }
    }
}

/// What the oracles need of a producer's end.
trait WriteEnd {
    fn try_reserve(&mut self, len: usize) -> Result<Option<Span>, Corruption>;
    fn write(&self, span: &Span, bytes: &[u8]);
    fn commit(&mut self, span: &Span);
    fn committed(&self) -> u64;
    fn released(&self) -> u64;

    fn stage(&mut self, span: &Span);
    fn close_batch(&mut self, commit: bool);

    fn report(&mut self, _end: bool) -> Option<Result<(), Corruption>> {
        None
    }
    fn join(&mut self, _demon: Demon) {}
}

impl WriteEnd for Writer<Own, Demon> {
    fn try_reserve(&mut self, len: usize) -> Result<Option<Span>, Corruption> {
        let found = self.try_reserve(len)?;
        assert!(self.free() <= self.geometry().count(), "oracle: more free than there is");
        Ok(found)
    }
    fn write(&self, span: &Span, bytes: &[u8]) {
        self.write(span, 0, bytes);
    }
    fn commit(&mut self, span: &Span) {
        self.commit(span);
    }
    fn committed(&self) -> u64 {
        self.committed()
    }
    fn released(&self) -> u64 {
        self.released()
    }
    fn stage(&mut self, span: &Span) {
        self.stage(span);
    }
    fn close_batch(&mut self, commit: bool) {
        if commit {
            self.commit_batch();
        } else {
            self.abort_batch();
        }
    }
    fn report(&mut self, end: bool) -> Option<Result<(), Corruption>> {
        Some(match end {
            true => self.try_end().map(drop),
            false => self.park(1, Duration::MAX),
        })
    }
    fn join(&mut self, demon: Demon) {
        self.join(demon, 2);
    }
}

/// One producer and what must be true of it.
struct WriteCase<'w, E> {
    world: &'w Rc<World>,
    end: E,
    staged: u64,
    broken: Option<Corruption>,
}

impl<E: WriteEnd> WriteCase<'_, E> {
    /// Opens the books; checks that what counts as free really is.
    fn begin(&self) {
        let (committed, released) = (self.end.committed(), self.end.released());
        let count = self.world.geometry.count();
        let sane = released <= committed && committed - released <= count;
        assert!(sane, "oracle: released {released}, committed {committed}");
        self.world.begin(committed, (committed, released + count));
    }

    fn step(&mut self) {
        self.begin();
        match self.world.dice.below(12) {
            0..7 => self.send(),
            7 => self.close_batch(true),
            8 => self.close_batch(false),
            9 => self.end.join(Demon(Rc::clone(self.world))),
            10 if self.staged == 0 => self.report(true),
            _ => self.report(false),
        }
    }

    fn send(&mut self) {
        let (dice, max) = (&self.world.dice, self.world.geometry.message_max());
        let payload = self.world.geometry.payload() as usize;
        let any = usize::try_from(dice.below(max as u64 + 1)).expect("small");
        let len = dice.pick(&[0, 1, payload, any, any, max, max + 1, usize::MAX]);
        let position = self.end.committed() + self.staged;
        let result = self.end.try_reserve(len);
        let Some(span) = self.judge(result) else { return };
        assert!(span.len == len && len <= max, "oracle: reserved {len} of {max}");
        assert_eq!(span.position(), position, "oracle: position");
        self.begin();
        self.end.write(&span, &vec![CANARY; len]);
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
        self.end.close_batch(commit);
        self.staged = 0;
    }

    fn report(&mut self, end: bool) {
        if let Some(result) = self.end.report(end) {
            self.judge(result.map(|()| Some(())));
        }
    }

    fn judge<T>(&mut self, result: Result<Option<T>, Corruption>) -> Option<T> {
        match (self.broken, result) {
            (None, Ok(found)) => found,
            (None, Err(corruption)) => {
                self.broken = Some(corruption);
                None
            }
            (Some(first), again) => {
                assert_eq!(again.err(), Some(first), "oracle: goes on after corruption");
                None
            }
        }
    }
}

/// Positions at which a lane may stand: young, in mid-lap, where turns wrap, and old.
fn start(world: &World) -> u64 {
    let count = world.geometry.count();
    let bases = [0, 5, count - 1, count * u64::from(u32::MAX) - 3, 1 << 40 | 7, 1 << 63];
    world.dice.pick(&bases)
}

fn geometries() -> Vec<Geometry> {
    let shapes = [(1, 2), (8, 2), (8, 4), (56, 8), (100, 64)];
    shapes
        .into_iter()
        .map(|(payload, count)| Geometry::try_new(payload, count).expect("legal"))
        .collect()
}

fn wait_mode(world: &World) -> WaitMode {
    world.dice.pick(&[WaitMode::Spin, WaitMode::Park])
}

/// One call sequence against a fresh consumer.
fn read_case<E: ReadEnd>(world: &Rc<World>, make: impl Fn(u64) -> E) -> bool {
    world.malice.set(world.dice.pick(&[2, 20, 40, 100]));
    let end = make(start(world));
    let mut case = ReadCase { world, end, held: Vec::new(), broken: None };
    for _ in 0..=world.dice.below(64) {
        case.step();
    }
    case.broken.is_some()
}

/// One call sequence against a fresh producer.
fn write_case<E: WriteEnd>(world: &Rc<World>, make: impl Fn(u64, u64) -> E) -> bool {
    world.malice.set(world.dice.pick(&[2, 20, 40, 100]));
    let base = start(world);
    let lag = world.dice.below(world.geometry.count() + 1).min(base);
    let mut case = WriteCase { world, end: make(base, base - lag), staged: 0, broken: None };
    for _ in 0..=world.dice.below(64) {
        case.step();
    }
    case.broken.is_some()
}

/// Loads that each end has to survive.
fn loads_wanted() -> u64 {
    let full = std::env::var_os("LANEWAY_FULL").is_some_and(|value| value == "1");
    if full { 500_000_000 } else { 1_000_000 }
}

/// Runs cases on every geometry until each had its share of the loads.
fn besiege(name: &str, case: impl Fn(&Rc<World>) -> bool) {
    let (mut cases, mut corruptions, mut loads) = (0u64, 0u64, 0);
    let geometries = geometries();
    let share = loads_wanted() / geometries.len() as u64;
    for (seed, geometry) in (1..).zip(geometries) {
        let world = World::new(geometry, seed);
        while world.loads.get() < share {
            corruptions += u64::from(case(&world));
            cases += 1;
        }
        loads += world.loads.get();
    }
    println!("{name}: {loads} loads, {cases} cases, {corruptions} ended in corruption");
    assert!(corruptions > cases / 10 && corruptions < cases, "the demon is too tame or too wild");
}

#[test]
fn a_consumer_survives_a_producer_that_answers_every_load_afresh() {
    besiege("consumer", |world| {
        read_case(world, |position| {
            let own = Own(Rc::clone(world));
            let mut reader = Reader::new(own, world.geometry, wait_mode(world), position, 1);
            world.begin(position, (0, 0));
            reader.join(Demon(Rc::clone(world)));
            reader
        })
    });
}

#[test]
fn a_producer_survives_a_consumer_that_answers_every_load_afresh() {
    besiege("producer", |world| {
        write_case(world, |base, released| {
            let (own, mode) = (Own(Rc::clone(world)), wait_mode(world));
            world.begin(base, (base, released + world.geometry.count()));
            let mut writer = Writer::new(own, world.geometry, mode, base, released);
            writer.join(Demon(Rc::clone(world)), 1);
            writer
        })
    });
}

/// A bug that somebody could have written.
#[derive(Clone, Copy, Debug)]
enum Bug {
    DoubleFetch,
    UncheckedLength,
    UnmaskedOffset,
    UnboundedChain,
    ChainLongerThanTheRing,
    Resynchronises,
    LenCountsForNothing,
}

/// A consumer with one planted bug.
struct FaultyReader {
    peer: Demon,
    position: u64,
    bug: Bug,
    broken: Option<Corruption>,
}

impl FaultyReader {
    fn offset(&self, position: u64) -> usize {
        let geometry = &self.peer.0.geometry;
        match self.bug {
            Bug::UnmaskedOffset => {
                let index = usize::try_from(position % (2 * geometry.count())).expect("small");
                P_SLOTS + index * geometry.stride()
            }
            _ => geometry.slot_offset(position),
        }
    }

    fn look(&self, position: u64) -> Result<SlotState, Corruption> {
        let geometry = &self.peer.0.geometry;
        let word = CommitWord(self.peer.load_acquire(self.offset(position)));
        match (self.bug, read_slot(geometry, position, word)) {
            (Bug::DoubleFetch, Ok(SlotState::Committed(kind, _))) => {
                let again = CommitWord(self.peer.load_acquire(self.offset(position)));
                Ok(SlotState::Committed(kind, again.len()))
            }
            (Bug::UncheckedLength, Err(Corruption::Length { found, .. })) => {
                Ok(SlotState::Committed(Kind::Data, found))
            }
            (_, state) => state,
        }
    }

    fn walk(&mut self) -> Result<Option<Found>, Corruption> {
        let geometry = &self.peer.0.geometry;
        let count = geometry.count();
        let limit = match self.bug {
            Bug::UnboundedChain => u64::MAX,
            Bug::ChainLongerThanTheRing => count + 1,
            _ => count,
        };
        let (position, mut len) = (self.position, 0);
        for slots in 1..=limit {
            match self.look(position + slots - 1)? {
                SlotState::Committed(Kind::More, more) => len += more as usize,
                SlotState::Committed(Kind::Data, last) => {
                    len += last as usize;
                    return Ok(Some(Found::Message(Span::new(geometry, position, slots, len))));
                }
                SlotState::Committed(Kind::End, _) if slots == 1 => return Ok(Some(Found::End)),
                SlotState::Empty if slots == 1 => return Ok(None),
                _ => return Err(Corruption::Unfinished { position, slots }),
            }
        }
        Err(Corruption::Unfinished { position, slots: limit })
    }
}

impl ReadEnd for FaultyReader {
    fn poll(&mut self) -> Result<Option<Found>, Corruption> {
        match (self.broken, self.bug) {
            (Some(first), bug) if !matches!(bug, Bug::Resynchronises) => return Err(first),
            _ => {}
        }
        let result = self.walk();
        if let Err(corruption) = result {
            self.broken.get_or_insert(corruption);
        }
        result
    }
    fn copy_out(&self, span: &Span, offset: usize, target: &mut [u8]) -> usize {
        let inside = span.len.saturating_sub(offset);
        let wanted = match self.bug {
            Bug::LenCountsForNothing if offset <= span.len => target.len(),
            _ => target.len().min(inside),
        };
        let payload = self.peer.0.geometry.payload() as usize;
        let mut done = 0;
        while done < wanted {
            let (slot, within) = divide(offset + done, payload);
            let now = (wanted - done).min(payload - within);
            let at = self.offset(span.position() + slot) + WORD_BYTES + within;
            self.peer.copy_out(at, &mut target[done..done + now]);
            done += now;
        }
        wanted
    }
    fn position(&self) -> u64 {
        self.position
    }
    fn release(&mut self, span: &Span) {
        self.position = span.position() + span.slots;
    }
    fn release_end(&mut self) {
        self.position += 1;
    }
}

/// A producer that believes its consumer's cursor, as in CVE-2024-41009.
struct TrustingWriter {
    own: Own,
    peer: Demon,
    committed: u64,
    staged: u64,
    released: u64,
}

impl WriteEnd for TrustingWriter {
    fn try_reserve(&mut self, len: usize) -> Result<Option<Span>, Corruption> {
        let geometry = &self.peer.0.geometry;
        let (position, slots) = (self.committed + self.staged, geometry.slots_for(len));
        self.released = self.peer.load_acquire(C_RELEASED);
        let free = geometry.count().wrapping_sub(position.wrapping_sub(self.released));
        Ok((len <= geometry.message_max() && slots <= free)
            .then(|| Span::new(geometry, position, slots, len)))
    }
    fn write(&self, span: &Span, bytes: &[u8]) {
        let geometry = &self.peer.0.geometry;
        for (slot, part) in (0..).zip(bytes.chunks(geometry.payload() as usize)) {
            let at = geometry.slot_offset(span.position() + slot) + WORD_BYTES;
            self.own.copy_in(at, part);
        }
    }
    fn commit(&mut self, span: &Span) {
        self.committed = span.position() + span.slots;
    }
    fn stage(&mut self, span: &Span) {
        self.staged += span.slots;
    }
    fn close_batch(&mut self, commit: bool) {
        self.committed += if commit { self.staged } else { 0 };
        self.staged = 0;
    }
    fn committed(&self) -> u64 {
        self.committed
    }
    fn released(&self) -> u64 {
        self.released
    }
}

/// How many cases the oracles needed to notice; none if they did not.
fn caught_by(case: impl Fn(&Rc<World>) -> bool) -> Option<(u64, String)> {
    let world = World::new(Geometry::try_new(8, 4).expect("legal"), 1);
    (1..10_000).find_map(|number| {
        let outcome = catch_unwind(AssertUnwindSafe(|| case(&world)));
        let payload = outcome.err()?;
        let said = payload.downcast_ref::<String>().cloned();
        Some((number, said.or_else(|| Some((*payload.downcast_ref::<&str>()?).into()))?))
    })
}

#[test]
fn the_oracles_catch_every_planted_bug_of_a_consumer() {
    for bug in [
        Bug::DoubleFetch,
        Bug::UncheckedLength,
        Bug::UnmaskedOffset,
        Bug::UnboundedChain,
        Bug::ChainLongerThanTheRing,
        Bug::Resynchronises,
        Bug::LenCountsForNothing,
    ] {
        let caught = caught_by(|world| {
            read_case(world, |position| {
                let peer = Demon(Rc::clone(world));
                FaultyReader { peer, position, bug, broken: None }
            })
        });
        let (cases, said) = caught.unwrap_or_else(|| panic!("{bug:?} survived"));
        println!("{bug:?}: caught after {cases} cases: {said}");
        assert!(said.contains("oracle"), "{bug:?} fell over something else: {said}");
    }
}

#[test]
fn the_oracles_catch_a_producer_that_believes_the_cursor() {
    let caught = caught_by(|world| {
        write_case(world, |committed, released| {
            let (own, peer) = (Own(Rc::clone(world)), Demon(Rc::clone(world)));
            TrustingWriter { own, peer, committed, staged: 0, released }
        })
    });
    let (cases, said) = caught.expect("the trusting writer survived");
    println!("caught after {cases} cases: {said}");
    assert!(said.contains("oracle"), "fell over something else: {said}");
}

/// A consumer that claims a new sleep at every look and never takes a message; and the memory of
/// the producer, which counts the wake-ups that it pays for.
struct Pretender(Rc<Cell<u32>>);

impl Memory for Pretender {
    fn load_acquire(&self, _offset: usize) -> u64 {
        0
    }
    fn load_u32(&self, _offset: usize) -> u32 {
        self.0.set(self.0.get() + 2);
        self.0.get() | 1
    }
    fn copy_out(&self, _offset: usize, _target: &mut [u8]) {}
    fn full_fence(&self) {}
    fn wait(&self, _offset: usize, _expected: u32, _timeout: Duration) {}
}

impl OwnedMemory for Pretender {
    fn store_relaxed(&self, _offset: usize, _value: u64) {}
    fn store_release(&self, _offset: usize, _value: u64) {}
    fn store_u32(&self, _offset: usize, _value: u32) {}
    fn copy_in(&self, _offset: usize, _source: &[u8]) {}
    fn wake(&self, _offset: usize) {
        self.0.set(self.0.get() + 1);
    }
}

#[test]
fn a_consumer_that_only_pretends_to_sleep_costs_a_bounded_number_of_wakes() {
    let geometry = Geometry::try_new(8, 1024).unwrap();
    let wakes = Rc::new(Cell::new(0));
    let mut writer = Writer::new(Pretender(Rc::clone(&wakes)), geometry, WaitMode::Park, 0, 0);
    writer.join(Pretender(Rc::default()), 1);
    for _ in 0..1000 {
        let span = writer.try_reserve(8).unwrap().expect("the ring is large");
        writer.commit(&span);
    }
    assert!((1..=64).contains(&wakes.get()), "{} wakes", wakes.get());
}
