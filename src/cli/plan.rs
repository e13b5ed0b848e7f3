//! `millpond plan`: the compiled plan as text. Looks at the sizes and beginnings of files, and needs no Python.

use std::path::Path;

use super::args::PlanArgs;
use super::exit_code::Exit;
use super::load::{self, Extent};
use super::output;
use crate::plan::{Plan, StageId, view};
use crate::report::{counted, some};
use crate::run::executor::{Checkpoints, Findings, FingerprintError, StageChange, outlook};

pub fn plan(args: &PlanArgs) -> Exit {
    let plan = load::plan(&args.file, &args.params, &args.workers, Extent::Whole)
        .and_then(|mut plan| load::keep_to_memory(&mut plan, &args.workers).map(|()| plan));
    match plan {
        Ok(plan) => {
            let state_dir = args.state.folder(&plan);
            match Checkpoints::changes(&plan, &state_dir) {
                Ok(changes) => {
                    output::print(&(view::text(&plan) + &checkpoints(&plan, &changes) + &tasks(&plan, &state_dir)))
                }
                Err(error) => output::failed(&error),
            }
        }
        Err(exit) => exit,
    }
}

/// Which tasks will be run, and why.
fn tasks(plan: &Plan, state_dir: &Path) -> String {
    let line = |(stage, found): (StageId, Result<Findings, FingerprintError>)| {
        let what = match found.map(|findings| findings.changed) {
            Ok(None) => "is run, as it has not ended well before".to_owned(),
            Ok(Some(changed)) if changed.is_empty() => {
                let waits = !plan.stage(stage).after.is_empty();
                if waits { "is not run, unless a task in front of it changes something" } else { "is not run" }
                    .to_owned()
            }
            Ok(Some(changed)) => format!("is run again, as this has changed: {}", some(&changed)),
            Err(error) if plan.stage(stage).after.is_empty() => format!("will end the run: {error}"),
            // A task in front of it may make what is missing.
            Err(error) => format!("is run when what it reads is there: {error}"),
        };
        format!("task `{}`: {what}\n", plan.stage(stage).name)
    };
    outlook(plan, state_dir).into_iter().map(line).collect()
}

/// What becomes of the batches that earlier runs have finished.
fn checkpoints(plan: &Plan, changes: &[StageChange]) -> String {
    let line = |StageChange { stage, changed, batches, before }: &StageChange| {
        let had = || before.map(|before| counted(before, "batch"));
        let what = match changed {
            None => "there was no run before".to_owned(),
            Some(changed) if changed.is_empty() => {
                let batches = counted(*batches, "finished batch");
                let had = had().map_or_else(String::new, |had| format!(" (the last run had {had})"));
                format!("{batches}, reused unless rows or packages have changed{had}")
            }
            Some(changed) => {
                let all = had().map_or_else(|| "batches".to_owned(), |had| format!("all {had} of the last run"));
                format!("{all} are done again, as this has changed: {}", some(changed))
            }
        };
        format!("checkpoint of `{}`: {what}\n", plan.stage(*stage).name)
    };
    changes.iter().map(line).collect()
}
