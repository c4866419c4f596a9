//! One connection: HELLO, GRANT, MAPPED, LIVE, then events until the peer is gone.

use std::collections::VecDeque;
use std::io::{self, ErrorKind::ConnectionReset};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use laneway_shm::FrameError;
use laneway_shm::fdpass::{self, Packet};
use laneway_shm::wire::{self, Claim, Frame};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::peer::{self, Peer};
use super::registered;
use crate::controller::{AttachRequest, Command, ControlError, Event, Handle};
use crate::ledger::Role;
use crate::plan::SegmentKey;

/// A client that says nothing has this long.
const HELLO_WITHIN: Duration = Duration::from_secs(2);
/// A client that was granted a segment has this long to map it: a big one takes its time.
const MAPPED_WITHIN: Duration = Duration::from_secs(10);
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
pub(super) async fn serve(socket: OwnedFd, peer: Peer, controller: Handle) {
    let Ok(fd) = registered(socket, Interest::READABLE | Interest::WRITABLE) else {
        return;
    };
    let connection = Connection { fd };
    let uid = peer.record.uid;
    let (events, inbox) = mpsc::unbounded_channel();
    match begin(&connection, &peer, events, &controller).await {
        Ok(key) => {
            run(&connection, peer, inbox, &controller, key).await;
            controller.tell(Command::Gone { key }).await;
        }
        Err(error) => {
            debug!(uid, %error, "attach refused");
            connection.refuse(&error).await;
        }
    }
}

/// From HELLO to LIVE. On an error nothing is left granted.
async fn begin(
    connection: &Connection,
    peer: &Peer,
    events: mpsc::UnboundedSender<Event>,
    controller: &Handle,
) -> Result<SegmentKey, SessionError> {
    let (frame, fd) = connection.expect("HELLO", HELLO_WITHIN).await?;
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
    if let (Claim::Resume { .. }, Some(fd)) = (&request.claim, fd) {
        let key = controller.ask(|reply| Command::Resume { request, fd, reply }).await?;
        let live = connection.send(&Frame::Live, None).await;
        if live.is_err() {
            // It came back and left before it heard that it may stay.
            controller.tell(Command::Gone { key }).await;
        }
        return Ok(live.map(|()| key)?);
    }
    let granted = controller.ask(|reply| Command::Attach { request, reply }).await?;
    let key = granted.key;
    let live = hand_over(connection, granted.grant, granted.fd, key, controller).await;
    if live.is_err() {
        controller.tell(Command::Gone { key }).await;
    }
    live.map(|()| key)
}

async fn hand_over(
    connection: &Connection,
    grant: Box<wire::Grant>,
    fd: OwnedFd,
    key: SegmentKey,
    controller: &Handle,
) -> Result<(), SessionError> {
    connection.send(&Frame::Grant(grant), Some(&fd)).await?;
    drop(fd);
    match connection.expect("MAPPED", MAPPED_WITHIN).await? {
        (Frame::Mapped, _) => {}
        (found, _) => {
            return Err(SessionError::OutOfTurn { found: found.name(), expected: "MAPPED" });
        }
    }
    controller.ask(|reply| Command::Mapped { key, reply }).await?;
    Ok(connection.send(&Frame::Live, None).await?)
}

/// Delivers events and hears the peer until it is gone.
async fn run(
    connection: &Connection,
    peer: Peer,
    mut inbox: mpsc::UnboundedReceiver<Event>,
    controller: &Handle,
    key: SegmentKey,
) {
    let mut pending: VecDeque<Event> = VecDeque::new();
    let death = async {
        match peer.pidfd {
            Some(pidfd) => peer::ended(pidfd).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(death);
    loop {
        tokio::select! {
            _ = &mut death => return,
            Some(event) = inbox.recv() => {
                queue(&mut pending, event);
                if pending.len() > EVENTS_MAX {
                    warn!(lane = %key.lane, role = %key.role, "client reads no events; cut off");
                    return;
                }
            }
            sent = connection.send_first(&pending), if !pending.is_empty() => {
                pending.pop_front();
                if sent.is_err() {
                    return;
                }
            }
            packet = connection.receive() => {
                let frame = packet.map_err(SessionError::from).and_then(checked);
                match frame {
                    Ok((Frame::Bye, _)) | Err(SessionError::Closed) => return,
                    // It left with events unread, as an ordinary exit does.
                    Err(SessionError::Io(error)) if error.kind() == ConnectionReset => return,
                    Ok((frame, fd)) => heard(frame, fd, controller, key).await,
                    Err(error) => {
                        warn!(lane = %key.lane, role = %key.role, %error, "client cut off");
                        return;
                    }
                }
            }
        }
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

async fn heard(frame: Frame, fd: Option<OwnedFd>, controller: &Handle, key: SegmentKey) {
    match (frame, fd) {
        (Frame::Drained { generation }, _) => {
            controller.tell(Command::Drained { key, generation }).await;
        }
        (Frame::Held { reader, held_ms }, _) => {
            controller.tell(Command::Held { key, reader, held_ms }).await;
        }
        (Frame::GivenUp { reader, at, reason }, _) => {
            controller.tell(Command::GivenUp { key, reader, at, reason }).await;
        }
        (Frame::Drifted { count }, _) => controller.tell(Command::Drifted { key, count }).await,
        (Frame::Present { role, number }, Some(fd)) => {
            let role = match role {
                wire::Role::Producer => Role::Producer,
                wire::Role::Consumer => Role::Consumer,
            };
            controller.tell(Command::Present { key, role, number, fd }).await;
        }
        // Anything else out of turn is ignored: it can only hurt its sender.
        _ => {}
    }
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
    async fn receive(&self) -> io::Result<Packet> {
        self.fd.async_io(Interest::READABLE, |fd| fdpass::receive(fd)).await
    }

    async fn send(&self, frame: &Frame, fd: Option<&OwnedFd>) -> io::Result<()> {
        let bytes = frame.encode();
        let descriptor = fd.map(AsFd::as_fd);
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

    async fn expect(
        &self,
        name: &'static str,
        within: Duration,
    ) -> Result<(Frame, Option<OwnedFd>), SessionError> {
        let received = timeout(within, self.receive()).await;
        checked(received.map_err(|_| SessionError::Deadline(name))??)
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
