use std::fs;

use arrow::array::{ArrayRef, Int64Array, NullArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field};
use tempfile::TempDir;

use super::*;
use crate::format::{Compression, decode};
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
        target: WriteTarget::File(target.clone()),
        format,
        compression: Compression::None,
        header: true,
        is_new: false,
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
    let target = WriteTarget::File(folder.path().join("out.csv"));
    let write = Write { target, format: Format::Csv, compression: Compression::None, header: true, is_new: false };
    let mut sink = Sink::create(&write, &mut staging).unwrap();
    sink.write(batch(nulls(1), nulls(1))).unwrap();
    let other = RecordBatch::try_from_iter_with_nullable([("a", nulls(1), true)]).unwrap();
    let error = sink.write(other).unwrap_err();
    assert!(matches!(error, WriteError::Conform { source: ConformError::Missing { .. }, .. }), "{error}");
}

#[test]
fn a_full_disk_is_told_from_other_failures() {
    let full = WriteTarget::File(PathBuf::from("/dev/full"));
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
        is_new: false,
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
