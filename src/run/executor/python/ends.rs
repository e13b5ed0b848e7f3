//! How workers end: asked to, killed, or by themselves; and what is left unclosed by it.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::process::{Signal, pidfd_send_signal};

use super::{Happened, Pool, log_name};
use crate::plan::{PythonTarget, StageId, StageKind, Verdict};
use crate::run::executor::frame::{Frame, Kind};
use crate::run::executor::poller::{Poller, Token};
use crate::run::executor::resident::failure;
use crate::run::executor::worker::Worker;
use crate::run::scheduler::{ExitCause, Failure, Scope, WorkerId};
use crate::run::{RunEvent, Speaker, Stream};

/// Time between two looks at the memory of workers that run an attempt.
const WEIGHED_EVERY: Duration = Duration::from_millis(100);
/// How long a worker that is being replaced may take to close what it has open.
const REPLACE_GRACE: Duration = Duration::from_secs(60);

impl Pool {
    /// Asks all workers to close their stages and end.
    pub fn stop_all(&mut self) {
        self.is_closing = true;
        for worker in self.workers.values_mut() {
            worker.connection.send(Frame::new(Kind::Stop));
        }
    }

    /// Lets a worker end once it has answered what it was sent.
    pub fn replace(&mut self, id: WorkerId, reason: &str) {
        let Some(worker) = self.workers.get_mut(&id).filter(|worker| worker.life.replaced().is_none()) else {
            return;
        };
        worker.life.replace(reason);
        worker.connection.send(Frame::new(Kind::Stop));
        self.happened.push(Happened::Retired { worker: id });
    }

    /// Kills a worker, for `--chaos`.
    pub fn strike(&mut self, id: WorkerId) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.is_struck = true;
        }
        self.kill(id);
    }

    /// A worker that does not keep to the protocol is killed; its end is reported as usual.
    pub(super) fn condemn(&mut self, id: WorkerId, problem: &str) {
        let text = format!("worker {}: {problem}\n", id.0);
        self.log.write("template", &Speaker::Worker { worker: id, stage: None }, None, Stream::Stderr, text.as_bytes());
        self.kill(id);
    }

    fn kill(&self, id: WorkerId) {
        if let Some(pidfd) = self.workers.get(&id).and_then(|worker| worker.pidfd.as_ref()) {
            // It may be gone already.
            let _ = pidfd_send_signal(pidfd, Signal::KILL);
        }
    }

    /// Kills workers that have far too much memory, those that take too long, and those that do not end although they are being replaced.
    pub fn weigh(&mut self) {
        if self.weighed.elapsed() < WEIGHED_EVERY {
            return;
        }
        self.weighed = Instant::now();
        for id in self.workers.keys().copied().collect::<Vec<_>>() {
            let Some(worker) = self.workers.get_mut(&id) else { continue };
            let is_late = worker.life.replaced_since().is_some_and(|since| since.elapsed() > REPLACE_GRACE);
            if is_late {
                self.did_not_close(id, "`close()` did not return in time");
            }
            let Some(worker) = self.workers.get_mut(&id) else { continue };
            if let Some(pidfd) = &worker.pidfd {
                worker.clock.enforce(pidfd);
            }
            let is_busy = self.is_closing || !worker.attempts.is_empty();
            let is_fatal = is_busy && worker.life.is_fatal(worker.pid);
            if is_late || is_fatal {
                self.kill(id);
            }
        }
    }

    /// A worker is gone. What it had said before counts; its leases end.
    pub(super) fn worker_gone(&mut self, id: WorkerId, reason: String, cause: ExitCause, poller: &mut Poller) {
        self.worker_ready(id, poller);
        self.hear_output_of(id, poller);
        self.log.end(&log_name(id));
        let Some(worker) = self.workers.remove(&id) else { return };
        poller.remove(Token::Worker(id), worker.connection.fd());
        if let Some(pidfd) = &worker.pidfd {
            poller.remove(Token::WorkerEnd(id), pidfd.as_fd());
        }
        let is_catching_up = worker.attempts.front().is_some_and(|current| current.is_catching_up);
        let is_replaced = worker.life.replaced().is_some();
        let killed = worker.life.killed();
        let is_own = killed.is_some() || worker.clock.overdue().is_some();
        let cause = if (is_catching_up && !is_own) || is_replaced || worker.clock.is_unjust() {
            ExitCause::Engine
        } else {
            cause
        };
        let overdue = worker.clock.overdue();
        let verdict = match (killed, overdue) {
            (Some(_), _) => Verdict::Oom,
            (None, Some(_)) => Verdict::Timeout,
            (None, None) => Verdict::Crash,
        };
        let reason = killed.or(overdue).or(worker.life.replaced()).map_or(reason, str::to_owned);
        let opening = worker.attempts.front().is_none_or(|current| current.waiting.is_some());
        let scope = if opening { Scope::Opening } else { Scope::Rows };
        self.news.push(RunEvent::WorkerExited { worker: id, pid: worker.pid, reason: reason.clone() });
        let failure = Failure {
            traceback: worker.clock.stacks(),
            ..failure(scope, verdict, format!("the worker died: {reason}"))
        };
        self.let_go_of(id);
        self.happened.push(Happened::Exited { worker: id, failure, cause });
        self.fading.extend(worker.into_segments());
    }

    /// Remembers that the instance of a class was not closed in a worker that has been asked to stop.
    pub(super) fn did_not_close(&mut self, id: WorkerId, how: &str) {
        let is_class = |stage: &StageId| match &self.plan.stage(*stage).kind {
            StageKind::Python(python) => python.target == PythonTarget::Class,
            _ => false,
        };
        let asked = |worker: &&Worker| self.is_closing || worker.life.replaced().is_some();
        let worker = self.workers.get(&id).filter(asked).filter(|worker| !worker.is_struck);
        let killed = worker.and_then(|worker| worker.life.killed());
        let (verdict, how) = killed.map_or((Verdict::Crash, how), |reason| (Verdict::Oom, reason));
        let message = format!("the instance in a worker was not closed: {how}");
        let stage = worker.and_then(|worker| worker.stages.keys().copied().find(is_class));
        if let Some(stage) = stage
            && self.unclosed.iter().all(|(failed, _)| *failed != stage)
        {
            self.unclosed.push((stage, failure(Scope::Opening, verdict, message)));
        }
    }

    /// The first of the stages whose instances could not be closed. Workers that have not ended by now have not closed
    /// theirs.
    pub fn close_failure(&mut self) -> Option<(StageId, Failure)> {
        for id in self.workers.keys().copied().collect::<Vec<_>>() {
            self.did_not_close(id, "`close()` did not return in time");
        }
        std::mem::take(&mut self.unclosed).into_iter().min_by_key(|(stage, _)| *stage)
    }
}
