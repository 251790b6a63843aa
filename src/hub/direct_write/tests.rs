//! A direct write that the socket accepts in part. The writer writes the rest
//! before anything else.

use std::io::{self, BufRead as _, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};

use super::*;
use crate::event::{EventType, Offset};
use crate::hub::{
    EndReason, Hub, OnGap, Overflow, PollMode, Scope, Settings, Subscriber, SubscriptionSpec,
    WriteBudget, WriterAction,
};
use crate::log::{self, Engine, Log, LogConfig, StorageKind, Write};
use crate::metrics::{Metrics, Protocol};
use crate::supervisor::Supervisor;
use crate::wire::json::Json;
use crate::wire::{Filter, WireFormat};

/// The size of an event's data, which fits into one slice.
const NOTE_BYTES: usize = 15_000;

struct Socket(TcpStream);

impl DirectWriter for Socket {
    fn write_now(&self, bytes: &[u8]) -> io::Result<usize> {
        (&self.0).write(bytes)
    }
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A live subscriber to a topic. Its writer sleeps.
struct Bench {
    _folder: tempfile::TempDir,
    _hub: Hub,
    _supervisor: Supervisor,
    engine: Engine,
    log: Arc<Log>,
    subscriber: Arc<Subscriber>,
    client: TcpStream,
    woken: Arc<Woken>,
}

impl Bench {
    fn start() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let spec = LogConfig::topic("ticks", StorageKind::Memory);
        let engine = Engine::open(&log::Settings::within(folder.path()), &[spec]).unwrap();
        let log = engine.log("ticks").unwrap();
        let settings = Settings::of_rings(16, 1 << 20);
        let metrics = Arc::new(Metrics::new());
        let supervisor = Supervisor::new(metrics.clone());
        let hub = Hub::start(&settings, &metrics, &supervisor, 1);
        let subscriber = hub.join(Protocol::Ndjson, &settings, 0).unwrap();
        let spec = SubscriptionSpec {
            scope: Scope::Whole,
            filter: Filter::shared(Vec::new(), Vec::new()),
            format: WireFormat::Ndjson,
            credit: None,
            snapshot: false,
            on_gap: OnGap::Event,
            overflow: Overflow::Log,
        };
        subscriber.subscribe(&log, spec, None);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (socket, _) = listener.accept().unwrap();
        socket.set_nonblocking(true).unwrap();
        subscriber.allow_direct_writes(Arc::new(Socket(socket)));
        let woken = Arc::default();
        let bench = Bench {
            _folder: folder,
            _hub: hub,
            _supervisor: supervisor,
            engine,
            log,
            subscriber,
            client,
            woken,
        };
        assert!(matches!(bench.next(), WriterAction::Wait));
        bench
    }

    fn next(&self) -> WriterAction {
        let waker = Waker::from(self.woken.clone());
        let (mut slices, mut budget) = (Vec::new(), WriteBudget::for_write(u32::MAX));
        self.subscriber.next(&Context::from_waker(&waker), PollMode::Ring, &mut slices, &mut budget)
    }

    /// Publishes events until the socket accepts only a part of one.
    async fn fill(&self) {
        let document = format!(r#"{{"note":"{}"}}"#, "x".repeat(NOTE_BYTES));
        let document = Json::parse(document.as_bytes()).unwrap();
        while self.subscriber.state.lock().partial_write.is_none() {
            let write = Write::publish(None, EventType::new("tick").unwrap(), document.clone());
            self.engine.append(&self.log, vec![write]).await.unwrap();
            while self.queued() < self.log.head() {
                tokio::task::yield_now().await;
            }
            assert!(self.subscriber.state.lock().ring.is_empty(), "a whole event before a part");
        }
        while !self.woken.0.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
    }

    fn queued(&self) -> Offset {
        self.subscriber.state.lock().subscriptions[0].as_ref().unwrap().position()
    }

    /// Checks that the bytes at the client and `rest` are whole lines.
    fn check(mut self, rest: &[u8]) {
        self.subscriber.leave();
        let mut lines = Vec::new();
        self.client.read_to_end(&mut lines).unwrap();
        assert!(!lines.ends_with(b"\n"), "the fan-out wrote a part");
        lines.extend_from_slice(rest);
        let mut count = 0;
        for line in lines.lines() {
            let value: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
            assert_eq!(value["data"]["note"].as_str().unwrap().len(), NOTE_BYTES);
            count += 1;
        }
        assert_eq!(count, self.log.head().0);
    }
}

#[tokio::test]
async fn a_partial_write_is_finished_before_the_end() {
    let bench = Bench::start();
    bench.fill().await;
    bench.subscriber.end(EndReason::Drained);
    let WriterAction::PartialWrite(rest) = bench.next() else { panic!("not the rest") };
    assert!(matches!(bench.next(), WriterAction::End(EndReason::Drained, Some(_))));
    bench.check(&rest);
}

#[tokio::test]
async fn a_writer_that_suspends_direct_writes_gets_the_partial_write() {
    let bench = Bench::start();
    bench.fill().await;
    let rest = bench.subscriber.suspend_direct_writes().unwrap();
    assert!(matches!(bench.next(), WriterAction::Wait), "and not again");
    bench.check(&rest);
}
