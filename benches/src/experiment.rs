//! One run from the first process to the last line: agent, lanes, workers, rounds, report.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::time::Duration;

use crate::agent::Agent;
use crate::cli::RunArgs;
use crate::error::BenchError;
use crate::interrupt::Interrupt;
use crate::machine::Machine;
use crate::plan::{self, QUICK_SIZES, SIZES};
use crate::report::{Method, Report, VERSION};
use crate::rounds::Bench;
use crate::workers::Workers;
use crate::{plot, summary, table};

/// Measures and prints.
pub(crate) fn run(args: &RunArgs) -> Result<(), BenchError> {
    let interrupt = Interrupt::new()?;
    let report = measure(args, &interrupt)?;
    if let Some(path) = &args.plot {
        let what = format!("cannot write {}", path.display());
        std::fs::write(path, plot::svg(&report)).map_err(BenchError::io(what))?;
    }
    let text = if args.json {
        serde_json::to_string_pretty(&report).map_err(BenchError::json("the report"))?
    } else {
        table::text(&report)
    };
    match writeln!(io::stdout(), "{text}") {
        // A reader such as `head` that has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(BenchError::io("cannot print")),
    }
}

fn measure(args: &RunArgs, interrupt: &Interrupt) -> Result<Report, BenchError> {
    let machine = Machine::read(args.cpus)?;
    let sizes = sizes(args);
    let cells = plan::cells(&sizes, args.trusted)?;
    let rounds = args.rounds.unwrap_or(if args.quick { 2 } else { 9 });
    let seconds = args.seconds.unwrap_or(if args.quick { 0.05 } else { 0.2 });
    // Dropped in reverse: first the workers, then the agent with its directory and its pages.
    let mut agent = Agent::start(&sizes, args.page_size, interrupt)?;
    let mut lanes = Vec::new();
    for &bytes in &sizes {
        interrupt.check()?;
        lanes.push(agent.lanes(bytes, args.page_size)?);
    }
    let mut workers = Workers::start(machine.cpus, &agent.attach_socket(), &lanes, interrupt)?;
    let mut bench = Bench {
        workers: &mut workers,
        cpus: machine.cpus,
        time: Duration::from_secs_f64(seconds),
        interrupt,
    };
    let samples = bench.rounds(&cells, rounds)?;
    let pages: BTreeSet<u64> = lanes
        .iter()
        .flat_map(|lanes| [&lanes.ping, &lanes.pong, &lanes.stream])
        .map(|lane| lane.page_bytes)
        .collect();
    let rows = summary::rows(&samples);
    Ok(Report {
        version: VERSION,
        machine,
        method: Method {
            rounds,
            seconds,
            page_size_asked: args.page_size,
            page_bytes: pages.into_iter().collect(),
            samples_moved: samples.iter().filter(|sample| sample.class.is_none()).count(),
        },
        targets: summary::targets(&rows),
        rows,
        samples,
    })
}

/// The sizes asked for, each once and in order.
fn sizes(args: &RunArgs) -> Vec<usize> {
    let asked: BTreeSet<usize> = args.sizes.iter().map(|&bytes| bytes as usize).collect();
    if !asked.is_empty() {
        asked.into_iter().collect()
    } else if args.quick {
        QUICK_SIZES.to_vec()
    } else {
        SIZES.to_vec()
    }
}
