//! Broadcast lanes under every interleaving: readers that gate, come, leave, sleep, are given up,
//! and readers that the producer overruns. The oracle's calls, judged call by call.

use laneway_shm::layout::{R_GIVEN_UP_AT, R_JOINED_AT, R_REASON};
use laneway_shm::ring::{Policy, Start};

use super::oracle::crowd::{Hall, Stage};
use super::oracle::listener::Listener;
use super::oracle::operation::Crowd::{self, Die, Join, Of, Receive};
use super::oracle::operation::Form::Whole;
use super::oracle::operation::Operation::{self, Batch, Close, Succeed};
use super::oracle::ring::{Patience, World};
use super::*;

/// A broadcast lane and the faults of its producer's segment, as each side maps it.
#[derive(Clone, Copy)]
struct Cast {
    lane: Lane,
    policy: Policy,
}

const GATED: Cast = Cast { lane: SPIN, policy: Policy::Gated };
const OVERWRITE: Cast = Cast { lane: SPIN, policy: Policy::Overwrite };

impl Cast {
    const fn asleep(self) -> Self {
        Self { lane: Lane { wait: WaitMode::Park, ..self.lane }, ..self }
    }
}

/// A broadcast lane of the oracle's on loom's memory. Each word that can change has a price in
/// executions, so that those that only some plays change are there for them alone.
#[derive(Clone)]
struct Below {
    cast: Cast,
    /// Readers may leave.
    leave: bool,
    /// Producers follow each other, and the agent tells of that.
    agent: Option<Rc<Mutex<()>>>,
}

impl World for Below {
    type Memory = Segment;

    fn producer(&self) -> Segment {
        let Cast { lane, policy } = self.cast;
        let slots = Segment::slots(&lane.geometry());
        let entries = (0..READERS).flat_map(|index| {
            let start = P_READERS + index * READER_BYTES;
            [0, R_JOINED_AT, R_GIVEN_UP_AT, R_REASON].map(|field| start + field)
        });
        let longs = [P_COMMITTED, P_RESUME].into_iter().chain(entries).chain(slots.iter().copied());
        // A producer that waits for nobody writes what others read: that is what words are for.
        let races = if policy.loses() { &[][..] } else { &slots[..] };
        Segment::new(longs.collect(), races, [P_BELL, P_PARKED], lane.producer)
    }
    fn consumer(&self) -> Segment {
        let longs = if self.leave { vec![C_RELEASED, C_LEFT] } else { vec![C_RELEASED] };
        Segment::new(longs, &[], [C_BELL, C_PARKED], self.cast.lane.consumer)
    }
    fn pause(&self) {
        thread::yield_now();
    }
    fn serialised<R>(&self, f: impl FnOnce() -> R) -> R {
        let agent = self.agent.as_ref();
        let _turn = agent.map(|agent| agent.lock().expect("loom's locks never poison"));
        f()
    }
    fn is_strict(&self) -> bool {
        false
    }
}

/// What the producer's thread does.
#[derive(Clone, Copy)]
enum Act {
    /// A call that waits for what it wants; a producer's does not where nobody is waited for.
    Make(Crowd),
    /// A producer's call for which there is no room.
    Refused(Operation),
}

impl Act {
    fn play(self, stage: &mut Stage<Below>, policy: Policy) {
        match self {
            Self::Make(call @ Of(_)) if policy.loses() => {
                assert!(stage.make(call, Patience::None), "{call:?}: nobody is waited for");
            }
            Self::Make(call) => assert!(stage.make(call, Patience::ForEver), "{call:?}"),
            Self::Refused(call) => assert!(!stage.make(Of(call), Patience::None), "{call:?}"),
        }
    }
}

/// How long a reader stays.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stay {
    ToTheEnd,
    /// Leaves after so many messages, with the next one in its hands.
    For(usize),
}

impl Stay {
    fn play(self, mut listener: Listener<Below>, end: u64) {
        match self {
            Self::ToTheEnd => {
                listener.receive(usize::MAX, Patience::ForEver);
                assert_eq!(listener.position(), end, "more was received than sent");
            }
            Self::For(messages) => {
                listener.receive(messages, Patience::ForEver);
                listener.leave(Patience::ForEver);
            }
        }
    }
}

/// A producer, in a thread that may have readers of its own, and readers in threads of theirs.
#[derive(Clone, Copy)]
struct Play {
    cast: Cast,
    acts: &'static [Act],
    /// So many of them are over when the readers come; otherwise those are let in before the first.
    before: usize,
    readers: &'static [Stay],
    /// Position at which the producer and who stays arrive.
    end: u64,
}

impl Play {
    fn world(&self) -> Below {
        let leave = self.readers.iter().any(|stay| *stay != Stay::ToTheEnd);
        let follow = self.acts.iter().any(|act| matches!(act, Act::Make(Of(Succeed))));
        Below { cast: self.cast, leave, agent: follow.then(|| Rc::new(Mutex::new(()))) }
    }

    fn model(self) -> impl Fn() + Send + Sync + 'static {
        move || {
            let Cast { lane, policy } = self.cast;
            let hall = Hall::new(self.world(), lane.geometry(), policy, lane.wait);
            let mut stage = Stage::new(&hall);
            let (before, acts) = self.acts.split_at(self.before);
            before.iter().for_each(|act| act.play(&mut stage, policy));
            let seat = |stay| (stay, hall.join(Start::Newest).expect("there is a place"));
            let mut listeners: Vec<_> = self.readers.iter().map(seat).collect();
            if before.is_empty() {
                stage.make(Crowd::Attend, Patience::None);
                for (_, listener) in &mut listeners {
                    listener.receive(0, Patience::None);
                }
            }
            hall.ends_at(self.end);
            let producer = move || {
                acts.iter().for_each(|act| act.play(&mut stage, policy));
                assert_eq!(stage.position(), self.end, "the script's end");
                let all_leave = self.readers.iter().all(|stay| *stay != Stay::ToTheEnd);
                assert!(!all_leave || stage.is_deserted(), "who has left is not forgotten");
            };
            let (last, listener) = listeners.pop().expect("somebody reads");
            let mut threads = vec![thread::spawn(producer)];
            for (stay, listener) in listeners {
                threads.push(thread::spawn(move || stay.play(listener, self.end)));
            }
            last.play(listener, self.end);
            threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
        }
    }
}

const MESSAGE: Operation = Operation::Send(Whole, 16);
const SEND: Act = Act::Make(Of(MESSAGE));
const FULL: Act = Act::Refused(MESSAGE);
const BATCH: Act = Act::Make(Of(Batch { count: 2, len: 9, commit: true }));
const CLOSE: Act = Act::Make(Of(Close));
const COME: Act = Act::Make(Join(0, Start::Newest));
const HEAR: Act = Act::Make(Receive(0, 1));

const PLAY: Play =
    Play { cast: GATED, acts: &[SEND, SEND, SEND], before: 0, readers: &[Stay::ToTheEnd], end: 3 };

/// Two readers in two threads: the second has the producer's.
const TWO_GATES: Play = Play { acts: &[COME, SEND, SEND, FULL, HEAR, SEND, HEAR], ..PLAY };

#[test]
fn two_readers_that_gate_receive_every_message_while_slots_are_used_again() {
    explore("two readers", (Some(3), Some(4)), TWO_GATES.model());
}

#[test]
fn two_readers_that_sleep_are_woken_and_wake_the_producer() {
    let readers = &[Stay::ToTheEnd, Stay::ToTheEnd];
    let play = Play { cast: GATED.asleep(), readers, ..PLAY };
    explore("two readers, sleeping", (Some(1), Some(2)), play.model());
}

#[test]
fn a_reader_that_comes_late_starts_exactly_where_the_producer_says() {
    let play = Play { acts: &[SEND, SEND, SEND, SEND], before: 1, end: 4, ..PLAY };
    explore("late reader", MEDIUM, play.model());
}

#[test]
fn a_reader_that_is_gone_holds_nobody_and_the_other_still_loses_nothing() {
    let acts = &[COME, SEND, Act::Make(Receive(0, 0)), SEND, FULL, Act::Make(Die(0)), SEND, SEND];
    explore("reader gone", MEDIUM, Play { acts, end: 4, ..PLAY }.model());
}

/// Who leaves holds the first message, and nobody tells the producer.
const LEAVER: Play = Play { readers: &[Stay::For(0)], ..PLAY };

#[test]
fn a_reader_that_leaves_holds_nobody_from_then_on_and_has_read_what_it_read() {
    explore("leaver", SMALL, LEAVER.model());
    let asleep = Play { cast: GATED.asleep(), ..LEAVER };
    explore("leaver, sleeping", (Some(3), Some(4)), asleep.model());
}

const CLOSING: Play = Play { acts: &[BATCH, CLOSE], ..PLAY };

#[test]
fn a_batch_and_the_end_of_a_gated_lane_come_as_a_whole_and_in_order() {
    explore("gated batch and end", SMALL, CLOSING.model());
    let asleep = Play { cast: GATED.asleep(), ..CLOSING };
    explore("gated batch and end, sleeping", (Some(2), Some(4)), asleep.model());
}

/// A producer is followed by another one, on other memory, while its reader drains the first.
const FOLLOWED: Play =
    Play { acts: &[SEND, SEND, Act::Make(Of(Succeed)), SEND, SEND], end: 4, ..PLAY };

#[test]
fn readers_come_over_to_the_next_generation_of_a_gated_lane_without_a_loss() {
    explore("gated generations", MEDIUM, FOLLOWED.model());
}

const OVERRUN: Play = Play { cast: OVERWRITE, ..PLAY };

#[test]
fn a_batch_and_the_end_of_a_lane_that_loses_are_heard_or_counted() {
    let play = Play { acts: &[BATCH, SEND, CLOSE], end: 4, ..OVERRUN };
    explore("overrun batch and end", (Some(1), Some(3)), play.model());
    let policy = Policy::Evicting { budget: 2 };
    let play = Play { cast: Cast { policy, ..OVERWRITE }, ..play };
    explore("evicted batch and end", (Some(1), Some(3)), play.model());
}

#[test]
fn a_reader_that_is_overrun_hands_out_no_torn_message_and_counts_every_lost_one() {
    explore("overrun 2 x 3", MEDIUM, OVERRUN.model());
    explore(
        "overrun 2 x 4",
        (Some(2), Some(4)),
        Play { acts: &[SEND; 4], end: 4, ..OVERRUN }.model(),
    );
    let cast = Cast { lane: Lane { slots: 4, ..SPIN }, ..OVERWRITE };
    let play = Play { cast, acts: &[SEND; 6], end: 6, ..OVERRUN };
    explore("overrun 4 x 6", (Some(1), Some(3)), play.model());
}

#[test]
fn a_reader_beyond_its_budget_is_given_up_and_still_counts_every_lost_message() {
    let cast = Cast { policy: Policy::Evicting { budget: 1 }, ..OVERWRITE };
    let play = Play { cast, acts: &[SEND; 4], end: 4, ..OVERRUN };
    explore("given up", (Some(2), Some(4)), play.model());
}

#[test]
fn a_reader_that_sleeps_in_a_lane_that_loses_is_woken() {
    let play = Play { cast: OVERWRITE.asleep(), acts: &[SEND, SEND], end: 2, ..OVERRUN };
    explore("overrun sleeper", (Some(3), Some(4)), play.model());
}

#[test]
fn every_left_out_order_of_a_lane_that_loses_is_caught() {
    for (name, fault) in [
        ("mark without fence", Fault::ReleaseFence),
        ("second look without fence", Fault::AcquireFence),
        ("commit without release", Fault::Release(Pairing::Commit)),
        ("commit without acquire", Fault::Acquire(Pairing::Commit)),
    ] {
        let cast = Cast { lane: Lane { producer: fault, ..SPIN }, ..OVERWRITE };
        assert_caught(name, Play { cast, acts: &[SEND; 4], end: 4, ..OVERRUN }.model());
    }
}

#[test]
fn every_left_out_order_of_readers_that_gate_is_caught() {
    let reader = |consumer| Cast { lane: Lane { consumer, ..SPIN }, ..GATED };
    let writer = |producer| Cast { lane: Lane { producer, ..SPIN }, ..GATED };
    let release = |pairing| reader(Fault::Release(pairing));
    let acquire = |pairing| reader(Fault::Acquire(pairing));
    for (name, cast, play) in [
        ("a cursor without release", release(Pairing::Released), TWO_GATES),
        ("a cursor without acquire", acquire(Pairing::Released), TWO_GATES),
        ("a leave without release", release(Pairing::Left), LEAVER),
        ("a leave without acquire", acquire(Pairing::Left), LEAVER),
        ("a sleeper that leaves, without its fences", reader(Fault::Fence).asleep(), LEAVER),
        ("an end without fence", writer(Fault::Fence).asleep(), CLOSING),
        ("a release before the end without fence", reader(Fault::Fence).asleep(), CLOSING),
        ("a batch without release", writer(Fault::Release(Pairing::Commit)), CLOSING),
        ("a generation without release", writer(Fault::Release(Pairing::Commit)), FOLLOWED),
    ] {
        assert_caught(name, Play { cast, ..play }.model());
    }
}
