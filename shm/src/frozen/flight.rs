//! The producer's side: frozen payloads that were committed and are not yet released.
//!
//! The descriptor goes first and the slot after it, so that a consumer that sees the slot finds
//! the descriptor. A descriptor is kept until the cursor has passed its slot: a consumer may die
//! with what it was sent, and its successor is sent it again, over a lifeline of its own.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use thiserror::Error;

use super::FrozenFile;
use super::parcel::{Parcel, pages_of};
use crate::error::{PeerState, ReserveError};
use crate::lifeline::Lifeline;
use crate::producer::Producer;

/// Most frozen payloads of a lane that are committed and not released: each is a descriptor in
/// this process, and in the socket.
pub const FROZEN_IN_FLIGHT_MAX: usize = 16;

/// Between two looks at a consumer that has not released a payload yet.
const LOOK: Duration = Duration::from_micros(200);
/// Longest sleep for room in the socket: bounds how late a change of the agent's is noticed.
const SLEEP_MS_MAX: u128 = 100;

/// Why a frozen payload was not sent. Nothing of it is in the lane then.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FrozenSendError {
    /// A broadcast lane has no lifeline that every reader could take the descriptor from.
    #[error("a broadcast lane takes no frozen payloads: give each reader a lane of its own")]
    Broadcast,
    /// There is no socket for the descriptor.
    #[error("no lifeline to the consumer, which {state}: attach this end with `lifeline(true)`")]
    NoLifeline {
        /// What is known of the consumer.
        state: PeerState,
    },
    /// The consumer has not released as many as may be in flight.
    #[error("{in_flight} frozen payloads are in flight after {waited:?}: the consumer {state}")]
    InFlight {
        /// Payloads that were committed and not released.
        in_flight: usize,
        /// How long the call waited.
        waited: Duration,
        /// What is known of the consumer.
        state: PeerState,
    },
    /// The consumer does not read its lifeline.
    #[error("the lifeline has no room after {waited:?}: the consumer does not read it")]
    LifelineFull {
        /// How long the call waited.
        waited: Duration,
    },
    /// The kernel does not send the descriptor, for instance because too many are under way.
    #[error("descriptor was not sent: {0}")]
    Socket(#[source] std::io::Error),
    /// There is no room in the ring, or the lane is unusable.
    #[error(transparent)]
    Reserve(#[from] ReserveError),
}

impl FrozenSendError {
    /// Whether it was only time that ran out: nothing is broken, and another try may find room.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use laneway_shm::{FrozenBuilder, PairOptions, pair};
    /// # let options = PairOptions { slot_count: 2, lifeline: true, ..PairOptions::default() };
    /// # let (mut producer, _consumer) = pair(options)?;
    /// let file = FrozenBuilder::new(9)?.freeze()?;
    /// // Nobody receives: the ring of two slots is full.
    /// let full = (0..3).find_map(|_| producer.send_frozen(&file, Duration::ZERO).err());
    /// assert!(full.is_some_and(|error| error.is_timeout()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        match self {
            Self::InFlight { .. } | Self::LifelineFull { .. } => true,
            Self::Reserve(error) => error.is_timeout(),
            _ => false,
        }
    }
}

/// A payload that was committed.
#[derive(Debug)]
struct Sent {
    parcel: Parcel,
    file: FrozenFile,
}

/// What is in flight, in the order of the slots.
#[derive(Debug, Default)]
pub(crate) struct Flight {
    queue: VecDeque<Sent>,
    /// How many of them went out over `over`.
    sent: usize,
    over: Option<Arc<Lifeline>>,
}

/// What came of handing a descriptor to the socket.
enum Handed {
    /// It is there, or nobody is: a successor of the consumer will be sent it.
    Over,
    /// The socket is full.
    Later,
}

impl Flight {
    fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether a payload waits for the news of a consumer.
    pub(crate) fn is_waiting(&self) -> bool {
        self.sent < self.queue.len()
    }

    /// Drops what the consumer has released.
    fn forget_below(&mut self, released: u64) {
        while self.queue.front().is_some_and(|sent| sent.parcel.position < released) {
            self.queue.pop_front();
            self.sent = self.sent.saturating_sub(1);
        }
    }

    /// Sends what was not sent over this lifeline yet. True if nothing is left.
    fn flush(&mut self, lifeline: Option<&Arc<Lifeline>>) -> std::io::Result<bool> {
        let Some(lifeline) = lifeline else { return Ok(self.queue.is_empty()) };
        if !self.over.as_ref().is_some_and(|over| Arc::ptr_eq(over, lifeline)) {
            // A new consumer: whatever its predecessor was sent died with it.
            (self.over, self.sent) = (Some(Arc::clone(lifeline)), 0);
        }
        while let Some(Sent { parcel, file }) = self.queue.get(self.sent) {
            match hand_over(lifeline, *parcel, file)? {
                Handed::Over => self.sent += 1,
                Handed::Later => return Ok(false),
            }
        }
        Ok(true)
    }

    fn push(&mut self, parcel: Parcel, file: FrozenFile, handed: bool) {
        self.queue.push_back(Sent { parcel, file });
        self.sent += usize::from(handed);
    }
}

fn hand_over(lifeline: &Lifeline, parcel: Parcel, file: &FrozenFile) -> std::io::Result<Handed> {
    match lifeline.send(&parcel.encode(), file.as_fd()) {
        Ok(()) => Ok(Handed::Over),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Handed::Later),
        Err(error)
            if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) =>
        {
            Ok(Handed::Over)
        }
        Err(error) => Err(error),
    }
}

/// What only lanes with a lifeline do.
impl Producer {
    /// Sends a frozen payload, in order with the lane's messages, waiting at most `timeout` for
    /// room: in the ring (one slot), on the lifeline, and for an earlier payload to be released
    /// ([`FROZEN_IN_FLIGHT_MAX`]).
    ///
    /// Before there is a consumer, the payload waits here, and goes out at a later call, or at
    /// [`Producer::maintain`]; [`Producer::close`] gives it a second for that. What waits when the
    /// producer ends is lost, and the consumer is told which. A consumer takes it with
    /// [`Consumer::recv_any`](crate::Consumer::recv_any). The file is shared and not copied; its
    /// memory is free when both sides have dropped it, on this side at the next call after its
    /// release.
    ///
    /// ```
    /// use std::time::Duration;
    /// use laneway_shm::{FrozenBuilder, Incoming, PairOptions, pair};
    ///
    /// let options = PairOptions { lifeline: true, ..PairOptions::default() };
    /// let (mut producer, mut consumer) = pair(options)?;
    /// let mut image = FrozenBuilder::new(3 << 20)?;
    /// image.bytes_mut().fill(7);
    /// producer.send_frozen(&image.freeze()?, Duration::ZERO)?;
    /// let Incoming::Frozen(image) = consumer.recv_any(Duration::ZERO)? else { panic!() };
    /// assert!(image.iter().all(|&byte| byte == 7));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Nothing was sent then. `Broadcast`, `NoLifeline` for lanes that cannot; `InFlight`,
    /// `LifelineFull`, `Reserve` for want of room; `Socket` for the kernel's refusal.
    pub fn send_frozen(
        &mut self,
        file: &FrozenFile,
        timeout: Duration,
    ) -> Result<(), FrozenSendError> {
        let start = Instant::now();
        loop {
            let done = self.try_send_frozen(file)?;
            let waited = start.elapsed();
            match done {
                Attempt::Sent => return Ok(()),
                Attempt::InFlight if waited >= timeout => {
                    let (in_flight, state) = (self.frozen.queue.len(), self.peer());
                    return Err(FrozenSendError::InFlight { in_flight, waited, state });
                }
                Attempt::InFlight => std::thread::sleep(LOOK),
                Attempt::LifelineFull if waited >= timeout => {
                    return Err(FrozenSendError::LifelineFull { waited });
                }
                Attempt::LifelineFull => self.wait_for_lifeline(timeout - waited),
                // Not for the span, which is found again, but to wait as every message does.
                Attempt::RingFull => {
                    self.wait_for_room(0, timeout.saturating_sub(waited))?;
                }
            }
        }
    }

    /// Frozen payloads that were committed and that the consumer has not released.
    #[must_use]
    pub fn frozen_in_flight(&mut self) -> usize {
        // A consumer that lies poisons the ring, which the next message reports.
        let _ = self.forget_released();
        self.frozen.queue.len()
    }

    fn check_lifeline(&self) -> Result<(), FrozenSendError> {
        if self.grant().broadcast.is_some() {
            return Err(FrozenSendError::Broadcast);
        }
        let expected = self.ring.peer().is_none() && self.link.asked_for_lifeline();
        if expected || self.lifeline().is_some() {
            return Ok(());
        }
        Err(FrozenSendError::NoLifeline { state: self.peer() })
    }

    /// Sends a frozen payload if there is room for it now.
    pub(crate) fn try_send_frozen(
        &mut self,
        file: &FrozenFile,
    ) -> Result<Attempt, FrozenSendError> {
        self.maintain()?;
        self.check_lifeline()?;
        self.forget_released()?;
        if self.frozen.queue.len() >= FROZEN_IN_FLIGHT_MAX {
            return Ok(Attempt::InFlight);
        }
        let lifeline = self.lifeline().cloned();
        if !self.frozen.flush(lifeline.as_ref()).map_err(FrozenSendError::Socket)?
            && lifeline.is_some()
        {
            return Ok(Attempt::LifelineFull);
        }
        self.ring.commit_batch();
        let Some(span) = self.ring.try_reserve(0).map_err(ReserveError::from)? else {
            return Ok(Attempt::RingFull);
        };
        let len = file.payload_bytes() as u64;
        let parcel = Parcel { position: span.position(), len };
        let handed = match &lifeline {
            None => false,
            Some(lifeline) => {
                match hand_over(lifeline, parcel, file).map_err(FrozenSendError::Socket)? {
                    Handed::Over => true,
                    Handed::Later => return Ok(Attempt::LifelineFull),
                }
            }
        };
        // Nothing between the two can fail: a parcel without a slot is that of a dead producer.
        self.ring.commit_frozen(&span, pages_of(len));
        self.frozen.push(parcel, file.clone(), handed);
        Ok(Attempt::Sent)
    }

    fn forget_released(&mut self) -> Result<(), ReserveError> {
        if !self.frozen.is_empty() {
            let released = self.ring.look_released()?;
            self.frozen.forget_below(released);
        }
        Ok(())
    }

    /// Free slots that there are once the consumer has released the oldest frozen payload.
    #[cfg(feature = "tokio")]
    pub(crate) fn free_without_oldest(&self) -> u64 {
        let released = self.ring.released();
        let oldest = self.frozen.queue.front().map_or(released, |sent| sent.parcel.position);
        self.ring.free() + (oldest + 1).saturating_sub(released)
    }

    /// Sends a new consumer what its predecessor did not release.
    pub(crate) fn tend_frozen(&mut self) {
        if self.frozen.is_empty() {
            return;
        }
        let lifeline = self.lifeline().cloned();
        // What cannot be done now is done, and told, at the next call that sends.
        if self.forget_released().is_ok() {
            let _ = self.frozen.flush(lifeline.as_ref());
        }
    }

    fn wait_for_lifeline(&self, left: Duration) {
        let Some(lifeline) = self.lifeline() else { return };
        let mut fds = [PollFd::new(lifeline.as_fd(), PollFlags::POLLOUT)];
        let millis = u16::try_from(left.as_millis().clamp(1, SLEEP_MS_MAX)).unwrap_or(1);
        // Interrupted or timed out: the caller looks again.
        let _ = poll(&mut fds, PollTimeout::from(millis));
    }
}

/// What came of one attempt to send.
pub(crate) enum Attempt {
    Sent,
    InFlight,
    LifelineFull,
    RingFull,
}
