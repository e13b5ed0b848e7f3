//! The guardian's own process. Single-threaded; does nothing but start, reap and kill.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process_group, set_child_subreaper, setsid, wait};

use super::descendants::kill_descendants;
use super::overdue::Deadline;
use super::start::Starter;
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
    };
    let result = guard.serve(&deaths);
    kill_descendants();
    result.map_err(io::Error::other)
}

struct Guard {
    connection: Connection,
    /// Processes that were asked for and are not reaped, by pid.
    processes: BTreeMap<i32, Started>,
    /// Frames of processes that are started when there is a slot.
    turns: Turns<Frame>,
    slots: u32,
    starter: Starter,
}

struct Started {
    /// The coordinator's number of the process.
    process: u64,
    has_slot: bool,
    since: Instant,
    deadline: Option<Deadline>,
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
        }
    }

    fn handle(&mut self, frame: Frame) {
        match (frame.kind, Turn::read(&frame)) {
            (Kind::Spawn, Turn::Beside) => self.start(frame),
            (Kind::Spawn, Turn::Now) => {
                self.turns.take_slot();
                self.start(frame);
            }
            (Kind::Spawn, Turn::Next { slots }) => {
                self.slots = slots;
                self.turns.wait(frame);
            }
            (Kind::GoOn, _) => self.turns.go_on(),
            (Kind::StopProcess, _) => self.stop(frame.attempt),
            _ => {}
        }
        self.start_waiting();
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
        while let Some(frame) = self.turns.next(self.slots) {
            self.start(frame);
        }
    }

    fn start(&mut self, mut frame: Frame) {
        let fds = std::mem::take(&mut frame.fds);
        let has_slot = Turn::read(&frame) != Turn::Beside;
        let mut answer = Frame::new(Kind::Spawned);
        answer.attempt = frame.attempt;
        let since = Instant::now();
        let text = frame.text::<SpawnText>().map_err(io::Error::other);
        match text.and_then(|text| Ok((self.starter.start(&text, &fds)?, text.timeout))) {
            Ok((pid, timeout)) => {
                let deadline = timeout.and_then(|timeout| Deadline::new(since, timeout));
                self.processes.insert(pid, Started { process: frame.attempt, has_slot, since, deadline });
                if frame.flags & FLAG_QUIET != 0 {
                    return;
                }
            }
            Err(error) => {
                answer.kind = Kind::SpawnFailed;
                answer.rows = error.raw_os_error().map_or(0, i32::unsigned_abs);
                answer.text = error.to_string().into_bytes();
                if has_slot {
                    self.turns.give_back(false);
                }
            }
        }
        self.connection.send(answer);
    }

    fn reap(&mut self) {
        loop {
            self.kill_groups_of_the_dead();
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    let Some(started) = self.processes.remove(&pid.as_raw_nonzero().get()) else { continue };
                    let end = ProcessEnd {
                        status: status.exit_status(),
                        signal: status.terminating_signal(),
                        is_overdue: started.deadline.as_ref().is_some_and(Deadline::is_over),
                    };
                    let time = started.since.elapsed();
                    // A core is free now; the coordinator can wait for the time that a start takes.
                    if started.has_slot {
                        self.turns.give_back(end.is_good());
                        self.start_waiting();
                    }
                    self.report(started.process, end, time);
                }
                Ok(None) | Err(Errno::CHILD) => return,
                Err(Errno::INTR) => {}
                Err(_) => return,
            }
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
    while matches!(deaths.read(&mut buffer), Ok(1..)) {}
}
