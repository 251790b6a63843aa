//! A subscription receives exactly the committed events, or a gap with the
//! number of missing events. The test uses each protocol, with random publishes,
//! lag, overflow policies, cuts at any byte, reconnects and restarts.
//!
//! `STREAMGATE_CASES` is the number of cases (default 40).

use std::net::SocketAddr;
use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::support::client::{PATIENCE, Protocol, Stream, request};
use crate::support::{Running, start_in};

/// Settings with small rings and little memory. With them, a few dozen events
/// bring a subscription into every state.
const SETS: [&str; 7] = [
    r#"streams.overflow_choices=["conflate","drop-oldest","drop-newest"]"#,
    "streams.ring_events=4",
    "streams.ring_bytes=2KiB",
    "streams.heartbeat=40ms",
    "storage.tail_bytes=16KiB",
    "streams.page_cache=64KiB",
    "streams.catchup_concurrency=1",
];

/// One step of a case.
#[derive(Clone, Debug)]
enum Step {
    /// Commits `count` events of `size` bytes on `resource`.
    Publish { count: u8, resource: u8, size: u16, together: bool },
    /// Lets a client read some events.
    Read { client: usize, events: u8 },
    /// Cuts the connection of a client after `bytes` more bytes.
    Cut { client: usize, bytes: u16 },
    /// Drains the gateway and starts it on the same disk.
    Restart,
}

/// The events that a client subscribes to.
#[derive(Clone, Copy, Debug)]
enum Filter {
    Collection,
    Resource,
    Types,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..24u8, 0..3u8, 1..900u16, any::<bool>()).prop_map(|(count, resource, size, together)| {
            Step::Publish { count, resource, size, together }
        }),
        6 => (0..3usize, 1..30u8).prop_map(|(client, events)| Step::Read { client, events }),
        4 => (0..3usize, 0..4000u16).prop_map(|(client, bytes)| Step::Cut { client, bytes }),
        1 => Just(Step::Restart),
    ]
}

/// Returns the overflow policy of a client. Most clients have the policy `log`.
fn policy() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        4 => Just("log"),
        1 => Just("conflate"),
        1 => Just("drop-oldest"),
        1 => Just("drop-newest"),
    ]
}

fn filter() -> impl Strategy<Value = Filter> {
    prop_oneof![Just(Filter::Collection), Just(Filter::Resource), Just(Filter::Types)]
}

/// A committed event, from the response to its write.
struct Committed {
    id: String,
    resource: u8,
    kind: &'static str,
}

/// A client that records the events that it has received.
struct Client {
    protocol: Protocol,
    filter: Filter,
    policy: &'static str,
    stream: Option<Stream>,
    last_id: String,
    seen: Vec<String>,
    /// The number of events that gaps reported as missing. If a client is cut
    /// after a gap and resumes before the gap, it can still receive some of
    /// these events.
    reported_missing: usize,
    /// The number of bytes of the next connection after which it is cut.
    cut_after: Option<usize>,
}

impl Client {
    async fn connect(&mut self, address: SocketAddr) {
        let path = match (self.protocol, self.filter) {
            (Protocol::WebSocket, Filter::Resource) => "/orders/order-1/ws?",
            (Protocol::WebSocket, Filter::Collection) => "/orders/ws?",
            (Protocol::WebSocket, Filter::Types) => "/orders/ws?types=order-noted&",
            (_, Filter::Resource) => "/orders/order-1/events?",
            (_, Filter::Collection) => "/orders/events?",
            (_, Filter::Types) => "/orders/events?types=order-noted&",
        };
        let path = format!("{path}overflow={}&", self.policy);
        let (target, header) = match self.protocol {
            Protocol::Sse => (path, format!("last-event-id: {}\r\n", self.last_id)),
            _ => (format!("{path}from={}", self.last_id), String::new()),
        };
        let mut stream = Stream::open(address, &target, self.protocol, &header).await;
        assert!(stream.status == 200 || stream.status == 101, "{}", stream.head);
        stream.cut_after = self.cut_after.take().unwrap_or(usize::MAX);
        self.stream = Some(stream);
    }

    /// The number of events that were received or reported as missing.
    fn accounted_for(&self) -> usize {
        self.seen.len() + self.reported_missing
    }

    /// Reads until `events` more events were received or reported as missing.
    /// Reconnects after a cut. A stream that has lost an event still sends
    /// heartbeats, so the deadline applies to the whole call.
    async fn read(&mut self, address: SocketAddr, events: usize) {
        let (protocol, filter, seen) = (self.protocol, self.filter, self.seen.len());
        let reading = tokio::time::timeout(PATIENCE, self.read_all(address, events));
        reading.await.unwrap_or_else(|_| {
            panic!("{protocol:?} {filter:?}: no event after the {seen} received events")
        });
    }

    async fn read_all(&mut self, address: SocketAddr, events: usize) {
        let target = self.accounted_for() + events;
        while self.accounted_for() < target {
            if self.stream.is_none() {
                self.connect(address).await;
            }
            let stream = self.stream.as_mut().expect("connected above");
            match stream.next().await {
                Some(item) => self.on_item(item),
                None => self.stream = None,
            }
        }
    }

    fn on_item(&mut self, (id, event, text): (String, String, String)) {
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let (id, kind) = match self.protocol {
            Protocol::Sse => (id, event),
            Protocol::Ndjson => (
                value["id"].as_str().unwrap_or_default().to_owned(),
                value["type"].as_str().unwrap().to_owned(),
            ),
            Protocol::WebSocket if event == "close" => return,
            Protocol::WebSocket if value["type"] == "control" => (
                value["data"]["cursor"].as_str().unwrap_or_default().to_owned(),
                value["data"]["type"].as_str().unwrap().to_owned(),
            ),
            Protocol::WebSocket => (
                value["id"].as_str().unwrap().to_owned(),
                value["data"]["type"].as_str().unwrap().to_owned(),
            ),
        };
        if kind == "gap" {
            return self.on_gap(&id, &value);
        }
        if !id.is_empty() {
            self.last_id.clone_from(&id);
        }
        if !["stream-open", "heartbeat", "stream-close"].contains(&kind.as_str()) {
            self.seen.push(id);
        }
    }

    /// Counts the events of a gap. No events are trimmed, so only an overflow
    /// policy can be the cause.
    fn on_gap(&mut self, id: &str, value: &serde_json::Value) {
        let data = match self.protocol {
            Protocol::Sse => value,
            Protocol::Ndjson => &value["data"],
            Protocol::WebSocket => &value["data"]["data"],
        };
        assert_ne!(self.policy, "log", "{value}");
        assert_eq!(data["reason"], "dropped", "{value}");
        assert_eq!(id, "", "a gap for dropped events has no id: {value}");
        self.reported_missing += data["count"].as_u64().unwrap() as usize;
    }

    /// Checks that the received events match the filter, are in order and are
    /// unique. Checks that gaps reported all missing events before the last one.
    fn check(&self, expected: &[String]) {
        let mut next = 0;
        for id in &self.seen {
            let skipped = expected[next..].iter().position(|it| it == id);
            let skipped = skipped.unwrap_or_else(|| {
                panic!("{id} is repeated, out of order, or does not match the filter")
            });
            next += skipped + 1;
        }
        let missing = next - self.seen.len();
        assert!(
            missing <= self.reported_missing,
            "{missing} missing, {} reported",
            self.reported_missing
        );
    }

    fn expected(&self, committed: &[Committed]) -> Vec<String> {
        let wanted = |event: &&Committed| match self.filter {
            Filter::Collection => true,
            Filter::Resource => event.resource == 1,
            Filter::Types => event.kind == "order-noted",
        };
        committed.iter().filter(wanted).map(|event| event.id.clone()).collect()
    }
}

/// Appends events and returns the committed ones. With `together`, all events
/// are in one batch, so that one commit can contain them. Otherwise each event
/// is a separate request.
async fn publish(
    address: SocketAddr,
    count: u8,
    resource: u8,
    size: u16,
    together: bool,
) -> Vec<Committed> {
    let text = "x".repeat(usize::from(size));
    let mut committed = Vec::new();
    if together {
        // In a batch to a collection, each line creates a new resource.
        let lines = format!("{{\"note\":\"{text}\"}}\n").repeat(usize::from(count));
        let header = "content-type: application/x-ndjson\r\n";
        let answer = request(address, "POST", "/orders", header, lines.as_bytes()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        for line in answer.text().lines() {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            let id = value["event"].as_str().unwrap_or_else(|| panic!("{line}")).to_owned();
            committed.push(Committed { id, resource: u8::MAX, kind: "order-created" });
        }
        return committed;
    }
    for n in 0..count.min(6) {
        let kind = if n % 2 == 0 { "order-noted" } else { "order-counted" };
        let body = format!(r#"{{"type":"{kind}","data":{{"note":"{text}"}}}}"#);
        let target = format!("/orders/order-{resource}/events?merge=false");
        let value = crate::support::client::post(address, &target, &body).await;
        committed.push(Committed { id: value["id"].as_str().unwrap().to_owned(), resource, kind });
    }
    committed
}

async fn run(data: &Path, subscriptions: [(Filter, &'static str); 3], steps: Vec<Step>) {
    let mut running = start_in(data, &SETS).await;
    let mut committed = Vec::new();
    let mut cursor = String::new();
    for resource in 0..3 {
        let body = format!(r#"{{"id":"order-{resource}"}}"#);
        let header = "content-type: application/json\r\n";
        let answer = request(running.address, "POST", "/orders", header, body.as_bytes()).await;
        assert_eq!(answer.status, 201);
        answer.header("etag").unwrap().trim_matches('"').clone_into(&mut cursor);
    }
    let mut clients =
        [Protocol::Sse, Protocol::Ndjson, Protocol::WebSocket].map(|protocol| Client {
            protocol,
            filter: subscriptions[protocol as usize].0,
            policy: subscriptions[protocol as usize].1,
            stream: None,
            last_id: cursor.clone(),
            seen: Vec::new(),
            reported_missing: 0,
            cut_after: None,
        });
    for step in steps {
        match step {
            Step::Publish { count, resource, size, together } => {
                for client in &mut clients {
                    if client.stream.is_none() {
                        client.connect(running.address).await;
                    }
                }
                committed.extend(publish(running.address, count, resource, size, together).await);
            }
            Step::Read { client, events } => {
                let client = &mut clients[client];
                let expected = client.expected(&committed);
                let left = expected.len().saturating_sub(client.accounted_for());
                client.read(running.address, left.min(usize::from(events))).await;
                client.check(&expected);
            }
            Step::Cut { client, bytes } => {
                let client = &mut clients[client];
                match &mut client.stream {
                    Some(stream) => stream.cut_after = stream.read + usize::from(bytes),
                    None => client.cut_after = Some(usize::from(bytes)),
                }
            }
            Step::Restart => {
                for client in &mut clients {
                    client.stream = None;
                }
                running.gateway.drain().await.unwrap();
                running = start_in(data, &SETS).await;
            }
        }
    }
    finish(running, &mut clients, &committed).await;
}

/// Lets every client read to the end. Checks that a client with the policy `log`
/// has received exactly the committed events.
async fn finish(running: Running, clients: &mut [Client; 3], committed: &[Committed]) {
    for client in clients {
        let expected = client.expected(committed);
        let left = expected.len().saturating_sub(client.accounted_for());
        client.read(running.address, left).await;
        client.check(&expected);
        if client.policy == "log" {
            assert_eq!(client.seen, expected, "{:?} {:?}", client.protocol, client.filter);
        }
        client.stream = None;
    }
    running.gateway.drain().await.unwrap();
}

#[test]
fn each_subscription_receives_exactly_the_committed_events() {
    let cases = std::env::var("STREAMGATE_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(40);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let config = Config {
        cases,
        failure_persistence: None,
        // Each run of a failing case can take the whole `PATIENCE`.
        max_shrink_iters: 16,
        ..Config::default()
    };
    let subscription = || (filter(), policy());
    let strategy =
        ([subscription(), subscription(), subscription()], prop::collection::vec(step(), 4..24));
    TestRunner::new(config)
        .run(&strategy, |(subscriptions, steps)| {
            let directory = tempfile::tempdir().unwrap();
            runtime.block_on(run(directory.path(), subscriptions, steps));
            Ok(())
        })
        .unwrap();
}
