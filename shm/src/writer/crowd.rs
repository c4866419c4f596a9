//! The readers of a broadcast lane as its producer sees them: who gates, who is overrun, who lied.
//!
//! One message is written once whatever the number of readers; they are looked at only when the
//! run of free slots is used up. A lane that loses marks its next run of slots as busy before it
//! writes the first of them, so that neither a commit nor a reservation pays for the mark.
//! A reader that lies is given up and reported; the lane goes on.

use std::time::Duration;

use super::Writer;
use crate::bell::Bell;
use crate::cursor::{CommitWord, Kind, accept_released};
use crate::distance::Gauge;
use crate::error::Corruption;
use crate::geometry::Geometry;
use crate::layout::{
    BY_DOORBELL, C_BELL, C_HEAVY, C_PARKED, C_RELEASED, P_BELL, P_RESUME, READERS_MAX,
};
use crate::memory::{Memory, OwnedMemory};
use crate::ring::{Policy, Start, UNJOINED_SLEEP, WaitMode, message_start};
use crate::roster::{self, Reason};

/// Slots that a lane that loses marks as busy at once, at most; an eighth of a small ring.
const MARKED_MAX: u64 = 64;

/// How far a reader is behind, as the producer last saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lag {
    /// The reader's number.
    pub reader: u64,
    /// Slots that it has not released.
    pub slots: u64,
    /// Whether the producer still counts with it.
    pub gates: bool,
}

/// A reader that the producer gave up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GivenUp {
    /// The reader's number.
    pub reader: u64,
    /// Position up to which the lane was committed.
    pub at: u64,
    /// Why.
    pub reason: Reason,
}

#[derive(Debug)]
pub(super) struct Crowd<C> {
    policy: Policy,
    members: Vec<Member<C>>,
    /// Of a lane that loses: every slot below was committed, or says that it is being written.
    marked: u64,
    /// What stands in our bell.
    rung: u32,
    given_up: Vec<GivenUp>,
}

#[derive(Debug)]
struct Member<C> {
    number: u64,
    /// Its place in the roster.
    index: usize,
    peer: C,
    joined_at: u64,
    /// Last cursor that was accepted.
    cursor: u64,
    gates: bool,
    bell: Bell,
    /// Its bell before our last sleep.
    heard: u32,
}

impl<C: Memory> Crowd<C> {
    pub(super) fn loses(&self) -> bool {
        self.policy.loses()
    }

    fn gating(&self) -> impl Iterator<Item = &Member<C>> {
        self.members.iter().filter(|member| member.gates)
    }

    fn lowest(&self) -> Option<u64> {
        self.gating().map(|member| member.cursor).min()
    }

    #[cfg(feature = "tokio")]
    pub(super) fn peers(&self) -> impl Iterator<Item = &C> + Clone {
        self.members.iter().map(|member| &member.peer)
    }

    pub(super) fn peer_mut(&mut self, number: u64) -> Option<&mut C> {
        let mut members = self.members.iter_mut();
        members.find(|member| member.number == number).map(|member| &mut member.peer)
    }

    /// Remembers every reader's bell, before the number of our next sleep can be seen.
    pub(super) fn hear(&mut self) {
        for member in &mut self.members {
            member.heard = member.peer.load_u32(C_BELL);
        }
    }

    /// Looks at every cursor that counts. Who has left is forgotten before the agent says so, who
    /// lies is given up.
    fn look(&mut self, own: &impl OwnedMemory, committed: u64, mut gauge: Option<&mut Gauge>) {
        self.members.retain(|member| {
            let left = member.gates && roster::has_left(&member.peer);
            if left {
                roster::remove(own, member.index);
            }
            !left
        });
        for member in self.members.iter_mut().filter(|member| member.gates) {
            // As in Writer::refresh. A reader that still drains an earlier generation, or has not
            // seen that it was let in, shows an older cursor: it holds what it joined at.
            let found = match &mut gauge {
                Some(gauge) => gauge.watch(&member.peer, member.cursor),
                None => member.peer.load_acquire(C_RELEASED),
            };
            let found = found.max(member.joined_at);
            match accept_released(member.cursor, committed, found) {
                Ok(cursor) => member.cursor = cursor,
                Err(_) => {
                    let lost = member.leave_gate(own, Reason::Lied, committed);
                    self.given_up.push(lost);
                }
            }
        }
    }

    /// Gives up whom the lane's budget, or the next `needed` position, leaves behind. What is not
    /// visible yet leaves nobody behind.
    fn give_up_slow(&mut self, own: &impl OwnedMemory, committed: u64, needed: u64, count: u64) {
        let Policy::Evicting { budget } = self.policy else { return };
        for member in self.members.iter_mut().filter(|member| member.gates) {
            let over_budget = committed.saturating_sub(member.cursor) >= budget;
            if over_budget || needed > member.cursor.saturating_add(count) {
                let lost = member.leave_gate(own, Reason::Behind, committed);
                self.given_up.push(lost);
            }
        }
    }

    /// First position at which somebody has to be looked at again.
    fn limit(&self) -> u64 {
        let Policy::Evicting { budget } = self.policy else { return u64::MAX };
        self.lowest().map_or(u64::MAX, |lowest| lowest.saturating_add(budget))
    }
}

impl<C> Member<C> {
    fn leave_gate(&mut self, own: &impl OwnedMemory, reason: Reason, at: u64) -> GivenUp {
        self.gates = false;
        roster::give_up(own, self.index, reason, at);
        GivenUp { reader: self.number, at, reason }
    }
}

impl<P: OwnedMemory, C: Memory> Writer<P, C> {
    /// A writer of a broadcast lane, as yet without readers.
    pub fn broadcast(
        own: P,
        geometry: Geometry,
        wait: WaitMode,
        base: u64,
        policy: Policy,
    ) -> Self {
        let mut writer = Self::new(own, geometry, wait, base, base);
        let policy = match policy {
            Policy::Evicting { budget } => {
                Policy::Evicting { budget: budget.clamp(1, geometry.count()) }
            }
            policy => policy,
        };
        let (members, given_up) = (Vec::new(), Vec::new());
        let crowd = Crowd { policy, members, marked: base, rung: 0, given_up };
        if policy.loses() {
            // Nothing is marked yet.
            writer.gate = base;
            writer.own.store_release(P_RESUME, base);
        }
        writer.crowd = Some(Box::new(crowd));
        writer.measure_run();
        writer
    }

    /// Lets a reader in and tells it where: the position from which on it loses nothing (or, in a
    /// lane that overwrites, from which on it counts what it loses). `None` if there is no place.
    ///
    /// A reader that wants history gets at most three quarters of the ring, so that the producer
    /// can go on at once.
    pub fn admit(&mut self, peer: C, number: u64, start: Start) -> Option<u64> {
        let joined_at = match start {
            Start::Newest => self.committed(),
            Start::Oldest => self.oldest(),
        };
        let count = self.geometry.count();
        let crowd = self.crowd.as_mut()?;
        let taken = |index: &usize| crowd.members.iter().any(|member| member.index == *index);
        let index = (0..READERS_MAX).find(|index| !taken(index))?;
        roster::enter(&self.own, index, number, joined_at);
        crowd.members.push(Member {
            number,
            index,
            peer,
            joined_at,
            cursor: joined_at,
            gates: crowd.policy != Policy::Overwrite,
            bell: Bell::default(),
            heard: 0,
        });
        if crowd.policy == Policy::Gated {
            self.gate = self.gate.min(joined_at.saturating_add(count));
        }
        self.count_light();
        self.measure_run();
        Some(joined_at)
    }

    /// Forgets a reader that is gone. False if it was not known, or has left by itself.
    pub fn dismiss(&mut self, number: u64) -> bool {
        let Some(crowd) = &mut self.crowd else { return false };
        let Some(at) = crowd.members.iter().position(|member| member.number == number) else {
            return false;
        };
        let gone = crowd.members.swap_remove(at);
        roster::remove(&self.own, gone.index);
        self.count_light();
        true
    }

    /// Whether a reader was let in and is not gone.
    #[must_use]
    pub fn knows(&self, number: u64) -> bool {
        self.lags().any(|lag| lag.reader == number)
    }

    /// Whether the open batch is as long as one should be: what becomes visible at once puts every
    /// reader of an evicting lane that far behind, of which a quarter of its budget is enough.
    pub(crate) fn is_batch_long(&self) -> bool {
        let policy = self.crowd.as_ref().map(|crowd| crowd.policy);
        let Some(Policy::Evicting { budget }) = policy else { return false };
        self.next.position - self.committed() >= (budget / 4).max(1)
    }

    /// Every reader's lag: of those that gate as last seen, of the others as they say now.
    pub fn lags(&self) -> impl Iterator<Item = Lag> + '_ {
        let committed = self.committed();
        let members = self.crowd.iter().flat_map(|crowd| &crowd.members);
        members.map(move |member| {
            let cursor = match member.gates {
                true => member.cursor,
                false => member.peer.load_acquire(C_RELEASED).max(member.joined_at),
            };
            let slots = committed.saturating_sub(cursor);
            Lag { reader: member.number, slots, gates: member.gates }
        })
    }

    /// The reader that is furthest behind among those that gate.
    #[must_use]
    pub fn slowest(&self) -> Option<Lag> {
        self.lags().filter(|lag| lag.gates).max_by_key(|lag| lag.slots)
    }

    /// Readers that were given up since the last call.
    pub fn take_given_up(&mut self) -> Vec<GivenUp> {
        self.crowd.as_mut().map(|crowd| std::mem::take(&mut crowd.given_up)).unwrap_or_default()
    }

    /// Commits need no fence of their own if every reader pays for it when it goes to sleep.
    fn count_light(&mut self) {
        let mut members = self.crowd.iter().flat_map(|crowd| &crowd.members);
        self.light = self.may_be_light && members.all(|member| member.peer.load_u32(C_HEAVY) == 1);
    }

    /// What [`Writer::refresh`] is where there are many consumers, or none.
    #[cold]
    #[inline(never)]
    pub(super) fn refresh_crowd(&mut self, slots: u64) {
        let Some(mut crowd) = self.crowd.take() else { return };
        let (next, committed, count) =
            (self.next.position, self.committed(), self.geometry.count());
        let readers = crowd.members.len();
        let gauge = self.does_distance_matter(slots).then_some(&mut self.gauge);
        crowd.look(&self.own, committed, gauge);
        let some_left = crowd.members.len() < readers;
        if crowd.loses() {
            let needed = next.saturating_add(slots);
            // What is staged is not overwritten by what comes after it.
            if needed <= committed.saturating_add(count) {
                crowd.give_up_slow(&self.own, committed, needed, count);
                let run = (count / 8).clamp(1, MARKED_MAX);
                let end = crowd.limit().min(next.saturating_add(run)).max(needed);
                self.mark(&mut crowd, end.min(committed.saturating_add(count)));
            }
            self.gate = crowd.marked;
        } else {
            self.gate = crowd.lowest().unwrap_or(committed).saturating_add(count);
            if self.batch.is_some() {
                self.gate = self.gate.min(next.saturating_add(slots).saturating_add(count / 4));
            }
        }
        self.released = crowd.lowest().unwrap_or(committed);
        self.crowd = Some(crowd);
        if some_left {
            self.count_light();
        }
        self.measure_run();
    }

    /// How far the producer of a gated lane may write without a word of it: a late reader takes
    /// three quarters of the ring for whole, also where the producer was killed as it wrote.
    pub(super) fn reach(&self) -> u64 {
        let gated = self.crowd.as_ref().is_some_and(|crowd| !crowd.loses());
        let quarter = (self.geometry.count() / 4).max(1);
        if gated { self.next.position.saturating_add(quarter) } else { u64::MAX }
    }

    /// Before slots up to `end` of a gated lane are written: says how much of the ring is then
    /// still whole, if that is less than three quarters.
    #[cold]
    #[inline(never)]
    pub(super) fn note_reach(&mut self, end: u64) {
        // A batch may be filled up to the gate without another question. What a dropped one wrote
        // over stays so.
        let end = if self.batch.is_some() { self.gate.max(end) } else { end }.max(self.touched);
        let quarter = (self.geometry.count() / 4).max(1);
        let gated = self.crowd.as_ref().is_some_and(|crowd| !crowd.loses());
        if gated && end > self.committed().saturating_add(quarter) {
            self.own.store_relaxed(P_RESUME, end.saturating_sub(self.geometry.count()));
            self.own.release_fence();
        }
        self.measure_run();
    }

    /// Takes the slots up to `end` from the readers: each says that it is being written before the
    /// first byte of it is.
    fn mark(&mut self, crowd: &mut Crowd<C>, end: u64) {
        if end <= crowd.marked {
            return;
        }
        // Half a ring behind: a reader that was overrun and keeps the producer's pace from now on
        // is not overrun again at once.
        let resume = self.boundary(end.saturating_sub(self.geometry.count() / 2));
        self.own.store_relaxed(P_RESUME, resume);
        let mut place = self.geometry.place(crowd.marked);
        while place.position < end {
            let busy = CommitWord::of(&place, Kind::Busy, 0).0;
            // Pairs with the Acquire in Follower::skip [resume].
            self.own.store_release(place.offset, busy);
            place.advance(&self.geometry);
        }
        // Pairs with the fence in Follower::recheck [busy]: whoever sees a byte that is written
        // after this sees the mark, too.
        self.own.release_fence();
        crowd.marked = end;
    }

    /// The first position from `from` on at which a message starts, of those that this generation
    /// still has. Reads the producer's own words back: they are as it left them.
    fn boundary(&self, from: u64) -> u64 {
        message_start(&self.own, &self.geometry, self.base, from, self.committed())
    }

    /// The oldest message that a late reader can have.
    fn oldest(&self) -> u64 {
        let (count, next) = (self.geometry.count(), self.next.position);
        let Some(crowd) = &self.crowd else { return next };
        let quarter = (count / 4).max(1);
        // Beyond `touched` nothing was written but perhaps the one slot of a dropped reservation.
        let written = self.touched.max(next + 1).max(crowd.marked);
        let kept = written.saturating_sub(count).max(next.saturating_sub(count - quarter));
        let kept = match crowd.policy {
            Policy::Evicting { budget } => kept.max(next.saturating_sub(budget - 1)),
            _ => kept,
        };
        self.boundary(kept)
    }

    /// Wakes the readers that sleep: they all sleep on our one bell.
    #[cold]
    #[inline(never)]
    pub(super) fn wake_crowd(&mut self) {
        let Some(crowd) = self.crowd.as_mut().filter(|crowd| !crowd.members.is_empty()) else {
            return;
        };
        // As in Writer::wake_parked_consumer.
        if self.light {
            self.own.light_fence();
        } else {
            self.own.full_fence();
        }
        let mut asleep = false;
        for member in &mut crowd.members {
            let parked = member.peer.load_u32(C_PARKED);
            if !parked.is_multiple_of(2) {
                let progress = member.peer.load_acquire(C_RELEASED);
                let ring = member.bell.ring(parked, progress).is_some();
                if ring && parked & BY_DOORBELL != 0 {
                    member.peer.doorbell();
                } else {
                    asleep |= ring;
                }
            }
        }
        if asleep {
            crowd.rung = crowd.rung.wrapping_add(1);
            self.own.store_u32(P_BELL, crowd.rung);
            self.own.wake(P_BELL);
        }
    }

    /// Sleeps on the bell of the reader that is furthest behind.
    pub(super) fn park_for_crowd(
        &mut self,
        slots: u64,
        timeout: Duration,
    ) -> Result<(), Corruption> {
        self.refresh(slots)?;
        if slots <= self.free() {
            return Ok(());
        }
        let members = self.crowd.iter().flat_map(|crowd| crowd.gating());
        match members.min_by_key(|member| member.cursor) {
            Some(slowest) => slowest.peer.wait(C_BELL, slowest.heard, timeout),
            // Nobody could wake us: the caller looks at its control socket in between.
            None => std::thread::sleep(timeout.min(UNJOINED_SLEEP)),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::WORD_BYTES;
    use crate::layout::KIND_PRODUCER;
    use crate::pair::handed_over;
    use crate::region::{Foreign, Owned, Region};
    use crate::ring::oldest_message;
    use crate::{PairOptions, pair};

    type Gated = Writer<Region<Owned>, Region<Foreign>>;

    /// A gated lane of 8-byte messages without readers, some laps on, and what a late one will see.
    fn gated(slot_count: u32) -> (Gated, Region<Foreign>) {
        let options = PairOptions { slot_payload_bytes: 8, slot_count, ..PairOptions::default() };
        let (producer, _consumer) = pair(options).unwrap();
        let geometry = Geometry::try_new(8, slot_count).unwrap();
        let (own, seen) = handed_over(producer.grant(), geometry, KIND_PRODUCER).unwrap();
        let mut writer = Writer::broadcast(own, geometry, WaitMode::Spin, 0, Policy::Gated);
        (0..3 * u64::from(slot_count) + 1).for_each(|number| send(&mut writer, number));
        (writer, seen)
    }

    fn send(writer: &mut Gated, number: u64) {
        let span = match writer.ready(8) {
            Some(span) => span,
            None => writer.try_reserve(8).unwrap().expect("nobody is waited for"),
        };
        writer.write(&span, 0, &number.to_le_bytes());
        writer.commit(&span);
    }

    /// The producer is killed now: whatever a late reader starts with is as it was sent. Returns
    /// how many messages it gets.
    fn killed(seen: &Region<Foreign>, geometry: &Geometry, committed: u64) -> u64 {
        let start = oldest_message(seen, geometry, 0, committed, false);
        for position in start..committed {
            let at = geometry.slot_offset(position);
            let word = CommitWord(seen.load_acquire(at));
            assert_eq!(word, CommitWord::new(geometry.turn(position), Kind::Data, 8));
            let mut bytes = [0; 8];
            seen.copy_out(at + WORD_BYTES, &mut bytes);
            assert_eq!(u64::from_le_bytes(bytes), position, "torn");
        }
        committed - start
    }

    #[test]
    fn a_long_message_of_a_killed_producer_tears_nothing_for_a_late_reader() {
        for slot_count in [2, 4, 8, 64, 512] {
            let (mut writer, seen) = gated(slot_count);
            let (count, geometry) = (u64::from(slot_count), *writer.geometry());
            let (committed, quarter) = (writer.committed(), (count / 4).max(1));
            assert_eq!(killed(&seen, &geometry, committed), count - quarter);
            for slots in (1..=count).chain([1, quarter, (quarter + 1).min(count)]) {
                let bytes = vec![0xff; usize::try_from(slots * 8).unwrap()];
                let span = writer.try_reserve(bytes.len()).unwrap().expect("nobody is waited for");
                writer.write(&span, 0, &bytes);
                let longest = if writer.touched > committed + slots { count } else { slots };
                let kept = killed(&seen, &geometry, committed);
                assert_eq!(kept, count - longest.max(quarter), "{slots} of {count} slots");
            }
        }
    }

    #[test]
    fn a_batch_of_a_killed_producer_tears_nothing_for_a_late_reader() {
        for slot_count in [2, 4, 8, 64, 512] {
            let (mut writer, seen) = gated(slot_count);
            let (geometry, committed) = (*writer.geometry(), writer.committed());
            while let Some(span) = match writer.ready_in_batch(8) {
                Some(span) => Some(span),
                None => writer.try_reserve(8).unwrap(),
            } {
                writer.write(&span, 0, &[0xff; 8]);
                writer.stage(&span);
                killed(&seen, &geometry, committed);
            }
            writer.abort_batch();
            killed(&seen, &geometry, committed);
        }
    }

    #[test]
    fn many_messages_at_once_of_a_killed_producer_tear_nothing_for_a_late_reader() {
        for slot_count in [2, 4, 8, 64, 512] {
            let (mut writer, seen) = gated(slot_count);
            for _ in 0..3 {
                let (geometry, committed) = (*writer.geometry(), writer.committed());
                let mut number = committed;
                writer.commit_arrays(usize::MAX, || {
                    killed(&seen, &geometry, committed);
                    number += 1;
                    (number - 1).to_le_bytes()
                });
                send(&mut writer, number);
            }
        }
    }
}
