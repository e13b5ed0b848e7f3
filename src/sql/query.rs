//! [`Query`]: one SQL query whose syntax has been checked, and what it names.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::sql::sqlparser::ast::{
    self, Ident, ObjectName, SelectFlavor, SetExpr, Statement, TableFactor, Value, ValueWithSpan, Visit, Visitor,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer};

use super::blocking::blocking_operators;
use super::error::{SyntaxError, lower_first};
use super::growth::{Growth, growth};
use super::row_dependence;
use super::scopes::Scopes;
use super::stack::{PARSING, on_deep};
use super::used_columns::{self, UsedColumns};

/// One query (`SELECT`, `WITH`, `VALUES`, `UNION`, ...) whose syntax has been checked; columns and types have not, as no
/// table is known yet. Cheap to clone.
#[derive(Clone)]
pub struct Query {
    parsed: Arc<Parsed>,
}

struct Parsed {
    sql: String,
    statement: Statement,
    tables: Vec<String>,
    parameters: Vec<String>,
    columns: BTreeMap<String, UsedColumns>,
    row_wise: bool,
    growth: Growth,
    blocking_operators: u64,
}

impl Query {
    /// Parses exactly one query; a final semicolon is allowed. Everything that is not a query is refused.
    pub fn parse(sql: &str) -> Result<Self, SyntaxError> {
        on_deep(PARSING, || Self::parse_here(sql))
    }

    fn parse_here(sql: &str) -> Result<Self, SyntaxError> {
        let tokens = tokenize(sql)?;
        refuse_other_statements(&tokens)?;
        refuse_endless_chains(&tokens)?;
        let statement = parse_one(sql, tokens)?;
        let Statement::Query(query) = &statement else {
            return Err(SyntaxError::new("a stage runs one query, such as `SELECT ... FROM ...`"));
        };
        let names = Names::collect(query)?;
        let row_wise = names.tables.len() == 1 && row_dependence::is_row_wise(query);
        let parsed = Parsed {
            sql: sql.to_owned(),
            tables: names.tables,
            parameters: names.parameters,
            columns: used_columns::of(query),
            row_wise,
            growth: growth(query),
            blocking_operators: blocking_operators(query),
            statement,
        };
        Ok(Self { parsed: Arc::new(parsed) })
    }

    /// A query that tells of each row of `table`, in a column of its own, whether a condition is true. The condition has a line, or several,
    /// to itself, behind the first one.
    pub fn of_condition(condition: &str, table: &str) -> Result<Self, SyntaxError> {
        on_deep(PARSING, || {
            let tokens = tokenize(condition)?;
            refuse_endless_chains(&tokens)?;
            let mut parser = Parser::new(&GenericDialect {}).with_tokens_with_locations(tokens);
            parser.parse_expr().map_err(|error| SyntaxError::from_parser(error, condition))?;
            let next = parser.next_token();
            if next.token != Token::EOF {
                let message = format!("expected the end of the condition, found `{}`", next.token);
                return Err(SyntaxError::new(message).at(next.span.start));
            }
            // It is one expression, so that no bracket of it can be the partner of these.
            Self::parse_here(&format!("SELECT (\n{condition}\n) IS TRUE AS holds FROM {table}"))
        })
    }

    /// The text as it was written.
    pub fn sql(&self) -> &str {
        &self.parsed.sql
    }

    /// Names of the tables that the query reads, each once, in order of appearance. Names that the query itself gives
    /// (`WITH name AS ...`) and table functions are not among them.
    pub fn tables(&self) -> &[String] {
        &self.parsed.tables
    }

    /// Names of the `$name` parameters, each once, without the `$`, in order of appearance.
    pub fn parameters(&self) -> &[String] {
        &self.parsed.parameters
    }

    /// The columns of a table that the query names; `None` if it may see all of them, or does not read the table.
    pub fn columns(&self, table: &str) -> Option<&UsedColumns> {
        self.parsed.columns.get(table)
    }

    /// Whether there is a `WHERE` anywhere.
    pub fn has_condition(&self) -> bool {
        self.parsed.statement.visit(&mut Condition).is_break()
    }

    /// Whether every output row depends on one input row alone, so that batches can be worked on one by one
    /// ([`super::RowWise`]). Decided from the syntax; a query about which there is doubt is not row-wise.
    pub fn is_row_wise(&self) -> bool {
        self.parsed.row_wise
    }

    /// Whether the result may be much larger than the inputs.
    pub fn growth(&self) -> Growth {
        self.parsed.growth
    }

    /// How many of its operators may keep rows until their input has ended.
    pub fn blocking_operators(&self) -> u64 {
        self.parsed.blocking_operators
    }

    pub(super) fn statement(&self) -> &Statement {
        &self.parsed.statement
    }
}

impl fmt::Debug for Query {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Query").field(&self.parsed.sql).finish()
    }
}

fn tokenize(sql: &str) -> Result<Vec<TokenWithSpan>, SyntaxError> {
    Tokenizer::new(&GenericDialect {}, sql)
        .tokenize_with_location()
        .map_err(|error| SyntaxError::new(lower_first(&error.message)).at(error.location))
}

fn parse_one(sql: &str, tokens: Vec<TokenWithSpan>) -> Result<Statement, SyntaxError> {
    let mut parser = Parser::new(&GenericDialect {}).with_tokens_with_locations(tokens);
    let statement = parser.parse_statement().map_err(|error| SyntaxError::from_parser(error, sql))?;
    let mut next = parser.next_token();
    let mut separated = false;
    while next.token == Token::SemiColon {
        separated = true;
        next = parser.next_token();
    }
    match next.token {
        Token::EOF => Ok(statement),
        _ if separated => {
            Err(SyntaxError::new("a stage runs one query, and here a second statement begins").at(next.span.start))
        }
        token => Err(SyntaxError::new(format!("expected the end of the query, found `{token}`")).at(next.span.start)),
    }
}

/// Operators in one query. Each makes the tree of a chain (`1 + 1 + ...`) deeper by one, and what walks it needs stack.
const MOST_OPERATORS: usize = 4000;

fn refuse_endless_chains(tokens: &[TokenWithSpan]) -> Result<(), SyntaxError> {
    let is_operator = |token: &Token| match token {
        Token::Word(word) => {
            matches!(word.value.to_uppercase().as_str(), "AND" | "OR" | "NOT" | "UNION" | "EXCEPT" | "INTERSECT")
        }
        Token::Plus | Token::Minus | Token::Mul | Token::Div | Token::Mod | Token::StringConcat | Token::Tilde => true,
        Token::Pipe | Token::Ampersand | Token::Caret | Token::DoubleColon | Token::LBracket | Token::Arrow => true,
        _ => false,
    };
    match tokens.iter().filter(|token| is_operator(&token.token)).nth(MOST_OPERATORS) {
        Some(token) => {
            let message = format!(
                "the query has more than {MOST_OPERATORS} operators; a long list of values belongs into a table"
            );
            Err(SyntaxError::new(message).at(token.span.start))
        }
        None => Ok(()),
    }
}

/// Refuses statements that are not queries by their first word, before the parser can complain about their details.
fn refuse_other_statements(tokens: &[TokenWithSpan]) -> Result<(), SyntaxError> {
    let first = tokens.iter().find(|token| !matches!(token.token, Token::Whitespace(_)));
    let Some(first) = first.filter(|token| !matches!(token.token, Token::EOF | Token::SemiColon)) else {
        return Err(SyntaxError::new("the query is empty"));
    };
    let Token::Word(word) = &first.token else { return Ok(()) };
    let verb = word.value.to_uppercase();
    if word.quote_style.is_none() && OTHER_STATEMENTS.contains(&verb.as_str()) {
        let message = format!("`{verb}` is not a query; a stage runs one query, such as `SELECT ... FROM ...`");
        return Err(SyntaxError::new(message).at(first.span.start));
    }
    Ok(())
}

/// First words of statements that somebody might try in a stage.
const OTHER_STATEMENTS: &[&str] = &[
    "ALTER",
    "ANALYZE",
    "ATTACH",
    "BEGIN",
    "CALL",
    "COMMIT",
    "COPY",
    "CREATE",
    "DEALLOCATE",
    "DELETE",
    "DESC",
    "DESCRIBE",
    "DETACH",
    "DROP",
    "EXECUTE",
    "EXPLAIN",
    "EXPORT",
    "GRANT",
    "IMPORT",
    "INSERT",
    "INSTALL",
    "LOAD",
    "MERGE",
    "PRAGMA",
    "PREPARE",
    "REPLACE",
    "RESET",
    "REVOKE",
    "ROLLBACK",
    "SET",
    "SHOW",
    "START",
    "TRUNCATE",
    "UNLOAD",
    "UPDATE",
    "USE",
    "VACUUM",
];

/// Collects the names that a query uses and refuses what may not stand inside a query.
#[derive(Default)]
struct Names {
    tables: Vec<String>,
    parameters: Vec<String>,
    scopes: Scopes,
}

impl Names {
    fn collect(query: &ast::Query) -> Result<Self, SyntaxError> {
        let mut names = Self::default();
        match query.visit(&mut names) {
            ControlFlow::Continue(()) => Ok(names),
            ControlFlow::Break(error) => Err(error),
        }
    }

    fn add_table(&mut self, name: &ObjectName) -> Result<(), SyntaxError> {
        let [part] = name.0.as_slice() else {
            let error =
                SyntaxError::new(format!("`{name}` is not a table: tables are the stage's inputs, without dots"));
            return Err(match name.0.first().and_then(|part| part.as_ident()) {
                Some(ident) => error.at(ident.span.start),
                None => error,
            });
        };
        let Some(ident) = part.as_ident() else {
            return Err(SyntaxError::new(format!("`{name}` is not a table: tables are named literally")));
        };
        if !self.scopes.give(&ident.value) && !self.tables.contains(&ident.value) {
            self.tables.push(ident.value.clone());
        }
        Ok(())
    }

    fn add_parameter(&mut self, written: &str, at: Location) -> Result<(), SyntaxError> {
        let name = written.strip_prefix('$').unwrap_or_default();
        if !name.starts_with(|first: char| first.is_alphabetic() || first == '_') {
            return Err(SyntaxError::new(format!("`{written}` has no name: params are written `$name`")).at(at));
        }
        if !self.parameters.iter().any(|known| known == name) {
            self.parameters.push(name.to_owned());
        }
        Ok(())
    }
}

impl Visitor for Names {
    type Break = SyntaxError;

    fn pre_visit_query(&mut self, query: &ast::Query) -> ControlFlow<Self::Break> {
        if let Err(error) = refuse_side_effects(&query.body) {
            return ControlFlow::Break(error);
        }
        self.scopes.enter(query);
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &ast::Query) -> ControlFlow<Self::Break> {
        self.scopes.leave();
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &ast::Select) -> ControlFlow<Self::Break> {
        if select.into.is_some() {
            return ControlFlow::Break(
                SyntaxError::new("`SELECT INTO` writes a table; a stage's output is its result").at(select
                    .select_token
                    .0
                    .span
                    .start),
            );
        }
        if select.projection.is_empty() && select.flavor != SelectFlavor::FromFirstNoSelect {
            return ControlFlow::Break(
                SyntaxError::new("`SELECT` names no columns").at(select.select_token.0.span.end),
            );
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<Self::Break> {
        if let TableFactor::Table { name, args: None, .. } = factor
            && let Err(error) = self.add_table(name)
        {
            return ControlFlow::Break(error);
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_value(&mut self, value: &ValueWithSpan) -> ControlFlow<Self::Break> {
        if let Value::Placeholder(written) = &value.value
            && let Err(error) = self.add_parameter(written, value.span.start)
        {
            return ControlFlow::Break(error);
        }
        ControlFlow::Continue(())
    }
}

/// Stops at the first `WHERE`.
struct Condition;

impl Visitor for Condition {
    type Break = ();

    fn pre_visit_select(&mut self, select: &ast::Select) -> ControlFlow<()> {
        if select.selection.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// `WITH x AS (...) INSERT ...` parses as a query; it is none.
fn refuse_side_effects(body: &SetExpr) -> Result<(), SyntaxError> {
    let mut pending = vec![body];
    while let Some(body) = pending.pop() {
        let verb = match body {
            SetExpr::Select(_) | SetExpr::Query(_) | SetExpr::Values(_) => continue,
            SetExpr::SetOperation { left, right, .. } => {
                pending.extend([&**left, &**right]);
                continue;
            }
            SetExpr::Insert(_) => "INSERT",
            SetExpr::Update(_) => "UPDATE",
            SetExpr::Delete(_) => "DELETE",
            SetExpr::Merge(_) => "MERGE",
            SetExpr::Table(_) => "TABLE",
        };
        return Err(SyntaxError::new(format!("`{verb}` is not a query; a stage runs one query, such as `SELECT ...`")));
    }
    Ok(())
}

/// Name of a function as it is looked up: the last part, in lower case unless quoted.
pub(super) fn function_name(name: &ObjectName) -> Option<String> {
    let ident: &Ident = name.0.last()?.as_ident()?;
    Some(if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row_wise(sql: &str) -> bool {
        Query::parse(sql).expect("a query").is_row_wise()
    }

    #[test]
    fn these_are_row_wise() {
        for sql in [
            "SELECT * FROM t",
            "SELECT a + 1 AS b FROM t WHERE a > $floor;",
            "SELECT CASE WHEN a > 1 THEN 'x' ELSE lower(b) END AS c FROM t AS u WHERE a IN (1, 2)",
            "SELECT unnest(xs) AS x, a FROM t",
            "SELECT b FROM (SELECT a + 1 AS b FROM t WHERE a > 1) WHERE b < 5",
            "WITH u AS (SELECT a FROM t), v AS (SELECT a FROM u) SELECT a FROM v WHERE a = 1",
            "WITH t AS (SELECT * FROM t) SELECT * FROM t",
            "SELECT random() AS r, now() AS n, Upper(b) AS b FROM t",
            "FROM t",
            "(SELECT a FROM t)",
            r#"SELECT "count" FROM t"#,
        ] {
            assert!(row_wise(sql), "{sql}");
        }
    }

    #[test]
    fn these_need_more_than_a_row() {
        for sql in [
            "SELECT 1",
            "VALUES (1)",
            "SELECT count(*) FROM t",
            "SELECT COUNT(*) FROM t",
            "SELECT Sum(a) + 1 FROM t",
            "SELECT abs(max(a)) FROM t",
            "SELECT a FROM t GROUP BY a",
            "SELECT a FROM t GROUP BY ALL",
            "SELECT 1 FROM t HAVING count(*) > 1",
            "SELECT DISTINCT a FROM t",
            "SELECT DISTINCT ON (a) a, b FROM t",
            "SELECT a FROM t ORDER BY a",
            "SELECT a FROM t LIMIT 1",
            "SELECT a FROM t OFFSET 1",
            "SELECT a FROM t FETCH FIRST 1 ROW ONLY",
            "SELECT a FROM t UNION ALL SELECT a FROM t",
            "SELECT a FROM t JOIN u USING (a)",
            "SELECT t.a FROM t, u",
            "SELECT a FROM t WHERE a IN (SELECT b FROM t)",
            "SELECT a FROM t WHERE EXISTS (SELECT 1 FROM u)",
            "SELECT a, (SELECT max(b) FROM u) AS m FROM t",
            "SELECT a > ANY (SELECT b FROM t) FROM t",
            "SELECT row_number() OVER () AS n FROM t",
            "SELECT lag(a) OVER (ORDER BY b) FROM t",
            "SELECT a FROM t QUALIFY row_number() OVER () = 1",
            "SELECT a FROM (SELECT a FROM t LIMIT 5)",
            "SELECT a FROM (SELECT a FROM t ORDER BY a)",
            "WITH u AS (SELECT a FROM t LIMIT 5) SELECT a FROM u",
            "WITH u AS (SELECT max(a) AS a FROM t) SELECT a FROM u",
            "WITH RECURSIVE u AS (SELECT a FROM t UNION ALL SELECT a FROM u) SELECT a FROM u",
            "SELECT x FROM t, UNNEST(t.xs) AS x",
            "SELECT value FROM generate_series(1, 10)",
            "SELECT * FROM t TABLESAMPLE (10 PERCENT)",
        ] {
            assert!(!row_wise(sql), "{sql}");
        }
    }

    #[test]
    fn names_are_listed_once_and_as_written() {
        let query = Query::parse(
            r#"WITH recent AS (SELECT * FROM Orders WHERE day > $Day), a AS (SELECT * FROM a)
               SELECT * FROM recent JOIN "Customers" c ON c.id = recent.id AND c.x = $x
               WHERE c.id IN (SELECT id FROM blocked WHERE day > $Day) AND c.n < (SELECT max(value) FROM range(1, $n))
               UNION ALL SELECT * FROM Orders, a"#,
        )
        .expect("a query");
        assert_eq!(query.tables(), ["Orders", "a", "Customers", "blocked"]);
        assert_eq!(query.parameters(), ["Day", "x", "n"]);
    }

    #[test]
    fn a_name_counts_from_its_definition_on() {
        let tables = |sql: &str| Query::parse(sql).expect("a query").tables().to_vec();
        assert_eq!(tables("WITH b AS (SELECT * FROM c), c AS (SELECT * FROM b) SELECT * FROM c"), ["c"]);
        assert_eq!(tables("WITH RECURSIVE b AS (SELECT 1 AS n UNION ALL SELECT n FROM b) SELECT * FROM b"), [""; 0]);
        assert_eq!(tables("SELECT * FROM (WITH b AS (SELECT 1) SELECT * FROM b) JOIN b ON true"), ["b"]);
    }

    #[track_caller]
    fn check_error(sql: &str, message: &str, position: Option<(usize, usize)>) {
        let error = Query::parse(sql).expect_err("an error");
        assert_eq!((error.message.as_str(), error.line.zip(error.column)), (message, position), "{sql}");
    }

    #[test]
    fn syntax_errors_have_positions() {
        check_error("SELECT FROM t", "`SELECT` names no columns", Some((1, 7)));
        check_error("SELECT a FROM t WHERE > 1", "expected an expression, found `>`", Some((1, 23)));
        check_error("SELECT a\nFROM t\nWHER a > 1", "expected the end of the query, found `a`", Some((3, 6)));
        check_error("SELECT a FROM t WHERE", "expected an expression, found the end of the query", Some((1, 22)));
        check_error("SELECT (a FROM t", "expected `)`, found `FROM`", Some((1, 11)));
        check_error("SELECT 'a\nFROM t", "unterminated string literal", Some((1, 8)));
        check_error("", "the query is empty", None);
        check_error(" ; ", "the query is empty", None);
    }

    #[test]
    fn only_one_query_is_accepted() {
        let refused =
            |verb: &str| format!("`{verb}` is not a query; a stage runs one query, such as `SELECT ... FROM ...`");
        for sql in [
            "COPY t TO 'x.csv'",
            "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 'x.csv'",
            "CREATE TABLE t AS SELECT 1",
            "DROP TABLE t",
            "INSERT INTO t VALUES (1)",
            "UPDATE t SET a = 1",
            "DELETE FROM t",
            "EXPLAIN SELECT 1",
            "SET x = 1",
            "SHOW TABLES",
            "-- a comment\n/* another */ TRUNCATE t",
        ] {
            let error = Query::parse(sql).expect_err(sql);
            let verb = sql.trim_start_matches("-- a comment\n/* another */ ").split(' ').next().expect("a word");
            assert_eq!(error.message, refused(verb));
            assert!(error.line.is_some(), "{sql}");
        }
        check_error(
            "SELECT 1; DROP TABLE t",
            "a stage runs one query, and here a second statement begins",
            Some((1, 11)),
        );
        check_error(
            "SELECT * INTO u FROM t",
            "`SELECT INTO` writes a table; a stage's output is its result",
            Some((1, 1)),
        );
        for sql in
            ["WITH x AS (SELECT 1) INSERT INTO t SELECT * FROM x", "TABLE t", "WITH x AS (SELECT 1) DELETE FROM t"]
        {
            assert!(Query::parse(sql).is_err(), "{sql}");
        }
    }

    #[test]
    fn unnamed_params_and_dotted_tables_are_refused() {
        check_error("SELECT a FROM t WHERE a > ?", "`?` has no name: params are written `$name`", Some((1, 27)));
        check_error("SELECT a FROM t LIMIT $1", "`$1` has no name: params are written `$name`", Some((1, 23)));
        check_error(
            "SELECT a FROM information_schema.tables",
            "`information_schema.tables` is not a table: tables are the stage's inputs, without dots",
            Some((1, 15)),
        );
    }

    #[test]
    fn absurd_nesting_is_refused() {
        let sql = format!("SELECT {}1{} FROM t", "(".repeat(100_000), ")".repeat(100_000));
        check_error(&sql, "the query is nested too deeply", None);
        let sql = format!("SELECT {}1 FROM t", "1 + ".repeat(200));
        assert!(row_wise(&sql));
        let sql = format!("SELECT {}1 FROM t", "1 + ".repeat(100_000));
        check_error(
            &sql,
            "the query has more than 4000 operators; a long list of values belongs into a table",
            Some((1, 8 + 4 * 4000 + 2)),
        );
    }
}
