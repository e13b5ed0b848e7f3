//! [`Diagnostic`]: one problem in a file, with its places and the way out.

use super::{Code, Span};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    Error,
    Warning,
}

impl Severity {
    pub fn word(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// A place and what there is to say about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    pub span: Span,
    /// May be empty.
    pub text: String,
}

/// One problem in a file. The severity follows from the code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    pub code: Code,
    /// Lower case, no full stop.
    pub message: String,
    /// The place of the problem; `None` for problems of the command line. Boxed, as diagnostics are the errors of results.
    pub primary: Option<Box<Label>>,
    /// Other places that explain it.
    pub related: Vec<Label>,
    pub help: Option<String>,
    /// Where the place is used, if it lies inside an anchor that was reached through an alias.
    pub alias: Option<Span>,
    /// Whether a secret may stand in the lines of its places, which are not shown then.
    pub has_secret: bool,
}

impl Diagnostic {
    pub fn new(code: Code, span: Span, message: impl Into<String>) -> Self {
        Self { primary: Some(Box::new(Label { span, text: String::new() })), ..Self::without_place(code, message) }
    }

    /// A problem of what was given beside the file.
    pub fn without_place(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            primary: None,
            related: Vec::new(),
            help: None,
            alias: None,
            has_secret: false,
        }
    }

    /// Says something at the primary place.
    #[must_use]
    pub fn label(mut self, text: impl Into<String>) -> Self {
        if let Some(primary) = &mut self.primary {
            primary.text = text.into();
        }
        self
    }

    #[must_use]
    pub fn related(mut self, span: Span, text: impl Into<String>) -> Self {
        self.related.push(Label { span, text: text.into() });
        self
    }

    #[must_use]
    pub fn help(mut self, help: impl Into<Option<String>>) -> Self {
        self.help = help.into();
        self
    }

    /// Says through which alias the place was reached.
    #[must_use]
    pub fn through(mut self, alias: Option<Span>) -> Self {
        self.alias = alias;
        self
    }

    pub fn severity(&self) -> Severity {
        self.code.severity()
    }

    pub fn is_error(&self) -> bool {
        self.severity() == Severity::Error
    }

    pub fn span(&self) -> Option<Span> {
        self.primary.as_ref().map(|label| label.span)
    }
}

/// Sorts by place and reports what is wrong inside an anchor once, however often it is used: with the place of the
/// definition, and every use as a related place.
pub fn sort_and_merge(diagnostics: Vec<Diagnostic>) -> Vec<Diagnostic> {
    let mut merged: Vec<Diagnostic> = Vec::new();
    for mut diagnostic in diagnostics {
        let alias = diagnostic.alias;
        let same_place = |other: &&mut Diagnostic| other.code == diagnostic.code && other.span() == diagnostic.span();
        let first = merged.iter_mut().find(same_place).filter(|first| {
            first.message == diagnostic.message || (first.alias != alias && (first.alias.is_some() || alias.is_some()))
        });
        match (first, alias) {
            (Some(first), Some(alias)) => add_use(first, alias),
            (Some(_), None) => {}
            (None, alias) => {
                if let Some(alias) = alias {
                    add_use(&mut diagnostic, alias);
                }
                merged.push(diagnostic);
            }
        }
    }
    merged.sort_by_key(|diagnostic| (diagnostic.span(), diagnostic.code));
    merged
}

fn add_use(diagnostic: &mut Diagnostic, alias: Span) {
    if diagnostic.related.iter().all(|label| label.span != alias) {
        diagnostic.related.push(Label { span: alias, text: "used here".to_owned() });
    }
}
