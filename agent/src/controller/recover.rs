//! The first minute of a new agent: what of the old one's lanes is kept, made again, or let go.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use tokio::sync::watch;
use tracing::{info, warn};

use super::generations::pages_of;
use super::{ControlError, Controller, Setup, now_ms};
use crate::ledger::{Ledger, PageState, Role};
use crate::model::lane::{LaneRecord, SegmentRecord};
use crate::plan::SegmentKey;
use crate::provision::cpu::start_time;
use crate::recovery::{Sighting, Verdict, judge};
use crate::registry::ChangeKind;

/// Changes of one run of the agent have numbers below the next multiple of this.
const REVISIONS_PER_RUN: u64 = 1 << 32;

/// A process that the journal names and that lives: to be watched until it ends or comes back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Watched {
    /// Its segment.
    pub key: SegmentKey,
    /// Its pid.
    pub pid: i32,
    /// Its start time, which tells it from a successor with the same pid.
    pub start_time: u64,
}

impl Controller {
    pub(crate) fn recovered(setup: Setup) -> Result<(Self, Vec<Watched>), ControlError> {
        let run = setup.journal.fact::<u64>("runs")?.unwrap_or(0) + 1;
        setup.journal.set_fact("runs", &run)?;
        setup.journal.set_fact("hugepages_added", &setup.added)?;
        let tickets = setup.journal.tickets()?;
        let mut controller = Self {
            world: setup.world,
            journal: setup.journal,
            registry: setup.registry,
            topology: setup.topology,
            sys_root: setup.sys_root,
            rules: setup.rules,
            generations_max: setup.generations_max,
            boot_id: setup.boot_id,
            added: Arc::new(setup.added),
            ledger: Ledger::new(),
            lanes: HashMap::new(),
            names: HashMap::new(),
            sessions: HashMap::new(),
            held: HashMap::new(),
            pinned: HashSet::new(),
            pins: watch::Sender::new(0),
            holds: BTreeMap::new(),
            tickets,
            revision: run * REVISIONS_PER_RUN,
            changes_since_prune: 0,
        };
        controller.prune(now_ms())?;
        let mut watched = Vec::new();
        for record in controller.journal.lanes()? {
            controller.recover_lane(record, &mut watched)?;
        }
        controller.recover_cores()?;
        controller.publish(None);
        Ok((controller, watched))
    }

    fn recover_lane(
        &mut self,
        record: LaneRecord,
        watched: &mut Vec<Watched>,
    ) -> Result<(), ControlError> {
        let lane = record.id;
        let mut alive = Vec::new();
        let verdict = judge(&record, &self.boot_id, |role, segment| {
            let seen = sighting(segment);
            if let (Sighting::Alive, Some((pid, start_time))) =
                (seen, segment.owner().and_then(|peer| peer.process))
            {
                let key = SegmentKey { lane, role, number: segment.number };
                alive.push(Watched { key, pid, start_time });
            }
            seen
        });
        info!(%lane, name = %record.spec.name, ?verdict, "lane of the agent before");
        match verdict {
            Verdict::Reclaim(_) => self.journal.remove_lane(lane, &self.tickets_of(lane), None)?,
            Verdict::Remake => self.remake(record)?,
            Verdict::Keep { gone } => {
                watched.extend(alive);
                self.keep(record, &gone)?;
            }
        }
        Ok(())
    }

    /// A lane that nobody attached: the same lane on fresh memory, or gone if there is none.
    fn remake(&mut self, mut record: LaneRecord) -> Result<(), ControlError> {
        let lane = record.id;
        let mut holding = record.placement.holding(record.spec.tenant.as_str());
        holding.pages.clear();
        self.ledger.grant(lane.0, holding)?;
        record.generations.clear();
        record.generation = 0;
        if let Err(error) = self.follow(&mut record, 0) {
            warn!(%lane, %error, "lane cannot be made again and is given up");
            self.ledger.release(lane.0)?;
            self.journal.remove_lane(lane, &self.tickets_of(lane), None)?;
            return Ok(());
        }
        self.enter(record)
    }

    /// A lane whose peers live: its memory is theirs, the books say so, the rest is told by them.
    fn keep(&mut self, mut record: LaneRecord, gone: &[(Role, u64)]) -> Result<(), ControlError> {
        let lane = record.id;
        let mut holding = record.placement.holding(record.spec.tenant.as_str());
        holding.pages = record.generations.iter().map(|s| pages_of(&record, s)).collect();
        self.ledger.grant(lane.0, holding)?;
        self.ledger.mark_backed(lane.0)?;
        for (role, number) in gone {
            if let Some(segment) = record.segment_mut(*role, *number) {
                segment.gone |= segment.peer.is_some();
                segment.granted = None;
            }
        }
        record.consumers.retain(|segment| segment.owner().is_some());
        if record.is_broadcast() {
            // A reader that is gone is forgotten: nobody follows in its place.
            record.consumers.retain(|segment| !segment.gone);
        }
        self.remake_waiting(&mut record)?;
        self.enter(record)
    }

    /// A generation that waited for its first producer went with the agent: a fresh one waits.
    fn remake_waiting(&mut self, record: &mut LaneRecord) -> Result<(), ControlError> {
        let Some(lost) = record.generations.pop_if(|segment| segment.owner().is_none()) else {
            return Ok(());
        };
        let pages = pages_of(record, &lost);
        self.ledger.remove_pages(record.id.0, PageState::Backed, pages)?;
        if let Err(error) = self.follow(record, lost.start) {
            warn!(lane = %record.id, %error, "no segment for the next producer");
        }
        Ok(())
    }

    fn enter(&mut self, record: LaneRecord) -> Result<(), ControlError> {
        let id = record.id;
        self.names.insert(record.spec.name.clone(), id);
        self.lanes.insert(id, record);
        self.save(id, ChangeKind::Changed)?;
        Ok(())
    }
}

/// Looks for the process that the journal names.
fn sighting(segment: &SegmentRecord) -> Sighting {
    match segment.owner().and_then(|peer| peer.process) {
        None => Sighting::Unseen,
        Some((pid, started)) if start_time(pid) == Some(started) => Sighting::Alive,
        Some(_) => Sighting::Dead,
    }
}
