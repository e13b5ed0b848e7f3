//! [`PlanReport`]: a plan for programs, as `millpond plan --format json` prints it.

use std::collections::BTreeMap;

use arrow::datatypes::DataType;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::document;
use super::json::VERSION;
use crate::plan::memory::MemoryBound;
use crate::plan::{Edge, Order, Plan, Port, Stage, StageKind, view};

/// The compiled plan of a pipeline, and what is wrong or odd about its file. Within a version, fields may be added; none is removed or
/// changes its meaning.
#[derive(Debug, Serialize, JsonSchema)]
pub struct PlanReport {
    /// Version of the format.
    v: u32,
    /// Null if the file is wrong: then `diagnostics` say how.
    plan: Option<PlanSummary>,
    /// Errors and warnings, as `millpond validate --format json` prints them.
    diagnostics: Vec<Value>,
}

/// What becomes of a stage's earlier work, or of what it reads.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Outlook {
    /// The stage's name.
    pub stage: String,
    /// `checkpoint` for finished batches, `task` for a task with files, `source` for a source whose files cannot be looked at.
    pub of: &'static str,
    /// What will be, and why, for people.
    pub says: String,
    /// What has changed since the stage's work was done before; null if nothing was done before, or nothing can be told.
    pub changed: Option<Vec<String>>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct PlanSummary {
    /// The pipeline's name.
    pipeline: String,
    /// The pipeline file.
    file: String,
    /// Attempts that may run at once.
    workers: u32,
    /// Seed of every random choice.
    seed: u64,
    /// Values of the params.
    params: BTreeMap<String, Value>,
    /// In an order in which each comes after those that it needs.
    stages: Vec<PlannedStage>,
    edges: Vec<PlannedEdge>,
    memory: Memory,
    /// For each stage of the file that is no part of the run: why.
    left_out: BTreeMap<String, String>,
    /// What is done when the run has ended.
    hooks: Vec<PlannedHook>,
    /// What is reused and why, what is not and why, and what could not be looked at.
    outlook: Vec<Outlook>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct PlannedStage {
    /// The stage's name.
    stage: String,
    /// The name in the file of the stage whose `foreach` made it; null for others.
    foreach: Option<String>,
    /// `read`, `write`, `sql`, `python` or `command`; `expect` for what checks the rows of a stage.
    kind: &'static str,
    /// What it does, for people.
    what: String,
    /// How it is run, for people.
    runs: String,
    description: Option<String>,
    /// Line of its name in the file, from 1.
    line: u32,
    /// Names of the stages whose end it waits for.
    after: Vec<String>,
    /// Whether its rows keep their order: `preserve` or `any`.
    order: &'static str,
    /// Whether it is a sink that is published before the run has ended, as a stage waits for it.
    published_early: bool,
    ports: Vec<PlannedPort>,
    /// Of stages that are run in workers: least and most workers.
    workers: Option<[u32; 2]>,
    /// Bytes that a worker or a query may keep; null if there is no limit.
    memory_bytes: Option<u64>,
    /// Whether its finished batches are kept.
    checkpoint: bool,
    /// How long an attempt may take; null if there is no limit.
    timeout_seconds: Option<f64>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct PlannedPort {
    /// `out`, `rejected`, or one of the stage's own.
    port: String,
    /// Names of the stages that read it.
    to: Vec<String>,
    /// Its columns in their order; null if they are not known before a run.
    columns: Option<Vec<PlannedColumn>>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct PlannedColumn {
    name: String,
    /// The word for its type in pipeline files; null if it is not known before a run.
    #[serde(rename = "type")]
    data_type: Option<String>,
}

/// A queue between a port and an input. Both of its bounds hold.
#[derive(Debug, Serialize, JsonSchema)]
struct PlannedEdge {
    /// Name of the producer.
    from: String,
    /// The producer's port.
    port: String,
    /// Name of the consumer.
    to: String,
    /// What a query calls it.
    table: String,
    /// Batches that may wait.
    batches: u32,
    /// Bytes that may wait.
    bytes: u64,
    /// Rows of a batch that the consumer asks for; null if it takes batches as they come.
    cut_rows: Option<u32>,
    /// Whether what is over the bounds goes to disk.
    spills: bool,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Memory {
    /// The most that the run may take.
    bytes: u64,
    /// What that is made of.
    terms: Vec<MemoryTerm>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct MemoryTerm {
    what: String,
    bytes: u64,
    /// `enforced` or `estimated`.
    certainty: &'static str,
}

#[derive(Debug, Serialize, JsonSchema)]
struct PlannedHook {
    /// `on_failure` or `finally`.
    moment: &'static str,
    hook: String,
    /// `python` or `command`.
    kind: &'static str,
    /// What it does, for people.
    what: String,
}

impl PlanReport {
    /// `plan` with what is known of earlier work, if there is one.
    pub fn new(plan: Option<(&Plan, Vec<Outlook>)>, diagnostics: Vec<Value>) -> Self {
        Self { v: VERSION, plan: plan.map(|(plan, outlook)| PlanSummary::new(plan, outlook)), diagnostics }
    }

    /// The report as a document.
    pub fn text(&self) -> String {
        document::text(self)
    }

    /// The JSON Schema of reports, as it is kept in `schema/plan.schema.json`.
    pub fn schema() -> String {
        document::schema::<Self>()
    }
}

impl PlanSummary {
    fn new(plan: &Plan, outlook: Vec<Outlook>) -> Self {
        let bound = MemoryBound::of(plan);
        let terms = bound.terms.iter().map(|term| MemoryTerm {
            what: term.what.clone(),
            bytes: term.bytes,
            certainty: term.certainty.word(),
        });
        let hooks = plan.hooks.iter().flat_map(|hook| {
            hook.plan.stages.iter().map(|stage| PlannedHook {
                moment: hook.moment.key(),
                hook: stage.name.clone(),
                kind: stage.kind_word(),
                what: view::kind_text(plan, stage),
            })
        });
        Self {
            pipeline: plan.name.clone(),
            file: plan.file.display().to_string(),
            workers: plan.workers,
            seed: plan.seed,
            params: plan.params.clone(),
            stages: plan.stages.iter().map(|stage| planned_stage(plan, stage)).collect(),
            edges: plan.edges.iter().map(|edge| planned_edge(plan, edge)).collect(),
            memory: Memory { bytes: bound.total(), terms: terms.collect() },
            left_out: plan.left_out.iter().map(|it| (it.stage.clone(), it.reason.words())).collect(),
            hooks: hooks.collect(),
            outlook,
        }
    }
}

fn planned_stage(plan: &Plan, stage: &Stage) -> PlannedStage {
    let is_query = matches!(stage.kind, StageKind::Sql(_));
    PlannedStage {
        stage: stage.name.clone(),
        foreach: stage.foreach.clone(),
        kind: stage.kind_word(),
        what: view::kind_text(plan, stage),
        runs: view::running_text(stage),
        description: stage.description.clone(),
        line: stage.line,
        after: stage.after.iter().map(|id| plan.stage(*id).name.clone()).collect(),
        order: match stage.order {
            Order::Preserve => "preserve",
            Order::Any => "any",
        },
        published_early: stage.publishes_early(),
        ports: stage.ports.iter().map(|port| planned_port(plan, port)).collect(),
        workers: stage.runs_in_workers().then(|| [stage.workers.min, stage.workers.max.get()]),
        memory_bytes: stage.memory.filter(|_| is_query || stage.runs_in_workers()).map(std::num::NonZeroU64::get),
        checkpoint: stage.checkpoint.is_some(),
        timeout_seconds: stage.timeout.map(|timeout| timeout.attempt.as_secs_f64()),
    }
}

fn planned_port(plan: &Plan, port: &Port) -> PlannedPort {
    let columns = port.columns.as_ref().map(|columns| {
        let column = |field: &arrow::datatypes::FieldRef| PlannedColumn {
            name: field.name().clone(),
            data_type: (*field.data_type() != DataType::Null).then(|| view::type_word(field.data_type())),
        };
        columns.fields().iter().map(column).collect()
    });
    let to = port.edges.iter().map(|edge| plan.stage(plan.edge(*edge).to).name.clone()).collect();
    PlannedPort { port: port.name.clone(), to, columns }
}

fn planned_edge(plan: &Plan, edge: &Edge) -> PlannedEdge {
    let (from, to) = (plan.stage(edge.from), plan.stage(edge.to));
    PlannedEdge {
        from: from.name.clone(),
        port: from.ports[edge.port].name.clone(),
        to: to.name.clone(),
        table: to.inputs[edge.input].table.clone(),
        batches: edge.capacity.batches.get(),
        bytes: edge.capacity.bytes.get(),
        cut_rows: edge.cut.map(|cut| cut.rows.get()),
        spills: edge.spills,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `millpond schema --of plan > schema/plan.schema.json` brings it up to date.
    #[test]
    fn the_schema_in_the_repository_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/schema/plan.schema.json");
        let kept = std::fs::read_to_string(path).expect("the schema is in the repository");
        assert!(kept == PlanReport::schema(), "run `millpond schema --of plan` into schema/plan.schema.json");
    }
}
