//! Commands that are fed batch after batch: which of their processes gets the next one.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use super::LocalExecutor;
use super::processes::{Running, Talk, argv};
use crate::plan::{Command, Stage, StageId, StageKind};
use crate::run::executor::command::{OutputForm, Pipes};
use crate::run::executor::filter::{Care, Filter, Orders, Portion, Remains};
use crate::run::executor::guardian::{ProcessId, Spawn, Turn};
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

    fn add(&mut self, process: ProcessId, stage: StageId, orders: Orders) {
        let living = Living { stage, orders, busy: None, is_finishing: false, last_fed: 0 };
        self.filters.insert(process, living);
    }

    /// Gives a batch to the process that has waited longest; gives it back if there is none.
    fn feed(&mut self, stage: StageId, portion: Portion) -> Option<Portion> {
        let is_free = |living: &Living| living.stage == stage && living.busy.is_none() && !living.is_finishing;
        let free = self.filters.iter().filter(|(_, living)| is_free(living));
        let Some((&process, _)) = free.min_by_key(|(_, living)| living.last_fed) else { return Some(portion) };
        self.feed_to(process, portion);
        None
    }

    fn feed_to(&mut self, process: ProcessId, portion: Portion) {
        let living = self.filters.get_mut(&process).expect("what is fed lives");
        self.count += 1;
        living.last_fed = self.count;
        living.busy = Some(portion.attempt);
        living.orders.feed(portion);
    }

    /// Nothing follows for the filters of a stage, or for any.
    pub(super) fn finish(&mut self, stage: Option<StageId>) {
        let filters = self.filters.values_mut();
        filters.filter(|living| stage.is_none_or(|stage| living.stage == stage)).for_each(Living::finish);
    }

    fn finish_one(&mut self, process: ProcessId) {
        self.filters.get_mut(&process).into_iter().for_each(Living::finish);
    }

    /// Returns whose it was.
    pub(super) fn remove(&mut self, process: ProcessId) -> Option<StageId> {
        self.filters.remove(&process).map(|living| living.stage)
    }
}

impl Living {
    fn finish(&mut self) {
        if !self.is_finishing {
            self.is_finishing = true;
            self.orders.finish();
        }
    }
}

impl LocalExecutor {
    /// Feeds a batch to a process that waits, or to a new one. `alone`: to one that it has for itself.
    pub(super) fn run_for_stream(
        &mut self,
        stage: &Stage,
        command: &Command,
        portion: Portion,
        alone: bool,
    ) -> io::Result<()> {
        if alone {
            let process = self.start_filter(stage, command, portion.attempt, true)?;
            self.filters.feed_to(process, portion);
            self.filters.finish_one(process);
        } else if let Some(portion) = self.filters.feed(stage.id, portion) {
            let process = self.start_filter(stage, command, portion.attempt, false)?;
            self.filters.feed_to(process, portion);
        }
        Ok(())
    }

    fn start_filter(
        &mut self,
        stage: &Stage,
        command: &Command,
        attempt: AttemptId,
        alone: bool,
    ) -> io::Result<ProcessId> {
        let (Some(input), Some(format)) = (command.input, command.output) else {
            unreachable!("commands in mode `stream` have an input and an output")
        };
        let as_columns = !self.plan.is_read_as_lines(stage.id);
        let form = OutputForm { format, as_columns, returns: command.returns.clone() };
        let mut pipes = Pipes::new()?;
        if self.plan.is_in_foreground {
            pipes = pipes.with_terminal(true)?;
        }
        let argv = argv(&command.line);
        let env = self.command_env(stage, &command.line);
        // Its slot is free while it waits, so the guardian must not count it.
        let turn = Turn::Beside;
        let spawn =
            Spawn { argv: &argv, env: &env, cwd: &stage.cwd, fds: pipes.theirs, announced: true, timeout: None, turn };
        let process = self.guardian.spawn(spawn);
        let (filter, orders) = Filter::new(
            process,
            input,
            form,
            Care { is_alone: alone, silence: stage.timeout.map(|timeout| timeout.attempt) },
            self.mailbox.clone(),
        )?;
        let voice = Voice { stage: stage.id, name: stage.name.clone(), log: self.log.clone() };
        let start = Box::new(move || filter.run(pipes.ours, voice));
        let talk = Talk::Thread { end: pipes.end, start: Some(start) };
        self.commands.insert(process, Running { attempt: Some(attempt), stage: stage.id, talk });
        self.filters.add(process, stage.id, orders);
        Ok(process)
    }

    /// A filter has ended. What it leaves is tried again: what it was given by itself, so that what fails is known.
    pub(super) fn filter_ended(&mut self, mut remains: Remains) -> io::Result<()> {
        let Some(id) = self.filters.remove(remains.process) else { return Ok(()) };
        let unfed = remains.unfed();
        let Remains { undone, failure, .. } = remains;
        let plan = Arc::clone(&self.plan);
        let stage = plan.stage(id);
        let StageKind::Command(command) = &stage.kind else { unreachable!("only commands are filters") };
        if let Some(failure) = failure {
            self.events.push_back(Event::StageFailed { stage: id, failure });
            return Ok(());
        }
        for portion in undone {
            self.run_for_stream(stage, command, portion, true)?;
        }
        for portion in unfed {
            self.run_for_stream(stage, command, portion, false)?;
        }
        Ok(())
    }
}
