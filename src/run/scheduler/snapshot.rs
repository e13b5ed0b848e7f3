//! [`Snapshot`]: what can be asked of a scheduler while the run goes on.

use std::collections::BTreeSet;

use super::clock::Activity;
use super::scheduler::Scheduler;
use super::stage_state::{Phase, ResidentInput, StageState, Work};
use crate::plan::{EdgeId, StageId};
use crate::run::{EdgeAccount, StageAccount};

/// What a run is doing at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// By [`StageId`].
    pub stages: Vec<StageSnapshot>,
    /// Workers and processes that run an attempt.
    pub workers: u32,
    /// Locks and the like, and how many workers wait for each. The executor knows.
    pub waited_for: Vec<(String, usize)>,
}

#[derive(Clone, Debug)]
pub struct StageSnapshot {
    pub stage: StageId,
    pub rows_in: u64,
    pub rows_out: u64,
    /// Rows rejected or skipped.
    pub rejected: u64,
    pub retries: u64,
    /// Attempts running now; 1 for a resident stage that works.
    pub running: u32,
    /// The fullest queue in front of the stage, 0 to 1.
    pub queue_fill: f64,
    pub activity: Activity,
}

impl Scheduler {
    /// Who waits for whom: a line for each stage that has not ended.
    pub(super) fn waiting(&self) -> Vec<String> {
        let waiting = self.stages.iter().zip(&self.plan.stages).filter(|(state, _)| state.phase != Phase::Ended);
        waiting.map(|(state, stage)| format!("`{}` {}", stage.name, self.awaited(state, stage))).collect()
    }

    fn awaited(&self, state: &StageState, stage: &crate::plan::Stage) -> String {
        let names = |stages: &mut dyn Iterator<Item = StageId>| {
            let names: BTreeSet<String> = stages.map(|id| format!("`{}`", self.plan.stage(id).name)).collect();
            names.into_iter().collect::<Vec<_>>().join(", ")
        };
        let mut inputs = stage.inputs.iter().flat_map(|input| &input.members).map(|id| self.plan.edge(*id));
        let full = |edge: &&EdgeId| !self.queues[edge.index()].admits(0);
        let mut outputs = stage.ports.iter().flat_map(|port| &port.edges).filter(full).map(|id| self.plan.edge(*id));
        match state.clock.activity() {
            Activity::Busy => "is at work".to_owned(),
            Activity::WaitsForInput => {
                format!("waits for input from {}", names(&mut inputs.by_ref().map(|edge| edge.from)))
            }
            Activity::WaitsForOutput => {
                format!("waits for room in front of {}", names(&mut outputs.by_ref().map(|edge| edge.to)))
            }
            Activity::WaitsForWorker => "waits for a worker".to_owned(),
            Activity::WaitsForResource => {
                let name = |of: &crate::plan::Use| format!("`{}`", self.plan.resources[of.resource.index()].name);
                format!("waits for {}", stage.uses.iter().map(name).collect::<Vec<_>>().join(", "))
            }
            Activity::WaitsForStage => format!("waits for the end of {}", names(&mut stage.after.iter().copied())),
            Activity::Over => "is over".to_owned(),
        }
    }

    /// The accounts of all stages and edges, as they stand.
    pub fn accounts(&self) -> (Vec<StageAccount>, Vec<EdgeAccount>) {
        let stages = self.stages.iter().map(|state| state.account.clone()).collect();
        let edges = self.queues.iter().map(|queue| EdgeAccount {
            published: queue.published_rows,
            consumed: queue.consumed_rows,
            closed_early: queue.is_closed(),
        });
        (stages, edges.collect())
    }

    pub fn workers_started(&self) -> u32 {
        self.workers_started
    }

    /// What the run is doing right now, for the live views.
    pub fn snapshot(&self) -> Snapshot {
        let stages = self.stages.iter().zip(&self.plan.stages).map(|(state, stage)| StageSnapshot {
            stage: stage.id,
            rows_in: state.account.rows_in,
            rows_out: state.account.rows_out,
            rejected: state.account.rows_failed(),
            retries: state.account.retries,
            running: state.running(),
            queue_fill: stage
                .inputs
                .iter()
                .flat_map(|input| &input.members)
                .map(|edge| self.queues[edge.index()].fill())
                .fold(0.0, f64::max),
            activity: state.clock.activity(),
        });
        Snapshot { stages: stages.collect(), workers: self.busy_slots, waited_for: Vec::new() }
    }
}

impl StageState {
    pub(super) fn running(&self) -> u32 {
        match &self.work {
            Work::Jobs(jobs) => jobs.running,
            Work::Keyed(keyed) => keyed.running(),
            Work::Resident(resident) => {
                let fed = resident.inputs.iter().any(|input| matches!(input, ResidentInput::Fed(..)));
                u32::from(resident.pull.is_some() || fed)
            }
        }
    }
}
