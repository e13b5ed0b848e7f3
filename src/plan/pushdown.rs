//! What the consumers of a source let it leave out: columns that none of them uses, and rows that none of them wants.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;

use super::plan::{Edge, StageId};
use super::stage::{Port, Stage, StageKind};
use crate::format::Format;
use crate::sql::UsedColumns;

/// Tells every source which of its columns are used, and which queries say which rows are. `stages` are in the order of their ids.
pub(super) fn push_down(stages: &mut [Stage], edges: &[Edge]) {
    for at in 0..stages.len() {
        let used = used_columns(&stages[at], stages, edges);
        let filtered_by = filtered_by(&stages[at], stages, edges).unwrap_or_default();
        let Stage { kind, ports, .. } = &mut stages[at];
        if let StageKind::Read(read) = kind {
            if let Some(used) = &used {
                let main = ports.iter_mut().filter(|port| port.name == Port::MAIN);
                main.for_each(|port| port.columns = port.columns.take().map(|all| chosen(used, all)));
            }
            read.used = used;
            read.filtered_by = if read.format == Format::Parquet { filtered_by } else { Vec::new() };
        }
    }
}

/// Those columns that are read of all that there are.
fn chosen(used: &UsedColumns, all: SchemaRef) -> SchemaRef {
    match used.choose(all.fields().iter().map(|field| field.name().as_str())) {
        Some(chosen) => Arc::new(all.project(&chosen).expect("places of its own")),
        None => all,
    }
}

/// The columns that the consumers name, if all of them are queries that name their columns.
fn used_columns(source: &Stage, stages: &[Stage], edges: &[Edge]) -> Option<UsedColumns> {
    let mut consumers = edges_of(source, edges).peekable();
    consumers.peek()?;
    consumers.try_fold(UsedColumns::default(), |mut used, edge| {
        let consumer = &stages[edge.to.index()];
        let StageKind::Sql(sql) = &consumer.kind else { return None };
        used.extend(sql.query.columns(&consumer.inputs[edge.input].table)?);
        Some(used)
    })
}

/// The consumers, if all of them have a condition that looks at rows of this source one by one.
fn filtered_by(source: &Stage, stages: &[Stage], edges: &[Edge]) -> Option<Vec<StageId>> {
    let consumers = edges_of(source, edges).map(|edge| {
        let consumer = &stages[edge.to.index()];
        let StageKind::Sql(sql) = &consumer.kind else { return None };
        (consumer.inputs.len() == 1 && sql.query.has_condition()).then_some(consumer.id)
    });
    consumers.collect()
}

/// Those to the consumers of its rows: rows that it rejects have columns of their own.
fn edges_of<'a>(source: &'a Stage, edges: &'a [Edge]) -> impl Iterator<Item = &'a Edge> {
    let main = source.ports.iter().filter(|port| port.name == Port::MAIN);
    main.flat_map(|port| &port.edges).map(|id| &edges[id.index()])
}
