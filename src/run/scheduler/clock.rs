//! [`StageClock`]: where a stage's time goes.

use std::time::Duration;

use crate::run::StageAccount;

/// What a stage is doing, or what it waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activity {
    #[default]
    Busy,
    WaitsForInput,
    WaitsForOutput,
    WaitsForWorker,
    /// For what it `uses`.
    WaitsForResource,
    /// For the end of a stage that it comes after.
    WaitsForStage,
    Over,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct StageClock {
    activity: Activity,
    since: Duration,
}

impl StageClock {
    pub fn activity(&self) -> Activity {
        self.activity
    }

    /// Charges the time since the last change to the account and begins `activity`.
    pub fn enter(&mut self, activity: Activity, now: Duration, account: &mut StageAccount) {
        let elapsed = now.saturating_sub(self.since);
        match self.activity {
            Activity::Busy | Activity::WaitsForStage | Activity::Over => {}
            Activity::WaitsForInput => account.waited_for_input += elapsed,
            Activity::WaitsForOutput => account.waited_for_output += elapsed,
            Activity::WaitsForWorker => account.waited_for_worker += elapsed,
            Activity::WaitsForResource => account.waited_for_resource += elapsed,
        }
        *self = Self { activity, since: now };
    }
}
