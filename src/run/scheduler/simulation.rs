//! The scheduler against random pipelines, random speeds, random failures: every history must end with every row where it
//! belongs, in order, and no queue over its bound on the way.

use std::collections::{BTreeMap, BTreeSet};
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRng, TestRunner};

use super::*;
use crate::plan::{
    Call, Capacity, Cut, Edge, EdgeId, Input, OnError, Plan, Port, Python, PythonPlan, PythonTarget, Read, Retry, Sql,
    Stage, StageId, StageKind, Verdict, WorkerLimits, Write, WriteTarget,
};
use crate::run::Ending;

/// Rows are numbers; every seventeenth row cannot be processed by a stage that rejects.
fn is_poison(row: u64) -> bool {
    row % 17 == 3
}

/// A stage of a random pipeline, before it becomes a plan.
#[derive(Clone, Debug)]
struct Shape {
    kind: Kind,
    /// Indices of earlier stages with an output, and whether their rejected port is read.
    from: Vec<(usize, bool)>,
    rejects: bool,
    workers: u32,
    queue: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Source {
        rows: u64,
    },
    Generator {
        rows: u64,
    },
    Map,
    /// A query over two or more inputs that reads them one after the other, the last one first.
    Join,
    Sink,
}

fn shapes() -> impl Strategy<Value = (Vec<Shape>, u32)> {
    let stage = (0u8..10, any::<[prop::sample::Index; 3]>(), any::<bool>(), 1u32..4, 1u32..4, 0u64..200, 1usize..4);
    (prop::collection::vec(stage, 2..12), 1u32..5).prop_map(|(stages, workers)| {
        let mut shapes: Vec<Shape> = Vec::new();
        for (kind, from, flag, limit, queue, rows, inputs) in stages {
            let producers: Vec<usize> = (0..shapes.len()).filter(|&at| shapes[at].kind != Kind::Sink).collect();
            let kind = match kind {
                0..=1 => Kind::Source { rows },
                2 => Kind::Generator { rows },
                3..=6 => Kind::Map,
                7 => Kind::Join,
                _ => Kind::Sink,
            };
            let needs_input = !matches!(kind, Kind::Source { .. } | Kind::Generator { .. });
            let kind = if needs_input && producers.is_empty() { Kind::Source { rows } } else { kind };
            let from = match kind {
                Kind::Source { .. } | Kind::Generator { .. } => Vec::new(),
                Kind::Join => from[..inputs.clamp(2, 3)].to_vec(),
                Kind::Map | Kind::Sink => from[..inputs].to_vec(),
            };
            let from = from.iter().map(|index| {
                let at = *index.get(&producers);
                (at, flag && shapes[at].kind == Kind::Map && shapes[at].rejects)
            });
            let from = from.collect();
            shapes.push(Shape { kind, from, rejects: flag, workers: limit, queue });
        }
        (shapes, workers)
    })
}

/// Returns whether the two ends of an edge are connected without it, ignoring directions.
fn is_on_a_cycle(edges: &[(usize, usize)], edge: usize) -> bool {
    let mut seen = BTreeSet::from([edges[edge].0]);
    let mut stack = vec![edges[edge].0];
    while let Some(at) = stack.pop() {
        for (other, &(a, b)) in edges.iter().enumerate() {
            for (from, to) in [(a, b), (b, a)] {
                if other != edge && from == at && seen.insert(to) {
                    stack.push(to);
                }
            }
        }
    }
    seen.contains(&edges[edge].1)
}

fn plan(shapes: &[Shape], workers: u32) -> Plan {
    let mut edges: Vec<Edge> = Vec::new();
    let mut stages: Vec<Stage> = Vec::new();
    for (at, shape) in shapes.iter().enumerate() {
        let mut inputs: Vec<Input> = Vec::new();
        for (member, &(from, rejected)) in shape.from.iter().enumerate() {
            let id = EdgeId(edges.len() as u32);
            let input = if shape.kind == Kind::Join { member } else { 0 };
            edges.push(Edge {
                id,
                from: StageId(from as u32),
                port: usize::from(rejected),
                to: StageId(at as u32),
                input,
                capacity: Capacity {
                    batches: NonZeroU32::new(shape.queue).expect("not zero"),
                    bytes: NonZeroU64::new(100).expect("not zero"),
                },
                cut: None,
                spills: shape.kind == Kind::Join || member > 0,
            });
            stages[from].ports[usize::from(rejected)].edges.push(id);
            match inputs.get_mut(input) {
                Some(input) => input.members.push(id),
                None => inputs.push(Input { table: format!("t{input}"), members: vec![id] }),
            }
        }
        stages.push(stage(at, shape, inputs));
    }
    let ends: Vec<_> = edges.iter().map(|edge| (edge.from.index(), edge.to.index())).collect();
    for (at, edge) in edges.iter_mut().enumerate() {
        edge.spills &= is_on_a_cycle(&ends, at);
    }
    Plan {
        name: "simulated".into(),
        file: "/p.yaml".into(),
        folder: "/".into(),
        stages,
        edges,
        params: BTreeMap::new(),
        python: PythonPlan::default(),
        workers,
        seed: 0,
    }
}

fn stage(at: usize, shape: &Shape, inputs: Vec<Input>) -> Stage {
    let python = |is_source| {
        StageKind::Python(Python {
            call: Call { module: "m".into(), name: "f".into() },
            convention: None,
            with: serde_json::Map::new(),
            returns: Vec::new(),
            is_source,
            target: if shape.workers == 2 { PythonTarget::Class } else { PythonTarget::Function },
        })
    };
    let read = Read {
        paths: Vec::new(),
        stdin: false,
        format: crate::format::Format::Lines,
        compression: None,
        schema: Vec::new(),
        delimiter: b',',
        header: true,
    };
    let write = Write {
        target: WriteTarget::Stdout,
        format: crate::format::Format::Lines,
        compression: crate::format::Compression::None,
    };
    let kind = match shape.kind {
        Kind::Source { .. } => StageKind::Read(read),
        Kind::Generator { .. } => python(true),
        Kind::Map => python(false),
        Kind::Join => {
            let query = crate::sql::Query::parse("SELECT 1").expect("a valid query");
            StageKind::Sql(Sql { query, row_wise: false })
        }
        Kind::Sink => StageKind::Write(write),
    };
    let port = |name: &str| Port { name: name.into(), edges: Vec::new() };
    let one = NonZeroU32::MIN;
    Stage {
        id: StageId(at as u32),
        name: format!("s{at}"),
        description: None,
        ports: if shape.kind == Kind::Sink { Vec::new() } else { vec![port(Port::MAIN), port(Port::REJECTED)] },
        kind,
        inputs,
        workers: WorkerLimits { min: 0, max: NonZeroU32::new(shape.workers).expect("not zero") },
        retry: Retry { exception: one, crash: NonZeroU32::new(3).expect("not zero") },
        on_error: if shape.rejects { OnError::Reject } else { OnError::Fail },
        cut: Cut::default(),
        env: BTreeMap::new(),
        cwd: "/".into(),
        line: 1,
    }
}

/// What a stage would give on its two ports if it worked on its whole input at once.
fn expected(shapes: &[Shape]) -> Vec<[Vec<u64>; 2]> {
    let mut given: Vec<[Vec<u64>; 2]> = Vec::new();
    for (at, shape) in shapes.iter().enumerate() {
        let inputs = shape.from.iter().map(|&(from, rejected)| given[from][usize::from(rejected)].clone());
        let mut inputs: Vec<Vec<u64>> = inputs.collect();
        if shape.kind == Kind::Join {
            inputs.reverse();
        }
        let rows = inputs.concat();
        given.push(match shape.kind {
            Kind::Source { rows } | Kind::Generator { rows } => {
                [(0..rows).map(|row| row + at as u64 * 1000).collect(), vec![]]
            }
            Kind::Map if shape.rejects => {
                let (bad, good) = rows.into_iter().partition(|&row| is_poison(row));
                [good, bad]
            }
            _ => [rows, vec![]],
        });
    }
    given
}

/// An executor that does nothing but keep rows, and answers in random order.
struct Fake<'a> {
    shapes: &'a [Shape],
    plan: &'a Plan,
    rng: TestRng,
    batches: BTreeMap<BatchId, Vec<u64>>,
    next_batch: u64,
    /// What will happen, in any order but within one lane, which is first in, first out.
    lanes: BTreeMap<Lane, Vec<Event>>,
    busy: BTreeMap<WorkerId, AttemptId>,
    /// Attempts that are not killed: those of one row, and the last ones of generators' batches.
    single: BTreeSet<AttemptId>,
    pulls: BTreeMap<(StageId, u64), u32>,
    residents: BTreeMap<StageId, FakeResident>,
    sinks: BTreeMap<StageId, Vec<u64>>,
    kills: u32,
    ending: Option<Ending>,
    committed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Lane {
    Stage(StageId),
    Attempt(AttemptId),
    Worker(WorkerId),
    Run,
}

#[derive(Default)]
struct FakeResident {
    given: u64,
    /// Rows read from each input, and whether it is over.
    fed: BTreeMap<usize, (Vec<u64>, bool)>,
    /// Fed but not taken, as it waits for another input.
    waiting: BTreeMap<usize, Vec<u64>>,
    pulled: bool,
    emitted: bool,
}

impl Fake<'_> {
    fn store(&mut self, rows: Vec<u64>) -> Meta {
        self.next_batch += 1;
        let id = BatchId(self.next_batch);
        let meta = Meta { id, rows: rows.len() as u64, bytes: rows.len() as u64 };
        self.batches.insert(id, rows);
        meta
    }

    fn push(&mut self, lane: Lane, event: Event) {
        self.lanes.entry(lane).or_default().push(event);
    }

    /// The next thing that happens: any lane's first event.
    fn next(&mut self) -> Option<Event> {
        let lanes: Vec<Lane> = self.lanes.keys().copied().collect();
        let lane = *lanes.get(self.rng.random_range(0..lanes.len().max(1)))?;
        if let (Lane::Attempt(attempt), true) = (lane, self.kills > 0 && self.rng.random_bool(0.1))
            && let Some((&worker, _)) = self.busy.iter().find(|(_, running)| **running == attempt)
            // A row that is killed alone again and again is rightly blamed.
            && !self.single.contains(&attempt)
        {
            self.kills -= 1;
            // What the worker would have given is lost with it.
            for event in self.lanes.remove(&lane).unwrap_or_default() {
                if let Event::AttemptDone { outputs, .. } = event {
                    outputs.iter().for_each(|output| drop(self.batches.remove(&output.batch.id)));
                }
            }
            self.busy.remove(&worker);
            return Some(Event::WorkerExited { worker, failure: failure(Verdict::Crash), cause: ExitCause::Own });
        }
        let events = self.lanes.get_mut(&lane)?;
        let event = events.remove(0);
        if events.is_empty() {
            self.lanes.remove(&lane);
        }
        if let Event::AttemptDone { attempt, .. } | Event::AttemptFailed { attempt, .. } = &event {
            self.busy.retain(|_, running| running != attempt);
        }
        Some(event)
    }

    fn perform(&mut self, action: Action) {
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
                        self.residents.entry(stage).or_default().waiting.insert(input, rows);
                        self.go_on(stage);
                    }
                }
            }
            Action::EndInput { stage, input } => {
                if self.shapes[stage.index()].kind == Kind::Sink {
                    self.push(Lane::Stage(stage), Event::Ended { stage });
                } else {
                    self.residents.entry(stage).or_default().fed.entry(input).or_default().1 = true;
                    self.go_on(stage);
                }
            }
            Action::Close { stage } => self.push(Lane::Stage(stage), Event::Ended { stage }),
            Action::StartWorker { worker, .. } => self.push(Lane::Worker(worker), Event::WorkerReady { worker }),
            Action::Dispatch(dispatch) => self.dispatch(dispatch),
            Action::Publish { stage, port, batch } => {
                let rows = self.batches.remove(&batch).expect("a batch that is published exists");
                self.put(stage, port, &rows);
            }
            Action::PublishRejects { stage, port, batch, rejects } => {
                let rows = &self.batches[&batch];
                let rows: Vec<u64> = rejects
                    .iter()
                    .flat_map(|reject| reject.rows.clone())
                    .map(|row| rows[usize::try_from(row).expect("small")])
                    .collect();
                self.put(stage, port, &rows);
            }
            Action::FinishPorts { stage } => {
                self.push(Lane::Stage(stage), Event::PortsFinished { stage, queued: Vec::new() });
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

    fn put(&mut self, stage: StageId, port: usize, rows: &[u64]) {
        let edges = self.plan.stage(stage).ports[port].edges.clone();
        let queued = edges.into_iter().map(|edge| {
            let meta = self.store(rows.to_vec());
            QueuedPieces { edge, pieces: vec![meta], held_bytes: 0, spilled: self.plan.edge(edge).spills }
        });
        let queued = queued.collect();
        self.push(Lane::Stage(stage), Event::Queued { stage, queued });
    }

    fn dispatch(&mut self, dispatch: Dispatch) {
        let Dispatch { attempt, stage, sequence, host, work } = dispatch;
        let Host::Worker(worker) = host else { panic!("no such stage here: {host:?}") };
        assert!(self.busy.insert(worker, attempt).is_none(), "{worker:?} runs two attempts");
        assert!(self.busy.len() <= self.plan.workers as usize, "more attempts than workers");
        let event = match work {
            Work::Rows { batch, rows } => {
                let all = &self.batches[&batch.id];
                let rows: Vec<u64> =
                    rows.into_iter().flatten().map(|row| all[usize::try_from(row).expect("small")]).collect();
                if rows.len() == 1 {
                    self.single.insert(attempt);
                }
                if self.shapes[stage.index()].rejects && rows.iter().copied().any(is_poison) {
                    Event::AttemptFailed { attempt, failure: failure(Verdict::Exception) }
                } else {
                    let given = rows.len() as u64;
                    let outputs = vec![Output { port: 0, batch: self.store(rows) }];
                    Event::AttemptDone { attempt, rows: given, outputs, end: false }
                }
            }
            Work::Pull => {
                let Kind::Generator { rows } = self.shapes[stage.index()].kind else { panic!("not a generator") };
                let pulls = self.pulls.entry((stage, sequence)).or_default();
                *pulls += 1;
                if *pulls == 3 {
                    self.single.insert(attempt);
                }
                let (from, to) = (sequence * 7, (sequence * 7 + 7).min(rows));
                let given = (from..to).map(|row| row + stage.index() as u64 * 1000).collect::<Vec<_>>();
                let outputs =
                    if given.is_empty() { vec![] } else { vec![Output { port: 0, batch: self.store(given) }] };
                Event::AttemptDone { attempt, rows: 0, outputs, end: to == rows }
            }
            Work::Task => panic!("no tasks here"),
        };
        self.push(Lane::Attempt(attempt), event);
    }

    /// Lets a source or a join do what it can.
    fn go_on(&mut self, stage: StageId) {
        let shape = &self.shapes[stage.index()];
        let lane = Lane::Stage(stage);
        if let Kind::Source { rows } = shape.kind {
            let batch = self.rng.random_range(2..30);
            let resident = self.residents.entry(stage).or_default();
            let (from, to) = (resident.given, (resident.given + batch).min(rows));
            if from == to {
                self.push(lane, Event::Ended { stage });
                return;
            }
            resident.given = to;
            let rows = (from..to).map(|row| row + stage.index() as u64 * 1000).collect();
            let batch = self.store(rows);
            self.push(lane, Event::Produced { stage, outputs: vec![Output { port: 0, batch }] });
            return;
        }
        let resident = self.residents.entry(stage).or_default();
        // The last input first, whatever comes in on the others.
        for input in (0..shape.from.len()).rev() {
            if let Some(rows) = resident.waiting.remove(&input) {
                let event = Event::Taken { stage, input, rows: rows.len() as u64 };
                resident.fed.entry(input).or_default().0.extend(rows);
                self.lanes.entry(lane).or_default().push(event);
            }
            if !resident.fed.get(&input).is_some_and(|(_, over)| *over) {
                return;
            }
        }
        if resident.pulled && !std::mem::replace(&mut resident.emitted, true) {
            let rows = (0..shape.from.len()).rev().flat_map(|input| resident.fed[&input].0.clone()).collect();
            resident.pulled = false;
            let batch = self.store(rows);
            self.push(lane, Event::Produced { stage, outputs: vec![Output { port: 0, batch }] });
        } else if resident.pulled {
            self.push(lane, Event::Ended { stage });
        }
    }
}

fn failure(verdict: Verdict) -> Failure {
    Failure { verdict, scope: Scope::Rows, message: "boom".into(), traceback: String::new() }
}

fn run(shapes: &[Shape], workers: u32, kills: u32, rng: TestRng) {
    let plan = plan(shapes, workers);
    let mut scheduler = Scheduler::new(Arc::new(plan.clone()));
    let mut fake = Fake {
        shapes,
        plan: &plan,
        rng,
        batches: BTreeMap::new(),
        next_batch: 0,
        lanes: BTreeMap::new(),
        busy: BTreeMap::new(),
        single: BTreeSet::new(),
        pulls: BTreeMap::new(),
        residents: BTreeMap::new(),
        sinks: BTreeMap::new(),
        kills,
        ending: None,
        committed: false,
    };
    let mut actions = scheduler.start(Duration::ZERO);
    let mut steps = 0;
    loop {
        for action in actions {
            fake.perform(action);
        }
        check_bounds(&scheduler, &plan);
        if fake.ending.is_some() {
            break;
        }
        let event = fake.next().unwrap_or_else(|| panic!("nothing happens any more: {:?}", scheduler.snapshot()));
        actions = scheduler.handle(event, Duration::from_millis(steps));
        steps += 1;
        assert!(steps < 200_000, "the run does not end");
    }
    assert_eq!(fake.ending, Some(Ending::Succeeded));
    assert!(fake.committed);
    assert!(fake.batches.is_empty(), "batches were not released: {:?}", fake.batches);
    let expected = expected(shapes);
    for (at, shape) in shapes.iter().enumerate().filter(|(_, shape)| shape.kind == Kind::Sink) {
        let wanted: Vec<u64> =
            shape.from.iter().flat_map(|&(from, rejected)| expected[from][usize::from(rejected)].clone()).collect();
        assert_eq!(fake.sinks.get(&StageId(at as u32)).cloned().unwrap_or_default(), wanted, "sink s{at}");
    }
}

fn check_bounds(scheduler: &Scheduler, plan: &Plan) {
    for (queue, edge) in scheduler.queues.iter().zip(&plan.edges) {
        if edge.spills {
            continue;
        }
        let (batches, bound) = (queue.batches(), u64::from(edge.capacity.batches.get()));
        assert!(batches <= bound, "{:?}: {batches} batches, bound {bound}", edge.id);
    }
    let running = scheduler.running.len();
    assert!(running <= plan.workers as usize, "{running} attempts, {} workers", plan.workers);
}

fn histories(cases: u32) {
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let result = runner.run(&(shapes(), 0u32..3, any::<u64>()), |((shapes, workers), kills, seed)| {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        run(&shapes, workers, kills, TestRng::from_seed(prop::test_runner::RngAlgorithm::ChaCha, &bytes));
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

#[test]
fn every_history_ends_with_every_row_in_its_place() {
    let cases = std::env::var("MILLPOND_HISTORIES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(2_000);
    histories(cases);
}
