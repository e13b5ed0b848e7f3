//! Recall: batches that an earlier run has done (`checkpoint`). Before such a stage begins a batch, the executor is asked whether it is
//! known what comes of it; and what was done is kept before it is published.
//!
//! Neither takes a slot or a worker: where all is known, none is started.

use std::collections::BTreeMap;

use super::action::{Action, Reject};
use super::event::{Meta, Output};
use super::scheduler::Scheduler;
use super::stage_state::{Keeping, Slice, SliceId, Step};
use crate::plan::StageId;

/// What came of a batch in an earlier run.
#[derive(Clone, Debug)]
pub enum Recalled {
    Whole {
        outputs: Vec<Output>,
        rejects: Vec<Reject>,
    },
    /// Of some of its rows. `left` are the others, as a batch that takes the place of the whole one, which is gone.
    Partly {
        left: Meta,
        /// What the executor keeps until it is put together with what comes of the others.
        bytes: u64,
    },
}

/// The part of a batch that need not be worked on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spared {
    pub rows: u64,
    /// Of the batch, beyond those of the part that is left.
    pub input_bytes: u64,
    /// Of what came of it.
    pub output_bytes: u64,
}

impl Scheduler {
    pub(super) fn is_checkpoint(&self, stage: StageId) -> bool {
        self.plan.stage(stage).checkpoint.is_some()
    }

    /// Asks for the batches that have come, as far as there is credit for what is known of them, but for no more at once than can be
    /// looked up, or worked on if nothing is known.
    pub(super) fn recall_batches(&mut self, stage: StageId) {
        let workers = self.plan.workers;
        let look_ups = self.plan.stage(stage).checkpoint.as_ref().map_or(workers, |kept| kept.look_ups(workers));
        loop {
            let jobs = self.jobs(stage);
            let is_enough = jobs.recalling >= look_ups || jobs.ready.len() >= 2 * workers as usize;
            if is_enough || jobs.failed || jobs.exhausted || jobs.jobs.len() >= self.window(stage) {
                return;
            }
            let Some(edge) = self.current_edge(stage, 0) else { return };
            let Some(meta) = self.queues[edge.index()].front().copied() else { return };
            if !self.admits(stage, Some(&meta)) {
                return;
            }
            let SliceId { sequence, .. } = self.new_job(stage);
            self.jobs(stage).recalling += 1;
            self.actions.push(Action::Recall { stage, sequence, batch: meta });
            self.pass_empty_batches(stage);
        }
    }

    /// It is known now whether the batch was done before.
    pub(super) fn recalled(&mut self, stage: StageId, sequence: u64, known: Option<Recalled>) {
        let id = SliceId { sequence, first: 0 };
        self.jobs(stage).recalling -= 1;
        self.touch(stage);
        match known {
            Some(Recalled::Partly { left, bytes }) => {
                let job = self.job(stage, sequence);
                let (edge, whole) = job.input.expect("only batches are recalled");
                job.spared = Some(Spared {
                    rows: whole.rows - left.rows,
                    input_bytes: whole.bytes.saturating_sub(left.bytes),
                    output_bytes: bytes,
                });
                job.input = Some((edge, left));
                job.slices = BTreeMap::from([(0, Slice::new(0..left.rows))]);
                self.charge_at_least(stage, sequence, bytes);
                if self.is_wanted(stage, id) {
                    self.again(stage, id);
                }
            }
            Some(Recalled::Whole { outputs, rejects }) => {
                let job = self.job(stage, sequence);
                job.keeping = Keeping::Recalled;
                let rows = job.rows() - rejects.iter().map(Reject::count).sum::<u64>();
                self.slice(stage, id).rejects = rejects;
                self.slice_done(stage, id, rows, outputs);
            }
            // What comes after a failure for good is not begun.
            None if self.is_wanted(stage, id) => self.again(stage, id),
            None => {}
        }
    }

    /// A batch is done: what came of it is to be kept, if it has not come from there.
    pub(super) fn keep(&mut self, stage: StageId, sequence: u64) {
        if !self.is_checkpoint(stage) || self.job(stage, sequence).keeping == Keeping::Recalled {
            return;
        }
        let job = self.job(stage, sequence);
        let Some((_, batch)) = job.input else { return };
        job.keeping = Keeping::Asked;
        let (outputs, rejects) = job.given();
        self.jobs(stage).keeping += 1;
        self.actions.push(Action::Keep { stage, sequence, batch, outputs, rejects });
    }

    /// What came of a batch is kept. `outputs` are what came of the whole batch, if a part of that was recalled.
    pub(super) fn kept(&mut self, stage: StageId, sequence: u64, outputs: Option<Vec<Output>>) {
        self.jobs(stage).keeping -= 1;
        self.job(stage, sequence).keeping = Keeping::No;
        if let Some(outputs) = outputs {
            self.put_together(stage, sequence, outputs);
        }
        self.touch(stage);
    }

    fn put_together(&mut self, stage: StageId, sequence: u64, together: Vec<Output>) {
        let job = self.job(stage, sequence);
        let whole = job.slices.get_mut(&0).expect("slices are joined when they are done");
        if let Step::Done { outputs, .. } = &mut whole.step {
            *outputs = together;
        }
        self.correct_to_outputs(stage, sequence);
    }
}
