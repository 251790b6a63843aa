//! `streamgate tail`: follows a stream of events, and connects again after a lost
//! connection.

use std::io::{self, Write};
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, ValueEnum};
use http_body_util::Empty;
use hyper::{Request, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::client::{self, Answer, Backoff, Connection, Error, GatewayUrl, Lines, Silence};
use super::exit::{Exit, Failure};
use crate::event::EventId;

/// Prints the events of a collection, a resource or a topic as they arrive.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  \
    streamgate tail orders\n  \
    streamgate tail orders/order-42 --from earliest --format data\n  \
    streamgate tail events/order-updates --types order-created --count 10\n\n\
    After a lost connection, tail connects again and continues after the last event.\n\
    Standard error has the messages about the stream itself, for example gaps.")]
pub(super) struct Options {
    /// The stream to follow: COLLECTION, COLLECTION/ID or events/TOPIC.
    #[arg(value_name = "STREAM", value_parser = path)]
    path: String,
    #[command(flatten)]
    connection: Connection,
    /// The start of the stream: earliest, now, an event id or an RFC 3339 time. From
    /// an event id, the stream starts with the next event.
    #[arg(long, default_value = "now")]
    from: String,
    /// The event types to print, separated by commas.
    #[arg(long, value_delimiter = ',')]
    types: Vec<String>,
    /// The part of each event to print.
    #[arg(long, value_enum, default_value_t = Format::Ndjson)]
    format: Format,
    /// Ends after this number of events.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Retries a failed connection at most this number of times in a row. Without
    /// it, the number is not limited.
    #[arg(long, value_name = "N")]
    retries: Option<u32>,
    /// Connects again if no complete line (an event or a heartbeat) arrives for this
    /// time. A long line can take longer if its bytes arrive continuously.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    silence: u64,
}

/// The part of an event that is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// The whole event as the gateway sends it.
    Ndjson,
    /// Only the data of the event.
    Data,
}

/// Returns the request path for the argument `stream` of the command line.
fn path(stream: &str) -> Result<String, String> {
    let segments: Vec<&str> = stream.trim_matches('/').split('/').collect();
    let mut path = String::from("/");
    match segments[..] {
        ["events", topic] if !topic.is_empty() => {
            path.push_str("events/");
            client::escape(topic, &mut path);
        }
        [collection] if !collection.is_empty() && collection != "events" => {
            client::escape(collection, &mut path);
            path.push_str("/events");
        }
        [collection, id] if !collection.is_empty() && !id.is_empty() => {
            client::escape(collection, &mut path);
            path.push('/');
            client::escape(id, &mut path);
            path.push_str("/events");
        }
        _ => return Err("write COLLECTION, COLLECTION/ID or events/TOPIC".to_owned()),
    }
    Ok(path)
}

pub(super) fn run(options: &Options) -> Result<(), Failure> {
    let target = options.connection.target()?;
    client::block_on(follow(options, &target, &mut io::stdout()))
}

/// Prints the events of the stream to `out`. Ends when `--count` events are printed,
/// when the reader of `out` closes the pipe, or after an error that a retry cannot
/// solve.
async fn follow(
    options: &Options,
    target: &GatewayUrl,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let mut tail = Tail { options, out, last: None, printed: 0, received: false };
    let mut backoff = Backoff::new(options.retries.unwrap_or(u32::MAX));
    loop {
        let error = match tail.connected(target).await {
            Ok(()) => return Ok(()),
            Err(End::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            Err(End::Output(error)) => {
                return Err(Failure::new(Exit::Runtime, format!("standard output: {error}")));
            }
            Err(End::Stream(error)) => error,
        };
        if std::mem::take(&mut tail.received) {
            backoff.reset();
        }
        if !error.is_transient() {
            return Err(Failure::new(Exit::Runtime, error.to_string()));
        }
        let Some(wait) = backoff.next() else {
            return Err(Failure::new(Exit::Runtime, format!("{error}; no retries left")));
        };
        let wait = error.retry_after().map_or(wait, |after| after + wait);
        super::note(&format!("{error}; connecting again in {:.1} s", wait.as_secs_f64()));
        tokio::time::sleep(wait).await;
    }
}

/// The reason why a connection ended.
enum End {
    Stream(Error),
    Output(io::Error),
}

impl From<Error> for End {
    fn from(error: Error) -> End {
        End::Stream(error)
    }
}

struct Tail<'a, W> {
    options: &'a Options,
    out: &'a mut W,
    /// The last event id that arrived in the stream, in an event or in a control
    /// message.
    last: Option<EventId>,
    printed: u64,
    /// Whether a line was received on this connection.
    received: bool,
}

/// The members of a received JSON line that this command needs.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(default)]
    id: Option<EventIdText>,
    #[serde(rename = "type")]
    event_type: String,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
}

/// An event id, or `None` for a text that is not an event id of the gateway. The
/// stream cannot be resumed from such a text.
struct EventIdText(Option<EventId>);

impl<'de> Deserialize<'de> for EventIdText {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(EventIdText(String::deserialize(deserializer)?.parse().ok()))
    }
}

impl<W: Write> Tail<'_, W> {
    /// Follows the stream on one connection until this connection ends. Returns `Ok`
    /// only if the command is complete, so no further connection is needed.
    async fn connected(&mut self, target: &GatewayUrl) -> Result<(), End> {
        let timeout = Duration::from_secs(self.options.silence);
        let request = self.request(target).map_err(Error::Request)?;
        let answer = tokio::time::timeout(timeout, target.send(request)).await;
        let mut answer: Answer = answer.map_err(|_| Error::Silence(timeout))??;
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::NO_CONTENT => return Ok(()),
            _ => return Err(answer.into_error().await.into()),
        }
        let mut lines = Lines::default();
        let mut silence = Silence::new(timeout);
        loop {
            // timeout_at() polls the timer only if no byte is ready. The check here
            // applies the deadline to a server that always has a byte ready.
            if silence.due() <= Instant::now() {
                return Err(Error::Silence(timeout).into());
            }
            let chunk = tokio::time::timeout_at(silence.due(), answer.chunk()).await;
            let chunk = chunk.map_err(|_| Error::Silence(timeout))?.ok_or(Error::Ended)??;
            silence.record(chunk.len(), false);
            lines.push(&chunk);
            while let Some(line) = lines.next()? {
                silence.record(0, true);
                self.received = true;
                if self.line(&line).map_err(End::Output)? {
                    return Ok(());
                }
            }
            self.out.flush().map_err(End::Output)?;
        }
    }

    fn request(&self, target: &GatewayUrl) -> Result<Request<Empty<Bytes>>, hyper::http::Error> {
        let mut path = self.options.path.clone();
        let mut separator = '?';
        let mut query = |name: &str, value: &str| {
            path.push(separator);
            path.push_str(name);
            path.push('=');
            client::escape(value, &mut path);
            separator = '&';
        };
        if self.last.is_none() {
            query("from", &self.options.from);
        }
        if !self.options.types.is_empty() {
            query("types", &self.options.types.join(","));
        }
        let mut request = target.request("GET", &path).header("accept", "application/x-ndjson");
        if let Some(last) = self.last {
            request = request.header("last-event-id", last.to_string());
        }
        request.body(Empty::new())
    }

    /// Prints the event in a line, or reports the control message in the line on
    /// standard error. Returns whether `--count` events are printed.
    fn line(&mut self, text: &[u8]) -> io::Result<bool> {
        let Ok(line) = serde_json::from_slice::<Line<'_>>(text) else {
            super::note(&format!("ignored a line that is not an event: {}", printable(text)));
            return Ok(false);
        };
        let data = line.data.map_or("null", RawValue::get);
        if is_control(&line.event_type) {
            if !matches!(line.event_type.as_str(), "stream-open" | "heartbeat") {
                super::note(&format!("{}: {}", line.event_type, printable(data.as_bytes())));
            }
        } else {
            match self.options.format {
                Format::Ndjson => self.out.write_all(text)?,
                Format::Data => self.out.write_all(data.as_bytes())?,
            }
            self.out.write_all(b"\n")?;
            self.printed += 1;
        }
        self.last = line.id.and_then(|id| id.0).or(self.last);
        if Some(self.printed) == self.options.count {
            self.out.flush()?;
            return Ok(true);
        }
        Ok(false)
    }
}

/// Returns whether `event_type` is the type of a control message. These types are
/// reserved (`docs/protocol.md#names`), so no event of a log has such a type.
fn is_control(event_type: &str) -> bool {
    crate::event::EventType::new(event_type) == Err(crate::event::InvalidName::Reserved)
}

/// Returns at most 500 characters of a text from the server, for output on a
/// terminal. Control characters are removed, because they can move the cursor.
fn printable(text: &[u8]) -> String {
    String::from_utf8_lossy(text).chars().filter(|c| !c.is_control()).take(500).collect()
}

#[cfg(test)]
mod tests;
