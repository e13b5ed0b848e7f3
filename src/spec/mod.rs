//! The YAML as it was written: names are strings and everything may be wrong.
//!
//! Text becomes a tree that knows its places ([`yaml`]), expressions are substituted ([`interpolate`]), the tree is held against
//! the JSON Schema ([`schema`]), and what is right is read into types ([`model`]). Nothing here does I/O or knows what a plan
//! is. Start reading at [`parse`](parse::parse).

mod defaults;
mod document;
pub mod expect;
mod foreach;
mod given;
mod hint;
mod hook;
mod hover;
mod indentation;
mod interpolate;
pub mod model;
mod naming;
mod params;
mod parse;
pub mod pattern;
mod query_file;
pub mod reference;
mod scalar;
pub mod schema;
pub mod sub_pipeline;
mod test_file;
pub mod tree;
mod violation;
pub mod yaml;

pub use document::{Checks, Document, OutputDraft, ResourceDraft, Scope, Sharing, StageDraft};
pub use given::{Completeness, Given};
pub use hint::means;
pub use hook::{HookDraft, Moment};
pub use params::{Allowed, Param};
pub use parse::parse;
pub use test_file::{ENDING, Params, Test, TestFile, parse_tests};
