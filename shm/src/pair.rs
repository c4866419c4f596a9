//! A lane inside one process, with no agent: for tests, benchmarks and first steps.
//!
//! The same segments, seals and checks as a lane from the agent; only the hand-over is a
//! function call.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::consumer::Consumer;
use crate::control::Link;
use crate::error::{PeerState, SegmentError};
use crate::geometry::Geometry;
use crate::layout::{CONSUMER_SEGMENT_BYTES, Header, KIND_CONSUMER, KIND_PRODUCER};
use crate::lifeline::{self, Lifeline};
use crate::memfd::Draft;
use crate::producer::Producer;
use crate::region::Region;
use crate::ring::{Profile, Start, WaitMode};
use crate::wire::{Grant, NO_CPU, Pinning, Role};

/// What a lane without an agent looks like.
#[derive(Clone, Copy, Debug)]
pub struct PairOptions {
    /// Payload of one slot, in bytes.
    pub slot_payload_bytes: u32,
    /// Number of slots, a power of two.
    pub slot_count: u32,
    /// Page size of the producer's segment: 4096, 2 MiB or 1 GiB, in bytes.
    pub page_bytes: u64,
    /// How the ends wait.
    pub wait: WaitMode,
    /// What the lane is tuned for.
    pub profile: Profile,
    /// Whether there is a [lifeline](crate::lifeline) between the ends: two descriptors, and, if
    /// they park, a fence for each commit as of [`Attach::lifeline`](crate::Attach::lifeline).
    pub lifeline: bool,
}

impl Default for PairOptions {
    fn default() -> Self {
        let page_bytes = 4096;
        Self {
            slot_payload_bytes: 56,
            slot_count: 1024,
            page_bytes,
            wait: WaitMode::Spin,
            profile: Profile::Latency,
            lifeline: false,
        }
    }
}

/// Both ends of a new lane.
///
/// ```
/// use std::time::Duration;
/// let (mut producer, mut consumer) = laneway_shm::pair(laneway_shm::PairOptions::default())?;
/// producer.send(b"first", Duration::ZERO)?;
/// let mut slot = producer.try_reserve(6)?;
/// slot.write(0, b"second");
/// slot.commit();
/// assert_eq!(consumer.recv(Duration::ZERO)?.to_vec(), b"first");
/// assert_eq!(consumer.recv(Duration::ZERO)?.to_vec(), b"second");
/// assert!(consumer.poll()?.is_none());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// A geometry outside the limits, or no memory for it.
pub fn pair(options: PairOptions) -> Result<(Producer, Consumer), SegmentError> {
    let halves = options.lifeline.then(lifeline::pair).transpose();
    pair_with(options, halves.map_err(SegmentError::io("socketpair"))?)
}

/// As [`pair`], with both halves of a lifeline.
pub(crate) fn pair_with(
    options: PairOptions,
    lifeline: Option<[OwnedFd; 2]>,
) -> Result<(Producer, Consumer), SegmentError> {
    let (payload, count) = (options.slot_payload_bytes, options.slot_count);
    let geometry = Geometry::for_profile(payload, count, options.profile)?;
    let size_bytes = geometry.segment_bytes().next_multiple_of(options.page_bytes);
    let grant = |role, size_bytes, page_bytes| Grant {
        role,
        lane: 1,
        generation: 1,
        nonce: 1,
        token: 0,
        slot_payload: options.slot_payload_bytes,
        slot_count: options.slot_count,
        size_bytes,
        page_bytes,
        base: 0,
        released: 0,
        park: options.wait == WaitMode::Park,
        profile: options.profile,
        pinning: Pinning::None,
        cpu: NO_CPU,
        grade: b'D',
        broadcast: None,
        start: Start::Newest,
        relation: None,
    };
    let producer = grant(Role::Producer, size_bytes, options.page_bytes);
    let consumer = grant(Role::Consumer, CONSUMER_SEGMENT_BYTES as u64, 4096);
    let (producer_own, mut producer_seen) = handed_over(&producer, geometry, KIND_PRODUCER)?;
    let (consumer_own, consumer_seen) = handed_over(&consumer, geometry, KIND_CONSUMER)?;
    let link = || Link::new(None, None, PeerState::Live);
    let mut producer = Producer::new(producer_own, producer, link())?;
    let mut consumer = Consumer::new(consumer_own, consumer, link())?;
    if let Some([one, other]) = lifeline {
        producer.link.keep_lifeline(1, Arc::new(Lifeline::new(one)));
        let other = Arc::new(Lifeline::new(other));
        producer_seen.take_lifeline(Some(other));
    } else {
        consumer.ring.pay_for_fences();
    }
    producer.join(consumer_seen, 1);
    consumer.join(producer_seen, 1);
    Ok((producer, consumer))
}

type Mappings = (Region<crate::region::Owned>, Region<crate::region::Foreign>);

pub(crate) fn handed_over(
    grant: &Grant,
    geometry: Geometry,
    kind: u64,
) -> Result<Mappings, SegmentError> {
    let header = Header {
        kind,
        lane: grant.lane,
        generation: grant.generation,
        nonce: grant.nonce,
        slot_stride: geometry.stride() as u64,
        slot_payload: u64::from(grant.slot_payload),
        slot_count: u64::from(grant.slot_count),
        base_position: 0,
        size_bytes: grant.size_bytes,
    };
    let draft = Draft::create(header, grant.page_bytes, None)?;
    let len = usize::try_from(grant.size_bytes).unwrap_or(usize::MAX);
    let own = Region::map_owned(&draft, len)?;
    let seen = draft.seal()?.map()?;
    Ok((own, seen))
}

/// What the tests of the ends start from.
#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cursor::{CommitWord, Kind};
    use crate::geometry::WORD_BYTES;
    use crate::memory::OwnedMemory as _;
    use crate::region::Owned;

    /// A lane with the numbers from 0 on in it.
    pub(crate) fn numbered(count: u64) -> (Producer, Consumer) {
        let (mut producer, consumer) = pair(PairOptions::default()).unwrap();
        for number in 0..count {
            producer.send(&number.to_le_bytes(), Duration::ZERO).unwrap();
        }
        (producer, consumer)
    }

    /// What a producer does to its memory that sends a number as the message at `position`.
    pub(crate) fn commit(memory: &Region<Owned>, geometry: &Geometry, position: u64, number: u64) {
        let at = geometry.slot_offset(position);
        memory.copy_in(at + WORD_BYTES, &number.to_le_bytes());
        memory.store_release(at, CommitWord::new(geometry.turn(position), Kind::Data, 8).0);
    }
}
