//! `laneway-bench run` from the first process to the last line: stage, rounds, report.

use std::time::Duration;

use crate::agent::Wishes;
use crate::cli::{RunArgs, sizes};
use crate::error::BenchError;
use crate::interrupt::Interrupt;
use crate::machine::Machine;
use crate::output;
use crate::plan::{self, QUICK_SIZES, SIZES};
use crate::report::{Kind, Method, Report};
use crate::rounds::{self, rounds};
use crate::stage::Stage;
use crate::task::Wait;
use crate::{charts, table};

/// Measures and prints.
pub(crate) fn run(args: &RunArgs) -> Result<(), BenchError> {
    let interrupt = Interrupt::new()?;
    let report = measure(args, &interrupt)?;
    if let Some(path) = &args.plot {
        output::write(path, &charts::lanes(&report).picture())?;
    }
    let text = if args.json {
        serde_json::to_string_pretty(&report).map_err(BenchError::json("the report"))?
    } else {
        table::text(&report)
    };
    output::print(&text)
}

/// Measures lanes beside the machine's own limits.
pub(crate) fn measure(args: &RunArgs, interrupt: &Interrupt) -> Result<Report, BenchError> {
    let machine = Machine::read(args.cpus)?;
    let sizes = sizes(&args.sizes, if args.quick { &QUICK_SIZES } else { &SIZES });
    let cells = plan::cells(&sizes, args.trusted)?;
    let count = args.rounds.unwrap_or(if args.quick { 2 } else { 9 });
    let seconds = args.seconds.unwrap_or(if args.quick { 0.05 } else { 0.2 });
    let wishes = Wishes { pages: args.page_size, ..Wishes::default() };
    let mut stage = Stage::set(&sizes, &wishes, Some(machine.cpus), interrupt)?;
    let (cpus, time) = (machine.cpus, Duration::from_secs_f64(seconds));
    let found = rounds(&cells, count, cpus, interrupt, |cell| {
        rounds::run_cell(&mut stage.workers, cell, cpus, time, interrupt)
    })?;
    let method = Method {
        rounds: count,
        seconds,
        page_size_asked: args.page_size,
        page_bytes: stage.page_bytes.clone(),
        samples_moved: 0,
        wait: Wait::Spin,
        pinned: true,
    };
    Ok(Report::new(Kind::Run, machine, method, found))
}
