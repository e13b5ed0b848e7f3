//! A command that is run for each row: the row's values in its arguments or its environment, and the row that comes of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};

use super::resident::failure;
use crate::format::column_type;
use crate::plan::columns::row_command_columns;
use crate::plan::{Piece, Template, Verdict};
use crate::run::scheduler::{Failure, Scope};

/// What became of the process of a row.
#[derive(Debug)]
pub struct Ran {
    pub stdout: String,
    pub stderr: String,
    pub exit_code: i32,
    pub time: Duration,
}

/// The columns of the output for these columns of the input.
///
/// # Errors
/// If the input has a column of the same name.
pub fn columns(input: &Schema) -> Result<SchemaRef, Failure> {
    row_command_columns(input).map_err(|name| {
        let message = format!(
            "the rows have a column `{name}` already, which the command would give; rename it in front of the stage"
        );
        failure(Scope::Opening, Verdict::Schema, message)
    })
}

/// The row with what its command gave.
///
/// # Errors
/// As [`columns`].
pub fn output(row: &RecordBatch, ran: Ran) -> Result<RecordBatch, Failure> {
    let schema = columns(row.schema_ref())?;
    let gained: [ArrayRef; 4] = [
        Arc::new(StringArray::from(vec![ran.stdout])),
        Arc::new(StringArray::from(vec![ran.stderr])),
        Arc::new(Int64Array::from(vec![i64::from(ran.exit_code)])),
        Arc::new(Float64Array::from(vec![ran.time.as_secs_f64()])),
    ];
    let values = row.columns().iter().cloned().chain(gained).collect();
    RecordBatch::try_new(schema, values)
        .map_err(|error| failure(Scope::Internal, Verdict::Exception, format!("the row cannot be made: {error}")))
}

/// Program and arguments for the only row of `row`.
///
/// # Errors
/// If a template asks for a column that is not there, or whose value is no text.
pub fn arguments(templates: &[Template], row: &RecordBatch) -> Result<Vec<String>, Failure> {
    templates
        .iter()
        .map(|template| {
            let pieces = template.pieces.iter().map(|piece| match piece {
                Piece::Text(text) => Ok(text.clone()),
                Piece::Column(column) => value(row, column),
            });
            pieces.collect()
        })
        .collect()
}

/// The columns of the row that a script names, as environment variables. What the script does not name stays out: a column may be
/// called like a variable that changes how programs work.
///
/// # Errors
/// If a value is no text.
pub fn variables(script: &str, row: &RecordBatch) -> Result<BTreeMap<String, String>, Failure> {
    let is_part = |character: char| character.is_ascii_alphanumeric() || character == '_';
    let words: std::collections::BTreeSet<&str> = script.split(|character| !is_part(character)).collect();
    let schema = row.schema_ref();
    let named = schema.fields().iter().map(|field| field.name()).filter(|name| words.contains(name.as_str()));
    named.filter(|name| !name.is_empty()).map(|name| Ok((name.clone(), value(row, name)?))).collect()
}

fn value(row: &RecordBatch, column: &str) -> Result<String, Failure> {
    let schema = row.schema_ref();
    let Ok(index) = schema.index_of(column) else {
        let columns: Vec<String> = schema.fields().iter().map(|field| format!("`{}`", field.name())).collect();
        let message = format!(
            "there is no column `{column}` for the argument; the columns are {}; write `{{{{` for a brace as it is",
            columns.join(", ")
        );
        return Err(failure(Scope::Opening, Verdict::Schema, message));
    };
    let values = row.column(index);
    if values.data_type().is_nested() || matches!(values.data_type(), DataType::Binary | DataType::LargeBinary) {
        let message = format!(
            "the column `{column}` is {}, which is no text for an argument",
            column_type::name(values.data_type())
        );
        return Err(failure(Scope::Opening, Verdict::Schema, message));
    }
    if values.is_null(0) {
        return Ok(String::new());
    }
    let options = FormatOptions::default();
    let shown = ArrayFormatter::try_new(values, &options).and_then(|formatter| formatter.value(0).try_to_string());
    let text = shown.map_err(|error| {
        failure(Scope::Rows, Verdict::Schema, format!("the column `{column}` cannot be shown as text: {error}"))
    })?;
    if text.contains('\0') {
        let message = format!("the column `{column}` holds a zero byte, which cannot be passed to a command");
        return Err(failure(Scope::Rows, Verdict::Schema, message));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> RecordBatch {
        let columns: [(&str, ArrayRef); 4] = [
            ("id", Arc::new(Int64Array::from(vec![7]))),
            ("a b", Arc::new(StringArray::from(vec!["x; rm -rf \"$HOME\""]))),
            ("gone", Arc::new(StringArray::from(vec![None::<&str>]))),
            ("PATH", Arc::new(StringArray::from(vec!["/tmp"]))),
        ];
        RecordBatch::try_from_iter(columns).expect("columns of one length")
    }

    fn templates(arguments: &[&str]) -> Vec<Template> {
        arguments.iter().map(|argument| Template::parse(argument).expect("a template")).collect()
    }

    #[test]
    fn values_become_parts_of_arguments_and_never_more() {
        let arguments = arguments(&templates(&["f", "--id={id}", "{a b}", "{{{gone}}}"]), &row());
        assert_eq!(arguments.expect("text"), ["f", "--id=7", "x; rm -rf \"$HOME\"", "{}"]);
    }

    #[test]
    fn an_unknown_column_stops_the_stage() {
        let failure = arguments(&templates(&["{ID}"]), &row()).expect_err("no such column");
        assert_eq!((failure.scope, failure.verdict), (Scope::Opening, Verdict::Schema));
        assert!(failure.message.contains("`id`, `a b`"), "{}", failure.message);
    }

    #[test]
    fn a_script_sees_the_columns_that_it_names() {
        let variables = variables("echo \"$id\" \"${gone}\" $PATHS", &row()).expect("text");
        assert_eq!(variables, BTreeMap::from([("id".to_owned(), "7".to_owned()), ("gone".to_owned(), String::new())]));
    }

    #[test]
    fn a_row_keeps_its_columns_and_gains_four() {
        let ran = || Ran { stdout: "o".into(), stderr: "e".into(), exit_code: 0, time: Duration::from_millis(500) };
        let output = output(&row(), ran()).expect("a row");
        assert_eq!((output.num_rows(), output.num_columns()), (1, 8));
        assert!(super::output(&output, ran()).expect_err("taken").message.contains("a column `stdout` already"));
    }
}
