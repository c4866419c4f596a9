//! Both sides of the attach protocol against a peer that says what the input says.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use laneway_shm::layout::{CONSUMER_SEGMENT_BYTES, Header, KIND_CONSUMER, KIND_PRODUCER};
use laneway_shm::memfd::Draft;
use laneway_shm::wire::{Frame, Grant, PeerSegment, Role};
use laneway_shm::{Attach, AttachError, fdpass};
use laneway_tests::fuzz::{Input, fuzz};
use laneway_tests::process::PATIENCE;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, MsgFlags, Shutdown, SockFlag, SockType, UnixAddr,
    accept, bind, listen, sendmsg, shutdown, socket,
};

use crate::agent::InProcess;
use crate::frames::{Carried, Packet, packet};

/// Packets of one conversation, at most.
const PACKETS_MAX: usize = 12;
/// Longest wait of a client for its agent.
const SOON: Duration = Duration::from_millis(20);

fn packets(input: &mut Input<'_>) -> Vec<Packet> {
    let more = |_: &usize| !input.is_empty();
    let count = (0..PACKETS_MAX).take_while(more).count();
    (0..count).map_while(|_| (!input.is_empty()).then(|| packet(input))).collect()
}

/// Sends bytes and descriptors, unless the other side is gone or full.
fn send(socket: &OwnedFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &rights[1..] } else { &rights[..] };
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    let parts = [std::io::IoSlice::new(bytes)];
    let _ = sendmsg::<()>(socket.as_raw_fd(), &parts, control, flags, None);
}

fn stranger() -> OwnedFd {
    std::fs::File::open("/dev/null").expect("there is one").into()
}

/// Waits for the other side's next packet; `None` once it has hung up.
fn next(socket: &OwnedFd, patience: Duration) -> Option<fdpass::Packet> {
    let deadline = Instant::now() + patience;
    loop {
        match fdpass::receive(socket) {
            Ok(packet) if packet.bytes.is_empty() => return None,
            Ok(packet) => return Some(packet),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return None,
        }
        assert!(Instant::now() < deadline, "oracle: neither an answer nor a hang-up");
        let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut fds, PollTimeout::from(1000_u16));
    }
}

/// Says everything, hangs up, and hears what the agent has to say.
fn converse(agent: &InProcess, packets: &[Packet]) {
    let socket = agent.connect();
    for packet in packets {
        let files = [stranger(), stranger()];
        let count = match packet.carried {
            Carried::Nothing => 0,
            Carried::Fitting | Carried::Stranger => 1,
            Carried::Two => 2,
        };
        let fds: Vec<BorrowedFd<'_>> = files.iter().take(count).map(AsFd::as_fd).collect();
        send(&socket, &packet.bytes, &fds);
    }
    let _ = shutdown(socket.as_raw_fd(), Shutdown::Write);
    while let Some(packet) = next(&socket, PATIENCE) {
        let frame = Frame::decode(&packet.bytes).expect("oracle: the agent speaks the protocol");
        assert_eq!(packet.descriptors.len(), frame.descriptors(), "oracle: descriptors");
        if let Frame::Refused { message, .. } = frame {
            assert!(!message.chars().any(char::is_control), "oracle: {message:?}");
        }
    }
}

/// HELLO by name for either end of either lane, MAPPED, and some events.
fn handshakes() -> Vec<Vec<u8>> {
    let hello = |role: u8, lane: u8| vec![0, 0, role, lane, 7, 0, 0, 0, 0, 4];
    let ends = [hello(0, 0), hello(1, 0), hello(0, 1), hello(1, 1)];
    let events = [0, 6, 1, 0, 10, 1, 9, 0, 11, 1, 1, 0, 0, 9, 1, 1, 0, 8];
    ends.into_iter().map(|mut end| [&std::mem::take(&mut end)[..], &events].concat()).collect()
}

#[test]
fn attach_handshake() {
    let agent = InProcess::start();
    agent.create("orders", None);
    agent.create("quotes", Some(3));
    fuzz("attach_handshake", handshakes(), &mut |bytes| {
        for packets in packets(&mut Input(bytes)).chunks(6) {
            converse(&agent, packets);
        }
    });
    agent.create("afterwards", None);
    let mut producer = Attach::by_name(agent.path(), "afterwards").producer().unwrap();
    let mut consumer = Attach::by_name(agent.path(), "afterwards").consumer().unwrap();
    producer.send(b"still there", PATIENCE).unwrap();
    assert_eq!(consumer.recv(PATIENCE).unwrap().to_vec(), b"still there");
}

/// An agent that answers its one client with what it was told to say.
struct Script {
    path: std::path::PathBuf,
    said: mpsc::Sender<Vec<Packet>>,
    _dir: tempfile::TempDir,
    _thread: JoinHandle<()>,
}

impl Script {
    fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("laneway-fuzz-").tempdir().expect("directory");
        let path = dir.path().join("attach.sock");
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).expect("socket");
        bind(socket.as_raw_fd(), &UnixAddr::new(&path).expect("short")).expect("a fresh path");
        listen(&socket, Backlog::new(16).expect("small")).expect("listens");
        let (said, script) = mpsc::channel::<Vec<Packet>>();
        let thread = std::thread::spawn(move || {
            while let Ok(packets) = script.recv() {
                if let Ok(client) = accept(socket.as_raw_fd()) {
                    // SAFETY: the descriptor was just made by `accept`, for nobody else.
                    let client = unsafe { std::os::fd::FromRawFd::from_raw_fd(client) };
                    answer(&client, &packets);
                }
            }
        });
        Self { path, said, _dir: dir, _thread: thread }
    }
}

/// Sends the packets; before the one after a grant, its segment is sealed as soon as the client
/// says that it has mapped it.
fn answer(client: &OwnedFd, packets: &[Packet]) {
    let _hello = next(client, PATIENCE);
    let (mut lane, mut draft): (Option<Grant>, Option<Draft>) = (None, None);
    for packet in packets {
        if let Some(draft) = draft.take() {
            if next(client, PATIENCE).is_none() {
                return;
            }
            let _sealed = draft.seal();
        }
        if let Some(Frame::Grant(grant)) = &packet.frame {
            lane = Some((**grant).clone());
        }
        let mut files = Vec::new();
        match (packet.carried, &packet.frame, &lane) {
            (Carried::Fitting, Some(Frame::Grant(grant)), _) => {
                draft = granted(grant);
                let file = draft.as_ref().and_then(|draft| draft.as_fd().try_clone_to_owned().ok());
                files.push(file.unwrap_or_else(stranger));
            }
            (Carried::Fitting, Some(frame), Some(lane)) => {
                files.push(announced(frame, lane).unwrap_or_else(stranger));
            }
            (Carried::Nothing, ..) => {}
            (Carried::Two, ..) => files.extend([stranger(), stranger()]),
            _ => files.push(stranger()),
        }
        let fds: Vec<BorrowedFd<'_>> = files.iter().map(AsFd::as_fd).collect();
        send(client, &packet.bytes, &fds);
    }
}

fn header(lane: &Grant, kind: u64, generation: u64, nonce: u128, base: u64) -> Option<Header> {
    let geometry = lane.geometry().ok()?;
    Some(Header {
        kind,
        lane: lane.lane,
        generation,
        nonce,
        slot_stride: geometry.stride() as u64,
        slot_payload: u64::from(lane.slot_payload),
        slot_count: u64::from(lane.slot_count),
        base_position: base,
        size_bytes: 0,
    })
}

/// The segment that a grant speaks of, if there can be one.
fn granted(grant: &Grant) -> Option<Draft> {
    let kind = if grant.role == Role::Producer { KIND_PRODUCER } else { KIND_CONSUMER };
    let header = header(grant, kind, grant.generation, grant.nonce, grant.base)?;
    Draft::create(Header { size_bytes: grant.size_bytes, ..header }, 4096, None).ok()
}

/// The sealed segment of a peer that a frame announces.
fn announced(frame: &Frame, lane: &Grant) -> Option<OwnedFd> {
    let (kind, segment): (u64, &PeerSegment) = match frame {
        Frame::Generation(segment) => (KIND_PRODUCER, segment),
        Frame::Join(segment) | Frame::Reader { segment, .. } => (KIND_CONSUMER, segment),
        _ => return None,
    };
    let header = header(lane, kind, segment.generation, segment.nonce, segment.base)?;
    let own = CONSUMER_SEGMENT_BYTES as u64;
    let size_bytes = if kind == KIND_CONSUMER { own } else { segment.size_bytes };
    let draft = Draft::create(Header { size_bytes, ..header }, 4096, None).ok()?;
    Some(draft.seal().ok()?.into_fd())
}

/// Makes some calls on whatever end was granted: they answer, whatever that is.
fn attach_and_use(attach: &Attach, role: u8) -> Result<(), AttachError> {
    match role % 3 {
        0 => {
            let mut producer = attach.producer()?;
            for _ in 0..4 {
                let _ = producer.maintain();
                let _ = producer.send(b"message", Duration::ZERO);
            }
        }
        1 => {
            let mut consumer = attach.consumer()?;
            for _ in 0..4 {
                let _ = consumer.maintain();
                let _ = consumer.poll().map(|slot| slot.map(|slot| slot.to_vec()));
            }
        }
        _ => {
            let mut subscriber = attach.subscriber()?;
            for _ in 0..4 {
                let _ = subscriber.maintain();
                let _ = subscriber.poll().map(|message| message.map(|m| m.bytes.len()));
            }
        }
    }
    Ok(())
}

/// A grant that fits, LIVE, and the events that such an end may hear.
fn replies() -> Vec<Vec<u8>> {
    let grant = |policy: u8, role: u8| {
        let ids = [0, 1, 1, 0, 2, 0, 3];
        let sizes = [56, 3, 3, 0, 0, 0, 0, 0];
        [&[0, 12, policy, role][..], &ids, &sizes, &[0, 15]].concat()
    };
    let generation = [0, 17, 1, 0, 5, 0, 3];
    let join = [0, 18, 1, 0, 5, 0, 1];
    let reader = [0, 21, 2, 0, 5, 0, 1, 0];
    let rest = [0, 19, 1, 0, 0, 20, 0, 22, 2, 0, 23, 0];
    let ends = [(0, 7, 0), (1, 7, 1), (2, 1, 1), (2, 2, 1), (1, 0, 1), (0, 0, 0)];
    ends.into_iter()
        .map(|(call, policy, role)| {
            let start = [&[call][..], &grant(policy, role)].concat();
            [&start[..], &generation, &join, &reader, &[0, 23, 1], &rest].concat()
        })
        .collect()
}

#[test]
fn attach_reply() {
    let script = Script::start();
    let attach = Attach::by_name(&script.path, "orders").timeout(SOON).pin(false);
    fuzz("attach_reply", replies(), &mut |bytes| {
        let mut input = Input(bytes);
        let call = input.byte();
        script.said.send(packets(&mut input)).expect("the script goes on");
        if let Err(error) = attach_and_use(&attach, call) {
            assert!(!error.to_string().is_empty(), "oracle: an error says what is wrong");
        }
    });
}
