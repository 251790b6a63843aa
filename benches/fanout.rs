//! Fan-out: one committed event into the rings of 10,000 subscribers.
//!
//! Budget: one encoding an event and form, whatever the number of
//! subscribers (law 3 of `docs/architecture.md`), and 1 µs of wall time a
//! push, the writer's side of the ring included. `cargo bench --bench fanout`

use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use streamgate::hub::{
    Hub, Interest, Next, OnGap, Overflow, Room, Scope, Settings, Slice, Subscriber, Turn,
};
use streamgate::log::{self, Engine, Medium, Spec, Write};
use streamgate::metrics::{Metrics, Protocol};
use streamgate::store::Retention;
use streamgate::wire::json::Json;
use streamgate::wire::{Filter, Form, Kind};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SUBSCRIBERS: usize = 10_000;
const EVENTS: usize = 200;

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    runtime.block_on(run());
}

async fn run() {
    let directory = tempfile::tempdir().expect("a temporary folder");
    let engine = open(directory.path());
    let metrics = Arc::new(Metrics::new());
    let settings = Settings {
        heartbeat: Duration::from_hours(1),
        ring_events: 1024,
        ring_bytes: 1 << 20,
        stream_idle_timeout: Duration::ZERO,
        stream_lifetime: Duration::ZERO,
        stall_timeout: Duration::from_hours(1),
    };
    let hub = Hub::start(&settings, &engine, &metrics, 2);
    let log = engine.log("ticks").expect("it is configured");
    let filter = Arc::new(Filter::default());
    let subscribers: Vec<Arc<Subscriber>> = (0..SUBSCRIBERS)
        .map(|_| {
            let subscriber = hub.join(Protocol::Sse, &settings, 0).expect("no limit");
            let interest = Interest {
                overflow: Overflow::Log,
                scope: Scope::Whole,
                filter: filter.clone(),
                form: Form::SseChunked,
                credit: None,
                snapshot: false,
                on_gap: OnGap::Event,
            };
            subscriber.subscribe(&log, interest, None);
            assert_eq!(drain(&subscriber), 0, "nothing is there yet, and it is live now");
            subscriber
        })
        .collect();
    let before = log.origin().encodings(Form::SseChunked);
    let begun = Instant::now();
    for n in 0..EVENTS {
        let data = Json::parse(format!(r#"{{"n":{n},"text":"{}"}}"#, "x".repeat(200)).as_bytes());
        let kind = streamgate::event::EventType::new("tick").expect("a good type");
        let write = Write::publish(None, kind, data.expect("it is JSON"));
        engine.append(&log, vec![write]).await.expect("the log takes it");
        for subscriber in &subscribers {
            while drain(subscriber) == 0 {
                tokio::task::yield_now().await;
            }
        }
    }
    let took = begun.elapsed();
    let encodings = log.origin().encodings(Form::SseChunked) - before;
    let deliveries = EVENTS * SUBSCRIBERS;
    println!(
        "{EVENTS} events to {SUBSCRIBERS} subscribers: {encodings} encodings, {:.0} ns a delivery",
        took.as_nanos() as f64 / deliveries as f64
    );
    assert_eq!(encodings, EVENTS as u64, "one encoding an event");
}

fn open(path: &std::path::Path) -> Engine {
    let settings = log::Settings {
        path: path.join("data"),
        sync: log::Sync::Always,
        tail_bytes: 64 << 20,
        page_cache_bytes: 64 << 20,
        catchup_concurrency: 4,
        resource_bytes_max: 1 << 20,
    };
    let spec = Spec {
        name: "ticks".to_owned(),
        kind: Kind::Topic,
        retention: Retention::default(),
        durability: Medium::Disk,
    };
    Engine::open(&settings, &[spec]).expect("the store opens")
}

/// Takes what is in the ring, as a writer whose socket takes everything.
fn drain(subscriber: &Subscriber) -> u32 {
    let mut hand: Vec<Slice> = Vec::new();
    let mut room = Room::for_write(u32::MAX);
    let cx = Context::from_waker(Waker::noop());
    match subscriber.next(&cx, Turn::Ring, &mut hand, &mut room) {
        Next::Write => {
            subscriber.wrote(&hand);
            hand.iter().map(|slice| slice.events).sum()
        }
        _ => 0,
    }
}
