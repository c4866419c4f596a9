//! What a message carries, so that a reader who skipped a byte would be caught.
//!
//! Eight bytes of sequence number, then its lowest byte repeated to the end. "All" readers check
//! the number and the sum of every other byte; "header" readers check the number. How the bytes
//! travel is the best documented practice for their size: small ones are built privately and
//! sent, larger ones are written in place; both are copied out by a strict consumer.

use std::mem::MaybeUninit;
use std::time::{Duration, Instant};

use laneway_shm::{Consumer, Producer, ReserveError, View, WriteBatch};

use crate::error::BenchError;
use crate::stream::BATCH;

/// Number that ends a run.
pub(crate) const STOP: u64 = u64::MAX;
/// How long an end waits for the other before it gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of the sequence number: the smallest message.
pub(crate) const NUMBER_BYTES: usize = 8;
/// Polls between two looks at the clock.
const POLLS: u32 = 1 << 16;

/// A wait that gives up at some time, without a clock in its fast path.
#[derive(Debug, Default)]
pub(crate) struct Idle {
    polls: u32,
    since: Option<Instant>,
}

impl Idle {
    /// Called after each look that found nothing.
    #[inline(always)]
    pub(crate) fn spin(&mut self) -> Result<(), BenchError> {
        std::hint::spin_loop();
        self.polls = self.polls.wrapping_add(1);
        if self.polls.is_multiple_of(POLLS) { self.look() } else { Ok(()) }
    }

    #[cold]
    fn look(&mut self) -> Result<(), BenchError> {
        if self.since.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
            Err(BenchError::Peer(PATIENCE))
        } else {
            Ok(())
        }
    }
}

/// What a reader found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// The message that was expected.
    Message,
    /// The end of the run.
    Stop,
}

/// A consuming end: the strict one, or the one that trusts its producer.
pub(crate) trait Inlet {
    /// The next message's bytes: `buffer` filled and handed to `read`, or the lane's own bytes
    /// where that is allowed.
    fn take_all<R>(
        &mut self,
        buffer: &mut [u8],
        read: impl FnOnce(&[u8]) -> R,
    ) -> Result<R, BenchError>;

    /// Judges the next message, of `N` bytes, by value: from the lane to registers.
    fn take_small<const N: usize>(&mut self, expected: u64) -> Result<Seen, BenchError>;

    /// The next message's sequence number and length.
    fn take_number(&mut self) -> Result<(u64, usize), BenchError>;
}

impl Inlet for Consumer {
    #[inline(always)]
    fn take_all<R>(
        &mut self,
        buffer: &mut [u8],
        read: impl FnOnce(&[u8]) -> R,
    ) -> Result<R, BenchError> {
        let slot = self.recv(PATIENCE)?;
        let found = slot.len();
        let copied = slot.copy_to(buffer);
        slot.release();
        // The usual case has a length that the compiler knows.
        Ok(if found == buffer.len() {
            read(buffer)
        } else {
            read(buffer.get(..copied).unwrap_or_default())
        })
    }

    #[inline(always)]
    fn take_small<const N: usize>(&mut self, expected: u64) -> Result<Seen, BenchError> {
        self.recv_array(PATIENCE, |bytes: [u8; N]| judge(&bytes, N, expected))?
    }

    #[inline(always)]
    fn take_number(&mut self) -> Result<(u64, usize), BenchError> {
        let slot = self.recv(PATIENCE)?;
        let mut number = [0; NUMBER_BYTES];
        slot.copy_to(&mut number);
        Ok((u64::from_le_bytes(number), slot.len()))
    }
}

/// How messages of one size and mode are made and judged.
pub(crate) trait Shape {
    /// Sends message `number`.
    fn send(&mut self, lane: &mut Producer, number: u64) -> Result<(), BenchError>;

    /// Sends `BATCH` messages from number `first` on, as one batch.
    #[inline(always)]
    fn send_batch(&mut self, lane: &mut Producer, first: u64) -> Result<(), BenchError> {
        let mut batch = lane.batch();
        for number in (first..).take(BATCH) {
            let mut idle = Idle::default();
            loop {
                match self.push(&mut batch, number) {
                    Err(ReserveError::Full { .. }) => idle.spin()?,
                    result => break result?,
                }
            }
        }
        batch.commit();
        Ok(())
    }

    /// Adds message `number` to a batch, if there is room.
    fn push(&mut self, batch: &mut WriteBatch<'_>, number: u64) -> Result<(), ReserveError>;

    /// Receives what is there, at most `BATCH` messages of which the next is number `count + 1`,
    /// and counts them.
    #[inline(always)]
    fn receive_batch(&mut self, lane: &mut Consumer, count: &mut u64) -> Result<Seen, BenchError> {
        let mut batch = lane.recv_many(BATCH, PATIENCE)?;
        while let Some(view) = batch.next()? {
            if self.judge(&view, *count + 1)? == Seen::Stop {
                return Ok(Seen::Stop);
            }
            *count += 1;
        }
        Ok(Seen::Message)
    }

    /// Waits for the next message, which must be `expected` or the end.
    fn receive(&mut self, lane: &mut impl Inlet, expected: u64) -> Result<Seen, BenchError>;

    /// Judges a message of a batch.
    fn judge(&mut self, view: &View<'_>, expected: u64) -> Result<Seen, BenchError>;
}

/// Every byte is written and read; the size is known to the compiler.
#[derive(Debug)]
pub(crate) struct Small<const N: usize>;

impl<const N: usize> Small<N> {
    /// Message `number`.
    #[inline(always)]
    pub(crate) fn make(number: u64) -> [u8; N] {
        let [low, ..] = number.to_le_bytes();
        let mut bytes = [low; N];
        if let Some(head) = bytes.first_chunk_mut() {
            *head = number.to_le_bytes();
        }
        bytes
    }
}

impl<const N: usize> Shape for Small<N> {
    #[inline(always)]
    fn send(&mut self, lane: &mut Producer, number: u64) -> Result<(), BenchError> {
        Ok(lane.send_array(Self::make(number), PATIENCE)?)
    }

    #[inline(always)]
    fn push(&mut self, batch: &mut WriteBatch<'_>, number: u64) -> Result<(), ReserveError> {
        batch.push_array(Self::make(number))
    }

    #[inline(always)]
    fn send_batch(&mut self, lane: &mut Producer, first: u64) -> Result<(), BenchError> {
        let mut numbers = first..;
        let make = || Self::make(numbers.next().unwrap_or(STOP));
        Ok(lane.send_arrays(BATCH, PATIENCE, make)?)
    }

    #[inline(always)]
    fn receive(&mut self, lane: &mut impl Inlet, expected: u64) -> Result<Seen, BenchError> {
        lane.take_small::<N>(expected)
    }

    #[inline(always)]
    fn receive_batch(&mut self, lane: &mut Consumer, count: &mut u64) -> Result<Seen, BenchError> {
        let mut seen = Ok(Seen::Message);
        let mut next = *count;
        lane.recv_arrays(BATCH, PATIENCE, |bytes: [u8; N]| {
            match judge(&bytes, N, next + 1) {
                Ok(Seen::Message) => next += 1,
                // The first that is not a message is what counts.
                other if matches!(seen, Ok(Seen::Message)) => seen = other,
                _ => {}
            }
        })?;
        *count = next;
        seen
    }

    #[inline(always)]
    fn judge(&mut self, view: &View<'_>, expected: u64) -> Result<Seen, BenchError> {
        match view.to_array::<N>() {
            Some(bytes) => judge(&bytes, N, expected),
            None => wrong(expected, 0, view.len()),
        }
    }
}

/// Every byte is written, in place, and read.
#[derive(Debug)]
pub(crate) struct Large {
    buffer: Vec<u8>,
}

impl Large {
    /// Messages of `len` bytes, at least eight.
    pub(crate) fn new(len: usize) -> Self {
        Self { buffer: vec![0; len] }
    }
}

impl Shape for Large {
    #[inline(always)]
    fn send(&mut self, lane: &mut Producer, number: u64) -> Result<(), BenchError> {
        let mut slot = lane.reserve(self.buffer.len(), PATIENCE)?;
        if let Some(bytes) = slot.as_mut() {
            let [low, ..] = number.to_le_bytes();
            bytes.fill(MaybeUninit::new(low));
            for (target, byte) in bytes.iter_mut().zip(number.to_le_bytes()) {
                target.write(byte);
            }
        }
        slot.commit();
        Ok(())
    }

    #[inline(always)]
    fn push(&mut self, batch: &mut WriteBatch<'_>, number: u64) -> Result<(), ReserveError> {
        let [low, ..] = number.to_le_bytes();
        self.buffer.fill(low);
        for (target, byte) in self.buffer.iter_mut().zip(number.to_le_bytes()) {
            *target = byte;
        }
        batch.push(&self.buffer)
    }

    #[inline(always)]
    fn receive(&mut self, lane: &mut impl Inlet, expected: u64) -> Result<Seen, BenchError> {
        let len = self.buffer.len();
        lane.take_all(&mut self.buffer, |bytes| judge(bytes, len, expected))?
    }

    fn judge(&mut self, view: &View<'_>, expected: u64) -> Result<Seen, BenchError> {
        let copied = view.copy_to(&mut self.buffer);
        judge(self.buffer.get(..copied).unwrap_or_default(), self.buffer.len(), expected)
    }
}

/// Only the sequence number is written and read, whatever the size.
#[derive(Debug)]
pub(crate) struct Header {
    /// Length of the message.
    pub(crate) len: usize,
}

impl Shape for Header {
    #[inline(always)]
    fn send(&mut self, lane: &mut Producer, number: u64) -> Result<(), BenchError> {
        let mut slot = lane.reserve(self.len, PATIENCE)?;
        slot.write(0, &number.to_le_bytes());
        slot.commit();
        Ok(())
    }

    /// A batch copies whole messages: only the number is sent.
    #[inline(always)]
    fn push(&mut self, batch: &mut WriteBatch<'_>, number: u64) -> Result<(), ReserveError> {
        batch.push(&number.to_le_bytes())
    }

    #[inline(always)]
    fn receive(&mut self, lane: &mut impl Inlet, expected: u64) -> Result<Seen, BenchError> {
        let (found, len) = lane.take_number()?;
        number(found, len, self.len, expected)
    }

    fn judge(&mut self, view: &View<'_>, expected: u64) -> Result<Seen, BenchError> {
        let found = view.u64_at(0).unwrap_or(0);
        number(found, view.len(), NUMBER_BYTES, expected)
    }
}

/// Judges a whole message: its number, then every other byte by their sum.
#[inline(always)]
pub(crate) fn judge(bytes: &[u8], len: usize, expected: u64) -> Result<Seen, BenchError> {
    let found = bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    let seen = number(found, bytes.len(), len, expected)?;
    let [low, ..] = found.to_le_bytes();
    let rest = bytes.get(NUMBER_BYTES..).unwrap_or_default();
    if sum(rest) == u64::from(low).wrapping_mul(weight(rest.len())) {
        Ok(seen)
    } else {
        wrong(expected, found, len)
    }
}

#[inline(always)]
fn number(found: u64, len: usize, wanted: usize, expected: u64) -> Result<Seen, BenchError> {
    match found {
        _ if len != wanted => wrong(expected, found, len),
        _ if found == expected => Ok(Seen::Message),
        STOP => Ok(Seen::Stop),
        _ => wrong(expected, found, len),
    }
}

#[cold]
fn wrong(expected: u64, found: u64, len: usize) -> Result<Seen, BenchError> {
    Err(BenchError::Message { expected, found, len })
}

/// Sum of all words and of the bytes after them: reads every byte, eight at a time or more.
#[inline(always)]
fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let words = words.iter().fold(0u64, |sum, word| sum.wrapping_add(u64::from_le_bytes(*word)));
    rest.iter().fold(words, |sum, byte| sum.wrapping_add(u64::from(*byte)))
}

/// [`sum`] of `len` bytes that are all one.
#[inline(always)]
fn weight(len: usize) -> u64 {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    ((len / 8) as u64).wrapping_mul(ONES).wrapping_add((len % 8) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_with_any_byte_changed_is_wrong() {
        for number in [1, 255, 256, 77_777] {
            let good = Small::<57>::make(number);
            assert_eq!(judge(&good, 57, number).unwrap(), Seen::Message);
            for index in 0..good.len() {
                let mut bad = good;
                bad[index] ^= 0x10;
                assert!(judge(&bad, 57, number).is_err(), "{index}");
            }
            assert!(judge(&good, 57, number + 1).is_err());
            assert!(judge(&good[..56], 57, number).is_err());
        }
        assert_eq!(judge(&Small::<8>::make(STOP), 8, 5).unwrap(), Seen::Stop);
    }
}
