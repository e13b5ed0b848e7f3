//! [`Scheduler`]: the state of a run, and the one function that changes it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::action::{Action, Host};
use super::clock::Activity;
use super::event::{Awaited, Event, Failure, Meta, QueuedPieces, Scope};
use super::jobs::Given;
use super::keyed::Keyed;
use super::queue::{Queue, Reservation};
use super::ready::{Need, Ready};
use super::resources::Resources;
use super::rest::Resting;
use super::slices::{Pace, Sight};
use super::stage_state::{
    Estimate, InputState, Jobs, MapHost, Phase, Resident, ResidentInput, Role, SliceId, StageState, Work,
};
use super::worker_state::{Classes, Pool};
use super::{AttemptId, BatchId};
use crate::plan::{CommandMode, EdgeId, Order, Plan, StageId, StageKind, Verdict};
use crate::run::{AccountDifference, Ending, RunEvent, StageAccount, StageFailure};

/// The pure scheduler of one run.
#[derive(Debug)]
pub struct Scheduler {
    pub(super) plan: Arc<Plan>,
    pub(super) classes: Classes,
    pub(super) stages: Vec<StageState>,
    pub(super) queues: Vec<Queue>,
    pub(super) pool: Pool,
    pub(super) running: BTreeMap<AttemptId, Running>,
    /// Those of them that wait for others, for as long as it takes, and what each waits for.
    pub(super) standing_still: BTreeMap<AttemptId, Awaited>,
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
    pub(super) waiting: VecDeque<AttemptId>,
    /// How many of the slots are taken by processes.
    pub(super) busy_processes: u32,
    pub(super) next_attempt: u64,
    pub(super) workers_started: u32,
    /// What is tried again later, and when.
    pub(super) resting: BTreeSet<(Duration, Resting)>,
    pub(super) resources: Resources,
    /// Stages in [`Phase::Finishing`].
    finishing: usize,
    ended: usize,
    pub(super) state: State,
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
    /// Rows for which it has taken what its stage `uses`; `None` if it has taken nothing.
    pub taken_rows: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
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
        let resources = Resources::new(&plan);
        Self {
            plan,
            resources,
            classes,
            stages,
            queues,
            pool,
            running: BTreeMap::new(),
            standing_still: BTreeMap::new(),
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
        match self.stages[stage.index()].role {
            Role::Resident => self.actions.push(Action::Start { stage }),
            Role::Map(MapHost::Worker(class)) => self.start_first_workers(stage, class),
            Role::Map(_) | Role::Generator(_) | Role::Keyed(_) | Role::Task => {}
        }
        self.touch(stage);
    }

    /// Applies one event and returns what is to be done next. After the run is over, events change nothing.
    pub fn handle(&mut self, event: Event, now: Duration) -> Vec<Action> {
        self.now = now;
        if self.state != State::Over {
            self.wake();
            self.look_at_resources();
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
            Event::Produced { stage, outputs, unread } => self.resident_produced(stage, &outputs, unread),
            Event::Taken { stage, input, rows } => self.resident_took(stage, input, rows),
            Event::InputClosed { stage, input } => self.close_input(stage, input),
            Event::Ended { stage } => self.resident_ended(stage),
            Event::StageFailed { stage, failure } => self.fail(StageFailure::of_stage(stage, failure)),
            Event::Queued { stage, queued } => self.queued(stage, &queued),
            Event::PortsFinished { stage, queued } => self.ports_finished(stage, &queued),
            Event::SinkPublished { stage } => self.sink_published(stage),
            Event::AttemptDone { attempt, rows, outputs, end, spent, failed } => {
                self.attempt_done(attempt, Given { rows, outputs, end, spent, failed });
            }
            Event::AttemptWaits { attempt } => self.attempt_waits(attempt),
            Event::AttemptStandsStill { attempt, on } => {
                if self.running.contains_key(&attempt) {
                    self.standing_still.insert(attempt, on);
                }
            }
            Event::AttemptGoesOn { attempt } => drop(self.standing_still.remove(&attempt)),
            Event::AttemptFailed { attempt, failure } => self.attempt_failed(attempt, failure),
            Event::AttemptThrottled { attempt, wait, failure } => self.attempt_throttled(attempt, wait, failure),
            Event::AttemptLost { attempt, failure } => self.attempt_lost(attempt, failure),
            Event::Opened { stage, at_once } => self.opened(stage, at_once),
            Event::WorkerReady { worker } => {
                self.pool.make_idle(worker);
            }
            Event::WorkerRetired { worker } => self.pool.retire(worker),
            Event::WorkerExited { worker, failure, cause } => self.worker_exited(worker, failure, cause),
            Event::Recalled { stage, sequence, known } => self.recalled(stage, sequence, known),
            Event::Kept { stage, sequence, outputs } => self.kept(stage, sequence, outputs),
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

    /// Takes the next batch of an input, in the order of its members.
    pub(super) fn take(&mut self, stage: StageId, input: usize) -> Option<(EdgeId, Meta)> {
        let edge = self.current_edge(stage, input)?;
        let meta = self.queues[edge.index()].pop()?;
        self.touch(self.plan.edge(edge).from);
        Some((edge, meta))
    }

    /// The edge that the input's next batch comes from; `None` when the input is exhausted.
    pub(super) fn current_edge(&mut self, stage: StageId, input: usize) -> Option<EdgeId> {
        let is_any = self.plan.stage(stage).order == Order::Any;
        let input = &mut self.stages[stage.index()].inputs[input];
        if is_any && input.members.len() > 1 {
            return input.any(&self.queues);
        }
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
        for edge in plan.stage(stage).ports.get(port).into_iter().flat_map(|port| &port.edges) {
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
        if !self.plan.stage(stage).publishes_early() {
            self.end_stage(stage);
        } else if self.state == State::Running {
            let differences = self.differences(self.edges_before(stage));
            if differences.is_empty() {
                self.actions.push(Action::PublishSink { stage });
            } else {
                self.finish(Ending::AccountsDiffer(differences));
            }
        }
    }

    /// The sinks that are published already.
    pub fn published_early(&self) -> Vec<StageId> {
        let ended = self.plan.stages.iter().zip(&self.stages).filter(|(_, state)| state.phase == Phase::Ended);
        ended.filter(|(stage, _)| stage.publishes_early()).map(|(stage, _)| stage.id).collect()
    }

    fn sink_published(&mut self, stage: StageId) {
        self.actions.push(Action::Emit(RunEvent::SinkPublished { stage }));
        self.end_stage(stage);
    }

    /// Nothing comes of the stage any more: those that have waited for its end begin.
    fn end_stage(&mut self, stage: StageId) {
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
        self.tell_throttled(stage);
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

    pub(super) fn finish(&mut self, ending: Ending) {
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
            let differences = self.differences(self.plan.edges.iter().map(|edge| edge.id));
            if differences.is_empty() {
                self.state = State::Committing;
                self.actions.push(Action::Commit);
            } else {
                self.finish(Ending::AccountsDiffer(differences));
            }
        } else if self.is_stuck() {
            match self.standing_still.first_key_value() {
                None => {
                    let waiting = self.waiting();
                    self.finish(Ending::Stuck(waiting));
                }
                Some((first, _)) => self.fail_as_all_stand_still(*first),
            }
        }
    }

    /// Those of these edges, whose producers have ended, on which both ends have counted something else.
    fn differences(&self, edges: impl IntoIterator<Item = EdgeId>) -> Vec<AccountDifference> {
        let counted = edges.into_iter().map(|edge| (edge, &self.queues[edge.index()]));
        let open = counted.filter(|(_, queue)| !queue.is_closed());
        open.filter(|(_, queue)| queue.published_rows != queue.consumed_rows)
            .map(|(edge, queue)| AccountDifference {
                edge,
                published: queue.published_rows,
                consumed: queue.consumed_rows,
            })
            .collect()
    }

    /// The edges by which the rows of a stage have come. What is in front of one that was closed may still be at work.
    fn edges_before(&self, stage: StageId) -> Vec<EdgeId> {
        let mut edges = Vec::new();
        let mut open = vec![stage];
        let mut seen = BTreeSet::from([stage]);
        while let Some(stage) = open.pop() {
            for &edge in self.plan.stage(stage).inputs.iter().flat_map(|input| &input.members) {
                edges.push(edge);
                let from = self.plan.edge(edge).from;
                if !self.queues[edge.index()].is_closed() && seen.insert(from) {
                    open.push(from);
                }
            }
        }
        edges
    }

    /// Nothing goes on any more, as all that runs waits for locks, events or barriers.
    fn fail_as_all_stand_still(&mut self, first: AttemptId) {
        let stage = self.running[&first].stage;
        let mut barriers: BTreeMap<&str, (usize, u32)> = BTreeMap::new();
        let mut waits = Vec::new();
        for Awaited { worker, name, parties } in self.standing_still.values() {
            waits.push(format!("worker {} waits for {name}", worker.0));
            if let Some(parties) = parties {
                barriers.entry(name).or_insert((0, *parties)).0 += 1;
            }
        }
        let lacks = barriers.iter().map(|(name, (come, all))| format!("; {come} of {all} have come to {name}"));
        let (waits, lacks) = (waits.join(", "), lacks.collect::<String>());
        let message = format!("nothing goes on: {waits}{lacks}, and nothing else runs that could end it");
        // As of a deadlock that shows at once: no time is over.
        let failure = Failure { verdict: Verdict::Exception, scope: Scope::Opening, message, traceback: String::new() };
        self.fail(StageFailure::of_stage(stage, failure));
    }

    /// Nothing runs, and so nothing will ever happen: not a matter of time.
    fn is_stuck(&self) -> bool {
        let begun = self.running.values().filter(|running| running.since.is_some()).count();
        let at_work = begun > self.standing_still.len()
            || self.finishing > 0
            || !self.resting.is_empty()
            || self.pool.total_starting() > 0
            || self.pool.has_retired()
            || self.resources_at().is_some();
        !at_work && self.stages.iter().all(StageState::is_quiet)
    }
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
                Work::Jobs(jobs) => jobs.recalling == 0 && jobs.keeping == 0,
                Work::Keyed(_) => true,
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
        first_failed: None,
        throttling: super::throttling::Throttling::default(),
        clock: super::clock::StageClock::default(),
    }
}

/// What an attempt of the stage takes. A process that is given little may be asked for before there is a slot for it; not if its stage
/// may have fewer attempts at once than there are slots.
fn need(stage: &crate::plan::Stage, plan: &Plan, role: Role) -> Need {
    match &stage.kind {
        _ if role.is_native() => Need::Thread,
        StageKind::Command(command)
            if matches!(command.mode, CommandMode::Row | CommandMode::Once)
                && stage.workers.max.get() >= plan.workers
                && stage.uses.is_empty() =>
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
