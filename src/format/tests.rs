//! The table of types and formats, and what is refused.

mod malformed;
mod raw_bytes;
mod types_of_text;

use std::sync::Arc;

use arrow::array::*;
use arrow::datatypes::{DataType, Field, Int32Type, Schema, TimeUnit};
use arrow::util::display::array_value_to_string;

use super::*;

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true))).unwrap()
}

fn types(batch: &RecordBatch) -> Vec<DataType> {
    batch.schema().fields().iter().map(|field| field.data_type().clone()).collect()
}

fn text(format: Format, batch: &RecordBatch) -> String {
    let mut out = Vec::new();
    encode(format, batch, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn fails(format: Format, text: &str, declared: &[(&str, DataType)]) -> String {
    let declared: Vec<_> = declared.iter().map(|(name, data_type)| ((*name).to_owned(), data_type.clone())).collect();
    decode(format, text.as_bytes(), &declared).unwrap_err().to_string()
}

/// One column per type, with a null in the middle.
fn every_type() -> Vec<(&'static str, ArrayRef)> {
    let decimal = Decimal128Array::from(vec![Some(12_345), None, Some(-1)]).with_precision_and_scale(10, 2).unwrap();
    let micros = TimestampMicrosecondArray::from(vec![Some(1_700_000_000_123_456), None, Some(-1)]);
    let nanos = TimestampNanosecondArray::from(vec![Some(1_700_000_000_123_456_789), None, Some(-1)]);
    vec![
        ("bool", Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)]))),
        ("int8", Arc::new(Int8Array::from(vec![Some(i8::MIN), None, Some(i8::MAX)]))),
        ("int32", Arc::new(Int32Array::from(vec![Some(i32::MIN), None, Some(7)]))),
        ("int64", Arc::new(Int64Array::from(vec![Some(i64::MIN), None, Some(i64::MAX)]))),
        ("uint16", Arc::new(UInt16Array::from(vec![Some(0), None, Some(u16::MAX)]))),
        ("uint64", Arc::new(UInt64Array::from(vec![Some(0), None, Some(u64::MAX)]))),
        ("float32", Arc::new(Float32Array::from(vec![Some(0.1), None, Some(-2.0)]))),
        ("float64", Arc::new(Float64Array::from(vec![Some(0.1), None, Some(1e300)]))),
        ("string", Arc::new(StringArray::from(vec![Some("a,\"b\"\n\u{e9}"), None, Some("007")]))),
        ("large", Arc::new(LargeStringArray::from(vec![Some("x"), None, Some("true")]))),
        ("view", Arc::new(StringViewArray::from(vec![Some("longer than twelve bytes"), None, Some("1.5")]))),
        ("binary", Arc::new(BinaryArray::from(vec![Some(&b"\x00\xff"[..]), None, Some(b"a")]))),
        ("date", Arc::new(Date32Array::from(vec![Some(0), None, Some(-1)]))),
        ("time", Arc::new(Time64MicrosecondArray::from(vec![Some(1), None, Some(86_399_000_000)]))),
        ("naive", Arc::new(micros.clone())),
        ("instant", Arc::new(micros.with_timezone("+00:00"))),
        ("nanos", Arc::new(nanos)),
        ("decimal", Arc::new(decimal)),
    ]
}

fn nested() -> Vec<(&'static str, ArrayRef)> {
    let list = ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1), None]), None, Some(vec![])]);
    let names: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None, Some("c")]));
    let fields = vec![Field::new("name", DataType::Utf8, true)];
    let structs = StructArray::new(fields.into(), vec![names], Some(vec![true, false, true].into()));
    vec![("list", Arc::new(list)), ("struct", Arc::new(structs))]
}

/// Writes and reads a column, declared with its type.
fn round_trip(format: Format, name: &str, array: &ArrayRef) {
    // A second column, because a line of CSV with a null alone would be a special case of its own.
    let rows: ArrayRef = Arc::new(Int64Array::from_iter_values(0..array.len() as i64));
    let written = batch(vec![("row", rows), (name, Arc::clone(array))]);
    let mut bytes = Vec::new();
    encode(format, &written, &mut bytes).unwrap();
    let declared = [(name.to_owned(), array.data_type().clone())];
    let read = decode(format, &bytes, &declared).unwrap_or_else(|error| panic!("{format:?} {name}: {error}"));
    assert_eq!(read, written, "{format:?} {name}");
}

#[test]
fn every_type_survives_every_format() {
    for format in [Format::Csv, Format::Tsv, Format::Jsonl, Format::Json, Format::Parquet, Format::Arrow] {
        for (name, array) in every_type() {
            round_trip(format, name, &array);
        }
    }
    for format in [Format::Jsonl, Format::Json, Format::Parquet, Format::Arrow] {
        for (name, array) in nested() {
            round_trip(format, name, &array);
        }
    }
}

/// Without a logical type of Parquet, other programs would read the numbers that times are stored as.
#[test]
fn times_are_times_in_parquet() {
    let seconds: ArrayRef = Arc::new(TimestampSecondArray::from(vec![Some(1_706_702_400), None]));
    let fields = vec![Field::new("at", seconds.data_type().clone(), true)];
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("seconds", Arc::clone(&seconds)),
        ("zoned", Arc::new(TimestampSecondArray::from(vec![Some(0), None]).with_timezone("UTC"))),
        ("time", Arc::new(Time32SecondArray::from(vec![Some(25_380), None]))),
        ("date", Arc::new(Date64Array::from(vec![Some(1_706_659_200_000), None]))),
        ("nested", Arc::new(StructArray::new(fields.into(), vec![seconds], None))),
    ];
    let written = batch(columns);
    let mut bytes = Vec::new();
    encode(Format::Parquet, &written, &mut bytes).unwrap();
    let reader = parquet::file::reader::SerializedFileReader::new(bytes::Bytes::from(bytes.clone())).unwrap();
    let leaves = parquet::file::reader::FileReader::metadata(&reader).file_metadata().schema_descr().columns().to_vec();
    assert!(leaves.iter().all(|leaf| leaf.logical_type_ref().is_some()), "{leaves:?}");
    let read = decode(Format::Parquet, &bytes, &[]).unwrap();
    for (before, after) in written.columns().iter().zip(read.columns()).take(4) {
        assert_eq!(&arrow::compute::cast(after, before.data_type()).unwrap(), before);
    }
    assert_eq!(
        text(Format::Csv, &read.project(&[0, 2, 3]).unwrap()),
        "seconds,time,date\n2024-01-31T12:00:00,07:03:00,2024-01-31\n,,\n"
    );
}

#[test]
fn nested_columns_are_refused_by_csv() {
    let (name, list) = nested().remove(0);
    let error = encode(Format::Csv, &batch(vec![(name, list)]), &mut Vec::new()).unwrap_err();
    assert!(matches!(error, EncodeError::Unsupported { ref column, .. } if column == "list"), "{error}");
}

#[test]
fn json_writes_decimals_as_strings_and_nan_as_null() {
    let columns = every_type();
    let decimal = columns.iter().find(|(name, _)| *name == "decimal").unwrap().clone();
    let nan: ArrayRef = Arc::new(Float64Array::from(vec![f64::NAN, f64::INFINITY, 1.0]));
    assert_eq!(
        text(Format::Jsonl, &batch(vec![decimal, ("nan", nan)])),
        concat!(
            r#"{"decimal":"123.45","nan":null}"#,
            "\n",
            r#"{"decimal":null,"nan":null}"#,
            "\n",
            r#"{"decimal":"-0.01","nan":1.0}"#,
            "\n"
        )
    );
}

#[test]
fn refused_text_names_row_and_column() {
    use DataType::{Int8, Int64};
    let none: &[(&str, DataType)] = &[];
    let cases = [
        (Format::Csv, "a,b\n1,2\n3\n", none, "row 2: the record has 1 field, but there are 2 columns"),
        (Format::Csv, "a\n1\nx\n", &[("a", Int64)][..], "row 2: column `a` holds \"x\", which is not int64"),
        (Format::Csv, "a\n1\n", &[("b", Int64)][..], "there is no column `b`; the columns are `a`"),
        (Format::Csv, "a,a\n1,2\n", none, "row 1: two columns have the name `a`"),
        (Format::Csv, "a\n\"b\nc", none, "row 1: a quoted field is not closed"),
        (
            Format::Jsonl,
            "{\"a\":1}\n{\"a\":\"x\"}",
            &[],
            "row 2: column `a` holds string here and int64 in an earlier row",
        ),
        (
            Format::Jsonl,
            "{\"a\":1}\n{\"a\":1.5}",
            &[("a", Int64)][..],
            "row 2: column `a` holds 1.5, which is not int64",
        ),
        (Format::Jsonl, "{\"a\":1}\n{\"a\":128}", &[("a", Int8)][..], "row 2: column `a` holds 128, which is not int8"),
        (Format::Jsonl, "{\"a\":1,\"a\":2}", none, "row 1: column `a` appears twice in one record"),
        (
            Format::Jsonl,
            "{\"a\":1}\n\n[1]",
            &[],
            "row 2: not a JSON object: invalid type: sequence, expected a map (column 0)",
        ),
        (Format::Jsonl, "{\"a\":", none, "row 1: not a JSON object: EOF while parsing a value (column 5)"),
    ];
    for (format, text, declared, expected) in cases {
        assert_eq!(fails(format, text, declared), expected, "{text:?}");
    }
    let error = decode(Format::Lines, b"ok\n\xff\n", &[]).unwrap_err().to_string();
    assert_eq!(error, "row 2: the text is not valid UTF-8");
}

#[test]
fn a_null_alone_in_a_row_of_csv_is_a_row() {
    let column: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None, Some(3)]));
    let written = batch(vec![("a", column)]);
    assert_eq!(decode(Format::Csv, text(Format::Csv, &written).as_bytes(), &[]).unwrap(), written);
}

#[test]
fn lines_need_one_column_and_no_line_breaks() {
    let strings = |values: Vec<&str>| -> ArrayRef { Arc::new(StringArray::from(values)) };
    assert_eq!(text(Format::Lines, &batch(vec![("x", strings(vec!["a", ""]))])), "a\n\n");
    assert_eq!(text(Format::Lines, &batch(vec![("x", strings(vec!["a"])), ("line", strings(vec!["b"]))])), "b\n");
    let two = batch(vec![("x", strings(vec!["a"])), ("y", strings(vec!["b"]))]);
    assert!(matches!(encode(Format::Lines, &two, &mut Vec::new()), Err(EncodeError::NoLine { .. })));
    let broken = batch(vec![("x", strings(vec!["a", "b\nc"]))]);
    assert!(matches!(encode(Format::Lines, &broken, &mut Vec::new()), Err(EncodeError::LineBreak { row: 1 })));
    let read = decode(Format::Lines, "\u{feff}a\r\n\n\r\nb\rc".as_bytes(), &[]).unwrap();
    assert_eq!(text(Format::Lines, &read), "a\n\n\nb\rc\n");
    // Halves of a character on two lines are no character.
    let halves = decode(Format::Lines, b"ok\n\xc3\n\xa4\n", &[]).unwrap_err().to_string();
    assert_eq!(halves, "row 2: the text is not valid UTF-8");
}

#[test]
fn rows_without_columns_cannot_be_csv() {
    let rows = decode(Format::Jsonl, b"{}\n{}\n", &[]).unwrap();
    assert_eq!(rows.num_rows(), 2);
    assert!(matches!(encode(Format::Csv, &rows, &mut Vec::new()), Err(EncodeError::NoColumns { rows: 2 })));
}

#[test]
fn lines_of_a_slice_are_written_without_what_lies_around_them() {
    let lines = StringArray::from(vec![Some("a\nb"), Some("c"), None, Some("ä"), Some("e\n")]);
    let slice = batch(vec![("line", Arc::new(lines))]).slice(1, 3);
    assert_eq!(text(Format::Lines, &slice), "c\n\nä\n");
}

#[test]
fn no_bytes_are_a_table_without_rows() {
    let declared = [("a".to_owned(), DataType::Int64)];
    for format in [Format::Csv, Format::Jsonl, Format::Json, Format::Arrow, Format::Parquet] {
        let read = decode(format, b"", &declared).unwrap();
        assert_eq!((read.num_rows(), types(&read)), (0, vec![DataType::Int64]));
    }
}

#[test]
fn a_cut_off_file_is_not_a_shorter_file() {
    use std::io::{ErrorKind, Read, Write};
    for compression in [Compression::Gzip, Compression::Zstd, Compression::Bzip2, Compression::Xz] {
        let mut writer = compression::Compressor::new(Vec::new(), compression).unwrap();
        writer.write_all(&(0..100_000_u32).flat_map(|n| n.wrapping_mul(n).to_le_bytes()).collect::<Vec<_>>()).unwrap();
        let whole = writer.finish().unwrap();
        for end in [whole.len() / 2, whole.len() - 1] {
            let mut reader = decompress(std::io::Cursor::new(whole[..end].to_vec()), compression).unwrap();
            let error = reader.read_to_end(&mut Vec::new()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{compression:?} {end}");
        }
        let mut twice = Vec::new();
        decompress(std::io::Cursor::new([&whole[..], &whole[..]].concat()), compression)
            .unwrap()
            .read_to_end(&mut twice)
            .unwrap();
        assert_eq!(twice.len(), 800_000);
    }
}

mod determinism {
    use proptest::prelude::*;

    use super::*;

    fn table(rows: usize) -> RecordBatch {
        let rows = rows as i64;
        let strings = (0..rows).map(|row| (row % 7 != 0).then(|| "x".repeat((row * 37 % 31) as usize)));
        let categories = (0..rows).map(|row| (row % 3 != 0).then_some(["x", "yy", "zzz"][(row / 1000 % 3) as usize]));
        batch(vec![
            ("n", Arc::new(Int64Array::from_iter_values((0..rows).map(|row| row * 7919 % 10_007)))),
            ("s", Arc::new(StringArray::from_iter(strings))),
            ("f", Arc::new(Float64Array::from_iter_values((0..rows).map(|row| row as f64 / 3.0)))),
            ("d", Arc::new(categories.collect::<DictionaryArray<Int32Type>>())),
        ])
    }

    fn write(format: Format, compression: Compression, table: &RecordBatch, cuts: &[usize]) -> Vec<u8> {
        let mut encoder =
            FileEncoder::new(Vec::new(), format, true, compression, &table.schema(), EncodeMode::File).unwrap();
        let mut start = 0;
        for rows in cuts.iter().copied().chain([usize::MAX]) {
            let rows = rows.min(table.num_rows() - start);
            encoder.write(&own_dictionary(&table.slice(start, rows))).unwrap();
            start += rows;
        }
        encoder.finish().unwrap()
    }

    /// The same rows, with a dictionary of the values that these rows have.
    fn own_dictionary(piece: &RecordBatch) -> RecordBatch {
        let mut columns = piece.columns().to_vec();
        let values = arrow::compute::cast(&columns[3], &DataType::Utf8).unwrap();
        columns[3] = arrow::compute::cast(&values, columns[3].data_type()).unwrap();
        RecordBatch::try_new(piece.schema(), columns).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4))]
        #[test]
        fn files_do_not_depend_on_batches(cuts in prop::collection::vec(0_usize..5000, 0..6)) {
            let table = table(10_000);
            for (format, compression) in [
                (Format::Parquet, Compression::None),
                (Format::Arrow, Compression::Zstd),
                (Format::Csv, Compression::Gzip),
                (Format::Jsonl, Compression::Zstd),
                (Format::Csv, Compression::Bzip2),
                (Format::Tsv, Compression::Xz),
            ] {
                let whole = write(format, compression, &table, &[]);
                prop_assert!(write(format, compression, &table, &cuts) == whole, "{format:?} {compression:?}");
            }
        }
    }
}

#[test]
fn an_empty_schema_has_no_text() {
    let empty = RecordBatch::new_empty(Arc::new(Schema::empty()));
    for format in [Format::Csv, Format::Jsonl, Format::Lines] {
        assert_eq!(text(format, &empty), "");
    }
}

proptest::proptest! {
    #[test]
    fn records_do_not_depend_on_how_bytes_arrive(
        cuts in proptest::collection::vec(0_usize..80, 0..8), at_once in 1_usize..5,
    ) {
        let csv = "\u{feff}n,\"te\"\"xt\"\r\n1,\"a\n\u{e9}\"\r\n\r\n2,\n\"\",\"b,\"\"c\"\n3,last";
        let json = "\u{feff}{\"n\":1}\r\n\n{\"n\":2,\"t\":\"\u{e9}\"}\n{}\n{\"n\":3}";
        let csv_splitter = || Splitter::csv(&Dialect::default());
        for (text, splitter) in [(csv, csv_splitter as fn() -> _), (json, Splitter::jsonl)] {
            let whole = split(splitter(), text.as_bytes(), &[], usize::MAX);
            proptest::prop_assert_eq!(&whole, &split(splitter(), text.as_bytes(), &cuts, at_once));
        }
    }
}

/// The header and the fields of all records, given pieces of the text and chunks of so many records.
fn split(mut splitter: Splitter, text: &[u8], cuts: &[usize], at_once: usize) -> (Vec<String>, Vec<String>) {
    let limit = Limit { records: at_once, bytes: usize::MAX };
    let mut fields = Vec::new();
    let mut records = Records::default();
    let width = |splitter: &Splitter| splitter.width().unwrap_or(1);
    let mut drain = |records: &mut Records, width: usize| {
        let records = std::mem::take(records);
        let shown = |at: usize| String::from_utf8(records.field(at / width, at % width).to_vec()).unwrap();
        fields.extend((0..records.len() * width).map(shown));
    };
    let mut rest = text;
    for cut in cuts.iter().copied().chain([usize::MAX]) {
        let (mut piece, after) = rest.split_at(cut.min(rest.len()));
        rest = after;
        while !piece.is_empty() {
            let taken = splitter.push(piece, &mut records, limit).unwrap();
            piece = &piece[taken..];
            if records.is_full(limit) {
                drain(&mut records, width(&splitter));
            }
        }
    }
    splitter.finish(&mut records).unwrap();
    drain(&mut records, width(&splitter));
    (splitter.header().unwrap_or_default().to_vec(), fields)
}

#[test]
fn many_short_fields_fill_a_chunk_before_their_text_does() {
    let line = |first: &str| format!("{first}{}\n", ",1".repeat(99));
    let header: Vec<String> = (0..100).map(|at| format!("c{at}")).collect();
    // A record has 100 bytes of text, and 800 for its fields.
    let limit = Limit { records: usize::MAX, bytes: 10_000 };
    for first in ["1", "\"1\""] {
        let text = format!("{}\n{}", header.join(","), line(first).repeat(50));
        let mut splitter = Splitter::csv(&Dialect::default());
        let (mut rest, mut records, mut chunks) = (text.as_bytes(), Records::default(), Vec::new());
        while !rest.is_empty() {
            let taken = splitter.push(rest, &mut records, limit).expect("it is sound");
            rest = &rest[taken..];
            if records.is_full(limit) || rest.is_empty() {
                chunks.push(std::mem::take(&mut records).len());
            }
        }
        assert_eq!(chunks, [12, 12, 12, 12, 2], "{first}");
    }
}

#[test]
fn named_zones_are_written() {
    let instant: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![0]).with_timezone("America/New_York"));
    let written = batch(vec![("t", instant)]);
    assert_eq!(text(Format::Csv, &written), "t\n1969-12-31T19:00:00-05:00\n");
    assert_eq!(text(Format::Jsonl, &written), "{\"t\":\"1969-12-31T19:00:00-05:00\"}\n");
}

#[test]
fn what_would_take_too_much_memory_is_not_unpacked() {
    use std::io::{ErrorKind, Read, Write};
    let mut writer = compression::Compressor::new(Vec::new(), Compression::Xz).unwrap();
    writer.write_all(b"a\n1\n").unwrap();
    let mut file = writer.finish().unwrap();
    // The header of the first block: its size, flags, then a filter (LZMA2) with the size of its window, and a checksum.
    let start = 12;
    let end = start + 4 * (usize::from(file[start]) + 1) - 4;
    let window = start + 2 + file[start + 2..end].windows(2).position(|bytes| bytes == [0x21, 1]).unwrap() + 2;
    for (size, unpacks) in [(28, true), (30, false), (40, false)] {
        file[window] = size;
        let mut checksum = flate2::Crc::new();
        checksum.update(&file[start..end]);
        file[end..end + 4].copy_from_slice(&checksum.sum().to_le_bytes());
        let mut text = String::new();
        let read = decompress(std::io::Cursor::new(file.clone()), Compression::Xz).unwrap().read_to_string(&mut text);
        match read {
            Ok(_) => assert!(unpacks && text == "a\n1\n"),
            Err(error) => assert!(!unpacks && error.kind() == ErrorKind::OutOfMemory, "{error}"),
        }
    }
}

#[test]
fn json_is_one_array_whatever_the_batches() {
    let rows = decode(Format::Jsonl, b"{\"a\":1,\"b\":\"x\\ny\"}\n{\"a\":2}\n{\"a\":3}\n", &[]).unwrap();
    let write = |cuts: &[usize], mode| {
        let (schema, json) = (rows.schema(), Format::Json);
        let mut encoder = FileEncoder::new(Vec::new(), json, true, Compression::None, &schema, mode).unwrap();
        let mut start = 0;
        for cut in cuts {
            encoder.write(&rows.slice(start, *cut)).unwrap();
            start += cut;
        }
        String::from_utf8(encoder.finish().unwrap()).unwrap()
    };
    let expected = "[\n{\"a\":1,\"b\":\"x\\ny\"},\n{\"a\":2,\"b\":null},\n{\"a\":3,\"b\":null}\n]\n";
    for cuts in [&[3][..], &[0, 1, 0, 2, 0], &[2, 1]] {
        for mode in [EncodeMode::File, EncodeMode::Stream] {
            assert_eq!(write(cuts, mode), expected);
        }
    }
    assert_eq!(write(&[], EncodeMode::File), "[]\n");
    assert_eq!(decode(Format::Json, expected.as_bytes(), &[]).unwrap(), rows);
    let error = fails(Format::Json, "[{\"a\": 1},\n{\"a\":\n 2 3}]", &[]);
    assert_eq!(error, "row 2: not a JSON object: expected `,` or `}` (line 2 of it, column 4)");
}
