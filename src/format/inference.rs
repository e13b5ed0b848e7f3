//! Types of columns from their values: [`Guess`] for the cells of CSV, [`Shape`] for JSON.

use arrow::datatypes::{DataType, Field, TimeUnit};
use serde_json::Value;

use super::text_value::INSTANT_ZONE;
use crate::batch::is_open;

/// The narrowest type that a cell of CSV can be. What fits no other type, or two different ones, is text.
///
/// Whole numbers with leading zeros or beyond 64 bits are text, because as numbers they would lose something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Guess {
    /// No value yet.
    Open,
    Boolean,
    Int64,
    Float64,
    /// `2024-01-31`.
    Date,
    /// `2024-01-31T12:00:00` or with a space, and up to 6 decimals: a wall clock.
    Timestamp,
    /// The same with `Z` or an offset: a point in time.
    Instant,
    Text,
}

impl Guess {
    pub(super) fn of(cell: &str) -> Self {
        match cell.as_bytes().first() {
            None => Self::Open,
            Some(b'0'..=b'9' | b'-' | b'.') => Self::of_number(cell),
            Some(b't' | b'T' | b'f' | b'F') if super::text_value::boolean(cell).is_some() => Self::Boolean,
            _ if matches!(cell, "NaN" | "inf") => Self::Float64,
            _ => Self::Text,
        }
    }

    fn of_number(cell: &str) -> Self {
        let digits = cell.strip_prefix('-').unwrap_or(cell);
        if digits.bytes().all(|byte| byte.is_ascii_digit()) {
            let plain = digits.len() == 1 || !digits.starts_with('0');
            return if plain && cell.parse::<i64>().is_ok() { Self::Int64 } else { Self::Text };
        }
        if digits == "inf" || (is_number(digits) && cell.parse::<f64>().is_ok()) {
            return Self::Float64;
        }
        Self::of_time(cell)
    }

    fn of_time(cell: &str) -> Self {
        const DATE: &[u8] = b"0000-00-00";
        const CLOCK: &[u8] = b"00:00:00";
        let bytes = cell.as_bytes();
        let Some(date) = bytes.get(..DATE.len()).filter(|date| matches(date, DATE)) else { return Self::Text };
        if bytes.len() == date.len() {
            let valid = super::text_value::microseconds(cell).is_some();
            return if valid { Self::Date } else { Self::Text };
        }
        let rest = &bytes[DATE.len()..];
        let clock = rest.get(1..=CLOCK.len()).is_some_and(|clock| matches(clock, CLOCK));
        if !clock || !matches!(rest[0], b' ' | b'T') || super::text_value::microseconds(cell).is_none() {
            return Self::Text;
        }
        let zone = &rest[1 + CLOCK.len()..];
        let decimals = zone.strip_prefix(b".").map_or(0, |rest| rest.iter().take_while(|b| b.is_ascii_digit()).count());
        match &zone[if decimals > 0 { decimals + 1 } else { 0 }..] {
            _ if decimals > 6 => Self::Text,
            [] => Self::Timestamp,
            [b'Z' | b'+' | b'-', ..] => Self::Instant,
            _ => Self::Text,
        }
    }

    pub(super) fn merge(self, other: Self) -> Self {
        match (self, other) {
            (Self::Open, guess) | (guess, Self::Open) => guess,
            (a, b) if a == b => a,
            (Self::Int64, Self::Float64) | (Self::Float64, Self::Int64) => Self::Float64,
            _ => Self::Text,
        }
    }

    pub(super) fn data_type(self) -> DataType {
        match self {
            Self::Open => DataType::Null,
            Self::Boolean => DataType::Boolean,
            Self::Int64 => DataType::Int64,
            Self::Float64 => DataType::Float64,
            Self::Date => DataType::Date32,
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            Self::Instant => DataType::Timestamp(TimeUnit::Microsecond, Some(INSTANT_ZONE.into())),
            Self::Text => DataType::Utf8,
        }
    }
}

/// The value of a cell that counts as a number, if it does: what [`Guess::of`] says, at the cost of parsing it once.
pub(super) fn number(cell: &str) -> Option<f64> {
    let digits = cell.strip_prefix('-').unwrap_or(cell);
    (is_number(digits) || matches!(cell, "NaN" | "inf" | "-inf")).then(|| cell.parse().ok()).flatten()
}

/// Returns whether an unsigned number has nothing but what numbers are made of, and no leading zero.
fn is_number(digits: &str) -> bool {
    let has_leading_zero = matches!(digits.as_bytes(), [b'0', b'0'..=b'9', ..]);
    !has_leading_zero && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-'))
}

/// Returns whether `text` has a digit wherever `pattern` has a 0, and the same bytes elsewhere.
fn matches(text: &[u8], pattern: &[u8]) -> bool {
    text.len() == pattern.len()
        && text.iter().zip(pattern).all(|(byte, like)| if *like == b'0' { byte.is_ascii_digit() } else { byte == like })
}

/// The type of JSON values. Strings stay strings: JSON says itself what is a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// No value yet.
    Open,
    Boolean,
    Int64,
    /// Whole numbers of which one is larger than what 64 bits with a sign can hold.
    UInt64,
    Float64,
    Text,
    List(Box<Shape>),
    /// Keys in order of their first appearance.
    Struct(Vec<(String, Shape)>),
    /// A declared type, which no value changes.
    Fixed(DataType),
}

/// Two shapes that no type can hold.
pub(super) struct Conflict {
    pub(super) settled: DataType,
    pub(super) found: DataType,
}

impl Shape {
    /// A declared type. Where it is open, values decide as they do elsewhere.
    pub(super) fn declared(data_type: &DataType) -> Self {
        match data_type {
            DataType::Null => Self::Open,
            DataType::List(item) | DataType::LargeList(item) if is_open(data_type) => {
                Self::List(Box::new(Self::declared(item.data_type())))
            }
            DataType::Struct(fields) if is_open(data_type) => Self::Struct(
                fields.iter().map(|field| (field.name().clone(), Self::declared(field.data_type()))).collect(),
            ),
            other => Self::Fixed(other.clone()),
        }
    }

    pub(super) fn of(value: &Value) -> Result<Self, Conflict> {
        Ok(match value {
            Value::Null => Self::Open,
            Value::Bool(_) => Self::Boolean,
            Value::Number(number) if number.is_i64() => Self::Int64,
            Value::Number(number) if number.is_u64() => Self::UInt64,
            Value::Number(_) => Self::Float64,
            Value::String(_) => Self::Text,
            Value::Array(items) => {
                let mut shape = Self::Open;
                for item in items {
                    shape = shape.merge(Self::of(item)?)?;
                }
                Self::List(Box::new(shape))
            }
            Value::Object(entries) => {
                let fields = entries.iter().map(|(key, value)| Ok((key.clone(), Self::of(value)?)));
                Self::Struct(fields.collect::<Result<_, Conflict>>()?)
            }
        })
    }

    /// The shape that holds the values of both.
    pub(super) fn merge(self, other: Self) -> Result<Self, Conflict> {
        Ok(match (self, other) {
            (Self::Open, shape) | (shape, Self::Open) | (shape @ Self::Fixed(_), _) => shape,
            (Self::Int64, Self::UInt64) | (Self::UInt64, Self::Int64) => Self::UInt64,
            (Self::Int64 | Self::UInt64, Self::Float64) | (Self::Float64, Self::Int64 | Self::UInt64) => Self::Float64,
            (Self::List(a), Self::List(b)) => Self::List(Box::new(a.merge(*b)?)),
            (Self::Struct(mut fields), Self::Struct(others)) => {
                for (key, shape) in others {
                    match fields.iter_mut().find(|(known, _)| *known == key) {
                        Some((_, field)) => *field = std::mem::replace(field, Self::Open).merge(shape)?,
                        None => fields.push((key, shape)),
                    }
                }
                Self::Struct(fields)
            }
            (a, b) if a == b => a,
            (a, b) => return Err(Conflict { settled: a.data_type(), found: b.data_type() }),
        })
    }

    /// Lets values decide what is open and leaves the rest as it is; values that do not fit show when they are decoded.
    pub(super) fn settle(self, found: Self) -> Self {
        match (self, found) {
            (Self::Open, found) => found,
            (Self::List(item), Self::List(found)) => Self::List(Box::new(item.settle(*found))),
            (Self::Struct(fields), Self::Struct(mut found)) => {
                let settled = fields.into_iter().map(|(key, shape)| {
                    let other = found.iter_mut().find(|(name, _)| *name == key);
                    let other = other.map_or(Self::Open, |(_, other)| std::mem::replace(other, Self::Open));
                    (key, shape.settle(other))
                });
                Self::Struct(settled.collect())
            }
            (shape, _) => shape,
        }
    }

    pub(super) fn data_type(&self) -> DataType {
        match self {
            Self::Open => DataType::Null,
            Self::Boolean => DataType::Boolean,
            Self::Int64 => DataType::Int64,
            Self::UInt64 => DataType::UInt64,
            Self::Float64 => DataType::Float64,
            Self::Text => DataType::Utf8,
            Self::List(item) => DataType::new_list(item.data_type(), true),
            Self::Struct(fields) => {
                let fields = fields.iter().map(|(name, shape)| Field::new(name, shape.data_type(), true));
                DataType::Struct(fields.collect())
            }
            Self::Fixed(data_type) => data_type.clone(),
        }
    }
}
