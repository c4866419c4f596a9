//! A consumer that only pretends to sleep.

use laneway_shm::memory::{Memory, OwnedMemory};

use super::*;

/// A consumer that claims a new sleep at every look and never takes a message; and the memory of
/// the producer, which counts the wake-ups that it pays for.
struct Pretender(Rc<Cell<u32>>);

impl Memory for Pretender {
    fn load_acquire(&self, _offset: usize) -> u64 {
        0
    }
    fn load_u32(&self, _offset: usize) -> u32 {
        self.0.set(self.0.get() + 2);
        self.0.get() | 1
    }
    fn copy_out(&self, _offset: usize, _target: &mut [u8]) {}
    fn full_fence(&self) {}
    fn wait(&self, _offset: usize, _expected: u32, _timeout: Duration) {}
}

impl OwnedMemory for Pretender {
    fn store_relaxed(&self, _offset: usize, _value: u64) {}
    fn store_release(&self, _offset: usize, _value: u64) {}
    fn store_u32(&self, _offset: usize, _value: u32) {}
    fn copy_in(&self, _offset: usize, _source: &[u8]) {}
    fn wake(&self, _offset: usize) {
        self.0.set(self.0.get() + 1);
    }
}

#[test]
fn a_consumer_that_only_pretends_to_sleep_costs_a_bounded_number_of_wakes() {
    let geometry = Geometry::try_new(8, 1024).unwrap();
    let wakes = Rc::new(Cell::new(0));
    let mut writer = Writer::new(Pretender(Rc::clone(&wakes)), geometry, WaitMode::Park, 0, 0);
    writer.join(Pretender(Rc::default()), 1);
    for _ in 0..1000 {
        let span = writer.try_reserve(8).unwrap().expect("the ring is large");
        writer.commit(&span);
    }
    assert!((1..=64).contains(&wakes.get()), "{} wakes", wakes.get());
}
