//! A reader that may be overrun, by a producer that overruns it and lies.

use super::*;
use crate::ring::{Policy, Start};
use crate::roster::Entry;
use crate::subscriber::Subscriber;

/// One subscriber and what must be true of it.
struct Case<'c> {
    end: Subscriber,
    siege: Arc<Siege>,
    dice: &'c Dice,
    geometry: Geometry,
    fail_stop: FailStop,
    found: u64,
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
        siege.begin(base, 0);
        let entry = Entry { offset: P_READERS, joined_at: base };
        end.ring.join_at(seen, &entry).unwrap();
        end.line.current = 1;
        let fail_stop = FailStop::default();
        Self { end, siege, dice, geometry: lane.geometry, fail_stop, found: 0 }
    }

    fn run(&mut self) -> (u64, bool) {
        for _ in 0..=self.dice.below(96) {
            match self.dice.below(3) {
                0 => self.receive_many(),
                _ => self.receive(),
            }
            self.end.maintain().unwrap();
        }
        (self.siege.total().max(1), self.fail_stop.0.is_some())
    }

    fn receive(&mut self) {
        let (before, lost) = (self.end.position(), self.end.lost());
        // It looks twice, and for the start of a message when it was overrun.
        self.siege.begin(before, 4);
        let waits = self.dice.below(128) == 0;
        if waits {
            self.siege.be_quiet();
        }
        let result = match self.dice.below(2) {
            0 => self.end.poll(),
            _ => self.end.recv(if waits { SHORT } else { NOW }).map(Some),
        };
        let result = result.map(|found| {
            found.map(|message| {
                let marked = message.bytes.iter().all(|byte| *byte == DEMONIC);
                assert!(marked, "oracle: bytes");
                (message.position, message.bytes.len())
            })
        });
        let (after, lost_now) = (self.end.position(), self.end.lost() - lost);
        assert!(after >= before && lost_now <= after - before, "oracle: position");
        match self.fail_stop.judge(result) {
            Ok(Some((position, len))) => {
                let slots = after - position;
                let room = slots * u64::from(self.geometry.payload());
                let whole = slots >= 1 && slots <= self.geometry.count() && len as u64 <= room;
                assert!(position >= before && whole, "oracle: {len} bytes in {slots} slots");
                self.found += 1;
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
        let (before, lost) = (self.end.position(), self.end.lost());
        self.siege.begin(before, 4 * (limit + 1));
        let (mut next, mut count) = (before, 0);
        let read = |message: crate::Message<'_>| {
            let marked = message.bytes.iter().all(|byte| *byte == DEMONIC);
            assert!(marked && message.position >= next, "oracle: bytes");
            (next, count) = (message.position + 1, count + 1);
        };
        let result = match self.dice.below(2) {
            0 => self.end.poll_many(limit, read),
            _ => self.end.recv_many(limit, NOW, read),
        };
        let (after, lost_now) = (self.end.position(), self.end.lost() - lost);
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
}

#[test]
fn a_subscribers_every_call_survives_a_producer_that_overruns_it_and_lies() {
    let found = std::cell::Cell::new(0);
    besiege("subscriber", looks_wanted(), |lane, dice| {
        let mut case = Case::new(lane, dice);
        let outcome = case.run();
        found.set(found.get() + case.found);
        outcome
    });
    assert!(found.get() > 300, "the demon lets nothing through: {}", found.get());
}
