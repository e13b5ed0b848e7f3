//! What `run FILE --help` says of the params of a pipeline, after the options.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::{load, output};
use crate::diagnostic::SourceText;
use crate::spec::{self, Completeness, Param};

/// Prints the params of the pipeline that is named on the command line, if there is one. A file that is wrong is told as far as it can be read:
/// help is no check.
pub fn print(args: &[OsString]) {
    let mut words = args.iter().skip(1);
    if words.next().is_none_or(|command| command != "run") {
        return;
    }
    let Some(file) = words.map(Path::new).find(|word| word.is_file()) else { return };
    let Ok(source) = SourceText::read(file) else { return };
    let Ok(given) = load::surroundings(Vec::new(), 0, None, Completeness::Partial) else { return };
    let params = spec::parse(&Arc::new(source), &given).params;
    if !params.is_empty() {
        output::print(&text(file, &params));
    }
}

fn text(file: &Path, params: &[Param]) -> String {
    let names: Vec<String> = params
        .iter()
        .map(|param| format!("{}=<{}>", param.name, param.kind.map_or("value", |kind| kind.word())))
        .collect();
    let width = names.iter().map(String::len).max().unwrap_or_default();
    let mut text = format!("\nParams of {}, set with --set NAME=VALUE or --params-file:\n", file.display());
    for (name, param) in names.iter().zip(params) {
        let line = format!("  {name:width$}  {}", words(param));
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// What there is to say of a param.
fn words(param: &Param) -> String {
    let shown = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let allowed = &param.allowed;
    let bounds = match (&allowed.min, &allowed.max) {
        (Some(min), Some(max)) => Some(format!("[{min} to {max}]")),
        (Some(min), None) => Some(format!("[at least {min}]")),
        (None, Some(max)) => Some(format!("[at most {max}]")),
        (None, None) => None,
    };
    let default = match &param.default {
        _ if param.required => Some("[required]".to_owned()),
        Some(default) => Some(format!("[default: {}]", shown(default))),
        // It depends on the environment.
        None => None,
    };
    let choices = allowed
        .choices
        .as_ref()
        .map(|choices| format!("[possible values: {}]", choices.iter().map(shown).collect::<Vec<_>>().join(", ")));
    let parts = [param.description.clone(), default, choices, bounds];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" ").replace('\n', " ")
}
