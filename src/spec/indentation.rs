//! Lines that are indented too little or too much. What was meant is told once, and the tree is put right, so that what follows is
//! checked as it was meant and nothing is said of what the first mistake has brought about.

use serde_json::Value as Json;

use super::hint::Hints;
use super::schema::KINDS;
use super::tree::{Entry, Key, Node, Value};
use crate::diagnostic::{Code, Diagnostic, Span};

/// Sections of the file whose entries have names that are the user's and keys that are the language's.
const SECTIONS: [&str; 5] = ["stages", "shared", "params", "on_failure", "finally"];

/// Puts right what is indented wrongly, and says so. What it changes would be wrong by the schema, too.
pub fn repair(root: &mut Node, schema: &Json) -> Vec<Diagnostic> {
    // The tree is changed while places in it are described; hints here are about the schema alone.
    let nothing = Node { value: Value::Null, span: root.span, alias: None };
    let hints = Hints::new(schema, &nothing);
    let mut problems = Vec::new();
    gather_stages(root, schema, &mut problems);
    for section in SECTIONS {
        let Some(node) = root.get_mut(section) else { continue };
        let Value::Mapping(entries) = &mut node.value else { continue };
        indent(entries, section, &|name| hints.is_key(section, name), &is_no_entry, &mut problems);
        if section == "params" {
            continue;
        }
        for entry in entries.iter_mut().filter(|entry| !entry.key.name.starts_with("x-")) {
            let Value::Mapping(keys) = &mut entry.value.value else { continue };
            indent_in_stage(keys, section, hints, &mut problems);
            move_out(keys, section, hints, &mut problems);
        }
        if section == "stages" {
            lift_stages(entries, hints, &mut problems);
        }
    }
    problems
}

/// Stages that stand beside `stages` instead of below it.
fn gather_stages(root: &mut Node, schema: &Json, problems: &mut Vec<Diagnostic>) {
    let Value::Mapping(entries) = &mut root.value else { return };
    let known = |name: &str| name.starts_with("x-") || schema.pointer(&format!("/properties/{name}")).is_some();
    let taken: Vec<Entry> = entries.extract_if(.., |entry| !known(&entry.key.name) && is_stage(&entry.value)).collect();
    let Some(first) = taken.first() else { return };
    let names = names(&taken);
    let message = format!("the pipeline has no key{} {names}", plural(taken.len()));
    let help = match taken.len() {
        1 => format!("{names} looks like a stage: indent it under `stages`"),
        _ => format!("{names} look like stages: indent them under `stages`"),
    };
    problems.push(unknown(&first.key, message, help));
    let at = entries.iter().position(|entry| entry.key.name == "stages");
    let at = at.unwrap_or_else(|| {
        let key = Key { name: "stages".to_owned(), ..first.key.clone() };
        entries.push(Entry { key, value: Node { value: Value::Null, ..first.value.clone() } });
        entries.len() - 1
    });
    let stages = &mut entries[at].value;
    if let Value::Null = stages.value {
        stages.value = Value::Mapping(Vec::new());
    }
    if let Value::Mapping(stages) = &mut stages.value {
        for entry in taken {
            if stages.iter().all(|stage| stage.key.name != entry.key.name) {
                stages.push(entry);
            }
        }
    }
}

/// Keys that stand beside the name of an empty entry instead of below it.
fn indent(
    entries: &mut Vec<Entry>,
    section: &str,
    is_key: &dyn Fn(&str) -> bool,
    is_misplaced: &dyn Fn(&Node) -> bool,
    problems: &mut Vec<Diagnostic>,
) {
    let mut at = 0;
    while at < entries.len() {
        let follows = |entry: &Entry| is_key(&entry.key.name) && is_misplaced(&entry.value);
        let is_empty = matches!(entries[at].value.value, Value::Null) && !entries[at].key.name.starts_with("x-");
        let count = entries[at + 1..].iter().take_while(|entry| follows(entry)).count();
        if is_empty && count > 0 && !follows(&entries[at]) {
            let taken: Vec<Entry> = entries.drain(at + 1..=at + count).collect();
            let what = match section {
                "params" => "the param",
                "shared" => "the shared",
                "on_failure" | "finally" => "the hook",
                _ => "the stage",
            };
            problems.push(empty(&entries[at], what, &taken));
            fill(&mut entries[at].value, taken);
        }
        at += 1;
    }
}

/// The same for keys such as `retry` and `read` of one stage.
fn indent_in_stage(keys: &mut Vec<Entry>, section: &str, hints: Hints<'_>, problems: &mut Vec<Diagnostic>) {
    let mut at = 0;
    while at < keys.len() {
        let name = keys[at].key.name.clone();
        let follows =
            |entry: &Entry| !hints.is_key(section, &entry.key.name) && hints.may_have(section, &name, &entry.key.name);
        let count = keys[at + 1..].iter().take_while(|entry| follows(entry)).count();
        if matches!(keys[at].value.value, Value::Null) && count > 0 {
            let taken: Vec<Entry> = keys.drain(at + 1..=at + count).collect();
            problems.push(empty(&keys[at], "", &taken));
            fill(&mut keys[at].value, taken);
        }
        at += 1;
    }
}

/// Keys of the stage that stand below one of its keys.
fn move_out(keys: &mut Vec<Entry>, section: &str, hints: Hints<'_>, problems: &mut Vec<Diagnostic>) {
    let mut moved: Vec<Entry> = Vec::new();
    for entry in keys.iter_mut() {
        let allowed = hints.keys_under(section, &entry.key.name);
        let Value::Mapping(inner) = &mut entry.value.value else { continue };
        // A mapping whose keys are the user's has none that are misplaced.
        if allowed.is_empty() {
            continue;
        }
        let is_of_stage = |key: &Key| hints.is_key(section, &key.name) && !allowed.contains(&key.name.as_str());
        let taken: Vec<Entry> = inner.extract_if(.., |inner| is_of_stage(&inner.key)).collect();
        let Some(first) = taken.first() else { continue };
        let (names, under) = (names(&taken), &entry.key.name);
        let message = format!("`{under}` has no key{} {names}", plural(taken.len()));
        let help = match taken.len() {
            1 => format!("{names} is a key of the stage: move it out of `{under}`"),
            _ => format!("{names} are keys of the stage: indent them as `{under}` is"),
        };
        problems.push(unknown(&first.key, message, help));
        moved.extend(taken);
    }
    for entry in moved {
        if keys.iter().all(|key| key.key.name != entry.key.name) {
            keys.push(entry);
        }
    }
}

/// Stages that stand below another one.
fn lift_stages(stages: &mut Vec<Entry>, hints: Hints<'_>, problems: &mut Vec<Diagnostic>) {
    let mut at = 0;
    while at < stages.len() {
        let outer = stages[at].key.name.clone();
        let Value::Mapping(keys) = &mut stages[at].value.value else {
            at += 1;
            continue;
        };
        let is_inner = |entry: &mut Entry| {
            let name = &entry.key.name;
            !name.starts_with("x-") && !hints.is_key("stages", name) && is_stage(&entry.value)
        };
        let taken: Vec<Entry> =
            if outer.starts_with("x-") { Vec::new() } else { keys.extract_if(.., is_inner).collect() };
        let is_empty = keys.is_empty();
        if let Some(first) = taken.first() {
            let names = names(&taken);
            let message = format!("the stage `{outer}` has no key{} {names}", plural(taken.len()));
            let help = match (taken.len(), is_empty) {
                (1, false) => format!("{names} looks like a stage: indent it as `{outer}` is"),
                (_, false) => format!("{names} look like stages: indent them as `{outer}` is"),
                (1, true) => format!("{names} looks like a stage: stages stand directly below `stages`"),
                (_, true) => format!("{names} look like stages: they stand directly below `stages`"),
            };
            problems.push(unknown(&first.key, message, help));
            // What has only held others together is no stage.
            if is_empty {
                stages.remove(at);
            } else {
                at += 1;
            }
            for entry in taken {
                if stages.iter().all(|stage| stage.key.name != entry.key.name) {
                    stages.insert(at, entry);
                    at += 1;
                }
            }
            continue;
        }
        at += 1;
    }
}

fn fill(node: &mut Node, entries: Vec<Entry>) {
    if let (Some(first), Some(last)) = (entries.first(), entries.last()) {
        node.span = Span::new(first.key.span.start, last.value.span.end);
    }
    node.value = Value::Mapping(entries);
}

fn empty(entry: &Entry, what: &str, taken: &[Entry]) -> Diagnostic {
    let name = &entry.key.name;
    let space = if what.is_empty() { "" } else { " " };
    let message = format!("{what}{space}`{name}` must be a mapping, not nothing");
    Diagnostic::new(Code::SpecWrongType, entry.key.span, message)
        .label("there is nothing below it")
        .help(format!("indent {} under `{name}`", names(taken)))
        .through(entry.key.alias)
}

fn unknown(key: &Key, message: String, help: String) -> Diagnostic {
    Diagnostic::new(Code::SpecUnknownKey, key.span, message).label("unknown key").help(help).through(key.alias)
}

fn is_stage(node: &Node) -> bool {
    KINDS.iter().any(|kind| node.entry(kind).is_some())
}

/// A value that no stage, param or shared thing could be.
fn is_no_entry(node: &Node) -> bool {
    match &node.value {
        Value::Mapping(_) => !is_stage(node) && node.entry("type").is_none(),
        Value::Null => false,
        _ => true,
    }
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

/// "`a`, `b` and `c`".
fn names(entries: &[Entry]) -> String {
    let names: Vec<String> = entries.iter().map(|entry| format!("`{}`", entry.key.name)).collect();
    match names.as_slice() {
        [others @ .., last] if !others.is_empty() => format!("{} and {last}", others.join(", ")),
        _ => names.concat(),
    }
}
