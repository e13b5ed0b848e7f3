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
    format!("{} ({})\n\n{text}\n\nFor example:\n\n{indented}", code.word(), code.severity().word())
}
