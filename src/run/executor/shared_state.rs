//! [`SharedState`]: what the workers of a run count and collect together (`millpond.state`). An attempt's updates come with its output, so
//! that they count once, in the order of the stage's batches.

mod summary;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use arrow::array::{Array as _, RecordBatch, StringArray};
use serde::{Deserialize, Serialize};
use serde_json::{Number, Value, json};

/// Bytes that all of it may have, about.
const LIMIT: usize = 64 << 20;
/// Different items of which counts are exact.
const EXACT: usize = 10_000;
/// What an entry takes beside its key and value.
const ENTRY_BYTES: usize = 64;
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
mod tests;
