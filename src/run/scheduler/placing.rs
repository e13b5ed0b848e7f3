//! Placing: which stage begins an attempt next, and where it runs.

use super::action::Action;
use super::scheduler::Scheduler;
use super::stage_state::Role;
use super::worker_state::ClassId;
use super::{AttemptId, WorkerId};
use crate::plan::StageId;

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

impl Scheduler {
    /// Begins one attempt of the deepest ready stage for which there is a place; starts workers where they are missing.
    /// Returns whether anything changed.
    pub(super) fn assign(&mut self) -> bool {
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
            let lacks_devices = self.start_workers(stage, class, &mut wanted);
            // Not while a worker that has them is about to go on.
            if lacks_devices && found.is_none() {
                self.make_room_for_worker(stage);
            }
        }
        if found.is_none() {
            self.make_room_for_attempts();
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
        let stage = self.plan.stage(stage);
        // What an attempt uses it has from when it is sent, and it is to work with it; and no attempt is to come behind a worker's last one.
        is_map && stage.uses.is_empty() && stage.recycle.batches.is_none() && state.durations.are_short()
    }

    /// Starts as many workers as the stage has batches to work on, within the limits of its class and of the run. Returns whether one lacks
    /// the devices that it is to have.
    fn start_workers(&mut self, stage: StageId, class: ClassId, wanted: &mut u32) -> bool {
        let missing = match self.stages[stage.index()].role {
            Role::Keyed(_) => self.lanes_without_worker(stage),
            _ => self.runnable(stage),
        };
        let missing = missing.saturating_sub(self.pool.starting(class));
        let room = self.classes.get(class).limit.saturating_sub(self.pool.alive(class));
        for _ in 0..missing.min(room).min(*wanted) {
            if !self.has_devices_for_worker(stage) {
                return true;
            }
            *wanted -= 1;
            self.start_worker(stage, class);
        }
        false
    }

    /// Starts the workers that a stage is to have before its first batch comes.
    pub(super) fn start_first_workers(&mut self, stage: StageId, class: ClassId) {
        let most = self.plan.stage(stage).workers.min.min(self.classes.get(class).limit);
        while self.pool.alive(class) < most && self.has_devices_for_worker(stage) {
            self.start_worker(stage, class);
        }
    }

    fn start_worker(&mut self, stage: StageId, class: ClassId) {
        let worker = self.pool.start(class);
        self.workers_started += 1;
        let devices = self.hold_devices(worker, stage);
        self.actions.push(Action::StartWorker { worker, class, devices });
    }
}
