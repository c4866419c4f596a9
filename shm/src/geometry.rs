//! The only way to get slot arithmetic: sizes and counts that were checked once.
//!
//! Pure. A `Geometry` is private to the process that holds it; the copy in the header is compared
//! at attach and never read again, so that no peer can move the slots under a running ring.

use crate::error::SegmentError;
use crate::layout::{Header, P_SLOTS, P_TAIL_PAD};
use crate::ring::Profile;

/// Largest payload of one slot, in bytes: the commit word has 24 bits for it.
pub const SLOT_PAYLOAD_MAX: u32 = (1 << 24) - 64;
/// Largest number of slots.
pub const SLOT_COUNT_MAX: u32 = 1 << 24;
/// A cache line, in bytes.
pub(crate) const LINE: usize = 64;
/// Largest segment, in bytes (64 GiB): far above any pool here, far below overflow.
pub const SEGMENT_MAX: u64 = 1 << 36;
/// Bytes of the commit word that starts each slot.
pub const WORD_BYTES: usize = 8;
/// Slots of a lane for throughput that are smaller than this, in bytes, lie without gaps.
const DENSE_BELOW: usize = 4096 - LINE;

/// Slot arithmetic of one ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    stride: usize,
    payload: u32,
    count_log2: u32,
    /// Offset after the last slot.
    slots_end: usize,
}

/// A position with what belongs to it: where its slot is, and the turn that the slot carries.
///
/// Moving on by one slot takes an addition and a comparison, where working both out from the
/// position takes a product and two shifts, for each message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The position.
    pub position: u64,
    /// Offset of the slot's commit word.
    pub offset: usize,
    /// Turn that the slot carries once it is committed, in the upper half as in a commit word.
    pub(crate) turn: u64,
}

impl Place {
    /// Moves on by one slot.
    #[inline(always)]
    pub fn advance(&mut self, geometry: &Geometry) {
        self.position += 1;
        self.offset += geometry.stride;
        if self.offset == geometry.slots_end {
            // A branch that is foreseen costs less than a choice that each message waits for.
            std::hint::cold_path();
            self.offset = P_SLOTS;
            self.turn = self.turn.wrapping_add(1 << 32);
        }
    }
}

impl Geometry {
    /// `slot_count` slots that hold `slot_payload_bytes` each, as a lane for latency has them.
    ///
    /// # Errors
    /// As [`Geometry::for_profile`].
    pub fn try_new(slot_payload_bytes: u32, slot_count: u32) -> Result<Self, SegmentError> {
        Self::for_profile(slot_payload_bytes, slot_count, Profile::Latency)
    }

    /// Smallest stride that suits the profile and holds `slot_payload_bytes`, with `slot_count`
    /// slots.
    ///
    /// For latency, strides are 16, 32 or a multiple of 64 bytes, so that a message touches as few
    /// lines as can be. For throughput, slots below 4 KiB follow each other as closely as their
    /// commit words allow, so that a stream moves as few lines as can be. From 4 KiB on a power
    /// of two gets one more line, because slots that far apart would all fall into the same cache
    /// sets. `docs/measurements.md` has the figures behind each.
    ///
    /// # Errors
    /// `SegmentError::Geometry` names the field and the allowed range.
    pub fn for_profile(
        slot_payload_bytes: u32,
        slot_count: u32,
        profile: Profile,
    ) -> Result<Self, SegmentError> {
        if slot_payload_bytes == 0 || slot_payload_bytes > SLOT_PAYLOAD_MAX {
            return Err(SegmentError::Geometry {
                field: "slot_payload_bytes",
                found: u64::from(slot_payload_bytes),
                allowed: "1 to 16777152",
            });
        }
        if !slot_count.is_power_of_two() || !(2..=SLOT_COUNT_MAX).contains(&slot_count) {
            return Err(SegmentError::Geometry {
                field: "slot_count",
                found: u64::from(slot_count),
                allowed: "a power of two from 2 to 16777216",
            });
        }
        let stride = stride_for(slot_payload_bytes as usize + WORD_BYTES, profile);
        let geometry = Self {
            stride,
            payload: slot_payload_bytes,
            count_log2: slot_count.trailing_zeros(),
            slots_end: P_SLOTS.saturating_add(stride.saturating_mul(slot_count as usize)),
        };
        let size = geometry.segment_bytes();
        if size > SEGMENT_MAX {
            return Err(SegmentError::Geometry {
                field: "slot_payload_bytes * slot_count",
                found: size,
                allowed: "a segment of at most 68719476736 bytes",
            });
        }
        Ok(geometry)
    }

    /// The geometry that the header of a producer's segment describes.
    ///
    /// # Errors
    /// As [`Geometry::for_profile`]; also if no profile has the header's stride.
    pub fn of_header(header: &Header) -> Result<Self, SegmentError> {
        let payload = u32::try_from(header.slot_payload).unwrap_or(u32::MAX);
        let count = u32::try_from(header.slot_count).unwrap_or(u32::MAX);
        for profile in [Profile::Latency, Profile::Throughput] {
            let geometry = Self::for_profile(payload, count, profile)?;
            if geometry.stride as u64 == header.slot_stride {
                return Ok(geometry);
            }
        }
        Err(SegmentError::Geometry {
            field: "slot_stride",
            found: header.slot_stride,
            allowed: "the stride of a profile",
        })
    }

    /// Distance between two slots, in bytes.
    #[must_use]
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Payload of one slot, in bytes.
    #[must_use]
    pub fn payload(&self) -> u32 {
        self.payload
    }

    /// Number of slots.
    #[must_use]
    pub fn count(&self) -> u64 {
        1 << self.count_log2
    }

    /// Largest message, in bytes: the whole ring.
    #[must_use]
    pub fn message_max(&self) -> usize {
        (self.payload as usize) << self.count_log2
    }

    /// Bytes that the producer's segment needs, before rounding to pages.
    #[must_use]
    pub fn segment_bytes(&self) -> u64 {
        ((self.stride as u64) << self.count_log2) + (P_SLOTS + P_TAIL_PAD) as u64
    }

    /// Slots that a message of `bytes` takes: one for an empty message.
    #[must_use]
    #[inline]
    pub fn slots_for(&self, bytes: usize) -> u64 {
        if bytes <= self.payload as usize {
            1
        } else {
            bytes.div_ceil(self.payload as usize) as u64
        }
    }

    /// Offset of the commit word of the slot at `position`.
    #[must_use]
    #[inline]
    pub fn slot_offset(&self, position: u64) -> usize {
        // The mask bounds the index whatever the position is; the product was checked above.
        #[expect(clippy::cast_possible_truncation, reason = "masked below 2^24")]
        let index = (position & ((1 << self.count_log2) - 1)) as usize;
        P_SLOTS + index * self.stride
    }

    /// The place of `position`.
    #[must_use]
    pub fn place(&self, position: u64) -> Place {
        let turn = u64::from(self.turn(position)) << 32;
        Place { position, offset: self.slot_offset(position), turn }
    }

    /// Turn that a committed slot at `position` carries: the lap plus one, so that fresh zero
    /// pages read "never written".
    #[must_use]
    #[inline]
    pub fn turn(&self, position: u64) -> u32 {
        #[expect(clippy::cast_possible_truncation, reason = "turns wrap at 2^32 by definition")]
        let lap = (position >> self.count_log2) as u32;
        lap.wrapping_add(1)
    }
}

fn stride_for(bytes: usize, profile: Profile) -> usize {
    match (bytes, profile) {
        (0..DENSE_BELOW, Profile::Throughput) => bytes.next_multiple_of(WORD_BYTES),
        (0..=16, Profile::Latency) => 16,
        (17..=32, Profile::Latency) => 32,
        _ => {
            let stride = bytes.next_multiple_of(64);
            if stride >= 4096 && stride.is_power_of_two() { stride + 64 } else { stride }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strides_are_small_or_whole_lines_and_never_a_large_power_of_two() {
        for payload in (1..70_000).chain([SLOT_PAYLOAD_MAX - 1, SLOT_PAYLOAD_MAX]) {
            let geometry = Geometry::try_new(payload, 2).unwrap();
            let stride = geometry.stride();
            assert!(stride >= payload as usize + WORD_BYTES);
            assert!(
                stride == 16 || stride == 32 || stride.is_multiple_of(64),
                "{payload}: {stride}"
            );
            assert!(stride < 4096 || !stride.is_power_of_two(), "{payload}: {stride}");
        }
    }

    #[test]
    fn slots_for_throughput_lie_close_and_are_found_again_from_the_header() {
        for payload in (1..9000).chain([SLOT_PAYLOAD_MAX]) {
            let geometry = Geometry::for_profile(payload, 2, Profile::Throughput).unwrap();
            let stride = geometry.stride();
            let bytes = payload as usize + WORD_BYTES;
            let gap = if bytes < DENSE_BELOW { WORD_BYTES } else { 128 };
            assert!(stride >= bytes && stride - bytes < gap, "{payload}: {stride}");
            assert!(stride.is_multiple_of(WORD_BYTES));
            assert!(stride < 4096 || !stride.is_power_of_two(), "{payload}: {stride}");
            assert!(stride <= Geometry::try_new(payload, 2).unwrap().stride(), "{payload}");
            let header = Header {
                kind: crate::layout::KIND_PRODUCER,
                lane: 1,
                generation: 1,
                nonce: 1,
                slot_stride: stride as u64,
                slot_payload: u64::from(payload),
                slot_count: 2,
                base_position: 0,
                size_bytes: 1 << 30,
            };
            assert_eq!(Geometry::of_header(&header).unwrap(), geometry);
            let other = Header { slot_stride: stride as u64 + 8, ..header };
            let latency = Geometry::try_new(payload, 2).unwrap().stride() as u64;
            assert_eq!(Geometry::of_header(&other).is_ok(), other.slot_stride == latency);
        }
    }

    #[test]
    fn sizes_outside_the_range_name_the_field() {
        for (payload, count, field) in [
            (0, 2, "slot_payload_bytes"),
            (u32::MAX, 2, "slot_payload_bytes"),
            (8, 0, "slot_count"),
            (8, 1, "slot_count"),
            (8, 3, "slot_count"),
            (8, u32::MAX, "slot_count"),
            (SLOT_PAYLOAD_MAX, SLOT_COUNT_MAX, "slot_payload_bytes * slot_count"),
        ] {
            match Geometry::try_new(payload, count) {
                Err(SegmentError::Geometry { field: found, .. }) => assert_eq!(found, field),
                other => panic!("{payload} x {count}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_place_that_moves_on_is_the_place_of_its_position() {
        let geometry = Geometry::try_new(100, 4).unwrap();
        let wrap = u64::from(u32::MAX) * 4;
        for start in [0, 3, wrap - 6] {
            let mut place = geometry.place(start);
            for position in start..start + 13 {
                assert_eq!(place, geometry.place(position));
                place.advance(&geometry);
            }
        }
    }

    #[test]
    fn slots_lie_inside_the_segment_and_apart_for_every_position() {
        let geometry = Geometry::try_new(100, 8).unwrap();
        for position in (0..64).chain([u64::MAX - 3, u64::MAX]) {
            let offset = geometry.slot_offset(position);
            assert_eq!((offset - P_SLOTS) % geometry.stride(), 0);
            assert!((offset + geometry.stride()) as u64 <= geometry.segment_bytes());
        }
    }
}
