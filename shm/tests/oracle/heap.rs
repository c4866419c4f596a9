//! Memory of one thread: bytes on the heap.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use laneway_shm::geometry::Geometry;
use laneway_shm::layout::CONSUMER_SEGMENT_BYTES;
use laneway_shm::memory::{Memory, OwnedMemory};

use super::ring::{Ground, World};

/// A segment whose bytes can be looked at, and changed as its writer could.
#[derive(Clone, Debug)]
pub(crate) struct Heap(pub(crate) Rc<RefCell<Vec<u8>>>);

impl Heap {
    pub(crate) fn new(bytes: usize) -> Self {
        Self(Rc::new(RefCell::new(vec![0; bytes])))
    }

    fn array<const N: usize>(&self, offset: usize) -> [u8; N] {
        self.0.borrow()[offset..offset + N].try_into().expect("N bytes")
    }
}

impl Memory for Heap {
    fn load_acquire(&self, offset: usize) -> u64 {
        u64::from_le_bytes(self.array(offset))
    }
    fn load_u32(&self, offset: usize) -> u32 {
        u32::from_le_bytes(self.array(offset))
    }
    fn copy_out(&self, offset: usize, target: &mut [u8]) {
        target.copy_from_slice(&self.0.borrow()[offset..offset + target.len()]);
    }
    fn full_fence(&self) {}
    fn wait(&self, _offset: usize, _expected: u32, _timeout: Duration) {}
}

impl OwnedMemory for Heap {
    fn store_relaxed(&self, offset: usize, value: u64) {
        self.copy_in(offset, &value.to_le_bytes());
    }
    fn store_release(&self, offset: usize, value: u64) {
        self.copy_in(offset, &value.to_le_bytes());
    }
    fn store_u32(&self, offset: usize, value: u32) {
        self.copy_in(offset, &value.to_le_bytes());
    }
    fn copy_in(&self, offset: usize, source: &[u8]) {
        self.0.borrow_mut()[offset..offset + source.len()].copy_from_slice(source);
    }
    fn wake(&self, _offset: usize) {}
}

impl Ground for Heap {
    fn nudge(&self) {}
}

/// Lanes on the heap.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InOneThread(pub(crate) Geometry);

impl World for InOneThread {
    type Memory = Heap;

    fn producer(&self) -> Heap {
        Heap::new(usize::try_from(self.0.segment_bytes()).expect("a small ring"))
    }

    fn consumer(&self) -> Heap {
        Heap::new(CONSUMER_SEGMENT_BYTES)
    }

    fn pause(&self) {
        panic!("oracle: nobody else runs here");
    }
}
