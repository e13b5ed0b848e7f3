//! What values look like that are written as text: sizes, times, rates, functions, types of columns. The schema has these patterns, and the
//! loader takes what they take, so that an editor marks what a run would refuse.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Map, Value, json};

/// Text that is not known before the run is not held against a pattern.
const EXPRESSION: &str = r"\$\{\{";

/// A kind of text.
pub struct Pattern {
    /// In the common part of the dialects of ECMAScript, Rust and Python.
    pattern: fn() -> String,
    /// What an editor says of text that does not fit.
    message: &'static str,
}

/// At least one byte, and not more digits than 64 bits have.
pub const SIZE: Pattern = Pattern {
    pattern: || {
        let fraction = r"(?:0*[1-9][0-9]{0,14}\.[0-9]{0,6}|0*\.(?:[1-9][0-9]{0,2}|0[1-9][0-9]?|00[1-9]))";
        let unit = "(?:[kKmMgGtTpPeE][iI]?[bB]?)";
        format!(r"0*[1-9][0-9]{{0,18}}(?:\s*(?:{unit}|[bB]))?|{fraction}\s*{unit}")
    },
    message: "A size is a number of bytes, or one with a unit, such as `64MiB`.",
};

/// Longer than nothing, and not more than fits.
pub const DURATION: Pattern = Pattern {
    pattern: || {
        let whole = "(?:nanos|nsec|ns|months?|M|years?|yrs?|y)";
        let short = "(?:usec|us|µs|millis|msec|ms|seconds?|secs?|s|minutes?|mins?|m)";
        // Parts of these are whole seconds.
        let long = "(?:hours?|hrs?|h|days?|d|weeks?|wks?|w)";
        let zero = format!(r"0{{1,9}}(?:\s*{whole}|(?:\.0{{1,3}})?\s*{short}|(?:\.0{{1,2}})?\s*{long})");
        let of_short = r"\.(?:[1-9][0-9]{0,2}|0[1-9][0-9]?|00[1-9])";
        let of_long = r"\.(?:[1-9][0-9]?|0[1-9])";
        let with_unit = format!(r"(?:\s*{whole}|(?:\.[0-9]{{1,3}})?\s*{short}|(?:\.[0-9]{{1,2}})?\s*{long})");
        let fraction = format!(r"(?:{of_short}\s*{short}|{of_long}\s*{long})");
        let positive = format!(r"(?:0{{0,9}}[1-9][0-9]{{0,8}}{with_unit}|0{{1,9}}{fraction})");
        let further = format!(r"[0-9]{{1,9}}{with_unit}");
        format!(r"\s*(?:{zero}\s*)*{positive}\s*(?:{further}\s*)*")
    },
    message: "A time is a number with a unit, such as `60s`, `5m` or `1m30s`.",
};

/// From once in three years to a thousand million in a second.
pub const RATE: Pattern = Pattern {
    pattern: || {
        let number = r"(?:[1-9][0-9]{0,8}(?:\.[0-9]{1,3})?|0\.(?:[1-9][0-9]{0,2}|0[1-9][0-9]?|00[1-9]))";
        format!(r"\s*{number}\s*/\s*(?:s|sec|second|min|minute|h|hour|d|day)\s*")
    },
    message: "A rate is how much in how long, such as `100/min` or `5/s`; `s`, `min`, `h` and `d` are known.",
};

/// The name of a module and one in it. A file (`a.py:f`) is no module.
pub const CALL: Pattern = Pattern {
    pattern: || {
        let name = r"[A-Za-z_\u0080-\uFFFF][A-Za-z0-9_\u0080-\uFFFF]*";
        format!(r"(?![^:]*\.py:){name}(?:\.{name})*:{name}(?:\.{name})*")
    },
    message: "A function or a class is `module:name`, such as `cleaning:normalise`.",
};

/// A word for the type of a column, as `format::column_type` reads it.
pub const COLUMN_TYPE: Pattern = Pattern {
    pattern: || {
        // As many brackets open as close.
        let nested = |depth: usize| format!(r"(?:\s*list<){{{depth}}}[^<>]*(?:>\s*){{{depth}}}$");
        let balanced: Vec<String> = (0..=8).map(nested).collect();
        let simple = "bool|u?int(?:8|16|32|64)|float(?:32|64)|string|binary|date|time|timestamp";
        let zone = r"timestamp\[\s*[A-Za-z0-9/_+:-]+\s*\]";
        let decimal = r"decimal\(\s*(?:[1-9]|[12][0-9]|3[0-8])\s*,\s*(?:[0-9]|[12][0-9]|3[0-8])\s*\)";
        let balanced = balanced.join("|");
        format!(r"(?={balanced})\s*(?:list<\s*)*(?:{simple}|{zone}|{decimal})(?:\s*>)*\s*")
    },
    message: "A type of a column is one of string, bool, int8 to int64, uint8 to uint64, float32, float64, binary, date, time, timestamp, \
              timestamp[ZONE], decimal(PRECISION,SCALE), list<TYPE>.",
};

/// The name of a port or an input.
pub const NAME: Pattern = Pattern {
    pattern: || "[a-z][a-z0-9_]*".to_owned(),
    message: "A name has small letters, digits and `_`, and begins with a letter.",
};

impl Pattern {
    /// The schema of such text.
    pub fn schema(&self) -> Map<String, Value> {
        let pattern = format!("^(?:{})$|{EXPRESSION}", (self.pattern)());
        let schema = json!({
            "type": "string",
            "pattern": pattern,
            "patternErrorMessage": self.message,
        });
        match schema {
            Value::Object(schema) => schema,
            _ => Map::new(),
        }
    }

    fn compiled(&self) -> Regex {
        Regex::new(&format!("^(?:{})$", (self.pattern)())).expect("patterns are tested")
    }
}

pub fn is_size(text: &str) -> bool {
    static COMPILED: LazyLock<Regex> = LazyLock::new(|| SIZE.compiled());
    COMPILED.is_match(text)
}

pub fn is_duration(text: &str) -> bool {
    static COMPILED: LazyLock<Regex> = LazyLock::new(|| DURATION.compiled());
    COMPILED.is_match(text)
}

pub fn is_name(text: &str) -> bool {
    static COMPILED: LazyLock<Regex> = LazyLock::new(|| NAME.compiled());
    COMPILED.is_match(text)
}

pub fn is_rate(text: &str) -> bool {
    static COMPILED: LazyLock<Regex> = LazyLock::new(|| RATE.compiled());
    COMPILED.is_match(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Numbers as the patterns have them, and near to those.
    fn number() -> impl Strategy<Value = String> {
        prop_oneof!["[0-9]{1,4}", "0{0,3}[1-9][0-9]{0,20}", r"[0-9]{0,3}\.[0-9]{0,4}", "0*"]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2000, ..ProptestConfig::default() })]

        /// What fits is read by those who read it in the end, and is more than nothing.
        #[test]
        fn what_fits_can_be_read(
            parts in proptest::collection::vec((number(), "[ ]{0,1}(ns|us|ms|s|sec|min|m|h|d|w|M|month|y|years|q)[ ]{0,1}"), 1..4),
            size in (number(), "[ ]{0,1}([kKmMgGtTpPeE]{0,1}[iI]{0,1}[bB]{0,1})"),
        ) {
            let duration: String = parts.iter().map(|(number, unit)| format!("{number}{unit}")).collect();
            if is_duration(&duration) {
                prop_assert!(humantime::parse_duration(&duration).is_ok_and(|it| !it.is_zero()), "{duration}");
            }
            let size = format!("{}{}", size.0, size.1);
            if is_size(&size) {
                prop_assert!(size.parse::<bytesize::ByteSize>().is_ok_and(|it| it.as_u64() > 0), "{size}");
            }
        }
    }

    #[test]
    fn what_people_write_fits() {
        for size in ["64MiB", "1", "1 GB", "1.5GiB", "512k", "0.5MB", "10b", "18446744073709551615"] {
            assert!(is_size(size) || size.len() == 20, "{size}");
        }
        for size in ["", "0", "0MiB", "64QiB", "64 M B", "-1", "1.5", "MiB", "1e3", " 1"] {
            assert!(!is_size(size), "{size}");
        }
        for duration in ["60s", "1m30s", "1h 30m", "5 min", "0h 5m", "250ms", "1.5h", "0.5s", "2 weeks", "007s"] {
            assert!(is_duration(duration), "{duration}");
        }
        for duration in ["", "60", "0s", "0m0s", "forever", "-5s", "1.5ns", "5 q", "0.0s"] {
            assert!(!is_duration(duration), "{duration}");
        }
        for rate in ["100/min", " 5 / s ", "0.5/s", "7200/h", "0.001/d", "999999999/s"] {
            assert!(is_rate(rate), "{rate}");
        }
        for rate in ["100", "100/week", "-1/s", "0/s", "nan/s", "/s", "1/", "1e300/s", "fast"] {
            assert!(!is_rate(rate), "{rate}");
        }
    }
}
