//! The pool as the scheduler knows it: classes of interchangeable workers, and what each worker is doing.

use std::collections::{BTreeMap, BTreeSet};

use super::event::ExitCause;
use super::{AttemptId, WorkerId};
use crate::plan::{Plan, PythonTarget, Stage, StageId, StageKind};

/// Index of a class of interchangeable workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClassId(pub usize);

/// Workers that can run the same stages: same environment variables, same working directory, same memory, same devices. A stage with a class or
/// with state, or a generator, has workers of its own, so that its state is where it expects it and no more often than `workers` says.
#[derive(Clone, Debug)]
pub struct Class {
    /// A stage of the class; its `env` and `cwd` are those of all its workers.
    pub stage: StageId,
    /// Workers that the class may have.
    pub limit: u32,
}

/// Which class serves which Python stage.
#[derive(Clone, Debug, Default)]
pub struct Classes {
    pub classes: Vec<Class>,
    of_stage: BTreeMap<StageId, ClassId>,
}

impl Classes {
    pub fn new(plan: &Plan) -> Self {
        let mut classes = Self::default();
        let mut shared = BTreeMap::new();
        for stage in &plan.stages {
            let StageKind::Python(python) = &stage.kind else { continue };
            let own = python.is_source || stage.has_state() || python.target == PythonTarget::Class;
            let limit = if own { own_limit(plan, stage, python.is_source) } else { plan.workers };
            let limit = limit.min(plan.workers_with_devices(stage));
            let class = if own {
                classes.add(stage.id, limit)
            } else {
                *shared.entry(stage.worker_traits()).or_insert_with(|| classes.add(stage.id, limit))
            };
            classes.of_stage.insert(stage.id, class);
        }
        classes
    }

    fn add(&mut self, stage: StageId, limit: u32) -> ClassId {
        self.classes.push(Class { stage, limit });
        ClassId(self.classes.len() - 1)
    }

    pub fn of(&self, stage: StageId) -> Option<ClassId> {
        self.of_stage.get(&stage).copied()
    }

    pub fn get(&self, class: ClassId) -> &Class {
        &self.classes[class.0]
    }
}

fn own_limit(plan: &Plan, stage: &Stage, is_source: bool) -> u32 {
    match is_source {
        true => 1,
        false if stage.has_state() => plan.lanes(stage),
        false => stage.workers.max.get(),
    }
}

/// The life of one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerState {
    Starting,
    Idle,
    /// `next` is with the worker already, which begins it at once when the other has ended.
    Running {
        attempt: AttemptId,
        next: Option<AttemptId>,
    },
}

/// All workers that live or are being started.
#[derive(Debug)]
pub struct Pool {
    workers: BTreeMap<WorkerId, (ClassId, WorkerState)>,
    classes: Vec<ClassState>,
    /// Workers that live but are given nothing more.
    retired: BTreeSet<WorkerId>,
    next: u32,
}

#[derive(Clone, Debug, Default)]
struct ClassState {
    idle: BTreeSet<WorkerId>,
    starting: u32,
    alive: u32,
    failed_starts: u32,
    /// Workers before this one had been started when the last failed start was counted.
    failed_before: u32,
}

impl Pool {
    pub fn new(classes: usize) -> Self {
        Self {
            workers: BTreeMap::new(),
            classes: vec![ClassState::default(); classes],
            retired: BTreeSet::new(),
            next: 0,
        }
    }

    /// Takes an idle worker for an attempt.
    pub fn take(&mut self, class: ClassId, attempt: AttemptId) -> Option<WorkerId> {
        // The lowest id: the same few workers are used again, so that what they have loaded stays warm.
        let worker = self.classes[class.0].idle.pop_first()?;
        self.workers.insert(worker, (class, WorkerState::Running { attempt, next: None }));
        Some(worker)
    }

    /// Takes this worker, which is idle, for an attempt.
    pub fn take_worker(&mut self, class: ClassId, worker: WorkerId, attempt: AttemptId) {
        self.classes[class.0].idle.remove(&worker);
        self.workers.insert(worker, (class, WorkerState::Running { attempt, next: None }));
    }

    pub fn idle_workers(&self, class: ClassId) -> impl Iterator<Item = WorkerId> {
        self.classes[class.0].idle.iter().copied()
    }

    pub fn is_idle(&self, class: ClassId, worker: WorkerId) -> bool {
        self.classes[class.0].idle.contains(&worker)
    }

    /// Gives a worker that runs an attempt the one to go on with.
    pub fn queue_behind(&mut self, worker: WorkerId, attempt: AttemptId) {
        if let Some((_, WorkerState::Running { next, .. })) = self.workers.get_mut(&worker) {
            *next = Some(attempt);
        }
    }

    /// An attempt is over, or was never sent. Returns the one that its worker goes on with, or has been going on with.
    pub fn end(&mut self, worker: WorkerId, ended: AttemptId) -> Option<AttemptId> {
        let Some((_, WorkerState::Running { attempt, next })) = self.workers.get_mut(&worker) else { return None };
        if *attempt != ended {
            next.take_if(|next| *next == ended);
            return Some(*attempt);
        }
        match next.take() {
            Some(next) => *attempt = next,
            None => {
                self.make_idle(worker);
                return None;
            }
        }
        Some(*attempt)
    }

    /// Workers of a class that run an attempt and have none to go on with.
    pub fn without_next(&self, class: ClassId) -> impl Iterator<Item = (WorkerId, AttemptId)> {
        self.workers.iter().filter_map(move |(&worker, (of, state))| match state {
            WorkerState::Running { attempt, next: None } if *of == class && !self.retired.contains(&worker) => {
                Some((worker, *attempt))
            }
            _ => None,
        })
    }

    pub fn has_idle(&self, class: ClassId) -> bool {
        !self.classes[class.0].idle.is_empty()
    }

    pub fn idle(&self, class: ClassId) -> u32 {
        self.classes[class.0].idle.len() as u32
    }

    /// Workers that live or are being started.
    pub fn alive(&self, class: ClassId) -> u32 {
        self.classes[class.0].alive
    }

    pub fn starting(&self, class: ClassId) -> u32 {
        self.classes[class.0].starting
    }

    pub fn total_starting(&self) -> u32 {
        self.classes.iter().map(|class| class.starting).sum()
    }

    pub fn start(&mut self, class: ClassId) -> WorkerId {
        let worker = WorkerId(self.next);
        self.next += 1;
        self.workers.insert(worker, (class, WorkerState::Starting));
        let state = &mut self.classes[class.0];
        state.starting += 1;
        state.alive += 1;
        worker
    }

    /// A started worker answered, or finished an attempt.
    pub fn make_idle(&mut self, worker: WorkerId) {
        let Some((class, state)) = self.workers.get_mut(&worker) else { return };
        let class_state = &mut self.classes[class.0];
        if *state == WorkerState::Starting {
            class_state.starting -= 1;
            class_state.failed_starts = 0;
        }
        *state = WorkerState::Idle;
        if !self.retired.contains(&worker) {
            class_state.idle.insert(worker);
        }
    }

    /// A worker is given nothing more: it ends when what it works on is done.
    pub fn retire(&mut self, worker: WorkerId) {
        if let Some((class, _)) = self.workers.get(&worker) {
            self.classes[class.0].idle.remove(&worker);
            self.retired.insert(worker);
        }
    }

    /// Workers that run nothing.
    pub fn all_idle(&self) -> impl Iterator<Item = WorkerId> {
        self.classes.iter().flat_map(|class| class.idle.iter().copied())
    }

    /// Workers that live but are given nothing more.
    pub fn retired(&self) -> impl Iterator<Item = WorkerId> {
        self.retired.iter().copied()
    }

    pub fn has_retired(&self) -> bool {
        !self.retired.is_empty()
    }

    /// Forgets a worker; returns its class, what it was doing, and how many starts have failed in a row. Workers that fell
    /// together with the engine's template failed once, however many were being started.
    pub fn remove(&mut self, worker: WorkerId, cause: ExitCause) -> Option<(ClassId, WorkerState, u32)> {
        let (class, state) = self.workers.remove(&worker)?;
        self.retired.remove(&worker);
        let class_state = &mut self.classes[class.0];
        class_state.alive -= 1;
        class_state.idle.remove(&worker);
        if state == WorkerState::Starting {
            class_state.starting -= 1;
            if cause == ExitCause::Own || worker.0 >= class_state.failed_before {
                class_state.failed_starts += 1;
                class_state.failed_before = self.next;
            }
        }
        Some((class, state, class_state.failed_starts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Starts a worker for each cause, lets all of them fall, and returns the failed starts that were counted.
    fn failed_starts(pool: &mut Pool, causes: &[ExitCause]) -> u32 {
        let workers: Vec<_> = causes.iter().map(|cause| (pool.start(ClassId(0)), *cause)).collect();
        let counts = workers.into_iter().map(|(worker, cause)| pool.remove(worker, cause).expect("it was started").2);
        counts.last().expect("at least one")
    }

    #[test]
    fn workers_that_fall_with_their_template_failed_once() {
        let mut pool = Pool::new(1);
        assert_eq!(failed_starts(&mut pool, &[ExitCause::Engine; 4]), 1);
        assert_eq!(failed_starts(&mut pool, &[ExitCause::Engine; 4]), 2);
        assert_eq!(failed_starts(&mut pool, &[ExitCause::Own; 2]), 4);
    }

    #[test]
    fn replacements_started_while_the_others_still_fall_do_not_hide_a_template_that_always_dies() {
        let mut pool = Pool::new(1);
        let mut starting = std::collections::VecDeque::from([(); 3].map(|()| pool.start(ClassId(0))));
        let mut failed = 0;
        for _ in 0..9 {
            let worker = starting.pop_front().expect("three are starting");
            starting.push_back(pool.start(ClassId(0)));
            failed = pool.remove(worker, ExitCause::Engine).expect("it was started").2;
        }
        assert!(failed >= 2, "{failed}");
    }
}
