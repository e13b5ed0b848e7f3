//! What is fuzzed: functions that take any bytes, and panic if something does not hold that should. `fuzz_targets` has them for libFuzzer,
//! `tests/fuzz_corpus.rs` runs them on the corpus.

#![allow(dead_code, reason = "each target uses one function")]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use millpond::batch::{Batch, FileId, Origin};
use millpond::diagnostic::render::{self, Style};
use millpond::diagnostic::{Code, Diagnostic, SourceText, Span};
use millpond::plan::memory::MemoryBound;
use millpond::plan::{self, Compiled, Plan, Port, Settings, view};
use millpond::run::executor::{FakeWorker, Frame, Kind, is_record, sound_records};
use millpond::spec::{self, Completeness, Given};
use millpond::testing;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

/// A pipeline file, or one with tests: read, checked, drawn and compiled.
pub fn yaml(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let source = Arc::new(SourceText::new("pipeline.yaml", "/project/pipeline.yaml", text));
    spec::yaml::parse(&source).0.inspect(|tree| {
        tree.walk(&mut |_, node| {
            let places = node.entries().iter().map(|entry| entry.key.span).chain(node.alias).chain([node.span]);
            places.for_each(|span| lies_in(span, &source));
        });
    });
    match spec::parse_tests(&source) {
        Ok(file) => are_sound(&testing::check(&file, &source, &given(Completeness::Partial)), &source),
        Err(problems) => are_sound(&problems, &source),
    }
    let partial = spec::parse(&source, &given(Completeness::Partial));
    are_sound(&plan::validate(&partial), &source);
    let full = spec::parse(&source, &given(Completeness::Full));
    let problems = plan::validate(&full);
    are_sound(&problems, &source);
    match plan::compile(&full, &settings()) {
        Ok(Compiled { plan, warnings }) => {
            assert!(!warnings.iter().any(Diagnostic::is_error), "a plan in spite of {warnings:?}");
            are_sound(&warnings, &source);
            show(plan);
        }
        Err(found) => {
            assert!(found.iter().any(Diagnostic::is_error), "no plan, and nothing is wrong");
            // A pipeline with inputs of its own is sound, and cannot be run by itself.
            let lacks_inputs = |problem: &Diagnostic| problem.code == Code::PlanMissingInput || !problem.is_error();
            let is_known = problems.iter().any(Diagnostic::is_error) || found.iter().all(lacks_inputs);
            assert!(is_known, "only `compile` finds {found:?}");
            are_sound(&found, &source);
        }
    }
}

fn given(completeness: Completeness) -> Given {
    Given {
        set: Vec::new(),
        env: BTreeMap::from([("HOME".to_owned(), "/somebody".to_owned())]),
        secrets: BTreeMap::new(),
        current_dir: "/here".into(),
        seed: 7,
        completeness,
    }
}

fn settings() -> Settings {
    let two = NonZeroU32::new(2).expect("not zero");
    Settings { workers: two, cores: two, file_sizes: |_| None, columns: |_, _| None }
}

/// Every problem has places in the file, and can be drawn.
fn are_sound(problems: &[Diagnostic], source: &SourceText) {
    for problem in problems {
        let related = problem.related.iter().map(|label| label.span);
        problem.span().into_iter().chain(related).chain(problem.alias).for_each(|span| lies_in(span, source));
        assert!(!problem.message.is_empty(), "{problem:?}");
    }
    for (color, width) in [(true, 80), (false, 20)] {
        let drawn = render::human(problems, source, Style { color, width });
        for problem in problems {
            assert!(drawn.contains(problem.code.word()), "{} is not drawn", problem.code.word());
        }
    }
    assert_eq!(render::json(problems, source).len(), problems.len());
}

fn lies_in(span: Span, source: &SourceText) {
    let text = source.text();
    assert!(span.start <= span.end && span.end <= text.len(), "{span:?} is not in {} bytes", text.len());
    assert!(text.is_char_boundary(span.start) && text.is_char_boundary(span.end), "{span:?} cuts a character");
}

/// What commands do with a plan.
fn show(mut plan: Plan) {
    view::text(&plan);
    view::graph_text(&plan);
    view::mermaid(&plan);
    let most = MemoryBound::of(&plan).total();
    if plan::fit(&mut plan, 256 << 20).is_ok() {
        assert!(MemoryBound::of(&plan).total() <= most.max(256 << 20), "to fit, the plan has grown");
    }
}

/// Bytes from a socket: cut into frames, each of which is what its bytes say and no more.
pub fn frames(bytes: &[u8]) {
    let mut rest = bytes;
    while let Ok(Some((frame, length, _))) = Frame::parse(rest) {
        let (read, behind) = rest.split_at(length);
        assert_eq!(encoded(&frame, read[1]), read, "a frame is not what was read");
        assert!(!matches!(Frame::parse(&read[..length - 1]), Ok(Some(_))), "a frame is read before it is whole");
        // What follows does not matter.
        let (again, same, _) = Frame::parse(read).expect("it was a frame").expect("it was whole");
        assert_eq!((encoded(&again, read[1]), same), (read.to_vec(), length));
        // Texts of another shape are errors.
        let _ = frame.text::<BTreeMap<String, String>>();
        rest = behind;
    }
}

fn encoded(frame: &Frame, descriptors: u8) -> Vec<u8> {
    let mut header = frame.header();
    header[1] = descriptors;
    [&header[..], &frame.text, &frame.data].concat()
}

/// A pipeline with a Python stage of each kind: for each row, for each batch, with state, and a source.
const STAGES: &str = "version: 1
stages:
  a: { python: { call: 'm:source', returns: { id: int64 } } }
  b: { from: a, python: { call: 'm:row', as: row }, on_error: reject }
  c: { from: b, python: { call: 'm:arrow', as: arrow } }
  d: { from: c, partition_by: id, python: { call: 'm:Keyed', as: pandas } }
  e: { from: b.rejected, write: rejected.jsonl }
";

/// Rows of the input of the attempts; so many that they lie in shared memory.
pub const ROWS: usize = 4000;

static PLAN: LazyLock<Arc<Plan>> = LazyLock::new(|| {
    let source = Arc::new(SourceText::new("stages.yaml", "/project/stages.yaml", STAGES));
    let compiled = plan::compile(&spec::parse(&source, &given(Completeness::Full)), &settings());
    Arc::new(compiled.expect("a sound pipeline").plan)
});

static INPUT: LazyLock<Batch> = LazyLock::new(|| {
    let columns: [(&str, ArrayRef); 2] = [
        ("id", Arc::new(Int64Array::from_iter_values(0..ROWS as i64))),
        ("text", Arc::new(StringArray::from_iter_values((0..ROWS).map(|row| format!("row {row}"))))),
    ];
    let records = RecordBatch::try_from_iter(columns).expect("columns of one length");
    Batch::new(records, Origin::consecutive(FileId(0), 1, ROWS))
});

/// What a worker sends, frame by frame: refused, or taken for batches that are sound.
///
/// A descriptor that a frame announces is one of shared memory that begins with the frame's data and has the size that the frame says, if
/// that is not too much.
pub fn worker(bytes: &[u8]) {
    let mut worker = FakeWorker::new(Arc::clone(&PLAN), &INPUT).expect("descriptors and memory");
    let mut rest = bytes;
    while let Ok(Some((mut frame, length, _))) = Frame::parse(rest) {
        if matches!(frame.kind, Kind::WorkerSegment | Kind::Ledger) && rest[1] > 0 {
            frame.fds.extend(shared_memory(&frame));
        }
        rest = &rest[length..];
        if worker.say(frame).is_err() {
            break;
        }
        for answer in worker.answers() {
            let ports = &PLAN.stage(answer.stage).ports;
            assert!(answer.rows <= ROWS as u64, "more rows were done than given");
            assert!(answer.failed.iter().all(|row| *row < answer.rows), "rows failed that were not given");
            for (port, batch) in &answer.outputs {
                assert!(ports.get(*port).is_some_and(|port| port.name != Port::REJECTED), "port {port} does not exist");
                is_valid(batch);
            }
        }
    }
    worker.end();
}

/// The file of a ledger, or a record of one, which others may have written: read, or not.
pub fn ledger(bytes: &[u8]) {
    is_record(bytes);
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::create_dir(folder.path().join("checkpoints")).expect("a folder in ours");
    std::fs::write(folder.path().join("checkpoints/batches"), bytes).expect("ours");
    let sound = sound_records(folder.path()).expect("what is not sound is as if it were not there");
    assert!(sound <= bytes.len() / 96, "{sound} records in {} bytes", bytes.len());
}

fn is_valid(batch: &Batch) {
    let records = batch.records().expect("it is in memory");
    assert_eq!((records.num_rows(), batch.origin().len()), (batch.rows(), batch.rows()));
    for column in records.columns() {
        column.to_data().validate_full().expect("a column that was taken for valid");
    }
}

/// Most bytes of shared memory for one segment.
const SEGMENT_BYTES: u64 = 1 << 20;

fn shared_memory(frame: &Frame) -> Option<OwnedFd> {
    let memory = memfd_create("fuzz", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).ok()?;
    let mut file = std::fs::File::from(memory);
    file.write_all(&frame.data).ok()?;
    if frame.length <= SEGMENT_BYTES {
        file.set_len(frame.length).ok()?;
    }
    fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL).ok()?;
    Some(file.into())
}
