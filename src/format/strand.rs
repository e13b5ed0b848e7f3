//! [`Strand`]: work on one value, piece after piece, on whichever threads are free.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossbeam_channel::{Receiver, Sender, bounded};

type Work<S> = Box<dyn FnOnce(S) -> S + Send>;

/// A value and the work on it that is to be done, in the order in which it was given.
pub(super) struct Strand<S> {
    state: Arc<Mutex<State<S>>>,
}

struct State<S> {
    waiting: VecDeque<Work<S>>,
    /// `None` while it is worked on, and after a panic.
    value: Option<S>,
    has_panicked: bool,
}

impl<S: Send + 'static> Strand<S> {
    pub(super) fn new(value: S) -> Self {
        Self {
            state: Arc::new(Mutex::new(State { waiting: VecDeque::new(), value: Some(value), has_panicked: false })),
        }
    }

    /// Adds a piece of work. After a panic it is dropped: whoever waits for what it was to give hears that it will not come.
    pub(super) fn then(&self, work: impl FnOnce(S) -> S + Send + 'static) {
        let mut state = lock(&self.state);
        if state.has_panicked {
            return;
        }
        state.waiting.push_back(Box::new(work));
        if let Some(value) = state.value.take() {
            let state = Arc::clone(&self.state);
            rayon::spawn(move || run(&state, value));
        }
    }
}

fn run<S>(state: &Mutex<State<S>>, mut value: S) {
    loop {
        let work = {
            let mut state = lock(state);
            match state.waiting.pop_front() {
                Some(work) => work,
                None => {
                    state.value = Some(value);
                    return;
                }
            }
        };
        match catch_unwind(AssertUnwindSafe(|| work(value))) {
            Ok(next) => value = next,
            Err(_) => {
                let mut state = lock(state);
                state.has_panicked = true;
                return state.waiting.clear();
            }
        }
    }
}

fn lock<S>(state: &Mutex<State<S>>) -> MutexGuard<'_, State<S>> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A bound for what is under way at a time.
pub(super) struct Bound {
    sender: Sender<()>,
    receiver: Receiver<()>,
}

/// A place within a [`Bound`], free again when this is dropped.
pub(super) struct Place {
    receiver: Receiver<()>,
}

impl Bound {
    pub(super) fn new(places: usize) -> Self {
        let (sender, receiver) = bounded(places);
        Self { sender, receiver }
    }

    /// Waits for a free place.
    pub(super) fn enter(&self) -> Place {
        self.sender.send(()).expect("this end has the receiver, too");
        Place { receiver: self.receiver.clone() }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.receiver.try_recv();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_done_in_order() {
        let strand = Strand::new(Vec::new());
        let (sender, receiver) = bounded(1);
        for number in 0..100 {
            strand.then(move |mut numbers: Vec<i32>| {
                numbers.push(number);
                numbers
            });
        }
        strand.then(move |numbers| {
            sender.send(numbers).unwrap();
            Vec::new()
        });
        assert_eq!(receiver.recv().unwrap(), (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn after_a_panic_nothing_more_is_done_and_nobody_waits() {
        let strand = Strand::new(());
        let (sender, receiver) = bounded::<()>(1);
        let further = sender.clone();
        strand.then(|()| panic!("expected"));
        strand.then(move |()| sender.send(()).unwrap());
        // There may be work when it has panicked already.
        while !lock(&strand.state).has_panicked {
            std::thread::yield_now();
        }
        strand.then(move |()| further.send(()).unwrap());
        assert!(receiver.recv().is_err());
    }

    #[test]
    fn a_place_is_free_again_when_it_is_dropped() {
        let bound = Bound::new(1);
        for _ in 0..3 {
            drop(bound.enter());
        }
        let place = bound.enter();
        assert!(bound.sender.is_full());
        drop(place);
        assert!(bound.sender.is_empty());
    }
}
