//! [`Plan`]: the whole compiled pipeline.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use super::hook::Hook;
use super::left_out::LeftOut;
use super::log_level::LogLevel;
use super::queue::{Capacity, Cut};
use super::resource::{Resource, ResourceKind};
use super::stage::{Stage, StageKind};

/// Partitions of a stage with state: not cores, not workers, so that results do not depend on either.
pub const PARTITIONS: u32 = 64;

/// Index of a stage in [`Plan::stages`]. Ids follow a topological order: a stage's inputs have smaller ids than the stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StageId(pub u32);

/// Index of an edge in [`Plan::edges`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EdgeId(pub u32);

impl StageId {
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl EdgeId {
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A queue between a port of one stage and an input of another.
#[derive(Clone, Debug)]
pub struct Edge {
    pub id: EdgeId,
    pub from: StageId,
    /// Index into the producer's [`Stage::ports`].
    pub port: usize,
    pub to: StageId,
    /// Index into the consumer's [`Stage::inputs`].
    pub input: usize,
    pub capacity: Capacity,
    /// The cut that the consumer asked for (`batch:`); `None` passes batches on as they come.
    pub cut: Option<Cut>,
    /// Whether batches over the capacity go to disk instead of stopping the producer. Set where a branch meets again at
    /// an input that may wait for another one, which would deadlock with bounded queues (see `plan/deadlock.rs`).
    pub spills: bool,
}

/// What the workers of this pipeline need from Python: the `python:` block.
#[derive(Clone, Debug, Default)]
pub struct PythonPlan {
    /// Requirement specifiers as pip reads them, in the order of the file.
    pub requirements: Vec<String>,
    /// Requirement files, absolute.
    pub requirement_files: Vec<PathBuf>,
    /// Folders put on `sys.path`, absolute, in order; the pipeline's own if it names none.
    pub path: Vec<PathBuf>,
    /// An interpreter that exists: absolute, or a bare name to be looked up in `PATH`.
    pub interpreter: Option<PathBuf>,
    /// A virtual environment that exists and is used as it is, absolute.
    pub venv: Option<PathBuf>,
    /// What is added to the niceness of workers.
    pub nice: u8,
    /// Threads of numerical libraries in each worker; `None` is its share of the cores, which only a run knows.
    pub threads: Option<NonZeroU32>,
}

/// A compiled pipeline: a DAG of stages, connected by bounded queues. Cannot be cyclic; no id in it dangles.
#[derive(Clone, Debug)]
pub struct Plan {
    pub name: String,
    /// The pipeline file, absolute.
    pub file: PathBuf,
    /// The folder of the pipeline file: relative paths in the file are relative to it, and stages run in it.
    pub folder: PathBuf,
    pub stages: Vec<Stage>,
    pub edges: Vec<Edge>,
    /// Stages of the file that are not in `stages`.
    pub left_out: Vec<LeftOut>,
    /// What is done when the run has ended, in this order.
    pub hooks: Vec<Hook>,
    /// Values of the params of this run, typed: string, integer, float or boolean.
    pub params: BTreeMap<String, serde_json::Value>,
    pub python: PythonPlan,
    pub resources: Vec<Resource>,
    /// Attempts that may run at once.
    pub workers: u32,
    /// Seed of every random choice that a run makes (`run.seed`).
    pub seed: u64,
    /// What workers tell of what code logs whose stage does not say.
    pub log_level: LogLevel,
    /// Whether the code of stages has the terminal (`run --debug`).
    pub is_in_foreground: bool,
    /// Whether its sinks are files that nobody keeps (`run --dry-run --sample`).
    pub is_trial: bool,
}

impl Plan {
    pub fn stage(&self, id: StageId) -> &Stage {
        &self.stages[id.index()]
    }

    pub fn edge(&self, id: EdgeId) -> &Edge {
        &self.edges[id.index()]
    }

    /// A path as it would be written in the file, if it is below the pipeline's folder.
    pub fn shown(&self, path: &Path) -> String {
        path.strip_prefix(&self.folder).unwrap_or(path).display().to_string()
    }

    /// Bytes that may wait in all queues together; what spills does not count, as it waits on disk.
    pub fn edge_bytes(&self) -> u64 {
        self.edges.iter().map(|edge| edge.capacity.bytes.get()).fold(0, u64::saturating_add)
    }

    /// Workers among which a stage with state divides its partitions: without a key, there is one for all rows.
    pub fn lanes(&self, stage: &Stage) -> u32 {
        if !stage.has_keys() {
            return 1;
        }
        stage.workers.max.get().min(self.workers).clamp(1, PARTITIONS)
    }

    /// How many workers of a Python stage may live at once, by the devices that each has.
    pub fn workers_with_devices(&self, stage: &Stage) -> u32 {
        let fitting = stage.holds.iter().map(|of| match self.resources[of.resource.index()].kind {
            ResourceKind::Units(all) => all / of.units,
            ResourceKind::Rate { .. } => u32::MAX,
        });
        fitting.min().unwrap_or(u32::MAX)
    }

    /// Returns whether all that read the main output of a stage take lines as the text that they are.
    pub fn is_read_as_lines(&self, stage: StageId) -> bool {
        let main = self.stage(stage).ports.first().into_iter().flat_map(|port| &port.edges);
        main.into_iter().all(|&edge| self.stage(self.edge(edge).to).takes_lines())
    }

    /// The params that a stage sees.
    pub fn params_of<'p>(&'p self, stage: &'p Stage) -> &'p BTreeMap<String, serde_json::Value> {
        stage.params.as_deref().unwrap_or(&self.params)
    }

    /// Returns whether any stage or hook runs Python code.
    pub fn needs_python(&self) -> bool {
        let is_python = |stage: &Stage| matches!(stage.kind, StageKind::Python(_));
        self.stages.iter().any(is_python) || self.hooks.iter().any(|hook| hook.plan.needs_python())
    }
}
