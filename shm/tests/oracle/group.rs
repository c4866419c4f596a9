//! Several lanes of the oracle's in one hand, in turn or by their stamps.
//!
//! What each lane hands out its own queue judges. Judged here is the order between the lanes: whose
//! turn it was, whether an earlier message was passed over, and whether somebody was not waited for
//! or waited for too long. The rooms that are judged are the library's; only what an agent and a
//! clock do is played.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use laneway_shm::geometry::Geometry;
use laneway_shm::ring::Span;
use laneway_shm::{FanInError, LaneKey, RecvError, WaitMode};

use super::operation::{Group as Call, Operation};
use super::ring::{self, Front, Patience, Receiver, Sender, World};

/// A planted mistake of whoever orders several lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wrong {
    Nothing,
    /// The sleeper hears the last bell only.
    Deaf,
    /// The lane whose turn it is has no end to its budget.
    NoBudget,
    /// No message is counted against a budget.
    NeverUsed,
    /// A lane is heard only if the first one has nothing.
    FirstComes,
    /// When a lane goes that came before it, the one whose turn it is loses it.
    IndexStays,
    /// A lane that was taken out is still read.
    StaysIn,
    /// Nobody is waited for.
    NoPatience,
    /// A lane is waited for longer than was said.
    TooPatient,
    /// A lane is waited for whose producer is dead.
    AwaitsTheDead,
    /// What comes late is not marked.
    SecretlyLate,
    /// The latest message is the first.
    Backwards,
}

/// What a driver of turns has to notice with one thread.
pub(crate) const OF_TURNS: [Wrong; 5] =
    [Wrong::NoBudget, Wrong::NeverUsed, Wrong::FirstComes, Wrong::IndexStays, Wrong::StaysIn];

/// What a driver of an order by stamps has to notice.
pub(crate) const OF_ORDER: [Wrong; 5] =
    [Wrong::StaysIn, Wrong::NoPatience, Wrong::TooPatient, Wrong::SecretlyLate, Wrong::Backwards];

/// One lane as the reader of several sees it.
pub(crate) struct Ear<W: World> {
    pub(crate) number: usize,
    pub(crate) receiver: Receiver<W>,
    /// The stream has ended, and nobody has followed yet.
    pub(crate) ended: bool,
    /// The producer is dead, and nobody will follow.
    pub(crate) gone: Arc<AtomicBool>,
    /// Position up to which everything was there before the reader began, where the memory shows
    /// stale values.
    pub(crate) sure: u64,
}

impl<W: World> Ear<W> {
    pub(crate) fn new(number: usize, receiver: Receiver<W>) -> Self {
        Self { number, receiver, ended: false, gone: Arc::default(), sure: 0 }
    }

    /// The next message, as a consumer finds it.
    pub(crate) fn next(&mut self) -> Result<Option<Span>, RecvError> {
        loop {
            match self.receiver.front() {
                Front::Message(span) => {
                    self.ended = false;
                    return Ok(Some(span));
                }
                Front::End => {
                    self.receiver.take_end();
                    // One that closed without a message behind one that did is not told.
                    if !std::mem::replace(&mut self.ended, true) {
                        break;
                    }
                }
                Front::Nothing => break,
            }
        }
        let position = self.receiver.position();
        if self.ended { Err(RecvError::Closed { position }) } else { Ok(None) }
    }

    /// Takes up to `most` messages, as a batch does: an end is found if it comes first.
    pub(crate) fn take_many(&mut self, most: usize) -> (usize, Option<Closed>) {
        let mut taken = 0;
        while taken < most {
            // What is no message stays where it is if something came before it.
            if taken > 0 && !self.receiver.is_message() {
                break;
            }
            let was_ended = self.ended;
            match self.next() {
                Ok(Some(span)) => _ = self.receiver.take(span),
                Ok(None) => break,
                Err(_) if was_ended => return (taken, Some(Closed::Before)),
                Err(_) => return (taken, Some(Closed::Now)),
            }
            taken += 1;
        }
        (taken, None)
    }

    pub(crate) fn position(&self) -> u64 {
        self.receiver.position()
    }

    /// A new consumer, which starts where this one's cursor stands.
    pub(crate) fn restart(&mut self) {
        self.receiver.make(Operation::Restart, Patience::None);
        self.ended = false;
    }

    /// Stamp of the next message: its position, and the last lane is always behind.
    pub(crate) fn stamp(&self) -> u64 {
        self.receiver.position() + u64::from(self.number + 1 < LANES)
    }

    fn is_certain(&self) -> bool {
        self.receiver.is_certain() || self.position() < self.sure
    }

    /// Whether a message must be found now.
    pub(crate) fn has_message(&self) -> bool {
        self.is_certain() && self.receiver.is_message()
    }

    /// Whether something must be told now: an end once.
    pub(crate) fn has_news(&self) -> bool {
        self.is_certain() && (self.receiver.is_message() || !self.ended)
    }

    pub(crate) fn may_come(&self) -> bool {
        !self.gone.load(Ordering::SeqCst)
    }
}

/// Whoever reads several lanes.
pub(crate) trait Reads<W: World> {
    /// Adds a lane.
    fn add(&mut self, ear: Ear<W>);

    /// Makes a call of the reader's; returns how many messages and ends it told of.
    fn make(&mut self, call: Call) -> usize;

    /// Lanes that it reads.
    fn ears<'a>(&'a self) -> impl Iterator<Item = &'a Ear<W>>
    where
        W: 'a;

    /// Lanes that were taken out.
    fn out(&self) -> &[Ear<W>];

    /// Sleeps until one of the lanes that are waited for rings.
    fn sleep(&mut self, wait: impl FnOnce(&[(&W::Memory, u32)], Duration) -> bool);

    /// Puts every lane back.
    fn all_in(&mut self) {
        while let Some(number) = self.out().first().map(|ear| ear.number) {
            self.make(Call::OutOrIn(number));
        }
    }

    /// Whether every lane has come to its end, if it is known.
    fn is_done(&self, end: impl Fn(usize) -> Option<u64>) -> bool {
        let mut ears = self.ears();
        self.out().is_empty() && ears.all(|ear| end(ear.number) == Some(ear.position()))
    }
}

/// Lanes that one reads.
pub(crate) const LANES: usize = 3;

/// Both ends of several new lanes.
pub(crate) fn open<W: World>(
    world: &W,
    geometry: Geometry,
    wait: WaitMode,
) -> [(Sender<W>, Ear<W>); LANES] {
    std::array::from_fn(|number| {
        let (sender, receiver) = ring::open_numbered(number, world.clone(), geometry, wait);
        (sender, Ear::new(number, receiver))
    })
}

/// Makes calls in one thread, and takes what is left.
pub(crate) fn run<W: World>(
    world: &W,
    geometry: Geometry,
    reads: &mut impl Reads<W>,
    calls: impl IntoIterator<Item = Call>,
) {
    let mut senders = open(world, geometry, WaitMode::Spin).map(|(sender, ear)| {
        reads.add(ear);
        sender
    });
    for call in calls {
        match call {
            Call::Of(lane, operation) => _ = senders[lane].make(operation, Patience::None),
            call => _ = reads.make(call),
        }
    }
    reads.all_in();
    let mut rounds = 0;
    while !reads.is_done(|number| Some(senders[number].position())) {
        reads.make(Call::Elapse(4));
        reads.make(Call::Many(16));
        rounds += 1;
        assert!(rounds < 1000, "oracle: what was sent does not come");
    }
}

/// When a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closed {
    Before,
    Now,
}

/// What came of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Message(LaneKey),
    Ended(LaneKey),
    Nothing,
}

pub(crate) fn heard(error: &FanInError) -> Heard {
    match error {
        FanInError::Lane { lane, source: RecvError::Closed { .. } } => Heard::Ended(*lane),
        other => panic!("oracle: {other}"),
    }
}
