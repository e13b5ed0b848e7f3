//! [`Edits`]: what `--update` changes in a test file, and nothing around it.

use super::table::Table;
use super::yaml_text::mapping;
use crate::diagnostic::{SourceText, Span};
use crate::spec::Test;
use crate::spec::model::CountSpec;
use crate::spec::tree::Value;

/// More rows than these belong into a file of their own.
const MOST_ROWS: usize = 1000;

/// Changes of a text.
#[derive(Clone, Debug, Default)]
pub struct Edits {
    edits: Vec<(Span, String)>,
}

impl Edits {
    pub fn is_empty(&self) -> bool {
        self.edits.is_empty()
    }

    /// Lets a test expect these rows, of which it names as many columns as before; all of them, if it named none.
    ///
    /// # Errors
    /// Why that cannot be written.
    pub fn rows(&mut self, source: &SourceText, test: &Test, of: &str, actual: &Table) -> Result<(), String> {
        let Some(node) = test.rows("expect", of) else { return Ok(()) };
        if node.alias.is_some() || test.node.alias.is_some() {
            return Err("they stand in an anchor, which others may use".to_owned());
        }
        if actual.rows.len() > MOST_ROWS {
            return Err(format!("they are {}: expect them in a `file`", actual.rows.len()));
        }
        let options = test.spec.expect.as_ref().and_then(|expect| expect.get(of)).map(|expect| expect.options());
        let written = Table::written(&options.and_then(|options| options.rows).unwrap_or_default());
        let named: Vec<&str> = written.names().filter(|name| actual.column(name).is_some()).collect();
        let actual = if named.is_empty() { actual.clone() } else { actual.select(named.into_iter()) };
        let rows: Vec<String> = actual.rows.iter().map(|row| mapping(actual.names().zip(row))).collect();
        let column = |at: usize| source.position(at).column - 1;
        let is_long = test.node.get("expect").and_then(|expect| expect.get(of)?.get("rows")).is_some();
        let key = if is_long { test.key_span(&["expect", of, "rows"]) } else { test.key_span(&["expect", of]) };
        let place = after_key(source, key, node.span);
        let has_comment = source.slice(Span::new(key.end, place.start)).contains('#');
        if rows.is_empty() && has_comment {
            let indent = " ".repeat(column(key.start) + 2);
            self.edits.push((place, format!("\n{indent}[]")));
        } else if rows.is_empty() {
            self.edits.push((place, " []".to_owned()));
        } else if Self::is_in_flow(source, test, of) {
            self.edits.push((node.span, format!("[{}]", rows.join(", "))));
        } else {
            let is_block = source.slice(node.span).starts_with('-');
            let indent = " ".repeat(if is_block { column(node.span.start) } else { column(key.start) + 2 });
            let lines: String = rows.iter().map(|row| format!("\n{indent}- {row}")).collect();
            self.edits.push((place, lines));
        }
        Ok(())
    }

    /// Lets a test expect so many rows. Limits stay as they are.
    ///
    /// # Errors
    /// Why that cannot be written.
    pub fn count(&mut self, test: &Test, of: &str, count: u64) -> Result<(), String> {
        let options = test.spec.expect.as_ref().and_then(|expect| expect.get(of)).map(|expect| expect.options());
        match options.and_then(|options| options.count) {
            Some(CountSpec::Exactly(_)) => {
                self.edits.push((test.span(&["expect", of, "count"]), count.to_string()));
                Ok(())
            }
            _ => Err("the limits of a number of rows are yours to change".to_owned()),
        }
    }

    /// The text with all changes.
    pub fn apply(mut self, source: &SourceText) -> String {
        self.edits.sort_by_key(|(span, _)| *span);
        let mut text = source.text().to_owned();
        for (span, new) in self.edits.into_iter().rev() {
            text.replace_range(span.start..span.end, &new);
        }
        text
    }

    /// Whether the rows stand inside brackets, where there are no lists of lines.
    fn is_in_flow(source: &SourceText, test: &Test, of: &str) -> bool {
        let expect = test.node.get("expect");
        // A list is written anew whatever it looks like; the first thing in it may be in brackets.
        let value = expect.and_then(|expect| expect.get(of)).filter(|node| !matches!(node.value, Value::Sequence(_)));
        let around = [Some(&test.node), expect, value];
        around.into_iter().flatten().any(|node| source.slice(node.span).starts_with('{'))
    }
}

/// From behind the colon of a key to the end of its value.
fn after_key(source: &SourceText, key: Span, value: Span) -> Span {
    let between = source.slice(Span::new(key.end, value.start));
    let colon = between.find(':').map_or(0, |at| at + 1);
    // A comment behind the key stays where it is.
    let start = match between[colon..].find('#') {
        Some(_) => key.end + between.trim_end().len(),
        None => key.end + colon,
    };
    Span::new(start.min(value.start), value.end)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Map, Value as Json, json};

    use super::*;
    use crate::spec::parse_tests;

    fn updated(text: &str, rows: &[Json]) -> String {
        let source = Arc::new(SourceText::new("a.test.yaml", "/a.test.yaml", text));
        let file = parse_tests(&source).expect("a test file");
        let rows: Vec<Map<String, Json>> = rows.iter().map(|row| row.as_object().expect("an object").clone()).collect();
        let mut edits = Edits::default();
        for test in &file.tests {
            edits.rows(&source, test, "x", &Table::written(&rows)).expect("they can be written");
        }
        let text = edits.apply(&source);
        let source = Arc::new(SourceText::new("a.test.yaml", "/a.test.yaml", &text));
        let again = parse_tests(&source).unwrap_or_else(|problems| panic!("{problems:?}\n{text}"));
        for test in &again.tests {
            let rows_now = test.rows("expect", "x").expect("rows").to_json();
            assert_eq!(rows_now.as_array().expect("a list").len(), rows.len(), "{text}");
        }
        text
    }

    #[test]
    fn a_list_that_is_not_indented_stays_a_list() {
        let text = "version: 1\ntests:\n  one:\n    given: { s: [{ a: 1 }] }\n    expect:\n      x:\n      - {a: 7}\n      other: { count: 1 }\n";
        let after = updated(text, &[json!({"a": 1}), json!({"a": 2})]);
        let file = parse_tests(&Arc::new(SourceText::new("a.test.yaml", "/a.test.yaml", &after)));
        assert!(file.is_ok(), "{after}");
        assert!(after.contains("x:\n        - { a: 1 }\n        - { a: 2 }\n      other:"), "{after}");
    }

    #[test]
    fn only_the_rows_change_in_whatever_form_they_stand() {
        let text = "\
# above
version: 1
tests:
  block: # one
    expect:
      x: # rows
        - { a: 1 } # gone
        - a: 2
      # between
      y: { count: 1 }
  long:
    expect:
      x:
        order: any
        rows: []
        # below
  short: { expect: { x: [{ b: no }] } }
";
        insta::assert_snapshot!(updated(text, &[json!({ "a": 3, "b": "x: y" })]), @r#"
        # above
        version: 1
        tests:
          block: # one
            expect:
              x: # rows
                - { a: 3 }
              # between
              y: { count: 1 }
          long:
            expect:
              x:
                order: any
                rows:
                  - { a: 3, b: "x: y" }
                # below
          short: { expect: { x: [{ b: "x: y" }] } }
        "#);
        insta::assert_snapshot!(updated(text, &[]), @r"
        # above
        version: 1
        tests:
          block: # one
            expect:
              x: # rows
                []
              # between
              y: { count: 1 }
          long:
            expect:
              x:
                order: any
                rows: []
                # below
          short: { expect: { x: [] } }
        ");
    }
}
