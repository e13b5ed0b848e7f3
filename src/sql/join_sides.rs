//! [`StreamFirstTable`]: which side of a join is kept in memory.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::joins::{CrossJoinExec, HashJoinExec, NestedLoopJoinExec, PartitionMode};

/// Makes joins keep their right side in memory and stream the left one.
///
/// The engine keeps the left side unless it knows the sizes, and streams have none. People write the large table first
/// (`FROM orders JOIN customers`), and rows in the order of the first table are what they expect.
#[derive(Debug)]
pub(super) struct StreamFirstTable;

impl PhysicalOptimizerRule for StreamFirstTable {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|node| {
            Ok(match swapped(&node)? {
                Some(join) => Transformed::yes(join),
                None => Transformed::no(node),
            })
        })
        .data()
    }

    fn name(&self) -> &str {
        "stream_first_table"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn swapped(node: &Arc<dyn ExecutionPlan>) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    if let Some(join) = node.downcast_ref::<HashJoinExec>() {
        // `NOT IN` needs its sides where they are.
        let can_swap = join.join_type().supports_swap() && !join.null_aware;
        return can_swap.then(|| join.swap_inputs(PartitionMode::CollectLeft)).transpose();
    }
    if let Some(join) = node.downcast_ref::<NestedLoopJoinExec>() {
        return join.join_type().supports_swap().then(|| join.swap_inputs()).transpose();
    }
    node.downcast_ref::<CrossJoinExec>().map(CrossJoinExec::swap_inputs).transpose()
}
