//! A fresh process up to its first message, and one that does nothing beside it.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, ExitCode, Stdio};
use std::time::Instant;

use laneway_proto::v1;

use super::attach::{Attaching, Found, consumer, producer};
use super::calls::{create, delete, ticket};
use super::timings::Clock;
use super::what::What;
use crate::child;
use crate::error::BenchError;
use crate::message::PATIENCE;

/// Where the child finds its ticket: arguments are for everybody to see.
const TICKET: &str = "LANEWAY_TICKET";

/// The hidden role `laneway-bench control-first`: one message to a lane, or one byte to the pipe.
pub(crate) fn run(parent: Option<i32>, socket: Option<&Path>) -> Result<ExitCode, BenchError> {
    child::adopt(parent)?;
    match socket {
        Some(socket) => {
            let ticket = std::env::var(TICKET).unwrap_or_default();
            drop(producer(socket, &ticket)?);
        }
        None => {
            let told = std::io::stdout().write_all(b"!");
            told.map_err(BenchError::io("cannot answer"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Starts as many processes as `attaching` has lanes, of each kind and in turns.
pub(crate) fn pass(attaching: &mut Attaching<'_>) -> Result<Found, BenchError> {
    let (mut nothing, mut message) = (Clock::new(), Clock::new());
    for number in 0..attaching.lanes {
        floor(&mut nothing)?;
        let name = format!("first-{number}");
        let (client, kind) = (&mut attaching.client, attaching.kind);
        let (sends, receives) = attaching.runtime.block_on(async {
            create(client, &name, kind).await?;
            let sends = ticket(client, &name, v1::Role::Producer).await?;
            Ok::<_, BenchError>((sends, ticket(client, &name, v1::Role::Consumer).await?))
        })?;
        let mut end = consumer(&attaching.socket, &receives)?;
        let start = Instant::now();
        let mut command = child::command("control-first")?;
        command.arg("--socket").arg(&attaching.socket).env(TICKET, sends);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let mut process = command.spawn().map_err(BenchError::io("cannot start a process"))?;
        let received = end.recv(PATIENCE).map(|_| start.elapsed());
        ended(&mut process)?;
        message.count(received?);
        drop(end);
        attaching.runtime.block_on(delete(&mut attaching.client, &name))?;
    }
    let both = [(What::Process, nothing.in_turn()), (What::FirstMessage, message.in_turn())];
    Ok(both.into_iter().filter_map(|(what, timings)| Some((what, timings?))).collect())
}

/// A process that says one byte.
fn floor(clock: &mut Clock) -> Result<(), BenchError> {
    let start = Instant::now();
    let mut command = child::command("control-first")?;
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut process = command.spawn().map_err(BenchError::io("cannot start a process"))?;
    let Some(mut answers) = process.stdout.take() else {
        unreachable!("standard output was asked to be a pipe");
    };
    let mut byte = [0];
    let read = answers.read_exact(&mut byte).map(|()| start.elapsed());
    ended(&mut process)?;
    clock.count(read.map_err(BenchError::io("cannot hear a process"))?);
    Ok(())
}

/// Waits for a process that ends by itself. Why it failed it has said on standard error.
fn ended(process: &mut Child) -> Result<(), BenchError> {
    let status = process.wait().map_err(BenchError::io("cannot wait for a process"))?;
    if status.success() {
        return Ok(());
    }
    Err(BenchError::Call { what: "fresh process", why: format!("it ended, {status}") })
}
