//! A run in progress: the pure [`scheduler`], the [`executor`](self) that carries out its actions, and what they tell.

mod event;
mod executor;
mod outcome;
pub mod scheduler;

pub use event::{RunEvent, Speaker, Stream};
pub use outcome::{AccountDifference, EdgeAccount, Ending, Outcome, StageAccount, StageFailure};
