//! [`SummaryFile`]: where `run --summary` puts what the run came to.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf, absolute};

use rustix::fs::OFlags;
use serde_json::Value;

use crate::plan::{Location, Plan, StageKind};
use crate::secrets::masked;

/// A file that is empty until the run has ended, so that nobody takes what an earlier run has left for it.
pub struct SummaryFile {
    path: PathBuf,
    file: File,
}

impl SummaryFile {
    /// A file that is there is taken only if it is empty or a summary: nothing else is to be lost by a slip.
    ///
    /// # Errors
    /// If it cannot be written, or is not to be: better before the run than after it.
    pub fn create(path: &Path, plan: &Plan) -> io::Result<Self> {
        let failed = |error: &io::Error| with_path(error, path);
        let refused = |why: &str| failed(&io::Error::other(why));
        let place = absolute(path)?;
        let is_sink = |kind: &StageKind| matches!(kind, StageKind::Write(write) if write.published().and_then(Location::local).is_some_and(|sink| place.starts_with(sink)));
        if plan.stages.iter().any(|stage| is_sink(&stage.kind)) {
            return Err(refused("a sink of the pipeline writes there"));
        }
        if path.is_file() && !is_summary(path) {
            return Err(refused("there is a file, and it is no summary; remove it, or name another one"));
        }
        // A pipe that nobody reads is an error, and nothing to wait for.
        let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).expect("a flag");
        let file = File::options().write(true).create(true).truncate(false).custom_flags(nonblocking).open(path);
        let file = file.map_err(|error| failed(&error))?;
        if file.metadata().is_ok_and(|metadata| metadata.is_file()) {
            file.set_len(0).map_err(|error| failed(&error))?;
        }
        Ok(Self { path: path.to_owned(), file })
    }

    /// # Errors
    /// If it cannot be written.
    pub fn write(mut self, summary: &str) -> io::Result<()> {
        self.file.write_all(masked(summary).as_bytes()).map_err(|error| with_path(&error, &self.path))
    }
}

/// Writes the summary into the run's own folder.
///
/// # Errors
/// If it cannot be written.
pub fn write_own(path: &Path, summary: &str) -> io::Result<()> {
    std::fs::write(path, masked(summary).as_bytes()).map_err(|error| with_path(&error, path))
}

/// Adds `text` to the end of a file, which need not be there.
///
/// # Errors
/// If it cannot be written.
pub fn append(path: &Path, text: &str) -> io::Result<()> {
    let file = File::options().append(true).create(true).open(path);
    file.and_then(|mut file| file.write_all(masked(text).as_bytes()))
        .map_err(|error| io::Error::new(error.kind(), format!("`{}` cannot be written: {error}", path.display())))
}

fn is_summary(path: &Path) -> bool {
    let Ok(bytes) = std::fs::read(path) else { return false };
    let parsed = serde_json::from_slice::<Value>(&bytes);
    bytes.is_empty() || parsed.is_ok_and(|it| it.get("v").is_some() && it.get("exit_code").is_some())
}

fn with_path(error: &io::Error, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("the summary cannot be written to `{}`: {error}", path.display()))
}
