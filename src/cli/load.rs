//! From a file and the command line to a document and a plan.

use std::cmp::Reverse;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;

use bytesize::ByteSize;

use super::args::{ParamArgs, WorkerArgs};
use super::exit_code::Exit;
use super::output;
use crate::diagnostic::{Diagnostic, SourceText, SourceTextError};
use crate::plan::memory::MemoryBound;
use crate::plan::{self, Compiled, Plan, Settings};
use crate::run::executor::stage::read;
use crate::spec::{self, Completeness, Given};

/// Terms of the bound that are told when they are too much.
const LARGEST_TERMS: usize = 4;

/// Compiles the pipeline in `file`; prints what is wrong or odd.
///
/// # Errors
/// How the program should end if there is no plan.
pub fn plan(file: &Path, params: &ParamArgs, workers: &WorkerArgs) -> Result<Plan, Exit> {
    let source = read(file)?;
    let given = given(&params.set, params.seed, Completeness::Full)?;
    let document = spec::parse(&source, &given);
    match plan::compile(&document, &settings(workers)) {
        Ok(Compiled { mut plan, warnings }) => {
            output::report(&warnings, &source);
            if let Some(limit) = workers.memory {
                plan::fit(&mut plan, limit.as_u64()).map_err(|bound| does_not_fit(bound, limit))?;
            }
            Ok(plan)
        }
        Err(problems) => {
            output::report(&problems, &source);
            Err(exit_for(&problems))
        }
    }
}

/// Says what takes more than there may be.
fn does_not_fit(mut bound: MemoryBound, limit: ByteSize) -> Exit {
    bound.terms.sort_by_key(|term| Reverse(term.bytes));
    let total = ByteSize::b(bound.total());
    let mut text = format!(
        "the run may take {total}, which is more than --memory {limit}, with the smallest queues that make sense:"
    );
    for term in bound.terms.iter().take(LARGEST_TERMS) {
        text += &format!("\n  {:>10}  {}", ByteSize::b(term.bytes).to_string(), term.what);
    }
    text += "\nfewer `--workers`, a smaller `memory` of python stages, or smaller batches (`batch: { bytes: … }`) take less";
    output::complain(&text);
    Exit::Usage
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
pub fn given(set: &[(String, String)], seed: u64, completeness: Completeness) -> Result<Given, Exit> {
    let current_dir = std::env::current_dir().map_err(|error| {
        output::complain(&format!("there is no current directory: {error}"));
        Exit::InputOutput
    })?;
    let env = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    Ok(Given { set: set.to_vec(), env, current_dir, seed, completeness })
}

/// Usage comes before the file, as the file may be right for other values.
fn exit_for(problems: &[Diagnostic]) -> Exit {
    let is_usage = problems.iter().any(|problem| problem.code.is_usage());
    if is_usage { Exit::Usage } else { Exit::InvalidPipeline }
}

/// The number of workers, from the command line or from the cores that affinity and cgroup leave to this process.
pub fn settings(workers: &WorkerArgs) -> Settings {
    let cores = std::thread::available_parallelism().ok().and_then(|cores| NonZeroU32::try_from(cores).ok());
    let cores = cores.unwrap_or(NonZeroU32::MIN);
    Settings { workers: workers.workers.unwrap_or(cores), cores, file_sizes: read::file_sizes }
}
