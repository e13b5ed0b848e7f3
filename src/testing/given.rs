//! Rows that a test gives, as a file that a source can read.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{RecordBatch, new_null_array};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::ipc::writer::FileWriter;
use serde_json::{Map, Value as Json};

use super::table::TableError;
use crate::format::{self, Format};
use crate::plan::KnownTypes;

/// The rows with the columns that are known of the stage, which are null where no row has them, and those that the rows have beside them.
///
/// # Errors
/// If a value does not fit the type of its column.
pub fn batch(rows: &[Map<String, Json>], known: &KnownTypes) -> Result<RecordBatch, TableError> {
    let mut names: Vec<&str> = known.columns.iter().map(|(name, _)| name.as_str()).collect();
    for name in rows.iter().flat_map(Map::keys) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    let mut text = Vec::new();
    for row in rows {
        let full = names.iter().map(|name| ((*name).to_owned(), row.get(*name).cloned().unwrap_or(Json::Null)));
        serde_json::to_writer(&mut text, &Map::from_iter(full))?;
        text.push(b'\n');
    }
    let typed: Vec<_> = known.columns.iter().filter(|(_, data_type)| *data_type != DataType::Null).cloned().collect();
    let batch = format::decode(Format::Jsonl, &text, &typed)?;
    let column = |name: &&str| match batch.schema().index_of(name) {
        Ok(at) => (batch.schema().field(at).clone(), Arc::clone(batch.column(at))),
        Err(_) => (Field::new(*name, DataType::Null, true), new_null_array(&DataType::Null, rows.len())),
    };
    let (fields, columns): (Vec<_>, Vec<_>) = names.iter().map(column).unzip();
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(rows.len()));
    Ok(RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)?)
}

/// Writes a batch in the format of Arrow.
///
/// # Errors
/// If it cannot be written.
pub fn write(batch: &RecordBatch, path: &Path) -> Result<(), TableError> {
    let mut writer = FileWriter::try_new(File::create(path)?, batch.schema_ref())?;
    writer.write(batch)?;
    Ok(writer.finish()?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rows(rows: &[Json]) -> Vec<Map<String, Json>> {
        rows.iter().map(|row| row.as_object().expect("an object").clone()).collect()
    }

    #[test]
    fn columns_have_the_types_that_are_known_and_are_null_where_they_are_not_given() {
        let known = KnownTypes {
            columns: vec![
                ("day".to_owned(), DataType::Date32),
                ("price".to_owned(), DataType::Decimal128(8, 2)),
                ("open".to_owned(), DataType::Null),
            ],
            are_all: true,
        };
        let batch = batch(&rows(&[json!({ "price": "1.50", "day": "2024-02-29" })]), &known).expect("rows");
        let types: Vec<_> = batch.schema().fields().iter().map(|field| field.data_type().clone()).collect();
        assert_eq!(types, [DataType::Date32, DataType::Decimal128(8, 2), DataType::Null]);
        let none = super::batch(&[], &known).expect("no rows");
        assert_eq!((none.num_rows(), none.num_columns()), (0, 3));
        assert!(super::batch(&rows(&[json!({ "day": "soon" })]), &known).is_err());
    }
}
