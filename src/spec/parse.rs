//! [`parse`]: the text of a pipeline file to a [`Document`].

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

use jsonschema::Validator;
use serde::de::DeserializeOwned;

use super::defaults::{self, DEFAULTS};
use super::document::{Document, ResourceDraft, Sharing, StageDraft};
use super::expect;
use super::foreach::{self, Expansion};
use super::given::Given;
use super::hook::{HookDraft, Moment};
use super::indentation;
use super::interpolate::{Found, Names};
use super::model::StageSpec;
use super::params::{self, Param};
use super::pattern;
use super::query_file;
use super::schema::{DOCUMENT, HOOK_KINDS, KINDS, SHARED_KINDS};
use super::sub_pipeline::{self, Around};
use super::tree::{Entry, Node, Step, Value};
use super::violation::Reader;
use super::yaml;
use crate::diagnostic::{Code, Diagnostic, SourceText};

const STAGES: &str = "stages";
const SHARED: &str = "shared";

static VALIDATOR: LazyLock<Validator> =
    LazyLock::new(|| jsonschema::validator_for(&DOCUMENT).expect("the schema is generated and tested"));

/// Reads a pipeline file. Never fails: what is wrong is in [`Document::problems`].
pub fn parse(source: &Arc<SourceText>, given: &Given) -> Document {
    let around = Around { map: source, within: &[], uses: &Cell::new(0) };
    let mut document = parse_file(source, 0, given, around);
    expect::add_checks(&mut document.stages);
    document
}

/// Reads a file, whose bytes begin at the offset `start` of all that are read together.
pub(super) fn parse_file(source: &SourceText, start: usize, given: &Given, around: Around<'_>) -> Document {
    let map = around.map;
    let (root, mut problems) = yaml::parse(source);
    problems.iter_mut().for_each(|problem| sub_pipeline::shift_problem(problem, start));
    let Some(mut root) = root else { return empty(map, source, given, problems) };
    sub_pipeline::shift(&mut root, start);
    problems.extend(indentation::repair(&mut root, &DOCUMENT));
    let name = name(&root, source);
    let mut found = Found::default();
    let params = read_params(&mut root, (map, source), given, &name, &mut found);
    let expansion = interpolate(&mut root, map, given, &params, &name, &mut found);
    let (violations, holes) = check_schema(&root);
    problems.append(&mut found.problems);
    problems.extend(violations);
    let open = open_values(&root);
    let holes: Vec<Vec<Step>> = holes.into_iter().chain(open).collect();
    let mut pruned = without(&root, &holes);
    let mut holes = defaults::apply(&mut root, &mut pruned, holes);
    holes.extend(query_file::read(&mut root, &mut pruned, (map, source), &mut problems));
    let mut stages = read_stages(STAGES, map, &root, &pruned, &holes, &mut problems);
    for stage in &mut stages {
        stage.foreach = expansion.of.get(&stage.name).cloned();
    }
    let shared = read_stages(SHARED, map, &root, &pruned, &holes, &mut problems);
    share(shared, &mut stages, &mut problems);
    for input in sub_pipeline::inputs(&root) {
        if !pattern::is_name(&input.name) {
            let message = format!("`{}` cannot be the name of an input", input.name);
            let problem = Diagnostic::new(Code::SpecBadName, input.name_span, message).through(input.alias);
            problems
                .push(problem.help("a name has small letters, digits and `_`, and begins with a letter".to_owned()));
        } else if let Some(stage) = stages.iter().find(|stage| *stage.written_name() == input.name) {
            let message = match stage.kind() {
                Some(sub_pipeline::INPUT) => format!("`inputs` names `{}` twice", input.name),
                _ => format!("`{}` is the name of a stage and of an input", input.name),
            };
            let problem = Diagnostic::new(Code::SpecBadName, input.name_span, message);
            problems.push(problem.related(stage.name_span, "the stage").help("rename one of them".to_owned()));
        } else {
            stages.push(input);
        }
    }
    let hooks = Moment::ALL.into_iter().flat_map(|moment| {
        let drafts = read_stages(moment.key(), map, &root, &pruned, &holes, &mut problems);
        drafts.into_iter().map(move |stage| HookDraft { moment, stage })
    });
    let hooks = hooks.collect();
    let python = pruned.get("python").map(|node| read_typed(node, &mut problems)).unwrap_or_default();
    let resources = read_resources(&root, &pruned, &mut problems);
    let description = pruned.get("description").and_then(Node::as_str).map(str::to_owned);
    let mut document = Document {
        name,
        description,
        params,
        python: python.unwrap_or_default(),
        python_span: root.entry("python").map(|entry| entry.key.span),
        resources,
        stages,
        hooks,
        foreach_spans: expansion.spans,
        defaults_span: root.get(DEFAULTS).map(|node| node.span),
        used_params: found.used,
        secrets: found.secrets,
        outputs: sub_pipeline::outputs(&root),
        ..empty(map, source, given, problems)
    };
    sub_pipeline::add_stages(&mut document, source, given, around);
    document
}

fn empty(map: &Arc<SourceText>, source: &SourceText, given: &Given, problems: Vec<Diagnostic>) -> Document {
    Document {
        name: stem(source),
        description: None,
        source: Arc::clone(map),
        folder: source.folder().to_owned(),
        params: Vec::new(),
        python: super::model::PythonEnvironmentSpec::default(),
        python_span: None,
        resources: Vec::new(),
        stages: Vec::new(),
        outputs: Vec::new(),
        hooks: Vec::new(),
        foreach_spans: Vec::new(),
        defaults_span: None,
        used_params: BTreeSet::new(),
        seed: given.seed,
        secrets: BTreeMap::new(),
        asked_for: BTreeSet::new(),
        is_shown: false,
        problems,
    }
}

/// Adds the stages that make what is shared, and for each one that keeps it.
fn share(shared: Vec<StageDraft>, stages: &mut Vec<StageDraft>, problems: &mut Vec<Diagnostic>) {
    for draft in shared {
        if let Some(stage) = stages.iter().find(|stage| *stage.written_name() == draft.name) {
            let message = format!("`{}` is the name of a stage and of something shared", draft.name);
            let problem = Diagnostic::new(Code::SpecBadName, draft.name_span, message);
            problems.push(problem.related(stage.name_span, "the stage").help("rename one of them".to_owned()));
            continue;
        }
        let sink = StageDraft {
            // No name of a stage has a dot.
            name: format!("{}.{SHARED}", draft.name),
            sharing: Sharing::Sink(draft.name.clone()),
            kinds: vec![("write", draft.name_span)],
            spec: StageSpec::default(),
            lost: BTreeSet::new(),
            node: Node { value: Value::Mapping(Vec::new()), ..draft.node.clone() },
            ..draft.clone()
        };
        stages.extend([StageDraft { sharing: Sharing::Source, ..draft }, sink]);
    }
}

/// `pruned` is the tree without what is wrong.
fn read_resources(root: &Node, pruned: &Node, problems: &mut Vec<Diagnostic>) -> Vec<ResourceDraft> {
    let entries = root.get("resources").map(Node::entries).unwrap_or_default();
    let declared = entries.iter().filter(|entry| !entry.key.name.starts_with("x-"));
    let read = |entry: &Entry| {
        let node = pruned.get("resources").and_then(|node| node.get(&entry.key.name));
        ResourceDraft {
            name: entry.key.name.clone(),
            name_span: entry.key.span,
            node: entry.value.clone(),
            spec: node.and_then(|node| read_typed(node, problems)),
        }
    };
    declared.map(read).collect()
}

fn stem(source: &SourceText) -> String {
    source.path().file_stem().map_or_else(|| "pipeline".to_owned(), |stem| stem.to_string_lossy().into_owned())
}

fn name(root: &Node, source: &SourceText) -> String {
    let written = root.get("name").and_then(Node::as_str).filter(|name| !name.contains("${{"));
    written.map_or_else(|| stem(source), str::to_owned)
}

fn read_params(
    root: &mut Node,
    (map, source): (&SourceText, &SourceText),
    given: &Given,
    name: &str,
    found: &mut Found,
) -> Vec<Param> {
    let names = Names::new(map, None, given, name);
    if let Some(Value::Mapping(entries)) = root.get_mut("params").map(|node| &mut node.value) {
        for param in entries {
            for key in ["default", "choices"] {
                let path = ["params", &param.key.name, key];
                let mut path = path.iter().map(|key| Step::Key((*key).to_owned())).collect();
                if let Some(node) = param.value.get_mut(key) {
                    names.substitute(node, &mut path, found);
                }
            }
        }
    }
    let (params, problems) = params::read(root.get("params"), source.folder(), given);
    found.problems.extend(problems);
    params
}

/// Substitutes in everything but the params, and makes stages of those with `foreach`.
fn interpolate(
    root: &mut Node,
    source: &SourceText,
    given: &Given,
    params: &[Param],
    name: &str,
    found: &mut Found,
) -> Expansion {
    let mut names = Names::new(source, Some(params), given, name);
    let mut expansion = Expansion::default();
    let Value::Mapping(entries) = &mut root.value else { return expansion };
    for Entry { key, value } in entries {
        match key.name.as_str() {
            "params" => {}
            STAGES => expansion = foreach::expand(value, &mut names, found),
            name if name.starts_with("x-") => {}
            name => names.substitute(value, &mut vec![Step::Key(name.to_owned())], found),
        }
    }
    expansion
}

/// What the schema says, and the parts of the tree that cannot be read because of it.
fn check_schema(root: &Node) -> (Vec<Diagnostic>, Vec<Vec<Step>>) {
    let instance = root.to_json();
    let reader = Reader::new(&DOCUMENT, root);
    let violations = VALIDATOR.iter_errors(&instance).flat_map(|error| reader.read(&error));
    violations.map(|violation| (violation.diagnostic, violation.hole)).unzip()
}

/// The places of values that are not known before the run. A list with one is open as a whole.
fn open_values(root: &Node) -> Vec<Vec<Step>> {
    let mut open = Vec::new();
    root.walk(&mut |path, node| {
        if node.is_unresolved() {
            open.push(path.to_vec());
        }
    });
    open
}

/// The tree without its holes. A file may have thousands of stages, so that none of them is looked for.
fn without(root: &Node, holes: &[Vec<Step>]) -> Node {
    let mut pruned = root.clone();
    let in_stage = |hole: &&Vec<Step>| matches!(hole.as_slice(), [Step::Key(section), _, _, ..] if section == STAGES);
    holes.iter().filter(|hole| !in_stage(hole)).for_each(|hole| pruned.remove(hole));
    let by_stage = by_stage(STAGES, holes);
    if let Some(Value::Mapping(entries)) = pruned.get_mut(STAGES).map(|node| &mut node.value) {
        for entry in entries {
            let holes = by_stage.get(entry.key.name.as_str()).into_iter().flatten();
            holes.filter(|hole| in_stage(hole)).for_each(|hole| entry.value.remove(&hole[2..]));
        }
    }
    pruned
}

/// A stage without the keys that begin with `x-`. In mappings of names, whoever reads the types would take them for names.
fn without_free_keys(stage: &Node) -> Node {
    /// What is below these is the user's own.
    const OWN: [&str; 7] = ["env", "with", "schema", "partitions", "returns", "ports", "params"];
    fn strip(node: &mut Node) {
        let Value::Mapping(entries) = &mut node.value else { return };
        entries.retain(|entry| !entry.key.name.starts_with("x-"));
        let inner = entries.iter_mut().filter(|entry| !OWN.contains(&entry.key.name.as_str()));
        inner.for_each(|entry| strip(&mut entry.value));
    }
    let mut stage = stage.clone();
    strip(&mut stage);
    stage
}

fn by_stage<'a>(of: &str, holes: &'a [Vec<Step>]) -> BTreeMap<&'a str, Vec<&'a Vec<Step>>> {
    let mut by_stage: BTreeMap<&str, Vec<&Vec<Step>>> = BTreeMap::new();
    for hole in holes {
        if let [Step::Key(section), Step::Key(name), ..] = hole.as_slice()
            && section == of
        {
            by_stage.entry(name).or_default().push(hole);
        }
    }
    by_stage
}

/// The stages of one section of the file.
fn read_stages(
    section: &str,
    source: &SourceText,
    root: &Node,
    pruned: &Node,
    holes: &[Vec<Step>],
    problems: &mut Vec<Diagnostic>,
) -> Vec<StageDraft> {
    let entries = root.get(section).map(Node::entries).unwrap_or_default();
    let readable = pruned.get(section).map(Node::entries).unwrap_or_default();
    let readable: BTreeMap<&str, &Node> =
        readable.iter().map(|entry| (entry.key.name.as_str(), &entry.value)).collect();
    let holes = by_stage(section, holes);
    let stages = entries.iter().filter(|entry| !entry.key.name.starts_with("x-"));
    stages
        .map(|entry| {
            let node = readable.get(entry.key.name.as_str());
            let holes = holes.get(entry.key.name.as_str()).map(Vec::as_slice).unwrap_or_default();
            let mut lost = lost_keys(&entry.value, holes);
            let spec = node.and_then(|node| read_stage(&without_free_keys(node), &lost, problems));
            if spec.is_none() {
                lost.extend(entry.value.entries().iter().map(|entry| entry.key.name.clone()));
            }
            StageDraft {
                name: entry.key.name.clone(),
                foreach: None,
                name_span: entry.key.span,
                line: u32::try_from(source.position(entry.key.span.start).line).unwrap_or(u32::MAX),
                alias: entry.value.alias,
                node: entry.value.clone(),
                spec: spec.unwrap_or_default(),
                kinds: kinds(kinds_of(section), &entry.value),
                sharing: Sharing::None,
                checks: None,
                outputs: Vec::new(),
                scope: None,
                first_rows: None,
                lost,
            }
        })
        .collect()
}

/// The kinds that entries of a section may have.
fn kinds_of(section: &str) -> &'static [&'static str] {
    if section == SHARED {
        &SHARED_KINDS
    } else if Moment::ALL.iter().any(|moment| moment.key() == section) {
        &HOOK_KINDS
    } else {
        &KINDS
    }
}

/// The keys of a stage that have holes, or all of them if the stage itself is one.
fn lost_keys(node: &Node, holes: &[&Vec<Step>]) -> BTreeSet<String> {
    let whole = || node.entries().iter().map(|entry| entry.key.name.clone());
    let mut lost = BTreeSet::new();
    for hole in holes {
        match &hole[2..] {
            [] => lost.extend(whole()),
            [Step::Key(key), ..] => {
                lost.insert(key.clone());
            }
            [Step::Index(_), ..] => {}
        }
    }
    lost
}

/// Those of the kinds that a stage has.
fn kinds(of: &[&'static str], node: &Node) -> Vec<(&'static str, crate::diagnostic::Span)> {
    let mut kinds: Vec<_> =
        of.iter().filter_map(|kind| node.entry(kind).map(|entry| (*kind, entry.key.span))).collect();
    kinds.sort_by_key(|(_, span)| *span);
    kinds
}

/// The typed value of a stage from which the values in `lost` keys are left out that cannot be read, or are not known before the
/// run.
fn read_stage(node: &Node, lost: &BTreeSet<String>, problems: &mut Vec<Diagnostic>) -> Option<StageSpec> {
    let mut found = Vec::new();
    let spec = read_typed(node, &mut found);
    if spec.is_none() && !lost.is_empty() {
        // What is left out may be required where it stood, such as the path of a `read`. Then the key goes as a whole.
        let mut rest = node.clone();
        lost.iter().for_each(|key| rest.remove(&[Step::Key(key.clone())]));
        return read_typed(&rest, problems);
    }
    problems.append(&mut found);
    spec
}

/// The typed value of a node that fits the schema.
pub(super) fn read_typed<T: DeserializeOwned>(node: &Node, problems: &mut Vec<Diagnostic>) -> Option<T> {
    let value = serde_yaml::to_value(node.to_json()).and_then(serde_yaml::from_value);
    value
        .map_err(|error| {
            // The schema is what should find this; saying it without a precise place is still better than going on.
            let message = format!("this cannot be read: {error}");
            problems.push(Diagnostic::new(Code::SpecWrongType, node.span, message).through(node.alias));
        })
        .ok()
}
