//! Errors with a place in a file. Knows nothing of pipelines: it is told a [`Code`], places and words.
//!
//! Start reading at [`Diagnostic`].

mod annotation;
mod code;
#[allow(clippy::module_inception)]
mod diagnostic;
pub mod explanation;
pub mod render;
mod sarif;
mod source_text;
mod suggestion;

pub use annotation::annotation;
pub use code::Code;
pub use diagnostic::{Diagnostic, Label, Severity, sort_and_merge};
pub use sarif::sarif;
pub use source_text::{Position, SourceText, SourceTextError, Span};
pub use suggestion::{did_you_mean, nearest};
