//! [`RunEvent`]: what a run tells people. All that a reporter may know.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::outcome::StageAccount;
use super::scheduler::{Snapshot, WorkerId};
use crate::plan::{StageId, Verdict};

#[derive(Clone, Debug)]
pub enum RunEvent {
    Started {
        /// The run's folder.
        folder: PathBuf,
        /// The run that this one goes on with.
        resumes: Option<String>,
        /// The run of which this one does again what was rejected.
        corrects: Option<String>,
        /// Outputs of runs that had died, published now because they were complete.
        rolled_forward: usize,
        /// Unfinished outputs of runs that had died, removed now.
        cleaned_up: usize,
    },
    /// A worker answered.
    WorkerStarted {
        worker: WorkerId,
        pid: i32,
    },
    /// A worker is gone. `reason` says how it ended.
    WorkerExited {
        worker: WorkerId,
        pid: i32,
        reason: String,
    },
    /// An attempt failed. `searching`: it was one of those that look for the rows to blame.
    AttemptFailed {
        stage: StageId,
        sequence: u64,
        attempt: u32,
        verdict: Verdict,
        message: String,
        will_retry: bool,
        /// What is tried next is parts of it, to find the rows to blame.
        begins_search: bool,
        searching: bool,
    },
    /// A function has asked for fewer calls, so often since that was told last. Its rows rest, and are tried again.
    Throttled {
        stage: StageId,
        times: u64,
        /// Of the last time.
        message: String,
    },
    /// `run --chaos` has hit an attempt, which costs its batch none.
    Injected {
        stage: StageId,
        sequence: u64,
        /// Its word, as in the summary.
        fault: &'static str,
    },
    /// What a stage with `checkpoint` is made of is not what it was when it was last run, so that batches are done again.
    CheckpointChanged {
        stage: StageId,
        /// What has changed: `code work.py`, `param floor`.
        changed: Vec<String>,
    },
    /// The code of a stage with a checkpoint reads the state of the run: what it does is not kept.
    CheckpointReadsState {
        stage: StageId,
    },
    /// A stage with `checkpoint` has imported local files that cannot be found by reading its code: what it does is not kept.
    CheckpointUnseen {
        stage: StageId,
        files: Vec<PathBuf>,
    },
    /// A file or object that a stage with `checkpoint` shares with others is not what it should be, so that its batch is done again. Told once
    /// for each stage.
    CheckpointUnsound {
        stage: StageId,
        /// Its path or URL.
        file: String,
    },
    /// A task was not run, as its inputs, its command and its outputs are what they were when it ended well.
    TaskUnchanged {
        stage: StageId,
    },
    /// A task is run again, as this has changed: `file data.csv`, `output model.bin`.
    TaskChanged {
        stage: StageId,
        changed: Vec<String>,
    },
    /// Rows that keep failing were taken out of their batch; `kept` tells whether they go to the port `rejected`.
    Rejected {
        stage: StageId,
        sequence: u64,
        rows: u64,
        kept: bool,
        verdict: Verdict,
        message: String,
    },
    /// The run is interrupted: attempts that run may end, for as long as `grace`.
    Draining {
        attempts: usize,
        grace: std::time::Duration,
    },
    /// The output of a sink is in its place already, as a stage waits for that.
    SinkPublished {
        stage: StageId,
    },
    StageEnded {
        stage: StageId,
        account: StageAccount,
    },
    /// What a worker or a command wrote to its standard output or error.
    Line {
        from: Speaker,
        stream: Stream,
        /// Number of the batch.
        batch: Option<u64>,
        /// Place of the row among those that the attempt was given.
        row: Option<u64>,
        text: String,
    },
    /// What code in a worker has logged, or Python has warned of.
    Log {
        from: Speaker,
        record: LogRecord,
    },
    /// Lines that were not passed on because there were too many; they are in the log file.
    LinesDropped {
        from: Speaker,
        lines: u64,
    },
    Progress(Snapshot),
}

/// A record of Python's `logging`, as its worker tells it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct LogRecord {
    /// `INFO`, or whatever the code has named a level.
    pub level: String,
    pub logger: String,
    /// Name of the stage.
    pub stage: Option<String>,
    /// Number of the batch, as `millpond.batch_id` has it.
    pub batch: Option<u64>,
    /// Place of the row among those that the attempt was given.
    pub row: Option<u64>,
    pub message: String,
}

/// Who wrote a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Speaker {
    Worker { worker: WorkerId, stage: Option<StageId> },
    Command { stage: StageId },
}

impl Speaker {
    pub fn stage(&self) -> Option<StageId> {
        match self {
            Self::Worker { stage, .. } => *stage,
            Self::Command { stage } => Some(*stage),
        }
    }

    /// The same speaker, with a worker at work for `stage`.
    #[must_use]
    pub fn at(&self, stage: Option<StageId>) -> Self {
        match self {
            Self::Worker { worker, .. } => Self::Worker { worker: *worker, stage },
            Self::Command { stage } => Self::Command { stage: *stage },
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    Stdout,
    Stderr,
}
