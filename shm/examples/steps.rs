//! One step of the data path, over and over: what its instructions are, and how many.
//!
//! `steps STEP MESSAGES` sends and receives that many messages on a lane inside one process. The
//! difference between two runs is what the messages cost; the functions that are not inlined are
//! the ones whose machine code `tests/tests/machine_code.rs` looks at.

use std::hint::black_box;
use std::time::Duration;

use laneway_shm::{Consumer, PairOptions, Producer, Profile, RecvError, ReserveError};
use laneway_shm::{WaitMode, pair};

const NOW: Duration = Duration::ZERO;
const BATCH: usize = 32;
const SMALL: usize = 56;

type Failure = Box<dyn std::error::Error>;
type Lane = (Producer, Consumer);

fn main() -> Result<(), Failure> {
    let mut words = std::env::args().skip(1);
    let (step, messages) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let messages: usize = messages.parse()?;
    match step.as_str() {
        "array" => arrays_one_by_one(lane(SMALL, WaitMode::Spin)?, messages),
        "array-park" => arrays_one_by_one(lane(SMALL, WaitMode::Park)?, messages),
        "arrays" => arrays_together(lane(SMALL, WaitMode::Spin)?, messages / BATCH),
        "slot" => slots(lane(SMALL, WaitMode::Spin)?, messages, SMALL),
        "slot-1024" => slots(lane(1024, WaitMode::Spin)?, messages, 1024),
        "slot-4096" => slots(lane(4096, WaitMode::Spin)?, messages, 4096),
        other => Err(format!("no step {other:?}").into()),
    }
}

fn lane(payload: usize, wait: WaitMode) -> Result<Lane, Failure> {
    let (slot_count, page_bytes, profile) = (64, 4096, Profile::Latency);
    let slot_payload_bytes = u32::try_from(payload)?;
    let lifeline = false;
    Ok(pair(PairOptions { slot_payload_bytes, slot_count, page_bytes, wait, profile, lifeline })?)
}

fn arrays_one_by_one((mut producer, mut consumer): Lane, count: usize) -> Result<(), Failure> {
    for _ in 0..count {
        send_array(&mut producer, black_box([7; SMALL]))?;
        black_box(recv_array(&mut consumer)?);
    }
    Ok(())
}

fn arrays_together((mut producer, mut consumer): Lane, batches: usize) -> Result<(), Failure> {
    for _ in 0..batches {
        send_arrays(&mut producer)?;
        black_box(recv_arrays(&mut consumer)?);
    }
    Ok(())
}

fn slots((mut producer, mut consumer): Lane, count: usize, len: usize) -> Result<(), Failure> {
    let mut buffer = vec![7; len];
    for _ in 0..count {
        send_slot(&mut producer, &buffer)?;
        black_box(recv_slot(&mut consumer, &mut buffer)?);
    }
    Ok(())
}

#[inline(never)]
fn send_array(producer: &mut Producer, message: [u8; SMALL]) -> Result<(), ReserveError> {
    producer.send_array(message, NOW)
}

#[inline(never)]
fn recv_array(consumer: &mut Consumer) -> Result<u64, RecvError> {
    consumer.recv_array(NOW, |bytes: [u8; SMALL]| {
        let (words, _) = bytes.as_chunks::<8>();
        words.iter().fold(0, |sum: u64, word| sum.wrapping_add(u64::from_le_bytes(*word)))
    })
}

#[inline(never)]
fn send_arrays(producer: &mut Producer) -> Result<(), ReserveError> {
    producer.send_arrays(BATCH, NOW, || [7; SMALL])
}

#[inline(never)]
fn recv_arrays(consumer: &mut Consumer) -> Result<u64, RecvError> {
    let mut sum = 0;
    consumer.recv_arrays(BATCH, NOW, |[first, ..]: [u8; SMALL]| sum += u64::from(first))?;
    Ok(sum)
}

#[inline(never)]
fn send_slot(producer: &mut Producer, message: &[u8]) -> Result<(), ReserveError> {
    let mut slot = producer.reserve(message.len(), NOW)?;
    slot.write(0, message);
    slot.commit();
    Ok(())
}

#[inline(never)]
fn recv_slot(consumer: &mut Consumer, target: &mut [u8]) -> Result<usize, RecvError> {
    Ok(consumer.recv(NOW)?.copy_to(target))
}
