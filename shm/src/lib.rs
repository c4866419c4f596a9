//! Private lanes between two processes of one node: shared memory with one writer for each byte.
//!
//! A lane is a ring in two sealed segments. The producer writes one, the consumer the other, and
//! the kernel enforces it: after the hand-over nobody can map a segment for writing, shrink it or
//! punch a hole. What a hostile peer can still do is write nonsense into its own segment, and
//! that is caught: every number of the peer's is read once, checked, and kept privately; a lie is
//! a typed [`Corruption`] and never a panic, a trap or an access outside the slot.
//!
//! | room | owns |
//! |---|---|
//! | [`layout`], [`geometry`], [`cursor`] | the format and its rules; pure |
//! | [`memory`], [`ring`] | the protocol, over any memory; pure |
//! | `region`, `copy`, `futex`, [`memfd`] | mappings, racy copies, sleeps, sealed files |
//! | [`FrozenBuilder`], [`FrozenFile`], [`FrozenSegment`] | large payloads that are sealed files |
//! | [`wire`], [`fdpass`] | the attach protocol's frames and descriptors |
//! | [`lifeline`] | a socket between two ends, for those that wait in epoll |
//! | [`Attach`], [`Producer`], [`Consumer`], [`Subscriber`] | what a workload uses |
//! | [`TrustedConsumer`] | a consumer in place, whose caller vouches for its producer |
//! | [`mod@message`], [`TypedProducer`], [`TypedConsumer`], [`TypedSubscriber`] | values, schemas |
//! | [`FanIn`], [`TypedFanIn`], [`Merge`] | many lanes read by one, in turn or by time stamps |
//! | [`Duplex`], [`Caller`], [`Responder`] | two lanes as a conversation; requests and responses |
//! | [`observer`], [`pin`] | what the agent sees; what a thread runs on |
//!
//! The first message in ten lines, without an agent:
//!
//! ```
//! use std::time::Duration;
//! use laneway_shm::{PairOptions, pair};
//!
//! let (mut producer, mut consumer) = pair(PairOptions::default())?;
//! let sender = std::thread::spawn(move || producer.send(b"hello", Duration::from_secs(1)));
//! let message = consumer.recv(Duration::from_secs(1))?;
//! assert_eq!(message.to_vec(), b"hello");
//! # sender.join().unwrap()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A message may take several slots, up to the whole ring, and is seen whole or not at all; what is
//! larger, or one payload of a megabyte and more, is [frozen](FrozenBuilder):
//!
//! ```
//! # use std::time::Duration;
//! # use laneway_shm::{PairOptions, pair};
//! // Slots of 56 bytes: a message of 40,000 takes 715 of them.
//! let (mut producer, mut consumer) = pair(PairOptions::default())?;
//! assert_eq!(producer.message_max(), 56 * 1024);
//! producer.send(&[7; 40_000], Duration::ZERO)?;
//! assert_eq!(consumer.recv(Duration::ZERO)?.to_vec(), [7; 40_000]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//! # Waiting
//!
//! - `try_…`, `poll…` and `batch` never wait: what there is no room for is an error with its
//!   numbers ([`ReserveError::Full`]), what is not there is `None` or 0.
//! - What takes a `timeout` waits as long as that, and then says so ([`ReserveError::TimedOut`],
//!   [`RecvError::TimedOut`]). [`Duration::ZERO`](std::time::Duration::ZERO) looks around once,
//!   [`Duration::MAX`](std::time::Duration::MAX) waits for ever.
//! - An end of `asynchronous` (feature `tokio`) waits until there is something to say, or the
//!   future is dropped.
//!
//! Whoever waits for ever still hears of the end of the stream, of a revocation and of a lie; not
//! of a peer that died: a successor may come. `peer()` tells.
#![warn(missing_docs)]

// What the macros write is the same inside this crate as outside.
extern crate self as laneway_shm;

#[cfg(feature = "tokio")]
pub mod asynchronous;
mod attach;
mod barrier;
mod bell;
mod by_value;
mod call;
mod consumer;
mod control;
mod copy;
#[cfg(test)]
mod demonic;
mod distance;
mod duplex;
mod error;
mod fan_in;
mod follower;
mod frozen;
mod futex;
mod generations;
mod group;
mod lanes;
mod merge;
mod order;
mod pair;
mod producer;
mod reader;
mod received;
mod region;
mod responder;
mod sleep;
mod subscriber;
mod sync;
mod trusted;
mod turns;
mod typed;
mod writer;

pub mod cursor;
pub mod fdpass;
pub mod geometry;
pub mod layout;
pub mod lifeline;
pub mod memfd;
pub mod memory;
pub mod message;
pub mod observer;
pub mod pin;
pub mod ring;
pub mod roster;
pub mod wire;

pub use attach::{Attach, Receiver};
pub use call::{CallCounts, CallError, CallId, Caller, Envelope};
pub use consumer::Consumer;
pub use distance::{Distance, Relation};
pub use duplex::{Duplex, duplex_pair};
pub use error::{
    AttachError, Corruption, FrameError, PeerState, RecvError, ReserveError, SegmentError,
};
pub use fan_in::{FanIn, TypedFanIn};
pub use frozen::{
    FROZEN_BYTES_MAX, FROZEN_IN_FLIGHT_MAX, FrozenBuilder, FrozenError, FrozenFault, FrozenFile,
    FrozenSegment, FrozenSendError, FrozenSlot, Incoming,
};
pub use group::{FanInError, LaneKey};
pub use merge::{Merge, Merged};
pub use pair::{PairOptions, pair};
pub use producer::readers::Holder;
pub use producer::{ChunkSlot, Producer, WriteBatch, WriteChunk, WriteSlot};
pub use received::{ReadBatch, ReadSlot, View};
pub use responder::{Later, Reply, Responder, ServeCounts};
pub use ring::{GivenUp, Lag, Policy, Profile, Start, WaitMode};
pub use roster::Reason;
pub use subscriber::{Message, Subscriber};
pub use trusted::{TrustedConsumer, TrustedSlot};
pub use typed::many::{TypedBatch, TypedChunk, TypedCopies};
pub use typed::subscriber::{TypedReceiver, TypedSubscriber};
pub use typed::{TypedConsumer, TypedProducer, typed_pair};
/// The crate that proves what a message's type must be; its derives are what `message!` uses.
pub use zerocopy;
