//! [`Talk`]: the conversation with a process, turn by turn. Writing, reading and waiting for its end go on side by side, as a process
//! may want any of them first.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes};
use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ioctl_fionread};

use super::command::{DRAIN, ERROR_BYTES, LONGEST_DRAIN, OUTPUT_BYTES, OurEnds};
use super::guardian::ProcessEnd;
use super::log::OutputLog;
use crate::batch::Text;
use crate::format::{Format, LineReader, RecordError};
use crate::plan::StageId;
use crate::run::{Speaker, Stream};

/// Least room for output that is read at once.
const READ_BYTES: usize = 256 << 10;
/// A turn that has moved less than this was hardly worth waking up for.
const WORTH_BYTES: usize = 64 << 10;
/// How long to wait then, while there is more than that to be written: for the process to do more than a page.
const NAP: Duration = Duration::from_micros(100);

pub(super) struct Talk {
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    end: OwnedFd,
    voice: Voice,
    /// What is left to be written, and how much that is.
    input: VecDeque<Bytes>,
    unwritten: usize,
    /// Whether standard input is closed when that is written.
    is_last: bool,
    /// Whether standard output is for the log.
    is_logged: bool,
    pub output: Output,
    errors: Vec<u8>,
    moved: Instant,
    ended: Option<(ProcessEnd, Instant)>,
}

/// Who speaks on standard error, and where it is written down.
pub(super) struct Voice {
    pub stage: StageId,
    pub name: String,
    pub log: OutputLog,
}

/// What can be done without waiting.
#[derive(Clone, Copy)]
struct Ready {
    stdin: bool,
    stdout: bool,
    stderr: bool,
}

/// What a process has written.
pub(super) struct Output {
    pub body: Body,
    /// How much it was, what is forgotten included.
    pub bytes: usize,
}

pub(super) enum Body {
    Lines(Box<Lines>),
    Bytes(Vec<u8>),
}

/// Lines of output.
#[derive(Default)]
pub(super) struct Lines {
    reader: LineReader,
    text: Text,
    failed: Option<RecordError>,
}

impl Talk {
    /// `output` is what is made of standard output; without it, it is written down.
    pub fn new(ends: OurEnds, voice: Voice, output: Option<Format>) -> Self {
        let body = match output {
            Some(Format::Lines) => Body::Lines(Box::default()),
            _ => Body::Bytes(Vec::new()),
        };
        let OurEnds { stdin, stdout, stderr, end } = ends;
        Self {
            stdin: Some(stdin),
            stdout,
            stderr,
            end,
            voice,
            input: VecDeque::new(),
            unwritten: 0,
            is_last: false,
            is_logged: output.is_none(),
            output: Output { body, bytes: 0 },
            errors: Vec::new(),
            moved: Instant::now(),
            ended: None,
        }
    }

    /// Adds to what is to be written.
    pub fn say(&mut self, text: VecDeque<Bytes>) {
        self.unwritten += text.iter().map(Bytes::len).sum::<usize>();
        self.input.extend(text.into_iter().filter(|part| !part.is_empty()));
        self.moved = Instant::now();
    }

    /// Adds to what is to be written, and closes standard input behind it.
    pub fn say_last(&mut self, text: VecDeque<Bytes>) {
        self.say(text);
        if let Body::Bytes(bytes) = &mut self.output.body
            && !self.is_logged
        {
            // What comes out is often as long as what goes in. Room that is not used takes no memory.
            bytes.reserve(READ_BYTES + self.unwritten);
        }
        self.is_last = true;
        self.close_if_done();
    }

    /// Whether more can be said.
    pub fn is_open(&self) -> bool {
        self.stdin.is_some() && !self.is_last && self.ended.is_none()
    }

    /// Whether all that was said is written.
    pub fn is_written(&self) -> bool {
        self.input.is_empty()
    }

    /// Whether the process has read all that was said.
    pub fn is_read(&self) -> bool {
        let unread = self.stdin.as_ref().map(|stdin| ioctl_fionread(stdin).unwrap_or(0));
        self.is_written() && unread.unwrap_or(0) == 0
    }

    /// How long it has been since the process took something or said something.
    pub fn silence(&self) -> Duration {
        self.moved.elapsed()
    }

    /// The last of what was written to standard error.
    pub fn errors(&self) -> String {
        String::from_utf8_lossy(&self.errors).trim_end().to_owned()
    }

    /// Waits until something can be done, and does it: no longer than `patience`, and not if `wake` is readable. Returns how the
    /// process has ended when there is nothing more to hear.
    pub fn turn(
        &mut self,
        wake: Option<BorrowedFd<'_>>,
        patience: Option<Duration>,
    ) -> Result<Option<ProcessEnd>, Errno> {
        if let Some((end, _)) = &self.ended
            && self.stdout.is_none()
            && self.stderr.is_none()
        {
            return Ok(Some(*end));
        }
        let ready = self.wait(wake, patience)?;
        let written = if ready.stdin { self.write() } else { 0 };
        if written > 0 {
            self.moved = Instant::now();
        }
        let (was_heard, read) = self.hear(ready);
        if (1..WORTH_BYTES).contains(&(written + read)) && self.unwritten > WORTH_BYTES {
            std::thread::sleep(NAP);
        }
        match &self.ended {
            None => self.ended = self.has_ended(),
            Some((end, since)) => {
                // What lies in the pipes belongs to the output, however late this thread gets to read it.
                let patience = if was_heard { LONGEST_DRAIN } else { DRAIN };
                if since.elapsed() >= patience {
                    return Ok(Some(*end));
                }
            }
        }
        Ok(None)
    }

    fn wait(&self, wake: Option<BorrowedFd<'_>>, patience: Option<Duration>) -> Result<Ready, Errno> {
        let stdin = self.stdin.as_ref().filter(|_| !self.input.is_empty());
        let mut fds = Vec::with_capacity(5);
        let stdin = watch(&mut fds, stdin.map(AsFd::as_fd), PollFlags::OUT);
        let stdout = watch(&mut fds, self.stdout.as_ref().map(AsFd::as_fd), PollFlags::IN);
        let stderr = watch(&mut fds, self.stderr.as_ref().map(AsFd::as_fd), PollFlags::IN);
        watch(&mut fds, wake, PollFlags::IN);
        let timeout = match &self.ended {
            None => {
                watch(&mut fds, Some(self.end.as_fd()), PollFlags::IN);
                patience
            }
            Some((_, since)) => Some(DRAIN.saturating_sub(since.elapsed())),
        };
        let timeout = timeout.map(|left| Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        });
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
        let is_ready = |at: Option<usize>| at.is_some_and(|at| !fds[at].revents().is_empty());
        Ok(Ready { stdin: is_ready(stdin), stdout: is_ready(stdout), stderr: is_ready(stderr) })
    }

    /// Writes what the pipe takes, and returns how much that was. A process need not read all of its input.
    fn write(&mut self) -> usize {
        let Some(stdin) = &self.stdin else { return 0 };
        let mut written = 0;
        while let Some(part) = self.input.front_mut() {
            match rustix::io::write(stdin, part) {
                Ok(count) => {
                    part.advance(count);
                    written += count;
                    self.unwritten -= count;
                }
                Err(Errno::AGAIN | Errno::INTR) => return written,
                Err(_) => {
                    self.input.clear();
                    self.unwritten = 0;
                    self.is_last = true;
                }
            }
            if self.input.front().is_some_and(Bytes::is_empty) {
                self.input.pop_front();
            }
        }
        self.close_if_done();
        written
    }

    fn close_if_done(&mut self) {
        if self.is_last && self.input.is_empty() {
            self.stdin = None;
        }
    }

    /// Returns whether there was anything to hear, and how much of it was output.
    fn hear(&mut self, ready: Ready) -> (bool, usize) {
        let mut read = 0;
        let mut was_heard = false;
        if ready.stdout && !self.is_logged {
            read = self.take_output();
            was_heard = read > 0;
        } else if ready.stdout {
            was_heard |= hear(&mut self.stdout, |bytes| self.voice.log(Stream::Stdout, bytes));
        }
        if ready.stderr {
            let (errors, voice) = (&mut self.errors, &self.voice);
            was_heard |= hear(&mut self.stderr, |bytes| {
                errors.extend_from_slice(bytes);
                let surplus = errors.len().saturating_sub(ERROR_BYTES);
                errors.drain(..surplus);
                voice.log(Stream::Stderr, bytes);
            });
        }
        if was_heard {
            self.moved = Instant::now();
        }
        (was_heard, read)
    }

    /// Reads once, what the pipe holds, to where it stays, and returns how much that was. Whatever is left, or comes, is for the next
    /// turn: the process may wait for input meanwhile.
    fn take_output(&mut self) -> usize {
        let Some(stdout) = &self.stdout else { return 0 };
        match self.output.read(stdout) {
            Ok(0) => self.stdout = None,
            Ok(count) => return count,
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.stdout = None,
        }
        0
    }

    fn has_ended(&self) -> Option<(ProcessEnd, Instant)> {
        let mut text = [0; 128];
        match rustix::io::read(&self.end, &mut text) {
            Ok(0) => Some((ProcessEnd::default(), Instant::now())),
            Ok(length) => Some((serde_json::from_slice(&text[..length]).unwrap_or_default(), Instant::now())),
            Err(_) => None,
        }
    }
}

impl Voice {
    fn log(&self, stream: Stream, bytes: &[u8]) {
        self.log.write(&self.name, &Speaker::Command { stage: self.stage }, None, stream, bytes);
    }
}

impl Output {
    /// Reads once. What is too long, or wrong, is read and forgotten, so that the process can end.
    fn read(&mut self, stdout: &OwnedFd) -> Result<usize, Errno> {
        let count = match &mut self.body {
            Body::Lines(lines) => lines.read(stdout)?,
            Body::Bytes(bytes) => {
                if bytes.capacity() - bytes.len() < READ_BYTES {
                    bytes.reserve(READ_BYTES);
                }
                rustix::io::read(stdout, spare_capacity(bytes))?
            }
        };
        self.bytes = self.bytes.saturating_add(count);
        if self.bytes > OUTPUT_BYTES {
            match &mut self.body {
                Body::Lines(lines) => lines.text = Text::default(),
                Body::Bytes(bytes) => bytes.clear(),
            }
        }
        Ok(count)
    }
}

impl Lines {
    fn read(&mut self, stdout: &OwnedFd) -> Result<usize, Errno> {
        let count = rustix::io::read(stdout, self.reader.room())?;
        if self.failed.is_none() {
            self.reader.advance(count);
            if self.reader.is_full() {
                self.take();
            }
        }
        Ok(count)
    }

    fn take(&mut self) {
        if self.failed.is_none() {
            self.failed = self.reader.take_lines(&mut self.text).err();
        }
    }

    /// The first `rows` lines, if there are so many.
    pub fn next(&mut self, rows: usize) -> Option<Text> {
        self.take();
        self.text.take_front(rows, usize::MAX)
    }

    /// All lines.
    ///
    /// # Errors
    /// If one of them is not a line of text.
    pub fn finish(mut self) -> Result<Text, RecordError> {
        if self.failed.is_none() {
            self.failed = self.reader.finish(&mut self.text).err();
        }
        self.failed.map_or(Ok(self.text), Err)
    }
}

/// Adds what to wait for, and returns where it is among the others.
fn watch<'f>(fds: &mut Vec<PollFd<'f>>, fd: Option<BorrowedFd<'f>>, flags: PollFlags) -> Option<usize> {
    fds.push(PollFd::from_borrowed_fd(fd?, flags));
    Some(fds.len() - 1)
}

/// Passes on what is there; closes the pipe at its end. Returns whether there was anything.
fn hear(fd: &mut Option<OwnedFd>, take: impl FnOnce(&[u8])) -> bool {
    let mut buffer = [0; 64 << 10];
    let Some(pipe) = fd else { return false };
    match rustix::io::read(pipe, &mut buffer) {
        Ok(0) => *fd = None,
        Ok(length) => {
            take(&buffer[..length]);
            return true;
        }
        Err(Errno::AGAIN | Errno::INTR) => {}
        Err(_) => *fd = None,
    }
    false
}
