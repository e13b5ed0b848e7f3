//! Commands, and what the guardian reports of processes.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::LocalExecutor;
use crate::batch::Batch;
use crate::plan::{CommandLine, Stage, StageId, StageKind, Verdict};
use crate::run::executor::command::{EndSender, Exchange, Pipes, signal_name};
use crate::run::executor::guardian::{ProcessEnd, ProcessId, Report, Spawn};
use crate::run::executor::mailbox::Message;
use crate::run::executor::resident::{failure, guarded};
use crate::run::executor::source_command::{self, SourcePipes};
use crate::run::scheduler::{AttemptId, Event, Scope};

/// A command that runs.
pub(super) struct Running {
    attempt: Option<AttemptId>,
    stage: StageId,
    end: Option<EndSender>,
    start: Option<Box<dyn FnOnce() + Send>>,
}

impl LocalExecutor {
    pub(super) fn command_env(&self, stage: &Stage, line: &CommandLine) -> BTreeMap<String, String> {
        let mut env = BTreeMap::new();
        if let CommandLine::Shell(_) = line {
            env.extend(self.plan.params.iter().map(|(name, value)| (name.clone(), param_text(value))));
        }
        env.extend(stage.env.clone());
        env
    }

    pub(super) fn run_command(&mut self, attempt: AttemptId, id: StageId, batch: Option<Batch>) -> io::Result<()> {
        let plan = Arc::clone(&self.plan);
        let stage = plan.stage(id);
        let StageKind::Command(command) = &stage.kind else { unreachable!("only commands are processes") };
        let origin = batch.as_ref().map(|batch| batch.origin().clone()).unwrap_or_default();
        let rows = batch.as_ref().map_or(0, Batch::rows) as u64;
        let input = match (&batch, command.input) {
            (Some(batch), Some(format)) => match batch.records() {
                Ok(records) => Some((format, records)),
                Err(error) => {
                    let failure = failure(Scope::Output, Verdict::Exception, error.to_string());
                    self.events.push_back(Event::AttemptFailed { attempt, failure });
                    return Ok(());
                }
            },
            _ => None,
        };
        let exchange = Exchange {
            stage: id,
            name: stage.name.clone(),
            input,
            output: command.output,
            returns: command.returns.clone(),
            log: self.log.clone(),
        };
        let pipes = Pipes::new()?;
        let mailbox = self.mailbox.clone();
        let start = move || {
            mailbox.send(match guarded(|| exchange.run(pipes.ours)) {
                Ok(output) => {
                    let batch = output.map(|records| {
                        let origin = origin.blur(records.num_rows());
                        Batch::new(records, origin)
                    });
                    Message::AttemptDone { attempt, rows, batch }
                }
                Err(failure) => Message::AttemptFailed { attempt, failure },
            });
        };
        let argv = argv(&command.line);
        let env = self.command_env(stage, &command.line);
        let spawn = Spawn { argv: &argv, env: &env, cwd: &stage.cwd, fds: pipes.theirs };
        let process = self.guardian.spawn(spawn);
        let running = Running { attempt: Some(attempt), stage: id, end: Some(pipes.end), start: Some(Box::new(start)) };
        self.commands.insert(process, running);
        Ok(())
    }

    /// One process whose standard output is a source.
    pub(super) fn start_command_source(&mut self, stage: &Stage) -> io::Result<()> {
        let StageKind::Command(command) = &stage.kind else { unreachable!("only commands get here") };
        let format = command.output.expect("a command without output is a task");
        let pipes = SourcePipes::new()?;
        let argv = argv(&command.line);
        let env = self.command_env(stage, &command.line);
        let process = self.guardian.spawn(Spawn { argv: &argv, env: &env, cwd: &stage.cwd, fds: pipes.theirs });
        let (log, name) = (self.log.clone(), stage.name.clone());
        let resident =
            source_command::resident(stage, format, pipes.ours, log, name, &self.files, self.mailbox.clone());
        match resident {
            Ok(resident) => {
                self.residents.insert(stage.id, resident);
            }
            Err(error) => self.stage_failed(stage.id, Scope::Input, &error),
        }
        let running = Running { attempt: None, stage: stage.id, end: Some(pipes.end), start: None };
        self.commands.insert(process, running);
        Ok(())
    }

    pub(super) fn guardian_reports(&mut self) -> io::Result<()> {
        self.guardian.flush();
        let reports = self.guardian.reports().map_err(io::Error::other)?;
        let Some(reports) = reports else { return Err(io::Error::other("the guardian process died")) };
        for report in reports {
            match report {
                Report::Spawned { process, pid } => match self.commands.get_mut(&process) {
                    Some(running) => {
                        if let Some(start) = running.start.take() {
                            std::thread::Builder::new().name("millpond-command".to_owned()).spawn(start)?;
                        }
                    }
                    None => self.pool.template_started(process, pid),
                },
                Report::SpawnFailed { process, message } => self.spawn_failed(process, message),
                Report::Exited { process, end } => match self.commands.remove(&process) {
                    Some(running) => {
                        if let Some(sender) = running.end {
                            sender.send(end);
                        }
                    }
                    None => self.pool.template_exited(process, &end_text(end), &mut self.poller),
                },
            }
        }
        Ok(())
    }

    pub(super) fn spawn_failed(&mut self, process: ProcessId, message: String) {
        let Some(running) = self.commands.remove(&process) else {
            self.pool.template_exited(process, &message, &mut self.poller);
            return;
        };
        let program = match &self.plan.stage(running.stage).kind {
            StageKind::Command(command) => argv(&command.line).into_iter().next().unwrap_or_default(),
            kind => unreachable!("{kind:?} is no command"),
        };
        let message = format!("`{program}` could not be started: {message}");
        let failure = failure(Scope::Opening, Verdict::Exception, message);
        self.events.push_back(match running.attempt {
            Some(attempt) => Event::AttemptFailed { attempt, failure },
            None => Event::StageFailed { stage: running.stage, failure },
        });
    }
}

fn argv(line: &CommandLine) -> Vec<String> {
    match line {
        CommandLine::Argv(argv) => argv.clone(),
        CommandLine::Shell(script) => {
            ["bash", "-euo", "pipefail", "-c", script].into_iter().map(str::to_owned).collect()
        }
    }
}

fn param_text(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// How a process ended, for people.
pub fn end_text(end: ProcessEnd) -> String {
    match (end.signal, end.status) {
        (Some(signal), _) => format!("it was killed by {}", signal_name(signal)),
        (None, Some(status)) => format!("it exited with status {status}"),
        (None, None) => "it ended in an unknown way".to_owned(),
    }
}
