//! Which columns a source reads, and of which types.

use std::fs;

use super::*;

#[test]
fn declared_columns_are_cast_in_columnar_files() {
    let folder = Folder::new(&[]);
    let column: arrow::array::ArrayRef = Arc::new(arrow::array::Int64Array::from(vec![1, 300]));
    let batch = RecordBatch::try_from_iter([("n", column)]).unwrap();
    let mut bytes = Vec::new();
    crate::format::encode(Format::Parquet, &batch, &mut bytes).unwrap();
    fs::write(folder.path("a.parquet"), bytes).unwrap();
    let mut read = read(Format::Parquet, &[folder.path("a.parquet")]);
    read.schema = vec![("n".to_owned(), DataType::Int16)];
    let mut source = Source::open(&read, Cut::default(), true, &FileTable::default()).unwrap();
    assert_eq!(parts(&source.next_batch().unwrap().unwrap()).0.column(0).data_type(), &DataType::Int16);
    read.schema = vec![("n".to_owned(), DataType::Int8)];
    let mut source = Source::open(&read, Cut::default(), true, &FileTable::default()).unwrap();
    assert!(matches!(source.next_batch(), Err(ReadError::Conform { .. })));
}

#[test]
fn csv_without_a_header_takes_declared_names() {
    let folder = Folder::new(&[("a.csv", "1,x\n2,y\n")]);
    let mut read = read(Format::Csv, &[folder.path("a.csv")]);
    read.dialect.header = false;
    let names = |read: &Read| -> Result<Vec<String>, ReadError> {
        let mut source = Source::open(read, Cut::default(), true, &FileTable::default())?;
        let (batch, _) = parts(&source.next_batch()?.unwrap());
        assert_eq!(batch.num_rows(), 2);
        Ok(batch.schema().fields().iter().map(|field| field.name().clone()).collect())
    };
    assert_eq!(names(&read).unwrap(), ["column_1", "column_2"]);
    read.schema = vec![("n".to_owned(), DataType::Int64), ("t".to_owned(), DataType::Utf8)];
    assert_eq!(names(&read).unwrap(), ["n", "t"]);
    read.schema.pop();
    let error = names(&read).unwrap_err();
    assert_eq!(folder.bare(&error), "a.csv: the record has 2 fields, but there is 1 column");
}

/// Three columns and three rows.
fn three_columns(format: Format, folder: &Folder) -> Read {
    let (ids, texts) = ([1, 2, 3], ["x", "y", "z"]);
    let columns: [(&str, arrow::array::ArrayRef); 3] = [
        ("a", Arc::new(arrow::array::Int64Array::from(ids.to_vec()))),
        ("b", Arc::new(arrow::array::StringArray::from(texts.to_vec()))),
        ("c", Arc::new(arrow::array::Int64Array::from(ids.map(|id| id * 10).to_vec()))),
    ];
    let mut bytes = Vec::new();
    crate::format::encode(format, &RecordBatch::try_from_iter(columns).unwrap(), &mut bytes).unwrap();
    let path = folder.path(&format!("a.{}", format.extensions()[0]));
    fs::write(&path, bytes).unwrap();
    read(format, &[path])
}

fn using(read: &Read, sql: &str) -> Read {
    let query = crate::sql::Query::parse(sql).unwrap();
    Read { used: query.columns("t").cloned(), ..read.clone() }
}

/// The batches as one text each, and the columns that the source says it has.
fn shown(read: &Read) -> Result<(Vec<String>, String), ReadError> {
    let mut source = Source::open(read, Cut::default(), true, &FileTable::default())?;
    let mut found = Vec::new();
    while let Some(batch) = source.next_batch()? {
        let (batch, _) = parts(&batch);
        let text = arrow::util::pretty::pretty_format_batches(&[batch]).unwrap().to_string();
        let rows = text.lines().filter(|line| line.starts_with('|')).map(|line| line.replace(['|', ' '], ""));
        found.push(rows.collect::<Vec<_>>().join(" "));
    }
    let schema = source.schema().unwrap();
    let names = schema.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>().join(" ");
    Ok((found, names))
}

#[test]
fn only_used_columns_are_read() {
    let folder = Folder::new(&[]);
    for format in [Format::Csv, Format::Jsonl, Format::Parquet, Format::Arrow] {
        let read = three_columns(format, &folder);
        let rows = |sql: &str| shown(&using(&read, sql)).unwrap().0;
        assert_eq!(rows("SELECT c, a FROM t"), ["ac 110 220 330"], "{format:?}");
        assert_eq!(rows("SELECT lower(b) AS z FROM t ORDER BY z"), ["b x y z"], "{format:?}");
        assert_eq!(rows("SELECT count(*) FROM t"), ["a 1 2 3"], "{format:?}: one, to count rows");
        assert_eq!(rows("SELECT C FROM t"), ["abc 1x10 2y20 3z30"], "{format:?}: the message can say what there is");
        assert_eq!(shown(&using(&read, "SELECT c FROM t")).unwrap().1, "c", "{format:?}");
    }
}

#[test]
fn files_must_agree_on_columns_that_are_not_used() {
    let folder = Folder::new(&[]);
    for format in [Format::Parquet, Format::Arrow] {
        let first = three_columns(format, &folder);
        let other = RecordBatch::try_from_iter([
            ("a", Arc::new(arrow::array::Int64Array::from(vec![4])) as arrow::array::ArrayRef),
            ("b", Arc::new(arrow::array::Int64Array::from(vec![4]))),
            ("c", Arc::new(arrow::array::Int64Array::from(vec![40]))),
        ]);
        let mut bytes = Vec::new();
        crate::format::encode(format, &other.unwrap(), &mut bytes).unwrap();
        let path = folder.path("z");
        fs::write(&path, bytes).unwrap();
        let both = Read { paths: vec![first.paths[0].clone(), path.into()], ..first };
        let error = shown(&using(&both, "SELECT a FROM t")).unwrap_err();
        assert_eq!(folder.bare(&error), shown(&both).map(|_| ()).map_err(|error| folder.bare(&error)).unwrap_err());
    }
}

#[test]
fn values_of_columns_that_are_not_used_are_not_looked_at() {
    let csv = format!("a,b,c\n{}x,y,z\n", "1,2,3\n".repeat(SAMPLE));
    let jsonl =
        format!("{}{{\"a\":1,\"b\":{{\"q\":[1]}},\"c\":\"z\"}}\n", "{\"a\":1,\"b\":2,\"c\":3}\n".repeat(SAMPLE));
    let unknown = format!("{}{{\"a\":1,\"d\":2}}\n", "{\"a\":1,\"b\":2,\"c\":3}\n".repeat(SAMPLE));
    let ragged = format!("a,b,c\n{}1,2\n", "1,2,3\n".repeat(SAMPLE));
    let folder = Folder::new(&[
        ("a.csv", &csv.replace('x', "1")),
        ("a.jsonl", &jsonl),
        ("b.jsonl", &unknown),
        ("b.csv", &ragged),
    ]);
    let rows = |name: &str, sql: &str| {
        let format = if name.ends_with("csv") { Format::Csv } else { Format::Jsonl };
        let mut source = Source::open(
            &using(&read(format, &[folder.path(name)]), sql),
            Cut::default(),
            true,
            &FileTable::default(),
        )?;
        let mut rows = 0;
        while let Some(batch) = source.next_batch()? {
            rows += batch.rows();
        }
        Ok::<_, ReadError>(rows)
    };
    for name in ["a.csv", "a.jsonl"] {
        assert_eq!(rows(name, "SELECT a FROM t").unwrap(), SAMPLE + 1, "{name}");
        assert!(rows(name, "SELECT a, c FROM t").is_err(), "{name}");
    }
    for name in ["b.csv", "b.jsonl"] {
        let error = rows(name, "SELECT a FROM t").unwrap_err();
        assert!(folder.bare(&error).contains(&format!("row {}", SAMPLE + 1)), "{error}");
    }
}
