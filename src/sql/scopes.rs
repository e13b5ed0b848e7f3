//! [`Scopes`]: the names that a query gives to parts of itself (`WITH name AS ...`).

use std::collections::VecDeque;

use datafusion::sql::sqlparser::ast;

/// The `WITH` clauses around a place in a query, while the query is walked.
#[derive(Default)]
pub(super) struct Scopes {
    open: Vec<Scope>,
}

/// The names that one `WITH` gives. The queries of its members are visited first and in order; each name counts from the
/// end of its own query on, so that `WITH t AS (SELECT * FROM t)` reads the table `t`.
struct Scope {
    pending: VecDeque<String>,
    known: Vec<String>,
}

impl Scopes {
    /// Before anything of `query` is visited.
    pub(super) fn enter(&mut self, query: &ast::Query) {
        let mut scope = Scope { pending: VecDeque::new(), known: Vec::new() };
        if let Some(with) = &query.with {
            let names = with.cte_tables.iter().map(|member| member.alias.name.value.clone());
            if with.recursive {
                scope.known.extend(names.clone());
            }
            scope.pending.extend(names);
        }
        self.open.push(scope);
    }

    /// After all of the query that was entered last has been visited.
    pub(super) fn leave(&mut self) {
        self.open.pop();
        if let Some(parent) = self.open.last_mut()
            && let Some(name) = parent.pending.pop_front()
        {
            parent.known.push(name);
        }
    }

    /// Whether `name` is one that the query gives, and no table from outside.
    pub(super) fn give(&self, name: &str) -> bool {
        self.open.iter().any(|scope| scope.known.iter().any(|known| known == name))
    }
}
