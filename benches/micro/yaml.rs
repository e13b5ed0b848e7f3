//! From the text of a pipeline to its document, and what `validate` adds to that.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput};
use millpond::plan;

use crate::pipelines;

pub fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("yaml");
    group.sample_size(10).measurement_time(Duration::from_secs(5));
    for stages in [2_000, 10_000] {
        group.throughput(Throughput::Elements(stages as u64));
        for (shape, text) in [("chain", pipelines::chain(stages)), ("layers", pipelines::layers(stages))] {
            let source = pipelines::source(&text);
            group.bench_function(BenchmarkId::new(format!("parse/{shape}"), stages), |bencher| {
                bencher.iter(|| pipelines::document(&source));
            });
            let document = pipelines::document(&source);
            assert!(plan::validate(&document).is_empty(), "the pipeline is sound");
            group.bench_function(BenchmarkId::new(format!("validate/{shape}"), stages), |bencher| {
                bencher.iter(|| plan::validate(&document));
            });
        }
    }
}
