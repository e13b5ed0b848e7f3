//! The end of a run: workers close, outputs are published, and nothing that was started is left.

use std::io;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::LocalExecutor;
use crate::plan::{StageId, StageKind, Verdict};
use crate::run::executor::poller::Token;
use crate::run::executor::resident::failure;
use crate::run::scheduler::{Event, Scope};

/// How often pipes are read at the end of a run, at most.
const DRAIN_ROUNDS: u32 = 1000;

impl LocalExecutor {
    /// Publishes a sink for whose end a stage waits.
    pub(super) fn publish_sink(&mut self, stage: StageId) {
        let StageKind::Write(write) = &self.plan.stage(stage).kind else { unreachable!("only sinks are published") };
        let target = write.published().expect("a sink that is published has a path");
        let staging = self.staging.as_mut().expect("sinks are published before the commit");
        let published = staging.commit_early(target);
        self.events.push_back(match published {
            Ok(()) => Event::SinkPublished { stage },
            Err(error) => commit_failed(&error),
        });
    }

    pub(super) fn commit(&mut self) {
        let mut staging = self.staging.take().expect("a run commits once");
        let new_files = std::mem::take(&mut *self.new_files.lock().unwrap_or_else(PoisonError::into_inner));
        let noted = new_files.values().filter(|new| !new.lines.is_empty());
        if let Err(error) = noted.into_iter().try_for_each(|new| staging.append(&new.file, &new.lines)) {
            self.events.push_back(commit_failed(&error));
            return;
        }
        if let Some(checkpoints) = &self.checkpoints
            && let Err(error) = checkpoints.count_batches(&self.plan, &self.tasks.state_dir)
        {
            self.events.push_back(commit_failed(&error));
            return;
        }
        self.events.push_back(match staging.commit() {
            Ok(()) => Event::Committed,
            Err(error) => commit_failed(&error),
        });
    }

    /// Asks all workers to close what they have open and to end, and waits for them, but not for ever, nor when a signal comes.
    /// Returns whether all is closed; if something failed, that is the next event.
    ///
    /// # Errors
    /// If the loop itself fails.
    pub fn stop_workers(&mut self, grace: Duration) -> io::Result<bool> {
        self.pool.stop_all();
        self.filters.finish(None);
        let deadline = Instant::now() + grace;
        while self.pool.has_workers() || !self.filters.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            if self.wait(Some(left))?.contains(&Token::Signals) {
                return Ok(false);
            }
        }
        if let Some((stage, failure)) = self.pool.close_failure() {
            self.events.push_back(Event::StageFailed { stage, failure });
        }
        // Of a filter that ended badly, too.
        Ok(!self.events.iter().any(|event| matches!(event, Event::StageFailed { .. })))
    }

    /// Reads what processes that have ended left in their pipes.
    ///
    /// # Errors
    /// If the loop itself fails.
    pub fn drain_output(&mut self) -> io::Result<()> {
        // Bounded, as a process that is still alive may never stop.
        for _ in 0..DRAIN_ROUNDS {
            let ready = self.poller.wait(Some(Duration::ZERO))?;
            let pipes: Vec<Token> = ready.into_iter().filter(|token| matches!(token, Token::Output(_))).collect();
            if pipes.is_empty() {
                break;
            }
            pipes.into_iter().for_each(|token| self.pool.ready(token, &mut self.poller));
        }
        Ok(())
    }

    /// Ends everything that the run has started.
    ///
    /// # Errors
    /// If the guardian cannot be waited for.
    pub fn shut_down(mut self) -> io::Result<()> {
        for resident in self.residents.values_mut() {
            resident.close();
        }
        // Outputs that are not published go before anything else can happen.
        drop(self.staging.take());
        self.pool.shut_down();
        let result = self.guardian.shut_down();
        if let Some(runtime) = self.runtime {
            runtime.shutdown_background();
        }
        if let Some(checkpoints) = self.checkpoints {
            checkpoints.close().map_err(io::Error::other)?;
        }
        result
    }
}

fn commit_failed(error: &dyn std::error::Error) -> Event {
    Event::CommitFailed { failure: failure(Scope::Output, Verdict::Exception, error.to_string()) }
}
