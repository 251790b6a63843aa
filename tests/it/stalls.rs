//! HTTP/2 streams without a flow-control window, and slow streams that must not
//! be reset.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::support::client::{PATIENCE, post, request};
use crate::support::frame::masked;
use crate::support::http2::{
    Connection, DATA, END_HEADERS, END_STREAM, HEADERS, INITIAL_WINDOW_SIZE, RST_STREAM, head,
};
use crate::support::{Running, start, until};

/// Error codes (RFC 9113 §7).
const CANCEL: u32 = 0x8;

const LINES: &str = "application/x-ndjson";
const JSON: &str = "application/json";

/// Creates 500 orders of about one kilobyte each, and one visit.
async fn create_orders(address: SocketAddr) {
    let line = format!("{{\"note\":\"{}\"}}\n", "x".repeat(1000));
    let header = "content-type: application/x-ndjson\r\n";
    let answer = request(address, "POST", "/orders", header, line.repeat(500).as_bytes()).await;
    assert_eq!(answer.text().matches("\"status\":201").count(), 500);
    post(address, "/visits", "{}").await;
}

/// Opens a live stream of the topic `audit` with its own window and reads its
/// `stream-open`.
async fn open_live_stream(connection: &mut Connection, stream: u32) {
    connection.get(stream, "/events/audit", LINES).await;
    for of in [stream, 0] {
        connection.allow(of, 1 << 20).await;
    }
    let opening = connection.find(DATA, stream).await;
    assert!(opening.payload.starts_with(b"{\"type\":\"stream-open\""));
}

/// Checks that an event still arrives on a live stream.
async fn expect_live(gateway: &Running, connection: &mut Connection, stream: u32) {
    post(gateway.address, "/events/audit", r#"{"type":"checked","data":1}"#).await;
    let event = connection.find(DATA, stream).await;
    assert!(String::from_utf8(event.payload).unwrap().contains("checked"));
}

/// Waits until the metrics contain a line. The gateway may count an end a moment
/// after the client has seen it.
async fn wait_for_metric(gateway: &Running, line: &str) {
    let counted = async || {
        let metrics = request(gateway.admin, "GET", "/metrics", "", b"").await;
        metrics.text().contains(line)
    };
    until(counted).await;
}

#[tokio::test]
async fn a_live_stream_without_a_window_is_reset() {
    let sets = ["limits.stall_timeout=400ms", "streams.heartbeat=1h"];
    let (_data, gateway) = start(&sets).await;
    let mut connection = Connection::open(gateway.address, &[(INITIAL_WINDOW_SIZE, 0)]).await;
    open_live_stream(&mut connection, 1).await;
    let begun = Instant::now();
    connection.get(3, "/orders/events", LINES).await;
    let reset = connection.find(RST_STREAM, 3).await;
    assert_eq!(reset.number(), CANCEL);
    assert!(begun.elapsed() >= Duration::from_millis(400), "{:?}", begun.elapsed());
    expect_live(&gateway, &mut connection, 1).await;
    let line = r#"streamgate_connections_closed_total{protocol="ndjson",reason="stalled"} 1"#;
    wait_for_metric(&gateway, line).await;
}

#[tokio::test]
async fn a_response_whose_window_stays_closed_is_reset() {
    let (_data, gateway) = start(&["limits.stall_timeout=400ms", "storage.sync=never"]).await;
    create_orders(gateway.address).await;
    // Long responses, and responses that stop after the first byte.
    for (path, format, window) in [
        ("/orders/stream", LINES, 65_535),
        ("/orders/stream", LINES, 1),
        ("/visits/stream", LINES, 1),
        ("/orders", JSON, 1),
        ("/orders/none", JSON, 1),
    ] {
        let settings = [(INITIAL_WINDOW_SIZE, window)];
        let mut connection = Connection::open(gateway.address, &settings).await;
        open_live_stream(&mut connection, 1).await;
        connection.get(3, path, format).await;
        // The gateway sends exactly as many bytes as the window allows.
        let mut received = 0;
        let reset = loop {
            let frame = connection.next().await.expect("the connection is open");
            match (frame.stream, frame.kind) {
                (3, RST_STREAM) => break frame,
                (3, DATA) => received += frame.payload.len() as u32,
                _ => {}
            }
        };
        assert_eq!((reset.number(), received), (CANCEL, window), "{path}");
        expect_live(&gateway, &mut connection, 1).await;
    }
}

#[tokio::test]
async fn a_response_with_a_late_window_is_complete() {
    let (_data, gateway) = start(&["storage.sync=never"]).await;
    create_orders(gateway.address).await;
    for (path, format) in [
        ("/orders/stream", LINES),
        ("/visits/stream", LINES),
        ("/orders?size=500", JSON),
        ("/orders?size=1", JSON),
        ("/orders/none", JSON),
    ] {
        let mut connection = Connection::open(gateway.address, &[(INITIAL_WINDOW_SIZE, 1)]).await;
        connection.get(1, path, format).await;
        let mut body = Vec::new();
        loop {
            let frame = connection.find(DATA, 1).await;
            body.extend_from_slice(&frame.payload);
            if frame.flags & END_STREAM != 0 {
                break;
            }
            if !frame.payload.is_empty() {
                connection.allow(1, 4000).await;
                connection.allow(0, 4000).await;
            }
        }
        let accept = format!("accept: {format}\r\n");
        let whole = request(gateway.address, "GET", path, &accept, b"").await;
        assert_eq!(body, whole.body, "{path}");
    }
}

#[tokio::test]
async fn a_slow_reader_and_a_quiet_stream_stay_open() {
    let sets = ["limits.stall_timeout=1s", "streams.heartbeat=1h", "storage.sync=never"];
    let (_data, gateway) = start(&sets).await;
    create_orders(gateway.address).await;
    let mut connection = Connection::open(gateway.address, &[(INITIAL_WINDOW_SIZE, 0)]).await;
    open_live_stream(&mut connection, 1).await;
    connection.get(3, "/orders/stream", LINES).await;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(3) {
        connection.allow(3, 10).await;
        assert_eq!(connection.find(DATA, 3).await.payload.len(), 10);
        sleep(Duration::from_millis(20)).await;
    }
    expect_live(&gateway, &mut connection, 1).await;
    assert_eq!(connection.find(RST_STREAM, 3).await.number(), CANCEL);
}

#[tokio::test]
async fn a_batch_whose_answers_are_read_last_is_not_stalled() {
    let sets = ["limits.stall_timeout=1s", "storage.sync=never"];
    let (_data, gateway) = start(&sets).await;
    let mut connection = Connection::open(gateway.address, &[(INITIAL_WINDOW_SIZE, 0)]).await;
    let block = head("POST", "/orders", &[("content-type", "application/x-ndjson")]);
    connection.send(HEADERS, END_HEADERS, 1, &block).await;
    connection.find(HEADERS, 1).await;
    let begun = Instant::now();
    let mut lines = 0;
    while begun.elapsed() < Duration::from_secs(3) {
        connection.send(DATA, 0, 1, b"{\"n\":1}\n").await;
        lines += 1;
        sleep(Duration::from_millis(20)).await;
    }
    connection.send(DATA, END_STREAM, 1, b"").await;
    connection.allow(1, 1 << 20).await;
    let mut answers = Vec::new();
    loop {
        let frame = connection.find(DATA, 1).await;
        answers.extend_from_slice(&frame.payload);
        if frame.flags & END_STREAM != 0 {
            break;
        }
    }
    let answers = String::from_utf8(answers).unwrap();
    assert_eq!(answers.matches("\"status\":201").count(), lines);
}

#[tokio::test]
async fn the_wait_for_a_window_does_not_count_as_a_slow_line() {
    let sets = ["limits.body_timeout=2s", "limits.body_rate=1GB", "limits.batch_answer_bytes=1KiB"];
    let (_data, gateway) = start(&sets).await;
    let mut connection = Connection::open(gateway.address, &[(INITIAL_WINDOW_SIZE, 0)]).await;
    let block = head("POST", "/events/audit", &[("content-type", LINES)]);
    connection.send(HEADERS, END_HEADERS, 1, &block).await;
    let line = b"{\"type\":\"a\",\"data\":1}\n";
    for written in [20, 40] {
        connection.send(DATA, 0, 1, &line.repeat(20)).await;
        until_written(gateway.address, written).await;
    }
    // There is no space for the responses to these lines. The last line is
    // incomplete.
    connection.send(DATA, 0, 1, &[&line.repeat(20)[..], b"{\"type\":"].concat()).await;
    until_written(gateway.address, 60).await;
    sleep(Duration::from_secs(3)).await;
    connection.allow(1, 1 << 20).await;
    let mut answers = String::new();
    while answers.matches("\"status\":201").count() < 60 {
        answers += str::from_utf8(&connection.find(DATA, 1).await.payload).unwrap();
    }
    connection.send(DATA, END_STREAM, 1, b"\"a\",\"data\":2}\n").await;
    while answers.matches("\"status\":").count() < 61 {
        answers += str::from_utf8(&connection.find(DATA, 1).await.payload).unwrap();
    }
    assert_eq!(answers.matches("\"status\":201").count(), 61, "{answers}");
}

/// Waits until the topic `audit` has at least `events` events.
async fn until_written(address: SocketAddr, events: usize) {
    let path = "/events/audit?limit=1000";
    until(async || {
        let page = request(address, "GET", path, "accept: application/json\r\n", b"").await;
        page.json()["data"].as_array().unwrap().len() >= events
    })
    .await;
}

/// Opens a WebSocket on a stream (RFC 8441 §4).
async fn socket(connection: &mut Connection, stream: u32, path: &str) {
    let fields = [(":protocol", "websocket"), ("sec-websocket-version", "13")];
    let block = head("CONNECT", path, &fields);
    connection.send(HEADERS, END_HEADERS, stream, &block).await;
    connection.find(HEADERS, stream).await;
}

#[tokio::test]
async fn a_slowly_read_websocket_stays_open() {
    let (_data, gateway) = start(&["limits.stall_timeout=2s", "streams.heartbeat=1h"]).await;
    let mut connection = Connection::open(gateway.address, &[(INITIAL_WINDOW_SIZE, 0)]).await;
    socket(&mut connection, 1, "/events/audit/ws").await;
    let body = format!("{{\"type\":\"long\",\"data\":\"{}\"}}", "x".repeat(300_000));
    for _ in 0..6 {
        post(gateway.address, "/events/audit", &body).await;
    }
    connection.allow(0, 1 << 20).await;
    let begun = Instant::now();
    let mut received = 0;
    // The client reads two messages. Each takes longer than the stall timeout.
    while received < 600_000 {
        connection.allow(1, 2000).await;
        received += connection.find(DATA, 1).await.payload.len();
        sleep(Duration::from_millis(20)).await;
    }
    assert!(
        begun.elapsed() > Duration::from_secs(4),
        "the read takes longer than two stall timeouts"
    );
}

#[tokio::test]
async fn a_websocket_without_a_window_is_reset() {
    let sets = ["limits.stall_timeout=400ms", "streams.heartbeat=1h", "storage.sync=never"];
    let (_data, gateway) = start(&sets).await;
    create_orders(gateway.address).await;
    let mut connection = Connection::open(gateway.address, &[(INITIAL_WINDOW_SIZE, 0)]).await;
    open_live_stream(&mut connection, 1).await;
    socket(&mut connection, 3, "/orders/ws?from=earliest").await;
    // The pongs of the client keep the socket from being idle. They do not open
    // the window.
    let reset = async {
        loop {
            if let Ok(frame) = timeout(Duration::from_millis(20), connection.next()).await {
                let frame = frame.expect("the connection is open");
                assert!(frame.kind != DATA || frame.stream == 1, "{frame:?}");
                if frame.kind == RST_STREAM && frame.stream == 3 {
                    break frame.number();
                }
            } else {
                connection.send(DATA, 0, 3, &masked(0x8a, b"")).await;
            }
        }
    };
    assert_eq!(timeout(PATIENCE, reset).await.expect("a reset in time"), CANCEL);
    let line = r#"streamgate_connections_closed_total{protocol="ws",reason="stalled"} 1"#;
    wait_for_metric(&gateway, line).await;

    // The stall timeout also applies to a close frame without a window.
    socket(&mut connection, 5, "/ws").await;
    connection.send(DATA, 0, 5, &masked(0x88, &[0x03, 0xe8])).await;
    assert_eq!(connection.find(RST_STREAM, 5).await.number(), CANCEL);
}
