//! [`Expect`]: what the rows of a stage must be like.

use super::query::find_word;
use super::resolve::Resolver;
use super::stage::{ColumnType, Sql};
use crate::diagnostic::{Code, Span, did_you_mean};
use crate::spec::Checks;
use crate::spec::expect::{EXPECT, ROWS};
use crate::spec::model::{ColumnsSpec, ExpectSpec};
use crate::spec::sub_pipeline::params;
use crate::spec::tree::Node;
use crate::sql::Query;

/// What is checked of the rows that pass, batch by batch, and of their number.
#[derive(Clone, Debug)]
pub struct Expect {
    /// The stage whose rows are checked.
    pub of: String,
    pub conditions: Vec<Condition>,
    /// Columns that must have a value in each row.
    pub not_null: Vec<String>,
    /// Columns that there must be.
    pub schema: Vec<(String, ColumnType)>,
    /// The fewest rows that there must be in the end, and the most.
    pub min_rows: u64,
    pub max_rows: Option<u64>,
}

/// A condition that must be true for each row.
#[derive(Clone, Debug)]
pub struct Condition {
    /// As it was written.
    pub text: String,
    /// Gives a row for each row, with the one column of whether it is so; row-wise.
    pub sql: Sql,
}

impl Expect {
    /// For people.
    pub fn describe(&self) -> String {
        let mut parts: Vec<String> = self.conditions.iter().map(|condition| condition.text.clone()).collect();
        if !self.not_null.is_empty() {
            parts.push(format!("{} not null", self.not_null.join(", ")));
        }
        if !self.schema.is_empty() {
            let names: Vec<&str> = self.schema.iter().map(|(name, _)| name.as_str()).collect();
            parts.push(format!("types of {}", names.join(", ")));
        }
        match (self.min_rows, self.max_rows) {
            (0, None) => {}
            (min, None) => parts.push(format!("at least {}", count(min))),
            (0, Some(max)) => parts.push(format!("at most {}", count(max))),
            (min, Some(max)) => parts.push(format!("{min} to {}", count(max))),
        }
        parts.join("; ")
    }

    /// What is wrong with this number of rows in the end.
    pub fn wrong_number(&self, rows: u64) -> Option<String> {
        let too_few = (rows < self.min_rows).then(|| format!("at least {}", self.min_rows));
        let too_many = || self.max_rows.filter(|max| rows > *max).map(|max| format!("at most {max}"));
        too_few.or_else(too_many).map(|wanted| format!("there {}, and `expect` wants {wanted}", are(rows)))
    }
}

fn count(rows: u64) -> String {
    if rows == 1 { "1 row".to_owned() } else { format!("{rows} rows") }
}

fn are(rows: u64) -> String {
    match rows {
        0 => "are no rows".to_owned(),
        1 => "is 1 row".to_owned(),
        rows => format!("are {rows} rows"),
    }
}

impl Resolver<'_> {
    /// `None` if a condition cannot be read.
    pub(super) fn expect(&mut self, spec: &ExpectSpec) -> Option<Expect> {
        let texts = spec.condition.as_ref().map(|spec| spec.texts()).unwrap_or_default();
        let conditions: Vec<Option<Condition>> =
            texts.iter().enumerate().map(|(at, text)| self.condition(at, text)).collect();
        let schema = self.columns(&[EXPECT, "schema"], spec.schema.as_ref());
        let rows = spec.rows;
        let (min, max) = (rows.and_then(|rows| rows.min).unwrap_or(0), rows.and_then(|rows| rows.max));
        if let Some(max) = max.filter(|max| min > *max) {
            self.report(
                Code::PlanBadOption,
                &[EXPECT, "rows", "min"],
                format!("`min: {min}` is more than `max: {max}`"),
            );
        }
        let not_null = spec.not_null.as_ref().map(ColumnsSpec::names).unwrap_or_default().to_vec();
        let Some(Checks::Rows(of)) = &self.draft.checks else { return None };
        Some(Expect {
            of: of.clone(),
            conditions: conditions.into_iter().collect::<Option<_>>()?,
            not_null,
            schema,
            min_rows: min,
            max_rows: max,
        })
    }

    fn condition(&mut self, at: usize, text: &str) -> Option<Condition> {
        let node = self.condition_node(at).cloned()?;
        let query = match Query::of_condition(text, ROWS) {
            Ok(query) => query,
            Err(error) => {
                self.report_syntax_in(&node, text, &error, "the condition is no valid SQL");
                return None;
            }
        };
        // What makes several rows of one, or none, tells nothing of that one.
        if !query.is_row_wise() || text.to_lowercase().contains("unnest") {
            let message = "the condition needs more than the row itself: an aggregate, a window, another table, or rows made of it";
            self.report_at(Code::PlanBadQuery, node.span, node.alias, message).help =
                Some("let a `sql` stage work it out, and give that an `expect`".to_owned());
            return None;
        }
        let params = params(self.document, self.draft);
        let unknown = query.parameters().iter().find(|name| params.iter().all(|param| param.name != **name));
        if let Some(name) = unknown {
            let help = did_you_mean(name, params.iter().map(|param| param.name.as_str()));
            let message = format!("the condition uses `${name}`, but there is no param `{name}`");
            let word = format!("${name}");
            let place = find_word(text, &word).and_then(|at| self.place(&node, text, at, word.len()));
            self.report_at(Code::PlanUnknownSqlParam, place.unwrap_or(node.span), node.alias, message).help = help;
            return None;
        }
        Some(Condition { text: text.trim().to_owned(), sql: Sql { query, row_wise: true } })
    }

    /// The node of a condition.
    pub(super) fn condition_node(&self, at: usize) -> Option<&Node> {
        let node = self.draft.find(&[EXPECT, "where"])?;
        node.items().get(at).or(Some(node))
    }

    /// The place of a column that is named under `keys`.
    pub(super) fn column_span(&self, keys: &[&str], column: &str) -> Span {
        let Some(node) = self.draft.find(keys) else { return self.draft.name_span };
        let item = node.items().iter().find(|item| item.as_str() == Some(column));
        item.or_else(|| node.get(column)).map_or(node.span, |node| node.span)
    }
}
