//! `--params-file`: params from a file.

use std::path::Path;
use std::sync::Arc;

use super::exit_code::Exit;
use super::output;
use crate::diagnostic::{Diagnostic, SourceText};
use crate::spec::tree::{Node, Value};
use crate::spec::yaml;

/// The params in a file, as if they were given with `--set`; prints why there are none.
///
/// # Errors
/// How the program should end if the file cannot be read, or is no mapping of scalars.
pub fn read(file: &Path) -> Result<Vec<(String, String)>, Exit> {
    let complain = |problem: &str| {
        output::complain(&format!("--params-file `{}`: {problem}", file.display()));
        Exit::Usage
    };
    let source = Arc::new(SourceText::read(file).map_err(|error| complain(&error.to_string()))?);
    // JSON is YAML.
    let (root, problems) = yaml::parse(&source);
    if problems.iter().any(Diagnostic::is_error) {
        output::report(&problems, &source);
        return Err(Exit::Usage);
    }
    let root = root.filter(|root| matches!(root.value, Value::Mapping(_)));
    let root = root.ok_or_else(|| complain("it must be a mapping from names of params to values"))?;
    let value = |node: &Node| match &node.value {
        Value::String(text) => Some(text.text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Null | Value::Sequence(_) | Value::Mapping(_) | Value::Unresolved(_) => None,
    };
    let entries = root.entries().iter().filter(|entry| !entry.key.name.starts_with("x-"));
    entries
        .map(|entry| {
            let name = &entry.key.name;
            let text = value(&entry.value).ok_or_else(|| {
                complain(&format!("the value of `{name}` is {}, and not a scalar", entry.value.type_word()))
            })?;
            Ok((name.clone(), text))
        })
        .collect()
}
