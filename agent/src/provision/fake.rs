//! A world in memory that fails when told to: for the controller's tests.

use std::collections::{BTreeSet, HashSet};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use laneway_shm::SegmentError;
use laneway_shm::layout::Header;
use laneway_shm::memfd::FileId;
use laneway_shm::observer::{ConsumerView, ProducerView};

use super::{Outcome, Provisioner, StepError};
use crate::model::lane::{HeldCore, HeldHow};
use crate::plan::{Hold, SegmentKey, Step};

/// What the fake world holds and did, shared with the test.
#[derive(Debug, Default)]
pub struct Script {
    /// Fail this step, counted from 0, with a shortage.
    pub fail_at: Option<u64>,
    /// Steps run so far, failed ones included.
    pub steps: u64,
    /// Segments that exist, as role and number.
    pub segments: BTreeSet<(String, u64)>,
    /// Whose cores are held.
    pub cores: BTreeSet<SegmentKey>,
    /// Names of the steps in order.
    pub log: Vec<&'static str>,
}

/// The fake.
#[derive(Clone, Debug, Default)]
pub struct FakeWorld {
    /// Its script and memory.
    pub script: Arc<Mutex<Script>>,
}

impl FakeWorld {
    /// Looks at or changes the script.
    pub fn with<T>(&self, look: impl FnOnce(&mut Script) -> T) -> T {
        look(&mut self.script.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Provisioner for FakeWorld {
    fn run(&mut self, step: &Step) -> Result<Outcome, StepError> {
        self.with(|script| {
            let index = script.steps;
            script.steps += 1;
            script.log.push(step.name());
            if script.fail_at == Some(index) {
                return Err(StepError::NoMemory(SegmentError::NoMemory {
                    size_bytes: 0,
                    page_bytes: 0,
                    source: std::io::ErrorKind::OutOfMemory.into(),
                }));
            }
            Ok(match step {
                Step::CreateSegment { key, .. } => {
                    script.segments.insert((key.role.to_string(), key.number));
                    Outcome::Made { file: FileId { device: 1, inode: index }, bound: true }
                }
                Step::HoldCore { hold } => {
                    script.cores.insert(hold.key);
                    Outcome::Held(HeldCore {
                        how: HeldHow::Isolated,
                        shared: false,
                        bound_tasks: 0,
                        foreign_tasks: 0,
                        whole_process: false,
                    })
                }
                Step::FreeCore { key } => {
                    script.cores.remove(key);
                    Outcome::Done
                }
                Step::DropSegment { key } => {
                    script.segments.remove(&(key.role.to_string(), key.number));
                    Outcome::Done
                }
                _ => Outcome::Done,
            })
        })
    }

    fn for_writer(&self, key: SegmentKey) -> Result<OwnedFd, StepError> {
        Err(StepError::Unknown { key })
    }

    fn for_reader(&self, key: SegmentKey) -> Result<OwnedFd, StepError> {
        Err(StepError::Unknown { key })
    }

    fn adopt(&mut self, key: SegmentKey, _: Header, _: OwnedFd) -> Result<(), StepError> {
        Err(StepError::Unknown { key })
    }

    fn lifeline(&self) -> Result<[OwnedFd; 2], StepError> {
        let source = std::io::ErrorKind::Unsupported.into();
        Err(StepError::Segment(SegmentError::Os { call: "socketpair", source }))
    }

    fn survey(&self, key: SegmentKey, pid: i32, _: u32, cpu: u32) -> Result<Hold, StepError> {
        Ok(Hold { key, cpu, pid, tid: pid, started: 0, home: String::new() })
    }

    fn recover_cores(&mut self, before: Vec<Hold>, keep: &HashSet<SegmentKey>) {
        let kept = before.into_iter().filter(|hold| keep.contains(&hold.key));
        self.with(|script| script.cores = kept.map(|hold| hold.key).collect());
    }

    fn repair_threads(&mut self) -> Vec<SegmentKey> {
        Vec::new()
    }

    fn producer_view(&self, _: SegmentKey) -> Weak<ProducerView> {
        Weak::new()
    }

    fn consumer_view(&self, _: SegmentKey) -> Weak<ConsumerView> {
        Weak::new()
    }
}
