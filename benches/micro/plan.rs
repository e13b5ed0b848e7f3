//! From a document to a plan.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput};

use crate::pipelines;

pub fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("plan");
    group.sample_size(10).measurement_time(Duration::from_secs(5));
    for stages in [2_000, 10_000] {
        group.throughput(Throughput::Elements(stages as u64));
        for (shape, text) in [("chain", pipelines::chain(stages)), ("layers", pipelines::layers(stages))] {
            let document = pipelines::document(&pipelines::source(&text));
            group.bench_function(BenchmarkId::new(format!("compile/{shape}"), stages), |bencher| {
                bencher.iter(|| pipelines::compiled(&document));
            });
        }
    }
}
