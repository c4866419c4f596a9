//! The format, pinned: offsets, words and bytes that two versions of this crate must agree on.
//!
//! A failure here means that lanes of the old and the new build cannot share a segment. Change
//! the numbers together with `layout::VERSION`, never alone.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::rc::Rc;
use std::time::Duration;

use laneway_shm::cursor::{CommitWord, Kind, SlotState, read_slot};
use laneway_shm::geometry::{self, Geometry};
use laneway_shm::layout::{self, Header};
use laneway_shm::memory::{Memory, OwnedMemory};
use laneway_shm::ring::{Profile, Reader, Writer};
use laneway_shm::{SegmentError, WaitMode, memfd};

/// A segment on the heap whose bytes can be looked at.
#[derive(Clone)]
struct Recorder(Rc<RefCell<Vec<u8>>>);

impl Recorder {
    fn new(bytes: usize) -> Self {
        Self(Rc::new(RefCell::new(vec![0; bytes])))
    }

    fn array<const N: usize>(&self, offset: usize) -> [u8; N] {
        self.0.borrow()[offset..offset + N].try_into().expect("N bytes")
    }
}

impl Memory for Recorder {
    fn load_acquire(&self, offset: usize) -> u64 {
        u64::from_le_bytes(self.array(offset))
    }
    fn load_u32(&self, offset: usize) -> u32 {
        u32::from_le_bytes(self.array(offset))
    }
    fn copy_out(&self, offset: usize, target: &mut [u8]) {
        target.copy_from_slice(&self.0.borrow()[offset..offset + target.len()]);
    }
    fn full_fence(&self) {}
    fn wait(&self, _offset: usize, _expected: u32, _timeout: Duration) {}
}

impl OwnedMemory for Recorder {
    fn store_relaxed(&self, offset: usize, value: u64) {
        self.copy_in(offset, &value.to_le_bytes());
    }
    fn store_release(&self, offset: usize, value: u64) {
        self.copy_in(offset, &value.to_le_bytes());
    }
    fn store_u32(&self, offset: usize, value: u32) {
        self.copy_in(offset, &value.to_le_bytes());
    }
    fn copy_in(&self, offset: usize, source: &[u8]) {
        self.0.borrow_mut()[offset..offset + source.len()].copy_from_slice(source);
    }
    fn wake(&self, _offset: usize) {}
}

/// Lines of 16 bytes with their offset; lines of zeros are left out.
fn dump(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (index, line) in bytes.chunks(16).enumerate() {
        if line.iter().any(|&byte| byte != 0) {
            write!(text, "{:05x}:", index * 16).expect("a string grows");
            line.iter().for_each(|byte| write!(text, " {byte:02x}").expect("a string grows"));
            text.push('\n');
        }
    }
    text
}

fn header(kind: u64) -> Header {
    Header {
        kind,
        lane: 0x0011_2233_4455_6677_8899_aabb_ccdd_eeff,
        generation: 7,
        nonce: 0xf0e0_d0c0_b0a0_9080_7060_5040_3020_1000,
        slot_stride: 64,
        slot_payload: 56,
        slot_count: 1024,
        base_position: 0x0102_0304_0506,
        size_bytes: 0x20_0000,
    }
}

#[test]
fn every_offset_and_number_of_the_format_is_as_published() {
    assert_eq!(layout::MAGIC.to_le_bytes(), *b"LANEWAY1");
    assert_eq!(layout::VERSION, 0x1_0000_0000);
    assert_eq!(layout::INCOMPAT_KNOWN, 0);
    assert_eq!((layout::KIND_PRODUCER, layout::KIND_CONSUMER), (1, 2));
    assert_eq!((layout::HEADER_BYTES, layout::CONSUMER_SEGMENT_BYTES), (4096, 4096));
    for (name, found, expected) in [
        ("P_COMMITTED", layout::P_COMMITTED, 4096),
        ("P_MESSAGES", layout::P_MESSAGES, 4104),
        ("P_BYTES", layout::P_BYTES, 4112),
        ("P_STALLS", layout::P_STALLS, 4120),
        ("P_BELL", layout::P_BELL, 4224),
        ("P_PARKED", layout::P_PARKED, 4228),
        ("P_JOINED", layout::P_JOINED, 4352),
        ("P_RESUME", layout::P_RESUME, 4480),
        ("P_READERS", layout::P_READERS, 4608),
        ("READERS_MAX", layout::READERS_MAX, 64),
        ("READER_BYTES", layout::READER_BYTES, 32),
        ("R_JOINED_AT", layout::R_JOINED_AT, 8),
        ("R_GIVEN_UP_AT", layout::R_GIVEN_UP_AT, 16),
        ("R_REASON", layout::R_REASON, 24),
        ("P_SLOTS", layout::P_SLOTS, 8192),
        ("P_TAIL_PAD", layout::P_TAIL_PAD, 64),
        ("C_RELEASED", layout::C_RELEASED, 512),
        ("C_MESSAGES", layout::C_MESSAGES, 520),
        ("C_BYTES", layout::C_BYTES, 528),
        ("C_EMPTY", layout::C_EMPTY, 536),
        ("C_LOST", layout::C_LOST, 544),
        ("C_BELL", layout::C_BELL, 640),
        ("C_PARKED", layout::C_PARKED, 644),
        ("WORD_BYTES", geometry::WORD_BYTES, 8),
    ] {
        assert_eq!(found, expected, "{name}");
    }
    assert_eq!(geometry::SLOT_PAYLOAD_MAX, 16_777_152);
    assert_eq!(geometry::SLOT_COUNT_MAX, 16_777_216);
    assert_eq!(geometry::SEGMENT_MAX, 68_719_476_736);
    assert_eq!(memfd::PAGE_SIZES, [4096, 2_097_152, 1_073_741_824]);
    // SHRINK | GROW | SEAL | FUTURE_WRITE.
    assert_eq!(memfd::required_seals().bits(), 0x17);
}

#[test]
fn header_fields_stand_in_the_published_order() {
    let names = "magic version kind incompat compat lane_high lane_low generation nonce_high \
                 nonce_low slot_stride slot_payload slot_count slots_offset base_position \
                 size_bytes";
    assert_eq!(layout::HEADER_FIELDS.join(" "), names);
}

#[test]
fn a_known_header_has_the_published_bytes() {
    let bytes: Vec<u8> =
        header(layout::KIND_PRODUCER).words().into_iter().flat_map(u64::to_le_bytes).collect();
    let expected = "\
00000: 4c 41 4e 45 57 41 59 31 00 00 00 00 01 00 00 00
00010: 01 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
00020: 00 00 00 00 00 00 00 00 77 66 55 44 33 22 11 00
00030: ff ee dd cc bb aa 99 88 07 00 00 00 00 00 00 00
00040: 80 90 a0 b0 c0 d0 e0 f0 00 10 20 30 40 50 60 70
00050: 40 00 00 00 00 00 00 00 38 00 00 00 00 00 00 00
00060: 00 04 00 00 00 00 00 00 00 20 00 00 00 00 00 00
00070: 06 05 04 03 02 01 00 00 00 00 20 00 00 00 00 00
";
    assert_eq!(dump(&bytes), expected);
    let consumer = header(layout::KIND_CONSUMER).words();
    assert_eq!((consumer[2], consumer[13]), (2, 0), "a consumer's segment has no slots");
}

#[test]
fn a_header_that_differs_in_any_field_is_refused_by_that_fields_name() {
    let expected = header(layout::KIND_PRODUCER);
    let words = expected.words();
    assert!(expected.check(&words).is_ok());
    for (index, name) in layout::HEADER_FIELDS.into_iter().enumerate() {
        let mut found = words;
        found[index] ^= 1 << 63;
        match expected.check(&found) {
            Err(SegmentError::Header { field, .. }) => assert_eq!(field, name),
            Ok(()) => assert_eq!(name, "compat", "only compatible bits may differ"),
            Err(other) => panic!("{name}: {other}"),
        }
    }
    let mut minor = words;
    minor[1] |= 9;
    assert!(expected.check(&minor).is_ok(), "the minor version may differ");
}

#[test]
fn a_commit_word_packs_turn_kind_and_length() {
    for (turn, kind, len, packed) in [
        (1, Kind::Data, 0, 0x0000_0001_0100_0000),
        (1, Kind::Data, 3, 0x0000_0001_0100_0003),
        (0x1122_3344, Kind::More, 56, 0x1122_3344_0200_0038),
        (7, Kind::Frozen, 1 << 18, 0x0000_0007_0504_0000),
        (u32::MAX, Kind::End, 0xff_ffff, 0xffff_ffff_03ff_ffff),
    ] {
        let word = CommitWord::new(turn, kind, len);
        assert_eq!(word.0, packed);
        assert_eq!((word.turn(), word.kind_byte(), word.len()), (turn, kind as u8, len));
        assert_eq!(word.is_empty(), len == 0);
    }
}

#[test]
fn a_page_that_was_never_written_reads_as_empty_in_every_lap() {
    let geometry = Geometry::try_new(8, 2).unwrap();
    for lap in [0, 1, u64::from(u32::MAX) - 1, u64::from(u32::MAX), 1 << 32] {
        let fresh = read_slot(&geometry, lap * 2, CommitWord(0));
        assert_eq!(fresh, Ok(SlotState::Empty), "turn {}", geometry.turn(lap * 2));
    }
}

#[test]
fn strides_and_segment_sizes_are_as_published() {
    for (payload, count, stride, bytes) in [
        (8, 2, 16, 8192 + 32 + 64),
        (9, 2, 32, 8192 + 64 + 64),
        (56, 1024, 64, 8192 + 65_536 + 64),
        (57, 1024, 128, 8192 + 131_072 + 64),
        (4088, 4, 4160, 8192 + 16_640 + 64),
        (16_777_152, 2, 16_777_216 - 64 + 64 + 64, 8192 + 2 * 16_777_280 + 64),
    ] {
        let geometry = Geometry::try_new(payload, count).unwrap();
        assert_eq!(geometry.stride(), stride, "{payload} x {count}");
        assert_eq!(geometry.segment_bytes(), bytes, "{payload} x {count}");
        assert_eq!(geometry.slot_offset(u64::from(count) + 1), 8192 + stride);
    }
}

#[test]
fn slots_for_throughput_lie_as_close_as_their_words_allow() {
    for (payload, stride) in [(8, 16), (9, 24), (56, 64), (64, 72), (100, 112), (4088, 4160)] {
        let geometry = Geometry::for_profile(payload, 4, Profile::Throughput).unwrap();
        assert_eq!(geometry.stride(), stride, "{payload}");
    }
}

#[test]
fn three_messages_and_the_end_leave_the_published_bytes() {
    let geometry = Geometry::try_new(8, 4).unwrap();
    let segment = Recorder::new(usize::try_from(geometry.segment_bytes()).unwrap());
    let consumer = Recorder::new(layout::CONSUMER_SEGMENT_BYTES);
    let mut writer = Writer::new(segment.clone(), geometry, WaitMode::Spin, 4, 4);
    consumer.store_release(layout::C_RELEASED, 4);
    writer.join(consumer.clone(), 9);
    let mut reader = Reader::new(consumer.clone(), geometry, WaitMode::Spin, 4, 9);
    reader.join(segment.clone());
    for message in [&b"one"[..], b"", b"0123456789abc"] {
        let span = writer.try_reserve(message.len()).unwrap().unwrap();
        writer.write(&span, 0, message);
        writer.commit(&span);
    }
    while let Some(laneway_shm::ring::Found::Message(span)) = reader.poll().unwrap() {
        reader.release(&span);
    }
    assert!(writer.try_end().unwrap());
    let expected = "\
01000: 09 00 00 00 00 00 00 00 03 00 00 00 00 00 00 00
01010: 10 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
01100: 09 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
02000: 00 00 00 03 03 00 00 00 6f 6e 65 00 00 00 00 00
02010: 00 00 00 01 02 00 00 00 00 00 00 00 00 00 00 00
02020: 08 00 00 02 02 00 00 00 30 31 32 33 34 35 36 37
02030: 05 00 00 01 02 00 00 00 38 39 61 62 63 00 00 00
";
    assert_eq!(dump(&segment.0.borrow()), expected);
    let cursor = "\
00200: 08 00 00 00 00 00 00 00 03 00 00 00 00 00 00 00
00210: 10 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
";
    assert_eq!(dump(&consumer.0.borrow()), cursor);
}
