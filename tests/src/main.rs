//! The `laneway` command line as the tests run it.

use std::process::ExitCode;

fn main() -> ExitCode {
    laneway_agent::cli::run(std::env::args_os())
}
