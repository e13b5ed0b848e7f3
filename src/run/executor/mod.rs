//! Carries out the scheduler's actions and returns what happened as events.
//!
//! [`LocalExecutor`] is the event loop's side: it owns the batches, the worker pool (`python.rs`, `worker.rs`), commands (`command.rs`,
//! `capture.rs`, `row_command.rs`),
//! the threads of resident stages (`resident.rs`), and the guardian that is the ancestor of every process of the run. Everything that
//! happens elsewhere comes back to it through descriptors and the mailbox.

mod capture;
mod chaos;
mod checkpoint;
mod command;
mod connection;
mod filter;
mod frame;
mod glob;
mod guardian;
mod local;
mod log;
mod mailbox;
mod opening;
mod parts;
mod poller;
mod publisher;
mod python;
mod query_input;
mod reject_files;
mod rejects;
mod resident;
mod row_command;
mod shared_memory;
mod shared_state;
mod source_command;
pub mod stage;
mod sync;
mod talk;
mod terminal;
mod worker;
mod worker_clock;
mod worker_life;

pub use chaos::ChaosOptions;
pub use checkpoint::{Findings, FingerprintError, outlook};
pub use glob::matching as matching_files;
pub use guardian::{GUARDIAN_ARGUMENT, guard};
pub use local::{CheckpointError, Checkpoints, LocalExecutor, StageChange, Surroundings};
pub use poller::Token;
pub use python::PythonHost;
pub use stage::write::object_mode;
// What comes over the sockets of workers and from the files of others, for tests that send what they like.
#[doc(hidden)]
pub use {
    checkpoint::{is_record, sound_records},
    frame::{Frame, FrameError, Kind},
    python::{Answer, FakeWorker},
};

// What the plan promises is what is done.
const _: () = assert!(crate::plan::memory::FREE_SEGMENTS == crate::batch::KEPT_BYTES);
const _: () = assert!(crate::plan::memory::INLINE_BATCH == crate::batch::INLINE_BYTES as u64);
const _: () = assert!(crate::plan::memory::SMALLEST_SEGMENT == crate::batch::SMALLEST_SEGMENT);
