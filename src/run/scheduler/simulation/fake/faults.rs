//! What goes wrong in a random history: workers that die or are replaced, outputs that are lost.

use std::sync::atomic::Ordering;
use std::time::Duration;

use proptest::prelude::*;

use super::{Fake, Kind, Lane, THROTTLED, failure};
use crate::plan::Verdict;
use crate::run::scheduler::*;

impl Fake<'_> {
    /// Sometimes what an attempt has given is lost, or its function asks for fewer calls.
    pub(super) fn loses(&mut self, event: Event) -> Event {
        let Event::AttemptDone { attempt, outputs, .. } = &event else { return event };
        let is_map = matches!(self.shapes[self.attempts[attempt].index()].kind, Kind::Map(_));
        if !is_map || self.losses == 0 || !self.rng.random_bool(0.1) {
            return event;
        }
        self.losses -= 1;
        for output in outputs {
            self.batches.remove(&output.batch.id);
        }
        let (attempt, failure) = (*attempt, failure(Verdict::Exception));
        if !matches!(self.busy.get(&attempt), Some(Host::Worker(_))) || self.rng.random_bool(0.5) {
            return Event::AttemptLost { attempt, failure };
        }
        THROTTLED.fetch_add(1, Ordering::Relaxed);
        let wait = self.rng.random_bool(0.5).then(|| Duration::from_millis(self.rng.random_range(0..2000)));
        Event::AttemptThrottled { attempt, wait, failure }
    }

    /// The worker that has too much memory after the attempt that ends in this lane, if one is still to be replaced.
    pub(super) fn replaces_in(&mut self, lane: Lane) -> Option<WorkerId> {
        let Lane::Attempt(attempt) = lane else { return None };
        let Some(Host::Worker(worker)) = self.busy.get(&attempt).copied() else { return None };
        // One whose state is spoilt ends anyway.
        if !self.workers.contains(&worker) {
            return None;
        }
        let is_end = matches!(self.lanes[&lane][0], Event::AttemptDone { .. } | Event::AttemptFailed { .. });
        if !is_end || self.replaced == 0 || !self.rng.random_bool(0.2) || !self.ending_workers.insert(worker) {
            return None;
        }
        self.replaced -= 1;
        Some(worker)
    }

    /// Perhaps a worker is killed, or all fall with the engine's template.
    pub(super) fn deaths(&mut self) {
        if self.workers.is_empty() || !self.rng.random_bool(0.05) {
            return;
        }
        if self.falls > 0 && self.rng.random_bool(0.3) {
            let starting = self.workers.iter().any(|worker| self.is_starting(*worker));
            if !starting || self.spend_failed_start() {
                self.falls -= 1;
                self.workers.clone().into_iter().for_each(|worker| self.dies(worker, ExitCause::Engine));
            }
        } else if self.kills > 0 {
            let at = self.rng.random_range(0..self.workers.len());
            let worker = *self.workers.iter().nth(at).expect("counted");
            // A row that is killed alone again and again is rightly blamed.
            let spared = self.running_on(worker).is_some_and(|attempt| self.single.contains(&attempt));
            if !spared && (!self.is_starting(worker) || self.spend_failed_start()) {
                self.kills -= 1;
                self.dies(worker, ExitCause::Own);
            }
        }
    }

    fn is_starting(&self, worker: WorkerId) -> bool {
        self.lanes.contains_key(&Lane::Worker(worker))
    }

    pub(super) fn running_on(&self, worker: WorkerId) -> Option<AttemptId> {
        self.busy.iter().find(|(_, host)| **host == Host::Worker(worker)).map(|(attempt, _)| *attempt)
    }

    /// Too many starts that fail in a row rightly end the run.
    fn spend_failed_start(&mut self) -> bool {
        let left = self.failed_starts > 0;
        self.failed_starts = self.failed_starts.saturating_sub(1);
        left
    }

    /// The scheduler learns of it later; until then it may still give the worker an attempt.
    pub(super) fn dies(&mut self, worker: WorkerId, cause: ExitCause) {
        self.workers.remove(&worker);
        self.behind.remove(&worker);
        // What the worker would have given is lost with it.
        let lost = self.running_on(worker).and_then(|attempt| self.lanes.remove(&Lane::Attempt(attempt)));
        for event in lost.unwrap_or_default() {
            if let Event::AttemptDone { outputs, .. } = event {
                outputs.iter().for_each(|output| drop(self.batches.remove(&output.batch.id)));
            }
        }
        let event = Event::WorkerExited { worker, failure: failure(Verdict::Crash), cause };
        self.lanes.insert(Lane::Worker(worker), vec![event]);
    }
}
