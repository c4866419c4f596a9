//! The ends that messages go through, and how a lane serves them.
//!
//! A lane's practice is the documented one for the size: small messages are built privately and
//! sent by value, larger ones are written in place; a strict consumer takes the
//! former by value and looks at the latter line by line.

use std::time::Duration;

use laneway_shm::{Consumer, Producer, ReserveError};

use crate::error::BenchError;
use crate::message::{
    Idle, NUMBER_BYTES, PATIENCE, Read, STOP, Seen, Small, Verdict, fill, fill_uninit,
};
use crate::stream::BATCH;

/// An end that sends messages of `N` bytes by value.
pub(crate) trait Outlet<const N: usize> {
    /// Sends one, and waits for room.
    fn put(&mut self, message: [u8; N]) -> Result<(), BenchError>;

    /// Sends [`BATCH`] messages from number `first` on, as one batch where there is any.
    #[inline(always)]
    fn put_batch(&mut self, first: u64) -> Result<(), BenchError> {
        (first..).take(BATCH).try_for_each(|number| self.put(Small::<N>::make(number)))
    }
}

/// An end that receives messages of `N` bytes by value.
pub(crate) trait Inlet<const N: usize> {
    /// Waits for the next message and judges it.
    fn take(&mut self, expected: u64) -> Result<Seen, BenchError>;

    /// Judges what is there, at least one message and at most [`BATCH`], of which the next is
    /// number `count + 1`, and counts them.
    #[inline(always)]
    fn take_batch(&mut self, count: &mut u64) -> Result<Seen, BenchError> {
        let seen = self.take(*count + 1)?;
        *count += u64::from(seen == Seen::Message);
        Ok(seen)
    }
}

/// An end that sends messages of any size.
pub(crate) trait LargeOutlet {
    /// Sends message `number`, as long as `buffer`: in place, or from there.
    fn put_large(&mut self, buffer: &mut [u8], number: u64) -> Result<(), BenchError>;

    /// Sends [`BATCH`] messages from number `first` on, as one batch where there is any.
    #[inline(always)]
    fn put_large_batch(&mut self, buffer: &mut [u8], first: u64) -> Result<(), BenchError> {
        (first..).take(BATCH).try_for_each(|number| self.put_large(buffer, number))
    }
}

/// An end that receives messages of any size.
pub(crate) trait LargeInlet {
    /// Waits for the next message, as long as `buffer`, and judges it: in place, or there.
    fn take_large(&mut self, buffer: &mut [u8], expected: u64) -> Result<Seen, BenchError>;

    /// Judges what is there, at least one message and at most [`BATCH`], of which the next is
    /// number `count + 1`, and counts them.
    #[inline(always)]
    fn take_large_batch(&mut self, buffer: &mut [u8], count: &mut u64) -> Result<Seen, BenchError> {
        let seen = self.take_large(buffer, *count + 1)?;
        *count += u64::from(seen == Seen::Message);
        Ok(seen)
    }
}

/// An end that can look at a message's number and leave the rest alone.
pub(crate) trait Numbers {
    /// The next message's sequence number and length.
    fn take_number(&mut self) -> Result<(u64, usize), BenchError>;
}

/// Several readers of the same messages in one thread: each reads a message before any of them
/// reads the next.
#[derive(Debug)]
pub(crate) struct Crowd<I>(pub(crate) Vec<I>);

impl<I> Crowd<I> {
    #[inline(always)]
    fn each<T>(
        &mut self,
        mut read: impl FnMut(&mut I) -> Result<T, BenchError>,
    ) -> Result<T, BenchError> {
        let mut last = Err(BenchError::Peer(Duration::ZERO));
        for reader in &mut self.0 {
            last = Ok(read(reader)?);
        }
        last
    }
}

impl<I: Inlet<N>, const N: usize> Inlet<N> for Crowd<I> {
    #[inline(always)]
    fn take(&mut self, expected: u64) -> Result<Seen, BenchError> {
        self.each(|reader| reader.take(expected))
    }
}

impl<I: LargeInlet> LargeInlet for Crowd<I> {
    #[inline(always)]
    fn take_large(&mut self, buffer: &mut [u8], expected: u64) -> Result<Seen, BenchError> {
        self.each(|reader| reader.take_large(buffer, expected))
    }
}

impl<I: Numbers> Numbers for Crowd<I> {
    #[inline(always)]
    fn take_number(&mut self) -> Result<(u64, usize), BenchError> {
        self.each(Numbers::take_number)
    }
}

impl<const N: usize> Outlet<N> for Producer {
    #[inline(always)]
    fn put(&mut self, message: [u8; N]) -> Result<(), BenchError> {
        Ok(self.send_array(message, PATIENCE)?)
    }

    #[inline(always)]
    fn put_batch(&mut self, first: u64) -> Result<(), BenchError> {
        let mut numbers = first..;
        let make = || Small::<N>::make(numbers.next().unwrap_or(STOP));
        Ok(self.send_arrays(BATCH, PATIENCE, make)?)
    }
}

impl<const N: usize> Inlet<N> for Consumer {
    #[inline(always)]
    fn take(&mut self, expected: u64) -> Result<Seen, BenchError> {
        self.recv_array(PATIENCE, |bytes: [u8; N]| Read::of(&bytes))?.judge(N, expected)
    }

    #[inline(always)]
    fn take_batch(&mut self, count: &mut u64) -> Result<Seen, BenchError> {
        let mut verdict = Verdict::new(*count);
        self.recv_arrays(BATCH, PATIENCE, |bytes: [u8; N]| verdict.add(&bytes))?;
        verdict.give(count)
    }
}

impl LargeOutlet for Producer {
    #[inline(always)]
    fn put_large(&mut self, buffer: &mut [u8], number: u64) -> Result<(), BenchError> {
        let mut slot = self.reserve(buffer.len(), PATIENCE)?;
        if let Some(bytes) = slot.as_mut() {
            fill_uninit(bytes, number);
        }
        slot.commit();
        Ok(())
    }

    #[inline(always)]
    fn put_large_batch(&mut self, buffer: &mut [u8], first: u64) -> Result<(), BenchError> {
        let mut batch = self.batch();
        for number in (first..).take(BATCH) {
            fill(buffer, number);
            let mut idle = Idle::default();
            loop {
                match batch.push(buffer) {
                    Err(ReserveError::Full { .. }) => idle.spin()?,
                    result => break result?,
                }
            }
        }
        batch.commit();
        Ok(())
    }
}

impl LargeInlet for Consumer {
    #[inline(always)]
    fn take_large(&mut self, buffer: &mut [u8], expected: u64) -> Result<Seen, BenchError> {
        let slot = self.recv(PATIENCE)?;
        let read = Read::of_view(slot.view());
        slot.release();
        read.judge(buffer.len(), expected)
    }

    #[inline(always)]
    fn take_large_batch(&mut self, buffer: &mut [u8], count: &mut u64) -> Result<Seen, BenchError> {
        let mut batch = self.recv_many(BATCH, PATIENCE)?;
        while let Some(view) = batch.next()? {
            if Read::of_view(view).judge(buffer.len(), *count + 1)? == Seen::Stop {
                return Ok(Seen::Stop);
            }
            *count += 1;
        }
        Ok(Seen::Message)
    }
}

impl Numbers for Consumer {
    #[inline(always)]
    fn take_number(&mut self) -> Result<(u64, usize), BenchError> {
        let slot = self.recv(PATIENCE)?;
        let mut number = [0; NUMBER_BYTES];
        slot.copy_to(&mut number);
        Ok((u64::from_le_bytes(number), slot.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads the numbers from one to three, then the end.
    #[derive(Debug, Default)]
    struct Counting(u64);

    impl Inlet<8> for Counting {
        fn take(&mut self, expected: u64) -> Result<Seen, BenchError> {
            self.0 += 1;
            assert_eq!(self.0, expected);
            Ok(if self.0 > 3 { Seen::Stop } else { Seen::Message })
        }
    }

    #[test]
    fn every_reader_of_a_crowd_reads_every_message_and_its_end() {
        let mut crowd = Crowd((0..5).map(|_| Counting::default()).collect());
        for expected in 1..=3 {
            assert_eq!(crowd.take(expected).unwrap(), Seen::Message);
            assert!(crowd.0.iter().all(|reader| reader.0 == expected));
        }
        assert_eq!(crowd.take(4).unwrap(), Seen::Stop);
        assert!(Crowd(Vec::<Counting>::new()).take(1).is_err());
    }
}
