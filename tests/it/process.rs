//! The gateway process: the effect of signals and of a lack of file descriptors.

use std::time::Duration;

use rustix::process::{Resource, Rlimit, Signal, getrlimit, prlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::client::{PATIENCE, Protocol, Stream, post, request};
use crate::support::process::Process;

const ORDERS: &str = "[[collections]]\nname = \"orders\"\n";

fn with(more: &str) -> String {
    format!("{more}\n{ORDERS}")
}

/// Waits until `/metrics` contains `line`.
async fn wait_for_metric(process: &Process, line: &str) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let metrics = request(process.admin, "GET", "/metrics", "", b"").await;
        if metrics.text().lines().any(|it| it == line) {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "no {line} in {}", metrics.text());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn status(process: &Process, target: &str) -> u16 {
    request(process.address, "GET", target, "", b"").await.status
}

#[tokio::test]
async fn sighup_reloads_the_configuration_and_keeps_every_stream() {
    let process = Process::start(&with("[limits]\nbody_bytes = \"1KiB\""));
    let mut stream = Stream::open(process.address, "/orders/events", Protocol::Sse, "").await;
    let mut socket = Stream::open(process.address, "/ws", Protocol::WebSocket, "").await;
    stream.next().await.unwrap();
    let large = format!(r#"{{"note":"{}"}}"#, "x".repeat(2000));
    let json = "content-type: application/json\r\n";
    let create =
        async || request(process.address, "POST", "/orders", json, large.as_bytes()).await.status;
    assert_eq!(create().await, 413);
    assert_eq!(status(&process, "/visits").await, 404);

    process.rewrite(&with(
        "[limits]\nbody_bytes = \"4KiB\"\n[[topics]]\nname = \"audit\"\n[[collections]]\nname = \"visits\"",
    ));
    process.signal(Signal::HUP);
    wait_for_metric(&process, r#"streamgate_config_reloads_total{result="applied"} 1"#).await;
    assert_eq!(create().await, 201);
    assert_eq!(status(&process, "/visits").await, 200);
    post(process.address, "/events/audit", r#"{"type":"seen","data":1}"#).await;
    socket
        .send_text(
            r#"{"id":"a","type":"command","data":{"command":"subscribe","collection":"visits"}}"#,
        )
        .await;
    let (_, _, answer) = socket.next().await.unwrap();
    assert!(
        answer.contains(r#""type":"response""#),
        "an open socket can use the new topic: {answer}"
    );
    post(process.address, "/visits", r#"{"n":1}"#).await;
    assert!(socket.next().await.unwrap().2.contains("visit-created"));
    assert_eq!(stream.next().await.unwrap().1, "order-created");
}

#[tokio::test]
async fn an_invalid_configuration_changes_nothing_and_is_logged() {
    let process = Process::start(&with("[limits]\nbody_bytes = \"1KiB\""));
    let mut stream = Stream::open(process.address, "/orders/events", Protocol::Sse, "").await;
    process.rewrite(&with(
        "[limits]\nbody_bytes = \"4KiB\"\nhead_timeout = \"0s\"\n[streams]\nring_events = 0",
    ));
    process.signal(Signal::HUP);
    wait_for_metric(&process, r#"streamgate_config_reloads_total{result="faulty"} 1"#).await;
    process.logs("config.toml:3: limits.head_timeout: must be greater than zero").await;
    process.logs("config.toml:5: streams.ring_events: must be greater than zero").await;
    let json = "content-type: application/json\r\n";
    let large = format!(r#"{{"note":"{}"}}"#, "x".repeat(2000));
    let refused = request(process.address, "POST", "/orders", json, large.as_bytes()).await;
    assert_eq!(refused.status, 413, "a valid key of an invalid file is not applied");
    post(process.address, "/orders", "{}").await;
    assert_eq!(stream.next().await.unwrap().1, "stream-open");
    assert_eq!(stream.next().await.unwrap().1, "order-created");
}

#[tokio::test]
async fn a_reload_changes_the_heartbeat_of_open_streams() {
    let process = Process::start(&with("[streams]\nheartbeat = \"1h\""));
    let mut stream = Stream::open(process.address, "/orders/events", Protocol::Sse, "").await;
    assert_eq!(stream.next().await.unwrap().1, "stream-open");
    process.rewrite(&with("[streams]\nheartbeat = \"50ms\""));
    process.signal(Signal::HUP);
    assert_eq!(stream.next().await.unwrap().1, "heartbeat");
}

#[tokio::test]
async fn a_reload_logs_the_keys_that_need_a_restart() {
    let process = Process::start(&with(""));
    process.rewrite(&with("[storage]\nsync = \"never\"\n[streams]\npage_cache = \"1MiB\""));
    process.signal(Signal::HUP);
    process.logs("storage.sync, streams.page_cache").await;
    assert_eq!(status(&process, "/orders").await, 200);
}

#[tokio::test]
async fn a_reload_logs_the_keys_of_logs_that_need_a_restart() {
    let logs = |resource: &str, durability: &str| {
        format!(
            "[[collections]]\nname = \"orders\"\nresource = \"{resource}\"\n\
             [[topics]]\nname = \"alerts\"\ndurability = \"{durability}\"\n"
        )
    };
    let process = Process::start(&logs("order", "disk"));
    process.rewrite(&logs("purchase", "memory"));
    process.signal(Signal::HUP);
    process.logs("collections.resource of orders, topics.durability of alerts").await;
    assert_eq!(status(&process, "/orders").await, 200);
}

#[tokio::test]
async fn a_drain_closes_every_stream_and_exits_with_code_0() {
    let mut process = Process::start(&with("[server]\ndrain = \"3s\""));
    let mut sse = Stream::open(process.address, "/orders/events", Protocol::Sse, "").await;
    let mut ndjson = Stream::open(process.address, "/orders/events", Protocol::Ndjson, "").await;
    let mut socket = Stream::open(process.address, "/orders/ws", Protocol::WebSocket, "").await;
    process.signal(Signal::TERM);
    let mut last = (String::new(), String::new(), String::new());
    while let Some(item) = sse.next().await {
        last = item;
    }
    assert_eq!((last.1.as_str(), last.2.as_str()), ("stream-close", r#"{"reason":"draining"}"#));
    assert!(last.0.ends_with("-0"), "the position is in the message: {}", last.0);
    assert!(sse.ended());
    let mut line = String::new();
    while let Some((_, _, text)) = ndjson.next().await {
        line = text;
    }
    assert!(line.contains(r#""reason":"draining""#), "{line}");
    let code = loop {
        let (_, kind, text) = socket.next().await.unwrap();
        if kind == "close" {
            break text;
        }
    };
    assert_eq!(code, "1012");
    assert_eq!(process.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_drain_rejects_new_streams_and_answers_requests() {
    let mut process = Process::start(&with("[server]\ndrain = \"10s\""));
    let stream = Stream::open(process.address, "/orders/events", Protocol::Sse, "").await;
    process.signal(Signal::TERM);
    process.logs("draining").await;
    let answer =
        request(process.address, "POST", "/orders", "content-type: application/json\r\n", b"{}")
            .await;
    assert_eq!(answer.status, 201);
    let ready = request(process.admin, "GET", "/readyz", "", b"").await;
    assert_eq!((ready.status, ready.json()["draining"].as_bool()), (503, Some(true)));
    assert_eq!(ready.json()["ready"], false);
    let mut late = Stream::open(process.address, "/orders/events", Protocol::Sse, "").await;
    assert_eq!(late.status, 200, "an EventSource would not reconnect after a 503");
    let (_, event, data) = late.next().await.unwrap();
    assert_eq!(event, "error");
    assert!(data.contains("/problems/draining"), "{data}");
    let late = Stream::open(process.address, "/orders/events", Protocol::Ndjson, "").await;
    assert_eq!(late.status, 503);
    assert!(late.head.contains("retry-after: "), "{}", late.head);
    let late = Stream::open(process.address, "/orders/ws", Protocol::WebSocket, "").await;
    assert_eq!(late.status, 503);
    drop(stream);
    assert_eq!(process.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_second_signal_ends_the_process_at_once() {
    let mut process = Process::start(&with("[server]\ndrain = \"1h\""));
    let _stream = Stream::open(process.address, "/orders/events", Protocol::Sse, "").await;
    process.signal(Signal::TERM);
    process.logs("draining").await;
    process.signal(Signal::TERM);
    assert_eq!(process.ended().await.code(), Some(1));
    process.logs("ended by a second signal").await;
}

#[tokio::test]
async fn the_admin_listener_accepts_while_clients_wait_for_descriptors() {
    let process = Process::start(&with(""));
    let _first = Stream::open(process.address, "/orders/events", Protocol::Sse, "").await;
    let open = format!("/proc/{}/fd", process.pid().as_raw_nonzero());
    let open_files = std::fs::read_dir(open).unwrap();
    let number = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.unwrap().file_name().to_str().unwrap().parse::<u64>().unwrap()
    };
    // The limit forbids numbers above the open ones. Clients use the free
    // numbers below.
    limit_descriptors(&process, open_files.map(number).max().map(|last| last + 1));
    let mut clients = Vec::new();
    while !process.has_logged("cannot accept") {
        clients.push(TcpStream::connect(process.address).await.unwrap());
        assert!(clients.len() < 500);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut waiting = TcpStream::connect(process.address).await.unwrap();
    for _ in 0..8 {
        let alive = request(process.admin, "GET", "/livez", "", b"").await;
        assert_eq!(alive.status, 200);
    }
    limit_descriptors(&process, getrlimit(Resource::Nofile).maximum);
    process.logs("accepting again").await;
    let head = b"GET /orders HTTP/1.1\r\nhost: g\r\nconnection: close\r\n\r\n";
    waiting.write_all(head).await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, waiting.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"), "the waiting client receives a response");
}

/// Sets the limit of open descriptors of a running process.
fn limit_descriptors(process: &Process, current: Option<u64>) {
    // The process inherits its hard limit from this process.
    let maximum = getrlimit(Resource::Nofile).maximum;
    prlimit(Some(process.pid()), Resource::Nofile, Rlimit { current, maximum }).unwrap();
}
