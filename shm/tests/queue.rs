//! A lane behaves like a queue, whatever is called on it and in whatever order: in one thread, on
//! the handles that applications have and on the ring itself.

use laneway_shm::geometry::Geometry;
use laneway_shm::ring::Policy;
use laneway_shm::{PairOptions, Profile, WaitMode};
use proptest::prelude::*;

mod oracle;

use oracle::by_stamp::ByStamp;
use oracle::crowd::{self, OF_CROWDS, READERS};
use oracle::ends::Ends;
use oracle::fan_in::Handles;
use oracle::group::{self, LANES, Wrong};
use oracle::heap::InOneThread;
use oracle::in_turn::InTurn;
use oracle::mutant::{self, Mutant};
use oracle::operation::{Crowd, Group, Operation, Take};
use oracle::queue::Next;
use oracle::ring::{self, Patience, World};

/// Payload of a slot, in bytes, and slots: arrays fit into one slot of some and into two of others.
const SHAPES: [(u32, u32); 6] = [(1, 2), (10, 4), (8, 2), (7, 8), (56, 4), (16, 64)];

fn calls() -> impl Strategy<Value = Vec<(u8, u8)>> {
    proptest::collection::vec(any::<(u8, u8)>(), 1..150)
}

/// Makes calls on the ring, and takes what is left.
fn run<W: World>(world: W, geometry: Geometry, calls: impl Iterator<Item = Operation>) {
    let (mut sender, mut receiver) = ring::open(world, geometry, WaitMode::Spin);
    for call in calls {
        if call.is_sending() {
            sender.make(call, Patience::None);
        } else {
            receiver.make(call, Patience::None);
        }
    }
    let poll = Operation::Receive(Take::Poll);
    while receiver.make(poll, Patience::None) != Next::Nothing {}
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// Every public call, with what each may answer.
    #[test]
    fn a_lane_behaves_like_a_queue(
        calls in calls(),
        shape in 0..SHAPES.len(),
        parks: bool,
        streams: bool,
    ) {
        let (slot_payload_bytes, slot_count) = SHAPES[shape];
        let wait = if parks { WaitMode::Park } else { WaitMode::Spin };
        let profile = if streams { Profile::Throughput } else { Profile::Latency };
        let page_bytes = 4096;
        let lane = PairOptions { slot_payload_bytes, slot_count, ..PairOptions::default() };
        let options = PairOptions { page_bytes, wait, profile, ..lane };
        let max = (slot_payload_bytes * slot_count) as usize;
        let calls = calls.into_iter().map(|(choice, size)| Operation::decode(choice, size, max));
        Ends::new(options).make_all(calls);
    }

    /// Whatever comes and goes in a fan-in: every message comes out once, in its lane's order and
    /// turn, and a poll that finds nothing means that there is nothing.
    #[test]
    fn a_fan_in_behaves_like_a_queue_for_each_lane(
        calls in group_calls(),
        shape in 0..SHAPES.len(),
        parks: bool,
    ) {
        let (slot_payload_bytes, slot_count) = SHAPES[shape];
        let wait = if parks { WaitMode::Park } else { WaitMode::Spin };
        let lane = PairOptions { slot_payload_bytes, slot_count, ..PairOptions::default() };
        let max = (slot_payload_bytes * slot_count) as usize;
        let calls = calls.into_iter().map(|(a, b, c)| Group::decode(a, b, c, LANES, max));
        Handles::new(PairOptions { page_bytes: 4096, wait, ..lane }).make_all(calls);
    }

    /// As above below the handles, over new generations and new consumers.
    #[test]
    fn a_ring_behaves_like_a_queue_over_generations_and_incarnations(
        calls in calls(),
        shape in 0..SHAPES.len(),
        streams: bool,
    ) {
        let (payload, count) = SHAPES[shape];
        let profile = if streams { Profile::Throughput } else { Profile::Latency };
        let geometry = Geometry::for_profile(payload, count, profile).unwrap();
        let max = geometry.message_max();
        let calls = calls.into_iter().map(|(choice, size)| Operation::decode(choice, size, max));
        run(InOneThread(geometry), geometry, calls);
    }

    /// Whatever is sent in which lane, taken out and put back, and however much each may hand out.
    #[test]
    fn lanes_in_one_hand_are_served_in_turn_or_by_their_stamps(
        calls in group_calls(),
        shape in 0..SHAPES.len(),
        by_stamp: bool,
    ) {
        let (payload, count) = SHAPES[shape];
        run_group(Geometry::try_new(payload, count).unwrap(), calls, by_stamp, Wrong::Nothing);
    }

    /// Readers that come and go in a broadcast lane of each policy, over new generations.
    #[test]
    fn a_broadcast_lane_behaves_like_what_was_sent_with_a_cursor_for_each_reader(
        calls in group_calls(),
        shape in 0..SHAPES.len(),
        policy in policies(),
    ) {
        let (payload, count) = SHAPES[shape];
        let geometry = Geometry::try_new(payload, count).unwrap();
        run_crowd(InOneThread(geometry), geometry, policy, calls);
    }
}

/// A budget may be more than a lane has, or none.
fn policies() -> impl Strategy<Value = Policy> {
    prop_oneof![
        Just(Policy::Gated),
        (0..20u64).prop_map(|budget| Policy::Evicting { budget }),
        Just(Policy::Overwrite),
    ]
}

fn run_crowd<W: World>(
    world: W,
    geometry: Geometry,
    policy: Policy,
    calls: impl IntoIterator<Item = (u8, u8, u8)>,
) {
    let max = geometry.message_max();
    let calls = calls.into_iter().map(|(a, b, c)| Crowd::decode(a, b, c, READERS, max));
    crowd::run(world, geometry, policy, calls);
}

fn group_calls() -> impl Strategy<Value = Vec<(u8, u8, u8)>> {
    proptest::collection::vec(any::<(u8, u8, u8)>(), 1..200)
}

fn run_group(geometry: Geometry, calls: Vec<(u8, u8, u8)>, by_stamp: bool, wrong: Wrong) {
    let (world, max) = (InOneThread(geometry), geometry.message_max());
    let calls = calls.into_iter().map(|(a, b, c)| Group::decode(a, b, c, LANES, max));
    match by_stamp {
        false => group::run(&world, geometry, &mut InTurn::new(wrong), calls),
        true => group::run(&world, geometry, &mut ByStamp::new(wrong), calls),
    }
}

#[test]
fn every_planted_mistake_in_the_order_of_several_lanes_is_noticed() {
    let geometry = Geometry::try_new(8, 16).unwrap();
    let of_turns = group::OF_TURNS.map(|wrong| (wrong, false));
    for (wrong, by_stamp) in of_turns.into_iter().chain(group::OF_ORDER.map(|wrong| (wrong, true)))
    {
        mutant::assert_noticed(wrong, || {
            let mut runner = proptest::test_runner::TestRunner::deterministic();
            let result = runner.run(&group_calls(), |calls| {
                run_group(geometry, calls, by_stamp, wrong);
                Ok(())
            });
            result.unwrap();
        });
    }
}

#[test]
fn every_planted_mistake_is_noticed() {
    let geometry = Geometry::try_new(10, 4).unwrap();
    for mistake in mutant::OF_THE_DATA {
        mutant::assert_noticed(mistake, || {
            let mut runner = proptest::test_runner::TestRunner::deterministic();
            let result = runner.run(&calls(), |calls| {
                let max = geometry.message_max();
                let calls = calls.into_iter().map(|(a, b)| Operation::decode(a, b, max));
                run(Mutant::new(InOneThread(geometry), mistake), geometry, calls);
                Ok(())
            });
            result.unwrap();
        });
    }
}

#[test]
fn every_planted_mistake_of_a_broadcast_lane_is_noticed_by_calls_in_one_thread() {
    let geometry = Geometry::try_new(8, 8).unwrap();
    for (mistake, policy) in OF_CROWDS {
        mutant::assert_noticed((mistake, policy), || {
            let mut runner = proptest::test_runner::TestRunner::deterministic();
            let result = runner.run(&group_calls(), |calls| {
                run_crowd(Mutant::new(InOneThread(geometry), mistake), geometry, policy, calls);
                Ok(())
            });
            result.unwrap();
        });
    }
}
