//! `laneway-bench`: what a lane does on this machine, beside what this machine can do at all.
//!
//! One binary is the whole experiment: it starts a real agent, makes real lanes and measures two
//! pinned processes that attached by ticket, all three being this program again in a hidden role.
//! The method is in `METHOD.md`; the rooms in the order of the data: [`cli`] → [`agent`],
//! [`workers`] → [`plan`] → [`rounds`] → [`summary`] → [`report`], [`table`], [`plot`].

mod agent;
mod child;
mod class;
mod cli;
mod copying;
mod ends;
mod error;
mod experiment;
mod interrupt;
mod laneway;
mod latency;
mod machine;
mod message;
mod plan;
mod plot;
mod probe;
mod queue;
mod recorder;
mod report;
mod rounds;
mod stream;
mod summary;
mod table;
mod task;
mod trusted;
mod worker;
mod workers;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
