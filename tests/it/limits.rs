//! The effect of each limit: the client receives a rejection, the rejection is
//! counted, and other clients are not affected.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::client::{PATIENCE, Protocol, Stream, request};
use crate::support::{Running, http2, start, until};

#[tokio::test]
async fn a_client_over_its_request_rate_receives_retry_after() {
    let sets = ["limits.request_rate=1", "limits.request_burst=2"];
    let (_data, gateway) = start(&sets).await;
    for _ in 0..2 {
        assert_eq!(request(gateway.address, "GET", "/orders", "", b"").await.status, 200);
    }
    let refused = request(gateway.address, "GET", "/orders", "", b"").await;
    assert_eq!(refused.status, 429);
    assert_eq!(refused.json()["type"], "/problems/too-many-requests");
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(refused.header("ratelimit"), Some(r#""client";r=0;t=1"#));
    assert_eq!(refused.header("ratelimit-policy"), Some(r#""client";q=2;w=2"#));
    let mut source = Stream::open(gateway.address, "/orders/events", Protocol::Sse, "").await;
    assert_eq!(source.status, 200, "an EventSource would not reconnect after a 429");
    let (_, event, data) = source.next().await.unwrap();
    assert_eq!(event, "error");
    assert!(data.contains("/problems/too-many-requests"), "{data}");
    assert!(source.next().await.is_none());
}

/// Sends a plain request. Returns the status of the response.
async fn status(gateway: &Running) -> u16 {
    request(gateway.address, "GET", "/orders", "", b"").await.status
}

/// Returns the value of `streamgate_connections_refused_total` for a reason.
async fn refusals(gateway: &Running, reason: &str) -> u64 {
    let metrics = request(gateway.admin, "GET", "/metrics", "", b"").await;
    let line = format!("streamgate_connections_refused_total{{reason=\"{reason}\"}} ");
    let found = metrics.text().lines().find_map(|it| it.strip_prefix(&line)?.parse().ok());
    found.unwrap_or(0)
}

/// Checks that a rejected `EventSource` receives a status and a `retry` with
/// which it reconnects.
async fn expect_reconnect_advice(gateway: &Running, problem: &str) {
    let mut source = Stream::open(gateway.address, "/orders/events", Protocol::Sse, "").await;
    assert_eq!(source.status, 200, "an EventSource would not reconnect after another status");
    while !source.plain.ends_with(b"\n\n") {
        assert!(source.fill().await);
    }
    let text = String::from_utf8(source.plain.clone()).unwrap();
    let retry: u64 = text.lines().find_map(|it| it.strip_prefix("retry: ")?.parse().ok()).unwrap();
    assert!((2000..=5000).contains(&retry), "{retry}");
    let (_, event, data) = source.next().await.unwrap();
    assert_eq!(event, "error");
    assert!(data.contains(problem), "{data}");
    assert!(source.next().await.is_none(), "the stream is closed");
}

#[tokio::test]
async fn the_connections_of_an_address_are_limited() {
    let (_data, gateway) = start(&["limits.max_connections_per_address=2"]).await;
    let first = Stream::open(gateway.address, "/orders/events", Protocol::Sse, "").await;
    let _second = Stream::open(gateway.address, "/orders/ws", Protocol::WebSocket, "").await;
    let refused = request(gateway.address, "GET", "/orders", "", b"").await;
    assert_eq!(refused.status, 429, "a stream that took its socket over is counted too");
    assert_eq!(refused.json()["type"], "/problems/too-many-requests");
    assert_eq!(refused.header("retry-after"), Some("1"));
    expect_reconnect_advice(&gateway, "/problems/too-many-requests").await;
    assert_eq!(refusals(&gateway, "connections-per-address").await, 2);
    drop(first);
    until(async || status(&gateway).await == 200).await;
}

#[tokio::test]
async fn a_connection_over_the_cap_receives_one_rejection_in_its_own_protocol() {
    let (_data, gateway) = start(&["limits.max_connections=1"]).await;
    let only = Stream::open(gateway.address, "/orders/events", Protocol::Ndjson, "").await;
    let refused = request(gateway.address, "GET", "/orders", "", b"").await;
    assert_eq!(refused.status, 503);
    assert_eq!(refused.json()["type"], "/problems/overloaded");
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(refused.header("connection"), Some("close"));
    expect_reconnect_advice(&gateway, "/problems/overloaded").await;
    let socket = Stream::open(gateway.address, "/orders/ws", Protocol::WebSocket, "").await;
    assert_eq!(socket.status, 503);
    let (mut sender, connection) = http2::client(gateway.address).await;
    let connection = tokio::spawn(connection);
    let get = hyper::Request::get("http://g/orders").body(Empty::<Bytes>::new()).unwrap();
    let answer = timeout(PATIENCE, sender.send_request(get)).await.unwrap().unwrap();
    assert_eq!(answer.status(), 503);
    let _ = timeout(PATIENCE, connection).await.expect("the connection ends");
    assert_eq!(refusals(&gateway, "connections").await, 4);
    drop(only);
    until(async || status(&gateway).await == 200).await;
}

#[tokio::test]
async fn a_silent_connection_over_the_cap_is_closed_soon() {
    let (_data, gateway) = start(&["limits.max_connections=1"]).await;
    let _only = Stream::open(gateway.address, "/orders/events", Protocol::Ndjson, "").await;
    let mut silent = TcpStream::connect(gateway.address).await.unwrap();
    let mut nothing = Vec::new();
    timeout(PATIENCE, silent.read_to_end(&mut nothing)).await.unwrap().unwrap();
    assert!(nothing.is_empty());
}

#[tokio::test]
async fn each_protocol_has_its_own_connection_cap() {
    let sets = ["limits.max_sse=1", "limits.max_ndjson=1", "limits.max_websocket=1"];
    let (_data, gateway) = start(&sets).await;
    let protocols = [
        (Protocol::Sse, "/orders/events", "sse"),
        (Protocol::Ndjson, "/orders/events", "ndjson"),
        (Protocol::WebSocket, "/orders/ws", "ws"),
    ];
    let mut open = Vec::new();
    for (protocol, target, _) in protocols {
        let stream = Stream::open(gateway.address, target, protocol, "").await;
        assert!([200, 101].contains(&stream.status), "{}", stream.head);
        open.push(stream);
    }
    expect_reconnect_advice(&gateway, "/problems/overloaded").await;
    for (protocol, target, reason) in &protocols[1..] {
        let refused = Stream::open(gateway.address, target, *protocol, "").await;
        assert_eq!(refused.status, 503, "{reason}");
    }
    for (_, _, reason) in protocols {
        assert_eq!(refusals(&gateway, reason).await, 1);
    }
    drop(open);
    for (protocol, target, _) in protocols {
        until(async || Stream::open(gateway.address, target, protocol, "").await.status != 503)
            .await;
    }
}

#[tokio::test]
async fn the_streams_of_an_http2_connection_are_limited() {
    let (_data, gateway) = start(&["limits.http2_streams=2"]).await;
    let (mut sender, connection) = http2::client(gateway.address).await;
    tokio::spawn(connection);
    let mut open = Vec::new();
    for _ in 0..2 {
        let get =
            hyper::Request::get("http://g/orders/events").body(Empty::<Bytes>::new()).unwrap();
        open.push(timeout(PATIENCE, sender.send_request(get)).await.unwrap().unwrap());
    }
    let get = hyper::Request::get("http://g/orders").body(Empty::<Bytes>::new()).unwrap();
    let waiting = sender.send_request(get);
    tokio::pin!(waiting);
    let early = timeout(Duration::from_millis(200), waiting.as_mut()).await;
    assert!(early.is_err(), "the client waits for one of its streams to end");
    open.pop();
    assert_eq!(timeout(PATIENCE, waiting).await.unwrap().unwrap().status(), 200);
}

#[tokio::test]
async fn memory_pressure_rejects_new_streams_and_keeps_open_streams() {
    let (data, gateway) = start(&[]).await;
    let mut old = Stream::open(gateway.address, "/orders/events", Protocol::Ndjson, "").await;
    // This process already uses more memory than this limit.
    crate::support::reload_in(data.path(), &gateway, &["limits.memory=1MiB"]).await;
    until(async || {
        let _ = Stream::open(gateway.address, "/orders/events", Protocol::Ndjson, "").await;
        refusals(&gateway, "memory").await > 0
    })
    .await;
    let refused = Stream::open(gateway.address, "/orders/ws", Protocol::WebSocket, "").await;
    assert_eq!(refused.status, 503);
    expect_reconnect_advice(&gateway, "/problems/overloaded").await;
    for n in 0..100 {
        crate::support::client::post(gateway.address, "/orders", &format!(r#"{{"n":{n}}}"#)).await;
    }
    let mut created = 0;
    while created < 100 {
        created += usize::from(old.next().await.unwrap().2.contains("order-created"));
    }
    crate::support::reload_in(data.path(), &gateway, &[]).await;
    until(async || {
        Stream::open(gateway.address, "/orders/events", Protocol::Ndjson, "").await.status == 200
    })
    .await;
}

#[tokio::test]
async fn the_connections_of_the_admin_listener_are_limited() {
    let (_data, gateway) = start(&["limits.head_timeout=1h"]).await;
    let mut idle = Vec::new();
    for _ in 0..64 {
        idle.push(tokio::net::TcpStream::connect(gateway.admin).await.unwrap());
    }
    assert!(is_rejected(gateway.admin).await);
    idle.pop();
    until(async || !is_rejected(gateway.admin).await).await;
}

#[tokio::test]
async fn the_bytes_of_request_bodies_are_counted() {
    let (_data, gateway) = start(&[]).await;
    let json = "content-type: application/json\r\n";
    request(gateway.address, "POST", "/orders", json, b"{\"n\":123456}").await;
    let lines = "content-type: application/x-ndjson\r\n";
    request(gateway.address, "POST", "/orders", lines, b"{\"n\":1}\n{\"n\":2}\n").await;
    let metrics = request(gateway.admin, "GET", "/metrics", "", b"").await;
    assert!(
        metrics.text().contains("\nstreamgate_received_bytes_total 28\n"),
        "{}",
        metrics.text()
    );
}

/// Returns whether a new connection is closed without a response.
async fn is_rejected(address: std::net::SocketAddr) -> bool {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = b"GET /orders HTTP/1.1\r\nhost: g\r\nconnection: close\r\n\r\n";
    let mut answer = Vec::new();
    let sent = socket.write_all(request).await;
    sent.is_err() || !matches!(socket.read_to_end(&mut answer).await, Ok(n) if n > 0)
}

#[tokio::test]
async fn the_publish_rate_of_a_client_is_limited() {
    let (_data, gateway) = start(&["limits.publish_rate=1", "limits.publish_burst=2"]).await;
    let json = "content-type: application/json\r\n";
    let mut socket =
        Stream::open(gateway.address, "/events/audit/ws", Protocol::WebSocket, "").await;
    let created = request(gateway.address, "PUT", "/orders/1", json, b"{}").await;
    assert_eq!(created.status, 201);
    let mut publish = async || {
        socket.send_text(r#"{"command":"publish","type":"seen","data":1}"#).await;
        loop {
            // The event also arrives, before or after the response.
            let (_, _, text) = socket.next().await.unwrap();
            if !text.contains(r#""type":"update""#) {
                break text;
            }
        }
    };
    let answer = publish().await;
    assert!(answer.contains(r#""type":"response""#), "{answer}");
    let body = br#"{"type":"seen","data":1}"#;
    let refused = request(gateway.address, "POST", "/events/audit", json, body).await;
    assert_eq!(refused.status, 429);
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(refused.header("ratelimit"), Some(r#""events";r=0;t=1"#));
    assert_eq!(refused.header("ratelimit-policy"), Some(r#""events";q=2;w=2"#));
    let error = publish().await;
    assert!(error.contains("/problems/too-many-requests"), "{error}");
    let read = request(gateway.address, "GET", "/orders/1", "", b"").await;
    assert_eq!(read.status, 200, "a read does not count as a publish");
    assert_eq!(refusals(&gateway, "publish-rate").await, 2);
}

/// A batch has no time limit, so the gateway slows the batch down instead of
/// rejecting it.
#[tokio::test]
async fn a_batch_is_slowed_down_to_the_publish_rate_of_its_client() {
    let (_data, gateway) = start(&["limits.publish_rate=50", "limits.publish_burst=10"]).await;
    let lines = "{\"type\":\"seen\",\"data\":1}\n".repeat(40);
    let begun = std::time::Instant::now();
    let header = "content-type: application/x-ndjson\r\n";
    let answer = request(gateway.address, "POST", "/events/audit", header, lines.as_bytes()).await;
    assert_eq!(answer.text().matches(r#""status":201"#).count(), 40, "{}", answer.text());
    assert!(begun.elapsed() >= Duration::from_millis(590), "{:?}", begun.elapsed());
}
