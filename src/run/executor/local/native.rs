//! Queries that are worked on batch by batch, on the threads of this process.

use std::io;
use std::sync::Arc;

use super::LocalExecutor;
use super::expecting::{Checked, check};
use super::planned::Planned;
use crate::batch::Batch;
use crate::plan::memory::SPILL_LIMIT;
use crate::plan::{Read, Stage, StageId, StageKind, Verdict};
use crate::run::executor::mailbox::Message;
use crate::run::executor::resident::{failure, guarded, sql_failure};
use crate::run::executor::stage::read::Consumer;
use crate::run::scheduler::{AttemptId, Failure, Scope};
use crate::sql::{Query, RowWise, Settings};

impl LocalExecutor {
    pub(super) fn sql_settings(&self, stage: &Stage) -> Settings {
        Settings {
            stage: stage.name.clone(),
            params: self.plan.params_of(stage).clone(),
            seed: self.plan.seed,
            started: self.surroundings.now,
            memory_limit: stage.memory.map_or(usize::MAX, |limit| usize::try_from(limit.get()).unwrap_or(usize::MAX)),
            spill_folder: self.spill.folder.clone(),
            spill_limit: SPILL_LIMIT,
        }
    }

    /// The queries whose conditions decide which rows of a source are read.
    pub(super) fn consumers(&self, read: &Read) -> Vec<Consumer> {
        let consumer = |id: &StageId| {
            let stage = self.plan.stage(*id);
            let StageKind::Sql(sql) = &stage.kind else { return None };
            let table = stage.inputs.first()?.table.clone();
            Some(Consumer { query: sql.query.clone(), table, settings: self.sql_settings(stage) })
        };
        read.filtered_by.iter().filter_map(consumer).collect()
    }

    pub(super) fn runtime(&mut self) -> io::Result<tokio::runtime::Handle> {
        if self.runtime.is_none() {
            let threads = self.surroundings.cores.get().min(self.plan.workers).max(1) as usize;
            let mut runtime = tokio::runtime::Builder::new_multi_thread();
            self.runtime = Some(runtime.worker_threads(threads).thread_name("millpond-sql").build()?);
        }
        Ok(self.runtime.as_ref().expect("just made").handle().clone())
    }

    pub(super) fn run_native(
        &mut self,
        attempt: AttemptId,
        id: StageId,
        sequence: u64,
        batch: Option<Batch>,
    ) -> io::Result<()> {
        let plan = Arc::clone(&self.plan);
        let stage = plan.stage(id);
        let settings = self.sql_settings(stage);
        let planned = Arc::clone(self.queries.entry(id).or_default());
        let checks = Arc::clone(self.checks.entry(id).or_default());
        let mailbox = self.mailbox.clone();
        rayon::spawn(move || {
            let stage = plan.stage(id);
            let batch = batch.expect("what is native has an input");
            let result = guarded(|| match &stage.kind {
                StageKind::Sql(sql) => {
                    let table = &stage.inputs[0].table;
                    let output = apply(&planned, &sql.query, table, &settings, &batch, sequence)?;
                    Ok(Checked { batch: output, failed: Vec::new() })
                }
                StageKind::Expect(expect) => check(&checks, expect, stage.on_error, &settings, &batch, sequence),
                _ => unreachable!("only queries and expectations run natively"),
            });
            mailbox.send(match result {
                Ok(Checked { batch: output, failed }) => {
                    Message::AttemptDone { attempt, rows: batch.rows() as u64, batch: Some(output), failed }
                }
                Err(failure) => Message::AttemptFailed { attempt, failure },
            });
        });
        Ok(())
    }
}

/// Applies a row-wise query to a batch.
fn apply(
    planned: &Planned<RowWise>,
    query: &Query,
    table: &str,
    settings: &Settings,
    batch: &Batch,
    sequence: u64,
) -> Result<Batch, Failure> {
    let records = batch.records().map_err(|error| failure(Scope::Output, Verdict::Exception, error.to_string()))?;
    let columns = records.schema();
    let made = planned.of(&columns, || RowWise::plan(query, table, Arc::clone(&columns), settings));
    let made = made.map_err(|error| sql_failure(&error))?;
    let (output, index) = made.apply(records, sequence).map_err(|error| sql_failure(&error))?;
    let origin = match index {
        Some(index) => batch.origin().take(index.values().iter().map(|&row| row as usize)),
        None => batch.origin().clone(),
    };
    Ok(Batch::new(output, origin))
}
