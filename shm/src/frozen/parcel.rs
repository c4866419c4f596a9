//! What travels over the lifeline with a frozen payload's descriptor, and what stands in its slot.
//!
//! The slot's commit word has the kind `Frozen` and the number of base pages as its length: one
//! load is the whole truth about it. The parcel, sent before the word is stored, repeats the
//! position and has the exact length.

use super::PAGES;

/// First bytes of a parcel.
const MAGIC: [u8; 8] = *b"FROZEN\0\x01";
/// Length of a parcel's text, in bytes.
pub(crate) const PARCEL_BYTES: usize = 24;

/// The announcement of one payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parcel {
    /// Position of its slot in the lane.
    pub(crate) position: u64,
    /// Length of the payload, in bytes.
    pub(crate) len: u64,
}

impl Parcel {
    pub(crate) fn encode(self) -> [u8; PARCEL_BYTES] {
        let mut text = [0; PARCEL_BYTES];
        let words = [MAGIC, self.position.to_le_bytes(), self.len.to_le_bytes()];
        for (part, word) in text.chunks_exact_mut(8).zip(words) {
            part.copy_from_slice(&word);
        }
        text
    }

    /// `None` for what no producer of this version sends.
    pub(crate) fn decode(text: &[u8]) -> Option<Self> {
        let (words, []) = text.as_chunks::<8>() else { return None };
        let [magic, position, len] = *words else { return None };
        let (position, len) = (u64::from_le_bytes(position), u64::from_le_bytes(len));
        (magic == MAGIC).then_some(Self { position, len })
    }
}

/// Base pages of a payload of `len` bytes: what its slot says.
pub(crate) fn pages_of(len: u64) -> u64 {
    len.div_ceil(PAGES[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parcel_is_as_published_and_nothing_else_is_one() {
        let parcel = Parcel { position: 0x0102_0304, len: 5 << 20 };
        let text = parcel.encode();
        assert_eq!(text[..8], *b"FROZEN\0\x01");
        assert_eq!((text[8], text[11], text[18]), (4, 1, 0x50));
        assert_eq!(Parcel::decode(&text), Some(parcel));
        for cut in 0..text.len() {
            assert_eq!(Parcel::decode(&text[..cut]), None);
        }
        assert_eq!(Parcel::decode(&[&text[..], &[0]].concat()), None);
        assert_eq!(Parcel::decode(&[&text[..], &[0; 8]].concat()), None);
        let mut stranger = text;
        stranger[7] = 2;
        assert_eq!(Parcel::decode(&stranger), None);
        assert_eq!((pages_of(1), pages_of(4096), pages_of(4097)), (1, 1, 2));
    }
}
