//! Which measurements a round consists of, and how deep the rings are. Pure.

use clap::ValueEnum;
use laneway_shm::Profile;
use laneway_shm::geometry::Geometry;
use serde::{Deserialize, Serialize};

use crate::error::BenchError;
use crate::ideal;
use crate::stream::BATCH;
use crate::task::{Mode, Work};

/// Sizes that are measured unless told otherwise, in bytes.
pub(crate) const SIZES: [usize; 8] = [8, 56, 64, 256, 1024, 4096, 65536, 1 << 20];
/// The same for a first look.
pub(crate) const QUICK_SIZES: [usize; 3] = [56, 64, 4096];
/// Slots of a latency lane: few enough to stay hot, enough that the producer asks for the
/// consumer's cursor only once in 256 messages.
const LATENCY_SLOTS: u32 = 256;
/// Largest ring of a latency lane of small messages, in bytes: half of a small private L2.
const LATENCY_BYTES: usize = 256 << 10;
/// The same of messages above [`HOT_MAX`], and still two slots: beyond a private L2.
const LATENCY_LARGE_BYTES: usize = 2 << 20;
/// Longest message whose ring stays hot, in bytes: the agent's rule.
const HOT_MAX: usize = 2048;
/// A stream's ring, in bytes: deeper than a private L2, within a shared L3.
const STREAM_BYTES: usize = 4 << 20;
/// Depths of rtrb, in elements, of which the better one counts.
pub(crate) const RTRB_DEPTHS: [u32; 2] = [1024, 65536];
/// Sizes that rtrb moves by value, in bytes.
pub(crate) const RTRB_SIZES: [usize; 5] = [8, 56, 64, 256, 1024];
/// Sizes that lanes also move packed, in bytes.
const PACKED_SIZES: [usize; 4] = [8, 56, 64, 256];
/// Largest ring given to rtrb, in bytes: above, its own rate falls.
const RTRB_RING_MAX: usize = 32 << 20;
/// Largest message that is also sent in batches, in bytes.
const BATCH_MAX: usize = 256;

/// Slots of the lanes for one message size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Depths {
    pub(crate) latency: u32,
    pub(crate) stream: u32,
    /// Slots of the lane in which a batch is one packed message, where it is measured.
    pub(crate) packed: Option<u32>,
}

impl Depths {
    /// For messages of `bytes` bytes in one slot each.
    pub(crate) fn of(bytes: usize) -> Result<Self, BenchError> {
        let stride = Geometry::try_new(payload(bytes), 2)?.stride();
        let dense = Geometry::for_profile(payload(bytes), 2, Profile::Throughput)?.stride();
        let slots = (STREAM_BYTES / dense).next_power_of_two().max(4);
        let ring = if bytes > HOT_MAX { LATENCY_LARGE_BYTES } else { LATENCY_BYTES };
        let hot = 1usize << (ring / stride).max(2).ilog2();
        Ok(Self {
            latency: u32::try_from(hot).map_or(LATENCY_SLOTS, |hot| hot.min(LATENCY_SLOTS)),
            stream: u32::try_from(slots).unwrap_or(LATENCY_SLOTS),
            packed: packed_slots(bytes)?,
        })
    }
}

fn packed_slots(bytes: usize) -> Result<Option<u32>, BenchError> {
    if !PACKED_SIZES.contains(&bytes) {
        return Ok(None);
    }
    let geometry = Geometry::for_profile(payload(bytes * BATCH), 2, Profile::Throughput)?;
    Ok(u32::try_from((STREAM_BYTES / geometry.stride()).next_power_of_two()).ok())
}

/// A message size as a slot's payload; too large ones are refused by the geometry.
pub(crate) fn payload(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Who {
    /// A lane with its strict consumer.
    #[value(skip)]
    Laneway,
    /// The same, but a large message is made in private memory and copied in.
    #[value(skip)]
    Sent,
    /// A lane whose batches are packed messages: one commit word for all of them.
    #[value(skip)]
    Packed,
    /// A lane with the consumer that reads in place.
    #[value(skip)]
    Trusted,
    /// A payload written and read in place with nothing around it, between two threads.
    #[value(skip)]
    Ideal,
    /// rtrb between two threads of one process.
    Rtrb,
    /// crossbeam's bounded queue between two threads of one process.
    ArrayQueue,
    /// crossbeam's bounded channel between two threads of one process.
    CrossbeamChannel,
    /// ringbuf between two threads of one process.
    Ringbuf,
    /// iceoryx2, publish and subscribe, written and read in place.
    Iceoryx2,
    /// shmem-ipc's ring in a memfd, written and read in place.
    ShmemIpc,
    /// DPDK's ring, elements copied in and out; wants the feature `rivals-dpdk`.
    DpdkRing,
    /// DPDK's ring, elements written and read in place; wants the feature `rivals-dpdk`.
    DpdkInPlace,
    /// Aeron's IPC with a media driver of its own; wants the feature `rivals-aeron`.
    Aeron,
    /// ipc-channel's channel of bytes.
    IpcChannel,
    /// A pipe.
    Pipe,
    /// A Unix socket that carries a stream of bytes.
    UnixStream,
    /// A Unix socket that carries packets.
    UnixSeqpacket,
    /// A TCP connection over the loopback interface.
    Tcp,
    /// One gRPC call for each message, over a Unix socket.
    TonicUnary,
    /// One gRPC stream of messages, over a Unix socket.
    TonicStream,
    /// One core's copy of private memory.
    #[value(skip)]
    Memcpy,
}

impl Who {
    /// As tables show it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Laneway => "laneway",
            Self::Sent => "laneway, sent",
            Self::Packed => "laneway, packed",
            Self::Trusted => "laneway, trusted",
            Self::Ideal => "hand-over of as much, in process",
            Self::Rtrb => "rtrb, in process",
            Self::ArrayQueue => "crossbeam ArrayQueue, in process",
            Self::CrossbeamChannel => "crossbeam channel, in process",
            Self::Ringbuf => "ringbuf, in process",
            Self::Iceoryx2 => "iceoryx2",
            Self::ShmemIpc => "shmem-ipc",
            Self::DpdkRing => "DPDK ring",
            Self::DpdkInPlace => "DPDK ring, in place",
            Self::Aeron => "Aeron IPC",
            Self::IpcChannel => "ipc-channel bytes",
            Self::Pipe => "pipe",
            Self::UnixStream => "unix stream",
            Self::UnixSeqpacket => "unix seqpacket",
            Self::Tcp => "tcp loopback",
            Self::TonicUnary => "tonic unary",
            Self::TonicStream => "tonic stream",
            Self::Memcpy => "memcpy, one core",
        }
    }

    /// Whether it is a lane.
    pub(crate) fn is_lane(self) -> bool {
        matches!(self, Self::Laneway | Self::Sent | Self::Packed | Self::Trusted)
    }

    /// Whether its readers look at a message of so many bytes where its writer, whom they have to
    /// trust, can still change it.
    pub(crate) fn reads_in_place(self, bytes: usize) -> bool {
        match self {
            Self::Trusted | Self::Iceoryx2 | Self::DpdkInPlace => true,
            Self::ShmemIpc => bytes > 1024,
            _ => false,
        }
    }

    /// Whether it has no way of polling, so that its ends sleep also where others spin.
    pub(crate) fn always_sleeps(self) -> bool {
        matches!(self, Self::TonicUnary | Self::TonicStream)
    }

    /// Whether its two ends are threads of one process, because it crosses no border.
    pub(crate) fn in_process(self) -> bool {
        matches!(
            self,
            Self::Ideal
                | Self::Rtrb
                | Self::ArrayQueue
                | Self::CrossbeamChannel
                | Self::Ringbuf
                | Self::Memcpy
        )
    }
}

/// One measurement of each round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Cell {
    pub(crate) work: Work,
    pub(crate) bytes: usize,
    /// Readers of every message.
    #[serde(default = "one")]
    pub(crate) readers: u32,
    pub(crate) mode: Mode,
    pub(crate) who: Who,
    /// Slots or elements of the ring; 0 where there is none.
    pub(crate) depth: u32,
}

/// Results from before there was a choice.
pub(crate) fn one() -> u32 {
    1
}

/// All measurements of a round, rivals next to each other.
pub(crate) fn cells(sizes: &[usize], trusted: bool) -> Result<Vec<Cell>, BenchError> {
    let mut cells = Vec::new();
    for &bytes in sizes {
        let depths = Depths::of(bytes)?;
        let mut add = |work, mode, who, depth| {
            cells.push(Cell { work, bytes, readers: 1, mode, who, depth });
        };
        let lanes = if trusted { &[Who::Laneway, Who::Trusted][..] } else { &[Who::Laneway] };
        for mode in [Mode::All, Mode::Header] {
            for &who in lanes {
                add(Work::Latency, mode, who, depths.latency);
                add(Work::Stream, mode, who, depths.stream);
            }
            if mode == Mode::All && ideal::SIZES.contains(&bytes) {
                add(Work::Latency, mode, Who::Ideal, 0);
            }
            if mode == Mode::All && RTRB_SIZES.contains(&bytes) {
                for depth in RTRB_DEPTHS {
                    if depth as usize * bytes <= RTRB_RING_MAX {
                        add(Work::Stream, mode, Who::Rtrb, depth);
                    }
                }
                add(Work::Latency, mode, Who::Rtrb, RTRB_DEPTHS[0]);
            }
        }
        if bytes <= BATCH_MAX {
            add(Work::Batch, Mode::All, Who::Laneway, depths.stream);
        }
        if let Some(slots) = depths.packed {
            add(Work::Batch, Mode::All, Who::Packed, slots);
        }
        add(Work::Copy, Mode::All, Who::Memcpy, 0);
    }
    Ok(cells)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_about_four_mebibytes_deep() {
        for bytes in SIZES {
            let depths = Depths::of(bytes).unwrap();
            let stream = Profile::Throughput;
            let geometry = Geometry::for_profile(payload(bytes), depths.stream, stream).unwrap();
            let size = geometry.segment_bytes();
            assert!((2 << 20..=9 << 20).contains(&size), "{bytes}: {size}");
        }
    }

    #[test]
    fn latency_rings_are_hot_for_small_messages_and_beyond_the_l2_for_large_ones() {
        let slots = SIZES.map(|bytes| Depths::of(bytes).unwrap().latency);
        assert_eq!(slots, [256, 256, 256, 256, 128, 256, 16, 2]);
    }

    #[test]
    fn a_round_measures_nothing_twice() {
        let mut cells = cells(&SIZES, true).unwrap();
        let all = cells.len();
        cells.sort();
        cells.dedup();
        assert_eq!(cells.len(), all);
    }
}
