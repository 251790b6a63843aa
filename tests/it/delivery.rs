//! What a subscription is written is exactly what was committed, or it is told
//! how many are missing: under random publishing, lag, overflow policies, cuts
//! at any byte, returns and restarts, on each protocol.
//!
//! `STREAMGATE_CASES` says how many cases (default 40).

use std::net::SocketAddr;
use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::support::client::{PATIENCE, Speaks, Stream, request};
use crate::support::{Running, start_in};

/// Rings of few events and little memory, so that everything that can happen
/// to a subscription does within a few dozen events.
const SETS: [&str; 7] = [
    r#"streams.overflow_choices=["conflate","drop-oldest","drop-newest"]"#,
    "streams.ring_events=4",
    "streams.ring_bytes=2KiB",
    "streams.heartbeat=40ms",
    "storage.tail_bytes=16KiB",
    "streams.page_cache=64KiB",
    "streams.catchup_concurrency=1",
];

/// One thing that happens.
#[derive(Clone, Debug)]
enum Step {
    /// Events are committed: how many, on which resource, how large.
    Publish { count: u8, resource: u8, size: u16, together: bool },
    /// A client reads some events.
    Read { client: usize, events: u8 },
    /// A client's connection is cut after so many more bytes.
    Cut { client: usize, bytes: u16 },
    /// The gateway ends in order and starts on the same disk.
    Restart,
}

/// What a client subscribes to.
#[derive(Clone, Copy, Debug)]
enum Wants {
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

/// Most clients lose nothing; a dropping policy is told apart by what it may.
fn policy() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        4 => Just("log"),
        1 => Just("conflate"),
        1 => Just("drop-oldest"),
        1 => Just("drop-newest"),
    ]
}

fn wants() -> impl Strategy<Value = Wants> {
    prop_oneof![Just(Wants::Collection), Just(Wants::Resource), Just(Wants::Types)]
}

/// A committed event, as its writer was told.
struct Committed {
    id: String,
    resource: u8,
    kind: &'static str,
}

/// A client with its own memory of what it has seen.
struct Client {
    speaks: Speaks,
    wants: Wants,
    policy: &'static str,
    stream: Option<Stream>,
    last_id: String,
    seen: Vec<String>,
    /// Events that it was told are missing. A client that is cut behind that
    /// comes back to them, so some of these may be seen after all.
    told: usize,
    /// Where its next cut comes, in bytes of the connection.
    cut_after: Option<usize>,
}

impl Client {
    async fn connect(&mut self, address: SocketAddr) {
        let path = match (self.speaks, self.wants) {
            (Speaks::WebSocket, Wants::Resource) => "/orders/order-1/ws?",
            (Speaks::WebSocket, Wants::Collection) => "/orders/ws?",
            (Speaks::WebSocket, Wants::Types) => "/orders/ws?types=order-noted&",
            (_, Wants::Resource) => "/orders/order-1/events?",
            (_, Wants::Collection) => "/orders/events?",
            (_, Wants::Types) => "/orders/events?types=order-noted&",
        };
        let path = format!("{path}overflow={}&", self.policy);
        let (target, header) = match self.speaks {
            Speaks::Sse => (path, format!("last-event-id: {}\r\n", self.last_id)),
            _ => (format!("{path}from={}", self.last_id), String::new()),
        };
        let mut stream = Stream::open(address, &target, self.speaks, &header).await;
        assert!(stream.status == 200 || stream.status == 101, "{}", stream.head);
        stream.cut_after = self.cut_after.take().unwrap_or(usize::MAX);
        self.stream = Some(stream);
    }

    /// Events that it has, or knows that it has not.
    fn settled(&self) -> usize {
        self.seen.len() + self.told
    }

    /// Reads until `events` more have come; returns by itself when cut.
    /// Heartbeats keep coming on a stream that has lost one, so it is the
    /// whole that has a deadline.
    async fn read(&mut self, address: SocketAddr, events: usize) {
        let (speaks, wants, seen) = (self.speaks, self.wants, self.seen.len());
        let reading = tokio::time::timeout(PATIENCE, self.read_all(address, events));
        reading.await.unwrap_or_else(|_| {
            panic!("{speaks:?} {wants:?}: an event behind the {seen} seen never came")
        });
    }

    async fn read_all(&mut self, address: SocketAddr, events: usize) {
        let aim = self.settled() + events;
        while self.settled() < aim {
            if self.stream.is_none() {
                self.connect(address).await;
            }
            let stream = self.stream.as_mut().expect("connected above");
            match stream.next().await {
                Some(item) => self.take(item),
                None => self.stream = None,
            }
        }
    }

    fn take(&mut self, (id, event, text): (String, String, String)) {
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let (id, kind) = match self.speaks {
            Speaks::Sse => (id, event),
            Speaks::Ndjson => (
                value["id"].as_str().unwrap_or_default().to_owned(),
                value["type"].as_str().unwrap().to_owned(),
            ),
            Speaks::WebSocket if event == "close" => return,
            Speaks::WebSocket if value["type"] == "control" => (
                value["data"]["cursor"].as_str().unwrap_or_default().to_owned(),
                value["data"]["type"].as_str().unwrap().to_owned(),
            ),
            Speaks::WebSocket => (
                value["id"].as_str().unwrap().to_owned(),
                value["data"]["type"].as_str().unwrap().to_owned(),
            ),
        };
        if kind == "gap" {
            return self.hear(&id, &value);
        }
        if !id.is_empty() {
            self.last_id.clone_from(&id);
        }
        if !["stream-open", "heartbeat", "stream-close"].contains(&kind.as_str()) {
            self.seen.push(id);
        }
    }

    /// A gap; nothing was trimmed, so only a policy may be why.
    fn hear(&mut self, id: &str, value: &serde_json::Value) {
        let data = match self.speaks {
            Speaks::Sse => value,
            Speaks::Ndjson => &value["data"],
            Speaks::WebSocket => &value["data"]["data"],
        };
        assert_ne!(self.policy, "log", "{value}");
        assert_eq!(data["reason"], "dropped", "{value}");
        assert_eq!(id, "", "what a policy took can be come back for: {value}");
        self.told += data["count"].as_u64().unwrap() as usize;
    }

    /// What it has seen is of what it wants, in order, each once, and it knows
    /// of everything that is missing up to there.
    fn check(&self, expected: &[String]) {
        let mut behind = 0;
        for id in &self.seen {
            let skipped = expected[behind..].iter().position(|it| it == id);
            let skipped = skipped.unwrap_or_else(|| panic!("{id} again, or not wanted"));
            behind += skipped + 1;
        }
        let missing = behind - self.seen.len();
        assert!(missing <= self.told, "{missing} missing, {} told", self.told);
    }

    fn expected(&self, committed: &[Committed]) -> Vec<String> {
        let wanted = |event: &&Committed| match self.wants {
            Wants::Collection => true,
            Wants::Resource => event.resource == 1,
            Wants::Types => event.kind == "order-noted",
        };
        committed.iter().filter(wanted).map(|event| event.id.clone()).collect()
    }
}

/// Appends events and gives what was committed. `together` sends all of them
/// in one commit's reach, else one request each.
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
        // A batch of writes to a collection creates: each line its own resource.
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

async fn run(data: &Path, asks: [(Wants, &'static str); 3], steps: Vec<Step>) {
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
    let mut clients = [Speaks::Sse, Speaks::Ndjson, Speaks::WebSocket].map(|speaks| Client {
        speaks,
        wants: asks[speaks as usize].0,
        policy: asks[speaks as usize].1,
        stream: None,
        last_id: cursor.clone(),
        seen: Vec::new(),
        told: 0,
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
                let left = expected.len().saturating_sub(client.settled());
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

/// Everybody reads to the end; then each has exactly what was committed.
async fn finish(running: Running, clients: &mut [Client; 3], committed: &[Committed]) {
    for client in clients {
        let expected = client.expected(committed);
        let left = expected.len().saturating_sub(client.settled());
        client.read(running.address, left).await;
        client.check(&expected);
        if client.policy == "log" {
            assert_eq!(client.seen, expected, "{:?} {:?}", client.speaks, client.wants);
        }
        client.stream = None;
    }
    running.gateway.drain().await.unwrap();
}

#[test]
fn what_is_delivered_is_what_was_committed() {
    let cases = std::env::var("STREAMGATE_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(40);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let config = Config {
        cases,
        failure_persistence: None,
        // A failing case may have to wait out its patience each time.
        max_shrink_iters: 16,
        ..Config::default()
    };
    let ask = || (wants(), policy());
    let strategy = ([ask(), ask(), ask()], prop::collection::vec(step(), 4..24));
    TestRunner::new(config)
        .run(&strategy, |(asks, steps)| {
            let directory = tempfile::tempdir().unwrap();
            runtime.block_on(run(directory.path(), asks, steps));
            Ok(())
        })
        .unwrap();
}
