//! Unit tests of pipelines: what a test file gives and expects, beside what came of it.
//!
//! [`check`] finds what is wrong with a test file; [`Prepared`] is a test with a plan that can be run; [`Expectation`] is held against the rows
//! that the run has left. Nothing here runs anything or prints. Start reading at [`Prepared`].

mod check;
mod condition;
mod coverage;
mod diff;
mod expectation;
mod given;
mod junit;
mod prepare;
mod table;
mod update;
mod yaml_text;

pub use check::check;
pub use coverage::Coverage;
pub use diff::{Diff, Paint};
pub use expectation::{Expectation, Fault};
pub use junit::{Case, Suite, Verdict, junit};
pub use prepare::{Failed, Prepared};
pub use table::{Table, TableError};
pub use update::Edits;
