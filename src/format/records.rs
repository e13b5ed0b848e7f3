//! [`Records`]: whole records of text, not decoded yet.

/// Bounds of a chunk of records: it is complete with the record that reaches one of them.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    pub records: usize,
    /// Bytes of text.
    pub bytes: usize,
}

/// Whole records of one width: the fields of CSV without their quotes, or one field per line of other text.
#[derive(Clone, Debug, Default)]
pub struct Records {
    bytes: Vec<u8>,
    /// Where each field ends in `bytes`.
    ends: Vec<usize>,
    /// Fields per record; 0 until the first record comes.
    width: usize,
}

impl Records {
    /// Number of records.
    pub fn len(&self) -> usize {
        self.ends.len().checked_div(self.width).unwrap_or(0)
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Bytes of text.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_full(&self, limit: Limit) -> bool {
        self.len() >= limit.records || self.bytes() >= limit.bytes
    }

    /// Adds a record; `ends` are the ends of its fields in `bytes`.
    pub(super) fn push(&mut self, bytes: &[u8], ends: &[usize]) {
        debug_assert!(self.width == 0 || self.width == ends.len(), "records have one width");
        self.width = ends.len();
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        self.ends.extend(ends.iter().map(|end| start + end));
    }

    /// A field of a record.
    pub(super) fn field(&self, record: usize, field: usize) -> &[u8] {
        let at = record * self.width + field;
        let start = if at == 0 { 0 } else { self.ends[at - 1] };
        &self.bytes[start..self.ends[at]]
    }

    /// The first record that is not valid UTF-8.
    pub(super) fn invalid_utf8(&self) -> Option<usize> {
        // Fields are checked one by one only if the whole is invalid: a character may not span two fields.
        let is_valid = std::str::from_utf8(&self.bytes).is_ok() && self.ends.iter().all(|&end| self.is_boundary(end));
        if is_valid {
            return None;
        }
        (0..self.ends.len())
            .find(|&at| std::str::from_utf8(self.field(at / self.width, at % self.width)).is_err())
            .map(|at| at / self.width)
    }

    fn is_boundary(&self, at: usize) -> bool {
        self.bytes.get(at).is_none_or(|byte| byte & 0b1100_0000 != 0b1000_0000)
    }
}
