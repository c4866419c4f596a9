//! The format, pinned: words and rules that two versions of this crate must agree on. Its bytes
//! are in `tests/golden.rs`.
//!
//! A failure here means that lanes of the old and the new build cannot share a segment. Change
//! the numbers together with `layout::VERSION`, never alone.

use laneway_shm::cursor::{CommitWord, Kind, SlotState, read_slot};
use laneway_shm::geometry::{self, Geometry};
use laneway_shm::layout::{self, Header};
use laneway_shm::ring::Profile;
use laneway_shm::{SegmentError, memfd};

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
    // Every offset is asserted where it is defined, at compile time.
    assert_eq!((layout::COMPAT_KNOWN, geometry::WORD_BYTES), (0, 8));
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
fn an_unknown_incompatible_feature_is_refused_by_name_and_a_compatible_one_is_ignored() {
    let expected = header(layout::KIND_PRODUCER);
    for bit in 0..64 {
        let mut found = expected.words();
        found[4] = 1 << bit;
        assert!(expected.check(&found).is_ok(), "compatible feature {bit}");
        found[3] = 1 << bit;
        match expected.check(&found) {
            Err(SegmentError::Header { field: "incompat", found, .. }) => {
                assert_eq!(found, 1 << bit);
            }
            other => panic!("incompatible feature {bit}: {other:?}"),
        }
    }
}

/// A segment in whose header something was written before its writer got it.
fn altered(kind: u64, offset: usize, value: u64) -> Result<(), SegmentError> {
    let size_bytes = if kind == layout::KIND_PRODUCER { 12288 } else { 4096 };
    let header = Header { size_bytes, ..header(kind) };
    let draft = memfd::Draft::create_with(header, 4096, None, &[(offset, value)])?;
    draft.seal()?.map().map(drop)
}

#[test]
fn a_reserved_byte_that_is_not_zero_is_refused_unless_a_later_version_gave_it_a_meaning() {
    for kind in [layout::KIND_PRODUCER, layout::KIND_CONSUMER] {
        let reserved = layout::reserved(kind);
        assert!(altered(kind, reserved.end, 7).is_ok(), "what is used may have any value");
        for offset in [reserved.start, reserved.end - 8] {
            match altered(kind, offset, 7) {
                Err(SegmentError::Header { field: "reserved", found: 7, expected: 0 }) => {}
                other => panic!("{offset}: {other:?}"),
            }
        }
    }
    let mut words = header(layout::KIND_PRODUCER).words();
    assert!(!layout::is_later(&words));
    words[1] += 1;
    assert!(layout::is_later(&words), "a later minor version");
    words[1] -= 1;
    words[4] = 1;
    assert!(layout::is_later(&words), "a feature that may be ignored");
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
