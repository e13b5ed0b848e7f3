//! What is checked of pipelines that are stages of others.

use crate::diagnostic::{Code, Diagnostic, Span, did_you_mean};
use crate::spec::model::FromSpec;
use crate::spec::sub_pipeline::{INPUT, PIPELINE};
use crate::spec::{Document, StageDraft};

/// A pipeline that takes rows is only good for a stage of another one.
pub fn given(draft: &StageDraft) -> Option<Diagnostic> {
    (draft.kind() == Some(INPUT) && draft.scope.is_none()).then(|| {
        let message = format!("the pipeline is given no rows for its input `{}`", draft.name);
        let help = "use it as a stage of another pipeline (`pipeline:`), or give its rows in a test (`millpond test`)";
        Diagnostic::new(Code::PlanMissingInput, draft.name_span, message).help(help.to_owned())
    })
}

/// What a stage that is a pipeline cannot say for those inside.
pub fn keys(draft: &StageDraft) -> Option<Diagnostic> {
    const KEYS: [&str; 6] = [PIPELINE, "from", "after", "when", "description", "foreach"];
    if draft.kind() != Some(PIPELINE) {
        return None;
    }
    let entries = draft.node.entries().iter();
    let entry = entries.map(|entry| &entry.key).find(|key| {
        let is_known = KEYS.contains(&key.name.as_str()) || key.name.starts_with("x-");
        !is_known && !draft.is_lost(&key.name)
    })?;
    let message = format!("`{}` has no meaning for a stage that is a pipeline", entry.name);
    let help = "write it in its file, for the stages there that it is for";
    Some(Diagnostic::new(Code::PlanBadOption, entry.span, message).help(help.to_owned()).through(draft.alias))
}

/// What a pipeline that is a stage is not given, or cannot be.
pub fn inputs(document: &Document, draft: &StageDraft) -> Vec<Diagnostic> {
    if draft.is_lost("from") || draft.is_lost(PIPELINE) {
        return Vec::new();
    }
    let prefix = format!("{}/", draft.name);
    let inside = document.stages.iter().filter(|other| other.kind() == Some(INPUT));
    let inputs: Vec<&str> =
        inside.filter_map(|other| other.name.strip_prefix(&prefix)).filter(|name| !name.contains('/')).collect();
    let problem = |span: Span, message: String, help: String| {
        Diagnostic::new(Code::PlanBadInput, span, message).help(help).through(draft.alias)
    };
    let all = inputs.iter().map(|name| format!("{name}: …")).collect::<Vec<_>>().join(", ");
    let name = &draft.name;
    let is_read = document.stages.iter().any(|other| other.scope.as_ref().is_some_and(|scope| scope.stage == *name));
    match &draft.spec.from {
        None if inputs.is_empty() => Vec::new(),
        None => {
            let message = format!("the pipeline `{name}` is given no rows, and has {}", quoted(&inputs, "input"));
            vec![problem(draft.name_span, message, format!("add `from: {{ {all} }}`"))]
        }
        // Whether it has any is not known of a file that cannot be read.
        Some(_) if inputs.is_empty() && !is_read => Vec::new(),
        Some(FromSpec::Named(given)) => {
            let given = || given.keys().map(String::as_str).filter(|key| !key.starts_with("x-"));
            let missing: Vec<&str> = inputs.iter().copied().filter(|input| given().all(|key| key != *input)).collect();
            let span = draft.span(&["from"]);
            let missing = (!missing.is_empty()).then(|| {
                let message = format!("the pipeline `{name}` is given no rows for its {}", quoted(&missing, "input"));
                problem(span, message, format!("add {}", quoted(&missing, "key")))
            });
            let unknown = given().filter(|key| !inputs.contains(key)).map(|key| {
                let span = draft.find(&["from"]).and_then(|node| node.entry(key)).map_or(span, |entry| entry.key.span);
                let problem =
                    Diagnostic::new(Code::PlanBadInput, span, format!("the pipeline `{name}` has no input `{key}`"));
                problem.help(did_you_mean(key, inputs.iter().copied())).through(draft.alias)
            });
            missing.into_iter().chain(unknown).collect()
        }
        Some(_) if inputs.len() == 1 => Vec::new(),
        Some(_) => {
            let message = match inputs.len() {
                0 => format!("the pipeline `{name}` takes no rows"),
                _ => {
                    format!("the pipeline `{name}` has {}: say which rows are for which", quoted(&inputs, "input"))
                }
            };
            let help = if inputs.is_empty() {
                "remove `from`, or give the pipeline `inputs`".to_owned()
            } else {
                format!("write `from: {{ {all} }}`")
            };
            vec![problem(draft.span(&["from"]), message, help)]
        }
    }
}

fn quoted(names: &[&str], what: &str) -> String {
    let listed = names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    format!("{what}{} {listed}", if names.len() == 1 { "" } else { "s" })
}
