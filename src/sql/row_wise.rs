//! [`RowWise`]: a query that is applied to one batch at a time.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::datasource::empty::EmptyTable;
use datafusion::execution::TaskContext;
use datafusion::execution::session_state::SessionState;

use super::context::{self, Settings};
use super::error::{SqlError, SqlErrorKind};
use super::query::Query;
use super::step::{self, Rows, Step};
use super::stream;

/// A row-wise query, planned for one input schema.
///
/// Planned once; then [`apply`](Self::apply) evaluates the plan's expressions directly, on any thread and on many at once,
/// without a runtime and without copying columns that pass through.
#[derive(Debug)]
pub struct RowWise {
    input: SchemaRef,
    output: SchemaRef,
    steps: Vec<Step>,
    context: Arc<TaskContext>,
}

impl RowWise {
    /// Plans `query` for batches of `schema`, which the query knows as `table`. Takes a few milliseconds.
    ///
    /// # Panics
    ///
    /// If the query is not [row-wise](Query::is_row_wise).
    pub fn plan(query: &Query, table: &str, schema: SchemaRef, settings: &Settings) -> Result<Self, SqlError> {
        assert!(query.is_row_wise(), "the query needs more than a row: {query:?}");
        context::check_params(query, settings)?;
        let state = context::unlimited_state(settings)?;
        let source = Arc::new(EmptyTable::new(context::planned_schema(&schema)));
        let planned = context::logical_plan(&state, query, vec![(table, source)], settings)
            .and_then(|plan| state.optimize(&plan))
            .and_then(|plan| Ok((step::steps(&plan, &state)?, plan)));
        let (steps, plan) = planned.map_err(|error| SqlError::from_engine(error, Some(settings)))?;
        let context = Arc::new(context_of(&state));
        let output = last_schema(&steps).unwrap_or_else(|| Arc::clone(plan.schema().inner()));
        Ok(Self { input: schema, output: stream::output_schema(&output)?, steps, context })
    }

    /// The columns of every batch that [`apply`](Self::apply) returns.
    pub fn output_schema(&self) -> &SchemaRef {
        &self.output
    }

    /// Whether the rows of a batch depend on its number, because the query calls `random()` or `uuid()`.
    pub fn depends_on_sequence(&self) -> bool {
        self.steps.iter().any(Step::is_seeded)
    }

    /// Applies the query to batch number `sequence`: its rows in input order, possibly none, and the index of the input row
    /// of each, or `None` where row `i` comes from row `i`.
    pub fn apply(&self, batch: RecordBatch, sequence: u64) -> Result<(RecordBatch, Option<UInt32Array>), SqlError> {
        self.check_input(&batch)?;
        let mut rows = Rows { batch, sources: None };
        let fail = |error| SqlError::from_engine(error, None);
        for step in &self.steps {
            rows = step.apply(rows, sequence, &self.context).map_err(fail)?;
        }
        let count = rows.batch.num_rows();
        let batch = step::new_batch(&self.output, rows.batch.columns().to_vec(), count).map_err(fail)?;
        Ok((batch, rows.sources))
    }

    /// Columns are found by position, so a batch of another schema must not get through.
    fn check_input(&self, batch: &RecordBatch) -> Result<(), SqlError> {
        let schema = batch.schema_ref();
        let same =
            Arc::ptr_eq(schema, &self.input)
                || schema.fields().len() == self.input.fields().len()
                    && schema.fields().iter().zip(self.input.fields()).all(|(given, planned)| {
                        given.name() == planned.name() && given.data_type() == planned.data_type()
                    });
        if same {
            return Ok(());
        }
        let message = format!("a batch has the columns {}, planned were {}", columns(schema), columns(&self.input));
        Err(SqlError::new(SqlErrorKind::Internal, message))
    }
}

/// What the planned steps run in. They have their functions already, and hundreds of them need not be kept for each query.
fn context_of(state: &SessionState) -> TaskContext {
    let (session, config, runtime) =
        (state.session_id().to_owned(), state.config().clone(), state.runtime_env().clone());
    TaskContext::new(None, session, config, HashMap::new(), HashMap::new(), HashMap::new(), HashMap::new(), runtime)
}

fn columns(schema: &Schema) -> String {
    let columns: Vec<_> =
        schema.fields().iter().map(|field| format!("{} {}", field.name(), field.data_type())).collect();
    columns.join(", ")
}

/// Schema after the last step that knows its types exactly.
fn last_schema(steps: &[Step]) -> Option<SchemaRef> {
    match steps.last()? {
        Step::Project { schema, .. } => Some(Arc::clone(schema)),
        _ => None,
    }
}
