//! [`Checker`]: whether queries fit tables of which nothing is known but the columns, and what columns they give.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use datafusion::common::{Column, DataFusionError, SchemaError, TableReference};
use datafusion::datasource::empty::EmptyTable;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::LogicalPlan;

use super::context::{self, Settings};
use super::error::{SqlError, SqlErrorKind};
use super::query::Query;
use super::stack::{PLANNING, on_deep};
use super::{lineage, stream, table_arguments};

/// Plans one query after the other as a run would, as far as that tells names and types, and computes nothing.
pub struct Checker {
    state: SessionState,
}

/// Why a query cannot be planned over its tables, so that a run would fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    pub kind: MisfitKind,
    /// As [`SqlError::message`].
    pub message: String,
    /// Where in the text it is, if that is known: from the start of the first to the end of the last word.
    pub place: Option<(TextPosition, TextPosition)>,
}

/// A place in the text of a query, as in [`super::SyntaxError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextPosition {
    pub line: usize,
    pub column: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MisfitKind {
    UnknownColumn {
        /// The table, or part of the query, that is said to have it.
        of: Option<String>,
        /// With a table in front if that is not known either.
        name: String,
        /// The columns that there are, written in the same way.
        known: Vec<String>,
    },
    AmbiguousColumn {
        name: String,
    },
    UnknownFunction {
        name: String,
        /// One of a similar name.
        similar: Option<String>,
    },
    /// Types that do not go together, and all else.
    Other,
}

impl Checker {
    /// `None` if the engine cannot be set up. `settings` are those of any of the queries: for all of them, memory and the start of the run
    /// are the same.
    pub fn new(settings: &Settings) -> Option<Self> {
        Some(Self { state: context::checking_state(settings).ok()? })
    }

    /// The columns of the result of `query` over tables with these columns. `Ok(None)` if nobody can tell before there are rows.
    ///
    /// # Errors
    /// If the query cannot be run over these tables, whatever their rows are.
    pub fn columns(
        &self,
        query: &Query,
        tables: &[(&str, SchemaRef)],
        settings: &Settings,
    ) -> Result<Option<SchemaRef>, Box<Misfit>> {
        let columns = self.with_plan(query, tables, settings, |plan| {
            // Types are settled, and nothing is computed: a file is checked that nobody may trust. An optimiser calls functions of constants.
            let plan = self.state.analyzer().execute_and_check(plan, self.state.config_options(), |_, _| {})?;
            Ok(stream::output_schema(plan.schema().as_arrow()))
        });
        match columns {
            Some(Ok(Ok(columns))) => Ok(Some(columns)),
            Some(Ok(Err(error))) => Err(Box::new(Misfit::new(error))),
            Some(Err(error)) => Misfit::of(error).map_or(Ok(None), |misfit| Err(Box::new(misfit))),
            None => Ok(None),
        }
    }

    /// Whether the type of each column of the result would be the same whatever those types of the tables' columns are for which not
    /// `is_known` (given table and column). `None` if that cannot be told of any.
    pub fn types_known(
        &self,
        query: &Query,
        tables: &[(&str, SchemaRef)],
        settings: &Settings,
        is_known: &dyn Fn(&str, &str) -> bool,
    ) -> Option<Vec<bool>> {
        let known = self.with_plan(query, tables, settings, |plan| lineage::types_known(&plan, is_known));
        known?.ok()?
    }

    /// Plans a query, and forgets its tables after `then`; `None` if the engine is at fault, or would have to compute something.
    fn with_plan<'t, T>(
        &self,
        query: &Query,
        tables: &[(&'t str, SchemaRef)],
        settings: &Settings,
        then: impl FnOnce(LogicalPlan) -> Result<T, DataFusionError>,
    ) -> Option<Result<T, DataFusionError>> {
        if table_arguments::call_functions(query.statement()) {
            return None;
        }
        let table = |(name, schema): &(&'t str, SchemaRef)| {
            let table: Arc<dyn TableProvider> = Arc::new(EmptyTable::new(context::planned_schema(schema)));
            (*name, table)
        };
        let plan =
            || context::logical_plan(&self.state, query, tables.iter().map(table).collect(), settings).and_then(then);
        // A panic of the engine is no fault of the file. If it comes again in a run, that says so.
        let planned = catch_unwind(AssertUnwindSafe(|| on_deep(PLANNING, plan)));
        let names: Vec<&str> = tables.iter().map(|(name, _)| *name).collect();
        context::forget_tables(&self.state, &names).ok()?;
        planned.ok()
    }
}

impl Misfit {
    /// `None` if the query may not be at fault.
    fn of(error: DataFusionError) -> Option<Self> {
        let span = error.diagnostic().and_then(|diagnostic| diagnostic.span);
        let position = |line: u64, column: u64| {
            Some(TextPosition { line: usize::try_from(line).ok()?, column: usize::try_from(column).ok()? })
        };
        let place = span.and_then(|span| {
            Some((position(span.start.line, span.start.column)?, position(span.end.line, span.end.column)?))
        });
        let kind = kind(first(&error));
        let error = SqlError::from_engine(error, None);
        (error.kind == SqlErrorKind::Plan).then(|| Self { kind, place, ..Self::new(error) })
    }

    fn new(error: SqlError) -> Self {
        Self { kind: MisfitKind::Other, message: error.message, place: None }
    }
}

/// The error that [`SqlError::from_engine`] tells of.
fn first(error: &DataFusionError) -> &DataFusionError {
    match error {
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => first(inner),
        DataFusionError::Shared(inner) => first(inner),
        DataFusionError::Collection(errors) => errors.first().map_or(error, first),
        other => other,
    }
}

fn kind(error: &DataFusionError) -> MisfitKind {
    match error {
        DataFusionError::SchemaError(error, _) => match &**error {
            SchemaError::FieldNotFound { field, valid_fields } => {
                let is_in =
                    |column: &Column, table: &str| column.relation.as_ref().is_some_and(|of| of.table() == table);
                let table = field.relation.as_ref().map(TableReference::table);
                // A column of what is no table here is shown as it is written.
                let of = table.filter(|table| valid_fields.iter().any(|column| is_in(column, table)));
                let (name, mut known): (_, Vec<String>) = match (table, of) {
                    (Some(_), None) => (field.flat_name(), valid_fields.iter().map(Column::flat_name).collect()),
                    (None, _) => (field.name.clone(), valid_fields.iter().map(|column| column.name.clone()).collect()),
                    (Some(_), Some(table)) => {
                        let columns = valid_fields.iter().filter(|column| is_in(column, table));
                        (field.name.clone(), columns.map(|column| column.name.clone()).collect())
                    }
                };
                let mut seen = HashSet::new();
                known.retain(|name| seen.insert(name.clone()));
                MisfitKind::UnknownColumn { of: of.map(str::to_owned), name, known }
            }
            SchemaError::AmbiguousReference { field } => MisfitKind::AmbiguousColumn { name: field.name.clone() },
            _ => MisfitKind::Other,
        },
        DataFusionError::Plan(text) => match text.strip_prefix("Invalid function '").and_then(|it| it.split_once('\''))
        {
            Some((name, rest)) => {
                let similar = rest.split_once("Did you mean '").and_then(|(_, rest)| rest.split_once('\''));
                MisfitKind::UnknownFunction {
                    name: name.to_owned(),
                    similar: similar.map(|(similar, _)| similar.to_owned()),
                }
            }
            None => MisfitKind::Other,
        },
        _ => MisfitKind::Other,
    }
}
