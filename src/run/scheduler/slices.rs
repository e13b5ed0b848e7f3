//! Slices: the batches of a stage whose function sees one row at a time may be attempted in parts, by several workers at once.
//!
//! How a batch is divided is a matter of time: [`Pace`] learns what a row takes, so that an attempt is neither so short that it is mostly
//! overhead nor so long that nothing is seen of it and a retry is dear; where rows wait side by side, a slice has several times as many as
//! may. What comes out is not: each slice gives its rows as the function
//! gave them, and when all of them have, one more attempt (the join) makes of them the batch that one attempt of all rows would have given.
//! A slice that keeps failing is halved, until the rows to blame stand alone; what passes stays as it is.

use std::num::NonZeroU32;
use std::ops::Range;
use std::time::Duration;

use super::MapHost;
use super::action::Reject;
use super::event::{Failure, Output};
use super::scheduler::{Scheduler, release};
use super::stage_state::{Role, Slice, SliceId, Step, Work};
use crate::plan::{Convention, OnError, Stage, StageId, StageKind, Verdict};

/// What a slice should take: long against its overhead, short for people who watch and for retries.
const AIM: Duration = Duration::from_millis(100);
/// What a slice may take before it ends early, whatever rows it has left.
const AT_MOST: Duration = Duration::from_millis(200);
/// The same as long as nothing is known of the function.
const AT_FIRST: Duration = Duration::from_millis(50);
/// How many times as many rows as may wait at once a slice has, where they are there: while it begins and ends, fewer wait.
const ROUNDS: u64 = 8;
/// The same where there is little left for the workers to share.
const FEWEST_ROUNDS: u64 = 2;
/// Rows that take less are not worth what it costs to hand them over one by one.
const FAST_ROW: Duration = Duration::from_micros(100);

/// What a row takes: a moving average.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    seconds: f64,
    rows: f64,
}

impl Pace {
    /// What is left of what was learned before, after one more attempt.
    const MEMORY: f64 = 0.7;

    pub fn learn(&mut self, rows: u64, spent: Duration) {
        self.seconds = self.seconds * Self::MEMORY + spent.as_secs_f64();
        self.rows = self.rows * Self::MEMORY + rows as f64;
    }

    /// `None` as long as nothing is known.
    fn seconds_per_row(self) -> Option<f64> {
        (self.rows > 0.0).then(|| self.seconds / self.rows)
    }

    /// Slices that so many rows are worth, for so many workers.
    fn slices(self, rows: u64, at_once: NonZeroU32, workers: u32) -> u64 {
        let Some(seconds) = self.seconds_per_row() else { return 1 };
        let total = seconds * rows as f64;
        if seconds < FAST_ROW.as_secs_f64() || total <= AT_MOST.as_secs_f64() {
            return 1;
        }
        let slices = ((total / AIM.as_secs_f64()).ceil() as u64).clamp(1, rows.max(1));
        let at_once = u64::from(at_once.get());
        if at_once == 1 {
            return slices;
        }
        let share = rows.div_ceil(u64::from(workers.max(1))).max(FEWEST_ROUNDS * at_once);
        rows.div_ceil(rows.div_ceil(slices).max(share.min(ROUNDS * at_once)))
    }

    /// Time after which an attempt is to end early.
    fn budget(self, at_once: NonZeroU32) -> Option<Duration> {
        let Some(seconds) = self.seconds_per_row() else { return Some(AT_FIRST) };
        if at_once.get() == 1 {
            return (seconds >= FAST_ROW.as_secs_f64()).then_some(AT_MOST);
        }
        // Twice of what a slice should take, as for rows that come one after the other.
        let rounds = Duration::from_secs_f64(seconds * f64::from(at_once.get()) * (2 * ROUNDS) as f64);
        Some(rounds.max(AT_MOST))
    }
}

/// What is known of how a stage's function sees its batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// As a whole.
    Batch,
    /// The workers that open the stage will tell.
    Unknown,
    /// Row by row, or `at_once` rows side by side: its batches may be sliced.
    Row { at_once: NonZeroU32 },
}

impl Sight {
    pub fn of(stage: &Stage, role: Role) -> Self {
        match &stage.kind {
            StageKind::Python(python) if matches!(role, Role::Map(_)) => match python.convention {
                Some(Convention::Row) => Self::Row { at_once: python.concurrency.unwrap_or(NonZeroU32::MIN) },
                None => Self::Unknown,
                Some(_) => Self::Batch,
            },
            _ => Self::Batch,
        }
    }

    fn at_once(self) -> NonZeroU32 {
        match self {
            Self::Row { at_once } => at_once,
            Self::Batch | Self::Unknown => NonZeroU32::MIN,
        }
    }
}

impl Scheduler {
    /// A worker has prepared the stage, and knows how its function sees batches.
    pub(super) fn opened(&mut self, stage: StageId, at_once: Option<NonZeroU32>) {
        let state = &mut self.stages[stage.index()];
        let told = at_once.map_or(Sight::Batch, |at_once| Sight::Row { at_once });
        if state.sight != Sight::Batch && state.sight != told {
            state.sight = told;
            self.touch(stage);
        }
    }

    pub(super) fn is_sliced(&self, stage: StageId) -> bool {
        matches!(self.stages[stage.index()].sight, Sight::Row { .. })
    }

    /// Slices that so many rows of the stage are worth, by what is known of them.
    fn slices_of(&self, stage: StageId, rows: u64) -> u64 {
        let state = &self.stages[stage.index()];
        let workers = self.plan.stage(stage).workers.max.get().min(self.plan.workers);
        state.pace.slices(rows, state.sight.at_once(), workers)
    }

    /// Attempts that the rows that are ready would make, but no more than `most`.
    pub(super) fn ready_slices(&self, stage: StageId, most: u32) -> u32 {
        let is_sliced = self.is_sliced(stage);
        let Work::Jobs(jobs) = &self.stages[stage.index()].work else { return 0 };
        let mut slices = 0;
        for id in &jobs.ready {
            let slice = &jobs.jobs[&id.sequence].slices[&id.first];
            slices += if is_sliced && slice.may_be_cut() { self.slices_of(stage, slice.len()) } else { 1 };
            if slices >= u64::from(most) {
                return most;
            }
        }
        slices as u32
    }

    /// Cuts the rows of the next attempt off a slice. The others become a slice of their own.
    pub(super) fn cut(&mut self, stage: StageId, id: SliceId) {
        let slice = self.slice(stage, id);
        let (len, may_be_cut) = (slice.len(), slice.may_be_cut());
        if !may_be_cut || !self.is_sliced(stage) {
            return;
        }
        let pace = self.stages[stage.index()].pace;
        let slices = match pace.seconds_per_row() {
            // For as many workers as are there for nothing.
            None => u64::from(self.idle_for(stage)).max(1),
            Some(_) => self.slices_of(stage, len),
        };
        let most = self.most_rows(stage);
        self.keep_first(stage, id, len.div_ceil(slices).min(most));
    }

    /// The slice goes on with its first `rows` rows only.
    fn keep_first(&mut self, stage: StageId, id: SliceId, rows: u64) {
        let slice = self.slice(stage, id);
        if rows >= slice.len() {
            return;
        }
        let middle = slice.rows.start + rows;
        let others = Slice { suspected: slice.suspected, ..Slice::new(middle..slice.rows.end) };
        slice.rows.end = middle;
        self.add_slice(stage, id.sequence, others);
    }

    fn add_slice(&mut self, stage: StageId, sequence: u64, slice: Slice) {
        let jobs = self.jobs(stage);
        let first = slice.rows.start;
        jobs.jobs.get_mut(&sequence).expect("its batch is being worked on").slices.insert(first, slice);
        jobs.ready.insert(SliceId { sequence, first });
        self.touch(stage);
    }

    fn idle_for(&self, stage: StageId) -> u32 {
        let Role::Map(MapHost::Worker(class)) = self.stages[stage.index()].role else { return 1 };
        self.pool.idle(class).min(self.plan.workers.saturating_sub(self.busy_slots))
    }

    /// When the next attempt of the slice is to end early.
    pub(super) fn budget(&mut self, stage: StageId, id: SliceId) -> Option<Duration> {
        let state = &self.stages[stage.index()];
        let (sight, pace) = (state.sight, state.pace);
        // So that a row which begins late has enough of it left.
        let half = self.plan.stage(stage).timeout.map_or(Duration::MAX, |timeout| timeout.attempt / 2);
        let slice = self.slice(stage, id);
        let is_new = matches!(slice.step, Step::Whole) && slice.tries.acquittals == 0;
        let may_end_early = is_new && sight != Sight::Batch && slice.len() > 1;
        if may_end_early { pace.budget(sight.at_once()).map(|budget| budget.min(half)) } else { None }
    }

    /// An attempt of a slice passed, but for rows that it rejects; it may have ended before its last row.
    pub(super) fn slice_passed(&mut self, stage: StageId, id: SliceId, rows: u64, passed: u64, outputs: Vec<Output>) {
        if self.slice(stage, id).has_budget && rows > 0 {
            self.keep_first(stage, id, rows);
        }
        self.slice_done(stage, id, passed, outputs);
    }

    /// All is decided about the rows of a slice.
    pub(super) fn slice_done(&mut self, stage: StageId, id: SliceId, rows: u64, outputs: Vec<Output>) {
        self.slice(stage, id).step = Step::Done { rows, outputs };
        let job = self.job(stage, id.sequence);
        if job.slices.len() == 1 {
            self.job_done(stage, id.sequence);
            return;
        }
        let are_done = job.slices.values().all(|slice| matches!(slice.step, Step::Done { .. }));
        self.charge_parts(stage, id.sequence);
        if are_done {
            self.join(stage, id.sequence);
        }
    }

    /// What the slices have given lies in memory until they are joined.
    pub(super) fn charge_parts(&mut self, stage: StageId, sequence: u64) {
        let job = self.job(stage, sequence);
        let given: u64 = job.slices.values().flat_map(Slice::outputs).map(|output| output.batch.bytes).sum();
        let spared = job.spared.map_or(0, |spared| spared.output_bytes);
        self.charge_at_least(stage, sequence, spared + given);
    }

    /// So many bytes that are to be published lie in memory.
    pub(super) fn charge_at_least(&mut self, stage: StageId, sequence: u64, given: u64) {
        let job = self.job(stage, sequence);
        let mut reservations = std::mem::take(&mut job.reservations);
        let rejected = self.plan.stage(stage).rejected_port();
        for (edge, reservation) in &mut reservations {
            if Some(self.plan.edge(*edge).port) != rejected {
                self.queues[edge.index()].correct_to_at_least(reservation, given);
            }
        }
        self.job(stage, sequence).reservations = reservations;
    }

    /// All slices of a batch are done: one more attempt makes one batch of what they gave.
    fn join(&mut self, stage: StageId, sequence: u64) {
        let job = self.job(stage, sequence);
        let all = 0..job.rows();
        let slices = std::mem::take(&mut job.slices);
        let mut joined = Slice::new(all);
        let (mut rows, mut parts, mut state) = (0, Vec::new(), Vec::new());
        for (_, slice) in slices {
            joined.tries.total = joined.tries.total.max(slice.tries.total);
            joined.rejects.extend(slice.rejects);
            let Step::Done { rows: given, outputs } = slice.step else {
                unreachable!("only slices that are done are joined")
            };
            rows += given;
            for output in outputs {
                if output.is_state() { state.push(output) } else { parts.push(output.batch) }
            }
        }
        if parts.is_empty() {
            joined.step = Step::Done { rows, outputs: state };
            job.slices.insert(0, joined);
            self.job_done(stage, sequence);
        } else {
            joined.step = Step::Join { rows, parts, state };
            self.add_slice(stage, sequence, joined);
        }
    }

    /// What the slices gave makes no batch, and would not have made one in a single attempt: the rows to blame are looked for among all of
    /// them, as if there had been no slices.
    pub(super) fn could_not_join(&mut self, stage: StageId, id: SliceId, failure: Failure) {
        let slice = self.slice(stage, id);
        slice.rejects.clear();
        let Step::Join { parts, state, .. } = std::mem::replace(&mut slice.step, Step::Whole) else { return };
        let given = parts.into_iter().chain(state.into_iter().map(|output| output.batch));
        self.actions.extend(given.map(|batch| release(batch.id)));
        self.blame(stage, id, failure);
    }

    /// A slice keeps failing: halves it, or blames its only row.
    pub(super) fn divide(&mut self, stage: StageId, id: SliceId, failure: Failure) {
        let on_error = self.plan.stage(stage).on_error;
        let slice = self.slice(stage, id);
        let rows = slice.rows.clone();
        if slice.len() > 1 {
            let middle = rows.start + slice.len() / 2;
            self.job(stage, id.sequence).slices.remove(&id.first);
            for rows in [rows.start..middle, middle..rows.end] {
                self.add_slice(stage, id.sequence, Slice { suspected: true, ..Slice::new(rows) });
            }
        } else if on_error == OnError::Fail {
            self.give_up(stage, id, failure, Some(rows));
        } else {
            slice.rejects = vec![Reject { rows, failure }];
            self.slice_done(stage, id, 0, Vec::new());
        }
    }
}

impl Slice {
    pub fn new(rows: Range<u64>) -> Self {
        Self {
            rows,
            step: Step::Whole,
            tries: super::stage_state::Tries::default(),
            rejects: Vec::new(),
            suspected: false,
            has_budget: false,
        }
    }

    pub fn len(&self) -> u64 {
        self.rows.end - self.rows.start
    }

    /// Rows that an attempt at the rows in `given` has failed for, by their places among those.
    pub fn reject(&mut self, failed: Vec<(u64, Failure)>, given: &[Range<u64>]) {
        for (place, failure) in failed {
            let mut left = place;
            let range = given.iter().find(|range| {
                let here = left < range.end - range.start;
                left -= if here { 0 } else { range.end - range.start };
                here
            });
            let row = range.expect("the row is one of them").start + left;
            self.rejects.push(Reject { rows: row..row + 1, failure });
        }
        self.rejects.sort_by_key(|reject| reject.rows.start);
    }

    /// A retry is of the same rows.
    fn may_be_cut(&self) -> bool {
        matches!(self.step, Step::Whole) && self.tries.total == 0
    }

    /// Rows that are tried to find those to blame have had their retries; only a crash may still come from outside.
    pub fn deserves_another(&self, verdict: Verdict) -> bool {
        !self.suspected || (self.len() == 1 && verdict == Verdict::Crash)
    }

    pub fn outputs(&self) -> &[Output] {
        match &self.step {
            Step::Done { outputs, .. } => outputs,
            _ => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(attempts: &[(u64, Duration)]) -> Pace {
        let mut pace = Pace::default();
        attempts.iter().for_each(|(rows, spent)| pace.learn(*rows, *spent));
        pace
    }

    const ONE: NonZeroU32 = NonZeroU32::MIN;

    #[test]
    fn slices_are_as_long_as_is_good_to_watch() {
        let unknown = pace(&[]);
        assert_eq!((unknown.slices(8192, ONE, 2), unknown.budget(ONE)), (1, Some(AT_FIRST)));
        let slow = pace(&[(1, Duration::from_secs(1))]);
        assert_eq!((slow.slices(100, ONE, 2), slow.slices(1, ONE, 2), slow.budget(ONE)), (100, 1, Some(AT_MOST)));
        let middling = pace(&[(4, Duration::from_millis(40))]);
        assert_eq!((middling.slices(100, ONE, 2), middling.slices(20, ONE, 2)), (10, 1));
        let fast = pace(&[(8192, Duration::from_millis(98))]);
        assert_eq!((fast.slices(1 << 20, ONE, 2), fast.budget(ONE)), (1, None));
    }

    #[test]
    fn slices_have_several_times_the_rows_that_wait_at_once() {
        let fifty = NonZeroU32::new(50).expect("it is not zero");
        // 5 s each, and 50 at once.
        let slow = pace(&[(50, Duration::from_secs(5))]);
        assert_eq!(8192_u64.div_ceil(slow.slices(8192, fifty, 2)), 391);
        assert_eq!(slow.budget(fifty), Some(Duration::from_secs(80)));
        // Few that are left are shared out, but not to the last one.
        assert_eq!(slow.slices(333, fifty, 2), 2);
        assert_eq!((slow.slices(333, fifty, 1), slow.slices(190, fifty, 8), slow.slices(90, fifty, 8)), (1, 2, 1));
        // Where more rows take about 100 ms, they are more.
        let quick = pace(&[(50, Duration::from_millis(10))]);
        assert_eq!((quick.slices(8192, fifty, 2), quick.budget(fifty)), (17, Some(AT_MOST)));
        assert_eq!(pace(&[]).budget(fifty), Some(AT_FIRST));
    }

    #[test]
    fn a_first_row_that_loads_something_is_forgotten() {
        let mut pace = pace(&[(1, Duration::from_secs(5))]);
        for _ in 0..20 {
            pace.learn(8192 / pace.slices(8192, ONE, 1), Duration::from_micros(12));
        }
        assert_eq!((pace.slices(8192, ONE, 1), pace.budget(ONE)), (1, None));
    }
}
