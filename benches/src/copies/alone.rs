//! What one core does with a message that it holds and that stays where it is, again and again.

use std::hint::black_box;
use std::ops::Range;
use std::time::{Duration, Instant};

use laneway_shm::{PairOptions, View, pair};

use crate::error::BenchError;
use crate::message::{PATIENCE, sum};
use crate::probe::{joined, pin};
use crate::recorder::median;
use crate::trial::{Cost, Trial, Way};

/// Bytes between two looks at the clock.
const CHUNK: usize = 1 << 20;
/// Where a message lies in its first line: behind its commit word, in bytes.
const OFFSET: usize = 8;
/// Bytes of a piece: it stays in the nearest cache until it was looked at.
const PIECE: usize = 4096;

/// Copies a message.
pub(super) fn copied_out(
    trial: Trial,
    cpu: u32,
    time: Duration,
) -> Result<Option<Cost>, BenchError> {
    let bytes = trial.bytes as usize;
    on(cpu, || {
        let (mut memory, target) = placed(bytes, 0);
        let target = memory.get_mut(target).unwrap_or_default();
        if trial.way == Way::Memcpy {
            let (source, place) = placed(bytes, OFFSET);
            let source = source.get(place).unwrap_or_default();
            let copy = || black_box(&mut *target).copy_from_slice(black_box(source));
            return Ok(repeated(bytes, time, copy));
        }
        with_held(trial.bytes, |view| {
            repeated(bytes, time, || {
                black_box(view.copy_to(black_box(&mut *target)));
            })
        })
    })
}

/// Adds a message's words up.
pub(super) fn looked_at(
    trial: Trial,
    cpu: u32,
    time: Duration,
) -> Result<Option<Cost>, BenchError> {
    let bytes = trial.bytes as usize;
    on(cpu, || {
        if trial.way == Way::InPlace {
            let (source, place) = placed(bytes, OFFSET);
            let source = source.get(place).unwrap_or_default();
            return Ok(repeated(bytes, time, || {
                black_box(in_place(black_box(source)));
            }));
        }
        with_held(trial.bytes, |view| {
            let mut buffer = vec![0; bytes];
            repeated(bytes, time, || {
                let (view, buffer) = (black_box(view), buffer.as_mut_slice());
                black_box(match trial.way {
                    Way::Pieces => by_pieces(view, buffer),
                    Way::Lines => by_lines(view),
                    _ => by_copy(view, buffer),
                });
            })
        })
    })
}

#[inline(never)]
fn in_place(source: &[u8]) -> u64 {
    sum(source)
}

#[inline(never)]
fn by_copy(view: View<'_>, buffer: &mut [u8]) -> u64 {
    view.copy_to(buffer);
    sum(buffer)
}

#[inline(never)]
fn by_pieces(view: View<'_>, buffer: &mut [u8]) -> u64 {
    let (mut total, len) = (0u64, buffer.len().min(PIECE));
    let buffer = buffer.get_mut(..len).unwrap_or_default();
    view.for_each_piece(buffer, |piece| total = total.wrapping_add(sum(piece)));
    total
}

#[inline(never)]
fn by_lines(view: View<'_>) -> u64 {
    let mut total = 0u64;
    view.for_each_line(|line| total = line.into_iter().fold(total, u64::wrapping_add));
    total
}

/// Runs `work` on a thread that is pinned.
fn on<T: Send>(
    cpu: u32,
    work: impl FnOnce() -> Result<T, BenchError> + Send,
) -> Result<T, BenchError> {
    let pinned = || {
        let _pinned = pin(cpu)?;
        work()
    };
    joined(std::thread::scope(|scope| scope.spawn(pinned).join()))
}

/// What `work` makes of a message of `bytes` bytes that a consumer holds.
fn with_held<T>(bytes: u32, work: impl FnOnce(View<'_>) -> T) -> Result<T, BenchError> {
    let options = PairOptions { slot_payload_bytes: bytes, slot_count: 2, ..Default::default() };
    let (mut producer, mut consumer) = pair(options)?;
    producer.send(&pattern(bytes as usize), PATIENCE)?;
    let slot = consumer.recv(PATIENCE)?;
    Ok(work(slot.view()))
}

/// `bytes` bytes that start `offset` bytes into a line, and where.
fn placed(bytes: usize, offset: usize) -> (Vec<u8>, Range<usize>) {
    let mut memory = vec![0; bytes + 128];
    let start = memory.as_ptr().align_offset(64) + offset;
    let place = start..start + bytes;
    if let Some(place) = memory.get_mut(place.clone()) {
        place.copy_from_slice(&pattern(bytes));
    }
    (memory, place)
}

/// Bytes whose neighbours differ.
fn pattern(bytes: usize) -> Vec<u8> {
    (0..=250).cycle().take(bytes).collect()
}

/// What one of many calls takes: the median of the means of as many as handle a chunk.
fn repeated(bytes: usize, time: Duration, mut call: impl FnMut()) -> Option<Cost> {
    let calls = u32::try_from(CHUNK / bytes.max(1)).unwrap_or(u32::MAX).clamp(8, 4096);
    let mut costs = Vec::new();
    let start = Instant::now();
    loop {
        let before = Instant::now();
        for _ in 0..calls {
            call();
        }
        costs.push(before.elapsed().as_secs_f64() * 1e9 / f64::from(calls));
        if start.elapsed() >= time {
            return median(&mut costs).map(|nanos| Cost { nanos, p99_ns: None });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_starts_where_a_message_would() {
        let (memory, place) = placed(100, OFFSET);
        assert_eq!(memory[place.clone()].as_ptr().align_offset(64), 64 - OFFSET);
        assert_eq!(place.len(), 100);
    }

    #[test]
    fn every_way_to_look_at_a_message_sees_the_same_bytes() {
        for bytes in [1024u32, 4104, 16_384] {
            let (source, place) = placed(bytes as usize, OFFSET);
            let expected = in_place(&source[place]);
            let mut buffer = vec![0; bytes as usize];
            let found = with_held(bytes, |view| {
                [by_copy(view, &mut buffer), by_pieces(view, &mut buffer), by_lines(view)]
            });
            assert_eq!(found.unwrap(), [expected; 3], "{bytes}");
        }
    }
}
