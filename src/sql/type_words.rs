//! [`in_words`]: the engine's messages with the language's words for types.

/// What the engine calls types, and their words.
const WORDS: [(&str, &str); 22] = [
    ("Boolean", "bool"),
    ("Int8", "int8"),
    ("Int16", "int16"),
    ("Int32", "int32"),
    ("Int64", "int64"),
    ("UInt8", "uint8"),
    ("UInt16", "uint16"),
    ("UInt32", "uint32"),
    ("UInt64", "uint64"),
    ("Float16", "halffloat"),
    ("Float32", "float32"),
    ("Float64", "float64"),
    ("Utf8", "string"),
    ("LargeUtf8", "string"),
    ("Utf8View", "string"),
    ("Binary", "binary"),
    ("LargeBinary", "binary"),
    ("BinaryView", "binary"),
    ("Date32", "date"),
    ("Time64(µs)", "time"),
    ("Timestamp(µs)", "timestamp"),
    ("Decimal128", "decimal"),
];

/// A message in which types have their words. What stands in quotes is data, or a name of the user's, and stays.
pub(super) fn in_words(text: &str) -> String {
    let mut worded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = if let '\'' | '"' | '`' = first {
            quoted(rest, first)
        } else if let Some((name, word)) = type_at(rest) {
            worded.push_str(word);
            rest = &rest[name.len()..];
            continue;
        } else if first.is_alphanumeric() || first == '_' {
            rest.find(|letter: char| !is_of_name(letter)).unwrap_or(rest.len())
        } else {
            first.len_utf8()
        };
        let (kept, others) = rest.split_at(length);
        worded.push_str(kept);
        rest = others;
    }
    worded
}

/// Bytes to the end of what begins with a quote: of the quote alone, if there is no second one.
fn quoted(text: &str, quote: char) -> usize {
    text[1..].find(quote).map_or(1, |end| end + 2)
}

fn type_at(text: &str) -> Option<(&'static str, &'static str)> {
    let ends = |name: &str| text.strip_prefix(name).is_some_and(|rest| !rest.starts_with(is_of_name));
    WORDS.into_iter().find(|(name, _)| ends(name))
}

fn is_of_name(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_have_their_words_and_data_stays() {
        let told = [
            ("cannot cast string 'Int64' to value of Int64 type", "cannot cast string 'Int64' to value of int64 type"),
            ("Utf8View + Timestamp(µs), Decimal128(5, 2)", "string + timestamp, decimal(5, 2)"),
            (
                "my_Int64 Int64x Int64_x can't be \"Utf8\" nor `Utf8`",
                "my_Int64 Int64x Int64_x can't be \"Utf8\" nor `Utf8`",
            ),
            ("", ""),
        ];
        for (message, worded) in told {
            assert_eq!(in_words(message), worded);
        }
    }
}
