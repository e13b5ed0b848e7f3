//! Printing: what goes to standard output and standard error, and what the terminal can show.

use std::io::{ErrorKind, IsTerminal, Write};

use super::args::DiagnosticFormat;
use super::exit_code::Exit;
use crate::diagnostic::render::{self, Style};
use crate::diagnostic::{Diagnostic, SourceText, annotation, sarif};
use crate::secrets::masked;
use crate::testing::Paint;

/// Widest text: longer lines are hard to read.
const MAX_WIDTH: usize = 120;

/// Prints to standard output. A reader that has gone away ends the program quietly.
pub fn print(text: &str) -> Exit {
    let mut out = std::io::stdout().lock();
    match out.write_all(masked(text).as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Exit::Success,
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Exit::Success,
        Err(error) => {
            complain(&format!("cannot write to standard output: {error}"));
            Exit::InputOutput
        }
    }
}

/// Prints one error that is not about a place in a file.
pub fn complain(message: &str) {
    eprint(&format!("error: {message}\n"));
}

/// Prints an error of a file or of the system, which ends the program.
pub fn failed(error: &impl std::fmt::Display) -> Exit {
    complain(&error.to_string());
    Exit::InputOutput
}

/// Prints one warning that is not about a place in a file.
pub fn warn(message: &str) {
    eprint(&format!("warning: {message}\n"));
}

/// Whether what is printed to standard output has colours.
pub fn paint() -> Paint {
    if std::io::stdout().is_terminal() && wants_color() { Paint::Colored } else { Paint::Plain }
}

fn wants_color() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Diagnostics as a part of what is printed to standard output or written to a file.
pub fn drawn(diagnostics: &[Diagnostic], source: &SourceText) -> String {
    render::human(diagnostics, source, Style { color: false, width: MAX_WIDTH })
}

/// Diagnostics in one of the formats for programs.
pub fn for_programs(format: DiagnosticFormat, diagnostics: &[Diagnostic], source: &SourceText) -> String {
    match format {
        DiagnosticFormat::Human => drawn(diagnostics, source),
        DiagnosticFormat::Json => format!("{:#}\n", serde_json::Value::Array(render::json(diagnostics, source))),
        DiagnosticFormat::Sarif => format!("{:#}\n", sarif(&[Ok((source, diagnostics))])),
        DiagnosticFormat::Github => diagnostics.iter().map(|problem| annotation(problem, source)).collect(),
    }
}

/// Prints diagnostics to standard error.
pub fn report(diagnostics: &[Diagnostic], source: &SourceText) {
    let stderr = std::io::stderr();
    let color = stderr.is_terminal() && wants_color();
    let size = rustix::termios::tcgetwinsize(&stderr).map(|size| usize::from(size.ws_col)).ok();
    let width = size.filter(|width| *width > 0).unwrap_or(MAX_WIDTH).min(MAX_WIDTH);
    eprint(&render::human(diagnostics, source, Style { color, width }));
}

/// Prints to standard error.
pub fn eprint(text: &str) {
    // There is nowhere left to report that standard error cannot be written.
    let _ = std::io::stderr().lock().write_all(masked(text).as_bytes());
}
