//! Makes what a run says readable. Reads events and outcomes, never asks the run anything.
//!
//! A [`Reporter`] works on a thread of its own, so that a terminal or a pipe that nobody reads cannot hold up the run.

mod document;
mod json;
mod live;
mod markdown;
mod plain;
mod plan_report;
mod reporter;
mod rows;
mod run_summary;
mod summary;
mod words;

pub use markdown::markdown;
pub use plan_report::{Outlook, PlanReport};
pub use reporter::{Reporter, Style, harmless};
pub use rows::{first_rows, fitting, rows};
pub use run_summary::RunSummary;
pub use summary::{failure, summary};
pub use words::{count, counted, duration, some, table};
