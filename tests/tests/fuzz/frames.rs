//! Packets of the attach protocol, from an input: any frame with any numbers, and any bytes.

use laneway_shm::wire::{Claim, Frame, Grant, NO_CPU, PeerSegment, Pinning, Role};
use laneway_shm::{Policy, Profile, Reason, Relation, Start};
use laneway_tests::fuzz::Input;

/// What comes with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carried {
    Nothing,
    /// A segment that fits what the frame says, as far as one can be made.
    Fitting,
    /// Some other file.
    Stranger,
    Two,
}

/// One packet.
#[derive(Debug)]
pub(crate) struct Packet {
    pub(crate) frame: Option<Frame>,
    pub(crate) bytes: Vec<u8>,
    pub(crate) carried: Carried,
}

fn role(input: &mut Input<'_>) -> Role {
    if input.byte().is_multiple_of(2) { Role::Producer } else { Role::Consumer }
}

fn start(input: &mut Input<'_>) -> Start {
    if input.byte().is_multiple_of(2) { Start::Newest } else { Start::Oldest }
}

fn relation(input: &mut Input<'_>) -> Option<Relation> {
    Some(match input.byte() % 7 {
        0 => return None,
        1 => Relation::SameCpu,
        2 => Relation::SameCore,
        3 => Relation::SameL2,
        4 => Relation::SameL3,
        5 => Relation::SameNode,
        _ => Relation::OtherNode,
    })
}

fn long(input: &mut Input<'_>) -> u128 {
    u128::from(input.number()) << 64 | u128::from(input.number())
}

fn segment(input: &mut Input<'_>) -> PeerSegment {
    PeerSegment {
        generation: input.number(),
        nonce: long(input),
        base: input.number(),
        size_bytes: 4096 * input.number().min(8),
    }
}

fn hello(input: &mut Input<'_>) -> Frame {
    let role = role(input);
    let claim = match input.byte() % 4 {
        0 => Claim::Name("orders".to_owned()),
        1 => Claim::Name("quotes".to_owned()),
        2 => Claim::Ticket([input.byte(); 16]),
        _ => Claim::Resume { lane: long(input), generation: input.number(), token: long(input) },
    };
    let (thread, schema) = (u32::from(input.byte()), u64::from(input.byte() % 3));
    let start = start(input);
    Frame::Hello { role, claim, thread, schema, start, lifeline: input.byte() % 4 == 3 }
}

/// A grant of a small lane: whoever gets it maps what it says.
fn grant(input: &mut Input<'_>) -> Grant {
    let broadcast = match input.byte() % 8 {
        0 => Some(Policy::Gated),
        1 => Some(Policy::Evicting { budget: 1 + input.number() % 8 }),
        2 => Some(Policy::Overwrite),
        _ => None,
    };
    Grant {
        role: role(input),
        lane: long(input),
        generation: input.number(),
        nonce: long(input),
        token: long(input),
        slot_payload: u32::from(input.byte()),
        slot_count: 1 << (input.byte() % 6),
        size_bytes: 4096 * input.number().min(16),
        page_bytes: 4096,
        base: input.number(),
        released: input.number(),
        park: input.byte() % 2 == 1,
        profile: if input.byte().is_multiple_of(2) {
            Profile::Latency
        } else {
            Profile::Throughput
        },
        pinning: Pinning::None,
        cpu: NO_CPU,
        grade: b'D',
        broadcast,
        start: start(input),
        relation: relation(input),
    }
}

fn frame(input: &mut Input<'_>) -> Frame {
    match input.byte() % 25 {
        0..4 => hello(input),
        4..6 => Frame::Mapped,
        6 => Frame::Drained { generation: input.number() },
        7 => Frame::Drifted { count: input.number() },
        8 => Frame::Bye,
        9 => Frame::Present { role: role(input), number: input.number() },
        10 => Frame::Held { reader: input.number(), held_ms: input.number() },
        11 => {
            let (reader, at) = (input.number(), input.number());
            let reason = if input.byte().is_multiple_of(2) { Reason::Behind } else { Reason::Lied };
            Frame::GivenUp { reader, at, reason }
        }
        12..15 => Frame::Grant(Box::new(grant(input))),
        15 => Frame::Live,
        16 => {
            let text = String::from_utf8_lossy(&input.bytes()).into_owned();
            Frame::Refused { reason: "ROLE_TAKEN".to_owned(), message: text }
        }
        17 => Frame::Generation(segment(input)),
        18 => Frame::Join(segment(input)),
        19 => Frame::Ended { generation: input.number(), end: input.number() },
        20 => Frame::PeerGone,
        21 => Frame::Reader { segment: segment(input), start: start(input) },
        22 => Frame::ReaderGone { number: input.number() },
        24 => Frame::Lifeline { role: role(input), number: input.number() },
        _ => [Frame::Revoked, Frame::Gathered][usize::from(input.byte() % 2)].clone(),
    }
}

/// The next packet: a frame with what it must carry, mostly.
pub(crate) fn packet(input: &mut Input<'_>) -> Packet {
    match input.byte() {
        0..200 => {
            let frame = frame(input);
            let due = if frame.descriptors() > 0 { Carried::Fitting } else { Carried::Nothing };
            Packet { bytes: frame.encode(), frame: Some(frame), carried: due }
        }
        200..220 => {
            let frame = frame(input);
            let other = [Carried::Nothing, Carried::Stranger, Carried::Two, Carried::Fitting];
            let carried = other[usize::from(input.byte() % 4)];
            Packet { bytes: frame.encode(), frame: Some(frame), carried }
        }
        220..240 => {
            let mut bytes = frame(input).encode();
            let at = usize::from(input.byte()) % bytes.len();
            bytes[at] = input.byte();
            bytes.truncate(bytes.len() - usize::from(input.byte() == 0));
            Packet { bytes, frame: None, carried: Carried::Nothing }
        }
        _ => Packet { bytes: input.bytes(), frame: None, carried: Carried::Nothing },
    }
}
