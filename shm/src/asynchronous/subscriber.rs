//! A reader of a broadcast lane that may be overrun, awaited.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};

use super::alarm::Alarm;
use super::{LOOKS, Turn, sleeps};
use crate::error::{AttachError, PeerState, RecvError};
use crate::subscriber::{Message, Subscriber};

/// A reader of a broadcast lane that does not wait for it, in an async runtime. `Send`, not
/// `Sync`, not `Clone`.
#[derive(Debug)]
pub struct AsyncSubscriber {
    inner: Subscriber,
    alarm: Alarm,
    turn: Turn,
    /// Generation whose producer was told to be gone.
    told: u64,
}

impl AsyncSubscriber {
    /// Takes a reader that was attached with [`Attach::lifeline`](crate::Attach::lifeline).
    ///
    /// # Errors
    /// `SpinLane` if the lane's ends never sleep.
    pub fn new(inner: Subscriber) -> Result<Self, AttachError> {
        sleeps(inner.grant().park)?;
        let (alarm, turn) = (Alarm::new(), Turn::new());
        Ok(Self { inner, alarm, turn, told: 0 })
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
        let (position, len) = {
            let listening = Listening(self);
            poll_fn(|cx| listening.0.poll_message(cx)).await?
        };
        Ok(self.inner.message(position, len))
    }

    /// What is known of the producer.
    #[must_use]
    pub fn peer(&self) -> PeerState {
        self.inner.peer()
    }

    /// The reader itself.
    #[must_use]
    pub fn get_ref(&self) -> &Subscriber {
        &self.inner
    }

    /// The reader itself. Its calls that wait block the thread.
    pub fn get_mut(&mut self) -> &mut Subscriber {
        &mut self.inner
    }

    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<(u64, usize), RecvError>> {
        self.inner.ring.stop_listening();
        // Before the look: what is copied out is returned at once, or it would be lost.
        ready!(self.turn.take(cx));
        for _ in 0..LOOKS {
            if let Some(found) = self.inner.advance_to_message()? {
                self.alarm.progress();
                return Poll::Ready(Ok(found));
            }
            if let Some(gone) = self.tell_gone() {
                return Poll::Ready(Err(gone));
            }
            let (inner, alarm) = (&mut self.inner, &mut self.alarm);
            let peer = inner.ring.peer();
            let lifelines = inner.line.lifelines().chain(peer.and_then(|peer| peer.lifeline()));
            alarm.watch(lifelines, inner.link.socket());
            let read = peer.map(|peer| (inner.ring.is_noticed(), peer.lifeline()));
            let clock = alarm.clock(read, &inner.line, &inner.link);
            // The waker is set before we ask for a ring, which therefore cannot come unheard.
            if alarm.poll(cx, clock).is_pending() {
                alarm.asked();
                if inner.ring.listen() {
                    self.turn.over();
                    return Poll::Pending;
                }
            } else {
                inner.maintain()?;
                if alarm.is_hung_up(inner.ring.peer().and_then(|peer| peer.lifeline())) {
                    inner.link.peer = PeerState::Gone;
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// As of an [`AsyncConsumer`](super::AsyncConsumer).
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

/// Ends the asking for a doorbell when a future is dropped where it waits.
struct Listening<'a>(&'a mut AsyncSubscriber);

impl Drop for Listening<'_> {
    fn drop(&mut self) {
        self.0.inner.ring.stop_listening();
    }
}
