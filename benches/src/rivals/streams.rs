//! What the kernel carries: pipes, Unix sockets, TCP over the loopback interface.
//!
//! Practice: the largest buffers that the kernel gives, no delay on TCP, one `write` for each
//! message or batch, and reads of as much as is there, up to 64 KiB or one message. Spinning ends
//! do not block.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::sockopt::{RcvBuf, RcvBufForce, SndBuf, SndBufForce};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, setsockopt, socket,
};
use nix::sys::stat::Mode;

use super::meeting::Meeting;
use super::{Errand, play_shaped};
use crate::error::BenchError;
use crate::message::{Idle, Seen, Small, fill, judge};
use crate::ports::{Inlet, LargeInlet, LargeOutlet, Outlet};
use crate::stream::BATCH;
use crate::task::{Answer, Side};

/// Least buffer of a reader, in bytes.
const BUFFER: usize = 64 << 10;
/// A socket's buffer, in bytes: more than the largest message of the usual sizes.
const SOCKET_BUFFER: usize = 4 << 20;
/// A pipe's buffer, in bytes: the most that needs no privilege.
const PIPE_BUFFER: i32 = 1 << 20;
/// The note that somebody listens.
const LISTENING: &str = "listening";

/// Two pipes, one for each way.
pub(crate) fn pipe(errand: &Errand, meeting: &Meeting) -> Result<Answer, BenchError> {
    let (ping, pong) = (meeting.path("ping"), meeting.path("pong"));
    for path in [&ping, &pong] {
        // The other side may have been faster.
        match nix::unistd::mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(BenchError::io("mkfifo")(error)),
        }
    }
    // Opening waits for the other side: both open `ping` first.
    let (outlet, inlet) = match errand.side {
        Side::Initiator => {
            let outlet = open(&ping, OpenOptions::new().write(true))?;
            (outlet, open(&pong, OpenOptions::new().read(true))?)
        }
        Side::Responder => {
            let inlet = open(&ping, OpenOptions::new().read(true))?;
            (open(&pong, OpenOptions::new().write(true))?, inlet)
        }
    };
    for end in [&outlet, &inlet] {
        // Where the user has used up what pipes may have, the usual 64 KiB must do.
        let _ = fcntl(end, FcntlArg::F_SETPIPE_SZ(PIPE_BUFFER));
        if errand.spins() {
            fcntl(end, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(BenchError::io("F_SETFL"))?;
        }
    }
    converse(errand, meeting, outlet, inlet)
}

fn open(path: &Path, how: &OpenOptions) -> Result<File, BenchError> {
    how.open(path).map_err(BenchError::io("cannot open the pipe"))
}

/// One connection of a Unix socket that carries bytes.
pub(crate) fn unix_stream(errand: &Errand, meeting: &Meeting) -> Result<Answer, BenchError> {
    unix(errand, meeting, SockType::Stream)
}

/// One connection of a Unix socket that carries packets, each one message.
pub(crate) fn unix_seqpacket(errand: &Errand, meeting: &Meeting) -> Result<Answer, BenchError> {
    unix(errand, meeting, SockType::SeqPacket)
}

fn unix(errand: &Errand, meeting: &Meeting, kind: SockType) -> Result<Answer, BenchError> {
    let stream = connected(errand.side, meeting, kind)?;
    buffers(&stream)?;
    stream.set_nonblocking(errand.spins()).map_err(BenchError::io("set_nonblocking"))?;
    let other = stream.try_clone().map_err(BenchError::io("dup"))?;
    converse(errand, meeting, stream, other)
}

/// A Unix socket connected to the other side's.
pub(crate) fn connected(
    side: Side,
    meeting: &Meeting,
    kind: SockType,
) -> Result<UnixStream, BenchError> {
    let path = meeting.path("socket");
    let address = UnixAddr::new(&path).map_err(BenchError::io("the socket's path"))?;
    let made = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None);
    let made = made.map_err(BenchError::io("socket"))?;
    Ok(match side {
        Side::Responder => {
            let raw = made.as_raw_fd();
            bind(raw, &address).map_err(BenchError::io("bind"))?;
            let one = Backlog::new(1).map_err(BenchError::io("listen"))?;
            listen(&made, one).map_err(BenchError::io("listen"))?;
            meeting.tell(LISTENING, "")?;
            let (stream, _) =
                UnixListener::from(made).accept().map_err(BenchError::io("accept"))?;
            stream
        }
        Side::Initiator => {
            meeting.hear(LISTENING)?;
            let raw = made.as_raw_fd();
            connect(raw, &address).map_err(BenchError::io("connect"))?;
            UnixStream::from(made)
        }
    })
}

/// The largest buffers that this process may have.
fn buffers(socket: &impl AsFd) -> Result<(), BenchError> {
    if setsockopt(socket, SndBufForce, &SOCKET_BUFFER).is_err() {
        setsockopt(socket, SndBuf, &SOCKET_BUFFER).map_err(BenchError::io("SO_SNDBUF"))?;
    }
    if setsockopt(socket, RcvBufForce, &SOCKET_BUFFER).is_err() {
        setsockopt(socket, RcvBuf, &SOCKET_BUFFER).map_err(BenchError::io("SO_RCVBUF"))?;
    }
    Ok(())
}

/// One TCP connection over the loopback interface, without Nagle's delay.
pub(crate) fn tcp(errand: &Errand, meeting: &Meeting) -> Result<Answer, BenchError> {
    let stream = match errand.side {
        Side::Responder => {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
                .map_err(BenchError::io("cannot listen on the loopback interface"))?;
            let port = listener.local_addr().map_err(BenchError::io("local_addr"))?.port();
            meeting.tell(LISTENING, &port.to_string())?;
            listener.accept().map_err(BenchError::io("accept"))?.0
        }
        Side::Initiator => {
            let port = meeting.hear(LISTENING)?.parse().map_err(BenchError::rival("the port"))?;
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).map_err(BenchError::io("connect"))?
        }
    };
    stream.set_nodelay(true).map_err(BenchError::io("TCP_NODELAY"))?;
    stream.set_nonblocking(errand.spins()).map_err(BenchError::io("set_nonblocking"))?;
    let other = stream.try_clone().map_err(BenchError::io("dup"))?;
    converse(errand, meeting, stream, other)
}

fn converse<S: Write + Read>(
    errand: &Errand,
    meeting: &Meeting,
    outlet: S,
    inlet: S,
) -> Result<Answer, BenchError> {
    let mut outlet = Writing { stream: outlet, batch: Vec::new() };
    let mut inlet = Reading::new(inlet, errand.cell.bytes);
    play_shaped!(errand, &mut outlet, &mut inlet, || meeting.part(errand.side))
}

/// The end that writes.
#[derive(Debug)]
struct Writing<S> {
    stream: S,
    /// Where a batch is put together.
    batch: Vec<u8>,
}

fn write<S: Write>(stream: &mut S, mut bytes: &[u8]) -> Result<(), BenchError> {
    let mut idle = Idle::default();
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) => pause(error, &mut idle)?,
        }
    }
    Ok(())
}

/// Spins where a call would have blocked; any other error is one.
fn pause(error: io::Error, idle: &mut Idle) -> Result<(), BenchError> {
    match error.kind() {
        ErrorKind::WouldBlock => idle.spin(),
        ErrorKind::Interrupted => Ok(()),
        ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => Err(BenchError::Peer(Duration::ZERO)),
        _ => Err(BenchError::io("reading or writing")(error)),
    }
}

impl<S: Write, const N: usize> Outlet<N> for Writing<S> {
    #[inline(always)]
    fn put(&mut self, message: [u8; N]) -> Result<(), BenchError> {
        write(&mut self.stream, &message)
    }

    #[inline(always)]
    fn put_batch(&mut self, first: u64) -> Result<(), BenchError> {
        self.batch.clear();
        for number in (first..).take(BATCH) {
            self.batch.extend_from_slice(&Small::<N>::make(number));
        }
        write(&mut self.stream, &self.batch)
    }
}

impl<S: Write> LargeOutlet for Writing<S> {
    #[inline(always)]
    fn put_large(&mut self, buffer: &mut [u8], number: u64) -> Result<(), BenchError> {
        fill(buffer, number);
        write(&mut self.stream, buffer)
    }
}

/// The end that reads, with what it has read and not yet looked at.
#[derive(Debug)]
struct Reading<S> {
    stream: S,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl<S: Read> Reading<S> {
    fn new(stream: S, len: usize) -> Self {
        Self { stream, buffer: vec![0; len.max(BUFFER)], start: 0, end: 0 }
    }

    /// The next `len` bytes, which the buffer can hold.
    #[inline(always)]
    fn message(&mut self, len: usize) -> Result<&[u8], BenchError> {
        if self.end - self.start < len {
            self.fetch(len)?;
        }
        let message = self.buffer.get(self.start..self.start + len);
        self.start += len;
        Ok(message.unwrap_or_default())
    }

    fn fetch(&mut self, len: usize) -> Result<(), BenchError> {
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        let mut idle = Idle::default();
        while self.end < len {
            let room = self.buffer.get_mut(self.end..).unwrap_or_default();
            match self.stream.read(room) {
                Ok(0) => return Err(BenchError::Peer(Duration::ZERO)),
                Ok(read) => self.end += read,
                Err(error) => pause(error, &mut idle)?,
            }
        }
        Ok(())
    }
}

impl<S: Read, const N: usize> Inlet<N> for Reading<S> {
    #[inline(always)]
    fn take(&mut self, expected: u64) -> Result<Seen, BenchError> {
        judge(self.message(N)?, N, expected)
    }
}

impl<S: Read> LargeInlet for Reading<S> {
    #[inline(always)]
    fn take_large(&mut self, buffer: &mut [u8], expected: u64) -> Result<Seen, BenchError> {
        let len = buffer.len();
        judge(self.message(len)?, len, expected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives what it has in pieces of three bytes.
    #[derive(Debug)]
    struct Pieces(Vec<u8>);

    impl Read for Pieces {
        fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
            let piece = room.len().min(3).min(self.0.len());
            for (target, byte) in room.iter_mut().zip(self.0.drain(..piece)) {
                *target = byte;
            }
            Ok(piece)
        }
    }

    #[test]
    fn messages_are_put_together_from_pieces_of_any_size() {
        let bytes: Vec<u8> = (1..=40_000).flat_map(Small::<8>::make).collect();
        let mut reading = Reading::new(Pieces(bytes), 8);
        for number in 1..=40_000 {
            assert_eq!(Inlet::<8>::take(&mut reading, number).unwrap(), Seen::Message);
        }
        assert!(Inlet::<8>::take(&mut reading, 40_001).is_err());
    }
}
