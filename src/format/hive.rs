//! Folders that stand for the value of a column, as Hive and Spark name them: `country=de`.
//!
//! What a folder's name cannot have, or means something in a path or a pattern, is written as `%` and two hexadecimal digits for each byte.

/// The value of a row that has none.
const NULL: &str = "__HIVE_DEFAULT_PARTITION__";

/// Appends the name of the folder for a value.
pub fn write_folder(column: &str, value: Option<&str>, out: &mut String) {
    escape(column, out);
    out.push('=');
    match value {
        None => out.push_str(NULL),
        // A text that looks like no value.
        Some(NULL) => {
            out.push_str("%5F");
            out.push_str(&NULL[1..]);
        }
        Some(value) => escape(value, out),
    }
}

/// The column and the value that a folder's name stands for; `None` if it is none.
pub fn read_folder(name: &str) -> Option<(String, Option<String>)> {
    let (column, value) = name.split_once('=').filter(|(column, _)| !column.is_empty())?;
    Some((unescape(column), (value != NULL).then(|| unescape(value))))
}

fn escape(text: &str, out: &mut String) {
    for character in text.chars() {
        if character.is_ascii_control() || "\"#%'*/:=?\\{[]^".contains(character) {
            out.push_str(&format!("%{:02X}", u32::from(character)));
        } else {
            out.push(character);
        }
    }
}

/// What is no escape stands for itself, and so do all of them if they make no text.
fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut found = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let digits =
            bytes.get(at + 1..at + 3).filter(|digits| byte == b'%' && digits.iter().all(u8::is_ascii_hexdigit));
        let code = digits.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        found.push(code.unwrap_or(byte));
        at += if code.is_some() { 3 } else { 1 };
    }
    String::from_utf8(found).unwrap_or_else(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_hive_and_are_read_back() {
        for (value, name) in [
            (Some("de"), "c=de"),
            (Some("a b/ü"), "c=a b%2Fü"),
            (Some("12:30 50%"), "c=12%3A30 50%25"),
            (Some("a=b\n"), "c=a%3Db%0A"),
            (Some(""), "c="),
            (Some(".."), "c=.."),
            (Some(NULL), "c=%5F_HIVE_DEFAULT_PARTITION__"),
            (None, "c=__HIVE_DEFAULT_PARTITION__"),
        ] {
            let mut written = String::new();
            write_folder("c", value, &mut written);
            assert_eq!(written, name);
            assert_eq!(read_folder(name), Some(("c".to_owned(), value.map(str::to_owned))));
        }
        let mut written = String::new();
        write_folder("a=b", Some("x"), &mut written);
        assert_eq!((written.as_str(), read_folder(&written)), ("a%3Db=x", Some(("a=b".into(), Some("x".into())))));
    }

    #[test]
    fn names_of_others_are_read() {
        assert_eq!(read_folder("c=a%20b%C3%BC"), Some(("c".into(), Some("a bü".into()))));
        assert_eq!(read_folder("c=100%"), Some(("c".into(), Some("100%".into()))));
        assert_eq!(read_folder("c=%FF"), Some(("c".into(), Some("%FF".into()))));
        assert_eq!(read_folder("c=a=b"), Some(("c".into(), Some("a=b".into()))));
        assert_eq!((read_folder("c"), read_folder("=x")), (None, None));
    }
}
