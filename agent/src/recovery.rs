//! What to do with each lane of the journal after a restart.
//!
//! A pure function from what the journal says and what the world shows to one verdict per lane.
//! Running it again on its own result changes nothing.

use crate::ledger::Role;
use crate::model::lane::{LaneRecord, SegmentRecord, Stage};

/// What the world shows of a peer that the journal names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sighting {
    /// The very process (pid and start time) runs.
    Alive,
    /// It does not.
    Dead,
    /// This agent cannot see that far; only the peer itself can tell.
    Unseen,
}

/// What is to be done with a lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// A peer lives or may live: keep it, wait for its segments.
    Keep {
        /// The producer is known to be gone.
        producer_gone: bool,
        /// The consumer is known to be gone.
        consumer_gone: bool,
    },
    /// Nobody ever attached: nothing was lost with the old agent, make it again.
    Remake,
    /// Nobody is left: its memory is gone.
    Reclaim(Reason),
}

/// Why a lane is reclaimed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// Its provisioning was never finished.
    Unfinished,
    /// The kernel that held its memory is gone.
    Rebooted,
    /// Every process that held it is dead.
    PeersDead,
}

/// Judges one lane. `sighting` is asked for every peer that the journal believes alive.
pub fn judge(
    lane: &LaneRecord,
    boot_id: &str,
    mut sighting: impl FnMut(Role, &SegmentRecord) -> Sighting,
) -> Verdict {
    if lane.stage == Stage::Provisioning {
        return Verdict::Reclaim(Reason::Unfinished);
    }
    if lane.boot_id != boot_id {
        return Verdict::Reclaim(Reason::Rebooted);
    }
    let mut look = |role: Role| {
        lane.newest(role)
            .filter(|segment| segment.is_held())
            .map_or(Sighting::Dead, |segment| sighting(role, segment))
    };
    let (producer, consumer) = (look(Role::Producer), look(Role::Consumer));
    let attached_once = lane.consumer.is_some()
        || lane.generations.iter().any(|segment| segment.peer.is_some() || segment.number > 1);
    if !attached_once {
        return Verdict::Remake;
    }
    if producer == Sighting::Dead && consumer == Sighting::Dead {
        return Verdict::Reclaim(Reason::PeersDead);
    }
    Verdict::Keep {
        producer_gone: producer == Sighting::Dead,
        consumer_gone: consumer == Sighting::Dead,
    }
}
