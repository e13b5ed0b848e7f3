//! Malformed records that a source leaves out.

use super::*;
use crate::sql::Query;

fn lenient(format: Format, paths: &[PathBuf]) -> Read {
    Read { leaves_out_malformed: true, ..read(format, paths) }
}

/// A row's first column and its place; a record that was left out, with its place and what is wrong with it.
type Rows = Vec<(i64, String)>;
type LeftOut = Vec<(String, String, String)>;

fn all(read: &Read, cut: Cut) -> Result<(Rows, LeftOut, Vec<usize>), ReadError> {
    let files = FileTable::default();
    let place = |origin: &Origin, row| {
        let place = origin.place(row).unwrap();
        assert_eq!(place.first, place.last);
        format!("{}:{}", files.path(place.file).unwrap().file_name().unwrap().to_str().unwrap(), place.first)
    };
    let mut source = Source::open(read, cut, true, &files)?;
    let (mut rows, mut left_out, mut sizes) = (Vec::new(), Vec::new(), Vec::new());
    while let Some(batch) = source.next_batch()? {
        let (records, origin) = parts(&batch);
        assert_eq!(records.num_rows(), origin.len());
        sizes.push(records.num_rows());
        if records.num_rows() > 0 {
            let values = records.column(0).as_primitive::<Int64Type>().values();
            rows.extend(values.iter().enumerate().map(|(row, value)| (*value, place(&origin, row))));
        }
        let Some((texts, problems)) = source.take_malformed().map(MalformedRows::into_batch) else { continue };
        let (texts, origin) = parts(&texts);
        let texts = texts.column(0).as_string::<i32>();
        for (row, problem) in problems.into_iter().enumerate() {
            left_out.push((texts.value(row).to_owned(), place(&origin, row), problem.to_string()));
        }
    }
    Ok((rows, left_out, sizes))
}

fn bare(left_out: &LeftOut) -> Vec<(&str, &str)> {
    left_out.iter().map(|(text, place, _)| (text.as_str(), place.as_str())).collect()
}

#[test]
fn good_rows_keep_their_numbers_and_bad_ones_have_theirs() {
    let folder = Folder::new(&[("a.csv", "n,s\nx,1\n1,2\n2\n3,\"4\n\"\n"), ("b.csv", "n,s\n5,6,7\ny,\"8\"\n9,10\n")]);
    let paths = [folder.path("a.csv"), folder.path("b.csv")];
    let schema = vec![("n".to_owned(), DataType::Int64)];
    let read = Read { schema, ..lenient(Format::Csv, &paths) };
    for rows in [1, 2, 3, 100] {
        let (rows, left_out, _) = all(&read, cut(rows)).unwrap();
        let place = |value, place: &str| (value, place.to_owned());
        assert_eq!(rows, [place(1, "a.csv:2"), place(3, "a.csv:4"), place(9, "b.csv:3")]);
        let expected = [("x,1", "a.csv:1"), ("2", "a.csv:3"), ("5,6,7", "b.csv:1"), ("y,8", "b.csv:2")];
        assert_eq!(bare(&left_out), expected);
        assert_eq!(left_out[1].2, "the record has 1 field, but there are 2 columns");
        assert_eq!(left_out[3].2, "column `n` holds \"y\", which is not int64");
    }
    let fails = Read { leaves_out_malformed: false, ..read };
    let error = all(&fails, Cut::default()).unwrap_err();
    assert_eq!(folder.bare(&error), "a.csv, row 3: the record has 1 field, but there are 2 columns");
}

#[test]
fn a_batch_of_bad_records_alone_is_an_empty_one() {
    let lines = "nonsense\n".repeat(4) + "{\"n\":1}\n" + &"[]\n".repeat(3);
    let folder = Folder::new(&[("a.jsonl", &lines)]);
    let read = lenient(Format::Jsonl, &[folder.path("a.jsonl")]);
    let (rows, left_out, sizes) = all(&read, cut(2)).unwrap();
    assert_eq!((rows, sizes, left_out.len()), (vec![(1, "a.jsonl:5".to_owned())], vec![0, 0, 1, 0], 7));
    let with_origin = Read { origin: true, ..read };
    assert_eq!(all(&with_origin, cut(2)).unwrap().2, [0, 0, 1, 0]);
    let folder = Folder::new(&[("a.csv", "a,b\n1\n2\n")]);
    let (rows, left_out, sizes) = all(&lenient(Format::Csv, &[folder.path("a.csv")]), Cut::default()).unwrap();
    assert_eq!((rows.len(), left_out.len(), sizes), (0, 2, vec![0]));
}

#[test]
fn what_is_read_ahead_is_as_what_comes_through_a_pipe() {
    let row = |row: i64| match row % 1000 {
        7 => format!("x{row},a\n"),
        11 => format!("{row}\n"),
        13 => format!("{row},\"b\n\"\n"),
        _ => format!("{row},c\n"),
    };
    let text = (0..40_000).map(row).collect::<String>() + "x,y,z";
    let folder = Folder::new(&[("a", &text)]);
    let schema = vec![("n".to_owned(), DataType::Int64), ("s".to_owned(), DataType::Utf8)];
    let dialect = Dialect { header: false, ..Dialect::default() };
    let settings = |path| Read { schema: schema.clone(), dialect: dialect.clone(), ..lenient(Format::Csv, &[path]) };
    for rows in [100, 8192] {
        let fifo = folder.fifo(&format!("a{rows}"));
        let (path, bytes) = (fifo.clone(), text.clone());
        let writer = std::thread::spawn(move || fs::write(path, bytes).unwrap());
        let numbers = |(rows, left_out, _): (Rows, LeftOut, Vec<usize>)| {
            let number = |place: &str| place.split_once(':').unwrap().1.to_owned();
            let rows: Vec<_> = rows.into_iter().map(|(value, place)| (value, number(&place))).collect();
            let left_out: Vec<_> = left_out.into_iter().map(|(text, place, _)| (text, number(&place))).collect();
            (rows, left_out)
        };
        let piped = numbers(all(&settings(fifo), cut(rows)).unwrap());
        writer.join().unwrap();
        let file = numbers(all(&settings(folder.path("a")), cut(rows)).unwrap());
        assert_eq!((file.0.len(), file.1.len()), (40_000 - 80, 81));
        assert!(file.0.iter().all(|(value, number)| *number == (value + 1).to_string()));
        assert_eq!(file.1[80], ("x,y,z".to_owned(), "40001".to_owned()));
        assert!(piped == file, "{rows} rows");
    }
}

#[test]
fn the_first_records_of_a_pipe_may_all_be_bad() {
    let folder = Folder::new(&[]);
    let path = folder.fifo("pipe");
    let opened = path.clone();
    let writer = std::thread::spawn(move || {
        let mut pipe = fs::OpenOptions::new().write(true).open(opened).unwrap();
        pipe.write_all(b"nonsense\n").unwrap();
        std::thread::sleep(Duration::from_millis(300));
        pipe.write_all(b"{\"n\":1}\n").unwrap();
    });
    let (rows, left_out, _) = all(&lenient(Format::Jsonl, &[path]), Cut::default()).unwrap();
    writer.join().unwrap();
    assert_eq!((rows.len(), left_out.len()), (1, 1));
}

#[test]
fn batches_end_with_files_of_bad_records_too() {
    let folder = Folder::new(&[("a.csv", "n,s\n1\n"), ("b.csv", "n,s\n2,x\n"), ("c.csv", "n,s\n3,x\ny\n")]);
    let read = lenient(Format::Csv, &[folder.path("*.csv")]);
    let (rows, left_out, sizes) = all(&read, Cut { at_files: true, ..Cut::default() }).unwrap();
    assert_eq!((rows.len(), sizes), (2, vec![0, 1, 1]));
    assert_eq!(bare(&left_out), [("1", "a.csv:1"), ("y", "c.csv:2")]);
}

#[test]
fn values_of_columns_that_nobody_reads_are_not_looked_at() {
    let folder = Folder::new(&[("a.csv", "n,s\n1,x\n2,3\n4\n")]);
    let schema = vec![("s".to_owned(), DataType::Int64)];
    let read = Read { schema, ..lenient(Format::Csv, &[folder.path("a.csv")]) };
    let query = Query::parse("SELECT n FROM t").unwrap();
    let used = Read { used: query.columns("t").cloned(), ..read.clone() };
    assert_eq!(bare(&all(&read, Cut::default()).unwrap().1), [("1,x", "a.csv:1"), ("4", "a.csv:3")]);
    assert_eq!(bare(&all(&used, Cut::default()).unwrap().1), [("4", "a.csv:3")]);
}

#[test]
fn what_belongs_to_no_record_is_an_error() {
    let cases = [
        ("a.csv", Format::Csv, "n,s\n1,2\n3,\"4\n", "a.csv, row 2: a quoted field is not closed"),
        ("a.csv", Format::Csv, "n,n\n1,2\n", "a.csv: two columns have the name `n`"),
        ("a.json", Format::Json, "[{\"n\": 1}, {\"n\":", "a.json, row 2: the file ends within an object"),
        ("a.json", Format::Json, "[{\"n\": 1}, 2]", "a.json, row 2: an object was expected here, and not `2`"),
    ];
    for (name, format, text, said) in cases {
        let folder = Folder::new(&[(name, text)]);
        let error = all(&lenient(format, &[folder.path(name)]), Cut::default()).unwrap_err();
        assert_eq!(folder.bare(&error), said);
    }
    let folder = Folder::new(&[("a.csv", "n,s\n1,2\n"), ("b.csv", "n,t\n1,2\n")]);
    let error = all(&lenient(Format::Csv, &[folder.path("*.csv")]), Cut::default()).unwrap_err();
    assert_eq!(folder.bare(&error), "b.csv: the header has the columns `n`, `t`, but it should have `n`, `s`");
}

#[test]
fn bytes_that_are_no_text_are_one_records_fault() {
    let folder = Folder::new(&[]);
    fs::write(folder.path("a.csv"), b"n,s\n1,x\n2,\xff\n3,y\n").unwrap();
    let (rows, left_out, _) = all(&lenient(Format::Csv, &[folder.path("a.csv")]), Cut::default()).unwrap();
    assert_eq!(rows.iter().map(|(value, _)| *value).collect::<Vec<_>>(), [1, 3]);
    assert_eq!(left_out, [("2,\u{fffd}".to_owned(), "a.csv:2".to_owned(), "the text is not valid UTF-8".to_owned())]);
}
