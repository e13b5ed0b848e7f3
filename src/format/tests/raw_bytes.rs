//! Bytes as they are.

use super::*;

#[test]
fn bytes_are_written_as_they_are() {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(BinaryArray::from_vec(vec![b"a\xff\n", b"", b"\0b"])),
        Arc::new(LargeBinaryArray::from_vec(vec![b"a\xff\n", b"", b"\0b"])),
        Arc::new(BinaryViewArray::from_iter_values([&b"a\xff\n"[..], b"", b"\0b"])),
        Arc::new(FixedSizeBinaryArray::try_from_iter([b"a\xff", b"\n\0"].into_iter()).unwrap()),
    ];
    for column in columns {
        let mut out = Vec::new();
        encode(Format::Bytes, &batch(vec![("any", column.clone())]), &mut out).unwrap();
        let expected = if column.len() == 2 { &b"a\xff\n\0"[..] } else { b"a\xff\n\0b" };
        assert_eq!(out, expected, "{}", column.data_type());
    }
    let texts: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(vec!["ä\n", "b"])),
        Arc::new(LargeStringArray::from(vec!["ä\n", "b"])),
        Arc::new(StringViewArray::from(vec!["ä\n", "b"])),
        Arc::new(DictionaryArray::<Int32Type>::from_iter(["ä\n", "b"])),
    ];
    for column in texts {
        assert_eq!(text(Format::Bytes, &batch(vec![("any", column)])), "ä\nb");
    }
}

#[test]
fn bytes_are_one_row_and_no_other_values() {
    for written in [&b"a\xff\n"[..], b""] {
        let read = decode(Format::Bytes, written, &[]).unwrap();
        assert_eq!((read.num_rows(), read.schema().field(0).name().as_str()), (1, "bytes"));
        assert_eq!(read.column(0).as_binary::<i32>().value(0), written);
    }
    let fails = |columns| encode(Format::Bytes, &batch(columns), &mut Vec::new()).unwrap_err().to_string();
    let number: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    let null: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None]));
    let nulls: ArrayRef = Arc::new(NullArray::new(1));
    assert_eq!(fails(vec![("n", number.clone())]), "column `n` is int64, and only binary and text are bytes");
    assert_eq!(
        fails(vec![("a", number.clone()), ("b", number)]),
        "bytes are written from one column; there are `a`, `b`"
    );
    assert_eq!(fails(vec![("t", null)]), "a value of column `t` is null, and has no bytes");
    assert_eq!(fails(vec![("t", nulls)]), "a value of column `t` is null, and has no bytes");
}
