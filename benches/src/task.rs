//! What the benchmark and its workers say to each other: one JSON value a line.

use std::path::PathBuf;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::recorder::Latency;
use crate::stream::Throughput;

/// Which worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Side {
    /// Starts round trips, produces streams.
    Initiator,
    /// Answers round trips, consumes streams.
    Responder,
}

impl Side {
    /// The side's name in messages.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Initiator => "initiator",
            Self::Responder => "responder",
        }
    }

    /// The one across.
    #[cfg(feature = "rivals")]
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Initiator => Self::Responder,
            Self::Responder => Self::Initiator,
        }
    }

    /// This side's cpu of two.
    pub(crate) fn of(self, cpus: Option<(u32, u32)>) -> Option<u32> {
        cpus.map(|(first, second)| match self {
            Self::Initiator => first,
            Self::Responder => second,
        })
    }
}

/// First line: who the worker is. Tickets travel here and not in arguments, which all can read.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Setup {
    pub(crate) side: Side,
    /// None leaves the worker where the kernel puts it.
    pub(crate) cpu: Option<u32>,
    /// Whether the library pins, where the lane says so.
    pub(crate) pin: bool,
    pub(crate) socket: PathBuf,
    pub(crate) lanes: Vec<Tickets>,
}

/// This worker's tickets for the lanes of one message size.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Tickets {
    pub(crate) bytes: usize,
    /// Lanes for round trips, there and back, by their slots.
    pub(crate) echoes: Vec<(u32, String, String)>,
    /// Lanes for streams, by their slots.
    pub(crate) streams: Vec<(u32, String)>,
    /// The lane for packed messages, if there is one.
    pub(crate) packed: Option<String>,
    /// Lanes with several readers.
    pub(crate) crowds: Vec<CrowdTicket>,
}

/// A lane with several readers: its producer has a ticket, its readers know its name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct CrowdTicket {
    pub(crate) readers: u32,
    pub(crate) slots: u32,
    pub(crate) producer: String,
    pub(crate) name: String,
}

/// Later lines.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// One message over each lane, so that both ends know each other.
    Greet,
    /// Measure.
    Run(Task),
}

/// Which bytes of a message are touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    /// Every byte is written and read.
    All,
    /// Eight bytes of each message.
    Header,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Work {
    /// Half a round trip, one message in flight.
    Latency,
    /// One publish for each message.
    Stream,
    /// One publish for 32 messages.
    Batch,
    /// One core copying.
    #[value(skip)]
    Copy,
}

/// What an end does while there is nothing to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Wait {
    /// It polls without a pause: one core for each end.
    #[default]
    Spin,
    /// It sleeps in the kernel.
    Park,
}

impl Wait {
    /// As `laneway lane create --wait` wants it.
    pub(crate) fn as_flag(self) -> &'static str {
        match self {
            Self::Spin => "spin",
            Self::Park => "park",
        }
    }
}

/// One measurement.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Task {
    pub(crate) work: Work,
    pub(crate) mode: Mode,
    pub(crate) bytes: usize,
    /// Readers of every message.
    pub(crate) readers: u32,
    /// Slots of the lane.
    pub(crate) depth: u32,
    pub(crate) trusted: bool,
    /// Whether large messages are copied in.
    pub(crate) sent: bool,
    /// Whether a batch is one packed message.
    pub(crate) packed: bool,
    pub(crate) millis: u64,
}

/// What a worker answers.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// Done; the figures are the other worker's.
    Done,
    /// A latency; none if the time was too short.
    Latency(Option<Latency>),
    /// A throughput; none if the time was too short.
    Throughput(Option<Throughput>),
    /// It cannot go on.
    Failed(String),
}
