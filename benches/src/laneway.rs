//! The hidden role `laneway-bench laneway -- ARGS`: the agent and its command line, unchanged.

use std::ffi::OsString;
use std::process::ExitCode;

use crate::child;
use crate::error::BenchError;

/// Runs the product's own command line; `arguments` come without the program's name.
pub(crate) fn run(
    parent: Option<i32>,
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<ExitCode, BenchError> {
    child::adopt(parent)?;
    let name = std::iter::once(OsString::from("laneway"));
    Ok(laneway_agent::cli::run(name.chain(arguments)))
}
