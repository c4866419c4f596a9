//! What one core can copy: the bandwidth that a large message cannot exceed.

use std::hint::black_box;
use std::time::{Duration, Instant};

use crate::error::BenchError;
use crate::probe::{joined, pin};
use crate::stream::Throughput;

/// Copies blocks of `bytes` bytes, from private memory to private memory, for `time`.
pub(crate) fn measure(cpu: u32, bytes: usize, time: Duration) -> Result<Throughput, BenchError> {
    let measured = std::thread::scope(|scope| scope.spawn(|| copy(cpu, bytes, time)).join());
    joined(measured)
}

fn copy(cpu: u32, bytes: usize, time: Duration) -> Result<Throughput, BenchError> {
    let _pinned = pin(cpu)?;
    let (source, mut target) = (vec![1u8; bytes], vec![2u8; bytes]);
    let repeats = (65536 / bytes.max(1) as u64).clamp(1, 4096);
    target.copy_from_slice(&source);
    let start = Instant::now();
    let mut messages = 0;
    loop {
        for _ in 0..repeats {
            black_box(&mut target).copy_from_slice(black_box(&source));
        }
        messages += repeats;
        let elapsed = start.elapsed();
        if elapsed >= time {
            let seconds = elapsed.as_secs_f64();
            return Ok(Throughput { messages, seconds });
        }
    }
}
