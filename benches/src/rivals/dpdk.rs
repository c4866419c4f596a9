//! DPDK's ring between two processes, used in both ways that its documentation offers.
//!
//! Practice: one producer, one consumer, a power of two of elements, huge pages. Elements are
//! copied in and out, alone or up to 32 with one call; or they are reserved, written and read
//! where they lie ("zero copy"). The initiator makes both rings and hands their memory over.

use nix::sys::socket::SockType;

use super::dpdk_ring::{Consumer, Element, Producer, Ring};
use super::meeting::Meeting;
use super::rings::{accept, hand};
use super::{Errand, play, play_shaped, streams};
use crate::error::BenchError;
use crate::message::{Idle, Seen, Small, fill, judge};
use crate::plan::Who;
use crate::ports::{Inlet, LargeInlet, LargeOutlet, Outlet};
use crate::queue::by_value;
use crate::stream::BATCH;
use crate::task::{Answer, Side, Work};

/// Elements of a ring that nothing is sent over: one, and the one that stays empty.
const IDLE_COUNT: u32 = 2;

/// Two rings, one for each way.
pub(crate) fn serve(errand: &Errand, meeting: &Meeting) -> Result<Answer, BenchError> {
    let part = || meeting.part(errand.side);
    let (producer, consumer) = ends(errand, meeting)?;
    if errand.cell.who == Who::DpdkInPlace {
        return play_shaped!(errand, &mut InPlace(producer), &mut InPlace(consumer), part);
    }
    by_value!(errand.cell.bytes, [8, 56, 64, 256, 1024, 4096],
    N => {
        let mut inlet = Receiving::<N> { ring: consumer, batch: vec![[0; N]; BATCH] };
        play(errand, &mut Small::<N>, &mut Sending(producer), &mut inlet, part)
    },
    else Err(BenchError::Rival {
        what: "DPDK's ring",
        why: format!("no elements of {} bytes that are copied", errand.cell.bytes),
    }))
}

fn ends(errand: &Errand, meeting: &Meeting) -> Result<(Producer, Consumer), BenchError> {
    let socket = streams::connected(errand.side, meeting, SockType::SeqPacket)?;
    let bytes = u32::try_from(errand.cell.bytes).unwrap_or(u32::MAX);
    let there = errand.cell.depth.next_power_of_two();
    let back = if errand.cell.work == Work::Latency { there } else { IDLE_COUNT };
    match errand.side {
        Side::Initiator => {
            let (ping, memory) = Ring::create(bytes, there)?;
            hand(&socket, &memory)?;
            let (pong, memory) = Ring::create(bytes, back)?;
            hand(&socket, &memory)?;
            Ok((ping.producer(), pong.consumer()))
        }
        Side::Responder => {
            let ping = Ring::open(&accept(&socket)?, bytes, there)?;
            let pong = Ring::open(&accept(&socket)?, bytes, back)?;
            Ok((pong.producer(), ping.consumer()))
        }
    }
}

/// Copies messages in.
struct Sending(Producer);

/// Copies messages out.
struct Receiving<const N: usize> {
    ring: Consumer,
    batch: Vec<[u8; N]>,
}

impl<const N: usize> Outlet<N> for Sending
where
    [u8; N]: Element,
{
    #[inline(always)]
    fn put(&mut self, message: [u8; N]) -> Result<(), BenchError> {
        let mut idle = Idle::default();
        while !self.0.enqueue(&message) {
            idle.spin()?;
        }
        Ok(())
    }

    #[inline(always)]
    fn put_batch(&mut self, first: u64) -> Result<(), BenchError> {
        let messages: [_; BATCH] =
            std::array::from_fn(|offset| Small::<N>::make(first + offset as u64));
        let mut idle = Idle::default();
        let mut rest = &messages[..];
        while !rest.is_empty() {
            let sent = self.0.enqueue_burst(rest);
            if sent == 0 {
                idle.spin()?;
            }
            rest = rest.get(sent..).unwrap_or_default();
        }
        Ok(())
    }
}

impl<const N: usize> Inlet<N> for Receiving<N>
where
    [u8; N]: Element,
{
    #[inline(always)]
    fn take(&mut self, expected: u64) -> Result<Seen, BenchError> {
        let mut idle = Idle::default();
        loop {
            match self.ring.dequeue::<[u8; N]>() {
                Some(message) => return judge(&message, N, expected),
                None => idle.spin()?,
            }
        }
    }

    #[inline(always)]
    fn take_batch(&mut self, count: &mut u64) -> Result<Seen, BenchError> {
        let mut idle = Idle::default();
        loop {
            let messages = self.ring.dequeue_burst(&mut self.batch);
            for message in messages {
                if judge(message, N, *count + 1)? == Seen::Stop {
                    return Ok(Seen::Stop);
                }
                *count += 1;
            }
            if !messages.is_empty() {
                return Ok(Seen::Message);
            }
            idle.spin()?;
        }
    }
}

/// Writes and reads messages where they lie.
struct InPlace<E>(E);

impl InPlace<Producer> {
    /// Sends `count` messages from number `first` on, each made by `write`.
    #[inline(always)]
    fn send(
        &mut self,
        first: u64,
        count: usize,
        mut write: impl FnMut(&mut [u8], u64),
    ) -> Result<(), BenchError> {
        let mut idle = Idle::default();
        let mut sent = 0;
        while sent < count {
            let more = self.0.enqueue_in_place(count - sent, |index, bytes| {
                write(bytes, first + (sent + index) as u64);
            });
            if more == 0 {
                idle.spin()?;
            }
            sent += more;
        }
        Ok(())
    }
}

impl InPlace<Consumer> {
    /// Judges at least one message and at most `most`, and counts them.
    #[inline(always)]
    fn receive(
        &mut self,
        count: &mut u64,
        most: usize,
        mut look: impl FnMut(&[u8], u64) -> Result<Seen, BenchError>,
    ) -> Result<Seen, BenchError> {
        let mut idle = Idle::default();
        let mut seen = Ok(Seen::Message);
        while self.0.dequeue_in_place(most, |bytes| match look(bytes, *count + 1) {
            Ok(Seen::Message) => *count += 1,
            // The first that is not a message is what counts.
            other if matches!(seen, Ok(Seen::Message)) => seen = other,
            _ => {}
        }) == 0
        {
            idle.spin()?;
        }
        seen
    }
}

impl<const N: usize> Outlet<N> for InPlace<Producer> {
    #[inline(always)]
    fn put(&mut self, message: [u8; N]) -> Result<(), BenchError> {
        self.send(0, 1, |bytes, _| place(bytes, message))
    }

    #[inline(always)]
    fn put_batch(&mut self, first: u64) -> Result<(), BenchError> {
        self.send(first, BATCH, |bytes, number| place(bytes, Small::<N>::make(number)))
    }
}

impl<const N: usize> Inlet<N> for InPlace<Consumer> {
    #[inline(always)]
    fn take(&mut self, expected: u64) -> Result<Seen, BenchError> {
        self.receive(&mut (expected - 1), 1, |bytes, number| judge(sized::<N>(bytes), N, number))
    }

    #[inline(always)]
    fn take_batch(&mut self, count: &mut u64) -> Result<Seen, BenchError> {
        self.receive(count, BATCH, |bytes, number| judge(sized::<N>(bytes), N, number))
    }
}

impl LargeOutlet for InPlace<Producer> {
    #[inline(always)]
    fn put_large(&mut self, _buffer: &mut [u8], number: u64) -> Result<(), BenchError> {
        self.send(number, 1, fill)
    }
}

impl LargeInlet for InPlace<Consumer> {
    #[inline(always)]
    fn take_large(&mut self, buffer: &mut [u8], expected: u64) -> Result<Seen, BenchError> {
        self.receive(&mut (expected - 1), 1, |bytes, number| judge(bytes, buffer.len(), number))
    }
}

/// Stores a message whose size the compiler knows.
#[inline(always)]
fn place<const N: usize>(bytes: &mut [u8], message: [u8; N]) {
    if let Some(bytes) = bytes.first_chunk_mut() {
        *bytes = message;
    }
}

/// An element as a message whose size the compiler knows.
#[inline(always)]
fn sized<const N: usize>(bytes: &[u8]) -> &[u8] {
    bytes.first_chunk::<N>().map_or(bytes, |bytes| bytes)
}
