//! Counts the operators of a query that keep rows, from the syntax.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{Expr, GroupByExpr, Query, Select, SetExpr, Visit, Visitor};

/// How many operators of a query may keep rows until their input has ended: sorts, groups, joins, windows, unions without duplicates.
/// Each has its share of the query's memory.
pub(super) fn blocking_operators(query: &Query) -> u64 {
    let mut count = Count(0);
    let _: ControlFlow<()> = query.visit(&mut count);
    count.0
}

struct Count(u64);

impl Visitor for Count {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        self.0 += u64::from(query.order_by.is_some()) + set_operations(&query.body);
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        let groups = match &select.group_by {
            GroupByExpr::Expressions(keys, _) => !keys.is_empty(),
            GroupByExpr::All(_) => true,
        };
        let joins = select.from.iter().map(|from| from.joins.len() as u64 + 1).sum::<u64>().saturating_sub(1);
        self.0 += u64::from(groups) + u64::from(select.distinct.is_some()) + joins;
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        self.0 += match expr {
            Expr::Function(function) => u64::from(function.over.is_some()),
            Expr::Subquery(_) | Expr::Exists { .. } | Expr::InSubquery { .. } => 1,
            _ => 0,
        };
        ControlFlow::Continue(())
    }
}

fn set_operations(body: &SetExpr) -> u64 {
    let mut pending = vec![body];
    let mut count = 0;
    while let Some(body) = pending.pop() {
        if let SetExpr::SetOperation { left, right, .. } = body {
            count += 1;
            pending.extend([&**left, &**right]);
        }
    }
    count
}

#[cfg(test)]
mod tests {
    #[test]
    fn operators_that_keep_rows_are_counted() {
        for (count, sql) in [
            (0, "SELECT a FROM t WHERE b > 1"),
            (1, "SELECT a FROM t ORDER BY a"),
            (2, "SELECT a, count(*) AS n FROM t GROUP BY a ORDER BY n"),
            (3, "SELECT DISTINCT t.a FROM t JOIN u ON t.a = u.a JOIN v ON t.a = v.a"),
            (2, "SELECT rank() OVER (ORDER BY a) AS x, rank() OVER (ORDER BY b) AS y FROM t"),
            (3, "SELECT a FROM t UNION SELECT a FROM u UNION SELECT a FROM (SELECT a FROM v ORDER BY b LIMIT 1)"),
            (2, "SELECT a FROM t WHERE a IN (SELECT a FROM u GROUP BY a)"),
        ] {
            assert_eq!(crate::sql::Query::parse(sql).expect("a query").blocking_operators(), count, "{sql}");
        }
    }
}
