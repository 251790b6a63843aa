//! A topic that is kept only in memory, from the view of clients and operators.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::Value;

use crate::support::client::{Protocol, Stream, post, request};
use crate::support::{start, start_in};

const JSON: &str = "content-type: application/json\r\n";
const PAGE: &str = "accept: application/json\r\n";
const FORMS: [Protocol; 3] = [Protocol::Sse, Protocol::Ndjson, Protocol::WebSocket];

/// Publishes `count` events in one batch. Returns their ids.
async fn publish(address: SocketAddr, topic: &str, count: usize, text: &str) -> Vec<String> {
    let line = format!("{{\"type\":\"tick\",\"data\":{{\"text\":\"{text}\"}}}}\n");
    let headers = "content-type: application/x-ndjson\r\n";
    let target = format!("/events/{topic}");
    let answer = request(address, "POST", &target, headers, line.repeat(count).as_bytes()).await;
    let lines = answer.text().lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let ids: Vec<_> = lines.map(|line| line["event"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids.len(), count);
    ids
}

/// Returns the type, the id or position, and the data of the next event or
/// control message. Heartbeats are skipped.
async fn next(stream: &mut Stream, protocol: Protocol) -> (String, String, Value) {
    loop {
        let (id, event, text) = stream.next().await.expect("the stream is open");
        let (kind, id, data) = if protocol == Protocol::Sse {
            (event, id, serde_json::from_str(&text).unwrap())
        } else {
            let message: Value = serde_json::from_str(&text).unwrap();
            let body = if protocol == Protocol::Ndjson { &message } else { &message["data"] };
            let kind = body["type"].as_str().unwrap().to_owned();
            let control = message["type"] == "control";
            let id = if control { &body["cursor"] } else { &message["id"] };
            (kind, id.as_str().unwrap_or_default().to_owned(), body["data"].clone())
        };
        if kind != "heartbeat" {
            return (kind, id, data);
        }
    }
}

/// Opens the stream of the topic over `protocol`. `query` has the start.
async fn open(address: SocketAddr, protocol: Protocol, query: &str) -> Stream {
    let socket = if protocol == Protocol::WebSocket { "/ws" } else { "" };
    let target = format!("/events/ticks{socket}?{query}");
    let stream = Stream::open(address, &target, protocol, "").await;
    assert_eq!(stream.status, if socket.is_empty() { 200 } else { 101 }, "{}", stream.head);
    stream
}

fn offset(id: &str) -> u64 {
    id.split_once('-').unwrap().1.parse().unwrap()
}

/// Reads up to the event `last`. Checks that a gap reports every event that
/// does not arrive. Returns the number of events that arrived.
async fn read_to(stream: &mut Stream, protocol: Protocol, mut after: u64, last: &str) -> u64 {
    let mut seen = 0;
    while after < offset(last) {
        let (kind, id, data) = next(stream, protocol).await;
        if kind == "gap" {
            assert_eq!(data["reason"], "expired");
            assert_eq!(offset(data["from"].as_str().unwrap()), after);
            after = offset(data["to"].as_str().unwrap());
        } else {
            assert_eq!(
                (kind.as_str(), offset(&id)),
                ("tick", after + 1),
                "an event is missing without a gap"
            );
            after += 1;
            seen += 1;
        }
    }
    seen
}

#[tokio::test]
async fn a_client_that_resumes_within_the_tail_loses_no_event() {
    for protocol in FORMS {
        let (_data, gateway) = start(&[]).await;
        let early = publish(gateway.address, "ticks", 20, "early").await;
        let mut stream = open(gateway.address, protocol, "from=earliest").await;
        assert_eq!(next(&mut stream, protocol).await.0, "stream-open");
        for id in &early[..12] {
            assert_eq!(&next(&mut stream, protocol).await.1, id);
        }
        drop(stream);
        let mut rest = early[12..].to_vec();
        rest.extend(publish(gateway.address, "ticks", 300, "late").await);
        let query = format!("lastEventId={}", early[11]);
        let mut stream = open(gateway.address, protocol, &query).await;
        let opening = next(&mut stream, protocol).await;
        assert_eq!((opening.0.as_str(), opening.1.as_str()), ("stream-open", early[11].as_str()));
        for id in &rest {
            assert_eq!(&next(&mut stream, protocol).await.1, id, "{protocol:?}");
        }
        let live = publish(gateway.address, "ticks", 1, "live").await;
        assert_eq!(next(&mut stream, protocol).await.1, live[0]);
    }
}

#[tokio::test]
async fn pages_and_start_times_are_served_from_memory() {
    let (_data, gateway) = start(&[]).await;
    let ids = publish(gateway.address, "ticks", 150, "x").await;
    let page = |query: String| async move {
        let target = format!("/events/ticks?{query}");
        let answer = request(gateway.address, "GET", &target, PAGE, b"").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    };
    let first = page(String::new()).await;
    assert_eq!(first["data"].as_array().unwrap().len(), 100);
    assert_eq!(first["meta"]["next"], ids[99]);
    assert_eq!(first["meta"]["head"], ids[149]);
    let second = page(format!("after={}", ids[99])).await;
    assert_eq!(second["data"].as_array().unwrap().len(), 50);
    assert_eq!(second["meta"]["next"], ids[149]);
    let time = first["data"][0]["time"].as_str().unwrap();
    assert_eq!(page(format!("from={time}&limit=1")).await["data"][0]["id"], ids[0]);
    let later = page("from=2999-01-01T00:00:00Z".to_owned()).await;
    assert!(later["data"].as_array().unwrap().is_empty());
    assert_eq!(later["meta"]["next"], ids[149]);
    let metrics = request(gateway.admin, "GET", "/metrics", "", b"").await;
    for line in [
        "streamgate_log_events{log=\"ticks\"} 150\n",
        "streamgate_log_earliest_offset{log=\"ticks\"} 0\n",
        "streamgate_log_head_offset{log=\"ticks\"} 150\n",
        "streamgate_events_appended_total{log=\"ticks\"} 150\n",
    ] {
        assert!(metrics.text().contains(line), "no {line} in {}", metrics.text());
    }
}

#[tokio::test]
async fn a_start_before_the_tail_is_answered_with_a_gap() {
    let (_data, gateway) = start(&["storage.tail_bytes=64KiB"]).await;
    let first = publish(gateway.address, "ticks", 1, "x").await.remove(0);
    let page = request(gateway.address, "GET", "/events/ticks", PAGE, b"").await;
    let time = page.json()["data"][0]["time"].as_str().unwrap().to_owned();
    let mut last = String::new();
    for _ in 0..10 {
        last = publish(gateway.address, "ticks", 100, &"x".repeat(50)).await.pop().unwrap();
    }
    for protocol in FORMS {
        for start in [format!("lastEventId={first}"), format!("from={time}")] {
            let mut stream = open(gateway.address, protocol, &start).await;
            assert_eq!(next(&mut stream, protocol).await.0, "stream-open");
            let (kind, id, data) = next(&mut stream, protocol).await;
            assert_eq!((kind.as_str(), data["reason"].as_str()), ("gap", Some("expired")));
            assert_eq!(data["to"], data["earliest"]);
            assert_eq!(data["to"].as_str(), Some(id.as_str()));
            let (from, last_offset) = (offset(&id), offset(&last));
            assert!(from > 500 && from < last_offset, "{id}");
            assert_eq!(read_to(&mut stream, protocol, from, &last).await, last_offset - from);
        }
        let mut stream = open(gateway.address, protocol, "from=earliest").await;
        let (kind, id, _) = next(&mut stream, protocol).await;
        assert_eq!(kind, "stream-open");
        let from = offset(&id);
        assert_eq!(read_to(&mut stream, protocol, from, &last).await, offset(&last) - from);
    }
    for (accept, query) in [("application/json", ""), ("application/x-ndjson", "&onGap=error")] {
        let target = format!("/events/ticks?lastEventId={first}{query}");
        let headers = format!("accept: {accept}\r\n");
        let answer = request(gateway.address, "GET", &target, &headers, b"").await;
        assert_eq!(answer.status, 410, "{}", answer.text());
        assert_eq!(answer.json()["reason"], "expired");
    }
    let metrics = request(gateway.admin, "GET", "/metrics", "", b"").await;
    let value = |name: &str| {
        let name = format!("streamgate_log_{name}{{log=\"ticks\"}} ");
        let line = metrics.text().lines().find_map(|line| line.strip_prefix(&name));
        line.unwrap_or_else(|| panic!("no {name}")).parse::<u64>().unwrap()
    };
    assert_eq!(value("head_offset"), offset(&last));
    assert_eq!(value("events"), value("head_offset") - value("earliest_offset"));
    assert!(value("bytes") > 50 * value("events") && value("bytes") < 64 << 10);
}

/// The reader falls behind by more events than the tail keeps.
#[tokio::test]
async fn every_event_that_a_slow_reader_misses_is_reported() {
    for protocol in FORMS {
        let sets = ["storage.tail_bytes=64KiB", "streams.ring_events=16"];
        let (_data, gateway) = start(&sets).await;
        let mut stream = open(gateway.address, protocol, "from=now").await;
        assert_eq!(next(&mut stream, protocol).await.0, "stream-open");
        let mut last = String::new();
        for _ in 0..40 {
            last = publish(gateway.address, "ticks", 50, &"x".repeat(500)).await.pop().unwrap();
        }
        let seen = read_to(&mut stream, protocol, 0, &last).await;
        assert!(seen > 0 && seen < offset(&last), "{protocol:?}: {seen}");
        let live = publish(gateway.address, "ticks", 1, "live").await;
        assert_eq!(next(&mut stream, protocol).await.1, live[0]);
    }
}

#[tokio::test]
async fn a_memory_topic_has_a_new_epoch_after_a_restart() {
    let data = tempfile::tempdir().unwrap();
    let gateway = start_in(data.path(), &[]).await;
    let old = publish(gateway.address, "ticks", 3, "old").await.pop().unwrap();
    let on_disk = publish(gateway.address, "audit", 1, "kept").await.pop().unwrap();
    gateway.gateway.drain().await.unwrap();
    let gateway = start_in(data.path(), &[]).await;
    let new = publish(gateway.address, "ticks", 1, "new").await.pop().unwrap();
    assert_eq!(offset(&new), 1);
    for protocol in FORMS {
        let mut stream = open(gateway.address, protocol, &format!("lastEventId={old}")).await;
        let opening = next(&mut stream, protocol).await;
        assert_eq!((opening.0.as_str(), opening.1.as_str()), ("stream-open", old.as_str()));
        let (kind, _, data) = next(&mut stream, protocol).await;
        assert_eq!((kind.as_str(), data["reason"].as_str()), ("gap", Some("epoch")));
        assert_eq!(data["from"].as_str(), Some(old.as_str()));
        assert_eq!(next(&mut stream, protocol).await.1, new);
    }
    let page = request(gateway.address, "GET", "/events/audit", PAGE, b"").await;
    assert_eq!(page.json()["data"][0]["id"], on_disk, "the topic on disk is unchanged");
}

#[tokio::test]
async fn a_memory_topic_writes_nothing_to_the_store() {
    let data = tempfile::tempdir().unwrap();
    let gateway = start_in(data.path(), &[]).await;
    publish(gateway.address, "ticks", 100, "only-in-memory").await;
    publish(gateway.address, "audit", 100, "also-on-disk").await;
    let store = data.path().join("store");
    let found = |text: &str| files_with(&store, text.as_bytes());
    assert!(
        found("also-on-disk") > 0 && found("audit") > 0,
        "the search finds text that is in the store"
    );
    assert_eq!((found("only-in-memory"), found("ticks")), (0, 0));
    gateway.gateway.drain().await.unwrap();
    assert_eq!((found("only-in-memory"), found("ticks")), (0, 0));
}

/// Returns the number of files under `folder` that contain `text`. Journals are
/// created at their full size, so the zeros at their ends are skipped.
fn files_with(folder: &Path, text: &[u8]) -> usize {
    const ZEROS: [u8; 4096] = [0; 4096];
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let found = entries.map(|path| {
        if path.is_dir() {
            return files_with(&path, text);
        }
        let bytes = std::fs::read(&path).unwrap();
        let empty = bytes.rchunks(ZEROS.len()).take_while(|block| ZEROS.starts_with(block));
        let bytes = &bytes[..bytes.len() - empty.map(<[u8]>::len).sum::<usize>()];
        usize::from(bytes.windows(text.len()).any(|window| window == text))
    });
    found.sum()
}

#[tokio::test]
async fn a_memory_topic_rejects_idempotency_keys() {
    let (_data, gateway) = start(&[]).await;
    let body = r#"{"type":"tick","data":1}"#;
    let headers = format!("{JSON}idempotency-key: k\r\n");
    let refused =
        request(gateway.address, "POST", "/events/ticks", &headers, body.as_bytes()).await;
    assert_eq!(refused.status, 400, "{}", refused.text());
    assert_eq!(refused.json()["type"], "/problems/bad-parameter");
    let posted = post(gateway.address, "/events/ticks", body).await;
    assert_eq!(offset(posted["id"].as_str().unwrap()), 1, "the rejected request wrote no event");
}
