//! A client of the attach socket that can say anything.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{ErrorKind, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use laneway_proto::v1;
use laneway_shm::wire::{Claim, Frame, Grant, Role};
use laneway_shm::{Start, fdpass};
use laneway_tests::agent::Agent;
use laneway_tests::process::PATIENCE;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, sendmsg, socket,
};

/// A connection.
pub(crate) struct Raw {
    socket: OwnedFd,
    /// What came before LIVE and was not looked at yet.
    early: RefCell<VecDeque<Heard>>,
}

/// A frame of the agent's, with its descriptor.
type Heard = (Frame, Option<OwnedFd>);

impl Raw {
    pub(crate) fn connect(agent: &Agent) -> Self {
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).expect("socket");
        let address = UnixAddr::new(&agent.attach_socket()).expect("address");
        connect(socket.as_raw_fd(), &address).expect("the agent listens");
        Self { socket, early: RefCell::default() }
    }

    /// Connects and sends a first frame.
    pub(crate) fn asks(agent: &Agent, frame: &Frame) -> Self {
        let client = Self::connect(agent);
        client.send(frame, None);
        client
    }

    pub(crate) fn send(&self, frame: &Frame, fd: Option<BorrowedFd<'_>>) {
        fdpass::send(&self.socket, &frame.encode(), fd).expect("sent");
    }

    /// False if the agent has hung up already.
    pub(crate) fn try_send(&self, frame: &Frame) -> bool {
        fdpass::send(&self.socket, &frame.encode(), None).is_ok()
    }

    /// Sends any packet with any descriptors.
    pub(crate) fn send_bytes(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let control = if raw.is_empty() { &rights[1..] } else { &rights[..] };
        let (parts, flags) = ([IoSlice::new(bytes)], MsgFlags::MSG_NOSIGNAL);
        sendmsg::<()>(self.socket.as_raw_fd(), &parts, control, flags, None).expect("sent");
    }

    /// The agent's next frame; `None` once it has hung up.
    pub(crate) fn next(&self) -> Option<Heard> {
        self.early.borrow_mut().pop_front().or_else(|| self.receive())
    }

    /// Says MAPPED and waits for LIVE. What the agent shows before is the next to be heard.
    pub(crate) fn live(&self) {
        self.send(&Frame::Mapped, None);
        loop {
            match self.receive().expect("the agent takes this end") {
                (Frame::Live, _) => return,
                early => self.early.borrow_mut().push_back(early),
            }
        }
    }

    fn receive(&self) -> Option<Heard> {
        let deadline = Instant::now() + PATIENCE;
        let packet = loop {
            match fdpass::receive(&self.socket) {
                Ok(packet) => break packet,
                // What it had not read when it hung up.
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
            }
            assert!(Instant::now() < deadline, "the agent neither answers nor hangs up");
            let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::from(1000_u16)).expect("poll");
        };
        if packet.bytes.is_empty() {
            return None;
        }
        let frame = Frame::decode(&packet.bytes).expect("the agent speaks the protocol");
        Some((frame, packet.descriptors.into_iter().next()))
    }

    /// How the conversation ends: the reason of a refusal, or `closed`. What was shown of peers
    /// before does not matter.
    pub(crate) fn end(&self) -> String {
        loop {
            match self.next() {
                None => return "closed".to_owned(),
                Some((Frame::Generation(_) | Frame::Ended { .. } | Frame::Join(_), _)) => {}
                Some((Frame::Refused { reason, message }, None)) => {
                    let plain = !message.is_empty() && !message.contains(char::is_control);
                    assert!(plain, "{message:?}");
                    assert!(self.next().is_none(), "a refusal is the last word");
                    return reason;
                }
                Some((frame, _)) => panic!("no end: {frame:?}"),
            }
        }
    }

    /// The grant, which has to come now.
    pub(crate) fn grant(&self) -> (Grant, OwnedFd) {
        match self.next() {
            Some((Frame::Grant(grant), Some(fd))) => (*grant, fd),
            other => panic!("no grant: {other:?}"),
        }
    }
}

/// Tries until something comes of it.
pub(crate) fn until<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = attempt() {
            return found;
        }
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub(crate) fn hello(role: Role, claim: Claim) -> Frame {
    Frame::Hello { role, claim, thread: 1, schema: 0, start: Start::Newest, lifeline: false }
}

pub(crate) fn ticket_for(agent: &Agent, lane: &str, role: Role) -> String {
    agent.ticket(
        lane,
        match role {
            Role::Producer => v1::Role::Producer,
            Role::Consumer => v1::Role::Consumer,
        },
    )
}

pub(crate) fn claim_of(ticket: &str) -> Claim {
    Claim::Ticket(u128::from_str_radix(ticket, 16).expect("digits").to_be_bytes())
}

/// Attaches an end by the lane's name, as soon as it is free, up to LIVE.
pub(crate) fn attached(agent: &Agent, lane: &str, role: Role) -> (Raw, Grant, OwnedFd) {
    let (client, grant, fd) = until("the end is free", || {
        let client = Raw::asks(agent, &hello(role, Claim::Name(lane.to_owned())));
        match client.next() {
            Some((Frame::Grant(grant), Some(fd))) => Some((client, *grant, fd)),
            Some((Frame::Refused { reason, .. }, None)) if reason == "ROLE_TAKEN" => None,
            other => panic!("no grant: {other:?}"),
        }
    });
    client.live();
    (client, grant, fd)
}

/// Open descriptors of the agent, once they no longer change.
pub(crate) fn fds(agent: &Agent) -> usize {
    let count = || std::fs::read_dir(format!("/proc/{}/fd", agent.pid())).expect("fds").count();
    let mut before = count();
    loop {
        // A control connection of the test itself may be closing.
        std::thread::sleep(Duration::from_millis(50));
        let now = count();
        if now == before {
            return now;
        }
        before = now;
    }
}

/// Waits until the agent has as many descriptors as before, or fewer: it may have closed one late.
pub(crate) fn until_fds_are(agent: &Agent, expected: usize) {
    let deadline = Instant::now() + Duration::from_secs(15);
    loop {
        let now = fds(agent);
        if now <= expected {
            return;
        }
        let folder = std::fs::read_dir(format!("/proc/{}/fd", agent.pid())).expect("fds");
        let targets = folder.flatten().filter_map(|fd| std::fs::read_link(fd.path()).ok());
        let targets: Vec<_> = targets.collect();
        assert!(Instant::now() < deadline, "{now} descriptors, more than {expected}: {targets:?}");
    }
}
