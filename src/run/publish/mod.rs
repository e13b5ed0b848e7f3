//! Publication: the outputs of a run become visible all together, or not at all.
//!
//! Sinks write beside their final paths under dot-names ([`Staging`]). When all are complete, a journal lists what is to be
//! renamed; from that moment on the run counts as published, and [`recover`], which every run calls first, finishes
//! what a crash has left. Without a journal, recovery removes what was staged. All of it is kept in the run's folder
//! ([`RunFolder`]), whose lock tells whether the run is alive.

mod durable;
mod error;
mod journal;
mod recovery;
mod run_folder;
mod staging;
#[cfg(test)]
mod tests;

pub use error::PublishError;
pub use recovery::{Recovered, recover};
pub use run_folder::{KEPT_RUNS, RunFolder};
pub use staging::{Reserved, StagedFile, Staging, publish_reserved};
