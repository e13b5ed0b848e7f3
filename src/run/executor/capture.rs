//! [`Capture`]: what a process without input writes, read by the event loop as it comes. A process of its own costs little more than
//! its start, so that there is no thread for each.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use super::command::{DRAIN, LONGEST_DRAIN};
use super::guardian::ProcessEnd;
use crate::run::Stream;

/// Most bytes of standard output that are kept. One that is longer is a failure.
pub const STDOUT_BYTES: usize = 8 << 20;
/// Last bytes of standard error that are kept.
pub const STDERR_BYTES: usize = 64 << 10;

pub struct Capture {
    stdout: Channel,
    stderr: Channel,
    /// How the process ended, and when.
    ended: Option<(ProcessEnd, Instant)>,
    /// From its start to its end.
    time: Duration,
}

struct Channel {
    pipe: Option<OwnedFd>,
    bytes: Vec<u8>,
    /// Whether bytes had to be dropped.
    overflowed: bool,
}

impl Capture {
    /// A capture, and the process's standard output and error.
    ///
    /// # Errors
    /// If there are no descriptors left.
    pub fn new() -> io::Result<(Self, [OwnedFd; 2])> {
        let (our_stdout, stdout) = pipe_with(PipeFlags::CLOEXEC)?;
        let (our_stderr, stderr) = pipe_with(PipeFlags::CLOEXEC)?;
        let channel = |pipe: OwnedFd| {
            fcntl_setfl(&pipe, OFlags::NONBLOCK)?;
            io::Result::Ok(Channel { pipe: Some(pipe), bytes: Vec::new(), overflowed: false })
        };
        let (stdout_channel, stderr_channel) = (channel(our_stdout)?, channel(our_stderr)?);
        let capture = Self { stdout: stdout_channel, stderr: stderr_channel, ended: None, time: Duration::ZERO };
        Ok((capture, [stdout, stderr]))
    }

    /// A capture of a process that has the terminal: there is nothing to hear.
    pub fn of_nothing() -> Self {
        let channel = || Channel { pipe: None, bytes: Vec::new(), overflowed: false };
        Self { stdout: channel(), stderr: channel(), ended: None, time: Duration::ZERO }
    }

    fn channel(&mut self, stream: Stream) -> &mut Channel {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    /// The pipe of a stream, until it is closed.
    pub fn fd(&self, stream: Stream) -> Option<BorrowedFd<'_>> {
        match stream {
            Stream::Stdout => self.stdout.pipe.as_ref().map(AsFd::as_fd),
            Stream::Stderr => self.stderr.pipe.as_ref().map(AsFd::as_fd),
        }
    }

    /// Reads once. `None` if there is nothing now, or ever again: then the pipe has to be closed.
    pub fn hear<'b>(&mut self, stream: Stream, buffer: &'b mut [u8]) -> Heard<'b> {
        let channel = self.channel(stream);
        let Some(pipe) = &channel.pipe else { return Heard::End };
        match rustix::io::read(pipe, &mut *buffer) {
            Ok(0) => Heard::End,
            Ok(length) => Heard::Bytes(&buffer[..length]),
            Err(Errno::AGAIN | Errno::INTR) => Heard::Nothing,
            Err(_) => Heard::End,
        }
    }

    /// Keeps what was heard: the first bytes of standard output, the last ones of standard error.
    pub fn keep(&mut self, stream: Stream, heard: &[u8]) {
        let Channel { bytes, overflowed, .. } = self.channel(stream);
        match stream {
            Stream::Stdout => {
                let kept = heard.len().min(STDOUT_BYTES - bytes.len());
                bytes.extend_from_slice(&heard[..kept]);
                *overflowed |= kept < heard.len();
            }
            Stream::Stderr => {
                bytes.extend_from_slice(heard);
                let surplus = bytes.len().saturating_sub(STDERR_BYTES);
                bytes.drain(..surplus);
            }
        }
    }

    pub fn close(&mut self, stream: Stream) {
        self.channel(stream).pipe = None;
    }

    /// The process has ended, `time` after its start.
    pub fn end(&mut self, end: ProcessEnd, time: Duration) {
        self.ended = Some((end, Instant::now()));
        self.time = time;
    }

    /// How the process ended, once nothing more has to be waited for. `heard` tells whether it, or what it left running, spoke just now.
    pub fn is_over(&self, heard: bool) -> Option<ProcessEnd> {
        let (end, since) = self.ended?;
        let is_silent = self.stdout.pipe.is_none() && self.stderr.pipe.is_none();
        let patience = if heard { LONGEST_DRAIN } else { DRAIN };
        (is_silent || since.elapsed() >= patience).then_some(end)
    }

    /// Time from the start to the end of the process.
    pub fn time(&self) -> Duration {
        self.time
    }

    /// Standard output and error; `None` for an output that is too long.
    pub fn take(&mut self) -> (Option<Vec<u8>>, Vec<u8>) {
        let stdout = std::mem::take(&mut self.stdout.bytes);
        ((!self.stdout.overflowed).then_some(stdout), std::mem::take(&mut self.stderr.bytes))
    }
}

/// What came from a pipe.
pub enum Heard<'b> {
    Bytes(&'b [u8]),
    Nothing,
    /// Nothing will come any more.
    End,
}
