//! The two children of one rival's measurement, as the benchmark sees them.

use std::time::Duration;

use tempfile::TempDir;

use super::Errand;
#[cfg(feature = "rivals-aeron")]
use super::aeron;
use super::meeting::Meeting;
use crate::error::BenchError;
use crate::interrupt::Interrupt;
use crate::plan::{Cell, Who};
use crate::recorder::Figures;
use crate::rounds::figures;
use crate::task::{Answer, Side, Wait};
use crate::workers::Worker;

/// Measures a cell in two fresh processes.
pub(crate) fn measure(
    cell: &Cell,
    wait: Wait,
    cpus: Option<(u32, u32)>,
    time: Duration,
    interrupt: &Interrupt,
) -> Result<Figures, BenchError> {
    let directory = meeting_place(cell.who)?;
    // Dropped after the children and before the directory.
    #[cfg(feature = "rivals-aeron")]
    let _driver = match cell.who {
        Who::Aeron => Some(aeron::driver(directory.path(), cpus, interrupt)?),
        _ => None,
    };
    let start = |side: Side| {
        let errand = Errand {
            side,
            cpu: side.of(cpus),
            directory: directory.path().to_owned(),
            cell: *cell,
            wait,
            millis: u64::try_from(time.as_millis()).unwrap_or(u64::MAX),
        };
        Worker::start("rival", side, &errand)
    };
    // Dropped before the directory is.
    let mut responder = start(Side::Responder)?;
    let mut initiator = start(Side::Initiator)?;
    let answers = initiator
        .answer(time, interrupt)
        .and_then(|first| Ok((first, responder.answer(time, interrupt)?)));
    match answers {
        Ok((Answer::Done, second)) => Ok(figures(second)),
        Ok((first, _)) => Ok(figures(first)),
        Err(BenchError::Interrupted) => Err(BenchError::Interrupted),
        // Who failed first knows why; the other one only noticed.
        Err(error) => match Meeting::new(directory.path()).failure() {
            Some(why) => Err(BenchError::Rival { what: "it failed", why }),
            None => Err(error),
        },
    }
}

/// A directory for both children, in memory if their files should be.
fn meeting_place(who: Who) -> Result<TempDir, BenchError> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("laneway-rival-");
    let made = match who {
        #[cfg(feature = "rivals-aeron")]
        Who::Aeron => builder.tempdir_in(aeron::MEMORY),
        _ => builder.tempdir(),
    };
    made.map_err(BenchError::io("cannot make a temporary directory"))
}
