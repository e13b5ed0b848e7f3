//! [`SourceText`]: the text of a file, and positions in it.

use std::io::Read;
use std::path::{Path, PathBuf};

/// A range of bytes in a [`SourceText`].
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
#[derive(Clone, Debug)]
pub struct SourceText {
    name: String,
    path: PathBuf,
    text: String,
    /// Byte offset at which each line starts.
    lines: Vec<usize>,
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
        let file = std::fs::File::open(path).map_err(failed)?;
        let mut bytes = Vec::new();
        file.take(Self::MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > Self::MAX_BYTES {
            return Err(SourceTextError::TooLarge { path: path.to_owned(), limit: Self::MAX_BYTES });
        }
        let text = String::from_utf8(bytes).map_err(|error| SourceTextError::NotUtf8 {
            path: path.to_owned(),
            offset: error.utf8_error().valid_up_to(),
        })?;
        let absolute = std::path::absolute(path).map_err(failed)?;
        Ok(Self::new(path.display().to_string(), absolute, &text))
    }

    /// `path` is the absolute path of the file; relative paths in the text are relative to its folder.
    pub fn new(name: impl Into<String>, path: impl Into<PathBuf>, text: &str) -> Self {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text).to_owned();
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { name: name.into(), path: path.into(), text, lines }
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
        self.text.get(span.start..span.end.min(self.text.len())).unwrap_or_default()
    }

    /// The position of a byte. One behind the end gives the end.
    pub fn position(&self, offset: usize) -> Position {
        let line = self.lines.partition_point(|&start| start <= offset) - 1;
        let start = self.lines[line];
        let before = self.text.get(start..offset.min(self.text.len())).unwrap_or_default();
        Position { line: line + 1, column: before.chars().count() + 1 }
    }

    /// The 0-based `line` without its line break, and the byte at which it starts.
    pub fn line(&self, line: usize) -> Option<(usize, &str)> {
        let start = *self.lines.get(line)?;
        let end = self.lines.get(line + 1).copied().unwrap_or(self.text.len());
        Some((start, self.text[start..end].trim_end_matches(['\n', '\r'])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
