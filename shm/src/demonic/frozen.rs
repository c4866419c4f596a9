//! Frozen payloads from a producer that sends whatever it likes over the lifeline, and says
//! something else in the ring.

use std::os::fd::{AsFd, OwnedFd};

use super::*;
use crate::fdpass;
use crate::frozen::{FrozenBuilder, FrozenFile, FrozenSegment, Incoming};
use crate::lifeline::{self, Lifeline, Received};
use crate::memfd;
use crate::sync::{AtomicU64, Ordering};

/// Lengths of the payloads, of one and of two pages.
const LENGTHS: [usize; 2] = [100, 5000];
/// Cases in which a payload that was there and not there made a receive longer than its time.
const FOUND: [(usize, u64); 3] =
    [(0, 0x4730_4640_27fb_81ca), (5, 0x767f_7f5b_3a6d_c9f7), (10, 0x1f6d_7483_64bf_bec1)];
/// What the bytes of an honest file look like.
const FROZEN: u8 = 0xf0;

/// The producer's half of the lifeline, and what it has to send.
struct Sender {
    half: Lifeline,
    files: [FrozenFile; 2],
    /// A file that can still be written.
    unsealed: OwnedFd,
}

impl Sender {
    fn new(half: OwnedFd) -> Self {
        let file = |len| {
            let mut builder = FrozenBuilder::on_pages(len, 4096).unwrap();
            builder.bytes_mut().fill(FROZEN);
            builder.freeze().unwrap()
        };
        let unsealed = memfd::allocated_file(4096, 4096).unwrap();
        Self { half: Lifeline::new(half), files: LENGTHS.map(file), unsealed }
    }

    /// Something of this and that, for a slot near `position`. Where the lifeline is full, nothing.
    fn send(&self, dice: &Dice, position: u64) {
        let ahead = dice.pick(&[0, 0, 0, 0, 0, 0, 1, 2, u64::MAX]);
        let position = position.wrapping_add(ahead);
        // As the slots say it, for the most part.
        let which = usize::from(position % 2 == 1) ^ usize::from(dice.below(32) == 0);
        let len = if dice.below(64) == 0 { dice.next() } else { LENGTHS[which] as u64 };
        let words = [*b"FROZEN\0\x01", position.to_le_bytes(), len.to_le_bytes()];
        let text = words.concat();
        let _ = match dice.below(64) {
            0 => {
                self.half.ring();
                Ok(())
            }
            1 => self.half.send(b"nonsense", self.files[0].as_fd()),
            2 => self.half.send(&text, self.unsealed.as_fd()),
            3 => self.half.send(&text[..23], self.files[0].as_fd()),
            _ => self.half.send(&text, self.files[which].as_fd()),
        };
    }
}

/// How the next message of either kind is received, as the library does it or with a bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Real,
    /// Takes the parcel that comes next for the one of this slot.
    AnyParcel,
    /// Takes the parcel's word for what the file is.
    Unproven,
}

/// One consumer and what must be true of it.
struct Case<'c> {
    end: Consumer,
    siege: Arc<Siege>,
    sender: Sender,
    dice: &'c Dice,
    how: How,
    fail_stop: FailStop,
    /// Position of a payload that was handed out and left in the lane.
    kept: Option<u64>,
    taken: u64,
}

impl<'c> Case<'c> {
    fn new(lane: &Lane, dice: &'c Dice, how: How) -> Self {
        let base = start(dice, &lane.geometry);
        let (mut end, siege) = lane.consumer(base, dice.next());
        siege.set_malice(dice);
        siege.state().freezes = true;
        let [one, other] = lifeline::pair().unwrap();
        let peer = end.ring.peer_mut().unwrap();
        peer.take_lifeline(Some(Arc::new(Lifeline::new(other))));
        let (sender, fail_stop) = (Sender::new(one), FailStop::default());
        Self { end, siege, sender, dice, how, fail_stop, kept: None, taken: 0 }
    }

    fn run(&mut self) -> (u64, bool) {
        for _ in 0..=self.dice.below(96) {
            for _ in 0..self.dice.below(3) {
                self.sender.send(self.dice, self.end.position());
            }
            self.receive();
        }
        (self.siege.total().max(1), self.fail_stop.0.is_some())
    }

    fn receive(&mut self) {
        let before = self.end.position();
        self.siege.begin(before, 2);
        let (dice, siege) = (self.dice, Arc::clone(&self.siege));
        let result = match (self.how, dice.below(4)) {
            (How::Real, 0) => self.end.recv_any(NOW).map(Some),
            (How::Real, _) => self.end.poll_any(),
            (how, _) => match how.poll_any(&mut self.end) {
                Err(error) => Err(error),
                Ok(None) => Ok(None),
                Ok(Some(segment)) => return judge(&segment, Some(siege.state().pages)),
            },
        };
        let result = result.map(|found| match found {
            None => (0, 0),
            Some(Incoming::Message(slot)) => {
                assert!(slot.to_vec().iter().all(|byte| *byte == DEMONIC), "oracle: bytes");
                let kept = dice.below(3) == 0;
                let len = slot.len();
                if kept {
                    slot.keep()
                } else {
                    slot.release()
                }
                if kept { (0, 0) } else { (1, len) }
            }
            Some(Incoming::Frozen(slot)) => {
                assert_eq!(slot.position(), before, "oracle: position");
                assert_eq!(slot.as_bytes(), &*slot, "oracle: bytes");
                // What was proven once is what it is, whatever its slot says now.
                let told = (self.kept != Some(before)).then(|| siege.state().pages);
                judge(slot.segment(), told);
                self.kept = None;
                match dice.below(3) {
                    0 => {
                        self.kept = Some(before);
                        slot.keep();
                        (0, 0)
                    }
                    1 => {
                        judge(&slot.take(), told);
                        (1, 0)
                    }
                    _ => {
                        slot.release();
                        (1, 0)
                    }
                }
            }
        });
        let moved = self.end.position() - before;
        match self.fail_stop.judge(result) {
            Ok((taken, len)) => {
                let slots = taken * self.end.ring.geometry().slots_for(len);
                let most = slots + self.siege.state().empty_slots.min(taken);
                assert!((slots..=most).contains(&moved), "oracle: slots released");
                self.taken += taken;
            }
            Err(RecvError::FrozenLost { position, .. }) => {
                assert!(moved == 1 && position == before, "oracle: lost");
            }
            Err(RecvError::Closed { position }) => {
                assert!(moved <= 1 && position == before + moved, "oracle: closed");
            }
            Err(error) => assert_eq!(moved, 0, "oracle: moves on by {error}"),
        }
    }
}

/// A payload is one that was sealed, and has as many pages as its slot told.
fn judge(bytes: &[u8], told: Option<u32>) {
    assert!(LENGTHS.contains(&bytes.len()), "oracle: {} bytes", bytes.len());
    assert!(bytes.iter().all(|byte| *byte == FROZEN), "oracle: bytes that were not sealed");
    let pages = bytes.len().div_ceil(4096);
    assert!(told.is_none_or(|told| told as usize == pages), "oracle: {pages} pages, not {told:?}");
}

impl How {
    fn poll_any(self, end: &mut Consumer) -> Result<Option<FrozenSegment>, RecvError> {
        match end.poll() {
            Ok(slot) => {
                slot.into_iter().for_each(crate::ReadSlot::keep);
                return Ok(None);
            }
            Err(RecvError::Frozen { .. }) => {}
            Err(error) => return Err(error),
        }
        let Received::Parcel(text, fd) = end.lifeline().unwrap().receive() else { return Ok(None) };
        let (Some(position), Some(len)) = (text.get(8..16), text.get(16..24)) else {
            return Ok(None);
        };
        let position = u64::from_le_bytes(position.try_into().unwrap());
        let len = u64::from_le_bytes(len.try_into().unwrap());
        if self == Self::Unproven {
            if position != end.position() || len > 4096 {
                return Ok(None);
            }
            // As a consumer that maps what it is told, and hopes.
            let seen = Region::map_bare(&fd, 4096).map_err(RecvError::Segment)?;
            let mut builder = FrozenBuilder::on_pages(usize::try_from(len).unwrap(), 4096).unwrap();
            crate::memory::Memory::copy_out(&seen, 0, builder.bytes_mut());
            return Ok(builder.freeze().unwrap().map().ok());
        }
        let Ok(file) = FrozenFile::accept(fd, len) else { return Ok(None) };
        Ok(file.map().ok())
    }
}

#[test]
fn a_consumer_of_both_kinds_survives_a_lifeline_on_which_anything_comes() {
    let taken = std::cell::Cell::new(0);
    let case = |lane: &Lane, dice: &Dice| {
        let mut case = Case::new(lane, dice, How::Real);
        let outcome = case.run();
        taken.set(taken.get() + case.taken);
        let Case { end, sender, .. } = case;
        drop(end);
        let open = fdpass::descriptors_of(&sender.unsealed);
        assert_eq!(open, 1, "oracle: a descriptor that was refused is not closed");
        outcome
    };
    again(&FOUND, case);
    besiege("frozen", looks_wanted() / 4, case);
    assert!(taken.get() > 200, "the demon lets nothing through: {}", taken.get());
}

/// A producer whose next slot is frozen at every so-many-th look, and empty at all others.
#[derive(Debug)]
struct Flickers {
    siege: Arc<Siege>,
    every: u64,
    at: AtomicU64,
}

impl Watch for Flickers {
    fn before(&self, offset: usize, _: usize) {
        self.siege.state().look();
        if offset >= P_SLOTS {
            let at = self.at.fetch_add(1, Ordering::Relaxed);
            let frozen = CommitWord::new(1, Kind::Frozen, 1).0;
            let word = if at.is_multiple_of(self.every) { frozen } else { 0 };
            self.siege.paper.store_relaxed(offset, word);
        }
    }
}

#[test]
fn a_slot_that_is_frozen_only_now_and_then_makes_no_receive_longer_than_its_time() {
    let lane = Lane::new(8, 4, WaitMode::Spin);
    for every in 1..=256 {
        let (mut end, siege) = lane.consumer(0, 1);
        let flickers = Flickers { siege: Arc::clone(&siege), every, at: AtomicU64::new(1) };
        end.ring.peer_mut().unwrap().watched_by = Some(Arc::new(flickers));
        for _ in 0..64 {
            siege.begin(0, 2);
            let found = end.recv_any(NOW).map(drop);
            assert!(matches!(found, Err(RecvError::TimedOut { .. })), "{every}: {found:?}");
        }
    }
}

#[test]
fn the_oracles_catch_every_planted_bug_of_frozen_payloads() {
    for how in [How::AnyParcel, How::Unproven] {
        faulty::assert_caught(&format!("{how:?}"), |lane, dice| Case::new(lane, dice, how).run());
    }
}
