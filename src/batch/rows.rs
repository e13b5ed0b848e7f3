//! [`Rows`]: the rows of a batch in memory, in one of two forms.

use std::ops::Range;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;

use super::conform::{Columns, ConformError};
use super::text::{Text, line_schema};
use super::value_bytes::value_bytes;

/// Rows as columns, or as the lines of text that they are. Both say the same of the same rows, and become the same columns.
#[derive(Clone, Debug)]
pub enum Rows {
    Columns(RecordBatch),
    Lines(Text),
}

impl From<RecordBatch> for Rows {
    fn from(records: RecordBatch) -> Self {
        Self::Columns(records)
    }
}

impl From<Text> for Rows {
    fn from(text: Text) -> Self {
        Self::Lines(text)
    }
}

impl Rows {
    pub fn len(&self) -> usize {
        match self {
            Self::Columns(records) => records.num_rows(),
            Self::Lines(text) => text.lines(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn schema(&self) -> SchemaRef {
        match self {
            Self::Columns(records) => records.schema(),
            Self::Lines(_) => line_schema(),
        }
    }

    /// The rows as columns.
    ///
    /// # Errors
    /// If they are more text than a column can hold.
    pub fn records(&self) -> Result<RecordBatch, ArrowError> {
        match self {
            Self::Columns(records) => Ok(records.clone()),
            Self::Lines(text) => text.records(),
        }
    }

    /// The rows with the settled columns. Lines stay lines if those are theirs.
    ///
    /// # Errors
    /// If they do not fit.
    pub fn conform(self, columns: &mut Columns) -> Result<Self, ConformError> {
        if let Self::Lines(_) = &self {
            let conformed = columns.conform(RecordBatch::new_empty(line_schema()))?;
            if *conformed.schema_ref() == line_schema() {
                return Ok(self);
            }
        }
        let records = self.records().map_err(|_| ConformError::TooLong)?;
        Ok(Self::Columns(columns.conform(records)?))
    }

    /// Bytes of the values in `range`, as [`value_bytes`] counts them.
    pub fn value_bytes(&self, range: Range<usize>) -> usize {
        match self {
            Self::Columns(records) => value_bytes(records, range),
            Self::Lines(text) => text.value_bytes(range),
        }
    }

    /// The rows in `range`, without a copy.
    pub fn slice(&self, range: Range<usize>) -> Self {
        match self {
            Self::Columns(records) => Self::Columns(records.slice(range.start, range.len())),
            Self::Lines(text) => Self::Lines(text.slice(range)),
        }
    }

    /// How many of the rows in `range` may be taken from its start so that their values count no more than `bytes`.
    pub fn fitting(&self, range: Range<usize>, bytes: usize) -> usize {
        let records = match self {
            Self::Columns(records) => records,
            Self::Lines(text) => return text.fitting(range, bytes),
        };
        if value_bytes(records, range.clone()) <= bytes {
            return range.len();
        }
        let (mut fits, mut exceeds) = (0, range.len());
        while fits + 1 < exceeds {
            let middle = usize::midpoint(fits, exceeds);
            if value_bytes(records, range.start..range.start + middle) <= bytes {
                fits = middle;
            } else {
                exceeds = middle;
            }
        }
        fits
    }

    /// Joins rows with the columns of `schema`. Lines are joined without a copy.
    ///
    /// # Errors
    /// If they are more text than a column can hold.
    pub fn join(schema: &SchemaRef, pieces: Vec<Self>) -> Result<Self, ArrowError> {
        let is_lines = |piece: &Self| matches!(piece, Self::Lines(_));
        if !pieces.is_empty() && pieces.iter().all(is_lines) {
            let mut joined = Text::default();
            for piece in pieces {
                if let Self::Lines(text) = piece {
                    joined.extend(text);
                }
            }
            return Ok(Self::Lines(joined));
        }
        let records = pieces.iter().map(Self::records).collect::<Result<Vec<_>, _>>()?;
        Ok(Self::Columns(concat_batches(schema, &records)?))
    }
}
