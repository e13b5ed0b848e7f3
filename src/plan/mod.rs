//! The compiled pipeline: names are ids, defaults are applied, everything is valid.
//!
//! [`compile`](compile::compile) turns a [`PipelineSpec`](crate::spec::PipelineSpec) into a [`Plan`] or into all the
//! diagnostics at once. Nothing here does I/O, and nothing here knows how a plan is run. Start reading at [`Plan`].

#[allow(clippy::module_inception)]
mod plan;
mod queue;
mod stage;

pub use plan::{Edge, EdgeId, Plan, PythonPlan, StageId};
pub use queue::{Capacity, Cut};
pub use stage::{
    Call, ColumnType, Command, CommandLine, CommandMode, Convention, Input, OnError, Port, Python, PythonTarget, Read,
    Retry, Sql, Stage, StageKind, TableName, Verdict, WorkerLimits, Write, WriteTarget,
};
