//! [`Deadline`]: the end of the time that a process may take, and what is done to it then.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

/// What a process group is given to end by itself, after TERM.
const GRACE: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub struct Deadline {
    /// The next step is due then.
    at: Instant,
    /// TERM has been sent.
    is_over: bool,
}

impl Deadline {
    pub fn new(since: Instant, timeout: Duration) -> Option<Self> {
        // One that no clock can show is none.
        Some(Self { at: since.checked_add(timeout)?, is_over: false })
    }

    pub fn at(&self) -> Instant {
        self.at
    }

    /// Whether the time was over before the process had ended.
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// Takes the next step if it is due: TERM for the process's group, and then KILL.
    pub fn enforce(&mut self, process: Pid, now: Instant) {
        if now < self.at {
            return;
        }
        let signal = if self.is_over { Signal::KILL } else { Signal::TERM };
        // It may have ended just now.
        let _ = kill_process_group(process, signal);
        self.is_over = true;
        self.at = now + GRACE;
    }
}
