//! Queues between two threads of one process, and rtrb as the one that `run` measures.
//!
//! An upper bound rather than an equal: no process border, no hostile peer, no hugepages.

use std::time::Duration;

use rtrb::{Consumer, Producer, PushError, RingBuffer};

use crate::error::BenchError;
use crate::latency;
use crate::message::{Idle, Seen, Small, judge};
use crate::plan::Cell;
use crate::ports::{Inlet, Outlet};
use crate::probe::{joined, pin};
use crate::recorder::Figures;
use crate::stream;
use crate::task::Work;

/// A queue for messages of `N` bytes by value.
pub(crate) trait Queue<const N: usize> {
    type Outlet: Outlet<N> + Send;
    type Inlet: Inlet<N> + Send;

    /// The two ends of a new queue with room for `depth` messages.
    fn new(depth: usize) -> (Self::Outlet, Self::Inlet);
}

/// Runs `$body` with the constant `$N`, if `$bytes` is one of the sizes.
macro_rules! by_value {
    ($bytes:expr, [$($size:literal),*], $N:ident => $body:expr, else $other:expr) => {
        match $bytes {
            $($size => {
                const $N: usize = $size;
                $body
            })*
            _ => $other,
        }
    };
}
pub(crate) use by_value;

/// Measures a cell, each thread pinned to its cpu or, without cpus, where the kernel puts it.
pub(crate) fn measure<Q: Queue<N>, const N: usize>(
    cell: &Cell,
    cpus: Option<(u32, u32)>,
    time: Duration,
) -> Result<Figures, BenchError> {
    let depth = cell.depth as usize;
    match cell.work {
        Work::Latency => round_trips::<_, _, N>(Q::new(depth), Q::new(depth), cpus, time),
        Work::Stream => one_way::<_, _, N>(Q::new(depth), cpus, time, false),
        Work::Batch => one_way::<_, _, N>(Q::new(depth), cpus, time, true),
        Work::Copy => Ok(Figures::default()),
    }
}

/// A stream between two threads.
pub(crate) fn one_way<O, I, const N: usize>(
    (mut outlet, mut inlet): (O, I),
    cpus: Option<(u32, u32)>,
    time: Duration,
    batch: bool,
) -> Result<Figures, BenchError>
where
    O: Outlet<N> + Send,
    I: Inlet<N> + Send,
{
    let throughput = std::thread::scope(|scope| {
        let consuming = scope.spawn(move || {
            let _pinned = cpus.map(|cpus| pin(cpus.1)).transpose()?;
            if batch {
                stream::consume_batches(&mut Small::<N>, &mut inlet, time, N)
            } else {
                stream::consume(&mut Small::<N>, &mut inlet, time, N)
            }
        });
        let producing = scope.spawn(move || {
            let _pinned = cpus.map(|cpus| pin(cpus.0)).transpose()?;
            if batch {
                stream::produce_batches(&mut Small::<N>, &mut outlet, time, N)
            } else {
                stream::produce(&mut Small::<N>, &mut outlet, time, N)
            }
        });
        joined(producing.join())?;
        joined(consuming.join())
    })?;
    Ok(Figures { latency: None, throughput })
}

/// Half a round trip over two queues, one message in flight.
pub(crate) fn round_trips<O, I, const N: usize>(
    (mut ping, mut pinged): (O, I),
    (mut pong, mut ponged): (O, I),
    cpus: Option<(u32, u32)>,
    time: Duration,
) -> Result<Figures, BenchError>
where
    O: Outlet<N> + Send,
    I: Inlet<N> + Send,
{
    let latency = std::thread::scope(|scope| {
        let responding = scope.spawn(move || {
            let _pinned = cpus.map(|cpus| pin(cpus.1)).transpose()?;
            latency::respond(&mut Small::<N>, &mut pinged, &mut pong)
        });
        let initiating = scope.spawn(move || {
            let _pinned = cpus.map(|cpus| pin(cpus.0)).transpose()?;
            latency::initiate(&mut Small::<N>, &mut ping, &mut ponged, time)
        });
        let latency = joined(initiating.join());
        joined(responding.join())?;
        latency
    })?;
    Ok(Figures { latency, throughput: None })
}

/// rtrb: one push and one pop for each message, chunks for batches.
#[derive(Debug)]
pub(crate) struct Rtrb;

impl<const N: usize> Queue<N> for Rtrb {
    type Outlet = Producer<[u8; N]>;
    type Inlet = Consumer<[u8; N]>;

    fn new(depth: usize) -> (Self::Outlet, Self::Inlet) {
        RingBuffer::new(depth)
    }
}

impl<const N: usize> Outlet<N> for Producer<[u8; N]> {
    #[inline(always)]
    fn put(&mut self, mut message: [u8; N]) -> Result<(), BenchError> {
        let mut idle = Idle::default();
        while let Err(PushError::Full(back)) = self.push(message) {
            message = back;
            idle.spin()?;
        }
        Ok(())
    }

    #[inline(always)]
    fn put_batch(&mut self, first: u64) -> Result<(), BenchError> {
        let mut idle = Idle::default();
        loop {
            if let Ok(chunk) = self.write_chunk_uninit(stream::BATCH) {
                chunk.fill_from_iter((first..).map(Small::<N>::make));
                return Ok(());
            }
            idle.spin()?;
        }
    }
}

impl<const N: usize> Inlet<N> for Consumer<[u8; N]> {
    #[inline(always)]
    fn take(&mut self, expected: u64) -> Result<Seen, BenchError> {
        let mut idle = Idle::default();
        loop {
            match self.pop() {
                Ok(message) => return judge(&message, N, expected),
                Err(_) => idle.spin()?,
            }
        }
    }

    #[inline(always)]
    fn take_batch(&mut self, count: &mut u64) -> Result<Seen, BenchError> {
        let mut idle = Idle::default();
        let there = loop {
            match self.slots() {
                0 => idle.spin()?,
                there => break there.min(stream::BATCH),
            }
        };
        let Ok(chunk) = self.read_chunk(there) else {
            unreachable!("as many messages were just there, and nobody else takes any");
        };
        for message in chunk {
            if judge(&message, N, *count + 1)? == Seen::Stop {
                return Ok(Seen::Stop);
            }
            *count += 1;
        }
        Ok(Seen::Message)
    }
}
