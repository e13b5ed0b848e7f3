//! What is reported about pipeline files: codes, places, words.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use millpond::diagnostic::render::{self, Style};
use millpond::diagnostic::{Code, Diagnostic, SourceText};
use millpond::plan::{self, Compiled, Settings};
use millpond::spec::{self, Completeness, Given};

fn given(set: &[(&str, &str)], completeness: Completeness) -> Given {
    Given {
        set: set.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        env: BTreeMap::from([("HOME".to_owned(), "/somebody".to_owned())]),
        secrets: BTreeMap::new(),
        current_dir: "/here".into(),
        seed: 7,
        completeness,
    }
}

fn source(yaml: &str) -> Arc<SourceText> {
    Arc::new(SourceText::new("pipeline.yaml", "/project/pipeline.yaml", yaml))
}

fn validate(source: &Arc<SourceText>) -> Vec<Diagnostic> {
    plan::validate(&spec::parse(source, &given(&[], Completeness::Partial)))
}

/// The diagnostics of `validate`, one a line: code, line:column, message, help.
fn problems(yaml: &str) -> String {
    let source = source(yaml);
    validate(&source).iter().map(|problem| show(problem, &source)).collect::<Vec<_>>().join("\n")
}

fn show(problem: &Diagnostic, source: &SourceText) -> String {
    let place = problem.span().map_or_else(
        || "-".to_owned(),
        |span| {
            let at = source.position(span.start);
            format!("{}:{}", at.line, at.column)
        },
    );
    let help = problem.help.as_ref().map(|help| format!(" ({help})")).unwrap_or_default();
    // The rest of a syntax error's message is the SQL parser's.
    let message = match problem.code {
        Code::PlanSqlSyntax => problem.message.split(": ").next().unwrap_or_default(),
        _ => &problem.message,
    };
    format!("{} {place} {message}{help}", problem.code.word())
}

fn compile(yaml: &str, set: &[(&str, &str)]) -> Result<Compiled, String> {
    let source = source(yaml);
    let document = spec::parse(&source, &given(set, Completeness::Full));
    let two = NonZeroU32::new(2).expect("not zero");
    plan::compile(&document, &Settings { workers: two, cores: two, file_sizes: |_| None, columns: |_, _| None })
        .map_err(|problems| problems.iter().map(|problem| show(problem, &source)).collect::<Vec<_>>().join("\n"))
}

#[test]
fn one_of_each_mistake_is_reported_in_one_pass() {
    let yaml = include_str!("diagnostics/mistakes.yaml");
    let source = source(yaml);
    let found: Vec<String> = validate(&source)
        .iter()
        .map(|problem| {
            let at = source.position(problem.span().expect("these have a place").start);
            format!("{} {}:{}", problem.code.word(), at.line, at.column)
        })
        .collect();
    let expected = [
        "spec::unknown_key 2:1",
        "param::bad_default 4:36",
        "spec::wrong_type 8:41",
        "plan::unknown_stage 10:11",
        "yaml::duplicate_key 13:5",
        "spec::missing_key 16:5",
        "plan::cycle 18:11",
        "plan::two_kinds 26:5",
        "plan::no_kind 27:3",
        "plan::sql_syntax 33:29",
        "expr::in_sql 36:37",
        "spec::unknown_key 39:5",
        "plan::bad_option 43:5",
    ];
    assert_eq!(found, expected);
}

/// Each file in `tests/wrong` has one mistake, and its first line says what is found: `# expect: code line:column`.
#[test]
fn every_wrong_file_has_its_mistake_and_no_other() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wrong");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .expect("the folder is there")
        .map(|entry| entry.expect("it can be read").path())
        .collect();
    files.sort();
    assert!(files.len() >= 60, "only {} files", files.len());
    let mut differences = Vec::new();
    for file in &files {
        let text = std::fs::read_to_string(file).expect("it is text");
        let expected = text.lines().next().and_then(|line| line.strip_prefix("# expect: ")).unwrap_or_default();
        let source = source(&text);
        let found: Vec<String> = validate(&source)
            .iter()
            .map(|problem| {
                let at = source.position(problem.span().expect("mistakes in files have places").start);
                format!("{} {}:{}", problem.code.word(), at.line, at.column)
            })
            .collect();
        if found.join(", ") != expected {
            differences.push(format!("{}: expected {expected}, found {}", file.display(), found.join(", ")));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn params_have_bounds_and_say_whether_they_are_required() {
    let yaml = "version: 1
params:
  a: { type: integer, default: 11, min: 0, max: 10 }
  b: { type: string, default: x, min: 1 }
  c: { type: float, default: 0.5, min: 2, max: 1 }
  d: { type: integer, default: 3, required: true }
  e: { type: integer, required: false }
  f: { type: float, min: 0.5, required: true }
  g: { type: integer, default: 3, min: '1' }
  h: { type: integer, default: 3, min: 1, choices: [0, 3] }
stages: { s: { read: '${{ params.a }}${{ params.b }}${{ params.c }}${{ params.d }}${{ params.e }}${{ params.f }}${{ params.g }}${{ params.h }}.csv' } }
";
    insta::assert_snapshot!(problems(yaml), @r"
    param::bad_default 3:32 the default 11 is more than `max`, which is 10
    param::bad_default 4:39 `min` has no meaning for a string (remove it; `integer` and `float` have bounds)
    param::bad_default 5:30 the default 0.5 is less than `min`, which is 2
    param::bad_default 5:40 `min: 2` is more than `max: 1`
    param::bad_default 6:45 the param `d` is required and has a default (remove `required` or `default`)
    param::bad_default 7:33 the param `e` is not required and has no default (give it a `default`)
    spec::wrong_type 9:40 `min` must be a number, not a string (for example, `min: 0`)
    ");
    let yaml = "version: 1
params: { f: { type: float, min: 0.5, max: 2 }, n: { type: integer, default: 1, max: 5 } }
stages: { s: { read: '${{ params.f }}${{ params.n }}.csv' } }
";
    let refused = |set: &[(&str, &str)]| compile(yaml, set).err().unwrap_or_default();
    insta::assert_snapshot!(refused(&[("f", "0.25"), ("n", "6")]), @r"
    param::bad_value - `f=0.25`: less than `min`, which is 0.5
    param::bad_value - `n=6`: more than `max`, which is 5
    ");
    assert_eq!(refused(&[("f", "2"), ("n", "-7")]), "");
}

#[test]
fn defaults_are_taken_by_the_stages_that_can_have_them() {
    let yaml = "version: 1
defaults:
  workers: 2
  timeout: { attempt: 60s, open: 5m }
  retry: { attempts: 5 }
  on_error: skip
  order: any
  memory: 1GiB
  recycle: { batches: 10 }
  batch: { rows: 100 }
  queue: { batches: 2 }
  checkpoint: true
  log_level: warning
  env: { A: b }
  cwd: work
stages:
  rows: { read: rows.csv }
  made: { python: m:made }
  task: { command: [make] }
  listed: { command: { run: [ls], output: lines } }
  scored: { from: rows, python: { call: m:score, as: row }, retry: { backoff: 1s }, timeout: 5s }
  stateful: { from: made, python: m:State, partition_by: id }
  counted: { from: scored, sql: SELECT count(*) AS n FROM scored }
  echoed: { from: scored, command: { mode: row, run: [echo, '{a}'] } }
  filtered: { from: listed, command: { mode: stream, run: [cat], input: lines, output: lines } }
  out: { from: counted, write: out.csv }
  all: { from: [scored, made], write: all.csv }
";
    insta::assert_snapshot!(problems(yaml), @"");
    let Compiled { plan, .. } = compile(yaml, &[]).expect("it is right");
    let stage = |name: &str| plan.stages.iter().find(|stage| stage.name == name).expect("a stage");
    let attempts = |name: &str| stage(name).retry.attempts(plan::Verdict::Exception);
    // The stage's own key counts as a whole: its `retry` has no `attempts`, and so three of them.
    assert_eq!((attempts("scored"), attempts("made"), attempts("task"), attempts("rows")), (3, 5, 5, 1));
    let timeout = |name: &str| stage(name).timeout.map(|timeout| timeout.attempt.as_secs());
    assert_eq!(
        (timeout("scored"), timeout("task"), timeout("listed"), timeout("rows")),
        (Some(5), Some(60), None, None)
    );
    let takes_any: Vec<&str> =
        plan.stages.iter().filter(|stage| stage.order == plan::Order::Any).map(|stage| stage.name.as_str()).collect();
    assert_eq!(takes_any, ["scored", "echoed", "all"]);
    assert!(stage("scored").checkpoint.is_some() && stage("stateful").checkpoint.is_none());
}

#[test]
fn a_key_that_can_do_nothing_for_its_stage_is_a_mistake() {
    let yaml = "version: 1
stages:
  rows: { read: rows.csv, workers: 2, queue: { batches: 2 } }
  few: { from: rows, sql: SELECT n FROM rows, env: { A: 1 }, retry: { attempts: 3 } }
  out: { from: few, write: few.jsonl, cwd: work, retry: { attempts: 3 } }
  listed: { command: { run: [ls], output: lines }, retry: { attempts: 3 } }
  made: { python: m:rows, queue: { batches: 2 }, retry: { attempts: 3 } }
  task: { command: [sync], env: { A: 1 }, retry: { attempts: 3 } }
  lines: { from: [listed, made], write: lines.jsonl }
";
    insta::assert_snapshot!(problems(yaml), @r"
    plan::bad_option 3:27 `workers` has no meaning for the stage `rows`: it has no workers (remove it; it is for `python`, `command` and `sql` stages)
    plan::bad_option 3:39 `queue` has no meaning for the stage `rows`: it gets no rows (remove it; it is for stages with `from`)
    plan::bad_option 4:47 `env` has no meaning for the stage `few`: it starts no processes (remove it; it is for `python` and `command` stages)
    plan::bad_option 4:62 `retry` has no meaning for the stage `few`: a query comes to the same each time (remove it; it is for `python` stages, and for commands that are given rows or give none)
    plan::bad_option 5:39 `cwd` has no meaning for the stage `out`: it starts no processes (remove it; it is for `python` and `command` stages)
    plan::bad_option 5:50 `retry` has no meaning for the stage `out`: files are not read or written in attempts (remove it; it is for `python` stages, and for commands that are given rows or give none)
    plan::bad_option 6:52 `retry` has no meaning for the stage `listed`: a command that is a source is one process for the whole run (remove it; it is for `python` stages, and for commands that are given rows or give none)
    plan::bad_option 7:27 `queue` has no meaning for the stage `made`: without `from`, it gets no rows (add `from`, the stage whose rows it takes; or remove the key)
    ");
}

#[test]
fn a_limit_beside_what_it_is_a_limit_of_is_told_where_it_belongs() {
    let yaml = |on_error: &str| {
        let stages = "  rows: { read: a.csv }\n  b: { from: rows, python: m:b, on_error: ";
        format!("version: 1\nstages:\n{stages}{on_error} }}\n")
    };
    insta::assert_snapshot!(problems(&yaml("{ reject: , max_rows: 3 }")), @r"
    spec::wrong_type 4:51 `reject` must be a mapping, not nothing
    spec::unknown_key 4:55 `on_error` has no key `max_rows` (`max_rows` belongs under `reject`)
    ");
    insta::assert_snapshot!(problems(&yaml("{ mode: reject, max_rows: 3 }")), @"spec::missing_key 4:33 `on_error` needs one of the keys `skip` and `reject` (for example, `on_error: { reject: { max_fraction: 0.01 } }`)");
    insta::assert_snapshot!(problems(&yaml("{ rejct: { max_rows: 3 } }")), @"spec::unknown_key 4:45 `on_error` has no key `rejct` (did you mean `reject`?)");
}

#[test]
fn a_function_that_is_given_no_rows_lacks_its_input() {
    let yaml = "version: 1\nstages:\n  a: { python: m:a, on_error: reject }\n  b: { from: a, write: b.csv }\n";
    insta::assert_snapshot!(problems(yaml), @"plan::missing_input 3:3 the stage `a` needs `from`, if there are rows that it can `reject` (add `from`, the stage whose rows it takes; a source, which makes rows, has no `on_error`)");
    insta::assert_snapshot!(problems(&yaml.replace("{ python", "{ form: b, python")), @"spec::unknown_key 3:8 the stage `a` has no key `form` (did you mean `from`?)");
}

#[test]
fn what_is_wrong_with_a_default_is_said_where_it_stands() {
    let yaml = "version: 1
defaults: { memory: 1KiB, recycle: {}, retry: { attempts: 0 }, timeout: forever, retries: 3, after: rows }
stages:
  rows: { read: rows.csv }
  a: { from: rows, python: m:a }
  b: { from: rows, python: m:b }
";
    insta::assert_snapshot!(problems(yaml), @r"
    plan::bad_option 2:21 1024 bytes are less than a worker takes before its first batch (write at least `64MiB`)
    plan::bad_option 2:36 `recycle` does not say when (write `batches: 100`, `age: 30m`, or both)
    spec::bad_value 2:59 `attempts` must be at least 1
    spec::bad_value 2:73 `timeout` cannot be `forever` (A time is a number with a unit, such as `60s`, `5m` or `1m30s`.)
    spec::unknown_key 2:82 `defaults` has no key `retries` (write `retry: { attempts: 3 }`, in which the first attempt counts)
    spec::unknown_key 2:94 `defaults` has no key `after` (choose from `workers`, `memory`, `recycle`, `batch`, `queue`, `timeout`, `retry`, `on_error`, `order`, `checkpoint`, `log_level`, `env`, `cwd`)
    ");
    let source = source(yaml);
    let problems = validate(&source);
    let of_memory = problems.iter().find(|problem| problem.message.contains("bytes")).expect("it is too little");
    assert_eq!(of_memory.related.len(), 1, "the stage is named: {of_memory:?}");
}

#[test]
fn a_resource_may_have_a_rate_and_slots() {
    let yaml = "version: 1
resources: { api: { rate: 100/min, slots: 2 } }
stages:
  rows: { read: rows.csv }
  a: { from: rows, python: { call: m:a, as: row }, uses: { api: { per: row } } }
  b: { from: rows, python: m:b, uses: api }
";
    let Compiled { plan, .. } = compile(yaml, &[]).expect("it is right");
    let text = plan::view::text(&plan);
    let told: Vec<&str> = text.lines().filter(|line| line.contains("api")).map(str::trim).collect();
    insta::assert_snapshot!(told.join("\n"), @r"
    resources: api, 100/min, 1 at once, 2 slots
    uses: 1 api for each row, 1 slot of api for each attempt
    uses: 1 api for each attempt, 1 slot of api for each attempt
    ");
    insta::assert_snapshot!(problems(&yaml.replace("uses: api", "uses: { api: 3 }")), @"plan::bad_option 6:46 3 of `api` are never free: there are 2");
}

#[test]
fn a_diagnostic_is_drawn_with_its_place_and_help() {
    let source = source("version: 1\nstages:\n  orders: { read: a.csv }\n  b: { from: order, write: b.csv }\n");
    let drawn = render::human(&validate(&source), &source, Style { color: false, width: 100 });
    insta::assert_snapshot!(drawn, @r"
    plan::unknown_stage

      × stage `b` reads from `order`, which is no stage
       ╭─[pipeline.yaml:4:14]
     3 │   orders: { read: a.csv }
     4 │   b: { from: order, write: b.csv }
       ·              ──┬──
       ·                ╰── no stage has this name
       ╰────
      help: did you mean `orders`?
    ");
}

#[test]
fn a_diagnostic_as_json_has_its_place_in_characters() {
    let source = source("version: 1\nstages: { é: { read: a.csv } }\n");
    let json = render::json(&validate(&source), &source);
    insta::assert_snapshot!(serde_json::to_string_pretty(&json).expect("is JSON"), @r#"
    [
      {
        "code": "spec::bad_name",
        "severity": "error",
        "message": "`é` cannot be the name of a stage",
        "file": "pipeline.yaml",
        "line": 2,
        "column": 11,
        "end_line": 2,
        "end_column": 12,
        "help": "names have lower-case letters, digits and `_`, and begin with a letter",
        "related": []
      }
    ]
    "#);
}

#[test]
fn values_of_the_wrong_shape_say_what_is_expected() {
    let yaml = "version: 2
stages:
  a:
    read: { path: a.csv, format: cvs, compression: 3, attempts: 2, workers: 1 }
    workers: lots
    queue: { batches: 0, bytes: [1] }
    retry: 3
    attempts: 3
    stages: {}
    on_error: rejct
  b: [1]
  c:
    from: a
    python: { call: m:f, as: dataframe }
    workers: { mim: 1 }
    retry: { on: [exception, hang], backoff: 5 }
    timeout: 10
    on_error: { skip: {}, reject: {} }
";
    insta::assert_snapshot!(problems(yaml), @r"
    spec::bad_value 1:10 `version` cannot be `2` (the only choice is `1`)
    spec::bad_value 4:34 `format` cannot be `cvs` (did you mean `csv`?)
    spec::bad_value 4:52 `compression` cannot be `3` (choose from `bz2`, `gz`, `none`, `snappy`, `xz`, `zst`)
    spec::unknown_key 4:55 `read` has no key `attempts` (choose from `path`, `format`, `compression`, `schema`, `partitions`, `origin`, `only_new`, `delimiter`, `header`, `quote`, `nulls`, `encoding`)
    spec::unknown_key 4:68 `read` has no key `workers` (`workers` is a key of the stage: move it out of `read`)
    spec::wrong_type 5:14 `workers` must be an integer, a mapping or `auto`, not a string (for example, `workers: 4`)
    spec::bad_value 6:23 `batches` must be at least 1
    spec::wrong_type 6:33 `bytes` must be a string or an integer, not a list (for example, `bytes: 16MiB`)
    spec::wrong_type 7:12 `retry` must be a mapping, not an integer (for example, `retry: { attempts: 3 }`)
    spec::unknown_key 8:5 the stage `a` has no key `attempts` (`attempts` belongs under `retry`)
    spec::unknown_key 9:5 the stage `a` has no key `stages` (`stages` belongs at the top level of the file)
    spec::bad_value 10:15 `on_error` cannot be `rejct` (did you mean `reject`?)
    spec::wrong_type 11:6 the stage `b` must be a mapping, not a list
    spec::bad_value 14:30 `as` cannot be `dataframe` (choose from `arrow`, `numpy`, `pandas`, `polars`, `row`, `rows`, `stream`)
    spec::unknown_key 15:16 `workers` has no key `mim` (did you mean `min`?)
    spec::bad_value 16:30 an item of `on` cannot be `hang` (choose from `crash`, `exception`, `oom`, `timeout`)
    spec::wrong_type 16:46 `backoff` must be a string, not an integer (for example, `backoff: 1s`)
    spec::wrong_type 17:14 `timeout` must be a string or a mapping, not an integer (for example, `timeout: 60s`)
    spec::bad_value 18:27 `on_error` can have only one of `skip` and `reject`
    ");
}

#[test]
fn the_words_of_other_tools_are_known() {
    let yaml = "version: 1
steps: {}
params: { p: { type: integer, default: 1, enum: [1, 2] } }
stages:
  a:
    read: { file: a.csv, sep: ';' }
    parallelism: 4
    retries: 3
    max_rows: 10
    depends_on: b
  b:
    from: a
    command: { cmd: [cat], script: cat }
    env_vars: { A: x }
    timeout_seconds: 60
    path: x
  c:
    from: a
    write: c.csv
    format: csv
    header: true
  d:
    from: a
    python: { function: m:f, kwargs: { x: 1 } }
    max_fraction: 0.1
    on_error: skip
    bytes: 1MiB
    input: a
    attempts: ${{ params.p }}
";
    insta::assert_snapshot!(problems(yaml), @r"
    spec::unknown_key 2:1 the pipeline has no key `steps` (write `stages:`)
    spec::unknown_key 3:43 the param `p` has no key `enum` (write `choices: [1, 2]`)
    spec::unknown_key 6:13 `read` has no key `file` (write `path: a.csv`)
    spec::unknown_key 6:26 `read` has no key `sep` (write `delimiter: ;`)
    spec::unknown_key 7:5 the stage `a` has no key `parallelism` (write `workers: 4`)
    spec::unknown_key 8:5 the stage `a` has no key `retries` (write `retry: { attempts: 3 }`, in which the first attempt counts)
    spec::unknown_key 9:5 the stage `a` has no key `max_rows` (`max_rows` belongs under `on_error: { reject: … }`)
    spec::unknown_key 10:5 the stage `a` has no key `depends_on` (`from` names the stages whose rows this one takes, `after` those that it only waits for)
    spec::unknown_key 13:16 `command` has no key `cmd` (write `run: [program, argument]`)
    spec::unknown_key 13:28 `command` has no key `script` (write `shell: cat`)
    spec::unknown_key 14:5 the stage `b` has no key `env_vars` (write `env: { A: x }`)
    spec::unknown_key 15:5 the stage `b` has no key `timeout_seconds` (write `timeout:` with a unit, such as `timeout: 60s`)
    spec::unknown_key 16:5 the stage `b` has no key `path` (`path` belongs under `read` or `write`)
    spec::unknown_key 20:5 the stage `c` has no key `format` (`format` belongs under `write`)
    spec::unknown_key 21:5 the stage `c` has no key `header` (`header` belongs under `write`)
    spec::unknown_key 24:15 `python` has no key `function` (write `call: module:name`)
    spec::unknown_key 24:30 `python` has no key `kwargs` (write `with: { x: 1 }`)
    spec::unknown_key 25:5 the stage `d` has no key `max_fraction` (`max_fraction` belongs under `on_error: { skip: … }`)
    spec::unknown_key 27:5 the stage `d` has no key `bytes` (`bytes` belongs under `batch` or `queue`)
    spec::unknown_key 28:5 the stage `d` has no key `input` (rows come from stages (`from: STAGE`) or, in a stage of its own, from files (`read: PATH`))
    spec::unknown_key 29:5 the stage `d` has no key `attempts` (`attempts` belongs under `retry`)
    ");
}

#[test]
fn wrong_indentation_is_one_mistake() {
    let yaml = "version: 1
params:
  floor:
  type: integer
  default: 3
stages:
  a:
  read: a.csv
  batch: { rows: 2 }
  b:
    from: a
    python:
    call: m:f
    as: row
    retry:
      attempts: ${{ params.floor }}
      timeout: 60s
      workers: 2
    c:
      from: b
      write: c.csv
  group:
    d: { from: b, write: d.csv }
    e: { from: b, write: e.csv }
f: { from: b, write: f.csv }
";
    insta::assert_snapshot!(problems(yaml), @r"
    spec::wrong_type 3:3 the param `floor` must be a mapping, not nothing (indent `type` and `default` under `floor`)
    spec::wrong_type 7:3 the stage `a` must be a mapping, not nothing (indent `read` and `batch` under `a`)
    spec::wrong_type 12:5 `python` must be a mapping, not nothing (indent `call` and `as` under `python`)
    spec::unknown_key 17:7 `retry` has no keys `timeout` and `workers` (`timeout` and `workers` are keys of the stage: indent them as `retry` is)
    spec::unknown_key 19:5 the stage `b` has no key `c` (`c` looks like a stage: indent it as `b` is)
    spec::unknown_key 23:5 the stage `group` has no keys `d` and `e` (`d` and `e` look like stages: they stand directly below `stages`)
    spec::unknown_key 25:1 the pipeline has no key `f` (`f` looks like a stage: indent it under `stages`)
    ");
    insta::assert_snapshot!(problems("version: 1\nstages:\na: { read: a.csv }\nb: { from: a, write: b.csv }\n"), @"spec::unknown_key 3:1 the pipeline has no keys `a` and `b` (`a` and `b` look like stages: indent them under `stages`)");
}

#[test]
fn what_is_no_file_and_no_object_is_told() {
    let yaml = "version: 1
stages:
  a: { read: s3://bucket/a.csv }
  b: { read: { path: [b.csv, 'https://example.org/b.csv'] } }
  c: { from: a, write: gs://bucket/c.csv }
  d: { from: b, write: { path: out/../, format: jsonl } }
  e: { from: b, write: { path: .., format: csv } }
  f: { read: file:///data/a.csv }
  g: { read: 'a:b//c.csv' }
  h: { read: s3://key:secret@bucket/a.csv }
  i: { from: a, write: { path: s3://bucket/i.csv, mode: append } }
  j: { from: a, write: { path: s3://bucket/, format: csv } }
  k: { from: a, write: { path: s3://bucket/k/, format: csv, mode: append } }
  l: { from: a, write: { path: az:///k.csv } }
  m: { from: a, write: gs://bucket/c.csv }
  n: { read: 's3://bucket/k/*.csv' }
";
    insta::assert_snapshot!(problems(yaml), @r"
    plan::bad_option 4:30 `https://example.org/b.csv` is a URL of no object store, and `read` takes files and objects (let a `command` stage fetch it to a file, and make this stage `after` that one)
    plan::bad_option 6:32 `out/../` has no name of its own, and what is in its place would be replaced (name a file, such as `out/../b.jsonl`, or a folder in it)
    plan::bad_option 7:32 `..` has no name of its own, and what is in its place would be replaced (name a file, such as `../b.csv`, or a folder in it)
    plan::bad_option 8:14 `file:///data/a.csv` is a file of this machine, and no URL is needed (write the path alone)
    plan::bad_option 10:14 the URL of `path` has a user or a query, and may not hold secrets (leave it out, and set environment variables such as `AWS_SECRET_ACCESS_KEY` or `AZURE_STORAGE_ACCOUNT_NAME`)
    plan::bad_option 11:57 nothing can be appended to an object in a store (write to a folder, to which each run adds a file: `path: s3://bucket/i/` with `format: csv`)
    plan::bad_option 12:32 `s3://bucket/` is a whole bucket (name an object, or what the names of several begin with)
    plan::bad_option 14:32 the URL of `path` has no bucket behind `az://` (write the path of a file, or `s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`; for another store that speaks S3, set `AWS_ENDPOINT`)
    plan::same_path 15:24 `c` and `m` write to the same path
    plan::reads_own_output 16:14 `n` reads the folder that `k` writes (use `from` to take the rows of the stage in front of `k`, or add `after: k`, so that it is there)
    ");
}

#[test]
fn a_mistake_inside_an_anchor_is_reported_once() {
    let yaml = "version: 1
x-common: &common { workers: [1] }
stages:
  a: &a
    read: { path: a.csv, formt: csv }
    <<: *common
  b: *a
  c:
    <<: *common
    from: b
    write: c.csv
";
    let source = source(yaml);
    let drawn = render::human(&validate(&source), &source, Style { color: false, width: 100 });
    insta::assert_snapshot!(drawn, @r"
    spec::wrong_type

      × `workers` must be an integer, a mapping or `auto`, not a list
       ╭─[pipeline.yaml:2:30]
     1 │ version: 1
     2 │ x-common: &common { workers: [1] }
       ·                              ─┬─
       ·                               ╰── this is a list
     3 │ stages:
       ╰────
        ╭─[pipeline.yaml:6:9]
      5 │     read: { path: a.csv, formt: csv }
      6 │     <<: *common
        ·         ───┬───
        ·            ╰── used here
      7 │   b: *a
        ·      ─┬
        ·       ╰── used here
      8 │   c:
      9 │     <<: *common
        ·         ───┬───
        ·            ╰── used here
     10 │     from: b
        ╰────
      help: for example, `workers: 4`

    spec::unknown_key

      × `read` has no key `formt`
       ╭─[pipeline.yaml:5:26]
     4 │   a: &a
     5 │     read: { path: a.csv, formt: csv }
       ·                          ──┬──
       ·                            ╰── unknown key
     6 │     <<: *common
     7 │   b: *a
       ·      ─┬
       ·       ╰── used here
     8 │   c:
       ╰────
      help: did you mean `format`?
    ");
}

#[test]
fn yaml_itself_can_be_wrong() {
    insta::assert_snapshot!(problems("a: [1, 2"), @"yaml::syntax 1:9 not valid YAML: while parsing a flow sequence, expected ',' or ']'");
    insta::assert_snapshot!(problems("version: 1\nstages: &s { a: *s }"), @"yaml::recursive_alias 2:17 this alias stands inside the anchor that it names");
    insta::assert_snapshot!(problems("version: 1\nstages: { a: { <<: 3, read: x.csv, workers: .inf, ? [k] : 1 } }\n--- {}\n"), @r"
    yaml::bad_merge 2:20 `<<` takes a mapping or a list of mappings
    yaml::unsupported 2:45 `.inf` is not a finite number (write it in quotes if a string is meant)
    yaml::unsupported 2:53 a key must be a word, not a list
    yaml::unsupported 3:1 a pipeline file holds one document
    ");
    insta::assert_snapshot!(problems(""), @"spec::wrong_type 1:1 the pipeline must be a mapping, not nothing");
}

#[test]
fn what_is_often_meant_by_no_yaml_is_said() {
    let help = |stage: &str| {
        let source = source(&format!("version: 1\nstages:\n  a:\n{stage}\n  b: {{ from: a, write: b.csv }}\n"));
        validate(&source).into_iter().find_map(|problem| problem.help).unwrap_or_default()
    };
    assert_eq!(
        help("    read: { path: ${{ params.a }}/a.csv }"),
        "quote the expression, as `{` begins a mapping here: `\"${{ … }}\"`"
    );
    assert_eq!(help("    read: *.csv"), "quote the pattern, as `*` stands for an anchor: `\"*.csv\"`");
    assert_eq!(help("    read: a.csv\n    timeout:60s"), "write a space after the colon: `timeout: 60s`");
    assert_eq!(help("    read: [a.csv"), "");
}

#[test]
fn a_table_is_marked_where_it_is_read() {
    let yaml = "version: 1
stages:
  rows: { read: rows.csv }
  sums: { from: rows, sql: 'SELECT avg(score) AS score FROM score JOIN rows ON true' }
  out: { from: sums, write: out.csv }
";
    let found = problems(yaml);
    assert!(found.starts_with("plan::unknown_table 4:61 the query reads the table `score`"), "{found}");
}

#[test]
fn params_and_expressions_can_be_wrong() {
    let yaml = "version: 1
params:
  floor: { type: integer, default: 1.5 }
  colour: { type: string, default: green, choices: [red, blue] }
  home: { type: path, default: '${{ params.floor }}' }
  unused: { type: boolean, default: true }
  Bad: { type: integer }
stages:
  a: { read: '${{ params.flor }}/a.csv' }
  b: { from: a, command: { shell: 'echo ${{ params.colour }}' } }
  c: { from: b, write: '${{ env.NOPE }}/${{ floor }}.csv' }
  d: { from: b, write: '${{ 1 + }}.csv' }
  e: { from: b, write: '${{ 1 + \"a\" }}.csv' }
  f: { from: b, write: '${{ run.id }}.csv' }
  g: { from: b, write: '${{ run.seed.csv' }
";
    insta::assert_snapshot!(problems(yaml), @r#"
    param::bad_default 3:36 the default is a number, but the param's type is `integer`
    param::bad_default 4:36 the default "green" is not one of the choices (choose from "red", "blue")
    expr::unknown_name 5:33 a default cannot use params (it can use `env` and `run`)
    spec::bad_name 7:3 `Bad` cannot be the name of a param (names have lower-case letters, digits and `_`, and begin with a letter)
    expr::unknown_name 9:15 there is no param `flor` (did you mean `floor`?)
    expr::in_shell 10:41 an expression cannot be pasted into a shell script (write `"$colour"`: params are environment variables of the script)
    expr::unknown_name 11:41 `floor` is not known in expressions (did you mean `params.floor`?)
    expr::syntax 12:25 not an expression: unexpected end of input, expected expression
    expr::failed 13:25 the expression has no value: tried to use + operator on unsupported types number and string
    expr::unknown_name 14:25 `run` has no `id` (choose from `seed`, `name`)
    expr::syntax 15:25 this `${{` has no `}}` (write `$${{` for the characters themselves)
    "#);
}

#[test]
fn a_required_value_that_is_not_known_before_the_run_is_no_mistake() {
    let yaml = "version: 1
params: { p: { type: path } }
stages:
  a: { read: { path: '${{ params.p }}/a.csv', format: csv } }
  b: { from: a, write: { path: '${{ params.p }}/b.csv', format: csv } }
";
    insta::assert_snapshot!(problems(yaml), @"");
}

#[test]
fn a_mistake_in_a_required_value_is_said_once() {
    let yaml = "version: 1
stages:
  a: { read: { path: '${{ nope }}', format: csv } }
";
    insta::assert_snapshot!(problems(yaml), @"expr::unknown_name 3:23 `nope` is not known in expressions (choose from `params`, `env`, `secrets`, `run`)");
}

#[test]
fn an_expression_that_is_too_long_is_refused_before_it_is_parsed() {
    let yaml = |signs: usize| {
        format!("version: 1\nstages: {{ a: {{ python: m:f, workers: '${{{{ {}1 }}}}' }} }}\n", "-".repeat(signs))
    };
    insta::assert_snapshot!(problems(&yaml(100_000)), @"expr::syntax 2:39 an expression has at most 1000 bytes, and this one has 100003");
    insta::assert_snapshot!(problems(&yaml(900)), @"");
}

#[test]
fn an_unused_param_is_a_warning_unless_python_could_use_it() {
    let yaml = "version: 1\nparams: { p: { type: integer, default: 1 } }\nstages: { a: { read: a.csv } }\n";
    insta::assert_snapshot!(problems(yaml), @"param::unused 2:11 the param `p` is not used");
    assert_eq!(problems(&yaml.replace("a: { read: a.csv }", "a: { python: m:f }")), "");
}

#[test]
fn inputs_must_fit_their_stages() {
    let yaml = "version: 1
stages:
  a: { read: a.csv, from: b, on_error: skip }
  b: { write: b.csv }
  c: { from: b, write: c.csv }
  d: { from: { x: a }, python: m:f }
  e: { from: [a, a], sql: SELECT * FROM a }
  f: { from: d.rejected, write: f.csv }
  g: { from: d.failed, write: g.csv }
  h: { from: [], write: h.csv }
  i: { from: a, command: { run: [x], mode: once } }
  j: { command: { run: [x], mode: batch } }
  k: { from: k, python: m:f }
  l: { from: a, command: { run: [x], shell: y } }
  m: { from: a, sql: 'SELECT * FROM b WHERE x = $y' }
  n: { from: [a, d], sql: SELECT * FROM a }
";
    insta::assert_snapshot!(problems(yaml), @r"
    plan::unexpected_input 3:21 the stage `a` cannot have `from`: it reads files
    plan::sink_as_input 3:27 stage `b` gives no rows, so nothing can read from it (read from the stage that this sink reads from)
    plan::missing_input 4:3 the stage `b` needs `from`: the stage whose rows it takes
    plan::sink_as_input 5:14 stage `b` gives no rows, so nothing can read from it (read from the stage that this sink reads from)
    plan::bad_input 6:14 only `sql` stages name their inputs; `d` takes a stage or a list of stages
    plan::bad_input 7:18 two inputs of `e` are tables with the name `a` (name them: `from: { a: …, other: … }`)
    plan::nothing_rejected 8:14 nothing ever arrives from `d.rejected` (add `on_error: reject` to the stage `d`)
    plan::unknown_port 9:14 stage `d` has no port `failed` (choose from `out`, `rejected`)
    plan::missing_input 10:14 `from` of the stage `h` names no stage
    plan::unexpected_input 11:8 the stage `i` cannot have `from`: a command that runs once gets no rows
    plan::missing_input 12:3 the stage `j` needs `from`: the stage whose rows it takes
    plan::cycle 13:14 the stage `k` reads from itself (a pipeline must not have a cycle)
    spec::bad_value 14:38 `command` can have only one of `run` and `shell`
    plan::bad_input 15:14 `a` is an input, but the query does not read it (take it out of `from`, or use it in the query)
    plan::unknown_table 15:37 the query reads the table `b`, which is no input of `m` (add `b` to `from`)
    plan::unknown_sql_param 15:49 the query uses `$y`, but there is no param `y`
    plan::bad_input 16:18 `d` is an input, but the query does not read it (take it out of `from`, or use it in the query)
    ");
}

#[test]
fn only_python_stages_with_rows_keep_state() {
    let yaml = "version: 1
stages:
  rows: { read: lines.txt }
  a: { from: rows, python: m:A, partition_by: line }
  b: { from: rows, python: m:B, partition_by: [lin, line], on_error: reject }
  c: { from: rows, python: { call: m:c, as: stream }, on_error: skip }
  d: { python: { call: m:d, as: stream } }
  e: { python: m:e, partition_by: line }
  f: { from: a, sql: SELECT line FROM a, partition_by: line }
  g: { from: a, python: m:g, partition_by: [line, k, line] }
  h: { from: c.rejected, python: m:h, partition_by: [] }
  i: { from: b.rejected, write: i.jsonl }
";
    insta::assert_snapshot!(problems(yaml), @"
    plan::unknown_column 5:48 `lin` is no column of the rows that `b` gets (did you mean `line`?)
    plan::on_error_unsupported 5:70 the stage `b` cannot `reject` rows (what a row has done to a state cannot be undone: let a stage in front of this one sort out bad rows)
    plan::on_error_unsupported 6:65 the stage `c` cannot `skip` rows (what a row has done to a state cannot be undone: let a stage in front of this one sort out bad rows)
    plan::bad_option 7:33 a stage without `from` gets no rows, so `as: stream` has no meaning for it (remove it: a source is a generator, which yields rows or batches as it is)
    plan::bad_option 8:21 `partition_by` has no meaning for the stage `e`: it makes rows and gets none (remove it; it is for `python` stages with `from`)
    plan::bad_option 9:42 `partition_by` has no meaning for the stage `f`: a `sql` stage keeps no state per key (remove it; it is for `python` stages with `from`)
    plan::bad_option 10:54 `partition_by` names the column `line` twice
    plan::unknown_port 11:14 stage `c` has no port `rejected` (the only choice is `out`)
    spec::bad_value 11:53 `partition_by` must not be empty
    ");
}

#[test]
fn only_functions_of_one_row_without_state_are_called_for_many_at_once() {
    let yaml = "version: 1
params:
  rows: { type: integer, default: 7 }
stages:
  rows: { read: lines.txt, concurrency: 5 }
  a: { from: rows, python: m:a, concurrency: 50 }
  b: { from: rows, python: { call: m:b, as: row }, concurrency: '${{ params.rows }}' }
  c: { from: rows, python: { call: m:c, as: arrow }, concurrency: 50 }
  d: { from: rows, python: { call: m:d, as: stream }, concurrency: 50 }
  e: { from: rows, python: m:E, partition_by: line, concurrency: 50 }
  f: { python: m:f, concurrency: 50 }
  g: { from: a, sql: SELECT * FROM a, concurrency: 50 }
  h: { from: rows, command: { mode: row, run: [echo, '{line}'] }, concurrency: 50 }
  i: { from: rows, python: m:i, concurrency: 0 }
  j: { from: rows, python: m:j, concurrency: 1001 }
  k: { from: rows, python: m:k, concurrency: auto }
  l: { from: rows, python: { call: m:l, concurrency: 50 } }
  m: { from: rows, python: m:m, concurency: 50 }
  n: { from: rows, python: m:n, concurrency: 50, batch: { rows: 10 } }
";
    insta::assert_snapshot!(problems(yaml), @"
    plan::bad_option 5:28 `concurrency` has no meaning for the stage `rows`: it calls no function (remove it; it is for `python` stages with `from` whose function is called for each row)
    plan::bad_option 8:54 `concurrency` has no meaning for the stage `c`: its function is given whole batches, and not rows (write `as: row`; or remove it, as an `async def` function of batches can gather what it waits for)
    plan::bad_option 9:55 `concurrency` has no meaning for the stage `d`: `as: stream` gets its batches one after the other (remove it, or let a stage in front of this one do what waits)
    plan::bad_option 10:53 `concurrency` has no meaning for the stage `e`: with `partition_by`, rows of one key come one after the other (remove it, or let a stage in front of this one do what waits)
    plan::bad_option 11:21 `concurrency` has no meaning for the stage `f`: it makes rows and gets none (remove it; it is for `python` stages with `from` whose function is called for each row)
    plan::bad_option 12:39 `concurrency` has no meaning for the stage `g`: it calls no function (remove it; it is for `python` stages with `from` whose function is called for each row)
    plan::bad_option 13:67 `concurrency` has no meaning for the stage `h`: `workers` says how many of its processes may run at once (remove it; it is for `python` stages with `from` whose function is called for each row)
    spec::bad_value 14:46 `concurrency` must be at least 1
    spec::bad_value 15:46 `concurrency` must be at most 1000
    spec::wrong_type 16:46 `concurrency` must be an integer, not a string (for example, `concurrency: 50`)
    spec::unknown_key 17:41 `python` has no key `concurrency` (`concurrency` is a key of the stage: move it out of `python`)
    spec::unknown_key 18:33 the stage `m` has no key `concurency` (did you mean `concurrency`?)
    plan::few_rows 19:65 a batch of the stage `n` has at most 10 rows, so no more of the 50 of `concurrency` can wait at once (write `rows: 400` or more: several times as many as may wait)
    ");
}

#[test]
fn waits_and_templates_are_checked() {
    let yaml = "version: 1
stages:
  a: { read: { path: a.txt, format: lines } }
  b: { from: a, write: b.csv, after: [c, c] }
  c: { after: [b, nope], command: [x] }
  d: { after: e, command: [x] }
  e: { from: f, after: [a], command: { mode: row, run: [x, '{line}', '{lime}', '{', '}'] } }
  f: { from: a, after: d, command: { mode: row, run: [x, '{line}'], output: lines }, batch: { rows: 3 } }
  g: { from: a, command: { mode: row, run: [x, '{{x}} {lime}'] } }
  h: { after: h, command: [x] }
  i: { from: a, command: { mode: stream, run: [x], output: csv } }
  j: { command: { mode: stream, run: [x] } }
";
    insta::assert_snapshot!(problems(yaml), @r"
    plan::cycle 4:39 these stages wait for each other: b -> c -> b (a pipeline must not have a cycle)
    plan::unknown_stage 5:19 stage `c` waits for `nope`, which is no stage (choose from `a`, `b`, `d`, `e`, `f`, `g`, `h`, `i`, `j`)
    plan::cycle 6:15 these stages wait for each other: d -> f -> e -> d (a pipeline must not have a cycle)
    plan::bad_option 7:80 the argument `{` has a `{` without its partner (`{name}` stands for a row's value or an output; write `{{` for the brace itself)
    plan::bad_option 7:85 the argument `}` has a `}` without its partner (`{name}` stands for a row's value or an output; write `}}` for the brace itself)
    plan::bad_option 8:77 a command in mode `row` has no `output` (it gets the row in its arguments and gives it with `stdout`, `stderr`, `exit_code` and `seconds`)
    plan::bad_option 8:86 a command in mode `row` gets one row at a time
    plan::unknown_column 9:48 `lime` is no column of the rows that `g` gets (did you mean `line`?)
    plan::cycle 10:15 the stage `h` waits for itself (a pipeline must not have a cycle)
    plan::bad_option 11:60 a command in mode `stream` has an `output` of a line for each row (write `lines` or `jsonl`; `mode: batch` takes every format, and as many rows as the program gives)
    plan::missing_input 12:3 the stage `j` needs `from`: the stage whose rows it takes
    ");
}

#[test]
fn problems_in_queries_point_into_the_yaml() {
    let yaml = "version: 1
stages:
  a: { read: a.csv }
  literal:
    from: a
    sql: |-

      SELECT *

        FROM a, b
  indented:
    from: a
    sql:
      query: |2
           SELECT é, * FROM a, b
  folded_line:
    from: a
    sql: >
      SELECT * FROM a, b
  quoted: { from: a, sql: 'SELECT * FROM a, b' }
  plain: { from: a, sql: SELECT * FROM a WHERE AND x }
  anchored: { from: a, sql: &q SELECT * FROM a WHERE $x }
  again: { from: a, sql: *q }
";
    insta::assert_snapshot!(problems(yaml), @r"
    plan::unknown_table 10:17 the query reads the table `b`, which is no input of `literal` (the only choice is `a`)
    plan::unknown_table 15:32 the query reads the table `b`, which is no input of `indented` (the only choice is `a`)
    plan::unknown_table 19:24 the query reads the table `b`, which is no input of `folded_line` (the only choice is `a`)
    plan::unknown_table 20:45 the query reads the table `b`, which is no input of `quoted` (the only choice is `a`)
    plan::sql_syntax 21:52 the query is not valid SQL
    plan::unknown_sql_param 22:54 the query uses `$x`, but there is no param `x`
    ");
    // Where the text is not the file's, the whole scalar is the place.
    let yaml = "version: 1
stages:
  a: { read: a.csv }
  escaped: { from: a, sql: 'SELECT ''x'' FROM a, b' }
  folded:
    from: a
    sql: >
      SELECT * FROM a,
      b
";
    insta::assert_snapshot!(problems(yaml), @r"
    plan::unknown_table 4:28 the query reads the table `b`, which is no input of `escaped` (the only choice is `a`)
    plan::unknown_table 8:7 the query reads the table `b`, which is no input of `folded` (the only choice is `a`)
    ");
}

#[test]
fn files_must_have_formats_and_must_not_collide() {
    let yaml = "version: 1
stages:
  a: { read: data/a }
  b: { read: { path: [a.csv, b.jsonl] } }
  c: { read: 'out/*.csv' }
  d: { read: { path: ['-', a.csv], format: csv } }
  e: { read: { path: a.csv, delimiter: ab, schema: { x: int, y: int64 } } }
  f: { read: { path: a.jsonl, header: true, delimiter: ';' } }
  g: { from: f, write: out/x.csv }
  h: { from: f, write: ./out/../out/x.csv }
  i: { from: f, write: '-' }
  j: { from: f, write: { path: '-', format: parquet } }
  k: { from: f, write: k.parquet.gz }
  l: { from: f, python: 'no function', batch: { bytes: huge }, queue: { bytes: 0MiB } }
  m: { read: { path: a.parquet, quote: none, nulls: [], encoding: utf-16 } }
  n: { read: { path: a.csv, quote: ab } }
  o: { read: { path: a.csv, encoding: utf16 } }
  q: { read: { path: a.csv, delimiter: ';', quote: ';' } }
  r: { read: { path: '-', format: binary, schema: { a: string } } }
  s: { from: f, write: { path: s, format: binary } }
  t: { from: f, write: { path: t.parquet, compression: xz } }
";
    insta::assert_snapshot!(problems(yaml), @r"
    plan::unknown_format 3:14 the extension of `data/a` does not say how its rows are written (add `format:` with one of csv, tsv, jsonl, json, parquet, arrow, lines, binary)
    plan::unknown_format 4:22 the extensions of these paths do not say one format for all (add `format:` with one of csv, tsv, jsonl, json, parquet, arrow, lines, binary)
    plan::reads_own_output 5:14 `c` reads the file that `g` writes (use `from` to take the rows of the stage in front of `g`, or add `after: g`, so that it is there)
    plan::bad_option 6:22 standard input (`-`) cannot be read together with files
    spec::bad_value 7:40 `delimiter` must have at most 1 character(s)
    plan::bad_option 8:39 only csv and tsv have a `header`
    plan::bad_option 8:56 only csv has a `delimiter`
    plan::same_path 10:24 `g` and `h` write to the same path
    plan::unknown_format 11:24 standard input and output need a `format` (add `format:` with one of csv, tsv, jsonl, json, parquet, arrow, lines)
    plan::bad_option 12:45 parquet cannot be written to standard output (use `format: arrow`)
    plan::bad_option 13:24 a parquet file compresses its own pages and is not compressed as a whole (end the path in `.parquet`, and choose the codec with `compression`)
    plan::bad_call 14:25 `no function` does not name a function or a class (write `module:name`, such as `cleaning:normalise`)
    plan::bad_size 14:56 `huge` is not a size (write a positive number of bytes, or one with a unit, such as `64MiB`)
    plan::bad_size 14:80 `0MiB` is not a size (write a positive number of bytes, or one with a unit, such as `64MiB`)
    plan::bad_option 15:40 only csv and tsv have a `quote`
    plan::bad_option 15:53 only csv and tsv have `nulls`
    plan::bad_option 15:67 only text has an `encoding`
    plan::bad_option 16:36 `ab` cannot be a quote: it must be one ASCII character, or `none`
    spec::bad_value 17:39 `encoding` cannot be `utf16` (did you mean `utf-16`?)
    plan::bad_option 18:52 the delimiter cannot be the quote as well
    plan::bad_option 19:35 binary reads files, one for each row, and no standard input
    plan::bad_option 19:51 binary has the columns `path` and `bytes`, and no others
    plan::bad_option 20:43 binary is only for `read`
    plan::bad_option 21:56 the pages of parquet files are compressed with `zst`, `gz` or `snappy`
    ");
}

#[test]
fn a_folder_without_a_name_is_refused_whatever_the_format() {
    let yaml = "version: 1
stages:
  a: { read: a.csv }
  b: { from: a, write: { path: ./, format: binary } }
";
    let found = problems(yaml);
    assert!(found.contains("`./` has no name of its own") && found.contains("such as `./a.csv`"), "{found}");
}

#[test]
fn what_is_wrong_on_the_command_line_has_no_place() {
    let yaml = "version: 1
params: { n: { type: integer }, kind: { type: string, default: a, choices: [a, b] } }
stages: { a: { sql: 'SELECT $n, $kind' } }
";
    assert_eq!(problems(yaml), "");
    insta::assert_snapshot!(compile(yaml, &[]).unwrap_err(), @"param::missing 2:11 the param `n` has no default and must be set (add `--set n=…` (integer))");
    insta::assert_snapshot!(compile(yaml, &[("n", "x"), ("kind", "c"), ("knd", "a")]).unwrap_err(), @r#"
    param::unknown - `knd=…`: the pipeline has no param `knd` (did you mean `kind`?)
    param::bad_value - `n=x`: `x` is not an integer
    param::bad_value - `kind=c`: not one of the choices (choose from "a", "b")
    "#);
    let plan = compile(yaml, &[("n", "1"), ("n", "2")]).expect("is valid").plan;
    assert_eq!(plan.params["n"], 2);
}

#[test]
fn an_alias_bomb_and_deep_nesting_are_refused_at_once() {
    let mut bomb = String::from("a: &a [x, x, x, x, x, x, x, x, x, x]\n");
    for (previous, name) in "abcdefgh".chars().zip("bcdefghi".chars()) {
        bomb += &format!("{name}: &{name} [{}]\n", vec![format!("*{previous}"); 10].join(", "));
    }
    let deep_flow = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let deep_block: String = (0..2_000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
    let anchors: String =
        (0..60).map(|depth| format!("{}&a{depth}\n{}a:\n", " ".repeat(depth), " ".repeat(depth))).collect();
    let start = Instant::now();
    assert!(problems(&bomb).starts_with("yaml::too_large 5:"), "{}", problems(&bomb));
    assert!(problems(&deep_flow).starts_with("yaml::too_deep"), "{}", problems(&deep_flow));
    assert!(problems(&deep_block).starts_with("yaml::too_deep"), "{}", problems(&deep_block));
    assert!(!problems(&anchors).is_empty());
    assert!(start.elapsed() < Duration::from_secs(2), "took {:?}", start.elapsed());
}

/// A sound pipeline in which most of the language appears.
const SOUND: &str = include_str!("diagnostics/sound.yaml");

#[test]
fn a_sound_pipeline_has_no_problems() {
    assert_eq!(problems(SOUND), "");
}

proptest::proptest! {
    /// However a file is damaged, all problems can be found and drawn, and a file without errors can be compiled.
    #[test]
    fn a_damaged_file_is_reported_and_never_a_panic(
        cuts in proptest::collection::vec((0..SOUND.len(), 0..12_usize, "[a-z0-9 :,\\[\\]{}$&*'-]{0,4}|\n  |é"), 1..4),
    ) {
        let mut text: Vec<char> = SOUND.chars().collect();
        for (at, length, insert) in cuts {
            let at = at.min(text.len());
            let end = (at + length).min(text.len());
            text.splice(at..end, insert.chars());
        }
        let yaml: String = text.into_iter().collect();
        let source = source(&yaml);
        let problems = validate(&source);
        for problem in &problems {
            if let Some(span) = problem.span() {
                proptest::prop_assert!(span.end <= source.text().len() && source.text().is_char_boundary(span.start));
                proptest::prop_assert!(source.text().is_char_boundary(span.end), "{problem:?}");
            }
        }
        render::human(&problems, &source, Style { color: true, width: 80 });
        render::json(&problems, &source);
        if problems.iter().all(|problem| !problem.is_error()) {
            proptest::prop_assert!(compile(&yaml, &[]).is_ok(), "{yaml}");
        }
    }
}

#[test]
fn snappy_is_for_the_pages_of_parquet_files() {
    let yaml = "version: 1
stages:
  a: { read: { path: a.csv, compression: snappy } }
  b: { from: a, write: { path: b.csv, compression: snappy } }
  c: { from: a, write: { path: c.parquet, compression: snappy } }
";
    insta::assert_snapshot!(problems(yaml), @r"
    plan::bad_option 3:42 `snappy` compresses the pages of parquet files that are written, and nothing else
    plan::bad_option 4:52 `snappy` compresses the pages of parquet files that are written, and nothing else
    ");
}

#[test]
fn a_foreach_can_be_wrong() {
    let yaml = "version: 1
stages:
  a: { foreach: { x: [], y: 3, Z: [1] }, command: [echo, '${{ each.x }}'] }
  b: { foreach: { lang: [de, en] }, command: [echo, '${{ each.lan }}'] }
  b__de: { command: [ls] }
  c: { command: [echo, '${{ each.lang }}'] }
  d: { foreach: [de, en], command: [echo, '${{ each.lang }}'] }
  e: { foreach: { n: '${{ range(1, 4) }}' }, from: buy, write: e.csv }
  f: { foreach: { n: '${{ range(1, 60000) }}', m: [1, 2] }, command: [echo, '${{ each.n }}'] }
  g: { after: bb, command: [ls] }
  h: { foreach: {}, command: [ls] }
  i: { foreach: { n: [1, 2] }, from: a, command: { shell: 'echo ${{ each.n }}' } }
";
    insta::assert_snapshot!(problems(yaml), @r"
    spec::bad_value 3:22 `x` has no values (without any, there would be no stage)
    spec::wrong_type 3:29 the values of `y` are an integer, and not a list (write a list, or an expression that gives one: `${{ range(1, 11) }}`)
    spec::bad_name 3:32 `Z` cannot be the name of a variable (names have lower-case letters, digits and `_`, and begin with a letter)
    spec::bad_name 4:3 `foreach` of the stage `b` makes a stage `b__de`, which there is already (give one of them another name)
    expr::unknown_name 4:54 `foreach` of this stage has no variable `lan` (did you mean `lang`?)
    expr::unknown_name 6:25 `each` is known only in a stage with `foreach` (give the stage a `foreach`, or use the variable in the stage that has it)
    spec::wrong_type 7:17 `foreach` is a list, and not a mapping (write `foreach: { name: [first, second] }`)
    plan::unknown_stage 8:52 stage `e__1` reads from `buy`, which is no stage (choose from `a`, `b`, `b__de`, `c`, `d`, `f`, `g`, `h`, `i`)
    plan::same_path 8:64 `e__1` and `e__2` write to the same path
    spec::bad_value 9:3 `foreach` of the stage `f` makes 119998 stages (a file may have 100000 such stages)
    plan::unknown_stage 10:15 stage `g` waits for `bb`, which is no stage (choose from `a`, `b`, `b__de`, `c`, `d`, `e`, `f`, `h`, `i`)
    spec::bad_value 11:8 `foreach` has no variable (write `foreach: { name: [first, second] }`)
    expr::in_shell 12:65 an expression cannot be pasted into a shell script (give it to the script as a variable, with `env`)
    ");
}

#[test]
fn a_foreach_over_what_is_not_known_yet_is_no_mistake() {
    let yaml = "version: 1
params: { days: { type: string }, other: { type: string } }
stages:
  a: { foreach: { day: \"${{ params.days | split(',') }}\" }, command: [echo, '${{ each.day }}', '${{ params.other }}'] }
  b: { after: a, command: [ls] }
";
    assert_eq!(problems(yaml), "");
    let set = [("days", "mo,tu"), ("other", "x")];
    let names: Vec<String> =
        compile(yaml, &set).expect("it is sound").plan.stages.iter().map(|stage| stage.name.clone()).collect();
    assert_eq!(names, ["a__mo", "a__tu", "b"]);
}

#[test]
fn files_of_tasks_are_checked() {
    let yaml = r#"version: 1
params:
  size: { type: integer, default: 1 }
stages:
  rows: { read: lines.txt }
  a: { from: rows, command: { run: [cat], outputs: a.bin } }
  b: { command: { run: [cat], output: lines, inputs: "*.txt" } }
  c: { command: { run: [make, "{modle}"], outputs: { model: c.bin } } }
  d: { command: { shell: make "$models", outputs: { model: d.bin } } }
  e: { command: { shell: make "$size", outputs: { size: e.bin } } }
  f: { command: { run: [make], inputs: "f*", outputs: [f.bin, sub/../f.bin] } }
  g: { command: { run: [make], inputs: [g/x.bin, i.csv], outputs: k.csv } }
  h: { command: { run: [make], outputs: g } }
  i: { from: rows, write: i.csv }
  j: { after: h, command: { run: [make], inputs: g/x.bin } }
  k: { from: rows, write: k.csv }
  l: { after: j, read: "g/*.csv" }
  m: { read: "g/*.csv" }
  n: { command: { run: [make, "{", x], outputs: { x: n.bin } } }
  o: { command: { run: [make], outputs: {} } }
  p: { command: { run: [make], inputs: "[" } }
  q: { command: { run: [make, "{all}"], outputs: { all: . } } }
  r: { cwd: work/deep, command: { run: [make, "{all}"], outputs: { all: work } } }
  s: { command: { run: [make], outputs: [s, s/deep/x] } }
  t: { command: { run: [make], outputs: i.csv/x } }
  u: { command: { run: [make], inputs: ["g*/x", "**/y"] } }
"#;
    insta::assert_snapshot!(problems(yaml), @r#"
    plan::bad_option 6:52 `outputs` has no meaning for the command of `a`: it is given rows (remove it; it is for tasks: commands without `from` and `output`. `checkpoint: true` keeps what comes of rows)
    plan::bad_option 7:54 `inputs` has no meaning for the command of `b`: it gives rows (remove it; it is for tasks: commands without `from` and `output`. `checkpoint: true` keeps what comes of rows)
    plan::bad_option 8:31 `modle` is no output of the command (did you mean `model`?)
    plan::bad_option 8:61 the command never uses the output `model` (write `{model}` where the command takes the path; or, if it knows where to write, list the path without a name: `outputs: [path]`)
    plan::bad_option 9:60 the command never uses the output `model` (write `"$model"` where the command takes the path; or, if it knows where to write, list the path without a name: `outputs: [path]`)
    plan::bad_option 10:57 `size` is a param, too: a script could not tell them apart
    plan::reads_own_output 11:40 `f` reads what it writes itself (name the inputs so that the outputs are not among them)
    plan::same_path 11:55 `f` writes to the same path twice
    plan::reads_own_output 12:40 `g` reads the file that `h` writes (add `after: h`, so that it is there)
    plan::same_path 16:27 `g` and `k` write to the same path
    plan::reads_own_output 18:14 `m` reads the file that `h` writes (add `after: h`, so that it is there)
    plan::bad_option 19:31 the argument `{` has a `{` without its partner (`{name}` stands for a row's value or an output; write `{{` for the brace itself)
    spec::bad_value 20:41 `outputs` must not be empty
    plan::bad_option 21:40 `[` is not a glob pattern: invalid range pattern
    plan::same_path 22:50 the output `/project` is the folder of the pipeline, or a folder around it (make a folder of its own for the output: what is in its place is replaced)
    plan::same_path 23:66 the output `/project/work` is the working folder of the command, or a folder around it (make a folder of its own for the output: what is in its place is replaced)
    plan::same_path 24:41 an output of `s` is in the folder of another
    plan::same_path 25:41 what `i` and `t` write is in one folder of theirs
    plan::reads_own_output 26:40 `u` reads the file that `h` writes (add `after: h`, so that it is there)
    "#);
}

#[test]
fn resources_are_checked() {
    let yaml = r#"version: 1
resources:
  gpu: 2
  api: { rate: 100/week }
  calls: { rate: 5/s, burst: 2 }
  idle: 1
  none: 0
stages:
  rows: { read: lines.txt, uses: gpu }
  a: { from: rows, python: m:a, uses: { gpu: 3, calls: { per: row } } }
  b: { from: rows, python: { call: m:b, as: row }, uses: { gpu: { per: row }, call: 1 } }
  c: { from: rows, command: { run: [cat], mode: stream }, uses: calls }
  d: { from: rows, partition_by: line, python: m:d, uses: { calls: { per: row, units: 2 } } }
  e: { from: rows, python: m:e, uses: [calls, calls] }
  f: { command: [cat], uses: [gpu, api] }
"#;
    insta::assert_snapshot!(problems(yaml), @r"
    plan::bad_rate 4:16 `100/week` is not a rate (write how much in how long, such as `100/min` or `5/s`; `s`, `min`, `h` and `d` are known)
    plan::resource_unused 6:3 no stage uses the resource `idle`
    plan::resource_unused 7:3 no stage uses the resource `none`
    spec::bad_value 7:9 the resource `none` must be at least 1
    plan::bad_option 9:28 `uses` has no meaning for the stage `rows`: it runs no code of yours (remove it; it is for `python` stages, and for commands in mode `batch`, `row` or `once` without output)
    plan::bad_option 10:46 3 of `gpu` are never free: there are 2
    plan::bad_option 10:63 `per: row` needs to know whether the function is given one row at a time (say so: `python: { call: module:name, as: row }`; or another form, in which all rows of a batch are taken for at once)
    plan::bad_option 11:72 `per: row` has no meaning for `gpu`, which is not a rate but 2 unit(s) (write `gpu: 1`, which an attempt has while it runs)
    plan::unknown_resource 11:85 there is no resource `call` (did you mean `calls`?)
    plan::bad_option 12:59 `uses` has no meaning for the stage `c`: its command is fed one batch after the other (remove it; it is for `python` stages, and for commands in mode `batch`, `row` or `once` without output)
    plan::bad_option 13:75 the stage `d` is not given rows batch by batch, so that `per: row` has no meaning
    plan::bad_option 14:39 `uses` names the resource `calls` twice
    ");
}

#[test]
fn recycle_is_checked() {
    let yaml = r#"version: 1
stages:
  rows: { read: lines.txt, recycle: { batches: 1 } }
  a: { from: rows, python: m:a, recycle: { batches: 0, age: soon } }
  b: { from: rows, python: m:b, partition_by: line, recycle: { batches: 1 } }
  c: { from: rows, python: { call: m:c, as: stream }, recycle: { age: 1m } }
  d: { python: m:d, recycle: { age: 1m } }
  e: { from: rows, command: [cat], recycle: { age: 1m } }
  f: { from: rows, python: m:f, recycle: {} }
"#;
    insta::assert_snapshot!(problems(yaml), @r#"
    plan::bad_option 3:28 `recycle` has no meaning for the stage `rows`: a `read` stage has no workers of its own (remove it; it is for `python` stages with `from` and without state)
    spec::bad_value 4:53 `batches` must be at least 1
    plan::bad_duration 4:61 `soon` is not a time (write a number with a unit, such as `500ms`, `60s` or `1m30s`)
    plan::bad_option 5:53 `recycle` has no meaning for the stage `b`: a new worker of a stage with state would have to do all again that has made the state (remove it; it is for `python` stages with `from` and without state)
    plan::bad_option 6:55 `recycle` has no meaning for the stage `c`: a new worker of a stage with state would have to do all again that has made the state (remove it; it is for `python` stages with `from` and without state)
    plan::bad_option 7:21 `recycle` has no meaning for the stage `d`: a new worker of a generator would have to make all again that was made so far (remove it; it is for `python` stages with `from` and without state)
    plan::bad_option 8:36 `recycle` has no meaning for the stage `e`: its processes are new for each batch, or filters (remove it; it is for `python` stages with `from` and without state)
    plan::bad_option 9:42 `recycle` does not say when (write `batches: 100`, `age: 30m`, or both)
    "#);
}

#[test]
fn log_level_is_checked() {
    let yaml = r#"version: 1
stages:
  rows: { read: lines.txt, log_level: debug }
  a: { from: rows, python: m:a, log_level: warn }
  b: { from: rows, python: m:b, log_level: warning }
  c: { from: rows, command: [cat], log_level: error }
"#;
    insta::assert_snapshot!(problems(yaml), @r"
    plan::bad_option 3:28 a `read` stage logs nothing by levels, so `log_level` has no meaning (remove it; it is for `python` stages)
    spec::bad_value 4:44 `log_level` cannot be `warn` (choose from `debug`, `error`, `info`, `warning`)
    plan::bad_option 6:36 a `command` stage logs nothing by levels, so `log_level` has no meaning (remove it; it is for `python` stages)
    ");
}

#[test]
fn devices_are_checked() {
    let yaml = r#"version: 1
resources:
  gpu: { units: 2, env: CUDA_VISIBLE_DEVICES }
  both: { units: 2, ids: [1], env: A }
  none: { env: A }
  twice: { ids: [1, "1"], env: A }
  comma: { ids: ["1,2"], env: A }
  bad: { units: 1, env: "A=B" }
stages:
  rows: { read: lines.txt }
  a: { from: rows, python: m:a, uses: { gpu: 3 } }
  b: { from: rows, partition_by: line, python: m:b, uses: gpu }
  c: { python: m:c, uses: [gpu, both, none, twice, comma, bad] }
"#;
    insta::assert_snapshot!(problems(yaml), @r"
    spec::bad_value 4:21 the resource `both` can have only one of `units` and `ids`
    spec::missing_key 5:3 the resource `none` needs one of the keys `units` and `ids`
    plan::bad_option 6:17 the resource `twice` has the id `1` twice (name each once: two attempts never have the same)
    plan::bad_option 7:17 `1,2` is no id, as there are commas between ids in `A` (write one without)
    plan::bad_option 8:25 `A=B` is no name of a variable (write one, such as `CUDA_VISIBLE_DEVICES`)
    plan::bad_option 11:46 3 of `gpu` are never free: there are 2
    plan::bad_option 12:59 the stage `b` cannot use `gpu`: a worker has its units for its life, and one of a stage with state lives until the end of the stage (let a stage without state use it; or declare it as a number, which only counts: what uses it is not told which units it has)
    plan::bad_option 13:27 the stage `c` cannot use `gpu`: a worker has its units for its life, and one of a generator lives until the end of the stage (let a stage without state use it; or declare it as a number, which only counts: what uses it is not told which units it has)
    ");
}

#[test]
fn a_share_is_a_folder_or_a_store_that_is_known_and_shows_no_secret() {
    let share = |place: &str| {
        format!(
            "version: 1\nstages:\n  rows: {{ read: a.csv }}\n  b:\n    from: rows\n    python: w:f\n    checkpoint: {{ share: \"{place}\" }}\n  c: \
             {{ from: b, write: c.csv }}\n"
        )
    };
    for sound in [
        "folder",
        "../a:b/c",
        "file:///mnt/folder",
        "s3://bucket",
        "S3://bucket_1/a/b/",
        "s3a://bucket/a",
        "gs://bucket/a b",
        "az://container/a",
        "abfss://container/a",
        "https://account.blob.core.windows.net/container/a",
        "https://bucket.s3.eu-central-1.amazonaws.com/a",
    ] {
        assert_eq!(problems(&share(sound)), "", "{sound}");
    }
    let unsound = [
        "ftp://host/folder",
        "http://localhost:9000/bucket",
        "https://example.com/bucket",
        "memory:///a",
        "file://host/folder",
        "s3:/bucket",
        "s3:///a",
        "s3://bucket/a//b",
        "s3://bucket:9000/a",
        "s3://key:PASSWORD@bucket/a",
        "abfss://container@account.dfs.core.windows.net/a",
        "az://container/a?sig=PASSWORD",
        "s3://key:PASS@WORD:x/a",
    ];
    let found: Vec<String> = unsound.iter().map(|place| problems(&share(place))).collect();
    insta::assert_snapshot!(found.join("\n"), @r#"
    plan::bad_option 7:26 `share` knows no store with a `ftp` URL like this (write the path of a folder, or `s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`; for another store that speaks S3, set `AWS_ENDPOINT`)
    plan::bad_option 7:26 the URL of `share` has a port or a fragment, which buckets do not have (write the path of a folder, or `s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`; for another store that speaks S3, set `AWS_ENDPOINT`)
    plan::bad_option 7:26 `share` knows no store with a `https` URL like this (write the path of a folder, or `s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`; for another store that speaks S3, set `AWS_ENDPOINT`)
    plan::bad_option 7:26 `share` knows no store with a `memory` URL like this (write the path of a folder, or `s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`; for another store that speaks S3, set `AWS_ENDPOINT`)
    plan::bad_option 7:26 `share` knows no store with a `file` URL like this (write the path of a folder, or `s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`; for another store that speaks S3, set `AWS_ENDPOINT`)
    plan::bad_option 7:26 the URL of `share` has no bucket behind `s3://` (write the path of a folder, or `s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`; for another store that speaks S3, set `AWS_ENDPOINT`)
    plan::bad_option 7:26 the URL of `share` has no bucket behind `s3://` (write the path of a folder, or `s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`; for another store that speaks S3, set `AWS_ENDPOINT`)
    plan::bad_option 7:26 names of objects cannot begin with the path in the URL of `share`: Path "/a//b" contained empty path segment (write the path of a folder, or `s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`; for another store that speaks S3, set `AWS_ENDPOINT`)
    plan::bad_option 7:26 the URL of `share` has a port or a fragment, which buckets do not have (write the path of a folder, or `s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`; for another store that speaks S3, set `AWS_ENDPOINT`)
    plan::bad_option 7:26 the URL of `share` has a user or a query, and may not hold secrets (leave it out, and set environment variables such as `AWS_SECRET_ACCESS_KEY` or `AZURE_STORAGE_ACCOUNT_NAME`)
    plan::bad_option 7:26 the URL of `share` has a user or a query, and may not hold secrets (leave it out, and set environment variables such as `AWS_SECRET_ACCESS_KEY` or `AZURE_STORAGE_ACCOUNT_NAME`)
    plan::bad_option 7:26 the URL of `share` has a user or a query, and may not hold secrets (leave it out, and set environment variables such as `AWS_SECRET_ACCESS_KEY` or `AZURE_STORAGE_ACCOUNT_NAME`)
    plan::bad_option 7:26 `share` is not a URL: invalid port number (write the path of a folder, or `s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`; for another store that speaks S3, set `AWS_ENDPOINT`)
    "#);
    for place in unsound.iter().filter(|place| place.contains("PASS")) {
        let source = source(&share(place));
        let problems = validate(&source);
        let drawn = render::human(&problems, &source, Style { color: false, width: 100 });
        assert!(drawn.contains("(at pipeline.yaml:7:26)"), "{drawn}");
        let json = serde_json::Value::from(render::json(&problems, &source)).to_string();
        assert!(!(drawn + &json).contains("PASS"), "{json}");
    }
}

#[test]
fn what_is_shared_is_checked_like_stages() {
    let yaml = "version: 1
shared:
  rows: { read: prices.csv }
  two: { read: a.csv, sql: SELECT 1 }
  none: { description: nothing }
  writes: { write: out.csv }
  typo: { reed: a.csv }
  tables: { from: rowz, sql: SELECT * FROM rowz }
  pasted: { from: two, sql: 'SELECT ${{ params.x }} FROM two' }
  a: { from: b, sql: SELECT * FROM b }
  b: { from: a, sql: SELECT * FROM a }
stages:
  rows: { read: rows.csv }
  sink: { from: rows, after: two.shared, write: out.csv }
";
    let expected = "\
spec::bad_name 3:3 `rows` is the name of a stage and of something shared (rename one of them)
plan::two_kinds 4:23 `two`, which is shared, has two kinds, `read` and `sql` (make two stages of it)
plan::no_kind 5:3 `none`, which is shared, does nothing: it has no kind (add one of `read`, `sql`, `python`)
plan::no_kind 6:3 `writes`, which is shared, does nothing: it has no kind (add one of `read`, `sql`, `python`)
spec::unknown_key 6:13 `writes`, which is shared, has no key `write` (choose from `description`, `from`, `read`, `sql`, `python`, `memory`, `timeout`, `env`, `cwd`)
spec::unknown_key 7:11 `typo`, which is shared, has no key `reed` (did you mean `read`?)
plan::unknown_stage 8:19 stage `tables` reads from `rowz`, which is no stage (did you mean `rows`?)
expr::in_sql 9:37 an expression cannot be pasted into SQL (write `$x`: it is bound as a value)
plan::cycle 10:14 these stages wait for each other: a -> b -> a (a pipeline must not have a cycle)
plan::unknown_stage 14:30 stage `sink` waits for `two.shared`, which is no stage";
    assert!(problems(yaml).starts_with(expected), "{}", problems(yaml));
}

#[test]
fn python_stages_wait_for_what_is_shared_but_not_those_that_it_is_made_of() {
    let yaml = "version: 1
shared:
  made: { from: first, sql: SELECT * FROM first }
  model: { python: 'mod:load' }
stages:
  rows: { read: rows.csv }
  first: { from: rows, python: 'mod:f' }
  worked: { from: first, python: 'mod:g' }
  other: { from: rows, sql: SELECT * FROM rows }
";
    let plan = compile(yaml, &[]).expect("it is valid").plan;
    let after = |name: &str| {
        let stage = plan.stages.iter().find(|stage| stage.name == name).expect("it is there");
        stage.after.iter().map(|id| plan.stage(*id).name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(after("worked"), ["made.shared", "model.shared"]);
    for name in ["first", "other", "made", "model", "model.shared"] {
        assert_eq!(after(name), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn a_pattern_does_not_read_hidden_files() {
    let yaml = |pattern: &str| {
        format!(
            "version: 1\nstages:\n  rows: {{ read: '{pattern}' }}\n  sink: {{ from: rows, write: out/.state.csv }}\n"
        )
    };
    assert_eq!(problems(&yaml("out/*.csv")), "");
    assert!(
        problems(&yaml("out/.*.csv")).starts_with("plan::reads_own_output 3:17 "),
        "{}",
        problems(&yaml("out/.*.csv"))
    );
}

#[test]
fn sinks_of_which_one_is_left_out_may_have_one_path() {
    let yaml = |first: &str, second: &str| {
        format!(
            "version: 1
params: {{ kind: {{ type: string }} }}
stages:
  a: {{ read: a.csv }}
  b: {{ from: a, when: {first}, write: out.csv }}
  c: {{ from: a, when: {second}, write: out.csv }}
"
        )
    };
    assert_eq!(problems(&yaml("\"${{ params.kind == 'b' }}\"", "\"${{ params.kind != 'b' }}\"")), "");
    insta::assert_snapshot!(problems(&yaml("true", "true")), @r"
    param::unused 2:11 the param `kind` is not used
    plan::same_path 6:36 `b` and `c` write to the same path
    ");
    let both = yaml("\"${{ params.kind == 'b' }}\"", "\"${{ params.kind == 'b' }}\"");
    insta::assert_snapshot!(compile(&both, &[("kind", "b")]).unwrap_err(), @"plan::same_path 6:59 `b` and `c` write to the same path");
    assert_eq!(compile(&both, &[("kind", "c")]).expect("neither is there").plan.left_out.len(), 3);
    insta::assert_snapshot!(problems(&yaml("yes", "true")), @r"
    param::unused 2:11 the param `kind` is not used
    spec::wrong_type 5:23 `when` must be a boolean, not a string (for example, `when: ${{ params.publish }}`)
    ");
}

#[test]
fn what_is_wrong_with_a_query_in_a_file_is_shown_there() {
    let yaml = "version: 1
params: { most: { type: integer, default: 3 } }
stages:
  lines: { read: lines.txt }
  some: { from: lines, sql: { file: queries/some.sql } }
";
    let with = |query: &str| {
        Arc::new(SourceText::new("p/pipeline.yaml", "/p/pipeline.yaml", yaml).with_file("queries/some.sql", query))
    };
    let right = with("-- all\nSELECT *\nFROM lines\nWHERE length(line) < $most;\n");
    assert!(validate(&right).is_empty(), "{:?}", validate(&right));
    let wrong = with("-- all\nSELECT *\nFROM lines\nWHERE length(lime) < $most\n");
    let problems = validate(&wrong);
    let drawn = render::human(&problems, &wrong, Style { color: false, width: 80 });
    assert!(drawn.contains("queries/some.sql:4:14") && drawn.contains("WHERE length(lime)"), "{drawn}");
    assert_eq!(render::json(&problems, &wrong)[0]["file"], "queries/some.sql");
    let unknown = with("SELECT *\nFROM lines\nWHERE line = $mist");
    let problems = validate(&unknown);
    let problem = problems.last().expect("a problem");
    let place = unknown.position(problem.span().expect("a place").start);
    assert_eq!((problem.code, place.line, place.column), (Code::PlanUnknownSqlParam, 3, 14));
}
