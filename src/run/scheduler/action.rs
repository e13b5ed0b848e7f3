//! [`Action`]: what is to be done. The executor carries actions out in the order in which they are given.

use std::ops::Range;
use std::time::Duration;

use super::event::{Failure, Meta, Output};
use super::worker_state::ClassId;
use super::{AttemptId, BatchId, WorkerId};
use crate::plan::{ResourceId, StageId};

#[derive(Clone, Debug)]
pub enum Action {
    /// Start a resident stage. It waits to be fed and pulled.
    Start { stage: StageId },
    /// A resident stage may make one batch per port. Answered by `Produced`, `Ended` or `StageFailed`.
    Pull { stage: StageId },
    /// Give a resident stage the next batch of one input. Answered by `Taken`.
    Feed { stage: StageId, input: usize, batch: BatchId },
    /// An input of a resident stage has no more batches, or none follows those for which attempts of the stage wait.
    EndInput { stage: StageId, input: usize },
    /// Nobody wants the output of this resident stage any more. Answered by `Ended`.
    Close { stage: StageId },
    /// Start a worker, which has the devices for its life.
    StartWorker { worker: WorkerId, class: ClassId, devices: Vec<Device> },
    /// Let a worker that runs nothing close what it has open, and end: others want what it has. Answered by its exit.
    RetireWorker { worker: WorkerId },
    /// Run one attempt. Answered by `AttemptDone`, `AttemptFailed` or the exit of its worker.
    Dispatch(Dispatch),
    /// Look up whether an earlier run has done this batch. Answered by `Recalled`.
    Recall { stage: StageId, sequence: u64, batch: Meta },
    /// Keep what came of a batch for later runs. Answered by `Kept`.
    Keep { stage: StageId, sequence: u64, batch: Meta, outputs: Vec<Output>, rejects: Vec<Reject> },
    /// Settle the columns of a batch, cut it, and put it on the port's edges; in order. Answered by `Queued`.
    Publish { stage: StageId, port: usize, batch: BatchId },
    /// Put these batches together, in this order, and publish them as one. Answered by `Queued`.
    PublishJoined { stage: StageId, port: usize, batches: Vec<BatchId> },
    /// Apply what a batch has changed of the run's state, all or nothing. Answered by `Queued`, of nothing.
    UpdateState { stage: StageId, sequence: u64, updates: Vec<BatchId> },
    /// Write down rejected rows of a batch that nobody reads. Not answered.
    RecordRejects { stage: StageId, batch: BatchId, rejects: Vec<Reject> },
    /// Make and publish the rejected rows of a batch. Answered by `Queued`.
    PublishRejects { stage: StageId, port: usize, batch: BatchId, rejects: Vec<Reject> },
    /// The stage publishes no more. Answered by `PortsFinished`.
    FinishPorts { stage: StageId },
    /// This sink has ended, and a stage waits for that: publish its output. Answered by `SinkPublished` or `CommitFailed`.
    PublishSink { stage: StageId },
    /// The scheduler needs this batch no more.
    Release { batch: BatchId },
    /// All stages ended and all accounts agree: publish the other sinks. Answered by `Committed` or `CommitFailed`.
    Commit,
    /// Tell the reporters.
    Emit(crate::run::RunEvent),
    /// The run is over; nothing that it started may go on.
    Finish(crate::run::Ending),
}

#[derive(Clone, Debug)]
pub struct Dispatch {
    pub attempt: AttemptId,
    pub stage: StageId,
    /// Number of the batch in the stage's input.
    pub sequence: u64,
    /// Which attempt at its rows this is, from 1.
    pub tries: u32,
    pub host: Host,
    pub work: Work,
    /// What its process is to have. A worker has what it was started with.
    pub devices: Vec<Device>,
}

/// A unit of a resource whose units are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Device {
    pub resource: ResourceId,
    /// Index into [`Devices::ids`](crate::plan::Devices::ids).
    pub at: u32,
}

#[derive(Clone, Debug)]
pub enum Work {
    /// These rows of this batch, in ascending order.
    Rows {
        batch: Meta,
        rows: Vec<Range<u64>>,
        /// Whether others are given the other rows of the batch: the output is a part, which can only be joined.
        is_part: bool,
        /// Time after which a function that is called row by row may leave the rows that it has not begun. What it gives is a part then.
        budget: Option<Duration>,
    },
    /// What the function gave for these rows of this batch is in the parts, in the same order: to make one output of it.
    Join { batch: Meta, rows: Vec<Range<u64>>, parts: Vec<Meta> },
    /// The rows of this batch whose partitions are those of the lane.
    Lane { batch: Meta, lane: u32 },
    /// The lane gets no more rows, and may give some for the keys that it has seen.
    FinishLane { lane: u32 },
    /// The next batch of a generator.
    Pull,
    /// A task without input.
    Task,
}

/// Where an attempt runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    Worker(WorkerId),
    /// A process of its own.
    Process,
    /// A process of its own that is started as soon as another one has ended: attempts in slots are never more than the slots.
    NextProcess,
    /// A thread of this process.
    Native,
}

/// A range of rows that could not be processed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject {
    pub rows: Range<u64>,
    pub failure: Failure,
}

impl Reject {
    /// How many rows these are.
    pub fn count(&self) -> u64 {
        self.rows.end - self.rows.start
    }
}
