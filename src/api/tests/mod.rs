//! Tests of HTTP answers, with a real store in a temporary directory and a real socket.

mod admin;
mod authorization;
mod batches;
mod events;
mod pages;
mod reads;
mod rejections;
mod resources;
mod snapshots;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::{
    Api, CollectionSettings, ConnectionContext, Peer, Proxies, Routes, Services, Settings,
    SseOverload, TopicSettings, handle,
};
use crate::deliver::{self, HeartbeatFormat};
use crate::event::{EventType, Offset};
use crate::hub::{self, Hub, Overflow};
use crate::log::{self, Engine, StorageKind};
use crate::metrics::Metrics;
use crate::store::Retention;
use crate::supervisor::Supervisor;

/// The longest wait for an answer. After it, the test fails.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// A gateway that serves until it is dropped.
pub(in crate::api) struct Gateway {
    pub(in crate::api) api: Arc<Api>,
    address: SocketAddr,
    serving: JoinHandle<()>,
    _supervisor: Supervisor,
    _directory: TempDir,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// An answer. The body is without the chunked transfer coding.
#[derive(Debug)]
struct Reply {
    status: u16,
    fields: Vec<(String, String)>,
    body: String,
    /// Whether the body is complete.
    complete: bool,
}

impl Reply {
    fn field(&self, name: &str) -> &str {
        let mut values = self.fields.iter().filter(|(other, _)| other == name);
        values.next().map_or("", |(_, value)| value)
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    fn lines(&self) -> Vec<serde_json::Value> {
        self.body.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn settings() -> Settings {
    let (retention, overflow) = (Retention::default(), Overflow::Log);
    let collection = CollectionSettings {
        name: "orders".to_owned(),
        resource: "order".to_owned(),
        retention,
        overflow,
    };
    let topic = |name: &str, of: Option<&str>, types: &[&str]| TopicSettings {
        name: name.to_owned(),
        collection: of.map(str::to_owned),
        types: types.iter().map(|name| EventType::new(name).unwrap()).collect(),
        retention,
        overflow,
        durability: StorageKind::Disk,
    };
    Settings {
        body_bytes_max: 64 * 1024,
        batch_answer_bytes: 64 * 1024,
        body_timeout: Duration::from_secs(10),
        body_rate: 0,
        stall_timeout: Duration::from_secs(10),
        batch_size_max: 100,
        request_rate: 0,
        request_burst: 0,
        publish_rate: 0,
        publish_burst: 0,
        streams_max: [0; 3],
        streams_per_client_max: 0,
        overflow_choices: Vec::new(),
        sse_overload: SseOverload::Retry,
        proxies: Proxies::default(),
        collections: vec![collection],
        topics: vec![
            topic("news", None, &[]),
            topic("order-updates", Some("orders"), &["order-created", "order-updated"]),
        ],
    }
}

impl Gateway {
    pub(in crate::api) async fn start() -> Gateway {
        Gateway::with(settings()).await
    }

    async fn with(settings: Settings) -> Gateway {
        let directory = tempfile::tempdir().unwrap();
        let engine = log::Settings {
            resource_bytes_max: settings.body_bytes_max,
            ..log::Settings::within(directory.path())
        };
        let engine = Arc::new(Engine::open(&engine, &settings.log_configs().unwrap()).unwrap());
        let hub = hub::Settings {
            stall_timeout: settings.stall_timeout,
            ..hub::Settings::of_rings(64, 1 << 16)
        };
        let deliver = deliver::Settings {
            retry: Duration::from_secs(2)..Duration::from_secs(5),
            heartbeat_format: HeartbeatFormat::Event,
            pace: deliver::Pace::default(),
            message_bytes_max: settings.body_bytes_max,
            message_timeout: Duration::from_secs(10),
            control_rate: 0,
        };
        let metrics = Arc::new(Metrics::new());
        let rings = hub.clone();
        let supervisor = Supervisor::new(metrics.clone());
        let hub = Hub::start(&hub, &metrics, &supervisor, 1);
        let services = Arc::new(Services::new(engine, hub, metrics));
        let api = Arc::new(Api::new(settings, deliver, rings, services).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(serve(Arc::clone(&api), listener));
        Gateway { api, address, serving, _supervisor: supervisor, _directory: directory }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends bytes, and reads the answer until the connection ends.
    async fn raw(&self, request: impl AsRef<[u8]>) -> Reply {
        let mut socket = self.connect().await;
        // The gateway may answer and close the connection before it has read all bytes.
        let _ = socket.write_all(request.as_ref()).await;
        finish(socket).await
    }

    /// Sends a request, and reads the answer. `fields` has one header field per line.
    async fn call(&self, line: &str, fields: &str, body: &str) -> Reply {
        self.raw(request(line, fields, body)).await
    }

    async fn get(&self, path: &str) -> Reply {
        self.call(&format!("GET {path}"), "", "").await
    }

    async fn post(&self, path: &str, body: &str) -> Reply {
        self.call(&format!("POST {path}"), JSON, body).await
    }

    fn head(&self, log: &str) -> Offset {
        self.api.engine.log(log).unwrap().head()
    }
}

/// Returns an NDJSON body of `count` lines.
fn lines(count: usize, line: impl Fn(usize) -> String) -> String {
    (0..count).flat_map(|n| [line(n), "\n".to_owned()]).collect()
}

const JSON: &str = "content-type: application/json\r\n";
const NDJSON: &str = "content-type: application/x-ndjson\r\n";

fn request(line: &str, fields: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "{line} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n{fields}\
         content-length: {length}\r\n\r\n{body}"
    )
}

async fn serve(api: Arc<Api>, listener: TcpListener) {
    loop {
        let (socket, peer) = listener.accept().await.unwrap();
        let peer = Peer { address: peer.ip(), believed: false };
        let api = Arc::clone(&api);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let api = Arc::clone(&api);
                let connection = ConnectionContext { peer, takeover: None, flow: None };
                async move { Ok::<_, Infallible>(handle(&Routes::Api, &api, request, connection).await) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(socket), service);
            // Some tests disconnect in the middle of a request; ignore the error.
            let _ = connection.await;
        });
    }
}

/// Reads one answer until the connection ends.
async fn finish(mut socket: TcpStream) -> Reply {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(ANSWER_TIMEOUT, socket.read_to_end(&mut bytes)).await;
    // The bytes before a reset of the connection are the answer; ignore the error.
    let _ = read.expect("no answer in time");
    parse(&bytes)
}

fn parse(bytes: &[u8]) -> Reply {
    let text = str::from_utf8(bytes).unwrap();
    let text = text.strip_prefix("HTTP/1.1 100 Continue\r\n\r\n").unwrap_or(text);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {text:?}"));
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let field = |line: &str| {
        let (name, value) = line.split_once(':').unwrap();
        (name.to_ascii_lowercase(), value.trim().to_owned())
    };
    let fields: Vec<_> = lines.map(field).collect();
    let mut reply = Reply { status, fields, body: body.to_owned(), complete: true };
    if reply.field("transfer-encoding") == "chunked" {
        (reply.body, reply.complete) = unchunk(body);
    }
    reply
}

fn unchunk(mut rest: &str) -> (String, bool) {
    let mut body = String::new();
    while let Some((length, after)) = rest.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).unwrap();
        if length == 0 {
            return (body, true);
        }
        let Some(chunk) = after.get(..length) else { break };
        body.push_str(chunk);
        rest = &after[length + 2..];
    }
    (body, false)
}
