//! What the agent granted, as attributes.

use laneway_shm::wire::{NO_CPU, Pinning};
use laneway_shm::{Distance, PeerState, Profile, Relation};
use pyo3::prelude::*;

/// What the agent granted to an end.
#[pyclass(frozen, get_all, module = "laneway")]
#[derive(Debug)]
pub(crate) struct Grant {
    message_max_bytes: usize,
    segment_bytes: u64,
    page_bytes: u64,
    generation: u64,
    slot_payload_bytes: u32,
    slot_count: u32,
    cpu: Option<u32>,
    grade: char,
    parks: bool,
    profile: &'static str,
    pinning: &'static str,
    relation: Option<&'static str>,
}

#[pymethods]
impl Grant {
    fn __repr__(&self) -> String {
        format!("{self:?}")
    }
}

impl Grant {
    pub(crate) fn new(grant: &laneway_shm::wire::Grant, message_max_bytes: usize) -> Self {
        Self {
            message_max_bytes,
            segment_bytes: grant.size_bytes,
            page_bytes: grant.page_bytes,
            generation: grant.generation,
            slot_payload_bytes: grant.slot_payload,
            slot_count: grant.slot_count,
            cpu: (grant.cpu != NO_CPU).then_some(grant.cpu),
            grade: char::from(grant.grade),
            parks: grant.park,
            profile: match grant.profile {
                Profile::Latency => "latency",
                Profile::Throughput => "throughput",
            },
            pinning: match grant.pinning {
                Pinning::None => "none",
                Pinning::Own => "self",
                Pinning::Enforced => "enforced",
            },
            relation: grant.relation.map(|relation| match relation {
                Relation::SameCpu => "same cpu",
                Relation::SameCore => "same core",
                Relation::SameL2 => "same L2",
                Relation::SameL3 => "same L3",
                Relation::SameNode => "same node",
                Relation::OtherNode => "other node",
            }),
        }
    }
}

pub(crate) fn peer(state: PeerState) -> &'static str {
    match state {
        PeerState::Live => "live",
        PeerState::Gone => "gone",
        _ => "absent",
    }
}

pub(crate) fn distance(distance: Distance) -> &'static str {
    match distance {
        Distance::Unknown => "unknown",
        Distance::Near => "near",
        Distance::Far => "far",
    }
}
