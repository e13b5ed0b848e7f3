//! The scheduler: events in, actions out. PURE: no clock, thread, process, file or async in here; time comes in as an argument.
//!
//! [`Scheduler::handle`] is all there is to call. It applies one [`Event`], then lets every stage that the event touched take
//! its next steps, gives free workers to the deepest ready stages (work nearest a sink), and returns the [`Action`]s in the order in
//! which they are to be carried out. Stages that work batch by batch are in `jobs.rs`, those with state per key in `keyed.rs`, resident
//! ones in `resident.rs`; the credits of the edges are counted in `queue.rs`, and what is left of the run's resources in `resources.rs`. Batches that an
//! earlier run has done are recalled in `recall.rs`. Who begins next, and where, is in `placing.rs`; what becomes of an attempt then, in
//! `attempts.rs`; what follows when it fails, in `failures.rs`, with the search for the rows to blame in `blame.rs`.

mod action;
mod attempts;
mod blame;
mod clock;
mod devices;
mod event;
mod failures;
mod interrupt;
mod jobs;
mod keyed;
mod placing;
mod queue;
mod ready;
mod recall;
mod rejects;
mod resident;
mod resources;
mod rest;
#[allow(clippy::module_inception)]
mod scheduler;
#[cfg(test)]
mod simulation;
mod slices;
mod snapshot;
mod stage_state;
mod throttling;
mod worker_state;

pub use action::{Action, Device, Dispatch, Host, Reject, Work};
pub use clock::Activity;
pub use event::{Awaited, Event, ExitCause, Failure, Meta, Output, QueuedPieces, Scope, Unread};
pub use recall::Recalled;
pub use scheduler::Scheduler;
pub use snapshot::{Snapshot, StageSnapshot};
pub use stage_state::{MapHost, Role};
pub use worker_state::{Class, ClassId, Classes};

/// A batch in the executor's store. Never reused in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchId(pub u64);

/// One try to process rows. Never reused in a run; 0 is no attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptId(pub u64);

/// A worker process. Never reused in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub u32);
