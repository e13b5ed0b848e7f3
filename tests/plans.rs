//! From YAML to plans: defaults, order, edges, and the texts that show them.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use millpond::diagnostic::{Diagnostic, SourceText};
use millpond::plan::memory::MemoryBound;
use millpond::plan::{self, FileSizes, Plan, Read, Settings, StageKind, drawing, view};
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

fn compile(yaml: &str, set: &[(&str, &str)]) -> Plan {
    compile_with(yaml, set, 2, |_| None)
}

fn compile_with(yaml: &str, set: &[(&str, &str)], workers: u32, file_sizes: fn(&Read) -> Option<FileSizes>) -> Plan {
    let source = Arc::new(SourceText::new("pipeline.yaml", "/project/pipeline.yaml", yaml));
    let document = spec::parse(&source, &given(set, Completeness::Full));
    let workers = NonZeroU32::new(workers).expect("not zero");
    let compiled = plan::compile(&document, &Settings { workers, cores: workers, file_sizes, columns: |_, _| None });
    compiled.unwrap_or_else(|problems| panic!("{problems:#?}")).plan
}

const REVIEWS: &str = r#"
version: 1
name: reviews
x-defaults: &defaults { workers: { min: 1, max: auto }, retry: { attempts: 5, on: [crash] } }
params:
  input: { type: path, default: "data/reviews-*.jsonl" }
  out: { type: path, default: out }
  floor: { type: integer, default: 3 }
  rows: { type: integer, default: 2048 }
stages:
  publish: { from: both, write: "${{ params.out }}/a.parquet" }
  reviews:
    description: All reviews.
    read: "${{ params.input }}"
    batch: { rows: "${{ params.rows * 2 }}", bytes: 1MiB }
  score:
    <<: *defaults
    from: clean
    python: { call: "sentiment:Scorer", as: pandas, with: { model: "${{ env.HOME }}/m", seed: "${{ run.seed }}" } }
    on_error: reject
    env: { A: 1, B: "x ${{ params.floor }}", C: "$${{ z }}" }
  clean:
    from: reviews
    sql: SELECT id FROM reviews WHERE id >= $floor
  both:
    from: { s: score, c: clean }
    sql: SELECT * FROM s JOIN c ON s.id = c.id
  all:
    from: [score, clean, score.rejected]
    command: { shell: "jq -c .", output: lines }
    queue: { batches: 2, bytes: 1 MiB }
  rest: { from: all, write: { path: "-", format: jsonl } }
"#;

#[test]
fn what_waits_for_a_stage_holds_back_its_input() {
    let yaml = "version: 1
stages:
  rows: { read: a.txt }
  first: { from: rows, python: m:f }
  second: { from: rows, after: first, command: { mode: row, run: [x, '{line}'] } }
  lines: { read: b.txt }
  third: { from: lines, after: [first, second, first], python: m:f }
";
    let plan = compile(yaml, &[]);
    let spills: Vec<bool> = plan.edges.iter().map(|edge| edge.spills).collect();
    // `rows` feeds both; `lines` feeds nobody that `third` waits for.
    assert_eq!(spills, [false, true, false]);
    let cuts: Vec<Option<u32>> = plan.edges.iter().map(|edge| edge.cut.map(|cut| cut.rows.get())).collect();
    assert_eq!(cuts, [None, Some(1), None]);
    insta::assert_snapshot!(view::graph_text(&plan), @r"
    rows (read)
      -> first
      -> second
    first (python)
      .. second [after]
      .. third [after]
    second (command)
      .. third [after]
    lines (read)
      -> third
    third (python)
    ");
    let drawn = view::mermaid(&plan);
    for wait in ["  s1 -.-> s2", "  s1 -.-> s4", "  s2 -.-> s4"] {
        assert!(drawn.lines().any(|line| line == wait), "{drawn}");
    }
}

#[test]
fn a_plan_of_many_stages_is_made_at_once() {
    let stages: String = (0..10_000)
        .map(|stage| {
            let before: Vec<String> =
                (1..4).filter(|back| stage >= back * 7).map(|back| format!("s{}", stage - back * 7)).collect();
            format!("  s{stage}: {{ after: [{}], command: [x] }}\n", before.join(", "))
        })
        .collect();
    assert_eq!(compile(&format!("version: 1\nstages:\n{stages}"), &[]).stages.len(), 10_000);
}

#[test]
fn thousands_of_stages_of_one_foreach_are_made_at_once() {
    let yaml = "version: 1
stages:
  part: { foreach: { n: '${{ range(10000) }}' }, read: 'in/${{ each.n }}.csv' }
  copy: { foreach: { n: '${{ range(10000) }}' }, from: 'part__${{ each.n }}', write: 'out/${{ each.n }}.csv' }
";
    let plan = compile(yaml, &[]);
    assert_eq!((plan.stages.len(), plan.edges.len()), (20_000, 10_000));
}

#[test]
fn the_name_of_a_foreach_stands_for_all_that_it_makes() {
    let yaml = r#"
version: 1
stages:
  fetch:
    foreach: { lang: [de, en-GB], year: [2023, 2024] }
    command: { run: [get, "${{ each.lang }}", "${{ each.year }}"], output: jsonl }
  total: { from: [fetch, extra], sql: SELECT count(*) AS n FROM fetch CROSS JOIN extra }
  extra: { read: extra.csv }
  one: { foreach: { lang: [de] }, from: "fetch__${{ each.lang }}__2024", write: "${{ each.lang }}.csv" }
  all: { from: fetch, write: all.csv }
  after: { after: fetch, command: [ls] }
"#;
    let plan = compile(yaml, &[]);
    insta::assert_snapshot!(view::text(&plan), @r"
    pipeline pipeline: 9 stages, 10 edges, 2 workers, seed 7

    stages, in order:
      fetch__de__2023 command get de 2023
          runs: in a worker, one process per run
          cut: 8192 rows or 8.0 MiB
          gives: rows to total, all
          workers: 0 to 2; attempts: 1 (exception), 3 (crash); on_error: fail
      fetch__de__2024 command get de 2024
          runs: in a worker, one process per run
          cut: 8192 rows or 8.0 MiB
          gives: rows to total, one__de, all
          workers: 0 to 2; attempts: 1 (exception), 3 (crash); on_error: fail
      fetch__en_gb__2023 command get en-GB 2023
          runs: in a worker, one process per run
          cut: 8192 rows or 8.0 MiB
          gives: rows to total, all
          workers: 0 to 2; attempts: 1 (exception), 3 (crash); on_error: fail
      fetch__en_gb__2024 command get en-GB 2024
          runs: in a worker, one process per run
          cut: 8192 rows or 8.0 MiB
          gives: rows to total, all
          workers: 0 to 2; attempts: 1 (exception), 3 (crash); on_error: fail
      extra read csv extra.csv
          runs: native, streaming
          reads columns: one, to count rows
          cut: 8192 rows or 8.0 MiB
          gives: rows to total
      total sql
          from: fetch (4 stages) as fetch, extra
          runs: native, over the whole stream, in 256.0 MiB
          gives: rows to nobody
      one__de write csv de.csv
          from: fetch__de__2024
          runs: native, streaming; published when the run has succeeded
      all write csv all.csv
          from: fetch (4 stages)
          runs: native, streaming; published when the run has succeeded
      after command ls
          after: fetch (4 stages)
          runs: in a worker, one process per run
          workers: 0 to 2; attempts: 1 (exception), 3 (crash); on_error: fail

    edges (both bounds hold):
      fetch__de__2023 -> total: 8 batches, 24.0 MiB; spills to disk
      fetch__de__2024 -> total: 8 batches, 24.0 MiB; spills to disk
      fetch__en_gb__2023 -> total: 8 batches, 24.0 MiB; spills to disk
      fetch__en_gb__2024 -> total: 8 batches, 24.0 MiB; spills to disk
      extra -> total: 8 batches, 24.0 MiB
      fetch__de__2024 -> one__de: 8 batches, 24.0 MiB
      fetch__de__2023 -> all: 8 batches, 24.0 MiB
      fetch__de__2024 -> all: 8 batches, 24.0 MiB; spills to disk
      fetch__en_gb__2023 -> all: 8 batches, 24.0 MiB; spills to disk
      fetch__en_gb__2024 -> all: 8 batches, 24.0 MiB; spills to disk

    memory: at most 908.1 MiB
        20.1 MiB  coordinator (estimated)
       240.0 MiB  10 edges (enforced)
        80.0 MiB  batches larger than there is room for (estimated)
       112.0 MiB  batches made for edges that spill (estimated)
       256.0 MiB  1 query (enforced)
       112.0 MiB  reading, writing and row-wise queries (estimated)
        88.0 MiB  commands (estimated)
    disk for what spills: at most 64.0 GiB for edges, 64.0 GiB for each query
    ");
}

#[test]
fn a_plan_is_shown_with_its_bounds() {
    insta::assert_snapshot!(view::text(&compile(REVIEWS, &[])), @r#"
    pipeline reviews: 7 stages, 9 edges, 2 workers, seed 7
    params: floor=3 input="/project/data/reviews-*.jsonl" out="/project/out" rows=2048

    stages, in order:
      reviews read jsonl data/reviews-*.jsonl
          All reviews.
          runs: native, streaming
          reads columns: id
          cut: 4096 rows or 1.0 MiB
          gives: rows to clean
      clean sql
          from: reviews
          runs: native, row-wise: per batch, in order and in parallel
          gives: rows to score, both, all
      score python sentiment:Scorer
          from: clean
          runs: in workers, per batch
          gives: rows to both, all; rejected to all
          workers: 1 to 2; attempts: 1 (exception), 5 (crash); on_error: reject
      both sql
          from: score as s, clean as c
          runs: native, over the whole stream, in 256.0 MiB
          gives: rows to publish
      publish write parquet out/a.parquet
          from: both
          runs: native, streaming; published when the run has succeeded
      all command (shell)
          from: score, then clean, then score.rejected
          runs: in workers, one process per batch
          gives: rows to rest; rejected to nobody
          columns: line string
          workers: 0 to 2; attempts: 1 (exception), 3 (crash); on_error: fail
      rest write jsonl standard output
          from: all
          runs: native, streaming; published when the run has succeeded

    edges (both bounds hold):
      reviews -> clean: 8 batches, 32.0 MiB
      clean -> score: 8 batches, 32.0 MiB
      score -> both: 8 batches, 32.0 MiB; spills to disk
      clean -> both: 8 batches, 32.0 MiB; spills to disk
      both -> publish: 8 batches, 24.0 MiB
      score -> all: 2 batches, 1.0 MiB
      clean -> all: 2 batches, 1.0 MiB; spills to disk
      score.rejected -> all: 2 batches, 1.0 MiB; spills to disk
      all -> rest: 8 batches, 32.0 MiB

    memory: at most 1.0 GiB
        20.1 MiB  coordinator (estimated)
       187.0 MiB  9 edges (enforced)
        47.0 MiB  batches larger than there is room for (estimated)
        36.0 MiB  batches made for edges that spill (estimated)
        68.0 MiB  segments larger than their batches (enforced)
        66.0 MiB  free segments (estimated)
       256.0 MiB  1 query (enforced)
       138.0 MiB  reading, writing and row-wise queries (estimated)
        56.0 MiB  template of the workers (estimated)
       144.0 MiB  2 workers without `memory` (estimated)
        18.0 MiB  commands (estimated)
    disk for what spills: at most 64.0 GiB for edges, 64.0 GiB for each query
    "#);
}

#[test]
fn a_graph_is_shown_as_text_and_as_mermaid() {
    let plan = compile(REVIEWS, &[]);
    insta::assert_snapshot!(view::graph_text(&plan), @r"
    reviews (read)
      -> clean
    clean (sql)
      -> score
      -> both
      -> all
    score (python)
      -> both
      -> all
      -> all [rejected]
    both (sql)
      -> publish
    publish (write)
    all (command)
      -> rest
    rest (write)
    ");
    insta::assert_snapshot!(view::mermaid(&plan), @r#"
    flowchart LR
      s0[("reviews<br/>read")]
      s1["clean<br/>sql"]
      s2(["score<br/>python"])
      s3["both<br/>sql"]
      s4[("publish<br/>write")]
      s5[["all<br/>command"]]
      s6[("rest<br/>write")]
      s0 --> s1
      s1 --> s2
      s2 --> s3
      s1 --> s3
      s3 --> s4
      s2 --> s5
      s1 --> s5
      s2 -->|rejected| s5
      s5 --> s6
    "#);
}

#[test]
fn a_graph_is_written_for_graphviz() {
    let yaml = "version: 1
name: 'a \"b\" \\ c'
stages:
  rows: { read: rows.csv }
  score: { from: rows, python: 'm:f', on_error: reject }
  bad: { from: score.rejected, write: bad.jsonl }
  tell: { after: score, command: [echo, done] }
";
    insta::assert_snapshot!(view::dot(&compile(yaml, &[])), @r#"
    digraph "a \"b\" \\ c" {
      rankdir=LR;
      node [shape=box];
      "rows" [label="rows (read)"];
      "score" [label="score (python)"];
      "bad" [label="bad (write)"];
      "tell" [label="tell (command)"];
      "rows" -> "score";
      "score" -> "bad" [label="rejected"];
      "score" -> "tell" [style=dashed];
    }
    "#);
}

/// The boxes of stages in a picture: left, top, width, height.
fn boxes(svg: &str) -> Vec<[f64; 4]> {
    let tags = svg.split("<rect class=\"box\"").skip(1);
    tags.map(|tag| {
        ["x", "y", "width", "height"].map(|name| {
            let (_, rest) = tag.split_once(&format!(" {name}=\"")).expect("it has one");
            rest.split_once('"').expect("it ends").0.parse().expect("a number")
        })
    })
    .collect()
}

#[test]
fn in_a_picture_stages_lie_right_of_what_they_need_and_beside_each_other() {
    for seed in 0..12_u64 {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut random = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        let before: Vec<Vec<usize>> = (0..30).map(|at| (0..random(3).min(at)).map(|_| random(at)).collect()).collect();
        let mut yaml = "version: 1\nname: a<b>&c\nstages:\n".to_owned();
        for (at, before) in before.iter().enumerate() {
            let after: Vec<String> = before.iter().map(|other| format!("s{other}")).collect();
            yaml += &format!(
                "  s{at}: {{ command: [echo, '<&>'], after: [{}], description: '<{at}>' }}\n",
                after.join(", ")
            );
        }
        let hooks = random(4);
        for (moment, count) in [("on_failure", hooks), ("finally", 3 - hooks)] {
            let hooks: String =
                (0..count).map(|at| format!("  {moment}_{at}: {{ command: [echo, hook] }}\n")).collect();
            yaml += &if count > 0 { format!("{moment}:\n{hooks}") } else { String::new() };
        }
        let plan = compile(&yaml, &[]);
        let svg = drawing::svg(&plan, &str::to_owned);
        let places = boxes(&svg);
        assert_eq!(places.len(), 33);
        let (_, size) = svg.split_once("viewBox=\"0 0 ").expect("it has one");
        let size: Vec<f64> =
            size.split_once('"').expect("it ends").0.split(' ').map(|it| it.parse().unwrap()).collect();
        for [x, y, width, height] in &places {
            assert!(
                *x >= 0.0 && *y >= 0.0 && x + width <= size[0] && y + height <= size[1],
                "seed {seed}: out of sight"
            );
        }
        for (at, [x, y, width, height]) in places.iter().enumerate().skip(30) {
            let is_apart = |[other_x, other_y, other_width, other_height]: &[f64; 4]| {
                x + width <= *other_x
                    || other_x + other_width <= *x
                    || y + height <= *other_y
                    || other_y + other_height <= *y
            };
            assert!(places[..at].iter().all(is_apart), "seed {seed}: hook {at} lies on another box");
        }
        for stage in &plan.stages {
            let [x, y, width, height] = places[stage.id.index()];
            for awaited in &stage.after {
                let [other_x, _, other_width, _] = places[awaited.index()];
                assert!(other_x + other_width < x, "seed {seed}: {} is not right of what it needs", stage.name);
            }
            for (at, [other_x, other_y, other_width, other_height]) in places.iter().enumerate() {
                let apart = x + width <= *other_x
                    || other_x + other_width <= x
                    || y + height <= *other_y
                    || other_y + other_height <= y;
                assert!(apart || at == stage.id.index(), "seed {seed}: {} lies on another", stage.name);
            }
        }
        assert!(svg.contains("<title>a&lt;b&gt;&amp;c</title>") && svg.contains("command echo &lt;&amp;&gt;"), "{svg}");
    }
}

#[test]
fn expressions_take_types_and_paths_their_base() {
    let plan = compile(REVIEWS, &[("out", "results"), ("floor", "9")]);
    let stage = |name: &str| plan.stages.iter().find(|stage| stage.name == name).expect("exists");
    let score = stage("score");
    let StageKind::Python(python) = &score.kind else { panic!("not python") };
    assert_eq!(
        serde_json::Value::Object(python.with.clone()),
        serde_json::json!({ "model": "/somebody/m", "seed": 7 })
    );
    assert_eq!(score.env["A"], "1");
    assert_eq!(score.env["B"], "x 9");
    assert_eq!(score.env["C"], "${{ z }}");
    assert_eq!((score.retry.exception.get(), score.retry.crash.get()), (1, 5));
    assert_eq!(stage("reviews").cut.rows.get(), 4096);
    let StageKind::Read(read) = &stage("reviews").kind else { panic!("not read") };
    assert_eq!(read.paths, [PathBuf::from("/project/data/reviews-*.jsonl").into()]);
    let StageKind::Write(write) = &stage("publish").kind else { panic!("not write") };
    assert_eq!(write.target, plan::WriteTarget::File(PathBuf::from("/here/results/a.parquet").into()));
}

#[test]
fn ids_and_ports_agree_with_the_edges() {
    let plan = compile(REVIEWS, &[]);
    for stage in &plan.stages {
        assert_eq!(plan.stages[stage.id.index()].name, stage.name);
        for (index, port) in stage.ports.iter().enumerate() {
            assert!(port.edges.iter().all(|edge| plan.edge(*edge).from == stage.id && plan.edge(*edge).port == index));
        }
        for (index, input) in stage.inputs.iter().enumerate() {
            assert!(
                input.members.iter().all(|edge| plan.edge(*edge).to == stage.id && plan.edge(*edge).input == index)
            );
        }
    }
    assert!(plan.edges.iter().all(|edge| edge.from < edge.to));
    let ports: usize = plan.stages.iter().flat_map(|stage| &stage.ports).map(|port| port.edges.len()).sum();
    assert_eq!(ports, plan.edges.len());
}

/// Names of the edges that spill.
fn spilling(stages: &str) -> Vec<String> {
    let plan = compile(&format!("version: 1\nstages:\n{stages}"), &[]);
    let name = |id| plan.stage(id).name.clone();
    plan.edges.iter().filter(|edge| edge.spills).map(|edge| format!("{}-{}", name(edge.from), name(edge.to))).collect()
}

#[test]
fn only_held_back_edges_on_a_loop_spill() {
    let union = "  a: { read: a.csv }\n  b: { from: a, python: m:f }\n  c: { from: [a, b], python: m:f }\n";
    assert_eq!(spilling(union), ["b-c"]);
    let apart = "  a: { read: a.csv }\n  b: { read: b.csv }\n  c: { from: [a, b], python: m:f }\n";
    assert_eq!(spilling(apart), [""; 0]);
    let join =
        "  a: { read: a.csv }\n  b: { from: a, python: m:f }\n  c: { from: [a, b], sql: 'SELECT * FROM a, b' }\n";
    assert_eq!(spilling(join), ["a-c", "b-c"]);
    let chain = "  a: { read: a.csv }\n  b: { from: a, python: m:f }\n  c: { from: b, sql: 'SELECT * FROM b' }\n";
    assert_eq!(spilling(chain), [""; 0]);
}

#[test]
fn every_pipeline_in_the_repository_is_valid() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    ["pipelines", "examples"].iter().for_each(|folder| find_yaml(&root.join(folder), &mut files));
    for file in files {
        let source = Arc::new(SourceText::read(&file).expect("can be read"));
        if !source.text().lines().any(|line| line.starts_with("stages:")) {
            continue;
        }
        let problems = plan::validate(&spec::parse(&source, &given(&[], Completeness::Partial)));
        let errors: Vec<&Diagnostic> = problems.iter().filter(|problem| problem.is_error()).collect();
        assert!(errors.is_empty(), "{}: {errors:#?}", file.display());
    }
}

fn find_yaml(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            find_yaml(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml") {
            files.push(path);
        }
    }
}

#[test]
fn a_source_reads_the_columns_that_its_consumers_name() {
    let shown = |stages: &str| {
        let plan = compile(&format!("version: 1\nstages:\n{stages}"), &[]);
        let text = view::text(&plan);
        text.lines()
            .filter_map(|line| line.trim().strip_prefix("reads columns: ").map(str::to_owned))
            .collect::<Vec<_>>()
    };
    let source = "  t: { read: t.csv }\n  u: { read: u.parquet }\n";
    let with = |rest: &str| shown(&format!("{source}{rest}"));
    let both =
        "  x: { from: t, sql: SELECT a FROM t WHERE b > 1 }\n  y: { from: t, sql: SELECT c AS d FROM t ORDER BY d }\n";
    assert_eq!(with(both), ["a, b, c; if there: d"]);
    assert_eq!(with("  x: { from: { o: t, p: u }, sql: SELECT o.a FROM o JOIN p ON o.k = p.i }\n"), ["a, k", "i"]);
    assert_eq!(with("  x: { from: t, sql: SELECT count(*) AS n FROM t }\n"), ["one, to count rows"]);
    assert_eq!(with("  x: { from: t, sql: SELECT * FROM t }\n"), [""; 0]);
    assert_eq!(with(&format!("{both}  z: {{ from: t, write: z.csv }}\n")), [""; 0]);
    assert_eq!(with(&format!("{both}  z: {{ from: [t, u], python: m:f }}\n")), [""; 0]);
}

#[test]
fn a_parquet_source_skips_what_no_consumer_wants() {
    let shown = |format: &str, stages: &str| {
        let plan = compile(
            &format!("version: 1\nstages:\n  t: {{ read: t.{format} }}\n  u: {{ read: u.csv }}\n{stages}"),
            &[],
        );
        let text = view::text(&plan);
        let skips = text.lines().filter_map(|line| line.trim().strip_prefix("skips row groups: "));
        skips.map(str::to_owned).collect::<Vec<_>>()
    };
    let one = "  x: { from: t, sql: SELECT a FROM t WHERE b > 1 }\n";
    let two = "  y: { from: t, sql: SELECT sum(a) AS s FROM t WHERE c = 3 }\n";
    assert_eq!(shown("parquet", &format!("{one}{two}")), ["where no row can pass the WHERE of x or y"]);
    assert_eq!(shown("csv", one), [""; 0]);
    assert_eq!(shown("parquet", &format!("{one}  y: {{ from: t, sql: SELECT a FROM t }}\n")), [""; 0]);
    assert_eq!(shown("parquet", &format!("{one}  y: {{ from: t, write: y.csv }}\n")), [""; 0]);
    assert_eq!(shown("parquet", "  x: { from: [t, u], sql: 'SELECT t.a FROM t, u WHERE t.b > u.b' }\n"), [""; 0]);
}

const SIZED: &str = "
version: 1
stages:
  rows: { read: a.csv }
  wide: { from: rows, sql: SELECT a + 1 AS a FROM rows }
  made: { from: wide, python: m:f }
  sorted: { from: wide, sql: SELECT a FROM wide ORDER BY a }
  grouped: { from: made, sql: SELECT a FROM made GROUP BY a }
  crossed: { from: [rows, wide], sql: SELECT rows.a FROM rows CROSS JOIN wide }
  a: { from: sorted, write: x.csv }
  b: { from: grouped, write: b.csv }
  c: { from: crossed, write: c.csv }
";

fn kilobyte(_: &Read) -> Option<FileSizes> {
    Some(FileSizes { files: 1, bytes: 1 << 10, row: Some(16), pages: 0 })
}

fn eight_megabytes(_: &Read) -> Option<FileSizes> {
    Some(FileSizes { files: 1, bytes: 8 << 20, row: None, pages: 0 })
}

fn gigabyte(_: &Read) -> Option<FileSizes> {
    Some(FileSizes { files: 1, bytes: 1 << 30, row: None, pages: 0 })
}

/// The bytes of every queue, and the memory of every query, in MiB.
fn sizes(plan: &Plan) -> (BTreeMap<String, u64>, BTreeMap<String, u64>) {
    let name = |id: plan::StageId| plan.stage(id).name.clone();
    let queues = plan
        .edges
        .iter()
        .map(|edge| (format!("{} {}", name(edge.from), name(edge.to)), edge.capacity.bytes.get() >> 20));
    let queries = plan.stages.iter().filter_map(|stage| Some((stage.name.clone(), stage.memory?.get() >> 20)));
    (queues.collect(), queries.collect())
}

#[test]
fn queues_and_queries_are_as_large_as_the_files_need() {
    let (queues, queries) = sizes(&compile_with(SIZED, &[], 2, kilobyte));
    assert_eq!(queues["rows wide"], 1);
    assert_eq!(queues["made grouped"], 1);
    assert_eq!(queues["crossed c"], 24, "nobody knows how much a cross join gives");
    assert_eq!((queries["sorted"], queries["grouped"], queries["crossed"]), (4, 16, 256));
    let (queues, queries) = sizes(&compile_with(SIZED, &[], 2, eight_megabytes));
    assert_eq!((queues["rows wide"], queues["sorted a"], queues["made grouped"]), (16, 16, 32));
    assert_eq!((queries["sorted"], queries["grouped"], queries["crossed"]), (48, 96, 256));
    for file_sizes in [gigabyte, |_: &Read| None] {
        let (queues, queries) = sizes(&compile_with(SIZED, &[], 2, file_sizes));
        assert_eq!((queues["rows wide"], queues["sorted a"]), (32, 24));
        assert_eq!((queries["sorted"], queries["grouped"]), (256, 256));
        let (queues, queries) = sizes(&compile_with(SIZED, &[], 16, file_sizes));
        assert_eq!((queues["rows wide"], queues["sorted a"]), (64, 24));
        assert_eq!(queries["sorted"], 256, "what a query spills does not depend on the number of workers");
    }
}

#[test]
fn a_stage_that_takes_few_rows_at_once_may_make_much_of_each() {
    let yaml = "version: 1
stages:
  rows: { read: a.csv }
  made: { from: rows, python: m:f, batch: { rows: 10 } }
  grouped: { from: made, sql: SELECT a FROM made GROUP BY a }
  b: { from: grouped, write: b.csv }
";
    let (queues, queries) = sizes(&compile_with(yaml, &[], 2, kilobyte));
    assert_eq!((queues["rows made"], queues["made grouped"], queries["grouped"]), (1, 32, 256));
}

#[test]
fn what_a_file_says_of_queues_and_memory_is_kept() {
    let yaml = "version: 1
stages:
  rows: { read: a.csv }
  sorted: { from: rows, sql: SELECT a FROM rows ORDER BY a, memory: 3MiB, queue: { bytes: 7MiB } }
  a: { from: sorted, write: x.csv, queue: { batches: 2 } }
";
    for file_sizes in [kilobyte, gigabyte] {
        let plan = compile_with(yaml, &[], 2, file_sizes);
        let (queues, queries) = sizes(&plan);
        assert_eq!((queues["rows sorted"], queries["sorted"]), (7, 3));
        assert_eq!(plan.edges[1].capacity.batches.get(), 2);
    }
}

#[test]
fn the_bound_follows_queues_workers_and_memory() {
    let total = |workers, queue: &str, memory: &str| {
        let yaml = format!(
            "version: 1
stages:
  rows: {{ read: a.csv }}
  made: {{ from: rows, python: m:f, queue: {{ bytes: {queue} }}, memory: {memory} }}
  sorted: {{ from: made, sql: SELECT a FROM made ORDER BY a, memory: {memory} }}
  a: {{ from: sorted, write: x.csv }}
"
        );
        MemoryBound::of(&compile_with(&yaml, &[], workers, |_| None)).total()
    };
    let base = total(2, "16MiB", "100MiB");
    assert!(total(2, "32MiB", "100MiB") >= base + (16 << 20));
    assert!(total(3, "16MiB", "100MiB") >= base + (150 << 20));
    // Two workers, each killed at half as much again, and a query.
    assert_eq!(total(2, "16MiB", "120MiB"), base + 2 * (30 << 20) + (20 << 20));
}

#[test]
fn the_terms_of_small_files_are_small() {
    let text = view::text(&compile_with(SIZED, &[], 2, kilobyte));
    insta::assert_snapshot!(text.rsplit("\n\n").next().expect("text"), @r"
    memory: at most 432.2 MiB
        20.1 MiB  coordinator (estimated)
        32.0 MiB  9 edges (enforced)
         8.0 MiB  batches larger than there is room for (estimated)
         8.0 KiB  batches made for edges that spill (estimated)
       276.0 MiB  3 queries (enforced)
        32.0 MiB  reading, writing and row-wise queries (estimated)
        24.0 MiB  template of the workers (estimated)
        40.0 MiB  2 workers without `memory` (estimated)
    disk for what spills: at most 64.0 GiB for edges, 64.0 GiB for each query
    ");
}

#[test]
fn a_folder_is_shown_with_its_columns_and_its_open_files_count() {
    let yaml = |write: &str| {
        format!(
            "version: 1\nname: folders\nstages:\n  rows: {{ read: rows.csv }}\n  sink: {{ from: rows, write: {write} }}\n"
        )
    };
    let plan = |write: &str| compile(&yaml(write), &[]);
    let shown = |write: &str| {
        let text = view::text(&plan(write));
        text.lines().find_map(|line| line.strip_prefix("  sink ").map(str::to_owned)).expect("the sink")
    };
    assert_eq!(
        shown("{ path: out/a, format: csv, partition_by: [y, m] }"),
        "write csv out/a/y=…/m=…/",
        "the folders are named by columns"
    );
    assert_eq!(shown("{ path: out/a/, format: csv, mode: append }"), "write csv out/a/, behind what is there");
    assert_eq!(shown("{ path: out/a.csv, mode: append }"), "write csv out/a.csv, behind what is there");
    let bound = |write: &str| MemoryBound::of(&plan(write)).total();
    let (open, packed) = ["jsonl", "jsonl, compression: xz"]
        .map(|format| bound(&format!("{{ path: out/a, format: {format}, partition_by: y }}")))
        .into();
    assert!(packed > open && packed < open + (320 << 20), "few files are open that take much: {open}, {packed}");
    assert!(open > bound("{ path: out/a.jsonl }"));
}
