//! Which way long messages go, over memory that says how far its reader is and keeps what went past
//! the caches to itself until it is drained, as a processor may.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use laneway_shm::geometry::Geometry;
use laneway_shm::layout::{C_RELEASED, CONSUMER_SEGMENT_BYTES};
use laneway_shm::memory::{Memory, OwnedMemory};
use laneway_shm::ring::{Found, Reader, Writer};
use laneway_shm::{Distance, Policy, Relation, Start, WaitMode};

mod oracle;

use oracle::heap::Heap;

/// Where the consumer's memory is, and what the producer did.
#[derive(Debug, Default)]
struct Way {
    far: Cell<bool>,
    pending: RefCell<Vec<(usize, Vec<u8>)>>,
    /// Words were stored since the last border.
    stored: Cell<bool>,
    /// Loads of the consumer's cursor.
    looks: Cell<usize>,
    /// Lines that were asked for.
    asked: Cell<usize>,
    past: Cell<usize>,
    through: Cell<usize>,
}

/// A [`Heap`] some way away.
#[derive(Clone, Debug)]
struct Distant {
    heap: Heap,
    way: Rc<Way>,
}

impl Distant {
    fn new(bytes: usize, way: &Rc<Way>) -> Self {
        Self { heap: Heap::new(bytes), way: way.clone() }
    }
}

impl Memory for Distant {
    fn load_acquire(&self, offset: usize) -> u64 {
        if offset == C_RELEASED {
            self.way.looks.set(self.way.looks.get() + 1);
        }
        if self.way.far.get() && offset == C_RELEASED {
            std::thread::sleep(Duration::from_micros(50));
        }
        self.heap.load_acquire(offset)
    }
    fn load_u32(&self, offset: usize) -> u32 {
        self.heap.load_u32(offset)
    }
    fn copy_out(&self, offset: usize, target: &mut [u8]) {
        self.heap.copy_out(offset, target);
    }
    fn full_fence(&self) {}
    fn wait(&self, _offset: usize, _expected: u32, _timeout: Duration) {}
}

impl OwnedMemory for Distant {
    fn store_relaxed(&self, offset: usize, value: u64) {
        self.way.stored.set(true);
        self.heap.store_relaxed(offset, value);
    }
    fn store_release(&self, offset: usize, value: u64) {
        assert!(self.way.pending.borrow().is_empty(), "{offset} is seen before the bytes");
        self.way.stored.set(true);
        self.heap.store_release(offset, value);
    }
    fn store_u32(&self, offset: usize, value: u32) {
        self.heap.store_u32(offset, value);
    }
    fn prefetch_for_store(&self, _offset: usize) {
        self.way.asked.set(self.way.asked.get() + 1);
    }
    fn copy_in(&self, offset: usize, source: &[u8]) {
        self.way.through.set(self.way.through.get() + source.len());
        self.heap.copy_in(offset, source);
    }
    fn copy_past(&self, offset: usize, source: &[u8]) {
        assert!(!self.way.stored.get(), "the bytes may be seen before the words");
        self.way.past.set(self.way.past.get() + source.len());
        self.way.pending.borrow_mut().push((offset, source.to_vec()));
    }
    fn drain(&self) {
        self.way.stored.set(false);
        for (offset, bytes) in self.way.pending.take() {
            self.heap.copy_in(offset, &bytes);
        }
    }
    fn wake(&self, _offset: usize) {}
}

struct Lane {
    way: Rc<Way>,
    peer: Distant,
    writer: Writer<Distant, Distant>,
    reader: Reader<Distant, Distant>,
    number: u8,
}

impl Lane {
    fn new(slot_payload: u32, slot_count: u32) -> Self {
        let geometry = Geometry::try_new(slot_payload, slot_count).expect("geometry");
        let way = Rc::new(Way::default());
        let bytes = usize::try_from(geometry.segment_bytes()).expect("a small ring");
        let own = Distant::new(bytes, &way);
        let peer = Distant::new(CONSUMER_SEGMENT_BYTES, &way);
        let mut writer = Writer::new(own.clone(), geometry, WaitMode::Spin, 0, 0);
        writer.join(peer.clone(), 1);
        let mut reader = Reader::new(peer.clone(), geometry, WaitMode::Spin, 0, 1);
        reader.join(own);
        Self { way, peer, writer, reader, number: 0 }
    }

    /// Sends and receives one message; says how many of its bytes went past the caches.
    fn travel(&mut self, len: usize) -> usize {
        self.number = self.number.wrapping_add(1);
        let message: Vec<u8> = (0..=250).cycle().map(|at| self.number ^ at).take(len).collect();
        let before = (self.way.past.get(), self.way.through.get());
        let span = self.writer.try_reserve(len).expect("honest").expect("there is room");
        self.writer.write(&span, 0, &message);
        self.writer.commit(&span);
        let past = self.way.past.get() - before.0;
        assert_eq!(past + self.way.through.get() - before.1, len, "every byte once");
        let Some(Found::Message(span)) = self.reader.poll().expect("honest") else {
            panic!("a message was committed");
        };
        let mut found = vec![0; len];
        assert_eq!(self.reader.copy_out(&span, 0, &mut found), len);
        assert!(found == message, "what was shown was not written yet");
        self.reader.release(&span);
        past
    }
}

#[test]
fn long_messages_go_past_the_caches_once_the_consumer_is_seen_to_be_far_and_no_others() {
    for (payload, count) in [(20_000, 4), (5_000, 16)] {
        let mut lane = Lane::new(payload, count);
        assert_eq!(lane.writer.distance(), Distance::Unknown);
        lane.way.far.set(true);
        let sent: Vec<usize> = (0..20).map(|_| lane.travel(19_999)).collect();
        assert_eq!(lane.writer.distance(), Distance::Far);
        assert_eq!((sent[0], sent[19]), (0, 19_999), "{sent:?}");
        assert_eq!(lane.travel(1000), 0);
        lane.way.far.set(false);
        let sent: Vec<usize> = (0..60).map(|_| lane.travel(19_999)).collect();
        assert_eq!((sent[0], sent[59]), (19_999, 0), "{sent:?}");
        assert_eq!(lane.writer.distance(), Distance::Near);
    }
}

#[test]
fn a_deep_ring_is_calibrated_by_its_first_long_messages_and_again_for_a_successor() {
    for (payload, count, len) in [(20_000, 256, 20_000), (5_000, 1024, 19_999)] {
        let mut lane = Lane::new(payload, count);
        lane.way.far.set(true);
        let sent: Vec<usize> = (0..4).map(|_| lane.travel(len)).collect();
        assert_eq!(
            sent,
            [0, 0, len, len],
            "one cursor that stood, one that moved, one that is timed"
        );
        let looks = lane.way.looks.get();
        assert!((0..20).all(|_| lane.travel(len) == len));
        assert!(lane.way.looks.get() - looks <= 3, "certain, and there is room");

        lane.way.far.set(false);
        assert_eq!(lane.travel(len), len, "nobody looks");
        lane.writer.join(lane.peer.clone(), 2);
        // A look that is interrupted here and there counts as far, and changes nothing for long.
        let sent: Vec<usize> = (0..40).map(|_| lane.travel(len)).collect();
        assert_eq!((sent[39], lane.writer.distance()), (0, Distance::Near), "{sent:?}");
    }
}

#[test]
fn lines_of_small_messages_are_asked_for_in_time_where_the_consumer_is_far() {
    let asked = |payload, count, far| {
        let mut lane = Lane::new(payload, count);
        // Near until two looks say otherwise: one may be interrupted.
        lane.writer.believe(Some(Relation::SameL2));
        lane.way.far.set(far);
        (0..60_000).for_each(|_| assert_eq!(lane.travel(8), 0));
        lane.way.asked.get()
    };
    assert!(asked(8, 1 << 14, true) > 1000);
    let far = asked(56, 1 << 14, true);
    assert!(far > 20_000, "{far}: a line each");
    assert_eq!(asked(56, 1 << 14, false), 0, "a near line comes as quickly");
    assert_eq!(asked(8, 1 << 12, true), 0, "unread messages lie ahead in a small ring");
    assert_eq!(asked(1000, 1 << 12, true), 0, "long slots are filled by wider stores");
}

#[test]
fn a_cursor_that_has_not_moved_says_nothing() {
    let mut lane = Lane::new(20_000, 4);
    lane.way.far.set(true);
    for _ in 0..4 {
        let span = lane.writer.try_reserve(20_000).expect("honest").expect("there is room");
        lane.writer.commit(&span);
    }
    for _ in 0..20 {
        assert!(lane.writer.try_reserve(20_000).expect("honest").is_none());
    }
    assert_eq!(lane.writer.distance(), Distance::Unknown);
}

#[test]
fn the_producer_of_a_broadcast_lane_learns_from_its_readers() {
    let geometry = Geometry::try_new(20_000, 4).expect("geometry");
    let way = Rc::new(Way::default());
    way.far.set(true);
    let bytes = usize::try_from(geometry.segment_bytes()).expect("a small ring");
    let own = Distant::new(bytes, &way);
    let mut writer = Writer::broadcast(own, geometry, WaitMode::Spin, 0, Policy::Gated);
    let readers = [1, 2].map(|number| {
        let peer = Distant::new(CONSUMER_SEGMENT_BYTES, &way);
        writer.admit(peer.clone(), number, Start::Newest).expect("a place");
        peer
    });
    for _ in 0..40 {
        let span = writer.try_reserve(20_000).expect("honest").expect("there is room");
        writer.commit(&span);
        for reader in &readers {
            reader.heap.store_release(C_RELEASED, writer.committed());
        }
    }
    assert_eq!(writer.distance(), Distance::Far);
}

#[test]
fn a_small_ring_of_short_messages_never_looks_at_the_clock() {
    let mut lane = Lane::new(1000, 4);
    lane.way.far.set(true);
    assert_eq!((0..20).map(|_| lane.travel(999)).sum::<usize>(), 0);
    assert_eq!(lane.writer.distance(), Distance::Unknown);
}
