//! Functions that ask for fewer calls: their rows rest, and what their stage takes by a rate comes more slowly.

use std::time::Duration;

use super::AttemptId;
use super::action::Action;
use super::event::{ExitCause, Failure};
use super::rest::Resting;
use super::scheduler::Scheduler;
use super::stage_state::Role;
use crate::plan::StageId;
use crate::run::RunEvent;

/// How often in a row the function may ask for fewer calls for the same rows before its stage has failed.
const MOST: u32 = 100;
/// How long rows rest for which it has said nothing, at first and at most.
const REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(60);
/// Time between two events that tell of it.
const SILENCE: Duration = Duration::from_secs(10);

/// What is told of one stage.
#[derive(Clone, Debug, Default)]
pub struct Throttling {
    /// How often its function has asked for fewer calls since that was told last.
    untold: u64,
    message: String,
    told_at: Option<Duration>,
}

impl Scheduler {
    /// The function asks for fewer calls, which costs no attempt.
    pub(super) fn attempt_throttled(&mut self, attempt: AttemptId, wait: Option<Duration>, failure: Failure) {
        let Some(running) = self.end_attempt(attempt) else { return };
        let (stage, id) = (running.stage, running.slice);
        if let Role::Keyed(_) = self.stages[stage.index()].role {
            // Its state is spoilt: it is made again by another worker.
            self.lane_failed(&running, failure, ExitCause::Own);
            return;
        }
        let tries = &mut self.slice(stage, id).tries;
        tries.throttled += 1;
        let throttled = tries.throttled;
        let usual = REST * 2_u32.pow(throttled.min(7) - 1);
        let wait = wait.unwrap_or(usual.min(LONGEST_REST));
        self.slow_down(stage, wait);
        self.note_throttled(stage, &failure.message);
        if throttled >= MOST {
            // No row is to blame: the others would be throttled as well.
            self.tell_throttled(stage);
            let message = format!("throttled {MOST} times in a row, and given up; the last time: {}", failure.message);
            self.give_up(stage, id, Failure { message, ..failure }, None);
            self.touch(stage);
            return;
        }
        self.stages[stage.index()].account.retries += 1;
        self.resting.insert((self.now.saturating_add(wait), Resting::Slice(stage, id)));
        self.touch(stage);
    }

    /// Tells of it, if that is not so long ago that it would be one of very many events.
    fn note_throttled(&mut self, stage: StageId, message: &str) {
        let now = self.now;
        let throttling = &mut self.stages[stage.index()].throttling;
        throttling.untold += 1;
        message.clone_into(&mut throttling.message);
        if throttling.told_at.is_none_or(|at| now >= at + SILENCE) {
            self.tell_throttled(stage);
        }
    }

    /// Tells what has not been told yet.
    pub(super) fn tell_throttled(&mut self, stage: StageId) {
        let throttling = &mut self.stages[stage.index()].throttling;
        let times = std::mem::take(&mut throttling.untold);
        if times > 0 {
            throttling.told_at = Some(self.now);
            let message = std::mem::take(&mut throttling.message);
            self.actions.push(Action::Emit(RunEvent::Throttled { stage, times, message }));
        }
    }
}
