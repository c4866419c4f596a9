//! What a broadcast lane must behave like: everything that was sent, and a cursor for each reader.
//!
//! As with the queue, each side says what it is about to do and what it has done, so that it also
//! judges ends that run at the same time. The producer *claims* slots before it asks for them; it
//! may have *written* those that it was given.

use std::collections::BTreeMap;

use laneway_shm::ring::{GivenUp, Policy, Start};

use super::queue::{Room, bytes_of};

/// Something that takes slots.
#[derive(Clone, Copy, Debug)]
struct Entry {
    position: u64,
    slots: u64,
    /// `None` is the end of the stream.
    len: Option<usize>,
    /// Appeared in one batch with the next one.
    joined: bool,
}

impl Entry {
    fn end(&self) -> u64 {
        self.position + self.slots
    }
}

/// What one producer did, of several that follow each other.
#[derive(Clone, Copy, Debug)]
struct Reign {
    base: u64,
    /// Where the next one goes on.
    end: Option<u64>,
    /// Position after the slots that it was given.
    written: u64,
    /// Position after those that it may have marked as busy, as far as is known before it looks.
    claimed: u64,
    /// The same in an evicting lane, once it has looked: no further than its readers' budget.
    marked: u64,
}

/// A reader as the producer must see it.
#[derive(Clone, Copy, Debug, Default)]
struct Cursor {
    /// Where it was let in first.
    joined_at: Option<u64>,
    /// Where the reader says that it was let in.
    entered_at: Option<u64>,
    /// Where this producer let it in.
    floor: Option<u64>,
    /// Position up to which it has begun to release.
    taken: u64,
    /// It may be about to release more.
    moves: bool,
    /// Position up to which the producer is certain to see it.
    shown: u64,
    /// The same before the producer's last look.
    noted: u64,
    /// It begins to leave, and has done so.
    leaves: bool,
    has_left: bool,
    /// What was committed when this producer gave it up.
    given_up: Option<u64>,
}

impl Cursor {
    fn taken(&self) -> u64 {
        if self.moves { u64::MAX } else { self.taken.max(self.floor.unwrap_or(0)) }
    }

    fn shown(&self) -> u64 {
        self.shown.max(self.floor.unwrap_or(0))
    }
}

/// What a reader must find, before it looks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outlook {
    /// Something is there for certain.
    pub(crate) certain: bool,
    /// Whatever was there has been written over.
    pub(crate) gone: bool,
}

#[derive(Debug)]
pub(crate) struct History {
    payload: usize,
    count: u64,
    policy: Policy,
    /// A call that returned has happened for everybody.
    strict: bool,
    entries: Vec<Entry>,
    /// Position after the last offered entry.
    offered: u64,
    /// Position after the last committed one.
    committed: u64,
    reigns: Vec<Reign>,
    readers: BTreeMap<u64, Cursor>,
}

impl History {
    pub(crate) fn new(payload: u32, count: u64, policy: Policy, strict: bool) -> Self {
        let policy = match policy {
            Policy::Evicting { budget } => Policy::Evicting { budget: budget.clamp(1, count) },
            policy => policy,
        };
        Self {
            payload: payload as usize,
            count,
            policy,
            strict,
            entries: Vec::new(),
            offered: 0,
            committed: 0,
            reigns: vec![Reign { base: 0, end: None, written: 0, claimed: 0, marked: 0 }],
            readers: BTreeMap::new(),
        }
    }

    fn quarter(&self) -> u64 {
        (self.count / 4).max(1)
    }

    /// Slots that a lane that loses marks at once.
    fn run(&self) -> u64 {
        (self.count / 8).clamp(1, 64)
    }

    /// Slots that a message takes.
    pub(crate) fn slots(&self, len: usize) -> u64 {
        len.div_ceil(self.payload).max(1) as u64
    }

    /// Position after everything that was sent.
    pub(crate) fn end(&self) -> u64 {
        self.offered
    }

    fn reign(&mut self) -> &mut Reign {
        self.reigns.last_mut().expect("the first one")
    }

    /// The first position from `from` on at which something starts, or what was sent ends.
    fn boundary(&self, from: u64) -> u64 {
        let at = self.entries.partition_point(|entry| entry.position < from);
        self.entries.get(at).map_or(self.offered, |entry| entry.position)
    }

    fn at(&self, position: u64) -> Option<&Entry> {
        let at = self.entries.binary_search_by_key(&position, |entry| entry.position);
        at.ok().map(|at| &self.entries[at])
    }

    // --- the producer ---------------------------------------------------------------------------

    /// Whether a message of `len` bytes finds room, `ahead` slots after what was sent.
    pub(crate) fn room(&self, ahead: u64, len: usize) -> Room {
        let needed = self.offered + ahead + self.slots(len);
        let counted = |is_gone: fn(&Cursor) -> bool| {
            let gates = self.policy == Policy::Gated;
            self.readers.values().filter(move |r| gates && r.floor.is_some() && !is_gone(r))
        };
        let certain = counted(|reader| reader.has_left).map(Cursor::shown).min();
        let possible = counted(|reader| reader.leaves).map(Cursor::taken).min();
        if needed <= certain.unwrap_or(self.committed) + self.count {
            Room::Certain
        } else if needed <= possible.unwrap_or(self.committed).saturating_add(self.count) {
            Room::Possible
        } else {
            Room::None
        }
    }

    /// The producer asks for room, as in [`History::room`].
    pub(crate) fn claim(&mut self, ahead: u64, len: usize) -> Room {
        let (next, most) = (self.offered + ahead, self.committed + self.count);
        let (needed, run) = (next + self.slots(len), self.run());
        if needed <= most {
            let claimed = needed.max((next + run).min(most));
            self.reign().claimed = self.reign().claimed.max(claimed);
        }
        for reader in self.readers.values_mut() {
            reader.noted = if self.strict { reader.shown() } else { reader.floor.unwrap_or(0) };
        }
        self.room(ahead, len)
    }

    /// The producer was given room, or not, and has given up readers for it.
    pub(crate) fn answer(
        &mut self,
        ahead: u64,
        len: usize,
        granted: Option<u64>,
        given_up: &[GivenUp],
    ) {
        let (next, needed) = (self.offered + ahead, self.offered + ahead + self.slots(len));
        for one in given_up {
            self.give_up(one, needed);
        }
        let Some(position) = granted else { return };
        assert_eq!(position, next, "oracle: position");
        let room = self.room(ahead, len);
        assert!(room != Room::None, "oracle: room for {len} bytes that a reader still holds");
        self.reign().written = self.reign().written.max(needed);
        let Policy::Evicting { budget } = self.policy else { return };
        let gating = |r: &&Cursor| r.floor.is_some() && !r.leaves && r.given_up.is_none();
        let gating: Vec<Cursor> = self.readers.values().filter(gating).copied().collect();
        let limit = gating.iter().map(|reader| reader.taken().saturating_add(budget)).min();
        let marked = (next + self.run()).min(limit.unwrap_or(u64::MAX)).max(needed);
        let before = self.reign().marked;
        self.reign().marked = before.max(marked);
        for reader in gating {
            let taken = reader.taken();
            let held = taken.saturating_add(self.count);
            assert!(needed <= held, "oracle: {reader:?} is overrun untold");
            // What is marked already may be used without a look.
            let late = before <= next && self.committed >= taken.saturating_add(budget);
            assert!(!late, "oracle: {reader:?} is beyond {budget} slots, and not given up");
        }
    }

    fn give_up(&mut self, one: &GivenUp, needed: u64) {
        let Policy::Evicting { budget } = self.policy else {
            panic!("oracle: {one:?} in a lane that gives nobody up")
        };
        assert_eq!(one.reason, laneway_shm::Reason::Behind, "oracle: nobody lies");
        assert_eq!(one.at, self.committed, "oracle: what was committed then");
        let (committed, count) = (self.committed, self.count);
        let reader = self.readers.get_mut(&one.reader).expect("oracle: nobody knows it");
        assert_eq!(reader.given_up.replace(one.at), None, "oracle: given up twice");
        let behind = committed - reader.noted >= budget || needed > reader.noted + count;
        assert!(behind, "oracle: {reader:?} was within {budget} slots of {committed}");
    }

    /// From now on readers may see `lens`, all at once if they are a batch.
    pub(crate) fn offer(&mut self, lens: &[usize]) {
        for (index, &len) in lens.iter().enumerate() {
            let (position, slots) = (self.offered, self.slots(len));
            let joined = index + 1 < lens.len();
            self.entries.push(Entry { position, slots, len: Some(len), joined });
            self.offered += slots;
        }
    }

    /// From now on they may see the end.
    pub(crate) fn offer_end(&mut self) {
        let position = self.offered;
        self.entries.push(Entry { position, slots: 1, len: None, joined: false });
        self.offered += 1;
    }

    /// There was no room for the end.
    pub(crate) fn withdraw_end(&mut self) {
        self.entries.pop();
        self.offered -= 1;
    }

    /// What was offered is committed.
    pub(crate) fn commit(&mut self) {
        self.committed = self.offered;
    }

    /// A reader was let in at `at`, while a batch of `ahead` slots was open.
    pub(crate) fn admit(&mut self, number: u64, start: Start, at: u64, ahead: u64) {
        let legal = match start {
            Start::Newest => self.committed..=self.committed,
            Start::Oldest => self.oldest(self.offered + ahead),
        };
        assert!(legal.contains(&at), "oracle: let in at {at}, not in {legal:?}");
        assert_eq!(self.boundary(at), at, "oracle: let in within a message");
        let reader = self.readers.entry(number).or_default();
        (reader.floor, reader.joined_at) = (Some(at), Some(at));
        let entered = reader.entered_at.is_none_or(|found| found == at);
        assert!(entered, "oracle: {reader:?} was let in at {at}");
    }

    /// Where a reader may be let in that wants the oldest: at the first message that is whole for
    /// certain, and one further where what was before it is not known any more.
    fn oldest(&self, next: u64) -> std::ops::RangeInclusive<u64> {
        let reign = self.reigns.last().expect("the first one");
        let kept = |written: u64| {
            let three_quarters = next.saturating_sub(self.count - self.quarter());
            let kept = written.saturating_sub(self.count).max(three_quarters).max(reign.base);
            match self.policy {
                Policy::Evicting { budget } => kept.max(next.saturating_sub(budget - 1)),
                _ => kept,
            }
        };
        let marked = if self.policy.loses() { reign.claimed } else { reign.written };
        let last = kept(marked.max(next + 1));
        let is_known = last == reign.base || last + self.count > marked;
        let first = self.boundary(kept(reign.written)).min(self.committed);
        first..=self.boundary(if is_known { last } else { last + 1 }).min(self.committed)
    }

    /// A reader is dead and forgotten.
    pub(crate) fn dismiss(&mut self, number: u64) {
        self.readers.remove(&number);
    }

    pub(crate) fn has_left(&self, number: u64) -> bool {
        self.readers.get(&number).is_some_and(|reader| reader.has_left)
    }

    /// A new producer knows all readers, and has given nobody up.
    pub(crate) fn succeed(&mut self) {
        let base = self.offered;
        self.reign().end = Some(base);
        self.reigns.push(Reign { base, end: None, written: base, claimed: base, marked: base });
        for reader in self.readers.values_mut().filter(|reader| reader.floor.is_some()) {
            (reader.floor, reader.given_up) = (Some(base), None);
        }
    }

    // --- a reader -------------------------------------------------------------------------------

    /// A reader found itself in the list of a producer.
    pub(crate) fn enter(&mut self, number: u64, at: u64) {
        let reader = self.readers.entry(number).or_default();
        reader.entered_at = Some(at);
        let joined = reader.joined_at.is_none_or(|joined| joined == at);
        assert!(joined, "oracle: {reader:?} found that it was let in at {at}");
    }

    /// What a reader must find at `position`, which it came to by a message or not.
    pub(crate) fn outlook(&self, generation: usize, position: u64, by_message: bool) -> Outlook {
        let reign = &self.reigns[generation];
        let is_here = reign.end.is_none_or(|end| position < end);
        let here = self.at(position).filter(|_| is_here);
        let before = self.entries.partition_point(|entry| entry.position < position);
        let joined = by_message && before > 0 && self.entries[before - 1].joined;
        let committed = |entry: &Entry| self.strict && entry.end() <= self.committed;
        Outlook {
            certain: here.is_some_and(|entry| joined || committed(entry)),
            gone: self.strict && self.policy.loses() && position + self.count < reign.written,
        }
    }

    /// A reader found a message; returns where the next one starts.
    pub(crate) fn judge(&self, position: u64, bytes: &[u8]) -> u64 {
        let entry = self.at(position).expect("oracle: a message that was not sent");
        assert_eq!(entry.len, Some(bytes.len()), "oracle: length of the message at {position}");
        assert_eq!(bytes, bytes_of(position, bytes.len()), "oracle: torn, or another message");
        entry.end()
    }

    /// A reader found an end; returns where the next generation starts.
    pub(crate) fn judge_end(&self, position: u64) -> u64 {
        let entry = self.at(position).expect("oracle: an end that was not sent");
        assert_eq!(entry.len, None, "oracle: a message was taken for the end");
        entry.end()
    }

    /// A reader was told that it lost what lies between: no more than it must, and whole messages.
    pub(crate) fn judge_lost(&self, generation: usize, position: u64, to: u64) {
        let reign = &self.reigns[generation];
        let overrun = self.policy.loses() && position + self.count < reign.claimed;
        assert!(overrun, "oracle: the message at {position} is there, and was told as lost");
        let furthest = self.boundary(reign.claimed.saturating_sub(self.count / 2));
        let furthest = furthest.min(reign.end.unwrap_or(u64::MAX));
        let legal = position < to && to <= furthest && self.boundary(to) == to;
        assert!(legal, "oracle: lost from {position} to {to}, and not to {furthest}");
    }

    /// The reader that was given up at `at` sees it.
    pub(crate) fn judge_given_up(&self, generation: usize, number: u64, at: u64) {
        let known = self.readers.get(&number).and_then(|reader| reader.given_up);
        let is_this_one = generation + 1 == self.reigns.len();
        let agrees = !is_this_one || known.is_none_or(|known| known == at);
        assert!(agrees, "oracle: {number} was given up at {known:?}, and reads {at}");
    }

    /// The reader begins to look, and may release what it finds.
    pub(crate) fn look(&mut self, number: u64) {
        self.readers.entry(number).or_default().moves = true;
    }

    /// The reader begins to release everything up to `position`, or has done so.
    pub(crate) fn take(&mut self, number: u64, position: u64) {
        let reader = self.readers.entry(number).or_default();
        (reader.taken, reader.moves) = (position, false);
    }

    /// The release returned.
    pub(crate) fn released(&mut self, number: u64) {
        let quarter = self.quarter();
        let reader = self.readers.entry(number).or_default();
        reader.shown = reader.shown.max((reader.taken + 1).saturating_sub(quarter));
    }

    /// The reader has shown where it is.
    pub(crate) fn show(&mut self, number: u64) {
        let reader = self.readers.entry(number).or_default();
        reader.shown = reader.taken;
    }

    /// The reader begins to leave.
    pub(crate) fn leave(&mut self, number: u64) {
        self.readers.entry(number).or_default().leaves = true;
    }

    /// It has left.
    pub(crate) fn left(&mut self, number: u64) {
        self.readers.entry(number).or_default().has_left = true;
    }
}
