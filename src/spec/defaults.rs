//! `defaults`: keys that stages have which do not say otherwise.
//!
//! They are put into the tree of every stage that can have them, with their places, after the schema has seen what was written. So whatever
//! comes later knows stages alone, and what is wrong with a key for one of them points to where it stands.

use std::collections::BTreeMap;

use super::expect::EXPECT;
use super::schema::KINDS;
use super::sub_pipeline::PIPELINE;
use super::tree::{Entry, Node, Step, Value};

/// The key of the file.
pub const DEFAULTS: &str = "defaults";

/// Adds the keys to the stages of both trees; `pruned` is `root` without its holes. Gives the holes that the stages have now.
pub fn apply(root: &mut Node, pruned: &mut Node, mut holes: Vec<Vec<Step>>) -> Vec<Vec<Step>> {
    let entries = |tree: &Node| tree.get(DEFAULTS).map(|node| node.entries().to_vec()).unwrap_or_default();
    let (written, readable) = (entries(root), entries(pruned));
    let written: Vec<Entry> = written.into_iter().filter(|entry| !entry.key.name.starts_with("x-")).collect();
    if written.is_empty() {
        return holes;
    }
    let in_defaults: Vec<Vec<Step>> =
        holes.iter().filter(|hole| hole.first().is_some_and(is_defaults)).cloned().collect();
    let mut readable_stages = stages(pruned);
    for (name, stage) in stages(root) {
        for entry in &written {
            let key = entry.key.name.as_str();
            if stage.get(key).is_some() || !takes(stage, key) {
                continue;
            }
            let given = readable.iter().find(|entry| entry.key.name == key);
            if let (Some(given), Some(stage)) = (given, readable_stages.get_mut(&name)) {
                add(stage, given);
            }
            add(stage, entry);
            let of_key = in_defaults.iter().filter(|hole| hole.get(1) == Some(&Step::Key(key.to_owned())));
            holes.extend(of_key.map(|hole| {
                let stage = [Step::Key("stages".to_owned()), Step::Key(name.clone())];
                stage.into_iter().chain(hole[1..].iter().cloned()).collect()
            }));
        }
    }
    holes
}

fn is_defaults(step: &Step) -> bool {
    matches!(step, Step::Key(key) if key == DEFAULTS)
}

fn stages(root: &mut Node) -> BTreeMap<String, &mut Node> {
    let Some(Value::Mapping(entries)) = root.get_mut("stages").map(|node| &mut node.value) else {
        return BTreeMap::new();
    };
    let stages = entries.iter_mut().filter(|entry| !entry.key.name.starts_with("x-"));
    stages.map(|entry| (entry.key.name.clone(), &mut entry.value)).collect()
}

fn add(stage: &mut Node, entry: &Entry) {
    let mut entry = entry.clone();
    // Commands have nothing to prepare.
    if entry.key.name == "timeout" && stage.get("command").is_some() {
        entry.value.remove(&[Step::Key("open".to_owned())]);
    }
    if let Value::Mapping(keys) = &mut stage.value {
        keys.push(entry);
    }
}

/// Whether a stage can have the key.
fn takes(stage: &Node, key: &str) -> bool {
    let kinds: Vec<&str> = KINDS.into_iter().filter(|kind| stage.get(kind).is_some()).collect();
    let [kind] = kinds.as_slice() else { return false };
    // Those of its own file are for the stages inside.
    if *kind == PIPELINE {
        return false;
    }
    let has_from = stage.get("from").is_some();
    let command = |key: &str| stage.get("command")?.get(key)?.as_str();
    let mode = command("mode").unwrap_or(if has_from { "batch" } else { "once" });
    let gives_rows = command("output").is_some_and(|format| format != "none");
    let has_state = stage.get("partition_by").is_some()
        || stage.get("python").and_then(|python| python.get("as")?.as_str()).is_some_and(|word| word == "stream");
    let loses_rows = match *kind {
        "python" => has_from && !has_state,
        "command" => matches!(mode, "batch" | "row"),
        _ => false,
    };
    match key {
        "on_error" => loses_rows || stage.get(EXPECT).is_some(),
        "checkpoint" => loses_rows,
        "order" => loses_rows || (*kind == "write" && stage.get("from").is_some_and(|from| from.items().len() > 1)),
        "recycle" => *kind == "python" && loses_rows,
        "memory" | "log_level" => *kind == "python",
        "timeout" | "retry" => *kind == "python" || (*kind == "command" && !(mode == "once" && gives_rows)),
        "workers" => matches!(*kind, "python" | "command" | "sql"),
        "queue" => has_from,
        "batch" => (has_from || *kind == "read") && !(*kind == "command" && mode == "row"),
        _ => matches!(*kind, "python" | "command"),
    }
}
