//! Making a lane: admission, placement, intent, effects, outcome.

use std::sync::Weak;

use super::{ControlError, Controller, RequestId, now_ms, random};
use crate::admission::admit;
use crate::journal::RequestRecord;
use crate::ledger::Role;
use crate::model::capacity::PageSize;
use crate::model::id::LaneId;
use crate::model::lane::{LaneRecord, LaneSpec, Stage};
use crate::placement::depth::propose;
use crate::placement::{Placement, place};
use crate::plan::{SegmentKey, Step};
use crate::provision::is_page_shortage;
use crate::registry::{ChangeKind, LaneView};

impl Controller {
    pub(crate) fn create(
        &mut self,
        request: &RequestId,
        validate_only: bool,
        spec: LaneSpec,
    ) -> Result<LaneView, ControlError> {
        if let Some(answered) = self.answered(request)? {
            return Ok(answered);
        }
        self.prune_sometimes(now_ms())?;
        let taken = self.names.contains_key(&spec.name);
        admit(&spec, &self.rules, self.lanes.len(), taken)?;
        self.refresh_pools();
        let (spec, depth_reason) = self.with_depth(spec)?;
        let size_bytes = spec.geometry()?.segment_bytes();
        let mut ladder = spec.page_ladder(size_bytes);
        let mut refused = Vec::new();
        loop {
            let placement = self.placed(&spec, size_bytes, &ladder, &refused)?;
            let page_size = placement.page_size;
            let mut record = self.draft_record(&spec, placement, &refused);
            record.depth_reason.clone_from(&depth_reason);
            if validate_only {
                return Ok(self.view(&record));
            }
            match self.provision_new(record, request) {
                Err(ControlError::Step(error)) if is_page_shortage(&error, page_size) => {
                    // The pool's count was not the whole truth: a cgroup limit, or a race.
                    refused.push((page_size, error.to_string()));
                    ladder.retain(|size| *size != page_size);
                }
                result => return result,
            }
        }
    }

    /// The spec with a depth: its own, or one that suits the cores which the lane would get.
    fn with_depth(&self, mut spec: LaneSpec) -> Result<(LaneSpec, Option<String>), ControlError> {
        if spec.slot_count != 0 {
            return Ok((spec, None));
        }
        let caches = self.topology.caches;
        let depth = |relation| propose(spec.slot_payload_bytes, spec.profile, caches, relation);
        let shallow = LaneSpec { slot_count: depth(None)?.slot_count, ..spec.clone() };
        let size_bytes = shallow.geometry()?.segment_bytes();
        let ladder = shallow.page_ladder(size_bytes);
        let relation = self.placed(&shallow, size_bytes, &ladder, &[])?.relation;
        let chosen = depth(relation)?;
        spec.slot_count = chosen.slot_count;
        Ok((spec, Some(chosen.reason)))
    }

    /// The answer to the same request from before, if there is one.
    pub(super) fn answered(&self, request: &RequestId) -> Result<Option<LaneView>, ControlError> {
        if request.id.is_empty() {
            return Ok(None);
        }
        match self.journal.request(&request.id)? {
            None => Ok(None),
            Some(record) if record.hash == request.hash => Ok(Some(LaneView {
                record: record.lane,
                connected: [false; 2],
                producer: Weak::new(),
                consumer: Weak::new(),
                readers: Vec::new(),
                held: None,
            })),
            Some(_) => Err(ControlError::RequestIdReused { id: request.id.clone() }),
        }
    }

    fn placed(
        &self,
        spec: &LaneSpec,
        size_bytes: u64,
        ladder: &[PageSize],
        refused: &[(PageSize, String)],
    ) -> Result<Placement, ControlError> {
        if ladder.is_empty() {
            return Err(ControlError::out_of_pages(size_bytes, refused));
        }
        let request = spec.place_request(size_bytes, ladder.to_vec(), &self.rules.cpuset);
        place(&request, &self.topology, &self.ledger)
            .map_err(|refusal| ControlError::Refused(Box::new(refusal)))
    }

    fn draft_record(
        &self,
        spec: &LaneSpec,
        placement: Placement,
        refused: &[(PageSize, String)],
    ) -> LaneRecord {
        LaneRecord {
            id: LaneId(random()),
            spec: spec.clone(),
            depth_reason: None,
            placement,
            refused_pages: refused.to_vec(),
            bound: false,
            stage: Stage::Provisioning,
            boot_id: self.boot_id.clone(),
            created_ms: now_ms(),
            revision: self.revision + 1,
            generation: 0,
            incarnation: 0,
            generations: Vec::new(),
            consumers: Vec::new(),
            released: 0,
            schema: spec.schema,
            drifts: [0; 2],
            held: [None; 2],
        }
    }

    /// Books, journals and makes a placed lane. On any failure nothing is left of it.
    fn provision_new(
        &mut self,
        mut record: LaneRecord,
        request: &RequestId,
    ) -> Result<LaneView, ControlError> {
        let (id, page_size) = (record.id, record.placement.page_size);
        let holding = record.placement.holding(record.spec.tenant.as_str());
        self.ledger.grant(id.0, holding)?;
        let made =
            self.journal.put_lane(&record, None).map_err(ControlError::from).and_then(|()| {
                let segment = self.make_generation(&mut record, 0, page_size)?;
                record.generations.push(segment);
                record.stage = Stage::Ready;
                record.revision = self.revision + 1;
                let lane = record.clone();
                let answer = RequestRecord { hash: request.hash.clone(), lane, at_ms: now_ms() };
                let answer = (!request.id.is_empty()).then_some((request.id.as_str(), &answer));
                self.journal.put_lane(&record, answer)?;
                Ok(())
            });
        if let Err(error) = made {
            let number = record.generation;
            let key = SegmentKey { lane: id, role: Role::Producer, number };
            self.attempt(&Step::DropSegment { key });
            self.ledger.release(id.0)?;
            self.journal.remove_lane(id, &[], None)?;
            return Err(error);
        }
        self.ledger.mark_backed(id.0)?;
        self.revision = record.revision;
        self.names.insert(record.spec.name.clone(), id);
        self.lanes.insert(id, record);
        self.publish(Some((ChangeKind::Created, id)));
        let record = &self.lanes[&id];
        tracing::info!(lane = %id, name = %record.spec.name, tenant = %record.spec.tenant,
            page_size = %record.placement.page_size, node = record.placement.node, "lane created");
        Ok(self.view(record))
    }
}
