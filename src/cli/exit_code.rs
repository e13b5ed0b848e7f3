//! [`Exit`]: every way in which the program can end, and its exit code.

use std::process::ExitCode;

use crate::run::Signals;

/// How the program ends. The codes are part of the command line's contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exit {
    Success,
    /// A stage failed, and so the run.
    StageFailed,
    /// The command line is wrong.
    Usage,
    /// The pipeline file is wrong.
    InvalidPipeline,
    /// The error budget is exceeded or a data contract is broken.
    BudgetExceeded,
    /// The Python environment could not be built, or there are not the cores that workers are to run on.
    Environment,
    /// Input or output could not be read or written.
    InputOutput,
    /// A bug in this program.
    Internal,
    /// The terminal was closed (`SIGHUP`).
    HungUp,
    /// `SIGINT`.
    Interrupted,
    /// `SIGTERM`.
    Terminated,
}

impl Exit {
    /// That of a program that the last signal has ended.
    pub fn of_signal(signals: &Signals) -> Self {
        match i32::try_from(signals.last()) {
            Ok(signal_hook::consts::SIGTERM) => Self::Terminated,
            Ok(signal_hook::consts::SIGHUP) => Self::HungUp,
            _ => Self::Interrupted,
        }
    }

    pub fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::StageFailed => 1,
            Self::Usage => 2,
            Self::InvalidPipeline => 3,
            Self::BudgetExceeded => 4,
            Self::Environment => 5,
            Self::InputOutput => 6,
            Self::Internal => 70,
            Self::HungUp => 129,
            Self::Interrupted => 130,
            Self::Terminated => 143,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
