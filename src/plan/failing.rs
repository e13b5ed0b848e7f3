//! What a stage does about attempts that fail: how long it waits for them, how often it tries again, and what becomes of the rows.

use std::num::NonZeroU32;
use std::time::Duration;

use super::resolve::Resolver;
use super::stage::StageKind;
use crate::diagnostic::Code;
use crate::spec::model::{OnErrorWordSpec, TimeoutSpec, VerdictSpec};
use crate::spec::pattern;

/// How long a stage may take to be prepared in a worker, unless its pipeline says so, or gives an attempt even more time.
const OPEN: Duration = Duration::from_secs(600);
/// The longest wait before an attempt, unless the pipeline says so.
const MAX_BACKOFF: Duration = Duration::from_secs(60);

/// How long something may take before it is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeout {
    /// One attempt of a batch, from the moment that it runs.
    pub attempt: Duration,
    /// Preparing the stage in a worker.
    pub open: Duration,
}

/// How often a batch is tried. `attempts` counts all verdicts in `on`; a verdict that is not in `on` gets one attempt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Retry {
    pub exception: NonZeroU32,
    pub crash: NonZeroU32,
    pub oom: NonZeroU32,
    pub timeout: NonZeroU32,
    pub backoff: Backoff,
}

/// How long a batch waits before it is tried again.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Backoff {
    /// Before the second attempt; twice as long before each further one.
    pub first: Duration,
    pub most: Duration,
    /// Part of each wait that is left to chance, 0 to 1.
    pub jitter: f64,
}

impl Default for Retry {
    /// What has been killed from outside may pass another time; what raises, or takes too long, will again.
    fn default() -> Self {
        let (once, thrice) = (NonZeroU32::MIN, NonZeroU32::new(3).expect("not zero"));
        Self { exception: once, crash: thrice, oom: thrice, timeout: once, backoff: Backoff::default() }
    }
}

impl Retry {
    /// Attempts of rows that fail with this verdict, before they are given up.
    pub fn attempts(&self, verdict: Verdict) -> u32 {
        match verdict {
            Verdict::Crash => self.crash.get(),
            Verdict::Oom => self.oom.get(),
            Verdict::Timeout => self.timeout.get(),
            Verdict::Exception | Verdict::Schema => self.exception.get(),
            // It is known, and not a matter of luck.
            Verdict::Contract => 1,
        }
    }
}

impl Backoff {
    /// How long to wait when `failed` attempts have failed. `chance` is 0 to 1.
    pub fn wait(&self, failed: u32, chance: f64) -> Duration {
        let doubled = 2_u32.checked_pow(failed.saturating_sub(1)).and_then(|factor| self.first.checked_mul(factor));
        let wait = doubled.map_or(self.most, |wait| wait.min(self.most));
        wait.mul_f64(1.0 - self.jitter * chance)
    }
}

/// Why a row or a batch could not be processed. The same words are used in `retry.on`, in events and in rejects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    /// The user's code raised, or a command exited with a status other than 0.
    Exception,
    /// The process died: a signal, or an exit that the engine did not ask for.
    Crash,
    /// The worker was killed, as it had much more memory than it may have.
    Oom,
    /// It was stopped, as it took longer than it may.
    Timeout,
    /// What the stage returned does not fit its declared or settled columns.
    Schema,
    /// The row breaks what was agreed on: the user's code or the stage's `expect` says so.
    Contract,
}

impl Verdict {
    pub fn word(self) -> &'static str {
        match self {
            Self::Exception => "exception",
            Self::Crash => "crash",
            Self::Oom => "oom",
            Self::Timeout => "timeout",
            Self::Schema => "schema",
            Self::Contract => "contract",
        }
    }

    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Exception, Self::Crash, Self::Oom, Self::Timeout, Self::Schema, Self::Contract]
            .into_iter()
            .find(|it| it.word() == word)
    }
}

/// What happens to rows that keep failing (`on_error`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    Fail,
    Skip,
    Reject,
}

impl OnError {
    pub fn word(self) -> &'static str {
        match self {
            Self::Fail => "fail",
            Self::Skip => "skip",
            Self::Reject => "reject",
        }
    }
}

/// How many rows of a stage may fail before the run does; `None` is without a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Budget {
    /// Exceeded as soon as there is one more.
    pub max_rows: Option<u64>,
    /// Part of the stage's rows, 0 to 1; known when it has seen all.
    pub max_fraction: Option<f64>,
}

impl Budget {
    pub fn allows(&self, failed: u64) -> bool {
        self.max_rows.is_none_or(|most| failed <= most)
    }

    /// Whether so many of all rows may have failed.
    pub fn allows_of(&self, failed: u64, all: u64) -> bool {
        self.allows(failed) && self.max_fraction.is_none_or(|most| failed as f64 <= most * all as f64)
    }
}

impl Resolver<'_> {
    /// How long attempts may take. `kind` is what `Resolver::kind` gave.
    pub fn timeout(&mut self, kind: Option<&StageKind>) -> Option<Timeout> {
        let spec = self.draft.spec.timeout.as_ref()?;
        let (attempt, open) = match spec {
            TimeoutSpec::Attempt(text) => (self.duration(&["timeout"], text), None),
            TimeoutSpec::Limits(limits) => (
                self.duration(&["timeout", "attempt"], &limits.attempt),
                limits.open.as_ref().and_then(|text| self.duration(&["timeout", "open"], text)),
            ),
        };
        let problem = match (self.draft.kind(), kind) {
            (Some("python"), _) => None,
            (Some("command"), Some(StageKind::Command(command))) if command.is_source() => Some(
                "a command that is a source is one process for the whole run, so `timeout` has no meaning".to_owned(),
            ),
            (Some("command"), _) => (open.is_some()).then(|| {
                "a command has nothing to prepare, so `open` has no meaning: `timeout: 60s` is enough".to_owned()
            }),
            (Some(kind), _) => Some(format!("a `{kind}` stage has no attempts, so `timeout` has no meaning")),
            (None, _) => None,
        };
        if let Some(problem) = problem {
            let span = self.draft.key_span("timeout");
            self.report_at(Code::PlanBadOption, span, None, problem).help = Some(
                "remove it; `python` stages, and commands that are given rows or run once, have a `timeout`".to_owned(),
            );
        }
        let attempt = attempt?;
        Some(Timeout { attempt, open: open.unwrap_or(OPEN.max(attempt)) })
    }

    pub fn retry(&mut self) -> Retry {
        let Some(spec) = &self.draft.spec.retry else { return Retry::default() };
        let once = NonZeroU32::MIN;
        let attempts = spec.attempts.and_then(NonZeroU32::new).unwrap_or(NonZeroU32::new(3).expect("not zero"));
        let counts = |verdict| if spec.on.as_ref().is_none_or(|on| on.contains(&verdict)) { attempts } else { once };
        let first = spec.backoff.as_ref().and_then(|text| self.duration(&["retry", "backoff"], text));
        let most = spec.max_backoff.as_ref().and_then(|text| self.duration(&["retry", "max_backoff"], text));
        let first = first.unwrap_or_default();
        Retry {
            exception: counts(VerdictSpec::Exception),
            crash: counts(VerdictSpec::Crash),
            oom: counts(VerdictSpec::Oom),
            timeout: counts(VerdictSpec::Timeout),
            backoff: Backoff {
                first,
                most: most.unwrap_or(MAX_BACKOFF.max(first)),
                jitter: spec.jitter.unwrap_or_default().clamp(0.0, 1.0),
            },
        }
    }

    pub fn on_error(&self) -> OnError {
        match self.draft.spec.on_error.as_ref().map(|spec| spec.word()) {
            None | Some(OnErrorWordSpec::Fail) => OnError::Fail,
            Some(OnErrorWordSpec::Skip) => OnError::Skip,
            Some(OnErrorWordSpec::Reject) => OnError::Reject,
        }
    }

    pub fn budget(&self) -> Budget {
        if self.document.is_shown {
            return Budget::default();
        }
        let spec = self.draft.spec.on_error.as_ref().and_then(|spec| spec.budget());
        spec.map_or_else(Budget::default, |spec| Budget { max_rows: spec.max_rows, max_fraction: spec.max_fraction })
    }

    /// A time that is not zero.
    pub(super) fn duration(&mut self, keys: &[&str], text: &str) -> Option<Duration> {
        let duration = pattern::is_duration(text).then(|| humantime::parse_duration(text).ok()).flatten();
        if duration.is_none() {
            let message = format!("`{text}` is not a time");
            self.report(Code::PlanBadDuration, keys, message).help =
                Some("write a number with a unit, such as `500ms`, `60s` or `1m30s`".to_owned());
        }
        duration
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        let backoff = Backoff { first: Duration::from_secs(1), most: Duration::from_secs(5), jitter: 0.0 };
        let waits = [1, 2, 3, 4, 60].map(|failed| backoff.wait(failed, 0.7).as_secs());
        assert_eq!(waits, [1, 2, 4, 5, 5]);
    }

    #[test]
    fn a_part_of_a_wait_is_left_to_chance() {
        let backoff = Backoff { first: Duration::from_secs(1), most: Duration::from_secs(5), jitter: 0.5 };
        assert_eq!([0.0, 0.5, 1.0].map(|chance| backoff.wait(1, chance).as_millis()), [1000, 750, 500]);
    }

    #[test]
    fn a_budget_is_exceeded_by_one_row_more() {
        let budget = Budget { max_rows: Some(2), max_fraction: Some(0.1) };
        assert_eq!([2, 3].map(|failed| budget.allows(failed)), [true, false]);
        assert_eq!(
            [(1, 10), (2, 19), (0, 0), (3, 100)].map(|(failed, all)| budget.allows_of(failed, all)),
            [true, false, true, false]
        );
        assert!(Budget::default().allows_of(7, 7));
    }
}
