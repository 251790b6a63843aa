//! Benchmarks of the stages of the data path, one a file. The head of each file
//! has its unit and its budget. They are one binary, which is linked once.
//! `cargo bench --bench stages -- NAME`
//!
//! Budgets are for a machine like that of `docs/benchmarks.md`, and are
//! compared by a person. No benchmark fails because it is slow.

mod append;
mod encode;
mod end_to_end;
mod fanout;
mod fixture;
mod leave;
mod snapshot;

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};

/// The allocator of the gateway's binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Returns settings with ten samples in two seconds, so that all stages take
/// one to two minutes.
fn settings() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .without_plots()
}

criterion_group! {
    name = stages;
    config = settings();
    targets = encode::encode, append::append, fanout::fanout, leave::leave,
        snapshot::snapshot, end_to_end::end_to_end
}
criterion_main!(stages);
