//! [`Builder`]: JSON values to an array of a known type, without a tree of values in between.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanBuilder, Float64Builder, Int64Builder, LargeListArray, ListArray, NullArray,
    NullBufferBuilder, StringBuilder, StructArray, UInt64Builder,
};
use arrow::buffer::OffsetBuffer;
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, FieldRef, Fields};
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::super::error::Problem;
use super::super::lines::quoted;
use super::super::text_value::parse_cells;

/// Collects the values of one column (or of one part of a nested column).
pub(super) enum Builder {
    /// Takes any value and forgets it.
    Unused(usize),
    /// No type yet: takes nulls only.
    Open(usize),
    Boolean(BooleanBuilder),
    /// Whole numbers, cast to the declared type at the end.
    Int64(Int64Builder, DataType),
    UInt64(UInt64Builder),
    Float64(Float64Builder, DataType),
    /// Text, parsed as the declared type at the end.
    Text(StringBuilder, DataType),
    List {
        item: FieldRef,
        offsets: Vec<i32>,
        nulls: NullBufferBuilder,
        values: Box<Builder>,
        is_large: bool,
    },
    Struct {
        fields: Fields,
        nulls: NullBufferBuilder,
        children: Vec<Builder>,
    },
}

/// Why a record was not taken.
pub(super) enum Misfit {
    /// A value came where the type is open.
    Open,
    Problem(Problem),
}

/// A value that does not fit its declared type, found when a column was finished.
pub(super) struct Unfit {
    pub(super) value: String,
    pub(super) expected: DataType,
}

/// What a visitor found, kept aside: the parser's own errors are text.
struct Found {
    /// Index of the column that the value belongs to.
    column: Option<usize>,
    kind: Option<Kind>,
}

enum Kind {
    Open,
    Misfit { value: String, expected: DataType },
    UnknownKey(String),
    DuplicateKey(String),
}

impl Builder {
    pub(super) fn new(data_type: &DataType, capacity: usize) -> Self {
        match data_type {
            DataType::Null => Self::Open(0),
            DataType::Boolean => Self::Boolean(BooleanBuilder::with_capacity(capacity)),
            DataType::UInt64 => Self::UInt64(UInt64Builder::with_capacity(capacity)),
            integer if integer.is_integer() => Self::Int64(Int64Builder::with_capacity(capacity), integer.clone()),
            float if float.is_floating() => Self::Float64(Float64Builder::with_capacity(capacity), float.clone()),
            DataType::List(item) | DataType::LargeList(item) => Self::List {
                item: Arc::clone(item),
                offsets: vec![0],
                nulls: NullBufferBuilder::new(capacity),
                values: Box::new(Self::new(item.data_type(), capacity)),
                is_large: matches!(data_type, DataType::LargeList(_)),
            },
            DataType::Struct(fields) => Self::Struct {
                fields: fields.clone(),
                nulls: NullBufferBuilder::new(capacity),
                children: fields.iter().map(|field| Self::new(field.data_type(), capacity)).collect(),
            },
            other => Self::Text(StringBuilder::with_capacity(capacity, capacity * 8), other.clone()),
        }
    }

    fn len(&self) -> usize {
        use arrow::array::ArrayBuilder;
        match self {
            Self::Unused(len) | Self::Open(len) => *len,
            Self::Boolean(builder) => builder.len(),
            Self::Int64(builder, _) => builder.len(),
            Self::UInt64(builder) => builder.len(),
            Self::Float64(builder, _) => builder.len(),
            Self::Text(builder, _) => builder.len(),
            Self::List { nulls, .. } | Self::Struct { nulls, .. } => nulls.len(),
        }
    }

    fn append_null(&mut self) {
        match self {
            Self::Unused(len) | Self::Open(len) => *len += 1,
            Self::Boolean(builder) => builder.append_null(),
            Self::Int64(builder, _) => builder.append_null(),
            Self::UInt64(builder) => builder.append_null(),
            Self::Float64(builder, _) => builder.append_null(),
            Self::Text(builder, _) => builder.append_null(),
            Self::List { offsets, nulls, .. } => {
                offsets.push(*offsets.last().expect("starts with 0"));
                nulls.append_null();
            }
            Self::Struct { nulls, children, .. } => {
                nulls.append_null();
                children.iter_mut().for_each(Self::append_null);
            }
        }
    }

    fn data_type(&self) -> DataType {
        match self {
            Self::Unused(_) | Self::Open(_) => DataType::Null,
            Self::Boolean(_) => DataType::Boolean,
            Self::Int64(_, data_type) | Self::Float64(_, data_type) | Self::Text(_, data_type) => data_type.clone(),
            Self::UInt64(_) => DataType::UInt64,
            Self::List { item, is_large: false, .. } => DataType::List(Arc::clone(item)),
            Self::List { item, .. } => DataType::LargeList(Arc::clone(item)),
            Self::Struct { fields, .. } => DataType::Struct(fields.clone()),
        }
    }

    pub(super) fn finish(self) -> Result<ArrayRef, Unfit> {
        Ok(match self {
            Self::Unused(len) | Self::Open(len) => Arc::new(NullArray::new(len)),
            Self::Boolean(mut builder) => Arc::new(builder.finish()),
            Self::UInt64(mut builder) => Arc::new(builder.finish()),
            Self::Int64(mut builder, data_type) => cast_numbers(Arc::new(builder.finish()), &data_type)?,
            Self::Float64(mut builder, data_type) => cast_numbers(Arc::new(builder.finish()), &data_type)?,
            Self::Text(mut builder, data_type) => {
                let text = builder.finish();
                parse_cells(text.iter(), &data_type, false)
                    .map_err(|row| Unfit { value: quoted(text.value(row)), expected: data_type })?
            }
            Self::List { item, offsets, mut nulls, values, is_large } => {
                let values = values.finish()?;
                if is_large {
                    let offsets = OffsetBuffer::new(offsets.into_iter().map(i64::from).collect::<Vec<_>>().into());
                    Arc::new(LargeListArray::new(item, offsets, values, nulls.finish()))
                } else {
                    Arc::new(ListArray::new(item, OffsetBuffer::new(offsets.into()), values, nulls.finish()))
                }
            }
            Self::Struct { fields, mut nulls, children } => {
                let len = nulls.len();
                let children = children.into_iter().map(Self::finish).collect::<Result<Vec<_>, _>>()?;
                let array = StructArray::try_new_with_length(fields, children, nulls.finish(), len);
                Arc::new(array.expect("children have the types of their fields"))
            }
        })
    }
}

fn cast_numbers(numbers: ArrayRef, data_type: &DataType) -> Result<ArrayRef, Unfit> {
    if numbers.data_type() == data_type {
        return Ok(numbers);
    }
    let options = CastOptions { safe: true, ..CastOptions::default() };
    let cast = cast_with_options(&numbers, data_type, &options).expect("numbers can be cast to numbers");
    match (0..numbers.len()).find(|row| numbers.is_valid(*row) && cast.is_null(*row)) {
        Some(row) => {
            let value = arrow::util::display::array_value_to_string(&numbers, row).unwrap_or_default();
            Err(Unfit { value, expected: data_type.clone() })
        }
        None => Ok(cast),
    }
}

/// The names of the columns.
#[derive(Clone, Copy)]
pub(super) struct Names<'a> {
    pub(super) fields: &'a Fields,
    pub(super) index: &'a HashMap<String, usize>,
}

impl Names<'_> {
    /// Looks a column up; most likely it is the one `at` this place, as most lines have their keys in one order.
    fn find(self, name: &str, at: usize) -> Option<usize> {
        let is_there = self.fields.get(at).is_some_and(|field| field.name() == name);
        if is_there { Some(at) } else { self.index.get(name).copied() }
    }
}

/// Appends the values of one line to the columns.
pub(super) fn append_record(line: &[u8], names: Names<'_>, columns: &mut [Builder]) -> Result<(), Misfit> {
    let mut found = Found { column: None, kind: None };
    let mut parser = serde_json::Deserializer::from_slice(line);
    let appended = Record { names, columns, found: &mut found }.deserialize(&mut parser).and_then(|()| parser.end());
    let Err(error) = appended else { return Ok(()) };
    let column = found.column.map_or("", |at| names.fields[at].name());
    Err(match found.kind {
        None => Misfit::Problem(super::json_problem(&error)),
        Some(Kind::Open) => Misfit::Open,
        Some(Kind::Misfit { value, expected }) => {
            Misfit::Problem(Problem::Misfit { column: column.to_owned(), value, expected })
        }
        Some(Kind::UnknownKey(key)) => Misfit::Problem(Problem::UnknownColumn { column: path(column, &key) }),
        Some(Kind::DuplicateKey(key)) => Misfit::Problem(Problem::DuplicateKey { column: path(column, &key) }),
    })
}

fn path(column: &str, key: &str) -> String {
    match (column, key) {
        ("", key) => key.to_owned(),
        (column, "") => column.to_owned(),
        (column, key) => format!("{column}.{key}"),
    }
}

/// A whole line.
struct Record<'a> {
    names: Names<'a>,
    columns: &'a mut [Builder],
    found: &'a mut Found,
}

impl<'de> DeserializeSeed<'de> for Record<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Record<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let rows = self.columns.first().map_or(0, |column| column.len());
        let mut likely = 0;
        while let Some(at) = map.next_key_seed(Key { find: |key: &str| self.names.find(key, likely) })? {
            self.found.column = None;
            let at = match at {
                Ok(at) if self.columns[at].len() == rows => at,
                Ok(at) => {
                    self.found.column = Some(at);
                    return self.found.stop(Kind::DuplicateKey(String::new()));
                }
                Err(key) => return self.found.stop(Kind::UnknownKey(key)),
            };
            self.found.column = Some(at);
            likely = at + 1;
            map.next_value_seed(Slot { builder: &mut self.columns[at], found: self.found })?;
        }
        fill(self.columns, rows + 1);
        Ok(())
    }
}

/// A key, looked up without keeping its text: the index of its column, or the key itself if there is none.
struct Key<F> {
    find: F,
}

impl<'de, F: Fn(&str) -> Option<usize>> DeserializeSeed<'de> for Key<F> {
    type Value = Result<usize, String>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<F: Fn(&str) -> Option<usize>> Visitor<'_> for Key<F> {
    type Value = Result<usize, String>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a key")
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<Self::Value, E> {
        Ok((self.find)(key).ok_or_else(|| key.to_owned()))
    }
}

/// Gives a null to every column that this record had no value for.
fn fill(columns: &mut [Builder], rows: usize) {
    for column in columns {
        if column.len() < rows {
            column.append_null();
        }
    }
}

impl Found {
    fn stop<T, E: serde::de::Error>(&mut self, kind: Kind) -> Result<T, E> {
        self.kind = Some(kind);
        Err(E::custom("stopped"))
    }
}

/// One value, on its way into its builder.
struct Slot<'a> {
    builder: &'a mut Builder,
    found: &'a mut Found,
}

impl Slot<'_> {
    fn misfit<E: serde::de::Error>(self, value: String) -> Result<(), E> {
        let kind = match self.builder {
            Builder::Open(_) => Kind::Open,
            other => Kind::Misfit { value, expected: other.data_type() },
        };
        self.found.stop(kind)
    }
}

impl<'de> DeserializeSeed<'de> for Slot<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if let Builder::Unused(len) = self.builder {
            *len += 1;
            return deserializer.deserialize_ignored_any(IgnoredAny).map(|_| ());
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Slot<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a value")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        self.builder.append_null();
        Ok(())
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<(), E> {
        match self.builder {
            Builder::Boolean(builder) => builder.append_value(value),
            Builder::Text(builder, DataType::Utf8) => builder.append_value(value.to_string()),
            _ => return self.misfit(value.to_string()),
        }
        Ok(())
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<(), E> {
        match self.builder {
            Builder::Int64(builder, _) => builder.append_value(value),
            Builder::UInt64(builder) if value >= 0 => builder.append_value(value.unsigned_abs()),
            Builder::Float64(builder, _) => match exact_float(value.into()) {
                Some(value) => builder.append_value(value),
                None => return self.misfit(value.to_string()),
            },
            Builder::Text(builder, data_type) if takes_number(data_type) => builder.append_value(value.to_string()),
            _ => return self.misfit(value.to_string()),
        }
        Ok(())
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<(), E> {
        if let Ok(value) = i64::try_from(value) {
            return self.visit_i64(value);
        }
        match self.builder {
            Builder::UInt64(builder) => builder.append_value(value),
            Builder::Float64(builder, _) => match exact_float(value.into()) {
                Some(value) => builder.append_value(value),
                None => return self.misfit(value.to_string()),
            },
            Builder::Text(builder, data_type) if takes_number(data_type) => builder.append_value(value.to_string()),
            _ => return self.misfit(value.to_string()),
        }
        Ok(())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<(), E> {
        match self.builder {
            Builder::Float64(builder, _) => builder.append_value(value),
            Builder::Text(builder, data_type) if takes_number(data_type) => builder.append_value(value.to_string()),
            _ => return self.misfit(value.to_string()),
        }
        Ok(())
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<(), E> {
        match self.builder {
            Builder::Text(builder, _) => builder.append_value(value),
            _ => return self.misfit(quoted(value)),
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Builder::List { offsets, nulls, values, .. } = self.builder else {
            return self.misfit("a list".to_owned());
        };
        while seq.next_element_seed(Slot { builder: values, found: self.found })?.is_some() {}
        let end = i32::try_from(values.len()).map_err(|_| A::Error::custom("too many list items in one batch"))?;
        offsets.push(end);
        nulls.append_non_null();
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Builder::Struct { fields, nulls, children } = self.builder else {
            return self.misfit("an object".to_owned());
        };
        let rows = nulls.len();
        while let Some(at) = map.next_key_seed(Key { find: |key: &str| fields.find(key).map(|(at, _)| at) })? {
            let at = match at {
                Ok(at) if children[at].len() == rows => at,
                Ok(at) => return self.found.stop(Kind::DuplicateKey(fields[at].name().clone())),
                Err(key) => return self.found.stop(Kind::UnknownKey(key)),
            };
            map.next_value_seed(Slot { builder: &mut children[at], found: self.found })?;
        }
        fill(children, rows + 1);
        nulls.append_non_null();
        Ok(())
    }
}

/// Declared types that take a number by its digits. Times and binary values do not: a number says neither unit nor bytes.
fn takes_number(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View) || data_type.is_decimal()
}

/// The number as a float, if that is the same number.
#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "checked on the way back")]
fn exact_float(value: i128) -> Option<f64> {
    let float = value as f64;
    (float as i128 == value).then_some(float)
}
