//! Rejected rows: their own columns and what is known of their failure.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, StringArray, UInt32Array, UInt64Array};
use arrow::compute::concat_batches;

use crate::batch::{Batch, BatchError, FileTable, Origin};
use crate::plan::{Stage, columns};
use crate::run::scheduler::Reject;

/// The rejected rows of a batch, in its order. Files in `folder` are named relative to it, so that what is published does not depend on
/// where that folder lies. `_row` is empty where a row may come from any of several.
///
/// # Errors
/// If the batch cannot be read back.
pub fn batch(
    stage: &Stage,
    batch: &Batch,
    rejects: &[Reject],
    files: &FileTable,
    folder: &Path,
) -> Result<Batch, BatchError> {
    let records = batch.records()?;
    let mut slices = Vec::with_capacity(rejects.len());
    let mut origin = Origin::default();
    let mut facts: Vec<&Reject> = Vec::new();
    for reject in rejects {
        let (start, end) = (reject.rows.start as usize, reject.rows.end as usize);
        slices.push(records.slice(start, end - start));
        origin.extend(batch.origin().slice(start..end));
        facts.extend(std::iter::repeat_n(reject, end - start));
    }
    let rows = concat_batches(&records.schema(), &slices)?;
    let schema = columns::rejected_columns(&records.schema());
    let mut arrays: Vec<ArrayRef> = Vec::with_capacity(schema.fields().len());
    for (field, column) in records.schema().fields().iter().zip(rows.columns()) {
        if !columns::is_gained_by_rejected(field.name()) {
            arrays.push(Arc::clone(column));
        }
    }
    let text = |of: &dyn Fn(&Reject) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(facts.iter().map(|reject| of(reject))))
    };
    arrays.push(text(&|_| stage.rejects_of().to_owned()));
    arrays.push(text(&|reject| reject.failure.verdict.word().to_owned()));
    arrays.push(text(&|reject| reject.failure.message.clone()));
    let traceback = |reject: &Reject| (!reject.failure.traceback.is_empty()).then(|| reject.failure.traceback.clone());
    arrays.push(Arc::new(facts.iter().copied().map(traceback).collect::<StringArray>()));
    // Not those that there really were: how many it took to find the row depends on how its batch was sliced, and on who died.
    let attempts = |reject: &&Reject| stage.retry.attempts(reject.failure.verdict);
    arrays.push(Arc::new(UInt32Array::from_iter_values(facts.iter().map(attempts))));
    let places: Vec<_> = (0..origin.len()).map(|row| origin.place(row)).collect();
    let file = |place: &Option<crate::batch::Place>| {
        let path = files.path(place.as_ref()?.file)?;
        Some(path.strip_prefix(folder).unwrap_or(&path).to_string_lossy().into_owned())
    };
    arrays.push(Arc::new(places.iter().map(file).collect::<StringArray>()));
    let row =
        |place: &Option<crate::batch::Place>| place.filter(|place| place.first == place.last).map(|place| place.first);
    arrays.push(Arc::new(places.iter().map(row).collect::<UInt64Array>()));
    let options = RecordBatchOptions::new().with_row_count(Some(origin.len()));
    let records = RecordBatch::try_new_with_options(schema, arrays, &options)?;
    Ok(Batch::new(records, origin))
}

/// Where a row comes from, for people.
pub fn place(origin: &Origin, row: usize, files: &FileTable) -> Option<String> {
    let place = origin.place(row)?;
    let path = files.path(place.file)?;
    Some(if place.first == place.last {
        format!("{}, row {}", path.display(), place.first)
    } else {
        format!("{}, rows {} to {}", path.display(), place.first, place.last)
    })
}
