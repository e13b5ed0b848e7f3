//! [`Mailbox`]: how threads tell the event loop what happened.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use crossbeam_channel::{Receiver, Sender, unbounded};
use rustix::event::{EventfdFlags, eventfd};

use super::checkpoint::{BatchDigest, Findings, Lock};
use super::filter::Remains;
use super::guardian::{ProcessId, Turn};
use super::local::{Digests, InPartitions, Kept, Known};
use super::shared_memory::SharedMemory;
use crate::batch::Batch;
use crate::plan::StageId;
use crate::run::scheduler::{AttemptId, Failure, WorkerId};

/// What a thread has done. Never more than the scheduler asked for, so that the channel needs no bound of its own.
#[derive(Debug)]
pub enum Message {
    /// What all workers can look up from now on.
    Shared {
        memory: SharedMemory,
    },
    Produced {
        stage: StageId,
        batch: Batch,
        /// Rows that were left out of it, and why, in order.
        rejected: Option<(Batch, Vec<Failure>)>,
    },
    Taken {
        stage: StageId,
        input: usize,
        rows: u64,
    },
    InputClosed {
        stage: StageId,
        input: usize,
    },
    /// A query took a batch of this input, or closed it: its resident finds out.
    InputChanged {
        stage: StageId,
        input: usize,
    },
    /// A resident stage is done. `schema` are its output's columns, if it knows them without rows.
    Ended {
        stage: StageId,
        schema: Option<SchemaRef>,
    },
    StageFailed {
        stage: StageId,
        failure: Failure,
    },
    AttemptDone {
        attempt: AttemptId,
        rows: u64,
        batch: Option<Batch>,
        /// Rows that are not as they must be, by their places among those of the attempt. `batch` has nothing of them.
        failed: Vec<(u64, Failure)>,
    },
    AttemptFailed {
        attempt: AttemptId,
        failure: Failure,
    },
    /// A filter has written all of the attempt's input.
    AttemptWaits {
        attempt: AttemptId,
    },
    FilterEnded(Remains),
    /// A filter owes output and has been silent for too long.
    FilterOverdue {
        process: ProcessId,
    },
    /// The state of a lane before the batch `next` is on disk.
    SnapshotKept {
        stage: StageId,
        lane: u32,
        next: u64,
        result: Result<Batch, Failure>,
    },
    /// A batch of a stage with state is in the order of its partitions.
    Partitioned {
        stage: StageId,
        sequence: u64,
        result: Result<Box<InPartitions>, Failure>,
    },
    /// The digest of a batch of a stage that keeps what it has done.
    Digested {
        stage: StageId,
        sequence: u64,
        batch: Batch,
        result: Result<Digests, Failure>,
    },
    /// It was looked up what an earlier run has made of a batch.
    Recalled {
        stage: StageId,
        sequence: u64,
        digest: BatchDigest,
        result: Result<Known, Failure>,
    },
    /// It was looked whether a task needs to be run.
    TaskLooked {
        attempt: AttemptId,
        stage: StageId,
        turn: Turn,
        result: Result<Box<(Lock, Findings)>, Failure>,
    },
    /// What came of a batch is written down.
    Kept {
        stage: StageId,
        sequence: u64,
        result: Result<Kept, Failure>,
    },
    /// The last views of some of a worker's output segments are gone.
    SegmentsFree {
        worker: WorkerId,
    },
}

/// The sending side; cheap to clone.
#[derive(Clone, Debug)]
pub struct Mailbox {
    sender: Sender<Message>,
    wake: Arc<OwnedFd>,
}

/// The event loop's side.
#[derive(Debug)]
pub struct Inbox {
    receiver: Receiver<Message>,
    wake: Arc<OwnedFd>,
}

/// Makes both sides.
///
/// # Errors
/// If there are no descriptors left.
pub fn mailbox() -> io::Result<(Mailbox, Inbox)> {
    let (sender, receiver) = unbounded();
    let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
    Ok((Mailbox { sender, wake: Arc::clone(&wake) }, Inbox { receiver, wake }))
}

impl Mailbox {
    /// Sends a message. After the end of the run nobody listens, and it is dropped.
    pub fn send(&self, message: Message) {
        if self.sender.send(message).is_ok() {
            // Fails only if the counter is full, and then the loop is awake.
            let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
        }
    }
}

impl Inbox {
    /// Readable when there are messages.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    pub fn take(&self) -> Vec<Message> {
        let mut counter = [0; 8];
        let _ = rustix::io::read(&self.wake, &mut counter);
        self.receiver.try_iter().collect()
    }
}
