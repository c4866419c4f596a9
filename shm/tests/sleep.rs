//! Sleeps that pay for the producer's fences, on a kernel whose fence missed the producer's cpu:
//! stores stay in that cpu's buffer until the reader has looked once, as a processor may keep them
//! for a while.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use laneway_shm::WaitMode;
use laneway_shm::geometry::Geometry;
use laneway_shm::layout::{C_PARKED, CONSUMER_SEGMENT_BYTES, P_SLOTS};
use laneway_shm::memory::{Memory, OwnedMemory};
use laneway_shm::ring::{Reader, Writer, sleep_on_all};

mod oracle;

use oracle::heap::Heap;

const LIMIT: Duration = Duration::from_millis(100);

/// Where, and what.
type Store = (usize, Vec<u8>);

/// A segment as its writer's cpu and all others see it.
#[derive(Clone, Debug)]
struct Buffered {
    heap: Heap,
    buffer: Rc<RefCell<Vec<Store>>>,
    /// How long the peer slept on this segment's words each time.
    sleeps: Rc<RefCell<Vec<Duration>>>,
}

impl Buffered {
    fn new(bytes: usize) -> Self {
        Self { heap: Heap::new(bytes), buffer: Rc::default(), sleeps: Rc::default() }
    }

    fn settle(&self) {
        for (offset, bytes) in self.buffer.borrow_mut().drain(..) {
            self.heap.copy_in(offset, &bytes);
        }
    }
}

impl Memory for Buffered {
    fn load_acquire(&self, offset: usize) -> u64 {
        let found = self.heap.load_acquire(offset);
        if offset >= P_SLOTS {
            self.settle();
        }
        found
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
    assert_eq!(lane.sleeps(), []);
    assert!(lane.received());
}

#[test]
fn a_message_of_any_of_several_lanes_is_found_likewise() {
    for sent in 0..3 {
        // One of them pays, for all.
        let mut lanes = [Lane::new(false), Lane::new(true), Lane::new(true)];
        lanes[sent].send();
        let mut rings: Vec<_> = lanes.iter_mut().map(|lane| &mut lane.reader).collect();
        let woken = sleep_on_all(&mut rings, LIMIT, |_, _| panic!("lane {sent} is overlooked"));
        assert!(woken && lanes[sent].received(), "lane {sent}");
    }
}

#[test]
fn a_sleep_is_announced_once_and_as_long_as_it_was_asked_for() {
    for pay in [true, false] {
        let mut lane = Lane::new(pay);
        lane.reader.park(LIMIT);
        assert_eq!(lane.sleeps(), [LIMIT]);
        lane.consumer.settle();
        assert_eq!(lane.consumer.load_u32(C_PARKED), 2, "asleep and awake, each once");
    }
}

#[test]
fn the_producer_of_a_reader_that_pays_for_nobody_makes_a_fence_for_each_message() {
    let mut lane = Lane::new(false);
    lane.send();
    assert!(lane.received(), "whatever the reader does");
}
