//! Diagnostics as text for people and as JSON for programs.

use std::fmt::Write;

use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource};
use serde::Serialize;

use super::{Diagnostic, Label, Severity, SourceText};

/// How [`human`] draws.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    pub color: bool,
    /// Columns of the terminal.
    pub width: usize,
}

/// All diagnostics of one file, drawn with the lines that they are about.
pub fn human(diagnostics: &[Diagnostic], source: &SourceText, style: Style) -> String {
    let theme = if style.color { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
    let handler = GraphicalReportHandler::new_themed(theme).with_width(style.width).with_links(false);
    let mut out = String::new();
    for diagnostic in diagnostics {
        let (file, start) = source.file_at(diagnostic.span().unwrap_or_default().start);
        let elsewhere = diagnostic.related.iter().filter(|label| source.file_at(label.span.start).1 != start);
        let elsewhere: Vec<String> = elsewhere.map(|label| in_words(label, source)).collect();
        let drawn = Drawn {
            diagnostic,
            source: NamedSource::new(file.name(), file.text().to_owned()),
            start,
            help: diagnostic.help.iter().cloned().chain(elsewhere).collect::<Vec<_>>().join("\n"),
            related: diagnostic.related.iter().filter(|label| source.file_at(label.span.start).1 == start).collect(),
            instead_of_picture: place_in_words(diagnostic, source),
        };
        if handler.render_report(&mut out, &drawn).is_err() {
            // Drawing fails only for spans outside the text; the words matter more than the picture.
            let _ = writeln!(out, "{}: {}", diagnostic.code.word(), diagnostic.message);
        }
        out.push('\n');
    }
    out
}

/// All diagnostics of one file as values for a JSON array.
pub fn json(diagnostics: &[Diagnostic], source: &SourceText) -> Vec<serde_json::Value> {
    diagnostics
        .iter()
        .map(|diagnostic| serde_json::to_value(JsonDiagnostic::new(diagnostic, source)).expect("plain data is JSON"))
        .collect()
}

#[derive(Serialize)]
struct JsonDiagnostic<'a> {
    code: &'static str,
    severity: &'static str,
    message: &'a str,
    #[serde(flatten)]
    place: JsonPlace<'a>,
    help: Option<&'a str>,
    related: Vec<JsonRelated<'a>>,
}

#[derive(Serialize)]
struct JsonPlace<'a> {
    file: &'a str,
    line: Option<usize>,
    column: Option<usize>,
    end_line: Option<usize>,
    end_column: Option<usize>,
}

#[derive(Serialize)]
struct JsonRelated<'a> {
    message: &'a str,
    #[serde(flatten)]
    place: JsonPlace<'a>,
}

impl<'a> JsonDiagnostic<'a> {
    fn new(diagnostic: &'a Diagnostic, source: &'a SourceText) -> Self {
        let related = |label: &'a Label| JsonRelated { message: &label.text, place: place(Some(label), source) };
        Self {
            code: diagnostic.code.word(),
            severity: diagnostic.severity().word(),
            message: &diagnostic.message,
            place: place(diagnostic.primary.as_deref(), source),
            help: diagnostic.help.as_deref(),
            related: diagnostic.related.iter().map(related).collect(),
        }
    }
}

fn place<'a>(label: Option<&Label>, source: &'a SourceText) -> JsonPlace<'a> {
    let start = label.map(|label| source.position(label.span.start));
    let end = label.map(|label| source.position(label.span.end));
    JsonPlace {
        file: source.file_at(label.map_or(0, |label| label.span.start)).0.name(),
        line: start.map(|position| position.line),
        column: start.map(|position| position.column),
        end_line: end.map(|position| position.line),
        end_column: end.map(|position| position.column),
    }
}

/// What miette draws.
#[derive(Debug)]
struct Drawn<'a> {
    diagnostic: &'a Diagnostic,
    source: NamedSource<String>,
    /// The offset of its first byte.
    start: usize,
    /// With the places in other files; may be empty.
    help: String,
    /// The places in the same file.
    related: Vec<&'a Label>,
    /// The place in words, where the line is not to be shown.
    instead_of_picture: Option<String>,
}

/// A line that is longer than this is no help to anybody. Bytes.
const LONGEST_LINE: usize = 1000;

/// A place in another file.
fn in_words(label: &Label, source: &SourceText) -> String {
    let position = source.position(label.span.start);
    let name = source.file_at(label.span.start).0.name();
    let text = if label.text.is_empty() { "see" } else { &label.text };
    format!("{text}: {name}:{}:{}", position.line, position.column)
}

/// The place, if its line is too long, or has a secret.
fn place_in_words(diagnostic: &Diagnostic, source: &SourceText) -> Option<String> {
    let length_around = |offset: usize| {
        let (file, first) = source.file_at(offset);
        let (text, offset) = (file.text(), offset - first);
        let start = text[..offset].rfind('\n').map_or(0, |at| at + 1);
        text[offset..].find('\n').map_or(text.len(), |at| offset + at) - start
    };
    let primary = diagnostic.primary.as_deref()?;
    let mut labels = std::iter::once(primary).chain(&diagnostic.related);
    if !diagnostic.has_secret && labels.all(|label| length_around(label.span.start) <= LONGEST_LINE) {
        return None;
    }
    let position = source.position(primary.span.start);
    let name = source.file_at(primary.span.start).0.name();
    Some(format!("{name}:{}:{}", position.line, position.column))
}

impl std::fmt::Display for Drawn<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.diagnostic.message)?;
        self.instead_of_picture.as_ref().map_or(Ok(()), |place| write!(f, " (at {place})"))
    }
}

impl std::error::Error for Drawn<'_> {}

impl miette::Diagnostic for Drawn<'_> {
    fn code<'a>(&'a self) -> Option<Box<dyn std::fmt::Display + 'a>> {
        Some(Box::new(self.diagnostic.code.word()))
    }

    fn severity(&self) -> Option<miette::Severity> {
        Some(match self.diagnostic.severity() {
            Severity::Error => miette::Severity::Error,
            Severity::Warning => miette::Severity::Warning,
        })
    }

    fn help<'a>(&'a self) -> Option<Box<dyn std::fmt::Display + 'a>> {
        (!self.help.is_empty()).then(|| Box::new(&self.help) as Box<dyn std::fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn miette::SourceCode> {
        let has_picture = self.diagnostic.primary.is_some() && self.instead_of_picture.is_none();
        has_picture.then_some(&self.source as &dyn miette::SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let primary = self.diagnostic.primary.as_deref().filter(|_| self.instead_of_picture.is_none())?;
        let text = |label: &Label| (!label.text.is_empty()).then(|| label.text.clone());
        let start = self.start;
        let first = LabeledSpan::new_primary_with_span(text(primary), (primary.span.start - start, primary.span.len()));
        let others = self.related.iter();
        let others = others.map(move |label| LabeledSpan::new(text(label), label.span.start - start, label.span.len()));
        Some(Box::new(std::iter::once(first).chain(others)))
    }
}
