//! [`Partial`]: what an earlier run made of some rows of a batch, until it is put together with what comes of the others.
//!
//! Only where it is known of every row which input row it comes from, as it is of functions and commands that are given one row at a time: what
//! others give for a row may depend on all rows of its batch.

use std::collections::HashMap;
use std::ops::Range;

use arrow::compute::interleave_record_batch;
use arrow::error::ArrowError;

use super::record::Record;
use crate::batch::{Batch, BatchError, Columns, ConformError, FileId, Origin, Source};
use crate::plan::Port;
use crate::run::scheduler::Reject;

#[derive(Debug, thiserror::Error)]
pub enum PartialError {
    #[error("it is not known which rows of the result come from which rows")]
    Places,
    #[error("the result has other columns than what was kept: {0}")]
    Columns(#[from] ConformError),
    #[error(transparent)]
    Batch(#[from] BatchError),
    #[error("{0}")]
    Arrow(#[from] ArrowError),
}

#[derive(Debug)]
pub struct Partial {
    outputs: Vec<Given>,
    /// Updates of the run's state that came with it.
    state: Vec<Batch>,
    /// The rows of the batch that are worked on again, ascending.
    left: Vec<u32>,
    /// The rows of the batch by where they come from.
    rows: HashMap<(FileId, u64), u32>,
    origin: Origin,
}

/// What was given on a port, and which row of the batch each row comes from.
#[derive(Debug)]
struct Given {
    port: String,
    batch: Batch,
    from: Vec<u32>,
}

impl Partial {
    /// What a record has of a batch, and the rows that it has not, as they were rejected. `None` if the two could not be put together.
    ///
    /// # Errors
    /// If the batch was spilled and cannot be read back.
    pub fn of(record: Record, batch: &Batch) -> Result<Option<(Self, Batch)>, BatchError> {
        let ranges: Vec<Range<usize>> =
            record.rejects.iter().map(|Reject { rows, .. }| rows.start as usize..rows.end as usize).collect();
        let left: Vec<u32> = ranges.iter().cloned().flatten().filter_map(|row| u32::try_from(row).ok()).collect();
        let Some(rows) = rows_by_place(batch.origin()) else { return Ok(None) };
        if left.len() == batch.rows() {
            return Ok(None);
        }
        let (state, outputs) = split_state(record.outputs);
        let given = outputs.into_iter().map(|(port, batch)| {
            let from = from(batch.origin(), &rows)?;
            Some(Given { port, batch, from })
        });
        let Some(outputs) = given.collect::<Option<Vec<_>>>() else { return Ok(None) };
        let is_first = |(at, given): (usize, &Given)| outputs[..at].iter().all(|other| other.port != given.port);
        if !outputs.iter().enumerate().all(is_first) {
            return Ok(None);
        }
        let others = batch.select(&ranges)?;
        Ok(Some((Self { outputs, state, left, rows, origin: batch.origin().clone() }, others)))
    }

    /// Bytes of what was made.
    pub fn bytes(&self) -> u64 {
        self.outputs.iter().map(|given| &given.batch).chain(&self.state).map(Batch::bytes).sum()
    }

    /// The origin of the whole batch.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// What comes of the whole batch: all rows in the order of the input. `rejects` are counted among the rows that were left.
    ///
    /// # Errors
    /// If what was given for the rows that were left does not fit.
    pub fn put_together(self, given: Vec<(String, Batch)>, rejects: Vec<Reject>) -> Result<Record, PartialError> {
        let (state, given) = split_state(given);
        let state = self.state.into_iter().chain(state).map(|batch| Ok((Port::STATE.to_owned(), batch)));
        let given = given.into_iter().map(|(port, batch)| {
            let from = from(batch.origin(), &self.rows).ok_or(PartialError::Places)?;
            Ok::<_, PartialError>(Given { port, batch, from })
        });
        let mut ports: Vec<(Given, Option<Given>)> = self.outputs.into_iter().map(|before| (before, None)).collect();
        for now in given.collect::<Result<Vec<_>, _>>()? {
            match ports.iter_mut().find(|(before, _)| before.port == now.port) {
                Some((_, place)) if place.is_none() => *place = Some(now),
                Some(_) => return Err(PartialError::Places),
                None => ports.push((now, None)),
            }
        }
        let outputs = ports.into_iter().map(|(one, other)| match other {
            None => Ok((one.port, one.batch)),
            Some(other) => merge(one, other, &self.origin),
        });
        let reject = |Reject { rows, failure }: Reject| {
            let left = &self.left[rows.start as usize..rows.end as usize];
            left.iter().map(move |row| Reject { rows: u64::from(*row)..u64::from(*row) + 1, failure: failure.clone() })
        };
        Ok(Record {
            outputs: outputs.chain(state).collect::<Result<_, PartialError>>()?,
            rejects: rejects.into_iter().flat_map(|rejects| reject(rejects).collect::<Vec<_>>()).collect(),
        })
    }
}

/// Updates of the run's state, and the other outputs.
fn split_state(outputs: Vec<(String, Batch)>) -> (Vec<Batch>, Vec<(String, Batch)>) {
    let (state, others): (Vec<_>, Vec<_>) = outputs.into_iter().partition(|(port, _)| port == Port::STATE);
    (state.into_iter().map(|(_, batch)| batch).collect(), others)
}

/// The rows of both, in the order of the rows that they come from.
fn merge(one: Given, other: Given, input: &Origin) -> Result<(String, Batch), PartialError> {
    let mut columns = Columns::from_first();
    let both = [columns.conform(one.batch.records()?)?, columns.conform(other.batch.records()?)?];
    // A column that had no value in the first may have found its type in the second.
    let both = [columns.conform(both[0].clone())?, both[1].clone()];
    let mut order: Vec<(u32, usize, usize)> = Vec::with_capacity(one.from.len() + other.from.len());
    for (which, given) in [&one, &other].into_iter().enumerate() {
        order.extend(given.from.iter().enumerate().map(|(at, from)| (*from, which, at)));
    }
    // Several rows of one row stay in their order.
    order.sort_by_key(|(from, ..)| *from);
    let places: Vec<(usize, usize)> = order.iter().map(|(_, which, at)| (*which, *at)).collect();
    let records = interleave_record_batch(&[&both[0], &both[1]], &places)?;
    let origin = input.take(order.iter().map(|(from, ..)| *from as usize));
    Ok((one.port, Batch::new(records, origin)))
}

/// `None` if not every row has a place of its own.
fn rows_by_place(origin: &Origin) -> Option<HashMap<(FileId, u64), u32>> {
    let mut rows = HashMap::with_capacity(origin.len());
    for (row, place) in exact_places(origin)?.into_iter().enumerate() {
        if rows.insert(place, u32::try_from(row).ok()?).is_some() {
            return None;
        }
    }
    Some(rows)
}

/// The row that each comes from; `None` if that is not known of one of them.
fn from(origin: &Origin, rows: &HashMap<(FileId, u64), u32>) -> Option<Vec<u32>> {
    exact_places(origin)?.iter().map(|place| rows.get(place).copied()).collect()
}

fn exact_places(origin: &Origin) -> Option<Vec<(FileId, u64)>> {
    let mut places = Vec::with_capacity(origin.len());
    for (rows, source) in origin.parts() {
        match source {
            Source::Consecutive { file, first } => places.extend((first..first + rows as u64).map(|row| (file, row))),
            Source::Listed { file, rows } => places.extend(rows.iter().map(|row| (file, *row))),
            Source::Within { file, first, last } if first == last => {
                places.extend(std::iter::repeat_n((file, first), rows));
            }
            Source::Within { .. } | Source::Unknown => return None,
        }
    }
    Some(places)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, AsArray, Int64Array, NullArray, RecordBatch};
    use arrow::datatypes::Int64Type;

    use super::*;
    use crate::plan::Verdict;
    use crate::run::scheduler::{Failure, Scope};

    fn failure() -> Failure {
        Failure { verdict: Verdict::Exception, scope: Scope::Rows, message: "no".to_owned(), traceback: String::new() }
    }

    fn batch(values: &[i64], origin: Origin) -> Batch {
        let column: ArrayRef = Arc::new(Int64Array::from(values.to_vec()));
        Batch::new(RecordBatch::try_from_iter_with_nullable([("n", column, true)]).expect("a column"), origin)
    }

    fn values(batch: &Batch) -> Vec<i64> {
        batch.records().expect("in memory").column(0).as_primitive::<Int64Type>().values().to_vec()
    }

    fn reject(rows: Range<u64>) -> Reject {
        Reject { rows, failure: failure() }
    }

    /// Ten rows of two files. Row 1 gave two rows, row 4 none; rows 2, 3 and 8 were rejected.
    fn partial() -> (Partial, Batch, Origin) {
        let mut origin = Origin::consecutive(FileId(0), 11, 5);
        origin.extend(Origin::consecutive(FileId(1), 1, 5));
        let whole = batch(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9], origin.clone());
        let given = batch(&[0, 10, 11, 50, 60, 70, 90], origin.take([0, 1, 1, 5, 6, 7, 9]));
        let record = Record { outputs: vec![("out".to_owned(), given)], rejects: vec![reject(2..4), reject(8..9)] };
        let (partial, left) = Partial::of(record, &whole).expect("in memory").expect("all is exact");
        assert_eq!(values(&left), [2, 3, 8]);
        (partial, left, origin)
    }

    #[test]
    fn what_comes_of_all_is_in_the_order_of_the_input() {
        let (partial, left, origin) = partial();
        // Row 2 is rejected again, row 3 gives one row, row 8 gives two and one on another port.
        let main = batch(&[30, 80, 81], left.origin().take([1, 2, 2]));
        let other = batch(&[88], left.origin().take([2]));
        let given = vec![("out".to_owned(), main), ("other".to_owned(), other)];
        let record = partial.put_together(given, vec![reject(0..1)]).expect("it fits");
        assert_eq!(record.rejects, [reject(2..3)]);
        let ports: Vec<(&str, Vec<i64>)> =
            record.outputs.iter().map(|(port, batch)| (port.as_str(), values(batch))).collect();
        assert_eq!(ports, [("out", vec![0, 10, 11, 30, 50, 60, 70, 80, 81, 90]), ("other", vec![88])]);
        assert_eq!(*record.outputs[0].1.origin(), origin.take([0, 1, 1, 3, 5, 6, 7, 8, 8, 9]));
    }

    #[test]
    fn a_column_without_values_takes_the_type_of_those_that_come() {
        let (partial, left, _) = partial();
        let nulls: ArrayRef = Arc::new(NullArray::new(1));
        let nulls = RecordBatch::try_from_iter_with_nullable([("n", nulls, true)]).expect("a column");
        let nulls = Batch::new(nulls, left.origin().take([1]));
        let record = partial.put_together(vec![("out".to_owned(), nulls)], Vec::new()).expect("it fits");
        assert_eq!(record.outputs[0].1.records().expect("in memory").column(0).null_count(), 1);
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let (partial, left, _) = self::partial();
        let column: ArrayRef = Arc::new(Int64Array::from(vec![1]));
        let records = RecordBatch::try_from_iter_with_nullable([("m", column, true)]).expect("a column");
        let other = Batch::new(records, left.origin().take([0]));
        assert!(partial.put_together(vec![("out".to_owned(), other)], Vec::new()).is_err());
        let (partial, left, _) = self::partial();
        let blurred = batch(&[1, 2, 3], left.origin().blur(3));
        assert!(matches!(
            partial.put_together(vec![("out".to_owned(), blurred)], Vec::new()),
            Err(PartialError::Places)
        ));
    }

    #[test]
    fn rows_without_a_place_of_their_own_cannot_be_told_apart() {
        let twice = Origin::consecutive(FileId(0), 1, 3).take([0, 1, 1]);
        for origin in [twice, Origin::unknown(3), Origin::consecutive(FileId(0), 1, 5).blur(3)] {
            let record = Record { outputs: Vec::new(), rejects: vec![reject(0..1)] };
            assert!(Partial::of(record, &batch(&[1, 2, 3], origin)).expect("in memory").is_none());
        }
    }
}
