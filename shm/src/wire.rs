//! The frames of the attach protocol, as bytes and as values.
//!
//! Pure. Little-endian, fixed layout per kind, one frame per packet. Every field is checked where
//! it enters; a frame with a byte too few or too many is refused. Both ends of the socket use
//! this one codec, so that they cannot drift apart.

mod fields;

use crate::distance::Relation;
use crate::error::{FrameError, SegmentError};
use crate::geometry::Geometry;
use crate::ring::{Policy, Profile, Start};
use crate::roster::Reason;

use fields::{Reader, Writer, field, reason_byte, relation_byte, role_byte, start_byte};

/// `LNWY`, the first word of every frame.
pub const MAGIC: u32 = u32::from_le_bytes(*b"LNWY");
/// The one version spoken here.
pub const VERSION: u16 = 1;
/// Largest frame, in bytes.
pub const FRAME_MAX: usize = 1024;
/// Longest lane name, in bytes.
pub const NAME_MAX: usize = 63;
/// Longest reason or message in a refusal, in bytes.
pub const TEXT_MAX: usize = 480;
/// "No core" in a cpu field.
pub const NO_CPU: u32 = u32::MAX;

/// Which end of a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// The end that writes messages.
    Producer,
    /// The end that reads them.
    Consumer,
}

impl Role {
    /// The role's name in logs and messages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Producer => "producer",
            Self::Consumer => "consumer",
        }
    }
}

/// By what right a client attaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// A one-time ticket.
    Ticket([u8; 16]),
    /// The lane's name; its uid rule decides.
    Name(String),
    /// A segment of an agent that restarted: the descriptor comes along.
    Resume {
        /// The lane.
        lane: u128,
        /// Generation or incarnation that the client owns.
        generation: u64,
        /// Secret from the grant.
        token: u128,
    },
}

/// Who sets the affinity of the attached thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pinning {
    /// Nobody.
    None,
    /// The library pins the attaching thread.
    Own,
    /// The agent pins it.
    Enforced,
}

/// What the agent grants: the segment's identity, the geometry, the core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Which end.
    pub role: Role,
    /// The lane's id.
    pub lane: u128,
    /// Generation (producer) or incarnation (consumer) of the segment.
    pub generation: u64,
    /// Random number in the segment's header.
    pub nonce: u128,
    /// Secret that proves the right to resume after an agent restart.
    pub token: u128,
    /// Payload of one slot, in bytes.
    pub slot_payload: u32,
    /// Number of slots.
    pub slot_count: u32,
    /// Size of the client's own segment, in bytes.
    pub size_bytes: u64,
    /// Page size of the client's own segment, in bytes.
    pub page_bytes: u64,
    /// Position of the first message (producer) or the first to receive (consumer).
    pub base: u64,
    /// Consumer's cursor as far as the agent knows it.
    pub released: u64,
    /// Whether the ends sleep when idle.
    pub park: bool,
    /// What the lane is tuned for.
    pub profile: Profile,
    /// Who pins.
    pub pinning: Pinning,
    /// Granted cpu or [`NO_CPU`].
    pub cpu: u32,
    /// Isolation grade of the core: `A` to `D`.
    pub grade: u8,
    /// What a broadcast lane does about slow readers; `None` for a lane with one consumer.
    pub broadcast: Option<Policy>,
    /// Where the reader of a broadcast lane asked to start.
    pub start: Start,
    /// What the cores of both ends have in common; `None` if an end has no core.
    pub relation: Option<Relation>,
}

impl Grant {
    /// The arithmetic of the lane's slots.
    ///
    /// # Errors
    /// A geometry outside the limits.
    pub fn geometry(&self) -> Result<Geometry, SegmentError> {
        Geometry::for_profile(self.slot_payload, self.slot_count, self.profile)
    }
}

/// A peer's segment, as announced with its descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerSegment {
    /// Generation or incarnation of the segment.
    pub generation: u64,
    /// Random number in its header.
    pub nonce: u128,
    /// Its base or start position.
    pub base: u64,
    /// Its size, in bytes.
    pub size_bytes: u64,
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Client: I want this end.
    Hello {
        /// Which end.
        role: Role,
        /// By what right.
        claim: Claim,
        /// The attaching thread's id in its own pid namespace.
        thread: u32,
        /// What its messages are, or 0 from a client that does not say.
        schema: u64,
        /// Where a reader of a broadcast lane wants to start.
        start: Start,
        /// Whether it wants a lifeline to each of its peers.
        lifeline: bool,
    },
    /// Client: my segment is mapped; seal it.
    Mapped,
    /// Client: I am done with a generation.
    Drained {
        /// The generation.
        generation: u64,
    },
    /// Client: I found myself on another core and went back.
    Drifted {
        /// How often so far.
        count: u64,
    },
    /// Client: goodbye.
    Bye,
    /// Resumed client: a segment that I read (one descriptor), for the agent to hold again.
    Present {
        /// Whose segment.
        role: Role,
        /// Its generation or incarnation.
        number: u64,
    },
    /// Producer: this reader holds the lane; 0 says that nobody does any more.
    Held {
        /// The reader's number.
        reader: u64,
        /// Since how long, in milliseconds.
        held_ms: u64,
    },
    /// Producer: I gave this reader up.
    GivenUp {
        /// The reader's number.
        reader: u64,
        /// What was committed then.
        at: u64,
        /// Why.
        reason: Reason,
    },
    /// Agent: here is your segment (one descriptor).
    Grant(Box<Grant>),
    /// Agent: your segment is sealed; go.
    Live,
    /// Agent: no.
    Refused {
        /// Stable reason.
        reason: String,
        /// What to do about it.
        message: String,
    },
    /// Agent to consumer: a generation's segment (one descriptor).
    Generation(PeerSegment),
    /// Agent to producer: the consumer's segment (one descriptor).
    Join(PeerSegment),
    /// Agent to consumer: a generation ended there.
    Ended {
        /// The generation.
        generation: u64,
        /// Position after its last message.
        end: u64,
    },
    /// Agent to producer: the consumer is gone.
    PeerGone,
    /// Agent: the lane is deleted.
    Revoked,
    /// Agent to the producer of a broadcast lane: a reader's segment (one descriptor).
    Reader {
        /// The segment.
        segment: PeerSegment,
        /// Where the reader wants to start.
        start: Start,
    },
    /// Agent to the producer of a broadcast lane: a reader is gone.
    ReaderGone {
        /// Its number.
        number: u64,
    },
    /// Agent to the producer of a broadcast lane: you know every reader that there was when you
    /// became live.
    Gathered,
    /// Agent: your half of the lifeline to a peer (one descriptor), as a rule told before the
    /// peer's segment is.
    Lifeline {
        /// Which end the peer is.
        role: Role,
        /// Generation or incarnation of its segment.
        number: u64,
    },
}

impl Frame {
    /// The frame's name in errors and logs.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Hello { .. } => "HELLO",
            Self::Mapped => "MAPPED",
            Self::Drained { .. } => "DRAINED",
            Self::Drifted { .. } => "DRIFTED",
            Self::Bye => "BYE",
            Self::Present { .. } => "PRESENT",
            Self::Grant(_) => "GRANT",
            Self::Live => "LIVE",
            Self::Refused { .. } => "REFUSED",
            Self::Generation(_) => "GENERATION",
            Self::Join(_) => "JOIN",
            Self::Ended { .. } => "ENDED",
            Self::PeerGone => "PEER_GONE",
            Self::Revoked => "REVOKED",
            Self::Held { .. } => "HELD",
            Self::GivenUp { .. } => "GIVEN_UP",
            Self::Reader { .. } => "READER",
            Self::ReaderGone { .. } => "READER_GONE",
            Self::Gathered => "GATHERED",
            Self::Lifeline { .. } => "LIFELINE",
        }
    }

    /// Descriptors that must come with the frame. A resuming HELLO carries the client's segment.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        match self {
            Self::Grant(_) | Self::Generation(_) | Self::Join(_) | Self::Present { .. } => 1,
            Self::Reader { .. } | Self::Lifeline { .. } => 1,
            Self::Hello { claim: Claim::Resume { .. }, .. } => 1,
            _ => 0,
        }
    }

    /// The frame's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer(Vec::with_capacity(160));
        out.u32(MAGIC);
        out.u16(VERSION);
        match self {
            Self::Hello { role, claim, thread, schema, start, lifeline } => {
                out.u16(1);
                out.u8(role_byte(*role));
                out.u32(*thread);
                encode_claim(&mut out, claim);
                out.u64(*schema);
                out.u8(start_byte(*start));
                out.u8(u8::from(*lifeline));
            }
            Self::Mapped => out.u16(2),
            Self::Drained { generation } => {
                out.u16(3);
                out.u64(*generation);
            }
            Self::Drifted { count } => {
                out.u16(4);
                out.u64(*count);
            }
            Self::Bye => out.u16(5),
            Self::Present { role, number } => {
                out.u16(6);
                out.u8(role_byte(*role));
                out.u64(*number);
            }
            Self::Held { reader, held_ms } => {
                out.u16(7);
                out.u64(*reader);
                out.u64(*held_ms);
            }
            Self::GivenUp { reader, at, reason } => {
                out.u16(8);
                out.u64(*reader);
                out.u64(*at);
                out.u8(reason_byte(*reason));
            }
            _ => self.encode_of_agent(&mut out),
        }
        out.0
    }

    /// The frames that only the agent sends.
    fn encode_of_agent(&self, out: &mut Writer) {
        match self {
            Self::Grant(grant) => {
                out.u16(16);
                encode_grant(out, grant);
            }
            Self::Live => out.u16(17),
            Self::Refused { reason, message } => {
                out.u16(18);
                out.text(reason);
                out.text(message);
            }
            Self::Generation(segment) => {
                out.u16(19);
                out.segment(segment);
            }
            Self::Join(segment) => {
                out.u16(20);
                out.segment(segment);
            }
            Self::Ended { generation, end } => {
                out.u16(21);
                out.u64(*generation);
                out.u64(*end);
            }
            Self::PeerGone => out.u16(22),
            Self::Revoked => out.u16(23),
            Self::Reader { segment, start } => {
                out.u16(24);
                out.segment(segment);
                out.u8(start_byte(*start));
            }
            Self::ReaderGone { number } => {
                out.u16(25);
                out.u64(*number);
            }
            Self::Gathered => out.u16(26),
            Self::Lifeline { role, number } => {
                out.u16(27);
                out.u8(role_byte(*role));
                out.u64(*number);
            }
            // The client's own are written by the caller.
            _ => {}
        }
    }

    /// Reads one frame.
    ///
    /// # Errors
    /// The first thing that is wrong, with what was found and what was expected.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        let mut input = Reader { bytes, at: 0 };
        let magic = input.u32()?;
        if magic != MAGIC {
            return Err(FrameError::Magic { found: magic });
        }
        let version = input.u16()?;
        if version != VERSION {
            return Err(FrameError::Version { found: version, lowest: VERSION, highest: VERSION });
        }
        let frame = Self::decode_body(&mut input)?;
        match bytes.len() - input.at {
            0 => Ok(frame),
            extra => Err(FrameError::Trailing { extra }),
        }
    }

    fn decode_body(input: &mut Reader<'_>) -> Result<Self, FrameError> {
        Ok(match input.u16()? {
            1 => {
                let role = input.role()?;
                let thread = input.u32()?;
                let claim = decode_claim(input)?;
                let (schema, start) = (input.u64()?, input.start()?);
                let lifeline = input.flag("lifeline")?;
                Self::Hello { role, thread, claim, schema, start, lifeline }
            }
            2 => Self::Mapped,
            3 => Self::Drained { generation: input.u64()? },
            4 => Self::Drifted { count: input.u64()? },
            5 => Self::Bye,
            6 => Self::Present { role: input.role()?, number: input.u64()? },
            7 => Self::Held { reader: input.u64()?, held_ms: input.u64()? },
            8 => Self::GivenUp { reader: input.u64()?, at: input.u64()?, reason: input.reason()? },
            16 => Self::Grant(Box::new(decode_grant(input)?)),
            17 => Self::Live,
            18 => Self::Refused {
                reason: input.text("reason", TEXT_MAX)?,
                message: input.text("message", TEXT_MAX)?,
            },
            19 => Self::Generation(input.segment()?),
            20 => Self::Join(input.segment()?),
            21 => Self::Ended { generation: input.u64()?, end: input.u64()? },
            22 => Self::PeerGone,
            23 => Self::Revoked,
            24 => Self::Reader { segment: input.segment()?, start: input.start()? },
            25 => Self::ReaderGone { number: input.u64()? },
            26 => Self::Gathered,
            27 => Self::Lifeline { role: input.role()?, number: input.u64()? },
            found => return Err(FrameError::Kind { found }),
        })
    }
}

fn encode_claim(out: &mut Writer, claim: &Claim) {
    match claim {
        Claim::Ticket(ticket) => {
            out.u8(1);
            out.0.extend_from_slice(ticket);
        }
        Claim::Name(name) => {
            out.u8(2);
            out.text(name);
        }
        Claim::Resume { lane, generation, token } => {
            out.u8(3);
            out.u128(*lane);
            out.u64(*generation);
            out.u128(*token);
        }
    }
}

fn decode_claim(input: &mut Reader<'_>) -> Result<Claim, FrameError> {
    match input.u8()? {
        1 => Ok(Claim::Ticket(input.array()?)),
        2 => Ok(Claim::Name(input.text("name", NAME_MAX)?)),
        3 => Ok(Claim::Resume {
            lane: input.u128()?,
            generation: input.u64()?,
            token: input.u128()?,
        }),
        found => Err(field("claim", u64::from(found), "1 to 3")),
    }
}

fn encode_grant(out: &mut Writer, grant: &Grant) {
    out.u8(role_byte(grant.role));
    out.u128(grant.lane);
    out.u64(grant.generation);
    out.u128(grant.nonce);
    out.u128(grant.token);
    out.u32(grant.slot_payload);
    out.u32(grant.slot_count);
    out.u64(grant.size_bytes);
    out.u64(grant.page_bytes);
    out.u64(grant.base);
    out.u64(grant.released);
    out.u8(u8::from(grant.park));
    out.u8(u8::from(grant.profile == Profile::Throughput));
    out.u8(match grant.pinning {
        Pinning::None => 0,
        Pinning::Own => 1,
        Pinning::Enforced => 2,
    });
    out.u32(grant.cpu);
    out.u8(grant.grade);
    let (policy, budget) = match grant.broadcast {
        None => (0, 0),
        Some(Policy::Gated) => (1, 0),
        Some(Policy::Evicting { budget }) => (2, budget),
        Some(Policy::Overwrite) => (3, 0),
    };
    out.u8(policy);
    out.u64(budget);
    out.u8(start_byte(grant.start));
    out.u8(relation_byte(grant.relation));
}

fn decode_grant(input: &mut Reader<'_>) -> Result<Grant, FrameError> {
    Ok(Grant {
        role: input.role()?,
        lane: input.u128()?,
        generation: input.u64()?,
        nonce: input.u128()?,
        token: input.u128()?,
        slot_payload: input.u32()?,
        slot_count: input.u32()?,
        size_bytes: input.u64()?,
        page_bytes: input.u64()?,
        base: input.u64()?,
        released: input.u64()?,
        park: input.flag("park")?,
        profile: match input.u8()? {
            0 => Profile::Latency,
            1 => Profile::Throughput,
            found => return Err(field("profile", u64::from(found), "0 or 1")),
        },
        pinning: match input.u8()? {
            0 => Pinning::None,
            1 => Pinning::Own,
            2 => Pinning::Enforced,
            found => return Err(field("pinning", u64::from(found), "0 to 2")),
        },
        cpu: input.u32()?,
        grade: match input.u8()? {
            grade @ b'A'..=b'D' => grade,
            found => return Err(field("grade", u64::from(found), "65 to 68")),
        },
        broadcast: match (input.u8()?, input.u64()?) {
            (0, 0) => None,
            (1, 0) => Some(Policy::Gated),
            (2, budget @ 1..) => Some(Policy::Evicting { budget }),
            (3, 0) => Some(Policy::Overwrite),
            (found, _) => return Err(field("broadcast", u64::from(found), "0 to 3")),
        },
        start: input.start()?,
        relation: input.relation()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn samples() -> Vec<Frame> {
        let segment = PeerSegment { generation: 3, nonce: 4, base: 5, size_bytes: 6 };
        let grant = Grant {
            role: Role::Consumer,
            lane: 1,
            generation: 2,
            nonce: 3,
            token: 4,
            slot_payload: 56,
            slot_count: 8,
            size_bytes: 4096,
            page_bytes: 4096,
            base: 9,
            released: 8,
            park: true,
            profile: Profile::Throughput,
            pinning: Pinning::Enforced,
            cpu: NO_CPU,
            grade: b'C',
            broadcast: None,
            start: Start::Newest,
            relation: Some(Relation::OtherNode),
        };
        let granted = |broadcast| {
            let grant = Grant { broadcast, start: Start::Oldest, relation: None, ..grant.clone() };
            Frame::Grant(Box::new(grant))
        };
        let hello = |claim| Frame::Hello {
            role: Role::Producer,
            claim,
            thread: 7,
            schema: 8,
            start: Start::Oldest,
            lifeline: true,
        };
        vec![
            hello(Claim::Ticket([7; 16])),
            hello(Claim::Name("orders".into())),
            hello(Claim::Resume { lane: 1, generation: 2, token: 3 }),
            Frame::Mapped,
            Frame::Drained { generation: 1 },
            Frame::Drifted { count: 2 },
            Frame::Bye,
            Frame::Present { role: Role::Consumer, number: 3 },
            granted(Some(Policy::Gated)),
            granted(Some(Policy::Evicting { budget: 5 })),
            granted(Some(Policy::Overwrite)),
            Frame::Grant(Box::new(grant)),
            Frame::Held { reader: 1, held_ms: 2 },
            Frame::GivenUp { reader: 1, at: 2, reason: Reason::Behind },
            Frame::GivenUp { reader: 1, at: 2, reason: Reason::Lied },
            Frame::Reader { segment, start: Start::Oldest },
            Frame::ReaderGone { number: 4 },
            Frame::Gathered,
            Frame::Lifeline { role: Role::Consumer, number: 5 },
            Frame::Live,
            Frame::Refused { reason: "ROLE_TAKEN".into(), message: "wait".into() },
            Frame::Generation(segment),
            Frame::Join(segment),
            Frame::Ended { generation: 1, end: 2 },
            Frame::PeerGone,
            Frame::Revoked,
        ]
    }

    #[test]
    fn every_frame_survives_the_wire() {
        for frame in samples() {
            let bytes = frame.encode();
            assert!(bytes.len() <= FRAME_MAX);
            assert_eq!(Frame::decode(&bytes), Ok(frame));
        }
    }

    #[test]
    fn a_frame_cut_anywhere_or_with_a_byte_too_many_is_refused() {
        for frame in samples() {
            let mut bytes = frame.encode();
            for cut in 0..bytes.len() {
                assert!(Frame::decode(&bytes[..cut]).is_err(), "{} cut at {cut}", frame.name());
            }
            bytes.push(0);
            assert_eq!(Frame::decode(&bytes), Err(FrameError::Trailing { extra: 1 }));
        }
    }

    #[test]
    fn wrong_magic_version_and_kind_are_told_apart() {
        let mut bytes = Frame::Mapped.encode();
        bytes[6] = 99;
        assert_eq!(Frame::decode(&bytes), Err(FrameError::Kind { found: 99 }));
        bytes[4] = 9;
        assert!(matches!(Frame::decode(&bytes), Err(FrameError::Version { found: 9, .. })));
        bytes[0] = 0;
        assert!(matches!(Frame::decode(&bytes), Err(FrameError::Magic { .. })));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Frame::decode(&bytes);
            let mut framed = Frame::Mapped.encode();
            framed.truncate(6);
            framed.extend_from_slice(&bytes);
            let _ = Frame::decode(&framed);
        }
    }
}
