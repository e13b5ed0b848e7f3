//! [`Link`]: one resolved entry of a `from`.

use std::collections::{BTreeMap, BTreeSet};

use super::names::Stages;
use super::reference::{Reference, named, references, waits};
use super::stage::Port;
use super::sub_pipeline;
use crate::diagnostic::{Code, Diagnostic, Span, did_you_mean};
use crate::spec::expect::ROWS;
use crate::spec::model::FromSpec;
use crate::spec::sub_pipeline::{INPUT, PIPELINE};
use crate::spec::{Checks, Document, Sharing, StageDraft};

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
            problems.extend(sub_pipeline::inputs(document, draft));
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

fn resolve_after(
    document: &Document,
    stages: &Stages<'_>,
    to: usize,
    reference: &Reference<'_>,
    problems: &mut Vec<Diagnostic>,
) -> Vec<After> {
    let waiting = &document.stages[to].name;
    let awaited = stages.called(&named(reference.scope, reference.text));
    if awaited.is_empty() {
        let message = format!("stage `{waiting}` waits for `{}`, which is no stage", reference.text);
        let others = document.stages.iter().filter(|other| other.name != *waiting);
        let mut others: Vec<&str> = others.map(StageDraft::written_name).collect();
        others.dedup();
        let help = did_you_mean(reference.text, others);
        let problem = Diagnostic::new(Code::PlanUnknownStage, reference.span, message);
        problems.push(problem.label("no stage has this name").help(help).through(reference.through));
    }
    let awaited = awaited.iter().flat_map(|&from| stages.ends_of(from));
    awaited.map(|from| After { from, to, span: reference.span }).collect()
}

fn resolve(stages: &Stages<'_>, to: usize, reference: &Reference<'_>, problems: &mut Vec<Diagnostic>) -> Vec<Link> {
    let (stage, port) = reference.text.split_once('.').unwrap_or((reference.text, Port::MAIN));
    let table = if port == Port::MAIN { stage.to_owned() } else { format!("{stage}_{port}") };
    let table = reference.alias.map_or(table, str::to_owned);
    let sources = stages.sources(reference, 0, problems);
    let link = |(from, port)| Link { from, port, to, table: table.clone(), span: reference.span };
    sources.into_iter().map(link).collect()
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

/// The stages that nobody reads from, but that check what is expected of some stages.
pub fn checks_of(document: &Document, of: &BTreeSet<usize>) -> Vec<usize> {
    let names: BTreeSet<&str> = of.iter().map(|at| document.stages[*at].name.as_str()).collect();
    let checks = document.stages.iter().enumerate();
    let is_of =
        |draft: &StageDraft| matches!(&draft.checks, Some(Checks::Duplicates(of)) if names.contains(of.as_str()));
    checks.filter(|(_, draft)| is_of(draft)).map(|(at, _)| at).collect()
}
