//! A client that writes and reads the bytes of HTTP/1.1 and WebSocket without a
//! library. Each read has a deadline.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::frame::{Chunks, Frames};

/// The longest wait for bytes that must arrive.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A complete response.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> &str {
        str::from_utf8(&self.body).unwrap()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    /// Returns the value of a header field. `name` is in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

/// Sends one request on a new connection and reads the complete response.
pub async fn request(
    address: SocketAddr,
    method: &str,
    target: &str,
    headers: &str,
    body: &[u8],
) -> Answer {
    let length = body.len();
    let mut bytes = format!(
        "{method} {target} HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n"
    )
    .into_bytes();
    bytes.extend_from_slice(body);
    raw(address, &bytes).await
}

/// Sends `bytes` on a new connection and reads until the gateway closes it.
pub async fn raw(address: SocketAddr, bytes: &[u8]) -> Answer {
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(bytes).await.unwrap();
    let mut all = Vec::new();
    timeout(PATIENCE, socket.read_to_end(&mut all)).await.expect("a response in time").unwrap();
    let end =
        head_end(&all).unwrap_or_else(|| panic!("no head in {:?}", String::from_utf8_lossy(&all)));
    let head = String::from_utf8(all[..end].to_vec()).unwrap();
    let mut body = all[end..].to_vec();
    if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        let mut chunks = Chunks::default();
        let mut plain = Vec::new();
        chunks.feed(&body, &mut plain);
        assert!(chunks.ended, "the body is incomplete: {head}");
        body = plain;
    }
    Answer { status: status(&head), head, body }
}

/// Sends a `POST` of JSON that must succeed. Returns the JSON of the response.
pub async fn post(address: SocketAddr, target: &str, body: &str) -> serde_json::Value {
    let answer =
        request(address, "POST", target, "content-type: application/json\r\n", body.as_bytes())
            .await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    answer.json()
}

fn head_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4)
}

fn status(head: &str) -> u16 {
    head.split(' ').nth(1).unwrap().parse().unwrap()
}

/// The protocol of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Sse,
    Ndjson,
    WebSocket,
}

/// An open stream.
pub struct Stream {
    socket: TcpStream,
    pub head: String,
    pub status: u16,
    /// Bytes of the body without chunk framing that were not returned yet.
    pub plain: Vec<u8>,
    chunks: Chunks,
    protocol: Protocol,
    /// The number of bytes read from the socket after the head.
    pub read: usize,
    /// The number of bytes after the head at which the stream is cut.
    pub cut_after: usize,
}

impl Stream {
    /// Opens a stream and reads its head. The receive buffer is small, so that
    /// the gateway soon notices a slow reader.
    pub async fn open(
        address: SocketAddr,
        target: &str,
        protocol: Protocol,
        headers: &str,
    ) -> Stream {
        let wanted = match protocol {
            Protocol::Sse => "accept: text/event-stream\r\n",
            Protocol::Ndjson => "accept: application/x-ndjson\r\n",
            Protocol::WebSocket => {
                "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            }
        };
        let head = format!("GET {target} HTTP/1.1\r\nhost: gateway\r\n{wanted}{headers}\r\n");
        Stream::open_raw(address, &head, protocol).await
    }

    /// Opens a stream with the request head `head`.
    pub async fn open_raw(address: SocketAddr, head: &str, protocol: Protocol) -> Stream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut socket = socket.connect(address).await.unwrap();
        socket.write_all(head.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        let end = loop {
            if let Some(end) = head_end(&bytes) {
                break end;
            }
            let n = timeout(PATIENCE, socket.read_buf(&mut bytes)).await.expect("a head in time");
            assert!(n.unwrap() > 0, "the connection ended before the head");
        };
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let status = status(&head);
        let (plain, chunks) = (Vec::new(), Chunks::default());
        let mut stream = Stream {
            socket,
            head,
            status,
            plain,
            chunks,
            protocol,
            read: 0,
            cut_after: usize::MAX,
        };
        stream.push(&bytes[end..]);
        stream
    }

    fn push(&mut self, bytes: &[u8]) {
        self.read += bytes.len();
        if self.protocol != Protocol::WebSocket && self.head.contains("transfer-encoding: chunked")
        {
            self.chunks.feed(bytes, &mut self.plain);
        } else {
            self.plain.extend_from_slice(bytes);
        }
    }

    /// Reads once. Returns false at the end of the stream or at `cut_after`.
    pub async fn fill(&mut self) -> bool {
        let mut buffer = [0; 2048];
        let most = buffer.len().min(self.cut_after.saturating_sub(self.read));
        if most == 0 {
            return false;
        }
        let read = timeout(PATIENCE, self.socket.read(&mut buffer[..most])).await;
        let n = read.expect("bytes in time").unwrap_or(0);
        let bytes = buffer[..n].to_vec();
        self.push(&bytes);
        n > 0
    }

    /// Returns the next event or control message of an SSE stream as
    /// `(id, event, data)`, or the next line or text frame as `("", "", text)`.
    /// Returns `None` at the end.
    pub async fn next(&mut self) -> Option<(String, String, String)> {
        loop {
            let found = match self.protocol {
                Protocol::Sse => next_block(&mut self.plain),
                Protocol::Ndjson => next_line(&mut self.plain),
                Protocol::WebSocket => next_text(&mut self.plain),
            };
            if found.is_some() {
                return found;
            }
            if !self.fill().await {
                return None;
            }
        }
    }

    /// Returns whether the last chunk of a chunked body was received.
    pub fn ended(&self) -> bool {
        self.chunks.ended
    }

    /// Writes bytes to the socket.
    pub async fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).await.unwrap();
    }

    /// Sends a text message on a WebSocket.
    pub async fn send_text(&mut self, text: &str) {
        let frame = super::frame::masked(0x81, text.as_bytes());
        self.send(&frame).await;
    }
}

fn next_block(plain: &mut Vec<u8>) -> Option<(String, String, String)> {
    let end = plain.windows(2).position(|w| w == b"\n\n")? + 2;
    let block = String::from_utf8(plain.drain(..end).collect()).unwrap();
    let field = |name: &str| {
        let prefix = format!("{name}: ");
        let lines: Vec<&str> =
            block.lines().filter_map(|l| l.strip_prefix(prefix.as_str())).collect();
        lines.join("\n")
    };
    Some((field("id"), field("event"), field("data")))
}

fn next_line(plain: &mut Vec<u8>) -> Option<(String, String, String)> {
    let end = plain.iter().position(|&b| b == b'\n')? + 1;
    let line = String::from_utf8(plain.drain(..end).collect()).unwrap();
    Some((String::new(), String::new(), line.trim_end().to_owned()))
}

/// Returns the next text or close frame. Pings are skipped.
fn next_text(plain: &mut Vec<u8>) -> Option<(String, String, String)> {
    loop {
        let (opcode, payload) = Frames::next(plain)?;
        match opcode {
            0x81 => {
                return Some((String::new(), String::new(), String::from_utf8(payload).unwrap()));
            }
            0x88 => {
                let code = payload.get(..2).map_or(1005, |c| u16::from_be_bytes([c[0], c[1]]));
                return Some((String::new(), "close".to_owned(), code.to_string()));
            }
            _ => {}
        }
    }
}
