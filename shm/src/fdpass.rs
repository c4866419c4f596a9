//! Frames and file descriptors over a `SOCK_SEQPACKET` Unix socket.
//!
//! One packet is one frame. Whatever descriptors arrive are owned at once, so that a packet with
//! surprises leaks nothing; a truncated packet or control message is treated as an attack.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

use crate::wire::FRAME_MAX;

/// Descriptors that a packet may carry. More are closed and the packet is refused.
pub const DESCRIPTORS_MAX: usize = 4;
/// Descriptors that the kernel lets a packet carry (`SCM_MAX_FD`). There is room for all of them:
/// those of a control message that was cut off are installed all the same, and nobody is told.
const KERNEL_DESCRIPTORS_MAX: usize = 253;

/// A packet as it arrived.
#[derive(Debug)]
pub struct Packet {
    /// The frame's bytes; empty means that the peer closed the connection.
    pub bytes: Vec<u8>,
    /// Descriptors that came with it.
    pub descriptors: Vec<OwnedFd>,
}

/// Sends one frame, with at most one descriptor, without blocking.
///
/// # Errors
/// `WouldBlock` if the peer does not read; `BrokenPipe` if it is gone.
pub fn send(socket: impl AsFd, bytes: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let raw = descriptor.map(|fd| [fd.as_raw_fd()]);
    let control: Vec<_> = raw.iter().map(|fds| ControlMessage::ScmRights(fds)).collect();
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    let fd = socket.as_fd().as_raw_fd();
    let sent = sendmsg::<()>(fd, &[IoSlice::new(bytes)], &control, flags, None)?;
    if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Receives one packet without blocking.
///
/// # Errors
/// `WouldBlock` if there is none; `InvalidData` if the packet or its descriptors were cut off.
pub fn receive(socket: impl AsFd) -> io::Result<Packet> {
    let mut bytes = vec![0; FRAME_MAX];
    let mut control = nix::cmsg_space!([std::os::fd::RawFd; KERNEL_DESCRIPTORS_MAX]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let (len, cut, descriptors) = {
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let fd = socket.as_fd().as_raw_fd();
        let message = recvmsg::<()>(fd, &mut parts, Some(&mut control), flags)?;
        let cut = message.flags.intersects(MsgFlags::MSG_CTRUNC | MsgFlags::MSG_TRUNC);
        let mut descriptors = Vec::new();
        if let Ok(messages) = message.cmsgs() {
            for message in messages {
                if let ControlMessageOwned::ScmRights(raw) = message {
                    descriptors.extend(raw.into_iter().map(own));
                }
            }
        }
        (message.bytes, cut, descriptors)
    };
    if cut || descriptors.len() > DESCRIPTORS_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    bytes.truncate(len);
    Ok(Packet { bytes, descriptors })
}

fn own(raw: std::os::fd::RawFd) -> OwnedFd {
    // SAFETY: the kernel just installed this descriptor for us through SCM_RIGHTS; nobody else
    // in this process knows its number, so we are its only owner.
    unsafe { OwnedFd::from_raw_fd(raw) }
}
