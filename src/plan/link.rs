//! [`Link`]: one resolved entry of a `from`.

use std::collections::{BTreeMap, BTreeSet};

use super::stage::Port;
use crate::diagnostic::{Code, Diagnostic, Span, did_you_mean};
use crate::spec::expect::{EXPECT, ROWS};
use crate::spec::model::{
    AfterSpec, CommandModeSpec, CommandSpec, ConventionSpec, FromSpec, OnErrorWordSpec, PipeFormatSpec, PortsSpec,
    PythonSpec,
};
use crate::spec::sub_pipeline::{INPUT, PIPELINE};
use crate::spec::tree::Node;
use crate::spec::{Checks, Document, Scope, Sharing, StageDraft};

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
    /// Where it stands.
    scope: Option<&'a Scope>,
    /// Who it is written for, for people.
    reader: &'a StageDraft,
}

/// How often a reference may stand for another one: to and from pipelines that are stages, which are only so deep.
const MOST_STEPS: usize = 64;

/// The links of all stages, in the order of the file.
pub fn links(document: &Document, problems: &mut Vec<Diagnostic>) -> Vec<Link> {
    let stages = Stages::of(document);
    let mut links = Vec::new();
    for (to, draft) in document.stages.iter().enumerate() {
        let start = links.len();
        if let Sharing::Sink(shared) = &draft.sharing {
            let of = |&from: &usize| Link {
                from,
                port: Port::MAIN.to_owned(),
                to,
                table: shared.clone(),
                span: draft.name_span,
            };
            links.extend(stages.called(shared).iter().map(of));
            continue;
        }
        if draft.kind() == Some(PIPELINE) {
            problems.extend(stages.check_inputs(to));
            references(draft).iter().for_each(|reference| drop(resolve(&stages, to, reference, problems)));
            continue;
        }
        // Who reads from it reads from what it stands for.
        if draft.kind() == Some(INPUT) {
            continue;
        }
        if let Some(from) = stages.checked_by(draft).or_else(|| stages.check_before(to)) {
            links.push(Link { from, port: Port::MAIN.to_owned(), to, table: ROWS.to_owned(), span: draft.name_span });
            continue;
        }
        for reference in references(draft) {
            links.extend(resolve(&stages, to, &reference, problems));
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
    let stages = Stages::of(document);
    let mut afters = Vec::new();
    for (to, draft) in document.stages.iter().enumerate() {
        let mut seen = BTreeSet::new();
        if matches!(draft.kind(), Some(PIPELINE | INPUT)) {
            continue;
        }
        let owners = stages.owners(draft);
        for reference in std::iter::once(draft).chain(owners).flat_map(waits) {
            let resolved = resolve_after(document, &stages, to, &reference, problems);
            afters.extend(resolved.into_iter().filter(|after| seen.insert(after.from)));
        }
    }
    afters
}

/// Python stages wait for what is shared, but for those whose rows it is made of.
pub fn waits_for_shared(document: &Document, links: &[Link], afters: &[After]) -> Vec<After> {
    let sinks: Vec<usize> =
        (0..document.stages.len()).filter(|&at| matches!(document.stages[at].sharing, Sharing::Sink(_))).collect();
    let mut before = vec![Vec::new(); document.stages.len()];
    links.iter().for_each(|link| before[link.to].push(link.from));
    afters.iter().for_each(|after| before[after.to].push(after.from));
    let mut makes: BTreeSet<usize> = sinks.iter().copied().collect();
    let mut open = sinks.clone();
    while let Some(at) = open.pop() {
        open.extend(before[at].iter().copied().filter(|from| makes.insert(*from)));
    }
    let waits = |to: &usize| document.stages[*to].kind() == Some("python") && !makes.contains(to);
    let stages = (0..document.stages.len()).filter(waits);
    stages
        .flat_map(|to| sinks.iter().map(move |&from| After { from, to, span: document.stages[to].name_span }))
        .collect()
}

fn waits(draft: &StageDraft) -> Vec<Reference<'_>> {
    let Some(node) = draft.node.get("after") else { return Vec::new() };
    let scope = draft.scope.as_deref();
    match &draft.spec.after {
        None => Vec::new(),
        Some(AfterSpec::One(text)) => {
            vec![Reference { text, alias: None, span: node.span, through: node.alias, scope, reader: draft }]
        }
        Some(AfterSpec::Many(texts)) => listed(texts, node, draft),
    }
}

fn resolve_after(
    document: &Document,
    stages: &Stages<'_>,
    to: usize,
    reference: &Reference<'_>,
    problems: &mut Vec<Diagnostic>,
) -> Vec<After> {
    let waiting = &document.stages[to].name;
    let awaited = stages.called(&named(reference.scope, reference.text));
    let Some(&first) = awaited.first() else {
        let message = format!("stage `{waiting}` waits for `{}`, which is no stage", reference.text);
        let others = document.stages.iter().filter(|other| other.kind() != Some("write") && other.name != *waiting);
        let mut others: Vec<&str> = others.map(StageDraft::written_name).collect();
        others.dedup();
        let help = did_you_mean(reference.text, others);
        let problem = Diagnostic::new(Code::PlanUnknownStage, reference.span, message);
        problems.push(problem.label("no stage has this name").help(help).through(reference.through));
        return Vec::new();
    };
    let sink = &document.stages[first];
    if sink.kind() == Some("write") {
        let message = format!("stage `{waiting}` cannot wait for the sink `{}`", sink.written_name());
        let problem = Diagnostic::new(Code::PlanAfterSink, reference.span, message).through(reference.through);
        let help = "all sinks are published together, when every stage has ended: wait for the stage in front of it";
        problems.push(problem.related(sink.name_span, "this sink").help(help.to_owned()));
        return Vec::new();
    }
    // And that what is expected of them is so.
    let awaited = awaited.iter().flat_map(|&from| stages.members(from));
    let awaited = awaited.flat_map(|from| [Some(from), stages.checks.get(&from).copied()]);
    awaited.flatten().map(|from| After { from, to, span: reference.span }).collect()
}

/// The positions of stages by name.
struct Stages<'a> {
    one: BTreeMap<&'a str, usize>,
    /// What a `foreach` made, by the name in the file.
    made: BTreeMap<&'a str, Vec<usize>>,
    /// The stages that check the rows of others, by those.
    checks: BTreeMap<usize, usize>,
    /// The stages that look for keys, by the stages whose rows these are of.
    keys: BTreeMap<&'a str, usize>,
    /// What is around the stages of each pipeline that is a stage, by its name.
    scopes: BTreeMap<&'a str, &'a Scope>,
    drafts: &'a [StageDraft],
}

impl<'a> Stages<'a> {
    fn of(document: &'a Document) -> Self {
        let stages = document.stages.iter().enumerate().filter(|(_, draft)| draft.is_written());
        let one: BTreeMap<&str, usize> = stages.map(|(at, draft)| (draft.name.as_str(), at)).collect();
        let (mut checks, mut keys) = (BTreeMap::new(), BTreeMap::new());
        for (at, draft) in document.stages.iter().enumerate() {
            match &draft.checks {
                Some(Checks::Rows(of)) => checks.extend(one.get(of.as_str()).map(|of| (*of, at))),
                Some(Checks::Keys(of)) => keys.extend([(of.as_str(), at)]),
                Some(Checks::Duplicates(_)) | None => {}
            }
        }
        let mut made: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (at, draft) in document.stages.iter().enumerate() {
            if let Some(name) = draft.foreach.as_ref().filter(|_| draft.is_written()) {
                made.entry(name).or_default().push(at);
            }
        }
        let inside = document.stages.iter().filter_map(|draft| draft.scope.as_deref());
        let scopes = inside.map(|scope| (scope.stage.as_str(), scope)).collect();
        Self { one, made, checks, keys, scopes, drafts: &document.stages }
    }

    /// The stages that are pipelines and have this one inside, the innermost first.
    fn owners(&self, draft: &'a StageDraft) -> impl Iterator<Item = &'a StageDraft> {
        let scopes = std::iter::successors(draft.scope.as_deref(), |scope| scope.outer.as_deref());
        let owners: Vec<_> =
            scopes.filter_map(|scope| self.one.get(scope.stage.as_str())).map(|&at| &self.drafts[at]).collect();
        owners.into_iter()
    }

    /// The stage, or if it is a pipeline, those inside of which the end can be waited for.
    fn members(&self, stage: usize) -> Vec<usize> {
        let draft = &self.drafts[stage];
        if draft.kind() != Some(PIPELINE) {
            return vec![stage];
        }
        let prefix = format!("{}/", draft.name);
        let is_in = |other: &StageDraft| {
            other.name.starts_with(&prefix)
                && other.is_written()
                && !matches!(other.kind(), Some("write" | PIPELINE | INPUT))
        };
        (0..self.drafts.len()).filter(|at| is_in(&self.drafts[*at])).collect()
    }

    /// What a pipeline that is a stage is not given, or cannot be.
    fn check_inputs(&self, pipeline: usize) -> Vec<Diagnostic> {
        let draft = &self.drafts[pipeline];
        if draft.is_lost("from") || draft.is_lost(PIPELINE) {
            return Vec::new();
        }
        let prefix = format!("{}/", draft.name);
        let inside = self.drafts.iter().filter(|other| other.kind() == Some(INPUT));
        let inputs: Vec<&str> =
            inside.filter_map(|other| other.name.strip_prefix(&prefix)).filter(|name| !name.contains('/')).collect();
        let problem = |span: Span, message: String, help: String| {
            Diagnostic::new(Code::PlanBadInput, span, message).help(help).through(draft.alias)
        };
        let all = inputs.iter().map(|name| format!("{name}: …")).collect::<Vec<_>>().join(", ");
        let name = &draft.name;
        match &draft.spec.from {
            None if inputs.is_empty() => Vec::new(),
            None => {
                let message = format!("the pipeline `{name}` is given no rows, and has {}", quoted(&inputs, "input"));
                vec![problem(draft.name_span, message, format!("add `from: {{ {all} }}`"))]
            }
            // Whether it has any is not known of a file that cannot be read.
            Some(_) if inputs.is_empty() && !self.scopes.contains_key(name.as_str()) => Vec::new(),
            Some(FromSpec::Named(given)) => {
                let given = || given.keys().map(String::as_str).filter(|key| !key.starts_with("x-"));
                let missing: Vec<&str> =
                    inputs.iter().copied().filter(|input| given().all(|key| key != *input)).collect();
                let span = draft.span(&["from"]);
                let missing = (!missing.is_empty()).then(|| {
                    let message =
                        format!("the pipeline `{name}` is given no rows for its {}", quoted(&missing, "input"));
                    problem(span, message, format!("add {}", quoted(&missing, "key")))
                });
                let unknown = given().filter(|key| !inputs.contains(key)).map(|key| {
                    let span =
                        draft.find(&["from"]).and_then(|node| node.entry(key)).map_or(span, |entry| entry.key.span);
                    let problem = Diagnostic::new(
                        Code::PlanBadInput,
                        span,
                        format!("the pipeline `{name}` has no input `{key}`"),
                    );
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

    /// The stages and ports whose rows a reference stands for, in all its ways through pipelines that are stages.
    fn sources(&self, reference: &Reference<'_>, steps: usize, problems: &mut Vec<Diagnostic>) -> Vec<(usize, String)> {
        if steps > MOST_STEPS {
            let message = format!("the rows of `{}` are those of itself", reference.text);
            problems.push(Diagnostic::new(Code::PlanCycle, reference.span, message));
            return Vec::new();
        }
        let (mut stage, mut port) = reference.text.split_once('.').unwrap_or((reference.text, Port::MAIN));
        // A test may give the rows of a port, which come from a stage with the whole name then.
        if !self.called(&named(reference.scope, reference.text)).is_empty() {
            (stage, port) = (reference.text, Port::MAIN);
        }
        let name = named(reference.scope, stage);
        let producers = self.called(&name);
        if producers.is_empty() {
            let reader = reference.reader;
            let message = format!("stage `{}` reads from `{stage}`, which is no stage", reader.name);
            let names = self.names();
            let prefix = reference.scope.map(|scope| scope.name("")).unwrap_or_default();
            let near = names.iter().filter_map(|name| name.strip_prefix(prefix.as_str()));
            let help = did_you_mean(stage, near.filter(|name| *name != reader.written_name() && !name.contains('/')));
            let problem = Diagnostic::new(Code::PlanUnknownStage, reference.span, message);
            problems.push(problem.label("no stage has this name").help(help).through(reference.through));
        }
        // What one `foreach` makes is alike: one of them tells what is wrong with all.
        let first = producers.first().map(|&from| &self.drafts[from]);
        problems.extend(first.and_then(|producer| check_port(producer, port, reference)));
        let mut sources = Vec::new();
        for &from in producers {
            let producer = &self.drafts[from];
            match producer.kind() {
                Some(INPUT) if producer.scope.is_some() => {
                    // What is wrong with it is said where it stands.
                    let mut elsewhere = Vec::new();
                    let given = given_for(producer);
                    sources.extend(given.iter().flat_map(|given| self.sources(given, steps + 1, &mut elsewhere)));
                    problems.extend(elsewhere.into_iter().filter(|problem| problem.code == Code::PlanCycle));
                }
                Some(PIPELINE) => {
                    let Some((_, text, span)) = output(producer, port) else { continue };
                    let Some(&scope) = self.scopes.get(producer.name.as_str()) else { continue };
                    let (alias, through, scope) = (None, None, Some(scope));
                    let inner = Reference { text, alias, span: *span, through, scope, reader: producer };
                    sources.extend(self.sources(&inner, steps + 1, problems));
                }
                _ => {
                    let (from, port) = self.giving(from, port);
                    sources.push((from, port.to_owned()));
                }
            }
        }
        sources
    }

    /// The stage whose rows a stage checks that is not written in the file.
    fn checked_by(&self, draft: &StageDraft) -> Option<usize> {
        match draft.checks.as_ref()? {
            Checks::Rows(of) => {
                let of = *self.one.get(of.as_str())?;
                (self.drafts[of].kind() != Some("write")).then_some(of)
            }
            Checks::Keys(of) => self.checks.get(self.one.get(of.as_str())?).copied(),
            Checks::Duplicates(of) => self.keys.get(of.as_str()).copied(),
        }
    }

    /// Of a sink, the stage that checks the rows that it is given.
    fn check_before(&self, sink: usize) -> Option<usize> {
        self.checks.get(&sink).copied().filter(|_| self.drafts[sink].kind() == Some("write"))
    }

    /// The stage and its port from which the rows of a port come.
    fn giving<'p>(&self, stage: usize, port: &'p str) -> (usize, &'p str) {
        match (self.checks.get(&stage), port) {
            (Some(check), Port::MAIN) => (*check, Port::MAIN),
            (Some(check), Port::UNEXPECTED) => (*check, Port::REJECTED),
            _ => (stage, port),
        }
    }

    /// The stages that a name stands for: all that a `foreach` made, in their order, if it is that of a stage with one.
    fn called(&self, name: &str) -> &[usize] {
        match (self.made.get(name), self.one.get(name)) {
            (Some(made), _) => made,
            (None, Some(one)) => std::slice::from_ref(one),
            (None, None) => &[],
        }
    }

    /// The names that are written in the file.
    fn names(&self) -> BTreeSet<&'a str> {
        let made: BTreeSet<usize> = self.made.values().flatten().copied().collect();
        let written = self.one.iter().filter(|(_, at)| !made.contains(at)).map(|(name, _)| *name);
        written.chain(self.made.keys().copied()).collect()
    }
}

fn listed<'a>(texts: &'a [String], node: &'a Node, draft: &'a StageDraft) -> Vec<Reference<'a>> {
    let (scope, reader) = (draft.scope.as_deref(), draft);
    let reference = |(text, item): (&'a String, &'a Node)| Reference {
        text,
        alias: None,
        span: item.span,
        through: item.alias,
        scope,
        reader,
    };
    texts.iter().zip(node.items()).map(reference).collect()
}

/// The whole name of a stage.
fn named(scope: Option<&Scope>, stage: &str) -> String {
    scope.map_or_else(|| stage.to_owned(), |scope| scope.name(stage))
}

fn quoted(names: &[&str], what: &str) -> String {
    let listed = names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    format!("{what}{} {listed}", if names.len() == 1 { "" } else { "s" })
}

/// What stands outside for an input of a pipeline that is a stage.
fn given_for(input: &StageDraft) -> Vec<Reference<'_>> {
    let name = input.name.rsplit('/').next().unwrap_or_default();
    let outside = input.scope.as_ref().and_then(|scope| scope.outer.as_deref());
    let given = references(input).into_iter().filter(|reference| reference.alias.is_none_or(|alias| alias == name));
    given.map(|reference| Reference { scope: outside, alias: None, ..reference }).collect()
}

/// The output of a stage that is a pipeline; with only one, it needs no name.
fn output<'a>(pipeline: &'a StageDraft, port: &str) -> Option<&'a (String, String, Span)> {
    let named = pipeline.outputs.iter().find(|(name, ..)| name == port);
    named.or(match pipeline.outputs.as_slice() {
        [only] if port == Port::MAIN => Some(only),
        _ => None,
    })
}

fn references(draft: &StageDraft) -> Vec<Reference<'_>> {
    let Some(node) = draft.node.get("from") else { return Vec::new() };
    let (scope, reader) = (draft.scope.as_deref(), draft);
    match &draft.spec.from {
        None => Vec::new(),
        Some(FromSpec::One(text)) => {
            vec![Reference { text, alias: None, span: node.span, through: node.alias, scope, reader }]
        }
        Some(FromSpec::Many(texts)) => listed(texts, node, draft),
        // In the order of the file, not of the sorted map.
        Some(FromSpec::Named(tables)) => node
            .entries()
            .iter()
            .filter_map(|entry| {
                // A place for anchors, as everywhere.
                let text = tables.get(&entry.key.name).filter(|_| !entry.key.name.starts_with("x-"))?;
                let alias = Some(entry.key.name.as_str());
                Some(Reference { text, alias, span: entry.value.span, through: entry.value.alias, scope, reader })
            })
            .collect(),
    }
}

fn resolve(stages: &Stages<'_>, to: usize, reference: &Reference<'_>, problems: &mut Vec<Diagnostic>) -> Vec<Link> {
    let (stage, port) = reference.text.split_once('.').unwrap_or((reference.text, Port::MAIN));
    let table = if port == Port::MAIN { stage.to_owned() } else { format!("{stage}_{port}") };
    let table = reference.alias.map_or(table, str::to_owned);
    let sources = stages.sources(reference, 0, problems);
    let link = |(from, port)| Link { from, port, to, table: table.clone(), span: reference.span };
    sources.into_iter().map(link).collect()
}

fn check_port(producer: &StageDraft, port: &str, reference: &Reference<'_>) -> Option<Diagnostic> {
    let ports = ports(producer)?;
    let name = producer.written_name();
    let rejects = producer.is_lost("on_error")
        || producer.spec.on_error.as_ref().is_some_and(|on_error| on_error.word() == OnErrorWordSpec::Reject);
    let can_reject = port == Port::REJECTED && ports.contains(&port);
    if can_reject || (port == Port::UNEXPECTED && producer.has(EXPECT)) {
        let message = format!("nothing ever arrives from `{name}.{port}`");
        let warning = Diagnostic::new(Code::PlanNothingRejected, reference.span, message)
            .help(format!("add `on_error: reject` to the stage `{name}`"));
        return (!rejects).then(|| warning.through(reference.through));
    }
    // That a stage cannot reject, and is to, is said where it is asked for.
    if port == Port::REJECTED && !ports.contains(&port) && producer.has(EXPECT) {
        let message = format!("stage `{name}` has no port `{port}`");
        let help = format!("rows that are not as expected are `{name}.{}`", Port::UNEXPECTED);
        return Some(
            Diagnostic::new(Code::PlanUnknownPort, reference.span, message).help(help).through(reference.through),
        );
    }
    if ports.contains(&port) || (port == Port::REJECTED && rejects) {
        return None;
    }
    if port == Port::MAIN {
        if producer.kind() == Some(PIPELINE) && !producer.outputs.is_empty() {
            let message = format!("the pipeline `{name}` has several outputs: say which");
            let problem = Diagnostic::new(Code::PlanUnknownPort, reference.span, message).through(reference.through);
            let names: Vec<_> = producer.outputs.iter().map(|(port, ..)| format!("`{name}.{port}`")).collect();
            return Some(problem.help(format!("read from {}", names.join(" or "))));
        }
        if let Some(declared) = declared_ports(producer) {
            let message = format!("stage `{name}` has several outputs: say which");
            let problem = Diagnostic::new(Code::PlanUnknownPort, reference.span, message).through(reference.through);
            let names: Vec<_> = declared.names().iter().map(|port| format!("`{name}.{port}`")).collect();
            return Some(problem.help(format!("read from {}", names.join(" or "))));
        }
        let message = format!("stage `{name}` gives no rows, so nothing can read from it");
        let problem = Diagnostic::new(Code::PlanSinkAsInput, reference.span, message).through(reference.through);
        let help = match producer.kind() {
            Some("write") => "read from the stage that this sink reads from",
            Some(PIPELINE) => "say in its file under `outputs` which rows others can read",
            _ => "give the command an `output` format",
        };
        return Some(problem.related(producer.name_span, "this stage").help(help.to_owned()));
    }
    let message = format!("stage `{name}` has no port `{port}`");
    if port == Port::UNEXPECTED {
        let help = Some(format!("say what the rows of `{name}` must be like, with `expect`"));
        return Some(
            Diagnostic::new(Code::PlanUnknownPort, reference.span, message).help(help).through(reference.through),
        );
    }
    let help = if ports.is_empty() { None } else { did_you_mean(port, ports) };
    Some(Diagnostic::new(Code::PlanUnknownPort, reference.span, message).help(help).through(reference.through))
}

fn check_tables(draft: &StageDraft, links: &[Link], problems: &mut Vec<Diagnostic>) {
    let mut places: BTreeMap<&str, Span> = BTreeMap::new();
    for link in links {
        let first = *places.entry(&link.table).or_insert(link.span);
        // The stages that one name stands for are one table.
        if first != link.span {
            let message = format!("two inputs of `{}` are tables with the name `{}`", draft.name, link.table);
            problems.push(
                Diagnostic::new(Code::PlanBadInput, link.span, message)
                    .related(first, "the first one")
                    .help(format!("name them: `from: {{ {0}: …, other: … }}`", link.table))
                    .through(draft.alias),
            );
        }
    }
}

/// The ports of a stage, `rejected` the last; `None` when its kind is not clear.
pub fn ports(draft: &StageDraft) -> Option<Vec<&str>> {
    let kind = draft.kind()?;
    match kind {
        "write" => Some(Vec::new()),
        // Whether a query can reject rows is known when it is read.
        EXPECT | "sql" => Some(vec![Port::MAIN, Port::REJECTED]),
        // Of a file that cannot be read.
        PIPELINE if draft.is_lost(PIPELINE) => None,
        PIPELINE => {
            let named = draft.outputs.iter().map(|(name, ..)| name.as_str());
            let only = (draft.outputs.len() == 1).then_some(Port::MAIN);
            Some(only.into_iter().chain(named.filter(|name| draft.outputs.len() != 1 || *name != Port::MAIN)).collect())
        }
        "command" => {
            let shape = CommandShape::of(draft)?;
            let gives_rows = shape.output != PipeFormatSpec::None || shape.mode == CommandModeSpec::Row;
            let main = gives_rows.then_some(Port::MAIN);
            let rejected = (shape.mode != CommandModeSpec::Once).then_some(Port::REJECTED);
            Some(main.into_iter().chain(rejected).collect())
        }
        "python" => {
            let rejected = (draft.has("from") && !keeps_state(draft)).then_some(Port::REJECTED);
            let given = declared_ports(draft).map_or_else(|| vec![Port::MAIN], PortsSpec::names);
            Some(given.into_iter().filter(|name| *name != Port::REJECTED).chain(rejected).collect())
        }
        _ => Some(vec![Port::MAIN]),
    }
}

/// The ports that `from` can name.
pub fn named_ports(draft: &StageDraft) -> Vec<&str> {
    let unexpected = draft.has(EXPECT).then_some(Port::UNEXPECTED);
    // Queries seldom reject rows.
    let is_idle = draft.kind() == Some("sql") && draft.spec.on_error.is_none();
    let ports = ports(draft).unwrap_or_default().into_iter();
    ports.filter(|port| !is_idle || *port != Port::REJECTED).chain(unexpected).collect()
}

/// The stages that nobody reads from, but that check what is expected of some stages.
pub fn checks_of(document: &Document, of: &BTreeSet<usize>) -> Vec<usize> {
    let names: BTreeSet<&str> = of.iter().map(|at| document.stages[*at].name.as_str()).collect();
    let checks = document.stages.iter().enumerate();
    let is_of =
        |draft: &StageDraft| matches!(&draft.checks, Some(Checks::Duplicates(of)) if names.contains(of.as_str()));
    checks.filter(|(_, draft)| is_of(draft)).map(|(at, _)| at).collect()
}

/// Several outputs of a function, if it has them.
pub fn declared_ports(draft: &StageDraft) -> Option<&PortsSpec> {
    match &draft.spec.python {
        Some(PythonSpec::Options(options)) => options.ports.as_ref(),
        _ => None,
    }
}

/// Whether a stage keeps state from batch to batch. Rows that have changed it cannot be taken out of it again.
pub fn keeps_state(draft: &StageDraft) -> bool {
    let is_stream = matches!(&draft.spec.python, Some(PythonSpec::Options(options)) if options.convention == Some(ConventionSpec::Stream));
    draft.has("partition_by") || is_stream
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
