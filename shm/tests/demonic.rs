//! An adversary instead of a race: memory that answers every load afresh, biased to the plausible.
//!
//! What survives a peer that changes each word between any two loads survives every real peer.
//! The oracles: accesses inside the segment, lengths within the geometry, bounded work per call,
//! no panic, and fail-stop after the first `Corruption`. Ends with planted bugs prove that the
//! demon has teeth. `LANEWAY_FULL=1` raises two million loads to 10^9 (build with `--release`).

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use laneway_shm::cursor::FROZEN_PAGES_MAX;
use laneway_shm::geometry::Geometry;
use laneway_shm::ring::{Found, Reader, Span, Writer};
use laneway_shm::{Corruption, WaitMode};

#[path = "demonic/faulty.rs"]
mod faulty;
#[path = "demonic/liar.rs"]
mod liar;
#[path = "demonic/pretender.rs"]
mod pretender;
#[path = "demonic/read.rs"]
mod read;
#[path = "demonic/readers.rs"]
mod readers;
#[path = "demonic/world.rs"]
mod world;
#[path = "demonic/write.rs"]
mod write;

use read::{ReadEnd, read_case};
use world::{DEMONIC, Demon, LOADS_BESIDES, Own, World, divide};
use write::{WriteEnd, write_case};

/// What the caller's buffers look like before a copy.
const CANARY: u8 = 0x2a;

/// Positions at which a lane may stand: young, in mid-lap, where turns wrap, and old.
fn start(world: &World) -> u64 {
    let count = world.geometry.count();
    let bases = [0, 5, count - 1, count * u64::from(u32::MAX) - 3, 1 << 40 | 7, 1 << 63];
    world.dice.pick(&bases)
}

fn geometries() -> Vec<Geometry> {
    let shapes = [(1, 2), (8, 2), (8, 4), (56, 8), (100, 64)];
    shapes
        .into_iter()
        .map(|(payload, count)| Geometry::try_new(payload, count).expect("legal"))
        .collect()
}

fn wait_mode(world: &World) -> WaitMode {
    world.dice.pick(&[WaitMode::Spin, WaitMode::Park])
}

/// Loads that each end has to survive.
fn loads_wanted() -> u64 {
    let full = std::env::var_os("LANEWAY_FULL").is_some_and(|value| value == "1");
    if full { 500_000_000 } else { 1_000_000 }
}

/// Runs cases on every geometry until each had its share of the loads.
fn besiege(name: &str, case: impl Fn(&Rc<World>) -> bool) {
    let (mut cases, mut corruptions, mut loads) = (0u64, 0u64, 0);
    let geometries = geometries();
    let share = loads_wanted() / geometries.len() as u64;
    for (seed, geometry) in (1..).zip(geometries) {
        let world = World::new(geometry, seed);
        while world.loads.get() < share {
            corruptions += u64::from(case(&world));
            cases += 1;
        }
        loads += world.loads.get();
    }
    println!("{name}: {loads} loads, {cases} cases, {corruptions} ended in corruption");
    assert!(corruptions > cases / 10 && corruptions < cases, "the demon is too tame or too wild");
}

#[test]
fn a_consumer_survives_a_producer_that_answers_every_load_afresh() {
    besiege("consumer", |world| {
        read_case(world, |position| {
            let own = Own(Rc::clone(world));
            let mut reader = Reader::new(own, world.geometry, wait_mode(world), position, 1);
            reader.pay_for_fences();
            world.begin(position, (0, 0));
            reader.join(Demon(Rc::clone(world)));
            reader
        })
    });
}

#[test]
fn a_producer_survives_a_consumer_that_answers_every_load_afresh() {
    besiege("producer", |world| {
        write_case(world, |base, released| {
            let (own, mode) = (Own(Rc::clone(world)), wait_mode(world));
            world.begin(base, (base, released + world.geometry.count()));
            let mut writer = Writer::new(own, world.geometry, mode, base, released);
            writer.allow_light();
            writer.join(Demon(Rc::clone(world)), 1);
            writer
        })
    });
}
