//! [`Tee`]: one input for every place where a query reads it.
//!
//! An input comes once, and a self-join reads it twice. Each reader gets every batch; what one reader has taken and another
//! has not yet is kept for that one, in memory while the query's limit allows, then on disk. With one reader nothing is kept.

use std::collections::VecDeque;
use std::fs::File;
use std::io::BufReader;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use datafusion::common::{DataFusionError, Result, internal_err, not_impl_err};
use datafusion::execution::SpillFile;
use datafusion::execution::disk_manager::DiskManager;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::runtime_env::RuntimeEnv;
use futures::{Stream, StreamExt};

use super::error::SqlError;
use super::feed::Batches;
use super::step::new_batch;

#[derive(Clone)]
pub(super) struct Tee {
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    schema: SchemaRef,
    /// `None` once no reader is left, or the end or an error was reached.
    source: Option<Batches>,
    failure: Option<SqlError>,
    backlogs: Vec<Backlog>,
    /// Backlogs that have no reader yet.
    unclaimed: VecDeque<usize>,
    waiting: Vec<Waker>,
}

impl Tee {
    pub(super) fn new(schema: SchemaRef, source: Batches) -> Self {
        let shared = Shared {
            schema,
            source: Some(source),
            failure: None,
            backlogs: Vec::new(),
            unclaimed: VecDeque::new(),
            waiting: Vec::new(),
        };
        Self { shared: Arc::new(Mutex::new(shared)) }
    }

    /// Says, before the first [`read`](Self::read), how many readers there will be. With none, the source is closed.
    pub(super) fn expect_readers(&self, readers: usize, runtime: &Arc<RuntimeEnv>) {
        let mut shared = self.lock();
        shared.backlogs = (0..readers).map(|_| Backlog::new(runtime)).collect();
        shared.unclaimed = (0..readers).collect();
        shared.close_if_unread();
    }

    pub(super) fn read(&self) -> Result<Reader> {
        match self.lock().unclaimed.pop_front() {
            Some(index) => Ok(Reader { tee: self.clone(), index }),
            None => not_impl_err!("an input cannot be read again by the recursive part of a query"),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn poll_next(&mut self, reader: usize, context: &mut Context<'_>) -> Poll<Option<Result<RecordBatch>>> {
        match self.backlogs[reader].pop() {
            Ok(Some(batch)) => return Poll::Ready(Some(Ok(batch))),
            Ok(None) => {}
            Err(error) => return Poll::Ready(Some(Err(error))),
        }
        let Some(source) = &mut self.source else {
            return Poll::Ready(self.failure.clone().map(|failure| Err(DataFusionError::External(Box::new(failure)))));
        };
        let Poll::Ready(next) = source.poll_next_unpin(context) else {
            // The source wakes only who asked last.
            self.waiting.push(context.waker().clone());
            return Poll::Pending;
        };
        self.wake_all();
        match next {
            Some(Ok(batch)) => {
                let batch = new_batch(&self.schema, batch.columns().to_vec(), batch.num_rows())?;
                let others = self.backlogs.iter_mut().enumerate().filter(|(index, _)| *index != reader);
                for (_, backlog) in others {
                    backlog.push(&batch, &self.schema)?;
                }
                Poll::Ready(Some(Ok(batch)))
            }
            Some(Err(failure)) => {
                self.source = None;
                self.failure = Some(failure.clone());
                Poll::Ready(Some(Err(DataFusionError::External(Box::new(failure)))))
            }
            None => {
                self.source = None;
                Poll::Ready(None)
            }
        }
    }

    fn wake_all(&mut self) {
        self.waiting.drain(..).for_each(Waker::wake);
    }

    fn close_if_unread(&mut self) {
        if self.backlogs.iter().all(|backlog| backlog.closed) {
            self.source = None;
        }
    }
}

/// One place where the query reads the input.
pub(super) struct Reader {
    tee: Tee,
    index: usize,
}

impl Stream for Reader {
    type Item = Result<RecordBatch>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.tee.lock().poll_next(self.index, context)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut shared = self.tee.lock();
        shared.backlogs[self.index].close();
        // This one may have been the reader that the source would have woken.
        shared.wake_all();
        shared.close_if_unread();
    }
}

/// What others have read and this reader has not.
struct Backlog {
    closed: bool,
    kept: VecDeque<Kept>,
    reservation: MemoryReservation,
    disk: Arc<DiskManager>,
}

enum Kept {
    InMemory { batch: RecordBatch, bytes: usize },
    Spilled(Arc<dyn SpillFile>),
    Reading { reader: Box<StreamReader<BufReader<File>>>, _file: Arc<dyn SpillFile> },
}

impl Backlog {
    fn new(runtime: &Arc<RuntimeEnv>) -> Self {
        Self {
            closed: false,
            kept: VecDeque::new(),
            reservation: MemoryConsumer::new("self-join").with_can_spill(true).register(&runtime.memory_pool),
            disk: Arc::clone(&runtime.disk_manager),
        }
    }

    fn push(&mut self, batch: &RecordBatch, schema: &SchemaRef) -> Result<()> {
        if self.closed {
            return Ok(());
        }
        let bytes = batch.get_array_memory_size();
        if self.reservation.try_grow(bytes).is_ok() {
            self.kept.push_back(Kept::InMemory { batch: batch.clone(), bytes });
            return Ok(());
        }
        self.spill(batch, schema)
    }

    /// Moves what is in memory, and `last`, into one file. Files stay in front of it, as only the back is in memory.
    fn spill(&mut self, last: &RecordBatch, schema: &SchemaRef) -> Result<()> {
        let file = self.disk.create_tmp_file("an input that is read twice")?;
        let mut writer = StreamWriter::try_new(file.open_writer()?, schema)?;
        let in_memory = self.kept.iter().position(|kept| matches!(kept, Kept::InMemory { .. }));
        for kept in self.kept.drain(in_memory.unwrap_or(self.kept.len())..) {
            if let Kept::InMemory { batch, .. } = kept {
                writer.write(&batch)?;
            }
        }
        writer.write(last)?;
        writer.finish()?;
        writer.into_inner()?.finish()?;
        self.reservation.free();
        self.kept.push_back(Kept::Spilled(file));
        Ok(())
    }

    fn pop(&mut self) -> Result<Option<RecordBatch>> {
        while let Some(kept) = self.kept.pop_front() {
            match kept {
                Kept::InMemory { batch, bytes } => {
                    self.reservation.shrink(bytes);
                    return Ok(Some(batch));
                }
                Kept::Spilled(file) => self.kept.push_front(open(file)?),
                Kept::Reading { mut reader, _file } => {
                    if let Some(batch) = reader.next() {
                        self.kept.push_front(Kept::Reading { reader, _file });
                        return Ok(Some(batch?));
                    }
                }
            }
        }
        Ok(None)
    }

    fn close(&mut self) {
        self.closed = true;
        self.kept.clear();
        self.reservation.free();
    }
}

fn open(file: Arc<dyn SpillFile>) -> Result<Kept> {
    let Some(path) = file.path() else { return internal_err!("spill files are local files") };
    let reader = StreamReader::try_new(BufReader::new(File::open(path)?), None)?;
    Ok(Kept::Reading { reader: Box::new(reader), _file: file })
}
