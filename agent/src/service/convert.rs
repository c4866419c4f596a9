//! Messages to values and back: the only file that names both.
//!
//! Every field is checked where it enters. A field whose feature does not exist yet is refused.

use std::collections::HashMap;
use std::time::{Duration, UNIX_EPOCH};

use laneway_proto::v1;
use laneway_shm::geometry::Geometry;
use laneway_shm::observer::Counters;
use laneway_shm::{Profile, Reason};
use prost_types::Timestamp;
use tonic::Status;

use super::status::BadField;
use crate::ledger::Role;
use crate::model::capacity::{CpuSet, PageCount, PageSize};
use crate::model::id::Name;
use crate::model::lane::{
    BroadcastPolicy, BroadcastSpec, EndSpec, HeldCore, LaneSpec, Pinning, SegmentRecord,
};
use crate::placement::{CacheRelationRule, EndPlacement, Grade};
use crate::registry::{LaneView, ReaderView};

/// User and group ids that one end may list: a record must stay small.
const IDS_MAX: usize = 64;
/// Readers of a broadcast lane at a time: as many as the format has entries.
const READERS_MAX: u32 = 64;
const _: () = assert!(READERS_MAX as usize == laneway_shm::layout::READERS_MAX);
/// Characters of a request id.
const REQUEST_ID_MAX: usize = 64;

/// A request id, as a caller may choose it.
pub(super) fn request_id(id: &str) -> Result<String, BadField> {
    if id.len() > REQUEST_ID_MAX || !id.bytes().all(|byte| byte.is_ascii_graphic()) {
        let allowed = "must be at most 64 printable ASCII characters without spaces";
        return Err(BadField::new("request_id", allowed));
    }
    Ok(id.to_owned())
}

/// A lane's specification as `CreateLane` reads it. `tenant` is the default tenant.
///
/// # Errors
/// The refusal that the caller gets.
pub fn spec_from_proto(message: Option<v1::LaneSpec>, tenant: &Name) -> Result<LaneSpec, Status> {
    Ok(spec(message, tenant)?)
}

/// A lane's specification. `tenant` is the default tenant.
pub(super) fn spec(spec: Option<v1::LaneSpec>, tenant: &Name) -> Result<LaneSpec, BadField> {
    let spec = spec.ok_or_else(|| BadField::new("spec", "is required"))?;
    let geometry = spec.geometry.ok_or_else(|| BadField::new("spec.geometry", "is required"))?;
    let pages = spec.pages.unwrap_or_default();
    let broadcast = broadcast(spec.shape, spec.broadcast, geometry.slot_count)?;
    let mut consumer = spec.consumer.unwrap_or_default();
    if let Some(broadcast) = broadcast {
        readers(&mut consumer, broadcast)?;
    }
    let checked = LaneSpec {
        name: name("spec.name", &spec.name)?,
        tenant: if spec.tenant.is_empty() {
            tenant.clone()
        } else {
            name("spec.tenant", &spec.tenant)?
        },
        slot_payload_bytes: geometry.slot_payload_bytes,
        slot_count: geometry.slot_count,
        page_size: page_size(pages.page_size_bytes)?,
        page_required: pages.require,
        park: wait(spec.wait)?,
        profile: profile(spec.profile)?,
        producer: end("spec.producer", spec.producer.unwrap_or_default())?,
        consumer: end("spec.consumer", consumer)?,
        numa_node: spec.numa_node,
        relation: relation(spec.relation)?,
        schema: spec.schema_id,
        broadcast,
    };
    if checked.page_required && checked.page_size.is_none() {
        return Err(BadField::new("spec.pages.require", "needs spec.pages.page_size_bytes"));
    }
    // Without a depth, the payload at least must be one of which a ring can be made.
    let slots = if checked.slot_count == 0 { 2 } else { checked.slot_count };
    match Geometry::for_profile(checked.slot_payload_bytes, slots, checked.profile) {
        Ok(_) => Ok(checked),
        Err(laneway_shm::SegmentError::Geometry { field, found, allowed }) => {
            Err(match field {
                "slot_payload_bytes" | "slot_count" => BadField::new(
                    format!("spec.geometry.{field}"),
                    format!("is {found}, allowed is {allowed}"),
                ),
                // A limit on both together: a path names one field.
                both => BadField::new(
                    "spec.geometry",
                    format!("{both} is {found}, allowed is {allowed}"),
                ),
            })
        }
        Err(other) => Err(BadField::new("spec.geometry", other.to_string())),
    }
}

fn name(field: &str, text: &str) -> Result<Name, BadField> {
    Name::parse(text).map_err(|error| BadField::new(field, error.to_string()))
}

fn page_size(bytes: u64) -> Result<Option<PageSize>, BadField> {
    match bytes {
        0 => Ok(None),
        bytes => PageSize::from_bytes(bytes)
            .map(Some)
            .map_err(|error| BadField::new("spec.pages.page_size_bytes", error.to_string())),
    }
}

/// What the shape and its own part of the spec ask for. `slot_count` is 0 where it is left open.
fn broadcast(
    shape: i32,
    asked: Option<v1::BroadcastSpec>,
    slot_count: u32,
) -> Result<Option<BroadcastSpec>, BadField> {
    match v1::Shape::try_from(shape) {
        Ok(v1::Shape::Unspecified | v1::Shape::Spsc) if asked.is_none() => return Ok(None),
        Ok(v1::Shape::Unspecified | v1::Shape::Spsc) => {
            let description = "is only for SHAPE_BROADCAST; set spec.shape or leave it out";
            return Err(BadField::new("spec.broadcast", description));
        }
        Ok(v1::Shape::Broadcast) => {}
        Err(_) => return Err(unknown("spec.shape", shape)),
    }
    let asked = asked.unwrap_or_default();
    let readers_max = match asked.readers_max {
        0 => READERS_MAX,
        readers if readers <= READERS_MAX => readers,
        readers => {
            let description = format!("is {readers}, allowed is 0 to {READERS_MAX}");
            return Err(BadField::new("spec.broadcast.readers_max", description));
        }
    };
    let lag_budget_slots = asked.lag_budget_slots;
    let policy = match v1::BroadcastPolicy::try_from(asked.policy) {
        Ok(v1::BroadcastPolicy::Unspecified | v1::BroadcastPolicy::Gated) => BroadcastPolicy::Gated,
        Ok(v1::BroadcastPolicy::Evicting) => BroadcastPolicy::Evicting { lag_budget_slots },
        Ok(v1::BroadcastPolicy::Overwrite) => BroadcastPolicy::Overwrite,
        Err(_) => return Err(unknown("spec.broadcast.policy", asked.policy)),
    };
    let budget = |description| Err(BadField::new("spec.broadcast.lag_budget_slots", description));
    match policy {
        _ if lag_budget_slots == 0 => Ok(Some(BroadcastSpec { policy, readers_max })),
        BroadcastPolicy::Gated | BroadcastPolicy::Overwrite => {
            budget("is only for BROADCAST_POLICY_EVICTING; leave it out".to_owned())
        }
        BroadcastPolicy::Evicting { .. } if slot_count == 0 => {
            budget("needs spec.geometry.slot_count, of which it is a part".to_owned())
        }
        BroadcastPolicy::Evicting { .. } if lag_budget_slots > slot_count => {
            budget(format!("is {lag_budget_slots}, allowed is 0 to the {slot_count} slots"))
        }
        BroadcastPolicy::Evicting { .. } => Ok(Some(BroadcastSpec { policy, readers_max })),
    }
}

/// Many readers get no cores in this version.
fn readers(end: &mut v1::EndSpec, broadcast: BroadcastSpec) -> Result<(), BadField> {
    if broadcast.readers_max == 1 {
        return Ok(());
    }
    match v1::Pinning::try_from(end.pinning) {
        Ok(v1::Pinning::Unspecified) => end.pinning = v1::Pinning::None.into(),
        Ok(v1::Pinning::Self_ | v1::Pinning::Enforce | v1::Pinning::Cpuset) => {
            let description = "must be PINNING_NONE with readers_max above 1: readers get no cores \
                               in this version";
            return Err(BadField::unimplemented("spec.consumer.pinning", description));
        }
        Ok(v1::Pinning::None) | Err(_) => {}
    }
    Ok(())
}

fn wait(mode: i32) -> Result<bool, BadField> {
    match v1::WaitMode::try_from(mode) {
        Ok(v1::WaitMode::Unspecified | v1::WaitMode::Spin) => Ok(false),
        Ok(v1::WaitMode::Park) => Ok(true),
        Err(_) => Err(unknown("spec.wait", mode)),
    }
}

fn profile(profile: i32) -> Result<Profile, BadField> {
    match v1::Profile::try_from(profile) {
        Ok(v1::Profile::Unspecified | v1::Profile::Latency) => Ok(Profile::Latency),
        Ok(v1::Profile::Throughput) => Ok(Profile::Throughput),
        Err(_) => Err(unknown("spec.profile", profile)),
    }
}

fn relation(relation: i32) -> Result<CacheRelationRule, BadField> {
    match v1::CacheRelation::try_from(relation) {
        Ok(v1::CacheRelation::Unspecified | v1::CacheRelation::Any) => Ok(CacheRelationRule::Any),
        Ok(v1::CacheRelation::SameNode) => Ok(CacheRelationRule::SameNode),
        Ok(v1::CacheRelation::SameL3) => Ok(CacheRelationRule::SameL3),
        Err(_) => Err(unknown("spec.relation", relation)),
    }
}

fn unknown(field: &str, value: i32) -> BadField {
    BadField::new(field, format!("has the unknown value {value}"))
}

fn end(path: &str, end: v1::EndSpec) -> Result<EndSpec, BadField> {
    let at = |field: &str| format!("{path}.{field}");
    for (field, ids) in [("uids", &end.uids), ("gids", &end.gids)] {
        if ids.len() > IDS_MAX {
            let description = format!("has {} entries, at most {IDS_MAX} are allowed", ids.len());
            return Err(BadField::new(at(field), description));
        }
    }
    let pinning = match v1::Pinning::try_from(end.pinning) {
        Ok(v1::Pinning::Unspecified | v1::Pinning::Self_) => Pinning::Own,
        Ok(v1::Pinning::None) => Pinning::None,
        Ok(v1::Pinning::Enforce) => Pinning::Enforce,
        Ok(v1::Pinning::Cpuset) => Pinning::Cpuset,
        Err(_) => return Err(unknown(&at("pinning"), end.pinning)),
    };
    let allowed = match end.allowed_cpus.as_str() {
        "" => None,
        text => Some(cpu_list(&at("allowed_cpus"), text)?),
    };
    let min_grade = grade(&at("min_grade"), end.min_grade)?;
    let wants_core =
        end.exclusive || end.cpu.is_some() || min_grade.is_some_and(|grade| grade != Grade::D);
    if pinning == Pinning::None && wants_core {
        let description = "is PINNING_NONE, but exclusive, cpu or min_grade ask for a core";
        return Err(BadField::new(at("pinning"), description));
    }
    if let Some(cpu) = end.cpu.filter(|cpu| *cpu >= CpuSet::ID_LIMIT) {
        let description = format!("is {cpu}, allowed is 0 to {}", CpuSet::ID_LIMIT - 1);
        return Err(BadField::new(at("cpu"), description));
    }
    Ok(EndSpec {
        pinning,
        exclusive: end.exclusive,
        cpu: end.cpu,
        allowed,
        min_grade,
        uids: end.uids,
        gids: end.gids,
    })
}

fn cpu_list(field: &str, text: &str) -> Result<CpuSet, BadField> {
    if text.len() > 1024 {
        let description = format!("has {} characters, at most 1024 are allowed", text.len());
        return Err(BadField::new(field, description));
    }
    let parsed = text.parse::<CpuSet>().map_err(|error| BadField::new(field, error.to_string()))?;
    if parsed.is_empty() {
        return Err(BadField::new(field, "names no cpu"));
    }
    Ok(parsed)
}

fn grade(field: &str, grade: i32) -> Result<Option<Grade>, BadField> {
    Ok(match v1::Grade::try_from(grade) {
        Ok(v1::Grade::Unspecified) => None,
        Ok(v1::Grade::A) => Some(Grade::A),
        Ok(v1::Grade::B) => Some(Grade::B),
        Ok(v1::Grade::C) => Some(Grade::C),
        Ok(v1::Grade::D) => Some(Grade::D),
        Err(_) => return Err(unknown(field, grade)),
    })
}

/// A role; both ends must be named.
pub(super) fn role(role: i32) -> Result<Role, BadField> {
    match v1::Role::try_from(role) {
        Ok(v1::Role::Producer) => Ok(Role::Producer),
        Ok(v1::Role::Consumer) => Ok(Role::Consumer),
        Ok(v1::Role::Unspecified) => Err(BadField::new("role", "is required")),
        Err(_) => Err(unknown("role", role)),
    }
}

/// A lane as callers see it.
#[must_use]
pub fn lane_to_proto(view: &LaneView) -> v1::Lane {
    let record = &view.record;
    let producer = view.producer.upgrade().map(|view| view.counters()).unwrap_or_default();
    let consumer = view.consumer.upgrade().map(|view| view.counters()).unwrap_or_default();
    let readers = readers_to_proto(view, producer.position);
    let consumer_lag = producer.position.saturating_sub(consumer.position.max(record.released));
    let lag_slots = match record.is_broadcast() {
        true => readers.iter().map(|reader| reader.lag_slots).max().unwrap_or(0),
        false => consumer_lag,
    };
    let ends = [
        (Role::Producer, &record.placement.producer, producer),
        (Role::Consumer, &record.placement.consumer, consumer),
    ];
    let [producer_status, consumer_status] =
        ends.map(|(role, placed, counters)| end_to_proto(view, role, placed, counters));
    v1::Lane {
        id: record.id.to_string(),
        spec: Some(spec_to_proto(&record.spec)),
        placement: Some(placement_to_proto(view)),
        producer: Some(producer_status),
        consumer: Some(consumer_status),
        generation: record.generation,
        lag_slots,
        open_generations: u32::try_from(record.generations.len()).unwrap_or(u32::MAX),
        revision: record.revision,
        create_time: Some(timestamp(record.created_ms)),
        readers,
        schema_id: record.schema,
    }
}

/// The readers of a broadcast lane, whose producer is at `position`.
fn readers_to_proto(view: &LaneView, position: u64) -> Vec<v1::ReaderStatus> {
    use v1::reader_status::GivenUp;
    let producer = view.producer.upgrade();
    let readers = view.record.consumers.iter().zip(&view.readers);
    let status = |(segment, reader): (&SegmentRecord, &ReaderView)| {
        let memory = reader.view.upgrade();
        let counters = memory.as_ref().map(|memory| memory.counters()).unwrap_or_default();
        let entry = producer.as_ref().and_then(|producer| producer.reader(segment.number));
        let reason = entry.and_then(|entry| producer.as_ref()?.given_up(&entry));
        let from = entry.map_or(segment.start, |entry| entry.joined_at);
        let since = view.held.filter(|(number, _)| *number == segment.number);
        v1::ReaderStatus {
            number: segment.number,
            state: state_of(segment, reader.connected).into(),
            lag_slots: position.saturating_sub(counters.position.max(from)),
            gates_since: since.map(|(_, since_ms)| timestamp(since_ms)),
            given_up: match reason {
                None => GivenUp::Unspecified,
                Some(Reason::Behind) => GivenUp::Behind,
                Some(Reason::Lied) => GivenUp::Lied,
            }
            .into(),
            lost_slots: memory.as_ref().map_or(0, |memory| memory.lost()),
            joined: entry.is_some(),
            uid: segment.owner().map(|peer| peer.uid),
            pid: segment.owner().and_then(|peer| u32::try_from(peer.process?.0).ok()),
            counters: Some(counters_to_proto(counters)),
        }
    };
    readers.map(status).collect()
}

fn state_of(segment: &SegmentRecord, connected: bool) -> v1::end_status::State {
    use v1::end_status::State;
    match segment {
        segment if segment.gone => State::Gone,
        segment if segment.owner().is_some() && connected => State::Live,
        segment if segment.owner().is_some() => State::Unconfirmed,
        _ => State::Absent,
    }
}

/// The state of an end: of many readers, that of the one that is there.
fn end_state(view: &LaneView, role: Role) -> v1::end_status::State {
    use v1::end_status::State;
    let record = &view.record;
    if role == Role::Consumer && record.is_broadcast() {
        let readers = record.consumers.iter().zip(&view.readers);
        let mut states = readers.map(|(segment, reader)| state_of(segment, reader.connected));
        let gone = if record.incarnation > 0 { State::Gone } else { State::Absent };
        return states
            .clone()
            .find(|state| *state == State::Live)
            .or_else(|| states.next())
            .unwrap_or(gone);
    }
    let connected = view.connected[usize::from(role == Role::Consumer)];
    match record.newest(role) {
        // A fresh generation waits: whether there was an owner before, the count tells.
        Some(segment) if segment.owner().is_none() && segment.number > 1 => State::Gone,
        Some(segment) => state_of(segment, connected),
        None => State::Absent,
    }
}

fn counters_to_proto(counters: Counters) -> v1::Counters {
    v1::Counters {
        position: counters.position,
        messages: counters.messages,
        bytes: counters.bytes,
        waits: counters.waits,
    }
}

/// Milliseconds since 1970 as a timestamp.
pub(super) fn timestamp(ms: u64) -> Timestamp {
    Timestamp::from(UNIX_EPOCH + Duration::from_millis(ms))
}

fn spec_to_proto(spec: &LaneSpec) -> v1::LaneSpec {
    let relation = match spec.relation {
        CacheRelationRule::Any => v1::CacheRelation::Any,
        CacheRelationRule::SameL3 => v1::CacheRelation::SameL3,
        CacheRelationRule::SameNode => v1::CacheRelation::SameNode,
    };
    let shape = if spec.broadcast.is_some() { v1::Shape::Broadcast } else { v1::Shape::Spsc };
    let wait = if spec.park { v1::WaitMode::Park } else { v1::WaitMode::Spin };
    let profile = match spec.profile {
        Profile::Latency => v1::Profile::Latency,
        Profile::Throughput => v1::Profile::Throughput,
    };
    v1::LaneSpec {
        name: spec.name.to_string(),
        tenant: spec.tenant.to_string(),
        geometry: Some(v1::Geometry {
            slot_payload_bytes: spec.slot_payload_bytes,
            slot_count: spec.slot_count,
        }),
        pages: Some(v1::PageRequest {
            page_size_bytes: spec.page_size.map_or(0, PageSize::bytes),
            require: spec.page_required,
        }),
        wait: wait.into(),
        profile: profile.into(),
        producer: Some(end_spec_to_proto(&spec.producer)),
        consumer: Some(end_spec_to_proto(&spec.consumer)),
        numa_node: spec.numa_node,
        relation: relation.into(),
        schema_id: spec.schema,
        shape: shape.into(),
        broadcast: spec.broadcast.map(broadcast_to_proto),
    }
}

fn broadcast_to_proto(spec: BroadcastSpec) -> v1::BroadcastSpec {
    let (policy, lag_budget_slots) = match spec.policy {
        BroadcastPolicy::Gated => (v1::BroadcastPolicy::Gated, 0),
        BroadcastPolicy::Evicting { lag_budget_slots } => {
            (v1::BroadcastPolicy::Evicting, lag_budget_slots)
        }
        BroadcastPolicy::Overwrite => (v1::BroadcastPolicy::Overwrite, 0),
    };
    v1::BroadcastSpec { policy: policy.into(), lag_budget_slots, readers_max: spec.readers_max }
}

fn end_spec_to_proto(spec: &EndSpec) -> v1::EndSpec {
    v1::EndSpec {
        pinning: pinning_to_proto(spec.pinning).into(),
        exclusive: spec.exclusive,
        cpu: spec.cpu,
        allowed_cpus: spec.allowed.as_ref().map(ToString::to_string).unwrap_or_default(),
        min_grade: spec.min_grade.map_or(v1::Grade::Unspecified, grade_to_proto).into(),
        uids: spec.uids.clone(),
        gids: spec.gids.clone(),
    }
}

fn pinning_to_proto(pinning: Pinning) -> v1::Pinning {
    match pinning {
        Pinning::None => v1::Pinning::None,
        Pinning::Own => v1::Pinning::Self_,
        Pinning::Enforce => v1::Pinning::Enforce,
        Pinning::Cpuset => v1::Pinning::Cpuset,
    }
}

fn grade_to_proto(grade: Grade) -> v1::Grade {
    match grade {
        Grade::A => v1::Grade::A,
        Grade::B => v1::Grade::B,
        Grade::C => v1::Grade::C,
        Grade::D => v1::Grade::D,
    }
}

fn placement_to_proto(view: &LaneView) -> v1::Placement {
    let record = &view.record;
    let placed = &record.placement;
    let considered = placed.steps_down.iter().map(|step| v1::StepDown {
        page_size_bytes: step.page_size.bytes(),
        reason: step.to_string(),
    });
    let refused = record
        .refused_pages
        .iter()
        .map(|(size, why)| v1::StepDown { page_size_bytes: size.bytes(), reason: why.clone() });
    // What the newest generation lies on, which may be less than what was placed.
    let newest = record.generations.last();
    let page_size = newest.map_or(placed.page_size, |segment| segment.page_size);
    let page_count = newest.map_or(placed.page_count, |segment| {
        PageCount::pages_for(segment.size_bytes, segment.page_size)
    });
    v1::Placement {
        numa_node: placed.node,
        page_size_bytes: page_size.bytes(),
        page_count: page_count.get(),
        segment_bytes: page_count.bytes(page_size).unwrap_or(0),
        steps_down: refused.chain(considered).collect(),
        bound: record.bound,
        actual_numa_node: view.producer.upgrade().and_then(|view| view.numa_node()),
        relation: placed.relation.map(|relation| relation.to_string()).unwrap_or_default(),
        score: placed.score.clone(),
        proof: format!("{:?}", placed.proof).to_lowercase(),
        depth_reason: record.depth_reason.clone().unwrap_or_default(),
    }
}

fn end_to_proto(
    view: &LaneView,
    role: Role,
    placed: &EndPlacement,
    counters: Counters,
) -> v1::EndStatus {
    let record = &view.record;
    let segment = record.newest(role).filter(|_| role == Role::Producer || !record.is_broadcast());
    let state = end_state(view, role);
    let peer = segment.filter(|s| SegmentRecord::is_held(s)).and_then(SegmentRecord::owner);
    let held = record.held[usize::from(role == Role::Consumer)];
    let incarnation = match role {
        Role::Producer => record.generation,
        Role::Consumer => record.incarnation,
    };
    v1::EndStatus {
        state: state.into(),
        cpu: placed.cpu,
        grade: grade_to_proto(held.map_or(placed.grade, |held| held.grade(placed.grade))).into(),
        facts: facts_to_proto(placed, held),
        pinning: pinning_to_proto(record.spec.end(role).pinning).into(),
        drifts: record.drifts[usize::from(role == Role::Consumer)],
        uid: peer.map(|peer| peer.uid),
        pid: peer.and_then(|peer| u32::try_from(peer.process?.0).ok()),
        incarnation,
        counters: Some(counters_to_proto(counters)),
    }
}

fn facts_to_proto(placed: &EndPlacement, held: Option<HeldCore>) -> HashMap<String, String> {
    let facts = &placed.facts;
    let mut all = vec![
        ("exclusive", facts.exclusive.to_string()),
        ("isolated", facts.isolated.to_string()),
        ("nohz_full", facts.nohz_full.to_string()),
        ("smt_sibling_idle", facts.smt_sibling_idle.to_string()),
        ("same_core_as_peer", facts.same_core_as_peer.to_string()),
        ("co_holders", facts.co_holders.to_string()),
    ];
    if let Some(held) = held {
        all.extend([
            ("cpuset", held.how.to_string()),
            ("cpuset_shared", held.shared.to_string()),
            ("cpuset_bound_tasks", held.bound_tasks.to_string()),
            ("cpuset_foreign_tasks", held.foreign_tasks.to_string()),
            ("cpuset_whole_process", held.whole_process.to_string()),
        ]);
    }
    all.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
