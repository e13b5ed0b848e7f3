//! Attempts that are processes of their own: input is written, output and errors are drained, all at once, until the process has
//! ended and its pipes are silent.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes};
use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

use super::guardian::ProcessEnd;
use super::log::OutputLog;
use super::resident::failure;
use crate::batch::{Batch, BatchError, Rows, Text};
use crate::format::{self, DecodeError, Format, LineReader, RecordError};
use crate::plan::{ColumnType, StageId, Verdict};
use crate::run::scheduler::{Failure, Scope};
use crate::run::{Speaker, Stream};

/// How long what the process left running may go on writing after its end.
pub const DRAIN: Duration = Duration::from_millis(100);
/// How long it is listened to if it never stops.
pub const LONGEST_DRAIN: Duration = Duration::from_secs(5);
/// Most bytes of standard output of one batch.
const OUTPUT_BYTES: usize = 1 << 30;
/// Room in the pipes that rows go through: the fewer the switches between processes, the better.
const PIPE_BYTES: usize = 1 << 20;
/// Least room for output that is read at once.
const READ_BYTES: usize = 256 << 10;
/// Last bytes of standard error that a failure shows.
const ERROR_BYTES: usize = 8 << 10;

/// The pipes of a process: our ends and its ends.
pub struct Pipes {
    pub ours: OurEnds,
    /// Standard input, output, error.
    pub theirs: Vec<OwnedFd>,
    /// Takes one [`ProcessEnd`] when the process has ended.
    pub end: EndSender,
}

pub struct OurEnds {
    stdin: OwnedFd,
    stdout: OwnedFd,
    stderr: OwnedFd,
    end: OwnedFd,
}

/// Tells the thread of a process how it has ended.
#[derive(Debug)]
pub struct EndSender(OwnedFd);

impl EndSender {
    pub fn send(self, end: ProcessEnd) {
        let text = serde_json::to_vec(&end).expect("numbers are JSON");
        // The thread has given up on the process only if it has failed itself.
        let _ = rustix::io::write(&self.0, &text);
    }
}

impl Pipes {
    /// # Errors
    /// If there are no descriptors left.
    pub fn new() -> io::Result<Self> {
        let (stdin, our_stdin) = pipe_with(PipeFlags::CLOEXEC)?;
        let (our_stdout, stdout) = pipe_with(PipeFlags::CLOEXEC)?;
        let (our_stderr, stderr) = pipe_with(PipeFlags::CLOEXEC)?;
        let (our_end, end) = end_pipe()?;
        for fd in [&our_stdin, &our_stdout, &our_stderr, &our_end] {
            fcntl_setfl(fd, OFlags::NONBLOCK)?;
        }
        for fd in [&our_stdin, &our_stdout] {
            // Refused where a user's pipes have taken all that they may; a pipe of the usual size does the same, slower.
            let _ = fcntl_setpipe_size(fd, PIPE_BYTES);
        }
        let ours = OurEnds { stdin: our_stdin, stdout: our_stdout, stderr: our_stderr, end: our_end };
        Ok(Self { ours, theirs: vec![stdin, stdout, stderr], end })
    }
}

/// A pipe for one [`ProcessEnd`].
///
/// # Errors
/// If there are no descriptors left.
pub fn end_pipe() -> io::Result<(OwnedFd, EndSender)> {
    let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
    Ok((ours, EndSender(theirs)))
}

/// What a process is given and what is made of its output.
pub struct Exchange {
    pub stage: StageId,
    pub name: String,
    pub input: Option<(Format, Batch)>,
    pub output: Option<Format>,
    /// Whether lines of output are wanted as columns.
    pub as_columns: bool,
    /// Declared columns of the output.
    pub returns: Vec<(String, ColumnType)>,
    pub log: OutputLog,
}

impl Exchange {
    /// Talks to the process until it has ended. Returns the rows of its output, if it has any that is wanted.
    ///
    /// # Errors
    /// If the process failed, or its output is not what it should be.
    pub fn run(self, ends: OurEnds) -> Result<Option<Rows>, Failure> {
        let mut talk = Talk::new(ends, self.text()?, &self);
        let end = talk.until_the_end().map_err(|errno| {
            failure(
                Scope::Internal,
                Verdict::Exception,
                format!("the process's pipes failed: {}", io::Error::from(errno)),
            )
        })?;
        let errors = String::from_utf8_lossy(&talk.errors).trim_end().to_owned();
        check_end(end, &errors)?;
        self.judge(talk.output).map_err(|failed| Failure { traceback: errors, ..failed })
    }

    /// What is written to the process.
    fn text(&self) -> Result<VecDeque<Bytes>, Failure> {
        let Some((format, batch)) = &self.input else { return Ok(VecDeque::new()) };
        let unreadable = |error: BatchError| failure(Scope::Output, Verdict::Exception, error.to_string());
        if let (Format::Lines, Rows::Lines(text)) = (format, batch.contents().map_err(unreadable)?) {
            return Ok(text.parts().cloned().collect());
        }
        let mut input = Vec::new();
        format::encode(*format, &batch.records().map_err(unreadable)?, &mut input).map_err(|error| {
            let message = format!("the batch cannot be written as {}: {error}", format.word());
            failure(Scope::Opening, Verdict::Schema, message)
        })?;
        Ok(VecDeque::from([Bytes::from(input)]))
    }

    fn judge(&self, output: Output) -> Result<Option<Rows>, Failure> {
        let Some(format) = self.output else { return Ok(None) };
        let rows = match output.body {
            _ if output.bytes > OUTPUT_BYTES => {
                let message = format!("the command wrote more than {OUTPUT_BYTES} bytes for one batch");
                return Err(failure(Scope::Rows, Verdict::Exception, message));
            }
            Body::Lines(lines) => lines.finish(self.as_columns),
            Body::Bytes(bytes) => format::decode(format, &bytes, &self.returns).map(Rows::Columns),
        };
        rows.map(Some).map_err(|error| {
            let message = format!("the command's output is not what `output: {}` says: {error}", format.word());
            failure(Scope::Rows, Verdict::Schema, message)
        })
    }
}

/// Whether a process ended well. `errors` is what it said last.
///
/// # Errors
/// If it did not.
pub fn check_end(end: ProcessEnd, errors: &str) -> Result<(), Failure> {
    let (verdict, message) = match end {
        ProcessEnd { signal: Some(signal), .. } => {
            (Verdict::Crash, format!("the command was killed by {}", signal_name(signal)))
        }
        ProcessEnd { status: Some(0), .. } => return Ok(()),
        ProcessEnd { status: Some(status), .. } => {
            (Verdict::Exception, format!("the command exited with status {status}"))
        }
        ProcessEnd { .. } => (Verdict::Exception, "the command exited with an unknown status".to_owned()),
    };
    let mut from = errors.len().saturating_sub(ERROR_BYTES);
    while !errors.is_char_boundary(from) {
        from += 1;
    }
    Err(Failure { verdict, scope: Scope::Rows, message, traceback: errors[from..].to_owned() })
}

/// The state of the conversation.
struct Talk<'a> {
    exchange: &'a Exchange,
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    end: OwnedFd,
    /// What is left to be written.
    input: VecDeque<Bytes>,
    output: Output,
    errors: Vec<u8>,
    ended: Option<(ProcessEnd, Instant)>,
}

impl<'a> Talk<'a> {
    fn new(ends: OurEnds, input: VecDeque<Bytes>, exchange: &'a Exchange) -> Self {
        // What comes out is often as long as what goes in. Room that is not used takes no memory.
        let room = READ_BYTES + input.iter().map(Bytes::len).sum::<usize>();
        Self {
            exchange,
            // Closed at once if there is nothing to say.
            stdin: input.iter().any(|part| !part.is_empty()).then_some(ends.stdin),
            stdout: Some(ends.stdout),
            stderr: Some(ends.stderr),
            end: ends.end,
            input,
            output: Output {
                bytes: 0,
                body: match exchange.output {
                    Some(Format::Lines) => Body::Lines(Box::default()),
                    Some(_) => Body::Bytes(Vec::with_capacity(room)),
                    None => Body::Bytes(Vec::new()),
                },
            },
            errors: Vec::new(),
            ended: None,
        }
    }

    fn until_the_end(&mut self) -> Result<ProcessEnd, Errno> {
        loop {
            if let Some((end, _)) = &self.ended
                && self.stdout.is_none()
                && self.stderr.is_none()
            {
                return Ok(*end);
            }
            self.wait()?;
            self.say();
            let heard = self.hear();
            match &self.ended {
                None => self.ended = self.has_ended(),
                Some((end, since)) => {
                    // What lies in the pipes belongs to the output, however late this thread gets to read it.
                    let patience = if heard { LONGEST_DRAIN } else { DRAIN };
                    if since.elapsed() >= patience {
                        return Ok(*end);
                    }
                }
            }
        }
    }

    fn wait(&self) -> Result<(), Errno> {
        let mut fds = Vec::with_capacity(4);
        fds.extend(self.stdin.as_ref().map(|fd| PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::OUT)));
        fds.extend(self.stdout.as_ref().map(|fd| PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)));
        fds.extend(self.stderr.as_ref().map(|fd| PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)));
        let timeout = match &self.ended {
            None => {
                fds.push(PollFd::from_borrowed_fd(self.end.as_fd(), PollFlags::IN));
                None
            }
            Some((_, since)) => {
                let left = DRAIN.saturating_sub(since.elapsed());
                Some(Timespec { tv_sec: 0, tv_nsec: i64::from(left.subsec_nanos()) })
            }
        };
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// Writes what the pipe takes. A process need not read all of its input.
    fn say(&mut self) {
        let Some(stdin) = &self.stdin else { return };
        while let Some(part) = self.input.front_mut() {
            match rustix::io::write(stdin, part) {
                Ok(count) => part.advance(count),
                Err(Errno::AGAIN | Errno::INTR) => return,
                Err(_) => self.input.clear(),
            }
            if self.input.front().is_some_and(Bytes::is_empty) {
                self.input.pop_front();
            }
        }
        self.stdin = None;
    }

    /// Returns whether there was anything to hear.
    fn hear(&mut self) -> bool {
        let mut heard = false;
        let mut buffer = [0; 64 << 10];
        if self.exchange.output.is_some() {
            heard |= self.take_output();
        } else if let Some(bytes) = read(&mut self.stdout, &mut buffer) {
            heard = true;
            self.exchange.log(Stream::Stdout, bytes);
        }
        if let Some(bytes) = read(&mut self.stderr, &mut buffer) {
            heard = true;
            self.errors.extend_from_slice(bytes);
            let surplus = self.errors.len().saturating_sub(ERROR_BYTES);
            self.errors.drain(..surplus);
            self.exchange.log(Stream::Stderr, bytes);
        }
        heard
    }

    /// Reads once, what the pipe holds, to where it stays. Whatever is left, or comes, is for the next turn: the process may wait
    /// for input meanwhile.
    fn take_output(&mut self) -> bool {
        let Some(stdout) = &self.stdout else { return false };
        match self.output.read(stdout) {
            Ok(0) => self.stdout = None,
            Ok(_) => return true,
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.stdout = None,
        }
        false
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

/// What a process has written.
struct Output {
    body: Body,
    /// How much it was, what is forgotten included.
    bytes: usize,
}

enum Body {
    Lines(Box<Lines>),
    Bytes(Vec<u8>),
}

#[derive(Default)]
struct Lines {
    reader: LineReader,
    text: Text,
    failed: Option<RecordError>,
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
                self.failed = self.reader.take_lines(&mut self.text).err();
            }
        }
        Ok(count)
    }

    fn finish(mut self, as_columns: bool) -> Result<Rows, DecodeError> {
        let failed = self.failed.take().or_else(|| self.reader.finish(&mut self.text).err());
        match failed {
            Some(error) => Err(error.into()),
            None if as_columns => Ok(Rows::Columns(self.text.records().map_err(DecodeError::Arrow)?)),
            None => Ok(Rows::Lines(self.text)),
        }
    }
}

impl Exchange {
    fn log(&self, stream: Stream, bytes: &[u8]) {
        self.log.write(&self.name, &Speaker::Command { stage: self.stage }, stream, bytes);
    }
}

/// Reads what is there; closes the pipe at its end.
fn read<'b>(fd: &mut Option<OwnedFd>, buffer: &'b mut [u8]) -> Option<&'b [u8]> {
    match rustix::io::read(fd.as_ref()?, &mut *buffer) {
        Ok(0) => *fd = None,
        Ok(length) => return Some(&buffer[..length]),
        Err(Errno::AGAIN | Errno::INTR) => {}
        Err(_) => *fd = None,
    }
    None
}

/// `SIGKILL` for 9.
pub fn signal_name(signal: i32) -> String {
    signal_hook::low_level::signal_name(signal).map_or_else(|| format!("signal {signal}"), str::to_owned)
}
