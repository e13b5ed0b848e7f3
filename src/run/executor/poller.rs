//! [`Poller`]: waits for descriptors, each of which stands for something.

use std::collections::BTreeMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;

use super::guardian::ProcessId;
use crate::run::Stream;
use crate::run::scheduler::WorkerId;

/// What a descriptor stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Token {
    Mailbox,
    Signals,
    Guardian,
    Template(ProcessId),
    Worker(WorkerId),
    /// A pidfd: readable when the worker has ended.
    WorkerEnd(WorkerId),
    /// A pipe from a command that has no thread.
    Command(ProcessId, Stream),
    /// A pipe from a worker's or template's standard output or error.
    Output(u64),
}

#[derive(Debug)]
pub struct Poller {
    epoll: rustix::fd::OwnedFd,
    tokens: BTreeMap<u64, Token>,
    numbers: BTreeMap<Token, Watched>,
    next: u64,
}

#[derive(Clone, Copy, Debug)]
struct Watched {
    number: u64,
    /// Whether room to write is watched for as well.
    output: bool,
}

impl Poller {
    /// # Errors
    /// If there are no descriptors left.
    pub fn new() -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        Ok(Self { epoll, tokens: BTreeMap::new(), numbers: BTreeMap::new(), next: 0 })
    }

    /// Watches for input.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn add(&mut self, token: Token, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.next += 1;
        epoll::add(&self.epoll, fd, EventData::new_u64(self.next), EventFlags::IN)?;
        self.tokens.insert(self.next, token);
        self.numbers.insert(token, Watched { number: self.next, output: false });
        Ok(())
    }

    /// Also watches for room to write, or no longer.
    pub fn watch_output(&mut self, token: Token, fd: BorrowedFd<'_>, wanted: bool) {
        let Some(watched) = self.numbers.get_mut(&token) else { return };
        if watched.output == wanted {
            return;
        }
        watched.output = wanted;
        let number = watched.number;
        let flags = if wanted { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
        // A descriptor that is closed already is no longer watched, which is as well.
        let _ = epoll::modify(&self.epoll, fd, EventData::new_u64(number), flags);
    }

    pub fn remove(&mut self, token: Token, fd: BorrowedFd<'_>) {
        if let Some(Watched { number, .. }) = self.numbers.remove(&token) {
            self.tokens.remove(&number);
            let _ = epoll::delete(&self.epoll, fd);
        }
    }

    /// Waits until something is ready, or the time is over.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn wait(&self, timeout: Option<Duration>) -> io::Result<Vec<Token>> {
        let mut space = [MaybeUninit::uninit(); 64];
        let timeout = timeout.map(|timeout| Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(timeout.subsec_nanos()),
        });
        match epoll::wait(&self.epoll, &mut space, timeout.as_ref()) {
            Ok((events, _)) => {
                Ok(events.iter().filter_map(|event| self.tokens.get(&event.data.u64()).copied()).collect())
            }
            Err(Errno::INTR) => Ok(Vec::new()),
            Err(errno) => Err(errno.into()),
        }
    }
}
