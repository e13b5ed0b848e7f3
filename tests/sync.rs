//! Locks, semaphores, events and barriers: they hold over all workers, go on when a holder dies, and never make a run stand still.

mod support;

use std::time::Duration;

use support::{Scene, calls, numbers};

const STAGES: &str = "
rows:
  read: rows.csv
worked:
  from: rows
  python: { call: work:work, as: row }
  batch: { rows: 1 }
  workers: 3
sink:
  from: worked
  write: out/rows.csv
";

fn scene(stages: &str, module: &str, rows: u32) -> Scene {
    let scene = Scene::new(stages, module).with_calls();
    scene.write("rows.csv", &numbers(0..rows));
    scene
}

/// The most calls that were within the held part at one moment.
fn most_at_once(scene: &Scene) -> usize {
    calls::most_at_once(&scene.times().into_iter().map(|(_, times)| times).collect::<Vec<_>>())
}

/// `HELD` is entered for a while by every row.
const HOLDS: &str = "
import millpond, os, time
def work(row):
    with HELD:
        began = time.monotonic()
        time.sleep(0.01)
        ended = time.monotonic()
    with open(f'called/held-{row[\"n\"]}', 'w') as file:
        file.write(f'{began} {ended}')
    return row
";

#[test]
fn a_lock_is_held_by_one_and_a_semaphore_by_some() {
    for (held, most) in [("millpond.lock('db')", 1), ("millpond.semaphore('db', 2)", 2)] {
        let scene = scene(STAGES, &HOLDS.replace("HELD", held), 40);
        scene.run().args(&["--workers", "3"]).ends_with(0);
        assert_eq!(most_at_once(&scene), most, "{held}");
        assert_eq!(scene.read("out/rows.csv"), scene.read("rows.csv"));
        scene.assert_clean();
    }
}

#[test]
fn threads_and_tasks_of_a_worker_are_apart() {
    let threads = HOLDS.replace("HELD", "millpond.lock('db')");
    let tasks = "
import asyncio, millpond, time
async def work(row):
    async with millpond.lock('db'):
        began = time.monotonic()
        await asyncio.sleep(0.01)
        ended = time.monotonic()
    with open(f'called/held-{row[\"n\"]}', 'w') as file:
        file.write(f'{began} {ended}')
    return row
";
    for module in [&threads, tasks] {
        let stages = STAGES.replace("batch: { rows: 1 }", "concurrency: 5");
        let scene = scene(&stages, module, 30);
        scene.run().args(&["--workers", "2"]).ends_with(0);
        assert_eq!(most_at_once(&scene), 1);
        scene.assert_clean();
    }
}

/// The longest time from the death of a holder to the next one, in seconds; the deaths are noted by those that die.
fn longest_gap(scene: &Scene) -> f64 {
    let mut times: Vec<(f64, bool)> = scene
        .called()
        .iter()
        .map(|name| (scene.read(&format!("called/{name}")).parse().expect("a number"), name.starts_with("died")))
        .collect();
    times.sort_by(|a, b| a.0.total_cmp(&b.0));
    let gaps = times.windows(2).filter(|pair| pair[0].1).map(|pair| pair[1].0 - pair[0].0);
    gaps.fold(0.0, f64::max)
}

#[test]
fn what_a_dead_worker_held_goes_to_the_next_at_once() {
    let module = "
import millpond, os, time
def work(row):
    with HELD:
        n = row['n']
        died = n % 5 == 2 and not os.path.exists(f'called/died-{n}')
        # Long enough for others to wait.
        time.sleep(0.02)
        with open(f'called/{\"died\" if died else \"held\"}-{n}', 'w') as file:
            file.write(str(time.monotonic()))
        if died:
            os.kill(os.getpid(), 9)
    return row
";
    for held in ["millpond.lock('db')", "millpond.semaphore('db', 1)"] {
        let scene = scene(STAGES, &module.replace("HELD", held), 30);
        scene.run().args(&["--workers", "3"]).ends_with(0);
        assert_eq!(scene.read("out/rows.csv"), scene.read("rows.csv"));
        // A bound against standing still, and not a measurement: that is in `benches`.
        assert!(longest_gap(&scene) < 5.0, "{held}: {}", longest_gap(&scene));
        scene.assert_clean();
    }
}

#[test]
fn a_circle_of_waits_is_an_error_that_names_both() {
    let module = "
import millpond
def work(row):
    first, second = ('a', 'b') if row['n'] % 2 else ('b', 'a')
    with millpond.lock(first):
        millpond.barrier('both', 2).wait()
        with millpond.lock(second):
            return row
";
    let scene = scene(STAGES, module, 2);
    let ran = scene.run().args(&["--workers", "2"]).ends_with(1);
    ran.says(&[
        "failed (exception): millpond.DeadlockError: worker ",
        "waits for lock `",
        "which worker ",
        " holds; worker ",
        " waits for lock `",
        " holds",
    ]);
    scene.assert_clean();
}

#[test]
fn stages_wait_for_events_of_others() {
    let module = "
import millpond, time
def work(row):
    millpond.event('ready').wait()
    return row
def prepare(row):
    time.sleep(0.05)
    millpond.event('ready').set()
    return row
";
    let stages = format!(
        "{STAGES}
one:
  read: one.csv
prepared:
  from: one
  python: {{ call: work:prepare, as: row }}
other:
  from: prepared
  write: out/one.csv
"
    );
    let scene = scene(&stages, module, 5);
    scene.write("one.csv", &numbers([1]));
    scene.run().args(&["--workers", "4"]).ends_with(0);
    assert_eq!(scene.read("out/rows.csv"), scene.read("rows.csv"));
}

#[test]
fn a_run_in_which_all_wait_ends_and_says_for_what() {
    for (wait, what) in [
        ("millpond.event('never').wait()", "waits for event `never`, and nothing else"),
        ("millpond.barrier('many', 9).wait()", "waits for barrier `many`; 3 of 9 have come to barrier `many`, and"),
    ] {
        let module = format!("import millpond\ndef work(row):\n    {wait}\n    return row\n");
        let scene = scene(STAGES, &module, 20);
        let ran = scene.run().within(Duration::from_secs(60)).args(&["--workers", "3"]).ends_with(1);
        ran.says(&["stage `worked` failed (exception): nothing goes on: worker ", " waits for ", ", worker ", what]);
        scene.assert_clean();
    }
}

#[test]
fn who_is_not_patient_goes_on() {
    let module = "
import millpond
def work(row):
    return {'n': row['n'], 'set': millpond.event('never').wait(timeout=0.05)}
";
    let scene = scene(STAGES, module, 3);
    scene.run().ends_with(0);
    assert_eq!(scene.read("out/rows.csv"), "n,set\n0,false\n1,false\n2,false\n");
}

#[test]
fn who_gives_up_by_itself_is_refused_nothing() {
    let module = "
import millpond
def work(row):
    first, second = ('a', 'b') if row['n'] % 2 else ('b', 'a')
    with millpond.lock(first):
        assert not millpond.lock(first).acquire(timeout=0)
        assert not millpond.lock(first).acquire(timeout=0.01)
        millpond.barrier('both', 2).wait()
        assert not millpond.lock(second).acquire(timeout=0.05)
        millpond.barrier('both', 2).wait()
    return row
";
    let scene = scene(STAGES, module, 2);
    scene.run().args(&["--workers", "2"]).ends_with(0);
    scene.assert_clean();
}

#[test]
fn what_is_held_when_an_attempt_ends_is_free() {
    let module = "
import millpond
def work(row):
    millpond.lock('db').acquire()
    if row['n'] == 1:
        raise ValueError('with the lock')
    return row
";
    let stages = STAGES.replace("workers: 3", "workers: 3\n  on_error: skip");
    let scene = scene(&stages, module, 5);
    scene.run().args(&["--workers", "3"]).ends_with(0);
    assert_eq!(scene.read("out/rows.csv"), "n\n0\n2\n3\n4\n");
    scene.assert_clean();
}

#[test]
fn instances_are_made_one_after_the_other() {
    let module = "
import millpond, os, time
class Work:
    def __init__(self):
        with millpond.lock('model'):
            began = time.monotonic()
            time.sleep(0.05)
            ended = time.monotonic()
        with open(f'called/made-{os.getpid()}', 'w') as file:
            file.write(f'{began} {ended}')
    def __call__(self, row):
        time.sleep(0.02)
        return row
";
    let scene = scene(&STAGES.replace("work:work", "work:Work"), module, 30);
    scene.run().args(&["--workers", "3"]).ends_with(0);
    assert!(scene.called().len() > 1 && most_at_once(&scene) == 1, "{:?}", scene.called());
}

#[test]
fn a_service_that_throttles_is_asked_again_and_costs_no_attempt() {
    let module = "
import millpond, os
def work(row):
    n = row['n']
    tries = len([name for name in os.listdir('called') if name.startswith(f'tried{n}-')])
    open(f'called/tried{n}-{tries}', 'x').close()
    if n % 7 == 3 and tries < 4:
        raise millpond.Throttled('slow down', retry_after=0.02)
    return row
";
    let stages = STAGES.replace("workers: 3", "workers: 3\n  retry: { attempts: 1 }\n  on_error: reject\n  uses: api");
    let scene = Scene::with_python(
        &format!("{}resources: {{ api: {{ rate: 2000/s }} }}\n", support::python(&[])),
        &stages,
        module,
    );
    let scene = scene.with_calls();
    scene.write("rows.csv", &numbers(0..20));
    scene.run().args(&["--workers", "3"]).ends_with(0);
    assert_eq!(scene.read("out/rows.csv"), scene.read("rows.csv"));
    assert_eq!(scene.called().iter().filter(|name| name.starts_with("tried3-")).count(), 5);
    assert_eq!(scene.summary()["stages"][1]["account"]["retries"], 3 * 4);
    scene.assert_clean();
}

#[test]
fn a_service_that_throttles_for_ever_fails_the_stage_and_no_row_is_searched_for() {
    let module = "
import millpond
def work(row):
    with open('called/calls', 'a') as file:
        file.write('x')
    raise millpond.Throttled('slow down', retry_after=0)
";
    for on_error in ["fail", "reject"] {
        let stages = STAGES.replace("batch: { rows: 1 }", &format!("on_error: {on_error}\n  retry: {{ attempts: 2 }}"));
        let scene = scene(&stages, module, 3);
        let ran = scene.run().ends_with(1);
        ran.says(&[
            "worked: throttled 1 time, the last time: ",
            "slow down\n",
            "worked: throttled 99 times, the last time: ",
        ]);
        ran.says(&[
            "stage `worked` failed (exception): throttled 100 times in a row, and given up; the last time: ",
            "slow down",
        ]);
        assert_eq!(scene.read("called/calls").len(), 100, "{on_error}");
        assert_eq!(ran.stderr.matches("worked: ").count(), 2, "{}", ran.stderr);
        scene.assert_clean();
    }
}
