//! [`OutputLog`]: what workers and commands print: always drained, kept in files of bounded size, passed on at a bounded rate.
//!
//! Python code in a worker writes *pieces*, which say whose they are, into the same pipe as everything else. `python/millpond/printed.py`
//! makes them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use memchr::memchr;

use crate::plan::StageId;
use crate::run::{LogRecord, RunEvent, Speaker, Stream};
use crate::secrets::masked_bytes;

/// Bytes of one log file; what comes after that is counted and dropped.
const FILE_BYTES: u64 = 16 << 20;
/// Bytes of a line that are shown; the rest is in the file.
const LINE_BYTES: usize = 4 << 10;
/// Bytes of a line that has not ended; of a longer one, this much goes to the file, and the rest becomes a line there of its own.
const BEGUN_BYTES: usize = 64 << 10;
/// Bytes of a record of `logging`, which comes as one line; of a longer one, nothing is told but that.
const RECORD_BYTES: usize = 256 << 10;
/// What a record begins with. `context.py` has the same.
const RECORD_SEPARATOR: u8 = 0x1e;
/// What a piece begins with. `printed.py` has the same.
const PIECE_SEPARATOR: u8 = 0x1f;
/// Most bytes of the head of a piece, and of the text of one.
const HEAD_BYTES: usize = 128;
const PIECE_BYTES: usize = 4 << 10;
/// Most lines that a speaker has begun at a time; all are ended if there are more.
const MOST_BEGUN: usize = 1024;
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
    /// Names of the stages.
    stages: Vec<String>,
    files: BTreeMap<String, LogFile>,
    speakers: BTreeMap<(String, Stream), Voice>,
    /// Lines that wait for the event loop to pass them on.
    waiting: Vec<RunEvent>,
}

#[derive(Debug)]
struct LogFile {
    file: Option<File>,
    bytes: u64,
}

/// The lines that a speaker has begun, and how many it has spoken this second.
#[derive(Debug)]
struct Voice {
    from: Speaker,
    /// The beginning of a piece of which the rest has not come.
    unread: Vec<u8>,
    begun: BTreeMap<Option<Writer>, Begun>,
    second: Instant,
    lines: u32,
    dropped: u64,
}

/// Who writes pieces that make lines together: a thread of a process, which may run several rows in turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Writer {
    process: u64,
    thread: u64,
    row: Option<u64>,
}

/// A line that has begun.
#[derive(Debug, Default)]
struct Begun {
    /// Where the code was at its beginning.
    place: Place,
    bytes: Vec<u8>,
    /// The beginning of the line has been told.
    is_rest: bool,
}

/// Where code is when it prints, as far as that is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    pub stage: Option<StageId>,
    pub batch: Option<u64>,
    pub row: Option<u64>,
}

/// What a speaker has said.
#[derive(Debug, PartialEq)]
struct Heard {
    place: Place,
    said: Said,
}

#[derive(Debug, PartialEq)]
enum Said {
    Line(Vec<u8>),
    /// More of a line that is too long to be told whole.
    Rest(Vec<u8>),
    Record(LogRecord),
}

impl Said {
    fn len(&self) -> usize {
        match self {
            Self::Line(bytes) | Self::Rest(bytes) => bytes.len(),
            Self::Record(record) => record.level.len() + record.logger.len() + record.message.len(),
        }
    }
}

/// What stands at the beginning of bytes that begin like a piece.
enum Piece<'b> {
    /// From a writer, with what follows it.
    Whole { writer: Writer, place: Place, text: &'b [u8], rest: &'b [u8] },
    /// The rest of it has not come.
    Cut,
    /// Something else.
    None,
}

impl OutputLog {
    /// `folder` is made with the first line. `stages` are the names of the stages, by their ids.
    pub fn new(folder: PathBuf, stages: Vec<String>) -> Self {
        let (files, speakers) = (BTreeMap::new(), BTreeMap::new());
        Self { state: Arc::new(Mutex::new(State { folder, stages, files, speakers, waiting: Vec::new() })) }
    }

    /// Takes bytes as they come from a pipe. `name` is the file's; all bytes of one stream of one speaker come under one name. `batch` is
    /// what they belong to if they do not say that themselves.
    pub fn write(&self, name: &str, from: &Speaker, batch: Option<u64>, stream: Stream, bytes: &[u8]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let voice = state.speakers.entry((name.to_owned(), stream)).or_insert_with(|| Voice::new(from.clone()));
        voice.from = from.clone();
        let heard = voice.hear(bytes, Place { stage: from.stage(), batch, row: None });
        state.pass_on(name, stream, heard);
    }

    /// Nothing more comes from a speaker: what it has begun is all there is.
    pub fn end(&self, name: &str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for stream in [Stream::Stdout, Stream::Stderr] {
            let heard = state.speakers.get_mut(&(name.to_owned(), stream)).map(Voice::end);
            state.pass_on(name, stream, heard.unwrap_or_default());
        }
    }

    /// The lines to pass on since the last call.
    pub fn take(&self) -> Vec<RunEvent> {
        std::mem::take(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner).waiting)
    }
}

impl State {
    fn pass_on(&mut self, name: &str, stream: Stream, heard: Vec<Heard>) {
        let kept = self.texts_of(name, &heard);
        self.keep(name, &masked_bytes(&kept));
        if let Some(voice) = self.speakers.get_mut(&(name.to_owned(), stream)) {
            self.waiting.extend(voice.rate(heard, stream));
        }
    }

    /// Lines for a file.
    fn texts_of(&self, name: &str, heard: &[Heard]) -> Vec<u8> {
        let mut texts = Vec::with_capacity(heard.iter().map(|one| one.said.len() + 32).sum());
        // Most lines are of the same place as the one before.
        let (mut at, mut head) = (Place::default(), String::new());
        for Heard { place, said } in heard {
            if *place != at {
                (at, head) = (*place, self.head_of(name, *place));
            }
            texts.extend_from_slice(head.as_bytes());
            match said {
                Said::Line(bytes) | Said::Rest(bytes) => texts.extend_from_slice(bytes),
                Said::Record(LogRecord { level, logger, message, .. }) => {
                    let parts = [level, " ", logger, ": ", message];
                    parts.iter().for_each(|part| texts.extend_from_slice(part.as_bytes()));
                }
            }
            texts.push(b'\n');
        }
        texts
    }

    /// What a line of a place begins with.
    fn head_of(&self, name: &str, place: Place) -> String {
        let Place { stage, batch, row } = place;
        // The file of a command has its stage's name.
        let stage = stage.and_then(|stage| self.stages.get(stage.0 as usize)).filter(|stage| *stage != name).cloned();
        let batch = batch.map(|batch| format!("batch {batch}"));
        let row = row.map(|row| format!("row {row}"));
        let known = [stage, batch, row].into_iter().flatten().collect::<Vec<_>>().join(" ");
        if known.is_empty() { known } else { format!("[{known}] ") }
    }

    /// Appends to a file. Logs are a convenience: a disk that is full does not fail the run, the lines are still passed on.
    fn keep(&mut self, name: &str, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
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
    fn new(from: Speaker) -> Self {
        Self { from, unread: Vec::new(), begun: BTreeMap::new(), second: Instant::now(), lines: 0, dropped: 0 }
    }

    /// The lines and records that have come to their end. `here` is where code is that writes no pieces.
    fn hear(&mut self, bytes: &[u8], here: Place) -> Vec<Heard> {
        let mut heard = Vec::new();
        let mut joined = std::mem::take(&mut self.unread);
        let mut left = if joined.is_empty() {
            bytes
        } else {
            joined.extend_from_slice(bytes);
            &joined
        };
        let mut plain = 0;
        while let Some(at) = memchr(PIECE_SEPARATOR, &left[plain..]).map(|at| plain + at) {
            match Piece::read(&left[at..]) {
                Piece::Whole { writer, place, text, rest } => {
                    self.add(None, here, &left[..at], &mut heard);
                    match text {
                        [] => self.end_lines_of(writer.process, &mut heard),
                        text => self.add(Some(writer), place, text, &mut heard),
                    }
                    (left, plain) = (rest, 0);
                }
                Piece::Cut => {
                    self.unread = left[at..].to_vec();
                    left = &left[..at];
                    break;
                }
                Piece::None => plain = at + 1,
            }
        }
        self.add(None, here, left, &mut heard);
        if self.begun.len() > MOST_BEGUN {
            heard.extend(self.end());
        }
        heard
    }

    fn add(&mut self, writer: Option<Writer>, place: Place, text: &[u8], heard: &mut Vec<Heard>) {
        if text.is_empty() {
            return;
        }
        let mut begun = self.begun.remove(&writer).unwrap_or_default();
        begun.add(place, text, heard);
        if !begun.bytes.is_empty() || begun.is_rest {
            self.begun.insert(writer, begun);
        }
    }

    fn end_lines_of(&mut self, process: u64, heard: &mut Vec<Heard>) {
        let is_of = |writer: &Option<Writer>| writer.is_some_and(|writer| writer.process == process);
        for (_, begun) in self.begun.extract_if(.., |writer, _| is_of(writer)) {
            heard.extend(begun.end());
        }
    }

    /// All that was begun.
    fn end(&mut self) -> Vec<Heard> {
        let unread = std::mem::take(&mut self.unread);
        let mut heard = Vec::new();
        self.add(None, Place { stage: self.from.stage(), ..Place::default() }, &unread, &mut heard);
        heard.extend(std::mem::take(&mut self.begun).into_values().filter_map(Begun::end));
        heard
    }

    fn rate(&mut self, heard: Vec<Heard>, stream: Stream) -> Vec<RunEvent> {
        let mut events = Vec::new();
        if self.second.elapsed() >= Duration::from_secs(1) {
            if self.dropped > 0 {
                events.push(RunEvent::LinesDropped { from: self.from.clone(), lines: self.dropped });
            }
            (self.second, self.lines, self.dropped) = (Instant::now(), 0, 0);
        }
        for Heard { place: Place { stage, batch, row }, said } in heard {
            if matches!(said, Said::Rest(_)) {
                continue;
            }
            if self.lines == LINES_PER_SECOND {
                self.dropped += 1;
                continue;
            }
            self.lines += 1;
            let from = self.from.at(stage);
            events.extend(match said {
                Said::Line(bytes) => {
                    let text = shown(&masked_bytes(&bytes));
                    Some(RunEvent::Line { from, stream, batch, row, text })
                }
                Said::Record(record) => Some(RunEvent::Log { from, record }),
                Said::Rest(_) => None,
            });
        }
        events
    }
}

impl Begun {
    /// Splits what was heard into lines and records. A line without an end is cut, so that it takes no memory without bound; a record begins
    /// a line of its own.
    fn add(&mut self, place: Place, text: &[u8], heard: &mut Vec<Heard>) {
        let mut left = text;
        while !left.is_empty() {
            let (part, rest) = left.split_at(memchr(b'\n', left).map_or(left.len(), |at| at + 1));
            left = rest;
            let at = memchr(RECORD_SEPARATOR, part).unwrap_or(0);
            for part in [&part[..at], &part[at..]].into_iter().filter(|part| !part.is_empty()) {
                let begins_record = part[0] == RECORD_SEPARATOR;
                if begins_record && !self.bytes.is_empty() {
                    heard.push(self.line());
                }
                if self.bytes.is_empty() {
                    self.place = place;
                }
                let is_record = begins_record || self.bytes.first() == Some(&RECORD_SEPARATOR);
                let (part, is_end) = part.strip_suffix(b"\n").map_or((part, false), |part| (part, true));
                if is_record {
                    let room = RECORD_BYTES.saturating_sub(self.bytes.len());
                    self.bytes.extend_from_slice(&part[..part.len().min(room)]);
                } else {
                    self.extend(part, heard);
                }
                if is_end {
                    heard.push(if is_record { self.record() } else { self.line() });
                    self.is_rest = false;
                }
            }
        }
    }

    fn extend(&mut self, mut part: &[u8], heard: &mut Vec<Heard>) {
        while self.bytes.len() + part.len() > BEGUN_BYTES {
            let (now, later) = part.split_at(BEGUN_BYTES - self.bytes.len());
            self.bytes.extend_from_slice(now);
            part = later;
            heard.push(self.line());
            self.is_rest = true;
        }
        self.bytes.extend_from_slice(part);
    }

    fn line(&mut self) -> Heard {
        let bytes = std::mem::take(&mut self.bytes);
        let said = if self.is_rest { Said::Rest(bytes) } else { Said::Line(bytes) };
        Heard { place: self.place, said }
    }

    /// The record that has come; a line, if it is something else that begins like one.
    fn record(&mut self) -> Heard {
        match serde_json::from_slice(&self.bytes[1..]) {
            Ok(record) => {
                self.bytes.clear();
                Heard { place: self.place, said: Said::Record(record) }
            }
            Err(_) => self.line(),
        }
    }

    fn end(mut self) -> Option<Heard> {
        let is_record = self.bytes.first() == Some(&RECORD_SEPARATOR);
        (!self.bytes.is_empty()).then(|| if is_record { self.record() } else { self.line() })
    }
}

impl Piece<'_> {
    /// `bytes` begin with the separator. After it come the length of the text, the process, the thread, stage, batch and row, -1 for none.
    fn read(bytes: &[u8]) -> Piece<'_> {
        let Some(end) = memchr(b'\n', &bytes[..bytes.len().min(HEAD_BYTES)]) else {
            return if bytes.len() < HEAD_BYTES { Piece::Cut } else { Piece::None };
        };
        let Some([length, process, thread, stage, batch, row]) = numbers(&bytes[1..end]) else { return Piece::None };
        let (Some(length), Some(process), Some(thread)) = (length, process, thread) else { return Piece::None };
        if length > PIECE_BYTES as u64 {
            return Piece::None;
        }
        let rest = &bytes[end + 1..];
        let stage = stage.and_then(|stage| u32::try_from(stage).ok()).map(StageId);
        match rest.split_at_checked(length as usize) {
            Some((text, rest)) => {
                let (writer, place) = (Writer { process, thread, row }, Place { stage, batch, row });
                Piece::Whole { writer, place, text, rest }
            }
            None => Piece::Cut,
        }
    }
}

/// Decimal numbers with a space between them, if there are so many; -1 is none.
fn numbers<const N: usize>(text: &[u8]) -> Option<[Option<u64>; N]> {
    let mut numbers = [None; N];
    let mut fields = text.split(|&byte| byte == b' ');
    for number in &mut numbers {
        *number = match fields.next()? {
            b"-1" => None,
            field => Some(std::str::from_utf8(field).ok()?.parse().ok()?),
        };
    }
    fields.next().is_none().then_some(numbers)
}

/// A line for people.
fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(LINE_BYTES)]).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::scheduler::WorkerId;

    const RECORD: &[u8] =
        b"\x1e{\"level\":\"INFO\",\"logger\":\"a\",\"stage\":null,\"batch\":3,\"row\":null,\"message\":\"x\\ny\"}\n";

    fn voice() -> Voice {
        Voice::new(Speaker::Worker { worker: WorkerId(0), stage: Some(StageId(0)) })
    }

    fn said(heard: &[Heard]) -> Vec<String> {
        let log = OutputLog::new(PathBuf::new(), vec!["a".to_owned(), "b".to_owned()]);
        let state = log.state.lock().expect("not poisoned");
        let line = |one| String::from_utf8_lossy(&state.texts_of("worker-0", std::slice::from_ref(one))).into_owned();
        heard.iter().map(line).map(|line| line.trim_end_matches('\n').to_owned()).collect()
    }

    /// What is heard of bytes that come in two parts, as the file has it.
    fn heard(bytes: &[u8], cut: usize) -> Vec<String> {
        let mut voice = voice();
        let mut first = voice.hear(&bytes[..cut], Place::default());
        first.extend(voice.hear(&bytes[cut..], Place::default()));
        first.extend(voice.end());
        said(&first)
    }

    /// A piece of a process, of row `row` of batch 7 of stage `b`.
    fn piece(process: u32, row: i32, text: &str) -> Vec<u8> {
        format!("\x1f{} {process} 140 1 7 {row}\n{text}", text.len()).into_bytes()
    }

    #[test]
    fn a_record_is_whole_wherever_it_comes_apart() {
        let bytes = [b"one\nbegun ", RECORD, b"two\n"].concat();
        for cut in 0..=bytes.len() {
            assert_eq!(heard(&bytes, cut), ["one", "begun ", "INFO a: x\ny", "two"], "{cut}");
        }
    }

    #[test]
    fn what_only_begins_like_a_record_is_a_line() {
        assert_eq!(heard(b"\x1e{no\n", 0), ["\u{1e}{no"]);
        let long = [b"\x1e", "z".repeat(1 << 20).as_bytes(), b"\n"].concat();
        let mut voice = voice();
        let heard = voice.hear(&long, Place::default());
        let events = voice.rate(heard, Stream::Stdout);
        assert!(matches!(&events[..], [RunEvent::Line { text, .. }] if text.len() == LINE_BYTES));
    }

    #[test]
    fn pieces_make_lines_by_their_writers_wherever_they_come_apart() {
        let bytes = [
            &b"by a child, in "[..],
            &piece(1, -1, "first "),
            &piece(1, 4, "row four\nand "),
            &piece(2, -1, "of a copy\n"),
            b"two parts\n",
            &piece(1, -1, "line\n"),
            &piece(1, 4, "more\n"),
        ]
        .concat();
        for cut in 0..=bytes.len() {
            let lines = [
                "[b batch 7 row 4] row four",
                "[b batch 7] of a copy",
                "by a child, in two parts",
                "[b batch 7] first line",
                "[b batch 7 row 4] and more",
            ];
            assert_eq!(heard(&bytes, cut), lines, "{cut}");
        }
    }

    #[test]
    fn a_record_may_come_in_pieces() {
        let (one, two) = RECORD.split_at(20);
        let text = |bytes| std::str::from_utf8(bytes).expect("text");
        let bytes = [piece(1, 2, text(one)), piece(1, -1, "else\n"), piece(1, 2, text(two))].concat();
        assert_eq!(heard(&bytes, 0), ["[b batch 7] else", "[b batch 7 row 2] INFO a: x\ny"]);
    }

    #[test]
    fn an_empty_piece_ends_the_lines_of_its_process() {
        let bytes = [
            piece(1, 0, "one"),
            piece(2, -1, "copy "),
            piece(1, -1, ""),
            piece(1, 0, "two\n"),
            piece(2, -1, "goes on\n"),
        ];
        assert_eq!(
            heard(&bytes.concat(), 0),
            ["[b batch 7 row 0] one", "[b batch 7 row 0] two", "[b batch 7] copy goes on"]
        );
    }

    #[test]
    fn what_a_dead_process_has_begun_is_told() {
        let bytes = [&b"half"[..], &piece(1, -1, "begun"), b"\x1f20 1 1"].concat();
        assert_eq!(heard(&bytes, 0), ["half\u{1f}20 1 1", "[b batch 7] begun"]);
    }

    #[test]
    fn what_only_begins_like_a_piece_is_text() {
        for text in ["a\u{1f}b", "\u{1f}1 2 3\nx", "\u{1f}9999999 1 1 1 1 1", "\u{1f}-1 1 1 1 1 1", "\u{1f}x 1 1 1 1 1"]
        {
            let lines: Vec<&str> = text.split('\n').collect();
            assert_eq!(heard(format!("{text}\n").as_bytes(), 0), lines, "{text:?}");
        }
        let long = format!("\u{1f}{}\n", "z".repeat(HEAD_BYTES));
        assert_eq!(heard(long.as_bytes(), 1), [long.trim_end()]);
    }

    #[test]
    fn a_line_without_end_is_told_once_and_kept_whole() {
        let mut voice = voice();
        let long = "z".repeat(3 * BEGUN_BYTES + 5);
        let mut heard = voice.hear(long.as_bytes(), Place::default());
        assert!(voice.begun[&None].bytes.len() <= BEGUN_BYTES);
        heard.extend(voice.hear(b"\nnext\n", Place::default()));
        assert_eq!(said(&heard).concat(), format!("{long}next"));
        assert_eq!(voice.rate(heard, Stream::Stdout).len(), 2);
    }

    #[test]
    fn there_is_a_limit_to_the_lines_that_are_begun() {
        let mut voice = voice();
        let rows = i32::try_from(MOST_BEGUN).expect("few");
        let pieces = (0..=rows).flat_map(|row| piece(1, row, "begun")).collect::<Vec<_>>();
        assert_eq!(voice.hear(&pieces, Place::default()).len(), MOST_BEGUN + 1);
        assert!(voice.begun.is_empty());
    }
}
