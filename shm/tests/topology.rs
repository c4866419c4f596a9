//! Several lanes together: in turn, by time stamps, as conversations.

use std::collections::BTreeMap;
use std::time::Duration;

use laneway_shm::message::Schema;
use laneway_shm::{
    CallError, Caller, Consumer, Duplex, Envelope, FanIn, FanInError, LaneKey, Merge, PairOptions,
    Producer, RecvError, ReserveError, Responder, TypedConsumer, TypedFanIn, View, WaitMode,
    duplex_pair, pair,
};
use proptest::prelude::*;

const SOON: Duration = Duration::from_secs(10);
const NOW: Duration = Duration::ZERO;

fn options(slot_payload_bytes: u32, slot_count: u32) -> PairOptions {
    PairOptions { slot_payload_bytes, slot_count, ..PairOptions::default() }
}

fn parked() -> PairOptions {
    PairOptions { wait: WaitMode::Park, ..options(16, 64) }
}

fn send(producer: &mut Producer, number: u64) {
    producer.send(&number.to_le_bytes(), SOON).expect("room");
}

fn number(view: View<'_>) -> u64 {
    view.u64_at(0).unwrap_or(u64::MAX)
}

/// A fan-in with the producers of its lanes.
fn lanes(count: usize, options: PairOptions) -> (FanIn, Vec<(LaneKey, Producer)>) {
    let mut fan_in = FanIn::new();
    let add = |_| {
        let (producer, consumer) = pair(options).expect("lane");
        (fan_in.add(consumer), producer)
    };
    let producers = (0..count).map(add).collect();
    (fan_in, producers)
}

/// The next message's lane and number.
fn next(fan_in: &mut FanIn) -> Option<(LaneKey, u64)> {
    fan_in.poll().expect("no fault").map(|(lane, slot)| (lane, number(slot.view())))
}

// --- fan-in -------------------------------------------------------------------------------------

#[test]
fn each_lane_hands_out_its_budget_and_then_it_is_the_next_ones_turn() {
    let (mut fan_in, mut producers) = lanes(3, options(8, 64));
    for (lane, producer) in &mut producers {
        assert!(fan_in.set_budget(*lane, 2));
        (0..6).for_each(|number| send(producer, number));
    }
    let keys: Vec<LaneKey> = producers.iter().map(|(key, _)| *key).collect();
    assert!(fan_in.set_budget(keys[1], 3));
    let order: Vec<_> = std::iter::from_fn(|| next(&mut fan_in)).collect();
    let turns = [(0, 0..2), (1, 0..3), (2, 0..2), (0, 2..4), (1, 3..6), (2, 2..4), (0, 4..6)];
    let turns = turns.into_iter().chain([(2, 4..6)]);
    let expected: Vec<_> = turns
        .flat_map(|(lane, numbers)| numbers.map(|n| (keys[lane], n)).collect::<Vec<_>>())
        .collect();
    assert_eq!(order, expected);
}

#[test]
fn a_flood_in_one_lane_delays_another_by_one_budget_at_most() {
    let (mut fan_in, mut producers) = lanes(2, options(8, 1024));
    for number in 0..1000 {
        send(&mut producers[0].1, number);
    }
    for round in 0..20 {
        send(&mut producers[1].1, round);
        let quiet = producers[1].0;
        let waited =
            std::iter::from_fn(|| next(&mut fan_in)).take_while(|(lane, _)| *lane != quiet);
        assert!(waited.count() <= 16, "round {round}");
    }
}

#[test]
fn a_lane_that_is_added_waits_for_those_that_were_there_before() {
    let (mut fan_in, mut producers) = lanes(2, options(8, 16));
    for (_, producer) in &mut producers {
        (0..2).for_each(|number| send(producer, number));
    }
    let [(first, _), (second, _)] = &producers[..] else { panic!("two lanes") };
    assert!(fan_in.set_budget(*first, 1));
    assert_eq!(next(&mut fan_in), Some((*first, 0)));
    assert_eq!(next(&mut fan_in), Some((*second, 0)));
    // The one whose turn it was goes, and comes again: as the last.
    let removed = fan_in.remove(*second).expect("a lane of the group");
    let again = fan_in.add(removed);
    assert_eq!(next(&mut fan_in), Some((*first, 1)));
    assert_eq!(next(&mut fan_in).map(|(lane, _)| lane), Some(again));
}

#[test]
fn a_lane_that_ends_is_told_once_and_neither_it_nor_a_silent_one_delays_another() {
    let (mut fan_in, producers) = lanes(3, options(8, 16));
    let [(good, mut honest), (closed, closing), (_, _silent)] =
        <[_; 3]>::try_from(producers).unwrap();
    closing.close(SOON).unwrap();
    send(&mut honest, 1);
    let mut told = Vec::new();
    let mut received = Vec::new();
    for _ in 0..20 {
        match fan_in.poll() {
            Ok(Some((lane, slot))) => received.push((lane, number(slot.view()))),
            Ok(None) => {}
            Err(FanInError::Lane { lane, source }) => told.push((lane, source.to_string())),
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(received, [(good, 1)]);
    assert_eq!(told, [(closed, "stream ended at position 1".to_owned())]);
    send(&mut honest, 2);
    assert_eq!(next(&mut fan_in), Some((good, 2)));
    assert_eq!(fan_in.lanes().count(), 3);
}

#[test]
fn a_typed_lane_with_a_strange_message_fails_alone_and_can_be_taken_out() {
    let mut fan_in = TypedFanIn::<u64>::new();
    let (mut good, consumer) = pair(options(16, 16)).unwrap();
    let of_good = fan_in.add(TypedConsumer::new(consumer));
    let (mut strange, consumer) = pair(options(16, 16)).unwrap();
    let of_strange = fan_in.add(TypedConsumer::new(consumer));
    send(&mut strange, 1);
    strange.send(b"odd", NOW).unwrap();
    send(&mut strange, 2);
    (10..14).for_each(|number| send(&mut good, number));
    let mut seen = Vec::new();
    let taken = fan_in.recv_many(100, SOON, |lane, number| seen.push((lane, number))).unwrap();
    assert_eq!(taken, 5);
    let good_ones = [10, 11, 12, 13].map(|number| (of_good, number));
    assert_eq!(seen, [&good_ones[..], &[(of_strange, 1)]].concat());
    let found = fan_in.try_recv();
    let Err(FanInError::Lane { lane, source: RecvError::Length { found: 3, expected: 8 } }) = found
    else {
        panic!("{found:?}");
    };
    assert_eq!(lane, of_strange);
    assert!(fan_in.try_recv().unwrap().is_none(), "told once");
    let mut taken_out = fan_in.remove(of_strange).expect("still there").into_consumer();
    assert_eq!(taken_out.poll().unwrap().unwrap().to_vec(), b"odd");
    assert_eq!(taken_out.poll().unwrap().map(|slot| number(slot.view())), Some(2));
    send(&mut good, 14);
    assert_eq!(fan_in.recv(SOON).unwrap(), (of_good, 14));
}

#[test]
fn a_fan_in_without_a_lane_to_wait_for_says_so_instead_of_waiting() {
    let mut fan_in = FanIn::new();
    assert!(matches!(fan_in.recv(SOON), Err(FanInError::NoLanes { lanes: 0 })));
    let (_producer, consumer) = pair(options(8, 2)).unwrap();
    let lane = fan_in.add(consumer);
    let timed_out = fan_in.recv(Duration::from_millis(2)).map(drop);
    assert!(matches!(timed_out, Err(FanInError::TimedOut { lanes: 1, .. })));
    assert!(fan_in.remove(lane).is_some());
    assert!(fan_in.remove(lane).is_none());
    assert!(!fan_in.set_budget(lane, 3));
    assert!(matches!(fan_in.recv(SOON), Err(FanInError::NoLanes { lanes: 0 })));
}

#[test]
fn sleeping_lanes_wake_one_reader_whichever_of_them_rings() {
    const LANES: usize = 5;
    const ROUNDS: u64 = 40;
    let (mut fan_in, producers) = lanes(LANES, parked());
    let senders: Vec<_> = producers
        .into_iter()
        .enumerate()
        .map(|(index, (lane, mut producer))| {
            std::thread::spawn(move || {
                for round in 0..ROUNDS {
                    std::thread::sleep(Duration::from_millis(1 + (round + index as u64) % 4));
                    send(&mut producer, round);
                }
                // The lane stays: its end would be told, and is told elsewhere.
                (lane, producer)
            })
        })
        .collect();
    let mut expected: BTreeMap<LaneKey, u64> = BTreeMap::new();
    for _ in 0..ROUNDS * LANES as u64 {
        let (lane, slot) = fan_in.recv(SOON).unwrap();
        let next = expected.entry(lane).or_default();
        assert_eq!(number(slot.view()), *next);
        *next += 1;
    }
    for sender in senders {
        assert_eq!(expected[&sender.join().unwrap().0], ROUNDS);
    }
}

#[test]
fn a_reader_of_sleeping_lanes_sleeps_while_nothing_comes() {
    use rustix::time::{ClockId, clock_gettime};
    let busy = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap();
    let wait = Duration::from_millis(300);
    let (mut fan_in, _producers) = lanes(8, parked());
    let before = busy();
    assert!(matches!(fan_in.recv(wait), Err(FanInError::TimedOut { lanes: 8, .. })));
    let used = busy() - before;
    assert!(used < wait / 3, "{used:?} of {wait:?} spent awake");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    /// A merge of lanes that each are in order is in order, with ties in the order of the lanes.
    #[test]
    fn a_merge_is_a_stable_sort(
        lanes in proptest::collection::vec(proptest::collection::vec(0u64..50, 0..30), 1..6),
    ) {
        let mut merge = Merge::new(NOW, number);
        let mut expected = Vec::new();
        for mut stamps in lanes {
            stamps.sort_unstable();
            let (mut producer, consumer) = pair(options(8, 64)).unwrap();
            let lane = merge.add(consumer);
            for stamp in stamps {
                send(&mut producer, stamp);
                expected.push((stamp, lane));
            }
        }
        expected.sort();
        let mut found = Vec::new();
        while let Some(next) = merge.poll().unwrap() {
            prop_assert!(!next.late);
            prop_assert_eq!(number(next.slot.view()), next.stamp);
            found.push((next.stamp, next.lane));
        }
        prop_assert_eq!(found, expected);
        prop_assert_eq!(merge.late(), 0);
    }
}

// --- merge --------------------------------------------------------------------------------------

type Stamp = fn(View<'_>) -> u64;

fn merged(patience: Duration) -> (Merge<Stamp>, [(LaneKey, Producer); 2]) {
    let mut merge: Merge<Stamp> = Merge::new(patience, number);
    let producers = [(); 2].map(|()| {
        let (producer, consumer) = pair(options(8, 16)).expect("lane");
        (merge.add(consumer), producer)
    });
    (merge, producers)
}

#[test]
fn an_empty_lane_holds_the_merge_until_it_sends_ends_or_is_removed() {
    let (mut merge, [(_, mut first), (of_second, mut second)]) = merged(SOON);
    send(&mut first, 5);
    assert!(merge.poll().unwrap().is_none(), "the second lane's next may be earlier");
    assert!(matches!(merge.recv(Duration::from_millis(3)), Err(FanInError::TimedOut { .. })));
    send(&mut second, 4);
    assert_eq!(merge.poll().unwrap().unwrap().stamp, 4);
    assert!(merge.poll().unwrap().is_none());
    second.close(SOON).unwrap();
    let ended = merge.poll().map(|_| ());
    assert!(matches!(ended, Err(FanInError::Lane { lane, .. }) if lane == of_second));
    assert_eq!(merge.poll().unwrap().unwrap().stamp, 5);
    // And a lane that is there again, until it is taken out.
    let (_third, consumer) = pair(options(8, 16)).unwrap();
    let third = merge.add(consumer);
    send(&mut first, 6);
    assert!(merge.poll().unwrap().is_none());
    assert!(merge.remove(third).is_some());
    assert_eq!(merge.recv(SOON).unwrap().stamp, 6);
}

#[test]
fn a_lane_that_was_not_waited_for_any_longer_comes_late_and_is_marked() {
    let (mut merge, [(of_first, mut first), (of_second, mut second)]) =
        merged(Duration::from_millis(5));
    send(&mut first, 10);
    let earliest = merge.recv(SOON).unwrap();
    assert_eq!((earliest.lane, earliest.stamp, earliest.late), (of_first, 10, false));
    drop(earliest);
    send(&mut second, 3);
    send(&mut second, 11);
    send(&mut first, 12);
    let mut rest = Vec::new();
    for _ in 0..3 {
        let next = merge.recv(SOON).unwrap();
        rest.push((next.lane, next.stamp, next.late));
    }
    assert_eq!(rest, [(of_second, 3, true), (of_second, 11, false), (of_first, 12, false)]);
    assert_eq!(merge.late(), 1);
}

#[test]
fn a_removed_lane_takes_the_message_along_that_was_next() {
    let (mut merge, [(of_first, mut first), (_, mut second)]) = merged(SOON);
    send(&mut first, 1);
    send(&mut second, 2);
    assert_eq!(merge.poll().unwrap().unwrap().stamp, 1);
    send(&mut first, 3);
    assert_eq!(merge.poll().unwrap().unwrap().stamp, 2);
    assert!(merge.poll().unwrap().is_none());
    let mut removed = merge.remove(of_first).expect("there");
    assert_eq!(removed.poll().unwrap().map(|slot| number(slot.view())), Some(3));
}

// --- calls --------------------------------------------------------------------------------------

/// A caller, and its peer's two bare lanes.
fn bare(in_flight: usize) -> (Caller, Duplex) {
    let (near, far) = duplex_pair(options(40, 16)).expect("lanes");
    (Caller::new(near, in_flight), far)
}

fn envelope(id: u64, kind: u32) -> Vec<u8> {
    [&id.to_le_bytes()[..], &kind.to_le_bytes(), &[0; 4]].concat()
}

/// Id of the next request.
fn asked(far: &mut Duplex) -> u64 {
    number(far.recv(SOON).expect("request").view())
}

fn respond(far: &mut Duplex, id: u64, body: &[u8]) {
    far.send(&[&envelope(id, 2)[..], body].concat(), SOON).expect("room");
}

#[test]
fn calls_in_flight_are_answered_in_any_order_and_told_apart() {
    let (near, far) = duplex_pair(options(56, 16)).unwrap();
    let (mut caller, mut responder) = (Caller::new(near, 4), Responder::new(far));
    for round in 0..50u8 {
        let calls: Vec<_> = (0..4).map(|n| caller.start(&[round, n], SOON).unwrap()).collect();
        assert!(matches!(caller.start(b"", SOON), Err(CallError::TooMany { limit: 4, .. })));
        let mut put_off = Vec::new();
        while let Some(later) =
            responder.try_serve(|request, reply| (request.to_vec(), reply.later())).unwrap()
        {
            put_off.push(later);
        }
        for (mut body, later) in put_off.into_iter().rev() {
            body.push(99);
            responder.answer(later, &body).unwrap();
        }
        for n in [2, 0] {
            let call = calls[usize::from(n)];
            assert_eq!(caller.wait(call).unwrap(), [round, n, 99]);
            assert!(matches!(caller.wait(call), Err(CallError::NotInFlight)));
        }
        // The others, in the order of their answers.
        for n in [3, 1] {
            let (call, response) = caller.poll().unwrap().expect("an answer");
            assert_eq!((call, response.unwrap()), (calls[usize::from(n)], vec![round, n, 99]));
        }
        assert!(caller.poll().unwrap().is_none());
        assert_eq!(caller.in_flight(), 0);
    }
    assert_eq!(responder.counts().answered, 200);
    assert_eq!(caller.counts(), <_>::default());
}

#[test]
fn a_call_expires_at_its_deadline_and_its_late_response_is_dropped_and_counted() {
    let (mut caller, mut far) = bare(2);
    let expired = caller.call(b"slow", Duration::from_millis(5));
    assert!(matches!(expired, Err(CallError::Expired { .. })));
    assert_eq!(caller.in_flight(), 0);
    let slow = asked(&mut far);
    respond(&mut far, slow, b"too late");
    let quick = caller.start(b"quick", SOON).unwrap();
    let id = asked(&mut far);
    assert_ne!(id, slow);
    respond(&mut far, id, b"in time");
    assert_eq!(caller.wait(quick).unwrap(), b"in time");
    assert_eq!(caller.counts().late, 1);
    let unheard = caller.start(b"", Duration::from_millis(1)).unwrap();
    let (call, result) = loop {
        if let Some(found) = caller.poll().unwrap() {
            break found;
        }
    };
    assert_eq!(call, unheard);
    assert!(matches!(result, Err(CallError::Expired { .. })));
    let forgotten = caller.start(b"", SOON).unwrap();
    caller.abandon(forgotten);
    assert!(matches!(caller.wait(forgotten), Err(CallError::NotInFlight)));
    assert_eq!(caller.in_flight(), 0);
}

#[test]
fn ids_that_a_hostile_responder_repeats_or_makes_up_are_counted_and_ignored() {
    let (mut caller, mut far) = bare(2);
    let call = caller.start(b"one", SOON).unwrap();
    let id = asked(&mut far);
    for unknown in [0, 1, id + 1, id + 2, u64::MAX] {
        respond(&mut far, unknown, b"made up");
    }
    for malformed in [&b""[..], b"short", &envelope(id, 1), &envelope(id, 9), &[0xff; 16]] {
        far.send(malformed, SOON).unwrap();
    }
    respond(&mut far, id, b"true");
    respond(&mut far, id, b"once more");
    assert_eq!(caller.wait(call).unwrap(), b"true");
    assert!(caller.poll().unwrap().is_none());
    respond(&mut far, id, b"and once more");
    assert!(caller.poll().unwrap().is_none());
    let counts = caller.counts();
    assert_eq!((counts.unknown, counts.malformed), (5, 5));
    assert_eq!((counts.repeated, counts.late), (2, 0));
    // The place is used again: its id of before is a late one now.
    let again = caller.start(b"two", SOON).unwrap();
    let other = caller.start(b"three", SOON).unwrap();
    respond(&mut far, id, b"of the first");
    assert!(caller.poll().unwrap().is_none());
    assert_eq!(caller.counts().late, 1);
    caller.abandon(again);
    caller.abandon(other);
}

#[test]
fn a_responder_that_floods_the_lane_cannot_keep_a_call_beyond_its_deadline() {
    let (mut caller, mut far) = bare(1);
    let flood = std::thread::spawn(move || {
        let noise = envelope(12345, 2);
        while far.send(&noise, Duration::from_millis(200)).is_ok() {}
    });
    let result = caller.call(b"?", Duration::from_millis(30));
    assert!(matches!(result, Err(CallError::Expired { .. })));
    assert!(caller.counts().unknown > 0);
    flood.join().unwrap();
}

#[test]
fn a_response_longer_than_accepted_fails_its_call_and_is_not_kept() {
    let (caller, mut far) = bare(2);
    let mut caller = caller.response_max(10);
    let call = caller.start(b"", SOON).unwrap();
    let id = asked(&mut far);
    respond(&mut far, id, &[7; 11]);
    let result = caller.wait(call);
    assert!(matches!(result, Err(CallError::TooLong { found: 11, limit: 10 })));
    assert_eq!(caller.in_flight(), 0);
}

#[test]
fn a_request_that_nobody_answers_or_that_is_declined_fails_at_once() {
    let (near, far) = duplex_pair(options(56, 16)).unwrap();
    let (mut caller, mut responder) = (Caller::new(near, 4), Responder::new(far));
    let calls = [(); 3].map(|()| caller.start(b"?", SOON).unwrap());
    responder.serve(SOON, |_, reply| drop(reply)).unwrap();
    responder.serve(SOON, |_, reply| reply.decline()).unwrap().unwrap();
    let later = responder.serve(SOON, |_, reply| reply.later()).unwrap();
    responder.decline(later).unwrap();
    for call in calls {
        assert!(matches!(caller.wait(call), Err(CallError::Declined)));
    }
    assert_eq!(responder.counts().declined, 3);
    assert!(responder.try_serve(|_, _| ()).unwrap().is_none());
}

#[test]
fn a_responder_ignores_what_is_no_request_and_is_not_held_up_by_a_caller_that_does_not_read() {
    let (mut near, far) = duplex_pair(options(16, 4)).unwrap();
    let mut responder = Responder::new(far).reply_within(Duration::from_millis(2));
    near.send(b"nonsense", SOON).unwrap();
    near.send(&envelope(5, 2), SOON).unwrap();
    assert!(responder.try_serve(|_, _| panic!("no request")).unwrap().is_none());
    assert_eq!(responder.counts().malformed, 2);
    near.send(b"more of it", SOON).unwrap();
    let served = responder.serve(NOW, |_, _| panic!("no request"));
    assert!(matches!(served, Err(RecvError::TimedOut { .. })));
    for round in 0..6 {
        // The same id again and again: each is answered, as long as there is room.
        near.send(&envelope(5, 1), SOON).unwrap();
        let sent = responder.serve(SOON, |_, reply| reply.send(b"")).unwrap();
        let expected = matches!((round, &sent), (0..4, Ok(())))
            || matches!((round, &sent), (4.., Err(ReserveError::TimedOut { .. })));
        assert!(expected, "round {round}: {sent:?}");
    }
    assert_eq!((responder.counts().answered, responder.counts().unsent), (4, 2));
}

#[test]
fn callers_and_responders_that_fill_both_lanes_do_not_block_each_other() {
    const CALLS: u64 = 2000;
    for wait in [WaitMode::Spin, WaitMode::Park] {
        let (near, far) = duplex_pair(PairOptions { wait, ..options(24, 4) }).unwrap();
        let server = std::thread::spawn(move || {
            let mut responder = Responder::new(far);
            for _ in 0..CALLS {
                let answer = |request: View<'_>, reply: laneway_shm::Reply<'_>| {
                    reply.send(&(number(request) * 3).to_le_bytes())
                };
                responder.serve(SOON, answer).unwrap().unwrap();
            }
        });
        // Many more in flight than either lane has slots.
        let mut caller = Caller::new(near, 64);
        let (mut started, mut sum) = (0, 0);
        let mut fetched = 0;
        while fetched < CALLS {
            if started < CALLS && caller.in_flight() < 64 {
                caller.start(&started.to_le_bytes(), SOON).unwrap();
                started += 1;
                continue;
            }
            if let Some((_, response)) = caller.poll().unwrap() {
                sum += u64::from_le_bytes(response.unwrap().try_into().unwrap());
                fetched += 1;
            }
        }
        assert_eq!(sum, (0..CALLS).sum::<u64>() * 3);
        server.join().unwrap();
    }
}

#[test]
fn the_envelope_is_as_published() {
    assert_eq!(size_of::<Envelope>(), 16);
    assert_eq!(Envelope::SCHEMA, 0x9959_7571_0f27_7d00);
}

/// An end can be handed to another thread, alone or in a group.
#[test]
fn groups_of_ends_can_move_between_threads() {
    fn is_send<T: Send>() {}
    is_send::<(FanIn, Merge<Stamp>, Caller, Responder, Duplex, Consumer)>();
}
