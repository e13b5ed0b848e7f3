//! [`WorkerClock`]: how long a worker has been at what it does, and its end if that is too long.
//!
//! A worker that is to be stopped first shows what all its Python threads are doing, into a file in memory that was made when the worker
//! was: nothing in the worker need answer for that. Then it gets TERM, and later KILL. Its template kills what is left of its group.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use rustix::process::{Signal, pidfd_send_signal};

use crate::run::scheduler::AttemptId;

/// The signal at which a worker shows its stacks. `millpond/process.py` has the same number.
const SHOW_STACKS: i32 = 62;
/// What the worker is given for that.
const TO_SHOW: Duration = Duration::from_millis(200);
/// What it is given to end by itself, after TERM.
const GRACE: Duration = Duration::from_secs(2);
/// Most bytes of stacks that are told.
const STACKS_BYTES: usize = 32 << 10;

#[derive(Debug, Default)]
pub struct WorkerClock {
    /// What it does now, and since when.
    turn: Option<(Turn, Instant)>,
    overdue: Option<Overdue>,
    /// Where it shows its stacks.
    stacks: Option<OwnedFd>,
}

/// Something that may take no longer than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    pub attempt: AttemptId,
    pub part: Part,
    pub limit: Duration,
}

/// A part of an attempt that has a time of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Opening,
    /// So many batches before it are to be done again.
    Again(usize),
    /// A generator makes again what it has made before.
    CatchingUp,
    Itself,
}

#[derive(Debug)]
struct Overdue {
    reason: String,
    since: Instant,
    step: Step,
    /// What took too long has ended after all, when the worker could not be spared any more.
    is_unjust: bool,
}

/// What has been done to end the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Asked,
    Termed,
    Killed,
}

impl WorkerClock {
    /// A clock that keeps the stacks of a worker that hangs, and the descriptor for the worker to show them.
    ///
    /// # Errors
    /// If there are no descriptors left.
    pub fn with_stacks() -> io::Result<(Self, OwnedFd)> {
        let stacks = memfd_create("millpond-stacks", MemfdFlags::CLOEXEC)?;
        let theirs = stacks.as_fd().try_clone_to_owned()?;
        Ok((Self { stacks: Some(stacks), ..Self::default() }, theirs))
    }

    /// What the worker does now; `None` if nothing that has a limit.
    pub fn set(&mut self, turn: Option<Turn>) {
        if self.turn.map(|(turn, _)| turn) == turn {
            return;
        }
        self.turn = turn.map(|turn| (turn, Instant::now()));
        // It has been at the last moment.
        self.overdue.take_if(|overdue| overdue.step == Step::Asked);
        if let Some(overdue) = &mut self.overdue {
            overdue.is_unjust = true;
        }
    }

    /// Why the worker was stopped, if what it does now is to blame.
    pub fn overdue(&self) -> Option<&str> {
        self.overdue.as_ref().filter(|overdue| !overdue.is_unjust).map(|overdue| overdue.reason.as_str())
    }

    /// Whether the worker was stopped for something that it has done in the end.
    pub fn is_unjust(&self) -> bool {
        self.overdue.as_ref().is_some_and(|overdue| overdue.is_unjust)
    }

    /// Takes the next step with a worker whose time is over.
    pub fn enforce(&mut self, worker: &OwnedFd) {
        if let Some(overdue) = &mut self.overdue {
            let (wait, signal, step) = match overdue.step {
                Step::Asked => (TO_SHOW, Signal::TERM, Step::Termed),
                Step::Termed => (TO_SHOW + GRACE, Signal::KILL, Step::Killed),
                Step::Killed => return,
            };
            if overdue.since.elapsed() >= wait {
                overdue.step = step;
                // It may be gone already.
                let _ = pidfd_send_signal(worker, signal);
            }
            return;
        }
        let Some((turn, _)) = self.turn.filter(|(turn, since)| since.elapsed() >= turn.limit) else { return };
        let what = if turn.part == Part::Opening { "preparing the stage" } else { "an attempt" };
        let time = humantime::format_duration(turn.limit);
        let reason = format!("it was stopped, as {what} took longer than its stage's `timeout` allows, {time}");
        self.overdue = Some(Overdue { reason, since: Instant::now(), step: Step::Asked, is_unjust: false });
        if self.stacks.is_some() {
            show_stacks(worker);
        }
    }

    /// What the worker's threads were doing, the most recent call first; empty if it has not said.
    pub fn stacks(&self) -> String {
        let Some(stacks) = self.stacks.as_ref().filter(|_| self.overdue.is_some()) else { return String::new() };
        let mut bytes = vec![0; STACKS_BYTES];
        let mut length = 0;
        while length < bytes.len() {
            match rustix::io::pread(stacks, &mut bytes[length..], length as u64) {
                Ok(0) => break,
                Ok(count) => length += count,
                Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
        without_ids(String::from_utf8_lossy(&bytes[..length]).trim_end())
    }
}

/// Threads without their addresses, which differ from run to run.
fn without_ids(stacks: &str) -> String {
    let lines = stacks.lines().map(|line| match line.split_once("hread 0x") {
        Some((start, rest)) => {
            format!("{start}hread{}", rest.trim_start_matches(|letter: char| letter.is_ascii_hexdigit()))
        }
        None => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn show_stacks(worker: &OwnedFd) {
    // SAFETY: a number of a signal that this system has; no signal of the C library's own threads.
    let signal = unsafe { Signal::from_raw_unchecked(SHOW_STACKS) };
    let _ = pidfd_send_signal(worker, signal);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stacks_are_the_same_in_every_run() {
        let shown = "Thread 0x00007f5c0b7d1740 [main] (most recent call first):\n  File \"work.py\", line 3 in hang";
        assert_eq!(without_ids(shown), "Thread [main] (most recent call first):\n  File \"work.py\", line 3 in hang");
        assert_eq!(without_ids("Current thread 0x0f (most"), "Current thread (most");
    }

    #[test]
    fn what_ends_at_the_last_moment_is_spared() {
        let turn = |attempt| Turn { attempt: AttemptId(attempt), part: Part::Itself, limit: Duration::ZERO };
        let (mut clock, _stacks) = WorkerClock::with_stacks().expect("there are descriptors");
        let nobody = OwnedFd::from(std::fs::File::open("/dev/null").expect("it is there"));
        clock.set(Some(turn(1)));
        clock.enforce(&nobody);
        assert!(clock.overdue().is_some_and(|reason| reason.contains("an attempt took longer")));
        clock.set(Some(turn(2)));
        assert!(clock.overdue().is_none() && !clock.is_unjust());
    }
}
