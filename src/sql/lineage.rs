//! [`types_known`]: which columns of a result have types that do not depend on columns whose types are not known.

use datafusion::common::tree_node::TreeNode;
use datafusion::common::{DFSchema, JoinType, Result};
use datafusion::logical_expr::{Expr, LogicalPlan};

/// Whether the type of each column that `plan` gives is known, if those of the tables' columns for which `is_known` (given table and
/// column) are; `None` if that cannot be told. The plan must be as it was written: an optimised one has made use of types.
pub(super) fn types_known(plan: &LogicalPlan, is_known: &dyn Fn(&str, &str) -> bool) -> Result<Option<Vec<bool>>> {
    let of = |input: &LogicalPlan| types_known(input, is_known);
    Ok(match plan {
        LogicalPlan::TableScan(scan) => {
            let table = scan.table_name.table();
            Some(scan.projected_schema.fields().iter().map(|field| is_known(table, field.name())).collect())
        }
        LogicalPlan::EmptyRelation(_) | LogicalPlan::Values(_) => Some(vec![true; plan.schema().fields().len()]),
        LogicalPlan::SubqueryAlias(alias) => of(&alias.input)?,
        LogicalPlan::Filter(filter) => of(&filter.input)?,
        LogicalPlan::Sort(sort) => of(&sort.input)?,
        LogicalPlan::Limit(limit) => of(&limit.input)?,
        LogicalPlan::Projection(projection) => {
            let Some(input) = of(&projection.input)? else { return Ok(None) };
            let exprs = projection.expr.iter();
            Some(exprs.map(|expr| is_known_in(expr, projection.input.schema(), &input)).collect::<Result<_>>()?)
        }
        LogicalPlan::Aggregate(aggregate) => {
            let Some(input) = of(&aggregate.input)? else { return Ok(None) };
            let exprs = aggregate.group_expr.iter().chain(&aggregate.aggr_expr);
            let known = exprs.map(|expr| is_known_in(expr, aggregate.input.schema(), &input));
            // Grouping sets add a column.
            Some(known.collect::<Result<Vec<_>>>()?).filter(|known| known.len() == aggregate.schema.fields().len())
        }
        LogicalPlan::Join(join)
            if matches!(join.join_type, JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full) =>
        {
            let (Some(mut left), Some(right)) = (of(&join.left)?, of(&join.right)?) else { return Ok(None) };
            left.extend(right);
            Some(left)
        }
        _ => None,
    }
    .filter(|known| known.len() == plan.schema().fields().len()))
}

fn is_known_in(expr: &Expr, schema: &DFSchema, known: &[bool]) -> Result<bool> {
    // What a query in the expression reads, and rows around it, are not looked at.
    let is_beyond = |expr: &Expr| {
        matches!(
            expr,
            Expr::ScalarSubquery(_)
                | Expr::Exists(_)
                | Expr::InSubquery(_)
                | Expr::SetComparison(_)
                | Expr::OuterReferenceColumn(..)
                | Expr::Unnest(_)
        )
    };
    if expr.exists(|expr| Ok(is_beyond(expr)))? {
        return Ok(false);
    }
    for column in expr.column_refs() {
        if !known[schema.index_of_column(column)?] {
            return Ok(false);
        }
    }
    Ok(true)
}
