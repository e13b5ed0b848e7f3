//! SQL over Arrow batches: the only module that names DataFusion.
//!
//! [`Query::parse`] checks the syntax of a stage's SQL without looking at any data. A parsed query is then run in one of two
//! ways, which give the same rows:
//!
//! - [`RowWise`]: where [`Query::is_row_wise`], each batch is worked on by itself, in parallel, and keeps its number.
//! - [`StreamQuery`]: everything else reads its inputs as streams, within a memory limit, and spills to disk.
//!
//! A [`Checker`] plans queries before there are any rows, as both would.
//!
//! Nothing in here knows stages, edges or files. A query sees the tables that it is given and nothing else: no path tables,
//! no object stores, no statements that change something. Results depend on the inputs and the [`Settings`] alone: a query
//! runs in one partition, clocks stand still, and random functions are seeded.

mod blocking;
mod checker;
mod concat;
mod context;
mod error;
mod feed;
mod group_order;
mod growth;
mod join_sides;
mod lineage;
mod pruning;
mod query;
mod row_dependence;
mod row_wise;
mod scopes;
mod seeded;
mod stack;
mod step;
mod stream;
mod table;
mod table_arguments;
mod tee;
mod type_words;
mod used_columns;

#[cfg(test)]
mod tests;

pub use checker::{Checker, Misfit, MisfitKind, TextPosition};
pub use context::Settings;
pub use error::{SqlError, SqlErrorKind, SyntaxError};
pub use feed::{Feed, Input, OnChange, Refused};
pub use growth::Growth;
pub use pruning::{Bounds, Parts, Pruning};
pub use query::Query;
pub use row_wise::RowWise;
pub use stack::{ROOM, with_room};
pub use stream::StreamQuery;
pub use used_columns::UsedColumns;
