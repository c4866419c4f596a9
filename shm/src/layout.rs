//! The format of a lane in memory: offsets, magic numbers, header fields.
//!
//! Everything is a little-endian integer of fixed width at a naturally aligned offset, read and
//! written with that one width for ever. No pointers, paths, pids or sizes of the host's types.
//! Knows nothing of mappings; `tests/layout.rs` pins every number here.

/// First word of every segment: `LANEWAY1` in ASCII, little-endian.
pub const MAGIC: u64 = u64::from_le_bytes(*b"LANEWAY1");
/// Format version: major in the upper half (must match), minor in the lower (may differ).
pub const VERSION: u64 = 1 << 32;
/// Incompatible feature bits that this version knows: none yet. An unknown one is refused.
pub const INCOMPAT_KNOWN: u64 = 0;
/// Compatible feature bits that this version knows: none yet. An unknown one is ignored.
pub const COMPAT_KNOWN: u64 = 0;

/// Segment kind of a producer's segment.
pub const KIND_PRODUCER: u64 = 1;
/// Segment kind of a consumer's segment.
pub const KIND_CONSUMER: u64 = 2;

/// Bytes of the header page of a producer's segment.
pub const HEADER_BYTES: usize = 4096;
/// Size of a consumer's segment, in bytes: one base page.
pub const CONSUMER_SEGMENT_BYTES: usize = 4096;

/// Header fields, each a `u64` at `index * 8`, in this order.
pub const HEADER_FIELDS: [&str; 16] = [
    "magic",
    "version",
    "kind",
    "incompat",
    "compat",
    "lane_high",
    "lane_low",
    "generation",
    "nonce_high",
    "nonce_low",
    "slot_stride",
    "slot_payload",
    "slot_count",
    "slots_offset",
    "base_position",
    "size_bytes",
];

/// Producer's control lines start here.
///
/// Lines that different sides touch stand 128 bytes apart: x86-64 prefetches the neighbour of a
/// missed line (Intel 64 Optimization Reference Manual, "Adjacent Cache Line Prefetch").
pub const P_COMMITTED: usize = HEADER_BYTES;
/// Messages committed so far, written lazily.
pub const P_MESSAGES: usize = HEADER_BYTES + 8;
/// Payload bytes committed so far, written lazily.
pub const P_BYTES: usize = HEADER_BYTES + 16;
/// Times that the producer found the ring full.
pub const P_STALLS: usize = HEADER_BYTES + 24;
/// Futex word that the producer changes before it wakes a parked consumer.
pub const P_BELL: usize = HEADER_BYTES + 128;
/// Odd while the producer sleeps for room; each sleep has its own number, with [`BY_DOORBELL`] or
/// without.
pub const P_PARKED: usize = HEADER_BYTES + 132;
/// Incarnation of the consumer whose segment the producer reads.
pub const P_JOINED: usize = HEADER_BYTES + 256;
/// Where an overrun reader of a broadcast lane that loses goes on: a message's first slot, half a
/// ring behind the producer. In a gated one: below this position, the ring may be written over by
/// what is not committed yet, if that is more than a quarter of it.
pub const P_RESUME: usize = HEADER_BYTES + 384;
/// Readers of a broadcast lane: [`READERS_MAX`] entries of [`READER_BYTES`], each starting with
/// the reader's number, or 0 if it is free.
pub const P_READERS: usize = HEADER_BYTES + 512;
/// Most readers of a broadcast lane.
pub const READERS_MAX: usize = 64;
/// Bytes of one reader's entry.
pub const READER_BYTES: usize = 32;
/// In a reader's entry: position from which on the producer counts with the reader.
pub const R_JOINED_AT: usize = 8;
/// In a reader's entry: what was committed when the producer gave the reader up.
pub const R_GIVEN_UP_AT: usize = 16;
/// In a reader's entry: 0, or why the producer gave the reader up.
pub const R_REASON: usize = 24;
/// First slot. One page after the control lines keeps slots page-aligned on 4 KiB pages.
pub const P_SLOTS: usize = HEADER_BYTES * 2;
/// Pad after the last slot: a mis-speculated access of one line stays inside the mapping.
pub const P_TAIL_PAD: usize = 64;

/// Consumer's cursor: slots released so far, as a position in the lane.
pub const C_RELEASED: usize = 512;
/// Messages released so far, written with the cursor.
pub const C_MESSAGES: usize = 520;
/// Payload bytes released so far, written with the cursor.
pub const C_BYTES: usize = 528;
/// Times that the consumer found the ring empty.
pub const C_EMPTY: usize = 536;
/// Slots that the reader of a lossy broadcast lane has lost so far.
pub const C_LOST: usize = 544;
/// 1 once the reader of a broadcast lane has left: its last word, after which it reads nothing. A
/// version that does not know it leaves 0 and never looks, and hears of the leave from the agent:
/// no feature bit is needed.
pub const C_LEFT: usize = 552;
/// Futex word that the consumer changes before it wakes a parked producer.
pub const C_BELL: usize = 640;
/// Odd while the consumer sleeps for a message; each sleep has its own number, with
/// [`BY_DOORBELL`] or without.
pub const C_PARKED: usize = 644;
/// In a parked word: the sleeper waits in epoll, and wants a byte over its lifeline where others
/// want their futex word changed.
pub const BY_DOORBELL: u32 = 1 << 31;
/// 1 if the consumer pays for both fences when it goes to sleep (see [`crate::memory::Memory`]).
pub const C_HEAVY: usize = 648;

// The format: two versions of this crate must agree on each number, whoever compiles it.
const _: () = {
    assert!(P_COMMITTED == 4096 && P_MESSAGES == 4104 && P_BYTES == 4112 && P_STALLS == 4120);
    assert!(P_BELL == 4224 && P_PARKED == 4228 && P_JOINED == 4352 && P_RESUME == 4480);
    assert!(P_READERS == 4608 && READERS_MAX == 64 && READER_BYTES == 32);
    assert!(R_JOINED_AT == 8 && R_GIVEN_UP_AT == 16 && R_REASON == 24);
    assert!(P_SLOTS == 8192 && P_TAIL_PAD == 64);
    assert!(C_RELEASED == 512 && C_MESSAGES == 520 && C_BYTES == 528 && C_EMPTY == 536);
    assert!(C_LOST == 544 && C_LEFT == 552 && C_BELL == 640 && C_PARKED == 644 && C_HEAVY == 648);
    assert!(HEADER_BYTES == 4096 && CONSUMER_SEGMENT_BYTES == 4096);
    assert!(HEADER_FIELDS.len() == 16 && HEADER_FIELDS.len() * 8 <= C_RELEASED);
    assert!(P_READERS + READERS_MAX * READER_BYTES <= P_SLOTS);
};

/// Bytes after a header's fields that this version does not use: zero, and checked to be.
#[must_use]
pub fn reserved(kind: u64) -> std::ops::Range<usize> {
    let end = if kind == KIND_PRODUCER { HEADER_BYTES } else { C_RELEASED };
    HEADER_FIELDS.len() * 8..end
}

/// Identity and geometry of a segment, as the header carries them and as the grant repeats them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// [`KIND_PRODUCER`] or [`KIND_CONSUMER`].
    pub kind: u64,
    /// The lane's 128-bit id.
    pub lane: u128,
    /// Generation of a producer's segment; incarnation of a consumer's.
    pub generation: u64,
    /// Random number of this segment, told to nobody but its writer and its readers.
    pub nonce: u128,
    /// Distance between slots, in bytes.
    pub slot_stride: u64,
    /// Payload of one slot, in bytes.
    pub slot_payload: u64,
    /// Number of slots, a power of two.
    pub slot_count: u64,
    /// Position of the first message of this segment (P), or the first to receive (C).
    pub base_position: u64,
    /// Size of the segment, in bytes.
    pub size_bytes: u64,
}

impl Header {
    /// The header as words in the order of [`HEADER_FIELDS`].
    #[must_use]
    pub fn words(&self) -> [u64; HEADER_FIELDS.len()] {
        let [lane_high, lane_low] = halves(self.lane);
        let [nonce_high, nonce_low] = halves(self.nonce);
        let slots_offset = if self.kind == KIND_PRODUCER { P_SLOTS as u64 } else { 0 };
        [
            MAGIC,
            VERSION,
            self.kind,
            0,
            0,
            lane_high,
            lane_low,
            self.generation,
            nonce_high,
            nonce_low,
            self.slot_stride,
            self.slot_payload,
            self.slot_count,
            slots_offset,
            self.base_position,
            self.size_bytes,
        ]
    }

    /// Compares words copied from a segment with this header.
    ///
    /// # Errors
    /// The first field that differs; unknown *compatible* bits and the minor version may differ.
    pub fn check(
        &self,
        found: &[u64; HEADER_FIELDS.len()],
    ) -> Result<(), crate::error::SegmentError> {
        const MINOR: u64 = 0xffff_ffff;
        for (index, (&found, expected)) in found.iter().zip(self.words()).enumerate() {
            let same = match HEADER_FIELDS[index] {
                "version" => found | MINOR == expected | MINOR,
                "incompat" => found & !INCOMPAT_KNOWN == 0,
                "compat" => true,
                _ => found == expected,
            };
            if !same {
                let field = HEADER_FIELDS[index];
                return Err(crate::error::SegmentError::Header { field, found, expected });
            }
        }
        Ok(())
    }
}

/// Whether a header is of a version that may use what this one reserves: a later minor one, or
/// one with features that this one may ignore.
#[must_use]
pub fn is_later(found: &[u64; HEADER_FIELDS.len()]) -> bool {
    let [_, version, _, _, compat, ..] = found;
    *version > VERSION || compat & !COMPAT_KNOWN != 0
}

/// Upper and lower 64 bits.
fn halves(value: u128) -> [u64; 2] {
    let bytes = value.to_be_bytes();
    let mut high = [0; 8];
    let mut low = [0; 8];
    high.copy_from_slice(&bytes[..8]);
    low.copy_from_slice(&bytes[8..]);
    [u64::from_be_bytes(high), u64::from_be_bytes(low)]
}
