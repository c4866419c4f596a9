//! The producer's segments as a reader meets them: one is read, the next ones wait.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::control::Link;
use crate::error::{PeerState, RecvError, SegmentError};
use crate::geometry::Geometry;
use crate::layout::{Header, KIND_PRODUCER};
use crate::lifeline::Lifeline;
use crate::memfd::Segment;
use crate::memory::Memory as _;
use crate::region::{Foreign, Region};
use crate::ring::{Policy, Start, oldest_message};
use crate::roster::{self, Entry};
use crate::wire::{Frame, Grant, PeerSegment, Role};

/// Generations that may wait to be read: the agent refuses producers long before.
const GENERATIONS_MAX: usize = 16;

/// A generation that waits until the one before is drained.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) generation: u64,
    pub(crate) base: u64,
    pub(crate) end: Option<u64>,
    pub(crate) region: Region<Foreign>,
}

/// How a reader of a broadcast lane gets into a generation.
pub(crate) enum WayIn {
    /// The producer has let it in.
    Entry(Entry),
    /// The producer is gone: nothing changes any more.
    Frozen(u64),
}

/// What is read and what waits.
#[derive(Debug)]
pub(crate) struct Generations {
    /// The one that is read; 0 before the first.
    pub(crate) current: u64,
    /// Where it ends, once its producer is gone; `u64::MAX` before.
    pub(crate) end: u64,
    pub(crate) pending: VecDeque<Pending>,
    /// The last segment that did not stand up to the check.
    refused: Option<SegmentError>,
    /// The producer that is read ended the stream.
    closed: bool,
}

impl Generations {
    pub(crate) fn new() -> Self {
        Self { current: 0, end: u64::MAX, pending: VecDeque::new(), refused: None, closed: false }
    }

    /// Takes the agent's events, for a reader of `peer`. The end of the current generation may be
    /// known afterwards.
    ///
    /// # Errors
    /// `Revoked`.
    pub(crate) fn hear(
        &mut self,
        link: &mut Link,
        grant: &Grant,
        geometry: &Geometry,
        peer: Option<&mut Region<Foreign>>,
    ) -> Result<(), RecvError> {
        while let Some(event) = link.next_event() {
            self.heard(event, grant, geometry, link);
        }
        if let Some(peer) = peer
            && let Some(lifeline) = link.lifeline(self.current).filter(|_| self.current != 0)
        {
            // It came after the segment.
            peer.take_lifeline(Some(lifeline));
            peer.doorbell();
        }
        if link.revoked { Err(RecvError::Revoked) } else { Ok(()) }
    }

    fn heard(
        &mut self,
        event: (Frame, Option<OwnedFd>),
        grant: &Grant,
        geometry: &Geometry,
        link: &mut Link,
    ) {
        match event {
            (Frame::Generation(segment), Some(fd)) => {
                self.offered(segment, fd, grant, geometry, link);
            }
            (Frame::Lifeline { number, .. }, Some(fd)) => {
                let lifeline = Arc::new(Lifeline::new(fd));
                let mut pending = self.pending.iter_mut();
                match pending.find(|pending| pending.generation == number) {
                    Some(pending) => pending.region.take_lifeline(Some(lifeline)),
                    None => link.keep_lifeline(number, lifeline),
                }
            }
            (Frame::Ended { generation, end }, _) => self.ended(generation, end, link),
            _ => {}
        }
    }

    fn offered(
        &mut self,
        segment: PeerSegment,
        fd: OwnedFd,
        grant: &Grant,
        geometry: &Geometry,
        link: &mut Link,
    ) {
        let newest = self.pending.back().map_or(self.current, |pending| pending.generation);
        if segment.generation <= newest || self.pending.len() >= GENERATIONS_MAX {
            return;
        }
        match prove(segment, fd, grant, geometry) {
            Ok((mut region, fd)) => {
                region.take_lifeline(link.lifeline(segment.generation));
                link.hold(Role::Producer, segment.generation, fd);
                let (generation, base) = (segment.generation, segment.base);
                self.pending.push_back(Pending { generation, base, end: None, region });
            }
            Err(error) => self.refused = Some(error),
        }
    }

    pub(crate) fn ended(&mut self, generation: u64, end: u64, link: &mut Link) {
        if generation == self.current {
            self.end = end;
            link.peer = PeerState::Gone;
        }
        for pending in &mut self.pending {
            if pending.generation == generation {
                pending.end = Some(end);
            }
        }
        self.leave_out_empty(link);
    }

    /// Lifelines to the producers of generations that wait to be read.
    #[cfg(feature = "tokio")]
    pub(crate) fn lifelines(&self) -> impl Iterator<Item = &Arc<Lifeline>> + Clone {
        self.pending.iter().filter_map(|pending| pending.region.lifeline())
    }

    /// The same, with none for those that have none, of generations whose producers live.
    #[cfg(feature = "tokio")]
    pub(crate) fn open(&self) -> impl Iterator<Item = Option<&Arc<Lifeline>>> {
        let open = self.pending.iter().filter(|pending| pending.end.is_none());
        open.map(|pending| pending.region.lifeline())
    }

    /// The producer ended the stream; a successor may follow.
    pub(crate) fn close(&mut self, position: u64) -> RecvError {
        self.closed = true;
        RecvError::Closed { position }
    }

    /// Whether the one that is read will have no more than it has.
    pub(crate) fn is_over(&self) -> bool {
        self.end != u64::MAX || self.closed
    }

    /// What there is to say where nothing follows what was read.
    pub(crate) fn last_word(&mut self, position: u64) -> Result<(), RecvError> {
        match self.refused.take() {
            Some(error) => Err(error.into()),
            None if self.closed && self.pending.is_empty() => Err(RecvError::Closed { position }),
            None => Ok(()),
        }
    }

    /// Does not keep what came and went without a message: there may be any number of them while
    /// nobody looks. Only where nothing was read yet does the first one count, as a beginning.
    fn leave_out_empty(&mut self, link: &mut Link) {
        let kept = usize::from(self.current == 0);
        let mut at = 0;
        self.pending.retain(|next| {
            let keep = at < kept || next.end != Some(next.base);
            at += 1;
            if !keep {
                link.forget(Role::Producer, next.generation);
            }
            keep
        });
    }

    /// How a reader with this grant gets into the generation that comes next, if it can already.
    pub(crate) fn way_in(&self, grant: &Grant, geometry: &Geometry) -> Option<WayIn> {
        let next = self.pending.front()?;
        if let Some(entry) = roster::find(&next.region, grant.generation) {
            return Some(WayIn::Entry(entry));
        }
        let end = next.end?;
        Some(WayIn::Frozen(match grant.start {
            // It was there before this generation began.
            _ if self.current != 0 => next.base,
            Start::Newest => end,
            Start::Oldest => {
                let loses = grant.broadcast.is_some_and(Policy::loses);
                oldest_message(&next.region, geometry, next.base, end, loses)
            }
        }))
    }

    /// Moves on: the caller reads from the region from now on.
    pub(crate) fn advance(&mut self, link: &mut Link) -> Option<Region<Foreign>> {
        let next = self.pending.pop_front()?;
        if self.current != 0 {
            link.tell(&Frame::Drained { generation: self.current });
        }
        self.closed = false;
        link.forget_below(next.generation);
        (self.current, self.end) = (next.generation, next.end.unwrap_or(u64::MAX));
        link.peer = if next.end.is_none() { PeerState::Live } else { PeerState::Gone };
        // Our releases so far were told to the producer before: one that waits for room in epoll
        // looks at them now.
        next.region.doorbell();
        Some(next.region)
    }
}

fn prove(
    segment: PeerSegment,
    fd: OwnedFd,
    grant: &Grant,
    geometry: &Geometry,
) -> Result<(Region<Foreign>, OwnedFd), SegmentError> {
    let needed = geometry.segment_bytes();
    if segment.size_bytes < needed {
        return Err(SegmentError::Size { found: segment.size_bytes, expected: needed });
    }
    let header = Header {
        kind: KIND_PRODUCER,
        lane: grant.lane,
        generation: segment.generation,
        nonce: segment.nonce,
        slot_stride: geometry.stride() as u64,
        slot_payload: u64::from(grant.slot_payload),
        slot_count: u64::from(grant.slot_count),
        base_position: segment.base,
        size_bytes: segment.size_bytes,
    };
    let segment = Segment::verify(fd, header)?;
    Ok((segment.map()?, segment.into_fd()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::consumer::Consumer;
    use crate::pair::handed_over;
    use crate::pair::tests::{commit, numbered};

    fn ended(consumer: &mut Consumer, end: u64) {
        consumer.line.ended(1, end, &mut consumer.link);
        consumer.maintain().unwrap();
    }

    /// What one call takes of the messages that are there.
    fn take(consumer: &mut Consumer) -> Result<Vec<u64>, RecvError> {
        let mut numbers = Vec::new();
        consumer.try_recv_arrays(10, |bytes| numbers.push(u64::from_le_bytes(bytes)))?;
        Ok(numbers)
    }

    #[test]
    fn an_end_behind_messages_that_were_taken_together_is_told_before_the_successors_are() {
        let (producer, mut consumer) = numbered(2);
        let (grant, geometry) = (producer.grant().clone(), *consumer.ring.geometry());
        producer.close(Duration::ZERO).unwrap();
        ended(&mut consumer, 3);
        let (own, region) = handed_over(&grant, geometry, KIND_PRODUCER).unwrap();
        commit(&own, &geometry, 3, 7);
        let successor = Pending { generation: 2, base: 3, end: None, region };
        consumer.line.pending.push_back(successor);

        assert_eq!(take(&mut consumer).unwrap(), [0, 1]);
        assert_eq!(consumer.position(), 2, "the end is not released untold");
        let closed = take(&mut consumer);
        assert!(matches!(closed, Err(RecvError::Closed { position: 3 })), "{closed:?}");
        assert_eq!(take(&mut consumer).unwrap(), [7]);
    }

    #[test]
    fn a_segment_that_was_refused_is_told_once_behind_messages_that_were_taken_together() {
        let (_producer, mut consumer) = numbered(2);
        ended(&mut consumer, 2);
        consumer.line.refused = Some(SegmentError::Size { found: 1, expected: 2 });
        assert_eq!(take(&mut consumer).unwrap(), [0, 1]);
        let refused = take(&mut consumer);
        assert!(matches!(refused, Err(RecvError::Segment(_))), "{refused:?}");
        assert!(take(&mut consumer).unwrap().is_empty(), "once");
    }
}
