//! Broadcast lanes under every interleaving: readers that gate, come, leave, sleep, are given up,
//! and readers that the producer overruns.

use laneway_shm::layout::{R_GIVEN_UP_AT, R_JOINED_AT, R_REASON};
use laneway_shm::ring::{Follower, Policy, Start};
use laneway_shm::roster;

use super::oracle::crowd::Hall;
use super::oracle::operation::{Form, Operation};
use super::oracle::ring::{Patience, World};
use super::*;

type Overrun = Follower<Segment, Segment>;

/// A broadcast lane and the faults of its producer's segment, as each side maps it.
#[derive(Clone, Copy)]
struct Cast {
    lane: Lane,
    policy: Policy,
}

const GATED: Cast = Cast { lane: SPIN, policy: Policy::Gated };
const OVERWRITE: Cast = Cast { lane: SPIN, policy: Policy::Overwrite };

impl Cast {
    fn segment(&self) -> Segment {
        let slots = Segment::slots(&self.lane.geometry());
        let entries = (0..READERS).flat_map(|index| {
            let start = P_READERS + index * READER_BYTES;
            [0, R_JOINED_AT, R_GIVEN_UP_AT, R_REASON].map(|field| start + field)
        });
        let longs = [P_COMMITTED, P_RESUME].into_iter().chain(entries).chain(slots.iter().copied());
        // A producer that waits for nobody writes what others read: that is what words are for.
        let races = if self.policy.loses() { &[][..] } else { &slots[..] };
        Segment::new(longs.collect(), races, [P_BELL, P_PARKED], self.lane.producer)
    }

    fn writer(&self, segment: &Segment) -> Sender {
        let geometry = self.lane.geometry();
        Writer::broadcast(segment.clone(), geometry, self.lane.wait, 0, self.policy)
    }

    /// A reader that the producer has let in, and that has not looked yet.
    fn reader(&self, writer: &mut Sender, segment: &Segment, number: u64) -> Receiver {
        self.let_in(writer, segment, Segment::consumer(self.lane.consumer), number)
    }

    /// As [`Cast::reader`], one that may leave.
    fn guest(&self, writer: &mut Sender, segment: &Segment, number: u64) -> Receiver {
        let longs = vec![C_RELEASED, C_LEFT];
        let consumer = Segment::new(longs, &[], [C_BELL, C_PARKED], self.lane.consumer);
        self.let_in(writer, segment, consumer, number)
    }

    fn let_in(
        &self,
        writer: &mut Sender,
        segment: &Segment,
        consumer: Segment,
        number: u64,
    ) -> Receiver {
        let at = writer.admit(consumer.clone(), number, Start::Newest).expect("there is a place");
        let mut reader = Reader::new(consumer, self.lane.geometry(), self.lane.wait, at, number);
        let entry = roster::find(segment, number).expect("the producer wrote it");
        reader.join_at(segment.clone(), &entry).expect("an honest producer");
        reader
    }

    fn follower(&self, writer: &mut Sender, segment: &Segment) -> Overrun {
        let consumer = Segment::consumer(self.lane.consumer);
        writer.admit(consumer.clone(), 1, Start::Newest).expect("there is a place");
        let mut follower = Follower::new(consumer, self.lane.geometry(), self.lane.wait, 0, 1);
        let entry = roster::find(segment, 1).expect("the producer wrote it");
        follower.join_at(segment.clone(), &entry).expect("an honest producer");
        follower
    }
}

/// Two readers and a producer that waits for both.
fn two_readers(cast: Cast, messages: u64) -> impl Fn() + Send + Sync + 'static {
    move || {
        let segment = cast.segment();
        let mut writer = cast.writer(&segment);
        let mut first = cast.reader(&mut writer, &segment, 1);
        let mut second = cast.reader(&mut writer, &segment, 2);
        let lane = cast.lane;
        let reader = thread::spawn(move || {
            for number in 1..=messages {
                assert_eq!(receive(&lane, &mut first), lane.message(number));
            }
        });
        let producer = thread::spawn(move || {
            for number in 1..=messages {
                send(&lane, &mut writer, &lane.message(number));
            }
        });
        for number in 1..=messages {
            assert_eq!(receive(&lane, &mut second), lane.message(number));
        }
        reader.join().expect("no panic");
        producer.join().expect("no panic");
    }
}

/// As [`two_readers`] with three messages, in two threads: the second reader has the producer's.
fn two_gates(cast: Cast) -> impl Fn() + Send + Sync + 'static {
    move || {
        let segment = cast.segment();
        let mut writer = cast.writer(&segment);
        let mut first = cast.reader(&mut writer, &segment, 1);
        let mut second = cast.reader(&mut writer, &segment, 2);
        let lane = cast.lane;
        let producer = thread::spawn(move || {
            for number in 1..=2 {
                send(&lane, &mut writer, &lane.message(number));
            }
            assert_eq!(writer.try_reserve(16), Ok(None), "the second reader has released nothing");
            assert_eq!(receive(&lane, &mut second), lane.message(1));
            send(&lane, &mut writer, &lane.message(3));
            assert_eq!(receive(&lane, &mut second), lane.message(2));
        });
        for number in 1..=3 {
            assert_eq!(receive(&lane, &mut first), lane.message(number));
        }
        producer.join().expect("no panic");
    }
}

#[test]
fn two_readers_that_gate_receive_every_message_while_slots_are_used_again() {
    explore("two readers", (Some(3), Some(4)), two_gates(GATED));
}

#[test]
fn two_readers_that_sleep_are_woken_and_wake_the_producer() {
    let cast = Cast { lane: PARK, ..GATED };
    explore("two readers, sleeping", (Some(1), Some(2)), two_readers(cast, 3));
}

#[test]
fn a_reader_that_comes_late_starts_exactly_where_the_producer_says() {
    explore("late reader", MEDIUM, || {
        let segment = GATED.segment();
        let mut writer = GATED.writer(&segment);
        let consumer = Segment::consumer(Fault::None);
        let own = consumer.clone();
        let producer = thread::spawn(move || {
            send(&SPIN, &mut writer, &SPIN.message(1));
            writer.admit(consumer, 1, Start::Newest).expect("there is a place");
            for number in 2..=4 {
                send(&SPIN, &mut writer, &SPIN.message(number));
            }
        });
        let mut reader = Reader::new(own, GATED.lane.geometry(), SPIN.wait, 0, 1);
        let entry = loop {
            match roster::find(&segment, 1) {
                Some(entry) => break entry,
                None => thread::yield_now(),
            }
        };
        assert_eq!(entry.joined_at, 1);
        reader.join_at(segment, &entry).unwrap();
        for number in 2..=4 {
            assert_eq!(receive(&SPIN, &mut reader), SPIN.message(number));
        }
        producer.join().unwrap();
    });
}

#[test]
fn a_reader_that_is_gone_holds_nobody_and_the_other_still_loses_nothing() {
    explore("reader gone", MEDIUM, || {
        let segment = GATED.segment();
        let mut writer = GATED.writer(&segment);
        let mut alive = GATED.reader(&mut writer, &segment, 1);
        let dead = GATED.reader(&mut writer, &segment, 2);
        drop(dead);
        let producer = thread::spawn(move || {
            for number in 1..=2 {
                send(&SPIN, &mut writer, &SPIN.message(number));
            }
            assert_eq!(writer.try_reserve(16), Ok(None), "two slots are held by the dead reader");
            assert!(writer.dismiss(2));
            for number in 3..=4 {
                send(&SPIN, &mut writer, &SPIN.message(number));
            }
        });
        for number in 1..=4 {
            assert_eq!(receive(&SPIN, &mut alive), SPIN.message(number));
        }
        producer.join().unwrap();
    });
}

/// A reader that leaves with a message in its hands, and a producer that nobody tells.
fn leaver(cast: Cast) -> impl Fn() + Send + Sync + 'static {
    move || {
        let segment = cast.segment();
        let mut writer = cast.writer(&segment);
        let mut guest = cast.guest(&mut writer, &segment, 1);
        let lane = cast.lane;
        let producer = thread::spawn(move || {
            for number in 1..=3 {
                send(&lane, &mut writer, &lane.message(number));
            }
            assert!(!writer.knows(1) && !writer.dismiss(1), "it left by itself");
        });
        let Found::Message(span) = next(&lane, &mut guest) else { panic!("no end was sent") };
        assert_eq!(copy(&guest, &span), lane.message(1));
        guest.leave();
        assert_eq!(guest.poll(), Ok(None), "who has left reads nothing more");
        producer.join().expect("no panic");
    }
}

#[test]
fn a_reader_that_leaves_holds_nobody_from_then_on_and_has_read_what_it_read() {
    explore("leaver", SMALL, leaver(GATED));
    explore("leaver, sleeping", (Some(3), Some(4)), leaver(Cast { lane: PARK, ..GATED }));
}

/// A batch, one message more and the end, for a reader that gates; then its release is seen.
fn closing(cast: Cast) -> impl Fn() + Send + Sync + 'static {
    move || {
        let segment = cast.segment();
        let mut writer = cast.writer(&segment);
        let mut reader = cast.reader(&mut writer, &segment, 1);
        let lane = cast.lane;
        let producer = thread::spawn(move || {
            for number in 1..=2 {
                let span = room(&lane, &mut writer, 16);
                writer.write(&span, 0, &lane.message(number));
                writer.stage(&span);
            }
            assert_eq!(writer.commit_batch(), 2);
            while !writer.try_end().expect("honest") {
                match lane.wait {
                    WaitMode::Park => writer.park(1, FOR_EVER).expect("honest"),
                    WaitMode::Spin => thread::yield_now(),
                }
            }
        });
        let first = next(&lane, &mut reader);
        let Found::Message(span) = first else { panic!("the stream ended early") };
        assert_eq!(copy(&reader, &span), lane.message(1));
        // The second one came with it.
        let second = reader.poll_at(span.end(reader.geometry())).expect("honest");
        assert_eq!(copy(&reader, &second.expect("a batch comes as a whole")), lane.message(2));
        reader.release(&span);
        assert_eq!(receive(&lane, &mut reader), lane.message(2));
        assert!(matches!(next(&lane, &mut reader), Found::End), "more than was sent");
        reader.release_end();
        producer.join().expect("no panic");
    }
}

#[test]
fn a_batch_and_the_end_of_a_gated_lane_come_as_a_whole_and_in_order() {
    let wide = Cast { lane: Lane { payload: 16, ..PARK }, ..GATED };
    explore("gated batch and end", SMALL, closing(GATED));
    explore("gated batch and end, sleeping", (Some(2), Some(4)), closing(wide));
}

/// A producer is followed by another one, on other memory, while its reader drains the first.
fn followed(cast: Cast) -> impl Fn() + Send + Sync + 'static {
    move || {
        let (old, new) = (cast.segment(), cast.segment());
        let mut writer = cast.writer(&old);
        let consumer = Segment::consumer(cast.lane.consumer);
        let own = consumer.clone();
        writer.admit(consumer.clone(), 1, Start::Newest).expect("there is a place");
        let entry = roster::find(&old, 1).expect("the producer wrote it");
        let (lane, geometry, successors) = (cast.lane, cast.lane.geometry(), new.clone());
        let producer = thread::spawn(move || {
            for number in 1..=2 {
                send(&lane, &mut writer, &lane.message(number));
            }
            // Killed, and the next one told of the reader before its first message.
            drop(writer);
            let mut writer = Writer::broadcast(successors, geometry, lane.wait, 2, cast.policy);
            assert_eq!(writer.admit(consumer, 1, Start::Newest), Some(2));
            for number in 3..=4 {
                send(&lane, &mut writer, &lane.message(number));
            }
            assert_eq!(writer.slowest().map(|lag| lag.slots <= 2), Some(true));
        });
        let mut reader = Reader::new(own, geometry, lane.wait, 0, 1);
        reader.join_at(old, &entry).expect("honest");
        for number in 1..=2 {
            assert_eq!(receive(&lane, &mut reader), lane.message(number));
        }
        let entry = loop {
            match roster::find(&new, 1) {
                Some(entry) => break entry,
                None => thread::yield_now(),
            }
        };
        assert_eq!(entry.joined_at, reader.position(), "nothing is left out or seen twice");
        reader.join_at(new, &entry).expect("honest");
        for number in 3..=4 {
            assert_eq!(receive(&lane, &mut reader), lane.message(number));
        }
        producer.join().expect("no panic");
    }
}

#[test]
fn readers_come_over_to_the_next_generation_of_a_gated_lane_without_a_loss() {
    explore("gated generations", MEDIUM, followed(GATED));
}

impl World for Cast {
    type Memory = Segment;

    fn producer(&self) -> Segment {
        self.segment()
    }
    fn consumer(&self) -> Segment {
        Segment::consumer(self.lane.consumer)
    }
    fn pause(&self) {
        thread::yield_now();
    }
    fn is_strict(&self) -> bool {
        false
    }
}

/// The oracle's calls on a lane that waits for nobody, and a reader that is there from the start:
/// up to position `end`, each message is heard whole, or counted as lost.
fn heard(cast: Cast, calls: &'static [Operation], end: u64) -> impl Fn() + Send + Sync + 'static {
    move || {
        let hall = Hall::new(cast, cast.lane.geometry(), cast.policy, cast.lane.wait);
        let (mut speaker, listener) = (hall.speaker(), hall.join(Start::Newest));
        let mut listener = listener.expect("there is a place");
        speaker.attend(0);
        listener.receive(0, Patience::ForEver);
        hall.ends_at(end);
        let producer = thread::spawn(move || {
            for &call in calls {
                assert!(speaker.make(call, Patience::None), "nobody is waited for");
            }
            assert_eq!(speaker.position(), end, "the script's end");
        });
        listener.receive(usize::MAX, Patience::ForEver);
        producer.join().expect("no panic");
        assert_eq!(listener.position(), end, "more was received than sent");
    }
}

const MESSAGE: Operation = Operation::Send(Form::Whole, 16);
const BATCH: Operation = Operation::Batch { count: 2, len: 9, commit: true };

#[test]
fn a_batch_and_the_end_of_a_lane_that_loses_are_heard_or_counted() {
    explore(
        "overrun batch and end",
        (Some(1), Some(3)),
        heard(OVERWRITE, &[BATCH, MESSAGE, Operation::Close], 4),
    );
    let policy = Policy::Evicting { budget: 2 };
    explore(
        "evicted batch and end",
        (Some(1), Some(3)),
        heard(Cast { policy, ..OVERWRITE }, &[BATCH, MESSAGE, Operation::Close], 4),
    );
}

#[test]
fn a_reader_that_is_overrun_hands_out_no_torn_message_and_counts_every_lost_one() {
    explore("overrun 2 x 3", MEDIUM, heard(OVERWRITE, &[MESSAGE; 3], 3));
    explore("overrun 2 x 4", (Some(2), Some(4)), heard(OVERWRITE, &[MESSAGE; 4], 4));
    let lane = Lane { slots: 4, ..SPIN };
    explore(
        "overrun 4 x 6",
        (Some(1), Some(3)),
        heard(Cast { lane, ..OVERWRITE }, &[MESSAGE; 6], 6),
    );
}

#[test]
fn a_reader_beyond_its_budget_is_given_up_and_still_counts_every_lost_message() {
    let policy = Policy::Evicting { budget: 1 };
    explore("given up", (Some(2), Some(4)), heard(Cast { policy, ..OVERWRITE }, &[MESSAGE; 4], 4));
}

#[test]
fn a_reader_that_sleeps_in_a_lane_that_loses_is_woken() {
    let lane = Lane { payload: 16, ..PARK };
    explore("overrun sleeper", (Some(3), Some(4)), move || {
        let cast = Cast { lane, ..OVERWRITE };
        let segment = cast.segment();
        let mut writer = cast.writer(&segment);
        let mut follower = cast.follower(&mut writer, &segment);
        let producer = thread::spawn(move || {
            for number in 1..=2 {
                send(&lane, &mut writer, &lane.message(number));
            }
        });
        let mut buffer = Vec::new();
        while follower.position() < 2 {
            if follower.poll(&mut buffer, u64::MAX).expect("honest").is_none() {
                follower.park(FOR_EVER);
            }
        }
        producer.join().unwrap();
    });
}

#[test]
fn every_left_out_order_of_a_lane_that_loses_is_caught() {
    for (name, fault) in [
        ("mark without fence", Fault::ReleaseFence),
        ("second look without fence", Fault::AcquireFence),
        ("commit without release", Fault::Release(Pairing::Commit)),
        ("commit without acquire", Fault::Acquire(Pairing::Commit)),
    ] {
        let lane = Lane { producer: fault, ..SPIN };
        assert_caught(name, heard(Cast { lane, ..OVERWRITE }, &[MESSAGE; 4], 4));
    }
}

#[test]
fn every_left_out_order_of_readers_that_gate_is_caught() {
    let consumer = |fault| Cast { lane: Lane { consumer: fault, ..SPIN }, ..GATED };
    for (name, cast) in [
        ("a reader's cursor without release", consumer(Fault::Release(Pairing::Released))),
        ("a reader's cursor without acquire", consumer(Fault::Acquire(Pairing::Released))),
    ] {
        assert_caught(name, two_gates(cast));
    }
    for (name, cast) in [
        ("a leave without release", consumer(Fault::Release(Pairing::Left))),
        ("a leave without acquire", consumer(Fault::Acquire(Pairing::Left))),
        (
            "a leave without a fence before the look for a sleeper",
            Cast { lane: Lane { consumer: Fault::Fence, ..PARK }, ..GATED },
        ),
    ] {
        assert_caught(name, leaver(cast));
    }
    let sleeper = |lane| Cast { lane: Lane { payload: 16, ..lane }, ..GATED };
    for (name, cast) in [
        ("an end without fence", sleeper(Lane { producer: Fault::Fence, ..PARK })),
        (
            "a release before the end without fence",
            sleeper(Lane { consumer: Fault::Fence, ..PARK }),
        ),
    ] {
        assert_caught(name, closing(cast));
    }
    let commit = Lane { producer: Fault::Release(Pairing::Commit), ..SPIN };
    assert_caught("a batch without release", closing(Cast { lane: commit, ..GATED }));
    assert_caught("a generation without release", followed(Cast { lane: commit, ..GATED }));
}
