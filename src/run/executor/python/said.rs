//! What workers say, and what has happened by it.

use std::time::Duration;

use super::template::HelloText;
use super::{Happened, Pool};
use crate::plan::{StageId, Verdict};
use crate::run::executor::frame::{FLAG_END, Frame, Kind, PROTOCOL};
use crate::run::executor::resident::failure;
use crate::run::executor::worker::{ErrorText, RowsFailedText, WorkerError};
use crate::run::scheduler::{Failure, Scope, WorkerId};

/// What the types of errors begin with that are millpond's, and not of the user's code.
const OWN_ERRORS: &str = "millpond.";
/// Those of them whose names tell more than their messages.
const TELLING: [&str; 2] = ["millpond.DeadlockError", "millpond.Throttled"];
/// The type of the error of a worker that has no room for its output.
const NO_SHARED_MEMORY: &str = "millpond.errors.SharedMemoryError";

impl Pool {
    pub(super) fn worker_said(&mut self, id: WorkerId, mut frame: Frame) -> Result<(), WorkerError> {
        let Some(worker) = self.workers.get_mut(&id) else { return Ok(()) };
        match frame.kind {
            Kind::Hello => {
                let hello: HelloText = frame.text()?;
                if hello.protocol != PROTOCOL {
                    return Err(WorkerError::Unknown { what: "protocol", number: hello.protocol });
                }
                self.happened.push(Happened::Ready { worker: id });
            }
            Kind::Opened => {
                let (at_once, files) = worker.opened(&frame)?;
                self.happened.push(Happened::Opened { stage: StageId(frame.stage), at_once, files });
                self.let_go_of(id);
                self.go_on(id);
            }
            Kind::WorkerSchema => worker.announced_schema(&frame)?,
            Kind::WorkerSegment => {
                let segment = self.segments.next_id();
                worker.announced_segment(&mut frame, segment)?;
            }
            Kind::Ledger => {
                let ledger = self.segments.next_id();
                worker.announced_ledger(&mut frame, ledger)?;
            }
            Kind::Batch => match worker.output(&frame, &self.plan, &self.mailbox) {
                // What the function made is wrong, not what the worker did.
                Err(WorkerError::Arrow(error)) => {
                    if let Some(current) = worker.ended(&frame) {
                        let message = format!("the result is not valid Arrow data: {error}");
                        let failure = failure(Scope::Rows, Verdict::Schema, message);
                        if current.lane.is_some() {
                            worker.end_state();
                            self.happened.push(Happened::Retired { worker: id });
                        }
                        self.let_go_of(id);
                        self.happened.push(Happened::Failed { attempt: current.attempt, failure });
                    }
                }
                result => result?,
            },
            Kind::Done => {
                worker.check_done(&frame)?;
                if let Some(current) = worker.ended(&frame) {
                    if worker.is_at_its_end() {
                        self.happened.push(Happened::Retired { worker: id });
                    }
                    if let Some(lane) = current.lane
                        && let Some(blamed) = self.blamed.get_mut(&(current.stage, current.sequence))
                    {
                        blamed.remove(&lane);
                    }
                    // Only now: an attempt that is tried again must not begin with the state that it leaves.
                    if let (Some(lane), Some(state)) = (current.lane, current.snapshot) {
                        let (stage, next) = (current.stage, current.sequence + 1);
                        self.happened.push(Happened::Snapshot { stage, lane, next, state });
                    }
                    self.let_go_of(id);
                    self.happened.push(Happened::Done {
                        attempt: current.attempt,
                        rows: u64::from(frame.rows),
                        end: frame.flags & FLAG_END != 0,
                        spent: Duration::from_micros(frame.length),
                        failed: current.failed,
                        outputs: current.outputs,
                    });
                }
            }
            Kind::Error => {
                let text: ErrorText = frame.text()?;
                let is_opening = frame.attempt == 0;
                if is_opening && frame.stage as usize >= self.plan.stages.len() {
                    return Err(WorkerError::Stage(frame.stage));
                }
                if is_opening {
                    worker.stages.remove(&StageId(frame.stage));
                }
                if is_opening && (self.is_closing || worker.life.replaced().is_some()) {
                    self.unclosed.push((StageId(frame.stage), user_failure(text, is_opening)));
                    return Ok(());
                }
                let ended = if is_opening {
                    worker.ended_with(StageId(frame.stage))
                } else {
                    worker.ended(&frame).into_iter().collect()
                };
                let is_spoilt = ended.iter().any(|current| current.lane.is_some());
                let is_ending = !ended.is_empty() && worker.is_at_its_end();
                if is_spoilt {
                    worker.end_state();
                }
                if is_ending || is_spoilt {
                    self.happened.push(Happened::Retired { worker: id });
                }
                let rows = text.rows.map(|(from, to)| from..to);
                let throttled = text.throttled.filter(|_| !is_opening);
                let failure = user_failure(text, is_opening);
                self.let_go_of(id);
                for current in ended {
                    let failure = self.lane_failure(&current, rows.clone(), failure.clone());
                    let attempt = current.attempt;
                    self.happened.push(match throttled {
                        None => Happened::Failed { attempt, failure },
                        Some(throttled) => {
                            let wait = throttled.seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
                            Happened::Throttled { attempt, wait, failure }
                        }
                    });
                }
                self.go_on(id);
            }
            Kind::RowsFailed => {
                let text: RowsFailedText = frame.text()?;
                if let Some(current) = worker.attempts.front_mut().filter(|current| current.attempt.0 == frame.attempt)
                {
                    current.failed =
                        text.rows.into_iter().map(|row| (row.row, user_failure(row.error, false))).collect();
                }
            }
            Kind::DoneAgain => {
                if let Some(current) = worker.attempts.front_mut() {
                    current.again.pop_front();
                }
                self.go_on(id);
            }
            Kind::Snapshot => {
                if let Some(current) = worker.attempts.front_mut() {
                    current.snapshot = Some(frame.data);
                }
            }
            Kind::CaughtUp => {
                if let Some(current) = worker.attempts.front_mut() {
                    current.is_catching_up = false;
                }
            }
            Kind::Ask => self.worker_asks(id, &frame)?,
            Kind::Released => worker.released(&frame),
            Kind::Dropped => self.fading.extend(worker.dropped_segment(&frame)),
            _ => {}
        }
        Ok(())
    }
}

fn user_failure(text: ErrorText, is_opening: bool) -> Failure {
    if text.kind == NO_SHARED_MEMORY {
        return failure(Scope::Output, Verdict::Exception, text.message);
    }
    let verdict = Verdict::from_word(&text.verdict).unwrap_or(Verdict::Exception);
    let scope = if is_opening { Scope::Opening } else { Scope::Rows };
    let way_out = if is_opening && text.kind == "ModuleNotFoundError" {
        "; add its package to `requirements`, or its folder to `path`, both under `python:`"
    } else {
        ""
    };
    let message = match (text.kind, text.message) {
        (kind, message) if message.is_empty() => kind,
        // What millpond says itself needs no name.
        (kind, message) if kind.starts_with(OWN_ERRORS) && !TELLING.contains(&kind.as_str()) => message,
        (kind, message) => format!("{kind}: {message}{way_out}"),
    };
    Failure { verdict, scope, message, traceback: text.traceback }
}
