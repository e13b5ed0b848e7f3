//! [`InputTable`]: an input of a query, as the engine sees it.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::common::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use futures::stream;

use super::context;
use super::feed::Input;
use super::tee::Tee;

/// The single partition of an input's table; each execution is one more reader.
pub(super) struct InputTable {
    schema: SchemaRef,
    tee: Tee,
}

impl InputTable {
    pub(super) fn new(input: Input) -> Arc<Self> {
        let schema = context::planned_schema(&input.schema);
        Arc::new(Self { schema: Arc::clone(&schema), tee: Tee::new(schema, input.batches) })
    }

    pub(super) fn provider(self: &Arc<Self>) -> Result<Arc<dyn TableProvider>> {
        let partition = Arc::clone(self) as Arc<dyn PartitionStream>;
        Ok(Arc::new(StreamingTable::try_new(Arc::clone(&self.schema), vec![partition])?))
    }

    /// Prepares the table for the places where `plan` reads it.
    pub(super) fn prepare(&self, plan: &Arc<dyn ExecutionPlan>, context: &TaskContext) {
        self.tee.expect_readers(self.count_scans(plan), &context.runtime_env());
    }

    fn count_scans(&self, plan: &Arc<dyn ExecutionPlan>) -> usize {
        let own = plan.downcast_ref::<StreamingTableExec>().is_some_and(|scan| {
            scan.partitions()
                .iter()
                .any(|partition| std::ptr::addr_eq(Arc::as_ptr(partition), std::ptr::from_ref(self)))
        });
        usize::from(own) + plan.children().into_iter().map(|child| self.count_scans(child)).sum::<usize>()
    }
}

impl fmt::Debug for InputTable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("InputTable").field("schema", &self.schema).finish_non_exhaustive()
    }
}

impl PartitionStream for InputTable {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let schema = Arc::clone(&self.schema);
        match self.tee.read() {
            Ok(reader) => Box::pin(RecordBatchStreamAdapter::new(schema, reader)),
            Err(error) => Box::pin(RecordBatchStreamAdapter::new(schema, stream::iter([Err(error)]))),
        }
    }
}
