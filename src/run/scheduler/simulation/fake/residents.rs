//! Resident stages of a random history: what they read, and what they give.

use std::sync::atomic::Ordering;

use proptest::prelude::*;

use super::{Fake, Kind, Lane, UNREAD, failure, index, is_poison};
use crate::plan::{StageId, Verdict};
use crate::run::scheduler::*;

impl Fake<'_> {
    /// Lets a source or a query do what it can.
    pub(super) fn go_on(&mut self, stage: StageId) {
        if self.residents.entry(stage).or_default().ended {
            return;
        }
        match self.shapes[stage.index()].kind {
            Kind::Source { rows } => self.read(stage, rows),
            Kind::Limit { rows } => self.take_some(stage, rows),
            _ => self.join(stage),
        }
    }

    fn read(&mut self, stage: StageId, rows: u64) {
        let batch = self.rng.random_range(2..30);
        let resident = self.residents.entry(stage).or_default();
        let (from, to) = (resident.given, (resident.given + batch).min(rows));
        if from == to {
            self.end(stage);
            return;
        }
        resident.given = to;
        let rows = (from..to).map(|row| row + stage.index() as u64 * 1000);
        let rejects = self.shapes[stage.index()].has_rejects();
        let (bad, good): (Vec<u64>, Vec<u64>) = rows.partition(|&row| rejects && is_poison(row));
        let unread = (!bad.is_empty()).then(|| {
            UNREAD.fetch_add(bad.len() as u64, Ordering::Relaxed);
            let failures = vec![failure(Verdict::Schema); bad.len()];
            Unread::new(self.store(bad, 1), failures)
        });
        // As executors do it, also without rows.
        let outputs = vec![Output { port: 0, batch: self.make(stage, good) }];
        self.push(Lane::Stage(stage), Event::Produced { stage, outputs, unread });
    }

    /// Takes batches until it has enough rows, and closes its input; then it gives them all at once.
    fn take_some(&mut self, stage: StageId, limit: u64) {
        let early = self.rng.random_bool(0.5);
        let resident = self.residents.entry(stage).or_default();
        let (taken, over) = resident.fed.entry(0).or_default();
        if let Some(rows) = resident.waiting.remove(&0) {
            let given = rows.len() as u64;
            taken.extend(rows);
            if taken.len() as u64 >= limit {
                // Sometimes it is only its end that tells that it wants no more.
                *over = true;
                if early {
                    self.push(Lane::Stage(stage), Event::InputClosed { stage, input: 0 });
                }
            } else {
                self.push(Lane::Stage(stage), Event::Taken { stage, input: 0, rows: given });
            }
        }
        let resident = self.residents.entry(stage).or_default();
        let (taken, over) = &resident.fed[&0];
        if !over || !resident.pulled {
            return;
        }
        resident.pulled = false;
        if std::mem::replace(&mut resident.emitted, true) {
            self.end(stage);
        } else {
            let rows = taken[..taken.len().min(index(limit))].to_vec();
            self.produce(stage, rows);
        }
    }

    fn join(&mut self, stage: StageId) {
        let inputs = self.shapes[stage.index()].from.len();
        let resident = self.residents.entry(stage).or_default();
        // The last input first, whatever comes in on the others.
        for input in (0..inputs).rev() {
            if let Some(rows) = resident.waiting.remove(&input) {
                let event = Event::Taken { stage, input, rows: rows.len() as u64 };
                resident.fed.entry(input).or_default().0.extend(rows);
                self.lanes.entry(Lane::Stage(stage)).or_default().push(event);
            }
            if !resident.fed.get(&input).is_some_and(|(_, over)| *over) {
                return;
            }
        }
        if !std::mem::take(&mut resident.pulled) {
            return;
        }
        if std::mem::replace(&mut resident.emitted, true) {
            self.end(stage);
        } else {
            let rows = (0..inputs).rev().flat_map(|input| resident.fed[&input].0.clone()).collect();
            self.produce(stage, rows);
        }
    }

    fn produce(&mut self, stage: StageId, rows: Vec<u64>) {
        let batch = self.make(stage, rows);
        self.push(
            Lane::Stage(stage),
            Event::Produced { stage, outputs: vec![Output { port: 0, batch }], unread: None },
        );
    }
}
