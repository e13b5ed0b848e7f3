//! [`Blame`]: finds the rows for which a batch keeps failing, by bisection.
//!
//! A range that failed is split; its halves are tried from left to right, a failing half is split again. A single row that
//! fails alone is blamed. A range that fails although both of its halves pass is tried once more as a whole (the failure may
//! have come from outside, as when somebody kills workers), and blamed as a set if it fails again. One blamed row costs at most
//! `2 · log2(rows) + attempts` attempts.

use std::ops::Range;

use super::action::Reject;
use super::event::Failure;
use crate::plan::Verdict;

#[derive(Clone, Debug)]
pub struct Blame {
    /// Ranges still to be decided; the last one is tried next.
    open: Vec<Open>,
    found: Vec<Reject>,
    /// Attempts for a crash of rows that cannot be divided further, before they are blamed.
    crash_attempts: u32,
}

#[derive(Clone, Debug)]
enum Open {
    /// Not tried yet, or tried `failures` times (single rows only).
    Untried { rows: Range<u64>, failures: u32 },
    /// Failed; both halves lie above it on the stack. `blamed_before` tells whether one of them was blamed.
    Split { rows: Range<u64>, blamed_before: usize },
    /// Failed, and both halves passed: being tried once more.
    Again { rows: Range<u64>, failures: u32 },
}

impl Blame {
    /// Starts with the failure of the whole batch of `rows` rows, after `attempts` attempts.
    pub fn new(rows: u64, failure: Failure, attempts: u32, crash_attempts: u32) -> Self {
        let mut blame = Self { open: Vec::new(), found: Vec::new(), crash_attempts };
        blame.failed(0..rows, failure, attempts);
        blame.settle();
        blame
    }

    /// The rows to try next; `None` when all is decided.
    pub fn next(&self) -> Option<Range<u64>> {
        match self.open.last()? {
            Open::Untried { rows, .. } | Open::Again { rows, .. } => Some(rows.clone()),
            Open::Split { .. } => unreachable!("`settle` leaves no decided range on top"),
        }
    }

    /// The rows of [`Blame::next`] passed.
    pub fn passed(&mut self) {
        self.open.pop();
        self.settle();
    }

    /// The rows of [`Blame::next`] failed.
    pub fn next_failed(&mut self, failure: Failure) {
        match self.open.pop() {
            Some(Open::Untried { rows, failures }) => self.failed(rows, failure, failures + 1),
            Some(Open::Again { rows, failures }) => self.failed_together(rows, failure, failures + 1),
            other => unreachable!("no range was being tried: {other:?}"),
        }
        self.settle();
    }

    /// The rows that are to blame so far, in ascending order.
    pub fn found(&self) -> &[Reject] {
        &self.found
    }

    pub fn into_found(self) -> Vec<Reject> {
        self.found
    }

    fn failed(&mut self, rows: Range<u64>, failure: Failure, failures: u32) {
        if rows.end - rows.start > 1 {
            let middle = rows.start + (rows.end - rows.start) / 2;
            let halves = [middle..rows.end, rows.start..middle];
            self.open.push(Open::Split { rows, blamed_before: self.found.len() });
            self.open.extend(halves.map(|rows| Open::Untried { rows, failures: 0 }));
        } else if self.deserves_another(&failure, failures) {
            self.open.push(Open::Untried { rows, failures });
        } else {
            self.found.push(Reject { rows, failure });
        }
    }

    fn failed_together(&mut self, rows: Range<u64>, failure: Failure, failures: u32) {
        if self.deserves_another(&failure, failures) {
            self.open.push(Open::Again { rows, failures });
        } else {
            self.found.push(Reject { rows, failure });
        }
    }

    /// A crash may come from outside: it is tried again before rows are blamed for it.
    fn deserves_another(&self, failure: &Failure, failures: u32) -> bool {
        failure.verdict == Verdict::Crash && failures < self.crash_attempts
    }

    /// Decides the ranges whose halves are all decided.
    fn settle(&mut self) {
        while let Some(Open::Split { rows, blamed_before }) = self.open.last() {
            let (rows, halves_passed) = (rows.clone(), self.found.len() == *blamed_before);
            self.open.pop();
            if halves_passed {
                self.open.push(Open::Again { rows, failures: 0 });
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::run::scheduler::event::Scope;

    fn failure(verdict: Verdict) -> Failure {
        Failure { verdict, scope: Scope::Rows, message: "boom".into(), traceback: String::new() }
    }

    /// Runs the search against a function that tells whether a range fails; returns what is blamed and the number of tries.
    fn search(rows: u64, verdict: Verdict, mut fails: impl FnMut(&Range<u64>) -> bool) -> (Vec<Range<u64>>, u32) {
        let mut blame = Blame::new(rows, failure(verdict), 1, 3);
        let mut tries = 0;
        while let Some(range) = blame.next() {
            tries += 1;
            assert!(tries < 10_000, "the search does not end");
            if fails(&range) { blame.next_failed(failure(verdict)) } else { blame.passed() }
        }
        (blame.into_found().into_iter().map(|reject| reject.rows).collect(), tries)
    }

    #[test]
    fn a_single_row_that_crashes_is_tried_as_often_as_crashes_are_retried() {
        let (found, tries) = search(1, Verdict::Crash, |_| true);
        assert_eq!((found, tries), (vec![0..1], 2));
    }

    #[test]
    fn rows_that_fail_only_together_are_blamed_as_a_set() {
        let (found, _) = search(8, Verdict::Exception, |range| range.end - range.start == 8);
        assert_eq!(found, [0..8]);
    }

    #[test]
    fn a_failure_that_does_not_come_back_blames_nobody() {
        let (found, tries) = search(1024, Verdict::Crash, |_| false);
        assert_eq!((found, tries), (vec![], 3));
    }

    proptest! {
        #[test]
        fn exactly_the_poison_rows_are_blamed(rows in 1u64..5000, poison in prop::collection::btree_set(0u64..5000, 1..6)) {
            let poison: Vec<u64> = poison.into_iter().map(|row| row % rows).collect::<std::collections::BTreeSet<_>>().into_iter().collect();
            let (found, tries) = search(rows, Verdict::Exception, |range| poison.iter().any(|row| range.contains(row)));
            let expected: Vec<_> = poison.iter().map(|&row| row..row + 1).collect();
            prop_assert_eq!(found, expected);
            let bound = poison.len() as u32 * (2 * (64 - rows.leading_zeros()) + 1);
            prop_assert!(tries <= bound, "{} tries, bound {}", tries, bound);
        }
    }
}
