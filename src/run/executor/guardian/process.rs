//! The guardian's own process. Does nothing but start, reap and kill: on one thread, besides those that make what is started next.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process_group, set_child_subreaper, setsid, wait};

use super::descendants::kill_descendants;
use super::overdue::Deadline;
use super::standby::{MOST, Standby, Starters};
use super::start::{NO_PROGRAM, Starter};
use super::turns::Turns;
use super::{ProcessEnd, SpawnText, Turn};
use crate::run::executor::connection::{Connection, ConnectionError};
use crate::run::executor::frame::{FLAG_QUIET, Frame, Kind};

/// Runs the guardian on its standard input, which is the socket to the coordinator. Returns when all is over.
///
/// # Errors
/// If the process cannot be set up.
pub fn guard() -> io::Result<()> {
    // A session of its own: an interrupt from the terminal is the coordinator's to handle.
    let _ = setsid();
    set_child_subreaper(Some(getpid()))?;
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    let null = fs::File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        // Only the coordinator's end ends the guardian; it watches that itself.
        signal_hook::flag::register(signal, std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false)))?;
    }
    let (deaths, writer) = UnixStream::pair()?;
    deaths.set_nonblocking(true)?;
    signal_hook::low_level::pipe::register(signal_hook::consts::SIGCHLD, writer)?;
    let mut guard = Guard {
        connection: Connection::new(socket),
        processes: BTreeMap::new(),
        turns: Turns::default(),
        slots: 0,
        starter: Starter::default(),
        starters: Starters::default(),
    };
    let result = guard.serve(&deaths);
    kill_descendants();
    result.map_err(io::Error::other)
}

struct Guard {
    connection: Connection,
    /// Processes that were asked for and are not reaped, by pid.
    processes: BTreeMap<i32, Started>,
    /// Processes that are started when there is a slot.
    turns: Turns<Asked>,
    slots: u32,
    starter: Starter,
    starters: Starters,
}

/// A process that was asked for and is not started.
struct Asked {
    /// The coordinator's number of the process.
    process: u64,
    text: Arc<SpawnText>,
    fds: Arc<Vec<OwnedFd>>,
    has_slot: bool,
    /// Whether its start is told.
    is_announced: bool,
    standby: Option<Standby>,
}

impl Asked {
    fn read(mut frame: Frame) -> Result<Self, (u64, io::Error)> {
        let process = frame.attempt;
        let text = frame.text::<SpawnText>().map_err(|error| (process, io::Error::other(error)))?;
        Ok(Self {
            process,
            text: Arc::new(text),
            has_slot: Turn::read(&frame) != Turn::Beside,
            is_announced: frame.flags & FLAG_QUIET == 0,
            fds: Arc::new(std::mem::take(&mut frame.fds)),
            standby: None,
        })
    }
}

struct Started {
    /// The coordinator's number of the process.
    process: u64,
    has_slot: bool,
    since: Instant,
    deadline: Option<Deadline>,
    /// What knows whether it has become its program, if it was made before its turn.
    standby: Option<Standby>,
}

impl Guard {
    fn serve(&mut self, deaths: &UnixStream) -> Result<(), ConnectionError> {
        loop {
            let mut interest = PollFlags::IN;
            if self.connection.wants_to_send() {
                interest |= PollFlags::OUT;
            }
            let ready = {
                let mut fds =
                    [PollFd::from_borrowed_fd(self.connection.fd(), interest), PollFd::new(deaths, PollFlags::IN)];
                match poll(&mut fds, self.time_left().as_ref()) {
                    Ok(_) | Err(Errno::INTR) => [!fds[0].revents().is_empty(), !fds[1].revents().is_empty()],
                    Err(errno) => return Err(io::Error::from(errno).into()),
                }
            };
            if ready[1] {
                drain(deaths);
                self.reap();
            }
            self.enforce_deadlines();
            if ready[0] {
                self.connection.flush();
                for frame in self.connection.receive()? {
                    self.handle(frame);
                }
                if self.connection.is_closed() {
                    return Ok(());
                }
            }
            self.prepare();
        }
    }

    fn handle(&mut self, frame: Frame) {
        match frame.kind {
            Kind::Spawn => {
                let turn = Turn::read(&frame);
                match Asked::read(frame) {
                    Ok(asked) => self.ask(asked, turn),
                    Err((process, error)) => self.tell_failure(process, &error),
                }
            }
            Kind::GoOn => self.turns.go_on(),
            Kind::StopProcess => self.stop(frame.attempt),
            _ => {}
        }
        self.start_waiting();
    }

    fn ask(&mut self, asked: Asked, turn: Turn) {
        match turn {
            Turn::Beside => self.start(asked),
            Turn::Now => {
                self.turns.take_slot();
                self.start(asked);
            }
            Turn::Next { slots } => {
                self.slots = slots;
                self.turns.wait(asked);
            }
        }
    }

    /// Makes the processes that come next, as far as they can be made before it is their turn.
    fn prepare(&mut self) {
        let most = MOST.min(self.slots as usize);
        for asked in self.turns.first(most).filter(|asked| asked.standby.is_none() && !asked.is_announced) {
            asked.standby = self.starters.prepare(&asked.text, &asked.fds, most);
        }
    }

    /// Until the next deadline.
    fn time_left(&self) -> Option<Timespec> {
        let next = self.processes.values().filter_map(|started| Some(started.deadline.as_ref()?.at())).min()?;
        let left = next.saturating_duration_since(Instant::now());
        Some(Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        })
    }

    fn enforce_deadlines(&mut self) {
        for (&pid, started) in &mut self.processes {
            if let (Some(deadline), Some(pid)) = (&mut started.deadline, Pid::from_raw(pid)) {
                deadline.enforce(pid, Instant::now());
            }
        }
    }

    /// The coordinator has found that a process takes too long.
    fn stop(&mut self, process: u64) {
        for started in self.processes.values_mut().filter(|started| started.process == process) {
            started.deadline = Deadline::new(Instant::now(), Duration::ZERO);
        }
    }

    fn start_waiting(&mut self) {
        while let Some(asked) = self.turns.next(self.slots) {
            self.start(asked);
        }
    }

    fn start(&mut self, asked: Asked) {
        let Asked { process, text, fds, has_slot, is_announced, standby } = asked;
        if let Some(end) = standby.as_ref().and_then(|standby| standby.end) {
            self.ended(process, has_slot, standby.as_ref(), end, Duration::ZERO);
            return;
        }
        let since = Instant::now();
        let started = match standby.as_ref().and_then(Standby::go) {
            Some(pid) => Ok(pid),
            // There may be room for it now.
            None => self.starter.start(&text, &fds, None),
        };
        match started {
            Ok(pid) => {
                let deadline = text.timeout.and_then(|timeout| Deadline::new(since, timeout));
                self.processes.insert(pid, Started { process, has_slot, since, deadline, standby });
                if is_announced {
                    let mut answer = Frame::new(Kind::Spawned);
                    answer.attempt = process;
                    self.connection.send(answer);
                }
            }
            Err(error) => {
                self.tell_failure(process, &error);
                if has_slot {
                    self.turns.give_back(false);
                }
            }
        }
    }

    fn tell_failure(&mut self, process: u64, error: &io::Error) {
        let mut answer = Frame::new(Kind::SpawnFailed);
        answer.attempt = process;
        answer.rows = error.raw_os_error().map_or(0, i32::unsigned_abs);
        answer.text = error.to_string().into_bytes();
        self.connection.send(answer);
    }

    fn reap(&mut self) {
        loop {
            self.kill_groups_of_the_dead();
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    let pid = pid.as_raw_nonzero().get();
                    let (status, signal) = (status.exit_status(), status.terminating_signal());
                    let Some(started) = self.processes.remove(&pid) else {
                        let mut standbys = self.turns.first(MOST).filter_map(|asked| asked.standby.as_mut());
                        if let Some(standby) = standbys.find(|standby| standby.pid() == Some(pid)) {
                            standby.end = Some(ProcessEnd { status, signal, is_overdue: false });
                        }
                        continue;
                    };
                    let Started { process, has_slot, since, deadline, standby } = started;
                    let is_overdue = deadline.as_ref().is_some_and(Deadline::is_over);
                    let end = ProcessEnd { status, signal, is_overdue };
                    self.ended(process, has_slot, standby.as_ref(), end, since.elapsed());
                }
                Ok(None) | Err(Errno::CHILD) => return,
                Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }

    /// A process is reaped.
    fn ended(&mut self, process: u64, has_slot: bool, standby: Option<&Standby>, end: ProcessEnd, time: Duration) {
        // A core is free now; the coordinator can wait for the time that a start takes.
        if has_slot {
            self.turns.give_back(end.is_good());
            self.start_waiting();
        }
        let may_be_none = standby.filter(|_| end.status == Some(NO_PROGRAM));
        match may_be_none.and_then(Standby::failure) {
            Some(failure) => self.tell_failure(process, failure),
            None => self.report(process, end, time),
        }
    }

    fn report(&mut self, process: u64, end: ProcessEnd, time: Duration) {
        let mut frame = Frame::new(Kind::ProcessExited);
        frame.attempt = process;
        frame.length = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        frame.text = serde_json::to_vec(&end).expect("numbers are JSON");
        self.connection.send(frame);
    }

    /// Kills what is left of the groups of processes that have died but are not reaped: their ids cannot belong to anybody else yet.
    fn kill_groups_of_the_dead(&self) {
        use rustix::process::{WaitId, WaitIdOptions, waitid};
        for &pid in self.processes.keys() {
            let Some(pid) = Pid::from_raw(pid) else { continue };
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
            if let Ok(Some(_)) = waitid(WaitId::Pid(pid), options) {
                let _ = kill_process_group(pid, Signal::KILL);
            }
        }
    }
}

fn drain(mut deaths: &UnixStream) {
    use std::io::Read;
    let mut buffer = [0; 64];
    // One that is not filled was the last.
    while deaths.read(&mut buffer).is_ok_and(|read| read == buffer.len()) {}
}
