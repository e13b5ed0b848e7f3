//! Columns that are not in the files: those of folders, and of where rows come from.

use std::fs;

use arrow::array::{ArrayRef, Int64Array};
use arrow::util::pretty::pretty_format_batches;

use super::*;
use crate::plan::Partitions;
use crate::sql::{Query, Settings};

fn tree(files: &[(&str, &str)]) -> Folder {
    let folder = Folder::new(&[]);
    for (name, text) in files {
        fs::create_dir_all(folder.path(name).parent().unwrap()).unwrap();
        fs::write(folder.path(name), text).unwrap();
    }
    folder
}

fn of(folder: &Folder, format: Format, partitions: Option<Partitions>, origin: bool) -> Read {
    Read { folder: folder.path(""), partitions, origin, ..read(format, &[folder.path("in")]) }
}

fn years() -> Folder {
    tree(&[
        ("in/year=2024/c=de/b.csv", "n\n3\n"),
        ("in/year=2024/c=de/a.csv", "n\n1\n2\n"),
        ("in/year=2023/c=a%2Fb/a.csv", "n\n4\n"),
        ("in/year=2023/c=__HIVE_DEFAULT_PARTITION__/a.csv", "n\n5\n"),
        ("in/year=2023/_temporary/a.csv", "n\n6\n"),
        ("in/year=2023/.hidden/a.csv", "n\n7\n"),
        ("in/_SUCCESS", ""),
    ])
}

/// All rows, without the frame of the table.
fn shown(read: &Read) -> Result<Vec<String>, ReadError> {
    let mut source = Source::open(read, cut(2), false, &FileTable::default())?;
    let mut batches = Vec::new();
    while let Some(batch) = source.next_batch()? {
        assert!(batch.rows() <= 2);
        let records = batch.records().unwrap();
        assert_eq!(Some(records.schema()), source.schema());
        batches.push(records);
    }
    let table = pretty_format_batches(&batches).unwrap().to_string();
    let rows = table.lines().filter(|line| line.starts_with('|'));
    Ok(rows
        .map(|row| row.split('|').map(str::trim).filter(|cell| !cell.is_empty()).collect::<Vec<_>>().join(" "))
        .collect())
}

fn types(read: &Read) -> Vec<(String, DataType)> {
    let columns = super::super::columns(read, cut(2)).unwrap();
    columns.fields().iter().map(|field| (field.name().clone(), field.data_type().clone())).collect()
}

#[test]
fn folders_are_columns_and_files_come_in_the_order_of_their_paths() {
    let folder = years();
    let read = of(&folder, Format::Csv, Some(Partitions::Found), true);
    let expected = [
        "n year c _file _row",
        "5 2023 in/year=2023/c=__HIVE_DEFAULT_PARTITION__/a.csv 1",
        "4 2023 a/b in/year=2023/c=a%2Fb/a.csv 1",
        "1 2024 de in/year=2024/c=de/a.csv 1",
        "2 2024 de in/year=2024/c=de/a.csv 2",
        "3 2024 de in/year=2024/c=de/b.csv 1",
    ];
    assert_eq!(shown(&read).unwrap(), expected);
    let columns = [("n", DataType::Int64), ("year", DataType::Int64), ("c", DataType::Utf8)];
    let origin = [("_file", DataType::Utf8), ("_row", DataType::UInt64)];
    let owned = |(name, data_type): (&str, DataType)| (name.to_owned(), data_type);
    assert_eq!(types(&read), columns.into_iter().chain(origin).map(owned).collect::<Vec<_>>());
    // What is declared is read alone, and as it is declared.
    let declared = Partitions::Declared(vec![("year".to_owned(), DataType::Utf8)]);
    let read = of(&folder, Format::Csv, Some(declared), false);
    assert_eq!(types(&read)[1], ("year".to_owned(), DataType::Utf8));
    assert_eq!(shown(&read).unwrap()[..2], ["n year", "5 2023"]);
}

#[test]
fn what_paths_do_not_say_is_an_error() {
    let folder = years();
    let error = |folder: &Folder, partitions| {
        folder.bare(&shown(&of(folder, Format::Csv, Some(partitions), true)).unwrap_err())
    };
    let declared = |name: &str, data_type| Partitions::Declared(vec![(name.to_owned(), data_type)]);
    assert_eq!(
        error(&folder, declared("month", DataType::Int64)),
        "in/year=2023/c=__HIVE_DEFAULT_PARTITION__/a.csv has no folder `month=…` in its path, which `partitions` asks for"
    );
    assert_eq!(
        error(&folder, declared("c", DataType::Int64)),
        "in/year=2023/c=a%2Fb/a.csv: the folder of `c` has the value `a/b`, which is no int64"
    );
    let uneven = tree(&[("in/a=1/x.csv", "n\n1\n"), ("in/a=1/b=2/x.csv", "n\n1\n")]);
    assert!(error(&uneven, Partitions::Found).starts_with("in/a=1/x.csv has no folder `b=…`"));
    let flat = tree(&[("in/x.csv", "n\n1\n")]);
    assert!(error(&flat, Partitions::Found).starts_with("in/x.csv has no folder `column=value`"));
    let taken = tree(&[("in/n=1/x.csv", "n\n1\n")]);
    assert!(error(&taken, Partitions::Found).starts_with("in/n=1/x.csv has a column `n` of its own"));
}

#[test]
fn lines_and_files_have_an_origin_too() {
    let folder = tree(&[("in/a.txt", "x\ny\nz"), ("in/b.txt", "\n")]);
    let read = of(&folder, Format::Lines, None, true);
    let expected = ["line _file _row", "x in/a.txt 1", "y in/a.txt 2", "z in/a.txt 3", "in/b.txt 1"];
    assert_eq!(shown(&read).unwrap(), expected);
    let folder = tree(&[("in/k=1/a.bin", "x")]);
    let read = of(&folder, Format::Binary, Some(Partitions::Found), true);
    assert_eq!(shown(&read).unwrap()[1], "in/k=1/a.bin 78 1 in/k=1/a.bin 1");
}

#[test]
fn columns_that_nobody_uses_are_not_there() {
    let folder = years();
    let using = |sql: &str| Read {
        used: Query::parse(sql).unwrap().columns("t").cloned(),
        ..of(&folder, Format::Csv, Some(Partitions::Found), true)
    };
    let header = |sql: &str| shown(&using(sql)).unwrap()[0].clone();
    assert_eq!(header("SELECT n, year FROM t"), "n year");
    assert_eq!(header("SELECT year FROM t"), "year");
    assert_eq!(header("SELECT _row, c FROM t"), "c _row");
    assert_eq!(header("SELECT count(*) AS n FROM t"), "n");
    assert_eq!(header("SELECT * FROM t"), "n year c _file _row");
    assert_eq!(header("SELECT nonsense FROM t"), "n year c _file _row");
}

#[test]
fn files_whose_folders_no_condition_asks_for_are_not_read() {
    let folder = Folder::new(&[]);
    for (year, rows) in [(2023, 0..3), (2024, 3..6)] {
        let path = folder.path(&format!("in/year={year}/a.parquet"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(rows));
        let mut bytes = Vec::new();
        crate::format::encode(Format::Parquet, &RecordBatch::try_from_iter([("n", column)]).unwrap(), &mut bytes)
            .unwrap();
        fs::write(path, bytes).unwrap();
    }
    let rows = |sql: &str| {
        let query = Query::parse(sql).unwrap();
        let read =
            Read { used: query.columns("t").cloned(), ..of(&folder, Format::Parquet, Some(Partitions::Found), true) };
        let settings = Settings {
            stage: "q".to_owned(),
            params: std::collections::BTreeMap::new(),
            seed: 1,
            started: std::time::SystemTime::UNIX_EPOCH,
            memory_limit: 1 << 20,
            spill_folder: PathBuf::new(),
            spill_limit: 0,
        };
        let consumer = Consumer { query, table: "t".to_owned(), settings };
        let source = Source::open(&read, Cut::default(), true, &FileTable::default()).unwrap();
        let mut source = source.serving(vec![consumer]);
        let mut rows = 0;
        while let Some(batch) = source.next_batch().unwrap() {
            rows += batch.rows();
        }
        rows
    };
    assert_eq!(rows("SELECT n FROM t WHERE year = 2024"), 3);
    assert_eq!(rows("SELECT n FROM t WHERE year > 2024"), 0);
    assert_eq!(rows("SELECT n FROM t WHERE year = 2024 AND n < 3"), 0);
    assert_eq!(rows("SELECT n FROM t WHERE year = 2024 OR n < 3"), 6);
    assert_eq!(rows("SELECT n FROM t WHERE _row > 1"), 6);
}
