//! Attempts from their beginning to their end, and the slots and workers that they have meanwhile.

use super::action::Host;
use super::devices::Holder;
use super::event::{ExitCause, Failure};
use super::placing::Place;
use super::scheduler::{Running, Scheduler};
use super::stage_state::{Role, SliceId, Work};
use super::worker_state::WorkerState;
use super::{AttemptId, WorkerId};
use crate::plan::{CommandMode, StageId, StageKind};
use crate::run::StageFailure;

/// Starts of workers of one class that may fail in a row before the run fails.
const FAILED_STARTS: u32 = 3;

impl Scheduler {
    pub(super) fn new_attempt(&mut self, stage: StageId, slice: SliceId, place: Place) -> (AttemptId, Host) {
        let attempt = AttemptId(self.next_attempt);
        self.next_attempt += 1;
        let host = match place {
            Place::Native => {
                self.busy_native += 1;
                Host::Native
            }
            Place::Process => {
                self.busy_slots += 1;
                self.busy_processes += u32::from(!self.is_filter(stage));
                Host::Process
            }
            Place::NextProcess => {
                self.waiting.push_back(attempt);
                Host::NextProcess
            }
            Place::Worker(class) => {
                self.busy_slots += 1;
                Host::Worker(self.pool.take(class, attempt).expect("`assign` saw an idle worker"))
            }
            Place::Pinned { worker, .. } => {
                self.busy_slots += 1;
                let class = self.classes.of(stage).expect("only stages with workers have any pinned");
                self.pool.take_worker(class, worker, attempt);
                Host::Worker(worker)
            }
            Place::Behind(worker) => {
                self.pool.queue_behind(worker, attempt);
                Host::Worker(worker)
            }
        };
        let is_queued = matches!(place, Place::Behind(_) | Place::NextProcess);
        let taken_rows = self.take_resources(attempt, stage, slice);
        self.running.insert(attempt, Running { stage, slice, host, since: None, waits: false, taken_rows });
        if is_queued {
            self.jobs(stage).queued += 1;
        } else {
            self.begin_attempt(attempt);
        }
        (attempt, host)
    }

    pub(super) fn begin_attempt(&mut self, attempt: AttemptId) {
        let now = self.now;
        let Some(running) = self.running.get_mut(&attempt) else { return };
        running.since = Some(now);
        let state = &mut self.stages[running.stage.index()];
        if let Work::Jobs(jobs) = &mut state.work {
            jobs.running += 1;
        }
        state.account.peak_attempts = state.account.peak_attempts.max(state.running());
    }

    /// An attempt is over: its slot is free, and so is its worker if it lives and has no other attempt.
    pub(super) fn end_attempt(&mut self, attempt: AttemptId) -> Option<Running> {
        let running = self.remove_running(attempt)?;
        self.count_end(&running);
        match running.host {
            Host::Native => self.busy_native -= 1,
            Host::Process if running.waits => {}
            Host::Process => self.give_back_slot(running.stage),
            Host::NextProcess => self.waiting.retain(|waiting| *waiting != attempt),
            Host::Worker(worker) => match self.pool.end(worker, attempt) {
                None => self.busy_slots -= 1,
                Some(next) if running.since.is_some() => self.begin_queued(next),
                Some(_) => {}
            },
        }
        self.touch(running.stage);
        Some(running)
    }

    fn remove_running(&mut self, attempt: AttemptId) -> Option<Running> {
        self.standing_still.remove(&attempt);
        self.resources.give_back_devices(Holder::Attempt(attempt));
        self.running.remove(&attempt)
    }

    /// The attempt's process waits for more before it gives the rest. Its place is free for what it waits for.
    pub(super) fn attempt_waits(&mut self, attempt: AttemptId) {
        let Some(running) = self.running.get_mut(&attempt).filter(|running| !running.waits) else { return };
        debug_assert_eq!(running.host, Host::Process, "only processes are fed one batch after the other");
        running.waits = true;
        let (stage, since) = (running.stage, running.since.unwrap_or(self.now));
        let jobs = self.jobs(stage);
        jobs.running -= 1;
        jobs.waiting += 1;
        self.stages[stage.index()].account.busy += self.now.saturating_sub(since);
        self.give_back_slot(stage);
        self.touch(stage);
    }

    /// Whether processes of the stage stay for more than one attempt.
    fn is_filter(&self, stage: StageId) -> bool {
        matches!(&self.plan.stage(stage).kind, StageKind::Command(command) if command.mode == CommandMode::Stream)
    }

    /// An attempt of the stage needs its slot no more. That of a process which is there for one attempt is taken by the first one that
    /// waits for it, which needs not be told.
    pub(super) fn give_back_slot(&mut self, stage: StageId) {
        if self.is_filter(stage) {
            self.busy_slots -= 1;
            return;
        }
        let Some(next) = self.waiting.pop_front() else {
            self.busy_slots -= 1;
            self.busy_processes -= 1;
            return;
        };
        self.running.get_mut(&next).expect("an attempt that waits for a slot has not ended").host = Host::Process;
        self.begin_queued(next);
    }

    /// What an attempt waited for is there.
    pub(super) fn begin_queued(&mut self, attempt: AttemptId) {
        let stage = self.running[&attempt].stage;
        self.jobs(stage).queued -= 1;
        self.begin_attempt(attempt);
        self.touch(stage);
    }

    /// An attempt has left its stage's count of those that run or are to run.
    fn count_end(&mut self, running: &Running) {
        if running.taken_rows.is_some() {
            self.give_back_units(running.stage);
        }
        let state = &mut self.stages[running.stage.index()];
        // Lanes tell by themselves whether they run.
        if let Work::Jobs(jobs) = &mut state.work {
            let count = match running.since {
                None => &mut jobs.queued,
                Some(_) if running.waits => &mut jobs.waiting,
                Some(_) => &mut jobs.running,
            };
            *count -= 1;
        }
        if let (Some(since), false) = (running.since, running.waits) {
            let duration = self.now.saturating_sub(since);
            state.account.busy += duration;
            state.durations.learn(duration);
        }
    }

    /// An attempt was not begun, and will not be: as if it had never been dispatched.
    pub(super) fn take_back(&mut self, attempt: AttemptId) {
        let Some(running) = self.remove_running(attempt) else { return };
        self.count_end(&running);
        self.slice(running.stage, running.slice).tries.total -= 1;
        self.again(running.stage, running.slice);
    }

    pub(super) fn worker_exited(&mut self, worker: WorkerId, failure: Failure, cause: ExitCause) {
        let Some((class, state, failed_starts)) = self.pool.remove(worker, cause) else { return };
        self.give_back_held(worker, class);
        match state {
            WorkerState::Running { attempt, next } => {
                next.into_iter().for_each(|next| self.take_back(next));
                let Some(running) = self.remove_running(attempt) else { return };
                self.busy_slots -= 1;
                self.count_end(&running);
                match self.stages[running.stage.index()].role {
                    Role::Keyed(_) => self.lane_failed(&running, failure, cause),
                    _ => self.slice_failed(running.stage, running.slice, failure, cause),
                }
            }
            WorkerState::Starting if failed_starts >= FAILED_STARTS => {
                self.fail(StageFailure::of_stage(self.classes.get(class).stage, failure));
            }
            WorkerState::Starting => {}
            WorkerState::Idle => self.unpin(class, worker),
        }
    }
}
