//! The one door to plain slices: a consumer whose producer is trusted.
//!
//! For ends of one trust domain. Everything that a strict consumer checks is still checked; what
//! the `unsafe` constructor adds is the promise that committed bytes do not change.

use std::time::Duration;

use crate::consumer::Consumer;
use crate::error::RecvError;
use crate::geometry::WORD_BYTES;
use crate::ring::Span;

/// A consumer that may look at messages as plain slices.
#[derive(Debug)]
pub struct TrustedConsumer {
    strict: Consumer,
}

impl Consumer {
    /// Trusts the producer not to write to a message after its commit.
    ///
    /// # Safety
    /// Every process that writes this lane runs this library's producer, of this and of every
    /// later generation, and does not otherwise store to the segment. A producer that breaks the
    /// promise makes the slices of [`TrustedSlot::as_bytes`] change under the compiler's eyes,
    /// which is undefined behaviour.
    #[must_use]
    pub unsafe fn assume_trusted(self) -> TrustedConsumer {
        TrustedConsumer { strict: self }
    }
}

impl TrustedConsumer {
    /// The next message, if there is one now.
    ///
    /// # Errors
    /// As [`Consumer::poll`].
    #[inline(always)]
    pub fn poll(&mut self) -> Result<Option<TrustedSlot<'_>>, RecvError> {
        let span = match self.strict.ring.ready() {
            Some(span) => span,
            None => match self.strict.next_span()? {
                Some(span) => span,
                None => return Ok(None),
            },
        };
        Ok(Some(TrustedSlot { consumer: &mut self.strict, span }))
    }

    /// The next message, waiting at most `timeout` for it.
    ///
    /// # Errors
    /// As [`Consumer::recv`].
    #[inline(always)]
    pub fn recv(&mut self, timeout: Duration) -> Result<TrustedSlot<'_>, RecvError> {
        let span = match self.strict.ring.ready() {
            Some(span) => span,
            None => self.strict.wait_for_span(timeout)?,
        };
        Ok(TrustedSlot { consumer: &mut self.strict, span })
    }

    /// Back to the strict consumer.
    #[must_use]
    pub fn into_strict(self) -> Consumer {
        self.strict
    }
}

/// A received message that may be read in place. Dropping it releases its slots.
#[derive(Debug)]
pub struct TrustedSlot<'c> {
    consumer: &'c mut Consumer,
    span: Span,
}

impl TrustedSlot<'_> {
    /// The message in the lane itself; `None` if it takes several slots.
    #[must_use]
    #[inline]
    pub fn as_bytes(&self) -> Option<&[u8]> {
        if self.span.slots != 1 {
            return None;
        }
        let at = self.span.place.offset + WORD_BYTES;
        // SAFETY: the producer does not write a committed message, by the promise given to
        // `assume_trusted`; it does not re-use the slot either, because the slot is released only
        // when `self`, which the slice borrows, is dropped.
        self.consumer.ring.peer().map(|peer| unsafe { peer.bytes(at, self.span.len) })
    }

    /// Copies the message's start into `target`; returns how many bytes there were.
    pub fn copy_to(&self, target: &mut [u8]) -> usize {
        self.consumer.ring.copy_out(&self.span, 0, target)
    }
}

impl Drop for TrustedSlot<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        self.consumer.ring.release(&self.span);
    }
}
