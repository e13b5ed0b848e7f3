//! [`Hook`]: what is done when a run has ended.

use std::time::Duration;

use super::check;
use super::command_shape::CommandShape;
use super::compile::{Settings, compile_alone, problems_of};
use super::failing::Timeout;
use super::plan::Plan;
use super::resolve::Resolver;
use super::stage::{Convention, StageKind};
use crate::diagnostic::{Code, Diagnostic, Span};
use crate::spec::model::{CommandModeSpec, CommandSpec, PipeFormatSpec, PythonSpec};
use crate::spec::{Document, HookDraft, Moment};

/// How long an attempt may take where the file does not say: nobody waits for what hangs when all is done.
const PATIENCE: Duration = Duration::from_secs(300);

/// A hook: a plan of one stage, which is given no rows and gives none.
#[derive(Clone, Debug)]
pub struct Hook {
    pub moment: Moment,
    pub plan: Plan,
}

impl Hook {
    pub fn name(&self) -> &str {
        &self.plan.stages[0].name
    }
}

/// What is wrong with the hooks of a document.
pub fn validate(document: &Document, settings: &Settings, problems: &mut Vec<Diagnostic>) {
    for hook in &document.hooks {
        let mut found: Vec<Diagnostic> = check::hook_kinds(hook).into_iter().collect();
        meaningless(document, hook, &mut found);
        let said: Vec<Option<Span>> = found.iter().map(Diagnostic::span).collect();
        let mut others = problems_of(&document.of_hook(hook), settings);
        // What is wrong with the rest of the file is said of the rest, and that a hook has no rows is said in its own words.
        others.retain(|problem| {
            let is_of_stages = [Code::ParamUnused, Code::PlanNoKind, Code::PlanTwoKinds, Code::PlanMissingInput];
            !is_of_stages.contains(&problem.code)
                && problem.span() != document.python_span
                && !said.contains(&problem.span())
        });
        problems.append(&mut found);
        problems.append(&mut others);
    }
}

/// The hooks of a document in which nothing is wrong, without those that are left out.
///
/// # Errors
/// What a failed pass forgot to say.
pub fn hooks(document: &Document, settings: &Settings) -> Result<Vec<Hook>, Diagnostic> {
    let mut hooks = Vec::new();
    for draft in &document.hooks {
        let mut plan = compile_alone(&document.of_hook(draft), settings)?;
        let Some(stage) = plan.stages.first_mut() else { continue };
        if let StageKind::Python(python) = &mut stage.kind {
            python.convention = Some(Convention::Task);
        }
        stage.timeout = stage.timeout.or(Some(Timeout { attempt: PATIENCE, open: PATIENCE }));
        hooks.push(Hook { moment: draft.moment, plan });
    }
    Ok(hooks)
}

/// What has no meaning where there are no rows, and where nothing is left out because it was done before.
fn meaningless(document: &Document, hook: &HookDraft, problems: &mut Vec<Diagnostic>) {
    let draft = &hook.stage;
    let has = |kind: &str, key: &str| draft.node.get(kind).is_some_and(|node| node.get(key).is_some());
    let mut found: Vec<(&str, &str, &str)> = Vec::new();
    if let Some(PythonSpec::Options(_)) = &draft.spec.python {
        let of_rows = ["as", "returns", "ports"].into_iter().filter(|key| has("python", key));
        found.extend(of_rows.map(|key| ("python", key, "it is given no rows and gives none")));
    }
    if let (Some(CommandSpec::Options(_)), Some(shape)) = (&draft.spec.command, CommandShape::of(draft)) {
        let rows = "it is given no rows and gives none";
        let keys = [
            ("mode", shape.mode != CommandModeSpec::Once, rows),
            ("input", shape.input != PipeFormatSpec::None, rows),
            ("output", shape.output != PipeFormatSpec::None, rows),
            ("returns", true, rows),
            ("inputs", true, "it is carried out whenever a run has ended"),
            ("outputs", true, "it is carried out whenever a run has ended"),
        ];
        let keys = keys.into_iter().filter(|(key, is_wrong, _)| *is_wrong && has("command", key));
        found.extend(keys.map(|(key, _, why)| ("command", key, why)));
    }
    for (kind, key, why) in found {
        let message = format!("`{key}` has no meaning for the hook `{}`: {why}", draft.name);
        Resolver { document, draft, problems }.report(Code::PlanBadOption, &[kind, key], message).help =
            Some("remove it".to_owned());
    }
}
