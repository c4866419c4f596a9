//! Awaited ends whose messages are values of one type: see [`Message`](trait@Message).
//!
//! A layer over the awaited ends for bytes, which it hands out: the same waits, the same promises
//! for a future that is dropped.

pub(super) mod subscriber;

use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use futures_sink::Sink;
use zerocopy::IntoBytes;

use super::async_pair;
use super::consumer::AsyncConsumer;
use super::producer::AsyncProducer;
use crate::attach::Attach;
use crate::by_value::ByValue;
use crate::error::{AttachError, RecvError, ReserveError};
use crate::message::{Message, from_bytes};
use crate::pair::PairOptions;
use crate::typed::many::{TypedBatch, TypedChunk, fill_packed};
use crate::typed::{fill_in_place, per_slot, take, try_send_many};

/// Both ends of a new lane for messages of type `T`, inside one process, for an async runtime.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// use laneway_shm::asynchronous::async_typed_pair;
///
/// laneway_shm::message! {
///     #[derive(PartialEq)]
///     pub struct Quote { price: u64, size: u64 }
/// }
/// let (mut producer, mut consumer) = async_typed_pair::<Quote>(Default::default())?;
/// let quote = Quote { price: 101, size: 7 };
/// let (sent, received) = tokio::join!(producer.send(&quote), consumer.recv());
/// sent?;
/// assert_eq!(received?, quote);
/// # Ok(())
/// # })
/// # }
/// ```
///
/// # Errors
/// As [`async_pair`].
pub fn async_typed_pair<T: Message>(
    options: PairOptions,
) -> Result<(AsyncTypedProducer<T>, AsyncTypedConsumer<T>), AttachError> {
    let (producer, consumer) = async_pair(options)?;
    Ok((AsyncTypedProducer::new(producer), AsyncTypedConsumer::new(consumer)))
}

impl Attach {
    /// Attaches the producer's end for messages of type `T` and an async runtime.
    ///
    /// ```no_run
    /// # async fn quotes(socket: &str) -> Result<(), Box<dyn std::error::Error>> {
    /// use laneway_shm::Attach;
    ///
    /// laneway_shm::message! { pub struct Quote { price: u64, size: u64 } }
    /// let mut quotes = Attach::by_name(socket, "quotes").async_typed_producer::<Quote>()?;
    /// quotes.send(&Quote { price: 101, size: 7 }).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Attach::async_producer`]; refused with `SCHEMA_MISMATCH` if the lane carries another
    /// type.
    pub fn async_typed_producer<T: Message>(&self) -> Result<AsyncTypedProducer<T>, AttachError> {
        Ok(AsyncTypedProducer::new(self.clone().schema(T::SCHEMA).async_producer()?))
    }

    /// Attaches the consumer's end for messages of type `T` and an async runtime.
    ///
    /// ```no_run
    /// # async fn quotes(socket: &str) -> Result<(), Box<dyn std::error::Error>> {
    /// use laneway_shm::Attach;
    ///
    /// laneway_shm::message! { pub struct Quote { price: u64, size: u64 } }
    /// let mut quotes = Attach::by_name(socket, "quotes").async_typed_consumer::<Quote>()?;
    /// println!("{:?}", quotes.recv().await?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Attach::async_consumer`]; refused with `SCHEMA_MISMATCH` if the lane carries another
    /// type.
    pub fn async_typed_consumer<T: Message>(&self) -> Result<AsyncTypedConsumer<T>, AttachError> {
        Ok(AsyncTypedConsumer::new(self.clone().schema(T::SCHEMA).async_consumer()?))
    }
}

/// A producer of messages of type `T` in an async runtime. A [`Sink`] of them as well.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// # use laneway_shm::asynchronous::async_typed_pair;
/// use futures_util::{SinkExt, StreamExt};
///
/// let (mut producer, consumer) = async_typed_pair::<u64>(Default::default())?;
/// for price in 0..10 {
///     producer.feed(price).await?;
/// }
/// SinkExt::close(&mut producer).await?;
/// let prices: Vec<_> = consumer.map(Result::unwrap).collect().await;
/// assert_eq!(prices.into_iter().sum::<u64>(), 45);
/// # Ok(())
/// # })
/// # }
/// ```
#[derive(Debug)]
pub struct AsyncTypedProducer<T> {
    inner: AsyncProducer,
    messages: PhantomData<fn(T)>,
}

impl<T: Message> AsyncTypedProducer<T> {
    /// Takes the caller's word that the lane carries `T`: nobody compares schemas here.
    #[must_use]
    pub fn new(inner: AsyncProducer) -> Self {
        Self { inner, messages: PhantomData }
    }

    /// Sends one message, waiting for room. Cancel-safe.
    ///
    /// # Errors
    /// As [`AsyncProducer::send`].
    ///
    /// # Panics
    /// As [`AsyncProducer::send`].
    pub async fn send(&mut self, message: &T) -> Result<(), ReserveError> {
        self.inner.send(message.as_bytes()).await
    }

    /// Waits for room, and sends a message that `fill` writes where it lies, without a copy, as
    /// [`TypedProducer::send_with`](crate::TypedProducer::send_with) does. Cancel-safe.
    ///
    /// # Errors
    /// As [`AsyncProducer::send`]; `fill` is not called then.
    ///
    /// # Panics
    /// As [`AsyncProducer::send`].
    pub async fn send_with(&mut self, fill: impl FnOnce(&mut T)) -> Result<(), ReserveError> {
        fill_in_place(self.inner.reserve(size_of::<T>()).await?, fill);
        Ok(())
    }

    /// Sends as many of the messages as there is room for at once, waiting for room for the first;
    /// returns how many. Cancel-safe: they are in the lane once the future is ready, and none of
    /// them if it was dropped before.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
    /// # use laneway_shm::asynchronous::async_typed_pair;
    /// # let (mut producer, mut consumer) = async_typed_pair::<u64>(Default::default())?;
    /// let mut prices = &[101, 99, 100][..];
    /// while !prices.is_empty() {
    ///     prices = &prices[producer.send_many(prices).await?..];
    /// }
    /// # assert_eq!(consumer.recv_many(8, |_| ()).await?, 3);
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`AsyncProducer::send`].
    ///
    /// # Panics
    /// As [`AsyncProducer::send`].
    pub async fn send_many(&mut self, messages: &[T]) -> Result<usize, ReserveError> {
        if messages.is_empty() {
            return Ok(0);
        }
        self.inner.room(size_of::<T>()).await?;
        try_send_many(self.inner.get_mut(), messages)
    }

    /// Room for `count` values, to be written where they lie and to become visible together,
    /// waiting for all of it; as [`TypedProducer::chunk`](crate::TypedProducer::chunk).
    /// Cancel-safe: a chunk that is not committed leaves nothing behind.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
    /// # use laneway_shm::asynchronous::async_typed_pair;
    /// # let (mut producer, mut consumer) = async_typed_pair::<u64>(Default::default())?;
    /// producer.chunk(3).await?.fill(|index, price| *price = 100 + index as u64)?;
    /// let prices: Vec<u64> = consumer.recv_batch(8).await?.collect();
    /// assert_eq!(prices, [100, 101, 102]);
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`AsyncProducer::chunk`].
    ///
    /// # Panics
    /// As [`AsyncProducer::send`].
    pub async fn chunk(&mut self, count: usize) -> Result<TypedChunk<'_, T>, ReserveError> {
        Ok(TypedChunk::new(self.inner.chunk(count, size_of::<T>()).await?))
    }

    /// Sends as many of the messages as a slot holds, packed into one, waiting for it; returns how
    /// many. The consumer must receive them with [`AsyncTypedConsumer::recv_packed`]. Cancel-safe:
    /// all of them are in the lane once the future is ready, and none if it was dropped before.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
    /// # use laneway_shm::asynchronous::async_typed_pair;
    /// # let (mut producer, mut consumer) = async_typed_pair::<u64>(Default::default())?;
    /// let mut prices = &[101, 99, 100, 98, 97, 102, 103, 104][..];
    /// while !prices.is_empty() {
    ///     prices = &prices[producer.send_packed(prices).await?..];
    /// }
    /// let mut sum = 0;
    /// while sum < 804 {
    ///     consumer.recv_packed(100, |price| sum += price).await?;
    /// }
    /// # assert_eq!(sum, 804);
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`AsyncProducer::send`].
    ///
    /// # Panics
    /// As [`AsyncProducer::send`].
    pub async fn send_packed(&mut self, messages: &[T]) -> Result<usize, ReserveError> {
        let limit = per_slot::<T>(self.inner.get_ref());
        let packed = messages.get(..limit).unwrap_or(messages);
        if !packed.is_empty() {
            self.inner.send(packed.as_bytes()).await?;
        }
        Ok(packed.len())
    }

    /// Waits for room, and sends `count` values packed into one message, which `fill` writes where
    /// they lie, as [`TypedProducer::send_packed_with`](crate::TypedProducer::send_packed_with)
    /// does. Cancel-safe.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
    /// # use laneway_shm::asynchronous::async_typed_pair;
    /// # let (mut producer, mut consumer) = async_typed_pair::<u64>(Default::default())?;
    /// producer.send_packed_with(3, |prices| prices.copy_from_slice(&[101, 99, 100])).await?;
    /// let mut highest = 0;
    /// assert_eq!(consumer.recv_packed(1, |price| highest = highest.max(price)).await?, 3);
    /// assert_eq!(highest, 101);
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`AsyncProducer::send`]; `fill` is not called then.
    ///
    /// # Panics
    /// As [`AsyncProducer::send`].
    pub async fn send_packed_with(
        &mut self,
        count: usize,
        fill: impl FnOnce(&mut [T]),
    ) -> Result<(), ReserveError> {
        if count > 0 {
            let len = size_of::<T>().saturating_mul(count);
            fill_packed(self.inner.reserve(len).await?, count, fill);
        }
        Ok(())
    }

    /// Ends the stream.
    ///
    /// # Errors
    /// As [`AsyncProducer::close`].
    ///
    /// # Panics
    /// As [`AsyncProducer::send`].
    pub async fn close(self) -> Result<(), ReserveError> {
        self.inner.close().await
    }

    /// The end for bytes, to ask it things.
    #[must_use]
    pub fn get_ref(&self) -> &AsyncProducer {
        &self.inner
    }

    /// The end for bytes, to use it.
    pub fn get_mut(&mut self) -> &mut AsyncProducer {
        &mut self.inner
    }

    /// The end for bytes.
    #[must_use]
    pub fn into_inner(self) -> AsyncProducer {
        self.inner
    }

    fn pinned(self: Pin<&mut Self>) -> Pin<&mut AsyncProducer> {
        Pin::new(&mut self.get_mut().inner)
    }
}

impl<T: Message> Sink<T> for AsyncTypedProducer<T> {
    type Error = ReserveError;

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), ReserveError>> {
        Sink::<&[u8]>::poll_ready(self.pinned(), cx)
    }

    /// As of an [`AsyncProducer`].
    ///
    /// # Errors
    /// As of an [`AsyncProducer`].
    fn start_send(self: Pin<&mut Self>, message: T) -> Result<(), ReserveError> {
        self.pinned().start_send(message.as_bytes())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), ReserveError>> {
        Sink::<&[u8]>::poll_flush(self.pinned(), cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), ReserveError>> {
        Sink::<&[u8]>::poll_close(self.pinned(), cx)
    }
}

/// A consumer of messages of type `T` in an async runtime. A [`Stream`] of them as well, which ends
/// as that of an [`AsyncConsumer`] does; an error about a message that stays in the lane comes
/// again until the message was taken otherwise.
#[derive(Debug)]
pub struct AsyncTypedConsumer<T> {
    inner: AsyncConsumer,
    messages: PhantomData<fn() -> T>,
}

impl<T: Message> AsyncTypedConsumer<T> {
    /// Takes the caller's word that the lane carries `T`: nobody compares schemas here.
    #[must_use]
    pub fn new(inner: AsyncConsumer) -> Self {
        Self { inner, messages: PhantomData }
    }

    /// The next message. Cancel-safe: it is taken out of the lane by the poll that returns it.
    ///
    /// # Errors
    /// `Length` if the next message has another length than `T`: it stays in the lane, and
    /// [`AsyncTypedConsumer::get_mut`] can take it. Otherwise as [`AsyncConsumer::recv`].
    ///
    /// # Panics
    /// As [`AsyncConsumer::recv`].
    pub async fn recv(&mut self) -> Result<T, RecvError> {
        let span = self.inner.found().await?;
        take(self.inner.get_mut(), &span)
    }

    /// The messages that are there, at most `limit`, waiting for the first one. They are released
    /// together; returns how many there were. Cancel-safe: `read` is called by the poll that
    /// returns.
    ///
    /// # Errors
    /// As [`AsyncTypedConsumer::recv`], for the first message only: what is wrong after it is told
    /// by the next call.
    ///
    /// # Panics
    /// As [`AsyncConsumer::recv`].
    pub async fn recv_many(
        &mut self,
        limit: usize,
        mut read: impl FnMut(T),
    ) -> Result<usize, RecvError> {
        self.inner.found().await?;
        T::Bytes::try_recv_many(self.inner.get_mut(), limit, |bytes| read(from_bytes(bytes)))
    }

    /// The values that are there, at most `limit`, as an iterator, waiting for the first one; as
    /// [`TypedConsumer::recv_batch`](crate::TypedConsumer::recv_batch). Cancel-safe: nothing is
    /// taken before it is handed out.
    ///
    /// # Errors
    /// As [`AsyncTypedConsumer::recv`], for the first value only: what is wrong after it ends the
    /// batch, and is told by the next call.
    ///
    /// # Panics
    /// As [`AsyncConsumer::recv`].
    pub async fn recv_batch(&mut self, limit: usize) -> Result<TypedBatch<'_, T>, RecvError> {
        let first = match limit {
            0 => None,
            _ => Some(self.inner.found().await?),
        };
        TypedBatch::new(self.inner.get_mut(), limit, first)
    }

    /// Packed messages, slot by slot until at least `limit` were handed out or no more slots are
    /// there, waiting for the first one; otherwise as
    /// [`TypedConsumer::recv_packed`](crate::TypedConsumer::recv_packed). Cancel-safe, likewise.
    ///
    /// # Errors
    /// `Length` if the next slot does not hold a whole number of messages; it stays in the lane.
    /// Otherwise as [`AsyncTypedConsumer::recv_many`].
    ///
    /// # Panics
    /// As [`AsyncConsumer::recv`].
    pub async fn recv_packed(
        &mut self,
        limit: usize,
        mut read: impl FnMut(T),
    ) -> Result<usize, RecvError> {
        self.inner.found().await?;
        T::Bytes::try_recv_packed(self.inner.get_mut(), limit, |bytes| read(from_bytes(bytes)))
    }

    /// The end for bytes, to ask it things.
    #[must_use]
    pub fn get_ref(&self) -> &AsyncConsumer {
        &self.inner
    }

    /// The end for bytes, to use it.
    pub fn get_mut(&mut self) -> &mut AsyncConsumer {
        &mut self.inner
    }

    /// The end for bytes.
    #[must_use]
    pub fn into_inner(self) -> AsyncConsumer {
        self.inner
    }
}

impl<T: Message> Stream for AsyncTypedConsumer<T> {
    type Item = Result<T, RecvError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().inner.poll_item(cx, |consumer, span| take(consumer, &span))
    }
}
