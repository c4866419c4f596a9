//! A reader of a broadcast lane that goes: it says so itself, to whoever writes the lane now.

use super::Reader;
use crate::layout::{BY_DOORBELL, C_BELL, P_PARKED};
use crate::memory::{Memory, OwnedMemory};
use crate::ring::WaitMode;
use crate::roster;

impl<P: Memory, C: OwnedMemory> Reader<P, C> {
    /// Leaves a broadcast lane: nobody waits for this reader any more, and it reads nothing more.
    pub fn leave(&mut self) {
        roster::leave(&self.own);
        let peer = self.peer.take();
        self.publish();
        if self.wait == WaitMode::Spin {
            return;
        }
        // Whom we hold may be a successor that we have not come to yet: whether that one sleeps
        // we cannot see, but it sleeps on this bell.
        self.own.store_u32(C_BELL, self.bell.ring_unasked());
        self.own.wake(C_BELL);
        // As in wake_parked_producer.
        self.own.full_fence();
        if let Some(peer) = peer.filter(|peer| peer.load_u32(P_PARKED) & BY_DOORBELL != 0) {
            peer.doorbell();
        }
    }
}
