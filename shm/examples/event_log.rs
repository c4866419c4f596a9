//! Merge: services log into lanes of their own, one process prints one log in the order of time.
//!
//! ```sh
//! laneway lane create disk-log --slot-size 120 --wait park --pinning none \
//!     --producer-uid $(id -u) --consumer-uid $(id -u)
//! laneway lane create net-log --slot-size 120 --wait park --pinning none \
//!     --producer-uid $(id -u) --consumer-uid $(id -u)
//! event_log SOCKET write net-log 'link is down' 'link is up'
//! event_log SOCKET write disk-log 'one sector is lost'
//! event_log SOCKET print disk-log net-log
//! ```
//!
//! SOCKET is the agent's attach socket, such as `/run/laneway/attach/attach.sock`. The printer may
//! be there first, and ends when every service has ended its log, or all are silent for 30 s.

use std::collections::BTreeMap;
use std::error::Error;
use std::time::{Duration, UNIX_EPOCH};

use laneway_shm::{Attach, FanInError, Merge, RecvError};

const PATIENCE: Duration = Duration::from_secs(30);
/// A service that is silent may have something earlier to say: it holds the others back so long.
const SILENCE: Duration = Duration::from_secs(5);
/// An event begins with its time, in nanoseconds since the epoch: the processes of one machine have
/// one clock.
const STAMP_BYTES: usize = 8;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [socket, "write", lane, texts @ ..] => write(socket, lane, texts),
        [socket, "print", lanes @ ..] if !lanes.is_empty() => print(socket, lanes),
        _ => Err("usage: event_log SOCKET write LANE TEXT... | SOCKET print LANE...".into()),
    }
}

fn write(socket: &str, lane: &str, texts: &[&str]) -> Result<(), Box<dyn Error>> {
    let mut log = Attach::by_name(socket, lane).producer()?;
    for text in texts {
        let mut event = log.reserve(STAMP_BYTES + text.len(), PATIENCE)?;
        let stamp = u64::try_from(UNIX_EPOCH.elapsed()?.as_nanos())?;
        event.write(0, &stamp.to_le_bytes());
        event.write(STAMP_BYTES, text.as_bytes());
        event.commit();
    }
    Ok(log.close(PATIENCE)?)
}

fn print(socket: &str, lanes: &[&str]) -> Result<(), Box<dyn Error>> {
    let mut logs = Merge::new(SILENCE, |event| event.u64_at(0).unwrap_or(0));
    let mut open = BTreeMap::new();
    for lane in lanes {
        open.insert(logs.add(Attach::by_name(socket, lane).pin(false).consumer()?), *lane);
    }
    while !open.is_empty() {
        match logs.recv(PATIENCE) {
            Ok(event) => {
                let late = if event.late { " (late)" } else { "" };
                let (lane, bytes) = (open.get(&event.lane).unwrap_or(&"?"), event.slot.to_vec());
                let text = String::from_utf8_lossy(bytes.get(STAMP_BYTES..).unwrap_or_default());
                println!("{} {lane}: {text}{late}", event.stamp);
            }
            // The end of one log: the others go on.
            Err(FanInError::Lane { lane, source: RecvError::Closed { .. } }) => {
                open.remove(&lane);
            }
            Err(other) => return Err(other.into()),
        }
    }
    Ok(())
}
