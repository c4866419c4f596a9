//! A lane behaves like a queue, whatever is called on it and in whatever order: in one thread, on
//! the handles that applications have and on the ring itself.

use laneway_shm::geometry::Geometry;
use laneway_shm::{PairOptions, Profile, WaitMode};
use proptest::prelude::*;

mod oracle;

use oracle::ends::Ends;
use oracle::heap::InOneThread;
use oracle::mutant::{self, Mutant};
use oracle::operation::{Operation, Take};
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
