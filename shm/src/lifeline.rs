//! The lifeline: a socket between the two live ends of a lane, for whoever waits in epoll.
//!
//! The agent makes it where an end asks for one and gives each end its half: one `SOCK_SEQPACKET`
//! pair for a producer and a reader. A byte is a doorbell, a packet with one descriptor a parcel,
//! and a hang-up means that the peer's process let go of it. The data path never comes here but to
//! ring for a peer that said it sleeps.
//!
//! Nothing that a hostile peer does with its half blocks, grows or panics: every call is without
//! blocking, a full socket is a peer that has enough to wake up for, whatever is not understood is
//! read, closed and called [`Received::Junk`], and it is for the caller to stop after so many.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, send, socketpair};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};

use crate::fdpass;
#[cfg(feature = "tokio")]
use crate::frozen::FROZEN_IN_FLIGHT_MAX;

/// Longest text of a parcel, in bytes.
pub const PARCEL_MAX: usize = 64;
/// The byte that rings.
const RING: [u8; 1] = [1];

/// One end's half.
#[derive(Debug)]
pub struct Lifeline {
    fd: OwnedFd,
    /// Parcels, and what may have been some, that were read by who listened for rings.
    kept: Mutex<VecDeque<Received>>,
}

/// What came of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rung {
    /// The peer's half has something to read: this ring, or as many before it as it holds.
    Heard,
    /// Nobody holds the peer's half any more.
    Gone,
}

/// What came over a lifeline.
#[derive(Debug)]
pub enum Received {
    /// A ring.
    Doorbell,
    /// A descriptor, with the bytes that it came with: 1 to [`PARCEL_MAX`].
    Parcel(Vec<u8>, OwnedFd),
    /// What no honest peer sends. Descriptors that came with it are closed.
    Junk,
    /// Nothing, now.
    Nothing,
    /// Nothing ever again: the peer's process let go of its half.
    HungUp,
}

/// Both halves of a new lifeline.
///
/// # Errors
/// The kernel's word, `EMFILE` for instance.
pub fn pair() -> io::Result<[OwnedFd; 2]> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (one, other) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
    Ok([one, other])
}

impl Lifeline {
    /// Takes one half.
    #[must_use]
    pub fn new(fd: OwnedFd) -> Self {
        Self { fd, kept: Mutex::default() }
    }

    /// Keeps a packet for [`Lifeline::take_kept`]. False for one too many, which is closed.
    #[cfg(feature = "tokio")]
    pub(crate) fn keep(&self, packet: Received) -> bool {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let has_room = kept.len() < FROZEN_IN_FLIGHT_MAX;
        if has_room {
            kept.push_back(packet);
        }
        has_room
    }

    /// The oldest packet that was kept: it came before whatever is still to be received.
    pub(crate) fn take_kept(&self) -> Option<Received> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// Rings once. Never blocks.
    pub fn ring(&self) -> Rung {
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        match send(self.fd.as_raw_fd(), &RING, flags) {
            Err(nix::Error::EPIPE | nix::Error::ECONNRESET | nix::Error::ENOTCONN) => Rung::Gone,
            // Full means that a ring is waiting there; nothing else can be done about the rest.
            _ => Rung::Heard,
        }
    }

    /// Sends a descriptor with 1 to [`PARCEL_MAX`] bytes. Never blocks.
    ///
    /// # Errors
    /// `WouldBlock` if the peer does not read, `BrokenPipe` if it is gone, `InvalidInput` for
    /// bytes of another length, and the kernel's word, `ETOOMANYREFS` for instance where too many
    /// descriptors are under way.
    pub fn send(&self, bytes: &[u8], descriptor: BorrowedFd<'_>) -> io::Result<()> {
        if bytes.is_empty() || bytes.len() > PARCEL_MAX {
            return Err(ErrorKind::InvalidInput.into());
        }
        fdpass::send(&self.fd, bytes, Some(descriptor))
    }

    /// The next packet. Never blocks, allocates for parcels only, and reads one packet at most.
    #[must_use]
    pub fn receive(&self) -> Received {
        // A reset is told once and before what is still there to be read.
        for _ in 0..2 {
            match self.receive_once() {
                Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Received::Nothing,
                Err(error) if error.kind() == ErrorKind::Interrupted => return Received::Nothing,
                Err(_) => return Received::HungUp,
                Ok(received) => return received,
            }
        }
        Received::HungUp
    }

    fn receive_once(&self) -> io::Result<Received> {
        let mut bytes = [0; PARCEL_MAX];
        // Room for one more than is expected, so that a surplus is seen; the kernel closes what
        // does not fit.
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let received = recvmsg(&self.fd, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)?;
        // Whatever the kernel installed is owned, and closed if it is not wanted.
        let mut descriptors = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(rights) => Some(rights),
            _ => None,
        });
        let mut descriptors = descriptors.by_ref().flatten();
        let (first, more) = (descriptors.next(), descriptors.next().is_some());
        descriptors.for_each(drop);
        let cut = received.flags.intersects(ReturnFlags::CTRUNC | ReturnFlags::TRUNC);
        Ok(match (first, bytes.get(..received.bytes)) {
            // A packet of no bytes looks the same: who sends one has hung up.
            (None, Some([])) => Received::HungUp,
            (None, Some(bytes)) if !cut && bytes == RING => Received::Doorbell,
            (Some(fd), Some(bytes @ [_, ..])) if !cut && !more => {
                Received::Parcel(bytes.to_vec(), fd)
            }
            _ => Received::Junk,
        })
    }
}

impl AsFd for Lifeline {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Lifeline {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::IoSlice;

    use nix::sys::socket::{ControlMessage, Shutdown, sendmsg, shutdown};

    use super::*;
    use crate::memfd;

    fn halves() -> (Lifeline, Lifeline) {
        let [one, other] = pair().unwrap();
        (Lifeline::new(one), Lifeline::new(other))
    }

    fn send_raw(half: &Lifeline, bytes: &[u8], fds: &[RawFd]) -> nix::Result<usize> {
        let rights = [ControlMessage::ScmRights(fds)];
        let control = if fds.is_empty() { &rights[1..] } else { &rights[..] };
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        sendmsg::<()>(half.as_raw_fd(), &[IoSlice::new(bytes)], control, flags, None)
    }

    #[test]
    fn rings_parcels_and_the_end_arrive_in_order() {
        let (one, other) = halves();
        assert!(matches!(other.receive(), Received::Nothing));
        assert_eq!(one.ring(), Rung::Heard);
        let file = File::open("/dev/null").unwrap();
        one.send(b"parcel", file.as_fd()).unwrap();
        // Never read: the end is told all the same, and what was sent before it is not lost.
        other.ring();
        drop(one);
        assert!(matches!(other.receive(), Received::Doorbell));
        match other.receive() {
            Received::Parcel(bytes, _) => assert_eq!(bytes, b"parcel"),
            found => panic!("{found:?}"),
        }
        for _ in 0..2 {
            assert!(matches!(other.receive(), Received::HungUp));
            assert_eq!(other.ring(), Rung::Gone);
        }
    }

    #[test]
    fn a_peer_that_never_reads_costs_neither_time_nor_an_error() {
        let (one, other) = halves();
        for _ in 0..10_000 {
            assert_eq!(one.ring(), Rung::Heard);
        }
        let file = File::open("/dev/null").unwrap();
        let refused = one.send(b"parcel", file.as_fd()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::WouldBlock);
        assert!(matches!(other.receive(), Received::Doorbell));
    }

    #[test]
    fn whatever_a_hostile_peer_sends_is_junk_and_its_descriptors_are_closed() {
        let (one, other) = halves();
        let file = memfd::allocated_file(4096, 4096).unwrap();
        let fd = file.as_raw_fd();
        for (bytes, fds) in [
            (&b""[..], vec![fd]),
            (&b"\0"[..], vec![]),
            (&b"\x01\x01"[..], vec![]),
            (&[1; PARCEL_MAX + 1][..], vec![]),
            (&[1; PARCEL_MAX + 1][..], vec![fd]),
            (&[1; 100_000][..], vec![]),
            (&b"\x01"[..], vec![fd; 2]),
            (&b"\x01"[..], vec![fd; 3]),
            (&b"\x01"[..], vec![fd; 253]),
        ] {
            send_raw(&one, bytes, &fds).unwrap();
            let found = other.receive();
            assert!(matches!(found, Received::Junk), "{} bytes, {} fds", bytes.len(), fds.len());
            assert_eq!(fdpass::descriptors_of(&file), 1);
            assert!(matches!(other.receive(), Received::Nothing));
        }
        one.ring();
        assert!(matches!(other.receive(), Received::Doorbell));
        // Looks like a hang-up, and is taken for one.
        send_raw(&one, b"", &[]).unwrap();
        assert!(matches!(other.receive(), Received::HungUp));
    }

    #[test]
    fn a_half_that_is_shut_down_is_an_end() {
        let (one, other) = halves();
        one.ring();
        shutdown(one.as_raw_fd(), Shutdown::Write).unwrap();
        assert!(matches!(other.receive(), Received::Doorbell));
        assert!(matches!(other.receive(), Received::HungUp));
        let (one, other) = halves();
        shutdown(one.as_raw_fd(), Shutdown::Read).unwrap();
        assert_eq!(other.ring(), Rung::Gone);
    }

    #[test]
    fn a_parcel_has_one_to_sixty_four_bytes() {
        let (one, other) = halves();
        let file = File::open("/dev/null").unwrap();
        for len in [0, PARCEL_MAX + 1] {
            let refused = one.send(&vec![7; len], file.as_fd()).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::InvalidInput);
        }
        one.send(&[7; PARCEL_MAX], file.as_fd()).unwrap();
        assert!(matches!(other.receive(), Received::Parcel(bytes, _) if bytes.len() == 64));
    }
}
