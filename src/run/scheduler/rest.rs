//! Rest: the time between a failed attempt and the next one at the same rows (`retry.backoff`). What rests keeps no place, and nothing
//! waits for it but the order of the output.

use std::time::Duration;

use super::scheduler::Scheduler;
use super::stage_state::{SliceId, Step};
use crate::plan::StageId;

/// What is to be tried again later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resting {
    Slice(StageId, SliceId),
    Lane(StageId, usize),
}

impl Scheduler {
    /// The moment at which the scheduler wants an [`Event::Woken`](super::Event::Woken), on the clock of [`Scheduler::handle`].
    pub fn wakes_at(&self) -> Option<Duration> {
        let rested = self.resting.first().map(|(at, _)| *at);
        self.drains_until().or_else(|| rested.into_iter().chain(self.resources_at()).min())
    }

    /// A slice is tried again, `failed` attempts of it have failed: now, or when it has rested.
    pub(super) fn again_after(&mut self, stage: StageId, id: SliceId, failed: u32) {
        match self.rested_at(stage, [id.sequence, id.first], failed) {
            None => self.again(stage, id),
            Some(at) => {
                self.resting.insert((at, Resting::Slice(stage, id)));
            }
        }
    }

    /// As [`Scheduler::again_after`], for the job of a lane. Returns whether it rests.
    pub(super) fn lane_rests(&mut self, stage: StageId, sequence: u64, lane: usize, failed: u32) -> bool {
        let at = self.rested_at(stage, [sequence, lane as u64], failed);
        self.resting.extend(at.map(|at| (at, Resting::Lane(stage, lane))));
        at.is_some()
    }

    fn rested_at(&self, stage: StageId, place: [u64; 2], failed: u32) -> Option<Duration> {
        let chance = chance(&[u64::from(stage.0), place[0], place[1], u64::from(failed)]);
        let wait = self.plan.stage(stage).retry.backoff.wait(failed, chance);
        (!wait.is_zero()).then(|| self.now.saturating_add(wait))
    }

    /// What has rested long enough goes on.
    pub(super) fn wake(&mut self) {
        while let Some((at, resting)) = self.resting.pop_first() {
            if at > self.now {
                self.resting.insert((at, resting));
                return;
            }
            match resting {
                Resting::Slice(stage, id) if self.is_wanted(stage, id) => self.again(stage, id),
                Resting::Slice(..) => {}
                Resting::Lane(stage, lane) => {
                    self.keyed(stage).lanes[lane].is_resting = false;
                    self.touch(stage);
                }
            }
        }
    }

    /// Whether nothing before the slice has failed for good.
    pub(super) fn is_wanted(&mut self, stage: StageId, id: SliceId) -> bool {
        let jobs = self.jobs(stage);
        let mut before = jobs.jobs.range(..=id.sequence).flat_map(|(sequence, job)| {
            let of_job =
                job.slices.iter().map(move |(first, slice)| (SliceId { sequence: *sequence, first: *first }, slice));
            of_job.filter(|(other, _)| *other < id)
        });
        before.all(|(_, slice)| !matches!(slice.step, Step::Failed { .. }))
    }
}

/// A number from 0 to 1 that depends on `of` alone: the same in every run. It is `splitmix64` of Steele, Lea and Flood, "Fast splittable
/// pseudorandom number generators" (2014), with the next of `of` added at every step.
fn chance(of: &[u64]) -> f64 {
    let mut state = 0_u64;
    for number in of {
        state = state.wrapping_add(*number).wrapping_add(0x9e37_79b9_7f4a_7c15);
        state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        state ^= state >> 31;
    }
    state as f64 / u64::MAX as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chance_is_spread_and_repeats() {
        let chances: Vec<f64> = (0..1000).map(|sequence| chance(&[1, sequence, 0, 1])).collect();
        let mean = chances.iter().sum::<f64>() / 1000.0;
        assert!((0.45..0.55).contains(&mean), "{mean}");
        assert!(chances.iter().all(|chance| (0.0..=1.0).contains(chance)));
        assert!((chance(&[1, 7, 0, 1]) - chances[7]).abs() < f64::EPSILON);
    }
}
