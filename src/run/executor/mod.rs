//! Carries out the scheduler's actions and returns what happened as events.

mod connection;
mod frame;
mod guardian;
pub mod stage;

pub use guardian::{GUARDIAN_ARGUMENT, guard};
