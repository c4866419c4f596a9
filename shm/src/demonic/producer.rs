//! A producer among its calls: one message or many, in place, by value, packed, in a batch, typed.

use std::sync::OnceLock;

use super::consumer::Pair;
use super::*;
use crate::error::ReserveError;
use crate::frozen::{FROZEN_IN_FLIGHT_MAX, FrozenBuilder, FrozenFile, FrozenSendError};
use crate::lifeline::{self, Lifeline};
use crate::memory::Memory as _;
use crate::producer::WriteChunk;
use crate::typed::TypedProducer;
use crate::typed::many::TypedChunk;

/// A frozen payload of one page.
fn payload() -> &'static FrozenFile {
    static PAYLOAD: OnceLock<FrozenFile> = OnceLock::new();
    PAYLOAD.get_or_init(|| FrozenBuilder::on_pages(100, 4096).unwrap().freeze().unwrap())
}

/// Sends at most this many at once.
const MANY: usize = 8;
const BYTES: [u8; 4096] = [7; 4096];

/// One producer and what must be true of it.
struct Case<'c> {
    end: TypedProducer<Pair>,
    siege: Arc<Siege>,
    dice: &'c Dice,
    geometry: Geometry,
    broken: Option<Corruption>,
    /// The consumer's half of the lifeline, which it reads when it likes.
    half: Lifeline,
}

impl<'c> Case<'c> {
    fn new(lane: &Lane, dice: &'c Dice) -> Self {
        let base = start(dice, &lane.geometry);
        let lag = dice.below(lane.geometry.count() + 1).min(base);
        let (mut producer, siege) = lane.producer(base, lag, dice.next());
        let [one, other] = lifeline::pair().unwrap();
        let peer = producer.ring.peer_mut(1).unwrap();
        peer.take_lifeline(Some(Arc::new(Lifeline::new(one))));
        let half = Lifeline::new(other);
        siege.set_malice(dice);
        let end = TypedProducer::new(producer);
        Self { end, siege, dice, geometry: lane.geometry, broken: None, half }
    }

    fn run(mut self) -> (u64, bool) {
        for _ in 0..=self.dice.below(96) {
            let choice = self.dice.below(16);
            self.any(choice);
        }
        self.close();
        (self.siege.total().max(1), self.broken.is_some())
    }

    /// Opens the books for a call that sends up to `messages`, each visible by itself or together.
    fn begin(&self, messages: usize, commits_often: bool) -> u64 {
        let (committed, lag) = (self.end.producer().position(), self.end.producer().lag());
        let count = self.geometry.count();
        assert!(lag <= count, "oracle: {lag} slots behind in a ring of {count}");
        self.siege.begin(committed, messages);
        let mut state = self.siege.state();
        state.window = (committed, committed - lag + count);
        state.commits_often = commits_often;
        committed
    }

    fn timeout(&self) -> Duration {
        if self.dice.below(256) == 0 {
            self.siege.be_quiet();
            return SHORT;
        }
        NOW
    }

    fn len(&self) -> usize {
        let (max, payload) = (self.geometry.message_max(), self.geometry.payload() as usize);
        let any = usize::try_from(self.dice.below(max as u64 + 1)).unwrap();
        self.dice.pick(&[0, 1, payload, any, any, max, max + 1, usize::MAX])
    }

    fn count(&self) -> usize {
        usize::try_from(self.dice.below(MANY as u64) + 1).unwrap()
    }

    fn any(&mut self, choice: u64) {
        match choice {
            0 => self.in_place(),
            1 => self.in_pieces(),
            2 => self.send(),
            3 => self.array::<8>(),
            4 => self.array::<24>(),
            5 => self.arrays::<8>(),
            6 => self.many(),
            7 => self.packed::<8>(),
            8 => self.packed::<3>(),
            9 => self.batch(),
            10 => self.typed(),
            11 => self.frozen(),
            12 => self.try_many(),
            13 => self.chunk(),
            14 => self.typed_chunk(),
            _ => self.ask(),
        }
    }

    /// Judges a call that sends `sent` messages of `len` bytes each if it succeeds, and some of
    /// them if it does not.
    fn judge(&mut self, before: u64, len: usize, sent: usize, result: Result<(), ReserveError>) {
        let moved = self.end.producer().position() - before;
        let all = if result.is_ok() { self.geometry.slots_for(len) * sent as u64 } else { 0 };
        match result {
            Ok(()) => assert_eq!(moved, all, "oracle: slots committed"),
            Err(error) if sent > 1 => self.refused(&error, len),
            Err(error) => {
                assert_eq!(moved, 0, "oracle: committed in spite of {error}");
                self.refused(&error, len);
            }
        }
    }

    fn refused(&mut self, error: &ReserveError, len: usize) {
        match *error {
            ReserveError::Corrupt(corruption) => {
                assert_eq!(*self.broken.get_or_insert(corruption), corruption, "oracle: another");
            }
            _ if self.broken.is_some() => panic!("oracle: {error} after corruption"),
            ReserveError::TooLarge { asked_bytes, limit_bytes } => {
                let max = self.geometry.message_max();
                assert!(asked_bytes == len && len > max && limit_bytes == max, "oracle: {error}");
            }
            ReserveError::Full { asked, free, slots } => {
                let sane = free < asked && asked <= slots && slots == self.geometry.count();
                assert!(sane, "oracle: {error}");
            }
            ReserveError::TimedOut { .. } => {}
            _ => panic!("oracle: {error}"),
        }
    }

    fn in_place(&mut self) {
        let (before, len, dice) = (self.begin(1, false), self.len(), self.dice);
        let result = self.end.producer_mut().try_reserve(len).map(|mut slot| {
            assert_eq!(slot.len(), len, "oracle: reserved");
            let part = usize::try_from(dice.below(len as u64 + 1)).unwrap();
            if dice.below(2) == 0 {
                let _ = slot.bytes_mut().map(|bytes| bytes.fill(7));
            } else if let Some(bytes) = slot.as_mut() {
                bytes.iter_mut().for_each(|byte| _ = byte.write(7));
            }
            match dice.below(3) {
                0 => (len, 0),
                1 => {
                    slot.commit_len(part);
                    (part, 1)
                }
                _ => {
                    slot.commit();
                    (len, 1)
                }
            }
        });
        let (len, sent) = result.as_ref().copied().unwrap_or((len, 1));
        self.judge(before, len, sent, result.map(drop));
    }

    fn in_pieces(&mut self) {
        let (before, len) = (self.begin(1, false), self.len());
        let timeout = self.timeout();
        let result = self.end.producer_mut().reserve(len, timeout).map(|mut slot| {
            for (index, part) in BYTES[..len].chunks(13).enumerate().rev() {
                slot.write(index * 13, part);
            }
            slot.commit();
        });
        self.judge(before, len, 1, result);
    }

    fn send(&mut self) {
        let before = self.begin(1, false);
        let len = self.len().min(BYTES.len());
        let timeout = self.timeout();
        let result = match self.dice.below(2) {
            0 => self.end.producer_mut().try_send(&BYTES[..len]),
            _ => self.end.producer_mut().send(&BYTES[..len], timeout),
        };
        self.judge(before, len, 1, result);
    }

    fn array<const N: usize>(&mut self) {
        let before = self.begin(1, false);
        let timeout = self.timeout();
        let result = match self.dice.below(2) {
            0 => self.end.producer_mut().try_send_array([7; N]),
            _ => self.end.producer_mut().send_array([7; N], timeout),
        };
        self.judge(before, N, 1, result);
    }

    fn arrays<const N: usize>(&mut self) {
        let count = self.count();
        let before = self.begin(count, true);
        let (timeout, slots) = (self.timeout(), self.geometry.slots_for(N));
        let mut made = 0;
        let mut make = || {
            made += 1;
            [7; N]
        };
        let (sent, result) = match self.dice.below(2) {
            0 => match self.end.producer_mut().try_send_arrays(count, &mut make) {
                Ok(sent) => (sent, Ok(())),
                Err(error) => (0, Err(error)),
            },
            _ => (count, self.end.producer_mut().send_arrays(count, timeout, &mut make)),
        };
        let moved = self.end.producer().position() - before;
        let fits = moved.is_multiple_of(slots) && moved / slots <= sent.max(made) as u64;
        assert!(made <= count && fits, "oracle: {made} of {count} made");
        match result {
            Ok(()) => self.judge(before, N, sent, Ok(())),
            Err(error) => self.refused(&error, N),
        }
    }

    fn many(&mut self) {
        let count = self.count();
        let before = self.begin(count, true);
        let (timeout, len) = (self.timeout(), self.len().min(BYTES.len()));
        let mut offered = 0;
        let messages = (0..count).map(|_| &BYTES[..len]).inspect(|_| offered += 1);
        let result = self.end.producer_mut().send_many(messages, timeout);
        let sent = if result.is_ok() { count } else { offered - 1 };
        let moved = self.end.producer().position() - before;
        assert_eq!(moved, self.geometry.slots_for(len) * sent as u64, "oracle: slots committed");
        match result {
            Ok(said) => assert_eq!(said, count, "oracle: sent"),
            Err(error) => self.refused(&error, len),
        }
    }

    fn try_many(&mut self) {
        let count = self.count();
        let before = self.begin(count, true);
        let len = self.len().min(BYTES.len());
        let messages = vec![&BYTES[..len]; count];
        let result = self.end.producer_mut().try_send_many(&messages);
        let sent = result.as_ref().copied().unwrap_or(0);
        let moved = self.end.producer().position() - before;
        let all = self.geometry.slots_for(len) * sent as u64;
        assert!(sent <= count && moved == all, "oracle: slots committed");
        if let Err(error) = result {
            self.refused(&error, len);
        }
    }

    fn chunk(&mut self) {
        let (before, dice) = (self.begin(MANY, false), self.dice);
        let (count, len) = (self.count(), self.len().min(BYTES.len()));
        let timeout = self.timeout();
        let found = match dice.below(2) {
            0 => self.end.producer_mut().try_chunk(count, len),
            _ => self.end.producer_mut().chunk(count, len, timeout),
        };
        let result = found.map(|chunk| fill(chunk, count, len, dice));
        self.judge_chunk(before, count, len, result);
    }

    fn typed_chunk(&mut self) {
        let (before, dice, count) = (self.begin(MANY, false), self.dice, self.count());
        let timeout = self.timeout();
        let found = match dice.below(2) {
            0 => self.end.try_chunk(count),
            _ => self.end.chunk(count, timeout),
        };
        let result = found.map(|chunk| fill_values(chunk, count, dice));
        self.judge_chunk(before, count, size_of::<Pair>(), result);
    }

    fn judge_chunk(
        &mut self,
        before: u64,
        count: usize,
        len: usize,
        result: Result<u64, ReserveError>,
    ) {
        let each = self.geometry.slots_for(len);
        let committed = result.as_ref().copied().unwrap_or(0);
        let moved = self.end.producer().position() - before;
        assert_eq!(moved, each * committed, "oracle: slots of a chunk");
        if let Err(error) = result {
            let slots = usize::try_from(each).unwrap() * count;
            self.refused(&error, slots * self.geometry.payload() as usize);
        }
    }

    fn packed<const N: usize>(&mut self) {
        let count = self.dice.pick(&[self.count(), self.count(), usize::MAX / 2]);
        let before = self.begin(1, false);
        let timeout = self.timeout();
        let result = self.end.producer_mut().send_packed_arrays(count, timeout, || [7; N]);
        self.judge(before, count.saturating_mul(N), 1, result);
    }

    fn batch(&mut self) {
        let (before, dice) = (self.begin(MANY, false), self.dice);
        let lens: Vec<usize> = (0..self.count()).map(|_| self.len().min(BYTES.len())).collect();
        let mut batch = self.end.producer_mut().batch();
        let (mut slots, mut refusal, mut pushed) = (0, None, 0);
        for len in lens {
            let (len, result) = match dice.below(2) {
                0 => (8, batch.push_array([7; 8])),
                _ => (len, batch.push(&BYTES[..len])),
            };
            if let Err(error) = result {
                refusal = Some((len, error));
                break;
            }
            slots += self.geometry.slots_for(len);
            pushed += 1;
        }
        let commits = dice.below(2) == 0;
        if commits {
            assert_eq!(batch.commit(), pushed, "oracle: messages of a batch");
        } else {
            drop(batch);
        }
        let moved = self.end.producer().position() - before;
        assert_eq!(moved, if commits { slots } else { 0 }, "oracle: slots of a batch");
        if let Some((len, error)) = refusal {
            self.refused(&error, len);
        }
    }

    fn typed(&mut self) {
        const SIZE: usize = size_of::<Pair>();
        let message = Pair { first: 7, second: 7 };
        let (choice, count) = (self.dice.below(10), self.count());
        let before = self.begin(count, choice >= 4);
        let timeout = self.timeout();
        let (end, some) = (&mut self.end, vec![message; count]);
        let one = |result: Result<(), ReserveError>| (1, result);
        let any = |result: Result<usize, ReserveError>| match result {
            Ok(sent) => (sent, Ok(())),
            Err(error) => (0, Err(error)),
        };
        let (sent, result) = match choice {
            0 => one(end.send(&message, timeout)),
            1 => one(end.try_send(&message)),
            2 => one(end.send_with(timeout, |found| *found = message)),
            3 => one(end.try_send_with(|found| *found = message)),
            4 => (count, end.send_many(&some, timeout)),
            5 => any(end.try_send_many(&some)),
            6 => (count, end.send_packed(&some, timeout)),
            7 => any(end.try_send_packed(&some)),
            8 => (count, end.send_packed_with(count, timeout, |room| room.fill(message))),
            _ => (count, end.try_send_packed_with(count, |room| room.fill(message))),
        };
        match result {
            Err(error) if choice >= 8 => self.refused(&error, SIZE * count),
            Err(error) => self.refused(&error, SIZE * self.end.per_slot().min(count)),
            Ok(()) if choice < 6 => self.judge(before, SIZE, sent, Ok(())),
            Ok(()) if choice >= 8 => self.judge(before, SIZE * count, 1, Ok(())),
            Ok(()) => {
                let moved = self.end.producer().position() - before;
                let messages = (sent as u64).div_ceil(self.end.per_slot() as u64);
                let packed = self.geometry.slots_for(SIZE);
                assert!(moved <= messages * packed && (moved > 0) == (sent > 0), "oracle: packed");
            }
        }
    }

    fn frozen(&mut self) {
        let before = self.begin(2, false);
        if self.dice.below(2) == 0 {
            let _ = (self.half.receive(), self.half.ring());
        }
        let producer = self.end.producer_mut();
        let known = producer.frozen_in_flight();
        let result = producer.send_frozen(payload(), NOW);
        let (moved, in_flight) = (producer.position() - before, producer.frozen_in_flight());
        assert!(in_flight <= FROZEN_IN_FLIGHT_MAX, "oracle: {in_flight} in flight");
        match result {
            Ok(()) => assert_eq!(moved, 1, "oracle: slots"),
            Err(FrozenSendError::Reserve(error)) => {
                assert_eq!(moved, 0, "oracle: committed in spite of {error}");
                self.refused(&error, 0);
            }
            Err(FrozenSendError::InFlight { .. } | FrozenSendError::LifelineFull { .. }) => {
                assert!(moved == 0 && in_flight <= known, "oracle: {moved} slots");
            }
            Err(error) => panic!("oracle: {error}"),
        }
    }

    /// What only looks.
    fn ask(&mut self) {
        let before = self.begin(1, false);
        let producer = self.end.producer_mut();
        producer.maintain().unwrap();
        assert!(producer.readers().next().is_none() && producer.holder().is_none());
        assert!(producer.lifeline().is_some() && producer.peer() == PeerState::Live);
        assert_eq!(
            (producer.position(), producer.message_max()),
            (before, self.geometry.message_max())
        );
    }

    fn close(&mut self) {
        self.begin(1, false);
        let spare = Lane::new(8, 2, WaitMode::Spin);
        let (producer, _) = spare.producer(0, 0, 1);
        let end = std::mem::replace(&mut self.end, TypedProducer::new(producer));
        if let Err(error) = end.close(NOW) {
            self.refused(&error, 0);
        }
    }
}

/// As [`fill`], for values.
fn fill_values(mut chunk: TypedChunk<'_, Pair>, count: usize, dice: &Dice) -> u64 {
    let value = Pair { first: 7, second: 7 };
    let handed = usize::try_from(dice.below(count as u64 + 1)).unwrap();
    for written in 0..handed {
        assert_eq!(chunk.left(), count - written, "oracle: left in a chunk");
        let found = chunk.write(|found| *found = value).unwrap();
        assert!(found, "oracle: room that was found is there");
    }
    match dice.below(3) {
        0 => 0,
        1 => {
            let committed = chunk.commit();
            assert_eq!(committed, handed as u64, "oracle: values of a chunk");
            committed
        }
        _ => {
            let all = chunk.fill(|_, found| *found = value).unwrap();
            assert_eq!(all, count as u64, "oracle: values of a whole chunk");
            all
        }
    }
}

/// Writes some messages of a chunk or all of them; how many became visible.
fn fill(mut chunk: WriteChunk<'_>, count: usize, len: usize, dice: &Dice) -> u64 {
    let handed = usize::try_from(dice.below(count as u64 + 1)).unwrap();
    for taken in 0..handed {
        assert_eq!(chunk.left(), count - taken, "oracle: left in a chunk");
        let mut slot = chunk.next().unwrap().expect("oracle: room that was found is there");
        assert!(slot.len() == len && slot.is_empty() == (len == 0), "oracle: reserved");
        if let Some(bytes) = slot.as_mut() {
            bytes.iter_mut().for_each(|byte| _ = byte.write(7));
        }
        let _ = slot.bytes_mut().map(|bytes| bytes.fill(7));
        slot.write(0, &BYTES[..len]);
    }
    match dice.below(3) {
        0 => 0,
        1 => {
            let committed = chunk.commit();
            assert_eq!(committed, handed as u64, "oracle: messages of a chunk");
            committed
        }
        _ => {
            let rest = chunk.fill(|_, mut slot| slot.write(0, &BYTES[..len])).unwrap();
            assert_eq!(rest, count as u64, "oracle: messages of a whole chunk");
            rest
        }
    }
}

#[test]
fn a_producers_every_call_survives_a_consumer_that_rewrites_each_word() {
    besiege("producer", looks_wanted(), |lane, dice| Case::new(lane, dice).run());
}

/// What a producer could have got wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    /// Believes any cursor, as in CVE-2024-41009.
    Believes,
    /// Believes one that is past what is committed and not past what is reserved.
    CountsReserved,
    /// Packs items without a look at how many a slot holds.
    Overflows,
}

/// A producer with one of them, on the same memory.
struct Faulty {
    own: Region<Owned>,
    peer: Region<Foreign>,
    geometry: Geometry,
    bug: Bug,
    committed: u64,
    released: u64,
}

impl Faulty {
    fn send(&mut self, items: usize) -> Result<(), Corruption> {
        let (count, reserved) = (self.geometry.count(), self.committed + 1);
        if self.committed.wrapping_sub(self.released) >= count {
            let found = self.peer.load_acquire(C_RELEASED);
            let highest = match self.bug {
                Bug::Believes => u64::MAX,
                Bug::CountsReserved => reserved,
                Bug::Overflows => self.committed,
            };
            let lowest = if self.bug == Bug::Believes { 0 } else { self.released };
            if !(lowest..=highest).contains(&found) {
                let (lowest, committed) = (self.released, self.committed);
                return Err(Corruption::Released { found, lowest, committed });
            }
            self.released = found;
            if self.committed.wrapping_sub(found) >= count {
                return Ok(());
            }
        }
        let offset = self.geometry.slot_offset(self.committed);
        let fit = self.geometry.payload() as usize / 8;
        let items = if self.bug == Bug::Overflows { items } else { items.min(fit) };
        self.own.copy_in(offset + WORD_BYTES, &vec![7; items * 8]);
        self.own.store_release(offset, 1);
        self.committed += 1;
        Ok(())
    }
}

#[test]
fn the_oracles_catch_every_planted_bug_of_a_producer() {
    for bug in [Bug::Believes, Bug::CountsReserved, Bug::Overflows] {
        faulty::assert_caught(&format!("{bug:?}"), |lane, dice| {
            let (own, peer, siege) = lane.of_consumer(dice.next());
            siege.state().liar.malice.set(dice.pick(&[2, 20]));
            let (committed, released) = (0, 0);
            let mut end = Faulty { own, peer, geometry: lane.geometry, bug, committed, released };
            for _ in 0..64 {
                assert!(end.released <= end.committed, "oracle: released what is not committed");
                siege.begin(end.committed, 1);
                siege.state().window = (end.committed, end.released + lane.geometry.count());
                if end.send(usize::try_from(dice.below(5)).unwrap()).is_err() {
                    return (siege.total(), true);
                }
            }
            (siege.total(), false)
        });
    }
}
