//! [`sarif`]: diagnostics of many files in the Static Analysis Results Interchange Format.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};

use super::explanation::Explanation;
use super::{Code, Diagnostic, Label, SourceText, SourceTextError};

const SCHEMA: &str = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json";

/// One log with one run, SARIF 2.1.0: a result for each problem, a rule for each code that has one.
pub fn sarif(checked: &[Result<(&SourceText, &[Diagnostic]), &SourceTextError>]) -> Value {
    let mut codes = BTreeSet::new();
    let mut results = Vec::new();
    let mut has_unreadable = false;
    for file in checked {
        match file {
            Ok((source, problems)) => {
                codes.extend(problems.iter().map(|problem| problem.code));
                results.extend(problems.iter().map(|problem| result(problem, source)));
            }
            Err(error) => {
                has_unreadable = true;
                let place = json!({"physicalLocation": {"artifactLocation": {"uri": uri(error.path())}}});
                results.push(json!({
                    "ruleId": SourceTextError::CODE, "level": "error", "message": {"text": error.to_string()}, "locations": [place],
                }));
            }
        }
    }
    let mut rules: Vec<Value> = codes.into_iter().map(rule).collect();
    if has_unreadable {
        rules.push(json!({"id": SourceTextError::CODE, "fullDescription": {"text": "The file cannot be read."}}));
    }
    let driver = json!({"name": "millpond", "version": env!("CARGO_PKG_VERSION"), "rules": rules});
    json!({
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}],
    })
}

fn rule(code: Code) -> Value {
    json!({
        "id": code.word(),
        "fullDescription": {"text": Explanation::of(code).text},
        "defaultConfiguration": {"level": code.severity().word()},
    })
}

fn result(problem: &Diagnostic, source: &SourceText) -> Value {
    let text =
        problem.help.as_ref().map_or_else(|| problem.message.clone(), |help| format!("{} ({help})", problem.message));
    let related: Vec<Value> = problem
        .related
        .iter()
        .enumerate()
        .map(|(at, label)| {
            let mut place = location(Some(label), source);
            place["id"] = json!(at);
            place["message"] = json!({"text": label.text});
            place
        })
        .collect();
    json!({
        "ruleId": problem.code.word(),
        "level": problem.severity().word(),
        "message": {"text": text},
        "locations": [location(problem.primary.as_deref(), source)],
        "relatedLocations": related,
    })
}

fn location(label: Option<&Label>, source: &SourceText) -> Value {
    let name = source.file_at(label.map_or(0, |label| label.span.start)).0.name();
    let mut place = json!({"artifactLocation": {"uri": uri(Path::new(name))}});
    if let Some(label) = label {
        let (start, end) = (source.position(label.span.start), source.position(label.span.end));
        place["region"] =
            json!({"startLine": start.line, "startColumn": start.column, "endLine": end.line, "endColumn": end.column});
    }
    json!({"physicalLocation": place})
}

/// A path as a reference: relative to where the program was started, if the path is.
fn uri(path: &Path) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/!$&'()*+,;=@".contains(&byte);
    let text = path.to_string_lossy();
    let escaped: String = text
        .bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect();
    if path.is_absolute() { format!("file://{escaped}") } else { escaped }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_references() {
        assert_eq!(uri(Path::new("a b/ä:1.yaml")), "a%20b/%C3%A4%3A1.yaml");
        assert_eq!(uri(Path::new("/a/b.yaml")), "file:///a/b.yaml");
    }
}
