//! A reader of a broadcast lane that may be overrun, awaited.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::Stream;

use super::reading::Awaited;
use super::sleeps;
use crate::error::{AttachError, PeerState, RecvError};
use crate::frozen::Look;
use crate::roster::Reason;
use crate::subscriber::{Message, Subscriber};

/// A reader of a broadcast lane that does not wait for it, in an async runtime. `Send`, not
/// `Sync`, not `Clone`.
///
/// A [`Stream`] of vectors as well: a loss is an item between the messages around it, and the
/// stream ends with the one that the producer closed, or after an error that is final.
#[derive(Debug)]
pub struct AsyncSubscriber {
    inner: Awaited<Subscriber>,
    /// The stream has said its last word.
    finished: bool,
}

impl AsyncSubscriber {
    /// Takes a reader that was attached with [`Attach::lifeline`](crate::Attach::lifeline).
    ///
    /// # Errors
    /// `SpinLane` if the lane's ends never sleep.
    pub fn new(inner: Subscriber) -> Result<Self, AttachError> {
        sleeps(inner.grant().park)?;
        Ok(Self { inner: Awaited::new(inner), finished: false })
    }

    /// The next message. Cancel-safe: it is copied out by the call that returns it.
    ///
    /// # Errors
    /// `PeerGone` once, when the producer died and all that there is was received; otherwise as
    /// [`Subscriber::poll`].
    ///
    /// # Panics
    /// Where it has to wait outside of a tokio runtime with its I/O driver.
    pub async fn recv(&mut self) -> Result<Message<'_>, RecvError> {
        let found = self.found().await?;
        Ok(self.inner.end.hand_out(found))
    }

    /// The messages that are there, at most `limit`, waiting for the first one; returns how many,
    /// as [`Subscriber::recv_many`] does. Cancel-safe: nothing is taken before the future is ready.
    ///
    /// # Errors
    /// As [`AsyncSubscriber::recv`], before the first message only: what is found behind one is
    /// told by the next call.
    ///
    /// # Panics
    /// As [`AsyncSubscriber::recv`].
    pub async fn recv_many(
        &mut self,
        limit: usize,
        mut read: impl FnMut(Message<'_>),
    ) -> Result<usize, RecvError> {
        self.many(limit, |message| {
            read(message);
            Ok(1)
        })
        .await
    }

    /// As [`Subscriber::take_many`], waiting for the first message.
    pub(super) async fn many(
        &mut self,
        limit: usize,
        read: impl FnMut(Message<'_>) -> Result<usize, RecvError>,
    ) -> Result<usize, RecvError> {
        if limit == 0 {
            return Ok(0);
        }
        let first = self.found().await?;
        self.inner.end.take_many(first, limit, read)
    }

    /// Position and length of the next message, which the caller's next step must hand out.
    pub(super) async fn found(&mut self) -> Result<(u64, usize), RecvError> {
        self.inner.until(look).await
    }

    /// What is known of the producer.
    #[must_use]
    pub fn peer(&self) -> PeerState {
        self.inner.end.peer()
    }

    /// The reader itself.
    #[must_use]
    pub fn get_ref(&self) -> &Subscriber {
        &self.inner.end
    }

    /// The reader itself. Its calls that wait block the thread.
    pub fn get_mut(&mut self) -> &mut Subscriber {
        &mut self.inner.end
    }

    /// The stream's next item: what `take` makes of the next message.
    pub(super) fn poll_item<T>(
        &mut self,
        cx: &mut Context<'_>,
        take: impl FnOnce(&mut Subscriber, (u64, usize)) -> Result<T, RecvError>,
    ) -> Poll<Option<Result<T, RecvError>>> {
        if self.finished {
            return Poll::Ready(None);
        }
        let found = ready!(self.inner.poll(cx, look));
        let item = match found.and_then(|found| take(&mut self.inner.end, found)) {
            Err(RecvError::Closed { .. }) => return Poll::Ready(None),
            item => item,
        };
        self.finished = match &item {
            Err(RecvError::Revoked | RecvError::Corrupt(_)) => true,
            Err(RecvError::GivenUp { reason, .. }) => *reason != Reason::Behind,
            _ => false,
        };
        Poll::Ready(Some(item))
    }
}

fn look(end: &mut Subscriber) -> Result<Look<(u64, usize)>, RecvError> {
    Ok(end.advance_to_message()?.map_or(Look::Nothing, Look::Found))
}

impl Stream for AsyncSubscriber {
    type Item = Result<Vec<u8>, RecvError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let take = |subscriber: &mut Subscriber, (position, len)| {
            Ok(subscriber.message(position, len).bytes.to_vec())
        };
        self.get_mut().poll_item(cx, take)
    }
}
