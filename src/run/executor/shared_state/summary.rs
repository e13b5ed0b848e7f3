//! What of the state people and programs are shown at the end.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{ENTRY_BYTES, Key, Kind, Part, SharedState, size, weight};
use crate::run::StateSummary;

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

impl SharedState {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::LeftOut;

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
}
