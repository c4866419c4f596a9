//! Closed-loop latency: one message in flight, there over one lane or rival and back over another.

use std::time::Duration;

use crate::error::BenchError;
use crate::message::{Receives, STOP, Seen, Sends};
use crate::recorder::{Latency, Recorder};

/// The end that starts each round trip and times it.
#[inline(never)]
pub(crate) fn initiate<O, I>(
    shape: &mut (impl Sends<O> + Receives<I>),
    ping: &mut O,
    pong: &mut I,
    time: Duration,
) -> Result<Option<Latency>, BenchError> {
    let mut recorder = Recorder::new(time);
    let mut number = 0;
    loop {
        number += 1;
        shape.send(ping, number)?;
        let go_on = recorder.stamp();
        shape.receive(pong, number)?;
        if !go_on {
            break;
        }
    }
    shape.send(ping, STOP)?;
    Ok(recorder.finish())
}

/// The end that answers each message with one of its own making.
#[inline(never)]
pub(crate) fn respond<O, I>(
    shape: &mut (impl Sends<O> + Receives<I>),
    ping: &mut I,
    pong: &mut O,
) -> Result<(), BenchError> {
    let mut number = 0;
    loop {
        number += 1;
        if shape.receive(ping, number)? == Seen::Stop {
            return Ok(());
        }
        shape.send(pong, number)?;
    }
}
