//! [`Table`]: rows as values of JSON, so that what is written in a file and what came of a run can be held side by side.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use arrow::ipc::reader::FileReader;
use serde_json::{Map, Value as Json};

use crate::format::{self, Compression, DecodeError, EncodeError, Format};

/// Rows under the names and types of their columns.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    pub columns: Vec<(String, DataType)>,
    /// A value for each column.
    pub rows: Vec<Vec<Json>>,
}

/// Why there is no table.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    #[error(transparent)]
    Read(#[from] io::Error),
    #[error(transparent)]
    Arrow(#[from] ArrowError),
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error(transparent)]
    Encode(#[from] EncodeError),
    #[error("its rows are not what was written: {0}")]
    Json(#[from] serde_json::Error),
    #[error(
        "the format does not follow from the name: csv, tsv, jsonl, json, parquet, arrow or txt (with .gz, .zst, .bz2 or .xz) are known"
    )]
    Format,
}

/// The rows of a file that a run has written.
///
/// # Errors
/// If it cannot be read.
pub fn read_arrow(path: &Path) -> Result<RecordBatch, TableError> {
    let reader = FileReader::try_new(File::open(path)?, None)?;
    let schema = reader.schema();
    Ok(concat_batches(&schema, &reader.collect::<Result<Vec<_>, _>>()?)?)
}

/// The format that the name of a file says.
pub fn format_of(path: &Path) -> Option<Format> {
    let formats =
        [Format::Csv, Format::Tsv, Format::Jsonl, Format::Json, Format::Parquet, Format::Arrow, Format::Lines];
    formats.into_iter().find(|format| format.names(path))
}

impl Table {
    /// The rows of a batch.
    ///
    /// # Errors
    /// If they cannot be written as JSON.
    pub fn of(batch: &RecordBatch) -> Result<Self, TableError> {
        let fields = batch.schema();
        let columns: Vec<_> =
            fields.fields().iter().map(|field| (field.name().clone(), field.data_type().clone())).collect();
        let mut text = Vec::new();
        if batch.num_rows() > 0 && !columns.is_empty() {
            format::encode(Format::Jsonl, batch, &mut text)?;
        }
        let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let objects = lines.map(serde_json::from_slice).collect::<Result<Vec<Map<String, Json>>, _>>()?;
        let row = |mut object: Map<String, Json>| {
            columns.iter().map(|(name, _)| object.remove(name).unwrap_or(Json::Null)).collect()
        };
        Ok(Self { rows: objects.into_iter().map(row).collect(), columns })
    }

    /// Rows as they are written in a test file: the columns are those that any of them has.
    pub fn written(rows: &[Map<String, Json>]) -> Self {
        let mut columns: Vec<(String, DataType)> = Vec::new();
        for name in rows.iter().flat_map(Map::keys) {
            if columns.iter().all(|(known, _)| known != name) {
                columns.push((name.clone(), DataType::Null));
            }
        }
        let row = |row: &Map<String, Json>| {
            columns.iter().map(|(name, _)| row.get(name).cloned().unwrap_or(Json::Null)).collect()
        };
        Self { rows: rows.iter().map(row).collect(), columns }
    }

    /// The rows of any file that a pipeline can read. What is text gets the types `like`, where it fits them.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read(path: &Path, like: &Self) -> Result<Self, TableError> {
        let format = format_of(path).ok_or(TableError::Format)?;
        let mut bytes = Vec::new();
        match Compression::of(path) {
            Compression::None => bytes = fs::read(path)?,
            compression => drop(format::decompress(File::open(path)?, compression)?.read_to_end(&mut bytes)?),
        }
        let declared: Vec<_> =
            like.columns.iter().filter(|(_, data_type)| *data_type != DataType::Null).cloned().collect();
        let typed = if format.is_text() { format::decode(format, &bytes, &declared).ok() } else { None };
        let batch = match typed {
            Some(batch) => batch,
            None => format::decode(format, &bytes, &[])?,
        };
        Self::of(&batch)
    }

    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|(column, _)| column == name)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|(name, _)| name.as_str())
    }

    /// The columns with these names, in their order; nulls where there is none.
    #[must_use]
    pub fn select<'a>(&self, names: impl Iterator<Item = &'a str>) -> Self {
        let at: Vec<_> = names.map(|name| (name, self.column(name))).collect();
        let data_type = |at: Option<usize>| at.map_or(DataType::Null, |at| self.columns[at].1.clone());
        let value = |row: &Vec<Json>, at: Option<usize>| at.map_or(Json::Null, |at| row[at].clone());
        Self {
            columns: at.iter().map(|(name, at)| ((*name).to_owned(), data_type(*at))).collect(),
            rows: self.rows.iter().map(|row| at.iter().map(|(_, at)| value(row, *at)).collect()).collect(),
        }
    }
}

/// A value as a column of this type would have it, as JSON; `None` if it does not fit.
pub fn as_type(value: &Json, data_type: &DataType) -> Option<Json> {
    const NAME: &str = "value";
    let line = serde_json::to_vec(&Map::from_iter([(NAME.to_owned(), value.clone())])).ok()?;
    let batch = format::decode(Format::Jsonl, &line, &[(NAME.to_owned(), data_type.clone())]).ok()?;
    Table::of(&batch).ok()?.rows.pop()?.pop()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_value_is_written_as_its_column_would_have_it() {
        assert_eq!(as_type(&json!(12.5), &DataType::Decimal128(12, 2)), Some(json!("12.50")));
        assert_eq!(as_type(&json!("2024-02-29"), &DataType::Date32), Some(json!("2024-02-29")));
        assert_eq!(as_type(&json!("soon"), &DataType::Date32), None);
    }

    #[test]
    fn columns_that_a_row_lacks_are_null() {
        let rows: Vec<Map<String, Json>> = [json!({ "b": 1 }), json!({ "a": 2 })]
            .iter()
            .map(|row| row.as_object().expect("an object").clone())
            .collect();
        let table = Table::written(&rows);
        assert_eq!(table.names().collect::<Vec<_>>(), ["b", "a"]);
        assert_eq!(table.rows, [[json!(1), json!(null)], [json!(null), json!(2)]]);
    }
}
