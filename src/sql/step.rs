//! [`Step`]: one thing that a row-wise query does with a batch.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::{FilterBuilder, concat_batches};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::common::{DFSchema, DataFusionError, Result, UnnestOptions, internal_err};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::execution::TaskContext;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Expr, LogicalPlan, Unnest};
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::unnest::{ListUnnest, UnnestExec};
use futures::{FutureExt, StreamExt};

use super::seeded;

/// Rows on their way through the steps.
pub(super) struct Rows {
    pub(super) batch: RecordBatch,
    /// Index of the input row of each row; `None` while rows map one to one.
    pub(super) sources: Option<UInt32Array>,
}

#[derive(Debug)]
pub(super) enum Step {
    /// Keeps these columns.
    Columns(Vec<usize>),
    Filter(Arc<dyn PhysicalExpr>),
    Project {
        exprs: Vec<Arc<dyn PhysicalExpr>>,
        schema: SchemaRef,
    },
    Unnest(UnnestStep),
    /// Drops all rows.
    Nothing(SchemaRef),
}

/// Makes as many rows of one as its lists have values. The input row travels along in a column that is appended to both
/// schemas, and so gets repeated with the others.
#[derive(Debug)]
pub(super) struct UnnestStep {
    lists: Vec<ListUnnest>,
    structs: Vec<usize>,
    options: UnnestOptions,
    input: SchemaRef,
    output: SchemaRef,
}

const SOURCE_COLUMN: &str = "__millpond_source";

/// Translates an optimised plan into steps, first step first.
pub(super) fn steps(plan: &LogicalPlan, state: &SessionState) -> Result<Vec<Step>> {
    let (mut steps, step) = match plan {
        LogicalPlan::TableScan(scan) if scan.filters.is_empty() && scan.fetch.is_none() => {
            return Ok(scan.projection.clone().map(Step::Columns).into_iter().collect());
        }
        LogicalPlan::EmptyRelation(empty) if !empty.produce_one_row => {
            return Ok(vec![Step::Nothing(Arc::clone(empty.schema.inner()))]);
        }
        LogicalPlan::SubqueryAlias(alias) => return steps(&alias.input, state),
        LogicalPlan::Filter(filter) => {
            let predicate = physical(&filter.predicate, filter.input.schema(), state)?;
            (steps(&filter.input, state)?, Step::Filter(predicate))
        }
        LogicalPlan::Projection(projection) => {
            let step = project(&projection.expr, projection.input.schema(), &projection.schema, state)?;
            (steps(&projection.input, state)?, step)
        }
        LogicalPlan::Unnest(unnest) => (steps(&unnest.input, state)?, Step::Unnest(UnnestStep::new(unnest))),
        other => return internal_err!("a row-wise query became `{}`", other.display()),
    };
    steps.push(step);
    Ok(steps)
}

fn physical(expr: &Expr, input: &DFSchema, state: &SessionState) -> Result<Arc<dyn PhysicalExpr>> {
    create_physical_expr(expr, input, state.execution_props(), &PhysicalPlanningContext::default())
}

fn project(exprs: &[Expr], input: &DFSchema, output: &DFSchema, state: &SessionState) -> Result<Step> {
    let exprs = exprs.iter().map(|expr| physical(expr, input, state)).collect::<Result<Vec<_>>>()?;
    let fields = exprs.iter().zip(output.fields()).map(|(expr, named)| {
        let field = expr.return_field(input.as_arrow())?;
        Ok(Arc::new(field.as_ref().clone().with_name(named.name()).with_nullable(true)))
    });
    let schema = Arc::new(Schema::new(fields.collect::<Result<Vec<FieldRef>>>()?));
    Ok(Step::Project { exprs, schema })
}

impl Step {
    pub(super) fn is_seeded(&self) -> bool {
        match self {
            Self::Filter(predicate) => seeded::is_in(predicate),
            Self::Project { exprs, .. } => exprs.iter().any(seeded::is_in),
            Self::Columns(_) | Self::Unnest(_) | Self::Nothing(_) => false,
        }
    }

    /// Applies the step to a part of batch number `sequence`.
    pub(super) fn apply(&self, rows: Rows, sequence: u64, context: &Arc<TaskContext>) -> Result<Rows> {
        match self {
            Self::Columns(columns) => Ok(Rows { batch: rows.batch.project(columns)?, sources: rows.sources }),
            Self::Filter(predicate) => filter(rows, &numbered(predicate, sequence)?),
            Self::Project { exprs, schema } => {
                let count = rows.batch.num_rows();
                let values =
                    exprs.iter().map(|expr| numbered(expr, sequence)?.evaluate(&rows.batch)?.into_array(count));
                let batch = new_batch(schema, values.collect::<Result<_>>()?, count)?;
                Ok(Rows { batch, sources: rows.sources })
            }
            Self::Unnest(unnest) => unnest.apply(rows, context),
            Self::Nothing(schema) => Ok(Rows {
                batch: RecordBatch::new_empty(Arc::clone(schema)),
                sources: Some(UInt32Array::from(Vec::<u32>::new())),
            }),
        }
    }
}

fn numbered(expr: &Arc<dyn PhysicalExpr>, sequence: u64) -> Result<Arc<dyn PhysicalExpr>> {
    if seeded::is_in(expr) { seeded::for_batch(Arc::clone(expr), sequence) } else { Ok(Arc::clone(expr)) }
}

pub(super) fn new_batch(schema: &SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?)
}

fn filter(rows: Rows, predicate: &Arc<dyn PhysicalExpr>) -> Result<Rows> {
    let count = rows.batch.num_rows();
    let mask = predicate.evaluate(&rows.batch)?.into_array(count)?;
    let mask: &BooleanArray = mask
        .as_boolean_opt()
        .ok_or_else(|| DataFusionError::Plan(format!("WHERE needs a boolean, not {}", mask.data_type())))?;
    if mask.true_count() == count {
        return Ok(rows);
    }
    let kept = FilterBuilder::new(mask).optimize().build();
    let sources = kept.filter(&rows.sources.unwrap_or_else(|| every_row(count)))?;
    Ok(Rows { batch: kept.filter_record_batch(&rows.batch)?, sources: Some(sources.as_primitive().clone()) })
}

fn every_row(count: usize) -> UInt32Array {
    (0..u32::try_from(count).expect("a batch has fewer than 2^32 rows")).collect::<Vec<_>>().into()
}

impl UnnestStep {
    fn new(unnest: &Unnest) -> Self {
        let lists = unnest.list_type_columns.iter();
        Self {
            lists: lists.map(|(index, list)| ListUnnest { index_in_input_schema: *index, depth: list.depth }).collect(),
            structs: unnest.struct_type_columns.clone(),
            options: unnest.options.clone(),
            input: with_source(unnest.input.schema().as_arrow()),
            output: with_source(unnest.schema.as_arrow()),
        }
    }

    fn apply(&self, rows: Rows, context: &Arc<TaskContext>) -> Result<Rows> {
        let count = rows.batch.num_rows();
        let mut columns = rows.batch.columns().to_vec();
        columns.push(Arc::new(rows.sources.unwrap_or_else(|| every_row(count))));
        let mut batch = self.run(new_batch(&self.input, columns, count)?, context)?;
        let sources = batch.remove_column(batch.num_columns() - 1);
        Ok(Rows { batch, sources: Some(sources.as_primitive().clone()) })
    }

    fn run(&self, batch: RecordBatch, context: &Arc<TaskContext>) -> Result<RecordBatch> {
        let input = MemorySourceConfig::try_new_exec(&[vec![batch]], Arc::clone(&self.input), None)?;
        let unnest = UnnestExec::new(
            input,
            self.lists.clone(),
            self.structs.clone(),
            Arc::clone(&self.output),
            self.options.clone(),
        )?;
        let batches = tokio::task::unconstrained(unnest.execute(0, Arc::clone(context))?.collect::<Vec<_>>());
        let batches = batches.now_or_never().expect("a batch in memory is unnested without waiting");
        let batches = batches.into_iter().collect::<Result<Vec<_>>>()?;
        Ok(concat_batches(&self.output, &batches)?)
    }
}

fn with_source(schema: &Schema) -> SchemaRef {
    let mut fields: Vec<FieldRef> =
        schema.fields().iter().map(|field| Arc::new(field.as_ref().clone().with_nullable(true))).collect();
    fields.push(Arc::new(Field::new(SOURCE_COLUMN, DataType::UInt32, false)));
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}
