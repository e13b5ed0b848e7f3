//! `millpond run --resume` and `--rejected`: which run they go on from, and what that one was given.

use std::path::PathBuf;

use super::args::RunArgs;
use super::exit_code::Exit;
use super::{load, output, runs};
use crate::report::harmless;
use crate::run::publish::{PastRun, Phase, RunRecord};

/// What is to be done about an earlier run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To finish what it has not.
    Resume,
    /// To do again what it has rejected.
    Correct,
}

impl Purpose {
    fn option(self) -> &'static str {
        match self {
            Self::Resume => "--resume",
            Self::Correct => "--rejected",
        }
    }
}

/// An earlier run, and what it was given.
pub struct Earlier {
    pub purpose: Purpose,
    pub id: String,
    pub folder: PathBuf,
    pub record: RunRecord,
}

/// The earlier run that the command line asks for, if it does; prints why there is none.
///
/// # Errors
/// How the program should end if there is none that will do.
pub fn asked_for(args: &RunArgs) -> Result<Option<Earlier>, Exit> {
    match (&args.resume, &args.rejected) {
        (Some(wanted), _) => find(args, Purpose::Resume, wanted.as_deref()).map(Some),
        (None, Some(wanted)) => find(args, Purpose::Correct, wanted.as_deref()).map(Some),
        (None, None) => Ok(None),
    }
}

/// The run that `wanted` is the beginning of, or the newest one of the pipeline.
fn find(args: &RunArgs, purpose: Purpose, wanted: Option<&str>) -> Result<Earlier, Exit> {
    let option = purpose.option();
    let (file, shown) = (load::identity(&args.file)?, args.file.display());
    let state_dir = args.state.in_folder(&runs::folder_of(&args.file)?);
    let all = PastRun::all(&state_dir).map_err(|error| output::failed(&error))?;
    let (ours, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|run| run.is_of(&file));
    let refuse = |problem: String| {
        output::complain(&harmless(&format!("{option}: {problem}")));
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
        None => ours.iter().find(|run| !run.is_trial()).ok_or_else(|| {
            refuse(format!("there is no run of `{shown}` in `{}`: begin one without `{option}`", state_dir.display()))
        })?,
    };
    if run.phase == Phase::GoingOn {
        output::complain(&format!("{option}: the run {} is still going on: wait until it has ended", run.id));
        return Err(Exit::InputOutput);
    }
    let which = if wanted.is_some() { "the run" } else { "the newest run" };
    // An older one would bring back what that one was given.
    if purpose == Purpose::Correct && run.phase == Phase::Died && wanted.is_none() {
        let problem = format!("{which} of `{shown}` has died ({}): go on with it (`--resume`), or name a run", run.id);
        return Err(refuse(problem + &candidates(&ours)));
    }
    if purpose == Purpose::Correct && run.phase.rows_rejected() == Some(0) {
        return Err(refuse(format!(
            "{which} of `{shown}` has rejected no row ({}): begin one without `--rejected`, or name an older one",
            run.id
        )));
    }
    if purpose == Purpose::Resume && run.phase.has_succeeded() {
        let problem = format!(
            "{which} of `{shown}` has succeeded ({}), so that there is nothing to go on with: begin one without `--resume`",
            run.id
        );
        return Err(refuse(problem));
    }
    let record = run.record.clone().expect("runs of the file are known by their records");
    Ok(Earlier { purpose, id: run.id.clone(), folder: run.folder.clone(), record })
}

/// A line for each of these runs.
fn candidates<'r>(runs: impl IntoIterator<Item = &'r PastRun>) -> String {
    runs.into_iter().map(|run| format!("\n  {}  {}", run.id, run.phase.word())).collect()
}
