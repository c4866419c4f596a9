//! A lane as asked for and as recorded: the values that the journal keeps.

use std::fmt;

use laneway_shm::geometry::Geometry;
use laneway_shm::layout::{Header, KIND_CONSUMER, KIND_PRODUCER};
use laneway_shm::{Policy, Profile};
use serde::{Deserialize, Serialize};

use crate::ledger::Role;
use crate::model::capacity::{CpuSet, PageSize};
use crate::model::id::{LaneId, Name, Secret};
use crate::placement::{CacheRelationRule, EndRequest, Grade, PlaceRequest, Placement};

/// What was asked for, checked. Immutable.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LaneSpec {
    /// Unique on the node.
    pub name: Name,
    /// Who pays.
    pub tenant: Name,
    /// Payload of one slot, in bytes.
    pub slot_payload_bytes: u32,
    /// Number of slots; 0 in a request that leaves it to the agent.
    pub slot_count: u32,
    /// Page size that was asked for; `None` for the best.
    pub page_size: Option<PageSize>,
    /// Refuse rather than step down.
    pub page_required: bool,
    /// Whether idle ends sleep.
    pub park: bool,
    /// What the lane is tuned for.
    #[serde(with = "WrittenProfile")]
    pub profile: Profile,
    /// The end that writes.
    pub producer: EndSpec,
    /// The end that reads.
    pub consumer: EndSpec,
    /// The only node the pages may come from.
    pub numa_node: Option<u32>,
    /// How near the cores must be.
    pub relation: CacheRelationRule,
    /// What the messages are; 0 leaves it to the first end that says so.
    #[serde(default)]
    pub schema: u64,
    /// Many readers instead of one consumer.
    #[serde(default)]
    pub broadcast: Option<BroadcastSpec>,
}

/// How the journal writes a [`Profile`].
#[derive(Serialize, Deserialize)]
#[serde(remote = "Profile", rename_all = "lowercase")]
enum WrittenProfile {
    Latency,
    Throughput,
}

/// What only a broadcast lane has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BroadcastSpec {
    /// What the producer does about slow readers.
    pub policy: BroadcastPolicy,
    /// Readers at a time.
    pub readers_max: u32,
}

/// What the producer of a broadcast lane does about slow readers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BroadcastPolicy {
    /// It waits for them.
    Gated,
    /// It gives them up.
    Evicting {
        /// When they are so many slots behind; 0 for half of the ring.
        lag_budget_slots: u32,
    },
    /// It takes no notice.
    Overwrite,
}

/// What one end was asked to be.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EndSpec {
    /// Who pins.
    pub pinning: Pinning,
    /// Nobody else on its physical core.
    pub exclusive: bool,
    /// The only acceptable cpu.
    pub cpu: Option<u32>,
    /// The only acceptable cpus.
    pub allowed: Option<CpuSet>,
    /// The worst acceptable grade.
    pub min_grade: Option<Grade>,
    /// Users that may attach by name.
    pub uids: Vec<u32>,
    /// Groups that may attach by name.
    pub gids: Vec<u32>,
}

/// Who sets the affinity of the attached thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pinning {
    /// Nobody.
    None,
    /// The library.
    #[serde(rename = "self")]
    Own,
    /// The agent.
    Enforce,
    /// The agent, by a cpuset that holds the core alone.
    Cpuset,
}

impl fmt::Display for Pinning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Own => "self",
            Self::Enforce => "enforce",
            Self::Cpuset => "cpuset",
        })
    }
}

impl LaneSpec {
    /// The slots' arithmetic. Checked when the spec was made.
    ///
    /// # Errors
    /// Only for a spec that was read from a damaged journal.
    pub fn geometry(&self) -> Result<Geometry, laneway_shm::SegmentError> {
        Geometry::for_profile(self.slot_payload_bytes, self.slot_count, self.profile)
    }

    /// What the ring of a broadcast lane does about slow readers.
    #[must_use]
    pub fn policy(&self) -> Option<Policy> {
        let half = u64::from(self.slot_count) / 2;
        Some(match self.broadcast?.policy {
            BroadcastPolicy::Gated => Policy::Gated,
            BroadcastPolicy::Evicting { lag_budget_slots: 0 } => {
                Policy::Evicting { budget: half.max(1) }
            }
            BroadcastPolicy::Evicting { lag_budget_slots } => {
                Policy::Evicting { budget: u64::from(lag_budget_slots) }
            }
            BroadcastPolicy::Overwrite => Policy::Overwrite,
        })
    }

    /// One end's wishes.
    #[must_use]
    pub fn end(&self, role: Role) -> &EndSpec {
        match role {
            Role::Producer => &self.producer,
            Role::Consumer => &self.consumer,
        }
    }

    /// Page sizes to try, best first, for a segment of `size_bytes`.
    ///
    /// Without a wish, a size is tried if the segment fills at least half of its pages: a hugepage
    /// that is mostly empty takes more from the node than it gives to the lane. The smallest huge
    /// size is tried always, for its reach in the TLB and because it is never swapped.
    #[must_use]
    pub fn page_ladder(&self, size_bytes: u64) -> Vec<PageSize> {
        let wish = self.page_size;
        let fitting = PageSize::ALL.into_iter().filter(|size| match wish {
            Some(wish) => *size <= wish,
            None => *size != PageSize::HUGE_1G || size_bytes >= PageSize::HUGE_1G.bytes() / 2,
        });
        match wish {
            Some(wish) if self.page_required => vec![wish],
            _ => fitting.collect(),
        }
    }

    /// The question for placement. `cpuset`: the cpus that the agent can hold, and those of them
    /// where everything else runs, too.
    #[must_use]
    pub fn place_request(
        &self,
        size_bytes: u64,
        page_ladder: Vec<PageSize>,
        cpuset: &[CpuSet; 2],
    ) -> PlaceRequest {
        let end = |spec: &EndSpec| {
            let held = spec.pinning == Pinning::Cpuset;
            let [lanes, shared] = cpuset;
            let wish = spec.allowed.clone();
            let within = wish.as_ref().map_or_else(|| lanes.clone(), |w| w.intersection(lanes));
            EndRequest {
                pinned: spec.pinning != Pinning::None,
                allowed: if held { Some(within) } else { wish },
                exclusive: spec.exclusive,
                min_grade: spec.min_grade,
                cpu: spec.cpu,
                crowded: if held { shared.clone() } else { CpuSet::new() },
            }
        };
        PlaceRequest {
            size_bytes,
            page_ladder,
            node: self.numa_node,
            producer: end(&self.producer),
            consumer: end(&self.consumer),
            relation: self.relation,
            tenant: self.tenant.as_str().to_owned(),
        }
    }
}

/// What a core in a cpuset of the agent's turned out to be worth.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HeldCore {
    /// How the core is held.
    pub how: HeldHow,
    /// Everything else that runs there has next to no weight. Otherwise nothing else may.
    pub shared: bool,
    /// Tasks that may run there all the same, because the kernel binds them to their core.
    pub bound_tasks: u64,
    /// Tasks in cpusets of somebody else's that reach the core; the agent leaves them alone.
    pub foreign_tasks: u64,
    /// The kernel moved the whole process rather than the thread.
    pub whole_process: bool,
}

/// The kernel's means by which a core is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HeldHow {
    /// A cpuset of cgroup v1, with everything else in another.
    V1,
    /// A partition of cgroup v2.
    Root,
    /// A partition of cgroup v2 that the scheduler does not balance.
    Isolated,
}

impl fmt::Display for HeldHow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V1 => "v1",
            Self::Root => "root",
            Self::Isolated => "isolated",
        })
    }
}

impl HeldCore {
    /// What a core that was promised with `promised` is worth now that it is held.
    #[must_use]
    pub fn grade(&self, promised: Grade) -> Grade {
        match self.how {
            _ if self.shared || self.foreign_tasks > 0 => promised.max(Grade::C),
            HeldHow::Isolated if promised == Grade::B => Grade::A,
            _ => promised,
        }
    }
}

/// How far a lane's provisioning got.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Intent: effects may or may not have happened.
    Provisioning,
    /// Outcome: the lane is there.
    Ready,
}

/// A process as the journal remembers it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PeerRecord {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Pid and start time in clock ticks, where the agent can see the process.
    pub process: Option<(i32, u64)>,
}

/// One segment: a generation of the producer's, or an incarnation of the consumer's.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SegmentRecord {
    /// Generation or incarnation, from 1.
    pub number: u64,
    /// Random number in the header.
    pub nonce: Secret,
    /// Secret that lets its owner resume.
    pub token: Secret,
    /// Base or start position.
    pub start: u64,
    /// Once its owner is gone: the position after the last message (a producer's), or the last
    /// cursor (a consumer's). `None` while an agent that restarted has not seen the segment.
    pub end: Option<u64>,
    /// Size, in bytes.
    pub size_bytes: u64,
    /// Page size.
    pub page_size: PageSize,
    /// Device and inode, once made.
    pub file: Option<(u64, u64)>,
    /// The process that was granted it, until that one says that it mapped it.
    pub granted: Option<PeerRecord>,
    /// The process that owns it, once mapped. Kept after its death.
    pub peer: Option<PeerRecord>,
    /// Whether that process is gone.
    pub gone: bool,
    /// Of a broadcast lane's reader: it wants to start with the oldest message.
    #[serde(default)]
    pub oldest: bool,
}

impl SegmentRecord {
    /// The header that the segment carries.
    #[must_use]
    pub fn header(&self, lane: LaneId, role: Role, geometry: &Geometry) -> Header {
        Header {
            kind: match role {
                Role::Producer => KIND_PRODUCER,
                Role::Consumer => KIND_CONSUMER,
            },
            lane: lane.0,
            generation: self.number,
            nonce: self.nonce.0,
            slot_stride: geometry.stride() as u64,
            slot_payload: u64::from(geometry.payload()),
            slot_count: geometry.count(),
            base_position: self.start,
            size_bytes: self.size_bytes,
        }
    }

    /// The process that has or had it, or is about to.
    #[must_use]
    pub fn owner(&self) -> Option<PeerRecord> {
        self.peer.or(self.granted)
    }

    /// Whether a live process owns it, as far as is known.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.owner().is_some() && !self.gone
    }
}

/// A lane as the journal keeps it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LaneRecord {
    /// Number.
    pub id: LaneId,
    /// What was asked for, with the depth that the agent chose where that was asked.
    pub spec: LaneSpec,
    /// Why the ring is as deep as it is, where the agent chose.
    pub depth_reason: Option<String>,
    /// Where it went.
    pub placement: Placement,
    /// Page sizes that the kernel refused although they were counted free, and why.
    pub refused_pages: Vec<(PageSize, String)>,
    /// Whether the memory was bound to its node.
    pub bound: bool,
    /// How far provisioning got.
    pub stage: Stage,
    /// Boot of the kernel that made its memory.
    pub boot_id: String,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
    /// Number of the change that made this state.
    pub revision: u64,
    /// Generations so far.
    pub generation: u64,
    /// Consumer's incarnations so far.
    pub incarnation: u64,
    /// Generations not yet drained, oldest first. The last is the current one.
    pub generations: Vec<SegmentRecord>,
    /// The consumer's segment, or those of a broadcast lane's readers, oldest first.
    #[serde(rename = "consumer", deserialize_with = "none_one_or_many")]
    pub consumers: Vec<SegmentRecord>,
    /// Where the next consumer starts.
    pub released: u64,
    /// Drifts of the producer's and the consumer's thread.
    pub drifts: [u64; 2],
    /// What the messages are, as the first end said that said anything; 0 before.
    #[serde(default)]
    pub schema: u64,
    /// The producer's and the consumer's core, where the agent holds it in a cpuset.
    #[serde(default)]
    pub held: [Option<HeldCore>; 2],
}

/// An end whose messages are not the lane's.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "lane {lane} carries messages of schema {expected:016x}, this end's are {found:016x}: build \
     both ends with the same message type, or make a new lane for the new one"
)]
pub struct SchemaMismatch {
    /// The lane.
    pub lane: Name,
    /// What it carries.
    pub expected: u64,
    /// What the end said.
    pub found: u64,
}

impl LaneRecord {
    /// Whether an end with messages of this schema belongs here. One that does not say, 0, does.
    ///
    /// # Errors
    /// It does not.
    pub fn check_schema(&self, found: u64) -> Result<(), SchemaMismatch> {
        let (lane, expected) = (&self.spec.name, self.schema);
        if found == 0 || expected == 0 || found == expected {
            return Ok(());
        }
        Err(SchemaMismatch { lane: lane.clone(), expected, found })
    }

    /// The segments of an end, oldest first.
    #[must_use]
    pub fn segments(&self, role: Role) -> &[SegmentRecord] {
        match role {
            Role::Producer => &self.generations,
            Role::Consumer => &self.consumers,
        }
    }

    /// A segment by role and number.
    #[must_use]
    pub fn segment(&self, role: Role, number: u64) -> Option<&SegmentRecord> {
        self.segments(role).iter().find(|segment| segment.number == number)
    }

    /// As [`LaneRecord::segment`], to change it.
    pub fn segment_mut(&mut self, role: Role, number: u64) -> Option<&mut SegmentRecord> {
        let segments = match role {
            Role::Producer => &mut self.generations,
            Role::Consumer => &mut self.consumers,
        };
        segments.iter_mut().find(|segment| segment.number == number)
    }

    /// The newest segment of an end.
    #[must_use]
    pub fn newest(&self, role: Role) -> Option<&SegmentRecord> {
        self.segments(role).last()
    }

    /// Whether the lane has many readers instead of one consumer.
    #[must_use]
    pub fn is_broadcast(&self) -> bool {
        self.spec.broadcast.is_some()
    }
}

/// A journal of before there were broadcast lanes has one consumer's segment or none.
fn none_one_or_many<'de, D>(deserializer: D) -> Result<Vec<SegmentRecord>, D::Error>
where
    D: serde::Deserializer<'de>,
{
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Found {
        Many(Vec<SegmentRecord>),
        One(Box<SegmentRecord>),
        None,
    }
    Ok(match Found::deserialize(deserializer)? {
        Found::Many(segments) => segments,
        Found::One(segment) => vec![*segment],
        Found::None => Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Old {
        #[serde(rename = "consumer", deserialize_with = "none_one_or_many")]
        consumers: Vec<SegmentRecord>,
    }

    #[test]
    fn a_journal_with_one_consumer_or_none_is_still_read() {
        let segment = r#"{"number":3,"nonce":"N","token":"N","start":5,"end":null,
            "size_bytes":4096,"page_size":4096,"file":null,"peer":null,"gone":false}"#;
        let nonce = serde_json::to_string(&Secret(7)).unwrap();
        let page = serde_json::to_string(&PageSize::BASE_4K).unwrap();
        let segment = segment
            .replace("\"N\"", &nonce)
            .replace("\"page_size\":4096", &format!("\"page_size\":{page}"));
        for (text, count) in
            [("null", 0), (segment.as_str(), 1), (&format!("[{segment},{segment}]"), 2)]
        {
            let old: Old = serde_json::from_str(&format!(r#"{{"consumer":{text}}}"#)).unwrap();
            assert_eq!(old.consumers.len(), count);
            assert!(old.consumers.iter().all(|segment| segment.number == 3 && !segment.oldest));
        }
    }
}
