//! [`Records`]: whole records of text, not decoded yet.

use std::ops::Range;

use super::malformed::Malformed;

/// Bounds of a chunk of records: it is complete with the record that reaches one of them.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    pub records: usize,
    /// Bytes of text, and what each field takes besides.
    pub bytes: usize,
}

/// A record that has not the width of the others.
#[derive(Clone, Copy, Debug)]
pub(super) struct OtherWidth {
    /// Where it begins.
    pub(super) at: usize,
    pub(super) found: usize,
}

/// What stands behind a field that was not copied together with what stands behind it in the file.
const SEPARATOR: u8 = b'\n';

/// Bytes of a field beside its text: what a number takes when it is decoded, which is more than where it ends.
const FIELD: usize = size_of::<i64>();
/// Bytes of a chunk beyond which no end of a field could be told. A record is never as long as what is left.
const MOST: usize = (u32::MAX / 2) as usize;

/// Whole records of one width: the fields of CSV without their quotes, or one field per line of other text.
#[derive(Clone, Debug, Default)]
pub struct Records {
    /// The fields, each with one byte behind it: as they lie in a file, so that whole lines are copied at once.
    bytes: Vec<u8>,
    /// Where each field ends in `bytes`.
    ends: Vec<u32>,
    /// Fields per record; 0 until the first record comes.
    width: usize,
    /// Records that are none of these, as they have not the same fields: how many stand before each of them, and their bytes.
    malformed: Vec<(usize, Malformed)>,
    malformed_bytes: usize,
}

impl Records {
    /// Number of records.
    pub fn len(&self) -> usize {
        self.ends.len().checked_div(self.width).unwrap_or(0)
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Bytes of text: of the fields alone.
    pub fn bytes(&self) -> usize {
        self.bytes.len() - self.ends.len()
    }

    pub fn is_full(&self, limit: Limit) -> bool {
        self.len() + self.malformed.len() >= limit.records
            || self.weight() + self.malformed_bytes >= limit.bytes.min(MOST)
    }

    /// What a chunk is bounded by: many short fields are more in memory than as text, here and as values.
    fn weight(&self) -> usize {
        self.bytes() + FIELD * self.ends.len()
    }

    /// Records that were found to be malformed when the text was split, in order, each with the number of records before it. They
    /// are not counted as records.
    pub fn malformed(&self) -> &[(usize, Malformed)] {
        &self.malformed
    }

    /// Adds a record that is none of these.
    pub(super) fn push_malformed(&mut self, malformed: Malformed) {
        self.malformed_bytes += malformed.text.len();
        self.malformed.push((self.len(), malformed));
    }

    /// The fields of a record.
    pub(super) fn fields(&self, record: usize) -> impl Iterator<Item = &[u8]> {
        (0..self.width).map(move |field| self.field(record, field))
    }

    /// The records in these ranges, without those that are malformed.
    pub(super) fn select(&self, ranges: impl IntoIterator<Item = Range<usize>>) -> Self {
        let mut selected = Self { width: self.width, ..Self::default() };
        for range in ranges.into_iter().filter(|range| !range.is_empty()) {
            let fields = range.start * self.width..range.end * self.width;
            let start = if fields.start == 0 { 0 } else { self.ends[fields.start - 1] + 1 };
            let moved = place(selected.bytes.len());
            selected.bytes.extend_from_slice(&self.bytes[start as usize..=self.ends[fields.end - 1] as usize]);
            selected.ends.extend(self.ends[fields].iter().map(|end| end - start + moved));
        }
        selected
    }

    /// Adds a record; `ends` are the ends of its fields in `bytes`.
    pub(super) fn push(&mut self, bytes: &[u8], ends: &[usize]) {
        debug_assert!(self.width == 0 || self.width == ends.len(), "records have one width");
        self.width = ends.len();
        let mut start = 0;
        for &end in ends {
            self.bytes.extend_from_slice(&bytes[start..end]);
            self.ends.push(place(self.bytes.len()));
            self.bytes.push(SEPARATOR);
            start = end;
        }
    }

    /// Adds unquoted records of CSV from the start of `text`, which begins at the start of a record, until there is no whole
    /// one left or `limit` is reached, and returns how many bytes they took. Blank lines are none. A record of another width
    /// than `width` ends it; it is not added.
    pub(super) fn push_plain(
        &mut self,
        text: &[u8],
        delimiter: u8,
        width: usize,
        limit: Limit,
    ) -> Result<usize, OtherWidth> {
        debug_assert!(self.width == 0 || self.width == width, "records have one width");
        self.width = width;
        let mut room = limit.records.saturating_sub(self.len() + self.malformed.len());
        let mut room_bytes = limit.bytes.min(MOST).saturating_sub(self.weight() + self.malformed_bytes);
        // Lines that follow each other are copied together: from `copied` on they are not yet.
        let (mut copied, mut record, mut fields) = (0, 0, 0);
        let mut base = self.bytes.len();
        for at in memchr::memchr3_iter(delimiter, b'\n', b'\r', text) {
            if text[at] == delimiter {
                fields += 1;
                self.ends.push(place(base + at - copied));
                continue;
            }
            if at == record {
                // A blank line, or what is left of a line break of two bytes.
                self.bytes.extend_from_slice(&text[copied..record]);
                record = at + 1;
                copied = record;
                base = self.bytes.len();
                continue;
            }
            fields += 1;
            if fields != width {
                self.ends.truncate(self.ends.len() + 1 - fields);
                self.bytes.extend_from_slice(&text[copied..record]);
                return Err(OtherWidth { at: record, found: fields });
            }
            self.ends.push(place(base + at - copied));
            room -= 1;
            room_bytes = room_bytes.saturating_sub(at - record - (fields - 1) + FIELD * fields);
            record = at + 1;
            fields = 0;
            if room == 0 || room_bytes == 0 {
                break;
            }
        }
        self.ends.truncate(self.ends.len() - fields);
        self.bytes.extend_from_slice(&text[copied..record]);
        Ok(record)
    }

    /// A field of a record.
    pub(super) fn field(&self, record: usize, field: usize) -> &[u8] {
        let at = record * self.width + field;
        let start = if at == 0 { 0 } else { self.ends[at - 1] as usize + 1 };
        &self.bytes[start..self.ends[at] as usize]
    }

    /// The fields as text. The error is the first record that is not valid UTF-8.
    pub(super) fn texts(&self) -> Result<Texts<'_>, usize> {
        match std::str::from_utf8(&self.bytes) {
            Ok(text) => Ok(Texts { text, ends: &self.ends, width: self.width }),
            // As one byte of ASCII stands between two fields, no character can span them.
            Err(error) => Err(self.ends.partition_point(|end| *end as usize <= error.valid_up_to()) / self.width),
        }
    }
}

/// A place in the bytes of a chunk.
fn place(at: usize) -> u32 {
    u32::try_from(at).expect("a chunk is full before")
}

/// The fields of [`Records`] that are valid UTF-8 throughout.
#[derive(Clone, Copy, Debug)]
pub(super) struct Texts<'a> {
    text: &'a str,
    ends: &'a [u32],
    width: usize,
}

impl<'a> Texts<'a> {
    /// One field of every record.
    pub(super) fn column(self, field: usize) -> impl Iterator<Item = &'a str> + Clone {
        let rows = self.ends.len().checked_div(self.width).unwrap_or(0);
        (0..rows).map(move |row| self.field(row, field))
    }

    pub(super) fn field(self, record: usize, field: usize) -> &'a str {
        let at = record * self.width + field;
        let start = if at == 0 { 0 } else { self.ends[at - 1] as usize + 1 };
        &self.text[start..self.ends[at] as usize]
    }
}
