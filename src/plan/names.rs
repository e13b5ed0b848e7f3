//! [`Stages`]: which stages names stand for, and which rows.

use std::collections::{BTreeMap, BTreeSet};

use super::ports;
use super::reference::{Reference, given_for, named};
use super::stage::Port;
use crate::diagnostic::{Code, Diagnostic, did_you_mean};
use crate::spec::sub_pipeline::{INPUT, PIPELINE};
use crate::spec::{Checks, Document, Scope, StageDraft};

/// How often a reference may stand for another one: to and from pipelines that are stages, which are only so deep.
const MOST_STEPS: usize = 64;

/// The positions of stages by name.
pub struct Stages<'a> {
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
    pub fn of(document: &'a Document) -> Self {
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
    pub fn owners(&self, draft: &'a StageDraft) -> impl Iterator<Item = &'a StageDraft> {
        let scopes = std::iter::successors(draft.scope.as_deref(), |scope| scope.outer.as_deref());
        let owners: Vec<_> =
            scopes.filter_map(|scope| self.one.get(scope.stage.as_str())).map(|&at| &self.drafts[at]).collect();
        owners.into_iter()
    }

    /// Whose ends are that of a stage: it, or if it is a pipeline, those inside; and those that check their rows.
    pub fn ends_of(&self, stage: usize) -> Vec<usize> {
        let draft = &self.drafts[stage];
        let prefix = format!("{}/", draft.name);
        let is_in = |other: &StageDraft| {
            other.name.starts_with(&prefix) && other.is_written() && !matches!(other.kind(), Some(PIPELINE | INPUT))
        };
        let ends: Vec<usize> = match draft.kind() {
            Some(PIPELINE) => (0..self.drafts.len()).filter(|at| is_in(&self.drafts[*at])).collect(),
            _ => vec![stage],
        };
        ends.into_iter().flat_map(|at| [Some(at), self.checks.get(&at).copied()]).flatten().collect()
    }

    /// The stages and ports whose rows a reference stands for, in all its ways through pipelines that are stages.
    pub fn sources(
        &self,
        reference: &Reference<'_>,
        steps: usize,
        problems: &mut Vec<Diagnostic>,
    ) -> Vec<(usize, String)> {
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
        problems.extend(first.and_then(|producer| ports::check(producer, port, reference)));
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
                    let Some(output) = ports::output(producer, port) else { continue };
                    let Some(&scope) = self.scopes.get(producer.name.as_str()) else { continue };
                    let (alias, through, scope) = (None, None, Some(scope));
                    let (text, span) = (output.of.as_str(), output.span);
                    let inner = Reference { text, alias, span, through, scope, reader: producer };
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
    pub fn checked_by(&self, draft: &StageDraft) -> Option<usize> {
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
    pub fn check_before(&self, sink: usize) -> Option<usize> {
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
    pub fn called(&self, name: &str) -> &[usize] {
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
