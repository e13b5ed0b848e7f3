//! What the consumers of a source let it leave out: columns that none of them uses.

use super::plan::Edge;
use super::stage::{Stage, StageKind};
use crate::sql::UsedColumns;

/// Tells every source which of its columns are used. `stages` are in the order of their ids.
pub(super) fn push_down(stages: &mut [Stage], edges: &[Edge]) {
    for at in 0..stages.len() {
        let used = used_columns(&stages[at], stages, edges);
        if let StageKind::Read(read) = &mut stages[at].kind {
            read.used = used;
        }
    }
}

/// The columns that the consumers name, if all of them are queries that name their columns.
fn used_columns(source: &Stage, stages: &[Stage], edges: &[Edge]) -> Option<UsedColumns> {
    let mut consumers = source.ports.iter().flat_map(|port| &port.edges).map(|id| &edges[id.index()]).peekable();
    consumers.peek()?;
    consumers.try_fold(UsedColumns::default(), |mut used, edge| {
        let consumer = &stages[edge.to.index()];
        let StageKind::Sql(sql) = &consumer.kind else { return None };
        used.extend(sql.query.columns(&consumer.inputs[edge.input].table)?);
        Some(used)
    })
}
