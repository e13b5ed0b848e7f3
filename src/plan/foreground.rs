//! Plans of runs in the foreground: someone sits at the terminal and talks to the code of the stages (`run --debug`).

use std::num::NonZeroU32;

use super::failing::{Backoff, Retry};
use super::plan::Plan;
use super::stage::{Stage, StageKind, WorkerLimits};

impl Plan {
    /// Has stages with code of the user's use the terminal, one worker each, for as long as it takes. What fails is not tried again, and no
    /// rows to blame are looked for: the first failure ends the run.
    pub fn go_to_foreground(&mut self) {
        self.is_in_foreground = true;
        self.stages.iter_mut().filter(|stage| has_user_code(stage)).for_each(|stage| {
            stage.timeout = None;
            stage.retry = Retry {
                exception: NonZeroU32::MIN,
                crash: NonZeroU32::MIN,
                oom: NonZeroU32::MIN,
                timeout: NonZeroU32::MIN,
                backoff: Backoff::default(),
            };
            stage.workers = WorkerLimits { min: 0, max: NonZeroU32::MIN };
            if let StageKind::Python(python) = &mut stage.kind {
                python.concurrency = None;
            }
        });
        self.hooks.iter_mut().for_each(|hook| hook.plan.go_to_foreground());
    }

    /// Whether a failure of the stage ends the run at once, whatever its `on_error`.
    pub fn ends_at_failure(&self, stage: &Stage) -> bool {
        self.is_in_foreground && has_user_code(stage)
    }
}

fn has_user_code(stage: &Stage) -> bool {
    matches!(stage.kind, StageKind::Python(_) | StageKind::Command(_))
}
