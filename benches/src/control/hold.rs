//! The hidden role `laneway-bench control-hold`: one process with the same end of many lanes.
//!
//! It attaches what it is told to, lets one message pass on each lane, and is idle in between.

use std::io::{self, BufRead};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use laneway_shm::{Consumer, Producer};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

use super::attach::{consumer, producer, receive_asking};
use crate::child;
use crate::error::BenchError;
use crate::interrupt::Interrupt;
use crate::task::{Answer, Side};
use crate::worker::{Lines, next, say};
use crate::workers::Worker;

/// Its first line.
#[derive(Debug, Serialize, Deserialize)]
struct Post {
    /// The initiator produces.
    side: Side,
    socket: PathBuf,
}

/// What it does until its input ends.
pub(crate) fn run(parent: Option<i32>) -> Result<ExitCode, BenchError> {
    child::adopt(parent)?;
    let mut lines = io::stdin().lock().lines();
    let answered = match next::<Post>(&mut lines, "the post") {
        Ok(Some(post)) => raise_open_files().and_then(|_| hold(&post, &mut lines)),
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    match answered {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => say(&Answer::Failed(error.to_string())).map(|()| ExitCode::FAILURE),
    }
}

fn hold(post: &Post, lines: &mut impl Lines) -> Result<(), BenchError> {
    let (mut producers, mut consumers) = (Vec::<Producer>::new(), Vec::<Consumer>::new());
    say(&Answer::Done)?;
    while let Some(tickets) = next::<Vec<String>>(lines, "tickets")? {
        for ticket in tickets {
            match post.side {
                Side::Initiator => producers.push(producer(&post.socket, &ticket)?),
                Side::Responder => {
                    let mut end = consumer(&post.socket, &ticket)?;
                    receive_asking(&mut end)?;
                    consumers.push(end);
                }
            }
        }
        // Where the consumers came later, the producers learn of them by this look.
        for end in &mut producers {
            end.maintain()?;
        }
        say(&Answer::Done)?;
    }
    Ok(())
}

/// Raises the limit of open files as far as this process may, and says how far that is.
pub(crate) fn raise_open_files() -> Result<u64, BenchError> {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_err(BenchError::io("getrlimit"))?;
    let raised = setrlimit(Resource::RLIMIT_NOFILE, limit.1, limit.1);
    raised.map_err(BenchError::io("setrlimit"))?;
    Ok(limit.1)
}

/// The process with all producers, and the one with all consumers.
#[derive(Debug)]
pub(crate) struct Holders {
    pub(crate) producers: Worker,
    pub(crate) consumers: Worker,
}

impl Holders {
    pub(crate) fn start(socket: &Path, interrupt: &Interrupt) -> Result<Self, BenchError> {
        let start = |side| -> Result<Worker, BenchError> {
            let post = Post { side, socket: socket.to_owned() };
            let mut worker = Worker::start("control-hold", side, &post)?;
            worker.done(interrupt)?;
            Ok(worker)
        };
        Ok(Self { producers: start(Side::Initiator)?, consumers: start(Side::Responder)? })
    }

    /// Attaches both ends of further lanes and lets a message pass on each.
    pub(crate) fn attach(
        &mut self,
        producers: &[String],
        consumers: &[String],
        interrupt: &Interrupt,
    ) -> Result<(), BenchError> {
        self.producers.tell(&producers)?;
        self.producers.done(interrupt)?;
        self.consumers.tell(&consumers)?;
        self.consumers.done(interrupt)?;
        // So that the producers look for their consumers.
        self.producers.tell(&Vec::<String>::new())?;
        self.producers.done(interrupt)
    }
}
