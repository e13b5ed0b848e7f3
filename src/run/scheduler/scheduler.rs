//! [`Scheduler`]: the state of a run, and the one function that changes it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::action::{Action, Host};
use super::clock::Activity;
use super::event::{Event, ExitCause, Failure, Meta, QueuedPieces};
use super::jobs::Given;
use super::keyed::Keyed;
use super::queue::{Queue, Reservation};
use super::ready::{Need, Ready};
use super::rest::Resting;
use super::slices::{Pace, Sight};
use super::stage_state::{Estimate, InputState, Jobs, Phase, Resident, ResidentInput, Role, SliceId, StageState, Work};
use super::worker_state::{ClassId, Classes, Pool, WorkerState};
use super::{AttemptId, BatchId, WorkerId};
use crate::plan::{CommandMode, EdgeId, Plan, StageId, StageKind};
use crate::run::{AccountDifference, EdgeAccount, Ending, RunEvent, StageAccount, StageFailure};

/// How long attempts that run may go on after an interrupt.
const GRACE: Duration = Duration::from_secs(10);
/// Starts of workers of one class that may fail in a row before the run fails.
const FAILED_STARTS: u32 = 3;

/// The pure scheduler of one run.
#[derive(Debug)]
pub struct Scheduler {
    pub(super) plan: Arc<Plan>,
    pub(super) classes: Classes,
    pub(super) stages: Vec<StageState>,
    pub(super) queues: Vec<Queue>,
    pub(super) pool: Pool,
    pub(super) running: BTreeMap<AttemptId, Running>,
    /// Attempts in workers and processes; bounded by [`Plan::workers`].
    pub(super) busy_slots: u32,
    /// Attempts on threads of this process; bounded by [`Plan::workers`] too.
    pub(super) busy_native: u32,
    pub(super) actions: Vec<Action>,
    pub(super) now: Duration,
    /// By stage: those that wait for its end.
    followers: Vec<Vec<StageId>>,
    /// Stages whose situation changed.
    dirty: BTreeSet<StageId>,
    pub(super) ready: Ready,
    /// Attempts that were sent ahead and have no slot yet, in their order.
    waiting: VecDeque<AttemptId>,
    /// How many of the slots are taken by processes.
    busy_processes: u32,
    next_attempt: u64,
    workers_started: u32,
    /// What is tried again later, and when.
    pub(super) resting: BTreeSet<(Duration, Resting)>,
    /// Stages in [`Phase::Finishing`].
    finishing: usize,
    ended: usize,
    state: State,
}

/// An attempt that runs.
#[derive(Clone, Copy, Debug)]
pub struct Running {
    pub stage: StageId,
    pub slice: SliceId,
    pub host: Host,
    /// `None` while it waits for a slot, or for the attempt that its worker runs.
    pub since: Option<Duration>,
    /// Whether it waits for the next one and has no place ([`Event::AttemptWaits`]).
    pub waits: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    New,
    Running,
    /// The user has interrupted the run: what runs may end, until then, and nothing more begins.
    Draining {
        until: Duration,
    },
    Committing,
    Over,
}

impl Scheduler {
    pub fn new(plan: Arc<Plan>) -> Self {
        let classes = Classes::new(&plan);
        let stages: Vec<StageState> = plan.stages.iter().map(|stage| new_stage(stage, &plan, &classes)).collect();
        let stage_count = stages.len();
        let queues = plan.edges.iter().map(Queue::new).collect();
        let pool = Pool::new(classes.classes.len());
        let mut followers = vec![Vec::new(); plan.stages.len()];
        for stage in &plan.stages {
            stage.after.iter().for_each(|awaited| followers[awaited.index()].push(stage.id));
        }
        Self {
            plan,
            classes,
            stages,
            queues,
            pool,
            running: BTreeMap::new(),
            busy_slots: 0,
            busy_native: 0,
            actions: Vec::new(),
            now: Duration::ZERO,
            followers,
            dirty: BTreeSet::new(),
            ready: Ready::new(stage_count),
            waiting: VecDeque::new(),
            busy_processes: 0,
            next_attempt: 1,
            workers_started: 0,
            resting: BTreeSet::new(),
            finishing: 0,
            ended: 0,
            state: State::New,
        }
    }

    /// Begins the run. `now` is the time since some fixed moment, here and in [`Scheduler::handle`].
    pub fn start(&mut self, now: Duration) -> Vec<Action> {
        self.now = now;
        self.state = State::Running;
        for index in 0..self.stages.len() {
            let stage = self.plan.stages[index].id;
            if self.stages[index].awaited == 0 {
                self.begin(stage);
            } else {
                self.enter(stage, Activity::WaitsForStage);
            }
        }
        self.settle();
        std::mem::take(&mut self.actions)
    }

    /// The stages that this one waits for have ended.
    fn begin(&mut self, stage: StageId) {
        if self.stages[stage.index()].role == Role::Resident {
            self.actions.push(Action::Start { stage });
        }
        self.touch(stage);
    }

    /// Applies one event and returns what is to be done next. After the run is over, events change nothing.
    pub fn handle(&mut self, event: Event, now: Duration) -> Vec<Action> {
        self.now = now;
        if self.state != State::Over {
            self.wake();
            self.apply(event);
            self.settle();
            self.end_if_drained();
        }
        std::mem::take(&mut self.actions)
    }

    pub fn is_over(&self) -> bool {
        self.state == State::Over
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Produced { stage, outputs } => self.resident_produced(stage, &outputs),
            Event::Taken { stage, input, rows } => self.resident_took(stage, input, rows),
            Event::InputClosed { stage, input } => self.close_input(stage, input),
            Event::Ended { stage } => self.resident_ended(stage),
            Event::StageFailed { stage, failure } => self.fail(StageFailure::of_stage(stage, failure)),
            Event::Queued { stage, queued } => self.queued(stage, &queued),
            Event::PortsFinished { stage, queued } => self.ports_finished(stage, &queued),
            Event::AttemptDone { attempt, rows, outputs, end, spent, failed } => {
                self.attempt_done(attempt, Given { rows, outputs, end, spent, failed });
            }
            Event::AttemptWaits { attempt } => self.attempt_waits(attempt),
            Event::AttemptFailed { attempt, failure } => self.attempt_failed(attempt, failure),
            Event::AttemptLost { attempt, failure } => self.attempt_lost(attempt, failure),
            Event::Opened { stage, by_row } => self.opened(stage, by_row),
            Event::WorkerReady { worker } => {
                self.pool.make_idle(worker);
            }
            Event::WorkerRetired { worker } => self.pool.retire(worker),
            Event::WorkerExited { worker, failure, cause } => self.worker_exited(worker, failure, cause),
            Event::Woken => {}
            Event::Interrupted => self.interrupted(),
            Event::Committed => self.finish(Ending::Succeeded),
            Event::CommitFailed { failure } => self.finish(Ending::CommitFailed(Box::new(failure))),
        }
    }

    /// Lets all touched stages take their steps and gives out free workers, until nothing changes any more.
    fn settle(&mut self) {
        while self.state == State::Running {
            if let Some(stage) = self.dirty.pop_last() {
                self.step(stage);
            } else if !self.assign() {
                break;
            }
        }
        if self.state == State::Running {
            self.check_end();
        }
    }

    fn step(&mut self, stage: StageId) {
        if self.stages[stage.index()].awaited > 0 {
            return;
        }
        match self.stages[stage.index()].role {
            Role::Resident => self.step_resident(stage),
            Role::Keyed(_) => self.step_keyed(stage),
            Role::Map(_) | Role::Generator(_) | Role::Task => self.step_jobs(stage),
        }
    }

    pub(super) fn touch(&mut self, stage: StageId) {
        self.dirty.insert(stage);
    }

    /// Begins one attempt of the deepest ready stage for which there is a place; starts workers where they are missing.
    /// Returns whether anything changed.
    fn assign(&mut self) -> bool {
        let next = self.next_for_slot().or_else(|| self.next_for_thread());
        match next {
            Some((stage, Place::Pinned { lane, worker })) => self.dispatch_lane(stage, lane, worker),
            Some((stage, place)) => self.dispatch_next(stage, place),
            None => {}
        }
        next.is_some()
    }

    fn next_for_thread(&self) -> Option<(StageId, Place)> {
        let is_free = self.busy_native < self.plan.workers;
        is_free.then(|| self.ready.for_threads().next().map(|stage| (stage, Place::Native)))?
    }

    fn next_for_slot(&mut self) -> Option<(StageId, Place)> {
        if self.busy_slots >= self.plan.workers {
            return self.next_to_wait();
        }
        let mut without_worker = Vec::new();
        let mut place = |stage: StageId| {
            let role = self.stages[stage.index()].role;
            let Some(class) = role.class() else { return Some(Place::Process) };
            if let Role::Keyed(_) = role {
                let pinned = self.lane_to_run(stage, class);
                if pinned.is_none() {
                    without_worker.push((stage, class));
                }
                return pinned;
            }
            if self.runnable(stage) > 0 {
                if self.pool.has_idle(class) {
                    return Some(Place::Worker(class));
                }
                without_worker.push((stage, class));
            }
            self.place_behind(stage, class)
        };
        let found = self.ready.for_slots().find_map(|stage| Some((stage, place(stage)?)));
        let mut wanted = self.plan.workers.saturating_sub(self.busy_slots + self.pool.total_starting());
        for (stage, class) in without_worker {
            self.start_workers(stage, class, &mut wanted);
        }
        found
    }

    /// An attempt that can be dispatched while all slots are taken: one that begins when a process ends, or when its worker has
    /// ended another one.
    fn next_to_wait(&self) -> Option<(StageId, Place)> {
        if self.may_send_ahead() {
            return self.ready.for_slots().next().map(|stage| (stage, Place::NextProcess));
        }
        // A stage that may not queue is a rival of those that may.
        let queueing = self.ready.for_slots().take_while(|stage| self.may_queue(*stage));
        queueing
            .filter_map(|stage| Some((stage, self.stages[stage.index()].role.class()?)))
            .find_map(|(stage, class)| self.place_behind(stage, class).map(|place| (stage, place)))
    }

    /// Whether a process may be asked for that takes the place of the next one to end. Only where it takes that from nobody else: not
    /// while there are workers, or stages that want one.
    fn may_send_ahead(&self) -> bool {
        let is_room = self.waiting.len() < self.plan.workers as usize;
        is_room && self.busy_processes == self.busy_slots && self.ready.all_can_wait()
    }

    /// The worker that is to have the stage's next attempt before it has ended the one that it runs, if the attempts are so short that the
    /// way there and back counts. Not where another worker would be free first and have nothing to do, nor where another stage waits for
    /// what would never be free.
    fn place_behind(&self, stage: StageId, class: ClassId) -> Option<Place> {
        if !self.may_queue(stage) {
            return None;
        }
        let is_mine = |other: StageId| self.classes.of(other) == Some(class);
        // Only those that may all have the same places: else one of them would take what the other waits for, again and again.
        let are_alike = |other: StageId| [stage, other].iter().all(|stage| self.may_queue_anywhere(*stage));
        let is_rival = |other: StageId| other != stage && !(is_mine(other) && are_alike(other));
        if self.ready.for_slots().any(is_rival) {
            return None;
        }
        let fits = |attempt: &AttemptId| {
            let other = self.running[attempt].stage;
            (other == stage || self.may_queue_anywhere(stage)) && self.stages[other.index()].durations.are_short()
        };
        let running: Vec<(WorkerId, AttemptId)> = self.pool.without_next(class).collect();
        let fitting = running.iter().filter(|(_, attempt)| fits(attempt));
        let (worker, _) = *fitting.min_by_key(|(_, attempt)| self.running[attempt].since)?;
        let taken = running.len() as u32 + self.pool.starting(class) + self.pool.idle(class);
        let mine = self.ready.for_slots().filter(|other| is_mine(*other));
        let available: u32 = mine.map(|other| self.stages[other.index()].available).sum();
        (available > taken).then_some(Place::Behind(worker))
    }

    /// Whether an attempt of the stage may be with a worker that runs one of another stage: it may begin while as many of its own run as
    /// may.
    fn may_queue_anywhere(&self, stage: StageId) -> bool {
        self.may_queue(stage) && self.plan.stage(stage).workers.max.get() >= self.plan.workers
    }

    /// Whether attempts of the stage may be with workers that run others.
    pub(super) fn may_queue(&self, stage: StageId) -> bool {
        let state = &self.stages[stage.index()];
        let is_map = matches!(state.role, Role::Map(super::MapHost::Worker(_)));
        is_map && state.durations.are_short()
    }

    /// Starts as many workers as the stage has batches to work on, within the limits of its class and of the run.
    fn start_workers(&mut self, stage: StageId, class: ClassId, wanted: &mut u32) {
        let missing = match self.stages[stage.index()].role {
            Role::Keyed(_) => self.lanes_without_worker(stage),
            _ => self.runnable(stage),
        };
        let missing = missing.saturating_sub(self.pool.starting(class));
        let room = self.classes.get(class).limit.saturating_sub(self.pool.alive(class));
        for _ in 0..missing.min(room).min(*wanted) {
            let worker = self.pool.start(class);
            self.workers_started += 1;
            *wanted -= 1;
            self.actions.push(Action::StartWorker { worker, class });
        }
    }

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
        self.running.insert(attempt, Running { stage, slice, host, since: None, waits: false });
        if is_queued {
            self.jobs(stage).queued += 1;
        } else {
            self.begin_attempt(attempt);
        }
        (attempt, host)
    }

    fn begin_attempt(&mut self, attempt: AttemptId) {
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
        let running = self.running.remove(&attempt)?;
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

    /// The attempt's process waits for more before it gives the rest. Its place is free for what it waits for.
    fn attempt_waits(&mut self, attempt: AttemptId) {
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
    fn give_back_slot(&mut self, stage: StageId) {
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
    fn begin_queued(&mut self, attempt: AttemptId) {
        let stage = self.running[&attempt].stage;
        self.jobs(stage).queued -= 1;
        self.begin_attempt(attempt);
        self.touch(stage);
    }

    /// An attempt has left its stage's count of those that run or are to run.
    fn count_end(&mut self, running: &Running) {
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
    fn take_back(&mut self, attempt: AttemptId) {
        let Some(running) = self.running.remove(&attempt) else { return };
        self.count_end(&running);
        self.slice(running.stage, running.slice).tries.total -= 1;
        self.again(running.stage, running.slice);
    }

    fn worker_exited(&mut self, worker: WorkerId, failure: Failure, cause: ExitCause) {
        let Some((class, state, failed_starts)) = self.pool.remove(worker, cause) else { return };
        match state {
            WorkerState::Running { attempt, next } => {
                next.into_iter().for_each(|next| self.take_back(next));
                let Some(running) = self.running.remove(&attempt) else { return };
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

    /// Takes the next batch of an input, in the order of its members.
    pub(super) fn take(&mut self, stage: StageId, input: usize) -> Option<(EdgeId, Meta)> {
        let edge = self.current_edge(stage, input)?;
        let meta = self.queues[edge.index()].pop()?;
        self.touch(self.plan.edge(edge).from);
        Some((edge, meta))
    }

    /// The edge that the input's next batch comes from; `None` when the input is exhausted.
    pub(super) fn current_edge(&mut self, stage: StageId, input: usize) -> Option<EdgeId> {
        let input = &mut self.stages[stage.index()].inputs[input];
        while let Some(&edge) = input.members.get(input.current) {
            if !self.queues[edge.index()].is_exhausted() {
                return Some(edge);
            }
            input.current += 1;
        }
        None
    }

    /// Reserves a place on every open edge behind the stage, or returns `None` if one of them has none.
    pub(super) fn reserve(&mut self, stage: StageId, input: Option<&Meta>) -> Option<Vec<(EdgeId, Reservation)>> {
        if !self.admits(stage, input) {
            return None;
        }
        let estimate = self.stages[stage.index()].estimate.of(input);
        let edges = edges_behind(&self.plan, stage);
        Some(edges.into_iter().map(|edge| (edge, self.queues[edge.index()].reserve(estimate))).collect())
    }

    pub(super) fn admits(&self, stage: StageId, input: Option<&Meta>) -> bool {
        let estimate = self.stages[stage.index()].estimate.of(input);
        let ports = &self.plan.stage(stage).ports;
        ports.iter().flat_map(|port| &port.edges).all(|edge| self.queues[edge.index()].admits(estimate))
    }

    /// Whether the stage has consumers and none of them wants anything more.
    pub(super) fn is_unwanted(&self, stage: StageId) -> bool {
        let mut edges = self.plan.stage(stage).ports.iter().flat_map(|port| &port.edges).peekable();
        edges.peek().is_some() && edges.all(|edge| self.queues[edge.index()].is_closed())
    }

    /// Corrects the reservations of a batch whose outputs are known.
    pub(super) fn correct(
        &mut self,
        stage: StageId,
        reservations: &mut [(EdgeId, Reservation)],
        bytes: impl Fn(usize) -> u64,
    ) {
        for (edge, reservation) in reservations {
            let port = self.plan.edge(*edge).port;
            self.queues[edge.index()].correct(reservation, bytes(port));
        }
        self.touch(stage);
    }

    /// Publishes one batch on one port. The reservations of the port's edges are taken out of `reservations`, and released when
    /// the executor has put the batch on the edges.
    pub(super) fn publish(
        &mut self,
        stage: StageId,
        port: usize,
        rows: u64,
        reservations: &mut Vec<(EdgeId, Reservation)>,
        action: Action,
    ) {
        let plan = Arc::clone(&self.plan);
        let mine = reservations.extract_if(.., |(edge, _)| plan.edge(*edge).port == port).collect();
        for edge in &plan.stage(stage).ports[port].edges {
            self.queues[edge.index()].published_rows += rows;
        }
        self.stages[stage.index()].publishing.push_back(mine);
        self.actions.push(action);
    }

    /// Gives back the places of ports that got no batch.
    pub(super) fn release(&mut self, stage: StageId, reservations: Vec<(EdgeId, Reservation)>) {
        for (edge, reservation) in reservations {
            self.queues[edge.index()].release(reservation);
        }
        self.touch(stage);
    }

    fn queued(&mut self, stage: StageId, queued: &[QueuedPieces]) {
        let reservations = self.stages[stage.index()].publishing.pop_front().unwrap_or_default();
        self.release(stage, reservations);
        self.push(queued);
    }

    fn push(&mut self, queued: &[QueuedPieces]) {
        for pieces in queued {
            let queue = &mut self.queues[pieces.edge.index()];
            if queue.is_closed() {
                self.actions.extend(pieces.pieces.iter().map(|piece| Action::Release { batch: piece.id }));
                continue;
            }
            queue.push(pieces);
            self.touch(self.plan.edge(pieces.edge).to);
        }
    }

    /// The stage publishes nothing more: asks for the last pieces of its edges.
    pub(super) fn finish_ports(&mut self, stage: StageId) {
        self.stages[stage.index()].phase = Phase::Finishing;
        self.finishing += 1;
        self.actions.push(Action::FinishPorts { stage });
    }

    fn ports_finished(&mut self, stage: StageId, queued: &[QueuedPieces]) {
        self.push(queued);
        for edge in edges_behind(&self.plan, stage) {
            self.queues[edge.index()].end();
            self.touch(self.plan.edge(edge).to);
        }
        self.stages[stage.index()].phase = Phase::Ended;
        self.finishing -= 1;
        self.ended += 1;
        for follower in std::mem::take(&mut self.followers[stage.index()]) {
            let awaited = &mut self.stages[follower.index()].awaited;
            *awaited -= 1;
            if *awaited == 0 {
                self.begin(follower);
            }
        }
        self.enter(stage, Activity::Over);
        let account = self.stages[stage.index()].account.clone();
        self.actions.push(Action::Emit(RunEvent::StageEnded { stage, account }));
    }

    /// A consumer wants no more of one of its inputs: what is queued is dropped, and so is what still comes.
    pub(super) fn close_input(&mut self, stage: StageId, input: usize) {
        if let Work::Resident(resident) = &mut self.stages[stage.index()].work {
            resident.inputs[input] = ResidentInput::Over;
        }
        for edge in self.plan.stage(stage).inputs[input].members.clone() {
            let dropped = self.queues[edge.index()].close();
            self.actions.extend(dropped.into_iter().map(|meta| Action::Release { batch: meta.id }));
            self.touch(self.plan.edge(edge).from);
        }
        self.touch(stage);
    }

    pub(super) fn enter(&mut self, stage: StageId, activity: Activity) {
        let now = self.now;
        let state = &mut self.stages[stage.index()];
        state.clock.enter(activity, now, &mut state.account);
    }

    pub(super) fn fail(&mut self, failure: StageFailure) {
        self.finish(Ending::Failed(Box::new(failure)));
    }

    /// The first interrupt lets what runs come to its end; the second one does not.
    fn interrupted(&mut self) {
        if self.state != State::Running || self.is_drained() {
            self.finish(Ending::Interrupted);
            return;
        }
        let attempts = self.running.values().filter(|running| is_at_work(running)).count();
        self.state = State::Draining { until: self.now.saturating_add(GRACE) };
        self.actions.push(Action::Emit(RunEvent::Draining { attempts, grace: GRACE }));
    }

    fn end_if_drained(&mut self) {
        if let State::Draining { until } = self.state
            && (self.now >= until || self.is_drained())
        {
            self.finish(Ending::Interrupted);
        }
    }

    /// Whether no code of the user runs.
    fn is_drained(&self) -> bool {
        !self.running.values().any(is_at_work)
    }

    /// Until when what runs may go on after an interrupt.
    pub(super) fn drains_until(&self) -> Option<Duration> {
        match self.state {
            State::Draining { until } => Some(until),
            _ => None,
        }
    }

    fn finish(&mut self, ending: Ending) {
        if self.state == State::Over {
            return;
        }
        // An interrupt came before whatever has failed meanwhile.
        let ending = if self.drains_until().is_some() { Ending::Interrupted } else { ending };
        self.state = State::Over;
        for index in 0..self.stages.len() {
            self.enter(StageId(index as u32), Activity::Over);
        }
        self.actions.push(Action::Finish(ending));
    }

    fn check_end(&mut self) {
        if self.ended == self.stages.len() {
            let differences = self.differences();
            if differences.is_empty() {
                self.state = State::Committing;
                self.actions.push(Action::Commit);
            } else {
                self.finish(Ending::AccountsDiffer(differences));
            }
        } else if self.is_stuck() {
            let waiting = self.waiting();
            self.finish(Ending::Stuck(waiting));
        }
    }

    fn differences(&self) -> Vec<AccountDifference> {
        let open = self.queues.iter().zip(&self.plan.edges).filter(|(queue, _)| !queue.is_closed());
        open.filter(|(queue, _)| queue.published_rows != queue.consumed_rows)
            .map(|(queue, edge)| AccountDifference {
                edge: edge.id,
                published: queue.published_rows,
                consumed: queue.consumed_rows,
            })
            .collect()
    }

    /// Nothing runs, and so nothing will ever happen: not a matter of time.
    fn is_stuck(&self) -> bool {
        let at_work =
            self.finishing > 0 || !self.resting.is_empty() || self.pool.total_starting() > 0 || self.pool.has_retired();
        self.running.is_empty() && !at_work && self.stages.iter().all(StageState::is_quiet)
    }

    fn waiting(&self) -> Vec<String> {
        let waiting = self.stages.iter().zip(&self.plan.stages).filter(|(state, _)| state.phase != Phase::Ended);
        waiting.map(|(state, stage)| format!("`{}`: {:?}", stage.name, state.clock.activity())).collect()
    }

    /// The accounts of all stages and edges, as they stand.
    pub fn accounts(&self) -> (Vec<StageAccount>, Vec<EdgeAccount>) {
        let stages = self.stages.iter().map(|state| state.account.clone()).collect();
        let edges = self.queues.iter().map(|queue| EdgeAccount {
            published: queue.published_rows,
            consumed: queue.consumed_rows,
            closed_early: queue.is_closed(),
        });
        (stages, edges.collect())
    }

    pub fn workers_started(&self) -> u32 {
        self.workers_started
    }

    /// What the run is doing right now, for the live views.
    pub fn snapshot(&self) -> Snapshot {
        let stages = self.stages.iter().zip(&self.plan.stages).map(|(state, stage)| StageSnapshot {
            stage: stage.id,
            rows_in: state.account.rows_in,
            rows_out: state.account.rows_out,
            rejected: state.account.rejected + state.account.skipped,
            retries: state.account.retries,
            running: state.running(),
            queue_fill: stage
                .inputs
                .iter()
                .flat_map(|input| &input.members)
                .map(|edge| self.queues[edge.index()].fill())
                .fold(0.0, f64::max),
            activity: state.clock.activity(),
        });
        Snapshot { stages: stages.collect(), workers: self.busy_slots }
    }
}

/// Where an attempt could run right now.
#[derive(Clone, Copy, Debug)]
pub enum Place {
    Native,
    Process,
    /// When a process that runs has ended.
    NextProcess,
    Worker(ClassId),
    /// In the worker that has the lane's state, or is to get it. It is idle.
    Pinned {
        lane: usize,
        worker: WorkerId,
    },
    /// With a worker that runs another attempt.
    Behind(WorkerId),
}

/// What a run is doing at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// By [`StageId`].
    pub stages: Vec<StageSnapshot>,
    /// Workers and processes that run an attempt.
    pub workers: u32,
}

#[derive(Clone, Debug)]
pub struct StageSnapshot {
    pub stage: StageId,
    pub rows_in: u64,
    pub rows_out: u64,
    /// Rows rejected or skipped.
    pub rejected: u64,
    pub retries: u64,
    /// Attempts running now; 1 for a resident stage that works.
    pub running: u32,
    /// The fullest queue in front of the stage, 0 to 1.
    pub queue_fill: f64,
    pub activity: Activity,
}

impl StageFailure {
    /// A failure that no particular rows are to blame for.
    pub fn of_stage(stage: StageId, failure: Failure) -> Self {
        Self { stage, sequence: None, rows: None, attempts: 1, failure }
    }
}

impl StageState {
    fn is_quiet(&self) -> bool {
        self.publishing.is_empty()
            && match &self.work {
                Work::Resident(resident) => {
                    let fed = resident.inputs.iter().any(|input| matches!(input, ResidentInput::Fed(..)));
                    // A resident stage that was told that an input is over, or that nobody wants its output, is at work.
                    let ending = self.phase == Phase::Running
                        && (resident.closing || resident.inputs.iter().all(|input| *input == ResidentInput::Over))
                        && !resident.inputs.is_empty();
                    resident.pull.is_none() && !fed && !(ending || resident.closing && self.phase == Phase::Running)
                }
                Work::Jobs(_) | Work::Keyed(_) => true,
            }
    }

    fn running(&self) -> u32 {
        match &self.work {
            Work::Jobs(jobs) => jobs.running,
            Work::Keyed(keyed) => keyed.running(),
            Work::Resident(resident) => {
                let fed = resident.inputs.iter().any(|input| matches!(input, ResidentInput::Fed(..)));
                u32::from(resident.pull.is_some() || fed)
            }
        }
    }
}

fn new_stage(stage: &crate::plan::Stage, plan: &Plan, classes: &Classes) -> StageState {
    let role = Role::of(stage, classes);
    let work = match role {
        Role::Resident => {
            Work::Resident(Resident { inputs: vec![ResidentInput::Waiting; stage.inputs.len()], ..Resident::default() })
        }
        Role::Map(_) | Role::Generator(_) | Role::Task => Work::Jobs(Jobs::default()),
        Role::Keyed(_) => Work::Keyed(Keyed::new(plan.lanes(stage))),
    };
    let inputs = stage.inputs.iter().map(|input| InputState { members: input.members.clone(), current: 0 });
    StageState {
        role,
        inputs: inputs.collect(),
        phase: Phase::Running,
        awaited: stage.after.len(),
        work,
        publishing: std::collections::VecDeque::new(),
        need: need(stage, plan, role),
        available: 0,
        estimate: Estimate::default(),
        sight: Sight::of(stage, role),
        pace: Pace::default(),
        durations: super::stage_state::Durations::default(),
        account: StageAccount::default(),
        clock: super::clock::StageClock::default(),
    }
}

/// Whether an attempt runs code of the user's, or is about to: what was sent to a worker cannot be taken back.
fn is_at_work(running: &Running) -> bool {
    running.host != Host::Native && !running.waits
}

/// What an attempt of the stage takes. A process that is given little may be asked for before there is a slot for it; not if its stage
/// may have fewer attempts at once than there are slots.
fn need(stage: &crate::plan::Stage, plan: &Plan, role: Role) -> Need {
    match &stage.kind {
        _ if role.is_native() => Need::Thread,
        StageKind::Command(command)
            if matches!(command.mode, CommandMode::Row | CommandMode::Once)
                && stage.workers.max.get() >= plan.workers =>
        {
            Need::SlotSoon
        }
        _ => Need::Slot,
    }
}

/// All edges behind a stage, of all its ports.
pub fn edges_behind(plan: &Plan, stage: StageId) -> Vec<EdgeId> {
    plan.stage(stage).ports.iter().flat_map(|port| port.edges.iter().copied()).collect()
}

/// A batch that the scheduler needs no more.
pub fn release(batch: BatchId) -> Action {
    Action::Release { batch }
}
