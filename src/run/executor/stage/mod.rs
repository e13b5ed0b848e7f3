//! What the kinds of stages do.

pub mod read;
pub mod write;
