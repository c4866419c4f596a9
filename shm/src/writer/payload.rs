//! How the bytes of a message come into its slots: which copy, and over slot borders.

use super::{COUNTERS_EVERY, Writer};
use crate::distance::{Distance, Gauge, MATTERS_FROM, Relation};
use crate::geometry::{Geometry, LINE, WORD_BYTES};
use crate::memory::{Memory, OwnedMemory};
use crate::ring::Span;

/// From this length on the copy is no part of the caller's code, in bytes.
const LONG_FROM: usize = 4096;

/// Whether it may pay to ask for the lines of later slots (`docs/measurements.md`, "Lines asked for
/// in time"). In a small ring unread messages lie there, and what fills many lines in a row is
/// written by wider stores, which wait for more lines at once.
pub(super) fn may_ask(geometry: &Geometry) -> bool {
    const SLOT_MAX: usize = 4 * LINE;
    const RING_MIN: u64 = 256 << 10;
    geometry.stride() <= SLOT_MAX && geometry.segment_bytes() >= RING_MIN
}

impl<P: OwnedMemory, C: Memory> Writer<P, C> {
    /// Starts with the agent's word on how far the consumer is.
    pub fn believe(&mut self, relation: Option<Relation>) {
        self.gauge = Gauge::granted(relation);
    }

    /// How far the consumer is, as judged so far.
    #[must_use]
    pub fn distance(&self) -> Distance {
        self.gauge.distance()
    }

    /// Whether the distance may matter where a message takes so many slots.
    pub(super) fn is_long(&self, slots: u64) -> bool {
        slots.saturating_mul(u64::from(self.geometry.payload())) >= MATTERS_FROM
    }

    /// Whether the distance matters to messages of so many slots, or to small ones.
    pub(super) fn does_distance_matter(&self, slots: u64) -> bool {
        self.may_ask || self.is_long(slots)
    }

    /// Asks for the lines of 64 slots, those behind the next 64. A store waits for its line in the
    /// store buffer, which holds seven messages of 64 bytes, and a line that a far reader has takes
    /// 270 ns. Called with the counters, so that no message pays for it, and silent where unread
    /// messages lie there.
    pub(super) fn ask_for_lines(&self) {
        let is_free = self.free() >= 2 * COUNTERS_EVERY as u64;
        if !self.may_ask || !is_free || self.distance() != Distance::Far {
            return;
        }
        let bytes = COUNTERS_EVERY * self.geometry.stride();
        let start = self.next.offset + bytes;
        for offset in (start..start + bytes).step_by(LINE) {
            self.own.prefetch_for_store(offset);
        }
    }

    /// Whether a message that takes so many slots wants a look at the consumer's cursor even where
    /// there is room: until the distance is certain, and again when something contradicts it. A
    /// ring may hold thousands of long messages before it asks for a look of itself.
    pub(super) fn is_calibrating(&self, slots: u64) -> bool {
        self.is_long(slots) && !self.gauge.is_certain() && self.peer.is_some()
    }

    /// Copies `bytes` to `offset` of a reserved message, over slot borders where needed.
    ///
    /// Bytes beyond the span's length are not written; the caller has checked the range.
    #[inline(always)]
    pub fn write(&self, span: &Span, offset: usize, bytes: &[u8]) {
        if span.slots == 1 && bytes.len() < LONG_FROM {
            self.own.copy_in(span.place.offset + WORD_BYTES + offset, bytes);
        } else {
            self.write_long(*span, offset, bytes);
        }
    }

    #[inline(never)]
    fn write_long(&self, span: Span, offset: usize, bytes: &[u8]) {
        if bytes.len() as u64 >= MATTERS_FROM && self.distance() == Distance::Far {
            // Before: a lane that loses has marked these slots as busy, and who sees the bytes has
            // to see the mark. After: the commit shows them.
            self.own.drain();
            self.each_piece(&span, offset, bytes, |at, piece| self.own.copy_past(at, piece));
            self.own.drain();
        } else {
            self.each_piece(&span, offset, bytes, |at, piece| self.own.copy_in(at, piece));
        }
    }

    /// Cuts at slot borders, and says where in the segment each piece goes.
    fn each_piece(
        &self,
        span: &Span,
        offset: usize,
        bytes: &[u8],
        mut write: impl FnMut(usize, &[u8]),
    ) {
        let payload = self.geometry.payload() as usize;
        let (mut offset, mut rest) = (offset, bytes);
        while !rest.is_empty() {
            let slot = span.position() + (offset / payload) as u64;
            let within = offset % payload;
            let (now, later) = rest.split_at(rest.len().min(payload - within));
            write(self.geometry.slot_offset(slot) + WORD_BYTES + within, now);
            offset += now.len();
            rest = later;
        }
    }
}
