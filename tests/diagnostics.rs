//! What is reported about pipeline files: codes, places, words.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use millpond::diagnostic::render::{self, Style};
use millpond::diagnostic::{Diagnostic, SourceText};
use millpond::plan::{self, Compiled, Settings};
use millpond::spec::{self, Completeness, Given};

fn given(set: &[(&str, &str)], completeness: Completeness) -> Given {
    Given {
        set: set.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        env: BTreeMap::from([("HOME".to_owned(), "/home/me".to_owned())]),
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
    format!("{} {place} {}{help}", problem.code.word(), problem.message)
}

fn compile(yaml: &str, set: &[(&str, &str)]) -> Result<Compiled, String> {
    let source = source(yaml);
    let document = spec::parse(&source, &given(set, Completeness::Full));
    let two = NonZeroU32::new(2).expect("not zero");
    plan::compile(&document, &Settings { workers: two, cores: two })
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
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_diagnostic_is_drawn_with_its_place_and_help() {
    let source = source("version: 1\nstages:\n  a: { read: a.csv }\n  b: { from: aa, write: b.csv }\n");
    let drawn = render::human(&validate(&source), &source, Style { color: false, width: 100 });
    insta::assert_snapshot!(drawn, @r"
    plan::unknown_stage

      × stage `b` reads from `aa`, which is no stage
       ╭─[pipeline.yaml:4:14]
     3 │   a: { read: a.csv }
     4 │   b: { from: aa, write: b.csv }
       ·              ─┬
       ·               ╰── no stage has this name
       ╰────
      help: did you mean `a`?
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
    retry: { on: [exception, timeout] }
";
    insta::assert_snapshot!(problems(yaml), @"");
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
    insta::assert_snapshot!(drawn, @"");
}

#[test]
fn yaml_itself_can_be_wrong() {
    insta::assert_snapshot!(problems("a: [1, 2"), @"");
    insta::assert_snapshot!(problems("version: 1\nstages: &s { a: *s }"), @"");
    insta::assert_snapshot!(problems("version: 1\nstages: { a: { <<: 3, read: x.csv, workers: .inf, ? [k] : 1 } }\n--- {}\n"), @"");
    insta::assert_snapshot!(problems(""), @"");
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
    insta::assert_snapshot!(problems(yaml), @"");
}

#[test]
fn an_unused_param_is_a_warning_unless_python_could_use_it() {
    let yaml = "version: 1\nparams: { p: { type: integer, default: 1 } }\nstages: { a: { read: a.csv } }\n";
    insta::assert_snapshot!(problems(yaml), @"");
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
    insta::assert_snapshot!(problems(yaml), @"");
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
";
    insta::assert_snapshot!(problems(yaml), @"");
}

#[test]
fn what_is_wrong_on_the_command_line_has_no_place() {
    let yaml = "version: 1
params: { n: { type: integer }, kind: { type: string, default: a, choices: [a, b] } }
stages: { a: { sql: 'SELECT $n, $kind' } }
";
    assert_eq!(problems(yaml), "");
    insta::assert_snapshot!(compile(yaml, &[]).unwrap_err(), @"");
    insta::assert_snapshot!(compile(yaml, &[("n", "x"), ("kind", "c"), ("knd", "a")]).unwrap_err(), @"");
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
