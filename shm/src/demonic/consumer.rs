//! A consumer among its calls: one message or many, whole, in parts, by value, packed, typed.

use super::faulty::Packed;
use super::*;
use crate::memory::Memory as _;
use crate::received::{ReadBatch, ReadSlot, View};
use crate::typed::TypedConsumer;

crate::message! {
    /// A message of one slot in most lanes, and of several in those of the smallest slots.
    pub(super) struct Pair { pub first: u64, pub second: u64 }
}

/// What a call has handed out.
#[derive(Clone, Copy, Debug, Default)]
struct Taken {
    /// Messages, or packed items.
    count: usize,
    /// Slots that were released, at least. A long message may end in an empty slot, which no honest
    /// producer of ours sends, and which is harmless: one more for each that was shown.
    slots: u64,
}

/// One consumer and what must be true of it.
pub(super) struct Case<'c> {
    /// For values, and with them for bytes.
    pub(super) end: TypedConsumer<Pair>,
    pub(super) siege: Arc<Siege>,
    pub(super) dice: &'c Dice,
    pub(super) packed: Packed,
    /// Ends of streams get lost behind messages.
    pub(super) swallows: bool,
    fail_stop: FailStop,
    /// The cursor that was shown last.
    shown: u64,
}

/// Takes at most this many at once.
const MANY: u64 = 8;

impl<'c> Case<'c> {
    pub(super) fn new(lane: &Lane, dice: &'c Dice) -> Self {
        let base = start(dice, &lane.geometry);
        let (consumer, siege) = lane.consumer(base, dice.next());
        siege.set_malice(dice);
        Self::of(consumer, siege, dice)
    }

    pub(super) fn of(consumer: Consumer, siege: Arc<Siege>, dice: &'c Dice) -> Self {
        let shown = consumer.position();
        let (packed, fail_stop) = (Packed::Real, FailStop::default());
        let end = TypedConsumer::new(consumer);
        Self { end, siege, dice, packed, swallows: false, fail_stop, shown }
    }

    /// Makes some calls; how many looks that was, and whether it ended in corruption.
    pub(super) fn run(mut self, call: impl Fn(&mut Self, u64)) -> (u64, bool) {
        for _ in 0..=self.dice.below(96) {
            let choice = self.dice.below(16);
            call(&mut self, choice);
            self.judge_cursor();
        }
        let looks = self.siege.total();
        (looks.max(1), self.fail_stop.0.is_some())
    }

    /// What the producer sees: never back, never beyond what was released.
    fn judge_cursor(&mut self) {
        let released = self.end.consumer().ring.own().load_acquire(C_RELEASED);
        let position = self.end.consumer().position();
        assert!((self.shown..=position).contains(&released), "oracle: shows {released}");
        self.shown = released;
    }

    pub(super) fn limit(&self) -> usize {
        usize::try_from(self.dice.below(MANY) + 1).unwrap()
    }

    /// Now, or for so long that a lane where nothing comes is slept over.
    fn timeout(&self) -> Duration {
        if self.dice.below(256) == 0 {
            self.siege.be_quiet();
            return SHORT;
        }
        NOW
    }

    pub(super) fn begin(&self, messages: usize) -> u64 {
        let position = self.end.consumer().position();
        self.siege.begin(position, messages);
        position
    }

    /// One of the calls.
    pub(super) fn any(&mut self, choice: u64) {
        match choice {
            0 => self.one(|case| case.end.consumer_mut().poll()),
            1 => {
                self.one(|case| {
                    let timeout = case.timeout();
                    case.end.consumer_mut().recv(timeout).map(Some)
                });
            }
            2 => self.array::<8>(),
            3 => self.array::<5>(),
            4 => self.arrays::<8>(),
            5 => self.arrays::<24>(),
            6 => self.batch(true),
            7 => self.batch(false),
            8 => self.packed::<8>(),
            9 => self.packed::<3>(),
            10 => self.packed::<520>(),
            11 => self.typed(),
            12 => self.typed_packed(),
            13 => self.maintain(),
            14 => self.leave_out(),
            _ => self.one(|case| case.end.consumer_mut().poll()),
        }
    }

    /// Judges a call that hands out at most one message.
    fn one(&mut self, call: impl FnOnce(&mut Self) -> Result<Option<ReadSlot<'_>>, RecvError>) {
        let before = self.begin(1);
        let (payload, dice) = (self.end.consumer().grant().slot_payload, self.dice);
        let result = call(self).map(|found| {
            found.map(|slot| {
                assert_eq!(slot.position(), before, "oracle: position");
                judge_view(slot.view(), dice);
                let array = slot.to_array::<8>();
                assert!(array.is_none_or(|bytes| slot.len() == 8 && bytes == [DEMONIC; 8]));
                let mut target = vec![0; slot.len() + 1];
                assert_eq!(slot.copy_to(&mut target), slot.len(), "oracle: bytes copied");
                assert_eq!(slot.is_empty(), slot.to_vec().is_empty(), "oracle: length");
                let slots = (slot.len() as u64).div_ceil(u64::from(payload)).max(1);
                match dice.below(3) {
                    0 => {
                        slot.keep();
                        Taken { count: 1, slots: 0 }
                    }
                    1 => {
                        slot.release();
                        Taken { count: 1, slots }
                    }
                    _ => Taken { count: 1, slots },
                }
            })
        });
        self.account(before, result.map(Option::unwrap_or_default), 1);
    }

    /// Judges what a call said against how far it went.
    fn account(&mut self, before: u64, result: Result<Taken, RecvError>, limit: usize) {
        let moved = self.end.consumer().position() - before;
        match self.fail_stop.judge(result) {
            Ok(taken) => {
                assert!(taken.count <= limit, "oracle: {} of {limit}", taken.count);
                let empty = self.siege.state().empty_slots.min(taken.count as u64);
                let most = if taken.slots == 0 { 0 } else { taken.slots + empty };
                let fits = (taken.slots..=most).contains(&moved);
                assert!(fits, "oracle: {moved} slots released for {taken:?}");
            }
            Err(RecvError::Closed { position }) => {
                assert!(moved <= 1 && position == before + moved, "oracle: closed");
            }
            Err(RecvError::FrozenLost { position, .. }) => {
                assert!(moved == 1 && position == before, "oracle: lost");
            }
            Err(RecvError::Length { found, .. } | RecvError::TooLong { found, .. }) => {
                assert!(
                    moved == 0 && found <= self.end.consumer().message_max(),
                    "oracle: {found}"
                );
            }
            Err(RecvError::Frozen { position, bytes_max }) => {
                let legal = (4096..=1 << 30).contains(&bytes_max);
                assert!(moved == 0 && position == before && legal, "oracle: frozen");
            }
            Err(error) => assert_eq!(moved, 0, "oracle: moves on by {error}"),
        }
    }

    fn array<const N: usize>(&mut self) {
        let before = self.begin(1);
        let marked = |bytes: [u8; N]| assert_eq!(bytes, [DEMONIC; N], "oracle: bytes");
        let slots = self.end.consumer().ring.geometry().slots_for(N);
        let result = match self.dice.below(2) {
            0 => self.end.consumer_mut().try_recv_array(marked),
            _ => {
                let timeout = self.timeout();
                self.end.consumer_mut().recv_array(timeout, marked).map(Some)
            }
        };
        let taken =
            |found: Option<()>| found.map_or_else(Taken::default, |()| Taken { count: 1, slots });
        self.account(before, result.map(taken), 1);
    }

    fn arrays<const N: usize>(&mut self) {
        let limit = self.limit();
        let before = self.begin(limit);
        let mut read = 0;
        let marked = |bytes: [u8; N]| {
            assert_eq!(bytes, [DEMONIC; N], "oracle: bytes");
            read += 1;
        };
        let slots = self.end.consumer().ring.geometry().slots_for(N);
        let result = match self.dice.below(2) {
            _ if self.swallows => faulty::try_recv_arrays(self.end.consumer_mut(), limit, marked),
            0 => self.end.consumer_mut().try_recv_arrays(limit, marked),
            _ => {
                let timeout = self.timeout();
                self.end.consumer_mut().recv_arrays(limit, timeout, marked)
            }
        };
        assert_eq!(result.as_ref().copied().unwrap_or(0), read, "oracle: arrays read");
        let taken = |count: usize| Taken { count, slots: slots * count as u64 };
        self.account(before, result.map(taken), limit);
    }

    fn batch(&mut self, waits: bool) {
        let limit = self.limit();
        let before = self.begin(limit);
        let timeout = if waits { self.timeout() } else { NOW };
        let (dice, geometry) = (self.dice, *self.end.consumer().ring.geometry());
        let within = dice.pick(&[0, 8, 100, usize::MAX]);
        let result = match waits {
            true => self.end.consumer_mut().recv_many(limit, timeout),
            false => Ok(self.end.consumer_mut().poll_many(limit)),
        };
        let result = result.and_then(|batch| match dice.below(4) {
            0 => take_each(batch, dice, &geometry),
            _ => take_batch(batch, within, dice, &geometry),
        });
        // A stranger beyond the first message ends the batch and is told by the next call.
        self.account(before, result, limit);
    }

    fn packed<const N: usize>(&mut self) {
        let limit = self.limit();
        let before = self.begin(limit);
        self.siege.allow_one_each(limit);
        let mut read = 0;
        let marked = |bytes: [u8; N]| {
            assert_eq!(bytes, [DEMONIC; N], "oracle: bytes");
            read += 1;
        };
        let result = match (self.packed, self.dice.below(2)) {
            (Packed::Real, 0) => self.end.consumer_mut().try_recv_packed_arrays(limit, marked),
            (Packed::Real, _) => {
                let timeout = self.timeout();
                self.end.consumer_mut().recv_packed_arrays(limit, timeout, marked)
            }
            (faulty, _) => faulty.try_recv(self.end.consumer_mut(), limit, marked),
        };
        self.account_packed::<N>(before, result, read, limit);
    }

    /// A packed message is taken whole: how far that goes is for the slots to say.
    fn account_packed<const N: usize>(
        &mut self,
        before: u64,
        result: Result<usize, RecvError>,
        read: usize,
        limit: usize,
    ) {
        let (moved, max) =
            (self.end.consumer().position() - before, self.end.consumer().message_max());
        let result = result.map(|count| {
            assert_eq!(count, read, "oracle: items read");
            let room = usize::try_from(moved).unwrap() * max / N;
            assert!(count <= room && count < limit + (max / N).max(1), "oracle: {count} items");
            assert!((count == 0) == (moved == 0), "oracle: items and slots");
            Taken { count: count.min(limit), slots: moved }
        });
        if result.is_err() {
            assert_eq!(read, 0, "oracle: an error after a message");
        }
        self.account(before, result, limit);
    }

    fn typed(&mut self) {
        const SIZE: usize = size_of::<Pair>();
        let (limit, choice, timeout) = (self.limit(), self.dice.below(8), NOW);
        let before = self.begin(limit);
        let slots = self.end.consumer().ring.geometry().slots_for(SIZE);
        let mut read = 0;
        let mut marked = |pair: Pair| {
            assert_eq!(pair.as_bytes(), [DEMONIC; SIZE], "oracle: bytes");
            read += 1;
        };
        let result = match choice {
            0 => self.end.recv(timeout).map(&mut marked).map(|()| 1),
            1 => self.end.try_recv().map(|found| found.map(&mut marked).map_or(0, |()| 1)),
            2 => self.end.recv_with(timeout, &mut marked).map(|()| 1),
            3 => {
                let mut target = Pair { first: 0, second: 0 };
                self.end.recv_into(&mut target, timeout).map(|()| marked(target)).map(|()| 1)
            }
            4 => self.end.recv_many(limit, timeout, &mut marked),
            5 => self.end.try_recv_many(limit, &mut marked),
            6 => self.end.recv_batch(limit, timeout).map(|batch| batch.map(&mut marked).count()),
            _ => self.end.try_recv_batch(limit).map(|batch| batch.map(&mut marked).count()),
        };
        assert_eq!(result.as_ref().copied().unwrap_or(0), read, "oracle: values read");
        let taken = |count: usize| Taken { count, slots: slots * count as u64 };
        self.account(before, result.map(taken), limit);
    }

    fn typed_packed(&mut self) {
        const SIZE: usize = size_of::<Pair>();
        let (limit, waits) = (self.limit(), self.dice.below(2) == 0);
        let before = self.begin(limit);
        self.siege.allow_one_each(limit);
        let mut read = 0;
        let mut marked = |pair: Pair| {
            assert_eq!(pair.as_bytes(), [DEMONIC; SIZE], "oracle: bytes");
            read += 1;
        };
        let result = match waits {
            true => self.end.recv_packed(limit, NOW, &mut marked),
            false => self.end.try_recv_packed(limit, &mut marked),
        };
        self.account_packed::<SIZE>(before, result, read, limit);
    }

    fn maintain(&mut self) {
        let before = self.begin(1);
        self.end.consumer_mut().maintain().unwrap();
        assert_eq!(
            self.end.consumer().position(),
            before,
            "oracle: moves on without a call for it"
        );
    }

    /// What is next, if it is frozen.
    fn leave_out(&mut self) {
        let before = self.begin(1);
        let result = self.end.consumer_mut().skip_frozen();
        let taken = |left_out| Taken { count: usize::from(left_out), slots: u64::from(left_out) };
        self.account(before, result.map(taken), 1);
    }
}

fn take_batch(
    mut batch: ReadBatch<'_>,
    within: usize,
    dice: &Dice,
    geometry: &Geometry,
) -> Result<Taken, RecvError> {
    let mut taken = Taken::default();
    loop {
        match batch.next_within(within) {
            Ok(Some(view)) => {
                assert!(view.len() <= within, "oracle: longer than asked for");
                judge_view(view, dice);
                taken.count += 1;
                taken.slots += geometry.slots_for(view.len());
            }
            Err(error) if taken.count == 0 => return Err(error),
            // Nothing more, or a longer one, which stays.
            Ok(None) | Err(RecvError::TooLong { .. }) => return Ok(taken),
            Err(error) => panic!("oracle: {error} in the middle of a batch"),
        }
    }
}

fn take_each(batch: ReadBatch<'_>, dice: &Dice, geometry: &Geometry) -> Result<Taken, RecvError> {
    let mut slots = 0;
    let count = batch.for_each(|view| {
        judge_view(view, dice);
        slots += geometry.slots_for(view.len());
    })?;
    Ok(Taken { count, slots })
}

/// No read of a view leaves it, and every byte of it is one that was copied.
fn judge_view(view: View<'_>, dice: &Dice) {
    let len = view.len();
    let small = |limit: usize| usize::try_from(dice.below(limit as u64 + 2)).unwrap();
    let (start, wanted) = (dice.pick(&[0, small(len), usize::MAX]), small(len));
    let inside = start.checked_add(wanted).is_some_and(|end| end <= len);
    let part = view.range(start, wanted);
    assert_eq!(part.is_some(), inside, "oracle: a part outside its message");
    let marked = |bytes: &[u8]| bytes.iter().all(|byte| *byte == DEMONIC);
    if let Some(part) = part {
        let bytes = part.to_vec();
        assert!(bytes.len() == wanted && marked(&bytes), "oracle: bytes of a part");
    }
    // Few pieces: each is another look.
    let (mut buffer, mut pieces) = (vec![0; dice.pick(&[0, len / 3 + 1, len + 1])], 0);
    let limit = buffer.len();
    let taken = view.for_each_piece(&mut buffer, |piece| {
        assert!(!piece.is_empty() && piece.len() <= limit && marked(piece), "oracle: a piece");
        pieces += piece.len();
    });
    assert_eq!((taken, pieces), if limit == 0 { (0, 0) } else { (len, len) }, "oracle: pieces");
    let mut left = len;
    view.for_each_line(|words| {
        let line = words.map(u64::to_le_bytes).concat();
        let (there, zeros) = line.split_at(left.min(line.len()));
        assert!(marked(there) && zeros.iter().all(|byte| *byte == 0), "oracle: a line");
        left -= there.len();
    });
    assert_eq!(left, 0, "oracle: lines");
    assert_eq!(view.u64_at(start).is_some(), start.checked_add(8).is_some_and(|end| end <= len));
    let mut target = vec![0; small(len)];
    let copied = view.copy_to(&mut target);
    let (there, rest) = target.split_at(copied);
    assert!(copied == there.len() && marked(there), "oracle: bytes copied");
    assert!(rest.iter().all(|byte| *byte == 0), "oracle: more than the message was copied");
}

#[test]
fn a_consumers_every_call_survives_a_producer_that_rewrites_each_word_and_byte() {
    let case = |lane: &Lane, dice: &Dice| Case::new(lane, dice).run(Case::any);
    again(&[(5, 0x9fca_943c_5418_c12c)], case);
    besiege("consumer", looks_wanted(), case);
}

#[test]
fn the_oracles_catch_an_end_that_gets_lost_behind_messages() {
    faulty::assert_caught("an end that is swallowed", |lane, dice| {
        let mut case = Case::new(lane, dice);
        case.swallows = true;
        case.run(|case, _| case.arrays::<8>())
    });
}

#[test]
fn the_oracles_catch_every_planted_bug_of_packed_messages() {
    for packed in Packed::FAULTY {
        faulty::assert_caught(&format!("{packed:?}"), |lane, dice| {
            let mut case = Case::new(lane, dice);
            case.packed = packed;
            case.run(
                |case, choice| if choice < 8 { case.packed::<8>() } else { case.packed::<3>() },
            )
        });
    }
}
