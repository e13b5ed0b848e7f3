//! A run in progress: the pure [`scheduler`], the [`executor`] that carries out its actions, and what they tell.
//!
//! [`run`] is the only loop: wait for an event, let the scheduler handle it, carry out the actions.

mod event;
pub mod executor;
pub mod fail_point;
mod outcome;
pub mod publish;
pub mod scheduler;
pub mod store;

use std::io::{self, Read as _};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

pub use event::{LogRecord, RunEvent, Speaker, Stream};
pub use outcome::{AccountDifference, EdgeAccount, Ending, LeftOut, Outcome, StageAccount, StageFailure, StateSummary};
// What events and outcomes consist of: reporters need no more of the scheduler.
pub use scheduler::{Activity, Scope, Snapshot, StageSnapshot};

use crate::plan::{Location, Plan, StageKind, WriteMode, WriteTarget};
use executor::{CheckpointError, Checkpoints, LocalExecutor, Surroundings, Token, object_mode};
use publish::{PublishError, RecordedOutcome, RunFolder, RunRecord, Staging};
use scheduler::{Action, Event, Scheduler};

/// How long workers may take to close what they have open at the end of a run.
const CLOSE_GRACE: Duration = Duration::from_secs(60);
/// Time between two looks at the progress.
const PROGRESS: Duration = Duration::from_millis(100);

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("{0}")]
    Publish(#[from] PublishError),
    #[error("{0}")]
    Checkpoints(#[from] CheckpointError),
    #[error("the run cannot go on: {0}")]
    System(#[from] io::Error),
    #[error("interrupted before the run began")]
    Interrupted,
}

/// Signals that end a run, watched from the moment this is made.
#[derive(Debug)]
pub struct Signals {
    pipe: UnixStream,
    last: Arc<AtomicUsize>,
    /// How long a run may take until it is ended as if by a signal.
    limit: Option<Duration>,
}

impl Signals {
    /// `limit` is how long a run may take until it is ended as if by a signal.
    ///
    /// # Errors
    /// If the system refuses the handlers.
    pub fn watch(limit: Option<Duration>) -> io::Result<Self> {
        use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
        let (pipe, writer) = UnixStream::pair()?;
        pipe.set_nonblocking(true)?;
        let last = Arc::new(AtomicUsize::new(0));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register_usize(signal, Arc::clone(&last), signal.unsigned_abs() as usize)?;
            signal_hook::low_level::pipe::register(signal, writer.try_clone()?)?;
        }
        // A file larger than the system allows is an error of the write, not the end of the process.
        signal_hook::flag::register(SIGXFSZ, Arc::default())?;
        Ok(Self { pipe, last, limit })
    }

    /// The same signals, for something that follows on a run: what has come so far is over, and there is no limit.
    ///
    /// # Errors
    /// If there are no more descriptors.
    pub fn anew(&self) -> io::Result<Self> {
        while self.take() > 0 {}
        self.last.store(0, Ordering::SeqCst);
        Ok(Self { pipe: self.pipe.try_clone()?, last: Arc::clone(&self.last), limit: None })
    }

    /// Waits until a signal comes, but no longer than this. Gives how many have come.
    ///
    /// # Errors
    /// If nothing can be waited for.
    pub fn wait(&self, most: Duration) -> io::Result<usize> {
        let mut descriptors = [PollFd::new(&self.pipe, PollFlags::IN)];
        let most = Timespec::try_from(most).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
        match poll(&mut descriptors, Some(&most)) {
            // What interrupts is mostly the signal itself.
            Ok(_) | Err(Errno::INTR) => Ok(self.take()),
            Err(error) => Err(error.into()),
        }
    }

    /// What comes of work that may wait for long; `None` if a signal comes before. Then nobody waits for it any more.
    fn unless<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> io::Result<Option<T>> {
        let (ours, theirs) = UnixStream::pair()?;
        let (sender, receiver) = mpsc::channel();
        let body = move || {
            // Nobody may be there to hear it.
            let _ = sender.send(work());
            drop(theirs);
        };
        thread::Builder::new().name("millpond-asking".to_owned()).spawn(body)?;
        loop {
            let mut waited = [PollFd::new(&self.pipe, PollFlags::IN), PollFd::new(&ours, PollFlags::IN)];
            match poll(&mut waited, None) {
                Err(Errno::INTR) => continue,
                result => result?,
            };
            if !waited[0].revents().is_empty() {
                return Ok(None);
            }
            if !waited[1].revents().is_empty() {
                return receiver
                    .recv()
                    .map(Some)
                    .map_err(|_| io::Error::other("a thread that asked a store has panicked"));
            }
        }
    }

    /// How many signals have come since this was asked last.
    fn take(&self) -> usize {
        let mut bytes = [0; 64];
        // Nothing to read is an error too.
        (&self.pipe).read(&mut bytes).unwrap_or(0)
    }

    /// The number of the last signal that came; 0 if none has.
    pub fn last(&self) -> usize {
        self.last.load(Ordering::SeqCst)
    }
}

/// A run that has its folder, and counts as alive as long as this is there.
pub struct OpenRun {
    folder: RunFolder,
    checkpoints: Option<Checkpoints>,
}

impl OpenRun {
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Notes what the run came to.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn end(&self, outcome: &RecordedOutcome) -> Result<(), PublishError> {
        self.folder.end(outcome)
    }
}

/// Asks stores whether a run may write what its sinks are to write there. That may take long; a signal ends it.
///
/// # Errors
/// If it may not, or a store does not tell.
pub fn ask_stores(plan: &Plan, signals: &Signals) -> Result<(), RunError> {
    let sinks = plan.stages.iter().filter_map(|stage| match &stage.kind {
        StageKind::Write(write) => Some((write.published()?.store()?.clone(), write)),
        _ => None,
    });
    let places: Vec<_> = sinks
        .map(|(url, write)| (url, matches!(write.target, WriteTarget::Folder(_)), object_mode(write.mode)))
        .collect();
    if places.is_empty() {
        return Ok(());
    }
    let ask = move || places.iter().try_for_each(|(url, is_folder, mode)| publish::check_place(url, *is_folder, *mode));
    Ok(signals.unless(ask)?.ok_or(RunError::Interrupted)??)
}

/// Finishes or undoes what dead runs have left, and makes the folder of a new one.
///
/// # Errors
/// If that cannot be done, or another run uses the checkpoints: then there is no folder.
pub fn open(
    plan: &Plan,
    state_dir: &Path,
    record: &RunRecord,
    surroundings: &Surroundings,
    report: &mut dyn FnMut(RunEvent),
) -> Result<OpenRun, RunError> {
    publish::create_state(state_dir)?;
    let recovered = publish::recover(state_dir)?;
    for stage in &plan.stages {
        let StageKind::Write(write) = &stage.kind else { continue };
        let is_folder = matches!(write.target, WriteTarget::Folder(_));
        match (write.published(), write.mode) {
            (Some(Location::Local(path)), WriteMode::New) => publish::check_new(path)?,
            (Some(Location::Local(path)), WriteMode::Overwrite) if is_folder => publish::check_replaceable(path)?,
            _ => {}
        }
    }
    let (checkpoints, changed) = Checkpoints::open(plan, state_dir, surroundings)?.unzip();
    let folder = RunFolder::create(state_dir, record)?;
    report(RunEvent::Started {
        folder: folder.path().to_owned(),
        resumes: record.resumes.clone(),
        corrects: record.corrects.clone(),
        rolled_forward: recovered.published.len(),
        cleaned_up: recovered.removed.len(),
    });
    changed.into_iter().flatten().for_each(report);
    Ok(OpenRun { folder, checkpoints })
}

/// Runs a plan to its end. Nothing that it started is left when it returns, and either all sinks are published or none.
///
/// # Errors
/// If the run could not be set up, or the machine refused what it needs.
pub fn run(
    plan: Plan,
    run: &mut OpenRun,
    surroundings: Surroundings,
    signals: &Signals,
    report: &mut dyn FnMut(RunEvent),
) -> Result<Outcome, RunError> {
    if let Some(checkpoints) = &run.checkpoints {
        checkpoints.remember(&plan, run.folder.path())?;
    }
    let staging = Staging::begin(&run.folder)?;
    let plan = Arc::new(plan);
    let checkpoints = run.checkpoints.take();
    let mut executor = LocalExecutor::new(Arc::clone(&plan), &run.folder, staging, surroundings, checkpoints)?;
    executor.poller().add(Token::Signals, signals.pipe.as_fd())?;
    let result = go_on_to_the_end(&plan, &mut executor, signals, report);
    executor.shut_down()?;
    result
}

fn go_on_to_the_end(
    plan: &Arc<Plan>,
    executor: &mut LocalExecutor,
    signals: &Signals,
    report: &mut dyn FnMut(RunEvent),
) -> Result<Outcome, RunError> {
    let started = Instant::now();
    let mut scheduler = Scheduler::new(Arc::clone(plan));
    let mut actions = scheduler.start(Duration::ZERO);
    let mut shown = Instant::now();
    let mut interrupts = 0;
    let mut limit = signals.limit;
    loop {
        for action in actions {
            match action {
                Action::Emit(event) => report(event),
                Action::Finish(ending) => {
                    executor.drain_output()?;
                    executor.other_news().into_iter().for_each(&mut *report);
                    executor.log().take().into_iter().for_each(&mut *report);
                    let ending = match (ending, signals.limit.filter(|_| limit.is_none())) {
                        (Ending::Interrupted, Some(limit)) if signals.last() == 0 => Ending::TookTooLong(limit),
                        (ending, _) => ending,
                    };
                    return Ok(outcome(ending, &scheduler, executor, started.elapsed()));
                }
                Action::Commit => {
                    // Workers close what they have open before anything is published.
                    let closed = executor.stop_workers(close_grace(plan))?;
                    if closed && signals.last() == 0 {
                        executor.perform(Action::Commit)?;
                    }
                }
                action => executor.perform(action)?,
            }
        }
        executor.tidy();
        let event = loop {
            if let Some(event) = executor.next_event() {
                break event;
            }
            let wakes_at = scheduler.wakes_at();
            let next = wakes_at.into_iter().chain(limit).min();
            let wakes_in = next.map(|at| at.saturating_sub(started.elapsed()));
            let ready = executor.wait(Some(wakes_in.map_or(PROGRESS, |wait| wait.min(PROGRESS))))?;
            executor.worker_news().into_iter().for_each(&mut *report);
            executor.other_news().into_iter().for_each(&mut *report);
            executor.log().take().into_iter().for_each(&mut *report);
            if ready.contains(&Token::Signals) {
                interrupts += signals.take();
            }
            if limit.is_some_and(|limit| limit <= started.elapsed()) {
                limit = None;
                interrupts += 1;
            }
            if interrupts > 0 {
                interrupts -= 1;
                break Event::Interrupted;
            }
            if wakes_at.is_some_and(|at| at <= started.elapsed()) {
                break Event::Woken;
            }
            if shown.elapsed() >= PROGRESS {
                shown = Instant::now();
                report(RunEvent::Progress(Snapshot { waited_for: executor.waited_for(), ..scheduler.snapshot() }));
            }
        };
        actions = scheduler.handle(event, started.elapsed());
    }
}

/// How long workers may take to close: as long as to prepare what they close, where a pipeline says so.
fn close_grace(plan: &Plan) -> Duration {
    let in_workers = plan.stages.iter().filter(|stage| stage.runs_in_workers());
    let longest =
        in_workers.map(|stage| stage.timeout.map_or(CLOSE_GRACE, |timeout| timeout.open.min(CLOSE_GRACE))).max();
    longest.unwrap_or(CLOSE_GRACE)
}

fn outcome(ending: Ending, scheduler: &Scheduler, executor: &LocalExecutor, duration: Duration) -> Outcome {
    let (stages, edges) = scheduler.accounts();
    let place = match &ending {
        Ending::Failed(failure) => match (&failure.rows, failure.sequence) {
            (Some((batch, rows)), _) => executor.place(*batch, rows.start),
            (None, Some(sequence)) => executor.lane_place(failure.stage, sequence),
            (None, None) => None,
        },
        _ => None,
    };
    Outcome {
        ending,
        duration,
        stages,
        edges,
        published_early: scheduler.published_early(),
        workers_started: scheduler.workers_started(),
        place,
        rejects: executor.reject_files(),
        injected: executor.injected(),
        state: executor.state(),
    }
}
