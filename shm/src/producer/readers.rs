//! What a producer knows of the readers of its broadcast lane: who is there, and who holds it.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Producer, SLEEP_MAX};
use crate::error::{AttachError, PeerState, ReserveError};
use crate::lifeline::Lifeline;
use crate::memory::Memory as _;
use crate::ring::{Lag, Start};
use crate::wire::{Frame, PeerSegment, Role};

/// Held this long by one reader, a producer tells the agent; and again after as many times this
/// long, for an agent that was restarted.
const TELL_AFTER: Duration = Duration::from_millis(100);
const TELL_AGAIN: u32 = 10;
/// First sleep of a producer that is held, and after each time that it was woken.
const HELD_SLEEP: Duration = Duration::from_millis(1);

/// The reader that a producer waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The reader and how far it is behind.
    pub lag: Lag,
    /// How long it has held the producer by now.
    pub held: Duration,
}

/// The same, as it is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hold {
    reader: u64,
    since: Instant,
    told: Option<Instant>,
}

impl Producer {
    /// How far each reader of a broadcast lane is behind, as last seen.
    pub fn readers(&self) -> impl Iterator<Item = Lag> + '_ {
        self.ring.lags()
    }

    /// The reader of a gated broadcast lane that the producer waits for, if it does: it found no
    /// room at its last look.
    #[must_use]
    pub fn holder(&self) -> Option<Holder> {
        let hold = self.hold?;
        let lag = self.ring.lags().find(|lag| lag.reader == hold.reader)?;
        Some(Holder { lag, held: hold.since.elapsed() })
    }

    /// Hears of every reader that is there, before the first message.
    pub(crate) fn gather(&mut self, timeout: Duration) -> Result<(), AttachError> {
        const WAITING_FOR: &str = "GATHERED";
        let start = Instant::now();
        loop {
            if self.maintain().is_err() {
                return Err(AttachError::Disconnected { waiting_for: WAITING_FOR });
            }
            if self.gathered {
                return Ok(());
            }
            let waited = start.elapsed();
            if waited >= timeout {
                return Err(AttachError::TimedOut { waiting_for: WAITING_FOR, waited });
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    pub(super) fn let_in(&mut self, segment: PeerSegment, start: Start, fd: OwnedFd) {
        let number = segment.generation;
        if self.grant.broadcast.is_none() || self.ring.knows(number) {
            return;
        }
        // A segment that does not stand up to the check is not let in: its reader waits in vain.
        let Ok((mut region, fd)) = self.prove(segment, fd) else { return };
        region.take_lifeline(self.link.lifeline(number));
        if self.ring.admit(region, number, start).is_some() {
            self.greet(number);
            self.link.hold(Role::Consumer, number, fd);
            self.link.peer = PeerState::Live;
        }
    }

    pub(super) fn take_lifeline(&mut self, number: u64, fd: OwnedFd) {
        let lifeline = Arc::new(Lifeline::new(fd));
        match self.ring.peer_mut(number) {
            Some(peer) => peer.take_lifeline(Some(lifeline)),
            None => return self.link.keep_lifeline(number, lifeline),
        }
        // Joined before: it may wait for a ring that it could not get.
        self.greet(number);
    }

    /// Rings once for a peer that waits in epoll: from now on we look at its parked word, and what
    /// was committed before it sees when it looks.
    pub(super) fn greet(&mut self, number: u64) {
        if let Some(peer) = self.ring.peer_mut(number) {
            peer.doorbell();
        }
    }

    pub(super) fn reader_gone(&mut self, number: u64) {
        self.ring.dismiss(number);
        self.link.forget(Role::Consumer, number);
        if self.ring.lags().next().is_none() {
            self.link.peer = PeerState::Gone;
        }
    }

    pub(super) fn report_given_up(&mut self) {
        for given_up in self.ring.take_given_up() {
            let (reader, at, reason) = (given_up.reader, given_up.at, given_up.reason);
            self.link.tell(&Frame::GivenUp { reader, at, reason });
        }
    }

    /// There is no room: whose doing is it?
    pub(super) fn note_hold(&mut self) {
        let Some(slowest) = self.ring.slowest() else { return };
        let hold = match self.hold.filter(|hold| hold.reader == slowest.reader) {
            Some(hold) => hold,
            None => Hold { reader: slowest.reader, since: Instant::now(), told: None },
        };
        let (now, held) = (Instant::now(), hold.since.elapsed());
        let due = match hold.told {
            None => held >= TELL_AFTER,
            Some(told) => now.duration_since(told) >= TELL_AFTER * TELL_AGAIN,
        };
        if due {
            let held_ms = u64::try_from(held.as_millis()).unwrap_or(u64::MAX);
            self.link.tell(&Frame::Held { reader: hold.reader, held_ms });
        }
        self.hold = Some(Hold { told: if due { Some(now) } else { hold.told }, ..hold });
    }

    /// There is room.
    #[inline]
    pub(super) fn let_go(&mut self) {
        if let Some(hold) = self.hold.take()
            && hold.told.is_some()
        {
            self.link.tell(&Frame::Held { reader: 0, held_ms: 0 });
        }
    }

    /// One sleep of a wait for room, and a look at the agent after it.
    ///
    /// The agent wakes a producer that a reader held until it died, and may do so before its word
    /// is in the socket, or before the sleep. So a held producer sleeps as long as it has waited or
    /// been awake since it was `woken`: such a death makes its wait twice as long at worst.
    pub(super) fn sleep_for_room(
        &mut self,
        slots: u64,
        start: Instant,
        timeout: Duration,
        woken: &mut Duration,
    ) -> Result<(), ReserveError> {
        let waited = start.elapsed();
        let longest = match self.grant.broadcast {
            None => SLEEP_MAX,
            Some(_) => waited.saturating_sub(*woken).clamp(HELD_SLEEP, SLEEP_MAX),
        };
        let limit = longest.min(timeout.saturating_sub(waited));
        self.ring.park(slots, limit)?;
        let awake = start.elapsed();
        if awake < waited + limit {
            *woken = awake;
        }
        self.maintain()
    }

    pub(super) fn timed_out(&self, waited: Duration) -> ReserveError {
        match self.holder() {
            None => ReserveError::TimedOut { waited, state: self.link.peer },
            Some(Holder { lag, held }) => {
                ReserveError::Held { waited, reader: lag.reader, lag_slots: lag.slots, held }
            }
        }
    }
}
