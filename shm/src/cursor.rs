//! The commit word and the rules by which a peer's number is accepted.
//!
//! Pure. Every number that a peer wrote enters the ring through a function of this file, once,
//! as a private copy.

use crate::error::Corruption;
use crate::geometry::{Geometry, Place};

/// Last position that is accepted from a peer: from there on it would take a producer twenty years
/// to make a reader's arithmetic overflow.
pub const POSITION_MAX: u64 = u64::MAX - (1 << 56);

/// Most base pages of a frozen payload.
pub const FROZEN_PAGES_MAX: u32 = 1 << 18;

/// What a committed slot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The last or only slot of a message.
    Data = 1,
    /// A full slot whose message continues in the next slot.
    More = 2,
    /// End of stream.
    End = 3,
    /// Broadcast lanes that lose: the slot is being written in this lap.
    Busy = 4,
    /// A frozen payload: the slot is empty, and the length is that of a file, in base pages.
    Frozen = 5,
}

/// One slot's commit word, `turn:32 | kind:8 | len:24`: a whole snapshot in one load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitWord(pub u64);

impl CommitWord {
    /// Packs a commit word. `len` is below 2^24 by [`Geometry`].
    #[must_use]
    pub fn new(turn: u32, kind: Kind, len: u32) -> Self {
        debug_assert!(len < 1 << 24);
        Self(u64::from(turn) << 32 | u64::from(kind as u8) << 24 | u64::from(len))
    }

    /// The word of the slot at `place`.
    #[inline(always)]
    pub(crate) fn of(place: &Place, kind: Kind, len: u32) -> Self {
        Self(place.turn | u64::from(kind as u8) << 24 | u64::from(len))
    }

    /// The turn half.
    #[must_use]
    #[inline]
    pub fn turn(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The length field, in bytes.
    #[must_use]
    #[inline]
    pub fn len(self) -> u32 {
        (self.0 & 0x00ff_ffff) as u32
    }

    /// Whether the length field is zero.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The kind byte as it was found.
    #[must_use]
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "one byte is meant")]
    pub fn kind_byte(self) -> u8 {
        (self.0 >> 24) as u8
    }
}

/// What a slot of a broadcast lane that loses says to a reader that it does not wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passing {
    /// Not committed in this lap, or being written.
    Empty,
    /// Committed, with kind and length within the geometry.
    Committed(Kind, u32),
    /// Taken for a later lap: what stood here is lost to this reader.
    Overrun,
}

/// What a slot says to the consumer that looks at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotState {
    /// Not committed in this lap.
    Empty,
    /// Committed, with kind and length within the geometry; of [`Kind::Frozen`] with 1 to
    /// [`FROZEN_PAGES_MAX`] pages.
    Committed(Kind, u32),
}

/// Judges a commit word found at `position`.
///
/// # Errors
/// A turn from nowhere, an unknown kind, or a length beyond the slot: each would make the
/// consumer read bytes that the producer never committed there.
#[inline]
pub fn read_slot(
    geometry: &Geometry,
    position: u64,
    word: CommitWord,
) -> Result<SlotState, Corruption> {
    let expected = geometry.turn(position);
    if word.turn() != expected {
        return not_committed(position, expected, word);
    }
    let kind = match word.kind_byte() {
        1 => Kind::Data,
        2 => Kind::More,
        3 => Kind::End,
        5 => return frozen_slot(position, word.len()),
        // Turn 0 comes once in 2^32 laps: a page that was never written is still empty then.
        0 if word.0 == 0 => return Ok(SlotState::Empty),
        found => return Err(Corruption::Kind { position, found }),
    };
    let limit = geometry.payload();
    let found = word.len();
    // A continued slot is full by rule, so that offsets inside a long message need no table.
    if found > limit || (kind == Kind::More && found != limit) {
        return Err(Corruption::Length { position, found, limit });
    }
    Ok(SlotState::Committed(kind, found))
}

fn frozen_slot(position: u64, pages: u32) -> Result<SlotState, Corruption> {
    if !(1..=FROZEN_PAGES_MAX).contains(&pages) {
        return Err(Corruption::Length { position, found: pages, limit: FROZEN_PAGES_MAX });
    }
    Ok(SlotState::Committed(Kind::Frozen, pages))
}

/// Judges a commit word of a broadcast lane that loses, found at `position`.
///
/// # Errors
/// As [`read_slot`], but a later turn is no lie here: the producer waits for nobody.
#[inline]
pub fn read_passing(
    geometry: &Geometry,
    position: u64,
    word: CommitWord,
) -> Result<Passing, Corruption> {
    let expected = geometry.turn(position);
    let ahead = word.turn().wrapping_sub(expected);
    // Half of the turns are ahead: a reader would have to sleep through 2^31 laps to be wrong.
    if word.0 != 0 && (1..1 << 31).contains(&ahead) {
        return Ok(Passing::Overrun);
    }
    if ahead == 0 && word.kind_byte() == Kind::Busy as u8 {
        return Ok(Passing::Empty);
    }
    Ok(match read_slot(geometry, position, word)? {
        SlotState::Empty => Passing::Empty,
        SlotState::Committed(Kind::Frozen, _) => {
            return Err(Corruption::Kind { position, found: Kind::Frozen as u8 });
        }
        SlotState::Committed(kind, len) => Passing::Committed(kind, len),
    })
}

/// The word is of the lap before, or of nobody yet; anything else is a lie.
#[inline]
fn not_committed(position: u64, expected: u32, word: CommitWord) -> Result<SlotState, Corruption> {
    // A generation may start in the middle of a lap, on zero pages: zero is "never written".
    if word.0 == 0 || word.turn() == expected.wrapping_sub(1) {
        Ok(SlotState::Empty)
    } else {
        Err(Corruption::Turn { position, expected, found: word.turn() })
    }
}

/// Judges a consumer's cursor against what was accepted and committed before.
///
/// # Errors
/// A cursor that went back, or past what was *committed* (not merely reserved): two
/// reservations could overlap otherwise, as in CVE-2024-41009.
#[inline]
pub fn accept_released(lowest: u64, committed: u64, found: u64) -> Result<u64, Corruption> {
    if found < lowest || found > committed {
        return Err(Corruption::Released { found, lowest, committed });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_of_a_small_ring_is_judged_exactly() {
        let geometry = Geometry::try_new(8, 2).unwrap();
        let mut committed = 0;
        for position in 0..8u64 {
            let turn = geometry.turn(position);
            for found_turn in 0..8u32 {
                for kind in 0..=255u64 {
                    for len in [0u64, 1, 7, 8, 9, 1 << 18, (1 << 18) + 1, 0xff_ffff] {
                        let word = CommitWord(u64::from(found_turn) << 32 | kind << 24 | len);
                        let state = read_slot(&geometry, position, word);
                        let legal = match kind {
                            1 | 3 => len <= 8,
                            2 => len == 8,
                            5 => (1..=1 << 18).contains(&len),
                            _ => false,
                        };
                        if found_turn == turn && legal {
                            assert!(matches!(state, Ok(SlotState::Committed(..))));
                            committed += 1;
                        } else if word.0 == 0 || found_turn == turn - 1 {
                            assert_eq!(state, Ok(SlotState::Empty));
                        } else {
                            assert!(state.is_err(), "{position} {word:?} {state:?}");
                        }
                    }
                }
            }
        }
        assert_eq!(committed, 8 * (2 * 4 + 1 + 5));
    }

    #[test]
    fn every_word_is_judged_exactly_by_a_reader_that_may_be_overrun() {
        let geometry = Geometry::try_new(8, 2).unwrap();
        for position in 0..8u64 {
            let turn = geometry.turn(position);
            for found_turn in 0..8u32 {
                for kind in 0..=255u64 {
                    for len in [0u64, 1, 8, 9, 0xff_ffff] {
                        let word = CommitWord(u64::from(found_turn) << 32 | kind << 24 | len);
                        let state = read_passing(&geometry, position, word);
                        if word.0 != 0 && found_turn > turn {
                            assert_eq!(state, Ok(Passing::Overrun));
                        } else if found_turn == turn && kind == 4 {
                            assert_eq!(state, Ok(Passing::Empty));
                        } else {
                            let strict = match read_slot(&geometry, position, word) {
                                // Such a lane carries none.
                                Ok(SlotState::Committed(Kind::Frozen, _)) => {
                                    Err(Corruption::Kind { position, found: 5 })
                                }
                                strict => strict,
                            };
                            let same = match state {
                                Ok(Passing::Empty) => strict == Ok(SlotState::Empty),
                                Ok(Passing::Committed(k, l)) => {
                                    strict == Ok(SlotState::Committed(k, l))
                                }
                                Ok(Passing::Overrun) => false,
                                Err(corruption) => strict == Err(corruption),
                            };
                            assert!(same, "{position} {word:?}: {state:?}, {strict:?}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_released_cursor_outside_accepted_and_committed_is_corruption() {
        for lowest in 0..6 {
            for committed in lowest..6 {
                for found in 0..8 {
                    let accepted = accept_released(lowest, committed, found);
                    assert_eq!(accepted.is_ok(), (lowest..=committed).contains(&found));
                }
            }
        }
    }

    #[test]
    fn the_lap_before_turn_zero_is_still_recognised_when_turns_wrap() {
        let geometry = Geometry::try_new(8, 2).unwrap();
        let position = (u64::from(u32::MAX)) * 2;
        assert_eq!(geometry.turn(position), 0);
        let old = CommitWord::new(u32::MAX, Kind::Data, 3);
        assert_eq!(read_slot(&geometry, position, old), Ok(SlotState::Empty));
    }
}
