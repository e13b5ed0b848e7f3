//! [`Pool`]: the template and the Python workers that it forks.

mod asked;
mod ends;
mod fake_worker;
mod lanes;
mod said;
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
use serde_json::json;

use super::connection::Connection;
use super::frame::{Frame, Kind};
use super::guardian::Guardian;
use super::local::Surroundings;
use super::log::OutputLog;
use super::mailbox::Mailbox;
use super::opening;
use super::poller::{Poller, Token};
use super::resident::failure;
use super::shared_memory::SharedMemory;
use super::shared_state::SharedState;
use super::sync::Primitives;
use super::terminal;
use super::worker::{Current, Opening, Worker};
use super::worker_clock::WorkerClock;
use super::worker_life::WorkerLife;
use crate::batch::{Batch, Origin, Segment, SegmentId, SegmentPool};
use crate::environment::{threads_per_worker, usable_cores, worker_variables};
use crate::plan::{Cpus, Plan, Stage, StageId, StageKind, Start, Verdict};
use crate::run::scheduler::{AttemptId, Awaited, ClassId, Classes, Device, ExitCause, Failure, Scope, WorkerId};
use crate::run::{RunEvent, Speaker, Stream};

pub use fake_worker::{Answer, FakeWorker};
pub use lanes::LaneRows;
use template::Template;

/// What a pipe holds.
const PIPE_BYTES: usize = 64 << 10;

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
    /// A function asks for fewer calls.
    Throttled {
        attempt: AttemptId,
        wait: Option<Duration>,
        failure: Failure,
    },
    /// An attempt waits for others, for as long as it takes.
    StandsStill {
        attempt: AttemptId,
        on: Awaited,
    },
    /// The code of a stage has asked for the state of the run.
    ReadsState {
        stage: StageId,
    },
    /// It waits no more.
    GoesOn {
        attempt: AttemptId,
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
    primitives: Primitives,
    state: SharedState,
    /// What workers can look up, in the order in which it was made.
    shared: Vec<SharedMemory>,
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
        let threads = plan.python.threads.unwrap_or_else(|| threads_per_worker(surroundings.cores, workers));
        Self {
            classes: Classes::new(&plan),
            plan,
            host: surroundings.python.clone(),
            threads,
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
            primitives: Primitives::default(),
            state: SharedState::default(),
            shared: Vec::new(),
        }
    }

    pub fn take_happened(&mut self) -> Vec<Happened> {
        std::mem::take(&mut self.happened)
    }

    pub fn take_news(&mut self) -> Vec<RunEvent> {
        std::mem::take(&mut self.news)
    }

    /// Keeps what workers can look up from now on.
    pub fn share(&mut self, memory: SharedMemory) {
        self.shared.push(memory);
    }

    /// A digest of all that is shared so far; `None` if that is nothing.
    pub fn shared_digest(&self) -> Option<[u8; 32]> {
        let mut sorted: Vec<&SharedMemory> = self.shared.iter().collect();
        sorted.sort_by_key(|memory| memory.name());
        (!sorted.is_empty()).then(|| SharedMemory::digest_of_all(&sorted))
    }

    /// Locks and the like, and how many workers wait for each.
    pub fn waited_for(&self) -> Vec<(String, usize)> {
        self.primitives.waiting().into_iter().map(|(name, workers)| (name.to_string(), workers.len())).collect()
    }

    /// What the workers of the run count and collect together.
    pub fn state(&self) -> &SharedState {
        &self.state
    }

    pub fn state_mut(&mut self) -> &mut SharedState {
        &mut self.state
    }

    pub fn has_workers(&self) -> bool {
        !self.workers.is_empty()
    }

    /// Starts the template if workers will be wanted, so that it imports what they need while the first batch is made.
    ///
    /// # Errors
    /// If there are no descriptors left.
    pub fn warm_up(&mut self, guardian: &mut Guardian, poller: &mut Poller) -> io::Result<()> {
        let is_soon = |stage: &Stage| stage.after.iter().all(|awaited| self.plan.stage(*awaited).is_shared());
        let is_wanted = |stage: &Stage| matches!(stage.kind, StageKind::Python(_)) && is_soon(stage);
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
        devices: &[Device],
        guardian: &mut Guardian,
        poller: &mut Poller,
    ) -> io::Result<()> {
        if self.template.is_none() {
            self.start_template(guardian, poller)?;
        }
        let (connection, socket) = Connection::pair()?;
        poller.add(Token::Worker(worker), connection.fd())?;
        let standard = self.standard_fds(worker, poller)?;
        let stage = self.plan.stage(self.classes.get(class).stage);
        let mut env: BTreeMap<String, String> =
            worker_variables(self.threads).into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        env.extend(stage.env.clone());
        env.extend(opening::device_variables(&self.plan, devices));
        let devices = opening::device_ids(&self.plan, devices);
        let (clock, stacks) = self.clock_for(class)?;
        let mut text =
            json!({"env": env, "cwd": stage.cwd.to_string_lossy(), "devices": devices, "nice": self.plan.python.nice});
        if stage.start() == Start::Exec {
            text["preload"] = json!(opening::preload(&self.plan));
            text["path"] = json!(opening::path(&self.plan));
        }
        if self.plan.is_in_foreground {
            text["terminal"] = json!(true);
        }
        let core = self.least_used_core(stage.cpus());
        let cores: Vec<u32> = match stage.cpus() {
            Cpus::Any => Vec::new(),
            Cpus::Spread => core.into_iter().collect(),
            Cpus::Only(cores) => cores.iter().copied().collect(),
        };
        if !cores.is_empty() {
            text["cpus"] = json!(cores);
        }
        let mut frame = Frame::new(Kind::Fork).with_text(&text);
        frame.attempt = u64::from(worker.0);
        frame.fds = [socket].into_iter().chain(standard).chain(stacks).collect();
        let mut forked = Worker::new(worker, connection, WorkerLife::of(stage), clock);
        forked.core = core;
        // Sent now, to be read when it lives.
        for stage in self.opened_first(class) {
            forked.stages.insert(stage.id, Opening::Asked);
            forked.connection.send(opening::open(&self.plan, stage));
        }
        self.workers.insert(worker, forked);
        if let Some(template) = &mut self.template {
            template.connection.send(frame);
        }
        Ok(())
    }

    /// Standard output and error of a worker; in the foreground, standard input in front of them.
    fn standard_fds(&mut self, worker: WorkerId, poller: &mut Poller) -> io::Result<Vec<OwnedFd>> {
        if self.plan.is_in_foreground {
            return Ok(vec![terminal::stdin()?, terminal::stdout()?, terminal::stderr()?]);
        }
        let name = log_name(worker);
        let stdout = self.output_pipe(&name, Some(worker), Stream::Stdout, poller)?;
        let stderr = self.output_pipe(&name, Some(worker), Stream::Stderr, poller)?;
        Ok(vec![stdout, stderr])
    }

    /// For workers that are to have a core each: the first of those with the fewest workers.
    fn least_used_core(&self, cpus: &Cpus) -> Option<u32> {
        if *cpus != Cpus::Spread {
            return None;
        }
        let workers = |core: &u32| self.workers.values().filter(|worker| worker.core == Some(*core)).count();
        usable_cores().into_iter().min_by_key(workers)
    }

    /// The stages of a class that are opened before a batch comes, as they have workers from their beginning.
    fn opened_first(&self, class: ClassId) -> impl Iterator<Item = &Stage> {
        let is_of_class = move |stage: &&Stage| self.classes.of(stage.id) == Some(class);
        let is_first = |stage: &&Stage| {
            let is_source = matches!(&stage.kind, StageKind::Python(python) if python.is_source);
            stage.workers.min > 0 && !is_source && !stage.has_state()
        };
        self.plan.stages.iter().filter(is_of_class).filter(is_first)
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
            let news = std::mem::replace(&mut worker.shared_sent, self.shared.len());
            let frames = self.shared[news..].iter().map(|memory| {
                let made_by = self.plan.stages.iter().find(|stage| stage.name == memory.name());
                memory.frame(made_by.is_some_and(Stage::makes_object))
            });
            let frames = frames.collect::<io::Result<Vec<_>>>();
            match frames {
                Ok(frames) => frames.into_iter().for_each(|frame| worker.connection.send(frame)),
                Err(error) => {
                    self.condemn(id, &format!("what is shared cannot be handed over: {error}"));
                    return;
                }
            }
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
                // What it has printed before it answered belongs to what it answers.
                if frames.iter().any(|frame| matches!(frame.kind, Kind::Done | Kind::Error)) {
                    self.hear_output_of(id, poller);
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

    fn output_ready(&mut self, number: u64, poller: &mut Poller) {
        let Some(pipe) = self.pipes.get(&number) else { return };
        let worker = pipe.worker.unwrap_or(WorkerId(u32::MAX));
        let (stage, batch) = self.workers.get(&worker).map_or((None, None), Worker::at);
        let from = Speaker::Worker { worker, stage };
        let mut buffer = [0; PIPE_BYTES];
        match rustix::io::read(&pipe.fd, &mut buffer) {
            Ok(length) if length > 0 => self.log.write(&pipe.name, &from, batch, pipe.stream, &buffer[..length]),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Ok(_) | Err(_) => {
                if let Some(pipe) = self.pipes.remove(&number) {
                    poller.remove(Token::Output(number), pipe.fd.as_fd());
                }
            }
        }
    }

    /// Reads what a worker has printed so far.
    fn hear_output_of(&mut self, id: WorkerId, poller: &mut Poller) {
        let is_of = |pipe: &OutputPipe| pipe.worker == Some(id);
        let pipes = self.pipes.iter().filter(|(_, pipe)| is_of(pipe)).map(|(number, _)| *number).collect::<Vec<_>>();
        pipes.into_iter().for_each(|number| self.output_ready(number, poller));
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

    pub fn shut_down(&mut self) {
        self.workers.clear();
        self.template = None;
    }
}

/// The name of the file in which stands what a worker prints.
fn log_name(worker: WorkerId) -> String {
    format!("worker-{}", worker.0)
}

fn schema_id(known: &mut Vec<SchemaRef>, schema: &SchemaRef) -> u32 {
    let at = known.iter().position(|known| Arc::ptr_eq(known, schema) || known == schema);
    let at = at.unwrap_or_else(|| {
        known.push(Arc::clone(schema));
        known.len() - 1
    });
    u32::try_from(at + 1).expect("fewer schemas than that")
}
