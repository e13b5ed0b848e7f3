//! Carries out the scheduler's actions.

pub mod stage;
