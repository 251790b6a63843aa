//! `streamgate tail`: follows a stream of events, across cuts.

use std::io::{self, Write};
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, ValueEnum};
use http_body_util::Empty;
use hyper::{Request, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::client::{self, Answer, Backoff, Connection, Error, Lines, Silence, Target};
use super::exit::{Exit, Failure};
use crate::event::EventId;

/// Prints the events of a collection, a resource or a topic as they come.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  \
    streamgate tail orders\n  \
    streamgate tail orders/order-42 --from earliest --format data\n  \
    streamgate tail events/order-updates --types order-created --count 10\n\n\
    A cut connection is made again after the last event that came. What the\n\
    gateway says about the stream itself goes to standard error.")]
pub(super) struct Options {
    /// What to follow: a collection, COLLECTION/ID or events/TOPIC.
    #[arg(value_name = "STREAM", value_parser = path)]
    path: String,
    #[command(flatten)]
    connection: Connection,
    /// Where to start: earliest, now, an event id (what follows it) or an
    /// RFC 3339 time.
    #[arg(long, default_value = "now")]
    from: String,
    /// The types to print, with commas between.
    #[arg(long, value_delimiter = ',')]
    types: Vec<String>,
    /// What of each event is printed.
    #[arg(long, value_enum, default_value_t = Format::Ndjson)]
    format: Format,
    /// Ends after so many events.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Gives up after so many failures to connect in a row; without it, never.
    #[arg(long, value_name = "N")]
    retries: Option<u32>,
    /// Connects again when no whole line, not even a heartbeat, came for so long.
    /// A long line may take longer while its bytes keep coming.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    silence: u64,
}

/// What of an event is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// The event as the gateway sends it.
    Ndjson,
    /// Its data alone.
    Data,
}

/// The path of what is followed.
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
        _ => return Err("name a collection, COLLECTION/ID or events/TOPIC".to_owned()),
    }
    Ok(path)
}

pub(super) fn run(options: &Options) -> Result<(), Failure> {
    let target = options.connection.target()?;
    client::block_on(follow(options, &target, &mut io::stdout()))
}

/// Follows until the count is reached, the reader has gone or the stream has
/// ended for good.
async fn follow(options: &Options, target: &Target, out: &mut impl Write) -> Result<(), Failure> {
    let mut tail = Tail { options, out, last: None, printed: 0, heard: false };
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
        if std::mem::take(&mut tail.heard) {
            backoff.reset();
        }
        if !error.is_passing() {
            return Err(Failure::new(Exit::Runtime, error.to_string()));
        }
        let Some(wait) = backoff.next() else {
            return Err(Failure::new(Exit::Runtime, format!("{error}; given up")));
        };
        let wait = error.after().map_or(wait, |after| after + wait);
        super::note(&format!("{error}; connecting again in {:.1} s", wait.as_secs_f64()));
        tokio::time::sleep(wait).await;
    }
}

/// Why a connection has ended.
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
    /// How far the stream has come: of an event, a heartbeat or its opening.
    last: Option<EventId>,
    printed: u64,
    /// Whether this connection has said anything.
    heard: bool,
}

/// What a line says, so far as following it needs.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(default)]
    id: Option<EventIdText>,
    #[serde(rename = "type")]
    kind: String,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
}

/// An id that is none of ours is no place to come back to.
struct EventIdText(Option<EventId>);

impl<'de> Deserialize<'de> for EventIdText {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(EventIdText(String::deserialize(deserializer)?.parse().ok()))
    }
}

impl<W: Write> Tail<'_, W> {
    /// One connection, to its end; well only where nothing more is to come.
    async fn connected(&mut self, target: &Target) -> Result<(), End> {
        let silence = Duration::from_secs(self.options.silence);
        let request = self.request(target).map_err(Error::Request)?;
        let answer = tokio::time::timeout(silence, target.send(request)).await;
        let mut answer: Answer = answer.map_err(|_| Error::Silence(silence))??;
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::NO_CONTENT => return Ok(()),
            _ => return Err(answer.refusal().await.into()),
        }
        let mut lines = Lines::default();
        let mut silent = Silence::new(silence);
        loop {
            // A server that always has a byte ready would never let the timer
            // have its turn.
            if silent.due() <= Instant::now() {
                return Err(Error::Silence(silence).into());
            }
            let chunk = tokio::time::timeout_at(silent.due(), answer.chunk()).await;
            let chunk = chunk.map_err(|_| Error::Silence(silence))?.ok_or(Error::Ended)??;
            silent.came(chunk.len(), false);
            if !lines.push(&chunk) {
                return Err(Error::Ended.into());
            }
            while let Some(line) = lines.next() {
                silent.came(0, true);
                self.heard = true;
                if self.line(&line).map_err(End::Output)? {
                    return Ok(());
                }
            }
            self.out.flush().map_err(End::Output)?;
        }
    }

    fn request(&self, target: &Target) -> Result<Request<Empty<Bytes>>, hyper::http::Error> {
        let mut path = self.options.path.clone();
        let mut mark = '?';
        let mut query = |name: &str, value: &str| {
            path.push(mark);
            path.push_str(name);
            path.push('=');
            client::escape(value, &mut path);
            mark = '&';
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

    /// Takes a line in; true when it was the last one asked for.
    fn line(&mut self, text: &[u8]) -> io::Result<bool> {
        let Ok(line) = serde_json::from_slice::<Line<'_>>(text) else {
            super::note(&format!("a line that is no event: {}", printable(text)));
            return Ok(false);
        };
        let data = line.data.map_or("null", RawValue::get);
        if is_notice(&line.kind) {
            if !matches!(line.kind.as_str(), "stream-open" | "heartbeat") {
                super::note(&format!("{}: {}", line.kind, printable(data.as_bytes())));
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

/// Whether a type is one that the gateway itself uses
/// (`docs/protocol.md#names`), which no event of a log has.
fn is_notice(kind: &str) -> bool {
    crate::event::EventType::new(kind) == Err(crate::event::BadName::Reserved)
}

/// Text of a server's for a terminal: short, and without what moves a cursor.
fn printable(text: &[u8]) -> String {
    String::from_utf8_lossy(text).chars().filter(|c| !c.is_control()).take(500).collect()
}

#[cfg(test)]
mod tests;
