//! `millpond plan`: the compiled plan as text. Looks at the sizes and beginnings of files, and needs no Python.

use super::args::PlanArgs;
use super::exit_code::Exit;
use super::{load, output};
use crate::plan::{Plan, view};
use crate::run::executor::{Checkpoints, StageChange};

pub fn plan(args: &PlanArgs) -> Exit {
    let plan = load::plan(&args.file, &args.params, &args.workers)
        .and_then(|mut plan| load::keep_to_memory(&mut plan, &args.workers).map(|()| plan));
    match plan {
        Ok(plan) => match Checkpoints::changes(&plan, &args.state.folder(&plan)) {
            Ok(changes) => output::print(&(view::text(&plan) + &checkpoints(&plan, &changes))),
            Err(error) => {
                output::complain(&error.to_string());
                Exit::InputOutput
            }
        },
        Err(exit) => exit,
    }
}

/// What becomes of the batches that earlier runs have finished.
fn checkpoints(plan: &Plan, changes: &[StageChange]) -> String {
    let line = |StageChange { stage, changed }: &StageChange| {
        let what = match changed {
            None => "there was no run before".to_owned(),
            Some(changed) if changed.is_empty() => {
                "finished batches are reused, unless rows or packages have changed".to_owned()
            }
            Some(changed) => format!("batches are done again, as this has changed: {}", changed.join(", ")),
        };
        format!("checkpoint of `{}`: {what}\n", plan.stage(*stage).name)
    };
    changes.iter().map(line).collect()
}
