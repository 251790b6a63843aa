//! The socket of one subscriber: its request, the head of the response, and its
//! events.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use memchr::memmem;
use serde::Deserialize;
use socket2::{Domain, Socket, Type};

use crate::clock;
use crate::delivery_stats::{DeliveryStats, StreamEnd, SubscriberProgress};
use crate::framing::{self, ChunkDecoder, PayloadDecoder};
use crate::nats::{self, ServerMessage};

/// The most subscribers of one source address. The kernel has about 28,000
/// ephemeral ports for each pair of addresses.
const PER_ADDRESS: usize = 20_000;

/// The timeout of a connect over loopback.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The most bytes of a response head.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// A partial event of more bytes is kept in place while it grows. Copying
/// megabytes with each read would cost too much.
const LONG_BYTES: usize = 64 * 1024;

/// The protocol of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Server-Sent Events.
    Sse,
    /// One JSON object a line.
    Ndjson,
    /// WebSocket.
    Ws,
    /// The NATS protocol in WebSocket frames.
    #[serde(skip)]
    Nats,
}

impl Protocol {
    /// Returns the name in reports.
    pub fn label(self) -> &'static str {
        match self {
            Protocol::Sse => "SSE",
            Protocol::Ndjson => "NDJSON",
            Protocol::Ws | Protocol::Nats => "WebSocket",
        }
    }
}

/// The address, the path and the protocol of a subscription.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// The server.
    pub address: SocketAddr,
    /// The path, with its query.
    pub path: String,
    /// The protocol of the stream.
    pub protocol: Protocol,
    /// The id to resume after. `None` for events from now on.
    pub after: Option<String>,
}

impl Subscription {
    /// Connects and sends the request. Does not wait for the head.
    ///
    /// # Errors
    /// If the connection is refused or times out.
    pub fn subscribe(&self, index: usize) -> io::Result<Subscriber> {
        Subscriber::new(self.connect(index, None)?, self.protocol)
    }

    /// Subscribes again after what `progress` has received, of a log with this
    /// epoch.
    ///
    /// # Errors
    /// If the connection is refused or times out.
    pub fn resume(
        &self,
        index: usize,
        epoch: &str,
        mut progress: SubscriberProgress,
    ) -> io::Result<Subscriber> {
        progress.end = StreamEnd::default();
        let after = Some(format!("{epoch}-{}", progress.offset()));
        let subscription = Subscription { after, ..self.clone() };
        Ok(Subscriber { progress, ..subscription.subscribe(index)? })
    }

    /// Connects and sends the request. Does not wait for the response.
    ///
    /// # Errors
    /// If the connection is refused or times out.
    pub fn connect(&self, index: usize, receive_bytes: Option<usize>) -> io::Result<TcpStream> {
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
            // The example key of RFC 6455 §1.3. A measurement needs no random
            // one.
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
pub struct ReadBuffers {
    bytes: Vec<u8>,
    text: Vec<u8>,
}

impl ReadBuffers {
    /// Creates buffers of 256 KiB.
    pub fn new() -> ReadBuffers {
        ReadBuffers::of(256 * 1024)
    }

    /// Creates buffers that take this many bytes a read.
    pub fn of(bytes: usize) -> ReadBuffers {
        ReadBuffers { bytes: vec![0; bytes], text: Vec::with_capacity(2 * bytes) }
    }
}

/// The outcome of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadOutcome {
    /// The socket has no data now.
    Idle,
    /// Data arrived: events, or a part of one.
    Data,
    /// The head arrived, so the subscription is in place.
    Opened,
    /// The stream has ended.
    Ended,
}

/// The state of a stream.
enum StreamState {
    Head,
    ChunkDecoder(ChunkDecoder),
    /// A body without chunks, up to the end of the connection.
    Plain,
    Frames,
    /// A NATS stream in frames, and whether the server has answered the
    /// subscription.
    Nats(PayloadDecoder, bool),
}

/// One subscriber. Between reads it keeps at most a partial event.
pub struct Subscriber {
    socket: TcpStream,
    protocol: Protocol,
    state: StreamState,
    rest: Vec<u8>,
    progress: SubscriberProgress,
    ended_cleanly: bool,
}

impl Subscriber {
    /// Creates a subscriber from a socket that has [sent its
    /// request](Subscription::connect).
    ///
    /// # Errors
    /// If the socket cannot be made non-blocking.
    pub fn new(socket: TcpStream, protocol: Protocol) -> io::Result<Subscriber> {
        socket.set_nonblocking(true)?;
        let (state, rest, progress) =
            (StreamState::Head, Vec::new(), SubscriberProgress::default());
        Ok(Subscriber { socket, protocol, state, rest, progress, ended_cleanly: false })
    }

    /// Returns the socket, for epoll.
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Returns the protocol of the stream.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Returns what the subscriber has received.
    pub fn progress(&self) -> &SubscriberProgress {
        &self.progress
    }

    /// Returns whether the server ended the stream properly: by the last chunk,
    /// or by a close frame.
    pub fn ended_cleanly(&self) -> bool {
        self.ended_cleanly
    }

    /// Reads once and checks what arrived.
    ///
    /// # Errors
    /// If the server refuses the request, or the stream is malformed.
    pub fn read(
        &mut self,
        buffers: &mut ReadBuffers,
        stats: &mut DeliveryStats,
    ) -> io::Result<ReadOutcome> {
        let ReadBuffers { bytes, text } = buffers;
        let read = match self.socket.read(bytes) {
            Ok(0) => return Ok(ReadOutcome::Ended),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Ok(ReadOutcome::Idle);
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                return Ok(ReadOutcome::Ended);
            }
            Err(error) => return Err(error),
        };
        let bytes = &bytes[..read];
        text.clear();
        if !matches!(self.state, StreamState::Head) {
            return self.body(bytes, text, stats);
        }
        self.rest.extend_from_slice(bytes);
        let Some(end) = memmem::find(&self.rest, b"\r\n\r\n") else {
            return if self.rest.len() > HEAD_BYTES_MAX {
                Err(refused(&self.rest))
            } else {
                Ok(ReadOutcome::Data)
            };
        };
        let head = std::mem::take(&mut self.rest);
        self.state = match self.protocol {
            Protocol::Ws if head.starts_with(b"HTTP/1.1 101") => StreamState::Frames,
            Protocol::Nats if head.starts_with(b"HTTP/1.1 101") => {
                self.socket.write_all(&framing::control(2, &nats::subscribe()))?;
                StreamState::Nats(PayloadDecoder::START, false)
            }
            Protocol::Sse | Protocol::Ndjson if head.starts_with(b"HTTP/1.1 200") => {
                let head = head[..end].to_ascii_lowercase();
                let is_chunked = memmem::find(&head, b"\r\ntransfer-encoding: chunked").is_some();
                if is_chunked {
                    StreamState::ChunkDecoder(ChunkDecoder::START)
                } else {
                    StreamState::Plain
                }
            }
            _ => return Err(refused(&head)),
        };
        let step = self.body(&head[end + 4..], text, stats)?;
        Ok(if self.protocol == Protocol::Nats { step } else { ReadOutcome::Opened })
    }

    fn body(
        &mut self,
        bytes: &[u8],
        text: &mut Vec<u8>,
        stats: &mut DeliveryStats,
    ) -> io::Result<ReadOutcome> {
        let (now, before) = (clock::now(), stats.deliveries);
        stats.bytes += bytes.len() as u64;
        let is_long = self.rest.len() > LONG_BYTES;
        let mut long = if is_long { std::mem::take(&mut self.rest) } else { Vec::new() };
        text.extend_from_slice(&self.rest);
        let text = if is_long { &mut long } else { text };
        // The part searched before has no end of an event.
        let from = if is_long { text.len() } else { 0 };
        let (mut ended, mut opened) = (false, false);
        let taken = match &mut self.state {
            StreamState::Head => 0,
            StreamState::ChunkDecoder(chunks) => {
                chunks.decode(bytes, text);
                ended = *chunks == ChunkDecoder::End;
                events(self.protocol, text, from, &mut self.progress, stats, now)
            }
            StreamState::Plain => {
                text.extend_from_slice(bytes);
                events(self.protocol, text, from, &mut self.progress, stats, now)
            }
            StreamState::Nats(payloads, is_open) => {
                payloads.decode(bytes, text);
                ended = *payloads == PayloadDecoder::End;
                let (taken, pongs) =
                    messages(&mut self.socket, text, &mut self.progress, stats, now)?;
                opened = pongs > 0 && !std::mem::replace(is_open, true);
                taken
            }
            StreamState::Frames => {
                text.extend_from_slice(bytes);
                let mut taken = 0;
                while let Some(frame) = framing::frame(&text[taken..]) {
                    taken += frame.length;
                    match frame.opcode {
                        1 => stats.record(&mut self.progress, frame.payload, now),
                        8 => {
                            ended = true;
                            self.progress.record_close_frame(frame.payload, now);
                            // The server may already have closed the
                            // connection.
                            let _ = self.socket.write_all(&framing::control(8, frame.payload));
                        }
                        9 => self.socket.write_all(&framing::control(10, frame.payload))?,
                        _ => {}
                    }
                }
                taken
            }
        };
        stats.reads += u64::from(stats.deliveries > before);
        if is_long && taken == 0 {
            self.rest = long;
        } else if taken < text.len() {
            self.rest.clear();
            self.rest.extend_from_slice(&text[taken..]);
        } else if !self.rest.is_empty() {
            self.rest = Vec::new();
        }
        self.ended_cleanly |= ended;
        Ok(match (ended, opened) {
            (true, _) => ReadOutcome::Ended,
            (false, true) => ReadOutcome::Opened,
            (false, false) => ReadOutcome::Data,
        })
    }
}

/// Checks the complete messages in `text`. Returns their length and the number
/// of pongs among them. Answers pings.
fn messages(
    socket: &mut TcpStream,
    text: &[u8],
    progress: &mut SubscriberProgress,
    stats: &mut DeliveryStats,
    now: u64,
) -> io::Result<(usize, usize)> {
    let (mut taken, mut pongs) = (0, 0);
    while let Some((received, length)) = nats::parse(&text[taken..]) {
        match received {
            ServerMessage::Message(payload) => stats.record(progress, payload, now),
            ServerMessage::Pong => pongs += 1,
            ServerMessage::Ping => socket.write_all(&framing::control(2, b"PONG\r\n"))?,
            ServerMessage::Error(error) => return Err(nats::server_error(error)),
            ServerMessage::Other => {}
        }
        taken += length;
    }
    Ok((taken, pongs))
}

/// Checks the complete events in `text`. None of them ends before `from`.
/// Returns their length.
fn events(
    protocol: Protocol,
    text: &[u8],
    mut from: usize,
    progress: &mut SubscriberProgress,
    stats: &mut DeliveryStats,
    now: u64,
) -> usize {
    let mut start = 0;
    while let Some(at) = memchr::memchr(b'\n', &text[from..]) {
        let end = from + at;
        from = end + 1;
        if protocol == Protocol::Ndjson {
            stats.record(progress, &text[start..end], now);
            start = from;
        } else if end == start {
            start = from;
        } else if text[end - 1] == b'\n' {
            stats.record(progress, &text[start..end - 1], now);
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
    fn an_event_may_end_after_the_part_searched_before() {
        let text = b"event: data\ndata:[{\"w\":0,\"s\":0,\"t\":0}]\n\nevent";
        let end = text.len() - "event".len();
        for from in [0, end - 2, end - 1] {
            let (mut progress, mut stats) = (SubscriberProgress::default(), DeliveryStats::new());
            assert_eq!(events(Protocol::Sse, text, from, &mut progress, &mut stats, 1), end);
            assert_eq!(stats.deliveries, 1, "from {from}");
        }
    }

    #[test]
    fn only_complete_events_are_checked() {
        let text = b"retry: 1\nevent: stream-open\ndata: {}\n\nid: a-1\ndata: {\"w\":0,\"s\":0,\"t\":0}\n\nid: a";
        let (mut progress, mut stats) = (SubscriberProgress::default(), DeliveryStats::new());
        let taken = events(Protocol::Sse, text, 0, &mut progress, &mut stats, 1);
        assert_eq!(&text[taken..], b"id: a");
        assert_eq!(stats.deliveries, 1);
        let text = b"{\"id\":\"a-1\",\"data\":{\"w\":0,\"s\":0,\"t\":0}}\n{\"id";
        let (mut progress, mut stats) = (SubscriberProgress::default(), DeliveryStats::new());
        assert_eq!(
            &text[events(Protocol::Ndjson, text, 0, &mut progress, &mut stats, 1)..],
            b"{\"id"
        );
        assert_eq!(stats.deliveries, 1);
    }
}
