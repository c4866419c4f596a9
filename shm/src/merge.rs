//! Many lanes, one order: the messages of several lanes by their time stamps.
//!
//! Each lane's own stamps must not go down; then the merged ones do not, as long as no lane is
//! waited for in vain. An empty lane holds the others back, because its next message might be the
//! earliest: for as long as the patience of this merge lasts, counted from when the lane was found
//! empty, and not at all once its producer ended the stream or is gone. A message of a lane that
//! was not waited for any longer may then come *late*, behind ones with later stamps; it is handed
//! out, and marked. Equal stamps come in the order in which their lanes were added.
//!
//! The stamp is read once, when the message gets to the front of its lane, and kept: a hostile
//! producer can disorder its own messages, never another lane's.

use std::fmt;
use std::time::{Duration, Instant};

use crate::consumer::Consumer;
use crate::error::PeerState;
use crate::fan_in::next_span;
use crate::group::{FanInError, LaneKey};
use crate::lanes::Waiting;
use crate::order::{Earliest, Known, Order};
use crate::received::{ReadSlot, View};

/// Receives from many lanes in the order of a time stamp.
///
/// ```
/// use std::time::Duration;
/// use laneway_shm::{Merge, PairOptions, pair};
///
/// // The first eight bytes of each message are its stamp.
/// let mut merge = Merge::new(Duration::from_millis(10), |view| view.u64_at(0).unwrap_or(0));
/// let (mut first, consumer) = pair(PairOptions::default())?;
/// merge.add(consumer);
/// let (mut second, consumer) = pair(PairOptions::default())?;
/// merge.add(consumer);
/// for stamp in [1u64, 4] {
///     first.send(&stamp.to_le_bytes(), Duration::ZERO)?;
/// }
/// for stamp in [2u64, 3] {
///     second.send(&stamp.to_le_bytes(), Duration::ZERO)?;
/// }
/// for expected in 1..=4 {
///     assert_eq!(merge.recv(Duration::from_secs(1))?.stamp, expected);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Merge<F> {
    order: Order<Consumer>,
    stamp: F,
}

/// A message, and where in the order it is.
#[derive(Debug)]
pub struct Merged<'m> {
    /// Which lane it came from.
    pub lane: LaneKey,
    /// Its stamp.
    pub stamp: u64,
    /// Whether a message with a later stamp was handed out before.
    pub late: bool,
    /// The message itself. Dropping it releases its slots.
    pub slot: ReadSlot<'m>,
}

impl<F> fmt::Debug for Merge<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Merge").field("order", &self.order).finish_non_exhaustive()
    }
}

impl<F: FnMut(View<'_>) -> u64> Merge<F> {
    /// Without lanes. `stamp` reads a message's stamp; an empty lane is waited for `patience` long.
    pub fn new(patience: Duration, stamp: F) -> Self {
        Self { order: Order::new(patience), stamp }
    }

    /// Adds a lane.
    pub fn add(&mut self, consumer: Consumer) -> LaneKey {
        self.order.add(consumer)
    }

    /// Takes a lane out, with whatever it has not handed out.
    pub fn remove(&mut self, lane: LaneKey) -> Option<Consumer> {
        self.order.remove(lane)
    }

    /// The lanes there are, in the order in which they were added.
    pub fn lanes(&self) -> impl Iterator<Item = (LaneKey, &Consumer)> {
        self.order.lanes()
    }

    /// Messages that came late so far.
    #[must_use]
    pub fn late(&self) -> u64 {
        self.order.late()
    }

    /// The earliest message, if it is known to be the earliest or an empty lane was waited for long
    /// enough.
    ///
    /// # Errors
    /// `Lane`, once for each thing that happens to a lane.
    pub fn poll(&mut self) -> Result<Option<Merged<'_>>, FanInError> {
        Ok(if self.is_ready()? { self.take() } else { None })
    }

    /// The earliest message, waiting at most `timeout` until it is known, as in [`Merge::poll`].
    ///
    /// # Errors
    /// `TimedOut`, `NoLanes`, and as [`Merge::poll`].
    pub fn recv(&mut self, timeout: Duration) -> Result<Merged<'_>, FanInError> {
        let mut wait = Waiting::new(timeout);
        loop {
            let limit = match self.look()? {
                Known::Earliest => break,
                Known::Held(left) => left,
                Known::Nothing => timeout,
            };
            let Order { set, empty, .. } = &mut self.order;
            set.idle(&mut wait, limit, |lane| empty.iter().any(|empty| empty.lane == lane))?;
        }
        let lanes = self.order.set.lanes.len();
        self.take().ok_or(FanInError::NoLanes { lanes })
    }

    /// Hands out what [`Merge::poll`] would, one message after the other, at most `limit`; returns
    /// how many there were. Each is released when `read` drops it.
    ///
    /// # Errors
    /// As [`Merge::poll`] if there was none; what is found after a message is told by the next
    /// call.
    pub fn poll_many(
        &mut self,
        limit: usize,
        mut read: impl FnMut(Merged<'_>),
    ) -> Result<usize, FanInError> {
        for taken in 0..limit {
            match self.is_ready() {
                Ok(true) => {}
                Ok(false) => return Ok(taken),
                Err(error) if taken == 0 => return Err(error),
                Err(error) => {
                    self.order.put_off(error);
                    return Ok(taken);
                }
            }
            if let Some(merged) = self.take() {
                read(merged);
            }
        }
        Ok(limit)
    }

    /// As [`Merge::poll_many`], waiting at most `timeout` for the first message.
    ///
    /// # Errors
    /// As [`Merge::recv`], before the first message only.
    pub fn recv_many(
        &mut self,
        limit: usize,
        timeout: Duration,
        mut read: impl FnMut(Merged<'_>),
    ) -> Result<usize, FanInError> {
        if limit == 0 {
            return Ok(0);
        }
        read(self.recv(timeout)?);
        self.poll_many(limit - 1, read).map_or_else(
            |error| {
                self.order.put_off(error);
                Ok(1)
            },
            |more| Ok(1 + more),
        )
    }

    fn is_ready(&mut self) -> Result<bool, FanInError> {
        Ok(self.look()? == Known::Earliest)
    }

    fn look(&mut self) -> Result<Known, FanInError> {
        let Self { order, stamp } = self;
        order.look(|consumer| {
            let span = next_span(consumer)?;
            Ok(span.map(|span| (span, stamp(View::new(consumer, span)))))
        })?;
        Ok(order.known(|consumer| consumer.peer() != PeerState::Gone, Instant::now))
    }

    fn take(&mut self) -> Option<Merged<'_>> {
        let Earliest { lane, stamp, late, span, consumer } = self.order.take()?;
        Some(Merged { lane, stamp, late, slot: ReadSlot::new(consumer, span) })
    }
}
