//! [`fit`]: a plan that is to take no more than so much memory.
//!
//! Queues and queries work with less than they would like to have: a producer waits sooner, a query spills sooner. What comes out is the
//! same. So they are what gives way, queues first, as a query that cannot spill (a join) fails if it has too little. Workers, and the batches
//! that they work on, do not give way.

use std::num::NonZeroU64;

use super::memory::{MemoryBound, is_query};
use super::plan::Plan;
use super::stage::Stage;

/// The least that is left to a queue, and to a query.
const SMALLEST_QUEUE: u64 = 256 << 10;
const SMALLEST_QUERY: u64 = 8 << 20;

/// Takes memory from queues and queries until the plan's bound is at most `limit` bytes. How much each has may have been chosen in the file:
/// the limit of a run comes before that.
///
/// # Errors
/// The bound that is left when nothing gives way any more, if it is above the limit.
pub fn fit(plan: &mut Plan, limit: u64) -> Result<(), MemoryBound> {
    loop {
        let bound = MemoryBound::of(plan);
        if bound.total() <= limit {
            return Ok(());
        }
        if !halve_largest_queues(plan) && !halve_largest_queries(plan) {
            return Err(bound);
        }
    }
}

fn halve_largest_queues(plan: &mut Plan) -> bool {
    let most = plan.edges.iter().map(|edge| edge.capacity.bytes).max();
    let largest = plan.edges.iter_mut().map(|edge| &mut edge.capacity.bytes).filter(|bytes| Some(**bytes) == most);
    halve_all(largest, SMALLEST_QUEUE)
}

fn halve_largest_queries(plan: &mut Plan) -> bool {
    let queries = |stage: &&mut Stage| is_query(stage);
    let most = plan.stages.iter_mut().filter(queries).filter_map(|stage| stage.memory).max();
    let largest = plan.stages.iter_mut().filter(queries).filter_map(|stage| stage.memory.as_mut());
    halve_all(largest.filter(|bytes| Some(**bytes) == most), SMALLEST_QUERY)
}

/// Returns whether any had more than the least.
fn halve_all<'p>(all: impl Iterator<Item = &'p mut NonZeroU64>, least: u64) -> bool {
    all.map(|bytes| halve(bytes, least)).fold(false, |one, other| one | other)
}

/// Returns whether there was more than the least.
fn halve(bytes: &mut NonZeroU64, least: u64) -> bool {
    let half = NonZeroU64::new((bytes.get() / 2).max(least)).filter(|half| half < bytes);
    half.inspect(|half| *bytes = *half).is_some()
}
