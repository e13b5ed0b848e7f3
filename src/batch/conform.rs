//! [`Columns`]: the columns of an edge, settled by its batches in the order of their sequence.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};

use super::column_type::name;

/// Brings batches to one schema. Batches must come in sequence order: that order decides which types are settled.
///
/// A column that is all null is *open* (Arrow's `Null` type, also inside lists and structs) until a value comes, and takes
/// that value's type. Batches that were returned before keep the open type; a consumer that cannot take that waits until
/// [`Columns::is_settled`].
#[derive(Clone, Debug)]
pub struct Columns {
    schema: Option<SchemaRef>,
    /// Whether the types were asked for, so that values are cast to them wherever nothing is lost.
    declared: bool,
    /// The schema that came last and needed no change, to recognise it by its address.
    accepted: Option<SchemaRef>,
}

/// Why a batch does not fit the settled columns. The way out (`schema:` or `returns:`) is for the caller to name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConformError {
    #[error("column `{column}` is {}, but it was {} before", name(found), name(settled))]
    Type { column: String, settled: DataType, found: DataType },
    #[error("column `{column}` is declared as {}, but its {} values do not fit that type", name(declared), name(found))]
    Declared { column: String, declared: DataType, found: DataType },
    #[error("there is no {}; found {}", names("column", missing), names("column", found))]
    Missing { missing: Vec<String>, found: Vec<String> },
    #[error("{} not expected; expected {}", is_or_are(extra), names("column", known))]
    Extra { extra: Vec<String>, known: Vec<String> },
    #[error("two columns have the name `{column}`")]
    Duplicate { column: String },
    #[error("the lines of one batch are longer together than 2 GiB")]
    TooLong,
}

impl Columns {
    /// Columns whose names and types are known beforehand.
    pub fn declared(columns: &[(String, DataType)]) -> Self {
        let fields: Fields =
            columns.iter().map(|(name, data_type)| Field::new(name, data_type.clone(), true)).collect();
        Self { schema: Some(Arc::new(Schema::new(fields))), declared: true, accepted: None }
    }

    /// Columns that the first batch decides.
    pub fn from_first() -> Self {
        Self { schema: None, declared: false, accepted: None }
    }

    /// The columns as they are settled so far; `None` before the first batch.
    pub fn settled(&self) -> Option<SchemaRef> {
        self.schema.clone()
    }

    /// Those of the columns that have these names, in their own order.
    #[must_use]
    pub fn only(&self, names: &[String]) -> Self {
        let kept = |schema: &SchemaRef| {
            let fields = schema.fields().iter().filter(|field| names.contains(field.name()));
            Arc::new(Schema::new(fields.cloned().collect::<Fields>()))
        };
        Self { schema: self.schema.as_ref().map(kept), declared: self.declared, accepted: None }
    }

    /// Returns whether no column is open any more.
    pub fn is_settled(&self) -> bool {
        self.schema.as_ref().is_some_and(|schema| schema.fields().iter().all(|field| !is_open(field.data_type())))
    }

    /// Returns the rows of `batch` with the settled columns: their order, their types, nullable, without metadata.
    pub fn conform(&mut self, batch: RecordBatch) -> Result<RecordBatch, ConformError> {
        let found = batch.schema_ref();
        if let Some(schema) = &self.schema {
            if Arc::ptr_eq(found, schema) {
                return Ok(batch);
            }
            if self.accepted.as_ref().is_some_and(|accepted| Arc::ptr_eq(found, accepted)) {
                return Ok(with_columns(schema, batch.columns().to_vec(), batch.num_rows()));
            }
        }
        let settled = match &self.schema {
            None => plain_schema(found)?,
            Some(settled) => Arc::clone(settled),
        };
        let (schema, columns) = self.fit(&settled, &batch)?;
        let schema = if *settled == *schema { settled } else { schema };
        let unchanged = columns.len() == batch.num_columns()
            && columns.iter().zip(batch.columns()).all(|(new, old)| Arc::ptr_eq(new, old));
        self.accepted = unchanged.then(|| Arc::clone(found));
        self.schema = Some(Arc::clone(&schema));
        Ok(with_columns(&schema, columns, batch.num_rows()))
    }

    fn fit(&self, settled: &SchemaRef, batch: &RecordBatch) -> Result<(SchemaRef, Vec<ArrayRef>), ConformError> {
        check_names(settled, batch.schema_ref())?;
        let mut fields = Vec::with_capacity(settled.fields().len());
        let mut columns = Vec::with_capacity(settled.fields().len());
        for field in settled.fields() {
            let column = batch.column_by_name(field.name()).expect("names were checked");
            let (data_type, column) = self.fit_column(field, column)?;
            fields.push(Field::new(field.name(), data_type, true));
            columns.push(column);
        }
        Ok((Arc::new(Schema::new(fields)), columns))
    }

    fn fit_column(&self, field: &Field, column: &ArrayRef) -> Result<(DataType, ArrayRef), ConformError> {
        let (settled, found) = (field.data_type(), column.data_type());
        let plain = plain_type(found);
        let target = settle(settled, &plain);
        if target == *found {
            return Ok((target, Arc::clone(column)));
        }
        let castable =
            plain == target || is_widening(&plain, &target) || (self.declared && is_convertible(&plain, &target));
        match castable.then(|| cast_lossless(column, &target)).flatten() {
            Some(cast) => Ok((target, cast)),
            None if self.declared => Err(ConformError::Declared {
                column: field.name().clone(),
                declared: settled.clone(),
                found: found.clone(),
            }),
            None => {
                Err(ConformError::Type { column: field.name().clone(), settled: settled.clone(), found: found.clone() })
            }
        }
    }
}

/// Returns whether a type has a part that no value has decided yet.
pub(crate) fn is_open(data_type: &DataType) -> bool {
    match data_type {
        DataType::Null => true,
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::FixedSizeList(item, _)
        | DataType::Map(item, _) => is_open(item.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| is_open(field.data_type())),
        _ => false,
    }
}

/// The settled type with its open parts decided by `found`.
fn settle(settled: &DataType, found: &DataType) -> DataType {
    match (settled, found) {
        (DataType::Null, found) => found.clone(),
        (DataType::List(item), DataType::List(other)) => DataType::List(settle_field(item, other)),
        (DataType::LargeList(item), DataType::LargeList(other)) => DataType::LargeList(settle_field(item, other)),
        (DataType::Struct(fields), DataType::Struct(others)) => {
            let settled = fields.iter().map(|field| match others.find(field.name()) {
                Some((_, other)) => settle_field(field, other),
                None => Arc::clone(field),
            });
            DataType::Struct(settled.collect())
        }
        _ => settled.clone(),
    }
}

fn settle_field(field: &FieldRef, other: &FieldRef) -> FieldRef {
    Arc::new(Field::new(field.name(), settle(field.data_type(), other.data_type()), true))
}

/// The type without what programs disagree about: nested fields are nullable and without metadata, and the field of a list
/// is named `item`.
fn plain_type(data_type: &DataType) -> DataType {
    let item = |field: &FieldRef| Arc::new(Field::new_list_field(plain_type(field.data_type()), true));
    match data_type {
        DataType::List(field) => DataType::List(item(field)),
        DataType::LargeList(field) => DataType::LargeList(item(field)),
        DataType::FixedSizeList(field, size) => DataType::FixedSizeList(item(field), *size),
        DataType::Struct(fields) => {
            let plain = fields.iter().map(|field| Field::new(field.name(), plain_type(field.data_type()), true));
            DataType::Struct(plain.collect())
        }
        other => other.clone(),
    }
}

/// Returns whether every value of type `from` that can be represented in `to` belongs there without being asked.
fn is_widening(from: &DataType, to: &DataType) -> bool {
    use DataType::{
        Binary, BinaryView, Decimal128, Dictionary, Float16, Float32, Float64, LargeBinary, LargeList, LargeUtf8, List,
        Null, Struct, Timestamp, Utf8, Utf8View,
    };
    match (from, to) {
        (Null, _) => true,
        (from, to) if from.is_integer() && to.is_integer() => is_wider_integer(from, to),
        (from, Float32 | Float64) if from.is_integer() => true,
        (Float16, Float32 | Float64) | (Float32, Float64) => true,
        (Utf8 | LargeUtf8 | Utf8View, Utf8 | LargeUtf8 | Utf8View) => true,
        (Binary | LargeBinary | BinaryView, Binary | LargeBinary | BinaryView) => true,
        (Decimal128(from, scale), Decimal128(to, same)) => scale == same && from <= to,
        (Timestamp(from, zone), Timestamp(to, same)) => zone == same && from < to,
        (Dictionary(_, value), Dictionary(_, same)) => value == same,
        (Dictionary(_, value), to) => fits_inside(value, to),
        (from, Dictionary(_, value)) => from == &**value,
        (List(from) | LargeList(from), List(to) | LargeList(to)) => fits_inside(from.data_type(), to.data_type()),
        (Struct(from), Struct(to)) => {
            from.len() == to.len()
                && from
                    .iter()
                    .zip(to)
                    .all(|(from, to)| from.name() == to.name() && fits_inside(from.data_type(), to.data_type()))
        }
        _ => false,
    }
}

fn fits_inside(from: &DataType, to: &DataType) -> bool {
    from == to || is_widening(from, to)
}

/// Returns whether every value of one integer type is a value of the other.
fn is_wider_integer(from: &DataType, to: &DataType) -> bool {
    let keeps_sign = from.is_unsigned_integer() || to.is_signed_integer();
    keeps_sign && from.primitive_width() < to.primitive_width()
}

/// Returns whether values of `from` may be cast to a declared type, as long as none of them changes.
fn is_convertible(from: &DataType, to: &DataType) -> bool {
    use DataType::{Date32, Date64, Decimal128, Decimal256, Time32, Time64, Timestamp};
    let number = |data_type: &DataType| data_type.is_numeric();
    match (from, to) {
        (Timestamp(_, from), Timestamp(_, to)) => from.is_some() == to.is_some(),
        (Date32 | Date64, Date32 | Date64) | (Time32(_) | Time64(_), Time32(_) | Time64(_)) => true,
        (Date32 | Date64, Timestamp(_, None)) | (Timestamp(_, None), Date32 | Date64) => true,
        (Decimal128(..) | Decimal256(..), to) if to.is_floating() => false,
        (from, Decimal128(..) | Decimal256(..)) if from.is_floating() => false,
        _ => number(from) && number(to),
    }
}

/// Casts if the values survive the way back; `None` if one does not.
fn cast_lossless(array: &ArrayRef, to: &DataType) -> Option<ArrayRef> {
    if *array.data_type() == DataType::Null {
        return Some(new_null_array(to, array.len()));
    }
    let options = CastOptions { safe: false, ..CastOptions::default() };
    let cast = cast_with_options(array, to, &options).ok()?;
    if is_exact_cast(array.data_type(), to) {
        return Some(cast);
    }
    let back = cast_with_options(&cast, array.data_type(), &options).ok()?;
    same_values(&back, array).then_some(cast)
}

/// Returns whether a cast that succeeds cannot have changed a value, so that the way back need not be checked.
fn is_exact_cast(from: &DataType, to: &DataType) -> bool {
    match (from, to) {
        _ if from == to || *from == DataType::Null => true,
        (DataType::List(from) | DataType::LargeList(from), DataType::List(to) | DataType::LargeList(to)) => {
            is_exact_cast(from.data_type(), to.data_type())
        }
        (DataType::Struct(from), DataType::Struct(to)) => {
            from.iter().zip(to).all(|(from, to)| is_exact_cast(from.data_type(), to.data_type()))
        }
        _ if from.is_integer() => to.is_integer(),
        _ => !(from.is_numeric() || from.is_temporal() || from.is_nested()),
    }
}

/// Equality of values where NaN equals NaN and what lies under a null does not count.
fn same_values(a: &ArrayRef, b: &ArrayRef) -> bool {
    match a.data_type() {
        // Arrays compare bit by bit, and a cast may change the payload of a NaN.
        DataType::Float64 => same_floats(a.as_primitive(), b.as_primitive()),
        _ => a == b,
    }
}

fn same_floats(a: &Float64Array, b: &Float64Array) -> bool {
    a.iter().zip(b.iter()).all(|pair| match pair {
        (Some(a), Some(b)) => a == b || (a.is_nan() && b.is_nan()),
        (a, b) => a.is_none() && b.is_none(),
    })
}

fn check_names(settled: &Schema, found: &Schema) -> Result<(), ConformError> {
    let listed = |schema: &Schema| schema.fields().iter().map(|field| field.name().clone()).collect::<Vec<_>>();
    if let Some(column) = duplicate(found) {
        return Err(ConformError::Duplicate { column });
    }
    let missing: Vec<_> = listed(settled).into_iter().filter(|name| found.index_of(name).is_err()).collect();
    if !missing.is_empty() {
        return Err(ConformError::Missing { missing, found: listed(found) });
    }
    let extra: Vec<_> = listed(found).into_iter().filter(|name| settled.index_of(name).is_err()).collect();
    if !extra.is_empty() {
        return Err(ConformError::Extra { extra, known: listed(settled) });
    }
    Ok(())
}

fn duplicate(schema: &Schema) -> Option<String> {
    let mut names: Vec<_> = schema.fields().iter().map(|field| field.name()).collect();
    names.sort_unstable();
    names.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0].clone())
}

/// The same columns, nullable and without metadata (pandas leaves its index there).
fn plain_schema(schema: &Schema) -> Result<SchemaRef, ConformError> {
    if let Some(column) = duplicate(schema) {
        return Err(ConformError::Duplicate { column });
    }
    let fields: Fields =
        schema.fields().iter().map(|field| Field::new(field.name(), plain_type(field.data_type()), true)).collect();
    Ok(Arc::new(Schema::new(fields)))
}

fn with_columns(schema: &SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> RecordBatch {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
        .expect("columns have the types of their fields")
}

fn is_or_are(columns: &[String]) -> String {
    format!("{} {}", names("column", columns), if columns.len() == 1 { "is" } else { "are" })
}

fn names(noun: &str, names: &[String]) -> String {
    let list = names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    match names.len() {
        0 => format!("no {noun}s"),
        1 => format!("{noun} {list}"),
        _ => format!("{noun}s {list}"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use arrow::array::*;
    use arrow::datatypes::{Int8Type, TimeUnit};

    use super::*;

    fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true))).unwrap()
    }

    fn one(array: impl Array + 'static) -> RecordBatch {
        batch(vec![("a", Arc::new(array))])
    }

    fn nulls() -> RecordBatch {
        one(NullArray::new(1))
    }

    fn types(columns: &Columns) -> Vec<DataType> {
        columns.settled().unwrap().fields().iter().map(|field| field.data_type().clone()).collect()
    }

    /// The type that the last batch has after the ones before it, or the error.
    fn last(columns: &mut Columns, batches: Vec<RecordBatch>) -> Result<DataType, String> {
        let mut found = DataType::Null;
        for batch in batches {
            let rows = batch.num_rows();
            let conformed = columns.conform(batch).map_err(|error| error.to_string())?;
            assert_eq!(conformed.num_rows(), rows);
            found = conformed.column(0).data_type().clone();
        }
        Ok(found)
    }

    #[test]
    fn the_same_schema_passes_untouched() {
        let batch = one(Int64Array::from(vec![1]));
        let mut columns = Columns::from_first();
        let first = columns.conform(batch.clone()).unwrap();
        let second = columns.conform(batch.clone()).unwrap();
        assert!(Arc::ptr_eq(second.column(0), batch.column(0)));
        assert!(Arc::ptr_eq(first.schema_ref(), second.schema_ref()));
    }

    #[test]
    fn columns_are_put_in_order_and_lose_their_metadata() {
        let (a, b): (ArrayRef, ArrayRef) =
            (Arc::new(Int64Array::from(vec![1])), Arc::new(StringArray::from(vec!["x"])));
        let metadata = HashMap::from([("pandas".to_owned(), "{}".to_owned())]);
        let schema = batch(vec![("a", a.clone()), ("b", b.clone())]).schema().as_ref().clone().with_metadata(metadata);
        let first = RecordBatch::try_new(Arc::new(schema), vec![a.clone(), b.clone()]).unwrap();
        let mut columns = Columns::from_first();
        let first = columns.conform(first).unwrap();
        assert!(first.schema().metadata().is_empty());
        assert_eq!(columns.conform(batch(vec![("b", b), ("a", a)])).unwrap(), first);
    }

    #[test]
    fn open_columns_settle_in_sequence() {
        let mut columns = Columns::from_first();
        assert_eq!(last(&mut columns, vec![nulls()]), Ok(DataType::Null));
        assert!(!columns.is_settled());
        assert_eq!(last(&mut columns, vec![one(Int64Array::from(vec![1])), nulls()]), Ok(DataType::Int64));
        assert!(columns.is_settled());
    }

    #[test]
    fn open_items_of_lists_settle() {
        let empty = ListArray::new_null(Arc::new(Field::new("element", DataType::Null, true)), 1);
        let full = ListArray::from_iter_primitive::<Int8Type, _, _>([Some(vec![Some(1)])]);
        let mut columns = Columns::from_first();
        let settled = DataType::new_list(DataType::Int8, true);
        assert_eq!(last(&mut columns, vec![one(empty.clone()), one(full), one(empty)]), Ok(settled.clone()));
        assert_eq!(types(&columns), [settled]);
    }

    #[test]
    fn values_widen_towards_the_settled_type_and_never_lose() {
        let int = || one(Int64Array::from(vec![1]));
        let big = || one(Int64Array::from(vec![(1 << 53) + 1]));
        let float = || one(Float64Array::from(vec![f64::NAN]));
        let cases = [
            (vec![int(), one(Int8Array::from(vec![1]))], Ok(DataType::Int64)),
            (vec![int(), one(UInt32Array::from(vec![1]))], Ok(DataType::Int64)),
            (vec![int(), one(UInt64Array::from(vec![1]))], Err("column `a` is uint64, but it was int64 before")),
            (vec![one(Int8Array::from(vec![1])), int()], Err("column `a` is int64, but it was int8 before")),
            (vec![float(), int()], Ok(DataType::Float64)),
            (vec![float(), big()], Err("column `a` is int64, but it was float64 before")),
            (vec![float(), one(Float32Array::from(vec![f32::NAN]))], Ok(DataType::Float64)),
            (vec![int(), float()], Err("column `a` is float64, but it was int64 before")),
            (vec![one(StringArray::from(vec!["x"])), one(LargeStringArray::from(vec!["y"]))], Ok(DataType::Utf8)),
            (vec![one(StringArray::from(vec!["x"])), int()], Err("column `a` is int64, but it was string before")),
            (
                vec![one(StringArray::from(vec!["x"])), one(["x"].into_iter().collect::<DictionaryArray<Int8Type>>())],
                Ok(DataType::Utf8),
            ),
        ];
        for (batches, expected) in cases {
            let shown = format!("{batches:?}");
            assert_eq!(last(&mut Columns::from_first(), batches), expected.map_err(str::to_owned), "{shown}");
        }
    }

    #[test]
    fn declared_types_take_what_fits() {
        let declared = |data_type: DataType| Columns::declared(&[("a".to_owned(), data_type)]);
        let float = |value: f64| one(Float64Array::from(vec![value]));
        let micros = one(TimestampMicrosecondArray::from(vec![1_000]));
        let millis = DataType::Timestamp(TimeUnit::Millisecond, None);
        assert_eq!(last(&mut declared(DataType::Int32), vec![one(Int64Array::from(vec![7]))]), Ok(DataType::Int32));
        assert_eq!(last(&mut declared(DataType::Int32), vec![float(7.0), nulls()]), Ok(DataType::Int32));
        assert_eq!(last(&mut declared(millis.clone()), vec![micros]), Ok(millis));
        assert_eq!(
            last(&mut declared(DataType::Int8), vec![one(Int64Array::from(vec![128]))]),
            Err("column `a` is declared as int8, but its int64 values do not fit that type".to_owned())
        );
        assert!(last(&mut declared(DataType::Int32), vec![float(7.5)]).is_err());
        assert!(last(&mut declared(DataType::Int32), vec![one(StringArray::from(vec!["7"]))]).is_err());
    }

    #[test]
    fn other_names_are_refused() {
        let (a, b): (ArrayRef, ArrayRef) = (Arc::new(Int64Array::from(vec![1])), Arc::new(Int64Array::from(vec![2])));
        let mut columns = Columns::from_first();
        columns.conform(batch(vec![("a", a.clone()), ("b", b.clone())])).unwrap();
        let error = columns.conform(batch(vec![("a", a.clone())])).unwrap_err().to_string();
        assert_eq!(error, "there is no column `b`; found column `a`");
        let error = columns.conform(batch(vec![("a", a.clone()), ("b", b.clone()), ("c", b.clone())])).unwrap_err();
        assert_eq!(error.to_string(), "column `c` is not expected; expected columns `a`, `b`");
        let fields = vec![Field::new("a", DataType::Int64, true); 2];
        let twice = RecordBatch::try_new(Arc::new(Schema::new(fields)), vec![a, b]).unwrap();
        assert_eq!(columns.conform(twice), Err(ConformError::Duplicate { column: "a".to_owned() }));
    }
}
