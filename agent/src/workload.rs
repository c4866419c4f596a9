//! Messages whose content can be checked, and the tally of what arrived.
//!
//! Pure. A message's bytes follow from its sequence number, so that every byte can be compared;
//! the tally tells lost, repeated, disordered and torn apart.

use serde::{Deserialize, Serialize};

/// Bytes of the sequence number that starts each message.
const SEQUENCE_BYTES: usize = 8;

/// Fills a message with what belongs to `sequence`.
pub fn fill(sequence: u64, message: &mut [u8]) {
    let head = sequence.to_le_bytes();
    let (first, rest) = message.split_at_mut(message.len().min(SEQUENCE_BYTES));
    first.copy_from_slice(&head[..first.len()]);
    let mut word = sequence;
    for chunk in rest.chunks_mut(8) {
        word = mix(word);
        chunk.copy_from_slice(&word.to_le_bytes()[..chunk.len()]);
    }
}

/// One step of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): cheap, and no two sequence numbers
/// share a pattern.
fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word ^ (word >> 27)
}

/// The sequence number of a message whose every byte belongs to it; `None` if it is torn.
#[must_use]
pub fn sequence_of(message: &[u8]) -> Option<u64> {
    let (first, rest) = message.split_at(message.len().min(SEQUENCE_BYTES));
    let mut head = [0; SEQUENCE_BYTES];
    head[..first.len()].copy_from_slice(first);
    let sequence = u64::from_le_bytes(head);
    let mut word = sequence;
    for chunk in rest.chunks(8) {
        word = mix(word);
        if *chunk != word.to_le_bytes()[..chunk.len()] {
            return None;
        }
    }
    Some(sequence)
}

/// What arrived, compared with what should have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Messages received, whatever they were.
    pub received: u64,
    /// Sequence numbers that were skipped and never came.
    pub lost: u64,
    /// Messages whose bytes do not belong together.
    pub torn: u64,
    /// Messages that came after a later one.
    pub out_of_order: u64,
    /// Messages that came twice in a row's place.
    pub duplicates: u64,
    /// The next sequence number.
    pub next: u64,
}

impl Tally {
    /// A tally that expects `next` first.
    #[must_use]
    pub fn starting_at(next: u64) -> Self {
        Self { next, ..Self::default() }
    }

    /// Counts one message. Messages shorter than a sequence number are compared by what they have.
    pub fn count(&mut self, message: &[u8]) {
        self.received += 1;
        let Some(found) = sequence_of(message) else {
            self.torn += 1;
            self.next += 1;
            return;
        };
        let mask =
            if message.len() >= SEQUENCE_BYTES { u64::MAX } else { (1 << (message.len() * 8)) - 1 };
        if found == self.next & mask {
            self.next += 1;
        } else if mask == u64::MAX && found > self.next {
            self.lost += found - self.next;
            self.next = found + 1;
        } else if mask == u64::MAX && found + 1 == self.next {
            self.duplicates += 1;
        } else {
            self.out_of_order += 1;
        }
    }

    /// Whether nothing was lost, torn or out of order.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.lost == 0 && self.torn == 0 && self.out_of_order == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(sequence: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        fill(sequence, &mut bytes);
        bytes
    }

    #[test]
    fn a_flipped_bit_anywhere_is_torn_or_another_sequence() {
        let good = message(77, 40);
        assert_eq!(sequence_of(&good), Some(77));
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(sequence_of(&bad), Some(77), "bit {bit}");
        }
    }

    #[test]
    fn the_tally_tells_the_ways_to_go_wrong_apart() {
        let mut tally = Tally::starting_at(0);
        for sequence in [0, 1, 2, 2, 5, 3] {
            tally.count(&message(sequence, 24));
        }
        tally.count(&[9; 24]);
        let expected =
            Tally { received: 7, lost: 2, torn: 1, out_of_order: 1, duplicates: 1, next: 7 };
        assert_eq!(tally, expected);
        assert!(!tally.is_clean());
    }

    #[test]
    fn short_messages_are_compared_by_what_they_have() {
        let mut tally = Tally::starting_at(0);
        for sequence in 0..600 {
            tally.count(&message(sequence, 1));
        }
        assert!(tally.is_clean());
        assert_eq!(tally.received, 600);
    }
}
