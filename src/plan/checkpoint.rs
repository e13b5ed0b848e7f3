//! [`Checkpoint`]: which stages keep their finished batches, where else, and how sources are cut for them.

use std::num::NonZeroU32;
use std::path::PathBuf;

use super::location::{Location, STORES_HELP, StoreUrl, UrlError};
use super::plan::Edge;
use super::resolve::Resolver;
use super::stage::{CommandMode, Stage, StageKind};
use crate::diagnostic::Code;
use crate::spec::model::{CheckpointSpec, PathsSpec};

/// That finished batches are kept, so that a later run need not do them again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// Absolute glob patterns of files that the stage reads beside its code and what it is given: if one of them changes, so may what it
    /// gives.
    pub depends: Vec<PathBuf>,
    /// A place that others use, too.
    pub share: Option<Location>,
}

/// Requests that are sent to stores at once. An answer takes long, and whoever waits for it does no work: with 50 ms, these are more than 600
/// batches a second. As many have room in the queues of stages that keep their batches there.
pub const STORE_REQUESTS: NonZeroU32 = NonZeroU32::new(32).expect("not zero");

impl Checkpoint {
    /// How many batches are looked up at once, where there are so many workers.
    pub fn look_ups(&self, workers: u32) -> u32 {
        if self.has_store() { workers.max(STORE_REQUESTS.get()) } else { workers }
    }

    pub fn has_store(&self) -> bool {
        matches!(self.share, Some(Location::Store(_)))
    }
}

impl Resolver<'_> {
    /// `kind` is what `Resolver::kind` gave.
    pub fn checkpoint(&mut self, kind: Option<&StageKind>) -> Option<Checkpoint> {
        let (depends, share) = match self.draft.spec.checkpoint.as_ref()? {
            CheckpointSpec::Flag(false) => return None,
            CheckpointSpec::Flag(true) => (None, None),
            CheckpointSpec::Options(options) => (options.depends.as_ref(), options.share.as_ref()),
        };
        let depends = depends.map_or(&[][..], PathsSpec::all);
        let problem = match kind? {
            StageKind::Python(python) if python.is_source => Some("it makes rows and gets none"),
            StageKind::Python(python) if !python.partition_by.is_empty() || python.is_stream() => {
                Some("it keeps state, so that no batch of it stands for itself")
            }
            StageKind::Command(command) if command.mode == CommandMode::Stream => {
                Some("its command is fed one batch after the other")
            }
            StageKind::Command(command) if command.mode == CommandMode::Once => Some("its command gets no batches"),
            StageKind::Python(_) | StageKind::Command(_) => None,
            StageKind::Read(_) | StageKind::Write(_) | StageKind::Sql(_) | StageKind::Expect(_) => {
                Some("what it does is cheap to do again")
            }
        };
        if let Some(problem) = problem {
            let message = format!("the stage `{}` cannot keep finished batches: {problem}", self.draft.name);
            let span = self.draft.key_span("checkpoint");
            self.report_at(Code::PlanBadOption, span, None, message).help = Some(
                "`checkpoint` is for `python` stages with `from` and without state, and commands in mode `batch` or `row`"
                    .to_owned(),
            );
        }
        self.check_patterns(&["checkpoint", "depends"], depends);
        Some(Checkpoint {
            depends: depends.iter().map(|path| self.absolute(path)).collect(),
            share: share.and_then(|share| self.share(share)),
        })
    }

    fn share(&mut self, text: &str) -> Option<Location> {
        if !is_url(text) {
            return Some(Location::Local(self.absolute(text)));
        }
        match StoreUrl::parse(text, "share") {
            Ok(Ok(url)) => Some(Location::Store(url)),
            Ok(Err(folder)) => Some(Location::Local(folder)),
            Err(UrlError { message, help }) => {
                let help = help.map_or_else(|| format!("write the path of a folder, or {STORES_HELP}"), str::to_owned);
                let has_secret = text.contains(['@', '?']);
                let problem = self.report(Code::PlanBadOption, &["checkpoint", "share"], message);
                problem.help = Some(help);
                problem.has_secret = has_secret;
                None
            }
        }
    }
}

/// Whether it begins with a scheme, and not with the name of a folder.
fn is_url(text: &str) -> bool {
    let is_scheme = |text: &str| text.len() > 1 && text.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    text.split_once(":/").is_some_and(|(scheme, _)| is_scheme(scheme))
}

/// Where a checkpoint is downstream, no batch has rows of two files: so the batches of one file do not depend on which others there are.
/// `stages` are in the order of their ids, which is one in which producers come first.
pub(super) fn cut_at_files(stages: &mut [Stage], edges: &mut [Edge]) {
    let mut serves: Vec<bool> = stages.iter().map(|stage| stage.checkpoint.is_some()).collect();
    for at in (0..stages.len()).rev() {
        if !serves[at] {
            continue;
        }
        stages[at].cut.at_files = true;
        for input in &stages[at].inputs {
            for id in &input.members {
                let edge = &mut edges[id.index()];
                serves[edge.from.index()] = true;
                if let Some(cut) = &mut edge.cut {
                    cut.at_files = true;
                }
            }
        }
    }
}
