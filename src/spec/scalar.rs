//! Plain scalars to typed values, as the core schema of YAML 1.2 reads them: `yes`, `no`, `on` and `off` are strings, and so
//! are digits with leading zeros (a postal code keeps its zero).

use serde_json::Number;

use super::tree::Value;

/// A scalar that has no counterpart in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsupported {
    NotFinite,
    TooLarge,
}

impl Unsupported {
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotFinite => "is not a finite number",
            Self::TooLarge => "does not fit into 64 bits",
        }
    }
}

/// The value of a plain scalar, `None` when it is a string.
pub fn resolve(text: &str) -> Result<Option<Value>, Unsupported> {
    let value = match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        _ => return Ok(number(text)?.map(Value::Number)),
    };
    Ok(Some(value))
}

fn number(text: &str) -> Result<Option<Number>, Unsupported> {
    let (negative, digits) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if [".inf", ".Inf", ".INF"].contains(&digits) || [".nan", ".NaN", ".NAN"].contains(&text) {
        return Err(Unsupported::NotFinite);
    }
    for (prefix, radix) in [("0x", 16), ("0o", 8), ("0b", 2)] {
        if let Some(digits) = digits.strip_prefix(prefix)
            && !digits.is_empty()
            && digits.chars().all(|digit| digit.is_digit(radix))
        {
            return integer(digits, radix, negative).map(Some);
        }
    }
    if !digits.starts_with(|first: char| first.is_ascii_digit() || first == '.') {
        return Ok(None);
    }
    if digits.bytes().all(|byte| byte.is_ascii_digit()) {
        let leading_zero = digits.len() > 1 && digits.starts_with('0');
        return if leading_zero { Ok(None) } else { integer(digits, 10, negative).map(Some) };
    }
    let float_characters = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'+' | b'-');
    if !digits.bytes().all(float_characters) || !digits.bytes().any(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<f64>() {
        Ok(value) => Number::from_f64(value).map(Some).ok_or(Unsupported::TooLarge),
        Err(_) => Ok(None),
    }
}

fn integer(digits: &str, radix: u32, negative: bool) -> Result<Number, Unsupported> {
    if negative {
        let text = format!("-{digits}");
        return i64::from_str_radix(&text, radix).map(Number::from).map_err(|_| Unsupported::TooLarge);
    }
    u64::from_str_radix(digits, radix).map(Number::from).map_err(|_| Unsupported::TooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> String {
        match resolve(text) {
            Ok(Some(Value::Null)) => "null".to_owned(),
            Ok(Some(Value::Bool(value))) => value.to_string(),
            Ok(Some(Value::Number(value))) => value.to_string(),
            Ok(_) => format!("{text:?}"),
            Err(unsupported) => unsupported.reason().to_owned(),
        }
    }

    #[test]
    fn plain_scalars_follow_yaml_1_2() {
        let cases = [
            ("", "null"),
            ("True", "true"),
            ("yes", "\"yes\""),
            ("off", "\"off\""),
            ("0x1F", "31"),
            ("-12", "-12"),
            ("0123", "\"0123\""),
            ("1.5e3", "1500.0"),
            (".5", "0.5"),
            ("1.2.3", "\"1.2.3\""),
            ("12:30", "\"12:30\""),
            ("-", "\"-\""),
            ("18446744073709551616", "does not fit into 64 bits"),
            ("-.inf", "is not a finite number"),
        ];
        for (text, expected) in cases {
            assert_eq!(json(text), expected, "{text}");
        }
    }
}
