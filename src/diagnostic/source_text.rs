//! [`SourceText`]: the text of a file, of those that it names, and positions in them.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustix::fs::{OFlags, fcntl_setfl};

/// A range of bytes in a [`SourceText`], or in a file that it includes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    pub start: usize,
    /// Exclusive.
    pub end: usize,
}

impl Span {
    pub fn new(start: usize, end: usize) -> Self {
        Self { start, end: end.max(start) }
    }

    pub fn len(self) -> usize {
        self.end - self.start
    }

    pub fn is_empty(self) -> bool {
        self.start == self.end
    }
}

/// A place as editors show it: line and column (in characters), both 1-based.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub line: usize,
    pub column: usize,
}

/// The text of a file without its byte order mark, with the name under which messages show it.
///
/// Files that it names can be [included](Self::include). Their bytes have offsets behind those of this one, so that a [`Span`] tells its
/// file, too.
#[derive(Clone, Debug)]
pub struct SourceText {
    name: String,
    path: PathBuf,
    text: String,
    /// Byte offset at which each line starts.
    lines: Vec<usize>,
    /// Whether other files can be read.
    is_on_disk: bool,
    included: OnceLock<Arc<Included>>,
}

/// A file that another one includes, and the next one.
#[derive(Clone, Debug)]
struct Included {
    start: usize,
    source: SourceText,
    next: OnceLock<Arc<Included>>,
}

/// Why a file could not become a [`SourceText`].
#[derive(Debug, thiserror::Error)]
pub enum SourceTextError {
    #[error("cannot read `{}`: {error}", path.display())]
    Read { path: PathBuf, error: std::io::Error },
    #[error("`{}` is larger than {limit} bytes", path.display())]
    TooLarge { path: PathBuf, limit: u64 },
    #[error("`{}` is not UTF-8: byte {offset} starts no character", path.display())]
    NotUtf8 { path: PathBuf, offset: usize },
}

impl SourceTextError {
    /// What stands in the place of a code for programs: the file has no text to say a code of.
    pub const CODE: &str = "file::unreadable";

    /// The same of a file that is shown with this path.
    fn called(self, path: &Path) -> Self {
        let path = path.to_owned();
        match self {
            Self::Read { error, .. } => Self::Read { path, error },
            Self::TooLarge { limit, .. } => Self::TooLarge { path, limit },
            Self::NotUtf8 { offset, .. } => Self::NotUtf8 { path, offset },
        }
    }

    pub fn path(&self) -> &Path {
        match self {
            Self::Read { path, .. } | Self::TooLarge { path, .. } | Self::NotUtf8 { path, .. } => path,
        }
    }
}

impl SourceText {
    /// No pipeline comes near this size; larger files are refused before they are in memory.
    pub const MAX_BYTES: u64 = 4 << 20;

    /// Reads the file at `path`.
    ///
    /// # Errors
    /// When it cannot be read, is not UTF-8 or is larger than [`Self::MAX_BYTES`].
    pub fn read(path: &Path) -> Result<Self, SourceTextError> {
        let failed = |error| SourceTextError::Read { path: path.to_owned(), error };
        let (file, mut bytes) = open(path).map_err(failed)?;
        file.take(Self::MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > Self::MAX_BYTES {
            return Err(SourceTextError::TooLarge { path: path.to_owned(), limit: Self::MAX_BYTES });
        }
        let text = String::from_utf8(bytes).map_err(|error| SourceTextError::NotUtf8 {
            path: path.to_owned(),
            offset: error.utf8_error().valid_up_to(),
        })?;
        let absolute = std::path::absolute(path).map_err(failed)?;
        Ok(Self { is_on_disk: true, ..Self::new(path.display().to_string(), absolute, &text) })
    }

    /// Reads a file that this one names by its path from its folder; the offset of its first byte, and its text. One that was read before
    /// is the same.
    ///
    /// # Errors
    /// When it cannot be read. That of a text that is no file on disk never can.
    pub fn include(&self, path: &Path) -> Result<(usize, &Self), SourceTextError> {
        self.include_from(self, path)
    }

    /// The same for a file that is named in `file`, which is this one or one that it includes.
    ///
    /// # Errors
    /// As those of [`Self::include`].
    pub fn include_from(&self, file: &Self, path: &Path) -> Result<(usize, &Self), SourceTextError> {
        let absolute = file.folder().join(path);
        if let Some(known) = self.others().find(|other| other.source.path == absolute) {
            return Ok((known.start, &known.source));
        }
        // As it is seen from where this one is.
        let shown = Path::new(&file.name).parent().unwrap_or(Path::new("")).join(path);
        if !self.is_on_disk {
            let error = std::io::Error::new(std::io::ErrorKind::NotFound, "there are no other files");
            return Err(SourceTextError::Read { path: shown, error });
        }
        // A pipe would be waited for, and is another text the next time.
        if std::fs::metadata(&absolute).is_ok_and(|file| !file.is_file() && !file.is_dir()) {
            let error = std::io::Error::new(std::io::ErrorKind::InvalidInput, "it is no regular file");
            return Err(SourceTextError::Read { path: shown, error });
        }
        let read = Self::read(&absolute).map_err(|error| error.called(&shown))?;
        Ok(self.add(Self { name: shown.display().to_string(), ..read }))
    }

    /// Includes a text as if it were a file.
    pub fn with_file(self, path: &str, text: &str) -> Self {
        self.add(Self::new(path, self.folder().join(path), text));
        self
    }

    fn add(&self, source: Self) -> (usize, &Self) {
        let (mut slot, mut end) = (&self.included, self.text.len());
        while let Some(included) = slot.get() {
            (slot, end) = (&included.next, included.start + included.source.text.len());
        }
        // A byte in between, so that the end of one is not the beginning of the other.
        let added = Arc::new(Included { start: end + 1, source, next: OnceLock::new() });
        let added = slot.get_or_init(|| added);
        (added.start, &added.source)
    }

    fn others(&self) -> impl Iterator<Item = &Included> {
        std::iter::successors(self.included.get(), |included| included.next.get()).map(|included| &**included)
    }

    /// The file in which a byte lies, and the offset of its first byte.
    pub fn file_at(&self, offset: usize) -> (&Self, usize) {
        let other = self.others().take_while(|included| included.start <= offset).last();
        other.map_or((self, 0), |included| (&included.source, included.start))
    }

    /// The files that are included.
    pub fn included(&self) -> impl Iterator<Item = &Self> {
        self.others().map(|included| &included.source)
    }

    /// `path` is the absolute path of the file; relative paths in the text are relative to its folder.
    pub fn new(name: impl Into<String>, path: impl Into<PathBuf>, text: &str) -> Self {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text).to_owned();
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        let (is_on_disk, included) = (false, OnceLock::new());
        Self { name: name.into(), path: path.into(), text, lines, is_on_disk, included }
    }

    /// The file's name as the user gave it.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// The text of `span`, cut to what exists.
    pub fn slice(&self, span: Span) -> &str {
        let (file, start) = self.file_at(span.start);
        file.text.get(span.start - start..(span.end - start).min(file.text.len())).unwrap_or_default()
    }

    /// The position of a byte in its file. One behind the end gives the end.
    pub fn position(&self, offset: usize) -> Position {
        let (file, start) = self.file_at(offset);
        file.position_here(offset - start)
    }

    fn position_here(&self, offset: usize) -> Position {
        let line = self.lines.partition_point(|&start| start <= offset) - 1;
        let start = self.lines[line];
        let before = self.text.get(start..offset.min(self.text.len())).unwrap_or_default();
        Position { line: line + 1, column: before.chars().count() + 1 }
    }

    /// The 0-based `line` of this file without its line break, and the byte at which it starts.
    pub fn line(&self, line: usize) -> Option<(usize, &str)> {
        let start = *self.lines.get(line)?;
        let end = self.lines.get(line + 1).copied().unwrap_or(self.text.len());
        Some((start, self.text[start..end].trim_end_matches(['\n', '\r'])))
    }
}

/// Opens a file that is to be read to its end; gives what has been read of it already. A pipe is read if somebody writes to it
/// (`<(command)`): others would be waited for, perhaps for ever.
fn open(path: &Path) -> std::io::Result<(File, Vec<u8>)> {
    let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).expect("a flag");
    let mut file = OpenOptions::new().read(true).custom_flags(nonblocking).open(path)?;
    let mut first = Vec::new();
    if file.metadata()?.file_type().is_fifo() {
        let mut byte = [0];
        match file.read(&mut byte) {
            Ok(0) => return Err(std::io::Error::new(ErrorKind::InvalidInput, "it is a pipe to which nobody writes")),
            Ok(_) => first.extend(byte),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    fcntl_setfl(&file, OFlags::empty())?;
    Ok((file, first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_tell_their_file() {
        let source = SourceText::new("f", "/a/f", "one\n").with_file("b/g", "two\nthree").with_file("h", "four");
        let (start, file) = source.include(Path::new("b/g")).expect("it is there");
        assert_eq!((file.path(), file.text()), (Path::new("/a/b/g"), "two\nthree"));
        assert_eq!((source.slice(Span::new(start, start + 3)), source.slice(Span::new(0, 3))), ("two", "one"));
        assert_eq!(source.position(start + 5), Position { line: 2, column: 2 });
        let (last, _) = source.include(Path::new("h")).expect("it is there");
        assert_eq!(
            (source.file_at(last).0.name(), source.file_at(last - 1).0.name(), source.file_at(3).0.name()),
            ("h", "b/g", "f")
        );
        assert!(source.include(Path::new("i")).is_err());
    }

    #[test]
    fn a_pipe_is_read_if_somebody_writes_to_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let pipe = folder.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
            .expect("a pipe");
        let error = SourceText::read(&pipe).expect_err("nobody writes to it").to_string();
        assert!(error.ends_with("it is a pipe to which nobody writes"), "{error}");
        // Both ends, so that nobody is waited for.
        let mut writer = OpenOptions::new().read(true).write(true).open(&pipe).expect("a pipe");
        let reader = std::thread::spawn(move || SourceText::read(&pipe).expect("a text").text().to_owned());
        std::io::Write::write_all(&mut writer, b"version: 1").expect("room");
        // What nobody has open loses what is in it.
        while rustix::io::ioctl_fionread(&writer).expect("a pipe") > 0 {
            std::thread::yield_now();
        }
        drop(writer);
        assert_eq!(reader.join().expect("no panic"), "version: 1");
    }

    #[test]
    fn positions_count_characters_and_ignore_the_byte_order_mark() {
        let source = SourceText::new("f", "/f", "\u{feff}a\nä: b\r\nc");
        let at = |needle: &str| source.position(source.text().find(needle).expect("is in the text"));
        assert_eq!(at("a"), Position { line: 1, column: 1 });
        assert_eq!(at("b"), Position { line: 2, column: 4 });
        assert_eq!(at("c"), Position { line: 3, column: 1 });
        assert_eq!(source.position(source.text().len()), Position { line: 3, column: 2 });
        assert_eq!(source.line(1), Some((2, "ä: b")));
    }
}
