//! Encoding: a batch of 256 events of 256 bytes into each wire form.
//!
//! Unit: time a batch, and events a second. Budget: 0.5 µs an event in any
//! form (128 µs a batch): a tenth of what one delivery of it costs, and it is
//! paid once a form, whatever the number of subscribers.
//! `cargo bench --bench stages -- encode`

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput};
use streamgate::event::{Epoch, Event, EventType, Offset, ResourceId, Timestamp};
use streamgate::wire::{Batch, Form, Kind, Origin};

use super::fixture;

const EVENTS: u64 = 256;

/// See the head of this file.
pub fn encode(criterion: &mut Criterion) {
    let kind = Kind::collection("order").expect("a good name");
    let origin = Arc::new(Origin::new("orders".to_owned(), Epoch::from_bits(42), kind));
    let events: Vec<Event> = (1..=EVENTS).map(event).collect();
    let mut group = criterion.benchmark_group("encode");
    group.throughput(Throughput::Elements(EVENTS));
    for form in Form::ALL {
        group.bench_function(format!("{form:?}"), |bencher| {
            let batch = || Batch::new(origin.clone(), events.clone(), None);
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
        kind: EventType::new("order-updated").expect("a good type"),
        subject: Some(ResourceId::new(&format!("order-{number}")).expect("a good id")),
        merge: true,
        data: fixture::document(number).into_bytes(),
    }
}
