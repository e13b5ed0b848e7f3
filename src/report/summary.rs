//! The end of a run, for people: what failed, the accounts, and where the time went.

use std::fmt::Write;
use std::time::Duration;

use serde_json::Value;

use crate::plan::{LeftOut, Plan, Port, Reason, Stage, StageKind, Write as Sink, WriteMode, WriteTarget};
use crate::run::{Ending, Outcome, Scope, StageAccount, StageFailure};

use super::words::{count, counted, duration, table};

/// Outputs that are told one by one.
const MOST_OUTPUTS: usize = 10;

/// What went wrong, in one line and with its details; `None` if nothing did.
pub fn failure(plan: &Plan, outcome: &Outcome) -> Option<String> {
    match &outcome.ending {
        Ending::Succeeded => None,
        Ending::Failed(failure) if failure.failure.scope == Scope::ClosedPipe => {
            Some(format!("standard output was closed; {}", published(plan, outcome)))
        }
        Ending::Failed(failure) => Some(stage_failure(plan, outcome, failure)),
        Ending::CommitFailed(failure) => Some(format!(
            "the outputs could not all be published: {}\n{}The next run of this pipeline completes or undoes it first.",
            failure.message,
            early(plan, outcome).map_or_else(String::new, |early| format!("{early} had been published before.\n"))
        )),
        Ending::Interrupted => Some(format!("interrupted; {}", published(plan, outcome))),
        Ending::TookTooLong(limit) => Some(format!(
            "the run took longer than the {} that it may (`--timeout`); {}",
            humantime::format_duration(*limit),
            published(plan, outcome)
        )),
        Ending::AccountsDiffer(differences) => {
            let published = published(plan, outcome);
            let mut text = format!("rows were lost or doubled inside millpond; {published}. Please report this.");
            for difference in differences {
                let edge = plan.edge(difference.edge);
                let (from, to) = (&plan.stage(edge.from).name, &plan.stage(edge.to).name);
                let (published, consumed) = (count(difference.published), count(difference.consumed));
                let _ = write!(text, "\n  from `{from}` to `{to}`: {published} rows published, {consumed} consumed");
            }
            Some(text)
        }
        Ending::Stuck(waiting) => Some(format!(
            "nothing runs any more, and nothing can; {}. Please report this.\n  {}",
            published(plan, outcome),
            waiting.join("\n  ")
        )),
    }
}

/// What a run that has not succeeded has published.
fn published(plan: &Plan, outcome: &Outcome) -> String {
    match early(plan, outcome) {
        None => "nothing was published".to_owned(),
        Some(early) => format!("nothing was published but {early}"),
    }
}

/// The sinks that were published before the end, if there are any.
fn early(plan: &Plan, outcome: &Outcome) -> Option<String> {
    let early: Vec<_> = outcome.published_early.iter().map(|id| format!("`{}`", plan.stage(*id).name)).collect();
    (!early.is_empty()).then(|| early.join(", "))
}

fn stage_failure(plan: &Plan, outcome: &Outcome, failed: &StageFailure) -> String {
    let stage = plan.stage(failed.stage);
    let verdict = failed.failure.verdict.word();
    let (name, message) = (stage.written_name(), &failed.failure.message);
    let mut text = match failed.failure.scope {
        Scope::Budget => format!("stage `{name}` is over its error budget: {message}"),
        Scope::Input => format!("stage `{name}` could not read its input: {message}"),
        Scope::Output => format!("stage `{name}` could not write: {message}"),
        _ => format!("stage `{name}` failed ({verdict}): {message}"),
    };
    let lane_place = outcome.place.as_ref().map(|place| format!("at {place}"));
    let place = failed.rows.as_ref().map(|(_, rows)| match (&outcome.place, rows.end - rows.start) {
        (Some(place), 1) => format!("at {place}"),
        (Some(place), number) => format!("at {} that fail together, the first being {place}", counted(number, "row")),
        (None, 1) => format!("at row {} of its batch", rows.start + 1),
        (None, _) => format!("at rows {} to {} of its batch", rows.start + 1, rows.end),
    });
    let place = place.or(lane_place);
    let batch = failed
        .sequence
        .map(|sequence| format!("batch {sequence}, after {}", counted(failed.attempts.into(), "attempt")));
    match (place, batch) {
        (Some(place), Some(batch)) => {
            let _ = write!(text, "\n  {place} ({batch})");
        }
        (None, Some(batch)) => {
            let _ = write!(text, "\n  {batch}");
        }
        _ => {}
    }
    let _ = write!(text, "\n  stage defined at {}:{}", stage.file.as_ref().unwrap_or(&plan.file).display(), stage.line);
    if !outcome.published_early.is_empty() {
        let _ = write!(text, "\n  {}", published(plan, outcome));
    }
    let traceback = failed.failure.traceback.trim_end();
    // An error without frames of the user's is said already.
    if traceback != failed.failure.message.trim_end() && !traceback.is_empty() {
        let _ = write!(text, "\n\n{traceback}");
    }
    text
}

/// The whole text at the end of a run.
pub fn summary(plan: &Plan, outcome: &Outcome) -> String {
    let mut text = String::new();
    if let Some(failure) = failure(plan, outcome) {
        let _ = writeln!(text, "error: {failure}\n");
    }
    text += &table(&accounts(plan, outcome), |column| !matches!(column, 0 | 6));
    text += &remarks(plan, outcome);
    if outcome.ending == Ending::Succeeded {
        let _ = writeln!(text, "done in {}", duration(outcome.duration));
    }
    text
}

/// What there is to say beside the accounts, a line each.
pub(super) fn remarks(plan: &Plan, outcome: &Outcome) -> String {
    let mut text = String::new();
    for (stage, account) in plan.stages.iter().zip(&outcome.stages).filter(|(stage, _)| stage.checkpoint.is_some()) {
        let batches = counted(account.batches, "batch");
        let spared = match account.rows_spared {
            0 => String::new(),
            rows => format!(", and {} of others", counted(rows, "row")),
        };
        let _ = writeln!(text, "checkpoint of `{}`: {} of {batches} reused{spared}", stage.name, count(account.reused));
    }
    for (stage, fault, times) in &outcome.injected {
        let times = counted(*times, "time");
        let _ = writeln!(
            text,
            "chaos: {fault} {times} in `{}`; no batch has lost an attempt by it",
            plan.stage(*stage).name
        );
    }
    for LeftOut { stage, reason } in plan.left_out.iter().filter(|it| it.reason != Reason::NotNeeded) {
        let _ = writeln!(text, "left out: `{stage}`, as {}", reason.words());
    }
    text += &state(outcome);
    for (stage, path) in &outcome.rejects {
        let _ = writeln!(text, "rejected by `{}`: {}", plan.stage(*stage).name, path.display());
    }
    if outcome.ending == Ending::Succeeded {
        text += &outputs(plan, outcome);
        text += &all_rejected(plan, outcome);
        text += &nothing_given(plan, outcome);
        if let Some(line) = bottleneck(plan, outcome) {
            let _ = writeln!(text, "{line}");
        }
    }
    text
}

/// A line for every output that was published, or for the first of them.
fn outputs(plan: &Plan, outcome: &Outcome) -> String {
    if plan.is_trial {
        return String::new();
    }
    let stages = plan.stages.iter().zip(&outcome.stages).filter(|(stage, _)| !stage.is_added());
    let outputs = stages.filter_map(|(stage, account)| match &stage.kind {
        StageKind::Write(sink) => output(plan, sink, account).map(|output| (&stage.name, output)),
        _ => None,
    });
    let outputs: Vec<_> = outputs.collect();
    let mut text = String::new();
    for (stage, output) in outputs.iter().take(MOST_OUTPUTS) {
        let _ = writeln!(text, "published by `{stage}`: {output}");
    }
    if let Some(more @ 1..) = outputs.len().checked_sub(MOST_OUTPUTS) {
        let _ = writeln!(text, "published by others: {}", counted(more as u64, "output"));
    }
    text
}

/// `out/stars.csv, 3 rows`.
fn output(plan: &Plan, sink: &Sink, account: &StageAccount) -> Option<String> {
    let path = plan.shown(&sink.published()?.as_path());
    let slash = if matches!(sink.target, WriteTarget::Folder(_)) && !path.ends_with('/') { "/" } else { "" };
    let rows = counted(account.rows_in, "row");
    let appended = if sink.mode == WriteMode::Append { " appended" } else { "" };
    Some(format!("{path}{slash}, {rows}{appended}"))
}

/// A line for every part of the state that the workers have made.
fn state(outcome: &Outcome) -> String {
    let mut text = String::new();
    for (kind, parts) in &outcome.state.parts {
        let left_out = outcome.state.left_out.get(kind);
        for (name, value) in parts {
            let number = |shown: usize| shown as u64 + left_out.and_then(|it| it.entries.get(name)).unwrap_or(&0);
            let shown = match value {
                Value::Number(number) => number.as_u64().map_or_else(|| number.to_string(), count),
                Value::Object(quantiles) if *kind == "quantiles" => {
                    let shown = quantiles.iter().map(|(name, value)| match value.as_f64() {
                        Some(number) if name != "count" => format!("{name} {}", significant(number)),
                        _ => format!("{name} {value}"),
                    });
                    shown.collect::<Vec<_>>().join(", ")
                }
                Value::Object(map) => counted(number(map.len()), "key"),
                Value::Array(pairs) if *kind == "map" => counted(number(pairs.len()), "key"),
                Value::Array(items) if *kind == "top" => {
                    let shown = items.iter().map(|item| format!("{} {}", plain(&item[0]), item[1]));
                    shown.collect::<Vec<_>>().join(", ")
                }
                Value::Array(items) => counted(number(items.len()), "item"),
                other => plain(other),
            };
            let _ = writeln!(text, "{kind} `{name}`: {shown}");
        }
        if let Some(left_out) = left_out.filter(|it| it.parts > 0) {
            let _ = writeln!(text, "{kind}: {} more", count(left_out.parts));
        }
    }
    text
}

/// Three digits that count.
fn significant(number: f64) -> String {
    let digits = (2.0 - number.abs().log10().floor()).clamp(0.0, 9.0);
    format!("{number:.*}", if number == 0.0 { 0 } else { digits as usize })
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// A line for every function that was given rows and gave none, though somebody reads them.
fn nothing_given(plan: &Plan, outcome: &Outcome) -> String {
    let stages = plan.stages.iter().zip(&outcome.stages);
    let is_read = |stage: &Stage| stage.ports.iter().any(|port| port.name == Port::MAIN && !port.edges.is_empty());
    let is_mute = |account: &StageAccount| account.rows_in > 0 && account.rows_out == 0 && account.rows_failed() == 0;
    let hit = stages
        .filter(|(stage, account)| matches!(stage.kind, StageKind::Python(_)) && is_read(stage) && is_mute(account));
    hit.map(|(stage, account)| {
        let rows = counted(account.rows_in, "row");
        format!("warning: `{}` has given nothing for its {rows}; is a `return` missing?\n", stage.name)
    })
    .collect()
}

/// A line for every stage of which nothing came but rejects: more likely a mistake in the pipeline than in every row.
fn all_rejected(plan: &Plan, outcome: &Outcome) -> String {
    let stages = plan.stages.iter().zip(&outcome.stages);
    let hit = stages.filter(|(stage, account)| {
        let rows = account.rows_seen(stage.inputs.is_empty());
        rows > 0 && account.rows_failed() == rows
    });
    hit.map(|(stage, account)| {
        let (rows, verb) =
            (counted(account.rows_failed(), "row"), if account.rejected > 0 { "rejected" } else { "skipped" });
        format!("warning: `{}` {verb} all of its {rows}; is the mistake in the stage itself?\n", stage.name)
    })
    .collect()
}

/// The accounts of all stages, under a header.
pub(super) fn accounts(plan: &Plan, outcome: &Outcome) -> Vec<[String; 7]> {
    let header = ["stage", "rows in", "rows out", "rejected", "batches", "busy", "waited for"].map(str::to_owned);
    let stages = plan.stages.iter().zip(&outcome.stages).filter(|(stage, _)| !stage.is_added());
    let rows = stages.map(|(stage, account)| row(stage, account, outcome.duration));
    std::iter::once(header).chain(rows).collect()
}

fn row(stage: &Stage, account: &StageAccount, total: Duration) -> [String; 7] {
    let some = |number: u64, applies: bool| if applies { count(number) } else { "-".to_owned() };
    let bad = account.rows_failed();
    [
        stage.name.clone(),
        some(account.rows_in, !stage.inputs.is_empty()),
        some(account.rows_out, stage.ports.iter().any(|port| port.name != crate::plan::Port::REJECTED)),
        some(bad, bad > 0),
        count(account.batches),
        if account.busy.is_zero() { "-".to_owned() } else { duration(account.busy) },
        waits(account, total),
    ]
}

/// `input 80 %, output 10 %`: shares of the run's time, where they are worth a word.
fn waits(account: &StageAccount, total: Duration) -> String {
    let waits = [
        ("input", account.waited_for_input),
        ("output", account.waited_for_output),
        ("worker", account.waited_for_worker),
        ("resource", account.waited_for_resource),
    ];
    let shares = waits.into_iter().map(|(word, waited)| (word, share(waited, total)));
    shares
        .filter(|(_, share)| *share >= 5)
        .map(|(word, share)| format!("{word} {share} %"))
        .collect::<Vec<_>>()
        .join(", ")
}

fn share(part: Duration, total: Duration) -> u64 {
    (part.as_secs_f64() * 100.0 / total.as_secs_f64().max(1e-9)).round() as u64
}

/// Which stage decided how long the run took: the one whose attempts were busy most, if the run was long enough to tell.
fn bottleneck(plan: &Plan, outcome: &Outcome) -> Option<String> {
    if outcome.duration < Duration::from_secs(1) {
        return None;
    }
    let (stage, account) = plan.stages.iter().zip(&outcome.stages).max_by_key(|(_, account)| account.busy)?;
    let peak = account.peak_attempts.max(1);
    let share = share(account.busy, outcome.duration * peak);
    if share < 50 {
        return None;
    }
    let workers = if peak == 1 { "its worker was".to_owned() } else { format!("its {peak} workers were") };
    Some(format!("`{}` took longest: {workers} busy {share} % of the time", stage.name))
}
