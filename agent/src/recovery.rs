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
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// A peer lives or may live: keep it, wait for its segments.
    Keep {
        /// Segments whose peers are known to be gone, by role and number.
        gone: Vec<(Role, u64)>,
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
    let attached_once = !lane.consumers.is_empty()
        || lane.generations.iter().any(|segment| segment.owner().is_some() || segment.number > 1);
    if !attached_once {
        return Verdict::Remake;
    }
    let producer = lane.generations.last().map(|segment| (Role::Producer, segment));
    let consumers = lane.consumers.iter().map(|segment| (Role::Consumer, segment));
    let (mut held, mut gone) = (false, Vec::new());
    for (role, segment) in producer.into_iter().chain(consumers) {
        let seen = if segment.is_held() { sighting(role, segment) } else { Sighting::Dead };
        match seen {
            Sighting::Dead => gone.push((role, segment.number)),
            Sighting::Alive | Sighting::Unseen => held = true,
        }
    }
    if held { Verdict::Keep { gone } } else { Verdict::Reclaim(Reason::PeersDead) }
}
