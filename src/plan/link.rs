//! [`Link`]: one resolved entry of a `from`.

use std::collections::{BTreeMap, BTreeSet};

use super::stage::Port;
use crate::diagnostic::{Code, Diagnostic, Span, did_you_mean};
use crate::spec::model::{AfterSpec, CommandModeSpec, CommandSpec, FromSpec, OnErrorSpec, PipeFormatSpec};
use crate::spec::tree::Node;
use crate::spec::{Document, StageDraft};

/// One entry of a stage's `from`, with names resolved to positions in [`Document::stages`].
#[derive(Clone, Debug)]
pub struct Link {
    pub from: usize,
    pub port: String,
    pub to: usize,
    /// Name of the table, for `sql`.
    pub table: String,
    pub span: Span,
}

/// One resolved entry of an `after`: `to` starts when `from` has ended.
#[derive(Clone, Copy, Debug)]
pub struct After {
    pub from: usize,
    pub to: usize,
    pub span: Span,
}

/// A reference as it is written.
struct Reference<'a> {
    text: &'a str,
    alias: Option<&'a str>,
    span: Span,
    through: Option<Span>,
}

/// The links of all stages, in the order of the file.
pub fn links(document: &Document, problems: &mut Vec<Diagnostic>) -> Vec<Link> {
    let positions = positions(document);
    let mut links = Vec::new();
    for (to, draft) in document.stages.iter().enumerate() {
        let start = links.len();
        for reference in references(draft) {
            links.extend(resolve(document, &positions, to, &reference, problems));
        }
        if draft.kind() == Some("sql") {
            check_tables(draft, &links[start..], problems);
        } else if let Some(FromSpec::Named(_)) = &draft.spec.from {
            let message =
                format!("only `sql` stages name their inputs; `{}` takes a stage or a list of stages", draft.name);
            problems.push(Diagnostic::new(Code::PlanBadInput, draft.span(&["from"]), message).through(draft.alias));
        }
    }
    links
}

/// The entries of all `after`s, in the order of the file, each stage once.
pub fn afters(document: &Document, problems: &mut Vec<Diagnostic>) -> Vec<After> {
    let positions = positions(document);
    let mut afters = Vec::new();
    for (to, draft) in document.stages.iter().enumerate() {
        let mut seen = BTreeSet::new();
        for reference in waits(draft) {
            let after = resolve_after(document, &positions, to, &reference, problems);
            afters.extend(after.filter(|after| seen.insert(after.from)));
        }
    }
    afters
}

fn waits(draft: &StageDraft) -> Vec<Reference<'_>> {
    let Some(node) = draft.node.get("after") else { return Vec::new() };
    match &draft.spec.after {
        None => Vec::new(),
        Some(AfterSpec::One(text)) => vec![Reference { text, alias: None, span: node.span, through: node.alias }],
        Some(AfterSpec::Many(texts)) => listed(texts, node),
    }
}

fn resolve_after(
    document: &Document,
    positions: &BTreeMap<&str, usize>,
    to: usize,
    reference: &Reference<'_>,
    problems: &mut Vec<Diagnostic>,
) -> Option<After> {
    let waiting = &document.stages[to].name;
    let Some(&from) = positions.get(reference.text) else {
        let message = format!("stage `{waiting}` waits for `{}`, which is no stage", reference.text);
        let others = document.stages.iter().filter(|other| other.kind() != Some("write") && other.name != *waiting);
        let help = did_you_mean(reference.text, others.map(|other| other.name.as_str()));
        let problem = Diagnostic::new(Code::PlanUnknownStage, reference.span, message);
        problems.push(problem.label("no stage has this name").help(help).through(reference.through));
        return None;
    };
    let awaited = &document.stages[from];
    if awaited.kind() == Some("write") {
        let message = format!("stage `{waiting}` cannot wait for the sink `{}`", awaited.name);
        let problem = Diagnostic::new(Code::PlanAfterSink, reference.span, message).through(reference.through);
        let help = "all sinks are published together, when every stage has ended: wait for the stage in front of it";
        problems.push(problem.related(awaited.name_span, "this sink").help(help.to_owned()));
        return None;
    }
    Some(After { from, to, span: reference.span })
}

fn positions(document: &Document) -> BTreeMap<&str, usize> {
    document.stages.iter().enumerate().map(|(at, draft)| (draft.name.as_str(), at)).collect()
}

fn listed<'a>(texts: &'a [String], node: &'a Node) -> Vec<Reference<'a>> {
    let references = texts.iter().zip(node.items());
    references.map(|(text, item)| Reference { text, alias: None, span: item.span, through: item.alias }).collect()
}

fn references(draft: &StageDraft) -> Vec<Reference<'_>> {
    let Some(node) = draft.node.get("from") else { return Vec::new() };
    match &draft.spec.from {
        None => Vec::new(),
        Some(FromSpec::One(text)) => vec![Reference { text, alias: None, span: node.span, through: node.alias }],
        Some(FromSpec::Many(texts)) => listed(texts, node),
        // In the order of the file, not of the sorted map.
        Some(FromSpec::Named(tables)) => node
            .entries()
            .iter()
            .filter_map(|entry| {
                // A place for anchors, as everywhere.
                let text = tables.get(&entry.key.name).filter(|_| !entry.key.name.starts_with("x-"))?;
                let alias = Some(entry.key.name.as_str());
                Some(Reference { text, alias, span: entry.value.span, through: entry.value.alias })
            })
            .collect(),
    }
}

fn resolve(
    document: &Document,
    positions: &BTreeMap<&str, usize>,
    to: usize,
    reference: &Reference<'_>,
    problems: &mut Vec<Diagnostic>,
) -> Option<Link> {
    let consumer = &document.stages[to].name;
    let (stage, port) = reference.text.split_once('.').unwrap_or((reference.text, Port::MAIN));
    let Some(&from) = positions.get(stage) else {
        let message = format!("stage `{consumer}` reads from `{stage}`, which is no stage");
        let help = did_you_mean(stage, positions.keys().copied().filter(|name| name != consumer));
        let problem = Diagnostic::new(Code::PlanUnknownStage, reference.span, message);
        problems.push(problem.label("no stage has this name").help(help).through(reference.through));
        return None;
    };
    problems.extend(check_port(&document.stages[from], port, reference));
    let table = reference
        .alias
        .map_or_else(|| if port == Port::MAIN { stage.to_owned() } else { format!("{stage}_{port}") }, str::to_owned);
    Some(Link { from, port: port.to_owned(), to, table, span: reference.span })
}

fn check_port(producer: &StageDraft, port: &str, reference: &Reference<'_>) -> Option<Diagnostic> {
    let ports = ports(producer)?;
    let name = &producer.name;
    if port == Port::REJECTED && ports.contains(&port) {
        let rejects = producer.is_lost("on_error") || producer.spec.on_error == Some(OnErrorSpec::Reject);
        let message = format!("nothing ever arrives from `{name}.{port}`");
        let warning = Diagnostic::new(Code::PlanNothingRejected, reference.span, message)
            .help(format!("add `on_error: reject` to the stage `{name}`"));
        return (!rejects).then(|| warning.through(reference.through));
    }
    if ports.contains(&port) {
        return None;
    }
    if port == Port::MAIN {
        let message = format!("stage `{name}` gives no rows, so nothing can read from it");
        let problem = Diagnostic::new(Code::PlanSinkAsInput, reference.span, message).through(reference.through);
        let help = match producer.kind() {
            Some("write") => "read from the stage that this sink reads from",
            _ => "give the command an `output` format",
        };
        return Some(problem.related(producer.name_span, "this stage").help(help.to_owned()));
    }
    let message = format!("stage `{name}` has no port `{port}`");
    let help = if ports.is_empty() { None } else { did_you_mean(port, ports) };
    Some(Diagnostic::new(Code::PlanUnknownPort, reference.span, message).help(help).through(reference.through))
}

fn check_tables(draft: &StageDraft, links: &[Link], problems: &mut Vec<Diagnostic>) {
    for (at, link) in links.iter().enumerate() {
        if let Some(first) = links[..at].iter().find(|first| first.table == link.table) {
            let message = format!("two inputs of `{}` are tables with the name `{}`", draft.name, link.table);
            problems.push(
                Diagnostic::new(Code::PlanBadInput, link.span, message)
                    .related(first.span, "the first one")
                    .help(format!("name them: `from: {{ {0}: …, other: … }}`", link.table))
                    .through(draft.alias),
            );
        }
    }
}

/// The ports of a stage, the main one first; `None` when its kind is not clear.
pub fn ports(draft: &StageDraft) -> Option<Vec<&'static str>> {
    let kind = draft.kind()?;
    let rejects = kind == "python" && draft.has("from");
    match kind {
        "write" => Some(Vec::new()),
        "command" => {
            let shape = CommandShape::of(draft)?;
            let gives_rows = shape.output != PipeFormatSpec::None || shape.mode == CommandModeSpec::Row;
            let main = gives_rows.then_some(Port::MAIN);
            let rejected = (shape.mode != CommandModeSpec::Once).then_some(Port::REJECTED);
            Some(main.into_iter().chain(rejected).collect())
        }
        _ if rejects => Some(vec![Port::MAIN, Port::REJECTED]),
        _ => Some(vec![Port::MAIN]),
    }
}

/// How a command is run, defaults applied.
#[derive(Clone, Copy, Debug)]
pub struct CommandShape {
    pub mode: CommandModeSpec,
    pub input: PipeFormatSpec,
    pub output: PipeFormatSpec,
}

impl CommandShape {
    /// `None` when the command cannot be read.
    pub fn of(draft: &StageDraft) -> Option<Self> {
        if draft.is_lost("command") {
            return None;
        }
        let (mode, input, output) = match draft.spec.command.as_ref()? {
            CommandSpec::Argv(_) => (None, None, None),
            CommandSpec::Options(options) => (options.mode, options.input, options.output),
        };
        let mode = mode.unwrap_or(if draft.has("from") { CommandModeSpec::Batch } else { CommandModeSpec::Once });
        let default = match mode {
            CommandModeSpec::Batch | CommandModeSpec::Stream => PipeFormatSpec::Jsonl,
            CommandModeSpec::Row | CommandModeSpec::Once => PipeFormatSpec::None,
        };
        Some(Self { mode, input: input.unwrap_or(default), output: output.unwrap_or(default) })
    }
}
