//! The one actor that owns ledger, registry and journal.
//!
//! A command in, an answer out, one at a time on a thread of its own, because its effects block
//! (a gigabyte takes its time to allocate). Intent is journalled before the first effect, the
//! outcome after the last, and both are durable before the answer.

mod attach;
mod broadcast;
mod cores;
mod create;
mod delete;
mod generations;
mod lifeline;
mod reason;
mod recover;
#[cfg(test)]
mod tests;
mod threads;

use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use laneway_shm::wire::{Claim, Frame};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tracing::error;

pub use attach::{AttachRequest, Granted};
pub use reason::REASONS;
pub use recover::Watched;

use crate::admission::{Rejection, Rules};
use crate::journal::{Journal, JournalError};
use crate::ledger::{Ledger, LedgerError, Role};
use crate::model::id::{LaneId, Name};
use crate::model::lane::{LaneRecord, LaneSpec, SchemaMismatch};
use crate::model::topology::Topology;
use crate::placement::Refusal;
use crate::plan::{Hold, SegmentKey, Step};
use crate::provision::pools::Added;
use crate::provision::{Outcome, Provisioner, StepError};
use crate::registry::{Change, ChangeKind, LaneView, Registry, Snapshot};

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

/// An answer to come.
type Reply<T> = oneshot::Sender<Result<T, ControlError>>;

/// What the controller can be asked.
#[derive(Debug)]
#[expect(missing_docs, reason = "the fields' types say what they are")]
pub enum Command {
    /// Make a lane, or say what would happen.
    Create { request: RequestId, validate_only: bool, spec: Box<LaneSpec>, reply: Reply<LaneView> },
    /// End a lane, or say what would happen.
    Delete { request: RequestId, validate_only: bool, lane: String, reply: Reply<LaneView> },
    /// Give out a one-time right.
    IssueTicket { request: RequestId, lane: String, role: Role, ttl_ms: u64, reply: Reply<Ticket> },
    /// A peer wants an end.
    Attach { request: Box<AttachRequest>, reply: Reply<Granted> },
    /// The peer mapped its segment.
    Mapped { key: SegmentKey, reply: Reply<()> },
    /// A peer of an earlier agent comes back.
    Resume { request: Box<AttachRequest>, fd: OwnedFd, reply: Reply<SegmentKey> },
    /// A resumed peer shows a segment that it reads.
    Present { key: SegmentKey, role: Role, number: u64, fd: OwnedFd },
    /// The consumer is done with a generation.
    Drained { key: SegmentKey, generation: u64 },
    /// A reader holds the producer of a broadcast lane; 0: nobody does.
    Held { key: SegmentKey, reader: u64, held_ms: u64 },
    /// The producer of a broadcast lane gave a reader up.
    GivenUp { key: SegmentKey, reader: u64, at: u64, reason: laneway_shm::Reason },
    /// A pinned thread was found elsewhere.
    Drifted { key: SegmentKey, count: u64 },
    /// Look after the threads whose affinity the agent enforces.
    RepairThreads,
    /// A peer is gone: its process ended or it hung up.
    Gone { key: SegmentKey },
    /// End the actor; unused hugepages go back.
    Stop { reply: oneshot::Sender<()> },
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
    #[error("{open} generations wait to be drained, at most {limit} may; attach a consumer")]
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
    added: Added,
    ledger: Ledger,
    lanes: HashMap<LaneId, LaneRecord>,
    names: HashMap<Name, LaneId>,
    /// Open connections of attached peers.
    sessions: HashMap<SegmentKey, Session>,
    /// The reader that holds a gated lane's producer, and since when in milliseconds since 1970.
    held: HashMap<LaneId, (u64, u64)>,
    /// Cores that are held in cpusets, as journalled.
    holds: BTreeMap<SegmentKey, Hold>,
    revision: u64,
    changes_since_prune: u32,
}

/// A peer's open connection.
#[derive(Debug)]
struct Session {
    events: mpsc::UnboundedSender<Event>,
    request: Box<AttachRequest>,
    live: bool,
}

impl std::fmt::Debug for Controller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Controller").field("lanes", &self.lanes.len()).finish_non_exhaustive()
    }
}

/// The address of a running actor.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
}

impl Handle {
    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// The controller's refusal, or that it stopped.
    pub async fn ask<T>(
        &self,
        command: impl FnOnce(Reply<T>) -> Command,
    ) -> Result<T, ControlError> {
        let (reply, answer) = oneshot::channel();
        self.tell(command(reply)).await;
        answer.await.unwrap_or(Err(ControlError::Stopping))
    }

    /// Tells, expecting no answer.
    pub async fn tell(&self, command: Command) {
        // A stopped actor has nobody to tell.
        let _ = self.commands.send(command).await;
    }

    /// Ends the actor and waits for its last word.
    pub async fn stop(&self) {
        let (reply, done) = oneshot::channel();
        self.tell(Command::Stop { reply }).await;
        let _ = done.await;
    }
}

impl Controller {
    /// Recovers from the journal and starts the actor's thread.
    ///
    /// # Errors
    /// The journal cannot be read or written.
    pub fn start(setup: Setup) -> Result<(Handle, Vec<Watched>), ControlError> {
        let (commands, inbox) = mpsc::channel(64);
        let (mut controller, watched) = Self::recovered(setup)?;
        let run = move || controller.run(inbox);
        std::thread::Builder::new()
            .name("controller".to_owned())
            .spawn(run)
            .map_err(|source| laneway_shm::SegmentError::Os { call: "clone", source })?;
        Ok((Handle { commands }, watched))
    }

    fn run(&mut self, mut inbox: mpsc::Receiver<Command>) {
        while let Some(command) = inbox.blocking_recv() {
            match command {
                Command::Create { request, validate_only, spec, reply } => {
                    let _ = reply.send(self.create(&request, validate_only, *spec));
                }
                Command::Delete { request, validate_only, lane, reply } => {
                    let _ = reply.send(self.delete(&request, validate_only, &lane));
                }
                Command::IssueTicket { request, lane, role, ttl_ms, reply } => {
                    let _ = reply.send(self.issue_ticket(&request, &lane, role, ttl_ms));
                }
                Command::Attach { request, reply } => {
                    let granted = self.attach(request);
                    // A client that is gone already leaves a grant behind: take it back.
                    if let Err(Ok(granted)) = reply.send(granted) {
                        self.gone(granted.key);
                    }
                }
                Command::Mapped { key, reply } => {
                    let _ = reply.send(self.mapped(key));
                }
                Command::Resume { request, fd, reply } => {
                    let _ = reply.send(self.resume(request, fd));
                }
                Command::Present { key, role, number, fd } => self.present(key, role, number, fd),
                Command::Drained { key, generation } => self.drained(key, generation),
                Command::Held { key, reader, held_ms } => self.held(key, reader, held_ms),
                Command::GivenUp { key, reader, at, reason } => {
                    self.given_up(key, reader, at, reason);
                }
                Command::Drifted { key, count } => self.drifted(key, count),
                Command::RepairThreads => self.repair_threads(),
                Command::Gone { key } => self.gone(key),
                Command::Stop { reply } => {
                    self.stop();
                    let _ = reply.send(());
                    return;
                }
            }
        }
    }

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

    /// Refreshes what the kernel says is free.
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
        let connected = |role| {
            key(role).and_then(|key| self.sessions.get(&key)).is_some_and(|session| session.live)
        };
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
        let old = self.registry.snapshot();
        let mut lanes = old.lanes.clone();
        let change = change.and_then(|(kind, id)| {
            let lane = Arc::new(self.view(self.lanes.get(&id)?));
            lanes.insert(lane.record.spec.name.clone(), Arc::clone(&lane));
            Some(Change { revision: self.revision, kind, lane })
        });
        self.show(lanes, change);
    }

    /// Shows that a lane is gone.
    fn publish_deleted(&self, lane: LaneView) {
        let mut lanes = self.registry.snapshot().lanes.clone();
        lanes.remove(&lane.record.spec.name);
        let lane = Arc::new(lane);
        let change = Change { revision: self.revision, kind: ChangeKind::Deleted, lane };
        self.show(lanes, Some(change));
    }

    fn show(&self, lanes: std::collections::BTreeMap<Name, Arc<LaneView>>, change: Option<Change>) {
        let snapshot = Snapshot {
            revision: self.revision,
            lanes,
            topology: Arc::new(self.topology.clone()),
            ledger: Arc::new(self.ledger.clone()),
            added: Arc::new(self.added.clone()),
        };
        self.registry.publish(snapshot, change);
    }

    fn stop(&mut self) {
        self.let_all_go();
        // Segments go first: pages that only this process holds can then be given back.
        let held: Vec<SegmentKey> = self.lanes.values().flat_map(delete::segments_of).collect();
        for key in held {
            self.attempt(&Step::DropSegment { key });
        }
        crate::provision::pools::shrink(&self.sys_root, &mut self.topology, &mut self.added);
        if let Err(error) = self.journal.set_fact("hugepages_added", &self.added) {
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
