//! Attempts of a random history: where they run, and what they give.

use std::sync::atomic::Ordering;
use std::time::Duration;

use proptest::prelude::*;

use super::{Fake, JOINS, Kind, Lane, MapKind, QUEUED, SKIPPED, failure, index, is_poison};
use crate::plan::{StageId, Verdict};
use crate::run::scheduler::*;

impl Fake<'_> {
    pub(super) fn dispatch(&mut self, dispatch: Dispatch) {
        if let Host::Worker(worker) = dispatch.host
            && self.running_on(worker).is_some()
        {
            let is_lane = matches!(dispatch.work, Work::Lane { .. } | Work::FinishLane { .. });
            assert!(!is_lane, "an attempt of a lane waits behind another one");
            QUEUED.fetch_add(1, Ordering::Relaxed);
            let before = self.behind.insert(worker, dispatch);
            assert!(before.is_none(), "{worker:?} has three attempts");
            return;
        }
        let Dispatch { attempt, stage, sequence, host, work, .. } = dispatch;
        let shape = &self.shapes[stage.index()];
        let right = match shape.kind {
            Kind::Generator { .. } | Kind::Keyed | Kind::Map(MapKind::Worker) => matches!(host, Host::Worker(_)),
            Kind::Task | Kind::Map(MapKind::Process) => matches!(host, Host::Process | Host::NextProcess),
            _ => host == Host::Native,
        };
        assert!(right, "{:?} on {host:?}", shape.kind);
        if let Work::Rows { batch, .. } = &work {
            self.may_be_as_large_as(stage, *batch);
        }
        if host == Host::NextProcess {
            let on_workers = self.busy.values().any(|host| matches!(host, Host::Worker(_)));
            assert!(!on_workers, "sent ahead, while a worker may want the slot");
        } else {
            self.busy.insert(attempt, host);
        }
        self.attempts.insert(attempt, stage);
        if let (Host::Worker(worker), Work::Lane { lane, .. } | Work::FinishLane { lane }) = (host, &work) {
            let state = self.states.entry(worker).or_insert((stage, *lane, sequence));
            assert_eq!(
                *state,
                (stage, *lane, sequence),
                "{worker:?} has the state of another lane, or of another time"
            );
            state.2 += 1;
        }
        if matches!(host, Host::Worker(worker) if !self.workers.contains(&worker)) {
            return;
        }
        if let Host::Worker(worker) = host
            && self.opened.insert((worker, stage))
        {
            let at_once = shape.at_once();
            self.push(Lane::Attempt(attempt), Event::Opened { stage, at_once });
        }
        let event = match work {
            Work::Rows { batch, rows, is_part, budget } => {
                assert!(!is_part || shape.row_micros.is_some(), "{stage:?} sees whole batches");
                self.run_rows(attempt, stage, self.rows_of(batch.id, rows), is_part, budget)
            }
            Work::Join { batch, rows, parts } => {
                JOINS.fetch_add(1, Ordering::Relaxed);
                let rows = self.rows_of(batch.id, rows);
                assert!(parts.iter().all(|part| self.parts.contains(&part.id)), "a batch of its own is joined");
                let joined: Vec<u64> = parts.iter().flat_map(|part| self.batches[&part.id].clone()).collect();
                assert_eq!(joined, rows, "the parts are not what the rows gave");
                let given = rows.len() as u64;
                let outputs = vec![Output { port: 0, batch: self.make(stage, rows) }];
                done(attempt, given, outputs, false)
            }
            Work::Lane { batch, lane } => {
                self.may_be_as_large_as(stage, batch);
                let lanes = index(self.plan.lanes(self.plan.stage(stage)).into());
                let all = &self.batches[&batch.id];
                let [from, to] = [index(lane.into()), index(lane.into()) + 1].map(|lane| lane * all.len() / lanes);
                let rows = all[from..to].to_vec();
                match rows.iter().find(|row| shape.fails && is_poison(**row)) {
                    Some(row) => {
                        self.state_is_spoilt(attempt, host, format!("boom at {row}"));
                        return;
                    }
                    None => {
                        let given = rows.len() as u64;
                        let outputs = self.make_some(stage, rows);
                        let outputs = self.with_updates(stage, outputs);
                        done(attempt, given, outputs, false)
                    }
                }
            }
            Work::FinishLane { .. } => done(attempt, 0, Vec::new(), false),
            Work::Pull => {
                let Kind::Generator { rows } = shape.kind else { panic!("not a generator") };
                let pulls = self.pulls.entry((stage, sequence)).or_default();
                *pulls += 1;
                if *pulls == 3 {
                    self.single.insert(attempt);
                }
                let (from, to) = (sequence * 7, (sequence * 7 + 7).min(rows));
                let given = (from..to).map(|row| row + stage.index() as u64 * 1000).collect::<Vec<_>>();
                let outputs = self.make_some(stage, given);
                let outputs = self.with_updates(stage, outputs);
                done(attempt, 0, outputs, to == rows)
            }
            Work::Task => {
                assert!(self.tasks.insert(stage), "a task runs once");
                done(attempt, 0, Vec::new(), true)
            }
        };
        if self.is_filter(stage) && self.rng.random_bool(0.3) {
            self.push(Lane::Attempt(attempt), Event::AttemptWaits { attempt });
        }
        if host == Host::NextProcess {
            self.waiting.push_back((attempt, event));
            self.start_waiting();
        } else {
            self.push(Lane::Attempt(attempt), event);
        }
    }

    /// An attempt of these rows, which may end early if it has a budget.
    fn run_rows(
        &mut self,
        attempt: AttemptId,
        stage: StageId,
        mut rows: Vec<u64>,
        is_part: bool,
        budget: Option<Duration>,
    ) -> Event {
        let shape = &self.shapes[stage.index()];
        let asked = rows.len();
        if shape.row_micros.is_some() && budget.is_some() && self.rng.random_bool(0.5) {
            rows.truncate(self.rng.random_range(1..=asked));
        }
        if rows.len() == 1 {
            self.single.insert(attempt);
        }
        let given = rows.len() as u64;
        let mut failed = Vec::new();
        if shape.row_micros.is_some() && shape.rejects && !shape.fails && self.rng.random_bool(0.5) {
            let bad = rows.iter().enumerate().filter(|(_, row)| is_poison(**row));
            failed.extend(bad.map(|(place, _)| (place as u64, failure(Verdict::Exception))));
            rows.retain(|row| !is_poison(*row));
            SKIPPED.fetch_add(failed.len() as u64, Ordering::Relaxed);
        }
        if (shape.has_rejects() || shape.fails) && rows.iter().copied().any(is_poison) {
            return Event::AttemptFailed { attempt, failure: failure(Verdict::Exception) };
        }
        let at_once = shape.at_once().map_or(1, |rows| u64::from(rows.get()));
        let spent = Duration::from_micros(shape.row_micros.unwrap_or(0) * given.div_ceil(at_once));
        let is_part = is_part || (given as usize) < asked;
        let output = Output { port: 0, batch: self.make(stage, rows) };
        if is_part {
            self.parts.insert(output.batch.id);
        }
        let outputs = self.with_updates(stage, vec![output]);
        Event::AttemptDone { attempt, rows: given, outputs, end: false, spent, failed }
    }

    pub(super) fn rows_of(&self, batch: BatchId, rows: Vec<std::ops::Range<u64>>) -> Vec<u64> {
        let all = &self.batches[&batch];
        rows.into_iter().flatten().map(|row| all[index(row)]).collect()
    }

    /// What the slices or lanes of a batch give lies there together, before it is one batch.
    pub(super) fn may_be_as_large_as(&mut self, stage: StageId, batch: Meta) {
        let bytes = batch.rows * self.shapes[stage.index()].weight;
        for edge in self.plan.stage(stage).ports.iter().flat_map(|port| &port.edges) {
            let cutter = self.cutters.entry(*edge).or_default();
            cutter.largest_bytes = cutter.largest_bytes.max(bytes);
        }
    }

    /// An attempt of a lane fails: its worker is given nothing more.
    fn state_is_spoilt(&mut self, attempt: AttemptId, host: Host, message: String) {
        let Host::Worker(worker) = host else { panic!("a lane is in a worker") };
        self.workers.remove(&worker);
        let lane = Lane::Attempt(attempt);
        self.push(lane, Event::WorkerRetired { worker });
        self.push(lane, Event::AttemptFailed { attempt, failure: Failure { message, ..failure(Verdict::Exception) } });
        let failure = failure(Verdict::Crash);
        self.push(lane, Event::WorkerExited { worker, failure, cause: ExitCause::Engine });
    }

    /// A process that was sent ahead has a slot as soon as there is one, whatever the scheduler knows by then.
    pub(super) fn start_waiting(&mut self) {
        while self.busy.values().filter(|host| **host != Host::Native).count() < index(self.plan.workers.into())
            && let Some((attempt, event)) = self.waiting.pop_front()
        {
            self.busy.insert(attempt, Host::Process);
            self.push(Lane::Attempt(attempt), event);
        }
    }
}

fn done(attempt: AttemptId, rows: u64, outputs: Vec<Output>, end: bool) -> Event {
    Event::AttemptDone { attempt, rows, outputs, end, spent: Duration::ZERO, failed: Vec::new() }
}
