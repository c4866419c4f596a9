//! Fan-in: every sensor has a lane of its own, one process reads them all.
//!
//! ```sh
//! laneway lane create sensor-1 --slot-size 24 --wait park --pinning none \
//!     --producer-uid $(id -u) --consumer-uid $(id -u)
//! laneway lane create sensor-2 --slot-size 24 --wait park --pinning none \
//!     --producer-uid $(id -u) --consumer-uid $(id -u)
//! sensors SOCKET read sensor-1 sensor-2 &
//! sensors SOCKET send sensor-1 1000; sensors SOCKET send sensor-2 1000
//! ```
//!
//! SOCKET is the agent's attach socket, such as `/run/laneway/attach/attach.sock`. The reader ends
//! when every sensor has ended its stream, and prints what it saw of each.

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Duration;

use laneway_shm::{Attach, FanInError, RecvError, TypedFanIn};

laneway_shm::message! {
    /// What a sensor sends. Both sides name the same layout, or the agent refuses to attach them.
    struct Reading as "example.Reading" {
        number: u64,
        celsius: f64,
        humidity: f64,
    }
}

const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [socket, "send", lane, count] => send(socket, lane, count.parse()?),
        [socket, "read", lanes @ ..] if !lanes.is_empty() => read(socket, lanes),
        _ => Err("usage: sensors SOCKET send LANE COUNT | sensors SOCKET read LANE...".into()),
    }
}

fn send(socket: &str, lane: &str, count: u32) -> Result<(), Box<dyn Error>> {
    let mut sensor = Attach::by_name(socket, lane).typed_producer::<Reading>()?;
    for number in 0..count {
        let celsius = 20.0 + f64::from(number % 10);
        let reading = Reading { number: number.into(), celsius, humidity: 0.5 };
        sensor.send(&reading, PATIENCE)?;
    }
    Ok(sensor.close(PATIENCE)?)
}

fn read(socket: &str, lanes: &[&str]) -> Result<(), Box<dyn Error>> {
    let mut sensors = TypedFanIn::<Reading>::new();
    let mut seen = BTreeMap::new();
    for lane in lanes {
        let consumer = Attach::by_name(socket, lane).pin(false).typed_consumer()?;
        seen.insert(sensors.add(consumer), (*lane, 0u32, 0.0));
    }
    while !seen.is_empty() {
        let read = |lane, reading: Reading| {
            if let Some((_, count, sum)) = seen.get_mut(&lane) {
                (*count, *sum) = (*count + 1, *sum + reading.celsius);
            }
        };
        match sensors.recv_many(256, PATIENCE, read) {
            Ok(_) => {}
            // The end of one sensor: the others go on.
            Err(FanInError::Lane { lane, source: RecvError::Closed { .. } }) => {
                if let Some((name, count, sum)) = seen.remove(&lane) {
                    println!("{name}: {count} readings, mean {:.2}", sum / f64::from(count.max(1)));
                }
            }
            Err(other) => return Err(other.into()),
        }
    }
    Ok(())
}
