//! Many messages of a producer's at once: sent together, batched, or written in place.
//!
//! One store publishes them: the first one's commit word is held back until the last is written.

use std::mem::MaybeUninit;
use std::time::Duration;

use super::{Producer, WriteSlot};
use crate::error::ReserveError;
use crate::ring::Span;

impl Producer {
    /// As [`Producer::send`], only if there is room now: it never waits.
    ///
    /// # Errors
    /// As [`Producer::try_reserve`].
    #[inline(always)]
    pub fn try_send(&mut self, message: &[u8]) -> Result<(), ReserveError> {
        let mut slot = self.try_reserve(message.len())?;
        slot.write(0, message);
        slot.commit();
        Ok(())
    }

    /// Sends messages of any lengths, waiting for room where there is none; returns how many.
    /// What there is room for becomes visible at once; in an evicting lane, a quarter of the
    /// readers' budget.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use laneway_shm::{PairOptions, pair};
    /// # let (mut producer, mut consumer) = pair(PairOptions::default())?;
    /// producer.send_many(["bid", "ask", ""], Duration::ZERO)?;
    /// assert_eq!(consumer.recv(Duration::ZERO)?.to_vec(), b"bid");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Producer::reserve`], for the last message that was taken from `messages`: it was not
    /// sent, all before it were.
    pub fn send_many<M: AsRef<[u8]>>(
        &mut self,
        messages: impl IntoIterator<Item = M>,
        timeout: Duration,
    ) -> Result<usize, ReserveError> {
        let mut messages = messages.into_iter().fuse();
        let mut sent = 0;
        loop {
            let mut batch = self.batch();
            let waiting = loop {
                let Some(message) = messages.next() else {
                    batch.commit();
                    return Ok(sent);
                };
                if batch.push(message.as_ref()).is_err() {
                    break Some(message);
                }
                sent += 1;
                if batch.producer.ring.is_batch_long() {
                    break None;
                }
            };
            batch.commit();
            // No room, or a reason that this one tells.
            if let Some(message) = waiting {
                self.send(message.as_ref(), timeout)?;
                sent += 1;
            }
        }
    }

    /// As [`Producer::send_many`], for as many as there is room for now, from the first one on:
    /// returns how many, and never waits.
    ///
    /// ```
    /// # use laneway_shm::{PairOptions, pair};
    /// # let options = PairOptions { slot_count: 2, ..PairOptions::default() };
    /// # let (mut producer, _consumer) = pair(options)?;
    /// let quotes = ["bid", "ask", "last"];
    /// let sent = producer.try_send_many(&quotes)?;
    /// assert_eq!(quotes[sent..], ["last"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Producer::try_reserve`] if none could be sent; a full ring is no error.
    pub fn try_send_many<M: AsRef<[u8]>>(&mut self, messages: &[M]) -> Result<usize, ReserveError> {
        let mut messages = messages.iter().peekable();
        let mut sent = 0;
        while messages.peek().is_some() {
            let mut batch = self.batch();
            let mut pushed = 0;
            let mut failed = None;
            while let Some(message) = messages.peek() {
                if let Err(error) = batch.push(message.as_ref()) {
                    failed = Some(error);
                    break;
                }
                messages.next();
                pushed += 1;
                if batch.producer.ring.is_batch_long() {
                    break;
                }
            }
            batch.commit();
            sent += pushed;
            match failed {
                // Room that a batch in a gated lane may not use before it is committed.
                Some(ReserveError::Full { .. }) if pushed > 0 => {}
                Some(ReserveError::Full { .. }) => break,
                // What is wrong is told by the next call: these messages were sent.
                Some(_) if sent > 0 => break,
                Some(error) => return Err(error),
                None => {}
            }
        }
        Ok(sent)
    }

    /// Starts a batch: messages that become visible together.
    pub fn batch(&mut self) -> WriteBatch<'_> {
        // A revocation leaves no room: the first push reports it.
        let _ = self.attend();
        WriteBatch { producer: self }
    }

    /// Room for `count` messages of `len` bytes each, to be written where they lie and to become
    /// visible together; waits for all of it at most `timeout`, for ever with [`Duration::MAX`].
    ///
    /// In an evicting lane, more than a quarter of the readers' budget leaves them no time to
    /// follow.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use laneway_shm::{PairOptions, pair};
    /// # let (mut producer, mut consumer) = pair(PairOptions::default())?;
    /// let chunk = producer.chunk(3, 8, Duration::from_secs(1))?;
    /// chunk.fill(|index, mut slot| slot.write(0, &index.to_le_bytes()))?;
    /// let mut sum = 0;
    /// let taken = consumer.poll_many(8).for_each(|view| sum += view.u64_at(0).unwrap_or(0))?;
    /// assert_eq!((taken, sum), (3, 3));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `TooLarge` if the ring has fewer slots than the messages take together, which is told in
    /// bytes of slots; otherwise as [`Producer::reserve`]. Nothing is taken then.
    pub fn chunk(
        &mut self,
        count: usize,
        len: usize,
        timeout: Duration,
    ) -> Result<WriteChunk<'_>, ReserveError> {
        let room_bytes = self.room_bytes(count, len);
        if count > 0 {
            self.reserve(room_bytes, timeout)?;
        }
        Ok(WriteChunk::new(self, count, len))
    }

    /// As [`Producer::chunk`], only if there is room for all of it now: it never waits.
    ///
    /// # Errors
    /// As [`Producer::try_reserve`], and `TooLarge` as with [`Producer::chunk`].
    pub fn try_chunk(&mut self, count: usize, len: usize) -> Result<WriteChunk<'_>, ReserveError> {
        let room_bytes = self.room_bytes(count, len);
        if count > 0 {
            self.try_reserve(room_bytes)?;
        }
        Ok(WriteChunk::new(self, count, len))
    }

    /// Length of the one message that takes as many slots as `count` of `len` bytes.
    pub(crate) fn room_bytes(&self, count: usize, len: usize) -> usize {
        let geometry = self.ring.geometry();
        let slots = usize::try_from(geometry.slots_for(len)).unwrap_or(usize::MAX);
        slots.saturating_mul(count).saturating_mul(geometry.payload() as usize)
    }
}

/// Messages that become visible together, or not at all.
#[derive(Debug)]
pub struct WriteBatch<'p> {
    producer: &'p mut Producer,
}

impl WriteBatch<'_> {
    /// Adds one message, if there is room now. The batch as a whole must fit into the ring.
    ///
    /// # Errors
    /// As [`Producer::try_reserve`]; what was pushed before stays in the batch.
    #[inline(always)]
    pub fn push(&mut self, message: &[u8]) -> Result<(), ReserveError> {
        let span = match self.producer.ring.ready_in_batch(message.len()) {
            Some(span) => span,
            None => self.producer.find_room(message.len())?,
        };
        self.producer.ring.write(&span, 0, message);
        self.producer.ring.stage(&span);
        Ok(())
    }

    /// As [`WriteBatch::push`], for a length that is known when the program is compiled.
    ///
    /// # Errors
    /// As [`WriteBatch::push`].
    #[inline(always)]
    pub fn push_array<const N: usize>(&mut self, message: [u8; N]) -> Result<(), ReserveError> {
        let span = match self.producer.ring.ready_in_batch(N) {
            Some(span) => span,
            None => self.producer.find_room(N)?,
        };
        self.producer.ring.write(&span, 0, &message);
        self.producer.ring.stage(&span);
        Ok(())
    }

    /// Makes every pushed message visible at once; returns how many.
    pub fn commit(self) -> u64 {
        self.producer.ring.commit_batch()
    }
}

impl Drop for WriteBatch<'_> {
    fn drop(&mut self) {
        self.producer.ring.abort_batch();
    }
}

/// Room for messages of one length, which are written in place and become visible together, or not
/// at all: dropping it without commit publishes nothing.
///
/// A slot is part of the chunk once [`WriteChunk::next`] has handed it out. What was not handed out
/// is given back.
#[derive(Debug)]
pub struct WriteChunk<'p> {
    producer: &'p mut Producer,
    len: usize,
    left: usize,
    /// The message that is being written.
    open: Option<Span>,
}

impl<'p> WriteChunk<'p> {
    /// For whoever has found the room.
    pub(crate) fn new(producer: &'p mut Producer, count: usize, len: usize) -> Self {
        Self { producer, len, left: count, open: None }
    }
}

impl WriteChunk<'_> {
    /// Messages that it can still hand out.
    #[must_use]
    pub fn left(&self) -> usize {
        self.left
    }

    /// The next message to write; `None` after the last.
    ///
    /// Not an [`Iterator`]: each slot borrows the chunk, so that none outlives the commit.
    ///
    /// # Errors
    /// As [`Producer::try_reserve`], where a reader of a broadcast lane broke the protocol since
    /// the room was found. What was handed out before is as it was.
    #[expect(clippy::should_implement_trait, reason = "a lending iterator, see above")]
    #[inline]
    pub fn next(&mut self) -> Result<Option<ChunkSlot<'_>>, ReserveError> {
        if self.left == 0 {
            return Ok(None);
        }
        self.stage();
        let span = match self.producer.ring.ready_in_batch(self.len) {
            Some(span) => span,
            None => self.producer.find_room(self.len)?,
        };
        self.left -= 1;
        self.open = Some(span);
        Ok(Some(ChunkSlot(WriteSlot::new(self.producer, span))))
    }

    /// Hands out every message that is left, with its number from 0 on, and makes all of them
    /// visible; returns how many.
    ///
    /// # Errors
    /// As [`WriteChunk::next`]: nothing is visible then.
    #[inline]
    pub fn fill(mut self, mut fill: impl FnMut(usize, ChunkSlot<'_>)) -> Result<u64, ReserveError> {
        let mut index = 0;
        while let Some(slot) = self.next()? {
            fill(index, slot);
            index += 1;
        }
        Ok(self.commit())
    }

    /// Makes every message visible that was handed out, at once; returns how many.
    #[inline]
    pub fn commit(mut self) -> u64 {
        self.stage();
        self.producer.ring.commit_batch()
    }

    #[inline]
    fn stage(&mut self) {
        if let Some(span) = self.open.take() {
            self.producer.ring.stage(&span);
        }
    }
}

impl Drop for WriteChunk<'_> {
    fn drop(&mut self) {
        self.producer.ring.abort_batch();
    }
}

/// One message of a [`WriteChunk`]. Bytes that are not written keep what an earlier message left
/// there.
#[derive(Debug)]
pub struct ChunkSlot<'c>(pub(crate) WriteSlot<'c>);

impl ChunkSlot<'_> {
    /// Length of the message, in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the message is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As [`WriteSlot::write`].
    ///
    /// # Panics
    /// As [`WriteSlot::write`].
    #[inline(always)]
    pub fn write(&mut self, offset: usize, bytes: &[u8]) {
        self.0.write(offset, bytes);
    }

    /// As [`WriteSlot::as_mut`].
    #[inline]
    pub fn as_mut(&mut self) -> Option<&mut [MaybeUninit<u8>]> {
        self.0.as_mut()
    }

    /// As [`WriteSlot::bytes_mut`].
    #[inline]
    pub fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        self.0.bytes_mut()
    }
}
