//! Pipelines of any length, as text and compiled.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::num::NonZeroU32;
use std::sync::Arc;

use millpond::diagnostic::SourceText;
use millpond::plan::{self, Plan, Settings};
use millpond::spec::{self, Completeness, Document, Given};

const HEAD: &str = "version: 1\nname: bench\nparams:\n  out: { type: path, default: out }\nstages:\n";

/// A source, `stages` less two Python stages one after the other, and a sink.
pub fn chain(stages: usize) -> String {
    let mut text = format!("{HEAD}  s0: {{ read: in.csv }}\n");
    for at in 1..stages - 1 {
        let before = at - 1;
        writeln!(text, "  s{at}:\n    from: s{before}\n    python: {{ call: \"work:f\", as: arrow }}").expect("memory");
    }
    let last = stages - 2;
    writeln!(text, "  sink: {{ from: s{last}, write: \"${{{{ params.out }}}}/rows.csv\" }}").expect("memory");
    text
}

/// A source whose rows go through two Python stages side by side and meet in one sink.
pub fn diamond() -> String {
    let stages = "  s: { read: in.csv }
  left: { from: s, python: { call: \"work:f\", as: arrow } }
  right: { from: s, python: { call: \"work:g\", as: arrow } }
  sink: { from: [left, right], write: \"${{ params.out }}/rows.csv\" }
";
    format!("{HEAD}{stages}")
}

/// Commands in layers of 100; each comes after three of the layer before it.
pub fn layers(stages: usize) -> String {
    const WIDTH: usize = 100;
    let mut text = HEAD.to_owned();
    for at in 0..stages {
        write!(text, "  t{at}: {{ command: [touch, \"${{{{ params.out }}}}/{at}\"]").expect("memory");
        if at >= WIDTH {
            let before = (at / WIDTH - 1) * WIDTH;
            let [a, b, c] = [1, 7, 31].map(|step| before + (at * step) % WIDTH);
            write!(text, ", after: [t{a}, t{b}, t{c}]").expect("memory");
        }
        text.push_str(" }\n");
    }
    text
}

/// A pipeline's text, as if it had been read from a file.
pub fn source(text: &str) -> Arc<SourceText> {
    Arc::new(SourceText::new("bench.yaml", "/bench/bench.yaml", text))
}

pub fn document(source: &Arc<SourceText>) -> Document {
    let given = Given {
        set: Vec::new(),
        env: BTreeMap::new(),
        secrets: BTreeMap::new(),
        current_dir: "/bench".into(),
        seed: 0,
        completeness: Completeness::Full,
    };
    spec::parse(source, &given)
}

pub fn compiled(document: &Document) -> Plan {
    let two = NonZeroU32::MIN.saturating_add(1);
    let compiled =
        plan::compile(document, &Settings { workers: two, cores: two, file_sizes: |_| None, columns: |_, _| None });
    compiled.unwrap_or_else(|problems| panic!("{problems:#?}")).plan
}
