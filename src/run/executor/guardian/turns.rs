//! [`Turns`]: which of the processes that were sent ahead may start.

use std::collections::VecDeque;

#[derive(Debug)]
pub struct Turns<T> {
    /// Processes that have a slot.
    running: u32,
    waiting: VecDeque<T>,
    /// A process has failed, and nobody has said yet that the run goes on.
    is_held_up: bool,
}

impl<T> Default for Turns<T> {
    fn default() -> Self {
        Self { running: 0, waiting: VecDeque::new(), is_held_up: false }
    }
}

impl<T> Turns<T> {
    /// A process is started in a slot that the coordinator knows to be free.
    pub fn take_slot(&mut self) {
        self.running += 1;
    }

    pub fn wait(&mut self, process: T) {
        self.waiting.push_back(process);
    }

    /// A process that had a slot has ended.
    pub fn give_back(&mut self, is_good: bool) {
        self.running -= 1;
        self.is_held_up |= !is_good;
    }

    pub fn go_on(&mut self) {
        self.is_held_up = false;
    }

    /// The process to start next, which has a slot from now on. `slots` is how many there are.
    pub fn next(&mut self, slots: u32) -> Option<T> {
        if self.is_held_up || self.running >= slots {
            return None;
        }
        let next = self.waiting.pop_front()?;
        self.running += 1;
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_passed_on_in_order() {
        let mut turns = Turns::default();
        turns.take_slot();
        turns.wait("a");
        turns.wait("b");
        assert_eq!(turns.next(1), None);
        turns.give_back(true);
        assert_eq!((turns.next(1), turns.next(1)), (Some("a"), None));
    }

    #[test]
    fn one_that_comes_when_a_slot_is_free_already_has_it() {
        let mut turns = Turns::default();
        turns.take_slot();
        turns.take_slot();
        turns.give_back(true);
        turns.wait("late");
        assert_eq!(turns.next(2), Some("late"));
    }

    #[test]
    fn after_a_failure_nothing_starts_before_the_run_goes_on() {
        let mut turns = Turns::default();
        turns.take_slot();
        turns.wait("a");
        turns.give_back(false);
        assert_eq!(turns.next(1), None);
        turns.go_on();
        assert_eq!(turns.next(1), Some("a"));
    }
}
