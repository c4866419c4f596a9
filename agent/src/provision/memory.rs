//! The real world: segments as sealed memfds, held by this process; affinity through the kernel.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Weak};

use laneway_shm::SegmentError;
use laneway_shm::geometry::Geometry;
use laneway_shm::layout::Header;
use laneway_shm::memfd::{Draft, Segment, identify};
use laneway_shm::observer::{ConsumerView, ProducerView};

use super::cpu::{Threads, host_thread};
use super::cpuset::{Cores, CpusetError};
use super::{Outcome, Provisioner, StepError};
use crate::ledger::Role;
use crate::plan::{Hold, SegmentKey, Step};

/// Segments held by this process.
#[derive(Debug, Default)]
pub struct World {
    drafts: HashMap<SegmentKey, Draft>,
    sealed: HashMap<SegmentKey, Sealed>,
    threads: Threads,
    cores: Option<Cores>,
}

#[derive(Debug)]
struct Sealed {
    segment: Segment,
    view: View,
}

#[derive(Debug)]
enum View {
    Producer(Arc<ProducerView>),
    Consumer(Arc<ConsumerView>),
}

impl Sealed {
    fn new(role: Role, segment: Segment) -> Result<Self, SegmentError> {
        let view = match role {
            Role::Producer => {
                let geometry = Geometry::of_header(segment.header())?;
                View::Producer(Arc::new(ProducerView::new(&segment, geometry)?))
            }
            Role::Consumer => View::Consumer(Arc::new(ConsumerView::new(&segment)?)),
        };
        Ok(Self { segment, view })
    }
}

impl World {
    /// The real world, with cpusets of the agent's own if it has them.
    #[must_use]
    pub fn new(cores: Option<Cores>) -> Self {
        Self { cores, ..Self::default() }
    }

    fn hold(&mut self, hold: &Hold) -> Result<Outcome, StepError> {
        let cores = self.cores.as_mut().ok_or(CpusetError::Off);
        let held = cores.and_then(|cores| cores.hold(hold));
        held.map(Outcome::Held).map_err(|source| refused(hold, source))
    }

    fn free(&mut self, key: SegmentKey) -> Result<Outcome, StepError> {
        let Some(cores) = &mut self.cores else { return Ok(Outcome::Done) };
        let held = cores.held(key).cloned();
        match (cores.free(key), held) {
            (Err(source), Some(hold)) => Err(refused(&hold, source)),
            _ => Ok(Outcome::Done),
        }
    }

    fn seal(&mut self, key: SegmentKey) -> Result<Outcome, StepError> {
        let draft = self.drafts.remove(&key).ok_or(StepError::Unknown { key })?;
        let sealed = Sealed::new(key.role, draft.seal()?)?;
        self.sealed.insert(key, sealed);
        Ok(Outcome::Done)
    }
}

impl Provisioner for World {
    fn run(&mut self, step: &Step) -> Result<Outcome, StepError> {
        match step {
            Step::CreateSegment { key, header, page_size, node, words } => {
                let draft = Draft::create_with(*header, page_size.bytes(), *node, words);
                let draft = draft.map_err(shortage)?;
                let (file, _) = identify(&draft)?;
                let bound = node.is_some() && draft.bound_node() == *node;
                self.drafts.insert(*key, draft);
                Ok(Outcome::Made { file, bound })
            }
            Step::SealSegment { key } => self.seal(*key),
            Step::DropSegment { key } => {
                self.sealed.remove(key);
                // An unsealed one may be in the hands of a client that hung up.
                if let Some(draft) = self.drafts.remove(key) {
                    draft.abandon()?;
                }
                Ok(Outcome::Done)
            }
            Step::PinThread { key, pid, thread, cpu } => {
                let (pid, thread, cpu) = (*pid, *thread, *cpu);
                let pin = |source| StepError::Pin { pid, thread, cpu, source };
                self.threads.pin(*key, pid, thread, cpu).map_err(pin)?;
                Ok(Outcome::Done)
            }
            Step::UnpinThread { key } => {
                self.threads.unpin(*key);
                Ok(Outcome::Done)
            }
            Step::HoldCore { hold } => self.hold(hold),
            Step::FreeCore { key } => self.free(*key),
        }
    }

    fn for_writer(&self, key: SegmentKey) -> Result<OwnedFd, StepError> {
        let draft = self.drafts.get(&key).ok_or(StepError::Unknown { key })?;
        duplicate(draft)
    }

    fn for_reader(&self, key: SegmentKey) -> Result<OwnedFd, StepError> {
        let sealed = self.sealed.get(&key).ok_or(StepError::Unknown { key })?;
        Ok(sealed.segment.read_only_fd()?)
    }

    fn adopt(&mut self, key: SegmentKey, header: Header, fd: OwnedFd) -> Result<(), StepError> {
        if let Entry::Vacant(place) = self.sealed.entry(key) {
            place.insert(Sealed::new(key.role, Segment::verify(fd, header)?)?);
        }
        Ok(())
    }

    fn lifeline(&self) -> Result<[OwnedFd; 2], StepError> {
        laneway_shm::lifeline::pair()
            .map_err(|source| StepError::Segment(SegmentError::Os { call: "socketpair", source }))
    }

    fn survey(&self, key: SegmentKey, pid: i32, thread: u32, cpu: u32) -> Result<Hold, StepError> {
        let pin = |source| StepError::Pin { pid, thread, cpu, source };
        let tid = host_thread(pid, thread).map_err(pin)?.as_raw();
        let cores = self.cores.as_ref().ok_or(CpusetError::Off);
        let hold = cores.and_then(|cores| cores.survey(key, pid, tid, cpu));
        hold.map_err(|source| StepError::Hold { pid, thread, cpu, source })
    }

    fn recover_cores(&mut self, before: Vec<Hold>, keep: &HashSet<SegmentKey>) {
        if let Some(cores) = &mut self.cores {
            cores.recover(before, keep);
        }
    }

    fn repair_threads(&mut self) -> Vec<SegmentKey> {
        let mut moved = self.threads.repair();
        moved.extend(self.cores.iter_mut().flat_map(Cores::repair));
        moved
    }

    fn producer_view(&self, key: SegmentKey) -> Weak<ProducerView> {
        match self.sealed.get(&key).map(|sealed| &sealed.view) {
            Some(View::Producer(view)) => Arc::downgrade(view),
            _ => Weak::new(),
        }
    }

    fn consumer_view(&self, key: SegmentKey) -> Weak<ConsumerView> {
        match self.sealed.get(&key).map(|sealed| &sealed.view) {
            Some(View::Consumer(view)) => Arc::downgrade(view),
            _ => Weak::new(),
        }
    }
}

fn refused(hold: &Hold, source: CpusetError) -> StepError {
    let thread = u32::try_from(hold.tid).unwrap_or(0);
    StepError::Hold { pid: hold.pid, thread, cpu: hold.cpu, source }
}

fn shortage(error: SegmentError) -> StepError {
    match error {
        SegmentError::NoMemory { .. } => StepError::NoMemory(error),
        other => StepError::Segment(other),
    }
}

fn duplicate(fd: impl AsFd) -> Result<OwnedFd, StepError> {
    fd.as_fd().try_clone_to_owned().map_err(|source| {
        StepError::Segment(SegmentError::Os { call: "fcntl(F_DUPFD_CLOEXEC)", source })
    })
}
