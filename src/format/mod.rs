//! Files and byte streams to Arrow batches and back. Knows nothing of pipelines, runs or processes.
//!
//! Text comes in as bytes, is split into [`Records`] by a [`Splitter`], and becomes a batch in a [`TextDecoder`], which
//! also infers the types of columns. Lines are rows as they are: a [`LineReader`] finds them. Batches go out through a [`FileEncoder`]. A command's standard input and output, which are whole in
//! memory, are [`encode`]d and [`decode`]d at once.

mod compression;
mod csv;
mod deferred;
mod dialect;
mod dictionary_choice;
mod encoding;
mod error;
mod file_encoder;
pub mod hive;
mod inference;
mod json_splitter;
mod jsonl;
mod line_reader;
mod lines;
mod malformed;
mod memory;
mod parquet_file;
mod raw_bytes;
mod records;
mod run_ahead;
mod splitter;
mod strand;
#[cfg(test)]
mod tests;
mod text_decoder;
mod text_value;
mod xz;

use std::path::Path;

pub use compression::{BlockWriter, decompress, pack};
pub use deferred::{Deferred, in_the_making};
pub use dialect::{Dialect, Nulls};
pub use encoding::{Encoding, NotEncoded, transcode};
pub use error::{EncodeError, Problem, RecordError};
pub use file_encoder::{EncodeMode, FileEncoder};
pub use line_reader::LineReader;
pub use malformed::{Malformed, RecordText, Sifted};
pub use memory::{DecodeError, decode, encode};
pub use raw_bytes::{BYTES, MOST_BYTES, bytes_schema, has_bytes};
pub use records::{Limit, Records};
pub use run_ahead::RunAhead;
pub use splitter::Splitter;
pub use text_decoder::{SAMPLE_BYTES, SAMPLE_ROWS, SampleError, TextDecoder, declare, headerless};
pub use text_value::parse_cells;

pub use crate::batch::column_type;

/// How rows are written in a file or on a pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    Csv,
    Tsv,
    /// One object per line.
    Jsonl,
    /// An array of objects; where it is read, also objects one after the other.
    Json,
    Parquet,
    /// Arrow IPC: the file format in files, the stream format on pipes.
    Arrow,
    /// One string column named `line`.
    Lines,
    /// A row for each file, as it is. Only read.
    Binary,
    /// One value: all that a process writes or is given, as it is. Only on pipes.
    Bytes,
}

impl Format {
    /// The word for it in a pipeline file.
    pub fn word(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Tsv => "tsv",
            Self::Jsonl => "jsonl",
            Self::Json => "json",
            Self::Parquet => "parquet",
            Self::Arrow => "arrow",
            Self::Lines => "lines",
            Self::Binary => "binary",
            Self::Bytes => "bytes",
        }
    }

    /// Endings of file names, without the ending of a compression; none if any file will do.
    pub fn extensions(self) -> &'static [&'static str] {
        match self {
            Self::Csv => &["csv"],
            Self::Tsv => &["tsv"],
            Self::Jsonl => &["jsonl", "ndjson"],
            Self::Json => &["json"],
            Self::Parquet => &["parquet", "pq"],
            Self::Arrow => &["arrow", "arrows", "feather", "ipc"],
            Self::Lines => &["txt", "log", "lines"],
            Self::Binary | Self::Bytes => &[],
        }
    }

    /// Returns whether files of this format are text that is split into records.
    pub fn is_text(self) -> bool {
        matches!(self, Self::Csv | Self::Tsv | Self::Jsonl | Self::Json | Self::Lines)
    }

    /// Returns whether files of this format are text of which single records may be malformed. Any line is one.
    pub fn has_records(self) -> bool {
        self.is_text() && self != Self::Lines
    }

    /// Returns whether the name of `path` has one of the format's endings, before the ending of a compression if any.
    pub fn names(self, path: &Path) -> bool {
        if self.extensions().is_empty() {
            return true;
        }
        let bare = match Compression::of(path) {
            Compression::None => path.to_owned(),
            _ => path.with_extension(""),
        };
        bare.extension().is_some_and(|extension| self.extensions().iter().any(|known| extension == *known))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compression {
    None,
    Gzip,
    Zstd,
    Bzip2,
    Xz,
    /// Of the pages of Parquet files, never of whole files.
    Snappy,
}

impl Compression {
    /// The compression that the ending of a file's name says.
    pub fn of(path: &Path) -> Self {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("gz") => Self::Gzip,
            Some("zst") => Self::Zstd,
            Some("bz2") => Self::Bzip2,
            Some("xz") => Self::Xz,
            _ => Self::None,
        }
    }

    /// What the name of a file that is compressed so ends in.
    pub fn ending(self) -> &'static str {
        match self {
            Self::Gzip => ".gz",
            Self::Zstd => ".zst",
            Self::Bzip2 => ".bz2",
            Self::Xz => ".xz",
            Self::None | Self::Snappy => "",
        }
    }

    /// Bytes of memory that it takes to unpack a file, where they are worth counting.
    pub fn unpacking(self) -> u64 {
        match self {
            Self::Bzip2 => 4 << 20,
            Self::Xz => xz::MEMORY,
            Self::None | Self::Gzip | Self::Zstd | Self::Snappy => 0,
        }
    }

    /// Bytes of memory that it takes to pack a file, where they are worth counting.
    pub fn packing(self) -> u64 {
        match self {
            Self::Bzip2 => 8 << 20,
            Self::Xz => 96 << 20,
            Self::None | Self::Gzip | Self::Zstd | Self::Snappy => 0,
        }
    }
}
