//! Events that the scheduler handles in a second; the executor costs next to nothing.

use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput};

use crate::echo::Echo;
use crate::pipelines;

pub fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("scheduler");
    group.sample_size(10).measurement_time(Duration::from_secs(5));
    let runs = [
        ("chain of 3", pipelines::chain(3), 10_000),
        ("diamond", pipelines::diamond(), 10_000),
        ("chain of 10000", pipelines::chain(10_000), 10),
        ("10000 commands", pipelines::layers(10_000), 0),
    ];
    for (name, text, batches) in runs {
        let plan = Arc::new(pipelines::compiled(&pipelines::document(&pipelines::source(&text))));
        group.throughput(Throughput::Elements(Echo::run(&plan, batches)));
        group.bench_function(name, |bencher| bencher.iter(|| Echo::run(&plan, batches)));
    }
}
