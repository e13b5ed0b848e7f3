//! Arrow batches, where they lie, and where their rows come from. Knows nothing of pipelines.

mod origin;

pub use origin::{FileId, Origin, Place};
