//! The actor's thread: commands of the control API and clients of the attach socket, one at a time.
//!
//! Attaching takes place here and not beside the control API, because the controller has a word
//! in all of it: to hand a question to another thread and its answer back takes longer than to
//! answer it. While an effect blocks (a gigabyte takes its time to allocate), the readers of the
//! registry go on; whoever needs the controller waits, as he would anyhow.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::sleep;

use crate::attach::Listener;
use crate::controller::{ControlError, Controller, RequestId, Setup, Ticket, Watched};
use crate::ledger::Role;
use crate::model::lane::LaneSpec;
use crate::plan::SegmentKey;
use crate::registry::LaneView;

/// A thread whose affinity the agent enforces is looked at this often.
const REPAIR_EVERY: Duration = Duration::from_secs(1);

/// The controller, for whoever runs on its thread. Never borrowed while something is awaited.
pub(crate) type Shared = Rc<RefCell<Controller>>;

/// An answer to come.
type Reply<T> = oneshot::Sender<Result<T, ControlError>>;

/// What the controller can be asked from other threads.
#[derive(Debug)]
#[expect(missing_docs, reason = "the fields' types say what they are")]
pub enum Command {
    /// Make a lane, or say what would happen.
    Create { request: RequestId, validate_only: bool, spec: Box<LaneSpec>, reply: Reply<LaneView> },
    /// End a lane, or say what would happen.
    Delete { request: RequestId, validate_only: bool, lane: String, reply: Reply<LaneView> },
    /// Give out a one-time right.
    IssueTicket { request: RequestId, lane: String, role: Role, ttl_ms: u64, reply: Reply<Ticket> },
    /// A process of the time before this agent ended.
    Gone { key: SegmentKey },
    /// End the actor; unused hugepages go back.
    Stop { reply: oneshot::Sender<()> },
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

    /// Ends the actor, closes its door and waits for its last word.
    pub async fn stop(&self) {
        let (reply, done) = oneshot::channel();
        self.tell(Command::Stop { reply }).await;
        let _ = done.await;
    }
}

/// Recovers from the journal and starts the actor's thread, with the attach socket as its door.
///
/// # Errors
/// The journal cannot be read or written; the kernel refuses a thread.
pub fn start(setup: Setup, door: Listener) -> Result<(Handle, Vec<Watched>), ControlError> {
    let (commands, inbox) = mpsc::channel(64);
    let (controller, watched) = Controller::recovered(setup)?;
    let os = |call| move |source| laneway_shm::SegmentError::Os { call, source };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(os("epoll_create1"))?;
    let run = move || {
        let stopped = runtime.block_on(LocalSet::new().run_until(serve(controller, inbox, door)));
        // With the runtime every connection is closed.
        drop(runtime);
        if let Some(reply) = stopped {
            let _ = reply.send(());
        }
    };
    let thread = std::thread::Builder::new().name("controller".to_owned());
    thread.spawn(run).map_err(os("clone"))?;
    Ok((Handle { commands }, watched))
}

/// Looks after the threads that the agent pins, while there are any: an agent without them sleeps.
async fn look_after_threads(controller: Shared) {
    let mut pins = controller.borrow().pins();
    while pins.wait_for(|count| *count > 0).await.is_ok() {
        sleep(REPAIR_EVERY).await;
        controller.borrow_mut().repair_threads();
    }
}

/// Serves until somebody says stop, or nobody is left who could.
async fn serve(
    controller: Controller,
    mut inbox: mpsc::Receiver<Command>,
    door: Listener,
) -> Option<oneshot::Sender<()>> {
    let controller = Rc::new(RefCell::new(controller));
    spawn_local(door.run(Rc::clone(&controller)));
    spawn_local(look_after_threads(Rc::clone(&controller)));
    loop {
        let command = inbox.recv().await?;
        let mut controller = controller.borrow_mut();
        match command {
            Command::Create { request, validate_only, spec, reply } => {
                let _ = reply.send(controller.create(&request, validate_only, *spec));
            }
            Command::Delete { request, validate_only, lane, reply } => {
                let _ = reply.send(controller.delete(&request, validate_only, &lane));
            }
            Command::IssueTicket { request, lane, role, ttl_ms, reply } => {
                let _ = reply.send(controller.issue_ticket(&request, &lane, role, ttl_ms));
            }
            Command::Gone { key } => controller.gone(key),
            Command::Stop { reply } => {
                controller.stop();
                return Some(reply);
            }
        }
    }
}
