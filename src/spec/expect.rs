//! Stages that are not written in the file, but check what a stage's `expect` says.
//!
//! The rows of a stage `x` go through the stage `x.expect`, which all others read from in its place; it stands in front of a sink. That some
//! columns are unique is a query over what comes out of it (`x.unique`), of which no row may be left (`x.duplicates`).

use super::document::{Checks, Sharing, StageDraft};
use super::model::{FromSpec, SqlOptions, SqlSpec, StageSpec};
use super::tree::{Entry, Key, Node, Text, TextStyle, Value};
use crate::diagnostic::Span;

/// The name under which queries of expectations know the rows.
pub const ROWS: &str = "rows";
/// The key of a stage, and the word for the stage that checks what it says.
pub const EXPECT: &str = "expect";
const WHEN: &str = "when";

/// Adds them behind the other stages.
pub fn add_checks(stages: &mut Vec<StageDraft>) {
    let mut checks = Vec::new();
    for draft in stages.iter().filter(|draft| draft.has(EXPECT)) {
        checks.push(rows(draft));
        let unique = draft.spec.expect.as_ref().and_then(|expect| expect.unique.as_ref());
        if let Some(columns) = unique.filter(|columns| !columns.names().is_empty()) {
            checks.extend([keys(draft, columns.names()), duplicates(draft)]);
        }
    }
    stages.extend(checks);
}

fn rows(of: &StageDraft) -> StageDraft {
    let spec = StageSpec {
        when: of.spec.when,
        expect: of.spec.expect.clone(),
        on_error: of.spec.on_error.clone(),
        from: if of.kind() == Some("write") { of.spec.from.clone() } else { None },
        ..StageSpec::default()
    };
    let keys = if of.kind() == Some("write") { &[EXPECT, "on_error", "from"][..] } else { &[EXPECT, "on_error"] };
    let entries = keys.iter().filter_map(|key| of.node.entry(key)).cloned().collect();
    let lost = of.lost.iter().filter(|key| *key == WHEN || keys.contains(&key.as_str())).cloned().collect();
    let span = of.key_span(EXPECT);
    StageDraft { spec, lost, ..made(of, EXPECT, Checks::Rows(of.name.clone()), span, entries) }
}

/// The keys that are there several times, the first one only.
fn keys(of: &StageDraft, columns: &[String]) -> StageDraft {
    let list = columns.iter().map(|name| format!("\"{}\"", name.replace('"', "\"\""))).collect::<Vec<_>>().join(", ");
    let query =
        format!("SELECT {list}, count(*) FROM {ROWS} GROUP BY {list} HAVING count(*) > 1 ORDER BY {list} LIMIT 1");
    let span = of.span(&[EXPECT, "unique"]);
    let text = Value::String(Text { text: query.clone(), style: TextStyle::Quoted });
    let key = Key { name: "sql".to_owned(), span, alias: None };
    let entry = Entry { key, value: Node { value: text, span, alias: None } };
    let from = Some(FromSpec::Named([(ROWS.to_owned(), of.name.clone())].into()));
    let sql = Some(SqlSpec::Options(SqlOptions { query: Some(query), file: None }));
    let spec = StageSpec { when: of.spec.when, from, sql, ..StageSpec::default() };
    StageDraft {
        spec,
        kinds: vec![("sql", span)],
        ..made(of, "unique", Checks::Keys(of.name.clone()), span, vec![entry])
    }
}

fn duplicates(of: &StageDraft) -> StageDraft {
    let span = of.span(&[EXPECT, "unique"]);
    let made = made(of, "duplicates", Checks::Duplicates(of.name.clone()), span, Vec::new());
    StageDraft { kinds: vec![("write", span)], ..made }
}

fn made(of: &StageDraft, word: &str, checks: Checks, span: Span, entries: Vec<Entry>) -> StageDraft {
    StageDraft {
        // No name of a stage has a dot.
        name: format!("{}.{word}", of.name),
        foreach: of.foreach.as_ref().map(|name| format!("{name}.{word}")),
        node: Node { value: Value::Mapping(entries), ..of.node.clone() },
        spec: StageSpec { when: of.spec.when, ..StageSpec::default() },
        kinds: vec![(EXPECT, span)],
        sharing: Sharing::None,
        checks: Some(checks),
        lost: of.lost.iter().filter(|key| *key == WHEN).cloned().collect(),
        ..of.clone()
    }
}
