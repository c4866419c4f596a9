//! The consumer's end, awaited.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::Stream;

use super::reading::Awaited;
use super::sleeps;
use crate::consumer::Consumer;
use crate::error::{AttachError, PeerState, RecvError};
use crate::frozen::{Incoming, Look};
use crate::received::{ReadBatch, ReadSlot};
use crate::ring::Span;

/// The consumer's end of a lane in an async runtime. `Send`, not `Sync`, not `Clone`.
///
/// A [`Stream`] of vectors as well: it ends with the stream that the producer closed, or after an
/// error that is final. A frozen payload is an error of the stream, again and again until
/// [`AsyncConsumer::recv_any`] has taken it.
#[derive(Debug)]
pub struct AsyncConsumer {
    inner: Awaited<Consumer>,
    /// The stream has said its last word.
    finished: bool,
}

impl AsyncConsumer {
    /// Takes an end that was attached with [`Attach::lifeline`](crate::Attach::lifeline).
    ///
    /// # Errors
    /// `SpinLane` if the lane's ends never sleep.
    pub fn new(inner: Consumer) -> Result<Self, AttachError> {
        sleeps(inner.grant().park)?;
        Ok(Self { inner: Awaited::new(inner), finished: false })
    }

    /// The next message. Cancel-safe: it stays in the lane until the slot is dropped.
    ///
    /// # Errors
    /// `PeerGone` once, when the producer died and all that it committed was received; otherwise as
    /// [`Consumer::poll`].
    ///
    /// # Panics
    /// Where it has to wait outside of a tokio runtime with its I/O driver.
    pub async fn recv(&mut self) -> Result<ReadSlot<'_>, RecvError> {
        let span = self.found().await?;
        Ok(ReadSlot::new(&mut self.inner.end, span))
    }

    /// The next message of either kind: in the ring, or [frozen](crate::FrozenBuilder).
    /// Cancel-safe: it stays in the lane until the slot is dropped.
    ///
    /// A frozen payload is mapped here, and each of its pages touched, before this is ready: that
    /// takes the time of the kernel's work, some milliseconds for a large one.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
    /// # use laneway_shm::{FrozenBuilder, PairOptions, asynchronous::async_pair};
    /// use laneway_shm::Incoming;
    ///
    /// # let (mut producer, mut consumer) = async_pair(PairOptions::default())?;
    /// # let mut picture = FrozenBuilder::new(3 << 20)?;
    /// # picture.bytes_mut().fill(7);
    /// # producer.send_frozen(&picture.freeze()?).await?;
    /// match consumer.recv_any().await? {
    ///     Incoming::Frozen(picture) => assert!(picture.iter().all(|&byte| byte == 7)),
    ///     Incoming::Message(caption) => println!("{:?}", caption.to_vec()),
    /// }
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`AsyncConsumer::recv`] and [`Consumer::poll_any`].
    ///
    /// # Panics
    /// As [`AsyncConsumer::recv`].
    pub async fn recv_any(&mut self) -> Result<Incoming<'_>, RecvError> {
        let found = self.inner.until(Consumer::look_any).await?;
        Ok(self.inner.end.incoming(found))
    }

    /// The messages that are there, at most `limit`, waiting for the first. They are released
    /// together. Cancel-safe.
    ///
    /// # Errors
    /// As [`AsyncConsumer::recv`].
    ///
    /// # Panics
    /// As [`AsyncConsumer::recv`].
    pub async fn recv_many(&mut self, limit: usize) -> Result<ReadBatch<'_>, RecvError> {
        self.found().await?;
        Ok(self.inner.end.poll_many(limit))
    }

    pub(super) async fn found(&mut self) -> Result<Span, RecvError> {
        self.inner.until(look).await
    }

    /// Waits for a message and takes none: ready if the next [`Consumer::poll`] has something to
    /// say.
    ///
    /// # Errors
    /// As [`AsyncConsumer::recv`].
    ///
    /// # Panics
    /// As [`AsyncConsumer::recv`].
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RecvError>> {
        self.inner.poll(cx, look).map_ok(drop)
    }

    /// What is known of the producer.
    #[must_use]
    pub fn peer(&self) -> PeerState {
        self.inner.end.peer()
    }

    /// The end itself.
    #[must_use]
    pub fn get_ref(&self) -> &Consumer {
        &self.inner.end
    }

    /// The end itself. Its calls that wait block the thread.
    pub fn get_mut(&mut self) -> &mut Consumer {
        &mut self.inner.end
    }

    /// The end itself, for blocking calls from now on.
    #[must_use]
    pub fn into_inner(mut self) -> Consumer {
        self.inner.stop_listening();
        self.inner.end
    }

    /// The stream's next item: what `take` makes of the next message.
    pub(super) fn poll_item<T>(
        &mut self,
        cx: &mut Context<'_>,
        take: impl FnOnce(&mut Consumer, Span) -> Result<T, RecvError>,
    ) -> Poll<Option<Result<T, RecvError>>> {
        if self.finished {
            return Poll::Ready(None);
        }
        let found = ready!(self.inner.poll(cx, look));
        let item = match found.and_then(|span| take(&mut self.inner.end, span)) {
            Err(RecvError::Closed { .. }) => return Poll::Ready(None),
            item => item,
        };
        self.finished = matches!(item, Err(RecvError::Revoked | RecvError::Corrupt(_)));
        Poll::Ready(Some(item))
    }
}

fn look(consumer: &mut Consumer) -> Result<Look<Span>, RecvError> {
    Ok(consumer.next_message()?.map_or(Look::Nothing, Look::Found))
}

impl Stream for AsyncConsumer {
    type Item = Result<Vec<u8>, RecvError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let take = |consumer: &mut Consumer, span| Ok(ReadSlot::new(consumer, span).to_vec());
        self.get_mut().poll_item(cx, take)
    }
}
