use arrow::array::{AsArray, StringArray};
use arrow::datatypes::{DataType, Float64Type};
use serde_json::json;

use super::*;

fn people() -> RecordBatch {
    batch(&[
        json!({"id": 1, "name": "Ada", "age": 36, "tags": ["x", "y"]}),
        json!({"id": 2, "name": null, "age": 17, "tags": []}),
        json!({"id": 3, "name": "Bo", "age": null, "tags": ["z"]}),
        json!({"id": 4, "name": "Cy", "age": 70, "tags": null}),
    ])
}

fn plan(sql: &str, settings: &Settings) -> Result<RowWise, SqlError> {
    let query = Query::parse(sql).expect("a query");
    RowWise::plan(&query, "people", people().schema(), settings)
}

/// Checks the rows of the result and the input row of each; an empty list stands for one to one.
#[track_caller]
fn check(sql: &str, rows: &[&str], sources: &[u32]) {
    let query = plan(sql, &settings()).expect("a plan");
    let (batch, indices) = query.apply(people(), 0).expect("a result");
    assert_eq!(batch.schema_ref(), query.output_schema());
    assert_eq!(lines(&[batch])[1..], *rows, "{sql}");
    assert_eq!(indices.map(|indices| indices.values().to_vec()).unwrap_or_default(), sources, "{sql}");
}

#[test]
fn expressions_keep_rows_one_to_one() {
    check("SELECT id * 10 AS n, upper(name) AS up FROM people", &["10 | ADA", "20 |", "30 | BO", "40 | CY"], &[]);
}

#[test]
fn a_filter_keeps_order_and_tells_the_source_rows() {
    check("SELECT name FROM people WHERE age > 20", &["Ada", "Cy"], &[0, 3]);
    check("SELECT id FROM people WHERE name IS NOT NULL AND id <> 3", &["1", "4"], &[0, 3]);
    check("SELECT id FROM people WHERE true", &["1", "2", "3", "4"], &[]);
}

#[test]
fn filters_on_filters_map_to_the_first_rows() {
    check(
        "WITH grown AS (SELECT id, age FROM people WHERE id > 1) SELECT id FROM (SELECT * FROM grown WHERE id <> 3) AS g",
        &["2", "4"],
        &[1, 3],
    );
}

#[test]
fn no_rows_stay_no_rows() {
    check("SELECT id FROM people WHERE id > 100", &[], &[]);
    check("SELECT id FROM people WHERE false", &[], &[]);
    let query = plan("SELECT id, unnest(tags) AS tag FROM people WHERE id > 1", &settings()).expect("a plan");
    let (none, _) = query.apply(people().slice(0, 0), 3).expect("a result");
    assert_eq!((none.num_rows(), none.num_columns()), (0, 2));
}

#[test]
fn unnest_repeats_the_source_row() {
    check("SELECT id, unnest(tags) AS tag FROM people", &["1 | x", "1 | y", "3 | z"], &[0, 0, 2]);
    check(
        "SELECT id FROM (SELECT id, unnest(tags) AS tag FROM people WHERE id < 4) WHERE tag <> 'x'",
        &["1", "3"],
        &[0, 2],
    );
}

#[test]
fn a_constant_projection_has_a_row_for_each_row() {
    check("SELECT 7 AS n FROM people WHERE id < 3", &["7", "7"], &[0, 1]);
}

#[test]
fn columns_that_are_all_null_work() {
    // A column of type Null says that it holds no nulls.
    let nulls = RecordBatch::try_from_iter([("x", arrow::array::new_null_array(&DataType::Null, 2))]).expect("a batch");
    let query = Query::parse("SELECT x, coalesce(x, 5) AS y FROM t").expect("a query");
    let row_wise = RowWise::plan(&query, "t", nulls.schema(), &settings()).expect("a plan");
    let (batch, _) = row_wise.apply(nulls, 0).expect("a result");
    assert_eq!(lines(&[batch])[1..], ["| 5", "| 5"]);
}

#[test]
fn names_keep_their_case() {
    let batch = batch(&[json!({"Id": 1, "id": 2})]);
    let query = Query::parse("SELECT Id + id AS Sum, LOWER('A') AS a FROM Data").expect("a query");
    let row_wise = RowWise::plan(&query, "Data", batch.schema(), &settings()).expect("a plan");
    let (batch, _) = row_wise.apply(batch, 0).expect("a result");
    assert_eq!(lines(&[batch]), ["Sum | a", "3 | a"]);
}

#[test]
fn params_are_values_and_never_text() {
    let settings = with_params(&[
        ("floor", json!(20)),
        ("name", json!("Ada' OR '1'='1")),
        ("ratio", json!(0.5)),
        ("yes", json!(true)),
    ]);
    let query = plan(
        "SELECT id, $ratio * age AS half, $yes AS yes, $name AS text FROM people
         WHERE age >= $floor AND name <> $name AND length(name) < $floor",
        &settings,
    );
    let (batch, _) = query.expect("a plan").apply(people(), 0).expect("a result");
    assert_eq!(lines(&[batch])[1..], ["1 | 18.0 | true | Ada' OR '1'='1", "4 | 35.0 | true | Ada' OR '1'='1"]);
    let missing = plan("SELECT id FROM people WHERE id > $other", &settings).expect_err("an error");
    assert_eq!(missing.message, "no param is named `other`");
}

#[test]
fn now_is_the_start_of_the_run() {
    check(
        "SELECT CAST(now() AS VARCHAR) AS n, CAST(current_date() AS VARCHAR) AS d FROM people WHERE id = 1",
        &["1970-01-02T00:00:00 | 1970-01-02"],
        &[0],
    );
}

#[test]
fn random_follows_seed_stage_and_sequence() {
    let sql = "SELECT random() AS a, random() AS b, uuid() AS u FROM people";
    let values = |settings: &Settings, sequence| {
        let (batch, _) = plan(sql, settings).expect("a plan").apply(people(), sequence).expect("a result");
        let floats = |column: usize| batch.column(column).as_primitive::<Float64Type>().values().to_vec();
        (
            floats(0),
            floats(1),
            batch.column(2).as_string::<i32>().iter().flatten().map(str::to_owned).collect::<Vec<_>>(),
        )
    };
    let first = values(&settings(), 0);
    assert_eq!(first, values(&settings(), 0));
    let mut all: Vec<u64> = first.0.iter().chain(&first.1).map(|value| value.to_bits()).collect();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 8, "every row and every call has its own number");
    assert_ne!(first.0, values(&settings(), 1).0);
    assert_ne!(first.0, values(&Settings { seed: 2, ..settings() }, 0).0);
    assert_ne!(first.2, values(&Settings { stage: "other".to_owned(), ..settings() }, 0).2);
    assert!(plan(sql, &settings()).expect("a plan").depends_on_sequence());
    assert!(!plan("SELECT id FROM people", &settings()).expect("a plan").depends_on_sequence());
}

#[test]
fn strings_stay_plain_strings_and_columns_nullable() {
    let query =
        plan("SELECT CAST(id AS VARCHAR) AS a, name || '!' AS b, 1 AS c FROM people", &settings()).expect("a plan");
    let types: Vec<_> = query.output_schema().fields().iter().map(|field| field.data_type().clone()).collect();
    assert_eq!(types, [DataType::Utf8, DataType::Utf8, DataType::Int64]);
    assert!(query.output_schema().fields().iter().all(|field| field.is_nullable()));
}

#[track_caller]
fn check_plan_error(sql: &str, message: &str) {
    let error = plan(sql, &settings()).expect_err("an error");
    assert_eq!((error.message.as_str(), error.kind), (message, SqlErrorKind::Plan), "{sql}");
}

#[test]
fn plan_errors_say_what_is_wrong() {
    check_plan_error("SELECT nam FROM people", "no column is named `nam`; did you mean `name`?");
    check_plan_error("SELECT ID FROM people", "no column is named `ID`; did you mean `id`?");
    check_plan_error(
        "SELECT people.salary FROM people",
        "no column is named `people.salary`; there are `id`, `name`, `age`, `tags`",
    );
    check_plan_error("SELECT id, id FROM people", "two columns are named `id`: give one another name with `AS`");
    check_plan_error("SELECT lowr(name) FROM people", "invalid function 'lowr'.\nDid you mean 'lower'?");
}

#[test]
fn type_errors_are_plan_errors() {
    for sql in
        ["SELECT id FROM people WHERE name + tags", "SELECT abs(tags) FROM people", "SELECT id FROM people WHERE id"]
    {
        let error = plan(sql, &settings()).expect_err(sql);
        assert_eq!(error.kind, SqlErrorKind::Plan, "{}", error.message);
        assert!(!error.message.contains("Error during planning"), "{}", error.message);
    }
}

#[test]
fn values_that_cannot_be_computed_are_data_errors() {
    let query = plan("SELECT CAST(name AS BIGINT) AS n FROM people", &settings()).expect("a plan");
    let error = query.apply(people(), 0).expect_err("an error");
    assert_eq!(
        (error.message.as_str(), error.kind),
        ("cannot cast string 'Ada' to value of int64 type", SqlErrorKind::Data)
    );
    let query = plan("SELECT id / (id - 1) AS n FROM people", &settings()).expect("a plan");
    let error = query.apply(people(), 0).expect_err("an error");
    assert_eq!((error.message.as_str(), error.kind), ("division by zero", SqlErrorKind::Data));
}

#[test]
fn a_path_is_no_table() {
    let query = Query::parse("SELECT * FROM 'data.csv'").expect("a query");
    assert_eq!(query.tables(), ["data.csv"]);
    let error = RowWise::plan(&query, "people", people().schema(), &settings()).expect_err("an error");
    assert_eq!(error.kind, SqlErrorKind::Plan);
    for sql in ["SELECT * FROM read_csv('x.csv')", "SELECT * FROM parquet_scan('x')"] {
        let query = Query::parse(sql).expect("a query");
        assert!(StreamQuery::start(&query, Vec::new(), &settings(), RUNTIME.handle()).is_err(), "{sql}");
    }
}

#[test]
fn a_batch_of_other_columns_is_refused() {
    let query = plan("SELECT id FROM people", &settings()).expect("a plan");
    let other = RecordBatch::try_from_iter([("id", Arc::new(StringArray::from(vec!["1"])) as _)]).expect("a batch");
    assert_eq!(query.apply(other, 0).expect_err("an error").kind, SqlErrorKind::Internal);
}

#[test]
fn many_threads_share_one_plan() {
    let query = plan("SELECT id + 1 AS n, unnest(tags) AS tag FROM people WHERE id < 4", &settings()).expect("a plan");
    let expected = query.apply(people(), 0).expect("a result").0;
    thread::scope(|scope| {
        for sequence in 0..4 {
            let (query, expected) = (&query, &expected);
            scope.spawn(move || {
                for _ in 0..50 {
                    assert_eq!(&query.apply(people(), sequence).expect("a result").0, expected);
                }
            });
        }
    });
}
