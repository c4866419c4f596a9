//! Why a payload could not be frozen, and what was wrong with a file that claims to be one.

use thiserror::Error;

use crate::error::SegmentError;

/// Why a payload could not be frozen or taken.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FrozenError {
    /// The payload is empty or too large.
    #[error("a frozen payload has 1 to {highest} bytes, not {asked}: send others by the ring")]
    Length {
        /// Length that was asked for, in bytes.
        asked: usize,
        /// Largest length, in bytes.
        highest: usize,
    },
    /// Something in this process could still write the payload.
    #[error("{bytes} bytes are still written by somebody: let input and output into them end")]
    StillWritable {
        /// Length of the payload, in bytes.
        bytes: usize,
    },
    /// The file that was received is no frozen payload.
    #[error("not a frozen payload: {0}")]
    Fault(#[from] FrozenFault),
    /// The memory could not be made, proven or mapped here. A received payload is still there.
    #[error("frozen payload: {0}")]
    Segment(#[from] SegmentError),
}

/// What is wrong with a file that claims to be a frozen payload. No honest sender makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FrozenFault {
    /// The lane is a broadcast lane.
    #[error("a broadcast lane carries none")]
    Broadcast,
    /// The file was announced with another length than its slot.
    #[error("its file was announced with {found} pages, its slot says {expected}")]
    Announced {
        /// Base pages of the announcement.
        found: u64,
        /// Base pages that the slot says.
        expected: u64,
    },
    /// A directory, a pipe, a socket or a device.
    #[error("the file's type is {found:#o}, not a regular file's")]
    Type {
        /// The type bits of the file's mode.
        found: u32,
    },
    /// The descriptor cannot be read from.
    #[error("the descriptor's flags are {flags:#x}, which do not allow to read")]
    Unreadable {
        /// Status flags of the descriptor.
        flags: i32,
    },
    /// A file that has no seals at all, and so is nobody's memory alone.
    #[error("the file cannot carry seals")]
    NoSeals,
    /// Somebody can still change, shrink, grow or unseal the file.
    #[error("the file carries seals {found:#x}, required are {required:#x}")]
    Seals {
        /// Seals found.
        found: i32,
        /// Seals required.
        required: i32,
    },
    /// The file lies on pages of a size that is not accepted.
    #[error("the file lies on pages of {found} bytes, accepted are 4096 and 2097152")]
    PageSize {
        /// Page size found, in bytes.
        found: u64,
    },
    /// The payload is empty or larger than is accepted.
    #[error("the payload has {found} bytes, accepted are 1 to {highest}")]
    Length {
        /// Length that was announced, in bytes.
        found: u64,
        /// Largest length that is accepted, in bytes.
        highest: u64,
    },
    /// The file is not as large as a payload of the announced length.
    #[error("the file has {found} bytes, a payload of its length has {expected}")]
    Size {
        /// Size found, in bytes.
        found: u64,
        /// Size expected, in bytes.
        expected: u64,
    },
    /// Pages are missing: touching them could raise SIGBUS.
    #[error("{present} of {expected} bytes are present")]
    Holes {
        /// Bytes that are allocated.
        present: u64,
        /// Size of the file, in bytes.
        expected: u64,
    },
}
