//! The world that a query sees: functions, its tables, its params, and nothing else.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use arrow::datatypes::{Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::common::{DataFusionError, ParamValues, ScalarValue, TableReference};
use datafusion::execution::SessionStateDefaults;
use datafusion::execution::context::{ExecutionProps, SQLOptions};
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::{LogicalPlan, Volatility};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::prelude::SessionConfig;
use datafusion::sql::parser::Statement;
use futures::FutureExt;

use super::concat::OnePartition;
use super::error::{SqlError, SqlErrorKind};
use super::join_sides::{KeepStreamedOrder, StreamFirstTable};
use super::query::Query;
use super::seeded;
use super::table_arguments;

/// What a query's result may depend on, beside its inputs, and what it may use up.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of the stage: `random()` in two stages gives different numbers.
    pub stage: String,
    /// Values of the `$name` parameters: strings, integers, floats or booleans.
    pub params: BTreeMap<String, serde_json::Value>,
    /// Seed of `random()` and `uuid()`.
    pub seed: u64,
    /// What `now()` and `current_date` say.
    pub started: SystemTime,
    /// Bytes that a [`super::StreamQuery`] may keep in memory before it spills; its own, not shared with other queries, so
    /// that what it spills (and with it the rounding of float sums) depends on its inputs alone.
    pub memory_limit: usize,
    /// Existing folder for spill files. They are removed when the query ends; what a killed process leaves is the caller's
    /// to remove.
    pub spill_folder: PathBuf,
    /// Bytes of spill files at which the query fails.
    pub spill_limit: u64,
}

/// Rows per batch inside and at the end of a query; the same as the default cut.
pub(super) const BATCH_ROWS: usize = 8192;

/// Memory that a sort sets aside for merging what it has spilled. A sort whose share of the limit is smaller than this fails
/// instead of spilling, so it goes down with the limit.
fn sort_reservation(memory_limit: usize) -> usize {
    (memory_limit / 8).clamp(256 << 10, 10 << 20)
}

/// Returns a state for a query that runs within the limits of `settings`.
pub(super) fn limited_state(settings: &Settings) -> Result<SessionState, SqlError> {
    let disk = DiskManagerBuilder::default()
        .with_mode(DiskManagerMode::Directories(vec![settings.spill_folder.clone()]))
        .with_max_temp_directory_size(settings.spill_limit);
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(FairSpillPool::new(settings.memory_limit)))
        .with_disk_manager_builder(disk)
        .build_arc()
        .map_err(|error| SqlError::from_engine(error, Some(settings)))?;
    Ok(state(settings, runtime, config(settings)))
}

/// Returns a state for planning and for work on single batches, which neither counts memory nor spills.
pub(super) fn unlimited_state(settings: &Settings) -> Result<SessionState, SqlError> {
    let runtime = unlimited_runtime().map_err(|error| SqlError::from_engine(error, Some(settings)))?;
    Ok(state(settings, runtime, config(settings)))
}

/// The same, for planning alone: errors tell where in the query they are.
pub(super) fn checking_state(settings: &Settings) -> Result<SessionState, DataFusionError> {
    let mut config = config(settings);
    config.options_mut().sql_parser.collect_spans = true;
    Ok(state(settings, unlimited_runtime()?, config))
}

fn unlimited_runtime() -> Result<Arc<RuntimeEnv>, DataFusionError> {
    let disk = DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled);
    RuntimeEnvBuilder::new().with_disk_manager_builder(disk).build_arc()
}

/// The schema under which an input is planned. Whether a column may hold nulls is not believed: it decides what the
/// optimiser leaves out, and sources differ in how carefully they say it.
pub(super) fn planned_schema(schema: &Schema) -> SchemaRef {
    let fields: Vec<_> = schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true)).collect();
    Arc::new(Schema::new(fields))
}

/// Registers what makes values from values; file formats and table factories are left out on purpose.
fn state(settings: &Settings, runtime: Arc<RuntimeEnv>, config: SessionConfig) -> SessionState {
    let mut functions = SessionStateDefaults::default_scalar_functions();
    // What is left of them reads the place of a row in a file, which no table here has.
    functions.retain(|function| function.signature().volatility != Volatility::Volatile);
    functions.extend(seeded::functions());
    let tables = SessionStateDefaults::default_table_functions();
    let properties = ExecutionProps {
        query_execution_start_time: Some(settings.started.into()),
        config_options: Some(Arc::clone(config.options())),
        ..ExecutionProps::default()
    };
    SessionStateBuilder::new()
        .with_session_id(String::new())
        .with_config(config)
        .with_runtime_env(runtime)
        .with_execution_props(properties)
        .with_expr_planners(SessionStateDefaults::default_expr_planners())
        .with_scalar_functions(functions)
        .with_higher_order_functions(SessionStateDefaults::default_higher_order_functions())
        .with_aggregate_functions(SessionStateDefaults::default_aggregate_functions())
        .with_window_functions(SessionStateDefaults::default_window_functions())
        .with_table_functions(tables.into_iter().map(|table| (table.name().to_owned(), table)).collect())
        .with_physical_optimizer_rules(physical_rules())
        .build()
}

/// One partition: the order of rows and the rounding of float sums then never depend on which thread was faster.
fn config(settings: &Settings) -> SessionConfig {
    let mut config =
        SessionConfig::new().with_target_partitions(1).with_batch_size(BATCH_ROWS).with_information_schema(false);
    let options = config.options_mut();
    // Columns are named as in the file, and strings stay plain strings for whoever reads the result.
    options.sql_parser.enable_ident_normalization = false;
    options.sql_parser.map_string_types_to_utf8view = false;
    options.execution.sort_spill_reservation_bytes = sort_reservation(settings.memory_limit);
    config
}

/// Rules that move or split work come first, as those that insert sorts and enforce distributions must see what they did.
fn physical_rules() -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    let mut rules: Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> =
        vec![Arc::new(OnePartition), Arc::new(StreamFirstTable)];
    rules.extend(PhysicalOptimizer::new().rules);
    rules.push(Arc::new(KeepStreamedOrder));
    rules
}

/// Plans `query` over `tables`, binds its params and seeds its random functions. Not optimised yet.
pub(super) fn logical_plan(
    state: &SessionState,
    query: &Query,
    tables: Vec<(&str, Arc<dyn TableProvider>)>,
    settings: &Settings,
) -> Result<LogicalPlan, DataFusionError> {
    for (name, table) in tables {
        // A bare reference: dots in the name must not be taken for a schema.
        let reference = TableReference::bare(name);
        state.schema_for_ref(reference)?.register_table(name.to_owned(), table)?;
    }
    let mut statement = query.statement().clone();
    table_arguments::bind(&mut statement, &settings.params);
    let statement = Statement::Statement(Box::new(statement));
    let plan =
        state.statement_to_plan(statement).now_or_never().expect("tables in memory are found without waiting")?;
    query_only().verify_plan(&plan)?;
    let plan = plan.with_param_values(param_values(settings)?)?;
    seeded::bind(plan, settings)
}

/// Forgets tables, so that a state can be used for another query.
pub(super) fn forget_tables(state: &SessionState, names: &[&str]) -> Result<(), DataFusionError> {
    for name in names {
        state.schema_for_ref(TableReference::bare(*name))?.deregister_table(name)?;
    }
    Ok(())
}

fn query_only() -> SQLOptions {
    SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false)
}

fn param_values(settings: &Settings) -> datafusion::common::Result<ParamValues> {
    let mut values = HashMap::new();
    for (name, value) in &settings.params {
        values.insert(name.clone(), scalar(name, value)?);
    }
    Ok(values.into())
}

fn scalar(name: &str, value: &serde_json::Value) -> datafusion::common::Result<ScalarValue> {
    use serde_json::Value;
    match value {
        Value::String(text) => Ok(ScalarValue::from(text.as_str())),
        Value::Bool(truth) => Ok(ScalarValue::from(*truth)),
        Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(number), _, _) => Ok(ScalarValue::from(number)),
            (None, Some(number), _) => Ok(ScalarValue::from(number)),
            (None, None, Some(number)) => Ok(ScalarValue::from(number)),
            (None, None, None) => datafusion::common::plan_err!("param `{name}`: {number} is out of range"),
        },
        Value::Null => Ok(ScalarValue::Null),
        Value::Array(_) | Value::Object(_) => {
            datafusion::common::plan_err!("param `{name}` is no string, number or boolean")
        }
    }
}

/// Reports params that the query names and `settings` lack.
pub(super) fn check_params(query: &Query, settings: &Settings) -> Result<(), SqlError> {
    match query.parameters().iter().find(|name| !settings.params.contains_key(*name)) {
        Some(name) => Err(SqlError::new(SqlErrorKind::Plan, format!("no param is named `{name}`"))),
        None => Ok(()),
    }
}
