//! Many values at once: written where they lie and shown together, or taken one by one by an
//! iterator.

use std::iter::FusedIterator;
use std::marker::PhantomData;
use std::time::Duration;

use zerocopy::{FromBytes, IntoBytes};

use super::subscriber::{TypedSubscriber, take};
use super::{TypedConsumer, TypedProducer, write_in_place};
use crate::consumer::Consumer;
use crate::error::{RecvError, ReserveError};
use crate::message::{Message, check};
use crate::producer::{WriteChunk, WriteSlot};
use crate::received::ReadBatch;
use crate::ring::Span;
use crate::subscriber::Subscriber;

impl<T: Message> TypedProducer<T> {
    /// Room for `count` values, to be written where they lie and to become visible together; waits
    /// for all of it at most `timeout`, for ever with [`Duration::MAX`]. As [`Producer::chunk`].
    ///
    /// ```
    /// # use std::time::Duration;
    /// laneway_shm::message! {
    ///     #[derive(PartialEq)]
    ///     pub struct Quote { price: u64, size: u64 }
    /// }
    /// # let (mut producer, mut consumer) = laneway_shm::typed_pair::<Quote>(Default::default())?;
    /// let chunk = producer.chunk(3, Duration::from_secs(1))?;
    /// chunk.fill(|index, quote| *quote = Quote { price: 100 + index as u64, size: 1 })?;
    ///
    /// let quotes: Vec<Quote> = consumer.recv_batch(8, Duration::from_secs(1))?.collect();
    /// assert_eq!(quotes[2], Quote { price: 102, size: 1 });
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Producer::chunk`]. Nothing is taken then.
    ///
    /// [`Producer::chunk`]: crate::Producer::chunk
    pub fn chunk(
        &mut self,
        count: usize,
        timeout: Duration,
    ) -> Result<TypedChunk<'_, T>, ReserveError> {
        Ok(TypedChunk::new(self.producer.chunk(count, size_of::<T>(), timeout)?))
    }

    /// As [`TypedProducer::chunk`], only if there is room for all of it now: it never waits.
    ///
    /// # Errors
    /// As [`Producer::try_chunk`](crate::Producer::try_chunk).
    pub fn try_chunk(&mut self, count: usize) -> Result<TypedChunk<'_, T>, ReserveError> {
        Ok(TypedChunk::new(self.producer.try_chunk(count, size_of::<T>())?))
    }

    /// Sends `count` values packed into one message, which `fill` writes where they lie, without a
    /// copy; waits at most `timeout` for room. The consumer takes them with
    /// [`TypedConsumer::recv_packed`].
    ///
    /// `fill` finds some valid values there and is to write all of them. More than
    /// [`TypedProducer::per_slot`], or values that must be aligned to more than eight bytes, are
    /// built aside and copied. Nothing is sent where `count` is 0.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # let (mut producer, mut consumer) = laneway_shm::typed_pair::<u64>(Default::default())?;
    /// let count = producer.per_slot();
    /// producer.send_packed_with(count, Duration::ZERO, |prices| prices.fill(101))?;
    /// let mut sum = 0;
    /// assert_eq!(consumer.recv_packed(count, Duration::ZERO, |price| sum += price)?, count);
    /// assert_eq!(sum, 101 * count as u64);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Producer::reserve`](crate::Producer::reserve) for all of them; `fill` is not called
    /// then.
    pub fn send_packed_with(
        &mut self,
        count: usize,
        timeout: Duration,
        fill: impl FnOnce(&mut [T]),
    ) -> Result<(), ReserveError> {
        if count > 0 {
            let slot = self.producer.reserve(size_of::<T>().saturating_mul(count), timeout)?;
            fill_packed(slot, count, fill);
        }
        Ok(())
    }

    /// As [`TypedProducer::send_packed_with`], if there is room now.
    ///
    /// # Errors
    /// As [`Producer::try_reserve`](crate::Producer::try_reserve) for all of them; `fill` is not
    /// called then.
    pub fn try_send_packed_with(
        &mut self,
        count: usize,
        fill: impl FnOnce(&mut [T]),
    ) -> Result<(), ReserveError> {
        if count > 0 {
            let slot = self.producer.try_reserve(size_of::<T>().saturating_mul(count))?;
            fill_packed(slot, count, fill);
        }
        Ok(())
    }
}

/// Lets `fill` write all of a message's values, and makes it visible.
#[inline]
pub(crate) fn fill_packed<T: Message>(
    mut slot: WriteSlot<'_>,
    count: usize,
    fill: impl FnOnce(&mut [T]),
) {
    const { check::<T>() };
    let in_place = slot.bytes_mut().and_then(|bytes| <[T]>::mut_from_bytes(bytes).ok());
    match in_place {
        Some(values) => fill(values),
        None => {
            let mut values = vec![T::new_zeroed(); count];
            fill(&mut values);
            slot.write(0, values.as_bytes());
        }
    }
    slot.commit();
}

/// Room for values, which are written in place and become visible together, or not at all:
/// dropping it without commit publishes nothing. What was not written is given back.
#[derive(Debug)]
pub struct TypedChunk<'p, T> {
    chunk: WriteChunk<'p>,
    messages: PhantomData<fn(T)>,
}

impl<'p, T: Message> TypedChunk<'p, T> {
    pub(crate) fn new(chunk: WriteChunk<'p>) -> Self {
        const { check::<T>() };
        Self { chunk, messages: PhantomData }
    }

    /// Values that it has room for, and which were not written yet.
    #[must_use]
    pub fn left(&self) -> usize {
        self.chunk.left()
    }

    /// Lets `fill` write the next value where it lies, as [`TypedProducer::send_with`] does; false
    /// if there was none left.
    ///
    /// # Errors
    /// As [`WriteChunk::next`]; `fill` is not called then. What was written before is as it was.
    #[inline]
    pub fn write(&mut self, fill: impl FnOnce(&mut T)) -> Result<bool, ReserveError> {
        let Some(mut slot) = self.chunk.next()? else { return Ok(false) };
        write_in_place(&mut slot.0, fill);
        Ok(true)
    }

    /// Lets `fill` write every value that is left, with its number from 0 on, and makes all of the
    /// chunk visible; returns how many were written, in this call and before.
    ///
    /// # Errors
    /// As [`WriteChunk::next`]: nothing is visible then.
    #[inline]
    pub fn fill(mut self, mut fill: impl FnMut(usize, &mut T)) -> Result<u64, ReserveError> {
        let mut index = 0;
        while self.write(|value| fill(index, value))? {
            index += 1;
        }
        Ok(self.commit())
    }

    /// Makes every value visible that was written, at once; returns how many.
    #[inline]
    pub fn commit(self) -> u64 {
        self.chunk.commit()
    }
}

impl<T: Message> TypedConsumer<T> {
    /// The values that are there, at most `limit`, as an iterator, waiting at most `timeout` for
    /// the first one. Those that it handed out are released together when it is dropped; the
    /// others stay in the lane. [`TypedConsumer::recv_many`] is the faster way for small values.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # let (mut producer, mut consumer) = laneway_shm::typed_pair::<u64>(Default::default())?;
    /// producer.send_many(&[101, 99, 100], Duration::ZERO)?;
    /// let highest = consumer.recv_batch(2, Duration::from_secs(1))?.max();
    /// assert_eq!(highest, Some(101));
    /// assert_eq!(consumer.try_recv()?, Some(100));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`TypedConsumer::recv`], for the first value only: what is wrong after it ends the batch,
    /// and is told by the next call.
    pub fn recv_batch(
        &mut self,
        limit: usize,
        timeout: Duration,
    ) -> Result<TypedBatch<'_, T>, RecvError> {
        let first = match self.consumer.ring.ready() {
            _ if limit == 0 => None,
            Some(span) => Some(span),
            None => Some(self.consumer.wait_for_span(timeout)?),
        };
        TypedBatch::new(&mut self.consumer, limit, first)
    }

    /// As [`TypedConsumer::recv_batch`], without waiting: an empty one if there is no value now.
    ///
    /// # Errors
    /// As [`TypedConsumer::try_recv`], for the first value only.
    pub fn try_recv_batch(&mut self, limit: usize) -> Result<TypedBatch<'_, T>, RecvError> {
        let first = match self.consumer.ring.ready() {
            _ if limit == 0 => None,
            Some(span) => Some(span),
            None => self.consumer.next_span()?,
        };
        TypedBatch::new(&mut self.consumer, limit, first)
    }
}

/// Received values, one after the other. Those that were handed out are released together when it
/// is dropped.
#[derive(Debug)]
pub struct TypedBatch<'c, T> {
    batch: ReadBatch<'c>,
    /// The first message, until it is handed out; without one there is no other.
    first: Option<Span>,
    messages: PhantomData<fn() -> T>,
}

impl<'c, T: Message> TypedBatch<'c, T> {
    pub(crate) fn new(
        consumer: &'c mut Consumer,
        limit: usize,
        first: Option<Span>,
    ) -> Result<Self, RecvError> {
        const { check::<T>() };
        match first {
            Some(span) if span.len != size_of::<T>() => {
                Err(RecvError::Length { found: span.len, expected: size_of::<T>() })
            }
            _ => {
                let limit = if first.is_some() { limit } else { 0 };
                let batch = ReadBatch::new(consumer, limit);
                Ok(Self { batch, first, messages: PhantomData })
            }
        }
    }
}

impl<T: Message> Iterator for TypedBatch<'_, T> {
    type Item = T;

    #[inline]
    fn next(&mut self) -> Option<T> {
        // Behind the first one there are no errors: the next call tells them.
        let found = match self.first.take() {
            None => self.batch.look().ok().flatten(),
            first => first,
        };
        let Some(span) = found.filter(|span| span.len == size_of::<T>()) else {
            self.batch.end();
            return None;
        };
        let mut value = T::new_zeroed();
        self.batch.take(span).copy_to(value.as_mut_bytes());
        Some(value)
    }
}

impl<T: Message> FusedIterator for TypedBatch<'_, T> {}

impl<T: Message> TypedSubscriber<T> {
    /// The values that are there, at most `limit`, as an iterator, waiting at most `timeout` for
    /// the first one. Each is copied and checked when it is asked for; between two of them nothing
    /// is missing, as in [`Subscriber::recv_many`].
    ///
    /// ```no_run
    /// # use laneway_shm::{RecvError, TypedSubscriber};
    /// # fn follow(prices: &mut TypedSubscriber<u64>) -> Result<(), RecvError> {
    /// # use std::time::Duration;
    /// match prices.recv_batch(64, Duration::MAX) {
    ///     Ok(batch) => println!("highest of them: {:?}", batch.max()),
    ///     Err(RecvError::Lost { slots, .. }) => eprintln!("{slots} slots are gone"),
    ///     Err(other) => return Err(other),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`TypedSubscriber::recv`], before the first value only: what is found behind one ends the
    /// batch, and is told by the next call.
    pub fn recv_batch(
        &mut self,
        limit: usize,
        timeout: Duration,
    ) -> Result<TypedCopies<'_, T>, RecvError> {
        let first = match limit {
            0 => None,
            _ => Some(self.subscriber_mut().wait_for_message(timeout)?),
        };
        TypedCopies::new(self.subscriber_mut(), limit, first)
    }

    /// As [`TypedSubscriber::recv_batch`], without waiting: an empty one if there is no value now.
    ///
    /// # Errors
    /// As [`TypedSubscriber::try_recv`], before the first value only.
    pub fn try_recv_batch(&mut self, limit: usize) -> Result<TypedCopies<'_, T>, RecvError> {
        let first = match limit {
            0 => None,
            _ => self.subscriber_mut().advance_to_message()?,
        };
        TypedCopies::new(self.subscriber_mut(), limit, first)
    }
}

/// Values of a reader that may be overrun, one after the other: its own copies.
#[derive(Debug)]
pub struct TypedCopies<'s, T> {
    subscriber: &'s mut Subscriber,
    left: usize,
    messages: PhantomData<fn() -> T>,
}

impl<'s, T: Message> TypedCopies<'s, T> {
    pub(crate) fn new(
        subscriber: &'s mut Subscriber,
        limit: usize,
        first: Option<(u64, usize)>,
    ) -> Result<Self, RecvError> {
        let mut left = 0;
        if let Some(found) = first {
            left = limit;
            // Whatever it is, it stays where it is found again.
            subscriber.keep_found(found);
            if found.1 != size_of::<T>() {
                return Err(RecvError::Length { found: found.1, expected: size_of::<T>() });
            }
        }
        Ok(Self { subscriber, left, messages: PhantomData })
    }
}

impl<T: Message> Iterator for TypedCopies<'_, T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        self.left = self.left.checked_sub(1)?;
        let found = self.subscriber.further_message();
        // One of another length was kept.
        let value = found.and_then(|found| take(self.subscriber, found).ok());
        if value.is_none() {
            self.left = 0;
        }
        value
    }
}

impl<T: Message> FusedIterator for TypedCopies<'_, T> {}
