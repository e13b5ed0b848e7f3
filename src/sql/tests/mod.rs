//! Tests of queries that run, by batch and by stream.

mod agreement;
mod checker;
mod row_wise;
mod stream;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc;
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::{Duration, SystemTime};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::util::pretty::pretty_format_batches;
use tokio::runtime::Runtime;

use super::*;

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("threads"));

fn settings() -> Settings {
    Settings {
        stage: "test".to_owned(),
        params: BTreeMap::new(),
        seed: 1,
        started: SystemTime::UNIX_EPOCH + Duration::from_secs(86_400),
        memory_limit: 64 << 20,
        spill_folder: std::env::temp_dir(),
        spill_limit: 1 << 30,
    }
}

fn with_params(params: &[(&str, serde_json::Value)]) -> Settings {
    let params = params.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    Settings { params, ..settings() }
}

fn with_limit(memory_limit: usize, spill_folder: &Path) -> Settings {
    Settings { memory_limit, spill_folder: spill_folder.to_owned(), ..settings() }
}

/// Rows of JSON as one batch, with the types that JSON gives: Int64, Float64, Utf8, Boolean, lists and structs.
fn batch(rows: &[serde_json::Value]) -> RecordBatch {
    let schema = arrow::json::reader::infer_json_schema_from_iterator(rows.iter().map(|row| Ok(row.clone())));
    let mut decoder = arrow::json::ReaderBuilder::new(Arc::new(schema.expect("rows are objects")))
        .build_decoder()
        .expect("a decoder");
    decoder.serialize(rows).expect("rows fit their schema");
    decoder.flush().expect("rows fit their schema").expect("at least one row")
}

/// The lines of a table of `batches`, without the frame.
fn lines(batches: &[RecordBatch]) -> Vec<String> {
    let table = pretty_format_batches(batches).expect("printable").to_string();
    let rows = table.lines().filter(|line| line.starts_with('|'));
    rows.map(|line| line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>().join(" | ").trim().to_owned())
        .collect()
}

/// One table of a query with all its batches.
struct Table {
    name: &'static str,
    schema: SchemaRef,
    batches: Vec<RecordBatch>,
}

fn table(name: &'static str, batches: &[RecordBatch]) -> Table {
    Table { name, schema: batches[0].schema(), batches: batches.to_vec() }
}

/// What became of a query and its feeds.
struct Outcome {
    batches: Vec<RecordBatch>,
    schema: SchemaRef,
    /// Batches that each input has taken.
    taken: Vec<usize>,
}

/// Runs a query, with a thread for each input that feeds until all is fed or the input is closed.
fn run(sql: &str, tables: Vec<Table>, settings: &Settings) -> Result<Outcome, SqlError> {
    let query = Query::parse(sql).expect("a query");
    let mut inputs = Vec::new();
    let mut feeders = Vec::new();
    for table in tables {
        let (sender, changes) = mpsc::channel();
        let on_change: OnChange = Arc::new(move || {
            // The feeder may have ended before the query says that it is closed.
            let _ = sender.send(());
        });
        let (feed, input) = Input::new(table.name, table.schema, on_change);
        inputs.push(input);
        feeders.push(thread::spawn(move || feed_all(feed, table.batches, &changes)));
    }
    let mut stream = StreamQuery::start(&query, inputs, settings, RUNTIME.handle())?;
    let mut batches = Vec::new();
    while let Some(batch) = stream.next()? {
        batches.push(batch);
    }
    let taken = feeders.into_iter().map(|feeder| feeder.join().expect("no panic")).collect();
    Ok(Outcome { batches, schema: Arc::clone(stream.output_schema()), taken })
}

fn feed_all(feed: Feed, batches: Vec<RecordBatch>, changes: &mpsc::Receiver<()>) -> usize {
    let mut taken = 0;
    for batch in batches {
        let mut offered = batch;
        loop {
            match feed.try_feed(offered) {
                Ok(()) => break taken += 1,
                Err(Refused::Closed) => return taken,
                Err(Refused::Full(back)) => offered = back,
            }
            changes.recv().expect("the query tells of changes");
        }
    }
    feed.end();
    taken
}

#[track_caller]
fn check_stream(sql: &str, tables: Vec<Table>, expected: &[&str]) {
    let outcome = run(sql, tables, &settings()).expect("a result");
    assert_eq!(lines(&outcome.batches), expected, "{sql}");
}
