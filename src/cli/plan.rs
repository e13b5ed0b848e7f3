//! `millpond plan`: the compiled plan for people and for programs. Looks at the sizes and beginnings of files, and needs no Python.

use std::path::Path;

use super::args::{DiagnosticFormat, PlanArgs};
use super::exit_code::Exit;
use super::load::{self, Extent};
use super::output;
use crate::diagnostic::{Diagnostic, SourceText, render};
use crate::plan::{Plan, Stage, StageId, StageKind, view};
use crate::report::{Outlook, PlanReport, counted, some};
use crate::run::executor::stage::read;
use crate::run::executor::{CheckpointError, Checkpoints, Findings, FingerprintError, StageChange, outlook};
use crate::spec::Completeness;

pub fn plan(args: &PlanArgs) -> Exit {
    let given = match load::given(&args.params, Completeness::Full) {
        Ok(given) => given,
        Err(exit) => return exit,
    };
    let mut told = Vec::new();
    let mut tell = |problems: &[Diagnostic], source: &SourceText| match args.format {
        DiagnosticFormat::Human => output::report(problems, source),
        DiagnosticFormat::Json => told = render::json(problems, source),
        // A document, or none: also if there is nothing to tell.
        DiagnosticFormat::Sarif | DiagnosticFormat::Github => {
            // What it exits with is decided; a reader that has gone away changes nothing.
            let _: Exit = output::print(&output::for_programs(args.format, problems, source));
        }
    };
    let planned = load::plan_of(&args.file, &given, &args.workers, Extent::Whole, &mut tell)
        .and_then(|mut plan| load::keep_to_memory(&mut plan, &args.workers).map(|()| plan))
        .and_then(|plan| match look_ahead(&plan, &args.state.folder(&plan)) {
            Ok(outlook) => Ok((plan, outlook)),
            Err(error) => Err(output::failed(&error)),
        });
    match (planned, args.format) {
        (Ok((plan, outlook)), DiagnosticFormat::Human) => {
            // A checkpoint is one of the stage; a task and a source are the stage.
            let of = |one: &Outlook| if one.of == "checkpoint" { "checkpoint of" } else { one.of };
            let lines = outlook.iter().map(|one| format!("{} `{}`: {}\n", of(one), one.stage, one.says));
            let lines: String = lines.collect();
            output::print(&(view::text(&plan) + &lines))
        }
        (Ok((plan, outlook)), DiagnosticFormat::Json) => {
            output::print(&PlanReport::new(Some((&plan, outlook)), told).text())
        }
        (Ok(_), DiagnosticFormat::Sarif | DiagnosticFormat::Github) => Exit::Success,
        (Err(exit), DiagnosticFormat::Json) if !told.is_empty() => {
            let _: Exit = output::print(&PlanReport::new(None, told).text());
            exit
        }
        (Err(exit), _) => exit,
    }
}

/// What will be reused, what not and why, and what could not be looked at.
fn look_ahead(plan: &Plan, state_dir: &Path) -> Result<Vec<Outlook>, CheckpointError> {
    let changes = Checkpoints::changes(plan, state_dir)?;
    let checkpoints = changes.iter().map(|change| checkpoint(plan, change));
    let tasks = outlook(plan, state_dir).into_iter().map(|(stage, found)| task(plan, stage, found));
    Ok(unseen(plan).into_iter().chain(checkpoints).chain(tasks).collect())
}

/// The sources of whose columns nothing can be told, as their files cannot be looked at. What comes after a stage may be yet to be made.
fn unseen(plan: &Plan) -> Vec<Outlook> {
    let told = unseen_sources(plan).map(|(stage, why)| Outlook {
        stage: stage.name.clone(),
        of: "source",
        says: format!("{why}; columns that come from it are not checked"),
        changed: None,
    });
    told.collect()
}

/// Those sources, and why nothing can be told of each.
pub fn unseen_sources(plan: &Plan) -> impl Iterator<Item = (&Stage, String)> {
    let sources = plan.stages.iter().filter(|stage| stage.after.is_empty());
    sources.filter_map(|stage| match &stage.kind {
        StageKind::Read(read) => Some((stage, read::unseen(read, stage.cut)?)),
        _ => None,
    })
}

/// Whether a task will be run, and why.
fn task(plan: &Plan, stage: StageId, found: Result<Findings, FingerprintError>) -> Outlook {
    let changed = found.as_ref().ok().and_then(|findings| findings.changed.clone());
    let says = match found.map(|findings| findings.changed) {
        Ok(None) => "is run, as it has not ended well before".to_owned(),
        Ok(Some(changed)) if changed.is_empty() => {
            let waits = !plan.stage(stage).after.is_empty();
            if waits { "is not run, unless a task in front of it changes something" } else { "is not run" }.to_owned()
        }
        Ok(Some(changed)) => format!("is run again, as this has changed: {}", some(&changed)),
        Err(error) if plan.stage(stage).after.is_empty() => format!("will end the run: {error}"),
        // A task in front of it may make what is missing.
        Err(error) => format!("is run when what it reads is there: {error}"),
    };
    Outlook { stage: plan.stage(stage).name.clone(), of: "task", says, changed }
}

/// What becomes of the batches that earlier runs have finished.
fn checkpoint(plan: &Plan, StageChange { stage, changed, batches, before }: &StageChange) -> Outlook {
    let had = || before.map(|before| counted(before, "batch"));
    let says = match changed {
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
    Outlook { stage: plan.stage(*stage).name.clone(), of: "checkpoint", says, changed: changed.clone() }
}
