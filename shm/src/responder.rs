//! Requests and responses over a [`Duplex`], the side that answers.
//!
//! Keeps nothing about requests: a caller that repeats an id is answered twice, and one that does
//! not read its responses is waited for a bounded time only. Messages that are no request are
//! counted and dropped.

use std::time::{Duration, Instant};

use crate::call::{DECLINED, REQUEST, RESPONSE, read_head, send};
use crate::duplex::Duplex;
use crate::error::{RecvError, ReserveError};
use crate::producer::Producer;
use crate::received::View;

/// How long a responder waits for room for one response, unless it is told otherwise.
const REPLY_WITHIN: Duration = Duration::from_secs(1);

/// What a responder did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServeCounts {
    /// Responses sent.
    pub answered: u64,
    /// Requests declined: by [`Reply::decline`], or because nobody answered them.
    pub declined: u64,
    /// Answers that found no room in time.
    pub unsent: u64,
    /// Messages that are no request.
    pub malformed: u64,
}

/// The side that answers. See [`Caller`](crate::Caller) for both.
#[derive(Debug)]
pub struct Responder {
    duplex: Duplex,
    reply_within: Duration,
    counts: ServeCounts,
}

impl Responder {
    /// A responder that waits a second at most for room for a response.
    #[must_use]
    pub fn new(duplex: Duplex) -> Self {
        Self { duplex, reply_within: REPLY_WITHIN, counts: ServeCounts::default() }
    }

    /// Waits this long for room for a response: a caller that does not read holds the responder up
    /// no longer.
    #[must_use]
    pub fn reply_within(mut self, within: Duration) -> Self {
        self.reply_within = within;
        self
    }

    /// What was done so far.
    #[must_use]
    pub fn counts(&self) -> ServeCounts {
        self.counts
    }

    /// The two lanes.
    #[must_use]
    pub fn duplex(&self) -> &Duplex {
        &self.duplex
    }

    /// The two lanes, for another use or to end the stream of responses.
    #[must_use]
    pub fn into_duplex(self) -> Duplex {
        self.duplex
    }

    /// Waits for a request, at most `timeout`, and hands it to `handle` with the way to answer it.
    ///
    /// The request is read in place, where a hostile caller may still be changing it: copy out what
    /// is looked at twice.
    ///
    /// # Errors
    /// As [`Consumer::recv`](crate::Consumer::recv).
    pub fn serve<R>(
        &mut self,
        timeout: Duration,
        handle: impl FnOnce(View<'_>, Reply<'_>) -> R,
    ) -> Result<R, RecvError> {
        let start = Instant::now();
        loop {
            let left = timeout.saturating_sub(start.elapsed());
            let Self { duplex: Duplex { producer, consumer }, reply_within, counts } = self;
            let slot = consumer.recv(left)?;
            if let Some((id, body)) = request(slot.view()) {
                let within = *reply_within;
                return Ok(handle(body, Reply { producer, counts, id, within, open: true }));
            }
            counts.malformed += 1;
            drop(slot);
            if left.is_zero() {
                // A peer that keeps the lane full of nonsense must not keep us here.
                let state = consumer.peer();
                return Err(RecvError::TimedOut { waited: timeout, state });
            }
        }
    }

    /// As [`Responder::serve`], if there is a request now.
    ///
    /// # Errors
    /// As [`Consumer::poll`](crate::Consumer::poll).
    pub fn try_serve<R>(
        &mut self,
        handle: impl FnOnce(View<'_>, Reply<'_>) -> R,
    ) -> Result<Option<R>, RecvError> {
        for _ in 0..self.duplex.consumer.grant().slot_count {
            let Self { duplex: Duplex { producer, consumer }, reply_within, counts } = self;
            let Some(slot) = consumer.poll()? else { break };
            if let Some((id, body)) = request(slot.view()) {
                let within = *reply_within;
                return Ok(Some(handle(body, Reply { producer, counts, id, within, open: true })));
            }
            counts.malformed += 1;
        }
        Ok(None)
    }

    /// Answers a request that was put off by [`Reply::later`].
    ///
    /// # Errors
    /// As [`Producer::send`].
    pub fn answer(&mut self, request: Later, body: &[u8]) -> Result<(), ReserveError> {
        self.reply(request).send(body)
    }

    /// Declines a request that was put off.
    ///
    /// # Errors
    /// As [`Producer::send`].
    pub fn decline(&mut self, request: Later) -> Result<(), ReserveError> {
        self.reply(request).decline()
    }

    fn reply(&mut self, Later { id }: Later) -> Reply<'_> {
        let Self { duplex, reply_within: within, counts } = self;
        Reply { producer: &mut duplex.producer, counts, id, within: *within, open: true }
    }
}

fn request(view: View<'_>) -> Option<(u64, View<'_>)> {
    let (head, body) = read_head(view)?;
    (head.kind == REQUEST).then_some((head.id, body))
}

/// The way to answer one request. Dropped without an answer, it declines.
#[derive(Debug)]
pub struct Reply<'r> {
    producer: &'r mut Producer,
    counts: &'r mut ServeCounts,
    id: u64,
    within: Duration,
    open: bool,
}

/// A request whose answer was put off. To drop it leaves the caller to its deadline.
#[derive(Debug)]
#[must_use = "the caller waits for the answer"]
pub struct Later {
    id: u64,
}

impl Reply<'_> {
    /// Sends the response.
    ///
    /// # Errors
    /// As [`Producer::send`]: the caller does not read, or the body is too large for the lane. The
    /// request is then answered by nothing.
    pub fn send(mut self, body: &[u8]) -> Result<(), ReserveError> {
        self.open = false;
        let sent = send(self.producer, RESPONSE, self.id, body, self.within);
        self.count(sent, true)
    }

    /// Says that there will be no response.
    ///
    /// # Errors
    /// As [`Producer::send`].
    pub fn decline(mut self) -> Result<(), ReserveError> {
        self.open = false;
        let sent = send(self.producer, DECLINED, self.id, &[], self.within);
        self.count(sent, false)
    }

    /// Puts the answer off, to [`Responder::answer`] or [`Responder::decline`].
    pub fn later(mut self) -> Later {
        self.open = false;
        Later { id: self.id }
    }

    fn count(
        &mut self,
        sent: Result<(), ReserveError>,
        answered: bool,
    ) -> Result<(), ReserveError> {
        let counted = match (&sent, answered) {
            (Err(_), _) => &mut self.counts.unsent,
            (Ok(()), true) => &mut self.counts.answered,
            (Ok(()), false) => &mut self.counts.declined,
        };
        *counted += 1;
        sent
    }
}

impl Drop for Reply<'_> {
    fn drop(&mut self) {
        if self.open {
            let sent = send(self.producer, DECLINED, self.id, &[], self.within);
            // Counted as unsent, and the caller has its deadline.
            let _ = self.count(sent, false);
        }
    }
}
