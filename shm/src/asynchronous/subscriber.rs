//! A reader of a broadcast lane that may be overrun, awaited.

use super::reading::Awaited;
use super::sleeps;
use crate::error::{AttachError, PeerState, RecvError};
use crate::frozen::Look;
use crate::subscriber::{Message, Subscriber};

/// A reader of a broadcast lane that does not wait for it, in an async runtime. `Send`, not
/// `Sync`, not `Clone`.
#[derive(Debug)]
pub struct AsyncSubscriber {
    inner: Awaited<Subscriber>,
}

impl AsyncSubscriber {
    /// Takes a reader that was attached with [`Attach::lifeline`](crate::Attach::lifeline).
    ///
    /// # Errors
    /// `SpinLane` if the lane's ends never sleep.
    pub fn new(inner: Subscriber) -> Result<Self, AttachError> {
        sleeps(inner.grant().park)?;
        Ok(Self { inner: Awaited::new(inner) })
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
        let look =
            |end: &mut Subscriber| Ok(end.advance_to_message()?.map_or(Look::Nothing, Look::Found));
        let (position, len) = self.inner.until(look).await?;
        Ok(self.inner.end.message(position, len))
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
}
