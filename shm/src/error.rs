//! Every way in which shared memory, a segment or an attach can disappoint, with the numbers.
//!
//! Owns the crate's error types. One enum per boundary; no variant means "something went wrong".

use std::io;
use std::time::Duration;

use thiserror::Error;

use crate::frozen::{FrozenError, FrozenFault};
use crate::roster::Reason;

/// Proof that the peer broke the protocol: an honest peer cannot produce any of these.
///
/// The handle that returns it is poisoned: every later call returns the same value, because
/// resynchronising with a liar would be a second protocol that nobody reviewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Corruption {
    /// A slot's turn is neither the expected one nor the one of the lap before.
    #[error("slot at position {position} carries turn {found}, expected {expected}")]
    Turn {
        /// Position of the slot in the lane.
        position: u64,
        /// Turn that a committed slot carries in this lap.
        expected: u32,
        /// Turn that was found.
        found: u32,
    },
    /// A commit word names a kind that this version does not know.
    #[error("slot at position {position} carries the unknown kind {found}")]
    Kind {
        /// Position of the slot in the lane.
        position: u64,
        /// The kind byte that was found.
        found: u8,
    },
    /// A slot claims more payload than it can hold, or a continued slot is not full.
    #[error("slot at position {position} claims {found} bytes of {limit}")]
    Length {
        /// Position of the slot in the lane.
        position: u64,
        /// Length that the slot claims, in bytes.
        found: u32,
        /// Payload of one slot, in bytes.
        limit: u32,
    },
    /// A message continues over more slots than were committed or than the ring has.
    #[error("message at position {position} continues past its {slots} committed slots")]
    Unfinished {
        /// Position of the message's first slot.
        position: u64,
        /// Slots that were found committed.
        slots: u64,
    },
    /// The consumer's cursor moved backwards or past what was committed.
    #[error("consumer released {found}, outside {lowest}..={committed}")]
    Released {
        /// Cursor that was found.
        found: u64,
        /// Last cursor that was accepted.
        lowest: u64,
        /// Messages' slots committed so far.
        committed: u64,
    },
    /// A committed message changed although its slots were not taken for a later lap.
    #[error("message at position {position} changed after its commit")]
    Rewritten {
        /// Position of the message's first slot.
        position: u64,
    },
    /// A reader was overrun, but is told to go on at a position that is not after its own.
    #[error("slot at position {position} was overrun, but the reader is told to go on at {found}")]
    Resume {
        /// Position of the reader.
        position: u64,
        /// Position according to the producer.
        found: u64,
    },
    /// A reader was let in at a position that it cannot start at.
    #[error("reader was let in at {found}, which is before {lowest} or beyond every lane")]
    JoinedAt {
        /// Position according to the producer.
        found: u64,
        /// Lowest position that makes sense.
        lowest: u64,
    },
    /// What came as a frozen payload is none.
    #[error("message at position {position} is no frozen payload: {fault}")]
    Frozen {
        /// Position of its slot.
        position: u64,
        /// What is wrong with it.
        fault: FrozenFault,
    },
    /// A generation that ended at `end` has an uncommitted slot before its end.
    #[error("generation ended at {end} but the slot at {position} was never committed")]
    Truncated {
        /// Position of the missing slot.
        position: u64,
        /// Position at which the generation ended.
        end: u64,
    },
}

/// Why a slot could not be reserved.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReserveError {
    /// No room now. More room appears when the consumer releases.
    #[error("ring is full: {free} of {slots} slots free, {asked} asked")]
    Full {
        /// Slots that the message needs.
        asked: u64,
        /// Slots free at the last look.
        free: u64,
        /// Slots of the ring.
        slots: u64,
    },
    /// The message can never fit.
    #[error("message of {asked_bytes} bytes exceeds the ring's {limit_bytes} bytes")]
    TooLarge {
        /// Size asked for, in bytes.
        asked_bytes: usize,
        /// Largest message of this lane, in bytes.
        limit_bytes: usize,
    },
    /// The room did not appear in time.
    #[error("no room within {waited:?}: the consumer {state}")]
    TimedOut {
        /// How long the call waited.
        waited: Duration,
        /// What is known of the consumer.
        state: PeerState,
    },
    /// The room did not appear in time, because a reader of the broadcast lane holds it.
    #[error("no room within {waited:?}: reader {reader} is {lag_slots} slots behind, for {held:?}")]
    Held {
        /// How long the call waited.
        waited: Duration,
        /// Number of the reader that is furthest behind.
        reader: u64,
        /// Slots that it has not released.
        lag_slots: u64,
        /// How long it has held the lane by now.
        held: Duration,
    },
    /// There is no room, and the process that could make some is gone. Told once, to an end of an
    /// async runtime; the next call waits for a successor.
    #[error("no room, and the consumer is gone; the next call waits for its successor")]
    PeerGone,
    /// The agent took the lane away.
    #[error("lane was revoked by the agent")]
    Revoked,
    /// The consumer broke the protocol.
    #[error("consumer broke the protocol: {0}")]
    Corrupt(#[from] Corruption),
}

impl ReserveError {
    /// Whether it was only time that ran out, as `TimedOut` and `Held` say: nothing is broken, and
    /// another try may find room.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::TimedOut { .. } | Self::Held { .. })
    }
}

/// Why no message came.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RecvError {
    /// The producer ended the stream, and everything before the end was received.
    #[error("stream ended at position {position}")]
    Closed {
        /// Position after the last message.
        position: u64,
    },
    /// Nothing came in time.
    #[error("no message within {waited:?}: the producer {state}")]
    TimedOut {
        /// How long the call waited.
        waited: Duration,
        /// What is known of the producer.
        state: PeerState,
    },
    /// The next message has another length than was asked for; it stays in the lane, or with a
    /// reader that may be overrun as its copy.
    #[error("the next message has {found} bytes, not {expected}: `recv` takes any length")]
    Length {
        /// Length of the message, in bytes.
        found: usize,
        /// Length that was asked for, in bytes.
        expected: usize,
    },
    /// The next message is longer than was asked for; it stays in the lane.
    #[error("the next message has {found} bytes, more than the {limit} that there is room for")]
    TooLong {
        /// Length of the message, in bytes.
        found: usize,
        /// Longest message that was asked for, in bytes.
        limit: usize,
    },
    /// The next message is a frozen payload, which this call does not take; it stays in the lane.
    #[error(
        "the message at {position} is a frozen payload of up to {bytes_max} bytes: use `recv_any`"
    )]
    Frozen {
        /// Position of its slot.
        position: u64,
        /// Its length in whole base pages, in bytes.
        bytes_max: u64,
    },
    /// A frozen payload will never come: its producer ended before this consumer was sent the
    /// descriptor, or there was no room for one here. The next call goes on behind it.
    #[error("the frozen payload at {position}, of up to {bytes_max} bytes, is lost")]
    FrozenLost {
        /// Position of its slot.
        position: u64,
        /// Its length in whole base pages, in bytes.
        bytes_max: u64,
    },
    /// A frozen payload is here and cannot be mapped; it stays in the lane.
    #[error("message at {position}: {source}; try again, or leave it out with `skip_frozen`")]
    FrozenFailed {
        /// Position of its slot.
        position: u64,
        /// Why not.
        source: FrozenError,
    },
    /// The producer of a broadcast lane was faster. The next call goes on half a ring behind it.
    #[error("{slots} slots were overwritten before position {position}: read faster or widen")]
    Lost {
        /// Slots that are gone; a message of one slot is one of them.
        slots: u64,
        /// Position of the next message.
        position: u64,
    },
    /// The producer of a broadcast lane no longer counts with this reader. One that is behind may
    /// go on, and is told from now on what it loses; one that lied may not.
    #[error("reader was given up ({reason:?}) at {position} when {at} was committed")]
    GivenUp {
        /// Why.
        reason: Reason,
        /// Position of this reader now.
        position: u64,
        /// What was committed then.
        at: u64,
    },
    /// The producer is gone without an end of the stream, and everything that it committed was
    /// received. Told once, to an end of an async runtime; the next call waits for a successor.
    #[error("producer is gone after position {position}; the next call waits for its successor")]
    PeerGone {
        /// Position after the last message.
        position: u64,
    },
    /// The agent took the lane away.
    #[error("lane was revoked by the agent")]
    Revoked,
    /// The producer broke the protocol.
    #[error("producer broke the protocol: {0}")]
    Corrupt(#[from] Corruption),
    /// The next generation's segment was refused.
    #[error("next generation was refused: {0}")]
    Segment(#[from] SegmentError),
}

/// What one end knows of the other. A paused peer is `Live`: silence is never death.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerState {
    /// No peer has attached yet.
    Absent,
    /// The peer is attached, as far as the agent knows.
    Live,
    /// The peer is gone: its process ended or it detached.
    Gone,
}

impl std::fmt::Display for PeerState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Absent => "has not attached yet",
            Self::Live => "is attached",
            Self::Gone => "is gone",
        })
    }
}

/// Why a segment could not be made, proven or mapped.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SegmentError {
    /// The geometry is outside the format's limits.
    #[error("{field} is {found}, allowed is {allowed}")]
    Geometry {
        /// Field of the specification.
        field: &'static str,
        /// Value that was given.
        found: u64,
        /// Range that is allowed, in words.
        allowed: &'static str,
    },
    /// The kernel has no such page size.
    #[error("page size {bytes} bytes is not one of 4096, 2097152, 1073741824")]
    PageSize {
        /// Page size asked for, in bytes.
        bytes: u64,
    },
    /// The pool or the memory ran out while allocating.
    #[error("no memory for {size_bytes} bytes in pages of {page_bytes} bytes: {source}")]
    NoMemory {
        /// Size of the segment, in bytes.
        size_bytes: u64,
        /// Page size, in bytes.
        page_bytes: u64,
        /// The kernel's word.
        source: io::Error,
    },
    /// Seals are missing, so the other side could still take bytes away.
    #[error("segment carries seals {found:#x}, required are {required:#x}")]
    Seals {
        /// Seals found.
        found: i32,
        /// Seals required.
        required: i32,
    },
    /// The size differs from what the agent said.
    #[error("segment has {found} bytes, the grant says {expected}")]
    Size {
        /// Size found, in bytes.
        found: u64,
        /// Size expected, in bytes.
        expected: u64,
    },
    /// Pages are missing: touching them could raise SIGBUS.
    #[error("segment has {present} of {expected} bytes present")]
    Holes {
        /// Bytes that are allocated.
        present: u64,
        /// Size of the segment, in bytes.
        expected: u64,
    },
    /// A header field differs from what the agent said.
    #[error("header field {field} is {found:#x}, the grant says {expected:#x}")]
    Header {
        /// Name of the field.
        field: &'static str,
        /// Value found.
        found: u64,
        /// Value expected.
        expected: u64,
    },
    /// A system call failed.
    #[error("{call} failed: {source}")]
    Os {
        /// Name of the call.
        call: &'static str,
        /// The kernel's word.
        source: io::Error,
    },
}

impl SegmentError {
    pub(crate) fn os(call: &'static str) -> impl FnOnce(nix::Error) -> Self {
        move |errno| Self::Os { call, source: errno.into() }
    }

    pub(crate) fn io(call: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Os { call, source }
    }
}

/// Why an attach failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AttachError {
    /// The agent's socket could not be reached.
    #[error("cannot connect to {path}: {source}; is the agent running and the path mounted?")]
    Connect {
        /// Path of the socket.
        path: String,
        /// The kernel's word.
        source: io::Error,
    },
    /// The agent refused, with its reason.
    #[error("agent refused ({reason}): {message}")]
    Refused {
        /// Stable name of the reason, such as `TICKET_INVALID`.
        reason: String,
        /// What to do about it.
        message: String,
    },
    /// The agent closed the connection in the middle of the attach.
    #[error("agent closed the connection while the client waited for {waiting_for}")]
    Disconnected {
        /// Frame that was expected.
        waiting_for: &'static str,
    },
    /// The agent did not answer in time.
    #[error("agent sent no {waiting_for} within {waited:?}")]
    TimedOut {
        /// Frame that was expected.
        waiting_for: &'static str,
        /// How long the client waited.
        waited: Duration,
    },
    /// The text is no ticket.
    #[error(
        "a ticket has 32 hexadecimal digits, this text has {found} characters; \
         `laneway lane ticket` prints one"
    )]
    NoTicket {
        /// Characters found, some of them perhaps no digits.
        found: usize,
    },
    /// A frame that this version cannot read.
    #[error("agent sent a frame that cannot be read: {0}")]
    Frame(#[from] FrameError),
    /// A frame arrived out of turn.
    #[error("agent sent {found} while the client waited for {waiting_for}")]
    Unexpected {
        /// Frame that was found.
        found: &'static str,
        /// Frame that was expected.
        waiting_for: &'static str,
    },
    /// The lane is of another kind.
    #[error("the lane {lane}: attach it with `{needed}` or `receiver`, and a new ticket")]
    WrongHandle {
        /// What the lane does.
        lane: &'static str,
        /// The call that fits.
        needed: &'static str,
    },
    /// An end of an async runtime cannot be rung for by a peer that only spins.
    #[error("the lane's ends spin: an async end needs one whose ends sleep (`--wait park`)")]
    SpinLane,
    /// The segment did not stand up to the client's own check.
    #[error("segment from the agent was refused: {0}")]
    Segment(#[from] SegmentError),
    /// The thread could not be pinned to the granted core.
    #[error("cannot pin to cpu {cpu}: {source}; attach with pinning off, or widen the cpuset")]
    Pin {
        /// The granted cpu.
        cpu: u32,
        /// The kernel's word.
        source: io::Error,
    },
    /// A system call failed.
    #[error("{call} failed: {source}")]
    Os {
        /// Name of the call.
        call: &'static str,
        /// The kernel's word.
        source: io::Error,
    },
}

/// Why bytes on the attach socket are no frame.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FrameError {
    /// Fewer bytes than the frame's fields need.
    #[error("frame is {found} bytes, at least {expected} needed")]
    Truncated {
        /// Bytes found.
        found: usize,
        /// Bytes needed.
        expected: usize,
    },
    /// More bytes than the frame's fields need.
    #[error("frame has {extra} bytes after its last field")]
    Trailing {
        /// Bytes left over.
        extra: usize,
    },
    /// The first word is not the protocol's.
    #[error("frame starts with {found:#x}, which is not the attach protocol")]
    Magic {
        /// Word found.
        found: u32,
    },
    /// A version outside the supported range.
    #[error("protocol version {found} is not supported, {lowest} to {highest} are")]
    Version {
        /// Version found.
        found: u16,
        /// Lowest version spoken here.
        lowest: u16,
        /// Highest version spoken here.
        highest: u16,
    },
    /// An unknown frame kind.
    #[error("frame kind {found} is not known")]
    Kind {
        /// Kind found.
        found: u16,
    },
    /// A field outside its range.
    #[error("field {field} has the value {found}, allowed is {allowed}")]
    Field {
        /// Name of the field.
        field: &'static str,
        /// Value found.
        found: u64,
        /// Range that is allowed, in words.
        allowed: &'static str,
    },
    /// A text field that is not UTF-8.
    #[error("field {field} is not valid UTF-8")]
    Text {
        /// Name of the field.
        field: &'static str,
    },
    /// The number of file descriptors does not fit the frame.
    #[error("frame came with {found} file descriptors, expected {expected}")]
    Descriptors {
        /// Descriptors found.
        found: usize,
        /// Descriptors expected.
        expected: usize,
    },
}
