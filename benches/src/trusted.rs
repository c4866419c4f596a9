//! The one `unsafe` block of the benchmark: a consumer that reads the lane's own bytes.
//!
//! Only for rows that say so, where both ends are this program.

use laneway_shm::{Consumer, TrustedConsumer};

use crate::error::BenchError;
use crate::message::{NUMBER_BYTES, PATIENCE, Seen, judge};
use crate::ports::{Inlet, LargeInlet, Numbers};

/// Trusts the other worker.
pub(crate) fn trust(consumer: Consumer) -> TrustedConsumer {
    // SAFETY: every process that writes a lane of this benchmark is a worker of this program,
    // which uses the library's producer and does not store to the segment in any other way; the
    // lanes' tickets are one-time and were handed to those workers alone.
    unsafe { consumer.assume_trusted() }
}

impl<const N: usize> Inlet<N> for TrustedConsumer {
    #[inline(always)]
    fn take(&mut self, expected: u64) -> Result<Seen, BenchError> {
        let slot = self.recv(PATIENCE)?;
        judge(slot.as_bytes().unwrap_or_default(), N, expected)
    }
}

impl LargeInlet for TrustedConsumer {
    #[inline(always)]
    fn take_large(&mut self, buffer: &mut [u8], expected: u64) -> Result<Seen, BenchError> {
        let slot = self.recv(PATIENCE)?;
        judge(slot.as_bytes().unwrap_or_default(), buffer.len(), expected)
    }
}

impl Numbers for TrustedConsumer {
    #[inline(always)]
    fn take_number(&mut self) -> Result<(u64, usize), BenchError> {
        let slot = self.recv(PATIENCE)?;
        let bytes = slot.as_bytes().unwrap_or_default();
        let number = bytes.first_chunk::<NUMBER_BYTES>();
        Ok((number.map_or(0, |bytes| u64::from_le_bytes(*bytes)), bytes.len()))
    }
}
