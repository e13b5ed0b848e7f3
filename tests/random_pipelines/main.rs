//! Random pipelines, run for real: with the tightest queues each must end, soon, and its sinks must hold what an evaluator
//! over whole vectors of rows says.
//!
//! `MILLPOND_PIPELINES` is the number of pipelines (200, or 500 with `MILLPOND_LONG`), `MILLPOND_PIPELINE` the seed of the one pipeline to run, whose folder is kept.

mod pipeline;
mod rng;
mod row;

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use pipeline::Pipeline;
use row::Row;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};

/// Every pipeline takes well under a second on an idle machine.
const BOUND: Timespec = Timespec { tv_sec: 20, tv_nsec: 0 };
/// One in so many pipelines has Python stages: interpreters start slowly.
const PYTHON: u64 = 5;
const AT_ONCE: u64 = 2;

#[test]
fn every_pipeline_ends_with_every_row_in_its_place() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let root = tempfile::tempdir().expect("a folder can be made");
    if let Some(seed) = number("MILLPOND_PIPELINE") {
        let kept = root.keep();
        println!("in {}", kept.display());
        try_seed(seed, &kept).unwrap_or_else(|problem| panic!("{problem}"));
        return;
    }
    let usual = if std::env::var_os("MILLPOND_LONG").is_some() { 500 } else { 200 };
    let (next, end) = (AtomicU64::new(0), number("MILLPOND_PIPELINES").unwrap_or(usual));
    let problems = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let seed = next.fetch_add(1, Ordering::Relaxed)
                    && seed < end
                {
                    if let Err(problem) = try_seed(seed, root.path()) {
                        problems.lock().expect("no thread panicked").push(problem);
                    }
                }
            });
        }
    });
    let problems = problems.into_inner().expect("no thread panicked");
    assert!(problems.is_empty(), "{} of {end} pipelines:\n{}", problems.len(), problems.join("\n\n"));
}

/// Runs the pipeline of one seed in a folder of its own, and says what is wrong with it.
fn try_seed(seed: u64, root: &Path) -> Result<(), String> {
    let pipeline = Pipeline::random(seed, seed.is_multiple_of(PYTHON));
    let folder = root.join(seed.to_string());
    fs::create_dir(&folder).expect("a new folder");
    pipeline.write(&folder).expect("files can be written");
    let outcome = run(&pipeline, &folder).and_then(|()| compare(&pipeline, &folder));
    outcome.map_err(|problem| {
        let said = fs::read_to_string(folder.join("stderr")).unwrap_or_default();
        format!("seed {seed}, {} workers: {problem}\n{}\n{said}", pipeline.workers, pipeline.yaml)
    })
}

fn run(pipeline: &Pipeline, folder: &Path) -> Result<(), String> {
    let stderr = File::create(folder.join("stderr")).expect("a file can be made");
    let mut child = Command::new(env!("CARGO_BIN_EXE_millpond"))
        .args(["run", "pipeline.yaml", "--progress", "plain", "--workers", &pipeline.workers.to_string()])
        .current_dir(folder)
        .stdout(stderr.try_clone().expect("a file has more than one handle"))
        .stderr(stderr)
        .process_group(0)
        .spawn()
        .expect("the program starts");
    match end(&mut child) {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(format!("ended with {status}")),
        None => Err(format!("did not end in {} s", BOUND.tv_sec)),
    }
}

/// Waits for the end of a run; kills it and returns `None` when it takes too long.
fn end(child: &mut Child) -> Option<ExitStatus> {
    let group = Pid::from_child(child);
    let pidfd = rustix::process::pidfd_open(group, PidfdFlags::empty()).expect("a child has a pidfd");
    let ended =
        rustix::event::poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&BOUND)).expect("a pidfd is polled");
    if ended == 0 {
        rustix::process::kill_process_group(group, Signal::KILL).expect("a run that goes on can be killed");
    }
    let status = child.wait().expect("a child can be waited for");
    (ended > 0).then_some(status)
}

fn compare(pipeline: &Pipeline, folder: &Path) -> Result<(), String> {
    for sink in &pipeline.sinks {
        let text = fs::read_to_string(folder.join(&sink.file)).map_err(|error| format!("{}: {error}", sink.file))?;
        let rows: Vec<Row> = if sink.file.ends_with("csv") {
            text.lines().skip(1).map(Row::from_csv).collect()
        } else {
            text.lines().map(Row::from_json).collect()
        };
        if rows != sink.expected {
            let first = rows.iter().zip(&sink.expected).position(|(is, wanted)| is != wanted);
            let first = first.unwrap_or(rows.len().min(sink.expected.len()));
            return Err(format!(
                "{} has {} rows, not {}; row {first} is {:?}, not {:?}",
                sink.file,
                rows.len(),
                sink.expected.len(),
                rows.get(first),
                sink.expected.get(first)
            ));
        }
    }
    Ok(())
}
