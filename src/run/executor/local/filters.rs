//! Commands that are fed batch after batch: which of their processes gets the next one.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use super::LocalExecutor;
use super::processes::{Running, Talk, argv};
use crate::plan::{Command, Stage, StageId, StageKind};
use crate::run::executor::command::{OutputForm, Pipes};
use crate::run::executor::filter::{Filter, Orders, Portion, Remains};
use crate::run::executor::guardian::{ProcessId, Spawn};
use crate::run::executor::talk::Voice;
use crate::run::scheduler::{AttemptId, BatchId, Event};

/// The filters that live.
#[derive(Default)]
pub(super) struct Filters {
    filters: BTreeMap<ProcessId, Living>,
    /// Batches that were handed out: another time they are tried in processes of their own.
    tried: BTreeSet<BatchId>,
    /// Portions handed out so far.
    count: u64,
}

struct Living {
    stage: StageId,
    orders: Orders,
    /// The attempt that keeps it busy: another has to go to another process.
    busy: Option<AttemptId>,
    is_finishing: bool,
    last_fed: u64,
}

impl Filters {
    pub(super) fn is_empty(&self) -> bool {
        self.filters.is_empty()
    }

    /// Whether the batch was tried before. From now on it was.
    pub(super) fn is_tried(&mut self, batch: BatchId) -> bool {
        !self.tried.insert(batch)
    }

    pub(super) fn forget(&mut self, batch: BatchId) {
        self.tried.remove(&batch);
    }

    /// The attempt does not keep its process from taking another one.
    pub(super) fn rest(&mut self, attempt: AttemptId) {
        if let Some(living) = self.filters.values_mut().find(|living| living.busy == Some(attempt)) {
            living.busy = None;
        }
    }

    /// Gives a batch to the process that has waited longest; gives it back if there is none.
    fn feed(&mut self, stage: StageId, portion: Portion) -> Option<Portion> {
        let free = self.filters.values_mut();
        let free = free.filter(|living| living.stage == stage && living.busy.is_none() && !living.is_finishing);
        let Some(living) = free.min_by_key(|living| living.last_fed) else { return Some(portion) };
        self.count += 1;
        living.last_fed = self.count;
        living.busy = Some(portion.attempt);
        living.orders.feed(portion);
        None
    }

    /// Nothing follows for the filters of a stage, or for any.
    pub(super) fn finish(&mut self, stage: Option<StageId>) {
        for living in self.filters.values_mut().filter(|living| stage.is_none_or(|stage| living.stage == stage)) {
            if !living.is_finishing {
                living.is_finishing = true;
                living.orders.finish();
            }
        }
    }

    pub(super) fn remove(&mut self, process: ProcessId) {
        self.filters.remove(&process);
    }
}

impl LocalExecutor {
    /// Feeds a batch to a process that waits, or to a new one.
    pub(super) fn run_for_stream(&mut self, stage: &Stage, command: &Command, portion: Portion) -> io::Result<()> {
        let Some(portion) = self.filters.feed(stage.id, portion) else { return Ok(()) };
        let (Some(input), Some(output)) = (command.input, command.output) else {
            unreachable!("commands in mode `stream` have an input and an output")
        };
        let form = OutputForm {
            format: output,
            as_columns: !self.plan.is_read_as_lines(stage.id),
            returns: command.returns.clone(),
        };
        let pipes = Pipes::new()?;
        let argv = argv(&command.line);
        let env = self.command_env(stage, &command.line);
        let spawn = Spawn { argv: &argv, env: &env, cwd: &stage.cwd, fds: pipes.theirs, announced: true };
        let process = self.guardian.spawn(spawn);
        let (filter, orders) = Filter::new(process, input, form, self.mailbox.clone())?;
        let voice = Voice { stage: stage.id, name: stage.name.clone(), log: self.log.clone() };
        let start = Box::new(move || filter.run(pipes.ours, voice));
        let attempt = Some(portion.attempt);
        let talk = Talk::Thread { end: pipes.end, start: Some(start) };
        self.commands.insert(process, Running { attempt, stage: stage.id, talk });
        let living = Living { stage: stage.id, orders, busy: None, is_finishing: false, last_fed: 0 };
        self.filters.filters.insert(process, living);
        self.filters.feed(stage.id, portion);
        Ok(())
    }

    /// A filter has ended. What it leaves is tried again: what it was given by itself, so that what fails is known.
    pub(super) fn filter_ended(&mut self, remains: Remains) -> io::Result<()> {
        let Remains { process, unfed, undone, failure } = remains;
        let Some(living) = self.filters.filters.remove(&process) else { return Ok(()) };
        let plan = Arc::clone(&self.plan);
        let stage = plan.stage(living.stage);
        let StageKind::Command(command) = &stage.kind else { unreachable!("only commands are filters") };
        if let Some(failure) = failure {
            self.events.push_back(Event::StageFailed { stage: stage.id, failure });
        }
        for portion in undone {
            self.run_for_batch(portion.attempt, stage, command, &portion.batch)?;
        }
        for portion in unfed {
            self.run_for_stream(stage, command, portion)?;
        }
        Ok(())
    }
}
