//! [`Standby`]: a process that is all but its program, and waits for its turn.
//!
//! To make a process, its session and its descriptors takes about as long as many a command runs. While all slots are taken, that is done for
//! the commands that come next, on threads of their own: when one has ended, a word lets the next one become its program.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;

use rustix::thread::futex;

use super::start::Starter;
use super::{ProcessEnd, SpawnText};

/// Processes that wait at once, at most, and threads that make them.
pub const MOST: usize = 4;

/// The states of a gate after 0, at which there may be no process yet. This one: the process stands before it.
const REACHED: u32 = 1;
/// The process has become its program, or never will.
const SETTLED: u32 = 2;

/// Where a process waits before it becomes its program. It is in the memory that the process shares with the guardian until then.
#[derive(Debug, Default)]
pub struct Gate {
    state: AtomicU32,
    is_open: AtomicU32,
    /// Of the process; 0 before there is one.
    pub pid: AtomicI32,
    /// Why it did not become its program.
    failure: OnceLock<io::Error>,
}

impl Gate {
    /// Waits until it is open. Called by the process, so that it may neither allocate nor set `errno`: these calls of the system do not.
    pub fn pass(&self) {
        self.state.store(REACHED, Ordering::Release);
        let _ = futex::wake(&self.state, futex::Flags::PRIVATE, 1);
        while self.is_open.load(Ordering::Acquire) == 0 {
            let _ = futex::wait(&self.is_open, futex::Flags::PRIVATE, 0, None);
        }
    }

    fn open(&self) {
        self.is_open.store(1, Ordering::Release);
        let _ = futex::wake(&self.is_open, futex::Flags::PRIVATE, 1);
    }

    fn settle(&self, failure: Option<io::Error>) {
        if let Some(failure) = failure {
            let _ = self.failure.set(failure);
        }
        self.state.store(SETTLED, Ordering::Release);
        let _ = futex::wake(&self.state, futex::Flags::PRIVATE, 1);
    }

    /// Waits until its state is at least this one.
    fn wait_for(&self, wanted: u32) {
        loop {
            let state = self.state.load(Ordering::Acquire);
            if state >= wanted {
                return;
            }
            let _ = futex::wait(&self.state, futex::Flags::PRIVATE, state, None);
        }
    }
}

/// A process that waits at its gate.
#[derive(Debug)]
pub struct Standby {
    gate: Arc<Gate>,
    /// How it ended, if it did not live to see its turn.
    pub end: Option<ProcessEnd>,
}

impl Standby {
    /// Its pid, if it is there already.
    pub fn pid(&self) -> Option<i32> {
        Some(self.gate.pid.load(Ordering::Acquire)).filter(|pid| *pid > 0)
    }

    /// Lets it become its program. `None` if it could not be made.
    pub fn go(&self) -> Option<i32> {
        self.gate.wait_for(REACHED);
        self.gate.open();
        self.pid()
    }

    /// Why it did not become its program, once it has ended.
    pub fn failure(&self) -> Option<&io::Error> {
        self.gate.wait_for(SETTLED);
        self.gate.failure.get()
    }
}

struct Job {
    text: Arc<SpawnText>,
    fds: Arc<Vec<OwnedFd>>,
    gate: Arc<Gate>,
}

/// The threads that make processes. They live as long as the guardian, as processes die with the thread that has made them.
pub struct Starters {
    jobs: Sender<Job>,
    queue: Arc<Mutex<Receiver<Job>>>,
    threads: usize,
}

impl Default for Starters {
    fn default() -> Self {
        let (jobs, queue) = channel();
        Self { jobs, queue: Arc::new(Mutex::new(queue)), threads: 0 }
    }
}

impl Starters {
    /// Begins to make a process, of which `most` wait at once, at most [`MOST`]. `None` if there is no thread for it.
    pub fn prepare(&mut self, text: &Arc<SpawnText>, fds: &Arc<Vec<OwnedFd>>, most: usize) -> Option<Standby> {
        // With one more, it would be woken each time, while the thread of the process that goes is free in a moment.
        if self.threads < most {
            let queue = Arc::clone(&self.queue);
            let started = thread::Builder::new().name("starter".to_owned()).spawn(move || serve(&queue));
            self.threads += usize::from(started.is_ok());
        }
        if self.threads == 0 {
            return None;
        }
        let gate = Arc::new(Gate::default());
        let job = Job { text: Arc::clone(text), fds: Arc::clone(fds), gate: Arc::clone(&gate) };
        self.jobs.send(job).ok()?;
        Some(Standby { gate, end: None })
    }
}

fn serve(queue: &Mutex<Receiver<Job>>) {
    let mut starter = Starter::default();
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { text, fds, gate }) = job else { break };
        let started = starter.start(&text, &fds, Some(&gate));
        // What reads from its output waits for the last that has it open.
        drop(fds);
        gate.settle(started.err());
    }
    // Its processes would die with it.
    loop {
        thread::park();
    }
}
