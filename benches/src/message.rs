//! What a message carries, so that a reader who skipped a byte would be caught.
//!
//! Eight bytes of sequence number, then its lowest byte repeated to the end. "All" readers check
//! the number and the sum of every other byte; "header" readers check the number. Small messages
//! have a size that the compiler knows and are built privately; large ones are written in place
//! where the end can. What an end does with them is its own affair: see [`crate::ports`].

use std::mem::MaybeUninit;
use std::time::{Duration, Instant};

use laneway_shm::{Consumer, Producer, View};

use crate::error::BenchError;
use crate::ports::{Inlet, LargeInlet, LargeOutlet, Numbers, Outlet};
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
        self.turn()
    }

    /// The same without a pause.
    #[inline(always)]
    pub(crate) fn turn(&mut self) -> Result<(), BenchError> {
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

/// Makes messages of one size and mode and sends them into ends of kind `O`.
pub(crate) trait Sends<O> {
    /// Sends message `number`.
    fn send(&mut self, end: &mut O, number: u64) -> Result<(), BenchError>;

    /// Sends [`BATCH`] messages from number `first` on, as one batch where the end has any.
    #[inline(always)]
    fn send_batch(&mut self, end: &mut O, first: u64) -> Result<(), BenchError> {
        (first..).take(BATCH).try_for_each(|number| self.send(end, number))
    }
}

/// Receives messages of one size and mode from ends of kind `I` and judges them.
pub(crate) trait Receives<I> {
    /// Waits for the next message, which must be `expected` or the end.
    fn receive(&mut self, end: &mut I, expected: u64) -> Result<Seen, BenchError>;

    /// Receives what is there, at most [`BATCH`] messages of which the next is number
    /// `count + 1`, and counts them.
    #[inline(always)]
    fn receive_batch(&mut self, end: &mut I, count: &mut u64) -> Result<Seen, BenchError> {
        let seen = self.receive(end, *count + 1)?;
        *count += u64::from(seen == Seen::Message);
        Ok(seen)
    }
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

impl<O: Outlet<N>, const N: usize> Sends<O> for Small<N> {
    #[inline(always)]
    fn send(&mut self, end: &mut O, number: u64) -> Result<(), BenchError> {
        end.put(Self::make(number))
    }

    #[inline(always)]
    fn send_batch(&mut self, end: &mut O, first: u64) -> Result<(), BenchError> {
        end.put_batch(first)
    }
}

impl<I: Inlet<N>, const N: usize> Receives<I> for Small<N> {
    #[inline(always)]
    fn receive(&mut self, end: &mut I, expected: u64) -> Result<Seen, BenchError> {
        end.take(expected)
    }

    #[inline(always)]
    fn receive_batch(&mut self, end: &mut I, count: &mut u64) -> Result<Seen, BenchError> {
        end.take_batch(count)
    }
}

/// Every byte is written and read; the size is known only to the program.
#[derive(Debug)]
pub(crate) struct Large {
    /// Private memory of the message's size, for ends that copy.
    buffer: Vec<u8>,
}

impl Large {
    /// Messages of `len` bytes, at least eight.
    pub(crate) fn new(len: usize) -> Self {
        Self { buffer: vec![0; len] }
    }
}

impl<O: LargeOutlet> Sends<O> for Large {
    #[inline(always)]
    fn send(&mut self, end: &mut O, number: u64) -> Result<(), BenchError> {
        end.put_large(&mut self.buffer, number)
    }

    #[inline(always)]
    fn send_batch(&mut self, end: &mut O, first: u64) -> Result<(), BenchError> {
        end.put_large_batch(&mut self.buffer, first)
    }
}

impl<I: LargeInlet> Receives<I> for Large {
    #[inline(always)]
    fn receive(&mut self, end: &mut I, expected: u64) -> Result<Seen, BenchError> {
        end.take_large(&mut self.buffer, expected)
    }

    #[inline(always)]
    fn receive_batch(&mut self, end: &mut I, count: &mut u64) -> Result<Seen, BenchError> {
        end.take_large_batch(&mut self.buffer, count)
    }
}

/// [`Large`], but made in private memory and copied into a lane, which picks the copy.
#[derive(Debug)]
pub(crate) struct Copied(Large);

impl Copied {
    /// Messages of `len` bytes, at least eight.
    pub(crate) fn new(len: usize) -> Self {
        Self(Large::new(len))
    }
}

impl Sends<Producer> for Copied {
    #[inline(always)]
    fn send(&mut self, lane: &mut Producer, number: u64) -> Result<(), BenchError> {
        fill(&mut self.0.buffer, number);
        Ok(lane.send(&self.0.buffer, PATIENCE)?)
    }
}

impl<I: LargeInlet> Receives<I> for Copied {
    #[inline(always)]
    fn receive(&mut self, end: &mut I, expected: u64) -> Result<Seen, BenchError> {
        self.0.receive(end, expected)
    }
}

/// [`Small`], a batch of them packed into one message of the lane.
#[derive(Debug)]
pub(crate) struct Packed<const N: usize>;

impl<const N: usize> Packed<N> {
    #[inline(always)]
    fn put(lane: &mut Producer, count: usize, first: u64) -> Result<(), BenchError> {
        let mut number = first;
        let make = || {
            let message = Small::<N>::make(number);
            number = number.wrapping_add(1);
            message
        };
        Ok(lane.send_packed_arrays(count, PATIENCE, make)?)
    }
}

impl<const N: usize> Sends<Producer> for Packed<N> {
    fn send(&mut self, lane: &mut Producer, number: u64) -> Result<(), BenchError> {
        Self::put(lane, 1, number)
    }

    #[inline(always)]
    fn send_batch(&mut self, lane: &mut Producer, first: u64) -> Result<(), BenchError> {
        Self::put(lane, BATCH, first)
    }
}

impl<const N: usize> Receives<Consumer> for Packed<N> {
    fn receive(&mut self, lane: &mut Consumer, expected: u64) -> Result<Seen, BenchError> {
        let mut count = expected - 1;
        self.receive_batch(lane, &mut count)
    }

    #[inline(always)]
    fn receive_batch(&mut self, lane: &mut Consumer, count: &mut u64) -> Result<Seen, BenchError> {
        let mut verdict = Verdict::new(*count);
        lane.recv_packed_arrays(1, PATIENCE, |bytes: [u8; N]| verdict.add(&bytes))?;
        verdict.give(count)
    }
}

/// What was seen of messages that come one after the other, of which the first that is not as
/// expected is what counts.
#[derive(Debug)]
pub(crate) struct Verdict {
    seen: Result<Seen, BenchError>,
    count: u64,
}

impl Verdict {
    /// `count` messages were there before.
    #[inline(always)]
    pub(crate) fn new(count: u64) -> Self {
        Self { seen: Ok(Seen::Message), count }
    }

    /// Judges the next one.
    #[inline(always)]
    pub(crate) fn add<const N: usize>(&mut self, bytes: &[u8; N]) {
        match judge(bytes, N, self.count + 1) {
            Ok(Seen::Message) => self.count += 1,
            other if matches!(self.seen, Ok(Seen::Message)) => self.seen = other,
            _ => {}
        }
    }

    /// What was seen; `count` becomes the number of messages.
    #[inline(always)]
    pub(crate) fn give(self, count: &mut u64) -> Result<Seen, BenchError> {
        *count = self.count;
        self.seen
    }
}

/// Only the sequence number is written and read, whatever the size: for lanes, which can.
#[derive(Debug)]
pub(crate) struct Header {
    /// Length of the message.
    pub(crate) len: usize,
}

impl Sends<Producer> for Header {
    #[inline(always)]
    fn send(&mut self, lane: &mut Producer, number: u64) -> Result<(), BenchError> {
        let mut slot = lane.reserve(self.len, PATIENCE)?;
        slot.write(0, &number.to_le_bytes());
        slot.commit();
        Ok(())
    }
}

impl<I: Numbers> Receives<I> for Header {
    #[inline(always)]
    fn receive(&mut self, lane: &mut I, expected: u64) -> Result<Seen, BenchError> {
        let (found, len) = lane.take_number()?;
        number(found, len, self.len, expected)
    }
}

/// Writes message `number` over all of `bytes`, at least eight.
#[inline(always)]
pub(crate) fn fill(bytes: &mut [u8], number: u64) {
    let [low, ..] = number.to_le_bytes();
    bytes.fill(low);
    for (target, byte) in bytes.iter_mut().zip(number.to_le_bytes()) {
        *target = byte;
    }
}

/// [`fill`] where nothing has been written yet: initialises every element.
#[inline(always)]
pub(crate) fn fill_uninit(bytes: &mut [MaybeUninit<u8>], number: u64) {
    let [low, ..] = number.to_le_bytes();
    bytes.fill(MaybeUninit::new(low));
    for (target, byte) in bytes.iter_mut().zip(number.to_le_bytes()) {
        target.write(byte);
    }
}

/// Judges a whole message: its number, then every other byte by their sum.
#[inline(always)]
pub(crate) fn judge(bytes: &[u8], len: usize, expected: u64) -> Result<Seen, BenchError> {
    Read::of(bytes).judge(len, expected)
}

/// What a whole message says, in few enough words to come out of a closure in registers: an error
/// on its way through a closure's result would be copied for every message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Read {
    number: u64,
    len: usize,
    whole: bool,
}

impl Read {
    /// Reads every byte, from the first one on: whoever has just copied the message out in wide
    /// pieces is not made to wait for loads that lie across two of them.
    #[inline(always)]
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let number = bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let whole = sum(bytes) == expected_sum(number, bytes.len());
        Self { number, len: bytes.len(), whole }
    }

    /// The same from a lane that is not trusted, line by line: each byte is read from the lane once
    /// (the first eight twice).
    #[inline(always)]
    pub(crate) fn of_view(view: View<'_>) -> Self {
        let (number, len) = (view.u64_at(0).unwrap_or(0), view.len());
        let (rest, mut bytes) = (len % NUMBER_BYTES, [0; NUMBER_BYTES]);
        let mut total = 0u64;
        if let Some(words) = view.range(0, len - rest) {
            words.for_each_line(|line| total = line.into_iter().fold(total, u64::wrapping_add));
        }
        if let Some(rest) = view.range(len - rest, rest).filter(|rest| !rest.is_empty()) {
            rest.copy_to(&mut bytes);
            total = total.wrapping_add(bytes.into_iter().map(u64::from).sum());
        }
        Self { number, len, whole: total == expected_sum(number, len) }
    }

    /// Whether it is the message of `len` bytes that was expected, or the end.
    #[inline(always)]
    pub(crate) fn judge(self, len: usize, expected: u64) -> Result<Seen, BenchError> {
        let seen = number(self.number, self.len, len, expected)?;
        if self.whole { Ok(seen) } else { wrong(expected, self.number, len) }
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

/// What [`sum`] makes of message `number`, if it is `len` bytes long.
#[inline(always)]
fn expected_sum(number: u64, len: usize) -> u64 {
    let [low, ..] = number.to_le_bytes();
    let rest = len.saturating_sub(NUMBER_BYTES);
    u64::from(low).wrapping_mul(weight(rest)).wrapping_add(number)
}

/// Sum of all words and of the bytes after them: reads every byte, eight at a time or more.
#[inline(always)]
pub(crate) fn sum(bytes: &[u8]) -> u64 {
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
    use laneway_shm::{PairOptions, pair};

    use super::*;

    #[test]
    fn a_message_of_a_lane_with_any_byte_changed_is_wrong() {
        let options = PairOptions { slot_payload_bytes: 256, ..PairOptions::default() };
        let (mut producer, mut consumer) = pair(options).unwrap();
        for len in [8, 57, 64, 128, 200, 203, 300] {
            let mut good = vec![0; len];
            fill(&mut good, 257);
            for changed in (0..len).map(Some).chain([None]) {
                let mut sent = good.clone();
                changed.into_iter().for_each(|index| sent[index] ^= 0x10);
                producer.send(&sent, PATIENCE).unwrap();
                let slot = consumer.recv(PATIENCE).unwrap();
                let read = Read::of_view(slot.view()).judge(len, 257);
                assert_eq!(read.is_ok(), changed.is_none(), "{changed:?} of {len}");
            }
        }
    }

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
