//! What a checker says of a query is what a run finds.

use std::slice;

use serde_json::json;

use super::*;

/// Queries over `t (id, name, price, tags, at)` and `u (id, city)`.
const QUERIES: &[&str] = &[
    "SELECT * FROM t",
    "SELECT id, price * 2 AS twice, name || '!' AS loud FROM t WHERE price > $least",
    "SELECT id, unnest(tags) AS tag, at.x AS x FROM t",
    "SELECT id / 2 AS half, id % 2 = 0 AS even, CAST(name AS binary) AS bytes, now() AS now, random() AS r FROM t",
    "SELECT NULL AS nothing, id FROM t",
    "SELECT sum(price) AS s, count(*) AS n, avg(id) AS mean, array_agg(name) AS names, min(id) AS least FROM t",
    "SELECT name, count(*) AS n FROM t GROUP BY name",
    "SELECT t.id, city FROM t LEFT JOIN u ON t.id = u.id ORDER BY city LIMIT 3",
    "SELECT id, city FROM t JOIN u USING (id)",
    "SELECT id FROM t UNION ALL SELECT price FROM t",
    "SELECT id, row_number() OVER (PARTITION BY name ORDER BY id) AS n FROM t",
    "WITH q AS (SELECT max(price) AS p FROM t) SELECT name FROM t, q WHERE price = q.p",
    "SELECT value AS v FROM generate_series(1, $least)",
    "VALUES (1, 'a'), (2, 'b')",
    "SELECT nmae FROM t",
    "SELECT t.nmae FROM t",
    "SELECT q.name FROM t",
    "SELECT Name FROM t",
    "SELECT id FROM t JOIN u ON t.id = u.id",
    "SELECT lenght(name) AS n FROM t",
    "SELECT name * 2 AS n FROM t",
    "SELECT upper(name, 1) AS n FROM t",
    "SELECT sum(name) AS n FROM t",
    "SELECT id, id FROM t",
    "SELECT name, id FROM t GROUP BY name",
    "SELECT id FROM t UNION ALL SELECT id, name FROM t",
    "SELECT id FROM t WHERE name",
    "SELECT id FROM t WHERE id IN (SELECT cty FROM u)",
];

#[test]
fn it_agrees_with_runs() {
    let t = batch(&[json!({"id": 1, "name": "a", "price": 1.5, "tags": ["x"], "at": {"x": 1}})]);
    let u = batch(&[json!({"id": 1, "city": "b"})]);
    let settings = with_params(&[("least", json!(1))]);
    let checker = Checker::new(&settings).expect("the engine starts");
    for sql in QUERIES {
        let query = Query::parse(sql).expect("a query");
        let schema_of = |name: &str| if name == "t" { t.schema() } else { u.schema() };
        let tables: Vec<_> = query.tables().iter().map(|name| (name.as_str(), schema_of(name))).collect();
        let inputs = query
            .tables()
            .iter()
            .map(|name| if name == "t" { table("t", slice::from_ref(&t)) } else { table("u", slice::from_ref(&u)) });
        let run = run(sql, inputs.collect(), &settings).map(|outcome| outcome.schema);
        let run = run.map_err(|error| (error.kind, error.message));
        let found = checker.columns(&query, &tables, &settings).map(|columns| columns.expect("known"));
        assert_eq!(found.map_err(|misfit| (SqlErrorKind::Plan, misfit.message)), run, "{sql}");
        if let (true, [(table, schema)]) = (query.is_row_wise(), tables.as_slice()) {
            let planned = RowWise::plan(&query, table, Arc::clone(schema), &settings);
            let by_batch = planned.map(|planned| Arc::clone(planned.output_schema()));
            assert_eq!(by_batch.map_err(|error| (error.kind, error.message)), run, "{sql}");
        }
    }
}

#[test]
fn nothing_is_computed() {
    let t = batch(&[json!({"id": 1})]);
    let checker = Checker::new(&settings()).expect("the engine starts");
    let columns = |sql: &str| {
        let query = Query::parse(sql).expect("a query");
        let tables: Vec<_> = query.tables().iter().map(|name| (name.as_str(), t.schema())).collect();
        checker.columns(&query, &tables, &settings()).map(|columns| columns.is_some())
    };
    // A run fails, and does not even have the memory for the last ones.
    assert_eq!(columns("SELECT 1 / 0 AS x, id FROM t"), Ok(true));
    assert_eq!(columns("SELECT id FROM t WHERE id < CAST('y' AS int)"), Ok(true));
    assert_eq!(columns("SELECT length(repeat('x', 1000000000000)) AS n FROM t"), Ok(true));
    assert_eq!(columns("SELECT value FROM generate_series(1, length(repeat('x', 1000000000000)))"), Ok(false));
}

#[test]
fn a_misfit_has_its_place() {
    let t = batch(&[json!({"id": 1, "name": "a"})]);
    let checker = Checker::new(&settings()).expect("the engine starts");
    let query = Query::parse("SELECT id,\n       t.nmae AS é\nFROM t").expect("a query");
    let misfit = checker.columns(&query, &[("t", t.schema())], &settings()).expect_err("no such column");
    let kind = MisfitKind::UnknownColumn {
        of: Some("t".to_owned()),
        name: "nmae".to_owned(),
        known: vec!["id".to_owned(), "name".to_owned()],
    };
    let position = |line, column| TextPosition { line, column };
    assert_eq!((misfit.kind, misfit.place), (kind, Some((position(2, 8), position(2, 14)))));
}

#[test]
fn types_are_followed_to_where_they_come_from() {
    let t = batch(&[json!({"id": 1, "name": "a", "open": null})]);
    let tables = [("t", t.schema()), ("u", t.schema())];
    let checker = Checker::new(&settings()).expect("the engine starts");
    let known = |sql: &str| {
        let query = Query::parse(sql).expect("a query");
        let tables: Vec<_> =
            tables.iter().filter(|(name, _)| query.tables().iter().any(|it| it == name)).cloned().collect();
        let known =
            checker.types_known(&query, &tables, &settings(), &|table, column| table == "u" || column != "open");
        known.map(|known| known.iter().map(|known| if *known { '1' } else { '0' }).collect::<String>())
    };
    for (sql, expected) in [
        ("SELECT * FROM t WHERE open IS NULL ORDER BY open", Some("110")),
        ("SELECT id, id + open AS a, coalesce(name, open) AS b, 1 AS c FROM t", Some("1001")),
        ("SELECT x, y FROM (SELECT open AS x, name AS y FROM t LIMIT 3) AS q", Some("01")),
        ("SELECT t.open, u.open AS other, t.id FROM t LEFT JOIN u ON t.id = u.id", Some("011")),
        ("SELECT name, max(open) AS m, count(*) AS n FROM t GROUP BY name", Some("101")),
        ("SELECT id, (SELECT max(open) FROM t) AS m FROM t", Some("10")),
        ("SELECT (SELECT t.open FROM u LIMIT 1) AS m FROM t", Some("0")),
        ("SELECT id FROM t UNION ALL SELECT open FROM t", None),
        ("SELECT nmae FROM t", None),
    ] {
        assert_eq!(known(sql).as_deref(), expected, "{sql}");
    }
}
