//! [`QueryInput`]: one input of a query over whole streams, from its first batch to the query's feed.

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;

use super::mailbox::{Mailbox, Message};
use super::resident::failure;
use crate::batch::{Columns, value_bytes};
use crate::plan::{StageId, Verdict};
use crate::run::scheduler::{Failure, Scope};
use crate::sql::{self, Feed};

/// Bytes of values that an input of a query may hold back until all of its columns have a type.
const HELD_BYTES: usize = 64 << 20;

pub(super) struct QueryInput {
    pub(super) table: String,
    /// The columns that the query is planned with, once they are known.
    pub(super) schema: Option<SchemaRef>,
    /// The columns so far.
    pub(super) columns: Columns,
    /// Batches that came before the query could be started.
    held: Vec<RecordBatch>,
    held_bytes: usize,
    pub(super) feed: Option<Feed>,
    /// Rows that were fed and are not acknowledged, as the feed is full.
    waiting: Option<u64>,
    pub(super) ended: bool,
}

impl QueryInput {
    pub(super) fn new(table: String) -> Self {
        Self {
            table,
            schema: None,
            columns: Columns::from_first(),
            held: Vec::new(),
            held_bytes: 0,
            feed: None,
            waiting: None,
            ended: false,
        }
    }

    /// Keeps a batch until the query is started. The types of its input must be known by then, and a column has none before
    /// its first value, so there may have to be more batches, but not without bound.
    pub(super) fn hold(
        &mut self,
        records: RecordBatch,
        stage: StageId,
        input: usize,
        mailbox: &Mailbox,
    ) -> Result<(), Failure> {
        let rows = records.num_rows() as u64;
        let records = self.columns.conform(records).map_err(|error| self.misfit(&error))?;
        self.held_bytes += value_bytes(&records, 0..records.num_rows());
        self.held.push(records);
        if self.columns.is_settled() || self.held_bytes > HELD_BYTES {
            self.schema = self.columns.settled();
            self.waiting = Some(rows);
        } else {
            mailbox.send(Message::Taken { stage, input, rows });
        }
        Ok(())
    }

    /// Hands what was held back to the query that has just been started, as one batch.
    pub(super) fn pass_held(&mut self, stage: StageId, input: usize, mailbox: &Mailbox) -> Result<(), Failure> {
        let held = std::mem::take(&mut self.held);
        let Some(schema) = self.schema.clone().filter(|_| !held.is_empty()) else { return Ok(()) };
        let conformed = held.into_iter().map(|records| self.columns.conform(records)).collect::<Result<Vec<_>, _>>();
        let conformed = conformed.map_err(|error| self.misfit(&error))?;
        let records = match conformed.as_slice() {
            [one] => one.clone(),
            several => concat_batches(&schema, several).map_err(|error| self.misfit(&error))?,
        };
        self.offer(records, stage, input, mailbox);
        Ok(())
    }

    /// Hands a batch to the query. It is acknowledged when there is room for the next.
    pub(super) fn pass(
        &mut self,
        records: RecordBatch,
        stage: StageId,
        input: usize,
        mailbox: &Mailbox,
    ) -> Result<(), Failure> {
        self.waiting = Some(records.num_rows() as u64);
        let records = self.columns.conform(records).map_err(|error| self.misfit(&error))?;
        if self.schema.as_ref() != Some(records.schema_ref()) {
            let message = "a column has its first value only now, too late to plan the query with its type";
            return Err(self.misfit(&message));
        }
        self.offer(records, stage, input, mailbox);
        Ok(())
    }

    fn offer(&mut self, records: RecordBatch, stage: StageId, input: usize, mailbox: &Mailbox) {
        let Some(feed) = &self.feed else { return };
        match feed.try_feed(records) {
            Ok(()) | Err(sql::Refused::Closed) => self.acknowledge(stage, input, mailbox),
            Err(sql::Refused::Full(_)) => unreachable!("a batch is fed only after there was room for it"),
        }
    }

    fn misfit(&self, error: &dyn std::fmt::Display) -> Failure {
        let message = format!("in `{}`: {error}; declare it with `returns:` or `schema:`", self.table);
        failure(Scope::Opening, Verdict::Schema, message)
    }

    pub(super) fn acknowledge(&mut self, stage: StageId, input: usize, mailbox: &Mailbox) {
        let Some(feed) = &self.feed else { return };
        if feed.is_closed() {
            self.feed = None;
            mailbox.send(Message::InputClosed { stage, input });
        } else if feed.has_room()
            && let Some(rows) = self.waiting.take()
        {
            mailbox.send(Message::Taken { stage, input, rows });
        }
    }
}
