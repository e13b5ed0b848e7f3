//! What can be wrong with a query: [`SyntaxError`] before any data is known, [`SqlError`] after.

use arrow::error::ArrowError;
use bytesize::ByteSize;
use datafusion::common::{Column, DataFusionError, SchemaError};
use datafusion::sql::sqlparser::parser::ParserError;
use datafusion::sql::sqlparser::tokenizer::Location;

use super::context::Settings;
use super::type_words::in_words;

/// A text that is not one SQL query. Line and column are 1-based, count from the start of the SQL, and are absent where the
/// parser does not know them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SyntaxError {
    pub message: String,
    pub line: Option<usize>,
    pub column: Option<usize>,
}

impl SyntaxError {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), line: None, column: None }
    }

    /// Adds the position; the parser says 0 where it has none.
    pub(super) fn at(mut self, location: Location) -> Self {
        if location.line > 0 && location.column > 0 {
            self.line = usize::try_from(location.line).ok();
            self.column = usize::try_from(location.column).ok();
        }
        self
    }

    /// The parser gives positions as text: `Expected: an expression, found: FROM at Line: 1, Column: 8`.
    pub(super) fn from_parser(error: ParserError, sql: &str) -> Self {
        let text = match error {
            ParserError::TokenizerError(text) | ParserError::ParserError(text) => text,
            ParserError::RecursionLimitExceeded => return Self::new("the query is nested too deeply"),
        };
        let (message, position) = match text.rsplit_once(" at Line: ") {
            Some((message, position)) => (message, parse_position(position)),
            None => (text.as_str(), None),
        };
        let location = position.unwrap_or_else(|| end_of(sql));
        Self::new(lower_first(&message_of_parser(message))).at(location)
    }
}

fn parse_position(text: &str) -> Option<Location> {
    let (line, column) = text.split_once(", Column: ")?;
    let location = Location { line: line.parse().ok()?, column: column.trim().parse().ok()? };
    (location.line > 0).then_some(location)
}

/// Position behind the last character that is not white space, where an end of text is reported.
fn end_of(sql: &str) -> Location {
    let text = sql.trim_end();
    let last = text.rsplit('\n').next().unwrap_or_default();
    Location { line: text.matches('\n').count() as u64 + 1, column: last.chars().count() as u64 + 1 }
}

/// `Expected: an expression, found: FROM` becomes ``expected an expression, found `FROM` ``.
fn message_of_parser(message: &str) -> String {
    let Some((expected, found)) = message.rsplit_once(", found: ") else { return message.trim().to_owned() };
    let expected = expected.trim().trim_start_matches("Expected: ");
    let expected = if expected.starts_with(char::is_alphabetic) && expected.contains(char::is_lowercase) {
        expected.to_owned()
    } else {
        format!("`{expected}`")
    };
    match found {
        "EOF" => format!("expected {expected}, found the end of the query"),
        found => format!("expected {expected}, found `{found}`"),
    }
}

/// A query that cannot be planned over its tables, or that failed while it ran. The message stands after "failed: ".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SqlError {
    pub message: String,
    pub kind: SqlErrorKind,
}

/// Who must act on an [`SqlError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SqlErrorKind {
    /// The query does not fit its tables or params: unknown columns, wrong types, what the engine cannot do.
    Plan,
    /// A value could not be computed: an overflow, a division by zero, a failed cast.
    Data,
    /// The memory limit was reached by something that cannot spill.
    Memory,
    /// Spilling failed, or reached its limit.
    Disk,
    /// An input was dropped before it ended, as happens when a run is stopped.
    Cancelled,
    /// A fault of the engine or of this program.
    Internal,
}

impl SqlError {
    pub(super) fn new(kind: SqlErrorKind, message: impl Into<String>) -> Self {
        Self { message: message.into(), kind }
    }

    pub(super) fn cancelled() -> Self {
        Self::new(SqlErrorKind::Cancelled, "an input was cut off before its end")
    }

    /// Translates an error of the engine. `settings` gives the limits that messages name.
    pub(super) fn from_engine(error: DataFusionError, settings: Option<&Settings>) -> Self {
        match error {
            DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => {
                Self::from_engine(*inner, settings)
            }
            DataFusionError::Shared(inner) => Self::from_shared(&inner, settings),
            DataFusionError::Collection(errors) => match errors.into_iter().next() {
                Some(first) => Self::from_engine(first, settings),
                None => Self::new(SqlErrorKind::Internal, "the engine reported an empty list of errors"),
            },
            DataFusionError::External(inner) => match inner.downcast::<SqlError>() {
                Ok(own) => *own,
                Err(other) => match other.downcast::<DataFusionError>() {
                    Ok(inner) => Self::from_engine(*inner, settings),
                    Err(other) => Self::new(SqlErrorKind::Internal, sentence(&other.to_string())),
                },
            },
            DataFusionError::ArrowError(error, _) => Self::from_arrow(*error, settings),
            other => Self::from_shared(&other, settings),
        }
    }

    fn from_shared(error: &DataFusionError, settings: Option<&Settings>) -> Self {
        match error {
            DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => {
                Self::from_shared(inner, settings)
            }
            DataFusionError::Shared(inner) => Self::from_shared(inner, settings),
            DataFusionError::SchemaError(error, _) => Self::new(SqlErrorKind::Plan, schema_message(error)),
            DataFusionError::ResourcesExhausted(text) => Self::from_limits(text, settings),
            DataFusionError::IoError(error) => Self::from_disk(&error.to_string(), settings),
            DataFusionError::Plan(text)
            | DataFusionError::NotImplemented(text)
            | DataFusionError::Configuration(text) => Self::new(SqlErrorKind::Plan, plan_message(text)),
            DataFusionError::SQL(error, _) => Self::new(SqlErrorKind::Plan, sentence(&error.to_string())),
            DataFusionError::Execution(text) => Self::new(SqlErrorKind::Data, sentence(text)),
            DataFusionError::ArrowError(error, _) => Self::new(SqlErrorKind::Data, sentence(&error.to_string())),
            DataFusionError::External(error) => match error.downcast_ref::<SqlError>() {
                Some(own) => own.clone(),
                None => Self::new(SqlErrorKind::Internal, sentence(&error.to_string())),
            },
            other => Self::new(SqlErrorKind::Internal, sentence(&other.to_string())),
        }
    }

    fn from_arrow(error: ArrowError, settings: Option<&Settings>) -> Self {
        match error {
            ArrowError::ExternalError(inner) => match inner.downcast::<DataFusionError>() {
                Ok(inner) => Self::from_engine(*inner, settings),
                Err(other) => Self::new(SqlErrorKind::Internal, sentence(&other.to_string())),
            },
            ArrowError::IoError(text, _) => Self::from_disk(&text, settings),
            ArrowError::DivideByZero => Self::new(SqlErrorKind::Data, "division by zero"),
            ArrowError::ArithmeticOverflow(text)
            | ArrowError::CastError(text)
            | ArrowError::ParseError(text)
            | ArrowError::ComputeError(text)
            | ArrowError::InvalidArgumentError(text) => Self::new(SqlErrorKind::Data, sentence(&text)),
            other => Self::new(SqlErrorKind::Data, sentence(&other.to_string())),
        }
    }

    fn from_limits(text: &str, settings: Option<&Settings>) -> Self {
        if text.contains("disk space") || text.contains("max_temp_directory_size") {
            return Self::from_disk(text, settings);
        }
        let limit = settings.map_or_else(String::new, |settings| {
            format!(" of {}", ByteSize::b(settings.memory_limit as u64).display().iec())
        });
        let who = text.split_once(" for ").and_then(|(_, rest)| rest.split([' ', '[']).next());
        let what = match who {
            Some(operator) if !operator.is_empty() => {
                format!(" while running `{operator}`, which could not spill more")
            }
            _ => String::new(),
        };
        let way_out = "; give its stage more with `memory`";
        Self::new(SqlErrorKind::Memory, format!("the query's memory limit{limit} was reached{what}{way_out}"))
    }

    fn from_disk(text: &str, settings: Option<&Settings>) -> Self {
        let limit = settings.map(|settings| ByteSize::b(settings.spill_limit).display().iec().to_string());
        let message = match limit {
            Some(limit) if text.contains("disk space") => format!("spill files reached their limit of {limit}"),
            _ => format!("what does not fit in memory could not be put into the state folder: {}", sentence(text)),
        };
        Self::new(SqlErrorKind::Disk, message)
    }
}

/// Rewords what users meet often; the engine speaks of expressions and positions there.
fn plan_message(text: &str) -> String {
    if text.contains("require unique expression names")
        && let Some(name) = text.split('"').nth(1)
    {
        let name = name.rsplit('.').next().unwrap_or(name);
        return two_columns(name);
    }
    // A list of all that was tried follows, each with a prefix of its own.
    if let Some((function, tried)) = text.split_once(" failed to match any signature, errors:")
        && let Some((_, found)) = tried.split_once("but received ")
    {
        let found = found.split([',', '\n']).next().unwrap_or(found);
        return format!("{} does not take {}", lower_first(function), in_words(found.trim()));
    }
    sentence(text)
}

/// What is wrong with a result in which two columns have one name.
pub(super) fn two_columns(name: &str) -> String {
    format!("two columns are named `{name}`: give one another name with `AS`")
}

fn schema_message(error: &SchemaError) -> String {
    match error {
        SchemaError::FieldNotFound { field, valid_fields } => unknown_column(field, valid_fields),
        SchemaError::AmbiguousReference { field } => {
            format!("column `{}` is in several tables: write `table.{}`", field.name, field.name)
        }
        SchemaError::DuplicateQualifiedField { name, .. } | SchemaError::DuplicateUnqualifiedField { name } => {
            two_columns(name)
        }
    }
}

fn unknown_column(field: &Column, known: &[Column]) -> String {
    let message = format!("no column is named `{}`", field.flat_name());
    let mut names: Vec<&str> = known.iter().map(|column| column.name.as_str()).collect();
    names.dedup();
    match nearest(&field.name, &names) {
        Some(near) => format!("{message}; did you mean `{near}`?"),
        None if names.is_empty() => message,
        None => format!("{message}; there are {}", listed(&names)),
    }
}

/// The name that differs only in case, or else the one with the fewest edits (under 3, and fewer than letters).
fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let same = known.iter().find(|other| other.to_lowercase() == name.to_lowercase());
    same.copied().or_else(|| {
        let distances = known.iter().map(|other| (strsim::osa_distance(name, other), *other));
        distances.filter(|(distance, other)| *distance < 3 && *distance < other.len()).min().map(|(_, other)| other)
    })
}

fn listed(names: &[&str]) -> String {
    const SHOWN: usize = 12;
    let mut list: Vec<String> = names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect();
    if names.len() > SHOWN {
        list.push(format!("{} more", names.len() - SHOWN));
    }
    list.join(", ")
}

/// Cuts the engine's prefixes, notes and backtraces off, starts in lower case, and has the language's words for types.
fn sentence(text: &str) -> String {
    const PREFIXES: &[&str] = &[
        "Error during planning: ",
        "Execution error: ",
        "Arrow error: ",
        "Compute error: ",
        "Cast error: ",
        "Parser error: ",
        "Invalid argument error: ",
        "External error: ",
        "Optimizer rule ",
        "This feature is not implemented: ",
        "Internal error: ",
        "Schema error: ",
        "type_coercion\ncaused by\n",
        "caused by\n",
    ];
    let mut text = text.trim();
    while let Some(rest) = PREFIXES.iter().find_map(|prefix| text.strip_prefix(prefix)) {
        text = rest.trim_start();
    }
    for noise in ["\n\nbacktrace:", "\nThis issue was likely caused by a bug", "\n\nThis was likely caused"] {
        text = text.split(noise).next().unwrap_or(text);
    }
    in_words(&lower_first(text.trim().trim_end_matches('.')))
}

/// Lower-cases the first letter unless the word looks like a name (`NULL`, `Utf8`).
pub(super) fn lower_first(text: &str) -> String {
    let mut letters = text.chars();
    let Some(first) = letters.next() else { return String::new() };
    let word = text.split(|letter: char| !letter.is_alphanumeric()).next().unwrap_or_default();
    if word.chars().skip(1).any(|letter| !letter.is_lowercase()) {
        return text.to_owned();
    }
    first.to_lowercase().chain(letters).collect()
}
