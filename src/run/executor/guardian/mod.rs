//! [`Guardian`]: a small process that is the ancestor of everything that a run starts.
//!
//! It starts templates and commands when the coordinator asks, reaps them, and reports how they ended. It is a subreaper: whatever
//! detaches itself (double forks, `setsid`) becomes its child. When its socket closes, because the run is over or because the
//! coordinator died in whatever way, it kills all that is left and exits.
//!
//! Commands can be sent ahead: the guardian starts one the moment another one has ended, so that no core idles while the coordinator
//! hears of it and decides.

mod descendants;
mod overdue;
mod process;
mod start;
mod turns;

pub use process::guard;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, getpid, kill_process, pidfd_open, set_child_subreaper};
use serde::{Deserialize, Serialize};

use self::descendants::kill_descendants;
use super::connection::{Connection, ConnectionError};
use super::frame::{FLAG_NEXT, FLAG_QUIET, FLAG_SLOT, Frame, Kind};

/// First argument that turns this binary into a guardian. Not for people.
pub const GUARDIAN_ARGUMENT: &str = "__guardian";

/// How long the guardian may take to end all that is left, before the coordinator does it without one.
const PATIENCE: Duration = Duration::from_secs(10);

/// A process that the guardian started, in this run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessId(pub u64);

/// What to start.
#[derive(Debug)]
pub struct Spawn<'a> {
    pub argv: &'a [String],
    /// On top of the environment of this process.
    pub env: &'a BTreeMap<String, String>,
    pub cwd: &'a Path,
    /// Standard input, output, error, and then descriptor 3 where there is a fourth.
    pub fds: Vec<OwnedFd>,
    /// Whether [`Report::Spawned`] is wanted.
    pub announced: bool,
    /// How long it may run.
    pub timeout: Option<Duration>,
    pub turn: Turn,
}

/// When a process is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// At once; it has nothing to do with the others.
    Beside,
    /// At once, in one of the slots that attempts run in.
    Now,
    /// As soon as fewer than `slots` processes run in slots; after all that were sent ahead before it. If one of them has failed, not
    /// before the coordinator has heard of it and goes on.
    Next { slots: u32 },
}

impl Turn {
    fn write(self, frame: &mut Frame) {
        frame.flags |= match self {
            Self::Beside => 0,
            Self::Now => FLAG_SLOT,
            Self::Next { .. } => FLAG_SLOT | FLAG_NEXT,
        };
        if let Self::Next { slots } = self {
            frame.rows = slots;
        }
    }

    fn read(frame: &Frame) -> Self {
        match (frame.flags & FLAG_SLOT != 0, frame.flags & FLAG_NEXT != 0) {
            (false, _) => Self::Beside,
            (true, false) => Self::Now,
            (true, true) => Self::Next { slots: frame.rows },
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct SpawnText {
    argv: Vec<String>,
    env: BTreeMap<String, String>,
    cwd: String,
    timeout: Option<Duration>,
}

/// How a process ended: its exit status, or the signal that killed it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessEnd {
    pub status: Option<i32>,
    pub signal: Option<i32>,
    /// It was stopped, as it had run for longer than it may.
    #[serde(default)]
    pub is_overdue: bool,
}

impl ProcessEnd {
    pub fn is_good(self) -> bool {
        self.status == Some(0)
    }
}

/// What the guardian reports.
#[derive(Debug)]
pub enum Report {
    Spawned {
        process: ProcessId,
    },
    /// The program could not be started; the text says why, and so does the number where the system gave one.
    SpawnFailed {
        process: ProcessId,
        errno: Option<i32>,
        message: String,
    },
    /// The process is reaped, and what was left of its process group is killed.
    Exited {
        process: ProcessId,
        end: ProcessEnd,
        /// From its start to its end.
        time: Duration,
    },
}

/// The coordinator's end.
#[derive(Debug)]
pub struct Guardian {
    connection: Connection,
    child: Child,
    /// Readable when the guardian has ended.
    end: OwnedFd,
    next: u64,
    /// Whether a process in a slot may have failed since the guardian was last told to go on.
    is_held_up: bool,
}

impl Guardian {
    /// Starts the guardian. From now on, what a guardian that died has left is a child of this process.
    ///
    /// # Errors
    /// If this binary cannot be started again.
    pub fn start() -> io::Result<Self> {
        set_child_subreaper(Some(getpid()))?;
        let (connection, theirs) = Connection::pair()?;
        let program: OsString = "/proc/self/exe".into();
        let mut command = Command::new(program);
        command.arg(GUARDIAN_ARGUMENT).stdin(Stdio::from(theirs)).stdout(Stdio::null()).stderr(Stdio::inherit());
        let child = command.spawn()?;
        let end = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
        Ok(Self { connection, child, end, next: 0, is_held_up: false })
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.connection.fd()
    }

    /// Starts a process in a session and process group of its own.
    pub fn spawn(&mut self, spawn: Spawn<'_>) -> ProcessId {
        self.next += 1;
        let text = SpawnText {
            argv: spawn.argv.to_vec(),
            env: spawn.env.clone(),
            cwd: spawn.cwd.to_string_lossy().into_owned(),
            timeout: spawn.timeout,
        };
        let mut frame = Frame::new(Kind::Spawn);
        frame.text = serde_json::to_vec(&text).expect("strings are JSON");
        frame.attempt = self.next;
        frame.flags = if spawn.announced { 0 } else { FLAG_QUIET };
        spawn.turn.write(&mut frame);
        frame.fds = spawn.fds;
        self.connection.send(frame);
        ProcessId(self.next)
    }

    /// Ends a process that has run for longer than it may.
    pub fn stop(&mut self, process: ProcessId) {
        let mut frame = Frame::new(Kind::StopProcess);
        frame.attempt = process.0;
        self.connection.send(frame);
    }

    /// The run goes on after all that has been reported, and the scheduler knows it: what was sent ahead may be started.
    pub fn go_on(&mut self) {
        if std::mem::take(&mut self.is_held_up) {
            self.connection.send(Frame::new(Kind::GoOn));
        }
    }

    pub fn wants_to_send(&self) -> bool {
        self.connection.wants_to_send()
    }

    pub fn flush(&mut self) {
        self.connection.flush();
    }

    /// Reads the reports that have arrived. `None` after the last one if the guardian is gone.
    ///
    /// # Errors
    /// If the socket fails.
    pub fn reports(&mut self) -> Result<Option<Vec<Report>>, ConnectionError> {
        let frames = self.connection.receive()?;
        if frames.is_empty() && self.connection.is_closed() {
            return Ok(None);
        }
        let reports = frames.iter().map(report).collect::<Result<Vec<_>, _>>()?;
        self.is_held_up |= reports.iter().any(Report::is_bad);
        Ok(Some(reports))
    }

    /// Ends everything that it started and that is left, and waits until it is gone. Where the guardian does not do it, as it was killed
    /// or is stuck, this process does.
    ///
    /// # Errors
    /// If the guardian cannot be waited for.
    pub fn shut_down(self) -> io::Result<()> {
        let Self { connection, mut child, end, .. } = self;
        drop(connection);
        // It may have been stopped by a signal.
        let _ = kill_process(Pid::from_child(&child), Signal::CONT);
        if !has_ended_within(&end, PATIENCE)? {
            child.kill()?;
        }
        if !child.wait()?.success() {
            kill_descendants();
        }
        Ok(())
    }
}

/// Waits for a process to end, by its descriptor.
fn has_ended_within(end: &OwnedFd, patience: Duration) -> io::Result<bool> {
    let until = Instant::now() + patience;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).expect("the patience has a limit");
        match poll(&mut [PollFd::new(end, PollFlags::IN)], Some(&left)) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

impl Report {
    fn is_bad(&self) -> bool {
        match self {
            Self::Spawned { .. } => false,
            Self::SpawnFailed { .. } => true,
            Self::Exited { end, .. } => !end.is_good(),
        }
    }
}

fn report(frame: &Frame) -> Result<Report, ConnectionError> {
    let process = ProcessId(frame.attempt);
    Ok(match frame.kind {
        Kind::Spawned => Report::Spawned { process },
        Kind::ProcessExited => Report::Exited { process, end: frame.text()?, time: Duration::from_nanos(frame.length) },
        _ => Report::SpawnFailed {
            process,
            errno: i32::try_from(frame.rows).ok().filter(|&errno| errno > 0),
            message: String::from_utf8_lossy(&frame.text).into_owned(),
        },
    })
}
