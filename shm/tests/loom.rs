//! The real ring under every interleaving, and every stale load, that loom can produce.
//!
//! The ring names no atomics, so the memory it runs on decides: here it is loom's. Payload bytes
//! are relaxed words, so that a missing order shows as a torn message, with a race detector beside
//! each; a sleep has no time-out, so that a lost wake-up shows as a deadlock. `LANEWAY_FULL=1`
//! lifts the bounds on preemptions, or widens them where a model would not end soon (build with
//! `--release`); `LANEWAY_SOAK=1` lifts them all, and wants one test by its name and time. Planted
//! faults prove the teeth.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64 as Count, Ordering as Plain};
use std::time::Duration;

use laneway_shm::WaitMode;
use laneway_shm::geometry::{Geometry, WORD_BYTES};
use laneway_shm::layout::{
    C_BELL, C_BYTES, C_EMPTY, C_LEFT, C_LOST, C_MESSAGES, C_PARKED, C_RELEASED, P_BELL, P_BYTES,
    P_COMMITTED, P_JOINED, P_MESSAGES, P_PARKED, P_READERS, P_RESUME, P_SLOTS, P_STALLS,
    READER_BYTES,
};
use laneway_shm::memory::{Memory, OwnedMemory};
use laneway_shm::ring::{Found, Reader, Span, Writer};
use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use loom::sync::{Condvar, Mutex};
use loom::thread;

#[path = "loom/doorbell.rs"]
mod doorbell;
#[path = "loom/lanes.rs"]
mod lanes;
mod oracle;
#[path = "loom/readers.rs"]
mod readers;
#[path = "loom/scripts.rs"]
mod scripts;

/// Words that only observers read: kept out of the model, and a load of one is a failure.
const FOR_OBSERVERS: [usize; 7] =
    [P_MESSAGES, P_BYTES, P_STALLS, C_MESSAGES, C_BYTES, C_EMPTY, C_LOST];
/// Readers that a model has at most: the rest of the roster is never written.
const READERS: usize = 2;
/// Longer than any honest sleep with a bound: the model sleeps for ever or not at all.
const FOR_EVER: Duration = Duration::MAX;

/// An ordering that a segment's memory leaves out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    Release(Pairing),
    Acquire(Pairing),
    Fence,
    ReleaseFence,
    AcquireFence,
}

/// Which accesses belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pairing {
    Commit,
    Released,
    Left,
}

fn pairing(offset: usize) -> Option<Pairing> {
    match offset {
        C_RELEASED => Some(Pairing::Released),
        C_LEFT => Some(Pairing::Left),
        offset if offset >= P_SLOTS => Some(Pairing::Commit),
        _ => None,
    }
}

/// One segment on loom's atomics. Clones share it, as mappings do; loom's threads are coroutines
/// of one real thread, so that a plain reference count serves.
#[derive(Clone)]
struct Segment(Rc<Words>);

struct Words {
    longs: BTreeMap<usize, AtomicU64>,
    /// One for each payload word of a lane that loses nothing. Loom lets no read see a later write,
    /// so that a cursor which overtakes the copy before it would go unnoticed; these notice.
    races: BTreeMap<usize, UnsafeCell<()>>,
    shorts: BTreeMap<usize, AtomicU32>,
    fault: Fault,
    kernel: Rc<Kernel>,
    /// The lifeline of whoever writes this segment: whether a byte is in it.
    lifeline: Mutex<bool>,
    heard: Condvar,
}

/// Who sleeps on any word of the segments that share it.
struct Kernel {
    /// Whether the sleep that is or comes ends by itself, as one with a time-out does.
    nudged: Mutex<bool>,
    rung: Condvar,
}

impl Kernel {
    fn new() -> Rc<Self> {
        Rc::new(Self { nudged: Mutex::new(false), rung: Condvar::new() })
    }

    /// Sleeps while the words are what was expected. As in the kernel, they are compared under the
    /// lock that a waker takes.
    fn wait(&self, as_expected: impl Fn() -> bool) {
        let mut nudged = self.nudged.lock().expect("loom's locks never poison");
        if !std::mem::take(&mut *nudged) && as_expected() {
            *self.rung.wait(nudged).expect("loom's locks never poison") = false;
        }
    }

    fn wake(&self, nudge: bool) {
        *self.nudged.lock().expect("loom's locks never poison") |= nudge;
        self.rung.notify_all();
    }
}

impl Segment {
    fn new(longs: Vec<usize>, races: &[usize], shorts: [usize; 2], fault: Fault) -> Self {
        let long = |offset| (offset, AtomicU64::new(0));
        let short = |offset| (offset, AtomicU32::new(0));
        Self(Rc::new(Words {
            races: races.iter().map(|&offset| (offset, UnsafeCell::new(()))).collect(),
            longs: longs.into_iter().map(long).collect(),
            shorts: shorts.into_iter().map(short).collect(),
            fault,
            kernel: Kernel::new(),
            lifeline: Mutex::new(false),
            heard: Condvar::new(),
        }))
    }

    /// The same segment, not yet shared, below a kernel that others share.
    fn below(self, kernel: &Rc<Kernel>) -> Self {
        let words = Rc::into_inner(self.0).expect("not shared yet");
        Self(Rc::new(Words { kernel: Rc::clone(kernel), ..words }))
    }

    fn producer(geometry: &Geometry, fault: Fault) -> Self {
        let slots = Self::slots(geometry);
        let longs = [&[P_COMMITTED, P_JOINED], &slots[..]].concat();
        Self::new(longs, &slots, [P_BELL, P_PARKED], fault)
    }

    /// Offsets of the words of all slots.
    fn slots(geometry: &Geometry) -> Vec<usize> {
        let bytes = WORD_BYTES + geometry.payload() as usize;
        let starts = (0..geometry.count()).map(|slot| geometry.slot_offset(slot));
        starts.flat_map(|start| (start..start + bytes).step_by(8)).collect()
    }

    fn consumer(fault: Fault) -> Self {
        Self::new(vec![C_RELEASED], &[], [C_BELL, C_PARKED], fault)
    }

    fn long(&self, offset: usize) -> &AtomicU64 {
        self.0.longs.get(&offset).expect("the ring loads only words that order something")
    }

    fn short(&self, offset: usize) -> &AtomicU32 {
        self.0.shorts.get(&offset).expect("a futex word")
    }

    fn acquire(&self, offset: usize) -> Ordering {
        match (self.0.fault, pairing(offset)) {
            (Fault::Acquire(left_out), Some(pairing)) if pairing == left_out => Ordering::Relaxed,
            _ => Ordering::Acquire,
        }
    }

    fn release(&self, offset: usize) -> Ordering {
        match (self.0.fault, pairing(offset)) {
            (Fault::Release(left_out), Some(pairing)) if pairing == left_out => Ordering::Relaxed,
            _ => Ordering::Release,
        }
    }
}

impl Memory for Segment {
    fn load_acquire(&self, offset: usize) -> u64 {
        if (P_READERS + READERS * READER_BYTES..P_SLOTS).contains(&offset) {
            return 0;
        }
        // Only where a reader leaves does the model have its word.
        if offset == C_LEFT && !self.0.longs.contains_key(&C_LEFT) {
            return 0;
        }
        self.long(offset).load(self.acquire(offset))
    }

    fn load_u32(&self, offset: usize) -> u32 {
        self.short(offset).load(self.acquire(offset))
    }

    fn copy_out(&self, offset: usize, target: &mut [u8]) {
        for (index, bytes) in target.chunks_mut(8).enumerate() {
            if let Some(race) = self.0.races.get(&(offset + index * 8)) {
                race.with(|_| ());
            }
            let word = self.long(offset + index * 8).load(Ordering::Relaxed);
            bytes.copy_from_slice(&word.to_le_bytes()[..bytes.len()]);
        }
    }

    fn full_fence(&self) {
        if self.0.fault != Fault::Fence {
            fence(Ordering::SeqCst);
        }
    }

    fn acquire_fence(&self) {
        if self.0.fault != Fault::AcquireFence {
            fence(Ordering::Acquire);
        }
    }

    fn doorbell(&self) {
        *self.0.lifeline.lock().expect("loom's locks never poison") = true;
        self.0.heard.notify_all();
    }

    fn wait(&self, offset: usize, expected: u32, timeout: Duration) {
        if timeout < FOR_EVER {
            return thread::yield_now();
        }
        self.0.kernel.wait(|| self.short(offset).load(Ordering::Acquire) == expected);
    }
}

impl OwnedMemory for Segment {
    fn store_relaxed(&self, offset: usize, value: u64) {
        if !FOR_OBSERVERS.contains(&offset) {
            self.long(offset).store(value, Ordering::Relaxed);
        }
    }

    fn store_release(&self, offset: usize, value: u64) {
        self.long(offset).store(value, self.release(offset));
    }

    fn store_u32(&self, offset: usize, value: u32) {
        self.short(offset).store(value, self.release(offset));
    }

    fn release_fence(&self) {
        if self.0.fault != Fault::ReleaseFence {
            fence(Ordering::Release);
        }
    }

    fn copy_in(&self, offset: usize, source: &[u8]) {
        for (index, bytes) in source.chunks(8).enumerate() {
            let mut word = [0; 8];
            word[..bytes.len()].copy_from_slice(bytes);
            if let Some(race) = self.0.races.get(&(offset + index * 8)) {
                race.with_mut(|_| ());
            }
            self.long(offset + index * 8).store(u64::from_le_bytes(word), Ordering::Relaxed);
        }
    }

    fn wake(&self, _offset: usize) {
        self.0.kernel.wake(false);
    }
}

type Sender = Writer<Segment, Segment>;
type Receiver = Reader<Segment, Segment>;

/// A lane on loom's memory and the faults of its two segments.
#[derive(Clone, Copy)]
struct Lane {
    payload: u32,
    slots: u32,
    wait: WaitMode,
    producer: Fault,
    consumer: Fault,
}

const SPIN: Lane = Lane {
    payload: 16,
    slots: 2,
    wait: WaitMode::Spin,
    producer: Fault::None,
    consumer: Fault::None,
};
const PARK: Lane = Lane { payload: 8, wait: WaitMode::Park, ..SPIN };

impl Lane {
    fn geometry(&self) -> Geometry {
        Geometry::try_new(self.payload, self.slots).expect("legal")
    }

    fn open(&self) -> (Sender, Receiver) {
        let geometry = self.geometry();
        let producer = Segment::producer(&geometry, self.producer);
        let consumer = Segment::consumer(self.consumer);
        let mut writer = Writer::new(producer.clone(), geometry, self.wait, 0, 0);
        let mut reader = Reader::new(consumer.clone(), geometry, self.wait, 0, 1);
        writer.join(consumer, 1);
        reader.join(producer);
        (writer, reader)
    }

    /// A message that shows which one it is in every word.
    fn message(&self, number: u64) -> Vec<u8> {
        number.to_le_bytes().repeat(self.payload as usize / 8)
    }
}

/// Reserves, writes and commits, waiting for room in the lane's way.
fn send(lane: &Lane, writer: &mut Sender, bytes: &[u8]) {
    let span = room(lane, writer, bytes.len());
    writer.write(&span, 0, bytes);
    writer.commit(&span);
}

fn room(lane: &Lane, writer: &mut Sender, len: usize) -> Span {
    loop {
        match writer.try_reserve(len).expect("the consumer is honest") {
            Some(span) => return span,
            None if lane.wait == WaitMode::Park => {
                let slots = writer.geometry().slots_for(len);
                writer.park(slots, FOR_EVER).expect("the consumer is honest");
            }
            None => thread::yield_now(),
        }
    }
}

/// The next message, or the end, waiting in the lane's way; not released.
fn next(lane: &Lane, reader: &mut Receiver) -> Found {
    loop {
        match reader.poll().expect("the producer is honest") {
            Some(found) => return found,
            None if lane.wait == WaitMode::Park => reader.park(FOR_EVER),
            None => thread::yield_now(),
        }
    }
}

fn receive(lane: &Lane, reader: &mut Receiver) -> Vec<u8> {
    let Found::Message(span) = next(lane, reader) else {
        panic!("the stream ended early");
    };
    let bytes = copy(reader, &span);
    reader.release(&span);
    bytes
}

fn copy(reader: &Receiver, span: &Span) -> Vec<u8> {
    let mut bytes = vec![0; span.len];
    assert_eq!(reader.copy_out(span, 0, &mut bytes), span.len);
    bytes
}

fn is_set(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|value| value == "1")
}

fn full_run() -> bool {
    is_set("LANEWAY_FULL")
}

/// Preemptions that a model may have in an ordinary run and in a full one; `None` is no bound.
type Bounds = (Option<usize>, Option<usize>);
const SMALL: Bounds = (None, None);
const MEDIUM: Bounds = (Some(3), None);
const LARGE: Bounds = (Some(2), Some(5));

/// Executions that these models have at least in a full run: a million together. Who makes one of
/// them smaller finds more elsewhere.
const FLOORS: [(&str, u64); 5] = [
    ("stream 2 x 3", 4_600),
    ("stream 2 x 4", 190_000),
    ("stream 4 x 6", 234_000),
    ("producer sleeps", 23_000),
    ("producer sleeps for two", 606_000),
];

#[test]
fn the_largest_models_have_a_million_executions_in_a_full_run() {
    assert!(FLOORS.iter().map(|(_, floor)| floor).sum::<u64>() >= 1_000_000);
    let models = include_str!("loom.rs");
    for (name, _) in FLOORS {
        assert!(models.contains(&format!("explore(\"{name}\", ")), "no model is called {name:?}");
    }
}

/// Runs a model over all its executions within the bounds.
fn explore(name: &str, (quick, full): Bounds, model: impl Fn() + Send + Sync + 'static) {
    let bound = if full_run() { full } else { quick };
    let bound = bound.filter(|_| !is_set("LANEWAY_SOAK"));
    let executions = check(bound, model);
    println!("{name}: {executions} executions, preemptions {bound:?}");
    let floor =
        FLOORS.iter().find(|(of, _)| full_run() && *of == name).map_or(1, |(_, floor)| *floor);
    assert!(executions >= floor, "{name}: {executions} executions, and not {floor}");
}

fn check(bound: Option<usize>, model: impl Fn() + Send + Sync + 'static) -> u64 {
    let executions = Arc::new(Count::new(0));
    let counted = Arc::clone(&executions);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = bound;
    builder.max_branches = 10_000;
    builder.check(move || {
        counted.fetch_add(1, Plain::Relaxed);
        model();
    });
    executions.load(Plain::Relaxed)
}

/// Whether a model with a planted fault fails, as it must.
fn assert_caught(name: &str, model: impl Fn() + Send + Sync + 'static) {
    let outcome = catch_unwind(AssertUnwindSafe(|| check(Some(3), model)));
    match outcome {
        Ok(executions) => panic!("{name} survived {executions} executions"),
        Err(_) => println!("{name}: caught"),
    }
}

/// More messages than slots, so that slots are used again.
fn stream(lane: Lane, messages: u64) -> impl Fn() + Send + Sync + 'static {
    move || {
        let (mut writer, mut reader) = lane.open();
        let producer = thread::spawn(move || {
            for number in 1..=messages {
                send(&lane, &mut writer, &lane.message(number));
            }
        });
        for number in 1..=messages {
            assert_eq!(receive(&lane, &mut reader), lane.message(number));
        }
        producer.join().expect("no panic");
        assert_eq!(reader.position(), messages);
    }
}

#[test]
fn messages_arrive_in_order_and_whole_while_slots_are_used_again() {
    explore("stream 2 x 3", SMALL, stream(SPIN, 3));
    explore("stream 2 x 4", MEDIUM, stream(SPIN, 4));
    explore("stream 4 x 6", LARGE, stream(Lane { slots: 4, ..SPIN }, 6));
}

/// A consumer that sleeps before each message.
fn sleeper(lane: Lane, messages: u64) -> impl Fn() + Send + Sync + 'static {
    move || {
        let (mut writer, mut reader) = lane.open();
        let producer = thread::spawn(move || {
            for number in 1..=messages {
                send(&lane, &mut writer, &lane.message(number));
            }
        });
        for number in 1..=messages {
            assert_eq!(receive(&lane, &mut reader), lane.message(number));
        }
        producer.join().expect("no panic");
    }
}

#[test]
fn a_sleeping_consumer_is_woken_for_every_message() {
    explore("consumer sleeps once", SMALL, sleeper(PARK, 1));
    // Without a bound 17.9 million executions: a quarter of an hour.
    explore("consumer sleeps", (Some(4), Some(6)), sleeper(PARK, 2));
}

#[test]
fn two_ends_that_both_sleep_never_sleep_at_the_same_time_for_ever() {
    explore("both sleep", (Some(2), Some(4)), stream(PARK, 3));
}

/// A producer that sleeps for room; the consumer spins.
fn waiter(lane: Lane) -> impl Fn() + Send + Sync + 'static {
    move || {
        let (mut writer, mut reader) = lane.open();
        for number in 1..=2 {
            send(&lane, &mut writer, &lane.message(number));
        }
        let spins = Lane { wait: WaitMode::Spin, ..lane };
        let consumer = thread::spawn(move || {
            for number in 1..=3 {
                assert_eq!(receive(&spins, &mut reader), lane.message(number));
            }
        });
        send(&lane, &mut writer, &lane.message(3));
        consumer.join().expect("no panic");
    }
}

#[test]
fn a_producer_that_sleeps_for_room_is_woken_by_a_release() {
    explore("producer sleeps", MEDIUM, waiter(PARK));
}

#[test]
fn a_producer_that_sleeps_for_two_slots_is_woken_by_the_second_release() {
    explore("producer sleeps for two", MEDIUM, || {
        let (mut writer, mut reader) = PARK.open();
        for number in 1..=2 {
            send(&PARK, &mut writer, &PARK.message(number));
        }
        let consumer = thread::spawn(move || {
            for number in 1..=2 {
                assert_eq!(receive(&PARK, &mut reader), PARK.message(number));
            }
            reader
        });
        let span = room(&PARK, &mut writer, 16);
        assert_eq!(span.slots, 2);
        let reader = consumer.join().unwrap();
        assert_eq!(reader.position(), 2);
    });
}

#[test]
fn a_consumer_that_follows_one_killed_in_its_sleep_is_woken() {
    explore("second incarnation", SMALL, || {
        let geometry = PARK.geometry();
        let producer = Segment::producer(&geometry, Fault::None);
        let mut writer = Writer::new(producer.clone(), geometry, PARK.wait, 0, 0);
        // The first consumer died asleep: its parked word stays odd, and one ring was for it.
        let dead = Segment::consumer(Fault::None);
        dead.store_u32(C_PARKED, 1);
        writer.join(dead, 1);
        send(&PARK, &mut writer, &PARK.message(1));
        let consumer = Segment::consumer(Fault::None);
        writer.join(consumer.clone(), 2);
        let mut reader = Reader::new(consumer, geometry, PARK.wait, 0, 2);
        reader.join(producer);
        assert_eq!(receive(&PARK, &mut reader), PARK.message(1));
        let sender = thread::spawn(move || send(&PARK, &mut writer, &PARK.message(2)));
        assert_eq!(receive(&PARK, &mut reader), PARK.message(2));
        sender.join().unwrap();
    });
}

#[test]
fn every_left_out_order_of_the_data_path_is_caught() {
    let producer = |fault| Lane { producer: fault, ..SPIN };
    let consumer = |fault| Lane { consumer: fault, ..SPIN };
    for (name, lane) in [
        ("commit without release", producer(Fault::Release(Pairing::Commit))),
        ("commit without acquire", producer(Fault::Acquire(Pairing::Commit))),
        ("cursor without release", consumer(Fault::Release(Pairing::Released))),
        ("cursor without acquire", consumer(Fault::Acquire(Pairing::Released))),
    ] {
        assert_caught(name, stream(lane, 3));
    }
}

#[test]
fn every_left_out_order_of_the_consumers_sleep_is_caught() {
    for (name, producer, consumer) in [
        ("writer without fence", Fault::Fence, Fault::None),
        ("sleeping reader without fence", Fault::None, Fault::Fence),
    ] {
        assert_caught(name, sleeper(Lane { producer, consumer, ..PARK }, 2));
    }
}

#[test]
fn every_left_out_fence_of_the_producers_sleep_is_caught() {
    for (name, producer, consumer) in [
        ("sleeping writer without fence", Fault::Fence, Fault::None),
        ("reader without fence", Fault::None, Fault::Fence),
    ] {
        assert_caught(name, waiter(Lane { producer, consumer, ..PARK }));
    }
}

#[test]
fn writing_after_the_commit_is_caught() {
    assert_caught("payload after commit", || {
        let (mut writer, mut reader) = SPIN.open();
        let producer = thread::spawn(move || {
            let span = room(&SPIN, &mut writer, 16);
            writer.commit(&span);
            writer.write(&span, 0, &SPIN.message(1));
        });
        assert_eq!(receive(&SPIN, &mut reader), SPIN.message(1));
        producer.join().unwrap();
    });
}
