//! [`usable_cores`]: the cores that this process, and what it starts, may run on.

use rustix::thread::{CpuSet, sched_getaffinity};

/// Their numbers, as Linux counts them. Empty if it cannot be told, as there are more than a set has room for.
pub fn usable_cores() -> Vec<u32> {
    let Ok(cores) = sched_getaffinity(None) else { return Vec::new() };
    (0..CpuSet::MAX_CPU).filter(|core| cores.is_set(*core)).filter_map(|core| u32::try_from(core).ok()).collect()
}
