//! Aeron between two processes and its media driver, which is a third.
//!
//! Practice: `aeron:ipc`, exclusive publications, a message claimed in the log where one frame can
//! carry it, offered and put together again where not, polls of many fragments; a driver as in
//! Aeron's script for IPC. It spins where a cpu is left for it and backs off where none is. Its
//! files are in memory, below the meeting's directory.

use std::ffi::CString;
use std::io::{self, BufRead};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::aeron_calls::{Client, Driver, Image, Publication};
use super::contest::{TERM_MIN, aeron_frame, term_min};
use super::meeting::Meeting;
use super::{Errand, play_shaped};
use crate::child;
use crate::error::BenchError;
use crate::interrupt::Interrupt;
use crate::machine;
use crate::message::{Idle, Seen, fill};
use crate::ports::{Inlet, LargeInlet, LargeOutlet, Outlet};
use crate::probe::pin;
use crate::task::{Answer, Side, Work};
use crate::worker::{next, say};
use crate::workers::Worker;

/// Where its files are in the memory of the machine, as Aeron has it by itself.
pub(crate) const MEMORY: &str = "/dev/shm";
/// Aeron's directory in the meeting's.
const DIRECTORY: &str = "aeron";
/// The hidden role of the media driver.
const ROLE: &str = "aeron-driver";
/// Streams there and back.
const STREAMS: (i32, i32) = (1, 2);
/// Bytes in front of a frame's payload.
const HEADER_BYTES: usize = 32;
/// Frames of Aeron's script for IPC, in bytes.
const FRAME_BYTES: usize = 8 << 10;
/// The longest term, in bytes.
const TERM_MAX: usize = 1 << 30;
/// The largest frames that there are, for messages that need several in any case.
const FRAME_BYTES_MAX: usize = 65504;

/// What the media driver is told.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Driving {
    directory: PathBuf,
    /// A cpu of its own, if one is left.
    cpu: Option<u32>,
    spins: bool,
}

/// Starts a media driver for two children that meet in `directory`.
pub(crate) fn driver(
    directory: &Path,
    cpus: Option<(u32, u32)>,
    interrupt: &Interrupt,
) -> Result<Worker, BenchError> {
    let left: Vec<u32> = machine::allowed()?
        .into_iter()
        .filter(|cpu| cpus.is_none_or(|(first, second)| ![first, second].contains(cpu)))
        .collect();
    let cpu = cpus.and_then(|cpus| apart(&left, cpus));
    let spins = if cpus.is_some() { cpu.is_some() } else { left.len() > 2 };
    let driving = Driving { directory: directory.join(DIRECTORY), cpu, spins };
    let started = Worker::start(ROLE, Side::Initiator, &driving).and_then(|mut driver| {
        driver.answer(Duration::ZERO, interrupt)?;
        Ok(driver)
    });
    started.map_err(|error| match error {
        BenchError::Interrupted => BenchError::Interrupted,
        other => BenchError::Rival { what: "Aeron's media driver", why: other.to_string() },
    })
}

/// The first cpu that is no sibling of one of the two, or else the first.
fn apart(left: &[u32], cpus: (u32, u32)) -> Option<u32> {
    let busy = [machine::siblings(cpus.0), machine::siblings(cpus.1)].concat();
    left.iter().find(|cpu| !busy.contains(cpu)).or_else(|| left.first()).copied()
}

/// The hidden role `laneway-bench aeron-driver`: it ends with its standard input.
pub(crate) fn drive(parent: Option<i32>) -> Result<ExitCode, BenchError> {
    child::adopt(parent)?;
    let mut lines = io::stdin().lock().lines();
    match next::<Driving>(&mut lines, "the driver's directory").and_then(start) {
        Ok(_driver) => {
            say(&Answer::Done)?;
            lines.next();
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            say(&Answer::Failed(error.to_string()))?;
            Ok(ExitCode::FAILURE)
        }
    }
}

fn start(told: Option<Driving>) -> Result<Option<Driver>, BenchError> {
    let Some(driving) = told else { return Ok(None) };
    // Its thread inherits the cpu.
    let _pinned = driving.cpu.map(pin).transpose()?;
    let idle = if driving.spins { c"spin" } else { c"backoff" };
    Driver::start(&driving.directory, idle).map(Some)
}

/// Two streams, one for each way.
pub(crate) fn serve(errand: &Errand, meeting: &Meeting) -> Result<Answer, BenchError> {
    let client = Client::connect(&meeting.path(DIRECTORY))?;
    let bytes = errand.cell.bytes;
    let (there, back) = match errand.side {
        Side::Initiator => STREAMS,
        Side::Responder => (STREAMS.1, STREAMS.0),
    };
    let publication = Publication::add(&client, &channel(errand)?, there)?;
    let image = Image::of(&client, c"aeron:ipc", back, bytes)?;
    publication.connected()?;
    let frames = bytes > frame_bytes(bytes) - HEADER_BYTES;
    let mut outlet = Sending { publication, frames };
    let mut inlet = Receiving { image, frames };
    play_shaped!(errand, &mut outlet, &mut inlet, || meeting.part(errand.side))
}

/// The channel of this side's publication. A stream's way back carries nothing.
fn channel(errand: &Errand) -> Result<CString, BenchError> {
    let cell = &errand.cell;
    let carries = errand.side == Side::Initiator || cell.work == Work::Latency;
    let term = if carries { term_bytes(cell.bytes, cell.depth) } else { TERM_MIN };
    let mtu = if carries { frame_bytes(cell.bytes) } else { FRAME_BYTES };
    let channel = format!("aeron:ipc?term-length={term}|mtu={mtu}");
    CString::new(channel).map_err(BenchError::rival("Aeron's channel"))
}

/// Bytes of the frames that a message of `bytes` bytes travels in.
fn frame_bytes(bytes: usize) -> usize {
    if bytes + HEADER_BYTES <= FRAME_BYTES { FRAME_BYTES } else { FRAME_BYTES_MAX }
}

/// Bytes of a term that has room for `depth` messages, and that Aeron permits for such messages.
fn term_bytes(bytes: usize, depth: u32) -> usize {
    let room = aeron_frame(bytes).saturating_mul(depth as usize).next_power_of_two();
    room.clamp(term_min(bytes), TERM_MAX)
}

struct Sending {
    publication: Publication,
    /// Whether a message needs several frames.
    frames: bool,
}

struct Receiving {
    image: Image,
    /// Whether a message comes in several frames.
    frames: bool,
}

impl<const N: usize> Outlet<N> for Sending {
    #[inline(always)]
    fn put(&mut self, message: [u8; N]) -> Result<(), BenchError> {
        let mut idle = Idle::default();
        while !self.publication.claim(N, |bytes| {
            if let Some(bytes) = bytes.first_chunk_mut() {
                *bytes = message;
            }
        })? {
            idle.spin()?;
        }
        Ok(())
    }
}

impl LargeOutlet for Sending {
    #[inline(always)]
    fn put_large(&mut self, buffer: &mut [u8], number: u64) -> Result<(), BenchError> {
        let mut idle = Idle::default();
        if self.frames {
            fill(buffer, number);
            while !self.publication.offer(buffer)? {
                idle.spin()?;
            }
        } else {
            while !self.publication.claim(buffer.len(), |bytes| fill(bytes, number))? {
                idle.spin()?;
            }
        }
        Ok(())
    }
}

impl<const N: usize> Inlet<N> for Receiving {
    #[inline(always)]
    fn take(&mut self, expected: u64) -> Result<Seen, BenchError> {
        let mut idle = Idle::default();
        loop {
            if let Some(seen) = self.image.verdict(expected) {
                return seen;
            }
            if self.image.poll_sized::<N>()? == 0 {
                idle.spin()?;
            }
        }
    }
}

impl LargeInlet for Receiving {
    #[inline(always)]
    fn take_large(&mut self, _buffer: &mut [u8], expected: u64) -> Result<Seen, BenchError> {
        let mut idle = Idle::default();
        loop {
            if let Some(seen) = self.image.verdict(expected) {
                return seen;
            }
            let frames =
                if self.frames { self.image.poll_assembled() } else { self.image.poll_any() };
            if frames? == 0 {
                idle.spin()?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_term_has_room_for_its_messages_and_a_length_that_aeron_permits() {
        assert_eq!(term_bytes(64, 128), TERM_MIN);
        assert_eq!(term_bytes(64, 43_690), 4 << 20);
        assert_eq!(term_bytes(65536, 63), 4 << 20);
        assert_eq!(term_bytes(1 << 20, 1), 8 << 20);
        assert_eq!(term_bytes(1 << 20, 63), 64 << 20);
    }

    #[test]
    fn a_message_travels_in_one_frame_if_it_fits() {
        assert_eq!(frame_bytes(4096), FRAME_BYTES);
        assert_eq!(frame_bytes(FRAME_BYTES - HEADER_BYTES), FRAME_BYTES);
        assert_eq!(frame_bytes(FRAME_BYTES), FRAME_BYTES_MAX);
    }

    #[test]
    fn messages_are_judged_in_order_whether_claimed_or_offered() {
        let memory = tempfile::tempdir_in(MEMORY).unwrap();
        let _driver = Driver::start(&memory.path().join(DIRECTORY), c"backoff").unwrap();
        let client = Client::connect(&memory.path().join(DIRECTORY)).unwrap();
        let channel = c"aeron:ipc?term-length=131072|mtu=1408";
        // Terms hold a hundred of these: the log goes around several times.
        let mut publication = Publication::add(&client, channel, 1).unwrap();
        let mut image = Image::of(&client, c"aeron:ipc", 1, 1024).unwrap();
        for number in 1..=1000 {
            while !publication.claim(1024, |bytes| fill(bytes, number)).unwrap() {}
            while image.verdict(number).is_none() {
                image.poll_sized::<1024>().unwrap();
            }
        }
        let mut publication = Publication::add(&client, channel, 2).unwrap();
        let mut image = Image::of(&client, c"aeron:ipc", 2, 8000).unwrap();
        let mut message = vec![0; 8000];
        for number in [1, 2, 4] {
            fill(&mut message, number);
            while !publication.offer(&message).unwrap() {}
        }
        while image.verdict(3).is_none() {
            image.poll_assembled().unwrap();
        }
        assert!(matches!(image.verdict(2), Some(Ok(Seen::Message))));
        assert!(image.verdict(3).is_none(), "its end was told once");
    }
}
