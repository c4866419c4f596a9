//! The one port through which the agent changes the world, and the real form behind it.
//!
//! A step goes in, an outcome or a typed failure comes out. Also owns the descriptors of live
//! segments: this is the embedded form of the fd owner.

pub mod cpu;
pub mod cpuset;
#[cfg(any(test, feature = "test-support"))]
pub mod fake;
pub mod memory;
pub mod pools;

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::sync::Weak;

use laneway_shm::layout::Header;
use laneway_shm::memfd::FileId;
use laneway_shm::observer::{ConsumerView, ProducerView};
use thiserror::Error;

use crate::model::capacity::PageSize;
use crate::model::lane::HeldCore;
use crate::plan::{Hold, SegmentKey, Step};
use cpuset::CpusetError;

/// What a step brought.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Nothing to know.
    Done,
    /// A segment was made.
    Made {
        /// Its identity.
        file: FileId,
        /// Whether its pages were bound to the node that was asked for.
        bound: bool,
    },
    /// A core is held.
    Held(HeldCore),
}

/// Why a step failed. The world is as before the step.
#[derive(Debug, Error)]
pub enum StepError {
    /// No pages.
    #[error("{0}")]
    NoMemory(laneway_shm::SegmentError),
    /// Any other failure of a segment.
    #[error("{0}")]
    Segment(#[from] laneway_shm::SegmentError),
    /// The segment is not held here.
    #[error("segment {} of the {} is not held by this agent", key.number, key.role)]
    Unknown {
        /// Which.
        key: SegmentKey,
    },
    /// The thread is not there or may not be touched.
    #[error("cannot pin thread {thread} of process {pid} to cpu {cpu}: {source}")]
    Pin {
        /// Process.
        pid: i32,
        /// Thread.
        thread: u32,
        /// Core.
        cpu: u32,
        /// The kernel's word.
        source: std::io::Error,
    },
    /// The core cannot be held.
    #[error("cannot hold cpu {cpu} for thread {thread} of process {pid}: {source}")]
    Hold {
        /// Process.
        pid: i32,
        /// Thread.
        thread: u32,
        /// Core.
        cpu: u32,
        /// Why.
        source: CpusetError,
    },
}

/// What the effect port offers.
pub trait Provisioner: Send {
    /// Does one thing.
    ///
    /// # Errors
    /// The world is as before the step.
    fn run(&mut self, step: &Step) -> Result<Outcome, StepError>;

    /// The unsealed segment's descriptor, for its writer.
    ///
    /// # Errors
    /// The segment is not held here, or was sealed.
    fn for_writer(&self, key: SegmentKey) -> Result<OwnedFd, StepError>;

    /// A sealed segment's descriptor, for a reader.
    ///
    /// # Errors
    /// The segment is not held here, or is not sealed yet.
    fn for_reader(&self, key: SegmentKey) -> Result<OwnedFd, StepError>;

    /// Takes back a segment that a peer re-presents after an agent restart. The caller has
    /// compared device and inode with the journal; seals, size and header are proven here.
    ///
    /// # Errors
    /// The descriptor is not that segment.
    fn adopt(&mut self, key: SegmentKey, header: Header, fd: OwnedFd) -> Result<(), StepError>;

    /// Both halves of a new lifeline.
    ///
    /// # Errors
    /// There are no descriptors left.
    fn lifeline(&self) -> Result<[OwnedFd; 2], StepError>;

    /// Says where a thread is that is to have a core: what has to be journalled before.
    ///
    /// # Errors
    /// There is no such thread, or its place cannot be named here.
    fn survey(&self, key: SegmentKey, pid: i32, thread: u32, cpu: u32) -> Result<Hold, StepError>;

    /// Takes over the cores that an earlier agent held: keeps what `keep` names, puts everything
    /// else back.
    fn recover_cores(&mut self, before: Vec<Hold>, keep: &HashSet<SegmentKey>);

    /// Puts enforced threads back that somebody moved, and names their segments.
    fn repair_threads(&mut self) -> Vec<SegmentKey>;

    /// A producer's segment from outside, once sealed.
    fn producer_view(&self, key: SegmentKey) -> Weak<ProducerView>;

    /// A consumer's segment from outside, once sealed.
    fn consumer_view(&self, key: SegmentKey) -> Weak<ConsumerView>;
}

/// Whether a failure to create means that another page size should be tried.
#[must_use]
pub fn is_page_shortage(error: &StepError, page_size: PageSize) -> bool {
    let unknown_size =
        matches!(error, StepError::Segment(laneway_shm::SegmentError::PageSize { .. }));
    page_size.is_huge() && (matches!(error, StepError::NoMemory(_)) || unknown_size)
}
