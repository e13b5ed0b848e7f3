//! [`MemoryBound`]: how much memory a run may take, term by term, from the plan alone.
//!
//! A term is *enforced* if the engine keeps to it whatever the data are, and *estimated* if it depends on what it cannot know before: the
//! size of a row, what a user's function allocates. Rows that are larger than their batch should be, and batches that a function makes
//! larger than its input, come on top of the estimates.

use std::collections::BTreeSet;
use std::num::NonZeroU64;

use super::plan::{Edge, Plan};
use super::queue::Cut;
use super::stage::{CommandMode, PythonTarget, Stage, StageKind};
use crate::format::Format;

/// Memory of one query over whole streams before it spills, bytes.
pub const QUERY_MEMORY: u64 = 256 << 20;
/// Bytes of free segments that a process keeps to use them again: the coordinator, and every worker.
pub const FREE_SEGMENTS: u64 = 64 << 20;
/// The smallest segment; sizes are powers of two from there.
pub const SMALLEST_SEGMENT: u64 = 1 << 20;

/// The coordinator, its threads and the guardian, without any rows.
const COORDINATOR: u64 = 32 << 20;
/// The template and what it has imported: pyarrow and numpy take half of it.
const TEMPLATE: u64 = 64 << 20;
/// A worker, beside what it shares with the template: a data frame or two of a batch.
const WORKER: u64 = 64 << 20;
const COMMAND: u64 = 16 << 20;
/// A row group on its way into a Parquet file.
const ROW_GROUP: u64 = 64 << 20;

/// What a run may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryBound {
    pub terms: Vec<Term>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    pub what: String,
    pub bytes: u64,
    pub certainty: Certainty,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certainty {
    Enforced,
    Estimated,
}

impl Certainty {
    pub fn word(self) -> &'static str {
        match self {
            Self::Enforced => "enforced",
            Self::Estimated => "estimated",
        }
    }
}

impl MemoryBound {
    pub fn of(plan: &Plan) -> Self {
        use Certainty::{Enforced, Estimated};
        let mut terms = Vec::new();
        let mut add = |what: String, bytes: u64, certainty| {
            if bytes > 0 {
                terms.push(Term { what, bytes, certainty });
            }
        };
        add("coordinator".to_owned(), COORDINATOR, Estimated);
        add(counted(plan.edges.len(), "edge"), plan.edge_bytes(), Enforced);
        let alone = sum(plan.edges.iter().map(|edge| largest_batch(plan, edge)));
        add("a batch that is let in alone, per edge".to_owned(), alone, Estimated);
        let made: Vec<&Edge> = plan.edges.iter().filter(|edge| edge.spills).collect();
        let in_the_making = made.iter().map(|edge| u64::from(plan.workers) * largest_batch(plan, edge));
        add("batches made for edges that spill".to_owned(), sum(in_the_making), Estimated);
        add(
            "segments larger than their batches".to_owned(),
            sum(plan.edges.iter().map(|edge| rounding(plan, edge))),
            Enforced,
        );
        let pools = workers(plan);
        let processes = pools.iter().map(|(count, _)| count).sum::<u64>();
        if processes > 0 {
            add("free segments".to_owned(), FREE_SEGMENTS * (1 + processes), Enforced);
        }
        let is_query = |stage: &&Stage| matches!(&stage.kind, StageKind::Sql(sql) if !sql.row_wise);
        let queries = plan.stages.iter().filter(is_query).count();
        add(counted_as(queries, "query", "queries"), QUERY_MEMORY * queries as u64, Enforced);
        add(
            "reading, writing and row-wise queries".to_owned(),
            sum(plan.stages.iter().map(|stage| native(plan, stage))),
            Estimated,
        );
        if processes > 0 {
            add("template of the workers".to_owned(), TEMPLATE, Estimated);
            for (count, limit) in pools {
                let what = format!("{count} {}", if count == 1 { "worker" } else { "workers" });
                match limit {
                    Some(limit) => add(what, count.saturating_mul(killed_at(limit.get())), Enforced),
                    None => add(format!("{what} without `memory`"), count * WORKER, Estimated),
                }
            }
        }
        add("commands".to_owned(), commands(plan), Estimated);
        Self { terms }
    }

    pub fn total(&self) -> u64 {
        sum(self.terms.iter().map(|term| term.bytes))
    }
}

fn sum(terms: impl Iterator<Item = u64>) -> u64 {
    terms.fold(0, u64::saturating_add)
}

fn counted(count: usize, noun: &str) -> String {
    counted_as(count, noun, &format!("{noun}s"))
}

fn counted_as(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// Bytes of the largest batch of an edge, if no row and no function makes it larger.
fn largest_batch(plan: &Plan, edge: &Edge) -> u64 {
    let producer = plan.stage(edge.from);
    let given = if producer.inputs.is_empty() { producer.cut } else { Cut::default() };
    edge.cut.unwrap_or(given).bytes.get()
}

/// Whether batches of the edge lie in shared memory.
fn is_shared(plan: &Plan, edge: &Edge) -> bool {
    [edge.from, edge.to].into_iter().any(|stage| matches!(plan.stage(stage).kind, StageKind::Python(_)))
}

/// A segment is up to twice as large as its batch, and never smaller than the smallest.
fn rounding(plan: &Plan, edge: &Edge) -> u64 {
    if !is_shared(plan, edge) {
        return 0;
    }
    let smallest = u64::from(edge.capacity.batches.get()).saturating_mul(SMALLEST_SEGMENT);
    // Batches small enough to be rounded up that much are not many enough to fill the edge.
    edge.capacity.bytes.get().max(smallest)
}

/// Bytes at which a worker is killed that may have `limit`: what it may have after a batch, and half of it for what a batch needs.
pub const fn killed_at(limit: u64) -> u64 {
    limit.saturating_add(limit / 2)
}

/// Worker processes that may live at once, and what each may have.
fn workers(plan: &Plan) -> Vec<(u64, Option<NonZeroU64>)> {
    let mut shared = BTreeSet::new();
    let mut workers = Vec::new();
    for stage in &plan.stages {
        let StageKind::Python(python) = &stage.kind else { continue };
        let count = match python.target {
            _ if python.is_source => 1,
            PythonTarget::Class => u64::from(stage.workers.max.get()),
            PythonTarget::Function if shared.insert((&stage.env, &stage.cwd, stage.memory)) => u64::from(plan.workers),
            PythonTarget::Function => continue,
        };
        workers.push((count, stage.memory));
    }
    workers
}

/// What a stage in the coordinator has in its hands: chunks that are read ahead, or encoded; the batches of its attempts.
fn native(plan: &Plan, stage: &Stage) -> u64 {
    let at_once = u64::from(plan.workers);
    let cut = stage.cut.bytes.get();
    match &stage.kind {
        StageKind::Read(_) => cut.saturating_mul(at_once + 2),
        StageKind::Write(write) => {
            let group = if write.format == Format::Parquet { ROW_GROUP } else { 0 };
            cut.saturating_mul(at_once + 2).saturating_add(group)
        }
        // Input and output.
        StageKind::Sql(sql) if sql.row_wise => cut.saturating_mul(2 * at_once),
        StageKind::Sql(_) | StageKind::Python(_) | StageKind::Command(_) => 0,
    }
}

/// The processes of commands, and their rows as text on both sides.
fn commands(plan: &Plan) -> u64 {
    sum(plan.stages.iter().map(|stage| {
        let StageKind::Command(command) = &stage.kind else { return 0 };
        let text = stage.cut.bytes.get().saturating_mul(2).saturating_add(COMMAND);
        match command.mode {
            CommandMode::Batch | CommandMode::Stream | CommandMode::Row => {
                text.saturating_mul(u64::from(plan.workers.min(stage.workers.max.get())))
            }
            CommandMode::Once => text,
        }
    }))
}
