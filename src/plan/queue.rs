//! The bounds of an edge's queue, and the rule by which rows are cut into batches.

use std::num::{NonZeroU32, NonZeroU64};

/// Bound of the queue in front of a stage. Both bounds hold; neither can be zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    pub batches: NonZeroU32,
    /// Bytes of Arrow buffers.
    pub bytes: NonZeroU64,
}

impl Default for Capacity {
    /// Eight batches hide a stage's jitter from its neighbours; 64 MiB keeps eight batches of the largest default cut.
    fn default() -> Self {
        Self { batches: NonZeroU32::new(8).expect("not zero"), bytes: NonZeroU64::new(64 << 20).expect("not zero") }
    }
}

/// How rows are cut into batches: a batch ends at whichever bound comes first. Computed from the data, never from timing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    pub rows: NonZeroU32,
    /// Bytes of values.
    pub bytes: NonZeroU64,
}

impl Default for Cut {
    fn default() -> Self {
        Self { rows: NonZeroU32::new(8192).expect("not zero"), bytes: NonZeroU64::new(8 << 20).expect("not zero") }
    }
}
