//! Queues of crossbeam and ringbuf between two threads of one process.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TryRecvError, TrySendError};
use crossbeam_queue::ArrayQueue;
use ringbuf::traits::{Consumer, Observer, Producer, Split};
use ringbuf::{HeapCons, HeapProd, HeapRb};

use crate::error::BenchError;
use crate::message::{Idle, PATIENCE, Seen, Small, judge};
use crate::plan::{Cell, Who};
use crate::ports::{Inlet, Outlet};
use crate::queue::{Queue, Rtrb, by_value, measure as queue};
use crate::recorder::Figures;
use crate::stream::BATCH;
use crate::task::Wait;

/// Measures a cell between two threads.
pub(crate) fn measure(
    cell: &Cell,
    wait: Wait,
    cpus: Option<(u32, u32)>,
    time: Duration,
) -> Result<Figures, BenchError> {
    macro_rules! sized {
        ($queue:ty) => {
            by_value!(cell.bytes, [8, 56, 64, 256, 1024, 4096],
                N => queue::<$queue, N>(cell, cpus, time), else Ok(Figures::default()))
        };
    }
    match (cell.who, wait) {
        (Who::Rtrb, _) => sized!(Rtrb),
        (Who::ArrayQueue, _) => sized!(Array),
        (Who::Ringbuf, _) => sized!(Ring),
        (Who::CrossbeamChannel, Wait::Spin) => sized!(Channel<true>),
        (Who::CrossbeamChannel, Wait::Park) => sized!(Channel<false>),
        _ => Ok(Figures::default()),
    }
}

/// crossbeam's bounded queue: any number of ends, of which it serves two here.
#[derive(Debug)]
struct Array;

/// One of the two ends.
#[derive(Debug)]
struct ArrayEnd<const N: usize>(Arc<ArrayQueue<[u8; N]>>);

impl<const N: usize> Queue<N> for Array {
    type Outlet = ArrayEnd<N>;
    type Inlet = ArrayEnd<N>;

    fn new(depth: usize) -> (Self::Outlet, Self::Inlet) {
        let queue = Arc::new(ArrayQueue::new(depth));
        (ArrayEnd(queue.clone()), ArrayEnd(queue))
    }
}

impl<const N: usize> Outlet<N> for ArrayEnd<N> {
    #[inline(always)]
    fn put(&mut self, mut message: [u8; N]) -> Result<(), BenchError> {
        let mut idle = Idle::default();
        while let Err(back) = self.0.push(message) {
            message = back;
            idle.spin()?;
        }
        Ok(())
    }
}

impl<const N: usize> Inlet<N> for ArrayEnd<N> {
    #[inline(always)]
    fn take(&mut self, expected: u64) -> Result<Seen, BenchError> {
        let mut idle = Idle::default();
        loop {
            match self.0.pop() {
                Some(message) => return judge(&message, N, expected),
                None => idle.spin()?,
            }
        }
    }
}

/// crossbeam's bounded channel, polled or with calls that sleep.
#[derive(Debug)]
struct Channel<const SPIN: bool>;

#[derive(Debug)]
struct ChannelOutlet<const N: usize, const SPIN: bool>(Sender<[u8; N]>);

#[derive(Debug)]
struct ChannelInlet<const N: usize, const SPIN: bool>(Receiver<[u8; N]>);

impl<const N: usize, const SPIN: bool> Queue<N> for Channel<SPIN> {
    type Outlet = ChannelOutlet<N, SPIN>;
    type Inlet = ChannelInlet<N, SPIN>;

    fn new(depth: usize) -> (Self::Outlet, Self::Inlet) {
        let (sender, receiver) = crossbeam_channel::bounded(depth);
        (ChannelOutlet(sender), ChannelInlet(receiver))
    }
}

impl<const N: usize, const SPIN: bool> Outlet<N> for ChannelOutlet<N, SPIN> {
    #[inline(always)]
    fn put(&mut self, mut message: [u8; N]) -> Result<(), BenchError> {
        if !SPIN {
            let sent = self.0.send_timeout(message, PATIENCE);
            return sent.map_err(|_| BenchError::Peer(PATIENCE));
        }
        let mut idle = Idle::default();
        loop {
            match self.0.try_send(message) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Full(back)) => message = back,
                Err(TrySendError::Disconnected(_)) => return Err(BenchError::Peer(Duration::ZERO)),
            }
            idle.spin()?;
        }
    }
}

impl<const N: usize, const SPIN: bool> Inlet<N> for ChannelInlet<N, SPIN> {
    #[inline(always)]
    fn take(&mut self, expected: u64) -> Result<Seen, BenchError> {
        if !SPIN {
            let message = self.0.recv_timeout(PATIENCE).map_err(|_| BenchError::Peer(PATIENCE))?;
            return judge(&message, N, expected);
        }
        let mut idle = Idle::default();
        loop {
            match self.0.try_recv() {
                Ok(message) => return judge(&message, N, expected),
                Err(TryRecvError::Empty) => idle.spin()?,
                Err(TryRecvError::Disconnected) => return Err(BenchError::Peer(Duration::ZERO)),
            }
        }
    }
}

/// ringbuf's ring on the heap; its batches are iterators.
#[derive(Debug)]
struct Ring;

impl<const N: usize> Queue<N> for Ring {
    type Outlet = HeapProd<[u8; N]>;
    type Inlet = HeapCons<[u8; N]>;

    fn new(depth: usize) -> (Self::Outlet, Self::Inlet) {
        HeapRb::new(depth).split()
    }
}

impl<const N: usize> Outlet<N> for HeapProd<[u8; N]> {
    #[inline(always)]
    fn put(&mut self, mut message: [u8; N]) -> Result<(), BenchError> {
        let mut idle = Idle::default();
        while let Err(back) = self.try_push(message) {
            message = back;
            idle.spin()?;
        }
        Ok(())
    }

    #[inline(always)]
    fn put_batch(&mut self, first: u64) -> Result<(), BenchError> {
        let mut idle = Idle::default();
        while self.vacant_len() < BATCH {
            idle.spin()?;
        }
        self.push_iter((first..).take(BATCH).map(Small::<N>::make));
        Ok(())
    }
}

impl<const N: usize> Inlet<N> for HeapCons<[u8; N]> {
    #[inline(always)]
    fn take(&mut self, expected: u64) -> Result<Seen, BenchError> {
        let mut idle = Idle::default();
        loop {
            match self.try_pop() {
                Some(message) => return judge(&message, N, expected),
                None => idle.spin()?,
            }
        }
    }

    #[inline(always)]
    fn take_batch(&mut self, count: &mut u64) -> Result<Seen, BenchError> {
        let mut idle = Idle::default();
        while self.is_empty() {
            idle.spin()?;
        }
        for message in self.pop_iter().take(BATCH) {
            if judge(&message, N, *count + 1)? == Seen::Stop {
                return Ok(Seen::Stop);
            }
            *count += 1;
        }
        Ok(Seen::Message)
    }
}
