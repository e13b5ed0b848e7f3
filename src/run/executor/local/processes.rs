//! Commands, and what the guardian reports of processes.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;

use super::LocalExecutor;
use crate::batch::Batch;
use crate::plan::{Command, CommandLine, CommandMode, Stage, StageId, StageKind, Verdict};
use crate::run::executor::capture::{Capture, Heard, STDOUT_BYTES};
use crate::run::executor::command::{EndSender, Exchange, OutputForm, Pipes, check_end, signal_name};
use crate::run::executor::filter::Portion;
use crate::run::executor::guardian::{ProcessEnd, ProcessId, Report, Spawn, Turn};
use crate::run::executor::mailbox::Message;
use crate::run::executor::opening;
use crate::run::executor::poller::Token;
use crate::run::executor::resident::{failure, guarded};
use crate::run::executor::row_command::{self, Ran};
use crate::run::executor::source_command::{self, SourcePipes};
use crate::run::executor::talk::Voice;
use crate::run::executor::terminal;
use crate::run::scheduler::{AttemptId, Event, Failure, Output, Scope};
use crate::run::{Speaker, Stream};

const STREAMS: [Stream; 2] = [Stream::Stdout, Stream::Stderr];
/// Bytes that are read from a pipe at once.
pub(super) const READ_BYTES: usize = 64 << 10;
/// How often a pipe is read before others have their turn.
const READS: u32 = 16;

/// A command that runs.
pub(super) struct Running {
    pub(super) attempt: Option<AttemptId>,
    pub(super) stage: StageId,
    pub(super) talk: Talk,
}

/// Who listens to a command.
pub(super) enum Talk {
    /// A thread of its own, begun when the process runs.
    Thread { end: EndSender, start: Option<Box<dyn FnOnce() + Send>> },
    /// The event loop. `row` is the row that the command is run for.
    Loop { capture: Box<Capture>, row: Option<Batch> },
}

impl LocalExecutor {
    pub(super) fn command_env(&self, stage: &Stage, line: &CommandLine) -> BTreeMap<String, String> {
        let mut env = BTreeMap::new();
        if let CommandLine::Shell(_) = line {
            env.extend(self.plan.params_of(stage).iter().map(|(name, value)| (name.clone(), param_text(value))));
        }
        env.extend(stage.env.clone());
        env
    }

    /// What tells an attempt which devices it has.
    fn device_env(&mut self, attempt: AttemptId) -> BTreeMap<String, String> {
        opening::device_variables(&self.plan, &self.devices.remove(&attempt).unwrap_or_default())
    }

    /// `alone`: whether the batch failed before, or is a part of one.
    pub(super) fn run_command(
        &mut self,
        attempt: AttemptId,
        id: StageId,
        batch: Option<Batch>,
        turn: Turn,
        alone: bool,
    ) -> io::Result<()> {
        let plan = Arc::clone(&self.plan);
        let stage = plan.stage(id);
        let StageKind::Command(command) = &stage.kind else { unreachable!("only commands are processes") };
        match (command.mode, &batch) {
            (CommandMode::Batch, Some(batch)) => self.run_for_batch(attempt, stage, command, batch, turn),
            (CommandMode::Stream, Some(batch)) => {
                let batch = batch.clone();
                self.run_for_stream(stage, command, Portion { attempt, batch }, alone)
            }
            _ if command.files.is_some() => {
                self.look_at_task(attempt, id, turn);
                Ok(())
            }
            _ => self.run_alone(attempt, stage, command, None, batch, turn),
        }
    }

    /// One process with a batch as its input, and a thread that talks to it.
    fn run_for_batch(
        &mut self,
        attempt: AttemptId,
        stage: &Stage,
        command: &Command,
        batch: &Batch,
        turn: Turn,
    ) -> io::Result<()> {
        let origin = batch.origin().clone();
        let rows = batch.rows() as u64;
        let exchange = Exchange {
            voice: Voice { stage: stage.id, name: stage.name.clone(), log: self.log.clone() },
            input: command.input.map(|format| (format, batch.clone())),
            output: command.output.map(|format| OutputForm {
                format,
                as_columns: !self.plan.is_read_as_lines(stage.id),
                returns: command.returns.clone(),
            }),
        };
        let mut pipes = Pipes::new()?;
        if self.plan.is_in_foreground {
            pipes = pipes.with_terminal(exchange.output.is_some())?;
        }
        let mailbox = self.mailbox.clone();
        let start = move || {
            mailbox.send(match guarded(|| exchange.run(pipes.ours)) {
                Ok(output) => {
                    let batch = output.map(|rows| {
                        let origin = origin.blur(rows.len());
                        Batch::new(rows, origin)
                    });
                    Message::AttemptDone { attempt, rows, batch, failed: Vec::new() }
                }
                Err(failure) => Message::AttemptFailed { attempt, failure },
            });
        };
        let argv = argv(&command.line);
        let mut env = self.command_env(stage, &command.line);
        env.extend(self.device_env(attempt));
        let spawn = Spawn {
            argv: &argv,
            env: &env,
            cwd: &stage.cwd,
            fds: pipes.theirs,
            announced: true,
            timeout: allowed(stage),
            turn,
        };
        let process = self.guardian.spawn(spawn);
        let talk = Talk::Thread { end: pipes.end, start: Some(Box::new(start)) };
        self.commands.insert(process, Running { attempt: Some(attempt), stage: stage.id, talk });
        Ok(())
    }

    /// One process without input: for a row, or for the run. `values` is a row of what its arguments and variables may name.
    pub(super) fn run_alone(
        &mut self,
        attempt: AttemptId,
        stage: &Stage,
        command: &Command,
        named: Option<&Batch>,
        row: Option<Batch>,
        turn: Turn,
    ) -> io::Result<()> {
        let (argv, mut env) = match self.row_line(stage, &command.line, named.or(row.as_ref())) {
            Ok(line) => line,
            Err(failure) => {
                self.events.push_back(Event::AttemptFailed { attempt, failure });
                return Ok(());
            }
        };
        env.extend(self.device_env(attempt));
        // What a command writes for a row are values of it.
        let (capture, fds) = if self.plan.is_in_foreground && row.is_none() {
            (Capture::of_nothing(), vec![terminal::stdin()?, terminal::stdout()?, terminal::stderr()?])
        } else {
            let (capture, [stdout, stderr]) = Capture::new()?;
            (capture, vec![self.null.try_clone()?, stdout, stderr])
        };
        let timeout = allowed(stage);
        let spawn = Spawn { argv: &argv, env: &env, cwd: &stage.cwd, fds, announced: false, timeout, turn };
        let process = self.guardian.spawn(spawn);
        for stream in STREAMS {
            if let Some(pipe) = capture.fd(stream) {
                self.poller.add(Token::Command(process, stream), pipe)?;
            }
        }
        let talk = Talk::Loop { capture: Box::new(capture), row };
        self.commands.insert(process, Running { attempt: Some(attempt), stage: stage.id, talk });
        Ok(())
    }

    /// Ends the process of an attempt.
    pub(super) fn stop_command(&mut self, attempt: AttemptId) {
        let found = self.commands.iter().find(|(_, running)| running.attempt == Some(attempt));
        if let Some((&process, _)) = found {
            self.guardian.stop(process);
        }
    }

    /// The arguments and variables of a command, with the values of a row.
    fn row_line(
        &self,
        stage: &Stage,
        line: &CommandLine,
        row: Option<&Batch>,
    ) -> Result<(Vec<String>, BTreeMap<String, String>), Failure> {
        let env = self.command_env(stage, line);
        let Some(row) = row else { return Ok((argv(line), env)) };
        let records = row.records().map_err(|error| failure(Scope::Output, Verdict::Exception, error.to_string()))?;
        match line {
            CommandLine::Row(templates) => Ok((row_command::arguments(templates, &records)?, env)),
            CommandLine::Shell(script) => {
                let mut variables = env;
                variables.extend(row_command::variables(script, &records)?);
                variables.extend(stage.env.clone());
                Ok((argv(line), variables))
            }
            CommandLine::Argv(_) => Ok((argv(line), env)),
        }
    }

    /// A command that the loop listens to has written something, or closed a pipe.
    pub(super) fn command_speaks(&mut self, process: ProcessId, stream: Stream) {
        let heard = self.listen(process, stream);
        self.end_if_over(process, heard);
    }

    /// Reads what is there. Returns whether there was anything.
    fn listen(&mut self, process: ProcessId, stream: Stream) -> bool {
        let Some(Running { stage, talk: Talk::Loop { capture, row }, .. }) = self.commands.get_mut(&process) else {
            return false;
        };
        let mut heard = false;
        for _ in 0..READS {
            match capture.hear(stream, &mut self.buffer) {
                Heard::Bytes(bytes) => {
                    heard = true;
                    // A row keeps its output to itself.
                    if row.is_none() || stream == Stream::Stderr {
                        let name = &self.plan.stage(*stage).name;
                        self.log.write(name, &Speaker::Command { stage: *stage }, None, stream, bytes);
                    }
                    if row.is_some() || stream == Stream::Stderr {
                        capture.keep(stream, bytes);
                    }
                }
                Heard::Nothing => break,
                Heard::End => {
                    if let Some(pipe) = capture.fd(stream) {
                        self.poller.remove(Token::Command(process, stream), pipe);
                    }
                    capture.close(stream);
                    break;
                }
            }
        }
        heard
    }

    fn stop_listening(&mut self, process: ProcessId, capture: &Capture) {
        for stream in STREAMS {
            if let Some(pipe) = capture.fd(stream) {
                self.poller.remove(Token::Command(process, stream), pipe);
            }
        }
    }

    fn end_if_over(&mut self, process: ProcessId, heard: bool) {
        let Some(Running { talk: Talk::Loop { capture, .. }, .. }) = self.commands.get(&process) else { return };
        let Some(end) = capture.is_over(heard) else { return };
        self.lingering.remove(&process);
        self.failing.remove(&process);
        let Some(Running { attempt: Some(attempt), talk: Talk::Loop { mut capture, row }, .. }) =
            self.commands.remove(&process)
        else {
            return;
        };
        self.stop_listening(process, &capture);
        let rows = row.as_ref().map_or(0, Batch::rows) as u64;
        let judged = judge(&mut capture, end, row.as_ref());
        if self.task_ended(attempt, judged.is_ok()) {
            return;
        }
        let event = match judged {
            Ok(output) => {
                let outputs = output.map(|batch| Output { port: 0, batch: self.keep(batch) });
                Event::AttemptDone {
                    attempt,
                    rows,
                    outputs: outputs.into_iter().collect(),
                    end: false,
                    spent: std::time::Duration::ZERO,
                    failed: Vec::new(),
                }
            }
            Err(failure) => Event::AttemptFailed { attempt, failure },
        };
        self.events.push_back(event);
    }

    /// Looks after commands that have ended, while something that they left running holds their pipes.
    pub(super) fn mind_lingering(&mut self) {
        for process in self.lingering.clone() {
            self.end_if_over(process, false);
        }
    }

    /// One process whose standard output is a source.
    pub(super) fn start_command_source(&mut self, stage: &Stage) -> io::Result<()> {
        let StageKind::Command(command) = &stage.kind else { unreachable!("only commands get here") };
        let format = command.output.expect("a command without output is a task");
        let pipes = SourcePipes::new(self.plan.is_in_foreground)?;
        let argv = argv(&command.line);
        let env = self.command_env(stage, &command.line);
        let spawn = Spawn {
            argv: &argv,
            env: &env,
            cwd: &stage.cwd,
            fds: pipes.theirs,
            announced: false,
            timeout: None,
            turn: Turn::Beside,
        };
        let process = self.guardian.spawn(spawn);
        let log = self.log.clone();
        let as_columns = !self.plan.is_read_as_lines(stage.id);
        let resident =
            source_command::resident(stage, format, as_columns, pipes.ours, log, &self.files, self.mailbox.clone());
        match resident {
            Ok(resident) => {
                self.residents.insert(stage.id, resident);
            }
            Err(error) => self.stage_failed(stage.id, Scope::Input, &error),
        }
        let talk = Talk::Thread { end: pipes.end, start: None };
        self.commands.insert(process, Running { attempt: None, stage: stage.id, talk });
        Ok(())
    }

    pub(super) fn guardian_reports(&mut self) -> io::Result<()> {
        self.guardian.flush();
        let reports = self.guardian.reports().map_err(io::Error::other)?;
        let Some(reports) = reports else { return Err(io::Error::other("the guardian process died")) };
        for report in reports {
            match report {
                Report::Spawned { process } => {
                    if let Some(Running { talk: Talk::Thread { start, .. }, .. }) = self.commands.get_mut(&process)
                        && let Some(start) = start.take()
                    {
                        std::thread::Builder::new().name("millpond-command".to_owned()).spawn(start)?;
                    }
                }
                Report::SpawnFailed { process, errno, message } => self.spawn_failed(process, errno, message),
                Report::Exited { process, end, time } => self.process_exited(process, end, time),
            }
        }
        Ok(())
    }

    fn process_exited(&mut self, process: ProcessId, end: ProcessEnd, time: Duration) {
        match self.commands.get_mut(&process) {
            None => self.pool.template_exited(process, &end_text(end), &mut self.poller),
            Some(Running { talk: Talk::Loop { capture, .. }, .. }) => {
                capture.end(end, time);
                let mut heard = false;
                for stream in STREAMS {
                    heard |= self.listen(process, stream);
                }
                self.lingering.insert(process);
                if !end.is_good() {
                    self.failing.insert(process);
                }
                self.end_if_over(process, heard);
            }
            Some(Running { talk: Talk::Thread { .. }, .. }) => {
                if let Some(Running { talk: Talk::Thread { end: sender, .. }, .. }) = self.commands.remove(&process) {
                    sender.send(end);
                }
            }
        }
    }

    fn spawn_failed(&mut self, process: ProcessId, errno: Option<i32>, message: String) {
        let Some(running) = self.commands.remove(&process) else {
            self.pool.template_exited(process, &message, &mut self.poller);
            return;
        };
        if let Talk::Loop { capture, .. } = &running.talk {
            self.stop_listening(process, capture);
        }
        self.filters.remove(process);
        running.attempt.map(|attempt| self.task_ended(attempt, false));
        let stage = self.plan.stage(running.stage);
        let line = match &stage.kind {
            StageKind::Command(command) => &command.line,
            kind => unreachable!("{kind:?} is no command"),
        };
        let row = if let Talk::Loop { row, .. } = &running.talk { row.as_ref() } else { None };
        let started = self.row_line(stage, line, row).map_or_else(|_| argv(line), |(started, _)| started);
        let program = started.into_iter().next().unwrap_or_default();
        let message = format!("`{program}` could not be started: {message}");
        // The arguments, or the program itself, may be a row's.
        let is_the_rows = match line {
            CommandLine::Row(templates) => {
                templates.first().is_some_and(|program| program.columns().next().is_some())
                    || errno.map(Errno::from_raw_os_error) == Some(Errno::TOOBIG)
            }
            CommandLine::Shell(_) => errno.map(Errno::from_raw_os_error) == Some(Errno::TOOBIG),
            CommandLine::Argv(_) => false,
        };
        let scope = if is_the_rows { Scope::Rows } else { Scope::Opening };
        let failure = failure(scope, Verdict::Exception, message);
        self.events.push_back(match running.attempt {
            Some(attempt) => Event::AttemptFailed { attempt, failure },
            None => Event::StageFailed { stage: running.stage, failure },
        });
    }
}

/// What came of a process that the loop has listened to: its row with what it gave, if it was for a row.
fn judge(capture: &mut Capture, end: ProcessEnd, row: Option<&Batch>) -> Result<Option<Batch>, Failure> {
    let (stdout, stderr) = capture.take();
    let stderr = String::from_utf8_lossy(&stderr).into_owned();
    check_end(end, stderr.trim_end())?;
    let Some(row) = row else { return Ok(None) };
    let failed = |message: String| failure(Scope::Rows, Verdict::Schema, message);
    let stdout = stdout.ok_or_else(|| {
        let limit = STDOUT_BYTES >> 20;
        failed(format!("the command wrote more than {limit} MiB for one row; let it write to a file"))
    })?;
    let stdout = String::from_utf8(stdout).map_err(|_| failed("the command's output is not valid UTF-8".to_owned()))?;
    let ran = Ran { stdout, stderr, exit_code: end.status.unwrap_or_default(), time: capture.time() };
    let records = row.records().map_err(|error| failure(Scope::Output, Verdict::Exception, error.to_string()))?;
    Ok(Some(Batch::new(row_command::output(&records, ran)?, row.origin().clone())))
}

/// How long a process may run that is there for one attempt.
fn allowed(stage: &Stage) -> Option<Duration> {
    stage.timeout.map(|timeout| timeout.attempt)
}

pub(super) fn argv(line: &CommandLine) -> Vec<String> {
    match line {
        CommandLine::Argv(argv) => argv.clone(),
        CommandLine::Row(templates) => templates.iter().map(|template| template.source.clone()).collect(),
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
