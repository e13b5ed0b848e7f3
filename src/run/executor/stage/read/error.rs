//! [`ReadError`]: why a source could not be read.

use std::io;
use std::path::{Path, PathBuf};

use arrow::datatypes::DataType;

use crate::batch::ConformError;
use crate::format::{NotEncoded, Problem, column_type};
use crate::run::publish::PublishError;
use crate::run::store::StoreError;

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("there is no file {}", path.display())]
    Missing { path: PathBuf },
    #[error("no file matches {}", pattern.display())]
    NoMatch { pattern: PathBuf },
    #[error("{} is not a valid pattern: {message}", pattern.display())]
    Pattern { pattern: PathBuf, message: String },
    #[error("the folder {} has no file{}", path.display(), ending(extensions))]
    EmptyFolder { path: PathBuf, extensions: &'static [&'static str] },
    #[error("{} was there when the run started and is gone", path.display())]
    Vanished { path: PathBuf },
    #[error("{} was changed while it was read; run it again when nobody writes to it", path.display())]
    Changed { path: PathBuf },
    #[error("{} cannot be read: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    /// `row` is 1-based and does not count the header.
    #[error("{}, row {row}: {problem}{}", path.display(), advice(problem))]
    Record { path: PathBuf, row: u64, problem: Problem },
    #[error("{}: {problem}", path.display())]
    Columns { path: PathBuf, problem: Problem },
    #[error("{}, in the header: {problem}", path.display())]
    Header { path: PathBuf, problem: Problem },
    /// The rows of the batch that does not fit; the first may be of an earlier file.
    #[error("{} has no folder `{column}=…` in its path, which `partitions` asks for", path.display())]
    NoPartition { path: PathBuf, column: String },
    #[error("{} has no folder `column=value` in its path, and `partitions` asks for some", path.display())]
    NoPartitions { path: PathBuf },
    #[error("{}: the folder of `{column}` has the value `{value}`, which is no {}", path.display(), type_word(data_type))]
    PartitionValue { path: PathBuf, column: String, value: String, data_type: DataType },
    #[error("{} has a column `{column}` of its own, and `partitions` or `origin` would add one of this name", path.display())]
    Taken { path: PathBuf, column: String },
    #[error("{}, row {row} or after it: {source}; declare the column in `schema:`", path.display())]
    Conform { path: PathBuf, row: u64, source: ConformError },
    #[error("{}: {source}", path.display())]
    Encoding { path: PathBuf, source: NotEncoded },
    #[error("{} is larger than a batch may be ({limit} bytes); give the stage a larger `batch: {{ bytes: … }}`", path.display())]
    LargerThanBatch { path: PathBuf, limit: usize },
    #[error("the path {} is not valid UTF-8, and cannot be the value of a column", path.display())]
    PathNotText { path: PathBuf },
    #[error("{}: {message}", path.display())]
    TooMuchMemory { path: PathBuf, message: String },
    #[error("{} ends too early: the compressed data is cut off", path.display())]
    Truncated { path: PathBuf },
    #[error("{} is damaged or is not what its name says: {message}", path.display())]
    Corrupt { path: PathBuf, message: String },
    #[error("{} is not a regular file, and Parquet can only be read from one", path.display())]
    NotRegular { path: PathBuf },
    #[error("{}: {source}", path.display())]
    Store { path: PathBuf, source: StoreError },
    /// The file in the state folder that tells what was read before.
    #[error(transparent)]
    Known(#[from] PublishError),
    #[error("reading was cancelled")]
    Cancelled,
}

impl ReadError {
    /// Of what lies in a store under a URL.
    pub(super) fn store(url: &Path, source: StoreError) -> Self {
        let path = url.to_owned();
        match source {
            StoreError::Interrupted => Self::Cancelled,
            StoreError::Gone => Self::Vanished { path },
            StoreError::Replaced => Self::Changed { path },
            source => Self::Store { path, source },
        }
    }

    /// The error of a reader that stood in this row, which may be where the bytes are that it tells of.
    pub(super) fn in_row(self, row: u64) -> Self {
        match self {
            Self::Encoding { path, source } => Self::Record { path, row, problem: Problem::NotEncoded(source) },
            other => other,
        }
    }
}

fn type_word(data_type: &DataType) -> String {
    column_type::word(data_type).unwrap_or_else(|| data_type.to_string())
}

fn ending(extensions: &[&str]) -> String {
    if extensions.is_empty() { String::new() } else { format!(" whose name ends in .{}", extensions.join(" or .")) }
}

fn advice(problem: &Problem) -> String {
    problem.column_to_declare().map_or_else(String::new, |column| format!("; declare `{column}` in `schema:`"))
}
