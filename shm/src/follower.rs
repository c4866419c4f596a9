//! The reader's half of a broadcast lane whose producer does not wait for it.
//!
//! A message is copied out first and believed second (a seqlock: Boehm, MSPC 2012): if its commit
//! words are still there after the copy, no byte of it was written over meanwhile. A reader that
//! was overrun learns how many slots it lost, to the slot, and goes on half a ring behind the
//! producer.

use std::time::Duration;

use crate::cursor::{CommitWord, Kind, POSITION_MAX, Passing, read_passing};
use crate::error::Corruption;
use crate::geometry::{Geometry, Place, WORD_BYTES};
use crate::layout::{C_LOST, P_RESUME};
use crate::memory::{Memory, OwnedMemory};
use crate::reader::Reader;
use crate::ring::WaitMode;
use crate::roster::{Entry, Reason};

/// What a reader that may be overrun finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A message: its bytes stand at the buffer's start, and it is released already.
    Message {
        /// Position of its first slot.
        position: u64,
        /// Its length, in bytes.
        len: usize,
    },
    /// The end of the stream.
    End,
    /// The producer was faster.
    Lost {
        /// Slots that are gone; a message of one slot is one of them.
        slots: u64,
    },
}

/// What a copy came to.
enum Copied {
    Nothing,
    Message { slots: u64, len: usize },
    End,
    Overrun,
}

/// The half. `own` is the reader's segment, the peer the producer's.
#[derive(Debug)]
pub struct Follower<P, C> {
    reader: Reader<P, C>,
    lost: u64,
}

impl<P: Memory, C: OwnedMemory> Follower<P, C> {
    /// A reader that does not look before `start`, the `number`-th of its lane.
    pub fn new(own: C, geometry: Geometry, wait: WaitMode, start: u64, number: u64) -> Self {
        Self { reader: Reader::new(own, geometry, wait, start, number), lost: 0 }
    }

    /// As [`Reader::pay_for_fences`].
    pub fn pay_for_fences(&mut self) {
        self.reader.pay_for_fences();
    }

    /// Starts to read, or goes on with the next generation; returns the slots lost between.
    ///
    /// # Errors
    /// As [`Reader::join_at`].
    pub fn join_at(&mut self, peer: P, entry: &Entry) -> Result<u64, Corruption> {
        let gap = self.gap(entry.joined_at);
        self.reader.join_at(peer, entry)?;
        self.count_lost(gap);
        Ok(gap)
    }

    /// Reads the memory of a producer that is gone, from `position` on; as [`Follower::join_at`].
    pub(crate) fn join_frozen(&mut self, peer: P, position: u64) -> u64 {
        let gap = self.gap(position);
        self.count_lost(gap);
        self.reader.join_frozen(peer, position);
        gap
    }

    /// What lies between here and `position`: nothing for a reader that has not started.
    fn gap(&self, position: u64) -> u64 {
        self.peer().map_or(0, |_| position.saturating_sub(self.position()))
    }

    fn count_lost(&mut self, slots: u64) {
        self.lost = self.lost.saturating_add(slots);
        self.reader.own().store_relaxed(C_LOST, self.lost);
    }

    /// Shows the cursor every so many slots at least: where a budget is counted by it.
    pub fn publish_every(&mut self, slots: u64) {
        self.reader.publish_every(slots);
    }

    /// Position of the next message.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.reader.position()
    }

    /// The ring's arithmetic.
    #[must_use]
    pub fn geometry(&self) -> &Geometry {
        self.reader.geometry()
    }

    /// Slots lost so far.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// The producer's memory, once there is one.
    pub(crate) fn peer(&self) -> Option<&P> {
        self.reader.peer()
    }

    /// As [`Follower::peer`], to change what is known of it.
    pub(crate) fn peer_mut(&mut self) -> Option<&mut P> {
        self.reader.peer_mut()
    }

    /// Why the producer no longer counts with this reader, if so, and what was committed then.
    #[must_use]
    pub fn given_up(&self) -> Option<(Reason, u64)> {
        self.reader.given_up()
    }

    /// Shows the cursor now.
    pub fn publish(&mut self) {
        self.reader.publish();
    }

    /// As [`Reader::leave`].
    pub fn leave(&mut self) {
        self.reader.leave();
    }

    /// Between two looks at the next slot.
    pub(crate) fn pause(&self) {
        self.reader.pause();
    }

    /// The next message before position `end`, copied into `buffer`, which grows as needed.
    ///
    /// # Errors
    /// The producer broke the protocol; the follower is poisoned and says so at every later call.
    #[inline]
    pub fn poll(&mut self, buffer: &mut Vec<u8>, end: u64) -> Result<Option<Heard>, Corruption> {
        if let Some(poison) = self.reader.poison() {
            return Err(poison);
        }
        let Some(peer) = self.reader.peer() else { return Ok(None) };
        let place = self.reader.place();
        if place.position >= end {
            return Ok(None);
        }
        match copy(peer, self.reader.geometry(), place, buffer) {
            Ok(Copied::Message { slots, len }) => {
                let mut after = place;
                if slots == 1 {
                    after.advance(self.reader.geometry());
                } else if place.position + slots <= end {
                    after = self.reader.geometry().place(place.position + slots);
                } else {
                    // What was whole at the end of a generation does not go beyond it.
                    let (position, slots) = (place.position, end - place.position);
                    return Err(self.reader.fail(Corruption::Unfinished { position, slots }));
                }
                self.reader.release_to(after, slots - 1, len as u64);
                Ok(Some(Heard::Message { position: place.position, len }))
            }
            Ok(Copied::Nothing) => self.reader.found_empty().map(|_| None),
            Ok(Copied::End) => {
                self.reader.release_end();
                Ok(Some(Heard::End))
            }
            Ok(Copied::Overrun) => self.skip(end).map(Some),
            Err(corruption) => Err(self.reader.fail(corruption)),
        }
    }

    /// Goes on where the producer says.
    #[cold]
    fn skip(&mut self, end: u64) -> Result<Heard, Corruption> {
        let position = self.reader.position();
        // Pairs with the Release in Writer::mark [resume]: whoever saw the slot taken sees where
        // to go on.
        let found = self.reader.peer().map_or(0, |peer| peer.load_acquire(P_RESUME));
        if found <= position || found > POSITION_MAX {
            return Err(self.reader.fail(Corruption::Resume { position, found }));
        }
        let resume = found.min(end);
        let slots = resume - position;
        self.count_lost(slots);
        self.reader.skip_to(resume);
        Ok(Heard::Lost { slots })
    }

    /// As [`Reader::fail`], for what only the caller can know.
    pub(crate) fn fail(&mut self, corruption: Corruption) -> Corruption {
        self.reader.fail(corruption)
    }

    /// Sleeps until something is committed, at most `timeout`. May return early.
    pub fn park(&mut self, timeout: Duration) {
        self.reader.park_while(timeout, finds_nothing);
    }

    /// As [`Reader::listen`].
    pub fn listen(&mut self) -> bool {
        self.reader.listen_while(finds_nothing)
    }

    /// As [`Reader::stop_listening`].
    pub fn stop_listening(&mut self) {
        self.reader.stop_listening();
    }

    /// As [`Reader::is_heavy`].
    #[cfg(test)]
    pub(crate) fn is_heavy(&self) -> bool {
        self.reader.is_heavy()
    }

    /// The half of which this one is made, for who waits in epoll.
    #[cfg(feature = "tokio")]
    pub(crate) fn reader_mut(&mut self) -> &mut Reader<P, C> {
        &mut self.reader
    }
}

/// Whether a follower has a reason to sleep.
fn finds_nothing<P: Memory, C: OwnedMemory>(reader: &Reader<P, C>) -> bool {
    let Some(peer) = reader.peer() else { return true };
    let place = reader.place();
    // As in Reader::ready_at.
    let word = CommitWord(peer.load_acquire(place.offset));
    let state = read_passing(reader.geometry(), place.position, word);
    matches!(state, Ok(Passing::Empty))
}

/// Copies the message at `first` out, slot by slot. At most one ring's worth, whatever the words
/// say.
#[inline]
fn copy<P: Memory>(
    peer: &P,
    geometry: &Geometry,
    first: Place,
    buffer: &mut Vec<u8>,
) -> Result<Copied, Corruption> {
    let position = first.position;
    let (mut place, mut len) = (first, 0);
    for slots in 1..=geometry.count() {
        // As in Reader::ready_at.
        let word = CommitWord(peer.load_acquire(place.offset));
        let (kind, bytes) = match read_passing(geometry, place.position, word)? {
            Passing::Overrun => return Ok(Copied::Overrun),
            Passing::Empty if slots == 1 => return Ok(Copied::Nothing),
            Passing::Committed(Kind::End, _) if slots == 1 => return Ok(Copied::End),
            Passing::Empty | Passing::Committed(Kind::End | Kind::Busy | Kind::Frozen, _) => {
                return Err(Corruption::Unfinished { position, slots: slots - 1 });
            }
            Passing::Committed(kind, bytes) => (kind, bytes as usize),
        };
        if buffer.len() < len + bytes {
            buffer.resize(len + bytes, 0);
        }
        if let Some(target) = buffer.get_mut(len..len + bytes).filter(|_| bytes > 0) {
            peer.copy_out(place.offset + WORD_BYTES, target);
        }
        len += bytes;
        if kind == Kind::Data {
            let whole = recheck(peer, geometry, first, slots, word)?;
            return Ok(if whole { Copied::Message { slots, len } } else { Copied::Overrun });
        }
        place.advance(geometry);
    }
    Err(Corruption::Unfinished { position, slots: geometry.count() })
}

/// Whether every slot of a message still carries the word that it was copied under; `last` is the
/// last slot's.
#[inline]
fn recheck<P: Memory>(
    peer: &P,
    geometry: &Geometry,
    first: Place,
    slots: u64,
    last: CommitWord,
) -> Result<bool, Corruption> {
    // Pairs with the fence in Writer::mark [busy]: if a byte that we copied was written after a
    // mark, we see the mark now.
    peer.acquire_fence();
    let mut place = first;
    for slot in 1..=slots {
        let expected = match slot {
            slot if slot == slots => last,
            _ => CommitWord::of(&place, Kind::More, geometry.payload()),
        };
        let word = CommitWord(peer.load_acquire(place.offset));
        if word != expected {
            return match read_passing(geometry, place.position, word)? {
                Passing::Overrun => Ok(false),
                _ => Err(Corruption::Rewritten { position: first.position }),
            };
        }
        place.advance(geometry);
    }
    Ok(true)
}
