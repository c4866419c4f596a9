//! One reader of several lanes, under every interleaving: in turn or by stamps, and its one sleep
//! over all of them.
//!
//! The oracle plays here without its certainties, because loom shows stale values; that nothing is
//! passed over is judged where a lane was filled before its reader began.

use super::oracle::by_stamp::ByStamp;
use super::oracle::group::{Ear, Reads, Wrong};
use super::oracle::in_turn::InTurn;
use super::oracle::operation::Form::Whole;
use super::oracle::operation::Group as Call;
use super::oracle::operation::Operation::{self, Close, Send, Succeed};
use super::oracle::ring::{self, Patience};
use super::scripts::Modelled;
use super::*;

/// Sleeps on many bells of one kernel, as `futex_waitv` does.
fn wait_any(kernel: &Kernel, bells: &[(&Segment, u32)], limit: Duration) -> bool {
    if limit < FOR_EVER {
        thread::yield_now();
        return false;
    }
    let as_expected =
        |(peer, rung): &(&Segment, u32)| peer.short(P_BELL).load(Ordering::Acquire) == *rung;
    kernel.wait(|| bells.iter().all(as_expected));
    true
}

/// What the producers of two lanes call, and what their reader calls before it takes whatever
/// comes.
#[derive(Clone, Copy)]
struct Group {
    lanes: [Lane; 2],
    /// One thread for both, which calls the second lane's producer first.
    together: bool,
    /// Sent before anybody else runs.
    before: [&'static [Operation]; 2],
    producers: [&'static [Operation]; 2],
    reader: &'static [Call],
    /// Positions at which both ends of each lane arrive.
    ends: [u64; 2],
    /// Lanes whose producer dies at the end.
    dies: [bool; 2],
}

const ONE: &[Operation] = &[Send(Whole, 8)];
const PLAIN: Group = Group {
    lanes: [PARK, PARK],
    together: false,
    before: [&[], &[]],
    producers: [ONE, ONE],
    reader: &[],
    ends: [1, 1],
    dies: [false, false],
};

impl Group {
    fn model<R: Reads<Modelled> + 'static>(
        self,
        reads: impl Fn() -> R + std::marker::Send + Sync + 'static,
    ) -> impl Fn() + std::marker::Send + Sync + 'static {
        move || {
            let kernel = Kernel::new();
            let (mut reads, mut speakers) = (reads(), Vec::new());
            for (number, lane) in self.lanes.into_iter().enumerate() {
                let world = Modelled::new(lane, Some(Rc::clone(&kernel)));
                let geometry = lane.geometry();
                let (mut sender, receiver) =
                    ring::open_numbered(number, world, geometry, lane.wait);
                for &call in self.before[number] {
                    assert!(sender.make(call, Patience::None), "{call:?} found no room");
                }
                let mut ear = Ear::new(number, receiver);
                ear.sure = sender.position();
                speakers.push(self.speaker(number, sender, &ear));
                reads.add(ear);
            }
            let threads = self.spawn(speakers);
            self.listen(&mut reads, &kernel);
            threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
        }
    }

    /// What a lane's producer does.
    fn speaker(
        self,
        number: usize,
        mut sender: ring::Sender<Modelled>,
        ear: &Ear<Modelled>,
    ) -> impl FnOnce() + use<> {
        let gone = Arc::clone(&ear.gone);
        move || {
            for &call in self.producers[number] {
                assert!(sender.make(call, Patience::ForEver), "{call:?} found no room");
            }
            assert_eq!(sender.position(), self.ends[number], "the script's end");
            if self.dies[number] {
                gone.store(true, Plain::SeqCst);
                sender.die();
            }
        }
    }

    fn spawn(self, speakers: Vec<impl FnOnce() + 'static>) -> Vec<thread::JoinHandle<()>> {
        if self.together {
            let both = move || speakers.into_iter().rev().for_each(|speaker| speaker());
            return vec![thread::spawn(both)];
        }
        speakers.into_iter().map(thread::spawn).collect()
    }

    fn listen(self, reads: &mut impl Reads<Modelled>, kernel: &Kernel) {
        for &call in self.reader {
            reads.make(call);
        }
        reads.all_in();
        while !reads.is_done(|number| Some(self.ends[number])) {
            if reads.make(Call::Poll) > 0 {
                continue;
            }
            if self.lanes[0].wait == WaitMode::Park {
                reads.sleep(|bells, limit| wait_any(kernel, bells, limit));
            } else {
                thread::yield_now();
            }
            // Whoever is held back is so for this long; nothing else goes by this clock.
            reads.make(Call::Elapse(4));
        }
    }
}

fn in_turn() -> InTurn<Modelled> {
    InTurn::new(Wrong::Nothing)
}

fn by_stamp() -> ByStamp<Modelled> {
    ByStamp::new(Wrong::Nothing)
}

const TOGETHER: Group = Group { together: true, ..PLAIN };

#[test]
fn a_message_in_any_of_several_lanes_ends_the_one_sleep_over_all() {
    explore("two lanes, one sender", (Some(3), Some(4)), TOGETHER.model(in_turn));
    explore("two lanes, two senders", (Some(2), Some(3)), PLAIN.model(in_turn));
}

#[test]
fn several_messages_within_a_budget_come_in_turn_while_others_are_sent() {
    let group = Group {
        lanes: [SPIN, SPIN],
        before: [&[Send(Whole, 8), Send(Whole, 8)], ONE],
        producers: [ONE, ONE],
        reader: &[Call::Budget(0, 1), Call::Budget(1, 2), Call::Many(3)],
        ends: [3, 2],
        ..PLAIN
    };
    explore("budgets", (Some(2), Some(3)), group.model(in_turn));
}

#[test]
fn the_end_of_one_lane_and_its_successor_come_while_another_sends() {
    let producers: [&'static [Operation]; 2] = const { [&[Close, Succeed, Send(Whole, 8)], ONE] };
    let group = Group { producers, ends: [2, 1], ..PLAIN };
    explore("end and successor beside another", (Some(1), Some(2)), group.model(in_turn));
    let spinning = Group { lanes: [SPIN, SPIN], together: true, ..group };
    explore("end and successor, one sender", (Some(3), Some(4)), spinning.model(in_turn));
}

#[test]
fn a_producer_that_dies_and_the_one_that_follows_hold_no_other_lane() {
    let producers: [&'static [Operation]; 2] = const { [&[Send(Whole, 8), Succeed], ONE] };
    let group = Group { producers, dies: [true, false], ..PLAIN };
    explore("a death beside another lane", (Some(1), Some(2)), group.model(in_turn));
    let merge = Group { lanes: [SPIN, SPIN], together: true, ..group };
    explore("a death in a merge", (Some(3), Some(4)), merge.model(by_stamp));
}

#[test]
fn a_lane_that_is_taken_out_and_put_back_loses_nothing_and_stops_nobody() {
    let reader = &[Call::Poll, Call::OutOrIn(0), Call::Poll, Call::OutOrIn(0), Call::OutOrIn(1)];
    let group = Group { before: [ONE, ONE], ends: [2, 2], reader, ..PLAIN };
    let spinning = Group { lanes: [SPIN, SPIN], ..group };
    explore("out and in", (Some(2), Some(3)), spinning.model(in_turn));
    explore("out and in of a merge", (Some(2), Some(3)), spinning.model(by_stamp));
    let asleep = Group { together: true, ..group };
    explore("out and in, sleeping", (Some(2), Some(3)), asleep.model(in_turn));
}

#[test]
fn a_new_consumer_that_is_noticed_behind_the_last_message_sleeps_over_none() {
    // The producer looks for a sleeper, hears of the new consumer, and waits for room.
    let producers: [&'static [Operation]; 2] = const { [&[Send(Whole, 16), Send(Whole, 8)], &[]] };
    let reader = &[Call::OutOrIn(0), Call::OutOrIn(0)];
    let group = Group { producers, reader, ends: [3, 0], ..TOGETHER };
    explore("noticed late", (Some(3), Some(3)), group.model(in_turn));
}

#[test]
fn a_merge_waits_for_a_lane_that_stalls_and_not_for_ever() {
    // The second lane is behind: what comes there is late once the patience has gone by.
    let group = Group {
        lanes: [SPIN, SPIN],
        before: [&[Send(Whole, 8), Send(Whole, 8)], &[]],
        producers: [&[], &[Send(Whole, 8), Send(Whole, 8)]],
        reader: &[Call::Poll, Call::Elapse(3), Call::Poll],
        ends: [2, 2],
        ..PLAIN
    };
    explore("a stalled lane of a merge", (Some(3), None), group.model(by_stamp));
    let asleep = Group { lanes: [PARK, PARK], ..PLAIN };
    explore("a merge that sleeps", (Some(2), Some(3)), asleep.model(by_stamp));
}

#[test]
fn every_left_out_order_of_the_sleep_over_several_lanes_is_caught() {
    let writer = Lane { producer: Fault::Fence, ..PARK };
    let reader = Lane { consumer: Fault::Fence, ..PARK };
    // The last to be sent to: no other ring makes up for it.
    let last = Group { lanes: [writer, PARK], ..TOGETHER };
    assert_caught("writer of one without fence", last.model(in_turn));
    // One fence stands for all: the first lane's.
    let first = Group { lanes: [reader, PARK], ..TOGETHER };
    assert_caught("one fence for all left out", first.model(in_turn));
    let deaf = || InTurn::new(Wrong::Deaf);
    assert_caught("a bell that nobody listens to", TOGETHER.model(deaf));
}

#[test]
fn every_planted_mistake_in_the_order_of_lanes_that_are_full_is_caught() {
    let group = Group {
        lanes: [SPIN, SPIN],
        before: [&[Send(Whole, 8), Send(Whole, 8)], ONE],
        producers: [ONE, ONE],
        reader: &[Call::Budget(0, 1), Call::Poll, Call::Poll, Call::Poll],
        ends: [3, 2],
        ..PLAIN
    };
    for wrong in [Wrong::NoBudget, Wrong::NeverUsed, Wrong::FirstComes] {
        assert_caught(&format!("{wrong:?}"), group.model(move || InTurn::new(wrong)));
    }
    let reader = &[Call::Poll, Call::OutOrIn(0), Call::Poll];
    let group = Group { reader, ..group };
    assert_caught("StaysIn, in turn", group.model(|| InTurn::new(Wrong::StaysIn)));
    for wrong in [Wrong::StaysIn, Wrong::NoPatience, Wrong::Backwards] {
        assert_caught(&format!("{wrong:?}"), group.model(move || ByStamp::new(wrong)));
    }
}
