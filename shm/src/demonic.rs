//! The adversary behind real mappings: whatever a handle looks at in its peer's segment, it finds
//! something else there than a moment before.
//!
//! `shm/tests/demonic.rs` does the same to the ring alone, over made-up memory. Here the victims
//! are the handles that applications hold, with every call that they have, on mapped segments: the
//! region tells a [`Siege`] of each access before it is made, and the siege rewrites the bytes, as
//! only their owner could, at the worst possible moment. The oracles: accesses inside one slot,
//! bounded work for each call, no panic, nothing handed out that was not committed, and fail-stop
//! after the first `Corruption`. Calls with planted bugs prove that it has teeth. `LANEWAY_FULL=1`
//! makes twenty times as many looks (build with `--release`), and `LANEWAY_SEED=2` others.

#[path = "../tests/demonic/liar.rs"]
mod liar;

mod caller;
mod consumer;
mod crowds;
mod faulty;

mod frozen;
mod producer;
mod subscriber;

use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use liar::{Dice, Liar};
use zerocopy::IntoBytes;

use crate::call::Envelope;
use crate::consumer::Consumer;
use crate::control::Link;
use crate::cursor::{CommitWord, Kind};
use crate::error::{Corruption, PeerState, RecvError};
use crate::geometry::{Geometry, WORD_BYTES};
use crate::layout::{
    C_BELL, C_HEAVY, C_PARKED, C_RELEASED, KIND_CONSUMER, KIND_PRODUCER, P_BELL, P_COMMITTED,
    P_JOINED, P_PARKED, P_READERS, P_RESUME, P_SLOTS,
};
use crate::memory::OwnedMemory;
use crate::pair::handed_over;
use crate::producer::Producer;
use crate::region::{Foreign, Owned, Region};
use crate::ring::WaitMode;
use crate::wire::Grant;
use crate::{PairOptions, pair};

/// What the demon's payload bytes look like.
const DEMONIC: u8 = 0xd5;
/// Looks that a call for one message may take beyond three for each slot: one round of spinning,
/// and what is around it.
const LOOKS_BESIDES: u64 = 64 + 16;
const NOW: Duration = Duration::ZERO;
/// Long enough that a parked end goes to sleep.
const SHORT: Duration = Duration::from_micros(500);

/// Who is told of every access to a region before it is made.
pub(crate) trait Watch: Debug + Send + Sync {
    fn before(&self, offset: usize, size: usize);
}

pub(crate) type WatchedBy = Option<Arc<dyn Watch>>;

pub(crate) fn tell(watched_by: &WatchedBy, offset: usize, size: usize) {
    // A region is also used when a test that failed is cleaned up.
    if let Some(watch) = watched_by.as_ref().filter(|_| size > 0 && !std::thread::panicking()) {
        watch.before(offset, size);
    }
}

/// How a hostile producer writes payloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Says {
    /// Every byte is [`DEMONIC`].
    Marks,
    /// A first slot starts with an envelope that is nearly right.
    Envelopes { kind: u32, id_below: u64 },
}

/// A hostile peer, and the books in which the oracles write.
#[derive(Debug)]
struct Siege {
    /// Its own mapping of the segment that the victim reads.
    paper: Region<Owned>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    liar: Liar,
    says: Says,
    /// Answers that nothing is there.
    quiet: bool,
    /// Answers that a full slot is there, always.
    floods: bool,
    /// Says again and again that a frozen payload is next; of how many pages it said last.
    freezes: bool,
    pages: u32,
    /// Last slots without a byte that were shown in this call.
    empty_slots: u64,
    /// Mostly leaves a word as it is: what is looked at twice is believed sometimes.
    sticky: bool,
    /// Looks in this call, and in all.
    looks: u64,
    total: u64,
    allowed: u64,
    bell: u32,
    /// The last look was at a word: what is looked at now is the start of its message.
    at_start: bool,
    /// Positions that a producer may write: from the first to before the second.
    window: (u64, u64),
    /// Slots whose words it has written in this call.
    words: u64,
    /// Whether the call commits more than once.
    commits_often: bool,
}

impl Siege {
    fn new(paper: Region<Owned>, geometry: Geometry, seed: u64) -> Arc<Self> {
        let liar = Liar::new(geometry, seed);
        let state = State {
            liar,
            says: Says::Marks,
            quiet: false,
            floods: false,
            freezes: false,
            pages: 0,
            empty_slots: 0,
            sticky: false,
            looks: 0,
            total: 0,
            allowed: u64::MAX,
            bell: 0,
            at_start: false,
            window: (0, 0),
            words: 0,
            commits_often: false,
        };
        Arc::new(Self { paper, state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the books for a call that is at `near` and may look as often as `messages` take.
    fn begin(&self, near: u64, messages: usize) {
        let mut state = self.state();
        state.liar.near.set(near);
        let count = state.liar.geometry.count();
        (state.looks, state.empty_slots) = (0, 0);
        state.allowed = LOOKS_BESIDES + 3 * count + messages as u64 * (count + 4);
        (state.quiet, state.words, state.commits_often) = (false, 0, false);
        state.floods = state.liar.dice.below(8) == 0;
    }

    /// How much of what is said is not plausible: little, for the most part, or a victim would not
    /// get far.
    fn set_malice(&self, dice: &Dice) {
        self.state().liar.malice.set(dice.pick(&[0, 0, 1, 1, 2, 20, 100]));
    }

    /// For the next call: one look for each of `messages` that come after the first.
    fn allow_one_each(&self, messages: usize) {
        let mut state = self.state();
        state.allowed = LOOKS_BESIDES + 4 * state.liar.geometry.count() + 2 * messages as u64;
    }

    /// For the next call, nothing is there, and nobody counts how often it looks.
    fn be_quiet(&self) {
        let mut state = self.state();
        (state.quiet, state.allowed) = (true, u64::MAX);
    }

    fn total(&self) -> u64 {
        self.state().total
    }
}

impl State {
    fn look(&mut self) {
        (self.looks, self.total) = (self.looks + 1, self.total + 1);
        assert!(self.looks <= self.allowed, "oracle: work per call");
    }

    /// The slot that an access lies in, and the offset within it.
    fn slot_of(&self, offset: usize, size: usize) -> (u64, usize) {
        let geometry = &self.liar.geometry;
        assert!(offset >= P_SLOTS, "oracle: {offset} is in the header");
        let (slot, within) =
            ((offset - P_SLOTS) / geometry.stride(), (offset - P_SLOTS) % geometry.stride());
        assert!((slot as u64) < geometry.count(), "oracle: {offset} is outside the ring");
        // Small messages are read as whole words.
        let room = (WORD_BYTES + geometry.payload() as usize).next_multiple_of(8);
        assert!(within + size <= room, "oracle: {size} bytes at {offset} leave the slot");
        assert!(within == 0 || within >= WORD_BYTES, "oracle: {offset} is inside a word");
        (slot as u64, within)
    }

    /// A victim looks at slots in their order, from the position at which its call began.
    fn word(&mut self, slot: u64) -> u64 {
        let (geometry, near) = (self.liar.geometry, self.liar.near.get());
        let ahead = slot.wrapping_sub(near) & (geometry.count() - 1);
        self.liar.near.set(near.wrapping_add(ahead));
        if self.quiet {
            let turn = geometry.turn(near.wrapping_add(ahead)).wrapping_sub(1);
            return u64::from(turn) << 32 | 1 << 24;
        }
        if self.floods {
            let turn = geometry.turn(near.wrapping_add(ahead));
            return CommitWord::new(turn, Kind::Data, geometry.payload()).0;
        }
        let mut word = CommitWord(self.liar.word(slot, 0));
        if self.freezes && self.liar.dice.below(2) == 0 {
            let position = near.wrapping_add(ahead);
            let odd = position % 2 == u64::from(self.liar.dice.below(64) > 0);
            word = CommitWord::new(geometry.turn(position), Kind::Frozen, 1 + u32::from(odd));
        }
        self.pages = word.len();
        self.empty_slots += u64::from(word.kind_byte() == Kind::Data as u8 && word.is_empty());
        word.0
    }

    fn envelope(&self, kind: u32, id_below: u64) -> Envelope {
        let dice = &self.liar.dice;
        let id = dice.pick(&[dice.below(id_below), dice.below(id_below), dice.next()]);
        let kind = dice.pick(&[kind, kind, kind, kind, kind ^ 1, 3, 7]);
        Envelope { id, kind, reserved: u32::from(dice.below(16) == 0) }
    }

    fn number(&mut self) -> u32 {
        self.bell = self.bell.wrapping_add(1);
        self.bell
    }
}

/// The segment of a hostile producer.
#[derive(Debug)]
struct OfProducer(Arc<Siege>);

impl Watch for OfProducer {
    fn before(&self, offset: usize, size: usize) {
        let Siege { paper, .. } = &*self.0;
        let mut state = self.0.state();
        state.look();
        match offset {
            // Never what it was: nobody falls asleep over it.
            P_BELL | P_PARKED => paper.store_u32(offset, state.number()),
            P_JOINED => paper.store_relaxed(offset, state.liar.dice.below(2)),
            P_COMMITTED => paper.store_relaxed(offset, state.liar.edge()),
            P_RESUME..P_SLOTS => state.of_roster(paper, offset),
            _ => state.of_slot(paper, offset, size),
        }
    }
}

impl State {
    fn of_slot(&mut self, paper: &Region<Owned>, offset: usize, size: usize) {
        let (slot, within) = self.slot_of(offset, size);
        let bytes = if within == 0 {
            if !self.sticky || self.liar.dice.below(16) == 0 {
                let later = u64::from(self.sticky && self.liar.dice.below(4) == 0) << 32;
                paper.store_relaxed(offset, self.word(slot).wrapping_add(later));
            }
            offset + WORD_BYTES..offset + size
        } else {
            offset..offset + size
        };
        let marks = [DEMONIC; 256];
        for start in bytes.clone().step_by(marks.len()) {
            let now = marks.len().min(bytes.end - start);
            paper.copy_in(start, &marks[..now]);
        }
        let head = size_of::<Envelope>();
        if let Says::Envelopes { kind, id_below } = self.says
            && within == WORD_BYTES
            && size == head
            && self.at_start
        {
            paper.copy_in(offset, self.envelope(kind, id_below).as_bytes());
        }
        self.at_start = within == 0;
    }

    fn of_roster(&mut self, paper: &Region<Owned>, offset: usize) {
        let near = self.liar.near.get();
        let plausible = near.saturating_add(1 + self.liar.dice.below(self.liar.geometry.count()));
        let sane = offset == P_RESUME && self.liar.dice.below(100) >= self.liar.malice.get();
        if offset == P_RESUME {
            paper.store_relaxed(offset, if sane { plausible } else { self.liar.edge() });
        } else {
            // A reader's entry: mostly as it was written when it was let in.
            let changes = self.liar.dice.below(64) == 0 && offset > P_READERS;
            if changes {
                paper.store_relaxed(offset.next_multiple_of(8), self.liar.edge());
            }
        }
    }
}

/// The segment of a hostile consumer.
#[derive(Debug)]
struct OfConsumer(Arc<Siege>);

impl Watch for OfConsumer {
    fn before(&self, offset: usize, size: usize) {
        let Siege { paper, .. } = &*self.0;
        let mut state = self.0.state();
        state.look();
        match offset {
            C_RELEASED => paper.store_relaxed(offset, state.released()),
            C_BELL => paper.store_u32(offset, state.number()),
            C_PARKED | C_HEAVY => {
                let (odd, number) = (state.liar.dice.below(2) == 0, state.number());
                paper.store_u32(offset, number << 1 | u32::from(odd));
            }
            // The page is touched before a look at the cursor is timed: nobody asks what is there.
            0 => paper.store_relaxed(offset, state.liar.edge()),
            _ => panic!("oracle: {size} bytes at {offset} are nothing to a producer"),
        }
    }
}

impl State {
    /// A cursor; what the victim must accept widens what it may write.
    fn released(&mut self) -> u64 {
        let count = self.liar.geometry.count();
        let (first, end) = self.window;
        let lowest = end.saturating_sub(count);
        let highest = if self.commits_often { first + self.words } else { first };
        let found = if self.quiet { lowest } else { self.liar.cursor(lowest, highest) };
        if (lowest..=highest).contains(&found) {
            self.window.1 = found + count;
        }
        found
    }
}

/// The victim's own segment, where it is a producer: it writes only what nobody may read.
#[derive(Debug)]
struct OwnOfProducer(Arc<Siege>);

impl Watch for OwnOfProducer {
    fn before(&self, offset: usize, size: usize) {
        if offset < P_SLOTS {
            assert!(offset >= P_COMMITTED, "oracle: the header is written");
            return;
        }
        let mut state = self.0.state();
        let (slot, within) = state.slot_of(offset, size);
        state.words += u64::from(within == 0);
        let (first, end) = state.window;
        // A call that commits more than once fills slot after slot.
        let ahead = match state.commits_often {
            true => state.words.saturating_sub(1),
            false => slot.wrapping_sub(first) & (state.liar.geometry.count() - 1),
        };
        let free = ahead < end.saturating_sub(first);
        assert!(free, "oracle: slot {slot} is written while the consumer may read it");
    }
}

/// A lane's shape, from which victims are made.
#[derive(Clone, Debug)]
struct Lane {
    grants: [Grant; 2],
    geometry: Geometry,
}

impl Lane {
    fn new(payload: u32, count: u32, wait: WaitMode) -> Self {
        let options = PairOptions {
            slot_payload_bytes: payload,
            slot_count: count,
            wait,
            ..PairOptions::default()
        };
        let (producer, consumer) = pair(options).unwrap();
        let grants = [producer.grant().clone(), consumer.grant().clone()];
        Self { grants, geometry: Geometry::try_new(payload, count).unwrap() }
    }

    /// Lanes of every shape that matters, spinning and asleep.
    fn all() -> Vec<Self> {
        let shapes = [(1, 2), (8, 4), (24, 8), (56, 2), (56, 16), (100, 8), (600, 4)];
        let modes = [WaitMode::Spin, WaitMode::Park];
        shapes.into_iter().flat_map(|(p, c)| modes.map(|wait| Self::new(p, c, wait))).collect()
    }

    fn of_producer(&self, seed: u64) -> (Region<Foreign>, Arc<Siege>) {
        let (paper, mut seen) = handed_over(&self.grants[0], self.geometry, KIND_PRODUCER).unwrap();
        let siege = Siege::new(paper, self.geometry, seed);
        seen.watched_by = Some(Arc::new(OfProducer(Arc::clone(&siege))));
        (seen, siege)
    }

    /// A consumer of a hostile producer's.
    fn consumer(&self, base: u64, seed: u64) -> (Consumer, Arc<Siege>) {
        let (seen, siege) = self.of_producer(seed);
        let (own, _) = handed_over(&self.grants[1], self.geometry, KIND_CONSUMER).unwrap();
        // As the agent does it.
        own.store_relaxed(C_RELEASED, base);
        let grant = Grant { base, ..self.grants[1].clone() };
        let link = Link::new(None, None, PeerState::Live);
        let mut consumer = Consumer::new(own, grant, link).unwrap();
        consumer.ring.pay_for_fences();
        siege.begin(base, 0);
        consumer.join(seen, 1);
        (consumer, siege)
    }

    /// A producer's own segment, and a hostile consumer's.
    fn of_consumer(&self, seed: u64) -> (Region<Owned>, Region<Foreign>, Arc<Siege>) {
        let (paper, mut seen) = handed_over(&self.grants[1], self.geometry, KIND_CONSUMER).unwrap();
        let (mut own, _) = handed_over(&self.grants[0], self.geometry, KIND_PRODUCER).unwrap();
        let siege = Siege::new(paper, self.geometry, seed);
        seen.watched_by = Some(Arc::new(OfConsumer(Arc::clone(&siege))));
        own.watched_by = Some(Arc::new(OwnOfProducer(Arc::clone(&siege))));
        (own, seen, siege)
    }

    /// A producer with a hostile consumer that is `lag` slots behind.
    fn producer(&self, base: u64, lag: u64, seed: u64) -> (Producer, Arc<Siege>) {
        let (own, seen, siege) = self.of_consumer(seed);
        let released = base - lag;
        let grant = Grant { base, released, ..self.grants[0].clone() };
        let link = Link::new(None, None, PeerState::Live);
        let mut producer = Producer::new(own, grant, link).unwrap();
        siege.state().window = (base, released + self.geometry.count());
        producer.join(seen, 1);
        (producer, siege)
    }
}

/// Positions at which a lane may stand: young, in mid-lap, where turns wrap, and old.
fn start(dice: &Dice, geometry: &Geometry) -> u64 {
    let count = geometry.count();
    dice.pick(&[0, 5, count - 1, count * u64::from(u32::MAX) - 3, 1 << 40 | 7])
}

/// Fail-stop: nothing but the first corruption once there was one.
#[derive(Debug, Default)]
struct FailStop(Option<Corruption>);

impl FailStop {
    /// What was found, or whichever error it was; a corruption is remembered.
    fn judge<T>(&mut self, result: Result<T, RecvError>) -> Result<T, RecvError> {
        let now = match &result {
            Err(RecvError::Corrupt(corruption)) => Some(*corruption),
            _ => None,
        };
        match (self.0, now) {
            (None, now) => self.0 = now,
            (Some(first), Some(again)) => assert_eq!(first, again, "oracle: another corruption"),
            (Some(_), None) => panic!("oracle: goes on after corruption"),
        }
        result
    }
}

/// Looks that each kind of victim has to survive.
fn looks_wanted() -> u64 {
    let full = std::env::var_os("LANEWAY_FULL").is_some_and(|value| value == "1");
    if full { 2_000_000 } else { 100_000 }
}

/// Where the seeds of the cases come from: other cases for each number in `LANEWAY_SEED`.
fn first_seed() -> u64 {
    std::env::var("LANEWAY_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1)
}

/// Says which case it was that did not survive.
struct Named(usize, u64);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("not survived: lane {}, seed {:#x}", self.0, self.1);
        }
    }
}

/// Runs the cases that did not survive once: by their lanes in [`Lane::all`], and their seeds.
fn again(found: &[(usize, u64)], case: impl Fn(&Lane, &Dice) -> (u64, bool)) {
    let lanes = Lane::all();
    for (number, seed) in found {
        let _named = Named(*number, *seed);
        case(&lanes[*number], &Dice::new(*seed));
    }
}

/// Runs cases on lanes of every shape until they had their share of `looks`. A case says how many
/// looks it was and whether it ended in corruption; its seed says all that happens in it.
fn besiege(name: &str, looks: u64, case: impl Fn(&Lane, &Dice) -> (u64, bool)) {
    let (mut cases, mut corruptions, mut total) = (0u64, 0u64, 0);
    let lanes = Lane::all();
    let share = looks / lanes.len() as u64;
    let seeds = Dice::new(first_seed());
    for (number, lane) in lanes.iter().enumerate() {
        let mut seen = 0;
        while seen < share {
            let named = Named(number, seeds.next());
            let (looks, broken) = case(lane, &Dice::new(named.1));
            seen += looks;
            corruptions += u64::from(broken);
            cases += 1;
        }
        total += seen;
    }
    println!("{name}: {total} looks, {cases} cases, {corruptions} ended in corruption");
    assert!(corruptions > cases / 10 && corruptions < cases, "the demon is too tame or too wild");
}
