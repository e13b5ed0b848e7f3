//! A run in progress.

pub mod executor;
pub mod fail_point;
pub mod publish;
