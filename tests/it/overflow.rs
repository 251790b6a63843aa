//! What a client gets that does not keep up, policy by policy
//! (`docs/protocol.md#streams`, Slow clients).

use std::collections::HashMap;
use std::time::Instant;

use crate::support::client::{Speaks, Stream, request};
use crate::support::{Running, start};

/// Small rings, and a collection of its own policy.
const SETS: [&str; 3] = [
    "streams.ring_events=16",
    "streams.ring_bytes=64KiB",
    r#"streams.overflow_choices=["conflate","drop-oldest","drop-newest","disconnect"]"#,
];

/// Each event is larger than what a socket with a small buffer takes.
const NOTE_BYTES: usize = 8 * 1024;
const RESOURCES: usize = 5;

async fn publish(gateway: &Running, count: usize) -> Vec<String> {
    publish_over(gateway, count, RESOURCES).await
}

/// Writes `count` events over some resources, each in a commit of its own,
/// and gives their ids.
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

/// What a stream brought until an event with `last` as its id.
#[derive(Default)]
struct Got {
    ids: Vec<String>,
    /// By resource, the newest `n`.
    newest: HashMap<String, u64>,
    told: u64,
    gaps: u64,
    closed: Option<String>,
}

async fn read(stream: &mut Stream, last: &str) -> Got {
    let mut got = Got::default();
    while let Some((id, event, data)) = stream.next().await {
        let value: serde_json::Value = serde_json::from_str(&data).unwrap();
        match event.as_str() {
            "gap" => {
                assert_eq!(value["reason"], "dropped");
                assert_eq!(id, "", "what was dropped can be come back for");
                let from = got.ids.last().map_or("", String::as_str);
                assert!(from.is_empty() || value["from"] == from, "{data} behind {from}");
                got.told += value["count"].as_u64().unwrap();
                got.gaps += 1;
            }
            "stream-close" => {
                got.closed = Some(value["reason"].as_str().unwrap().to_owned());
            }
            "order-created" | "order-updated" => {
                let order = value["orderId"].as_str().unwrap().to_owned();
                got.newest.insert(order, value["n"].as_u64().unwrap());
                got.ids.push(id.clone());
                if id == last {
                    break;
                }
            }
            _ => {}
        }
    }
    got
}

/// A stream under `policy` that reads nothing until all is published.
async fn lagged(gateway: &Running, policy: &str, count: usize) -> (Vec<String>, Got) {
    let target = format!("/orders/events?overflow={policy}");
    let mut stream = Stream::open(gateway.address, &target, Speaks::Sse, "").await;
    assert_eq!(stream.status, 200, "{}", stream.head);
    let ids = publish(gateway, count).await;
    let got = read(&mut stream, ids.last().unwrap()).await;
    let places: Vec<_> = got.ids.iter().map(|id| ids.iter().position(|i| i == id)).collect();
    assert!(places.is_sorted_by(|a, b| a < b), "in order, each once: {places:?}");
    assert!(places.iter().all(Option::is_some), "only what was published");
    (ids, got)
}

#[tokio::test]
async fn log_loses_nothing() {
    let (_data, gateway) = start(&SETS).await;
    let (ids, got) = lagged(&gateway, "log", 120).await;
    assert_eq!(got.ids, ids);
    assert_eq!((got.told, got.gaps), (0, 0));
}

#[tokio::test]
async fn drop_oldest_keeps_the_newest_and_tells_the_rest() {
    let (_data, gateway) = start(&SETS).await;
    let (ids, got) = lagged(&gateway, "drop-oldest", 120).await;
    assert_eq!(got.ids.len() as u64 + got.told, 120);
    assert!(got.told > 0);
    assert_eq!(got.ids.last(), ids.last());
    let tail = &ids[ids.len() - 5..];
    assert!(got.ids.ends_with(tail), "the newest are whole");
}

#[tokio::test]
async fn drop_newest_keeps_the_oldest_and_tells_the_rest() {
    let (_data, gateway) = start(&SETS).await;
    let target = "/orders/events?overflow=drop-newest";
    let mut stream = Stream::open(gateway.address, target, Speaks::Sse, "").await;
    let ids = publish(&gateway, 120).await;
    let mut before = Vec::new();
    let mut got = Got::default();
    // The socket may have taken something in between: then there are several.
    while got.ids.len() as u64 + got.told < 120 {
        let (id, event, data) = stream.next().await.unwrap();
        if event == "gap" {
            let value: serde_json::Value = serde_json::from_str(&data).unwrap();
            assert_eq!(value["from"], got.ids.last().unwrap().as_str());
            got.told += value["count"].as_u64().unwrap();
            got.gaps += 1;
        } else if event.starts_with("order-") {
            before.extend((got.gaps == 0).then(|| id.clone()));
            got.ids.push(id);
        }
    }
    assert!(got.gaps > 0);
    assert!(before.len() >= 8 && ids.starts_with(&before), "the oldest are whole");
    let more = publish(&gateway, 1).await;
    let got = read(&mut stream, &more[0]).await;
    assert_eq!(got.ids, more, "it is live again");
}

#[tokio::test]
async fn conflate_keeps_the_newest_of_each_resource() {
    let (_data, gateway) = start(&SETS).await;
    let (ids, got) = lagged(&gateway, "conflate", 120).await;
    assert_eq!(got.ids.len() as u64 + got.told, 120);
    assert!(got.told > 0);
    assert_eq!(got.ids.last(), ids.last());
    assert_eq!(got.newest.len(), RESOURCES);
    for (order, n) in &got.newest {
        assert!(*n >= (120 - RESOURCES) as u64, "{order} ends with its newest: {n}");
    }
}

/// With more resources than a ring holds, conflating a ring frees nothing: the
/// log is read instead, and each whole page of it conflated.
#[tokio::test]
async fn conflate_goes_on_in_the_log_where_the_ring_is_too_small() {
    let (_data, gateway) = start(&SETS).await;
    let target = "/orders/events?overflow=conflate";
    let mut stream = Stream::open(gateway.address, target, Speaks::Sse, "").await;
    let ids = publish_over(&gateway, 600, 40).await;
    let got = read(&mut stream, ids.last().unwrap()).await;
    assert_eq!(got.ids.len() as u64 + got.told, 600);
    assert!(got.told > 0);
    assert_eq!(got.newest.len(), 40);
    assert!(got.newest.values().all(|n| *n >= 560), "{:?}", got.newest);
    let more = publish(&gateway, 1).await;
    assert_eq!(read(&mut stream, &more[0]).await.ids, more, "it is live again");
}

/// First a ring is conflated, then it cannot be, and pages are: nothing is
/// missing that was not told, and what is told is not told for each anew.
#[tokio::test]
async fn conflate_goes_from_the_ring_to_the_log_and_back() {
    let (_data, gateway) = start(&SETS).await;
    let target = "/orders/events?overflow=conflate";
    let mut stream = Stream::open(gateway.address, target, Speaks::Sse, "").await;
    let mut ids = publish_over(&gateway, 60, 2).await;
    let mut got = read(&mut stream, ids.last().unwrap()).await;
    assert!(got.told > 0);
    ids.extend(publish_over(&gateway, 600, 40).await);
    let rest = read(&mut stream, ids.last().unwrap()).await;
    got.ids.extend(rest.ids);
    got.told += rest.told;
    got.newest.extend(rest.newest);
    let places: Vec<_> = got.ids.iter().map(|id| ids.iter().position(|i| i == id)).collect();
    assert!(places.is_sorted_by(|a, b| a < b), "in order, each once: {places:?}");
    let missing = (ids.len() - got.ids.len()) as u64;
    assert!(missing <= got.told, "{missing} missing, {} told", got.told);
    assert!(got.told <= missing + 16, "{missing} missing, {} told", got.told);
    assert_eq!(got.newest.len(), 40);
}

/// A window holds its place in the log, whatever the policy: nothing is
/// dropped for want of credit.
#[tokio::test]
async fn a_window_without_credit_drops_nothing() {
    let (_data, gateway) = start(&SETS).await;
    let mut socket = Stream::open(gateway.address, "/ws", Speaks::WebSocket, "").await;
    socket
        .say(
            r#"{"id":"a","type":"command","data":{"command":"subscribe","collection":"orders","overflow":"drop-oldest","window":2}}"#,
        )
        .await;
    socket.next().await.unwrap();
    let ids = publish(&gateway, 40).await;
    socket
        .say(
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

/// Two subscriptions of one socket, each with its own policy and its own count.
#[tokio::test]
async fn a_socket_has_a_policy_for_each_subscription() {
    let (_data, gateway) = start(&SETS).await;
    let mut socket = Stream::open(gateway.address, "/ws", Speaks::WebSocket, "").await;
    for (collection, policy) in [("orders", "drop-newest"), ("audit", "drop-oldest")] {
        let kind = if collection == "audit" { "topic" } else { "collection" };
        let text = format!(
            r#"{{"id":"s","type":"command","data":{{"command":"subscribe","{kind}":"{collection}","overflow":"{policy}"}}}}"#
        );
        socket.say(&text).await;
        assert!(socket.next().await.unwrap().2.contains("response"));
    }
    let note = "x".repeat(NOTE_BYTES);
    for n in 0..60 {
        publish_over(&gateway, 1, 1).await;
        let body = format!(r#"{{"type":"seen","data":{{"n":{n},"note":"{note}"}}}}"#);
        crate::support::client::post(gateway.address, "/events/audit", &body).await;
    }
    let mut settled = HashMap::from([("orders", 0), ("audit", 0)]);
    while settled.values().any(|count| *count < 60) {
        let value: serde_json::Value =
            serde_json::from_str(&socket.next().await.unwrap().2).unwrap();
        let data = if value["type"] == "control" { &value["data"]["data"] } else { &value["data"] };
        let name = data["collection"].as_str().or(data["topic"].as_str()).unwrap();
        *settled.get_mut(name).unwrap() += data["count"].as_u64().unwrap_or(1);
    }
    assert!(settled.values().all(|count| *count == 60), "{settled:?}");
    let metrics = request(gateway.admin, "GET", "/metrics", "", b"").await;
    for policy in ["drop-newest", "drop-oldest"] {
        let line = format!("streamgate_events_dropped_total{{policy=\"{policy}\"}} ");
        assert!(metrics.text().contains(&line), "{}", metrics.text());
    }
}

#[tokio::test]
async fn disconnect_ends_with_a_position_to_come_back_with() {
    let (_data, gateway) = start(&SETS).await;
    let (ids, got) = lagged(&gateway, "disconnect", 120).await;
    assert_eq!(got.closed.as_deref(), Some("overflow"));
    assert_eq!(got.ids, ids[..got.ids.len()]);
    let header = format!("last-event-id: {}\r\n", got.ids.last().unwrap());
    let mut back = Stream::open(gateway.address, "/orders/events", Speaks::Sse, &header).await;
    let rest = read(&mut back, ids.last().unwrap()).await;
    assert_eq!(rest.ids, ids[got.ids.len()..]);
}

#[tokio::test]
async fn a_websocket_tells_its_losses_and_its_end() {
    let (_data, gateway) = start(&SETS).await;
    let target = "/orders/ws?overflow=drop-oldest";
    let mut socket = Stream::open(gateway.address, target, Speaks::WebSocket, "").await;
    let ending = "/orders/ws?overflow=disconnect";
    let mut ended = Stream::open(gateway.address, ending, Speaks::WebSocket, "").await;
    let ids = publish(&gateway, 120).await;
    let (mut events, mut told) = (0, 0);
    loop {
        let (_, _, text) = socket.next().await.unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        if value["type"] == "control" {
            assert_eq!(value["data"]["type"], "gap");
            assert_eq!(value["data"]["cursor"], serde_json::Value::Null);
            assert_eq!(value["data"]["data"]["reason"], "dropped");
            told += value["data"]["data"]["count"].as_u64().unwrap();
        } else {
            events += 1;
            if value["id"] == ids.last().unwrap().as_str() {
                break;
            }
        }
    }
    assert_eq!(events + told, 120);
    let code = loop {
        let (_, kind, text) = ended.next().await.unwrap();
        if kind == "close" {
            break text;
        }
    };
    assert_eq!(code, "1013");
}

#[tokio::test]
async fn a_policy_is_asked_for_only_where_the_configuration_allows() {
    let (_data, gateway) = start(&["streams.overflow=drop-oldest"]).await;
    let get = async |target: &str| {
        let accept = "accept: text/event-stream\r\n";
        request(gateway.address, "GET", target, accept, b"").await
    };
    let refused = get("/orders/events?overflow=log").await;
    assert_eq!(refused.status, 400);
    assert_eq!(refused.json()["parameter"], "overflow");
    assert!(refused.text().contains("it must be drop-oldest here"), "{}", refused.text());
    let page = request(
        gateway.address,
        "GET",
        "/orders/events?overflow=drop-oldest",
        "accept: application/json\r\n",
        b"",
    )
    .await;
    assert_eq!(page.status, 400, "a page has no ring");
    let target = "/orders/events?overflow=drop-oldest";
    let stream = Stream::open(gateway.address, target, Speaks::Sse, "").await;
    assert_eq!(stream.status, 200);
}

#[tokio::test]
async fn a_connection_is_sent_no_more_than_its_pace() {
    let (_data, gateway) = start(&["streams.pace_events=50"]).await;
    let mut stream = Stream::open(gateway.address, "/orders/events", Speaks::Ndjson, "").await;
    let lines = "{}\n".repeat(30);
    let header = "content-type: application/x-ndjson\r\n";
    let begun = Instant::now();
    request(gateway.address, "POST", "/orders", header, lines.as_bytes()).await;
    let mut created = 0;
    while created < 30 {
        created += usize::from(stream.next().await.unwrap().2.contains("order-created"));
    }
    // Five may have been saved up; the other 25 take half a second.
    assert!(begun.elapsed().as_millis() >= 490, "{:?}", begun.elapsed());
}

/// Who is paced on one subscription goes on reading for the others: they are
/// not held up by it, and neither is anybody who waits for the same page.
#[tokio::test]
async fn a_pace_does_not_hold_a_read_that_others_wait_for() {
    let (_data, gateway) = start(&["streams.pace_bytes=4KiB"]).await;
    let ids = publish(&gateway, 3).await;
    let mut first = Stream::open(gateway.address, "/orders/events", Speaks::Ndjson, "").await;
    publish(&gateway, 1).await;
    assert!(first.next().await.unwrap().2.contains("stream-open"));
    assert!(first.next().await.unwrap().2.contains("order-updated"), "and owes two seconds");
    let target = format!("/orders/events?from={}", ids[0]);
    let mut second = Stream::open(gateway.address, &target, Speaks::Ndjson, "").await;
    second.next().await.unwrap();
    assert!(second.next().await.unwrap().2.contains(&ids[1]));
}

#[tokio::test]
async fn a_pace_in_bytes_holds_for_what_is_read_from_the_log_too() {
    let (_data, gateway) = start(&["streams.pace_bytes=100KiB"]).await;
    let ids = publish(&gateway, 10).await;
    let target = "/orders/events?from=earliest";
    let begun = Instant::now();
    let mut stream = Stream::open(gateway.address, target, Speaks::Sse, "").await;
    let got = read(&mut stream, ids.last().unwrap()).await;
    assert_eq!(got.ids, ids);
    // 80 KiB, of which a tenth of a second's worth was saved up and the last
    // event need not be paid for.
    assert!(begun.elapsed().as_millis() >= 600, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_stream_without_events_ends_and_says_why() {
    let (_data, gateway) = start(&["limits.stream_idle_timeout=200ms"]).await;
    let ids = publish(&gateway, 1).await;
    let mut stream = Stream::open(gateway.address, "/orders/events", Speaks::Sse, "").await;
    let closing = loop {
        let item = stream.next().await.expect("it is told");
        if item.1 == "stream-close" {
            break item;
        }
    };
    assert_eq!(closing.0, ids[0], "the position to come back with");
    assert_eq!(closing.2, r#"{"reason":"idle"}"#);
    assert!(stream.next().await.is_none());
    assert!(stream.ended());
}

#[tokio::test]
async fn a_stream_of_its_age_ends_and_its_client_may_come_back() {
    let (_data, gateway) = start(&["limits.stream_lifetime=200ms"]).await;
    let mut stream = Stream::open(gateway.address, "/orders/events", Speaks::Ndjson, "").await;
    let mut last = String::new();
    while let Some((_, _, line)) = stream.next().await {
        last = line;
    }
    assert!(last.contains(r#""type":"stream-close""#), "{last}");
    assert!(last.contains(r#"{"reason":"lifetime"}"#), "{last}");
    let mut socket = Stream::open(gateway.address, "/orders/ws", Speaks::WebSocket, "").await;
    let code = loop {
        let (_, kind, text) = socket.next().await.unwrap();
        if kind == "close" {
            break text;
        }
    };
    assert_eq!(code, "1012");
}
