//! [`Query`]: one SQL query whose syntax has been checked, and what it names.

use std::collections::VecDeque;
use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::sql::sqlparser::ast::{
    self, Ident, ObjectName, SetExpr, Statement, TableFactor, Value, ValueWithSpan, Visit, Visitor,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer};

use super::error::SyntaxError;
use super::row_dependence;

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
    row_wise: bool,
}

impl Query {
    /// Parses exactly one query; a final semicolon is allowed. Everything that is not a query is refused.
    pub fn parse(sql: &str) -> Result<Self, SyntaxError> {
        let tokens = tokenize(sql)?;
        refuse_other_statements(&tokens)?;
        let statement = parse_one(sql, tokens)?;
        let Statement::Query(query) = &statement else {
            return Err(SyntaxError::new("a stage runs one query, such as `SELECT ... FROM ...`"));
        };
        let names = Names::collect(query)?;
        let row_wise = names.tables.len() == 1 && row_dependence::is_row_wise(query);
        let parsed =
            Parsed { sql: sql.to_owned(), tables: names.tables, parameters: names.parameters, row_wise, statement };
        Ok(Self { parsed: Arc::new(parsed) })
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

    /// Whether every output row depends on one input row alone, so that batches can be worked on one by one
    /// ([`super::RowWise`]). Decided from the syntax; a query about which there is doubt is not row-wise.
    pub fn is_row_wise(&self) -> bool {
        self.parsed.row_wise
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
        .map_err(|error| SyntaxError::new(&error.message).at(error.location))
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
    scopes: Vec<Scope>,
}

/// The names that one `WITH` gives. The queries of its members are visited first and in order; each name counts from the
/// end of its own query on, so that `WITH t AS (SELECT * FROM t)` reads the table `t`.
struct Scope {
    pending: VecDeque<String>,
    known: Vec<String>,
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
        let is_own = self.scopes.iter().any(|scope| scope.known.contains(&ident.value));
        if !is_own && !self.tables.contains(&ident.value) {
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
        let mut scope = Scope { pending: VecDeque::new(), known: Vec::new() };
        if let Some(with) = &query.with {
            let names = with.cte_tables.iter().map(|member| member.alias.name.value.clone());
            if with.recursive {
                scope.known.extend(names.clone());
            }
            scope.pending.extend(names);
        }
        self.scopes.push(scope);
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &ast::Query) -> ControlFlow<Self::Break> {
        self.scopes.pop();
        if let Some(parent) = self.scopes.last_mut()
            && let Some(name) = parent.pending.pop_front()
        {
            parent.known.push(name);
        }
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
