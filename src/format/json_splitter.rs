//! [`JsonSplitter`]: the objects of an array, or objects one after the other.

use super::error::Problem;
use super::records::{Limit, Records};
use super::splitter::{BOM, MAX_RECORD};

/// Finds where objects begin and end. What is inside of them is left to whoever decodes them.
#[derive(Debug, Default)]
pub struct JsonSplitter {
    place: Place,
    /// Bytes of a byte order mark that have come.
    mark: usize,
    object: Inside,
    /// The start of an object whose end has not come yet.
    partial: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Start,
    /// Between objects that are in no array.
    Between,
    /// Behind the bracket that opens the array.
    Open,
    AfterElement,
    AfterComma,
    /// Behind the array.
    Closed,
    Inside {
        in_array: bool,
    },
}

/// How deep in an object the splitter stands.
#[derive(Debug, Default)]
struct Inside {
    depth: usize,
    in_string: bool,
    is_escaped: bool,
}

impl JsonSplitter {
    pub(super) fn push(&mut self, input: &[u8], records: &mut Records, limit: Limit) -> Result<usize, Problem> {
        let mut taken = 0;
        while taken < input.len() && !records.is_full(limit) {
            let rest = &input[taken..];
            let Place::Inside { in_array } = self.place else {
                if self.step(rest)? {
                    taken += 1;
                }
                continue;
            };
            let Some(end) = self.object.end(rest) else {
                self.partial.extend_from_slice(rest);
                if self.partial.len() > MAX_RECORD {
                    return Err(Problem::TooLong { limit: MAX_RECORD });
                }
                return Ok(input.len());
            };
            taken += end;
            self.place = if in_array { Place::AfterElement } else { Place::Between };
            if self.partial.is_empty() {
                records.push(&rest[..end], &[end]);
            } else {
                self.partial.extend_from_slice(&rest[..end]);
                records.push(&self.partial, &[self.partial.len()]);
                self.partial.clear();
            }
        }
        Ok(taken)
    }

    pub(super) fn finish(&mut self, _records: &mut Records) -> Result<(), Problem> {
        let place = std::mem::take(self).place;
        let message = match place {
            Place::Start | Place::Between | Place::Closed => return Ok(()),
            Place::Inside { .. } => "the file ends within an object",
            Place::Open | Place::AfterElement | Place::AfterComma => "the file ends before its array does",
        };
        Err(Problem::Json { message: message.to_owned() })
    }

    /// Goes on by one byte between objects, and returns whether it was taken: not if it begins an object.
    fn step(&mut self, rest: &[u8]) -> Result<bool, Problem> {
        self.place = match (self.place, rest[0]) {
            (Place::Start, byte) if BOM.get(self.mark) == Some(&byte) => {
                self.mark += 1;
                return Ok(true);
            }
            (_, b' ' | b'\t' | b'\n' | b'\r') => return Ok(true),
            (Place::Start, b'[') => Place::Open,
            (Place::Open | Place::AfterElement, b']') => Place::Closed,
            (Place::AfterElement, b',') => Place::AfterComma,
            (Place::Start | Place::Between, b'{') => {
                self.place = Place::Inside { in_array: false };
                return Ok(false);
            }
            (Place::Open | Place::AfterComma, b'{') => {
                self.place = Place::Inside { in_array: true };
                return Ok(false);
            }
            (place, _) => {
                let expected = match place {
                    Place::Start => "an object, or an array of objects,",
                    Place::AfterElement => "a comma, or the end of the array,",
                    Place::Closed => "nothing more",
                    Place::Between | Place::Open | Place::AfterComma | Place::Inside { .. } => "an object",
                };
                return Err(Problem::Json {
                    message: format!("{expected} was expected here, and not {}", shown(rest)),
                });
            }
        };
        Ok(true)
    }
}

impl Inside {
    /// Looks for the end of the object, of which this is the beginning or the next piece.
    fn end(&mut self, piece: &[u8]) -> Option<usize> {
        let mut at = 0;
        while at < piece.len() {
            if self.in_string {
                if !std::mem::take(&mut self.is_escaped) {
                    at += memchr::memchr2(b'"', b'\\', &piece[at..])?;
                    self.is_escaped = piece[at] == b'\\';
                    self.in_string = self.is_escaped;
                }
            } else {
                match piece[at] {
                    b'"' => self.in_string = true,
                    b'{' | b'[' => self.depth += 1,
                    b'}' | b']' => self.depth -= 1,
                    _ => {}
                }
                if self.depth == 0 {
                    return Some(at + 1);
                }
            }
            at += 1;
        }
        None
    }
}

/// The first word or sign of what is there.
fn shown(rest: &[u8]) -> String {
    const SHOWN: usize = 20;
    let is_end = |byte: &u8| !byte.is_ascii_alphanumeric();
    let length = rest.iter().take(SHOWN).position(is_end).unwrap_or(SHOWN.min(rest.len())).max(1);
    format!("`{}`", String::from_utf8_lossy(&rest[..length]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The records of a file that comes in pieces of `size`, and what ends them.
    fn split(file: &[u8], size: usize, at_once: usize) -> (Vec<String>, String) {
        let limit = Limit { records: at_once, bytes: usize::MAX };
        let (mut splitter, mut records, mut found) = (JsonSplitter::default(), Records::default(), Vec::new());
        let mut drain = |records: &mut Records| {
            let records = std::mem::take(records);
            let text = |at| String::from_utf8(records.field(at, 0).to_vec()).unwrap();
            found.extend((0..records.len()).map(text));
        };
        let mut failed = String::new();
        'file: for mut piece in file.chunks(size) {
            while !piece.is_empty() {
                match splitter.push(piece, &mut records, limit) {
                    Ok(taken) => piece = &piece[taken..],
                    Err(problem) => {
                        failed = problem.to_string();
                        break 'file;
                    }
                }
                if records.is_full(limit) {
                    drain(&mut records);
                }
            }
        }
        if failed.is_empty() {
            failed = splitter.finish(&mut records).err().map(|problem| problem.to_string()).unwrap_or_default();
        }
        drain(&mut records);
        (found, failed)
    }

    #[test]
    fn files_are_an_array_or_objects_one_after_the_other() {
        let one = r#"{"a":"}\"]\\"}"#;
        let two = "{\n \"b\": [{}, {\"c\": 1}]\n}";
        let cases = [
            (format!("[{one},\n{two}]\n"), vec![one, two], ""),
            (format!("\u{feff} [ {one} ]"), vec![one], ""),
            (format!("{one}{two}\n{one}"), vec![one, two, one], ""),
            ("[]".to_owned(), vec![], ""),
            (" \n".to_owned(), vec![], ""),
            (format!("[{one}"), vec![one], "the file ends before its array does"),
            (format!("[{one},"), vec![one], "the file ends before its array does"),
            ("[{".to_owned(), vec![], "the file ends within an object"),
            ("{\"a\": \"}".to_owned(), vec![], "the file ends within an object"),
            (format!("[{one} {two}]"), vec![one], "a comma, or the end of the array, was expected here, and not `{`"),
            (format!("[{one},]"), vec![one], "an object was expected here, and not `]`"),
            (format!("[{one}] {two}"), vec![one], "nothing more was expected here, and not `{`"),
            (format!("{one},{two}"), vec![one], "an object was expected here, and not `,`"),
            ("[1]".to_owned(), vec![], "an object was expected here, and not `1`"),
            ("[[".to_owned(), vec![], "an object was expected here, and not `[`"),
        ];
        for (file, records, problem) in cases {
            for (size, at_once) in [(1, 1), (3, 2), (1000, 1000)] {
                let (found, failed) = split(file.as_bytes(), size, at_once);
                assert_eq!((found.iter().map(String::as_str).collect(), failed.as_str()), (records.clone(), problem));
            }
        }
        let (_, failed) = split(b"true", 4, 1);
        assert_eq!(failed, "an object, or an array of objects, was expected here, and not `true`");
    }

    proptest! {
        #[test]
        fn objects_do_not_depend_on_how_bytes_arrive(
            values in prop::collection::vec(any::<String>(), 0..6), in_array: bool, size in 1_usize..30,
            at_once in 1_usize..4,
        ) {
            let objects: Vec<_> = values.iter().map(|value| serde_json::json!({ value: [value] }).to_string()).collect();
            let file = if in_array { format!("[{}]", objects.join(" ,")) } else { objects.join("\n") };
            prop_assert_eq!(split(file.as_bytes(), size, at_once), (objects, String::new()));
        }
    }
}
