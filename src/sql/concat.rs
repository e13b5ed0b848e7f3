//! [`Concat`]: the partitions of a plan, one after the other.
//!
//! The engine merges partitions by whichever is ready first. The only operator that has several partitions in our plans is
//! `UNION ALL`; concatenating its members in the order in which they are written keeps the result the same in every run.

use std::fmt;
use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::UnKnownColumn;
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::execution_plan::ReplaceChildrenOptions;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties};
use futures::{StreamExt, TryStreamExt, stream};

/// Puts a [`Concat`] on everything that has more than one partition, so that all operators above see one.
#[derive(Debug)]
pub(super) struct OnePartition;

impl PhysicalOptimizerRule for OnePartition {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|node| {
            Ok(if node.output_partitioning().partition_count() > 1 {
                Transformed::yes(Arc::new(Concat::new(node, Order::Unknown)) as Arc<dyn ExecutionPlan>)
            } else {
                Transformed::no(node)
            })
        })
        .data()
    }

    fn name(&self) -> &str {
        "one_partition"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// What a [`Concat`] says about the order of its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Unknown,
    /// The rows are ordered, by something that no operator can ask for. Joins then keep the order of these rows, which they
    /// only do where they believe that there is one.
    Claimed,
}

#[derive(Debug)]
pub(super) struct Concat {
    input: Arc<dyn ExecutionPlan>,
    order: Order,
    properties: Arc<PlanProperties>,
}

impl Concat {
    pub(super) fn new(input: Arc<dyn ExecutionPlan>, order: Order) -> Self {
        let mut equivalences = EquivalenceProperties::new(input.schema());
        if order == Order::Claimed {
            equivalences
                .add_ordering([PhysicalSortExpr::new_default(Arc::new(UnKnownColumn::new("order of arrival")))]);
        }
        let properties = PlanProperties::new(
            equivalences,
            Partitioning::UnknownPartitioning(1),
            input.pipeline_behavior(),
            input.boundedness(),
        );
        Self { input, order, properties: Arc::new(properties) }
    }
}

impl DisplayAs for Concat {
    fn fmt_as(&self, _: DisplayFormatType, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Concat")
    }
}

impl ExecutionPlan for Concat {
    fn name(&self) -> &str {
        "Concat"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    /// More partitions below would only be concatenated again.
    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        match (children.pop(), children.is_empty()) {
            (Some(input), true) => Ok(Arc::new(Self::new(input, self.order))),
            _ => datafusion::common::internal_err!("Concat has one input"),
        }
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        use datafusion::physical_plan::execution_plan::ChildrenPropertiesMode;
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn execute(&self, _: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let input = Arc::clone(&self.input);
        let partitions = 0..input.output_partitioning().partition_count();
        // A partition starts when the one before it has ended; until then it takes nothing from its inputs.
        let batches =
            stream::iter(partitions).map(move |partition| input.execute(partition, Arc::clone(&context))).try_flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), batches)))
    }
}
