//! What must not be told: values of `${{ secrets.NAME }}`, which are hidden in whatever is printed or recorded.
//!
//! There is one set of them in a process, as a message may come from anywhere. It is filled before anything of a pipeline is told, and
//! every place that prints or records asks [`masked`].

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::RwLock;

use memchr::memmem;

/// What stands in the place of a secret.
const MASK: &str = "***";
/// Shorter texts are found by chance in texts that have nothing to do with them.
const SHORTEST: usize = 4;
/// Of a secret with many lines, lines that are as long as this are secrets themselves: they are printed one by one.
const SHORTEST_LINE: usize = 8;

/// Longest first, so that a secret that contains another one is hidden as a whole.
static SECRETS: RwLock<Vec<Vec<u8>>> = RwLock::new(Vec::new());

/// Whether a secret is long enough to be hidden.
pub fn can_hide(secret: &str) -> bool {
    secret.len() >= SHORTEST || secret.is_empty()
}

/// Hides these from now on, in all [`forms`], but for those that [cannot be](can_hide).
pub fn hide(secrets: impl IntoIterator<Item = impl AsRef<str>>) {
    let mut hidden = SECRETS.write().unwrap_or_else(std::sync::PoisonError::into_inner);
    for secret in secrets {
        let secret = secret.as_ref();
        let lines = secret.lines().filter(|line| line.len() >= SHORTEST_LINE);
        for text in [secret].into_iter().chain(lines).filter(|text| text.len() >= SHORTEST) {
            hidden.extend(forms(text).into_iter().map(String::into_bytes));
        }
    }
    hidden.sort_by(|one, other| other.len().cmp(&one.len()).then_with(|| one.cmp(other)));
    hidden.dedup();
}

/// A text as it is, and as JSON and Python show it; and what they show of that once more, as one is often told within the other.
fn forms(text: &str) -> BTreeSet<String> {
    let once: BTreeSet<String> = shown(text).into_iter().chain([text.to_owned()]).collect();
    let twice = once.iter().flat_map(|form| shown(form)).collect::<Vec<_>>();
    once.into_iter().chain(twice).collect()
}

/// A text within quotes, but without them: in JSON, with and without other letters than those of ASCII; and in Python, as `repr` and `ascii` have
/// it of text, and `repr` of its bytes.
fn shown(text: &str) -> [String; 8] {
    let json = serde_json::to_string(text).expect("text is JSON");
    let json = json[1..json.len() - 1].to_owned();
    let json_ascii = escaped(&json, |letter| {
        let mut units = [0; 2];
        let is_plain = letter.is_ascii() && letter != '\u{7f}';
        (!is_plain).then(|| letter.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")).collect())
    });
    let python = escaped(text, |letter| simple(letter).or_else(|| (!is_printable(letter)).then(|| numbered(letter))));
    let python_ascii = escaped(text, |letter| {
        simple(letter).or_else(|| (!letter.is_ascii() || letter.is_control()).then(|| numbered(letter)))
    });
    let bytes = escaped(text, |letter| {
        let mut bytes = [0; 4];
        let is_plain = letter.is_ascii() && !letter.is_control();
        let numbered = || letter.encode_utf8(&mut bytes).bytes().map(|byte| format!("\\x{byte:02x}")).collect();
        simple(letter).or_else(|| (!is_plain).then(numbered))
    });
    let quoted = |text: &String| text.replace('\'', "\\'");
    let (python_quoted, ascii_quoted, bytes_quoted) = (quoted(&python), quoted(&python_ascii), quoted(&bytes));
    [json, json_ascii, python, python_ascii, bytes, python_quoted, ascii_quoted, bytes_quoted]
}

fn escaped(text: &str, mut escape: impl FnMut(char) -> Option<String>) -> String {
    text.chars().fold(String::new(), |mut shown, letter| {
        match escape(letter) {
            Some(escape) => shown.push_str(&escape),
            None => shown.push(letter),
        }
        shown
    })
}

/// What Python writes with a letter of its own.
fn simple(letter: char) -> Option<String> {
    let short = match letter {
        '\\' => "\\\\",
        '\n' => "\\n",
        '\r' => "\\r",
        '\t' => "\\t",
        _ => return None,
    };
    Some(short.to_owned())
}

fn numbered(letter: char) -> String {
    match u32::from(letter) {
        number @ ..0x100 => format!("\\x{number:02x}"),
        number @ ..0x1_0000 => format!("\\u{number:04x}"),
        number => format!("\\U{number:08x}"),
    }
}

/// Whether Python shows the letter as it is. Of those that few secrets have, it may think otherwise.
fn is_printable(letter: char) -> bool {
    let is_space = letter.is_whitespace() && letter != ' ';
    !letter.is_control()
        && !is_space
        && !matches!(letter, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{feff}')
}

/// The text without secrets.
pub fn masked(text: &str) -> Cow<'_, str> {
    match masked_bytes(text.as_bytes()) {
        Cow::Borrowed(_) => Cow::Borrowed(text),
        // Whole characters were replaced by others.
        Cow::Owned(bytes) => Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()),
    }
}

/// The bytes without secrets. Text is to be cut off after this, as half a secret is not found.
pub fn masked_bytes(bytes: &[u8]) -> Cow<'_, [u8]> {
    let hidden = SECRETS.read().unwrap_or_else(std::sync::PoisonError::into_inner);
    replaced(bytes, &hidden)
}

fn replaced<'a>(bytes: &'a [u8], secrets: &[Vec<u8>]) -> Cow<'a, [u8]> {
    let mut bytes = Cow::Borrowed(bytes);
    for secret in secrets {
        let finder = memmem::Finder::new(secret);
        if finder.find(&bytes).is_none() {
            continue;
        }
        let mut clean = Vec::with_capacity(bytes.len());
        let mut end = 0;
        for at in finder.find_iter(&bytes) {
            clean.extend_from_slice(&bytes[end..at]);
            clean.extend_from_slice(MASK.as_bytes());
            end = at + secret.len();
        }
        clean.extend_from_slice(&bytes[end..]);
        bytes = Cow::Owned(clean);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(texts: &[&str]) -> Vec<Vec<u8>> {
        texts.iter().map(|text| text.as_bytes().to_vec()).collect()
    }

    #[test]
    fn every_occurrence_is_replaced_the_longest_first() {
        let secrets = secrets(&["hunter22", "hunter2"]);
        let shown = |text: &'static str| String::from_utf8(replaced(text.as_bytes(), &secrets).into_owned()).unwrap();
        assert_eq!(shown("a hunter2, hunter22 and hunter"), "a ***, *** and hunter");
        assert_eq!(shown("nothing"), "nothing");
    }

    #[test]
    fn lines_and_escaped_forms_are_hidden_too() {
        // A secret of this test alone, as all tests of a process have one set.
        hide(["first \"line\" 81723\nsecond line 91827\nx"]);
        assert_eq!(masked("x second line 91827 first \"line\" 81723"), "x *** ***");
        assert_eq!(masked(r#"('first "line" 81723\nsecond line 91827\nx',)"#), "('***',)");
        assert_eq!(masked(r#"{"a":"first \"line\" 81723\nsecond line 91827\nx"}"#), r#"{"a":"***"}"#);
        let secret = "P\u{e4}ss'w\"\u{f6}rt\\\u{200b}\u{1f511}";
        hide([secret]);
        let printed = [
            r#"{"t": "P\u00e4ss'w\"\u00f6rt\\\u200b\ud83d\udd11"}"#,
            r#"'P\xe4ss\'w"\xf6rt\\\u200b\U0001f511'"#,
            "'P\u{e4}ss\\'w\"\u{f6}rt\\\\\\u200b\u{1f511}'",
            r#"b'P\xc3\xa4ss\'w"\xc3\xb6rt\\\xe2\x80\x8b\xf0\x9f\x94\x91'"#,
            r#""{\"t\": \"P\\u00e4ss'w\\\"\\u00f6rt\\\\\\u200b\\ud83d\\udd11\"}""#,
        ];
        for printed in printed {
            let told = masked(printed);
            assert!(told.contains("***") && !told.contains("rt"), "{printed}: {told}");
        }
        assert!(!can_hide("abc") && can_hide("abcd"));
        hide(["abc"]);
        assert_eq!(masked("abc"), "abc");
    }
}
