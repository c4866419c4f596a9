//! A pair of lanes as one end of a conversation: one to speak, one to listen.

use std::time::Duration;

use crate::attach::Attach;
use crate::consumer::Consumer;
use crate::error::{AttachError, RecvError, ReserveError, SegmentError};
use crate::pair::{PairOptions, pair};
use crate::producer::Producer;
use crate::received::ReadSlot;

/// One end of two lanes that lead in opposite directions.
///
/// The lanes know nothing of each other: each has its own room, its own peer state and its own
/// end. Two ends that both only send until they have sent everything block each other once both
/// lanes are full; [`Caller`](crate::Caller) and [`Responder`](crate::Responder) do not.
#[derive(Debug)]
pub struct Duplex {
    /// Of the lane that this end writes.
    pub producer: Producer,
    /// Of the lane that this end reads.
    pub consumer: Consumer,
}

/// Both ends of two new lanes, inside one process.
///
/// # Errors
/// As [`pair`].
pub fn duplex_pair(options: PairOptions) -> Result<(Duplex, Duplex), SegmentError> {
    let (producer, far_consumer) = pair(options)?;
    let (far_producer, consumer) = pair(options)?;
    let far = Duplex { producer: far_producer, consumer: far_consumer };
    Ok((Duplex { producer, consumer }, far))
}

impl Duplex {
    /// Attaches the producer of one lane and the consumer of another.
    ///
    /// The calling thread can only be on one core: the producer's, if it is granted one.
    ///
    /// # Errors
    /// As [`Attach::producer`] and [`Attach::consumer`].
    pub fn attach(out: &Attach, back: &Attach) -> Result<Self, AttachError> {
        let producer = out.producer()?;
        Ok(Self { producer, consumer: back.clone().pin(false).consumer()? })
    }

    /// Sends one message, waiting at most `timeout` for room.
    ///
    /// # Errors
    /// As [`Producer::send`].
    #[inline]
    pub fn send(&mut self, message: &[u8], timeout: Duration) -> Result<(), ReserveError> {
        self.producer.send(message, timeout)
    }

    /// The next message, waiting at most `timeout` for it.
    ///
    /// # Errors
    /// As [`Consumer::recv`].
    #[inline]
    pub fn recv(&mut self, timeout: Duration) -> Result<ReadSlot<'_>, RecvError> {
        self.consumer.recv(timeout)
    }
}
