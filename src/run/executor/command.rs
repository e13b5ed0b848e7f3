//! Attempts that are processes of their own: a [`Talk`] until the process has ended and its pipes are silent, and what came of it.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use bytes::Bytes;
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

use super::guardian::ProcessEnd;
use super::resident::failure;
use super::talk::{Body, Output, Talk, Voice};
use super::terminal;
use crate::batch::{Batch, BatchError, Columns, Rows, Text};
use crate::format::{self, DecodeError, EncodeError, Format};
use crate::plan::{ColumnType, Verdict};
use crate::run::scheduler::{Failure, Scope};

/// How long what the process left running may go on writing after its end.
pub const DRAIN: Duration = Duration::from_millis(100);
/// How long it is listened to if it never stops.
pub const LONGEST_DRAIN: Duration = Duration::from_secs(5);
/// Most bytes of standard output of one batch.
pub(super) const OUTPUT_BYTES: usize = 1 << 30;
/// Room in the pipes that rows go through: the fewer the switches between processes, the better.
const PIPE_BYTES: usize = 1 << 20;
/// Last bytes of standard error that a failure shows.
pub(super) const ERROR_BYTES: usize = 8 << 10;

/// The pipes of a process: our ends and its ends.
pub struct Pipes {
    pub ours: OurEnds,
    /// Standard input, output, error.
    pub theirs: Vec<OwnedFd>,
    /// Takes one [`ProcessEnd`] when the process has ended.
    pub end: EndSender,
}

pub struct OurEnds {
    pub(super) stdin: OwnedFd,
    /// `None` where the process has the terminal, as for `stderr`.
    pub(super) stdout: Option<OwnedFd>,
    pub(super) stderr: Option<OwnedFd>,
    pub(super) end: OwnedFd,
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
        let ours = OurEnds { stdin: our_stdin, stdout: Some(our_stdout), stderr: Some(our_stderr), end: our_end };
        Ok(Self { ours, theirs: vec![stdin, stdout, stderr], end })
    }

    /// Gives the process the terminal in the place of those pipes through which no rows go.
    ///
    /// # Errors
    /// If there are no descriptors left.
    pub fn with_terminal(mut self, gives_rows: bool) -> io::Result<Self> {
        self.ours.stderr = None;
        self.theirs[2] = terminal::stderr()?;
        if !gives_rows {
            self.ours.stdout = None;
            self.theirs[1] = terminal::stdout()?;
        }
        Ok(self)
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
    pub voice: Voice,
    pub input: Option<(Format, Batch)>,
    pub output: Option<OutputForm>,
}

/// What standard output is taken for.
#[derive(Clone)]
pub struct OutputForm {
    pub format: Format,
    /// Whether lines are wanted as columns.
    pub as_columns: bool,
    /// Declared columns.
    pub returns: Vec<(String, ColumnType)>,
}

impl Exchange {
    /// Talks to the process until it has ended. Returns the rows of its output, if it has any that is wanted.
    ///
    /// # Errors
    /// If the process failed, or its output is not what it should be.
    pub fn run(self, ends: OurEnds) -> Result<Option<Rows>, Failure> {
        let Self { voice, input, output } = self;
        let text = input.as_ref().map_or_else(|| Ok(VecDeque::new()), |(format, batch)| text(*format, batch))?;
        let mut talk = Talk::new(ends, voice, output.as_ref().map(|form| form.format));
        talk.say_last(text);
        let end = loop {
            if let Some(end) = talk.turn(None, None).map_err(broken_pipes)? {
                break end;
            }
        };
        let errors = talk.errors();
        check_end(end, &errors)?;
        let Some(form) = output else { return Ok(None) };
        form.rows(talk.output).map(Some).map_err(|failed| Failure { traceback: errors, ..failed })
    }
}

impl OutputForm {
    fn rows(&self, output: Output) -> Result<Rows, Failure> {
        match output.body {
            _ if output.bytes > OUTPUT_BYTES => Err(too_long()),
            Body::Lines(lines) => self.rows_of_text(lines.finish().map_err(|error| self.misread(&error.into()))?),
            Body::Bytes(bytes) => self.rows_of_bytes(&bytes),
        }
    }

    /// The rows that some lines of output are.
    ///
    /// # Errors
    /// If they are not what they should be.
    pub fn rows_of_text(&self, text: Text) -> Result<Rows, Failure> {
        match self.format {
            Format::Lines if !self.as_columns => Ok(Rows::Lines(text)),
            Format::Lines => {
                text.records().map(Rows::Columns).map_err(|error| self.misread(&DecodeError::Arrow(error)))
            }
            _ => self.rows_of_bytes(&text.parts().flat_map(|part| part.iter().copied()).collect::<Vec<_>>()),
        }
    }

    fn rows_of_bytes(&self, bytes: &[u8]) -> Result<Rows, Failure> {
        let decoded = format::decode(self.format, bytes, &self.returns).map_err(|error| self.misread(&error))?;
        if self.returns.is_empty() {
            return Ok(Rows::Columns(decoded));
        }
        // What does not fit is to blame on the rows of this batch, and not on the stage when it is published.
        let conformed = Columns::declared(&self.returns).conform(decoded);
        conformed.map(Rows::Columns).map_err(|error| {
            let message = format!("the command's output is not what `returns` says: {error}");
            failure(Scope::Rows, Verdict::Schema, message)
        })
    }

    pub(super) fn misread(&self, error: &DecodeError) -> Failure {
        let message = format!("the command's output is not what `output: {}` says: {error}", self.format.word());
        failure(Scope::Rows, Verdict::Schema, message)
    }
}

fn too_long() -> Failure {
    let message = format!("the command wrote more than {OUTPUT_BYTES} bytes for one batch");
    failure(Scope::Rows, Verdict::Exception, message)
}

/// What is written to a process: the rows of a batch.
///
/// # Errors
/// If the format cannot say them.
pub(super) fn text(format: Format, batch: &Batch) -> Result<VecDeque<Bytes>, Failure> {
    let unreadable = |error: BatchError| failure(Scope::Output, Verdict::Exception, error.to_string());
    if let (Format::Lines, Rows::Lines(text)) = (format, batch.contents().map_err(unreadable)?) {
        return Ok(text.parts().cloned().collect());
    }
    let mut input = Vec::new();
    format::encode(format, &batch.records().map_err(unreadable)?, &mut input).map_err(|error| {
        let message = format!("the batch cannot be written as {}: {error}", format.word());
        let is_of_a_row = matches!(error, EncodeError::NullBytes { .. });
        failure(if is_of_a_row { Scope::Rows } else { Scope::Opening }, Verdict::Schema, message)
    })?;
    Ok(VecDeque::from([Bytes::from(input)]))
}

pub(super) fn broken_pipes(errno: Errno) -> Failure {
    let message = format!("the process's pipes failed: {}", io::Error::from(errno));
    failure(Scope::Internal, Verdict::Exception, message)
}

/// Whether a process ended well. `errors` is what it said last.
///
/// # Errors
/// If it did not.
pub fn check_end(end: ProcessEnd, errors: &str) -> Result<(), Failure> {
    let (verdict, message) = match end {
        ProcessEnd { is_overdue: true, .. } => {
            (Verdict::Timeout, "the command was stopped, as it took longer than its stage's `timeout`".to_owned())
        }
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

/// `SIGKILL` for 9.
pub fn signal_name(signal: i32) -> String {
    signal_hook::low_level::signal_name(signal).map_or_else(|| format!("signal {signal}"), str::to_owned)
}
