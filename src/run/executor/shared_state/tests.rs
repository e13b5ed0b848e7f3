use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};

use super::*;

fn updates(rows: &[(&str, &str, Value)]) -> RecordBatch {
    let field = |name: &str| Field::new(name, DataType::Utf8, true);
    let schema = Schema::new(vec![field("kind"), field("name"), field("update")]);
    let column = |pick: &dyn Fn(&(&str, &str, Value)) -> String| -> Arc<StringArray> {
        Arc::new(rows.iter().map(|row| Some(pick(row))).collect())
    };
    let columns = [column(&|row| row.0.to_owned()), column(&|row| row.1.to_owned()), column(&|row| row.2.to_string())];
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
    let mut add =
        |name: String, what| state.apply(Kind::Map, &name, &[json!(what), json!("key"), json!(text)], &mut Vec::new());
    for number in 0..60 {
        add(format!("m{number}"), "set").expect("there is room");
        // In the place of what was there.
        add(format!("m{number}"), "set").expect("there is room");
    }
    let full = (60..70).find_map(|number| add(format!("m{number}"), "set").err());
    assert!(matches!(full, Some(StateError::Full)));
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
