//! Attempts on their way to whoever runs them.

use std::io;
use std::ops::Range;

use super::LocalExecutor;
use crate::batch::Batch;
use crate::plan::{StageId, Verdict};
use crate::run::executor::chaos::Fault;
use crate::run::executor::frame::FLAG_HANG;
use crate::run::executor::guardian::Turn;
use crate::run::executor::opening;
use crate::run::executor::parts;
use crate::run::executor::resident::failure;
use crate::run::scheduler::{Dispatch, Event, Failure, Host, Scope, Work};

impl LocalExecutor {
    /// Begins an attempt, unless chaos has other plans for it.
    pub(super) fn begin(&mut self, dispatch: Dispatch) -> io::Result<()> {
        let Some(chaos) = &mut self.chaos else { return self.dispatch(dispatch, None) };
        let (attempt, host) = (dispatch.attempt, dispatch.host);
        let fault = chaos.strike(&self.plan, &dispatch);
        match fault {
            Some(Fault::Slow) => chaos.hold_back(&self.plan, dispatch),
            Some(Fault::Lose) => {
                let failure = failure(Scope::Rows, Verdict::Exception, "it was lost, by --chaos".to_owned());
                self.events.push_back(Event::AttemptFailed { attempt, failure });
            }
            _ => self.dispatch(dispatch, fault)?,
        }
        match (fault, host) {
            (Some(Fault::Kill), Host::Worker(worker)) => self.pool.strike(worker),
            (Some(Fault::Kill), _) => self.stop_command(attempt),
            (Some(Fault::Replace), Host::Worker(worker)) => self.pool.replace(worker, "it was replaced, by --chaos"),
            _ => {}
        }
        Ok(())
    }

    pub(super) fn dispatch(&mut self, dispatch: Dispatch, fault: Option<Fault>) -> io::Result<()> {
        if let Work::Lane { .. } | Work::FinishLane { .. } = &dispatch.work {
            self.dispatch_lane(&dispatch);
            return Ok(());
        }
        let Dispatch { attempt, stage, sequence, tries, host, work, devices } = dispatch;
        if !devices.is_empty() {
            self.devices.insert(attempt, devices);
        }
        let batch = match self.batch_of(stage, &work) {
            Ok(batch) => batch,
            Err(failure) => {
                self.events.push_back(Event::AttemptFailed { attempt, failure });
                return Ok(());
            }
        };
        match host {
            Host::Worker(worker) => {
                // A whole batch stays where it was put for the worker: a retry, or another consumer, needs no copy.
                let whole = match &work {
                    Work::Rows { batch: meta, rows, .. } if *rows == [0..meta.rows] => Some(meta.id),
                    _ => None,
                };
                let number = self.checkpoints.as_ref().and_then(|checkpoints| checkpoints.number(stage, sequence));
                let mut frame = opening::attempt(attempt, stage, number.unwrap_or(sequence), &work);
                frame.port = tries;
                frame.flags |= if fault == Some(Fault::Hang) { FLAG_HANG } else { 0 };
                let placed = self.pool.dispatch(worker, attempt, stage, frame, batch, &mut self.poller);
                match (placed, whole) {
                    (Ok(Some(batch)), Some(id)) => {
                        if let Some(stored) = self.store.get_mut(&id) {
                            stored.batch = batch;
                        }
                    }
                    (Ok(_), _) => {}
                    (Err(failure), _) => self.events.push_back(Event::AttemptFailed { attempt, failure }),
                }
            }
            Host::Process => {
                let alone = match &work {
                    Work::Rows { batch: meta, rows, .. } => *rows != [0..meta.rows] || self.filters.is_tried(meta.id),
                    _ => false,
                };
                self.run_command(attempt, stage, batch, Turn::Now, alone)?;
            }
            Host::NextProcess => {
                let turn = Turn::Next { slots: self.plan.workers };
                self.run_command(attempt, stage, batch, turn, false)?;
            }
            Host::Native => self.run_native(attempt, stage, sequence, batch)?,
        }
        Ok(())
    }

    /// The rows that an attempt is given.
    fn batch_of(&mut self, stage: StageId, work: &Work) -> Result<Option<Batch>, Failure> {
        match work {
            Work::Rows { batch, rows, .. } => {
                self.take_for(stage, 0, batch.id).and_then(|whole| select(&whole, rows)).map(Some)
            }
            Work::Join { batch, rows, parts } => {
                let rows = self.take_for(stage, 0, batch.id).and_then(|whole| select(&whole, rows))?;
                let parts: Vec<&Batch> = parts.iter().map(|part| &self.store[&part.id].batch).collect();
                parts::beside(&rows, &parts).map(Some)
            }
            Work::Pull | Work::Task => Ok(None),
            Work::Lane { .. } | Work::FinishLane { .. } => unreachable!("lanes are dispatched by themselves"),
        }
    }
}

/// The rows of a batch in these ranges, as a batch.
fn select(batch: &Batch, rows: &[Range<u64>]) -> Result<Batch, Failure> {
    let ranges: Vec<_> = rows.iter().map(|range| range.start as usize..range.end as usize).collect();
    batch.select(&ranges).map_err(|error| failure(Scope::Internal, Verdict::Exception, error.to_string()))
}
