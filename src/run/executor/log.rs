//! [`OutputLog`]: what workers and commands print: always drained, kept in files of bounded size, passed on at a bounded rate.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::run::{LogRecord, RunEvent, Speaker, Stream};

/// Bytes of one log file; what comes after that is counted and dropped.
const FILE_BYTES: u64 = 16 << 20;
/// Bytes of a line that are shown; the rest is in the file.
const LINE_BYTES: usize = 4 << 10;
/// Bytes of a record of `logging`, which comes as one line; of a longer one, nothing is told but that.
const RECORD_BYTES: usize = 256 << 10;
/// What a record begins with. `context.py` has the same.
const RECORD_SEPARATOR: u8 = 0x1e;
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

/// What a speaker has said.
#[derive(Debug, PartialEq)]
enum Heard {
    Line(String),
    Record(LogRecord),
}

impl Heard {
    fn text(&self) -> String {
        match self {
            Self::Line(text) => text.clone(),
            Self::Record(LogRecord { level, logger, message, .. }) => format!("{level} {logger}: {message}"),
        }
    }
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
        let key = format!("{name}/{stream:?}");
        let voice = state.speakers.entry(key).or_insert_with(Voice::new);
        let (heard, kept) = voice.hear(bytes);
        let events = voice.rate(heard, from, stream);
        state.keep(name, &kept);
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

    /// Splits what was heard into lines and records, and returns what the file is to have of it. A line without an end is cut, so that it
    /// takes no memory without bound; a record begins a line of its own.
    fn hear(&mut self, bytes: &[u8]) -> (Vec<Heard>, Vec<u8>) {
        let (mut heard, mut kept) = (Vec::new(), Vec::new());
        for part in bytes.split_inclusive(|&byte| byte == b'\n') {
            let at = part.iter().position(|&byte| byte == RECORD_SEPARATOR).unwrap_or(0);
            for part in [&part[..at], &part[at..]].into_iter().filter(|part| !part.is_empty()) {
                let begins_record = part[0] == RECORD_SEPARATOR;
                if begins_record && !self.begun.is_empty() {
                    kept.push(b'\n');
                    heard.push(self.line());
                }
                let is_record = begins_record || self.begun.first() == Some(&RECORD_SEPARATOR);
                let most = if is_record { RECORD_BYTES } else { LINE_BYTES };
                let room = most.saturating_sub(self.begun.len());
                self.begun.extend_from_slice(&part[..part.len().min(room)]);
                if !is_record {
                    kept.extend_from_slice(part);
                }
                if part.ends_with(b"\n") {
                    let one = if is_record { self.record() } else { self.line() };
                    if is_record {
                        kept.extend(one.text().into_bytes());
                        kept.push(b'\n');
                    }
                    heard.push(one);
                }
            }
        }
        (heard, kept)
    }

    fn line(&mut self) -> Heard {
        let begun = std::mem::take(&mut self.begun);
        Heard::Line(String::from_utf8_lossy(&begun).trim_end().to_owned())
    }

    /// The record that has come; a line, if it is something else that begins like one.
    fn record(&mut self) -> Heard {
        match serde_json::from_slice(&self.begun[1..]) {
            Ok(record) => {
                self.begun.clear();
                Heard::Record(record)
            }
            Err(_) => {
                self.begun.truncate(LINE_BYTES);
                self.line()
            }
        }
    }

    fn rate(&mut self, heard: Vec<Heard>, from: &Speaker, stream: Stream) -> Vec<RunEvent> {
        let mut events = Vec::new();
        if self.second.elapsed() >= Duration::from_secs(1) {
            if self.dropped > 0 {
                events.push(RunEvent::LinesDropped { from: from.clone(), lines: self.dropped });
            }
            *self = Self { begun: std::mem::take(&mut self.begun), ..Self::new() };
        }
        for one in heard {
            if self.lines < LINES_PER_SECOND {
                self.lines += 1;
                let from = from.clone();
                events.push(match one {
                    Heard::Line(text) => RunEvent::Line { from, stream, text },
                    Heard::Record(record) => RunEvent::Log { from, record },
                });
            } else {
                self.dropped += 1;
            }
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: &[u8] =
        b"\x1e{\"level\":\"INFO\",\"logger\":\"a\",\"stage\":null,\"batch\":3,\"row\":null,\"message\":\"x\\ny\"}\n";

    /// What is heard of bytes that come in two parts, and what is kept.
    fn heard(bytes: &[u8], cut: usize) -> (Vec<String>, String) {
        let mut voice = Voice::new();
        let (mut first, mut kept) = voice.hear(&bytes[..cut]);
        let (second, more) = voice.hear(&bytes[cut..]);
        first.extend(second);
        kept.extend(more);
        (first.iter().map(Heard::text).collect(), String::from_utf8(kept).expect("text"))
    }

    #[test]
    fn a_record_is_whole_wherever_it_comes_apart() {
        let bytes = [b"one\nbegun ", RECORD, b"two\n"].concat();
        for cut in 0..=bytes.len() {
            let (lines, kept) = heard(&bytes, cut);
            assert_eq!(lines, ["one", "begun", "INFO a: x\ny", "two"], "{cut}");
            assert_eq!(kept, "one\nbegun \nINFO a: x\ny\ntwo\n", "{cut}");
        }
    }

    #[test]
    fn what_only_begins_like_a_record_is_a_line() {
        let (lines, kept) = heard(b"\x1e{no\n", 0);
        assert_eq!((lines[0].as_str(), kept.as_str()), ("\u{1e}{no", "\u{1e}{no\n"));
        let long = [b"\x1e", "z".repeat(1 << 20).as_bytes(), b"\n"].concat();
        assert_eq!(heard(&long, 7).0[0].len(), LINE_BYTES);
    }
}
