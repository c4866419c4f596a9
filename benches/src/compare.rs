//! `laneway-bench compare` from the first process to the last line: lanes and rivals in turns.

use std::time::Duration;

use crate::agent::Wishes;
use crate::cli::{CompareArgs, sizes};
use crate::error::BenchError;
use crate::interrupt::Interrupt;
use crate::machine::Machine;
use crate::plan::{Cell, Who};
use crate::report::{Kind, Method, Report};
use crate::rivals::contest::{self, QUICK_SIZES, SIZES};
use crate::rivals::{in_process, pair};
use crate::rounds::{self, Measured, rounds};
use crate::stage::Stage;
use crate::{output, table};

/// Measures and prints.
pub(crate) fn run(args: &CompareArgs) -> Result<(), BenchError> {
    let interrupt = Interrupt::new()?;
    let report = measure(args, &interrupt)?;
    let text = if args.json {
        serde_json::to_string_pretty(&report).map_err(BenchError::json("the report"))?
    } else {
        table::text(&report)
    };
    output::print(&text)
}

/// Measures lanes beside their rivals.
pub(crate) fn measure(args: &CompareArgs, interrupt: &Interrupt) -> Result<Report, BenchError> {
    let machine = Machine::read(args.cpus)?;
    let sizes = sizes(&args.sizes, if args.quick { &QUICK_SIZES } else { &SIZES });
    let cells = contest::cells(&sizes, args)?;
    let count = args.rounds.unwrap_or(if args.quick { 1 } else { 5 });
    let seconds = args.seconds.unwrap_or(if args.quick { 0.02 } else { 0.1 });
    let time = Duration::from_secs_f64(seconds);
    let pinned = !args.no_pin;
    let cpus = pinned.then_some(machine.cpus);
    let wishes = Wishes {
        pages: args.page_size,
        wait: args.wait,
        depths: args.depths.clone(),
        latency_depths: args.latency_depths.clone(),
        readers: args.readers.clone(),
    };
    let mut stage = Stage::set(&sizes, &wishes, cpus, interrupt)?;
    let found = rounds(&cells, count, machine.cpus, interrupt, |cell: &Cell| {
        if cell.who.is_lane() || matches!(cell.who, Who::Memcpy | Who::Ideal) {
            let workers = &mut stage.workers;
            return rounds::run_cell(workers, cell, machine.cpus, time, interrupt);
        }
        if let Some(why) = contest::out_of_reach(cell, args.wait) {
            return Ok(Measured::Absent(why.to_owned()));
        }
        let measured = if cell.who.in_process() {
            in_process::measure(cell, args.wait, cpus, time)
        } else {
            pair::measure(cell, args.wait, cpus, time, interrupt)
        };
        match measured {
            Ok(figures) => Ok(Measured::Figures(figures)),
            Err(BenchError::Interrupted) => Err(BenchError::Interrupted),
            // Whatever befalls a rival is its own affair: the others are measured all the same.
            Err(error) => Ok(Measured::Absent(error.to_string())),
        }
    })?;
    let method = Method {
        rounds: count,
        seconds,
        page_size_asked: args.page_size,
        page_bytes: stage.page_bytes.clone(),
        samples_moved: 0,
        wait: args.wait,
        pinned,
    };
    Ok(Report::new(Kind::Compare, machine, method, found))
}
