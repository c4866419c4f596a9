//! Golden bytes: what stands in a lane's segments and in the frames of the attach protocol.
//!
//! The dumps in `tests/golden/` are what other versions and other languages read. A difference is
//! a change of the format: `BLESS=1 cargo test -p laneway-shm --test golden` writes the dumps anew
//! after one that is meant, together with the version that goes with it (`shm/src/layout.rs`).

use std::fmt::Write as _;

use laneway_shm::cursor::{CommitWord, Kind};
use laneway_shm::geometry::Geometry;
use laneway_shm::layout::{self, Header};
use laneway_shm::memory::OwnedMemory;
use laneway_shm::ring::{Found, Reader, Writer};
use laneway_shm::wire::{Claim, Frame, Grant, NO_CPU, PeerSegment, Pinning, Role};
use laneway_shm::{Policy, Profile, Reason, Relation, Start, WaitMode};

mod oracle;

use oracle::heap::{Heap, InOneThread};
use oracle::ring::World;

/// Lines of 16 bytes with their offset; lines of zeros are left out.
fn dump(text: &mut String, title: &str, bytes: &[u8]) {
    writeln!(text, "{title}").expect("a string grows");
    for (index, line) in bytes.chunks(16).enumerate() {
        if line.iter().any(|&byte| byte != 0) {
            write!(text, "  {:05x}:", index * 16).expect("a string grows");
            line.iter().for_each(|byte| write!(text, " {byte:02x}").expect("a string grows"));
            text.push('\n');
        }
    }
}

fn compare(name: &str, found: &str) {
    let path = format!("{}/tests/golden/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, found).expect("the tree is writable");
    }
    let golden = std::fs::read_to_string(&path).expect("a dump of the tree");
    assert_eq!(golden, found, "the format changed; if that is meant: BLESS=1, and a new version");
}

fn header(kind: u64, geometry: &Geometry, base: u64) -> Header {
    Header {
        kind,
        lane: 0x0011_2233_4455_6677_8899_aabb_ccdd_eeff,
        generation: 7,
        nonce: 0xf0e0_d0c0_b0a0_9080_7060_5040_3020_1000,
        slot_stride: geometry.stride() as u64,
        slot_payload: u64::from(geometry.payload()),
        slot_count: geometry.count(),
        base_position: base,
        size_bytes: match kind {
            layout::KIND_PRODUCER => geometry.segment_bytes().next_multiple_of(4096),
            _ => layout::CONSUMER_SEGMENT_BYTES as u64,
        },
    }
}

/// A segment as its maker leaves it.
fn fresh(heap: Heap, header: &Header) -> Heap {
    for (index, word) in header.words().into_iter().enumerate() {
        heap.store_relaxed(index * 8, word);
    }
    heap
}

/// Sends what fits, and releases it.
fn travel(writer: &mut Writer<Heap, Heap>, reader: &mut Reader<Heap, Heap>, messages: &[&[u8]]) {
    for message in messages {
        let span = writer.try_reserve(message.len()).expect("honest").expect("there is room");
        writer.write(&span, 0, message);
        writer.commit(&span);
    }
    while let Some(Found::Message(span)) = reader.poll().expect("honest") {
        reader.release(&span);
    }
}

/// Short, empty and long messages, a batch of two, and the end, in the second lap of a lane.
fn between_two(text: &mut String, profile: Profile, wait: WaitMode) {
    // Of a length at which the two profiles differ in where slots lie.
    let geometry = Geometry::for_profile(10, 4, profile).expect("legal");
    let (base, world) = (4, InOneThread(geometry));
    let producer = fresh(world.producer(), &header(layout::KIND_PRODUCER, &geometry, base));
    let consumer = fresh(world.consumer(), &header(layout::KIND_CONSUMER, &geometry, base));
    consumer.store_release(layout::C_RELEASED, base);
    let mut writer = Writer::new(producer.clone(), geometry, wait, base, base);
    let mut reader = Reader::new(consumer.clone(), geometry, wait, base, 9);
    writer.join(consumer.clone(), 9);
    reader.join(producer.clone());
    travel(&mut writer, &mut reader, &[b"one", b"", b"0123456789abc"]);
    if wait == WaitMode::Park {
        // Both have slept once, and the consumer sleeps now: it is rung for.
        writer.park(1, std::time::Duration::ZERO).expect("honest");
        reader.park(std::time::Duration::ZERO);
        consumer.store_u32(layout::C_PARKED, 3);
    }
    for message in [b"two", b"too"] {
        let span = writer.try_reserve(3).expect("honest").expect("there is room");
        writer.write(&span, 0, message);
        writer.stage(&span);
    }
    assert_eq!(writer.commit_batch(), 2);
    assert!(writer.try_end().expect("honest"));
    dump(text, &format!("producer, {profile:?}, {wait:?}"), &producer.0.borrow());
    dump(text, &format!("consumer, {profile:?}, {wait:?}"), &consumer.0.borrow());
}

/// A lane that loses: a reader that was given up, one that follows, marks of what is written next.
fn among_many(text: &mut String) {
    let geometry = Geometry::try_new(8, 8).expect("legal");
    let world = InOneThread(geometry);
    let producer = fresh(world.producer(), &header(layout::KIND_PRODUCER, &geometry, 0));
    let policy = Policy::Evicting { budget: 2 };
    let mut writer = Writer::broadcast(producer.clone(), geometry, WaitMode::Spin, 0, policy);
    let (slow, late) = (world.consumer(), world.consumer());
    assert_eq!(writer.admit(slow, 1, Start::Newest), Some(0));
    for number in 0..5u64 {
        let span = writer.try_reserve(8).expect("honest").expect("nobody is waited for");
        writer.write(&span, 0, &number.to_le_bytes());
        writer.commit(&span);
    }
    assert_eq!(writer.take_given_up().len(), 1);
    assert!(writer.admit(late, 2, Start::Oldest).is_some());
    writer.finish();
    dump(text, "producer of a broadcast lane that evicts", &producer.0.borrow());
    let consumer = fresh(world.consumer(), &header(layout::KIND_CONSUMER, &geometry, 0));
    Reader::<Heap, Heap>::new(consumer.clone(), geometry, WaitMode::Spin, 0, 3).leave();
    dump(text, "reader of a broadcast lane that has left", &consumer.0.borrow());
}

#[test]
fn segments_have_the_published_bytes() {
    let mut text = String::new();
    between_two(&mut text, Profile::Latency, WaitMode::Spin);
    between_two(&mut text, Profile::Throughput, WaitMode::Park);
    among_many(&mut text);
    compare("segments", &text);
}

#[test]
fn commit_words_have_the_published_bytes() {
    let mut text = String::new();
    for kind in [Kind::Data, Kind::More, Kind::End, Kind::Busy] {
        for (turn, len) in [(1, 0), (1, 56), (0x1122_3344, 8), (u32::MAX, 0xff_ffff)] {
            let word = CommitWord::new(turn, kind, len).0;
            let title = format!("{kind:?} of {len} bytes in turn {turn}");
            writeln!(text, "{title}: {:02x?}", word.to_le_bytes()).expect("a string grows");
        }
    }
    compare("commit_words", &text);
}

fn grant(broadcast: Option<Policy>) -> Frame {
    Frame::Grant(Box::new(Grant {
        role: Role::Consumer,
        lane: 0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10,
        generation: 2,
        nonce: 3,
        token: 4,
        slot_payload: 56,
        slot_count: 8,
        size_bytes: 8192,
        page_bytes: 4096,
        base: 9,
        released: 8,
        park: true,
        profile: Profile::Throughput,
        pinning: Pinning::Enforced,
        cpu: NO_CPU,
        grade: b'C',
        broadcast,
        start: Start::Oldest,
        relation: Some(Relation::SameL3),
    }))
}

fn frames() -> Vec<Frame> {
    let segment = PeerSegment { generation: 3, nonce: 4, base: 5, size_bytes: 6 };
    let hello = |role, claim| Frame::Hello {
        role,
        claim,
        thread: 7,
        schema: 8,
        start: Start::Oldest,
        lifeline: true,
    };
    vec![
        hello(Role::Producer, Claim::Ticket([7; 16])),
        hello(Role::Consumer, Claim::Name("orders".into())),
        hello(Role::Producer, Claim::Resume { lane: 1, generation: 2, token: 3 }),
        Frame::Mapped,
        Frame::Drained { generation: 1 },
        Frame::Drifted { count: 2 },
        Frame::Bye,
        Frame::Present { role: Role::Consumer, number: 3 },
        Frame::Held { reader: 1, held_ms: 2 },
        Frame::GivenUp { reader: 1, at: 2, reason: Reason::Behind },
        Frame::GivenUp { reader: 1, at: 2, reason: Reason::Lied },
        grant(None),
        grant(Some(Policy::Gated)),
        grant(Some(Policy::Evicting { budget: 5 })),
        grant(Some(Policy::Overwrite)),
        Frame::Live,
        Frame::Refused { reason: "ROLE_TAKEN".into(), message: "wait".into() },
        Frame::Generation(segment),
        Frame::Join(segment),
        Frame::Ended { generation: 1, end: 2 },
        Frame::PeerGone,
        Frame::Revoked,
        Frame::Reader { segment, start: Start::Newest },
        Frame::ReaderGone { number: 4 },
        Frame::Gathered,
        Frame::Lifeline { role: Role::Consumer, number: 5 },
    ]
}

#[test]
fn frames_have_the_published_bytes() {
    let mut text = String::new();
    for frame in frames() {
        let carried = frame.descriptors();
        let bytes = frame.encode();
        let title = format!("{}, {} bytes, {carried} descriptors", frame.name(), bytes.len());
        dump(&mut text, &title, &bytes);
        assert_eq!(Frame::decode(&bytes).as_ref(), Ok(&frame), "{title}");
    }
    compare("frames", &text);
}
