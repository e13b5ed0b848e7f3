//! Whether a dictionary is worth trying for a column of a Parquet file.
//!
//! A writer that tries one looks every value up until the dictionary is too large, and then writes the rest without. For columns
//! in which hardly a value comes twice that is most of the work of encoding, and makes the file larger.

use std::collections::HashSet;

use arrow::array::{Array, ArrayRef};
use arrow::datatypes::DataType;
use arrow::row::{RowConverter, SortField};
use parquet::file::properties::DEFAULT_DICTIONARY_PAGE_SIZE_LIMIT;

use crate::batch::array_bytes;

/// Values below which nothing is told from how often they come.
const FEWEST: usize = 1024;

/// Decides from the first values of a row group. Where there is doubt, a dictionary is tried.
pub(super) fn is_worth_trying(first: &ArrayRef) -> bool {
    let values = first.len() - first.null_count();
    if values < FEWEST || !is_plain(first.data_type()) {
        return true;
    }
    let Some(distinct) = count_distinct(first) else { return true };
    let width = (array_bytes(first.as_ref(), 0..first.len()) / values).max(4);
    may_fit(values, distinct, DEFAULT_DICTIONARY_PAGE_SIZE_LIMIT / width)
}

/// Whether a column may have no more than `most` different values, of which `values` have shown `distinct`.
///
/// If all of `most` values were equally likely, about one in `2 * most / values` of these would have come before. Where there are
/// clearly fewer, the column has more different values.
fn may_fit(values: usize, distinct: usize, most: usize) -> bool {
    let repeats = values - distinct.min(values);
    if values >= most { distinct <= most } else { 8 * repeats * most >= 3 * values * values }
}

/// Types of one value per row; booleans have no dictionary, and dictionaries are what they are.
fn is_plain(data_type: &DataType) -> bool {
    data_type.is_primitive()
        || matches!(
            data_type,
            DataType::Utf8
                | DataType::LargeUtf8
                | DataType::Utf8View
                | DataType::Binary
                | DataType::LargeBinary
                | DataType::BinaryView
                | DataType::FixedSizeBinary(_)
        )
}

/// Different values that are not null.
fn count_distinct(array: &ArrayRef) -> Option<usize> {
    let converter = RowConverter::new(vec![SortField::new(array.data_type().clone())]).ok()?;
    let rows = converter.convert_columns(std::slice::from_ref(array)).ok()?;
    let distinct: HashSet<&[u8]> = (0..rows.num_rows()).map(|row| rows.row(row).data()).collect();
    Some(distinct.len() - usize::from(array.null_count() > 0))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{BooleanArray, Float64Array, Int64Array, StringArray};

    use super::*;

    /// Numbers that look random, the same every time.
    fn scattered(rows: i64, below: i64) -> impl Iterator<Item = i64> {
        let mix = |row: i64| (row.wrapping_mul(0x9E37_79B9_7F4A_7C15_u64.cast_signed()) >> 20).wrapping_mul(row | 1);
        (0..rows).map(move |row| mix(row + 1).rem_euclid(below))
    }

    #[test]
    fn a_dictionary_is_tried_unless_it_would_be_too_large() {
        let numbers = |below| Arc::new(Int64Array::from_iter_values(scattered(8192, below))) as ArrayRef;
        let texts = |below| {
            let texts = scattered(8192, below).map(|number| format!("{number:036}"));
            Arc::new(StringArray::from_iter_values(texts)) as ArrayRef
        };
        let floats: ArrayRef = Arc::new(Float64Array::from_iter_values((0..8192).map(f64::from)));
        let nulls: ArrayRef = Arc::new(Int64Array::from_iter((0..8192).map(|row| (row % 2 == 0).then_some(row))));
        for (name, column, expected) in [
            ("few numbers", numbers(1000), true),
            ("as many as fit", numbers(100_000), true),
            ("too many", numbers(1 << 40), false),
            ("a sequence", Arc::new(Int64Array::from_iter_values(0..8192)), false),
            ("floats", floats, false),
            ("nulls do not repeat", nulls, false),
            ("few texts", texts(5000), true),
            ("many texts", texts(1 << 40), false),
            ("too short to tell", Arc::new(Int64Array::from_iter_values(0..1000)), true),
            ("booleans", Arc::new(BooleanArray::from(vec![true; 8192])), true),
        ] {
            assert_eq!(is_worth_trying(&column), expected, "{name}");
        }
    }
}
