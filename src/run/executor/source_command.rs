//! A command without input whose standard output is a source.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};

use super::command::{EndSender, end_pipe, signal_name};
use super::guardian::ProcessEnd;
use super::log::OutputLog;
use super::mailbox::Mailbox;
use super::resident::{Resident, failure};
use super::stage::read::{ReadError, Source};
use super::terminal;
use crate::batch::FileTable;
use crate::format::{Compression, Dialect, Encoding, Format};
use crate::plan::{Location, Read, Stage, StageKind, Verdict, WhichFiles};
use crate::run::scheduler::{Failure, Scope};
use crate::run::{Speaker, Stream};

/// Last bytes of standard error that a failure shows.
const ERROR_BYTES: usize = 8 << 10;

/// What has closed its output ends soon, if it ends.
const MOMENT: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

pub struct SourcePipes {
    pub ours: OurEnds,
    /// Standard input (empty), output, error.
    pub theirs: Vec<OwnedFd>,
    pub end: EndSender,
}

pub struct OurEnds {
    stdout: OwnedFd,
    /// `None` where the process has the terminal.
    stderr: Option<OwnedFd>,
    end: OwnedFd,
}

impl SourcePipes {
    /// `has_terminal`: whether the process writes to the terminal what is no row.
    ///
    /// # Errors
    /// If there are no descriptors left.
    pub fn new(has_terminal: bool) -> io::Result<Self> {
        let stdin = OwnedFd::from(std::fs::File::open("/dev/null")?);
        let (our_stdout, stdout) = pipe_with(PipeFlags::CLOEXEC)?;
        let (our_stderr, stderr) = if has_terminal {
            (None, terminal::stderr()?)
        } else {
            let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
            (Some(ours), theirs)
        };
        let (our_end, end) = end_pipe()?;
        let ours = OurEnds { stdout: our_stdout, stderr: our_stderr, end: our_end };
        Ok(Self { ours, theirs: vec![stdin, stdout, stderr], end })
    }
}

/// Starts the thread that reads the process's output. A full queue stops it, and with it the process.
///
/// # Errors
/// If the pipe cannot be opened as a source.
pub fn resident(
    stage: &Stage,
    format: Format,
    as_columns: bool,
    ours: OurEnds,
    log: OutputLog,
    files: &FileTable,
    mailbox: Mailbox,
) -> Result<Resident, ReadError> {
    let StageKind::Command(command) = &stage.kind else { unreachable!("only commands get here") };
    let OurEnds { stdout, stderr, end } = ours;
    let path = PathBuf::from(format!("/proc/self/fd/{}", stdout.as_raw_fd()));
    // Rows come from the command, and from no file.
    let shown = format!("<{}>", stage.name);
    files.show_as(&path, PathBuf::from(&shown));
    let hidden = path.display().to_string();
    let read = Read {
        paths: vec![Location::Local(path)],
        stdin: false,
        folder: PathBuf::new(),
        format,
        compression: Some(Compression::None),
        schema: command.returns.clone(),
        dialect: Dialect::with_delimiter(if format == Format::Tsv { b'\t' } else { b',' }),
        encoding: Encoding::Utf8,
        partitions: None,
        origin: false,
        which: WhichFiles::All,
        leaves_out_malformed: false,
        first_rows: None,
        used: None,
        filtered_by: Vec::new(),
    };
    let source = Source::open(&read, stage.cut, as_columns, files)?;
    let errors = Arc::new(Mutex::new(Vec::new()));
    let (tail, id, name) = (Arc::clone(&errors), stage.id, stage.name.clone());
    let drain = move || {
        let Some(stderr) = stderr else { return };
        let mut buffer = [0; 64 << 10];
        while let Ok(length @ 1..) = rustix::io::read(&stderr, &mut buffer) {
            log.write(&name, &Speaker::Command { stage: id }, None, Stream::Stderr, &buffer[..length]);
            let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
            tail.extend_from_slice(&buffer[..length]);
            let surplus = tail.len().saturating_sub(ERROR_BYTES);
            tail.drain(..surplus);
        }
    };
    std::thread::Builder::new()
        .name("millpond-stderr".to_owned())
        .spawn(drain)
        .map_err(|source| ReadError::Unreadable { path: PathBuf::from(&stage.name), source })?;
    let end = Arc::new(end);
    let (ends, said) = (Arc::clone(&end), Arc::clone(&errors));
    let explain = move |error: &ReadError| {
        // What ends in the middle of a record may be of a process that has died there.
        match has_ended(&ends).then(|| judge(&ends, &said)) {
            Some(Err(failure)) => failure,
            Some(Ok(())) | None => {
                failure(Scope::Input, Verdict::Exception, error.to_string().replace(&hidden, &shown))
            }
        }
    };
    let at_end = move || {
        // The source opens the pipe by its number when its turn comes; this keeps it there until it is read to its end.
        drop(stdout);
        judge(&end, &errors)
    };
    Ok(Resident::source_with_end(stage.id, source, mailbox, explain, at_end))
}

/// Whether the process has ended, or does so in a moment.
fn has_ended(end: &OwnedFd) -> bool {
    let mut waited = [PollFd::new(end, PollFlags::IN)];
    poll(&mut waited, Some(&MOMENT)).is_ok_and(|ready| ready > 0)
}

/// Waits for the end of the process and tells whether it was a good one.
fn judge(end: &OwnedFd, errors: &Mutex<Vec<u8>>) -> Result<(), Failure> {
    let mut text = [0; 128];
    let length = rustix::io::read(end, &mut text).unwrap_or(0);
    let end: ProcessEnd = serde_json::from_slice(&text[..length]).unwrap_or_default();
    let (verdict, message) = match (end.status, end.signal) {
        (Some(0), _) => return Ok(()),
        (_, Some(signal)) => (Verdict::Crash, format!("the command was killed by {}", signal_name(signal))),
        (Some(status), _) => (Verdict::Exception, format!("the command exited with status {status}")),
        (None, None) => (Verdict::Crash, "the command ended in an unknown way".to_owned()),
    };
    let traceback =
        String::from_utf8_lossy(&errors.lock().unwrap_or_else(PoisonError::into_inner)).trim_end().to_owned();
    Err(Failure { traceback, ..failure(Scope::Opening, verdict, message) })
}
