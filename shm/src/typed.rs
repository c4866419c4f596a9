//! Ends whose messages are values of one type: see [`Message`].
//!
//! A layer over the ends for bytes, which it hands out: the same lane, the same promises. The
//! agent holds the two ends' schemas together when they attach; a lane without an agent has nobody
//! who does. Whatever a hostile producer writes is *some* value of the type, or has another length
//! and is refused.
//!
//! *Packed*: [`TypedProducer::send_packed`] puts as many small messages into a slot as fit, under
//! one commit word, and [`TypedConsumer::recv_packed`] hands them out again. Whether a lane is
//! packed is a matter between its two ends: `recv_packed` also takes what was sent one by one, but
//! `recv` refuses a slot that holds several.

pub(crate) mod many;
pub(crate) mod subscriber;

use std::marker::PhantomData;
use std::time::Duration;

use zerocopy::{FromZeros, IntoBytes};

use crate::attach::Attach;
use crate::by_value::ByValue;
use crate::consumer::Consumer;
use crate::error::{AttachError, RecvError, ReserveError, SegmentError};
use crate::message::{Message, check, from_bytes, to_bytes};
use crate::pair::{PairOptions, pair};
use crate::producer::{Producer, WriteSlot};
use crate::ring::Span;

/// Both ends of a new lane for messages of type `T`, inside one process.
///
/// ```
/// use std::time::Duration;
/// laneway_shm::message! {
///     #[derive(PartialEq)]
///     pub struct Quote { price: u64, size: u64 }
/// }
/// let (mut producer, mut consumer) = laneway_shm::typed_pair::<Quote>(Default::default())?;
/// producer.send(&Quote { price: 101, size: 7 }, Duration::ZERO)?;
/// producer.send_with(Duration::ZERO, |quote| *quote = Quote { price: 102, size: 8 })?;
/// assert_eq!(consumer.recv(Duration::ZERO)?, Quote { price: 101, size: 7 });
/// assert_eq!(consumer.try_recv()?, Some(Quote { price: 102, size: 8 }));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// As [`pair`].
pub fn typed_pair<T: Message>(
    options: PairOptions,
) -> Result<(TypedProducer<T>, TypedConsumer<T>), SegmentError> {
    let (producer, consumer) = pair(options)?;
    Ok((TypedProducer::new(producer), TypedConsumer::new(consumer)))
}

impl Attach {
    /// Attaches the producer's end for messages of type `T`.
    ///
    /// # Errors
    /// As [`Attach::producer`]; refused with `SCHEMA_MISMATCH` if the lane carries another type.
    pub fn typed_producer<T: Message>(&self) -> Result<TypedProducer<T>, AttachError> {
        Ok(TypedProducer::new(self.clone().schema(T::SCHEMA).producer()?))
    }

    /// Attaches the consumer's end for messages of type `T`.
    ///
    /// # Errors
    /// As [`Attach::consumer`]; refused with `SCHEMA_MISMATCH` if the lane carries another type.
    pub fn typed_consumer<T: Message>(&self) -> Result<TypedConsumer<T>, AttachError> {
        Ok(TypedConsumer::new(self.clone().schema(T::SCHEMA).consumer()?))
    }
}

/// A producer of messages of type `T`.
#[derive(Debug)]
pub struct TypedProducer<T> {
    producer: Producer,
    messages: PhantomData<fn(T)>,
}

impl<T: Message> TypedProducer<T> {
    /// Takes the caller's word that the lane carries `T`: nobody compares schemas here.
    #[must_use]
    pub fn new(producer: Producer) -> Self {
        Self { producer, messages: PhantomData }
    }

    /// Sends one message, waiting at most `timeout` for room.
    ///
    /// # Errors
    /// As [`Producer::send`].
    #[inline(always)]
    pub fn send(&mut self, message: &T, timeout: Duration) -> Result<(), ReserveError> {
        to_bytes(message).send(&mut self.producer, timeout)
    }

    /// Sends one message if there is room now.
    ///
    /// # Errors
    /// As [`Producer::try_reserve`].
    #[inline(always)]
    pub fn try_send(&mut self, message: &T) -> Result<(), ReserveError> {
        to_bytes(message).try_send(&mut self.producer)
    }

    /// Sends a message that `fill` writes where it lies, without a copy.
    ///
    /// `fill` finds some valid value there and is to write every field. A message of several slots,
    /// or one that must be aligned to more than eight bytes, is built aside and copied.
    ///
    /// # Errors
    /// As [`Producer::reserve`]; `fill` is not called then.
    #[inline(always)]
    pub fn send_with(
        &mut self,
        timeout: Duration,
        fill: impl FnOnce(&mut T),
    ) -> Result<(), ReserveError> {
        let slot = self.producer.reserve(size_of::<T>(), timeout)?;
        fill_in_place(slot, fill);
        Ok(())
    }

    /// As [`TypedProducer::send_with`], if there is room now.
    ///
    /// # Errors
    /// As [`Producer::try_reserve`]; `fill` is not called then.
    #[inline(always)]
    pub fn try_send_with(&mut self, fill: impl FnOnce(&mut T)) -> Result<(), ReserveError> {
        let slot = self.producer.try_reserve(size_of::<T>())?;
        fill_in_place(slot, fill);
        Ok(())
    }

    /// Sends messages, waiting for room where there is none: what there is room for becomes
    /// visible at once.
    ///
    /// # Errors
    /// As [`Producer::send_arrays`]: some may have been sent then.
    #[inline(always)]
    pub fn send_many(&mut self, messages: &[T], timeout: Duration) -> Result<(), ReserveError> {
        let mut next = messages.iter();
        let make = || next.next().map_or_else(T::Bytes::new_zeroed, to_bytes);
        T::Bytes::send_many(&mut self.producer, messages.len(), timeout, make)
    }

    /// Sends as many of the messages as there is room for now; returns how many.
    ///
    /// # Errors
    /// As [`Producer::try_send_arrays`].
    #[inline(always)]
    pub fn try_send_many(&mut self, messages: &[T]) -> Result<usize, ReserveError> {
        try_send_many(&mut self.producer, messages)
    }

    /// Messages that [`TypedProducer::send_packed`] puts into one slot.
    #[must_use]
    pub fn per_slot(&self) -> usize {
        per_slot::<T>(&self.producer)
    }

    /// Sends messages packed, waiting at most `timeout` for each slot.
    ///
    /// The consumer must receive them with [`TypedConsumer::recv_packed`]. Each slot is visible as
    /// soon as it is full; the last one takes what is left.
    ///
    /// # Errors
    /// As [`Producer::reserve`]; the messages of whole slots may have been sent then.
    #[inline]
    pub fn send_packed(&mut self, messages: &[T], timeout: Duration) -> Result<(), ReserveError> {
        for packed in messages.chunks(self.per_slot()) {
            let mut slot = self.producer.reserve(size_of_val(packed), timeout)?;
            slot.write(0, packed.as_bytes());
            slot.commit();
        }
        Ok(())
    }

    /// Sends as many of the messages as there is room for now, packed; returns how many.
    ///
    /// # Errors
    /// As [`Producer::try_reserve`] if none could be sent; a full ring is no error.
    #[inline]
    pub fn try_send_packed(&mut self, messages: &[T]) -> Result<usize, ReserveError> {
        let mut sent = 0;
        for packed in messages.chunks(self.per_slot()) {
            match self.producer.try_reserve(size_of_val(packed)) {
                Ok(mut slot) => {
                    slot.write(0, packed.as_bytes());
                    slot.commit();
                    sent += packed.len();
                }
                Err(ReserveError::Full { .. }) => break,
                // What is wrong is told by the next call: these messages were sent.
                Err(_) if sent > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(sent)
    }

    /// Ends the stream.
    ///
    /// # Errors
    /// As [`Producer::close`].
    pub fn close(self, timeout: Duration) -> Result<(), ReserveError> {
        self.producer.close(timeout)
    }

    /// The end for bytes, to ask it things.
    #[must_use]
    pub fn producer(&self) -> &Producer {
        &self.producer
    }

    /// The end for bytes, to use it.
    pub fn producer_mut(&mut self) -> &mut Producer {
        &mut self.producer
    }

    /// The end for bytes.
    #[must_use]
    pub fn into_producer(self) -> Producer {
        self.producer
    }
}

/// As many of the messages as there is room for now.
#[inline(always)]
pub(crate) fn try_send_many<T: Message>(
    producer: &mut Producer,
    messages: &[T],
) -> Result<usize, ReserveError> {
    let mut next = messages.iter();
    let make = || next.next().map_or_else(T::Bytes::new_zeroed, to_bytes);
    T::Bytes::try_send_many(producer, messages.len(), make)
}

/// Messages that go into one slot.
pub(crate) fn per_slot<T: Message>(producer: &Producer) -> usize {
    const { check::<T>() };
    (producer.ring.geometry().payload() as usize / size_of::<T>()).max(1)
}

#[inline(always)]
pub(crate) fn fill_in_place<T: Message>(mut slot: WriteSlot<'_>, fill: impl FnOnce(&mut T)) {
    write_in_place(&mut slot, fill);
    slot.commit();
}

#[inline(always)]
fn write_in_place<T: Message>(slot: &mut WriteSlot<'_>, fill: impl FnOnce(&mut T)) {
    let in_place = slot.bytes_mut().and_then(|bytes| T::mut_from_bytes(bytes).ok());
    match in_place {
        Some(message) => fill(message),
        None => {
            let mut message = T::new_zeroed();
            fill(&mut message);
            slot.write(0, message.as_bytes());
        }
    }
}

/// A consumer of messages of type `T`.
#[derive(Debug)]
pub struct TypedConsumer<T> {
    consumer: Consumer,
    messages: PhantomData<fn() -> T>,
}

impl<T: Message> TypedConsumer<T> {
    /// Takes the caller's word that the lane carries `T`: nobody compares schemas here.
    #[must_use]
    pub fn new(consumer: Consumer) -> Self {
        Self { consumer, messages: PhantomData }
    }

    /// The next message, waiting at most `timeout` for it.
    ///
    /// # Errors
    /// `Length` if the next message has another length than `T`: it stays in the lane, and
    /// [`TypedConsumer::consumer_mut`] can take it. Otherwise as [`Consumer::recv`].
    #[inline(always)]
    pub fn recv(&mut self, timeout: Duration) -> Result<T, RecvError> {
        self.recv_with(timeout, |message| message)
    }

    /// As [`TypedConsumer::recv`]: what `read` makes of the message. A small message goes from the
    /// lane to `read` in registers, which it may not on its way through a result.
    ///
    /// # Errors
    /// As [`TypedConsumer::recv`].
    #[inline(always)]
    pub fn recv_with<R>(
        &mut self,
        timeout: Duration,
        read: impl FnOnce(T) -> R,
    ) -> Result<R, RecvError> {
        T::Bytes::recv(&mut self.consumer, timeout, |bytes| read(from_bytes(bytes)))
    }

    /// The next message, if there is one now.
    ///
    /// # Errors
    /// As [`TypedConsumer::recv`], without waiting.
    #[inline(always)]
    pub fn try_recv(&mut self) -> Result<Option<T>, RecvError> {
        self.try_recv_with(|message| message)
    }

    /// As [`TypedConsumer::try_recv`]: what `read` makes of the message.
    ///
    /// # Errors
    /// As [`TypedConsumer::try_recv`].
    #[inline(always)]
    pub fn try_recv_with<R>(&mut self, read: impl FnOnce(T) -> R) -> Result<Option<R>, RecvError> {
        T::Bytes::try_recv(&mut self.consumer, |bytes| read(from_bytes(bytes)))
    }

    /// The next message into `target`: for types too large to be handed around by value.
    ///
    /// # Errors
    /// As [`TypedConsumer::recv`].
    pub fn recv_into(&mut self, target: &mut T, timeout: Duration) -> Result<(), RecvError> {
        let span = match self.consumer.ring.ready() {
            Some(span) => span,
            None => self.consumer.wait_for_span(timeout)?,
        };
        take_into(&mut self.consumer, &span, target)
    }

    /// The messages that are there, at most `limit`, waiting for the first one. They are released
    /// together; returns how many there were.
    ///
    /// # Errors
    /// As [`TypedConsumer::recv`], for the first message only: what is wrong after it is told by
    /// the next call.
    #[inline(always)]
    pub fn recv_many(
        &mut self,
        limit: usize,
        timeout: Duration,
        mut read: impl FnMut(T),
    ) -> Result<usize, RecvError> {
        T::Bytes::recv_many(&mut self.consumer, limit, timeout, |bytes| read(from_bytes(bytes)))
    }

    /// As [`TypedConsumer::recv_many`], without waiting: 0 if there is none.
    ///
    /// # Errors
    /// As [`TypedConsumer::recv_many`].
    #[inline(always)]
    pub fn try_recv_many(
        &mut self,
        limit: usize,
        mut read: impl FnMut(T),
    ) -> Result<usize, RecvError> {
        T::Bytes::try_recv_many(&mut self.consumer, limit, |bytes| read(from_bytes(bytes)))
    }

    /// Packed messages, slot by slot until at least `limit` were handed out or no more slots are
    /// there, waiting for the first one; returns how many there were: up to a slot's worth more
    /// than `limit`, because a slot is taken whole.
    ///
    /// # Errors
    /// `Length` if the next slot does not hold a whole number of messages; it stays in the lane.
    /// As with [`TypedConsumer::recv_many`], for the first slot only.
    #[inline(always)]
    pub fn recv_packed(
        &mut self,
        limit: usize,
        timeout: Duration,
        mut read: impl FnMut(T),
    ) -> Result<usize, RecvError> {
        let mut taken = self.try_recv_packed(limit, &mut read)?;
        if taken == 0 && limit > 0 {
            self.consumer.wait_for_span(timeout)?;
            taken = self.try_recv_packed(limit, read)?;
        }
        Ok(taken)
    }

    /// As [`TypedConsumer::recv_packed`], without waiting: 0 if there is none.
    ///
    /// # Errors
    /// As [`TypedConsumer::recv_packed`].
    #[inline(always)]
    pub fn try_recv_packed(
        &mut self,
        limit: usize,
        mut read: impl FnMut(T),
    ) -> Result<usize, RecvError> {
        T::Bytes::try_recv_packed(&mut self.consumer, limit, |bytes| read(from_bytes(bytes)))
    }

    /// The end for bytes, to ask it things.
    #[must_use]
    pub fn consumer(&self) -> &Consumer {
        &self.consumer
    }

    /// The end for bytes, to use it.
    pub fn consumer_mut(&mut self) -> &mut Consumer {
        &mut self.consumer
    }

    /// The end for bytes.
    #[must_use]
    pub fn into_consumer(self) -> Consumer {
        self.consumer
    }
}

/// Takes a message out of the lane; one of another length stays there.
#[cfg(feature = "tokio")]
pub(crate) fn take<T: Message>(consumer: &mut Consumer, span: &Span) -> Result<T, RecvError> {
    const { check::<T>() };
    let mut message = T::new_zeroed();
    take_into(consumer, span, &mut message).map(|()| message)
}

fn take_into<T: Message>(
    consumer: &mut Consumer,
    span: &Span,
    target: &mut T,
) -> Result<(), RecvError> {
    if span.len != size_of::<T>() {
        return Err(RecvError::Length { found: span.len, expected: size_of::<T>() });
    }
    consumer.ring.copy_out(span, 0, target.as_mut_bytes());
    consumer.ring.release(span);
    Ok(())
}
