//! A [`Plan`] as text for people: what `plan` and `graph` print.

use std::collections::BTreeSet;
use std::fmt::Write;

use arrow::datatypes::{DataType, FieldRef, Schema};
use bytesize::ByteSize;

use super::failing::Budget;
use super::hook::Hook;
use super::left_out::LeftOut;
use super::memory::{MemoryBound, SPILL_LIMIT, is_query};
use super::plan::{EdgeId, Plan};
use super::recycle::Recycle;
use super::resource::{Devices, Resource, ResourceKind, Use};
use super::stage::{
    CommandLine, CommandMode, Cpus, Folder, Order, Port, Python, Read, Stage, StageKind, Start, WhichFiles, WriteMode,
    WriteTarget,
};
use crate::format::Format;
/// The word for the type of a column in messages.
pub use crate::format::column_type::name as type_word;
use crate::spec::Moment;
use crate::sql::UsedColumns;

/// Stages of one `foreach` that are named in a list one by one.
const MOST_NAMES: usize = 3;
/// Columns of a port that are listed.
const MOST_COLUMNS: usize = 24;

/// The whole plan: stages in order, edges with their bounds, and the memory that these bounds allow.
pub fn text(plan: &Plan) -> String {
    let mut out = String::new();
    let counts = format!("{}, {}", counted(plan.stages.len(), "stage"), counted(plan.edges.len(), "edge"));
    line(
        &mut out,
        format!("pipeline {}: {counts}, {}, seed {}", plan.name, counted(plan.workers as usize, "worker"), plan.seed),
    );
    if !plan.params.is_empty() {
        let params: Vec<String> = plan.params.iter().map(|(name, value)| format!("{name}={value}")).collect();
        line(&mut out, format!("params: {}", params.join(" ")));
    }
    if !plan.resources.is_empty() {
        // Slots are told with the rate of their name.
        let own = plan.resources.iter().enumerate().filter(|(at, _)| !is_slots(plan, *at));
        let resources: Vec<String> = own.map(|(_, resource)| resource_text(plan, resource)).collect();
        line(&mut out, format!("resources: {}", resources.join("; ")));
    }
    line(&mut out, "\nstages, in order:");
    plan.stages.iter().for_each(|stage| stage_text(plan, stage, &mut out));
    left_out_text(plan, &mut out);
    hooks_text(plan, &mut out);
    edges_text(plan, &mut out);
    memory_text(plan, &mut out);
    out
}

fn line(out: &mut String, text: impl AsRef<str>) {
    out.push_str(text.as_ref());
    out.push('\n');
}

fn counted(count: usize, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

fn size(bytes: u64) -> String {
    ByteSize::b(bytes).to_string()
}

fn left_out_text(plan: &Plan, out: &mut String) {
    if plan.left_out.is_empty() {
        return;
    }
    line(out, "\nleft out:");
    for LeftOut { stage, reason } in &plan.left_out {
        line(out, format!("  {stage}: {}", reason.words()));
    }
}

fn hooks_text(plan: &Plan, out: &mut String) {
    for moment in Moment::ALL {
        let hooks: Vec<&Stage> = hooks_of(plan, moment).collect();
        if hooks.is_empty() {
            continue;
        }
        line(out, format!("\n{}, when the run has {}:", moment.key(), when(moment)));
        for stage in hooks {
            line(out, format!("  {} {}", stage.name, kind_text(plan, stage)));
            if let Some(description) = &stage.description {
                line(out, format!("      {}", description.trim()));
            }
            if let Some(timeout) = stage.timeout {
                let attempts =
                    format!("attempts: {} (exception), {} (crash)", stage.retry.exception, stage.retry.crash);
                line(out, format!("      {attempts}; timeout: {}", humantime::format_duration(timeout.attempt)));
            }
        }
    }
}

fn when(moment: Moment) -> &'static str {
    match moment {
        Moment::OnFailure => "failed",
        Moment::Finally => "ended",
    }
}

fn stage_text(plan: &Plan, stage: &Stage, out: &mut String) {
    line(out, format!("  {} {}", stage.name, kind_text(plan, stage)));
    if let Some(description) = &stage.description {
        line(out, format!("      {}", description.trim()));
    }
    if !stage.inputs.is_empty() {
        line(out, format!("      from: {}", inputs_text(plan, stage)));
    }
    if !stage.after.is_empty() {
        let stages = stage.after.iter().map(|id| plan.stage(*id));
        line(out, format!("      after: {}", names(stages.map(|stage| (stage, Port::MAIN))).join(", ")));
    }
    line(out, format!("      runs: {}", running_text(stage)));
    if stage.order == Order::Any {
        line(out, "      order: any, as rows come");
    }
    if stage.publishes_early() {
        let waiting = plan.stages.iter().filter(|other| other.after.contains(&stage.id));
        let waiting = names(waiting.map(|stage| (stage, Port::MAIN))).join(", ");
        line(out, format!("      published before: {waiting}"));
    }
    if let StageKind::Read(Read { used: Some(used), .. }) = &stage.kind {
        line(out, format!("      reads columns: {}", columns_text(used)));
    }
    if let StageKind::Read(Read { filtered_by, .. }) = &stage.kind
        && !filtered_by.is_empty()
    {
        let names: Vec<&str> = filtered_by.iter().map(|id| plan.stage(*id).name.as_str()).collect();
        line(out, format!("      skips row groups: where no row can pass the WHERE of {}", names.join(" or ")));
    }
    if stage.inputs.is_empty() && !stage.ports.is_empty() {
        line(out, format!("      cut: {} rows or {}", stage.cut.rows, size(stage.cut.bytes.get())));
    }
    let ports: Vec<String> = (0..stage.ports.len()).map(|port| port_text(plan, stage, port)).collect();
    if !ports.is_empty() {
        line(out, format!("      gives: {}", ports.join("; ")));
    }
    for (at, port) in stage.ports.iter().enumerate() {
        if let Some(columns) = &port.columns {
            let of = if port.name == Port::MAIN { String::new() } else { format!(" of {}", stage.port_word(at)) };
            line(out, format!("      columns{of}: {}", typed_columns(columns)));
        }
    }
    if stage.runs_in_workers() {
        let workers = stage.workers;
        let retry = &stage.retry;
        let on_error = on_error_text(stage);
        let attempts = format!("attempts: {} (exception), {} (crash)", retry.exception, retry.crash);
        let memory = stage.memory.map(|limit| format!(", {} each", size(limit.get()))).unwrap_or_default();
        line(
            out,
            format!("      workers: {} to {}{memory}; {attempts}; on_error: {on_error}", workers.min, workers.max),
        );
        if let StageKind::Python(Python { concurrency: Some(rows), .. }) = &stage.kind {
            line(out, format!("      concurrency: {rows} rows of a batch at once in each worker"));
        }
        if stage.start() == Start::Exec {
            line(out, "      start: each worker as an interpreter of its own");
        }
        match stage.cpus() {
            Cpus::Any => {}
            Cpus::Spread => line(out, "      cpus: each worker on one core"),
            Cpus::Only(cores) => {
                let cores = cores.iter().map(u32::to_string).collect::<Vec<_>>();
                line(out, format!("      cpus: {}", cores.join(", ")));
            }
        }
        if !stage.uses.is_empty() || !stage.holds.is_empty() {
            line(out, format!("      uses: {}", uses_text(plan, stage)));
        }
        if stage.recycle != Recycle::default() {
            line(out, format!("      recycle: {}", recycle_text(stage.recycle)));
        }
        if stage.checkpoint.is_some() {
            line(out, "      checkpoint: finished batches are kept");
        }
        if let Some(timeout) = stage.timeout {
            line(out, format!("      timeout: {} for an attempt", humantime::format_duration(timeout.attempt)));
        }
    }
}

/// Whether a resource is the slots of another.
fn is_slots(plan: &Plan, at: usize) -> bool {
    plan.resources.iter().any(|resource| resource.slots.is_some_and(|slots| slots.index() == at))
}

fn resource_text(plan: &Plan, resource: &Resource) -> String {
    let name = &resource.name;
    if let Some(Devices { ids, env }) = &resource.devices {
        return format!("{name}, {} in {env}", ids.join(" "));
    }
    match resource.kind {
        ResourceKind::Units(1) => format!("{name}, 1 unit"),
        ResourceKind::Units(units) => format!("{name}, {units} units"),
        ResourceKind::Rate { per_second, burst } => {
            let slots = resource.slots.map(|slots| match plan.resources[slots.index()].kind {
                ResourceKind::Units(units) => format!(", {}", counted(units as usize, "slot")),
                ResourceKind::Rate { .. } => String::new(),
            });
            let slots = slots.unwrap_or_default();
            format!("{name}, {}, {burst} at once{slots}", rate_text(per_second))
        }
    }
}

/// `100/min`: in the shortest time in which it is a whole number, or else in which it is at least one.
fn rate_text(per_second: f64) -> String {
    let rates = [(1.0, "s"), (60.0, "min"), (3600.0, "h"), (86_400.0, "d")];
    let rates = rates.map(|(seconds, unit)| ((per_second * seconds * 1e6).round() / 1e6, unit));
    let is_whole = |(number, _): &&(f64, &str)| *number >= 1.0 && number.fract() == 0.0;
    let [.., longest] = &rates;
    let rate = rates.iter().find(is_whole).or_else(|| rates.iter().find(|(number, _)| *number >= 1.0));
    let (number, unit) = rate.unwrap_or(longest);
    format!("{number}/{unit}")
}

fn uses_text(plan: &Plan, stage: &Stage) -> String {
    let one = |of: &Use, of_what: &str| {
        let name = &plan.resources[of.resource.index()].name;
        if is_slots(plan, of.resource.index()) {
            return format!("{} of {name} for each {of_what}", counted(of.units as usize, "slot"));
        }
        format!("{} {name} for each {of_what}", of.units)
    };
    let held = stage.holds.iter().map(|of| one(of, "worker"));
    let taken = stage.uses.iter().map(|of| one(of, if of.per_row { "row" } else { "attempt" }));
    held.chain(taken).collect::<Vec<_>>().join(", ")
}

fn recycle_text(recycle: Recycle) -> String {
    let batches = recycle.batches.map(|batches| match batches.get() {
        1 => "each batch".to_owned(),
        batches => format!("{batches} batches"),
    });
    let age = recycle.age.map(|age| humantime::format_duration(age).to_string());
    format!("a worker is replaced after {}", batches.into_iter().chain(age).collect::<Vec<_>>().join(" or "))
}

fn on_error_text(stage: &Stage) -> String {
    let Budget { max_rows, max_fraction } = stage.budget;
    let limits = [
        max_rows.map(|rows| format!("at most {rows} {}", if rows == 1 { "row" } else { "rows" })),
        max_fraction.map(|fraction| format!("at most {} % of the rows", (fraction * 1e8).round() / 1e6)),
    ];
    let limits: Vec<String> = limits.into_iter().flatten().collect();
    let word = stage.on_error.word();
    if limits.is_empty() { word.to_owned() } else { format!("{word} ({})", limits.join(", ")) }
}

/// What a stage does, in a line.
pub fn kind_text(plan: &Plan, stage: &Stage) -> String {
    match &stage.kind {
        StageKind::Read(read) => format!("read {} {}", format_word(read.format), read_text(plan, read)),
        StageKind::Write(write) => {
            let target = match &write.target {
                WriteTarget::File(path) => plan.shown(&path.as_path()),
                WriteTarget::Folder(folder) => folder_text(plan, folder),
                WriteTarget::Stdout => "standard output".to_owned(),
                WriteTarget::Shared(name) => format!("shared memory, as `{name}`"),
                WriteTarget::Nothing => return "expect no rows".to_owned(),
            };
            let appended = if write.mode == WriteMode::Append { ", behind what is there" } else { "" };
            format!("write {} {target}{appended}", format_word(write.format))
        }
        StageKind::Sql(_) => "sql".to_owned(),
        StageKind::Expect(expect) => format!("expect {}", expect.describe()).trim_end().to_owned(),
        StageKind::Python(python) => format!("python {}:{}", python.call.module, python.call.name),
        StageKind::Command(command) => {
            let what = match &command.line {
                CommandLine::Argv(argv) => argv.join(" "),
                CommandLine::Row(templates) => {
                    templates.iter().map(|template| template.source.as_str()).collect::<Vec<_>>().join(" ")
                }
                CommandLine::Shell(_) => "(shell)".to_owned(),
            };
            format!("command {what}")
        }
    }
}

fn folder_text(plan: &Plan, folder: &Folder) -> String {
    let path = plan.shown(&folder.path.as_path());
    let path = if path.ends_with('/') { path } else { format!("{path}/") };
    let by = folder.partition_by.iter().map(|column| format!("{column}=…/"));
    format!("{path}{}", by.collect::<String>())
}

fn read_text(plan: &Plan, read: &Read) -> String {
    if read.stdin {
        return "standard input".to_owned();
    }
    let which = if read.which == WhichFiles::All { "" } else { ", only new files" };
    read.paths.iter().map(|path| plan.shown(&path.as_path())).collect::<Vec<_>>().join(", ") + which
}

/// Columns with the words for their types; `?` where these are not known.
fn typed_columns(columns: &Schema) -> String {
    let typed = |field: &FieldRef| {
        let data_type = field.data_type();
        let word = if *data_type == DataType::Null { "?".to_owned() } else { type_word(data_type) };
        format!("{} {word}", field.name())
    };
    let mut listed: Vec<String> = columns.fields().iter().take(MOST_COLUMNS).map(typed).collect();
    if columns.fields().len() > MOST_COLUMNS {
        listed.push(format!("{} more", columns.fields().len() - MOST_COLUMNS));
    }
    listed.join(", ")
}

fn columns_text(used: &UsedColumns) -> String {
    let listed = |names: &BTreeSet<String>| names.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    match (used.needed.is_empty(), used.perhaps.is_empty()) {
        (true, true) => "one, to count rows".to_owned(),
        (false, true) => listed(&used.needed),
        (true, false) => format!("if there: {}", listed(&used.perhaps)),
        (false, false) => format!("{}; if there: {}", listed(&used.needed), listed(&used.perhaps)),
    }
}

fn format_word(format: Format) -> &'static str {
    match format {
        Format::Csv => "csv",
        Format::Tsv => "tsv",
        Format::Jsonl => "jsonl",
        Format::Json => "json",
        Format::Parquet => "parquet",
        Format::Arrow => "arrow",
        Format::Lines => "lines",
        Format::Binary => "binary",
        Format::Bytes => "bytes",
    }
}

fn inputs_text(plan: &Plan, stage: &Stage) -> String {
    let is_sql = matches!(stage.kind, StageKind::Sql(_));
    let producer = |edge: &EdgeId| {
        let edge = plan.edge(*edge);
        let producer = plan.stage(edge.from);
        (producer, producer.ports[edge.port].name.as_str())
    };
    let input = |input: &super::stage::Input| {
        let members = names(input.members.iter().map(producer)).join(", then ");
        if is_sql && members != input.table { format!("{members} as {}", input.table) } else { members }
    };
    stage.inputs.iter().map(input).collect::<Vec<_>>().join(", ")
}

/// Ports as they are written in `from`. Many in a row that one `foreach` made are told by its name and their number.
fn names<'a>(ports: impl Iterator<Item = (&'a Stage, &'a str)>) -> Vec<String> {
    let written = |name: &str, port: &str| match (name.strip_suffix(".expect"), port) {
        (_, Port::MAIN) => name.to_owned(),
        (Some(of), Port::REJECTED) => format!("{of}.{}", Port::UNEXPECTED),
        _ => format!("{name}.{port}"),
    };
    let ports: Vec<_> = ports.collect();
    let is_alike = |one: &(&Stage, &str), other: &(&Stage, &str)| {
        one.0.foreach.is_some() && one.0.foreach == other.0.foreach && one.1 == other.1
    };
    let groups = ports.chunk_by(is_alike);
    let texts = groups.flat_map(|group| match (&group[0].0.foreach, group[0].1) {
        (Some(name), port) if group.len() > MOST_NAMES => {
            vec![format!("{} ({} stages)", written(name, port), group.len())]
        }
        _ => group.iter().map(|(stage, port)| written(&stage.name, port)).collect(),
    });
    texts.collect()
}

/// How a stage is run, in a line.
pub fn running_text(stage: &Stage) -> String {
    match &stage.kind {
        StageKind::Read(read) if read.leaves_out_malformed => {
            format!("native, streaming; on_error: {}", on_error_text(stage))
        }
        StageKind::Read(_) => "native, streaming".to_owned(),
        StageKind::Write(_) if stage.is_shared() => "native, streaming; kept until the run has ended".to_owned(),
        StageKind::Write(write) if write.target == WriteTarget::Nothing => {
            "native, streaming; a row ends the run".to_owned()
        }
        StageKind::Write(_) if stage.publishes_early() => "native, streaming; published when it has ended".to_owned(),
        StageKind::Write(_) => "native, streaming; published when the run has succeeded".to_owned(),
        StageKind::Sql(sql) if sql.row_wise => "native, row-wise: per batch, in order and in parallel".to_owned(),
        StageKind::Expect(_) => {
            format!("native: per batch, in order and in parallel; on_error: {}", on_error_text(stage))
        }
        StageKind::Sql(_) => {
            let memory = stage.memory.map(|limit| format!(", in {}", size(limit.get()))).unwrap_or_default();
            format!("native, over the whole stream{memory}")
        }
        StageKind::Python(python) if python.is_source => "in a worker, as a source".to_owned(),
        StageKind::Python(python) if stage.has_keys() => {
            format!("in workers, with state per partition of ({})", python.partition_by.join(", "))
        }
        StageKind::Python(_) if stage.has_state() => "in a worker, with state over the whole stream".to_owned(),
        StageKind::Python(_) => "in workers, per batch".to_owned(),
        StageKind::Command(command) => match command.mode {
            CommandMode::Batch => "in workers, one process per batch".to_owned(),
            CommandMode::Stream => "in workers, processes that are fed batch after batch".to_owned(),
            CommandMode::Row => "in workers, one process per row".to_owned(),
            CommandMode::Once => "in a worker, one process per run".to_owned(),
        },
    }
}

fn port_text(plan: &Plan, stage: &Stage, port: usize) -> String {
    let (word, port) = (stage.port_word(port), &stage.ports[port]);
    let consumers = names(port.edges.iter().map(|edge| (plan.stage(plan.edge(*edge).to), Port::MAIN)));
    let to = if consumers.is_empty() { "nobody".to_owned() } else { consumers.join(", ") };
    if port.name == Port::MAIN { format!("rows to {to}") } else { format!("{word} to {to}") }
}

fn edges_text(plan: &Plan, out: &mut String) {
    if plan.edges.is_empty() {
        return;
    }
    line(out, "\nedges (both bounds hold):");
    for edge in &plan.edges {
        let producer = plan.stage(edge.from);
        let from = names(std::iter::once((producer, producer.ports[edge.port].name.as_str()))).remove(0);
        let capacity = format!("{} batches, {}", edge.capacity.batches, size(edge.capacity.bytes.get()));
        let cut =
            edge.cut.map(|cut| format!("; cut: {} rows or {}", cut.rows, size(cut.bytes.get()))).unwrap_or_default();
        let spills = if edge.spills { "; spills to disk" } else { "" };
        line(out, format!("  {from} -> {}: {capacity}{cut}{spills}", plan.stage(edge.to).name));
    }
}

fn memory_text(plan: &Plan, out: &mut String) {
    let bound = MemoryBound::of(plan);
    line(out, format!("\nmemory: at most {}", size(bound.total())));
    for term in &bound.terms {
        line(out, format!("  {:>10}  {} ({})", size(term.bytes), term.what, term.certainty.word()));
    }
    let edges = plan.edges.iter().any(|edge| edge.spills).then(|| format!("{} for edges", size(SPILL_LIMIT)));
    let queries = plan.stages.iter().filter(|stage| is_query(stage)).count();
    let queries = (queries > 0).then(|| format!("{} for each query", size(SPILL_LIMIT)));
    let both: Vec<String> = edges.into_iter().chain(queries).collect();
    if !both.is_empty() {
        line(out, format!("disk for what spills: at most {}", both.join(", ")));
    }
}

/// The graph as lines `producer -> consumer`.
pub fn graph_text(plan: &Plan) -> String {
    let mut out = String::new();
    let mut followers = vec![Vec::new(); plan.stages.len()];
    for stage in &plan.stages {
        stage.after.iter().for_each(|awaited| followers[awaited.index()].push(stage.name.as_str()));
    }
    for stage in &plan.stages {
        line(&mut out, format!("{} ({})", stage.name, stage.kind_word()));
        for edge in stage.ports.iter().flat_map(|port| &port.edges).map(|id| plan.edge(*id)) {
            let port = stage.port_word(edge.port);
            let label = if port == Port::MAIN { String::new() } else { format!(" [{port}]") };
            line(&mut out, format!("  -> {}{label}", plan.stage(edge.to).name));
        }
        for follower in &followers[stage.id.index()] {
            line(&mut out, format!("  .. {follower} [after]"));
        }
    }
    for Hook { moment, plan } in &plan.hooks {
        let stages = plan.stages.iter();
        stages.for_each(|stage| line(&mut out, format!("{} ({}) [{}]", stage.name, stage.kind_word(), moment.key())));
    }
    out
}

pub(super) fn hooks_of(plan: &Plan, moment: Moment) -> impl Iterator<Item = &Stage> {
    plan.hooks.iter().filter(move |hook| hook.moment == moment).flat_map(|hook| &hook.plan.stages)
}

/// The graph in the language of Graphviz.
pub fn dot(plan: &Plan) -> String {
    let quoted = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    let mut out = format!("digraph {} {{\n  rankdir=LR;\n  node [shape=box];\n", quoted(&plan.name));
    for stage in &plan.stages {
        let label = quoted(&format!("{} ({})", stage.name, stage.kind_word()));
        let _ = writeln!(out, "  {} [label={label}];", quoted(&stage.name));
    }
    for edge in &plan.edges {
        let (from, to) = (plan.stage(edge.from), plan.stage(edge.to));
        let port = from.port_word(edge.port);
        let label = if port == Port::MAIN { String::new() } else { format!(" [label={}]", quoted(port)) };
        let _ = writeln!(out, "  {} -> {}{label};", quoted(&from.name), quoted(&to.name));
    }
    for stage in &plan.stages {
        for awaited in &stage.after {
            let _ =
                writeln!(out, "  {} -> {} [style=dashed];", quoted(&plan.stage(*awaited).name), quoted(&stage.name));
        }
    }
    for moment in Moment::ALL {
        let hooks: Vec<&Stage> = hooks_of(plan, moment).collect();
        if hooks.is_empty() {
            continue;
        }
        let key = moment.key();
        let _ = writeln!(out, "  subgraph cluster_{key} {{\n    label={};", quoted(key));
        for stage in hooks {
            let (id, label) = (format!("{key}.{}", stage.name), format!("{} ({})", stage.name, stage.kind_word()));
            let _ = writeln!(out, "    {} [label={}];", quoted(&id), quoted(&label));
        }
        out.push_str("  }\n");
    }
    out.push_str("}\n");
    out
}

/// The graph in the language of Mermaid.
pub fn mermaid(plan: &Plan) -> String {
    let mut out = String::from("flowchart LR\n");
    for stage in &plan.stages {
        let (open, close) = match stage.kind {
            StageKind::Read(_) | StageKind::Write(_) => ("[(", ")]"),
            StageKind::Sql(_) | StageKind::Expect(_) => ("[", "]"),
            StageKind::Python(_) => ("([", "])"),
            StageKind::Command(_) => ("[[", "]]"),
        };
        // Some words, such as `end`, are no names for nodes; ids are safe whatever the stage is called.
        let _ = writeln!(out, "  s{}{open}\"{}<br/>{}\"{close}", stage.id.0, stage.name, stage.kind_word());
    }
    for edge in &plan.edges {
        let port = plan.stage(edge.from).port_word(edge.port);
        let label = if port == Port::MAIN { String::new() } else { format!("|{port}|") };
        let _ = writeln!(out, "  s{} -->{label} s{}", edge.from.0, edge.to.0);
    }
    for stage in &plan.stages {
        for awaited in &stage.after {
            let _ = writeln!(out, "  s{} -.-> s{}", awaited.0, stage.id.0);
        }
    }
    for moment in Moment::ALL {
        let hooks: Vec<&Stage> = hooks_of(plan, moment).collect();
        if hooks.is_empty() {
            continue;
        }
        let key = moment.key();
        let _ = writeln!(out, "  subgraph {key} [\"{key}\"]");
        for (at, stage) in hooks.iter().enumerate() {
            let _ = writeln!(out, "    {key}{at}[[\"{}<br/>{}\"]]", stage.name, stage.kind_word());
        }
        out.push_str("  end\n");
    }
    out
}
