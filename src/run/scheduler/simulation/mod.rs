//! The scheduler against random pipelines, random speeds, random failures: every history must end with every row where it
//! belongs, in order, and no queue over its bound on the way; or with the failure that the data calls for.

mod fake;
mod shape;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRng, TestRunner};

use super::*;
use crate::plan::{Plan, StageId, Verdict};
use crate::run::{Ending, StageFailure};
use fake::{Fake, failure, index};
use shape::{Kind, Shape, expected, is_poison, plan, shapes};

/// What happens to a run from outside.
#[derive(Clone, Copy, Debug)]
struct Weather {
    /// Workers that are killed.
    kills: u32,
    /// How often all workers fall with the engine's template.
    falls: u32,
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
    (0u32..3, 0u32..4, blow).prop_map(|(kills, falls, blow)| Weather { kills, falls, blow })
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
        next_batch: 0,
        lanes: BTreeMap::new(),
        busy: BTreeMap::new(),
        workers: BTreeSet::new(),
        single: BTreeSet::new(),
        pulls: BTreeMap::new(),
        residents: BTreeMap::new(),
        cutters: BTreeMap::new(),
        sinks: BTreeMap::new(),
        tasks: BTreeSet::new(),
        kills: weather.kills,
        falls: weather.falls,
        failed_starts: 2,
        ending: None,
        committed: false,
        over: BTreeSet::new(),
    };
    let mut actions = scheduler.start(Duration::ZERO);
    let mut steps = 0;
    loop {
        for action in actions {
            assert!(fake.ending.is_none(), "after the end: {action:?}");
            fake.perform(action);
        }
        check_bounds(&scheduler, &plan, &fake);
        if let Some(ending) = &fake.ending {
            check_ending(ending, &fake);
            return;
        }
        if let Some((event, ending)) = weather.blow.at(steps, &plan) {
            for action in scheduler.handle(event, Duration::from_millis(steps)) {
                fake.perform(action);
            }
            assert_eq!(fake.ending, Some(ending));
            return;
        }
        let event = fake.next().unwrap_or_else(|| panic!("nothing happens any more: {:?}", scheduler.snapshot()));
        actions = scheduler.handle(event, Duration::from_millis(steps));
        steps += 1;
        assert!(steps < 200_000, "the run does not end");
    }
}

fn check_ending(ending: &Ending, fake: &Fake) {
    match ending {
        Ending::Succeeded => check_success(fake),
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
        match shape.kind {
            Kind::Sink => assert_eq!(fake.sinks.get(&stage).cloned().unwrap_or_default(), given(shape), "sink s{at}"),
            Kind::Task => assert!(fake.tasks.contains(&stage), "task s{at}"),
            _ if shape.fails && !is_cut_short => {
                assert!(!given(shape).into_iter().any(is_poison), "s{at} cannot have succeeded");
            }
            _ => {}
        }
    }
}

/// Whatever was tried first, it is the first poison row of the stage's input that is named.
fn check_failure(failure: &StageFailure, fake: &Fake) {
    let shape = &fake.shapes[failure.stage.index()];
    assert!(shape.fails, "{failure:?}");
    let (batch, rows) = failure.rows.clone().expect("rows are to blame");
    assert_eq!(rows.end - rows.start, 1);
    let expected = expected(fake.shapes);
    let given = shape.from.iter().flat_map(|&(from, rejected)| &expected[from][usize::from(rejected)]);
    let first = given.copied().find(|row| is_poison(*row));
    assert_eq!(Some(fake.batches[&batch][index(rows.start)]), first);
    assert!(!fake.committed);
}

fn check_bounds(scheduler: &Scheduler, plan: &Plan, fake: &Fake) {
    for (queue, edge) in scheduler.queues.iter().zip(&plan.edges) {
        if edge.spills || queue.is_closed() {
            continue;
        }
        // Each batch that was admitted may complete a piece that the cut kept back.
        let largest = fake.cutters.get(&edge.id).map_or(0, |cutter| cutter.largest);
        let pieces = fake.shapes[edge.to.index()].cut.map_or(1, |cut| largest.div_ceil(cut) + 1);
        let (batches, bound) = (queue.batches(), u64::from(edge.capacity.batches.get()) * pieces);
        assert!(batches <= bound, "{:?}: {batches} batches, bound {bound}", edge.id);
    }
    let (native, slots): (Vec<Host>, Vec<Host>) = fake.busy.values().copied().partition(|host| *host == Host::Native);
    for (running, name) in [(native.len(), "threads"), (slots.len(), "workers")] {
        assert!(running <= index(plan.workers.into()), "{running} attempts on {} {name}", plan.workers);
    }
}

fn histories(cases: u32) {
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let result = runner.run(&(shapes(), weather(), any::<u64>()), |((shapes, workers), weather, seed)| {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        run(&shapes, workers, weather, TestRng::from_seed(prop::test_runner::RngAlgorithm::ChaCha, &bytes));
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

#[test]
fn every_history_ends_with_every_row_in_its_place() {
    let cases = std::env::var("MILLPOND_HISTORIES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(1_500);
    histories(cases);
}
