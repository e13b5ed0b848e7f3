//! [`Feed`] and [`Input`]: the two ends of a bounded channel of batches into a query.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use futures::Stream;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::error::SqlError;

/// Batches that wait in a feed: one that the query takes next, and one so that it need not wait for the feeder's wake-up.
const CAPACITY: usize = 2;

/// Told whenever a [`Feed`] may have changed: a batch was taken, or the query closed the input. Called on the query's
/// thread; must return at once.
pub type OnChange = Arc<dyn Fn() + Send + Sync>;

/// The feeder's end. Never blocks.
///
/// A feed that is dropped without [`end`](Self::end) makes the query fail with [`super::SqlErrorKind::Cancelled`], so that
/// a result never looks complete when its input was not.
#[derive(Debug)]
pub struct Feed {
    sender: mpsc::Sender<RecordBatch>,
    ended: Arc<AtomicBool>,
}

/// Why a batch was not taken.
#[derive(Debug)]
pub enum Refused {
    /// The feed is full: try again after the next call of [`OnChange`].
    Full(RecordBatch),
    /// The query wants no more of this input.
    Closed,
}

impl Feed {
    /// Hands a batch over. Its columns must be those of the input's schema.
    pub fn try_feed(&self, batch: RecordBatch) -> Result<(), Refused> {
        self.sender.try_send(batch).map_err(|error| match error {
            TrySendError::Full(batch) => Refused::Full(batch),
            TrySendError::Closed(_) => Refused::Closed,
        })
    }

    /// Whether [`try_feed`](Self::try_feed) would take a batch now.
    pub fn has_room(&self) -> bool {
        !self.sender.is_closed() && self.sender.capacity() > 0
    }

    /// Whether the query wants no more of this input: it has reached a `LIMIT`, failed or ended.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Says that there are no more batches. Those that were fed are still read.
    pub fn end(self) {
        self.ended.store(true, Ordering::Release);
    }
}

/// The query's end: one table of a [`super::StreamQuery`].
pub struct Input {
    pub(super) table: String,
    pub(super) schema: SchemaRef,
    pub(super) batches: Batches,
}

impl Input {
    /// Makes both ends of the input that the query knows as `table`.
    pub fn new(table: impl Into<String>, schema: SchemaRef, on_change: OnChange) -> (Feed, Self) {
        let (sender, receiver) = mpsc::channel(CAPACITY);
        let ended = Arc::new(AtomicBool::new(false));
        let batches = Batches { receiver: Some(receiver), ended: Arc::clone(&ended), on_change };
        (Feed { sender, ended }, Self { table: table.into(), schema, batches })
    }
}

impl fmt::Debug for Input {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Input")
            .field("table", &self.table)
            .field("schema", &self.schema)
            .finish_non_exhaustive()
    }
}

/// The batches of an input; ends after [`Feed::end`], fails when the feed was dropped without it.
pub(super) struct Batches {
    /// `None` once the end was reached.
    receiver: Option<mpsc::Receiver<RecordBatch>>,
    ended: Arc<AtomicBool>,
    on_change: OnChange,
}

impl Stream for Batches {
    type Item = Result<RecordBatch, SqlError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(receiver) = &mut self.receiver else { return Poll::Ready(None) };
        match receiver.poll_recv(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(batch)) => {
                (self.on_change)();
                Poll::Ready(Some(Ok(batch)))
            }
            Poll::Ready(None) => {
                self.receiver = None;
                let complete = self.ended.load(Ordering::Acquire);
                Poll::Ready((!complete).then(|| Err(SqlError::cancelled())))
            }
        }
    }
}

impl Drop for Batches {
    /// Closes the channel first, so that the feeder sees it closed when told.
    fn drop(&mut self) {
        if self.receiver.take().is_some() {
            (self.on_change)();
        }
    }
}
