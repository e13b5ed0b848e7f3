//! `GROUP BY` without `ORDER BY` is emitted sorted by its keys.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::{Column, Result};
use datafusion::logical_expr::{Aggregate, Expr, LogicalPlan, Sort};

/// Sorts the outermost aggregate by its keys, unless the query sorts by itself.
pub(super) fn sort_by_keys(plan: LogicalPlan) -> Result<LogicalPlan> {
    match plan {
        LogicalPlan::Projection(_) | LogicalPlan::SubqueryAlias(_) | LogicalPlan::Filter(_) | LogicalPlan::Limit(_) => {
            let inputs: Result<Vec<_>> = plan.inputs().into_iter().cloned().map(sort_by_keys).collect();
            plan.with_new_exprs(plan.expressions(), inputs?)
        }
        LogicalPlan::Aggregate(aggregate) => Ok(sorted(aggregate)),
        other => Ok(other),
    }
}

fn sorted(aggregate: Aggregate) -> LogicalPlan {
    // The keys come first, and with GROUPING SETS a column that tells the sets apart.
    let values = aggregate.aggr_expr.len();
    let keys = aggregate.schema.fields().len() - values;
    let fields: Vec<_> = aggregate.schema.iter().take(keys).collect();
    let sortable = fields.iter().all(|(_, field)| can_sort(field.data_type()));
    let order = fields.iter().map(|pair| Expr::Column(Column::from(*pair)).sort(true, false)).collect();
    let plan = LogicalPlan::Aggregate(aggregate);
    if keys == 0 || !sortable {
        return plan;
    }
    LogicalPlan::Sort(Sort { expr: order, input: Arc::new(plan), fetch: None })
}

/// Groups of other types stay in the order in which they were first seen.
fn can_sort(data_type: &DataType) -> bool {
    match data_type {
        DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _) => {
            can_sort(field.data_type())
        }
        DataType::Dictionary(_, values) => can_sort(values),
        DataType::Struct(fields) => fields.iter().all(|field| can_sort(field.data_type())),
        DataType::Map(..) | DataType::Union(..) | DataType::RunEndEncoded(..) => false,
        _ => true,
    }
}
