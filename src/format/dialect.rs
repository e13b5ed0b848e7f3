//! [`Dialect`]: how CSV is written in a file.

/// What is between fields, around them, and in the place of values that are missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dialect {
    pub delimiter: u8,
    /// Whether the first record names the columns.
    pub header: bool,
    /// What may stand around a field, and twice for itself within one; `None` if that is a character like any other.
    pub quote: Option<u8>,
    pub nulls: Nulls,
}

impl Dialect {
    pub const QUOTE: u8 = b'"';

    pub fn with_delimiter(delimiter: u8) -> Self {
        Self { delimiter, ..Self::default() }
    }
}

impl Default for Dialect {
    fn default() -> Self {
        Self { delimiter: b',', header: true, quote: Some(Self::QUOTE), nulls: Nulls::default() }
    }
}

/// The fields that stand for a missing value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nulls {
    words: Vec<String>,
}

impl Nulls {
    pub fn new(words: Vec<String>) -> Self {
        Self { words }
    }

    /// The field itself, unless it stands for a missing value.
    pub(super) fn value<'a>(&self, field: &'a str) -> Option<&'a str> {
        let is_null = match self.words.as_slice() {
            [only] => only == field,
            words => words.iter().any(|word| word == field),
        };
        (!is_null).then_some(field)
    }
}

impl Default for Nulls {
    /// The empty field.
    fn default() -> Self {
        Self { words: vec![String::new()] }
    }
}
