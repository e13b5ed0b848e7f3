//! [`Recycle`]: after how much work, or how long a life, a worker is replaced.

use std::num::NonZeroU32;
use std::time::Duration;

use super::resolve::Resolver;
use super::stage::StageKind;
use crate::diagnostic::Code;

/// When a worker is replaced, between two attempts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Recycle {
    /// Attempts that it answers.
    pub batches: Option<NonZeroU32>,
    /// It is looked at after an attempt.
    pub age: Option<Duration>,
}

impl Resolver<'_> {
    /// `kind` is what `Resolver::kind` gave.
    pub(super) fn recycle(&mut self, kind: Option<&StageKind>) -> Recycle {
        let Some(spec) = self.draft.spec.recycle.clone() else { return Recycle::default() };
        let problem = match (self.draft.kind(), kind) {
            (Some("python"), Some(StageKind::Python(python))) if python.is_source => {
                Some("a new worker of a generator would have to make all again that was made so far".to_owned())
            }
            (Some("python"), Some(StageKind::Python(python)))
                if !python.partition_by.is_empty() || python.is_stream() =>
            {
                Some("a new worker of a stage with state would have to do all again that has made the state".to_owned())
            }
            (Some("python") | None, _) => None,
            (Some("command"), _) => Some("its processes are new for each batch, or filters".to_owned()),
            (Some(kind), _) => Some(format!("a `{kind}` stage has no workers of its own")),
        };
        if let Some(problem) = problem {
            let message = format!("`recycle` has no meaning for the stage `{}`: {problem}", self.draft.name);
            let span = self.draft.key_span("recycle");
            self.report_at(Code::PlanBadOption, span, None, message).help =
                Some("remove it; it is for `python` stages with `from` and without state".to_owned());
        } else if spec.batches.is_none() && spec.age.is_none() {
            self.report(Code::PlanBadOption, &["recycle"], "`recycle` does not say when").help =
                Some("write `batches: 100`, `age: 30m`, or both".to_owned());
        }
        Recycle {
            batches: spec.batches.and_then(NonZeroU32::new),
            age: spec.age.as_ref().and_then(|text| self.duration(&["recycle", "age"], text)),
        }
    }
}
