//! [`MalformedRows`]: records that a source has gone on without.

use std::sync::Arc;

use arrow::array::{RecordBatch, StringArray};

use crate::batch::{Batch, Origin};
use crate::format::{Malformed, Problem};
use crate::plan::columns;

/// In the order of the files.
#[derive(Debug, Default)]
pub struct MalformedRows {
    texts: Vec<String>,
    problems: Vec<Problem>,
    origin: Origin,
}

impl MalformedRows {
    pub(super) fn push(&mut self, malformed: Malformed, origin: Origin) {
        self.texts.push(malformed.text);
        self.problems.push(malformed.problem);
        self.origin.extend(origin);
    }

    /// As rows, and what is wrong with each.
    pub fn into_batch(self) -> (Batch, Vec<Problem>) {
        let texts = Arc::new(StringArray::from(self.texts));
        let rows = RecordBatch::try_new(columns::malformed_columns(), vec![texts]).expect("one column of text");
        (Batch::new(rows, self.origin), self.problems)
    }
}
