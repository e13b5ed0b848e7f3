//! [`value_bytes`]: how large the values of some rows are, by a rule that looks at the values alone.

use std::ops::Range;

use arrow::array::{Array, AsArray, GenericByteArray, GenericListArray, OffsetSizeTrait, RecordBatch, StructArray};
use arrow::datatypes::{ArrowNativeType, ByteArrayType, DataType};

/// Bytes of an offset, which every value of variable length counts for.
pub(super) const OFFSET: usize = 4;

/// Bytes of a value of a type that has no rule of its own (unions, run-end encoding).
const OTHER: usize = 16;

/// Bytes of the values in `rows`.
///
/// A number counts its width, a boolean 1, a string or list 4 and its content, a struct the sum of its fields, a
/// dictionary value what it stands for, a null what an empty value counts. The result is a sum over rows: it does not
/// depend on how the rows were sliced or which buffers they share.
pub fn value_bytes(batch: &RecordBatch, rows: Range<usize>) -> usize {
    batch.columns().iter().map(|column| array_bytes(column.as_ref(), rows.clone())).sum()
}

/// Bytes of the values of one column in `rows`.
pub fn array_bytes(array: &dyn Array, rows: Range<usize>) -> usize {
    match array.data_type() {
        DataType::Null => 0,
        DataType::Boolean => rows.len(),
        DataType::Utf8 => byte_array_bytes(array.as_string::<i32>(), rows),
        DataType::LargeUtf8 => byte_array_bytes(array.as_string::<i64>(), rows),
        DataType::Binary => byte_array_bytes(array.as_binary::<i32>(), rows),
        DataType::LargeBinary => byte_array_bytes(array.as_binary::<i64>(), rows),
        DataType::Utf8View => {
            let views = array.as_string_view();
            valid_rows(array, rows, |row| views.value(row).len())
        }
        DataType::BinaryView => {
            let views = array.as_binary_view();
            valid_rows(array, rows, |row| views.value(row).len())
        }
        DataType::List(_) => list_bytes(array.as_list::<i32>(), rows),
        DataType::LargeList(_) => list_bytes(array.as_list::<i64>(), rows),
        DataType::Map(_, _) => {
            let map = array.as_map();
            let offsets = map.value_offsets();
            valid_rows(array, rows, |row| struct_bytes(map.entries(), offsets[row] as usize..offsets[row + 1] as usize))
        }
        DataType::FixedSizeList(_, size) => {
            let (list, size) = (array.as_fixed_size_list(), *size as usize);
            valid_rows(array, rows, |row| array_bytes(list.values(), row * size..(row + 1) * size))
        }
        DataType::Struct(_) => struct_bytes(array.as_struct(), rows),
        DataType::Dictionary(_, value) => dictionary_bytes(array, value, rows),
        DataType::FixedSizeBinary(width) => *width as usize * rows.len(),
        other => other.primitive_width().unwrap_or(OTHER) * rows.len(),
    }
}

/// What `rows` count where the content of a null, which may be garbage, must not be looked at.
fn valid_rows(array: &dyn Array, rows: Range<usize>, content: impl Fn(usize) -> usize) -> usize {
    rows.map(|row| OFFSET + if array.is_null(row) { 0 } else { content(row) }).sum()
}

fn byte_array_bytes<T: ByteArrayType>(array: &GenericByteArray<T>, rows: Range<usize>) -> usize {
    let offsets = array.value_offsets();
    if array.null_count() == 0 {
        return offsets[rows.end].as_usize() - offsets[rows.start].as_usize() + OFFSET * rows.len();
    }
    valid_rows(array, rows, |row| {
        let value: &[u8] = array.value(row).as_ref();
        value.len()
    })
}

fn list_bytes<O: OffsetSizeTrait>(list: &GenericListArray<O>, rows: Range<usize>) -> usize {
    let offsets = list.value_offsets();
    if list.null_count() == 0 {
        let items = offsets[rows.start].as_usize()..offsets[rows.end].as_usize();
        return array_bytes(list.values(), items) + OFFSET * rows.len();
    }
    valid_rows(list, rows, |row| array_bytes(list.values(), offsets[row].as_usize()..offsets[row + 1].as_usize()))
}

fn struct_bytes(array: &StructArray, rows: Range<usize>) -> usize {
    if array.null_count() == 0 {
        return array.columns().iter().map(|column| array_bytes(column.as_ref(), rows.clone())).sum();
    }
    valid_rows(array, rows.clone(), |row| {
        array.columns().iter().map(|column| array_bytes(column.as_ref(), row..row + 1)).sum()
    }) - OFFSET * rows.len()
}

fn dictionary_bytes(array: &dyn Array, value: &DataType, rows: Range<usize>) -> usize {
    if let Some(width) = value.primitive_width() {
        return width * rows.len();
    }
    let dictionary = array.as_any_dictionary();
    let values = dictionary.values();
    if values.is_empty() {
        return OFFSET * rows.len();
    }
    let keys = dictionary.normalized_keys();
    valid_rows(array, rows.clone(), |row| array_bytes(values.as_ref(), keys[row]..keys[row] + 1)) - OFFSET * rows.len()
        + rows.filter(|row| array.is_null(*row)).count() * OFFSET
}

#[cfg(test)]
mod tests {
    use arrow::array::{DictionaryArray, Int8Array, StringArray};
    use arrow::datatypes::Int8Type;

    use super::*;

    #[test]
    fn a_dictionary_without_values_has_nulls_alone() {
        let (keys, values) = (Int8Array::from(vec![None; 3]), StringArray::from(Vec::<&str>::new()));
        let array = DictionaryArray::<Int8Type>::new(keys, std::sync::Arc::new(values));
        assert_eq!(array_bytes(&array, 0..3), 3 * OFFSET);
    }
}
