//! [`Document`]: a pipeline file that has been read, with its places, and with holes where it is wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::hook::HookDraft;
use super::model::{PythonEnvironmentSpec, ResourceSpec, StageSpec};
use super::params::Param;
use super::tree::Node;
use crate::diagnostic::{Diagnostic, SourceText, Span};

/// A pipeline file that has been read. It may be wrong: what is wrong is in `problems`, and left out of the typed values, so
/// that the checks that follow can still find what else is wrong.
#[derive(Clone, Debug)]
pub struct Document {
    /// The pipeline's name, or else the file's.
    pub name: String,
    pub description: Option<String>,
    pub source: Arc<SourceText>,
    /// The folder of the file, absolute.
    pub folder: PathBuf,
    pub params: Vec<Param>,
    pub python: PythonEnvironmentSpec,
    /// In the order of the file.
    pub resources: Vec<ResourceDraft>,
    /// The place of the `python` key.
    pub python_span: Option<Span>,
    pub stages: Vec<StageDraft>,
    /// What others can read if the pipeline is a stage of theirs.
    pub outputs: Vec<OutputDraft>,
    /// What is done when a run has ended, in the order of the file; those of `on_failure` first.
    pub hooks: Vec<HookDraft>,
    /// Where the stages with `foreach` stand.
    pub foreach_spans: Vec<Span>,
    /// Where `defaults` stand.
    pub defaults_span: Option<Span>,
    /// Params that some expression uses.
    pub used_params: BTreeSet<String>,
    pub seed: u64,
    /// Values of secrets that expressions use, and what they made of them, which must not be told; and what they are called.
    pub secrets: BTreeMap<String, String>,
    /// Names of stages, if not all of the pipeline is asked for, but only what these do.
    pub asked_for: BTreeSet<String>,
    /// Whether rows of those that are asked for are only looked at: they wait for no sink, as none is written, and any number of rows may fail.
    pub is_shown: bool,
    pub problems: Vec<Diagnostic>,
}

/// A stage as it was written, as far as it can be read.
#[derive(Clone, Debug)]
pub struct StageDraft {
    pub name: String,
    /// The name in the file of the stage whose `foreach` made this one.
    pub foreach: Option<String>,
    pub name_span: Span,
    /// 1-based line of the name.
    pub line: u32,
    /// The alias through which the whole stage was reached.
    pub alias: Option<Span>,
    pub node: Node,
    pub spec: StageSpec,
    /// The kinds that are written, with the places of their keys.
    pub kinds: Vec<(&'static str, Span)>,
    pub sharing: Sharing,
    /// What it checks, of a stage that is not written in the file.
    pub checks: Option<Checks>,
    /// Of a stage that is another pipeline, what others can read of it.
    pub outputs: Vec<OutputDraft>,
    /// Of a stage of a pipeline that is a stage itself: what is around it.
    pub scope: Option<Arc<Scope>>,
    /// Of a source in a trial: how many rows it gives.
    pub first_rows: Option<u64>,
    /// Keys of the stage whose value is wrong or not known, and so is not in `spec`.
    pub lost: BTreeSet<String>,
}

/// What a stage has to do with `shared`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Sharing {
    #[default]
    None,
    /// It makes what is shared.
    Source,
    /// It keeps what the stage with this name makes, so that all workers find it. It is not written in the file.
    Sink(String),
}

/// What others can read of a pipeline that is a stage of theirs.
#[derive(Clone, Debug)]
pub struct OutputDraft {
    pub port: String,
    /// The stage or port inside.
    pub of: String,
    /// Where that stands.
    pub span: Span,
}

/// A pipeline that is a stage of another one, as its stages see it.
#[derive(Clone, Debug)]
pub struct Scope {
    /// The stage that it is, by its whole name.
    pub stage: String,
    /// Its file, absolute.
    pub file: PathBuf,
    pub params: Vec<Param>,
    /// That of the stage, if it is inside another one.
    pub outer: Option<Arc<Scope>>,
}

impl Scope {
    /// The folder of its file.
    pub fn folder(&self) -> &Path {
        self.file.parent().unwrap_or(Path::new("/"))
    }

    /// What a stage inside is called in all.
    pub fn name(&self, stage: &str) -> String {
        format!("{}/{stage}", self.stage)
    }

    /// The same one level further in.
    pub fn within(&self, outer: &Arc<Self>) -> Self {
        Self {
            stage: outer.name(&self.stage),
            file: self.file.clone(),
            params: self.params.clone(),
            outer: Some(self.outer.as_ref().map_or_else(|| Arc::clone(outer), |inner| Arc::new(inner.within(outer)))),
        }
    }
}

/// What a stage checks, for the `expect` of the stage with this name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Checks {
    /// Each row, and their number.
    Rows(String),
    /// Which keys are there several times.
    Keys(String),
    /// That there are no such keys.
    Duplicates(String),
}

/// A resource as it was written.
#[derive(Clone, Debug)]
pub struct ResourceDraft {
    pub name: String,
    pub name_span: Span,
    pub node: Node,
    /// `None` if it is wrong or not known.
    pub spec: Option<ResourceSpec>,
}

impl Document {
    /// A document in which a hook is the only stage.
    pub fn of_hook(&self, hook: &HookDraft) -> Self {
        Self {
            name: self.name.clone(),
            description: None,
            source: Arc::clone(&self.source),
            folder: self.folder.clone(),
            params: self.params.clone(),
            python: self.python.clone(),
            resources: Vec::new(),
            python_span: self.python_span,
            stages: vec![hook.stage.clone()],
            outputs: Vec::new(),
            hooks: Vec::new(),
            foreach_spans: Vec::new(),
            defaults_span: None,
            used_params: self.used_params.clone(),
            seed: self.seed,
            secrets: self.secrets.clone(),
            asked_for: BTreeSet::new(),
            is_shown: false,
            problems: Vec::new(),
        }
    }

    /// Says of the stages that one `foreach` makes only once what is wrong at one place, and once what is said of several stages in the same
    /// words at a place in `defaults`.
    pub fn fold(&self, problems: &mut Vec<Diagnostic>) {
        let mut seen = BTreeSet::new();
        problems.retain(|problem| {
            let Some(span) = problem.span() else { return true };
            let is_shared = self.foreach_spans.iter().any(|stage| stage.start <= span.start && span.end <= stage.end);
            let message = if self.is_default(span) { problem.message.clone() } else { String::new() };
            !(is_shared || self.is_default(span)) || seen.insert((problem.code, span, message))
        });
    }

    /// Whether a place is in `defaults`.
    pub fn is_default(&self, span: Span) -> bool {
        self.defaults_span.is_some_and(|all| all.start <= span.start && span.end <= all.end)
    }
}

impl StageDraft {
    /// A stage of one kind that has nothing to do with others, as it stands at a place of the file.
    pub fn new(name: &str, (kind, span): (&'static str, Span), node: Node, spec: StageSpec) -> Self {
        Self {
            name: name.to_owned(),
            foreach: None,
            name_span: span,
            line: 0,
            alias: node.alias,
            node,
            spec,
            kinds: vec![(kind, span)],
            sharing: Sharing::None,
            checks: None,
            outputs: Vec::new(),
            scope: None,
            first_rows: None,
            lost: BTreeSet::new(),
        }
    }

    /// Whether it stands in the file.
    pub fn is_written(&self) -> bool {
        self.checks.is_none() && !matches!(self.sharing, Sharing::Sink(_))
    }

    /// The name in the file.
    pub fn written_name(&self) -> &str {
        self.foreach.as_deref().unwrap_or(&self.name)
    }

    /// The only kind, if there is exactly one.
    pub fn kind(&self) -> Option<&'static str> {
        match self.kinds.as_slice() {
            [(kind, _)] => Some(kind),
            _ => None,
        }
    }

    pub fn has(&self, key: &str) -> bool {
        self.node.entry(key).is_some()
    }

    pub fn is_lost(&self, key: &str) -> bool {
        self.lost.contains(key)
    }

    /// The place of the value at `keys`, or of the nearest value around it that is written.
    pub fn span(&self, keys: &[&str]) -> Span {
        self.find(keys).map_or(self.name_span, |node| node.span)
    }

    /// The place of the key `key` of the stage.
    pub fn key_span(&self, key: &str) -> Span {
        self.node.entry(key).map_or(self.name_span, |entry| entry.key.span)
    }

    /// The value at `keys`, or the nearest one around it, as short forms have fewer levels; `None` for the stage itself.
    pub fn find(&self, keys: &[&str]) -> Option<&Node> {
        let mut found = None;
        let mut node = &self.node;
        for key in keys {
            let Some(next) = node.get(key) else { break };
            found = Some(next);
            node = next;
        }
        found
    }
}
