//! Where results go: standard output or a file.

use std::io::{self, Write};
use std::path::Path;

use crate::error::BenchError;

/// Prints `text` and an end of line.
pub(crate) fn print(text: &str) -> Result<(), BenchError> {
    match writeln!(io::stdout(), "{text}") {
        // A reader such as `head` that has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(BenchError::io("cannot print")),
    }
}

/// Writes a file.
pub(crate) fn write(path: &Path, text: &str) -> Result<(), BenchError> {
    std::fs::write(path, text).map_err(BenchError::io(format!("cannot write {}", path.display())))
}
