//! Resources: what attempts take before they begin (`uses`). All that an attempt needs is taken at once, so that none ever waits for one
//! resource while it has another. Who lacks something waits for its turn: nobody overtakes a stage that waits for the same.
//!
//! A stage for which there is enough is promised that, until it takes it or does not want it any more; so asking costs the same however many
//! stages wait.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::AttemptId;
use super::action::Device;
use super::devices::Holder;
use super::scheduler::Scheduler;
use super::slices::Sight;
use super::stage_state::{Slice, SliceId, Step, Work};
use crate::plan::{Plan, Resource, ResourceId, ResourceKind, StageId, Use};

/// Tokens that are missing by no more than this are there: they are counted in fractions.
pub(super) const EPSILON: f64 = 1e-6;

#[derive(Debug)]
pub struct Resources {
    states: Vec<State>,
    /// Turns that were given so far.
    turns: u64,
    /// Stages that could begin an attempt and lack something, with their turns and the rows that they want it for.
    waiting: BTreeMap<StageId, (u64, u64)>,
    /// Who has which units, where they are told apart.
    pub(super) holders: BTreeMap<Holder, Vec<Device>>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) stock: Stock,
    /// Stages that wait for it, by their turns.
    queue: BTreeSet<(u64, StageId)>,
    promised: BTreeMap<StageId, f64>,
    /// The units that nobody has, where they are told apart.
    pub(super) free: BTreeSet<u32>,
}

#[derive(Debug)]
pub(super) enum Stock {
    Units { all: f64, free: f64 },
    Rate { tempo: Tempo, burst: f64, tokens: f64, at: Duration },
}

/// How fast tokens come: as declared, or more slowly for a while after a function has asked for fewer calls.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tempo {
    declared: f64,
    per_second: f64,
}

impl Tempo {
    /// What is left of the tempo when it is to slow down, and of the declared one at least.
    const SLOWER: f64 = 0.5;
    const SLOWEST: f64 = 1.0 / 16.0;
    /// Seconds from standing still to the declared tempo.
    const RECOVERY: f64 = 30.0;

    fn slower(self) -> Self {
        let per_second = (self.per_second * Self::SLOWER).max(self.declared * Self::SLOWEST);
        Self { per_second, ..self }
    }

    fn after(self, passed: Duration) -> Self {
        let gained = self.declared * passed.as_secs_f64() / Self::RECOVERY;
        Self { per_second: (self.per_second + gained).min(self.declared), ..self }
    }
}

impl Stock {
    fn new(kind: ResourceKind) -> Self {
        match kind {
            ResourceKind::Units(units) => Self::Units { all: f64::from(units), free: f64::from(units) },
            ResourceKind::Rate { per_second, burst } => {
                let burst = f64::from(burst);
                let tempo = Tempo { declared: per_second, per_second };
                Self::Rate { tempo, burst, tokens: burst, at: Duration::ZERO }
            }
        }
    }

    /// What is there. Less than nothing where more than fits was taken.
    pub(super) fn level(&self, now: Duration) -> f64 {
        match self {
            Self::Units { free, .. } => *free,
            Self::Rate { tempo, burst, tokens, at } => {
                (tokens + now.saturating_sub(*at).as_secs_f64() * tempo.per_second).min(*burst)
            }
        }
    }

    fn most(&self) -> f64 {
        match self {
            Self::Units { all, .. } => *all,
            Self::Rate { burst, .. } => *burst,
        }
    }

    /// What has to be there for something to be taken. More than there ever is is taken when all is there, and is owed.
    fn asked(&self, amount: f64) -> f64 {
        amount.min(self.most())
    }

    /// When there will be so much, if time alone brings it.
    fn reaches(&self, level: f64, now: Duration) -> Option<Duration> {
        let missing = level - self.level(now);
        match self {
            _ if missing <= EPSILON => Some(now),
            Self::Rate { tempo, burst, .. } if level <= burst + EPSILON => {
                let wait = Duration::try_from_secs_f64(missing / tempo.per_second).unwrap_or(Duration::MAX);
                // Not a moment too early: who is woken for nothing waits for the next moment, and so on.
                Some(now.saturating_add(wait).saturating_add(Duration::from_micros(1)))
            }
            Self::Rate { .. } | Self::Units { .. } => None,
        }
    }

    pub(super) fn add(&mut self, amount: f64, now: Duration) {
        let level = (self.level(now) + amount).min(self.most());
        match self {
            Self::Units { free, .. } => *free = level,
            Self::Rate { tempo, tokens, at, .. } => {
                *tempo = tempo.after(now.saturating_sub(*at));
                (*tokens, *at) = (level, now);
            }
        }
    }

    /// Nothing comes before `wait` is over, and then it comes more slowly.
    fn slow_down(&mut self, wait: Duration, now: Duration) {
        self.add(0.0, now);
        if let Self::Rate { tempo, tokens, .. } = self {
            *tempo = tempo.slower();
            *tokens = tokens.min(-wait.as_secs_f64() * tempo.per_second);
        }
    }
}

impl State {
    fn new(resource: &Resource) -> Self {
        let units = resource.devices.as_ref().map_or(0, |devices| devices.ids.len());
        Self {
            stock: Stock::new(resource.kind),
            queue: BTreeSet::new(),
            promised: BTreeMap::new(),
            free: (0..u32::try_from(units).expect("few")).collect(),
        }
    }

    /// What has to be there so that the stage can have this much, beside what others are promised.
    pub(super) fn needed(&self, stage: StageId, amount: f64) -> f64 {
        let promised: f64 = self.promised.iter().filter(|(other, _)| **other != stage).map(|(_, asked)| asked).sum();
        promised + self.stock.asked(amount)
    }
}

/// What an attempt that is given so many rows takes.
pub(super) fn amount(of: Use, rows: u64) -> f64 {
    f64::from(of.units) * if of.per_row { rows as f64 } else { 1.0 }
}

impl Resources {
    pub fn new(plan: &Plan) -> Self {
        let states = plan.resources.iter().map(State::new).collect();
        Self { states, turns: 0, waiting: BTreeMap::new(), holders: BTreeMap::new() }
    }

    pub(super) fn state(&self, id: ResourceId) -> &State {
        &self.states[id.index()]
    }

    pub(super) fn state_mut(&mut self, id: ResourceId) -> &mut State {
        &mut self.states[id.index()]
    }

    /// Promises what an attempt with so many rows takes, if there is enough. If not, the stage waits for its turn.
    fn promise(&mut self, stage: StageId, uses: &[Use], rows: u64, now: Duration) -> bool {
        let turn = self.waiting.get(&stage).map(|(turn, _)| *turn);
        let is_enough = uses.iter().all(|of| {
            let state = self.state(of.resource);
            let is_first = state.queue.first().is_none_or(|(first, _)| turn.is_some_and(|turn| turn <= *first));
            is_first && state.stock.level(now) + EPSILON >= state.needed(stage, amount(*of, rows))
        });
        if is_enough {
            self.forget(stage, uses);
            for of in uses {
                let state = self.state_mut(of.resource);
                state.promised.insert(stage, state.stock.asked(amount(*of, rows)));
            }
            return true;
        }
        let turn = turn.unwrap_or_else(|| {
            self.turns += 1;
            self.turns
        });
        for of in uses {
            let state = self.state_mut(of.resource);
            state.promised.remove(&stage);
            state.queue.insert((turn, stage));
        }
        self.waiting.insert(stage, (turn, rows));
        false
    }

    /// The stage wants nothing, or has it. Returns whether it did want something.
    fn forget(&mut self, stage: StageId, uses: &[Use]) -> bool {
        let turn = self.waiting.remove(&stage).map(|(turn, _)| turn);
        let mut wanted = turn.is_some();
        for of in uses {
            let state = self.state_mut(of.resource);
            wanted |= state.promised.remove(&stage).is_some();
            if let Some(turn) = turn {
                state.queue.remove(&(turn, stage));
            }
        }
        wanted
    }

    /// Those whose turn may have come at one of these resources.
    fn next_in_line(&self, uses: &[Use]) -> BTreeSet<StageId> {
        uses.iter().filter_map(|of| self.state(of.resource).queue.first()).map(|(_, stage)| *stage).collect()
    }

    /// Those whose turn is next somewhere.
    pub(super) fn fronts(&self) -> BTreeSet<StageId> {
        self.states.iter().filter_map(|state| state.queue.first()).map(|(_, stage)| *stage).collect()
    }
}

impl Scheduler {
    /// Notes whether the stage wants to begin an attempt. Returns whether it may: whether it has been promised what that takes.
    pub(super) fn promise_resources(&mut self, stage: StageId, wants: bool) -> bool {
        if self.plan.stage(stage).uses.is_empty() {
            return wants;
        }
        let plan = Arc::clone(&self.plan);
        let uses = &plan.stage(stage).uses;
        let was_waiting = self.resources.waiting.contains_key(&stage);
        let (may, others_may) = match wants.then(|| self.next_rows(stage)) {
            // It calls no code of the user's.
            Some(None) => (true, false),
            Some(Some(rows)) => {
                let may = self.resources.promise(stage, uses, rows, self.now);
                (may, may && was_waiting)
            }
            None => (false, self.resources.forget(stage, uses)),
        };
        if others_may {
            self.touch_next_in_line(uses);
        }
        may
    }

    pub(super) fn touch_next_in_line(&mut self, uses: &[Use]) {
        self.resources.next_in_line(uses).into_iter().for_each(|next| self.touch(next));
    }

    /// An attempt of the stage begins. Returns for how many rows it has taken something, if it has.
    pub(super) fn take_resources(&mut self, attempt: AttemptId, stage: StageId, id: SliceId) -> Option<u64> {
        if self.plan.stage(stage).uses.is_empty() {
            return None;
        }
        let rows = match &self.stages[stage.index()].work {
            Work::Jobs(jobs) => jobs.jobs[&id.sequence].slices[&id.first].rows_to_try()?,
            Work::Keyed(_) | Work::Resident(_) => 1,
        };
        let plan = Arc::clone(&self.plan);
        let uses = &plan.stage(stage).uses;
        self.resources.forget(stage, uses);
        for of in uses {
            let now = self.now;
            let state = self.resources.state_mut(of.resource);
            let amount = amount(*of, rows);
            state.stock.add(-amount, now);
            debug_assert!(
                state.stock.level(now) > -EPSILON || amount > state.stock.most(),
                "more was taken than was there"
            );
            if amount > state.stock.most() {
                // It is owed, so that there is not enough for others any more.
                let others: Vec<StageId> = state.promised.keys().copied().collect();
                others.into_iter().for_each(|other| self.touch(other));
            }
        }
        self.resources.hand_out(Holder::Attempt(attempt), uses);
        self.touch_next_in_line(uses);
        Some(rows)
    }

    /// An attempt that took something has ended: its units are free.
    pub(super) fn give_back_units(&mut self, stage: StageId) {
        let plan = Arc::clone(&self.plan);
        let uses = &plan.stage(stage).uses;
        for of in uses {
            let now = self.now;
            let stock = &mut self.resources.state_mut(of.resource).stock;
            if let Stock::Units { .. } = stock {
                stock.add(f64::from(of.units), now);
            }
        }
        self.touch_next_in_line(uses);
    }

    /// An attempt has not come to the last of its rows: what it has taken for them is not used up.
    pub(super) fn give_back_rows(&mut self, stage: StageId, rows: u64) {
        if rows == 0 {
            return;
        }
        let plan = Arc::clone(&self.plan);
        let uses = &plan.stage(stage).uses;
        for of in uses.iter().filter(|of| of.per_row) {
            let now = self.now;
            self.resources.state_mut(of.resource).stock.add(amount(*of, rows), now);
        }
        self.touch_next_in_line(uses);
    }

    /// A function of the stage asks for fewer calls, and for none before `wait` is over.
    pub(super) fn slow_down(&mut self, stage: StageId, wait: Duration) {
        let plan = Arc::clone(&self.plan);
        for of in &plan.stage(stage).uses {
            let now = self.now;
            let state = self.resources.state_mut(of.resource);
            state.stock.slow_down(wait, now);
            // What they were promised is there no more.
            let promised: Vec<StageId> = state.promised.keys().copied().collect();
            promised.into_iter().for_each(|other| self.touch(other));
        }
    }

    /// When time will have brought what the next in line wait for, the first of them.
    pub(super) fn resources_at(&self) -> Option<Duration> {
        self.resources.fronts().into_iter().filter_map(|stage| self.has_all_at(stage)).min()
    }

    fn has_all_at(&self, stage: StageId) -> Option<Duration> {
        let (turn, rows) = self.resources.waiting.get(&stage)?;
        let times = self.plan.stage(stage).uses.iter().map(|of| {
            let state = self.resources.state(of.resource);
            let is_first = state.queue.first().is_none_or(|(first, _)| turn <= first);
            let needed = state.needed(stage, amount(*of, *rows));
            state.stock.reaches(needed, self.now).filter(|_| is_first)
        });
        times.collect::<Option<Vec<Duration>>>()?.into_iter().max()
    }

    /// Time has passed: it may have brought what the next in line wait for.
    pub(super) fn look_at_resources(&mut self) {
        for stage in self.resources.fronts() {
            if self.has_all_at(stage).is_some_and(|at| at <= self.now) {
                self.touch(stage);
            }
        }
    }

    /// Rows that the next attempt of a stage will be given; `None` if that takes nothing.
    fn next_rows(&mut self, stage: StageId) -> Option<u64> {
        let edge = if self.plan.stage(stage).inputs.is_empty() { None } else { self.current_edge(stage, 0) };
        let Work::Jobs(jobs) = &self.stages[stage.index()].work else { return Some(1) };
        let rows = match jobs.ready.first() {
            Some(id) => jobs.jobs[&id.sequence].slices[&id.first].rows_to_try()?,
            None => edge.and_then(|edge| self.queues[edge.index()].front()).map_or(1, |meta| meta.rows),
        };
        Some(rows.min(self.most_rows(stage)))
    }

    /// The most rows that an attempt is given of a stage that takes something for each row: no more than a bucket holds, however many could be
    /// worked on side by side.
    pub(super) fn most_rows(&self, stage: StageId) -> u64 {
        let Sight::Row { .. } = self.stages[stage.index()].sight else { return u64::MAX };
        let per_row = self.plan.stage(stage).uses.iter().filter(|of| of.per_row);
        let fitting = per_row.map(|of| self.resources.state(of.resource).stock.most() / f64::from(of.units));
        fitting.map(|rows| (rows as u64).max(1)).min().unwrap_or(u64::MAX)
    }
}

impl Slice {
    /// Rows that the next attempt of it is given; `None` if that calls no code of the user's.
    fn rows_to_try(&self) -> Option<u64> {
        let rows = |range: &std::ops::Range<u64>| range.end - range.start;
        match &self.step {
            Step::Join { .. } => None,
            Step::Blaming(blame) => Some(blame.next().as_ref().map_or(0, rows)),
            Step::Rest(rest) => Some(rest.iter().map(rows).sum()),
            Step::Whole | Step::Done { .. } | Step::Failed { .. } => Some(self.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn rate(per_second: f64, burst: u32) -> Stock {
        Stock::new(ResourceKind::Rate { per_second, burst })
    }

    #[test]
    fn tokens_come_with_time_and_no_more_are_kept_than_fit() {
        let mut stock = rate(10.0, 5);
        stock.add(-5.0, SECOND);
        assert!(stock.level(SECOND).abs() < EPSILON);
        let at = stock.reaches(2.0, SECOND).expect("time brings it");
        assert!(at > SECOND * 12 / 10 && at < SECOND * 12 / 10 + Duration::from_millis(1), "{at:?}");
        assert!(stock.level(at) >= 2.0);
        assert!((stock.level(SECOND * 100) - 5.0).abs() < EPSILON);
        // More than fits is waited for until all is there, and is owed then.
        assert!((stock.asked(20.0) - 5.0).abs() < EPSILON);
        stock.add(-20.0, SECOND * 100);
        assert!((stock.level(SECOND * 101) + 5.0).abs() < EPSILON);
        assert_eq!(stock.reaches(6.0, SECOND), None);
    }

    #[test]
    fn a_rate_that_is_slowed_down_recovers() {
        let mut stock = rate(10.0, 5);
        stock.slow_down(SECOND * 3, SECOND);
        let at = stock.reaches(0.0, SECOND).expect("time brings it");
        assert!(at > SECOND * 4 && at < SECOND * 4 + Duration::from_millis(1), "{at:?}");
        // At half of the tempo.
        assert!((stock.level(SECOND * 5) - 5.0).abs() < 1e-3);
        // A longer wait does not become a shorter one.
        stock.slow_down(SECOND / 10, SECOND * 2);
        assert!(stock.reaches(0.0, SECOND * 2).expect("time brings it") >= SECOND * 4);
        for _ in 0..10 {
            stock.slow_down(Duration::ZERO, SECOND * 5);
        }
        let Stock::Rate { tempo, .. } = stock else { panic!("it is one") };
        assert!((tempo.per_second - 10.0 / 16.0).abs() < EPSILON);
        stock.add(0.0, SECOND * 60);
        let Stock::Rate { tempo, .. } = stock else { panic!("it is one") };
        assert!((tempo.per_second - 10.0).abs() < EPSILON);
    }

    #[test]
    fn units_come_back_and_time_brings_none() {
        let mut stock = Stock::new(ResourceKind::Units(2));
        stock.add(-2.0, Duration::ZERO);
        assert_eq!(stock.reaches(1.0, SECOND), None);
        stock.add(1.0, SECOND);
        assert_eq!(stock.reaches(1.0, SECOND), Some(SECOND));
    }

    fn uses(resource: u32, units: u32) -> Use {
        Use { resource: ResourceId(resource), units, per_row: false }
    }

    #[test]
    fn nobody_overtakes_who_waits_for_the_same() {
        let kinds = [ResourceKind::Units(3), ResourceKind::Units(1)];
        let state = |kind| State::new(&Resource { name: String::new(), kind, devices: None, slots: None });
        let states = kinds.map(state).into();
        let mut resources = Resources { states, turns: 0, waiting: BTreeMap::new(), holders: BTreeMap::new() };
        let now = Duration::ZERO;
        resources.states[0].stock.add(-2.0, now);
        let (large, small, other) = (StageId(0), StageId(1), StageId(2));
        assert!(!resources.promise(large, &[uses(0, 2)], 1, now));
        assert!(!resources.promise(small, &[uses(0, 1)], 1, now), "it has come later");
        assert!(resources.promise(other, &[uses(1, 1)], 1, now), "it waits for nothing that is missing");
        assert!(!resources.promise(small, &[uses(1, 1)], 1, now), "that is promised");
        resources.states[0].stock.add(1.0, now);
        assert_eq!(resources.next_in_line(&[uses(0, 1)]), BTreeSet::from([large]));
        assert!(resources.promise(large, &[uses(0, 2)], 1, now));
        assert!(resources.forget(large, &[uses(0, 2)]) && !resources.forget(large, &[uses(0, 2)]));
    }
}
