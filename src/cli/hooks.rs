//! What a pipeline has for the end of its runs: the hooks of `on_failure` and `finally`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;

use super::args::Progress;
use super::exit_code::Exit;
use super::output;
use super::run::{complain, exit_of, style};
use crate::plan::{Hook, Moment, Plan, StageId};
use crate::report::{self, Reporter, RunSummary, Style, harmless};
use crate::run::executor::Surroundings;
use crate::run::publish::{Ended, RunRecord};
use crate::run::{self, Ending, Outcome, RunEvent, Signals};

/// Bytes of a message that hooks are given: Linux has a bound for each variable.
const LONGEST_MESSAGE: usize = 32 << 10;

/// What hooks are told of the run that has ended.
pub struct EndedRun<'a> {
    /// The run's own folder.
    pub folder: &'a Path,
    pub ended: Ended,
    pub exit: Exit,
    pub failed_stage: Option<String>,
    pub message: Option<String>,
    /// Where its summary is, if it has one.
    pub summary: Option<PathBuf>,
}

impl EndedRun<'_> {
    fn variables(&self) -> [(&'static str, String); 6] {
        let id = self.folder.file_name().unwrap_or_default();
        let message = harmless(self.message.as_deref().unwrap_or_default()).into_owned();
        let end = (0..=message.len().min(LONGEST_MESSAGE)).rev().find(|&end| message.is_char_boundary(end));
        [
            ("MILLPOND_RUN", id.to_string_lossy().into_owned()),
            ("MILLPOND_STATUS", self.ended.word().to_owned()),
            ("MILLPOND_EXIT_CODE", self.exit.code().to_string()),
            ("MILLPOND_FAILED_STAGE", self.failed_stage.clone().unwrap_or_default()),
            ("MILLPOND_MESSAGE", message[..end.unwrap_or(0)].to_owned()),
            ("MILLPOND_SUMMARY", self.summary.as_ref().map(|path| path.display().to_string()).unwrap_or_default()),
        ]
    }
}

/// The name of the stage whose failure ended a run.
pub fn failed_stage(plan: &Plan, outcome: &Outcome) -> Option<String> {
    match &outcome.ending {
        Ending::Failed(failure) => Some(plan.stage(failure.stage).rejects_of().to_owned()),
        _ => None,
    }
}

/// Carries out the hooks of a run, each whatever has become of those before it, until one is interrupted. Gives how the program would end
/// if the run itself had succeeded.
pub fn carry_out(
    hooks: &[Hook],
    run: &EndedRun<'_>,
    record: &RunRecord,
    surroundings: &Surroundings,
    signals: &Signals,
    progress: Progress,
) -> Exit {
    let is_due = |hook: &&Hook| match hook.moment {
        Moment::OnFailure => run.ended == Ended::Failed,
        Moment::Finally => true,
    };
    let mut exit = Exit::Success;
    for hook in hooks.iter().filter(is_due) {
        let done = carry_out_one(hook, run, record, surroundings, signals, progress);
        if progress == Progress::Json {
            let message = done.as_ref().err().map(|(_, message)| harmless(message).into_owned());
            let code = done.as_ref().err().map_or(0, |(exit, _)| exit.code());
            let event = json!({"v": 1, "event": "hook_ended", "moment": hook.moment.key(), "hook": hook.name(),
                "exit_code": code, "message": message});
            output::eprint(&format!("{event}\n"));
        }
        let Err((failed, message)) = done else { continue };
        if progress != Progress::Json {
            output::complain(&harmless(&format!("{}: {message}", hook.moment.key())));
        }
        let is_interrupt = matches!(failed, Exit::HungUp | Exit::Interrupted | Exit::Terminated);
        exit = if is_interrupt { failed } else { Exit::StageFailed };
        if is_interrupt {
            break;
        }
    }
    exit
}

fn carry_out_one(
    hook: &Hook,
    ended: &EndedRun<'_>,
    record: &RunRecord,
    surroundings: &Surroundings,
    signals: &Signals,
    progress: Progress,
) -> Result<(), (Exit, String)> {
    let mut plan = hook.plan.clone();
    for stage in &mut plan.stages {
        for (name, value) in ended.variables() {
            stage.env.entry(name.to_owned()).or_insert(value);
        }
    }
    let failed = |error: &run::RunError| (complain(error), format!("the hook `{}` could not be run", hook.name()));
    let signals = signals.anew().map_err(|error| failed(&error.into()))?;
    let shown = Arc::new(plan.clone());
    let style = match style(progress) {
        Style::Live | Style::Plain => Style::Plain,
        Style::Json | Style::None => Style::None,
    };
    let reporter = Reporter::start(Arc::clone(&shown), style).map_err(|error| failed(&error.into()))?;
    let mut tell = |event| {
        if matches!(event, RunEvent::Line { .. } | RunEvent::Log { .. } | RunEvent::AttemptFailed { .. }) {
            reporter.tell(event);
        }
    };
    let surroundings =
        Surroundings { chaos: None, forced: BTreeSet::<StageId>::new(), corrects: None, ..surroundings.clone() };
    let record = RunRecord { resumes: None, corrects: None, ..record.clone() };
    // Hooks are no runs of the pipeline: nothing can be gone on with.
    let state_dir = ended.folder.join("hooks");
    let outcome = run::open(&plan, &state_dir, &record, &surroundings, &mut tell)
        .and_then(|mut run| run::run(plan, &mut run, surroundings, &signals, &mut tell))
        .map_err(|error| failed(&error))?;
    let exit = exit_of(&shown, &outcome, &signals);
    let message = report::failure(&shown, &outcome);
    let summary = RunSummary::new(&shown, &outcome, exit.code(), message.as_deref());
    reporter.end(summary, false, String::new());
    match outcome.ending {
        Ending::Succeeded => Ok(()),
        Ending::Interrupted => Err((exit, format!("the hook `{}` was interrupted", hook.name()))),
        _ => Err((exit, message.unwrap_or_default())),
    }
}
