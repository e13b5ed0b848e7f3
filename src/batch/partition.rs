//! [`Partitioner`]: which partition a row belongs to, told by its key alone.
//!
//! The rule is part of the language: it decides in which order rows come out of a stage with `partition_by`, so it is the same on every
//! machine and never changes. A key is the values of its columns, in the order in which the file names them. Each value is written as
//! bytes that do not depend on how Arrow happens to store it, FNV-1a (64 bits) goes over all of them, the finalizer of MurmurHash3 mixes
//! the result, and its lowest six bits are the partition.
//!
//! | value | bytes (integers little-endian) |
//! |---|---|
//! | null | `0` |
//! | boolean | `1`, then `0` or `1` |
//! | integer of any width, signed or not | `2`, then 16 bytes |
//! | float of any width | `3`, then the 8 bytes of a double; -0.0 is 0.0, and every NaN is the same |
//! | text, however it is encoded | `4`, then its length in 8 bytes, then UTF-8 |
//! | binary | `5`, then its length in 8 bytes, then the bytes |
//! | decimal | `6`, then its digits without trailing zeros in 32 bytes, then its scale in 1 byte |
//! | date | `7`, then milliseconds since 1970 in 8 bytes |
//! | time of day | `8`, then nanoseconds in 8 bytes |
//! | timestamp of any unit and zone | `9`, then nanoseconds since 1970 (in UTC) in 16 bytes |
//! | duration | `10`, then nanoseconds in 16 bytes |

use std::ops::Range;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::compute::{cast, take_record_batch};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Date64Type, Decimal256Type, DurationMicrosecondType,
    DurationMillisecondType, DurationNanosecondType, DurationSecondType, Float64Type, Int64Type, Time64NanosecondType,
    TimeUnit, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
    UInt64Type, i256,
};
use arrow::error::ArrowError;

use super::Origin;
use super::column_type::name;

/// Partitions of every stage with `partition_by`: not cores, not workers, so that results do not depend on either.
pub const PARTITIONS: usize = 64;

/// Puts the rows of batches in the order of their partitions.
#[derive(Clone, Debug)]
pub struct Partitioner {
    columns: Vec<String>,
}

/// The rows of a batch, those of one partition together, in their order within it.
#[derive(Debug)]
pub struct Partitioned {
    pub records: RecordBatch,
    pub origin: Origin,
    /// Where the rows of each partition begin, and where those of the last one end.
    bounds: [usize; PARTITIONS + 1],
}

#[derive(Debug, thiserror::Error)]
pub enum PartitionError {
    #[error(
        "`partition_by` names `{column}`, which is no column of the rows that come; they have {}",
        found.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
    )]
    NoColumn { column: String, found: Vec<String> },
    #[error(
        "column `{column}` is {}, whose values cannot be keys; make text or a number of it before",
        name(data_type)
    )]
    NoKey { column: String, data_type: DataType },
    #[error("{0}")]
    Arrow(#[from] ArrowError),
}

impl Partitioner {
    pub fn new(columns: Vec<String>) -> Self {
        Self { columns }
    }

    /// Without columns, all rows are in the first partition.
    ///
    /// # Errors
    /// If a column of the key is missing, or has a type whose values cannot be keys.
    pub fn apply(&self, records: &RecordBatch, origin: &Origin) -> Result<Partitioned, PartitionError> {
        let mut bounds = [0; PARTITIONS + 1];
        if self.columns.is_empty() {
            bounds[1..].fill(records.num_rows());
            return Ok(Partitioned { records: records.clone(), origin: origin.clone(), bounds });
        }
        let of_row = self.partitions(records)?;
        of_row.iter().for_each(|&partition| bounds[usize::from(partition) + 1] += 1);
        (0..PARTITIONS).for_each(|partition| bounds[partition + 1] += bounds[partition]);
        let mut next = bounds;
        let mut order = vec![0_u32; of_row.len()];
        for (row, &partition) in (0..).zip(&of_row) {
            let place = &mut next[usize::from(partition)];
            order[*place] = row;
            *place += 1;
        }
        let origin = origin.take(order.iter().map(|&row| row as usize));
        let records = take_record_batch(records, &UInt32Array::from(order))?;
        Ok(Partitioned { records, origin, bounds })
    }

    /// The partition of every row.
    fn partitions(&self, records: &RecordBatch) -> Result<Vec<u8>, PartitionError> {
        let mut hashes = vec![FNV_OFFSET; records.num_rows()];
        for name in &self.columns {
            let Some(column) = records.column_by_name(name) else {
                let found = records.schema().fields().iter().map(|field| field.name().clone()).collect();
                return Err(PartitionError::NoColumn { column: name.clone(), found });
            };
            add_column(&mut hashes, name, column)?;
        }
        Ok(hashes.into_iter().map(|hash| (mix(hash) % PARTITIONS as u64) as u8).collect())
    }
}

impl Partitioned {
    /// The rows of these partitions.
    pub fn rows(&self, partitions: Range<usize>) -> Range<usize> {
        self.bounds[partitions.start]..self.bounds[partitions.end]
    }

    /// Those of these partitions that have rows, and how many.
    pub fn counts(&self, partitions: Range<usize>) -> impl Iterator<Item = (usize, usize)> {
        partitions.map(|partition| (partition, self.rows(partition..partition + 1).len())).filter(|(_, rows)| *rows > 0)
    }

    /// The bounds without the rows, for whoever keeps these elsewhere.
    pub fn without_rows(&self) -> Self {
        Self { records: RecordBatch::new_empty(self.records.schema()), origin: Origin::default(), bounds: self.bounds }
    }
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

fn feed(hash: &mut u64, bytes: &[u8]) {
    for byte in bytes {
        *hash = (*hash ^ u64::from(*byte)).wrapping_mul(FNV_PRIME);
    }
}

fn mix(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

/// Feeds the values of a column to the hashes of their rows.
fn add_column(hashes: &mut [u64], name: &str, column: &ArrayRef) -> Result<(), PartitionError> {
    use DataType as T;
    let data_type = column.data_type();
    let no_key = || PartitionError::NoKey { column: name.to_owned(), data_type: data_type.clone() };
    match data_type {
        T::Null => add(hashes, column, |_, _| unreachable!("all of its values are null")),
        T::Boolean => {
            let values = column.as_boolean();
            add(hashes, column, |hash, row| feed(hash, &[1, u8::from(values.value(row))]));
        }
        T::UInt64 => add_primitive::<UInt64Type>(hashes, column, |hash, value| integer(hash, value.into())),
        _ if data_type.is_integer() => {
            add_primitive::<Int64Type>(hashes, &cast(column, &T::Int64)?, |hash, value| integer(hash, value.into()));
        }
        _ if data_type.is_floating() => add_primitive::<Float64Type>(hashes, &cast(column, &T::Float64)?, float),
        T::Utf8 | T::LargeUtf8 | T::Utf8View => {
            let text = cast(column, &T::Utf8View)?;
            let values = text.as_string_view();
            add(hashes, column, |hash, row| bytes(hash, 4, values.value(row).as_bytes()));
        }
        T::Binary | T::LargeBinary | T::BinaryView | T::FixedSizeBinary(_) => {
            let binary = cast(column, &T::BinaryView)?;
            let values = binary.as_binary_view();
            add(hashes, column, |hash, row| bytes(hash, 5, values.value(row)));
        }
        T::Dictionary(_, value) => return add_column(hashes, name, &cast(column, value)?),
        T::Decimal32(_, scale) | T::Decimal64(_, scale) | T::Decimal128(_, scale) | T::Decimal256(_, scale) => {
            let wide = cast(column, &T::Decimal256(76, *scale))?;
            add_primitive::<Decimal256Type>(hashes, &wide, |hash, value| decimal(hash, value, *scale));
        }
        T::Date32 => add_primitive::<Date32Type>(hashes, column, |hash, days| date(hash, i64::from(days) * 86_400_000)),
        T::Date64 => add_primitive::<Date64Type>(hashes, column, date),
        T::Time32(_) | T::Time64(_) => {
            let time = cast(column, &T::Time64(TimeUnit::Nanosecond))?;
            add_primitive::<Time64NanosecondType>(hashes, &time, |hash, value| tagged(hash, 8, &value.to_le_bytes()));
        }
        T::Timestamp(unit, _) => {
            let nanoseconds = nanoseconds_of(*unit);
            let feed = |hash: &mut u64, value: i64| wide(hash, 9, value, nanoseconds);
            match unit {
                TimeUnit::Second => add_primitive::<TimestampSecondType>(hashes, column, feed),
                TimeUnit::Millisecond => add_primitive::<TimestampMillisecondType>(hashes, column, feed),
                TimeUnit::Microsecond => add_primitive::<TimestampMicrosecondType>(hashes, column, feed),
                TimeUnit::Nanosecond => add_primitive::<TimestampNanosecondType>(hashes, column, feed),
            }
        }
        T::Duration(unit) => {
            let nanoseconds = nanoseconds_of(*unit);
            let feed = |hash: &mut u64, value: i64| wide(hash, 10, value, nanoseconds);
            match unit {
                TimeUnit::Second => add_primitive::<DurationSecondType>(hashes, column, feed),
                TimeUnit::Millisecond => add_primitive::<DurationMillisecondType>(hashes, column, feed),
                TimeUnit::Microsecond => add_primitive::<DurationMicrosecondType>(hashes, column, feed),
                TimeUnit::Nanosecond => add_primitive::<DurationNanosecondType>(hashes, column, feed),
            }
        }
        _ => return Err(no_key()),
    }
    Ok(())
}

fn add(hashes: &mut [u64], column: &ArrayRef, mut value: impl FnMut(&mut u64, usize)) {
    let nulls = column.logical_nulls();
    for (row, hash) in hashes.iter_mut().enumerate() {
        if nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
            feed(hash, &[0]);
        } else {
            value(hash, row);
        }
    }
}

fn add_primitive<T: ArrowPrimitiveType>(
    hashes: &mut [u64],
    column: &ArrayRef,
    mut value: impl FnMut(&mut u64, T::Native),
) {
    let values = column.as_primitive::<T>();
    add(hashes, column, |hash, row| value(hash, values.value(row)));
}

fn tagged(hash: &mut u64, tag: u8, bytes: &[u8]) {
    feed(hash, &[tag]);
    feed(hash, bytes);
}

fn integer(hash: &mut u64, value: i128) {
    tagged(hash, 2, &value.to_le_bytes());
}

fn float(hash: &mut u64, value: f64) {
    let canonical = match value {
        _ if value.is_nan() => f64::NAN.to_bits() & !(1 << 63),
        0.0 => 0,
        _ => value.to_bits(),
    };
    tagged(hash, 3, &canonical.to_le_bytes());
}

fn bytes(hash: &mut u64, tag: u8, bytes: &[u8]) {
    tagged(hash, tag, &(bytes.len() as u64).to_le_bytes());
    feed(hash, bytes);
}

fn decimal(hash: &mut u64, mut digits: i256, mut scale: i8) {
    let ten = i256::from_i128(10);
    while digits != i256::ZERO && digits % ten == i256::ZERO {
        digits /= ten;
        scale -= 1;
    }
    let scale = if digits == i256::ZERO { 0 } else { scale };
    tagged(hash, 6, &digits.to_le_bytes());
    feed(hash, &scale.to_le_bytes());
}

fn date(hash: &mut u64, milliseconds: i64) {
    tagged(hash, 7, &milliseconds.to_le_bytes());
}

fn wide(hash: &mut u64, tag: u8, value: i64, nanoseconds: i128) {
    tagged(hash, tag, &(i128::from(value) * nanoseconds).to_le_bytes());
}

fn nanoseconds_of(unit: TimeUnit) -> i128 {
    match unit {
        TimeUnit::Second => 1_000_000_000,
        TimeUnit::Millisecond => 1_000_000,
        TimeUnit::Microsecond => 1_000,
        TimeUnit::Nanosecond => 1,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        BinaryArray, BooleanArray, Date32Array, Date64Array, Decimal128Array, DurationSecondArray, Float32Array,
        Float64Array, Int8Array, Int64Array, LargeStringArray, ListArray, NullArray, StringArray, StringViewArray,
        Time64MicrosecondArray, TimestampMillisecondArray, TimestampSecondArray, UInt64Array,
    };
    use arrow::datatypes::Int32Type;

    use super::*;

    fn partitions(columns: Vec<ArrayRef>) -> Vec<u8> {
        let names: Vec<String> = (0..columns.len()).map(|at| format!("c{at}")).collect();
        let records = RecordBatch::try_from_iter(names.iter().zip(columns)).expect("columns of one length");
        Partitioner::new(names).partitions(&records).expect("keys")
    }

    fn of(column: impl Array + 'static) -> Vec<u8> {
        partitions(vec![Arc::new(column)])
    }

    #[test]
    fn partitions_never_change() {
        let text = StringArray::from(vec![Some("ada"), Some("grace"), Some(""), Some("ünïcödé"), None]);
        assert_eq!(of(text), [8, 44, 8, 17, 59]);
        assert_eq!(of(Int64Array::from(vec![0, 1, 2, -1, i64::MAX])), [54, 42, 59, 49, 43]);
        assert_eq!(of(Float64Array::from(vec![0.0, 1.5, -1.5, f64::INFINITY, f64::NAN])), [50, 7, 34, 4, 38]);
        assert_eq!(of(BooleanArray::from(vec![false, true])), [62, 14]);
        assert_eq!(of(TimestampSecondArray::from(vec![0, 1_700_000_000])), [18, 29]);
        assert_eq!(of(Date32Array::from(vec![3])), [57]);
        assert_eq!(of(Decimal128Array::from(vec![150, 0]).with_precision_and_scale(20, 2).expect("fits")), [34, 36]);
        assert_eq!(of(Time64MicrosecondArray::from(vec![1])), [52]);
        assert_eq!(of(DurationSecondArray::from(vec![5])), [31]);
        assert_eq!(of(BinaryArray::from_vec(vec![&[1, 2]])), [56]);
        let pair: Vec<ArrayRef> =
            vec![Arc::new(StringArray::from(vec!["ada", "ad"])), Arc::new(Int64Array::from(vec![7, 7]))];
        assert_eq!(partitions(pair), [53, 48]);
    }

    #[test]
    fn a_value_is_the_same_key_however_it_is_stored() {
        let words = ["a", "grace", ""];
        let expected = of(StringArray::from_iter_values(words));
        assert_eq!(of(LargeStringArray::from_iter_values(words)), expected);
        assert_eq!(of(StringViewArray::from_iter_values(words)), expected);
        let dictionary: arrow::array::DictionaryArray<Int32Type> = words.into_iter().collect();
        assert_eq!(of(dictionary), expected);
        let expected = of(Int64Array::from(vec![0, 1, 100]));
        assert_eq!(of(Int8Array::from(vec![0, 1, 100])), expected);
        assert_eq!(of(UInt64Array::from(vec![0, 1, 100])), expected);
        assert_eq!(of(Float32Array::from(vec![0.5, -2.0])), of(Float64Array::from(vec![0.5, -2.0])));
        assert_eq!(of(Float64Array::from(vec![-0.0, -f64::NAN])), of(Float64Array::from(vec![0.0, f64::NAN])));
        assert_eq!(of(Date32Array::from(vec![3])), of(Date64Array::from(vec![3 * 86_400_000])));
        assert_eq!(
            of(TimestampSecondArray::from(vec![12]).with_timezone("+02:00")),
            of(TimestampMillisecondArray::from(vec![12_000]))
        );
        let decimal =
            |digits, scale| Decimal128Array::from(vec![digits]).with_precision_and_scale(20, scale).expect("fits");
        assert_eq!(of(decimal(1500, 3)), of(decimal(15, 1)));
        assert_eq!(of(NullArray::new(2)), of(StringArray::from(vec![None::<&str>; 2])));
    }

    #[test]
    fn keys_spread_evenly() {
        let mut counts = [0; PARTITIONS];
        for partition in of(Int64Array::from_iter_values(0..64_000)) {
            counts[usize::from(partition)] += 1;
        }
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
    }

    #[test]
    fn rows_of_one_partition_come_together_in_their_order() {
        let keys: ArrayRef = Arc::new(StringArray::from_iter_values((0..500).map(|row| format!("k{}", row % 7))));
        let rows: ArrayRef = Arc::new(Int64Array::from_iter_values(0..500));
        let records = RecordBatch::try_from_iter([("key", keys), ("row", rows)]).expect("columns");
        let origin = Origin::consecutive(super::super::FileId(0), 1, 500);
        let made = Partitioner::new(vec!["key".to_owned()]).apply(&records, &origin).expect("keys");
        let rows = made.records.column(1).as_primitive::<Int64Type>().values();
        assert_eq!(made.counts(0..PARTITIONS).map(|(_, rows)| rows).sum::<usize>(), 500);
        for (partition, _) in made.counts(0..PARTITIONS) {
            let range = made.rows(partition..partition + 1);
            assert!(rows[range.clone()].is_sorted());
            let keys = made.records.slice(range.start, range.len());
            let partitioner = Partitioner::new(vec!["key".to_owned()]);
            let alone = partitioner.partitions(&keys).expect("keys");
            assert!(alone.iter().all(|&of_row| usize::from(of_row) == partition));
        }
        let places = (0..500).map(|row| made.origin.place(row).expect("from a file").first);
        assert!(places.eq(rows.iter().map(|&row| row as u64 + 1)));
    }

    #[test]
    fn what_cannot_be_a_key_is_an_error_that_names_the_column() {
        let list = ListArray::from_iter_primitive::<Int32Type, _, _>([Some([Some(1)])]);
        let records = RecordBatch::try_from_iter([("list", Arc::new(list) as ArrayRef)]).expect("a column");
        let error = |column: &str| {
            let partitioner = Partitioner::new(vec![column.to_owned()]);
            partitioner.apply(&records, &Origin::unknown(1)).expect_err("no key").to_string()
        };
        assert!(error("list").starts_with("column `list` is list<int32>,"), "{}", error("list"));
        assert!(error("other").ends_with("they have `list`"), "{}", error("other"));
    }
}
