//! The part of the corpus that no editor can write: frames. `MILLPOND_SEEDS=1 cargo test --test fuzz_corpus` writes its files anew.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayData, ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, FixedSizeBinaryArray,
    FixedSizeListArray, Float64Array, Int32Array, Int64Array, LargeBinaryArray, LargeStringArray, ListArray, MapArray,
    NullArray, RecordBatch, StringArray, StringViewArray, StructArray, TimestampMicrosecondArray, UInt8Array,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use millpond::batch::ipc;
use millpond::run::executor::{Frame, Kind};
use serde_json::json;

/// Every kind, as a number.
const KINDS: &[Kind] = &[
    Kind::Open,
    Kind::Schema,
    Kind::Segment,
    Kind::Run,
    Kind::Pull,
    Kind::Release,
    Kind::Forget,
    Kind::Stop,
    Kind::FinishKeys,
    Kind::Restore,
    Kind::Hello,
    Kind::Opened,
    Kind::WorkerSchema,
    Kind::WorkerSegment,
    Kind::Batch,
    Kind::Done,
    Kind::Error,
    Kind::Released,
    Kind::Dropped,
    Kind::CaughtUp,
    Kind::Ledger,
    Kind::DoneAgain,
    Kind::Snapshot,
    Kind::RowsFailed,
    Kind::Prepare,
    Kind::Fork,
    Kind::Forked,
    Kind::Exited,
    Kind::Shutdown,
    Kind::Spawn,
    Kind::Spawned,
    Kind::SpawnFailed,
    Kind::ProcessExited,
    Kind::GoOn,
    Kind::StopProcess,
];

const ORIGIN: u16 = 1;
const END: u16 = 2;
const SCATTERED: u16 = 16;

/// Writes the seeds of frames and of workers below `corpus`.
pub fn write(corpus: &Path) {
    for (name, bytes) in frames() {
        fs::write(corpus.join("frames").join(name), bytes).expect("a file");
    }
    for (name, bytes) in conversations() {
        fs::write(corpus.join("worker").join(name), bytes).expect("a file");
    }
}

fn frames() -> Vec<(String, Vec<u8>)> {
    let text = json!({"rows": [{"row": 1, "type": "ValueError", "message": "é"}]});
    let mut seeds: Vec<(String, Vec<u8>)> = Vec::new();
    for (at, kinds) in KINDS.chunks(9).enumerate() {
        let bytes = kinds.iter().flat_map(|kind| encoded(&Frame::new(*kind).with_text(&text)));
        seeds.push((format!("kinds_{at}"), bytes.collect()));
    }
    let mut full = Frame::new(Kind::Batch);
    full.flags = u16::MAX;
    (full.stage, full.schema, full.segment, full.rows, full.port) = (1, 2, 3, 4, 5);
    (full.attempt, full.sequence, full.offset, full.length) = (u64::MAX, 7, 64, 128);
    full.data = (0..=255).collect();
    let whole = encoded(&full);
    let part = |at: usize, bytes: &[u8]| {
        let mut changed = whole.clone();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        changed
    };
    seeds.extend([
        ("all_fields".to_owned(), whole.clone()),
        ("cut_in_header".to_owned(), whole[..63].to_vec()),
        ("cut_in_data".to_owned(), whole[..whole.len() - 1].to_vec()),
        ("unknown_kind".to_owned(), part(0, &[99])),
        ("text_too_long".to_owned(), part(4, &u32::MAX.to_le_bytes())),
        ("text_longest".to_owned(), part(4, &(1_u32 << 30).to_le_bytes())),
        ("data_too_long".to_owned(), part(8, &((1_u32 << 30) + 1).to_le_bytes())),
        ("descriptors_missing".to_owned(), part(1, &[255])),
        ("empty".to_owned(), Vec::new()),
    ]);
    seeds
}

/// Columns of all types.
fn columns() -> Vec<(&'static str, ArrayRef)> {
    let item = Arc::new(Field::new("item", DataType::Float64, true));
    let vectors = FixedSizeListArray::new(item, 2, Arc::new(Float64Array::from(vec![0.5; 6])), None);
    let lists = ListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![Some(1), None]), None, Some(vec![])]);
    let fields = vec![Field::new("n", DataType::Int32, true), Field::new("s", DataType::Utf8, true)];
    let members: [ArrayRef; 2] =
        [Arc::new(Int32Array::from(vec![Some(1), None, Some(3)])), Arc::new(StringArray::from(vec!["a", "é", ""]))];
    let structs = StructArray::new(fields.into(), members.into(), Some(vec![true, false, true].into()));
    let entry = vec![Field::new("keys", DataType::Utf8, false), Field::new("values", DataType::Int64, true)];
    let entries: [ArrayRef; 2] = [Arc::new(StringArray::from(vec!["k", "l"])), Arc::new(Int64Array::from(vec![1, 2]))];
    let entries = StructArray::new(entry.into(), entries.into(), None);
    let entry = Arc::new(Field::new("entries", entries.data_type().clone(), false));
    let maps = MapArray::new(entry, OffsetBuffer::new(vec![0, 1, 1, 2].into()), entries, None, false);
    let views = StringViewArray::from(vec![Some("short"), None, Some("so long that it does not fit into its view")]);
    vec![
        ("numbers", Arc::new(Int64Array::from(vec![Some(1), None, Some(3)]))),
        ("bytes", Arc::new(UInt8Array::from(vec![1, 2, 3]))),
        ("floats", Arc::new(Float64Array::from(vec![Some(0.5), None, Some(f64::NAN)]))),
        ("flags", Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)]))),
        ("text", Arc::new(StringArray::from(vec![Some("a"), None, Some("é")]))),
        ("large", Arc::new(LargeStringArray::from(vec!["a", "b", "c"]))),
        ("binary", Arc::new(BinaryArray::from(vec![&b"a"[..], b"", b"\xff"]))),
        ("large_binary", Arc::new(LargeBinaryArray::from(vec![&b"a"[..], b"", b"\xff"]))),
        ("fixed", Arc::new(FixedSizeBinaryArray::try_from(vec![&b"ab"[..], b"cd", b"ef"]).expect("one size"))),
        ("views", Arc::new(views)),
        ("nulls", Arc::new(NullArray::new(3))),
        ("dates", Arc::new(Date32Array::from(vec![1, 2, 3]))),
        ("times", Arc::new(TimestampMicrosecondArray::from(vec![1, 2, 3]).with_timezone("UTC"))),
        ("decimals", Arc::new(Decimal128Array::from(vec![1, 2, 3]).with_precision_and_scale(5, 2).expect("sound"))),
        ("lists", Arc::new(lists)),
        ("vectors", Arc::new(vectors)),
        ("structs", Arc::new(structs)),
        ("maps", Arc::new(maps)),
    ]
}

fn batch(names: &[&str]) -> RecordBatch {
    let chosen = columns().into_iter().filter(|(name, _)| names.contains(name));
    RecordBatch::try_from_iter_with_nullable(chosen.map(|(name, column)| (name, column, true))).expect("one length")
}

/// The answer to one attempt: its stage has the same number.
fn answer(stage: u32, frames: impl IntoIterator<Item = Frame>) -> Vec<Frame> {
    let mut opened = Frame::new(Kind::Opened).with_text(&json!({"as": "row", "class": true, "snapshots": true}));
    opened.stage = stage;
    let mut done = Frame::new(Kind::Done);
    // The first stage is a source.
    done.rows = if stage == 0 { 0 } else { 3 };
    let about = |mut frame: Frame| {
        frame.stage = stage;
        frame.attempt = u64::from(stage) + 1;
        frame
    };
    [opened].into_iter().chain(frames.into_iter().chain([done]).map(about)).collect()
}

fn schema(batch: &RecordBatch) -> Frame {
    let mut frame = Frame::new(Kind::WorkerSchema);
    frame.schema = 1;
    frame.data = ipc::encode_schema(&batch.schema()).expect("a schema");
    frame
}

fn inline(batch: &RecordBatch) -> Frame {
    let mut frame = Frame::new(Kind::Batch);
    (frame.schema, frame.rows) = (1, batch.num_rows() as u32);
    frame.data = ipc::encode(batch).expect("a batch").to_vec();
    frame
}

fn segment(data: Vec<u8>) -> Frame {
    let mut frame = Frame::new(Kind::WorkerSegment);
    (frame.segment, frame.length) = (1, 1 << 14);
    frame.data = data;
    frame
}

fn error(attempt: u64) -> Frame {
    let text = json!({
        "type": "ValueError", "message": "no é", "traceback": "Traceback", "row": null, "rows": [0, 2], "verdict": "exception",
    });
    let mut frame = Frame::new(Kind::Error).with_text(&text);
    frame.attempt = attempt;
    frame
}

fn conversations() -> Vec<(String, Vec<u8>)> {
    let hello = || {
        Frame::new(Kind::Hello).with_text(&json!({"protocol": 1, "pid": 1, "python": "3.11.7", "pyarrow": "26.0.0"}))
    };
    let mut seeds: Vec<(&str, Vec<Frame>)> = Vec::new();
    // One column each, so that a change meets one type.
    let names: Vec<&str> = columns().iter().map(|(name, _)| *name).collect();
    let mut typed: Vec<(String, Vec<Frame>)> = Vec::new();
    for name in &names {
        let batch = batch(&[name]);
        typed.push((format!("type_{name}"), answer(0, [schema(&batch), inline(&batch)])));
    }
    let small = batch(&["numbers", "text"]);
    seeds.push(("all_types", answer(0, [schema(&batch(&names)), inline(&batch(&names))])));
    let mut metadata = schema(&small);
    let with = small.schema().as_ref().clone().with_metadata(HashMap::from([("pandas".to_owned(), "{}".to_owned())]));
    metadata.data = ipc::encode_schema(&with).expect("a schema");
    seeds.push(("metadata", answer(0, [metadata, inline(&small)])));
    let no_columns = RecordBatch::new_empty(Arc::new(Schema::empty()));
    seeds.push(("no_columns", answer(0, [schema(&no_columns), inline(&no_columns)])));
    let mut indexed = inline(&small);
    indexed.flags = ORIGIN;
    indexed.data.extend([0_u32, 3999, 4000].iter().flat_map(|row| row.to_le_bytes()));
    seeds.push(("origin", answer(0, [schema(&small), indexed])));
    let mut placed = inline(&small);
    let data = std::mem::take(&mut placed.data);
    (placed.segment, placed.length) = (1, data.len() as u64);
    let mut ledger = Frame::new(Kind::Ledger);
    ledger.length = 4096;
    let dropped = || {
        let mut frame = Frame::new(Kind::Dropped);
        frame.segment = 1;
        frame
    };
    let mut released = Frame::new(Kind::Released);
    released.segment = 1;
    seeds.push(("segment", answer(0, [ledger, schema(&small), segment(data), placed, dropped(), released])));
    let (description, bytes) =
        scattered(&batch(&["numbers", "text", "lists", "vectors", "structs", "flags", "fixed"]), 1);
    let mut spread = Frame::new(Kind::Batch);
    (spread.flags, spread.schema, spread.rows) = (SCATTERED, 1, 3);
    spread.data = description;
    let spread_schema = schema(&batch(&["numbers", "text", "lists", "vectors", "structs", "flags", "fixed"]));
    seeds.push(("scattered", answer(0, [spread_schema, segment(bytes), spread])));
    let (description, _) = scattered(&batch(&["numbers"]), 2);
    let mut lent = Frame::new(Kind::Batch);
    (lent.flags, lent.schema, lent.rows) = (SCATTERED, 1, 3);
    lent.data = description;
    seeds.push(("scattered_in_input", answer(0, [schema(&batch(&["numbers"])), lent])));
    seeds.push(("error", answer(0, [error(1)])));
    seeds.push(("error_in_opening", vec![hello(), error(0)]));
    let failed = Frame::new(Kind::RowsFailed).with_text(&json!({"rows": [{
        "row": 1, "type": "KeyError", "message": "", "traceback": "", "verdict": "schema", "rows": null,
    }]}));
    let mut end = Frame::new(Kind::Done);
    (end.attempt, end.flags) = (1, END);
    let mut all = vec![hello(), Frame::new(Kind::CaughtUp)];
    all.extend([end]);
    all.extend(answer(1, [schema(&small), failed]));
    all.extend(answer(2, [inline(&small)]));
    let mut snapshot = Frame::new(Kind::Snapshot);
    snapshot.data = b"state".to_vec();
    all.extend(answer(3, [Frame::new(Kind::DoneAgain), snapshot, inline(&small)]));
    seeds.push(("all_stages", all));
    let mut keyed: Vec<Frame> = (0..3).flat_map(|stage| answer(stage, [])).collect();
    keyed.extend(answer(3, [error(4)]));
    seeds.push(("keyed_error", keyed));
    seeds.extend(untrue(&small));
    let named = seeds.into_iter().map(|(name, frames)| (name.to_owned(), frames));
    named.chain(typed).map(|(name, frames)| (name, frames.iter().flat_map(encoded).collect())).collect()
}

/// What a worker may not say, as it is about something that there is not.
fn untrue(batch: &RecordBatch) -> Vec<(&'static str, Vec<Frame>)> {
    let other_stage = |mut frame: Frame| {
        frame.stage = 77;
        vec![frame]
    };
    let opened = Frame::new(Kind::Opened).with_text(&json!({"as": "row"}));
    let mut other_port = inline(batch);
    other_port.port = 2;
    let mut rejected = inline(batch);
    rejected.port = 1;
    let failed = |rows: &[u64]| {
        let error =
            |row: &u64| json!({"row": row, "type": "E", "message": "", "traceback": "", "verdict": "exception"});
        Frame::new(Kind::RowsFailed).with_text(&json!({"rows": rows.iter().map(error).collect::<Vec<_>>()}))
    };
    let mut done = Frame::new(Kind::Done);
    done.rows = 4001;
    let second = |frames: Vec<Frame>| {
        // The source has answered.
        let mut all = vec![Frame::new(Kind::Done)];
        all[0].attempt = 1;
        all.extend(answer(1, frames));
        all
    };
    vec![
        ("stage_opened_unasked", other_stage(opened)),
        ("stage_unknown", other_stage(error(0))),
        ("port_unknown", second(vec![schema(batch), other_port])),
        ("port_rejected", second(vec![schema(batch), rejected])),
        ("row_failed_not_given", second(vec![failed(&[3])])),
        ("row_failed_twice", second(vec![failed(&[0, 1, 1, 2])])),
        ("rows_done_not_given", second(vec![done])),
    ]
}

/// The description of a batch whose buffers lie in one segment of the holder, and what the segment has.
fn scattered(batch: &RecordBatch, holder: u32) -> (Vec<u8>, Vec<u8>) {
    let (mut nodes, mut buffers) = (Vec::new(), Vec::new());
    batch.columns().iter().for_each(|column| take(&column.to_data(), &mut nodes, &mut buffers));
    let mut description = Vec::new();
    description.extend((nodes.len() as u32).to_le_bytes());
    description.extend((buffers.len() as u32).to_le_bytes());
    nodes.iter().for_each(|(rows, nulls): &(u64, u64)| {
        description.extend(rows.to_le_bytes());
        description.extend(nulls.to_le_bytes());
    });
    let mut bytes = Vec::new();
    for buffer in buffers {
        description.extend((bytes.len() as u64).to_le_bytes());
        description.extend((buffer.len() as u64).to_le_bytes());
        description.extend(1_u32.to_le_bytes());
        description.extend(holder.to_le_bytes());
        bytes.extend(&buffer);
        bytes.resize(bytes.len().next_multiple_of(64), 0);
    }
    (description, bytes)
}

fn take(array: &ArrayData, nodes: &mut Vec<(u64, u64)>, buffers: &mut Vec<Vec<u8>>) {
    nodes.push((array.len() as u64, array.null_count() as u64));
    buffers.push(array.nulls().map_or_else(Vec::new, |nulls| nulls.buffer().to_vec()));
    buffers.extend(array.buffers().iter().map(|buffer| buffer.to_vec()));
    array.child_data().iter().for_each(|child| take(child, nodes, buffers));
}

fn encoded(frame: &Frame) -> Vec<u8> {
    let mut header = frame.header();
    header[1] = u8::from(matches!(frame.kind, Kind::WorkerSegment | Kind::Ledger));
    [&header[..], &frame.text, &frame.data].concat()
}
