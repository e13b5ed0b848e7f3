//! The tables of `docs/types.md` that are about files, cell by cell. Those about functions are tried by `python/tests/test_types.py`.

#[allow(dead_code)]
mod program;

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use arrow::array::*;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Float32Type, Float64Type, i256};
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
    let [types, _, _] = tables().try_into().expect("three tables");
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

            // All of them are read back as what they are.
            for (format, again) in read_back(folder.path(), &schema, without) {
                assert_eq!(again, batch, "{word} through {format}");
            }
        }
    }
}

/// What `out/c.*` are read as.
fn read_back(folder: &Path, schema: &str, without: &[&str]) -> Vec<(&'static str, RecordBatch)> {
    let mut pipeline = "version: 1\nstages:\n".to_owned();
    let formats: Vec<&str> = FORMATS.iter().flatten().copied().filter(|format| !without.contains(format)).collect();
    for format in &formats {
        let declared = if FORMATS[2].contains(format) { String::new() } else { format!(", {schema}") };
        writeln!(pipeline, "  {format}: {{ read: {{ path: out/c.{format}{declared} }} }}").expect("text takes text");
        writeln!(pipeline, "  from_{format}: {{ from: {format}, write: again/{format}.parquet }}")
            .expect("text takes text");
    }
    run_in(folder, &pipeline);
    let again = |format: &'static str| (format, parquet(&folder.join(format!("again/{format}.parquet"))));
    formats.into_iter().map(again).collect()
}

/// A value of a type that the language has no word for, and null.
fn without_a_word(kind: &str) -> ArrayRef {
    match kind {
        "null" => Arc::new(NullArray::new(2)),
        "halffloat" => cast(&Float64Array::from(vec![Some(0.5), None]), &DataType::Float16).expect("a cast"),
        "large_string" => Arc::new(LargeStringArray::from(vec![Some("007"), None])),
        "string_view" => Arc::new(StringViewArray::from(vec![Some("007"), None])),
        "large_binary" => Arc::new(LargeBinaryArray::from(vec![Some(&b"\x00\xff"[..]), None])),
        "date64[ms]" => Arc::new(Date64Array::from(vec![Some(1_706_659_200_000), None])),
        "time32[s]" => Arc::new(Time32SecondArray::from(vec![Some(25_380), None])),
        "timestamp[s]" => Arc::new(TimestampSecondArray::from(vec![Some(1_706_702_400), None])),
        "timestamp[ms]" => Arc::new(TimestampMillisecondArray::from(vec![Some(1_706_702_400_000), None])),
        "timestamp[ns]" => Arc::new(TimestampNanosecondArray::from(vec![Some(1_706_702_400_000_000_001), None])),
        "duration[us]" => Arc::new(DurationMicrosecondArray::from(vec![Some(1_000_000), None])),
        "decimal256(50, 2)" => {
            let values = Decimal256Array::from(vec![Some(i256::from_i128(150)), None]);
            Arc::new(values.with_precision_and_scale(50, 2).expect("it fits"))
        }
        "fixed_size_list<item: float>[2]" => {
            let lists = vec![Some(vec![Some(1.0), Some(2.0)]), None];
            Arc::new(FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(lists, 2))
        }
        "struct<a: int64, b: string>" => {
            let fields = vec![Field::new("a", DataType::Int64, true), Field::new("b", DataType::Utf8, true)];
            let columns: Vec<ArrayRef> = vec![
                Arc::new(Int64Array::from(vec![Some(1), None])),
                Arc::new(StringArray::from(vec![Some("x"), None])),
            ];
            Arc::new(StructArray::new(fields.into(), columns, Some(vec![true, false].into())))
        }
        "map<string, int32>" => {
            let names = MapFieldNames { entry: "entries".into(), key: "key".into(), value: "value".into() };
            let mut map = MapBuilder::new(Some(names), StringBuilder::new(), Int32Builder::new());
            map.keys().append_value("k");
            map.values().append_value(1);
            map.append(true).expect("an entry");
            map.append(false).expect("a null");
            Arc::new(map.finish())
        }
        other => panic!("docs/types.md has the type {other}, of which this test has no value"),
    }
}

#[test]
fn types_without_a_word_are_written_as_the_table_says() {
    let [_, types, _] = tables().try_into().expect("three tables");
    assert!(types.len() > 10, "only {} types", types.len());
    for row in types {
        let cells: Vec<&str> = row.iter().map(|cell| bare(cell)).collect();
        let [kind, csv, json, in_parquet, in_arrow] = cells.try_into().expect("a row");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
        let columns = [("n", numbers), ("c", without_a_word(kind))].map(|(name, column)| (name, column, true));
        let written = RecordBatch::try_from_iter_with_nullable(columns).expect("a batch");
        let file = File::create(folder.path().join("in.arrow")).expect("a file");
        let mut writer = arrow::ipc::writer::FileWriter::try_new(file, &written.schema()).expect("a writer");
        writer.write(&written).expect("it is written");
        writer.finish().expect("it is written");

        let read = "read: in.arrow";
        let without: &[&str] = if csv == ERROR { &FORMATS[0] } else { &[] };
        if csv == ERROR {
            let refused = start(folder.path(), &copies(read, &["tsv", "json", "jsonl", "parquet", "arrow"]));
            assert!(!refused.status.success() && errors(&refused).contains("`c`"), "{}", errors(&refused));
        }
        run_in(folder.path(), &copies(read, without));
        let out = folder.path().join("out");
        let said = |format: &str| fs::read_to_string(out.join(format!("c.{format}"))).expect("a file");
        if csv != ERROR {
            let csv = if csv == "null" { "" } else { csv };
            assert_eq!(said("csv"), format!("n,c\n1,{csv}\n2,\n"), "{kind}");
        }
        assert_eq!(said("jsonl"), format!("{{\"n\":1,\"c\":{json}}}\n{{\"n\":2,\"c\":null}}\n"), "{kind}");
        for (read, expected) in
            [(parquet(&out.join("c.parquet")), in_parquet), (arrow_file(&out.join("c.arrow")), in_arrow)]
        {
            assert_eq!(read.schema().field(1).data_type().to_string(), expected, "{kind}");
            let again = cast(read.column(1), written.column(1).data_type()).expect("a cast");
            assert_eq!(&again, written.column(1), "{kind}");
        }
    }
}

#[test]
fn values_with_a_meaning_are_read_back_as_the_table_says() {
    let [_, _, values] = tables().try_into().expect("three tables");
    for row in values {
        let (sql, word) = match bare(&row[0]) {
            "empty text" => ("''".to_owned(), "string"),
            "null" => ("CAST(NULL AS TEXT)".to_owned(), "string"),
            number => (format!("CAST('{number}' AS DOUBLE)"), "float64"),
        };
        let folder = tempfile::tempdir().expect("a temporary folder");
        run_in(folder.path(), &copies(&format!("sql: SELECT 1 AS n, {sql} AS c"), &[]));
        for (format, batch) in read_back(folder.path(), &format!("schema: {{ n: int64, c: {word} }}"), &[]) {
            let column = FORMATS.iter().position(|formats| formats.contains(&format)).expect("a column of the table");
            assert_eq!(meaning(batch.column(1).as_ref()), bare(&row[1 + column]), "{} through {format}", row[0]);
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
