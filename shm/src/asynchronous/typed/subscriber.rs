//! An awaited reader of values in a broadcast lane that does not wait for it.

use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;

use super::super::subscriber::AsyncSubscriber;
use crate::attach::Attach;
use crate::error::{AttachError, RecvError};
use crate::message::Message;
use crate::typed::many::TypedCopies;
use crate::typed::subscriber::{one, packed, take};

impl Attach {
    /// Attaches a reader for messages of type `T` of a broadcast lane that does not wait for it,
    /// and for an async runtime.
    ///
    /// ```no_run
    /// # async fn quotes(socket: &str) -> Result<(), Box<dyn std::error::Error>> {
    /// use laneway_shm::Attach;
    ///
    /// laneway_shm::message! { pub struct Quote { price: u64, size: u64 } }
    /// let mut quotes = Attach::by_name(socket, "quotes").async_typed_subscriber::<Quote>()?;
    /// println!("{:?}", quotes.recv().await?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Attach::async_subscriber`]; refused with `SCHEMA_MISMATCH` if the lane carries another
    /// type.
    pub fn async_typed_subscriber<T: Message>(
        &self,
    ) -> Result<AsyncTypedSubscriber<T>, AttachError> {
        Ok(AsyncTypedSubscriber::new(self.clone().schema(T::SCHEMA).async_subscriber()?))
    }
}

/// A reader of messages of type `T` that may be overrun, in an async runtime. A [`Stream`] of them
/// as well, which tells losses and ends as that of an [`AsyncSubscriber`] does; an error about a
/// message that stays comes again until the message was taken otherwise.
#[derive(Debug)]
pub struct AsyncTypedSubscriber<T> {
    inner: AsyncSubscriber,
    messages: PhantomData<fn() -> T>,
}

impl<T: Message> AsyncTypedSubscriber<T> {
    /// Takes the caller's word that the lane carries `T`: nobody compares schemas here.
    #[must_use]
    pub fn new(inner: AsyncSubscriber) -> Self {
        Self { inner, messages: PhantomData }
    }

    /// The next message. Cancel-safe: it is taken by the poll that returns it.
    ///
    /// # Errors
    /// `Length` if the next message has another length than `T`: it stays, and
    /// [`AsyncTypedSubscriber::get_mut`] can take it. Otherwise as [`AsyncSubscriber::recv`].
    ///
    /// # Panics
    /// As [`AsyncSubscriber::recv`].
    pub async fn recv(&mut self) -> Result<T, RecvError> {
        let found = self.inner.found().await?;
        take(self.inner.get_mut(), found)
    }

    /// The messages that are there, at most `limit`, waiting for the first one; returns how many,
    /// as [`TypedSubscriber::recv_many`](crate::TypedSubscriber::recv_many) does. Cancel-safe:
    /// `read` is called by the poll that returns.
    ///
    /// # Errors
    /// As [`AsyncTypedSubscriber::recv`], before the first message only: what is found behind one
    /// is told by the next call.
    ///
    /// # Panics
    /// As [`AsyncSubscriber::recv`].
    pub async fn recv_many(
        &mut self,
        limit: usize,
        read: impl FnMut(T),
    ) -> Result<usize, RecvError> {
        self.inner.many(limit, one(read)).await
    }

    /// The values that are there, at most `limit`, as an iterator, waiting for the first one; as
    /// [`TypedSubscriber::recv_batch`](crate::TypedSubscriber::recv_batch). Cancel-safe: nothing is
    /// taken before it is handed out.
    ///
    /// # Errors
    /// As [`AsyncTypedSubscriber::recv`], before the first value only: what is found behind one
    /// ends the batch, and is told by the next call.
    ///
    /// # Panics
    /// As [`AsyncSubscriber::recv`].
    pub async fn recv_batch(&mut self, limit: usize) -> Result<TypedCopies<'_, T>, RecvError> {
        let first = match limit {
            0 => None,
            _ => Some(self.inner.found().await?),
        };
        TypedCopies::new(self.inner.get_mut(), limit, first)
    }

    /// Packed messages, slot by slot until at least `limit` were handed out or no more slots are
    /// there, waiting for the first one; otherwise as
    /// [`TypedSubscriber::recv_packed`](crate::TypedSubscriber::recv_packed). Cancel-safe,
    /// likewise.
    ///
    /// # Errors
    /// `Length` if the next slot does not hold a whole number of messages; it stays. Otherwise as
    /// [`AsyncTypedSubscriber::recv_many`].
    ///
    /// # Panics
    /// As [`AsyncSubscriber::recv`].
    pub async fn recv_packed(
        &mut self,
        limit: usize,
        read: impl FnMut(T),
    ) -> Result<usize, RecvError> {
        self.inner.many(limit, packed(read)).await
    }

    /// The end for bytes, to ask it things.
    #[must_use]
    pub fn get_ref(&self) -> &AsyncSubscriber {
        &self.inner
    }

    /// The end for bytes, to use it.
    pub fn get_mut(&mut self) -> &mut AsyncSubscriber {
        &mut self.inner
    }

    /// The end for bytes.
    #[must_use]
    pub fn into_inner(self) -> AsyncSubscriber {
        self.inner
    }
}

impl<T: Message> Stream for AsyncTypedSubscriber<T> {
    type Item = Result<T, RecvError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().inner.poll_item(cx, take)
    }
}
