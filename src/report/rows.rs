//! [`rows`]: rows as a table for people.

use std::fs::File;
use std::path::Path;

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use arrow::ipc::reader::FileReader;
use arrow::util::display::{ArrayFormatter, FormatOptions};

use super::reporter::harmless;
use super::words::{counted, table, widths};
use crate::plan::view::type_word;

/// Characters of a value that are shown.
const WIDEST: usize = 60;

/// The rows of a file in Arrow's format, under the names and types of their columns, and how many they are.
///
/// # Errors
/// If the file cannot be read.
pub fn rows(path: &Path) -> Result<String, ArrowError> {
    first_rows(path, usize::MAX)
}

/// The same, but that no more than `most` rows are shown.
///
/// # Errors
/// If the file cannot be read.
pub fn first_rows(path: &Path, most: usize) -> Result<String, ArrowError> {
    let reader = FileReader::try_new(File::open(path)?, None)?;
    let schema = reader.schema();
    let head =
        |text: &dyn Fn(&arrow::datatypes::Field) -> String| schema.fields().iter().map(|field| text(field)).collect();
    let mut lines: Vec<Vec<String>> =
        vec![head(&|field| fitting(field.name(), WIDEST)), head(&|field| type_word(field.data_type()))];
    let (mut all, mut shown) = (0, 0);
    for batch in reader {
        let batch = batch?;
        let first = batch.slice(0, batch.num_rows().min(most - shown));
        all += batch.num_rows();
        shown += first.num_rows();
        add(&first, &mut lines)?;
    }
    let number = counted(all as u64, "row");
    let number = if shown < all { format!("{number}, of which {shown} are shown") } else { number };
    let rule = widths(&lines).into_iter().map(|width| "-".repeat(width)).collect();
    lines.insert(2, rule);
    Ok(format!("{}{number}\n", table(&lines, |_| false)))
}

fn add(batch: &RecordBatch, lines: &mut Vec<Vec<String>>) -> Result<(), ArrowError> {
    let options = FormatOptions::default().with_null("null");
    let columns = batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options));
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    for row in 0..batch.num_rows() {
        let cells = columns.iter().map(|column| column.value(row).try_to_string().map(|text| fitting(&text, WIDEST)));
        lines.push(cells.collect::<Result<_, _>>()?);
    }
    Ok(())
}

/// A value in one line of a terminal, with no more characters than `widest`.
pub fn fitting(text: &str, widest: usize) -> String {
    let text = text.replace('\n', "\\n").replace('\t', "\\t");
    let text = harmless(&text);
    match text.char_indices().nth(widest) {
        None => text.into_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array, StringArray};
    use arrow::ipc::writer::FileWriter;

    use super::*;

    #[test]
    fn types_have_the_words_of_the_language() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let columns: [(&str, ArrayRef); 2] = [
            ("n", std::sync::Arc::new(Int64Array::from(vec![1]))),
            ("name", std::sync::Arc::new(StringArray::from(vec!["Ada"]))),
        ];
        let batch = RecordBatch::try_from_iter(columns).expect("columns of one length");
        let mut writer = FileWriter::try_new(file.as_file(), &batch.schema()).expect("room");
        writer.write(&batch).and_then(|()| writer.finish()).expect("room");
        let shown = rows(file.path()).expect("it can be read");
        let types = shown.lines().nth(1).expect("the types").split_whitespace().collect::<Vec<_>>();
        assert_eq!(types, ["int64", "string"], "{shown}");
    }

    #[test]
    fn a_value_stays_in_its_line() {
        assert_eq!(fitting("a\nb\t\u{1b}[31m", WIDEST), "a\\nb\\t\\u{1b}[31m");
        assert_eq!(fitting(&"ü".repeat(61), WIDEST), format!("{}…", "ü".repeat(60)));
    }
}
