//! [`RunSummary`]: how a run ended, for programs: `summary.json` and `run --summary`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::document;
use super::json::{VERSION, seconds};
use super::words::stage;
use crate::plan::Plan;
use crate::run::{LeftOut, Outcome, StageAccount};

/// How a run of millpond ended. Within a version, fields may be added; none is removed or changes its meaning.
#[derive(Debug, Serialize, JsonSchema)]
pub struct RunSummary {
    /// Version of the format.
    v: u32,
    /// The pipeline's name.
    pipeline: String,
    /// Exit code of millpond.
    exit_code: u8,
    /// What went wrong, for people; null if nothing did.
    message: Option<String>,
    /// File and row of the failure in the input; null if there is none, or if it is not known.
    place: Option<String>,
    /// How long the run took.
    seconds: f64,
    /// Worker processes in all.
    workers_started: u32,
    /// In the order of the file.
    stages: Vec<StageSummary>,
    edges: Vec<EdgeSummary>,
    /// Sinks that were published before the end of the run, as stages waited for them: they stay so if it failed.
    published_early: Vec<String>,
    /// For each stage of the file that was no part of the run: why.
    left_out: BTreeMap<String, String>,
    /// For each stage whose rejected rows no stage reads: the file that has them.
    rejects: BTreeMap<String, PathBuf>,
    /// The faults that `--chaos` has injected.
    injected: Vec<InjectedFault>,
    /// What the workers have counted and collected together, by kind (`counter`, `map`, `set`, `top`, `quantiles`) and name.
    state: BTreeMap<&'static str, BTreeMap<String, Value>>,
    /// What `state` does not show, by kind.
    state_left_out: BTreeMap<&'static str, LeftOut>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct StageSummary {
    /// The stage's name.
    stage: String,
    /// `read`, `write`, `sql`, `python` or `command`.
    kind: &'static str,
    account: AccountSummary,
}

/// In rows and seconds.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct AccountSummary {
    /// Rows taken from the inputs.
    rows_in: u64,
    /// Rows given on all ports but `rejected`.
    rows_out: u64,
    /// Rows given on the port `rejected`.
    rejected: u64,
    /// Rows dropped by `on_error: skip`.
    skipped: u64,
    /// Batches worked on.
    batches: u64,
    /// Those of them that an earlier run had done.
    reused: u64,
    /// Rows of batches that were not reused as a whole, which an earlier run has done (`--rejected`).
    rows_spared: u64,
    /// Attempts that failed and were followed by others.
    retries: u64,
    /// Most attempts of the stage at one time.
    peak_attempts: u32,
    /// Sum of the durations of all attempts.
    busy_seconds: f64,
    /// Time without input to work on.
    waited_for_input_seconds: f64,
    /// Time in which a full queue behind the stage stopped it.
    waited_for_output_seconds: f64,
    /// Time in which the stage could have worked, but no worker was free.
    waited_for_worker_seconds: f64,
    /// Time in which the stage could have worked, but there was not enough of what it `uses`.
    waited_for_resource_seconds: f64,
}

#[derive(Debug, Serialize, JsonSchema)]
struct EdgeSummary {
    /// Name of the producer.
    from: String,
    /// The producer's port.
    port: String,
    /// Name of the consumer.
    to: String,
    /// Rows that the producer put on the edge.
    published: u64,
    /// Rows that the consumer took; the run fails if the two differ.
    consumed: u64,
    /// The consumer wanted no more (`LIMIT`): then they may differ.
    closed_early: bool,
}

#[derive(Debug, Serialize, JsonSchema)]
struct InjectedFault {
    stage: String,
    fault: &'static str,
    times: u64,
}

impl RunSummary {
    /// `message` says what went wrong, if anything did.
    pub fn new(plan: &Plan, outcome: &Outcome, exit_code: u8, message: Option<&str>) -> Self {
        let name = |id| stage(plan, id).to_owned();
        let stages = plan.stages.iter().zip(&outcome.stages).map(|(stage, ended)| StageSummary {
            stage: stage.name.clone(),
            kind: stage.kind_word(),
            account: ended.into(),
        });
        let edges = plan.edges.iter().zip(&outcome.edges).map(|(edge, ended)| EdgeSummary {
            from: name(edge.from),
            port: plan.stage(edge.from).ports[edge.port].name.clone(),
            to: name(edge.to),
            published: ended.published,
            consumed: ended.consumed,
            closed_early: ended.closed_early,
        });
        let injected =
            outcome.injected.iter().map(|(id, fault, times)| InjectedFault { stage: name(*id), fault, times: *times });
        Self {
            v: VERSION,
            pipeline: plan.name.clone(),
            exit_code,
            message: message.map(str::to_owned),
            place: outcome.place.clone(),
            seconds: seconds(outcome.duration),
            workers_started: outcome.workers_started,
            stages: stages.collect(),
            edges: edges.collect(),
            published_early: outcome.published_early.iter().map(|id| name(*id)).collect(),
            left_out: plan.left_out.iter().map(|it| (it.stage.clone(), it.reason.words())).collect(),
            rejects: outcome.rejects.iter().map(|(id, path)| (name(*id), path.clone())).collect(),
            injected: injected.collect(),
            state: outcome.state.parts.clone(),
            state_left_out: outcome.state.left_out.clone(),
        }
    }

    /// The summary as a document, as it is kept.
    pub fn text(&self) -> String {
        document::text(self)
    }

    /// The JSON Schema of summaries, as it is kept in `schema/summary.schema.json`.
    pub fn schema() -> String {
        document::schema::<Self>()
    }
}

impl From<&StageAccount> for AccountSummary {
    fn from(account: &StageAccount) -> Self {
        Self {
            rows_in: account.rows_in,
            rows_out: account.rows_out,
            rejected: account.rejected,
            skipped: account.skipped,
            batches: account.batches,
            reused: account.reused,
            rows_spared: account.rows_spared,
            retries: account.retries,
            peak_attempts: account.peak_attempts,
            busy_seconds: seconds(account.busy),
            waited_for_input_seconds: seconds(account.waited_for_input),
            waited_for_output_seconds: seconds(account.waited_for_output),
            waited_for_worker_seconds: seconds(account.waited_for_worker),
            waited_for_resource_seconds: seconds(account.waited_for_resource),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `millpond schema --of summary > schema/summary.schema.json` brings it up to date.
    #[test]
    fn the_schema_in_the_repository_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/schema/summary.schema.json");
        let kept = std::fs::read_to_string(path).expect("the schema is in the repository");
        assert!(kept == RunSummary::schema(), "run `millpond schema --of summary` into schema/summary.schema.json");
    }
}
