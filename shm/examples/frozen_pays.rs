//! From which size on a frozen payload pays: one payload at a time, from the first byte written to
//! the last byte read, frozen and through the ring, in one run. Takes less than two seconds.
//!
//! ```sh
//! cargo run --release -p laneway-shm --example frozen_pays
//! ```

use std::error::Error;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use laneway_shm::{Consumer, FrozenBuilder, Incoming, PairOptions, Producer, pair};

const SIZES_KIB: [usize; 5] = [256, 1 << 10, 2 << 10, 4 << 10, 16 << 10];
const EACH: Duration = Duration::from_millis(40);
const PATIENCE: Duration = Duration::from_secs(10);
const SLOT: u32 = (64 << 10) - 72;

/// How a payload goes from one thread to the other.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    /// Written to private memory, copied into the ring as one message, copied out, read.
    Ring,
    /// The same in messages of one slot each, so that both ends work at once.
    Slots,
    /// Frozen, on base pages and on hugepages.
    Frozen(u64),
}

fn write(bytes: &mut [u8], stamp: u64) {
    bytes.chunks_exact_mut(8).for_each(|word| word.copy_from_slice(&stamp.to_le_bytes()));
}

fn read(bytes: &[u8]) -> u64 {
    let words = bytes.chunks_exact(8).map(|word| word.try_into().map_or(0, u64::from_le_bytes));
    words.fold(0, u64::wrapping_add)
}

fn send(
    lane: &mut Producer,
    way: Way,
    buffer: &mut [u8],
    stamp: u64,
) -> Result<(), Box<dyn Error>> {
    match way {
        Way::Ring => {
            write(buffer, stamp);
            lane.send(buffer, PATIENCE)?;
        }
        Way::Slots => {
            for part in buffer.chunks_mut(SLOT as usize) {
                write(part, stamp);
                lane.send(part, PATIENCE)?;
            }
        }
        Way::Frozen(page_bytes) => {
            let mut builder = FrozenBuilder::on_pages(buffer.len(), page_bytes)?;
            write(builder.bytes_mut(), stamp);
            lane.send_frozen(&builder.freeze()?, PATIENCE)?;
        }
    }
    Ok(())
}

/// Reads payloads, and says of each when its last byte was read.
fn receive(mut lane: Consumer, size: usize, done: &Sender<(Instant, u64)>) {
    let (mut buffer, mut sum, mut left) = (vec![0; size], 0u64, size);
    loop {
        let len = match lane.recv_any(PATIENCE) {
            Ok(Incoming::Message(slot)) => {
                let len = slot.copy_to(&mut buffer);
                sum = sum.wrapping_add(read(buffer.get(..len).unwrap_or_default()));
                len
            }
            Ok(Incoming::Frozen(payload)) => {
                sum = sum.wrapping_add(read(&payload));
                payload.len()
            }
            Err(_) => return,
        };
        left -= len;
        if left == 0 {
            if done.send((Instant::now(), sum)).is_err() {
                return;
            }
            (sum, left) = (0, size);
        }
    }
}

/// Median time of one payload, in microseconds.
fn measure(way: Way, size: usize) -> Result<f64, Box<dyn Error>> {
    if let Way::Frozen(page_bytes) = way {
        // Before there is a reader that would wait for it: there may be no such pages.
        FrozenBuilder::on_pages(2 * size, page_bytes)?;
    }
    let (slots, lifeline) = ((4 * size / SLOT as usize).next_power_of_two().max(64), true);
    // One message must fit; a stream of them wants a ring that stays in the caches.
    let slot_count = u32::try_from(if way == Way::Ring { slots } else { 64 })?;
    let options = PairOptions { slot_payload_bytes: SLOT, slot_count, lifeline, ..<_>::default() };
    let (mut producer, consumer) = pair(options)?;
    let (sender, done): (_, Receiver<(Instant, u64)>) = channel();
    let reader = std::thread::spawn(move || receive(consumer, size, &sender));
    let (start, mut times, mut buffer) = (Instant::now(), Vec::new(), vec![0; size]);
    while start.elapsed() < EACH || times.len() < 5 {
        let stamp = times.len() as u64;
        let begun = Instant::now();
        send(&mut producer, way, &mut buffer, stamp)?;
        let (ended, sum) = done.recv()?;
        assert_eq!(sum, stamp.wrapping_mul(size as u64 / 8), "every byte as it was written");
        times.push(ended.duration_since(begun).as_secs_f64() * 1e6);
    }
    producer.close(PATIENCE)?;
    reader.join().map_err(|_| "the reader panicked")?;
    times.sort_by(f64::total_cmp);
    Ok(times.get(times.len() / 2).copied().unwrap_or_default())
}

fn main() -> Result<(), Box<dyn Error>> {
    println!("one payload, written, sent and read, in microseconds (medians)");
    println!("{:>10} {:>10} {:>10} {:>10} {:>10}", "KiB", "ring", "slots", "frozen", "on 2 MiB");
    for kib in SIZES_KIB {
        let ways = [Way::Ring, Way::Slots, Way::Frozen(4096), Way::Frozen(2 << 20)];
        let cells = ways.map(|way| match measure(way, kib << 10) {
            Ok(micros) => format!("{micros:.0}"),
            // Hugepages, as a rule: there are none.
            Err(_) => "-".to_owned(),
        });
        println!("{kib:>10} {:>10} {:>10} {:>10} {:>10}", cells[0], cells[1], cells[2], cells[3]);
    }
    Ok(())
}
