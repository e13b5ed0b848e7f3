//! [`Encoding`]: what the bytes of a text stand for, and [`transcode`], which makes UTF-8 of them.

use std::io::{self, Read};

/// How characters are written as bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Utf8,
    /// ISO 8859-1: every byte is the character of that number.
    Latin1,
    Windows1252,
    /// In the order of bytes that a byte order mark says, and little-endian without one.
    Utf16,
}

impl Encoding {
    /// The word for it in a pipeline file.
    pub fn word(self) -> &'static str {
        match self {
            Self::Utf8 => "utf-8",
            Self::Latin1 => "latin1",
            Self::Windows1252 => "windows-1252",
            Self::Utf16 => "utf-16",
        }
    }
}

/// Bytes that are no text in their encoding. What comes before them has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the text is not valid {}", .0.word())]
pub struct NotEncoded(pub Encoding);

/// The text of `input` as UTF-8. UTF-8 itself passes through as it is. What is not valid is an error of the kind `InvalidData` that holds a
/// [`NotEncoded`]; one of the kind `WouldBlock` passes through, and reading can go on after it.
pub fn transcode(input: Box<dyn Read + Send>, encoding: Encoding) -> Box<dyn Read + Send> {
    let decoder = match encoding {
        Encoding::Utf8 => return input,
        Encoding::Latin1 => Decoder::Bytes(Some),
        Encoding::Windows1252 => Decoder::Bytes(windows_1252),
        Encoding::Utf16 => Decoder::Utf16(Utf16::default()),
    };
    Box::new(Transcoder { input, encoding, decoder, text: Vec::new(), given: 0, state: State::Reading })
}

struct Transcoder {
    input: Box<dyn Read + Send>,
    encoding: Encoding,
    decoder: Decoder,
    /// What has been decoded, of which the first bytes have been given.
    text: Vec<u8>,
    given: usize,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Reading,
    /// What follows is no text.
    Broken,
    Ended,
}

enum Decoder {
    /// A character for each byte that has one.
    Bytes(fn(char) -> Option<char>),
    Utf16(Utf16),
}

impl Read for Transcoder {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        /// Bytes that are decoded at once.
        const STEP: usize = 64 << 10;
        while self.given == self.text.len() {
            match self.state {
                State::Reading => {}
                State::Broken => return Err(io::Error::new(io::ErrorKind::InvalidData, NotEncoded(self.encoding))),
                State::Ended => return Ok(0),
            }
            let mut raw = vec![0; STEP.min(buffer.len().max(2))];
            let count = self.input.read(&mut raw)?;
            self.text.clear();
            self.given = 0;
            let is_valid = match (&mut self.decoder, count) {
                (Decoder::Bytes(_), 0) => true,
                (Decoder::Utf16(utf16), 0) => utf16.is_at_end(),
                (Decoder::Bytes(character), _) => decode_bytes(&raw[..count], *character, &mut self.text),
                (Decoder::Utf16(utf16), _) => utf16.decode(&raw[..count], &mut self.text),
            };
            self.state = match (is_valid, count) {
                (false, _) => State::Broken,
                (true, 0) => State::Ended,
                (true, _) => State::Reading,
            };
        }
        let count = buffer.len().min(self.text.len() - self.given);
        buffer[..count].copy_from_slice(&self.text[self.given..self.given + count]);
        self.given += count;
        Ok(count)
    }
}

/// Appends the text of the bytes before the first that has no character, and returns whether there was none.
fn decode_bytes(mut raw: &[u8], character: fn(char) -> Option<char>, text: &mut Vec<u8>) -> bool {
    while !raw.is_empty() {
        let plain = raw.iter().position(|byte| !byte.is_ascii()).unwrap_or(raw.len());
        text.extend_from_slice(&raw[..plain]);
        let Some(&byte) = raw.get(plain) else { break };
        let Some(found) = character(char::from(byte)) else { return false };
        text.extend_from_slice(found.encode_utf8(&mut [0; 4]).as_bytes());
        raw = &raw[plain + 1..];
    }
    true
}

/// The character of a byte, given that of ISO 8859-1.
fn windows_1252(latin1: char) -> Option<char> {
    const FROM_0X80: [char; 32] = [
        '€', '\0', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\0', 'Ž', '\0', '\0', '‘', '’', '“', '”',
        '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\0', 'ž', 'Ÿ',
    ];
    match (latin1 as usize).checked_sub(0x80).and_then(|at| FROM_0X80.get(at)) {
        Some('\0') => None,
        Some(&character) => Some(character),
        None => Some(latin1),
    }
}

#[derive(Default)]
struct Utf16 {
    is_past_start: bool,
    is_big_endian: bool,
    /// The first byte of a unit whose second has not come yet.
    half: Option<u8>,
    /// The first of two units that are one character.
    high: Option<u16>,
}

impl Utf16 {
    fn is_at_end(&self) -> bool {
        self.half.is_none() && self.high.is_none()
    }

    /// Appends the text of the bytes before the first unit that stands for nothing, and returns whether there was none.
    fn decode(&mut self, raw: &[u8], text: &mut Vec<u8>) -> bool {
        for &byte in raw {
            let Some(first) = self.half.take() else {
                self.half = Some(byte);
                continue;
            };
            let pair = [first, byte];
            let is_first = !std::mem::replace(&mut self.is_past_start, true);
            if is_first && (pair == [0xff, 0xfe] || pair == [0xfe, 0xff]) {
                self.is_big_endian = pair == [0xfe, 0xff];
                continue;
            }
            let unit = if self.is_big_endian { u16::from_be_bytes(pair) } else { u16::from_le_bytes(pair) };
            let character = match (self.high.take(), unit) {
                (None, 0xd800..=0xdbff) => {
                    self.high = Some(unit);
                    continue;
                }
                (None, _) => char::from_u32(u32::from(unit)),
                (Some(high), _) => char::decode_utf16([high, unit]).next().and_then(Result::ok),
            };
            let Some(character) = character else { return false };
            text.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Gives bytes in pieces of one size, each after a silence.
    struct Pieces(Vec<u8>, usize, bool);

    impl Read for Pieces {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.2 = !self.2;
            if self.2 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let count = self.1.min(self.0.len()).min(buffer.len());
            buffer[..count].copy_from_slice(&self.0[..count]);
            self.0.drain(..count);
            Ok(count)
        }
    }

    /// The text before the first bytes that are none, and whether there are such.
    fn read(bytes: &[u8], encoding: Encoding, piece: usize, room: usize) -> (String, bool) {
        let mut reader = transcode(Box::new(Pieces(bytes.to_vec(), piece, false)), encoding);
        let (mut text, mut buffer) = (Vec::new(), vec![0; room]);
        let is_broken = loop {
            match reader.read(&mut buffer) {
                Ok(0) => break false,
                Ok(count) => text.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    assert_eq!(error.get_ref().unwrap().downcast_ref(), Some(&NotEncoded(encoding)));
                    break true;
                }
            }
        };
        (String::from_utf8(text).unwrap(), is_broken)
    }

    #[test]
    fn bytes_have_their_characters() {
        let cases: [(Encoding, &[u8], &str, bool); 11] = [
            (Encoding::Utf8, "ä\n".as_bytes(), "ä\n", false),
            (Encoding::Latin1, b"caf\xe9 \x80\xff", "café \u{80}ÿ", false),
            (Encoding::Windows1252, b"\x80 caf\xe9 \x9f", "€ café Ÿ", false),
            (Encoding::Windows1252, b"a\x81b", "a", true),
            (Encoding::Utf16, b"\xff\xfea\0\xe9\0", "aé", false),
            (Encoding::Utf16, b"\xfe\xff\0a\0\xe9", "aé", false),
            (Encoding::Utf16, b"a\0\x3d\xd8\0\xde", "a😀", false),
            (Encoding::Utf16, b"a\0b", "a", true),
            (Encoding::Utf16, b"a\0\x3d\xd8", "a", true),
            (Encoding::Utf16, b"a\0\x3d\xd8a\0", "a", true),
            (Encoding::Utf16, b"a\0\0\xdeb\0", "a", true),
        ];
        for (encoding, bytes, text, is_broken) in cases {
            for (piece, room) in [(1, 1), (3, 2), (100, 100)] {
                assert_eq!(read(bytes, encoding, piece, room), (text.to_owned(), is_broken), "{encoding:?} {bytes:x?}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_text_comes_back_from_utf_16(text: String, piece in 1_usize..20, room in 1_usize..20, is_big: bool) {
            let units = std::iter::once(0xfeff).chain(text.encode_utf16());
            let bytes = units.flat_map(|unit| if is_big { unit.to_be_bytes() } else { unit.to_le_bytes() });
            let bytes: Vec<u8> = bytes.collect();
            prop_assert_eq!(read(&bytes, Encoding::Utf16, piece, room), (text, false));
        }
    }
}
