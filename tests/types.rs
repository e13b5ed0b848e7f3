//! The tables of `docs/types.md` that are about files, cell by cell. Those about functions are tried by `python/tests/test_types.py`.

#[allow(dead_code)]
mod program;

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Output};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float64Type};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use program::{errors, repository, run};

const ERROR: &str = "an error";
/// By the columns of the tables.
const FORMATS: [[&str; 2]; 3] = [["csv", "tsv"], ["json", "jsonl"], ["parquet", "arrow"]];

/// The rows of the tables below the heading, without their headers.
fn tables() -> Vec<Vec<Vec<String>>> {
    let page = fs::read_to_string(repository().join("docs/types.md")).expect("a page of the documentation");
    let section = page.split("\n## In files\n").nth(1).expect("a section of the page");
    let section = section.split("\n## ").next().unwrap_or_default();
    let mut tables = vec![Vec::new()];
    for line in section.lines() {
        if let Some(line) = line.strip_prefix('|') {
            let cells = line.trim_end_matches('|').split(" | ").map(|cell| cell.trim().to_owned());
            tables.last_mut().expect("there is one").push(cells.collect());
        } else if !tables.last().expect("there is one").is_empty() {
            tables.push(Vec::new());
        }
    }
    tables.retain(|table| !table.is_empty());
    tables.iter_mut().for_each(|table| drop(table.drain(..2)));
    tables
}

fn bare(cell: &str) -> &str {
    cell.trim_matches('`')
}

/// A pipeline that reads one file into files of all formats but some.
fn copies(source: &str, without: &[&str]) -> String {
    let mut pipeline = format!("version: 1\nstages:\n  rows:\n    {source}\n");
    for format in FORMATS.iter().flatten().filter(|format| !without.contains(format)) {
        writeln!(pipeline, "  {format}: {{ from: rows, write: out/c.{format} }}").expect("text takes text");
    }
    pipeline
}

fn start(folder: &Path, pipeline: &str) -> Output {
    let file = folder.join("pipeline.yaml");
    fs::write(&file, pipeline).expect("a file");
    let mut command = Command::new(env!("CARGO_BIN_EXE_millpond"));
    command.arg("run").arg(&file).arg("--state-dir").arg(folder.join("state"));
    command.output().expect("the program starts")
}

fn run_in(folder: &Path, pipeline: &str) {
    let file = folder.join("pipeline.yaml");
    fs::write(&file, pipeline).expect("a file");
    run(&file, &folder.join("state"), &[]);
}

fn parquet(path: &Path) -> RecordBatch {
    let file = File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut reader = ParquetRecordBatchReaderBuilder::try_new(file).expect("Parquet").build().expect("a reader");
    reader.next().expect("a batch").expect("it can be read")
}

fn arrow_file(path: &Path) -> RecordBatch {
    let file = File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut reader = arrow::ipc::reader::FileReader::try_new(file, None).expect("an Arrow file");
    reader.next().expect("a batch").expect("it can be read")
}

#[test]
fn every_type_is_written_and_read_as_the_table_says() {
    let [types, _] = tables().try_into().expect("two tables");
    assert!(types.len() > 15, "only {} types", types.len());
    for row in types {
        let [word, csv, json, kind] = row.iter().map(|cell| bare(cell)).collect::<Vec<_>>().try_into().expect("a row");
        let schema = format!("schema: {{ n: int64, c: \"{word}\" }}");
        let has_csv = csv != ERROR;
        let texts = [
            ("in.csv", format!("n,c\n1,{csv}\n2,\n")),
            ("in.jsonl", format!("{{\"n\":1,\"c\":{json}}}\n{{\"n\":2,\"c\":null}}\n")),
        ];
        for (source, text) in texts.iter().filter(|(source, _)| has_csv || *source != "in.csv") {
            let folder = tempfile::tempdir().expect("a temporary folder");
            fs::write(folder.path().join(source), text).expect("a file");
            let read = format!("read: {{ path: {source}, {schema} }}");
            let out = folder.path().join("out");
            let without: &[&str] = if has_csv { &[] } else { &FORMATS[0] };
            if !has_csv {
                for format in FORMATS[0] {
                    let others: Vec<_> = FORMATS.iter().flatten().copied().filter(|it| *it != format).collect();
                    let refused = start(folder.path(), &copies(&read, &others));
                    assert!(!refused.status.success() && errors(&refused).contains("`c`"), "{}", errors(&refused));
                }
            }
            run_in(folder.path(), &copies(&read, without));

            let said = |format: &str| fs::read_to_string(out.join(format!("c.{format}"))).expect("a file");
            if has_csv {
                assert_eq!(said("csv"), format!("n,c\n1,{csv}\n2,\n"), "{word} from {source}");
                assert_eq!(said("tsv"), format!("n\tc\n1\t{csv}\n2\t\n"), "{word} from {source}");
            }
            assert_eq!(said("jsonl"), texts[1].1, "{word} from {source}");
            assert_eq!(
                said("json").replace([' ', '\n'], ""),
                format!("[{}]", texts[1].1.trim().replace('\n', ",").replace(' ', "")),
                "{word} from {source}"
            );
            let batch = parquet(&out.join("c.parquet"));
            assert_eq!(batch.schema().field(1).data_type().to_string(), kind, "{word} from {source}");
            assert!(batch.column(1).is_valid(0) && batch.column(1).is_null(1), "{batch:?}");
            assert_eq!(arrow_file(&out.join("c.arrow")), batch, "{word} from {source}");

            // All of them are read back as what they are, and are the same from both sources.
            let read_back = |format: &&&str| *source == "in.jsonl" && !without.contains(*format);
            for format in FORMATS.iter().flatten().filter(read_back) {
                let has_types = FORMATS[2].contains(format);
                let declared = if has_types { String::new() } else { format!(", {schema}") };
                let again = folder.path().join(format);
                fs::create_dir(&again).expect("a folder");
                let read = format!("read: {{ path: ../out/c.{format}{declared} }}");
                run_in(&again, &copies(&read, &["csv", "tsv", "json", "jsonl", "arrow"]));
                assert_eq!(parquet(&again.join("out/c.parquet")), batch, "{word} through {format}");
            }
        }
    }
}

#[test]
fn values_with_a_meaning_are_read_back_as_the_table_says() {
    let [_, values] = tables().try_into().expect("two tables");
    for row in values {
        let (sql, word) = match bare(&row[0]) {
            "empty text" => ("''".to_owned(), "string"),
            "null" => ("CAST(NULL AS TEXT)".to_owned(), "string"),
            number => (format!("CAST('{number}' AS DOUBLE)"), "float64"),
        };
        let folder = tempfile::tempdir().expect("a temporary folder");
        run_in(folder.path(), &copies(&format!("sql: SELECT 1 AS n, {sql} AS c"), &[]));
        for (formats, cell) in FORMATS.iter().zip(&row[1..]) {
            for format in formats {
                let again = folder.path().join(format);
                fs::create_dir(&again).expect("a folder");
                let has_types = FORMATS[2].contains(format);
                let declared = if has_types { String::new() } else { format!(", schema: {{ n: int64, c: {word} }}") };
                let read = format!("read: {{ path: ../out/c.{format}{declared} }}");
                run_in(&again, &copies(&read, &["csv", "tsv", "json", "jsonl", "arrow"]));
                let batch = parquet(&again.join("out/c.parquet"));
                assert_eq!(meaning(batch.column(1).as_ref()), bare(cell), "{} through {format}", row[0]);
            }
        }
    }
}

/// The first value, as the table has it.
fn meaning(column: &dyn Array) -> String {
    if column.is_null(0) {
        return "null".to_owned();
    }
    match column.data_type() {
        DataType::Float64 => column.as_primitive::<Float64Type>().value(0).to_string(),
        DataType::Utf8 if column.as_string::<i32>().value(0).is_empty() => "empty text".to_owned(),
        other => panic!("{other}: {column:?}"),
    }
}
