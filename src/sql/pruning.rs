//! [`Pruning`]: which parts of an input cannot give a query a row, told from the bounds of their values.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, UInt64Array};
use arrow::datatypes::SchemaRef;
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Column, Result, ScalarValue};
use datafusion::datasource::empty::EmptyTable;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Filter, LogicalPlan};
use datafusion::physical_expr::create_physical_expr;
use datafusion::physical_optimizer::pruning::{PruningPredicate, PruningPredicateBuilder};

use super::context::{self, Settings};
use super::query::Query;

/// What a query asks of the rows of its only input before it does anything else with them.
#[derive(Debug)]
pub struct Pruning {
    /// One for each place where the query reads the input.
    conditions: Vec<PruningPredicate>,
}

/// What is known of the parts of an input.
#[derive(Debug)]
pub struct Parts {
    /// Rows of each part.
    pub rows: UInt64Array,
    pub columns: BTreeMap<String, Bounds>,
}

/// Bounds of the values of a column in each part; null where they are not known.
#[derive(Debug)]
pub struct Bounds {
    pub least: ArrayRef,
    pub greatest: ArrayRef,
    pub nulls: UInt64Array,
}

impl Pruning {
    /// Plans `query` over an input of `schema`, which it knows as `table`. `None` if every row may matter, or if the query cannot
    /// be planned, which it says when its turn comes.
    pub fn plan(query: &Query, table: &str, schema: &SchemaRef, settings: &Settings) -> Option<Self> {
        let state = context::unlimited_state(settings).ok()?;
        let source = Arc::new(EmptyTable::new(context::planned_schema(schema)));
        let plan = context::logical_plan(&state, query, vec![(table, source)], settings).ok()?;
        let plan = state.optimize(&plan).ok()?;
        let conditions = conditions(&plan, &state).ok()??;
        (!conditions.is_empty()).then_some(Self { conditions })
    }

    /// Whether each part may have rows that matter.
    pub fn keeps(&self, parts: &Parts) -> Vec<bool> {
        let mut kept = vec![false; parts.rows.len()];
        for condition in &self.conditions {
            // What cannot be decided is read.
            let passed = condition.prune(parts).unwrap_or_else(|_| vec![true; kept.len()]);
            kept.iter_mut().zip(passed).for_each(|(kept, passed)| *kept |= passed);
        }
        kept
    }
}

/// The condition at each place where the plan reads its table; `None` if it takes all rows somewhere, or numbers them.
fn conditions(plan: &LogicalPlan, state: &SessionState) -> Result<Option<Vec<PruningPredicate>>> {
    let (mut found, mut scans, mut is_volatile) = (Vec::new(), 0, false);
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            is_volatile |= expr.is_volatile();
            Ok(TreeNodeRecursion::Continue)
        })?;
        match node {
            LogicalPlan::TableScan(_) => scans += 1,
            LogicalPlan::Filter(filter) if matches!(&*filter.input, LogicalPlan::TableScan(_)) => {
                found.push(condition(filter, state)?);
            }
            _ => {}
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    // Random values depend on how many rows came before.
    let all = is_volatile || found.len() < scans || found.iter().any(PruningPredicate::always_true);
    Ok((!all).then_some(found))
}

fn condition(filter: &Filter, state: &SessionState) -> Result<PruningPredicate> {
    let schema = filter.input.schema();
    let planning = PhysicalPlanningContext::default();
    let condition = create_physical_expr(&filter.predicate, schema, state.execution_props(), &planning)?;
    PruningPredicateBuilder::new().with_file_schema(Arc::clone(schema.inner())).try_build(condition)
}

impl PruningStatistics for Parts {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.columns.get(&column.name).map(|bounds| Arc::clone(&bounds.least))
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.columns.get(&column.name).map(|bounds| Arc::clone(&bounds.greatest))
    }

    fn num_containers(&self) -> usize {
        self.rows.len()
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        self.columns.get(&column.name).map(|bounds| Arc::new(bounds.nulls.clone()) as ArrayRef)
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        Some(Arc::new(self.rows.clone()))
    }

    fn contained(&self, _: &Column, _: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::SystemTime;

    use arrow::array::{Int64Array, StringArray};
    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;

    /// Three parts: `a` is 0 to 9, 10 to 19, and all null; `s` is not known in the last.
    fn parts() -> Parts {
        let numbers = |numbers: [Option<i64>; 3]| Arc::new(Int64Array::from(numbers.to_vec())) as ArrayRef;
        let texts = |texts: [Option<&str>; 3]| Arc::new(StringArray::from(texts.to_vec())) as ArrayRef;
        let a = Bounds {
            least: numbers([Some(0), Some(10), None]),
            greatest: numbers([Some(9), Some(19), None]),
            nulls: vec![0, 1, 10].into(),
        };
        let s = Bounds {
            least: texts([Some("a"), Some("k"), None]),
            greatest: texts([Some("j"), Some("z"), None]),
            nulls: vec![Some(0), Some(0), None].into(),
        };
        let columns = [("a".to_owned(), a), ("s".to_owned(), s)].into();
        Parts { rows: vec![10, 10, 10].into(), columns }
    }

    /// The parts that are kept, or `all` if the query cannot do without any.
    fn kept(sql: &str) -> String {
        let query = Query::parse(sql).expect("a query");
        let fields = [("a", DataType::Int64), ("s", DataType::Utf8), ("x", DataType::Int64)];
        let schema = Arc::new(Schema::new(fields.map(|(name, of)| Field::new(name, of, true)).to_vec()));
        let settings = Settings {
            stage: "q".to_owned(),
            params: [("floor".to_owned(), 12.into())].into(),
            seed: 1,
            started: SystemTime::UNIX_EPOCH,
            memory_limit: 1 << 20,
            spill_folder: PathBuf::new(),
            spill_limit: 0,
        };
        let Some(pruning) = Pruning::plan(&query, "t", &schema, &settings) else { return "all".to_owned() };
        let kept = pruning.keeps(&parts());
        (0..kept.len()).filter(|at| kept[*at]).map(|at| at.to_string()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn parts_without_rows_that_pass_are_not_kept() {
        for (sql, expected) in [
            ("SELECT x FROM t WHERE a >= $floor", "1"),
            ("SELECT x FROM t WHERE a > 5 AND x > 0", "0 1"),
            ("SELECT x FROM t WHERE a = 3 AND length(s) > 1", "0"),
            ("SELECT x FROM t WHERE s >= 'm'", "1 2"),
            ("SELECT x FROM t WHERE s = 'b' AND a = 15", ""),
            ("SELECT x FROM t WHERE a IS NULL", "1 2"),
            ("SELECT x FROM t WHERE a IN (1, 2) OR a BETWEEN 30 AND 40", "0"),
            ("SELECT count(*) FROM t AS u WHERE u.a < 10", "0"),
            ("SELECT sum(x) FROM (SELECT a AS b, x FROM t) WHERE b > 12 GROUP BY b", "1"),
            ("WITH w AS (SELECT * FROM t WHERE a < 5) SELECT * FROM w UNION ALL SELECT * FROM t WHERE a > 15", "0 1"),
            ("SELECT x FROM t WHERE a > 100", ""),
        ] {
            assert_eq!(kept(sql), expected, "{sql}");
        }
    }

    #[test]
    fn queries_that_may_need_any_row_keep_all() {
        for sql in [
            "SELECT * FROM t",
            "SELECT x FROM t WHERE length(s) > 3",
            "SELECT x FROM t WHERE a > 12 UNION ALL SELECT x FROM t",
            "SELECT a FROM t WHERE a > 15 AND random() < 0.5",
            "SELECT random() AS r FROM t WHERE a > 15",
            "SELECT * FROM t WHERE nonsense > 3",
            "SELECT max(a) AS m FROM t HAVING max(a) > 100",
            "SELECT a, row_number() OVER (ORDER BY s) AS r FROM t QUALIFY r < 3",
            "SELECT * FROM (SELECT a FROM t LIMIT 3) WHERE a > 12",
        ] {
            assert_eq!(kept(sql), "all", "{sql}");
        }
    }
}
