//! How far the consumer is from the producer, for the choice of the copy that suits the way.
//!
//! Between cores with a common cache a large payload is best written into that cache; from farther
//! away the reader fetches it faster from memory than from the writer's caches
//! (`docs/measurements.md`, "Hostile-safe copy"). The agent says what the granted cores have in
//! common, as far as the machine tells: a virtual machine tells little, and its cores move. So the
//! producer watches what is true: when the consumer's cursor has moved, its line was in the
//! consumer's caches, and the time that it takes is the distance.

use std::fmt;
use std::hint::black_box;
use std::time::{Duration, Instant};

use crate::geometry::Geometry;
use crate::layout::C_RELEASED;
use crate::memory::Memory;

/// What the cores of a lane's ends have in common, nearest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Relation {
    /// They are one cpu: the ends take turns.
    SameCpu,
    /// They are two threads of one core.
    SameCore,
    /// They share a level 2 cache.
    SameL2,
    /// They share a level 3 cache.
    SameL3,
    /// They are of one NUMA node.
    SameNode,
    /// They are of different NUMA nodes.
    OtherNode,
}

impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SameCpu => "same cpu",
            Self::SameCore => "same core",
            Self::SameL2 => "same L2",
            Self::SameL3 => "same L3",
            Self::SameNode => "same node",
            Self::OtherNode => "other node",
        })
    }
}

/// How far the consumer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distance {
    /// The agent could not say, or both ends have one cpu, and nothing was measured yet; or what
    /// was measured contradicts it.
    Unknown,
    /// The two cores share a cache.
    Near,
    /// They do not.
    Far,
}

/// A line that takes as long as this comes from beyond a common cache. Near ones take 20 to 70 ns
/// and far ones 180 to 280 on the machines of `docs/measurements.md`.
const FAR_FROM: Duration = Duration::from_nanos(120);
/// From this length of one write on, it goes past the caches to a far consumer, in bytes.
pub(crate) const MATTERS_FROM: u64 = 16 << 10;
/// Consumers of slots from this size on, in bytes, show their cursor after each long message.
const SHOWN_FROM: u64 = 4096;
/// Looks of one kind that make a judgement certain; one more of the other kind turns it.
const CERTAIN: i8 = 4;
/// Behind a look that found nothing new, one in so many is timed: the clock takes longer than the
/// look, and a producer that waits looks often. A prime, so that every one of several readers has
/// its turn, also beside one that stands still.
const WAITING: u8 = 61;

/// After how many slots at the latest a consumer shows its cursor: a quarter of the ring, or as
/// many as a long message takes, so that the producer has something to learn from.
pub(crate) fn publish_every(geometry: &Geometry) -> u64 {
    let quarter = (geometry.count() / 4).max(1);
    match u64::from(geometry.payload()) {
        payload @ SHOWN_FROM.. => quarter.min(MATTERS_FROM.div_ceil(payload)),
        _ => quarter,
    }
}

/// Judges the distance, look by look.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gauge {
    /// Above zero far, below it near.
    votes: i8,
    /// The last look found nothing new.
    is_waiting: bool,
    /// Looks so far.
    looks: u8,
}

impl Gauge {
    /// As the agent says.
    pub(crate) fn granted(relation: Option<Relation>) -> Self {
        let votes = match relation {
            None | Some(Relation::SameCpu) => 0,
            Some(relation) if relation <= Relation::SameL3 => -1,
            Some(_) => 1,
        };
        Self { votes, is_waiting: false, looks: 0 }
    }

    /// A guess again, where a consumer is joined that may run elsewhere.
    pub(crate) fn for_new_peer(self) -> Self {
        Self { votes: self.votes.signum(), ..self }
    }

    /// Whether one more look would change nothing.
    pub(crate) fn is_certain(self) -> bool {
        self.votes.abs() == CERTAIN
    }

    /// Loads the cursor in a consumer's segment, with acquire order, and learns from the time that
    /// it took if it is beyond what is `known`.
    pub(crate) fn watch(&mut self, peer: &impl Memory, known: u64) -> u64 {
        // As in Writer::refresh.
        let found = match self.is_waiting && !self.looks.is_multiple_of(WAITING) {
            true => peer.load_acquire(C_RELEASED),
            false => self.timed(peer, known),
        };
        self.is_waiting = found <= known;
        self.looks = self.looks.wrapping_add(1);
        found
    }

    fn timed(&mut self, peer: &impl Memory, known: u64) -> u64 {
        // Another line of the same page, so that its address is translated before the clock runs:
        // after a long copy that may take as long as a far line.
        black_box(peer.load_acquire(0));
        // The clock's own time is what lies between the first two looks at it.
        let stamps = [Instant::now(), Instant::now()];
        let found = peer.load_acquire(C_RELEASED);
        let end = Instant::now();
        if found > known {
            let [before, start] = stamps;
            self.note((end - start).saturating_sub(start - before));
        }
        found
    }

    fn note(&mut self, fetch: Duration) {
        let vote = if fetch >= FAR_FROM { 1 } else { -1 };
        self.votes = (self.votes + vote).clamp(-CERTAIN, CERTAIN);
    }

    pub(crate) fn distance(self) -> Distance {
        match self.votes {
            0 => Distance::Unknown,
            ..0 => Distance::Near,
            1.. => Distance::Far,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEAR: Duration = Duration::from_nanos(60);
    const FAR: Duration = Duration::from_nanos(210);

    fn after(relation: Option<Relation>, fetches: &[Duration]) -> Distance {
        let mut gauge = Gauge::granted(relation);
        fetches.iter().for_each(|&fetch| gauge.note(fetch));
        gauge.distance()
    }

    #[test]
    fn the_agents_word_counts_until_lines_say_otherwise() {
        use Relation::{OtherNode, SameCore, SameCpu, SameL2, SameL3, SameNode};
        for relation in [SameCore, SameL2, SameL3] {
            assert_eq!(after(Some(relation), &[]), Distance::Near, "{relation:?}");
            assert_eq!(after(Some(relation), &[FAR, FAR]), Distance::Far, "{relation:?}");
        }
        for relation in [SameNode, OtherNode] {
            assert_eq!(after(Some(relation), &[]), Distance::Far, "{relation:?}");
            assert_eq!(after(Some(relation), &[NEAR, NEAR]), Distance::Near, "{relation:?}");
        }
        for relation in [None, Some(SameCpu)] {
            assert_eq!(after(relation, &[]), Distance::Unknown, "{relation:?}");
            assert_eq!(after(relation, &[FAR]), Distance::Far, "{relation:?}");
        }
    }

    #[test]
    fn one_interrupted_look_turns_no_judgement_and_a_move_of_the_cores_does() {
        let mut many = vec![NEAR; 1000];
        assert_eq!(after(None, &many), Distance::Near);
        many.push(Duration::from_millis(3));
        assert_eq!(after(None, &many), Distance::Near);
        many.extend([FAR; 8]);
        assert_eq!(after(None, &many), Distance::Far);
    }
}
