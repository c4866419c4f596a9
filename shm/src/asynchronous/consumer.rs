//! The consumer's end, awaited.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::Stream;

use super::alarm::Alarm;
use super::{LOOKS, Turn, sleeps};
use crate::consumer::Consumer;
use crate::error::{AttachError, PeerState, RecvError};
use crate::received::{ReadBatch, ReadSlot};
use crate::ring::Span;

/// The consumer's end of a lane in an async runtime. `Send`, not `Sync`, not `Clone`.
///
/// A [`Stream`] of vectors as well: it ends with the stream that the producer closed, or after an
/// error that is final.
#[derive(Debug)]
pub struct AsyncConsumer {
    inner: Consumer,
    alarm: Alarm,
    turn: Turn,
    /// Generation whose producer was told to be gone.
    told: u64,
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
        let (alarm, turn) = (Alarm::new(), Turn::new());
        Ok(Self { inner, alarm, turn, told: 0, finished: false })
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
        Ok(ReadSlot::new(&mut self.inner, span))
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
        Ok(self.inner.poll_many(limit))
    }

    async fn found(&mut self) -> Result<Span, RecvError> {
        let listening = Listening(self);
        poll_fn(|cx| listening.0.poll_span(cx)).await
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
        self.poll_span(cx).map_ok(|_| ())
    }

    /// What is known of the producer.
    #[must_use]
    pub fn peer(&self) -> PeerState {
        self.inner.peer()
    }

    /// The end itself.
    #[must_use]
    pub fn get_ref(&self) -> &Consumer {
        &self.inner
    }

    /// The end itself. Its calls that wait block the thread.
    pub fn get_mut(&mut self) -> &mut Consumer {
        &mut self.inner
    }

    /// The end itself, for blocking calls from now on.
    #[must_use]
    pub fn into_inner(mut self) -> Consumer {
        self.inner.ring.stop_listening();
        self.inner
    }

    fn poll_span(&mut self, cx: &mut Context<'_>) -> Poll<Result<Span, RecvError>> {
        self.inner.ring.stop_listening();
        for _ in 0..LOOKS {
            let found = match self.inner.ring.ready() {
                Some(span) => Some(span),
                None => self.inner.next_span()?,
            };
            if let Some(span) = found {
                ready!(self.turn.take(cx));
                self.alarm.progress();
                return Poll::Ready(Ok(span));
            }
            if let Some(gone) = self.tell_gone() {
                return Poll::Ready(Err(gone));
            }
            let (inner, alarm) = (&mut self.inner, &mut self.alarm);
            let lifelines = || inner.line.lifelines().chain(inner.lifeline());
            alarm.watch(lifelines(), inner.link.socket());
            // The waker is set before we ask for a ring, which therefore cannot come unheard.
            let read = inner.ring.peer().map(|peer| (inner.ring.is_noticed(), peer.lifeline()));
            let clock = alarm.clock(read, &inner.line, &inner.link);
            if alarm.poll(cx, clock).is_pending() {
                alarm.asked();
                if inner.ring.listen() {
                    self.turn.over();
                    return Poll::Pending;
                }
            } else {
                inner.maintain()?;
                if alarm.is_hung_up(inner.lifeline()) {
                    // By the kernel's word. What was committed before is found by the next look.
                    inner.link.peer = PeerState::Gone;
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Everything was received, and nobody is there to send more: told once for each producer.
    fn tell_gone(&mut self) -> Option<RecvError> {
        let line = &self.inner.line;
        let is_gone = self.inner.peer() == PeerState::Gone && line.pending.is_empty();
        if !is_gone || line.current == self.told {
            return None;
        }
        self.told = line.current;
        Some(RecvError::PeerGone { position: self.inner.position() })
    }
}

impl Stream for AsyncConsumer {
    type Item = Result<Vec<u8>, RecvError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.finished {
            return Poll::Ready(None);
        }
        Poll::Ready(match ready!(this.poll_span(cx)) {
            Ok(span) => Some(Ok(ReadSlot::new(&mut this.inner, span).to_vec())),
            Err(RecvError::Closed { .. }) => None,
            Err(error) => {
                this.finished = matches!(error, RecvError::Revoked | RecvError::Corrupt(_));
                Some(Err(error))
            }
        })
    }
}

/// Ends the asking for a doorbell when a future is dropped where it waits.
struct Listening<'a>(&'a mut AsyncConsumer);

impl Drop for Listening<'_> {
    fn drop(&mut self) {
        self.0.inner.ring.stop_listening();
    }
}
