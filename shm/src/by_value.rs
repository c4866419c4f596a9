//! What the ends do with messages of one length that is known when the program is compiled.
//!
//! A small message goes from registers into the lane and back; it would lose that on its way
//! through an `Option` or a `Result` of another function, so that the reader is handed in as a
//! closure. Packed messages are items of that length, as many as a slot holds, under one commit
//! word.

use std::time::Duration;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::consumer::Consumer;
use crate::error::{RecvError, ReserveError};
use crate::geometry::WORD_BYTES;
use crate::memory::Memory;
use crate::producer::Producer;
use crate::ring::Span;

/// Items longer than this are copied out one by one, shorter ones in blocks of it, in bytes.
const BLOCK: usize = 512;

/// How a lane carries an array of bytes. Sealed: only `[u8; N]` has it.
pub trait ByValue: Copy + FromBytes + IntoBytes + Immutable + Sized {
    #[doc(hidden)]
    fn send(self, producer: &mut Producer, timeout: Duration) -> Result<(), ReserveError>;

    #[doc(hidden)]
    fn try_send(self, producer: &mut Producer) -> Result<(), ReserveError>;

    #[doc(hidden)]
    fn send_many(
        producer: &mut Producer,
        count: usize,
        timeout: Duration,
        make: impl FnMut() -> Self,
    ) -> Result<(), ReserveError>;

    #[doc(hidden)]
    fn try_send_many(
        producer: &mut Producer,
        count: usize,
        make: impl FnMut() -> Self,
    ) -> Result<usize, ReserveError>;

    #[doc(hidden)]
    fn recv<R>(
        consumer: &mut Consumer,
        timeout: Duration,
        read: impl FnOnce(Self) -> R,
    ) -> Result<R, RecvError>;

    #[doc(hidden)]
    fn try_recv<R>(
        consumer: &mut Consumer,
        read: impl FnOnce(Self) -> R,
    ) -> Result<Option<R>, RecvError>;

    #[doc(hidden)]
    fn recv_many(
        consumer: &mut Consumer,
        limit: usize,
        timeout: Duration,
        read: impl FnMut(Self),
    ) -> Result<usize, RecvError>;

    #[doc(hidden)]
    fn try_recv_many(
        consumer: &mut Consumer,
        limit: usize,
        read: impl FnMut(Self),
    ) -> Result<usize, RecvError>;

    #[doc(hidden)]
    fn try_recv_packed(
        consumer: &mut Consumer,
        limit: usize,
        read: impl FnMut(Self),
    ) -> Result<usize, RecvError>;
}

impl<const N: usize> ByValue for [u8; N] {
    #[inline(always)]
    fn send(self, producer: &mut Producer, timeout: Duration) -> Result<(), ReserveError> {
        producer.send_array(self, timeout)
    }

    #[inline(always)]
    fn try_send(self, producer: &mut Producer) -> Result<(), ReserveError> {
        producer.try_send_array(self)
    }

    #[inline(always)]
    fn send_many(
        producer: &mut Producer,
        count: usize,
        timeout: Duration,
        make: impl FnMut() -> Self,
    ) -> Result<(), ReserveError> {
        producer.send_arrays(count, timeout, make)
    }

    #[inline(always)]
    fn try_send_many(
        producer: &mut Producer,
        count: usize,
        make: impl FnMut() -> Self,
    ) -> Result<usize, ReserveError> {
        producer.try_send_arrays(count, make)
    }

    #[inline(always)]
    fn recv<R>(
        consumer: &mut Consumer,
        timeout: Duration,
        read: impl FnOnce(Self) -> R,
    ) -> Result<R, RecvError> {
        consumer.recv_array(timeout, read)
    }

    #[inline(always)]
    fn try_recv<R>(
        consumer: &mut Consumer,
        read: impl FnOnce(Self) -> R,
    ) -> Result<Option<R>, RecvError> {
        consumer.try_recv_array(read)
    }

    #[inline(always)]
    fn recv_many(
        consumer: &mut Consumer,
        limit: usize,
        timeout: Duration,
        read: impl FnMut(Self),
    ) -> Result<usize, RecvError> {
        consumer.recv_arrays(limit, timeout, read)
    }

    #[inline(always)]
    fn try_recv_many(
        consumer: &mut Consumer,
        limit: usize,
        read: impl FnMut(Self),
    ) -> Result<usize, RecvError> {
        consumer.try_recv_arrays(limit, read)
    }

    #[inline(always)]
    fn try_recv_packed(
        consumer: &mut Consumer,
        limit: usize,
        read: impl FnMut(Self),
    ) -> Result<usize, RecvError> {
        consumer.try_recv_packed_arrays(limit, read)
    }
}

/// The items of a packed message; it has a whole number of them.
#[inline(always)]
fn unpack<const N: usize>(consumer: &Consumer, span: &Span, read: impl FnMut([u8; N])) {
    match consumer.ring.peer() {
        // Straight from the lane into registers, word by word.
        Some(peer) if span.slots == 1 && N.is_multiple_of(8) && N <= BLOCK => {
            peer.copy_arrays(span.place.offset + WORD_BYTES, span.len / N, read);
        }
        _ => unpack_blocks(consumer, span, read),
    }
}

/// As [`unpack`], for items that are not whole words or lie in several slots.
fn unpack_blocks<const N: usize>(consumer: &Consumer, span: &Span, mut read: impl FnMut([u8; N])) {
    let mut block = [0; BLOCK];
    let block_bytes = BLOCK / N * N;
    let mut done = 0;
    while done < span.len && N > 0 {
        let wanted = (span.len - done).min(block_bytes);
        match block.get_mut(..wanted).filter(|block| !block.is_empty()) {
            Some(block) => {
                done += consumer.ring.copy_out(span, done, block);
                for item in block.as_chunks().0 {
                    read(*item);
                }
            }
            None => {
                let mut item = [0; N];
                done += consumer.ring.copy_out(span, done, &mut item);
                read(item);
            }
        }
    }
}

impl Producer {
    /// As [`Producer::send_array`], only if there is room now.
    ///
    /// # Errors
    /// As [`Producer::try_reserve`].
    #[inline(always)]
    pub fn try_send_array<const N: usize>(&mut self, message: [u8; N]) -> Result<(), ReserveError> {
        if self.ring.send_array(message) {
            return Ok(());
        }
        self.try_send_slowly(message)
    }

    #[cold]
    #[inline(never)]
    fn try_send_slowly<const N: usize>(&mut self, message: [u8; N]) -> Result<(), ReserveError> {
        let mut slot = self.try_reserve(N)?;
        slot.write(0, &message);
        slot.commit();
        Ok(())
    }

    /// As [`Producer::send_arrays`], for as many as there is room for now; returns how many.
    ///
    /// # Errors
    /// As [`Producer::try_reserve`] if none could be sent; a full ring is no error.
    #[inline(always)]
    pub fn try_send_arrays<const N: usize>(
        &mut self,
        count: usize,
        mut make: impl FnMut() -> [u8; N],
    ) -> Result<usize, ReserveError> {
        let mut sent = 0;
        loop {
            sent += self.ring.commit_arrays(count - sent, &mut make);
            if sent == count {
                return Ok(sent);
            }
            match self.try_reserve(N) {
                Ok(mut slot) => {
                    slot.write(0, &make());
                    slot.commit();
                    sent += 1;
                }
                Err(ReserveError::Full { .. }) => return Ok(sent),
                // What is wrong is told by the next call: these messages were sent.
                Err(_) if sent > 0 => return Ok(sent),
                Err(error) => return Err(error),
            }
        }
    }
}

impl Producer {
    /// Sends `count` messages of one length packed: they stand one after the other in one message
    /// of the lane, under one commit word. For streams of tiny items; they go straight into the
    /// lane if the message fits into a slot. The consumer takes them with
    /// [`Consumer::recv_packed_arrays`], or as the one long message that they are.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use laneway_shm::{PairOptions, pair};
    /// # let (mut producer, mut consumer) = pair(PairOptions::default())?;
    /// let mut prices = [101u64, 99, 100].into_iter();
    /// let next = || prices.next().unwrap_or(0).to_le_bytes();
    /// producer.send_packed_arrays(3, Duration::ZERO, next)?;
    /// let mut sum = 0;
    /// let price = |bytes| sum += u64::from_le_bytes(bytes);
    /// assert_eq!(consumer.recv_packed_arrays(100, Duration::ZERO, price)?, 3);
    /// assert_eq!(sum, 300);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Producer::reserve`] for `count * N` bytes; none was sent then.
    #[inline(always)]
    pub fn send_packed_arrays<const N: usize>(
        &mut self,
        count: usize,
        timeout: Duration,
        mut make: impl FnMut() -> [u8; N],
    ) -> Result<(), ReserveError> {
        let mut slot = self.reserve(count.saturating_mul(N), timeout)?;
        match slot.bytes_mut() {
            Some(bytes) => bytes.as_chunks_mut().0.iter_mut().for_each(|item| *item = make()),
            None => (0..count).for_each(|at| slot.write(at * N, &make())),
        }
        slot.commit();
        Ok(())
    }
}

impl Consumer {
    /// Packed messages of one length, slot by slot until at least `limit` were handed out or no
    /// more are there, waiting for the first; returns how many there were: up to one packed
    /// message's worth more than `limit`, because it is taken whole.
    ///
    /// # Errors
    /// `Length` if the next message of the lane is not a whole number of items; it stays in the
    /// lane. Otherwise as [`Consumer::recv`], for the first message only.
    #[inline(always)]
    pub fn recv_packed_arrays<const N: usize>(
        &mut self,
        limit: usize,
        timeout: Duration,
        mut read: impl FnMut([u8; N]),
    ) -> Result<usize, RecvError> {
        let mut taken = self.try_recv_packed_arrays(limit, &mut read)?;
        if taken == 0 && limit > 0 {
            self.wait_for_span(timeout)?;
            taken = self.try_recv_packed_arrays(limit, read)?;
        }
        Ok(taken)
    }

    /// As [`Consumer::recv_packed_arrays`], without waiting: 0 if there is none.
    ///
    /// # Errors
    /// As [`Consumer::recv_packed_arrays`].
    #[inline(always)]
    pub fn try_recv_packed_arrays<const N: usize>(
        &mut self,
        limit: usize,
        mut read: impl FnMut([u8; N]),
    ) -> Result<usize, RecvError> {
        let mut taken = 0;
        while taken < limit {
            let span = match self.ring.ready() {
                Some(span) => span,
                // What is not plain is for the next call: these messages were taken.
                None if taken > 0 => break,
                None => match self.next_span()? {
                    Some(span) => span,
                    None => break,
                },
            };
            if span.len == 0 || N == 0 || !span.len.is_multiple_of(N) {
                if taken == 0 {
                    return Err(RecvError::Length { found: span.len, expected: N });
                }
                break;
            }
            unpack(self, &span, &mut read);
            self.ring.release(&span);
            taken += span.len / N;
        }
        Ok(taken)
    }

    /// As [`Consumer::recv_array`], only if there is a message now.
    ///
    /// # Errors
    /// `Length` if the next message has another length; it stays in the lane. Otherwise as
    /// [`Consumer::poll`].
    #[inline(always)]
    pub fn try_recv_array<const N: usize, R>(
        &mut self,
        read: impl FnOnce([u8; N]) -> R,
    ) -> Result<Option<R>, RecvError> {
        if let Some(bytes) = self.ring.take_array() {
            return Ok(Some(read(bytes)));
        }
        match self.next_span()? {
            Some(span) => self.take_exactly(span).map(|bytes| Some(read(bytes))),
            None => Ok(None),
        }
    }

    /// As [`Consumer::recv_arrays`], for those that are there now; returns how many.
    ///
    /// # Errors
    /// As [`Consumer::try_recv_array`], for the first message only: what cannot be taken after it
    /// is told by the next call.
    #[inline(always)]
    pub fn try_recv_arrays<const N: usize>(
        &mut self,
        limit: usize,
        mut read: impl FnMut([u8; N]),
    ) -> Result<usize, RecvError> {
        let mut taken = 0;
        while taken < limit {
            #[expect(clippy::cast_possible_truncation, reason = "at most `limit`")]
            let now = self.ring.take_arrays((limit - taken) as u64, &mut read) as usize;
            taken += now;
            if now == 0 {
                let found = if taken == 0 { self.next_span()? } else { self.further_span() };
                match found {
                    // Of another length: the next call says so.
                    Some(span) if taken > 0 && span.len != N => break,
                    Some(span) => read(self.take_exactly(span)?),
                    None => break,
                }
                taken += 1;
            }
        }
        Ok(taken)
    }
}
