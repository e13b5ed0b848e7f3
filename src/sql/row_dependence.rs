//! Decides from the syntax whether each output row of a query depends on one input row alone.
//!
//! Every clause that is not known to be harmless makes a query not row-wise: the cost of a wrong "no" is speed, that of a
//! wrong "yes" is a wrong result.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::LazyLock;

use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::sql::sqlparser::ast::{
    Expr, Function, FunctionArguments, GroupByExpr, Query, Select, SetExpr, TableFactor, Visit, Visitor,
};

use super::query::function_name;

pub(super) fn is_row_wise(query: &Query) -> bool {
    query_shape(query) && expressions_see_one_row(query)
}

fn query_shape(query: &Query) -> bool {
    let Query { with, body, order_by, limit_clause, fetch, locks, for_clause, settings, format_clause, pipe_operators } =
        query;
    let members = with
        .as_ref()
        .is_none_or(|with| !with.recursive && with.cte_tables.iter().all(|member| query_shape(&member.query)));
    let clauses = order_by.is_none()
        && limit_clause.is_none()
        && fetch.is_none()
        && locks.is_empty()
        && for_clause.is_none()
        && settings.is_none()
        && format_clause.is_none()
        && pipe_operators.is_empty();
    members && clauses && body_shape(body)
}

fn body_shape(body: &SetExpr) -> bool {
    match body {
        SetExpr::Select(select) => select_shape(select),
        SetExpr::Query(query) => query_shape(query),
        _ => false,
    }
}

fn select_shape(select: &Select) -> bool {
    let groups = match &select.group_by {
        GroupByExpr::Expressions(keys, modifiers) => !keys.is_empty() || !modifiers.is_empty(),
        GroupByExpr::All(_) => true,
    };
    let clauses = select.distinct.is_none()
        && select.top.is_none()
        && select.into.is_none()
        && select.lateral_views.is_empty()
        && select.prewhere.is_none()
        && select.connect_by.is_empty()
        && !groups
        && select.cluster_by.is_empty()
        && select.distribute_by.is_empty()
        && select.sort_by.is_empty()
        && select.having.is_none()
        && select.named_window.is_empty()
        && select.qualify.is_none();
    let [from] = select.from.as_slice() else { return false };
    clauses && from.joins.is_empty() && relation_shape(&from.relation)
}

fn relation_shape(relation: &TableFactor) -> bool {
    match relation {
        TableFactor::Table { args: None, sample: None, version: None, with_ordinality: false, .. } => true,
        TableFactor::Derived { lateral: false, subquery, sample: None, .. } => query_shape(subquery),
        _ => false,
    }
}

fn expressions_see_one_row(query: &Query) -> bool {
    matches!(query.visit(&mut OneRow), ControlFlow::Continue(()))
}

/// Stops at the first expression that needs more than its row.
struct OneRow;

impl Visitor for OneRow {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        let needs_more = match expr {
            Expr::Subquery(_) | Expr::Exists { .. } | Expr::InSubquery { .. } => true,
            Expr::Function(function) => !sees_one_row(function),
            _ => false,
        };
        if needs_more { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

fn sees_one_row(function: &Function) -> bool {
    let plain = function.over.is_none()
        && function.filter.is_none()
        && function.null_treatment.is_none()
        && function.within_group.is_empty()
        && !matches!(function.args, FunctionArguments::Subquery(_));
    plain && function_name(&function.name).is_some_and(|name| !MANY_ROW_FUNCTIONS.contains(&name))
}

/// Names and aliases of the aggregate and window functions.
static MANY_ROW_FUNCTIONS: LazyLock<HashSet<String>> = LazyLock::new(|| {
    let state = SessionStateBuilder::new_with_default_features().build();
    state.aggregate_functions().keys().chain(state.window_functions().keys()).cloned().collect()
});
