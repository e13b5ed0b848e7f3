//! [`annotation`]: a diagnostic as GitHub shows it beside the line of a pull request.

use super::{Diagnostic, SourceText};

/// The workflow command that makes the annotation, a line, as described under "Workflow commands for GitHub Actions".
pub fn annotation(diagnostic: &Diagnostic, source: &SourceText) -> String {
    let name = source.file_at(diagnostic.span().unwrap_or_default().start).0.name();
    let mut properties = vec![format!("file={}", property(name))];
    if let Some(span) = diagnostic.span() {
        let (start, end) = (source.position(span.start), source.position(span.end));
        properties.push(format!("line={},col={},endLine={}", start.line, start.column, end.line));
        // The end of a line that is not the first would be taken for one of the first.
        if start.line == end.line {
            properties.push(format!("endColumn={}", end.column));
        }
    }
    properties.push(format!("title={}", property(diagnostic.code.word())));
    let mut message = diagnostic.message.clone();
    if let Some(help) = &diagnostic.help {
        message.push_str(&format!("\n{help}"));
    }
    format!("::{} {}::{}\n", diagnostic.severity().word(), properties.join(","), data(&message))
}

/// A text behind the second `::`.
fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// A text that ends at a comma.
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostic::{Code, Span};

    #[test]
    fn what_would_end_a_part_of_it_is_escaped() {
        let source = SourceText::new("a,b:c.yaml", "/a,b:c.yaml", "x\n100%\n");
        let problem =
            Diagnostic::new(Code::SpecBadValue, Span::new(2, 6), "100% is\rtoo: much").help("less\nof it".to_owned());
        insta::assert_snapshot!(annotation(&problem, &source), @"::error file=a%2Cb%3Ac.yaml,line=2,col=1,endLine=2,endColumn=5,title=spec%3A%3Abad_value::100%25 is%0Dtoo: much%0Aless%0Aof it");
        let whole = Diagnostic::new(Code::ParamUnused, Span::new(0, 6), "x");
        insta::assert_snapshot!(annotation(&whole, &source), @"::warning file=a%2Cb%3Ac.yaml,line=1,col=1,endLine=2,title=param%3A%3Aunused::x");
        insta::assert_snapshot!(annotation(&Diagnostic::without_place(Code::ParamUnknown, "x"), &source), @"::error file=a%2Cb%3Ac.yaml,title=param%3A%3Aunknown::x");
    }
}
