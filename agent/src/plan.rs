//! What has to be done to the world, in order, each step with its undo.
//!
//! Pure. A plan is data; the controller runs it through the provision port, and on a failure at
//! any step runs the undo steps of those before it, in reverse.

use laneway_shm::layout::Header;
use serde::{Deserialize, Serialize};

use crate::ledger::Role;
use crate::model::capacity::PageSize;
use crate::model::id::LaneId;

/// Which segment of which lane.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct SegmentKey {
    /// The lane.
    pub lane: LaneId,
    /// Whose segment.
    pub role: Role,
    /// Generation or incarnation.
    pub number: u64,
}

impl SegmentKey {
    /// Another segment of the same lane.
    #[must_use]
    pub fn of(self, role: Role, number: u64) -> Self {
        Self { role, number, ..self }
    }
}

/// A thread that is to have a core of a cpuset: all that puts it back, also after a crash.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Hold {
    /// Whose thread.
    pub key: SegmentKey,
    /// The core.
    pub cpu: u32,
    /// Process in the agent's pid namespace.
    pub pid: i32,
    /// Thread in the agent's pid namespace.
    pub tid: i32,
    /// When the thread started, in clock ticks since boot: tells it from a later one of its number.
    pub started: u64,
    /// The cpuset that it came from, below the mount point.
    pub home: String,
}

/// One thing to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Make and allocate a segment; hold it unsealed for its writer.
    CreateSegment {
        /// Which.
        key: SegmentKey,
        /// Its header.
        header: Header,
        /// Its pages.
        page_size: PageSize,
        /// Its node.
        node: Option<u32>,
        /// Words to set before the writer gets it, by offset.
        words: Vec<(usize, u64)>,
    },
    /// Close the door behind the writer and prove the segment.
    SealSegment {
        /// Which.
        key: SegmentKey,
    },
    /// Let go of a segment: the kernel frees it when nobody maps it.
    DropSegment {
        /// Which.
        key: SegmentKey,
    },
    /// Set a thread's affinity, remembering the old one.
    PinThread {
        /// Whose thread.
        key: SegmentKey,
        /// Process in the agent's pid namespace.
        pid: i32,
        /// Thread in the process's own pid namespace.
        thread: u32,
        /// The core.
        cpu: u32,
    },
    /// Give a thread its old affinity back.
    UnpinThread {
        /// Whose thread.
        key: SegmentKey,
    },
    /// Move a thread into the cpuset of its core, and everything else off that core.
    HoldCore {
        /// Which thread and core. Journalled before.
        hold: Hold,
    },
    /// Put a thread back where it came from, and with the last one everything else, too.
    FreeCore {
        /// Whose thread.
        key: SegmentKey,
    },
}

impl Step {
    /// The step's name in errors and logs.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::CreateSegment { .. } => "create-segment",
            Self::SealSegment { .. } => "seal-segment",
            Self::DropSegment { .. } => "drop-segment",
            Self::PinThread { .. } => "pin-thread",
            Self::UnpinThread { .. } => "unpin-thread",
            Self::HoldCore { .. } => "hold-core",
            Self::FreeCore { .. } => "free-core",
        }
    }

    /// What takes the step back, if anything has to.
    #[must_use]
    pub fn undo(&self) -> Option<Self> {
        match self {
            Self::CreateSegment { key, .. } => Some(Self::DropSegment { key: *key }),
            Self::PinThread { key, .. } => Some(Self::UnpinThread { key: *key }),
            Self::HoldCore { hold } => Some(Self::FreeCore { key: hold.key }),
            // A seal cannot be taken back; dropping the segment, the undo of its making, is enough.
            Self::SealSegment { .. }
            | Self::DropSegment { .. }
            | Self::UnpinThread { .. }
            | Self::FreeCore { .. } => None,
        }
    }
}
