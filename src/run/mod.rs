//! A run in progress: the pure [`scheduler`], the [`executor`] that carries out its actions, and what they tell.

mod event;
pub mod executor;
pub mod fail_point;
mod outcome;
pub mod publish;
pub mod scheduler;

pub use event::{RunEvent, Speaker, Stream};
pub use outcome::{AccountDifference, EdgeAccount, Ending, Outcome, StageAccount, StageFailure};
