//! The one actor that owns ledger, registry and journal.
//!
//! A question in, an answer out, one at a time on a thread of its own (see [`crate::actor`]),
//! because its effects block. Intent is journalled before the first effect, the outcome after the
//! last, and both are durable before the answer.

mod attach;
mod broadcast;
mod cores;
mod create;
mod delete;
mod generations;
mod introduce;
mod lifeline;
mod reason;
mod recover;
#[cfg(test)]
mod tests;
mod threads;
mod tickets;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use laneway_shm::wire::{Claim, Frame};
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tracing::error;

pub use attach::{AttachRequest, Granted};
pub use reason::REASONS;
pub use recover::Watched;

use crate::admission::{Rejection, Rules};
use crate::journal::{Journal, JournalError, TicketHash, TicketRecord};
use crate::ledger::{Ledger, LedgerError, Role};
use crate::model::capacity::PageSize;
use crate::model::id::{LaneId, Name};
use crate::model::lane::{LaneRecord, SchemaMismatch};
use crate::model::topology::Topology;
use crate::placement::Refusal;
use crate::plan::{Hold, SegmentKey, Step};
use crate::provision::pools::Added;
use crate::provision::{Outcome, Provisioner, StepError};
use crate::registry::{Change, ChangeKind, LaneView, Lanes, Registry, Snapshot};

/// A message for an attached peer, with the descriptor that goes with it.
pub type Event = (Frame, Option<OwnedFd>);

/// Who asked before, and with what content.
#[derive(Clone, Debug, Default)]
pub struct RequestId {
    /// The caller's id; empty for none.
    pub id: String,
    /// SHA-256 of method and content.
    pub hash: String,
}

/// A one-time right to an end.
#[derive(Clone, Debug)]
pub struct Ticket {
    /// The secret, 32 hexadecimal digits.
    pub text: String,
    /// Until when, in milliseconds since 1970.
    pub expires_ms: u64,
}

/// Why the controller refused. One variant per reason that a caller can act on.
#[derive(Debug, Error)]
pub enum ControlError {
    /// Policy.
    #[error("{0}")]
    Rejected(#[from] Rejection),
    /// No place.
    #[error("{0}")]
    Refused(#[from] Box<Refusal>),
    /// The kernel ran out although the pool's count said otherwise.
    #[error("no pages for {size_bytes} bytes: {tried}; grow the pool or ask for smaller pages")]
    OutOfPages {
        /// Size of the segment, in bytes.
        size_bytes: u64,
        /// What was tried.
        tried: String,
    },
    /// Nobody by that name.
    #[error("no lane is called {lane:?}; `laneway lane list` shows the names")]
    NotFound {
        /// Name or id.
        lane: String,
    },
    /// The request id belongs to another request.
    #[error("request_id {id:?} was used for other content; choose a new one")]
    RequestIdReused {
        /// The id.
        id: String,
    },
    /// The end has an owner.
    #[error("the {role} of lane {lane} is attached already; wait until that process is gone")]
    RoleTaken {
        /// The lane.
        lane: Name,
        /// The end.
        role: Role,
    },
    /// As many readers as the lane may have.
    #[error(
        "{readers} readers are attached to lane {lane}, at most {limit} may; raise readers_max"
    )]
    ReadersExhausted {
        /// The lane.
        lane: Name,
        /// Readers now.
        readers: usize,
        /// The limit.
        limit: u32,
    },
    /// The ticket is not known, expired, or for the other end.
    #[error("ticket is unknown, expired, used, or for the other end; issue a new one")]
    TicketInvalid,
    /// No rule lets this user attach.
    #[error("uid {uid} gid {gid} may not attach the {role} by name; add a rule or use a ticket")]
    NotAllowed {
        /// User.
        uid: u32,
        /// Group.
        gid: u32,
        /// The end.
        role: Role,
    },
    /// The end has other messages than the lane.
    #[error("{0}")]
    Schema(#[from] SchemaMismatch),
    /// Too many generations wait to be drained.
    #[error(
        "{open} generations wait to be drained, at most {limit} may; attach a consumer, or \
             let the one that is there drain"
    )]
    GenerationsExhausted {
        /// Generations open.
        open: usize,
        /// The limit.
        limit: usize,
    },
    /// A restarted agent does not know enough yet.
    #[error("the agent restarted and waits for the lane's other end; try again in a second")]
    Recovering,
    /// A peer of an earlier incarnation.
    #[error("this incarnation was replaced or given up; attach anew")]
    Fenced,
    /// An effect failed.
    #[error("{0}")]
    Step(#[from] StepError),
    /// The journal failed: nothing was promised.
    #[error("{0}")]
    Journal(#[from] JournalError),
    /// The books refused.
    #[error("{0}")]
    Ledger(#[from] LedgerError),
    /// The format refused the geometry.
    #[error("{0}")]
    Segment(#[from] laneway_shm::SegmentError),
    /// The actor ended.
    #[error("the agent is stopping")]
    Stopping,
}

impl ControlError {
    /// The page sizes that were tried for `size_bytes`, and what the kernel said.
    fn out_of_pages(size_bytes: u64, refused: &[(PageSize, String)]) -> Self {
        let tried = refused.iter().map(|(size, why)| format!("{size}: {why}"));
        Self::OutOfPages { size_bytes, tried: tried.collect::<Vec<_>>().join("; ") }
    }
}

/// What the actor starts with.
pub struct Setup {
    /// The effect port.
    pub world: Box<dyn Provisioner>,
    /// The store.
    pub journal: Journal,
    /// The readers' side.
    pub registry: Arc<Registry>,
    /// Cores and pools.
    pub topology: Topology,
    /// Root of `/sys`.
    pub sys_root: PathBuf,
    /// Policy.
    pub rules: Rules,
    /// Undrained generations of one lane.
    pub generations_max: usize,
    /// Boot of this kernel.
    pub boot_id: String,
    /// Hugepages that were added at start.
    pub added: Added,
}

impl std::fmt::Debug for Setup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Setup").field("boot_id", &self.boot_id).finish_non_exhaustive()
    }
}

/// The actor.
pub struct Controller {
    world: Box<dyn Provisioner>,
    journal: Journal,
    registry: Arc<Registry>,
    topology: Topology,
    sys_root: PathBuf,
    rules: Rules,
    generations_max: usize,
    boot_id: String,
    added: Arc<Added>,
    ledger: Ledger,
    lanes: HashMap<LaneId, LaneRecord>,
    names: HashMap<Name, LaneId>,
    /// Open connections of attached peers.
    sessions: HashMap<SegmentKey, Session>,
    /// The reader that holds a gated lane's producer, and since when in milliseconds since 1970.
    held: HashMap<LaneId, (u64, u64)>,
    /// Ends whose threads the agent pins.
    pinned: HashSet<SegmentKey>,
    /// How many they are, for whoever looks after them.
    pins: watch::Sender<usize>,
    /// Cores that are held in cpusets, as journalled.
    holds: BTreeMap<SegmentKey, Hold>,
    /// Tickets that were issued, as journalled.
    tickets: HashMap<TicketHash, TicketRecord>,
    revision: u64,
    changes_since_prune: u32,
}

/// A peer's open connection.
#[derive(Debug)]
struct Session {
    events: mpsc::UnboundedSender<Event>,
    request: Box<AttachRequest>,
    /// By which ticket, if it has to be journalled yet.
    ticket: Option<TicketHash>,
    /// Whether it can be told anything: it is mapped, or does not wait until the agent knows.
    live: bool,
}

impl std::fmt::Debug for Controller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Controller").field("lanes", &self.lanes.len()).finish_non_exhaustive()
    }
}

impl Controller {
    /// Runs steps in order; on a failure takes back those that were done, in reverse.
    fn run_plan(&mut self, steps: &[Step]) -> Result<Vec<Outcome>, StepError> {
        let mut outcomes = Vec::new();
        for (index, step) in steps.iter().enumerate() {
            match self.world.run(step) {
                Ok(outcome) => outcomes.push(outcome),
                Err(error) => {
                    for undo in steps[..index].iter().rev().filter_map(Step::undo) {
                        self.attempt(&undo);
                    }
                    return Err(error);
                }
            }
        }
        Ok(outcomes)
    }

    /// Runs a step whose failure can only be reported.
    fn attempt(&mut self, step: &Step) {
        if let Err(error) = self.world.run(step) {
            error!(step = step.name(), %error, "clean-up step failed");
        }
    }

    /// Asks the kernel what is free, for the placement that follows. Nobody else needs it.
    fn refresh_pools(&mut self) {
        match crate::sysfs::read_pools(&self.sys_root) {
            Ok(memory) => self.topology.refresh(&memory),
            Err(error) => error!(%error, "hugepage pools cannot be read; using the last reading"),
        }
    }

    fn find(&self, name_or_id: &str) -> Result<LaneId, ControlError> {
        let by_id = crate::model::id::parse_hex(name_or_id).map(LaneId);
        let by_name = || self.names.get(&Name::parse(name_or_id).ok()?).copied();
        by_id
            .filter(|id| self.lanes.contains_key(id))
            .or_else(by_name)
            .ok_or_else(|| ControlError::NotFound { lane: name_or_id.chars().take(64).collect() })
    }

    /// A lane as readers see it.
    fn view(&self, record: &LaneRecord) -> LaneView {
        let key = |role| {
            let number = record.newest(role)?.number;
            Some(SegmentKey { lane: record.id, role, number })
        };
        let connected = |role| key(role).is_some_and(|key| self.sessions.contains_key(&key));
        LaneView {
            connected: [connected(Role::Producer), connected(Role::Consumer)],
            producer: key(Role::Producer)
                .map(|key| self.world.producer_view(key))
                .unwrap_or_default(),
            consumer: key(Role::Consumer)
                .map(|key| self.world.consumer_view(key))
                .unwrap_or_default(),
            readers: self.reader_views(record),
            held: self.held.get(&record.id).copied(),
            record: record.clone(),
        }
    }

    /// Number of the next change.
    fn next_revision(&mut self) -> u64 {
        self.revision += 1;
        self.revision
    }

    /// Writes a changed lane to the journal and shows it.
    fn save(&mut self, id: LaneId, kind: ChangeKind) -> Result<(), JournalError> {
        let revision = self.next_revision();
        let Some(record) = self.lanes.get_mut(&id) else {
            return Ok(());
        };
        record.revision = revision;
        self.journal.put_lane(record, None)?;
        self.publish(Some((kind, id)));
        Ok(())
    }

    /// As [`Controller::save`], where nobody waits for an answer.
    fn save_or_log(&mut self, id: LaneId) {
        if let Err(error) = self.save(id, ChangeKind::Changed) {
            error!(lane = %id, %error, "a change could not be journalled");
        }
    }

    /// Shows the state to readers.
    fn publish(&self, change: Option<(ChangeKind, LaneId)>) {
        let lane = change.and_then(|(kind, id)| Some((kind, self.lanes.get(&id)?)));
        let Some((kind, record)) = lane else {
            return self.show(self.registry.snapshot().lanes.clone(), None);
        };
        let lane = Arc::new(self.view(record));
        let lanes = self.registry.snapshot().lanes.insert(record.spec.name.clone(), lane.clone());
        self.show(lanes, Some(Change { revision: self.revision, kind, lane }));
    }

    /// Shows the memory of a lane of which nothing else changed.
    fn publish_memory(&self, record: &LaneRecord) {
        let lane = Arc::new(self.view(record));
        let lanes = self.registry.snapshot().lanes.insert(record.spec.name.clone(), lane);
        self.show(lanes, None);
    }

    /// Shows that a lane is gone.
    fn publish_deleted(&self, lane: LaneView) {
        let lanes = self.registry.snapshot().lanes.remove(&lane.record.spec.name);
        let lane = Arc::new(lane);
        let change = Change { revision: self.revision, kind: ChangeKind::Deleted, lane };
        self.show(lanes, Some(change));
    }

    fn show(&self, lanes: Lanes, change: Option<Change>) {
        let snapshot = Snapshot {
            revision: self.revision,
            lanes,
            sums: self.ledger.sums(),
            added: Arc::clone(&self.added),
        };
        self.registry.publish(snapshot, change);
    }

    pub(crate) fn stop(&mut self) {
        self.let_all_go();
        // Segments go first: pages that only this process holds can then be given back.
        let held: Vec<SegmentKey> = self.lanes.values().flat_map(delete::segments_of).collect();
        for key in held {
            self.attempt(&Step::DropSegment { key });
        }
        let added = Arc::make_mut(&mut self.added);
        crate::provision::pools::shrink(&self.sys_root, &mut self.topology, added);
        if let Err(error) = self.journal.set_fact("hugepages_added", &*self.added) {
            error!(%error, "what is left of the added hugepages could not be journalled");
        }
    }
}

/// Milliseconds since 1970.
fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// 122 random bits.
fn random() -> u128 {
    uuid::Uuid::new_v4().as_u128()
}

/// The lane, generation and token of a resuming claim.
fn resume_claim(claim: &Claim) -> Option<(LaneId, u64, u128)> {
    match claim {
        Claim::Resume { lane, generation, token } => Some((LaneId(*lane), *generation, *token)),
        _ => None,
    }
}
