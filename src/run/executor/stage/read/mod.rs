//! [`Source`]: the files of a `read` stage as a sequence of batches with their origin.
//!
//! Reading is lazy: a batch is read when it is asked for. Of pipes no more than one buffer is read beyond it; files are read and
//! decoded a few batches ahead, on other threads, and their batches and errors come in order all the same. Text is handled in
//! `text.rs` and `lines.rs`, formats that carry their own types in `columnar.rs`; `input.rs` is where bytes come from.

mod added;
mod binary;
mod columnar;
mod columns;
mod error;
mod file_to_read;
mod input;
mod known_files;
mod lines;
mod malformed;
mod parquet_file;
mod partitions;
mod paths;
mod row_groups;
mod sizes;
#[cfg(test)]
mod tests;
mod text;
mod version;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::datatypes::SchemaRef;

pub use self::columns::{columns, unseen};
pub use self::error::ReadError;
pub use self::input::Canceller;
pub use self::known_files::{KnownFiles, NewFiles};
pub use self::malformed::MalformedRows;
pub use self::row_groups::Consumer;
pub use self::sizes::file_sizes;

use self::added::Added;
use self::binary::BinarySource;
use self::columnar::ColumnarSource;
use self::file_to_read::{FileToRead, Target};
use self::lines::LineSource;
use self::paths::Found;
use self::text::TextSource;
use crate::batch::{Batch, FileTable, line_schema};
use crate::format::{Compression, Format};
use crate::plan::{Cut, Read};
use crate::run::store::{Interrupt, Objects};

/// Reads the files of one `read` stage, in order. Used from one thread; [`Canceller`] works from any.
pub struct Source {
    batches: Batches,
    added: Option<Added>,
    /// Batches that were cut again when something was added to their rows.
    ready: VecDeque<Batch>,
    /// Whether only the columns are wanted of the files, as no run needs their rows any more.
    has_none: bool,
    canceller: Canceller,
    known_size: Option<u64>,
    bytes_read: Arc<AtomicU64>,
}

/// What a source of a run is given.
pub struct Opening {
    /// Objects are fetched to this folder.
    pub scratch: PathBuf,
    /// Files that are left out.
    pub known: Option<KnownFiles>,
    /// Ends the source from another thread, also while it waits for a store.
    pub canceller: Canceller,
}

enum Batches {
    Text(Box<TextSource>),
    Lines(Box<LineSource>),
    Columnar(Box<ColumnarSource>),
    Binary(Box<BinarySource>),
}

/// The files of this machine that a source would read now; none if it cannot be told.
pub fn files(read: &Read) -> Vec<PathBuf> {
    let mut local = read.clone();
    local.paths.retain(|path| path.local().is_some());
    let found = paths::expand(&local, &Interrupt::default());
    found.unwrap_or_default().into_iter().map(|found| found.name).collect()
}

impl Source {
    /// Finds the files. They are opened, and registered in `files`, one by one when it is their turn. `as_columns`: whether lines
    /// are wanted as columns.
    pub fn open(read: &Read, cut: Cut, as_columns: bool, files: &FileTable) -> Result<Self, ReadError> {
        debug_assert!(!read.has_store(), "nobody waits for a store here");
        let all = Opening { scratch: PathBuf::new(), known: None, canceller: Canceller::new()? };
        Ok(Self::open_with(read, cut, as_columns, files, all)?.0)
    }

    /// As [`Source::open`], in a run.
    pub fn open_with(
        read: &Read,
        cut: Cut,
        as_columns: bool,
        files: &FileTable,
        opening: Opening,
    ) -> Result<(Self, Option<NewFiles>), ReadError> {
        let Opening { scratch, known, canceller } = opening;
        let mut all = paths::expand(read, canceller.interrupt())?;
        let last = all.last().cloned();
        let new = known.map(|known| known.leave_out(&mut all)).transpose()?;
        let has_none = new.is_some() && all.is_empty();
        if has_none {
            // It tells the columns.
            all.extend(last);
        }
        let paths: Vec<PathBuf> = all.iter().map(|found| found.name.clone()).collect();
        let added = Added::new(read, cut, &paths, files)?;
        let known_size = if read.stdin { None } else { all.iter().map(Found::size).sum() };
        let compression = |path: &Path| match read.format {
            // Bytes stay as they are.
            Format::Binary | Format::Bytes => read.compression.unwrap_or(Compression::None),
            _ => read.compression.unwrap_or_else(|| Compression::of(path)),
        };
        let encoding = read.encoding;
        let objects = all.iter().filter_map(|found| found.object.clone()).collect();
        let objects = Objects::new(objects, scratch);
        let mut fetched = objects.each();
        let mut found: Vec<_> = all
            .into_iter()
            .map(|Found { name, object }| FileToRead {
                compression: compression(&name),
                encoding,
                target: match object.and_then(|_| fetched.next()) {
                    Some(fetched) => Target::Object(name, fetched),
                    None => Target::Path(name),
                },
            })
            .collect();
        if read.stdin {
            let compression = read.compression.unwrap_or(Compression::None);
            found.push(FileToRead { compression, encoding, target: Target::Stdin });
        }
        let bytes_read = Arc::new(AtomicU64::new(0));
        let (table, cancel, count) = (files.clone(), canceller.clone(), Arc::clone(&bytes_read));
        let as_columns = as_columns || added.is_some();
        let of_files;
        let read = match &added {
            None => read,
            Some(added) => {
                of_files = Read { used: added.used_of_files(), ..read.clone() };
                &of_files
            }
        };
        let is_known = known_size.is_some();
        let batches = if read.format == Format::Lines {
            Batches::Lines(Box::new(LineSource::new(cut, as_columns, found, is_known, table, cancel, count)))
        } else if matches!(read.format, Format::Binary | Format::Bytes) {
            Batches::Binary(Box::new(BinarySource::new(read, cut, found, table, cancel, count)))
        } else if read.format.is_text() {
            Batches::Text(Box::new(TextSource::new(read, cut, found, is_known, table, cancel, count)))
        } else {
            let mut columnar = ColumnarSource::new(read, cut, found, table, cancel, count);
            if let Some(added) = &added {
                columnar.know_added(added.fields().to_vec(), added.partitions().cloned());
            }
            Batches::Columnar(Box::new(columnar))
        };
        let source = Self { batches, added, ready: VecDeque::new(), has_none, canceller, known_size, bytes_read };
        Ok((source, new))
    }

    /// Says who reads the source, if all who do are queries that read nothing else: rows that none of them needs may be left out.
    #[must_use]
    pub fn serving(mut self, consumers: Vec<Consumer>) -> Self {
        if let Batches::Columnar(columnar) = &mut self.batches {
            columnar.serve(consumers);
        }
        self
    }

    /// Reads the next batch; `None` after the last. Blocks while a pipe is silent, until it is cancelled.
    ///
    /// A batch ends by `cut` alone, except that rows from a pipe are passed on when nothing has come for 100 ms.
    pub fn next_batch(&mut self) -> Result<Option<Batch>, ReadError> {
        if self.canceller.is_cancelled() {
            return Err(ReadError::Cancelled);
        }
        if let Some(batch) = self.ready.pop_front() {
            return Ok(Some(batch));
        }
        if self.has_none {
            self.look()?;
            return Ok(None);
        }
        let batch = match &mut self.batches {
            Batches::Text(text) => text.next_batch(),
            Batches::Lines(lines) => lines.next_batch(),
            Batches::Columnar(columnar) => columnar.next_batch(),
            Batches::Binary(binary) => binary.next_batch(),
        }?;
        match (&mut self.added, batch) {
            (Some(added), Some(batch)) => {
                self.ready = added.add(&batch)?;
                Ok(self.ready.pop_front())
            }
            (_, batch) => Ok(batch),
        }
    }

    /// The records that were left out of what was read for the last batch. That has no rows if there were no others.
    pub fn take_malformed(&mut self) -> Option<MalformedRows> {
        match &mut self.batches {
            Batches::Text(text) => text.take_malformed(),
            Batches::Lines(_) | Batches::Columnar(_) | Batches::Binary(_) => None,
        }
    }

    /// Reads no more than decides the columns of all batches, and tells them.
    fn look(&mut self) -> Result<Option<SchemaRef>, ReadError> {
        match &mut self.batches {
            Batches::Text(text) => text.look()?,
            Batches::Lines(_) | Batches::Binary(_) => {}
            Batches::Columnar(columnar) => columnar.look()?,
        }
        Ok(self.schema())
    }

    /// A handle that ends this source from another thread.
    pub fn canceller(&self) -> Canceller {
        self.canceller.clone()
    }

    /// The columns as they are known so far, also where there are no rows; `None` before the first batch has been asked
    /// for, and for files that do not say.
    pub fn schema(&self) -> Option<SchemaRef> {
        let schema = match &self.batches {
            Batches::Text(text) => text.schema(),
            Batches::Lines(_) => Some(line_schema()),
            Batches::Columnar(columnar) => columnar.schema(),
            Batches::Binary(binary) => Some(binary.schema()),
        };
        let schema = schema.filter(|schema| !schema.fields().is_empty());
        schema.map(|schema| self.added.as_ref().map_or_else(|| Arc::clone(&schema), |added| added.schema(&schema)))
    }

    /// Bytes of all files together; `None` if one of them is a pipe.
    pub fn known_size(&self) -> Option<u64> {
        self.known_size
    }

    /// Bytes of files that have been read so far, before decompression.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::Relaxed)
    }
}
