//! The rival: rtrb between two pinned threads of one process, the same messages by value.
//!
//! An upper bound rather than an equal: no process border, no hostile peer, no hugepages.

use std::time::Duration;

use rtrb::{Consumer, Producer, PushError, RingBuffer};

use crate::error::BenchError;
use crate::message::{Idle, STOP, Seen, Small, judge};
use crate::probe::{joined, pin};
use crate::recorder::{Latency, Recorder};
use crate::stream::{Meter, Throughput};

/// One push and one pop for each message, `depth` elements.
pub(crate) fn stream<const N: usize>(
    cpus: (u32, u32),
    depth: usize,
    time: Duration,
) -> Result<Option<Throughput>, BenchError> {
    let (mut producer, mut consumer) = RingBuffer::<[u8; N]>::new(depth);
    std::thread::scope(|scope| {
        let consuming = scope.spawn(move || {
            let _pinned = pin(cpus.1)?;
            consume(&mut consumer, time)
        });
        let producing = scope.spawn(move || {
            let _pinned = pin(cpus.0)?;
            produce(&mut producer, time)
        });
        joined(producing.join())?;
        joined(consuming.join())
    })
}

/// Half a round trip over two queues, one message in flight.
pub(crate) fn latency<const N: usize>(
    cpus: (u32, u32),
    depth: usize,
    time: Duration,
) -> Result<Option<Latency>, BenchError> {
    let (mut ping, mut pinged) = RingBuffer::<[u8; N]>::new(depth);
    let (mut pong, mut ponged) = RingBuffer::<[u8; N]>::new(depth);
    std::thread::scope(|scope| {
        let responding = scope.spawn(move || {
            let _pinned = pin(cpus.1)?;
            respond(&mut pinged, &mut pong)
        });
        let initiating = scope.spawn(move || {
            let _pinned = pin(cpus.0)?;
            initiate(&mut ping, &mut ponged, time)
        });
        let latency = joined(initiating.join());
        joined(responding.join())?;
        latency
    })
}

fn produce<const N: usize>(
    producer: &mut Producer<[u8; N]>,
    time: Duration,
) -> Result<(), BenchError> {
    let meter = Meter::new(time, N);
    let mut number = 0;
    while !meter.over(number) {
        number += 1;
        push(producer, number)?;
    }
    push(producer, STOP)
}

fn consume<const N: usize>(
    consumer: &mut Consumer<[u8; N]>,
    time: Duration,
) -> Result<Option<Throughput>, BenchError> {
    if pop(consumer, 1)? == Seen::Stop {
        return Ok(None);
    }
    let mut meter = Meter::new(time, N);
    let mut count = 1;
    while pop(consumer, count + 1)? == Seen::Message {
        count += 1;
        meter.arrived(count);
    }
    Ok(meter.finish(count))
}

fn initiate<const N: usize>(
    ping: &mut Producer<[u8; N]>,
    pong: &mut Consumer<[u8; N]>,
    time: Duration,
) -> Result<Option<Latency>, BenchError> {
    let mut recorder = Recorder::new(time);
    let mut number = 0;
    loop {
        number += 1;
        push(ping, number)?;
        let go_on = recorder.stamp();
        pop(pong, number)?;
        if !go_on {
            break;
        }
    }
    push(ping, STOP)?;
    Ok(recorder.finish())
}

fn respond<const N: usize>(
    ping: &mut Consumer<[u8; N]>,
    pong: &mut Producer<[u8; N]>,
) -> Result<(), BenchError> {
    let mut number = 0;
    loop {
        number += 1;
        if pop(ping, number)? == Seen::Stop {
            return Ok(());
        }
        push(pong, number)?;
    }
}

#[inline(always)]
fn push<const N: usize>(producer: &mut Producer<[u8; N]>, number: u64) -> Result<(), BenchError> {
    let mut message = Small::<N>::make(number);
    let mut idle = Idle::default();
    while let Err(PushError::Full(back)) = producer.push(message) {
        message = back;
        idle.spin()?;
    }
    Ok(())
}

#[inline(always)]
fn pop<const N: usize>(
    consumer: &mut Consumer<[u8; N]>,
    expected: u64,
) -> Result<Seen, BenchError> {
    let mut idle = Idle::default();
    loop {
        match consumer.pop() {
            Ok(message) => return judge(&message, N, expected),
            Err(_) => idle.spin()?,
        }
    }
}
