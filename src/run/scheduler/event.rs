//! [`Event`]: what happened. A closed set of plain data, so that all triggers of the scheduler are visible in one place.

use std::num::NonZeroU32;
use std::time::Duration;

use super::action::Reject;
use super::recall::Recalled;
use super::{AttemptId, BatchId, WorkerId};
use crate::plan::{EdgeId, StageId, Verdict};

/// A batch as the scheduler knows it: where its data lies is the executor's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    pub id: BatchId,
    pub rows: u64,
    /// Bytes that the batch is charged with in a queue.
    pub bytes: u64,
}

/// One batch on one output port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Output {
    /// Index into [`Stage::ports`](crate::plan::Stage::ports), or [`Output::STATE`].
    pub port: usize,
    pub batch: Meta,
}

impl Output {
    /// In the place of a port: updates of the run's state, which count when the output does.
    pub const STATE: usize = usize::MAX;

    pub fn is_state(&self) -> bool {
        self.port == Self::STATE
    }
}

/// What a source could not read of what it was pulled for: rows that no input has, and so come by themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unread {
    pub batch: Meta,
    /// Why, of all its rows.
    pub rejects: Vec<Reject>,
}

impl Unread {
    /// `failures` has one for each row.
    pub fn new(batch: Meta, failures: Vec<Failure>) -> Self {
        let rejects = (0..).zip(failures).map(|(row, failure)| Reject { rows: row..row + 1, failure });
        Self { batch, rejects: rejects.collect() }
    }
}

/// Why an attempt, a resident stage or a publication failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub verdict: Verdict,
    pub scope: Scope,
    /// One line: the exception's type and message, the signal, the exit status.
    pub message: String,
    /// The user's traceback, or the last lines of a command's standard error. May be empty.
    pub traceback: String,
}

/// What a failure is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The rows of the attempt: trying fewer rows can tell which.
    Rows,
    /// The stage could not be prepared (import, constructor, program not found): no row is to blame.
    Opening,
    /// More rows have failed than may: exit code 4.
    Budget,
    /// Data could not be read: exit code 6.
    Input,
    /// Data could not be written: exit code 6.
    Output,
    /// The reader of standard output has gone: the run ends quietly.
    ClosedPipe,
    /// The engine broke one of its own promises.
    Internal,
}

impl Event {
    /// What it says went wrong.
    pub fn failures_mut(&mut self) -> impl Iterator<Item = &mut Failure> {
        let mut unread = None;
        let (one, many) = match self {
            Self::StageFailed { failure, .. }
            | Self::AttemptFailed { failure, .. }
            | Self::AttemptThrottled { failure, .. }
            | Self::WorkerExited { failure, .. }
            | Self::CommitFailed { failure } => (Some(failure), None),
            Self::AttemptDone { failed, .. } => (None, Some(failed)),
            Self::Produced { unread: rows, .. } => {
                unread = rows.as_mut();
                (None, None)
            }
            Self::Taken { .. }
            | Self::InputClosed { .. }
            | Self::Ended { .. }
            | Self::Queued { .. }
            | Self::PortsFinished { .. }
            | Self::SinkPublished { .. }
            | Self::AttemptStandsStill { .. }
            | Self::AttemptGoesOn { .. }
            | Self::AttemptWaits { .. }
            | Self::AttemptLost { .. }
            | Self::Opened { .. }
            | Self::WorkerReady { .. }
            | Self::WorkerRetired { .. }
            | Self::Recalled { .. }
            | Self::Kept { .. }
            | Self::Woken
            | Self::Interrupted
            | Self::Committed => (None, None),
        };
        let unread = unread.into_iter().flat_map(|unread| &mut unread.rejects).map(|reject| &mut reject.failure);
        one.into_iter().chain(many.into_iter().flatten().map(|(_, failure)| failure)).chain(unread)
    }
}

#[derive(Clone, Debug)]
pub enum Event {
    /// A resident stage gave what one [`Pull`](super::Action::Pull) asked for.
    Produced {
        stage: StageId,
        outputs: Vec<Output>,
        unread: Option<Unread>,
    },
    /// A resident stage took the batch that it was fed.
    Taken {
        stage: StageId,
        input: usize,
        rows: u64,
    },
    /// A resident stage wants no more of an input (a `LIMIT` is reached). What is queued for it may be dropped.
    InputClosed {
        stage: StageId,
        input: usize,
    },
    /// A resident stage is done: a source is exhausted, a query gave its last batch, a sink is on disk.
    Ended {
        stage: StageId,
    },
    /// A resident stage, or the publication of a stage's output, failed.
    StageFailed {
        stage: StageId,
        failure: Failure,
    },
    /// The answer to [`Publish`](super::Action::Publish): the pieces that the batch was cut into, per edge.
    Queued {
        stage: StageId,
        queued: Vec<QueuedPieces>,
    },
    /// The answer to [`FinishPorts`](super::Action::FinishPorts): the last pieces of the stage's edges.
    PortsFinished {
        stage: StageId,
        queued: Vec<QueuedPieces>,
    },
    /// The answer to [`PublishSink`](super::Action::PublishSink).
    SinkPublished {
        stage: StageId,
    },
    AttemptDone {
        attempt: AttemptId,
        rows: u64,
        outputs: Vec<Output>,
        end: bool,
        /// What the calls of a function took that is called row by row.
        spent: Duration,
        /// Rows for which such a function failed, by their places among those that the attempt was given, in order. `rows` counts them,
        /// and `outputs` have nothing of them.
        failed: Vec<(u64, Failure)>,
    },
    /// An attempt in a worker waits for others, for as long as it takes.
    AttemptStandsStill {
        attempt: AttemptId,
        on: Awaited,
    },
    /// It waits no more.
    AttemptGoesOn {
        attempt: AttemptId,
    },
    /// A process has taken all input of an attempt and may wait for that of the next one before it gives all output: the attempt
    /// keeps no place any more. Not for attempts in workers.
    AttemptWaits {
        attempt: AttemptId,
    },
    AttemptFailed {
        attempt: AttemptId,
        failure: Failure,
    },
    /// A function asks for fewer calls: its rows are tried again after `wait`, which costs no attempt.
    AttemptThrottled {
        attempt: AttemptId,
        wait: Option<Duration>,
        failure: Failure,
    },
    /// An attempt that ended through no fault of its own: it costs nothing. Not for attempts of lanes.
    AttemptLost {
        attempt: AttemptId,
        failure: Failure,
    },
    /// A worker has prepared a stage. `at_once`: its function is called for each row, for so many at once.
    Opened {
        stage: StageId,
        at_once: Option<NonZeroU32>,
    },
    WorkerReady {
        worker: WorkerId,
    },
    /// A worker is being replaced: it is given nothing more, and its exit follows.
    WorkerRetired {
        worker: WorkerId,
    },
    /// A worker is gone and reaped. `failure` says how it died; the scheduler knows what it was doing.
    WorkerExited {
        worker: WorkerId,
        failure: Failure,
        cause: ExitCause,
    },
    /// The answer to [`Recall`](super::Action::Recall); `known` is `None` if the batch is to be worked on.
    Recalled {
        stage: StageId,
        sequence: u64,
        known: Option<Recalled>,
    },
    /// The answer to [`Keep`](super::Action::Keep). If it cannot be kept, the stage has failed. `outputs` takes the place of those of the action
    /// if some of the batch's rows were [recalled](Recalled::Partly): what came of all.
    Kept {
        stage: StageId,
        sequence: u64,
        outputs: Option<Vec<Output>>,
    },
    /// It is the moment that [`Scheduler::wakes_at`](super::Scheduler::wakes_at) named.
    Woken,
    Interrupted,
    Committed,
    CommitFailed {
        failure: Failure,
    },
}

/// What an attempt waits for that stands still.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Awaited {
    pub worker: WorkerId,
    /// As messages have it: "lock `db`".
    pub name: String,
    /// Of a barrier: how many have to come.
    pub parties: Option<u32>,
}

/// Who is to blame for the end of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitCause {
    /// The worker died by itself or was killed by somebody else: costs its attempt.
    Own,
    /// The engine ended it (its template died, it was stopped): costs no attempt.
    Engine,
}

/// What one publication added to one edge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueuedPieces {
    pub edge: EdgeId,
    pub pieces: Vec<Meta>,
    /// Bytes that the edge's cut keeps back for a piece that is not full yet.
    pub held_bytes: u64,
    /// Bytes of `pieces` that went to disk, and so do not count.
    pub spilled: bool,
}
