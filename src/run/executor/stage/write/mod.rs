//! [`Sink`]: the batches of a `write` stage into a staged file or folder, or to standard output.

mod existing;
mod output;
mod parts;
mod spool;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, ErrorKind, Write as _};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};

use self::existing::Existing;
use self::output::Output;
use self::parts::{Limits, Parts};
use self::spool::Spool;
use crate::batch::{Columns, ConformError, Rows};
use crate::format::{EncodeError, EncodeMode, FileEncoder, pack};
use crate::plan::{Folder, Location, StoreUrl, Write, WriteMode, WriteTarget};
use crate::run::executor::shared_memory::SharedMemory;
use crate::run::fail_point::reach;
use crate::run::publish::{ObjectMode, PublishError, StagedObjects, Staging, sync_folders};

/// Writes one output. What a file holds depends on the rows alone, not on how they were cut into batches.
pub struct Sink {
    write: Write,
    columns: Columns,
    state: State,
    /// Where the files lie until they are published, if it writes a folder of this machine.
    folder: Option<PathBuf>,
    /// What is to be uploaded, if it writes to a store.
    objects: Option<StagedObjects>,
    rows: u64,
}

enum State {
    /// Nothing is written yet: no batch has come, or the format needs types that no value has decided.
    Waiting {
        place: Place,
        spool: Box<Spool>,
    },
    Writing(Body),
    /// An error has ended it.
    Failed,
}

enum Place {
    /// A file, whose rows may be to come behind those of one that is there.
    File(Output, Option<Existing>),
    Folder(PathBuf),
}

enum Body {
    File(Box<FileEncoder<Output>>),
    /// As a file, with the columns at these places.
    Chosen(Box<FileEncoder<Output>>, Vec<usize>),
    Folder(Box<Parts>),
}

impl Body {
    fn write(&mut self, rows: &Rows) -> Result<(), EncodeError> {
        match (self, rows) {
            (Self::File(encoder), Rows::Columns(records)) => encoder.write(records),
            (Self::File(encoder), Rows::Lines(text)) => encoder.write_lines(text),
            (Self::Chosen(encoder, places), rows) => encoder.write(&rows.records()?.project(places)?),
            (Self::Folder(parts), rows) => parts.write(rows.records()?),
        }
    }
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
    /// Stages the output; nothing is written before the first batch.
    pub fn create(write: &Write, staging: &mut Staging) -> Result<Self, WriteError> {
        let path = shown(&write.target);
        let mut existing = None;
        let file = match &write.target {
            WriteTarget::File(Location::Store(url)) => return Self::to_store(write, url, false, staging),
            WriteTarget::Folder(Folder { path: Location::Store(url), .. }) => {
                return Self::to_store(write, url, true, staging);
            }
            WriteTarget::File(Location::Local(target)) => match write.mode {
                WriteMode::New => staging.stage_new(target).map_err(publish_error)?.file,
                WriteMode::Overwrite => staging.stage(target).map_err(publish_error)?.file,
                WriteMode::Append => {
                    let found = Existing::find(target, write.compression);
                    existing = found.map_err(|source| WriteError::Unwritable { path, source })?;
                    let seen = existing.as_ref().map(|existing| existing.seen);
                    staging.stage_behind(target, seen).map_err(publish_error)?.file
                }
            },
            WriteTarget::Folder(Folder { path: Location::Local(folder), .. }) => {
                let staged = match write.mode {
                    WriteMode::New => staging.stage_new_folder(folder),
                    WriteMode::Overwrite => staging.stage_folder(folder),
                    WriteMode::Append => staging.stage_parts(folder),
                };
                let folder = staged.map_err(publish_error)?;
                let sink = Self::new(write, Place::Folder(folder.clone()), staging);
                return Ok(Self { folder: Some(folder), ..sink });
            }
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
        let existing = existing.filter(|existing| !existing.is_empty());
        Ok(Self::new(write, Place::File(Output::new(file), existing), staging))
    }

    fn new(write: &Write, place: Place, staging: &Staging) -> Self {
        let spool = Box::new(Spool::new(staging.folder()));
        let state = State::Waiting { place, spool };
        Self { write: write.clone(), columns: Columns::from_first(), state, folder: None, objects: None, rows: 0 }
    }

    /// It is written to the disk of this machine first.
    fn to_store(write: &Write, url: &StoreUrl, is_folder: bool, staging: &mut Staging) -> Result<Self, WriteError> {
        let staged = staging.stage_objects(url, is_folder, object_mode(write.mode)).map_err(publish_error)?;
        let local = staged.local();
        let place = if is_folder {
            Place::Folder(local.to_owned())
        } else {
            let file = File::create(local).map_err(|source| io_error(local, &write.target, source))?;
            Place::File(Output::new(file), None)
        };
        let sink = Self::new(write, place, staging);
        Ok(Self { objects: Some(staged), ..sink })
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
        let (bytes, file) = finished.map_err(|source| self.failure(source))?;
        if let Some(folder) = &self.folder {
            sync_folders(folder).map_err(publish_error)?;
        }
        if let Some(objects) = &self.objects {
            objects.upload().map_err(publish_error)?;
        }
        reach("publish.sink_finished");
        let shared = match (&self.write.target, file) {
            (WriteTarget::Shared(name), Some(file)) => {
                Some(SharedMemory::new(name, file).map_err(|source| self.failure(source.into()))?)
            }
            _ => None,
        };
        Ok(Written { rows: self.rows, bytes, shared })
    }

    fn put(&mut self, rows: &Rows) -> Result<(), EncodeError> {
        let needs_types = self.needs_settled_types();
        if let State::Waiting { spool, .. } = &mut self.state
            && needs_types
            && !self.columns.is_settled()
        {
            return spool.push(&rows.records()?);
        }
        if rows.is_empty() && matches!(self.state, State::Waiting { .. }) && self.write.mode == WriteMode::Append {
            return Ok(());
        }
        let schema = self.columns.settled().expect("a batch has come");
        let mut body = self.start(&schema)?;
        body.write(rows)?;
        self.state = State::Writing(body);
        Ok(())
    }

    /// Text can say that a value is missing without saying of what type. But in a folder, rows are cut where types change.
    fn needs_settled_types(&self) -> bool {
        !self.write.format.is_text() || matches!(self.write.target, WriteTarget::Folder(_))
    }

    /// The bytes that were written, and the file if it is one.
    fn end(&mut self, schema_if_no_rows: Option<SchemaRef>) -> Result<(u64, Option<File>), EncodeError> {
        let schema = self.columns.settled().or(schema_if_no_rows);
        self.state = match std::mem::replace(&mut self.state, State::Failed) {
            // Where there is something already, nothing comes behind it.
            State::Waiting { place: Place::File(output, Some(_)), .. } if self.rows == 0 => {
                return Ok((0, Some(output.file)));
            }
            State::Waiting { place: Place::Folder(_), .. }
                if self.rows == 0 && self.write.mode == WriteMode::Append =>
            {
                return Ok((0, None));
            }
            state => state,
        };
        if schema.is_none()
            && let WriteTarget::Folder(Folder { partition_by, .. }) = &self.write.target
            && !partition_by.is_empty()
        {
            // Without rows there are no files, and of columns that are not known none is missing.
            return Ok((0, None));
        }
        let mut output = match self.start(&schema.unwrap_or_else(|| Arc::new(Schema::empty())))? {
            Body::Folder(parts) => return Ok((parts.finish()?, None)),
            Body::File(encoder) | Body::Chosen(encoder, _) => encoder.finish()?,
        };
        output.flush()?;
        if matches!(self.write.target, WriteTarget::File(Location::Local(_))) {
            output.file.sync_all()?;
        }
        Ok((output.bytes, Some(output.file)))
    }

    /// Takes the encoder out; if there is none yet, starts it and gives it what was held back. It has to be put back, so
    /// that a sink is `Failed` after an error.
    fn start(&mut self, schema: &SchemaRef) -> Result<Body, EncodeError> {
        match std::mem::replace(&mut self.state, State::Failed) {
            State::Writing(body) => Ok(body),
            State::Waiting { place, spool } => {
                let mut body = self.body(place, schema)?;
                let mut columns = self.columns.clone();
                spool.replay(|held| {
                    let held = columns.conform(held).expect("the columns were settled by these very batches");
                    body.write(&held.into())
                })?;
                Ok(body)
            }
            State::Failed => Err(EncodeError::Io(io::Error::other("the output has failed before"))),
        }
    }

    fn body(&self, place: Place, schema: &SchemaRef) -> Result<Body, EncodeError> {
        let mode = match self.write.target {
            WriteTarget::File(_) | WriteTarget::Folder(_) | WriteTarget::Nothing => EncodeMode::File,
            WriteTarget::Shared(_) => EncodeMode::Memory,
            WriteTarget::Stdout => EncodeMode::Stream,
        };
        let Write { format, header, compression, .. } = self.write;
        let encoder = |output: Output, header: bool, schema: &SchemaRef| {
            Ok::<_, EncodeError>(Box::new(FileEncoder::new(output, format, header, compression, schema, mode)?))
        };
        Ok(match (place, &self.write.target) {
            (Place::File(output, None), _) => Body::File(encoder(output, header, schema)?),
            (Place::File(mut output, Some(existing)), _) => {
                let look = existing.look(&self.write)?;
                if look.is_open {
                    output.write_all(&pack(b"\n", compression)?)?;
                }
                let Some(names) = look.header else { return Ok(Body::File(encoder(output, false, schema)?)) };
                let places = places_of(&names, schema)?;
                let chosen = Arc::new(schema.project(&places)?);
                Body::Chosen(encoder(output, false, &chosen)?, places)
            }
            (Place::Folder(folder), WriteTarget::Folder(Folder { partition_by, .. })) => {
                let limits = Limits::of(compression);
                Body::Folder(Box::new(Parts::new(folder, &self.write, partition_by, schema, limits)?))
            }
            (Place::Folder(_), _) => unreachable!("only folders are staged as such"),
        })
    }

    fn failure(&self, source: EncodeError) -> WriteError {
        let path = shown(&self.write.target);
        match source {
            EncodeError::Io(source) => {
                // What goes to a store lies on this machine until then.
                let place = self.objects.as_ref().map_or(path, |objects| objects.local().to_owned());
                io_error(&place, &self.write.target, source)
            }
            source => WriteError::Encode { path, source },
        }
    }
}

/// What that is for what is in a store.
pub fn object_mode(mode: WriteMode) -> ObjectMode {
    match mode {
        WriteMode::Overwrite => ObjectMode::Replace,
        WriteMode::New => ObjectMode::New,
        WriteMode::Append => ObjectMode::Further,
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
        WriteTarget::File(path) => path.as_path(),
        WriteTarget::Folder(folder) => folder.path.as_path(),
        WriteTarget::Stdout => PathBuf::from("<stdout>"),
        WriteTarget::Shared(name) => PathBuf::from(format!("<shared {name}>")),
        WriteTarget::Nothing => PathBuf::from("<nothing>"),
    }
}

/// The places of the columns of these names, which are all that there are.
fn places_of(names: &[String], schema: &SchemaRef) -> Result<Vec<usize>, EncodeError> {
    let places: Option<Vec<usize>> = names.iter().map(|name| schema.index_of(name).ok()).collect();
    places.filter(|places| places.len() == schema.fields().len()).ok_or_else(|| EncodeError::OtherHeader {
        header: names.to_vec(),
        columns: schema.fields().iter().map(|field| field.name().clone()).collect(),
    })
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
