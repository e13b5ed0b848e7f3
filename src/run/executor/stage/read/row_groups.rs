//! [`RowGroups`]: which row groups of a Parquet file are read.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::{DataType, FieldRef, SchemaRef};
use parquet::arrow::arrow_reader::ArrowReaderMetadata;
use parquet::arrow::arrow_reader::statistics::StatisticsConverter;
use parquet::file::metadata::RowGroupMetaData;

use crate::batch::{FileId, Origin};
use crate::sql::{Bounds, Parts, Pruning, Query, Settings};

/// A query that reads a source and nothing else.
#[derive(Clone, Debug)]
pub struct Consumer {
    pub query: Query,
    /// The name that the query has for the source.
    pub table: String,
    pub settings: Settings,
}

/// What the consumers ask of rows, planned for the columns of a source.
pub(super) struct Conditions {
    columns: SchemaRef,
    prunings: Vec<Pruning>,
}

impl Conditions {
    /// `None` if one of the consumers may need any row, or there are none.
    pub(super) fn plan(consumers: &[Consumer], columns: &SchemaRef) -> Option<Self> {
        let plan = |consumer: &Consumer| Pruning::plan(&consumer.query, &consumer.table, columns, &consumer.settings);
        let prunings = consumers.iter().map(plan).collect::<Option<Vec<_>>>()?;
        (!prunings.is_empty()).then(|| Self { columns: Arc::clone(columns), prunings })
    }

    /// Whether a consumer may need a row of each row group. `constants` are columns that are the same in all rows of the file.
    fn keep(&self, file: &ArrowReaderMetadata, constants: &[(FieldRef, ArrayRef)]) -> Vec<bool> {
        let rows = file.metadata().row_groups().iter().map(rows_of).collect::<Vec<_>>();
        let bounds = |field: &Arc<arrow::datatypes::Field>| {
            Some((field.name().clone(), bounds(file, field.name(), field.data_type())?))
        };
        let of_file = self.columns.fields().iter().filter_map(bounds);
        let of_all_rows =
            constants.iter().filter_map(|(field, value)| Some((field.name().clone(), constant(value, &rows)?)));
        let columns = of_file.chain(of_all_rows).collect();
        let parts = Parts { rows: rows.into(), columns };
        let mut kept = vec![false; file.metadata().num_row_groups()];
        for pruning in &self.prunings {
            kept.iter_mut().zip(pruning.keeps(&parts)).for_each(|(kept, needed)| *kept |= needed);
        }
        kept
    }
}

/// The bounds of a value that all rows of row groups with so many rows have.
fn constant(value: &ArrayRef, rows: &[u64]) -> Option<Bounds> {
    // As below.
    if value.data_type().is_floating() {
        return None;
    }
    let values = take(value, &UInt32Array::from(vec![0; rows.len()]), None).ok()?;
    let nulls = if value.is_null(0) { rows.to_vec() } else { vec![0; rows.len()] };
    Some(Bounds { least: Arc::clone(&values), greatest: values, nulls: nulls.into() })
}

/// The bounds of a column, where they can be trusted and are of the type for which queries were planned.
///
/// Those of floating-point numbers cannot: a NaN is not in them, and in queries it is larger than all numbers, or smaller. Neither
/// can those of old writers, who compared text in other ways.
fn bounds(file: &ArrowReaderMetadata, name: &str, data_type: &DataType) -> Option<Bounds> {
    let field = file.schema().field_with_name(name).ok()?;
    if field.data_type() != data_type || data_type.is_floating() || data_type.is_nested() {
        return None;
    }
    let description = file.metadata().file_metadata().schema_descr();
    let converter = StatisticsConverter::try_new(name, file.schema(), description).ok()?;
    let converter = converter.with_missing_null_counts_as_zero(false);
    let leaf = converter.parquet_column_index()?;
    let groups = || file.metadata().row_groups().iter();
    let is_old =
        |group: &RowGroupMetaData| group.column(leaf).statistics().is_some_and(|it| it.is_min_max_deprecated());
    if groups().any(is_old) {
        return None;
    }
    Some(Bounds {
        least: converter.row_group_mins(groups()).ok()?,
        greatest: converter.row_group_maxes(groups()).ok()?,
        nulls: converter.row_group_null_counts(groups()).ok()?,
    })
}

/// The row groups of a file that are read.
pub(super) struct RowGroups {
    /// Their places, ascending.
    pub(super) places: Vec<usize>,
    pub(super) numbers: RowNumbers,
    /// Rows of the others.
    pub(super) skipped: u64,
}

impl RowGroups {
    /// `constants` are columns that are the same in all rows of the file.
    pub(super) fn select(
        conditions: Option<&Conditions>,
        file: &ArrowReaderMetadata,
        constants: &[(FieldRef, ArrayRef)],
    ) -> Self {
        let groups = file.metadata().row_groups();
        let all = || vec![true; groups.len()];
        let kept = conditions.map_or_else(all, |conditions| conditions.keep(file, constants));
        let mut selected = Self { places: Vec::new(), numbers: RowNumbers::default(), skipped: 0 };
        let mut first = 1;
        for (place, (group, kept)) in groups.iter().zip(kept).enumerate() {
            let rows = rows_of(group);
            if kept {
                selected.places.push(place);
                selected.numbers.add(first..first + rows);
            } else {
                selected.skipped += rows;
            }
            first += rows;
        }
        selected
    }
}

fn rows_of(group: &RowGroupMetaData) -> u64 {
    u64::try_from(group.num_rows()).unwrap_or(0)
}

/// The 1-based numbers of the rows of a file that are still to come.
#[derive(Debug, Default)]
pub(super) struct RowNumbers {
    ranges: VecDeque<Range<u64>>,
}

impl RowNumbers {
    /// Those of all rows, however many there are.
    pub(super) fn all() -> Self {
        Self { ranges: [1..u64::MAX].into() }
    }

    fn add(&mut self, numbers: Range<u64>) {
        match self.ranges.back_mut() {
            Some(last) if last.end == numbers.start => last.end = numbers.end,
            _ => self.ranges.push_back(numbers),
        }
    }

    /// The number of the next row.
    pub(super) fn next(&self) -> u64 {
        self.ranges.front().map_or(1, |range| range.start)
    }

    /// The origin of the next `rows` rows.
    pub(super) fn take(&mut self, file: FileId, mut rows: usize) -> Origin {
        let mut origin = Origin::default();
        while rows > 0 {
            let range = self.ranges.front_mut().expect("a reader gives the rows of its row groups");
            let taken = usize::try_from(range.end - range.start).unwrap_or(usize::MAX).min(rows);
            origin.extend(Origin::consecutive(file, range.start, taken));
            range.start += taken as u64;
            rows -= taken;
            if range.is_empty() {
                self.ranges.pop_front();
            }
        }
        origin
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::SystemTime;

    use arrow::array::{ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, StringArray};
    use arrow::datatypes::Int64Type;
    use parquet::arrow::ArrowWriter;
    use parquet::file::properties::WriterProperties;

    use super::super::Source;
    use super::*;
    use crate::batch::FileTable;
    use crate::format::Format;
    use crate::plan::{Cut, Read};

    /// Ten row groups of ten rows: `n` counts from 0, `s` are its digits, and `f` is `n` or, in every tenth row, NaN.
    fn file(folder: &tempfile::TempDir) -> Read {
        let floats = (0..100).map(|n| if n % 10 == 3 { f64::NAN } else { f64::from(n) });
        let columns: [(&str, ArrayRef); 3] = [
            ("n", Arc::new(Int64Array::from_iter_values(0..100))),
            ("s", Arc::new(StringArray::from_iter_values((0..100).map(|n| format!("{n:02}"))))),
            ("f", Arc::new(Float64Array::from_iter_values(floats))),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let path = folder.path().join("a.parquet");
        let properties = WriterProperties::builder().set_max_row_group_row_count(Some(10)).build();
        let mut writer = ArrowWriter::try_new(File::create(&path).unwrap(), batch.schema(), Some(properties)).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        Read {
            paths: vec![path.into()],
            stdin: false,
            folder: std::path::PathBuf::new(),
            format: Format::Parquet,
            compression: None,
            schema: Vec::new(),
            dialect: crate::format::Dialect::default(),
            encoding: crate::format::Encoding::Utf8,
            partitions: None,
            origin: false,
            which: crate::plan::WhichFiles::All,
            leaves_out_malformed: false,
            first_rows: None,
            used: None,
            filtered_by: Vec::new(),
        }
    }

    fn consumer(sql: &str) -> Consumer {
        let settings = Settings {
            stage: "q".to_owned(),
            params: [("floor".to_owned(), 75.into())].into(),
            seed: 1,
            started: SystemTime::UNIX_EPOCH,
            memory_limit: 1 << 20,
            spill_folder: std::env::temp_dir(),
            spill_limit: 0,
        };
        Consumer { query: Query::parse(sql).unwrap(), table: "t".to_owned(), settings }
    }

    /// The first and last numbers of all batches, after a check that each row's number is its value's.
    fn ranges(read: &Read, queries: &[&str], cut: u32) -> Vec<(i64, i64)> {
        let cut = Cut { rows: cut.try_into().unwrap(), ..Cut::default() };
        let mut source = Source::open(read, cut, true, &FileTable::default()).unwrap();
        source = source.serving(queries.iter().map(|sql| consumer(sql)).collect());
        let mut found = Vec::new();
        while let Some(batch) = source.next_batch().unwrap() {
            let (batch, origin) = (batch.records().unwrap(), batch.origin().clone());
            let numbers = batch.column_by_name("n").unwrap().as_primitive::<Int64Type>().values().to_vec();
            for (row, number) in numbers.iter().enumerate() {
                assert_eq!(origin.place(row).unwrap().first, u64::try_from(number + 1).unwrap());
            }
            found.push((numbers[0], *numbers.last().unwrap()));
        }
        assert_eq!(source.bytes_read(), source.known_size().unwrap());
        found
    }

    #[test]
    fn row_groups_without_rows_that_pass_are_skipped_and_rows_keep_their_numbers() {
        let folder = tempfile::tempdir().unwrap();
        let read = file(&folder);
        assert_eq!(ranges(&read, &["SELECT n FROM t WHERE n >= $floor"], 1000), [(70, 99)]);
        assert_eq!(ranges(&read, &["SELECT n FROM t WHERE n < 5 OR s > '95'"], 1000), [(0, 99)]);
        assert_eq!(ranges(&read, &["SELECT n FROM t WHERE n < 5 OR s > '95'"], 8), [(0, 7), (8, 95), (96, 99)]);
        let both = ["SELECT n FROM t WHERE s = '31'", "SELECT count(*) FROM t WHERE n BETWEEN 50 AND 55 AND f > 0"];
        assert_eq!(ranges(&read, &both, 10), [(30, 39), (50, 59)]);
        assert_eq!(ranges(&read, &["SELECT n FROM t WHERE n > 1000"], 10), []);
    }

    #[test]
    fn without_a_condition_that_can_be_trusted_all_rows_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let read = file(&folder);
        for queries in [
            &["SELECT n FROM t WHERE f > 1000"][..],
            &["SELECT n FROM t WHERE n > 1000 AND random() > 2"],
            &["SELECT n FROM t WHERE n > 1000", "SELECT n FROM t"],
            &[],
        ] {
            assert_eq!(ranges(&read, queries, 1000), [(0, 99)], "{queries:?}");
        }
    }

    #[test]
    fn bounds_of_another_type_than_the_column_has_are_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let read = Read { schema: vec![("s".to_owned(), DataType::LargeUtf8)], ..file(&folder) };
        assert_eq!(ranges(&read, &["SELECT n FROM t WHERE s = '31'"], 1000), [(0, 99)]);
        assert_eq!(ranges(&read, &["SELECT n FROM t WHERE n = 31"], 1000), [(30, 39)]);
    }
}
