//! Outputs are the same bytes for every number of workers and whatever is killed on the way.

mod support;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::{Going, Scene, assert_same, is_long};

/// Time between two kills, at least.
const PAUSE: Duration = Duration::from_millis(300);
/// How many pauses the run would have taken undisturbed, at most: on a machine with other work to do, everything takes longer, also to come
/// back after a death.
const PAUSES: u32 = 8;

fn stress(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stress").join(name)
}

/// Kills a worker every [`PAUSE`], or less often if the machine is slow, until the run has ended. Returns how many.
fn kill_workers(going: &mut Going<'_>, undisturbed: Duration) -> usize {
    let pause = PAUSE.max(undisturbed / PAUSES);
    let mut killed = 0;
    let mut last = Instant::now();
    while going.child.try_wait().expect("it is our child").is_none() {
        let workers = going.workers();
        if last.elapsed() >= pause && !workers.is_empty() {
            // Another one each time, in an order that repeats.
            support::kill(workers[killed * 7 % workers.len()], Signal::KILL);
            killed += 1;
            last = Instant::now();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    killed
}

#[test]
fn the_number_of_workers_and_their_deaths_do_not_change_a_byte() {
    let scene = Scene::new("", "");
    let (few, rows) = ("rows=60000", if is_long() { "rows=1000000" } else { "rows=60000" });
    let run = |out: &str, workers: &str, slow: &str, rows: &str| {
        let out = format!("out={}", scene.path(out).display());
        let args = ["--workers", workers, "--set", rows, "--set", slow, "--set", &out];
        scene.run_of(&stress("stress.yaml")).args(&args)
    };
    run("one", "1", "slow=0.5", rows).ends_with(0);
    for workers in ["2", "4"] {
        run(workers, workers, "slow=0.5", rows).ends_with(0);
        assert_same(&scene.path("one"), &scene.path(workers), &format!("with {workers} workers"));
    }
    // A batch has three attempts: one that takes longer than the time between two deaths would be likely to lose them all.
    // Likewise the generator, which begins again after a death: it must be able to make its rows in that time.
    let start = Instant::now();
    run("few", "1", "slow=0.1", few).ends_with(0);
    let undisturbed = start.elapsed();
    let mut going = run("killed", "2", "slow=0.1", few).start();
    let killed = kill_workers(&mut going, undisturbed);
    let ran = going.end();
    assert_eq!(ran.code(), Some(0), "{}", ran.stderr);
    assert!(killed > 0, "no worker was killed");
    assert_same(&scene.path("few"), &scene.path("killed"), &format!("after {killed} kills"));
    scene.assert_clean();
}

#[test]
fn killed_workers_cost_time_and_nothing_else() {
    let scene = Scene::new("", "");
    let batches = if is_long() { "batches=600" } else { "batches=120" };
    let run = |out: &str, pause: &str| {
        let out = format!("out={}", scene.path(out).display());
        scene.run_of(&stress("kill.yaml")).args(&["--workers", "2", "--set", batches, "--set", pause, "--set", &out])
    };
    let start = Instant::now();
    run("undisturbed", "pause=0.0").ends_with(0);
    let undisturbed = start.elapsed();
    let mut going = run("disturbed", "pause=0.05").start();
    let killed = kill_workers(&mut going, undisturbed);
    let ran = going.end();
    assert_eq!(ran.code(), Some(0), "after {killed} kills\n{}", ran.stderr);
    assert!(killed > 3, "{killed} workers were killed");
    assert_same(&scene.path("undisturbed"), &scene.path("disturbed"), &format!("after {killed} kills"));
    scene.assert_clean();
}

/// Rows that take long: some give nothing, some several, some fail; they draw random numbers, and a column's type shows late.
const SLOW_ROWS: &str = "
import glob, os, random, signal, time

def rows():
    for number in range(40):
        yield {'n': number, 'small': number % 3}

def wait_for_others(count):
    open(f'here-{os.getpid()}', 'w').close()
    deadline = time.monotonic() + 60
    while len(glob.glob('here-*')) < count:
        if time.monotonic() > deadline:
            os._exit(3)
        time.sleep(0.01)

def die_once(number):
    try:
        open(f'died-{number}', 'x').close()
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)

def work(row, how):
    number = row['n']
    time.sleep(0 if how == 'fast' else 0.06)
    if how == 'meet' and number > 0:
        wait_for_others(3)
    if how == 'die' and number % 10 == 9:
        die_once(number)
    if number % 13 == 5:
        raise ValueError(f'no {number}')
    if number % 7 == 0:
        return None
    made = {**row, 'draw': random.random(), 'half': number if number < 30 else number / 2}
    return [made, {**made, 'late': 'x'}] if number % 5 == 4 else made

def mixed(row, how):
    time.sleep(0 if how == 'fast' else 0.03)
    if row['n'] == 2:
        raise ValueError('no 2')
    return {'x': 'a word' if row['n'] == 25 else row['n']}
";

#[test]
fn slow_rows_of_one_batch_are_run_at_once_and_give_the_same_bytes() {
    let stages = "rows:\n  python: work:rows\nslow:\n  from: rows\n  python: { call: work:work, with: { how: '${{ params.how }}' } }\n  \
                  on_error: reject\nsink:\n  from: slow\n  write: '${{ params.out }}/made.parquet'\nrejects:\n  from: \
                  slow.rejected\n  write: '${{ params.out }}/rejected.jsonl'\nmixed:\n  from: rows\n  python: { call: work:mixed, with: \
                  { how: '${{ params.how }}' } }\n  on_error: reject\nleft:\n  from: mixed\n  write: '${{ params.out \
                  }}/left.jsonl'\nquarrels:\n  from: mixed.rejected\n  write: '${{ params.out }}/quarrels.jsonl'\n";
    let params = "params: { how: { type: string }, out: { type: path } }\n";
    let scene = Scene::with_python(&format!("{params}{}", support::python(&[])), stages, SLOW_ROWS);
    let run = |how: &str, workers: &str| {
        let out = scene.path(&format!("{how}-{workers}"));
        let (how, out) = (format!("how={how}"), format!("out={}", out.display()));
        scene.run().args(&["--workers", workers, "--set", &how, "--set", &out])
    };
    run("alone", "1").ends_with(0);
    for (how, workers) in [("fast", "2"), ("alone", "2"), ("alone", "4"), ("meet", "4"), ("die", "3")] {
        run(how, workers).ends_with(0);
        let name = format!("{how}-{workers}");
        assert_same(&scene.path("alone-1"), &scene.path(&name), &name);
    }
    assert!(scene.exists("died-39"), "the workers died");
    scene.assert_clean();
}
