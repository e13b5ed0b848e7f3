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
    pub example: Option<&'static str>,
}

impl Explanation {
    pub fn of(code: Code) -> Self {
        let heading = format!("### `{}`\n", code.word());
        let (_, section) = PAGE.split_once(&heading).expect("every code is explained, as a test checks");
        let end = section.find("\n## ").into_iter().chain(section.find("\n### ")).min().unwrap_or(section.len());
        let section = section[..end].trim();
        let Some((text, rest)) = section.split_once("```") else { return Self { text: section, example: None } };
        let text = text.split(NOTE).next().unwrap_or_default().trim();
        let example = rest.split_once('\n').and_then(|(_, rest)| Some(rest.split_once("```")?.0));
        Self { text, example }
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
            assert!(
                explanation.example.is_some_and(|example| example.contains('\n')),
                "{}: {explanation:?}",
                code.word()
            );
        }
    }
}
