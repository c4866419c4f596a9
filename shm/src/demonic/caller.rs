//! Requests and responses: a caller of a hostile responder, and a responder of a hostile caller.

use std::collections::BTreeMap;

use super::*;
use crate::call::{CallError, CallId, Caller, REQUEST, RESPONSE};
use crate::duplex::Duplex;
use crate::error::ReserveError;
use crate::responder::{Later, Responder};

/// Calls in flight, at most.
const PLACES: usize = 4;
/// Longest response that is accepted, in bytes.
const RESPONSE_MAX: usize = 20;

/// Two lanes with one hostile peer; the one that it reads it rarely lies about.
fn duplex(lane: &Lane, dice: &Dice, says: Says) -> (Duplex, [Arc<Siege>; 2]) {
    let base = start(dice, &lane.geometry);
    let (consumer, talks) = lane.consumer(base, dice.next());
    talks.set_malice(dice);
    talks.state().says = says;
    let (producer, listens) = lane.producer(base, 0, dice.next());
    listens.state().liar.malice.set(dice.pick(&[0, 0, 0, 5]));
    (Duplex { producer, consumer }, [talks, listens])
}

/// Opens the books of both lanes for a call that may take a whole ring of messages.
fn begin(duplex: &Duplex, [talks, listens]: &[Arc<Siege>; 2]) {
    let (producer, ring) = (&duplex.producer, duplex.consumer.grant().slot_count);
    talks.begin(duplex.consumer.position(), usize::try_from(ring).unwrap() + 1);
    let (committed, count) = (producer.position(), u64::from(producer.grant().slot_count));
    listens.begin(committed, 1);
    listens.state().window = (committed, committed - producer.lag() + count);
}

/// Which call, and what became of it.
type Polled<Id> = Result<Option<(Id, Result<Vec<u8>, CallError>)>, CallError>;

/// How a caller is used, the library's or a faulty one.
trait Asks {
    type Id: Copy + PartialEq + Debug;
    fn duplex(&self) -> &Duplex;
    fn in_flight(&self) -> usize;
    fn start(&mut self, body: &[u8], within: Duration) -> Result<Self::Id, CallError>;
    fn poll(&mut self) -> Polled<Self::Id>;
    fn wait(&mut self, id: Self::Id) -> Result<Vec<u8>, CallError>;
    /// Asks and waits, for a moment.
    fn call(&mut self, body: &[u8]) -> Result<Vec<u8>, CallError>;
    fn abandon(&mut self, id: Self::Id);
}

impl Asks for Caller {
    type Id = CallId;
    fn duplex(&self) -> &Duplex {
        Caller::duplex(self)
    }
    fn in_flight(&self) -> usize {
        Caller::in_flight(self)
    }
    fn start(&mut self, body: &[u8], within: Duration) -> Result<CallId, CallError> {
        Caller::start(self, body, within)
    }
    fn poll(&mut self) -> Polled<CallId> {
        Caller::poll(self)
    }
    fn wait(&mut self, id: CallId) -> Result<Vec<u8>, CallError> {
        Caller::wait(self, id)
    }
    fn call(&mut self, body: &[u8]) -> Result<Vec<u8>, CallError> {
        let mut response = vec![1; 3];
        Caller::call_into(self, body, NOW, &mut response)?;
        // The same for those who do not use their vector again.
        let again = Caller::call(self, body, NOW);
        again.or(Ok(response))
    }
    fn abandon(&mut self, id: CallId) {
        Caller::abandon(self, id);
    }
}

/// One caller and what must be true of it.
struct AskCase<'c, A: Asks> {
    end: A,
    sieges: [Arc<Siege>; 2],
    dice: &'c Dice,
    /// Calls in flight, and whether time has run out for them.
    calls: Vec<(A::Id, bool)>,
    /// Calls that were answered, given up or forgotten.
    over: Vec<A::Id>,
    answers: u64,
    broken: bool,
}

impl<'c, A: Asks> AskCase<'c, A> {
    fn new(end: A, sieges: [Arc<Siege>; 2], dice: &'c Dice) -> Self {
        let (calls, over) = (Vec::new(), Vec::new());
        Self { end, sieges, dice, calls, over, answers: 0, broken: false }
    }

    fn run(&mut self) -> (u64, bool) {
        for _ in 0..=self.dice.below(96) {
            begin(self.end.duplex(), &self.sieges);
            match self.dice.below(9) {
                8 => self.call(),
                0..3 => self.start(),
                3..6 => self.poll(),
                6 => self.wait(),
                _ => self.abandon(),
            }
            let (in_flight, known) = (self.end.in_flight(), self.calls.len());
            assert_eq!(in_flight, known, "oracle: calls in flight");
        }
        let looks = self.sieges.iter().map(|siege| siege.total()).sum::<u64>();
        (looks.max(1), self.broken)
    }

    fn start(&mut self) {
        let expires = self.dice.below(4) == 0;
        let within = if expires { NOW } else { Duration::from_secs(60) };
        if !expires {
            // Only a request lane that is full makes it wait, and this one is told the truth.
            self.sieges[1].state().liar.malice.set(0);
            self.sieges.iter().for_each(|siege| siege.state().allowed = u64::MAX);
        }
        match self.end.start(&[DEMONIC; 24][..self.dice.pick(&[0, 5, 24])], within) {
            Ok(id) => {
                assert!(self.calls.len() < PLACES, "oracle: more calls than allowed");
                assert!(!self.over.contains(&id), "oracle: an id is used again");
                assert!(self.take(id).is_none(), "oracle: an id is used twice");
                self.calls.push((id, expires));
            }
            Err(CallError::TooMany { in_flight, limit }) => {
                let full = self.calls.len() == PLACES && in_flight == PLACES && limit == PLACES;
                assert!(full, "oracle: {in_flight} of {limit}");
            }
            Err(CallError::Send(error)) => self.broken |= matches!(error, ReserveError::Corrupt(_)),
            Err(error) => self.failed(&error),
        }
    }

    /// A call that is waited for is not in flight any more, whatever came of it.
    fn call(&mut self) {
        self.sieges[1].state().commits_often = true;
        match self.end.call(&[DEMONIC; 5]) {
            Ok(body) => {
                assert!(body.len() <= RESPONSE_MAX, "oracle: {} bytes kept", body.len());
                assert!(body.iter().all(|byte| *byte == DEMONIC), "oracle: bytes");
            }
            Err(CallError::TooMany { .. }) => assert_eq!(self.calls.len(), PLACES, "oracle: room"),
            Err(CallError::Send(error)) => self.broken |= matches!(error, ReserveError::Corrupt(_)),
            Err(error @ CallError::Lane(_)) => self.failed(&error),
            Err(CallError::TooLong { found, .. }) => {
                assert!(found > RESPONSE_MAX, "oracle: {found}")
            }
            Err(CallError::Declined | CallError::Expired { .. }) => {}
            Err(error) => panic!("oracle: {error}"),
        }
    }

    fn failed(&mut self, error: &CallError) {
        let CallError::Lane(error) = error else { panic!("oracle: {error}") };
        self.broken |= matches!(error, RecvError::Corrupt(_));
    }

    fn poll(&mut self) {
        match self.end.poll() {
            Ok(Some((id, result))) => self.answered(id, result),
            Ok(None) => {}
            Err(error) => self.failed(&error),
        }
    }

    /// A call is in flight no more; whether time had run out for it.
    fn take(&mut self, id: A::Id) -> Option<bool> {
        let at = self.calls.iter().position(|(known, _)| *known == id)?;
        Some(self.calls.swap_remove(at).1)
    }

    fn any_call(&self) -> Option<A::Id> {
        let known = self.calls.iter().map(|(id, _)| id).chain(&self.over);
        let (all, at) = (self.calls.len() + self.over.len(), self.dice.next());
        known.copied().nth(usize::try_from(at % all.max(1) as u64).unwrap())
    }

    fn wait(&mut self) {
        let Some(id) = self.any_call() else { return };
        // One that has a minute is not waited for: nobody need answer it.
        match self.calls.iter().find(|(known, _)| *known == id) {
            Some((_, false)) => {}
            Some((_, true)) => match self.end.wait(id) {
                Err(error @ CallError::Lane(_)) => self.failed(&error),
                result => self.answered(id, result),
            },
            None => {
                let gone = matches!(self.end.wait(id), Err(CallError::NotInFlight));
                assert!(gone, "oracle: {id:?} is answered twice");
            }
        }
    }

    fn abandon(&mut self) {
        let Some(id) = self.any_call() else { return };
        self.end.abandon(id);
        if self.take(id).is_some() {
            self.over.push(id);
        }
    }

    /// Each call is answered once at most, with a body that was sent and is not too long.
    fn answered(&mut self, id: A::Id, result: Result<Vec<u8>, CallError>) {
        let expires = self.take(id);
        let expires = expires.unwrap_or_else(|| panic!("oracle: {id:?} is not in flight"));
        self.over.push(id);
        match result {
            Ok(body) => {
                assert!(body.len() <= RESPONSE_MAX, "oracle: {} bytes kept", body.len());
                assert!(body.iter().all(|byte| *byte == DEMONIC), "oracle: bytes");
                self.answers += 1;
            }
            Err(CallError::TooLong { found, limit }) => {
                assert!(found > limit && limit == RESPONSE_MAX, "oracle: {found} of {limit}");
            }
            Err(CallError::Declined) => {}
            Err(CallError::Expired { .. }) => assert!(expires, "oracle: expired before its time"),
            Err(error) => panic!("oracle: {error}"),
        }
    }
}

const RESPONSES: Says = Says::Envelopes { kind: RESPONSE, id_below: 3 * PLACES as u64 };

#[test]
fn a_callers_every_call_survives_a_responder_that_makes_ids_and_lengths_up() {
    let answers = std::cell::Cell::new(0);
    besiege("caller", looks_wanted(), |lane, dice| {
        let (duplex, sieges) = duplex(lane, dice, RESPONSES);
        let caller = Caller::new(duplex, PLACES).response_max(RESPONSE_MAX);
        let mut case = AskCase::new(caller, sieges, dice);
        let outcome = case.run();
        answers.set(answers.get() + case.answers);
        outcome
    });
    assert!(answers.get() > 30, "the demon answers nothing: {}", answers.get());
}

#[test]
fn a_responders_every_call_survives_a_caller_that_sends_what_it_likes() {
    let answered = std::cell::Cell::new(0);
    besiege("responder", looks_wanted(), |lane, dice| {
        let requests = Says::Envelopes { kind: REQUEST, id_below: 8 };
        let (duplex, sieges) = duplex(lane, dice, requests);
        let (max, slots) = (duplex.consumer.message_max(), lane.geometry.count());
        let mut end = Responder::new(duplex).reply_within(NOW);
        let (mut later, mut broken): (Vec<Later>, _) = (Vec::new(), false);
        for _ in 0..=dice.below(96) {
            begin(end.duplex(), &sieges);
            let (before, counts) = (end.duplex().consumer.position(), end.counts());
            let (answers, body) = (dice.below(4), [DEMONIC; 24]);
            let handle = |view: crate::View<'_>, reply: crate::responder::Reply<'_>| {
                assert!(view.len() + size_of::<Envelope>() <= max, "oracle: {}", view.len());
                assert!(view.to_vec().iter().all(|byte| *byte == DEMONIC), "oracle: bytes");
                match answers {
                    0 => return Some(reply.later()),
                    1 => _ = reply.send(&body[..view.len().min(24)]),
                    2 => _ = reply.decline(),
                    _ => drop(reply),
                }
                None
            };
            let result = match dice.below(3) {
                0 => end.serve(NOW, handle).map(Some),
                _ => end.try_serve(handle),
            };
            match result {
                Ok(Some(put_off)) => later.extend(put_off),
                Ok(None) | Err(RecvError::TimedOut { .. }) => {}
                Err(error) => broken |= matches!(error, RecvError::Corrupt(_)),
            }
            let moved = end.duplex().consumer.position() - before;
            let malformed = end.counts().malformed - counts.malformed;
            assert!(malformed <= moved && moved <= (slots + 1) * slots, "oracle: {moved} slots");
            if let Some(request) = later.pop() {
                begin(end.duplex(), &sieges);
                let _ =
                    if answers == 0 { end.decline(request) } else { end.answer(request, &body) };
            }
        }
        answered.set(answered.get() + end.counts().answered + end.counts().declined);
        (sieges.iter().map(|siege| siege.total()).sum::<u64>().max(1), broken)
    });
    assert!(answered.get() > 100, "nothing is answered: {}", answered.get());
}

/// What a caller could have got wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    /// Finds a call by the place that its id belongs to, and does not compare the id.
    TrustsIds,
    /// Keeps a response of any length.
    TrustsLengths,
    /// Goes on to take responses to a call that has had one.
    NeverForgets,
}

/// A caller with one of them.
struct Faulty {
    duplex: Duplex,
    bug: Bug,
    next: u64,
    places: BTreeMap<u64, u64>,
}

impl Asks for Faulty {
    type Id = u64;
    fn duplex(&self) -> &Duplex {
        &self.duplex
    }
    fn in_flight(&self) -> usize {
        self.places.len()
    }
    fn start(&mut self, body: &[u8], _within: Duration) -> Result<u64, CallError> {
        let id = self.next;
        let place = id % PLACES as u64;
        if self.places.contains_key(&place) {
            let (in_flight, limit) = (PLACES, PLACES);
            return match self.places.len() {
                PLACES => Err(CallError::TooMany { in_flight, limit }),
                _ => Err(ReserveError::PeerGone.into()),
            };
        }
        crate::call::send(&mut self.duplex.producer, REQUEST, id, body, NOW)?;
        self.next += 1;
        self.places.insert(place, id);
        Ok(id)
    }
    fn poll(&mut self) -> Polled<u64> {
        let Some(slot) = self.duplex.consumer.poll()? else { return Ok(None) };
        let Some((head, body)) = crate::call::read_head(slot.view()) else { return Ok(None) };
        let known = self.places.get(&(head.id % PLACES as u64)) == Some(&head.id);
        if head.kind != RESPONSE || !(known || self.bug == Bug::TrustsIds) {
            return Ok(None);
        }
        if body.len() > RESPONSE_MAX && self.bug != Bug::TrustsLengths {
            return Ok(None);
        }
        if self.bug != Bug::NeverForgets {
            self.places.remove(&(head.id % PLACES as u64));
        }
        Ok(Some((head.id, Ok(body.to_vec()))))
    }
    fn wait(&mut self, id: u64) -> Result<Vec<u8>, CallError> {
        if self.places.get(&(id % PLACES as u64)) != Some(&id) {
            return Err(CallError::NotInFlight);
        }
        self.abandon(id);
        Err(CallError::Expired { within: NOW, state: PeerState::Live })
    }
    fn call(&mut self, _body: &[u8]) -> Result<Vec<u8>, CallError> {
        Err(CallError::Declined)
    }
    fn abandon(&mut self, id: u64) {
        if self.places.get(&(id % PLACES as u64)) == Some(&id) {
            self.places.remove(&(id % PLACES as u64));
        }
    }
}

#[test]
fn the_oracles_catch_every_planted_bug_of_a_caller() {
    for bug in [Bug::TrustsIds, Bug::TrustsLengths, Bug::NeverForgets] {
        faulty::assert_caught(&format!("{bug:?}"), |_, dice| {
            let lane = Lane::new(56, 16, WaitMode::Spin);
            let (duplex, sieges) = duplex(&lane, dice, RESPONSES);
            let faulty = Faulty { duplex, bug, next: 0, places: BTreeMap::new() };
            AskCase::new(faulty, sieges, dice).run()
        });
    }
}
