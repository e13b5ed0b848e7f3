//! `millpond runs`: runs that have been, and the removal of what they have left.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytesize::ByteSize;
use serde_json::{Value, json};

use super::args::{ListFormat, RunsArgs, RunsListArgs, RunsPruneArgs, STATE};
use super::exit_code::Exit;
use super::{load, output};
use crate::report::{count, counted, duration, harmless, table};
use crate::run::executor::Checkpoints;
use crate::run::publish::{self, KEPT_RUNS, PastRun, Phase, Pruned, Pruning};

/// Stands for what is not known.
const UNKNOWN: &str = "-";

pub fn list(args: &RunsListArgs) -> Exit {
    listed(args).unwrap_or_else(|exit| exit)
}

fn listed(args: &RunsListArgs) -> Result<Exit, Exit> {
    let place = Place::of(&args.runs)?;
    let mut runs = PastRun::all(&place.state_dir).map_err(|error| output::failed(&error))?;
    runs.retain(|run| place.file.as_ref().is_none_or(|file| run.is_of(file)));
    let now = SystemTime::now();
    Ok(match args.format {
        ListFormat::Json => {
            output::print(&format!("{:#}\n", runs.iter().map(|run| to_json(run, now)).collect::<Value>()))
        }
        ListFormat::Text if runs.is_empty() => {
            output::eprint(&format!("no runs {}\n", place.shown()));
            Exit::Success
        }
        ListFormat::Text => output::print(&table_of(&runs, now)),
    })
}

pub fn prune(args: &RunsPruneArgs) -> Exit {
    pruned(args).unwrap_or_else(|exit| exit)
}

fn pruned(args: &RunsPruneArgs) -> Result<Exit, Exit> {
    let place = Place::of(&args.runs)?;
    let verb = if args.dry_run { "would remove" } else { "removed" };
    let mut freed = 0;
    if args.checkpoints {
        // First, as it may be refused.
        let bytes = Checkpoints::remove(&place.state_dir, args.dry_run).map_err(|error| output::failed(&error))?;
        freed += bytes;
        output::print(&format!("{verb} the checkpoints, {}\n", ByteSize::b(bytes)));
    }
    let keep = args.keep.unwrap_or(if args.older_than.is_some() { 0 } else { KEPT_RUNS });
    // A time that is too far back for a clock is before all runs.
    let before = args.older_than.map(|age| SystemTime::now().checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH));
    let pruning = Pruning { file: place.file.as_deref(), keep, before, is_dry: args.dry_run };
    let Pruned { removed, kept, unfinished, failed } =
        publish::prune(&place.state_dir, &pruning).map_err(|error| output::failed(&error))?;
    let mut text = String::new();
    for (run, bytes) in &removed {
        freed += bytes;
        let pipeline = run.record.as_ref().map_or(UNKNOWN, |record| &record.pipeline);
        text += &format!("{verb} {}  {}  {}  {}\n", run.id, run.phase.word(), pipeline, ByteSize::b(*bytes));
    }
    let would = if args.dry_run { "would be " } else { "" };
    text += &format!("{}; {would}freed: {}\n", rest(removed.len(), kept, args.dry_run), ByteSize::b(freed));
    if unfinished > 0 {
        let (runs, verb) = (counted(unfinished as u64, "run"), if unfinished == 1 { "stays" } else { "stay" });
        text +=
            &format!("{runs} that died {verb} until the next run has finished or undone what was being published\n");
    }
    let printed = output::print(&harmless(&text));
    for error in &failed {
        output::complain(&error.to_string());
    }
    Ok(if failed.is_empty() { printed } else { Exit::InputOutput })
}

/// `2 runs removed, 20 of the finished ones stay`.
fn rest(removed: usize, kept: usize, is_dry: bool) -> String {
    let verb = if is_dry { "to remove" } else { "removed" };
    format!("{} {verb}, {} of the finished ones stay", counted(removed as u64, "run"), count(kept as u64))
}

/// Where runs are looked for, and whose.
struct Place {
    state_dir: PathBuf,
    file: Option<PathBuf>,
}

impl Place {
    fn of(args: &RunsArgs) -> Result<Self, Exit> {
        let file = args.file.as_deref().map(load::identity).transpose()?;
        let state_dir = match (&args.state_dir, &args.file) {
            (Some(state_dir), _) => state_dir.clone(),
            // Without a run there is no such folder, and that is no mistake.
            (None, Some(given)) => return Ok(Self { state_dir: folder_of(given)?.join(STATE), file }),
            (None, None) => PathBuf::from(STATE),
        };
        if !state_dir.is_dir() {
            let help = match args.state_dir {
                Some(_) => "",
                None => " here: name a pipeline file, or the folder that has the runs with `--state-dir`",
            };
            output::complain(&format!("there is no folder `{}`{help}", state_dir.display()));
            return Err(Exit::Usage);
        }
        let state_dir = std::path::absolute(&state_dir).unwrap_or(state_dir);
        Ok(Self { state_dir, file })
    }

    fn shown(&self) -> String {
        match &self.file {
            Some(file) => format!("of `{}` in `{}`", file.display(), self.state_dir.display()),
            None => format!("in `{}`", self.state_dir.display()),
        }
    }
}

/// The folder in which a pipeline file lies, absolute.
///
/// # Errors
/// How the program should end if there is none.
pub fn folder_of(file: &Path) -> Result<PathBuf, Exit> {
    let absolute = std::path::absolute(file).map_err(|error| {
        output::complain(&format!("cannot read `{}`: {error}", file.display()));
        Exit::Usage
    })?;
    Ok(absolute.parent().unwrap_or(&absolute).to_owned())
}

/// How long a run took, or has taken so far; `None` if nobody knows.
fn took(run: &PastRun, now: SystemTime) -> Option<Duration> {
    match &run.phase {
        Phase::GoingOn => now.duration_since(run.started()?).ok(),
        Phase::Died => None,
        Phase::Ended(outcome) => Some(outcome.duration),
    }
}

fn to_json(run: &PastRun, now: SystemTime) -> Value {
    let exit_code = match &run.phase {
        Phase::Ended(outcome) => Some(outcome.exit_code),
        Phase::GoingOn | Phase::Died => None,
    };
    let record = run.record.as_ref();
    json!({
        "id": run.id,
        "started": run.started().map(|started| humantime::format_rfc3339_millis(started).to_string()),
        "seconds": took(run, now).map(|took| (took.as_secs_f64() * 1000.0).round() / 1000.0),
        "outcome": run.phase.word(),
        "exit_code": exit_code,
        "published": run.is_published,
        "pipeline": record.map(|record| &record.pipeline),
        "file": record.map(|record| record.file.to_string_lossy()),
        "rows_rejected": run.phase.rows_rejected(),
        "resumes": record.and_then(|record| record.resumes.as_ref()),
        "corrects": record.and_then(|record| record.corrects.as_ref()),
        "folder": run.folder.to_string_lossy(),
    })
}

fn table_of(runs: &[PastRun], now: SystemTime) -> String {
    let header = ["run", "started", "duration", "outcome", "pipeline", "rejected"].map(str::to_owned);
    let rows: Vec<[String; 6]> = std::iter::once(header).chain(runs.iter().map(|run| row(run, now))).collect();
    table(&rows, |_| false)
}

fn row(run: &PastRun, now: SystemTime) -> [String; 6] {
    let unknown = || UNKNOWN.to_owned();
    let has_published = run.is_published && !run.phase.has_succeeded() && run.phase != Phase::GoingOn;
    [
        harmless(&run.id).into_owned(),
        run.started().map_or_else(unknown, |started| humantime::format_rfc3339_seconds(started).to_string()),
        took(run, now).map_or_else(unknown, duration),
        // Killed, or failed, after it had decided to publish.
        format!("{}{}", run.phase.word(), if has_published { ", published" } else { "" }),
        run.record.as_ref().map_or_else(unknown, |record| harmless(&record.pipeline).into_owned()),
        run.phase.rows_rejected().map_or_else(unknown, count),
    ]
}
