//! One step of the data path, over and over: what its instructions are, and how many.
//!
//! `steps STEP MESSAGES` sends and receives that many messages on a lane inside one process; for
//! `cast`, a broadcast lane of an agent's with two readers: `LANEWAY_ATTACH_SOCKET`, and three
//! words in `LANEWAY_TICKETS`, the producer's first. The difference between two runs is what the
//! messages cost; the functions that are not inlined are the ones whose machine code
//! `tests/tests/machine_code.rs` looks at, and that it counts by themselves.

use std::hint::black_box;
use std::time::Duration;

use laneway_shm::{Attach, Consumer, PairOptions, Producer, Profile, ReadSlot, RecvError};
use laneway_shm::{ReserveError, View, WaitMode, WriteSlot, pair};

// Which copy a lane picks is a matter of measured times; this one is counted by itself.
#[expect(dead_code, reason = "the others are counted as lanes use them")]
#[path = "../src/copy.rs"]
mod copy;

const NOW: Duration = Duration::ZERO;
const SOON: Duration = Duration::from_secs(30);
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
        "bare" => bare(lane(SMALL, WaitMode::Spin)?, messages),
        "packed" => packed(lane(BATCH * 8, WaitMode::Spin)?, messages / BATCH),
        "copy-64" => copies(lane(64, WaitMode::Spin)?, messages, 64),
        "copy-1024" => copies(lane(1024, WaitMode::Spin)?, messages, 1024),
        "copy-4096" => copies(lane(4096, WaitMode::Spin)?, messages, 4096),
        "copy-65536" => copies(lane(65_536, WaitMode::Spin)?, messages, 65_536),
        "past-65536" => {
            copies_past(messages, 65_536);
            Ok(())
        }
        "cast" => cast(messages),
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

fn bare((mut producer, mut consumer): Lane, count: usize) -> Result<(), Failure> {
    for _ in 0..count {
        reserve_commit(&mut producer)?;
        black_box(poll_release(&mut consumer)?);
    }
    Ok(())
}

fn packed((mut producer, mut consumer): Lane, batches: usize) -> Result<(), Failure> {
    for _ in 0..batches {
        send_packed(&mut producer)?;
        black_box(recv_packed(&mut consumer)?);
    }
    Ok(())
}

fn copies((mut producer, mut consumer): Lane, count: usize, len: usize) -> Result<(), Failure> {
    let mut buffer = vec![7; len];
    for _ in 0..count {
        let mut slot = producer.reserve(len, NOW)?;
        copy_in(&mut slot, &buffer);
        slot.commit();
        let slot = consumer.recv(NOW)?;
        black_box(copy_out(&slot, &mut buffer));
        black_box(add_up(slot.view()));
    }
    Ok(())
}

fn copies_past(count: usize, len: usize) {
    let (source, mut target) = (vec![7; len], vec![0; len + 8]);
    for _ in 0..count {
        copy_past(&source, &mut target[8..]);
        black_box(&target);
    }
}

fn cast(count: usize) -> Result<(), Failure> {
    let socket = std::env::var("LANEWAY_ATTACH_SOCKET")?;
    let tickets = std::env::var("LANEWAY_TICKETS")?;
    let [first, second, third] = tickets.split_whitespace().collect::<Vec<_>>()[..] else {
        return Err("LANEWAY_TICKETS: one of a producer and two of readers".into());
    };
    let mut producer = Attach::with_ticket(&socket, first)?.pin(false).producer()?;
    let mut readers = Vec::new();
    for ticket in [second, third] {
        readers.push(Attach::with_ticket(&socket, ticket)?.pin(false).consumer()?);
    }
    while producer.readers().count() < readers.len() {
        producer.maintain()?;
    }
    for _ in 0..count {
        send_cast(&mut producer, black_box([7; SMALL]))?;
        for reader in &mut readers {
            reader.recv_array(SOON, |bytes: [u8; SMALL]| black_box(bytes[0]))?;
        }
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

#[inline(never)]
fn reserve_commit(producer: &mut Producer) -> Result<(), ReserveError> {
    producer.reserve(SMALL, NOW)?.commit();
    Ok(())
}

#[inline(never)]
fn poll_release(consumer: &mut Consumer) -> Result<usize, RecvError> {
    Ok(consumer.poll()?.map_or(0, |slot| slot.len()))
}

#[inline(never)]
fn copy_out(slot: &ReadSlot<'_>, target: &mut [u8]) -> usize {
    slot.copy_to(target)
}

#[inline(never)]
fn add_up(view: View<'_>) -> u64 {
    let mut sum = 0u64;
    view.for_each_line(|words| sum = words.into_iter().fold(sum, u64::wrapping_add));
    sum
}

#[inline(never)]
fn copy_in(slot: &mut WriteSlot<'_>, source: &[u8]) {
    slot.write(0, source);
}

#[inline(never)]
fn copy_past(source: &[u8], target: &mut [u8]) {
    assert_eq!(source.len(), target.len());
    // SAFETY: both slices are live, the target is exclusive, and they are equally long.
    unsafe { copy::copy_past_caches(source.as_ptr(), target.as_mut_ptr(), source.len()) };
    copy::drain();
}

#[inline(never)]
fn send_packed(producer: &mut Producer) -> Result<(), ReserveError> {
    producer.send_packed_arrays(BATCH, NOW, || black_box([7; 8]))
}

#[inline(never)]
fn recv_packed(consumer: &mut Consumer) -> Result<u64, RecvError> {
    let mut sum = 0;
    consumer.recv_packed_arrays(BATCH, NOW, |item| sum += u64::from_le_bytes(item))?;
    Ok(sum)
}

#[inline(never)]
fn send_cast(producer: &mut Producer, message: [u8; SMALL]) -> Result<(), ReserveError> {
    producer.send_array(message, SOON)
}
