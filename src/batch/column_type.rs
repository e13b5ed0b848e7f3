//! Words for column types, as `schema:` and `returns:` use them, to Arrow types and back.

use std::sync::Arc;

use arrow::datatypes::{DECIMAL128_MAX_PRECISION, DataType, Field, TimeUnit};

/// Lists inside lists inside lists: deeper than this is a mistake.
const MAX_NESTING: usize = 8;

const SIMPLE: [(&str, DataType); 16] = [
    ("bool", DataType::Boolean),
    ("int8", DataType::Int8),
    ("int16", DataType::Int16),
    ("int32", DataType::Int32),
    ("int64", DataType::Int64),
    ("uint8", DataType::UInt8),
    ("uint16", DataType::UInt16),
    ("uint32", DataType::UInt32),
    ("uint64", DataType::UInt64),
    ("float32", DataType::Float32),
    ("float64", DataType::Float64),
    ("string", DataType::Utf8),
    ("binary", DataType::Binary),
    ("date", DataType::Date32),
    ("time", DataType::Time64(TimeUnit::Microsecond)),
    ("timestamp", DataType::Timestamp(TimeUnit::Microsecond, None)),
];

/// The word for a type that is called `word` in other languages.
pub fn elsewhere(word: &str) -> Option<&'static str> {
    Some(match word.to_ascii_lowercase().as_str() {
        "int" | "integer" | "long" | "bigint" | "i64" => "int64",
        "i32" => "int32",
        "float" | "double" | "f64" | "real" | "number" => "float64",
        "f32" => "float32",
        "str" | "text" | "varchar" | "char" | "utf8" | "object" => "string",
        "boolean" => "bool",
        "bytes" | "blob" => "binary",
        "datetime" | "datetime64" => "timestamp",
        "date32" => "date",
        _ => return None,
    })
}

/// The words without arguments, for suggestions.
pub fn words() -> impl Iterator<Item = &'static str> {
    SIMPLE.iter().map(|(word, _)| *word).chain(["timestamp[UTC]", "decimal(12,2)", "list<string>"])
}

/// The type that a word stands for. Times are in microseconds; a timestamp without a time zone is naive.
pub fn parse(word: &str) -> Option<DataType> {
    parse_nested(word, MAX_NESTING)
}

fn parse_nested(word: &str, nesting: usize) -> Option<DataType> {
    let word = word.trim();
    if let Some((_, data_type)) = SIMPLE.iter().find(|(simple, _)| *simple == word) {
        return Some(data_type.clone());
    }
    if let Some(zone) = arguments(word, "timestamp[", "]") {
        let is_zone = !zone.is_empty() && zone.chars().all(|it| it.is_ascii_alphanumeric() || "/_+-:".contains(it));
        return is_zone.then(|| DataType::Timestamp(TimeUnit::Microsecond, Some(zone.into())));
    }
    if let Some(arguments) = arguments(word, "decimal(", ")") {
        let (precision, scale) = arguments.split_once(',')?;
        let (precision, scale) = (small(precision.trim())?, small(scale.trim())?);
        let fits = (1..=DECIMAL128_MAX_PRECISION).contains(&precision) && scale <= precision;
        return fits.then(|| DataType::Decimal128(precision, scale.cast_signed()));
    }
    let item = arguments(word, "list<", ">")?;
    let item = parse_nested(item, nesting.checked_sub(1)?)?;
    Some(DataType::List(Arc::new(Field::new_list_field(item, true))))
}

/// A number as people write it.
fn small(digits: &str) -> Option<u8> {
    let number = digits.parse::<u8>().ok()?;
    (number.to_string() == digits).then_some(number)
}

fn arguments<'a>(word: &'a str, open: &str, close: &str) -> Option<&'a str> {
    word.strip_prefix(open)?.strip_suffix(close).map(str::trim)
}

/// The word for a type, if it has one.
pub fn word(data_type: &DataType) -> Option<String> {
    if let Some((simple, _)) = SIMPLE.iter().find(|(_, simple)| simple == data_type) {
        return Some((*simple).to_owned());
    }
    match data_type {
        DataType::Timestamp(TimeUnit::Microsecond, Some(zone)) => Some(format!("timestamp[{zone}]")),
        DataType::Decimal128(precision, scale) if *scale >= 0 => Some(format!("decimal({precision},{scale})")),
        DataType::List(item) => Some(format!("list<{}>", word(item.data_type())?)),
        _ => None,
    }
}

/// The word for a type in messages: that of the language, or where it has none, what the libraries of Python call it.
pub fn name(data_type: &DataType) -> String {
    let inside = |item: &Field| name(item.data_type());
    if let Some(word) = word(data_type) {
        return word;
    }
    match data_type {
        DataType::Null => "null".to_owned(),
        DataType::Float16 => "halffloat".to_owned(),
        DataType::LargeUtf8 => "large_string".to_owned(),
        DataType::Utf8View => "string_view".to_owned(),
        DataType::LargeBinary => "large_binary".to_owned(),
        DataType::BinaryView => "binary_view".to_owned(),
        DataType::FixedSizeBinary(bytes) => format!("fixed_size_binary[{bytes}]"),
        DataType::Date64 => "date64[ms]".to_owned(),
        DataType::Time32(unit) => format!("time32[{}]", of_unit(*unit)),
        DataType::Time64(unit) => format!("time64[{}]", of_unit(*unit)),
        DataType::Timestamp(unit, None) => format!("timestamp[{}]", of_unit(*unit)),
        DataType::Timestamp(unit, Some(zone)) => format!("timestamp[{}, tz={zone}]", of_unit(*unit)),
        DataType::Duration(unit) => format!("duration[{}]", of_unit(*unit)),
        DataType::Decimal128(precision, scale) => format!("decimal({precision},{scale})"),
        DataType::Decimal256(precision, scale) => format!("decimal256({precision}, {scale})"),
        DataType::Dictionary(_, value) => name(value),
        DataType::List(item) => format!("list<{}>", inside(item)),
        DataType::LargeList(item) => format!("large_list<{}>", inside(item)),
        DataType::FixedSizeList(item, length) => format!("fixed_size_list<{}>[{length}]", inside(item)),
        DataType::Struct(fields) => {
            let fields = fields.iter().map(|field| format!("{}: {}", field.name(), inside(field)));
            format!("struct<{}>", fields.collect::<Vec<_>>().join(", "))
        }
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(pair) if pair.len() == 2 => format!("map<{}, {}>", inside(&pair[0]), inside(&pair[1])),
            other => format!("map<{}>", name(other)),
        },
        other => other.to_string(),
    }
}

fn of_unit(unit: TimeUnit) -> &'static str {
    match unit {
        TimeUnit::Second => "s",
        TimeUnit::Millisecond => "ms",
        TimeUnit::Microsecond => "us",
        TimeUnit::Nanosecond => "ns",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_without_a_word_are_called_as_in_python() {
        let pair = |a: DataType, b: DataType| vec![Field::new("a", a, true), Field::new("b", b, true)].into();
        let of_struct = DataType::Struct(pair(DataType::Int64, DataType::new_list(DataType::Utf8View, true)));
        let entries = Field::new("entries", DataType::Struct(pair(DataType::Utf8, DataType::Int32)), false);
        let found = [
            DataType::Utf8,
            DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into())),
            DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8)),
            of_struct,
            DataType::Map(Arc::new(entries), false),
        ];
        let names = [
            "string",
            "timestamp[ns, tz=UTC]",
            "string",
            "struct<a: int64, b: list<string_view>>",
            "map<string, int32>",
        ];
        assert_eq!(found.iter().map(name).collect::<Vec<_>>(), names);
    }

    #[test]
    fn every_word_is_read_and_written_back() {
        let nested = ["timestamp[Europe/Berlin]", "decimal(38,0)", "list<list<decimal(5,2)>>"];
        for text in words().chain(nested) {
            assert_eq!(parse(text).as_ref().and_then(word).as_deref(), Some(text), "{text}");
        }
    }

    #[test]
    fn what_is_no_type_is_refused() {
        let deep = format!("{}string{}", "list<".repeat(10), ">".repeat(10));
        for text in ["", "int", "Int64", "decimal(5)", "decimal(39,2)", "decimal(2,5)", "list<>", "timestamp[]", &deep]
        {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
