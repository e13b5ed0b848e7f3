//! Publication: the outputs of a run become visible all together, or not at all.
//!
//! Sinks write files and folders beside their final paths under dot-names ([`Staging`]). When all are complete, a journal lists what is to be
//! renamed; from that moment on the run counts as published, and [`recover`], which every run calls first, finishes
//! what a crash has left. What goes to object stores is uploaded instead, and completed when the others are renamed ([`StagedObjects`]). Without a journal, recovery removes what was staged. All of it is kept in the run's folder
//! ([`RunFolder`]), whose lock tells whether the run is alive. There, a [`RunRecord`] tells later runs what this one was given.

mod carry_out;
mod durable;
mod error;
mod foreign;
mod journal;
mod objects;
mod parts;
mod past_run;
mod recovery;
mod run_folder;
mod run_record;
mod staging;
mod state_file;
#[cfg(test)]
mod tests;

pub use error::PublishError;
pub use foreign::check_replaceable;
pub use journal::{path_from_json, path_to_json};
pub use objects::{ObjectMode, StagedObjects, check_place};
pub use past_run::{PastRun, Phase, Pruned, Pruning, folder_bytes, prune};
pub use recovery::{Recovered, recover};
pub use run_folder::{KEPT_RUNS, RunFolder, create_state};
pub use run_record::{Ended, RecordedOutcome, RunRecord};
pub use staging::{
    Reserved, Seen, StagedFile, Staging, check_new, is_staged, last_byte, publish_reserved, sync_folders,
};
pub use state_file::StateFile;
