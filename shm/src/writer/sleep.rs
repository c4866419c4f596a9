//! A producer that waits for room: asleep on its consumer's bell, or in epoll.

use std::time::Duration;

use super::Writer;
use crate::error::Corruption;
use crate::layout::{BY_DOORBELL, C_BELL, P_PARKED};
use crate::memory::{Memory, OwnedMemory};

impl<P: OwnedMemory, C: Memory> Writer<P, C> {
    /// Sleeps until the consumer releases, at most `timeout`. May return early.
    ///
    /// # Errors
    /// As [`Writer::try_reserve`].
    pub fn park(&mut self, slots: u64, timeout: Duration) -> Result<(), Corruption> {
        // Before the number of this sleep can be seen: see Reader::park.
        let rung = self.peer.as_ref().map(|peer| peer.load_u32(C_BELL));
        if let Some(crowd) = &mut self.crowd {
            crowd.hear();
        }
        self.announce_sleep(0);
        let result = self.park_on_bell(rung, slots, timeout);
        self.stop_listening();
        result
    }

    /// Asks the consumer for a doorbell at its next release, for an end that waits in epoll for
    /// `slots` free slots. True if there is still no room, and the doorbell will come; otherwise
    /// it ends the asking at once. As [`Reader::listen`](crate::ring::Reader::listen).
    ///
    /// # Errors
    /// As [`Writer::try_reserve`].
    pub fn listen(&mut self, slots: u64) -> Result<bool, Corruption> {
        self.announce_sleep(BY_DOORBELL);
        let refreshed = self.refresh(slots);
        let full = slots > self.free();
        if refreshed.is_err() || !full {
            self.stop_listening();
        }
        refreshed.map(|()| full)
    }

    /// Wants no doorbell any more. One may be on its way.
    #[inline]
    pub fn stop_listening(&mut self) {
        if self.parked.is_asleep() {
            self.own.store_u32(P_PARKED, self.parked.awake());
        }
    }

    fn announce_sleep(&mut self, how: u32) {
        self.stalls += 1;
        self.store_counters();
        self.own.store_u32(P_PARKED, self.parked.asleep(how));
        // Pairs with the fence in Reader::wake_parked_producer [room]: either it sees us parked,
        // or we see its cursor now.
        self.own.full_fence();
    }

    fn park_on_bell(
        &mut self,
        rung: Option<u32>,
        slots: u64,
        timeout: Duration,
    ) -> Result<(), Corruption> {
        let Some(rung) = rung else {
            return self.park_for_crowd(slots, timeout);
        };
        self.refresh(slots)?;
        if let Some(peer) = &self.peer
            && slots > self.free()
        {
            peer.wait(C_BELL, rung, timeout);
        }
        Ok(())
    }
}
