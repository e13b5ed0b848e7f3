//! [`StreamQuery`]: a query that reads its inputs as streams.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::execute_stream;
use futures::StreamExt;
use tokio::runtime::Handle;

use super::context::{self, Settings};
use super::error::{SqlError, SqlErrorKind, two_columns};
use super::feed::Input;
use super::group_order;
use super::query::Query;
use super::step;
use super::table::InputTable;

/// A running query over streams of batches.
///
/// It runs in one partition on the thread that calls [`next`](Self::next), and takes from its inputs only what it needs for
/// the next batch. Joins read their right inputs first and wholly, then stream the first table of `FROM`; members of a
/// `UNION ALL` are read one after the other. Sorts, aggregates and inputs that are read twice spill over the memory limit;
/// what cannot spill (the right side of a join) fails with [`SqlErrorKind::Memory`].
pub struct StreamQuery {
    /// `None` once the end or an error was reached, so that inputs close at once.
    stream: Option<SendableRecordBatchStream>,
    schema: SchemaRef,
    settings: Settings,
    runtime: Handle,
}

impl StreamQuery {
    /// Plans `query` over `inputs` and starts it; nothing is read before the first [`next`](Self::next). Blocks for a few
    /// milliseconds; must not be called from within an async task.
    pub fn start(query: &Query, inputs: Vec<Input>, settings: &Settings, runtime: &Handle) -> Result<Self, SqlError> {
        context::check_params(query, settings)?;
        let _guard = runtime.enter();
        let fail = |error| SqlError::from_engine(error, Some(settings));
        let state = context::limited_state(settings)?;
        let names: Vec<String> = inputs.iter().map(|input| input.table.clone()).collect();
        let tables: Vec<Arc<InputTable>> = inputs.into_iter().map(InputTable::new).collect();
        let mut providers = Vec::new();
        for (name, table) in names.iter().zip(&tables) {
            providers.push((name.as_str(), table.provider().map_err(fail)?));
        }
        let plan = context::logical_plan(&state, query, providers, settings).map_err(fail)?;
        let plan = group_order::sort_by_keys(plan).map_err(fail)?;
        let plan = runtime.block_on(state.create_physical_plan(&plan)).map_err(fail)?;
        let schema = output_schema(&plan.schema())?;
        let context = state.task_ctx();
        for table in &tables {
            table.prepare(&plan, &context);
        }
        let stream = execute_stream(plan, context).map_err(fail)?;
        Ok(Self { stream: Some(stream), schema, settings: settings.clone(), runtime: runtime.clone() })
    }

    /// The columns of every batch that [`next`](Self::next) returns.
    pub fn output_schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Waits for the next batch, which has at least one row; `None` is the end. After the end or an error, all inputs are
    /// closed. Blocks the calling thread; must not be called from within an async task.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<RecordBatch>, SqlError> {
        while let Some(stream) = &mut self.stream {
            let next = self.runtime.block_on(stream.next());
            match next {
                Some(Ok(batch)) if batch.num_rows() == 0 => {}
                Some(Ok(batch)) => return self.finished(batch).map(Some),
                Some(Err(error)) => {
                    self.stream = None;
                    return Err(SqlError::from_engine(error, Some(&self.settings)));
                }
                None => self.stream = None,
            }
        }
        Ok(None)
    }

    fn finished(&self, batch: RecordBatch) -> Result<RecordBatch, SqlError> {
        step::new_batch(&self.schema, batch.columns().to_vec(), batch.num_rows())
            .map_err(|error| SqlError::from_engine(error, Some(&self.settings)))
    }
}

impl fmt::Debug for StreamQuery {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("StreamQuery").field("schema", &self.schema).finish_non_exhaustive()
    }
}

/// The schema of a result: every column may hold nulls, so that it does not depend on how much the engine could prove, and
/// every column has a name of its own.
pub(super) fn output_schema(schema: &Schema) -> Result<SchemaRef, SqlError> {
    let mut names = HashSet::new();
    if let Some(twice) = schema.fields().iter().find(|field| !names.insert(field.name())) {
        return Err(SqlError::new(SqlErrorKind::Plan, two_columns(twice.name())));
    }
    Ok(context::planned_schema(schema))
}
