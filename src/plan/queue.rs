//! The bounds of an edge's queue, and the rule by which rows are cut into batches.

use std::num::{NonZeroU32, NonZeroU64};

/// Bound of the queue in front of a stage. Both bounds hold; neither can be zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    pub batches: NonZeroU32,
    /// Bytes of Arrow buffers.
    pub bytes: NonZeroU64,
}

impl Capacity {
    /// Eight batches hide a stage's jitter from its neighbours.
    pub const DEFAULT_BATCHES: NonZeroU32 = NonZeroU32::new(8).expect("not zero");
    /// What a queue is given unless its stage says otherwise: eight batches of the largest default cut.
    pub const MOST_BYTES: NonZeroU64 = NonZeroU64::new(64 << 20).expect("not zero");
    /// What it is given at least, however small the files are.
    pub const LEAST_BYTES: u64 = 1 << 20;
}

/// What a stage says about the queue in front of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct GivenCapacity {
    pub batches: Option<NonZeroU32>,
    pub bytes: Option<NonZeroU64>,
}

/// How rows are cut into batches: a batch ends at whichever bound comes first. Computed from the data, never from timing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    pub rows: NonZeroU32,
    /// Bytes of values.
    pub bytes: NonZeroU64,
    /// Whether the end of a file ends a batch, too: so the batches of a file do not depend on others.
    pub at_files: bool,
}

impl Default for Cut {
    fn default() -> Self {
        Self {
            rows: NonZeroU32::new(8192).expect("not zero"),
            bytes: NonZeroU64::new(8 << 20).expect("not zero"),
            at_files: false,
        }
    }
}
