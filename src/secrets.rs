//! What must not be told: values of `${{ secrets.NAME }}`, which are hidden in whatever is printed or recorded.
//!
//! There is one set of them in a process, as a message may come from anywhere. It is filled before anything of a pipeline is told, and
//! every place that prints or records asks [`masked`].

use std::borrow::Cow;
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

/// A text as it is, as Python shows it within quotes, and all of that as JSON has it.
fn forms(text: &str) -> Vec<String> {
    let plain = text.replace('\\', "\\\\").replace('\n', "\\n").replace('\t', "\\t").replace('\r', "\\r");
    let quoted = plain.replace('\'', "\\'");
    let mut forms = vec![text.to_owned(), plain, quoted];
    for at in 0..forms.len() {
        let escaped = serde_json::to_string(&forms[at]).expect("text is JSON");
        forms.push(escaped[1..escaped.len() - 1].to_owned());
    }
    forms
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
        assert!(!can_hide("abc") && can_hide("abcd"));
        hide(["abc"]);
        assert_eq!(masked("abc"), "abc");
    }
}
