//! Arrow batches, where they lie, and where their rows come from. Knows nothing of pipelines.

#[allow(clippy::module_inception)]
mod batch;
pub mod ipc;
mod origin;
mod pool;
mod segment;

pub use batch::{Batch, BatchError, INLINE_BYTES, Parcel, Shared};
pub use origin::{FileId, Origin, Place};
pub use pool::{Lease, SegmentPool};
pub use segment::{Segment, SegmentError, SegmentId};

fn value_bytes(batch: &arrow::array::RecordBatch) -> usize { batch.get_array_memory_size() }
