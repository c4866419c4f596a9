//! How deep a ring is, where its owner leaves that to the agent. Pure.
//!
//! Latency wants few slots that stay hot, as long as messages are small. A dialogue of larger ones,
//! and a stream between near cores, want a ring beyond the producer's private cache and within the
//! shared one, because lines that have spilled there are cheaper to fetch; between far cores depth
//! buys nothing (`docs/measurements.md`, "Depth of a ring").

use laneway_shm::geometry::{Geometry, SLOT_COUNT_MAX};
use laneway_shm::ring::Profile;
use laneway_shm::{Relation, SegmentError};
use serde::{Deserialize, Serialize};

use crate::model::topology::CacheSizes;

/// Slots of a latency ring. The producer looks at the consumer's cursor once in as many messages,
/// and a dialogue over rings of 2 to 16 slots was up to half slower than over 64 to 256.
const HOT_SLOTS: u64 = 256;
/// Longest message whose lines a dialogue wants to stay hot, in bytes: longer ones are written by
/// microcode, to which lines that a reader of a read-only mapping has seen are dear.
const HOT_PAYLOAD_MAX: u32 = 2048;
/// Fewest slots: one end can always be a step ahead.
const SLOTS_MIN: u64 = 4;
/// Assumed private cache where the machine does not tell, in bytes: the smallest of today's.
const L2_BYTES: u64 = 1 << 20;

/// A proposed depth.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Depth {
    /// Slots, a power of two.
    pub slot_count: u32,
    /// Why so many, for a person.
    pub reason: String,
}

/// The depth of a ring whose slots hold `slot_payload_bytes`.
///
/// # Errors
/// A payload outside the limits.
pub fn propose(
    slot_payload_bytes: u32,
    profile: Profile,
    caches: CacheSizes,
    relation: Option<Relation>,
) -> Result<Depth, SegmentError> {
    let stride = Geometry::for_profile(slot_payload_bytes, 2, profile)?.stride() as u64;
    let l2 = caches.l2_bytes.unwrap_or(L2_BYTES);
    let near = relation.is_some_and(|relation| relation <= Relation::SameL3);
    let (bytes, slots_max, why) = if profile == Profile::Latency {
        if slot_payload_bytes <= HOT_PAYLOAD_MAX {
            (l2 / 4, HOT_SLOTS, "latency: few slots, within a quarter of the L2")
        } else {
            let why = "latency of more than 2048 bytes: beyond the L2, at most twice as large";
            (l2 * 2, u64::from(SLOT_COUNT_MAX), why)
        }
    } else if near {
        let l3 = caches.l3_bytes.unwrap_or(l2 * 16);
        let why = "throughput below one L3: four times the L2, at most a quarter of the L3";
        ((l2 * 4).min(l3 / 4), u64::from(SLOT_COUNT_MAX), why)
    } else {
        (l2, u64::from(SLOT_COUNT_MAX), "throughput between far or free cores: as large as the L2")
    };
    let least = if bytes / stride < SLOTS_MIN { ", but no fewer than 4 slots" } else { "" };
    let slots = (bytes / stride).clamp(SLOTS_MIN, slots_max);
    let slot_count = 1u32 << slots.ilog2();
    let ring = u64::from(slot_count) * stride;
    let known = if caches.l2_bytes.is_some() { "" } else { ", assumed" };
    let reason = format!("{why} ({l2} bytes{known}){least}: {slot_count} slots in {ring} bytes");
    Ok(Depth { slot_count, reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CACHES: CacheSizes = CacheSizes { l2_bytes: Some(1 << 20), l3_bytes: Some(32 << 20) };

    fn slots(payload: u32, profile: Profile, relation: Option<Relation>) -> u32 {
        propose(payload, profile, CACHES, relation).unwrap().slot_count
    }

    #[test]
    fn latency_stays_hot_and_streams_go_beyond_the_l2_only_where_the_l3_is_shared() {
        let (latency, stream) = (Profile::Latency, Profile::Throughput);
        let near = Some(Relation::SameL3);
        assert_eq!(slots(56, latency, near), 256);
        assert_eq!(slots(2048, latency, near), 64);
        for large in [2049, 4096, 65_000] {
            let stride = Geometry::for_profile(large, 2, latency).unwrap().stride() as u64;
            let ring = u64::from(slots(large, latency, near)) * stride;
            assert!(ring > 1 << 20 && ring <= 2 << 20, "{large}: {ring}");
        }
        assert_eq!(slots(56, stream, near), 65_536);
        assert_eq!(slots(8, stream, near), 262_144);
        assert_eq!(slots(4096, stream, near), 512);
        for far in [Some(Relation::SameNode), Some(Relation::OtherNode), None] {
            assert_eq!(slots(56, stream, far), 16_384);
        }
        assert_eq!(slots(1 << 20, stream, near), 4);
    }

    #[test]
    fn a_small_l3_bounds_the_ring_and_unknown_caches_are_named_as_assumed() {
        let small = CacheSizes { l2_bytes: Some(2 << 20), l3_bytes: Some(8 << 20) };
        let (stream, near) = (Profile::Throughput, Some(Relation::SameL2));
        let depth = propose(56, stream, small, near).unwrap();
        assert_eq!(depth.slot_count, 32_768);
        let depth = propose(56, stream, CacheSizes::default(), near).unwrap();
        assert_eq!(depth.slot_count, 65_536);
        assert!(depth.reason.contains("assumed"), "{}", depth.reason);
    }

    #[test]
    fn every_payload_gets_a_legal_ring() {
        let top = laneway_shm::geometry::SLOT_PAYLOAD_MAX;
        for payload in [1, 7, 8, 24, 56, 57, 4088, 65_536, 1 << 20, top] {
            for profile in [Profile::Latency, Profile::Throughput] {
                for relation in [None, Some(Relation::SameL3)] {
                    let depth = propose(payload, profile, CACHES, relation).unwrap();
                    Geometry::for_profile(payload, depth.slot_count, profile).unwrap();
                }
            }
        }
        assert!(propose(0, Profile::Latency, CACHES, None).is_err());
    }
}
