//! What can be wrong with a record, and with a batch that is to be written.

use arrow::datatypes::DataType;
use arrow::error::ArrowError;

use super::column_type::name;
use super::encoding::NotEncoded;

/// A record that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct RecordError {
    /// Index of the record in its [`super::Records`].
    pub record: usize,
    pub problem: Problem,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("column `{column}` holds {value}, which is not {}", name(expected))]
    Misfit { column: String, value: String, expected: DataType },
    #[error("column `{column}` holds {} here and {} in an earlier row", name(found), name(settled))]
    Mixed { column: String, settled: DataType, found: DataType },
    #[error("column `{column}` does not appear in the rows from which the columns were inferred")]
    UnknownColumn { column: String },
    #[error("column `{column}` appears twice in one record")]
    DuplicateKey { column: String },
    #[error("the record has {}, but there {} {}", counted(*found, "field"), if *expected == 1 { "is" } else { "are" }, counted(*expected, "column"))]
    Ragged { found: usize, expected: usize },
    #[error("the text is not valid UTF-8")]
    NotUtf8,
    #[error(transparent)]
    NotEncoded(NotEncoded),
    #[error("{message}")]
    Json { message: String },
    #[error("a quoted field is not closed")]
    UnclosedQuote,
    #[error("the record is longer than {} MiB", limit >> 20)]
    TooLong { limit: usize },
    #[error("the header has the columns {}, but it should have {}", list(found), list(expected))]
    Header { expected: Vec<String>, found: Vec<String> },
    #[error("two columns have the name `{column}`")]
    DuplicateColumn { column: String },
    #[error("there is no column {}; the columns are {}", list(missing), list(found))]
    MissingColumn { missing: Vec<String>, found: Vec<String> },
    #[error("column `{column}` cannot be {} in this format", name(data_type))]
    Unsupported { column: String, data_type: DataType },
}

impl Problem {
    /// The column that would have to be declared for this record to be read, if that is the way out.
    pub fn column_to_declare(&self) -> Option<&str> {
        match self {
            Self::Misfit { column, .. } | Self::Mixed { column, .. } | Self::UnknownColumn { column } => Some(column),
            _ => None,
        }
    }
}

/// A batch that cannot be written in the format that was asked for.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    #[error("column `{column}` is {}, which {format} cannot hold", name(data_type))]
    Unsupported { column: String, data_type: DataType, format: &'static str },
    #[error("lines are written from one column or from a column named `line`; there are {}", list(columns))]
    NoLine { columns: Vec<String> },
    #[error("there are {rows} rows without any column, which this format cannot tell from none")]
    NoColumns { rows: usize },
    #[error("bytes are written from one column; there are {}", list(columns))]
    NotOneColumn { columns: Vec<String> },
    #[error("column `{column}` is {}, and only binary and text are bytes", name(data_type))]
    NotBytes { column: String, data_type: DataType },
    #[error("a value of column `{column}` is null, and has no bytes")]
    NullBytes { column: String },
    #[error("row {row} of the batch contains a line break, so that it would become more than one line")]
    LineBreak { row: usize },
    #[error("`partition_by` names `{column}`, which is no column of the rows that come; there are {}", list(found))]
    NoColumn { column: String, found: Vec<String> },
    #[error(
        "column `{column}` is {}, whose values cannot be the names of folders (`partition_by`); make text of it before",
        name(data_type)
    )]
    NoFolder { column: String, data_type: DataType },
    #[error("the file has {}, and the rows that are to be appended have {}", list(header), list(columns))]
    OtherHeader { header: Vec<String>, columns: Vec<String> },
    #[error("`partition_by` names all columns, and the files would have none")]
    NothingLeft,
    #[error(transparent)]
    Io(std::io::Error),
    #[error("the values cannot be written: {0}")]
    Arrow(ArrowError),
    #[error("the values cannot be written: {0}")]
    Parquet(parquet::errors::ParquetError),
}

impl From<std::io::Error> for EncodeError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<ArrowError> for EncodeError {
    fn from(error: ArrowError) -> Self {
        match error {
            ArrowError::IoError(_, source) => Self::Io(source),
            other => Self::Arrow(other),
        }
    }
}

impl From<parquet::errors::ParquetError> for EncodeError {
    fn from(error: parquet::errors::ParquetError) -> Self {
        use parquet::errors::ParquetError;
        match error {
            ParquetError::External(source) => match source.downcast::<std::io::Error>() {
                Ok(source) => Self::Io(*source),
                Err(source) => Self::Parquet(ParquetError::External(source)),
            },
            other => Self::Parquet(other),
        }
    }
}

fn counted(number: usize, word: &str) -> String {
    format!("{number} {word}{}", if number == 1 { "" } else { "s" })
}

fn list(names: &[String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
