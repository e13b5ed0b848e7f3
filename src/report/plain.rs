//! A line per event that matters, for logs and CI.

use crate::plan::Plan;
use crate::run::{RunEvent, Speaker};

use super::words::{count, counted, some, speaker, written};

/// The line for an event, if it gets one.
pub fn line(plan: &Plan, event: &RunEvent) -> Option<String> {
    Some(match event {
        RunEvent::Started { folder, resumes, corrects, rolled_forward, cleaned_up } => {
            let mut text = format!("run {}", folder.file_name()?.to_string_lossy());
            if let Some(earlier) = resumes {
                text += &format!(", which goes on with {earlier}");
            }
            if let Some(earlier) = corrects {
                text += &format!(", which does again what {earlier} has rejected");
            }
            if *rolled_forward > 0 {
                let outputs = counted(*rolled_forward as u64, "output");
                text = format!("{outputs} of an interrupted run published\n{text}");
            }
            if *cleaned_up > 0 {
                let files = counted(*cleaned_up as u64, "unfinished file");
                text = format!("{files} of an interrupted run removed\n{text}");
            }
            text
        }
        RunEvent::WorkerExited { worker, pid, reason } => {
            if reason.ends_with("status 0") {
                return None;
            }
            format!("worker {} (pid {pid}): {reason}", worker.0)
        }
        // The search for the rows to blame is one story, told by its result.
        RunEvent::AttemptFailed { searching: true, .. } => return None,
        RunEvent::AttemptFailed {
            stage: id, sequence, attempt, verdict, message, will_retry, begins_search, ..
        } => {
            let next = match (begins_search, will_retry) {
                (true, _) => "; now the rows to blame are searched for",
                (false, true) => "; tried again",
                (false, false) => "",
            };
            let name = written(plan, *id);
            format!("{name}: batch {sequence}, attempt {attempt}: {}: {message}{next}", verdict.word())
        }
        RunEvent::Throttled { stage: id, times, message } => {
            format!("{}: throttled {}, the last time: {message}", written(plan, *id), counted(*times, "time"))
        }
        RunEvent::TaskUnchanged { stage: id } => {
            format!("{}: not run, as nothing has changed since it ended well", written(plan, *id))
        }
        RunEvent::SinkPublished { stage: id } => {
            format!("{}: published, as stages wait for it", written(plan, *id))
        }
        RunEvent::TaskChanged { stage: id, changed } => {
            format!("{}: run again, as this has changed: {}", written(plan, *id), some(changed))
        }
        RunEvent::Rejected { stage: id, sequence, rows, kept, verdict, message } => {
            let verb = if *kept { "rejected" } else { "skipped" };
            let name = written(plan, *id);
            format!("{name}: batch {sequence}: {} {verb} ({}: {message})", counted(*rows, "row"), verdict.word())
        }
        RunEvent::Draining { attempts, grace } => format!(
            "interrupted: waiting up to {} s for {} to end; interrupt once more to end at once",
            grace.as_secs(),
            counted(*attempts as u64, "attempt")
        ),
        RunEvent::StageEnded { stage: id, .. } if plan.stage(*id).is_added() => return None,
        RunEvent::StageEnded { stage: id, account } => {
            let name = written(plan, *id);
            let in_out = match (plan.stage(*id).inputs.is_empty(), plan.stage(*id).ports.is_empty()) {
                (true, _) => counted(account.rows_out, "row"),
                (false, true) => counted(account.rows_in, "row"),
                (false, false) => {
                    format!("{} in, {} out", counted(account.rows_in, "row"), count(account.rows_out))
                }
            };
            format!("{name}: done, {in_out}")
        }
        RunEvent::Line { from, batch, row, text, .. } => {
            format!("[{}{}] {text}", speaker(plan, from), place(*batch, *row))
        }
        RunEvent::Log { from, record } => {
            let name = match (from, &record.stage) {
                (Speaker::Worker { worker, .. }, Some(stage)) => format!("{stage}[{}]", worker.0),
                _ => format!("[{}]", speaker(plan, from)),
            };
            let place = place(record.batch, record.row);
            format!("{name}{place} {} {}: {}", record.level, record.logger, record.message)
        }
        RunEvent::LinesDropped { from, lines } => {
            format!("[{}] {} more; all are in the run's folder", speaker(plan, from), counted(*lines, "line"))
        }
        RunEvent::CheckpointUnseen { stage, files } => {
            let files: Vec<String> = files.iter().map(|file| format!("`{}`", file.display())).collect();
            format!(
                "{}: batches are not kept, as the code imports {}, which cannot be seen from its `import`s: name it under `checkpoint: \
                 {{ depends: … }}`",
                plan.stage(*stage).written_name(),
                files.join(", ")
            )
        }
        RunEvent::CheckpointReadsState { stage } => format!(
            "{}: batches are not kept, as the code reads the state of the run, which may be another the next time",
            plan.stage(*stage).written_name()
        ),
        RunEvent::CheckpointUnsound { stage, file } => {
            let name = plan.stage(*stage).written_name();
            format!("{name}: `{file}` is damaged, or not of millpond: its batch is done again")
        }
        RunEvent::CheckpointChanged { stage, changed } => {
            format!(
                "{}: batches are done again, as this has changed: {}",
                plan.stage(*stage).written_name(),
                some(changed)
            )
        }
        // The summary counts what was injected.
        RunEvent::WorkerStarted { .. } | RunEvent::Injected { .. } | RunEvent::Progress(_) => return None,
    })
}

/// ` batch 3 row 5`, as far as it is known.
fn place(batch: Option<u64>, row: Option<u64>) -> String {
    let batch = batch.map(|batch| format!(" batch {batch}")).unwrap_or_default();
    let row = row.map(|row| format!(" row {row}")).unwrap_or_default();
    format!("{batch}{row}")
}
