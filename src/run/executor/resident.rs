//! [`Resident`]: a thread for a stage that lives as long as its input: a source, a sink, a query over whole streams.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::thread;

use arrow::datatypes::SchemaRef;
use crossbeam_channel::{Receiver, Sender, unbounded};

use super::mailbox::{Mailbox, Message};
use super::query_input::QueryInput;
use super::stage::read::{Canceller, MalformedRows, ReadError, Source};
use super::stage::write::{Sink, WriteError};
use crate::batch::{Batch, BatchError, Origin, Rows};
use crate::plan::{StageId, Verdict};
use crate::run::scheduler::{Failure, Scope};
use crate::sql::{self, Query, Settings, SqlError, SqlErrorKind, StreamQuery};

/// Bytes of stack of a stage's thread: address space, of which only what is used is memory. Long expressions are deep trees.
pub const STACK: usize = 64 << 20;

/// What the event loop asks of the thread.
enum Order {
    Pull,
    Feed(Rows),
    End(Option<SchemaRef>),
}

/// The event loop's handle.
pub struct Resident {
    stage: StageId,
    orders: Sender<Order>,
    kind: Kind,
    mailbox: Mailbox,
}

enum Kind {
    Source(Canceller),
    Sink,
    Query(Box<QueryInputs>),
}

/// The inputs of a query. It is started when the columns of all of them are known.
struct QueryInputs {
    query: Query,
    settings: Settings,
    runtime: tokio::runtime::Handle,
    inputs: Vec<QueryInput>,
    /// The orders for the query's thread, until it is started.
    start: Option<Receiver<Order>>,
}

impl Resident {
    pub fn source(stage: StageId, source: Source, mailbox: Mailbox) -> Self {
        Self::source_with_end(stage, source, mailbox, input_failure, || Ok(()))
    }

    /// A source that may have to wait before it is open. `open` gets what ends that wait.
    pub fn source_to_open(
        stage: StageId,
        canceller: Canceller,
        open: impl FnOnce() -> Result<Source, ReadError> + Send + 'static,
        mailbox: Mailbox,
    ) -> Self {
        let (orders, inbox) = unbounded();
        let out = mailbox.clone();
        spawn("source", stage, mailbox.clone(), move || match open() {
            Ok(source) => read_to_the_end(stage, source, &inbox, &out, input_failure, || Ok(())),
            Err(ReadError::Cancelled) => out.send(Message::Ended { stage, schema: None }),
            Err(error) => out.send(Message::StageFailed { stage, failure: input_failure(&error) }),
        });
        Self { stage, orders, kind: Kind::Source(canceller), mailbox }
    }

    /// A source that may turn out to have failed when it is read to its end. `explain` says what an error of reading means.
    pub fn source_with_end(
        stage: StageId,
        source: Source,
        mailbox: Mailbox,
        explain: impl FnOnce(&ReadError) -> Failure + Send + 'static,
        at_end: impl FnOnce() -> Result<(), Failure> + Send + 'static,
    ) -> Self {
        let canceller = source.canceller();
        let (orders, inbox) = unbounded();
        let out = mailbox.clone();
        spawn("source", stage, mailbox.clone(), move || read_to_the_end(stage, source, &inbox, &out, explain, at_end));
        Self { stage, orders, kind: Kind::Source(canceller), mailbox }
    }

    pub fn sink(stage: StageId, mut sink: Sink, mailbox: Mailbox) -> Self {
        let (orders, inbox) = unbounded();
        let out = mailbox.clone();
        spawn("sink", stage, mailbox.clone(), move || {
            let result = loop {
                match inbox.recv() {
                    Ok(Order::Feed(rows)) => {
                        let count = rows.len() as u64;
                        if let Err(error) = sink.write(rows) {
                            break Err(error);
                        }
                        out.send(Message::Taken { stage, input: 0, rows: count });
                    }
                    Ok(Order::End(schema)) => break sink.finish(schema),
                    // The run is over before its end.
                    Ok(Order::Pull) | Err(_) => return,
                }
            };
            let result = result.map(|written| {
                written.shared.into_iter().for_each(|memory| out.send(Message::Shared { memory }));
            });
            out.send(match result {
                Ok(()) => Message::Ended { stage, schema: None },
                Err(error) => {
                    let (scope, verdict) = match error {
                        WriteError::Closed => (Scope::ClosedPipe, Verdict::Exception),
                        WriteError::Unexpected(_) => (Scope::Opening, Verdict::Contract),
                        _ => (Scope::Output, Verdict::Exception),
                    };
                    Message::StageFailed { stage, failure: failure(scope, verdict, error.to_string()) }
                }
            });
        });
        Self { stage, orders, kind: Kind::Sink, mailbox }
    }

    pub fn query(
        stage: StageId,
        query: Query,
        tables: Vec<String>,
        settings: Settings,
        runtime: tokio::runtime::Handle,
        mailbox: Mailbox,
    ) -> Self {
        let (orders, inbox) = unbounded();
        let inputs = tables.into_iter().map(QueryInput::new);
        let inputs = QueryInputs { query, settings, runtime, inputs: inputs.collect(), start: Some(inbox) };
        let mut resident = Self { stage, orders, kind: Kind::Query(Box::new(inputs)), mailbox };
        resident.start_query_when_ready();
        resident
    }

    pub fn pull(&self) {
        // A thread that has ended has said so.
        let _ = self.orders.send(Order::Pull);
    }

    /// Hands a batch over. For sinks, `input` is 0.
    pub fn feed(&mut self, input: usize, batch: &Batch) {
        if let Err(failure) = self.try_feed(input, batch) {
            self.mailbox.send(Message::StageFailed { stage: self.stage, failure });
        }
    }

    fn try_feed(&mut self, input: usize, batch: &Batch) -> Result<(), Failure> {
        let unreadable = |error: BatchError| failure(Scope::Output, Verdict::Exception, error.to_string());
        match &mut self.kind {
            Kind::Source(_) => unreachable!("a source has no input"),
            Kind::Sink => {
                let rows = batch.contents().map_err(unreadable)?;
                let _ = self.orders.send(Order::Feed(rows));
            }
            Kind::Query(query) => {
                let slot = &mut query.inputs[input];
                // A query may keep what it is given for as long as it runs; a sink writes it and lets it go.
                let records = batch.private_records().map_err(unreadable)?;
                match slot.feed {
                    Some(_) => slot.pass(records, self.stage, input, &self.mailbox)?,
                    None => slot.hold(records, self.stage, input, &self.mailbox)?,
                }
                self.start_query_when_ready();
            }
        }
        Ok(())
    }

    /// The input has no more batches. `schema` are its columns, where they are known.
    pub fn end(&mut self, input: usize, schema: Option<SchemaRef>) {
        match &mut self.kind {
            Kind::Source(_) => unreachable!("a source has no input"),
            Kind::Sink => {
                let _ = self.orders.send(Order::End(schema));
            }
            Kind::Query(query) => {
                let slot = &mut query.inputs[input];
                slot.ended = true;
                if let Some(feed) = slot.feed.take() {
                    feed.end();
                    return;
                }
                slot.schema = slot.schema.take().or(slot.columns.settled()).or(schema);
                if slot.schema.is_none() {
                    let message = format!(
                        "the columns of `{}` are unknown, as it has no rows; declare them with `returns:` or `schema:`",
                        slot.table
                    );
                    let failure = failure(Scope::Opening, Verdict::Schema, message);
                    self.mailbox.send(Message::StageFailed { stage: self.stage, failure });
                    return;
                }
                self.start_query_when_ready();
            }
        }
    }

    /// Nobody wants the output any more.
    pub fn close(&mut self) {
        match &mut self.kind {
            Kind::Source(canceller) => canceller.cancel(),
            Kind::Sink => {}
            Kind::Query(query) => {
                // Without its feeds a query that runs ends; one that was never started has nobody else to say so.
                query.inputs.clear();
                if query.start.take().is_some() {
                    self.mailbox.send(Message::Ended { stage: self.stage, schema: None });
                }
            }
        }
        // Without a sender the thread's loop ends if it waits for an order.
        self.orders = unbounded().0;
    }

    /// A query took a batch of this input, or wants no more of it.
    pub fn input_changed(&mut self, input: usize) {
        let Kind::Query(query) = &mut self.kind else { return };
        if let Some(slot) = query.inputs.get_mut(input) {
            slot.acknowledge(self.stage, input, &self.mailbox);
        }
    }

    fn start_query_when_ready(&mut self) {
        let Kind::Query(query) = &mut self.kind else { return };
        if query.inputs.iter().any(|input| input.schema.is_none()) {
            return;
        }
        let Some(inbox) = query.start.take() else { return };
        let mut ends = Vec::new();
        for (index, slot) in query.inputs.iter_mut().enumerate() {
            let (stage, mailbox) = (self.stage, self.mailbox.clone());
            let schema = slot.schema.clone().expect("checked above");
            let told = mailbox.clone();
            let on_change = Arc::new(move || told.send(Message::InputChanged { stage, input: index }));
            let (feed, end) = sql::Input::new(slot.table.clone(), schema, on_change);
            slot.feed = Some(feed);
            if let Err(failure) = slot.pass_held(stage, index, &mailbox) {
                mailbox.send(Message::StageFailed { stage, failure });
                return;
            }
            if slot.ended
                && let Some(feed) = slot.feed.take()
            {
                feed.end();
            }
            ends.push(end);
        }
        let (stage, out) = (self.stage, self.mailbox.clone());
        let (text, settings, runtime) = (query.query.clone(), query.settings.clone(), query.runtime.clone());
        spawn("query", stage, out.clone(), move || run_query(stage, &text, ends, &settings, &runtime, &inbox, &out));
    }
}

fn read_to_the_end(
    stage: StageId,
    mut source: Source,
    orders: &Receiver<Order>,
    out: &Mailbox,
    explain: impl FnOnce(&ReadError) -> Failure,
    at_end: impl FnOnce() -> Result<(), Failure>,
) {
    while let Ok(Order::Pull) = orders.recv() {
        match source.next_batch() {
            Ok(Some(batch)) => {
                let rejected = source.take_malformed().map(rejected);
                out.send(Message::Produced { stage, batch, rejected });
            }
            Ok(None) => {
                if let Err(failure) = at_end() {
                    out.send(Message::StageFailed { stage, failure });
                    return;
                }
                break;
            }
            Err(ReadError::Cancelled) => break,
            Err(error) => {
                out.send(Message::StageFailed { stage, failure: explain(&error) });
                return;
            }
        }
    }
    out.send(Message::Ended { stage, schema: source.schema() });
}

fn input_failure(error: &ReadError) -> Failure {
    failure(Scope::Input, Verdict::Exception, error.to_string())
}

/// Rows that could not be read, and what is wrong with each.
fn rejected(malformed: MalformedRows) -> (Batch, Vec<Failure>) {
    let (rows, problems) = malformed.into_batch();
    let problems = problems.into_iter().map(|problem| failure(Scope::Rows, Verdict::Schema, problem.to_string()));
    (rows, problems.collect())
}

fn run_query(
    stage: StageId,
    query: &Query,
    inputs: Vec<sql::Input>,
    settings: &Settings,
    runtime: &tokio::runtime::Handle,
    orders: &Receiver<Order>,
    out: &Mailbox,
) {
    let fail = |error: &SqlError| {
        out.send(Message::StageFailed { stage, failure: sql_failure(error) });
    };
    let mut running = match StreamQuery::start(query, inputs, settings, runtime) {
        Ok(running) => running,
        Err(error) => return fail(&error),
    };
    let schema = running.output_schema().clone();
    while let Ok(Order::Pull) = orders.recv() {
        match running.next() {
            Ok(Some(records)) => {
                let origin = Origin::unknown(records.num_rows());
                out.send(Message::Produced { stage, batch: Batch::new(records, origin), rejected: None });
            }
            Ok(None) => break,
            Err(error) if error.kind == SqlErrorKind::Cancelled => break,
            Err(error) => return fail(&error),
        }
    }
    out.send(Message::Ended { stage, schema: Some(schema) });
}

/// A failure of a query: its rows may be to blame, or the query itself.
pub fn sql_failure(error: &SqlError) -> Failure {
    let scope = match error.kind {
        SqlErrorKind::Data => Scope::Rows,
        SqlErrorKind::Disk => Scope::Output,
        SqlErrorKind::Plan | SqlErrorKind::Memory | SqlErrorKind::Cancelled => Scope::Opening,
        SqlErrorKind::Internal => Scope::Internal,
    };
    let message = match error.kind {
        SqlErrorKind::Disk => format!("{}; make room there, or give the run another `--state-dir`", error.message),
        _ => error.message.clone(),
    };
    failure(scope, Verdict::Exception, message)
}

pub fn failure(scope: Scope, verdict: Verdict, message: String) -> Failure {
    Failure { verdict, scope, message, traceback: String::new() }
}

/// Runs a body that must say how it ended: a panic in it is a failure of the engine, and not a silence for which the run waits.
pub fn guarded<T>(body: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    std::panic::catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        let message = format!("millpond panicked, please report this: {}", text.unwrap_or("no message"));
        Err(failure(Scope::Internal, Verdict::Exception, message))
    })
}

/// Starts the thread of a stage. If the system has none left, the stage has failed.
fn spawn(name: &str, stage: StageId, mailbox: Mailbox, body: impl FnOnce() + Send + 'static) {
    let without_thread = mailbox.clone();
    let guarded = move || {
        let ended = guarded(|| {
            body();
            Ok(())
        });
        if let Err(failure) = ended {
            mailbox.send(Message::StageFailed { stage, failure });
        }
    };
    let builder = thread::Builder::new().name(format!("millpond-{name}")).stack_size(STACK);
    if let Err(error) = builder.spawn(guarded) {
        let failure = failure(
            Scope::Opening,
            Verdict::Exception,
            format!("no thread could be started: {error}; raise the limit (`ulimit -u`)"),
        );
        without_thread.send(Message::StageFailed { stage, failure });
    }
}
