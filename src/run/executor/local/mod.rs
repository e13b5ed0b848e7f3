//! [`LocalExecutor`]: carries out actions on this machine: threads for resident stages, a pool of Python workers, processes for
//! commands. One event loop owns all of it; nothing in it waits for anything but the loop's descriptors.

mod attempts;
mod checkpoints;
mod ending;
mod expecting;
mod filters;
mod keyed;
mod native;
mod planned;
mod processes;
mod publishing;
mod tasks;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::chaos::{Chaos, ChaosOptions};
use super::guardian::{Guardian, ProcessId};
use super::log::OutputLog;
use super::mailbox::{Inbox, Mailbox, Message, mailbox};
use super::poller::{Poller, Token};
use super::publisher::Publisher;
use super::python::{Happened, Pool, PythonHost};
use super::reject_files::RejectFiles;
use super::rejects;
use super::resident::{Resident, failure};
use super::stage::read::{Canceller, KnownFiles, NewFiles, Opening, ReadError, Source};
use super::stage::write::Sink;
use crate::batch::{Batch, Columns, FileTable, SegmentPool, SpillSpace};
use crate::plan::memory::SPILL_LIMIT;
use crate::plan::{EdgeId, Plan, Read, Stage, StageId, StageKind, Verdict, WhichFiles};
use crate::run::StateSummary;
use crate::run::publish::{RunFolder, Staging};
use crate::run::scheduler::{Action, AttemptId, BatchId, Device, Event, Failure, Meta, Output, Scope, Unread};
use crate::secrets::masked;
use crate::sql::RowWise;
pub use checkpoints::{CheckpointError, Checkpoints, Digests, Kept, Known, StageChange};
use expecting::Checks;
use filters::Filters;
pub use keyed::InPartitions;
use keyed::KeyedInput;
use planned::Planned;
use processes::Running;
pub use processes::end_text;
use tasks::Tasks;

/// What the executor needs to know of the world.
#[derive(Clone, Debug)]
pub struct Surroundings {
    pub python: Option<PythonHost>,
    /// Cores that may be used.
    pub cores: std::num::NonZeroU32,
    /// Faults that are asked for.
    pub chaos: Option<ChaosOptions>,
    /// Stages whose finished batches of earlier runs do not count.
    pub forced: BTreeSet<StageId>,
    /// The folder of a run: batches that it has finished count although stages have changed since, but those do not of which rows were
    /// rejected.
    pub corrects: Option<PathBuf>,
    /// The moment that `now()` says in queries.
    pub now: SystemTime,
    /// The moment at which this run begins, and by which ages are told: later than `now` if it goes on with another one.
    pub started: SystemTime,
}

pub struct LocalExecutor {
    plan: Arc<Plan>,
    surroundings: Surroundings,
    poller: Poller,
    mailbox: Mailbox,
    inbox: Inbox,
    guardian: Guardian,
    pool: Pool,
    log: OutputLog,
    residents: BTreeMap<StageId, Resident>,
    staging: Option<Staging>,
    store: BTreeMap<BatchId, Stored>,
    next_batch: u64,
    publisher: Publisher,
    files: FileTable,
    reject_files: RejectFiles,
    segments: SegmentPool,
    /// The columns of inputs that several edges lead to.
    unions: BTreeMap<(StageId, usize), Columns>,
    queries: BTreeMap<StageId, Arc<Planned<RowWise>>>,
    checks: BTreeMap<StageId, Arc<Planned<Checks>>>,
    keyed: BTreeMap<StageId, KeyedInput>,
    spill: SpillSpace,
    commands: BTreeMap<ProcessId, Running>,
    /// What the processes of attempts are to have that have not been asked for yet.
    devices: BTreeMap<AttemptId, Vec<Device>>,
    filters: Filters,
    /// Commands that have ended, while something that they left running holds their pipes.
    lingering: BTreeSet<ProcessId>,
    /// Those of them that have failed.
    failing: BTreeSet<ProcessId>,
    /// What was read from a pipe.
    buffer: Box<[u8]>,
    /// The input of commands that get none.
    null: OwnedFd,
    runtime: Option<tokio::runtime::Runtime>,
    events: VecDeque<Event>,
    chaos: Option<Chaos>,
    checkpoints: Option<Checkpoints>,
    tasks: Tasks,
    /// What sources read that read only new files.
    new_files: Arc<Mutex<BTreeMap<StageId, NewFiles>>>,
}

/// A batch in the store. `edge` while it counts as being in memory on an edge that spills.
struct Stored {
    batch: Batch,
    edge: Option<EdgeId>,
}

impl LocalExecutor {
    /// # Errors
    /// If the guardian cannot be started, or there are no descriptors left.
    pub fn new(
        plan: Arc<Plan>,
        run: &RunFolder,
        staging: Staging,
        surroundings: Surroundings,
        checkpoints: Option<Checkpoints>,
    ) -> io::Result<Self> {
        let (mailbox, inbox) = mailbox()?;
        let mut poller = Poller::new()?;
        let guardian = Guardian::start()?;
        poller.add(Token::Mailbox, inbox.fd())?;
        poller.add(Token::Guardian, guardian.fd())?;
        let log = OutputLog::new(run.path().join("logs"), plan.stages.iter().map(|stage| stage.name.clone()).collect());
        let segments = SegmentPool::default();
        let spill = SpillSpace::new(run.spill(), SPILL_LIMIT);
        let mut executor = Self {
            chaos: surroundings.chaos.map(Chaos::new),
            checkpoints,
            tasks: Tasks::new(run.state_dir().to_owned()),
            new_files: Arc::default(),
            pool: Pool::new(Arc::clone(&plan), &surroundings, log.clone(), mailbox.clone(), segments.clone()),
            reject_files: RejectFiles::new(run.path()),
            publisher: Publisher::new(Arc::clone(&plan), spill.clone()),
            keyed: keyed::inputs(&plan),
            spill,
            plan,
            surroundings,
            poller,
            mailbox,
            inbox,
            guardian,
            log,
            residents: BTreeMap::new(),
            staging: Some(staging),
            store: BTreeMap::new(),
            next_batch: 0,
            files: FileTable::default(),
            segments,
            unions: BTreeMap::new(),
            queries: BTreeMap::new(),
            checks: BTreeMap::new(),
            commands: BTreeMap::new(),
            devices: BTreeMap::new(),
            filters: Filters::default(),
            lingering: BTreeSet::new(),
            failing: BTreeSet::new(),
            buffer: vec![0; processes::READ_BYTES].into(),
            null: std::fs::File::open("/dev/null")?.into(),
            runtime: None,
            events: VecDeque::new(),
        };
        executor.pool.warm_up(&mut executor.guardian, &mut executor.poller)?;
        Ok(executor)
    }

    pub fn poller(&mut self) -> &mut Poller {
        &mut self.poller
    }

    pub fn log(&self) -> &OutputLog {
        &self.log
    }

    /// Worker processes that came and went since the last call.
    pub fn worker_news(&mut self) -> Vec<crate::run::RunEvent> {
        self.pool.take_news()
    }

    /// Faults that were injected, and what was found out about checkpoints and tasks, since the last call.
    pub fn other_news(&mut self) -> Vec<crate::run::RunEvent> {
        let mut news = self.chaos.as_mut().map(Chaos::take_news).unwrap_or_default();
        news.extend(self.checkpoints.as_mut().map(Checkpoints::take_news).unwrap_or_default());
        news.extend(self.tasks.take_news());
        news
    }

    /// The place of a row of a batch, for people: file and row.
    pub fn place(&self, batch: BatchId, row: u64) -> Option<String> {
        let stored = self.store.get(&batch)?;
        rejects::place(stored.batch.origin(), usize::try_from(row).ok()?, &self.files)
    }

    /// Whether events are ready without waiting.
    pub fn next_event(&mut self) -> Option<Event> {
        let mut event = self.events.pop_front()?;
        // Before it comes to rejects, checkpoints, events: nobody behind this has to think of it.
        event.failures_mut().for_each(|failure| {
            for text in [&mut failure.message, &mut failure.traceback] {
                if let Cow::Owned(masked) = masked(text) {
                    *text = masked;
                }
            }
        });
        Some(match &mut self.chaos {
            Some(chaos) => chaos.forgive(event),
            None => event,
        })
    }

    /// Waits until something happens, or the time is over. What happened is in [`LocalExecutor::next_event`].
    ///
    /// # Errors
    /// If the loop itself fails, or the guardian dies.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<Vec<Token>> {
        // The scheduler hears of a process that has failed when all is read that it has said.
        if self.failing.is_empty() {
            self.guardian.go_on();
        }
        self.watch_output();
        let mut others = Vec::new();
        for token in self.poller.wait(timeout)? {
            match token {
                Token::Mailbox => self.inbox.take().into_iter().try_for_each(|message| self.deliver(message))?,
                Token::Guardian => self.guardian_reports()?,
                Token::Signals => others.push(token),
                Token::Command(process, stream) => self.command_speaks(process, stream),
                token => self.pool.ready(token, &mut self.poller),
            }
        }
        for dispatch in self.chaos.as_mut().map(Chaos::due).unwrap_or_default() {
            self.dispatch(dispatch, None)?;
        }
        self.mind_lingering();
        self.pool.weigh();
        let happened = self.pool.take_happened();
        for happened in happened {
            self.pool_happened(happened);
        }
        Ok(others)
    }

    /// Writes that did not fit into a socket go on when it has room.
    fn watch_output(&mut self) {
        let wants = self.guardian.wants_to_send();
        self.poller.watch_output(Token::Guardian, self.guardian.fd(), wants);
        self.pool.watch_output(&mut self.poller);
    }

    fn deliver(&mut self, message: Message) -> io::Result<()> {
        let event = match message {
            Message::Shared { memory } => {
                self.pool.share(memory);
                return Ok(());
            }
            Message::Produced { stage, batch, rejected } => {
                let batch = self.keep(batch);
                let unread = rejected.map(|(rows, failures)| Unread::new(self.keep(rows), failures));
                Event::Produced { stage, outputs: vec![Output { port: 0, batch }], unread }
            }
            Message::Taken { stage, input, rows } => Event::Taken { stage, input, rows },
            Message::InputClosed { stage, input } => Event::InputClosed { stage, input },
            Message::InputChanged { stage, input } => {
                if let Some(resident) = self.residents.get_mut(&stage) {
                    resident.input_changed(input);
                }
                return Ok(());
            }
            Message::Ended { stage, schema } => {
                if let Some(schema) = schema
                    && !self.plan.stage(stage).ports.is_empty()
                {
                    self.publisher.know_columns(stage, 0, schema);
                }
                Event::Ended { stage }
            }
            Message::StageFailed { stage, failure } => Event::StageFailed { stage, failure },
            Message::AttemptDone { attempt, rows, batch, failed } => {
                self.filters.rest(attempt);
                let outputs = batch.map(|batch| Output { port: 0, batch: self.keep(batch) });
                Event::AttemptDone {
                    attempt,
                    rows,
                    outputs: outputs.into_iter().collect(),
                    end: false,
                    spent: Duration::ZERO,
                    failed,
                }
            }
            Message::AttemptFailed { attempt, failure } => {
                self.filters.rest(attempt);
                Event::AttemptFailed { attempt, failure }
            }
            Message::AttemptWaits { attempt } => {
                self.filters.rest(attempt);
                Event::AttemptWaits { attempt }
            }
            Message::FilterEnded(remains) => return self.filter_ended(remains),
            Message::FilterOverdue { process } => {
                self.guardian.stop(process);
                return Ok(());
            }
            Message::SnapshotKept { stage, lane, next, result } => {
                self.snapshot_kept(stage, lane, next, result);
                return Ok(());
            }
            Message::Partitioned { stage, sequence, result } => {
                self.partitioned(stage, sequence, result);
                return Ok(());
            }
            Message::Digested { stage, sequence, batch, result } => {
                self.digested(stage, sequence, batch, result);
                return Ok(());
            }
            Message::TaskLooked { attempt, stage, turn, result } => {
                return self.task_looked(attempt, stage, turn, result);
            }
            Message::Recalled { stage, sequence, digest, result } => self.recalled(stage, sequence, digest, result),
            Message::Kept { stage, sequence, result } => self.kept(stage, sequence, result),
            Message::SegmentsFree { worker } => {
                self.pool.release_outputs(worker);
                return Ok(());
            }
        };
        self.events.push_back(event);
        Ok(())
    }

    fn keep(&mut self, batch: Batch) -> Meta {
        self.keep_on(batch, None)
    }

    fn keep_on(&mut self, batch: Batch, edge: Option<EdgeId>) -> Meta {
        self.next_batch += 1;
        let id = BatchId(self.next_batch);
        let meta = Meta { id, rows: batch.rows() as u64, bytes: batch.bytes() };
        self.store.insert(id, Stored { batch, edge });
        meta
    }

    /// Carries out one action.
    ///
    /// # Errors
    /// If the machine refuses what every run needs (descriptors, processes).
    pub fn perform(&mut self, action: Action) -> io::Result<()> {
        match action {
            Action::Start { stage } => self.start(stage)?,
            Action::Pull { stage } => self.with_resident(stage, |resident| resident.pull()),
            Action::Feed { stage, input, batch } => self.feed(stage, input, batch),
            Action::EndInput { stage, input } => {
                self.filters.finish(Some(stage));
                let schema = self.publisher.input_columns(stage, input);
                self.with_resident(stage, |resident| resident.end(input, schema));
            }
            Action::Close { stage } => self.with_resident(stage, Resident::close),
            Action::StartWorker { worker, class, devices } => {
                self.pool.start_worker(worker, class, &devices, &mut self.guardian, &mut self.poller)?;
            }
            Action::RetireWorker { worker } => {
                self.pool.replace(
                    worker,
                    "it was ended, as it had nothing to do, and others wait for the devices that it had",
                );
            }
            Action::Dispatch(dispatch) => self.begin(dispatch)?,
            Action::Recall { stage, sequence, batch } => self.recall(stage, sequence, batch),
            Action::Keep { stage, sequence, batch, outputs, rejects } => {
                self.keep_outcome(stage, sequence, batch.id, &outputs, rejects);
            }
            Action::Publish { stage, port, batch } => self.publish(stage, port, batch),
            Action::PublishJoined { stage, port, batches } => self.publish_joined(stage, port, &batches),
            Action::UpdateState { stage, sequence, updates } => self.update_state(stage, sequence, &updates),
            Action::PublishRejects { stage, port, batch, rejects } => {
                self.publish_rejects(stage, port, batch, &rejects)
            }
            Action::RecordRejects { stage, batch, rejects } => self.record_rejects(stage, batch, &rejects),
            Action::FinishPorts { stage } => self.finish_ports(stage),
            Action::Release { batch } => self.release(batch),
            Action::PublishSink { stage } => self.publish_sink(stage),
            Action::Commit => self.commit(),
            Action::Emit(_) | Action::Finish(_) => unreachable!("handled by the loop"),
        }
        Ok(())
    }

    fn with_resident(&mut self, stage: StageId, act: impl FnOnce(&mut Resident)) {
        if let Some(resident) = self.residents.get_mut(&stage) {
            act(resident);
        }
    }

    fn start(&mut self, id: StageId) -> io::Result<()> {
        let plan = Arc::clone(&self.plan);
        let stage = plan.stage(id);
        let resident = match &stage.kind {
            StageKind::Read(read) => match self.start_source(stage, read) {
                Ok(resident) => resident,
                Err(error) => {
                    self.stage_failed(id, Scope::Input, &error);
                    return Ok(());
                }
            },
            StageKind::Write(write) => {
                let staging = self.staging.as_mut().expect("sinks start before the commit");
                match Sink::create(write, staging) {
                    Ok(sink) => Resident::sink(id, sink, self.mailbox.clone()),
                    Err(error) => {
                        self.stage_failed(id, Scope::Output, &error);
                        return Ok(());
                    }
                }
            }
            StageKind::Sql(sql) => {
                let tables = stage.inputs.iter().map(|input| input.table.clone()).collect();
                let settings = self.sql_settings(stage);
                let runtime = self.runtime()?;
                Resident::query(id, sql.query.clone(), tables, settings, runtime, self.mailbox.clone())
            }
            StageKind::Command(_) => return self.start_command_source(stage),
            StageKind::Python(_) | StageKind::Expect(_) => unreachable!("they work batch by batch"),
        };
        self.residents.insert(id, resident);
        Ok(())
    }

    fn start_source(&self, stage: &Stage, read: &Read) -> Result<Resident, ReadError> {
        let known = match read.which {
            WhichFiles::All => None,
            WhichFiles::New { .. } => Some(KnownFiles::open(&self.tasks.state_dir, &self.plan, stage)?),
        };
        let canceller = Canceller::new()?;
        let opening = Opening { scratch: self.spill.folder.clone(), known, canceller: canceller.clone() };
        let (of, cut, as_columns) = (read.clone(), stage.cut, !self.plan.is_read_as_lines(stage.id));
        let (files, consumers, id) = (self.files.clone(), self.consumers(read), stage.id);
        let noted = matches!(read.which, WhichFiles::New { are_noted: true }).then(|| Arc::clone(&self.new_files));
        let open = move || {
            let (source, new) = Source::open_with(&of, cut, as_columns, &files, opening)?;
            if let (Some(noted), Some(new)) = (noted, new) {
                noted.lock().unwrap_or_else(PoisonError::into_inner).insert(id, new);
            }
            Ok(source.serving(consumers))
        };
        // Nobody waits for a store but the thread that is there for this source.
        Ok(match read.has_store() {
            true => Resident::source_to_open(id, canceller, open, self.mailbox.clone()),
            false => Resident::source(id, open()?, self.mailbox.clone()),
        })
    }

    fn stage_failed(&mut self, stage: StageId, scope: Scope, error: &dyn std::error::Error) {
        let failure = failure(scope, Verdict::Exception, error.to_string());
        self.events.push_back(Event::StageFailed { stage, failure });
    }

    /// Takes a batch that a consumer is given out of its queue.
    fn take_for(&mut self, stage: StageId, input: usize, batch: BatchId) -> Result<Batch, Failure> {
        let stored = self.store.get_mut(&batch).expect("the scheduler gives out batches that exist");
        let edge = stored.edge.take();
        if let Some(edge) = edge {
            self.publisher.taken(edge, stored.batch.bytes());
        }
        let internal = |error: &dyn std::error::Error| failure(Scope::Output, Verdict::Exception, error.to_string());
        let loaded = stored.batch.clone().load().map_err(|error| internal(&error))?;
        if self.plan.stage(stage).inputs[input].members.len() < 2 {
            stored.batch = loaded.clone();
            return Ok(loaded);
        }
        let columns = self.unions.entry((stage, input)).or_insert_with(Columns::from_first);
        let united = loaded.conform(columns).map_err(|error| {
            let from = edge.map_or("one of them", |edge| self.plan.stage(self.plan.edge(edge).from).name.as_str());
            let message = format!(
                "the inputs of the stage do not have the same columns: `{from}` differs from those before it: {error}; make \
                 them alike in a `sql` stage"
            );
            failure(Scope::Opening, Verdict::Schema, message)
        })?;
        stored.batch = united.clone();
        Ok(united)
    }

    fn feed(&mut self, stage: StageId, input: usize, batch: BatchId) {
        let taken = self.take_for(stage, input, batch);
        self.store.remove(&batch);
        match taken {
            Ok(batch) => self.with_resident(stage, |resident| resident.feed(input, &batch)),
            Err(failure) => self.events.push_back(Event::StageFailed { stage, failure }),
        }
    }

    fn pool_happened(&mut self, happened: Happened) {
        let event = match happened {
            Happened::Ready { worker } => Event::WorkerReady { worker },
            Happened::Retired { worker } => Event::WorkerRetired { worker },
            Happened::Exited { worker, failure, cause } => Event::WorkerExited { worker, failure, cause },
            Happened::Failed { attempt, failure } => Event::AttemptFailed { attempt, failure },
            Happened::Throttled { attempt, wait, failure } => Event::AttemptThrottled { attempt, wait, failure },
            Happened::StandsStill { attempt, on } => Event::AttemptStandsStill { attempt, on },
            Happened::GoesOn { attempt } => Event::AttemptGoesOn { attempt },
            Happened::ReadsState { stage } => {
                if let Some(checkpoints) = &mut self.checkpoints {
                    checkpoints.reads_state(stage);
                }
                return;
            }
            Happened::WantsSnapshot { worker, attempt, stage, lane } => {
                self.restore(worker, attempt, stage, lane);
                return;
            }
            Happened::Snapshot { stage, lane, next, state } => {
                self.keep_snapshot(stage, lane, next, state);
                return;
            }
            Happened::DoesAgain { worker, attempt, stage, sequence, lane } => {
                self.do_again(worker, attempt, stage, sequence, lane);
                return;
            }
            Happened::Opened { stage, at_once, files } => {
                if let Some(checkpoints) = &mut self.checkpoints {
                    checkpoints.imported(stage, &files, &self.plan);
                }
                Event::Opened { stage, at_once }
            }
            Happened::Done { attempt, rows, end, spent, failed, outputs } => {
                let outputs = outputs.into_iter().map(|(port, batch)| Output { port, batch: self.keep(batch) });
                Event::AttemptDone { attempt, rows, outputs: outputs.collect(), end, spent, failed }
            }
        };
        self.events.push_back(event);
    }

    /// The state that the workers have made together.
    pub fn state(&self) -> StateSummary {
        self.pool.state().summary()
    }

    /// Locks and the like, and how many workers wait for each.
    pub fn waited_for(&self) -> Vec<(String, usize)> {
        self.pool.waited_for()
    }

    /// How often which fault was asked for and came.
    pub fn injected(&self) -> Vec<(StageId, &'static str, u64)> {
        self.chaos.as_ref().map(Chaos::injected).unwrap_or_default()
    }

    /// Gives workers the news of segments that are gone.
    pub fn tidy(&mut self) {
        self.pool.forget(self.segments.dropped());
    }
}
