//! What is waited for has a deadline, and who keeps to it is not cut.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use streamgate::server::Error;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep, timeout};

use crate::support::client::PATIENCE;
use crate::support::frame::Chunks;
use crate::support::http2::{Connection, DATA, END_STREAM, GOAWAY};
use crate::support::start;

/// A client that holds little, so that the gateway feels one that does not read.
async fn small(address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(address).await.unwrap()
}

#[tokio::test]
async fn a_client_that_sends_before_it_reads_is_not_stalled() {
    let (_data, gateway) = start(&["limits.stall_timeout=500ms", "storage.sync=never"]).await;
    let mut socket = small(gateway.address).await;
    let head = "POST /events/audit HTTP/1.1\r\nhost: g\r\nconnection: close\r\n\
                content-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n";
    socket.write_all(head.as_bytes()).await.unwrap();
    let line = "{\"type\":\"a\",\"data\":1}\n";
    // Answers to these are more than both sockets hold.
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
    assert!(chunks.ended, "the answer was cut");
    let answer = String::from_utf8(plain).unwrap();
    assert_eq!(answer.matches("\"status\":201").count(), lines);
}

/// Reads until the gateway closes; how long that took.
async fn closed(socket: &mut TcpStream) -> Duration {
    let begun = Instant::now();
    let mut rest = Vec::new();
    // A reset is an end too.
    let _ = timeout(PATIENCE, socket.read_to_end(&mut rest)).await.expect("an end in time");
    assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
    begun.elapsed()
}

/// Sends a whole request and reads its whole answer.
async fn ask(socket: &mut TcpStream) {
    socket.write_all(b"GET /orders/none HTTP/1.1\r\nhost: g\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"}") {
        let read = timeout(PATIENCE, socket.read_buf(&mut answer)).await.unwrap();
        assert!(read.unwrap() > 0, "no answer");
    }
    assert!(answer.starts_with(b"HTTP/1.1 404"));
}

#[tokio::test]
async fn half_a_head_is_gone_in_time() {
    let sets = ["limits.head_timeout=300ms", "limits.idle_timeout=1h"];
    let (_data, gateway) = start(&sets).await;
    let mut fresh = TcpStream::connect(gateway.address).await.unwrap();
    fresh.write_all(b"GET /orders HTTP/1.1\r\nho").await.unwrap();
    closed(&mut fresh).await;

    let mut kept = TcpStream::connect(gateway.address).await.unwrap();
    ask(&mut kept).await;
    let quiet = timeout(Duration::from_secs(1), kept.read_u8()).await;
    assert!(quiet.is_err(), "a connection between requests is no slow head");
    for half in ["GET /orders/none HT", "TP/1.1\r\nhost: g\r\n\r\n"] {
        kept.write_all(half.as_bytes()).await.unwrap();
        sleep(Duration::from_millis(50)).await;
    }
    let mut answer = vec![0; 12];
    timeout(PATIENCE, kept.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(answer, b"HTTP/1.1 404", "a head in two pieces is a head");

    let mut later = TcpStream::connect(gateway.address).await.unwrap();
    ask(&mut later).await;
    let begun = Instant::now();
    // A byte now and then does not put it off.
    while begun.elapsed() < PATIENCE {
        if later.write_all(b"G").await.is_err() {
            return;
        }
        if let Ok(read) = timeout(Duration::from_millis(50), later.read_u8()).await {
            assert!(read.is_err(), "nothing is said to half a head");
            return;
        }
    }
    panic!("half a head is still there");
}

#[tokio::test]
async fn a_head_is_due_from_the_connection_on() {
    let sets = ["limits.head_timeout=3s", "limits.idle_timeout=1h"];
    let (_data, gateway) = start(&sets).await;
    // Bytes to begin with, and some that come later.
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
        closed(&mut socket).await;
        let took = begun.elapsed();
        assert!(took >= Duration::from_secs(3), "{took:?}");
        // With a time that began with what came later, after 5.5 s.
        assert!(took < Duration::from_secs(5), "{took:?}");
    });
    let ends = ends.map(tokio::spawn);
    for end in ends {
        end.await.unwrap();
    }
}

#[tokio::test]
async fn a_preface_in_pieces_is_a_preface() {
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

/// A body, or a line, must come at a kilobyte a second after a while.
const SLOW: [&str; 3] =
    ["limits.body_timeout=1500ms", "limits.body_rate=1kB", "limits.stall_timeout=1h"];

/// Sends `head`, then `piece` every 50 ms until the gateway closes; what it
/// answered.
async fn drip(address: SocketAddr, head: &str, piece: &str) -> String {
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(head.as_bytes()).await.unwrap();
    let (mut reader, mut writer) = socket.split();
    let mut answer = Vec::new();
    let dripping = async {
        while writer.write_all(piece.as_bytes()).await.is_ok() {
            sleep(Duration::from_millis(50)).await;
        }
        std::future::pending::<()>().await;
    };
    let read = async {
        tokio::select! {
            _ = reader.read_to_end(&mut answer) => {}
            () = dripping => {}
        }
    };
    timeout(PATIENCE, read).await.expect("the connection is closed");
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn a_slow_body_is_not_waited_for() {
    let (_data, gateway) = start(&SLOW).await;
    let sized = "POST /orders HTTP/1.1\r\nhost: g\r\ncontent-type: application/json\r\n\
                 content-length: 100000\r\n\r\n{\"note\":\"";
    let answer = drip(gateway.address, sized, "x").await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(answer.contains("/problems/request-timeout"), "{answer}");
    let chunked = "POST /orders HTTP/1.1\r\nhost: g\r\ncontent-type: application/json\r\n\
                   transfer-encoding: chunked\r\n\r\n";
    let answer = drip(gateway.address, chunked, "1\r\n \r\n").await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
}

const BATCH: &str = "POST /events/audit HTTP/1.1\r\nhost: g\r\n\
                     content-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n";

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

#[tokio::test]
async fn a_slow_line_of_a_batch_is_not_waited_for() {
    let (_data, gateway) = start(&SLOW).await;
    let head = format!("{BATCH}{}", chunk("{\"type\":\"a\",\"data\":1}\n{\"type\":"));
    let answer = drip(gateway.address, &head, &chunk(" ")).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("{\"status\":201,"), "the line before is written: {answer}");
    assert!(answer.contains("{\"status\":408,"), "{answer}");
    assert!(answer.contains("\"line\":2}"), "{answer}");
    assert!(answer.ends_with("\r\n0\r\n\r\n"), "the answer is whole: {answer}");
}

#[tokio::test]
async fn whole_lines_now_and_then_are_a_batch() {
    let (_data, gateway) = start(&SLOW).await;
    let mut socket = TcpStream::connect(gateway.address).await.unwrap();
    socket.write_all(BATCH.as_bytes()).await.unwrap();
    // An eighth of the rate, for twice as long as a line may take.
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

/// Reads until the gateway closes.
async fn gone(socket: &mut TcpStream) {
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, socket.read_to_end(&mut rest)).await.expect("an end in time");
}

#[tokio::test]
async fn an_http2_connection_is_gone_in_time() {
    let sets = ["limits.head_timeout=300ms", "limits.idle_timeout=1h"];
    let (_data, gateway) = start(&sets).await;
    let mut half = TcpStream::connect(gateway.address).await.unwrap();
    half.write_all(&PREFACE[..24]).await.unwrap();
    closed(&mut half).await;

    let (_data, gateway) = start(&["limits.idle_timeout=300ms"]).await;
    let mut idle = TcpStream::connect(gateway.address).await.unwrap();
    idle.write_all(PREFACE).await.unwrap();
    gone(&mut idle).await;
}

#[tokio::test]
async fn an_http2_stream_is_not_idle() {
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
    assert!(quiet.is_err(), "an open stream is a request that is being answered");
    drop(stream);
    let _ = timeout(PATIENCE, serving).await.expect("an end in time");
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
    let farewell = connection.find(DATA, 1).await;
    assert!(farewell.payload.starts_with(b"{\"type\":\"stream-close\""), "{farewell:?}");
    assert!(connection.find(DATA, 1).await.flags & END_STREAM != 0, "the stream is whole");
    connection.find(GOAWAY, 0).await;
    drop(connection);
    timeout(PATIENCE, drained).await.expect("a drained gateway").unwrap().unwrap();
}

#[tokio::test]
async fn a_batch_that_is_not_answered_in_the_drains_time_is_told() {
    let (_data, gateway) = start(&["server.drain=300ms"]).await;
    let mut socket = TcpStream::connect(gateway.address).await.unwrap();
    let head = "POST /events/audit HTTP/1.1\r\nhost: g\r\ncontent-type: application/x-ndjson\r\n\
                transfer-encoding: chunked\r\n\r\n";
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    timeout(PATIENCE, socket.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    assert!(matches!(gateway.gateway.drain().await, Err(Error::Unanswered)));
}
