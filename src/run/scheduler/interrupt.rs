//! Interrupts: what runs may come to its end, and nothing more begins.

use std::time::Duration;

use super::action::{Action, Host};
use super::scheduler::{Running, Scheduler, State};
use crate::run::{Ending, RunEvent};

/// How long attempts that run may go on after an interrupt.
const GRACE: Duration = Duration::from_secs(10);
impl Scheduler {
    /// The first interrupt lets what runs come to its end; the second one does not. In the foreground, what runs may be waiting for the one who interrupts.
    pub(super) fn interrupted(&mut self) {
        if self.state != State::Running || self.is_drained() || self.plan.is_in_foreground {
            self.finish(Ending::Interrupted);
            return;
        }
        let attempts = self.running.values().filter(|running| is_at_work(running)).count();
        self.state = State::Draining { until: self.now.saturating_add(GRACE) };
        self.actions.push(Action::Emit(RunEvent::Draining { attempts, grace: GRACE }));
    }

    pub(super) fn end_if_drained(&mut self) {
        if let State::Draining { until } = self.state
            && (self.now >= until || self.is_drained())
        {
            self.finish(Ending::Interrupted);
        }
    }

    /// Whether no code of the user runs.
    pub(super) fn is_drained(&self) -> bool {
        !self.running.values().any(is_at_work)
    }

    /// Until when what runs may go on after an interrupt.
    pub(super) fn drains_until(&self) -> Option<Duration> {
        match self.state {
            State::Draining { until } => Some(until),
            _ => None,
        }
    }
}

/// Whether an attempt runs code of the user's, or is about to: what was sent to a worker cannot be taken back.
fn is_at_work(running: &Running) -> bool {
    running.host != Host::Native && !running.waits
}
