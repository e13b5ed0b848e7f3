//! The compiled pipeline: names are ids, defaults are applied, everything is valid.
//!
//! [`compile`] turns a [`Document`](crate::spec::Document) into a [`Plan`] or into all the diagnostics at once. Nothing here does I/O, and nothing here knows how a plan is run. Start reading at [`Plan`].

mod asking;
mod check;
mod checkpoint;
pub mod columns;
mod command_shape;
mod compile;
mod deadlock;
pub mod drawing;
mod expect;
mod failing;
mod file;
mod fit;
mod foreground;
mod graph;
mod hook;
mod left_out;
mod link;
mod location;
mod log_level;
pub mod memory;
mod names;
mod no_effect;
mod paths;
#[allow(clippy::module_inception)]
mod plan;
mod ports;
mod pushdown;
mod query;
mod queue;
mod recycle;
mod reference;
mod resolve;
mod resource;
mod sample;
mod stage;
mod sub_pipeline;
mod supply;
mod task;
mod template;
mod under_test;
pub mod view;

pub use crate::spec::Moment;
pub use asking::{AskError, Asked, run_until, show};
pub use checkpoint::{Checkpoint, STORE_REQUESTS};
pub use compile::{Compiled, Settings, compile, known_columns, validate};
pub use expect::{Condition, Expect};
pub use failing::{Backoff, Budget, OnError, Retry, Timeout, Verdict};
pub use fit::fit;
pub use hook::Hook;
pub use left_out::{LeftOut, Reason};
pub use location::{Location, ObjectPath, Provider, StoreUrl, UrlError};
pub use log_level::LogLevel;
pub use plan::{Edge, EdgeId, PARTITIONS, Plan, PythonPlan, StageId};
pub use queue::{Capacity, Cut};
pub use recycle::Recycle;
pub use resource::{Devices, Resource, ResourceId, ResourceKind, Use};
pub use sample::{SampledSink, name_sources, sample};
pub use stage::{
    Call, ColumnType, Command, CommandLine, CommandMode, Convention, Cpus, Folder, Input, Order, Partitions, Port,
    Python, PythonTarget, Read, Sql, Stage, StageKind, Start, TableName, WhichFiles, WorkerLimits, WorkerTraits, Write,
    WriteMode, WriteTarget,
};
pub use supply::{FileSizes, Supply};
pub use task::{TaskFiles, TaskOutput};
pub use template::{Piece, Template};
pub use under_test::{
    GivenRows, KnownTypes, Testable, UnderTest, UnderTestError, WantedRows, declared_columns, put_under_test, testable,
};
