//! A reader that may be overrun, by a producer that overruns it and lies.

use super::consumer::Pair;
use super::*;
use crate::ring::{Policy, Start};
use crate::roster::Entry;
use crate::subscriber::Subscriber;
use crate::typed::subscriber::TypedSubscriber;

/// One subscriber and what must be true of it.
struct Case<'c> {
    /// For values, and with them for bytes.
    end: TypedSubscriber<Pair>,
    siege: Arc<Siege>,
    dice: &'c Dice,
    geometry: Geometry,
    fail_stop: FailStop,
    found: u64,
    values: u64,
}

impl<'c> Case<'c> {
    fn new(lane: &Lane, dice: &'c Dice) -> Self {
        let (seen, siege) = lane.of_producer(dice.next());
        let base = start(dice, &lane.geometry);
        siege.set_malice(dice);
        siege.state().sticky = true;
        let (own, _) = handed_over(&lane.grants[1], lane.geometry, KIND_CONSUMER).unwrap();
        own.store_relaxed(C_RELEASED, base);
        let budget = 1 + dice.below(lane.geometry.count());
        let policy = dice.pick(&[Policy::Overwrite, Policy::Evicting { budget }]);
        let broadcast = Some(policy);
        let grant = Grant { base, broadcast, start: Start::Newest, ..lane.grants[1].clone() };
        let mut end = Subscriber::new(own, grant, Link::new(None, None, PeerState::Live)).unwrap();
        end.ring.pay_for_fences();
        siege.begin(base, 0);
        let entry = Entry { offset: P_READERS, joined_at: base };
        end.ring.join_at(seen, &entry).unwrap();
        end.line.current = 1;
        let (end, fail_stop) = (TypedSubscriber::new(end), FailStop::default());
        Self { end, siege, dice, geometry: lane.geometry, fail_stop, found: 0, values: 0 }
    }

    fn run(&mut self) -> (u64, bool) {
        for _ in 0..=self.dice.below(96) {
            match self.dice.below(6) {
                0 => self.receive_many(),
                1..4 => self.receive_values(),
                _ => self.receive(),
            }
            self.bytes().maintain().unwrap();
        }
        (self.siege.total().max(1), self.fail_stop.0.is_some())
    }

    fn bytes(&mut self) -> &mut Subscriber {
        self.end.subscriber_mut()
    }

    /// Where it is, and what it has lost.
    fn account(&self) -> (u64, u64) {
        let end = self.end.subscriber();
        (end.position(), end.lost())
    }

    fn receive(&mut self) {
        let (before, lost) = self.account();
        // It looks twice, and for the start of a message when it was overrun.
        self.siege.begin(before, 4);
        let waits = self.dice.below(128) == 0;
        if waits {
            self.siege.be_quiet();
        }
        let result = match self.dice.below(2) {
            0 => self.bytes().poll(),
            _ => self.bytes().recv(if waits { SHORT } else { NOW }).map(Some),
        };
        let result = result.map(|found| {
            found.map(|message| {
                let marked = message.bytes.iter().all(|byte| *byte == DEMONIC);
                assert!(marked, "oracle: bytes");
                (message.position, message.bytes.len())
            })
        });
        let (after, lost_after) = self.account();
        let lost_now = lost_after - lost;
        assert!(after >= before && lost_now <= after - before, "oracle: position");
        match self.fail_stop.judge(result) {
            Ok(Some((position, len))) => {
                let slots = after - position;
                let room = slots * u64::from(self.geometry.payload());
                let whole = slots >= 1 && slots <= self.geometry.count() && len as u64 <= room;
                assert!(position >= before && whole, "oracle: {len} bytes in {slots} slots");
                self.found += 1;
                if self.dice.below(8) == 0 {
                    self.bytes().keep();
                    self.stays(position, len);
                }
            }
            Ok(None) | Err(RecvError::TimedOut { .. }) => {
                assert_eq!(after, before, "oracle: moves on without a message");
            }
            Err(RecvError::Lost { slots, position }) => {
                assert!(slots > 0 && position == after, "oracle: lost");
                self.found += 1;
            }
            Err(RecvError::Closed { position }) => assert_eq!(position, after, "oracle: closed"),
            Err(RecvError::GivenUp { position, .. }) => {
                assert_eq!(position, after, "oracle: given up");
            }
            Err(RecvError::Corrupt(_)) => {
                assert_eq!(after, before + lost_now, "oracle: moves on by a lie");
            }
            Err(error) => panic!("oracle: {error}"),
        }
    }

    fn receive_many(&mut self) {
        let limit = usize::try_from(1 + self.dice.below(8)).unwrap();
        let (before, lost) = self.account();
        self.siege.begin(before, 4 * (limit + 1));
        let (mut next, mut count) = (before, 0);
        let read = |message: crate::Message<'_>| {
            let marked = message.bytes.iter().all(|byte| *byte == DEMONIC);
            assert!(marked && message.position >= next, "oracle: bytes");
            (next, count) = (message.position + 1, count + 1);
        };
        let result = match self.dice.below(2) {
            0 => self.bytes().poll_many(limit, read),
            _ => self.bytes().recv_many(limit, NOW, read),
        };
        let (after, lost_after) = self.account();
        let lost_now = lost_after - lost;
        assert!(after >= next && lost_now <= after - before, "oracle: position");
        match self.fail_stop.judge(result) {
            Ok(taken) => {
                assert!(taken == count && taken <= limit, "oracle: messages handed out");
                self.found += taken as u64;
            }
            // The end of the stream is a slot, too.
            Err(RecvError::Closed { position }) => {
                assert_eq!((count, position), (0, after), "oracle: closed");
            }
            Err(error) => {
                let found = (count, after);
                assert_eq!(found, (0, before + lost_now), "oracle: {error} after a message");
            }
        }
    }

    fn receive_values(&mut self) {
        const SIZE: usize = size_of::<Pair>();
        let limit = usize::try_from(1 + self.dice.below(8)).unwrap();
        let (before, lost) = self.account();
        self.siege.begin(before, 4 * (limit + 1));
        let mut count = 0;
        let mut read = |pair: Pair| {
            assert_eq!(pair.as_bytes(), [DEMONIC; SIZE], "oracle: bytes");
            count += 1;
        };
        let call = self.dice.below(9);
        let result = match call {
            0 => self.end.recv(NOW).map(&mut read).map(|()| 1),
            1 => self.end.try_recv().map(|found| found.map(&mut read).map_or(0, |()| 1)),
            2 => {
                let mut target = Pair { first: 0, second: 0 };
                self.end.recv_into(&mut target, NOW).map(|()| read(target)).map(|()| 1)
            }
            3 => self.end.recv_many(limit, NOW, &mut read),
            4 => self.end.try_recv_many(limit, &mut read),
            5 => self.end.recv_batch(limit, NOW).map(|batch| batch.map(&mut read).count()),
            6 => self.end.try_recv_batch(limit).map(|batch| batch.map(&mut read).count()),
            7 => self.end.recv_packed(limit, NOW, &mut read),
            _ => self.end.try_recv_packed(limit, &mut read),
        };
        let (after, lost_after) = self.account();
        let lost_now = lost_after - lost;
        assert!(after >= before + lost_now, "oracle: position");
        let (is_packed, max) = (call > 6, self.end.subscriber().message_max());
        match self.fail_stop.judge(result) {
            Ok(taken) => {
                let room = usize::try_from(after - before - lost_now).unwrap() * max;
                let most = if is_packed { limit - 1 + (max / SIZE).max(1) } else { limit };
                let fits = taken <= most && taken * SIZE <= room;
                assert!(taken == count && fits, "oracle: {taken} values of {limit}");
                self.values += taken as u64;
            }
            Err(RecvError::Closed { position }) => {
                assert_eq!((count, position), (0, after), "oracle: closed");
            }
            Err(error) => {
                let found = (count, after);
                assert_eq!(found, (0, before + lost_now), "oracle: {error} after a message");
                if let RecvError::Length { found, .. } = error {
                    let other = if is_packed { found % SIZE != 0 } else { found != SIZE };
                    assert!((other || found == 0) && found <= max, "oracle: {found} refused");
                    if self.dice.below(2) == 0 {
                        self.stays(after, found);
                    }
                }
            }
        }
    }

    /// A message that was refused stays as it was copied: nobody looks at the lane for it again.
    fn stays(&mut self, position: u64, len: usize) {
        self.siege.state().allowed = 0;
        let message = self.bytes().poll().unwrap().expect("oracle: what was refused is gone");
        let is_same = (message.position, message.bytes.len()) == (position, len);
        assert!(is_same, "oracle: another message than the one that was refused");
        let position = self.bytes().position();
        self.siege.begin(position, 1);
    }
}

#[test]
fn a_subscribers_every_call_survives_a_producer_that_overruns_it_and_lies() {
    let found = std::cell::Cell::new((0, 0));
    besiege("subscriber", looks_wanted(), |lane, dice| {
        let mut case = Case::new(lane, dice);
        let outcome = case.run();
        let (messages, values) = found.get();
        found.set((messages + case.found, values + case.values));
        outcome
    });
    let (messages, values) = found.get();
    assert!(messages > 300 && values > 50, "the demon lets too little through: {found:?}");
}
