//! [`Deferred`]: a value that is being made on another thread.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crossbeam_channel::{Receiver, bounded};

/// A value that the threads of the process are making, or have made.
pub struct Deferred<T> {
    made: Receiver<Result<T, Box<dyn Any + Send>>>,
}

impl<T: Send + 'static> Deferred<T> {
    /// Starts to make a value.
    pub fn start(make: impl FnOnce() -> T + Send + 'static) -> Self {
        let (sender, made) = bounded(1);
        rayon::spawn(move || {
            // Nobody waits for a value that is not wanted any more.
            let _ = sender.send(catch_unwind(AssertUnwindSafe(make)));
        });
        Self { made }
    }

    /// Waits for the value.
    ///
    /// # Panics
    /// If making it has panicked: with the same panic.
    pub fn wait(self) -> T {
        match self.made.recv().expect("what is started is made") {
            Ok(value) => value,
            Err(panic) => resume_unwind(panic),
        }
    }
}

/// How many values it makes sense to have in the making: one for each core, and one so that no core has to wait.
pub fn in_the_making() -> usize {
    rayon::current_num_threads() + 1
}
