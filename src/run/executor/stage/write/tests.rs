use std::fs;

use arrow::array::{ArrayRef, Int64Array, NullArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field};
use tempfile::TempDir;

use super::*;
use crate::format::{Compression, Format, decode};
use crate::plan::WriteMode;
use crate::run::publish::{RunFolder, RunRecord};

fn batch(a: ArrayRef, b: ArrayRef) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable([("a", a, true), ("b", b, true)]).unwrap()
}

fn nulls(rows: usize) -> ArrayRef {
    Arc::new(NullArray::new(rows))
}

/// Writes batches into a file and returns what is published.
fn publish(format: Format, batches: &[RecordBatch], schema: Option<SchemaRef>) -> (Vec<u8>, Written) {
    let folder = TempDir::new().unwrap();
    let run = RunFolder::create(&folder.path().join("state"), &RunRecord::of(Path::new("/tested.yaml"))).unwrap();
    let mut staging = Staging::begin(&run).unwrap();
    let target = folder.path().join("new/out");
    let write = Write {
        target: WriteTarget::File(target.clone().into()),
        format,
        compression: Compression::None,
        header: true,
        mode: WriteMode::Overwrite,
    };
    let mut sink = Sink::create(&write, &mut staging).unwrap();
    for batch in batches {
        sink.write(batch.clone()).unwrap();
    }
    let written = sink.finish(schema).unwrap();
    assert!(!target.exists());
    staging.commit().unwrap();
    (fs::read(target).unwrap(), written)
}

#[test]
fn columns_that_are_open_at_first_get_the_type_of_later_values() {
    let one: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    let text: ArrayRef = Arc::new(StringArray::from(vec!["x"]));
    let batches =
        [batch(nulls(1), nulls(1)), batch(one.clone(), nulls(1)), batch(nulls(1), text), batch(one, nulls(1))];
    for format in [Format::Parquet, Format::Arrow, Format::Jsonl, Format::Csv] {
        let (bytes, written) = publish(format, &batches, None);
        let read = decode(format, &bytes, &[]).unwrap();
        let types: Vec<_> = read.schema().fields().iter().map(|field| field.data_type().clone()).collect();
        assert_eq!((types, read.num_rows()), (vec![DataType::Int64, DataType::Utf8], 4), "{format:?}");
        assert_eq!((written.rows, written.bytes), (4, bytes.len() as u64));
    }
}

#[test]
fn what_never_gets_a_type_is_written_without_one() {
    let (bytes, _) = publish(Format::Parquet, &[batch(nulls(2), nulls(2))], None);
    let read = decode(Format::Parquet, &bytes, &[]).unwrap();
    assert_eq!((read.schema().field(0).data_type(), read.num_rows()), (&DataType::Null, 2));
}

#[test]
fn an_output_without_rows_has_its_columns() {
    let schema: SchemaRef = Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, true)]));
    assert_eq!(publish(Format::Csv, &[], Some(schema.clone())).0, b"a\n");
    assert_eq!(publish(Format::Csv, &[], None).0, b"");
    assert_eq!(publish(Format::Jsonl, &[], Some(schema.clone())).0, b"");
    for format in [Format::Parquet, Format::Arrow] {
        let read = decode(format, &publish(format, &[], Some(schema.clone())).0, &[]).unwrap();
        assert_eq!((read.schema().field(0).data_type(), read.num_rows()), (&DataType::Int64, 0));
        let read = decode(format, &publish(format, &[], None).0, &[]).unwrap();
        assert_eq!(read.num_columns(), 0);
    }
}

#[test]
fn batches_with_other_columns_are_refused() {
    let folder = TempDir::new().unwrap();
    let run = RunFolder::create(&folder.path().join("state"), &RunRecord::of(Path::new("/tested.yaml"))).unwrap();
    let mut staging = Staging::begin(&run).unwrap();
    let target = WriteTarget::File(folder.path().join("out.csv").into());
    let write =
        Write { target, format: Format::Csv, compression: Compression::None, header: true, mode: WriteMode::Overwrite };
    let mut sink = Sink::create(&write, &mut staging).unwrap();
    sink.write(batch(nulls(1), nulls(1))).unwrap();
    let other = RecordBatch::try_from_iter_with_nullable([("a", nulls(1), true)]).unwrap();
    let error = sink.write(other).unwrap_err();
    assert!(matches!(error, WriteError::Conform { source: ConformError::Missing { .. }, .. }), "{error}");
}

#[test]
fn a_full_disk_is_told_from_other_failures() {
    let full = WriteTarget::File(PathBuf::from("/dev/full").into());
    let mut file = File::options().write(true).open("/dev/full").unwrap();
    let error = file.write_all(b"x").unwrap_err();
    assert!(matches!(io_error(Path::new("out"), &full, error), WriteError::DiskFull { .. }));
    let closed = || io::Error::from(ErrorKind::BrokenPipe);
    assert!(matches!(io_error(Path::new("out"), &WriteTarget::Stdout, closed()), WriteError::Closed));
    assert!(matches!(io_error(Path::new("out"), &full, closed()), WriteError::Unwritable { .. }));
}

#[test]
fn a_spool_on_disk_gives_back_what_it_took() {
    let folder = TempDir::new().unwrap();
    let mut spool = Spool::with_memory(folder.path(), 8);
    let one: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    let batches = [
        batch(nulls(1), nulls(1)),
        batch(one.clone(), nulls(1)),
        batch(one.clone(), nulls(1)),
        batch(one.clone(), one),
    ];
    for batch in &batches {
        spool.push(batch).unwrap();
    }
    let mut found = Vec::new();
    spool
        .replay(|batch| {
            found.push(batch);
            Ok(())
        })
        .unwrap();
    assert_eq!(found, batches);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// The files of a folder that rows are written to, with the names within it.
fn parts(batches: &[RecordBatch], by: &[&str], format: Format, limits: Limits) -> Vec<(String, Vec<u8>)> {
    let folder = TempDir::new().unwrap();
    let by: Vec<String> = by.iter().map(|name| (*name).to_owned()).collect();
    let target = WriteTarget::Folder(Folder { path: PathBuf::from("out").into(), partition_by: by.clone() });
    let write = Write { target, format, compression: Compression::None, header: true, mode: WriteMode::Overwrite };
    let mut parts = Parts::new(folder.path().to_owned(), &write, &by, &batches[0].schema(), limits).unwrap();
    batches.iter().for_each(|batch| parts.write(batch.clone()).unwrap());
    let bytes = parts.finish().unwrap();
    let mut found = Vec::new();
    let mut open = vec![folder.path().to_owned()];
    while let Some(at) = open.pop() {
        for entry in fs::read_dir(at).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                open.push(entry);
            } else {
                let name = entry.strip_prefix(folder.path()).unwrap().to_str().unwrap().to_owned();
                found.push((name, fs::read(entry).unwrap()));
            }
        }
    }
    found.sort();
    assert_eq!(bytes, found.iter().map(|(_, content)| content.len() as u64).sum::<u64>());
    found
}

/// `n` counts the rows, `k` is one of so many keys, and `t` is a text.
fn keyed(rows: std::ops::Range<i64>, keys: i64) -> RecordBatch {
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.clone()));
    let key: ArrayRef = Arc::new(Int64Array::from_iter(rows.clone().map(|n| (n % keys != 1).then_some(n % keys))));
    let text: ArrayRef = Arc::new(StringArray::from_iter_values(rows.map(|n| format!("text {}", n % 10))));
    RecordBatch::try_from_iter_with_nullable([("n", numbers, true), ("k", key, true), ("t", text, true)]).unwrap()
}

fn limits(sorted_bytes: u64, files: usize, held_bytes: usize) -> Limits {
    Limits { sorted_bytes: std::num::NonZeroU64::new(sorted_bytes).unwrap(), files, held_bytes }
}

#[test]
fn values_name_folders_and_are_not_in_the_files() {
    let found = parts(&[keyed(0..6, 3)], &["k", "t"], Format::Csv, Limits::of(Compression::None));
    let shown: Vec<_> = found.iter().map(|(name, text)| (name.as_str(), std::str::from_utf8(text).unwrap())).collect();
    assert_eq!(
        shown,
        [
            ("k=0/t=text 0/part-0.csv", "n\n0\n"),
            ("k=0/t=text 3/part-0.csv", "n\n3\n"),
            ("k=2/t=text 2/part-0.csv", "n\n2\n"),
            ("k=2/t=text 5/part-0.csv", "n\n5\n"),
            ("k=__HIVE_DEFAULT_PARTITION__/t=text 1/part-0.csv", "n\n1\n"),
            ("k=__HIVE_DEFAULT_PARTITION__/t=text 4/part-0.csv", "n\n4\n"),
        ]
    );
    let names = |by: &[&str]| parts(&[keyed(0..2, 3)], by, Format::Parquet, Limits::of(Compression::None));
    assert_eq!(names(&[]).iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["part-0.parquet"]);
}

#[test]
fn what_is_in_a_folder_does_not_depend_on_how_rows_come() {
    for format in [Format::Parquet, Format::Jsonl, Format::Arrow] {
        // Few files may be open, so that there are parts.
        let found = |step: i64| {
            let batches: Vec<_> = (0..3000 / step).map(|at| keyed(at * step..(at + 1) * step, 7)).collect();
            parts(&batches, &["k"], format, limits(4000, 3, 1 << 20))
        };
        let whole = found(3000);
        assert!(whole.len() > 7, "{format:?}: {} parts", whole.len());
        assert!(whole.iter().any(|(name, _)| name == &format!("k=6/part-1.{}", format.extensions()[0])));
        for step in [10, 500] {
            assert!(found(step) == whole, "{format:?}: in batches of {step} rows");
        }
    }
}

#[test]
fn rows_that_wait_for_a_row_group_are_bounded_and_sorted_rows_make_one_part() {
    let names = |batches: &[RecordBatch]| -> Vec<String> {
        parts(batches, &["k"], Format::Parquet, limits(4000, 10, 10_000)).into_iter().map(|(name, _)| name).collect()
    };
    let mixed: Vec<_> = (0..10).map(|at| keyed(at * 100..(at + 1) * 100, 3)).collect();
    assert!(names(&mixed).len() > 3, "{:?}", names(&mixed));
    let sorted = arrow::compute::concat_batches(&mixed[0].schema(), &mixed).unwrap();
    let order = arrow::compute::sort_to_indices(sorted.column(1), None, None).unwrap();
    let sorted = arrow::compute::take_record_batch(&sorted, &order).unwrap();
    // Each file holds more than may wait when it is not alone.
    let expected = ["k=0/part-0.parquet", "k=2/part-0.parquet", "k=__HIVE_DEFAULT_PARTITION__/part-0.parquet"];
    assert_eq!(names(&[sorted]), expected);
}

#[test]
fn columns_that_cannot_name_folders_are_refused() {
    let error = |column: ArrayRef, by: &[&str]| {
        let rows = RecordBatch::try_from_iter_with_nullable([("a", column, true)]).unwrap();
        let by: Vec<String> = by.iter().map(|name| (*name).to_owned()).collect();
        let target = WriteTarget::Folder(Folder { path: PathBuf::from("out").into(), partition_by: by.clone() });
        let (format, compression) = (Format::Csv, Compression::None);
        let write = Write { target, format, compression, header: true, mode: WriteMode::Overwrite };
        let made = Parts::new(PathBuf::new(), &write, &by, &rows.schema(), Limits::of(compression));
        made.err().unwrap().to_string()
    };
    assert!(error(nulls(1), &["b"]).contains("`partition_by` names `b`, which is no column"));
    assert!(error(nulls(1), &["a"]).contains("the files would have none"));
    let binary: ArrayRef = Arc::new(arrow::array::BinaryArray::from(vec![b"x".as_slice()]));
    assert!(error(binary, &["a"]).contains("column `a` is binary"));
}

/// Runs in a process of its own, which the test below starts; does nothing otherwise.
#[test]
#[expect(clippy::disallowed_methods, reason = "the exit status tells the parent that this test really ran")]
fn child() {
    let Some(folder) = std::env::var_os("MILLPOND_TEST_STDOUT") else { return };
    let run = RunFolder::create(Path::new(&folder), &RunRecord::of(Path::new("/tested.yaml"))).unwrap();
    let mut staging = Staging::begin(&run).unwrap();
    let write = Write {
        target: WriteTarget::Stdout,
        format: Format::Jsonl,
        compression: Compression::None,
        header: true,
        mode: WriteMode::Overwrite,
    };
    let mut sink = Sink::create(&write, &mut staging).unwrap();
    let row = batch(Arc::new(Int64Array::from(vec![1])), nulls(1));
    sink.write(row.clone()).unwrap();
    // The parent closes this pipe once it has seen the row and has stopped to listen.
    io::read_to_string(io::stdin()).unwrap();
    assert!(matches!(sink.write(row), Err(WriteError::Closed)));
    std::process::exit(7);
}

#[test]
fn standard_output_is_written_at_once_and_may_be_closed() {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};
    let folder = TempDir::new().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["run::executor::stage::write::tests::child", "--exact", "--nocapture"])
        .env("MILLPOND_TEST_STDOUT", folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    let row = stdout.lines().map(Result::unwrap).find(|line| line.starts_with('{'));
    assert_eq!(row.as_deref(), Some(r#"{"a":1,"b":null}"#));
    drop(child.stdin.take());
    assert_eq!(child.wait().unwrap().code(), Some(7));
}

#[test]
fn a_sink_may_move_to_another_thread() {
    fn is_send<T: Send>() {}
    is_send::<Sink>();
}
