//! [`Echo`]: answers every action of the scheduler at once, with rows that do not exist.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use millpond::plan::{EdgeId, Plan, StageId, StageKind};
use millpond::run::Ending;
use millpond::run::scheduler::{Action, BatchId, Dispatch, Event, Meta, Output, QueuedPieces, Scheduler, Work};

/// Rows of every batch.
const ROWS: u64 = 8192;
/// Bytes of every batch.
const BYTES: u64 = 64 << 10;

pub struct Echo {
    plan: Arc<Plan>,
    /// Batches that each source has left to give.
    left: HashMap<StageId, u64>,
    events: VecDeque<Event>,
    next_batch: u64,
}

impl Echo {
    /// Runs a plan whose sources give `batches` batches each; returns how many events the scheduler handled.
    ///
    /// # Panics
    /// If the run does not succeed.
    pub fn run(plan: &Arc<Plan>, batches: u64) -> u64 {
        let is_source = |kind: &StageKind| matches!(kind, StageKind::Read(_));
        let sources = plan.stages.iter().filter(|stage| is_source(&stage.kind));
        let left = sources.map(|stage| (stage.id, batches)).collect();
        let mut echo = Self { plan: Arc::clone(plan), left, events: VecDeque::new(), next_batch: 0 };
        let mut scheduler = Scheduler::new(Arc::clone(plan));
        let mut actions = scheduler.start(Duration::ZERO);
        let mut handled = 0;
        loop {
            for action in actions {
                if let Action::Finish(ending) = action {
                    assert!(matches!(ending, Ending::Succeeded), "{ending:?}");
                    return handled;
                }
                let answer = echo.answer(action);
                echo.events.extend(answer);
            }
            let event = echo.events.pop_front().expect("a run that is not over waits for something");
            handled += 1;
            actions = scheduler.handle(event, Duration::from_micros(handled));
        }
    }

    fn answer(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Pull { stage } => Some(self.pulled(stage)),
            Action::Feed { stage, input, .. } => Some(Event::Taken { stage, input, rows: ROWS }),
            Action::EndInput { stage, .. } | Action::Close { stage } => Some(Event::Ended { stage }),
            Action::StartWorker { worker, .. } => Some(Event::WorkerReady { worker }),
            Action::Dispatch(dispatch) => Some(self.done(&dispatch)),
            Action::Publish { stage, port, .. } => {
                let queued = self.edges(stage, port).into_iter().map(|edge| self.queued(edge, 1)).collect();
                Some(Event::Queued { stage, queued })
            }
            Action::FinishPorts { stage } => {
                let ports = 0..self.plan.stage(stage).ports.len();
                let edges: Vec<EdgeId> = ports.flat_map(|port| self.edges(stage, port)).collect();
                let queued = edges.into_iter().map(|edge| self.queued(edge, 0)).collect();
                Some(Event::PortsFinished { stage, queued })
            }
            Action::Commit => Some(Event::Committed),
            // What has no answer, or is not asked for in these plans.
            _ => None,
        }
    }

    fn pulled(&mut self, stage: StageId) -> Event {
        let left = self.left.get_mut(&stage).expect("only sources are pulled");
        if *left == 0 {
            return Event::Ended { stage };
        }
        *left -= 1;
        Event::Produced { stage, outputs: vec![Output { port: 0, batch: self.batch() }], unread: None }
    }

    fn done(&mut self, dispatch: &Dispatch) -> Event {
        let attempt = dispatch.attempt;
        match &dispatch.work {
            Work::Rows { .. } => {
                let outputs = vec![Output { port: 0, batch: self.batch() }];
                Event::AttemptDone {
                    attempt,
                    rows: ROWS,
                    spent: Duration::ZERO,
                    outputs,
                    end: false,
                    failed: Vec::new(),
                }
            }
            _ => Event::AttemptDone {
                attempt,
                rows: 0,
                spent: Duration::ZERO,
                outputs: Vec::new(),
                end: true,
                failed: Vec::new(),
            },
        }
    }

    fn edges(&self, stage: StageId, port: usize) -> Vec<EdgeId> {
        self.plan.stage(stage).ports[port].edges.clone()
    }

    fn queued(&mut self, edge: EdgeId, pieces: usize) -> QueuedPieces {
        let pieces = (0..pieces).map(|_| self.batch()).collect();
        QueuedPieces { edge, pieces, held_bytes: 0, spilled: false }
    }

    fn batch(&mut self) -> Meta {
        self.next_batch += 1;
        Meta { id: BatchId(self.next_batch), rows: ROWS, bytes: BYTES }
    }
}
