//! Encoding of a batch of 256 events of 256 bytes into each wire format.
//!
//! Unit: the time of a batch, and events a second. Budget: 0.5 µs an event and
//! 128 µs a batch in each format. This is a tenth of the cost of one delivery.
//! It is paid once per format for all subscribers together. `cargo bench
//! --bench stages -- encode`

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput};
use streamgate::event::{Epoch, Event, EventType, Offset, ResourceId, Timestamp};
use streamgate::wire::{Batch, LogIdentity, LogKind, WireFormat};

use super::fixture;

const EVENTS: u64 = 256;

/// Runs the benchmarks of this file.
pub fn encode(criterion: &mut Criterion) {
    let kind = LogKind::collection("order").expect("the name is valid");
    let identity = Arc::new(LogIdentity::new("orders".to_owned(), Epoch::from_bits(42), kind));
    let events: Vec<Event> = (1..=EVENTS).map(event).collect();
    let mut group = criterion.benchmark_group("encode");
    group.throughput(Throughput::Elements(EVENTS));
    for form in WireFormat::ALL {
        group.bench_function(format!("{form:?}"), |bencher| {
            let batch = || Batch::new(identity.clone(), events.clone(), None);
            let encode = |batch: &mut Batch| {
                black_box(batch.encoded(form));
            };
            bencher.iter_batched_ref(batch, encode, BatchSize::SmallInput);
        });
    }
    group.finish();
}

fn event(number: u64) -> Event {
    Event {
        offset: Offset(number),
        time: Timestamp::now(),
        event_type: EventType::new("order-updated").expect("the type is valid"),
        subject: Some(ResourceId::new(&format!("order-{number}")).expect("the id is valid")),
        merge: true,
        data: fixture::document(number).into_bytes(),
    }
}
