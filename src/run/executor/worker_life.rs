//! [`WorkerLife`]: how long a worker lives, by the memory that it has, by its age and by what it has done; and how it was ended.

use std::time::Instant;

use bytesize::ByteSize;

use crate::batch::Segment;
use crate::plan::memory::killed_at;
use crate::plan::{Recycle, Stage, StageKind};

/// The limits of one worker, and its end if it went over one.
#[derive(Debug)]
pub struct WorkerLife {
    /// After an attempt: above it the worker is replaced.
    replaced_above: Option<u64>,
    /// At any time: above it the worker is killed.
    killed_above: Option<u64>,
    /// Where the worker notes how many bytes its arrays have that lie in shared memory and are no batch yet.
    ledger: Option<Segment>,
    /// After so many attempts, or an attempt at such an age, it is replaced.
    recycle: Recycle,
    started: Instant,
    answered: u32,
    end: Option<End>,
}

#[derive(Clone, Debug)]
enum End {
    /// Asked to close what it has open and to end.
    Replaced {
        reason: String,
        since: Instant,
    },
    Killed {
        reason: String,
    },
}

impl WorkerLife {
    /// The limits of workers of the class of `stage`.
    pub fn of(stage: &Stage) -> Self {
        let limit = stage.memory.map(std::num::NonZeroU64::get);
        // A new worker would have to do again all that a generator, or a stage with state, has done so far.
        let is_source = matches!(&stage.kind, StageKind::Python(python) if python.is_source);
        let has_state = is_source || stage.has_state();
        Self {
            replaced_above: limit.filter(|_| !has_state),
            killed_above: limit.map(killed_at),
            recycle: stage.recycle,
            ..Self::default()
        }
    }

    pub fn read_ledger(&mut self, ledger: Segment) {
        self.ledger = Some(ledger);
    }

    /// Bytes that a process has allocated, with what it has inherited from its template; not the batches in shared memory, which are
    /// accounted for as such. `None` when it is gone.
    fn own_bytes(&self, pid: i32) -> Option<u64> {
        let in_ledger = self.ledger.as_ref().and_then(Segment::number).unwrap_or(0);
        Some(anonymous_bytes(pid)?.saturating_add(in_ledger))
    }

    /// An attempt is over: returns whether it was the worker's last one.
    pub fn is_over(&mut self, pid: i32) -> bool {
        self.answered = self.answered.saturating_add(1);
        if self.end.is_none() {
            let reason = self.outgrown(pid).or_else(|| self.used_up()).or_else(|| self.aged());
            reason.into_iter().for_each(|reason| self.replace(&reason));
        }
        self.end.is_some()
    }

    fn outgrown(&self, pid: i32) -> Option<String> {
        let limit = self.replaced_above?;
        let bytes = self.own_bytes(pid).filter(|bytes| *bytes > limit)?;
        let (bytes, limit) = (size(bytes), size(limit));
        Some(format!("it was replaced, as it had {bytes} after a batch, more than its stage's `memory` of {limit}"))
    }

    fn used_up(&self) -> Option<String> {
        let batches = self.recycle.batches.filter(|batches| self.answered >= batches.get())?;
        Some(format!("it was replaced after {batches} batches, as its stage's `recycle` says"))
    }

    fn aged(&self) -> Option<String> {
        let age = self.recycle.age.filter(|age| self.started.elapsed() >= *age)?;
        let age = humantime::format_duration(age);
        Some(format!("it was replaced, as it was older than {age}, its stage's `recycle.age`"))
    }

    /// The worker is to end when it has answered what it was sent.
    pub fn replace(&mut self, reason: &str) {
        self.end.get_or_insert(End::Replaced { reason: reason.to_owned(), since: Instant::now() });
    }

    /// Returns whether the worker has so much that it must be killed now.
    pub fn is_fatal(&mut self, pid: i32) -> bool {
        let Some(limit) = self.killed_above.filter(|_| !matches!(self.end, Some(End::Killed { .. }))) else {
            return false;
        };
        let Some(bytes) = self.own_bytes(pid).filter(|bytes| *bytes > limit) else { return false };
        let reason =
            format!("it was killed, as it had {}, more than one and a half times its stage's `memory`", size(bytes));
        self.end = Some(End::Killed { reason });
        true
    }

    /// Since when it should have ended by itself.
    pub fn replaced_since(&self) -> Option<Instant> {
        match &self.end {
            Some(End::Replaced { since, .. }) => Some(*since),
            _ => None,
        }
    }

    /// Why it was replaced.
    pub fn replaced(&self) -> Option<&str> {
        match &self.end {
            Some(End::Replaced { reason, .. }) => Some(reason),
            _ => None,
        }
    }

    /// Why it was killed.
    pub fn killed(&self) -> Option<&str> {
        match &self.end {
            Some(End::Killed { reason }) => Some(reason),
            _ => None,
        }
    }
}

impl Default for WorkerLife {
    fn default() -> Self {
        Self {
            replaced_above: None,
            killed_above: None,
            ledger: None,
            recycle: Recycle::default(),
            started: Instant::now(),
            answered: 0,
            end: None,
        }
    }
}

fn size(bytes: u64) -> String {
    ByteSize::b(bytes).to_string()
}

fn anonymous_bytes(pid: i32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kilobytes = line.split_whitespace().next()?.parse::<u64>().ok()?;
    Some(kilobytes << 10)
}
