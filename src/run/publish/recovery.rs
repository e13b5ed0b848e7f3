//! [`recover`]: finishes or undoes what interrupted runs have left.

use std::path::{Path, PathBuf};

use super::carry_out::carry_out;
use super::durable::remove;
use super::error::PublishError;
use super::journal::{Ending, Journal, JournalName, has_ended, read_journal, read_record, read_record_of_objects};
use super::objects::{abort, carry_out_all, remove_objects};
use super::run_folder::{has_spilled, list_runs, lock_state, remove_spilled, try_lock};
use crate::run::fail_point::reach;

/// What recovery has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Outputs of interrupted runs that are published now.
    pub published: Vec<PathBuf>,
    /// Staged files that are removed now.
    pub removed: Vec<PathBuf>,
}

/// Brings the outputs of runs that died to a whole: all new if the run had written its journal, and all old if not. Runs
/// that are alive are left alone. Doing it again, also after a crash in the middle of it, does no harm.
pub fn recover(state_dir: &Path) -> Result<Recovered, PublishError> {
    let mut recovered = Recovered::default();
    if !state_dir.is_dir() {
        return Ok(recovered);
    }
    let _guard = lock_state(state_dir)?;
    for run in list_runs(&state_dir.join("runs"))? {
        let has_ended = has_ended(&run);
        if has_ended && !has_spilled(&run) {
            continue;
        }
        let Some(_lock) = try_lock(&run)? else { continue };
        remove_spilled(&run)?;
        if !has_ended {
            recover_run(&run, &mut recovered)?;
        }
    }
    Ok(recovered)
}

/// Publishes what is left of a journal.
fn finish(run: &Path, journal: Journal, recovered: &mut Recovered) -> Result<(), PublishError> {
    let Journal { outputs, emptied, objects, removed } = journal;
    for output in outputs {
        if carry_out(&output, run)? {
            recovered.published.push(output.target);
        }
        reach("recover.step");
    }
    carry_out_all(&objects)?;
    recovered.published.extend(objects.iter().map(|object| PathBuf::from(object.url.to_string())));
    reach("recover.step");
    remove_objects(&removed)?;
    emptied.iter().try_for_each(|folder| remove(folder))
}

fn recover_run(run: &Path, recovered: &mut Recovered) -> Result<(), PublishError> {
    let unfinished = |source| PublishError::Unfinished { run: run.to_owned(), source: Box::new(source) };
    let mut early = 0;
    while let Some(journal) = read_journal(run, JournalName::Early(early))? {
        finish(run, journal, recovered).map_err(unfinished)?;
        early += 1;
    }
    if let Some(journal) = read_journal(run, JournalName::Last)? {
        finish(run, journal, recovered).map_err(unfinished)?;
        return Ending::Committed.write(run);
    }
    for (url, log) in read_record_of_objects(run)? {
        abort(&url, &log).map_err(unfinished)?;
        reach("recover.step");
    }
    for output in read_record(run)? {
        if output.staged.exists() {
            remove(&output.staged).map_err(|error| PublishError::Leftover { source: Box::new(error) })?;
            recovered.removed.push(output.staged);
        }
        reach("recover.step");
    }
    Ending::Aborted.write(run)
}
