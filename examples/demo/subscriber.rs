//! Subscribers to the collection and the topic, one for each protocol.

use std::borrow::Cow;
use std::net::{SocketAddr, TcpStream};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde::Deserialize;
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::{self, Message, WebSocket};

use crate::DemoError;
use crate::client::ApiConnection;
use crate::script::Script;

/// The longest time without a byte. The gateway sends a heartbeat every 15 s.
const SILENCE_MAX: Duration = Duration::from_mins(1);

/// The protocol of a subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// Server-Sent Events, with a connection for each log.
    Sse,
    /// NDJSON, with a connection for each log.
    Ndjson,
    /// One WebSocket with two subscriptions.
    WebSocket,
}

impl Protocol {
    /// All protocols.
    pub const ALL: [Protocol; 3] = [Protocol::Sse, Protocol::Ndjson, Protocol::WebSocket];

    /// Returns the name for output.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Sse => "SSE",
            Protocol::Ndjson => "NDJSON",
            Protocol::WebSocket => "WebSocket",
        }
    }
}

/// The id of an event, and the time of its arrival.
pub type ReceivedEvent = (String, Instant);

/// The events that one subscriber received until the gateway ended its streams:
/// of the collection, and of the topic.
pub struct ReceivedEvents {
    /// The protocol.
    pub protocol: Protocol,
    /// The events of each log.
    pub logs: [Vec<ReceivedEvent>; 2],
}

/// The number of events that each subscriber has received so far.
pub struct DeliveryCounters(Arc<watch::Sender<Vec<usize>>>);

impl DeliveryCounters {
    /// Creates one counter per subscriber.
    pub fn new(subscribers: usize) -> DeliveryCounters {
        DeliveryCounters(Arc::new(watch::Sender::new(vec![0; subscribers])))
    }

    /// Returns the counter of one subscriber.
    pub fn counter(&self, at: usize) -> DeliveryCounter {
        DeliveryCounter(self.0.clone(), at)
    }

    /// Returns the counts.
    pub fn counts(&self) -> Vec<usize> {
        self.0.borrow().clone()
    }

    /// Waits until each subscriber has received at least `count` events.
    pub async fn reach(&self, count: usize) {
        let all = |counts: &Vec<usize>| counts.iter().all(|&received| received >= count);
        // The sender lives as long as this value, so this cannot fail.
        let _ = self.0.subscribe().wait_for(all).await;
    }
}

/// Counts the events of one subscriber.
#[derive(Clone)]
pub struct DeliveryCounter(Arc<watch::Sender<Vec<usize>>>, usize);

impl DeliveryCounter {
    fn count(&self) {
        self.0.send_modify(|counts| counts[self.1] += 1);
    }
}

type ReadTask = Pin<Box<dyn Future<Output = Result<ReceivedEvents, DemoError>> + Send>>;

/// Subscribes. The returned task reads until the gateway ends the streams.
/// Every event after this function returns is among the events of the task.
pub async fn follow(
    protocol: Protocol,
    address: SocketAddr,
    script: &Script,
    counter: DeliveryCounter,
) -> Result<ReadTask, DemoError> {
    let paths = [format!("/{}/events", script.collection), format!("/events/{}", script.topic)];
    let names = [script.collection.clone(), script.topic.clone()];
    let accept = match protocol {
        Protocol::Sse => "text/event-stream",
        Protocol::Ndjson => "application/x-ndjson",
        Protocol::WebSocket => {
            let opened = tokio::task::spawn_blocking(move || open_socket(address, &names));
            let mut socket = opened.await??;
            let names = [script.collection.clone(), script.topic.clone()];
            return Ok(Box::pin(async move {
                let read = move || read_socket(&mut socket, &names, &counter);
                let logs = tokio::task::spawn_blocking(read).await??;
                Ok(ReceivedEvents { protocol, logs })
            }));
        }
    };
    let first = ApiConnection::open(address).await?.stream(&paths[0], accept, None).await?;
    let second = ApiConnection::open(address).await?.stream(&paths[1], accept, None).await?;
    let read = move |body: Incoming| {
        let mut stream = Stream::new(body, protocol);
        let counter = counter.clone();
        async move { stream.read_to_end(&counter).await }
    };
    Ok(Box::pin(async move {
        let (first, second) = tokio::try_join!(read(first.into_body()), read(second.into_body()))?;
        Ok(ReceivedEvents { protocol, logs: [first, second] })
    }))
}

/// Resumes the collection after the event `after`. Returns the ids of the
/// events that follow, up to `last`.
pub async fn resume(
    address: SocketAddr,
    script: &Script,
    after: &str,
    last: &str,
) -> Result<Vec<String>, DemoError> {
    let path = format!("/{}/events", script.collection);
    let mut connection = ApiConnection::open(address).await?;
    let answer = connection.stream(&path, "text/event-stream", Some(after)).await?;
    let mut stream = Stream::new(answer.into_body(), Protocol::Sse);
    let mut ids = Vec::new();
    while ids.last().is_none_or(|id| id != last) {
        match stream.next().await? {
            StreamItem::Event(id) => ids.push(id),
            StreamItem::Closed => return Err("the resumed stream ended".into()),
        }
    }
    Ok(ids)
}

/// An item of a stream.
enum StreamItem {
    /// An event, by its id.
    Event(String),
    /// The end of the stream.
    Closed,
}

/// A stream of events over HTTP.
struct Stream {
    lines: LineReader,
    protocol: Protocol,
}

impl Stream {
    fn new(body: Incoming, protocol: Protocol) -> Stream {
        Stream { lines: LineReader { body, buffer: BytesMut::new(), scanned: 0 }, protocol }
    }

    async fn read_to_end(
        &mut self,
        counter: &DeliveryCounter,
    ) -> Result<Vec<ReceivedEvent>, DemoError> {
        let mut seen = Vec::new();
        while let StreamItem::Event(id) = self.next().await? {
            seen.push((id, Instant::now()));
            counter.count();
        }
        Ok(seen)
    }

    async fn next(&mut self) -> Result<StreamItem, DemoError> {
        loop {
            let (kind, id) = match self.protocol {
                Protocol::Sse => self.block().await?,
                _ => self.line().await?,
            };
            if let Some(next) = classify(&kind, id)? {
                return Ok(next);
            }
        }
    }

    /// Reads one block of SSE and returns its `event` and `id`.
    async fn block(&mut self) -> Result<(String, Option<String>), DemoError> {
        let (mut kind, mut id) = (String::new(), None);
        loop {
            let line = self.lines.next().await?;
            let line = str::from_utf8(&line)?;
            match line.split_once(": ") {
                Some(("event", value)) => value.clone_into(&mut kind),
                Some(("id", value)) => id = Some(value.to_owned()),
                _ if line.is_empty() => return Ok((kind, id)),
                _ => {}
            }
        }
    }

    /// Reads one line of NDJSON and returns its `type` and `id`.
    async fn line(&mut self) -> Result<(String, Option<String>), DemoError> {
        #[derive(Deserialize)]
        struct Line {
            r#type: String,
            id: Option<String>,
        }
        let line: Line = serde_json::from_slice(&self.lines.next().await?)?;
        Ok((line.r#type, line.id))
    }
}

/// Returns an event or the end. `None` for an opening or a heartbeat.
fn classify(kind: &str, id: Option<String>) -> Result<Option<StreamItem>, DemoError> {
    match kind {
        "stream-open" | "heartbeat" => Ok(None),
        "stream-close" => Ok(Some(StreamItem::Closed)),
        "gap" | "error" => Err(format!("the stream sent an unexpected {kind}").into()),
        _ => {
            Ok(Some(StreamItem::Event(id.ok_or_else(|| format!("an event {kind} without an id"))?)))
        }
    }
}

/// The lines of a body.
struct LineReader {
    body: Incoming,
    buffer: BytesMut,
    scanned: usize,
}

impl LineReader {
    async fn next(&mut self) -> Result<Bytes, DemoError> {
        loop {
            let end = self.buffer[self.scanned..].iter().position(|&b| b == b'\n');
            if let Some(end) = end {
                let line = self.buffer.split_to(self.scanned + end + 1).freeze();
                self.scanned = 0;
                return Ok(line.slice(..line.len() - 1));
            }
            self.scanned = self.buffer.len();
            let frame = tokio::time::timeout(SILENCE_MAX, self.body.frame()).await?;
            let frame = frame.ok_or("the stream ended without a stream-close")??;
            self.buffer.extend_from_slice(frame.data_ref().unwrap_or(&Bytes::new()));
        }
    }
}

/// Connects, subscribes to a collection and a topic, and waits for both
/// responses.
fn open_socket(
    address: SocketAddr,
    names: &[String; 2],
) -> Result<WebSocket<TcpStream>, DemoError> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    let (mut socket, _) = tungstenite::client(format!("ws://{address}/ws"), stream)
        .map_err(|error| error.to_string())?;
    for (kind, name) in ["collection", "topic"].into_iter().zip(names) {
        let data = format!("{{\"command\":\"subscribe\",\"{kind}\":\"{name}\"}}");
        let command = format!("{{\"id\":\"{kind}\",\"type\":\"command\",\"data\":{data}}}");
        socket.send(Message::text(command))?;
        let answer = socket.read()?.into_text()?;
        let answer: Envelope = serde_json::from_str(&answer)?;
        if answer.r#type != "response" {
            return Err(
                format!("the response to subscribe has the type {:?}", answer.r#type).into()
            );
        }
    }
    Ok(socket)
}

/// A message of the gateway.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    #[serde(borrow, default)]
    data: MessageData<'a>,
}

/// The members of a message's data that the demo needs.
#[derive(Default, Deserialize)]
struct MessageData<'a> {
    #[serde(borrow)]
    collection: Option<Cow<'a, str>>,
    #[serde(borrow)]
    topic: Option<Cow<'a, str>>,
    #[serde(borrow)]
    r#type: Option<Cow<'a, str>>,
}

/// Reads until the gateway closes the socket with 1012, which must follow a
/// `stream-close`.
fn read_socket(
    socket: &mut WebSocket<TcpStream>,
    names: &[String; 2],
    counter: &DeliveryCounter,
) -> Result<[Vec<ReceivedEvent>; 2], DemoError> {
    let mut logs = [Vec::new(), Vec::new()];
    let mut has_close_reason = false;
    loop {
        let text = match socket.read()? {
            Message::Text(text) => text,
            Message::Close(Some(frame)) if has_close_reason && u16::from(frame.code) == 1012 => {
                return Ok(logs);
            }
            Message::Close(frame) => {
                return Err(format!("the socket was closed too early: {frame:?}").into());
            }
            _ => continue,
        };
        let message: Envelope = serde_json::from_str(&text)?;
        let kind = message.data.r#type.as_deref().unwrap_or_default();
        match (message.r#type.as_ref(), kind) {
            ("event", _) => {
                let from = [message.data.collection, message.data.topic];
                let log = from
                    .iter()
                    .zip(names)
                    .position(|(from, name)| from.as_deref().is_some_and(|from| from == name));
                let log = log.ok_or("an event of another log")?;
                logs[log].push((message.id.into_owned(), Instant::now()));
                counter.count();
            }
            ("control", "stream-close") => has_close_reason = true,
            (message, kind) => {
                return Err(format!("the socket sent an unexpected {message} {kind}").into());
            }
        }
    }
}
