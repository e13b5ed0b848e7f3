//! [`Chaos`]: faults that a user asks for (`run --chaos`), to see that a run survives them.
//!
//! Which fault hits which attempt follows from the seed, the names of stages and the numbers of batches, not from time. No fault costs a
//! batch any of its attempts, and none hits the same rows more than [`MOST`] times, so that the outputs are those of a run without faults.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::plan::{CommandMode, Plan, Stage, StageId, StageKind};
use crate::run::RunEvent;
use crate::run::scheduler::{AttemptId, Dispatch, Event, ExitCause, Host, Work, WorkerId};

/// Faults that hit the same rows.
const MOST: u32 = 2;
/// How late a slow attempt begins, at least and at most.
const LATE: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(300)];

/// What a user asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ChaosOptions {
    pub seed: u64,
    /// Part of the attempts that are hit, 0 to 1.
    pub rate: f64,
}

/// What happens to an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Its worker or process is killed.
    Kill,
    /// It is lost before its code is called.
    Lose,
    /// It begins late.
    Slow,
    /// It hangs until its stage's timeout is over.
    Hang,
    /// Its worker is replaced after it, as if it had too much memory.
    Replace,
}

impl Fault {
    pub fn word(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Lose => "lose",
            Self::Slow => "slow",
            Self::Hang => "hang",
            Self::Replace => "replace",
        }
    }
}

pub struct Chaos {
    options: ChaosOptions,
    /// Faults so far, by stage, batch and first row.
    hits: BTreeMap<(StageId, u64, u64), u32>,
    /// Attempts and workers whose end is no fault of theirs.
    attempts: BTreeSet<AttemptId>,
    workers: BTreeSet<WorkerId>,
    late: Vec<(Instant, Dispatch)>,
    injected: BTreeMap<(StageId, Fault), u64>,
    /// What was injected and is not told yet.
    news: Vec<RunEvent>,
}

impl Chaos {
    pub fn new(options: ChaosOptions) -> Self {
        Self {
            options,
            hits: BTreeMap::new(),
            attempts: BTreeSet::new(),
            workers: BTreeSet::new(),
            late: Vec::new(),
            injected: BTreeMap::new(),
            news: Vec::new(),
        }
    }

    /// What is to happen to an attempt, if anything is.
    pub fn strike(&mut self, plan: &Plan, dispatch: &Dispatch) -> Option<Fault> {
        let stage = plan.stage(dispatch.stage);
        let first = match &dispatch.work {
            Work::Rows { rows, .. } | Work::Join { rows, .. } => rows.first().map_or(0, |rows| rows.start),
            Work::Lane { lane, .. } | Work::FinishLane { lane } => u64::from(*lane),
            Work::Pull | Work::Task => 0,
        };
        let hits = self.hits.entry((stage.id, dispatch.sequence, first)).or_default();
        // Not how often the rows were attempted: who else died with their worker is a matter of time.
        let chance = self.options.chance(&stage.name, [dispatch.sequence, first, u64::from(*hits)]);
        let faults = possible(stage, dispatch);
        if *hits >= MOST || chance >= self.options.rate || faults.is_empty() {
            return None;
        }
        *hits += 1;
        // What is left of the number is as even as the whole.
        let which = (chance / self.options.rate * faults.len() as f64) as usize;
        let fault = faults[which.min(faults.len() - 1)];
        *self.injected.entry((stage.id, fault)).or_default() += 1;
        self.news.push(RunEvent::Injected { stage: stage.id, sequence: dispatch.sequence, fault: fault.word() });
        match (fault, dispatch.host) {
            (Fault::Kill | Fault::Hang, Host::Worker(worker)) => {
                self.workers.insert(worker);
            }
            (Fault::Kill | Fault::Lose, _) => {
                self.attempts.insert(dispatch.attempt);
            }
            (Fault::Slow | Fault::Replace | Fault::Hang, _) => {}
        }
        Some(fault)
    }

    /// Keeps an attempt that is to begin late.
    pub fn hold_back(&mut self, plan: &Plan, dispatch: Dispatch) {
        let [least, most] = LATE;
        let chance = self.options.chance(&plan.stage(dispatch.stage).name, [dispatch.sequence, u64::MAX, 0]);
        self.late.push((Instant::now() + least + (most - least).mul_f64(chance), dispatch));
    }

    /// Late attempts whose time has come.
    pub fn due(&mut self) -> Vec<Dispatch> {
        let now = Instant::now();
        self.late.extract_if(.., |(at, _)| *at <= now).map(|(_, dispatch)| dispatch).collect()
    }

    /// What the scheduler is to know of an event: that an end was nobody's fault.
    pub fn forgive(&mut self, event: Event) -> Event {
        if let Event::WorkerExited { worker, .. } = event {
            // What was to begin there is tried elsewhere.
            self.late.retain(|(_, dispatch)| dispatch.host != Host::Worker(worker));
        }
        match event {
            Event::AttemptFailed { attempt, failure } if self.attempts.remove(&attempt) => {
                Event::AttemptLost { attempt, failure }
            }
            Event::WorkerExited { worker, failure, .. } if self.workers.remove(&worker) => {
                Event::WorkerExited { worker, failure, cause: ExitCause::Engine }
            }
            event => event,
        }
    }

    /// What was injected since the last call.
    pub fn take_news(&mut self) -> Vec<RunEvent> {
        std::mem::take(&mut self.news)
    }

    /// How often what happened to which stage.
    pub fn injected(&self) -> Vec<(StageId, &'static str, u64)> {
        self.injected.iter().map(|((stage, fault), times)| (*stage, fault.word(), *times)).collect()
    }
}

impl ChaosOptions {
    /// A number from 0 to 1 that these alone decide.
    fn chance(&self, stage: &str, place: [u64; 3]) -> f64 {
        use sha2::{Digest, Sha256};
        let mut hash = Sha256::new();
        hash.update(self.seed.to_le_bytes());
        hash.update(stage);
        place.iter().for_each(|number| hash.update(number.to_le_bytes()));
        let bytes: [u8; 8] = hash.finalize()[..8].try_into().expect("a hash is longer");
        u64::from_le_bytes(bytes) as f64 / u64::MAX as f64
    }
}

fn possible(stage: &Stage, dispatch: &Dispatch) -> Vec<Fault> {
    let hang = stage.timeout.map(|_| Fault::Hang);
    match (&stage.kind, dispatch.host, &dispatch.work) {
        // What a lane's worker has is lost with it in any case.
        (StageKind::Python(_), Host::Worker(_), Work::Lane { .. } | Work::FinishLane { .. }) => {
            vec![Fault::Kill, Fault::Slow]
        }
        (StageKind::Python(_), Host::Worker(_), Work::Pull) => vec![Fault::Kill, Fault::Lose, Fault::Slow],
        (StageKind::Python(_), Host::Worker(_), _) => {
            [Fault::Kill, Fault::Lose, Fault::Slow, Fault::Replace].into_iter().chain(hang).collect()
        }
        // A task that is killed half way may not be able to begin again; a filter has other batches besides.
        (StageKind::Command(command), Host::Process, _)
            if matches!(command.mode, CommandMode::Once | CommandMode::Stream) =>
        {
            vec![Fault::Lose, Fault::Slow]
        }
        (StageKind::Command(_), Host::Process, _) => vec![Fault::Kill, Fault::Lose, Fault::Slow],
        (StageKind::Command(_), Host::NextProcess, _) => vec![Fault::Lose],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chance_follows_from_seed_stage_and_place() {
        let options = |seed| ChaosOptions { seed, rate: 0.1 };
        let one = options(1).chance("score", [1, 2, 3]);
        assert!((options(1).chance("score", [1, 2, 3]) - one).abs() < f64::EPSILON);
        let others = [options(2).chance("score", [1, 2, 3]), options(1).chance("other", [1, 2, 3])];
        assert!(others.iter().all(|other| (other - one).abs() > f64::EPSILON));
        let hits = (0..1000).filter(|batch| options(1).chance("score", [*batch, 0, 1]) < 0.1).count();
        assert!((60..140).contains(&hits), "{hits}");
    }
}
