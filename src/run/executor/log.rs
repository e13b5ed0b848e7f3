//! [`OutputLog`]: what workers and commands print: always drained, kept in files of bounded size, passed on at a bounded rate.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::run::{RunEvent, Speaker, Stream};

/// Bytes of one log file; what comes after that is counted and dropped.
const FILE_BYTES: u64 = 16 << 20;
/// Bytes of a line that are shown; the rest is in the file.
const LINE_BYTES: usize = 4 << 10;
/// Lines per second and speaker that are passed on.
const LINES_PER_SECOND: u32 = 50;

/// Shared by the event loop and the threads of commands. Clones share one log.
#[derive(Clone, Debug)]
pub struct OutputLog {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    folder: PathBuf,
    files: BTreeMap<String, LogFile>,
    speakers: BTreeMap<String, Voice>,
    /// Lines that wait for the event loop to pass them on.
    waiting: Vec<RunEvent>,
}

#[derive(Debug)]
struct LogFile {
    file: Option<File>,
    bytes: u64,
}

/// The line that a speaker has begun, and how many it has spoken this second.
#[derive(Debug)]
struct Voice {
    begun: Vec<u8>,
    second: Instant,
    lines: u32,
    dropped: u64,
}

impl OutputLog {
    /// `folder` is made with the first line.
    pub fn new(folder: PathBuf) -> Self {
        let state = State { folder, files: BTreeMap::new(), speakers: BTreeMap::new(), waiting: Vec::new() };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Takes bytes as they come from a pipe. `name` is the file's; all bytes of one stream of one speaker come under one name.
    pub fn write(&self, name: &str, from: &Speaker, stream: Stream, bytes: &[u8]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.keep(name, bytes);
        let key = format!("{name}/{stream:?}");
        let voice = state.speakers.entry(key).or_insert_with(Voice::new);
        let lines = voice.hear(bytes);
        let events = voice.rate(lines, from, stream);
        state.waiting.extend(events);
    }

    /// The lines to pass on since the last call.
    pub fn take(&self) -> Vec<RunEvent> {
        std::mem::take(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner).waiting)
    }
}

impl State {
    /// Appends to a file. Logs are a convenience: a disk that is full does not fail the run, the lines are still passed on.
    fn keep(&mut self, name: &str, bytes: &[u8]) {
        let folder = &self.folder;
        let log = self.files.entry(name.to_owned()).or_insert_with(|| {
            let file = std::fs::create_dir_all(folder).and_then(|()| File::create(folder.join(format!("{name}.log"))));
            LogFile { file: file.ok(), bytes: 0 }
        });
        let room = usize::try_from(FILE_BYTES.saturating_sub(log.bytes)).unwrap_or(usize::MAX);
        let kept = &bytes[..bytes.len().min(room)];
        log.bytes += bytes.len() as u64;
        if let Some(file) = &mut log.file
            && file.write_all(kept).is_err()
        {
            log.file = None;
        }
    }
}

impl Voice {
    fn new() -> Self {
        Self { begun: Vec::new(), second: Instant::now(), lines: 0, dropped: 0 }
    }

    /// Splits what was heard into lines. A line without an end is cut, so that it takes no memory without bound.
    fn hear(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for part in bytes.split_inclusive(|&byte| byte == b'\n') {
            let room = LINE_BYTES.saturating_sub(self.begun.len());
            self.begun.extend_from_slice(&part[..part.len().min(room)]);
            if part.ends_with(b"\n") {
                lines.push(String::from_utf8_lossy(&self.begun).trim_end().to_owned());
                self.begun.clear();
            }
        }
        lines
    }

    fn rate(&mut self, lines: Vec<String>, from: &Speaker, stream: Stream) -> Vec<RunEvent> {
        let mut events = Vec::new();
        if self.second.elapsed() >= Duration::from_secs(1) {
            if self.dropped > 0 {
                events.push(RunEvent::LinesDropped { from: from.clone(), lines: self.dropped });
            }
            *self = Self { begun: std::mem::take(&mut self.begun), ..Self::new() };
        }
        for text in lines {
            if self.lines < LINES_PER_SECOND {
                self.lines += 1;
                events.push(RunEvent::Line { from: from.clone(), stream, text });
            } else {
                self.dropped += 1;
            }
        }
        events
    }
}
