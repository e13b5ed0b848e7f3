//! [`FakeWorker`]: a worker of a pool that is no process and says what it is told to: for tests of what workers may send.

use std::collections::BTreeSet;
use std::io;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use super::{Happened, LaneRows, Pool, Surroundings};
use crate::batch::{Batch, SegmentPool};
use crate::plan::{Plan, Stage, StageId, StageKind};
use crate::run::executor::connection::Connection;
use crate::run::executor::frame::{Frame, Kind};
use crate::run::executor::log::OutputLog;
use crate::run::executor::mailbox::{Inbox, mailbox};
use crate::run::executor::poller::{Poller, Token};
use crate::run::executor::worker::{Current, Worker};
use crate::run::executor::worker_clock::WorkerClock;
use crate::run::executor::worker_life::WorkerLife;
use crate::run::scheduler::{AttemptId, WorkerId};

const ID: WorkerId = WorkerId(0);

/// A worker that has been sent an attempt of every Python stage: number 1 of the first stage, 2 of the second, and so on.
pub struct FakeWorker {
    plan: Arc<Plan>,
    pool: Pool,
    poller: Poller,
    /// The worker's end.
    connection: Connection,
    /// The stages of the attempts.
    stages: Vec<StageId>,
    _inbox: Inbox,
}

/// What the pool takes for the answer to an attempt.
#[derive(Debug)]
pub struct Answer {
    pub stage: StageId,
    pub rows: u64,
    /// Places of rows that failed.
    pub failed: Vec<u64>,
    /// With their ports.
    pub outputs: Vec<(usize, Batch)>,
}

impl FakeWorker {
    /// `batch` is the input of every attempt that has one.
    ///
    /// # Errors
    /// If there are no descriptors left, or no shared memory.
    pub fn new(plan: Arc<Plan>, batch: &Batch) -> io::Result<Self> {
        let (mailbox, inbox) = mailbox()?;
        let surroundings = Surroundings {
            python: None,
            cores: NonZeroU32::MIN,
            chaos: None,
            forced: BTreeSet::new(),
            corrects: None,
            now: SystemTime::UNIX_EPOCH,
            started: SystemTime::UNIX_EPOCH,
        };
        // Nothing is written: the worker has no output.
        let log = OutputLog::new(PathBuf::new(), Vec::new());
        let mut pool = Pool::new(Arc::clone(&plan), &surroundings, log, mailbox, SegmentPool::default());
        let mut poller = Poller::new()?;
        let (ours, theirs) = Connection::pair()?;
        poller.add(Token::Worker(ID), ours.fd())?;
        pool.workers.insert(ID, Worker::new(ID, ours, WorkerLife::default(), WorkerClock::default()));
        let is_python = |stage: &&Stage| matches!(stage.kind, StageKind::Python(_));
        let stages = plan.stages.iter().filter(is_python).map(|stage| stage.id).collect();
        let mut fake = Self { plan, pool, poller, connection: Connection::new(theirs), stages, _inbox: inbox };
        for at in 0..fake.stages.len() {
            fake.give(AttemptId(at as u64 + 1), fake.stages[at], batch)?;
        }
        Ok(fake)
    }

    fn give(&mut self, attempt: AttemptId, stage: StageId, batch: &Batch) -> io::Result<()> {
        let plan = Arc::clone(&self.plan);
        let is_source = matches!(&plan.stage(stage).kind, StageKind::Python(python) if python.is_source);
        let given = if plan.stage(stage).has_keys() {
            let rows = LaneRows { batch: batch.clone(), first: 0, partitions: vec![(0, batch.rows())] };
            let current = Current { lane: Some(0), ..Current::new(attempt, stage, 0) };
            self.pool.dispatch_lane(ID, current, Some(rows), true, &mut self.poller)
        } else {
            let mut frame = Frame::new(if is_source { Kind::Pull } else { Kind::Run });
            (frame.stage, frame.attempt) = (stage.0, attempt.0);
            let batch = (!is_source).then(|| batch.clone());
            self.pool.dispatch(ID, attempt, stage, frame, batch, &mut self.poller)
        };
        given.map(drop).map_err(|failure| io::Error::other(failure.message))
    }

    /// Sends a frame to the pool, which takes it in.
    ///
    /// # Errors
    /// Why the pool would kill the worker.
    pub fn say(&mut self, frame: Frame) -> Result<(), String> {
        self.connection.send(frame);
        loop {
            let worker = self.pool.workers.get_mut(&ID).ok_or("it is gone")?;
            let frames = worker.connection.receive().map_err(|error| error.to_string())?;
            worker.connection.flush();
            for frame in frames {
                self.pool.worker_said(ID, frame).map_err(|error| error.to_string())?;
            }
            self.connection.receive().map_err(|error| error.to_string())?;
            if !self.connection.wants_to_send() {
                return Ok(());
            }
            self.connection.flush();
        }
    }

    /// What came of the attempts since this was last called.
    ///
    /// # Panics
    /// If the pool tells of a stage that there is not.
    pub fn answers(&mut self) -> Vec<Answer> {
        let mut answers = Vec::new();
        for happened in self.pool.take_happened() {
            match happened {
                Happened::Done { attempt, rows, failed, outputs, .. } => answers.push(Answer {
                    stage: self.stages[attempt.0 as usize - 1],
                    rows,
                    failed: failed.into_iter().map(|(row, _)| row).collect(),
                    outputs,
                }),
                Happened::Opened { stage, .. } | Happened::Snapshot { stage, .. } => {
                    assert!(stage.index() < self.plan.stages.len(), "there is no stage {stage:?}");
                }
                _ => {}
            }
        }
        answers
    }

    /// Ends the worker as the end of a run does.
    pub fn end(mut self) {
        self.pool.stop_all();
        let failed = self.pool.close_failure().map(|(stage, _)| stage);
        assert!(failed.is_none_or(|stage| stage.index() < self.plan.stages.len()), "there is no stage {failed:?}");
        self.pool.forget(Vec::new());
        self.pool.shut_down();
    }
}
