//! Stages that keep state: per key (`partition_by`), or over the whole stream (`as: stream`), which is a single partition then.
//!
//! The key of a row tells its *partition*, one of 64 on every machine. Neighbouring partitions make a *lane*: there are as many lanes as the
//! stage has workers, and each lane has a worker of its own, which has the state of the lane's partitions. A batch of the input is a job
//! of all lanes: each is given the rows of its partitions, and what they give is put together in the order of the partitions, so that the
//! output is that of (batch, partition, row) and does not show how many lanes there were.
//!
//! - **Order.** A lane takes the batches one after the other, in the order of the input: a state never sees two at once, nor a later one
//!   first. Lanes do not wait for each other, but for the room that the jobs between them take: an open job holds its input and its places
//!   on the edges behind the stage until all lanes are through with it.
//! - **The end.** When the input is exhausted, one more job without rows lets every lane that was given any finish its keys.
//! - **Death.** A state dies with its worker, and an attempt that failed has left it half changed; so after either the lane goes on in
//!   another process. The executor has a log of what the stage was given and lets the new process do all of it again, from the
//!   beginning, before it goes on; what comes out of that is thrown away. Here, the attempt is only tried again.
//! - **Failure.** A batch that keeps failing fails the run: to halve it would need a state for every half. Among the lanes of one batch
//!   the first one counts, and lanes finish what comes before a failure, so that the failure that is reported depends on the data alone.

use std::collections::BTreeMap;

use super::action::{Action, Dispatch, Host, Work as Attempted};
use super::clock::Activity;
use super::event::{ExitCause, Failure, Meta, Output, Scope};
use super::failures::Told;
use super::placing::Place;
use super::queue::Reservation;
use super::scheduler::{Running, Scheduler, release};
use super::stage_state::{Phase, Role, SliceId, Tries, Work};
use super::worker_state::ClassId;
use super::{BatchId, WorkerId};
use crate::plan::{EdgeId, StageId, Verdict};
use crate::run::StageFailure;

/// The work of a stage with `partition_by`.
#[derive(Debug)]
pub struct Keyed {
    pub lanes: Vec<Lane>,
    /// Jobs that are not published yet, by sequence number.
    pub jobs: BTreeMap<u64, KeyedJob>,
    pub next_sequence: u64,
    pub next_publish: u64,
    /// The first job that failed for good: no lane goes beyond it.
    pub failed: Option<u64>,
    /// All jobs have been made, the last one included.
    pub exhausted: bool,
    /// Whether the next batch of the input could be made a job, as of its last steps.
    pub can_begin: bool,
}

/// A run of neighbouring partitions, which one worker works on.
#[derive(Debug, Default)]
pub struct Lane {
    /// The process that has the lane's state, if there is one.
    pub worker: Option<WorkerId>,
    pub running: bool,
    /// Its job has failed, and is tried again later.
    pub is_resting: bool,
    /// The job that the lane does now, or next.
    pub next: u64,
    /// Attempts of that job.
    pub tries: Tries,
    /// Rows that the lane was given so far.
    pub rows: u64,
}

/// One batch on its way through all lanes.
#[derive(Debug)]
pub struct KeyedJob {
    /// `None` for the last job, in which the lanes finish their keys.
    pub input: Option<(EdgeId, Meta)>,
    pub reservations: Vec<(EdgeId, Reservation)>,
    /// By lane.
    pub parts: Vec<Part>,
}

/// What one lane has made of a job.
#[derive(Debug, Default)]
pub enum Part {
    #[default]
    Open,
    Done {
        rows: u64,
        outputs: Vec<Output>,
    },
    Failed {
        failure: Failure,
        attempts: u32,
    },
}

impl Keyed {
    pub fn new(lanes: u32) -> Self {
        Self {
            lanes: (0..lanes).map(|_| Lane::default()).collect(),
            jobs: BTreeMap::new(),
            next_sequence: 0,
            next_publish: 0,
            failed: None,
            exhausted: false,
            can_begin: false,
        }
    }

    pub fn running(&self) -> u32 {
        self.lanes.iter().filter(|lane| lane.running).count() as u32
    }

    /// Whether the lane may begin its next job, if there is one.
    fn is_free(&self, lane: usize) -> bool {
        let Lane { running, is_resting, .. } = self.lanes[lane];
        !running && !is_resting && self.failed.is_none_or(|failed| self.lanes[lane].next <= failed)
    }

    /// Whether the lane's next job is there.
    pub(super) fn has_job(&self, lane: usize) -> bool {
        self.is_free(lane)
            && self.jobs.get(&self.lanes[lane].next).is_some_and(|job| matches!(job.parts[lane], Part::Open))
    }

    /// The lanes that could begin a job, if they had a worker: one that is there, or the one that can be made next.
    fn with_work(&self) -> impl Iterator<Item = usize> {
        let is_next = |lane: usize| self.can_begin && self.is_free(lane) && self.lanes[lane].next == self.next_sequence;
        (0..self.lanes.len()).filter(move |lane| self.has_job(*lane) || is_next(*lane))
    }
}

impl Scheduler {
    pub(super) fn step_keyed(&mut self, stage: StageId) {
        self.publish_keyed(stage);
        if self.stages[stage.index()].phase != Phase::Running || self.is_over() {
            self.set_ready(stage, false);
            return;
        }
        if self.is_unwanted(stage) && !self.keyed(stage).exhausted {
            self.keyed(stage).exhausted = true;
            self.close_input(stage, 0);
        } else {
            self.pass_empty_batches(stage);
        }
        if !self.keyed(stage).exhausted && self.current_edge(stage, 0).is_none() {
            self.make_last_job(stage);
        }
        self.skip_idle_lanes(stage);
        let next = self.next_job(stage);
        let keyed = self.keyed(stage);
        if keyed.exhausted && keyed.jobs.is_empty() {
            self.set_ready(stage, false);
            self.finish_ports(stage);
            return;
        }
        keyed.can_begin = next == Activity::Busy;
        let is_ready = keyed.can_begin || (0..keyed.lanes.len()).any(|lane| keyed.has_job(lane));
        let running = keyed.running();
        let wants = is_ready;
        let is_ready = self.set_ready(stage, wants);
        self.enter(
            stage,
            match (running, is_ready) {
                (0, true) => Activity::WaitsForWorker,
                (0, false) if wants => Activity::WaitsForResource,
                (0, false) => next,
                _ => Activity::Busy,
            },
        );
    }

    /// Whether the next batch of the input could be made a job: `Busy` if it could.
    fn next_job(&mut self, stage: StageId) -> Activity {
        let keyed = self.keyed(stage);
        if keyed.exhausted || keyed.failed.is_some() {
            return Activity::WaitsForInput;
        }
        let open = keyed.jobs.len();
        let Some(edge) = self.current_edge(stage, 0) else { return Activity::WaitsForOutput };
        let Some(meta) = self.queues[edge.index()].front().copied() else { return Activity::WaitsForInput };
        if open < self.window(stage) && self.admits(stage, Some(&meta)) {
            Activity::Busy
        } else {
            Activity::WaitsForOutput
        }
    }

    /// After the last batch of the input, as soon as there is room for what the lanes may give.
    fn make_last_job(&mut self, stage: StageId) {
        let window = self.window(stage);
        let keyed = self.keyed(stage);
        if keyed.failed.is_some() || keyed.jobs.len() >= window {
            return;
        }
        let Some(reservations) = self.reserve(stage, None) else { return };
        self.keyed(stage).exhausted = true;
        self.add_job(stage, None, reservations);
    }

    /// Takes the next batch of the input.
    fn make_job(&mut self, stage: StageId) {
        let meta = self.current_edge(stage, 0).and_then(|edge| self.queues[edge.index()].front().copied());
        let reservations = self.reserve(stage, meta.as_ref()).expect("`next_job` saw room");
        let input = self.take(stage, 0).expect("`next_job` saw a batch");
        self.add_job(stage, Some(input), reservations);
    }

    fn add_job(&mut self, stage: StageId, input: Option<(EdgeId, Meta)>, reservations: Vec<(EdgeId, Reservation)>) {
        let keyed = self.keyed(stage);
        let parts = keyed.lanes.iter().map(|_| Part::default()).collect();
        keyed.jobs.insert(keyed.next_sequence, KeyedJob { input, reservations, parts });
        keyed.next_sequence += 1;
        self.touch(stage);
    }

    /// Lanes that were given no rows have no keys to finish. (A state without keys has an end all the same.)
    fn skip_idle_lanes(&mut self, stage: StageId) {
        if !self.plan.stage(stage).has_keys() {
            return;
        }
        let keyed = self.keyed(stage);
        let last = keyed.next_sequence.wrapping_sub(1);
        if keyed.jobs.get(&last).is_none_or(|job| job.input.is_some()) {
            return;
        }
        let is_idle = |lane: &Lane| lane.next == last && lane.rows == 0 && !lane.running;
        let idle: Vec<usize> = (0..keyed.lanes.len()).filter(|at| is_idle(&keyed.lanes[*at])).collect();
        for lane in idle {
            self.part_done(stage, lane, 0, Vec::new());
        }
    }

    /// The lane that could begin a job now, and the worker that would do it: the one that is furthest behind.
    pub(super) fn lane_to_run(&self, stage: StageId, class: ClassId) -> Option<Place> {
        let Work::Keyed(keyed) = &self.stages[stage.index()].work else { return None };
        let is_pinned = |worker: &WorkerId| keyed.lanes.iter().any(|lane| lane.worker == Some(*worker));
        let unpinned = self.pool.idle_workers(class).find(|worker| !is_pinned(worker));
        let ready = keyed.with_work().filter_map(|lane| match keyed.lanes[lane].worker {
            Some(worker) => self.pool.is_idle(class, worker).then_some((lane, worker)),
            None => Some((lane, unpinned?)),
        });
        let (lane, worker) = ready.min_by_key(|(lane, _)| (keyed.lanes[*lane].next, *lane))?;
        Some(Place::Pinned { lane, worker })
    }

    /// Workers that lanes with work have not got.
    pub(super) fn lanes_without_worker(&self, stage: StageId) -> u32 {
        let Work::Keyed(keyed) = &self.stages[stage.index()].work else { return 0 };
        keyed.with_work().filter(|lane| keyed.lanes[*lane].worker.is_none()).count() as u32
    }

    pub(super) fn dispatch_lane(&mut self, stage: StageId, lane: usize, worker: WorkerId) {
        if !self.keyed(stage).has_job(lane) {
            self.make_job(stage);
        }
        let sequence = self.keyed(stage).lanes[lane].next;
        let slice = SliceId { sequence, first: lane as u64 };
        let keyed = self.keyed(stage);
        keyed.lanes[lane].worker = Some(worker);
        keyed.lanes[lane].running = true;
        keyed.lanes[lane].tries.total += 1;
        let tries = keyed.lanes[lane].tries.total;
        let number = lane as u32;
        let work = match keyed.jobs[&sequence].input {
            Some((_, batch)) => Attempted::Lane { batch, lane: number },
            None => Attempted::FinishLane { lane: number },
        };
        let (attempt, host) = self.new_attempt(stage, slice, Place::Pinned { lane, worker });
        let devices = Vec::new();
        self.ready.had_a_turn(stage, self.stages[stage.index()].need);
        self.actions.push(Action::Dispatch(Dispatch { attempt, stage, sequence, tries, host, work, devices }));
        self.touch(stage);
    }

    pub(super) fn lane_done(&mut self, running: &Running, rows: u64, outputs: Vec<Output>) {
        if let Some(lane) = self.lane_of(running) {
            self.part_done(running.stage, lane, rows, outputs);
        }
    }

    fn part_done(&mut self, stage: StageId, lane: usize, rows: u64, outputs: Vec<Output>) {
        let keyed = self.keyed(stage);
        let state = &mut keyed.lanes[lane];
        let sequence = state.next;
        state.running = false;
        state.next += 1;
        state.rows += rows;
        state.tries = Tries::default();
        let job = keyed.jobs.get_mut(&sequence).expect("a job that is worked on exists");
        job.parts[lane] = Part::Done { rows, outputs };
        self.weigh_job(stage, sequence);
        self.touch(stage);
    }

    /// More of what the job gives is there, and lies in memory until all of it is.
    fn weigh_job(&mut self, stage: StageId, sequence: u64) {
        let job = self.keyed_job(stage, sequence);
        let input = job.input.map(|(_, meta)| meta);
        let is_whole = job.parts.iter().all(|part| matches!(part, Part::Done { .. }));
        let mut reservations = std::mem::take(&mut job.reservations);
        let weights: Vec<(usize, u64)> = job.outputs().map(|output| (output.port, output.batch.bytes)).collect();
        let bytes = |port| weights.iter().filter(|(of, _)| *of == port).map(|(_, bytes)| *bytes).sum::<u64>();
        if is_whole {
            self.correct(stage, &mut reservations, bytes);
        } else {
            for (edge, reservation) in &mut reservations {
                let given = bytes(self.plan.edge(*edge).port);
                self.queues[edge.index()].correct_to_at_least(reservation, given);
            }
        }
        if is_whole && input.is_some() {
            let total = weights.iter().map(|(_, bytes)| bytes).sum();
            self.stages[stage.index()].estimate.learn(input.as_ref(), total);
        }
        self.keyed_job(stage, sequence).reservations = reservations;
    }

    /// An attempt of a lane failed. Its worker is gone, or goes.
    pub(super) fn lane_failed(&mut self, running: &Running, failure: Failure, cause: ExitCause) {
        let Some(lane) = self.lane_of(running) else { return };
        let (stage, sequence) = (running.stage, running.slice.sequence);
        let retry = self.plan.stage(stage).retry;
        self.touch(stage);
        let state = &mut self.keyed(stage).lanes[lane];
        state.running = false;
        state.worker = None;
        if cause == ExitCause::Engine && state.tries.lose_to_engine() {
            return;
        }
        let limit = retry.attempts(failure.verdict);
        let tried = state.tries.count(failure.verdict);
        let attempts = state.tries.total;
        // An import that raises will raise again.
        let permanent = failure.scope != Scope::Rows && !matches!(failure.verdict, Verdict::Crash | Verdict::Oom);
        let will_retry = !permanent && tried < limit;
        self.tell_failed(
            stage,
            Told { sequence, attempt: attempts, searching: false, will_retry, begins_search: false },
            &failure,
        );
        if will_retry {
            let rests = self.lane_rests(stage, sequence, lane, tried);
            self.keyed(stage).lanes[lane].is_resting = rests;
        } else {
            let keyed = self.keyed(stage);
            keyed.failed = Some(keyed.failed.map_or(sequence, |failed| failed.min(sequence)));
            self.keyed_job(stage, sequence).parts[lane] = Part::Failed { failure, attempts };
        }
    }

    /// A worker is gone: the lane that had it gets another one.
    pub(super) fn unpin(&mut self, class: ClassId, worker: WorkerId) {
        for index in 0..self.stages.len() {
            if self.stages[index].role != Role::Keyed(class) {
                continue;
            }
            let stage = StageId(index as u32);
            let lanes = self.keyed(stage).lanes.iter_mut();
            lanes.filter(|lane| lane.worker == Some(worker)).for_each(|lane| lane.worker = None);
            self.touch(stage);
        }
    }

    fn lane_of(&mut self, running: &Running) -> Option<usize> {
        let Host::Worker(worker) = running.host else { return None };
        self.keyed(running.stage).lanes.iter().position(|lane| lane.worker == Some(worker) && lane.running)
    }

    /// Publishes what is done, in the order of the input.
    fn publish_keyed(&mut self, stage: StageId) {
        loop {
            let keyed = self.keyed(stage);
            let next = keyed.next_publish;
            let Some(job) = keyed.jobs.get(&next) else { return };
            if job.parts.iter().any(|part| matches!(part, Part::Open)) {
                return;
            }
            if let Some((failure, attempts)) = job.failure() {
                let (failure, sequence) = (failure.clone(), job.input.map(|_| next));
                self.fail(StageFailure { stage, sequence, rows: None, attempts, failure });
                return;
            }
            let job = keyed.jobs.remove(&next).expect("just seen");
            keyed.next_publish += 1;
            self.publish_keyed_job(stage, next, job);
        }
    }

    fn publish_keyed_job(&mut self, stage: StageId, sequence: u64, job: KeyedJob) {
        let mut by_port: BTreeMap<usize, (u64, Vec<BatchId>)> = BTreeMap::new();
        for output in job.outputs() {
            let (rows, batches) = by_port.entry(output.port).or_default();
            *rows += output.batch.rows;
            batches.push(output.batch.id);
        }
        let rows_in: u64 = job.parts.iter().map(Part::rows).sum();
        let mut reservations = job.reservations;
        for (port, (rows, batches)) in by_port {
            let action = if port == Output::STATE {
                Action::UpdateState { stage, sequence, updates: batches }
            } else {
                self.stages[stage.index()].account.rows_out += rows;
                Action::PublishJoined { stage, port, batches }
            };
            self.publish(stage, port, rows, &mut reservations, action);
        }
        if let Some((edge, meta)) = job.input {
            self.queues[edge.index()].done_with(rows_in, meta.bytes);
            self.touch(self.plan.edge(edge).from);
            let account = &mut self.stages[stage.index()].account;
            account.rows_in += rows_in;
            account.batches += 1;
            self.actions.push(release(meta.id));
        }
        self.release(stage, reservations);
    }

    pub(super) fn keyed(&mut self, stage: StageId) -> &mut Keyed {
        match &mut self.stages[stage.index()].work {
            Work::Keyed(keyed) => keyed,
            Work::Jobs(_) | Work::Resident(_) => unreachable!("`{}` has no keys", self.plan.stage(stage).name),
        }
    }

    fn keyed_job(&mut self, stage: StageId, sequence: u64) -> &mut KeyedJob {
        self.keyed(stage).jobs.get_mut(&sequence).expect("a job that is worked on exists")
    }
}

impl KeyedJob {
    /// What the lanes gave, in the order of the partitions.
    fn outputs(&self) -> impl Iterator<Item = &Output> {
        self.parts.iter().flat_map(|part| match part {
            Part::Done { outputs, .. } => outputs.as_slice(),
            Part::Open | Part::Failed { .. } => &[],
        })
    }

    fn failure(&self) -> Option<(&Failure, u32)> {
        self.parts.iter().find_map(|part| match part {
            Part::Failed { failure, attempts } => Some((failure, *attempts)),
            Part::Open | Part::Done { .. } => None,
        })
    }
}

impl Part {
    fn rows(&self) -> u64 {
        match self {
            Self::Done { rows, .. } => *rows,
            Self::Open | Self::Failed { .. } => 0,
        }
    }
}
