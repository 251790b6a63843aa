//! The messages of WebSocket sessions on the socket of a client
//! (`docs/protocol.md#websocket`).

use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::client::{PATIENCE, Protocol, Stream, post, request};
use crate::support::frame::{Frames, masked};
use crate::support::start;

const JSON: &str = "content-type: application/json\r\n";

pub(super) async fn create(address: SocketAddr, id: &str) -> String {
    let body = format!(r#"{{"id":"{id}","status":"NEW"}}"#);
    let answer = request(address, "POST", "/orders", JSON, body.as_bytes()).await;
    assert_eq!(answer.status, 201);
    answer.header("etag").unwrap().trim_matches('"').to_owned()
}

pub(super) async fn open(address: SocketAddr, target: &str) -> Stream {
    let stream = Stream::open(address, target, Protocol::WebSocket, "").await;
    assert_eq!(stream.status, 101, "{}", stream.head);
    stream
}

pub(super) async fn message(stream: &mut Stream) -> Value {
    let (_, kind, text) = stream.next().await.expect("a message");
    assert_eq!(kind, "", "closed with {text}");
    serde_json::from_str(&text).unwrap()
}

async fn close(stream: &mut Stream) -> String {
    loop {
        let (_, kind, text) = stream.next().await.expect("a close frame");
        if kind == "close" {
            return text;
        }
    }
}

pub(super) fn command(id: &str, data: &Value) -> String {
    json!({"id": id, "type": "command", "timestamp": "2024-07-15T14:32:22Z", "data": data})
        .to_string()
}

/// Sends a command and returns the `data` of its response or error.
pub(super) async fn send_command(stream: &mut Stream, id: &str, data: Value) -> Value {
    stream.send_text(&command(id, &data)).await;
    let answer = message(stream).await;
    assert_eq!(answer["id"], id, "{answer}");
    assert!(answer["timestamp"].is_string());
    let kind = answer["type"].as_str().unwrap();
    assert!(kind == "response" || kind == "error", "{answer}");
    answer["data"].clone()
}

#[tokio::test]
async fn the_handshake_follows_rfc_6455() {
    let (_data, gateway) = start(&[]).await;
    let offered = "sec-websocket-protocol: streamgate.v1, other\r\n";
    let stream = Stream::open(gateway.address, "/ws", Protocol::WebSocket, offered).await;
    assert_eq!(stream.status, 101);
    let head = stream.head.to_ascii_lowercase();
    assert!(head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"), "{head}");
    assert!(head.contains("sec-websocket-protocol: streamgate.v1\r\n"), "{head}");
    let plain = request(gateway.address, "GET", "/ws", "", b"").await;
    assert_eq!(plain.status, 426, "{}", plain.text());
    assert_eq!(plain.header("sec-websocket-version"), Some("13"));
    for (origin, status) in
        [("http://gateway", 101), ("http://gateway.evil.example", 403), ("null", 403)]
    {
        let header = format!("origin: {origin}\r\n");
        let stream = Stream::open(gateway.address, "/ws", Protocol::WebSocket, &header).await;
        assert_eq!(stream.status, status, "{origin}");
    }
}

#[tokio::test]
async fn a_command_in_the_same_packet_as_the_handshake_is_answered() {
    const HEAD: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\n\
        upgrade: websocket\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
        vary: Accept\r\ndate: ";
    let (_data, gateway) = start(&[]).await;
    let mut socket = TcpStream::connect(gateway.address).await.unwrap();
    let mut bytes = b"GET /ws HTTP/1.1\r\nhost: gateway\r\nconnection: Upgrade\r\n\
        upgrade: websocket\r\nsec-websocket-version: 13\r\n\
        sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        .to_vec();
    bytes.extend(masked(0x81, command("c1", &json!({"type": "get-status"})).as_bytes()));
    bytes.extend(masked(0x88, &[]));
    socket.write_all(&bytes).await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, socket.read_to_end(&mut answer)).await.unwrap().unwrap();
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    let mut frames = answer.split_off(end);
    let head = String::from_utf8(answer).unwrap();
    let date = head.strip_prefix(HEAD).unwrap_or_else(|| panic!("{head}"));
    assert_eq!(date.matches("\r\n").count(), 2, "the date is the last field: {head}");
    let (first, payload) = Frames::next(&mut frames).unwrap();
    let reply: Value = serde_json::from_slice(&payload).unwrap();
    assert_eq!((first, reply["id"].as_str()), (0x81, Some("c1")), "{reply}");
    assert_eq!(Frames::next(&mut frames).unwrap().0, 0x88);
}

#[tokio::test]
async fn a_bare_socket_has_the_documented_messages() {
    let (_data, gateway) = start(&[]).await;
    create(gateway.address, "order-123").await;
    let mut socket = open(gateway.address, "/orders/order-123/ws").await;
    socket.send_text(r#"{"command":"get-status"}"#).await;
    let (_, _, status) = socket.next().await.unwrap();
    assert_eq!(status, r#"{"type":"status","data":{"orderId":"order-123","status":"NEW"}}"#);
    let body = br#"{"status":"SHIPPED"}"#;
    request(gateway.address, "PATCH", "/orders/order-123", JSON, body).await;
    let (_, _, update) = socket.next().await.unwrap();
    assert_eq!(update, r#"{"type":"update","data":{"orderId":"order-123","status":"SHIPPED"}}"#);
}

#[tokio::test]
async fn a_websocket_path_subscribes_without_an_opening_message() {
    let (_data, gateway) = start(&[]).await;
    create(gateway.address, "order-1").await;
    let mut all = open(gateway.address, "/orders/ws").await;
    let mut one = open(gateway.address, "/v1/orders/order-1/ws").await;
    let mut topic = open(gateway.address, "/events/order-updates/ws").await;
    let other = create(gateway.address, "order-2").await;
    let body = br#"{"n":1}"#;
    let patched = request(gateway.address, "PATCH", "/orders/order-1", JSON, body).await;
    let patched = patched.header("etag").unwrap().trim_matches('"').to_owned();
    for stream in [&mut all, &mut topic] {
        let event = message(stream).await;
        assert_eq!(event["id"], other);
        assert_eq!(event["type"], "event");
        assert_eq!(
            event["data"],
            json!({"collection": "orders", "type": "order-created", "subject": "order-2",
                "data": {"orderId": "order-2", "status": "NEW"}})
        );
    }
    assert_eq!(message(&mut one).await["id"], patched);
}

#[tokio::test]
async fn a_requested_start_position_is_confirmed_and_replayed() {
    let (_data, gateway) = start(&[]).await;
    let first = create(gateway.address, "order-1").await;
    let second = create(gateway.address, "order-2").await;
    let mut socket = open(gateway.address, &format!("/orders/ws?from={first}")).await;
    let opening = message(&mut socket).await;
    assert_eq!(opening["type"], "control");
    assert_eq!(opening["data"]["type"], "stream-open");
    assert_eq!(opening["data"]["cursor"], first);
    assert_eq!(message(&mut socket).await["id"], second);
    let mut lost = open(gateway.address, "/orders/ws?from=zzzzzzzz-3").await;
    message(&mut lost).await;
    let gap = message(&mut lost).await;
    assert_eq!((&gap["type"], &gap["data"]["type"]), (&json!("control"), &json!("gap")));
    assert_eq!(gap["data"]["data"]["reason"], "epoch");
    assert_eq!(message(&mut lost).await["id"], first);
}

#[tokio::test]
async fn commands_subscribe_publish_and_report_the_status() {
    let (_data, gateway) = start(&[]).await;
    let created = create(gateway.address, "order-1").await;
    let mut socket = open(gateway.address, "/ws").await;
    let subscribed = send_command(
        &mut socket,
        "msg-1",
        json!({"command": "subscribe", "collection": "orders", "resource": "order-1"}),
    )
    .await;
    assert_eq!(subscribed, json!({"command": "subscribe", "cursor": created}));
    let topic = json!({"command": "subscribe", "topic": "audit", "from": "earliest"});
    send_command(&mut socket, "msg-2", topic).await;
    let again = json!({"command": "subscribe", "collection": "orders"});
    let overlapping = send_command(&mut socket, "msg-3", again).await;
    assert_eq!(overlapping["type"], "/problems/overlapping-subscription");
    let status = send_command(
        &mut socket,
        "4",
        json!({"command": "get-status", "collection": "orders", "resource": "order-1"}),
    )
    .await;
    assert_eq!(status["data"], json!({"orderId": "order-1", "status": "NEW"}));
    assert_eq!(status["id"], created);
    let publish =
        json!({"command": "publish", "topic": "audit", "type": "checked", "data": [1.50]});
    socket.send_text(&command("msg-5", &publish)).await;
    let (mut response, mut event) = (message(&mut socket).await, message(&mut socket).await);
    if response["type"] == "event" {
        std::mem::swap(&mut response, &mut event);
    }
    assert_eq!(response["id"], "msg-5");
    assert_eq!(event["id"], response["data"]["id"]);
    assert_eq!(event["data"]["topic"], "audit");
    let stop = json!({"command": "unsubscribe", "topic": "audit"});
    assert_eq!(send_command(&mut socket, "6", stop).await, json!({"command": "unsubscribe"}));
    post(gateway.address, "/events/audit", r#"{"type":"checked","data":2}"#).await;
    assert_eq!(
        send_command(&mut socket, "7", json!({"command": "ping"})).await,
        json!({"command": "ping"})
    );
}

#[tokio::test]
async fn events_spend_the_credit_of_a_window_and_request_adds_credit() {
    let (_data, gateway) = start(&[]).await;
    let mut socket = open(gateway.address, "/ws").await;
    let subscribe = json!({"command": "subscribe", "topic": "audit", "window": 2});
    send_command(&mut socket, "1", subscribe).await;
    let mut ids = Vec::new();
    for n in 0..5 {
        let body = format!(r#"{{"type":"counted","data":{n}}}"#);
        let value = post(gateway.address, "/events/audit", &body).await;
        ids.push(value["id"].as_str().unwrap().to_owned());
    }
    assert_eq!(message(&mut socket).await["id"], ids[0]);
    assert_eq!(message(&mut socket).await["id"], ids[1]);
    // Without credit, no event arrives. The next message is the response to the
    // ping.
    send_command(&mut socket, "2", json!({"command": "ping"})).await;
    socket.send_text(&command("3", &json!({"command": "request", "topic": "audit", "n": 2}))).await;
    assert_eq!(message(&mut socket).await["data"], json!({"command": "request", "n": 2}));
    assert_eq!(message(&mut socket).await["id"], ids[2]);
    assert_eq!(message(&mut socket).await["id"], ids[3]);
    send_command(&mut socket, "4", json!({"command": "ping"})).await;
    socket
        .send_text(&command("5", &json!({"command": "request", "topic": "audit", "n": 10})))
        .await;
    message(&mut socket).await;
    assert_eq!(message(&mut socket).await["id"], ids[4]);
    let value = post(gateway.address, "/events/audit", r#"{"type":"counted","data":5}"#).await;
    assert_eq!(message(&mut socket).await["id"], value["id"]);
}

#[tokio::test]
async fn a_subscription_can_begin_with_a_snapshot() {
    let (_data, gateway) = start(&[]).await;
    create(gateway.address, "order-1").await;
    let second = create(gateway.address, "order-2").await;
    let mut socket = open(gateway.address, "/ws").await;
    let subscribe = json!({"command": "subscribe", "collection": "orders", "snapshot": true});
    let answer = send_command(&mut socket, "1", subscribe).await;
    assert_eq!(
        answer["cursor"],
        Value::Null,
        "a client cannot resume before the end of a snapshot"
    );
    for id in ["order-1", "order-2"] {
        let snapshot = message(&mut socket).await;
        assert_eq!(snapshot["type"], "control");
        assert_eq!(snapshot["data"]["type"], "snapshot");
        assert_eq!(snapshot["data"]["collection"], "orders");
        assert_eq!(snapshot["data"]["data"]["id"], id);
    }
    let end = message(&mut socket).await;
    assert_eq!(end["data"]["type"], "snapshot-end");
    assert_eq!(end["data"]["cursor"], second);
    let third = create(gateway.address, "order-3").await;
    assert_eq!(message(&mut socket).await["id"], third);
}

#[tokio::test]
async fn a_subscription_cannot_add_event_types_to_a_view() {
    let (_data, gateway) = start(&[]).await;
    let mut socket = open(gateway.address, "/ws").await;
    let types = json!(["order-created", "order-deleted"]);
    let subscribe = json!({"command": "subscribe", "topic": "order-updates", "types": types});
    assert_eq!(send_command(&mut socket, "1", subscribe).await["type"], "/problems/bad-body");
}

#[tokio::test]
async fn the_responses_to_pipelined_commands_do_not_accumulate_in_memory() {
    let (_data, gateway) = start(&[]).await;
    let body = format!(r#"{{"id":"big","text":"{}"}}"#, "x".repeat(1_000_000));
    let answer = request(gateway.address, "POST", "/orders", JSON, body.as_bytes()).await;
    assert_eq!(answer.status, 201);
    let mut socket = open(gateway.address, "/orders/big/ws").await;
    // One read of 16 KiB contains all these commands. If the gateway answered
    // them at once, the responses would take 280 MB.
    let frames: Vec<u8> = (0..280)
        .flat_map(|_| masked(0x81, br#"{"type":"command","data":{"command":"get-status"}}"#))
        .collect();
    let resident_mib = || {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() / 256
    };
    let before = resident_mib();
    socket.send(&frames).await;
    for _ in 0..3 {
        assert_eq!(message(&mut socket).await["data"]["command"], "get-status");
    }
    assert!(resident_mib() < before + 140, "{} MiB, {before} before", resident_mib());
}

#[tokio::test]
async fn a_subscription_that_catches_up_does_not_delay_another() {
    let (_data, gateway) = start(&["streams.ring_events=8"]).await;
    for n in 0..2000 {
        if n % 100 == 0 {
            let lines = format!(r#"{{"type":"old","data":"{}"}}"#, "x".repeat(500));
            let lines = format!("{lines}\n").repeat(100);
            let header = "content-type: application/x-ndjson\r\n";
            request(gateway.address, "POST", "/events/audit", header, lines.as_bytes()).await;
        }
    }
    let mut socket = open(gateway.address, "/ws").await;
    let old = json!({"command": "subscribe", "topic": "audit", "from": "earliest"});
    socket.send_text(&command("1", &old)).await;
    let live = json!({"command": "subscribe", "collection": "orders"});
    socket.send_text(&command("2", &live)).await;
    loop {
        if message(&mut socket).await["id"] == "2" {
            break;
        }
    }
    let id = create(gateway.address, "order-1").await;
    let mut before = 0;
    while message(&mut socket).await["id"] != id.as_str() {
        before += 1;
    }
    assert!(before < 1900, "{before} old events arrived first");
}

#[tokio::test]
async fn no_event_follows_the_response_to_unsubscribe() {
    let (_data, gateway) = start(&[]).await;
    let lines = format!("{}\n", r#"{"type":"old","data":1}"#).repeat(2000);
    let header = "content-type: application/x-ndjson\r\n";
    request(gateway.address, "POST", "/events/audit", header, lines.as_bytes()).await;
    let mut socket = open(gateway.address, "/ws").await;
    let subscribe = json!({"command": "subscribe", "topic": "audit", "from": "earliest"});
    send_command(&mut socket, "1", subscribe.clone()).await;
    let first = message(&mut socket).await["id"].clone();
    socket.send_text(&command("2", &json!({"command": "unsubscribe", "topic": "audit"}))).await;
    while message(&mut socket).await["id"] != "2" {}
    send_command(&mut socket, "3", json!({"command": "ping"})).await;
    send_command(&mut socket, "4", subscribe).await;
    assert_eq!(
        message(&mut socket).await["id"],
        first,
        "the new subscription starts at the requested position"
    );
}

#[tokio::test]
async fn an_invalid_frame_closes_the_connection_with_the_matching_code() {
    let (_data, gateway) = start(&["limits.message_bytes=1KiB"]).await;
    let cases: [(&str, Vec<u8>, &str); 7] = [
        ("binary", masked(0x82, b"x"), "1003"),
        ("not UTF-8", masked(0x81, b"\xff"), "1007"),
        ("unmasked", vec![0x81, 0x01, b'x'], "1002"),
        ("reserved bit", masked(0xc1, b"x"), "1002"),
        ("continuation of nothing", masked(0x80, b"x"), "1002"),
        ("too big", masked(0x81, &[b' '; 2048]), "1009"),
        ("a close", masked(0x88, &[0x03, 0xe8]), "1000"),
    ];
    for (what, frame, code) in cases {
        let mut socket = open(gateway.address, "/ws").await;
        socket.send(&frame).await;
        assert_eq!(close(&mut socket).await, code, "{what}");
        assert!(socket.next().await.is_none(), "{what}: the socket is closed");
    }
}

#[tokio::test]
async fn pings_may_arrive_between_the_fragments_of_a_message() {
    let (_data, gateway) = start(&[]).await;
    let mut socket = open(gateway.address, "/ws").await;
    socket.send(&masked(0x01, br#"{"command":"#)).await;
    socket.send(&masked(0x89, b"hello")).await;
    socket.send(&masked(0x80, br#""ping"}"#)).await;
    while socket.plain.len() < 7 {
        assert!(socket.fill().await);
    }
    assert_eq!(&socket.plain[..7], b"\x8a\x05hello", "the pong arrives first");
    socket.plain.drain(..7);
    let (_, _, text) = socket.next().await.unwrap();
    assert_eq!(text, r#"{"type":"response","data":{"command":"ping"}}"#);
}

/// The fan-out writes events directly until the socket accepts only a part of
/// one. Then the session writes the events and sends pongs between them.
#[tokio::test]
async fn pongs_are_sent_between_complete_events_on_a_full_socket() {
    const EVENTS: usize = 64;
    let (_data, gateway) = start(&["limits.control_rate=0"]).await;
    let mut socket = open(gateway.address, "/orders/ws").await;
    let note = "x".repeat(8 * 1024);
    for n in 0..EVENTS {
        let body = format!(r#"{{"id":"order-{n}","note":"{note}"}}"#);
        let answer = request(gateway.address, "POST", "/orders", JSON, body.as_bytes()).await;
        assert_eq!(answer.status, 201);
        socket.send(&masked(0x89, n.to_string().as_bytes())).await;
    }
    let (mut orders, mut pongs) = (Vec::new(), Vec::new());
    while orders.len() < EVENTS || pongs.len() < EVENTS {
        let Some((first, payload)) = Frames::next(&mut socket.plain) else {
            assert!(socket.fill().await, "{} events, {} pongs", orders.len(), pongs.len());
            continue;
        };
        match first {
            0x81 => {
                let event: Value = serde_json::from_slice(&payload).unwrap();
                orders.push(event["data"]["subject"].as_str().unwrap().to_owned());
            }
            0x8a => pongs.push(String::from_utf8(payload).unwrap()),
            other => panic!("a frame that begins with {other:#x}"),
        }
    }
    assert_eq!(orders, (0..EVENTS).map(|n| format!("order-{n}")).collect::<Vec<_>>());
    assert_eq!(pongs, (0..EVENTS).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_client_that_never_answers_a_ping_is_closed_with_4408() {
    let (_data, gateway) = start(&["streams.heartbeat=30ms"]).await;
    let mut socket = open(gateway.address, "/ws").await;
    assert_eq!(close(&mut socket).await, "4408");
}

#[tokio::test]
async fn an_endless_message_is_closed_with_1008() {
    let (_data, gateway) = start(&["limits.body_timeout=100ms", "streams.heartbeat=40ms"]).await;
    let mut socket = open(gateway.address, "/ws").await;
    socket.send(&masked(0x01, b"{")).await;
    let closed = tokio::time::timeout(std::time::Duration::from_secs(20), async {
        loop {
            socket.send(&masked(0x8a, b"")).await;
            let (_, kind, text) = socket.next().await.expect("a close frame");
            if kind == "close" {
                break text;
            }
        }
    });
    assert_eq!(closed.await.expect("the socket is closed"), "1008");
}

/// Events that are more frequent than heartbeats must not extend the deadline of
/// an incomplete message.
#[tokio::test]
async fn an_endless_message_is_closed_with_1008_despite_frequent_events() {
    let (_data, gateway) = start(&["limits.body_timeout=100ms"]).await;
    let mut socket = open(gateway.address, "/orders/ws").await;
    socket.send(&masked(0x01, b"{")).await;
    let closed = tokio::time::timeout(std::time::Duration::from_secs(20), async {
        for n in 0.. {
            create(gateway.address, &format!("order-{n}")).await;
            let (_, kind, text) = socket.next().await.expect("an event or a close frame");
            if kind == "close" {
                return text;
            }
        }
        unreachable!("the range has no end")
    });
    assert_eq!(closed.await.expect("the socket is closed"), "1008");
}

#[tokio::test]
async fn a_drain_closes_with_1012() {
    let (_data, gateway) = start(&["server.drain=300ms"]).await;
    let mut socket = open(gateway.address, "/orders/ws").await;
    gateway.gateway.drain().await.unwrap();
    assert_eq!(close(&mut socket).await, "1012");
}
