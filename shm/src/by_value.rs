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

    /// The items of a packed message; it has a whole number of them.
    #[doc(hidden)]
    fn unpack(consumer: &Consumer, span: &Span, read: impl FnMut(Self));
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
    fn unpack(consumer: &Consumer, span: &Span, read: impl FnMut(Self)) {
        match consumer.ring.peer() {
            // Straight from the lane into registers, word by word.
            Some(peer) if span.slots == 1 && N.is_multiple_of(8) && N <= BLOCK => {
                peer.copy_arrays(span.place.offset + WORD_BYTES, span.len / N, read);
            }
            _ => unpack_blocks(consumer, span, read),
        }
    }
}

/// As [`ByValue::unpack`], for items that are not whole words or lie in several slots.
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
        if let Some(span) = self.ring.ready(N) {
            self.ring.write(&span, 0, &message);
            self.ring.commit_next(N);
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

impl Consumer {
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
            Some(span) => self.take_exactly(&span).map(|bytes| Some(read(bytes))),
            None => Ok(None),
        }
    }

    /// As [`Consumer::recv_arrays`], for those that are there now; returns how many.
    ///
    /// # Errors
    /// As [`Consumer::try_recv_array`], for the first message only.
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
                match self.try_recv_array(&mut read) {
                    Ok(Some(())) => taken += 1,
                    Err(error) if taken == 0 => return Err(error),
                    // What is wrong is told by the next call: these messages were taken.
                    Ok(None) | Err(_) => break,
                }
            }
        }
        Ok(taken)
    }
}
