//! `millpond run --resume`: which run it goes on with, and what that one was given.

use super::args::RunArgs;
use super::exit_code::Exit;
use super::{load, output, runs};
use crate::report::harmless;
use crate::run::publish::{PastRun, Phase, RunRecord};

/// The run that `wanted` is the beginning of, or the newest one of the pipeline; prints why there is none.
///
/// # Errors
/// How the program should end if there is none that can be gone on with.
pub fn find(args: &RunArgs, wanted: Option<&str>) -> Result<(String, RunRecord), Exit> {
    let (file, shown) = (load::identity(&args.file)?, args.file.display());
    let state_dir = args.state.in_folder(&runs::folder_of(&args.file)?);
    let all = PastRun::all(&state_dir).map_err(|error| {
        output::complain(&error.to_string());
        Exit::InputOutput
    })?;
    let (ours, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|run| run.is_of(&file));
    let refuse = |problem: String| {
        output::complain(&harmless(&format!("--resume: {problem}")));
        Exit::Usage
    };
    let run = match wanted {
        Some(beginning) => match ours.iter().filter(|run| run.id.starts_with(beginning)).collect::<Vec<_>>()[..] {
            [run] => run,
            [] => {
                let problem = match others.iter().find(|run| run.id.starts_with(beginning)) {
                    Some(PastRun { id, record: Some(record), .. }) => {
                        format!("the run {id} is not one of `{shown}`, but of `{}`", record.file.display())
                    }
                    Some(PastRun { id, record: None, .. }) => {
                        format!("the folder of the run {id} does not say what it was given")
                    }
                    None => format!("no run of `{shown}` begins with `{beginning}`"),
                };
                return Err(refuse(problem + &candidates(&ours)));
            }
            ref several => {
                let problem = format!("more than one run of `{shown}` begins with `{beginning}`");
                return Err(refuse(problem + &candidates(several.iter().copied())));
            }
        },
        None => ours.first().ok_or_else(|| {
            refuse(format!("there is no run of `{shown}` in `{}`: begin one without `--resume`", state_dir.display()))
        })?,
    };
    if run.phase == Phase::GoingOn {
        output::complain(&format!("--resume: the run {} is still going on: wait until it has ended", run.id));
        return Err(Exit::InputOutput);
    }
    if run.phase.has_succeeded() {
        let which = if wanted.is_some() { "the run" } else { "the newest run" };
        let problem = format!(
            "{which} of `{shown}` has succeeded ({}), so that there is nothing to go on with: begin one without `--resume`",
            run.id
        );
        return Err(refuse(problem));
    }
    let record = run.record.clone().expect("runs of the file are known by their records");
    Ok((run.id.clone(), record))
}

/// A line for each of these runs.
fn candidates<'r>(runs: impl IntoIterator<Item = &'r PastRun>) -> String {
    runs.into_iter().map(|run| format!("\n  {}  {}", run.id, run.phase.word())).collect()
}
