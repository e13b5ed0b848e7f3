//! Earlier runs of a random history: what they have done of a batch, and what is kept for later ones.

use std::sync::atomic::Ordering;

use proptest::prelude::*;

use super::{Fake, KEPT, Lane, PARTLY, RECALLED, failure, is_poison};
use crate::plan::{StageId, Verdict};
use crate::run::scheduler::*;

impl Fake<'_> {
    /// Perhaps an earlier run has done the batch.
    pub(super) fn recall(&mut self, stage: StageId, sequence: u64, batch: Meta) {
        assert!(self.shapes[stage.index()].checkpoint);
        if self.rng.random_bool(0.3)
            && let Some(left) = self.leave_some(stage, sequence, batch)
        {
            PARTLY.fetch_add(1, Ordering::Relaxed);
            let bytes = (batch.rows - left.rows) * self.shapes[stage.index()].weight;
            let known = Some(Recalled::Partly { left, bytes });
            self.push(Lane::Batch(stage, sequence), Event::Recalled { stage, sequence, known });
            return;
        }
        let (good, _) = self.outcome_of(stage, batch.id);
        let cannot_be_done = self.shapes[stage.index()].fails && good.iter().any(|row| is_poison(*row));
        let known = (!cannot_be_done && self.rng.random_bool(0.5)).then(|| {
            RECALLED.fetch_add(1, Ordering::Relaxed);
            let is_bad = |row: u64| self.shapes[stage.index()].rejects && is_poison(row);
            let places = self.batches[&batch.id].iter().enumerate().filter(|(_, row)| is_bad(**row));
            let places = places.map(|(at, _)| at as u64);
            let reject = |at| Reject { rows: at..at + 1, failure: failure(Verdict::Exception) };
            let rejects = places.map(reject).collect();
            self.may_be_as_large_as(stage, batch);
            Recalled::Whole { outputs: self.make_some(stage, good), rejects }
        });
        self.push(Lane::Batch(stage, sequence), Event::Recalled { stage, sequence, known });
    }

    /// Perhaps an earlier run has done some rows of the batch, but none that fails.
    fn leave_some(&mut self, stage: StageId, sequence: u64, batch: Meta) -> Option<Meta> {
        let edge = *self.on_edge.get(&batch.id)?;
        let rows = self.batches[&batch.id].clone();
        let left: Vec<u64> = rows.iter().copied().filter(|row| is_poison(*row) || self.rng.random_bool(0.3)).collect();
        if left.is_empty() || left.len() == rows.len() {
            return None;
        }
        self.may_be_as_large_as(stage, batch);
        self.batches.remove(&batch.id);
        self.partly.insert((stage, sequence), rows);
        let weight = batch.bytes / batch.rows;
        let left = self.store(left, weight);
        self.on_edge.insert(left.id, edge);
        Some(left)
    }

    /// What is kept is what the batch gives. If an earlier run has done some of it, it is told what all of it gives.
    pub(super) fn keep(&mut self, stage: StageId, sequence: u64, batch: Meta, outputs: &[Output], rejects: &[Reject]) {
        assert!(self.shapes[stage.index()].checkpoint);
        let (good, bad) = self.outcome_of(stage, batch.id);
        let given: Vec<u64> = outputs.iter().flat_map(|output| self.batches[&output.batch.id].clone()).collect();
        let rejected: Vec<u64> =
            rejects.iter().flat_map(|reject| self.rows_of(batch.id, vec![reject.rows.clone()])).collect();
        assert_eq!((given, rejected), (good, bad), "kept of {stage:?}");
        KEPT.fetch_add(1, Ordering::Relaxed);
        let together = self.partly.remove(&(stage, sequence)).map(|rows| {
            outputs.iter().for_each(|output| drop(self.batches.remove(&output.batch.id)));
            let rejects = self.shapes[stage.index()].rejects;
            self.make_some(stage, rows.into_iter().filter(|row| !rejects || !is_poison(*row)).collect())
        });
        self.push(Lane::Batch(stage, sequence), Event::Kept { stage, sequence, outputs: together });
    }

    /// What a stage that works batch by batch gives for a batch, and what it rejects.
    fn outcome_of(&self, stage: StageId, batch: BatchId) -> (Vec<u64>, Vec<u64>) {
        let rejects = self.shapes[stage.index()].rejects;
        self.batches[&batch].iter().copied().partition(|row| !rejects || !is_poison(*row))
    }
}
