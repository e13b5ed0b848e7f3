//! [`Outcome`]: how a run ended, with the accounts of every stage and edge.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::scheduler::{BatchId, Failure};
use crate::plan::{EdgeId, StageId};

/// Why a run is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Everything was published.
    Succeeded,
    /// A stage failed; nothing was published, here and below, but for [`Outcome::published_early`].
    Failed(Box<StageFailure>),
    /// The sinks could not be published.
    CommitFailed(Box<Failure>),
    /// The user interrupted the run; nothing was published.
    Interrupted,
    /// The run took longer than it may; nothing was published.
    TookTooLong(Duration),
    /// Rows were lost or doubled inside the engine: an error of millpond itself. Nothing was published.
    AccountsDiffer(Vec<AccountDifference>),
    /// Nothing runs, and nothing can: an error of millpond itself. Names who waits for what.
    Stuck(Vec<String>),
}

/// The failure that ended a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageFailure {
    pub stage: StageId,
    /// Number of the batch in the stage's input, where there is one.
    pub sequence: Option<u64>,
    /// The batch and the rows in it that are to blame, where they are known.
    pub rows: Option<(BatchId, Range<u64>)>,
    /// Attempts that the rows took part in.
    pub attempts: u32,
    pub failure: Failure,
}

/// An edge whose two ends counted different numbers of rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountDifference {
    pub edge: EdgeId,
    pub published: u64,
    pub consumed: u64,
}

/// The accounts of one stage, in rows, and where its time went.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct StageAccount {
    /// Rows taken from the inputs (given a verdict).
    pub rows_in: u64,
    /// Rows published on all ports but `rejected`.
    pub rows_out: u64,
    pub rejected: u64,
    pub skipped: u64,
    pub batches: u64,
    /// Batches of which it was known what comes of them (`checkpoint`).
    pub reused: u64,
    /// Rows of other batches that were not worked on, as an earlier run has done them (`--rejected`).
    pub rows_spared: u64,
    /// Attempts that failed and were tried again in some form.
    pub retries: u64,
    /// Sum of the durations of all attempts.
    pub busy: Duration,
    /// Time in which the stage had no input to work on.
    pub waited_for_input: Duration,
    /// Time in which a full queue behind the stage stopped it.
    pub waited_for_output: Duration,
    /// Time in which the stage could have worked, but no worker was free.
    pub waited_for_worker: Duration,
    /// Time in which the stage could have worked, but there was not enough of what it `uses`.
    pub waited_for_resource: Duration,
    /// Most attempts of the stage at one time.
    pub peak_attempts: u32,
}

impl StageAccount {
    /// Rows that were left out: rejected or skipped.
    pub fn rows_failed(&self) -> u64 {
        self.rejected + self.skipped
    }

    /// Rows that the stage has seen, good and bad: those that it was given, or of a source, those that were there.
    pub fn rows_seen(&self, is_source: bool) -> u64 {
        if is_source { self.rows_out + self.rows_failed() } else { self.rows_in }
    }
}

/// The accounts of one edge, in rows, counted independently at both ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct EdgeAccount {
    pub published: u64,
    pub consumed: u64,
    /// The consumer stopped before the end (`LIMIT`), so that not all that was published was consumed.
    pub closed_early: bool,
}

/// The state as people and programs are shown it: as much of it as is fit to be read.
#[derive(Clone, Debug, Default)]
pub struct StateSummary {
    /// By kind and name.
    pub parts: BTreeMap<&'static str, BTreeMap<String, Value>>,
    /// What is not in `parts`, by kind.
    pub left_out: BTreeMap<&'static str, LeftOut>,
}

/// What a [`StateSummary`] has no room for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct LeftOut {
    /// Parts of which nothing is shown.
    pub parts: u64,
    /// Keys or items of parts of which some are shown, by name.
    pub entries: BTreeMap<String, u64>,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub ending: Ending,
    pub duration: Duration,
    /// By [`StageId`].
    pub stages: Vec<StageAccount>,
    /// By [`EdgeId`].
    pub edges: Vec<EdgeAccount>,
    /// Sinks that were published before the end, as stages waited for them.
    pub published_early: Vec<StageId>,
    /// Workers that were started, in all.
    pub workers_started: u32,
    /// The place of the failure in the input (`orders-2.csv, row 17`), where it is known.
    pub place: Option<String>,
    /// Faults that were asked for (`--chaos`): the stage, what, and how often.
    pub injected: Vec<(StageId, &'static str, u64)>,
    /// What the workers have counted and collected together.
    pub state: StateSummary,
    /// Files in the run's folder with the rejected rows that no stage reads.
    pub rejects: Vec<(StageId, std::path::PathBuf)>,
}
