//! Trying a pipeline on the first rows of its sources, with sinks that publish nothing.

use std::path::Path;

use super::asking::{behind, first_of, first_rows};
use super::plan::Plan;
use super::ports;
use super::stage::Port;
use super::under_test::cut_off;
use crate::spec::expect::EXPECT;
use crate::spec::model::{FormatSpec, FromSpec, OnErrorWordSpec, StageSpec, WriteOptions, WriteSpec};
use crate::spec::tree::Value;
use crate::spec::{Document, Sharing, StageDraft};

/// A sink that writes elsewhere.
#[derive(Clone, Debug)]
pub struct SampledSink {
    pub stage: String,
    /// Where the pipeline writes, as the file says it.
    pub path: String,
    /// Where the rows are, in the format of Arrow: a file in the folder.
    pub file: String,
}

/// Leaves in the document what a trial does: sources give their first `rows` rows, sinks write into `folder`, and neither tasks nor hooks are
/// carried out, as nobody can undo what they do.
pub fn sample(document: &mut Document, rows: u64, folder: &Path) -> Vec<SampledSink> {
    document.hooks.clear();
    document.stages.iter_mut().for_each(cut_off);
    let is_task = |draft: &StageDraft| {
        draft.kind() == Some("command") && ports::ports(draft).is_some_and(|ports| ports.is_empty())
    };
    document.stages.retain(|draft| !is_task(draft));
    let mut sinks = Vec::new();
    let mut counting = Vec::new();
    for draft in &mut document.stages {
        if let Some(expect) = &mut draft.spec.expect {
            // That is for all rows.
            expect.rows = None;
        }
        if !draft.is_written() || draft.sharing != Sharing::None {
            continue;
        }
        if let Some(write) = &mut draft.spec.write {
            let path = match &*write {
                WriteSpec::Path(path) => path.clone(),
                WriteSpec::Options(options) => options.path.clone(),
            };
            let file = folder.join(format!("{}.arrow", sinks.len())).to_string_lossy().into_owned();
            *write = written(&file);
            sinks.push(SampledSink { stage: draft.name.clone(), path, file });
        } else if leaves_out_malformed(draft) {
            // Behind a query that counts, it would read all files for the sake of those that it rejects.
            draft.first_rows = Some(rows);
        } else if !draft.has("from") && draft.kind() != Some("sql") && ports::named_ports(draft).contains(&Port::MAIN) {
            counting.push(count_off(draft, rows));
        }
    }
    let renamed: Vec<String> = counting.iter().map(|draft| draft.name.clone()).collect();
    for draft in document.stages.iter_mut().filter(|draft| draft.kind() != Some("sql")) {
        read_rejects(draft, &renamed);
    }
    document.stages.extend(counting);
    sinks
}

fn leaves_out_malformed(draft: &StageDraft) -> bool {
    let goes_on = draft.spec.on_error.as_ref().is_some_and(|on_error| on_error.word() != OnErrorWordSpec::Fail);
    draft.kind() == Some("read") && goes_on && ports::named_ports(draft).contains(&Port::REJECTED)
}

fn written(file: &str) -> WriteSpec {
    let format = Some(FormatSpec::Arrow);
    let path = file.to_owned();
    WriteSpec::Options(WriteOptions { path, format, ..WriteOptions::default() })
}

/// No name in a file has a colon.
const ALL: &str = ":all";

fn all_of(name: &str) -> String {
    format!("{name}{ALL}")
}

/// Gives the sources in the plan of a trial their names back, which the stages have that count off their rows.
pub fn name_sources(plan: &mut Plan) {
    plan.is_trial = true;
    plan.left_out.retain(|left_out| !left_out.stage.ends_with(ALL));
    for at in 0..plan.stages.len() {
        let Some(name) = plan.stages[at].name.strip_suffix(ALL).map(str::to_owned) else { continue };
        if let Some(counting) = plan.stages.iter_mut().find(|stage| stage.name == name) {
            counting.name = first_of(&name);
        }
        plan.stages[at].name = name;
    }
}

/// Gives the source another name, and its own to a stage behind it that passes on its first rows. What is expected of them is expected there.
fn count_off(source: &mut StageDraft, rows: u64) -> StageDraft {
    let name = std::mem::take(&mut source.name);
    let mut spec = StageSpec { when: source.spec.when, ..first_rows(all_of(&name), rows) };
    let mut moved = Vec::new();
    if source.has(EXPECT) {
        spec.expect = source.spec.expect.take();
        spec.on_error = source.spec.on_error.take();
        if let Value::Mapping(entries) = &mut source.node.value {
            let is_moved =
                |entry: &mut crate::spec::tree::Entry| [EXPECT, "on_error"].contains(&entry.key.name.as_str());
            moved.extend(entries.extract_if(.., is_moved));
        }
    }
    let mut counting = behind(source, &name, "sql", spec);
    if let Value::Mapping(entries) = &mut counting.node.value {
        entries.append(&mut moved);
    }
    counting.foreach = source.foreach.take();
    source.name = all_of(&name);
    counting
}

/// What a source rejects comes from itself.
fn read_rejects(draft: &mut StageDraft, renamed: &[String]) {
    let put_right = |text: &mut String| {
        if let Some((stage, Port::REJECTED)) = text.split_once('.')
            && renamed.iter().any(|name| name == stage)
        {
            *text = format!("{}.{}", all_of(stage), Port::REJECTED);
        }
    };
    match &mut draft.spec.from {
        Some(FromSpec::One(text)) => put_right(text),
        Some(FromSpec::Many(texts)) => texts.iter_mut().for_each(put_right),
        Some(FromSpec::Named(_)) | None => {}
    }
}
