//! Which side of a join is kept in memory ([`StreamFirstTable`]), and the order of its rows ([`KeepStreamedOrder`]).

use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{JoinType, Result};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::joins::{CrossJoinExec, HashJoinExec, NestedLoopJoinExec, PartitionMode};
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};

use super::concat::{Concat, Order};

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

/// Makes outer joins give the rows of the streamed side in their order. By itself the engine puts those without a match
/// behind the others of their batch, and the order would depend on the cuts.
///
/// Comes last: the claim of an order is for the running join alone, not for rules that reason about orders.
#[derive(Debug)]
pub(super) struct KeepStreamedOrder;

impl PhysicalOptimizerRule for KeepStreamedOrder {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|node| {
            let Some(join) = node.downcast_ref::<HashJoinExec>() else { return Ok(Transformed::no(node)) };
            if *join.join_type() != JoinType::Right || join.right().output_ordering().is_some() {
                return Ok(Transformed::no(node));
            }
            let streamed = Arc::new(Concat::new(Arc::clone(join.right()), Order::Claimed));
            let sides: Vec<Arc<dyn ExecutionPlan>> = vec![Arc::clone(join.left()), streamed];
            Ok(Transformed::yes(Arc::clone(&node).replace_children(sides, RECOMPUTE)?))
        })
        .data()
    }

    fn name(&self) -> &str {
        "keep_streamed_order"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

const RECOMPUTE: ReplaceChildrenOptions = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);

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
