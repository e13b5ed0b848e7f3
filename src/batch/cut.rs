//! [`Cutter`]: cuts a stream of batches again, by a rule that depends on the rows alone.

use std::num::{NonZeroU32, NonZeroU64};

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;

use super::origin::Origin;
use super::value_bytes::value_bytes;

/// Cuts batches so that each has at most `rows` rows and `bytes` bytes of values ([`value_bytes`]), whichever comes first.
/// A row that is larger than `bytes` stands alone. Where the columns change, a batch ends too.
///
/// A cut within a batch is a slice that copies nothing; rows are copied only where a batch is put together from several.
#[derive(Debug)]
pub struct Cutter {
    rows: usize,
    bytes: usize,
    held: Vec<(RecordBatch, Origin)>,
    held_rows: usize,
    held_bytes: usize,
}

impl Cutter {
    pub fn new(rows: NonZeroU32, bytes: NonZeroU64) -> Self {
        let bytes = usize::try_from(bytes.get()).unwrap_or(usize::MAX);
        Self { rows: rows.get() as usize, bytes, held: Vec::new(), held_rows: 0, held_bytes: 0 }
    }

    /// Takes the rows that follow and returns the batches that are complete. An empty batch leaves no trace.
    pub fn push(&mut self, batch: RecordBatch, origin: Origin) -> Vec<(RecordBatch, Origin)> {
        debug_assert_eq!(batch.num_rows(), origin.len(), "every row has an origin");
        let mut complete = Vec::new();
        if self.held.last().is_some_and(|(held, _)| batch.num_rows() > 0 && held.schema() != batch.schema()) {
            complete.extend(self.finish());
        }
        let mut start = 0;
        while start < batch.num_rows() {
            let taken = self.fitting(&batch, start);
            if taken > 0 {
                self.hold(batch.slice(start, taken), origin.slice(start..start + taken));
                start += taken;
            }
            if start < batch.num_rows() || self.held_rows == self.rows {
                complete.extend(self.finish());
            }
        }
        complete
    }

    /// Returns what is held as the last batch, if there is anything.
    pub fn finish(&mut self) -> Option<(RecordBatch, Origin)> {
        self.held_rows = 0;
        self.held_bytes = 0;
        let mut held = std::mem::take(&mut self.held);
        if held.len() <= 1 {
            return held.pop();
        }
        let schema = held[0].0.schema();
        let batch = concat_batches(&schema, held.iter().map(|(batch, _)| batch)).expect("held batches have one schema");
        let mut origin = Origin::default();
        for (_, piece) in held {
            origin.extend(piece);
        }
        Some((batch, origin))
    }

    /// Number of rows from `start` on that still fit beside what is held; at least 1 if nothing is held.
    fn fitting(&self, batch: &RecordBatch, start: usize) -> usize {
        let most = (batch.num_rows() - start).min(self.rows - self.held_rows);
        let room = self.bytes.saturating_sub(self.held_bytes);
        if value_bytes(batch, start..start + most) <= room {
            return most;
        }
        let (mut fits, mut exceeds) = (0, most);
        while fits + 1 < exceeds {
            let middle = usize::midpoint(fits, exceeds);
            if value_bytes(batch, start..start + middle) <= room {
                fits = middle;
            } else {
                exceeds = middle;
            }
        }
        if self.held.is_empty() { fits.max(1) } else { fits }
    }

    fn hold(&mut self, batch: RecordBatch, origin: Origin) {
        self.held_rows += batch.num_rows();
        self.held_bytes += value_bytes(&batch, 0..batch.num_rows());
        self.held.push((batch, origin));
    }
}
