//! Asking a pipeline for the rows of one of its stages, instead of for all of its outputs.

use super::ports;
use super::stage::Port;
use crate::diagnostic::{Span, did_you_mean};
use crate::spec::expect::ROWS;
use crate::spec::model::{FormatSpec, FromSpec, SqlOptions, SqlSpec, StageSpec, WriteOptions, WriteSpec};
use crate::spec::tree::{Entry, Key, Node, Text, TextStyle, Value};
use crate::spec::{Document, StageDraft};

/// The rows that are asked for.
#[derive(Clone, Debug)]
pub struct Asked {
    /// A stage, or `stage.port`.
    pub of: String,
    /// The first so many of them; all, if there is no limit.
    pub limit: Option<u64>,
    /// Where they go: a path, or `-`.
    pub to: String,
    pub format: FormatSpec,
}

/// Why nothing can be asked of a stage.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    #[error("there is no stage `{name}`{}", help.as_ref().map(|help| format!(" ({help})")).unwrap_or_default())]
    NoStage { name: String, help: Option<String> },
    #[error("the stage `{0}` gives no rows that could be shown")]
    NoRows(String),
}

/// Asks for what a stage does, and for no more than that needs: a sink is written; what gives rows is followed by a sink that takes them.
///
/// # Errors
/// If there is no such stage.
pub fn run_until(document: &mut Document, asked: &Asked) -> Result<(), AskError> {
    let of = asked_stage(document, asked)?;
    if gives_rows(of) {
        return ask(document, asked);
    }
    let name = of.written_name().to_owned();
    let made = document.stages.iter().filter(|draft| draft.written_name() == name);
    document.asked_for = made.map(|draft| draft.name.clone()).collect();
    Ok(())
}

/// Asks for rows, and for no more than they need; no sink of the file is written.
///
/// # Errors
/// If there is no such stage, or it gives no rows.
pub fn show(document: &mut Document, asked: &Asked) -> Result<(), AskError> {
    document.is_shown = true;
    ask(document, asked)
}

fn ask(document: &mut Document, asked: &Asked) -> Result<(), AskError> {
    let of = asked_stage(document, asked)?;
    if !gives_rows(of) {
        return Err(AskError::NoRows(of.written_name().to_owned()));
    }
    let (first, shown) = (first_of(&of.name), format!("{}:shown", of.name));
    let mut drafts = Vec::new();
    let mut from = asked.of.clone();
    if let Some(limit) = asked.limit {
        drafts.push(behind(of, &first, "sql", first_rows(from, limit)));
        from = first;
    }
    let options = WriteOptions { path: asked.to.clone(), format: Some(asked.format), ..WriteOptions::default() };
    let write = Some(WriteSpec::Options(options));
    let spec = StageSpec { from: Some(FromSpec::One(from)), write, ..StageSpec::default() };
    drafts.push(behind(of, &shown, "write", spec));
    document.stages.extend(drafts);
    document.asked_for = [shown].into();
    Ok(())
}

fn asked_stage<'a>(document: &'a Document, asked: &Asked) -> Result<&'a StageDraft, AskError> {
    let name = asked.of.split_once('.').map_or(asked.of.as_str(), |(stage, _)| stage);
    let mut written = document.stages.iter().filter(|draft| draft.is_written());
    // What one `foreach` makes stands side by side, and has one name in the file.
    let mut names: Vec<&str> = written.clone().map(StageDraft::written_name).collect();
    names.dedup();
    let missing = || AskError::NoStage { name: name.to_owned(), help: did_you_mean(name, names) };
    written.find(|draft| draft.name == name || draft.written_name() == name).ok_or_else(missing)
}

fn gives_rows(draft: &StageDraft) -> bool {
    ports::ports(draft).is_none_or(|ports| ports.contains(&Port::MAIN))
}

/// The name of the stage that takes the first rows of another. No name in a file has a colon.
pub(super) fn first_of(name: &str) -> String {
    format!("{name}:first")
}

/// A query for the first so many rows of a stage or port.
pub(super) fn first_rows(of: String, limit: u64) -> StageSpec {
    let query = Some(format!("SELECT * FROM {ROWS} LIMIT {limit}"));
    StageSpec {
        from: Some(FromSpec::Named([(ROWS.to_owned(), of)].into())),
        sql: Some(SqlSpec::Options(SqlOptions { query, file: None })),
        ..StageSpec::default()
    }
}

/// A stage that is not written in the file, and has the place of the one that it follows.
pub(super) fn behind(of: &StageDraft, name: &str, kind: &'static str, spec: StageSpec) -> StageDraft {
    let node = |value| Node { value, span: of.name_span, alias: None };
    let text = |text: &str| node(Value::String(Text { text: text.to_owned(), style: TextStyle::Quoted }));
    let entry = |name: &str, value| Entry { key: key(name, of.name_span), value };
    let from = match &spec.from {
        Some(FromSpec::Named(tables)) => {
            node(Value::Mapping(tables.iter().map(|(table, stage)| entry(table, text(stage))).collect()))
        }
        Some(FromSpec::One(stage)) => text(stage),
        Some(FromSpec::Many(_)) | None => node(Value::Null),
    };
    let query = match &spec.sql {
        Some(SqlSpec::Options(SqlOptions { query: Some(query), .. })) => Some(entry("sql", text(query))),
        _ => None,
    };
    let node =
        Node { alias: of.alias, ..node(Value::Mapping([entry("from", from)].into_iter().chain(query).collect())) };
    StageDraft { line: of.line, ..StageDraft::new(name, (kind, of.name_span), node, spec) }
}

fn key(name: &str, span: Span) -> Key {
    Key { name: name.to_owned(), span, alias: None }
}
