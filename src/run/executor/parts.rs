//! What the slices of a batch gave, on its way to the worker that makes one output of it.
//!
//! A part is a batch with one column of bytes, one value for each row that the function was given. Only workers read them.

use std::sync::Arc;

use arrow::array::{Array, RecordBatch};
use arrow::compute::concat;
use arrow::datatypes::{Field, Schema};
use arrow::error::ArrowError;

use super::resident::failure;
use crate::batch::{Batch, BatchError};
use crate::plan::Verdict;
use crate::run::scheduler::{Failure, Scope};

#[derive(Debug, thiserror::Error)]
enum PartError {
    #[error("{0}")]
    Arrow(#[from] ArrowError),
    #[error("{0}")]
    Batch(#[from] BatchError),
}

/// The rows with what the function gave for each of them as one more column, the last one.
///
/// # Errors
/// If a batch cannot be read, or the parts have not as many rows together.
pub fn beside(rows: &Batch, parts: &[&Batch]) -> Result<Batch, Failure> {
    let joined = joined(rows, parts);
    joined.map_err(|error| failure(Scope::Internal, Verdict::Exception, format!("the parts of a batch: {error}")))
}

fn joined(rows: &Batch, parts: &[&Batch]) -> Result<Batch, PartError> {
    let records = rows.records()?;
    let parts = parts.iter().map(|part| part.records()).collect::<Result<Vec<_>, _>>()?;
    let columns: Vec<&dyn Array> = parts.iter().flat_map(|part| part.columns()).map(AsRef::as_ref).collect();
    let given = concat(&columns)?;
    let last = Field::new("", given.data_type().clone(), true);
    let fields = records.schema_ref().fields().iter().map(|field| field.as_ref().clone()).chain([last]);
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let columns = records.columns().iter().cloned().chain([given]).collect();
    Ok(Batch::new(RecordBatch::try_new(schema, columns)?, rows.origin().clone()))
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array, LargeBinaryArray};

    use super::*;
    use crate::batch::Origin;

    fn batch(column: ArrayRef) -> Batch {
        let records = RecordBatch::try_from_iter([("a", column)]).expect("one column");
        let origin = Origin::default().blur(records.num_rows());
        Batch::new(records, origin)
    }

    #[test]
    fn parts_are_put_together_beside_the_rows_that_they_are_of() {
        let rows = batch(Arc::new(Int64Array::from(vec![1, 2, 3])));
        let parts =
            [&[b"x".as_slice(), b"yy"][..], &[b"z"]].map(|part| batch(Arc::new(LargeBinaryArray::from(part.to_vec()))));
        let joined = beside(&rows, &parts.each_ref()).expect("as many rows");
        let records = joined.records().expect("in memory");
        let given: &LargeBinaryArray = records.column(1).as_any().downcast_ref().expect("bytes");
        assert_eq!(given.iter().flatten().collect::<Vec<_>>(), [b"x".as_slice(), b"yy", b"z"]);
        assert!(beside(&rows, &[&parts[0]]).is_err());
    }
}
