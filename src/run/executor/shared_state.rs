//! [`SharedState`]: what the workers of a run count and collect together (`millpond.state`). An attempt's updates come with its output, so
//! that they count once, in the order of the stage's batches.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use arrow::array::{Array as _, RecordBatch, StringArray};
use serde::{Deserialize, Serialize};
use serde_json::{Number, Value, json};

use crate::run::StateSummary;

/// Bytes that all of it may have, about.
const LIMIT: usize = 64 << 20;
/// Different items of which counts are exact.
const EXACT: usize = 10_000;
/// What an entry takes beside its key and value.
const ENTRY_BYTES: usize = 64;
/// Items of [`Kind::Top`] that its summary shows.
const MOST_FREQUENT: usize = 10;
/// Keys or items of a part that its summary shows.
const SHOWN: usize = 10_000;
/// Bytes of a part that its summary shows, about.
const SHOWN_BYTES: usize = 1 << 20;
/// Bytes that the summary of all parts may have, about: it is written and read as a whole.
const SUMMARY_BYTES: usize = 8 << 20;
/// How far the middle of a bucket of [`Kind::Quantiles`] may be from a number in it, as a part of that.
const ACCURACY: f64 = 0.01;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Counter,
    Map,
    Set,
    Top,
    Quantiles,
}

impl Kind {
    pub fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Map => "map",
            Self::Set => "set",
            Self::Top => "top",
            Self::Quantiles => "quantiles",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Key {
    Number(i64),
    Text(String),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("{kind} `{name}` of the state goes beyond 64 bits", kind = .0.word(), name = .1)]
    Overflow(Kind, String),
    #[error("{kind} `{name}` of the state has something at `{key}` that is no number", kind = .0.word(), name = .1, key = .2)]
    NoNumber(Kind, String, Key),
    #[error("the state of the run has more than {} MiB: keep what is as large as that in a file, or in a stage with `partition_by`", LIMIT >> 20)]
    Full,
    #[error("an update of the state cannot be read: {0}")]
    Malformed(String),
}

#[derive(Debug, Default)]
pub struct SharedState {
    parts: BTreeMap<(Kind, String), Part>,
    bytes: usize,
}

#[derive(Debug)]
enum Part {
    Counter(Number),
    Map(BTreeMap<Key, Value>),
    Set(BTreeSet<Key>),
    /// How often each came. Those that came seldom are given up if there are too many; `floor` is what they may have had.
    Counts {
        counts: BTreeMap<Key, u64>,
        floor: u64,
    },
}

/// An update that was applied.
#[derive(Debug)]
struct Done {
    kind: Kind,
    name: String,
    before: Before,
}

/// What there was before it.
#[derive(Debug)]
enum Before {
    Nothing,
    Total(Number),
    Value(Key, Option<Value>),
    NoItem(Key),
    Count(Key, Option<u64>),
    Counts { counts: BTreeMap<Key, u64>, floor: u64 },
}

impl SharedState {
    /// Takes in what has been done with a batch: rows of `kind`, `name` and `update` ([what, …] as JSON).
    ///
    /// # Errors
    /// If it cannot be done, or there is too much. Then nothing of it is.
    pub fn take(&mut self, updates: &[RecordBatch]) -> Result<(), StateError> {
        self.all_or_nothing(|state, done| updates.iter().try_for_each(|updates| state.take_rows(updates, done)))
    }

    /// Undoes what has been done if the rest of it cannot be.
    fn all_or_nothing(
        &mut self,
        update: impl FnOnce(&mut Self, &mut Vec<Done>) -> Result<(), StateError>,
    ) -> Result<(), StateError> {
        let (bytes, mut done) = (self.bytes, Vec::new());
        let result = update(self, &mut done);
        if result.is_err() {
            while let Some(last) = done.pop() {
                self.undo(last);
            }
            self.bytes = bytes;
        }
        result
    }

    fn take_rows(&mut self, updates: &RecordBatch, done: &mut Vec<Done>) -> Result<(), StateError> {
        let column = |name: &str| {
            let column = updates.column_by_name(name)?.as_any().downcast_ref::<StringArray>()?;
            (column.null_count() == 0).then_some(column)
        };
        let (Some(kinds), Some(names), Some(texts)) = (column("kind"), column("name"), column("update")) else {
            return Err(StateError::Malformed("it has other columns".to_owned()));
        };
        for row in 0..updates.num_rows() {
            let malformed = |error: serde_json::Error| StateError::Malformed(error.to_string());
            let kind = serde_json::from_value(json!(kinds.value(row))).map_err(malformed)?;
            let update: Vec<Value> = serde_json::from_str(texts.value(row)).map_err(malformed)?;
            self.apply(kind, names.value(row), &update, done)?;
        }
        Ok(())
    }

    /// Applies one update; what is to be undone if a later one cannot be applied goes to `done`.
    fn apply(&mut self, kind: Kind, name: &str, update: &[Value], done: &mut Vec<Done>) -> Result<(), StateError> {
        let mut note = |before| done.push(Done { kind, name: name.to_owned(), before });
        let part = self.parts.entry((kind, name.to_owned())).or_insert_with(|| {
            self.bytes += ENTRY_BYTES + name.len();
            note(Before::Nothing);
            Part::new(kind)
        });
        let overflow = || StateError::Overflow(kind, name.to_owned());
        let malformed = || StateError::Malformed(json!(update).to_string());
        let key = |value: &Value| Key::deserialize(value).map_err(|_| malformed());
        match (part, update) {
            (Part::Counter(total), [Value::String(what), Value::Number(amount)]) if what == "add" => {
                let new = sum(total, amount).ok_or_else(overflow)?;
                note(Before::Total(std::mem::replace(total, new)));
            }
            (Part::Map(map), [Value::String(what), at]) if what == "remove" => {
                let at = key(at)?;
                if let Some(old) = map.remove(&at) {
                    self.bytes = self.bytes.saturating_sub(size(&at) + weight(&old));
                    note(Before::Value(at, Some(old)));
                }
            }
            (Part::Map(map), [Value::String(what), at, value]) => {
                let at = key(at)?;
                let new = match (what.as_str(), map.get(&at), value) {
                    ("set", _, value) | ("add" | "max" | "min", None | Some(Value::Null), value) => value.clone(),
                    ("add", Some(Value::Number(old)), Value::Number(new)) => {
                        Value::Number(sum(old, new).ok_or_else(overflow)?)
                    }
                    ("max", Some(Value::Number(old)), Value::Number(new)) => {
                        Value::Number(if is_less(old, new) { new.clone() } else { old.clone() })
                    }
                    ("min", Some(Value::Number(old)), Value::Number(new)) => {
                        Value::Number(if is_less(new, old) { new.clone() } else { old.clone() })
                    }
                    ("add" | "max" | "min", Some(_), Value::Number(_)) => {
                        return Err(StateError::NoNumber(kind, name.to_owned(), at));
                    }
                    _ => return Err(malformed()),
                };
                self.bytes += weight(&new);
                let old = map.insert(at.clone(), new);
                match &old {
                    Some(old) => self.bytes = self.bytes.saturating_sub(weight(old)),
                    None => self.bytes += size(&at),
                }
                note(Before::Value(at, old));
            }
            (Part::Set(set), [Value::String(what), item]) if what == "add" => {
                let item = key(item)?;
                if set.insert(item.clone()) {
                    self.bytes += size(&item);
                    note(Before::NoItem(item));
                }
            }
            (Part::Counts { counts, floor }, [Value::String(what), item, Value::Number(amount)]) if what == "add" => {
                let item = key(item)?;
                let amount = amount.as_u64().ok_or_else(malformed)?;
                let old = counts.get(&item).copied();
                let new = old.unwrap_or(*floor).checked_add(amount).ok_or_else(overflow)?;
                self.bytes += if old.is_none() { size(&item) } else { 0 };
                counts.insert(item.clone(), new);
                note(Before::Count(item, old));
                if kind == Kind::Top && counts.len() > 2 * EXACT {
                    note(Before::Counts { counts: counts.clone(), floor: *floor });
                    let given_up = give_up_rare(counts, floor);
                    self.bytes = self.bytes.saturating_sub(given_up);
                }
            }
            _ => return Err(malformed()),
        }
        if self.bytes > LIMIT { Err(StateError::Full) } else { Ok(()) }
    }

    fn undo(&mut self, Done { kind, name, before }: Done) {
        let at = (kind, name);
        if matches!(before, Before::Nothing) {
            self.parts.remove(&at);
            return;
        }
        match (self.parts.get_mut(&at), before) {
            (Some(Part::Counter(total)), Before::Total(old)) => *total = old,
            (Some(Part::Map(map)), Before::Value(key, Some(old))) => drop(map.insert(key, old)),
            (Some(Part::Map(map)), Before::Value(key, None)) => drop(map.remove(&key)),
            (Some(Part::Set(set)), Before::NoItem(item)) => drop(set.remove(&item)),
            (Some(Part::Counts { counts, .. }), Before::Count(item, Some(old))) => drop(counts.insert(item, old)),
            (Some(Part::Counts { counts, .. }), Before::Count(item, None)) => drop(counts.remove(&item)),
            (Some(Part::Counts { counts, floor }), Before::Counts { counts: old, floor: old_floor }) => {
                (*counts, *floor) = (old, old_floor);
            }
            (part, before) => unreachable!("{before:?} is undone where there is {part:?}"),
        }
    }

    /// A part as workers are told it; null if there is none.
    pub fn read(&self, kind: Kind, name: &str) -> Value {
        match self.parts.get(&(kind, name.to_owned())) {
            None => Value::Null,
            Some(Part::Counter(total)) => Value::Number(total.clone()),
            Some(Part::Map(map)) => map.iter().map(|(key, value)| json!([key, value])).collect(),
            Some(Part::Set(set)) => set.iter().map(|item| json!(item)).collect(),
            Some(Part::Counts { counts, .. }) => counts.iter().map(|(item, count)| json!([item, count])).collect(),
        }
    }

    /// Sets the value of a key of a map if it is `expected` (null: if there is none).
    ///
    /// # Errors
    /// If there is too much.
    pub fn compare_and_set(
        &mut self,
        name: &str,
        key: Key,
        expected: &Value,
        value: &Value,
    ) -> Result<bool, StateError> {
        let now = match self.parts.get(&(Kind::Map, name.to_owned())) {
            Some(Part::Map(map)) => map.get(&key).unwrap_or(&Value::Null),
            _ => &Value::Null,
        };
        if now != expected {
            return Ok(false);
        }
        // It is refused, and not done and complained of: the run goes on.
        if self.bytes + size(&key) + weight(value) > LIMIT {
            return Err(StateError::Full);
        }
        let update = [json!("set"), json!(key), value.clone()];
        self.all_or_nothing(|state, done| state.apply(Kind::Map, name, &update, done))?;
        Ok(true)
    }

    /// All of it that is fit to be read, for people and programs. Of counts, those of the most frequent ones.
    pub fn summary(&self) -> StateSummary {
        let mut summary = StateSummary::default();
        let mut room = SUMMARY_BYTES;
        // What is short comes first, so that large maps and sets cannot hide it.
        let (long, short): (Vec<_>, Vec<_>) =
            self.parts.iter().partition(|((kind, _), _)| matches!(kind, Kind::Map | Kind::Set));
        for ((kind, name), part) in short.into_iter().chain(long) {
            let Some(left) = room.checked_sub(ENTRY_BYTES + name.len()) else {
                summary.left_out.entry(kind.word()).or_default().parts += 1;
                continue;
            };
            let (value, bytes, left_out) = part.shown(*kind, left.min(SHOWN_BYTES));
            room = left - bytes;
            summary.parts.entry(kind.word()).or_default().insert(name.clone(), value);
            if left_out > 0 {
                summary.left_out.entry(kind.word()).or_default().entries.insert(name.clone(), left_out);
            }
        }
        summary
    }
}

impl Part {
    fn new(kind: Kind) -> Self {
        match kind {
            Kind::Counter => Self::Counter(0.into()),
            Kind::Map => Self::Map(BTreeMap::new()),
            Kind::Set => Self::Set(BTreeSet::new()),
            Kind::Top | Kind::Quantiles => Self::Counts { counts: BTreeMap::new(), floor: 0 },
        }
    }

    /// What a summary shows of it, the bytes that this has, and how many keys or items are left out.
    fn shown(&self, kind: Kind, room: usize) -> (Value, usize, u64) {
        let mut shelf = Shelf { room, used: 0, shown: 0, left_out: 0 };
        let value = match self {
            Self::Counter(total) => Value::Number(total.clone()),
            Self::Map(map) => {
                let shown = map.iter().filter(|(key, value)| shelf.takes(size(key) + weight(value)));
                // Numbers sort first. As keys of an object, 1 and "1" would be one.
                if matches!(map.first_key_value(), Some((Key::Number(_), _))) {
                    shown.map(|(key, value)| json!([key, value])).collect()
                } else {
                    shown.map(|(key, value)| (key.to_string(), value.clone())).collect()
                }
            }
            Self::Set(set) => set.iter().filter(|item| shelf.takes(size(item))).map(|item| json!(item)).collect(),
            Self::Counts { counts, .. } if kind == Kind::Quantiles => quantiles(counts),
            Self::Counts { counts, .. } => {
                let mut all: Vec<_> = counts.iter().collect();
                all.sort_by_key(|(item, count)| (std::cmp::Reverse(**count), *item));
                all.truncate(MOST_FREQUENT);
                let shown = all.into_iter().filter(|(item, _)| shelf.takes(size(item)));
                shown.map(|(item, count)| json!([item, count])).collect()
            }
        };
        (value, shelf.used, shelf.left_out)
    }
}

/// How much of a part its summary has room for.
struct Shelf {
    room: usize,
    used: usize,
    shown: usize,
    left_out: u64,
}

impl Shelf {
    /// Whether there is room for one more entry of so many bytes. One that is too large takes no room from those after it.
    fn takes(&mut self, bytes: usize) -> bool {
        let fits = self.shown < SHOWN && self.used + bytes <= self.room;
        if fits {
            self.used += bytes;
            self.shown += 1;
        } else {
            self.left_out += 1;
        }
        fits
    }
}

/// Keeps the items with the highest counts; the bytes of the others. As in Metwally, Agrawal, El Abbadi: "Efficient computation of frequent
/// and top-k elements in data streams" (2005), but for many items at once.
fn give_up_rare(counts: &mut BTreeMap<Key, u64>, floor: &mut u64) -> usize {
    let mut by_count: Vec<_> = std::mem::take(counts).into_iter().collect();
    by_count.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    let rare = by_count.split_off(EXACT);
    *floor = rare[0].1;
    *counts = by_count.into_iter().collect();
    rare.iter().map(|(item, _)| size(item)).sum()
}

/// Some quantiles of numbers that are counted in buckets, as `python/millpond/state_parts.py` makes them.
fn quantiles(counts: &BTreeMap<Key, u64>) -> Value {
    let mut buckets: Vec<(f64, u64)> = counts.iter().map(|(bucket, count)| (middle(bucket), *count)).collect();
    buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
    let all: u64 = buckets.iter().map(|(_, count)| count).sum();
    let at = |part: f64| {
        let mut rank = part * (all.saturating_sub(1)) as f64;
        buckets.iter().find_map(|(middle, count)| {
            let is_here = rank < *count as f64;
            rank -= *count as f64;
            is_here.then_some(*middle)
        })
    };
    json!({"count": all, "min": at(0.0), "p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "max": at(1.0)})
}

fn middle(bucket: &Key) -> f64 {
    let Key::Text(text) = bucket else { return f64::NAN };
    let Ok(index) = text[text.len().min(1)..].parse::<i32>() else { return 0.0 };
    let gamma = (1.0 + ACCURACY) / (1.0 - ACCURACY);
    let size = 2.0 * gamma.powi(index) / (gamma + 1.0);
    if text.starts_with('-') { -size } else { size }
}

/// `None` if it cannot be had: whole numbers stay whole.
fn sum(a: &Number, b: &Number) -> Option<Number> {
    match (a.as_i64(), b.as_i64()) {
        (Some(a), Some(b)) => a.checked_add(b).map(Number::from),
        _ => Number::from_f64(a.as_f64()? + b.as_f64()?),
    }
}

fn is_less(a: &Number, b: &Number) -> bool {
    match (a.as_i64(), b.as_i64()) {
        (Some(a), Some(b)) => a < b,
        _ => a.as_f64() < b.as_f64(),
    }
}

fn size(key: &Key) -> usize {
    ENTRY_BYTES + if let Key::Text(text) = key { text.len() } else { 0 }
}

fn weight(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(|item| ENTRY_BYTES + weight(item)).sum(),
        Value::Object(items) => items.iter().map(|(key, item)| ENTRY_BYTES + key.len() + weight(item)).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;
    use crate::run::LeftOut;

    fn updates(rows: &[(&str, &str, Value)]) -> RecordBatch {
        let field = |name: &str| Field::new(name, DataType::Utf8, true);
        let schema = Schema::new(vec![field("kind"), field("name"), field("update")]);
        let column = |pick: &dyn Fn(&(&str, &str, Value)) -> String| -> Arc<StringArray> {
            Arc::new(rows.iter().map(|row| Some(pick(row))).collect())
        };
        let columns =
            [column(&|row| row.0.to_owned()), column(&|row| row.1.to_owned()), column(&|row| row.2.to_string())];
        RecordBatch::try_new(Arc::new(schema), columns.map(|column| column as _).to_vec()).expect("three columns")
    }

    fn state(rows: &[(&str, &str, Value)]) -> Result<SharedState, StateError> {
        let mut state = SharedState::default();
        state.take(&[updates(rows)])?;
        Ok(state)
    }

    #[test]
    fn updates_are_done_one_after_the_other() {
        let state = state(&[
            ("counter", "n", json!(["add", 2])),
            ("counter", "n", json!(["add", 3])),
            ("counter", "f", json!(["add", 1])),
            ("counter", "f", json!(["add", 0.5])),
            ("map", "m", json!(["add", "a", 1])),
            ("map", "m", json!(["add", "a", 4])),
            ("map", "m", json!(["max", 7, 1])),
            ("map", "m", json!(["max", 7, 3])),
            ("map", "m", json!(["min", "low", 3])),
            ("map", "m", json!(["min", "low", 1.5])),
            ("map", "m", json!(["set", "x", {"any": [1]}])),
            ("map", "m", json!(["set", "gone", 1])),
            ("map", "m", json!(["remove", "gone"])),
            ("set", "s", json!(["add", "b"])),
            ("set", "s", json!(["add", 1])),
            ("set", "s", json!(["add", "b"])),
            ("top", "t", json!(["add", "rare", 1])),
            ("top", "t", json!(["add", "often", 5])),
            ("quantiles", "q", json!(["add", "+3", 2])),
        ])
        .expect("all make sense");
        assert_eq!(state.read(Kind::Counter, "n"), json!(5));
        assert_eq!(state.read(Kind::Counter, "f"), json!(1.5));
        assert_eq!(state.read(Kind::Map, "m"), json!([[7, 3], ["a", 5], ["low", 1.5], ["x", {"any": [1]}]]));
        assert_eq!(state.read(Kind::Set, "s"), json!([1, "b"]));
        assert_eq!(state.read(Kind::Quantiles, "q"), json!([["+3", 2]]));
        assert_eq!(state.read(Kind::Map, "n"), Value::Null);
        assert_eq!(state.summary().parts["top"]["t"], json!([["often", 5], ["rare", 1]]));
        let middle = state.summary().parts["quantiles"]["q"]["p50"].as_f64().expect("there are some");
        assert!((middle / 1.051 - 1.0).abs() < 0.001, "{middle}");
    }

    #[test]
    fn a_value_is_set_only_if_it_is_the_expected_one() {
        let mut state = SharedState::default();
        let key = || Key::Text("k".to_owned());
        assert!(state.compare_and_set("m", key(), &Value::Null, &json!("mine")).expect("small"));
        assert!(!state.compare_and_set("m", key(), &Value::Null, &json!("other")).expect("small"));
        assert!(state.compare_and_set("m", key(), &json!("mine"), &json!("other")).expect("small"));
        assert_eq!(state.read(Kind::Map, "m"), json!([["k", "other"]]));
    }

    #[test]
    fn what_makes_no_sense_is_an_error() {
        let error = |rows: &[(&str, &str, Value)]| state(rows).expect_err("it must fail").to_string();
        assert_eq!(
            error(&[("map", "m", json!(["set", "a", "text"])), ("map", "m", json!(["add", "a", 1]))]),
            "map `m` of the state has something at `a` that is no number"
        );
        let large = i64::MAX;
        assert_eq!(
            error(&[("counter", "n", json!(["add", large])), ("counter", "n", json!(["add", large]))]),
            "counter `n` of the state goes beyond 64 bits"
        );
        for update in [json!(["add"]), json!([]), json!(["sub", 1]), json!(["add", "x"]), json!(["add", null, 1])] {
            assert!(error(&[("counter", "n", update)]).starts_with("an update of the state cannot be read"));
        }
        assert!(error(&[("heap", "n", json!(["add", 1]))]).contains("heap"));
        assert!(error(&[("set", "n", json!(["add", {}]))]).starts_with("an update of the state cannot be read"));
    }

    #[test]
    fn what_fails_in_the_middle_is_undone() {
        let before = [
            ("counter", "n", json!(["add", 2])),
            ("map", "m", json!(["set", "old", "text"])),
            ("map", "m", json!(["set", "gone", 1])),
            ("set", "s", json!(["add", "b"])),
            ("quantiles", "q", json!(["add", "+3", 2])),
        ];
        let many = (0..2 * EXACT).map(|item| ("top", "t", json!(["add", item, 1])));
        let mut state = state(&before.into_iter().chain(many).collect::<Vec<_>>()).expect("all make sense");
        let was = format!("{state:?}");
        let failing = [
            ("counter", "n", json!(["add", 1])),
            ("counter", "new", json!(["add", 1])),
            ("map", "m", json!(["set", "old", "new"])),
            ("map", "m", json!(["set", "old", "newer"])),
            ("map", "m", json!(["set", "other", 3])),
            ("map", "m", json!(["remove", "gone"])),
            ("set", "s", json!(["add", "b"])),
            ("set", "s", json!(["add", "c"])),
            ("quantiles", "q", json!(["add", "+3", 2])),
            ("quantiles", "q", json!(["add", "+4", 2])),
            // With this one those that came seldom are given up.
            ("top", "t", json!(["add", "one more", 5])),
            ("counter", "n", json!(["add", i64::MAX])),
        ];
        // As the parts of one batch.
        let (first, second) = failing.split_at(6);
        let error = state.take(&[updates(first), updates(second)]).expect_err("it is too much");
        assert!(matches!(error, StateError::Overflow(Kind::Counter, _)), "{error}");
        assert_eq!(format!("{state:?}"), was);
    }

    #[test]
    fn the_state_has_a_limit() {
        let text = "x".repeat(1 << 20);
        let mut state = SharedState::default();
        let mut add = |name: String, what| {
            state.apply(Kind::Map, &name, &[json!(what), json!("key"), json!(text)], &mut Vec::new())
        };
        for number in 0..60 {
            add(format!("m{number}"), "set").expect("there is room");
            // In the place of what was there.
            add(format!("m{number}"), "set").expect("there is room");
        }
        let full = (60..70).find_map(|number| add(format!("m{number}"), "set").err());
        assert!(matches!(full, Some(StateError::Full)));
    }

    #[test]
    fn a_summary_shows_what_is_fit_to_be_read_and_counts_the_rest() {
        let mut state = SharedState::default();
        let add = |state: &mut SharedState, kind, name: &str, update: Value| {
            state.apply(kind, name, update.as_array().expect("a list"), &mut Vec::new()).expect("there is room");
        };
        for number in 0..SHOWN + 5 {
            add(&mut state, Kind::Map, "many", json!(["set", number, 1]));
            add(&mut state, Kind::Set, "many", json!(["add", number]));
        }
        // One that is too large does not hide those that come after it.
        let large = "x".repeat(SHOWN_BYTES);
        add(&mut state, Kind::Map, "large", json!(["set", "a", large]));
        add(&mut state, Kind::Map, "large", json!(["set", "b", "small"]));
        let summary = state.summary();
        assert_eq!(summary.parts["set"]["many"].as_array().map(Vec::len), Some(SHOWN));
        assert_eq!(summary.left_out["set"].entries, BTreeMap::from([("many".to_owned(), 5)]));
        assert_eq!(summary.parts["map"]["large"], json!({"b": "small"}));
        let left_out = &summary.left_out["map"];
        assert_eq!((left_out.entries["many"], left_out.entries["large"]), (5, 1));

        // So many that not even each of them is shown.
        let mut state = SharedState::default();
        for number in 10..30 {
            add(&mut state, Kind::Map, &format!("m{number}"), json!(["set", "key", large[..SHOWN_BYTES / 2]]));
        }
        add(&mut state, Kind::Set, "s", json!(["add", "item"]));
        add(&mut state, Kind::Top, "t", json!(["add", "item", 1]));
        let name = "y".repeat(SUMMARY_BYTES);
        add(&mut state, Kind::Counter, &name, json!(["add", 7]));
        let summary = state.summary();
        assert_eq!(summary.left_out["counter"], LeftOut { parts: 1, ..LeftOut::default() });
        assert_eq!(summary.parts["top"]["t"], json!([["item", 1]]));
        assert_eq!(summary.parts["map"]["m10"].as_object().map(serde_json::Map::len), Some(1));
        assert_eq!(summary.left_out["map"].entries["m29"], 1);
        assert_eq!(summary.parts["set"]["s"], json!(["item"]));
        assert!(json!(summary.parts).to_string().len() < 2 * SUMMARY_BYTES);
    }

    #[test]
    fn counts_of_very_many_items_are_bounded_and_those_of_frequent_ones_right() {
        let mut state = SharedState::default();
        let mut add = |item: i64| {
            state.apply(Kind::Top, "t", &[json!("add"), json!(item), json!(1)], &mut Vec::new()).expect("counted")
        };
        for round in 0..100_000 {
            add(round + 1_000);
            add(round % 10);
        }
        let Some(Part::Counts { counts, floor }) = state.parts.get(&(Kind::Top, "t".to_owned())) else {
            panic!("it is there");
        };
        assert!(counts.len() <= 2 * EXACT);
        assert!(*floor <= 200_000 / EXACT as u64);
        assert!((0..10).all(|item| counts[&Key::Number(item)] == 10_000));
        assert!(state.bytes < 3 * EXACT * ENTRY_BYTES);
    }
}
