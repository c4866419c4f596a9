//! Threads that the agent pins: the step for each, and the journal of the cores that are held.

use std::collections::HashSet;

use tokio::sync::watch;
use tracing::{error, warn};

use super::{ControlError, Controller};
use crate::journal::JournalError;
use crate::ledger::Role;
use crate::model::lane::{HeldCore, Pinning};
use crate::plan::{Hold, SegmentKey, Step};
use crate::provision::{Outcome, StepError};

/// Under which name the journal keeps what is held.
const HELD_CORES: &str = "held_cores";

impl Controller {
    /// The step that pins the thread of an end, if the agent is to do that. A core to be held is
    /// in the journal when this returns: whoever comes after us can put everything back.
    pub(super) fn pin_step(&mut self, key: SegmentKey) -> Result<Option<Step>, ControlError> {
        let session = self.sessions.get(&key).ok_or(ControlError::Fenced)?;
        let record = self.lanes.get(&key.lane).ok_or(ControlError::Fenced)?;
        let (peer, thread) = (session.request.peer, session.request.thread);
        let pinning = record.spec.end(key.role).pinning;
        let end = match key.role {
            Role::Producer => &record.placement.producer,
            Role::Consumer => &record.placement.consumer,
        };
        let (Pinning::Enforce | Pinning::Cpuset, Some(cpu)) = (pinning, end.cpu) else {
            return Ok(None);
        };
        let (pid, _) = peer.process.ok_or_else(|| StepError::Pin {
            pid: 0,
            thread,
            cpu,
            source: std::io::Error::other("the agent cannot see the process: share its pids"),
        })?;
        self.pinned.insert(key);
        self.count_pins();
        if pinning == Pinning::Enforce {
            return Ok(Some(Step::PinThread { key, pid, thread, cpu }));
        }
        let hold = self.world.survey(key, pid, thread, cpu)?;
        self.holds.insert(key, hold.clone());
        self.note_holds()?;
        Ok(Some(Step::HoldCore { hold }))
    }

    /// Takes down what a held core turned out to be worth.
    pub(super) fn note_held(&mut self, key: SegmentKey, outcomes: &[Outcome]) {
        let held = outcomes.iter().find_map(|outcome| match outcome {
            Outcome::Held(held) => Some(*held),
            _ => None,
        });
        self.set_held(key, held);
    }

    fn set_held(&mut self, key: SegmentKey, held: Option<HeldCore>) {
        if let Some(record) = self.lanes.get_mut(&key.lane) {
            record.held[usize::from(key.role == Role::Consumer)] = held;
        }
    }

    /// Puts an end's thread back where it was. The caller saves the lane.
    pub(super) fn let_go(&mut self, key: SegmentKey) {
        self.attempt(&Step::UnpinThread { key });
        if self.pinned.remove(&key) {
            self.count_pins();
        }
        if !self.holds.contains_key(&key) {
            return;
        }
        self.attempt(&Step::FreeCore { key });
        self.holds.remove(&key);
        self.set_held(key, None);
        self.note_holds_or_log();
    }

    /// How many threads the agent pins, now and from now on.
    pub(crate) fn pins(&self) -> watch::Receiver<usize> {
        self.pins.subscribe()
    }

    fn count_pins(&self) {
        self.pins.send_replace(self.pinned.len());
    }

    /// Puts every held thread back: nobody would look after them.
    pub(super) fn let_all_go(&mut self) {
        let keys: Vec<SegmentKey> = self.holds.keys().copied().collect();
        for key in keys {
            self.let_go(key);
        }
    }

    /// Holds the core again of an end that came back to an agent which does not hold it: the one
    /// before ended properly and put everything back.
    pub(super) fn hold_again(&mut self, key: SegmentKey) {
        let record = self.lanes.get(&key.lane);
        let asks = record.is_some_and(|r| r.spec.end(key.role).pinning == Pinning::Cpuset);
        if !asks || self.holds.contains_key(&key) {
            return;
        }
        let held = self
            .pin_step(key)
            .and_then(|step| Ok(self.run_plan(&step.into_iter().collect::<Vec<_>>())?));
        match held {
            Ok(outcomes) => self.note_held(key, &outcomes),
            Err(error) => {
                warn!(lane = %key.lane, role = %key.role, %error, "the core is not held again");
                self.let_go(key);
            }
        }
    }

    /// Takes over what the agent before held: what belongs to an end that may live stays.
    pub(super) fn recover_cores(&mut self) -> Result<(), ControlError> {
        let before = self.journal.fact::<Vec<Hold>>(HELD_CORES)?.unwrap_or_default();
        let lives = |key: &SegmentKey| {
            let segment = self.lanes.get(&key.lane)?.segment(key.role, key.number)?;
            segment.is_held().then_some(*key)
        };
        let keep: HashSet<SegmentKey> = before.iter().filter_map(|hold| lives(&hold.key)).collect();
        let kept = before.iter().filter(|hold| keep.contains(&hold.key));
        self.holds = kept.map(|hold| (hold.key, hold.clone())).collect();
        self.pinned = keep.clone();
        self.count_pins();
        self.world.recover_cores(before, &keep);
        Ok(self.note_holds()?)
    }

    fn note_holds(&self) -> Result<(), JournalError> {
        self.journal.set_fact(HELD_CORES, &self.holds.values().collect::<Vec<_>>())
    }

    fn note_holds_or_log(&self) {
        if let Err(error) = self.note_holds() {
            error!(%error, "held cores could not be journalled");
        }
    }
}
