//! Pipelines that are stages of others. Their stages become stages of the file that uses them, with that stage's name in front of their own.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::document::{Document, OutputDraft, Scope, Sharing, StageDraft};
use super::given::{Completeness, Given};
use super::model::{PythonEnvironmentSpec, RequirementsSpec, StageSpec, SubPipelineSpec};
use super::params::Param;
use super::parse::parse_file;
use super::query_file::unreadable;
use super::tree::{Entry, Node, Value};
use crate::diagnostic::{Code, Diagnostic, SourceText, Span};

/// The kind of a stage that is another pipeline.
pub const PIPELINE: &str = "pipeline";
/// The kind of what stands for the rows that a pipeline is given.
pub const INPUT: &str = "input";

/// Pipelines in pipelines in pipelines. Nobody needs many, and what is made of a few lines is to be bounded.
const MOST_LEVELS: usize = 16;
/// Uses of one in another, all together: two in each of a dozen levels would be thousands.
const MOST_PIPELINES: usize = 1000;
/// Stages of all of them together.
const MOST_STAGES: usize = 100_000;

/// What a file that is read is a part of.
#[derive(Clone, Copy)]
pub struct Around<'a> {
    /// What all files are included in.
    pub map: &'a Arc<SourceText>,
    /// The files that use it, one in the other.
    pub within: &'a [&'a SourceText],
    /// How many pipelines are used by others so far.
    pub uses: &'a Cell<usize>,
}

/// Adds the stages of the pipelines that are stages of the document, which stands in `file`.
pub fn add_stages(document: &mut Document, file: &SourceText, given: &Given, around: Around<'_>) {
    let Around { map, within, uses } = around;
    let used: Vec<usize> =
        (0..document.stages.len()).filter(|at| document.stages[*at].spec.pipeline.is_some()).collect();
    for at in used {
        let draft = document.stages[at].clone();
        let Some(spec) = draft.spec.pipeline.clone() else { continue };
        let node = draft.find(&[PIPELINE, "file"]).cloned().unwrap_or_else(|| draft.node.clone());
        let (start, inner) = match map.include_from(file, spec.file().as_ref()) {
            Ok(inner) => inner,
            Err(error) => {
                document.problems.push(unreadable(&error, &node));
                document.stages[at].lost.insert(PIPELINE.to_owned());
                continue;
            }
        };
        let chain: Vec<&SourceText> = within.iter().copied().chain([file]).collect();
        if chain.iter().any(|file| file.path() == inner.path()) || chain.len() > MOST_LEVELS {
            let message = format!("the pipeline `{}` would be a part of itself", inner.name());
            let problem = Diagnostic::new(Code::SpecRecursive, node.span, message).through(node.alias);
            document.problems.push(problem.help("a pipeline can use others, which do not use it".to_owned()));
            document.stages[at].lost.insert(PIPELINE.to_owned());
            continue;
        }
        uses.set(uses.get() + 1);
        if uses.get() > MOST_PIPELINES {
            // Said once: each of them would have to say it.
            if uses.get() == MOST_PIPELINES + 1 {
                let message = format!("there are more than {MOST_PIPELINES} pipelines in pipelines");
                document.problems.push(Diagnostic::new(Code::SpecBadValue, node.span, message));
            }
            document.stages[at].lost.insert(PIPELINE.to_owned());
            return;
        }
        let given_inside = given_inside(&draft, &spec, file, given);
        let mut sub = parse_file(inner, start, &given_inside, Around { within: &chain, ..around });
        sub.problems.retain(|problem| problem.code != Code::ParamMissing);
        place_problems(&mut sub.problems, &draft);
        document.problems.extend(missing_param(&draft, &spec, &sub));
        if document.stages.len() + sub.stages.len() > MOST_STAGES {
            let message = format!("there are more than {MOST_STAGES} stages");
            document.problems.push(Diagnostic::new(Code::SpecBadValue, node.span, message));
            return;
        }
        join(document, at, sub, inner.path());
    }
}

fn given_inside(draft: &StageDraft, spec: &SubPipelineSpec, file: &SourceText, given: &Given) -> Given {
    let text = |value: &serde_json::Value| match value {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let params = spec.params().into_iter().flatten().filter(|(name, _)| !name.starts_with("x-"));
    // What is not known yet outside is not known inside.
    let is_open = draft.is_lost(PIPELINE);
    Given {
        set: params.map(|(name, value)| (name.clone(), text(value))).collect(),
        // Paths that are given stand in the file outside.
        current_dir: file.folder().to_owned(),
        completeness: if is_open { Completeness::Partial } else { given.completeness },
        ..given.clone()
    }
}

/// A param without which the pipeline cannot be run.
fn missing_param(draft: &StageDraft, spec: &SubPipelineSpec, sub: &Document) -> Option<Diagnostic> {
    let given = |name: &str| spec.params().is_some_and(|params| params.contains_key(name));
    // A slip in a name is one mistake.
    let is_misspelt =
        spec.params().into_iter().flatten().any(|(name, _)| sub.params.iter().all(|param| param.name != *name));
    if draft.is_lost(PIPELINE) || is_misspelt {
        return None;
    }
    let missing = sub.params.iter().find(|param| param.required && !given(&param.name))?;
    let message = format!("the pipeline `{}` needs a value for its param `{}`", draft.name, missing.name);
    let problem = Diagnostic::new(Code::SpecMissingKey, draft.span(&[PIPELINE]), message).through(draft.alias);
    let help = format!("write `pipeline: {{ file: {}, params: {{ {}: … }} }}`", spec.file(), missing.name);
    Some(problem.help(help).related(missing.span, "declared here"))
}

/// What is wrong with the params that are given has its place where they are given.
fn place_problems(problems: &mut [Diagnostic], draft: &StageDraft) {
    for problem in problems.iter_mut().filter(|problem| problem.span().is_none()) {
        let params = draft.find(&[PIPELINE, "params"]);
        let named = params.and_then(|params| {
            params.entries().iter().find(|entry| problem.message.contains(&format!("{}=", entry.key.name)))
        });
        let span = named.map_or_else(|| draft.span(&[PIPELINE]), |entry| entry.value.span);
        let message = problem.message.replace("--set ", "");
        let placed = Diagnostic::new(Code::SpecBadValue, span, message);
        *problem = placed.help(problem.help.clone()).through(draft.alias);
    }
}

/// Puts what is inside into the document that uses it as the stage at `at`.
fn join(document: &mut Document, at: usize, sub: Document, file: &Path) {
    let owner = document.stages[at].clone();
    let scope = Arc::new(Scope {
        stage: owner.name.clone(),
        file: file.to_owned(),
        params: sub.params.clone(),
        outer: owner.scope.clone(),
    });
    for shared in sub.stages.iter().filter(|draft| draft.sharing == Sharing::Source) {
        let message = format!("`{}` is shared in a pipeline that is used as a stage", shared.name);
        let problem = Diagnostic::new(Code::PlanBadOption, shared.name_span, message);
        document.problems.push(problem.help("share it in the pipeline that uses it".to_owned()));
    }
    for hook in &sub.hooks {
        let message = format!("`{}` is a hook of a pipeline that is used as a stage", hook.stage.name);
        let problem = Diagnostic::new(Code::PlanBadOption, hook.stage.name_span, message);
        document.problems.push(problem.help("write it in the pipeline that uses it".to_owned()));
    }
    let stages = sub.stages.into_iter().filter(|draft| draft.sharing == Sharing::None);
    let mut scopes = BTreeMap::new();
    let inside = stages.map(|draft| inside(draft, &owner, &scope, &mut scopes));
    document.stages[at].outputs.clone_from(&sub.outputs);
    document.stages.extend(inside);
    document.problems.extend(sub.problems);
    document.secrets.extend(sub.secrets);
    document.foreach_spans.extend(sub.foreach_spans);
    join_python(document, sub.python, &sub.folder, sub.python_span);
    for resource in sub.resources {
        if document.resources.iter().all(|known| known.name != resource.name) {
            document.resources.push(resource);
        }
    }
}

/// A stage as one of the pipeline that uses it. `deeper` has the scopes of pipelines further in, by their stages.
fn inside(
    mut draft: StageDraft,
    owner: &StageDraft,
    scope: &Arc<Scope>,
    deeper: &mut BTreeMap<String, Arc<Scope>>,
) -> StageDraft {
    // An input gets what the stage is given that is the pipeline.
    if draft.kind() == Some(INPUT) && draft.scope.is_none() {
        let entries = owner.node.entry("from").cloned().into_iter().collect();
        draft.node = Node { value: Value::Mapping(entries), ..draft.node };
        draft.spec.from.clone_from(&owner.spec.from);
    }
    draft.name = format!("{}/{}", owner.name, draft.name);
    draft.foreach = draft.foreach.map(|name| format!("{}/{name}", owner.name));
    if owner.spec.when == Some(false) {
        draft.spec.when = Some(false);
    }
    if owner.is_lost("when") {
        draft.lost.insert("when".to_owned());
    }
    draft.scope = Some(match draft.scope {
        None => Arc::clone(scope),
        Some(inner) => {
            let made = deeper.entry(inner.stage.clone()).or_insert_with(|| Arc::new(inner.within(scope)));
            Arc::clone(made)
        }
    });
    draft
}

/// What the code inside needs is there for all of it.
fn join_python(document: &mut Document, inner: PythonEnvironmentSpec, folder: &Path, span: Option<Span>) {
    let absolute = |folder: &Path, path: &str| folder.join(path).to_string_lossy().into_owned();
    let outer = &mut document.python;
    if outer.path.is_empty() {
        outer.path.push(document.folder.to_string_lossy().into_owned());
    }
    let own = if inner.path.is_empty() { vec![".".to_owned()] } else { inner.path };
    for path in own.iter().map(|path| absolute(folder, path)) {
        if outer.path.iter().all(|known| absolute(&document.folder, known) != path) {
            outer.path.push(path);
        }
    }
    let requirements = match inner.requirements {
        Some(RequirementsSpec::File(file)) => Some(RequirementsSpec::File(absolute(folder, &file))),
        other => other,
    };
    match (&mut outer.requirements, requirements) {
        (_, None) => {}
        (Some(RequirementsSpec::List(known)), Some(RequirementsSpec::List(more))) => {
            known.extend(more.into_iter().filter(|one| !known.contains(one)).collect::<Vec<_>>());
        }
        (known @ None, more) if outer.venv.is_none() => *known = more,
        (Some(RequirementsSpec::File(one)), Some(RequirementsSpec::File(other)))
            if absolute(&document.folder, one) == other => {}
        _ => {
            let message =
                "the packages that this pipeline requires cannot be put together with those of the one that uses it";
            let problem = Diagnostic::new(Code::PlanBadOption, span.unwrap_or_default(), message);
            let help = "give both as lists under `requirements`, or all of them in the pipeline that uses the other";
            document.problems.push(problem.help(help.to_owned()));
        }
    }
    outer.interpreter = outer.interpreter.take().or(inner.interpreter);
    outer.venv = outer.venv.take().or(inner.venv.map(|venv| absolute(folder, &venv)));
}

/// The stages that stand for the rows which a pipeline is given.
pub fn inputs(root: &Node) -> Vec<StageDraft> {
    let items = root.get("inputs").map(Node::items).unwrap_or_default();
    let draft = |item: &Node| {
        let node = Node { value: Value::Mapping(Vec::new()), ..item.clone() };
        Some(StageDraft::new(item.as_str()?, (INPUT, item.span), node, StageSpec::default()))
    };
    items.iter().filter_map(draft).collect()
}

/// The outputs that a pipeline declares.
pub fn outputs(root: &Node) -> Vec<OutputDraft> {
    let entries = root.get("outputs").map(Node::entries).unwrap_or_default();
    let named = entries.iter().filter(|entry| !entry.key.name.starts_with("x-"));
    let output = |entry: &Entry| {
        let (port, of, span) = (entry.key.name.clone(), entry.value.as_str()?.to_owned(), entry.value.span);
        Some(OutputDraft { port, of, span })
    };
    named.filter_map(output).collect()
}

/// The params that a stage sees.
pub fn params<'d>(document: &'d Document, draft: &'d StageDraft) -> &'d [Param] {
    draft.scope.as_ref().map_or(&document.params, |scope| &scope.params)
}

/// Moves a tree to where the bytes of its file begin.
pub fn shift(node: &mut Node, by: usize) {
    let moved = |span: &mut Span| *span = Span::new(span.start + by, span.end + by);
    moved(&mut node.span);
    node.alias.iter_mut().for_each(moved);
    match &mut node.value {
        Value::Sequence(items) => items.iter_mut().for_each(|item| shift(item, by)),
        Value::Mapping(entries) => {
            for entry in entries {
                moved(&mut entry.key.span);
                entry.key.alias.iter_mut().for_each(moved);
                shift(&mut entry.value, by);
            }
        }
        _ => {}
    }
}

/// The same for a problem.
pub fn shift_problem(problem: &mut Diagnostic, by: usize) {
    let moved = |span: &mut Span| *span = Span::new(span.start + by, span.end + by);
    problem.primary.iter_mut().for_each(|label| moved(&mut label.span));
    problem.related.iter_mut().for_each(|label| moved(&mut label.span));
    problem.alias.iter_mut().for_each(moved);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::spec::parse;

    fn document(text: &str, files: &[(&str, String)]) -> Document {
        let source = SourceText::new("p.yaml", "/p/p.yaml", text);
        let source = files.iter().fold(source, |source, (path, text)| source.with_file(path, text));
        let given = Given {
            set: Vec::new(),
            env: BTreeMap::new(),
            secrets: BTreeMap::new(),
            current_dir: "/".into(),
            seed: 0,
            completeness: Completeness::Full,
        };
        parse(&Arc::new(source), &given)
    }

    fn codes(document: &Document) -> Vec<&'static str> {
        document.problems.iter().map(|problem| problem.code.word()).collect()
    }

    #[test]
    fn what_both_files_need_is_put_together() {
        let inner = "version: 1
python: { requirements: [numpy, pandas], path: [code] }
resources: { api: 1, gpu: 2 }
stages: { a: { sql: SELECT 1 AS n } }
";
        let outer = "version: 1
python: { requirements: [pandas, polars] }
resources: { api: 5 }
stages: { s: { pipeline: steps/inner.yaml } }
";
        let document = document(outer, &[("steps/inner.yaml", inner.to_owned())]);
        assert_eq!(codes(&document), Vec::<&str>::new());
        let Some(RequirementsSpec::List(requirements)) = &document.python.requirements else { panic!("no list") };
        assert_eq!(requirements, &["pandas", "polars", "numpy"]);
        assert_eq!(document.python.path, ["/p", "/p/steps/code"]);
        let resources: Vec<_> = document.resources.iter().map(|it| (it.name.as_str(), it.node.to_json())).collect();
        assert_eq!(resources, [("api", 5.into()), ("gpu", 2.into())]);
        let names: Vec<&str> = document.stages.iter().map(|stage| stage.name.as_str()).collect();
        assert_eq!(names, ["s", "s/a"]);
    }

    #[test]
    fn what_belongs_to_the_one_that_uses_it_is_refused() {
        let inner = "version: 1
shared: { t: { sql: SELECT 1 AS n } }
stages: { a: { sql: SELECT 1 AS n } }
finally: { tidy: { command: [rm, x] } }
";
        let outer = "version: 1\nstages: { s: { pipeline: inner.yaml } }\n";
        let document = document(outer, &[("inner.yaml", inner.to_owned())]);
        assert_eq!(codes(&document), ["plan::bad_option", "plan::bad_option"]);
    }

    #[test]
    fn levels_and_uses_are_bounded() {
        let using = |file: &str| format!("version: 1\nstages: {{ s: {{ pipeline: {file} }} }}\n");
        let chain = |levels: usize| -> Document {
            let mut files: Vec<(String, String)> =
                (1..levels).map(|level| (format!("{level}.yaml"), using(&format!("{}.yaml", level + 1)))).collect();
            files.push((format!("{levels}.yaml"), "version: 1\nstages: { s: { sql: SELECT 1 AS n } }\n".to_owned()));
            let files: Vec<(&str, String)> = files.iter().map(|(path, text)| (path.as_str(), text.clone())).collect();
            document(&using("1.yaml"), &files)
        };
        assert_eq!(codes(&chain(MOST_LEVELS)), Vec::<&str>::new());
        assert_eq!(codes(&chain(MOST_LEVELS + 1)), ["spec::recursive"]);
        // Ten in each of four levels.
        let ten = |file: &str| -> String {
            let stages: String = (0..10).map(|at| format!("  s{at}: {{ pipeline: {file} }}\n")).collect();
            format!("version: 1\nstages:\n{stages}")
        };
        let leaf = ("3.yaml", "version: 1\nstages: { s: { sql: SELECT 1 AS n } }\n".to_owned());
        let many = document(&ten("1.yaml"), &[("1.yaml", ten("2.yaml")), ("2.yaml", ten("3.yaml")), leaf]);
        assert_eq!(codes(&many), ["spec::bad_value"], "ten, a hundred and a thousand are more than {MOST_PIPELINES}");
    }
}
