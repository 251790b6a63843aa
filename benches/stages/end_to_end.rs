//! Requests through a real socket to a gateway in this process, one at a time
//! over a keep-alive connection, and an event to a subscriber.
//!
//! Unit: the time of a request, including the time of the client. Budget:
//! 0.08 ms for one resource; half of this is loopback with its two wake-ups.
//! 0.5 ms for an event that is on disk before its response. Also 0.5 ms until
//! the event has arrived at a subscriber, because the gateway writes to its
//! socket at the same time as the response. `cargo bench --bench stages -- end_to_end`

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use criterion::Criterion;
use streamgate::config;
use streamgate::server::{Gateway, GatewayConfig};
use tokio::runtime::Runtime;

/// The timeout for a response.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Runs the benchmarks of this file.
pub fn end_to_end(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime starts");
    let folder = tempfile::tempdir().expect("a folder can be created");
    let gateway = runtime.block_on(Gateway::start(setup(folder.path())));
    let gateway = gateway.expect("the gateway starts");
    let address = gateway.address();
    let mut connection = Connection::open(address);
    let body = format!(r#"{{"id":"r1","text":"{}"}}"#, "x".repeat(230));
    connection.ask(&post("/orders", &body), b"201");
    let mut group = criterion.benchmark_group("end_to_end");
    group.bench_function("GET one resource", |bencher| {
        let request = b"GET /orders/r1 HTTP/1.1\r\nHost: a\r\n\r\n";
        bencher.iter(|| connection.ask(request, b"200"));
    });
    let event = post("/orders/r1/events", r#"{"type":"order-touched","data":{"n":1}}"#);
    group.bench_function("POST one event", |bencher| {
        bencher.iter(|| connection.ask(&event, b"201"));
    });
    let mut subscriber = Connection::open(address);
    let request = b"GET /orders/r1/events HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n";
    subscriber.socket.write_all(request).expect("the gateway reads");
    subscriber.until(b"event: stream-open");
    group.bench_function("POST one event until a subscriber has it", |bencher| {
        bencher.iter(|| {
            connection.ask(&event, b"201");
            subscriber.until(b"event: order-touched");
        });
    });
    group.finish();
    runtime.block_on(gateway.drain()).expect("the gateway ends");
}

fn setup(folder: &Path) -> GatewayConfig {
    let sets = [
        "server.listen=127.0.0.1:0".to_owned(),
        "server.admin_listen=127.0.0.1:0".to_owned(),
        "server.drain=1s".to_owned(),
        format!("storage.path={}", folder.join("data").display()),
    ];
    config::load(None, &sets, std::iter::empty()).expect("the settings are valid")
}

fn post(path: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// A client that reads one response, or up to one event.
struct Connection {
    socket: TcpStream,
    bytes: Vec<u8>,
}

impl Connection {
    fn open(address: SocketAddr) -> Connection {
        let socket = TcpStream::connect(address).expect("the gateway listens");
        socket.set_nodelay(true).expect("the option can be set");
        socket.set_read_timeout(Some(TIMEOUT)).expect("the option can be set");
        Connection { socket, bytes: vec![0; 64 * 1024] }
    }

    /// Sends a request and reads a response with that status, which must arrive
    /// in one read.
    fn ask(&mut self, request: &[u8], status: &[u8]) {
        self.socket.write_all(request).expect("the gateway reads");
        let read = self.socket.read(&mut self.bytes).expect("the gateway answers");
        let answer = &self.bytes[..read];
        let said = String::from_utf8_lossy(answer);
        assert!(answer[b"HTTP/1.1 ".len()..].starts_with(status), "{said}");
        assert!(answer.ends_with(b"}"), "the whole response arrived: {said}");
    }

    /// Reads up to the end of a block that has this line.
    fn until(&mut self, line: &[u8]) {
        let mut said = Vec::new();
        while !(said.windows(line.len()).any(|window| window == line)
            && said.ends_with(b"\n\n\r\n"))
        {
            let read = self.socket.read(&mut self.bytes).expect("the gateway sends it");
            assert!(read > 0, "the stream ended");
            said.extend_from_slice(&self.bytes[..read]);
        }
    }
}
