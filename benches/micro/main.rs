//! What the parts cost, one by one: `cargo bench`, or `cargo bench -- NAME` for those whose names contain `NAME`.
//!
//! Whole runs are measured by the scripts in the folder above; `docs/performance.md` says what each of them is for.

mod echo;
mod pipelines;
mod plan;
mod scheduler;
mod transport;
mod yaml;

use criterion::{criterion_group, criterion_main};

criterion_group!(parts, transport::benches, scheduler::benches, yaml::benches, plan::benches);
criterion_main!(parts);
