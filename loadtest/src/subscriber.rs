//! One subscriber's socket: its request, its head, and its events.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use memchr::memmem;
use serde::Deserialize;
use socket2::{Domain, Socket, Type};

use crate::clock;
use crate::framing::{self, Chunks, Payloads};
use crate::nats::{self, Said};
use crate::tally::{Farewell, Seen, Tally};

/// Subscribers of one source address; the kernel lends about 28,000 ports to
/// each pair of addresses.
const PER_ADDRESS: usize = 20_000;

/// For a connection over loopback.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Most bytes of a response's head.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Half an event of so many bytes stays where it is while it grows: one of
/// megabytes would be copied with each read.
const LONG_BYTES: usize = 64 * 1024;

/// How events come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Server-Sent Events.
    Sse,
    /// A JSON object a line.
    Ndjson,
    /// WebSocket.
    Ws,
    /// NATS's own protocol in WebSocket's.
    #[serde(skip)]
    Nats,
}

impl Protocol {
    /// Its name in reports.
    pub fn label(self) -> &'static str {
        match self {
            Protocol::Sse => "SSE",
            Protocol::Ndjson => "NDJSON",
            Protocol::Ws | Protocol::Nats => "WebSocket",
        }
    }
}

/// Where and how to subscribe.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// The server.
    pub address: SocketAddr,
    /// The path, with its query.
    pub path: String,
    /// How events come.
    pub protocol: Protocol,
    /// The id of the event to go on from; live without one.
    pub after: Option<String>,
}

impl Subscription {
    /// A new subscriber, whose head is not waited for.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn join(&self, index: usize) -> io::Result<Subscriber> {
        Subscriber::new(self.ask(index, None)?, self.protocol)
    }

    /// The same that has `seen` something before, of a log of that epoch.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn rejoin(&self, index: usize, epoch: &str, mut seen: Seen) -> io::Result<Subscriber> {
        seen.farewell = Farewell::default();
        let after = Some(format!("{epoch}-{}", seen.offset()));
        let subscription = Subscription { after, ..self.clone() };
        Ok(Subscriber { seen, ..subscription.join(index)? })
    }

    /// Connects and asks; the answer is not waited for.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn ask(&self, index: usize, receive_bytes: Option<usize>) -> io::Result<TcpStream> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        if let Some(bytes) = receive_bytes {
            socket.set_recv_buffer_size(bytes)?;
        }
        if index >= PER_ADDRESS {
            let from = Ipv4Addr::new(127, 0, 0, 1 + (index / PER_ADDRESS) as u8);
            socket.set_reuse_address(true)?;
            socket.bind(&SocketAddr::new(IpAddr::V4(from), 0).into())?;
        }
        socket.connect_timeout(&self.address.into(), CONNECT_TIMEOUT)?;
        socket.set_tcp_nodelay(true)?;
        let mut stream = TcpStream::from(socket);
        stream.write_all(self.request().as_bytes())?;
        Ok(stream)
    }

    fn request(&self) -> String {
        let Subscription { address, path, protocol, after } = self;
        let form = match protocol {
            Protocol::Sse => "Accept: text/event-stream\r\n",
            Protocol::Ndjson => "Accept: application/x-ndjson\r\n",
            // The key of RFC 6455 §1.3: who measures needs no other.
            Protocol::Ws | Protocol::Nats => {
                "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                 Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            }
        };
        let after = after.as_ref().map(|id| format!("Last-Event-ID: {id}\r\n")).unwrap_or_default();
        format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n{form}{after}\r\n")
    }
}

/// Buffers that all subscribers of a thread share.
pub struct Scratch {
    bytes: Vec<u8>,
    text: Vec<u8>,
}

impl Scratch {
    /// Empty ones.
    pub fn new() -> Scratch {
        Scratch::of(256 * 1024)
    }

    /// Empty ones that take so many bytes a read.
    pub fn of(bytes: usize) -> Scratch {
        Scratch { bytes: vec![0; bytes], text: Vec::with_capacity(2 * bytes) }
    }
}

/// What a read did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// There is nothing to read at the moment.
    Idle,
    /// Events came, or a part of one.
    Went,
    /// The head came: the subscription is in place.
    Opened,
    /// The stream is over.
    Ended,
}

/// Where a stream is.
enum Stage {
    Head,
    Chunks(Chunks),
    /// Events as they are, to the end of the connection.
    Plain,
    Frames,
    /// What frames hold is a stream itself; it begins when a subscription is
    /// answered.
    Nats(Payloads, bool),
}

/// One subscriber. What it holds between reads is half an event at most.
pub struct Subscriber {
    socket: TcpStream,
    protocol: Protocol,
    stage: Stage,
    rest: Vec<u8>,
    seen: Seen,
    is_whole: bool,
}

impl Subscriber {
    /// A subscriber that has [asked](Subscription::ask).
    ///
    /// # Errors
    /// If the socket cannot be made non-blocking.
    pub fn new(socket: TcpStream, protocol: Protocol) -> io::Result<Subscriber> {
        socket.set_nonblocking(true)?;
        let (stage, rest, seen) = (Stage::Head, Vec::new(), Seen::default());
        Ok(Subscriber { socket, protocol, stage, rest, seen, is_whole: false })
    }

    /// Its socket, to be waited for.
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// How its events come.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// What it has seen.
    pub fn seen(&self) -> &Seen {
        &self.seen
    }

    /// Whether its stream came to an end that the server meant: the last
    /// chunk, or a close frame.
    pub fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// Reads once and checks what came.
    ///
    /// # Errors
    /// If the server refused, or spoke something else.
    pub fn read(&mut self, scratch: &mut Scratch, tally: &mut Tally) -> io::Result<Step> {
        let Scratch { bytes, text } = scratch;
        let read = match self.socket.read(bytes) {
            Ok(0) => return Ok(Step::Ended),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Step::Idle),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(Step::Ended),
            Err(error) => return Err(error),
        };
        let bytes = &bytes[..read];
        text.clear();
        if !matches!(self.stage, Stage::Head) {
            return self.body(bytes, text, tally);
        }
        self.rest.extend_from_slice(bytes);
        let Some(end) = memmem::find(&self.rest, b"\r\n\r\n") else {
            return if self.rest.len() > HEAD_BYTES_MAX {
                Err(refused(&self.rest))
            } else {
                Ok(Step::Went)
            };
        };
        let head = std::mem::take(&mut self.rest);
        self.stage = match self.protocol {
            Protocol::Ws if head.starts_with(b"HTTP/1.1 101") => Stage::Frames,
            Protocol::Nats if head.starts_with(b"HTTP/1.1 101") => {
                self.socket.write_all(&framing::control(2, &nats::subscribe()))?;
                Stage::Nats(Payloads::START, false)
            }
            Protocol::Sse | Protocol::Ndjson if head.starts_with(b"HTTP/1.1 200") => {
                let head = head[..end].to_ascii_lowercase();
                let is_chunked = memmem::find(&head, b"\r\ntransfer-encoding: chunked").is_some();
                if is_chunked { Stage::Chunks(Chunks::START) } else { Stage::Plain }
            }
            _ => return Err(refused(&head)),
        };
        let step = self.body(&head[end + 4..], text, tally)?;
        Ok(if self.protocol == Protocol::Nats { step } else { Step::Opened })
    }

    fn body(&mut self, bytes: &[u8], text: &mut Vec<u8>, tally: &mut Tally) -> io::Result<Step> {
        let (now, before) = (clock::now(), tally.deliveries);
        tally.bytes += bytes.len() as u64;
        let is_long = self.rest.len() > LONG_BYTES;
        let mut long = if is_long { std::mem::take(&mut self.rest) } else { Vec::new() };
        text.extend_from_slice(&self.rest);
        let text = if is_long { &mut long } else { text };
        // What has been looked at has no end of an event.
        let from = if is_long { text.len() } else { 0 };
        let (mut ended, mut opened) = (false, false);
        let taken = match &mut self.stage {
            Stage::Head => 0,
            Stage::Chunks(chunks) => {
                chunks.decode(bytes, text);
                ended = *chunks == Chunks::End;
                events(self.protocol, text, from, &mut self.seen, tally, now)
            }
            Stage::Plain => {
                text.extend_from_slice(bytes);
                events(self.protocol, text, from, &mut self.seen, tally, now)
            }
            Stage::Nats(payloads, is_open) => {
                payloads.decode(bytes, text);
                ended = *payloads == Payloads::End;
                let (taken, pongs) = messages(&mut self.socket, text, &mut self.seen, tally, now)?;
                opened = pongs > 0 && !std::mem::replace(is_open, true);
                taken
            }
            Stage::Frames => {
                text.extend_from_slice(bytes);
                let mut taken = 0;
                while let Some(frame) = framing::frame(&text[taken..]) {
                    taken += frame.length;
                    match frame.opcode {
                        1 => tally.take(&mut self.seen, frame.payload, now),
                        8 => {
                            ended = true;
                            self.seen.closed(frame.payload, now);
                            // The server may have gone meanwhile.
                            let _ = self.socket.write_all(&framing::control(8, frame.payload));
                        }
                        9 => self.socket.write_all(&framing::control(10, frame.payload))?,
                        _ => {}
                    }
                }
                taken
            }
        };
        tally.reads += u64::from(tally.deliveries > before);
        if is_long && taken == 0 {
            self.rest = long;
        } else if taken < text.len() {
            self.rest.clear();
            self.rest.extend_from_slice(&text[taken..]);
        } else if !self.rest.is_empty() {
            self.rest = Vec::new();
        }
        self.is_whole |= ended;
        Ok(match (ended, opened) {
            (true, _) => Step::Ended,
            (false, true) => Step::Opened,
            (false, false) => Step::Went,
        })
    }
}

/// Checks the whole messages in `text`, and says how long they are and how
/// many pongs are among them. Pings are answered.
fn messages(
    socket: &mut TcpStream,
    text: &[u8],
    seen: &mut Seen,
    tally: &mut Tally,
    now: u64,
) -> io::Result<(usize, usize)> {
    let (mut taken, mut pongs) = (0, 0);
    while let Some((said, length)) = nats::next(&text[taken..]) {
        match said {
            Said::Message(payload) => tally.take(seen, payload, now),
            Said::Pong => pongs += 1,
            Said::Ping => socket.write_all(&framing::control(2, b"PONG\r\n"))?,
            Said::Error(error) => return Err(nats::refused(error)),
            Said::Other => {}
        }
        taken += length;
    }
    Ok((taken, pongs))
}

/// Checks the whole events in `text`, none of which ends before `from`, and
/// says how long they are.
fn events(
    protocol: Protocol,
    text: &[u8],
    mut from: usize,
    seen: &mut Seen,
    tally: &mut Tally,
    now: u64,
) -> usize {
    let mut start = 0;
    while let Some(at) = memchr::memchr(b'\n', &text[from..]) {
        let end = from + at;
        from = end + 1;
        if protocol == Protocol::Ndjson {
            tally.take(seen, &text[start..end], now);
            start = from;
        } else if end == start {
            start = from;
        } else if text[end - 1] == b'\n' {
            tally.take(seen, &text[start..end - 1], now);
            start = from;
        }
    }
    start
}

fn refused(head: &[u8]) -> io::Error {
    let head = &head[..head.len().min(300)];
    io::Error::other(format!("the server answered {:?}", String::from_utf8_lossy(head)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_may_end_behind_what_was_looked_at() {
        let text = b"event: data\ndata:[{\"w\":0,\"s\":0,\"t\":0}]\n\nevent";
        let end = text.len() - "event".len();
        for from in [0, end - 2, end - 1] {
            let (mut seen, mut tally) = (Seen::default(), Tally::new());
            assert_eq!(events(Protocol::Sse, text, from, &mut seen, &mut tally, 1), end);
            assert_eq!(tally.deliveries, 1, "from {from}");
        }
    }

    #[test]
    fn events_are_whole_ones() {
        let text = b"retry: 1\nevent: stream-open\ndata: {}\n\nid: a-1\ndata: {\"w\":0,\"s\":0,\"t\":0}\n\nid: a";
        let (mut seen, mut tally) = (Seen::default(), Tally::new());
        let taken = events(Protocol::Sse, text, 0, &mut seen, &mut tally, 1);
        assert_eq!(&text[taken..], b"id: a");
        assert_eq!(tally.deliveries, 1);
        let text = b"{\"id\":\"a-1\",\"data\":{\"w\":0,\"s\":0,\"t\":0}}\n{\"id";
        let (mut seen, mut tally) = (Seen::default(), Tally::new());
        assert_eq!(&text[events(Protocol::Ndjson, text, 0, &mut seen, &mut tally, 1)..], b"{\"id");
        assert_eq!(tally.deliveries, 1);
    }
}
