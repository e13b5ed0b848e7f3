//! [`Worker`]: a Python process that runs attempts, as the coordinator knows it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use serde::Deserialize;

use super::connection::Connection;
use super::frame::{FLAG_ORIGIN, FLAG_SCATTERED, Frame, FrameError, Kind};
use super::mailbox::{Mailbox, Message};
use super::worker_clock::{Part, Turn, WorkerClock};
use super::worker_life::WorkerLife;
use crate::batch::{
    Batch, BatchError, Holder, Lease, Origin, Scattered, ScatteredError, Segment, SegmentError, SegmentId, SegmentPool,
    Shared, ipc,
};
use crate::plan::{Plan, Port, StageId};
use crate::run::scheduler::{AttemptId, Failure, Output, WorkerId};

/// In the place of a port: updates of the run's state.
const STATE_PORT: u32 = u32::MAX;

/// One worker process.
#[derive(Debug)]
pub struct Worker {
    pub id: WorkerId,
    pub connection: Connection,
    /// 0 until the template has answered.
    pub pid: i32,
    /// `None` until the template has answered.
    pub pidfd: Option<OwnedFd>,
    pub stages: BTreeMap<StageId, Opening>,
    /// What it was sent and has not answered: it works on the first one.
    pub attempts: VecDeque<Current>,
    pub life: WorkerLife,
    pub clock: WorkerClock,
    /// The core that it may run on, if it has one.
    pub core: Option<u32>,
    /// Whether `--chaos` has killed it. It may have answered all that it was sent before it died.
    pub is_struck: bool,
    /// How much of what is shared it has been told of.
    pub shared_sent: usize,
    /// The request for whose answer the attempt that it works on waits, for as long as it takes.
    pub stands_still: Option<u64>,
    /// Schemas and segments that it has been told.
    schemas_sent: BTreeSet<u32>,
    segments_sent: BTreeSet<SegmentId>,
    /// What it is reading: each is given back when it says so, or when it dies.
    leases: BTreeMap<SegmentId, Vec<Arc<Lease>>>,
    /// What it has announced, by its own numbers.
    schemas: BTreeMap<u32, SchemaRef>,
    segments: BTreeMap<u32, Arc<Segment>>,
    /// Its output segments whose last view is gone, by its own numbers: it has not been told yet.
    free: Arc<Mutex<Vec<u32>>>,
}

/// How far a stage is prepared in a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    Asked,
    /// `row_by_row`: as many rows out as in means that row `i` comes from row `i`.
    Open {
        row_by_row: bool,
        /// Its function is called for several rows at once.
        is_crowd: bool,
        /// Its code can give its state, and can be given it.
        has_snapshots: bool,
    },
}

/// An attempt that the worker runs, or goes on with.
#[derive(Debug)]
pub struct Current {
    pub attempt: AttemptId,
    pub stage: StageId,
    /// Where the rows come from that it was given.
    pub origin: Origin,
    /// A generator in a new process is making again what was made before: a death is no fault of this attempt.
    pub is_catching_up: bool,
    /// The lane of a stage with state whose rows these are.
    pub lane: Option<u32>,
    /// A new process is given a snapshot before anything else.
    pub is_to_be_restored: bool,
    /// Batches that a new process does again before this one, so that it has the state that they left.
    pub again: VecDeque<u64>,
    pub sequence: u64,
    /// Which attempt at its rows it is, from 1.
    pub tries: u32,
    /// The state that the attempt has left, if it was asked for.
    pub snapshot: Option<Vec<u8>>,
    /// Sent when the stage is open.
    pub waiting: Option<Frame>,
    pub outputs: Vec<(usize, Batch)>,
    /// Rows of it for which the function failed.
    pub failed: Vec<(u64, Failure)>,
}

#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    #[error("it refers to {what} {number}, which it has not announced")]
    Unknown { what: &'static str, number: u32 },
    #[error("it sent a batch that cannot be read: {0}")]
    Arrow(#[from] ArrowError),
    #[error("it sent an index of rows that does not fit its batch")]
    Origin,
    #[error("it told of stage {0}, which it was not asked to prepare")]
    Stage(u32),
    #[error("it gave an output for port {0}, which its stage has not")]
    Port(u32),
    #[error("it told of rows that it was not given")]
    Rows,
    #[error("{0}")]
    Segment(#[from] SegmentError),
    #[error("{0}")]
    Scattered(#[from] ScatteredError),
    #[error("{0}")]
    Frame(#[from] FrameError),
}

/// The text of an `ERROR` frame.
#[derive(Debug, Deserialize)]
pub struct ErrorText {
    #[serde(rename = "type")]
    pub kind: String,
    pub message: String,
    pub traceback: String,
    pub verdict: String,
    /// The function asks for fewer calls.
    pub throttled: Option<ThrottledText>,
    /// Of a lane: the rows at fault in its batch, from and to.
    pub rows: Option<(usize, usize)>,
}

/// For how long nothing is to be tried again, if it is said.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct ThrottledText {
    pub seconds: Option<f64>,
}

/// The text of a `ROWS_FAILED` frame.
#[derive(Debug, Deserialize)]
pub struct RowsFailedText {
    pub rows: Vec<RowFailedText>,
}

#[derive(Debug, Deserialize)]
pub struct RowFailedText {
    /// Its place among the rows of the attempt.
    pub row: u64,
    #[serde(flatten)]
    pub error: ErrorText,
}

#[derive(Debug, Deserialize)]
struct OpenedText {
    #[serde(rename = "as")]
    convention: String,
    /// For how many rows of a batch its function is called at once.
    at_once: Option<NonZeroU32>,
    /// Of a stage with state.
    #[serde(default)]
    snapshots: bool,
    #[serde(default)]
    files: Vec<PathBuf>,
}

impl Current {
    pub fn new(attempt: AttemptId, stage: StageId, sequence: u64) -> Self {
        Self {
            attempt,
            stage,
            origin: Origin::default(),
            is_catching_up: false,
            lane: None,
            is_to_be_restored: false,
            again: VecDeque::new(),
            sequence,
            tries: 1,
            snapshot: None,
            waiting: None,
            outputs: Vec::new(),
            failed: Vec::new(),
        }
    }
}

impl Worker {
    pub fn new(id: WorkerId, connection: Connection, life: WorkerLife, clock: WorkerClock) -> Self {
        Self {
            id,
            connection,
            pid: 0,
            pidfd: None,
            stages: BTreeMap::new(),
            attempts: VecDeque::new(),
            life,
            clock,
            core: None,
            is_struck: false,
            shared_sent: 0,
            stands_still: None,
            schemas_sent: BTreeSet::new(),
            segments_sent: BTreeSet::new(),
            leases: BTreeMap::new(),
            schemas: BTreeMap::new(),
            segments: BTreeMap::new(),
            free: Arc::default(),
        }
    }

    /// Fills a `RUN` frame with a batch, announcing what the worker does not know yet.
    ///
    /// # Errors
    /// If there is no shared memory for the batch.
    pub fn put_batch(
        &mut self,
        frame: &mut Frame,
        batch: &mut Batch,
        schema_id: impl FnOnce(&SchemaRef) -> u32,
        pool: &SegmentPool,
    ) -> Result<(), BatchError> {
        let (records, parcel) = batch.parcel(pool)?;
        let schema = records.schema();
        frame.schema = schema_id(&schema);
        frame.rows = u32::try_from(records.num_rows()).expect("cuts bound the rows of a batch");
        if self.schemas_sent.insert(frame.schema) {
            let mut announcement = Frame::new(Kind::Schema);
            announcement.schema = frame.schema;
            announcement.data = ipc::encode_schema(&schema)?;
            self.connection.send(announcement);
        }
        for lease in parcel.leases {
            self.lend(lease)?;
        }
        frame.flags |= if parcel.is_scattered { FLAG_SCATTERED } else { 0 };
        (frame.segment, frame.offset) = parcel.segment.map_or((0, 0), |(segment, offset)| (segment.0, offset));
        frame.length = parcel.length;
        frame.data = parcel.data;
        Ok(())
    }

    /// The worker may read a segment until it says that it has.
    fn lend(&mut self, lease: Arc<Lease>) -> Result<(), BatchError> {
        let segment = lease.segment();
        if self.segments_sent.insert(segment.id()) {
            let mut announcement = Frame::new(Kind::Segment);
            announcement.segment = segment.id().0;
            announcement.length = segment.len() as u64;
            let fd = segment.fd().try_clone_to_owned();
            announcement.fds.push(fd.map_err(|source| SegmentError::System { verb: "shared", source })?);
            self.connection.send(announcement);
        }
        self.leases.entry(segment.id()).or_default().push(lease);
        Ok(())
    }

    /// An attempt is over. Returns whether the worker is to get no further one; then it is asked to end.
    pub fn is_at_its_end(&mut self) -> bool {
        let was_ending = self.life.replaced().is_some();
        let is_at_its_end = self.life.is_over(self.pid);
        if is_at_its_end && !was_ending {
            self.connection.send(Frame::new(Kind::Stop));
        }
        is_at_its_end
    }

    /// The attempt that it works on, if that is the one that a frame is about. Then it is over.
    pub fn ended(&mut self, frame: &Frame) -> Option<Current> {
        self.attempts.pop_front_if(|current| current.attempt.0 == frame.attempt)
    }

    /// Refuses a `DONE` that tells of more rows than the attempt was given, or of failed ones that are not among them.
    pub fn check_done(&self, frame: &Frame) -> Result<(), WorkerError> {
        let current = self.attempts.front().filter(|current| current.attempt.0 == frame.attempt);
        let Some(Current { origin, failed, .. }) = current else { return Ok(()) };
        let is_known = failed.last().is_none_or(|(last, _)| *last < u64::from(frame.rows));
        let are_apart = failed.is_sorted_by(|(row, _), (next, _)| row < next);
        if frame.rows as usize <= origin.len() && is_known && are_apart { Ok(()) } else { Err(WorkerError::Rows) }
    }

    /// Tells the clock what the worker does now.
    pub fn set_clock(&mut self, plan: &Plan) {
        let turn = self.attempts.front().and_then(|current| {
            let timeout = plan.stage(current.stage).timeout?;
            let part = match self.stages.get(&current.stage) {
                Some(Opening::Asked) => Part::Opening,
                _ if current.lane.is_some() && !current.again.is_empty() => Part::Again(current.again.len()),
                _ if current.lane.is_none() && current.is_catching_up => Part::CatchingUp,
                _ => Part::Itself,
            };
            let limit = match part {
                Part::Opening => timeout.open,
                Part::Again(_) | Part::Itself => timeout.attempt,
                // Each batch may take as long as it might for the first time.
                Part::CatchingUp => {
                    timeout.attempt.saturating_mul(u32::try_from(current.sequence + 1).unwrap_or(u32::MAX))
                }
            };
            Some(Turn { attempt: current.attempt, part, limit })
        });
        self.clock.set(turn);
    }

    /// The attempts that wait for a stage which cannot be prepared.
    pub fn ended_with(&mut self, stage: StageId) -> Vec<Current> {
        let waits = |current: &Current| current.stage == stage && current.waiting.is_some();
        let (ended, left) = self.attempts.drain(..).partition(waits);
        self.attempts = left;
        Vec::from(ended)
    }

    /// What is left of an attempt that failed is no state to go on with: the worker is asked to end.
    pub fn end_state(&mut self) {
        if self.life.replaced().is_none() {
            self.life.replace("it was replaced, as an attempt that failed has spoilt its state");
            self.connection.send(Frame::new(Kind::Stop));
        }
    }

    /// Tells the worker that a segment is gone.
    pub fn forget(&mut self, segment: SegmentId) {
        if self.segments_sent.remove(&segment) {
            let mut frame = Frame::new(Kind::Forget);
            frame.segment = segment.0;
            self.connection.send(frame);
        }
    }

    /// One lease of an input segment ended.
    pub fn released(&mut self, frame: &Frame) {
        if let Some(leases) = self.leases.get_mut(&SegmentId(frame.segment)) {
            leases.pop();
        }
    }

    /// A stage is prepared. Returns for how many rows at once its function is called, if it is called row by row, and the files that were
    /// imported for it, if it was to tell.
    pub fn opened(&mut self, frame: &Frame) -> Result<(Option<NonZeroU32>, Vec<PathBuf>), WorkerError> {
        if !self.stages.contains_key(&StageId(frame.stage)) {
            return Err(WorkerError::Stage(frame.stage));
        }
        let text: OpenedText = frame.text()?;
        let row_by_row = text.convention == "row";
        let at_once = text.at_once.unwrap_or(NonZeroU32::MIN);
        let is_crowd = at_once > NonZeroU32::MIN;
        let opening = Opening::Open { row_by_row, is_crowd, has_snapshots: text.snapshots };
        self.stages.insert(StageId(frame.stage), opening);
        Ok((row_by_row.then_some(at_once), text.files))
    }

    /// What the worker is at: the stage, and the batch if that is certain. One that was sent several attempts may be at the next already.
    pub fn at(&self) -> (Option<StageId>, Option<u64>) {
        let mut sent = self.attempts.iter().filter(|current| current.waiting.is_none());
        let first = sent.next().map(|current| (current.stage, current.sequence));
        let is_certain = sent.all(|current| Some((current.stage, current.sequence)) == first);
        let batch = first.map(|(_, sequence)| sequence).filter(|_| is_certain);
        (self.attempts.front().map(|current| current.stage), batch)
    }

    /// Whether an attempt of the stage does one thing at a time.
    pub fn is_one_task(&self, stage: StageId) -> bool {
        !matches!(self.stages.get(&stage), Some(Opening::Open { is_crowd: true, .. }))
    }

    /// The worker announces a schema.
    pub fn announced_schema(&mut self, frame: &Frame) -> Result<(), WorkerError> {
        self.schemas.insert(frame.schema, Arc::new(ipc::decode_schema(&frame.data)?));
        Ok(())
    }

    /// The worker announces a segment that it will write to.
    pub fn announced_segment(&mut self, frame: &mut Frame, id: SegmentId) -> Result<(), WorkerError> {
        let fd =
            frame.fds.pop().ok_or(WorkerError::Unknown { what: "the descriptor of segment", number: frame.segment })?;
        self.segments.insert(frame.segment, Arc::new(Segment::adopt(id, fd, frame.length)?));
        Ok(())
    }

    /// The worker announces where it notes how much memory its arrays have.
    pub fn announced_ledger(&mut self, frame: &mut Frame, id: SegmentId) -> Result<(), WorkerError> {
        let fd = frame.fds.pop().ok_or(WorkerError::Unknown { what: "the descriptor of ledger", number: 0 })?;
        self.life.read_ledger(Segment::adopt(id, fd, frame.length)?);
        Ok(())
    }

    /// The worker has given a segment back to the system.
    pub fn dropped_segment(&mut self, frame: &Frame) -> Option<Arc<Segment>> {
        self.segments.remove(&frame.segment)
    }

    /// What the worker has written to, once it is gone.
    pub fn into_segments(self) -> impl Iterator<Item = Arc<Segment>> {
        self.segments.into_values()
    }

    /// One output of the current attempt. Its rows stay where the worker has written them.
    pub fn output(&mut self, frame: &Frame, plan: &Plan, mailbox: &Mailbox) -> Result<(), WorkerError> {
        let schema = self.schemas.get(&frame.schema);
        let schema = schema.ok_or(WorkerError::Unknown { what: "schema", number: frame.schema })?;
        let index_bytes = if frame.flags & FLAG_ORIGIN == 0 { 0 } else { frame.rows as usize * 4 };
        let inline_bytes = frame.data.len().checked_sub(index_bytes).ok_or(WorkerError::Origin)?;
        let (inline, index) = frame.data.split_at(inline_bytes);
        let (schema, rows) = (Arc::clone(schema), frame.rows as usize);
        let shared = self.shared(frame, inline, mailbox)?;
        let records = match &shared {
            Some(shared) => shared.records(schema, rows)?,
            None => ipc::decode(&Buffer::from(inline), schema)?,
        };
        if records.num_rows() != rows {
            return Err(WorkerError::Origin);
        }
        // An attempt that has failed already is not spoken of any more.
        let current = self.attempts.front_mut().filter(|current| current.attempt.0 == frame.attempt);
        let Some(current) = current else { return Ok(()) };
        let port = if frame.port == STATE_PORT { Output::STATE } else { frame.port as usize };
        let named = plan.stage(current.stage).ports.get(port);
        if port != Output::STATE && named.is_none_or(|port| port.name == Port::REJECTED) {
            return Err(WorkerError::Port(frame.port));
        }
        let row_by_row = matches!(self.stages.get(&current.stage), Some(Opening::Open { row_by_row: true, .. }));
        let origin = if frame.flags & FLAG_ORIGIN != 0 {
            let index = index.chunks_exact(4).map(|bytes| u32::from_le_bytes(bytes.try_into().expect("four bytes")));
            current.origin.take(index.map(|row| row as usize))
        } else if port != Output::STATE && row_by_row && current.origin.len() == records.num_rows() {
            current.origin.clone()
        } else {
            current.origin.blur(records.num_rows())
        };
        if origin.len() != records.num_rows() {
            return Err(WorkerError::Origin);
        }
        let batch = match shared {
            Some(shared) => Batch::in_shared_memory(records, origin, shared),
            None => Batch::new(records, origin),
        };
        current.outputs.push((port, batch));
        Ok(())
    }

    /// Where an output lies in shared memory, if it does not travel in the frame.
    fn shared(&self, frame: &Frame, inline: &[u8], mailbox: &Mailbox) -> Result<Option<Shared>, WorkerError> {
        if frame.flags & FLAG_SCATTERED != 0 {
            let scattered = Scattered::read(inline, |holder| match holder {
                Holder::Sender(segment) => self.lease(segment, mailbox),
                Holder::Receiver(segment) => self.leased(segment),
            })?;
            return Ok(Some(Shared::Scattered(Arc::new(scattered))));
        }
        if frame.segment == 0 {
            return Ok(None);
        }
        let lease = self.lease(frame.segment, mailbox)?;
        if lease.segment().address(frame.offset, frame.length).is_none() {
            return Err(WorkerError::Unknown { what: "a place outside segment", number: frame.segment });
        }
        Ok(Some(Shared::Whole { lease, offset: frame.offset, length: frame.length }))
    }

    /// A lease of a segment that the worker has written.
    fn lease(&self, segment: u32, mailbox: &Mailbox) -> Result<Arc<Lease>, WorkerError> {
        let found = self.segments.get(&segment);
        let found = found.ok_or(WorkerError::Unknown { what: "segment", number: segment })?;
        let (worker, free, mailbox) = (self.id, Arc::clone(&self.free), mailbox.clone());
        // Runs wherever the last view is dropped: the loop tells the worker.
        let give_back = Box::new(move |_| {
            let mut free = free.lock().unwrap_or_else(PoisonError::into_inner);
            free.push(segment);
            if free.len() == 1 {
                mailbox.send(Message::SegmentsFree { worker });
            }
        });
        Ok(Arc::new(Lease::new(Arc::clone(found), give_back)))
    }

    /// A further lease of a segment that the worker is reading.
    fn leased(&self, segment: SegmentId) -> Result<Arc<Lease>, WorkerError> {
        let lease = self.leases.get(&segment).and_then(|leases| leases.last());
        lease
            .cloned()
            .ok_or(WorkerError::Unknown { what: "what it does not read any more, segment", number: segment.0 })
    }

    /// Output segments whose last view is gone may be used again.
    pub fn release_outputs(&mut self) {
        let free = std::mem::take(&mut *self.free.lock().unwrap_or_else(PoisonError::into_inner));
        for segment in free {
            let mut frame = Frame::new(Kind::Release);
            frame.segment = segment;
            self.connection.send(frame);
        }
    }
}
