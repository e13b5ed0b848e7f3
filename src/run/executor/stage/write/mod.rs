//! [`Sink`]: the batches of a `write` stage into a staged file, or to standard output.

mod spool;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, ErrorKind, Write as _};
use std::num::NonZeroU64;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use rustix::fs::{Advice, fadvise};

use self::spool::Spool;
use crate::batch::{Columns, ConformError, Rows};
use crate::format::{EncodeError, EncodeMode, FileEncoder, Format};
use crate::plan::{Write, WriteTarget};
use crate::run::executor::shared_memory::SharedMemory;
use crate::run::fail_point::reach;
use crate::run::publish::{PublishError, Staging};

/// Writes one output. What a file holds depends on the rows alone, not on how they were cut into batches.
pub struct Sink {
    write: Write,
    columns: Columns,
    state: State,
    rows: u64,
}

enum State {
    /// Nothing is written yet: no batch has come, or the format needs types that no value has decided.
    Waiting {
        output: Output,
        spool: Box<Spool>,
    },
    Writing(Box<FileEncoder<Output>>),
    /// An error has ended it.
    Failed,
}

/// What a finished sink has written.
#[derive(Debug)]
pub struct Written {
    pub rows: u64,
    /// Bytes of output, after compression.
    pub bytes: u64,
    /// Where it lies, if it is shared.
    pub shared: Option<SharedMemory>,
}

#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Nobody reads standard output any more. That ends a run quietly.
    #[error("standard output was closed")]
    Closed,
    #[error("no space is left for {}: {source}", path.display())]
    DiskFull { path: PathBuf, source: io::Error },
    #[error("{} cannot be written: {source}", path.display())]
    Unwritable { path: PathBuf, source: io::Error },
    #[error("{}: {source}", path.display())]
    Encode { path: PathBuf, source: EncodeError },
    #[error("{}: {source}; give the stage before it `returns:`, or declare the column in `schema:`", path.display())]
    Conform { path: PathBuf, source: ConformError },
    #[error(transparent)]
    Publish(PublishError),
    /// There must be no rows, and this is the first.
    #[error("{0}")]
    Unexpected(String),
    #[error("{} failed to be written before", path.display())]
    Failed { path: PathBuf },
}

impl Sink {
    /// Stages the output of a file; nothing is written before the first batch.
    pub fn create(write: &Write, staging: &mut Staging) -> Result<Self, WriteError> {
        let path = shown(&write.target);
        let file = match &write.target {
            WriteTarget::File(target) if write.is_new => staging.stage_new(target).map_err(publish_error)?.file,
            WriteTarget::File(target) => staging.stage(target).map_err(publish_error)?.file,
            WriteTarget::Stdout => {
                let stdout = io::stdout().as_fd().try_clone_to_owned();
                File::from(stdout.map_err(|source| WriteError::Unwritable { path: path.clone(), source })?)
            }
            WriteTarget::Nothing => File::options()
                .write(true)
                .open("/dev/null")
                .map_err(|source| WriteError::Unwritable { path: path.clone(), source })?,
            WriteTarget::Shared(_) => {
                let made = SharedMemory::file();
                made.map_err(|source| WriteError::Unwritable { path: path.clone(), source })?
            }
        };
        let output = Output { file, bytes: 0, begun: 0 };
        let spool = Box::new(Spool::new(staging.folder()));
        let state = State::Waiting { output, spool };
        Ok(Self { write: write.clone(), columns: Columns::from_first(), state, rows: 0 })
    }

    /// Writes a batch. Batches come in sequence order; to standard output they are passed on at once.
    pub fn write(&mut self, rows: impl Into<Rows>) -> Result<(), WriteError> {
        let path = shown(&self.write.target);
        let conformed = rows.into().conform(&mut self.columns);
        let rows = conformed.map_err(|source| WriteError::Conform { path: path.clone(), source })?;
        self.rows += rows.len() as u64;
        if self.write.target == WriteTarget::Nothing && !rows.is_empty() {
            let records = rows.records().map_err(|error| self.failure(error.into()))?;
            return Err(WriteError::Unexpected(repeated(&records)));
        }
        self.put(&rows).map_err(|source| self.failure(source))
    }

    /// Writes the end of the output and syncs it. `schema_if_no_rows` are the columns of an output to which no batch came.
    pub fn finish(mut self, schema_if_no_rows: Option<SchemaRef>) -> Result<Written, WriteError> {
        let finished = self.end(schema_if_no_rows);
        let output = finished.map_err(|source| self.failure(source))?;
        reach("publish.sink_finished");
        let (bytes, file) = (output.bytes, output.file);
        let shared = match &self.write.target {
            WriteTarget::Shared(name) => {
                Some(SharedMemory::new(name, file).map_err(|source| self.failure(source.into()))?)
            }
            WriteTarget::File(_) | WriteTarget::Stdout | WriteTarget::Nothing => None,
        };
        Ok(Written { rows: self.rows, bytes, shared })
    }

    fn put(&mut self, rows: &Rows) -> Result<(), EncodeError> {
        if let State::Waiting { spool, .. } = &mut self.state
            && self.write.format.needs_settled_types()
            && !self.columns.is_settled()
        {
            return spool.push(&rows.records()?);
        }
        let schema = self.columns.settled().expect("a batch has come");
        let mut encoder = self.start(&schema)?;
        match rows {
            Rows::Columns(records) => encoder.write(records)?,
            Rows::Lines(text) => encoder.write_lines(text)?,
        }
        self.state = State::Writing(encoder);
        Ok(())
    }

    fn end(&mut self, schema_if_no_rows: Option<SchemaRef>) -> Result<Output, EncodeError> {
        let schema = self.columns.settled().or(schema_if_no_rows).unwrap_or_else(|| Arc::new(Schema::empty()));
        let mut output = self.start(&schema)?.finish()?;
        output.flush()?;
        if matches!(self.write.target, WriteTarget::File(_)) {
            output.file.sync_all()?;
        }
        Ok(output)
    }

    /// Takes the encoder out; if there is none yet, starts it and gives it what was held back. It has to be put back, so
    /// that a sink is `Failed` after an error.
    fn start(&mut self, schema: &SchemaRef) -> Result<Box<FileEncoder<Output>>, EncodeError> {
        match std::mem::replace(&mut self.state, State::Failed) {
            State::Writing(encoder) => Ok(encoder),
            State::Waiting { output, spool } => {
                let mode = match self.write.target {
                    WriteTarget::File(_) | WriteTarget::Nothing => EncodeMode::File,
                    WriteTarget::Shared(_) => EncodeMode::Memory,
                    WriteTarget::Stdout => EncodeMode::Stream,
                };
                let Write { format, header, compression, .. } = self.write;
                let mut encoder = Box::new(FileEncoder::new(output, format, header, compression, schema, mode)?);
                let mut columns = self.columns.clone();
                spool.replay(|held| {
                    let held = columns.conform(held).expect("the columns were settled by these very batches");
                    encoder.write(&held)
                })?;
                Ok(encoder)
            }
            State::Failed => Err(EncodeError::Io(io::Error::other("the output has failed before"))),
        }
    }

    fn failure(&self, source: EncodeError) -> WriteError {
        let path = shown(&self.write.target);
        match source {
            EncodeError::Io(source) => io_error(&path, &self.write.target, source),
            source => WriteError::Encode { path, source },
        }
    }
}

impl Format {
    /// Text can say that a value is missing without saying of what type.
    fn needs_settled_types(self) -> bool {
        !self.is_text()
    }
}

fn io_error(path: &Path, target: &WriteTarget, source: io::Error) -> WriteError {
    let path = path.to_owned();
    match source.kind() {
        ErrorKind::BrokenPipe if *target == WriteTarget::Stdout => WriteError::Closed,
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => WriteError::DiskFull { path, source },
        _ => WriteError::Unwritable { path, source },
    }
}

fn publish_error(error: PublishError) -> WriteError {
    match error {
        // It may be the output, or what the run notes down about it in its own folder: another disk, perhaps.
        PublishError::Io { path, source, .. } if source.kind() == ErrorKind::StorageFull => {
            WriteError::DiskFull { path, source }
        }
        other => WriteError::Publish(other),
    }
}

fn shown(target: &WriteTarget) -> PathBuf {
    match target {
        WriteTarget::File(path) => path.clone(),
        WriteTarget::Stdout => PathBuf::from("<stdout>"),
        WriteTarget::Shared(name) => PathBuf::from(format!("<shared {name}>")),
        WriteTarget::Nothing => PathBuf::from("<nothing>"),
    }
}

/// In words, a key that is there several times: its columns, and then how often it is there.
fn repeated(records: &RecordBatch) -> String {
    let shown = |at: usize| {
        let formatter = ArrayFormatter::try_new(records.column(at), &FormatOptions::new().with_null("null"));
        formatter.map_or_else(|error| error.to_string(), |formatter| formatter.value(0).to_string())
    };
    let schema = records.schema();
    let count = records.num_columns() - 1;
    let key: Vec<String> = (0..count).map(|at| format!("`{}` = {}", schema.field(at).name(), shown(at))).collect();
    format!("{} rows have {}, and `expect` wants it to be unique", shown(count), key.join(" and "))
}

/// Bytes after which the system is asked to begin to write them to the disk. At the end all are waited for, and only then may they be
/// published.
const BEGIN_SYNC: u64 = 32 << 20;

/// A file and how much was written to it.
struct Output {
    file: File,
    bytes: u64,
    /// How much of it is on its way to the disk.
    begun: u64,
}

impl Output {
    fn begin_sync(&mut self) {
        let Some(length) = NonZeroU64::new(self.bytes - self.begun).filter(|length| length.get() >= BEGIN_SYNC) else {
            return;
        };
        // Linux begins to write what it is told is not needed, and drops from memory only what was written before. What is no file
        // cannot take the advice, and needs none.
        let _ = fadvise(&self.file, self.begun, Some(length), Advice::DontNeed);
        self.begun = self.bytes;
    }
}

impl io::Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.bytes += count as u64;
        self.begin_sync();
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
