//! Records that cannot be read, among others.

use proptest::prelude::*;

use super::*;
use crate::format::malformed::{and_of_the_rest, sift, without};

const ALL: Limit = Limit { records: usize::MAX, bytes: usize::MAX };

fn split(format: Format, text: &str, width: Option<usize>) -> (Records, Vec<String>) {
    let dialect = Dialect { header: width.is_none(), ..Dialect::default() };
    let mut splitter = match format {
        Format::Csv => Splitter::csv_of_any_width(&dialect, width),
        Format::Json => Splitter::json(),
        _ => Splitter::jsonl(),
    };
    let mut records = Records::default();
    splitter.push(text.as_bytes(), &mut records, ALL).unwrap();
    splitter.finish(&mut records).unwrap();
    (records, splitter.header().unwrap_or_default().to_vec())
}

/// The rows that can be read, as JSON, and the places of the others with what is wrong with them. The decoder is made from `sample`, and
/// gives what comes of `text`.
fn sifted(format: Format, sample: &str, text: &str, declared: &[(&str, DataType)]) -> (String, Vec<(usize, String)>) {
    let declared: Vec<_> = declared.iter().map(|(name, data_type)| ((*name).to_owned(), data_type.clone())).collect();
    let header = |text: &str| if format == Format::Csv { format!("a,b\n{text}") } else { text.to_owned() };
    let (sample, names) = split(format, &header(sample), None);
    let (records, _) = split(format, &header(text), None);
    let decoder = TextDecoder::from_good_records(format, &names, &Nulls::default(), &declared, &[&sample]);
    let mut decoder = decoder.unwrap();
    let Sifted { batch, left_out } = decoder.sift(&records).unwrap();
    let left_out = left_out.into_iter().map(|error| (error.record, error.problem.to_string()));
    (super::text(Format::Jsonl, &batch), left_out.collect())
}

fn places(left_out: &[(usize, String)]) -> Vec<usize> {
    left_out.iter().map(|(at, _)| *at).collect()
}

#[test]
fn records_of_another_width_are_put_aside_with_their_text() {
    let aside = |records: &Records| -> Vec<(usize, String, String)> {
        let aside = records.malformed().iter();
        aside.map(|(at, malformed)| (*at, malformed.text.clone(), malformed.problem.to_string())).collect()
    };
    let ragged =
        |at, text: &str, found| (at, text.to_owned(), format!("the record has {found}, but there are 2 columns"));
    let (records, _) = split(Format::Csv, "a,b\n1\n2,3\n\"x,\"\"y\",\"l\nm\",z\n\n4,\"5\"\n6,7,8,9", None);
    assert_eq!(records.len(), 2);
    let expected =
        [ragged(0, "1", "1 field"), ragged(1, "\"x,\"\"y\",\"l\nm\",z", "3 fields"), ragged(2, "6,7,8,9", "4 fields")];
    assert_eq!(aside(&records), expected);
    // Without a header it is known from what is declared, or the first record tells.
    let (records, _) = split(Format::Csv, "1\n2,3\n", Some(2));
    assert_eq!((records.len(), aside(&records)), (1, vec![ragged(0, "1", "1 field")]));
    let mut splitter = Splitter::csv_of_any_width(&Dialect { header: false, ..Dialect::default() }, None);
    let mut records = Records::default();
    splitter.push(b"1,2\n3\n", &mut records, ALL).unwrap();
    assert_eq!((records.len(), aside(&records)), (1, vec![ragged(1, "3", "1 field")]));
}

#[test]
fn records_that_are_put_aside_count_for_the_limit() {
    let mut splitter = Splitter::csv_of_any_width(&Dialect::default(), None);
    let mut records = Records::default();
    let text = b"a,b\n1\n2\n3\n4,5\n6,7\n";
    let taken = splitter.push(text, &mut records, Limit { records: 3, bytes: usize::MAX }).unwrap();
    assert_eq!((taken, records.len(), records.malformed().len()), (b"a,b\n1\n2\n3\n".len(), 0, 3));
}

#[test]
fn long_texts_are_cut() {
    let long = "\u{e9}".repeat(40_000);
    let (records, _) = split(Format::Csv, &format!("a,b\nx{long}\n"), None);
    assert!(records.malformed()[0].1.text.ends_with("… (cut off: it has 80001 bytes)"));
    let text = RecordText::Whole.text([format!("x{long}").as_bytes()].into_iter());
    assert_eq!(text, format!("x{}… (cut off: it has 80001 bytes)", "\u{e9}".repeat(32_767)));
    assert_eq!(RecordText::Whole.text([&b"a\xffb"[..]].into_iter()), "a\u{fffd}b");
}

#[test]
fn values_that_do_not_fit_are_left_out_with_their_records() {
    let a = [("a", DataType::Int64)];
    let (rows, left_out) = sifted(Format::Csv, "1,x\n", "one,1\n2,y\nthree,z\n", &a);
    assert_eq!(rows, "{\"a\":2,\"b\":\"y\"}\n");
    let is_not = |text: &str| format!("column `a` holds \"{text}\", which is not int64");
    assert_eq!(left_out, [(0, is_not("one")), (2, is_not("three"))]);
    let text =
        "{\"a\":1,\"b\":\"x\"}\nnonsense\n[1]\n{\"a\":\"one\"}\n{\"a\":2,\"c\":0}\n{\"a\":3,\"a\":3}\n{\"a\":4}\n";
    let (rows, left_out) = sifted(Format::Jsonl, "{\"a\":1,\"b\":\"x\"}\n", text, &a);
    assert_eq!(rows, "{\"a\":1,\"b\":\"x\"}\n{\"a\":4,\"b\":null}\n");
    assert_eq!(places(&left_out), [1, 2, 3, 4, 5]);
    assert_eq!(left_out[0].1, "not a JSON object: expected ident (column 2)");
    assert_eq!(left_out[3].1, "column `c` does not appear in the rows from which the columns were inferred");
    let json = "[{\"a\": 1, \"b\": \"x\"}, {\"a\": tru}, {\"a\": 2, \"b\": null}]";
    let (rows, left_out) = sifted(Format::Json, "{\"a\":1,\"b\":\"x\"}", json, &[]);
    assert_eq!((rows.as_str(), places(&left_out)), ("{\"a\":1,\"b\":\"x\"}\n{\"a\":2,\"b\":null}\n", vec![1]));
}

#[test]
fn records_that_are_left_out_decide_no_types() {
    // A header in the middle of a file is no number, and would make text of the other columns.
    let (rows, left_out) = sifted(Format::Csv, "a,b\n1,2\n", "a,b\n1,2\n", &[("a", DataType::Int64)]);
    assert_eq!((rows.as_str(), places(&left_out)), ("{\"a\":1,\"b\":2}\n", vec![0]));
    let text = "{\"a\":\"x\",\"b\":1,\"c\":1}\nnonsense\n{\"a\":1,\"b\":\"y\"}\n";
    let (rows, left_out) = sifted(Format::Jsonl, text, text, &[("a", DataType::Int64)]);
    assert_eq!((rows.as_str(), places(&left_out)), ("{\"a\":1,\"b\":\"y\"}\n", vec![0, 1]));
    // Of those that do not fit each other, the first one does.
    let text = "{\"a\":[1,\"x\"]}\n{\"a\":2}\n{\"a\":\"x\"}\n{\"a\":3.5}\n";
    let (rows, left_out) = sifted(Format::Jsonl, text, text, &[]);
    assert_eq!((rows.as_str(), places(&left_out)), ("{\"a\":2.0}\n{\"a\":3.5}\n", vec![0, 2]));
}

#[test]
fn nor_do_they_where_the_sample_has_no_values() {
    let (rows, left_out) = sifted(Format::Csv, "1,\n", "x,y\n1,2\n", &[("a", DataType::Int64)]);
    assert_eq!((rows.as_str(), places(&left_out)), ("{\"a\":1,\"b\":2}\n", vec![0]));
    let sample = "{\"a\":1,\"b\":null,\"c\":[]}\n";
    let text = "{\"a\":\"x\",\"b\":\"y\"}\n{\"b\":[1,\"x\"]}\n{\"a\":2,\"b\":3,\"c\":0}\n{\"b\":4,\"c\":[5]}\n{\"b\":\"z\"}\n{\"a\":}\n";
    let (rows, left_out) = sifted(Format::Jsonl, sample, text, &[]);
    assert_eq!(rows, "{\"a\":null,\"b\":4,\"c\":[5]}\n");
    assert_eq!(places(&left_out), [0, 1, 2, 4, 5]);
    assert_eq!(left_out[1].1, "column `b` holds a list, which is not int64");
}

proptest! {
    /// Wherever bad records stand, exactly they are found, and the others are decoded as if they were alone.
    #[test]
    fn bad_records_are_found_among_good_ones(is_bad in prop::collection::vec(prop::bool::weighted(0.2), 0..60)) {
        let line = |(at, bad): (usize, &bool)| if *bad { format!("x{at},1\n") } else { format!("{at},\"q\n\"\n") };
        let text: String = is_bad.iter().enumerate().map(line).collect();
        let (rows, left_out) = sifted(Format::Csv, "", &text, &[("a", DataType::Int64), ("b", DataType::Utf8)]);
        let bad: Vec<usize> = (0..is_bad.len()).filter(|at| is_bad[*at]).collect();
        prop_assert_eq!(places(&left_out), bad);
        let good = (0..is_bad.len()).filter(|at| !is_bad[*at]);
        let good: String = good.map(|at| format!("{{\"a\":{at},\"b\":\"q\\n\"}}\n")).collect();
        prop_assert_eq!(rows, good);
    }

    #[test]
    fn records_are_selected_as_they_are(widths in 1_usize..4, kept in prop::collection::vec(any::<bool>(), 0..20)) {
        let mut records = Records::default();
        for at in 0..kept.len() {
            let fields: Vec<String> = (0..widths).map(|field| format!("{at}").repeat((at + field) % 3)).collect();
            let ends = fields.iter().scan(0, |end, field| { *end += field.len(); Some(*end) }).collect::<Vec<_>>();
            records.push(fields.concat().as_bytes(), &ends);
        }
        let error = |record| RecordError { record, problem: Problem::NotUtf8 };
        let dropped: Vec<_> = (0..kept.len()).filter(|at| !kept[*at]).map(error).collect();
        let selected = without(&records, &dropped);
        let shown = |records: &Records, at| records.fields(at).map(<[u8]>::to_vec).collect::<Vec<_>>();
        let expected: Vec<_> = (0..kept.len()).filter(|at| kept[*at]).map(|at| shown(&records, at)).collect();
        prop_assert_eq!((0..selected.len()).map(|at| shown(&selected, at)).collect::<Vec<_>>(), expected);
        prop_assert_eq!(selected.bytes(), (0..selected.len()).flat_map(|at| shown(&selected, at)).map(|field| field.len()).sum::<usize>());
        // Those that are left out of the rest are where they were in all.
        let again: Vec<_> = (0..selected.len()).map(error).collect();
        let all = and_of_the_rest(dropped, again);
        prop_assert_eq!(all.iter().map(|error| error.record).collect::<Vec<_>>(), (0..kept.len()).collect::<Vec<_>>());
    }
}

/// What it costs to find bad records, in records that are decoded.
#[test]
fn few_bad_records_cost_little() {
    let (records, _) = split(Format::Jsonl, &"{}\n".repeat(8192), None);
    let empty = || RecordBatch::new_empty(std::sync::Arc::new(Schema::empty()));
    let cost = |bad: &[usize]| {
        let looked_at = std::cell::Cell::new(0);
        // Records are told apart by nothing but where they are, so the text says it.
        let text: String = (0..8192).map(|at| format!("{{\"n\":{at}}}\n")).collect();
        let (numbered, _) = split(Format::Jsonl, &text, None);
        let found = sift(&numbered, |part| {
            looked_at.set(looked_at.get() + part.len());
            let is_bad = |record: &usize| {
                let text = std::str::from_utf8(part.field(*record, 0)).unwrap();
                bad.iter().any(|at| text == format!("{{\"n\":{at}}}"))
            };
            match (0..part.len()).find(is_bad) {
                None => Ok(empty()),
                Some(record) => Err(RecordError { record, problem: Problem::NotUtf8 }),
            }
        });
        assert_eq!(found.unwrap().left_out.iter().map(|error| error.record).collect::<Vec<_>>(), bad);
        looked_at.get()
    };
    assert_eq!(cost(&[]), records.len());
    for bad in [0, 5000, 8191] {
        assert!(cost(&[bad]) <= 3 * records.len(), "{}", cost(&[bad]));
    }
    let all: Vec<usize> = (0..8192).step_by(64).collect();
    assert!(cost(&all) <= 12 * records.len(), "{}", cost(&all));
}
