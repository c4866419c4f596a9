//! Ends with planted bugs: the demon has teeth if the oracles catch each of them.

use std::panic::{AssertUnwindSafe, catch_unwind};

use laneway_shm::cursor::{CommitWord, Kind, SlotState, read_slot};
use laneway_shm::geometry::WORD_BYTES;
use laneway_shm::layout::{C_RELEASED, P_SLOTS};
use laneway_shm::memory::{Memory, OwnedMemory};

use super::*;

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
