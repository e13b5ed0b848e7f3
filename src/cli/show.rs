//! `millpond show`: the first rows of a stage.

use std::path::Path;

use super::args::{DiagnosticFormat, Progress, RowsFormat, RunArgs, ShowArgs};
use super::exit_code::Exit;
use super::load::Extent;
use super::{output, run};
use crate::plan::{Asked, LogLevel};
use crate::report;
use crate::spec::model::FormatSpec;

pub fn show(args: &ShowArgs) -> Exit {
    match args.format {
        RowsFormat::Table => table(args),
        RowsFormat::Jsonl => run_for(args, "-", FormatSpec::Jsonl),
        RowsFormat::Csv => run_for(args, "-", FormatSpec::Csv),
    }
}

/// The types of columns, and how wide they are, are known when the last row has come.
fn table(args: &ShowArgs) -> Exit {
    let folder = match tempfile::tempdir() {
        Ok(folder) => folder,
        Err(error) => return run::exit_on_shortage(&error),
    };
    let rows = folder.path().join("rows.arrow");
    let exit = run_for(args, &rows.to_string_lossy(), FormatSpec::Arrow);
    if exit == Exit::Success { print(&rows) } else { exit }
}

fn print(rows: &Path) -> Exit {
    match report::rows(rows) {
        Ok(table) => output::print(&table),
        Err(error) => output::failed(&error),
    }
}

fn run_for(args: &ShowArgs, to: &str, format: FormatSpec) -> Exit {
    let asked = Asked { of: args.stage.clone(), limit: Some(args.limit), to: to.to_owned(), format };
    let run = RunArgs {
        file: args.file.clone(),
        params: args.params.clone(),
        workers: args.workers.clone(),
        progress: Progress::None,
        until: None,
        dry_run: false,
        watch: false,
        sample: None,
        timeout: None,
        summary: None,
        format: DiagnosticFormat::Human,
        debug: false,
        log_level: LogLevel::default(),
        chaos: None,
        chaos_rate: 0.0,
        force: Vec::new(),
        resume: None,
        rejected: None,
        state: args.state.clone(),
    };
    run::run_of(&run, Extent::Rows(&asked))
}
