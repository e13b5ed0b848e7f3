//! [`Pool`]: the template and the Python workers that it forks.

mod fake_worker;
mod lanes;
mod template;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::num::NonZeroU32;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::datatypes::SchemaRef;
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Signal, pidfd_send_signal};
use serde_json::json;

use super::connection::Connection;
use super::frame::{FLAG_END, Frame, Kind, PROTOCOL};
use super::guardian::Guardian;
use super::local::Surroundings;
use super::log::OutputLog;
use super::mailbox::Mailbox;
use super::opening;
use super::poller::{Poller, Token};
use super::resident::failure;
use super::worker::{Current, ErrorText, Opening, RowsFailedText, Worker, WorkerError};
use super::worker_clock::WorkerClock;
use super::worker_memory::WorkerMemory;
use crate::batch::{Batch, Origin, Segment, SegmentId, SegmentPool};
use crate::environment::{threads_per_worker, worker_variables};
use crate::plan::{Plan, PythonTarget, Stage, StageId, StageKind, Verdict};
use crate::run::scheduler::{AttemptId, ClassId, Classes, ExitCause, Failure, Scope, WorkerId};
use crate::run::{RunEvent, Speaker, Stream};

pub use fake_worker::{Answer, FakeWorker};
pub use lanes::LaneRows;
use template::{HelloText, Template};

/// Time between two looks at the memory of workers that run an attempt.
const WEIGHED_EVERY: Duration = Duration::from_millis(100);
/// How long a worker that is being replaced may take to close what it has open.
const REPLACE_GRACE: Duration = Duration::from_secs(60);
/// What the types of errors begin with that are millpond's, and not of the user's code.
const OWN_ERRORS: &str = "millpond.errors.";
/// The type of the error of a worker that has no room for its output.
const NO_SHARED_MEMORY: &str = "millpond.errors.SharedMemoryError";

/// The Python of a run's workers.
#[derive(Clone, Debug)]
pub struct PythonHost {
    /// The interpreter.
    pub python: PathBuf,
    /// The folder that holds the worker package.
    pub package: PathBuf,
    /// Digest of what decides which packages there are.
    pub environment: String,
}

/// What happened to workers.
#[derive(Debug)]
pub enum Happened {
    Ready {
        worker: WorkerId,
    },
    /// It will be given nothing more; its exit follows.
    Retired {
        worker: WorkerId,
    },
    Exited {
        worker: WorkerId,
        failure: Failure,
        cause: ExitCause,
    },
    /// It has prepared a stage.
    Opened {
        stage: StageId,
        /// For how many rows at once its function is called, if it is called row by row.
        at_once: Option<NonZeroU32>,
        /// That were imported for it, if it was to tell.
        files: Vec<PathBuf>,
    },
    Failed {
        attempt: AttemptId,
        failure: Failure,
    },
    /// A new process is to be given this batch of its lane, so that it has the state that the batch left.
    DoesAgain {
        worker: WorkerId,
        attempt: AttemptId,
        stage: StageId,
        sequence: u64,
        lane: u32,
    },
    /// A new process is to be given the last snapshot of its lane.
    WantsSnapshot {
        worker: WorkerId,
        attempt: AttemptId,
        stage: StageId,
        lane: u32,
    },
    /// The state of a lane before the batch `next`.
    Snapshot {
        stage: StageId,
        lane: u32,
        next: u64,
        state: Vec<u8>,
    },
    Done {
        attempt: AttemptId,
        rows: u64,
        end: bool,
        spent: Duration,
        failed: Vec<(u64, Failure)>,
        outputs: Vec<(usize, Batch)>,
    },
}

pub struct Pool {
    plan: Arc<Plan>,
    classes: Classes,
    host: Option<PythonHost>,
    threads: NonZeroU32,
    log: OutputLog,
    mailbox: Mailbox,
    segments: SegmentPool,
    template: Option<Template>,
    workers: BTreeMap<WorkerId, Worker>,
    /// Standard output and error of templates and workers, until their end.
    pipes: BTreeMap<u64, OutputPipe>,
    next_pipe: u64,
    /// Segments that the workers which wrote them have given up.
    fading: Vec<Arc<Segment>>,
    /// Schemas that workers are told, by their id less one.
    schemas: Vec<SchemaRef>,
    happened: Vec<Happened>,
    news: Vec<RunEvent>,
    /// Rows of a batch of a stage with state for which its lanes have failed.
    blamed: BTreeMap<(StageId, u64), BTreeMap<u32, Range<usize>>>,
    /// Instances of classes that could not be closed.
    unclosed: Vec<(StageId, Failure)>,
    /// All workers have been asked to stop.
    is_closing: bool,
    weighed: Instant,
}

#[derive(Debug)]
struct OutputPipe {
    fd: OwnedFd,
    name: String,
    worker: Option<WorkerId>,
    stream: Stream,
}

impl Pool {
    pub fn new(
        plan: Arc<Plan>,
        surroundings: &Surroundings,
        log: OutputLog,
        mailbox: Mailbox,
        segments: SegmentPool,
    ) -> Self {
        let workers = NonZeroU32::new(plan.workers).unwrap_or(NonZeroU32::MIN);
        Self {
            classes: Classes::new(&plan),
            plan,
            host: surroundings.python.clone(),
            threads: threads_per_worker(surroundings.cores, workers),
            log,
            mailbox,
            segments,
            template: None,
            workers: BTreeMap::new(),
            pipes: BTreeMap::new(),
            next_pipe: 0,
            fading: Vec::new(),
            schemas: Vec::new(),
            happened: Vec::new(),
            news: Vec::new(),
            blamed: BTreeMap::new(),
            unclosed: Vec::new(),
            is_closing: false,
            weighed: Instant::now(),
        }
    }

    pub fn take_happened(&mut self) -> Vec<Happened> {
        std::mem::take(&mut self.happened)
    }

    pub fn take_news(&mut self) -> Vec<RunEvent> {
        std::mem::take(&mut self.news)
    }

    pub fn has_workers(&self) -> bool {
        !self.workers.is_empty()
    }

    /// Starts the template if workers will be wanted, so that it imports what they need while the first batch is made.
    ///
    /// # Errors
    /// If there are no descriptors left.
    pub fn warm_up(&mut self, guardian: &mut Guardian, poller: &mut Poller) -> io::Result<()> {
        let is_wanted = |stage: &Stage| matches!(stage.kind, StageKind::Python(_)) && stage.after.is_empty();
        if self.plan.stages.iter().any(is_wanted) {
            self.start_template(guardian, poller)?;
        }
        Ok(())
    }

    /// Forks a worker from the template, which is started first if there is none.
    ///
    /// # Errors
    /// If there are no descriptors left.
    pub fn start_worker(
        &mut self,
        worker: WorkerId,
        class: ClassId,
        guardian: &mut Guardian,
        poller: &mut Poller,
    ) -> io::Result<()> {
        if self.template.is_none() {
            self.start_template(guardian, poller)?;
        }
        let (connection, socket) = Connection::pair()?;
        poller.add(Token::Worker(worker), connection.fd())?;
        let name = format!("worker-{}", worker.0);
        let stdout = self.output_pipe(&name, Some(worker), Stream::Stdout, poller)?;
        let stderr = self.output_pipe(&name, Some(worker), Stream::Stderr, poller)?;
        let stage = self.plan.stage(self.classes.get(class).stage);
        let mut env: BTreeMap<String, String> =
            worker_variables(self.threads).into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        env.extend(stage.env.clone());
        let (clock, stacks) = self.clock_for(class)?;
        let mut frame = Frame::new(Kind::Fork).with_text(&json!({"env": env, "cwd": stage.cwd.to_string_lossy()}));
        frame.attempt = u64::from(worker.0);
        frame.fds = [socket, stdout, stderr].into_iter().chain(stacks).collect();
        self.workers.insert(worker, Worker::new(worker, connection, WorkerMemory::of(stage), clock));
        if let Some(template) = &mut self.template {
            template.connection.send(frame);
        }
        Ok(())
    }

    /// The clock of a worker, and where it is to show its stacks if it may be stopped for the time that it takes.
    fn clock_for(&self, class: ClassId) -> io::Result<(WorkerClock, Option<OwnedFd>)> {
        let of_class = |stage: &&Stage| self.classes.of(stage.id) == Some(class);
        if self.plan.stages.iter().filter(of_class).all(|stage| stage.timeout.is_none()) {
            return Ok((WorkerClock::default(), None));
        }
        let (clock, stacks) = WorkerClock::with_stacks()?;
        Ok((clock, Some(stacks)))
    }

    fn output_pipe(
        &mut self,
        name: &str,
        worker: Option<WorkerId>,
        stream: Stream,
        poller: &mut Poller,
    ) -> io::Result<OwnedFd> {
        let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
        fcntl_setfl(&ours, OFlags::NONBLOCK)?;
        self.next_pipe += 1;
        poller.add(Token::Output(self.next_pipe), ours.as_fd())?;
        self.pipes.insert(self.next_pipe, OutputPipe { fd: ours, name: name.to_owned(), worker, stream });
        Ok(theirs)
    }

    /// Sends an attempt to a worker. Returns the batch as it lies now.
    pub fn dispatch(
        &mut self,
        id: WorkerId,
        attempt: AttemptId,
        stage: StageId,
        mut frame: Frame,
        batch: Option<Batch>,
        poller: &mut Poller,
    ) -> Result<Option<Batch>, Failure> {
        let Some(worker) = self.workers.get_mut(&id) else {
            // Its death is on its way to the scheduler.
            return Ok(batch);
        };
        // Before it makes the next output, so that it need not make a segment for it.
        worker.release_outputs();
        let mut placed = batch;
        let mut origin = Origin::default();
        if let Some(batch) = &mut placed {
            let schemas = &mut self.schemas;
            worker
                .put_batch(&mut frame, batch, |schema| schema_id(schemas, schema), &self.segments)
                .map_err(|error| failure(Scope::Output, Verdict::Exception, error.to_string()))?;
            origin = batch.origin().clone();
        }
        let sequence = frame.sequence;
        let is_catching_up = placed.is_none() && sequence > 0 && !worker.stages.contains_key(&stage);
        let current = Current { origin, is_catching_up, ..Current::new(attempt, stage, sequence) };
        self.begin(id, current, frame);
        self.watch_output_of(id, poller);
        Ok(placed)
    }

    /// Gives a worker one more attempt. It is sent as soon as the stage is open, and those before it have been sent.
    fn begin(&mut self, id: WorkerId, mut current: Current, frame: Frame) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let stage = current.stage;
        if let Entry::Vacant(unknown) = worker.stages.entry(stage) {
            unknown.insert(Opening::Asked);
            worker.connection.send(opening::open(&self.plan, self.plan.stage(stage)));
        }
        current.waiting = Some(frame);
        worker.attempts.push_back(current);
        worker.set_clock(&self.plan);
        self.go_on(id);
    }

    /// Something can be read from, or written to, one of the pool's descriptors.
    pub fn ready(&mut self, token: Token, poller: &mut Poller) {
        match token {
            Token::Template(process) => self.template_ready(process, poller),
            Token::Worker(worker) => self.worker_ready(worker, poller),
            Token::WorkerEnd(worker) => {
                self.worker_gone(worker, "its template died".to_owned(), ExitCause::Engine, poller);
            }
            Token::Output(pipe) => self.output_ready(pipe, poller),
            Token::Mailbox | Token::Signals | Token::Guardian | Token::Command(..) => {}
        }
    }

    pub fn watch_output(&self, poller: &mut Poller) {
        self.workers.keys().for_each(|&id| self.watch_output_of(id, poller));
        if let Some(template) = &self.template {
            let wants = template.connection.wants_to_send();
            poller.watch_output(Token::Template(template.process), template.connection.fd(), wants);
        }
    }

    fn watch_output_of(&self, id: WorkerId, poller: &mut Poller) {
        let Some(worker) = self.workers.get(&id) else { return };
        poller.watch_output(Token::Worker(id), worker.connection.fd(), worker.connection.wants_to_send());
    }

    fn worker_ready(&mut self, id: WorkerId, poller: &mut Poller) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.connection.flush();
        poller.watch_output(Token::Worker(id), worker.connection.fd(), worker.connection.wants_to_send());
        match worker.connection.receive() {
            Ok(frames) => {
                if worker.connection.is_closed() {
                    // Its end is reported by the template.
                    poller.remove(Token::Worker(id), worker.connection.fd());
                }
                for frame in frames {
                    if let Err(error) = self.worker_said(id, frame) {
                        self.condemn(id, &error.to_string());
                        return;
                    }
                    if let Some(worker) = self.workers.get_mut(&id) {
                        worker.set_clock(&self.plan);
                    }
                }
            }
            Err(error) => self.condemn(id, &error.to_string()),
        }
    }

    /// Kills a worker, for `--chaos`.
    pub fn strike(&mut self, id: WorkerId) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.is_struck = true;
        }
        self.kill(id);
    }

    fn kill(&mut self, id: WorkerId) {
        if let Some(pidfd) = self.workers.get(&id).and_then(|worker| worker.pidfd.as_ref()) {
            // It may be gone already.
            let _ = pidfd_send_signal(pidfd, Signal::KILL);
        }
    }

    /// Lets a worker end once it has answered what it was sent.
    pub fn replace(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id).filter(|worker| worker.memory.replaced().is_none()) else {
            return;
        };
        worker.memory.replace("it was replaced, by --chaos");
        worker.connection.send(Frame::new(Kind::Stop));
        self.happened.push(Happened::Retired { worker: id });
    }

    /// A worker that does not keep to the protocol is killed; its end is reported as usual.
    fn condemn(&mut self, id: WorkerId, problem: &str) {
        let text = format!("worker {}: {problem}\n", id.0);
        self.log.write("template", &Speaker::Worker { worker: id, stage: None }, Stream::Stderr, text.as_bytes());
        self.kill(id);
    }

    fn worker_said(&mut self, id: WorkerId, mut frame: Frame) -> Result<(), WorkerError> {
        let Some(worker) = self.workers.get_mut(&id) else { return Ok(()) };
        match frame.kind {
            Kind::Hello => {
                let hello: HelloText = frame.text()?;
                if hello.protocol != PROTOCOL {
                    return Err(WorkerError::Unknown { what: "protocol", number: hello.protocol });
                }
                self.happened.push(Happened::Ready { worker: id });
            }
            Kind::Opened => {
                let (at_once, files) = worker.opened(&frame)?;
                self.happened.push(Happened::Opened { stage: StageId(frame.stage), at_once, files });
                self.go_on(id);
            }
            Kind::WorkerSchema => worker.announced_schema(&frame)?,
            Kind::WorkerSegment => {
                let segment = self.segments.next_id();
                worker.announced_segment(&mut frame, segment)?;
            }
            Kind::Ledger => {
                let ledger = self.segments.next_id();
                worker.announced_ledger(&mut frame, ledger)?;
            }
            Kind::Batch => match worker.output(&frame, &self.plan, &self.mailbox) {
                // What the function made is wrong, not what the worker did.
                Err(WorkerError::Arrow(error)) => {
                    if let Some(current) = worker.ended(&frame) {
                        let message = format!("the result is not valid Arrow data: {error}");
                        let failure = failure(Scope::Rows, Verdict::Schema, message);
                        if current.lane.is_some() {
                            worker.end_state();
                            self.happened.push(Happened::Retired { worker: id });
                        }
                        self.happened.push(Happened::Failed { attempt: current.attempt, failure });
                    }
                }
                result => result?,
            },
            Kind::Done => {
                worker.check_done(&frame)?;
                if let Some(current) = worker.ended(&frame) {
                    if worker.is_outgrown() {
                        self.happened.push(Happened::Retired { worker: id });
                    }
                    if let Some(lane) = current.lane
                        && let Some(blamed) = self.blamed.get_mut(&(current.stage, current.sequence))
                    {
                        blamed.remove(&lane);
                    }
                    // Only now: an attempt that is tried again must not begin with the state that it leaves.
                    if let (Some(lane), Some(state)) = (current.lane, current.snapshot) {
                        let (stage, next) = (current.stage, current.sequence + 1);
                        self.happened.push(Happened::Snapshot { stage, lane, next, state });
                    }
                    self.happened.push(Happened::Done {
                        attempt: current.attempt,
                        rows: u64::from(frame.rows),
                        end: frame.flags & FLAG_END != 0,
                        spent: Duration::from_micros(frame.length),
                        failed: current.failed,
                        outputs: current.outputs,
                    });
                }
            }
            Kind::Error => {
                let text: ErrorText = frame.text()?;
                let is_opening = frame.attempt == 0;
                if is_opening && frame.stage as usize >= self.plan.stages.len() {
                    return Err(WorkerError::Stage(frame.stage));
                }
                if is_opening {
                    worker.stages.remove(&StageId(frame.stage));
                }
                if is_opening && (self.is_closing || worker.memory.replaced().is_some()) {
                    self.unclosed.push((StageId(frame.stage), user_failure(text, is_opening)));
                    return Ok(());
                }
                let ended = if is_opening {
                    worker.ended_with(StageId(frame.stage))
                } else {
                    worker.ended(&frame).into_iter().collect()
                };
                let is_spoilt = ended.iter().any(|current| current.lane.is_some());
                let is_ending = !ended.is_empty() && worker.is_outgrown();
                if is_spoilt {
                    worker.end_state();
                }
                if is_ending || is_spoilt {
                    self.happened.push(Happened::Retired { worker: id });
                }
                let rows = text.rows.map(|(from, to)| from..to);
                let failure = user_failure(text, is_opening);
                for current in ended {
                    let failure = self.lane_failure(&current, rows.clone(), failure.clone());
                    self.happened.push(Happened::Failed { attempt: current.attempt, failure });
                }
                self.go_on(id);
            }
            Kind::RowsFailed => {
                let text: RowsFailedText = frame.text()?;
                if let Some(current) = worker.attempts.front_mut().filter(|current| current.attempt.0 == frame.attempt)
                {
                    current.failed =
                        text.rows.into_iter().map(|row| (row.row, user_failure(row.error, false))).collect();
                }
            }
            Kind::DoneAgain => {
                if let Some(current) = worker.attempts.front_mut() {
                    current.again.pop_front();
                }
                self.go_on(id);
            }
            Kind::Snapshot => {
                if let Some(current) = worker.attempts.front_mut() {
                    current.snapshot = Some(frame.data);
                }
            }
            Kind::CaughtUp => {
                if let Some(current) = worker.attempts.front_mut() {
                    current.is_catching_up = false;
                }
            }
            Kind::Released => worker.released(&frame),
            Kind::Dropped => self.fading.extend(worker.dropped_segment(&frame)),
            _ => {}
        }
        Ok(())
    }

    /// A worker is gone. What it had said before counts; its leases end.
    fn worker_gone(&mut self, id: WorkerId, reason: String, cause: ExitCause, poller: &mut Poller) {
        self.worker_ready(id, poller);
        let Some(worker) = self.workers.remove(&id) else { return };
        poller.remove(Token::Worker(id), worker.connection.fd());
        if let Some(pidfd) = &worker.pidfd {
            poller.remove(Token::WorkerEnd(id), pidfd.as_fd());
        }
        let is_catching_up = worker.attempts.front().is_some_and(|current| current.is_catching_up);
        let is_replaced = worker.memory.replaced().is_some();
        let killed = worker.memory.killed();
        let is_own = killed.is_some() || worker.clock.overdue().is_some();
        let cause = if (is_catching_up && !is_own) || is_replaced || worker.clock.is_unjust() {
            ExitCause::Engine
        } else {
            cause
        };
        let overdue = worker.clock.overdue();
        let verdict = match (killed, overdue) {
            (Some(_), _) => Verdict::Oom,
            (None, Some(_)) => Verdict::Timeout,
            (None, None) => Verdict::Crash,
        };
        let reason = killed.or(overdue).or(worker.memory.replaced()).map_or(reason, str::to_owned);
        let opening = worker.attempts.front().is_none_or(|current| current.waiting.is_some());
        let scope = if opening { Scope::Opening } else { Scope::Rows };
        self.news.push(RunEvent::WorkerExited { worker: id, pid: worker.pid, reason: reason.clone() });
        let failure = Failure {
            traceback: worker.clock.stacks(),
            ..failure(scope, verdict, format!("the worker died: {reason}"))
        };
        self.happened.push(Happened::Exited { worker: id, failure, cause });
        self.fading.extend(worker.into_segments());
    }

    fn output_ready(&mut self, number: u64, poller: &mut Poller) {
        let Some(pipe) = self.pipes.get(&number) else { return };
        let worker = pipe.worker.unwrap_or(WorkerId(u32::MAX));
        let stage = self.workers.get(&worker).and_then(|worker| worker.attempts.front()).map(|current| current.stage);
        let from = Speaker::Worker { worker, stage };
        let mut buffer = [0; 64 << 10];
        match rustix::io::read(&pipe.fd, &mut buffer) {
            Ok(length) if length > 0 => self.log.write(&pipe.name, &from, pipe.stream, &buffer[..length]),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Ok(_) | Err(_) => {
                if let Some(pipe) = self.pipes.remove(&number) {
                    poller.remove(Token::Output(number), pipe.fd.as_fd());
                }
            }
        }
    }

    /// The last views of output segments are gone: their worker may write them again.
    pub fn release_outputs(&mut self, worker: WorkerId) {
        if let Some(worker) = self.workers.get_mut(&worker) {
            worker.release_outputs();
        }
    }

    /// Has workers unmap segments that are gone: `segments` of this process, and those that their workers have given up, once
    /// nobody has a view of them.
    pub fn forget(&mut self, mut segments: Vec<SegmentId>) {
        self.fading.retain(|segment| {
            let is_viewed = Arc::strong_count(segment) > 1;
            if !is_viewed {
                segments.push(segment.id());
            }
            is_viewed
        });
        for worker in self.workers.values_mut() {
            segments.iter().for_each(|&segment| worker.forget(segment));
        }
    }

    /// Kills workers that have far too much memory, those that take too long, and those that do not end although they are being replaced.
    pub fn weigh(&mut self) {
        if self.weighed.elapsed() < WEIGHED_EVERY {
            return;
        }
        self.weighed = Instant::now();
        for id in self.workers.keys().copied().collect::<Vec<_>>() {
            let Some(worker) = self.workers.get_mut(&id) else { continue };
            let is_late = worker.memory.replaced_since().is_some_and(|since| since.elapsed() > REPLACE_GRACE);
            if is_late {
                self.did_not_close(id, "`close()` did not return in time");
            }
            let Some(worker) = self.workers.get_mut(&id) else { continue };
            if let Some(pidfd) = &worker.pidfd {
                worker.clock.enforce(pidfd);
            }
            let is_busy = self.is_closing || !worker.attempts.is_empty();
            let is_fatal = is_busy && worker.memory.is_fatal(worker.pid);
            if (is_late || is_fatal)
                && let Some(pidfd) = &worker.pidfd
            {
                // It may be gone already.
                let _ = pidfd_send_signal(pidfd, Signal::KILL);
            }
        }
    }

    /// Remembers that the instance of a class was not closed in a worker that has been asked to stop.
    fn did_not_close(&mut self, id: WorkerId, how: &str) {
        let is_class = |stage: &StageId| match &self.plan.stage(*stage).kind {
            StageKind::Python(python) => python.target == PythonTarget::Class,
            _ => false,
        };
        let asked = |worker: &&Worker| self.is_closing || worker.memory.replaced().is_some();
        let worker = self.workers.get(&id).filter(asked).filter(|worker| !worker.is_struck);
        let killed = worker.and_then(|worker| worker.memory.killed());
        let (verdict, how) = killed.map_or((Verdict::Crash, how), |reason| (Verdict::Oom, reason));
        let message = format!("the instance in a worker was not closed: {how}");
        let stage = worker.and_then(|worker| worker.stages.keys().copied().find(is_class));
        if let Some(stage) = stage
            && self.unclosed.iter().all(|(failed, _)| *failed != stage)
        {
            self.unclosed.push((stage, failure(Scope::Opening, verdict, message)));
        }
    }

    /// The first of the stages whose instances could not be closed. Workers that have not ended by now have not closed
    /// theirs.
    pub fn close_failure(&mut self) -> Option<(StageId, Failure)> {
        for id in self.workers.keys().copied().collect::<Vec<_>>() {
            self.did_not_close(id, "`close()` did not return in time");
        }
        std::mem::take(&mut self.unclosed).into_iter().min_by_key(|(stage, _)| *stage)
    }

    /// Asks all workers to close their stages and end.
    pub fn stop_all(&mut self) {
        self.is_closing = true;
        for worker in self.workers.values_mut() {
            worker.connection.send(Frame::new(Kind::Stop));
        }
    }

    pub fn shut_down(&mut self) {
        self.workers.clear();
        self.template = None;
    }
}

fn schema_id(known: &mut Vec<SchemaRef>, schema: &SchemaRef) -> u32 {
    let at = known.iter().position(|known| Arc::ptr_eq(known, schema) || known == schema);
    let at = at.unwrap_or_else(|| {
        known.push(Arc::clone(schema));
        known.len() - 1
    });
    u32::try_from(at + 1).expect("fewer schemas than that")
}

fn user_failure(text: ErrorText, is_opening: bool) -> Failure {
    if text.kind == NO_SHARED_MEMORY {
        return failure(Scope::Output, Verdict::Exception, text.message);
    }
    let verdict = if text.verdict == Verdict::Schema.word() { Verdict::Schema } else { Verdict::Exception };
    let scope = if is_opening { Scope::Opening } else { Scope::Rows };
    let way_out = if is_opening && text.kind == "ModuleNotFoundError" {
        "; add its package to `requirements`, or its folder to `path`, both under `python:`"
    } else {
        ""
    };
    let message = match (text.kind, text.message) {
        (kind, message) if message.is_empty() => kind,
        // What millpond says itself needs no name.
        (kind, message) if kind.starts_with(OWN_ERRORS) => message,
        (kind, message) => format!("{kind}: {message}{way_out}"),
    };
    Failure { verdict, scope, message, traceback: text.traceback }
}
