//! Tests of a stream source and its writer. The fan-out writes to the same socket.

mod ending;
mod takeover;
mod interleaved;
mod wire;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use tempfile::TempDir;

use super::socket_writer::SocketWriter;
use super::{End, HeartbeatFormat, Pace, Settings, StreamSource};
use crate::event::EventType;
use crate::hub::{self, Hub, OnGap, Overflow, Scope, SubscriptionId, SubscriptionSpec};
use crate::log::{self, Engine, Log, LogConfig, StorageKind, Write};
use crate::metrics::{Metrics, Protocol};
use crate::supervisor::Supervisor;
use crate::wire::json::Json;
use crate::wire::{Filter, WireFormat};
use wire::Wire;

/// The topics of the log.
const TOPICS: [&str; 2] = ["one", "two"];

/// A hub over an engine with [`TOPICS`].
struct Bench {
    _folder: TempDir,
    engine: Engine,
    hub: Hub,
    _supervisor: Supervisor,
    rings: hub::Settings,
    metrics: Arc<Metrics>,
}

impl Bench {
    /// Starts a bench in the test's runtime, so that the fan-out and the test run by
    /// turns.
    fn start() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let settings = log::Settings {
            // Both are small, so that a subscription that catches up reads from the
            // disk, and one subscription at a time.
            tail_bytes: 4 << 10,
            catchup_concurrency: 1,
            ..log::Settings::within(folder.path())
        };
        let configs = TOPICS.map(|name| LogConfig::topic(name, StorageKind::Disk));
        let engine = Engine::open(&settings, &configs).unwrap();
        let rings = hub::Settings::of_rings(6, 1 << 16);
        let metrics = Arc::new(Metrics::new());
        let supervisor = Supervisor::new(metrics.clone());
        let hub = Hub::start(&rings, &metrics, &supervisor, 1);
        Bench { _folder: folder, engine, hub, _supervisor: supervisor, rings, metrics }
    }

    fn log(&self, topic: usize) -> Arc<Log> {
        self.engine.log(TOPICS[topic]).unwrap()
    }

    /// Returns the task of a connection without subscriptions.
    fn connect(&self) -> ConnectionTask {
        let subscriber = self.hub.join(Protocol::WebSocket, &self.rings, 0).unwrap();
        let metrics = self.metrics.clone();
        let source = StreamSource::new(
            subscriber,
            Arc::new(settings()),
            metrics,
            WireFormat::Envelope,
            None,
        );
        let socket = Wire::default();
        source.allow_direct_writes(Arc::new(socket.clone()));
        let (writer, woken) = (SocketWriter::default(), Arc::default());
        ConnectionTask { source, writer, socket, woken, end: None }
    }
}

fn settings() -> Settings {
    let second = Duration::from_secs(1);
    Settings {
        retry: second..2 * second,
        heartbeat_format: HeartbeatFormat::Event,
        message_bytes_max: 1 << 16,
        pace: Pace::default(),
        message_timeout: second,
        control_rate: 0,
    }
}

fn tick(kind: &str, n: u64, size: usize) -> Write {
    let document = format!(r#"{{"n":{n},"fill":"{}"}}"#, "x".repeat(size));
    let document = Json::parse(document.as_bytes()).unwrap();
    Write::publish(None, EventType::new(kind).unwrap(), document)
}

/// The waker of a connection's task: it records that the task was woken.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// The task of a connection. The test polls it.
struct ConnectionTask {
    source: StreamSource,
    writer: SocketWriter,
    socket: Wire,
    woken: Arc<Woken>,
    end: Option<End>,
}

impl ConnectionTask {
    fn subscribe(
        &self,
        log: &Arc<Log>,
        filter: &Arc<Filter>,
        credit: Option<u64>,
    ) -> SubscriptionId {
        let spec = SubscriptionSpec {
            scope: Scope::Whole,
            filter: filter.clone(),
            format: WireFormat::Envelope,
            credit,
            snapshot: false,
            on_gap: OnGap::Event,
            overflow: Overflow::Log,
        };
        self.source.subscriber().subscribe(log, spec, None).0
    }

    /// Queues a response with the number `n`, in the current format.
    fn queue_response(&mut self, n: u64) {
        let frame = self.source.messages().response(None, format!(r#"{{"said":{n}}}"#).as_bytes());
        self.source.queue_frame(frame);
    }

    /// Polls the task if it was woken. Returns whether it was woken.
    fn poll_if_woken(&mut self) -> bool {
        let woken = self.woken.0.swap(false, Ordering::SeqCst);
        if woken {
            self.poll();
        }
        woken
    }

    fn poll(&mut self) {
        let waker = Waker::from(self.woken.clone());
        let cx = &mut Context::from_waker(&waker);
        let ConnectionTask { source, writer, socket, end, .. } = self;
        loop {
            let is_done = end.is_some();
            match writer.poll_stream(cx, socket, source, |_| is_done) {
                Poll::Ready(Ok(Some(last))) => *end = Some(last),
                Poll::Ready(_) => break,
                Poll::Pending => {
                    source.subscriber().watch(cx, false);
                    break;
                }
            }
        }
    }
}

#[tokio::test]
async fn a_queued_frame_comes_before_an_event_in_the_next_format() {
    let bench = Bench::start();
    let (log, all) = (bench.log(0), Filter::shared(Vec::new(), Vec::new()));
    let mut writer = bench.connect();
    writer.subscribe(&log, &all, None);
    writer.poll();
    writer.socket.give(1 << 16);
    bench.engine.append(&log, vec![tick("wanted", 1, 0)]).await.unwrap();
    while writer.socket.taken().is_empty() {
        tokio::task::yield_now().await;
    }
    writer.queue_response(1);
    writer.source.change_format(WireFormat::Bare);
    writer.woken.0.store(false, Ordering::SeqCst);
    let before = writer.socket.taken().len();
    bench.engine.append(&log, vec![tick("wanted", 2, 0)]).await.unwrap();
    // The fan-out runs before the task is polled: it wakes the task, or writes to the
    // socket.
    while !writer.woken.0.load(Ordering::SeqCst) && writer.socket.taken().len() == before {
        tokio::task::yield_now().await;
    }
    writer.poll();
    while wire::messages(&writer.socket.taken()).len() < 3 {
        tokio::task::yield_now().await;
        writer.poll_if_woken();
    }
    let messages = wire::messages(&writer.socket.taken());
    let kinds: Vec<_> = messages.iter().map(|message| message["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["event", "response", "update"]);
}
