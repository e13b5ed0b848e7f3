//! [`MemoryBound`]: how much memory a run may take, term by term, from the plan alone.
//!
//! A term is *enforced* if the engine keeps to it whatever the data are, and *estimated* if it depends on what it cannot know before: the
//! size of a row, what a user's function allocates. Rows that are larger than their batch should be, and batches that a function makes
//! larger than its input, come on top of the estimates.

use std::collections::BTreeMap;
use std::num::NonZeroU64;

use super::checkpoint::Checkpoint;
use super::plan::{Edge, Plan};
use super::queue::Cut;
use super::stage::{CommandMode, Convention, Folder, PythonTarget, Read, Stage, StageKind, Start, Write, WriteTarget};
use super::supply::{Supply, at_once};
use crate::format::{Compression, Format};

/// Bytes of free segments that a process keeps to use them again: the coordinator, and every worker.
pub const FREE_SEGMENTS: u64 = 64 << 20;
/// The smallest segment; sizes are powers of two from there.
pub const SMALLEST_SEGMENT: u64 = 1 << 20;
/// Batches up to this size travel inside of messages.
pub const INLINE_BATCH: u64 = 32 << 10;
/// Bytes that the edges of a run may spill together, and each of its queries.
pub const SPILL_LIMIT: u64 = 64 << 30;

// Measured, and rounded up.

/// The coordinator, its threads and the guardian, without any rows.
const COORDINATOR: u64 = 20 << 20;
/// A stage: its queues, its place in plan, accounts and messages.
const STAGE: u64 = 16 << 10;
/// The template with pyarrow; and with pandas and what else is required.
const TEMPLATE: u64 = 24 << 20;
const TEMPLATE_OF_MORE: u64 = 56 << 20;
/// A worker, beside what it shares with the template; and one that uses what else is required.
const WORKER: u64 = 20 << 20;
const WORKER_OF_MORE: u64 = 40 << 20;
/// What a function makes of a batch while it works, in batches: objects, copies, its result.
const WORKED_ON: u64 = 4;
/// A program that is no interpreter, and how often its rows are in memory: as rows and as text, on their way in and out.
const COMMAND: u64 = 4 << 20;
const PIPED: u64 = 5;
/// Something that is shared, of which nothing is known.
const SHARED: u64 = 64 << 20;
/// A block of a table that is shared, when it is put together.
const SHARED_BLOCK: u64 = 32 << 20;
/// How often rows that are put into the order of their files are in memory: as they come, joined, and sorted.
const SORTED_COPIES: u64 = 3;
/// A file of a folder that is open: what is held back of its text; the pages of its columns; and what it takes to pack it.
const OPEN_FILE: u64 = 512 << 10;
const OPEN_PARQUET_FILE: u64 = 1 << 20;
/// A column of a batch, beside its values.
const COLUMN_OF_BATCH: u64 = 320;
/// A column of a Parquet file that is being written: most of it is the table of its dictionary.
const OPEN_COLUMN: u64 = 112 << 10;
const PACKED_FILE: u64 = 2 << 20;
/// Connections to object stores, and parts of what is uploaded.
const STORES: u64 = 64 << 20;
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
        let stages = STAGE.saturating_mul(plan.stages.len() as u64);
        add("coordinator".to_owned(), COORDINATOR + stages, Estimated);
        let queued = sum_by_port(plan, |edge| edge.capacity.bytes.get());
        add(counted(plan.edges.len(), "edge"), queued, Enforced);
        let alone = sum(plan.edges.iter().map(|edge| let_in_alone(plan, edge)));
        add("batches larger than there is room for".to_owned(), alone, Estimated);
        let made = plan.edges.iter().filter(|edge| edge.spills);
        let in_the_making = made.map(|edge| u64::from(plan.workers) * largest_batch(plan, edge));
        add("batches made for edges that spill".to_owned(), sum(in_the_making), Estimated);
        let again = plan.stages.iter().filter(|stage| stage.has_state());
        let again = again.map(|stage| u64::from(plan.lanes(stage)).saturating_mul(largest_input(plan, stage)));
        add("batches that stages with state do again after a death".to_owned(), sum(again), Estimated);
        let kept = plan.stages.iter().filter(|stage| stage.checkpoint.is_some());
        add(
            "batches that are kept, or read back".to_owned(),
            sum(kept.map(|stage| kept_bytes(plan, stage))),
            Estimated,
        );
        add("what is shared by all workers".to_owned(), shared(plan), Estimated);
        let pools = workers(plan);
        let processes = pools.iter().map(|pool| pool.count).sum::<u64>();
        let rounded =
            sum_by_port(plan, |edge| if lies_in_shared_memory(plan, edge) { rounding(plan, edge) } else { 0 });
        add("segments larger than their batches".to_owned(), rounded, Enforced);
        if processes > 0 {
            add("free segments".to_owned(), free_segments(plan, processes), Estimated);
        }
        let queries: Vec<&Stage> = plan.stages.iter().filter(|stage| is_query(stage)).collect();
        let limits = sum(queries.iter().map(|stage| stage.memory.map_or(0, NonZeroU64::get)));
        add(counted_as(queries.len(), "query", "queries"), limits, Enforced);
        add(
            "reading, writing and row-wise queries".to_owned(),
            sum(plan.stages.iter().map(|stage| native(plan, stage))).saturating_add(columns_of_batches(plan)),
            Estimated,
        );
        if processes > 0 {
            let template = if requires_more(plan) { TEMPLATE_OF_MORE } else { TEMPLATE };
            add("template of the workers".to_owned(), template, Estimated);
            for Workers { count, limit, guess } in pools {
                let what = format!("{count} {}", if count == 1 { "worker" } else { "workers" });
                match limit {
                    Some(limit) => add(what, count.saturating_mul(killed_at(limit.get())), Enforced),
                    None => add(format!("{what} without `memory`"), count.saturating_mul(guess), Estimated),
                }
            }
        }
        add("commands".to_owned(), commands(plan), Estimated);
        if plan.stages.iter().any(uses_store) {
            add("object stores".to_owned(), STORES, Estimated);
        }
        Self { terms }
    }

    pub fn total(&self) -> u64 {
        sum(self.terms.iter().map(|term| term.bytes))
    }
}

/// What workers can look up, for as long as the run takes.
fn shared(plan: &Plan) -> u64 {
    let sinks = plan.stages.iter().filter(|stage| stage.is_shared());
    let edges = sinks.flat_map(|stage| &stage.inputs).flat_map(|input| &input.members);
    sum(edges.map(|edge| supply(plan, plan.edge(*edge)).map_or(SHARED, |supply| supply.bytes)))
}

fn uses_store(stage: &Stage) -> bool {
    match &stage.kind {
        StageKind::Read(read) => read.has_store(),
        StageKind::Write(write) => write.published().is_some_and(|place| place.store().is_some()),
        _ => stage.checkpoint.as_ref().is_some_and(Checkpoint::has_store),
    }
}

/// Whether a stage is a query over whole streams.
pub(super) fn is_query(stage: &Stage) -> bool {
    matches!(&stage.kind, StageKind::Sql(sql) if !sql.row_wise)
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

/// What may come over an edge, where it is known.
fn supply(plan: &Plan, edge: &Edge) -> Option<Supply> {
    plan.stage(edge.from).supply.map(|supply| supply.over_edge(edge.cut))
}

/// Bytes of the largest batch of an edge, if no row and no function makes it larger. One that is larger than the queue is an exception.
fn largest_batch(plan: &Plan, edge: &Edge) -> u64 {
    let producer = plan.stage(edge.from);
    let given = if producer.inputs.is_empty() { producer.cut } else { Cut::default() };
    let cut = edge.cut.unwrap_or(given).bytes.get();
    supply(plan, edge).map_or(cut, |supply| supply.largest).min(edge.capacity.bytes.get())
}

/// Whether all that comes over an edge has room on it.
fn holds_all(plan: &Plan, edge: &Edge) -> bool {
    supply(plan, edge).is_some_and(|supply| supply.fits(edge.capacity.bytes.get()))
}

/// Adds up what edges take. The edges of one port hold the same batches, some more of them, some fewer; but not if batches are cut anew
/// for one of them, or copied into shared memory.
fn sum_by_port(plan: &Plan, bytes: impl Fn(&Edge) -> u64) -> u64 {
    let ports = plan.stages.iter().flat_map(|stage| &stage.ports);
    sum(ports.map(|port| {
        let edges = || port.edges.iter().map(|id| plan.edge(*id));
        let has_its_own = |edge: &&Edge| edge.cut.is_some() || edge.spills || is_copied(plan, edge);
        let alone = sum(edges().filter(has_its_own).map(&bytes));
        let together = edges().filter(|edge| !has_its_own(edge)).map(&bytes).max();
        alone.saturating_add(together.unwrap_or(0))
    }))
}

/// A batch is let in whatever its size when nothing waits, and more than one may be in the consumer's hands.
fn let_in_alone(plan: &Plan, edge: &Edge) -> u64 {
    if holds_all(plan, edge) {
        return 0;
    }
    let in_hands = u64::from(at_once(plan.stage(edge.to), plan.workers)) + 1;
    let largest = largest_batch(plan, edge);
    largest.max((largest.saturating_mul(in_hands)).saturating_sub(edge.capacity.bytes.get()))
}

fn is_python(plan: &Plan, stage: super::plan::StageId) -> bool {
    matches!(plan.stage(stage).kind, StageKind::Python(_))
}

/// Whether batches of the edge lie in shared memory.
fn lies_in_shared_memory(plan: &Plan, edge: &Edge) -> bool {
    (is_python(plan, edge.from) || is_python(plan, edge.to)) && largest_batch(plan, edge) > INLINE_BATCH
}

/// Whether batches of the edge are written to shared memory when they are worked on: what comes from the coordinator, or is put in the
/// order of its partitions there.
fn is_copied(plan: &Plan, edge: &Edge) -> bool {
    is_python(plan, edge.to) && (!is_python(plan, edge.from) || plan.stage(edge.to).has_state())
}

/// A segment is up to twice as large as its batch, and never smaller than the smallest.
fn rounding(plan: &Plan, edge: &Edge) -> u64 {
    let batches = u64::from(edge.capacity.batches.get());
    let batches = supply(plan, edge).map_or(batches, |supply| supply.batches.min(batches));
    // Batches small enough to be rounded up that much are not many enough to fill the edge.
    edge.capacity.bytes.get().max(batches.saturating_mul(SMALLEST_SEGMENT))
}

/// Segments are used again before others are made, so a process has no more of them free than it once had in use. What workers have free is
/// estimated: they have their share of what is in the queues, and not all of it one after the other.
fn free_segments(plan: &Plan, processes: u64) -> u64 {
    // What holds all batches that there will ever be has been counted with the segments.
    let once = |is_writer: &dyn Fn(&Edge) -> bool| {
        sum_by_port(plan, |edge| {
            let counts = lies_in_shared_memory(plan, edge) && is_writer(edge) && !holds_all(plan, edge);
            if counts { edge.capacity.bytes.get() } else { 0 }
        })
    };
    let coordinator = once(&|edge| is_copied(plan, edge)).min(FREE_SEGMENTS);
    let workers = once(&|edge| is_python(plan, edge.from)).min(FREE_SEGMENTS.saturating_mul(processes));
    coordinator.saturating_add(workers)
}

/// Bytes at which a worker is killed that may have `limit`: what it may have after a batch, and half of it for what a batch needs.
pub const fn killed_at(limit: u64) -> u64 {
    limit.saturating_add(limit / 2)
}

/// Workers that may live at once.
struct Workers {
    count: u64,
    /// What each may have.
    limit: Option<NonZeroU64>,
    /// What each is expected to have where there is no limit.
    guess: u64,
}

fn workers(plan: &Plan) -> Vec<Workers> {
    let mut own = Vec::new();
    let mut shared: BTreeMap<_, Vec<&Stage>> = BTreeMap::new();
    for stage in &plan.stages {
        let StageKind::Python(python) = &stage.kind else { continue };
        match python.target {
            _ if python.is_source => own.push(of_pool(plan, 1, &[stage])),
            _ if stage.has_state() => {
                // Every batch is for all of them.
                let count = u64::from(plan.lanes(stage));
                own.push(Workers { count, ..of_pool(plan, plan.lanes(stage), &[stage]) });
            }
            PythonTarget::Class => {
                own.push(of_pool(plan, stage.workers.max.get().min(plan.workers_with_devices(stage)), &[stage]))
            }
            PythonTarget::Function => shared.entry(stage.worker_traits()).or_default().push(stage),
        }
    }
    own.extend(
        shared.values().map(|stages| of_pool(plan, plan.workers.min(plan.workers_with_devices(stages[0])), stages)),
    );
    own
}

/// At most `most` workers of these stages, and no more than there are batches for.
fn of_pool(plan: &Plan, most: u32, stages: &[&Stage]) -> Workers {
    let batches = sum(stages.iter().map(|stage| batches(plan, stage)));
    let least = stages.iter().map(|stage| stage.workers.min).max().unwrap_or(0);
    Workers {
        count: u64::from(most).min(batches).max(u64::from(least)),
        limit: stages[0].memory,
        guess: stages.iter().map(|stage| worker(plan, stage)).max().unwrap_or(WORKER),
    }
}

/// How many batches may come into a stage.
fn batches(plan: &Plan, stage: &Stage) -> u64 {
    let edges = stage.inputs.iter().flat_map(|input| &input.members);
    let each = edges.map(|id| supply(plan, plan.edge(*id)).map_or(u64::MAX, |supply| supply.batches));
    if stage.inputs.is_empty() { 1 } else { sum(each) }
}

/// What a stage that keeps its batches has in its hands for that: each as it lies on disk, besides as rows. Where stores make it wait for many,
/// the queue in front of it bounds what they take.
fn kept_bytes(plan: &Plan, stage: &Stage) -> u64 {
    let largest = largest_input(plan, stage);
    let worked_on = largest.saturating_mul(u64::from(plan.workers).min(batches(plan, stage)));
    let look_ups = stage.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.look_ups(plan.workers));
    let looked_up = largest.saturating_mul(u64::from(look_ups).min(batches(plan, stage)));
    let edges = stage.inputs.iter().flat_map(|input| &input.members);
    let queued = edges.map(|id| plan.edge(*id).capacity.bytes.get()).max().unwrap_or(0);
    looked_up.min(queued).max(worked_on).saturating_mul(2)
}

/// The largest batch that comes into a stage.
fn largest_input(plan: &Plan, stage: &Stage) -> u64 {
    let edges = stage.inputs.iter().flat_map(|input| &input.members);
    edges.map(|id| largest_batch(plan, plan.edge(*id))).max().unwrap_or(stage.cut.bytes.get())
}

fn requires_more(plan: &Plan) -> bool {
    let uses_frames = |stage: &Stage| {
        let frames = [Some(Convention::Pandas), Some(Convention::Polars)];
        matches!(&stage.kind, StageKind::Python(python) if frames.contains(&python.convention))
    };
    let python = &plan.python;
    !python.requirements.is_empty()
        || !python.requirement_files.is_empty()
        || python.venv.is_some()
        || plan.stages.iter().any(uses_frames)
}

fn worker(plan: &Plan, stage: &Stage) -> u64 {
    let (base, template) = if requires_more(plan) { (WORKER_OF_MORE, TEMPLATE_OF_MORE) } else { (WORKER, TEMPLATE) };
    // An interpreter of its own shares nothing with the template.
    let base = if stage.start() == Start::Exec { base + template } else { base };
    base.saturating_add(largest_input(plan, stage).saturating_mul(WORKED_ON))
}

/// What a stage in the coordinator has in its hands: chunks that are read ahead, or encoded; the batches of its attempts.
fn native(plan: &Plan, stage: &Stage) -> u64 {
    let at_once = u64::from(plan.workers);
    let of_all = |bytes: u64, supply: Option<Supply>| supply.map_or(bytes, |supply| bytes.min(supply.bytes));
    match &stage.kind {
        StageKind::Read(read) => {
            let largest = stage.supply.map_or(stage.cut.bytes.get(), |supply| supply.largest);
            // Of text a chunk is there until its values are.
            let each = if read.format.is_text() { largest.saturating_add(largest / 2) } else { largest };
            let pages = stage.supply.map_or(0, |supply| supply.pages);
            let ahead = of_all(each.saturating_mul(at_once + 2), stage.supply);
            ahead.saturating_add(unpacking(read)).saturating_add(pages)
        }
        StageKind::Write(write) => {
            let group = match write.format {
                Format::Parquet => ROW_GROUP,
                _ if stage.is_shared() => SHARED_BLOCK,
                _ => 0,
            };
            if let WriteTarget::Folder(_) = write.target {
                let sorted = of_all(Folder::SORTED_BYTES, stage.supply).saturating_mul(SORTED_COPIES);
                let held = of_all(Folder::HELD_BYTES, stage.supply);
                return sorted.saturating_add(held).saturating_add(open_files(plan, stage, write));
            }
            let under_way = largest_input(plan, stage).saturating_mul(at_once + 2);
            let of_rows = of_all(under_way.saturating_add(group), stage.supply);
            of_rows.saturating_add(write.compression.packing()).saturating_add(open_columns(plan, stage, write))
        }
        // Input and output.
        StageKind::Sql(sql) if sql.row_wise => {
            of_all(largest_input(plan, stage).saturating_mul(2 * at_once), stage.supply)
        }
        StageKind::Expect(_) => of_all(largest_input(plan, stage).saturating_mul(2 * at_once), stage.supply),
        StageKind::Sql(_) | StageKind::Python(_) | StageKind::Command(_) => 0,
    }
}

/// What the columns of a Parquet file take that is being written, beside their rows.
fn open_columns(plan: &Plan, stage: &Stage, write: &Write) -> u64 {
    if write.format != Format::Parquet {
        return 0;
    }
    let edges = stage.inputs.iter().flat_map(|input| &input.members).map(|id| plan.edge(*id));
    let columns = edges.filter_map(|edge| plan.stage(edge.from).ports[edge.port].columns.as_ref());
    let columns = columns.map(|columns| columns.flattened_fields().len() as u64).max().unwrap_or(0);
    // One row group is filled while the one before it is finished.
    let groups = if stage.supply.is_some_and(|supply| supply.fits(ROW_GROUP)) { 1 } else { 2 };
    columns.saturating_mul(OPEN_COLUMN * groups)
}

/// What the columns of batches take beside their values, of all that may be there at once.
fn columns_of_batches(plan: &Plan) -> u64 {
    let of_edge = |edge: &Edge| {
        let columns = plan.stage(edge.from).ports[edge.port].columns.as_ref();
        let columns = columns.map_or(0, |columns| columns.flattened_fields().len() as u64);
        let batches = u64::from(edge.capacity.batches.get()) + u64::from(plan.workers) + 2;
        columns.saturating_mul(batches).saturating_mul(COLUMN_OF_BATCH)
    };
    sum_by_port(plan, of_edge)
}

/// What the files of a folder take that are open at once, beside their rows.
fn open_files(plan: &Plan, stage: &Stage, write: &Write) -> u64 {
    let each = match (write.format, write.compression) {
        (Format::Parquet, _) => OPEN_PARQUET_FILE.max(open_columns(plan, stage, write)),
        (_, Compression::None) => OPEN_FILE,
        (_, compression) => PACKED_FILE.saturating_add(compression.packing()),
    };
    Folder::most_open(write.compression).saturating_mul(each)
}

/// What it takes to unpack one of a source's files, as far as their names tell: they are open one after the other.
fn unpacking(read: &Read) -> u64 {
    match read.compression {
        Some(compression) => compression.unpacking(),
        None => read.paths.iter().map(|path| Compression::of(&path.as_path()).unpacking()).max().unwrap_or(0),
    }
}

/// The processes of commands, and their rows as text on both sides: no more at once than there are workers.
fn commands(plan: &Plan) -> u64 {
    let mut processes = Vec::new();
    for stage in &plan.stages {
        let StageKind::Command(command) = &stage.kind else { continue };
        let rows = if command.input.is_some() || command.output.is_some() { largest_input(plan, stage) } else { 0 };
        let count = match command.mode {
            CommandMode::Batch | CommandMode::Stream | CommandMode::Row => {
                batches(plan, stage).min(u64::from(at_once(stage, plan.workers)))
            }
            CommandMode::Once => 1,
        };
        processes.extend((0..count).map(|_| COMMAND.saturating_add(rows.saturating_mul(PIPED))));
    }
    processes.sort_unstable_by(|one, other| other.cmp(one));
    sum(processes.into_iter().take(plan.workers as usize))
}
