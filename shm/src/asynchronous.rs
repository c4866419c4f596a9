//! Ends for tokio: the same lanes, awaited (feature `tokio`).
//!
//! A lane whose ends sleep (`--wait park`) can have an async end on either side or on both; the
//! peer need not know. While messages flow nothing here costs a system call: an end that finds
//! nothing says in its parked word that it waits in epoll, and the peer then rings over the
//! [lifeline] instead of a futex. No thread, no timer and no polling: an end is
//! woken by a message or by room, by the peer's death, by the agent's events, and only where
//! somebody is lost by the clock (an agent that is away, a peer that has not noticed us yet, a
//! consumer that was attached without a lifeline of its own: see [`Attach::lifeline`]).
//!
//! **Cancelling.** Every method that waits may be dropped at any await, as the losing branch of
//! `select!` is, and nothing is lost: a message stays in the lane until its
//! [`ReadSlot`](crate::ReadSlot) was dropped, and one that is being sent is either in the lane or
//! not. What an end says only once (`PeerGone`) is said by a future that is ready with it.
//!
//! **Blocking.** Attaching is a short conversation with the agent and blocks the thread for it,
//! at most for the attach's timeout for each answer; nothing else here blocks. Ends are not pinned
//! to their cores: the runtime's threads are not theirs.
//!
//! Frozen payloads are awaited as messages are ([`AsyncConsumer::recv_any`],
//! [`AsyncProducer::send_frozen`]); mapping one takes the thread as long as the kernel needs to
//! find its pages. Messages that are values have ends of their own ([`AsyncTypedConsumer`],
//! [`AsyncTypedSubscriber`], [`AsyncTypedProducer`]).
//!
//! Whoever needs more than is here finds the end itself by `get_mut`; its waiting calls block.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! use laneway_shm::asynchronous::async_pair;
//! use laneway_shm::PairOptions;
//!
//! let (mut producer, mut consumer) = async_pair(PairOptions::default())?;
//! let sender = async { producer.send(b"hello").await };
//! let receiver = async { consumer.recv().await.map(|message| message.to_vec()) };
//! let (sent, received) = tokio::join!(sender, receiver);
//! sent?;
//! assert_eq!(received?, b"hello");
//! # Ok(())
//! # })
//! # }
//! ```

mod alarm;
mod consumer;
mod producer;
mod reading;
mod subscriber;
mod typed;

use std::task::{Context, Poll};

pub use consumer::AsyncConsumer;
pub use producer::AsyncProducer;
pub use subscriber::AsyncSubscriber;
pub use typed::subscriber::AsyncTypedSubscriber;
pub use typed::{AsyncTypedConsumer, AsyncTypedProducer, async_typed_pair};

use crate::attach::Attach;
use crate::error::{AttachError, SegmentError};
use crate::lifeline;
use crate::pair::{PairOptions, pair_with};
use crate::ring::WaitMode;

/// Messages that may pass without a wait before other tasks get their turn, as with every
/// resource of the runtime's.
const BUDGET: u32 = 128;
/// Looks of one poll: more are for the next one.
const LOOKS: u32 = 16;

/// What is left of a task's turn.
#[derive(Debug)]
struct Turn(u32);

impl Turn {
    fn new() -> Self {
        Self(BUDGET)
    }

    /// Pending, and woken at once, when the turn is over.
    fn take(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(left) = self.0.checked_sub(1) {
            self.0 = left;
            return Poll::Ready(());
        }
        self.over();
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// The end waited: what comes is another turn.
    fn over(&mut self) {
        self.0 = BUDGET;
    }
}

impl Attach {
    /// Attaches the producer's end for an async runtime: with a lifeline, and without pinning.
    ///
    /// # Errors
    /// As [`Attach::producer`], and `SpinLane`.
    pub fn async_producer(&self) -> Result<AsyncProducer, AttachError> {
        AsyncProducer::new(self.clone().lifeline(true).pin(false).producer()?)
    }

    /// Attaches the consumer's end, or one more reader of a gated broadcast lane, likewise.
    ///
    /// # Errors
    /// As [`Attach::consumer`], and `SpinLane`.
    pub fn async_consumer(&self) -> Result<AsyncConsumer, AttachError> {
        AsyncConsumer::new(self.clone().lifeline(true).pin(false).consumer()?)
    }

    /// Attaches a reader of a broadcast lane that does not wait for its readers, likewise.
    ///
    /// # Errors
    /// As [`Attach::subscriber`], and `SpinLane`.
    pub fn async_subscriber(&self) -> Result<AsyncSubscriber, AttachError> {
        AsyncSubscriber::new(self.clone().lifeline(true).pin(false).subscriber()?)
    }
}

/// Both ends of a new lane without an agent, as [`pair`](crate::pair), for an async runtime; they
/// sleep, whatever the options say.
///
/// # Errors
/// A geometry outside the limits, or no memory or descriptors for it.
pub fn async_pair(options: PairOptions) -> Result<(AsyncProducer, AsyncConsumer), AttachError> {
    let halves = lifeline::pair().map_err(SegmentError::io("socketpair"))?;
    let options = PairOptions { wait: WaitMode::Park, ..options };
    let (producer, consumer) = pair_with(options, Some(halves))?;
    Ok((AsyncProducer::new(producer)?, AsyncConsumer::new(consumer)?))
}

/// Refuses a lane whose peers look at nobody's parked word.
fn sleeps(park: bool) -> Result<(), AttachError> {
    if park { Ok(()) } else { Err(AttachError::SpinLane) }
}
