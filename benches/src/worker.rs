//! The hidden role `laneway-bench worker`: one pinned process with one side of every lane.
//!
//! Orders come in on standard input, answers go out on standard output; in between it blocks, so
//! that nothing of it runs while somebody else is measured.

use std::io::{self, BufRead, Write};
use std::process::ExitCode;

use crate::child;
use crate::control::hold::raise_open_files;
use crate::ends::Ends;
use crate::error::BenchError;
use crate::probe::pin;
use crate::task::{Answer, Order, Setup, Task};

/// Works until standard input ends.
pub(crate) fn run(parent: Option<i32>) -> Result<ExitCode, BenchError> {
    child::adopt(parent)?;
    let mut lines = io::stdin().lock().lines();
    let answered = match next(&mut lines, "the setup") {
        Ok(Some(setup)) => work(&setup, &mut lines),
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    match answered {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            say(&Answer::Failed(error.to_string()))?;
            Ok(ExitCode::FAILURE)
        }
    }
}

fn work(setup: &Setup, lines: &mut impl Lines) -> Result<(), BenchError> {
    let _pinned = setup.cpu.map(pin).transpose()?;
    // Many readers have more descriptors than a process usually may.
    raise_open_files()?;
    let mut lanes = Vec::new();
    for tickets in &setup.lanes {
        lanes.push((tickets.bytes, Ends::attach(setup, tickets)?));
    }
    say(&Answer::Done)?;
    while let Some(order) = next(lines, "an order")? {
        let answer = match order {
            Order::Greet => {
                for (_, ends) in &mut lanes {
                    ends.greet()?;
                }
                Answer::Done
            }
            Order::Run(task) => measure(&mut lanes, &task)?,
        };
        say(&answer)?;
    }
    Ok(())
}

fn measure(lanes: &mut [(usize, Ends)], task: &Task) -> Result<Answer, BenchError> {
    match lanes.iter_mut().find(|(bytes, _)| *bytes == task.bytes) {
        Some((_, ends)) => ends.run(task),
        None => Ok(Answer::Failed(format!("no lane of {} bytes", task.bytes))),
    }
}

/// Lines of an input.
pub(crate) trait Lines: Iterator<Item = io::Result<String>> {}
impl<T: Iterator<Item = io::Result<String>>> Lines for T {}

/// The next line as a value; none at the end.
pub(crate) fn next<T: serde::de::DeserializeOwned>(
    lines: &mut impl Lines,
    what: &'static str,
) -> Result<Option<T>, BenchError> {
    match lines.next().transpose().map_err(BenchError::io(what))? {
        Some(line) => serde_json::from_str(&line).map(Some).map_err(BenchError::json(what)),
        None => Ok(None),
    }
}

/// Tells the benchmark, which waits for it.
pub(crate) fn say(answer: &Answer) -> Result<(), BenchError> {
    let mut line = serde_json::to_string(answer).map_err(BenchError::json("an answer"))?;
    line.push('\n');
    let mut output = io::stdout().lock();
    output
        .write_all(line.as_bytes())
        .and_then(|()| output.flush())
        .map_err(BenchError::io("cannot answer"))
}
