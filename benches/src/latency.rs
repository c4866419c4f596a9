//! Closed-loop latency: one message in flight, there over one lane and back over another.

use std::time::Duration;

use laneway_shm::Producer;

use crate::error::BenchError;
use crate::message::{Inlet, STOP, Seen, Shape};
use crate::recorder::{Latency, Recorder};

/// The end that starts each round trip and times it.
#[inline(never)]
pub(crate) fn initiate(
    shape: &mut impl Shape,
    ping: &mut Producer,
    pong: &mut impl Inlet,
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
pub(crate) fn respond(
    shape: &mut impl Shape,
    ping: &mut impl Inlet,
    pong: &mut Producer,
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
