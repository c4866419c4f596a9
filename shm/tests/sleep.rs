//! Sleeps that pay for the producer's fences, on a kernel whose fence missed the producer's cpu:
//! stores stay in that cpu's buffer until somebody has slept, as a processor may keep them for a
//! while.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use laneway_shm::WaitMode;
use laneway_shm::geometry::Geometry;
use laneway_shm::layout::{C_PARKED, CONSUMER_SEGMENT_BYTES};
use laneway_shm::memory::{Memory, OwnedMemory};
use laneway_shm::ring::{Reader, Writer, sleep_on_all};

mod oracle;

use oracle::heap::Heap;

const LIMIT: Duration = Duration::from_millis(100);
const PAST_EVERY_BUFFER: Duration = Duration::from_millis(1);

/// Where, and what.
type Store = (usize, Vec<u8>);

/// A segment as its writer's cpu and all others see it.
#[derive(Clone, Debug)]
struct Buffered {
    heap: Heap,
    buffer: Rc<RefCell<Vec<Store>>>,
    /// How long the peer meant to sleep on this segment's words each time.
    sleeps: Rc<RefCell<Vec<Duration>>>,
    /// The next sleep ends before any time has passed.
    startles: Rc<Cell<bool>>,
}

impl Buffered {
    fn new(bytes: usize) -> Self {
        let (buffer, sleeps, startles) = <_>::default();
        Self { heap: Heap::new(bytes), buffer, sleeps, startles }
    }

    fn settle(&self) {
        for (offset, bytes) in self.buffer.borrow_mut().drain(..) {
            self.heap.copy_in(offset, &bytes);
        }
    }
}

impl Memory for Buffered {
    fn load_acquire(&self, offset: usize) -> u64 {
        self.heap.load_acquire(offset)
    }
    fn load_u32(&self, offset: usize) -> u32 {
        self.heap.load_u32(offset)
    }
    fn copy_out(&self, offset: usize, target: &mut [u8]) {
        self.heap.copy_out(offset, target);
    }
    fn full_fence(&self) {
        self.settle();
    }
    /// Reaches this cpu, and no other.
    fn heavy_fence(&self) {
        self.settle();
    }
    fn heavy_works(&self) -> bool {
        true
    }
    fn wait(&self, _offset: usize, _expected: u32, timeout: Duration) {
        self.sleeps.borrow_mut().push(timeout);
        if !self.startles.take() {
            std::thread::sleep(timeout);
            self.settle();
        }
    }
}

impl OwnedMemory for Buffered {
    fn store_relaxed(&self, offset: usize, value: u64) {
        self.copy_in(offset, &value.to_le_bytes());
    }
    fn store_release(&self, offset: usize, value: u64) {
        self.copy_in(offset, &value.to_le_bytes());
    }
    fn store_u32(&self, offset: usize, value: u32) {
        self.copy_in(offset, &value.to_le_bytes());
    }
    fn light_fence(&self) {}
    fn allow_light(&self) -> bool {
        true
    }
    fn copy_in(&self, offset: usize, source: &[u8]) {
        self.buffer.borrow_mut().push((offset, source.to_vec()));
    }
    fn wake(&self, _offset: usize) {}
}

struct Lane {
    writer: Writer<Buffered, Buffered>,
    reader: Reader<Buffered, Buffered>,
    producer: Buffered,
    consumer: Buffered,
}

impl Lane {
    /// Whether its reader offers to `pay`.
    fn new(pay: bool) -> Self {
        let geometry = Geometry::try_new(64, 4).expect("a small ring");
        let bytes = usize::try_from(geometry.segment_bytes()).expect("a small ring");
        let (producer, consumer) = (Buffered::new(bytes), Buffered::new(CONSUMER_SEGMENT_BYTES));
        let mut reader = Reader::new(consumer.clone(), geometry, WaitMode::Park, 0, 1);
        if pay {
            reader.pay_for_fences();
        }
        consumer.settle();
        let mut writer = Writer::new(producer.clone(), geometry, WaitMode::Park, 0, 0);
        writer.allow_light();
        writer.join(consumer.clone(), 1);
        reader.join(producer.clone());
        producer.settle();
        Self { writer, reader, producer, consumer }
    }

    /// A message that may still be in its cpu's buffer, from when the reader was awake.
    fn send(&mut self) {
        let span = self.writer.try_reserve(1).expect("an honest reader").expect("room");
        self.writer.commit(&span);
    }

    fn received(&mut self) -> bool {
        matches!(self.reader.poll(), Ok(Some(_)))
    }

    fn sleeps(&self) -> Vec<Duration> {
        self.producer.sleeps.borrow().clone()
    }
}

#[test]
fn a_message_whose_cpu_the_fence_missed_is_found_when_a_store_buffer_has_drained() {
    let mut lane = Lane::new(true);
    lane.send();
    lane.reader.park(LIMIT);
    assert_eq!(lane.sleeps(), [PAST_EVERY_BUFFER]);
    assert!(lane.received());
}

#[test]
fn a_message_of_any_of_several_lanes_is_found_likewise() {
    for sent in 0..3 {
        // One of them pays, for all.
        let mut lanes = [Lane::new(false), Lane::new(true), Lane::new(true)];
        lanes[sent].send();
        let mut sleeps = Vec::new();
        let mut rings: Vec<_> = lanes.iter_mut().map(|lane| &mut lane.reader).collect();
        let woken = sleep_on_all(&mut rings, LIMIT, |bells, limit| {
            sleeps.push(limit);
            bells.iter().for_each(|(producer, _)| producer.settle());
            false
        });
        assert!(woken, "lane {sent}");
        // A producer that was not promised anything made its own fence.
        let expected: &[Duration] = if sent == 0 { &[] } else { &[PAST_EVERY_BUFFER] };
        assert_eq!(sleeps, expected, "lane {sent}");
        assert!(lanes[sent].received(), "lane {sent}");
    }
}

#[test]
fn a_sleeper_that_a_stranger_wakes_looks_again_in_time_all_the_same() {
    let mut lane = Lane::new(true);
    lane.send();
    lane.producer.startles.set(true);
    lane.reader.park(LIMIT);
    assert_eq!(lane.sleeps(), [PAST_EVERY_BUFFER], "too early for the second part");
    assert!(!lane.received());
    lane.reader.park(LIMIT);
    assert_eq!(lane.sleeps(), [PAST_EVERY_BUFFER; 2]);
    assert!(lane.received());
}

#[test]
fn a_sleep_over_several_lanes_goes_on_unless_a_bell_ended_its_first_part() {
    for rung in [false, true] {
        let mut lanes = [Lane::new(true), Lane::new(true)];
        let mut rings: Vec<_> = lanes.iter_mut().map(|lane| &mut lane.reader).collect();
        let mut sleeps = Vec::new();
        let woken = sleep_on_all(&mut rings, LIMIT, |_, limit| {
            sleeps.push(limit);
            rung
        });
        assert_eq!(woken, rung);
        let both = [PAST_EVERY_BUFFER, LIMIT - PAST_EVERY_BUFFER];
        assert_eq!(sleeps, both[..2 - usize::from(rung)]);
    }
}

#[test]
fn a_sleep_in_two_parts_is_announced_once_and_as_long_as_one() {
    let mut lane = Lane::new(true);
    lane.reader.park(LIMIT);
    assert_eq!(lane.sleeps(), [PAST_EVERY_BUFFER, LIMIT - PAST_EVERY_BUFFER]);
    lane.consumer.settle();
    assert_eq!(lane.consumer.load_u32(C_PARKED), 2, "asleep and awake, each once");
    lane.reader.park(PAST_EVERY_BUFFER / 2);
    assert_eq!(lane.sleeps()[2..], [PAST_EVERY_BUFFER / 2]);
}

#[test]
fn a_sleep_that_pays_for_nobody_has_one_part_and_its_producer_a_fence_for_each_message() {
    let mut lane = Lane::new(false);
    lane.reader.park(LIMIT);
    assert_eq!(lane.sleeps(), [LIMIT]);
    lane.send();
    lane.reader.park(LIMIT);
    assert_eq!(lane.sleeps(), [LIMIT], "it was there at the look");
    assert!(lane.received());
}
