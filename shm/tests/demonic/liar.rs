//! What an adversary says: seeded, and biased to the plausible, because random numbers almost never
//! get past the first check. Shared with the adversary behind real mappings (`shm/src/demonic.rs`).

use std::cell::Cell;

use laneway_shm::cursor::{CommitWord, Kind};
use laneway_shm::geometry::Geometry;

/// A seeded generator (splitmix64): the same run everywhere.
#[derive(Debug)]
pub(crate) struct Dice(Cell<u64>);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Cell::new(seed))
    }

    pub(crate) fn next(&self) -> u64 {
        self.0.set(self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
        let mut word = self.0.get();
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number below `limit`.
    pub(crate) fn below(&self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub(crate) fn pick<T: Copy>(&self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).expect("a small index")]
    }
}

/// Answers for the words of one ring.
#[derive(Debug)]
pub(crate) struct Liar {
    pub(crate) geometry: Geometry,
    pub(crate) dice: Dice,
    /// Share of the answers that are not plausible, in per cent.
    pub(crate) malice: Cell<u64>,
    /// The victim's position, so that plausible answers are near it.
    pub(crate) near: Cell<u64>,
}

impl Liar {
    pub(crate) fn new(geometry: Geometry, seed: u64) -> Self {
        Self { geometry, dice: Dice::new(seed), malice: Cell::new(40), near: Cell::new(0) }
    }

    fn is_evil(&self) -> bool {
        self.dice.below(100) < self.malice.get()
    }

    pub(crate) fn edge(&self) -> u64 {
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

    /// An answer for a commit word; `laps` further ones were asked for.
    pub(crate) fn word(&self, slot: u64, laps: u64) -> u64 {
        let (geometry, dice, near) = (&self.geometry, &self.dice, self.near.get());
        let ahead = slot.wrapping_sub(near) & (geometry.count() - 1);
        // A victim that walks on and on gets plausible words of the next laps, too.
        let turn = geometry.turn(near.wrapping_add(ahead + laps * geometry.count()));
        let payload = geometry.payload();
        let short = u32::try_from(dice.below(u64::from(payload) + 1)).expect("a length");
        match (self.is_evil(), dice.below(16)) {
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

    /// An answer for a cursor that should lie between two others.
    pub(crate) fn cursor(&self, lowest: u64, highest: u64) -> u64 {
        match self.is_evil() {
            false => lowest + self.dice.below(highest.saturating_sub(lowest) + 1),
            true => self.dice.pick(&[highest + 1, lowest.wrapping_sub(1), self.edge()]),
        }
    }
}
