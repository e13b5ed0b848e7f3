use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::{Array, AsArray, Float64Array, Int64Array, StringArray};
use arrow::datatypes::{Float64Type, Int64Type, Schema};
use serde_json::json;

use super::*;

fn orders() -> Table {
    let rows = [
        json!({"id": 1, "customer": "b", "amount": 10.5}),
        json!({"id": 2, "customer": "a", "amount": 1.0}),
        json!({"id": 3, "customer": "c", "amount": 2.0}),
        json!({"id": 4, "customer": "b", "amount": 4.5}),
        json!({"id": 5, "customer": null, "amount": 8.0}),
    ];
    let whole = batch(&rows);
    table("orders", &[whole.slice(0, 2), whole.slice(2, 0), whole.slice(2, 3)])
}

fn customers() -> Table {
    table("customers", &[batch(&[json!({"name": "a", "city": "Oslo"}), json!({"name": "b", "city": "Rome"})])])
}

/// `batches` batches of 8,192 rows: `id` counts, `key` repeats and is shuffled, `text` is wide.
fn many(batches: usize, groups: i64) -> Vec<RecordBatch> {
    let text = "x".repeat(40);
    (0..batches)
        .map(|number| {
            let ids = (number as i64 * 8192)..((number as i64 + 1) * 8192);
            let shuffled = |id: i64| id.wrapping_mul(0x9E37_79B9_7F4A_7C15_u64 as i64) >> 20;
            let id = Int64Array::from_iter_values(ids.clone());
            let key = Int64Array::from_iter_values(ids.clone().map(|id| shuffled(id).rem_euclid(groups)));
            let value = Float64Array::from_iter_values(ids.clone().map(|id| shuffled(id) as f64 / 1e3));
            let text = StringArray::from_iter_values(ids.map(|id| format!("{text}{}", shuffled(id))));
            RecordBatch::try_from_iter([
                ("id", Arc::new(id) as Arc<dyn Array>),
                ("key", Arc::new(key)),
                ("value", Arc::new(value)),
                ("text", Arc::new(text)),
            ])
            .expect("columns of one length")
        })
        .collect()
}

#[test]
fn groups_come_sorted_by_their_keys() {
    check_stream(
        "SELECT customer, count(*) AS n, sum(amount) AS total FROM orders GROUP BY customer",
        vec![orders()],
        &["customer | n | total", "a | 1 | 1.0", "b | 2 | 15.0", "c | 1 | 2.0", "| 1 | 8.0"],
    );
    check_stream(
        "SELECT max(id) AS last, customer FROM orders GROUP BY customer HAVING count(*) = 1 LIMIT 2",
        vec![orders()],
        &["last | customer", "2 | a", "3 | c"],
    );
    check_stream(
        "SELECT n FROM (SELECT id % 2 AS odd, customer IS NULL AS anon, count(*) AS n FROM orders GROUP BY 1, 2) AS g",
        vec![orders()],
        &["n", "2", "2", "1"],
    );
}

#[test]
fn an_order_by_wins_over_the_order_of_groups() {
    check_stream(
        "SELECT customer, count(*) AS n FROM orders GROUP BY customer ORDER BY n DESC, customer DESC NULLS LAST",
        vec![orders()],
        &["customer | n", "b | 2", "c | 1", "a | 1", "| 1"],
    );
}

#[test]
fn joins_keep_the_order_of_the_first_table() {
    check_stream(
        "SELECT o.id, c.city FROM orders o JOIN customers c ON o.customer = c.name",
        vec![orders(), customers()],
        &["id | city", "1 | Rome", "2 | Oslo", "4 | Rome"],
    );
    check_stream(
        "SELECT id, city FROM orders LEFT JOIN customers ON customer = name",
        vec![orders(), customers()],
        &["id | city", "1 | Rome", "2 | Oslo", "3 |", "4 | Rome", "5 |"],
    );
    check_stream(
        "SELECT id FROM orders WHERE customer IN (SELECT name FROM customers WHERE city = 'Rome')",
        vec![orders(), customers()],
        &["id", "1", "4"],
    );
    check_stream(
        "SELECT id FROM orders WHERE customer NOT IN (SELECT name FROM customers)",
        vec![orders(), customers()],
        &["id", "3"],
    );
    check_stream(
        "SELECT id, city FROM orders, customers WHERE id < 3 AND id + length(city) > 5",
        vec![orders(), customers()],
        &["id | city", "2 | Oslo", "2 | Rome"],
    );
}

#[test]
fn a_join_reads_its_right_side_first() {
    let (release, released) = mpsc::channel::<()>();
    let release = std::sync::Mutex::new(Some(release));
    let right_taken = Arc::new(AtomicUsize::new(0));
    let (orders, customers) = (orders(), customers());
    let (left_feed, left) = Input::new("orders", orders.schema, Arc::new(|| ()));
    let counter = Arc::clone(&right_taken);
    let on_change: OnChange = Arc::new(move || {
        counter.fetch_add(1, Ordering::SeqCst);
        drop(release.lock().expect("no panic").take());
    });
    let (right_feed, right) = Input::new("customers", customers.schema, on_change);
    let query = Query::parse("SELECT id, city FROM orders JOIN customers ON customer = name").expect("a query");
    let puller = thread::spawn(move || {
        let mut stream = StreamQuery::start(&query, vec![left, right], &settings(), RUNTIME.handle()).expect("a plan");
        let mut rows = 0;
        while let Some(batch) = stream.next().expect("a batch") {
            rows += batch.num_rows();
        }
        rows
    });
    right_feed.try_feed(customers.batches[0].clone()).expect("room");
    assert!(released.recv().is_err(), "the sender is dropped when the right side's batch is taken");
    assert_eq!(right_taken.load(Ordering::SeqCst), 1);
    right_feed.end();
    for batch in orders.batches {
        while !left_feed.has_room() {
            thread::yield_now();
        }
        left_feed.try_feed(batch).expect("room");
    }
    left_feed.end();
    assert_eq!(puller.join().expect("no panic"), 3);
}

#[test]
fn an_input_can_be_read_twice() {
    check_stream(
        "SELECT a.id, b.id AS other FROM orders a JOIN orders b ON a.customer = b.customer AND a.id < b.id",
        vec![orders()],
        &["id | other", "1 | 4"],
    );
    check_stream(
        "SELECT id FROM orders WHERE amount > (SELECT avg(amount) FROM orders)",
        vec![orders()],
        &["id", "1", "5"],
    );
    check_stream(
        "WITH big AS (SELECT id, amount FROM orders WHERE amount > 2) SELECT count(*) AS n, max(x.id) AS id
         FROM big AS x JOIN big AS y ON x.id = y.id",
        vec![orders()],
        &["n | id", "3 | 5"],
    );
}

#[test]
fn an_input_that_is_read_twice_spills() {
    let folder = tempfile::tempdir().expect("a folder");
    let batches = many(20, 1000);
    let outcome = run(
        "SELECT id, text FROM t UNION ALL SELECT id, text FROM t",
        vec![table("t", &batches)],
        &with_limit(2 << 20, folder.path()),
    )
    .expect("a result");
    let ids: Vec<i64> = outcome
        .batches
        .iter()
        .flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec())
        .collect();
    let once = 0..20 * 8192;
    assert!(ids.iter().copied().eq(once.clone().chain(once)));
}

#[test]
fn the_members_of_a_union_keep_their_order() {
    let sql = "SELECT id FROM orders UNION ALL SELECT length(city) FROM customers UNION ALL SELECT 7";
    for _ in 0..20 {
        check_stream(sql, vec![orders(), customers()], &["id", "1", "2", "3", "4", "5", "4", "4", "7"]);
    }
}

#[test]
fn aggregates_over_a_union_are_repeatable() {
    let sql = "SELECT sum(amount) AS s FROM (SELECT amount FROM orders UNION ALL SELECT amount / 3 FROM orders) AS u";
    check_stream(sql, vec![orders()], &["s", "34.666666666666664"]);
}

#[test]
fn queries_without_inputs_run() {
    check_stream("SELECT value * 2 AS x FROM generate_series(1, 3)", vec![], &["x", "2", "4", "6"]);
    check_stream("SELECT value AS x FROM range(0, 2)", vec![], &["x", "0", "1"]);
    check_stream("VALUES (1, 'a'), (2, 'b')", vec![], &["column1 | column2", "1 | a", "2 | b"]);
    let many = run("SELECT value FROM generate_series(1, 100000)", vec![], &settings()).expect("a result");
    assert_eq!(many.batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 100_000);
    assert!(many.batches.iter().all(|batch| batch.num_rows() <= 8192));
}

#[test]
fn params_of_each_type_are_bound() {
    let settings = with_params(&[
        ("n", json!(2)),
        ("share", json!(0.5)),
        ("name", json!("b")),
        ("all", json!(false)),
        ("big", json!(u64::MAX)),
    ]);
    let sql = "SELECT id, amount * $share AS part, $big AS big FROM orders WHERE customer = $name OR $all ORDER BY id LIMIT $n";
    let outcome = run(sql, vec![orders()], &settings).expect("a result");
    assert_eq!(
        lines(&outcome.batches),
        ["id | part | big", "1 | 5.25 | 18446744073709551615", "4 | 2.25 | 18446744073709551615"]
    );
}

#[test]
fn a_limit_closes_its_input() {
    let outcome = run("SELECT id FROM t LIMIT 10", vec![table("t", &many(20, 10))], &settings()).expect("a result");
    assert_eq!(outcome.batches[0].num_rows(), 10);
    assert!(outcome.taken[0] <= 4, "{} batches were taken", outcome.taken[0]);
}

#[test]
fn an_unread_input_is_closed() {
    let outcome = run("SELECT id FROM orders WHERE false", vec![orders()], &settings()).expect("a result");
    assert_eq!(outcome.schema.field(0).name(), "id");
    assert!(outcome.batches.is_empty());
}

#[test]
fn an_aggregate_of_nothing_has_one_row() {
    let empty = Table { batches: vec![], ..orders() };
    check_stream("SELECT count(*) AS n, max(id) AS m FROM orders", vec![empty], &["n | m", "0 |"]);
}

#[test]
fn a_feed_that_is_dropped_fails_the_query() {
    let (feed, input) = Input::new("t", Arc::new(Schema::empty()), Arc::new(|| ()));
    let query = Query::parse("SELECT count(*) AS n FROM t").expect("a query");
    let mut stream = StreamQuery::start(&query, vec![input], &settings(), RUNTIME.handle()).expect("a plan");
    drop(feed);
    assert_eq!(stream.next().expect_err("an error").kind, SqlErrorKind::Cancelled);
    assert_eq!(stream.next(), Ok(None));
}

#[test]
fn windows_and_distinct_work() {
    check_stream(
        "SELECT id, sum(amount) OVER (PARTITION BY customer ORDER BY id) AS s FROM orders ORDER BY id",
        vec![orders()],
        &["id | s", "1 | 10.5", "2 | 1.0", "3 | 2.0", "4 | 15.0", "5 | 8.0"],
    );
    check_stream("SELECT DISTINCT id % 2 AS odd FROM orders", vec![orders()], &["odd", "1", "0"]);
    check_stream(
        "SELECT customer FROM orders INTERSECT SELECT name FROM customers ORDER BY 1",
        vec![orders(), customers()],
        &["customer", "a", "b"],
    );
}

#[test]
fn two_columns_of_one_name_are_an_error() {
    let error = run("SELECT * FROM orders a JOIN orders b ON a.id = b.id", vec![orders()], &settings());
    let error = error.err().expect("an error");
    assert_eq!(error.message, "two columns are named `id`: give one another name with `AS`");
}

#[test]
fn errors_while_running_are_typed() {
    let error = run("SELECT sum(id / (id - 3)) AS x FROM orders", vec![orders()], &settings()).err().expect("an error");
    assert_eq!((error.message.as_str(), error.kind), ("division by zero", SqlErrorKind::Data));
}

/// Bytes of a result, batch by batch.
fn fingerprint(outcome: &Outcome) -> Vec<u8> {
    let mut writer = arrow::ipc::writer::StreamWriter::try_new(Vec::new(), &outcome.schema).expect("a writer");
    outcome.batches.iter().for_each(|batch| writer.write(batch).expect("memory"));
    writer.into_inner().expect("memory")
}

#[test]
fn every_run_gives_the_same_bytes() {
    let folder = tempfile::tempdir().expect("a folder");
    let batches = many(8, 5000);
    for sql in [
        "SELECT text, key FROM t ORDER BY key % 7",
        "SELECT key, sum(value) AS s, avg(value) AS a, first_value(text) AS f FROM t GROUP BY key",
        "SELECT key % 10 AS k, sum(value) AS s FROM t GROUP BY 1 ORDER BY k % 3",
        "SELECT DISTINCT key FROM t",
        "SELECT sum(value) AS s, stddev(value) AS d, corr(value, id) AS c FROM t",
        "SELECT key, id FROM t ORDER BY key",
        "SELECT a.id, b.id AS other FROM t a JOIN (SELECT min(id) AS id, key FROM t GROUP BY key) b ON a.key = b.key",
        "SELECT id, row_number() OVER (PARTITION BY key ORDER BY text) AS n FROM t",
        "SELECT id, random() AS r, uuid() AS u FROM t ORDER BY r LIMIT 100",
        "SELECT key FROM t UNION SELECT id FROM t",
        "SELECT array_agg(id) AS ids FROM (SELECT id FROM t UNION ALL SELECT -id FROM t) AS u",
        "SELECT a.key, count(*) AS n FROM t a FULL JOIN t b ON a.id = b.key GROUP BY a.key",
    ] {
        let once = || run(sql, vec![table("t", &batches)], &with_limit(4 << 20, folder.path())).expect(sql);
        let first = fingerprint(&once());
        for _ in 0..2 {
            assert!(fingerprint(&once()) == first, "{sql}");
        }
    }
}

fn files_in(folder: &std::path::Path) -> usize {
    fs::read_dir(folder).expect("a folder").count()
}

#[test]
fn a_sort_larger_than_the_limit_spills() {
    let folder = tempfile::tempdir().expect("a folder");
    let settings = with_limit(4 << 20, folder.path());
    let batches = many(30, 1000);
    let bytes: usize = batches.iter().map(RecordBatch::get_array_memory_size).sum();
    assert!(bytes > 16 << 20, "{bytes}");
    let outcome = run("SELECT text, id FROM t ORDER BY text", vec![table("t", &batches)], &settings).expect("a result");
    let mut last = String::new();
    let mut rows = 0;
    for batch in &outcome.batches {
        for text in batch.column(0).as_string::<i32>().iter().flatten() {
            assert!(last.as_str() <= text);
            text.clone_into(&mut last);
            rows += 1;
        }
    }
    assert_eq!(rows, 30 * 8192);
    assert_eq!(files_in(folder.path()), 0, "spill files are gone when the query is");
}

#[test]
fn a_sort_of_whole_rows_five_times_as_large_as_the_limit_spills() {
    let folder = tempfile::tempdir().expect("a folder");
    let batches = many(30, 1000);
    let bytes: usize = batches.iter().map(RecordBatch::get_array_memory_size).sum();
    let sql = "SELECT * FROM t ORDER BY value, id";
    let outcome = run(sql, vec![table("t", &batches)], &with_limit(bytes / 5, folder.path())).expect("a result");
    let values =
        outcome.batches.iter().flat_map(|batch| batch.column(2).as_primitive::<Float64Type>().values().to_vec());
    let values: Vec<f64> = values.collect();
    assert_eq!(values.len(), 30 * 8192);
    assert!(values.is_sorted());
}

#[test]
fn groups_larger_than_the_limit_spill() {
    let folder = tempfile::tempdir().expect("a folder");
    let settings = with_limit(4 << 20, folder.path());
    let sql = "SELECT text, sum(id) AS s FROM t GROUP BY text";
    let outcome = run(sql, vec![table("t", &many(15, 10))], &settings).expect("a result");
    assert_eq!(outcome.batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 15 * 8192);
}

#[test]
fn sorted_groups_four_times_as_large_as_the_limit_spill() {
    let folder = tempfile::tempdir().expect("a folder");
    let batches = many(24, 10);
    let bytes: usize = batches.iter().map(RecordBatch::get_array_memory_size).sum();
    let sql = "SELECT text, id, sum(id) AS s, min(value) AS m FROM t GROUP BY text, id ORDER BY s DESC";
    let outcome = run(sql, vec![table("t", &batches)], &with_limit(bytes / 4, folder.path())).expect("a result");
    assert_eq!(outcome.batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 24 * 8192);
}

#[test]
fn a_join_that_does_not_fit_names_the_limit() {
    let folder = tempfile::tempdir().expect("a folder");
    let sql = "SELECT count(*) AS n FROM t JOIN u ON t.text = u.text";
    let tables = vec![table("t", &many(1, 10)), table("u", &many(15, 10))];
    let error = run(sql, tables, &with_limit(4 << 20, folder.path())).err().expect("an error");
    assert_eq!(error.kind, SqlErrorKind::Memory, "{}", error.message);
    assert!(error.message.contains("memory limit of 4.0 MiB"), "{}", error.message);
    assert!(error.message.ends_with("give its stage more with `memory`"), "{}", error.message);
}

#[test]
fn the_limit_of_spill_files_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let settings = Settings { spill_limit: 1 << 20, ..with_limit(4 << 20, folder.path()) };
    let sql = "SELECT text, id FROM t ORDER BY text";
    let error = run(sql, vec![table("t", &many(15, 10))], &settings).err().expect("an error");
    assert_eq!(
        (error.message.as_str(), error.kind),
        ("spill files reached their limit of 1.0 MiB", SqlErrorKind::Disk)
    );
}

#[test]
fn recursive_queries_run() {
    check_stream(
        "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 4) SELECT n FROM r",
        vec![],
        &["n", "1", "2", "3", "4"],
    );
    check_stream(
        "WITH RECURSIVE r AS (SELECT id AS n FROM orders UNION ALL SELECT n + 10 FROM r WHERE n < 3) SELECT n FROM r",
        vec![orders()],
        &["n", "1", "2", "3", "4", "5", "11", "12"],
    );
}

#[test]
fn a_recursive_step_cannot_read_an_input_again() {
    let sql = "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT o.id FROM r JOIN orders o ON o.id = r.n + 1)
               SELECT n FROM r";
    let error = run(sql, vec![orders()], &settings()).err().expect("an error");
    let expected = "an input cannot be read again by the recursive part of a query";
    assert_eq!((error.message.as_str(), error.kind), (expected, SqlErrorKind::Plan));
}

#[test]
fn params_are_arguments_of_table_functions_too() {
    let settings = with_params(&[("first", json!(-1)), ("last", json!(2)), ("day", json!("2024-01-01' --"))]);
    let outcome = run("SELECT value, $last AS l FROM generate_series($first, $last + 0, 1)", Vec::new(), &settings);
    assert_eq!(lines(&outcome.expect("a result").batches), ["value | l", "-1 | 2", "0 | 2", "1 | 2", "2 | 2"]);
    let error = run("SELECT value FROM generate_series(1, $day)", Vec::new(), &settings).err().expect("no number");
    assert_eq!(error.kind, SqlErrorKind::Plan, "{}", error.message);
}
