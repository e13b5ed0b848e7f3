//! Batches on their way from a stage to the edges behind it.

use std::path::PathBuf;
use std::sync::Arc;

use super::LocalExecutor;
use crate::batch::{Batch, BatchError};
use crate::plan::columns::{malformed_columns, rejected_columns};
use crate::plan::{CommandMode, Port, StageId, StageKind, Verdict};
use crate::run::executor::publisher::Put;
use crate::run::executor::reject_files::RecordError;
use crate::run::executor::resident::{failure, sql_failure};
use crate::run::executor::{rejects, row_command};
use crate::run::fail_point;
use crate::run::scheduler::{BatchId, Event, QueuedPieces, Reject, Scope};
use crate::sql::RowWise;

impl LocalExecutor {
    pub(super) fn publish(&mut self, stage: StageId, port: usize, batch: BatchId) {
        let batch = self.store.remove(&batch).expect("the scheduler publishes batches that exist").batch;
        let put = self.publisher.put(stage, port, batch);
        self.published(stage, put);
    }

    pub(super) fn publish_joined(&mut self, stage: StageId, port: usize, parts: &[BatchId]) {
        let take = |part| self.store.remove(part).expect("the scheduler publishes batches that exist").batch;
        let parts: Vec<_> = parts.iter().map(take).collect();
        let put = self.publisher.put_joined(stage, port, &parts);
        self.published(stage, put);
    }

    /// A batch that counts has changed the state of the run.
    pub(super) fn update_state(&mut self, stage: StageId, sequence: u64, updates: &[BatchId]) {
        let take = |update| self.store.remove(update).expect("the scheduler applies updates that exist").batch;
        let updates: Vec<_> = updates.iter().map(take).collect();
        let records: Result<Vec<_>, _> = updates.iter().map(Batch::records).collect();
        let taken = records
            .map_err(|error| error.to_string())
            .and_then(|records| self.pool.state_mut().take(&records).map_err(|error| error.to_string()));
        match taken {
            Ok(()) => self.events.push_back(Event::Queued { stage, queued: Vec::new() }),
            Err(message) => {
                let place = updates.iter().find_map(|batch| rejects::place(batch.origin(), 0, &self.files));
                let place = place.map(|place| format!(" ({place})")).unwrap_or_default();
                let message = format!("{message}, with what was done in batch {sequence}{place}");
                let failure = failure(Scope::Opening, Verdict::Exception, message);
                self.events.push_back(Event::StageFailed { stage, failure });
            }
        }
    }

    fn published(&mut self, stage: StageId, put: Result<Vec<Put>, BatchError>) {
        match put {
            Ok(puts) => {
                let queued = self.keep_pieces(puts);
                self.events.push_back(Event::Queued { stage, queued });
            }
            Err(error) => {
                let word = match self.plan.stage(stage).kind {
                    StageKind::Read(_) => "declare the column in `schema:`",
                    StageKind::Python(ref python) if python.has_ports => "declare the columns with `ports:`",
                    StageKind::Python(_) | StageKind::Command(_) => "declare the columns with `returns:`",
                    _ => "make every batch have the same columns",
                };
                let failure = failure(Scope::Opening, Verdict::Schema, format!("{error}; {word}"));
                self.events.push_back(Event::StageFailed { stage, failure });
            }
        }
    }

    pub(super) fn keep_pieces(&mut self, puts: Vec<Put>) -> Vec<QueuedPieces> {
        let mut queued = Vec::with_capacity(puts.len());
        for Put { edge, mut pieces, held_bytes, spilled } in puts {
            if fail_point::is_reached("engine.drop_batch") {
                pieces.pop();
            }
            let counted = (!spilled).then_some(edge);
            let pieces = pieces.into_iter().map(|piece| self.keep_on(piece, counted)).collect();
            queued.push(QueuedPieces { edge, pieces, held_bytes, spilled });
        }
        queued
    }

    pub(super) fn publish_rejects(&mut self, stage: StageId, port: usize, batch: BatchId, rejects: &[Reject]) {
        let batch = &self.store[&batch].batch;
        let made = rejects::batch(self.plan.stage(stage), batch, rejects, &self.files, &self.plan.folder);
        match made {
            Ok(made) => {
                let meta = self.keep(made);
                self.publish(stage, port, meta.id);
            }
            Err(error) => self.stage_failed(stage, Scope::Internal, &error),
        }
    }

    /// Writes down rejected rows that no stage reads.
    pub(super) fn record_rejects(&mut self, id: StageId, batch: BatchId, rejects: &[Reject]) {
        let plan = Arc::clone(&self.plan);
        let stage = plan.stage(id);
        let made = rejects::batch(stage, &self.store[&batch].batch, rejects, &self.files, &plan.folder);
        let written = made.map_err(RecordError::from).and_then(|made| self.reject_files.add(id, &stage.name, &made));
        if let Err(error) = written {
            self.stage_failed(id, Scope::Output, &error);
        }
    }

    /// The files with rejected rows that no stage reads.
    pub fn reject_files(&self) -> Vec<(StageId, PathBuf)> {
        self.reject_files.written().map(|id| (id, self.reject_files.path(&self.plan.stage(id).name))).collect()
    }

    pub(super) fn finish_ports(&mut self, stage: StageId) {
        self.know_columns_without_rows(stage);
        self.filters.finish(Some(stage));
        match self.publisher.finish(stage) {
            Ok(puts) => {
                let queued = self.keep_pieces(puts);
                self.events.push_back(Event::PortsFinished { stage, queued });
            }
            Err(error) => self.stage_failed(stage, Scope::Output, &error),
        }
        self.residents.remove(&stage);
    }

    /// Works out the columns of a stage that had no rows to show them.
    pub(super) fn know_columns_without_rows(&mut self, id: StageId) {
        let plan = Arc::clone(&self.plan);
        let stage = plan.stage(id);
        let input = if stage.inputs.is_empty() { None } else { self.publisher.input_columns(id, 0) };
        for (port, declared) in stage.ports.iter().enumerate() {
            if self.publisher.columns(id, port).is_some() {
                continue;
            }
            let columns = match (&stage.kind, &input) {
                (StageKind::Read(_), _) if declared.name == Port::REJECTED => {
                    Some(rejected_columns(&malformed_columns()))
                }
                _ if declared.name == Port::REJECTED => input.as_deref().map(rejected_columns),
                (StageKind::Sql(sql), Some(input)) if sql.row_wise => {
                    let table = &stage.inputs[0].table;
                    match RowWise::plan(&sql.query, table, Arc::clone(input), &self.sql_settings(stage)) {
                        Ok(planned) => Some(planned.output_schema().clone()),
                        Err(error) => {
                            self.events.push_back(Event::StageFailed { stage: id, failure: sql_failure(&error) });
                            return;
                        }
                    }
                }
                (StageKind::Expect(_), Some(input)) => Some(Arc::clone(input)),
                (StageKind::Command(command), Some(input)) if command.mode == CommandMode::Row => {
                    match row_command::columns(input) {
                        Ok(columns) => Some(columns),
                        Err(failure) => {
                            self.events.push_back(Event::StageFailed { stage: id, failure });
                            return;
                        }
                    }
                }
                _ => None,
            };
            if let Some(columns) = columns {
                self.publisher.know_columns(id, port, columns);
            }
        }
    }

    pub(super) fn release(&mut self, batch: BatchId) {
        self.filters.forget(batch);
        if let Some(stored) = self.store.remove(&batch)
            && let Some(edge) = stored.edge
        {
            self.publisher.taken(edge, stored.batch.bytes());
        }
    }
}
