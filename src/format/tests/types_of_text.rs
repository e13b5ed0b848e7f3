//! The types that text is read with: inferred, settled by later rows, or declared.

use super::*;

fn infer(format: Format, text: &str) -> Vec<DataType> {
    types(&decode(format, text.as_bytes(), &[]).unwrap())
}

/// Decodes each text as a chunk of its own, the first of which is the sample.
fn chunks(format: Format, texts: &[&str]) -> Result<Vec<RecordBatch>, RecordError> {
    let mut splitter = if format == Format::Jsonl { Splitter::jsonl() } else { Splitter::csv(&Dialect::default()) };
    let all = Limit { records: usize::MAX, bytes: usize::MAX };
    let mut decoder = None;
    let mut batches = Vec::new();
    for text in texts {
        let mut records = Records::default();
        splitter.push(text.as_bytes(), &mut records, all).unwrap();
        let header = splitter.header().unwrap_or_default().to_vec();
        let decoder = decoder.get_or_insert_with(|| {
            TextDecoder::from_sample(format, &header, &Nulls::default(), &[], &[&records]).unwrap()
        });
        batches.push(decoder.decode(&records)?);
    }
    Ok(batches)
}

#[test]
fn csv_types_are_the_narrowest_that_lose_nothing() {
    let cases = [
        ("1\n-2\n\n3", DataType::Int64),
        ("1\n2.5", DataType::Float64),
        ("1e3\n.5\nNaN\n-inf", DataType::Float64),
        ("007\n12", DataType::Utf8),
        ("99999999999999999999", DataType::Utf8),
        ("true\nFalse", DataType::Boolean),
        ("true\n1", DataType::Utf8),
        ("2024-02-29", DataType::Date32),
        ("2023-02-29", DataType::Utf8),
        ("2024-01-31 12:00:00.5\n2024-01-31T12:00:00", DataType::Timestamp(TimeUnit::Microsecond, None)),
        (
            "2024-01-31T12:00:00Z\n2024-01-31T12:00:00+02:00",
            DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        ),
        ("2024-01-31T12:00:00.123456789", DataType::Utf8),
        ("2024-01-31\n2024-01-31T12:00:00", DataType::Utf8),
        ("\"\"\n\"\"", DataType::Null),
    ];
    for (values, expected) in cases {
        let table = format!("a,b\n{}", values.lines().map(|value| format!("{value},x\n")).collect::<String>());
        assert_eq!(infer(Format::Csv, &table)[0], expected, "{values:?}");
    }
}

#[test]
fn an_offset_moves_a_time_to_utc() {
    let read = decode(Format::Csv, b"t\n2024-01-31T12:00:00+02:00\n", &[]).unwrap();
    assert_eq!(array_value_to_string(read.column(0), 0).unwrap(), "2024-01-31T10:00:00Z");
}

#[test]
fn json_types() {
    let cases = [
        (r#"{"a":1}{"a":null}"#, DataType::Int64),
        (r#"{"a":1}{"a":2.5}"#, DataType::Float64),
        (r#"{"a":18446744073709551615}{"a":1}"#, DataType::UInt64),
        (r#"{"a":"2024-01-31"}"#, DataType::Utf8),
        (r#"{"a":null}{}"#, DataType::Null),
        (r#"{"a":[]}{"a":[1,null]}"#, DataType::new_list(DataType::Int64, true)),
        (
            r#"{"a":{"x":1}}{"a":{"y":"b"}}"#,
            DataType::Struct(
                vec![Field::new("x", DataType::Int64, true), Field::new("y", DataType::Utf8, true)].into(),
            ),
        ),
    ];
    for (lines, expected) in cases {
        assert_eq!(
            infer(Format::Jsonl, &lines.replace("}{\"a", "}\n{\"a").replace("}{}", "}\n{}")),
            [expected],
            "{lines}"
        );
    }
}

#[test]
fn an_open_column_takes_the_type_of_its_first_value() {
    let csv = chunks(Format::Csv, &["a,b\n,1\n", ",1\n2.5,1\n", ",1\n"]).unwrap();
    let json = chunks(Format::Jsonl, &["{\"a\":null}\n", "{}\n{\"a\":1}\n{\"a\":2.5}\n", "{\"a\":3}\n"]).unwrap();
    for batches in [csv, json] {
        let found: Vec<_> = batches.iter().map(|batch| types(batch)[0].clone()).collect();
        assert_eq!(found, [DataType::Null, DataType::Float64, DataType::Float64]);
    }
    let nested = chunks(Format::Jsonl, &["{\"a\":[]}\n", "{\"a\":[\"x\"]}\n"]).unwrap();
    assert_eq!(types(&nested[1]), [DataType::new_list(DataType::Utf8, true)]);
}

#[test]
fn a_value_after_the_sample_must_fit() {
    let cases = [
        (Format::Csv, ["a\n1\n", "2\n007\n"], "column `a` holds \"007\", which is not int64"),
        (Format::Csv, ["a\n2024-01-01\n", "2024-01-01\n2024\n"], "column `a` holds \"2024\", which is not date"),
        (
            Format::Jsonl,
            ["{\"a\":1}\n", "{\"a\":1}\n{\"b\":1}\n"],
            "column `b` does not appear in the rows from which the columns were inferred",
        ),
        (
            Format::Jsonl,
            ["{\"a\":{\"x\":1}}\n", "{}\n{\"a\":{\"y\":1}}\n"],
            "column `a.y` does not appear in the rows from which the columns were inferred",
        ),
    ];
    for (format, texts, expected) in cases {
        let error = chunks(format, &texts).unwrap_err();
        assert_eq!((error.record, error.to_string().as_str()), (1, expected));
        assert!(error.problem.column_to_declare().is_some());
    }
}

#[test]
fn a_declared_type_may_be_open() {
    let declared = [("a".to_owned(), DataType::Null), ("b".to_owned(), DataType::new_list(DataType::Null, true))];
    let read = decode(Format::Jsonl, b"{\"a\":1,\"b\":[1]}\n", &declared).unwrap();
    assert_eq!(types(&read), [DataType::Int64, DataType::new_list(DataType::Int64, true)]);
}

#[test]
fn a_declared_type_takes_a_text_whole_or_not_at_all() {
    let micros = |zone: Option<&str>| DataType::Timestamp(TimeUnit::Microsecond, zone.map(Into::into));
    let cases = [
        ("1.50", DataType::Decimal128(5, 1), true),
        ("1.55", DataType::Decimal128(5, 1), false),
        ("007", DataType::Int64, true),
        ("1.0", DataType::Int64, false),
        ("2024-01-31", DataType::Date32, true),
        ("2024-01-31T12:00:00", DataType::Date32, false),
        ("2024-01-31T12:00:00", micros(None), true),
        ("2024-01-31T12:00:00Z", micros(None), false),
        ("2024-01-31T12:00:00-05:00", micros(None), false),
        ("2024-01-31T12:00:00-05:00", micros(Some("UTC")), true),
        ("2024-01-31T12:00:00.1234567", micros(None), false),
        ("0aFF", DataType::Binary, true),
        ("0a\u{e9}", DataType::Binary, false),
        ("0aF", DataType::Binary, false),
    ];
    for (cell, data_type, fits) in cases {
        let declared = [("a".to_owned(), data_type.clone())];
        let csv = decode(Format::Csv, format!("a\n{cell}\n").as_bytes(), &declared);
        assert_eq!(csv.is_ok(), fits, "{cell} as {data_type}: {csv:?}");
    }
}

#[test]
fn words_that_are_null_replace_the_empty_field() {
    let decoded = |nulls: &[&str], text: &str, declared: &[(String, DataType)]| {
        let mut records = Records::default();
        let mut splitter = Splitter::csv(&Dialect::default());
        splitter.push(text.as_bytes(), &mut records, Limit { records: usize::MAX, bytes: usize::MAX }).unwrap();
        let nulls = Nulls::new(nulls.iter().map(|word| (*word).to_owned()).collect());
        let header = splitter.header().unwrap_or_default().to_vec();
        let decoder = TextDecoder::from_sample(Format::Csv, &header, &nulls, declared, &[&records]);
        decoder.unwrap().decode(&records)
    };
    let shown = |batch: &RecordBatch| {
        let show = |row| array_value_to_string(batch.column(0), row).unwrap();
        (0..batch.num_rows()).map(|row| batch.column(0).is_valid(row).then(|| show(row))).collect::<Vec<_>>()
    };
    let some = |value: &str| Some(value.to_owned());
    let numbers = decoded(&["", "NA", "-999"], "a,b\n1,\nNA,\n,\n\"-999\",\n2,\n", &[]).unwrap();
    assert_eq!(types(&numbers)[0], DataType::Int64);
    assert_eq!(shown(&numbers), [some("1"), None, None, None, some("2")]);
    // Without the empty field in the list, it is a text like any other.
    let texts = decoded(&["NA"], "a,b\nNA,\n,\n", &[]).unwrap();
    assert_eq!((types(&texts)[0].clone(), shown(&texts)), (DataType::Utf8, vec![None, some("")]));
    assert_eq!(shown(&decoded(&[], "a,b\nNA,\n,\n", &[]).unwrap()), [some("NA"), some("")]);
    let declared = [("a".to_owned(), DataType::Int64)];
    let error = decoded(&["NA"], "a,b\nNA,\n,\n", &declared).unwrap_err();
    assert_eq!((error.record, error.to_string().as_str()), (1, "column `a` holds \"\", which is not int64"));
}
