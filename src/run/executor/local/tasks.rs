//! Tasks that say what they read and make: they are run only if something of that has changed.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};

use super::LocalExecutor;
use crate::batch::{Batch, Origin};
use crate::plan::{StageId, StageKind, TaskFiles, Verdict};
use crate::run::RunEvent;
use crate::run::executor::checkpoint::{self, Findings, Fingerprint, Lock, TaskError};
use crate::run::executor::guardian::Turn;
use crate::run::executor::mailbox::Message;
use crate::run::executor::resident::{failure, guarded};
use crate::run::publish::{Reserved, publish_reserved};
use crate::run::scheduler::{AttemptId, Event, Failure, Scope};

/// The tasks of a run that have files.
pub(super) struct Tasks {
    pub(super) state_dir: PathBuf,
    begun: BTreeMap<AttemptId, Begun>,
    news: Vec<RunEvent>,
}

/// A task that runs.
struct Begun {
    stage: StageId,
    lock: Lock,
    /// Of what it reads, before it began.
    fingerprint: Fingerprint,
    /// Where it writes outputs to that have names.
    staged: Vec<Reserved>,
}

impl Tasks {
    pub(super) fn new(state_dir: PathBuf) -> Self {
        Self { state_dir, begun: BTreeMap::new(), news: Vec::new() }
    }

    pub(super) fn take_news(&mut self) -> Vec<RunEvent> {
        std::mem::take(&mut self.news)
    }
}

impl LocalExecutor {
    /// Reading large files takes a while: another thread does it.
    pub(super) fn look_at_task(&self, attempt: AttemptId, stage: StageId, turn: Turn) {
        let (plan, mailbox, state_dir) = (Arc::clone(&self.plan), self.mailbox.clone(), self.tasks.state_dir.clone());
        rayon::spawn(move || {
            let result = guarded(|| {
                let stage = plan.stage(stage);
                let lock = checkpoint::lock(&plan, stage, &state_dir).map_err(|error| failed(Scope::Output, &error))?;
                let findings =
                    checkpoint::look(&plan, stage, &state_dir).map_err(|error| failed(Scope::Input, &error))?;
                Ok((lock, findings))
            });
            mailbox.send(Message::TaskLooked { attempt, stage, turn, result: result.map(Box::new) });
        });
    }

    pub(super) fn task_looked(
        &mut self,
        attempt: AttemptId,
        stage: StageId,
        turn: Turn,
        result: Result<Box<(Lock, Findings)>, Failure>,
    ) -> io::Result<()> {
        let (lock, findings) = match result {
            Ok(found) => *found,
            Err(failure) => {
                self.events.push_back(Event::AttemptFailed { attempt, failure });
                return Ok(());
            }
        };
        let foreign = findings.foreign(&self.plan, self.plan.stage(stage)).map(Path::to_owned);
        let Findings { fingerprint, changed, .. } = findings;
        let is_forced = self.surroundings.forced.contains(&stage);
        match changed {
            Some(changed) if changed.is_empty() && !is_forced => {
                self.tasks.news.push(RunEvent::TaskUnchanged { stage });
                self.events.push_back(ended_well(attempt));
                return Ok(());
            }
            Some(changed) if !changed.is_empty() => self.tasks.news.push(RunEvent::TaskChanged { stage, changed }),
            Some(_) | None => {}
        }
        if let Some(folder) = foreign {
            let message = format!(
                "the folder {} is there already, and it was not this task that made it: what is in it would be lost; remove it, or \
                 name another output",
                folder.display()
            );
            let failure = failure(Scope::Output, Verdict::Exception, message);
            self.events.push_back(Event::AttemptFailed { attempt, failure });
            return Ok(());
        }
        let plan = Arc::clone(&self.plan);
        let stage = plan.stage(stage);
        let files = stage.task_files().expect("only tasks with files are looked at");
        let staged = match self.reserve(files) {
            Ok(staged) => staged,
            Err(error) => {
                self.events.push_back(Event::AttemptFailed { attempt, failure: failed(Scope::Output, &error) });
                return Ok(());
            }
        };
        let named = outputs_as_row(files, &staged);
        self.tasks.begun.insert(attempt, Begun { stage: stage.id, lock, fingerprint, staged });
        let StageKind::Command(command) = &stage.kind else { unreachable!("tasks are commands") };
        self.run_alone(attempt, stage, command, named.as_ref(), None, turn)
    }

    fn reserve(&mut self, files: &TaskFiles) -> Result<Vec<Reserved>, crate::run::publish::PublishError> {
        let staging = self.staging.as_mut().expect("tasks run before the commit");
        let named = files.outputs.iter().filter(|output| output.name.is_some());
        named.map(|output| staging.reserve(&output.path)).collect()
    }

    /// The process of an attempt has ended. Returns whether it is one of a task with files, of which more is to be done before it is over.
    pub(super) fn task_ended(&mut self, attempt: AttemptId, is_good: bool) -> bool {
        let Some(Begun { stage, lock, fingerprint, staged }) = self.tasks.begun.remove(&attempt) else { return false };
        if !is_good {
            return false;
        }
        let (plan, mailbox, state_dir) = (Arc::clone(&self.plan), self.mailbox.clone(), self.tasks.state_dir.clone());
        rayon::spawn(move || {
            let result = guarded(|| {
                let stage = plan.stage(stage);
                let places: BTreeMap<&Path, &Path> =
                    staged.iter().map(|reserved| (reserved.asked(), reserved.staged())).collect();
                // All of them, or none; and what is noted is what this run has made, whoever writes there next.
                let made = checkpoint::made(&plan, stage, |path| places.get(path).map(|staged| (*staged).to_owned()));
                let made = made.map_err(|error| not_made(&error))?;
                for reserved in &staged {
                    publish_reserved(reserved).map_err(|error| failed(Scope::Output, &error))?;
                }
                let noted = checkpoint::note(&plan, stage, &state_dir, &fingerprint, &made);
                drop(lock);
                noted.map_err(|error| not_made(&error))
            });
            mailbox.send(match result {
                Ok(()) => Message::AttemptDone { attempt, rows: 0, batch: None, failed: Vec::new() },
                Err(failure) => Message::AttemptFailed { attempt, failure },
            });
        });
        true
    }
}

fn ended_well(attempt: AttemptId) -> Event {
    Event::AttemptDone {
        attempt,
        rows: 0,
        outputs: Vec::new(),
        end: false,
        spent: std::time::Duration::ZERO,
        failed: Vec::new(),
    }
}

fn failed(scope: Scope, error: &dyn std::error::Error) -> Failure {
    failure(scope, Verdict::Exception, error.to_string())
}

fn not_made(error: &TaskError) -> Failure {
    match error {
        // The command may do better when it is tried again.
        TaskError::NotMade { .. } => failed(Scope::Rows, error),
        TaskError::Output { .. } | TaskError::Record { .. } | TaskError::Held { .. } => failed(Scope::Output, error),
    }
}

/// The paths that outputs with names are written to, as the columns of a row: a command is given them as it would be given one.
fn outputs_as_row(files: &TaskFiles, staged: &[Reserved]) -> Option<Batch> {
    if staged.is_empty() {
        return None;
    }
    let names = files.outputs.iter().filter_map(|output| output.name.as_deref());
    let columns = names.zip(staged).map(|(name, reserved)| {
        let path: ArrayRef = Arc::new(StringArray::from(vec![reserved.staged().to_string_lossy().into_owned()]));
        (name, path)
    });
    let row = RecordBatch::try_from_iter(columns).expect("columns of one row each");
    Some(Batch::new(row, Origin::unknown(1)))
}
