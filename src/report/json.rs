//! Events as JSON objects: the lines of `events.jsonl` and of `--progress json`. The format is versioned by `v` and described in
//! `docs/events.md`.

use std::time::Duration;

use serde_json::{Value, json};

use crate::plan::Plan;
use crate::run::{Activity, RunEvent, Speaker};

use super::run_summary::AccountSummary;
use super::words::{speaker, stage};

/// Version of the format.
pub(super) const VERSION: u32 = 1;

/// An event that happened `at` after the start.
pub fn event(plan: &Plan, event: &RunEvent, at: Duration) -> Value {
    let (name, fields) = match event {
        RunEvent::Started { folder, resumes, corrects, rolled_forward, cleaned_up } => (
            "started",
            json!({
                "pipeline": plan.name,
                "folder": folder.to_string_lossy(),
                "resumes": resumes,
                "corrects": corrects,
                "rolled_forward": rolled_forward,
                "cleaned_up": cleaned_up,
                "workers": plan.workers,
                "seed": plan.seed,
                "stages": plan.stages.iter().map(|stage| &stage.name).collect::<Vec<_>>(),
            }),
        ),
        RunEvent::WorkerStarted { worker, pid } => ("worker_started", json!({"worker": worker.0, "pid": pid})),
        RunEvent::WorkerExited { worker, pid, reason } => {
            ("worker_exited", json!({"worker": worker.0, "pid": pid, "reason": reason}))
        }
        RunEvent::AttemptFailed {
            stage: id,
            sequence,
            attempt,
            verdict,
            message,
            will_retry,
            begins_search,
            searching,
        } => (
            "attempt_failed",
            json!({"stage": stage(plan, *id), "batch": sequence, "attempt": attempt, "verdict": verdict.word(),
                "message": message, "will_retry": will_retry, "begins_search": begins_search, "searching": searching}),
        ),
        RunEvent::Throttled { stage: id, times, message } => {
            ("throttled", json!({"stage": stage(plan, *id), "times": times, "message": message}))
        }
        RunEvent::Injected { stage: id, sequence, fault } => {
            ("injected", json!({"stage": stage(plan, *id), "batch": sequence, "fault": fault}))
        }
        RunEvent::CheckpointReadsState { stage: id } => ("checkpoint_reads_state", json!({"stage": stage(plan, *id)})),
        RunEvent::CheckpointUnseen { stage: id, files } => {
            ("checkpoint_unseen", json!({"stage": stage(plan, *id), "files": files}))
        }
        RunEvent::CheckpointUnsound { stage: id, file } => {
            ("checkpoint_unsound", json!({"stage": stage(plan, *id), "file": file}))
        }
        RunEvent::CheckpointChanged { stage: id, changed } => {
            ("checkpoint_changed", json!({"stage": stage(plan, *id), "changed": changed}))
        }
        RunEvent::TaskUnchanged { stage: id } => ("task_unchanged", json!({"stage": stage(plan, *id)})),
        RunEvent::TaskChanged { stage: id, changed } => {
            ("task_changed", json!({"stage": stage(plan, *id), "changed": changed}))
        }
        RunEvent::Rejected { stage: id, sequence, rows, kept, verdict, message } => (
            "rejected",
            json!({"stage": stage(plan, *id), "batch": sequence, "rows": rows, "kept": kept, "verdict": verdict.word(),
                "message": message}),
        ),
        RunEvent::Draining { attempts, grace } => {
            ("draining", json!({"attempts": attempts, "grace_seconds": seconds(*grace)}))
        }
        RunEvent::SinkPublished { stage: id } => ("sink_published", json!({"stage": stage(plan, *id)})),
        RunEvent::StageEnded { stage: id, account: ended } => {
            ("stage_ended", json!({"stage": stage(plan, *id), "account": AccountSummary::from(ended)}))
        }
        RunEvent::Line { from, stream, batch, row, text } => {
            ("line", json!({"from": speaker(plan, from), "stream": stream, "batch": batch, "row": row, "text": text}))
        }
        RunEvent::Log { from, record } => (
            "log",
            json!({"level": record.level.to_lowercase(), "logger": record.logger, "stage": record.stage,
                "worker": worker(from), "batch": record.batch, "row": record.row, "message": record.message}),
        ),
        RunEvent::LinesDropped { from, lines } => {
            ("lines_dropped", json!({"from": speaker(plan, from), "lines": lines}))
        }
        RunEvent::Progress(snapshot) => {
            let stages = snapshot.stages.iter().map(|state| {
                json!({"stage": stage(plan, state.stage), "rows_in": state.rows_in, "rows_out": state.rows_out,
                    "rejected": state.rejected, "retries": state.retries, "running": state.running,
                    "queue_fill": (state.queue_fill * 100.0).round() / 100.0, "activity": activity(state.activity)})
            });
            let waited_for: serde_json::Map<String, Value> =
                snapshot.waited_for.iter().map(|(name, workers)| (name.clone(), json!(workers))).collect();
            let stages = stages.collect::<Vec<_>>();
            ("progress", json!({"stages": stages, "workers": snapshot.workers, "waited_for": waited_for}))
        }
    };
    let mut object = json!({"v": VERSION, "t": seconds(at), "event": name});
    if let (Value::Object(object), Value::Object(fields)) = (&mut object, fields) {
        object.extend(fields);
    }
    object
}

fn worker(from: &Speaker) -> Option<u32> {
    match from {
        Speaker::Worker { worker, .. } => Some(worker.0),
        Speaker::Command { .. } => None,
    }
}

fn activity(activity: Activity) -> &'static str {
    match activity {
        Activity::Busy => "busy",
        Activity::WaitsForInput => "waits_for_input",
        Activity::WaitsForStage => "waits_for_stage",
        Activity::WaitsForOutput => "waits_for_output",
        Activity::WaitsForWorker => "waits_for_worker",
        Activity::WaitsForResource => "waits_for_resource",
        Activity::Over => "over",
    }
}

/// Rounded to milliseconds.
pub(super) fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1000.0).round() / 1000.0
}
