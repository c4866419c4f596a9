//! The oracle's calls under every interleaving: short scripts for both ends, judged call by call.
//!
//! Loom shows stale values, so that what has returned in one thread may not be seen in the other
//! yet; the oracle then allows an end to find nothing, and still no wrong, torn or early message.

use super::oracle::mutant::{self, Mistake, Mutant};
use super::oracle::operation::Form::Whole;
use super::oracle::operation::Operation::{
    self, Abort, Batch, Close, Receive, Restart, Send, Succeed,
};
use super::oracle::operation::Take::{Keep, Poll};
use super::oracle::operation::TakeMany;
use super::oracle::ring::{self, Ground, Patience, World};
use super::*;

impl Ground for Segment {
    fn nudge(&self) {
        self.0.kernel.wake(true);
    }
}

/// A lane of the oracle's on loom's memory.
#[derive(Clone)]
pub(super) struct Modelled {
    pub(super) lane: Lane,
    agent: Rc<Mutex<()>>,
    /// Where its producer's segment sleeps, if several lanes are slept over at once.
    kernel: Option<Rc<Kernel>>,
}

impl Modelled {
    pub(super) fn new(lane: Lane, kernel: Option<Rc<Kernel>>) -> Self {
        Self { lane, agent: Rc::new(Mutex::new(())), kernel }
    }
}

impl World for Modelled {
    type Memory = Segment;

    fn producer(&self) -> Segment {
        let segment = Segment::producer(&self.lane.geometry(), self.lane.producer);
        self.kernel.iter().fold(segment, Segment::below)
    }
    fn consumer(&self) -> Segment {
        Segment::consumer(self.lane.consumer)
    }
    fn pause(&self) {
        thread::yield_now();
    }
    fn serialised<R>(&self, f: impl FnOnce() -> R) -> R {
        let _turn = self.agent.lock().expect("loom's locks never poison");
        f()
    }
    fn is_strict(&self) -> bool {
        false
    }
}

/// What both ends call. Both wait for what they want; when its calls are made, the consumer takes
/// whatever is left.
#[derive(Clone, Copy)]
struct Script {
    lane: Lane,
    producer: &'static [Operation],
    consumer: &'static [Operation],
    /// Position at which both have to arrive.
    end: u64,
}

const TAKE: Operation = Receive(Poll);

const fn batch(count: usize, len: usize) -> Operation {
    Batch { count, len, commit: true }
}

impl Script {
    fn model(self) -> impl Fn() + std::marker::Send + Sync + 'static {
        self.model_in(|modelled| modelled)
    }

    fn model_in<W: World + 'static>(
        self,
        change: impl Fn(Modelled) -> W + std::marker::Send + Sync + 'static,
    ) -> impl Fn() + std::marker::Send + Sync + 'static {
        move || {
            let Self { lane, producer, consumer, end } = self;
            let world = change(Modelled::new(lane, None));
            let (mut sender, mut receiver) = ring::open(world, lane.geometry(), lane.wait);
            let sending = thread::spawn(move || {
                for &call in producer {
                    assert!(sender.make(call, Patience::ForEver), "{call:?} found no room");
                }
                assert_eq!(sender.position(), end, "the script's end");
            });
            for &call in consumer {
                receiver.make(call, Patience::ForEver);
            }
            while receiver.position() < end {
                receiver.make(TAKE, Patience::ForEver);
            }
            sending.join().expect("no panic");
            assert_eq!(receiver.position(), end, "more was received than sent");
        }
    }
}

const BATCH: Script = Script {
    lane: SPIN,
    producer: &[Send(Whole, 16), batch(2, 8)],
    consumer: &[TAKE, Receive(Keep), Operation::ReceiveMany(TakeMany::Poll, 2)],
    end: 3,
};

#[test]
fn a_batch_appears_at_once() {
    explore("batch", MEDIUM, BATCH.model());
    let lane = Lane { slots: 4, ..SPIN };
    let producer = const { &[batch(4, 8), Send(Whole, 16), Send(Whole, 8)] };
    let consumer = &[Receive(Keep), Operation::ReceiveMany(TakeMany::Poll, 4)];
    explore("batch of a ring", LARGE, Script { lane, producer, consumer, end: 6 }.model());
}

const ABORT: Script = Script {
    lane: SPIN,
    producer: &[
        Abort(16),
        Send(Whole, 16),
        // The second of the batch leaves a commit word behind the hole: the abort clears it.
        Batch { count: 2, len: 8, commit: false },
        Send(Whole, 8),
        Send(Whole, 16),
    ],
    consumer: &[],
    end: 3,
};

#[test]
fn a_dropped_reservation_and_an_aborted_batch_are_never_seen() {
    explore("abort", (Some(2), Some(4)), ABORT.model());
}

#[test]
fn the_end_of_the_stream_comes_last_and_wakes_a_sleeper() {
    let script = |lane| Script { lane, producer: &[Send(Whole, 8), Close], consumer: &[], end: 2 };
    explore("end, spinning", SMALL, script(SPIN).model());
    explore("end, sleeping", (Some(3), Some(6)), script(PARK).model());
    let nothing_else = Script { producer: &[Close], end: 1, ..script(PARK) };
    explore("end of nothing, sleeping", SMALL, nothing_else.model());
}

#[test]
fn a_message_over_several_slots_is_seen_whole_or_not_at_all() {
    let lane = Lane { payload: 8, slots: 4, ..SPIN };
    let producer = &[Send(Whole, 24), Send(Whole, 24)];
    explore("long message", MEDIUM, Script { lane, producer, consumer: &[], end: 6 }.model());
}

/// The successor finds no room before the consumer has come to its memory.
const GENERATIONS: Script = Script {
    lane: SPIN,
    producer: &[Send(Whole, 8), Send(Whole, 8), Succeed, Send(Whole, 8)],
    consumer: &[],
    end: 3,
};

#[test]
fn a_new_generation_is_read_after_the_old_one_is_drained() {
    explore("generations", (Some(3), Some(5)), GENERATIONS.model());
    let producer = &[Send(Whole, 8), Close, Succeed, Send(Whole, 8)];
    explore("after the end", (Some(3), Some(5)), Script { producer, ..GENERATIONS }.model());
}

#[test]
fn a_successor_that_sleeps_for_room_that_was_shown_before_is_woken() {
    let script = Script { lane: PARK, ..GENERATIONS };
    explore("generations, sleeping", (Some(2), Some(3)), script.model());
}

#[test]
fn a_new_consumer_starts_where_the_last_ones_cursor_stands() {
    let script = Script { consumer: &[TAKE, Restart], ..STREAM };
    explore("incarnations", (Some(2), Some(4)), script.model());
    let script = Script { lane: PARK, ..script };
    explore("incarnations, sleeping", (Some(1), Some(2)), script.model());
}

/// More messages than slots.
const STREAM: Script = Script {
    lane: SPIN,
    producer: &[Send(Whole, 8), Send(Whole, 8), Send(Whole, 8)],
    consumer: &[],
    end: 3,
};

#[test]
fn every_planted_mistake_is_caught() {
    let asleep = Script { lane: PARK, ..STREAM };
    let script = |mistake| match mistake {
        Mistake::LostWords => BATCH,
        Mistake::GhostWords => ABORT,
        Mistake::LateBytes | Mistake::OneSlotMore | Mistake::OneByteMore => STREAM,
        Mistake::SilentProducer
        | Mistake::SilentConsumer
        | Mistake::SecretSleep
        | Mistake::SecretWait => asleep,
        Mistake::NoMarks
        | Mistake::SecretLeave
        | Mistake::AllHaveLeft
        | Mistake::LateStart
        | Mistake::SecretLoss
        | Mistake::SecretVerdict => panic!("of lanes with many readers"),
    };
    let late = [Mistake::LateBytes];
    for mistake in mutant::OF_THE_DATA.into_iter().chain(mutant::OF_THE_SLEEP).chain(late) {
        let model = script(mistake).model_in(move |modelled| Mutant::new(modelled, mistake));
        assert_caught(&format!("{mistake:?}"), model);
    }
}
