//! A reader of values in a broadcast lane that does not wait for it.
//!
//! A layer over [`Subscriber`], which it hands out. What is told of losses and of budgets is what
//! that one tells, as often and with the same numbers. A message of another length is refused, and
//! stays for whoever takes bytes; it costs nothing that is behind it but time.

use std::marker::PhantomData;
use std::time::Duration;

use super::TypedConsumer;
use crate::attach::{Attach, Receiver};
use crate::error::{AttachError, RecvError};
use crate::message::{Message, check};
use crate::subscriber::{Message as Bytes, Subscriber};

impl Attach {
    /// Attaches a reader for messages of type `T` of a broadcast lane that does not wait for it.
    ///
    /// ```no_run
    /// # fn follow(socket: &str) -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use laneway_shm::{Attach, RecvError};
    ///
    /// laneway_shm::message! { pub struct Quote { price: u64, size: u64 } }
    /// let mut quotes = Attach::by_name(socket, "quotes").typed_subscriber::<Quote>()?;
    /// loop {
    ///     match quotes.recv(Duration::MAX) {
    ///         Ok(quote) => println!("{quote:?}"),
    ///         Err(RecvError::Lost { slots, .. }) => eprintln!("{slots} slots are gone"),
    ///         Err(other) => return Err(other.into()),
    ///     }
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Attach::subscriber`]; refused with `SCHEMA_MISMATCH` if the lane carries another type.
    pub fn typed_subscriber<T: Message>(&self) -> Result<TypedSubscriber<T>, AttachError> {
        Ok(TypedSubscriber::new(self.clone().schema(T::SCHEMA).subscriber()?))
    }

    /// Attaches a receiving end for messages of type `T` of a lane of any shape: what it is, the
    /// lane decides.
    ///
    /// # Errors
    /// As [`Attach::receiver`]; refused with `SCHEMA_MISMATCH` if the lane carries another type.
    pub fn typed_receiver<T: Message>(&self) -> Result<TypedReceiver<T>, AttachError> {
        Ok(match self.clone().schema(T::SCHEMA).receiver()? {
            Receiver::Consumer(consumer) => {
                TypedReceiver::Consumer(Box::new(TypedConsumer::new(*consumer)))
            }
            Receiver::Subscriber(subscriber) => {
                TypedReceiver::Subscriber(Box::new(TypedSubscriber::new(*subscriber)))
            }
        })
    }
}

/// A receiving end for messages of type `T` of a lane whose shape was not known before.
#[derive(Debug)]
pub enum TypedReceiver<T> {
    /// Of a lane that loses nothing.
    Consumer(Box<TypedConsumer<T>>),
    /// Of a broadcast lane that does not wait for its readers.
    Subscriber(Box<TypedSubscriber<T>>),
}

/// A reader of messages of type `T` that may be overrun.
#[derive(Debug)]
pub struct TypedSubscriber<T> {
    subscriber: Subscriber,
    messages: PhantomData<fn() -> T>,
}

impl<T: Message> TypedSubscriber<T> {
    /// Takes the caller's word that the lane carries `T`: nobody compares schemas here.
    #[must_use]
    pub fn new(subscriber: Subscriber) -> Self {
        Self { subscriber, messages: PhantomData }
    }

    /// The next message, waiting at most `timeout` for it.
    ///
    /// # Errors
    /// `Length` if the next message has another length than `T`: it stays, and
    /// [`TypedSubscriber::subscriber_mut`] can take it. `Lost` once for each loss, `GivenUp` once,
    /// and otherwise as [`Subscriber::recv`].
    pub fn recv(&mut self, timeout: Duration) -> Result<T, RecvError> {
        let found = self.subscriber.wait_for_message(timeout)?;
        take(&mut self.subscriber, found)
    }

    /// The next message, if there is one now.
    ///
    /// # Errors
    /// As [`TypedSubscriber::recv`], without waiting.
    pub fn try_recv(&mut self) -> Result<Option<T>, RecvError> {
        let Some(found) = self.subscriber.advance_to_message()? else { return Ok(None) };
        take(&mut self.subscriber, found).map(Some)
    }

    /// The next message into `target`: for types too large to be handed around by value.
    ///
    /// # Errors
    /// As [`TypedSubscriber::recv`].
    pub fn recv_into(&mut self, target: &mut T, timeout: Duration) -> Result<(), RecvError> {
        let found = self.subscriber.wait_for_message(timeout)?;
        self.subscriber.take(found, |message| {
            let bytes = message.bytes;
            if bytes.len() != size_of::<T>() {
                return Err(length::<T>(bytes));
            }
            target.as_mut_bytes().copy_from_slice(bytes);
            Ok(())
        })
    }

    /// The messages that are there, at most `limit`, waiting for the first one; returns how many
    /// there were. Between two of one call nothing is missing, as in [`Subscriber::recv_many`].
    ///
    /// # Errors
    /// As [`TypedSubscriber::recv`], before the first message only: what is found behind one is
    /// told by the next call.
    pub fn recv_many(
        &mut self,
        limit: usize,
        timeout: Duration,
        read: impl FnMut(T),
    ) -> Result<usize, RecvError> {
        self.subscriber.many(limit, Some(timeout), one(read))
    }

    /// As [`TypedSubscriber::recv_many`], without waiting: 0 if there is none.
    ///
    /// # Errors
    /// As [`TypedSubscriber::recv_many`].
    pub fn try_recv_many(&mut self, limit: usize, read: impl FnMut(T)) -> Result<usize, RecvError> {
        self.subscriber.many(limit, None, one(read))
    }

    /// Packed messages, slot by slot until at least `limit` were handed out or no more slots are
    /// there, waiting for the first one; returns how many there were: up to a slot's worth more
    /// than `limit`, because a slot is taken whole.
    ///
    /// # Errors
    /// `Length` if the next slot does not hold a whole number of messages; it stays. Otherwise as
    /// [`TypedSubscriber::recv_many`].
    pub fn recv_packed(
        &mut self,
        limit: usize,
        timeout: Duration,
        read: impl FnMut(T),
    ) -> Result<usize, RecvError> {
        self.subscriber.many(limit, Some(timeout), packed(read))
    }

    /// As [`TypedSubscriber::recv_packed`], without waiting: 0 if there is none.
    ///
    /// # Errors
    /// As [`TypedSubscriber::recv_packed`].
    pub fn try_recv_packed(
        &mut self,
        limit: usize,
        read: impl FnMut(T),
    ) -> Result<usize, RecvError> {
        self.subscriber.many(limit, None, packed(read))
    }

    /// The end for bytes, to ask it things.
    #[must_use]
    pub fn subscriber(&self) -> &Subscriber {
        &self.subscriber
    }

    /// The end for bytes, to use it.
    pub fn subscriber_mut(&mut self) -> &mut Subscriber {
        &mut self.subscriber
    }

    /// The end for bytes.
    #[must_use]
    pub fn into_subscriber(self) -> Subscriber {
        self.subscriber
    }
}

/// The value of a message that was found; one of another length stays.
pub(crate) fn take<T: Message>(
    subscriber: &mut Subscriber,
    found: (u64, usize),
) -> Result<T, RecvError> {
    subscriber.take(found, |message| value(message.bytes))
}

/// Hands each message on as one value.
pub(crate) fn one<T: Message>(
    mut read: impl FnMut(T),
) -> impl FnMut(Bytes<'_>) -> Result<usize, RecvError> {
    move |message| {
        read(value(message.bytes)?);
        Ok(1)
    }
}

/// Hands each message on as the values that are packed into it.
pub(crate) fn packed<T: Message>(
    mut read: impl FnMut(T),
) -> impl FnMut(Bytes<'_>) -> Result<usize, RecvError> {
    const { check::<T>() };
    move |message| {
        let values = message.bytes.chunks_exact(size_of::<T>());
        if message.bytes.is_empty() || !values.remainder().is_empty() {
            return Err(length::<T>(message.bytes));
        }
        values.flat_map(T::read_from_bytes).for_each(&mut read);
        Ok(message.bytes.len() / size_of::<T>())
    }
}

fn value<T: Message>(bytes: &[u8]) -> Result<T, RecvError> {
    const { check::<T>() };
    T::read_from_bytes(bytes).map_err(|_| length::<T>(bytes))
}

fn length<T>(bytes: &[u8]) -> RecvError {
    RecvError::Length { found: bytes.len(), expected: size_of::<T>() }
}
