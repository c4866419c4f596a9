//! Lanes in memory, for readers: snapshots, and the changes between them.
//!
//! The controller writes; everybody else reads without asking it. A reader sees a whole state or
//! the next one, never something between.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use laneway_shm::observer::{ConsumerView, ProducerView};
use rpds::RedBlackTreeMapSync;
use tokio::sync::broadcast;

use crate::ledger::Sums;
use crate::model::id::{LaneId, Name, parse_hex};
use crate::model::lane::LaneRecord;
use crate::provision::pools::Added;

/// Changes that a watcher may fall behind before it is cut off, and that one may resume over.
const HISTORY: usize = 1024;

/// Lanes by name; a changed copy costs as much as the change.
pub type Lanes = RedBlackTreeMapSync<Name, Arc<LaneView>>;

/// A lane as readers see it.
#[derive(Clone, Debug)]
pub struct LaneView {
    /// What the journal says.
    pub record: LaneRecord,
    /// Whether the producer's and the consumer's connection is open.
    pub connected: [bool; 2],
    /// The current producer's counters. Weak: a reader or the history must not keep the pages of
    /// a lane that is gone.
    pub producer: Weak<ProducerView>,
    /// The consumer's counters.
    pub consumer: Weak<ConsumerView>,
    /// The readers of a broadcast lane, in the order of the record.
    pub readers: Vec<ReaderView>,
    /// The reader that holds the producer, and since when, in milliseconds since 1970.
    pub held: Option<(u64, u64)>,
}

/// A reader of a broadcast lane as readers of the registry see it.
#[derive(Clone, Debug)]
pub struct ReaderView {
    /// Whether its connection is open.
    pub connected: bool,
    /// Its counters.
    pub view: Weak<ConsumerView>,
}

/// Everything that readers see, at one revision.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Number of the newest change.
    pub revision: u64,
    /// Lanes by name. Shares all that did not change with the snapshot before.
    pub lanes: Lanes,
    /// What the lanes hold together. Not who holds it: that is a copy as large as the lanes.
    pub sums: Sums,
    /// Hugepages that the agent added.
    pub added: Arc<Added>,
}

impl Snapshot {
    /// A lane by name or id.
    #[must_use]
    pub fn find(&self, name_or_id: &str) -> Option<&Arc<LaneView>> {
        let by_id = parse_hex(name_or_id)
            .and_then(|id| self.lanes.values().find(|lane| lane.record.id == LaneId(id)));
        // A name may look like an id.
        by_id.or_else(|| self.lanes.get(&Name::parse(name_or_id).ok()?))
    }
}

/// What happened to a lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChangeKind {
    /// It is there.
    Created,
    /// It is different.
    Changed,
    /// It is gone.
    Deleted,
}

/// One change.
#[derive(Clone, Debug)]
pub struct Change {
    /// Its number.
    pub revision: u64,
    /// What happened.
    pub kind: ChangeKind,
    /// The lane after it, or before its end.
    pub lane: Arc<LaneView>,
}

/// The readers' side and the writer's.
#[derive(Debug)]
pub struct Registry {
    snapshot: Mutex<Arc<Snapshot>>,
    changes: broadcast::Sender<Arc<Change>>,
    history: Mutex<VecDeque<Arc<Change>>>,
}

/// Why a watch cannot resume where it asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Compacted {
    /// Lowest revision after which a watch can resume.
    pub lowest: u64,
}

impl Default for Registry {
    fn default() -> Self {
        Self {
            snapshot: Mutex::default(),
            changes: broadcast::Sender::new(HISTORY),
            history: Mutex::default(),
        }
    }
}

impl Registry {
    /// The state now.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.now())
    }

    /// Replaces the state. The controller's alone.
    pub fn publish(&self, snapshot: Snapshot, change: Option<Change>) {
        // Under the lock of `since`: a snapshot must not show a change that history lacks.
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        *self.now() = Arc::new(snapshot);
        if let Some(change) = change.map(Arc::new) {
            if history.len() == HISTORY {
                history.pop_front();
            }
            history.push_back(Arc::clone(&change));
            // Nobody listening is fine.
            let _ = self.changes.send(change);
        }
    }

    fn now(&self) -> MutexGuard<'_, Arc<Snapshot>> {
        self.snapshot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes from now on. Subscribe first, read the snapshot second: nothing falls between.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Change>> {
        self.changes.subscribe()
    }

    /// Changes after `revision`, and the revision up to which they are complete.
    ///
    /// # Errors
    /// Some of them are forgotten already.
    pub fn since(&self, revision: u64) -> Result<(Vec<Arc<Change>>, u64), Compacted> {
        let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = self.now().revision;
        let lowest = history.front().map_or(newest, |change| change.revision - 1);
        if revision < lowest || revision > newest {
            return Err(Compacted { lowest });
        }
        let changes = history.iter().filter(|change| change.revision > revision);
        Ok((changes.cloned().collect(), newest))
    }
}
