//! Requests and responses over a [`Duplex`], the side that asks: correlation, deadlines, a bounded
//! number in flight. The other side is [`crate::Responder`].
//!
//! Every message starts with an [`Envelope`]. The caller believes nothing that the responder says
//! about it: an id that is not in flight is counted and dropped, whether it is late, repeated or
//! made up, and what waits to be fetched is bounded by the calls in flight.
//!
//! A deadline is the caller's own: the responder does not learn it, because the two sides may not
//! even share a clock. A response that comes after it is dropped.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use thiserror::Error;
use zerocopy::{FromBytes, IntoBytes};

use crate::duplex::Duplex;
use crate::error::{PeerState, RecvError, ReserveError};
use crate::producer::Producer;
use crate::received::View;

/// Most calls that a caller can have in flight.
const IN_FLIGHT_MAX: usize = 1 << 16;
/// While the request lane is full, the response lane is looked at this often.
const SEND_SLICE: Duration = Duration::from_millis(1);

pub(crate) const REQUEST: u32 = 1;
pub(crate) const RESPONSE: u32 = 2;
pub(crate) const DECLINED: u32 = 3;

crate::message! {
    /// What every request and response starts with; the body follows.
    pub struct Envelope as "laneway.Envelope" {
        /// Number of the call, chosen by the caller.
        pub id: u64,
        /// 1: request; 2: response; 3: the responder will not answer this request, no body.
        pub kind: u32,
        /// 0.
        pub reserved: u32,
    }
}

/// Bytes before the body.
const HEAD: usize = size_of::<Envelope>();

/// A call in flight. Good for one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CallId(u64);

/// Why a call has no response.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CallError {
    /// As many calls as allowed are in flight.
    #[error("{in_flight} calls are in flight, at most {limit} may: fetch or abandon some")]
    TooMany {
        /// Calls in flight, fetched ones not counted.
        in_flight: usize,
        /// The limit.
        limit: usize,
    },
    /// The request could not be sent; the call is not in flight.
    #[error("request was not sent: {0}")]
    Send(#[from] ReserveError),
    /// The deadline passed; the call is abandoned.
    #[error("no response within {within:?}: the responder {state}")]
    Expired {
        /// The call's time.
        within: Duration,
        /// What is known of the responder.
        state: PeerState,
    },
    /// The responder said that it will not answer.
    #[error("the responder declined the request")]
    Declined,
    /// The response is longer than this caller accepts.
    #[error("response has {found} bytes, at most {limit} are accepted")]
    TooLong {
        /// Length of the body, in bytes.
        found: usize,
        /// Limit, in bytes.
        limit: usize,
    },
    /// No such call is in flight: it was fetched, abandoned or expired before.
    #[error("the call is not in flight any more")]
    NotInFlight,
    /// The response lane failed. Calls stay in flight, in case a successor answers them.
    #[error("no response can come: {0}")]
    Lane(#[from] RecvError),
}

/// What a caller dropped, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallCounts {
    /// Responses to calls that had expired or were abandoned.
    pub late: u64,
    /// Responses to calls that had one already.
    pub repeated: u64,
    /// Responses to calls that were never made.
    pub unknown: u64,
    /// Messages that are no response.
    pub malformed: u64,
}

/// A place for one call at a time.
#[derive(Debug)]
struct Place {
    /// Of the call that is or was here last. The place is the id's remainder by the places' number.
    id: u64,
    state: State,
    response: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free { answered: bool },
    Waiting { within: Duration, deadline: Instant },
    Responded,
    Declined,
    TooLong { found: usize },
}

/// The side that asks.
///
/// ```
/// use std::time::Duration;
/// use laneway_shm::{Caller, Responder, duplex_pair};
///
/// let (near, far) = duplex_pair(Default::default())?;
/// let server = std::thread::spawn(move || {
///     let mut responder = Responder::new(far);
///     responder.serve(Duration::from_secs(1), |request, reply| {
///         let mut body = request.to_vec();
///         body.reverse();
///         reply.send(&body)
///     })
/// });
/// let mut caller = Caller::new(near, 8);
/// assert_eq!(caller.call(b"abc", Duration::from_secs(1))?, b"cba");
/// server.join().unwrap()??;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Caller {
    duplex: Duplex,
    calls: Calls,
}

/// The calls of a caller.
#[derive(Debug)]
struct Calls {
    places: Vec<Place>,
    free: Vec<usize>,
    /// Calls in the order of their answers. Some may be fetched already.
    answered: VecDeque<u64>,
    response_max: usize,
    counts: CallCounts,
}

impl Caller {
    /// A caller with at most `in_flight` calls in flight (1 to 65536).
    ///
    /// A response lane with as many slots never makes the responder wait for this caller.
    #[must_use]
    pub fn new(duplex: Duplex, in_flight: usize) -> Self {
        let limit = in_flight.clamp(1, IN_FLIGHT_MAX);
        let state = State::Free { answered: false };
        let place = |index| Place { id: index as u64, state, response: Vec::new() };
        let calls = Calls {
            places: (0..limit).map(place).collect(),
            free: (0..limit).rev().collect(),
            answered: VecDeque::new(),
            response_max: duplex.consumer.message_max(),
            counts: CallCounts::default(),
        };
        Self { duplex, calls }
    }

    /// Accepts responses of at most `bytes`: bounds what the responder can make this side keep.
    /// By default the largest message of the lane.
    #[must_use]
    pub fn response_max(mut self, bytes: usize) -> Self {
        self.calls.response_max = bytes;
        self
    }

    /// Calls in flight, with those whose answer is there and was not fetched.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.calls.places.len() - self.calls.free.len()
    }

    /// What was dropped so far.
    #[must_use]
    pub fn counts(&self) -> CallCounts {
        self.calls.counts
    }

    /// The two lanes.
    #[must_use]
    pub fn duplex(&self) -> &Duplex {
        &self.duplex
    }

    /// The two lanes, for another use or to end the stream of requests. Calls in flight are
    /// forgotten.
    #[must_use]
    pub fn into_duplex(self) -> Duplex {
        self.duplex
    }

    /// Asks and waits for the response, at most `within`.
    ///
    /// # Errors
    /// As [`Caller::start`] and [`Caller::wait`]; the call is not in flight any more.
    pub fn call(&mut self, request: &[u8], within: Duration) -> Result<Vec<u8>, CallError> {
        let mut response = Vec::new();
        self.call_into(request, within, &mut response)?;
        Ok(response)
    }

    /// As [`Caller::call`], into a vector that is used again: no allocation after the first few.
    ///
    /// # Errors
    /// As [`Caller::call`].
    pub fn call_into(
        &mut self,
        request: &[u8],
        within: Duration,
        response: &mut Vec<u8>,
    ) -> Result<(), CallError> {
        let call = self.start(request, within)?;
        let result = self.wait_into(call, response);
        if result.is_err() {
            self.abandon(call);
        }
        result
    }

    /// Sends a request; its response is fetched by [`Caller::wait`] or [`Caller::poll`]. The call
    /// expires `within` from now; waiting for room in the request lane counts.
    ///
    /// # Errors
    /// `TooMany`; `Send`; `Lane`.
    pub fn start(&mut self, request: &[u8], within: Duration) -> Result<CallId, CallError> {
        let id = self.calls.next_id()?;
        let deadline = Instant::now().checked_add(within).unwrap_or_else(far_away);
        self.send(id, request, within, deadline)?;
        self.calls.begin(id, State::Waiting { within, deadline });
        Ok(CallId(id))
    }

    /// A full request lane may mean that the responder waits for room in the other one.
    fn send(
        &mut self,
        id: u64,
        request: &[u8],
        within: Duration,
        deadline: Instant,
    ) -> Result<(), CallError> {
        let mut slice = Duration::ZERO;
        loop {
            let sent = send(&mut self.duplex.producer, REQUEST, id, request, slice);
            let Err(error) = sent else { return Ok(()) };
            let left = deadline.saturating_duration_since(Instant::now());
            if !error.is_timeout() || left.is_zero() {
                return Err(match error {
                    // The last slice is not what the caller waited.
                    ReserveError::TimedOut { state, .. } => {
                        ReserveError::TimedOut { waited: within, state }
                    }
                    error => error,
                }
                .into());
            }
            slice = left.min(SEND_SLICE);
            self.accept_all()?;
        }
    }

    /// Waits for the answer to a call until its deadline.
    ///
    /// # Errors
    /// `Expired`; `Declined`; `TooLong`; `NotInFlight`; after `Lane` the call is still in flight.
    pub fn wait(&mut self, call: CallId) -> Result<Vec<u8>, CallError> {
        let mut response = Vec::new();
        self.wait_into(call, &mut response)?;
        Ok(response)
    }

    fn wait_into(&mut self, call: CallId, response: &mut Vec<u8>) -> Result<(), CallError> {
        let mut over = false;
        loop {
            let place = self.calls.in_flight(call.0).ok_or(CallError::NotInFlight)?;
            let State::Waiting { within, deadline } = place.state else {
                return self.calls.fetch(call.0, response);
            };
            // Also where a peer keeps the lane full of other messages.
            if over {
                self.abandon(call);
                let state = self.duplex.consumer.peer();
                return Err(CallError::Expired { within, state });
            }
            let left = deadline.saturating_duration_since(Instant::now());
            over = left.is_zero();
            match self.duplex.consumer.recv(left) {
                Ok(slot) => self.calls.accept(slot.view()),
                Err(RecvError::TimedOut { .. }) => over = true,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The answer that came first, or a call that expired, if there is one.
    ///
    /// # Errors
    /// `Lane`. What became of a call is inside: as with [`Caller::wait`].
    #[expect(clippy::type_complexity, reason = "which call, and what became of it")]
    pub fn poll(&mut self) -> Result<Option<(CallId, Result<Vec<u8>, CallError>)>, CallError> {
        self.accept_all()?;
        while let Some(id) = self.calls.answered.pop_front() {
            if self.calls.in_flight(id).is_some() {
                let mut response = Vec::new();
                let result = self.calls.fetch(id, &mut response);
                return Ok(Some((CallId(id), result.map(|()| response))));
            }
        }
        let Some((id, within)) = self.calls.expired() else { return Ok(None) };
        self.abandon(CallId(id));
        let state = self.duplex.consumer.peer();
        Ok(Some((CallId(id), Err(CallError::Expired { within, state }))))
    }

    /// Forgets a call: its response is dropped when it comes.
    pub fn abandon(&mut self, call: CallId) {
        if let Some(place) = self.calls.in_flight(call.0) {
            let answered = !matches!(place.state, State::Waiting { .. });
            self.calls.end(call.0, answered);
        }
    }

    /// Takes what is there, at most a ring's worth: a hostile responder could go on for ever.
    fn accept_all(&mut self) -> Result<(), CallError> {
        for _ in 0..self.duplex.consumer.grant().slot_count {
            let Some(slot) = self.duplex.consumer.poll()? else { break };
            self.calls.accept(slot.view());
        }
        Ok(())
    }
}

/// A time that is no deadline: a year from now.
fn far_away() -> Instant {
    Instant::now() + Duration::from_secs(365 * 24 * 3600)
}

impl Calls {
    /// Number of the next call, if there is a place for it.
    fn next_id(&self) -> Result<u64, CallError> {
        let limit = self.places.len();
        let free = self.free.last().and_then(|index| self.places.get(*index));
        let free = free.ok_or(CallError::TooMany { in_flight: limit, limit })?;
        Ok(free.id + limit as u64)
    }

    fn begin(&mut self, id: u64, state: State) {
        self.free.pop();
        if let Some(place) = self.place(id) {
            (place.id, place.state) = (id, state);
        }
    }

    fn end(&mut self, id: u64, answered: bool) {
        let index = self.index(id);
        if let Some(place) = self.places.get_mut(index) {
            place.state = State::Free { answered };
            self.free.push(index);
        }
    }

    fn index(&self, id: u64) -> usize {
        #[expect(clippy::cast_possible_truncation, reason = "below the number of places")]
        return (id % self.places.len() as u64) as usize;
    }

    fn place(&mut self, id: u64) -> Option<&mut Place> {
        let index = self.index(id);
        self.places.get_mut(index)
    }

    /// The place of a call that is in flight.
    fn in_flight(&mut self, id: u64) -> Option<&mut Place> {
        let place = self.place(id)?;
        (place.id == id && !matches!(place.state, State::Free { .. })).then_some(place)
    }

    fn expired(&self) -> Option<(u64, Duration)> {
        let now = Instant::now();
        self.places.iter().find_map(|place| match place.state {
            State::Waiting { within, deadline } if deadline <= now => Some((place.id, within)),
            _ => None,
        })
    }

    /// Takes the answer of a call that has one.
    fn fetch(&mut self, id: u64, response: &mut Vec<u8>) -> Result<(), CallError> {
        let limit = self.response_max;
        let place = self.in_flight(id).ok_or(CallError::NotInFlight)?;
        let result = match place.state {
            State::Responded => {
                std::mem::swap(&mut place.response, response);
                Ok(())
            }
            State::Declined => Err(CallError::Declined),
            State::TooLong { found } => Err(CallError::TooLong { found, limit }),
            State::Free { .. } | State::Waiting { .. } => return Err(CallError::NotInFlight),
        };
        self.end(id, true);
        result
    }

    /// Puts an answer where it belongs, or counts why it belongs nowhere.
    fn accept(&mut self, view: View<'_>) {
        let (first, limit) = (self.places.len() as u64, self.response_max);
        let head = read_head(view).filter(|(head, _)| matches!(head.kind, RESPONSE | DECLINED));
        let Some((Envelope { id, kind, .. }, body)) = head else {
            self.counts.malformed += 1;
            return;
        };
        let index = self.index(id);
        let Some(place) = self.places.get_mut(index) else { return };
        match place.state {
            _ if id < first || id > place.id => self.counts.unknown += 1,
            // Of a call that was here before: whether it had an answer is forgotten.
            _ if id < place.id => self.counts.late += 1,
            State::Free { answered: false } => self.counts.late += 1,
            State::Waiting { .. } => {
                place.take(kind, body, limit);
                self.remember(id);
            }
            _ => self.counts.repeated += 1,
        }
    }

    fn remember(&mut self, id: u64) {
        self.answered.push_back(id);
        if self.answered.len() > 2 * self.places.len() {
            // Calls that were waited for and not polled for: nobody takes them out otherwise.
            let mut answered = std::mem::take(&mut self.answered);
            answered.retain(|id| self.in_flight(*id).is_some());
            self.answered = answered;
        }
    }
}

impl Place {
    fn take(&mut self, kind: u32, body: View<'_>, limit: usize) {
        self.state = match kind {
            DECLINED => State::Declined,
            _ if body.len() > limit => State::TooLong { found: body.len() },
            _ => {
                self.response.resize(body.len(), 0);
                body.copy_to(&mut self.response);
                State::Responded
            }
        };
    }
}

/// A message's envelope, read once, and its body; `None` if it has no proper one.
pub(crate) fn read_head(view: View<'_>) -> Option<(Envelope, View<'_>)> {
    let body = view.range(HEAD, view.len().checked_sub(HEAD)?)?;
    let mut head = [0; HEAD];
    view.copy_to(&mut head);
    let head = Envelope::read_from_bytes(&head).ok()?;
    (head.reserved == 0).then_some((head, body))
}

/// Sends an envelope with its body.
pub(crate) fn send(
    producer: &mut Producer,
    kind: u32,
    id: u64,
    body: &[u8],
    timeout: Duration,
) -> Result<(), ReserveError> {
    let len = HEAD.saturating_add(body.len());
    let mut slot = producer.reserve(len, timeout)?;
    slot.write(0, Envelope { id, kind, reserved: 0 }.as_bytes());
    slot.write(HEAD, body);
    slot.commit();
    Ok(())
}
