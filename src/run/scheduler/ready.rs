//! [`Ready`]: the stages that could begin an attempt, and whose turn it is. Asking costs the same however many there are: a pipeline may
//! have thousands of stages that are all ready from the start.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use crate::plan::StageId;

/// Attempts that may be given to other stages while a stage is ready, before it goes first. Deepest first alone would let a branch wait until
/// another one is through.
pub const PATIENCE: u32 = 16;

/// What an attempt of a stage takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// A thread of this process.
    Thread,
    /// A slot, in which there is a worker or a process.
    Slot,
    /// A slot; and the attempt may be sent ahead, to begin when there is one.
    SlotSoon,
}

/// Those that need the same take turns.
#[derive(Debug)]
pub struct Ready {
    threads: Lane,
    slots: Lane,
    /// Stages that cannot be sent ahead.
    slots_now: usize,
}

impl Ready {
    pub fn new(stages: usize) -> Self {
        Self { threads: Lane::new(stages), slots: Lane::new(stages), slots_now: 0 }
    }

    /// Notes whether the stage could begin an attempt.
    pub fn set(&mut self, stage: StageId, need: Need, is_ready: bool) {
        let changed = self.lane_mut(need).set(stage, is_ready);
        if changed && need == Need::Slot {
            self.slots_now = if is_ready { self.slots_now + 1 } else { self.slots_now - 1 };
        }
    }

    /// A stage was given an attempt, before all others that are ready and could have had its place.
    pub fn had_a_turn(&mut self, stage: StageId, need: Need) {
        self.lane_mut(need).had_a_turn(stage);
    }

    /// Those that need a thread: the ones that have waited long enough, and then the deepest first.
    pub fn for_threads(&self) -> impl Iterator<Item = StageId> {
        self.threads.by_turn()
    }

    /// Those that need a slot.
    pub fn for_slots(&self) -> impl Iterator<Item = StageId> {
        self.slots.by_turn()
    }

    /// Whether all that need a slot may be sent ahead.
    pub fn all_can_wait(&self) -> bool {
        self.slots_now == 0
    }

    #[cfg(test)]
    pub fn contains(&self, stage: StageId) -> bool {
        [&self.threads, &self.slots].iter().any(|lane| lane.deepest.contains(&Reverse(stage)))
    }

    fn lane_mut(&mut self, need: Need) -> &mut Lane {
        match need {
            Need::Thread => &mut self.threads,
            Need::Slot | Need::SlotSoon => &mut self.slots,
        }
    }
}

#[derive(Debug)]
struct Lane {
    /// Attempts given so far.
    turns: u64,
    deepest: BTreeSet<Reverse<StageId>>,
    /// The same stages with the turn from which on others have been given attempts, so that those that have waited longest stand first; among
    /// them the deepest.
    longest: BTreeSet<(u64, Reverse<StageId>)>,
    /// By stage: that turn while the stage is ready, else how many turns it had waited when it last was.
    marks: Vec<u64>,
}

impl Lane {
    fn new(stages: usize) -> Self {
        Self { turns: 0, deepest: BTreeSet::new(), longest: BTreeSet::new(), marks: vec![0; stages] }
    }

    /// Returns whether that is a change.
    fn set(&mut self, stage: StageId, is_ready: bool) -> bool {
        let changed = if is_ready { self.deepest.insert(Reverse(stage)) } else { self.deepest.remove(&Reverse(stage)) };
        if changed {
            let mark = &mut self.marks[stage.index()];
            let waited_or_since = self.turns - *mark;
            let since = if is_ready { waited_or_since } else { *mark };
            *mark = waited_or_since;
            if is_ready {
                self.longest.insert((since, Reverse(stage)));
            } else {
                self.longest.remove(&(since, Reverse(stage)));
            }
        }
        changed
    }

    fn had_a_turn(&mut self, stage: StageId) {
        self.turns += 1;
        let mark = &mut self.marks[stage.index()];
        if self.longest.remove(&(*mark, Reverse(stage))) {
            *mark = self.turns;
            self.longest.insert((*mark, Reverse(stage)));
        } else {
            *mark = 0;
        }
    }

    fn by_turn(&self) -> impl Iterator<Item = StageId> {
        let is_due = |since: u64| self.turns - since >= u64::from(PATIENCE);
        let due = self.longest.iter().take_while(move |(since, _)| is_due(*since)).map(|(_, stage)| stage.0);
        let others = self.deepest.iter().map(|stage| stage.0);
        due.chain(others.filter(move |stage| !is_due(self.marks[stage.index()])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(ready: &Ready) -> Vec<u32> {
        ready.for_slots().map(|stage| stage.0).collect()
    }

    #[test]
    fn the_deepest_goes_first_until_others_have_waited_long_enough() {
        let mut ready = Ready::new(4);
        for stage in [0, 1, 3] {
            ready.set(StageId(stage), Need::Slot, true);
        }
        assert_eq!(order(&ready), [3, 1, 0]);
        for turn in 1..=PATIENCE {
            ready.had_a_turn(StageId(3), Need::Slot);
            if turn == 4 {
                ready.set(StageId(2), Need::Slot, true);
            }
        }
        assert_eq!(order(&ready), [1, 0, 3, 2]);
        ready.had_a_turn(StageId(1), Need::Slot);
        assert_eq!(order(&ready), [0, 3, 2, 1]);
    }

    #[test]
    fn the_time_in_which_a_stage_was_not_ready_does_not_count() {
        let mut ready = Ready::new(2);
        ready.set(StageId(0), Need::SlotSoon, true);
        ready.set(StageId(1), Need::SlotSoon, true);
        (1..PATIENCE).for_each(|_| ready.had_a_turn(StageId(1), Need::SlotSoon));
        ready.set(StageId(0), Need::SlotSoon, false);
        ready.had_a_turn(StageId(1), Need::SlotSoon);
        ready.set(StageId(0), Need::SlotSoon, true);
        assert_eq!(order(&ready), [1, 0]);
        ready.had_a_turn(StageId(1), Need::SlotSoon);
        assert_eq!(order(&ready), [0, 1]);
    }

    #[test]
    fn threads_and_slots_have_turns_of_their_own() {
        let mut ready = Ready::new(3);
        ready.set(StageId(0), Need::Thread, true);
        ready.set(StageId(1), Need::SlotSoon, true);
        assert!(ready.all_can_wait());
        ready.set(StageId(2), Need::Slot, true);
        assert!(!ready.all_can_wait());
        assert_eq!((ready.for_threads().count(), ready.for_slots().count()), (1, 2));
        ready.set(StageId(2), Need::Slot, false);
        assert!(ready.all_can_wait());
    }
}
