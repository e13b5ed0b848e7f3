//! A row-wise query gives the same rows batch by batch, for any cuts, as over the whole stream.

use proptest::prelude::*;
use serde_json::json;

use super::*;

const QUERIES: &[&str] = &[
    "SELECT * FROM t",
    "SELECT a + b AS c, s FROM t WHERE a > b",
    "SELECT CASE WHEN a % 2 = 0 THEN s ELSE 'odd' END AS s, a FROM t WHERE s IS NOT NULL OR a IS NULL",
    "SELECT b, upper(s) AS s FROM (SELECT b, s FROM t WHERE a BETWEEN -5 AND 5) AS u WHERE s LIKE '%a%' OR b < 0",
    "SELECT a, unnest(xs) AS x FROM t WHERE a <> 3",
    "SELECT a, x * 2 AS x FROM (SELECT a, unnest(xs) AS x FROM t) AS u WHERE x > 0",
];

fn row() -> impl Strategy<Value = serde_json::Value> {
    let number = || prop_oneof![1 => Just(None), 9 => (-10_i64..10).prop_map(Some)];
    let text = prop_oneof![1 => Just(None), 4 => "[abc]{0,3}".prop_map(Some)];
    let list = prop_oneof![1 => Just(None), 4 => prop::collection::vec(-3_i64..3, 0..4).prop_map(Some)];
    (number(), number(), text, list).prop_map(|(a, b, s, xs)| json!({"a": a, "b": b, "s": s, "xs": xs}))
}

/// The batch cut at `cuts`, which may repeat and so give empty batches.
fn cut(batch: &RecordBatch, mut cuts: Vec<usize>) -> Vec<RecordBatch> {
    cuts.iter_mut().for_each(|cut| *cut = (*cut).min(batch.num_rows()));
    cuts.extend([0, batch.num_rows()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|pair| batch.slice(pair[0], pair[1] - pair[0])).collect()
}

/// Gives every column its type, whatever the generated rows are.
fn typed(mut rows: Vec<serde_json::Value>) -> RecordBatch {
    rows.push(json!({"a": 1, "b": 1, "s": "a", "xs": [1]}));
    batch(&rows)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn batches_and_stream_agree(
        rows in prop::collection::vec(row(), 0..40),
        cuts in prop::collection::vec(0_usize..40, 0..6),
        chosen in 0..QUERIES.len(),
    ) {
        let whole = typed(rows);
        let parts = cut(&whole, cuts);
        let query = Query::parse(QUERIES[chosen]).expect("a query");
        let row_wise = RowWise::plan(&query, "t", whole.schema(), &settings()).expect("a plan");
        let mut results = Vec::new();
        for (sequence, part) in parts.iter().enumerate() {
            let (batch, sources) = row_wise.apply(part.clone(), sequence as u64).expect("a result");
            match &sources {
                Some(sources) => {
                    prop_assert_eq!(sources.len(), batch.num_rows());
                    prop_assert!(sources.values().is_sorted());
                    prop_assert!(sources.values().iter().all(|source| (*source as usize) < part.num_rows()));
                }
                None => prop_assert_eq!(batch.num_rows(), part.num_rows()),
            }
            results.push(batch);
        }
        let outcome = run(QUERIES[chosen], vec![table("t", &parts)], &settings()).expect("a result");
        prop_assert_eq!(&outcome.schema, row_wise.output_schema());
        let by_batch = arrow::compute::concat_batches(&outcome.schema, &results).expect("one schema");
        let by_stream = arrow::compute::concat_batches(&outcome.schema, &outcome.batches).expect("one schema");
        prop_assert_eq!(by_batch, by_stream);
    }
}
