//! Every example writes what its folder `expected` holds, with one worker and with several.

#[allow(dead_code)]
mod program;

use std::fs::File;
use std::io::Read;
use std::path::Path;

use arrow::array::{RecordBatch, RecordBatchReader};
use arrow::compute::concat_batches;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use program::{files, repository, run};

/// Runs the example and compares.
fn check(example: &str) {
    let folder = repository().join("examples").join(example);
    let expected = files(&folder.join("expected"));
    assert!(!expected.is_empty(), "{example} expects nothing");
    for workers in ["1", "2"] {
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let out = scratch.path().join("out");
        let set = format!("out={}", out.display());
        run(&folder.join("pipeline.yaml"), &scratch.path().join("state"), &["--workers", workers, "--set", &set]);
        for wanted in &expected {
            let written = out.join(wanted.file_name().expect("a name"));
            same(wanted, &written);
        }
    }
}

/// Text is compared by its bytes, after unpacking; Parquet by its columns and rows, as its bytes name the version of the writer.
fn same(expected: &Path, written: &Path) {
    if expected.extension().is_some_and(|extension| extension == "parquet") {
        assert_eq!(parquet(expected), parquet(written), "{}", expected.display());
    } else {
        assert_eq!(text(expected), text(written), "{}", expected.display());
    }
}

fn parquet(path: &Path) -> RecordBatch {
    let reader = ParquetRecordBatchReaderBuilder::try_new(open(path)).and_then(|builder| builder.build());
    let reader = reader.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let schema = reader.schema();
    let batches: Vec<_> = reader.map(|batch| batch.expect("a readable batch")).collect();
    let rows = concat_batches(&schema, &batches).expect("batches of one schema");
    // What else a writer says about itself is not part of the rows.
    let fields = schema.fields().iter().map(|field| field.as_ref().clone().with_metadata([].into()));
    let plain = arrow::datatypes::Schema::new(fields.collect::<Vec<_>>());
    rows.with_schema(plain.into()).expect("the same columns")
}

fn text(path: &Path) -> String {
    let mut text = String::new();
    let is_packed = path.extension().is_some_and(|extension| extension == "gz");
    let mut reader: Box<dyn Read> =
        if is_packed { Box::new(flate2::read::MultiGzDecoder::new(open(path))) } else { Box::new(open(path)) };
    reader.read_to_string(&mut text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text
}

fn open(path: &Path) -> File {
    File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

macro_rules! examples {
    ($($name:ident),*) => {
        $(#[test]
        fn $name() {
            check(stringify!($name));
        })*

        #[test]
        fn every_example_is_tested() {
            let folders = repository().join("examples").read_dir().expect("a folder").map(|entry| entry.expect("an entry"));
            let mut names: Vec<_> = folders
                .filter(|entry| entry.path().is_dir())
                .map(|entry| entry.file_name().into_string().expect("a plain name"))
                .collect();
            names.sort();
            assert_eq!(names, [$(stringify!($name)),*]);
        }
    };
}

examples!(access_log, collatz, from_multiprocessing, hello, orders, reviews, sessions, words);
