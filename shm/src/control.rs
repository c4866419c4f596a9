//! The open connection to the agent, looked at rarely and never waited for.
//!
//! Owns reconnecting after an agent restart and deciding when a look is due, which the data path
//! learns as one more position to stop at. Knows nothing of rings.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

use crate::error::PeerState;
use crate::fdpass;
use crate::layout::READERS_MAX;
use crate::lifeline::Lifeline;
use crate::pin::Pinned;
use crate::ring::Start;
use crate::wire::{Claim, Frame, Role};

/// Idle this long, an end looks for events: a new generation, a new consumer, a revocation.
const IDLE_LOOK: Duration = Duration::from_millis(20);
/// The same for an end whose wait the agent may end: a reader that has no producer yet, and the
/// producer of a broadcast lane that a reader holds, for that reader's death.
const ALONE_LOOK: Duration = Duration::from_micros(200);
/// Looks of a new end that does not ask the clock: if its peer is there, it hears of it at once.
const EAGER_LOOKS: u32 = 64;
/// While messages flow, an end looks this often: to notice that the agent was restarted.
const STEADY_LOOK: Duration = Duration::from_secs(1);
/// The same in a broadcast lane, where readers come and go and wait to be let in.
const STEADY_LOOK_BROADCAST: Duration = Duration::from_millis(100);
/// Empty polls between two readings of the clock.
const IDLE_POLLS: u32 = 64;
/// Slots between two readings of the clock, at most. Fewer for a slow stream: the number
/// follows the rate, so that a message every second is looked at every second.
const STEADY_SLOTS_MAX: u64 = 4096;
/// Readings of the clock between two looks while messages flow, about.
const CLOCK_SHARE: u32 = 10;
/// First and longest pause between two attempts to reach a restarted agent.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// The reason of a refusal that is worth another try.
const RECOVERING: &str = "AGENT_RECOVERING";
/// Lifelines that wait for their peers' segments: one for each reader that a lane can have.
const LIFELINES_MAX: usize = READERS_MAX;

/// Decides when a look at the connection is due, so that the data path pays nothing for it.
#[derive(Debug)]
pub(crate) struct Pulse {
    /// Between two looks while messages flow.
    look: Duration,
    idle_left: u32,
    eager_left: u32,
    steady_slots: u64,
    steady_read: Instant,
    idle_position: u64,
    idle_since: Instant,
    looked_at: Instant,
}

impl Pulse {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Self {
            look: STEADY_LOOK,
            idle_left: IDLE_POLLS,
            eager_left: EAGER_LOOKS,
            steady_slots: 1,
            steady_read: now,
            idle_position: u64::MAX,
            idle_since: now,
            looked_at: now,
        }
    }

    /// Called when as many slots have passed as the last call said: whether a look is due now.
    #[cold]
    pub(crate) fn beat(&mut self) -> bool {
        let now = Instant::now();
        let since = now.duration_since(self.steady_read);
        self.steady_read = now;
        self.steady_slots = if since > self.look / CLOCK_SHARE {
            (self.steady_slots / 2).max(1)
        } else {
            (self.steady_slots * 2).min(STEADY_SLOTS_MAX)
        };
        let due = now.duration_since(self.looked_at) >= self.look;
        if due {
            self.looked_at = now;
        }
        due
    }

    /// Looks as often as a broadcast lane needs it.
    pub(crate) fn quicken(&mut self) {
        self.look = STEADY_LOOK_BROADCAST;
    }

    /// Slots until the next [`Pulse::beat`].
    pub(crate) fn slots(&self) -> u64 {
        self.steady_slots
    }

    /// Called for each poll that found nothing, with the position that it looked at; `alone` if
    /// what it waits for may come from the agent.
    #[inline]
    pub(crate) fn idle_due(&mut self, position: u64, alone: bool) -> bool {
        self.idle_left -= 1;
        self.idle_left == 0 && self.idle_clock(position, alone)
    }

    #[cold]
    fn idle_clock(&mut self, position: u64, alone: bool) -> bool {
        self.idle_left = IDLE_POLLS;
        if alone && self.eager_left > 0 {
            self.eager_left -= 1;
            return true;
        }
        let look = if alone { ALONE_LOOK } else { IDLE_LOOK };
        let now = Instant::now();
        if position != self.idle_position {
            self.idle_position = position;
            self.idle_since = now;
        }
        let due = now.duration_since(self.idle_since) >= look;
        if due {
            self.idle_since = now;
            self.looked_at = now;
        }
        due
    }
}

/// What a restarted agent needs to take this end back.
#[derive(Debug)]
pub(crate) struct Resume {
    pub(crate) role: Role,
    pub(crate) lane: u128,
    pub(crate) generation: u64,
    pub(crate) token: u128,
    pub(crate) start: Start,
    pub(crate) lifeline: bool,
    pub(crate) segment: OwnedFd,
}

/// One end's connection to the agent.
#[derive(Debug)]
pub(crate) struct Control {
    path: PathBuf,
    socket: Option<Arc<OwnedFd>>,
    resume: Resume,
    /// The peer's segments that this end reads: shown to an agent that came back.
    held: Vec<(Role, u64, OwnedFd)>,
    retry_at: Instant,
    retry_pause: Duration,
    given_up: bool,
    /// Whether the agent has this end: false between a disconnection and the next LIVE.
    live: bool,
    /// Whether it ever said so. Before, a refusal is the end.
    confirmed: bool,
}

/// What both ends keep beside their ring: the connection, the pulse, the core, the peer's state.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) control: Option<Control>,
    pub(crate) pulse: Pulse,
    pub(crate) pinned: Option<Pinned>,
    pub(crate) peer: PeerState,
    pub(crate) revoked: bool,
    /// Lifelines to peers that were not announced yet.
    lifelines: Vec<(u64, Arc<Lifeline>)>,
}

impl Link {
    pub(crate) fn new(control: Option<Control>, pinned: Option<Pinned>, peer: PeerState) -> Self {
        let lifelines = Vec::new();
        Self { control, pulse: Pulse::new(), pinned, peer, revoked: false, lifelines }
    }

    /// The next event, and on the way: reconnects, notices drift, handles what both ends share.
    pub(crate) fn next_event(&mut self) -> Option<(Frame, Option<OwnedFd>)> {
        if let Some(count) = self.pinned.as_mut().and_then(Pinned::check) {
            self.tell(&Frame::Drifted { count });
        }
        loop {
            let (frame, descriptor) = self.control.as_mut()?.next()?;
            match frame {
                Frame::Revoked => self.revoked = true,
                Frame::Live => {}
                Frame::Refused { reason, .. } => {
                    let unknown = self.control.as_ref().is_some_and(|control| !control.confirmed);
                    // Gone, judged dead and replaced, or never taken: nobody reads or writes this
                    // end any more.
                    self.revoked |= match reason.as_str() {
                        "LANE_NOT_FOUND" | "FENCED" => true,
                        reason => unknown && reason != RECOVERING,
                    };
                }
                event => return Some((event, descriptor)),
            }
        }
    }

    /// Keeps a lifeline for the peer with this number, until [`Link::lifeline`] asks for it.
    pub(crate) fn keep_lifeline(&mut self, number: u64, lifeline: Arc<Lifeline>) {
        if self.lifelines.len() >= LIFELINES_MAX {
            self.lifelines.remove(0);
        }
        self.lifelines.push((number, lifeline));
    }

    /// The lifeline to the peer with this number, if it came before the peer was announced.
    pub(crate) fn lifeline(&mut self, number: u64) -> Option<Arc<Lifeline>> {
        let mut found = self.lifelines.extract_if(.., |(kept, _)| *kept == number);
        found.next().map(|(_, lifeline)| lifeline)
    }

    /// Whether this end said that it wants lifelines.
    pub(crate) fn asked_for_lifeline(&self) -> bool {
        self.control.as_ref().is_some_and(|control| control.resume.lifeline)
    }

    /// Remembers the descriptor of a peer's segment.
    pub(crate) fn hold(&mut self, role: Role, number: u64, fd: OwnedFd) {
        if let Some(control) = &mut self.control {
            control.held.push((role, number, fd));
        }
    }

    /// Forgets the peer's segments below `number`.
    pub(crate) fn forget_below(&mut self, number: u64) {
        if let Some(control) = &mut self.control {
            control.held.retain(|(_, held, _)| *held >= number);
        }
    }

    /// Forgets one of the peers' segments.
    pub(crate) fn forget(&mut self, role: Role, number: u64) {
        if let Some(control) = &mut self.control {
            control.held.retain(|held| (held.0, held.1) != (role, number));
        }
    }

    /// Whether the agent knows of this end, or never will. If not, the next look tries at once.
    pub(crate) fn is_settled(&mut self) -> bool {
        self.control.as_mut().is_none_or(|control| {
            control.retry_at = Instant::now();
            control.live || control.given_up
        })
    }

    /// The connection as it is now, for whoever waits for it in epoll.
    #[cfg(feature = "tokio")]
    pub(crate) fn socket(&self) -> Option<&Arc<OwnedFd>> {
        self.control.as_ref()?.socket.as_ref()
    }

    /// How long until it is worth while to look for a lost agent again, if it is at all.
    #[cfg(feature = "tokio")]
    pub(crate) fn retry_in(&self) -> Option<Duration> {
        let control = self.control.as_ref().filter(|control| !control.given_up)?;
        let lost = control.socket.is_none();
        lost.then(|| control.retry_at.saturating_duration_since(Instant::now()))
    }

    /// Tells the agent, if it is there.
    pub(crate) fn tell(&mut self, frame: &Frame) {
        if let Some(socket) = self.control.as_ref().and_then(|control| control.socket.as_ref()) {
            // An agent that is gone or slow learns it from the memory or not at all.
            let _ = fdpass::send(socket, &frame.encode(), None);
        }
    }
}

impl Control {
    /// For an end that was granted; `confirmed` if the agent has said LIVE already.
    pub(crate) fn new(path: &Path, socket: OwnedFd, resume: Resume, confirmed: bool) -> Self {
        Self {
            path: path.to_path_buf(),
            socket: Some(Arc::new(socket)),
            resume,
            held: Vec::new(),
            retry_at: Instant::now(),
            retry_pause: RETRY.0,
            given_up: false,
            live: true,
            confirmed,
        }
    }

    fn next(&mut self) -> Option<(Frame, Option<OwnedFd>)> {
        if self.socket.is_none() && !self.given_up {
            self.reconnect();
        }
        let received = fdpass::receive(self.socket.as_deref()?);
        let packet = match received {
            Ok(packet) if !packet.bytes.is_empty() => packet,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return None,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => return None,
            _ => {
                self.disconnected();
                return None;
            }
        };
        let Ok(frame) = Frame::decode(&packet.bytes) else {
            self.disconnected();
            return None;
        };
        match &frame {
            Frame::Live => {
                self.retry_pause = RETRY.0;
                self.confirmed = true;
                // An agent that had this end all the time has handed out these segments itself.
                if !std::mem::replace(&mut self.live, true) {
                    self.present();
                }
            }
            // Only a recovering agent is worth another try.
            Frame::Refused { reason, .. } => {
                self.given_up = reason != RECOVERING;
                self.disconnected();
            }
            _ => {}
        }
        Some((frame, packet.descriptors.into_iter().next()))
    }

    /// Shows the segments that this end reads. What cannot be sent is missed by nobody but a
    /// peer that attaches anew, and that one is told to try again.
    fn present(&self) {
        let Some(socket) = &self.socket else { return };
        for (role, number, fd) in &self.held {
            let frame = Frame::Present { role: *role, number: *number };
            let _ = fdpass::send(socket, &frame.encode(), Some(fd.as_fd()));
        }
    }

    fn disconnected(&mut self) {
        self.socket = None;
        self.live = false;
        self.retry_at = Instant::now() + self.retry_pause;
        self.retry_pause = (self.retry_pause * 2).min(RETRY.1);
    }

    /// Presents the own segment to an agent that came back.
    fn reconnect(&mut self) {
        if Instant::now() < self.retry_at {
            return;
        }
        let Resume { role, lane, generation, token, start, lifeline, .. } = self.resume;
        let claim = Claim::Resume { lane, generation, token };
        let thread = nix::unistd::gettid().as_raw().cast_unsigned();
        // The agent's journal knows what this end said when it attached.
        let hello = Frame::Hello { role, claim, thread, schema: 0, start, lifeline };
        let presented = open(&self.path).and_then(|socket| {
            let segment = self.resume.segment.as_fd();
            fdpass::send(&socket, &hello.encode(), Some(segment))?;
            Ok(socket)
        });
        match presented {
            Ok(socket) => self.socket = Some(Arc::new(socket)),
            Err(_) => self.disconnected(),
        }
    }
}

/// Connects to the attach socket; never blocks on it afterwards.
///
/// # Errors
/// The kernel's word, for instance `ENOENT` or `ECONNREFUSED`.
pub(crate) fn open(path: &Path) -> std::io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    let address = UnixAddr::new(path)?;
    loop {
        match connect(std::os::fd::AsRawFd::as_raw_fd(&socket), &address) {
            Err(Errno::EINTR) => {}
            result => return result.map(|()| socket).map_err(Into::into),
        }
    }
}
