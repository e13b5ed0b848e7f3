//! [`StageState`]: the life of one stage, and of the jobs of a stage that works batch by batch.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use super::action::Reject;
use super::blame::Blame;
use super::event::{Failure, Meta, Output};
use super::keyed::Keyed;
use super::queue::{Queue, Reservation};
use super::ready::Need;
use super::recall::Spared;
use super::slices::{Pace, Sight};
use super::worker_state::{ClassId, Classes};
use crate::plan::{CommandMode, EdgeId, Stage, StageKind};
use crate::run::StageAccount;

/// How a stage is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// One thread for the whole run, fed and pulled: sources, sinks, queries over whole streams, one-process commands.
    Resident,
    /// Batch by batch, in any order, published in order.
    Map(MapHost),
    /// In workers, batch by batch and lane by lane: each lane of keys in its own order, published in order.
    Keyed(ClassId),
    /// A generator in a worker: batch by batch, one after the other.
    Generator(ClassId),
    /// One attempt without input and output.
    Task,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapHost {
    Worker(ClassId),
    Process,
    Native,
}

impl Role {
    /// Whether attempts of the stage run on threads of this process.
    pub fn is_native(self) -> bool {
        self == Self::Map(MapHost::Native)
    }

    /// The workers that attempts of the stage run in.
    pub fn class(self) -> Option<ClassId> {
        match self {
            Self::Map(MapHost::Worker(class)) | Self::Keyed(class) | Self::Generator(class) => Some(class),
            Self::Map(MapHost::Process | MapHost::Native) | Self::Task | Self::Resident => None,
        }
    }

    pub fn of(stage: &Stage, classes: &Classes) -> Self {
        let class = || classes.of(stage.id).expect("every Python stage has a class");
        match &stage.kind {
            StageKind::Read(_) | StageKind::Write(_) => Self::Resident,
            StageKind::Sql(sql) if sql.row_wise && !stage.inputs.is_empty() => Self::Map(MapHost::Native),
            StageKind::Sql(_) => Self::Resident,
            StageKind::Expect(_) => Self::Map(MapHost::Native),
            StageKind::Python(python) if python.is_source => Self::Generator(class()),
            StageKind::Python(_) if stage.has_state() => Self::Keyed(class()),
            StageKind::Python(_) => Self::Map(MapHost::Worker(class())),
            StageKind::Command(command) => match (command.mode, command.output) {
                (CommandMode::Batch | CommandMode::Stream | CommandMode::Row, _) => Self::Map(MapHost::Process),
                (CommandMode::Once, None) => Self::Task,
                (CommandMode::Once, Some(_)) => Self::Resident,
            },
        }
    }
}

/// One input: its members are read one after the other, or if the stage keeps no order, as they have something.
#[derive(Debug)]
pub struct InputState {
    pub members: Vec<EdgeId>,
    /// Index of the member that is being read.
    pub current: usize,
}

impl InputState {
    /// A member that has something, or one that may still get something; `None` if all are exhausted. It stays with one as long as that has
    /// something, so that each is come to.
    pub fn any(&mut self, queues: &[Queue]) -> Option<EdgeId> {
        let current = self.members.get(self.current).copied();
        self.members.retain(|edge| !queues[edge.index()].is_exhausted());
        // Those before it may have gone.
        let at = current.and_then(|current| self.members.iter().position(|edge| *edge >= current)).unwrap_or(0);
        let turns = (at..self.members.len()).chain(0..at);
        let found = turns.into_iter().find(|at| queues[self.members[*at].index()].front().is_some());
        self.current = found.unwrap_or(at);
        self.members.get(self.current).copied()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Running,
    /// All is published; the last pieces of the edges are being made.
    Finishing,
    Ended,
}

#[derive(Debug)]
pub struct StageState {
    pub role: Role,
    pub inputs: Vec<InputState>,
    pub phase: Phase,
    /// Stages that must end before this one does anything.
    pub awaited: usize,
    pub work: Work,
    /// `Publish` actions that are not answered yet, each with its edges' reservations, in order.
    pub publishing: std::collections::VecDeque<Vec<(EdgeId, Reservation)>>,
    /// What an attempt takes.
    pub need: Need,
    /// Attempts that there is input for, as of its last steps.
    pub available: u32,
    pub estimate: Estimate,
    pub sight: Sight,
    pub pace: Pace,
    pub durations: Durations,
    pub account: StageAccount,
    /// Why the first row failed that the stage has gone on without.
    pub first_failed: Option<Failure>,
    pub throttling: super::throttling::Throttling,
    pub clock: super::clock::StageClock,
}

#[derive(Debug)]
pub enum Work {
    Resident(Resident),
    Jobs(Jobs),
    Keyed(Keyed),
}

/// A resident stage as seen from outside.
#[derive(Debug, Default)]
pub struct Resident {
    pub inputs: Vec<ResidentInput>,
    /// The reservations of the pull that is not answered yet.
    pub pull: Option<Vec<(EdgeId, Reservation)>>,
    pub closing: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ResidentInput {
    /// Ready for a batch.
    #[default]
    Waiting,
    /// Was fed a batch of this edge, of so many bytes, and has not taken it yet.
    Fed(EdgeId, u64),
    /// Was told that there is no more, or does not want more.
    Over,
}

/// The jobs of a stage that works batch by batch.
#[derive(Debug, Default)]
pub struct Jobs {
    /// Jobs that are not published yet, by sequence number.
    pub jobs: BTreeMap<u64, Job>,
    /// What is to be dispatched (again); it goes before new input.
    pub ready: BTreeSet<SliceId>,
    /// Attempts that have begun, and have neither ended nor wait.
    pub running: u32,
    /// Attempts that keep no place, as their processes wait for more.
    pub waiting: u32,
    /// Attempts that are dispatched and have not begun: they wait for a slot, or with their workers.
    pub queued: u32,
    /// Jobs of which it is looked up whether they were done before, and those that are done and are being kept.
    pub recalling: u32,
    pub keeping: u32,
    pub next_sequence: u64,
    /// A job failed for good: no job after it is begun.
    pub failed: bool,
    /// Generators and tasks: there is nothing more to begin.
    pub exhausted: bool,
}

impl Jobs {
    /// Attempts that are dispatched and have not ended.
    pub fn dispatched(&self) -> u32 {
        self.running + self.queued + self.waiting
    }
}

/// One batch on its way through a stage.
#[derive(Debug)]
pub struct Job {
    /// `None` for generators and tasks.
    pub input: Option<(EdgeId, Meta)>,
    pub reservations: Vec<(EdgeId, Reservation)>,
    /// By their first rows. All rows of the batch are in one of them; there is one only where batches are not sliced.
    pub slices: BTreeMap<u64, Slice>,
    pub keeping: Keeping,
    /// Rows of the batch that an earlier run has done. They are not among those of `input`.
    pub spared: Option<Spared>,
}

/// Where what comes of a job is kept for later runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keeping {
    /// Nowhere, or it is there.
    #[default]
    No,
    /// It is being written, and may not be published before.
    Asked,
    /// It has come from there.
    Recalled,
}

/// Rows of a batch that are attempted together.
#[derive(Debug)]
pub struct Slice {
    pub rows: Range<u64>,
    pub step: Step,
    pub tries: Tries,
    pub rejects: Vec<Reject>,
    /// Rows that failed are among these, or were.
    pub suspected: bool,
    /// The attempt that runs may end before its last row.
    pub has_budget: bool,
}

/// Names a slice of a stage, in the order of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SliceId {
    pub sequence: u64,
    /// Its first row.
    pub first: u64,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Tries {
    pub exception: u32,
    pub crash: u32,
    pub oom: u32,
    pub timeout: u32,
    pub total: u32,
    /// Attempts that were lost through no fault of the batch.
    pub engine: u32,
    /// Attempts in a row whose function asked for fewer calls.
    pub throttled: u32,
    /// Searches for the rows to blame that found none.
    pub acquittals: u32,
}

#[derive(Debug)]
pub enum Step {
    /// All rows in one attempt.
    Whole,
    /// Looking for the rows to blame.
    Blaming(Blame),
    /// The rows that are not to blame, in one attempt.
    Rest(Vec<Range<u64>>),
    /// Making one batch of what the slices gave, which were given so many rows.
    Join {
        rows: u64,
        parts: Vec<Meta>,
        /// Updates of the run's state that came with the parts.
        state: Vec<Output>,
    },
    /// `rows` is what the final attempt was given, as counted by the worker.
    Done {
        rows: u64,
        outputs: Vec<Output>,
    },
    Failed {
        failure: Failure,
        rows: Option<Range<u64>>,
    },
}

/// What a batch of a stage's output will weigh, before it is made: a moving average.
#[derive(Clone, Copy, Debug, Default)]
pub struct Estimate {
    /// Output bytes per input byte.
    ratio: f64,
    /// Output bytes of a batch without input.
    bytes: f64,
    seen: bool,
}

impl Estimate {
    const WEIGHT: f64 = 0.3;

    pub fn of(&self, input: Option<&Meta>) -> u64 {
        let estimate = match input {
            Some(meta) if self.seen => meta.bytes as f64 * self.ratio,
            Some(meta) => meta.bytes as f64,
            None => self.bytes,
        };
        estimate as u64
    }

    pub fn learn(&mut self, input: Option<&Meta>, bytes: u64) {
        let bytes = bytes as f64;
        let ratio = input.map_or(0.0, |meta| bytes / (meta.bytes.max(1) as f64));
        let weight = if self.seen { Self::WEIGHT } else { 1.0 };
        self.ratio += weight * (ratio - self.ratio);
        self.bytes += weight * (bytes - self.bytes);
        self.seen = true;
    }
}

/// What an attempt of a stage takes: a moving average.
#[derive(Clone, Copy, Debug, Default)]
pub struct Durations {
    seconds: Option<f64>,
}

impl Durations {
    const WEIGHT: f64 = 0.3;
    /// Shorter ones are worth to be with their worker before it has ended the one before; longer ones had better be with whoever is
    /// free first.
    const SHORT: f64 = 0.01;

    pub fn learn(&mut self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        self.seconds = Some(self.seconds.map_or(seconds, |before| before + Self::WEIGHT * (seconds - before)));
    }

    pub fn are_short(self) -> bool {
        self.seconds.is_some_and(|seconds| seconds < Self::SHORT)
    }
}

/// The ranges of `0..rows` that none of `rejects` covers.
pub fn rest(rows: u64, rejects: &[Reject]) -> Vec<Range<u64>> {
    let mut rest = Vec::new();
    let mut start = 0;
    for reject in rejects {
        if start < reject.rows.start {
            rest.push(start..reject.rows.start);
        }
        start = reject.rows.end;
    }
    if start < rows {
        rest.push(start..rows);
    }
    rest
}
