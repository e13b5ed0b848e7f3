mod added;
mod columns;
mod malformed;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{DataType, Int64Type};
use rustix::fs::{CWD, Mode};
use tempfile::TempDir;

use super::*;
use crate::batch::Origin;
use crate::format::{Dialect, EncodeMode, Encoding, FileEncoder, Nulls};
use crate::plan::Location;
use crate::run::store::Interrupt;

struct Folder(TempDir);

impl Folder {
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = Self(TempDir::new().unwrap());
        for (name, text) in files {
            fs::write(folder.path(name), text).unwrap();
        }
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn fifo(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        rustix::fs::mknodat(CWD, &path, rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        path
    }

    /// An error without the name of the folder.
    fn bare(&self, error: &ReadError) -> String {
        error.to_string().replace(&format!("{}/", self.0.path().display()), "")
    }
}

fn read(format: Format, paths: &[PathBuf]) -> Read {
    Read {
        paths: paths.iter().cloned().map(Location::from).collect(),
        stdin: false,
        folder: PathBuf::new(),
        format,
        compression: None,
        schema: Vec::new(),
        dialect: crate::format::Dialect::default(),
        encoding: crate::format::Encoding::Utf8,
        partitions: None,
        origin: false,
        which: crate::plan::WhichFiles::All,
        leaves_out_malformed: false,
        first_rows: None,
        used: None,
        filtered_by: Vec::new(),
    }
}

fn cut(rows: u32) -> Cut {
    Cut { rows: rows.try_into().unwrap(), ..Cut::default() }
}

/// Batches as their values of the first column, and their places as `file:first row`.
fn batches(read: &Read, cut: Cut) -> Result<Vec<(Vec<i64>, String)>, ReadError> {
    let files = FileTable::default();
    let mut source = Source::open(read, cut, true, &files)?;
    let mut found = Vec::new();
    while let Some(batch) = source.next_batch()? {
        let (batch, origin) = parts(&batch);
        assert_eq!(batch.num_rows(), origin.len());
        let values = batch.column(0).as_primitive::<Int64Type>().values().to_vec();
        let place = origin.place(0).unwrap();
        let name = files.path(place.file).unwrap().file_name().unwrap().to_str().unwrap().to_owned();
        found.push((values, format!("{name}:{}", place.first)));
    }
    Ok(found)
}

fn parts(batch: &Batch) -> (RecordBatch, Origin) {
    (batch.records().unwrap(), batch.origin().clone())
}

fn error(read: &Read) -> ReadError {
    batches(read, Cut::default()).unwrap_err()
}

#[test]
fn batches_cross_files_and_rows_keep_their_places() {
    let folder = Folder::new(&[("b.csv", "n\n4\n5\n"), ("a.csv", "n\n1\n2\n3"), (".c.csv", "x\n"), ("d.txt", "x")]);
    let expected =
        vec![(vec![1, 2], "a.csv:1".to_owned()), (vec![3, 4], "a.csv:3".to_owned()), (vec![5], "b.csv:2".to_owned())];
    for path in [folder.path("*.csv"), folder.path("")] {
        assert_eq!(batches(&read(Format::Csv, &[path]), cut(2)).unwrap(), expected);
    }
    let listed = [folder.path("b.csv"), folder.path("a.csv")];
    let found = batches(&read(Format::Csv, &listed), cut(8)).unwrap();
    assert_eq!(found, [(vec![4, 5, 1, 2, 3], "b.csv:1".to_owned())]);
}

#[test]
fn files_of_every_size_are_read_to_their_end() {
    for length in [4, 4094, 4095, 4096, 4097, (1 << 20) - 1, 1 << 20, (1 << 20) + 1] {
        let text: String = "n\n".chars().chain("7\n".chars().cycle()).take(length).collect();
        let folder = Folder::new(&[("a.csv", &text), ("b.csv", "n\n8\n")]);
        let read = read(Format::Csv, &[folder.path("a.csv"), folder.path("b.csv")]);
        let values: Vec<i64> =
            batches(&read, Cut::default()).unwrap().into_iter().flat_map(|(batch, _)| batch).collect();
        let sevens = (length - 1) / 2;
        assert_eq!(values.len(), sevens + 1, "{length} bytes");
        assert_eq!((values[sevens - 1], values[sevens]), (7, 8), "{length} bytes");
    }
}

/// Numbers, some of them quoted, with texts that may hold a line break.
fn mixed_rows(rows: i64) -> String {
    let row = |row: i64| match row % 5 {
        0 => format!("\"{row}\",\"a\nb\"\n"),
        1 => format!("{row},x\r\n"),
        _ => format!("{row},{}\n", "y".repeat(usize::try_from(row % 90).unwrap())),
    };
    (0..rows).map(row).collect()
}

#[test]
fn a_file_that_is_read_ahead_has_the_batches_of_a_pipe() {
    let text = mixed_rows(10_000);
    let folder = Folder::new(&[("a", &text)]);
    for rows in [7, 1000, 8192] {
        let schema = vec![("n".to_owned(), DataType::Int64), ("s".to_owned(), DataType::Utf8)];
        let dialect = Dialect { header: false, ..Dialect::default() };
        let settings = |path| Read { schema: schema.clone(), dialect: dialect.clone(), ..read(Format::Csv, &[path]) };
        let bare = |found: Vec<(Vec<i64>, String)>| -> Vec<_> {
            found.into_iter().map(|(values, place)| (values, place.split_once(':').unwrap().1.to_owned())).collect()
        };
        let fifo = folder.fifo(&format!("fifo{rows}"));
        let (path, bytes) = (fifo.clone(), text.clone());
        let writer = std::thread::spawn(move || fs::write(path, bytes).unwrap());
        let piped = batches(&settings(fifo), cut(rows)).unwrap();
        writer.join().unwrap();
        assert_eq!(bare(batches(&settings(folder.path("a")), cut(rows)).unwrap()), bare(piped));
    }
}

#[test]
fn a_quote_of_another_kind_is_one_in_every_chunk() {
    let row = |row: i64| match row % 3 {
        0 => format!("{row};'a\n\"b'\n"),
        1 => format!("'{row}';\"x\n"),
        _ => format!("{row};NA\n"),
    };
    let text: String = (0..10_000).map(row).collect();
    let folder = Folder::new(&[("a.csv", &text), ("b.csv", "0;'a\n1;b'\n2;'c;d'\n")]);
    let nulls = Nulls::new(vec!["NA".to_owned()]);
    let dialect = Dialect { delimiter: b';', header: false, quote: Some(b'\''), nulls };
    let read = Read { dialect, ..read(Format::Csv, &[folder.path("a.csv")]) };
    let mut source = Source::open(&read, cut(1000), true, &FileTable::default()).unwrap();
    let (mut numbers, mut texts) = (Vec::new(), Vec::new());
    while let Some(batch) = source.next_batch().unwrap() {
        let (batch, _) = parts(&batch);
        numbers.extend(batch.column(0).as_primitive::<Int64Type>().values().to_vec());
        texts.extend(batch.column(1).as_string::<i32>().iter().map(|text| text.map(str::to_owned)));
    }
    assert_eq!(numbers, (0..10_000).collect::<Vec<_>>());
    let expected = |row: usize| [Some("a\n\"b"), Some("\"x"), None][row % 3].map(str::to_owned);
    assert_eq!(texts, (0..10_000).map(expected).collect::<Vec<_>>());

    let dialect = Dialect { delimiter: b';', header: false, quote: None, nulls: Nulls::default() };
    let read = Read { dialect, paths: vec![folder.path("b.csv").into()], ..read };
    let found = error(&read);
    assert_eq!(folder.bare(&found), "b.csv, row 3: the record has 3 fields, but there are 2 columns");
}

#[test]
fn text_in_another_encoding_is_read_and_its_faults_have_a_place() {
    let folder = Folder::new(&[]);
    let utf16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    fs::write(folder.path("a.csv"), utf16("\u{feff}n,s\n1,é\n2,\"ö\n\"\n")).unwrap();
    let of = |format, encoding, name: &str| Read { encoding, ..read(format, &[folder.path(name)]) };
    let mut source =
        Source::open(&of(Format::Csv, Encoding::Utf16, "a.csv"), cut(9), true, &FileTable::default()).unwrap();
    let (batch, _) = parts(&source.next_batch().unwrap().unwrap());
    assert_eq!(batch.column(1).as_string::<i32>().iter().flatten().collect::<Vec<_>>(), ["é", "ö\n"]);
    assert_eq!(batch.schema().field(0).name(), "n");

    // More rows than are sampled, and half a character in the one after them.
    let rows: String = (0..5000).map(|row| format!("{row}\n")).collect();
    fs::write(folder.path("b.csv"), [utf16("n\n"), utf16(&rows), vec![b'x']].concat()).unwrap();
    let found = error(&of(Format::Csv, Encoding::Utf16, "b.csv"));
    assert_eq!(folder.bare(&found), "b.csv, row 5001: the text is not valid utf-16");
    fs::write(folder.path("c.csv"), b"n\n1\n2\x81\n3\n").unwrap();
    let found = error(&of(Format::Csv, Encoding::Windows1252, "c.csv"));
    assert_eq!(folder.bare(&found), "c.csv, row 2: the text is not valid windows-1252");
    fs::write(folder.path("d.txt"), b"a\n\x81\n").unwrap();
    let found = error(&of(Format::Lines, Encoding::Windows1252, "d.txt"));
    assert_eq!(folder.bare(&found), "d.txt, row 2: the text is not valid windows-1252");
}

#[test]
fn binary_is_a_row_for_each_file_as_it_is() {
    let folder = Folder::new(&[("b.gz", "no gzip"), ("a", ""), ("c.bin", "0123456789"), (".hidden", "x")]);
    let settings = |path: PathBuf| Read { folder: folder.path(""), ..read(Format::Binary, &[path]) };
    let found = |cut: Cut| {
        let mut source = Source::open(&settings(folder.path("")), cut, true, &FileTable::default()).unwrap();
        let mut found: Vec<Vec<String>> = Vec::new();
        while let Some(batch) = source.next_batch().unwrap() {
            let (batch, origin) = parts(&batch);
            assert_eq!(origin.place(0).unwrap().first, 1);
            let text = |column: usize| -> Vec<String> {
                let text = arrow::compute::cast(batch.column(column), &DataType::Utf8).unwrap();
                text.as_string::<i32>().iter().map(|text| text.unwrap().to_owned()).collect()
            };
            found.push(text(0).into_iter().zip(text(1)).map(|(path, bytes)| format!("{path}={bytes}")).collect());
        }
        found
    };
    let rows = ["a=", "b.gz=no gzip", "c.bin=0123456789"].map(str::to_owned);
    assert_eq!(found(cut(2)), [rows[..2].to_vec(), rows[2..].to_vec()]);
    let small = Cut { bytes: 9.try_into().unwrap(), ..cut(100) };
    let mut source = Source::open(&settings(folder.path("c.bin")), small, true, &FileTable::default()).unwrap();
    let error = source.next_batch().unwrap_err();
    let expected = "c.bin is larger than a batch may be (9 bytes); give the stage a larger `batch: { bytes: … }`";
    assert_eq!(folder.bare(&error), expected);
    let empty = Folder::new(&[]);
    let error = Source::open(&settings(empty.path("")), cut(2), true, &FileTable::default()).err().unwrap();
    assert!(error.to_string().ends_with("has no file"), "{error}");
}

#[test]
fn what_is_wrong_with_a_header_is_in_no_row() {
    let folder = Folder::new(&[("quote.csv", "n,\"m\n1,2\n"), ("row.csv", "n,m\n1,\"2\n")]);
    std::fs::write(folder.path("bytes.csv"), b"n,\xff\n1,2\n").unwrap();
    let told = |name: &str| folder.bare(&error(&read(Format::Csv, &[folder.path(name)])));
    assert_eq!(told("quote.csv"), "quote.csv, in the header: a quoted field is not closed");
    assert_eq!(told("bytes.csv"), "bytes.csv, in the header: the text is not valid UTF-8");
    assert_eq!(told("row.csv"), "row.csv, row 1: a quoted field is not closed");
}

#[test]
fn errors_of_what_is_read_ahead_come_in_order() {
    let good = mixed_rows(5000);
    let folder = Folder::new(&[("a.csv", &format!("n,s\n{}{}x,y\n{}1,2,3\n", good, good, good))]);
    let schema = vec![("n".to_owned(), DataType::Int64)];
    let read = Read { schema, ..read(Format::Csv, &[folder.path("a.csv")]) };
    let mut source = Source::open(&read, cut(1000), true, &FileTable::default()).unwrap();
    for _ in 0..10 {
        assert_eq!(source.next_batch().unwrap().unwrap().rows(), 1000);
    }
    let error = source.next_batch().unwrap_err();
    assert!(folder.bare(&error).starts_with("a.csv, row 10001: "), "{error}");
}

#[test]
fn a_source_that_reads_ahead_can_be_cancelled() {
    let folder = Folder::new(&[("a.csv", &format!("n,s\n{}", mixed_rows(1000)))]);
    let mut source =
        Source::open(&read(Format::Csv, &[folder.path("a.csv")]), cut(10), true, &FileTable::default()).unwrap();
    source.next_batch().unwrap();
    source.canceller().cancel();
    assert!(matches!(source.next_batch(), Err(ReadError::Cancelled)));
}

#[test]
fn columnar_files_are_cut_alike() {
    let folder = Folder::new(&[]);
    for (format, name) in [(Format::Parquet, "parquet"), (Format::Arrow, "arrow"), (Format::Arrow, "arrow.zst")] {
        for (file, values) in [("a", vec![1, 2, 3]), ("b", vec![4, 5])] {
            written(&folder, &format!("{file}.{name}"), format, values);
        }
        let found = batches(&read(format, &[folder.path(&format!("*.{name}"))]), cut(2)).unwrap();
        let (a, b) = (format!("a.{name}"), format!("b.{name}"));
        assert_eq!(
            found,
            [(vec![1, 2], format!("{a}:1")), (vec![3, 4], format!("{a}:3")), (vec![5], format!("{b}:2"))]
        );
    }
}

#[test]
fn the_whole_size_is_read_and_counted() {
    let folder = Folder::new(&[("a.csv", "n\n1\n"), ("b.csv", "n\n2\n")]);
    let mut source =
        Source::open(&read(Format::Csv, &[folder.path("*.csv")]), cut(1), true, &FileTable::default()).unwrap();
    assert_eq!((source.known_size(), source.bytes_read()), (Some(8), 0));
    while source.next_batch().unwrap().is_some() {}
    assert_eq!(source.bytes_read(), 8);
}

#[test]
fn a_header_alone_tells_the_columns() {
    let folder = Folder::new(&[("a.csv", "n,m\n"), ("empty.csv", "")]);
    let mut source =
        Source::open(&read(Format::Csv, &[folder.path("a.csv")]), cut(1), true, &FileTable::default()).unwrap();
    assert!(source.next_batch().unwrap().is_none());
    assert_eq!(source.schema().unwrap().fields().len(), 2);
    let mut source =
        Source::open(&read(Format::Csv, &[folder.path("empty.csv")]), cut(1), true, &FileTable::default()).unwrap();
    assert!(source.next_batch().unwrap().is_none());
    assert!(source.schema().is_none());
}

#[test]
fn the_sample_spans_batches_and_files() {
    let folder = Folder::new(&[("a.csv", "n,x\n1,\n2,\n"), ("b.csv", "n,x\n3,\n4,0.5\n")]);
    let mut source =
        Source::open(&read(Format::Csv, &[folder.path("*.csv")]), cut(1), true, &FileTable::default()).unwrap();
    let (first, _) = parts(&source.next_batch().unwrap().unwrap());
    assert_eq!(first.schema().field(1).data_type(), &DataType::Float64);
}

#[test]
fn errors_name_file_and_row() {
    let long = format!("n\n{}x\n", "1\n".repeat(5000));
    let folder = Folder::new(&[
        ("a.csv", "n\n1\n"),
        ("b.csv", "m\n1\n"),
        ("ragged.csv", "n,m\n1,2\n\n3\n"),
        ("late.csv", &long),
        ("cut.csv.gz", "this is text and not gzip"),
        ("bad.jsonl", "{\"n\":1}\n{\"n\":\n"),
        ("bad.parquet", "PAR1 but no"),
        ("bad.txt", "ok\n"),
    ]);
    fs::write(folder.path("bad.txt"), b"ok\n\xff\n").unwrap();
    let cases = [
        (Format::Csv, "none.csv", "there is no file none.csv"),
        (Format::Csv, "*.tsv", "no file matches *.tsv"),
        (Format::Csv, "[ab].csv", "b.csv: the header has the columns `m`, but it should have `n`"),
        (Format::Csv, "ragged.csv", "ragged.csv, row 2: the record has 1 field, but there are 2 columns"),
        (
            Format::Csv,
            "late.csv",
            "late.csv, row 5001: column `n` holds \"x\", which is not int64; declare `n` in `schema:`",
        ),
        (Format::Jsonl, "bad.jsonl", "bad.jsonl, row 2: not a JSON object: EOF while parsing a value (column 5)"),
        (Format::Lines, "bad.txt", "bad.txt, row 2: the text is not valid UTF-8"),
    ];
    for (format, name, expected) in cases {
        assert_eq!(folder.bare(&error(&read(format, &[folder.path(name)]))), expected);
    }
    assert!(matches!(error(&read(Format::Csv, &[folder.path("cut.csv.gz")])), ReadError::Corrupt { .. }));
    assert!(matches!(error(&read(Format::Parquet, &[folder.path("bad.parquet")])), ReadError::Corrupt { .. }));
    assert!(matches!(error(&read(Format::Tsv, &[folder.path("")])), ReadError::EmptyFolder { .. }));
}

#[test]
fn hidden_files_are_passed_over_and_names_need_not_be_text() {
    use std::os::unix::ffi::OsStrExt as _;

    let folder = Folder::new(&[("a.csv", ""), (".b.csv", "")]);
    for name in [".c", "d"] {
        fs::create_dir(folder.path(name)).unwrap();
        fs::write(folder.path(name).join("e.csv"), "").unwrap();
    }
    fs::write(folder.0.path().join(std::ffi::OsStr::from_bytes(b"f\xff.csv")), "").unwrap();
    let found = |pattern: &str| {
        let found = paths::expand(&read(Format::Csv, &[folder.path(pattern)]), &Interrupt::default()).unwrap();
        found.iter().map(|found| found.name.strip_prefix(folder.0.path()).unwrap().to_owned()).collect::<Vec<_>>()
    };
    let expected = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
    let no_text = PathBuf::from(std::ffi::OsStr::from_bytes(b"f\xff.csv"));
    assert_eq!(found("*.csv"), [expected(&["a.csv"]), vec![no_text.clone()]].concat());
    assert_eq!(found("**/*.csv"), [expected(&["a.csv", "d/e.csv"]), vec![no_text]].concat());
    assert_eq!(found(".*.csv"), expected(&[".b.csv"]));
    assert_eq!(found(".c/*.csv"), expected(&[".c/e.csv"]));
    assert_eq!(found("*/*.csv"), expected(&["d/e.csv"]));
}

#[test]
fn a_file_that_goes_away_is_missed() {
    let folder = Folder::new(&[("a.csv", "n\n1\n")]);
    let mut source =
        Source::open(&read(Format::Csv, &[folder.path("a.csv")]), cut(1), true, &FileTable::default()).unwrap();
    fs::remove_file(folder.path("a.csv")).unwrap();
    assert!(matches!(source.next_batch(), Err(ReadError::Vanished { .. })));
}

/// Writes a new file of one column.
fn written(folder: &Folder, name: &str, format: Format, values: Vec<i64>) -> PathBuf {
    let path = folder.path(name);
    let numbers = arrow::array::Int64Array::from(values);
    let batch = RecordBatch::try_from_iter([("n", Arc::new(numbers) as arrow::array::ArrayRef)]).unwrap();
    let output = fs::File::create(&path).unwrap();
    let compression = Compression::of(&path);
    let mut encoder =
        FileEncoder::new(output, format, true, compression, batch.schema_ref(), EncodeMode::File).unwrap();
    encoder.write(&batch).unwrap();
    encoder.finish().unwrap();
    path
}

#[test]
fn a_file_that_is_changed_while_it_is_read_is_an_error() {
    let files = [
        ("a.csv", Format::Csv),
        ("a.jsonl", Format::Jsonl),
        ("a.csv.gz", Format::Csv),
        ("a.jsonl.zst", Format::Jsonl),
        ("a.parquet", Format::Parquet),
        ("a.arrow", Format::Arrow),
        ("a.txt", Format::Lines),
    ];
    let append = |path: &Path| fs::File::options().append(true).open(path).unwrap().write_all(b"17\n").unwrap();
    let shorten = |path: &Path| fs::File::options().write(true).open(path).unwrap().set_len(1000).unwrap();
    let replace = |path: &Path| {
        let other = path.with_extension("other");
        fs::write(&other, "").unwrap();
        fs::rename(&other, path).unwrap();
    };
    type Change<'c> = (&'static str, &'c dyn Fn(&Path), bool);
    let changes: [Change<'_>; 3] =
        [("append", &append, false), ("shorten", &shorten, false), ("replace", &replace, true)];
    for ((name, format), (what, change, is_well)) in
        files.into_iter().flat_map(|file| changes.map(|change| (file, change)))
    {
        let folder = Folder::new(&[]);
        let path = written(&folder, name, format, (0..100_000).collect());
        let read = read(format, std::slice::from_ref(&path));
        let mut source = Source::open(&read, cut(1000), true, &FileTable::default()).unwrap();
        source.next_batch().unwrap().unwrap();
        change(&path);
        let end = loop {
            match source.next_batch() {
                Ok(Some(_)) => {}
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        match end {
            Ok(()) => assert!(is_well, "{name}, {what}"),
            Err(error) => assert!(!is_well && matches!(error, ReadError::Changed { .. }), "{name}, {what}: {error}"),
        }
    }
}

#[test]
fn a_pipe_passes_on_what_it_has_when_it_is_silent() {
    let folder = Folder::new(&[]);
    for (name, compression) in [("plain", Compression::None), ("gzip", Compression::Gzip)] {
        let path = folder.fifo(name);
        let mut read = read(Format::Jsonl, std::slice::from_ref(&path));
        read.compression = Some(compression);
        let mut source = Source::open(&read, Cut::default(), true, &FileTable::default()).unwrap();
        assert_eq!(source.known_size(), None);
        let (resume, wait) = mpsc::channel::<()>();
        let writer = std::thread::spawn(move || {
            let file = fs::File::options().write(true).open(path).unwrap();
            let level = flate2::Compression::default();
            let mut output: Box<dyn std::io::Write> = match compression {
                Compression::None => Box::new(file),
                _ => Box::new(flate2::write::GzEncoder::new(file, level)),
            };
            output.write_all(b"{\"n\":1}\n{\"n\":2}\n{\"n\":").unwrap();
            output.flush().unwrap();
            wait.recv().unwrap();
            output.write_all(b"3}\n").unwrap();
        });
        let (first, _) = parts(&source.next_batch().unwrap().unwrap());
        assert_eq!(first.num_rows(), 2, "{name}: the third record is not whole");
        resume.send(()).unwrap();
        let (second, origin) = parts(&source.next_batch().unwrap().unwrap());
        assert_eq!((second.num_rows(), origin.place(0).unwrap().first), (1, 3));
        assert!(source.next_batch().unwrap().is_none());
        writer.join().unwrap();
    }
}

#[test]
fn a_source_reads_no_further_than_it_must() {
    let folder = Folder::new(&[]);
    let path = folder.fifo("pipe");
    let mut source =
        Source::open(&read(Format::Lines, std::slice::from_ref(&path)), cut(10), true, &FileTable::default()).unwrap();
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    // A named pipe can be written to without blocking only once it is open for reading.
    let reader = fs::File::options().read(true).custom_flags(nonblocking).open(&path).unwrap();
    let mut writer = fs::File::options().write(true).custom_flags(nonblocking).open(&path).unwrap();
    rustix::pipe::fcntl_setpipe_size(&writer, 1 << 20).unwrap();
    writer.write_all(&[b'\n'; 1 << 20]).unwrap();
    source.next_batch().unwrap().unwrap();
    assert!(source.bytes_read() <= 64 << 10, "{}", source.bytes_read());
    drop(reader);
}

#[test]
fn a_blocked_read_can_be_cancelled() {
    let folder = Folder::new(&[]);
    for (format, has_writer) in
        [(Format::Csv, false), (Format::Csv, true), (Format::Arrow, false), (Format::Arrow, true)]
    {
        let path = folder.fifo(&format!("{format:?}-{has_writer}"));
        let mut source =
            Source::open(&read(format, std::slice::from_ref(&path)), Cut::default(), true, &FileTable::default())
                .unwrap();
        let keeper = has_writer.then(|| fs::File::options().read(true).write(true).open(&path).unwrap());
        let canceller = source.canceller();
        let reader = std::thread::spawn(move || source.next_batch());
        let start = Instant::now();
        canceller.cancel();
        assert!(matches!(reader.join().unwrap(), Err(ReadError::Cancelled)));
        assert!(start.elapsed() < Duration::from_secs(5));
        drop(keeper);
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

    /// What is read of lines does not depend on whether somebody wants them as columns.
    #[test]
    fn lines_are_the_same_as_text_and_as_columns(
        files in proptest::collection::vec(
            proptest::collection::vec(
                proptest::sample::select(vec![&b"a"[..], b"bcd", b"\n", b"\n", b"\r\n", b"\r", b"\0", b"\xc3\xa9", b"\xc3\n"]),
                0..40,
            ),
            1..4,
        ),
        rows in 1_u32..12, bytes in 1_u64..60,
    ) {
        let folder = Folder::new(&[]);
        for (index, pieces) in files.iter().enumerate() {
            fs::write(folder.path(&format!("{index}.txt")), pieces.concat()).unwrap();
        }
        let cut = Cut { rows: rows.try_into().unwrap(), bytes: bytes.try_into().unwrap(), at_files: false };
        let found = |as_columns| {
            let mut source =
                Source::open(&read(Format::Lines, &[folder.path("*.txt")]), cut, as_columns, &FileTable::default()).unwrap();
            let mut batches = Vec::new();
            loop {
                match source.next_batch() {
                    Ok(Some(batch)) => batches.push((parts(&batch), batch.bytes())),
                    Ok(None) => return (batches, None),
                    Err(error) => return (batches, Some(error.to_string())),
                }
            }
        };
        let (text, columns) = (found(false), found(true));
        proptest::prop_assert_eq!(&text, &columns);

        // The rows are numbered through each file, whatever the batches.
        let mut expected = Vec::new();
        for (index, pieces) in files.iter().enumerate() {
            let (bytes, mut row) = (pieces.concat(), 0);
            let mut lines: Vec<_> = bytes.split(|byte| *byte == b'\n').collect();
            lines.pop_if(|last| last.is_empty());
            for line in lines {
                row += 1;
                expected.push((index as u32, row, line.strip_suffix(b"\r").unwrap_or(line).to_vec()));
            }
        }
        let broken = expected.iter().position(|(.., line)| std::str::from_utf8(line).is_err());
        let mut given = Vec::new();
        for ((records, origin), _) in &text.0 {
            for (row, line) in records.column(0).as_string::<i32>().iter().enumerate() {
                let place = origin.place(row).unwrap();
                given.push((place.file.0, place.first, line.unwrap().as_bytes().to_vec()));
            }
        }
        match broken {
            None => proptest::prop_assert_eq!(given, expected),
            Some(at) => {
                // The batch with the broken line is not given.
                proptest::prop_assert!(given.len() <= at && expected.starts_with(&given));
                let message = text.1.as_ref().unwrap();
                let place = format!("{}.txt, row {}", expected[at].0, expected[at].1);
                proptest::prop_assert!(message.contains(&place), "{message}: {place}");
            }
        }
    }
}
/// More rows than decide the types of columns.
const SAMPLE: usize = crate::format::SAMPLE_ROWS + 10;
