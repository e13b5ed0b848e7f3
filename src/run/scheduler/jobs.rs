//! Stages that work batch by batch: each batch is a job, tried until it is done, and published in the order of the input.

use super::AttemptId;
use super::action::{Action, Dispatch, Host, Reject, Work as Attempted};
use super::blame::Blame;
use super::clock::Activity;
use super::event::{ExitCause, Failure, Output, Scope};
use super::ready::Need;
use super::scheduler::{Place, Scheduler};
use super::stage_state::{Job, Jobs, MapHost, Phase, Role, Step, Tries, Work, rest};
use crate::plan::{OnError, Port, StageId, Verdict};
use crate::run::{RunEvent, StageFailure};

/// Attempts of one batch that may be lost through no fault of its own.
const ENGINE_DEATHS: u32 = 100;
/// Searches for rows to blame that may end without a culprit before the whole batch is blamed as a set.
const ACQUITTALS: u32 = 3;
/// Batches per worker that wait for one before them, if nothing else bounds their number; one batch may be slow, or be tried again,
/// without stopping the others at once.
const WINDOW_PER_WORKER: usize = 8;

impl Scheduler {
    pub(super) fn step_jobs(&mut self, stage: StageId) {
        self.publish_in_order(stage);
        if self.stages[stage.index()].phase != Phase::Running || self.is_over() {
            self.set_ready(stage, false);
            return;
        }
        if self.is_unwanted(stage) {
            self.stop_taking(stage);
        } else {
            self.pass_empty_batches(stage);
        }
        if self.has_no_more(stage) {
            self.set_ready(stage, false);
            if self.jobs(stage).jobs.is_empty() {
                self.finish_ports(stage);
            }
            return;
        }
        let activity = self.look_for_work(stage);
        let is_ready = activity == Activity::Busy && self.runnable(stage) > 0;
        self.set_ready(stage, is_ready);
        let activity = match activity {
            _ if self.jobs(stage).running > 0 => Activity::Busy,
            // Until it gets one, which may be at once.
            Activity::Busy => Activity::WaitsForWorker,
            other => other,
        };
        self.enter(stage, activity);
    }

    /// Whether nothing is left to begin.
    fn has_no_more(&mut self, stage: StageId) -> bool {
        let jobs = self.jobs(stage);
        if !jobs.ready.is_empty() || jobs.running > 0 {
            return false;
        }
        if jobs.exhausted {
            return true;
        }
        match self.stages[stage.index()].role {
            Role::Map(_) => self.current_edge(stage, 0).is_none(),
            Role::Generator(_) | Role::Task | Role::Resident => false,
        }
    }

    fn set_ready(&mut self, stage: StageId, is_ready: bool) {
        self.ready.set(stage, self.stages[stage.index()].need, is_ready);
    }

    /// Attempts that the stage may have at once, those that are sent ahead included.
    fn attempts_max(&self, stage: StageId) -> u32 {
        let max = self.plan.stage(stage).workers.max.get();
        match self.stages[stage.index()].need {
            Need::SlotSoon => max.saturating_add(self.plan.workers),
            Need::Slot | Need::Thread => max,
        }
    }

    /// What the stage could do now: `Busy` if it could begin an attempt.
    fn look_for_work(&mut self, stage: StageId) -> Activity {
        let limit = self.attempts_max(stage);
        let serial = !matches!(self.stages[stage.index()].role, Role::Map(_));
        let jobs = self.jobs(stage);
        if jobs.running >= limit || (serial && jobs.running > 0) {
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
        if self.admits(stage, Some(&meta)) { Activity::Busy } else { Activity::WaitsForOutput }
    }

    /// Batches of a stage that may be worked on or wait for their turn in the order. Credits alone do not bound them where nobody reads the
    /// output.
    pub(super) fn window(&self, stage: StageId) -> usize {
        let mut edges = self.plan.stage(stage).ports.iter().flat_map(|port| &port.edges);
        let open = edges.any(|edge| !self.queues[edge.index()].is_closed());
        let limit = self.plan.stage(stage).workers.max.get().min(self.plan.workers);
        if open { usize::MAX } else { WINDOW_PER_WORKER * limit as usize }
    }

    /// Attempts that the stage could begin now, by its own limits and its input.
    pub(super) fn runnable(&mut self, stage: StageId) -> u32 {
        let limit = self.attempts_max(stage);
        let role = self.stages[stage.index()].role;
        let jobs = self.jobs(stage);
        let again = jobs.ready.len() as u32;
        let free = limit.saturating_sub(jobs.running);
        let closed = jobs.failed || jobs.exhausted;
        let open = jobs.jobs.len();
        let queued = match role {
            _ if closed => 0,
            _ if open >= self.window(stage) => 0,
            Role::Map(_) => self.current_edge(stage, 0).map_or(0, |edge| self.queues[edge.index()].len() as u32),
            Role::Generator(_) | Role::Task | Role::Resident => 1,
        };
        (again + queued).min(free)
    }

    /// Batches without rows need no attempt. (A native query is run for them, as it tells the columns of its output.)
    fn pass_empty_batches(&mut self, stage: StageId) {
        if !matches!(self.stages[stage.index()].role, Role::Map(MapHost::Worker(_) | MapHost::Process)) {
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
        let sequence = match self.jobs(stage).ready.pop_first() {
            Some(sequence) => sequence,
            None => self.new_job(stage),
        };
        let (attempt, host) = self.new_attempt(stage, sequence, place);
        let jobs = self.jobs(stage);
        jobs.running += 1;
        let job = jobs.jobs.get_mut(&sequence).expect("a job that is dispatched exists");
        job.tries.total += 1;
        let work = job.attempted();
        let work = work.unwrap_or(match self.stages[stage.index()].role {
            Role::Task => Attempted::Task,
            _ => Attempted::Pull,
        });
        self.has_begun(stage, host);
        self.ready.had_a_turn(stage, self.stages[stage.index()].need);
        self.actions.push(Action::Dispatch(Dispatch { attempt, stage, sequence, host, work }));
        self.touch(stage);
    }

    /// An attempt of the stage has begun, unless it only waits for its slot.
    pub(super) fn has_begun(&mut self, stage: StageId, host: Host) {
        if host != Host::NextProcess {
            let jobs = self.jobs(stage);
            jobs.begun += 1;
            let begun = jobs.begun;
            let account = &mut self.stages[stage.index()].account;
            account.peak_attempts = account.peak_attempts.max(begun);
        }
    }

    /// An attempt of the stage is over.
    pub(super) fn has_left(&mut self, stage: StageId, host: Host) {
        if host != Host::NextProcess {
            self.jobs(stage).begun -= 1;
        }
    }

    fn new_job(&mut self, stage: StageId) -> u64 {
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
            Role::Generator(_) | Role::Resident => (None, self.reserve(stage, None).expect("`look_for_work` saw room")),
        };
        let (input, reservations) = input;
        let jobs = self.jobs(stage);
        let sequence = jobs.next_sequence;
        jobs.next_sequence += 1;
        let job = Job { input, reservations, step: Step::Whole, tries: Tries::default(), rejects: Vec::new() };
        jobs.jobs.insert(sequence, job);
        sequence
    }

    pub(super) fn attempt_done(&mut self, attempt: AttemptId, rows: u64, outputs: Vec<Output>, end: bool) {
        let Some(running) = self.end_attempt(attempt) else { return };
        let (stage, sequence) = (running.stage, running.sequence);
        let jobs = self.jobs(stage);
        jobs.running -= 1;
        jobs.exhausted |= end;
        let job = jobs.jobs.get_mut(&sequence).expect("a running job exists");
        match &mut job.step {
            Step::Blaming(blame) => {
                blame.passed();
                self.actions.extend(outputs.iter().map(|output| super::scheduler::release(output.batch.id)));
                self.go_on_blaming(stage, sequence);
            }
            _ => self.job_done(stage, sequence, rows, outputs),
        }
    }

    fn job_done(&mut self, stage: StageId, sequence: u64, rows: u64, outputs: Vec<Output>) {
        let job = self.job(stage, sequence);
        let input = job.input.map(|(_, meta)| meta);
        let mut reservations = std::mem::take(&mut job.reservations);
        let rejected_bytes = job.rejected_bytes();
        let rejected = self.plan.stage(stage).ports.iter().position(|port| port.name == Port::REJECTED);
        let bytes = |port| {
            let given = outputs.iter().filter(|output| output.port == port);
            let given: u64 = given.map(|output| output.batch.bytes).sum();
            if Some(port) == rejected { given + rejected_bytes } else { given }
        };
        self.correct(stage, &mut reservations, bytes);
        let total = outputs.iter().map(|output| output.batch.bytes).sum();
        self.stages[stage.index()].estimate.learn(input.as_ref(), total);
        let job = self.job(stage, sequence);
        job.reservations = reservations;
        job.step = Step::Done { rows, outputs };
    }

    pub(super) fn attempt_failed(&mut self, attempt: AttemptId, failure: Failure) {
        let Some(running) = self.end_attempt(attempt) else { return };
        self.job_failed(running.stage, running.sequence, failure, ExitCause::Own);
    }

    /// An attempt of a job failed; its slot is free already.
    pub(super) fn job_failed(&mut self, stage: StageId, sequence: u64, failure: Failure, cause: ExitCause) {
        let (retry, on_error) = (self.plan.stage(stage).retry.clone(), self.plan.stage(stage).on_error);
        self.jobs(stage).running -= 1;
        self.touch(stage);
        if cause == ExitCause::Engine {
            let tries = &mut self.job(stage, sequence).tries;
            tries.engine += 1;
            // Bounded all the same: what never stops is nobody's accident.
            if tries.engine < ENGINE_DEATHS {
                self.again(stage, sequence);
                return;
            }
        }
        let limit = match failure.verdict {
            Verdict::Crash => retry.crash.get(),
            Verdict::Oom => retry.oom.get(),
            Verdict::Exception | Verdict::Schema => retry.exception.get(),
        };
        let job = self.job(stage, sequence);
        let tried = job.tries.count(failure.verdict);
        let attempts = job.tries.total;
        // An import that raises will raise again.
        let permanent = failure.scope != Scope::Rows && !matches!(failure.verdict, Verdict::Crash | Verdict::Oom);
        let divisible = failure.scope == Scope::Rows && job.input.is_some();
        let will_retry = !permanent && (tried < limit || divisible && job.rows() > 1);
        let searching = matches!(job.step, Step::Blaming(_));
        self.actions.push(Action::Emit(RunEvent::AttemptFailed {
            searching,
            stage,
            sequence,
            attempt: attempts,
            verdict: failure.verdict,
            message: failure.message.clone(),
            will_retry,
        }));
        self.stages[stage.index()].account.retries += u64::from(will_retry);
        let job = self.job(stage, sequence);
        match &mut job.step {
            Step::Blaming(blame) => {
                blame.next_failed(failure);
                self.go_on_blaming(stage, sequence);
            }
            _ if !permanent && tried < limit => self.again(stage, sequence),
            Step::Whole if divisible => {
                let rows = job.rows();
                job.step = Step::Blaming(Blame::new(rows, failure, attempts, retry.crash.get()));
                self.go_on_blaming(stage, sequence);
            }
            Step::Rest(rest) if on_error != OnError::Fail => {
                // The others fail even without the rows that were to blame.
                let rejects = rest.iter().map(|rows| Reject { rows: rows.clone(), failure: failure.clone(), attempts });
                job.rejects.extend(rejects);
                job.rejects.sort_by_key(|reject| reject.rows.start);
                self.job_done(stage, sequence, 0, Vec::new());
            }
            _ => self.give_up(stage, sequence, failure, None),
        }
    }

    fn again(&mut self, stage: StageId, sequence: u64) {
        self.jobs(stage).ready.insert(sequence);
        self.touch(stage);
    }

    fn give_up(&mut self, stage: StageId, sequence: u64, failure: Failure, rows: Option<std::ops::Range<u64>>) {
        let jobs = self.jobs(stage);
        // Jobs before this one may still fail too, and then theirs is the failure to report.
        jobs.failed = true;
        jobs.ready = jobs.ready.range(..sequence).copied().collect();
        self.job(stage, sequence).step = Step::Failed { failure, rows };
    }

    /// Tries the next range of a search, or draws its conclusion.
    fn go_on_blaming(&mut self, stage: StageId, sequence: u64) {
        let on_error = self.plan.stage(stage).on_error;
        let job = self.job(stage, sequence);
        let rows = job.rows();
        let Step::Blaming(blame) = &job.step else { return };
        let found = blame.found().first().cloned();
        match found {
            Some(reject) if on_error == OnError::Fail => {
                self.give_up(stage, sequence, reject.failure, Some(reject.rows));
            }
            _ if blame.next().is_some() => self.again(stage, sequence),
            Some(_) => {
                let Step::Blaming(blame) = std::mem::replace(&mut job.step, Step::Whole) else { unreachable!() };
                job.rejects = blame.into_found();
                let rest = rest(rows, &job.rejects);
                if rest.is_empty() {
                    self.job_done(stage, sequence, 0, Vec::new());
                } else {
                    job.step = Step::Rest(rest);
                    job.tries.forgive();
                    self.again(stage, sequence);
                }
            }
            None => self.acquit(stage, sequence),
        }
    }

    /// The rows passed after all: what made the batch fail came from outside, and the batch is tried again as a whole.
    fn acquit(&mut self, stage: StageId, sequence: u64) {
        let job = self.job(stage, sequence);
        job.step = Step::Whole;
        job.tries.acquittals += 1;
        if job.tries.acquittals < ACQUITTALS {
            job.tries.forgive();
        }
        self.again(stage, sequence);
    }

    /// Publishes what is done, in the order of the input.
    fn publish_in_order(&mut self, stage: StageId) {
        loop {
            let jobs = self.jobs(stage);
            let next = jobs.next_publish;
            let Some(job) = jobs.jobs.get(&next) else { return };
            match &job.step {
                Step::Done { .. } => {
                    let job = jobs.jobs.remove(&next).expect("just seen");
                    jobs.next_publish += 1;
                    self.publish_job(stage, next, job);
                }
                Step::Failed { failure, rows } => {
                    let failure = StageFailure {
                        stage,
                        sequence: job.input.map(|_| next),
                        rows: job.input.zip(rows.clone()).map(|((_, meta), rows)| (meta.id, rows)),
                        attempts: job.tries.total,
                        failure: failure.clone(),
                    };
                    self.fail(failure);
                    return;
                }
                Step::Whole | Step::Blaming(_) | Step::Rest(_) => return,
            }
        }
    }

    fn publish_job(&mut self, stage: StageId, sequence: u64, job: Job) {
        let Step::Done { rows, outputs } = job.step else { return };
        let mut reservations = job.reservations;
        for output in &outputs {
            self.stages[stage.index()].account.rows_out += output.batch.rows;
            let action = Action::Publish { stage, port: output.port, batch: output.batch.id };
            self.publish(stage, output.port, output.batch.rows, &mut reservations, action);
        }
        let bad: u64 = job.rejects.iter().map(|reject| reject.rows.end - reject.rows.start).sum();
        if let Some((edge, meta)) = job.input {
            if bad > 0 {
                self.settle_rejects(stage, sequence, meta.id, bad, job.rejects, &mut reservations);
            }
            self.queues[edge.index()].done_with(rows + bad, meta.bytes);
            self.touch(self.plan.edge(edge).from);
            self.stages[stage.index()].account.rows_in += rows + bad;
            self.actions.push(Action::Release { batch: meta.id });
        }
        self.stages[stage.index()].account.batches += 1;
        self.release(stage, reservations);
    }

    fn settle_rejects(
        &mut self,
        stage: StageId,
        sequence: u64,
        batch: super::BatchId,
        bad: u64,
        rejects: Vec<Reject>,
        reservations: &mut Vec<(crate::plan::EdgeId, super::queue::Reservation)>,
    ) {
        let kept = self.plan.stage(stage).on_error == OnError::Reject;
        let account = &mut self.stages[stage.index()].account;
        *if kept { &mut account.rejected } else { &mut account.skipped } += bad;
        let first = &rejects[0].failure;
        self.actions.push(Action::Emit(RunEvent::Rejected {
            stage,
            sequence,
            rows: bad,
            kept,
            verdict: first.verdict,
            message: first.message.clone(),
        }));
        let port = self.plan.stage(stage).ports.iter().position(|port| port.name == Port::REJECTED);
        if let Some(port) = port
            && kept
            && !self.plan.stage(stage).ports[port].edges.is_empty()
        {
            let action = Action::PublishRejects { stage, port, batch, rejects };
            self.publish(stage, port, bad, reservations, action);
        }
    }

    fn jobs(&mut self, stage: StageId) -> &mut Jobs {
        match &mut self.stages[stage.index()].work {
            Work::Jobs(jobs) => jobs,
            Work::Resident(_) => unreachable!("`{}` is resident", self.plan.stage(stage).name),
        }
    }

    fn job(&mut self, stage: StageId, sequence: u64) -> &mut Job {
        self.jobs(stage).jobs.get_mut(&sequence).expect("a job that is worked on exists")
    }
}

impl Job {
    fn rows(&self) -> u64 {
        self.input.map_or(0, |(_, meta)| meta.rows)
    }

    /// What the rows that are taken out of the batch weigh, about.
    fn rejected_bytes(&self) -> u64 {
        let bad: u64 = self.rejects.iter().map(|reject| reject.rows.end - reject.rows.start).sum();
        self.input
            .map_or(0, |(_, meta)| (u128::from(meta.bytes) * u128::from(bad) / u128::from(meta.rows.max(1))) as u64)
    }

    /// The rows that the next attempt is given.
    fn attempted(&self) -> Option<Attempted> {
        let (_, batch) = self.input?;
        let rows = match &self.step {
            Step::Blaming(blame) => blame.next().map_or_else(Vec::new, |rows| vec![rows]),
            Step::Rest(rest) => rest.clone(),
            _ => vec![0..batch.rows],
        };
        Some(Attempted::Rows { batch, rows })
    }
}

impl Tries {
    /// What is tried next is given as many attempts as a new batch.
    fn forgive(&mut self) {
        self.exception = 0;
        self.crash = 0;
        self.oom = 0;
    }

    /// Counts a failed attempt; returns how many have failed with this verdict.
    fn count(&mut self, verdict: Verdict) -> u32 {
        let tries = match verdict {
            Verdict::Crash => &mut self.crash,
            Verdict::Oom => &mut self.oom,
            Verdict::Exception | Verdict::Schema => &mut self.exception,
        };
        *tries += 1;
        *tries
    }
}
