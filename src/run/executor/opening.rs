//! What workers are told before they run attempts: what to import, and how to prepare a stage.

use std::collections::BTreeMap;

use serde_json::json;

use super::frame::{FLAG_JOIN, FLAG_PART, Frame, Kind};
use crate::format::column_type;
use crate::plan::{ColumnType, Convention, Devices, OnError, Plan, Port, Python, Stage, StageId, StageKind, Start};
use crate::run::scheduler::{AttemptId, Device, Work};

/// The folders that modules are imported from.
pub fn path(plan: &Plan) -> Vec<String> {
    plan.python.path.iter().map(|path| path.to_string_lossy().into_owned()).collect()
}

/// What the template imports for the workers that it forks.
pub fn preload_in_template(plan: &Plan) -> Vec<&'static str> {
    let is_forked = |stage: &Stage| matches!(stage.kind, StageKind::Python(_)) && stage.start() == Start::Template;
    if plan.stages.iter().any(is_forked) { preload(plan) } else { Vec::new() }
}

/// What is imported for all workers, if it is installed: what these stages will need anyway, and numpy, whose random numbers are seeded
/// for an attempt only if it is imported before.
pub fn preload(plan: &Plan) -> Vec<&'static str> {
    let mut modules = vec!["pyarrow", "numpy"];
    let uses_pandas = |stage: &Stage| matches!(&stage.kind, StageKind::Python(python) if python.convention == Some(Convention::Pandas));
    let requires_pandas = plan.python.requirements.iter().any(|requirement| requirement.trim().starts_with("pandas"));
    if requires_pandas || plan.stages.iter().any(uses_pandas) {
        modules.push("pandas");
    }
    modules
}

/// The frame that prepares a stage in a worker.
pub fn open(plan: &Plan, stage: &Stage) -> Frame {
    let StageKind::Python(python) = &stage.kind else { unreachable!("only python stages are opened in workers") };
    let Python { call, convention, with, returns, has_ports, is_source, concurrency, partition_by, .. } = python;
    let typed = |(column, data_type): &(String, ColumnType)| {
        json!([column, column_type::word(data_type).expect("it was parsed from a word")])
    };
    let returns: BTreeMap<&str, Vec<_>> =
        returns.iter().map(|(port, columns)| (port.as_str(), columns.iter().map(typed).collect())).collect();
    // Rejected rows are the coordinator's to make.
    let ports: Vec<_> = ports_given(stage).map(|port| &port.name).collect();
    let is_unread = ports_given(stage).all(|port| port.edges.is_empty());
    let mut frame = Frame::new(Kind::Open).with_text(&json!({
        "name": stage.name,
        "module": call.module,
        "function": call.name,
        "as": convention.map(word),
        "concurrency": concurrency,
        "with": with,
        "ports": ports,
        "has_ports": has_ports,
        "returns": returns,
        "source": is_source,
        "has_state": stage.has_state(),
        "by_key": !partition_by.is_empty(),
        "unread": is_unread,
        // One attempt is all that a row gets which raises, so that the others need not be tried again for it.
        "skips": stage.on_error != OnError::Fail && stage.retry.exception.get() == 1 && !plan.ends_at_failure(stage),
        "may_reject": stage.on_error != OnError::Fail,
        "tell_files": stage.checkpoint.is_some(),
        "seed": plan.seed,
        "params": plan.params_of(stage),
        "shared": plan.stages.iter().filter_map(Stage::shared_as).collect::<Vec<_>>(),
        "batch_rows": stage.cut.rows,
        "batch_bytes": stage.cut.bytes,
        "log_level": stage.log_level.unwrap_or(plan.log_level).word(),
    }));
    frame.stage = stage.id.0;
    frame
}

/// The ports that the code gives rows for.
fn ports_given(stage: &Stage) -> impl Iterator<Item = &Port> {
    stage.ports.iter().filter(|port| port.name != Port::REJECTED)
}

/// The variables that tell a process which devices it has.
pub fn device_variables(plan: &Plan, devices: &[Device]) -> BTreeMap<String, String> {
    let mut variables: BTreeMap<String, String> = BTreeMap::new();
    for (devices, id) in devices.iter().filter_map(|device| named(plan, *device)) {
        let value = variables.entry(devices.env.clone()).or_default();
        value.extend((!value.is_empty()).then_some(','));
        value.push_str(id);
    }
    variables
}

/// The ids of devices by the names of their resources, for `millpond.worker.devices`.
pub fn device_ids<'p>(plan: &'p Plan, devices: &[Device]) -> BTreeMap<&'p str, Vec<&'p str>> {
    let mut ids: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for device in devices {
        let name = plan.resources[device.resource.index()].name.as_str();
        ids.entry(name).or_default().extend(named(plan, *device).map(|(_, id)| id));
    }
    ids
}

fn named(plan: &Plan, device: Device) -> Option<(&Devices, &str)> {
    let devices = plan.resources[device.resource.index()].devices.as_ref()?;
    Some((devices, devices.ids.get(device.at as usize)?))
}

/// The frame that asks for an attempt, without its batch.
pub fn attempt(attempt: AttemptId, stage: StageId, sequence: u64, work: &Work) -> Frame {
    let mut frame = Frame::new(if matches!(work, Work::Pull) { Kind::Pull } else { Kind::Run });
    match work {
        Work::Rows { batch, rows, is_part, budget } => {
            if *is_part {
                frame.flags = FLAG_PART;
            }
            let all = *rows == [0..batch.rows];
            // Seldom anything: a fast function works on whole batches, and takes what time it takes.
            if !all || budget.is_some() {
                let rows: Vec<_> = rows.iter().map(|rows| [rows.start, rows.end]).collect();
                frame = frame.with_text(&json!({"rows": rows, "seconds": budget.map(|budget| budget.as_secs_f64())}));
            }
        }
        Work::Join { .. } => frame.flags = FLAG_JOIN,
        // The rows of a lane are told where they are known.
        Work::Pull | Work::Task | Work::Lane { .. } | Work::FinishLane { .. } => {}
    }
    frame.stage = stage.0;
    frame.attempt = attempt.0;
    frame.sequence = sequence;
    frame
}

fn word(convention: Convention) -> &'static str {
    match convention {
        Convention::Row => "row",
        Convention::Rows => "rows",
        Convention::Arrow => "arrow",
        Convention::Pandas => "pandas",
        Convention::Polars => "polars",
        Convention::Numpy => "numpy",
        Convention::Stream => "stream",
        Convention::Object => "object",
        Convention::Task => "task",
    }
}
