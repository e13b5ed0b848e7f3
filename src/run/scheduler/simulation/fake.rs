//! [`Fake`]: an executor that does nothing but keep rows, and answers in random order.

mod attempts;
mod edges;
mod faults;
mod recalls;
mod residents;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;
use proptest::test_runner::TestRng;

pub use edges::FakeCutter;

use super::shape::{Kind, MapKind, Shape, comparable, expected, is_poison};
use crate::plan::{CommandMode, EdgeId, Plan, StageId, StageKind, Verdict};
use crate::run::Ending;
use crate::run::scheduler::*;

/// How often something else goes before what a slow stage does.
const SLOWNESS: u32 = 6;

/// What there was of some things in all histories: they are only proven if they happen.
pub static JOINS: AtomicU64 = AtomicU64::new(0);
pub static SKIPPED: AtomicU64 = AtomicU64::new(0);
pub static QUEUED: AtomicU64 = AtomicU64::new(0);
pub static RECALLED: AtomicU64 = AtomicU64::new(0);
pub static KEPT: AtomicU64 = AtomicU64::new(0);
pub static PARTLY: AtomicU64 = AtomicU64::new(0);
pub static THROTTLED: AtomicU64 = AtomicU64::new(0);
pub static PUBLISHED_EARLY: AtomicU64 = AtomicU64::new(0);
/// Rows that sources could not read.
pub static UNREAD: AtomicU64 = AtomicU64::new(0);
/// Rows that have changed the state of the run.
pub static UPDATED: AtomicU64 = AtomicU64::new(0);

pub struct Fake<'a> {
    pub shapes: &'a [Shape],
    pub plan: &'a Plan,
    pub rng: TestRng,
    pub batches: BTreeMap<BatchId, Vec<u64>>,
    /// Bytes of every batch that was ever made, and the edge that it was put on, or the port it was given on.
    pub weights: BTreeMap<BatchId, u64>,
    pub on_edge: BTreeMap<BatchId, EdgeId>,
    pub given: BTreeMap<BatchId, (StageId, usize)>,
    pub attempts: BTreeMap<AttemptId, StageId>,
    pub next_batch: u64,
    /// What will happen, in any order but within one lane, which is first in, first out.
    pub lanes: BTreeMap<Lane, Vec<Event>>,
    pub busy: BTreeMap<AttemptId, Host>,
    /// Attempts that were sent ahead, and how each will end when it has had a slot.
    pub waiting: VecDeque<(AttemptId, Event)>,
    /// Workers that live.
    pub workers: BTreeSet<WorkerId>,
    /// What workers have besides the attempt that they run.
    pub behind: BTreeMap<WorkerId, Dispatch>,
    /// Stages that workers have prepared.
    pub opened: BTreeSet<(WorkerId, StageId)>,
    /// What slices have given.
    pub parts: BTreeSet<BatchId>,
    /// Attempts that are not killed: those of one row, and the last ones of generators' batches.
    pub single: BTreeSet<AttemptId>,
    pub pulls: BTreeMap<(StageId, u64), u32>,
    pub residents: BTreeMap<StageId, FakeResident>,
    pub cutters: BTreeMap<EdgeId, FakeCutter>,
    pub sinks: BTreeMap<StageId, Vec<u64>>,
    pub tasks: BTreeSet<StageId>,
    /// Rejected rows that nobody reads.
    pub recorded: BTreeMap<StageId, Vec<u64>>,
    /// Workers that have the state of a lane, and the job that is next in it.
    pub states: BTreeMap<WorkerId, (StageId, u32, u64)>,
    /// Workers that will still be killed.
    pub kills: u32,
    /// Workers that will still be replaced, and those that are to end when they have answered what they were sent.
    pub replaced: u32,
    pub ending_workers: BTreeSet<WorkerId>,
    /// Attempts whose outputs will still be lost.
    pub losses: u32,
    /// How often all workers will still fall together.
    pub falls: u32,
    /// How often workers may still die while they start.
    pub failed_starts: u32,
    pub ending: Option<Ending>,
    pub committed: bool,
    pub published_early: BTreeSet<StageId>,
    /// Stages of which the scheduler knows that they have ended.
    pub over: BTreeSet<StageId>,
    /// Batches of which some rows were done by an earlier run: all their rows.
    pub partly: BTreeMap<(StageId, u64), Vec<u64>>,
    /// Rows that stages have published on their first port, and those whose updates of the state count.
    pub published: BTreeMap<StageId, Vec<u64>>,
    pub updated: BTreeMap<StageId, Vec<u64>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    Stage(StageId),
    Attempt(AttemptId),
    /// What is looked up or kept of a batch.
    Batch(StageId, u64),
    Worker(WorkerId),
    Run,
}

#[derive(Default)]
pub struct FakeResident {
    given: u64,
    /// Rows read from each input, and whether it is over.
    fed: BTreeMap<usize, (Vec<u64>, bool)>,
    /// Fed but not taken, as it waits for another input.
    waiting: BTreeMap<usize, Vec<u64>>,
    pulled: bool,
    emitted: bool,
    /// It has said that it ended; it says so once.
    ended: bool,
}

impl Fake<'_> {
    /// Keeps a batch that a stage makes.
    fn make(&mut self, stage: StageId, rows: Vec<u64>) -> Meta {
        let weight = self.shapes[stage.index()].weight;
        self.store(rows, weight)
    }

    /// Whether what the stage gives comes with updates of the state of the run, for each of its rows.
    pub fn counts(&self, stage: StageId) -> bool {
        let shape = &self.shapes[stage.index()];
        let in_workers = matches!(shape.kind, Kind::Generator { .. } | Kind::Keyed | Kind::Map(MapKind::Worker));
        in_workers && !shape.checkpoint && stage.index().is_multiple_of(2)
    }

    /// These outputs, with the updates that come with them.
    fn with_updates(&mut self, stage: StageId, mut outputs: Vec<Output>) -> Vec<Output> {
        let rows: Vec<u64> = outputs.iter().flat_map(|output| self.batches[&output.batch.id].clone()).collect();
        if self.counts(stage) && !rows.is_empty() {
            outputs.push(Output { port: Output::STATE, batch: self.store(rows, 1) });
        }
        outputs
    }

    /// A batch of these rows on the first port; none if there are none.
    fn make_some(&mut self, stage: StageId, rows: Vec<u64>) -> Vec<Output> {
        if rows.is_empty() { Vec::new() } else { vec![Output { port: 0, batch: self.make(stage, rows) }] }
    }

    fn store(&mut self, rows: Vec<u64>, weight: u64) -> Meta {
        self.next_batch += 1;
        let id = BatchId(self.next_batch);
        let meta = Meta { id, rows: rows.len() as u64, bytes: rows.len() as u64 * weight };
        self.weights.insert(id, meta.bytes);
        self.batches.insert(id, rows);
        meta
    }

    fn push(&mut self, lane: Lane, event: Event) {
        self.lanes.entry(lane).or_default().push(event);
    }

    /// A resident stage ends. Afterwards nothing more comes from it.
    fn end(&mut self, stage: StageId) {
        let resident = self.residents.entry(stage).or_default();
        if !std::mem::replace(&mut resident.ended, true) {
            self.push(Lane::Stage(stage), Event::Ended { stage });
        }
    }

    /// The next thing that happens: any lane's first event.
    pub fn next(&mut self) -> Option<Event> {
        self.deaths();
        let lanes: Vec<Lane> = self.lanes.keys().copied().collect();
        let mut lane = *lanes.get(self.rng.random_range(0..lanes.len().max(1)))?;
        for _ in 0..SLOWNESS {
            if self.is_slow(lane) {
                lane = lanes[self.rng.random_range(0..lanes.len())];
            }
        }
        if let Some(worker) = self.replaces_in(lane) {
            return Some(Event::WorkerRetired { worker });
        }
        let events = self.lanes.get_mut(&lane)?;
        let event = events.remove(0);
        if events.is_empty() {
            self.lanes.remove(&lane);
        }
        let event = self.loses(event);
        match &event {
            Event::AttemptDone { attempt, .. }
            | Event::AttemptFailed { attempt, .. }
            | Event::AttemptLost { attempt, .. }
            | Event::AttemptThrottled { attempt, .. }
            | Event::AttemptWaits { attempt } => {
                let host = self.busy.remove(attempt);
                if let Some(Host::Worker(worker)) = host {
                    match self.behind.remove(&worker) {
                        Some(next) => self.dispatch(next),
                        None if self.ending_workers.contains(&worker) => self.dies(worker, ExitCause::Engine),
                        None => {}
                    }
                }
                self.start_waiting();
            }
            Event::PortsFinished { stage, .. } => {
                self.over.insert(*stage);
            }
            Event::WorkerExited { worker, .. } => {
                self.behind.remove(worker);
                self.busy.retain(|_, host| *host != Host::Worker(*worker));
            }
            _ => {}
        }
        let (stage, outputs) = match &event {
            Event::AttemptDone { attempt, outputs, .. } => (self.attempts[attempt], outputs),
            Event::Produced { stage, outputs, .. } => (*stage, outputs),
            Event::Recalled { stage, known: Some(Recalled::Whole { outputs, .. }), .. }
            | Event::Kept { stage, outputs: Some(outputs), .. } => (*stage, outputs),
            _ => return Some(event),
        };
        for output in outputs.iter().filter(|output| !output.is_state()) {
            self.given.insert(output.batch.id, (stage, output.port));
            for edge in &self.plan.stage(stage).ports[output.port].edges {
                let cutter = self.cutters.entry(*edge).or_default();
                cutter.largest_bytes = cutter.largest_bytes.max(output.batch.bytes);
            }
        }
        Some(event)
    }

    fn is_slow(&self, lane: Lane) -> bool {
        let stage = match lane {
            Lane::Stage(stage) | Lane::Batch(stage, _) => stage,
            Lane::Attempt(attempt) => self.attempts[&attempt],
            Lane::Worker(_) | Lane::Run => return false,
        };
        self.shapes[stage.index()].is_slow
    }

    fn is_filter(&self, stage: StageId) -> bool {
        matches!(&self.plan.stage(stage).kind, StageKind::Command(command) if command.mode == CommandMode::Stream)
    }

    pub fn perform(&mut self, action: Action) {
        if let Action::Start { stage }
        | Action::Pull { stage }
        | Action::Feed { stage, .. }
        | Action::EndInput { stage, .. }
        | Action::Dispatch(Dispatch { stage, .. }) = &action
        {
            let early = self.plan.stage(*stage).after.iter().find(|awaited| !self.over.contains(awaited));
            assert!(early.is_none(), "{stage:?} does something before {early:?} has ended");
        }
        match action {
            Action::Start { .. } | Action::Emit(_) => {}
            Action::Pull { stage } => {
                self.residents.entry(stage).or_default().pulled = true;
                self.go_on(stage);
            }
            Action::Feed { stage, input, batch } => {
                let rows = self.batches.remove(&batch).expect("a batch that is fed exists");
                match self.shapes[stage.index()].kind {
                    Kind::Sink => {
                        let event = Event::Taken { stage, input, rows: rows.len() as u64 };
                        self.sinks.entry(stage).or_default().extend(rows);
                        self.push(Lane::Stage(stage), event);
                    }
                    _ => {
                        let before = self.residents.entry(stage).or_default().waiting.insert(input, rows);
                        assert!(before.is_none(), "fed before the batch before was taken");
                        self.go_on(stage);
                    }
                }
            }
            Action::EndInput { stage, input } => {
                if self.shapes[stage.index()].kind == Kind::Sink {
                    self.end(stage);
                } else if !matches!(self.shapes[stage.index()].kind, Kind::Map(_)) {
                    self.residents.entry(stage).or_default().fed.entry(input).or_default().1 = true;
                    self.go_on(stage);
                }
            }
            Action::Close { stage } => self.end(stage),
            Action::StartWorker { worker, .. } => {
                self.workers.insert(worker);
                self.push(Lane::Worker(worker), Event::WorkerReady { worker });
            }
            Action::RetireWorker { worker } => {
                assert!(self.running_on(worker).is_none(), "{worker:?} is to end, and runs something");
                if self.workers.contains(&worker) {
                    self.dies(worker, ExitCause::Engine);
                }
            }
            Action::Dispatch(dispatch) => self.dispatch(dispatch),
            Action::Recall { stage, sequence, batch } => self.recall(stage, sequence, batch),
            Action::Keep { stage, sequence, batch, outputs, rejects } => {
                self.keep(stage, sequence, batch, &outputs, &rejects);
            }
            Action::Publish { stage, port, batch } => {
                assert!(!self.parts.contains(&batch), "a part is published");
                let rows = self.batches.remove(&batch).expect("a batch that is published exists");
                self.published.entry(stage).or_default().extend(&rows);
                let weight = self.shapes[stage.index()].weight;
                self.put(stage, port, &rows, weight);
            }
            Action::PublishJoined { stage, port, batches } => {
                let take = |batch| self.batches.remove(batch).expect("a batch that is published exists");
                let rows: Vec<u64> = batches.iter().flat_map(take).collect();
                self.published.entry(stage).or_default().extend(&rows);
                let weight = self.shapes[stage.index()].weight;
                self.put(stage, port, &rows, weight);
            }
            Action::UpdateState { stage, updates, .. } => {
                assert!(updates.iter().all(|batch| !self.parts.contains(batch)), "what a part has changed counts");
                let take = |batch| self.batches.remove(batch).expect("a batch that is published exists");
                let rows: Vec<u64> = updates.iter().flat_map(take).collect();
                self.update(stage, rows);
            }
            Action::PublishRejects { stage, port, batch, rejects } => {
                let rows = &self.batches[&batch];
                let rows: Vec<u64> =
                    rejects.iter().flat_map(|reject| reject.rows.clone()).map(|row| rows[index(row)]).collect();
                self.put(stage, port, &rows, 1);
            }
            Action::RecordRejects { stage, batch, rejects } => {
                let rows = &self.batches[&batch];
                let rows = rejects.iter().flat_map(|reject| reject.rows.clone()).map(|row| rows[index(row)]);
                self.recorded.entry(stage).or_default().extend(rows);
            }
            Action::FinishPorts { stage } => self.finish(stage),
            Action::PublishSink { stage } => {
                assert!(self.published_early.insert(stage), "{stage:?} is published twice");
                let inputs = self.shapes[stage.index()].from.iter();
                let expected = expected(self.shapes);
                let whole = inputs.flat_map(|&(from, rejected)| expected[from][usize::from(rejected)].clone());
                let written = self.sinks.get(&stage).cloned().unwrap_or_default();
                let [written, whole] = [written, whole.collect()].map(|rows| comparable(self.shapes, rows));
                assert_eq!(written, whole, "{stage:?}");
                PUBLISHED_EARLY.fetch_add(1, Ordering::Relaxed);
                self.push(Lane::Run, Event::SinkPublished { stage });
            }
            Action::Release { batch } => {
                assert!(self.batches.remove(&batch).is_some(), "released twice: {batch:?}");
            }
            Action::Commit => {
                self.committed = true;
                self.push(Lane::Run, Event::Committed);
            }
            Action::Finish(ending) => self.ending = Some(ending),
        }
    }
}

impl Fake<'_> {
    fn update(&mut self, stage: StageId, rows: Vec<u64>) {
        UPDATED.fetch_add(rows.len() as u64, Ordering::Relaxed);
        self.updated.entry(stage).or_default().extend(rows);
        self.push(Lane::Stage(stage), Event::Queued { stage, queued: Vec::new() });
    }
}

pub fn failure(verdict: Verdict) -> Failure {
    Failure { verdict, scope: Scope::Rows, message: "boom".into(), traceback: String::new() }
}

pub fn index(row: u64) -> usize {
    usize::try_from(row).expect("small")
}
