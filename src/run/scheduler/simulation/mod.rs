//! The scheduler against random pipelines, random speeds, random failures: every history must end with every row where it
//! belongs, in order, and no queue over its bound on the way; or with the failure that the data calls for.
//!
//! `cargo test --release --lib histor` runs some hundreds of them, `MILLPOND_LONG=1` a hundred thousand on two threads.
//! `MILLPOND_HISTORIES=<number> MILLPOND_SEED=<number>` runs as many as are asked for, and again those that a run has printed.

mod fake;
mod shape;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRng, TestRunner};

use super::*;
use crate::plan::{Plan, ResourceId, ResourceKind, StageId, Verdict};
use crate::run::{Ending, StageFailure};
use fake::{Fake, failure, index};
use shape::{Kind, Shape, comparable, expected, is_poison, plan, shapes};

/// How often nothing happened but that something had rested.
static RESTS: AtomicU64 = AtomicU64::new(0);
/// How often all attempts ended after an interrupt.
static DRAINED: AtomicU64 = AtomicU64::new(0);
/// How often something was taken that stages share.
static USES: AtomicU64 = AtomicU64::new(0);

/// What happens to a run from outside.
#[derive(Clone, Copy, Debug)]
struct Weather {
    /// Workers that are killed.
    kills: u32,
    /// Workers that are replaced, as they have too much memory.
    replaced: u32,
    /// How often all workers fall with the engine's template.
    falls: u32,
    /// Time between two steps.
    tick: Duration,
    blow: Blow,
}

/// What ends a run at once, before its step with this number.
#[derive(Clone, Copy, Debug)]
enum Blow {
    None,
    Interrupt(u64),
    /// A resident stage fails, or the publication of any stage's output.
    Failure(u64, prop::sample::Index),
}

fn weather() -> impl Strategy<Value = Weather> {
    let blow = prop_oneof![
        8 => Just(Blow::None),
        1 => (0u64..300).prop_map(Blow::Interrupt),
        1 => (0u64..300, any::<prop::sample::Index>()).prop_map(|(step, stage)| Blow::Failure(step, stage)),
    ];
    let tick = prop_oneof![Just(Duration::from_micros(20)), Just(Duration::from_millis(1))];
    let deaths = (0u32..3, 0u32..3, 0u32..4);
    (deaths, tick, blow).prop_map(|((kills, replaced, falls), tick, blow)| Weather {
        kills,
        replaced,
        falls,
        tick,
        blow,
    })
}

impl Blow {
    /// What happens at `step`, and how the run must end then.
    fn at(self, step: u64, plan: &Plan) -> Option<(Event, Ending)> {
        match self {
            Self::Interrupt(at) if at == step => Some((Event::Interrupted, Ending::Interrupted)),
            Self::Failure(at, stage) if at == step => {
                let (stage, failure) = (stage.get(&plan.stages).id, failure(Verdict::Exception));
                let ending = Ending::Failed(Box::new(StageFailure::of_stage(stage, failure.clone())));
                Some((Event::StageFailed { stage, failure }, ending))
            }
            _ => None,
        }
    }
}

fn run(shapes: &[Shape], workers: u32, weather: Weather, rng: TestRng) {
    let plan = plan(shapes, workers);
    let mut scheduler = Scheduler::new(Arc::new(plan.clone()));
    let mut fake = Fake {
        shapes,
        plan: &plan,
        rng,
        batches: BTreeMap::new(),
        weights: BTreeMap::new(),
        on_edge: BTreeMap::new(),
        given: BTreeMap::new(),
        attempts: BTreeMap::new(),
        next_batch: 0,
        lanes: BTreeMap::new(),
        busy: BTreeMap::new(),
        waiting: VecDeque::new(),
        workers: BTreeSet::new(),
        behind: BTreeMap::new(),
        opened: BTreeSet::new(),
        parts: BTreeSet::new(),
        single: BTreeSet::new(),
        pulls: BTreeMap::new(),
        residents: BTreeMap::new(),
        cutters: BTreeMap::new(),
        sinks: BTreeMap::new(),
        tasks: BTreeSet::new(),
        recorded: BTreeMap::new(),
        states: BTreeMap::new(),
        kills: weather.kills,
        replaced: weather.replaced,
        ending_workers: BTreeSet::new(),
        falls: weather.falls,
        losses: weather.replaced,
        failed_starts: 2,
        ending: None,
        committed: false,
        published_early: BTreeSet::new(),
        over: BTreeSet::new(),
        partly: BTreeMap::new(),
        published: BTreeMap::new(),
        updated: BTreeMap::new(),
    };
    let mut turns = Turns::default();
    let mut rates = Rates::default();
    let mut actions = scheduler.start(Duration::ZERO);
    let mut steps = 0;
    let mut now = Duration::ZERO;
    loop {
        turns.look(&scheduler, &actions);
        for action in actions {
            assert!(fake.ending.is_none(), "after the end: {action:?}");
            if let Action::Dispatch(dispatch) = &action {
                rates.count(&plan, &scheduler, dispatch, now);
            }
            fake.perform(action);
        }
        check_bounds(&scheduler, &plan, &fake);
        if let Some(ending) = &fake.ending {
            check_ending(ending, &scheduler, &fake);
            return;
        }
        if let Some((event, ending)) = weather.blow.at(steps, &plan) {
            for action in scheduler.handle(event, now) {
                fake.perform(action);
            }
            if fake.ending.is_none() {
                drain(&mut scheduler, &mut fake, now);
            }
            assert_eq!(fake.ending, Some(ending));
            return;
        }
        let event = fake.next().unwrap_or_else(|| {
            let wakes_at = scheduler.wakes_at();
            now = wakes_at.unwrap_or_else(|| panic!("nothing happens any more: {:?}", scheduler.snapshot()));
            RESTS.fetch_add(1, Ordering::Relaxed);
            Event::Woken
        });
        actions = scheduler.handle(event, now);
        now += weather.tick;
        steps += 1;
        assert!(steps < 200_000, "the run does not end");
    }
}

/// After an interrupt, attempts that run may end and nothing begins; then the run ends, or when the time is over, or at a second interrupt.
fn drain(scheduler: &mut Scheduler, fake: &mut Fake, mut now: Duration) {
    assert!(!scheduler.running.is_empty(), "there is nothing to wait for");
    let patience = fake.rng.random_range(0..40);
    for _ in 0..patience {
        let Some(event) = fake.next() else { break };
        for action in scheduler.handle(event, now) {
            let begins = matches!(
                action,
                Action::Dispatch(_) | Action::StartWorker { .. } | Action::Pull { .. } | Action::PublishSink { .. }
            );
            assert!(!begins, "after an interrupt: {action:?}");
            fake.perform(action);
        }
        if fake.ending.is_some() {
            DRAINED.fetch_add(1, Ordering::Relaxed);
            return;
        }
        now += Duration::from_micros(1);
    }
    let until = scheduler.wakes_at().expect("the end of the grace");
    let (event, at) = if patience % 2 == 0 { (Event::Woken, until) } else { (Event::Interrupted, now) };
    scheduler.handle(event, at).into_iter().for_each(|action| fake.perform(action));
}

fn check_ending(ending: &Ending, scheduler: &Scheduler, fake: &Fake) {
    match ending {
        Ending::Succeeded => {
            check_success(fake);
            check_accounts(scheduler, fake);
        }
        Ending::Failed(failure) => check_failure(failure, fake),
        other => panic!("{other:?}"),
    }
}

fn check_success(fake: &Fake) {
    let expected = expected(fake.shapes);
    let given = |shape: &Shape| -> Vec<u64> {
        shape.from.iter().flat_map(|&(from, rejected)| expected[from][usize::from(rejected)].clone()).collect()
    };
    assert!(fake.committed);
    assert!(fake.batches.is_empty(), "batches were not released: {:?}", fake.batches);
    // A stage may be spared its poison by a limit behind it.
    let is_cut_short = fake.shapes.iter().any(|shape| matches!(shape.kind, Kind::Limit { .. }));
    for (at, shape) in fake.shapes.iter().enumerate() {
        let stage = StageId(at as u32);
        if fake.counts(stage) {
            assert_eq!(
                fake.updated.get(&stage),
                fake.published.get(&stage).filter(|rows| !rows.is_empty()),
                "updates of s{at}"
            );
        }
        match shape.kind {
            Kind::Sink => {
                let written = fake.sinks.get(&stage).cloned().unwrap_or_default();
                let [written, given] = [written, given(shape)].map(|rows| comparable(fake.shapes, rows));
                assert_eq!(written, given, "sink s{at}");
            }
            Kind::Task => assert!(fake.tasks.contains(&stage), "task s{at}"),
            _ if shape.fails && !is_cut_short => {
                assert!(!given(shape).into_iter().any(is_poison), "s{at} cannot have succeeded");
            }
            _ => {}
        }
    }
}

/// However batches were sliced and tried, each row has one verdict.
fn check_accounts(scheduler: &Scheduler, fake: &Fake) {
    let expected = expected(fake.shapes);
    if fake.shapes.iter().any(|shape| matches!(shape.kind, Kind::Limit { .. })) {
        return;
    }
    for (at, ((shape, given), account)) in fake.shapes.iter().zip(&expected).zip(scheduler.accounts().0).enumerate() {
        let (Kind::Map(_) | Kind::Source { .. }) = shape.kind else { continue };
        let rows = |rows: &[u64]| rows.len() as u64;
        let read = shape.from.iter().map(|&(from, rejected)| rows(&expected[from][usize::from(rejected)]));
        let counted = (account.rows_in, account.rows_out, account.rejected);
        assert_eq!(counted, (read.sum(), rows(&given[0]), rows(&given[1])), "{shape:?}");
        assert!(shape.max_rows.is_none_or(|most| rows(&given[1]) <= most), "over its budget: {shape:?}");
        let is_read = fake.shapes.iter().any(|reader| reader.from.contains(&(at, true)));
        let recorded = fake.recorded.get(&StageId(at as u32)).cloned().unwrap_or_default();
        let unread = if is_read { Vec::new() } else { given[1].clone() };
        let [recorded, unread] = [recorded, unread].map(|rows| comparable(fake.shapes, rows));
        assert_eq!(recorded, unread, "{shape:?}");
    }
}

/// Whatever was tried first, it is the first poison row of the stage's input that is named.
fn check_failure(failure: &StageFailure, fake: &Fake) {
    let shape = &fake.shapes[failure.stage.index()];
    if failure.failure.scope == Scope::Budget {
        let rejected = expected(fake.shapes)[failure.stage.index()][1].len() as u64;
        assert!(shape.max_rows.is_some_and(|most| rejected > most), "{failure:?}");
        return;
    }
    assert!(shape.fails, "{failure:?}");
    if shape.kind == Kind::Keyed {
        check_lane_failure(failure, fake);
        return;
    }
    let (batch, rows) = failure.rows.clone().expect("rows are to blame");
    assert_eq!(rows.end - rows.start, 1);
    let expected = expected(fake.shapes);
    let given = shape.from.iter().flat_map(|&(from, rejected)| &expected[from][usize::from(rejected)]);
    let mut poison = given.copied().filter(|row| is_poison(*row));
    let blamed = fake.batches[&batch][index(rows.start)];
    if fake.shapes.iter().any(|shape| shape.any) {
        assert!(poison.any(|row| row == blamed), "{blamed} is well");
    } else {
        assert_eq!(Some(blamed), poison.next());
    }
    assert!(!fake.committed);
}

/// A batch is not divided to find the row; but of its lanes, the first that failed is the one that counts.
fn check_lane_failure(failure: &StageFailure, fake: &Fake) {
    let expected = expected(fake.shapes);
    let from = &fake.shapes[failure.stage.index()].from;
    let mut given = from.iter().flat_map(|&(from, rejected)| &expected[from][usize::from(rejected)]);
    let first = given.find(|row| is_poison(**row)).expect("there is one");
    if fake.shapes.iter().all(|shape| !shape.any) {
        assert_eq!(failure.failure.message, format!("boom at {first}"));
    }
    assert!(failure.sequence.is_some() && failure.rows.is_none());
    assert!(!fake.committed);
}

fn check_bounds(scheduler: &Scheduler, plan: &Plan, fake: &Fake) {
    let in_memory = fake.in_memory();
    for ((queue, edge), in_memory) in scheduler.queues.iter().zip(&plan.edges).zip(in_memory) {
        if edge.spills || queue.is_closed() {
            continue;
        }
        // Each batch that was admitted may complete a piece that the cut kept back.
        let largest = fake.cutters.get(&edge.id).map_or(0, |cutter| cutter.largest);
        let pieces = fake.shapes[edge.to.index()].cut.map_or(1, |cut| largest.div_ceil(cut) + 1);
        let (batches, bound) = (queue.batches(), u64::from(edge.capacity.batches.get()) * pieces);
        assert!(batches <= bound, "{:?}: {batches} batches, bound {bound}", edge.id);
        check_bytes(scheduler, queue, edge, in_memory, fake);
    }
    for (at, resource) in plan.resources.iter().enumerate() {
        let ResourceKind::Units(all) = resource.kind else { continue };
        let with_units = scheduler.running.values().filter(|running| running.taken_rows.is_some());
        let uses = with_units.flat_map(|running| &plan.stage(running.stage).uses);
        let taken: u32 = uses.filter(|of| of.resource.index() == at).map(|of| of.units).sum();
        let held = scheduler.resources.held(ResourceId(at as u32));
        let is_known = held.iter().all(|unit| *unit < all) && held.iter().collect::<BTreeSet<_>>().len() == held.len();
        assert!(is_known, "a unit is held twice: {held:?}");
        assert!(taken.max(u32::try_from(held.len()).expect("few")) <= all, "{taken} units of {all} are taken");
    }
    for (state, stage) in scheduler.stages.iter().zip(&plan.stages) {
        let jobs = match &state.work {
            stage_state::Work::Jobs(jobs) => jobs.jobs.len(),
            stage_state::Work::Keyed(keyed) => keyed.jobs.len(),
            stage_state::Work::Resident(_) => continue,
        };
        let edges = stage.ports.iter().flat_map(|port| &port.edges).map(|edge| &plan.edges[edge.index()]);
        let open = edges.filter(|edge| !scheduler.queues[edge.id.index()].is_closed());
        let credits = open.map(|edge| index(edge.capacity.batches.get().into())).min();
        let bound = credits.unwrap_or(8 * index(stage.workers.max.get().min(plan.workers).into())).max(1);
        // An output that is closed in the meantime bounds nothing from then on.
        let bound = if stage.ports.iter().flat_map(|port| &port.edges).count() > 0 { bound.max(8 * 4) } else { bound };
        assert!(jobs <= bound, "{}: {jobs} batches open, bound {bound}", stage.name);
    }
    let (native, slots): (Vec<Host>, Vec<Host>) = fake.busy.values().copied().partition(|host| *host == Host::Native);
    assert!(fake.waiting.len() <= index(plan.workers.into()), "{} attempts were sent ahead", fake.waiting.len());
    for (running, name) in [(native.len(), "threads"), (slots.len(), "workers")] {
        assert!(running <= index(plan.workers.into()), "{running} attempts on {} {name}", plan.workers);
    }
}

/// What is charged is what is there; and that is the bound, but for batches that were larger than could be known.
fn check_bytes(
    scheduler: &Scheduler,
    queue: &queue::Queue,
    edge: &crate::plan::Edge,
    (bytes, pieces): (u64, u64),
    fake: &Fake,
) {
    let charged = queue.bytes_charged();
    // Rejected rows weigh what they weigh only when they are published.
    let is_known = edge.port == 0 || scheduler.stages[edge.from.index()].publishing.is_empty();
    assert!(bytes <= charged || !is_known, "{:?}: {bytes} bytes, {charged} charged", edge.id);
    let largest = fake.cutters.get(&edge.id).map_or(0, |cutter| cutter.largest_bytes);
    // What the cut keeps back is not there for the consumer to take.
    let cut = fake.shapes[edge.to.index()].cut.unwrap_or(0) * fake.shapes[edge.from.index()].weight;
    let taken = pieces - (queue.len() as u64).min(pieces);
    let guessed = u64::from(edge.capacity.batches.get());
    let bound = edge.capacity.bytes.get() + cut + (guessed + taken) * largest;
    assert!(bytes <= bound || !is_known, "{:?}: {bytes} bytes, bound {bound}", edge.id);
}

/// How often what comes at a rate was taken for whole attempts.
#[derive(Default)]
struct Rates {
    taken: BTreeMap<u32, f64>,
}

impl Rates {
    /// Not more than was there at the beginning and has come since.
    fn count(&mut self, plan: &Plan, scheduler: &Scheduler, dispatch: &Dispatch, now: Duration) {
        let uses = &plan.stage(dispatch.stage).uses;
        let is_queued = matches!(dispatch.host, Host::NextProcess)
            || scheduler.running.get(&dispatch.attempt).is_some_and(|running| running.since.is_none());
        assert!(uses.is_empty() || !is_queued, "what an attempt uses is taken while it waits");
        if matches!(dispatch.work, Work::Join { .. }) {
            return;
        }
        USES.fetch_add(uses.len() as u64, Ordering::Relaxed);
        for of in uses.iter().filter(|of| !of.per_row) {
            let ResourceKind::Rate { per_second, burst } = plan.resources[of.resource.index()].kind else {
                continue;
            };
            let taken = self.taken.entry(of.resource.0).or_default();
            *taken += f64::from(of.units);
            let come = f64::from(burst) + now.as_secs_f64() * per_second;
            // What does not fit into the bucket is owed once.
            assert!(*taken <= come + f64::from(of.units) + 1e-3, "{taken} of {come} were taken");
        }
    }
}

/// How long stages that could run have waited for their turn.
#[derive(Default)]
struct Turns {
    waited: BTreeMap<StageId, u32>,
}

impl Turns {
    /// Nobody waits for ever: sooner or later a stage with input, credit and a worker goes before all others.
    /// And no attempt waits behind another one while a worker is idle that could run it.
    fn look(&mut self, scheduler: &Scheduler, actions: &[Action]) {
        let has_place = |stage: StageId| match scheduler.stages[stage.index()].role {
            Role::Map(MapHost::Worker(class)) | Role::Generator(class) => scheduler.pool.has_idle(class),
            Role::Keyed(class) => has_idle_lane(scheduler, stage, class),
            _ => true,
        };
        // One that runs as many attempts as it may is ready for no more than to queue.
        let has_place = |stage: StageId| {
            let is_full = |jobs: &stage_state::Jobs| jobs.running >= scheduler.plan.stage(stage).workers.max.get();
            let is_full =
                matches!(&scheduler.stages[stage.index()].work, stage_state::Work::Jobs(jobs) if is_full(jobs));
            !is_full && has_place(stage)
        };
        for action in actions {
            let Action::Dispatch(Dispatch { stage, attempt, host, .. }) = action else { continue };
            let waits = scheduler.running.get(attempt).is_some_and(|running| running.since.is_none());
            let is_idle = || has_place(*stage) && scheduler.busy_slots < scheduler.plan.workers;
            assert!(!waits || !is_idle(), "{stage:?} waits behind another attempt on {host:?}, while others are idle");
            let is_native = |stage: StageId| scheduler.stages[stage.index()].role.is_native();
            let rivals = self.waited.iter_mut().filter(|(other, _)| is_native(**other) == is_native(*stage));
            rivals.for_each(|(_, turns)| *turns += 1);
            self.waited.entry(*stage).and_modify(|turns| *turns = 0);
        }
        // One that could not begin before this step has waited for nobody in it.
        let all = scheduler.plan.stages.iter().map(|stage| stage.id);
        let ready = all.filter(|stage| scheduler.ready.contains(*stage) && has_place(*stage));
        self.waited = ready.map(|stage| (stage, self.waited.get(&stage).copied().unwrap_or(0))).collect();
        // Of those that have waited long enough, the longest goes first.
        let bound = ready::PATIENCE + scheduler.stages.len() as u32;
        assert!(self.waited.values().all(|turns| *turns <= bound), "turns of others: {:?}, bound {bound}", self.waited);
    }
}

/// Whether a lane has a job, and the idle worker that is to do it.
fn has_idle_lane(scheduler: &Scheduler, stage: StageId, class: ClassId) -> bool {
    let stage_state::Work::Keyed(keyed) = &scheduler.stages[stage.index()].work else { return false };
    keyed
        .lanes
        .iter()
        .enumerate()
        .any(|(at, lane)| keyed.has_job(at) && lane.worker.is_some_and(|worker| scheduler.pool.is_idle(class, worker)))
}

/// Cases and seed are printed, so that a failure can be seen again: `MILLPOND_HISTORIES=<cases> MILLPOND_SEED=<seed>`.
fn histories(cases: u32, seed: u64) {
    println!("{cases} histories, seed {seed}");
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, rng(seed));
    let result = runner.run(&(shapes(), weather(), any::<u64>()), |((shapes, workers), weather, seed)| {
        run(&shapes, workers, weather, rng(seed));
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

#[test]
fn every_history_ends_with_every_row_in_its_place() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let is_long = std::env::var_os("MILLPOND_LONG").is_some();
    let cases = number("MILLPOND_HISTORIES").unwrap_or(if is_long { 100_000 } else { 500 });
    let threads = if is_long { 2 } else { 1 };
    let seed = number("MILLPOND_SEED").unwrap_or_else(rand_seed);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let cases = u32::try_from(cases / threads).expect("fewer cases");
            scope.spawn(move || histories(cases, seed.wrapping_add(thread)));
        }
    });
    let happened = [
        &fake::JOINS,
        &fake::QUEUED,
        &fake::SKIPPED,
        &fake::THROTTLED,
        &fake::UPDATED,
        &fake::UNREAD,
        &fake::RECALLED,
        &fake::PARTLY,
        &fake::PUBLISHED_EARLY,
        &fake::KEPT,
        &RESTS,
        &DRAINED,
        &USES,
    ]
    .map(|count| count.load(Ordering::Relaxed));
    assert!(
        cases < 100 || happened.iter().all(|count| *count > 0),
        "joins, attempts behind others, rows skipped, throttled, updates of the state, rows unread, batches recalled whole and partly, sinks published early, batches kept, rests, runs drained, resources used: {happened:?}"
    );
}

proptest! {
    /// Before anything has happened, whoever has inputs waits for those that give them.
    #[test]
    fn it_can_be_told_who_waits_for_whom((shapes, workers) in shapes()) {
        let mut scheduler = Scheduler::new(Arc::new(plan(&shapes, workers)));
        scheduler.start(Duration::ZERO);
        let waiting = scheduler.waiting();
        prop_assert_eq!(waiting.len(), shapes.len());
        for (at, (line, shape)) in waiting.iter().zip(&shapes).enumerate() {
            let names = |stages: BTreeSet<usize>| {
                stages.iter().map(|stage| format!("`s{stage}`")).collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(", ")
            };
            let givers: BTreeSet<usize> = shape.from.iter().map(|(from, _)| *from).collect();
            let expected = match (shape.after.is_empty(), givers.is_empty()) {
                (false, _) => format!("`s{at}` waits for the end of {}", names(shape.after.iter().copied().collect())),
                (true, false) => format!("`s{at}` waits for input from {}", names(givers)),
                (true, true) => format!("`s{at}` "),
            };
            prop_assert!(line.starts_with(&expected), "{} is not {}", line, expected);
        }
    }
}

fn rng(seed: u64) -> TestRng {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    TestRng::from_seed(prop::test_runner::RngAlgorithm::ChaCha, &bytes)
}

/// Another one every time.
fn rand_seed() -> u64 {
    use std::hash::BuildHasher;
    std::hash::RandomState::new().hash_one(())
}
