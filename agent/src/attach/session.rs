//! One connection: HELLO, GRANT, and then events both ways until the peer is gone. The first thing
//! to hear is MAPPED, and the answer to it is LIVE.

use std::collections::VecDeque;
use std::hint::spin_loop;
use std::io;
use std::io::ErrorKind::{ConnectionReset, WouldBlock};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use laneway_shm::FrameError;
use laneway_shm::fdpass::{self, Packet};
use laneway_shm::wire::{self, Claim, Frame};
use rustix::thread::sched_yield;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::task::yield_now;
use tokio::time::{sleep, sleep_until, timeout};
use tracing::{debug, info, warn};

use super::pace::Pace;
use super::peer::{self, Peer};
use super::registered;
use crate::actor::Shared;
use crate::controller::{AttachRequest, ControlError, Event};
use crate::ledger::Role;
use crate::plan::SegmentKey;

/// A client that says nothing has this long.
const HELLO_WITHIN: Duration = Duration::from_secs(2);
/// A client that was granted a segment has this long to map it: a big one takes its time.
const MAPPED_WITHIN: Duration = Duration::from_secs(10);
/// Turns of the runtime within which whoever has left is heard.
const TURNS: u32 = 4;
/// How long the agent stays awake for MAPPED. Bounds what a client that never says it costs: this,
/// and what others run who share its core, to whom it yields.
const AWAKE: Duration = Duration::from_micros(100);
/// Pauses between two looks: about a microsecond.
const PAUSES: u32 = 64;
/// Events that a client may leave unread. One that reads never is cut off, and comes back.
const EVENTS_MAX: usize = 256;

/// Why a session ended before it was live.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error("no {0} in time")]
    Deadline(&'static str),
    #[error("client closed the connection")]
    Closed,
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("{found} came while {expected} was due")]
    OutOfTurn { found: &'static str, expected: &'static str },
    #[error("{0}")]
    Refused(#[from] ControlError),
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Serves one connection to its end.
pub(super) async fn serve(socket: OwnedFd, peer: Peer, controller: Shared) {
    let Ok(fd) = registered(socket, Interest::READABLE | Interest::WRITABLE) else {
        return;
    };
    let connection = Connection { fd };
    let uid = peer.record.uid;
    let (events, inbox) = mpsc::unbounded_channel();
    let (key, mapped) = match begin(&connection, &peer, events, &controller).await {
        Ok(begun) => begun,
        Err(error) => {
            debug!(uid, %error, "attach refused");
            return connection.refuse(&error).await;
        }
    };
    let (pending, pace) = (VecDeque::new(), Pace::new(Instant::now()));
    let mut session = Session { connection, controller, key, mapped, pending, pace };
    let ended = session.run(peer.pidfd, inbox).await;
    session.controller.borrow_mut().gone(key);
    if let Err(error) = ended {
        debug!(uid, %error, "attach refused");
        session.connection.refuse(&error).await;
    }
}

/// From HELLO to a grant, or for an end that came back to its end: then it is mapped already. On
/// an error nothing is left granted.
async fn begin(
    connection: &Connection,
    peer: &Peer,
    events: mpsc::UnboundedSender<Event>,
    controller: &Shared,
) -> Result<(SegmentKey, bool), SessionError> {
    let received = timeout(HELLO_WITHIN, connection.receive_first()).await;
    let (frame, fd) = checked(received.map_err(|_| SessionError::Deadline("HELLO"))??)?;
    step!("hear HELLO");
    let Frame::Hello { role, claim, thread, schema, start, lifeline } = frame else {
        return Err(SessionError::OutOfTurn { found: frame.name(), expected: "HELLO" });
    };
    let role = match role {
        wire::Role::Producer => Role::Producer,
        wire::Role::Consumer => Role::Consumer,
    };
    let peer = peer.record;
    let request =
        Box::new(AttachRequest { role, claim, peer, thread, schema, start, lifeline, events });
    for _ in 0..TURNS {
        if !controller.borrow().has_owner(&request) {
            break;
        }
        // Its owner may have left before this client came, and not have been heard yet.
        yield_now().await;
    }
    let (key, frame, segment) = match (&request.claim, fd) {
        (Claim::Resume { .. }, Some(fd)) => {
            (controller.borrow_mut().resume(request, fd)?, Frame::Live, None)
        }
        _ => {
            let granted = controller.borrow_mut().attach(request)?;
            (granted.key, Frame::Grant(granted.grant), Some(granted.fd))
        }
    };
    if let Err(error) = connection.send(&frame, segment.as_ref()).await {
        // It left before it heard that it may stay.
        controller.borrow_mut().gone(key);
        return Err(error.into());
    }
    step!("send GRANT");
    if segment.is_some() {
        controller.borrow().greet(key);
    }
    Ok((key, segment.is_none()))
}

/// A connection to an end that was granted.
struct Session {
    connection: Connection,
    controller: Shared,
    key: SegmentKey,
    /// Whether the peer said that it mapped its segment.
    mapped: bool,
    /// What it has yet to be told.
    pending: VecDeque<Event>,
    /// How often it is heard.
    pace: Pace,
}

impl Session {
    /// Delivers events and hears the peer until it is gone.
    ///
    /// # Errors
    /// Why it cannot have what it was granted.
    async fn run(
        &mut self,
        pidfd: Option<OwnedFd>,
        mut inbox: mpsc::UnboundedReceiver<Event>,
    ) -> Result<(), SessionError> {
        let death = async {
            match pidfd {
                Some(pidfd) => peer::ended(pidfd).await,
                None => std::future::pending().await,
            }
        };
        let (deadline, SegmentKey { lane, role, .. }) = (sleep(MAPPED_WITHIN), self.key);
        tokio::pin!(death, deadline);
        if !self.mapped
            && let Some(packet) = self.receive_awake().await
            && self.hear(packet).await?
        {
            return Ok(());
        }
        loop {
            let turn = self.pace.next(Instant::now());
            tokio::select! {
                _ = &mut death => return self.hear_the_rest(),
                () = &mut deadline, if !self.mapped => {
                    return Err(SessionError::Deadline("MAPPED"));
                }
                Some(event) = inbox.recv() => {
                    queue(&mut self.pending, event);
                    if self.pending.len() > EVENTS_MAX {
                        warn!(%lane, %role, "client reads no events; cut off");
                        return Ok(());
                    }
                }
                sent = self.connection.send_first(&self.pending), if !self.pending.is_empty() => {
                    if let Some((Frame::Live, _)) = self.pending.pop_front() {
                        step!("send LIVE");
                        info!(%lane, %role, number = self.key.number, "attached");
                    }
                    if sent.is_err() {
                        return self.hear_the_rest();
                    }
                }
                () = sleep_until(turn.unwrap_or_else(Instant::now).into()), if turn.is_some() => {}
                packet = self.connection.receive(), if turn.is_none() => {
                    if self.hear(packet).await? {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Hears what the peer has to say. True if that was the last of it.
    async fn hear(&mut self, packet: io::Result<Packet>) -> Result<bool, SessionError> {
        let was_mapped = self.mapped;
        let is_last = self.take(packet)?;
        if !was_mapped {
            // Whoever was told of this end hears it before this end hears that it is live.
            yield_now().await;
        }
        Ok(is_last)
    }

    fn take(&mut self, packet: io::Result<Packet>) -> Result<bool, SessionError> {
        match packet.map_err(SessionError::from).and_then(checked) {
            Ok((Frame::Bye, _)) if self.mapped => return Ok(true),
            Err(SessionError::Closed) => return Ok(true),
            // It left with events unread, as an ordinary exit does. The kernel says so before it
            // hands out what was sent.
            Err(SessionError::Io(error)) if error.kind() == ConnectionReset => {
                self.hear_the_rest()?;
                return Ok(true);
            }
            Ok((frame, fd)) => self.heard(frame, fd)?,
            Err(error) if !self.mapped => return Err(error),
            Err(error) => {
                let SegmentKey { lane, role, .. } = self.key;
                warn!(%lane, %role, %error, "client cut off");
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A peer that is gone may have said something before: that it mapped its segment, and then
    /// what it sent is there. A child that inherited its connection is not listened to for ever.
    fn hear_the_rest(&mut self) -> Result<(), SessionError> {
        for _ in 0..EVENTS_MAX {
            match fdpass::receive(&self.connection.fd).map_err(SessionError::from).and_then(checked)
            {
                Ok((frame, fd)) => self.heard(frame, fd)?,
                // Once, and before what is there.
                Err(SessionError::Io(error)) if error.kind() == ConnectionReset => {}
                Err(_) => break,
            }
        }
        Ok(())
    }

    /// A client that has nothing to do but to map its segment is back at once: sooner than this
    /// thread would be woken. For others it stays awake no longer than the attach took.
    async fn receive_awake(&self) -> Option<io::Result<Packet>> {
        let start = Instant::now();
        while start.elapsed() < AWAKE {
            match fdpass::receive(&self.connection.fd) {
                Err(error) if error.kind() == WouldBlock => {}
                received => return Some(received),
            }
            // The client may be on the other thread of this core, and needs it more.
            (0..PAUSES).for_each(|_| spin_loop());
            // Or it has to share this thread.
            sched_yield();
            yield_now().await;
        }
        None
    }

    fn heard(&mut self, frame: Frame, fd: Option<OwnedFd>) -> Result<(), SessionError> {
        let (key, mut controller) = (self.key, self.controller.borrow_mut());
        if !self.mapped {
            if frame != Frame::Mapped {
                return Err(SessionError::OutOfTurn { found: frame.name(), expected: "MAPPED" });
            }
            // Before the events that its being live brings.
            self.pending.push_back((Frame::Live, None));
            self.mapped = true;
            controller.mapped(key)?;
            return Ok(());
        }
        if self.pace.spend(&frame) {
            warn!(lane = %key.lane, role = %key.role, "client says too much");
        }
        match (frame, fd) {
            (Frame::Drained { generation }, _) => controller.drained(key, generation),
            (Frame::Held { reader, held_ms }, _) => controller.held(key, reader, held_ms),
            (Frame::GivenUp { reader, at, reason }, _) => {
                controller.given_up(key, reader, at, reason);
            }
            (Frame::Drifted { count }, _) => controller.drifted(key, count),
            (Frame::Present { role, number }, Some(fd)) => {
                let role = match role {
                    wire::Role::Producer => Role::Producer,
                    wire::Role::Consumer => Role::Consumer,
                };
                controller.present(key, role, number, fd);
            }
            // Anything else out of turn is ignored: it can only hurt its sender.
            _ => {}
        }
        Ok(())
    }
}

/// Puts an event behind the others. Whoever came and went unheard is no event: a producer that
/// looks rarely is not behind by readers that are not there any more, however many.
fn queue(pending: &mut VecDeque<Event>, event: Event) {
    let joined = |frame: &Frame| match frame {
        Frame::Reader { segment, .. } | Frame::Join(segment) => Some(segment.generation),
        _ => None,
    };
    let gone = match &event.0 {
        Frame::ReaderGone { number } => Some(*number),
        Frame::PeerGone => pending.iter().rev().find_map(|(frame, _)| joined(frame)),
        _ => None,
    };
    let unheard = |(frame, _): &Event| gone.is_some() && joined(frame) == gone;
    if !pending.iter().any(unheard) {
        return pending.push_back(event);
    }
    pending.retain(|event| {
        let lifeline = matches!(event.0, Frame::Lifeline { number, .. } if Some(number) == gone);
        !lifeline && !unheard(event)
    });
}

/// A packet as a frame, with exactly the descriptors that it must carry.
fn checked(packet: Packet) -> Result<(Frame, Option<OwnedFd>), SessionError> {
    if packet.bytes.is_empty() {
        return Err(SessionError::Closed);
    }
    let frame = Frame::decode(&packet.bytes)?;
    let (found, expected) = (packet.descriptors.len(), frame.descriptors());
    if found != expected {
        return Err(FrameError::Descriptors { found, expected }.into());
    }
    Ok((frame, packet.descriptors.into_iter().next()))
}

struct Connection {
    fd: AsyncFd<OwnedFd>,
}

impl Connection {
    /// The first packet is there most often: it is looked for before the runtime waits for it.
    async fn receive_first(&self) -> io::Result<Packet> {
        match fdpass::receive(&self.fd) {
            Err(error) if error.kind() == WouldBlock => self.receive().await,
            received => received,
        }
    }

    async fn receive(&self) -> io::Result<Packet> {
        self.fd.async_io(Interest::READABLE, |fd| fdpass::receive(fd)).await
    }

    async fn send(&self, frame: &Frame, fd: Option<&OwnedFd>) -> io::Result<()> {
        let bytes = frame.encode();
        let descriptor = fd.map(AsFd::as_fd);
        match fdpass::send(&self.fd, &bytes, descriptor) {
            // Only then it is worth a turn of the runtime.
            Err(error) if error.kind() == WouldBlock => {}
            sent => return sent,
        }
        self.fd
            .async_io(Interest::WRITABLE, |socket| fdpass::send(socket, &bytes, descriptor))
            .await
    }

    /// Sends the first of `events`. Dropping the future before it is ready sends nothing.
    async fn send_first(&self, events: &VecDeque<Event>) -> io::Result<()> {
        match events.front() {
            Some((frame, fd)) => self.send(frame, fd.as_ref()).await,
            None => Ok(()),
        }
    }

    async fn refuse(&self, error: &SessionError) {
        let reason = match error {
            SessionError::Refused(error) => error.reason(),
            SessionError::Deadline(_) => "DEADLINE_EXCEEDED",
            SessionError::Frame(_) | SessionError::OutOfTurn { .. } => "FRAME_INVALID",
            SessionError::Closed | SessionError::Io(_) => return,
        };
        let frame = Frame::Refused { reason: reason.to_owned(), message: error.to_string() };
        // A client that does not read its refusal goes without.
        let _ = timeout(Duration::from_millis(200), self.send(&frame, None)).await;
    }
}
