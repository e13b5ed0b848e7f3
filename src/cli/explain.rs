//! `millpond explain`: the long form of a code.

use super::args::ExplainArgs;
use super::exit_code::Exit;
use super::output;
use crate::diagnostic::explanation::Explanation;
use crate::diagnostic::{Code, did_you_mean};

pub fn explain(args: &ExplainArgs) -> Exit {
    let Some(word) = &args.code else { return output::print(&list()) };
    // What follows the last colon is what people remember.
    let is_meant = |code: &&Code| code.word() == word || code.word().rsplit("::").next() == Some(word.as_str());
    match Code::ALL.iter().find(is_meant) {
        Some(code) => output::print(&long_form(*code)),
        None => {
            let help = did_you_mean(word, Code::ALL.iter().map(|code| code.word()))
                .unwrap_or_else(|| "`millpond explain` lists them all".to_owned());
            output::complain(&format!("there is no code `{word}` ({help})"));
            Exit::Usage
        }
    }
}

fn list() -> String {
    Code::ALL.iter().map(|code| format!("{:<7} {}\n", code.severity().word(), code.word())).collect()
}

fn long_form(code: Code) -> String {
    let Explanation { text, example } = Explanation::of(code);
    let indented: String = example.lines().map(|line| format!("    {line}\n")).collect();
    let text = without_links(text);
    format!("{} ({})\n\n{text}\n\nFor example:\n\n{indented}", code.word(), code.severity().word())
}

/// Text of Markdown with the words of its links alone: where they lead to is not there.
fn without_links(text: &str) -> String {
    let mut shown = String::new();
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once('[') {
        shown += before;
        let link = behind.split_once("](").and_then(|(words, target)| Some((words, target.split_once(')')?.1)));
        // A bracket that begins no link is text.
        match link.filter(|(words, _)| !words.contains(['[', ']'])) {
            Some((words, behind)) => {
                shown += words;
                rest = behind;
            }
            None => {
                shown.push('[');
                rest = behind;
            }
        }
    }
    shown + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_its_words() {
        assert_eq!(
            without_links("see [the `types`](types.md#a) and [b](c), or a[0]"),
            "see the `types` and b, or a[0]"
        );
        assert_eq!(without_links("`[a, b]` and [one](two)"), "`[a, b]` and one");
        let shown: String = Code::ALL.iter().map(|code| long_form(*code)).collect();
        assert!(!shown.contains(".md"), "{shown}");
    }
}
