//! Lanes that are read by their stamps, and which message has to be next.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use laneway_shm::ring::{Earliest, Known, Order, sleep_on_all};
use laneway_shm::{FanInError, LaneKey};

use super::group::{Ear, Heard, Reads, Wrong, heard};
use super::operation::Group as Call;
use super::ring::{FOR_EVER, World};

/// How long an empty lane is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_millis(10);

/// Lanes that are read by their stamps. Its clock goes when it is told.
pub(crate) struct ByStamp<W: World> {
    order: Order<Ear<W>>,
    keys: BTreeMap<LaneKey, usize>,
    out: Vec<Ear<W>>,
    now: Instant,
    /// Since when each lane has had nothing at its front, at the earliest.
    empty: BTreeMap<LaneKey, Instant>,
    /// Since when the group has handed nothing out, though somebody had something.
    held: Option<Instant>,
    newest: u64,
    late: u64,
    /// An end that was found behind messages: the next call tells it.
    untold: Option<LaneKey>,
    wrong: Wrong,
}

impl<W: World> ByStamp<W> {
    pub(crate) fn new(wrong: Wrong) -> Self {
        let patience = match wrong {
            Wrong::NoPatience => Duration::ZERO,
            Wrong::TooPatient => PATIENCE * 2,
            _ => PATIENCE,
        };
        Self {
            order: Order::new(patience),
            keys: BTreeMap::new(),
            out: Vec::new(),
            now: Instant::now(),
            empty: BTreeMap::new(),
            held: None,
            newest: 0,
            late: 0,
            untold: None,
            wrong,
        }
    }

    fn out_or_in(&mut self, number: usize) {
        if let Some(at) = self.out.iter().position(|ear| ear.number == number) {
            let mut ear = self.out.swap_remove(at);
            ear.restart();
            self.add(ear);
            return;
        }
        let found = self.keys.iter().find(|(_, of)| **of == number).map(|(key, _)| *key);
        let Some(lane) = found else { return };
        self.keys.remove(&lane);
        self.empty.remove(&lane);
        self.untold.take_if(|untold| *untold == lane);
        if self.wrong != Wrong::StaysIn {
            let ear = self.order.remove(lane).expect("oracle: a lane of the group");
            self.out.push(ear);
        }
    }

    /// Each lane's next stamp, where there must be a message.
    fn certain(&self) -> Vec<(u64, LaneKey)> {
        let lanes = self.order.lanes().filter(|(lane, _)| self.keys.contains_key(lane));
        let certain = lanes.filter(|(_, ear)| ear.has_message());
        certain.map(|(lane, ear)| (ear.stamp(), lane)).collect()
    }

    /// Looks at every lane, and judges an end that is told.
    fn look(&mut self) -> Result<(), FanInError> {
        let (turned, mut asked) = (self.turned(), false);
        let result = self.order.look(|ear| {
            asked = true;
            let span = ear.next()?;
            Ok(span.map(|span| (span, ear.stamp() ^ turned)))
        });
        let told = result.as_ref().err().map(heard);
        if let Some(untold) = self.untold.take() {
            assert_eq!(told, Some(Heard::Ended(untold)), "oracle: an end is not told");
            assert!(!asked, "oracle: an end is not told at once");
        }
        if let Some(Heard::Ended(lane)) = told {
            assert!(self.keys.contains_key(&lane), "oracle: a lane that was taken out is told of");
        }
        result
    }

    fn poll(&mut self) -> usize {
        let certain = self.certain();
        match self.look() {
            Ok(()) => self.judge(&certain),
            Err(_) => 1,
        }
    }

    /// As a merge does: an end that is found behind a message is for the next call.
    fn many(&mut self, limit: usize) -> usize {
        for told in 0..limit {
            let certain = self.certain();
            let found = match self.look() {
                Ok(()) => self.judge(&certain),
                Err(error) if told > 0 => {
                    let Heard::Ended(lane) = heard(&error) else { panic!("oracle: {error}") };
                    self.untold = Some(lane);
                    self.order.put_off(error);
                    return told;
                }
                Err(_) => return 1,
            };
            if found == 0 {
                return told;
            }
        }
        limit
    }

    /// Whether a lane may have had nothing, and may have something soon.
    fn may_be_awaited(&self, certain: &[(u64, LaneKey)]) -> bool {
        let lanes = self.order.lanes().filter(|(lane, _)| self.keys.contains_key(lane));
        let mut comes = lanes.filter(|(_, ear)| !ear.ended && ear.may_come());
        comes.any(|(lane, _)| certain.iter().all(|(_, other)| *other != lane))
    }

    /// Hands the next message out, if it is known, and judges that. `certain` is from before the
    /// look.
    fn judge(&mut self, certain: &[(u64, LaneKey)]) -> usize {
        let (may_be_awaited, now) = (self.may_be_awaited(certain), self.now);
        let for_the_dead = self.wrong == Wrong::AwaitsTheDead;
        match self.order.known(|ear| for_the_dead || ear.may_come(), || now) {
            Known::Nothing => {
                assert_eq!(certain, [], "oracle: nothing was found, and there was something");
                self.held = None;
                0
            }
            Known::Held(left) => {
                let since = *self.held.get_or_insert(now);
                let waited = now.duration_since(since);
                assert!(waited < PATIENCE, "oracle: somebody is waited for {waited:?}");
                assert!(left <= PATIENCE, "oracle: somebody will be waited for {left:?}");
                assert!(may_be_awaited, "oracle: somebody is waited for who will not come");
                0
            }
            Known::Earliest => {
                self.held = None;
                self.take(certain);
                1
            }
        }
    }

    /// Turns the order of the stamps around, as a mistake.
    fn turned(&self) -> u64 {
        if self.wrong == Wrong::Backwards { u64::MAX } else { 0 }
    }

    /// Takes the earliest message, and judges its place.
    fn take(&mut self, certain: &[(u64, LaneKey)]) {
        let (wrong, turned) = (self.wrong, self.turned());
        let Earliest { lane, stamp, mut late, span, consumer } =
            self.order.take().expect("oracle: the earliest message is not there");
        let stamp = stamp ^ turned;
        assert!(self.keys.contains_key(&lane), "oracle: a lane that was taken out is heard");
        assert_eq!(stamp, consumer.stamp(), "oracle: the stamp of another message");
        consumer.receiver.take(span);
        late &= wrong != Wrong::SecretlyLate;
        let first = certain.iter().min().copied().unwrap_or((stamp, lane));
        assert!((stamp, lane) <= first, "oracle: {first:?} was passed over for {stamp}, {lane:?}");
        assert_eq!(late, stamp < self.newest, "oracle: marked as late");
        self.newest = self.newest.max(stamp);
        self.late += u64::from(late);
        assert_eq!(self.order.late(), self.late, "oracle: late ones");
        // Whoever has had nothing all the time, and may send, was waited for.
        for (other, ear) in self.order.lanes() {
            let comes = !ear.ended && ear.may_come() && ear.receiver.is_empty();
            if comes && other != lane && self.empty.contains_key(&other) {
                let waited = self.now.duration_since(self.empty[&other]);
                assert!(waited >= PATIENCE, "oracle: {other:?} was waited for {waited:?} only");
            }
        }
        self.empty.insert(lane, self.now);
    }
}

impl<W: World> Reads<W> for ByStamp<W> {
    fn add(&mut self, ear: Ear<W>) {
        let number = ear.number;
        let lane = self.order.add(ear);
        self.keys.insert(lane, number);
        self.empty.insert(lane, self.now);
        self.held = None;
    }

    fn make(&mut self, call: Call) -> usize {
        match call {
            Call::Poll => self.poll(),
            Call::Many(limit) => self.many(limit),
            Call::Budget(..) => 0,
            Call::OutOrIn(number) => {
                self.out_or_in(number);
                0
            }
            Call::Elapse(ticks) => {
                self.now += PATIENCE * u32::try_from(ticks).expect("few") / 4;
                0
            }
            Call::Of(..) => panic!("{call:?} is a producer's"),
        }
    }

    fn ears<'a>(&'a self) -> impl Iterator<Item = &'a Ear<W>>
    where
        W: 'a,
    {
        self.order.lanes().map(|(_, ear)| ear)
    }

    fn out(&self) -> &[Ear<W>] {
        &self.out
    }

    fn sleep(&mut self, wait: impl FnOnce(&[(&W::Memory, u32)], Duration) -> bool) {
        // As long as somebody is held back, the patience bounds the sleep.
        if self.held.is_some() {
            return;
        }
        let mut rings: Vec<_> = self.order.awaited().map(|(_, ear)| ear.receiver.ring()).collect();
        sleep_on_all(&mut rings, FOR_EVER, wait);
    }
}
