//! The `laneway` binary: everything is in the library, so that tests and benches can run it too.

use std::process::ExitCode;

fn main() -> ExitCode {
    laneway_agent::cli::run(std::env::args_os())
}
