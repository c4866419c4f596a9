//! `laneway-bench`: what a lane does on this machine, beside what this machine can do at all.
//!
//! One binary is the whole experiment: it starts a real agent, makes real lanes and measures two
//! pinned processes that attached by ticket, all three being this program again in a hidden role.
//! The method is in `METHOD.md`; the rooms in the order of the data: [`cli`] → [`stage`] with
//! [`agent`] and [`workers`] → [`plan`] → [`rounds`] → [`summary`] → [`report`] → [`table`],
//! [`charts`], [`page`]. What moves messages stands behind [`ports`]: lanes there, the queues of
//! one process in [`queue`], and with the feature `rivals` everybody else in `rivals`.

mod agent;
mod broadcast;
mod charts;
mod child;
mod class;
mod cli;
#[cfg(feature = "rivals")]
mod compare;
mod control;
mod copies;
mod copying;
mod crowd;
mod document;
mod ends;
mod error;
#[cfg(test)]
mod example;
mod experiment;
mod grid;
mod ideal;
mod interrupt;
mod laneway;
mod latency;
mod machine;
mod markup;
mod message;
mod noise;
mod output;
mod page;
mod pause;
mod plan;
mod plot;
mod ports;
mod probe;
mod publish;
mod queue;
mod recorder;
mod report;
#[cfg(feature = "rivals")]
mod rivals;
mod rounds;
mod stage;
mod stores;
mod stream;
mod summary;
mod table;
mod targets;
mod task;
mod trial;
mod trusted;
mod wake;
mod worker;
mod workers;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
