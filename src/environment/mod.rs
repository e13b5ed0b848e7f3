//! Python for the workers: an interpreter with what a pipeline requires, the worker package, and their variables.
//!
//! Knows nothing of pipelines or runs. Start reading at [`prepare`].

mod build;
mod cached;
mod cores;
#[allow(clippy::module_inception)]
mod environment;
mod error;
mod host;
mod interpreter;
mod key;
mod lock;
mod locked;
mod package;
mod remembered;
mod tool;
mod variables;

pub use cached::Cached;
pub use cores::usable_cores;
pub use environment::{Environment, Progress, Wanted, find, prepare};
pub use error::EnvironmentError;
pub use host::Host;
pub use interpreter::Version;
pub use locked::LockFile;
pub use package::unpack;
pub use variables::{template_variables, threads_per_worker, worker_variables};
