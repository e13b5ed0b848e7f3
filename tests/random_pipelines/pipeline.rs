//! [`Pipeline`]: a random pipeline with what its sinks must hold.

use std::fmt::Write as _;
use std::path::Path;

use super::rng::Rng;
use super::row::{Row, by_remainder, joined, sorted};

/// Rows that one stage may give; a stage that would give more is left out.
const MOST_ROWS: usize = 600;

pub const MODULE: &str = r#"
def same(row):
    return row


def checked(row):
    if row["id"] % 10 == 3:
        raise ValueError("poison")
    return row


def few(row):
    return row if row["v"] % 2 == 0 else None


def twice(row):
    return [row, row]


def rows(rows):
    return rows


class Same:
    def __call__(self, batch):
        return batch


def numbers(base, count):
    for id in range(base, base + count):
        yield {"id": id, "v": id % 7, "s": f"g{id % 3}"}
"#;

pub struct Pipeline {
    pub yaml: String,
    /// Files beside the pipeline that it reads.
    pub files: Vec<(String, String)>,
    pub sinks: Vec<Sink>,
    pub workers: usize,
}

pub struct Sink {
    pub file: String,
    pub expected: Vec<Row>,
}

/// A stage and one of its ports.
#[derive(Clone, Copy)]
struct From {
    stage: usize,
    rejected: bool,
}

struct Stage {
    main: Vec<Row>,
    /// `None` if the port does not exist.
    rejected: Option<Vec<Row>>,
    /// Whether its columns are known even if it has no rows. (What Python and commands give is not, until they have given a row.)
    typed: bool,
    read: bool,
}

struct Builder {
    rng: Rng,
    python: bool,
    pipeline: Pipeline,
    stages: Vec<Stage>,
}

impl Pipeline {
    pub fn random(seed: u64, python: bool) -> Self {
        let mut rng = Rng::new(seed);
        let workers = rng.between(1, 4);
        let yaml = "version: 1\nname: random\npython: { path: [.] }\nstages:\n".to_owned();
        let pipeline = Self { yaml, files: Vec::new(), sinks: Vec::new(), workers };
        let mut builder = Builder { rng, python, pipeline, stages: Vec::new() };
        let stages = builder.rng.between(3, 12);
        builder.source();
        // A few of the tries add nothing.
        for _ in 0..stages * 4 {
            if builder.stages.len() + builder.pipeline.sinks.len() >= stages {
                break;
            }
            match builder.rng.below(10) {
                0..=1 => builder.source(),
                2..=4 => builder.query(),
                5 => builder.sink(),
                _ => builder.map(),
            }
        }
        builder.sinks_for_the_rest();
        builder.pipeline
    }

    pub fn write(&self, folder: &Path) -> std::io::Result<()> {
        std::fs::write(folder.join("pipeline.yaml"), &self.yaml)?;
        std::fs::write(folder.join("steps.py"), MODULE)?;
        self.files.iter().try_for_each(|(name, text)| std::fs::write(folder.join(name), text))
    }
}

impl Builder {
    fn add(&mut self, lines: &str, typed: bool, main: Vec<Row>, rejected: Option<Vec<Row>>) {
        let name = self.stages.len();
        writeln!(self.pipeline.yaml, "  s{name}:\n{lines}").expect("a string can be written");
        self.stages.push(Stage { main, rejected, typed, read: false });
    }

    fn rows(&self, from: From) -> &[Row] {
        let stage = &self.stages[from.stage];
        if from.rejected { stage.rejected.as_deref().expect("the port exists") } else { &stage.main }
    }

    fn read(&mut self, from: From) -> String {
        self.stages[from.stage].read = true;
        format!("s{}{}", from.stage, if from.rejected { ".rejected" } else { "" })
    }

    /// Whether a query can read the port: it must know the columns.
    fn is_known(&self, from: From) -> bool {
        let stage = &self.stages[from.stage];
        !self.rows(from).is_empty() || (from.rejected && !stage.main.is_empty()) || (!from.rejected && stage.typed)
    }

    /// Some stage; rather a late one, so that pipelines become deep.
    fn any_stage(&mut self) -> usize {
        let count = self.stages.len();
        if self.rng.chance(50) { self.rng.below(count) } else { count - 1 - self.rng.below(count.min(3)) }
    }

    fn any_port(&mut self) -> From {
        let stage = self.any_stage();
        let rejected = self.stages[stage].rejected.is_some() && self.rng.chance(60);
        From { stage, rejected }
    }

    /// The keys that bound what a stage holds.
    fn bounds(&mut self) -> String {
        let mut lines = "    queue: { batches: 1 }\n".to_owned();
        if self.rng.chance(70) {
            let rows = self.rng.pick(&[1, 2, 3, 5, 8, 40]);
            writeln!(lines, "    batch: {{ rows: {rows} }}").expect("a string can be written");
        }
        if self.rng.chance(20) {
            lines = lines.replace("batches: 1", "batches: 1, bytes: 256");
        }
        lines
    }

    fn source(&mut self) {
        let count = self.rng.pick(&[0, 1, 2, 7, 20, 45, 90]);
        let base = self.rng.pick(&[0, 0, 0, 5, 30]);
        let rows: Vec<Row> = (0..count).map(|at| Row::of_source(base, at)).collect();
        let file = format!("in{}", self.stages.len());
        let csv = format!("id,v,s\n{}", rows.iter().map(Row::csv).collect::<String>());
        let json = rows.iter().map(Row::json).collect::<String>();
        let schema = "schema: { id: int64, v: int64, s: string }";
        let kinds = if self.python { 5 } else { 4 };
        let kind = self.rng.below(kinds);
        let lines = match kind {
            0 => {
                self.pipeline.files.push((format!("{file}.csv"), csv));
                format!("    read: {{ path: {file}.csv, {schema} }}\n")
            }
            1 => {
                self.pipeline.files.push((format!("{file}.jsonl"), json));
                format!("    read: {{ path: {file}.jsonl, {schema} }}\n")
            }
            2 => {
                self.pipeline.files.push((format!("{file}.csv"), csv));
                format!("    command: {{ run: [cat, {file}.csv], output: csv }}\n")
            }
            3 => format!(
                "    sql: SELECT value AS id, value % 7 AS v, 'g' || CAST(value % 3 AS VARCHAR) AS s \
                 FROM generate_series({base}, {})\n",
                base + count - 1
            ),
            _ => format!("    python: {{ call: \"steps:numbers\", with: {{ base: {base}, count: {count} }} }}\n"),
        };
        let rows_per_batch = self.rng.pick(&[1, 3, 4, 10, 100]);
        let typed = matches!(kind, 0 | 1 | 3);
        self.add(&format!("{lines}    batch: {{ rows: {rows_per_batch} }}\n"), typed, rows, None);
    }

    /// A stage that works batch by batch, on one input or on a union.
    fn map(&mut self) {
        let members = if self.rng.chance(35) { self.rng.between(2, 3) } else { 1 };
        let members: Vec<From> = (0..members).map(|_| From { stage: self.any_stage(), rejected: false }).collect();
        let rows: Vec<Row> = members.iter().flat_map(|from| self.rows(*from).to_vec()).collect();
        if rows.len() > MOST_ROWS / 2 {
            return;
        }
        if members.len() == 1 && self.rng.chance(60) {
            return self.row_wise(members[0]);
        }
        let poison = rows.iter().filter(|row| row.is_poison()).count();
        let (lines, main, rejected) = if self.python && self.rng.chance(60) {
            python(&mut self.rng, rows)
        } else {
            // A search starts a process per try.
            command(&mut self.rng, rows, poison < 8)
        };
        let from: Vec<String> = members.iter().map(|from| self.read(*from)).collect();
        let from = if from.len() == 1 { from[0].clone() } else { format!("[{}]", from.join(", ")) };
        let bounds = self.bounds();
        self.add(&format!("    from: {from}\n{lines}{bounds}"), false, main, rejected);
    }

    fn row_wise(&mut self, from: From) {
        let (rows, typed) = (self.rows(from).to_vec(), self.stages[from.stage].typed);
        let (select, rows): (&str, Vec<Row>) = match self.rng.below(3) {
            0 => ("id, v, s FROM t WHERE v % 3 <> 1", rows.into_iter().filter(|row| row.v % 3 != 1).collect()),
            1 => ("id + 2 AS id, v, upper(s) AS s FROM t", {
                let changed = |row: Row| Row { id: row.id + 2, v: row.v, s: row.s.to_uppercase() };
                rows.into_iter().map(changed).collect()
            }),
            _ => ("id, v + id % 2 AS v, s FROM t WHERE id % 4 > 0", {
                let kept = rows.into_iter().filter(|row| row.id % 4 > 0);
                kept.map(|row| Row { v: row.v + row.id % 2, ..row }).collect()
            }),
        };
        let (from, bounds) = (self.read(from), self.bounds());
        self.add(&format!("    from: {{ t: {from} }}\n    sql: SELECT {select}\n{bounds}"), typed, rows, None);
    }

    /// A query that consumes whole streams.
    fn query(&mut self) {
        let inputs: Vec<From> = (0..3).map(|_| self.any_port()).collect();
        if !inputs.iter().all(|from| self.is_known(*from)) {
            return;
        }
        let [a, b, c] = [0, 1, 2].map(|at| self.rows(inputs[at]).to_vec());
        let order = "ORDER BY id, v, s";
        let limit = self.rng.between(0, 12);
        let (count, sql, rows) = match self.rng.below(11) {
            0 => {
                (1, "SELECT id % 5 AS id, sum(v) AS v, min(s) AS s FROM a GROUP BY id % 5".to_owned(), by_remainder(&a))
            }
            1 => {
                let sql = format!("SELECT id, v, s FROM a {order} LIMIT {limit}");
                (1, sql, sorted(a).into_iter().take(limit).collect())
            }
            2 => {
                let sql = format!("SELECT count(*) AS id, 0 AS v, 'n' AS s FROM (SELECT id FROM a LIMIT {limit})");
                let id = a.len().min(limit) as i64;
                (1, sql, vec![Row { id, v: 0, s: "n".into() }])
            }
            // One table, read twice.
            3 => {
                let sql = format!("SELECT x.id, x.v + y.v AS v, x.s FROM a x JOIN a y ON x.id = y.id {order}");
                (1, sql, joined(&a, &a, false))
            }
            4 => {
                let sql = format!("SELECT id, v, s FROM a UNION ALL SELECT id, v, s FROM a WHERE v > 2 {order}");
                let more = a.iter().filter(|row| row.v > 2).cloned().collect();
                (1, sql, sorted([a, more].concat()))
            }
            5 | 6 => {
                let sql = format!("SELECT a.id, a.v + b.v AS v, a.s FROM a JOIN b ON a.id = b.id {order}");
                (2, sql, joined(&a, &b, false))
            }
            7 => {
                let sql =
                    format!("SELECT a.id, a.v + coalesce(b.v, 0) AS v, a.s FROM a LEFT JOIN b ON a.id = b.id {order}");
                (2, sql, joined(&a, &b, true))
            }
            8 => {
                let sql = format!("SELECT id, v, s FROM a WHERE id NOT IN (SELECT id FROM b) {order}");
                (2, sql, sorted(a.into_iter().filter(|row| !b.iter().any(|other| other.id == row.id)).collect()))
            }
            9 => {
                let sql = format!(
                    "SELECT a.id, a.v + b.v + c.v AS v, a.s FROM a JOIN b ON a.id = b.id JOIN c ON c.id = b.id {order}"
                );
                let pairs = joined(&a, &b, false);
                let rows = if pairs.len() > MOST_ROWS { pairs } else { joined(&pairs, &c, false) };
                (3, sql, rows)
            }
            _ => {
                let sql = format!(
                    "SELECT id, v, s FROM c UNION ALL SELECT id, v, s FROM b UNION ALL SELECT id, v, s FROM a {order}"
                );
                (3, sql, sorted([a, b, c].concat()))
            }
        };
        if rows.len() > MOST_ROWS {
            return;
        }
        let names = ["a", "b", "c"];
        let from: Vec<String> = (0..count).map(|at| format!("{}: {}", names[at], self.read(inputs[at]))).collect();
        let bounds = self.bounds();
        self.add(&format!("    from: {{ {} }}\n    sql: {sql}\n{bounds}", from.join(", ")), true, rows, None);
    }

    /// A sink of one to three ports, all with the same columns.
    fn sink(&mut self) {
        let members = self.rng.pick(&[1, 1, 2, 3]);
        let from: Vec<From> = (0..members).map(|_| From { stage: self.any_stage(), rejected: false }).collect();
        self.sink_of(&from);
    }

    fn sink_of(&mut self, from: &[From]) {
        let at = self.pipeline.sinks.len();
        let rejected = from.iter().any(|from| from.rejected);
        let format = if rejected { "jsonl" } else { self.rng.pick(&["csv", "jsonl"]) };
        let file = format!("out/w{at}.{format}");
        let expected = from.iter().flat_map(|from| self.rows(*from).to_vec()).collect();
        let names: Vec<String> = from.iter().map(|from| self.read(*from)).collect();
        let names = names.join(", ");
        let bounds = self.bounds();
        write!(self.pipeline.yaml, "  w{at}:\n    from: [{names}]\n    write: {file}\n{bounds}\n")
            .expect("a string can be written");
        self.pipeline.sinks.push(Sink { file, expected });
    }

    /// What nobody reads yet goes to sinks, alone or several together.
    fn sinks_for_the_rest(&mut self) {
        let ports = (0..self.stages.len()).map(|stage| From { stage, rejected: false });
        let unread: Vec<From> = ports.filter(|from| !self.stages[from.stage].read).collect();
        let together = self.rng.between(1, 3);
        for from in unread.chunks(together) {
            self.sink_of(from);
        }
        let ports = (0..self.stages.len()).map(|stage| From { stage, rejected: true });
        let rejected: Vec<From> = ports.filter(|from| self.stages[from.stage].rejected.is_some()).collect();
        if self.rng.chance(70) {
            for from in rejected.chunks(together) {
                self.sink_of(from);
            }
        }
    }
}

type Mapped = (String, Vec<Row>, Option<Vec<Row>>);

fn python(rng: &mut Rng, rows: Vec<Row>) -> Mapped {
    let stage = |call: &str| format!("    python: {{ call: \"steps:{call}\" }}\n");
    match rng.below(7) {
        0 => (stage("same"), rows, None),
        1 => (stage("few"), rows.into_iter().filter(|row| row.v % 2 == 0).collect(), None),
        2 => (stage("twice"), rows.into_iter().flat_map(|row| [row.clone(), row]).collect(), None),
        3 => ("    python: { call: \"steps:rows\", as: rows }\n".into(), rows, None),
        4 => ("    python: { call: \"steps:Same\", as: arrow }\n    workers: 2\n".into(), rows, None),
        _ => {
            let (bad, good) = rows.into_iter().partition(Row::is_poison);
            (format!("{}    on_error: reject\n", stage("checked")), good, Some(bad))
        }
    }
}

fn command(rng: &mut Rng, rows: Vec<Row>, may_search: bool) -> Mapped {
    let stage =
        |run: &str, format: &str| format!("    command: {{ run: [{run}], input: {format}, output: {format} }}\n");
    match rng.below(5) {
        0 => (stage("cat", "jsonl"), rows, None),
        1 => (stage("cat", "arrow"), rows, None),
        2 => {
            let rows = rows.into_iter().map(|row| Row { s: row.s.replace('g', "h"), ..row });
            (stage("tr, g, h", "csv"), rows.collect(), None)
        }
        3 if may_search => {
            let script = r#"awk '/"id":[0-9]*3[,}]/ { exit 3 } { print }'"#;
            let (bad, good) = rows.into_iter().partition(Row::is_poison);
            (format!("    command:\n      shell: |\n        {script}\n    on_error: reject\n"), good, Some(bad))
        }
        _ => (stage("cat", "csv"), rows, None),
    }
}
