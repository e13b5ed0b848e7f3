//! [`UsedColumns`]: the columns of a table that a query names, decided from the syntax.
//!
//! Whatever may stand for columns without naming them (`*`, `NATURAL JOIN`, `PIVOT`, ...) makes a query use all of them: the cost
//! of reading too much is time, that of reading too little is a query that fails or, worse, does not.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    self, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, JoinConstraint, JoinOperator,
    ObjectName, Query, Select, SelectItem, SelectItemQualifiedWildcardKind, TableAlias, TableFactor, TableWithJoins,
    Visit, Visitor,
};

use super::query::function_name;
use super::scopes::Scopes;

/// The columns of a table that queries name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UsedColumns {
    /// Names that cannot be anything else. Where the table lacks one of them, the query is wrong or its names were
    /// misunderstood, and all columns are used: messages can then say what there is.
    pub needed: BTreeSet<String>,
    /// Names that may also be those of results (`... AS name`); the table need not have them.
    pub perhaps: BTreeSet<String>,
}

impl UsedColumns {
    /// Adds what another query uses.
    pub fn extend(&mut self, other: &Self) {
        self.needed.extend(other.needed.iter().cloned());
        self.perhaps.extend(other.perhaps.iter().cloned());
    }

    /// Chooses among the columns of a table; `None` is all of them. One is always chosen, so that rows can be counted.
    pub fn choose<'a>(&self, columns: impl IntoIterator<Item = &'a str>) -> Option<Vec<usize>> {
        let columns: Vec<&str> = columns.into_iter().collect();
        if !self.needed.iter().all(|name| columns.contains(&name.as_str())) {
            return None;
        }
        let used = |name: &str| self.needed.contains(name) || self.perhaps.contains(name);
        let mut chosen: Vec<usize> = (0..columns.len()).filter(|at| used(columns[*at])).collect();
        if chosen.is_empty() && !columns.is_empty() {
            chosen.push(0);
        }
        (chosen.len() < columns.len()).then_some(chosen)
    }
}

/// The columns that `query` uses of each table of which it does not use all.
pub(super) fn of(query: &Query) -> BTreeMap<String, UsedColumns> {
    let mut mentions = Mentions::default();
    match query.visit(&mut mentions) {
        ControlFlow::Continue(()) => mentions.by_table(),
        ControlFlow::Break(Doubt) => BTreeMap::new(),
    }
}

/// Something that may stand for any column.
struct Doubt;

/// The names in a query.
#[derive(Default)]
struct Mentions {
    scopes: Scopes,
    tables: BTreeSet<String>,
    /// Tables of which all columns are used.
    whole: BTreeSet<String>,
    /// What stands before a dot, and the tables that it may be. Parts of the query that are no tables have an entry, too.
    relations: BTreeMap<String, BTreeSet<String>>,
    /// `name.*`.
    whole_relations: BTreeSet<String>,
    /// Names that the query gives to results.
    given: BTreeSet<String>,
    bare: BTreeSet<String>,
    /// Two or more names with dots between them.
    dotted: Vec<Vec<String>>,
}

impl Mentions {
    fn by_table(mut self) -> BTreeMap<String, UsedColumns> {
        for relation in &self.whole_relations {
            self.whole.extend(self.relations.get(relation).into_iter().flatten().cloned());
        }
        let tables = self.tables.difference(&self.whole);
        tables.map(|table| (table.clone(), self.columns_of(table))).collect()
    }

    /// A name without a table may be a column of any.
    fn columns_of(&self, table: &str) -> UsedColumns {
        let mut columns = UsedColumns::default();
        let bare =
            self.bare.iter().chain(self.dotted.iter().filter(|path| !self.is_qualified(path)).map(|path| &path[0]));
        for name in bare {
            let names = if self.given.contains(name) { &mut columns.perhaps } else { &mut columns.needed };
            names.insert(name.clone());
        }
        let qualified =
            self.dotted.iter().filter(|path| self.relations.get(&path[0]).is_some_and(|of| of.contains(table)));
        columns.needed.extend(qualified.map(|path| path[1].clone()));
        columns
    }

    /// Whether the first name of a path is a table or a part of the query, and not a column with fields.
    fn is_qualified(&self, path: &[String]) -> bool {
        self.relations.contains_key(&path[0])
    }

    /// The tables that stand in a `FROM` by themselves.
    fn plain_tables(&self, from: &[TableWithJoins]) -> Vec<String> {
        let mut pending: Vec<&TableFactor> = from.iter().flat_map(factors).collect();
        let mut tables = Vec::new();
        while let Some(factor) = pending.pop() {
            match factor {
                TableFactor::NestedJoin { table_with_joins, .. } => pending.extend(factors(table_with_joins)),
                other => tables.extend(self.table(other)),
            }
        }
        tables
    }

    /// The name of a factor that is a table from outside.
    fn table(&self, factor: &TableFactor) -> Option<String> {
        let TableFactor::Table { name, args: None, .. } = factor else { return None };
        last(name).filter(|name| !self.scopes.give(name))
    }

    fn add_join(&mut self, operator: &JoinOperator, select: &Select) -> ControlFlow<Doubt> {
        use JoinOperator as Kind;
        let (Kind::Join(constraint)
        | Kind::Inner(constraint)
        | Kind::Left(constraint)
        | Kind::LeftOuter(constraint)
        | Kind::Right(constraint)
        | Kind::RightOuter(constraint)
        | Kind::FullOuter(constraint)
        | Kind::CrossJoin(constraint)
        | Kind::Semi(constraint)
        | Kind::LeftSemi(constraint)
        | Kind::RightSemi(constraint)
        | Kind::Anti(constraint)
        | Kind::LeftAnti(constraint)
        | Kind::RightAnti(constraint)) = operator
        else {
            return ControlFlow::Break(Doubt);
        };
        match constraint {
            JoinConstraint::Natural => self.whole.extend(self.plain_tables(&select.from)),
            JoinConstraint::Using(names) => self.bare.extend(names.iter().filter_map(last)),
            JoinConstraint::On(_) | JoinConstraint::None => {}
        }
        ControlFlow::Continue(())
    }

    fn add_item(&mut self, item: &SelectItem, select: &Select) -> ControlFlow<Doubt> {
        match item {
            SelectItem::UnnamedExpr(_) => {}
            SelectItem::ExprWithAlias { alias, .. } => {
                self.given.insert(alias.value.clone());
            }
            SelectItem::Wildcard(_) => self.whole.extend(self.plain_tables(&select.from)),
            SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(name), _) => {
                self.whole_relations.extend(last(name));
            }
            SelectItem::ExprWithAliases { .. } | SelectItem::QualifiedWildcard(..) => return ControlFlow::Break(Doubt),
        }
        ControlFlow::Continue(())
    }

    /// A part of the query that is no table.
    fn add_part(&mut self, alias: Option<&TableAlias>) {
        let Some(alias) = alias else { return };
        self.relations.entry(alias.name.value.clone()).or_default();
        self.given.extend(alias.columns.iter().map(|column| column.name.value.clone()));
    }

    fn add_table(&mut self, factor: &TableFactor, name: &ObjectName, alias: Option<&TableAlias>) {
        self.add_part(alias);
        let Some(relation) = alias.map(|alias| alias.name.value.clone()).or_else(|| last(name)) else { return };
        let Some(table) = self.table(factor) else {
            self.relations.entry(relation).or_default();
            return;
        };
        // `t AS u (x, y)` gives new names by position.
        if alias.is_some_and(|alias| !alias.columns.is_empty()) {
            self.whole.insert(table.clone());
        }
        self.relations.entry(relation).or_default().insert(table.clone());
        self.tables.insert(table);
    }
}

impl Visitor for Mentions {
    type Break = Doubt;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Doubt> {
        self.scopes.enter(query);
        for member in query.with.iter().flat_map(|with| &with.cte_tables) {
            self.given.extend(member.alias.columns.iter().map(|column| column.name.value.clone()));
        }
        doubt_if(!query.pipe_operators.is_empty())
    }

    fn post_visit_query(&mut self, _: &Query) -> ControlFlow<Doubt> {
        self.scopes.leave();
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<Doubt> {
        doubt_if(!select.lateral_views.is_empty() || !select.connect_by.is_empty() || select.exclude.is_some())?;
        // `FROM t` without a `SELECT`.
        if select.projection.is_empty() {
            self.whole.extend(self.plain_tables(&select.from));
        }
        for item in &select.projection {
            self.add_item(item, select)?;
        }
        let mut pending: Vec<&TableWithJoins> = select.from.iter().collect();
        while let Some(from) = pending.pop() {
            for join in &from.joins {
                self.add_join(&join.join_operator, select)?;
            }
            pending.extend(factors(from).filter_map(|factor| match factor {
                TableFactor::NestedJoin { table_with_joins, .. } => Some(&**table_with_joins),
                _ => None,
            }));
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<Doubt> {
        match factor {
            TableFactor::Table { name, alias, args: None, .. } => self.add_table(factor, name, alias.as_ref()),
            TableFactor::Table { alias, .. }
            | TableFactor::Derived { alias, .. }
            | TableFactor::Function { alias, .. }
            | TableFactor::TableFunction { alias, .. }
            | TableFactor::UNNEST { alias, .. } => self.add_part(alias.as_ref()),
            TableFactor::NestedJoin { alias: None, .. } => {}
            _ => return ControlFlow::Break(Doubt),
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Doubt> {
        match expr {
            Expr::Identifier(name) => {
                self.bare.insert(name.value.clone());
            }
            Expr::CompoundIdentifier(path) => match path.as_slice() {
                [name] => {
                    self.bare.insert(name.value.clone());
                }
                path => self.dotted.push(path.iter().map(|name| name.value.clone()).collect()),
            },
            Expr::Wildcard(_) | Expr::QualifiedWildcard(..) => return ControlFlow::Break(Doubt),
            Expr::Function(function) => return doubt_if(takes_columns_unnamed(function)),
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

fn doubt_if(doubtful: bool) -> ControlFlow<Doubt> {
    if doubtful { ControlFlow::Break(Doubt) } else { ControlFlow::Continue(()) }
}

/// Whether a function is given `*`, other than in `count(*)`, which counts rows.
fn takes_columns_unnamed(function: &Function) -> bool {
    let FunctionArguments::List(list) = &function.args else { return false };
    let counts_rows = function_name(&function.name).is_some_and(|name| name == "count");
    list.args.iter().any(|argument| {
        let (FunctionArg::Named { arg, .. } | FunctionArg::ExprNamed { arg, .. } | FunctionArg::Unnamed(arg)) =
            argument;
        match arg {
            FunctionArgExpr::Expr(_) => false,
            FunctionArgExpr::Wildcard => !counts_rows,
            FunctionArgExpr::QualifiedWildcard(_) | FunctionArgExpr::WildcardWithOptions(_) => true,
        }
    })
}

fn factors(from: &TableWithJoins) -> impl Iterator<Item = &TableFactor> {
    std::iter::once(&from.relation).chain(from.joins.iter().map(|join: &ast::Join| &join.relation))
}

fn last(name: &ObjectName) -> Option<String> {
    let ident: &Ident = name.0.last()?.as_ident()?;
    Some(ident.value.clone())
}

#[cfg(test)]
mod tests {
    use super::super::Query;
    use super::*;

    /// The columns of `t` that a query uses: those needed, and behind `?` those that need not be there; `*` is all.
    fn used(sql: &str) -> String {
        let query = Query::parse(sql).expect("a query");
        let Some(columns) = query.columns("t") else { return "*".to_owned() };
        let words = |names: &BTreeSet<String>| names.iter().cloned().collect::<Vec<_>>().join(" ");
        let perhaps = if columns.perhaps.is_empty() { String::new() } else { format!(" ?{}", words(&columns.perhaps)) };
        words(&columns.needed) + &perhaps
    }

    #[test]
    fn named_columns_are_used() {
        for (sql, columns) in [
            ("SELECT a, lower(b) AS c FROM t WHERE d > $floor ORDER BY a", "a b d"),
            ("SELECT stars, avg(score) AS mean FROM t GROUP BY stars ORDER BY mean", "score stars ?mean"),
            ("SELECT t.a, t.\"B c\" FROM t", "B c a"),
            ("SELECT x.a FROM t AS x JOIN u ON x.k = u.k WHERE u.b > 1", "a k"),
            ("SELECT a FROM t JOIN u USING (k)", "a k"),
            ("SELECT s.f.g, a['key'], q[1] FROM t AS x", "a q s"),
            ("SELECT count(*) FROM t", ""),
            ("SELECT count(*) AS n, count(DISTINCT a) FROM t HAVING n > 1", "a ?n"),
            ("SELECT a FROM t WHERE EXISTS (SELECT 1 FROM u WHERE u.b = t.c)", "a c"),
            ("SELECT row_number() OVER (PARTITION BY a ORDER BY b) AS r FROM t QUALIFY r = 1", "a b ?r"),
            ("SELECT a, sum(b) FILTER (WHERE c) OVER w FROM t WINDOW w AS (ORDER BY d)", "a b c d"),
            ("SELECT * FROM (SELECT a, b AS c FROM t) WHERE c > 1", "a b ?c"),
            ("WITH x AS (SELECT a FROM t), y (n) AS (SELECT b FROM t) SELECT x.*, y.n FROM x, y WHERE n > 1", "a b ?n"),
            ("SELECT a FROM t UNION ALL SELECT b FROM t", "a b"),
            ("SELECT a FROM t UNION ALL SELECT u.* FROM u", "a"),
            ("SELECT v FROM t CROSS JOIN UNNEST(t.xs) AS x (v)", "xs ?v"),
            ("SELECT CASE WHEN a IN (SELECT b FROM u) THEN c END, x::int FROM t", "a b c x"),
        ] {
            assert_eq!(used(sql), columns, "{sql}");
        }
    }

    #[test]
    fn what_may_be_any_column_is_all() {
        for sql in [
            "SELECT * FROM t",
            "SELECT t.* FROM t JOIN u ON t.a = u.a",
            "SELECT * FROM u, t",
            "SELECT x.* FROM t AS x",
            "SELECT * EXCLUDE (a) FROM t",
            "FROM t",
            "SELECT a FROM t NATURAL JOIN u",
            "SELECT a FROM (t NATURAL JOIN u)",
            "SELECT count(t.*) FROM t",
            "SELECT first_value(*) FROM t",
            "SELECT x FROM t AS u (x, y)",
            "WITH t AS (SELECT * FROM t) SELECT a FROM t",
            "SELECT a FROM u WHERE EXISTS (SELECT * FROM t)",
            "SELECT * FROM t PIVOT (sum(a) FOR b IN ('x', 'y'))",
        ] {
            assert_eq!(used(sql), "*", "{sql}");
        }
    }

    #[test]
    fn a_missing_name_chooses_all_and_no_name_the_first_column() {
        let columns = |sql| Query::parse(sql).expect("a query").columns("t").expect("not all").clone();
        let names = ["a", "b", "c"];
        assert_eq!(columns("SELECT c, a FROM t").choose(names), Some(vec![0, 2]));
        assert_eq!(columns("SELECT b AS z FROM t ORDER BY z").choose(names), Some(vec![1]));
        assert_eq!(columns("SELECT A FROM t").choose(names), None);
        assert_eq!(columns("SELECT count(*) FROM t").choose(names), Some(vec![0]));
        assert_eq!(columns("SELECT a + b + c FROM t").choose(names), None);
    }
}
