//! The `sql` kind: its query's syntax, tables and params, with places in the YAML.

use super::failing::OnError;
use super::link::Link;
use super::resolve::{Resolver, query_node};
use super::stage::Sql;
use crate::diagnostic::{Code, Span, did_you_mean, nearest};
use crate::spec::expect::EXPECT;
use crate::spec::model::{SqlOptions, SqlSpec};
use crate::spec::sub_pipeline::params;
use crate::spec::tree::{Node, TextStyle};
use crate::sql::{Misfit, MisfitKind, Query, SyntaxError, TextPosition};

impl Resolver<'_> {
    pub(super) fn sql(&mut self, spec: &SqlSpec, links: &[&Link]) -> Option<Sql> {
        let text = match spec {
            SqlSpec::Query(text) => text,
            // A file that cannot be read has been reported.
            SqlSpec::Options(SqlOptions { query, .. }) => query.as_ref()?,
        };
        let query = match Query::parse(text) {
            Ok(query) => query,
            Err(error) => {
                if let Some(node) = query_node(self.draft).cloned() {
                    self.report_syntax_in(&node, text, &error, "the query is not valid SQL");
                }
                return None;
            }
        };
        self.check_tables(text, &query, links);
        self.check_params(text, &query);
        let row_wise = query.is_row_wise() && links.len() == 1;
        if !row_wise && self.on_error() != OnError::Fail && !self.draft.has(EXPECT) {
            let word = self.on_error().word();
            let name = &self.draft.name;
            let message = format!("the stage `{name}` cannot `{word}` rows: its query works on all of them together");
            let help =
                "let a stage in front of it sort out bad rows, such as a query without aggregates, joins and sorts";
            self.report(Code::PlanOnErrorUnsupported, &["on_error"], message).help = Some(help.to_owned());
        }
        Some(Sql { query, row_wise })
    }

    /// `what` is wrong with a text at `node`.
    pub(super) fn report_syntax_in(&mut self, node: &Node, text: &str, error: &SyntaxError, what: &str) {
        let offset = error.line.zip(error.column).and_then(|(line, column)| offset_at(text, line, column));
        let span =
            offset.and_then(|offset| self.place(node, text, offset, word_length(text, offset))).unwrap_or(node.span);
        // The place is shown; saying it again in words, counted in the query, would confuse.
        let message = error.message.split(" at Line:").next().unwrap_or(&error.message);
        self.report_at(Code::PlanSqlSyntax, span, node.alias, format!("{what}: {message}"));
    }

    fn check_tables(&mut self, text: &str, query: &Query, links: &[&Link]) {
        let written: Vec<String> = self.written_tables();
        // An input that is no stage has its own diagnostic, and may be meant to be the missing table.
        if self.draft.is_lost("from") || written.len() > links.len() {
            return;
        }
        for table in query.tables().iter().filter(|table| !written.contains(table)) {
            let is_stage = self.document.stages.iter().any(|stage| stage.name == *table);
            let help = match is_stage {
                true if self.draft.has("from") => Some(format!("add `{table}` to `from`")),
                true => Some(format!("add `from: {table}`")),
                false => did_you_mean(table, written.iter().map(String::as_str)),
            };
            let message = format!("the query reads the table `{table}`, which is no input of `{}`", self.draft.name);
            self.report_word(Code::PlanUnknownTable, text, table, message, help);
        }
        // A slip in a table's name is one mistake.
        let is_misspelt = |link: &Link| {
            let unknown = query.tables().iter().filter(|table| !written.contains(table));
            unknown.into_iter().any(|table| nearest(table, [link.table.as_str()]).is_some())
        };
        for link in links.iter().filter(|link| !query.tables().contains(&link.table) && !is_misspelt(link)) {
            let message = format!("`{}` is an input, but the query does not read it", link.table);
            self.report_at(Code::PlanBadInput, link.span, None, message).help =
                Some("take it out of `from`, or use it in the query".to_owned());
        }
    }

    fn written_tables(&self) -> Vec<String> {
        use crate::spec::model::FromSpec;
        let table = |reference: &String| match reference.split_once('.') {
            Some((stage, "out")) => stage.to_owned(),
            Some((stage, port)) => format!("{stage}_{port}"),
            None => reference.clone(),
        };
        match &self.draft.spec.from {
            None => Vec::new(),
            Some(FromSpec::One(reference)) => vec![table(reference)],
            Some(FromSpec::Many(references)) => references.iter().map(table).collect(),
            Some(FromSpec::Named(tables)) => tables.keys().cloned().collect(),
        }
    }

    /// Says why the query cannot be run over its tables.
    pub(super) fn report_misfit(&mut self, query: &Query, misfit: &Misfit) {
        let Some(node) = query_node(self.draft).cloned() else { return };
        self.report_misfit_in(&node, query.sql(), 0, misfit);
    }

    /// The same for a text at `node`, which begins so many lines behind the beginning of the query that was planned.
    pub(super) fn report_misfit_in(&mut self, node: &Node, text: &str, lines_before: usize, misfit: &Misfit) {
        let (code, name, message, help) = match &misfit.kind {
            MisfitKind::UnknownColumn { of, name, known } => {
                let message = match of {
                    Some(table) => format!("`{table}` has no column `{name}`"),
                    None => format!("no column is named `{name}`"),
                };
                let help = did_you_mean(name, known.iter().map(String::as_str));
                (Code::PlanUnknownColumn, Some(name), message, help)
            }
            MisfitKind::AmbiguousColumn { name } => {
                let message = format!("the column `{name}` is in several tables");
                let help = format!("write `table.{name}`");
                (Code::PlanAmbiguousColumn, Some(name), message, Some(help))
            }
            MisfitKind::UnknownFunction { name, similar } => {
                let help = similar.as_ref().map(|similar| format!("did you mean `{similar}`?"));
                (Code::PlanUnknownFunction, Some(name), format!("there is no function `{name}`"), help)
            }
            MisfitKind::Other => {
                let what = if lines_before == 0 { "the query" } else { "the condition" };
                let message = format!("{what} cannot be run over its tables: {}", misfit.message);
                (Code::PlanBadQuery, None, message, None)
            }
        };
        let told = misfit.place.and_then(|(start, end)| {
            let at =
                |position: TextPosition| offset_at(text, position.line.checked_sub(lines_before)?, position.column);
            let (start, end) = (at(start)?, at(end)?);
            self.place(node, text, start, end.checked_sub(start)?)
        });
        let found = || name.and_then(|name| self.place(node, text, find_word(text, name)?, name.len()));
        let span = told.or_else(found).unwrap_or(node.span);
        self.report_at(code, span, node.alias, message).help = help;
    }

    fn check_params(&mut self, text: &str, query: &Query) {
        let params = params(self.document, self.draft);
        for name in query.parameters().iter().filter(|name| params.iter().all(|param| param.name != **name)) {
            let help = did_you_mean(name, params.iter().map(|param| param.name.as_str()));
            let message = format!("the query uses `${name}`, but there is no param `{name}`");
            self.report_word(Code::PlanUnknownSqlParam, text, &format!("${name}"), message, help);
        }
    }

    /// Points at a word of the query.
    fn report_word(&mut self, code: Code, text: &str, word: &str, message: String, help: Option<String>) {
        let Some(node) = query_node(self.draft) else { return };
        let found = if code == Code::PlanUnknownTable { find_table(text, word) } else { None };
        let found = found.or_else(|| find_word(text, word));
        let span = found.and_then(|at| self.place(node, text, at, word.len())).unwrap_or(node.span);
        self.report_at(code, span, node.alias, message).help = help;
    }

    /// The place in the file of `length` bytes at `offset` of a scalar's text, where its style lets it be known.
    pub(super) fn place(&self, node: &Node, text: &str, offset: usize, length: usize) -> Option<Span> {
        let style = node.as_text()?.style;
        let source = self.document.source.slice(node.span);
        let start = match style {
            // Escapes and folding move characters about, unless there were none.
            TextStyle::Plain | TextStyle::Folded => {
                source.find(text.trim_end()).map(|at| node.span.start + at + offset)?
            }
            TextStyle::Quoted => source.get(1..)?.starts_with(text).then_some(node.span.start + 1 + offset)?,
            TextStyle::File => node.span.start + offset,
            TextStyle::Literal => {
                let line = text[..offset].matches('\n').count();
                let column = offset - text[..offset].rfind('\n').map_or(0, |at| at + 1);
                // The scalar's place starts at its first line that is not blank.
                let blank = text.lines().take_while(|line| line.trim().is_empty()).count();
                let (file, before) = self.document.source.file_at(node.span.start);
                let first = self.document.source.position(node.span.start).line - 1;
                let (start, written) = file.line((first + line).checked_sub(blank)?)?;
                before + start + written.find(text.lines().nth(line)?)? + column
            }
        };
        Some(Span::new(start, (start + length).min(node.span.end)))
    }
}

/// The byte at a 1-based line and column (in characters).
fn offset_at(text: &str, line: usize, column: usize) -> Option<usize> {
    let start = match line.checked_sub(1)? {
        0 => 0,
        breaks => text.match_indices('\n').nth(breaks - 1)?.0 + 1,
    };
    let within = text[start..].char_indices().nth(column.checked_sub(1)?).map_or(text.len() - start, |(at, _)| at);
    Some(start + within)
}

fn word_length(text: &str, offset: usize) -> usize {
    let is_word = |character: char| character.is_alphanumeric() || character == '_';
    let rest = &text[offset..];
    let word: usize = rest.chars().take_while(|character| is_word(*character)).map(char::len_utf8).sum();
    word.max(rest.chars().next().map_or(0, char::len_utf8))
}

/// Where `word` stands in `text` as a word of its own.
pub(super) fn find_word(text: &str, word: &str) -> Option<usize> {
    words(text, word).next()
}

/// The first place in a query where a word is likely to be the name of a table, and not that of a column.
fn find_table(text: &str, word: &str) -> Option<usize> {
    let is_behind = |at: &usize| {
        let before = text[..*at].trim_end_matches(['"', '(']).trim_end();
        let last = before.rsplit(|it: char| !it.is_alphanumeric() && it != '_').next().unwrap_or_default();
        ["from", "join"].iter().any(|keyword| last.eq_ignore_ascii_case(keyword))
    };
    words(text, word).find(is_behind)
}

fn words<'t>(text: &'t str, word: &'t str) -> impl Iterator<Item = usize> + 't {
    let is_part = |character: Option<char>| character.is_some_and(|it| it.is_alphanumeric() || it == '_');
    let places = text.match_indices(word).map(|(at, _)| at);
    places
        .filter(move |at| !is_part(text[..*at].chars().next_back()) && !is_part(text[at + word.len()..].chars().next()))
}
