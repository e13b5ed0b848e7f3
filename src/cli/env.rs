//! `millpond env`, and the Python of a run.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytesize::ByteSize;
use serde_json::{Value, json};

use super::args::{EnvBuildArgs, EnvListArgs, EnvPruneArgs, ListFormat, WorkerArgs};
use super::exit_code::Exit;
use super::load::{self, Extent};
use super::output;
use crate::environment::{self, Cached, Environment, EnvironmentError, Host, LockFile, Progress, Wanted};
use crate::plan::Plan;
use crate::report::{counted, table};
use crate::run::executor::PythonHost;

pub fn build(args: &EnvBuildArgs) -> Exit {
    let plan = match planned(args) {
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

/// Resolves the requirements of a pipeline, and writes down what came.
pub fn lock(args: &EnvBuildArgs) -> Exit {
    let plan = match planned(args) {
        Ok(plan) => plan,
        Err(exit) => return exit,
    };
    let locked = Host::from_env().and_then(|host| {
        let wanted = wanted(&plan, &host);
        if wanted.interpreter.is_some() || wanted.venv.is_some() {
            return Err(EnvironmentError::NothingToLock);
        }
        let environment = environment::prepare(&wanted, &host, &mut show)?;
        let lock = LockFile::of(&plan.file);
        let name = plan.file.file_name().unwrap_or_default().to_string_lossy();
        let packages = lock.write(&name, &wanted, &environment, &host)?;
        Ok((lock.path, packages))
    });
    match locked {
        Ok((path, packages)) => {
            output::print(&format!("{} in {}\n", counted(packages as u64, "package"), plan.shown(&path)))
        }
        Err(error) => complain(&error),
    }
}

pub fn list(args: &EnvListArgs) -> Exit {
    let cached = match Host::from_env().and_then(|host| Cached::all(&host)) {
        Ok(cached) => cached,
        Err(error) => return complain(&error),
    };
    if args.format == ListFormat::Json {
        let list: Vec<Value> = cached.iter().map(to_json).collect();
        return output::print(&format!("{:#}\n", Value::Array(list)));
    }
    if cached.is_empty() {
        return output::print("there are no cached environments\n");
    }
    let header = ["environment", "python", "size", "last used", "requirements"].map(str::to_owned);
    let row = |one: &Cached| {
        let used = one.last_used.map(|at| humantime::format_rfc3339_seconds(at).to_string());
        let version = one.version.clone().unwrap_or_else(|| "not complete".to_owned());
        let used = used.unwrap_or_else(|| "-".to_owned()) + if one.is_busy { ", in use" } else { "" };
        [short(one).to_owned(), version, ByteSize::b(one.bytes).to_string(), used, required(one)]
    };
    let rows: Vec<[String; 5]> = std::iter::once(header).chain(cached.iter().map(row)).collect();
    let all = cached.iter().map(|one| one.bytes).sum();
    output::print(&format!("{}{} in all\n", table(&rows, |column| column == 2), ByteSize::b(all)))
}

pub fn prune(args: &EnvPruneArgs) -> Exit {
    let cached = match Host::from_env().and_then(|host| Cached::all(&host)) {
        Ok(cached) => cached,
        Err(error) => return complain(&error),
    };
    let now = SystemTime::now();
    let least = if args.all { Duration::ZERO } else { args.unused_for };
    // A clock that was put back makes nothing old.
    let is_old = |one: &&Cached| one.last_used.is_none_or(|at| now.duration_since(at).unwrap_or_default() >= least);
    let (busy, old): (Vec<_>, Vec<_>) = cached.iter().filter(is_old).partition(|one| one.is_busy);
    let (mut text, mut freed, mut removed, mut failed) = (String::new(), 0, 0_u64, Vec::new());
    for one in old {
        if !args.dry_run
            && let Err(error) = one.remove()
        {
            failed.push(error);
            continue;
        }
        (freed, removed) = (freed + one.bytes, removed + 1);
        let verb = if args.dry_run { "would remove" } else { "removed" };
        text += &format!("{verb} {}  {}  {}\n", short(one), ByteSize::b(one.bytes), required(one));
    }
    for one in &busy {
        text += &format!("in use: {}  {}\n", short(one), required(one));
    }
    let (verb, would) = if args.dry_run { ("to remove", "would be ") } else { ("removed", "") };
    let number = counted(removed, "environment");
    text += &format!("{number} {verb}, {} stay; {would}freed: {}\n", cached.len() as u64 - removed, ByteSize::b(freed));
    let printed = output::print(&text);
    failed.iter().for_each(|error| output::complain(&error.to_string()));
    if failed.is_empty() { printed } else { Exit::InputOutput }
}

/// Enough of a key to tell environments apart.
fn short(of: &Cached) -> &str {
    of.key.get(..12).unwrap_or(&of.key)
}

fn required(of: &Cached) -> String {
    let files = of.requirement_files.iter().map(|path| format!("-r {}", path.display()));
    let all: Vec<String> = of.requirements.iter().cloned().chain(files).collect();
    if all.is_empty() { "none".to_owned() } else { all.join(" ") }
}

fn to_json(one: &Cached) -> Value {
    json!({
        "key": one.key,
        "folder": one.folder,
        "python": one.version,
        "requirements": one.requirements,
        "requirement_files": one.requirement_files,
        "bytes": one.bytes,
        "last_used": one.last_used.map(|at| humantime::format_rfc3339_millis(at).to_string()),
        "in_use": one.is_busy,
    })
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

fn planned(args: &EnvBuildArgs) -> Result<Plan, Exit> {
    let workers = WorkerArgs { workers: NonZeroU32::new(1), memory: None };
    load::plan(&args.file, &args.params, &workers, Extent::Whole)
}

/// Whether the Python environment of a plan is there, in a line; prints why there can be none.
///
/// # Errors
/// How the program should end if there can be none.
pub fn outlook(plan: &Plan) -> Result<String, Exit> {
    match found(plan).map_err(|error| complain(&error))? {
        Some(python) => Ok(format!("environment: {}", python.display())),
        None => Ok("environment: not there yet; the run would build it first, as `millpond env build` does".to_owned()),
    }
}

/// Whether the Python environment of a plan would have to be built.
pub fn is_missing(plan: &Plan) -> bool {
    matches!(found(plan), Ok(None))
}

fn found(plan: &Plan) -> Result<Option<PathBuf>, EnvironmentError> {
    let host = Host::from_env()?;
    let wanted = LockFile::of(&plan.file).apply(wanted(plan, &host))?;
    environment::find(&wanted, &host)
}

fn prepare(plan: &Plan) -> Result<(Environment, PathBuf), EnvironmentError> {
    let host = Host::from_env()?;
    let wanted = LockFile::of(&plan.file).apply(wanted(plan, &host))?;
    let environment = environment::prepare(&wanted, &host, &mut show)?;
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
