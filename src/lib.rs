//! `millpond` runs data pipelines that are written down in YAML.
//!
//! The folders are the phases of a run, in the order in which data flows through them, and four values connect them:
//!
//! ```text
//! PipelineSpec --plan::compile--> Plan --run--> stream of RunEvent --> Outcome
//!  (names, spans)                 (ids, DAG)    (scheduler + pool)     (report, exit code)
//! ```
//!
//! - [`diagnostic`]: errors with a place in a file.
//! - [`spec`]: the YAML as it was written; names are strings and everything may be wrong.
//! - [`plan`]: the compiled pipeline; names are ids and everything is valid.
//! - [`run`]: a run in progress: a pure scheduler, an executor that carries out its actions, and publication.
//! - [`report`]: what a run says, made readable.
//! - [`testing`]: unit tests of pipelines: what is given and expected, beside what came of it.
//! - [`cli`]: the command line on top; the only place that prints and picks exit codes.
//!
//! [`secrets`] knows what none of them may tell.
//!
//! Beside the phases stand the tools that they use: [`batch`] (Arrow batches in shared memory), [`format`](mod@format) (files
//! to batches and back), [`sql`] (DataFusion) and [`environment`] (Python environments).

pub mod batch;
pub mod cli;
pub mod diagnostic;
pub mod environment;
pub mod format;
pub mod plan;
pub mod report;
pub mod run;
pub mod secrets;
pub mod spec;
pub mod sql;
pub mod testing;
