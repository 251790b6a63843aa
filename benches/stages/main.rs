//! One stage of the data path a file, its unit and its budget in its head. One
//! binary, so that it is linked once. `cargo bench --bench stages -- NAME`
//!
//! A budget is for a machine like that of `docs/benchmarks.md`, and for eyes:
//! nothing here fails for being slow.

mod append;
mod encode;
mod end_to_end;
mod fanout;
mod fixture;
mod snapshot;

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};

/// As in the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Ten samples in two seconds: all of it is to take a minute or two.
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
    targets = encode::encode, append::append, fanout::fanout, snapshot::snapshot,
        end_to_end::end_to_end
}
criterion_main!(stages);
