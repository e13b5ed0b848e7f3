//! Arrow batches, where they lie, and where their rows come from. Knows nothing of pipelines.

mod conform;
mod cut;
mod file_table;
mod origin;
mod value_bytes;

pub(crate) use conform::is_open;
pub use conform::{Columns, ConformError};
pub use cut::Cutter;
pub use file_table::FileTable;
pub use origin::{FileId, Origin, Place};
pub use value_bytes::value_bytes;
