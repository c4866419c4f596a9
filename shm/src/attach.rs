//! The client's side of an attach: claim → grant → map → seal → MAPPED → LIVE.
//!
//! The writer itself closes the door behind it. A producer alone with its consumer does not wait
//! until the agent has seen that: its messages wait for the consumer, wherever that is, and LIVE
//! is an event like others. Every other end waits, so that whatever it does next finds it known.
//! The client takes nothing on trust that it can check: size, seals, header and presence of every
//! page. No async runtime; every wait has a deadline.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::sched_yield;

use crate::consumer::Consumer;
use crate::control::{Control, Link, Resume, open};
use crate::error::{AttachError, FrameError, PeerState, SegmentError};
use crate::fdpass;
use crate::layout::{CONSUMER_SEGMENT_BYTES, Header, KIND_CONSUMER, KIND_PRODUCER};
use crate::memfd::{Segment, seal};
use crate::pin::Pinned;
use crate::producer::Producer;
use crate::reader::offer_to_pay;
use crate::region::{Owned, Region};
use crate::ring::{Policy, Start};
use crate::subscriber::Subscriber;
use crate::sync::spin_hint;
use crate::wire::{Claim, Frame, Grant, NO_CPU, Pinning, Role};

/// An agent that has nothing else to do answers within this, and being woken takes a third of it.
const AWAKE: Duration = Duration::from_micros(200);

/// Pauses between two looks for its answer: about a microsecond.
const PAUSES: u32 = 64;

/// An attach to be: where, by what right, and how.
///
/// ```no_run
/// use std::time::Duration;
/// let socket = "/run/laneway/attach/attach.sock";
/// let mut producer = laneway_shm::Attach::by_name(socket, "orders").producer()?;
/// producer.send(b"hello", Duration::from_secs(1))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Attach {
    socket: PathBuf,
    claim: Claim,
    timeout: Duration,
    pin: bool,
    schema: u64,
    start: Start,
    lifeline: bool,
    watch: fn(&'static str),
}

impl Attach {
    /// Attaches with a one-time ticket, as the control API printed it: 32 hexadecimal digits.
    ///
    /// # Errors
    /// `NoTicket` if the text is none.
    pub fn with_ticket(socket: impl AsRef<Path>, ticket: &str) -> Result<Self, AttachError> {
        let digits = ticket.len() == 32 && ticket.bytes().all(|byte| byte.is_ascii_hexdigit());
        match u128::from_str_radix(ticket, 16) {
            Ok(value) if digits => {
                Ok(Self::new(socket.as_ref(), Claim::Ticket(value.to_be_bytes())))
            }
            _ => Err(AttachError::NoTicket { found: ticket.chars().count() }),
        }
    }

    /// Attaches by the lane's name: its rule about user and group ids decides.
    #[must_use]
    pub fn by_name(socket: impl AsRef<Path>, lane: &str) -> Self {
        Self::new(socket.as_ref(), Claim::Name(lane.to_owned()))
    }

    fn new(socket: &Path, claim: Claim) -> Self {
        Self {
            socket: socket.to_path_buf(),
            claim,
            timeout: Duration::from_secs(5),
            pin: true,
            schema: 0,
            start: Start::Newest,
            lifeline: false,
            watch: |_| {},
        }
    }

    /// Calls `watch` after each step of the attach with its name, for `laneway-bench control`.
    #[doc(hidden)]
    #[must_use]
    pub fn watched(mut self, watch: fn(&'static str)) -> Self {
        self.watch = watch;
        self
    }

    /// Waits at most this long for each answer of the agent (default 5 s).
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Whether to pin the calling thread to the granted core (default yes).
    #[must_use]
    pub fn pin(mut self, pin: bool) -> Self {
        self.pin = pin;
        self
    }

    /// What the messages are, as in [`Schema`](crate::message::Schema): the agent refuses an end
    /// whose schema is not the lane's. 0, the default, for an end that does not say.
    #[must_use]
    pub fn schema(mut self, schema: u64) -> Self {
        self.schema = schema;
        self
    }

    /// Where to start reading a broadcast lane (default: with the next message).
    #[must_use]
    pub fn start(mut self, start: Start) -> Self {
        self.start = start;
        self
    }

    /// Whether to ask for a [lifeline](crate::lifeline) to each peer (default no): one more
    /// descriptor for each end, over which the peer can be heard in epoll and can send descriptors.
    ///
    /// One end of the two is enough to ask. Where a consumer of a lane that parks does, its
    /// producer makes a fence of its own for each commit (about 12 ns), in a broadcast lane for all
    /// readers: a sleep in epoll has no bound, and cannot pay for it.
    #[must_use]
    pub fn lifeline(mut self, lifeline: bool) -> Self {
        self.lifeline = lifeline;
        self
    }

    /// Attaches the producer's end. In a broadcast lane it then knows every reader that is there.
    ///
    /// # Errors
    /// What went wrong, and in a refusal of the agent what to do about it.
    pub fn producer(&self) -> Result<Producer, AttachError> {
        let attached = self.attach(Role::Producer)?;
        let mut producer = Producer::new(attached.region, attached.grant, attached.link)?;
        if producer.grant().broadcast.is_some() {
            producer.gather(self.timeout)?;
        }
        Ok(producer)
    }

    /// Attaches the consumer's end, or one more reader of a gated broadcast lane.
    ///
    /// # Errors
    /// What went wrong, and in a refusal of the agent what to do about it. `WrongHandle` for a
    /// lane that does not wait for its readers.
    pub fn consumer(&self) -> Result<Consumer, AttachError> {
        match self.receiver()? {
            Receiver::Consumer(consumer) => Ok(*consumer),
            Receiver::Subscriber(_) => Err(AttachError::WrongHandle {
                lane: "does not wait for its readers",
                needed: "subscriber",
            }),
        }
    }

    /// Attaches a reader of a broadcast lane that does not wait for its readers.
    ///
    /// # Errors
    /// What went wrong, and in a refusal of the agent what to do about it. `WrongHandle` for a
    /// lane that loses nothing.
    pub fn subscriber(&self) -> Result<Subscriber, AttachError> {
        match self.receiver()? {
            Receiver::Subscriber(subscriber) => Ok(*subscriber),
            Receiver::Consumer(_) => Err(AttachError::WrongHandle {
                lane: "waits for its readers and loses nothing",
                needed: "consumer",
            }),
        }
    }

    /// Attaches a receiving end of a lane of any shape: what it is, the lane decides.
    ///
    /// # Errors
    /// What went wrong, and in a refusal of the agent what to do about it.
    pub fn receiver(&self) -> Result<Receiver, AttachError> {
        self.attach(Role::Consumer)?.receiver(self.lifeline)
    }

    fn attach(&self, role: Role) -> Result<Attached, AttachError> {
        let socket = open(&self.socket).map_err(|source| AttachError::Connect {
            path: self.socket.display().to_string(),
            source,
        })?;
        (self.watch)("connect");
        self.attach_over(socket, role)
    }

    fn attach_over(&self, socket: OwnedFd, role: Role) -> Result<Attached, AttachError> {
        let thread = nix::unistd::gettid().as_raw().cast_unsigned();
        let (claim, schema, start) = (self.claim.clone(), self.schema, self.start);
        let lifeline = self.lifeline;
        send(&socket, &Frame::Hello { role, claim, thread, schema, start, lifeline })?;
        (self.watch)("send HELLO");
        let (grant, fd) = self.granted(&socket, role)?;
        (self.watch)("wait for GRANT");
        let region = map_own(&grant, &fd)?;
        (self.watch)("map and touch");
        if role == Role::Consumer && grant.park && !lifeline {
            // Before the agent shows this to a producer, who may be quicker than what follows.
            offer_to_pay(&region);
        }
        seal(&fd)?;
        send(&socket, &Frame::Mapped)?;
        (self.watch)("seal, send MAPPED");
        // Sealed now: nobody else can have become a second writer of it.
        let own = fd.try_clone().map_err(os("fcntl(F_DUPFD_CLOEXEC)"))?;
        Segment::verify(own, header(&grant)?)?;
        (self.watch)("prove");
        let live = role == Role::Consumer || grant.broadcast.is_some();
        if live {
            match self.expect(&socket, "LIVE")? {
                (Frame::Live, _) => {}
                (found, _) => return Err(unexpected(&found, "LIVE")),
            }
            (self.watch)("wait for LIVE");
        }
        let pinned = self.pinned(&grant)?;
        let (lane, generation, token) = (grant.lane, grant.generation, grant.token);
        let resume = Resume { role, lane, generation, token, start, lifeline, segment: fd };
        let control = Control::new(&self.socket, socket, resume, live);
        let mut link = Link::new(Some(control), pinned, PeerState::Absent);
        if grant.broadcast.is_some() {
            link.pulse.quicken();
        }
        Ok(Attached { region, grant, link })
    }

    fn granted(&self, socket: &OwnedFd, role: Role) -> Result<(Grant, OwnedFd), AttachError> {
        match self.expect(socket, "GRANT")? {
            (Frame::Grant(grant), Some(fd)) if grant.role == role => Ok((*grant, fd)),
            (found, _) => Err(unexpected(&found, "GRANT")),
        }
    }

    fn pinned(&self, grant: &Grant) -> Result<Option<Pinned>, AttachError> {
        if !self.pin || grant.pinning != Pinning::Own || grant.cpu == NO_CPU {
            return Ok(None);
        }
        let cpu = grant.cpu;
        Pinned::new(cpu).map(Some).map_err(|source| AttachError::Pin { cpu, source })
    }

    /// Waits for the agent's next frame.
    fn expect(
        &self,
        socket: &OwnedFd,
        waiting_for: &'static str,
    ) -> Result<(Frame, Option<OwnedFd>), AttachError> {
        let start = Instant::now();
        let packet = loop {
            match fdpass::receive(socket) {
                Ok(packet) => break packet,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {
                    return Err(AttachError::Disconnected { waiting_for });
                }
                Err(source) => {
                    return Err(AttachError::Os { call: "recvmsg", source });
                }
            }
            let waited = start.elapsed();
            let Some(left) = self.timeout.checked_sub(waited).filter(|left| !left.is_zero()) else {
                return Err(AttachError::TimedOut { waiting_for, waited });
            };
            if waited < AWAKE {
                // The agent may be on the other thread of this core, and needs it more.
                (0..PAUSES).for_each(|_| spin_hint());
                // Or it has to share this thread.
                let _ = sched_yield();
                continue;
            }
            let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
            let millis = u16::try_from(left.as_millis().max(1)).unwrap_or(u16::MAX);
            // Interrupted or timed out: the loop looks at the clock again.
            let _ = poll(&mut fds, PollTimeout::from(millis));
        };
        if packet.bytes.is_empty() {
            return Err(AttachError::Disconnected { waiting_for });
        }
        let frame = Frame::decode(&packet.bytes)?;
        let (found, expected) = (packet.descriptors.len(), frame.descriptors());
        if found != expected {
            return Err(FrameError::Descriptors { found, expected }.into());
        }
        match frame {
            Frame::Refused { reason, message } => Err(AttachError::Refused { reason, message }),
            frame => Ok((frame, packet.descriptors.into_iter().next())),
        }
    }
}

/// A receiving end of a lane whose shape was not known before.
#[derive(Debug)]
pub enum Receiver {
    /// Of a lane that loses nothing.
    Consumer(Box<Consumer>),
    /// Of a broadcast lane that does not wait for its readers.
    Subscriber(Box<Subscriber>),
}

/// An end that is live but has no ring yet.
struct Attached {
    region: Region<Owned>,
    grant: Grant,
    link: Link,
}

impl Attached {
    /// Without a lifeline it never waits in epoll, and can pay for its producer's fences.
    fn receiver(self, lifeline: bool) -> Result<Receiver, AttachError> {
        let Self { region, grant, link } = self;
        Ok(if grant.broadcast.is_some_and(Policy::loses) {
            let mut subscriber = Subscriber::new(region, grant, link)?;
            if !lifeline {
                subscriber.ring.pay_for_fences();
            }
            Receiver::Subscriber(Box::new(subscriber))
        } else {
            let mut consumer = Consumer::new(region, grant, link)?;
            if !lifeline {
                consumer.ring.pay_for_fences();
            }
            Receiver::Consumer(Box::new(consumer))
        })
    }
}

fn map_own(grant: &Grant, fd: &OwnedFd) -> Result<Region<Owned>, SegmentError> {
    let header = header(grant)?;
    let len = usize::try_from(header.size_bytes).map_err(|_| SegmentError::Geometry {
        field: "size_bytes",
        found: header.size_bytes,
        allowed: "the address space",
    })?;
    Region::map_owned(fd, len)
}

/// The header that the granted segment must carry.
fn header(grant: &Grant) -> Result<Header, SegmentError> {
    let geometry = grant.geometry()?;
    let (kind, needed) = match grant.role {
        Role::Producer => (KIND_PRODUCER, geometry.segment_bytes()),
        Role::Consumer => (KIND_CONSUMER, CONSUMER_SEGMENT_BYTES as u64),
    };
    if grant.size_bytes < needed {
        return Err(SegmentError::Size { found: grant.size_bytes, expected: needed });
    }
    Ok(Header {
        kind,
        lane: grant.lane,
        generation: grant.generation,
        nonce: grant.nonce,
        slot_stride: geometry.stride() as u64,
        slot_payload: u64::from(grant.slot_payload),
        slot_count: u64::from(grant.slot_count),
        base_position: grant.base,
        size_bytes: grant.size_bytes,
    })
}

fn send(socket: &OwnedFd, frame: &Frame) -> Result<(), AttachError> {
    fdpass::send(socket, &frame.encode(), None).map_err(os("sendmsg"))
}

fn os(call: &'static str) -> impl FnOnce(std::io::Error) -> AttachError {
    move |source| AttachError::Os { call, source }
}

fn unexpected(found: &Frame, waiting_for: &'static str) -> AttachError {
    AttachError::Unexpected { found: found.name(), waiting_for }
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::barrier;
    use crate::layout::C_HEAVY;
    use crate::memfd::Draft;
    use crate::pair::handed_over;
    use crate::{PairOptions, WaitMode, pair};

    /// Whether a reader of a lane with this policy pays for its producer's fences.
    fn pays(broadcast: Option<Policy>, lifeline: bool) -> bool {
        let options = PairOptions { wait: WaitMode::Park, lifeline, ..PairOptions::default() };
        let (_producer, consumer) = pair(options).unwrap();
        assert_eq!(consumer.ring.is_heavy(), barrier::works() && !lifeline);
        let grant = Grant { broadcast, ..consumer.grant().clone() };
        let (region, _) = handed_over(&grant, grant.geometry().unwrap(), KIND_CONSUMER).unwrap();
        let link = Link::new(None, None, PeerState::Absent);
        match (Attached { region, grant, link }).receiver(lifeline).unwrap() {
            Receiver::Consumer(consumer) => consumer.ring.is_heavy(),
            Receiver::Subscriber(subscriber) => subscriber.ring.is_heavy(),
        }
    }

    #[test]
    fn a_reader_pays_for_fences_unless_it_may_wait_in_epoll() {
        for broadcast in [None, Some(Policy::Gated), Some(Policy::Overwrite)] {
            assert_eq!(pays(broadcast, false), barrier::works(), "{broadcast:?}");
            assert!(!pays(broadcast, true), "{broadcast:?}");
        }
    }

    /// What the agent's side of an attach receives.
    fn heard(socket: &OwnedFd) -> Frame {
        loop {
            match fdpass::receive(socket) {
                Ok(packet) => break Frame::decode(&packet.bytes).unwrap(),
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
            }
            std::thread::yield_now();
        }
    }

    /// What a reader's segment says of paying when its agent may show it to a producer.
    fn offer_at_mapped(lifeline: bool) -> u32 {
        let options = PairOptions { wait: WaitMode::Park, ..PairOptions::default() };
        let grant = pair(options).unwrap().1.grant().clone();
        let draft = Draft::create(header(&grant).unwrap(), grant.page_bytes, None).unwrap();
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (ours, agents) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
        let attach = Attach::by_name("none", "lane").pin(false).lifeline(lifeline);
        std::thread::scope(|scope| {
            let attached = scope.spawn(|| attach.attach_over(ours, Role::Consumer));
            assert!(matches!(heard(&agents), Frame::Hello { .. }));
            let frame = Frame::Grant(Box::new(grant)).encode();
            fdpass::send(&agents, &frame, Some(draft.as_fd())).unwrap();
            assert!(matches!(heard(&agents), Frame::Mapped));
            let mut offer = [0; 4];
            let segment = File::from(draft.as_fd().try_clone_to_owned().unwrap());
            segment.read_exact_at(&mut offer, C_HEAVY as u64).unwrap();
            drop(agents);
            assert!(attached.join().unwrap().is_err(), "the agent left");
            u32::from_le_bytes(offer)
        })
    }

    #[test]
    fn a_reader_offers_to_pay_before_a_producer_can_be_shown_its_segment() {
        assert_eq!(offer_at_mapped(false), u32::from(barrier::works()));
        assert_eq!(offer_at_mapped(true), 0);
    }
}
