//! Keys that can do nothing for the stage that has them.

use super::check::misspells;
use super::command_shape::CommandShape;
use super::stage::StageKind;
use crate::diagnostic::{Code, Diagnostic};
use crate::spec::StageDraft;
use crate::spec::model::CommandModeSpec;

/// What is for processes, attempts or an input, of a stage that has none.
pub fn keys(draft: &StageDraft, kind: Option<&StageKind>) -> Vec<Diagnostic> {
    if !draft.is_written() {
        return Vec::new();
    }
    let keys =
        ["retry", "workers", "env", "cwd", "queue"].into_iter().filter(|key| draft.has(key) && !draft.is_lost(key));
    let problem = |key: &str| {
        let (reason, help) = reason(draft, kind, key)?;
        let message = format!("`{key}` has no meaning for the stage `{}`: {reason}", draft.name);
        let problem = Diagnostic::new(Code::PlanBadOption, draft.key_span(key), message);
        Some(problem.help(help.to_owned()).through(draft.alias))
    };
    keys.filter_map(problem).collect()
}

/// Why the key does nothing, and what it is for.
fn reason(draft: &StageDraft, kind: Option<&StageKind>, key: &str) -> Option<(&'static str, &'static str)> {
    const RETRY: &str = "remove it; it is for `python` stages, and for commands that are given rows or give none";
    let word = draft.kind()?;
    let is_native = matches!(word, "read" | "write" | "sql");
    let is_once = CommandShape::of(draft).is_some_and(|shape| shape.mode == CommandModeSpec::Once);
    Some(match key {
        "retry" if word == "sql" => ("a query comes to the same each time", RETRY),
        "retry" if is_native => ("files are not read or written in attempts", RETRY),
        "retry" if matches!(kind, Some(StageKind::Command(command)) if command.is_source()) => {
            ("a command that is a source is one process for the whole run", RETRY)
        }
        "workers" if matches!(word, "read" | "write") => {
            ("it has no workers", "remove it; it is for `python`, `command` and `sql` stages")
        }
        "env" | "cwd" if is_native => ("it starts no processes", "remove it; it is for `python` and `command` stages"),
        "queue" if word == "read" || is_once => ("it gets no rows", "remove it; it is for stages with `from`"),
        "queue" if word == "python" && !draft.has("from") && !misspells(draft, "from") => {
            ("without `from`, it gets no rows", "add `from`, the stage whose rows it takes; or remove the key")
        }
        _ => return None,
    })
}
