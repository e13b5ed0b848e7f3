//! Lanes of stages with state, as the pool knows them: a worker that has no state yet is given a snapshot, then the batches that it has to do
//! again, and then its attempt.

use std::ops::Range;

use arrow::datatypes::SchemaRef;
use serde_json::json;

use super::{Happened, Pool, schema_id};
use crate::batch::{Batch, SegmentPool};
use crate::plan::{StageId, Verdict};
use crate::run::executor::frame::{FLAG_AGAIN, FLAG_SNAPSHOT, Frame, Kind};
use crate::run::executor::poller::{Poller, Token};
use crate::run::executor::resident::failure;
use crate::run::executor::worker::{Current, Opening, Worker};
use crate::run::scheduler::{AttemptId, Failure, Scope, WorkerId};

/// The rows of one lane in a batch that is in the order of its partitions.
#[derive(Debug)]
pub struct LaneRows {
    pub batch: Batch,
    /// The first of them.
    pub first: usize,
    /// The lane's partitions that have rows, and how many.
    pub partitions: Vec<(usize, usize)>,
}

impl LaneRows {
    /// About what they weigh.
    pub fn bytes(&self) -> u64 {
        let rows: usize = self.partitions.iter().map(|(_, rows)| rows).sum();
        self.batch.bytes() / self.batch.rows().max(1) as u64 * rows as u64
    }
}

impl Pool {
    /// Whether a worker has the state of its lane of a stage with state.
    pub fn has_state(&self, worker: WorkerId, stage: StageId) -> bool {
        self.workers.get(&worker).is_some_and(|worker| worker.stages.contains_key(&stage))
    }

    /// Whether a worker's code can give the state of its lane.
    pub fn has_snapshots(&self, worker: WorkerId, stage: StageId) -> bool {
        let opening = self.workers.get(&worker).and_then(|worker| worker.stages.get(&stage));
        matches!(opening, Some(Opening::Open { has_snapshots: true, .. }))
    }

    /// Gives a new process the state of its lane.
    pub fn restore(&mut self, id: WorkerId, attempt: AttemptId, state: Vec<u8>) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let Some(current) = worker.attempts.front_mut().filter(|current| current.attempt == attempt) else { return };
        current.is_to_be_restored = false;
        let stage = current.stage;
        let mut frame = Frame::new(Kind::Restore);
        frame.stage = stage.0;
        frame.attempt = attempt.0;
        frame.data = state;
        worker.connection.send(frame);
        self.go_on(id);
    }

    /// Sends rows of a lane, or `None` at the end of its rows, to the worker that has the lane's state, or that gets it by doing the batches
    /// of `again` once more; with `wants_snapshot`, the state that they leave is given too. Returns the batch as it lies now.
    pub fn dispatch_lane(
        &mut self,
        id: WorkerId,
        current: Current,
        rows: Option<LaneRows>,
        wants_snapshot: bool,
        poller: &mut Poller,
    ) -> Result<Option<Batch>, Failure> {
        let Some(worker) = self.workers.get_mut(&id) else { return Ok(rows.map(|rows| rows.batch)) };
        // Before it makes the next output, so that it need not make a segment for it.
        worker.release_outputs();
        let has_rows = rows.is_some();
        let (mut frame, placed) =
            lane_frame(worker, &current, current.sequence, rows, &mut self.schemas, &self.segments)?;
        if has_rows && wants_snapshot {
            frame.flags |= FLAG_SNAPSHOT;
        }
        self.begin(id, current, frame);
        self.watch_output_of(id, poller);
        Ok(placed)
    }

    /// Sends rows of a lane only for the state that they leave.
    pub fn do_again(
        &mut self,
        id: WorkerId,
        attempt: AttemptId,
        sequence: u64,
        rows: LaneRows,
        poller: &mut Poller,
    ) -> Result<(), Failure> {
        let Some(worker) = self.workers.get_mut(&id) else { return Ok(()) };
        let Some(current) = worker.attempts.pop_front_if(|current| current.attempt == attempt) else { return Ok(()) };
        let made = lane_frame(worker, &current, sequence, Some(rows), &mut self.schemas, &self.segments);
        worker.attempts.push_front(current);
        let (mut frame, _) = made?;
        frame.flags |= FLAG_AGAIN;
        worker.connection.send(frame);
        poller.watch_output(Token::Worker(id), worker.connection.fd(), worker.connection.wants_to_send());
        Ok(())
    }

    /// The first rows of a batch of a stage with state for which it failed.
    pub fn blamed(&self, stage: StageId, sequence: u64) -> Option<Range<usize>> {
        self.blamed.get(&(stage, sequence))?.values().next().cloned()
    }

    /// What is to be said of an attempt that failed: of that of a lane, the rows of its batch at fault are remembered, if they are known.
    pub(super) fn lane_failure(
        &mut self,
        current: &Current,
        rows: Option<Range<usize>>,
        mut failure: Failure,
    ) -> Failure {
        match (current.lane, current.again.front(), rows) {
            (_, Some(sequence), _) => {
                let when = format!(" (when batch {sequence}, which had passed, was done again in a new worker)");
                failure.message.push_str(&when);
            }
            (Some(lane), None, Some(rows)) => {
                self.blamed.entry((current.stage, current.sequence)).or_default().insert(lane, rows);
            }
            _ => {}
        }
        failure
    }

    /// Sends a worker what it can begin, in the order in which it is to answer: first what its attempt has to do again, then the attempts
    /// whose stages are open, up to the first one that has to wait.
    pub(super) fn go_on(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        for current in worker.attempts.iter_mut().filter(|current| current.waiting.is_some()) {
            let (attempt, stage) = (current.attempt, current.stage);
            if !matches!(worker.stages.get(&stage), Some(Opening::Open { .. })) {
                return;
            }
            if let Some(lane) = current.lane {
                if current.is_to_be_restored {
                    self.happened.push(Happened::WantsSnapshot { worker: id, attempt, stage, lane });
                    return;
                }
                if let Some(&sequence) = current.again.front() {
                    self.happened.push(Happened::DoesAgain { worker: id, attempt, stage, sequence, lane });
                    return;
                }
                current.is_catching_up = false;
            }
            current.waiting.take().into_iter().for_each(|waiting| worker.connection.send(waiting));
        }
    }
}

/// The frame that gives a worker rows of its lane, and the batch as it lies now; or the frame that tells that there are no more.
fn lane_frame(
    worker: &mut Worker,
    current: &Current,
    sequence: u64,
    rows: Option<LaneRows>,
    schemas: &mut Vec<SchemaRef>,
    segments: &SegmentPool,
) -> Result<(Frame, Option<Batch>), Failure> {
    let mut frame = Frame::new(if rows.is_some() { Kind::Run } else { Kind::FinishKeys });
    frame.stage = current.stage.0;
    frame.attempt = current.attempt.0;
    frame.sequence = sequence;
    frame.port = current.tries;
    let Some(LaneRows { mut batch, first, partitions }) = rows else { return Ok((frame, None)) };
    worker
        .put_batch(&mut frame, &mut batch, |schema| schema_id(schemas, schema), segments)
        .map_err(|error| failure(Scope::Output, Verdict::Exception, error.to_string()))?;
    let frame = frame.with_text(&json!({"first": first, "partitions": partitions}));
    Ok((frame, Some(batch)))
}
