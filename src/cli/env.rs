//! `millpond env`, and the Python of a run.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use super::args::{EnvBuildArgs, WorkerArgs};
use super::exit_code::Exit;
use super::load::{self, Extent};
use super::output;
use crate::environment::{self, Environment, EnvironmentError, Host, Progress, Wanted};
use crate::plan::Plan;
use crate::run::executor::PythonHost;

pub fn build(args: &EnvBuildArgs) -> Exit {
    let plan = match load::plan(
        &args.file,
        &args.params,
        &WorkerArgs { workers: NonZeroU32::new(1), memory: None },
        Extent::Whole,
    ) {
        Ok(plan) => plan,
        Err(exit) => return exit,
    };
    match prepare(&plan) {
        Ok((environment, _)) => {
            let state = if environment.created { "built" } else { "ready" };
            output::print(&format!("{state}: {}\n", environment.python.display()))
        }
        Err(error) => complain(&error),
    }
}

pub fn pythonpath() -> Exit {
    match Host::from_env().and_then(|host| environment::unpack(&host)) {
        Ok(folder) => output::print(&format!("{}\n", folder.display())),
        Err(error) => complain(&error),
    }
}

/// Finds or builds the Python that the workers of a plan need; prints why there is none.
///
/// # Errors
/// How the program should end if there is none.
pub fn python_host(plan: &Plan) -> Result<PythonHost, Exit> {
    let (environment, package) = prepare(plan).map_err(|error| complain(&error))?;
    Ok(PythonHost { python: environment.python, package, environment: environment.key })
}

/// Whether the Python environment of a plan is there, in a line; prints why there can be none.
///
/// # Errors
/// How the program should end if there can be none.
pub fn outlook(plan: &Plan) -> Result<String, Exit> {
    let found = Host::from_env().and_then(|host| environment::find(&wanted(plan, &host), &host));
    match found.map_err(|error| complain(&error))? {
        Some(python) => Ok(format!("environment: {}", python.display())),
        None => Ok("environment: not there yet; the run would build it first, as `millpond env build` does".to_owned()),
    }
}

fn prepare(plan: &Plan) -> Result<(Environment, PathBuf), EnvironmentError> {
    let host = Host::from_env()?;
    let environment = environment::prepare(&wanted(plan, &host), &host, &mut show)?;
    let package = environment::unpack(&host)?;
    Ok((environment, package))
}

fn wanted(plan: &Plan, host: &Host) -> Wanted {
    let python = &plan.python;
    Wanted {
        requirements: python.requirements.clone(),
        requirement_files: python.requirement_files.clone(),
        folder: Some(plan.folder.clone()),
        interpreter: python.interpreter.as_ref().map(|interpreter| on_path(interpreter, host)),
        venv: python.venv.clone(),
    }
}

/// A bare name stands for a program on `PATH`.
fn on_path(interpreter: &Path, host: &Host) -> PathBuf {
    if interpreter.is_absolute() {
        return interpreter.to_owned();
    }
    let found = std::env::split_paths(&host.search).map(|folder| folder.join(interpreter)).find(|path| path.is_file());
    found.unwrap_or_else(|| interpreter.to_owned())
}

fn show(progress: Progress) {
    output::eprint(&match progress {
        Progress::Waiting => "waiting for another process that builds this environment\n".to_owned(),
        Progress::Building { tool, folder } => {
            format!("building the Python environment with {tool} in {}\n", folder.display())
        }
        Progress::Line(line) => format!("  {line}\n"),
    });
}

fn complain(error: &EnvironmentError) -> Exit {
    output::complain(&error.to_string());
    if let Some(help) = error.help() {
        output::eprint(&format!("help: {help}\n"));
    }
    Exit::Environment
}
