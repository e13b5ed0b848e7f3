//! `millpond run --dry-run`: whether a run could begin; with `--sample`, what it makes of a few rows. Nothing is published.

use std::path::Path;

use rustix::fs::{Access, access};

use super::args::{RunArgs, StateArgs};
use super::exit_code::Exit;
use super::load::Extent;
use super::run::{exit_on_shortage, planned, run_of};
use super::{env, output};
use crate::plan::{Location, Plan, SampledSink, StageKind, Write, WriteMode, WriteTarget, view};
use crate::report;

/// Rows of each sink that are shown.
const SHOWN: usize = 10;

/// Prints the plan, and what would keep a run from succeeding that can be seen without running anything.
pub fn dry_run(args: &RunArgs) -> Exit {
    match args.sample {
        Some(rows) => sample(args, rows.get()),
        None => check(args),
    }
}

fn check(args: &RunArgs) -> Exit {
    let plan = match planned(args) {
        Ok(plan) => plan,
        Err(exit) => return exit,
    };
    let mut text = view::text(&plan) + "\n";
    let mut exit = Exit::Success;
    if plan.needs_python() {
        match env::outlook(&plan) {
            Ok(line) => text += &format!("{line}\n"),
            Err(failed) => exit = failed,
        }
    }
    for (stage, location, write) in sinks(&plan) {
        let path = &location.as_path();
        match obstacle(location, write) {
            None if location.store().is_some() => {
                text += &format!("sink `{stage}`: {} would be written; what is there is not known\n", path.display());
            }
            None if path.exists() && write.mode == WriteMode::Append => {
                text += &format!("sink `{stage}`: {} would be appended to\n", plan.shown(path));
            }
            None if path.exists() => text += &format!("sink `{stage}`: {} would be replaced\n", plan.shown(path)),
            None => text += &format!("sink `{stage}`: {} would be written\n", plan.shown(path)),
            Some(why) => {
                output::complain(&format!("the sink `{stage}` could not be written: {why}"));
                exit = if exit == Exit::Success { Exit::InputOutput } else { exit };
            }
        }
    }
    let printed = output::print(&text);
    if exit == Exit::Success { printed } else { exit }
}

fn sinks(plan: &Plan) -> impl Iterator<Item = (&str, &Location, &Write)> {
    plan.stages.iter().filter_map(|stage| match &stage.kind {
        StageKind::Write(write) => Some((stage.name.as_str(), write.published()?, write)),
        _ => None,
    })
}

/// Why a file cannot be put there, if it cannot. Stores are not asked.
fn obstacle(location: &Location, write: &Write) -> Option<String> {
    let path = location.local()?;
    let (is_new, is_folder) = (write.mode == WriteMode::New, matches!(write.target, WriteTarget::Folder(_)));
    if path.is_dir() && !is_folder {
        return Some(format!("{} is a folder", path.display()));
    }
    if is_new && path.symlink_metadata().is_ok() {
        return Some(format!("{} is there already (`mode: error`)", path.display()));
    }
    let folder = path.ancestors().skip(1).find(|folder| folder.symlink_metadata().is_ok())?;
    if !folder.is_dir() {
        return Some(format!("{} is no folder", folder.display()));
    }
    let refused = access(folder, Access::WRITE_OK | Access::EXEC_OK).err()?;
    Some(format!("{}: {}", folder.display(), std::io::Error::from(refused)))
}

fn sample(args: &RunArgs, rows: u64) -> Exit {
    let folder = match tempfile::tempdir() {
        Ok(folder) => folder,
        Err(error) => return exit_on_shortage(&error),
    };
    let out = folder.path().join("out");
    if let Err(error) = std::fs::create_dir(&out) {
        return exit_on_shortage(&error);
    }
    let sinks = std::cell::RefCell::new(Vec::new());
    let trial =
        RunArgs { dry_run: false, state: StateArgs { state_dir: Some(folder.path().join("state")) }, ..args.clone() };
    let exit = run_of(&trial, Extent::Sample { rows, folder: &out, sinks: &sinks });
    if exit != Exit::Success {
        return exit;
    }
    let mut text =
        format!("tried with the first {} of each source; nothing is published\n", report::counted(rows, "row"));
    for SampledSink { stage, path, file } in sinks.into_inner() {
        // It is not there if the sink was left out.
        if !Path::new(&file).exists() {
            continue;
        }
        match report::first_rows(file.as_ref(), SHOWN) {
            Ok(table) => text += &format!("\nsink `{stage}`, {path}:\n{table}"),
            Err(error) => return output::failed(&error),
        }
    }
    output::print(&text)
}
