//! shmem-ipc: its typed ring in a sealed memfd.
//!
//! Practice: spinning ends use the ring's own calls, which wake nobody; sleeping ends those with
//! eventfds. Small messages go by value, large ones are written and read in place. The initiator
//! makes both rings and hands their descriptors over.

use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use laneway_shm::fdpass;
use nix::sys::socket::SockType;
use shmem_ipc::sharedring::{Receiver, Sender};

use super::in_place::{receive_in_place, receive_values, send_in_place, send_values};
use super::meeting::Meeting;
use super::{Errand, play, streams};
use crate::error::BenchError;
use crate::message::{Idle, Large, PATIENCE, Seen, Small, judge};
use crate::ports::{Inlet, LargeInlet, LargeOutlet, Outlet};
use crate::queue::by_value;
use crate::stream::BATCH;
use crate::task::{Answer, Side};

/// Two rings, one for each way.
pub(crate) fn serve(errand: &Errand, meeting: &Meeting) -> Result<Answer, BenchError> {
    let part = || meeting.part(errand.side);
    by_value!(errand.cell.bytes, [8, 56, 64, 256, 1024],
    N => {
        let (mut outlet, mut inlet) = ends::<N>(errand, meeting)?;
        play(errand, &mut Small::<N>, &mut outlet, &mut inlet, part)
    },
    else by_value!(errand.cell.bytes, [4096, 65536, 1_048_576],
        N => {
            let (mut outlet, mut inlet) = ends::<N>(errand, meeting)?;
            play(errand, &mut Large::new(N), &mut outlet, &mut inlet, part)
        },
        else Err(BenchError::Rival {
            what: "shmem-ipc",
            why: format!("no ring for messages of {} bytes", errand.cell.bytes),
        })))
}

struct Sending<const N: usize> {
    ring: Sender<[u8; N]>,
    spins: bool,
}

struct Receiving<const N: usize> {
    ring: Receiver<[u8; N]>,
    spins: bool,
}

fn ends<const N: usize>(
    errand: &Errand,
    meeting: &Meeting,
) -> Result<(Sending<N>, Receiving<N>), BenchError> {
    let socket = streams::connected(errand.side, meeting, SockType::SeqPacket)?;
    let depth = errand.cell.depth as usize;
    let wrong = |error| BenchError::rival("shmem-ipc")(error);
    let (sender, receiver) = match errand.side {
        Side::Initiator => {
            let sender = Sender::new(depth).map_err(wrong)?;
            let receiver = Receiver::new(depth).map_err(wrong)?;
            hand(&socket, sender.memfd().as_file())?;
            hand(&socket, sender.empty_signal())?;
            hand(&socket, sender.full_signal())?;
            hand(&socket, receiver.memfd().as_file())?;
            hand(&socket, receiver.empty_signal())?;
            hand(&socket, receiver.full_signal())?;
            (sender, receiver)
        }
        Side::Responder => {
            let next = || accept(&socket);
            let receiver = Receiver::open(depth, next()?, next()?, next()?).map_err(wrong)?;
            let sender = Sender::open(depth, next()?, next()?, next()?).map_err(wrong)?;
            (sender, receiver)
        }
    };
    let spins = errand.spins();
    Ok((Sending { ring: sender, spins }, Receiving { ring: receiver, spins }))
}

/// Gives the other side a descriptor.
pub(super) fn hand(socket: &UnixStream, file: &File) -> Result<(), BenchError> {
    fdpass::send(socket, b"ring", Some(file.as_fd()))
        .map_err(BenchError::io("cannot hand a descriptor over"))
}

/// Takes a descriptor from the other side.
pub(super) fn accept(socket: &UnixStream) -> Result<File, BenchError> {
    let start = Instant::now();
    loop {
        match fdpass::receive(socket) {
            Ok(mut packet) => match packet.descriptors.pop() {
                Some(descriptor) => return Ok(File::from(descriptor)),
                None => return Err(BenchError::Peer(Duration::ZERO)),
            },
            Err(error) if error.kind() == ErrorKind::WouldBlock && start.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => return Err(BenchError::io("cannot take a descriptor")(error)),
        }
    }
}

impl<const N: usize> Sending<N> {
    /// Waits for room as this end waits.
    #[inline(always)]
    fn pause(&mut self, idle: &mut Idle) -> Result<(), BenchError> {
        if self.spins {
            return idle.spin();
        }
        let room = self.ring.block_until_writable();
        room.map(|_| ()).map_err(BenchError::rival("block_until_writable"))
    }
}

impl<const N: usize> Outlet<N> for Sending<N> {
    #[inline(always)]
    fn put(&mut self, message: [u8; N]) -> Result<(), BenchError> {
        let mut idle = Idle::default();
        let mut one = std::iter::once(message);
        while send_values(&mut self.ring, !self.spins, &mut one)
            .map_err(BenchError::rival("send"))?
            == 0
        {
            self.pause(&mut idle)?;
        }
        Ok(())
    }

    #[inline(always)]
    fn put_batch(&mut self, first: u64) -> Result<(), BenchError> {
        let mut idle = Idle::default();
        let mut offsets = 0..BATCH;
        while !offsets.is_empty() {
            let mut messages =
                offsets.by_ref().map(|offset| Small::<N>::make(first + offset as u64));
            let sent = send_values(&mut self.ring, !self.spins, &mut messages)
                .map_err(BenchError::rival("send"))?;
            if sent == 0 {
                self.pause(&mut idle)?;
            }
        }
        Ok(())
    }
}

impl<const N: usize> LargeOutlet for Sending<N> {
    #[inline(always)]
    fn put_large(&mut self, _buffer: &mut [u8], number: u64) -> Result<(), BenchError> {
        let mut idle = Idle::default();
        while !send_in_place(&mut self.ring, !self.spins, number)
            .map_err(BenchError::rival("send"))?
        {
            self.pause(&mut idle)?;
        }
        Ok(())
    }
}

impl<const N: usize> Receiving<N> {
    /// Waits for a message as this end waits.
    #[inline(always)]
    fn pause(&mut self, idle: &mut Idle) -> Result<(), BenchError> {
        if self.spins {
            return idle.spin();
        }
        let there = self.ring.block_until_readable();
        there.map(|_| ()).map_err(BenchError::rival("block_until_readable"))
    }
}

impl<const N: usize> Inlet<N> for Receiving<N> {
    #[inline(always)]
    fn take(&mut self, expected: u64) -> Result<Seen, BenchError> {
        let mut idle = Idle::default();
        let mut seen = Ok(Seen::Stop);
        while receive_values(&mut self.ring, !self.spins, 1, |message: [u8; N]| {
            seen = judge(&message, N, expected);
        })
        .map_err(BenchError::rival("receive"))?
            == 0
        {
            self.pause(&mut idle)?;
        }
        seen
    }

    #[inline(always)]
    fn take_batch(&mut self, count: &mut u64) -> Result<Seen, BenchError> {
        let mut idle = Idle::default();
        let mut seen = Ok(Seen::Message);
        let mut next = *count;
        while receive_values(&mut self.ring, !self.spins, BATCH, |message: [u8; N]| {
            match judge(&message, N, next + 1) {
                Ok(Seen::Message) => next += 1,
                // The first that is not a message is what counts.
                other if matches!(seen, Ok(Seen::Message)) => seen = other,
                _ => {}
            }
        })
        .map_err(BenchError::rival("receive"))?
            == 0
        {
            self.pause(&mut idle)?;
        }
        *count = next;
        seen
    }
}

impl<const N: usize> LargeInlet for Receiving<N> {
    #[inline(always)]
    fn take_large(&mut self, buffer: &mut [u8], expected: u64) -> Result<Seen, BenchError> {
        let mut idle = Idle::default();
        loop {
            let seen = receive_in_place(&mut self.ring, !self.spins, |bytes| {
                judge(bytes, buffer.len(), expected)
            });
            match seen.map_err(BenchError::rival("receive"))? {
                Some(seen) => return seen,
                None => self.pause(&mut idle)?,
            }
        }
    }
}
