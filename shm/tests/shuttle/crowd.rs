//! Broadcast lanes under random schedules: readers come, read for a while, leave or die, and come
//! again, while the producer makes random calls, ends, dies and is followed. Nobody but they tells
//! the producer that they left.

use std::sync::atomic::AtomicUsize;

use laneway_shm::ring::{Policy, Start};

use super::oracle::crowd::{Hall, OF_CROWDS, Speaker};
use super::*;

/// Readers at a time; each comes back once.
const READERS: usize = 2;
const ROUNDS: usize = 2;
/// Messages that a reader takes before it leaves, at most.
const STAY_MAX: usize = 40;
/// Positions that the producer fills: enough to overrun a reader several times.
const CROWD_POSITIONS: u64 = 40;

fn speak<W: World>(mut speaker: Speaker<W>, left: &AtomicUsize) {
    while speaker.position() < CROWD_POSITIONS {
        speaker.make(any_call(0..16), Patience::ForEver);
    }
    speaker.conclude();
    while left.load(Ordering::SeqCst) < READERS {
        speaker.attend(0);
        thread::yield_now();
    }
}

fn listen<W: World>(hall: &Hall<W>, left: &AtomicUsize) {
    for _ in 0..ROUNDS {
        let mut dice = shuttle::rand::thread_rng();
        let start = if dice.r#gen() { Start::Newest } else { Start::Oldest };
        let (most, leaves) = (dice.gen_range(0..STAY_MAX), dice.r#gen());
        let mut listener = hall.join(start).expect("few come");
        listener.receive(most, Patience::ForEver);
        if leaves { listener.leave(Patience::None) } else { listener.die() }
    }
    left.fetch_add(1, Ordering::SeqCst);
}

/// One execution: one producer, and readers that come and go.
fn crowd<W>(world: W, policy: Policy, wait: WaitMode) -> impl Fn() + Send + Sync + 'static
where
    W: World + Send + Sync + 'static,
    W::Memory: Send + Sync,
{
    move || {
        let hall = Hall::new(world.clone(), geometry(), policy, wait);
        let left = Arc::new(AtomicUsize::new(0));
        let listeners: Vec<_> = (0..READERS)
            .map(|_| {
                let (hall, left) = (hall.clone(), Arc::clone(&left));
                thread::spawn(move || listen(&hall, &left))
            })
            .collect();
        speak(hall.speaker(), &left);
        listeners.into_iter().for_each(|listener| listener.join().expect("no panic"));
    }
}

/// Executions for each policy.
fn crowds_wanted() -> usize {
    if is_full_run() { 15_000 } else { 1_500 }
}

fn explore(policy: Policy) {
    for wait in [WaitMode::Spin, WaitMode::Park] {
        let model = || crowd(Scheduled(geometry()), policy, wait);
        if let Ok(schedule) = std::env::var("LANEWAY_SCHEDULE") {
            shuttle::replay(model(), &schedule);
            continue;
        }
        let random = run(RandomScheduler::new_from_seed(seed(), crowds_wanted()), model());
        let deep = run(PctScheduler::new_from_seed(seed(), 3, crowds_wanted()), model());
        println!("{policy:?}, {wait:?}: {random} random executions, {deep} of PCT");
    }
}

#[test]
fn readers_that_gate_lose_nothing_while_others_come_and_go() {
    explore(Policy::Gated);
}

#[test]
fn readers_that_are_given_up_count_every_slot_that_they_lost() {
    explore(Policy::Evicting { budget: 3 });
}

#[test]
fn readers_that_are_overrun_hand_out_nothing_torn_and_count_what_they_lost() {
    explore(Policy::Overwrite);
}

#[test]
fn planted_mistakes_of_a_broadcast_lane_are_noticed() {
    let of_two = [Mistake::LateBytes, Mistake::SilentProducer, Mistake::SilentConsumer];
    let of_two = of_two.map(|mistake| (mistake, Policy::Gated));
    for (mistake, policy) in of_two.into_iter().chain(OF_CROWDS) {
        let world = Mutant::new(Scheduled(geometry()), mistake);
        notice(mistake, crowd(world, policy, WaitMode::Park));
    }
}
