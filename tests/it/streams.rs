//! The bytes of event streams on the socket of a client
//! (`docs/protocol.md#streams`).

use std::net::SocketAddr;

use crate::support::client::{Answer, Protocol, Stream, post, raw, request};
use crate::support::{start, until};

const JSON: &str = "content-type: application/json\r\n";

/// Creates `order-1` and returns the id of the event.
async fn create(address: SocketAddr) -> String {
    let answer =
        request(address, "POST", "/orders", JSON, br#"{"id":"order-1","total":1.10}"#).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    etag(&answer)
}

async fn patch(address: SocketAddr, body: &str) -> String {
    let answer = request(address, "PATCH", "/orders/order-1", JSON, body.as_bytes()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    etag(&answer)
}

fn etag(answer: &Answer) -> String {
    answer.header("etag").expect("a write has an ETag").trim_matches('"').to_owned()
}

fn item(id: &str, event: &str, data: &str) -> (String, String, String) {
    (id.to_owned(), event.to_owned(), data.to_owned())
}

/// Returns the next item that is not a heartbeat.
async fn next(stream: &mut Stream) -> (String, String, String) {
    loop {
        let item = stream.next().await.expect("the stream is open");
        if item.1 != "heartbeat" && !item.2.contains(r#""type":"heartbeat""#) {
            return item;
        }
    }
}

#[tokio::test]
async fn an_sse_stream_has_the_documented_bytes() {
    let (_data, gateway) = start(&[]).await;
    let created = create(gateway.address).await;
    let mut stream =
        Stream::open(gateway.address, "/v1/orders/order-1/events", Protocol::Sse, "").await;
    assert_eq!(stream.status, 200);
    let head = stream.head.to_ascii_lowercase();
    for field in [
        "content-type: text/event-stream\r\n",
        "cache-control: no-cache, no-transform\r\n",
        "x-accel-buffering: no\r\n",
        "connection: keep-alive\r\n",
        "vary: accept\r\n",
        "transfer-encoding: chunked\r\n",
    ] {
        assert!(head.contains(field), "{field:?} in {head}");
    }
    while !stream.plain.ends_with(b"\n\n") {
        assert!(stream.fill().await);
    }
    let opening = String::from_utf8(stream.plain.clone()).unwrap();
    let lines: Vec<&str> = opening.lines().collect();
    let retry: u64 = lines[0].strip_prefix("retry: ").unwrap().parse().unwrap();
    assert!((2000..=5000).contains(&retry), "{retry}");
    assert_eq!(lines[1], format!("id: {created}"));
    assert_eq!(lines[2], "event: stream-open");
    assert!(lines[3].starts_with(r#"data: {"connection":"c"#), "{opening}");
    assert!(lines[3].ends_with(&format!(r#","cursor":"{created}"}}"#)), "{opening}");
    stream.plain.clear();
    let body = r#"{"type":"order-shipped","data":{"trackingNumber":"123456"}}"#;
    let shipped = post(gateway.address, "/orders/order-1/events", body).await;
    let id = shipped["id"].as_str().unwrap();
    while !stream.plain.ends_with(b"\n\n") {
        assert!(stream.fill().await);
    }
    let expected = format!(
        "id: {id}\nevent: order-shipped\ndata: {{\"orderId\":\"order-1\",\"trackingNumber\":\"123456\"}}\n\n"
    );
    assert_eq!(String::from_utf8_lossy(&stream.plain), expected);
}

#[tokio::test]
async fn ndjson_and_cloudevents_lines_show_the_same_event() {
    let (_data, gateway) = start(&[]).await;
    let id = create(gateway.address).await;
    let target = "/orders/events?from=earliest";
    let mut lines = Stream::open(gateway.address, target, Protocol::Ndjson, "").await;
    let epoch = id.split_once('-').unwrap().0;
    let (_, _, opening) = next(&mut lines).await;
    assert!(opening.starts_with(&format!(r#"{{"type":"stream-open","id":"{epoch}-0","data":"#)));
    let (_, _, line) = next(&mut lines).await;
    let time = serde_json::from_str::<serde_json::Value>(&line).unwrap()["time"].clone();
    let time = time.as_str().unwrap();
    assert_eq!(
        line,
        format!(
            r#"{{"id":"{id}","type":"order-created","subject":"order-1","time":"{time}","data":{{"orderId":"order-1","total":1.10}}}}"#
        )
    );
    let accept = "accept: application/cloudevents+json\r\n";
    let head = format!("GET {target} HTTP/1.1\r\nhost: g\r\n{accept}\r\n");
    let mut events = Stream::open_raw(gateway.address, &head, Protocol::Ndjson).await;
    assert!(events.head.contains("content-type: application/cloudevents+json\r\n"));
    let (_, _, opening) = next(&mut events).await;
    assert!(opening.contains(r#""type":"stream-open""#), "{opening}");
    let (_, _, event) = next(&mut events).await;
    assert_eq!(
        event,
        format!(
            r#"{{"specversion":"1.0","id":"{id}","source":"/orders","type":"order-created","subject":"order-1","time":"{time}","datacontenttype":"application/json","data":{{"orderId":"order-1","total":1.10}}}}"#
        )
    );
}

#[tokio::test]
async fn the_id_key_of_event_data_is_not_stored_in_the_resource() {
    let (_data, gateway) = start(&[]).await;
    let body = br#"{"orderId":"order-1","id":"order-1","n":1}"#;
    let created = request(gateway.address, "POST", "/orders", JSON, body).await;
    assert_eq!(created.text(), r#"{"id":"order-1","n":1}"#);
    let body = br#"{"orderId":"order-1","n":2}"#;
    let patched = request(gateway.address, "PATCH", "/orders/order-1", JSON, body).await;
    assert_eq!(patched.text(), r#"{"id":"order-1","n":2}"#);
    let put = request(gateway.address, "PUT", "/orders/order-1", JSON, body).await;
    assert_eq!(put.text(), r#"{"id":"order-1","n":2}"#);
    let accept = "accept: application/json\r\n";
    let page = request(gateway.address, "GET", "/orders/events", accept, b"").await;
    for event in page.json()["data"].as_array().unwrap() {
        let data = event["data"].as_object().unwrap();
        assert_eq!(data.keys().next().unwrap(), "n", "serde_json sorts the members: {event}");
        assert_eq!(data.len(), 2);
        assert_eq!(data["orderId"], "order-1");
    }
}

#[tokio::test]
async fn a_client_can_resume_with_each_spelling_of_the_last_id() {
    let (_data, gateway) = start(&[]).await;
    let first = create(gateway.address).await;
    let second = patch(gateway.address, r#"{"total":2}"#).await;
    let third = patch(gateway.address, r#"{"total":3}"#).await;
    let header = format!("last-event-id: {second}\r\n");
    for (target, header) in [
        ("/orders/events".to_owned(), header.as_str()),
        (format!("/orders/events?lastEventId={first}"), header.as_str()),
        (format!("/orders/events?lastEventId={second}"), ""),
        (format!("/orders/events?last_event_id={second}"), ""),
        (format!("/events/order-updates?from={second}"), ""),
        (format!("/orders/order-1/events?from={second}"), ""),
    ] {
        let mut stream = Stream::open(gateway.address, &target, Protocol::Sse, header).await;
        let opening = next(&mut stream).await;
        assert_eq!((opening.0.as_str(), opening.1.as_str()), (second.as_str(), "stream-open"));
        let data = r#"{"orderId":"order-1","total":3}"#;
        assert_eq!(next(&mut stream).await, item(&third, "order-updated", data), "{target}");
    }
}

#[tokio::test]
async fn a_stream_can_start_at_a_time() {
    let (_data, gateway) = start(&[]).await;
    create(gateway.address).await;
    let page =
        request(gateway.address, "GET", "/orders/events", "accept: application/json\r\n", b"")
            .await;
    let time = page.json()["data"][0]["time"].as_str().unwrap().to_owned();
    let target = format!("/orders/events?from={time}");
    let mut stream = Stream::open(gateway.address, &target, Protocol::Sse, "").await;
    next(&mut stream).await;
    assert_eq!(next(&mut stream).await.1, "order-created");
    let target = "/orders/events?from=2999-01-01T00:00:00Z";
    let mut stream = Stream::open(gateway.address, target, Protocol::Sse, "").await;
    next(&mut stream).await;
    let id = patch(gateway.address, r#"{"total":2}"#).await;
    assert_eq!(next(&mut stream).await.0, id);
}

#[tokio::test]
async fn missing_events_are_reported_in_three_ways() {
    let (_data, gateway) = start(&[]).await;
    let mut first = String::new();
    for n in 0..6 {
        let body = format!(r#"{{"total":{n}}}"#);
        let answer = request(gateway.address, "PUT", "/visits/v", JSON, body.as_bytes()).await;
        if n == 0 {
            first = etag(&answer);
        }
    }
    let epoch = first.split_once('-').unwrap().0;
    let floor = format!("{epoch}-4");
    let gap = |from: &str, reason: &str| {
        format!(
            r#"{{"from":"{from}","to":"{floor}","earliest":"{floor}","reason":"{reason}","count":null}}"#
        )
    };
    let ahead = format!("{epoch}-99");
    for (from, reason) in
        [(first.as_str(), "expired"), ("zzzzzzzz-7", "epoch"), (ahead.as_str(), "epoch")]
    {
        let header = format!("last-event-id: {from}\r\n");
        let mut stream =
            Stream::open(gateway.address, "/visits/events", Protocol::Sse, &header).await;
        assert_eq!(next(&mut stream).await.0, from, "the opening repeats the id of the client");
        assert_eq!(next(&mut stream).await, item(&floor, "gap", &gap(from, reason)));
        assert_eq!(next(&mut stream).await.0, format!("{epoch}-5"));
        assert_eq!(next(&mut stream).await.0, format!("{epoch}-6"));

        let target = "/visits/events?onGap=snapshot";
        let mut stream = Stream::open(gateway.address, target, Protocol::Sse, &header).await;
        assert_eq!(next(&mut stream).await.1, "stream-open");
        assert_eq!(next(&mut stream).await, item("", "gap", &gap(from, reason)));
        let resource = r#"{"id":"v","total":5}"#;
        assert_eq!(next(&mut stream).await, item("", "snapshot", resource));
        let end = format!("{epoch}-6");
        assert_eq!(next(&mut stream).await.0, end);

        for accept in ["text/event-stream", "application/x-ndjson"] {
            let headers = format!("accept: {accept}\r\n{header}");
            let target = "/visits/events?onGap=error";
            let answer = request(gateway.address, "GET", target, &headers, b"").await;
            assert_eq!(answer.status, 410);
            assert_eq!(answer.header("content-type"), Some("application/problem+json"));
            assert_eq!(answer.json()["earliest"], floor);
        }
    }
    let whole = format!("last-event-id: {floor}\r\n");
    let mut stream = Stream::open(gateway.address, "/visits/events", Protocol::Sse, &whole).await;
    next(&mut stream).await;
    assert_eq!(
        next(&mut stream).await.0,
        format!("{epoch}-5"),
        "a resume from the floor has no gap"
    );
}

#[tokio::test]
async fn events_follow_a_snapshot_without_a_gap() {
    let (_data, gateway) = start(&[]).await;
    let created = create(gateway.address).await;
    for target in ["/orders/stream?follow=true", "/orders?follow=true"] {
        let mut stream = Stream::open(gateway.address, target, Protocol::Sse, "").await;
        let opening = next(&mut stream).await;
        assert_eq!((opening.0.as_str(), opening.1.as_str()), ("", "stream-open"));
        assert!(opening.2.ends_with(r#""cursor":null}"#), "{}", opening.2);
        assert_eq!(next(&mut stream).await.1, "snapshot");
        let end = next(&mut stream).await;
        assert_eq!(end.1, "snapshot-end");
        assert_eq!(end.2, format!(r#"{{"cursor":"{}"}}"#, end.0));
        let id = patch(gateway.address, r#"{"seen":true}"#).await;
        assert_eq!(next(&mut stream).await.0, id);
    }
    let mut lines =
        Stream::open(gateway.address, "/orders/stream?follow=true", Protocol::Ndjson, "").await;
    next(&mut lines).await;
    let (_, _, snapshot) = next(&mut lines).await;
    assert_eq!(
        snapshot,
        r#"{"type":"snapshot","subject":"order-1","data":{"id":"order-1","total":1.10,"seen":true}}"#
    );
    let header = format!("last-event-id: {created}\r\n");
    let mut back =
        Stream::open(gateway.address, "/orders/stream?follow=true", Protocol::Sse, &header).await;
    assert_eq!(next(&mut back).await.0, created);
    assert_eq!(next(&mut back).await.1, "order-updated", "a resume sends no second snapshot");
}

#[tokio::test]
async fn filters_omit_other_events_and_heartbeats_advance_the_cursor() {
    let (_data, gateway) = start(&["streams.heartbeat=80ms"]).await;
    create(gateway.address).await;
    let mut types =
        Stream::open(gateway.address, "/orders/events?types=order-deleted", Protocol::Sse, "")
            .await;
    let mut field =
        Stream::open(gateway.address, "/orders/events?total=7", Protocol::Sse, "").await;
    next(&mut types).await;
    next(&mut field).await;
    let last = patch(gateway.address, r#"{"total":6}"#).await;
    loop {
        let (id, event, data) = types.next().await.unwrap();
        assert_eq!(event, "heartbeat");
        assert!(data.starts_with(r#"{"timestamp":""#), "{data}");
        if id == last {
            break;
        }
    }
    let wanted = patch(gateway.address, r#"{"total":7}"#).await;
    assert_eq!(next(&mut field).await.0, wanted);
}

#[tokio::test]
async fn a_heartbeat_can_be_an_sse_comment() {
    let sets = ["streams.heartbeat=50ms", "streams.heartbeat_format=comment"];
    let (_data, gateway) = start(&sets).await;
    let mut stream = Stream::open(gateway.address, "/orders/events", Protocol::Sse, "").await;
    next(&mut stream).await;
    while stream.plain.len() < 4 {
        assert!(stream.fill().await);
    }
    assert_eq!(&stream.plain[..4], b":\n:\n");
}

#[tokio::test]
async fn a_batch_size_is_capped_and_confirmed_in_the_response() {
    let (_data, gateway) = start(&["streams.batch_size_max=50"]).await;
    for (asked, given) in [("10", "10"), ("500", "50")] {
        let target = format!("/orders/events?batchSize={asked}");
        let stream = Stream::open(gateway.address, &target, Protocol::Sse, "").await;
        assert!(stream.head.contains(&format!("x-batch-size: {given}\r\n")), "{}", stream.head);
    }
}

#[tokio::test]
async fn an_http_1_0_stream_has_no_chunks_and_ends_with_the_connection() {
    let (_data, gateway) = start(&[]).await;
    let id = create(gateway.address).await;
    let head = "GET /orders/events?from=earliest HTTP/1.0\r\naccept: text/event-stream\r\n\r\n";
    let mut stream = Stream::open_raw(gateway.address, head, Protocol::Sse).await;
    assert_eq!(stream.status, 200);
    assert!(!stream.head.contains("transfer-encoding"), "{}", stream.head);
    assert!(stream.head.contains("connection: close\r\n"), "{}", stream.head);
    next(&mut stream).await;
    assert_eq!(next(&mut stream).await.0, id);
    gateway.gateway.drain().await.unwrap();
    assert_eq!(next(&mut stream).await.1, "stream-close");
    assert!(stream.next().await.is_none());
}

#[tokio::test]
async fn a_drain_sends_stream_close_and_completes_the_body() {
    let (_data, gateway) = start(&["server.drain=300ms"]).await;
    let id = create(gateway.address).await;
    let mut sse = Stream::open(gateway.address, "/orders/events", Protocol::Sse, "").await;
    let mut lines = Stream::open(gateway.address, "/orders/events", Protocol::Ndjson, "").await;
    next(&mut sse).await;
    next(&mut lines).await;
    gateway.gateway.drain().await.unwrap();
    assert_eq!(next(&mut sse).await, item(&id, "stream-close", r#"{"reason":"draining"}"#));
    assert!(sse.next().await.is_none());
    assert!(sse.ended(), "the last chunk was received");
    assert!(next(&mut lines).await.2.contains(r#""type":"stream-close""#));
    assert!(lines.next().await.is_none());
}

#[tokio::test]
async fn a_head_request_for_a_stream_returns_only_the_head() {
    let (_data, gateway) = start(&[]).await;
    let request = b"HEAD /orders/events HTTP/1.1\r\nhost: g\r\nconnection: close\r\n\r\n";
    let answer = raw(gateway.address, request).await;
    assert_eq!((answer.status, answer.body.len()), (200, 0));
    assert_eq!(answer.header("content-type"), Some("text/event-stream"));
}

#[tokio::test]
async fn an_event_posted_after_the_response_head_reaches_the_stream() {
    let (_data, gateway) = start(&[]).await;
    create(gateway.address).await;
    for n in 0..50 {
        let mut stream = Stream::open(gateway.address, "/orders/events", Protocol::Sse, "").await;
        let id = patch(gateway.address, &format!(r#"{{"total":{n}}}"#)).await;
        next(&mut stream).await;
        assert_eq!(next(&mut stream).await.0, id);
    }
}

#[tokio::test]
async fn a_client_that_disconnects_before_the_head_is_not_counted_as_open() {
    use tokio::io::AsyncWriteExt as _;
    let (_data, gateway) = start(&["streams.heartbeat=40ms"]).await;
    let shows = async |line| {
        let metrics = request(gateway.admin, "GET", "/metrics", "", b"").await;
        metrics.text().contains(line)
    };
    // If a client disconnects before the gateway reads its request, there is no
    // response. The test therefore opens more connections until the gateway has
    // counted a response.
    until(async || {
        for _ in 0..20 {
            let mut socket = tokio::net::TcpStream::connect(gateway.address).await.unwrap();
            socket.write_all(b"GET /orders/events HTTP/1.1\r\nhost: g\r\n\r\n").await.unwrap();
        }
        shows(r#"streamgate_requests_total{route="/{c}/events",status="2xx"}"#).await
    })
    .await;
    until(async || shows(r#"streamgate_connections_open{protocol="sse"} 0"#).await).await;
}

#[tokio::test]
async fn a_stalled_reader_is_disconnected_after_the_stall_timeout() {
    let sets = ["limits.stall_timeout=200ms", "streams.heartbeat=50ms", "limits.body_bytes=8MiB"];
    let (_data, gateway) = start(&sets).await;
    let mut stream = Stream::open(gateway.address, "/events/audit", Protocol::Sse, "").await;
    let body = format!(r#"{{"type":"big","data":"{}"}}"#, "x".repeat(4 << 20));
    for _ in 0..2 {
        post(gateway.address, "/events/audit", &body).await;
    }
    let closed = |text: &str| {
        text.contains(r#"streamgate_connections_closed_total{protocol="sse",reason="stalled"} 1"#)
    };
    until(async || closed(request(gateway.admin, "GET", "/metrics", "", b"").await.text())).await;
    while stream.fill().await {}
    assert!(!stream.ended(), "an incomplete body has no last chunk");
}

#[tokio::test]
async fn an_event_is_encoded_once_for_ten_subscribers() {
    let (_data, gateway) = start(&[]).await;
    let accept = "accept: application/cloudevents+json\r\n";
    let head = format!("GET /orders/events HTTP/1.1\r\nhost: g\r\n{accept}\r\n");
    let mut streams = Vec::new();
    for _ in 0..10 {
        let mut stream = Stream::open_raw(gateway.address, &head, Protocol::Ndjson).await;
        next(&mut stream).await;
        streams.push(stream);
    }
    let id = create(gateway.address).await;
    for stream in &mut streams {
        assert!(next(stream).await.2.contains(&format!(r#""id":"{id}""#)));
    }
    let metrics = request(gateway.admin, "GET", "/metrics", "", b"").await;
    let encodings = metrics
        .text()
        .lines()
        .filter(|line| line.starts_with("streamgate_encodings_total") && !line.ends_with(" 0"));
    let encodings: Vec<_> = encodings.collect();
    assert_eq!(encodings, [r#"streamgate_encodings_total{form="cloudevents"} 1"#]);
}
