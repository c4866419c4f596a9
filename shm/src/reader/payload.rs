//! The bytes of a message that was found: copied out, or handed out line by line.
//!
//! What is not inlined takes the span by value: one whose address escapes is kept in memory, where
//! a wide copy of words that were just stored waits for those stores (20 of 150 ns at 1 KiB).

use std::ops::Range;

use super::Reader;
use crate::geometry::{LINE, WORD_BYTES};
use crate::memory::{self, Memory, OwnedMemory};
use crate::ring::Span;

impl<P: Memory, C: OwnedMemory> Reader<P, C> {
    /// A message of exactly `N` bytes in one slot, by value; `None` of any other.
    #[inline(always)]
    pub fn copy_array<const N: usize>(&self, span: &Span) -> Option<[u8; N]> {
        let peer = self.peer.as_ref()?;
        let fits = span.slots == 1 && span.len == N;
        fits.then(|| peer.copy_array(span.place.offset + WORD_BYTES))
    }

    /// Copies bytes of a message out, from `offset`; returns how many there were.
    #[inline(always)]
    pub fn copy_out(&self, span: &Span, offset: usize, target: &mut [u8]) -> usize {
        let Some(peer) = &self.peer else { return 0 };
        let wanted = target.len().min(span.len.saturating_sub(offset));
        let Some(target) = target.get_mut(..wanted).filter(|target| !target.is_empty()) else {
            return 0;
        };
        if span.slots == 1 {
            peer.copy_out(span.place.offset + WORD_BYTES + offset, target);
        } else {
            self.copy_long(peer, *span, offset, target);
        }
        wanted
    }

    /// Hands `len` bytes of a message out from `offset`, line by line, zeros after them.
    #[inline(always)]
    pub fn copy_lines(
        &self,
        span: &Span,
        offset: usize,
        len: usize,
        mut read: impl FnMut([u64; 8]),
    ) {
        let len = len.min(span.len.saturating_sub(offset));
        if len == 0 {
            return;
        }
        let whole = len / LINE * LINE;
        match &self.peer {
            Some(peer) if span.slots == 1 => {
                let start = span.place.offset + WORD_BYTES + offset;
                peer.copy_lines(start, whole / LINE, &mut read);
            }
            Some(peer) => self.lines_of_many(peer, *span, offset..offset + whole, &mut read),
            None => return,
        }
        if whole < len {
            read(self.part_of_line(*span, offset + whole, len - whole));
        }
    }

    /// Whole lines of a message over several slots, `range` of its bytes.
    #[inline(never)]
    fn lines_of_many(
        &self,
        peer: &P,
        span: Span,
        range: Range<usize>,
        read: &mut impl FnMut([u64; 8]),
    ) {
        let payload = self.geometry.payload() as usize;
        let Range { start: mut at, end } = range;
        while at < end {
            let (slot, within) = (span.position() + (at / payload) as u64, at % payload);
            let lines = (payload - within).min(end - at) / LINE;
            if lines == 0 {
                // It goes on in the next slot.
                read(self.part_of_line(span, at, LINE));
                at += LINE;
            } else {
                let start = self.geometry.slot_offset(slot) + WORD_BYTES + within;
                peer.copy_lines(start, lines, &mut *read);
                at += lines * LINE;
            }
        }
    }

    /// A line of which `len` bytes are the message's, from `offset`.
    #[inline(never)]
    fn part_of_line(&self, span: Span, offset: usize, len: usize) -> [u64; 8] {
        let mut line = [0; LINE];
        if let Some(target) = line.get_mut(..len) {
            self.copy_out(&span, offset, target);
        }
        memory::words(line)
    }

    fn copy_long(&self, peer: &P, span: Span, offset: usize, target: &mut [u8]) {
        let payload = self.geometry.payload() as usize;
        let (mut offset, mut rest) = (offset, target);
        while !rest.is_empty() {
            let slot = span.position() + (offset / payload) as u64;
            let within = offset % payload;
            let now = rest.len().min(payload - within);
            let (now, later) = rest.split_at_mut(now);
            peer.copy_out(self.geometry.slot_offset(slot) + WORD_BYTES + within, now);
            offset += now.len();
            rest = later;
        }
    }
}
