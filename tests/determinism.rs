//! Outputs are the same bytes for every number of workers and whatever is killed on the way.

mod support;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::{Going, Scene, assert_same, is_long};

/// Time between two kills.
const PAUSE: Duration = Duration::from_millis(300);

fn stress(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stress").join(name)
}

/// Kills a worker every [`PAUSE`] until the run has ended. Returns how many.
fn kill_workers(going: &mut Going<'_>) -> usize {
    let mut killed = 0;
    let mut last = Instant::now();
    while going.child.try_wait().expect("it is our child").is_none() {
        let workers = going.workers();
        if last.elapsed() >= PAUSE && !workers.is_empty() {
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
    run("few", "1", "slow=0.1", few).ends_with(0);
    let mut going = run("killed", "2", "slow=0.1", few).start();
    let killed = kill_workers(&mut going);
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
    run("undisturbed", "pause=0.0").ends_with(0);
    let mut going = run("disturbed", "pause=0.05").start();
    let killed = kill_workers(&mut going);
    let ran = going.end();
    assert_eq!(ran.code(), Some(0), "after {killed} kills\n{}", ran.stderr);
    assert!(killed > 3, "{killed} workers were killed");
    assert_same(&scene.path("undisturbed"), &scene.path("disturbed"), &format!("after {killed} kills"));
    scene.assert_clean();
}
