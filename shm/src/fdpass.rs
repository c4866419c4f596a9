//! Frames and file descriptors over a `SOCK_SEQPACKET` Unix socket.
//!
//! One packet is one frame. Whatever descriptors arrive are owned at once, so that a packet with
//! surprises leaks nothing; a truncated packet or control message is treated as an attack.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};

use crate::wire::FRAME_MAX;

/// Descriptors that a packet may carry. More are closed and the packet is refused.
pub const DESCRIPTORS_MAX: usize = 4;

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
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)?;
    // Whatever the kernel installed is owned here, also what is left of a list that was cut off.
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    let cut = received.flags.intersects(ReturnFlags::CTRUNC | ReturnFlags::TRUNC);
    if cut || descriptors.len() > DESCRIPTORS_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    bytes.truncate(received.bytes);
    Ok(Packet { bytes, descriptors })
}

/// Descriptors of this process that lead to the same file as `fd`: others come and go as other
/// tests run.
#[cfg(test)]
pub(crate) fn descriptors_of(fd: impl AsFd) -> usize {
    use std::os::unix::fs::MetadataExt;
    let identity = |path: std::path::PathBuf| {
        // One of another thread's may be closed by now.
        std::fs::metadata(path).ok().map(|found| (found.dev(), found.ino()))
    };
    let folder = std::path::Path::new("/proc/self/fd");
    let wanted = identity(folder.join(fd.as_fd().as_raw_fd().to_string()));
    let open = std::fs::read_dir(folder).into_iter().flatten().flatten();
    open.filter(|entry| identity(entry.path()) == wanted).count()
}
