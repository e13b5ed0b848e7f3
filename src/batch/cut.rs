//! [`Cutter`]: cuts a stream of batches again, by a rule that depends on the rows alone.

use std::num::{NonZeroU32, NonZeroU64};

use super::origin::Origin;
use super::rows::Rows;

/// Most bytes of a batch: no more than a column of text can hold.
const MOST_BYTES: usize = i32::MAX as usize;

/// Cuts batches so that each has at most `rows` rows and `bytes` bytes of values ([`super::value_bytes`]), whichever comes first.
/// A row that is larger than `bytes` stands alone. Where the columns change, a batch ends too.
///
/// A cut within a batch is a slice that copies nothing; rows are copied only where a batch of columns is put together from several.
#[derive(Debug)]
pub struct Cutter {
    rows: usize,
    bytes: usize,
    held: Vec<(Rows, Origin)>,
    held_rows: usize,
    held_bytes: usize,
    at_files: bool,
}

impl Cutter {
    pub fn new(rows: NonZeroU32, bytes: NonZeroU64) -> Self {
        let bytes = usize::try_from(bytes.get()).map_or(MOST_BYTES, |bytes| bytes.min(MOST_BYTES));
        Self { rows: rows.get() as usize, bytes, held: Vec::new(), held_rows: 0, held_bytes: 0, at_files: false }
    }

    /// Where rows of another file begin, a batch ends, too. The rows that are pushed together are all of one file.
    #[must_use]
    pub fn at_files(mut self, at_files: bool) -> Self {
        self.at_files = at_files;
        self
    }

    /// Whether the rows that follow are a batch just as they are. Then [`Cutter::push`] would give them back, and need not be
    /// asked: the batch may stay where it lies.
    pub fn passes(&self, batch: &Rows) -> bool {
        self.held.is_empty() && batch.len() == self.rows && batch.value_bytes(0..batch.len()) <= self.bytes
    }

    /// Bytes of the rows that wait for others.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Takes the rows that follow and returns the batches that are complete. An empty batch leaves no trace.
    pub fn push(&mut self, batch: impl Into<Rows>, origin: Origin) -> Vec<(Rows, Origin)> {
        let batch = batch.into();
        debug_assert_eq!(batch.len(), origin.len(), "every row has an origin");
        let mut complete = Vec::new();
        let file = |origin: &Origin| origin.place(0).map(|place| place.file);
        let begins_anew = |(held, from): &(Rows, Origin)| {
            held.schema() != batch.schema() || self.at_files && file(from) != file(&origin)
        };
        if !batch.is_empty() && self.held.last().is_some_and(begins_anew) {
            complete.extend(self.finish());
        }
        let mut start = 0;
        while start < batch.len() {
            let taken = self.fitting(&batch, start);
            if taken > 0 {
                let range = start..start + taken;
                self.hold(batch.slice(range.clone()), origin.slice(range));
                start += taken;
            }
            if start < batch.len() || self.held_rows == self.rows {
                complete.extend(self.finish());
            }
        }
        complete
    }

    /// Returns what is held as the last batch, if there is anything.
    pub fn finish(&mut self) -> Option<(Rows, Origin)> {
        self.held_rows = 0;
        self.held_bytes = 0;
        let mut held = std::mem::take(&mut self.held);
        if held.len() <= 1 {
            return held.pop();
        }
        let schema = held[0].0.schema();
        let mut origin = Origin::default();
        let mut pieces = Vec::with_capacity(held.len());
        for (piece, from) in held {
            pieces.push(piece);
            origin.extend(from);
        }
        Some((Rows::join(&schema, pieces).expect("held batches have one schema, and a bound"), origin))
    }

    /// Number of rows from `start` on that still fit beside what is held; at least 1 if nothing is held.
    fn fitting(&self, batch: &Rows, start: usize) -> usize {
        let most = (batch.len() - start).min(self.rows - self.held_rows);
        let fits = batch.fitting(start..start + most, self.bytes.saturating_sub(self.held_bytes));
        if self.held.is_empty() { fits.max(1) } else { fits }
    }

    fn hold(&mut self, batch: Rows, origin: Origin) {
        self.held_rows += batch.len();
        self.held_bytes += batch.value_bytes(0..batch.len());
        self.held.push((batch, origin));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::RecordBatch;
    use arrow::array::{
        ArrayRef, AsArray, DictionaryArray, Int64Array, ListArray, NullArray, StringArray, StructArray,
    };
    use arrow::datatypes::{DataType, Field, Int32Type, Int64Type};
    use proptest::prelude::*;

    use super::super::origin::FileId;
    use super::super::text::Text;
    use super::super::value_bytes;
    use super::*;

    fn cutter(rows: u32, bytes: u64) -> Cutter {
        Cutter::new(rows.try_into().expect("not zero"), bytes.try_into().expect("not zero"))
    }

    fn table(rows: usize) -> RecordBatch {
        let text = |row: usize| (!row.is_multiple_of(5)).then(|| "x".repeat(row * 31 % 17));
        let strings = StringArray::from_iter((0..rows).map(text));
        let dictionary: DictionaryArray<Int32Type> = strings.iter().collect();
        let lists = (0..rows).map(|row| (row % 3 != 0).then(|| vec![Some(1); row % 4]));
        let fields = vec![Field::new("s", DataType::Utf8, true)];
        let valid: Vec<_> = (0..rows).map(|row| row % 7 != 0).collect();
        let structs = StructArray::new(fields.into(), vec![Arc::new(strings.clone())], Some(valid.into()));
        let columns: [(&str, ArrayRef); 5] = [
            ("n", Arc::new(Int64Array::from_iter_values(0..rows as i64))),
            ("s", Arc::new(strings)),
            ("d", Arc::new(dictionary)),
            ("l", Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(lists))),
            ("t", Arc::new(structs)),
        ];
        RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true)))
            .expect("one length")
    }

    fn cut(cutter: &mut Cutter, table: &RecordBatch, at: &[usize]) -> Vec<(RecordBatch, Origin)> {
        let mut found = Vec::new();
        let mut start = 0;
        for rows in at.iter().copied().chain([usize::MAX]) {
            let rows = rows.min(table.num_rows() - start);
            let origin = Origin::consecutive(FileId(0), 1 + start as u64, rows);
            found.extend(cutter.push(table.slice(start, rows), origin));
            start += rows;
        }
        found.extend(cutter.finish());
        found.into_iter().map(|(rows, origin)| (rows.records().expect("columns"), origin)).collect()
    }

    proptest! {
        #[test]
        fn cuts_depend_on_the_rows_alone(
            at in prop::collection::vec(0_usize..60, 0..8), rows in 1_u32..50, bytes in 1_u64..2000,
        ) {
            let table = table(120);
            let whole = cut(&mut cutter(rows, bytes), &table, &[]);
            let pieces = cut(&mut cutter(rows, bytes), &table, &at);
            prop_assert_eq!(&whole, &pieces);
            let mut next = 0;
            for (batch, origin) in whole {
                prop_assert!(batch.num_rows() <= rows as usize);
                prop_assert!(batch.num_rows() == 1 || value_bytes(&batch, 0..batch.num_rows()) as u64 <= bytes);
                prop_assert_eq!(origin, Origin::consecutive(FileId(0), next + 1, batch.num_rows()));
                prop_assert_eq!(batch.column(0).as_primitive::<Int64Type>().value(0) as u64, next);
                next += batch.num_rows() as u64;
            }
            prop_assert_eq!(next, 120);
        }

        /// A line is a row whichever way it lies.
        #[test]
        fn lines_are_cut_as_columns_are(
            lines in prop::collection::vec("[a\u{e9}]{0,9}", 1..60), at in prop::collection::vec(0_usize..20, 1..8),
            rows in 1_u32..30, bytes in 1_u64..200, front in (1_usize..30, 1_usize..100), range in (0_usize..60, 0_usize..60),
        ) {
            let mut text = Text::default();
            let mut rest = &lines[..];
            for at in at.into_iter().chain([usize::MAX]) {
                let (piece, after) = rest.split_at(at.min(rest.len()));
                text.push(piece.iter().fold(String::new(), |text, line| text + line + "\n").into()).unwrap();
                rest = after;
            }
            let records = text.records().unwrap();
            prop_assert_eq!(records.column(0).as_string::<i32>().iter().flatten().collect::<Vec<_>>(), &lines[..]);
            let whole = Rows::from(records.clone());
            let range = range.0.min(lines.len())..(range.0 + range.1).min(lines.len());
            let as_text = Rows::from(text.clone());
            prop_assert_eq!(as_text.value_bytes(range.clone()), whole.value_bytes(range.clone()));
            prop_assert_eq!(as_text.fitting(range.clone(), bytes as usize), whole.fitting(range, bytes as usize));

            let mut cutter_of_text = cutter(rows, bytes);
            let origin = Origin::consecutive(FileId(0), 1, lines.len());
            let mut found = cutter_of_text.push(text.slice(0..lines.len() / 2), origin.slice(0..lines.len() / 2));
            found.extend(cutter_of_text.push(
                text.slice(lines.len() / 2..lines.len()), origin.slice(lines.len() / 2..lines.len()),
            ));
            found.extend(cutter_of_text.finish());
            prop_assert!(found.iter().all(|(rows, _)| matches!(rows, Rows::Lines(_))));
            let found: Vec<_> = found.into_iter().map(|(rows, origin)| (rows.records().unwrap(), origin)).collect();
            prop_assert_eq!(found, cut(&mut cutter(rows, bytes), &records, &[]));

            // A chunk is complete with the line that reaches a bound.
            let (mut count, mut length) = (0, 0);
            while count < lines.len() && count < front.0 && length < front.1 {
                length += lines[count].len();
                count += 1;
            }
            let is_complete = count == front.0 || length >= front.1;
            let taken = text.take_front(front.0, front.1);
            prop_assert_eq!(taken.map(|taken| taken.lines()), is_complete.then_some(count));
            prop_assert_eq!(text.lines(), if is_complete { lines.len() - count } else { lines.len() });
        }

        #[test]
        fn value_bytes_add_up(middle in 0_usize..=120, start in 0_usize..60) {
            let table = table(120);
            let rows = |range: std::ops::Range<usize>| value_bytes(&table, range);
            prop_assert_eq!(rows(0..120), rows(0..middle) + rows(middle..120));
            let slice = table.slice(start, 60);
            prop_assert_eq!(value_bytes(&slice, 0..60), rows(start..start + 60));
        }
    }

    #[test]
    fn a_batch_of_the_right_size_is_not_copied() {
        let table = table(20);
        let found = cut(&mut cutter(10, 1 << 20), &table, &[]);
        let addresses = |batch: &RecordBatch| batch.column(0).as_primitive::<Int64Type>().values().as_ptr();
        assert_eq!(addresses(&found[1].0), addresses(&table.slice(10, 10)));
    }

    #[test]
    fn a_batch_ends_where_a_column_gets_its_type() {
        let batch =
            |column: ArrayRef| RecordBatch::try_from_iter_with_nullable([("a", column, true)]).expect("one column");
        let mut cutter = cutter(10, 1 << 20);
        assert!(cutter.push(batch(Arc::new(NullArray::new(2))), Origin::unknown(2)).is_empty());
        let complete = cutter.push(batch(Arc::new(Int64Array::from(vec![1]))), Origin::unknown(1));
        assert_eq!(complete.iter().map(|(batch, _)| batch.len()).collect::<Vec<_>>(), [2]);
        assert_eq!(cutter.finish().map(|(batch, _)| batch.len()), Some(1));
    }
}
