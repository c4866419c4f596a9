//! How two children find each other: notes in a directory that only they and their parent know.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::BenchError;
use crate::message::PATIENCE;
use crate::task::Side;

/// Time between two looks at the directory.
const LOOK: Duration = Duration::from_millis(1);
/// How long one side waits for the other to finish, beyond what a measurement may take.
const PART_MAX: Duration = Duration::from_secs(60);

/// The note of a side that cannot go on.
const FAILED: &str = "failed";

/// The directory.
#[derive(Clone, Debug)]
pub(crate) struct Meeting {
    directory: PathBuf,
}

impl Meeting {
    pub(crate) fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    /// The place of `name`, for sockets and pipes.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Leaves a note, which appears whole.
    pub(crate) fn tell(&self, name: &str, text: &str) -> Result<(), BenchError> {
        let (draft, note) = (self.path(&format!("{name}.draft")), self.path(name));
        fs::write(&draft, text)
            .and_then(|()| fs::rename(&draft, note))
            .map_err(BenchError::io("cannot leave a note for the other side"))
    }

    /// Waits for a note of the other side's.
    pub(crate) fn hear(&self, name: &str) -> Result<String, BenchError> {
        self.hear_within(name, PATIENCE)
    }

    /// Whether a note is there.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.path(name).exists()
    }

    /// Tells the other side that this one has finished, and waits until it has, too.
    pub(crate) fn part(&self, side: Side) -> Result<(), BenchError> {
        self.tell(parting(side), "")?;
        self.hear_within(parting(side.other()), PART_MAX).map(|_| ())
    }

    /// Says why this side cannot go on, unless the other one has said so before, or is the reason.
    pub(crate) fn fail(&self, error: &BenchError) {
        if !self.has(FAILED) && !matches!(error, BenchError::Peer(_)) {
            // Without the note the other side finds out later, and the reason is less clear.
            let _ = self.tell(FAILED, &error.to_string());
        }
    }

    /// What the first side that failed said.
    pub(crate) fn failure(&self) -> Option<String> {
        fs::read_to_string(self.path(FAILED)).ok()
    }

    fn hear_within(&self, name: &str, patience: Duration) -> Result<String, BenchError> {
        let start = Instant::now();
        while start.elapsed() < patience && !self.has(FAILED) {
            if self.has(name) {
                return fs::read_to_string(self.path(name))
                    .map_err(BenchError::io("cannot read the other side's note"));
            }
            std::thread::sleep(LOOK);
        }
        Err(BenchError::Peer(patience))
    }
}

/// The note of a side that has finished.
pub(crate) fn parting(side: Side) -> &'static str {
    match side {
        Side::Initiator => "initiator-finished",
        Side::Responder => "responder-finished",
    }
}
