//! What happens past a limit: told, counted, and nobody else's matter.

use crate::support::client::{Speaks, Stream, request};
use crate::support::start;

#[tokio::test]
async fn a_client_past_its_rate_is_told_when_to_come_back() {
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
    let mut source = Stream::open(gateway.address, "/orders/events", Speaks::Sse, "").await;
    assert_eq!(source.status, 200, "an EventSource would never come back from a 429");
    let (_, event, data) = source.next().await.unwrap();
    assert_eq!(event, "error");
    assert!(data.contains("/problems/too-many-requests"), "{data}");
    assert!(source.next().await.is_none());
}

#[tokio::test]
async fn an_address_has_no_more_connections_than_it_may() {
    let (_data, gateway) = start(&["limits.max_connections_per_address=2"]).await;
    let first = Stream::open(gateway.address, "/orders/events", Speaks::Sse, "").await;
    let _second = Stream::open(gateway.address, "/orders/ws", Speaks::WebSocket, "").await;
    assert!(refused(gateway.address).await, "a stream whose socket was taken over counts");
    drop(first);
    while refused(gateway.address).await {}
}

#[tokio::test]
async fn operators_have_no_more_connections_than_they_may() {
    let (_data, gateway) = start(&["limits.head_timeout=1h"]).await;
    let mut idle = Vec::new();
    for _ in 0..64 {
        idle.push(tokio::net::TcpStream::connect(gateway.admin).await.unwrap());
    }
    assert!(refused(gateway.admin).await);
    idle.pop();
    while refused(gateway.admin).await {}
}

#[tokio::test]
async fn bodies_are_counted() {
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

/// Whether a fresh connection is closed without an answer.
async fn refused(address: std::net::SocketAddr) -> bool {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = b"GET /orders HTTP/1.1\r\nhost: g\r\nconnection: close\r\n\r\n";
    let mut answer = Vec::new();
    let sent = socket.write_all(request).await;
    sent.is_err() || !matches!(socket.read_to_end(&mut answer).await, Ok(n) if n > 0)
}
