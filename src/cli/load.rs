//! From a file and the command line to a document and a plan.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytesize::ByteSize;

use super::args::{ParamArgs, WorkerArgs};
use super::exit_code::Exit;
use super::{cgroup, output, params_file, secrets_file};
use crate::diagnostic::{Diagnostic, SourceText, SourceTextError};
use crate::plan::memory::MemoryBound;
use crate::plan::{self, AskError, Asked, Compiled, Plan, SampledSink, Settings};
use crate::run::executor::stage::read;
use crate::secrets;
use crate::spec::{self, Completeness, Document, Given};

/// Terms of the bound that are told when they are too much.
const LARGEST_TERMS: usize = 4;

/// How much of a pipeline is asked for.
#[derive(Clone, Copy, Debug)]
pub enum Extent<'a> {
    Whole,
    /// What a stage does, and what it needs.
    Until(&'a Asked),
    /// Rows of a stage, and what they need.
    Rows(&'a Asked),
    /// All on the first rows of each source. Sinks write into a folder, and are told.
    Sample {
        rows: u64,
        folder: &'a Path,
        sinks: &'a RefCell<Vec<SampledSink>>,
    },
}

impl Extent<'_> {
    fn ask(self, document: &mut Document) -> Result<(), AskError> {
        match self {
            Self::Whole => Ok(()),
            Self::Until(asked) => plan::run_until(document, asked),
            Self::Rows(asked) => plan::show(document, asked),
            Self::Sample { rows, folder, sinks } => {
                sinks.replace(plan::sample(document, rows, folder));
                Ok(())
            }
        }
    }

    /// Nothing is left of a run if the stage that is asked for is left out; prints why it is.
    fn check(self, plan: &Plan) -> Result<(), Exit> {
        let (Self::Until(asked) | Self::Rows(asked)) = self else { return Ok(()) };
        if !plan.stages.is_empty() {
            return Ok(());
        }
        let name = asked.of.split_once('.').map_or(asked.of.as_str(), |(stage, _)| stage);
        let why = plan.left_out.iter().find(|left_out| left_out.stage == name).map(|left_out| left_out.reason.words());
        output::complain(&format!("the stage `{name}` is left out: {}", why.unwrap_or_default()));
        Err(Exit::Usage)
    }
}

/// Compiles the pipeline in `file`; prints what is wrong or odd.
///
/// # Errors
/// How the program should end if there is no plan.
pub fn plan(file: &Path, params: &ParamArgs, workers: &WorkerArgs, extent: Extent<'_>) -> Result<Plan, Exit> {
    plan_of(file, &given(params, Completeness::Full)?, workers, extent, &mut output::report)
}

/// The same, for a run that is given this. `tell` is told what is wrong or odd.
///
/// # Errors
/// How the program should end if there is no plan.
pub fn plan_of(
    file: &Path,
    given: &Given,
    workers: &WorkerArgs,
    extent: Extent<'_>,
    tell: &mut dyn FnMut(&[Diagnostic], &SourceText),
) -> Result<Plan, Exit> {
    let source = read(file)?;
    let mut document = spec::parse(&source, given);
    secrets::hide(document.secrets.keys());
    for (_, name) in document.secrets.iter().filter(|(secret, _)| !secrets::can_hide(secret)) {
        output::warn(&format!("the secret `{name}` is too short to be hidden: who reads what is printed may know it"));
    }
    // Of a file with mistakes, these are what there is to tell.
    if let Err(error) = extent.ask(&mut document)
        && !document.problems.iter().any(Diagnostic::is_error)
    {
        output::complain(&error.to_string());
        return Err(Exit::Usage);
    }
    match plan::compile(&document, &settings(workers)) {
        Ok(Compiled { mut plan, warnings }) => {
            tell(&warnings, &source);
            if let Extent::Sample { .. } = extent {
                plan::name_sources(&mut plan);
            }
            extent.check(&plan)?;
            Ok(plan)
        }
        Err(problems) => {
            // What is added for what is asked for has names that nobody has written.
            let written = match extent {
                Extent::Whole => None,
                _ => plan::compile(&spec::parse(&source, given), &settings(workers)).err(),
            };
            let problems = written.unwrap_or(problems);
            tell(&problems, &source);
            Err(exit_for(&problems))
        }
    }
}

/// Fits the plan into what the command line allows, or else the control group. What is asked for is kept, or there is no run; the limit of
/// the group may be high enough all the same, as the bound is the most that the run may take.
///
/// # Errors
/// How the program should end if the run might take more than was asked for.
pub fn keep_to_memory(plan: &mut Plan, workers: &WorkerArgs) -> Result<(), Exit> {
    match (workers.memory, cgroup::memory_limit()) {
        (Some(limit), _) => plan::fit(plan, limit.as_u64()).map_err(|bound| {
            output::complain(&does_not_fit(bound, &format!("--memory {limit}")));
            Exit::Usage
        }),
        (None, Some(limit)) => {
            if let Err(bound) = plan::fit(plan, limit) {
                let limit = format!("the {} that the control group of this process may take", ByteSize::b(limit));
                output::warn(&does_not_fit(bound, &limit));
            }
            Ok(())
        }
        (None, None) => Ok(()),
    }
}

/// Says what takes more than there may be.
fn does_not_fit(mut bound: MemoryBound, limit: &str) -> String {
    bound.terms.sort_by_key(|term| Reverse(term.bytes));
    let total = ByteSize::b(bound.total());
    let mut text =
        format!("the run may take {total}, which is more than {limit}, with the smallest queues that make sense:");
    for term in bound.terms.iter().take(LARGEST_TERMS) {
        text += &format!("\n  {:>10}  {}", ByteSize::b(term.bytes).to_string(), term.what);
    }
    text += "\nfewer `--workers`, a smaller `memory` of python stages, or smaller batches (`batch: { bytes: … }`) take less";
    text
}

/// Reads a pipeline file; prints why it cannot be read.
///
/// # Errors
/// How the program should end if it cannot.
pub fn read(file: &Path) -> Result<Arc<SourceText>, Exit> {
    SourceText::read(file).map(Arc::new).map_err(|error| {
        output::complain(&error.to_string());
        unreadable(&error)
    })
}

/// The path of a pipeline file without symbolic links, by which its runs are known; prints why there is none.
///
/// # Errors
/// How the program should end if there is none.
pub fn identity(file: &Path) -> Result<PathBuf, Exit> {
    file.canonicalize().map_err(|error| {
        output::complain(&format!("cannot read `{}`: {error}", file.display()));
        Exit::Usage
    })
}

/// How the program ends when a pipeline file cannot be read.
pub fn unreadable(error: &SourceTextError) -> Exit {
    match error {
        // A path that does not exist is a slip on the command line.
        SourceTextError::Read { .. } => Exit::Usage,
        SourceTextError::TooLarge { .. } | SourceTextError::NotUtf8 { .. } => Exit::InvalidPipeline,
    }
}

/// What surrounds a run: environment, current directory, command line.
///
/// # Errors
/// How the program should end if there is no current directory.
pub fn given(params: &ParamArgs, completeness: Completeness) -> Result<Given, Exit> {
    let mut set = params.params_file.as_deref().map(params_file::read).transpose()?.unwrap_or_default();
    set.extend(params.set.iter().cloned());
    surroundings(set, params.seed, params.secrets_file.as_deref(), completeness)
}

/// The same, where params and seed are known.
///
/// # Errors
/// How the program should end if there is no current directory.
pub fn surroundings(
    set: Vec<(String, String)>,
    seed: u64,
    file_of_secrets: Option<&Path>,
    completeness: Completeness,
) -> Result<Given, Exit> {
    let current_dir = std::env::current_dir().map_err(|error| {
        output::complain(&format!("there is no current directory: {error}"));
        Exit::InputOutput
    })?;
    let env = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let secrets = file_of_secrets.map(secrets_file::read).transpose()?.unwrap_or_default();
    Ok(Given { set, env, secrets, current_dir, seed, completeness })
}

/// Usage comes before the file, as the file may be right for other values.
fn exit_for(problems: &[Diagnostic]) -> Exit {
    let is_usage = problems.iter().any(|problem| problem.code.is_usage());
    if is_usage { Exit::Usage } else { Exit::InvalidPipeline }
}

/// The cores that affinity and cgroup leave to this process.
pub fn cores() -> NonZeroU32 {
    let cores = std::thread::available_parallelism().ok().and_then(|cores| NonZeroU32::try_from(cores).ok());
    cores.unwrap_or(NonZeroU32::MIN)
}

/// The number of workers, from the command line or from the cores that affinity and cgroup leave to this process.
pub fn settings(workers: &WorkerArgs) -> Settings {
    let cores = cores();
    Settings { workers: workers.workers.unwrap_or(cores), cores, file_sizes: read::file_sizes, columns: read::columns }
}
