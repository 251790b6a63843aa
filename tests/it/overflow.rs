//! The events that a slow client receives under each overflow policy
//! (`docs/protocol.md#streams`, Slow clients).

use std::collections::HashMap;
use std::time::Instant;

use crate::support::client::{Protocol, Stream, request};
use crate::support::{Running, start};

/// Settings with small rings and all overflow policies.
const SETS: [&str; 3] = [
    "streams.ring_events=16",
    "streams.ring_bytes=64KiB",
    r#"streams.overflow_choices=["conflate","drop-oldest","drop-newest","disconnect"]"#,
];

/// The size of the note in an event. Each event is larger than a small socket
/// buffer.
const NOTE_BYTES: usize = 8 * 1024;
const RESOURCES: usize = 5;

async fn publish(gateway: &Running, count: usize) -> Vec<String> {
    publish_over(gateway, count, RESOURCES).await
}

/// Writes `count` events to `resources` resources in turn. Each event has its
/// own commit. Returns the ids of the events.
async fn publish_over(gateway: &Running, count: usize, resources: usize) -> Vec<String> {
    let note = "x".repeat(NOTE_BYTES);
    let mut ids = Vec::new();
    for n in 0..count {
        let body = format!(r#"{{"n":{n},"note":"{note}"}}"#);
        let target = format!("/orders/order-{}", n % resources);
        let header = "content-type: application/json\r\n";
        let answer = request(gateway.address, "PUT", &target, header, body.as_bytes()).await;
        assert!(answer.status < 300, "{}", answer.text());
        ids.push(answer.header("etag").unwrap().trim_matches('"').to_owned());
    }
    ids
}

/// The content of a stream up to an event with a given id.
#[derive(Default)]
struct Received {
    ids: Vec<String>,
    /// The newest value of `n` by resource.
    newest: HashMap<String, u64>,
    /// The sum of the counts in all gaps.
    dropped: u64,
    gaps: u64,
    closed: Option<String>,
}

async fn read(stream: &mut Stream, last: &str) -> Received {
    let mut received = Received::default();
    while let Some((id, event, data)) = stream.next().await {
        let value: serde_json::Value = serde_json::from_str(&data).unwrap();
        match event.as_str() {
            "gap" => {
                assert_eq!(value["reason"], "dropped");
                assert_eq!(id, "", "a gap for dropped events has no id");
                let from = received.ids.last().map_or("", String::as_str);
                assert!(from.is_empty() || value["from"] == from, "{data} after {from}");
                received.dropped += value["count"].as_u64().unwrap();
                received.gaps += 1;
            }
            "stream-close" => {
                received.closed = Some(value["reason"].as_str().unwrap().to_owned());
            }
            "order-created" | "order-updated" => {
                let order = value["orderId"].as_str().unwrap().to_owned();
                received.newest.insert(order, value["n"].as_u64().unwrap());
                received.ids.push(id.clone());
                if id == last {
                    break;
                }
            }
            _ => {}
        }
    }
    received
}

/// Opens a stream with `policy` and reads only after all events are published.
/// Returns the ids of the published events and the content of the stream.
async fn read_after_publish(
    gateway: &Running,
    policy: &str,
    count: usize,
) -> (Vec<String>, Received) {
    let target = format!("/orders/events?overflow={policy}");
    let mut stream = Stream::open(gateway.address, &target, Protocol::Sse, "").await;
    assert_eq!(stream.status, 200, "{}", stream.head);
    let ids = publish(gateway, count).await;
    let received = read(&mut stream, ids.last().unwrap()).await;
    let places: Vec<_> = received.ids.iter().map(|id| ids.iter().position(|i| i == id)).collect();
    assert!(places.is_sorted_by(|a, b| a < b), "in order, each once: {places:?}");
    assert!(places.iter().all(Option::is_some), "only published events");
    (ids, received)
}

#[tokio::test]
async fn log_loses_nothing() {
    let (_data, gateway) = start(&SETS).await;
    let (ids, received) = read_after_publish(&gateway, "log", 120).await;
    assert_eq!(received.ids, ids);
    assert_eq!((received.dropped, received.gaps), (0, 0));
}

#[tokio::test]
async fn drop_oldest_keeps_the_newest_events_and_reports_the_dropped() {
    let (_data, gateway) = start(&SETS).await;
    let (ids, received) = read_after_publish(&gateway, "drop-oldest", 120).await;
    assert_eq!(received.ids.len() as u64 + received.dropped, 120);
    assert!(received.dropped > 0);
    assert_eq!(received.ids.last(), ids.last());
    let tail = &ids[ids.len() - 5..];
    assert!(received.ids.ends_with(tail), "the newest events are all present");
}

#[tokio::test]
async fn drop_newest_keeps_the_oldest_events_and_reports_the_dropped() {
    let (_data, gateway) = start(&SETS).await;
    let target = "/orders/events?overflow=drop-newest";
    let mut stream = Stream::open(gateway.address, target, Protocol::Sse, "").await;
    let ids = publish(&gateway, 120).await;
    let mut before = Vec::new();
    let mut received = Received::default();
    // If the socket accepts an event in between, there are several gaps.
    while received.ids.len() as u64 + received.dropped < 120 {
        let (id, event, data) = stream.next().await.unwrap();
        if event == "gap" {
            let value: serde_json::Value = serde_json::from_str(&data).unwrap();
            assert_eq!(value["from"], received.ids.last().unwrap().as_str());
            received.dropped += value["count"].as_u64().unwrap();
            received.gaps += 1;
        } else if event.starts_with("order-") {
            before.extend((received.gaps == 0).then(|| id.clone()));
            received.ids.push(id);
        }
    }
    assert!(received.gaps > 0);
    assert!(before.len() >= 8 && ids.starts_with(&before), "the oldest events are all present");
    let more = publish(&gateway, 1).await;
    let received = read(&mut stream, &more[0]).await;
    assert_eq!(received.ids, more, "it is live again");
}

#[tokio::test]
async fn conflate_keeps_the_newest_event_of_each_resource() {
    let (_data, gateway) = start(&SETS).await;
    let (ids, received) = read_after_publish(&gateway, "conflate", 120).await;
    assert_eq!(received.ids.len() as u64 + received.dropped, 120);
    assert!(received.dropped > 0);
    assert_eq!(received.ids.last(), ids.last());
    assert_eq!(received.newest.len(), RESOURCES);
    for (order, n) in &received.newest {
        assert!(*n >= (120 - RESOURCES) as u64, "{order} ends with its newest event: {n}");
    }
}

/// If there are more resources than the ring holds, conflating the ring frees
/// no space. The subscription then reads the log, and each page of the log is
/// conflated.
#[tokio::test]
async fn conflate_reads_the_log_if_the_ring_is_too_small() {
    let (_data, gateway) = start(&SETS).await;
    let target = "/orders/events?overflow=conflate";
    let mut stream = Stream::open(gateway.address, target, Protocol::Sse, "").await;
    let ids = publish_over(&gateway, 600, 40).await;
    let received = read(&mut stream, ids.last().unwrap()).await;
    assert_eq!(received.ids.len() as u64 + received.dropped, 600);
    assert!(received.dropped > 0);
    assert_eq!(received.newest.len(), 40);
    assert!(received.newest.values().all(|n| *n >= 560), "{:?}", received.newest);
    let more = publish(&gateway, 1).await;
    assert_eq!(read(&mut stream, &more[0]).await.ids, more, "it is live again");
}

/// At first the ring is conflated. Then conflating the ring frees no space, and
/// the pages of the log are conflated. The gaps report every missing event and
/// do not count the events of the ring again for each page.
#[tokio::test]
async fn conflate_changes_from_the_ring_to_the_log_and_back() {
    let (_data, gateway) = start(&SETS).await;
    let target = "/orders/events?overflow=conflate";
    let mut stream = Stream::open(gateway.address, target, Protocol::Sse, "").await;
    let mut ids = publish_over(&gateway, 60, 2).await;
    let mut received = read(&mut stream, ids.last().unwrap()).await;
    assert!(received.dropped > 0);
    ids.extend(publish_over(&gateway, 600, 40).await);
    let rest = read(&mut stream, ids.last().unwrap()).await;
    received.ids.extend(rest.ids);
    received.dropped += rest.dropped;
    received.newest.extend(rest.newest);
    let places: Vec<_> = received.ids.iter().map(|id| ids.iter().position(|i| i == id)).collect();
    assert!(places.is_sorted_by(|a, b| a < b), "in order, each once: {places:?}");
    let missing = (ids.len() - received.ids.len()) as u64;
    assert!(missing <= received.dropped, "{missing} missing, {} reported", received.dropped);
    assert!(received.dropped <= missing + 16, "{missing} missing, {} reported", received.dropped);
    assert_eq!(received.newest.len(), 40);
}

/// Under every policy, a subscription without credit keeps its position in the
/// log. A lack of credit does not drop events.
#[tokio::test]
async fn a_window_without_credit_drops_nothing() {
    let (_data, gateway) = start(&SETS).await;
    let mut socket = Stream::open(gateway.address, "/ws", Protocol::WebSocket, "").await;
    socket
        .send_text(
            r#"{"id":"a","type":"command","data":{"command":"subscribe","collection":"orders","overflow":"drop-oldest","window":2}}"#,
        )
        .await;
    socket.next().await.unwrap();
    let ids = publish(&gateway, 40).await;
    socket
        .send_text(
            r#"{"id":"b","type":"command","data":{"command":"request","collection":"orders","n":38}}"#,
        )
        .await;
    let mut seen = Vec::new();
    while seen.len() < 40 {
        let value: serde_json::Value =
            serde_json::from_str(&socket.next().await.unwrap().2).unwrap();
        assert_ne!(value["type"], "control", "{value}");
        if value["type"] == "event" {
            seen.push(value["id"].as_str().unwrap().to_owned());
        }
    }
    assert_eq!(seen, ids);
}

/// Two subscriptions of one socket have different policies and separate counts.
#[tokio::test]
async fn each_subscription_of_a_websocket_has_its_own_policy() {
    let (_data, gateway) = start(&SETS).await;
    let mut socket = Stream::open(gateway.address, "/ws", Protocol::WebSocket, "").await;
    for (collection, policy) in [("orders", "drop-newest"), ("audit", "drop-oldest")] {
        let kind = if collection == "audit" { "topic" } else { "collection" };
        let text = format!(
            r#"{{"id":"s","type":"command","data":{{"command":"subscribe","{kind}":"{collection}","overflow":"{policy}"}}}}"#
        );
        socket.send_text(&text).await;
        assert!(socket.next().await.unwrap().2.contains("response"));
    }
    let note = "x".repeat(NOTE_BYTES);
    for n in 0..60 {
        publish_over(&gateway, 1, 1).await;
        let body = format!(r#"{{"type":"seen","data":{{"n":{n},"note":"{note}"}}}}"#);
        crate::support::client::post(gateway.address, "/events/audit", &body).await;
    }
    let mut counts = HashMap::from([("orders", 0), ("audit", 0)]);
    while counts.values().any(|count| *count < 60) {
        let value: serde_json::Value =
            serde_json::from_str(&socket.next().await.unwrap().2).unwrap();
        let data = if value["type"] == "control" { &value["data"]["data"] } else { &value["data"] };
        let name = data["collection"].as_str().or(data["topic"].as_str()).unwrap();
        *counts.get_mut(name).unwrap() += data["count"].as_u64().unwrap_or(1);
    }
    assert!(counts.values().all(|count| *count == 60), "{counts:?}");
    let metrics = request(gateway.admin, "GET", "/metrics", "", b"").await;
    for policy in ["drop-newest", "drop-oldest"] {
        let line = format!("streamgate_events_dropped_total{{policy=\"{policy}\"}} ");
        assert!(metrics.text().contains(&line), "{}", metrics.text());
    }
}

#[tokio::test]
async fn a_client_resumes_without_a_loss_after_an_overflow_disconnect() {
    let (_data, gateway) = start(&SETS).await;
    let (ids, received) = read_after_publish(&gateway, "disconnect", 120).await;
    assert_eq!(received.closed.as_deref(), Some("overflow"));
    assert_eq!(received.ids, ids[..received.ids.len()]);
    let header = format!("last-event-id: {}\r\n", received.ids.last().unwrap());
    let mut back = Stream::open(gateway.address, "/orders/events", Protocol::Sse, &header).await;
    let rest = read(&mut back, ids.last().unwrap()).await;
    assert_eq!(rest.ids, ids[received.ids.len()..]);
}

#[tokio::test]
async fn a_websocket_reports_dropped_events_and_its_close_code() {
    let (_data, gateway) = start(&SETS).await;
    let target = "/orders/ws?overflow=drop-oldest";
    let mut socket = Stream::open(gateway.address, target, Protocol::WebSocket, "").await;
    let ending = "/orders/ws?overflow=disconnect";
    let mut ended = Stream::open(gateway.address, ending, Protocol::WebSocket, "").await;
    let ids = publish(&gateway, 120).await;
    let (mut events, mut dropped) = (0, 0);
    loop {
        let (_, _, text) = socket.next().await.unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        if value["type"] == "control" {
            assert_eq!(value["data"]["type"], "gap");
            assert_eq!(value["data"]["cursor"], serde_json::Value::Null);
            assert_eq!(value["data"]["data"]["reason"], "dropped");
            dropped += value["data"]["data"]["count"].as_u64().unwrap();
        } else {
            events += 1;
            if value["id"] == ids.last().unwrap().as_str() {
                break;
            }
        }
    }
    assert_eq!(events + dropped, 120);
    let code = loop {
        let (_, kind, text) = ended.next().await.unwrap();
        if kind == "close" {
            break text;
        }
    };
    assert_eq!(code, "1013");
}

#[tokio::test]
async fn a_client_may_choose_only_a_configured_overflow_policy() {
    let (_data, gateway) = start(&["streams.overflow=drop-oldest"]).await;
    let get = async |target: &str| {
        let accept = "accept: text/event-stream\r\n";
        request(gateway.address, "GET", target, accept, b"").await
    };
    let refused = get("/orders/events?overflow=log").await;
    assert_eq!(refused.status, 400);
    assert_eq!(refused.json()["parameter"], "overflow");
    assert!(refused.text().contains("it must be drop-oldest"), "{}", refused.text());
    let page = request(
        gateway.address,
        "GET",
        "/orders/events?overflow=drop-oldest",
        "accept: application/json\r\n",
        b"",
    )
    .await;
    assert_eq!(page.status, 400, "a page has no ring, so the parameter is rejected");
    let target = "/orders/events?overflow=drop-oldest";
    let stream = Stream::open(gateway.address, target, Protocol::Sse, "").await;
    assert_eq!(stream.status, 200);
}

#[tokio::test]
async fn a_connection_receives_events_at_its_pace() {
    let (_data, gateway) = start(&["streams.pace_events=50"]).await;
    let mut stream = Stream::open(gateway.address, "/orders/events", Protocol::Ndjson, "").await;
    let lines = "{}\n".repeat(30);
    let header = "content-type: application/x-ndjson\r\n";
    let begun = Instant::now();
    request(gateway.address, "POST", "/orders", header, lines.as_bytes()).await;
    let mut created = 0;
    while created < 30 {
        created += usize::from(stream.next().await.unwrap().2.contains("order-created"));
    }
    // The bucket may contain tokens for five events. The other 25 events take
    // half a second.
    assert!(begun.elapsed().as_millis() >= 490, "{:?}", begun.elapsed());
}

/// Two connections can wait for a read of the same page. If one of them is
/// paced, the read continues and the other one receives the page without a
/// delay.
#[tokio::test]
async fn a_paced_connection_does_not_delay_a_shared_read() {
    let (_data, gateway) = start(&["streams.pace_bytes=4KiB"]).await;
    let ids = publish(&gateway, 3).await;
    let mut first = Stream::open(gateway.address, "/orders/events", Protocol::Ndjson, "").await;
    publish(&gateway, 1).await;
    assert!(first.next().await.unwrap().2.contains("stream-open"));
    assert!(
        first.next().await.unwrap().2.contains("order-updated"),
        "the next event would be sent after two seconds"
    );
    let target = format!("/orders/events?from={}", ids[0]);
    let mut second = Stream::open(gateway.address, &target, Protocol::Ndjson, "").await;
    second.next().await.unwrap();
    assert!(second.next().await.unwrap().2.contains(&ids[1]));
}

#[tokio::test]
async fn a_pace_in_bytes_applies_to_events_from_the_log() {
    let (_data, gateway) = start(&["streams.pace_bytes=100KiB"]).await;
    let ids = publish(&gateway, 10).await;
    let target = "/orders/events?from=earliest";
    let begun = Instant::now();
    let mut stream = Stream::open(gateway.address, target, Protocol::Sse, "").await;
    let received = read(&mut stream, ids.last().unwrap()).await;
    assert_eq!(received.ids, ids);
    // The events have 80 KiB. The bucket contains tokens for a tenth of a
    // second, and the last event needs no tokens before it is sent.
    assert!(begun.elapsed().as_millis() >= 600, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn an_idle_stream_ends_with_the_reason_idle() {
    let (_data, gateway) = start(&["limits.stream_idle_timeout=200ms"]).await;
    let ids = publish(&gateway, 1).await;
    let mut stream = Stream::open(gateway.address, "/orders/events", Protocol::Sse, "").await;
    let closing = loop {
        let item = stream.next().await.expect("a stream-close before the end");
        if item.1 == "stream-close" {
            break item;
        }
    };
    assert_eq!(closing.0, ids[0], "the position with which the client can resume");
    assert_eq!(closing.2, r#"{"reason":"idle"}"#);
    assert!(stream.next().await.is_none());
    assert!(stream.ended());
}

#[tokio::test]
async fn a_stream_ends_at_its_lifetime() {
    let (_data, gateway) = start(&["limits.stream_lifetime=200ms"]).await;
    let mut stream = Stream::open(gateway.address, "/orders/events", Protocol::Ndjson, "").await;
    let mut last = String::new();
    while let Some((_, _, line)) = stream.next().await {
        last = line;
    }
    assert!(last.contains(r#""type":"stream-close""#), "{last}");
    assert!(last.contains(r#"{"reason":"lifetime"}"#), "{last}");
    let mut socket = Stream::open(gateway.address, "/orders/ws", Protocol::WebSocket, "").await;
    let code = loop {
        let (_, kind, text) = socket.next().await.unwrap();
        if kind == "close" {
            break text;
        }
    };
    assert_eq!(code, "1012");
}
