//! The consumer's side: the descriptor of a slot, in order with the lane's messages.
//!
//! Descriptors arrive over the lifeline before their slots become visible, and wait here. A slot
//! whose descriptor will never come is told once, by its position, and given back.

use std::collections::VecDeque;
use std::ops::Deref;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::flight::FROZEN_IN_FLIGHT_MAX;
use super::parcel::{Parcel, pages_of};
use super::{FrozenError, FrozenFault, FrozenFile, FrozenSegment, PAGES};
use crate::consumer::Consumer;
use crate::error::{Corruption, RecvError};
use crate::lifeline::{Lifeline, Received};
use crate::received::ReadSlot;
use crate::ring::{Found, Span};

/// Packets that one look at the lifeline reads at most: a flood of rings costs no more.
const PACKETS_PER_LOOK: usize = 4 * FROZEN_IN_FLIGHT_MAX;
/// Longest sleep for a descriptor, in milliseconds: bounds how late the agent is heard.
const SLEEP_MS_MAX: u128 = 100;

/// What came over the lifeline and was not asked for yet.
#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    from: Option<Arc<Lifeline>>,
    queue: VecDeque<(Parcel, OwnedFd)>,
    /// Packets that were no parcel, nor a ring: a parcel whose descriptor found no place in this
    /// process looks like that.
    junk: usize,
    hung_up: bool,
    /// The payload of the next slot: taken out of the queue, and not released.
    front: Option<(u64, FrozenFile)>,
    /// Its mapping.
    mapped: Option<FrozenSegment>,
}

/// What is known of a slot's descriptor.
enum Arrival {
    Here(Parcel, OwnedFd),
    /// Not yet.
    Late,
    /// And it will not come.
    Never,
}

impl Arrivals {
    /// Reads what there is.
    fn drain(&mut self, lifeline: &Arc<Lifeline>) {
        if !self.from.as_ref().is_some_and(|from| Arc::ptr_eq(from, lifeline)) {
            // Another producer, or another way to it: it sends what was not released.
            *self = Self { from: Some(Arc::clone(lifeline)), ..Self::default() };
        }
        while let Some(kept) = lifeline.take_kept() {
            self.heard(kept);
        }
        for _ in 0..PACKETS_PER_LOOK {
            if !self.heard(lifeline.receive()) {
                return;
            }
        }
    }

    /// Whether there may be more to hear now.
    fn heard(&mut self, received: Received) -> bool {
        match received {
            Received::Doorbell => {}
            Received::Parcel(text, fd) => self.arrived(&text, fd),
            Received::Junk => self.junk += 1,
            Received::Nothing => return false,
            Received::HungUp => {
                self.hung_up = true;
                return false;
            }
        }
        true
    }

    fn arrived(&mut self, text: &[u8], fd: OwnedFd) {
        match Parcel::decode(text) {
            Some(parcel) if self.queue.len() < FROZEN_IN_FLIGHT_MAX => {
                self.queue.push_back((parcel, fd));
            }
            _ => self.junk += 1,
        }
    }

    /// The descriptor of the slot at `position`: they come in the order of the slots.
    fn find(&mut self, position: u64) -> Arrival {
        while let Some((parcel, fd)) = self.queue.pop_front() {
            if parcel.position == position {
                return Arrival::Here(parcel, fd);
            }
            if parcel.position > position {
                self.queue.push_front((parcel, fd));
                self.junk = self.junk.saturating_sub(1);
                return Arrival::Never;
            }
        }
        if self.junk > 0 {
            self.junk -= 1;
            return Arrival::Never;
        }
        if self.hung_up { Arrival::Never } else { Arrival::Late }
    }

    /// Lets go of the payload of the slot at `position`.
    fn forget(&mut self, position: u64) {
        (self.front, self.mapped) = (None, None);
        self.queue.retain(|(parcel, _)| parcel.position > position);
    }
}

/// A message of either kind, of a lane that carries both.
#[derive(Debug)]
pub enum Incoming<'c> {
    /// A message in the ring.
    Message(ReadSlot<'c>),
    /// A payload of its own.
    Frozen(FrozenSlot<'c>),
}

/// A received frozen payload. Dropping it releases it to the producer; its bytes live on in every
/// clone of the segment.
#[derive(Debug)]
pub struct FrozenSlot<'c> {
    consumer: &'c mut Consumer,
    span: Span,
    segment: FrozenSegment,
    kept: bool,
}

impl FrozenSlot<'_> {
    /// The payload.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.segment.as_bytes()
    }

    /// Position of the message in the lane.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.span.position()
    }

    /// The payload, to keep a clone of it whatever becomes of the message.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use laneway_shm::{FrozenBuilder, PairOptions, pair};
    /// use laneway_shm::Incoming;
    ///
    /// # let (mut producer, mut consumer) =
    /// #     pair(PairOptions { lifeline: true, ..PairOptions::default() })?;
    /// # producer.send_frozen(&FrozenBuilder::new(9)?.freeze()?, Duration::ZERO)?;
    /// let Incoming::Frozen(slot) = consumer.recv_any(Duration::ZERO)? else { panic!() };
    /// let kept = slot.segment().clone();
    /// // Another attempt, or a successor of this process, is handed the message again.
    /// slot.keep();
    /// assert_eq!(kept.as_bytes(), [0; 9]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn segment(&self) -> &FrozenSegment {
        &self.segment
    }

    /// The payload for as long as one likes. Releases the message: should this process die now,
    /// its successor is not sent it again.
    #[must_use]
    pub fn take(self) -> FrozenSegment {
        self.segment.clone()
    }

    /// Gives the slot back to the producer.
    pub fn release(self) {}

    /// Leaves the message in the lane: the next call finds it again.
    pub fn keep(mut self) {
        self.kept = true;
    }
}

impl Deref for FrozenSlot<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl Drop for FrozenSlot<'_> {
    fn drop(&mut self) {
        if !self.kept {
            self.consumer.release_frozen(&self.span);
        }
    }
}

/// What the ring and the lifeline have together.
pub(crate) enum Any {
    Message(Span),
    Frozen(Span, FrozenSegment),
}

/// What a look for the next message came to.
pub(crate) enum Look<T> {
    Found(T),
    Nothing,
    /// A frozen payload is next, and its descriptor is not here yet.
    Late,
}

/// What only lanes with a lifeline do.
impl Consumer {
    /// The next message of either kind, if there is one now.
    ///
    /// # Errors
    /// `FrozenLost` for a payload that will never come, once; then the lane goes on behind it.
    /// `FrozenFailed` for one that cannot be mapped here; it stays in the lane. `Corrupt` with
    /// `Frozen` for a file that is not what it must be. Otherwise as [`Consumer::poll`].
    pub fn poll_any(&mut self) -> Result<Option<Incoming<'_>>, RecvError> {
        Ok(match self.look_any()? {
            Look::Found(found) => Some(self.incoming(found)),
            Look::Nothing | Look::Late => None,
        })
    }

    /// The next message of either kind, waiting at most `timeout` for it.
    ///
    /// # Errors
    /// `TimedOut` says what is known of the producer, also where a slot is there and its payload
    /// is not yet; otherwise as [`Consumer::poll_any`].
    pub fn recv_any(&mut self, timeout: Duration) -> Result<Incoming<'_>, RecvError> {
        let start = Instant::now();
        loop {
            let mut look = self.look_any()?;
            if matches!(look, Look::Nothing) {
                let left = timeout.saturating_sub(start.elapsed());
                look = match self.wait_for_span(left) {
                    Ok(span) => Look::Found(Any::Message(span)),
                    // Looked at in this round: a slot that says one thing now and another then
                    // must not keep the caller from its clock.
                    Err(RecvError::Frozen { .. }) => self.look_arrived()?,
                    Err(error) => return Err(error),
                };
            }
            if let Look::Found(found) = look {
                return Ok(self.incoming(found));
            }
            let waited = start.elapsed();
            if waited >= timeout {
                return Err(RecvError::TimedOut { waited: timeout, state: self.peer() });
            }
            self.wait_for_parcel(timeout - waited);
        }
    }

    /// Leaves out the next message if it is a frozen payload: for a consumer that does not want
    /// it or cannot map it. False if it is none.
    ///
    /// # Errors
    /// As [`Consumer::poll`].
    pub fn skip_frozen(&mut self) -> Result<bool, RecvError> {
        match self.next_message() {
            Ok(_) => Ok(false),
            Err(RecvError::Frozen { .. }) => {
                let span = Span { place: self.ring.place(), slots: 1, len: 0 };
                // Its descriptor is let go of with it, wherever it is kept.
                self.hear_lifeline();
                self.release_frozen(&span);
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }

    /// The next message, unless it is a frozen payload.
    pub(crate) fn next_message(&mut self) -> Result<Option<Span>, RecvError> {
        match self.ring.ready() {
            Some(span) => Ok(Some(span)),
            None => self.next_span(),
        }
    }

    /// The next message of either kind.
    pub(crate) fn look_any(&mut self) -> Result<Look<Any>, RecvError> {
        match self.next_message() {
            Ok(Some(span)) => Ok(Look::Found(Any::Message(span))),
            Ok(None) => Ok(Look::Nothing),
            Err(RecvError::Frozen { .. }) => self.look_arrived(),
            Err(error) => Err(error),
        }
    }

    fn look_arrived(&mut self) -> Result<Look<Any>, RecvError> {
        Ok(self.arrived()?.map_or(Look::Late, Look::Found))
    }

    pub(crate) fn incoming(&mut self, found: Any) -> Incoming<'_> {
        match found {
            Any::Message(span) => Incoming::Message(ReadSlot::new(self, span)),
            Any::Frozen(span, segment) => {
                Incoming::Frozen(FrozenSlot { consumer: self, span, segment, kept: false })
            }
        }
    }

    /// A frozen payload is next, which only this file can take.
    #[cold]
    pub(crate) fn frozen_is_next(&mut self, pages: u32) -> RecvError {
        let position = self.ring.position();
        if self.grant().broadcast.is_some() {
            // No producer of ours sends one there.
            let fault = FrozenFault::Broadcast;
            return self.ring.fail(Corruption::Frozen { position, fault }).into();
        }
        RecvError::Frozen { position, bytes_max: u64::from(pages) * PAGES[0] }
    }

    /// The payload of the slot that was just found, if it is here.
    fn arrived(&mut self) -> Result<Option<Any>, RecvError> {
        // The word is read once: what it says now is what is compared and told.
        let Some(Found::Frozen { span, pages }) = self.ring.poll()? else { return Ok(None) };
        let position = span.position();
        if !matches!(&self.arrivals.front, Some((front, _)) if *front == position) {
            match self.arrival(position)? {
                Arrival::Here(parcel, fd) => self.unpack(parcel, fd, pages)?,
                Arrival::Late => return Ok(None),
                Arrival::Never => {
                    self.release_frozen(&span);
                    let bytes_max = u64::from(pages) * PAGES[0];
                    return Err(RecvError::FrozenLost { position, bytes_max });
                }
            }
        }
        let Some((_, file)) = &self.arrivals.front else { return Ok(None) };
        let segment = match &self.arrivals.mapped {
            Some(segment) => segment.clone(),
            None => file.map().map_err(|source| failed(position, source))?,
        };
        self.arrivals.mapped = Some(segment.clone());
        Ok(Some(Any::Frozen(span, segment)))
    }

    /// Looks for the descriptor on the lifeline, and where it is not, whether it can still come.
    fn arrival(&mut self, position: u64) -> Result<Arrival, RecvError> {
        for agent_was_heard in [false, true] {
            if agent_was_heard {
                self.maintain()?;
            }
            // Before the socket: what a producer sent before its end is in there.
            let ended = self.line.end != u64::MAX;
            self.hear_lifeline();
            match self.arrivals.find(position) {
                Arrival::Late if ended && agent_was_heard => return Ok(Arrival::Never),
                Arrival::Late => {}
                found => return Ok(found),
            }
        }
        Ok(Arrival::Late)
    }

    /// Reads the lifeline, a bounded number of packets: parcels are kept for their slots, rings
    /// are heard by whoever calls this. Nobody else may read it.
    pub(crate) fn hear_lifeline(&mut self) {
        if let Some(lifeline) = self.lifeline().cloned() {
            self.arrivals.drain(&lifeline);
        }
    }

    /// Proves the file: one that is not what it must be is the end of this handle.
    fn unpack(&mut self, parcel: Parcel, fd: OwnedFd, pages: u32) -> Result<(), RecvError> {
        let (position, found) = (parcel.position, pages_of(parcel.len));
        let proven = if found == u64::from(pages) {
            FrozenFile::accept(fd, parcel.len)
        } else {
            Err(FrozenFault::Announced { found, expected: u64::from(pages) }.into())
        };
        match proven {
            Ok(file) => {
                (self.arrivals.front, self.arrivals.mapped) = (Some((position, file)), None);
                Ok(())
            }
            Err(FrozenError::Fault(fault)) => {
                Err(self.ring.fail(Corruption::Frozen { position, fault }).into())
            }
            Err(error) => {
                // Its descriptor is gone: the next call says so.
                self.arrivals.junk += 1;
                Err(failed(position, error))
            }
        }
    }

    /// Releases the slot of a payload and shows it at once: the producer keeps the memory so long.
    fn release_frozen(&mut self, span: &Span) {
        self.arrivals.forget(span.position());
        self.ring.release(span);
        self.ring.publish();
    }

    fn wait_for_parcel(&self, left: Duration) {
        let millis = u16::try_from(left.as_millis().clamp(1, SLEEP_MS_MAX)).unwrap_or(1);
        match self.lifeline() {
            // Interrupted or timed out: the caller looks again.
            Some(lifeline) => {
                let mut fds = [PollFd::new(lifeline.as_fd(), PollFlags::POLLIN)];
                let _ = poll(&mut fds, PollTimeout::from(millis));
            }
            // Only the agent can bring one.
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

fn failed(position: u64, source: FrozenError) -> RecvError {
    RecvError::FrozenFailed { position, source }
}
