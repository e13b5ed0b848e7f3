//! [`Growth`]: whether a query may give much more than it gets, decided from the syntax.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, Join, JoinConstraint, JoinOperator, Query, Select, TableFactor, Visit, Visitor,
};

use super::query::function_name;

/// How large the result of a query is, and what it keeps meanwhile, beside its inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Growth {
    /// A row out for a row in, or fewer.
    None,
    /// Rows with equal keys meet, which are few in sensible queries.
    Joined,
    /// Nobody knows: every row may meet every other, rows come from nothing, values grow with a number in the query.
    Unbounded,
}

pub(super) fn growth(query: &Query) -> Growth {
    let mut search = Search { found: Growth::None };
    match query.visit(&mut search) {
        ControlFlow::Continue(()) => search.found,
        ControlFlow::Break(()) => Growth::Unbounded,
    }
}

/// Functions that make many rows or large values of few and small ones, or keep all rows of a group.
const ENLARGING: &[&str] = &[
    "array_agg",
    "array_repeat",
    "array_resize",
    "first_value",
    "generate_series",
    "last_value",
    "list_repeat",
    "list_resize",
    "lpad",
    "median",
    "nth_value",
    "percentile_cont",
    "quantile_cont",
    "range",
    "repeat",
    "rpad",
    "string_agg",
    "unnest",
];

struct Search {
    found: Growth,
}

impl Visitor for Search {
    /// It may grow without bound.
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        stop_if(query.with.as_ref().is_some_and(|with| with.recursive))
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        let joins = select.from.iter().flat_map(|from| &from.joins);
        if joins.clone().next().is_some() {
            self.found = Growth::Joined;
        }
        stop_if(select.from.len() > 1 || !joins.clone().all(has_keys))
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        stop_if(!matches!(factor, TableFactor::Table { args: None, .. } | TableFactor::Derived { lateral: false, .. }))
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        let Expr::Function(function) = expr else { return ControlFlow::Continue(()) };
        let name = function_name(&function.name).map(|name| name.to_lowercase());
        stop_if(name.is_none_or(|name| ENLARGING.contains(&name.as_str())))
    }
}

fn stop_if(unbounded: bool) -> ControlFlow<()> {
    if unbounded { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

/// Whether rows meet only if they agree in a key.
fn has_keys(join: &Join) -> bool {
    use JoinOperator::{
        Anti, FullOuter, Inner, Join, Left, LeftAnti, LeftOuter, LeftSemi, Right, RightAnti, RightOuter,
    };
    use JoinOperator::{RightSemi, Semi};
    let (Join(constraint)
    | Inner(constraint)
    | Left(constraint)
    | LeftOuter(constraint)
    | Right(constraint)
    | RightOuter(constraint)
    | FullOuter(constraint)
    | Semi(constraint)
    | LeftSemi(constraint)
    | RightSemi(constraint)
    | Anti(constraint)
    | LeftAnti(constraint)
    | RightAnti(constraint)) = &join.join_operator
    else {
        return false;
    };
    match constraint {
        JoinConstraint::On(condition) => demands_equality(condition),
        JoinConstraint::Using(columns) => !columns.is_empty(),
        // Tables without a common column are crossed.
        JoinConstraint::Natural | JoinConstraint::None => false,
    }
}

fn demands_equality(condition: &Expr) -> bool {
    match condition {
        Expr::Nested(inner) => demands_equality(inner),
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => demands_equality(left) || demands_equality(right),
        Expr::BinaryOp { left, op: BinaryOperator::Eq, right } => names_column(left) && names_column(right),
        _ => false,
    }
}

fn names_column(expr: &Expr) -> bool {
    struct Found;
    impl Visitor for Found {
        type Break = ();

        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
            stop_if(matches!(expr, Expr::Identifier(_) | Expr::CompoundIdentifier(_)))
        }
    }
    expr.visit(&mut Found).is_break()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(expected: Growth, queries: &[&str]) {
        for sql in queries {
            assert_eq!(crate::sql::Query::parse(sql).expect("a query").growth(), expected, "{sql}");
        }
    }

    #[test]
    fn most_queries_give_no_more_than_they_get() {
        check(
            Growth::None,
            &[
                "SELECT lower(a) AS a FROM t WHERE b > 1",
                "SELECT a, count(*) AS n, sum(b) AS b FROM t GROUP BY a ORDER BY n",
                "WITH u AS (SELECT a FROM t) SELECT a FROM u UNION ALL SELECT a FROM v",
                "SELECT a FROM (SELECT a FROM t ORDER BY b LIMIT 3) WHERE a IN (SELECT a FROM u)",
                "SELECT a, row_number() OVER (PARTITION BY b ORDER BY a) AS n FROM t",
            ],
        );
    }

    #[test]
    fn joins_by_keys_give_a_little_more() {
        check(
            Growth::Joined,
            &[
                "SELECT * FROM t JOIN u ON t.a = u.a",
                "SELECT * FROM t LEFT JOIN u ON (t.a = u.b AND t.c > u.c)",
                "SELECT * FROM t JOIN u USING (a)",
                "SELECT a FROM (SELECT t.a FROM t FULL JOIN u ON lower(t.a) = u.a)",
            ],
        );
    }

    #[test]
    fn some_may_give_anything() {
        check(
            Growth::Unbounded,
            &[
                "SELECT * FROM t CROSS JOIN u",
                "SELECT * FROM t, u WHERE t.a = u.a",
                "SELECT * FROM t JOIN u ON t.a < u.a",
                "SELECT * FROM t JOIN u ON t.a = 1",
                "SELECT * FROM t JOIN u ON t.a = u.a OR t.b = u.b",
                "SELECT * FROM t NATURAL JOIN u",
                "SELECT unnest(xs) AS x FROM t",
                "SELECT * FROM generate_series(1, 1000000)",
                "SELECT Repeat(a, 100) AS a FROM t",
                "SELECT array_agg(a) AS a FROM t",
                "WITH RECURSIVE u AS (SELECT 1 AS a UNION ALL SELECT a + 1 FROM u WHERE a < 9) SELECT a FROM u",
            ],
        );
    }
}
