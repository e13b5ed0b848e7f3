//! [`Checkpoint`]: which stages keep their finished batches, and how sources are cut for them.

use std::path::PathBuf;

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
    /// The absolute path of a folder that others use, too.
    pub share: Option<PathBuf>,
}

impl Resolver<'_> {
    /// `kind` is what `Resolver::kind` gave.
    pub fn checkpoint(&mut self, kind: Option<&StageKind>) -> Option<Checkpoint> {
        let (depends, share) = match self.draft.spec.checkpoint.as_ref()? {
            CheckpointSpec::Flag(false) => return None,
            CheckpointSpec::Flag(true) => (None, None),
            CheckpointSpec::Options(options) => (options.depends.as_ref(), options.share.as_ref()),
        };
        let depends = match depends {
            None => &[],
            Some(PathsSpec::One(path)) => std::slice::from_ref(path),
            Some(PathsSpec::Many(paths)) => paths.as_slice(),
        };
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
            StageKind::Read(_) | StageKind::Write(_) | StageKind::Sql(_) => Some("what it does is cheap to do again"),
        };
        if let Some(problem) = problem {
            let message = format!("the stage `{}` cannot keep finished batches: {problem}", self.draft.name);
            let span = self.draft.key_span("checkpoint");
            self.report_at(Code::PlanBadOption, span, None, message).help = Some(
                "`checkpoint` is for `python` stages with `from` and without state, and commands in mode `batch` or `row`"
                    .to_owned(),
            );
        }
        for path in depends {
            if let Err(error) = glob::Pattern::new(path) {
                let message = format!("`{path}` is not a glob pattern: {}", error.msg);
                self.report(Code::PlanBadOption, &["checkpoint", "depends"], message);
            }
        }
        Some(Checkpoint {
            depends: depends.iter().map(|path| self.absolute(path)).collect(),
            share: share.map(|path| self.absolute(path)),
        })
    }
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
