//! Resident stages: fed batch by batch and pulled batch by batch, one at a time.

use super::action::Action;
use super::clock::Activity;
use super::event::{Output, Unread};
use super::scheduler::{Scheduler, release};
use super::stage_state::{Phase, Resident, ResidentInput, Work};
use crate::plan::StageId;

impl Scheduler {
    pub(super) fn step_resident(&mut self, stage: StageId) {
        if self.stages[stage.index()].phase != Phase::Running {
            return;
        }
        let has_ports = !self.plan.stage(stage).ports.is_empty();
        if has_ports && self.is_unwanted(stage) && !self.resident(stage).closing {
            self.resident(stage).closing = true;
            for input in 0..self.stages[stage.index()].inputs.len() {
                self.close_input(stage, input);
            }
            self.actions.push(Action::Close { stage });
        }
        if self.resident(stage).closing {
            return;
        }
        let starved = !self.feed(stage);
        let mut activity = if starved { Activity::WaitsForInput } else { Activity::Busy };
        if has_ports && self.resident(stage).pull.is_none() {
            match self.reserve(stage, None) {
                Some(reservations) => {
                    self.resident(stage).pull = Some(reservations);
                    self.actions.push(Action::Pull { stage });
                }
                None => activity = Activity::WaitsForOutput,
            }
        }
        self.enter(stage, activity);
    }

    /// Feeds every input that waits. Returns whether the stage has something to work on.
    fn feed(&mut self, stage: StageId) -> bool {
        let inputs = self.stages[stage.index()].inputs.len();
        let mut has_work = inputs == 0;
        for input in 0..inputs {
            if self.resident(stage).inputs[input] == ResidentInput::Waiting {
                if self.current_edge(stage, input).is_none() {
                    self.resident(stage).inputs[input] = ResidentInput::Over;
                    self.actions.push(Action::EndInput { stage, input });
                } else if let Some((edge, meta)) = self.take(stage, input) {
                    self.resident(stage).inputs[input] = ResidentInput::Fed(edge, meta.bytes);
                    self.actions.push(Action::Feed { stage, input, batch: meta.id });
                }
            }
            has_work |= self.resident(stage).inputs[input] != ResidentInput::Waiting;
        }
        has_work
    }

    pub(super) fn resident_took(&mut self, stage: StageId, input: usize, rows: u64) {
        let slot = &mut self.resident(stage).inputs[input];
        let ResidentInput::Fed(edge, bytes) = *slot else { return };
        *slot = ResidentInput::Waiting;
        self.queues[edge.index()].done_with(rows, bytes);
        self.touch(self.plan.edge(edge).from);
        let account = &mut self.stages[stage.index()].account;
        account.rows_in += rows;
        account.batches += 1;
        self.touch(stage);
    }

    pub(super) fn resident_produced(&mut self, stage: StageId, outputs: &[Output], unread: Option<Unread>) {
        let mut reservations = self.resident(stage).pull.take().unwrap_or_default();
        let rejected = self.plan.stage(stage).rejected_port();
        let rejected = rejected.zip(unread.as_ref().map(|unread| unread.batch.bytes));
        let given = outputs.iter().map(|output| (output.port, output.batch.bytes)).chain(rejected);
        let given: Vec<(usize, u64)> = given.collect();
        let bytes = |port| given.iter().filter(|(of, _)| *of == port).map(|(_, bytes)| bytes).sum();
        self.correct(stage, &mut reservations, bytes);
        let sequence = self.stages[stage.index()].account.batches;
        for output in outputs {
            let state = &mut self.stages[stage.index()];
            state.estimate.learn(None, output.batch.bytes);
            state.account.rows_out += output.batch.rows;
            if state.inputs.is_empty() {
                state.account.batches += 1;
            }
            let action = Action::Publish { stage, port: output.port, batch: output.batch.id };
            self.publish(stage, output.port, output.batch.rows, &mut reservations, action);
        }
        if let Some(Unread { batch, rejects }) = unread {
            if !self.settle_rejects(stage, sequence, batch.id, rejects, &mut reservations) {
                return;
            }
            self.actions.push(release(batch.id));
        }
        self.release(stage, reservations);
        self.touch(stage);
    }

    pub(super) fn resident_ended(&mut self, stage: StageId) {
        if !self.keeps_to_budget(stage) {
            return;
        }
        let reservations = self.resident(stage).pull.take().unwrap_or_default();
        self.release(stage, reservations);
        for input in 0..self.stages[stage.index()].inputs.len() {
            // A query that is done before its inputs are: nobody reads them any more.
            if self.resident(stage).inputs[input] != ResidentInput::Over {
                self.close_input(stage, input);
            }
        }
        self.finish_ports(stage);
    }

    fn resident(&mut self, stage: StageId) -> &mut Resident {
        match &mut self.stages[stage.index()].work {
            Work::Resident(resident) => resident,
            Work::Jobs(_) | Work::Keyed(_) => unreachable!("`{}` works batch by batch", self.plan.stage(stage).name),
        }
    }
}
