//! The steps of a message, each alone in one thread: what the code costs when no line travels.
//!
//! `cargo bench -p laneway-benches` times them, `cargo bench -p laneway-benches -- --test` runs
//! each once. Between two cores the lines' travel dominates: `laneway-bench run` measures that.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot start has nothing to report")]

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use laneway_shm::cursor::{CommitWord, Kind, read_slot};
use laneway_shm::geometry::Geometry;
use laneway_shm::wire::{Frame, Grant, Pinning, Role};
use laneway_shm::{Consumer, PairOptions, Producer, Profile, Start, WaitMode, pair};

const SIZES: [u32; 4] = [56, 64, 1024, 4096];
const BATCH: usize = 32;

fn lane(slot_payload_bytes: u32, slot_count: u32) -> (Producer, Consumer) {
    pair(PairOptions { slot_payload_bytes, slot_count, ..PairOptions::default() }).unwrap()
}

/// Reserve, write, commit, poll, copy out, release: one message through one thread.
fn message(c: &mut Criterion) {
    let mut group = c.benchmark_group("message");
    for bytes in SIZES {
        let (mut producer, mut consumer) = lane(bytes, 64);
        let payload = vec![7u8; bytes as usize];
        let mut target = payload.clone();
        group.throughput(Throughput::Bytes(u64::from(bytes)));
        group.bench_function(BenchmarkId::new("send and receive", bytes), |b| {
            b.iter(|| {
                producer.send(black_box(&payload), Duration::ZERO).unwrap();
                let slot = consumer.poll().unwrap().unwrap();
                black_box(slot.copy_to(&mut target));
            });
        });
    }
    group.finish();
}

/// As above by value, the way of small messages, and what it costs that the peer may sleep.
fn by_value(c: &mut Criterion) {
    for wait in [WaitMode::Spin, WaitMode::Park] {
        let options = PairOptions { slot_count: 64, wait, ..PairOptions::default() };
        let (mut producer, mut consumer) = pair(options).unwrap();
        c.bench_function(&format!("message/by value 56, {wait:?}"), |b| {
            b.iter(|| {
                producer.send_array(black_box([7u8; 56]), Duration::ZERO).unwrap();
                consumer.recv_array(Duration::ZERO, black_box::<[u8; 56]>).unwrap()
            });
        });
    }
}

/// Each half alone: a ring is filled untimed and emptied timed, or the other way round.
fn halves(c: &mut Criterion) {
    let mut group = c.benchmark_group("half");
    for bytes in SIZES {
        let payload = vec![7u8; bytes as usize];
        let mut target = payload.clone();
        let slots = 64u32;
        group.throughput(Throughput::Elements(u64::from(slots)));
        group.bench_function(BenchmarkId::new("reserve and commit x64", bytes), |b| {
            b.iter_batched_ref(
                || lane(bytes, slots),
                |(producer, _)| {
                    for _ in 0..slots {
                        let mut slot = producer.try_reserve(payload.len()).unwrap();
                        slot.write(0, black_box(&payload));
                        slot.commit();
                    }
                },
                criterion::BatchSize::PerIteration,
            );
        });
        let full = || {
            let (mut producer, consumer) = lane(bytes, slots);
            for _ in 0..slots {
                producer.send(&payload, Duration::ZERO).unwrap();
            }
            (producer, consumer)
        };
        group.bench_function(BenchmarkId::new("poll and release x64", bytes), |b| {
            b.iter_batched_ref(
                full,
                |(_, consumer)| {
                    while let Some(slot) = consumer.poll().unwrap() {
                        black_box(slot.copy_to(&mut target));
                    }
                },
                criterion::BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

/// 32 messages that become visible together.
fn batch(c: &mut Criterion) {
    let mut group = c.benchmark_group("batch");
    for bytes in [8u32, 64] {
        let (mut producer, mut consumer) = lane(bytes, 64);
        let payload = vec![7u8; bytes as usize];
        let mut target = payload.clone();
        group.throughput(Throughput::Elements(BATCH as u64));
        group.bench_function(BenchmarkId::new("push and receive x32", bytes), |b| {
            b.iter(|| {
                let mut batch = producer.batch();
                for _ in 0..BATCH {
                    batch.push(black_box(&payload)).unwrap();
                }
                batch.commit();
                let mut batch = consumer.poll_many(BATCH);
                while let Some(view) = batch.next().unwrap() {
                    black_box(view.copy_to(&mut target));
                }
            });
        });
    }
    group.finish();
}

/// The hostile-safe copy alone, beside an ordinary one: the slot stays polled while it is copied
/// out again and again.
fn copy_out(c: &mut Criterion) {
    let mut group = c.benchmark_group("copy out");
    for bytes in [8u32, 56, 64, 256, 1024, 4096, 65536] {
        let (mut producer, mut consumer) = lane(bytes, 2);
        let mut target = vec![7u8; bytes as usize];
        producer.send(&target, Duration::ZERO).unwrap();
        let slot = consumer.poll().unwrap().unwrap();
        group.throughput(Throughput::Bytes(u64::from(bytes)));
        group.bench_function(BenchmarkId::new("slot", bytes), |b| {
            b.iter(|| slot.copy_to(black_box(&mut target)));
        });
        let source = vec![7u8; bytes as usize];
        group.bench_function(BenchmarkId::new("memcpy", bytes), |b| {
            b.iter(|| black_box(&mut target).copy_from_slice(black_box(&source)));
        });
    }
    group.finish();
}

/// The judge of a commit word: every message passes it once.
fn judge(c: &mut Criterion) {
    let geometry = Geometry::try_new(56, 1024).unwrap();
    let position = 123_456;
    let word = CommitWord::new(geometry.turn(position), Kind::Data, 56);
    c.bench_function("judge a commit word", |b| {
        b.iter(|| read_slot(black_box(&geometry), black_box(position), black_box(word)));
    });
}

/// The attach protocol's frames: once for each attach, never for a message.
fn frames(c: &mut Criterion) {
    let frame = Frame::Grant(Box::new(Grant {
        role: Role::Producer,
        lane: 1,
        generation: 2,
        nonce: 3,
        token: 4,
        slot_payload: 56,
        slot_count: 1024,
        size_bytes: 2 << 20,
        page_bytes: 2 << 20,
        base: 0,
        released: 0,
        park: false,
        profile: Profile::Latency,
        pinning: Pinning::Own,
        cpu: 3,
        grade: b'B',
        broadcast: None,
        start: Start::Newest,
        relation: None,
    }));
    let bytes = frame.encode();
    c.bench_function("frame/encode a grant", |b| b.iter(|| black_box(&frame).encode()));
    c.bench_function("frame/decode a grant", |b| {
        b.iter(|| Frame::decode(black_box(&bytes)));
    });
}

criterion_group! {
    name = steps;
    config = Criterion::default().sample_size(50).without_plots();
    targets = message, by_value, halves, batch, copy_out, judge, frames
}
criterion_main!(steps);
