//! Whose address a client has behind proxies, and that nobody can take
//! another's. One bucket of one token each tells clients apart.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep, timeout};

use crate::support::client::{PATIENCE, Speaks, Stream, request};
use crate::support::{Running, start};

const RATE: &str = "limits.request_rate=1";
const REQUIRED: &str = "server.proxy_protocol=required";

/// A proxy, and one that nobody knows.
const PROXY: &str = "127.0.0.1";
const STRANGER: &str = "127.0.0.2";
const PROXIES: &str = "server.proxies=[\"127.0.0.1\", \"10.0.0.0/8\", \"2001:db8:5::/48\"]";

/// One request: from where, what is ahead of it, and its fields.
#[derive(Clone, Copy)]
struct Asking<'a> {
    from: &'a str,
    ahead: &'a [u8],
    fields: &'a str,
}

const fn with(fields: &str) -> Asking<'_> {
    Asking { from: PROXY, ahead: b"", fields }
}

const fn behind(ahead: &[u8]) -> Asking<'_> {
    Asking { from: PROXY, ahead, fields: "" }
}

async fn connect(from: &str, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(from.parse().unwrap(), 0)).unwrap();
    let socket = socket.connect(to).await.unwrap();
    socket.set_nodelay(true).unwrap();
    socket
}

const GET: &str = "GET /orders HTTP/1.1\r\nhost: g\r\nconnection: close\r\n";

/// The status, over a connection of its own; none where that is closed without
/// an answer.
async fn ask(gateway: &Running, asking: Asking<'_>) -> Option<u16> {
    let mut socket = connect(asking.from, gateway.address).await;
    let head = format!("{GET}{}\r\n", asking.fields);
    // It may be closed before all of it is sent.
    let _ = socket.write_all(&[asking.ahead, head.as_bytes()].concat()).await;
    status(&mut socket).await
}

async fn status(socket: &mut TcpStream) -> Option<u16> {
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, socket.read_to_end(&mut answer)).await.expect("an end in time");
    let text = String::from_utf8_lossy(&answer);
    (!text.is_empty()).then(|| text[9..12].parse().unwrap())
}

/// Two requests share a bucket: within a second of a token's taking there is
/// no other. On a busy machine a second may go by; then it is tried again.
async fn one_client(gateway: &Running, first: Asking<'_>, second: Asking<'_>) {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        let tried = Instant::now();
        let (first, second) = (ask(gateway, first).await, ask(gateway, second).await);
        if first == Some(200) && tried.elapsed() < Duration::from_secs(1) {
            assert_eq!(second, Some(429), "it had a bucket of its own");
            return;
        }
    }
    panic!("no two requests within a second");
}

/// Each has a token of its own; nobody here has asked before.
async fn clients(gateway: &Running, askings: &[Asking<'_>]) {
    for asking in askings {
        let ahead = asking.ahead.escape_ascii();
        assert_eq!(ask(gateway, *asking).await, Some(200), "{ahead} {}", asking.fields);
    }
}

async fn refused(gateway: &Running, reason: &str) -> u64 {
    let metrics = request(gateway.admin, "GET", "/metrics", "", b"").await;
    let name = format!("streamgate_connections_refused_total{{reason=\"{reason}\"}} ");
    let count = metrics.text().lines().find_map(|line| line.strip_prefix(name.as_str()));
    count.map_or(0, |count| count.parse().unwrap())
}

#[tokio::test]
async fn a_field_of_somebody_unknown_is_not_believed() {
    let (_data, gateway) = start(&[RATE, PROXIES]).await;
    let from = |from, fields| Asking { from, ahead: b"", fields };
    let first = from(STRANGER, "x-forwarded-for: 192.0.2.1\r\n");
    one_client(&gateway, first, from(STRANGER, "x-forwarded-for: 192.0.2.2\r\n")).await;
    clients(&gateway, &[with("x-forwarded-for: 192.0.2.1\r\n")]).await;

    let (_data, gateway) = start(&[RATE]).await;
    let first = with("x-forwarded-for: 192.0.2.1\r\n");
    one_client(&gateway, first, with("x-forwarded-for: 192.0.2.2\r\n")).await;

    let (_data, gateway) = start(&[RATE, PROXIES, "server.forwarded=none"]).await;
    one_client(&gateway, first, with("x-forwarded-for: 192.0.2.2\r\n")).await;
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
        // Nobody is named: the last proxy's own.
        ("192.0.2.4, unknown, 10.3.3.3", "192.0.2.5, , 10.3.3.3"),
    ] {
        one_client(&gateway, with(&list(first)), with(&list(second))).await;
    }
    let lines = "x-forwarded-for: 192.0.2.6\r\nX-Forwarded-For: 192.0.2.7\r\n";
    one_client(&gateway, with(lines), with(&list("192.0.2.7"))).await;
    let others = [
        "192.0.2.1, 198.51.100.8",
        "192.0.2.1, 198.51.100.9, 10.1.1.1",
        "2001:db8:0:2::1",
        "192.0.2.1, 10.4.4.4, nonsense, 10.5.5.5",
        "192.0.2.6",
        "192.0.2.1, nonsense",
    ];
    let others = others.map(list);
    clients(&gateway, &others.each_ref().map(|fields| with(fields))).await;
}

#[tokio::test]
async fn forwarded_is_believed_where_it_is_asked_for() {
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
        one_client(&gateway, with(first), with(second)).await;
    }
    let fields = ["forwarded: for=192.0.2.9\r\n", "forwarded: for=\"[2001:db8:0:2::1]\"\r\n"];
    clients(&gateway, &fields.map(with)).await;
}

/// A header of version 2.
fn version_2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    header.extend([0x20 | command, family]);
    header.extend(u16::try_from(block.len()).unwrap().to_be_bytes());
    header.extend(block);
    header
}

/// Addresses of version 2 whose source is `192.0.2.{last}`, and TLVs behind.
fn four(last: u8, tlvs: &[u8]) -> Vec<u8> {
    version_2(1, 0x11, &[&[192, 0, 2, last, 127, 0, 0, 1, 220, 4, 1, 187], tlvs].concat())
}

fn six(network: u8, last: u8) -> Vec<u8> {
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
        (line("192.0.2.2"), four(2, b"")),
        (four(3, b"\x04\0\x01x"), four(3, &[7; 2000])),
        (line_6("2001:db8:0:1::1"), six(1, 2)),
        (line_6("::ffff:192.0.2.4"), four(4, b"")),
        (version_2(0, 0, b""), version_2(0, 0x11, &[1; 12])),
    ] {
        one_client(&gateway, behind(&first), behind(&second)).await;
    }
    let others = [line("192.0.2.9"), four(10, b""), line_6("2001:db8:0:2::1"), six(3, 1)];
    clients(&gateway, &others.each_ref().map(|header| behind(header))).await;
    assert_eq!(refused(&gateway, "proxy-header").await, 0);
    assert_eq!(refused(&gateway, "proxy-untrusted").await, 0);
}

#[tokio::test]
async fn a_header_and_a_field_add_up() {
    let (_data, gateway) = start(&[RATE, PROXIES, REQUIRED]).await;
    let asking = |ahead, fields| Asking { from: PROXY, ahead, fields };
    // Who is named is no proxy: its field is its own.
    let client = b"PROXY TCP4 192.0.2.1 127.0.0.1 1 80\r\n";
    let first = asking(client, "x-forwarded-for: 192.0.2.7\r\n");
    one_client(&gateway, first, asking(client, "x-forwarded-for: 192.0.2.8\r\n")).await;
    // A proxy behind the one with the header.
    let inner = b"PROXY TCP4 10.0.0.2 127.0.0.1 1 80\r\n";
    let other = b"PROXY TCP4 10.0.0.3 127.0.0.1 1 80\r\n";
    let first = asking(inner, "x-forwarded-for: 192.0.2.9\r\n");
    one_client(&gateway, first, asking(other, "x-forwarded-for: 192.0.2.9\r\n")).await;
    clients(&gateway, &[asking(inner, "x-forwarded-for: 192.0.2.8\r\n")]).await;
    // Nobody is named: the proxy itself, whatever the client says.
    let first = asking(b"PROXY UNKNOWN\r\n", "x-forwarded-for: 192.0.2.10\r\n");
    let unspecified = version_2(1, 0, b"");
    one_client(&gateway, first, asking(&unspecified, "x-forwarded-for: 192.0.2.11\r\n")).await;
}

#[tokio::test]
async fn who_has_no_header_to_show_is_closed() {
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
        let status = ask(&gateway, behind(header)).await;
        assert_eq!(status, None, "{}", header.escape_ascii());
        assert_eq!(refused(&gateway, "proxy-header").await, count);
    }
    let good = b"PROXY TCP4 192.0.2.1 127.0.0.1 1 80\r\n";
    let untrusted = Asking { from: STRANGER, ahead: good, fields: "" };
    assert_eq!(ask(&gateway, untrusted).await, None);
    assert_eq!(refused(&gateway, "proxy-untrusted").await, 1);
    assert_eq!(refused(&gateway, "proxy-header").await, 9);
    // A second one is no part of the first, but of a request.
    let twice = ask(&gateway, behind(&[&good[..], good].concat())).await;
    assert_eq!(twice, Some(400));
}

#[tokio::test]
async fn a_header_may_come_in_pieces() {
    let (_data, gateway) = start(&[PROXIES, REQUIRED]).await;
    for header in
        [b"PROXY TCP4 192.0.2.1 127.0.0.1 56324 443\r\n".to_vec(), four(1, b"\x04\0\x01x")]
    {
        let mut socket = connect(PROXY, gateway.address).await;
        for byte in [&header[..], GET.as_bytes(), b"\r\n"].concat() {
            socket.write_all(&[byte]).await.unwrap();
            // A segment of its own, mostly.
            sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(status(&mut socket).await, Some(200));
    }
    let mut socket = connect(PROXY, gateway.address).await;
    socket.write_all(b"PROXY TCP4 192.0.2.1").await.unwrap();
    socket.shutdown().await.unwrap();
    assert_eq!(status(&mut socket).await, None);
    assert_eq!(refused(&gateway, "proxy-header").await, 1);
}

#[tokio::test]
async fn a_header_is_due_in_the_heads_time() {
    let sets = [PROXIES, REQUIRED, "limits.head_timeout=300ms", "limits.idle_timeout=1h"];
    let (_data, gateway) = start(&sets).await;
    let mut silent = connect(PROXY, gateway.address).await;
    assert_eq!(status(&mut silent).await, None);
    assert_eq!(refused(&gateway, "proxy-header").await, 1);

    let mut slow = connect(PROXY, gateway.address).await;
    let begun = Instant::now();
    // A byte now and then does not put it off; all of them would take minutes.
    for byte in four(1, &[0; 4000]) {
        assert!(begun.elapsed() < PATIENCE, "half a header is still there");
        if slow.write_all(&[byte]).await.is_err() {
            break;
        }
        if let Ok(read) = timeout(Duration::from_millis(50), slow.read_u8()).await {
            assert!(read.is_err(), "nothing is said to half a header");
            break;
        }
    }
    assert_eq!(refused(&gateway, "proxy-header").await, 2);

    let mut quiet = connect(PROXY, gateway.address).await;
    quiet.write_all(b"PROXY UNKNOWN\r\n").await.unwrap();
    assert_eq!(status(&mut quiet).await, None);
    assert_eq!(refused(&gateway, "no-request").await, 1);
}

#[tokio::test]
async fn a_head_has_what_its_header_has_left() {
    let sets = [PROXIES, REQUIRED, "limits.head_timeout=1s", "limits.idle_timeout=1h"];
    let (_data, gateway) = start(&sets).await;
    let mut first = connect(PROXY, gateway.address).await;
    sleep(Duration::from_millis(300)).await;
    let mut second = connect(PROXY, gateway.address).await;
    sleep(Duration::from_millis(300)).await;
    // Each of these would be a beginning, were there several deadlines.
    let _ = first.write_all(b"PROXY UNKNOWN\r\n").await;
    let _ = first.write_all(b"GET /orders HTTP/1.1\r\n").await;
    tokio::select! {
        biased;
        status = status(&mut first) => assert_eq!(status, None),
        _ = status(&mut second) => panic!("a connection that came later had less time"),
    }
}

#[tokio::test]
async fn http2_and_streams_come_behind_a_header() {
    let (_data, gateway) = start(&[RATE, PROXIES, REQUIRED]).await;
    let header = four(1, b"");
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
        let asking = hyper::Request::get(uri).body(Empty::<Bytes>::new()).unwrap();
        let answer = timeout(PATIENCE, sender.send_request(asking)).await.unwrap().unwrap();
        serving.abort();
        let second = ask(&gateway, behind(b"PROXY TCP4 192.0.2.1 127.0.0.1 1 80\r\n")).await;
        if answer.status() == 200 && tried.elapsed() < Duration::from_secs(1) {
            assert_eq!(second, Some(429), "the client of HTTP/2 is the client of HTTP/1");
            break;
        }
    }
    let head = "PROXY TCP4 192.0.2.2 127.0.0.1 1 80\r\nGET /orders/events HTTP/1.1\r\nhost: g\r\n\
                accept: text/event-stream\r\n\r\n";
    let mut stream = Stream::open_raw(gateway.address, head, Speaks::Sse).await;
    assert_eq!(stream.next().await.unwrap().1, "stream-open");
}

#[tokio::test]
async fn a_named_address_has_no_more_connections_than_it_may() {
    let sets = [PROXIES, REQUIRED, "limits.max_connections_per_address=1"];
    let (_data, gateway) = start(&sets).await;
    let head = |last: u8| {
        format!(
            "PROXY TCP4 192.0.2.{last} 127.0.0.1 1 80\r\nGET /orders/events HTTP/1.1\r\nhost: g\r\n\r\n"
        )
    };
    let first = Stream::open_raw(gateway.address, &head(1), Speaks::Sse).await;
    let _second = Stream::open_raw(gateway.address, &head(2), Speaks::Sse).await;
    let again = behind(b"PROXY TCP4 192.0.2.1 127.0.0.1 1 80\r\n");
    assert_eq!(ask(&gateway, again).await, Some(429));
    assert_eq!(refused(&gateway, "connections-per-address").await, 1);
    drop(first);
    let until_gone = async { while ask(&gateway, again).await == Some(429) {} };
    timeout(PATIENCE, until_gone).await.expect("room again");

    // Without a header, a proxy's connections are many clients'.
    let (_data, gateway) = start(&[PROXIES, sets[2]]).await;
    let _first = Stream::open(gateway.address, "/orders/events", Speaks::Sse, "").await;
    assert_eq!(ask(&gateway, with("")).await, Some(200));
}

#[tokio::test]
async fn operators_need_no_header() {
    let (_data, gateway) = start(&[PROXIES, REQUIRED]).await;
    assert_eq!(request(gateway.admin, "GET", "/readyz", "", b"").await.status, 200);
    let mut socket = connect(PROXY, gateway.admin).await;
    socket.write_all(format!("PROXY UNKNOWN\r\n{GET}\r\n").as_bytes()).await.unwrap();
    assert_eq!(status(&mut socket).await, Some(400));
}

/// Behind a proxy that speaks HTTP a connection is nobody's own: what is
/// counted are its clients' streams.
#[tokio::test]
async fn a_named_client_has_no_more_streams_than_it_may() {
    let (_data, gateway) = start(&[PROXIES, "limits.max_connections_per_address=1"]).await;
    let of = |client: &str| format!("x-forwarded-for: {client}\r\n");
    let open = async |speaks, client: &str| {
        let target = if speaks == Speaks::WebSocket { "/orders/ws" } else { "/orders/events" };
        Stream::open(gateway.address, target, speaks, &of(client)).await
    };
    let first = open(Speaks::Ndjson, "2001:db8::1").await;
    assert_eq!(first.status, 200);
    assert_eq!(open(Speaks::Ndjson, "2001:db8::2").await.status, 429, "its /64 is one client");
    assert_eq!(open(Speaks::WebSocket, "2001:db8::1").await.status, 429);
    let mut source = open(Speaks::Sse, "2001:db8::1").await;
    assert_eq!(source.status, 200, "an EventSource would never come back from a 429");
    assert_eq!(source.next().await.unwrap().1, "error");
    assert_eq!(refused(&gateway, "connections-per-address").await, 3);
    let other = open(Speaks::WebSocket, "192.0.2.1").await;
    assert_eq!(other.status, 101);
    drop(first);
    let until_gone = async { while open(Speaks::WebSocket, "2001:db8::1").await.status != 101 {} };
    timeout(PATIENCE, until_gone).await.expect("room again");
}
