//! [`Fake`]: an executor that does nothing but keep rows, and answers in random order.

mod faults;
mod residents;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::TestRng;

use super::shape::{Kind, MapKind, Shape, is_poison};
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
    /// Stages of which the scheduler knows that they have ended.
    pub over: BTreeSet<StageId>,
    /// Batches of which some rows were done by an earlier run: all their rows.
    pub partly: BTreeMap<(StageId, u64), Vec<u64>>,
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

/// The rows that an edge's cut keeps back.
#[derive(Default)]
pub struct FakeCutter {
    held: Vec<u64>,
    pub held_bytes: u64,
    /// Rows of the largest batch that was put on the edge, and bytes of the largest one that was given, before or after its cut.
    pub largest: u64,
    pub largest_bytes: u64,
}

impl Fake<'_> {
    /// Keeps a batch that a stage makes.
    fn make(&mut self, stage: StageId, rows: Vec<u64>) -> Meta {
        let weight = self.shapes[stage.index()].weight;
        self.store(rows, weight)
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
            Event::Produced { stage, outputs } => (*stage, outputs),
            Event::Recalled { stage, known: Some(Recalled::Whole { outputs, .. }), .. }
            | Event::Kept { stage, outputs: Some(outputs), .. } => (*stage, outputs),
            _ => return Some(event),
        };
        for output in outputs {
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

    /// For every edge, the bytes that really are in memory for it: on it, with its consumer, kept back by its cut, or given by its
    /// producer and waiting to be published. And how many of its batches there are.
    pub fn in_memory(&self) -> Vec<(u64, u64)> {
        let kept = |edge| self.cutters.get(&edge).map_or(0, |cutter| cutter.held_bytes);
        let mut edges: Vec<(u64, u64)> = self.plan.edges.iter().map(|edge| (kept(edge.id), 0)).collect();
        for batch in self.batches.keys() {
            let bytes = self.weights[batch];
            if let Some(edge) = self.on_edge.get(batch) {
                edges[edge.index()].0 += bytes;
                edges[edge.index()].1 += 1;
            } else if let Some((stage, port)) = self.given.get(batch) {
                self.plan.stage(*stage).ports[*port].edges.iter().for_each(|edge| edges[edge.index()].0 += bytes);
            }
        }
        edges
    }

    fn is_filter(&self, stage: StageId) -> bool {
        matches!(&self.plan.stage(stage).kind, StageKind::Command(command) if command.mode == CommandMode::Stream)
    }

    /// A process that was sent ahead has a slot as soon as there is one, whatever the scheduler knows by then.
    fn start_waiting(&mut self) {
        while self.busy.values().filter(|host| **host != Host::Native).count() < index(self.plan.workers.into())
            && let Some((attempt, event)) = self.waiting.pop_front()
        {
            self.busy.insert(attempt, Host::Process);
            self.push(Lane::Attempt(attempt), event);
        }
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
            Action::Dispatch(dispatch) => self.dispatch(dispatch),
            Action::Recall { stage, sequence, batch } => self.recall(stage, sequence, batch),
            Action::Keep { stage, sequence, batch, outputs, rejects } => {
                assert!(self.shapes[stage.index()].checkpoint);
                let (good, bad) = self.outcome_of(stage, batch.id);
                let given: Vec<u64> =
                    outputs.iter().flat_map(|output| self.batches[&output.batch.id].clone()).collect();
                let rejected: Vec<u64> =
                    rejects.iter().flat_map(|reject| self.rows_of(batch.id, vec![reject.rows.clone()])).collect();
                assert_eq!((given, rejected), (good, bad), "kept of {stage:?}");
                KEPT.fetch_add(1, Ordering::Relaxed);
                let together = self.partly.remove(&(stage, sequence)).map(|rows| {
                    outputs.iter().for_each(|output| drop(self.batches.remove(&output.batch.id)));
                    let rejects = self.shapes[stage.index()].rejects;
                    let good: Vec<u64> = rows.into_iter().filter(|row| !rejects || !is_poison(*row)).collect();
                    if good.is_empty() { Vec::new() } else { vec![Output { port: 0, batch: self.make(stage, good) }] }
                });
                self.push(Lane::Batch(stage, sequence), Event::Kept { stage, sequence, outputs: together });
            }
            Action::Publish { stage, port, batch } => {
                assert!(!self.parts.contains(&batch), "a part is published");
                let rows = self.batches.remove(&batch).expect("a batch that is published exists");
                let weight = self.shapes[stage.index()].weight;
                self.put(stage, port, &rows, weight);
            }
            Action::PublishJoined { stage, port, batches } => {
                let take = |batch| self.batches.remove(batch).expect("a batch that is published exists");
                let rows: Vec<u64> = batches.iter().flat_map(take).collect();
                let weight = self.shapes[stage.index()].weight;
                self.put(stage, port, &rows, weight);
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

    /// What a stage that works batch by batch gives for a batch, and what it rejects.
    fn outcome_of(&self, stage: StageId, batch: BatchId) -> (Vec<u64>, Vec<u64>) {
        let rejects = self.shapes[stage.index()].rejects;
        self.batches[&batch].iter().copied().partition(|row| !rejects || !is_poison(*row))
    }

    /// Perhaps an earlier run has done the batch.
    fn recall(&mut self, stage: StageId, sequence: u64, batch: Meta) {
        assert!(self.shapes[stage.index()].checkpoint);
        if self.rng.random_bool(0.3)
            && let Some(left) = self.leave_some(stage, sequence, batch)
        {
            PARTLY.fetch_add(1, Ordering::Relaxed);
            let bytes = (batch.rows - left.rows) * self.shapes[stage.index()].weight;
            let known = Some(Recalled::Partly { left, bytes });
            self.push(Lane::Batch(stage, sequence), Event::Recalled { stage, sequence, known });
            return;
        }
        let (good, _) = self.outcome_of(stage, batch.id);
        let cannot_be_done = self.shapes[stage.index()].fails && good.iter().any(|row| is_poison(*row));
        let known = (!cannot_be_done && self.rng.random_bool(0.5)).then(|| {
            RECALLED.fetch_add(1, Ordering::Relaxed);
            let is_bad = |row: u64| self.shapes[stage.index()].rejects && is_poison(row);
            let places = self.batches[&batch.id].iter().enumerate().filter(|(_, row)| is_bad(**row));
            let places = places.map(|(at, _)| at as u64);
            let reject = |at| Reject { rows: at..at + 1, failure: failure(Verdict::Exception) };
            let rejects = places.map(reject).collect();
            self.may_be_as_large_as(stage, batch);
            let outputs =
                if good.is_empty() { Vec::new() } else { vec![Output { port: 0, batch: self.make(stage, good) }] };
            Recalled::Whole { outputs, rejects }
        });
        self.push(Lane::Batch(stage, sequence), Event::Recalled { stage, sequence, known });
    }

    /// Perhaps an earlier run has done some rows of the batch, but none that fails.
    fn leave_some(&mut self, stage: StageId, sequence: u64, batch: Meta) -> Option<Meta> {
        let edge = *self.on_edge.get(&batch.id)?;
        let rows = self.batches[&batch.id].clone();
        let left: Vec<u64> = rows.iter().copied().filter(|row| is_poison(*row) || self.rng.random_bool(0.3)).collect();
        if left.is_empty() || left.len() == rows.len() {
            return None;
        }
        self.may_be_as_large_as(stage, batch);
        self.batches.remove(&batch.id);
        self.partly.insert((stage, sequence), rows);
        let weight = batch.bytes / batch.rows;
        let left = self.store(left, weight);
        self.on_edge.insert(left.id, edge);
        Some(left)
    }

    fn put(&mut self, stage: StageId, port: usize, rows: &[u64], weight: u64) {
        let edges = self.plan.stage(stage).ports[port].edges.clone();
        let queued = edges.into_iter().map(|edge| self.put_on(edge, rows, weight)).collect();
        self.push(Lane::Stage(stage), Event::Queued { stage, queued });
    }

    /// Cuts as the consumer asks; what is not full yet is kept back.
    fn put_on(&mut self, edge: EdgeId, rows: &[u64], weight: u64) -> QueuedPieces {
        let plan = self.plan.edge(edge);
        let cutter = self.cutters.entry(edge).or_default();
        cutter.largest = cutter.largest.max(rows.len() as u64);
        cutter.largest_bytes = cutter.largest_bytes.max(rows.len() as u64 * weight);
        let mut pieces = Vec::new();
        match self.shapes[plan.to.index()].cut {
            Some(cut) => {
                cutter.held.extend(rows);
                while cutter.held.len() >= index(cut) {
                    pieces.push(cutter.held.drain(..index(cut)).collect());
                }
            }
            None => pieces.push(rows.to_vec()),
        }
        let held_bytes = cutter.held.len() as u64 * weight;
        cutter.held_bytes = held_bytes;
        let pieces = pieces.into_iter().map(|rows| self.piece(edge, rows, weight)).collect();
        QueuedPieces { edge, pieces, held_bytes, spilled: plan.spills && self.rng.random_bool(0.5) }
    }

    fn piece(&mut self, edge: EdgeId, rows: Vec<u64>, weight: u64) -> Meta {
        let meta = self.store(rows, weight);
        self.on_edge.insert(meta.id, edge);
        let cutter = self.cutters.entry(edge).or_default();
        cutter.largest_bytes = cutter.largest_bytes.max(meta.bytes);
        meta
    }

    fn finish(&mut self, stage: StageId) {
        let edges: Vec<EdgeId> = self.plan.stage(stage).ports.iter().flat_map(|port| port.edges.clone()).collect();
        let mut queued = Vec::new();
        for edge in edges {
            let weight = if self.plan.edge(edge).port == 0 { self.shapes[stage.index()].weight } else { 1 };
            let cutter = self.cutters.entry(edge).or_default();
            cutter.held_bytes = 0;
            let last = std::mem::take(&mut cutter.held);
            let pieces = if last.is_empty() { Vec::new() } else { vec![self.piece(edge, last, weight)] };
            queued.push(QueuedPieces { edge, pieces, held_bytes: 0, spilled: false });
        }
        self.push(Lane::Stage(stage), Event::PortsFinished { stage, queued });
    }

    fn dispatch(&mut self, dispatch: Dispatch) {
        if let Host::Worker(worker) = dispatch.host
            && self.running_on(worker).is_some()
        {
            let is_lane = matches!(dispatch.work, Work::Lane { .. } | Work::FinishLane { .. });
            assert!(!is_lane, "an attempt of a lane waits behind another one");
            QUEUED.fetch_add(1, Ordering::Relaxed);
            let before = self.behind.insert(worker, dispatch);
            assert!(before.is_none(), "{worker:?} has three attempts");
            return;
        }
        let Dispatch { attempt, stage, sequence, host, work } = dispatch;
        let shape = &self.shapes[stage.index()];
        let right = match shape.kind {
            Kind::Generator { .. } | Kind::Keyed | Kind::Map(MapKind::Worker) => matches!(host, Host::Worker(_)),
            Kind::Task | Kind::Map(MapKind::Process) => matches!(host, Host::Process | Host::NextProcess),
            _ => host == Host::Native,
        };
        assert!(right, "{:?} on {host:?}", shape.kind);
        if let Work::Rows { batch, .. } = &work {
            self.may_be_as_large_as(stage, *batch);
        }
        if host == Host::NextProcess {
            let on_workers = self.busy.values().any(|host| matches!(host, Host::Worker(_)));
            assert!(!on_workers, "sent ahead, while a worker may want the slot");
        } else {
            self.busy.insert(attempt, host);
        }
        self.attempts.insert(attempt, stage);
        if let (Host::Worker(worker), Work::Lane { lane, .. } | Work::FinishLane { lane }) = (host, &work) {
            let state = self.states.entry(worker).or_insert((stage, *lane, sequence));
            assert_eq!(
                *state,
                (stage, *lane, sequence),
                "{worker:?} has the state of another lane, or of another time"
            );
            state.2 += 1;
        }
        if matches!(host, Host::Worker(worker) if !self.workers.contains(&worker)) {
            return;
        }
        if let Host::Worker(worker) = host
            && self.opened.insert((worker, stage))
        {
            let at_once = shape.at_once();
            self.push(Lane::Attempt(attempt), Event::Opened { stage, at_once });
        }
        let event = match work {
            Work::Rows { batch, rows, is_part, budget } => {
                assert!(!is_part || shape.row_micros.is_some(), "{stage:?} sees whole batches");
                self.run_rows(attempt, stage, self.rows_of(batch.id, rows), is_part, budget)
            }
            Work::Join { batch, rows, parts } => {
                JOINS.fetch_add(1, Ordering::Relaxed);
                let rows = self.rows_of(batch.id, rows);
                assert!(parts.iter().all(|part| self.parts.contains(&part.id)), "a batch of its own is joined");
                let joined: Vec<u64> = parts.iter().flat_map(|part| self.batches[&part.id].clone()).collect();
                assert_eq!(joined, rows, "the parts are not what the rows gave");
                let given = rows.len() as u64;
                let outputs = vec![Output { port: 0, batch: self.make(stage, rows) }];
                Event::AttemptDone {
                    attempt,
                    rows: given,
                    outputs,
                    end: false,
                    spent: Duration::ZERO,
                    failed: Vec::new(),
                }
            }
            Work::Lane { batch, lane } => {
                self.may_be_as_large_as(stage, batch);
                let lanes = index(self.plan.lanes(self.plan.stage(stage)).into());
                let all = &self.batches[&batch.id];
                let [from, to] = [index(lane.into()), index(lane.into()) + 1].map(|lane| lane * all.len() / lanes);
                let rows = all[from..to].to_vec();
                match rows.iter().find(|row| shape.fails && is_poison(**row)) {
                    Some(row) => {
                        self.state_is_spoilt(attempt, host, format!("boom at {row}"));
                        return;
                    }
                    None => {
                        let given = rows.len() as u64;
                        let outputs = if rows.is_empty() {
                            Vec::new()
                        } else {
                            vec![Output { port: 0, batch: self.make(stage, rows) }]
                        };
                        Event::AttemptDone {
                            attempt,
                            rows: given,
                            outputs,
                            end: false,
                            spent: Duration::ZERO,
                            failed: Vec::new(),
                        }
                    }
                }
            }
            Work::FinishLane { .. } => Event::AttemptDone {
                attempt,
                rows: 0,
                outputs: Vec::new(),
                end: false,
                spent: Duration::ZERO,
                failed: Vec::new(),
            },
            Work::Pull => {
                let Kind::Generator { rows } = shape.kind else { panic!("not a generator") };
                let pulls = self.pulls.entry((stage, sequence)).or_default();
                *pulls += 1;
                if *pulls == 3 {
                    self.single.insert(attempt);
                }
                let (from, to) = (sequence * 7, (sequence * 7 + 7).min(rows));
                let given = (from..to).map(|row| row + stage.index() as u64 * 1000).collect::<Vec<_>>();
                let outputs =
                    if given.is_empty() { vec![] } else { vec![Output { port: 0, batch: self.make(stage, given) }] };
                Event::AttemptDone {
                    attempt,
                    rows: 0,
                    outputs,
                    end: to == rows,
                    spent: Duration::ZERO,
                    failed: Vec::new(),
                }
            }
            Work::Task => {
                assert!(self.tasks.insert(stage), "a task runs once");
                Event::AttemptDone {
                    attempt,
                    rows: 0,
                    outputs: Vec::new(),
                    end: true,
                    spent: Duration::ZERO,
                    failed: Vec::new(),
                }
            }
        };
        if self.is_filter(stage) && self.rng.random_bool(0.3) {
            self.push(Lane::Attempt(attempt), Event::AttemptWaits { attempt });
        }
        if host == Host::NextProcess {
            self.waiting.push_back((attempt, event));
            self.start_waiting();
        } else {
            self.push(Lane::Attempt(attempt), event);
        }
    }

    /// An attempt of a lane fails: its worker is given nothing more.
    fn state_is_spoilt(&mut self, attempt: AttemptId, host: Host, message: String) {
        let Host::Worker(worker) = host else { panic!("a lane is in a worker") };
        self.workers.remove(&worker);
        let lane = Lane::Attempt(attempt);
        self.push(lane, Event::WorkerRetired { worker });
        self.push(lane, Event::AttemptFailed { attempt, failure: Failure { message, ..failure(Verdict::Exception) } });
        let failure = failure(Verdict::Crash);
        self.push(lane, Event::WorkerExited { worker, failure, cause: ExitCause::Engine });
    }

    /// What the slices or lanes of a batch give lies there together, before it is one batch.
    fn may_be_as_large_as(&mut self, stage: StageId, batch: Meta) {
        let bytes = batch.rows * self.shapes[stage.index()].weight;
        for edge in self.plan.stage(stage).ports.iter().flat_map(|port| &port.edges) {
            let cutter = self.cutters.entry(*edge).or_default();
            cutter.largest_bytes = cutter.largest_bytes.max(bytes);
        }
    }

    fn rows_of(&self, batch: BatchId, rows: Vec<std::ops::Range<u64>>) -> Vec<u64> {
        let all = &self.batches[&batch];
        rows.into_iter().flatten().map(|row| all[index(row)]).collect()
    }

    /// An attempt of these rows, which may end early if it has a budget.
    fn run_rows(
        &mut self,
        attempt: AttemptId,
        stage: StageId,
        mut rows: Vec<u64>,
        is_part: bool,
        budget: Option<Duration>,
    ) -> Event {
        let shape = &self.shapes[stage.index()];
        let asked = rows.len();
        if shape.row_micros.is_some() && budget.is_some() && self.rng.random_bool(0.5) {
            rows.truncate(self.rng.random_range(1..=asked));
        }
        if rows.len() == 1 {
            self.single.insert(attempt);
        }
        let given = rows.len() as u64;
        let mut failed = Vec::new();
        if shape.row_micros.is_some() && shape.rejects && !shape.fails && self.rng.random_bool(0.5) {
            let bad = rows.iter().enumerate().filter(|(_, row)| is_poison(**row));
            failed.extend(bad.map(|(place, _)| (place as u64, failure(Verdict::Exception))));
            rows.retain(|row| !is_poison(*row));
            SKIPPED.fetch_add(failed.len() as u64, Ordering::Relaxed);
        }
        if (shape.has_rejects() || shape.fails) && rows.iter().copied().any(is_poison) {
            return Event::AttemptFailed { attempt, failure: failure(Verdict::Exception) };
        }
        let at_once = shape.at_once().map_or(1, |rows| u64::from(rows.get()));
        let spent = Duration::from_micros(shape.row_micros.unwrap_or(0) * given.div_ceil(at_once));
        let is_part = is_part || (given as usize) < asked;
        let output = Output { port: 0, batch: self.make(stage, rows) };
        if is_part {
            self.parts.insert(output.batch.id);
        }
        Event::AttemptDone { attempt, rows: given, outputs: vec![output], end: false, spent, failed }
    }
}

pub fn failure(verdict: Verdict) -> Failure {
    Failure { verdict, scope: Scope::Rows, message: "boom".into(), traceback: String::new() }
}

pub fn index(row: u64) -> usize {
    usize::try_from(row).expect("small")
}
