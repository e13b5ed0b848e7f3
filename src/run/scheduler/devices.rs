//! Devices: units of resources that are told apart, and who has which: the process of an attempt, or a worker for its life. A worker that
//! has nothing to do gives up what others want.

use std::sync::Arc;

use super::action::{Action, Device};
use super::resources::{EPSILON, Resources, amount};
use super::scheduler::Scheduler;
use super::worker_state::ClassId;
use super::{AttemptId, WorkerId};
use crate::plan::{ResourceId, StageId, Use};

/// Who has units that are told apart: a worker for its life, or the process of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holder {
    Worker(WorkerId),
    Attempt(AttemptId),
}

impl Scheduler {
    /// Whether there is what a worker of the stage is to have for its life, beside what attempts are promised.
    pub(super) fn has_devices_for_worker(&self, stage: StageId) -> bool {
        self.plan.stage(stage).holds.iter().all(|of| self.missing(stage, *of) <= EPSILON)
    }

    fn missing(&self, stage: StageId, of: Use) -> f64 {
        let state = self.resources.state(of.resource);
        state.needed(stage, amount(of, 1)) - state.stock.level(self.now)
    }

    /// A worker is started with what it has for its life.
    pub(super) fn hold_devices(&mut self, worker: WorkerId, stage: StageId) -> Vec<Device> {
        let plan = Arc::clone(&self.plan);
        let holds = &plan.stage(stage).holds;
        for of in holds {
            let now = self.now;
            self.resources.state_mut(of.resource).stock.add(-amount(*of, 1), now);
        }
        let holder = Holder::Worker(worker);
        self.resources.hand_out(holder, holds);
        self.resources.holders.get(&holder).cloned().unwrap_or_default()
    }

    /// A worker is gone: what it had is free.
    pub(super) fn give_back_held(&mut self, worker: WorkerId, class: ClassId) {
        let plan = Arc::clone(&self.plan);
        let holds = &plan.stage(self.classes.get(class).stage).holds;
        for of in holds {
            let now = self.now;
            self.resources.state_mut(of.resource).stock.add(amount(*of, 1), now);
        }
        self.resources.give_back_devices(Holder::Worker(worker));
        self.touch_next_in_line(holds);
    }

    /// A worker of the stage cannot be started for want of devices: workers that have them and nothing to do give them up.
    pub(super) fn make_room_for_worker(&mut self, stage: StageId) {
        let plan = Arc::clone(&self.plan);
        for of in &plan.stage(stage).holds {
            self.retire_holders(of.resource, self.missing(stage, *of));
        }
    }

    /// The same for those who are next in line.
    pub(super) fn make_room_for_attempts(&mut self) {
        if self.resources.holders.is_empty() {
            return;
        }
        let plan = Arc::clone(&self.plan);
        for stage in self.resources.fronts() {
            for of in plan.stage(stage).uses.iter().filter(|of| plan.resources[of.resource.index()].devices.is_some()) {
                self.retire_holders(of.resource, self.missing(stage, *of));
            }
        }
    }

    /// Has idle workers end until what they have makes up for what is missing, with what those have that are ending already.
    fn retire_holders(&mut self, resource: ResourceId, missing: f64) {
        let held = |worker: WorkerId| self.resources.held_by(worker, resource) as f64;
        let mut missing = missing - self.pool.retired().map(held).sum::<f64>();
        let idle: Vec<(WorkerId, f64)> = self.pool.all_idle().map(|worker| (worker, held(worker))).collect();
        for (worker, held) in idle.into_iter().filter(|(_, held)| *held > 0.0) {
            if missing <= EPSILON {
                return;
            }
            missing -= held;
            self.pool.retire(worker);
            self.actions.push(Action::RetireWorker { worker });
        }
    }
}

impl Resources {
    /// Hands out so many units of each resource whose units are told apart, the lowest first.
    pub(super) fn hand_out(&mut self, holder: Holder, uses: &[Use]) {
        for of in uses {
            let state = self.state_mut(of.resource);
            let taken = (0..of.units).filter_map(|_| state.free.pop_first()).collect::<Vec<_>>();
            if !taken.is_empty() {
                let devices = taken.into_iter().map(|at| Device { resource: of.resource, at });
                self.holders.entry(holder).or_default().extend(devices);
            }
        }
    }

    /// What the process of an attempt has.
    pub(super) fn devices_of(&self, attempt: AttemptId) -> Vec<Device> {
        self.holders.get(&Holder::Attempt(attempt)).cloned().unwrap_or_default()
    }

    /// Takes back which units somebody had.
    pub(super) fn give_back_devices(&mut self, holder: Holder) {
        for Device { resource, at } in self.holders.remove(&holder).unwrap_or_default() {
            self.state_mut(resource).free.insert(at);
        }
    }

    /// The units of a resource that somebody has.
    #[cfg(test)]
    pub(super) fn held(&self, resource: ResourceId) -> Vec<u32> {
        let held = self.holders.values().flatten().filter(|device| device.resource == resource);
        held.map(|device| device.at).collect()
    }

    /// How many units of a resource a worker has.
    fn held_by(&self, worker: WorkerId, resource: ResourceId) -> usize {
        let held = self.holders.get(&Holder::Worker(worker)).into_iter().flatten();
        held.filter(|device| device.resource == resource).count()
    }
}
