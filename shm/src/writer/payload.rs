//! How the bytes of a message come into its slots: which copy, and over slot borders.

use super::Writer;
use crate::distance::{Distance, Gauge, MATTERS_FROM, Relation};
use crate::geometry::{LINE, Place, WORD_BYTES};
use crate::memory::{Memory, OwnedMemory};
use crate::ring::Span;

/// From this length on the copy is no part of the caller's code, in bytes.
const LONG_FROM: usize = 4096;

/// Slots beyond this size are not asked for, in bytes.
const ASKED_MAX: usize = 4 * LINE;
/// How far before their time lines are asked for, in bytes.
const AHEAD: usize = 4096;

impl<P: OwnedMemory, C: Memory> Writer<P, C> {
    /// Starts with the agent's word on how far the consumer is.
    pub(crate) fn believe(&mut self, relation: Option<Relation>) {
        self.gauge = Gauge::granted(relation);
        self.measure_ahead();
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
        self.is_long(slots) || self.may_ask()
    }

    /// Whether it may pay to ask for the lines of later slots (`docs/measurements.md`, "Lines asked
    /// for in time"). In a small ring unread messages lie there, and what fills many lines in a row
    /// is written by wider stores, which wait for more lines at once.
    fn may_ask(&self) -> bool {
        self.geometry.stride() <= ASKED_MAX && self.geometry.segment_bytes() >= 64 * AHEAD as u64
    }

    /// Works out anew how far ahead lines are asked for.
    pub(super) fn measure_ahead(&mut self) {
        // Several messages of a line ask several times, which pays where it takes long.
        let pays = self.geometry.stride() >= LINE || self.distance() == Distance::Far;
        self.ahead = if pays && self.may_ask() { AHEAD } else { 0 };
    }

    /// Asks for the lines of a slot with `N` bytes that is written soon, while later stores have
    /// room to wait for them: the store buffer holds seven messages of 64 bytes, and a line that a
    /// far reader has takes 270 ns.
    #[inline(always)]
    pub(super) fn prepare<const N: usize>(&self, place: &Place) {
        if self.ahead > 0 && N <= ASKED_MAX {
            for line in 0..N.div_ceil(LINE).max(1) {
                self.own.prefetch_for_store(place.offset + self.ahead + line * LINE);
            }
        }
    }

    /// The same for a message of a length that is not known beforehand. Out of the way, so that a
    /// commit keeps its registers.
    #[inline(never)]
    pub(super) fn prepare_slot(&self, span: &Span) {
        for line in 0..span.len.clamp(1, ASKED_MAX).div_ceil(LINE) {
            self.own.prefetch_for_store(span.place.offset + self.ahead + line * LINE);
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
            self.write_long(span, offset, bytes);
        }
    }

    #[inline(never)]
    fn write_long(&self, span: &Span, offset: usize, bytes: &[u8]) {
        if bytes.len() as u64 >= MATTERS_FROM && self.distance() == Distance::Far {
            // Before: a lane that loses has marked these slots as busy, and who sees the bytes has
            // to see the mark. After: the commit shows them.
            self.own.drain();
            self.each_piece(span, offset, bytes, |at, piece| self.own.copy_past(at, piece));
            self.own.drain();
        } else {
            self.each_piece(span, offset, bytes, |at, piece| self.own.copy_in(at, piece));
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
