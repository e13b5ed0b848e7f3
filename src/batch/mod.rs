//! Arrow batches, where they lie, and where their rows come from. Knows nothing of pipelines.

#[allow(clippy::module_inception)]
mod batch;
pub mod column_type;
mod conform;
mod cut;
mod file_table;
pub mod ipc;
mod origin;
mod partition;
mod pool;
mod rows;
mod scattered;
mod segment;
mod text;
mod value_bytes;

pub use batch::{Batch, BatchError, INLINE_BYTES, Parcel, Shared, SpillSpace};
pub(crate) use conform::is_open;
pub use conform::{Columns, ConformError};
pub use cut::Cutter;
pub use file_table::FileTable;
pub use origin::{FileId, Origin, Place, Source};
pub use partition::{PARTITIONS, PartitionError, Partitioned, Partitioner};
pub use pool::{KEPT_BYTES, Lease, SegmentPool};
pub use rows::Rows;
pub use scattered::{Holder, Scattered, ScatteredError};
pub use segment::{SMALLEST_SEGMENT, Segment, SegmentError, SegmentId};
pub use text::{LINE, Text, line_schema};
pub use value_bytes::{array_bytes, value_bytes};
