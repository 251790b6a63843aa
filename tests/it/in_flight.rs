//! Commands that are in flight when the gateway ends their WebSocket: each
//! event that is in the log was answered, and each that was answered is in the
//! log.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::support::client::{Protocol, Stream, request};
use crate::support::frame::{Frames, masked};
use crate::support::http2::{Connection, DATA, END_HEADERS, HEADERS, INITIAL_WINDOW_SIZE, head};
use crate::support::{start, start_in};

/// Publishes that a client has sent and that are not answered: the gateway
/// always has a next one to carry out.
const AHEAD: usize = 40;

/// Sockets of one test. One publish of each is in flight when it ends, save for
/// the moment between two commands.
const SOCKETS: usize = 4;

/// Bytes that a gateway may send over HTTP/2: more than a test can bring.
const WINDOW: u32 = 1 << 30;

/// A WebSocket over either version of HTTP.
enum Socket {
    Http1(Stream),
    Http2(Connection, Vec<u8>),
}

#[derive(Clone, Copy, Debug)]
enum Over {
    Http1,
    Http2,
}

impl Socket {
    async fn open(address: SocketAddr, over: Over) -> Socket {
        if matches!(over, Over::Http1) {
            let stream = Stream::open(address, "/ws", Protocol::WebSocket, "").await;
            assert_eq!(stream.status, 101, "{}", stream.head);
            return Socket::Http1(stream);
        }
        let settings = [(INITIAL_WINDOW_SIZE, WINDOW)];
        let mut connection = Connection::open(address, &settings).await;
        connection.allow(0, WINDOW).await;
        let fields = [(":protocol", "websocket"), ("sec-websocket-version", "13")];
        let block = head("CONNECT", "/ws", &fields);
        connection.send(HEADERS, END_HEADERS, 1, &block).await;
        connection.find(HEADERS, 1).await;
        Socket::Http2(connection, Vec::new())
    }

    async fn say(&mut self, data: &Value) {
        let text = json!({"type": "command", "data": data}).to_string();
        match self {
            Socket::Http1(stream) => stream.send_text(&text).await,
            Socket::Http2(connection, _) => {
                connection.send(DATA, 0, 1, &masked(0x81, text.as_bytes())).await;
            }
        }
    }

    /// The next frame: its first byte, and its payload.
    async fn next(&mut self) -> (u8, Vec<u8>) {
        loop {
            let found = match self {
                Socket::Http1(stream) => Frames::next(&mut stream.plain),
                Socket::Http2(_, bytes) => Frames::next(bytes),
            };
            match (found, &mut *self) {
                (Some(found), _) => return found,
                (None, Socket::Http1(stream)) => assert!(stream.fill().await, "no close frame"),
                (None, Socket::Http2(connection, bytes)) => {
                    bytes.extend(connection.find(DATA, 1).await.payload);
                }
            }
        }
    }
}

fn publish() -> Value {
    json!({"command": "publish", "topic": "audit", "type": "checked", "data": 1})
}

/// What a socket brought until its close frame.
#[derive(Debug)]
struct Got {
    /// The ids of the events whose publishing was answered.
    answered: Vec<String>,
    /// The reason of the `stream-close`.
    reason: String,
    code: u16,
}

/// Publishes until the gateway closes the socket. `begun` is called at the
/// first answer.
async fn publish_to_the_end(mut socket: Socket, begun: impl FnOnce()) -> Got {
    let (mut answered, mut reason, mut begun) = (Vec::new(), None, Some(begun));
    for _ in 0..AHEAD {
        socket.say(&publish()).await;
    }
    loop {
        let (first, payload) = socket.next().await;
        if first == 0x88 {
            let code = u16::from_be_bytes([payload[0], payload[1]]);
            return Got { answered, reason: reason.expect("a stream-close"), code };
        }
        if first != 0x81 {
            continue;
        }
        let message: Value = serde_json::from_slice(&payload).unwrap();
        assert_eq!(reason, None, "nothing but the close frame follows a stream-close: {message}");
        let data = &message["data"];
        match message["type"].as_str().unwrap() {
            "response" if data["command"] == "publish" => {
                answered.push(data["id"].as_str().unwrap().to_owned());
                socket.say(&publish()).await;
                if let Some(begun) = begun.take() {
                    begun();
                }
            }
            "control" if data["type"] == "stream-close" => {
                reason = Some(data["data"]["reason"].as_str().unwrap().to_owned());
            }
            "error" => panic!("{message}"),
            _ => {}
        }
    }
}

/// The ids of all events of the topic `audit`.
async fn logged(address: SocketAddr) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    let mut after = String::new();
    loop {
        let path = format!("/events/audit?limit=1000{after}");
        let page = request(address, "GET", &path, "accept: application/json\r\n", b"").await;
        assert_eq!(page.status, 200, "{}", page.text());
        let page = page.json();
        let events = page["data"].as_array().unwrap();
        let Some(last) = events.last() else { return ids };
        after = format!("&after={}", last["id"].as_str().unwrap());
        ids.extend(events.iter().map(|event| event["id"].as_str().unwrap().to_owned()));
    }
}

/// That each event of the log was answered, and the other way round.
fn assert_answered(logged: &BTreeSet<String>, all: &[Got]) {
    let answered: Vec<&String> = all.iter().flat_map(|got| &got.answered).collect();
    assert!(answered.len() > SOCKETS, "{all:?}");
    let answered: BTreeSet<String> = answered.into_iter().cloned().collect();
    let unanswered: Vec<_> = logged.difference(&answered).collect();
    assert!(unanswered.is_empty(), "in the log and not answered: {unanswered:?}");
    let lost: Vec<_> = answered.difference(logged).collect();
    assert!(lost.is_empty(), "answered and not in the log: {lost:?}");
}

async fn publishes_are_answered_before_a_drain_closes(over: Over) {
    let (data, gateway) = start(&["server.drain=3s"]).await;
    let (begun, mut all_begun) = tokio::sync::mpsc::unbounded_channel();
    let mut sockets = tokio::task::JoinSet::new();
    for _ in 0..SOCKETS {
        let (socket, begun) = (Socket::open(gateway.address, over).await, begun.clone());
        sockets.spawn(publish_to_the_end(socket, move || begun.send(()).unwrap()));
    }
    for _ in 0..SOCKETS {
        all_begun.recv().await.unwrap();
    }
    let drained = tokio::spawn(gateway.gateway.drain());
    let all = sockets.join_all().await;
    drained.await.unwrap().expect("nothing is unanswered");
    for got in &all {
        assert_eq!((got.reason.as_str(), got.code), ("draining", 1012));
    }
    let gateway = start_in(data.path(), &[]).await;
    assert_answered(&logged(gateway.address).await, &all);
}

#[tokio::test]
async fn publishes_over_http1_are_answered_before_a_drain_closes() {
    publishes_are_answered_before_a_drain_closes(Over::Http1).await;
}

#[tokio::test]
async fn publishes_over_http2_are_answered_before_a_drain_closes() {
    publishes_are_answered_before_a_drain_closes(Over::Http2).await;
}

async fn publishes_are_answered_before_a_lifetime_closes(over: Over) {
    let (_data, gateway) = start(&["limits.stream_lifetime=2s"]).await;
    let mut sockets = tokio::task::JoinSet::new();
    for _ in 0..SOCKETS {
        let socket = Socket::open(gateway.address, over).await;
        sockets.spawn(publish_to_the_end(socket, || {}));
    }
    let all = sockets.join_all().await;
    for got in &all {
        assert_eq!((got.reason.as_str(), got.code), ("lifetime", 1012));
    }
    assert_answered(&logged(gateway.address).await, &all);
}

#[tokio::test]
async fn publishes_over_http1_are_answered_before_a_lifetime_closes() {
    publishes_are_answered_before_a_lifetime_closes(Over::Http1).await;
}

#[tokio::test]
async fn publishes_over_http2_are_answered_before_a_lifetime_closes() {
    publishes_are_answered_before_a_lifetime_closes(Over::Http2).await;
}

/// The pace lets events wait in the ring while answers go out, so the ring
/// overflows in the middle of the publishing.
async fn publishes_are_answered_before_an_overflow_closes(over: Over) {
    let sets = [
        "streams.ring_events=16",
        "streams.pace_events=1",
        r#"streams.overflow_choices=["disconnect"]"#,
    ];
    let (_data, gateway) = start(&sets).await;
    let mut sockets = tokio::task::JoinSet::new();
    for _ in 0..SOCKETS {
        let mut socket = Socket::open(gateway.address, over).await;
        let subscribe = json!({"command": "subscribe", "topic": "audit", "overflow": "disconnect"});
        socket.say(&subscribe).await;
        sockets.spawn(publish_to_the_end(socket, || {}));
    }
    let all = sockets.join_all().await;
    for got in &all {
        assert_eq!((got.reason.as_str(), got.code), ("overflow", 1013));
    }
    assert_answered(&logged(gateway.address).await, &all);
}

#[tokio::test]
async fn publishes_over_http1_are_answered_before_an_overflow_closes() {
    publishes_are_answered_before_an_overflow_closes(Over::Http1).await;
}

#[tokio::test]
async fn publishes_over_http2_are_answered_before_an_overflow_closes() {
    publishes_are_answered_before_an_overflow_closes(Over::Http2).await;
}
