//! Received messages: one, a part of one, many. Each is released when it is dropped.
//!
//! Strict: the producer may be hostile, so no reference to its bytes exists here. What comes out
//! is a bounded copy or single loads.

use std::mem::ManuallyDrop;

use crate::consumer::Consumer;
use crate::error::RecvError;
use crate::geometry::Place;
use crate::ring::Span;

/// A received message. Dropping it releases its slots to the producer.
#[derive(Debug)]
pub struct ReadSlot<'c> {
    consumer: &'c mut Consumer,
    span: Span,
}

impl<'c> ReadSlot<'c> {
    #[inline(always)]
    pub(crate) fn new(consumer: &'c mut Consumer, span: Span) -> Self {
        Self { consumer, span }
    }
}

impl ReadSlot<'_> {
    /// Length of the message, in bytes.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        self.span.len
    }

    /// Whether the message is empty.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.span.len == 0
    }

    /// Position of the message in the lane.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.span.position()
    }

    /// Copies the message's start into `target`; returns how many bytes there were.
    #[inline(always)]
    pub fn copy_to(&self, target: &mut [u8]) -> usize {
        self.consumer.ring.copy_out(&self.span, 0, target)
    }

    /// The message by value, if it is exactly `N` bytes in one slot: the fastest way for small
    /// messages of one size, which then need not pass through memory.
    #[must_use]
    #[inline(always)]
    pub fn to_array<const N: usize>(&self) -> Option<[u8; N]> {
        self.consumer.ring.copy_array(&self.span)
    }

    /// The message as a vector.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        self.view().to_vec()
    }

    /// A bounded view for reading parts in place.
    #[must_use]
    #[inline]
    pub fn view(&self) -> View<'_> {
        View::new(self.consumer, self.span)
    }

    /// Gives the slots back to the producer.
    #[inline]
    pub fn release(self) {}

    /// Leaves the message in the lane: the next poll finds it again.
    pub fn keep(self) {
        let _unreleased = ManuallyDrop::new(self);
    }
}

impl Drop for ReadSlot<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        self.consumer.ring.release(&self.span);
    }
}

/// A range of a message that a hostile producer may be changing while it is read.
///
/// Two reads of the same byte may differ; no read leaves the message.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    consumer: &'a Consumer,
    span: Span,
    start: usize,
    len: usize,
}

impl<'a> View<'a> {
    #[inline(always)]
    pub(crate) fn new(consumer: &'a Consumer, span: Span) -> Self {
        Self { consumer, span, start: 0, len: span.len }
    }
}

impl View<'_> {
    /// Length of the range, in bytes.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the range is empty.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Copies the range's start into `target`; returns how many bytes there were.
    #[inline(always)]
    pub fn copy_to(&self, target: &mut [u8]) -> usize {
        let wanted = target.len().min(self.len);
        match target.get_mut(..wanted) {
            Some(target) => self.consumer.ring.copy_out(&self.span, self.start, target),
            None => 0,
        }
    }

    /// The message by value, as [`ReadSlot::to_array`]; `None` of a part of a message.
    #[must_use]
    #[inline(always)]
    pub fn to_array<const N: usize>(&self) -> Option<[u8; N]> {
        let whole = self.start == 0 && self.len == self.span.len;
        if whole { self.consumer.ring.copy_array(&self.span) } else { None }
    }

    /// The range as a vector.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len];
        self.copy_to(&mut bytes);
        bytes
    }

    /// `len` bytes from `start` of this range; `None` if they are not inside it.
    #[must_use]
    #[inline(always)]
    pub fn range(&self, start: usize, len: usize) -> Option<Self> {
        let end = start.checked_add(len)?;
        (end <= self.len).then_some(Self { start: self.start + start, len, ..*self })
    }

    /// Hands the range out piece by piece, each copied to `buffer` first and as long as it, but
    /// for the last one; returns how many bytes there were: all, unless `buffer` is empty.
    ///
    /// Where every byte of a long message is looked at once and in slices, this is faster than a
    /// copy of the whole: with 2 to 8 KiB a piece does not leave the nearest cache before it is
    /// looked at. Without slices, [`View::for_each_line`] is faster still.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use laneway_shm::{PairOptions, pair};
    /// # let (mut producer, mut consumer) = pair(PairOptions::default())?;
    /// producer.send(&[1; 5000], Duration::ZERO)?;
    /// let (mut buffer, mut sum) = ([0; 2048], 0);
    /// let slot = consumer.recv(Duration::ZERO)?;
    /// slot.view().for_each_piece(&mut buffer, |piece| {
    ///     sum += piece.iter().map(|&byte| u32::from(byte)).sum::<u32>();
    /// });
    /// assert_eq!(sum, 5000);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline(always)]
    pub fn for_each_piece(&self, buffer: &mut [u8], mut read: impl FnMut(&[u8])) -> usize {
        let (mut start, end) = (self.start, self.start + self.len);
        while start < end {
            let wanted = buffer.len().min(end - start);
            let Some(piece) = buffer.get_mut(..wanted).filter(|piece| !piece.is_empty()) else {
                break;
            };
            start += self.consumer.ring.copy_out(&self.span, start, piece);
            read(piece);
        }
        start - self.start
    }

    /// Hands the range out 64 bytes at a time, as eight little-endian words by value; the last time
    /// with zeros after what there was.
    ///
    /// Where every byte is looked at once and all words alike, this is the fastest way: as fast as
    /// reading in place, because nothing is stored before it is looked at. Lines that lie across
    /// two slots of a long message are, and so are all where `read` is not inlined.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use laneway_shm::{PairOptions, pair};
    /// # let (mut producer, mut consumer) = pair(PairOptions::default())?;
    /// producer.send(&[1; 150], Duration::ZERO)?;
    /// let (mut lines, mut ones) = (0, 0);
    /// consumer.recv(Duration::ZERO)?.view().for_each_line(|words| {
    ///     lines += 1;
    ///     ones += words.into_iter().map(u64::count_ones).sum::<u32>();
    /// });
    /// assert_eq!((lines, ones), (3, 150));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline(always)]
    pub fn for_each_line(&self, read: impl FnMut([u64; 8])) {
        self.consumer.ring.copy_lines(&self.span, self.start, self.len, read);
    }

    /// A little-endian integer at `at`; `None` if it is not inside the range.
    #[must_use]
    #[inline(always)]
    pub fn u64_at(&self, at: usize) -> Option<u64> {
        let mut bytes = [0; 8];
        self.range(at, 8)?.copy_to(&mut bytes);
        Some(u64::from_le_bytes(bytes))
    }
}

/// Several received messages, released together when the batch is dropped.
#[derive(Debug)]
pub struct ReadBatch<'c> {
    consumer: &'c mut Consumer,
    /// Place after the last message that was taken.
    end: Place,
    /// Place that would be the first one again: a batch never holds more than a ring.
    limit: u64,
    left: usize,
    spare: u64,
    bytes: u64,
}

impl<'c> ReadBatch<'c> {
    pub(crate) fn new(consumer: &'c mut Consumer, left: usize) -> Self {
        let end = consumer.ring.place();
        let limit = end.position.saturating_add(consumer.ring.geometry().count());
        Self { consumer, end, limit, left, spare: 0, bytes: 0 }
    }
}

impl ReadBatch<'_> {
    /// The next message of the batch.
    ///
    /// Not an [`Iterator`]: each view borrows the batch, so that none outlives the release.
    ///
    /// # Errors
    /// As [`Consumer::poll`] for the first message; what is wrong beyond it ends the batch, and is
    /// told by the next one.
    #[expect(clippy::should_implement_trait, reason = "a lending iterator, see above")]
    #[inline(always)]
    pub fn next(&mut self) -> Result<Option<View<'_>>, RecvError> {
        let found = self.look()?;
        Ok(found.map(|span| self.take(span)))
    }

    /// As [`ReadBatch::next`], for a message of at most `limit` bytes.
    ///
    /// # Errors
    /// `TooLong` if the next message is longer: it stays in the lane, and what was taken before is
    /// as it was. Otherwise as [`ReadBatch::next`].
    #[inline(always)]
    pub fn next_within(&mut self, limit: usize) -> Result<Option<View<'_>>, RecvError> {
        match self.look()? {
            Some(span) if span.len > limit => Err(RecvError::TooLong { found: span.len, limit }),
            found => Ok(found.map(|span| self.take(span))),
        }
    }

    /// Hands out every message of the batch and releases them together; returns how many.
    ///
    /// # Errors
    /// As [`ReadBatch::next`]: `read` was not called then.
    ///
    /// # Panics
    /// If `read` does: the messages up to that one are then released.
    #[inline(always)]
    pub fn for_each(mut self, mut read: impl FnMut(View<'_>)) -> Result<usize, RecvError> {
        let mut taken = 0;
        while let Some(view) = self.next()? {
            read(view);
            taken += 1;
        }
        Ok(taken)
    }

    /// Hands out nothing more.
    #[inline]
    pub(crate) fn end(&mut self) {
        self.left = 0;
    }

    #[inline(always)]
    pub(crate) fn look(&mut self) -> Result<Option<Span>, RecvError> {
        if self.left == 0 || self.end.position >= self.limit {
            return Ok(None);
        }
        match self.consumer.ring.ready_at(self.end) {
            Some(span) => Ok(Some(span)),
            None => self.find(),
        }
    }

    #[inline(always)]
    pub(crate) fn take(&mut self, span: Span) -> View<'_> {
        self.left -= 1;
        self.spare += span.slots - 1;
        self.bytes += span.len as u64;
        self.end = span.end(self.consumer.ring.geometry());
        View::new(self.consumer, span)
    }

    /// Everything that is not a plain message.
    #[cold]
    #[inline(never)]
    fn find(&mut self) -> Result<Option<Span>, RecvError> {
        if self.end.position == self.consumer.ring.position() {
            let found = self.consumer.next_span();
            // The end of a stream was released already.
            self.end = self.consumer.ring.place();
            return found;
        }
        // A lie beyond the first message is remembered by the ring and told by the next poll.
        let found = self.consumer.ring.poll_at(self.end).unwrap_or(None);
        Ok(found.filter(|span| span.position() + span.slots <= self.consumer.line.end))
    }
}

impl Drop for ReadBatch<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        if self.end.position != self.consumer.ring.position() {
            self.consumer.ring.release_to(self.end, self.spare, self.bytes);
        }
    }
}
