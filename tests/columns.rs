//! Columns and their types are followed from stage to stage before a run, as far as they can be known.

use std::collections::BTreeMap;
use std::fs;
use std::num::NonZeroU32;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use arrow::array::{Int32Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Schema};
use millpond::diagnostic::{Diagnostic, SourceText};
use millpond::format::column_type;
use millpond::plan::{self, Plan, Settings};
use millpond::run::executor::stage::read;
use millpond::spec::{self, Completeness, Given};

fn given(set: &[(&str, &str)], completeness: Completeness) -> Given {
    let set = set.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Given { set, env: BTreeMap::new(), secrets: BTreeMap::new(), current_dir: "/here".into(), seed: 0, completeness }
}

fn source(folder: &Path, yaml: &str) -> Arc<SourceText> {
    Arc::new(SourceText::new("pipeline.yaml", folder.join("pipeline.yaml"), yaml))
}

/// The plan of a pipeline in a folder, or its problems; and its warnings.
fn compile(folder: &Path, yaml: &str) -> Result<(Plan, String), String> {
    let source = source(folder, yaml);
    let document = spec::parse(&source, &given(&[], Completeness::Full));
    let two = NonZeroU32::new(2).expect("not zero");
    let settings = Settings { workers: two, cores: two, file_sizes: read::file_sizes, columns: read::columns };
    let compiled = plan::compile(&document, &settings).map_err(|problems| show(&problems, &source))?;
    Ok((compiled.plan, show(&compiled.warnings, &source)))
}

#[track_caller]
fn problems(folder: &Path, yaml: &str) -> String {
    compile(folder, yaml).expect_err("a problem")
}

fn validate(yaml: &str) -> String {
    let source = source(Path::new("/project"), yaml);
    show(&plan::validate(&spec::parse(&source, &given(&[], Completeness::Partial))), &source)
}

/// One problem a line: code, the text at its place and where that is, message, help.
fn show(problems: &[Diagnostic], source: &SourceText) -> String {
    let line = |problem: &Diagnostic| {
        let span = problem.span().expect("these have a place");
        let at = source.position(span.start);
        let help = problem.help.as_ref().map(|help| format!(" ({help})")).unwrap_or_default();
        let (code, text) = (problem.code.word(), source.slice(span));
        format!("{code} {}:{} [{text}] {}{help}", at.line, at.column, problem.message)
    };
    problems.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// The columns of a port, with words for their types.
fn columns(plan: &Plan, stage: &str, port: usize) -> String {
    let stage = plan.stages.iter().find(|other| other.name == stage).expect("a stage of this name");
    let Some(columns) = &stage.ports[port].columns else { return "unknown".to_owned() };
    words(columns)
}

fn words(columns: &Schema) -> String {
    let word = |data_type: &DataType| match data_type {
        DataType::Null => "?".to_owned(),
        data_type => column_type::word(data_type).unwrap_or_else(|| data_type.to_string()),
    };
    columns
        .fields()
        .iter()
        .map(|field| format!("{} {}", field.name(), word(field.data_type())))
        .collect::<Vec<_>>()
        .join(", ")
}

/// A folder with a file of each format.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).expect("a file");
    write("people.csv", "id,name,born,note\n1,Ada,1815-12-10,\n2,Max,1858-04-23,\n");
    write("header.csv", "id,name\n");
    write("empty.csv", "");
    write("bare.csv", "1,Ada\n");
    write("broken.csv", "id,name\n1\n");
    write(
        "events.jsonl",
        "{\"user\": 1, \"tags\": [\"a\"], \"at\": {\"x\": 1.5}}\n{\"user\": 2, \"tags\": [], \"at\": null}\n",
    );
    let batch = RecordBatch::try_from_iter([
        ("id", Arc::new(Int32Array::from(vec![1])) as _),
        ("name", Arc::new(StringArray::from(vec!["Ada"])) as _),
    ]);
    let batch = batch.expect("columns of one length");
    for format in [millpond::format::Format::Parquet, millpond::format::Format::Arrow] {
        let mut bytes = Vec::new();
        millpond::format::encode(format, &batch, &mut bytes).expect("bytes");
        fs::write(folder.path().join(format!("people.{}", format.word())), bytes).expect("a file");
    }
    folder
}

#[test]
fn a_column_that_is_misspelt_three_stages_down_is_found() {
    let folder = folder();
    let yaml = "version: 1
stages:
  people: { read: people.csv }
  first: { from: people, sql: 'SELECT id, upper(name) AS name FROM people' }
  second:
    from: first
    sql: |
      -- é
      SELECT id,
             first.nmae AS x
      FROM first
  third: { from: second, sql: 'SELECT y FROM second' }
  out: { from: third, write: out.csv }
";
    insta::assert_snapshot!(problems(folder.path(), yaml), @"plan::unknown_column 10:14 [first.nmae] `first` has no column `nmae` (did you mean `name`?)");
    let yaml = yaml.replace("first.nmae", "first.name");
    insta::assert_snapshot!(problems(folder.path(), &yaml), @"plan::unknown_column 12:39 [y] no column is named `y` (choose from `id`, `x`)");
    let (plan, warnings) = compile(folder.path(), &yaml.replace("SELECT y", "SELECT x, id")).expect("a plan");
    assert_eq!((columns(&plan, "third", 0).as_str(), warnings.as_str()), ("x string, id int64", ""));
}

#[test]
fn files_tell_their_columns() {
    let folder = folder();
    let read = |read: &str| {
        let yaml = format!("version: 1\nstages:\n  a: {{ read: {read} }}\n  out: {{ from: a, write: out.jsonl }}\n");
        columns(&compile(folder.path(), &yaml).expect("a plan").0, "a", 0)
    };
    assert_eq!(read("people.csv"), "id int64, name string, born date, note ?");
    assert_eq!(
        read("{ path: people.csv, schema: { id: string, note: float64 } }"),
        "id string, name string, born date, note float64"
    );
    assert_eq!(read("header.csv"), "id ?, name ?");
    assert_eq!(read("'p*.csv'"), "id int64, name string, born date, note ?");
    assert_eq!(read("{ path: bare.csv, header: false }"), "column_1 int64, column_2 string");
    assert_eq!(read("{ path: absent.csv, header: false, schema: { a: int8 } }"), "a int8");
    assert_eq!(read("events.jsonl"), "user int64, tags list<string>, at Struct(\"x\": Float64)");
    assert_eq!(read("people.parquet"), "id int32, name string");
    assert_eq!(read("{ path: people.arrow, schema: { id: int64 } }"), "id int64, name string");
    assert_eq!(read("absent.txt"), "line string");
    // What a run would complain about, or cannot be looked at without taking it away.
    for unknown in [
        "absent.csv",
        "empty.csv",
        "broken.csv",
        "/dev/null.csv",
        "{ path: /dev/null, format: csv }",
        "{ path: '-', format: csv }",
        "{ path: people.csv, schema: { other: int64 } }",
    ] {
        assert_eq!(read(unknown), "unknown", "{unknown}");
    }
}

#[test]
fn only_the_columns_that_are_read_go_over_the_edges() {
    let folder = folder();
    let yaml = "version: 1
stages:
  people: { read: people.csv }
  names: { from: people, sql: SELECT name FROM people WHERE id > 1 }
  out: { from: names, write: out.csv }
";
    assert_eq!(columns(&compile(folder.path(), yaml).expect("a plan").0, "people", 0), "id int64, name string");
    // The suggestion is of a column that nobody uses.
    let yaml = yaml.replace("SELECT name", "SELECT nam").replace("id > 1", "born IS NOT NULL");
    insta::assert_snapshot!(problems(folder.path(), &yaml), @"plan::unknown_column 4:38 [nam] no column is named `nam` (did you mean `name`?)");
}

#[test]
fn other_kinds_of_stages_tell_what_they_can() {
    let folder = folder();
    let yaml = "version: 1
stages:
  people: { read: people.csv }
  scored: { from: people, python: { call: 'm:f', returns: { id: int64, score: float32 } }, on_error: reject }
  guessed: { from: people, python: 'm:g' }
  said: { from: people, command: { mode: row, run: [say, '{name}'] } }
  lines: { from: people, command: { run: [cat], output: lines } }
  objects: { from: people, command: [cat] }
  made: { sql: 'SELECT value AS n FROM generate_series(1, 3)' }
  made_later: { read: people.csv, after: made }
  all: { from: [scored, guessed], sql: SELECT * FROM scored CROSS JOIN guessed }
  bad: { from: scored.rejected, write: bad.csv }
  outs: { from: [said, lines, objects, made, all, made_later], python: 'm:h' }
";
    let (plan, _) = compile(folder.path(), yaml).expect("a plan");
    assert_eq!(columns(&plan, "scored", 0), "id int64, score float32");
    let rejected = "_stage string, _verdict string, _message string, _traceback string, _attempts uint32, _file string, _row uint64";
    assert_eq!(columns(&plan, "scored", 1), format!("id int64, name string, born date, note ?, {rejected}"));
    let gained = "stdout string, stderr string, exit_code int64, seconds float64";
    assert_eq!(columns(&plan, "said", 0), format!("id int64, name string, born date, note ?, {gained}"));
    assert_eq!(columns(&plan, "lines", 0), "line string");
    assert_eq!(columns(&plan, "made", 0), "n int64");
    for unknown in ["guessed", "objects", "all", "outs", "made_later"] {
        assert_eq!(columns(&plan, unknown, 0), "unknown", "{unknown}");
    }
}

#[test]
fn queries_are_checked_as_they_would_be_run() {
    let folder = folder();
    let check = |sql: &str| {
        let yaml = format!(
            "version: 1
params: {{ least: {{ type: integer, default: 1 }} }}
stages:
  people: {{ read: people.csv }}
  q: {{ from: people, sql: {} }}
  out: {{ from: q, write: out.jsonl }}
",
            serde_json::to_string(sql).expect("text")
        );
        match compile(folder.path(), &yaml) {
            Ok((plan, _)) => columns(&plan, "q", 0),
            Err(problems) => {
                let is_of_query = |line: &&str| !line.starts_with("param::unused");
                problems.lines().filter(is_of_query).collect::<Vec<_>>().join("\n")
            }
        }
    };
    // Params have their types, and types are what the engine makes of them.
    assert_eq!(check("SELECT id + $least AS next FROM people"), "next int64");
    assert_eq!(check("SELECT avg(id) AS mean, count(*) AS n FROM people"), "mean float64, n int64");
    assert_eq!(check("SELECT id / 2.0 AS half, name || id AS both FROM people"), "half float64, both string");
    assert_eq!(check("WITH q AS (SELECT name AS x FROM people) SELECT x FROM q ORDER BY x"), "x string");
    // A column without values may get any type, and all that depends on it.
    assert_eq!(check("SELECT id, note + 1 AS n, coalesce(note, name) AS c FROM people"), "id int64, n ?, c ?");
    assert_eq!(check("SELECT * FROM people WHERE id > $least"), "id int64, name string, born date, note ?");
    assert_eq!(
        check("SELECT a.id, max(b.note) AS m FROM people AS a JOIN people AS b ON a.id = b.id GROUP BY a.id"),
        "id int64, m ?"
    );
    assert_eq!(check("SELECT id, (SELECT max(note) FROM people) AS m FROM people"), "id int64, m ?");
    // It may be anything: a struct, and even a number.
    assert_eq!(check("SELECT note.x.y AS n FROM people"), "n ?");
    assert_eq!(check("SELECT name - note AS n FROM people"), "unknown");
    assert_eq!(check("SELECT \"people.note.x\" AS n FROM (SELECT unnest(note) FROM people)"), "unknown");
    let wrong = [
        "SELECT Name FROM people",
        "SELECT note, nmae FROM people",
        "SELECT p.name FROM people AS q",
        "SELECT id FROM people ORDER BY nmae",
        "SELECT (SELECT max(q.id) FROM people AS q WHERE q.nme = people.name) AS x FROM people",
        "SELECT id FROM people JOIN people AS q ON people.id = q.id",
        "SELECT lenght(name) AS n, note FROM people",
        "SELECT name + $least AS n FROM people",
        "SELECT id, id FROM people",
    ];
    insta::assert_snapshot!(wrong.map(check).join("\n"), @r#"
    plan::unknown_column 5:35 [Name] no column is named `Name` (did you mean `name`?)
    plan::unknown_column 5:41 [nmae] no column is named `nmae` (did you mean `name`?)
    plan::unknown_column 5:35 [p.name] no column is named `p.name` (did you mean `q.name`?)
    plan::unknown_column 5:59 [nmae] no column is named `nmae` (did you mean `name`?)
    plan::unknown_column 5:76 [q.nme] `q` has no column `nme` (did you mean `name`?)
    plan::ambiguous_column 5:35 [id] the column `id` is in several tables (write `table.id`)
    plan::unknown_function 5:35 [lenght] there is no function `lenght` (did you mean `length`?)
    plan::bad_query 5:35 [name] the query cannot be run over its tables: cannot coerce arithmetic expression string + string to valid types
    plan::bad_query 5:27 ["SELECT id, id FROM people" ] the query cannot be run over its tables: two columns are named `id`: give one another name with `AS`
    "#);
}

#[test]
fn a_plan_shows_the_columns_of_its_ports() {
    let folder = folder();
    let many: Vec<String> = (1..=26).map(|at| format!("id + {at} AS c{at}")).collect();
    let yaml = format!(
        "version: 1
stages:
  people: {{ read: people.csv }}
  wide: {{ from: people, sql: 'SELECT {} FROM people' }}
  coded: {{ from: people, python: 'm:f', on_error: reject }}
  named: {{ from: people, sql: SELECT id FROM people WHERE name > '' }}
  out: {{ from: [wide, coded, named], python: 'm:g' }}
",
        many.join(", ")
    );
    let text = plan::view::text(&compile(folder.path(), &yaml).expect("a plan").0);
    let is_shown = |line: &&str| line.contains("columns") || (line.starts_with("  ") && !line.starts_with("   "));
    let shown = text.lines().take_while(|line| !line.starts_with("edges")).filter(is_shown).map(str::trim);
    insta::assert_snapshot!(shown.collect::<Vec<_>>().join("\n"), @r"
    people read csv people.csv
    columns: id int64, name string, born date, note ?
    wide sql
    columns: c1 int64, c2 int64, c3 int64, c4 int64, c5 int64, c6 int64, c7 int64, c8 int64, c9 int64, c10 int64, c11 int64, c12 int64, c13 int64, c14 int64, c15 int64, c16 int64, c17 int64, c18 int64, c19 int64, c20 int64, c21 int64, c22 int64, c23 int64, c24 int64, 2 more
    coded python m:f
    columns of rejected: id int64, name string, born date, note ?, _stage string, _verdict string, _message string, _traceback string, _attempts uint32, _file string, _row uint64
    named sql
    columns: id int64
    out python m:g
    ");
}

#[test]
fn keys_and_templates_are_checked_with_the_same_columns() {
    let folder = folder();
    let yaml = "version: 1
stages:
  people: { read: people.csv }
  few: { from: people, sql: 'SELECT id, name FROM people' }
  keyed: { from: few, python: 'm:F', partition_by: [id, nmae] }
  said: { from: few, command: { mode: row, run: [say, '{nam}', '{id}'] } }
";
    insta::assert_snapshot!(problems(folder.path(), yaml), @r"
    plan::unknown_column 5:57 [nmae] `nmae` is no column of the rows that `keyed` gets (did you mean `name`?)
    plan::unknown_column 6:55 ['{nam}'] `nam` is no column of the rows that `said` gets (did you mean `name`?)
    ");
}

#[test]
fn members_of_one_input_should_be_alike() {
    let folder = folder();
    let yaml = "version: 1
stages:
  people: { read: people.csv }
  old: { from: people, sql: 'SELECT id, name FROM people' }
  new: { from: people, sql: 'SELECT id, upper(name) AS nmae FROM people' }
  same: { from: people, sql: 'SELECT id, id AS name FROM people' }
  out: { from: [old, new], write: out.csv }
  code: { from: [old, new], python: 'm:f' }
  fine: { from: [old, same], command: { mode: row, run: [say, '{name}'] } }
";
    let (plan, warnings) = compile(folder.path(), yaml).expect("a plan");
    insta::assert_snapshot!(warnings, @"plan::unlike_inputs 7:22 [new] `old` has a column `name` and `new` has none, but both are one input (a run ends when rows of both have come: make them alike in front of this stage)");
    // The types of `name` differ.
    assert!(columns(&plan, "fine", 0).starts_with("id int64, name ?, stdout string"));
}

#[test]
fn what_the_file_tells_is_checked_without_other_files() {
    let yaml = "version: 1
params: { least: { type: integer } }
stages:
  lines: { read: lines.txt }
  long: { from: lines, sql: SELECT lin FROM lines }
  few: { from: lines, sql: SELECT lin FROM lines WHERE length(line) > $least }
  scored: { from: lines, python: { call: 'm:f', returns: { score: float64 } } }
  best: { from: scored, sql: SELECT max(scores) AS best FROM scored }
  people: { read: people.csv }
  names: { from: people, sql: SELECT nmae FROM people }
  out: { from: [long, few, best, names], python: 'm:f' }
";
    // Of `few` nobody can tell before its param has a value.
    insta::assert_snapshot!(validate(yaml), @r"
    plan::unknown_column 5:36 [lin] no column is named `lin` (did you mean `line`?)
    plan::unknown_column 8:41 [scores] no column is named `scores` (did you mean `score`?)
    ");
}

#[test]
fn a_query_that_would_overflow_the_stack_is_planned() {
    let folder = folder();
    let sum = "id + ".repeat(3_000);
    let yaml = format!(
        "version: 1\nstages:\n  people: {{ read: people.csv }}\n  q: {{ from: people, sql: SELECT {sum}idd AS n FROM people }}\n  out: {{ from: q, write: out.csv }}\n"
    );
    assert!(problems(folder.path(), &yaml).contains("no column is named `idd`"));
}

#[test]
fn what_is_known_before_a_run_is_what_comes_in_it() {
    let folder = folder();
    let stages = [
        ("people", "read: people.csv"),
        ("events", "read: events.jsonl"),
        ("shown", "from: people, sql: 'SELECT *, id / 2 AS half, upper(name) AS loud, born + 1 AS next FROM people'"),
        ("sums", "from: shown, sql: 'SELECT count(*) AS n, sum(id) AS s, avg(half) AS a, max(next) AS m FROM shown'"),
        ("joined", "from: [people, events], sql: 'SELECT name, tags, at FROM people JOIN events ON id = user'"),
        ("nested", "from: events, sql: 'SELECT unnest(tags) AS tag, at.x AS x, user FROM events'"),
        ("said", "from: people, command: { mode: row, run: [echo, '{name}'] }"),
        ("again", "from: said, sql: 'SELECT exit_code + id AS code, stdout, seconds > 0 AS took FROM said'"),
        ("made", "sql: 'SELECT value AS n, random() AS r, now() AS at FROM generate_series(1, 3)'"),
        ("lines", "from: made, command: { run: [cat], input: csv, output: lines }"),
    ];
    let mut yaml = "version: 1\nstages:\n".to_owned();
    for (name, stage) in stages {
        yaml += &format!("  {name}: {{ {stage} }}\n  {name}_out: {{ from: {name}, write: out/{name}.arrow }}\n");
    }
    let file = folder.path().join("pipeline.yaml");
    fs::write(&file, &yaml).expect("a file");
    let ran = Command::new(env!("CARGO_BIN_EXE_millpond")).arg("run").arg(&file).output().expect("the program starts");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let (plan, _) = compile(folder.path(), &yaml).expect("a plan");
    for (name, _) in stages {
        let yaml = format!(
            "version: 1\nstages:\n  written: {{ read: out/{name}.arrow }}\n  out: {{ from: written, write: o.arrow }}\n"
        );
        let written = columns(&compile(folder.path(), &yaml).expect("a plan").0, "written", 0);
        assert_eq!(columns(&plan, name, 0), written, "{name}");
    }
}

#[test]
fn columns_that_are_not_in_the_files_are_known() {
    let folder = folder();
    let parts = folder.path().join("parts/year=2024/tag=a%2Fb");
    fs::create_dir_all(&parts).expect("folders");
    fs::copy(folder.path().join("people.parquet"), parts.join("people.parquet")).expect("a copy");
    let yaml = "version: 1
stages:
  people: { read: { path: people.csv, origin: true } }
  lines: { read: { path: nowhere.txt, origin: true, partitions: { day: date } } }
  found: { read: { path: parts, format: parquet, partitions: true } }
  used: { from: found, sql: 'SELECT id, year, tag FROM found WHERE year = 2024' }
  out: { from: people, write: people.jsonl }
  out_lines: { from: lines, write: lines.jsonl }
  out_used: { from: used, write: used.jsonl }
";
    let (plan, _) = compile(folder.path(), yaml).expect("a plan");
    assert_eq!(columns(&plan, "people", 0), "id int64, name string, born date, note ?, _file string, _row uint64");
    assert_eq!(columns(&plan, "lines", 0), "line string, day date, _file string, _row uint64");
    assert_eq!(columns(&plan, "found", 0), "id int32, year int64, tag string");
    assert_eq!(columns(&plan, "used", 0), "id int32, year int64, tag string");
    let yaml = yaml.replace("SELECT id, year", "SELECT id, jear");
    let found = problems(folder.path(), &yaml);
    assert!(found.contains("no column is named `jear` (did you mean `year`?)"), "{found}");
}
