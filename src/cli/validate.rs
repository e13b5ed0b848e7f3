//! `millpond validate`: everything that is wrong with pipeline files, in one pass.

use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;
use serde_json::{Value, json};

use super::args::{DiagnosticFormat, ValidateArgs};
use super::exit_code::Exit;
use super::{load, output, test};
use crate::diagnostic::{Diagnostic, Severity, SourceText, SourceTextError, annotation, render, sarif};
use crate::plan;
use crate::spec::{self, Completeness, Given};
use crate::sql;

type Checked = Result<(Arc<SourceText>, Vec<Diagnostic>), SourceTextError>;

pub fn validate(args: &ValidateArgs) -> Exit {
    let given = match load::given(&args.params, Completeness::Partial) {
        Ok(given) => given,
        Err(exit) => return exit,
    };
    let check_all = || args.files.par_iter().map(|file| check(file, &given)).collect::<Vec<Checked>>();
    // Of many files, most have queries: a stack for each file would take longer than to check it.
    let threads = rayon::ThreadPoolBuilder::new().num_threads(load::cores().get() as usize).stack_size(sql::ROOM);
    let checked = threads.build().map_or_else(|_| check_all(), |threads| threads.install(check_all));
    let exit = checked.iter().map(exit_of).find(|exit| *exit != Exit::Success).unwrap_or(Exit::Success);
    let printed = match args.format {
        DiagnosticFormat::Human => human(&checked),
        DiagnosticFormat::Json => json_text(&checked),
        DiagnosticFormat::Sarif => sarif_text(&checked),
        DiagnosticFormat::Github => annotations(&checked),
    };
    if exit == Exit::Success { printed } else { exit }
}

fn check(file: &Path, given: &Given) -> Checked {
    let source = Arc::new(SourceText::read(file)?);
    if test::is_test_file(file) {
        let problems = test::problems(&source, given);
        return Ok((source, problems));
    }
    let document = spec::parse(&source, given);
    Ok((source, plan::validate(&document)))
}

fn exit_of(checked: &Checked) -> Exit {
    match checked {
        Ok((_, problems)) if problems.iter().any(Diagnostic::is_error) => Exit::InvalidPipeline,
        Ok(_) => Exit::Success,
        Err(error) => load::unreadable(error),
    }
}

fn human(checked: &[Checked]) -> Exit {
    let mut summary = String::new();
    for checked in checked {
        match checked {
            Ok((source, problems)) => {
                output::report(problems, source);
                summary.push_str(&format!("{}: {}\n", source.name(), verdict(problems)));
            }
            Err(error) => output::complain(&error.to_string()),
        }
    }
    output::print(&summary)
}

fn verdict(problems: &[Diagnostic]) -> String {
    let count = |severity| problems.iter().filter(|problem| problem.severity() == severity).count();
    match (count(Severity::Error), count(Severity::Warning)) {
        (0, 0) => "valid".to_owned(),
        (0, warnings) => format!("valid, {}", counted(warnings, "warning")),
        (errors, 0) => counted(errors, "error"),
        (errors, warnings) => format!("{}, {}", counted(errors, "error"), counted(warnings, "warning")),
    }
}

fn counted(count: usize, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

fn json_text(checked: &[Checked]) -> Exit {
    let mut values: Vec<Value> = Vec::new();
    for checked in checked {
        match checked {
            Ok((source, problems)) => values.extend(render::json(problems, source)),
            Err(error) => values.push(json!({
                "code": SourceTextError::CODE, "severity": "error", "message": error.to_string(), "file": error.path(),
                "line": null, "column": null, "end_line": null, "end_column": null, "help": null, "related": [],
            })),
        }
    }
    output::print(&format!("{:#}\n", Value::Array(values)))
}

fn sarif_text(checked: &[Checked]) -> Exit {
    let checked: Vec<_> = checked
        .iter()
        .map(|checked| checked.as_ref().map(|(source, problems)| (source.as_ref(), problems.as_slice())))
        .collect();
    output::print(&format!("{:#}\n", sarif(&checked)))
}

fn annotations(checked: &[Checked]) -> Exit {
    let mut lines = String::new();
    for checked in checked {
        match checked {
            Ok((source, problems)) => lines.extend(problems.iter().map(|problem| annotation(problem, source))),
            Err(error) => output::complain(&error.to_string()),
        }
    }
    output::print(&lines)
}
