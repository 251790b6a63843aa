//! Floods: messages that cost the gateway more than they cost the client.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::client::{PATIENCE, request};
use crate::support::frame::{Frames, masked};
use crate::support::http2::{
    ACK, CONTINUATION, Connection, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, PRIORITY,
    RST_STREAM, SETTINGS, frame, head,
};
use crate::support::{Running, start, until};

/// The number of frames in a flood. It is far above the limit of a connection.
const FLOOD: usize = 200_000;

/// Settings with which only the limit on floods can end a connection.
const SETS: [&str; 3] =
    ["limits.idle_timeout=1h", "limits.stall_timeout=1h", "limits.body_timeout=1h"];

/// Sends `bytes` and reads at the same time until the gateway closes. Returns
/// the bytes that it read.
async fn send_flood(mut connection: Connection, bytes: &[u8]) -> Vec<u8> {
    let (mut reader, mut writer) = connection.socket.split();
    let mut read = Vec::new();
    let both = async { tokio::join!(writer.write_all(bytes), reader.read_to_end(&mut read)) };
    // A reset also ends the connection. It is an error of the read or the write.
    let _ = timeout(PATIENCE, both).await.expect("the connection is closed");
    read
}

async fn expect_response(gateway: &Running) {
    assert_eq!(request(gateway.address, "GET", "/orders", "", b"").await.status, 200);
}

async fn rejections(gateway: &Running) -> u64 {
    let metrics = request(gateway.admin, "GET", "/metrics", "", b"").await;
    let prefix = r#"streamgate_connections_refused_total{reason="control-rate"} "#;
    let line = metrics.text().lines().find_map(|line| line.strip_prefix(prefix));
    line.map_or(0, |count| count.parse().unwrap())
}

/// Opens a connection with a request on stream 1 whose body is missing.
async fn open_post(address: SocketAddr) -> Connection {
    let mut connection = Connection::open(address, &[]).await;
    let block = head("POST", "/orders", &[("content-type", "application/json")]);
    connection.send(HEADERS, END_HEADERS, 1, &block).await;
    connection
}

#[tokio::test]
async fn floods_of_control_frames_end_their_connection() {
    let (_data, gateway) = start(&SETS).await;
    let frames = [
        ("ping", frame(PING, 0, 0, &[7; 8])),
        ("settings", frame(SETTINGS, 0, 0, &[])),
        ("priority", frame(PRIORITY, 0, 3, &[0, 0, 0, 0, 1])),
        ("unknown", frame(0xfa, 0, 0, &[])),
    ];
    for (n, (what, frame)) in frames.iter().enumerate() {
        let connection = open_post(gateway.address).await;
        let read = send_flood(connection, &frame.repeat(FLOOD)).await;
        assert!(read.len() < 100_000, "{what}: {} bytes of responses", read.len());
        assert_eq!(rejections(&gateway).await, n as u64 + 1, "{what}");
        expect_response(&gateway).await;
    }
    // The HTTP library has its own, lower limit for empty DATA frames.
    send_flood(open_post(gateway.address).await, &frame(DATA, 0, 1, &[]).repeat(FLOOD)).await;
    expect_response(&gateway).await;
}

#[tokio::test]
async fn a_flood_whose_responses_are_not_read_ends_its_connection() {
    let (_data, gateway) = start(&SETS).await;
    let mut connection = open_post(gateway.address).await;
    // The kernel accepts as much as its buffers hold. The gateway must not read
    // the rest.
    let flood = frame(PING, 0, 0, &[0; 8]).repeat(10 * FLOOD);
    let sent = timeout(PATIENCE, connection.socket.write_all(&flood)).await;
    sent.expect("the connection is closed").expect_err("the gateway read the whole flood");
    assert_eq!(rejections(&gateway).await, 1);
}

#[tokio::test]
async fn a_moderate_number_of_control_frames_is_accepted() {
    // The limit allows 70 frames at once. The test sends 61.
    let (_data, gateway) = start(&["limits.control_rate=7"]).await;
    let mut connection = Connection::open(gateway.address, &[]).await;
    for round in 0..30u32 {
        let stream = 2 * round + 1;
        connection.send(PING, 0, 0, &[round as u8; 8]).await;
        connection.send(PRIORITY, 0, stream, &[0; 5]).await;
        // Many clients end the body of a request with an empty frame.
        let block = head("POST", "/orders", &[("content-type", "application/json")]);
        connection.send(HEADERS, END_HEADERS, stream, &block).await;
        connection.send(DATA, 0, stream, b"{}").await;
        connection.send(DATA, END_STREAM, stream, b"").await;
        let (mut pong, mut answer) = (false, false);
        while !(pong && answer) {
            let frame = connection.next().await.expect("the connection is open");
            pong |= frame.kind == PING && frame.flags == ACK && frame.payload == [round as u8; 8];
            answer |= frame.stream == stream && frame.flags & END_STREAM != 0;
        }
    }
    assert_eq!(rejections(&gateway).await, 0);
}

#[tokio::test]
async fn a_control_rate_of_zero_disables_the_limit() {
    let (_data, gateway) = start(&["limits.control_rate=0"]).await;
    let mut connection = Connection::open(gateway.address, &[]).await;
    connection.socket.write_all(&frame(PRIORITY, 0, 3, &[0; 5]).repeat(20_000)).await.unwrap();
    connection.send(PING, 0, 0, b"the last").await;
    loop {
        let frame = connection.next().await.expect("the connection is open");
        if frame.kind == PING && frame.payload == b"the last" {
            return;
        }
    }
}

#[tokio::test]
async fn a_flood_of_reset_requests_ends_its_connection() {
    let (_data, gateway) = start(&SETS).await;
    let block = head("GET", "/orders", &[]);
    let rapid: Vec<u8> = (0..FLOOD as u32)
        .flat_map(|n| {
            let begun = frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, &block);
            [begun, frame(RST_STREAM, 0, 2 * n + 1, &[0, 0, 0, 8])].concat()
        })
        .collect();
    send_flood(Connection::open(gateway.address, &[]).await, &rapid).await;
    expect_response(&gateway).await;
}

#[tokio::test]
async fn an_endless_header_block_ends_its_connection() {
    let (_data, gateway) = start(&SETS).await;
    let begun = frame(HEADERS, END_STREAM, 1, &head("GET", "/orders", &[]));
    let field = [&[0, 1, b'x', 100], &[b'y'; 100][..]].concat();
    for more in [frame(CONTINUATION, 0, 1, &[]), frame(CONTINUATION, 0, 1, &field)] {
        let flood = [begun.clone(), more.repeat(FLOOD)].concat();
        send_flood(Connection::open(gateway.address, &[]).await, &flood).await;
        expect_response(&gateway).await;
    }
}

#[tokio::test]
async fn a_head_that_decompresses_to_megabytes_is_rejected() {
    let (_data, gateway) = start(&SETS).await;
    let mut connection = Connection::open(gateway.address, &[]).await;
    // The first field puts 4,000 bytes into the dynamic table (RFC 7541
    // §6.2.1). Each further byte is an index to this entry (§6.1). In this way,
    // 16 KiB decompress to 50 MB.
    let mut block = head("GET", "/orders", &[]);
    block.extend([0x40, 1, b'x', 0x7f, 0xa1, 0x1e]);
    block.extend([b'y'; 4000]);
    block.extend([0xbe; 12_000]);
    assert!(block.len() < 16_384);
    connection.send(HEADERS, END_HEADERS | END_STREAM, 1, &block).await;
    loop {
        let frame = connection.next().await.expect("a frame with the reason before the end");
        if frame.kind == GOAWAY {
            assert_eq!(frame.payload[4..8], [0, 0, 0, 0xb], "ENHANCE_YOUR_CALM");
            break;
        }
        assert!(frame.kind == SETTINGS, "{frame:?}");
    }
    assert!(connection.next().await.is_none());
    expect_response(&gateway).await;
}

/// Opens a WebSocket, sends `flood` and reads at the same time. Returns the
/// close code of the gateway.
async fn close_code_after(address: SocketAddr, flood: &[u8]) -> u16 {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let handshake = "GET /ws HTTP/1.1\r\nhost: g\r\nconnection: upgrade\r\n\
                     upgrade: websocket\r\nsec-websocket-version: 13\r\n\
                     sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    socket.write_all(handshake.as_bytes()).await.unwrap();
    while socket.read_u8().await.unwrap() != b'\n' || !ends_head(&mut socket).await {}
    let (mut reader, mut writer) = socket.split();
    let mut bytes = Vec::new();
    let code = async {
        loop {
            while let Some((first, payload)) = Frames::next(&mut bytes) {
                if first == 0x88 {
                    return u16::from_be_bytes([payload[0], payload[1]]);
                }
            }
            assert!(reader.read_buf(&mut bytes).await.unwrap() > 0, "no close frame");
        }
    };
    let sending = async {
        let _ = writer.write_all(flood).await;
        std::future::pending::<()>().await;
    };
    let closed = async {
        tokio::select! {
            code = code => code,
            () = sending => 0,
        }
    };
    timeout(PATIENCE, closed).await.expect("a close frame in time")
}

/// Reads one line. Returns whether it is the last line of a head.
async fn ends_head(socket: &mut TcpStream) -> bool {
    let mut next = [0; 2];
    socket.peek(&mut next).await.unwrap();
    if next != *b"\r\n" {
        return false;
    }
    socket.read_exact(&mut next).await.unwrap();
    true
}

#[tokio::test]
async fn floods_of_websocket_frames_close_the_websocket() {
    let (_data, gateway) = start(&SETS).await;
    let fragments =
        |payload: &[u8]| [masked(0x01, payload), masked(0x00, payload).repeat(FLOOD)].concat();
    let in_pieces = [masked(0x01, b""), masked(0x00, b"{}"), masked(0x80, b"")].concat();
    for (what, flood) in [
        ("pings", masked(0x89, b"?").repeat(FLOOD)),
        ("pongs", masked(0x8a, b"").repeat(FLOOD)),
        ("fragments", fragments(b" ")),
        ("empty fragments", fragments(b"")),
        ("messages in empty fragments", in_pieces.repeat(FLOOD)),
    ] {
        assert_eq!(close_code_after(gateway.address, &flood).await, 1008, "{what}");
        expect_response(&gateway).await;
    }
    let line = r#"streamgate_connections_closed_total{protocol="ws",reason="control-rate"} 3"#;
    // The gateway counts the close a moment after the client has read it.
    until(async || {
        let metrics = request(gateway.admin, "GET", "/metrics", "", b"").await;
        metrics.text().contains(line)
    })
    .await;
}
