//! Text to typed values: the cells of CSV, and strings in JSON that stand for other types.

use std::sync::{Arc, LazyLock};

use arrow::array::timezone::Tz;
use arrow::array::{
    Array, ArrayRef, BinaryArray, BooleanArray, FixedSizeBinaryBuilder, LargeBinaryArray, NullBufferBuilder,
    PrimitiveArray, StringArray, StringBuilder,
};
use arrow::compute::kernels::cast_utils::{Parser, string_to_datetime};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    TimeUnit, TimestampMicrosecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};

use super::inference::{self, Guess};

/// The zone of timestamps that were written with an offset: `timestamp[UTC]`.
pub(super) const INSTANT_ZONE: &str = "UTC";

static UTC: LazyLock<Tz> = LazyLock::new(|| INSTANT_ZONE.parse().expect("a known zone"));

/// Parses cells into an array of `data_type`; `None` is a null. The error is the index of the first cell that does not fit.
///
/// `strict` is for types that were inferred: a cell fits only if it would have been inferred as that type, so that nothing
/// is lost silently (the `007` among whole numbers). Binary values are hexadecimal. A nested type fits no cell.
pub fn parse_cells<'a, I>(cells: I, data_type: &DataType, strict: bool) -> Result<ArrayRef, usize>
where
    I: Iterator<Item = Option<&'a str>> + Clone,
{
    match data_type {
        DataType::Utf8 => Ok(Arc::new(strings(cells))),
        DataType::Boolean => Ok(Arc::new(BooleanArray::from(collect(cells, boolean)?))),
        DataType::Int64 if strict => {
            let exact = |cell: &str| (Guess::of(cell) == Guess::Int64).then(|| Int64Type::parse(cell)).flatten();
            let parse = |cell: &str| plain_integer(cell).or_else(|| exact(cell));
            Ok(Arc::new(primitive::<Int64Type>(cells, parse)?))
        }
        DataType::Float64 if strict => {
            let parse = |cell: &str| plain_decimal(cell).or_else(|| inference::number(cell));
            Ok(Arc::new(primitive::<Float64Type>(cells, parse)?))
        }
        DataType::Date32 if strict => {
            let parse = |cell: &str| (Guess::of(cell) == Guess::Date).then(|| Date32Type::parse(cell)).flatten();
            Ok(Arc::new(primitive::<Date32Type>(cells, parse)?))
        }
        DataType::Timestamp(TimeUnit::Microsecond, zone) if strict => {
            let guess = if zone.is_some() { Guess::Instant } else { Guess::Timestamp };
            let parse = |cell: &str| (Guess::of(cell) == guess).then(|| microseconds(cell)).flatten();
            let array = primitive::<TimestampMicrosecondType>(cells, parse)?;
            Ok(Arc::new(array.with_timezone_opt(zone.clone())))
        }
        DataType::Int8 => parsed::<Int8Type>(cells),
        DataType::Int16 => parsed::<Int16Type>(cells),
        DataType::Int32 => parsed::<Int32Type>(cells),
        DataType::Int64 => {
            let parse = |cell: &str| plain_integer(cell).or_else(|| Int64Type::parse(cell));
            Ok(Arc::new(primitive::<Int64Type>(cells, parse)?))
        }
        DataType::UInt8 => parsed::<UInt8Type>(cells),
        DataType::UInt16 => parsed::<UInt16Type>(cells),
        DataType::UInt32 => parsed::<UInt32Type>(cells),
        DataType::UInt64 => parsed::<UInt64Type>(cells),
        DataType::Float32 => parsed::<Float32Type>(cells),
        DataType::Float64 => {
            let parse = |cell: &str| plain_decimal(cell).or_else(|| Float64Type::parse(cell));
            Ok(Arc::new(primitive::<Float64Type>(cells, parse)?))
        }
        DataType::Binary => Ok(Arc::new(BinaryArray::from_iter(collect(cells, hex)?))),
        DataType::LargeBinary => Ok(Arc::new(LargeBinaryArray::from_iter(collect(cells, hex)?))),
        DataType::FixedSizeBinary(width) => fixed_binary(cells, *width),
        other => cast_cells(cells, other),
    }
}

fn collect<'a, T>(
    cells: impl Iterator<Item = Option<&'a str>>,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Vec<Option<T>>, usize> {
    cells.enumerate().map(|(row, cell)| cell.map(|cell| parse(cell).ok_or(row)).transpose()).collect()
}

fn strings<'a>(cells: impl Iterator<Item = Option<&'a str>>) -> StringArray {
    const USUAL_LEN: usize = 16;
    let rows = cells.size_hint().0;
    let mut builder = StringBuilder::with_capacity(rows, rows * USUAL_LEN);
    for cell in cells {
        builder.append_option(cell);
    }
    builder.finish()
}

fn primitive<'a, T: ArrowPrimitiveType>(
    cells: impl Iterator<Item = Option<&'a str>>,
    parse: impl Fn(&str) -> Option<T::Native>,
) -> Result<PrimitiveArray<T>, usize> {
    let rows = cells.size_hint().0;
    let (mut values, mut nulls) = (Vec::with_capacity(rows), NullBufferBuilder::new(rows));
    for (row, cell) in cells.enumerate() {
        match cell {
            Some(cell) => {
                values.push(parse(cell).ok_or(row)?);
                nulls.append_non_null();
            }
            None => {
                values.push(T::Native::default());
                nulls.append_null();
            }
        }
    }
    Ok(PrimitiveArray::new(values.into(), nulls.finish()))
}

fn parsed<'a, T>(cells: impl Iterator<Item = Option<&'a str>>) -> Result<ArrayRef, usize>
where
    T: ArrowPrimitiveType + Parser,
{
    Ok(Arc::new(primitive::<T>(cells, T::parse)?))
}

/// Powers of ten that a float holds exactly.
const POWERS: [f64; 16] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];

/// The value of a short number like `-12.5`; `None` for others, which have to be read in full.
///
/// A float holds whole numbers of so few digits exactly, so that their quotient is rounded correctly: it is what a full parser
/// gives.
#[expect(clippy::cast_precision_loss, reason = "few enough digits")]
fn plain_decimal(cell: &str) -> Option<f64> {
    let digits = cell.strip_prefix('-').unwrap_or(cell).as_bytes();
    if digits.is_empty() || digits.len() >= POWERS.len() || matches!(digits, [b'0', b'0'..=b'9', ..]) {
        return None;
    }
    let (mut number, mut decimals) = (0_u64, 0);
    for (at, byte) in digits.iter().enumerate() {
        match byte {
            b'0'..=b'9' => number = number * 10 + u64::from(byte - b'0'),
            b'.' if decimals == 0 && at > 0 && at + 1 < digits.len() => decimals = digits.len() - at - 1,
            _ => return None,
        }
    }
    let value = number as f64 / POWERS[decimals];
    Some(if cell.len() > digits.len() { -value } else { value })
}

/// The value of a short whole number without leading zeros; `None` for others, which have to be read in full.
fn plain_integer(cell: &str) -> Option<i64> {
    const SAFE_DIGITS: usize = 18;
    let digits = cell.strip_prefix('-').unwrap_or(cell).as_bytes();
    if digits.is_empty() || digits.len() > SAFE_DIGITS || matches!(digits, [b'0', b'0'..=b'9', ..]) {
        return None;
    }
    let mut number = 0;
    for byte in digits {
        number = number * 10 + byte.is_ascii_digit().then(|| i64::from(byte - b'0'))?;
    }
    Some(if cell.len() > digits.len() { -number } else { number })
}

pub(super) fn boolean(cell: &str) -> Option<bool> {
    match cell {
        "true" | "True" | "TRUE" => Some(true),
        "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

/// Microseconds since the epoch; of the wall clock if the text has no offset.
pub(super) fn microseconds(cell: &str) -> Option<i64> {
    string_to_datetime(&*UTC, cell).ok().map(|at| at.timestamp_micros())
}

fn hex(cell: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pairs = cell.as_bytes().chunks(2);
    pairs.map(|pair| Some((digit(pair[0])? * 16 + digit(*pair.get(1)?)?) as u8)).collect()
}

fn fixed_binary<'a>(cells: impl Iterator<Item = Option<&'a str>>, width: i32) -> Result<ArrayRef, usize> {
    let mut builder = FixedSizeBinaryBuilder::new(width);
    for (row, cell) in cells.enumerate() {
        match cell {
            None => builder.append_null(),
            Some(cell) => hex(cell).and_then(|value| builder.append_value(value).ok()).ok_or(row)?,
        }
    }
    Ok(Arc::new(builder.finish()))
}

/// Returns whether a type has room for all that a cell says. A cast would drop the rest: an offset, a time of day,
/// decimals.
fn fits_whole(cell: &str, data_type: &DataType) -> bool {
    const DATE_LEN: usize = "2024-01-31".len();
    let decimals = || {
        let fraction = cell.split_once('.').map_or("", |(_, fraction)| fraction);
        let digits = fraction.len() - fraction.trim_start_matches(|digit: char| digit.is_ascii_digit()).len();
        fraction[..digits].trim_end_matches('0').len()
    };
    let time = cell.get(DATE_LEN..).unwrap_or_default();
    match data_type {
        DataType::Date32 => time.is_empty(),
        DataType::Timestamp(unit, zone) => {
            let has_offset = time.contains(['Z', 'z', '+', '-']);
            (zone.is_some() || !has_offset) && decimals() <= digits_of(*unit)
        }
        DataType::Time32(unit) | DataType::Time64(unit) => decimals() <= digits_of(*unit),
        DataType::Decimal128(_, scale) | DataType::Decimal256(_, scale) => {
            cell.contains(['e', 'E']) || i8::try_from(decimals()).is_ok_and(|decimals| decimals <= *scale)
        }
        _ => true,
    }
}

fn digits_of(unit: TimeUnit) -> usize {
    match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 3,
        TimeUnit::Microsecond => 6,
        TimeUnit::Nanosecond => 9,
    }
}

fn cast_cells<'a>(cells: impl Iterator<Item = Option<&'a str>>, data_type: &DataType) -> Result<ArrayRef, usize> {
    let text = StringArray::from_iter(cells);
    if let Some(row) = text.iter().position(|cell| cell.is_some_and(|cell| !fits_whole(cell, data_type))) {
        return Err(row);
    }
    let text: ArrayRef = Arc::new(text);
    let options = CastOptions { safe: true, ..CastOptions::default() };
    let Ok(array) = cast_with_options(&text, data_type, &options) else {
        // No text can be cast to the type at all: the first value is the one that does not fit.
        return match (0..text.len()).find(|row| text.is_valid(*row)) {
            Some(row) => Err(row),
            None => Ok(arrow::array::new_null_array(data_type, text.len())),
        };
    };
    match (0..text.len()).find(|row| text.is_valid(*row) && array.is_null(*row)) {
        Some(row) => Err(row),
        None => Ok(array),
    }
}
