//! [`Explanation`]: the long form of a code, which is its section of `docs/errors.md`.

use super::Code;

const PAGE: &str = include_str!("../../docs/errors.md");
/// What stands in the page for its tests alone.
const NOTE: &str = "<!--";

/// What `docs/errors.md` says of a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The words, as Markdown.
    pub text: &'static str,
    /// A pipeline that has the problem, or a command line.
    pub example: &'static str,
}

impl Explanation {
    pub fn of(code: Code) -> Self {
        let heading = format!("### `{}`\n", code.word());
        let (_, section) = PAGE.split_once(&heading).expect("every code is explained, as a test checks");
        let end = section.find("\n## ").into_iter().chain(section.find("\n### ")).min().unwrap_or(section.len());
        let section = section[..end].trim();
        let (text, rest) = section.split_once("```").unwrap_or((section, ""));
        let text = text.split(NOTE).next().unwrap_or_default().trim();
        // Behind the word for the language.
        let (_, rest) = rest.split_once('\n').unwrap_or_default();
        Self { text, example: rest.split("```").next().unwrap_or_default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_explained_by_an_example() {
        for code in Code::ALL {
            let explanation = Explanation::of(*code);
            assert!(explanation.text.ends_with('.'), "{}: {explanation:?}", code.word());
            assert!(explanation.example.contains('\n'), "{}: {explanation:?}", code.word());
        }
    }
}
