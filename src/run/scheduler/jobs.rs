//! Stages that work batch by batch: each batch is a job, tried until it is done, and published in the order of the input unless the stage
//! keeps none.

use std::collections::BTreeMap;
use std::time::Duration;

use super::AttemptId;
use super::action::{Action, Dispatch, Reject, Work as Attempted};
use super::clock::Activity;
use super::event::{Failure, Meta, Output};
use super::placing::Place;
use super::ready::Need;
use super::scheduler::Scheduler;
use super::stage_state::{Job, Jobs, Keeping, MapHost, Phase, Role, Slice, SliceId, Step, Work, rest};
use crate::plan::{Order, StageId};
use crate::run::StageFailure;

/// Batches per worker that wait for one before them, if nothing else bounds their number; one batch may be slow, or be tried again,
/// without stopping the others at once.
const WINDOW_PER_WORKER: usize = 8;

/// What came of an attempt that ended well: see [`Event::AttemptDone`](super::Event::AttemptDone).
pub(super) struct Given {
    pub rows: u64,
    pub outputs: Vec<Output>,
    pub end: bool,
    pub spent: Duration,
    pub failed: Vec<(u64, Failure)>,
}

impl Scheduler {
    pub(super) fn step_jobs(&mut self, stage: StageId) {
        self.publish_done(stage);
        if self.stages[stage.index()].phase != Phase::Running || self.is_over() {
            self.set_ready(stage, false);
            return;
        }
        if self.is_unwanted(stage) {
            self.stop_taking(stage);
        } else {
            self.pass_empty_batches(stage);
            if self.is_checkpoint(stage) {
                self.recall_batches(stage);
            }
        }
        if self.has_no_more(stage) {
            self.set_ready(stage, false);
            if self.jobs(stage).jobs.is_empty() && self.keeps_to_budget(stage) && self.has_expected_rows(stage) {
                self.finish_ports(stage);
            }
            return;
        }
        if self.jobs(stage).waiting > 0 && self.nothing_follows(stage) {
            self.actions.push(Action::EndInput { stage, input: 0 });
        }
        let activity = self.look_for_work(stage);
        let available = self.available(stage);
        self.stages[stage.index()].available = available;
        let wants = activity == Activity::Busy && available > 0;
        let is_ready = self.set_ready(stage, wants);
        let activity = match activity {
            _ if self.jobs(stage).dispatched() > 0 => Activity::Busy,
            // Until it gets one, which may be at once.
            Activity::Busy if wants && !is_ready => Activity::WaitsForResource,
            Activity::Busy => Activity::WaitsForWorker,
            other => other,
        };
        self.enter(stage, activity);
    }

    /// Whether nothing is left to begin.
    fn has_no_more(&mut self, stage: StageId) -> bool {
        let jobs = self.jobs(stage);
        if !jobs.ready.is_empty() || jobs.dispatched() > 0 || jobs.recalling > 0 {
            return false;
        }
        if jobs.exhausted {
            return true;
        }
        match self.stages[stage.index()].role {
            Role::Map(_) => self.current_edge(stage, 0).is_none(),
            Role::Generator(_) | Role::Task | Role::Resident | Role::Keyed(_) => false,
        }
    }

    /// Whether what waits for more waits in vain.
    fn nothing_follows(&mut self, stage: StageId) -> bool {
        let jobs = self.jobs(stage);
        if !jobs.ready.is_empty() || jobs.dispatched() > jobs.waiting {
            return false;
        }
        jobs.failed || jobs.exhausted || self.current_edge(stage, 0).is_none()
    }

    /// Notes whether the stage could begin an attempt. Returns whether it may: if there is enough of what that needs.
    pub(super) fn set_ready(&mut self, stage: StageId, wants: bool) -> bool {
        let is_ready = self.promise_resources(stage, wants);
        self.ready.set(stage, self.stages[stage.index()].need, is_ready);
        is_ready
    }

    /// Attempts of the stage that may be dispatched before they can begin.
    fn queue_limit(&self, stage: StageId) -> u32 {
        match self.stages[stage.index()].need {
            Need::SlotSoon => self.plan.workers,
            Need::Slot if self.may_queue(stage) => self.plan.stage(stage).workers.max.get(),
            Need::Slot | Need::Thread => 0,
        }
    }

    /// What the stage could do now: `Busy` if it could begin an attempt.
    fn look_for_work(&mut self, stage: StageId) -> Activity {
        let limit = self.plan.stage(stage).workers.max.get();
        let serial = !matches!(self.stages[stage.index()].role, Role::Map(_));
        let queue_limit = self.queue_limit(stage);
        let jobs = self.jobs(stage);
        let is_full = jobs.running >= limit && jobs.queued >= queue_limit;
        if is_full || (serial && jobs.dispatched() > 0) {
            return Activity::WaitsForWorker;
        }
        if !jobs.ready.is_empty() {
            return Activity::Busy;
        }
        if jobs.failed || jobs.exhausted {
            return Activity::WaitsForInput;
        }
        if jobs.jobs.len() >= self.window(stage) {
            return Activity::WaitsForOutput;
        }
        if serial {
            return if self.admits(stage, None) { Activity::Busy } else { Activity::WaitsForOutput };
        }
        let Some(edge) = self.current_edge(stage, 0) else { return Activity::WaitsForInput };
        let Some(meta) = self.queues[edge.index()].front().copied() else { return Activity::WaitsForInput };
        match self.admits(stage, Some(&meta)) {
            false => Activity::WaitsForOutput,
            // It begins what it has asked for.
            true if self.is_checkpoint(stage) => Activity::WaitsForInput,
            true => Activity::Busy,
        }
    }

    /// Batches of a stage that may be worked on or wait for their turn in the order. Credits alone do not bound them where nobody reads the
    /// output.
    pub(super) fn window(&self, stage: StageId) -> usize {
        let mut edges = self.plan.stage(stage).ports.iter().flat_map(|port| &port.edges);
        let open = edges.any(|edge| !self.queues[edge.index()].is_closed());
        let limit = self.plan.stage(stage).workers.max.get().min(self.plan.workers);
        if open { usize::MAX } else { WINDOW_PER_WORKER * limit as usize }
    }

    /// Attempts that a stage that has taken its steps could begin now, by its own limits and its input.
    pub(super) fn runnable(&self, stage: StageId) -> u32 {
        let state = &self.stages[stage.index()];
        let Work::Jobs(jobs) = &state.work else { return 0 };
        state.available.min(self.plan.stage(stage).workers.max.get().saturating_sub(jobs.running))
    }

    /// Attempts that there is input for.
    fn available(&mut self, stage: StageId) -> u32 {
        let most = self.plan.workers.saturating_mul(2);
        let role = self.stages[stage.index()].role;
        let jobs = self.jobs(stage);
        let closed = jobs.failed || jobs.exhausted;
        let open = jobs.jobs.len();
        let queued = match role {
            _ if closed => 0,
            _ if open >= self.window(stage) || self.is_checkpoint(stage) => 0,
            Role::Map(_) => self.current_edge(stage, 0).map_or(0, |edge| self.queues[edge.index()].len() as u32),
            Role::Generator(_) | Role::Task | Role::Resident | Role::Keyed(_) => 1,
        };
        (self.ready_slices(stage, most) + queued).min(most)
    }

    /// Batches without rows need no attempt. (A native query is run for them, as it tells the columns of its output.)
    pub(super) fn pass_empty_batches(&mut self, stage: StageId) {
        let role = self.stages[stage.index()].role;
        if !matches!(role, Role::Map(MapHost::Worker(_) | MapHost::Process) | Role::Keyed(_)) {
            return;
        }
        while let Some(edge) = self.current_edge(stage, 0)
            && self.queues[edge.index()].front().is_some_and(|meta| meta.rows == 0)
        {
            let Some((edge, meta)) = self.take(stage, 0) else { return };
            self.queues[edge.index()].done_with(0, meta.bytes);
            self.actions.push(Action::Release { batch: meta.id });
        }
    }

    /// Nobody wants the output: begins nothing more and drops the input.
    fn stop_taking(&mut self, stage: StageId) {
        self.jobs(stage).exhausted = true;
        for input in 0..self.stages[stage.index()].inputs.len() {
            if self.plan.stage(stage).inputs[input].members.iter().any(|edge| !self.queues[edge.index()].is_closed()) {
                self.close_input(stage, input);
            }
        }
    }

    /// Begins the next attempt of a stage for which `assign` found a place.
    pub(super) fn dispatch_next(&mut self, stage: StageId, place: Place) {
        let id = match self.jobs(stage).ready.pop_first() {
            Some(id) => id,
            None => self.new_job(stage),
        };
        self.cut(stage, id);
        let (attempt, host) = self.new_attempt(stage, id, place);
        let devices = self.resources.devices_of(attempt);
        let work = self.attempted(stage, id);
        let tries = &mut self.slice(stage, id).tries.total;
        *tries += 1;
        let (tries, sequence) = (*tries, id.sequence);
        self.ready.had_a_turn(stage, self.stages[stage.index()].need);
        self.actions.push(Action::Dispatch(Dispatch { attempt, stage, sequence, tries, host, work, devices }));
        self.touch(stage);
    }

    /// What the next attempt of a slice is given.
    fn attempted(&mut self, stage: StageId, id: SliceId) -> Attempted {
        let role = self.stages[stage.index()].role;
        let Some((_, batch)) = self.job(stage, id.sequence).input else {
            return if role == Role::Task { Attempted::Task } else { Attempted::Pull };
        };
        let budget = self.budget(stage, id);
        let slice = self.slice(stage, id);
        slice.has_budget = budget.is_some();
        match &slice.step {
            Step::Join { parts, .. } => {
                Attempted::Join { batch, rows: rest(batch.rows, &slice.rejects), parts: parts.clone() }
            }
            Step::Blaming(blame) => Attempted::rows(batch, blame.next().into_iter().collect()),
            Step::Rest(rest) => Attempted::rows(batch, rest.clone()),
            _ => {
                let is_part = slice.len() < batch.rows;
                Attempted::Rows { batch, rows: vec![slice.rows.clone()], is_part, budget }
            }
        }
    }

    pub(super) fn new_job(&mut self, stage: StageId) -> SliceId {
        let input = match self.stages[stage.index()].role {
            Role::Map(_) => {
                let meta = self.current_edge(stage, 0).and_then(|edge| self.queues[edge.index()].front().copied());
                let reservations = self.reserve(stage, meta.as_ref()).expect("`look_for_work` saw room");
                let taken = self.take(stage, 0).expect("`look_for_work` saw a batch");
                (Some(taken), reservations)
            }
            Role::Task => {
                self.jobs(stage).exhausted = true;
                (None, Vec::new())
            }
            Role::Generator(_) | Role::Resident | Role::Keyed(_) => {
                (None, self.reserve(stage, None).expect("`look_for_work` saw room"))
            }
        };
        let (input, reservations) = input;
        let jobs = self.jobs(stage);
        let sequence = jobs.next_sequence;
        jobs.next_sequence += 1;
        let whole = Slice::new(0..input.map_or(0, |(_, meta)| meta.rows));
        jobs.jobs.insert(
            sequence,
            Job { input, reservations, slices: BTreeMap::from([(0, whole)]), keeping: Keeping::No, spared: None },
        );
        SliceId { sequence, first: 0 }
    }

    pub(super) fn attempt_done(&mut self, attempt: AttemptId, given: Given) {
        let Some(running) = self.end_attempt(attempt) else { return };
        let Given { rows, outputs, end, spent, failed } = given;
        if let Role::Keyed(_) = self.stages[running.stage.index()].role {
            self.lane_done(&running, rows, outputs);
            return;
        }
        let (stage, id) = (running.stage, running.slice);
        self.jobs(stage).exhausted |= end;
        let passed = rows - failed.len() as u64;
        if let Some(taken) = running.taken_rows {
            self.give_back_rows(stage, taken.saturating_sub(rows));
        }
        let slice = self.slice(stage, id);
        (slice.tries.engine, slice.tries.throttled) = (0, 0);
        match &mut slice.step {
            // Rows that failed will do so again when all are tried that are not to blame for what is looked into.
            Step::Blaming(blame) => {
                blame.passed();
                self.actions.extend(outputs.iter().map(|output| super::scheduler::release(output.batch.id)));
                self.go_on_blaming(stage, id);
            }
            Step::Join { rows, parts, state } => {
                let (rows, parts, state) = (*rows, std::mem::take(parts), std::mem::take(state));
                self.actions.extend(parts.iter().map(|part| super::scheduler::release(part.id)));
                self.slice_done(stage, id, rows, outputs.into_iter().chain(state).collect());
            }
            Step::Whole => {
                let all = slice.rows.clone();
                slice.reject(failed, &[all]);
                self.stages[stage.index()].pace.learn(rows, spent);
                self.slice_passed(stage, id, rows, passed, outputs);
            }
            Step::Rest(rest) => {
                let rest = std::mem::take(rest);
                slice.reject(failed, &rest);
                self.slice_done(stage, id, passed, outputs);
            }
            _ => self.slice_done(stage, id, passed, outputs),
        }
    }

    /// The only slice of a batch is done.
    pub(super) fn job_done(&mut self, stage: StageId, sequence: u64) {
        match self.job(stage, sequence).spared {
            None => self.correct_to_outputs(stage, sequence),
            // What came of the rest is still to be put to it.
            Some(_) => self.charge_parts(stage, sequence),
        }
        self.keep(stage, sequence);
    }

    /// It is known what all of a batch gives.
    pub(super) fn correct_to_outputs(&mut self, stage: StageId, sequence: u64) {
        let job = self.job(stage, sequence);
        let input = job.input.map(|(_, meta)| meta);
        let mut reservations = std::mem::take(&mut job.reservations);
        let rejected_bytes = job.rejected_bytes();
        let Step::Done { outputs, .. } = &job.whole().step else { unreachable!("it was done just now") };
        let outputs = outputs.clone();
        let rejected = self.plan.stage(stage).rejected_port();
        let bytes = |port| {
            let given = outputs.iter().filter(|output| output.port == port);
            let given: u64 = given.map(|output| output.batch.bytes).sum();
            if Some(port) == rejected { given + rejected_bytes } else { given }
        };
        self.correct(stage, &mut reservations, bytes);
        let total = outputs.iter().map(|output| output.batch.bytes).sum();
        self.stages[stage.index()].estimate.learn(input.as_ref(), total);
        self.job(stage, sequence).reservations = reservations;
    }

    /// Publishes what is done, in the order of the input if the stage keeps that.
    fn publish_done(&mut self, stage: StageId) {
        let most = match self.plan.stage(stage).order {
            Order::Preserve => 1,
            Order::Any => usize::MAX,
        };
        // One of them may be one reject too many.
        while !self.is_over() {
            let jobs = self.jobs(stage);
            let done = jobs.jobs.iter().take(most).find(|(_, job)| job.is_done()).map(|(sequence, _)| *sequence);
            let Some(sequence) = done else { break };
            let job = jobs.jobs.remove(&sequence).expect("just seen");
            self.publish_job(stage, sequence, job);
        }
        if !self.is_over() {
            self.fail_by_first(stage);
        }
    }

    /// Whatever has failed, it is told when all before it is done.
    fn fail_by_first(&mut self, stage: StageId) {
        let Some((&sequence, job)) = self.jobs(stage).jobs.first_key_value() else { return };
        let Some(undone) = job.undone() else { return };
        let Step::Failed { failure, rows } = &undone.step else { return };
        let failure = StageFailure {
            stage,
            sequence: job.input.map(|_| sequence),
            rows: job.input.zip(rows.clone()).map(|((_, meta), rows)| (meta.id, rows)),
            attempts: undone.tries.total,
            failure: failure.clone(),
        };
        self.fail(failure);
    }

    fn publish_job(&mut self, stage: StageId, sequence: u64, mut job: Job) {
        self.stages[stage.index()].account.reused += u64::from(job.keeping == Keeping::Recalled);
        let whole = job.slices.remove(&0).expect("slices are joined when they are done");
        let Step::Done { rows, outputs } = whole.step else { return };
        let mut reservations = job.reservations;
        for output in &outputs {
            let batch = output.batch.id;
            let action = if output.is_state() {
                Action::UpdateState { stage, sequence, updates: vec![batch] }
            } else {
                self.stages[stage.index()].account.rows_out += output.batch.rows;
                Action::Publish { stage, port: output.port, batch }
            };
            self.publish(stage, output.port, output.batch.rows, &mut reservations, action);
        }
        let bad: u64 = whole.rejects.iter().map(Reject::count).sum();
        if let Some((edge, meta)) = job.input {
            let spared = job.spared.unwrap_or_default();
            self.stages[stage.index()].account.rows_spared += spared.rows;
            self.stages[stage.index()].account.rows_in += rows + bad + spared.rows;
            if bad > 0 && !self.settle_rejects(stage, sequence, meta.id, whole.rejects, &mut reservations) {
                return;
            }
            self.queues[edge.index()].done_with(rows + bad + spared.rows, meta.bytes + spared.input_bytes);
            self.touch(self.plan.edge(edge).from);
            self.actions.push(Action::Release { batch: meta.id });
        }
        self.stages[stage.index()].account.batches += 1;
        self.release(stage, reservations);
    }

    pub(super) fn jobs(&mut self, stage: StageId) -> &mut Jobs {
        match &mut self.stages[stage.index()].work {
            Work::Jobs(jobs) => jobs,
            Work::Resident(_) => unreachable!("`{}` is resident", self.plan.stage(stage).name),
            Work::Keyed(_) => unreachable!("`{}` works lane by lane", self.plan.stage(stage).name),
        }
    }

    pub(super) fn job(&mut self, stage: StageId, sequence: u64) -> &mut Job {
        self.jobs(stage).jobs.get_mut(&sequence).expect("a job that is worked on exists")
    }

    pub(super) fn slice(&mut self, stage: StageId, id: SliceId) -> &mut Slice {
        self.job(stage, id.sequence).slices.get_mut(&id.first).expect("a slice that is worked on exists")
    }
}

impl Job {
    pub fn rows(&self) -> u64 {
        self.input.map_or(0, |(_, meta)| meta.rows)
    }

    /// The first part of it that is still worked on, or that has failed.
    fn undone(&self) -> Option<&Slice> {
        self.slices.values().find(|slice| !matches!(slice.step, Step::Done { .. }))
    }

    fn is_done(&self) -> bool {
        self.undone().is_none() && self.keeping != Keeping::Asked
    }

    /// All rows of the batch, when they are in one slice.
    fn whole(&self) -> &Slice {
        &self.slices[&0]
    }

    /// What came of the batch, when it is done.
    pub fn given(&self) -> (Vec<Output>, Vec<Reject>) {
        let whole = self.whole();
        (whole.outputs().to_vec(), whole.rejects.clone())
    }

    /// What the rows that are taken out of the batch weigh, about.
    fn rejected_bytes(&self) -> u64 {
        let bad: u64 = self.whole().rejects.iter().map(Reject::count).sum();
        self.input
            .map_or(0, |(_, meta)| (u128::from(meta.bytes) * u128::from(bad) / u128::from(meta.rows.max(1))) as u64)
    }
}

impl Attempted {
    /// Rows that make a whole output, whatever becomes of the others.
    fn rows(batch: Meta, rows: Vec<std::ops::Range<u64>>) -> Self {
        Self::Rows { batch, rows, is_part: false, budget: None }
    }
}
