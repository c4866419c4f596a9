//! The hidden role `laneway-bench laneway -- ARGS`: the agent and its command line, unchanged.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use crate::child;
use crate::control::steps::Listener;
use crate::error::BenchError;

/// Runs the product's own command line; `arguments` come without the program's name. Writes the
/// steps of its attaches to the file `steps`, if there is one.
pub(crate) fn run(
    parent: Option<i32>,
    steps: Option<&Path>,
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<ExitCode, BenchError> {
    child::adopt(parent)?;
    let name = std::iter::once(OsString::from("laneway"));
    let Some(file) = steps else {
        return Ok(laneway_agent::cli::run(name.chain(arguments)));
    };
    let listener = Arc::new(Listener::default());
    // The agent leaves a listener where it is that was there before.
    if tracing::subscriber::set_global_default(Arc::clone(&listener)).is_err() {
        unreachable!("this process has just begun");
    }
    let code = laneway_agent::cli::run(name.chain(arguments));
    listener.write(file)?;
    Ok(code)
}
