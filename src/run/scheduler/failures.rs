//! What becomes of a slice whose attempt failed: it is tried again, its rows to blame are looked for, or it is given up.

use std::ops::Range;

use super::AttemptId;
use super::action::{Action, Reject};
use super::blame::Blame;
use super::event::{ExitCause, Failure, Scope};
use super::rejects::one_too_many;
use super::scheduler::Scheduler;
use super::stage_state::{Role, SliceId, Step, Tries, rest};
use crate::plan::{OnError, StageId, Verdict};
use crate::run::RunEvent;

/// Attempts of one batch that may be lost in a row through no fault of its own.
const ENGINE_DEATHS: u32 = 10;
/// Searches for rows to blame that may end without a culprit before the whole batch is blamed as a set.
const ACQUITTALS: u32 = 3;

/// Which attempt has failed, and what follows.
pub(super) struct Told {
    pub sequence: u64,
    pub attempt: u32,
    /// It was one of those that look for the rows to blame.
    pub searching: bool,
    pub will_retry: bool,
    pub begins_search: bool,
}

impl Scheduler {
    pub(super) fn attempt_failed(&mut self, attempt: AttemptId, failure: Failure) {
        let Some(running) = self.end_attempt(attempt) else { return };
        match self.stages[running.stage.index()].role {
            Role::Keyed(_) => self.lane_failed(&running, failure, ExitCause::Own),
            _ => self.slice_failed(running.stage, running.slice, failure, ExitCause::Own),
        }
    }

    pub(super) fn attempt_lost(&mut self, attempt: AttemptId, failure: Failure) {
        let Some(running) = self.end_attempt(attempt) else { return };
        self.slice_failed(running.stage, running.slice, failure, ExitCause::Engine);
    }

    /// An attempt of a slice failed; its place is free already.
    pub(super) fn slice_failed(&mut self, stage: StageId, id: SliceId, failure: Failure, cause: ExitCause) {
        let retry = self.plan.stage(stage).retry;
        let ends_at_failure = self.plan.ends_at_failure(self.plan.stage(stage));
        self.touch(stage);
        if cause == ExitCause::Engine && self.slice(stage, id).tries.lose_to_engine() {
            self.again(stage, id);
            return;
        }
        if cause == ExitCause::Own {
            self.slice(stage, id).tries.engine = 0;
        }
        let limit = retry.attempts(failure.verdict);
        let has_input = self.job(stage, id.sequence).input.is_some();
        let is_sliced = self.is_sliced(stage);
        let slice = self.slice(stage, id);
        let tried = slice.tries.count(failure.verdict);
        let attempts = slice.tries.total;
        // An import that raises will raise again.
        let permanent = failure.scope != Scope::Rows && !matches!(failure.verdict, Verdict::Crash | Verdict::Oom);
        let divisible = failure.scope == Scope::Rows && has_input && !ends_at_failure;
        let is_retried = !permanent && tried < limit && slice.deserves_another(failure.verdict);
        let will_retry = is_retried || !permanent && divisible && slice.len() > 1;
        let searching = slice.suspected || matches!(slice.step, Step::Blaming(_));
        let begins_search = will_retry && !is_retried && !searching;
        let told = Told { sequence: id.sequence, attempt: attempts, searching, will_retry, begins_search };
        self.tell_failed(stage, told, &failure);
        let slice = self.slice(stage, id);
        match &mut slice.step {
            Step::Blaming(blame) => {
                blame.next_failed(failure);
                self.go_on_blaming(stage, id);
            }
            _ if is_retried => self.again_after(stage, id, tried),
            Step::Whole if divisible && is_sliced && slice.tries.acquittals == 0 => self.divide(stage, id, failure),
            Step::Whole if divisible => self.blame(stage, id, failure),
            Step::Join { .. } if divisible => self.could_not_join(stage, id, failure),
            Step::Rest(_) => self.blame_the_rest(stage, id, failure),
            _ => self.give_up(stage, id, failure, None),
        }
    }

    /// Tells of a failed attempt, and counts it if it is tried again.
    pub(super) fn tell_failed(&mut self, stage: StageId, told: Told, failure: &Failure) {
        let Told { sequence, attempt, searching, will_retry, begins_search } = told;
        self.actions.push(Action::Emit(RunEvent::AttemptFailed {
            searching,
            stage,
            sequence,
            attempt,
            verdict: failure.verdict,
            message: failure.message.clone(),
            will_retry,
            begins_search,
        }));
        self.stages[stage.index()].account.retries += u64::from(will_retry);
    }

    /// Begins to look for the rows for which the slice keeps failing.
    pub(super) fn blame(&mut self, stage: StageId, id: SliceId, failure: Failure) {
        let attempts = self.plan.stage(stage).retry.crash.get();
        let slice = self.slice(stage, id);
        let tried = slice.tries.total;
        slice.step = Step::Blaming(Blame::new(slice.len(), failure, tried, attempts));
        self.go_on_blaming(stage, id);
    }

    /// The others fail even without the rows that were to blame.
    fn blame_the_rest(&mut self, stage: StageId, id: SliceId, failure: Failure) {
        if self.plan.stage(stage).on_error == OnError::Fail {
            self.give_up(stage, id, failure, None);
            return;
        }
        let slice = self.slice(stage, id);
        let rest = rest(slice.len(), &slice.rejects).into_iter();
        let rejects = rest.map(|rows| Reject { rows, failure: failure.clone() });
        slice.rejects.extend(rejects.collect::<Vec<_>>());
        slice.rejects.sort_by_key(|reject| reject.rows.start);
        self.slice_done(stage, id, 0, Vec::new());
    }

    pub(super) fn again(&mut self, stage: StageId, id: SliceId) {
        self.jobs(stage).ready.insert(id);
        self.touch(stage);
    }

    pub(super) fn give_up(&mut self, stage: StageId, id: SliceId, failure: Failure, rows: Option<Range<u64>>) {
        let jobs = self.jobs(stage);
        // Rows before these may still fail too, and then theirs is the failure to report.
        jobs.failed = true;
        jobs.ready = jobs.ready.range(..id).copied().collect();
        self.slice(stage, id).step = Step::Failed { failure, rows };
    }

    /// Tries the next range of a search, or draws its conclusion.
    pub(super) fn go_on_blaming(&mut self, stage: StageId, id: SliceId) {
        let on_error = self.plan.stage(stage).on_error;
        let budget = self.plan.stage(stage).budget;
        let failed = self.stages[stage.index()].account.rows_failed();
        let slice = self.slice(stage, id);
        let rows = slice.len();
        let Step::Blaming(blame) = &slice.step else { return };
        let found = blame.found().first().cloned();
        // Whatever the other rows are, the run fails when it comes to this one.
        let one_too_many = match on_error {
            OnError::Fail => None,
            OnError::Skip | OnError::Reject => one_too_many(budget, failed, blame.found()),
        };
        if let Some((row, failure)) = one_too_many {
            self.give_up(stage, id, failure, Some(row..row + 1));
            return;
        }
        match found {
            Some(reject) if on_error == OnError::Fail => {
                self.give_up(stage, id, reject.failure, Some(reject.rows));
            }
            _ if blame.next().is_some() => self.again(stage, id),
            Some(_) => {
                let Step::Blaming(blame) = std::mem::replace(&mut slice.step, Step::Whole) else { unreachable!() };
                slice.rejects = blame.into_found();
                let rest = rest(rows, &slice.rejects);
                if rest.is_empty() {
                    self.slice_done(stage, id, 0, Vec::new());
                } else {
                    slice.step = Step::Rest(rest);
                    slice.tries.forgive();
                    self.again(stage, id);
                }
            }
            None => self.acquit(stage, id),
        }
    }

    /// The rows passed after all: what made the batch fail came from outside, and the batch is tried again as a whole.
    fn acquit(&mut self, stage: StageId, id: SliceId) {
        let slice = self.slice(stage, id);
        slice.step = Step::Whole;
        slice.tries.acquittals += 1;
        if slice.tries.acquittals < ACQUITTALS {
            slice.tries.forgive();
        }
        self.again(stage, id);
    }
}

impl Tries {
    /// What is tried next is given as many attempts as a new batch.
    fn forgive(&mut self) {
        self.exception = 0;
        self.crash = 0;
        self.oom = 0;
        self.timeout = 0;
    }

    /// An attempt was lost through no fault of its own. Returns whether it is to be forgotten.
    pub(super) fn lose_to_engine(&mut self) -> bool {
        self.engine += 1;
        // Bounded all the same: what never stops is nobody's accident.
        self.engine < ENGINE_DEATHS
    }

    /// Counts a failed attempt; returns how many have failed with this verdict.
    pub(super) fn count(&mut self, verdict: Verdict) -> u32 {
        let tries = match verdict {
            Verdict::Crash => &mut self.crash,
            Verdict::Oom => &mut self.oom,
            Verdict::Timeout => &mut self.timeout,
            Verdict::Exception | Verdict::Schema | Verdict::Contract => &mut self.exception,
        };
        *tries += 1;
        *tries
    }
}
