//! Rows that a stage goes on without: where they go, and how many they may be.

use super::BatchId;
use super::action::{Action, Reject};
use super::event::{Failure, Scope};
use super::queue::Reservation;
use super::scheduler::Scheduler;
use super::stage_state::StageState;
use crate::plan::{Budget, EdgeId, OnError, StageId, StageKind, Verdict};
use crate::run::{RunEvent, StageFailure};

impl Scheduler {
    /// Counts the rejects of a batch and lets them go where they belong. Returns whether the run goes on.
    pub(super) fn settle_rejects(
        &mut self,
        stage: StageId,
        sequence: u64,
        batch: BatchId,
        rejects: Vec<Reject>,
        reservations: &mut Vec<(EdgeId, Reservation)>,
    ) -> bool {
        let rows: u64 = rejects.iter().map(Reject::count).sum();
        let kept = self.plan.stage(stage).on_error == OnError::Reject;
        let account = &mut self.stages[stage.index()].account;
        *if kept { &mut account.rejected } else { &mut account.skipped } += rows;
        let failed = account.rows_failed();
        let first_failed = &mut self.stages[stage.index()].first_failed;
        if first_failed.is_none() {
            *first_failed = rejects.first().map(|reject| reject.failure.clone());
        }
        let budget = self.plan.stage(stage).budget;
        let one_too_many = one_too_many(budget, failed - rows, &rejects);
        for (verdict, rows, message) in by_verdict(&rejects) {
            self.actions.push(Action::Emit(RunEvent::Rejected { stage, sequence, rows, kept, verdict, message }));
        }
        if kept {
            self.publish_rejects(stage, batch, rows, rejects, reservations);
        }
        let Some((row, failure)) = one_too_many else { return true };
        let attempts = self.plan.stage(stage).retry.attempts(failure.verdict);
        self.fail(StageFailure {
            stage,
            sequence: Some(sequence),
            rows: Some((batch, row..row + 1)),
            attempts,
            failure,
        });
        false
    }

    fn publish_rejects(
        &mut self,
        stage: StageId,
        batch: BatchId,
        rows: u64,
        rejects: Vec<Reject>,
        reservations: &mut Vec<(EdgeId, Reservation)>,
    ) {
        let of = self.plan.stage(stage);
        match of.rejected_port().filter(|port| !of.ports[*port].edges.is_empty()) {
            Some(port) => {
                let action = Action::PublishRejects { stage, port, batch, rejects };
                self.publish(stage, port, rows, reservations, action);
            }
            None => self.actions.push(Action::RecordRejects { stage, batch, rejects }),
        }
    }

    /// Whether no greater part of the stage's rows has failed than may, now that it has seen all. If not, the run has failed.
    pub(super) fn keeps_to_budget(&mut self, stage: StageId) -> bool {
        let StageState { account, inputs, first_failed, .. } = &self.stages[stage.index()];
        let (failed, all) = (account.rows_failed(), account.rows_seen(inputs.is_empty()));
        let budget = self.plan.stage(stage).budget;
        if budget.allows_of(failed, all) {
            return true;
        }
        // Without the digits that binary fractions add.
        let most = (budget.max_fraction.unwrap_or_default() * 1e8).round() / 1e6;
        let mut message = format!("{} of {all}, and `on_error` allows {most} %", rows_have_failed(failed));
        let (mut verdict, mut traceback) = (Verdict::Exception, String::new());
        if let Some(first) = first_failed {
            message += &format!("; the first: {}: {}", first.verdict.word(), first.message);
            (verdict, traceback) = (first.verdict, first.traceback.clone());
        }
        let failure = Failure { verdict, scope: Scope::Budget, message, traceback };
        self.fail(StageFailure::of_stage(stage, failure));
        false
    }
}

impl Scheduler {
    /// Whether the stage has as many rows as `expect` wants, now that it has seen all. If not, the run has failed. Where nobody wanted
    /// all of them, that is not known.
    pub(super) fn has_expected_rows(&mut self, stage: StageId) -> bool {
        let StageKind::Expect(expect) = &self.plan.stage(stage).kind else { return true };
        let account = &self.stages[stage.index()].account;
        let rows = account.rows_in - account.rows_failed();
        let Some(message) = expect.wrong_number(rows).filter(|_| !self.is_unwanted(stage)) else { return true };
        let failure = Failure { verdict: Verdict::Contract, scope: Scope::Opening, message, traceback: String::new() };
        self.fail(StageFailure::of_stage(stage, failure));
        false
    }
}

/// The verdicts in the order of their first rows: how many rows each has, and what was said of the first.
fn by_verdict(rejects: &[Reject]) -> Vec<(Verdict, u64, String)> {
    let mut found: Vec<(Verdict, u64, &str, bool)> = Vec::new();
    for reject in rejects {
        let Failure { verdict, message, .. } = &reject.failure;
        match found.iter_mut().find(|(other, ..)| other == verdict) {
            Some((_, rows, first, has_others)) => {
                *rows += reject.count();
                *has_others |= first != message;
            }
            None => found.push((*verdict, reject.count(), message, false)),
        }
    }
    let told = |(verdict, rows, message, has_others): (Verdict, u64, &str, bool)| {
        let others = if has_others { ", or for another reason" } else { "" };
        (verdict, rows, format!("{message}{others}"))
    };
    found.into_iter().map(told).collect()
}

/// The row with which more have failed than may, after `before` others, and what is wrong with that.
pub(super) fn one_too_many(budget: Budget, before: u64, rejects: &[Reject]) -> Option<(u64, Failure)> {
    let most = budget.max_rows?;
    let (row, Failure { verdict, message, traceback, .. }) = nth(rejects, most.checked_sub(before)?)?;
    let failed = before + rejects.iter().map(Reject::count).sum::<u64>();
    let what = format!("{}, and `on_error` allows {most}", rows_have_failed(failed));
    let message = format!("{what}; the one too many: {}: {message}", verdict.word());
    Some((row, Failure { verdict, scope: Scope::Budget, message, traceback }))
}

/// The rejected row with this number, and why it is.
fn nth(rejects: &[Reject], number: u64) -> Option<(u64, Failure)> {
    let rows = rejects.iter().flat_map(|reject| reject.rows.clone().map(move |row| (row, &reject.failure)));
    rows.skip(usize::try_from(number).ok()?).map(|(row, failure)| (row, failure.clone())).next()
}

fn rows_have_failed(rows: u64) -> String {
    if rows == 1 { "1 row has failed".to_owned() } else { format!("{rows} rows have failed") }
}
