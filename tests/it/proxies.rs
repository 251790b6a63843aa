//! The address of a client behind proxies. No client can use the address of
//! another. The tests distinguish clients by rate limits: each client has its
//! own bucket with one token.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep, timeout};

use crate::support::client::{PATIENCE, Protocol, Stream, request};
use crate::support::{Running, start};

const RATE: &str = "limits.request_rate=1";
const REQUIRED: &str = "server.proxy_protocol=required";

/// The address of a trusted proxy, and the address of an unknown peer.
const PROXY: &str = "127.0.0.1";
const UNKNOWN_PEER: &str = "127.0.0.2";
const PROXIES: &str = "server.proxies=[\"127.0.0.1\", \"10.0.0.0/8\", \"2001:db8:5::/48\"]";

/// One request: its source address, the bytes before its head, and its fields.
#[derive(Clone, Copy)]
struct Attempt<'a> {
    from: &'a str,
    ahead: &'a [u8],
    fields: &'a str,
}

const fn with_fields(fields: &str) -> Attempt<'_> {
    Attempt { from: PROXY, ahead: b"", fields }
}

const fn after_header(ahead: &[u8]) -> Attempt<'_> {
    Attempt { from: PROXY, ahead, fields: "" }
}

async fn connect(from: &str, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(from.parse().unwrap(), 0)).unwrap();
    let socket = socket.connect(to).await.unwrap();
    socket.set_nodelay(true).unwrap();
    socket
}

const GET: &str = "GET /orders HTTP/1.1\r\nhost: g\r\nconnection: close\r\n";

/// Sends a request on a new connection. Returns the status, or `None` if the
/// connection is closed without a response.
async fn send(gateway: &Running, attempt: Attempt<'_>) -> Option<u16> {
    let mut socket = connect(attempt.from, gateway.address).await;
    let head = format!("{GET}{}\r\n", attempt.fields);
    // The gateway may close the connection before the whole request is sent.
    let _ = socket.write_all(&[attempt.ahead, head.as_bytes()].concat()).await;
    status(&mut socket).await
}

async fn status(socket: &mut TcpStream) -> Option<u16> {
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, socket.read_to_end(&mut answer)).await.expect("the end in time");
    let text = String::from_utf8_lossy(&answer);
    (!text.is_empty()).then(|| text[9..12].parse().unwrap())
}

/// Checks that two requests share a bucket. The bucket gets a new token one
/// second after the first request. On a busy machine, the second request may
/// take longer than a second. Then the check is repeated.
async fn expect_one_client(gateway: &Running, first: Attempt<'_>, second: Attempt<'_>) {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        let tried = Instant::now();
        let (first, second) = (send(gateway, first).await, send(gateway, second).await);
        if first == Some(200) && tried.elapsed() < Duration::from_secs(1) {
            assert_eq!(second, Some(429), "the second request used another bucket");
            return;
        }
    }
    panic!("no two requests within a second");
}

/// Checks that each request has its own token. The clients of these requests
/// must be new.
async fn expect_new_clients(gateway: &Running, attempts: &[Attempt<'_>]) {
    for attempt in attempts {
        let ahead = attempt.ahead.escape_ascii();
        assert_eq!(send(gateway, *attempt).await, Some(200), "{ahead} {}", attempt.fields);
    }
}

async fn rejections(gateway: &Running, reason: &str) -> u64 {
    let metrics = request(gateway.admin, "GET", "/metrics", "", b"").await;
    let name = format!("streamgate_connections_refused_total{{reason=\"{reason}\"}} ");
    let count = metrics.text().lines().find_map(|line| line.strip_prefix(name.as_str()));
    count.map_or(0, |count| count.parse().unwrap())
}

#[tokio::test]
async fn the_forwarding_field_of_an_unknown_peer_is_ignored() {
    let (_data, gateway) = start(&[RATE, PROXIES]).await;
    let from = |from, fields| Attempt { from, ahead: b"", fields };
    let first = from(UNKNOWN_PEER, "x-forwarded-for: 192.0.2.1\r\n");
    expect_one_client(&gateway, first, from(UNKNOWN_PEER, "x-forwarded-for: 192.0.2.2\r\n")).await;
    expect_new_clients(&gateway, &[with_fields("x-forwarded-for: 192.0.2.1\r\n")]).await;

    let (_data, gateway) = start(&[RATE]).await;
    let first = with_fields("x-forwarded-for: 192.0.2.1\r\n");
    expect_one_client(&gateway, first, with_fields("x-forwarded-for: 192.0.2.2\r\n")).await;

    let (_data, gateway) = start(&[RATE, PROXIES, "server.forwarded=none"]).await;
    expect_one_client(&gateway, first, with_fields("x-forwarded-for: 192.0.2.2\r\n")).await;
}

#[tokio::test]
async fn the_hop_before_the_last_proxy_is_the_client() {
    let (_data, gateway) = start(&[RATE, PROXIES]).await;
    let list = |text: &str| format!("x-forwarded-for: {text}\r\n");
    for (first, second) in [
        ("192.0.2.1", "192.0.2.1"),
        ("198.51.100.1, 192.0.2.2", "198.51.100.2, 192.0.2.2:8080"),
        ("192.0.2.3, 10.1.1.1", "192.0.2.3,10.2.2.2, 2001:db8:5::1"),
        ("2001:db8:0:1::1", "[2001:db8:0:1:ffff::2]:443, 10.1.1.1"),
        // The field names no client. The request belongs to the last proxy.
        ("192.0.2.4, unknown, 10.3.3.3", "192.0.2.5, , 10.3.3.3"),
    ] {
        expect_one_client(&gateway, with_fields(&list(first)), with_fields(&list(second))).await;
    }
    let lines = "x-forwarded-for: 192.0.2.6\r\nX-Forwarded-For: 192.0.2.7\r\n";
    expect_one_client(&gateway, with_fields(lines), with_fields(&list("192.0.2.7"))).await;
    let others = [
        "192.0.2.1, 198.51.100.8",
        "192.0.2.1, 198.51.100.9, 10.1.1.1",
        "2001:db8:0:2::1",
        "192.0.2.1, 10.4.4.4, nonsense, 10.5.5.5",
        "192.0.2.6",
        "192.0.2.1, nonsense",
    ];
    let others = others.map(list);
    expect_new_clients(&gateway, &others.each_ref().map(|fields| with_fields(fields))).await;
}

#[tokio::test]
async fn the_forwarded_field_is_used_if_it_is_configured() {
    let (_data, gateway) = start(&[RATE, PROXIES, "server.forwarded=forwarded"]).await;
    for (first, second) in [
        ("forwarded: for=192.0.2.1;proto=http\r\n", "Forwarded: For=\"192.0.2.1:8080\"\r\n"),
        (
            "forwarded: for=\"[2001:db8:0:1::1]:4711\"\r\n",
            "forwarded: for=6.6.6.6, by=_a;for=\"[2001:db8:0:1::2]\", for=\"10.1.1.1:_x\"\r\n",
        ),
        (
            "forwarded: for=6.6.6.6;x=\", for=192.0.2.2\r\n",
            "forwarded: for=\"6.6.6.7\r\nforwarded: for=192.0.2.2\r\n",
        ),
        (
            "forwarded: for=192.0.2.1, for=unknown\r\n",
            "forwarded: for=192.0.2.2, for=\"_hidden\"\r\nx-forwarded-for: 192.0.2.9\r\n",
        ),
    ] {
        expect_one_client(&gateway, with_fields(first), with_fields(second)).await;
    }
    let fields = ["forwarded: for=192.0.2.9\r\n", "forwarded: for=\"[2001:db8:0:2::1]\"\r\n"];
    expect_new_clients(&gateway, &fields.map(with_fields)).await;
}

/// Returns a header of version 2.
fn version_2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    header.extend([0x20 | command, family]);
    header.extend(u16::try_from(block.len()).unwrap().to_be_bytes());
    header.extend(block);
    header
}

/// Returns a header of version 2 with the source `192.0.2.{last}` and TLVs after
/// the addresses.
fn ipv4_header(last: u8, tlvs: &[u8]) -> Vec<u8> {
    version_2(1, 0x11, &[&[192, 0, 2, last, 127, 0, 0, 1, 220, 4, 1, 187], tlvs].concat())
}

fn ipv6_header(network: u8, last: u8) -> Vec<u8> {
    let mut block = [0; 36];
    block[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
    (block[7], block[15]) = (network, last);
    version_2(1, 0x21, &block)
}

#[tokio::test]
async fn a_proxy_header_names_the_client() {
    let (_data, gateway) = start(&[RATE, PROXIES, REQUIRED]).await;
    let line = |source: &str| format!("PROXY TCP4 {source} 127.0.0.1 56324 443\r\n").into_bytes();
    let line_6 = |source: &str| format!("PROXY TCP6 {source} ::1 56324 443\r\n").into_bytes();
    for (first, second) in [
        (line("192.0.2.1"), line("192.0.2.1")),
        (line("192.0.2.2"), ipv4_header(2, b"")),
        (ipv4_header(3, b"\x04\0\x01x"), ipv4_header(3, &[7; 2000])),
        (line_6("2001:db8:0:1::1"), ipv6_header(1, 2)),
        (line_6("::ffff:192.0.2.4"), ipv4_header(4, b"")),
        (version_2(0, 0, b""), version_2(0, 0x11, &[1; 12])),
    ] {
        expect_one_client(&gateway, after_header(&first), after_header(&second)).await;
    }
    let others =
        [line("192.0.2.9"), ipv4_header(10, b""), line_6("2001:db8:0:2::1"), ipv6_header(3, 1)];
    expect_new_clients(&gateway, &others.each_ref().map(|header| after_header(header))).await;
    assert_eq!(rejections(&gateway, "proxy-header").await, 0);
    assert_eq!(rejections(&gateway, "proxy-untrusted").await, 0);
}

#[tokio::test]
async fn a_proxy_header_and_a_forwarding_field_are_combined() {
    let (_data, gateway) = start(&[RATE, PROXIES, REQUIRED]).await;
    let attempt = |ahead, fields| Attempt { from: PROXY, ahead, fields };
    // The address in the header is not a proxy, so its field is ignored.
    let client = b"PROXY TCP4 192.0.2.1 127.0.0.1 1 80\r\n";
    let first = attempt(client, "x-forwarded-for: 192.0.2.7\r\n");
    expect_one_client(&gateway, first, attempt(client, "x-forwarded-for: 192.0.2.8\r\n")).await;
    // The address in the header is a second proxy.
    let inner = b"PROXY TCP4 10.0.0.2 127.0.0.1 1 80\r\n";
    let other = b"PROXY TCP4 10.0.0.3 127.0.0.1 1 80\r\n";
    let first = attempt(inner, "x-forwarded-for: 192.0.2.9\r\n");
    expect_one_client(&gateway, first, attempt(other, "x-forwarded-for: 192.0.2.9\r\n")).await;
    expect_new_clients(&gateway, &[attempt(inner, "x-forwarded-for: 192.0.2.8\r\n")]).await;
    // The header names no client. The request belongs to the proxy itself, and
    // the field is ignored.
    let first = attempt(b"PROXY UNKNOWN\r\n", "x-forwarded-for: 192.0.2.10\r\n");
    let unspecified = version_2(1, 0, b"");
    expect_one_client(&gateway, first, attempt(&unspecified, "x-forwarded-for: 192.0.2.11\r\n"))
        .await;
}

#[tokio::test]
async fn a_connection_without_a_valid_proxy_header_is_closed() {
    let (_data, gateway) = start(&[PROXIES, REQUIRED]).await;
    let long_line = format!("PROXY UNKNOWN {:93}\r\n", "");
    let bad: [&[u8]; 9] = [
        b"",
        b"PROXY TCP4 192.0.2.1 127.0.0.1 1 80\n",
        b"PROXY TCP4 192.0.2.256 127.0.0.1 1 80\r\n",
        b"PROXY TCP5 192.0.2.1 127.0.0.1 1 80\r\n",
        long_line.as_bytes(),
        &version_2(2, 0x11, &[0; 12]),
        &version_2(1, 0x41, &[0; 12]),
        &version_2(1, 0x11, &[0; 11]),
        &version_2(1, 0x11, &[0; 4081]),
    ];
    for (count, header) in (1..).zip(bad) {
        let status = send(&gateway, after_header(header)).await;
        assert_eq!(status, None, "{}", header.escape_ascii());
        assert_eq!(rejections(&gateway, "proxy-header").await, count);
    }
    let good = b"PROXY TCP4 192.0.2.1 127.0.0.1 1 80\r\n";
    let untrusted = Attempt { from: UNKNOWN_PEER, ahead: good, fields: "" };
    assert_eq!(send(&gateway, untrusted).await, None);
    assert_eq!(rejections(&gateway, "proxy-untrusted").await, 1);
    assert_eq!(rejections(&gateway, "proxy-header").await, 9);
    // A second header is not part of the first. It is read as a request.
    let twice = send(&gateway, after_header(&[&good[..], good].concat())).await;
    assert_eq!(twice, Some(400));
}

#[tokio::test]
async fn a_proxy_header_may_arrive_in_pieces() {
    let (_data, gateway) = start(&[PROXIES, REQUIRED]).await;
    for header in
        [b"PROXY TCP4 192.0.2.1 127.0.0.1 56324 443\r\n".to_vec(), ipv4_header(1, b"\x04\0\x01x")]
    {
        let mut socket = connect(PROXY, gateway.address).await;
        for byte in [&header[..], GET.as_bytes(), b"\r\n"].concat() {
            socket.write_all(&[byte]).await.unwrap();
            // Each byte mostly has its own TCP segment.
            sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(status(&mut socket).await, Some(200));
    }
    let mut socket = connect(PROXY, gateway.address).await;
    socket.write_all(b"PROXY TCP4 192.0.2.1").await.unwrap();
    socket.shutdown().await.unwrap();
    assert_eq!(status(&mut socket).await, None);
    assert_eq!(rejections(&gateway, "proxy-header").await, 1);
}

#[tokio::test]
async fn the_head_deadline_applies_to_a_proxy_header() {
    let sets = [PROXIES, REQUIRED, "limits.head_timeout=300ms", "limits.idle_timeout=1h"];
    let (_data, gateway) = start(&sets).await;
    let mut silent = connect(PROXY, gateway.address).await;
    assert_eq!(status(&mut silent).await, None);
    assert_eq!(rejections(&gateway, "proxy-header").await, 1);

    let mut slow = connect(PROXY, gateway.address).await;
    let begun = Instant::now();
    // A byte from time to time does not extend the deadline. All bytes would
    // take minutes.
    for byte in ipv4_header(1, &[0; 4000]) {
        assert!(
            begun.elapsed() < PATIENCE,
            "the connection with the incomplete header is still open"
        );
        if slow.write_all(&[byte]).await.is_err() {
            break;
        }
        if let Ok(read) = timeout(Duration::from_millis(50), slow.read_u8()).await {
            assert!(read.is_err(), "an incomplete header gets no response");
            break;
        }
    }
    assert_eq!(rejections(&gateway, "proxy-header").await, 2);

    let mut quiet = connect(PROXY, gateway.address).await;
    quiet.write_all(b"PROXY UNKNOWN\r\n").await.unwrap();
    assert_eq!(status(&mut quiet).await, None);
    assert_eq!(rejections(&gateway, "no-request").await, 1);
}

#[tokio::test]
async fn a_proxy_header_and_a_head_share_one_deadline() {
    let sets = [PROXIES, REQUIRED, "limits.head_timeout=1s", "limits.idle_timeout=1h"];
    let (_data, gateway) = start(&sets).await;
    let mut first = connect(PROXY, gateway.address).await;
    sleep(Duration::from_millis(300)).await;
    let mut second = connect(PROXY, gateway.address).await;
    sleep(Duration::from_millis(300)).await;
    // If there were several deadlines, each of these writes would start a new one.
    let _ = first.write_all(b"PROXY UNKNOWN\r\n").await;
    let _ = first.write_all(b"GET /orders HTTP/1.1\r\n").await;
    tokio::select! {
        biased;
        status = status(&mut first) => assert_eq!(status, None),
        _ = status(&mut second) => panic!("the later connection had less time"),
    }
}

#[tokio::test]
async fn http2_and_streams_work_after_a_proxy_header() {
    let (_data, gateway) = start(&[RATE, PROXIES, REQUIRED]).await;
    let header = ipv4_header(1, b"");
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < PATIENCE, "no two requests within a second");
        let tried = Instant::now();
        let mut socket = connect(PROXY, gateway.address).await;
        socket.write_all(&header).await.unwrap();
        let io = TokioIo::new(socket);
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
        let serving = tokio::spawn(connection);
        let uri = format!("http://{}/orders", gateway.address);
        let attempt = hyper::Request::get(uri).body(Empty::<Bytes>::new()).unwrap();
        let answer = timeout(PATIENCE, sender.send_request(attempt)).await.unwrap().unwrap();
        serving.abort();
        let second = send(&gateway, after_header(b"PROXY TCP4 192.0.2.1 127.0.0.1 1 80\r\n")).await;
        if answer.status() == 200 && tried.elapsed() < Duration::from_secs(1) {
            assert_eq!(second, Some(429), "the client over HTTP/2 is the same as over HTTP/1.1");
            break;
        }
    }
    let head = "PROXY TCP4 192.0.2.2 127.0.0.1 1 80\r\nGET /orders/events HTTP/1.1\r\nhost: g\r\n\
                accept: text/event-stream\r\n\r\n";
    let mut stream = Stream::open_raw(gateway.address, head, Protocol::Sse).await;
    assert_eq!(stream.next().await.unwrap().1, "stream-open");
}

#[tokio::test]
async fn the_connections_of_an_address_in_a_proxy_header_are_limited() {
    let sets = [PROXIES, REQUIRED, "limits.max_connections_per_address=1"];
    let (_data, gateway) = start(&sets).await;
    let head = |last: u8| {
        format!(
            "PROXY TCP4 192.0.2.{last} 127.0.0.1 1 80\r\nGET /orders/events HTTP/1.1\r\nhost: g\r\n\r\n"
        )
    };
    let first = Stream::open_raw(gateway.address, &head(1), Protocol::Sse).await;
    let _second = Stream::open_raw(gateway.address, &head(2), Protocol::Sse).await;
    let again = after_header(b"PROXY TCP4 192.0.2.1 127.0.0.1 1 80\r\n");
    assert_eq!(send(&gateway, again).await, Some(429));
    assert_eq!(rejections(&gateway, "connections-per-address").await, 1);
    drop(first);
    let until_gone = async { while send(&gateway, again).await == Some(429) {} };
    timeout(PATIENCE, until_gone).await.expect("the connection is accepted again");

    // Without a header, the connections of a proxy belong to many clients.
    let (_data, gateway) = start(&[PROXIES, sets[2]]).await;
    let _first = Stream::open(gateway.address, "/orders/events", Protocol::Sse, "").await;
    assert_eq!(send(&gateway, with_fields("")).await, Some(200));
}

#[tokio::test]
async fn the_admin_listener_needs_no_proxy_header() {
    let (_data, gateway) = start(&[PROXIES, REQUIRED]).await;
    assert_eq!(request(gateway.admin, "GET", "/readyz", "", b"").await.status, 200);
    let mut socket = connect(PROXY, gateway.admin).await;
    socket.write_all(format!("PROXY UNKNOWN\r\n{GET}\r\n").as_bytes()).await.unwrap();
    assert_eq!(status(&mut socket).await, Some(400));
}

/// A connection of an HTTP proxy belongs to many clients. The gateway therefore
/// counts the streams of each client.
#[tokio::test]
async fn the_streams_of_a_client_behind_a_proxy_are_limited() {
    let (_data, gateway) = start(&[PROXIES, "limits.max_connections_per_address=1"]).await;
    let of = |client: &str| format!("x-forwarded-for: {client}\r\n");
    let open = async |protocol, client: &str| {
        let target = if protocol == Protocol::WebSocket { "/orders/ws" } else { "/orders/events" };
        Stream::open(gateway.address, target, protocol, &of(client)).await
    };
    let first = open(Protocol::Ndjson, "2001:db8::1").await;
    assert_eq!(first.status, 200);
    assert_eq!(
        open(Protocol::Ndjson, "2001:db8::2").await.status,
        429,
        "a /64 network is one client"
    );
    assert_eq!(open(Protocol::WebSocket, "2001:db8::1").await.status, 429);
    let mut source = open(Protocol::Sse, "2001:db8::1").await;
    assert_eq!(source.status, 200, "an EventSource would not reconnect after a 429");
    assert_eq!(source.next().await.unwrap().1, "error");
    assert_eq!(rejections(&gateway, "connections-per-address").await, 3);
    let other = open(Protocol::WebSocket, "192.0.2.1").await;
    assert_eq!(other.status, 101);
    drop(first);
    let until_gone =
        async { while open(Protocol::WebSocket, "2001:db8::1").await.status != 101 {} };
    timeout(PATIENCE, until_gone).await.expect("the stream is accepted again");
}
