//! A batch on its way to a worker: into shared memory (or a message, if it is small), and back to rows without a copy. `copy` is the
//! least that it could cost: its bytes, copied once.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::buffer::Buffer;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use millpond::batch::{Batch, Origin, SegmentPool, ipc};

pub fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("transport");
    for (name, rows) in [("1 row", 1), ("1 MB", 125_000), ("32 MB", 4_000_000)] {
        let records = records(rows);
        group.throughput(Throughput::Bytes(rows as u64 * 8));
        let pool = SegmentPool::default();
        group.bench_function(BenchmarkId::new("there and back", name), |bencher| {
            // Batches are dropped within the measured time, so that the next one finds their segment.
            let batch = || Batch::new(records.clone(), Origin::unknown(rows));
            bencher.iter_batched(batch, |batch| there_and_back(batch, &pool), BatchSize::PerIteration);
        });
        let bytes = vec![1_u8; rows * 8];
        let mut copy = bytes.clone();
        group.bench_function(BenchmarkId::new("copy", name), |bencher| {
            bencher.iter(|| copy.copy_from_slice(std::hint::black_box(&bytes)));
        });
    }
}

fn records(rows: usize) -> RecordBatch {
    let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows as i64));
    RecordBatch::try_from_iter([("n", column)]).expect("one column")
}

/// Hands a batch over and reads it as the receiver would; returns the number of its rows.
fn there_and_back(mut batch: Batch, pool: &SegmentPool) -> usize {
    let (records, parcel) = batch.parcel(pool).expect("shared memory");
    if parcel.data.is_empty() {
        // These are views of what lies in shared memory now.
        return records.num_rows();
    }
    ipc::decode(&Buffer::from_vec(parcel.data), records.schema()).expect("what was written").num_rows()
}
