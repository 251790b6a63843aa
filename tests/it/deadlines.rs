//! Deadlines: the gateway closes a connection that misses a deadline, and keeps
//! a connection that meets all of them.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use streamgate::server::Error;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep, timeout};

use crate::support::client::{PATIENCE, request};
use crate::support::frame::Chunks;
use crate::support::http2::{Connection, DATA, END_STREAM, GOAWAY};
use crate::support::{Running, start, until};

/// Connects with a small receive buffer. The gateway then soon notices that the
/// client does not read.
async fn connect_with_small_buffer(address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(address).await.unwrap()
}

#[tokio::test]
async fn a_client_that_sends_before_it_reads_is_not_stalled() {
    let (_data, gateway) = start(&["limits.stall_timeout=500ms", "storage.sync=never"]).await;
    let mut socket = connect_with_small_buffer(gateway.address).await;
    let head = "POST /events/audit HTTP/1.1\r\nhost: g\r\nconnection: close\r\n\
                content-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n";
    socket.write_all(head.as_bytes()).await.unwrap();
    let line = "{\"type\":\"a\",\"data\":1}\n";
    // The responses to these lines are larger than both socket buffers.
    socket.write_all(chunk(&line.repeat(20_000)).as_bytes()).await.unwrap();
    let mut lines = 20_000;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(2) {
        sleep(Duration::from_millis(50)).await;
        socket.write_all(chunk(line).as_bytes()).await.expect("the connection is open");
        lines += 1;
    }
    socket.write_all(b"0\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, socket.read_to_end(&mut answer)).await.unwrap().unwrap();
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    let (mut chunks, mut plain) = (Chunks::default(), Vec::new());
    chunks.feed(&answer[end..], &mut plain);
    assert!(chunks.ended, "the response is incomplete");
    let answer = String::from_utf8(plain).unwrap();
    assert_eq!(answer.matches("\"status\":201").count(), lines);
}

/// Waits until the gateway closes the connection without a response. Returns
/// the duration.
async fn wait_for_close(socket: &mut TcpStream) -> Duration {
    let begun = Instant::now();
    let mut rest = Vec::new();
    // A reset also ends the connection.
    let _ = timeout(PATIENCE, socket.read_to_end(&mut rest)).await.expect("the end in time");
    assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
    begun.elapsed()
}

/// Sends a complete request and reads the complete response.
async fn exchange(socket: &mut TcpStream) {
    socket.write_all(b"GET /orders/none HTTP/1.1\r\nhost: g\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"}") {
        let read = timeout(PATIENCE, socket.read_buf(&mut answer)).await.unwrap();
        assert!(read.unwrap() > 0, "the connection ended before the response");
    }
    assert!(answer.starts_with(b"HTTP/1.1 404"));
}

#[tokio::test]
async fn a_connection_with_an_incomplete_head_is_closed_at_the_deadline() {
    let sets = ["limits.head_timeout=300ms", "limits.idle_timeout=1h"];
    let (_data, gateway) = start(&sets).await;
    let mut fresh = TcpStream::connect(gateway.address).await.unwrap();
    fresh.write_all(b"GET /orders HTTP/1.1\r\nho").await.unwrap();
    wait_for_close(&mut fresh).await;

    let mut kept = TcpStream::connect(gateway.address).await.unwrap();
    exchange(&mut kept).await;
    let quiet = timeout(Duration::from_secs(1), kept.read_u8()).await;
    assert!(quiet.is_err(), "the head deadline does not apply between requests");
    for half in ["GET /orders/none HT", "TP/1.1\r\nhost: g\r\n\r\n"] {
        kept.write_all(half.as_bytes()).await.unwrap();
        sleep(Duration::from_millis(50)).await;
    }
    let mut answer = vec![0; 12];
    timeout(PATIENCE, kept.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(answer, b"HTTP/1.1 404", "a head may arrive in two pieces");

    let mut later = TcpStream::connect(gateway.address).await.unwrap();
    exchange(&mut later).await;
    let begun = Instant::now();
    // A byte from time to time does not extend the deadline.
    while begun.elapsed() < PATIENCE {
        if later.write_all(b"G").await.is_err() {
            return;
        }
        if let Ok(read) = timeout(Duration::from_millis(50), later.read_u8()).await {
            assert!(read.is_err(), "an incomplete head gets no response");
            return;
        }
    }
    panic!("the connection with the incomplete head is still open");
}

#[tokio::test]
async fn the_head_deadline_starts_with_the_connection() {
    let sets = ["limits.head_timeout=3s", "limits.idle_timeout=1h"];
    let (_data, gateway) = start(&sets).await;
    // The bytes that are sent at once, and the bytes that are sent later.
    let cases: [(&[u8], &[u8]); 4] = [
        (b"", b""),
        (b"", b"GET /orders HTTP/1.1\r\n"),
        (b"P", b"RI * HTTP/2.0\r\n\r\n"),
        (b"GET /orders HTTP/1.1\r\n", b"host: g\r\n"),
    ];
    let ends = cases.map(|(first, later)| async move {
        let begun = Instant::now();
        let mut socket = TcpStream::connect(gateway.address).await.unwrap();
        socket.write_all(first).await.unwrap();
        sleep(Duration::from_millis(2500)).await;
        let _ = socket.write_all(later).await;
        wait_for_close(&mut socket).await;
        let took = begun.elapsed();
        assert!(took >= Duration::from_secs(3), "{took:?}");
        // If the deadline started with the later bytes, the end would be after
        // 5.5 s.
        assert!(took < Duration::from_secs(5), "{took:?}");
    });
    let ends = ends.map(tokio::spawn);
    for end in ends {
        end.await.unwrap();
    }
}

#[tokio::test]
async fn an_http2_preface_may_arrive_in_pieces() {
    let (_data, gateway) = start(&[]).await;
    let mut socket = TcpStream::connect(gateway.address).await.unwrap();
    for piece in PREFACE.chunks(11) {
        socket.write_all(piece).await.unwrap();
        sleep(Duration::from_millis(50)).await;
    }
    let mut answer = [0; 4];
    timeout(PATIENCE, socket.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(answer[3], 4, "SETTINGS");
}

/// After 1.5 s, a body or a line must arrive at one kilobyte per second.
const SLOW: [&str; 3] =
    ["limits.body_timeout=1500ms", "limits.body_rate=1kB", "limits.stall_timeout=1h"];

/// Sends `head`, then `piece` every 50 ms until the gateway closes. Returns the
/// response.
async fn send_slowly(address: SocketAddr, head: &str, piece: &str) -> String {
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(head.as_bytes()).await.unwrap();
    let (mut reader, mut writer) = socket.split();
    let mut answer = Vec::new();
    let sending = async {
        while writer.write_all(piece.as_bytes()).await.is_ok() {
            sleep(Duration::from_millis(50)).await;
        }
        std::future::pending::<()>().await;
    };
    let read = async {
        tokio::select! {
            _ = reader.read_to_end(&mut answer) => {}
            () = sending => {}
        }
    };
    timeout(PATIENCE, read).await.expect("the connection is closed");
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn a_slow_body_is_answered_with_408() {
    let (_data, gateway) = start(&SLOW).await;
    let sized = "POST /orders HTTP/1.1\r\nhost: g\r\ncontent-type: application/json\r\n\
                 content-length: 100000\r\n\r\n{\"note\":\"";
    let answer = send_slowly(gateway.address, sized, "x").await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(answer.contains("/problems/request-timeout"), "{answer}");
    let chunked = "POST /orders HTTP/1.1\r\nhost: g\r\ncontent-type: application/json\r\n\
                   transfer-encoding: chunked\r\n\r\n";
    let answer = send_slowly(gateway.address, chunked, "1\r\n \r\n").await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
}

const BATCH: &str = "POST /events/audit HTTP/1.1\r\nhost: g\r\n\
                     content-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n";

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

#[tokio::test]
async fn a_slow_line_ends_a_batch_with_408() {
    let (_data, gateway) = start(&SLOW).await;
    let head = format!("{BATCH}{}", chunk("{\"type\":\"a\",\"data\":1}\n{\"type\":"));
    let answer = send_slowly(gateway.address, &head, &chunk(" ")).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(
        answer.contains("{\"status\":201,"),
        "the line before the slow line is written: {answer}"
    );
    assert!(answer.contains("{\"status\":408,"), "{answer}");
    assert!(answer.contains("\"line\":2}"), "{answer}");
    assert!(answer.ends_with("\r\n0\r\n\r\n"), "the response is complete: {answer}");
}

#[tokio::test]
async fn a_batch_may_pause_between_complete_lines() {
    let (_data, gateway) = start(&SLOW).await;
    let mut socket = TcpStream::connect(gateway.address).await.unwrap();
    socket.write_all(BATCH.as_bytes()).await.unwrap();
    // The lines arrive at an eighth of the rate, for twice the time that one
    // line may take.
    for _ in 0..15 {
        let line = chunk("{\"type\":\"a\",\"data\":1}\n");
        socket.write_all(line.as_bytes()).await.expect("the connection is open");
        sleep(Duration::from_millis(200)).await;
    }
    socket.write_all(b"0\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n0\r\n\r\n") {
        let read = timeout(PATIENCE, socket.read_buf(&mut answer)).await.unwrap();
        assert!(read.unwrap() > 0, "{}", String::from_utf8_lossy(&answer));
    }
    let answer = String::from_utf8(answer).unwrap();
    assert_eq!(answer.matches("\"status\":201").count(), 15, "{answer}");
}

/// An HTTP/2 preface whose SETTINGS are empty (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Reads until the gateway closes the connection.
async fn read_until_close(socket: &mut TcpStream) {
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, socket.read_to_end(&mut rest)).await.expect("the end in time");
}

#[tokio::test]
async fn an_idle_http2_connection_is_closed_at_the_deadline() {
    let sets = ["limits.head_timeout=300ms", "limits.idle_timeout=1h"];
    let (_data, gateway) = start(&sets).await;
    let mut half = TcpStream::connect(gateway.address).await.unwrap();
    half.write_all(&PREFACE[..24]).await.unwrap();
    wait_for_close(&mut half).await;

    let (_data, gateway) = start(&["limits.idle_timeout=300ms"]).await;
    let mut idle = TcpStream::connect(gateway.address).await.unwrap();
    idle.write_all(PREFACE).await.unwrap();
    read_until_close(&mut idle).await;
}

#[tokio::test]
async fn a_connection_with_an_open_http2_stream_is_not_idle() {
    let sets = ["limits.idle_timeout=200ms", "streams.heartbeat=1h"];
    let (_data, gateway) = start(&sets).await;
    let socket = TcpStream::connect(gateway.address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket))
            .await
            .unwrap();
    let serving = tokio::spawn(connection);
    let uri = format!("http://{}/orders/events", gateway.address);
    let request = hyper::Request::get(uri)
        .header("accept", "application/x-ndjson")
        .body(Empty::<Bytes>::new())
        .unwrap();
    let mut stream = sender.send_request(request).await.unwrap().into_body();
    let opening = timeout(PATIENCE, stream.frame()).await.unwrap().unwrap();
    assert!(opening.unwrap().data_ref().unwrap().starts_with(b"{\"type\":\"stream-open\""));
    let quiet = timeout(Duration::from_secs(1), stream.frame()).await;
    assert!(quiet.is_err(), "a connection with an open stream is not idle");
    drop(stream);
    let _ = timeout(PATIENCE, serving).await.expect("the end in time");
}

#[tokio::test]
async fn a_drain_ends_http2_streams() {
    let (_data, gateway) = start(&["server.drain=10s", "limits.idle_timeout=1h"]).await;
    let mut connection = Connection::open(gateway.address, &[]).await;
    connection.get(1, "/events/audit", "application/x-ndjson").await;
    connection.find(DATA, 1).await;
    connection.get(3, "/orders/none", "application/json").await;
    connection.find(DATA, 3).await;
    let drained = tokio::spawn(gateway.gateway.drain());
    let close_message = connection.find(DATA, 1).await;
    assert!(close_message.payload.starts_with(b"{\"type\":\"stream-close\""), "{close_message:?}");
    assert!(connection.find(DATA, 1).await.flags & END_STREAM != 0, "the stream is complete");
    connection.find(GOAWAY, 0).await;
    drop(connection);
    timeout(PATIENCE, drained).await.expect("the drain ends in time").unwrap().unwrap();
}

/// Connects to `address`, and sends the head of a `POST` of `media_type` to the topic
/// `audit`, with a part of the chunked body.
async fn begin_post(address: SocketAddr, media_type: &str, part: &str) -> TcpStream {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST /events/audit HTTP/1.1\r\nhost: g\r\ncontent-type: {media_type}\r\n\
         transfer-encoding: chunked\r\n\r\n{:x}\r\n{part}\r\n",
        part.len()
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    socket
}

async fn expect_text(socket: &mut TcpStream, text: &str) {
    let mut bytes = Vec::new();
    while !String::from_utf8_lossy(&bytes).contains(text) {
        let count = timeout(PATIENCE, socket.read_buf(&mut bytes)).await.unwrap().unwrap();
        assert_ne!(count, 0, "the end before {text}: {}", String::from_utf8_lossy(&bytes));
    }
}

/// Waits until the gateway has read `bytes` bytes of request bodies.
async fn wait_for_received(gateway: &Running, bytes: usize) {
    let line = format!("streamgate_received_bytes_total {bytes}");
    until(async || {
        let metrics = request(gateway.admin, "GET", "/metrics", "", b"").await;
        metrics.text().lines().any(|other| other == line)
    })
    .await;
}

#[tokio::test]
async fn a_drain_reports_a_batch_that_is_not_answered_in_time() {
    let sets = ["server.drain=300ms", "limits.publish_rate=1", "limits.publish_burst=1"];
    let (_data, gateway) = start(&sets).await;
    let line = "{\"type\":\"a\",\"data\":1}\n";
    let mut socket = begin_post(gateway.address, "application/x-ndjson", &line.repeat(100)).await;
    expect_text(&mut socket, "\"status\":201").await;
    assert!(matches!(gateway.gateway.drain().await, Err(Error::Unanswered)));
}

#[tokio::test]
async fn a_drain_reports_a_minimal_batch_without_its_last_line() {
    let (_data, gateway) = start(&["server.drain=300ms"]).await;
    let media_type = "application/x-ndjson\r\nprefer: return=minimal";
    let line = "{\"type\":\"a\",\"data\":1}\n";
    let _socket = begin_post(gateway.address, media_type, line).await;
    until(async || {
        let accept = "accept: application/json\r\n";
        let page = request(gateway.address, "GET", "/events/audit", accept, b"").await;
        page.json()["data"].as_array().is_some_and(|events| events.len() == 1)
    })
    .await;
    assert!(matches!(gateway.gateway.drain().await, Err(Error::Unanswered)));
}

#[tokio::test]
async fn a_drain_does_not_report_a_batch_whose_lines_are_answered() {
    let (_data, gateway) = start(&["server.drain=300ms"]).await;
    let line = "{\"type\":\"a\",\"data\":1}\n{\"type\":";
    let mut socket = begin_post(gateway.address, "application/x-ndjson", line).await;
    expect_text(&mut socket, "\"status\":201").await;
    gateway.gateway.drain().await.unwrap();
}

#[tokio::test]
async fn a_drain_does_not_report_a_request_whose_body_is_incomplete() {
    let (_data, gateway) = start(&["server.drain=300ms"]).await;
    let mut sockets = Vec::new();
    for media_type in ["application/json", "application/x-ndjson"] {
        for fields in ["", "\r\nexpect: 100-continue"] {
            let media_type = format!("{media_type}{fields}");
            sockets.push(begin_post(gateway.address, &media_type, "{\"type\":").await);
        }
    }
    wait_for_received(&gateway, 4 * "{\"type\":".len()).await;
    gateway.gateway.drain().await.unwrap();
}

#[tokio::test]
async fn a_drain_answers_a_request_whose_body_arrives_during_the_drain() {
    let (_data, gateway) = start(&["server.drain=20s"]).await;
    let mut socket = begin_post(gateway.address, "application/json", "{\"type\":").await;
    wait_for_received(&gateway, "{\"type\":".len()).await;
    let mut idle = TcpStream::connect(gateway.address).await.unwrap();
    idle.write_all(b"GET /orders HTTP/1.1\r\nhost: g\r\n\r\n").await.unwrap();
    expect_text(&mut idle, "\r\n\r\n{").await;
    let drained = tokio::spawn(gateway.gateway.drain());
    // The last step of the drain closes idle connections.
    let mut rest = Vec::new();
    timeout(PATIENCE, idle.read_to_end(&mut rest)).await.unwrap().unwrap();
    socket.write_all(b"d\r\n\"a\",\"data\":1}\r\n0\r\n\r\n").await.unwrap();
    expect_text(&mut socket, "HTTP/1.1 201").await;
    timeout(PATIENCE, drained).await.unwrap().unwrap().unwrap();
}
